//! A device as the coordinator sees it, and how near two of them are to each other.
//!
//! Decides class, nearness and the address under which one device reaches another. The address is the
//! one the announce came from, with the announced port; a device's own word counts only where it cannot
//! send anybody to a stranger: private addresses, told to those behind the same external address, or to
//! everybody by a process on the coordinator's own machine.
//! Never decides how many are told (`select.rs`).
//!
//! Spec: the classes follow Windows' modes (same external address is LAN). Tested here, as a table.

use crate::announce::messages::{PeerId, Scope};
use crate::content::Digest;
use crate::stats::SourceClass;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) peer_id: PeerId,
    /// Where it was seen, with the port it announced.
    pub(super) seen: SocketAddr,
    /// Where its router lets peers of other networks in.
    outside: SocketAddr,
    /// Private addresses it gave itself.
    inside: Vec<IpAddr>,
    scope: Scope,
    group: Option<String>,
    pub(super) net: Net,
    /// A number that says nothing about the device, the same every time.
    pub(super) order: u64,
}

/// A subnet, as far as it can be guessed: IPv4 /24, IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Net {
    V4([u8; 3]),
    V6([u16; 4]),
}

/// How far away a device is; nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Distance {
    Machine,
    Subnet,
    /// Behind one external address, or both in private networks that meet.
    Site,
    Group,
    Internet,
}

/// One device in the eyes of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) addr: SocketAddr,
    pub(super) distance: Distance,
}

impl Device {
    /// `seen` is the address of its connection with the port it announced.
    pub(super) fn new(
        peer_id: PeerId,
        seen: SocketAddr,
        inside: &[IpAddr],
        scope: Scope,
        group: Option<String>,
    ) -> Self {
        let seen = SocketAddr::new(seen.ip().to_canonical(), seen.port());
        let [a, b, c, d, e, f, g, h, ..] = Digest::of(&peer_id).0;
        let inside = inside.iter().map(IpAddr::to_canonical);
        Self {
            peer_id,
            seen,
            outside: seen,
            inside: inside.filter(is_private).collect(),
            scope,
            group: group.filter(|group| !group.is_empty()),
            net: Net::of(seen.ip()),
            order: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        }
    }

    /// Its router leads a port of the address it was seen at to it.
    pub(super) fn mapped(mut self, mapped: Option<SocketAddr>) -> Self {
        let is_own = |at: &SocketAddr| at.ip().to_canonical() == self.seen.ip();
        if let Some(mapped) = mapped.filter(is_own)
            && self.seen.port() != 0
        {
            self.outside.set_port(mapped.port());
        }
        self
    }

    /// How this device is to reach `other`; `None` if it cannot or may not.
    pub(super) fn view(&self, other: &Self) -> Option<View> {
        if other.seen.port() == 0 || other.peer_id == self.peer_id {
            return None;
        }
        let (addr, distance) = self.address_of(other)?;
        let same_group = self.group.is_some() && self.group == other.group;
        let distance = match distance {
            Distance::Internet if same_group => Distance::Group,
            near_or_far => near_or_far,
        };
        let grouped = self.scope == Scope::Group || other.scope == Scope::Group;
        let allowed = distance.scope() <= self.scope.min(other.scope) && (!grouped || same_group);
        allowed.then_some(View { addr, distance })
    }

    fn address_of(&self, other: &Self) -> Option<(SocketAddr, Distance)> {
        let (mine, theirs) = (self.seen.ip(), other.seen.ip());
        if mine == theirs && (mine.is_loopback() || is_private(&mine)) {
            return Some((other.seen, Distance::Machine));
        }
        match (mine.is_loopback(), theirs.is_loopback()) {
            (true, true) => return Some((other.seen, Distance::Machine)),
            (true, false) => {
                let distance = match self.inside_near(theirs) {
                    Some(own) => distance(own, theirs),
                    None if is_private(&theirs) => Distance::Site,
                    None => Distance::Internet,
                };
                return Some((other.seen, distance));
            }
            (false, true) if is_private(&mine) => {
                let addr = other.inside_near(mine)?;
                let at = SocketAddr::new(addr, other.seen.port());
                return Some((at, distance(mine, addr)));
            }
            (false, true) => return None,
            (false, false) => {}
        }
        if mine == theirs {
            let inside = |addr| SocketAddr::new(addr, other.seen.port());
            let at = other.own_like(self).map_or(other.outside, inside);
            return Some((at, Distance::Site));
        }
        Some((other.outside, distance(mine, theirs)))
    }

    /// Its own address for somebody at `from`: in the same subnet if it has one there.
    fn inside_near(&self, from: IpAddr) -> Option<IpAddr> {
        let family = |addr: &&IpAddr| addr.is_ipv4() == from.is_ipv4();
        let subnet = |addr: &&IpAddr| Net::of(**addr) == Net::of(from);
        let near = self.inside.iter().find(subnet);
        near.or_else(|| self.inside.iter().find(family)).copied()
    }

