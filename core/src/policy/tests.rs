//! Each restriction by itself. A month of them in virtual time is `core/tests/policy.rs`.

use super::*;
use crate::host::{Battery, DiskSpace, Interface, LinkKind};
use crate::settings::{CacheHostSource, DayHours};
use crate::stats::SourceClass;
use alloc::string::ToString as _;
use alloc::vec;
use core::net::IpAddr;

const GIB: u64 = 1024 * 1024 * 1024;

fn wall(unix_s: i64) -> Wall {
    Wall {
        unix_us: unix_s * 1_000_000,
        utc_offset_s: 0,
    }
}

fn interface(name: &str, link: LinkKind, subnet: &str, default_route: bool) -> Interface {
    Interface {
        name: name.into(),
        description: String::new(),
        link,
        subnets: vec![subnet.parse().unwrap()],
        default_route,
        gateways: Vec::new(),
    }
}

/// An office machine: wired, on mains, large enough.
fn office() -> HostFacts {
    HostFacts {
        interfaces: vec![
            interface("lo", LinkKind::Loopback, "127.0.0.1/8", false),
            interface("eth0", LinkKind::Ethernet, "10.1.2.3/24", true),
        ],
        ram_bytes: Some(16 * GIB),
        disk: Some(DiskSpace {
            free_bytes: 100 * GIB,
            total_bytes: 400 * GIB,
        }),
        ..HostFacts::default()
    }
}

fn of(settings: &Settings, facts: &HostFacts) -> Limits {
    limits(settings, facts, &Usage::default(), wall(1_780_000_000))
}

fn with(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = Settings::default();
    change(&mut settings);
    settings
}

#[test]
fn an_office_machine_may_do_everything() {
    let limits = of(&Settings::default(), &office());
    assert_eq!((limits.mode, limits.mode_reason), (Mode::Lan, None));
    assert_eq!(limits.uploads.stopped, None);
    assert_eq!(limits.local_networks, ["10.1.2.3/24".parse().unwrap()]);
    assert_eq!(limits.shelf.quota_bytes, Some(20 * GIB));
    assert_eq!(limits.background.paused, None);
}

#[test]
fn a_vpn_is_known_by_kind_by_word_and_by_route() {
    let table = [
        ("wg0", LinkKind::Wireguard, "", false, true),
        ("tun0", LinkKind::Tun, "", true, true),
        ("ipsec0", LinkKind::Tunnel, "", false, true),
        ("eth1", LinkKind::Ethernet, "", false, false),
        (
            "eth1",
            LinkKind::Ethernet,
            "Contoso vpn adapter",
            false,
            true,
        ),
        ("corp-vpn", LinkKind::Other, "", false, true),
        ("eth1", LinkKind::Ethernet, "AnyLink", false, true),
        // Beside the wired default route: somebody dialled in.
        ("ppp0", LinkKind::Ppp, "", false, true),
        ("ppp0", LinkKind::Ppp, "", true, true),
    ];
    let settings = with(|s| s.vpn_keywords = vec!["anylink".into()]);
    for (name, link, description, default_route, is_vpn) in table {
        let mut facts = office();
        facts.interfaces.push(Interface {
            description: description.into(),
            ..interface(name, link, "10.8.0.7/16", default_route)
        });
        let limits = of(&settings, &facts);
        let code = limits.mode_reason.map(|reason| reason.code);
        let expected = is_vpn.then_some(Code::Vpn);
        assert_eq!(code, expected, "{name} {link:?} {description}");
        assert_eq!(limits.local_networks.len(), if is_vpn { 1 } else { 2 });
        assert_eq!(limits.uploads.stopped.is_some(), is_vpn);
    }
    let mut modem = office();
    modem.interfaces.pop();
    modem
        .interfaces
        .push(interface("ppp0", LinkKind::Ppp, "100.64.1.1/32", true));
    assert_eq!(
        of(&settings, &modem).mode,
        Mode::Lan,
        "the line itself is no VPN"
    );
}

