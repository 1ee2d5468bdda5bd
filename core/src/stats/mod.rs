//! Disjoint counters: every byte received is counted in exactly one source class, and exactly once as
//! useful or as wasted.

mod rate;

use core::fmt;
pub use rate::{Rate, TokenBucket};
use serde::{Deserialize, Serialize};

/// Where bytes of a job come from. The class of a peer is decided once per connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceClass {
    Origin,
    Cache,
    LinkLocal,
    Lan,
    Group,
    Internet,
}

impl SourceClass {
    pub const ALL: [Self; 6] = [
        Self::Origin,
        Self::Cache,
        Self::LinkLocal,
        Self::Lan,
        Self::Group,
        Self::Internet,
    ];

    pub const fn is_peer(self) -> bool {
        !matches!(self, Self::Origin | Self::Cache)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Cache => "cache",
            Self::LinkLocal => "link-local peers",
            Self::Lan => "LAN peers",
            Self::Group => "group peers",
            Self::Internet => "Internet peers",
        }
    }
}

/// Bytes by source class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByClass {
    pub origin: u64,
    pub cache: u64,
    pub link_local: u64,
    pub lan: u64,
    pub group: u64,
    pub internet: u64,
}

impl ByClass {
    pub const fn of(&self, class: SourceClass) -> u64 {
        match class {
            SourceClass::Origin => self.origin,
            SourceClass::Cache => self.cache,
            SourceClass::LinkLocal => self.link_local,
            SourceClass::Lan => self.lan,
            SourceClass::Group => self.group,
            SourceClass::Internet => self.internet,
        }
    }

    pub const fn add(&mut self, class: SourceClass, bytes: u64) {
        let slot = match class {
            SourceClass::Origin => &mut self.origin,
            SourceClass::Cache => &mut self.cache,
            SourceClass::LinkLocal => &mut self.link_local,
            SourceClass::Lan => &mut self.lan,
            SourceClass::Group => &mut self.group,
            SourceClass::Internet => &mut self.internet,
        };
        *slot = slot.saturating_add(bytes);
    }

    pub fn total(&self) -> u64 {
        SourceClass::ALL.iter().map(|c| self.of(*c)).sum()
    }

    pub fn peers(&self) -> u64 {
        SourceClass::ALL
            .iter()
            .filter(|c| c.is_peer())
            .map(|c| self.of(*c))
            .sum()
    }
}

/// A byte count as people read it: `1.2 GiB`.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut unit = 0;
        let mut scale = 1024_u64;
        while self.0 / scale >= 1024 && unit + 1 < UNITS.len() {
            scale *= 1024;
            unit += 1;
        }
        let hundredths = (u128::from(self.0) * 100 / u128::from(scale)) as u64;
        let (whole, part) = (hundredths / 100, hundredths % 100);
        let name = UNITS.get(unit).copied().unwrap_or("B");
        match (whole, part) {
            (100.., _) | (_, 0) | (10.., 1..10) => write!(f, "{whole} {name}"),
            (10.., _) => write!(f, "{whole}.{} {name}", part / 10),
            (_, part) if part % 10 == 0 => write!(f, "{whole}.{} {name}", part / 10),
            _ => write!(f, "{whole}.{part:02} {name}"),
        }
    }
}
