//! Interfaces: which are up, what kind the kernel says they are, their addresses, the default routes.
//!
//! Decides: the kind, from `sysfs`, and what leads to the Internet. Never does: say which is a VPN.
//! Specification: the kernel's `Documentation/ABI/testing/sysfs-class-net`, `if_arp.h`, `if_tun.h`, `route.h`.
//! Tests: below; on real interfaces in `tests/facts.rs`.

use super::{Places, names, number, text};
use dovetail_core::host::{Interface, LinkKind, Subnet};
use if_addrs::IfAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// An interface that is up, and what only the shell wants to know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) interface: Interface,
    pub(super) index: Option<u32>,
}

/// How a file of the system names an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Named {
    Name(String),
    Index(u32),
}

impl Link {
    pub(super) fn is(&self, named: &Named) -> bool {
        match named {
            Named::Name(name) => self.interface.name == *name,
            Named::Index(index) => self.index == Some(*index),
        }
    }
}

/// The interfaces that are up, by name.
pub(super) fn links(places: &Places) -> Vec<Link> {
    let mut subnets: BTreeMap<String, BTreeSet<Subnet>> = BTreeMap::new();
    for (name, subnet) in (places.addresses)() {
        subnets.entry(name).or_default().insert(subnet);
    }
    let mut routes = Routes::new();
    if let Some(table) = text(&places.at("proc/net/route")) {
        note(&mut routes, default_routes_v4(&table));
    }
    if let Some(table) = text(&places.at("proc/net/ipv6_route")) {
        note(&mut routes, default_routes_v6(&table));
    }
    let class = places.at("sys/class/net");
    let mut links = Vec::new();
    for name in names(&class) {
        let folder = class.join(&name);
        let subnets = subnets.remove(&name);
        // `bonding_masters` is a file.
        if !folder.is_dir() || !is_up(&folder) {
            continue;
        }
        let shape = Shape::read(&folder);
        links.push(Link {
            index: number(&folder.join("ifindex")),
            interface: Interface {
                description: description(&folder, &shape),
                link: shape.kind(),
                subnets: subnets.into_iter().flatten().collect(),
                default_route: routes.contains_key(&name),
                gateways: routes.remove(&name).unwrap_or_default(),
                name,
            },
        });
    }
    // Where `sysfs` is not mounted, or is that of another network namespace.
    links.extend(subnets.into_iter().map(|(name, subnets)| Link {
        index: None,
        interface: Interface {
            description: String::new(),
            link: match subnets.iter().all(|subnet| subnet.addr.is_loopback()) {
                true => LinkKind::Loopback,
                false => LinkKind::Other,
            },
            subnets: subnets.into_iter().collect(),
            default_route: routes.contains_key(&name),
            gateways: routes.remove(&name).unwrap_or_default(),
            name,
        },
    }));
    links
}

/// The addresses of this host; none if the system does not tell.
pub fn addresses() -> Vec<(String, Subnet)> {
    let found = if_addrs::get_if_addrs().unwrap_or_default();
    let subnet = |addr: &IfAddr| match addr {
        IfAddr::V4(v4) => Subnet {
            addr: v4.ip.into(),
            prefix: v4.prefixlen,
        },
        IfAddr::V6(v6) => Subnet {
            addr: v6.ip.into(),
            prefix: v6.prefixlen,
        },
    };
    found
        .into_iter()
        .map(|interface| (interface.name, subnet(&interface.addr)))
        .collect()
}

/// Switched on, and not known to be without a carrier. Tunnels and loopback do not know (`unknown`).
fn is_up(folder: &Path) -> bool {
    const IFF_UP: u32 = 1;
    let flags = text(&folder.join("flags")).and_then(|flags| hex(&flags));
    let state = text(&folder.join("operstate"));
    let works = state
        .as_deref()
        .is_none_or(|state| matches!(state.trim(), "up" | "unknown"));
    works && flags.is_none_or(|flags| flags & IFF_UP != 0)
}

/// `0x1003`
fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
}

/// What `sysfs` says of an interface that its kind can be told from.
#[derive(Clone, Debug, Default)]
struct Shape {
    /// `ARPHRD_…` of `if_arp.h`
    hardware: u32,
    /// `DEVTYPE` of its `uevent`; plain Ethernet has none.
    device_type: Option<String>,
    /// Only tun and tap have them.
    tun_flags: Option<u32>,
    is_wireless: bool,
    is_bridge_port: bool,
    /// There is a device behind it, on a bus.
    has_device: bool,
}

