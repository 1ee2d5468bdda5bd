use super::{Effective, Layers, Mode, Percent, Provider, SetBy, Source};
use crate::host::{HostFacts, Interface};
use crate::settings::Fallback;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

fn source(place: &str, text: &str) -> Source {
    Source {
        place: place.into(),
        text: text.into(),
    }
}

fn read(layers: &mut Layers, provider: Provider, place: &str, text: &str) -> Vec<String> {
    let problems = layers.read(provider, &[source(place, text)]);
    problems.iter().map(ToString::to_string).collect()
}

fn file(text: &str) -> (Layers, Vec<String>) {
    let mut layers = Layers::default();
    let problems = read(&mut layers, Provider::File, "/etc/d.toml", text);
    (layers, problems)
}

fn effective(layers: &Layers) -> Effective {
    layers.effective(&HostFacts::default())
}

/// "value (set by …)" and one line for each that is ignored.
fn told(effective: &Effective, name: &str) -> Vec<String> {
    let row = effective.row(name).unwrap();
    let mut lines = vec![alloc::format!("{} ({})", row.value, row.set_by)];
    lines.extend(
        row.ignored
            .iter()
            .map(|i| alloc::format!("{} ({}): {}", i.value, i.set_by, i.why)),
    );
    lines
}

#[test]
fn values_of_every_form() {
    let (layers, problems) = file(
        "download_mode = 2\n\
         group_id = \"office\"\n\
         max_cache_age = \"7d\" # a week\n\
         max_cache_size = 45\n\
         allow_metered = true\n\
         vpn_keywords = [\"corp\", \"tunnel\"]\n\
         cache_host = \"cache1, cache2:8080\"\n\
         upload_slots = 0x8\n\
         delay_cache_server_fallback_background = -1\n\
         hours_to_limit_background_download_bandwidth = {from = 8, to = 17, inside = 10, outside = \"45%\"}\n\
         [hours_to_limit_foreground_download_bandwidth]\n\
         From = 22\nTo = 6\nIn = 0\nOut = 90\n",
    );
    assert_eq!(problems, Vec::<String>::new());
    let values = effective(&layers).values;
    assert_eq!(values.download_mode, Mode::Group);
    assert_eq!(values.group_id.as_deref(), Some("office"));
    assert_eq!(values.max_cache_age, Duration::from_secs(7 * 86_400));
    assert_eq!(values.max_cache_size, Percent(45));
    assert!(values.allow_metered);
    assert_eq!(values.vpn_keywords, ["corp", "tunnel"]);
    assert_eq!(values.cache_host, ["cache1", "cache2:8080"]);
    assert_eq!(values.upload_slots, 8);
    assert_eq!(
        values.delay_cache_server_fallback_background,
        Fallback::Never
    );
    let hours = values.hours_to_limit_background_download_bandwidth.unwrap();
    assert_eq!(
        (hours.from, hours.to, hours.inside, hours.outside),
        (8, 17, Percent(10), Percent(45))
    );
    let hours = values.hours_to_limit_foreground_download_bandwidth.unwrap();
    assert_eq!(
        (hours.from, hours.to, hours.inside, hours.outside),
        (22, 6, Percent(0), Percent(90))
    );
}

