//! Which router is to be asked for a port, if any.
//!
//! Over IPv4 a private address has a NAT before it; over IPv6 a public one may have a firewall. Only peers of other
//! networks need either. What leads into a VPN is left alone: its far end is not ours to open.

use super::vpn::is_vpn;
use super::{Code, Reason, UploadLimits};
use crate::host::{HostFacts, Interface, Subnet};
use crate::port_map::Family;
use crate::settings::{Mode, Settings};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whom to ask, and for which of our addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapTarget {
    pub interface: String,
    pub gateway: IpAddr,
    /// Over IPv4 the one that the router sees.
    pub addresses: Vec<IpAddr>,
}

/// For each family whom to ask, or why nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMapLimits {
    pub v4: Result<MapTarget, Reason>,
    pub v6: Result<MapTarget, Reason>,
    /// The IPv4 address this machine goes out with, whether anybody is asked or not.
    pub own_v4: Option<IpAddr>,
}

pub(super) fn port_map(
    settings: &Settings,
    facts: &HostFacts,
    mode: Mode,
    uploads: &UploadLimits,
) -> PortMapLimits {
    let own_v4 = way_out(settings, facts, Family::V4)
        .and_then(|(interface, gateway)| own(interface, gateway).next());
    let target = |family| match forbidden(settings, mode, uploads) {
        Some(reason) => Err(reason),
        None => target(settings, facts, family),
    };
    PortMapLimits {
        v4: target(Family::V4),
        v6: target(Family::V6),
        own_v4,
    }
}

fn forbidden(settings: &Settings, mode: Mode, uploads: &UploadLimits) -> Option<Reason> {
    if !matches!(mode, Mode::Group | Mode::Internet) {
        let text = format!("mode {} has no peers in other networks", mode.name());
        return Some(Reason::new(Code::Policy, "download_mode", text));
    }
    if !settings.port_mapping {
        let text = "the router is not to be asked";
        return Some(Reason::new(Code::Policy, "port_mapping", text));
    }
    uploads.stopped.clone()
}

fn target(settings: &Settings, facts: &HostFacts, family: Family) -> Result<MapTarget, Reason> {
    let why = |text| Err(Reason::new(Code::Policy, "port_mapping", text));
    let Some((interface, gateway)) = way_out(settings, facts, family) else {
        return why(match family {
            Family::V4 => "no router is known: there is no default route of IPv4",
            Family::V6 => "no router is known: there is no default route of IPv6",
        });
    };
    let addresses: Vec<IpAddr> = own(interface, gateway).collect();
    let Some(first) = addresses.first() else {
        return why(match family {
            Family::V4 => "no address of this machine is in its router's network",
            Family::V6 => "there is no public IPv6 address",
        });
    };
    if family == Family::V4 && !is_private_v4(*first) {
        return why("the address is public: there is no NAT before it");
    }
    Ok(MapTarget {
        interface: interface.name.clone(),
        gateway,
        addresses,
    })
}

/// The interface of the default route, and the router behind it.
fn way_out<'f>(
    settings: &Settings,
    facts: &'f HostFacts,
    family: Family,
) -> Option<(&'f Interface, IpAddr)> {
    let interfaces = facts.interfaces.iter().filter(|interface| {
        interface.default_route && !is_vpn(interface, facts, &settings.vpn_keywords)
    });
    let mut routed = interfaces.filter_map(|interface| {
        let mut gateways = interface.gateways.iter().copied();
        let gateway = gateways.find(|gateway| Family::of(gateway) == family)?;
        Some((interface, gateway))
    });
    routed.next()
}

/// Addresses of an interface that its router forwards for: over IPv4 that in its network.
fn own(interface: &Interface, gateway: IpAddr) -> impl Iterator<Item = IpAddr> {
    let nets = interface.subnets.iter();
    let is_own = move |net: &&Subnet| match gateway {
        IpAddr::V4(_) => net.contains(gateway),
        IpAddr::V6(_) => is_global_v6(net.addr),
    };
    nets.filter(is_own).map(|net| net.addr)
}

/// RFC 1918, and what carriers use before their own NAT (RFC 6598).
pub const fn is_private_v4(addr: IpAddr) -> bool {
    const SHARED: u32 = Ipv4Addr::new(100, 64, 0, 0).to_bits() >> 22;
    match addr {
        IpAddr::V4(v4) => v4.is_private() || v4.to_bits() >> 22 == SHARED,
        IpAddr::V6(_) => false,
    }
}