impl Shape {
    fn read(folder: &Path) -> Self {
        let uevent = text(&folder.join("uevent")).unwrap_or_default();
        let has = |name: &str| folder.join(name).exists();
        Self {
            hardware: number(&folder.join("type")).unwrap_or(0),
            device_type: uevent_value(&uevent, "DEVTYPE").map(str::to_owned),
            tun_flags: text(&folder.join("tun_flags")).and_then(|flags| hex(&flags)),
            is_wireless: has("wireless") || has("phy80211"),
            is_bridge_port: has("brport"),
            has_device: has("device"),
        }
    }

    fn kind(&self) -> LinkKind {
        const ETHERNET: u32 = 1;
        const PPP: u32 = 512;
        const LOOPBACK: u32 = 772;
        const NONE: u32 = 0xfffe;
        const IFF_TAP: u32 = 2;
        /// IP in IP (4 and 6), SIT, GRE, GRE over IPv6.
        const TUNNELS: [u32; 5] = [768, 769, 776, 778, 823];
        if let Some(flags) = self.tun_flags {
            // A tap in a bridge is the cable of a virtual machine, not of a VPN.
            return if flags & IFF_TAP != 0 && self.is_bridge_port {
                LinkKind::Virtual
            } else {
                LinkKind::Tun
            };
        }
        match (self.device_type.as_deref(), self.hardware) {
            (_, LOOPBACK) => LinkKind::Loopback,
            (Some("wireguard"), _) => LinkKind::Wireguard,
            (Some("ppp"), _) | (_, PPP) => LinkKind::Ppp,
            (Some("wlan"), _) => LinkKind::Wireless,
            _ if self.is_wireless => LinkKind::Wireless,
            (_, hardware) if TUNNELS.contains(&hardware) => LinkKind::Tunnel,
            // Packets without a header of their own and no device behind them: xfrm, OpenVPN in the kernel.
            (_, NONE) if !self.has_device => LinkKind::Tunnel,
            (None | Some("dsa"), ETHERNET) if self.has_device => LinkKind::Ethernet,
            (_, ETHERNET) if !self.has_device => LinkKind::Virtual,
            (Some("bridge" | "bond" | "vlan"), _) => LinkKind::Virtual,
            // Modems, InfiniBand and the like.
            _ => LinkKind::Other,
        }
    }
}

/// The administrator's name for it, else the driver's, else what the kernel calls its type.
fn description(folder: &Path, shape: &Shape) -> String {
    let alias = text(&folder.join("ifalias"));
    let alias = alias.as_deref().map(str::trim).unwrap_or_default();
    if !alias.is_empty() {
        return alias.to_owned();
    }
    let driver = folder.join("device/driver").read_link().ok();
    driver
        .as_deref()
        .and_then(Path::file_name)
        .map(|name| name.to_string_lossy().into_owned())
        .or_else(|| shape.device_type.clone())
        .unwrap_or_default()
}

fn uevent_value<'t>(uevent: &'t str, key: &str) -> Option<&'t str> {
    let mut pairs = uevent.lines().filter_map(|line| line.split_once('='));
    pairs
        .find(|(found, _)| *found == key)
        .map(|(_, value)| value.trim())
}

const RTF_UP: u32 = 0x1;
const RTF_REJECT: u32 = 0x200;

fn is_usable(flags: &str) -> bool {
    hex(flags).is_some_and(|flags| flags & RTF_UP != 0 && flags & RTF_REJECT == 0)
}

/// Next hops, by interface.
type Routes = BTreeMap<String, Vec<IpAddr>>;

/// A route to (nearly) everywhere: its metric, its interface, its next hop if it has one.
type Route = (u32, String, Option<IpAddr>);

/// Take the preferred next hop of each interface.
fn note(routes: &mut Routes, mut found: Vec<Route>) {
    found.sort_by_key(|(metric, ..)| *metric);
    let mut seen = BTreeSet::new();
    for (_, name, gateway) in found {
        let gateways = routes.entry(name.clone()).or_default();
        if let Some(gateway) = gateway
            && seen.insert(name)
        {
            gateways.push(gateway);
        }
    }
}

