//! A site's NAT: its hosts have private addresses, and what leaves the site carries its outside address.
//!
//! Decides which outside port a datagram leaves with and which datagrams are let in, in the terms of RFC 4787.
//! A datagram is translated when it passes the router, so two that cross on the way meet the holes that
//! stand at that moment. Each remote keeps its own hole open, as in Linux's connection tracking: talking to one does not
//! keep another's. IPv6 goes past it as it is; there the router is a firewall that lets in what answers.
//! Never does hairpinning, and never lets a stream in.
//! Spec: RFC 4787 §4 (mapping), §5 (filtering), §4.3 REQ-5 (timeouts; here refreshed by outbound traffic alone).
//! Tests: `core/tests/sim_nat.rs`.

use super::event::What;
use super::link::Flying;
use super::world::{SiteId, World};
use crate::rng::Rng;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::boxed::Box;
use std::collections::BTreeMap;

/// When two datagrams of one inside socket leave with the same outside port (RFC 4787 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mapping {
    /// Always.
    EndpointIndependent,
    /// If they go to the same address and port.
    AddressAndPortDependent,
}

/// Which datagrams are let in to a mapped port (RFC 4787 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filtering {
    /// All.
    EndpointIndependent,
    /// Those from an address that was sent to through it.
    AddressDependent,
    /// Those from an address and port that was sent to through it.
    AddressAndPortDependent,
}

/// How a site's NAT behaves.
#[derive(Clone, Copy, Debug)]
pub struct NatSpec {
    pub mapping: Mapping,
    pub filtering: Filtering,
    /// The outside port is the inside one while that is free; otherwise all are taken by lot.
    pub keeps_ports: bool,
    /// A hole closes when nothing was sent through it for so long.
    pub udp_timeout: Duration,
}

impl NatSpec {
    /// RFC 3489's *full cone*: once a port is mapped, anybody may send to it.
    pub const FULL_CONE: Self = Self::cone(Filtering::EndpointIndependent);
    /// RFC 3489's *restricted cone*: whose address was sent to may answer, from any port.
    pub const ADDRESS_RESTRICTED: Self = Self::cone(Filtering::AddressDependent);
    /// RFC 3489's *port restricted cone*: who was sent to may answer.
    pub const PORT_RESTRICTED: Self = Self::cone(Filtering::AddressAndPortDependent);
    /// RFC 3489's *symmetric*: another port towards every remote, and only that remote may answer.
    pub const SYMMETRIC: Self = Self {
        mapping: Mapping::AddressAndPortDependent,
        keeps_ports: false,
        ..Self::PORT_RESTRICTED
    };

    const fn cone(filtering: Filtering) -> Self {
        Self {
            mapping: Mapping::EndpointIndependent,
            filtering,
            keeps_ports: true,
            udp_timeout: Duration::from_secs(30),
        }
    }
}

/// Who is at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    Host(u32),
    /// The outside of this site's NAT.
    Nat(SiteId),
}

pub(super) struct Nat {
    outside: IpAddr,
    spec: NatSpec,
    rng: Rng,
    by_inside: BTreeMap<Inside, u16>,
    by_port: BTreeMap<u16, Mapped>,
    /// When each inside socket of IPv6 last sent to each remote.
    passed_ns: BTreeMap<(SocketAddr, SocketAddr), u64>,
    next_stream_port: u16,
}

/// What a mapping belongs to: an inside socket, and under [`Mapping::AddressAndPortDependent`] one remote.
type Inside = (SocketAddr, Option<SocketAddr>);

struct Mapped {
    inside: Inside,
    /// When each remote was last sent to.
    sent_ns: BTreeMap<SocketAddr, u64>,
}

const FIRST_PORT: u16 = 1024;

impl Nat {
    fn new(outside: IpAddr, spec: NatSpec, rng: Rng) -> Self {
        Self {
            outside,
            spec,
            rng,
            by_inside: BTreeMap::new(),
            by_port: BTreeMap::new(),
            passed_ns: BTreeMap::new(),
            next_stream_port: FIRST_PORT,
        }
    }