#[test]
fn a_vpn_allows_what_the_settings_allow() {
    let mut facts = office();
    facts
        .interfaces
        .push(interface("wg0", LinkKind::Wireguard, "10.8.0.7/16", false));
    assert_eq!(of(&Settings::default(), &facts).mode, Mode::HttpOnly);
    let allowed = with(|s| s.allow_vpn_peer_caching = true);
    assert_eq!(of(&allowed, &facts).mode, Mode::Lan);
    let local = with(|s| s.restrict_peer_selection_by = Restrict::LocalDiscovery);
    assert_eq!(of(&local, &facts).mode, Mode::Lan);
    let cached = with(|s| s.cache_host = vec!["cache".into()]);
    assert_eq!(of(&cached, &facts).caches.len(), 1);
    let forbidden = Settings {
        disallow_cache_server_downloads_on_vpn: true,
        ..cached
    };
    let limits = of(&forbidden, &facts);
    assert!(limits.caches.is_empty());
    assert_eq!(
        limits.caches_reason.unwrap().to_string(),
        "no cache servers while the VPN wg0 is up (disallow_cache_server_downloads_on_vpn; 0x80D03807)"
    );
    assert_eq!(of(&forbidden, &office()).caches.len(), 1);
}

#[test]
fn machines_too_small_do_not_peer() {
    let mut facts = office();
    facts.ram_bytes = Some(GIB);
    let limits = of(&Settings::default(), &facts);
    assert_eq!(limits.mode, Mode::HttpOnly);
    assert_eq!(
        limits.mode_reason.unwrap().setting,
        "min_ram_allowed_to_peer"
    );
    assert_eq!(
        of(&with(|s| s.min_ram_allowed_to_peer = 0), &facts).mode,
        Mode::Lan
    );
    let mut facts = office();
    facts.disk = Some(DiskSpace {
        free_bytes: GIB,
        total_bytes: 8 * GIB,
    });
    let limits = of(&Settings::default(), &facts);
    assert_eq!(
        limits.mode_reason.unwrap().setting,
        "min_disk_size_allowed_to_peer"
    );
    assert_eq!(
        of(&with(|s| s.min_disk_size_allowed_to_peer = 0), &facts).mode,
        Mode::Lan
    );
    let required = with(|s| s.peer_encryption = Encryption::Required);
    assert_eq!(of(&required, &office()).mode, Mode::HttpOnly);
}

#[test]
fn the_group_has_sources() {
    let group = |change: fn(&mut Settings), facts: &HostFacts| {
        let settings = with(|s| {
            s.download_mode = Mode::Group;
            change(s);
        });
        let limits = of(&settings, facts);
        (limits.mode, limits.group)
    };
    let mut facts = office();
    assert_eq!(group(|_| {}, &facts), (Mode::Lan, None));
    facts.dhcp_group_id = Some("site-7".into());
    facts.dns_suffix = Some("example.org".into());
    let named = |name: &str| (Mode::Group, Some(name.to_string()));
    assert_eq!(group(|_| {}, &facts), (Mode::Lan, None));
    assert_eq!(
        group(|s| s.group_id = Some("ours".into()), &facts),
        named("ours")
    );
    let dhcp = |s: &mut Settings| s.group_id_source = Some(GroupIdSource::DhcpOption234);
    assert_eq!(group(dhcp, &facts), named("site-7"));
    let dns = |s: &mut Settings| s.group_id_source = Some(GroupIdSource::DnsSuffix);
    assert_eq!(group(dns, &facts), named("example.org"));
    let both = |s: &mut Settings| {
        s.group_id_source = Some(GroupIdSource::DnsSuffix);
        s.group_id = Some("ours".into());
    };
    assert_eq!(group(both, &facts), named("ours"));
    assert_eq!(group(dhcp, &office()), (Mode::Lan, None));
    // Only read in mode 2.
    assert_eq!(
        of(&with(|s| s.group_id = Some("ours".into())), &facts).group,
        None
    );
}

