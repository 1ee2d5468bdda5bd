//! What `dovetail status --host` says: the facts of a host as they are given to the machines.
//!
//! Decides: names and shapes. Tests: below; `docs/json.md` is checked against it.

use crate::host::{HostFacts, Interface, LinkKind, Subnet};
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Unknown is `null` or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLine {
    pub interfaces: Vec<InterfaceLine>,
    pub metered: Option<bool>,
    pub battery: Option<BatteryLine>,
    pub ram_bytes: Option<u64>,
    pub disk: Option<DiskLine>,
    pub dns_suffix: Option<String>,
    pub dhcp_group_id: Option<String>,
    pub dhcp_cache_hosts: Option<String>,
    pub found_caches: Vec<String>,
    pub utc_offset_s: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceLine {
    pub name: String,
    pub description: String,
    pub link: String,
    pub subnets: Vec<String>,
    pub default_route: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatteryLine {
    pub percent: u8,
    pub discharging: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskLine {
    pub free_bytes: u64,
    pub total_bytes: u64,
}

impl HostLine {
    pub fn new(facts: &HostFacts, utc_offset_s: i32) -> Self {
        Self {
            interfaces: facts.interfaces.iter().map(InterfaceLine::new).collect(),
            metered: facts.metered,
            battery: facts.battery.map(|battery| BatteryLine {
                percent: battery.percent,
                discharging: battery.discharging,
            }),
            ram_bytes: facts.ram_bytes,
            disk: facts.disk.map(|disk| DiskLine {
                free_bytes: disk.free_bytes,
                total_bytes: disk.total_bytes,
            }),
            dns_suffix: facts.dns_suffix.clone(),
            dhcp_group_id: facts.dhcp_group_id.clone(),
            dhcp_cache_hosts: facts.dhcp_cache_hosts.clone(),
            found_caches: facts.found_caches.clone(),
            utc_offset_s,
        }
    }
}

impl InterfaceLine {
    fn new(interface: &Interface) -> Self {
        Self {
            name: interface.name.clone(),
            description: interface.description.clone(),
            link: word(interface.link).into(),
            subnets: interface.subnets.iter().map(Subnet::to_string).collect(),
            default_route: interface.default_route,
        }
    }
}

const fn word(link: LinkKind) -> &'static str {
    match link {
        LinkKind::Other => "other",
        LinkKind::Loopback => "loopback",
        LinkKind::Ethernet => "ethernet",
        LinkKind::Wireless => "wireless",
        LinkKind::Virtual => "virtual",
        LinkKind::Tun => "tun",
        LinkKind::Wireguard => "wireguard",
        LinkKind::Ppp => "ppp",
        LinkKind::Tunnel => "tunnel",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Line;
    use crate::host::Battery;
    use alloc::vec;

    #[test]
    fn facts_as_a_line() {
        let facts = HostFacts {
            interfaces: vec![Interface {
                name: "wg0".into(),
                link: LinkKind::Wireguard,
                subnets: vec!["10.8.0.2/24".parse().unwrap()],
                default_route: true,
                ..Interface::default()
            }],
            battery: Some(Battery {
                percent: 71,
                discharging: true,
            }),
            ..HostFacts::default()
        };
        let line = Line::Host(HostLine::new(&facts, 3600));
        let text = line.render();
        assert!(
            text.contains(r#""link":"wireguard","subnets":["10.8.0.2/24"],"default_route":true"#),
            "{text}"
        );
        assert!(text.contains(r#""battery":{"percent":71,"discharging":true},"ram_bytes":null"#));
        assert_eq!(Line::parse(&text), Ok(line));
    }
}
