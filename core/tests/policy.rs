//! A month of one device in virtual time, and what it may do at each moment; modes that change under a download.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::{FILE, Fleet, MIB, settings};
use core::time::Duration;
use dovetail_core::agent::{Agent, AgentConfig};
use dovetail_core::command::{Command, Event, GetRequest, Reply};
use dovetail_core::failure::FailureKind;
use dovetail_core::host::{Battery, HostFacts, Interface, LinkKind};
use dovetail_core::policy::Limits;
use dovetail_core::settings::{Layers, Provider, Source};
use dovetail_core::sim::{ClockSpec, HostId, HostSpec, World};

const S: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const USAGE: &str = "/home/usage.json";
/// Worlds begin on the 1st of January 2026; the month begins on the 15th of March.
const MARCH_15: i64 = 73;

fn offset_us(days: i64) -> i64 {
    days * 86_400_000_000
}

/// What happens to the device.
enum What {
    Nothing,
    Facts(HostFacts),
    /// The administrator's file says this now.
    File(&'static str),
    Zone(i32),
    ClockSetBack(i64),
}

fn interface(name: &str, link: LinkKind, subnet: &str) -> Interface {
    Interface {
        name: name.into(),
        link,
        subnets: vec![subnet.parse().unwrap()],
        default_route: link == LinkKind::Ethernet,
        ..Interface::default()
    }
}

fn office() -> HostFacts {
    HostFacts {
        interfaces: vec![interface("eth0", LinkKind::Ethernet, "10.1.2.3/24")],
        ..HostFacts::default()
    }
}

fn with(change: impl FnOnce(&mut HostFacts)) -> What {
    let mut facts = office();
    change(&mut facts);
    What::Facts(facts)
}

const FILE_TEXT: &str = "\
download_mode = \"group\"
group_id = \"g\"
downlink_bandwidth = \"10MB/s\"
hours_to_limit_background_download_bandwidth = \"22-6 0% else 20%\"
upload_hours = \"7-19\"
monthly_upload_data_cap = \"20GB\"
";

/// Mode, cap of the background, and whether LAN and Internet peers are given something.
fn summary(limits: &Limits) -> String {
    let paused = if limits.background.paused.is_some() {
        " paused"
    } else {
        ""
    };
    let uploads = match (&limits.uploads.stopped, &limits.uploads.internet_stopped) {
        (None, None) => "gives",
        (None, Some(_)) => "gives near",
        (Some(_), _) => "gives nothing",
    };
    let cap = limits.background.wide_bytes_per_s / 1000;
    format!("{} {cap}{paused}, {uploads}", limits.mode.name())
}

fn device(world: &mut World, text: &str) -> HostId {
    let mut layers = Layers::default();
    let (place, text) = ("/etc/dovetail/dovetail.toml".into(), text.into());
    assert_eq!(layers.read(Provider::File, &[Source { place, text }]), []);
    let config = AgentConfig {
        settings: layers,
        share: true,
        usage_file: Some(USAGE.into()),
        ..AgentConfig::default()
    };
    let agent = Agent::new(config, [7; 32]).unwrap();
    let spec = HostSpec::at("10.1.2.3").clock(ClockSpec {
        offset_us: offset_us(MARCH_15),
        utc_offset_s: 3600,
        ..ClockSpec::default()
    });
    world.host("device", agent, spec)
}

fn configure(world: &mut World, host: HostId, text: &str) {
    let source = Source {
        place: "/etc/dovetail/dovetail.toml".into(),
        text: text.into(),
    };
    let command = Command::Configure {
        provider: Provider::File,
        sources: vec![source],
    };
    let call = world.command(host, command);
    world.run_for(Duration::ZERO);
    match world.reply(call) {
        Some(Reply::Configured(problems)) => assert_eq!(problems, &[]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_month_of_hours_caps_networks_power_and_clocks() {
    use What::{ClockSetBack, Facts, File, Nothing, Zone};
    let night = "group 0, gives nothing";
    let morning = "group 2000, gives nothing";
    let spent = "group 2000, gives near";
    let vpn = |f: &mut HostFacts| {
        let wg0 = interface("wg0", LinkKind::Wireguard, "10.8.0.2/24");
        f.interfaces.push(wg0);
    };
    let on_battery = |f: &mut HostFacts| {
        f.battery = Some(Battery {
            percent: 80,
            discharging: true,
        });
    };
    let metered = |f: &mut HostFacts| f.metered = Some(true);
    let bypass = "download_mode = \"bypass\"\nupload_hours = \"7-19\"\n";
    // Day and time in UTC; the device is an hour ahead, from the 29th of March on two.
    let month = [
        (0, "00:00", Facts(office()), night),
        (0, "04:59", Nothing, night),
        (0, "05:00", Nothing, morning),
        (0, "05:59", Nothing, morning),
        (0, "06:00", Nothing, spent),
        (0, "17:59", Nothing, spent),
        (0, "18:00", Nothing, morning),
        (0, "21:00", Nothing, night),
        (1, "10:00", with(vpn), "http-only 2000, gives nothing"),
        (1, "10:30", Facts(office()), spent),
        (2, "09:00", with(on_battery), morning),
        (2, "09:05", Facts(office()), spent),
        (
            3,
            "09:00",
            with(metered),
            "group 2000 paused, gives nothing",
        ),
        (3, "12:00", Facts(office()), spent),
        (4, "09:00", File(bypass), "bypass 0, gives nothing"),
        (
            4,
            "09:01",
            File("download_mode = \"group\"\n"),
            "lan 0, gives near",
        ),
        (4, "09:02", File(FILE_TEXT), spent),
        (13, "21:00", Nothing, night),
        (14, "00:59", Nothing, night),
        (14, "01:00", Zone(7200), night),
        (14, "03:59", Nothing, night),
        (14, "04:00", Nothing, morning),
        (14, "05:00", Nothing, spent),
        (16, "16:59", Nothing, spent),
        (16, "21:59", Nothing, night),
        (17, "05:01", Nothing, "group 2000, gives"),
        (18, "16:59", Nothing, "group 2000, gives"),
        (18, "17:00", Nothing, morning),
        // It is 19 h on the 2nd of April; now it is 16 h, three days before.
        (18, "17:00", ClockSetBack(3 * 24 + 3), "group 2000, gives"),
        (18, "20:00", Nothing, morning),
        (30, "08:00", Nothing, "group 2000, gives"),
    ];
    let mut world = World::new(1);
    world.check_every = 0;
    world.without_journal();
    let host = device(&mut world, FILE_TEXT);
    let used = b"{\"month\":\"2026-03\",\"internet_upload_bytes\":20000000000}";
    world.disk(host).put(USAGE, used.to_vec().into());
    for (day, time, what, expected) in month {
        let (hours, minutes) = time.split_once(':').unwrap();
        let minutes = hours.parse::<u32>().unwrap() * 60 + minutes.parse::<u32>().unwrap();
        let at = DAY * day + S * 60 * minutes;
        world.run_for(at.saturating_sub(world.now()));
        match what {
            Nothing => {}
            Facts(facts) => world.host_facts(host, facts),
            File(text) => configure(&mut world, host, text),
            Zone(offset_s) => world.set_zone(host, offset_s),
            ClockSetBack(hours) => {
                world.set_wall_clock(host, offset_us(MARCH_15) - hours * 3_600_000_000);
                // Clocks are looked at when something happens; within a quarter of an hour at the latest.
                world.run_for(HOUR / 4);
            }
        }
        world.run_for(S);
        let limits = world.machine::<Agent>(host).limits();
        assert_eq!(summary(limits), expected, "on day {day} at {time}");
    }
    let said = |what: &str| {
        let mut events = world.events(host).iter();
        events.any(|event| matches!(event, Event::Log { text, .. } if text.contains(what)))
    };
    for what in [
        "from now on: no peers while the VPN wg0 is up (allow_vpn_peer_caching; 0x80D03807)",
        "no longer: no peers while the VPN wg0 is up",
        "no uploads on battery at 80 %",
        "the network is metered (allow_metered; 0x80D03801)",
        "LAN peers only: no group is known (group_id; 0x80D03806)",
        "went to Internet peers this month (monthly_upload_data_cap",
    ] {
        assert!(said(what), "{what:?} was not said");
    }
}

#[test]
fn cache_servers_are_looked_for_while_settings_want_it() {
    let mut world = World::new(1);
    let host = device(&mut world, "");
    let told = |world: &World| -> Vec<bool> {
        let events = world.events(host).iter();
        events
            .filter_map(|event| match event {
                Event::LookForCaches(on) => Some(*on),
                _ => None,
            })
            .collect()
    };
    world.host_facts(host, HostFacts::default());
    world.run_for(S);
    assert_eq!(told(&world), [true]);
    for (text, expected) in [
        ("upload_slots = 5\n", &[true][..]),
        ("cache_host = [\"a:1\"]\n", &[true, false]),
        ("cache_host_source = \"dhcp\"\n", &[true, false]),
        ("", &[true, false, true]),
        ("download_mode = \"bypass\"\n", &[true, false, true, false]),
    ] {
        configure(&mut world, host, text);
        world.run_for(S);
        assert_eq!(told(&world), expected, "after {text:?}");
    }
}

#[test]
fn a_refused_download_names_the_setting_and_who_set_it() {
    let mut world = World::new(1);
    let host = device(&mut world, "download_mode = 100\n");
    let request = GetRequest {
        urls: vec!["http://origin/f".into()],
        output: FILE.into(),
        ..GetRequest::default()
    };
    let call = world.command(host, Command::Get(request));
    world.run_for(S);
    let Some(Reply::Got(Err(failure))) = world.reply(call) else {
        panic!("{:?}", world.reply(call));
    };
    assert_eq!(failure.kind, FailureKind::Refused);
    let text = failure.to_string();
    let expected = "download_mode = bypass (set by /etc/dovetail/dovetail.toml:1); 0x80D03002";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn modes_may_change_under_a_download() {
    let mut fleet = Fleet::new(3, 48 * MIB, 2_000_000);
    for _ in 0..2 {
        let seed = fleet.agent(AgentConfig {
            settings: settings(&[("max_upload_bandwidth", "2MB/s")]),
            ..Fleet::config()
        });
        fleet.share(seed);
    }
    fleet.world.run_for(S * 3);
    let host = fleet.agent(Fleet::config());
    let request = fleet.request();
    let call = fleet.get(host, request);
    let near = |link| HostFacts {
        interfaces: vec![
            interface("eth0", LinkKind::Ethernet, "10.0.1.3/16"),
            interface("wg0", link, "10.8.0.2/24"),
        ],
        ..HostFacts::default()
    };
    let peers = |fleet: &Fleet| {
        let events = fleet.world.events(host).iter().rev();
        let mut progress = events.filter_map(|event| match event {
            Event::Progress { progress, .. } => Some(progress.clone()),
            _ => None,
        });
        progress.next().unwrap()
    };
    let mut seen = Vec::new();
    for (link, met) in [
        (LinkKind::Ethernet, true),
        (LinkKind::Wireguard, false),
        (LinkKind::Ethernet, true),
    ] {
        fleet.world.host_facts(host, near(link));
        fleet.world.run_for(S * 4);
        let progress = peers(&fleet);
        assert_eq!(progress.peers > 0, met, "{progress:?}");
        seen.push(progress.received);
    }
    assert_eq!(
        seen[0].lan / MIB,
        seen[1].lan / MIB,
        "nothing while the VPN is up"
    );
    assert!(
        seen[1].origin > seen[0].origin && seen[2].lan > seen[1].lan,
        "{seen:?}"
    );
    fleet.finish(S * 120);
    let report = fleet.result(call).unwrap();
    assert!(
        report.received.lan > 0 && report.received.origin > 0,
        "{report:?}"
    );
    fleet.check_outputs();
}

#[test]
fn uploads_rest_and_go_on_by_themselves() {
    let mut fleet = Fleet::new(4, 24 * MIB, 2_000_000);
    let values = [("max_upload_bandwidth", "4MB/s"), ("upload_slots", "1")];
    let seed = fleet.agent(AgentConfig {
        settings: settings(&values),
        ..Fleet::config()
    });
    fleet.share(seed);
    fleet.world.run_for(S * 3);
    let host = fleet.agent(Fleet::config());
    let request = GetRequest {
        require_peers: true,
        ..fleet.request()
    };
    let call = fleet.get(host, request);
    fleet.world.run_for(S * 2);
    let received = |fleet: &Fleet| {
        let mut events = fleet.world.events(host).iter().rev();
        let last = events.find_map(|event| match event {
            Event::Progress { progress, .. } => Some(progress.received.lan),
            _ => None,
        });
        last.unwrap_or(0)
    };
    let on_battery = HostFacts {
        battery: Some(Battery {
            percent: 90,
            discharging: true,
        }),
        ..HostFacts::default()
    };
    fleet.world.host_facts(seed, on_battery);
    // What was read already still leaves.
    fleet.world.run_for(S);
    let before = received(&fleet);
    assert!(before > 0);
    fleet.world.run_for(S * 30);
    assert_eq!(received(&fleet), before, "nothing on battery");
    fleet.world.host_facts(seed, HostFacts::default());
    fleet.finish(S * 20);
    assert_eq!(fleet.result(call).unwrap().received.lan, 24 * MIB);
}