#[test]
fn what_is_wrong_says_where_and_what_would_be_right() {
    for (text, want) in [
        (
            "\nmax_cache_agee = \"3d\"",
            "/etc/d.toml:2: max_cache_agee: there is no such setting; did you mean max_cache_age?",
        ),
        (
            "colour = \"blue\"",
            "/etc/d.toml:1: colour: there is no such setting; `dovetail config --help` lists all",
        ),
        (
            "DOMaxCacheAg = 3",
            "/etc/d.toml:1: DOMaxCacheAg: there is no such setting; did you mean DOMaxCacheAge?",
        ),
        (
            "DOMaxDownloadBandwidth = 3",
            "/etc/d.toml:1: DOMaxDownloadBandwidth: Windows has given this policy up; write \
             DOMaxForegroundDownloadBandwidth and DOMaxBackgroundDownloadBandwidth",
        ),
        (
            "max_upload_bandwidth = 500",
            "/etc/d.toml:1: max_upload_bandwidth: `500`: it needs a unit, as in 500KB/s; allowed: a rate from 0 \
             to 4TiB/s, as in 20MB/s",
        ),
        (
            "DOMaxUploadBandwidth = \"500KB/s\"",
            "/etc/d.toml:1: DOMaxUploadBandwidth: `500KB/s`: it is not a whole number (of KB/s); allowed: a whole \
             number of KB/s from 0 to 4294967295",
        ),
        (
            "max_cache_size = 0",
            "/etc/d.toml:1: max_cache_size: `0`: it is too small; allowed: a percentage from 1% to 100%",
        ),
        (
            "download_mode = [1]",
            "/etc/d.toml:1: download_mode: `[1]`: it is a list; allowed: http-only (0), lan (1), group (2), \
             internet (3), simple (99) or bypass (100)",
        ),
        (
            "vpn_keywords = [\"a,b\"]",
            "/etc/d.toml:1: vpn_keywords: `[a,b]`: `a,b` has a comma; allowed: a list of words, as in \
             [\"corp\", \"tunnel\"] or \"corp, tunnel\"",
        ),
        (
            "hours_to_limit_background_download_bandwidth = {from = 8, to = 17, inside = 10}",
            "/etc/d.toml:1: hours_to_limit_background_download_bandwidth: `outside` is missing; allowed: hours 0 \
             to 23 and percentages, as in \"8-17 10% else 45%\" or {from = 8, to = 17, inside = 10, outside = 45}, \
             or unset",
        ),
        (
            "max_cache_age = \"1d\"\nDOMaxCacheAge = 3",
            "/etc/d.toml:2: DOMaxCacheAge: it is the same setting as in /etc/d.toml:1, which counts",
        ),
        (
            "upload_slots = 4\nupload_slots = 5",
            "/etc/d.toml:2: duplicate key; nothing of this file is taken",
        ),
        (
            "a = \n",
            "/etc/d.toml:1: string values must be quoted, expected literal string; nothing of this file is taken",
        ),
        (
            "[[network]]\nupload_slots = 4",
            "/etc/d.toml:1: network: it does not say where it holds: `on` is missing",
        ),
        (
            "[[network]]\non = \"home\"",
            "/etc/d.toml:2: on: `home` is not a network; allowed: an address and the length of its prefix, as in \
             10.8.0.0/16",
        ),
        (
            "network = \"10.0.0.0/8\"",
            "/etc/d.toml:1: network: it is written as tables in a file; allowed: [[network]] tables in a file, \
             each with on = \"10.8.0.0/16\" and settings",
        ),
    ] {
        let (layers, problems) = file(text);
        assert_eq!(problems, [want]);
        let told: Vec<String> = layers.problems().map(ToString::to_string).collect();
        assert_eq!(told, problems);
    }
}