/// The interfaces through which the Internet, or half of it, is reached. VPNs often leave the default route alone
/// and put `0.0.0.0/1` and `128.0.0.0/1` before it.
fn default_routes_v4(table: &str) -> Vec<Route> {
    let route = |line: &str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let [name, _, gateway, flags, _, _, metric, mask, ..] = fields[..] else {
            return None;
        };
        let prefix = u32::from_str_radix(mask, 16).ok()?.count_ones();
        // In the order of the machine's own bytes.
        let gateway = u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes();
        let gateway = Some(Ipv4Addr::from(gateway)).filter(|gateway| !gateway.is_unspecified());
        let metric = metric.parse().ok()?;
        (prefix <= 1 && is_usable(flags))
            .then(|| (metric, name.to_owned(), gateway.map(IpAddr::V4)))
    };
    table.lines().filter_map(route).collect()
}

/// The same for IPv6, where `2000::/3` is all that is assigned.
fn default_routes_v6(table: &str) -> Vec<Route> {
    let route = |line: &str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let [
            destination,
            prefix,
            _,
            _,
            gateway,
            metric,
            _,
            _,
            flags,
            name,
        ] = fields[..]
        else {
            return None;
        };
        let prefix = u8::from_str_radix(prefix, 16).ok()?;
        let assigned = destination == "20000000000000000000000000000000" && prefix == 3;
        let all = prefix <= 1 || assigned;
        let gateway = Ipv6Addr::from(u128::from_str_radix(gateway, 16).ok()?);
        let gateway = Some(gateway).filter(|gateway| !gateway.is_unspecified());
        let metric = u32::from_str_radix(metric, 16).ok()?;
        (all && is_usable(flags)).then(|| (metric, name.to_owned(), gateway.map(IpAddr::V6)))
    };
    table.lines().filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::Root;
    use super::*;

    /// One interface made of these files of its folder.
    fn link(files: &[(&str, &str)]) -> Option<Interface> {
        let root = Root::new(&[("sys/class/net/x0/flags", "0x1003\n")]);
        for (path, text) in files {
            root.write(&format!("sys/class/net/x0/{path}"), text);
        }
        let found = links(&root.places());
        let link = found.into_iter().find(|link| link.interface.name == "x0");
        link.map(|link| link.interface)
    }

    #[test]
    fn kinds_of_interfaces() {
        use LinkKind::*;
        let ether = ("type", "1\n");
        let device = ("device/vendor", "0x8086\n");
        for (kind, files) in [
            (Loopback, &[("type", "772\n")][..]),
            (Ethernet, &[ether, device, ("uevent", "INTERFACE=x0\n")]),
            (Wireless, &[ether, device, ("uevent", "DEVTYPE=wlan\n")]),
            (Wireless, &[ether, device, ("phy80211/name", "phy0\n")]),
            (Virtual, &[ether]),
            (Virtual, &[ether, ("uevent", "DEVTYPE=bridge\n")]),
            (Virtual, &[ether, ("uevent", "DEVTYPE=vlan\n")]),
            (Tun, &[("type", "65534\n"), ("tun_flags", "0x1001\n")]),
            (Tun, &[ether, ("tun_flags", "0x1002\n")]),
            (
                Virtual,
                &[ether, ("tun_flags", "0x1002\n"), ("brport/state", "3\n")],
            ),
            (
                Wireguard,
                &[("type", "65534\n"), ("uevent", "DEVTYPE=wireguard\n")],
            ),
            (Ppp, &[("type", "512\n"), ("uevent", "DEVTYPE=ppp\n")]),
            (Tunnel, &[("type", "768\n")]),
            (Tunnel, &[("type", "776\n")]),
            (Tunnel, &[("type", "778\n")]),
            (Tunnel, &[("type", "65534\n")]),
            (
                Other,
                &[("type", "65534\n"), device, ("uevent", "DEVTYPE=wwan\n")],
            ),
            (Other, &[("type", "32\n"), device]),
            (Other, &[("type", "?\n")]),
            (Other, &[]),
        ] {
            assert_eq!(link(files).unwrap().link, kind, "{files:?}");
        }
    }

    #[test]
    fn only_what_is_up() {
        for (flags, state, up) in [
            ("0x1003", "up", true),
            ("0x1003", "unknown", true),
            ("0x1003", "down", false),
            ("0x1003", "dormant", false),
            ("0x1003", "lowerlayerdown", false),
            ("0x1002", "unknown", false),
            ("odd", "up", true),
        ] {
            let found = link(&[("flags", flags), ("operstate", state)]);
            assert_eq!(found.is_some(), up, "{flags} {state}");
        }
    }

    #[test]
    fn without_sysfs_there_are_still_addresses() {
        let root = Root::new(&[("x", "")]);
        let found = links(&root.places());
        let kinds: Vec<_> = found
            .iter()
            .map(|link| (link.interface.name.as_str(), link.interface.link))
            .collect();
        assert_eq!(
            kinds,
            [("eth0", LinkKind::Other), ("lo", LinkKind::Loopback)]
        );
        // An interface that is down is not brought back by its address.
        root.write("sys/class/net/eth0/operstate", "down");
        assert_eq!(links(&root.places()).len(), 1);
    }

    #[test]
    fn descriptions() {
        let of = |files: &[(&str, &str)]| link(files).unwrap().description;
        assert_eq!(of(&[("ifalias", "Work VPN\n")]), "Work VPN");
        assert_eq!(of(&[("ifalias", "\n"), ("uevent", "DEVTYPE=ppp\n")]), "ppp");
        assert_eq!(of(&[]), "");
        let root = Root::new(&[("sys/class/net/x0/device/uevent", "")]);
        let driver = root.0.join("sys/class/net/x0/device/driver");
        std::os::unix::fs::symlink("../../bus/pci/drivers/e1000e", driver).unwrap();
        let found = links(&root.places());
        assert!(
            found
                .iter()
                .any(|link| link.interface.description == "e1000e")
        );
    }

    fn in_words(routes: &Routes) -> String {
        let one = |(name, gateways): (&String, &Vec<IpAddr>)| {
            let gateways = gateways.iter().map(|gateway| format!(" {gateway}"));
            format!("{name}{}", gateways.collect::<String>())
        };
        routes.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn routes_to_everywhere() {
        let of = |rows: &[&str]| {
            let head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n";
            let mut routes = Routes::new();
            note(
                &mut routes,
                default_routes_v4(&format!("{head}{}", rows.join("\n"))),
            );
            in_words(&routes)
        };
        let lan = "eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0";
        let default = "eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0";
        assert_eq!(of(&[]), "");
        assert_eq!(of(&["", "eth0 1 2", "odd odd odd 1 0 0 0 odd"]), "");
        assert_eq!(of(&[lan]), "");
        assert_eq!(of(&[default, lan]), "eth0 192.0.2.1");
        let dear = "eth0 00000000 090200C0 0003 0 0 900 00000000 0 0 0";
        assert_eq!(of(&[dear, default]), "eth0 192.0.2.1");
        let halves = [
            "tun0 00000000 0100080A 0003 0 0 0 00000080 0 0 0",
            "tun0 00000080 0100080A 0003 0 0 0 00000080 0 0 0",
        ];
        assert_eq!(
            of(&[default, halves[0], halves[1]]),
            "eth0 192.0.2.1, tun0 10.8.0.1"
        );
        assert_eq!(of(&["eth0 00000000 00000000 0201 0 0 0 00000000"]), "");
    }

    #[test]
    fn routes_to_everywhere_over_ipv6() {
        let zero = "00000000000000000000000000000000";
        let row = |to: &str, prefix: &str, flags: &str, name: &str| {
            format!(
                "{to} {prefix} {zero} 00 {zero} 00000400 00000002 00000000 {flags}     {name}\n"
            )
        };
        let local = "fd000000000000000000000000000000";
        let table = [
            row(local, "40", "00000001", "lan0"),
            row(zero, "00", "00000003", "eth0").replacen(
                &format!("{zero} 00000400"),
                "fe800000000000000000000000000001 00000400",
                1,
            ),
            row(zero, "00", "00200200", "lo"),
            row("20000000000000000000000000000000", "03", "00000001", "tun0"),
            "odd\n".to_owned(),
        ];
        let mut routes = Routes::new();
        note(&mut routes, default_routes_v6(&table.concat()));
        assert_eq!(in_words(&routes), "eth0 fe80::1, tun0");
    }
}
