//! The scenarios: each setting, what it is set to, and what is to be seen without and with it.

use super::*;

pub(super) fn scenarios() -> Vec<Scenario> {
    let scenario = |setting, value, lab, seen, without, with| Scenario {
        setting,
        value,
        lab,
        seen,
        without,
        with,
    };
    let group_seeds = || Lab {
        base: &[("download_mode", "group")],
        seeds: &["10.0.1.11"],
        seed_settings: &[("download_mode", "group"), ("group_id", "g")],
        ..LAB
    };
    let line = || Lab {
        base: &[("downlink_bandwidth", "10MB/s")],
        ..LAB
    };
    let front = || Lab {
        foreground: true,
        ..line()
    };
    let giving = || Lab {
        taker: Some("10.0.1.50"),
        ..LAB
    };
    let cached = || Lab {
        base: &[("cache_host", "c")],
        ..LAB
    };
    vec![
        scenario("download_mode", "http-only", peers(), from, "lan", "origin"),
        scenario("group_id", "g", group_seeds(), from, "origin", "lan"),
        scenario(
            "group_id_source",
            "dns-suffix",
            Lab {
                facts: facts(|f| f.dns_suffix = Some("g".into())),
                ..group_seeds()
            },
            from,
            "origin",
            "lan",
        ),
        scenario(
            "restrict_peer_selection_by",
            "none",
            Lab {
                facts: on_lan(),
                seeds: &["10.0.2.11"],
                ..LAB
            },
            from,
            "origin",
            "lan",
        ),
        scenario(
            "min_file_size_to_peer",
            "1MB",
            Lab {
                by_url: true,
                ..peers()
            },
            from,
            "origin",
            "lan",
        ),
        scenario(
            "peer_encryption",
            "required",
            peers(),
            from,
            "lan",
            "origin",
        ),
        scenario(
            "peer_transport",
            "tcp",
            Lab {
                seeds_drop_streams: true,
                base: &[("delay_background_download_from_http", "5s")],
                ..peers()
            },
            from,
            "lan",
            "origin",
        ),
        scenario(
            "port_mapping",
            "false",
            Lab {
                base: &[("download_mode", "internet")],
                facts: behind_a_router(),
                ..LAB
            },
            asks_router,
            "asks the router",
            "asks nobody",
        ),
        scenario(
            "delay_foreground_download_from_http",
            "5s",
            Lab {
                seed_settings: SLOW_SEEDS,
                foreground: true,
                ..peers()
            },
            origin_at,
            "after 0 s",
            "after 5 s",
        ),
        scenario(
            "delay_background_download_from_http",
            "5s",
            Lab {
                seed_settings: SLOW_SEEDS,
                ..peers()
            },
            origin_at,
            "after 0 s",
            "after 5 s",
        ),
        scenario(
            "delay_includes_cache",
            "true",
            Lab {
                seed_settings: SLOW_SEEDS,
                base: &[
                    ("delay_background_download_from_http", "5s"),
                    ("cache_host", "c"),
                ],
                ..peers()
            },
            origin_at,
            "after 0 s",
            "after 5 s",
        ),
        scenario(
            "min_background_qos",
            "100MB/s",
            Lab {
                seed_settings: &[("max_upload_bandwidth", "2MB/s")],
                ..peers()
            },
            from,
            "lan",
            "origin+lan",
        ),
        scenario(
            "max_foreground_download_bandwidth",
            "1MB/s",
            front(),
            pace,
            "fast",
            "slow",
        ),
        scenario(
            "max_background_download_bandwidth",
            "1MB/s",
            line(),
            pace,
            "fast",
            "slow",
        ),
        scenario(
            "percentage_max_foreground_bandwidth",
            "10%",
            front(),
            pace,
            "fast",
            "slow",
        ),
        scenario(
            "percentage_max_background_bandwidth",
            "10%",
            line(),
            pace,
            "fast",
            "slow",
        ),
        scenario(
            "hours_to_limit_foreground_download_bandwidth",
            "0-0 10% else 90%",
            front(),
            pace,
            "fast",
            "slow",
        ),
        scenario(
            "hours_to_limit_background_download_bandwidth",
            "0-0 10% else 90%",
            line(),
            pace,
            "fast",
            "slow",
        ),
        scenario(
            "downlink_bandwidth",
            "100MB/s",
            Lab {
                base: &[("percentage_max_background_bandwidth", "10%")],
                ..LAB
            },
            pace,
            "slow",
            "fast",
        ),
        scenario(
            "max_upload_bandwidth",
            "10KB/s",
            // Without the cap of the month nothing else ever makes the agent look at its limits.
            Lab {
                base: &[("monthly_upload_data_cap", "0B")],
                ..giving()
            },
            taken,
            "lan",
            "nothing",
        ),
        scenario(
            "monthly_upload_data_cap",
            "1MB",
            Lab {
                base: &[("download_mode", "internet")],
                seed_settings: &[("download_mode", "internet")],
                device: "203.0.113.1",
                taker: Some("198.51.100.1"),
                ..LAB
            },
            taken,
            "internet",
            "nothing",
        ),
        scenario("upload_hours", "12-13", giving(), taken, "lan", "nothing"),
        scenario(
            "max_foreground_jobs",
            "1",
            Lab {
                downloads: 2,
                foreground: true,
                ..LAB
            },
            waited,
            "",
            "its turn has not come (max_foreground_jobs = 1)",
        ),
        scenario(
            "max_background_jobs",
            "1",
            Lab {
                downloads: 2,
                ..LAB
            },
            waited,
            "",
            "its turn has not come (max_background_jobs = 1)",
        ),
        scenario("max_cache_age", "60s", keeping(), kept, "1", "0"),
        scenario(
            "max_cache_size",
            "1%",
            Lab {
                facts: facts(|f| {
                    f.disk = Some(DiskSpace {
                        free_bytes: 400_000_000,
                        total_bytes: GB,
                    })
                }),
                base: &[
                    ("min_file_size_to_cache", "0B"),
                    ("min_disk_size_allowed_to_peer", "0B"),
                ],
                ..keeping()
            },
            kept,
            "1",
            "0",
        ),
        scenario("absolute_max_cache_size", "5MB", keeping(), kept, "1", "0"),
        scenario(
            "min_file_size_to_cache",
            "1MB",
            Lab {
                base: &[],
                ..keeping()
            },
            kept,
            "0",
            "1",
        ),
        scenario(
            "modify_cache_drive",
            "/big",
            keeping(),
            |outcome| format!("{} {}", outcome.kept, outcome.kept_elsewhere),
            "1 0",
            "0 1",
        ),
        scenario(
            "upload_slots",
            "1",
            Lab {
                downloads: 2,
                ..keeping()
            },
            |outcome| outcome.offered.to_string(),
            "2",
            "1",
        ),
        scenario(
            "min_ram_allowed_to_peer",
            "1GB",
            Lab {
                facts: facts(|f| f.ram_bytes = Some(2 * GB)),
                ..peers()
            },
            from,
            "origin",
            "lan",
        ),
        scenario(
            "min_disk_size_allowed_to_peer",
            "5GB",
            Lab {
                facts: facts(|f| {
                    f.disk = Some(DiskSpace {
                        free_bytes: GB,
                        total_bytes: 10 * GB,
                    })
                }),
                ..peers()
            },
            from,
            "origin",
            "lan",
        ),
        scenario(
            "min_battery_percentage_allowed_to_upload",
            "40%",
            Lab {
                facts: facts(|f| {
                    f.battery = Some(Battery {
                        percent: 50,
                        discharging: true,
                    })
                }),
                ..giving()
            },
            taken,
            "nothing",
            "lan",
        ),
        scenario(
            "allow_vpn_peer_caching",
            "true",
            Lab {
                facts: on_vpn(),
                ..peers()
            },
            from,
            "origin",
            "lan",
        ),
        scenario(
            "vpn_keywords",
            "corp",
            Lab {
                facts: facts(|f| {
                    f.interfaces = vec![
                        subnet("10.0.1.1/24", "eth0", LinkKind::Ethernet),
                        subnet("10.8.0.2/24", "corp0", LinkKind::Ethernet),
                    ]
                }),
                ..peers()
            },
            from,
            "lan",
            "origin",
        ),
        scenario(
            "allow_metered",
            "true",
            Lab {
                facts: facts(|f| f.metered = Some(true)),
                ..LAB
            },
            from,
            "waits",
            "origin",
        ),
        scenario("cache_host", "c", LAB, from, "origin", "cache"),
        scenario(
            "cache_host_source",
            "dhcp",
            Lab {
                facts: facts(|f| f.dhcp_cache_hosts = Some("c".into())),
                ..LAB
            },
            from,
            "origin",
            "cache",
        ),
        scenario(
            "delay_cache_server_fallback_foreground",
            "20s",
            Lab {
                foreground: true,
                cache_fails: true,
                ..cached()
            },
            origin_only_at,
            "after 0 s",
            "after 20 s",
        ),
        scenario(
            "delay_cache_server_fallback_background",
            "20s",
            Lab {
                cache_fails: true,
                ..cached()
            },
            origin_only_at,
            "after 0 s",
            "after 20 s",
        ),
        scenario(
            "disallow_cache_server_downloads_on_vpn",
            "true",
            Lab {
                facts: on_vpn(),
                ..cached()
            },
            from,
            "cache",
            "origin",
        ),
        scenario(
            "network",
            "on = \"10.0.1.0/24\"\ndownload_mode = \"http-only\"",
            Lab {
                facts: on_lan(),
                ..peers()
            },
            from,
            "lan",
            "origin",
        ),
    ]
}
