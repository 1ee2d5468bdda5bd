//! What may be done now: a pure function of the settings, the host and the time.
//!
//! Decides: the download mode in force and why it is narrower than the one set, bandwidth caps of either
//! class of jobs, when HTTP and cache servers come in, who is a peer and how near, when uploads rest, what the
//! shelf may keep. Never does: anything; the agent asks again whenever settings or facts change, and at
//! [`Limits::next_change`] at the latest.
//!
//! Facts: Delivery Optimization's policies as in `settings`. Tested here and in `core/tests/policy.rs`.

mod caches;
mod civil;
mod peers;
mod port_map;
mod reason;
mod vpn;

#[cfg(test)]
mod tests;

pub use civil::month_number;
pub use peers::Known;
pub use port_map::{MapTarget, PortMapLimits, is_global_v6, is_private_v4};
pub use reason::{Code, Reason};
pub use vpn::vpn;

use crate::host::{HostFacts, Subnet};
use crate::http::CacheHost;
use crate::settings::{
    Encryption, Fallback, GroupIdSource, HoursLimit, Mode, PeerTransport, Percent, Restrict,
    Settings,
};
use crate::stats::{Bytes, SourceClass};
use crate::time::Wall;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// What limits depend on besides settings and host: what this agent has counted and measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Sent to Internet peers in this calendar month.
    pub internet_upload_bytes: u64,
    /// What the line was seen to carry.
    pub downlink_bytes_per_s: Option<u64>,
    /// What the shelf holds that is not pinned.
    pub shelf_bytes: u64,
}

/// What may be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub mode: Mode,
    /// Why `mode` is not the one that is set.
    pub mode_reason: Option<Reason>,
    /// Who belongs together across networks, in mode `group`.
    pub group: Option<String>,
    pub restrict: Restrict,
    pub transport: PeerTransport,
    /// Networks of this host, without VPNs and loopback; empty: unknown.
    pub local_networks: Vec<Subnet>,
    pub min_peer_file_bytes: u64,
    pub foreground: ClassLimits,
    pub background: ClassLimits,
    pub uploads: UploadLimits,
    /// In the order they are to be used.
    pub caches: Vec<CacheHost>,
    /// Cache servers are to be looked for by DNS-SD.
    pub looks_for_caches: bool,
    /// Why there are none although some are set or found; why one that is set cannot be used.
    pub caches_reason: Option<Reason>,
    /// Whom to ask to let peers of other networks in.
    pub port_map: PortMapLimits,
    pub shelf: ShelfLimits,
    /// Time alone may change these limits after so long.
    pub next_change: Option<Duration>,
}

/// What one class of jobs may do, all of them together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassLimits {
    /// From all sources; 0 is no cap.
    pub bytes_per_s: u64,
    /// From all but link-local and LAN peers; 0 is no cap.
    pub wide_bytes_per_s: u64,
    pub jobs: u32,
    /// So long peers are tried alone.
    pub http_delay: Duration,
    /// ... and cache servers, too.
    pub delay_includes_cache: bool,
    pub cache_fallback: Fallback,
    /// Below this rate from peers HTTP tops up.
    pub min_peer_bytes_per_s: u64,
    /// They wait.
    pub paused: Option<Reason>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadLimits {
    /// 0 is no cap.
    pub bytes_per_s: u64,
    /// Nothing is given to anybody.
    pub stopped: Option<Reason>,
    /// Nothing is given to Internet peers.
    pub internet_stopped: Option<Reason>,
}

/// What the shelf may keep and offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShelfLimits {
    /// For contents that are not pinned; `None` is no bound but the disk's.
    pub quota_bytes: Option<u64>,
    /// Stays free on the disk, whatever the quota.
    pub headroom_bytes: u64,
    /// Since it was complete; `None` is for ever.
    pub max_age: Option<Duration>,
    pub min_file_bytes: u64,
    pub slots: u32,
}