#[test]
fn uploads_rest_on_battery_and_metered_networks() {
    let battery = |percent, discharging| {
        let mut facts = office();
        facts.battery = Some(Battery {
            percent,
            discharging,
        });
        facts
    };
    let never = Settings::default();
    let down_to_40 = with(|s| s.min_battery_percentage_allowed_to_upload = Percent(40));
    for (settings, facts, stopped) in [
        (&never, battery(10, false), false),
        (&never, battery(100, true), true),
        (&down_to_40, battery(40, true), false),
        (&down_to_40, battery(39, true), true),
        (&down_to_40, battery(5, false), false),
    ] {
        let limits = of(settings, &facts);
        assert_eq!(limits.uploads.stopped.is_some(), stopped, "{facts:?}");
        assert_eq!(limits.mode, Mode::Lan, "downloads from peers go on");
    }
    let mut facts = office();
    facts.metered = Some(true);
    let limits = of(&never, &facts);
    assert_eq!(limits.background.paused.as_ref().unwrap().code, Code::Cost);
    assert_eq!(limits.foreground.paused, None);
    assert!(limits.uploads.stopped.is_some());
    let allowed = of(&with(|s| s.allow_metered = true), &facts);
    assert_eq!(
        (allowed.background.paused, allowed.uploads.stopped),
        (None, None)
    );
}

#[test]
fn the_monthly_cap_stops_uploads_to_the_internet() {
    let usage = |internet_upload_bytes| Usage {
        internet_upload_bytes,
        ..Usage::default()
    };
    // 2026-01-31 23:00 UTC
    let now = wall(1_769_900_400);
    let settings = with(|s| s.monthly_upload_data_cap = 1000);
    let before = limits(&settings, &office(), &usage(999), now);
    assert_eq!(before.uploads.internet_stopped, None);
    let after = limits(&settings, &office(), &usage(1000), now);
    assert!(after.uploads.internet_stopped.is_some() && after.uploads.stopped.is_none());
    assert_eq!(after.next_change, Some(Duration::from_secs(3600)));
    let none = with(|s| s.monthly_upload_data_cap = 0);
    let free = limits(&none, &office(), &usage(u64::MAX), now);
    assert_eq!(
        (free.uploads.internet_stopped, free.next_change),
        (None, None)
    );
}

#[test]
fn percentages_are_of_the_line_and_the_lower_counts() {
    let hours = |inside, outside| HoursLimit {
        from: 8,
        to: 17,
        inside: Percent(inside),
        outside: Percent(outside),
    };
    // 2026-11-26 12:00 and 20:00 UTC
    let (noon, evening) = (wall(1_795_694_400), wall(1_795_723_200));
    let settings = with(|s| {
        s.percentage_max_background_bandwidth = Percent(45);
        s.hours_to_limit_background_download_bandwidth = Some(hours(10, 0));
        s.percentage_max_foreground_bandwidth = Percent(90);
    });
    let line = Usage {
        downlink_bytes_per_s: Some(1_000_000),
        ..Usage::default()
    };
    let wide = |settings: &Settings, usage: &Usage, now| {
        let limits = limits(settings, &office(), usage, now);
        (
            limits.foreground.wide_bytes_per_s,
            limits.background.wide_bytes_per_s,
        )
    };
    assert_eq!(wide(&settings, &line, noon), (900_000, 100_000));
    assert_eq!(wide(&settings, &line, evening), (900_000, 450_000));
    assert_eq!(
        wide(&settings, &Usage::default(), noon),
        (0, 0),
        "not measured yet"
    );
    let told = Settings {
        downlink_bandwidth: 500_000,
        ..settings.clone()
    };
    assert_eq!(wide(&told, &line, noon), (450_000, 50_000));
    let next = limits(&settings, &office(), &line, wall(1_795_694_400 + 3599)).next_change;
    assert_eq!(next, Some(Duration::from_secs(1)));
}

