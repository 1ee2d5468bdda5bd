//! One thing is wrong at a time, and that is what is said.

use super::*;
use crate::api::{
    CoordinatorStatus, DoctorLine, NatKind, NatStatus, PortMappingState, PortMappingStatus,
};
use crate::host::{Battery, Interface, LinkKind};
use crate::settings::{Layers, Source};
use alloc::string::ToString as _;
use alloc::vec;

const GIB: u64 = 1 << 30;

/// A well configured machine at home.
fn well() -> Findings {
    let eth0 = Interface {
        name: "eth0".into(),
        link: LinkKind::Ethernet,
        subnets: vec!["192.168.1.20/24".parse().unwrap()],
        default_route: true,
        gateways: vec!["192.168.1.1".parse().unwrap()],
        ..Interface::default()
    };
    let status = Status {
        version: "0.1.0".into(),
        listening: Some("0.0.0.0:7680".into()),
        coordinator: Some(CoordinatorStatus {
            url: "http://c:7681".into(),
            reachable: true,
        }),
        nat: NatStatus {
            kind: NatKind::Behind,
            words: "behind a NAT: 192.168.1.20".into(),
            ..NatStatus::default()
        },
        ..Status::default()
    };
    Findings {
        home: "/var/lib/dovetail".into(),
        version: "0.1.0".into(),
        agent: Found::Running(status.into()),
        settings: Effective::default(),
        problems: vec![],
        facts: HostFacts {
            interfaces: vec![eth0],
            ram_bytes: Some(16 * GIB),
            ..HostFacts::default()
        },
        now: Wall {
            unix_us: 1_795_000_000_000_000,
            utc_offset_s: 0,
        },
        port: Port {
            at: "192.168.1.20:7680".parse().unwrap(),
            tcp: Ok(()),
            udp: Ok(()),
        },
        coordinator: Some(Coordinator {
            url: "http://c:7681".into(),
            answer: Ok(Health {
                took_us: 3210,
                ahead_s: Some(1),
            }),
        }),
        proxies: vec![],
        firewall: None,
        kernel: Kernel {
            release: "6.12.1".into(),
            has_time_stamps: Some(true),
            can_bound_receiving: true,
        },
    }
}

fn set(found: &mut Findings, text: &str) {
    let mut layers = Layers::default();
    let (place, text) = ("/etc/dovetail/dovetail.toml".into(), text.into());
    let problems = layers.read(Provider::File, &[Source { place, text }]);
    assert_eq!(problems, []);
    found.settings = layers.effective(&found.facts);
}

fn status(found: &mut Findings) -> &mut Status {
    match &mut found.agent {
        Found::Running(status) => status,
        other => panic!("{other:?}"),
    }
}

/// Everything but what is well.
fn complaints(found: &Findings) -> Vec<CheckLine> {
    let checks = examine(found);
    let order = |check: &CheckLine| NAMES.iter().position(|name| *name == check.name).unwrap();
    assert!(checks.is_sorted_by_key(order), "{checks:?}");
    for check in &checks {
        assert!(
            check.verdict == Verdict::Ok || !check.remedy.is_empty(),
            "{check:?}"
        );
        assert!(!check.what.is_empty());
    }
    let bad = |check: &CheckLine| check.verdict != Verdict::Ok;
    checks.into_iter().filter(bad).collect()
}

#[test]
fn a_healthy_agent_is_left_alone() {
    let found = well();
    assert_eq!(complaints(&found), []);
    let line = DoctorLine::of(&examine(&found));
    // Nothing waits in the background, and there is no firewall.
    assert_eq!((line.ok, line.warnings, line.problems), (14, 0, 0));
}