/// What `settings` allow on this host at this time.
pub fn limits(settings: &Settings, facts: &HostFacts, usage: &Usage, now: Wall) -> Limits {
    let vpn = vpn(facts, &settings.vpn_keywords).map(|interface| interface.name.as_str());
    let group = group_id(settings, facts);
    let (mode, mode_reason) = match restricted_mode(settings, facts, vpn, group.as_ref()) {
        Some((mode, reason)) => (mode, Some(reason)),
        None => (settings.download_mode, None),
    };
    let (caches, caches_reason) = caches::caches(settings, facts, vpn);
    let uploads = uploads(settings, facts, usage, now, mode, mode_reason.as_ref());
    let foreground = ClassLimits {
        bytes_per_s: settings.max_foreground_download_bandwidth,
        wide_bytes_per_s: percentage(
            settings,
            settings.percentage_max_foreground_bandwidth,
            settings
                .hours_to_limit_foreground_download_bandwidth
                .as_ref(),
            usage,
            now,
        ),
        jobs: settings.max_foreground_jobs,
        http_delay: settings.delay_foreground_download_from_http,
        delay_includes_cache: settings.delay_includes_cache,
        cache_fallback: settings.delay_cache_server_fallback_foreground,
        min_peer_bytes_per_s: settings.min_background_qos.max(FOREGROUND_QOS),
        paused: None,
    };
    let background = ClassLimits {
        bytes_per_s: settings.max_background_download_bandwidth,
        wide_bytes_per_s: percentage(
            settings,
            settings.percentage_max_background_bandwidth,
            settings
                .hours_to_limit_background_download_bandwidth
                .as_ref(),
            usage,
            now,
        ),
        jobs: settings.max_background_jobs,
        http_delay: settings.delay_background_download_from_http,
        delay_includes_cache: settings.delay_includes_cache,
        cache_fallback: settings.delay_cache_server_fallback_background,
        min_peer_bytes_per_s: settings.min_background_qos,
        paused: metered(settings, facts),
    };
    Limits {
        port_map: port_map::port_map(settings, facts, mode, &uploads),
        mode,
        mode_reason,
        group: group.filter(|_| mode == Mode::Group),
        restrict: settings.restrict_peer_selection_by,
        transport: settings.peer_transport,
        local_networks: local_networks(settings, facts),
        min_peer_file_bytes: settings.min_file_size_to_peer,
        foreground,
        background,
        uploads,
        caches,
        looks_for_caches: caches::looks_for_caches(settings, mode),
        caches_reason,
        shelf: shelf(settings, facts, usage),
        next_change: next_change(settings, now),
    }
}

impl UploadLimits {
    /// May something be given to such a peer now?
    pub const fn allow(&self, class: SourceClass) -> bool {
        let internet = matches!(class, SourceClass::Internet);
        self.stopped.is_none() && !(internet && self.internet_stopped.is_some())
    }
}

impl Limits {
    pub const fn class(&self, foreground: bool) -> &ClassLimits {
        if foreground {
            &self.foreground
        } else {
            &self.background
        }
    }
}

/// The narrower mode that host and group impose, and why.
fn restricted_mode(
    settings: &Settings,
    facts: &HostFacts,
    vpn: Option<&str>,
    group: Option<&String>,
) -> Option<(Mode, Reason)> {
    if !settings.download_mode.peers() {
        return None;
    }
    let without_peers =
        |code, setting, text| Some((Mode::HttpOnly, Reason::new(code, setting, text)));
    if let Some(vpn) = vpn
        && !settings.allow_vpn_peer_caching
        && settings.restrict_peer_selection_by != Restrict::LocalDiscovery
    {
        let text = format!("no peers while the VPN {vpn} is up");
        return without_peers(Code::Vpn, "allow_vpn_peer_caching", text);
    }
    if let Some(ram) = facts
        .ram_bytes
        .filter(|ram| *ram < settings.min_ram_allowed_to_peer)
    {
        let least = Bytes(settings.min_ram_allowed_to_peer);
        let text = format!(
            "no peers with {} of memory, {least} are asked for",
            Bytes(ram)
        );
        return without_peers(Code::Policy, "min_ram_allowed_to_peer", text);
    }
    if let Some(disk) = facts.disk
        && disk.total_bytes < settings.min_disk_size_allowed_to_peer
    {
        let least = Bytes(settings.min_disk_size_allowed_to_peer);
        let text = format!(
            "no peers with a disk of {}, {least} are asked for",
            Bytes(disk.total_bytes)
        );
        return without_peers(Code::Policy, "min_disk_size_allowed_to_peer", text);
    }
    if settings.peer_encryption == Encryption::Required {
        let text = "no peers: this version has no encrypted sessions yet".into();
        return without_peers(Code::Policy, "peer_encryption", text);
    }
    if settings.download_mode == Mode::Group && group.is_none() {
        let setting = if settings.group_id_source.is_some() {
            "group_id_source"
        } else {
            "group_id"
        };
        let text = "LAN peers only: no group is known";
        return Some((Mode::Lan, Reason::new(Code::Policy, setting, text)));
    }
    None
}

/// `group_id`, else what its source gives.
fn group_id(settings: &Settings, facts: &HostFacts) -> Option<String> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    given(&settings.group_id).or_else(|| match settings.group_id_source? {
        GroupIdSource::DhcpOption234 => given(&facts.dhcp_group_id),
        GroupIdSource::DnsSuffix => given(&facts.dns_suffix),
    })
}

fn uploads(
    settings: &Settings,
    facts: &HostFacts,
    usage: &Usage,
    now: Wall,
    mode: Mode,
    mode_reason: Option<&Reason>,
) -> UploadLimits {
    let no_peers = || {
        let text = format!("nothing is uploaded in mode {}", mode.name());
        Reason::new(Code::Policy, "download_mode", text)
    };
    let stopped = if mode.peers() {
        battery(settings, facts)
            .or_else(|| metered(settings, facts))
            .or_else(|| resting(settings, now))
    } else {
        Some(mode_reason.cloned().unwrap_or_else(no_peers))
    };
    let cap = settings.monthly_upload_data_cap;
    let internet_stopped = (cap > 0 && usage.internet_upload_bytes >= cap).then(|| {
        let text = format!(
            "{} of {} went to Internet peers this month",
            Bytes(usage.internet_upload_bytes),
            Bytes(cap)
        );
        Reason::new(Code::Policy, "monthly_upload_data_cap", text)
    });
    UploadLimits {
        bytes_per_s: settings.max_upload_bandwidth,
        stopped,
        internet_stopped,
    }
}

