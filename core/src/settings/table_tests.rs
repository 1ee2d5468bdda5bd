use super::table::{TABLE, find, row};
use super::{Effective, Settings};
use alloc::collections::BTreeSet;
use alloc::string::String;

/// Names every field: a new one does not compile here until it is named, and then needs its row.
#[test]
fn every_field_has_one_row() {
    macro_rules! fields {
        ($($field:ident),* $(,)?) => {{
            let Settings { $($field: _),* } = Settings::default();
            [$(stringify!($field)),*]
        }};
    }
    let fields = fields![
        download_mode,
        group_id,
        group_id_source,
        restrict_peer_selection_by,
        min_file_size_to_peer,
        peer_encryption,
        peer_transport,
        port_mapping,
        delay_foreground_download_from_http,
        delay_background_download_from_http,
        delay_includes_cache,
        min_background_qos,
        max_foreground_download_bandwidth,
        max_background_download_bandwidth,
        percentage_max_foreground_bandwidth,
        percentage_max_background_bandwidth,
        hours_to_limit_foreground_download_bandwidth,
        hours_to_limit_background_download_bandwidth,
        downlink_bandwidth,
        max_upload_bandwidth,
        monthly_upload_data_cap,
        upload_hours,
        max_foreground_jobs,
        max_background_jobs,
        max_cache_age,
        max_cache_size,
        absolute_max_cache_size,
        min_file_size_to_cache,
        modify_cache_drive,
        upload_slots,
        min_ram_allowed_to_peer,
        min_disk_size_allowed_to_peer,
        min_battery_percentage_allowed_to_upload,
        allow_vpn_peer_caching,
        vpn_keywords,
        allow_metered,
        cache_host,
        cache_host_source,
        delay_cache_server_fallback_foreground,
        delay_cache_server_fallback_background,
        disallow_cache_server_downloads_on_vpn,
        networks,
    ];
    let named: BTreeSet<&str> = TABLE.iter().map(|row| row.name).collect();
    assert_eq!(named.len(), TABLE.len(), "a name stands twice");
    let expected: BTreeSet<&str> = fields
        .into_iter()
        .map(|field| {
            if field == "networks" {
                "network"
            } else {
                field
            }
        })
        .collect();
    assert_eq!(named, expected);
}

#[test]
fn defaults_are_valid_and_render_as_themselves() {
    for row in TABLE.iter().filter(|row| row.name != "network") {
        let mut settings = Settings::default();
        row.put(&mut settings, &row.default()).unwrap();
        assert_eq!(settings, Settings::default(), "{}", row.name);
        assert!(
            !row.allowed().is_empty() && row.doc.ends_with('.'),
            "{}",
            row.name
        );
    }
    assert_eq!(Effective::default().values, Settings::default());
}

