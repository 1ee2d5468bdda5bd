//! The table of all settings: name, kind, range, Delivery Optimization name, what each does.
//!
//! Decides: everything that is said about a setting anywhere; `docs/settings.md`, `dovetail config --help` and every
//! error come from here. Its default is in [`Settings::default`]. Invariant: one row for each field of
//! [`Settings`]. Tests: `table_tests.rs`.

use super::Settings;
use super::choice::One;
use super::hours::{DayWindow, Hours};
use super::kind::{Bounds, Kind, Maybe, Networks, Notation, Shape, Unit};
use super::number::{Count, Delay, Rate, Share, Size, Span, Switch};
use super::value::{CacheHostSource, Encryption, GroupIdSource, Mode, PeerTransport, Restrict};
use super::words::{Folder, Hosts, Name, Words};
use alloc::string::String;
use core::fmt;

/// One setting.
#[derive(Clone, Copy)]
pub struct Row {
    pub name: &'static str,
    /// What Delivery Optimization calls it.
    pub do_name: Option<&'static str>,
    pub heading: &'static str,
    /// What it does, in one to three sentences.
    pub doc: &'static str,
    policy: Option<Policy>,
    bounds: Bounds,
    shape: Shape,
    allowed: fn(Bounds) -> String,
    show: fn(&Settings) -> String,
    put: fn(&mut Settings, &str, Notation, Bounds) -> Result<(), String>,
}

/// The Delivery Optimization policy that a setting answers to.
#[derive(Clone, Copy, Debug)]
struct Policy {
    name: &'static str,
    unit: Unit,
    /// In its own unit.
    min: u64,
    max: u64,
}

/// In whose words a key was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    Ours,
    Microsoft,
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Row").field(&self.name).finish()
    }
}

impl Row {
    /// What is allowed: kind, unit and range in words.
    pub fn allowed(&self) -> String {
        (self.allowed)(self.bounds)
    }

    /// The value in force where nobody says anything.
    pub fn default(&self) -> String {
        self.show(&Settings::default())
    }

    /// This setting's value as text, which [`Row::put`] reads back.
    pub fn show(&self, settings: &Settings) -> String {
        (self.show)(settings)
    }

    /// Set it from text.
    ///
    /// # Errors
    /// What is wrong with the text; see [`Row::allowed`] for what would be right.
    pub fn put(&self, settings: &mut Settings, text: &str) -> Result<(), String> {
        (self.put)(settings, text.trim(), Notation::Ours, self.bounds)
    }

    /// The unit of a bare number under the Delivery Optimization name: `KB/s`, or empty.
    pub fn do_unit(&self) -> &'static str {
        self.policy.map_or("", |policy| policy.unit.name())
    }

    /// The text as [`Row::show`] would write it.
    pub(super) fn canonical(&self, text: &str, spelling: Spelling) -> Result<String, String> {
        let (notation, bounds) = match (spelling, self.policy) {
            (Spelling::Microsoft, Some(policy)) => {
                let scale = policy.unit.scale();
                let bounds = Bounds {
                    min: policy.min * scale,
                    max: policy.max * scale,
                };
                (Notation::Microsoft(policy.unit), bounds)
            }
            _ => (Notation::Ours, self.bounds),
        };
        let mut scratch = Settings::default();
        (self.put)(&mut scratch, text.trim(), notation, bounds)?;
        Ok(self.show(&scratch))
    }

    /// What is allowed under this spelling.
    pub(super) fn allowed_as(&self, spelling: Spelling) -> String {
        match (spelling, self.policy) {
            (Spelling::Microsoft, Some(policy)) if policy.unit != Unit::Plain => {
                alloc::format!(
                    "a whole number of {} from {} to {}",
                    policy.unit.name(),
                    policy.min,
                    policy.max
                )
            }
            _ => self.allowed(),
        }
    }

    pub(super) const fn shape(&self) -> Shape {
        self.shape
    }
}

/// The row of a name, ours or Delivery Optimization's; its `DO` may be left out, as some of Microsoft's pages do.
pub(super) fn find(key: &str) -> Option<(&'static Row, Spelling)> {
    TABLE.iter().find_map(|row| {
        if row.name == key {
            return Some((row, Spelling::Ours));
        }
        let name = row.do_name?;
        (name == key || name.strip_prefix("DO") == Some(key)).then_some((row, Spelling::Microsoft))
    })
}

/// The row of a name, ours or Delivery Optimization's.
pub fn find_row(key: &str) -> Option<&'static Row> {
    find(key).map(|(row, _)| row)
}