    /// A datagram leaves: what it carries as its source; `None` if every port is taken.
    fn outward(&mut self, now_ns: u64, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        if from.is_ipv6() {
            self.passed_ns.insert((from, to), now_ns);
            return Some(from);
        }
        let towards = (self.spec.mapping == Mapping::AddressAndPortDependent).then_some(to);
        let inside = (from, towards);
        let known = self.by_inside.get(&inside).copied();
        let standing = known.filter(|port| self.is_standing(now_ns, *port));
        let port = match standing {
            Some(port) => port,
            None => self.map(now_ns, inside)?,
        };
        self.by_port.get_mut(&port)?.sent_ns.insert(to, now_ns);
        Some(SocketAddr::new(self.outside, port))
    }

    /// A datagram comes to this outside address: which inside socket it is for, if it is let in.
    fn inward(&self, now_ns: u64, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        if to.is_ipv6() {
            let sent_ns = self.passed_ns.get(&(to, from))?;
            return is_open(now_ns, *sent_ns, self.spec.udp_timeout).then_some(to);
        }
        let mapped = self.by_port.get(&to.port())?;
        let mut remotes = mapped.open(now_ns, self.spec.udp_timeout);
        let is_let_in = match self.spec.filtering {
            Filtering::EndpointIndependent => remotes.next().is_some(),
            Filtering::AddressDependent => remotes.any(|remote| remote.ip() == from.ip()),
            Filtering::AddressAndPortDependent => remotes.any(|remote| *remote == from),
        };
        is_let_in.then_some(mapped.inside.0)
    }

    /// The source of a stream that leaves. Nobody looks at a stream's source port, so they are given in turn.
    fn stream_source(&mut self, inside: SocketAddr) -> SocketAddr {
        if inside.is_ipv6() {
            return inside;
        }
        let port = self.next_stream_port;
        self.next_stream_port = port.checked_add(1).unwrap_or(FIRST_PORT);
        SocketAddr::new(self.outside, port)
    }

    fn map(&mut self, now_ns: u64, inside: Inside) -> Option<u16> {
        let timeout = self.spec.udp_timeout;
        self.by_port.retain(|_, mapped| {
            mapped
                .sent_ns
                .retain(|_, sent_ns| is_open(now_ns, *sent_ns, timeout));
            !mapped.sent_ns.is_empty()
        });
        let by_port = &self.by_port;
        self.by_inside.retain(|_, port| by_port.contains_key(port));
        let port = self.free_port(inside.0.port())?;
        let sent_ns = BTreeMap::new();
        self.by_port.insert(port, Mapped { inside, sent_ns });
        self.by_inside.insert(inside, port);
        Some(port)
    }

    fn free_port(&mut self, wanted: u16) -> Option<u16> {
        if self.spec.keeps_ports && !self.by_port.contains_key(&wanted) {
            return Some(wanted);
        }
        let ports = u64::from(u16::MAX - FIRST_PORT) + 1;
        let lot = FIRST_PORT + self.rng.below(ports) as u16;
        let mut all = (lot..=u16::MAX).chain(FIRST_PORT..lot);
        all.find(|port| !self.by_port.contains_key(port))
    }

    fn is_standing(&self, now_ns: u64, port: u16) -> bool {
        let mapped = self.by_port.get(&port);
        mapped.is_some_and(|m| m.open(now_ns, self.spec.udp_timeout).next().is_some())
    }
}

impl Mapped {
    fn open(&self, now_ns: u64, timeout: Duration) -> impl Iterator<Item = &SocketAddr> {
        let sent = self.sent_ns.iter();
        let open = sent.filter(move |(_, sent_ns)| is_open(now_ns, **sent_ns, timeout));
        open.map(|(remote, _)| remote)
    }
}

fn is_open(now_ns: u64, sent_ns: u64, timeout: Duration) -> bool {
    now_ns - sent_ns < super::clock::ns(timeout)
}

