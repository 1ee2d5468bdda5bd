//! DNS-SD on the local networks: look for cache servers, and announce one.
//!
//! Decides: which of a service's addresses to use; that loopback and point-to-point links are no local networks
//! (as in Avahi). Never does: anything unless asked to; believe that what answers is a cache server of ours (whoever is
//! on the network can say so: policy decides, and content is checked).
//! Costs, while in use: a thread of `mdns-sd`, one of ours for each kind of service; queries that go out less and
//! less often, down to one an hour; a look at the addresses twice a minute.
//! Specification: RFC 6762, RFC 6763. Tests: below; over real multicast in `tests/facts.rs`.

use crate::facts::addresses;
use crate::host::words;
use dovetail_core::failure::{Failure, FailureKind};
use dovetail_core::host::Subnet;
use mdns_sd::{IfKind, IfPredicate, ResolvedService, ServiceDaemon, ServiceEvent, ServiceInfo};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// What our cache role announces.
pub const CACHE: &str = "_dovetail-cache._tcp.local.";

/// What Microsoft's Connected Cache announces.
pub const CONNECTED_CACHE: &str = "_microsoft_mcc._tcp.local.";

/// For networks that come and go.
const ADDRESSES_CHECKED_S: u32 = 30;

/// How long a farewell may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// Cache servers kept; who floods the network cannot fill our memory.
const FOUND_MAX: usize = 32;

/// Looks for cache servers until it is dropped.
pub struct Browser {
    daemon: ServiceDaemon,
    found: Arc<Mutex<Found>>,
}

struct Found {
    /// By the name of the service.
    caches: BTreeMap<String, SocketAddr>,
    /// `None`: over.
    tell: Option<Box<dyn FnMut(Vec<String>) + Send>>,
}

impl Browser {
    /// `tell` hears of all that are there, as `host:port`, whenever that has changed.
    ///
    /// # Errors
    ///
    /// No socket for multicast, or no thread.
    pub fn start(tell: impl FnMut(Vec<String>) + Send + 'static) -> Result<Self, Failure> {
        Self::start_for(&[CACHE, CONNECTED_CACHE], tell)
    }

    fn start_for(
        services: &[&str],
        tell: impl FnMut(Vec<String>) + Send + 'static,
    ) -> Result<Self, Failure> {
        let failed =
            |why: String| Failure::new(FailureKind::Listen, "cannot look for cache servers", why);
        let browser = Self {
            daemon: daemon().map_err(|e| failed(e.to_string()))?,
            found: Arc::new(Mutex::new(Found {
                caches: BTreeMap::new(),
                tell: Some(Box::new(tell)),
            })),
        };
        for service in services {
            let events = browser.daemon.browse(service);
            let events = events.map_err(|e| failed(e.to_string()))?;
            let found = Arc::clone(&browser.found);
            let thread = thread::Builder::new().name("dovetail-dnssd".into());
            let listen = move || {
                // Ends with the daemon.
                while let Ok(event) = events.recv() {
                    lock(&found).on_event(event);
                }
            };
            thread.spawn(listen).map_err(|e| failed(words(&e)))?;
        }
        Ok(browser)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        lock(&self.found).tell = None;
        _ = self.daemon.shutdown();
    }
}

impl fmt::Debug for Browser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Browser").finish_non_exhaustive()
    }
}

fn lock(found: &Mutex<Found>) -> MutexGuard<'_, Found> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Found {
    fn on_event(&mut self, event: ServiceEvent) {
        let before = self.caches.clone();
        match event {
            ServiceEvent::ServiceResolved(service) => {
                let own: Vec<_> = addresses().into_iter().map(|(_, subnet)| subnet).collect();
                self.on_resolved(&service, &own);
            }
            ServiceEvent::ServiceRemoved(_, name) => {
                self.caches.remove(&name);
            }
            _ => {}
        }
        if self.caches != before
            && let Some(tell) = &mut self.tell
        {
            tell(self.caches.values().map(SocketAddr::to_string).collect());
        }
    }

    fn on_resolved(&mut self, service: &ResolvedService, own: &[Subnet]) {
        let name = service.get_fullname();
        let addresses = service.get_addresses().iter().map(|ip| ip.to_ip_addr());
        match best(addresses, own) {
            Some(addr) if self.caches.len() < FOUND_MAX || self.caches.contains_key(name) => {
                let at = SocketAddr::new(addr, service.get_port());
                self.caches.insert(name.to_owned(), at);
            }
            Some(_) => {}
            None => {
                self.caches.remove(name);
            }
        }
    }
}

/// A host has many addresses, also ones we cannot reach (its containers'): best is one in a network of ours.
fn best(addresses: impl Iterator<Item = IpAddr>, own: &[Subnet]) -> Option<IpAddr> {
    let is_near = |addr: IpAddr| own.iter().any(|subnet| subnet.contains(addr));
    addresses
        .filter(|addr| !is_link_local_v6(*addr))
        .min_by_key(|addr| (addr.is_loopback(), !is_near(*addr), addr.is_ipv6(), *addr))
}

/// They mean nothing without an interface, which `host:port` cannot name.
fn is_link_local_v6(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local())
}

/// A service announced until this is dropped.
pub struct Announcement {
    daemon: ServiceDaemon,
    name: String,
}

impl fmt::Debug for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Announcement").field(&self.name).finish()
    }
}