#[test]
fn every_policy_of_delivery_optimization_is_there() {
    for name in POLICIES {
        let (row, _) = find(name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(row.do_name, Some(name));
    }
    let named = TABLE.iter().filter(|row| row.do_name.is_some()).count();
    assert_eq!(named, POLICIES.len());
}

const POLICIES: [&str; 30] = [
    "DODownloadMode",
    "DOGroupID",
    "DOGroupIDSource",
    "DORestrictPeerSelectionBy",
    "DODelayForegroundDownloadFromHttp",
    "DODelayBackgroundDownloadFromHttp",
    "DOMinBackgroundQoS",
    "DOMaxForegroundDownloadBandwidth",
    "DOMaxBackgroundDownloadBandwidth",
    "DOPercentageMaxForegroundBandwidth",
    "DOPercentageMaxBackgroundBandwidth",
    "DOSetHoursToLimitForegroundDownloadBandwidth",
    "DOSetHoursToLimitBackgroundDownloadBandwidth",
    "DOMonthlyUploadDataCap",
    "DOMaxUploadBandwidth",
    "DOMaxCacheAge",
    "DOMaxCacheSize",
    "DOAbsoluteMaxCacheSize",
    "DOMinFileSizeToCache",
    "DOModifyCacheDrive",
    "DOMinRAMAllowedToPeer",
    "DOMinDiskSizeAllowedToPeer",
    "DOMinBatteryPercentageAllowedToUpload",
    "DOAllowVPNPeerCaching",
    "DOVpnKeywords",
    "DOCacheHost",
    "DOCacheHostSource",
    "DODelayCacheServerFallbackForeground",
    "DODelayCacheServerFallbackBackground",
    "DODisallowCacheServerDownloadsOnVPN",
];

/// Set by this text, a setting renders as that one.
#[track_caller]
fn renders(name: &str, cases: &[(&str, &str)]) {
    let row = row(name).unwrap();
    for (text, want) in cases {
        let mut settings = Settings::default();
        row.put(&mut settings, text)
            .unwrap_or_else(|e| panic!("{name} = {text}: {e}"));
        assert_eq!(row.show(&settings), *want, "{name} = {text}");
        let mut again = Settings::default();
        row.put(&mut again, want).unwrap();
        assert_eq!(again, settings, "{name} = {text}");
    }
}

#[track_caller]
fn refuses(name: &str, cases: &[(&str, &str)]) {
    let row = row(name).unwrap();
    for (text, want) in cases {
        let mut settings = Settings::default();
        let why = row.put(&mut settings, text).unwrap_err();
        assert_eq!(why, *want, "{name} = {text}");
        assert_eq!(settings, Settings::default(), "{name} = {text}");
    }
}

#[test]
fn rates() {
    renders(
        "max_upload_bandwidth",
        &[
            ("20MB/s", "20MB/s"),
            ("20 MB/s", "20MB/s"),
            ("100Mbit/s", "12.5MB/s"),
            ("500KB/s", "500KB/s"),
            ("2500KiB/s", "2500KiB/s"),
            ("1GiB/s", "1GiB/s"),
            ("1B/s", "1B/s"),
            ("123456789B/s", "123456.789KB/s"),
            ("0", "0"),
            ("0MB/s", "0"),
        ],
    );
    refuses(
        "max_upload_bandwidth",
        &[
            ("500", "it needs a unit, as in 500KB/s"),
            ("fast", "it does not start with a number"),
            ("-1", "it does not start with a number"),
            ("5 potatoes", "unknown unit `potatoes`"),
            (
                "20Mb/s",
                "`Mb` may mean bits or bytes: write `Mbit` or `MB`",
            ),
            ("20TB/s", "it is too large"),
            ("", "it does not start with a number"),
        ],
    );
    assert_eq!(
        row("max_upload_bandwidth").unwrap().allowed(),
        "a rate from 0 to 4TiB/s, as in 20MB/s"
    );
}

#[test]
fn sizes() {
    renders(
        "min_file_size_to_cache",
        &[
            ("50MB", "50MB"),
            ("2GiB", "2GiB"),
            ("1.5MB", "1500KB"),
            ("4096B", "4KiB"),
            ("0", "0"),
        ],
    );
    refuses(
        "min_file_size_to_cache",
        &[
            ("50", "it needs a unit, as in 50MB"),
            ("200TB", "it is too large"),
        ],
    );
    renders(
        "absolute_max_cache_size",
        &[("unset", "unset"), ("0", "0"), ("10GB", "10GB")],
    );
}

#[test]
fn spans() {
    renders(
        "max_cache_age",
        &[
            ("3d", "3d"),
            ("90s", "90s"),
            ("120s", "2min"),
            ("1.5h", "90min"),
            ("250ms", "250ms"),
            ("0", "0"),
        ],
    );
    refuses(
        "max_cache_age",
        &[
            ("259200", "it needs a unit, as in 259200s"),
            ("3 weeks", "unknown unit `weeks`"),
            ("99999d", "it is too large"),
        ],
    );
    renders(
        "delay_cache_server_fallback_foreground",
        &[
            ("0", "0"),
            ("30s", "30s"),
            ("never", "never"),
            ("-1", "never"),
        ],
    );
    refuses(
        "delay_cache_server_fallback_foreground",
        &[
            ("31d", "it is too large"),
            ("-2", "it does not start with a number"),
        ],
    );
}

#[test]
fn percentages_numbers_and_switches() {
    renders(
        "max_cache_size",
        &[
            ("45%", "45%"),
            ("45", "45%"),
            ("45 %", "45%"),
            ("100", "100%"),
        ],
    );
    refuses(
        "max_cache_size",
        &[
            ("0", "it is too small"),
            ("101%", "it is too large"),
            ("a lot", "it is not a whole number (of %)"),
            ("1.5", "it is not a whole number (of %)"),
        ],
    );
    renders("upload_slots", &[("1", "1"), ("64", "64")]);
    refuses(
        "upload_slots",
        &[
            ("0", "it is too small"),
            ("65", "it is too large"),
            ("4x", "it is not a whole number"),
        ],
    );
    renders(
        "allow_metered",
        &[
            ("true", "true"),
            ("yes", "true"),
            ("on", "true"),
            ("0", "false"),
            ("off", "false"),
        ],
    );
    refuses(
        "allow_metered",
        &[("maybe", "it is neither true nor false")],
    );
}

#[test]
fn choices() {
    renders(
        "download_mode",
        &[
            ("group", "group"),
            ("2", "group"),
            ("99", "simple"),
            ("http-only", "http-only"),
            ("100", "bypass"),
        ],
    );
    refuses(
        "download_mode",
        &[
            ("4", "there is no such choice"),
            ("LAN party", "there is no such choice"),
        ],
    );
    assert_eq!(
        row("download_mode").unwrap().allowed(),
        "http-only (0), lan (1), group (2), internet (3), simple (99) or bypass (100)"
    );
    renders(
        "group_id_source",
        &[
            ("dhcp", "dhcp"),
            ("3", "dhcp"),
            ("dns-suffix", "dns-suffix"),
            ("0", "unset"),
            ("unset", "unset"),
        ],
    );
    refuses("group_id_source", &[("1", "there is no such choice")]);
    renders(
        "restrict_peer_selection_by",
        &[("none", "none"), ("0", "none"), ("2", "local-discovery")],
    );
    renders(
        "cache_host_source",
        &[
            ("0", "static"),
            ("dhcp-forced", "dhcp-forced"),
            ("unset", "unset"),
        ],
    );
    renders(
        "peer_encryption",
        &[("required", "required"), ("off", "off")],
    );
    refuses("peer_encryption", &[("0", "there is no such choice")]);
    renders("peer_transport", &[("auto", "auto"), ("utp", "utp")]);
}

#[test]
fn texts_and_lists() {
    let long: String = "x".repeat(256);
    renders("group_id", &[("office", "office"), ("unset", "unset")]);
    refuses(
        "group_id",
        &[
            ("", "it is empty"),
            (&long, "it is too long"),
            ("a\nb", "it has a control character"),
        ],
    );
    renders("modify_cache_drive", &[("/srv/shelf", "/srv/shelf")]);
    refuses(
        "modify_cache_drive",
        &[("D:\\", "it does not begin with a slash")],
    );
    renders(
        "vpn_keywords",
        &[
            ("corp,tunnel", "corp, tunnel"),
            ("", ""),
            (" a , ,b", "a, b"),
        ],
    );
    renders(
        "cache_host",
        &[
            ("cache1, [fd00::5]:8080", "cache1, [fd00::5]:8080"),
            ("", ""),
        ],
    );
    refuses(
        "cache_host",
        &[(
            "http://cache1/",
            "`http://cache1/` is not HOST or HOST:PORT",
        )],
    );
}

#[test]
fn hours() {
    renders(
        "hours_to_limit_background_download_bandwidth",
        &[
            ("8-17 10% else 45%", "8-17 10% else 45%"),
            ("22 - 6 0 else 90", "22-6 0% else 90%"),
            ("unset", "unset"),
        ],
    );
    let shape = "it is not FROM-TO PERCENT else PERCENT";
    refuses(
        "hours_to_limit_background_download_bandwidth",
        &[
            ("8-17", shape),
            ("8 10% else 45%", shape),
            ("8-17 10%", shape),
            ("8-24 10% else 45%", "hour `24`: it is too large"),
            ("8-17 110% else 45%", "`110%`: it is too large"),
        ],
    );
}

#[test]
fn hours_of_the_day() {
    renders(
        "upload_hours",
        &[
            ("22-6", "22-6"),
            (" 9 - 17 ", "9-17"),
            ("0-0", "0-0"),
            ("unset", "unset"),
        ],
    );
    refuses(
        "upload_hours",
        &[
            ("22", "it is not FROM-TO"),
            ("at night", "it is not FROM-TO"),
            ("22-24", "hour `24`: it is too large"),
            ("22:30-6", "hour `22:30`: it is not a whole number"),
        ],
    );
    assert_eq!(
        row("upload_hours").unwrap().allowed(),
        "hours 0 to 23, as in 22-6, or unset"
    );
}