/// The row of our name.
pub fn row(name: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.name == name)
}

const PEERS: &str = "Peers";
const TIME: &str = "Peers first, HTTP later";
const BANDWIDTH: &str = "Bandwidth";
const JOBS: &str = "Downloads at a time";
const SHELF: &str = "What is kept for peers";
const WHO: &str = "When this machine may peer";
const CACHE: &str = "Cache servers";
const NETWORKS: &str = "Networks";

const MB: u64 = 1_000_000;
const GB: u64 = 1_000_000_000;
const DAY: u64 = 86_400_000;
const RATE_MAX: u64 = 1 << 42;
const SECONDS_MAX: u64 = u32::MAX as u64;

const fn within(min: u64, max: u64) -> Bounds {
    Bounds { min, max }
}

const ANY: Bounds = within(0, u64::MAX);

const fn policy(name: &'static str, unit: Unit, min: u64, max: u64) -> Option<Policy> {
    Some(Policy {
        name,
        unit,
        min,
        max,
    })
}

/// `row!(HEADING, field: Kind, bounds, policy, "what it does")`
macro_rules! row {
    ($heading:ident, $field:ident: $kind:ty, $bounds:expr, $policy:expr, $doc:literal) => {
        row!($heading, $field as $field: $kind, $bounds, $policy, $doc)
    };
    ($heading:ident, $field:ident as $name:ident: $kind:ty, $bounds:expr, $policy:expr, $doc:literal) => {
        Row {
            name: stringify!($name),
            do_name: match $policy {
                Some(Policy { name, .. }) => Some(name),
                None => None,
            },
            heading: $heading,
            doc: $doc,
            policy: $policy,
            bounds: $bounds,
            shape: <$kind as Kind>::SHAPE,
            allowed: <$kind as Kind>::allowed,
            show: |settings| <$kind as Kind>::show(&settings.$field),
            put: |settings, text, notation, bounds| {
                settings.$field = <$kind as Kind>::parse(text, notation, bounds)?;
                Ok(())
            },
        }
    };
}

