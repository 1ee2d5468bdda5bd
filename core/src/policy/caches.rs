//! Which cache servers a download may use, in which order.
//!
//! Order as in Microsoft's troubleshooter: on a VPN none if that is forbidden; DHCP first if it is forced;
//! else what is set, else DHCP if it is asked for, else what DNS-SD found unless that is forbidden. An empty
//! list that somebody has set counts as set.

use super::{Code, Reason};
use crate::host::HostFacts;
use crate::http::CacheHost;
use crate::settings::{CacheHostSource, Mode, Settings};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

/// Is it worth looking for cache servers by DNS-SD?
pub(super) fn looks_for_caches(settings: &Settings, mode: Mode) -> bool {
    mode != Mode::Bypass && uses_found_caches(settings)
}

const fn uses_found_caches(settings: &Settings) -> bool {
    settings.cache_host_source.is_none() && settings.cache_host.is_empty()
}

pub(super) fn caches(
    settings: &Settings,
    facts: &HostFacts,
    vpn: Option<&str>,
) -> (Vec<CacheHost>, Option<Reason>) {
    let by_dhcp = || -> Vec<String> {
        let hosts = facts.dhcp_cache_hosts.as_deref().unwrap_or_default();
        let hosts = hosts.split(',').map(|host| host.trim().to_string());
        hosts.filter(|host| !host.is_empty()).collect()
    };
    let set = || settings.cache_host.clone();
    let (setting, names) = match settings.cache_host_source {
        Some(CacheHostSource::DhcpForced) => match readable(&by_dhcp()) {
            Ok(hosts) if !hosts.is_empty() => ("cache_host_source", by_dhcp()),
            _ => ("cache_host", set()),
        },
        Some(CacheHostSource::Dhcp) if settings.cache_host.is_empty() => {
            ("cache_host_source", by_dhcp())
        }
        None if uses_found_caches(settings) => ("cache_host_source", facts.found_caches.clone()),
        _ => ("cache_host", set()),
    };
    let names: Vec<String> = names.into_iter().filter(|name| !name.is_empty()).collect();
    if let Some(vpn) =
        vpn.filter(|_| !names.is_empty() && settings.disallow_cache_server_downloads_on_vpn)
    {
        let text = format!("no cache servers while the VPN {vpn} is up");
        let reason = Reason::new(Code::Vpn, "disallow_cache_server_downloads_on_vpn", text);
        return (Vec::new(), Some(reason));
    }
    match readable(&names) {
        Ok(hosts) => (hosts, None),
        Err(text) => {
            let good = names.iter().filter_map(|name| name.parse().ok()).collect();
            (good, Some(Reason::new(Code::Policy, setting, text)))
        }
    }
}

fn readable(names: &[String]) -> Result<Vec<CacheHost>, String> {
    let read = |name: &String| {
        name.parse::<CacheHost>()
            .map_err(|error| format!("the cache server {name:?} cannot be used: {error}"))
    };
    names.iter().map(read).collect()
}