/// Announce `service` (such as [`CACHE`]) at `port` of all local addresses, as `instance`, or under a similar name
/// if that is taken. Keys and values of `txt` are together at most 254 bytes each.
///
/// # Errors
///
/// No socket for multicast, or a name or text that DNS-SD cannot carry.
pub fn announce(
    service: &str,
    instance: &str,
    port: u16,
    txt: &[(&str, &str)],
) -> Result<Announcement, Failure> {
    let failed = |e: mdns_sd::Error| {
        let what = format!("cannot announce {instance} by DNS-SD");
        Failure::new(FailureKind::Listen, what, e.to_string())
    };
    // Not the host's own name: that is Avahi's or systemd's to announce.
    let host = format!("dovetail-{}.local.", label(&host_name()));
    let info = ServiceInfo::new(service, instance, &host, "", port, txt).map_err(failed)?;
    let info = info.enable_addr_auto();
    let daemon = daemon().map_err(failed)?;
    let name = info.get_fullname().to_owned();
    daemon.register(info).map_err(failed)?;
    Ok(Announcement { daemon, name })
}

impl Drop for Announcement {
    /// Says that it is gone, so that nobody waits for it.
    fn drop(&mut self) {
        if let Ok(done) = self.daemon.unregister(&self.name) {
            _ = done.recv_timeout(FAREWELL);
        }
        if let Ok(done) = self.daemon.shutdown() {
            _ = done.recv_timeout(FAREWELL);
        }
    }
}

fn daemon() -> Result<ServiceDaemon, mdns_sd::Error> {
    let daemon = ServiceDaemon::new()?;
    daemon.set_ip_check_interval(ADDRESSES_CHECKED_S)?;
    let no_network = IfPredicate::new(|interface| interface.is_p2p() || interface.is_loopback());
    daemon.disable_interface(IfKind::Predicate(no_network))?;
    Ok(daemon)
}

/// The name this host gives itself, as an instance's default name.
pub fn host_name() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy();
    let first = name.split('.').next().unwrap_or_default();
    if first.is_empty() {
        "host".into()
    } else {
        first.to_owned()
    }
}

/// Letters, digits and dashes, at most 40 of them.
fn label(name: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    let plain = |letter| if is_plain(letter) { letter } else { '-' };
    name.chars().map(plain).take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_address_is_in_a_network_of_ours() {
        let own: Vec<Subnet> = ["127.0.0.1/8", "10.1.0.7/16", "fd00:1::7/64", "fe80::7/64"]
            .map(|subnet| subnet.parse().unwrap())
            .into();
        for (addresses, expected) in [
            ("", None),
            ("fe80::1", None),
            ("10.1.0.9", Some("10.1.0.9")),
            ("172.17.0.1 10.1.0.9", Some("10.1.0.9")),
            ("172.17.0.1 fd00:1::9", Some("fd00:1::9")),
            ("fd00:1::9 10.1.0.9", Some("10.1.0.9")),
            ("192.0.2.2 192.0.2.1 2001:db8::1", Some("192.0.2.1")),
            ("127.0.0.1 192.0.2.1", Some("192.0.2.1")),
            ("127.0.0.1 fe80::1", Some("127.0.0.1")),
        ] {
            let parsed = addresses
                .split_ascii_whitespace()
                .map(|addr| addr.parse().unwrap());
            let expected = expected.map(|addr: &str| addr.parse::<IpAddr>().unwrap());
            assert_eq!(best(parsed, &own), expected, "{addresses}");
        }
    }

    fn resolved(name: &str, addr: &str) -> ServiceEvent {
        let info = ServiceInfo::new(CACHE, name, "h.local.", addr, 80, None).unwrap();
        ServiceEvent::ServiceResolved(Box::new(info.as_resolved_service()))
    }

    #[test]
    fn only_changes_are_told_and_not_too_many() {
        let told: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
        let log = Arc::clone(&told);
        let mut found = Found {
            caches: BTreeMap::new(),
            tell: Some(Box::new(move |caches| log.lock().unwrap().push(caches))),
        };
        found.on_event(resolved("a", "192.0.2.1"));
        found.on_event(resolved("a", "192.0.2.1"));
        found.on_event(resolved("b", "2001:db8::1"));
        let gone = format!("a.{CACHE}");
        found.on_event(ServiceEvent::ServiceRemoved(CACHE.into(), gone.clone()));
        found.on_event(ServiceEvent::ServiceRemoved(CACHE.into(), gone));
        let expected = [
            &["192.0.2.1:80"][..],
            &["192.0.2.1:80", "[2001:db8::1]:80"],
            &["[2001:db8::1]:80"],
        ];
        assert_eq!(*told.lock().unwrap(), expected);
        for n in 0..1000 {
            found.on_event(resolved(&format!("flood-{n}"), "192.0.2.1"));
        }
        assert_eq!(found.caches.len(), FOUND_MAX);
    }

    #[test]
    fn what_cannot_be_announced_is_an_error() {
        let refused = announce("no-service", "x", 80, &[]).unwrap_err();
        assert_eq!(refused.what, "cannot announce x by DNS-SD");
        let long = "v".repeat(300);
        assert!(announce(CACHE, "x", 80, &[("k", &long)]).is_err());
    }

    #[test]
    fn labels() {
        assert_eq!(label("Büro_PC 7"), "B-ro-PC-7");
        assert!(!host_name().is_empty());
    }
}