/// Every setting, by heading.
#[rustfmt::skip]
pub const TABLE: &[Row] = &[
    row!(PEERS, download_mode: One<Mode>, ANY,
        policy("DODownloadMode", Unit::Plain, 0, 100),
        "Where bytes may come from. http-only: no peers, but the coordinator still says what a file is; lan: peers in \
         the same network; group: peers of the same group, the near ones first; internet: any peer; simple: neither \
         peers nor a coordinator; bypass: downloads are refused. Cache servers are used in all of them but bypass."),
    row!(PEERS, group_id: Maybe<Name>, ANY,
        policy("DOGroupID", Unit::Plain, 0, 0),
        "The group whose members may be peers in mode group. It groups, it does not authenticate: whoever knows the \
         name can use it. Not read in other modes."),
    row!(PEERS, group_id_source: Maybe<One<GroupIdSource>>, ANY,
        policy("DOGroupIDSource", Unit::Plain, 0, 5),
        "Where the group comes from if group_id is not set: option 234 of the DHCP lease, or the DNS search domain. \
         Not read in other modes than group. Windows' choices 1, 2 and 5 need a Windows domain and are not known here."),
    row!(PEERS, restrict_peer_selection_by: One<Restrict>, ANY,
        policy("DORestrictPeerSelectionBy", Unit::Plain, 0, 2),
        "Narrows the peers of the modes lan and group: only addresses in a network of this machine (subnet), only \
         peers found on the local link (local-discovery), or whatever the mode allows (none). auto is subnet in mode \
         lan and none in mode group."),
    row!(PEERS, min_file_size_to_peer: Size, within(0, 100_000 * MB), None,
        "Files below this size are downloaded without peers, unless a metainfo file or peers are given. 0 is no minimum."),
    row!(PEERS, peer_encryption: One<Encryption>, ANY, None,
        "Whether sessions with peers must be encrypted (required), are if the other side can (preferred), or are not \
         (off)."),
    row!(PEERS, peer_transport: One<PeerTransport>, ANY, None,
        "What carries sessions with peers. auto: TCP, and uTP over UDP where TCP does not get through, as between two \
         networks behind routers; tcp: TCP alone; utp: peers are called over uTP alone, and may still call over TCP."),
    row!(PEERS, port_mapping: Switch, ANY, None,
        "Whether the router is asked to let peers of other networks in (by PCP, NAT-PMP or UPnP-IGD), in the modes group \
         and internet, while this machine shares. What it gave is given back at the stop."),

    row!(TIME, delay_foreground_download_from_http: Span, within(0, 49_711 * DAY),
        policy("DODelayForegroundDownloadFromHttp", Unit::Seconds, 0, SECONDS_MAX),
        "How long a download that somebody waits for keeps to peers before it turns to HTTP. Only where peers may be \
         used. 0 is no delay."),
    row!(TIME, delay_background_download_from_http: Span, within(0, 49_711 * DAY),
        policy("DODelayBackgroundDownloadFromHttp", Unit::Seconds, 0, SECONDS_MAX),
        "The same for downloads in the background."),
    row!(TIME, delay_includes_cache: Switch, ANY, None,
        "Whether the two delays hold back cache servers, too. A cache is usually near, so by default they do not."),
    row!(TIME, min_background_qos: Rate, within(0, RATE_MAX),
        policy("DOMinBackgroundQoS", Unit::KilobytesPerSecond, 1, SECONDS_MAX),
        "The speed that a download in the background should have: if peers deliver less, HTTP makes up for it. Less \
         means more from peers."),

    row!(BANDWIDTH, max_foreground_download_bandwidth: Rate, within(0, RATE_MAX),
        policy("DOMaxForegroundDownloadBandwidth", Unit::KilobytesPerSecond, 0, SECONDS_MAX),
        "What all downloads that somebody waits for may receive together. 0 is no cap. If a percentage is set as well, \
         the lower of the two counts."),
    row!(BANDWIDTH, max_background_download_bandwidth: Rate, within(0, RATE_MAX),
        policy("DOMaxBackgroundDownloadBandwidth", Unit::KilobytesPerSecond, 0, SECONDS_MAX),
        "The same for downloads in the background."),
    row!(BANDWIDTH, percentage_max_foreground_bandwidth: Share, within(0, 100),
        policy("DOPercentageMaxForegroundBandwidth", Unit::Percent, 0, 100),
        "What all downloads that somebody waits for may take of the line, in percent. Bytes from peers in the same \
         network do not count. 0 is no cap."),
    row!(BANDWIDTH, percentage_max_background_bandwidth: Share, within(0, 100),
        policy("DOPercentageMaxBackgroundBandwidth", Unit::Percent, 0, 100),
        "The same for downloads in the background."),
    row!(BANDWIDTH, hours_to_limit_foreground_download_bandwidth: Maybe<Hours>, ANY,
        policy("DOSetHoursToLimitForegroundDownloadBandwidth", Unit::Plain, 0, 0),
        "Two other percentages for downloads that somebody waits for: one within some hours of the day, one outside. \
         Local time; a window may pass midnight, and one that ends at the hour it begins is the whole day."),
    row!(BANDWIDTH, hours_to_limit_background_download_bandwidth: Maybe<Hours>, ANY,
        policy("DOSetHoursToLimitBackgroundDownloadBandwidth", Unit::Plain, 0, 0),
        "The same for downloads in the background."),
    row!(BANDWIDTH, downlink_bandwidth: Rate, within(0, RATE_MAX), None,
        "What the line to the Internet carries, for the percentages. 0: as measured."),
    row!(BANDWIDTH, max_upload_bandwidth: Rate, within(0, RATE_MAX),
        policy("DOMaxUploadBandwidth", Unit::KilobytesPerSecond, 0, SECONDS_MAX),
        "What all peers together may be sent. 0 is no cap. Windows has given this policy up without a replacement."),
    row!(BANDWIDTH, monthly_upload_data_cap: Size, within(0, SECONDS_MAX * GB),
        policy("DOMonthlyUploadDataCap", Unit::Gigabytes, 0, SECONDS_MAX),
        "What peers on the Internet may be sent in a calendar month. 0 is no cap."),
    row!(BANDWIDTH, upload_hours: Maybe<DayWindow>, ANY, None,
        "The hours of the day in which peers may be sent something, in local time. A window may pass midnight, and one \
         that ends at the hour it begins is the whole day. Unset: always."),

    row!(JOBS, max_foreground_jobs: Count, within(1, 1000), None,
        "How many downloads that somebody waits for run at the same time; others wait for their turn."),
    row!(JOBS, max_background_jobs: Count, within(1, 1000), None,
        "The same for downloads in the background."),

    row!(SHELF, max_cache_age: Span, within(0, 49_711 * DAY),
        policy("DOMaxCacheAge", Unit::Seconds, 0, SECONDS_MAX),
        "How long a file is kept for peers after it was downloaded. 0: until the space is needed."),
    row!(SHELF, max_cache_size: Share, within(1, 100),
        policy("DOMaxCacheSize", Unit::Percent, 1, 100),
        "How much of the free space of its disk the shelf may take; it is trimmed as that changes. Not read if \
         absolute_max_cache_size is set."),
    row!(SHELF, absolute_max_cache_size: Maybe<Size>, within(0, SECONDS_MAX * GB),
        policy("DOAbsoluteMaxCacheSize", Unit::Gigabytes, 0, SECONDS_MAX),
        "How much the shelf may take, whatever is free. 0 is no limit: things go when the disk runs low."),
    row!(SHELF, min_file_size_to_cache: Size, within(0, 100_000 * MB),
        policy("DOMinFileSizeToCache", Unit::Megabytes, 1, 100_000),
        "Smaller files are not kept for peers. Many machines at one place are served better by 1MB to 10MB."),
    row!(SHELF, modify_cache_drive: Maybe<Folder>, ANY,
        policy("DOModifyCacheDrive", Unit::Plain, 0, 0),
        "The folder of the shelf, on another disk for example. Unset: in the agent's home."),
    row!(SHELF, upload_slots: Count, within(1, 64), None,
        "How many files are offered to peers at the same time."),

    row!(WHO, min_ram_allowed_to_peer: Size, within(0, 100_000 * GB),
        policy("DOMinRAMAllowedToPeer", Unit::Gigabytes, 1, 100_000),
        "Machines with less memory than this do not use peers. 0 is no minimum."),
    row!(WHO, min_disk_size_allowed_to_peer: Size, within(0, 100_000 * GB),
        policy("DOMinDiskSizeAllowedToPeer", Unit::Gigabytes, 1, 100_000),
        "Machines whose disk of the shelf is smaller than this do not use peers. The size of the disk counts, not what \
         is free. 0 is no minimum."),
    row!(WHO, min_battery_percentage_allowed_to_upload: Share, within(0, 100),
        policy("DOMinBatteryPercentageAllowedToUpload", Unit::Percent, 0, 100),
        "On battery, peers are sent something only down to this charge. 0: never on battery. Downloads go on."),
    row!(WHO, allow_vpn_peer_caching: Switch, ANY,
        policy("DOAllowVPNPeerCaching", Unit::Plain, 0, 1),
        "Whether peers are used while a VPN is up. With restrict_peer_selection_by = local-discovery they always are."),
    row!(WHO, vpn_keywords: Words, ANY,
        policy("DOVpnKeywords", Unit::Plain, 0, 0),
        "More words by which an interface's name or description is known as a VPN's, besides the built-in ones."),
    row!(WHO, allow_metered: Switch, ANY, None,
        "Whether downloads in the background and uploads go on while the network is paid for by volume."),

    row!(CACHE, cache_host: Hosts, ANY,
        policy("DOCacheHost", Unit::Plain, 0, 0),
        "Cache servers, tried in this order, one at a time. An empty list that somebody has set means none, also where \
         one could be found otherwise."),
    row!(CACHE, cache_host_source: Maybe<One<CacheHostSource>>, ANY,
        policy("DOCacheHostSource", Unit::Plain, 0, 2),
        "Where cache servers come from besides cache_host. static: nowhere; dhcp: option 235 of the DHCP lease if \
         cache_host names none; dhcp-forced: that option even if it does. Unset: they are looked for by DNS-SD."),
    row!(CACHE, delay_cache_server_fallback_foreground: Delay, within(0, 30 * DAY),
        policy("DODelayCacheServerFallbackForeground", Unit::Seconds, 0, 2_592_000),
        "How long a download that somebody waits for keeps trying its cache servers, counted from its start, before \
         it turns to the origin. 0: at the first failure; never (-1): it does not."),
    row!(CACHE, delay_cache_server_fallback_background: Delay, within(0, 30 * DAY),
        policy("DODelayCacheServerFallbackBackground", Unit::Seconds, 0, 2_592_000),
        "The same for downloads in the background."),
    row!(CACHE, disallow_cache_server_downloads_on_vpn: Switch, ANY,
        policy("DODisallowCacheServerDownloadsOnVPN", Unit::Plain, 0, 1),
        "Whether cache servers are left alone while a VPN is up."),

    row!(NETWORKS, networks as network: Networks, ANY, None,
        "Other values while this machine has an address in a network. Later tables win over earlier ones, and all of \
         them over the same file's plain values."),
];