/// `2000::/3`
pub const fn is_global_v6(addr: IpAddr) -> bool {
    const GLOBAL: u128 = Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0).to_bits() >> 125;
    match addr {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.to_bits() >> 125 == GLOBAL,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Usage, limits};
    use super::*;
    use crate::host::LinkKind;
    use crate::time::Wall;
    use alloc::string::ToString as _;
    use alloc::vec;

    fn facts(link: LinkKind, subnets: &[&str], gateways: &[&str]) -> HostFacts {
        HostFacts {
            interfaces: vec![Interface {
                name: "x0".into(),
                link,
                subnets: subnets.iter().map(|s| s.parse().unwrap()).collect(),
                default_route: !gateways.is_empty(),
                gateways: gateways.iter().map(|s| s.parse().unwrap()).collect(),
                ..Interface::default()
            }],
            ..HostFacts::default()
        }
    }

    fn seen(settings: &Settings, facts: &HostFacts) -> PortMapLimits {
        limits(settings, facts, &Usage::default(), Wall::default()).port_map
    }

    fn words(target: Result<MapTarget, Reason>) -> String {
        match target {
            Ok(target) => {
                let own: Vec<_> = target.addresses.iter().map(IpAddr::to_string).collect();
                format!("{} at {}", own.join(" "), target.gateway)
            }
            Err(reason) => reason.text,
        }
    }

    #[test]
    fn who_is_asked_for_which_address() {
        let settings = Settings {
            download_mode: Mode::Internet,
            allow_vpn_peer_caching: true,
            ..Settings::default()
        };
        let ethernet = LinkKind::Ethernet;
        let no_v4 = "no router is known: there is no default route of IPv4";
        let no_v6 = "no router is known: there is no default route of IPv6";
        let public = "the address is public: there is no NAT before it";
        type Row<'a> = (LinkKind, &'a [&'a str], &'a [&'a str], &'a str, &'a str);
        let table: &[Row<'_>] = &[
            (ethernet, &["192.168.1.20/24"], &[], no_v4, no_v6),
            (
                ethernet,
                &["172.31.0.9/24", "192.168.1.20/24"],
                &["192.168.1.1"],
                "192.168.1.20 at 192.168.1.1",
                no_v6,
            ),
            (
                LinkKind::Wireless,
                &["100.64.3.4/10"],
                &["100.127.0.1"],
                "100.64.3.4 at 100.127.0.1",
                no_v6,
            ),
            (
                ethernet,
                &["100.128.3.4/10"],
                &["100.128.0.1"],
                public,
                no_v6,
            ),
            (
                ethernet,
                &["203.0.113.9/24"],
                &["203.0.113.1"],
                public,
                no_v6,
            ),
            (
                ethernet,
                &["192.168.1.20/24"],
                &["10.0.0.1"],
                "no address of this machine is in its router's network",
                no_v6,
            ),
            (
                ethernet,
                &["fe80::7/64", "2001:db8::7/64", "2001:db8::9/64"],
                &["fe80::1"],
                no_v4,
                "2001:db8::7 2001:db8::9 at fe80::1",
            ),
            (
                ethernet,
                &["fd00::7/64"],
                &["fe80::1"],
                no_v4,
                "there is no public IPv6 address",
            ),
            (LinkKind::Tun, &["10.8.0.7/24"], &["10.8.0.1"], no_v4, no_v6),
        ];
        for (link, subnets, gateways, v4, v6) in table {
            let found = seen(&settings, &facts(*link, subnets, gateways));
            assert_eq!(words(found.v4), *v4, "{subnets:?}");
            assert_eq!(words(found.v6), *v6, "{subnets:?}");
        }
    }

    #[test]
    fn nobody_is_asked_without_need_or_leave() {
        let home = facts(LinkKind::Ethernet, &["192.168.1.20/24"], &["192.168.1.1"]);
        let internet = Settings {
            download_mode: Mode::Internet,
            ..Settings::default()
        };
        let setting = |settings: &Settings, facts: &HostFacts| {
            seen(settings, facts).v4.err().map(|reason| reason.setting)
        };
        assert_eq!(setting(&internet, &home), None);
        assert_eq!(setting(&Settings::default(), &home), Some("download_mode"));
        let off = Settings {
            port_mapping: false,
            ..internet.clone()
        };
        assert_eq!(setting(&off, &home), Some("port_mapping"));
        let mut metered = home;
        metered.metered = Some(true);
        assert_eq!(setting(&internet, &metered), Some("allow_metered"));
    }
}
