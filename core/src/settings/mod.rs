//! Every setting: its type and unit, its range and default, what it does, and its Delivery Optimization name.
//!
//! [`Settings`] are the values in force, whoever set them. [`TABLE`] says what can be set, and how it is written;
//! [`Layers`] hold what each provider says; [`Effective`] is what counts of that.
//!
//! Never does: I/O, or act on a value (`policy`). Tested in `layers_tests.rs`, `table_tests.rs` and each file.

mod value;
mod kind;
mod number;
mod choice;
mod words;
mod hours;
mod table;
mod problem;
mod source;
mod layers;
mod typed;
mod effective;
mod policy;
mod page;
mod edit;
#[cfg(test)]
mod layers_tests;
#[cfg(test)]
mod table_tests;

pub use edit::edit;
pub use effective::{Effective, EffectiveRow, Ignored};
pub use layers::{Layers, Provider, SetBy, Source};
pub use page::{help, markdown};
pub use policy::GroupPolicy;
pub use problem::{Problem, unknown};
pub use table::{Row, TABLE, find_row, row};

pub use value::{
    CacheHostSource, DayHours, Encryption, Fallback, GroupIdSource, HoursLimit, Mode, NetworkRule,
    PeerTransport, Percent, Restrict,
};

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// The values in force. Where Microsoft's pages disagree about a default, ours is the one the reference table of its
/// documentation has. Names follow Delivery Optimization's, without `DO`; sizes are bytes, rates bytes per second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    // --- peers
    pub download_mode: Mode,
    pub group_id: Option<String>,
    pub group_id_source: Option<GroupIdSource>,
    pub restrict_peer_selection_by: Restrict,
    /// Ours. Downloads by URL of files below this size use no peers (Delivery Optimization: 10 MB, not a policy there).
    pub min_file_size_to_peer: u64,
    /// Ours.
    pub peer_encryption: Encryption,
    /// Ours.
    pub peer_transport: PeerTransport,
    /// Ours: routers are asked to let peers of other networks in.
    pub port_mapping: bool,

    // --- sources in time
    pub delay_foreground_download_from_http: Duration,
    pub delay_background_download_from_http: Duration,
    /// Ours: the two delays above hold back cache servers, too.
    pub delay_includes_cache: bool,
    pub min_background_qos: u64,

    // --- bandwidth; 0 is no cap
    pub max_foreground_download_bandwidth: u64,
    pub max_background_download_bandwidth: u64,
    pub percentage_max_foreground_bandwidth: Percent,
    pub percentage_max_background_bandwidth: Percent,
    pub hours_to_limit_foreground_download_bandwidth: Option<HoursLimit>,
    pub hours_to_limit_background_download_bandwidth: Option<HoursLimit>,
    /// Ours: what the line carries down, that the percentages are of; 0: as measured.
    pub downlink_bandwidth: u64,
    pub max_upload_bandwidth: u64,
    /// Bytes to Internet peers in a calendar month; 0 is no cap.
    pub monthly_upload_data_cap: u64,
    /// Ours: when peers may be sent something; `None`: always.
    pub upload_hours: Option<DayHours>,

    // --- jobs
    /// Ours.
    pub max_foreground_jobs: u32,
    /// Ours.
    pub max_background_jobs: u32,

    // --- the shelf
    pub max_cache_age: Duration,
    pub max_cache_size: Percent,
    pub absolute_max_cache_size: Option<u64>,
    pub min_file_size_to_cache: u64,
    /// Folder of the shelf; `None`: in the agent's home.
    pub modify_cache_drive: Option<String>,
    /// Ours.
    pub upload_slots: u32,

    // --- who may peer
    pub min_ram_allowed_to_peer: u64,
    /// Of the disk's capacity.
    pub min_disk_size_allowed_to_peer: u64,
    pub min_battery_percentage_allowed_to_upload: Percent,
    pub allow_vpn_peer_caching: bool,
    /// Besides the built-in ones.
    pub vpn_keywords: Vec<String>,
    /// Ours: background downloads and uploads go on while the network is metered.
    pub allow_metered: bool,

    // --- cache servers
    pub cache_host: Vec<String>,
    pub cache_host_source: Option<CacheHostSource>,
    pub delay_cache_server_fallback_foreground: Fallback,
    pub delay_cache_server_fallback_background: Fallback,
    pub disallow_cache_server_downloads_on_vpn: bool,

    /// Ours: other values while the host is in a network.
    pub networks: Vec<NetworkRule>,
}

const MB: u64 = 1_000_000;
const GB: u64 = 1_000_000_000;

impl Default for Settings {
    fn default() -> Self {
        Self {
            download_mode: Mode::Lan,
            group_id: None,
            group_id_source: None,
            restrict_peer_selection_by: Restrict::Auto,
            min_file_size_to_peer: 10 * MB,
            peer_encryption: Encryption::Preferred,
            peer_transport: PeerTransport::Auto,
            port_mapping: true,
            delay_foreground_download_from_http: Duration::ZERO,
            delay_background_download_from_http: Duration::ZERO,
            delay_includes_cache: false,
            min_background_qos: 2_500 * 1024,
            max_foreground_download_bandwidth: 0,
            max_background_download_bandwidth: 0,
            percentage_max_foreground_bandwidth: Percent(0),
            percentage_max_background_bandwidth: Percent(0),
            hours_to_limit_foreground_download_bandwidth: None,
            hours_to_limit_background_download_bandwidth: None,
            downlink_bandwidth: 0,
            max_upload_bandwidth: 0,
            monthly_upload_data_cap: 20 * GB,
            upload_hours: None,
            max_foreground_jobs: 8,
            max_background_jobs: 4,
            max_cache_age: Duration::from_secs(3 * 86_400),
            max_cache_size: Percent(20),
            absolute_max_cache_size: None,
            min_file_size_to_cache: 50 * MB,
            modify_cache_drive: None,
            upload_slots: 4,
            min_ram_allowed_to_peer: 4 * GB,
            min_disk_size_allowed_to_peer: 32 * GB,
            min_battery_percentage_allowed_to_upload: Percent(0),
            allow_vpn_peer_caching: false,
            vpn_keywords: Vec::new(),
            allow_metered: false,
            cache_host: Vec::new(),
            cache_host_source: None,
            delay_cache_server_fallback_foreground: Fallback::AtOnce,
            delay_cache_server_fallback_background: Fallback::AtOnce,
            disallow_cache_server_downloads_on_vpn: false,
            networks: Vec::new(),
        }
    }
}
