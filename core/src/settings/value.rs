//! The kinds of values settings have, beside numbers and texts.

use crate::host::Subnet;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// Where bytes may come from, by Delivery Optimization's numbers (`DODownloadMode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// 0: no peers; the coordinator still says what a file is.
    HttpOnly,
    /// 1: peers in the same network.
    Lan,
    /// 2: peers of the same group.
    Group,
    /// 3: any peer.
    Internet,
    /// 99: no peers and no coordinator.
    Simple,
    /// 100: downloads are refused.
    Bypass,
}

impl Mode {
    pub const ALL: [Self; 6] = [
        Self::HttpOnly,
        Self::Lan,
        Self::Group,
        Self::Internet,
        Self::Simple,
        Self::Bypass,
    ];

    pub const fn number(self) -> u8 {
        match self {
            Self::HttpOnly => 0,
            Self::Lan => 1,
            Self::Group => 2,
            Self::Internet => 3,
            Self::Simple => 99,
            Self::Bypass => 100,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::HttpOnly => "http-only",
            Self::Lan => "lan",
            Self::Group => "group",
            Self::Internet => "internet",
            Self::Simple => "simple",
            Self::Bypass => "bypass",
        }
    }

    /// By its name or its number.
    pub fn from_text(text: &str) -> Option<Self> {
        let number = |mode: Self| text.parse() == Ok(mode.number());
        Self::ALL
            .into_iter()
            .find(|mode| mode.name() == text || number(*mode))
    }

    /// The narrower of two.
    pub fn narrower(self, other: Self) -> Self {
        if other.width() < self.width() {
            other
        } else {
            self
        }
    }

    const fn width(self) -> u8 {
        match self {
            Self::Bypass => 0,
            Self::Simple => 1,
            Self::HttpOnly => 2,
            Self::Lan => 3,
            Self::Group => 4,
            Self::Internet => 5,
        }
    }

    /// A coordinator may be asked.
    pub const fn asks_coordinator(self) -> bool {
        !matches!(self, Self::Simple | Self::Bypass)
    }

    /// Peers may be met.
    pub const fn peers(self) -> bool {
        matches!(self, Self::Lan | Self::Group | Self::Internet)
    }
}

/// 0 to 100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u8);

impl Percent {
    pub const fn of(self, whole: u64) -> u64 {
        (whole as u128 * self.0 as u128 / 100) as u64
    }
}

/// Where the group id comes from when none is set (`DOGroupIDSource`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupIdSource {
    /// 3
    DhcpOption234,
    /// 4
    DnsSuffix,
}

/// Which peers count as near (`DORestrictPeerSelectionBy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restrict {
    /// Not set: as `Subnet` in mode `lan`, as `None` in the others.
    Auto,
    /// 0: whatever the mode allows.
    None,
    /// 1: only addresses in a network of this host.
    Subnet,
    /// 2: only peers found on the local link.
    LocalDiscovery,
}

/// `DOCacheHostSource`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheHostSource {
    /// 0: only what `cache_host` names; nothing is looked for by DNS-SD.
    Static,
    /// 1: `cache_host`, else DHCP option 235.
    Dhcp,
    /// 2: DHCP option 235, else `cache_host`.
    DhcpForced,
}

/// How long a download keeps to its cache servers before it turns to the origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    #[default]
    AtOnce,
    After(Duration),
    /// -1
    Never,
}

/// Another percentage of the bandwidth within some hours of the day, in local time. `from` = `to` is the whole day;
/// a window may pass midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoursLimit {
    /// Whole hours, 0 to 23.
    pub from: u8,
    pub to: u8,
    /// 0 is no cap.
    pub inside: Percent,
    pub outside: Percent,
}

/// Hours of the day in local time. `from` = `to` is the whole day; a window may pass midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayHours {
    /// Whole hours, 0 to 23.
    pub from: u8,
    pub to: u8,
}

/// Values that hold while the host has an address in `network`. Later rules win over earlier ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRule {
    pub network: Subnet,
    /// Name and value of settings, as the file gives them; valid.
    pub values: Vec<(String, String)>,
}

/// What carries streams between peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerTransport {
    /// TCP, and uTP where TCP does not get through.
    Auto,
    Tcp,
    Utp,
}

/// Whether peers must speak encrypted sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    Required,
    Preferred,
    Off,
}