/// On battery: never by default, else down to a level.
fn battery(settings: &Settings, facts: &HostFacts) -> Option<Reason> {
    let least = settings.min_battery_percentage_allowed_to_upload.0;
    let battery = facts.battery.filter(|battery| battery.discharging)?;
    (least == 0 || battery.percent < least).then(|| {
        let text = format!("no uploads on battery at {} %", battery.percent);
        Reason::new(
            Code::Power,
            "min_battery_percentage_allowed_to_upload",
            text,
        )
    })
}

fn metered(settings: &Settings, facts: &HostFacts) -> Option<Reason> {
    (facts.metered == Some(true) && !settings.allow_metered)
        .then(|| Reason::new(Code::Cost, "allow_metered", "the network is metered"))
}

fn resting(settings: &Settings, now: Wall) -> Option<Reason> {
    let hours = settings.upload_hours.as_ref()?;
    (!civil::is_within(hours.from, hours.to, now)).then(|| {
        let text = format!("no uploads but from {} to {} o'clock", hours.from, hours.to);
        Reason::new(Code::Policy, "upload_hours", text)
    })
}

/// What the lower of the percentages leaves of the line; 0 while the line is not known.
fn percentage(
    settings: &Settings,
    always: Percent,
    hours: Option<&HoursLimit>,
    usage: &Usage,
    now: Wall,
) -> u64 {
    let by_hour = hours.map(|limit| {
        if civil::is_within(limit.from, limit.to, now) {
            limit.inside
        } else {
            limit.outside
        }
    });
    let lowest = [Some(always), by_hour]
        .into_iter()
        .flatten()
        .filter(|percent| (1..100).contains(&percent.0))
        .min();
    let measured = usage.downlink_bytes_per_s.unwrap_or(0);
    let line = match settings.downlink_bandwidth {
        0 => measured,
        set => set,
    };
    match lowest {
        Some(percent) if line > 0 => percent.of(line).max(1),
        _ => 0,
    }
}

fn local_networks(settings: &Settings, facts: &HostFacts) -> Vec<Subnet> {
    let interfaces = facts.interfaces.iter();
    interfaces
        .filter(|interface| interface.link != crate::host::LinkKind::Loopback)
        .filter(|interface| !vpn::is_vpn(interface, facts, &settings.vpn_keywords))
        .flat_map(|interface| interface.subnets.iter().copied())
        .collect()
}

fn shelf(settings: &Settings, facts: &HostFacts, usage: &Usage) -> ShelfLimits {
    let of_disk = |disk: crate::host::DiskSpace| {
        settings
            .max_cache_size
            .of(disk.free_bytes.saturating_add(usage.shelf_bytes))
    };
    let quota_bytes = match settings.absolute_max_cache_size {
        Some(0) => None,
        Some(bytes) => Some(bytes),
        None => facts.disk.map(of_disk),
    };
    ShelfLimits {
        quota_bytes,
        headroom_bytes: headroom_bytes(facts),
        max_age: (!settings.max_cache_age.is_zero()).then_some(settings.max_cache_age),
        min_file_bytes: settings.min_file_size_to_cache,
        slots: settings.upload_slots,
    }
}

/// What stays free on the disk, whatever a quota says: a twentieth of it, within reason.
pub fn headroom_bytes(facts: &HostFacts) -> u64 {
    let share = facts
        .disk
        .map_or(0, |disk| disk.total_bytes / HEADROOM_SHARE);
    share.clamp(HEADROOM_BYTES_MIN, HEADROOM_BYTES_MAX)
}

fn next_change(settings: &Settings, now: Wall) -> Option<Duration> {
    let hours = [
        &settings.hours_to_limit_foreground_download_bandwidth,
        &settings.hours_to_limit_background_download_bandwidth,
    ];
    let limited = hours.into_iter().any(Option::is_some) || settings.upload_hours.is_some();
    let by_hour = limited.then(|| civil::to_next_quarter(now));
    let by_month = (settings.monthly_upload_data_cap > 0).then(|| civil::to_next_month(now));
    [by_hour, by_month].into_iter().flatten().min()
}

/// What peers must give to a download somebody waits for, lest HTTP tops up; as for the others at least.
const FOREGROUND_QOS: u64 = 2_500 * 1024;

const HEADROOM_SHARE: u64 = 20;
const HEADROOM_BYTES_MIN: u64 = 256 * 1024 * 1024;
const HEADROOM_BYTES_MAX: u64 = 10 * 1024 * 1024 * 1024;