#[test]
fn cache_servers_in_their_order() {
    let names = |settings: &Settings, facts: &HostFacts| {
        let limits = of(settings, facts);
        limits
            .caches
            .iter()
            .map(|c| c.to_string())
            .collect::<Vec<_>>()
    };
    let mut facts = office();
    facts.found_caches = vec!["10.1.2.9:8081".into()];
    let set = with(|s| s.cache_host = vec!["a".into(), "https://b:444".into()]);
    assert_eq!(names(&Settings::default(), &office()), [""; 0]);
    assert_eq!(
        names(&Settings::default(), &facts),
        ["http://10.1.2.9:8081"]
    );
    assert_eq!(names(&set, &facts), ["http://a", "https://b:444"]);
    let empty = with(|s| s.cache_host = vec![String::new()]);
    assert_eq!(
        names(&empty, &facts),
        [""; 0],
        "an empty name counts as set"
    );
    let only_static = with(|s| s.cache_host_source = Some(CacheHostSource::Static));
    assert_eq!(names(&only_static, &facts), [""; 0]);
    facts.dhcp_cache_hosts = Some("d1, d2".into());
    let source = |source, base: &Settings| Settings {
        cache_host_source: Some(source),
        ..base.clone()
    };
    let by_dhcp = ["http://d1", "http://d2"];
    assert_eq!(
        names(&source(CacheHostSource::Dhcp, &Settings::default()), &facts),
        by_dhcp
    );
    assert_eq!(names(&source(CacheHostSource::Dhcp, &set), &facts).len(), 2);
    assert_eq!(
        names(&source(CacheHostSource::Dhcp, &set), &facts)[0],
        "http://a"
    );
    assert_eq!(
        names(&source(CacheHostSource::DhcpForced, &set), &facts),
        by_dhcp
    );
    facts.dhcp_cache_hosts = Some("d 1".into());
    assert_eq!(
        names(&source(CacheHostSource::DhcpForced, &set), &facts)[0],
        "http://a"
    );
    let bad = with(|s| s.cache_host = vec!["good".into(), "b a d".into()]);
    let limits = of(&bad, &facts);
    assert_eq!(limits.caches.len(), 1);
    assert!(limits.caches_reason.unwrap().text.contains("b a d"));
}

#[test]
fn peers_are_near_by_topology() {
    let addr = |text: &str| text.parse::<IpAddr>().unwrap();
    let mut facts = office();
    // Public addresses used within the office.
    facts.interfaces.push(interface(
        "eth1",
        LinkKind::Ethernet,
        "192.0.2.10/24",
        false,
    ));
    let limits = of(&Settings::default(), &facts);
    use SourceClass::{Group, Internet, Lan, LinkLocal};
    for (text, known, class) in [
        ("10.1.2.99", Known::Other, Lan),
        ("192.0.2.77", Known::Coordinator(Internet), Lan),
        ("192.0.3.77", Known::Coordinator(Lan), Lan),
        ("192.0.3.77", Known::Coordinator(Internet), Internet),
        ("192.0.3.77", Known::Other, Internet),
        ("10.9.9.9", Known::Coordinator(Group), Group),
        ("10.9.9.9", Known::Other, Group),
        ("169.254.7.7", Known::Coordinator(Lan), LinkLocal),
        ("fe80::1", Known::Other, LinkLocal),
        ("::ffff:10.1.2.99", Known::Other, Lan),
        ("127.0.0.1", Known::Caller, Lan),
    ] {
        assert_eq!(
            limits.class_of(addr(text), known),
            class,
            "{text} {known:?}"
        );
    }
    let unknown = of(&Settings::default(), &HostFacts::default());
    assert_eq!(unknown.class_of(addr("10.9.9.9"), Known::Other), Lan);
}