    /// One of its own addresses in a network where the other has one too, else the first.
    fn own_like(&self, other: &Self) -> Option<IpAddr> {
        let shared = |addr: &&IpAddr| {
            let net = Net::of(**addr);
            other.inside.iter().any(|theirs| Net::of(*theirs) == net)
        };
        let found = self.inside.iter().find(shared);
        found.or_else(|| self.inside.first()).copied()
    }
}

impl Net {
    pub(super) const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

impl Distance {
    pub(super) const fn class(self) -> SourceClass {
        match self {
            Self::Machine | Self::Subnet | Self::Site => SourceClass::Lan,
            Self::Group => SourceClass::Group,
            Self::Internet => SourceClass::Internet,
        }
    }

    const fn scope(self) -> Scope {
        match self {
            Self::Machine | Self::Subnet | Self::Site => Scope::Lan,
            Self::Group => Scope::Group,
            Self::Internet => Scope::Internet,
        }
    }
}

fn distance(a: IpAddr, b: IpAddr) -> Distance {
    if Net::of(a) == Net::of(b) && (a.is_ipv6() || is_private(&a)) {
        Distance::Subnet
    } else if is_private(&a) && is_private(&b) {
        Distance::Site
    } else {
        Distance::Internet
    }
}

/// RFC 1918, RFC 4193, and the link-local range of IPv4 (IPv6 link-local addresses mean nothing without a zone).
fn is_private(addr: &IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => is_unique_local(*v6),
    }
}

const fn is_unique_local(addr: Ipv6Addr) -> bool {
    addr.segments()[0] & 0xfe00 == 0xfc00
}

#[cfg(test)]
mod tests {
    use super::*;
    use Distance::{Group, Internet, Machine, Site, Subnet};

