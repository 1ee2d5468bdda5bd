//! Tells when a fact has changed.
//!
//! Decides: when to look again. Never does: tell the same facts twice.
//!
//! Changes of links, addresses and routes are told by the kernel (`rtnetlink`) and cost nothing while there are
//! none. Everything else is looked at every [`LOOK`]; NetworkManager is asked every [`ASK_MANAGER`], and when
//! an interface has changed. On an idle laptop that is two wake-ups a minute, of a millisecond or two, and one run of
//! `nmcli`, some hundredths of a second, where NetworkManager runs.
//!
//! Tests: `tests/facts.rs`.

use super::links::Link;
use super::network_manager::{self, Answer};
use super::{Places, assemble, installed, links};
use crate::dnssd::Browser;
use crate::host::words;
use crate::port_map::Mapper;
use dovetail_core::host::HostFacts;
use dovetail_core::port_map::{Family, PortAnswer, PortRequest};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::OwnedFd;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How often to look at what nobody tells.
const LOOK: Duration = Duration::from_secs(30);

/// How often to ask NetworkManager while no interface changes.
const ASK_MANAGER: Duration = Duration::from_secs(60);

/// Changes of the network come in bursts: link, address, route.
const SETTLE: Duration = Duration::from_millis(300);

/// Looks after each change of the network until it goes away.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    browser: Mutex<Option<Browser>>,
    mapper: Mutex<Option<Mapper>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something in `state` has changed.
    bell: Option<OwnedFd>,
}

#[derive(Debug, Default)]
struct State {
    is_over: bool,
    found_caches: Vec<String>,
    port_answers: BTreeMap<Family, PortAnswer>,
    /// Where the shelf has moved to.
    shelf: Option<PathBuf>,
}

impl Watch {
    /// Tells the facts once before it returns, then whenever they have changed. Where no thread can be had, the
    /// first facts stand.
    pub fn start(mut places: Places, mut tell: impl FnMut(HostFacts) + Send + 'static) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok(),
        });
        // Opened before the first look, so that no change falls between.
        let news = Network::open().ok();
        let mut seen = Seen::look(&places);
        let first = seen.facts(&places, &shared);
        tell(first.clone());
        let watched = Arc::clone(&shared);
        let thread = thread::Builder::new().name("dovetail-facts".into());
        let watching = thread.spawn(move || {
            let mut known = first;
            while watched.wait(news.as_ref(), LOOK) {
                places.shelf = watched.lock().shelf.take().unwrap_or(places.shelf);
                seen.refresh(&places);
                let facts = seen.facts(&places, &watched);
                if facts != known {
                    known = facts.clone();
                    tell(facts);
                }
            }
        });
        drop(watching);
        Self {
            shared,
            browser: Mutex::default(),
            mapper: Mutex::default(),
        }
    }

    /// The disk that counts is the one with this folder from now on.
    pub fn move_shelf(&self, folder: PathBuf) {
        self.shared.change(|state| state.shelf = Some(folder));
    }

    /// Look for cache servers on the local networks by DNS-SD, or stop looking and forget what was found. Not done
    /// unless asked for. Where multicast cannot be had, nothing is found.
    pub fn browse(&self, on: bool) {
        let mut browser = self.browser.lock().unwrap_or_else(PoisonError::into_inner);
        if on == browser.is_some() {
            return;
        }
        *browser = None;
        if on {
            let shared = Arc::clone(&self.shared);
            *browser =
                Browser::start(move |found| shared.change(|state| state.found_caches = found)).ok();
        } else {
            self.shared.change(|state| state.found_caches.clear());
        }
    }

    /// Ask the router for a port; its answer is a fact.
    pub fn map_port(&self, request: PortRequest) {
        let mut mapper = self.mapper.lock().unwrap_or_else(PoisonError::into_inner);
        if mapper.is_none() {
            let shared = Arc::clone(&self.shared);
            let tell = move |family, answer| {
                shared.change(|state| _ = state.port_answers.insert(family, answer));
            };
            match Mapper::start(tell) {
                Ok(started) => *mapper = Some(started),
                Err(e) => {
                    let answer = PortAnswer {
                        round: request.round,
                        result: Err(words(&e)),
                    };
                    let family = Family::of(&request.gateway);
                    self.shared
                        .change(|state| _ = state.port_answers.insert(family, answer));
                }
            }
        }
        if let Some(mapper) = &*mapper {
            mapper.map(request);
        }
    }

    /// Give the port back.
    pub fn unmap_port(&self, family: Family) {
        let mapper = self.mapper.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mapper) = &*mapper {
            mapper.unmap(family);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.change(|state| state.is_over = true);
    }
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        if let Some(bell) = &self.bell {
            // Full means that it rings already.
            _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
        }
    }

    /// Waits for a change or for `limit`; false when it is over.
    fn wait(&self, news: Option<&Network>, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        self.sleep(news, until);
        if news.is_some_and(Network::drain) {
            // Once more, for the rest of the burst; whatever comes later is news again.
            self.sleep(None, Instant::now() + SETTLE);
            news.map(Network::drain);
        }
        !self.lock().is_over
    }

    fn sleep(&self, news: Option<&Network>, until: Instant) {
        let mut sources = Vec::new();
        sources.extend(
            self.bell
                .as_ref()
                .map(|bell| PollFd::new(bell, PollFlags::IN)),
        );
        sources.extend(news.map(|news| PollFd::new(&news.0, PollFlags::IN)));
        let left = until.saturating_duration_since(Instant::now());
        // Interrupted is as good as early.
        _ = poll(&mut sources, Timespec::try_from(left).ok().as_ref());
        if let Some(bell) = &self.bell {
            _ = rustix::io::read(bell, &mut [0; 8]);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What costs more to find out than to remember.
struct Seen {
    links: Vec<Link>,
    manager: Answer,
    manager_at: Instant,
    ram_bytes: Option<u64>,
}

impl Seen {
    fn look(places: &Places) -> Self {
        Self {
            links: links::links(places),
            manager: network_manager::ask(places),
            manager_at: Instant::now(),
            ram_bytes: installed(places),
        }
    }

    fn refresh(&mut self, places: &Places) {
        let links = links::links(places);
        if links != self.links || self.manager_at.elapsed() >= ASK_MANAGER {
            self.manager = network_manager::ask(places);
            self.manager_at = Instant::now();
        }
        self.links = links;
    }

    fn facts(&mut self, places: &Places, shared: &Shared) -> HostFacts {
        let mut facts = assemble(places, &self.links, &self.manager, self.ram_bytes);
        let state = shared.lock();
        facts.found_caches.clone_from(&state.found_caches);
        facts.port_answers = state.port_answers.values().cloned().collect();
        facts
    }
}

/// Where the kernel tells of changes. What it tells is not read: it is the sign to look.
struct Network(OwnedFd);

impl Network {
    fn open() -> io::Result<Self> {
        // RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE
        const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self(socket))
    }

    /// Forget all that has been told; was there anything? More than fits counts, too (`ENOBUFS`).
    fn drain(&self) -> bool {
        let mut any = false;
        loop {
            match recv(&self.0, &mut [0_u8; 4096], RecvFlags::empty()) {
                Ok((0, _)) | Err(rustix::io::Errno::AGAIN) => return any,
                Ok(_) | Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::INTR) => any = true,
                Err(_) => return any,
            }
        }
    }
}