impl World {
    /// Put a NAT before a site whose hosts are still to come. They may have addresses that hosts elsewhere
    /// have too; `outside` is the one address by which all others know them.
    ///
    /// # Panics
    /// If the address is taken, the site has a NAT, or hosts.
    pub fn nat(&mut self, site: SiteId, outside: IpAddr, spec: NatSpec) {
        assert!(
            self.hosts.iter().all(|host| host.site != Some(site)),
            "the NAT {outside} comes before the hosts behind it"
        );
        self.occupy(None, outside, Reach::Nat(site));
        let rng = Rng::new(self.seed_for(&std::format!("the NAT {outside}")));
        let before = self.nats.insert(site, Nat::new(outside, spec, rng));
        assert!(before.is_none(), "one site has two NATs");
    }

    /// Somebody has this address, among the hosts of a site with a NAT or in the world outside.
    pub(super) fn occupy(&mut self, site: Option<SiteId>, addr: IpAddr, who: Reach) {
        let realm = self.realm(site);
        let before = self.by_addr.insert((realm, addr), who);
        assert!(before.is_none(), "two hosts have the address {addr}");
    }

    /// A host's address of the other family: that of IPv6 is known outside, too.
    pub(super) fn occupy_other(&mut self, site: Option<SiteId>, addr: IpAddr, host: u32) {
        self.occupy(site, addr, Reach::Host(host));
        if let Some(site) = self.realm(site).filter(|_| addr.is_ipv6()) {
            self.occupy(None, addr, Reach::Nat(site));
        }
    }

    /// Who this host reaches by an address: first those behind the same NAT.
    pub(super) fn reach(&self, from: u32, addr: IpAddr) -> Option<Reach> {
        let realm = self.realm(self.hosts[from as usize].site);
        let inside = self.by_addr.get(&(realm, addr));
        inside.or_else(|| self.by_addr.get(&(None, addr))).copied()
    }

    /// Where addresses are told apart: behind one NAT, or outside.
    fn realm(&self, site: Option<SiteId>) -> Option<SiteId> {
        site.filter(|site| self.nats.contains_key(site))
    }

    /// A datagram goes onto its sender's site's line; `false` if the NAT drops it.
    pub(super) fn translate_outward(&mut self, flying: &mut Flying) -> bool {
        let site = self.hosts[flying.from_host as usize].site;
        let Some(nat) = site.and_then(|site| self.nats.get_mut(&site)) else {
            return true;
        };
        let source = nat.outward(self.now_ns, flying.from, flying.to);
        flying.from = source.unwrap_or(flying.from);
        source.is_some()
    }

    /// A datagram is at the outside of a NAT, over so many links.
    pub(super) fn translate_inward(&mut self, site: SiteId, hop: u8, mut flying: Box<Flying>) {
        let owner = flying.from_host;
        if self.hosts[owner as usize].site == Some(site) {
            return;
        }
        let nat = self.nats.get(&site);
        let inside = nat.and_then(|n| n.inward(self.now_ns, flying.from, flying.to));
        let Some(inside) = inside else { return };
        let Some(&Reach::Host(host)) = self.by_addr.get(&(Some(site), inside.ip())) else {
            return;
        };
        flying.to = inside;
        flying.towards = Reach::Host(host);
        let extra_ns = super::clock::ns(self.extra_delay(owner, host));
        self.schedule(
            owner,
            self.now_ns + extra_ns,
            What::Datagram { hop, flying },
        );
    }

    /// What a stream's other end sees as its source.
    pub(super) fn stream_source(&mut self, from: SocketAddr, host: u32, there: u32) -> SocketAddr {
        let site = self.hosts[host as usize].site;
        let leaves = site.filter(|site| self.hosts[there as usize].site != Some(*site));
        let nat = leaves.and_then(|site| self.nats.get_mut(&site));
        nat.map_or(from, |nat| nat.stream_source(from))
    }
}