#[test]
fn names_of_delivery_optimization_have_its_units() {
    let (layers, problems) = file(
        "DODownloadMode = 3\n\
         DOMaxUploadBandwidth = 500\n\
         DOMinBackgroundQoS = \"2500\"\n\
         DOMonthlyUploadDataCap = 20\n\
         DOMaxCacheAge = 259200\n\
         DOMinFileSizeToCache = 50\n\
         DOMinRAMAllowedToPeer = 4\n\
         DOPercentageMaxBackgroundBandwidth = 45\n\
         DOAllowVPNPeerCaching = 1\n\
         DOVpnKeywords = \"corp,tunnel\"\n\
         DelayCacheServerFallbackForeground = 30\n\
         DOSetHoursToLimitBackgroundDownloadBandwidth = {From = 8, To = 17, In = 10, Out = 45}",
    );
    assert_eq!(problems, Vec::<String>::new());
    let now = effective(&layers);
    for (name, want) in [
        ("download_mode", "internet"),
        ("max_upload_bandwidth", "500KiB/s"),
        ("min_background_qos", "2500KiB/s"),
        ("monthly_upload_data_cap", "20GB"),
        ("max_cache_age", "3d"),
        ("min_file_size_to_cache", "50MB"),
        ("min_ram_allowed_to_peer", "4GB"),
        ("percentage_max_background_bandwidth", "45%"),
        ("allow_vpn_peer_caching", "true"),
        ("vpn_keywords", "corp, tunnel"),
        ("delay_cache_server_fallback_foreground", "30s"),
        (
            "hours_to_limit_background_download_bandwidth",
            "8-17 10% else 45%",
        ),
    ] {
        assert_eq!(now.row(name).unwrap().value, want, "{name}");
    }
    for bad in [
        "DOMinRAMAllowedToPeer = 0",
        "DOMaxCacheSize = 101",
        "DOMinBackgroundQoS = 4294967296",
    ] {
        assert_eq!(file(bad).1.len(), 1, "{bad}");
    }
}

#[test]
fn the_later_provider_goes_first() {
    let mut layers = Layers::default();
    let all = [
        (Provider::AdminConfig, "{\"DOMaxCacheAge\": 86400}", "1d"),
        (Provider::File, "max_cache_age = \"2d\"", "2d"),
        (Provider::Home, "max_cache_age = \"3d\"", "3d"),
        (Provider::GroupPolicy, "max_cache_age = \"4d\"", "4d"),
    ];
    for (provider, text, want) in all {
        let problems = read(&mut layers, provider, provider.name(), text);
        assert_eq!(problems, Vec::<String>::new());
        let now = effective(&layers);
        assert_eq!(now.set_by("max_cache_age").provider, provider);
        assert_eq!(now.row("max_cache_age").unwrap().value, want);
    }
    layers
        .set(Provider::Environment, "max_cache_age", "5d")
        .unwrap();
    layers
        .set_at(Provider::CommandLine, "--max-age", "max_cache_age", "6d")
        .unwrap();
    assert_eq!(
        told(&effective(&layers), "max_cache_age"),
        [
            "6d (set by --max-age)",
            "1d (set by admin_config:1): --max-age goes first",
            "2d (set by file:1): --max-age goes first",
            "3d (set by home:1): --max-age goes first",
            "4d (set by group_policy:1): --max-age goes first",
            "5d (set by DOVETAIL_MAX_CACHE_AGE): --max-age goes first",
        ]
    );
    assert_eq!(told(&effective(&layers), "upload_slots"), ["4 (built in)"]);
    read(
        &mut layers,
        Provider::File,
        "file",
        "[locked]\nmax_cache_age = \"7d\"",
    );
    let now = effective(&layers);
    assert_eq!(now.values.max_cache_age, Duration::from_secs(7 * 86_400));
    assert_eq!(
        told(&now, "max_cache_age"),
        [
            "7d (locked by file:2)",
            "1d (set by admin_config:1): locked by file:2",
            "3d (set by home:1): locked by file:2",
            "4d (set by group_policy:1): locked by file:2",
            "5d (set by DOVETAIL_MAX_CACHE_AGE): locked by file:2",
            "6d (set by --max-age): locked by file:2",
        ]
    );
    assert_eq!(
        now.explain("max_cache_age"),
        "max_cache_age = 7d (locked by file:2)"
    );
    assert_eq!(layers.lock("max_cache_age").unwrap().place, "file:2");
    assert_eq!(layers.lock("upload_slots"), None);
}

#[test]
fn only_an_administrators_file_locks() {
    for provider in [Provider::Home, Provider::GroupPolicy] {
        let mut layers = Layers::default();
        let problems = read(&mut layers, provider, "x", "[locked]\nupload_slots = 9");
        assert_eq!(
            problems,
            ["x:1: locked: only a file of the administrator can lock settings"]
        );
        assert_eq!(effective(&layers), Effective::default());
    }
    let mut layers = Layers::default();
    let problems = read(
        &mut layers,
        Provider::GroupPolicy,
        "x",
        "[[network]]\non = \"::/0\"\nupload_slots = 9",
    );
    assert_eq!(
        problems,
        ["x:1: network: only a file on this machine can have rules for networks"]
    );
}