#[test]
fn one_thing_is_wrong_and_that_is_said() {
    type Harm = fn(&mut Findings);
    let table: &[(Harm, Verdict, &str, &str)] = &[
        (
            |f| f.agent = Found::Silent("there was none for 5 s".into()),
            Verdict::Problem,
            "agent",
            "there was none for 5 s",
        ),
        (
            |f| status(f).version = "0.0.9".into(),
            Verdict::Warning,
            "agent",
            "version 0.0.9 runs in /var/lib/dovetail, and this program is 0.1.0",
        ),
        (
            |f| set(f, "download_mode = \"http-only\""),
            Verdict::Problem,
            "mode",
            "download_mode = http-only (set by /etc/dovetail/dovetail.toml:1)",
        ),
        (
            |f| f.facts.ram_bytes = Some(GIB),
            Verdict::Problem,
            "mode",
            "min_ram_allowed_to_peer = 4GB (built in)",
        ),
        (
            |f| {
                f.facts.interfaces.push(Interface {
                    name: "wg0".into(),
                    link: LinkKind::Wireguard,
                    subnets: vec!["10.8.0.2/24".parse().unwrap()],
                    ..Interface::default()
                });
            },
            Verdict::Problem,
            "mode",
            "`dovetail config set allow_vpn_peer_caching true`",
        ),
        (
            |f| set(f, "download_mode = \"group\""),
            Verdict::Warning,
            "mode",
            "LAN peers only: no group is known",
        ),
        (
            |f| status(f).listening = None,
            Verdict::Warning,
            "sharing",
            "it was started without --share",
        ),
        (
            |f| {
                f.facts.battery = Some(Battery {
                    percent: 40,
                    discharging: true,
                });
            },
            Verdict::Warning,
            "uploads",
            "no uploads on battery at 40 %",
        ),
        (
            |f| f.port.tcp = Err("connection refused".into()),
            Verdict::Problem,
            "listening",
            "connection refused",
        ),
        (
            |f| f.port.udp = Err("the port is free".into()),
            Verdict::Warning,
            "listening",
            "nothing listens at 192.168.1.20:7680 over UDP",
        ),
        (
            |f| f.port.at = "127.0.0.1:7680".parse().unwrap(),
            Verdict::Problem,
            "listening",
            "only this machine reaches 127.0.0.1:7680",
        ),
        (
            |f| {
                f.firewall = Some(Firewall {
                    name: "ufw".into(),
                    names_port: Some(false),
                });
            },
            Verdict::Warning,
            "firewall",
            "`ufw allow 7680`",
        ),
        (
            |f| f.coordinator = None,
            Verdict::Warning,
            "coordinator",
            "none is named: peers are found by --peer alone",
        ),
        (
            |f| {
                if let Some(coordinator) = &mut f.coordinator {
                    coordinator.answer = Err("name not found".into());
                }
            },
            Verdict::Problem,
            "coordinator",
            "name not found",
        ),
        (
            |f| {
                let told = CoordinatorStatus {
                    url: "http://c:7681".into(),
                    reachable: false,
                };
                status(f).coordinator = Some(told);
            },
            Verdict::Warning,
            "coordinator",
            "http://c:7681 answers in 3.2 ms, but did not answer the agent",
        ),
        (
            |f| {
                f.facts.dhcp_cache_hosts = Some("http://".into());
                set(f, "cache_host_source = \"dhcp\"");
            },
            Verdict::Warning,
            "caches",
            "cache servers are left alone",
        ),
        (
            |f| f.kernel.has_time_stamps = Some(false),
            Verdict::Warning,
            "congestion",
            "`sysctl net.ipv4.tcp_timestamps=1`",
        ),
        (
            |f| f.kernel.can_bound_receiving = false,
            Verdict::Warning,
            "congestion",
            "use Linux 5.15 or newer",
        ),
        (
            |f| {
                status(f).nat.port_mapping = PortMappingStatus {
                    state: PortMappingState::Failed,
                    why: "PCP: no answer".into(),
                    ..PortMappingStatus::default()
                };
            },
            Verdict::Warning,
            "port_mapping",
            "PCP: no answer",
        ),
        (
            |f| status(f).nat.is_symmetric = true,
            Verdict::Warning,
            "nat",
            "it takes another port for each peer, and peers behind strict NATs let that in only if they know it",
        ),
        (
            |f| f.now.unix_us = 0,
            Verdict::Problem,
            "clock",
            "the clock is years behind",
        ),
        (
            |f| {
                if let Some(Ok(health)) = f.coordinator.as_mut().map(|c| c.answer.as_mut()) {
                    health.ahead_s = Some(-3600);
                }
            },
            Verdict::Warning,
            "clock",
            "it is 3600 s behind the coordinator's",
        ),
    ];
    for (harm, verdict, name, said) in table {
        let mut found = well();
        harm(&mut found);
        let complaints = complaints(&found);
        let [complaint] = &complaints[..] else {
            // Without peers nothing is sent to them either.
            let names: Vec<_> = complaints.iter().map(|c| c.name.as_str()).collect();
            assert_eq!(names, ["mode", "uploads"], "{complaints:?}");
            assert_eq!(complaints[0].verdict, *verdict);
            let texts = [&complaints[0].setting, &complaints[0].remedy];
            assert!(texts.iter().any(|text| text == said), "{complaints:?}");
            continue;
        };
        assert_eq!(
            (complaint.verdict, complaint.name.as_str()),
            (*verdict, *name)
        );
        let CheckLine {
            what,
            why,
            setting,
            remedy,
            ..
        } = complaint;
        let texts = [what, why, setting, remedy];
        assert!(
            texts.iter().any(|text| text == said),
            "{said}: {complaint:?}"
        );
    }
}

#[test]
fn whoever_may_is_told_how_to_change_a_setting() {
    let remedy = |text: &str| {
        let mut found = well();
        set(&mut found, text);
        complaints(&found)[0].remedy.clone()
    };
    assert_eq!(
        remedy("download_mode = \"simple\""),
        "`dovetail config set download_mode lan`"
    );
    assert_eq!(
        remedy("[locked]\ndownload_mode = \"simple\""),
        "have download_mode changed where it is set: /etc/dovetail/dovetail.toml:2"
    );
}

#[test]
fn without_an_agent_what_one_would_meet_is_judged() {
    let mut found = well();
    found.agent = Found::Nobody;
    set(&mut found, "download_mode = \"internet\"");
    let complaints = complaints(&found);
    assert_eq!(complaints.len(), 1);
    assert_eq!(complaints[0].what, "none runs in /var/lib/dovetail");
    let words: Vec<_> = examine(&found)
        .into_iter()
        .map(|check| check.what)
        .collect();
    for said in [
        "port 7680 is free for an agent",
        "an agent would ask the router 192.168.1.1",
        "behind a NAT: 192.168.1.20",
        "an agent would look for one by DNS-SD",
    ] {
        assert!(words.iter().any(|what| what == said), "{words:?}");
    }
    found.port.tcp = Err("address already in use".into());
    let taken = examine(&found)
        .into_iter()
        .find(|check| check.name == "listening");
    assert_eq!(taken.unwrap().why.to_string(), "address already in use");
}