    struct Who {
        seen: &'static str,
        inside: &'static [&'static str],
        scope: Scope,
        group: &'static str,
    }

    fn at(seen: &'static str) -> Who {
        Who {
            seen,
            inside: &[],
            scope: Scope::Internet,
            group: "",
        }
    }

    impl Who {
        fn inside(mut self, inside: &'static [&'static str]) -> Self {
            self.inside = inside;
            self
        }

        fn in_group(mut self, scope: Scope, group: &'static str) -> Self {
            self.scope = scope;
            self.group = group;
            self
        }

        fn device(&self, n: u8) -> Device {
            let inside: Vec<IpAddr> = self.inside.iter().map(|a| a.parse().unwrap()).collect();
            let seen = SocketAddr::new(self.seen.parse().unwrap(), 7680);
            let group = Some(self.group.into());
            Device::new([n; 20], seen, &inside, self.scope, group)
        }
    }

    fn sees(asker: &Who, other: &Who) -> Option<(String, Distance)> {
        use alloc::string::ToString as _;
        let view = asker.device(1).view(&other.device(2))?;
        assert_eq!(view.addr.port(), 7680);
        Some((view.addr.ip().to_string(), view.distance))
    }

    #[test]
    fn where_and_how_near() {
        let home = at("198.51.100.7").inside(&["192.168.1.20", "10.8.0.2"]);
        let table = [
            (
                at("127.0.0.1"),
                at("127.0.0.1"),
                Some(("127.0.0.1", Machine)),
            ),
            (at("::1"), at("127.0.0.1"), Some(("127.0.0.1", Machine))),
            (at("10.1.2.3"), at("10.1.2.3"), Some(("10.1.2.3", Machine))),
            (at("10.1.2.3"), at("10.1.2.99"), Some(("10.1.2.99", Subnet))),
            (
                at("::ffff:10.1.2.3"),
                at("10.1.2.99"),
                Some(("10.1.2.99", Subnet)),
            ),
            (at("10.1.2.3"), at("10.200.0.1"), Some(("10.200.0.1", Site))),
            (
                at("10.1.2.3"),
                at("192.168.0.1"),
                Some(("192.168.0.1", Site)),
            ),
            (at("fd00::1"), at("fd00::2"), Some(("fd00::2", Subnet))),
            (
                at("2001:db8::1"),
                at("2001:db8::2"),
                Some(("2001:db8::2", Subnet)),
            ),
            (
                at("2001:db8::1"),
                at("2001:db8:1::2"),
                Some(("2001:db8:1::2", Internet)),
            ),
            // A public /24 is a street, not an office.
            (
                at("198.51.100.7"),
                at("198.51.100.8"),
                Some(("198.51.100.8", Internet)),
            ),
            // Behind one external address: the private address in a shared network, if told.
            (
                at("198.51.100.7"),
                at("198.51.100.7"),
                Some(("198.51.100.7", Site)),
            ),
            (
                at("198.51.100.7").inside(&["10.8.0.9"]),
                home,
                Some(("10.8.0.2", Site)),
            ),
            // On the coordinator's own machine.
            (at("10.1.2.3"), at("127.0.0.1"), None),
            (
                at("10.1.2.3"),
                at("127.0.0.1").inside(&["192.168.0.1", "10.1.2.1"]),
                Some(("10.1.2.1", Subnet)),
            ),
            (
                at("203.0.113.1"),
                at("127.0.0.1").inside(&["10.1.2.1"]),
                None,
            ),
            (
                at("127.0.0.1").inside(&["10.1.2.1"]),
                at("10.1.2.3"),
                Some(("10.1.2.3", Subnet)),
            ),
            (at("127.0.0.1"), at("10.1.2.3"), Some(("10.1.2.3", Site))),
            (
                at("127.0.0.1"),
                at("203.0.113.1"),
                Some(("203.0.113.1", Internet)),
            ),
        ];
        for (n, (asker, other, expected)) in table.iter().enumerate() {
            let expected = expected.map(|(addr, distance)| (addr.into(), distance));
            assert_eq!(sees(asker, other), expected, "row {n}");
        }
    }

    #[test]
    fn a_device_cannot_send_its_peers_to_a_stranger() {
        let liar = at("198.51.100.7").inside(&["203.0.113.80", "127.0.0.1", "::1"]);
        assert_eq!(
            sees(&at("198.51.100.7"), &liar),
            Some(("198.51.100.7".into(), Site))
        );
        let local_liar = at("127.0.0.1").inside(&["203.0.113.80"]);
        assert_eq!(sees(&at("10.0.0.1"), &local_liar), None);
    }

    #[test]
    fn those_elsewhere_are_told_the_port_of_the_router_if_it_is_its_own() {
        use alloc::string::ToString as _;
        let device = |n, seen: &str, port, inside: &[&str]| {
            let inside: Vec<IpAddr> = inside.iter().map(|a| a.parse().unwrap()).collect();
            let seen = SocketAddr::new(seen.parse().unwrap(), port);
            Device::new([n; 20], seen, &inside, Scope::Internet, None)
        };
        let view =
            |asker: Device, other: Device| asker.view(&other).map(|view| view.addr.to_string());
        let far = || device(1, "203.0.113.1", 7680, &[]);
        let near = |inside: &'static [&str]| device(2, "198.51.100.7", 7680, inside);
        let home = |port, inside| {
            let mapped = Some("198.51.100.7:4000".parse().unwrap());
            device(3, "198.51.100.7", port, inside).mapped(mapped)
        };
        let some = |text: &str| Some(text.into());
        assert_eq!(view(far(), home(7680, &[])), some("198.51.100.7:4000"));
        assert_eq!(
            view(near(&["10.0.0.9"]), home(7680, &["10.0.0.3"])),
            some("10.0.0.3:7680")
        );
        assert_eq!(view(near(&[]), home(7680, &[])), some("198.51.100.7:4000"));
        // Whoever is not to be dialled has no door, and a stranger's is not ours.
        assert_eq!(view(far(), home(0, &[])), None);
        let stranger = Some("192.0.2.80:80".parse().unwrap());
        let liar = device(3, "198.51.100.7", 7680, &[]).mapped(stranger);
        assert_eq!(view(far(), liar), some("198.51.100.7:7680"));
    }

    #[test]
    fn the_nearer_wish_counts_and_groups_stay_among_themselves() {
        let far = |scope, group| at("203.0.113.1").in_group(scope, group);
        let near = |scope, group| at("10.0.0.1").in_group(scope, group);
        let me = |scope, group| at("10.0.0.2").in_group(scope, group);
        let (lan, group, internet) = (Scope::Lan, Scope::Group, Scope::Internet);
        let distance = |a: Who, b: Who| sees(&a, &b).map(|(_, distance)| distance);
        assert_eq!(distance(me(lan, ""), near(internet, "")), Some(Subnet));
        assert_eq!(distance(me(lan, ""), far(internet, "")), None);
        assert_eq!(distance(me(internet, ""), far(lan, "")), None);
        assert_eq!(distance(me(group, "a"), far(group, "a")), Some(Group));
        assert_eq!(distance(me(group, "a"), far(group, "b")), None);
        assert_eq!(distance(me(group, "a"), near(lan, "a")), Some(Subnet));
        assert_eq!(distance(me(group, "a"), near(lan, "")), None);
        assert_eq!(distance(me(group, ""), near(group, "")), None);
        assert_eq!(distance(me(internet, "a"), far(internet, "a")), Some(Group));
    }

    #[test]
    fn nobody_is_sent_to_himself_or_to_a_closed_door() {
        let me = at("10.0.0.1").device(1);
        assert_eq!(me.view(&at("10.0.0.9").device(1)), None);
        let shut = Device::new(
            [2; 20],
            "10.0.0.2:0".parse().unwrap(),
            &[],
            Scope::Lan,
            None,
        );
        assert_eq!(me.view(&shut), None);
    }
}