#[test]
fn the_later_drop_in_counts() {
    let mut layers = Layers::default();
    let sources = [
        source("main", "upload_slots = 5\nmax_cache_size = 30"),
        source("10", "upload_slots = 6"),
        source("20", "upload_slots = 7"),
    ];
    assert_eq!(layers.read(Provider::File, &sources), []);
    assert_eq!(
        told(&effective(&layers), "upload_slots"),
        [
            "7 (set by 20:1)",
            "5 (set by main:1): 20:1 comes later",
            "6 (set by 10:1): 20:1 comes later",
        ]
    );
    assert_eq!(
        told(&effective(&layers), "max_cache_size"),
        ["30% (set by main:2)"]
    );
    layers.read(Provider::File, &sources[..2]);
    assert_eq!(effective(&layers).values.upload_slots, 6);
    layers.read(Provider::File, &[]);
    assert_eq!(layers, Layers::default());
}

#[test]
fn a_value_that_goes_bad_stays_as_it_was() {
    let (mut layers, _) = file("upload_slots = 5\nmax_cache_size = 30");
    let problems = read(
        &mut layers,
        Provider::File,
        "/etc/d.toml",
        "upload_slots = 5000\nmax_cache_size = 40",
    );
    assert_eq!(problems.len(), 1);
    assert_eq!(
        told(&effective(&layers), "upload_slots"),
        ["5 (set by /etc/d.toml:1, as it was before)"]
    );
    assert_eq!(effective(&layers).values.max_cache_size, Percent(40));
    // Still bad, still as it was; then gone.
    read(
        &mut layers,
        Provider::File,
        "/etc/d.toml",
        "\nupload_slots = 0",
    );
    assert_eq!(
        told(&effective(&layers), "upload_slots"),
        ["5 (set by /etc/d.toml:1, as it was before)"]
    );
    read(&mut layers, Provider::File, "/etc/d.toml", "");
    assert_eq!(effective(&layers), Effective::default());
    // With nothing before, the provider below counts.
    read(
        &mut layers,
        Provider::AdminConfig,
        "admin",
        "{\"DOMaxCacheSize\": 12}",
    );
    read(
        &mut layers,
        Provider::File,
        "/etc/d.toml",
        "max_cache_size = 1000",
    );
    assert_eq!(
        told(&effective(&layers), "max_cache_size"),
        ["12% (set by admin:1)"]
    );
}

#[test]
fn a_file_that_goes_bad_stays_as_it_was() {
    let text = "upload_slots = 5\n[locked]\nmax_cache_size = 30\n[[network]]\non = \"10.0.0.0/8\"\nupload_slots = 2";
    let mut layers = Layers::default();
    let other = source("other", "max_foreground_jobs = 3");
    layers.read(Provider::File, &[source("a", text), other.clone()]);
    let before = layers.effective(&at("10.1.1.1")).values;
    assert_eq!(
        (before.upload_slots, before.max_cache_size),
        (2, Percent(30))
    );
    let problems = layers.read(Provider::File, &[source("a", "upload_slots = "), other]);
    assert_eq!(problems.len(), 1);
    assert_eq!(layers.effective(&at("10.1.1.1")).values, before);
}

fn at(addr: &str) -> HostFacts {
    HostFacts {
        interfaces: vec![Interface {
            subnets: vec![alloc::format!("{addr}/24").parse().unwrap()],
            ..Interface::default()
        }],
        ..HostFacts::default()
    }
}

