//! `status --host`: what an agent is told of its host, in words.
//!
//! Decides: the words. Never does: ask the agent; what it sees, this sees. Tests: below and
//! `shell-smol/tests/cli.rs`.

use super::args::Global;
use super::home::Home;
use super::out::Out;
use crate::facts::{Places, gather};
use crate::host::Clock;
use dovetail_core::api::{HostLine, InterfaceLine, Line};
use dovetail_core::failure::Failure;
use dovetail_core::stats::Bytes;
use std::fmt::Write as _;

pub(crate) fn status_host(global: &Global, out: Out) -> Result<(), Failure> {
    let home = Home::new(global.home.as_deref())?;
    let facts = gather(&Places::system(home.as_ref()));
    let line = HostLine::new(&facts, Clock::start().now().wall.utc_offset_s);
    out.result(in_words(&line).trim_end(), &Line::Host(line));
    Ok(())
}

fn in_words(host: &HostLine) -> String {
    let mut words = String::new();
    for interface in &host.interfaces {
        _ = writeln!(words, "interface {}", interface_in_words(interface));
    }
    let metered = match host.metered {
        None => "unknown",
        Some(true) => "yes",
        Some(false) => "no",
    };
    let battery = match &host.battery {
        None => "none".to_owned(),
        Some(battery) if battery.discharging => format!("{} %, in use", battery.percent),
        Some(battery) => format!("{} %, not in use", battery.percent),
    };
    let ram = host
        .ram_bytes
        .map_or_else(unknown, |ram| Bytes(ram).to_string());
    let disk = host.disk.as_ref().map_or_else(unknown, |disk| {
        format!(
            "{} free of {}",
            Bytes(disk.free_bytes),
            Bytes(disk.total_bytes)
        )
    });
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".into());
    for (what, is) in [
        ("metered", metered.to_owned()),
        ("battery", battery),
        ("memory", ram),
        ("disk", disk),
        ("DNS suffix", text(&host.dns_suffix)),
        ("DHCP option 234 (group)", text(&host.dhcp_group_id)),
        (
            "DHCP option 235 (cache hosts)",
            text(&host.dhcp_cache_hosts),
        ),
        ("time zone", zone(host.utc_offset_s)),
    ] {
        _ = writeln!(words, "{what}: {is}");
    }
    words
}

fn unknown() -> String {
    "unknown".into()
}

fn interface_in_words(interface: &InterfaceLine) -> String {
    let mut words = format!("{}: {}", interface.name, interface.link);
    let route = if interface.default_route {
        "default route"
    } else {
        ""
    };
    let subnets = interface.subnets.join(" ");
    for part in [interface.description.as_str(), &subnets, route] {
        if !part.is_empty() {
            _ = write!(words, ", {part}");
        }
    }
    words
}

/// `UTC+05:30`
fn zone(offset_s: i32) -> String {
    let sign = if offset_s < 0 { '-' } else { '+' };
    let minutes = offset_s.unsigned_abs() / 60;
    format!("UTC{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dovetail_core::api::{BatteryLine, DiskLine};

    #[test]
    fn a_laptop_in_words() {
        let host = HostLine {
            interfaces: vec![
                InterfaceLine {
                    name: "eth0".into(),
                    description: "e1000e".into(),
                    link: "ethernet".into(),
                    subnets: vec!["10.1.0.7/16".into(), "fd00::7/64".into()],
                    default_route: true,
                },
                InterfaceLine {
                    name: "wg0".into(),
                    link: "wireguard".into(),
                    ..InterfaceLine::default()
                },
            ],
            metered: Some(false),
            battery: Some(BatteryLine {
                percent: 71,
                discharging: true,
            }),
            ram_bytes: Some(16 << 30),
            disk: Some(DiskLine {
                free_bytes: 1 << 30,
                total_bytes: 2 << 30,
            }),
            dns_suffix: Some("corp.example".into()),
            utc_offset_s: -12_600,
            ..HostLine::default()
        };
        assert_eq!(
            in_words(&host),
            "interface eth0: ethernet, e1000e, 10.1.0.7/16 fd00::7/64, default route\n\
             interface wg0: wireguard\n\
             metered: no\n\
             battery: 71 %, in use\n\
             memory: 16 GiB\n\
             disk: 1 GiB free of 2 GiB\n\
             DNS suffix: corp.example\n\
             DHCP option 234 (group): none\n\
             DHCP option 235 (cache hosts): none\n\
             time zone: UTC-03:30\n"
        );
        let nothing = in_words(&HostLine::default());
        assert!(nothing.starts_with("metered: unknown\nbattery: none\nmemory: unknown\n"));
    }
}