#[test]
fn modes_and_restrictions_choose_peers() {
    let addr = |text: &str| text.parse::<IpAddr>().unwrap();
    let (near, same_exit, site) = (addr("10.1.2.99"), addr("10.1.3.99"), addr("10.9.9.9"));
    let named = |class| Known::Coordinator(class);
    use SourceClass::{Group, Internet, Lan};
    let may = |mode, restrict, ip, class| {
        let settings = with(|s| {
            s.download_mode = mode;
            s.restrict_peer_selection_by = restrict;
            s.group_id = Some("ours".into());
        });
        let limits = of(&settings, &office());
        limits.may_meet(limits.mode, ip, class, named(class))
    };
    use Restrict::{Auto, LocalDiscovery, Subnet};
    for (mode, restrict, expected) in [
        (Mode::HttpOnly, Auto, [false; 4]),
        (Mode::Simple, Auto, [false; 4]),
        (Mode::Bypass, Auto, [false; 4]),
        (Mode::Lan, Auto, [true, false, false, false]),
        (Mode::Lan, Restrict::None, [true, true, false, false]),
        (Mode::Lan, Subnet, [true, false, false, false]),
        (Mode::Lan, LocalDiscovery, [false; 4]),
        (Mode::Group, Auto, [true, true, true, false]),
        (Mode::Group, Subnet, [true, false, false, false]),
        (Mode::Internet, Auto, [true; 4]),
        (Mode::Internet, Subnet, [true; 4]),
    ] {
        let found = [
            (near, Lan),
            (same_exit, Lan),
            (site, Group),
            (addr("192.0.2.1"), Internet),
        ]
        .map(|(ip, class)| may(mode, restrict, ip, class));
        assert_eq!(found, expected, "{mode:?} {restrict:?}");
    }
    let lan = of(&Settings::default(), &office());
    assert!(lan.may_meet(lan.mode, addr("192.0.2.1"), Internet, Known::Caller));
    let http = of(&with(|s| s.download_mode = Mode::HttpOnly), &office());
    assert!(!http.may_meet(http.mode, near, Lan, Known::Caller));
}

#[test]
fn the_shelf_has_one_quota_and_headroom() {
    let absolute = with(|s| s.absolute_max_cache_size = Some(7 * GIB));
    assert_eq!(of(&absolute, &office()).shelf.quota_bytes, Some(7 * GIB));
    let unlimited = with(|s| s.absolute_max_cache_size = Some(0));
    assert_eq!(of(&unlimited, &office()).shelf.quota_bytes, None);
    // What the shelf holds is not lost to it: the quota does not shrink as it fills.
    let usage = Usage {
        shelf_bytes: 100 * GIB,
        ..Usage::default()
    };
    let full = limits(&Settings::default(), &office(), &usage, wall(0));
    assert_eq!(full.shelf.quota_bytes, Some(40 * GIB));
    assert_eq!(full.shelf.headroom_bytes, HEADROOM_BYTES_MAX);
    assert_eq!(
        of(&with(|s| s.max_cache_age = Duration::ZERO), &office())
            .shelf
            .max_age,
        None
    );
}

#[test]
fn uploads_rest_outside_their_hours() {
    let night = with(|s| {
        s.upload_hours = Some(DayHours { from: 22, to: 6 });
        s.monthly_upload_data_cap = 0;
    });
    // 2026-05-28 21:59:59 UTC; an hour further east it is 22:59:59.
    let before = wall(1_780_005_599);
    let at = |now| limits(&night, &office(), &Usage::default(), now);
    let evening = at(before);
    assert_eq!(
        evening.uploads.stopped.unwrap().to_string(),
        "no uploads but from 22 to 6 o'clock (upload_hours; 0x80D03806)"
    );
    assert_eq!(evening.next_change, Some(Duration::from_secs(1)));
    assert_eq!(evening.background.paused, None);
    let east = Wall {
        utc_offset_s: 3600,
        ..before
    };
    let six = wall(1_780_005_600 + 8 * 3600);
    for (now, rests) in [
        (wall(1_780_005_600), false),
        (east, false),
        (wall(six.unix_us / 1_000_000 - 1), false),
        (six, true),
    ] {
        assert_eq!(at(now).uploads.stopped.is_some(), rests, "{now:?}");
    }
    let battery = HostFacts {
        battery: Some(Battery {
            percent: 80,
            discharging: true,
        }),
        ..office()
    };
    let both = limits(&night, &battery, &Usage::default(), before);
    assert_eq!(both.uploads.stopped.unwrap().code, Code::Power);
}