#[test]
fn rules_for_networks_hold_where_the_host_is() {
    let (mut layers, problems) = file(
        "download_mode = \"lan\"\n\
         [[network]]\n\
         on = \"10.8.0.0/16\"\n\
         download_mode = \"simple\"\n\
         DOMaxUploadBandwidth = 100\n\
         [[network]]\n\
         on = \"10.8.7.0/24\"\n\
         download_mode = \"bypass\"\n",
    );
    assert_eq!(problems, Vec::<String>::new());
    let away = layers.effective(&at("192.168.1.5"));
    assert_eq!(away.values.download_mode, Mode::Lan);
    assert_eq!(away.values.networks.len(), 2);
    assert_eq!(
        told(&away, "network"),
        [
            "on 10.8.0.0/16: download_mode = simple, max_upload_bandwidth = 100KiB/s; \
             on 10.8.7.0/24: download_mode = bypass (set by /etc/d.toml)"
        ]
    );
    let vpn = layers.effective(&at("10.8.1.5"));
    assert_eq!(vpn.values.download_mode, Mode::Simple);
    assert_eq!(vpn.values.max_upload_bandwidth, 100 * 1024);
    assert_eq!(
        told(&vpn, "download_mode"),
        [
            "simple (set by /etc/d.toml:4 for network 10.8.0.0/16)",
            "lan (set by /etc/d.toml:1): /etc/d.toml:4 for network 10.8.0.0/16 comes later",
        ]
    );
    let room = layers.effective(&at("10.8.7.5"));
    assert_eq!(room.values.download_mode, Mode::Bypass);
    assert_eq!(
        room.row("network").unwrap().value,
        "on 10.8.0.0/16: download_mode = simple, max_upload_bandwidth = 100KiB/s; on 10.8.7.0/24: download_mode = bypass"
    );
    layers
        .set(Provider::Environment, "download_mode", "internet")
        .unwrap();
    assert_eq!(
        layers.effective(&at("10.8.7.5")).values.download_mode,
        Mode::Internet
    );
}

#[test]
fn microsofts_file() {
    let mut layers = Layers::default();
    let problems = read(
        &mut layers,
        Provider::AdminConfig,
        "admin-config.json",
        "{\n  \"DOCacheHost\": \"cache1\",\n  \"DODelayCacheServerFallbackBackground\": \"-1\",\n  \
         \"DODelayCacheServerFallbackForeground\": 30,\n  \"RestControllerValidateRemoteAddr\": false,\n  \
         \"DOMaxCacheAge\": null,\n  \"DOWhatever\": 1,\n  \"upload_slots\": 3\n}",
    );
    assert_eq!(
        problems,
        [
            "admin-config.json:6: DOMaxCacheAge: it is null; allowed: a whole number of s from 0 to 4294967295",
            "admin-config.json:7: DOWhatever: there is no such setting; `dovetail config --help` lists all",
            "admin-config.json:8: upload_slots: this file has Microsoft's names only",
        ]
    );
    let values = effective(&layers).values;
    assert_eq!(values.cache_host, ["cache1"]);
    assert_eq!(
        values.delay_cache_server_fallback_background,
        Fallback::Never
    );
    assert_eq!(
        values.delay_cache_server_fallback_foreground,
        Fallback::After(Duration::from_secs(30))
    );
    let problems = read(
        &mut layers,
        Provider::AdminConfig,
        "admin-config.json",
        "{\n\"DOCacheHost\": ",
    );
    assert_eq!(
        problems,
        ["admin-config.json:2: EOF while parsing a value; nothing of this file is taken"]
    );
    assert_eq!(effective(&layers).values, values);
    // An empty text is an answer.
    read(
        &mut layers,
        Provider::AdminConfig,
        "admin-config.json",
        "{\"DOCacheHost\": \"\"}",
    );
    let now = effective(&layers);
    assert!(now.values.cache_host.is_empty());
    assert_eq!(now.set_by("cache_host").provider, Provider::AdminConfig);
}

#[test]
fn settings_that_others_make_meaningless() {
    let facts = HostFacts {
        dhcp_cache_hosts: Some("cache9".into()),
        ..HostFacts::default()
    };
    for (text, name, why) in [
        (
            "group_id = \"a\"",
            "group_id",
            "download_mode is lan (built in)",
        ),
        (
            "group_id_source = 3",
            "group_id_source",
            "download_mode is lan (built in)",
        ),
        (
            "download_mode = 2\ngroup_id = \"a\"\ngroup_id_source = 3",
            "group_id_source",
            "group_id is a (set by /etc/d.toml:2)",
        ),
        (
            "max_cache_size = 10\nabsolute_max_cache_size = \"1GB\"",
            "max_cache_size",
            "absolute_max_cache_size is 1GB (set by /etc/d.toml:2)",
        ),
        (
            "cache_host_source = 2\ncache_host = \"c\"",
            "cache_host",
            "cache_host_source is dhcp-forced (set by /etc/d.toml:1), and DHCP says cache9",
        ),
        (
            "download_mode = 0\ndelay_background_download_from_http = \"60s\"",
            "delay_background_download_from_http",
            "download_mode is http-only (set by /etc/d.toml:1)",
        ),
        (
            "download_mode = 3\nrestrict_peer_selection_by = 2",
            "restrict_peer_selection_by",
            "download_mode is internet (set by /etc/d.toml:1)",
        ),
    ] {
        let (layers, problems) = file(text);
        assert_eq!(problems, Vec::<String>::new());
        let now = layers.effective(&facts);
        let ignored = &now.row(name).unwrap().ignored;
        assert_eq!(ignored.len(), 1, "{text}");
        assert_eq!(ignored[0].why, why);
        assert_eq!(ignored[0].value, now.row(name).unwrap().value);
    }
    let fine = "download_mode = 2\ngroup_id = \"a\"\nrestrict_peer_selection_by = 0\nmax_cache_size = 10\n\
                percentage_max_background_bandwidth = 10\ncache_host = \"c\"\ncache_host_source = 1\n\
                min_background_qos = \"1MB/s\"";
    let now = file(fine).0.effective(&facts);
    assert!(now.rows().iter().all(|row| row.ignored.is_empty()));
}

#[test]
fn a_policy_travels_as_texts() {
    let mut coordinator = Layers::default();
    let problems = read(
        &mut coordinator,
        Provider::GroupPolicy,
        "policy.toml",
        "DOMaxCacheAge = 60\nupload_slots = 9",
    );
    assert_eq!(problems, Vec::<String>::new());
    let mut values = coordinator.values_of(Provider::GroupPolicy);
    assert_eq!(
        values.get("max_cache_age").map(String::as_str),
        Some("1min")
    );
    let mut agent = Layers::default();
    assert_eq!(
        agent.read_values(Provider::GroupPolicy, "the coordinator's policy", &values),
        []
    );
    values.insert("upload_slots".into(), "many".into());
    values.insert("from_the_future".into(), "1".into());
    let problems = agent.read_values(Provider::GroupPolicy, "the coordinator's policy", &values);
    assert_eq!(problems.len(), 2);
    let now = effective(&agent);
    assert_eq!(now.values.upload_slots, 9);
    assert_eq!(
        now.set_by("max_cache_age"),
        SetBy {
            provider: Provider::GroupPolicy,
            place: "the coordinator's policy".into()
        }
    );
}

#[test]
fn what_is_typed_is_checked_at_once() {
    let mut layers = Layers::default();
    let problem = layers
        .set(Provider::CommandLine, "upload_slotz", "4")
        .unwrap_err();
    assert_eq!(
        problem.to_string(),
        "--set upload_slotz: upload_slotz: there is no such setting; did you mean upload_slots?"
    );
    let problem = layers
        .set(Provider::CommandLine, "upload_slots", "0")
        .unwrap_err();
    let failure = crate::failure::Failure::from(problem);
    assert_eq!(
        failure.to_string(),
        "cannot use upload_slots (--set upload_slots): `0`: it is too small; allowed: a number from 1 to 64"
    );
    assert_eq!(layers, Layers::default());
}
