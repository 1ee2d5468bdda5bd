//! Contents kept for peers after their download, and which of them are offered at a time.
//!
//! Decides: what may be kept, what must go and in which order, which contents hold the few slots. Never does: files
//! (the agent's `shelf`), serving. Order of going: what is over age, then, while there is too much, what was wanted
//! longest ago; pinned contents never go by themselves and count towards no quota.
//!
//! A clock set back neither expires nor keeps for ever: a content from the future is counted as new.
//! Invariant: at most `slots` contents are offered, unless slots were just made fewer. Tests: `shelf/tests.rs`,
//! `core/tests/shelf.rs`.

mod record;
mod slots;

#[cfg(test)]
mod tests;

pub use record::Record;
pub use slots::Turn;

use crate::content::InfoHash;
use crate::policy::ShelfLimits;
use crate::stats::Bytes;
use crate::time::{Mono, Wall};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::time::Duration;

/// One content on the shelf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub name: String,
    pub length: u64,
    pub record: Record,
    /// Where the file is, if it is somebody else's.
    pub lent: Option<String>,
    slot: slots::Place,
}

impl Item {
    pub fn new(name: String, length: u64, record: Record) -> Self {
        Self {
            name,
            length,
            record,
            lent: None,
            slot: slots::Place::default(),
        }
    }

    /// It is somebody else's: it counts towards no quota and goes when they say so.
    #[must_use]
    pub fn lent(mut self, path: String) -> Self {
        self.lent = Some(path);
        self
    }

    const fn is_loose(&self) -> bool {
        !self.record.pinned && self.lent.is_none()
    }

    pub const fn is_offered(&self) -> bool {
        self.slot.is_offered()
    }

    /// Peers asked for it lately.
    pub fn is_wanted(&self, now: Mono) -> bool {
        self.slot.is_wanted(now)
    }

    fn age(&self, now: Wall) -> Duration {
        let us = now.unix_us - self.record.completed_unix_us;
        Duration::from_micros(u64::try_from(us).unwrap_or(0))
    }
}

/// Why a content goes, or is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Older than `max_cache_age`.
    Expired,
    /// More than the quota, or too little would stay free: what is wanted more stays.
    Room,
    Damaged(String),
    Asked,
    /// By whoever had lent it.
    TakenBack,
}

impl Why {
    pub fn words(&self) -> String {
        match self {
            Self::Expired => "it is older than max_cache_age".to_string(),
            Self::Room => "its space is needed".to_string(),
            Self::Damaged(why) => why.clone(),
            Self::Asked => "somebody asked".to_string(),
            Self::TakenBack => "its file goes".to_string(),
        }
    }
}

/// Everything that is kept.
#[derive(Debug, Default)]
pub struct Shelf {
    items: BTreeMap<InfoHash, Item>,
}

impl Shelf {
    pub fn insert(&mut self, hash: InfoHash, mut item: Item, now: Wall) {
        // The clock was set back since.
        item.record.completed_unix_us = item.record.completed_unix_us.min(now.unix_us);
        self.items.insert(hash, item);
    }

    pub fn remove(&mut self, hash: InfoHash) -> Option<Item> {
        self.items.remove(&hash)
    }

    pub fn get(&self, hash: InfoHash) -> Option<&Item> {
        self.items.get(&hash)
    }

    pub fn get_mut(&mut self, hash: InfoHash) -> Option<&mut Item> {
        self.items.get_mut(&hash)
    }

    pub fn iter(&self) -> impl Iterator<Item = (InfoHash, &Item)> {
        self.items.iter().map(|(hash, item)| (*hash, item))
    }

    /// Bytes of what is not pinned.
    pub fn loose_bytes(&self) -> u64 {
        let loose = self.items.values().filter(|item| item.is_loose());
        loose.map(|item| item.length).sum()
    }

    /// What must go now.
    pub fn overdue(
        &self,
        limits: &ShelfLimits,
        free_bytes: Option<u64>,
        now: Wall,
    ) -> Vec<(InfoHash, Why)> {
        let loose = self.items.iter().filter(|(_, item)| item.is_loose());
        let too_old = |item: &Item| limits.max_age.is_some_and(|age| item.age(now) >= age);
        let (old, young): (Vec<_>, Vec<_>) = loose.partition(|(_, item)| too_old(item));
        let freed: u64 = old.iter().map(|(_, item)| item.length).sum();
        let kept: u64 = young.iter().map(|(_, item)| item.length).sum();
        let over_quota = limits
            .quota_bytes
            .map_or(0, |quota| kept.saturating_sub(quota));
        let lacking = free_bytes.map_or(0, |free| limits.headroom_bytes.saturating_sub(free));
        let excess = over_quota.max(lacking.saturating_sub(freed));
        let old = old.into_iter().map(|(hash, _)| (*hash, Why::Expired));
        old.chain(victims(young, excess)).collect()
    }

    /// What must go so that a file of this length can be kept.
    ///
    /// # Errors
    /// Why it cannot be kept whatever goes.
    pub fn room_for(
        &self,
        length: u64,
        limits: &ShelfLimits,
        free_bytes: Option<u64>,
    ) -> Result<Vec<InfoHash>, String> {
        if length < limits.min_file_bytes {
            return Err(format!(
                "it has {}, less than min_file_size_to_cache ({})",
                Bytes(length),
                Bytes(limits.min_file_bytes)
            ));
        }
        if let Some(quota) = limits.quota_bytes.filter(|quota| length > *quota) {
            return Err(format!(
                "it has {}, and the shelf may take {} (absolute_max_cache_size, max_cache_size)",
                Bytes(length),
                Bytes(quota)
            ));
        }
        let loose = self.loose_bytes();
        let over_quota = limits
            .quota_bytes
            .map_or(0, |quota| (loose + length).saturating_sub(quota));
        let needed = limits.headroom_bytes.saturating_add(length);
        let lacking = free_bytes.map_or(0, |free| needed.saturating_sub(free));
        if lacking > loose {
            return Err(format!(
                "{} are free on the disk, and {} of them stay free",
                Bytes(free_bytes.unwrap_or(0)),
                Bytes(limits.headroom_bytes)
            ));
        }
        let loose = self.items.iter().filter(|(_, item)| item.is_loose());
        let victims = victims(loose.collect(), over_quota.max(lacking));
        Ok(victims.into_iter().map(|(hash, _)| hash).collect())
    }

    /// When the next content is over age.
    pub fn next_expiry(&self, limits: &ShelfLimits, now: Wall) -> Option<Duration> {
        let age = limits.max_age?;
        let loose = self.items.values().filter(|item| item.is_loose());
        loose.map(|item| age.saturating_sub(item.age(now))).min()
    }

    /// Those whose name is `text`, or whose root or info hash begins with it.
    pub fn find(&self, text: &str) -> Vec<InfoHash> {
        let of = |hash: &InfoHash, item: &Item| {
            let long_enough = text.len() >= PREFIX_MIN;
            item.name == text
                || long_enough
                    && (item.record.root.starts_with(text)
                        || crate::announce::hex::encode(&hash.0).starts_with(text))
        };
        let found = self.items.iter().filter(|(hash, item)| of(hash, item));
        found.map(|(hash, _)| *hash).collect()
    }
}

/// Those wanted longest ago, offered ones last, until so much is freed.
fn victims(mut items: Vec<(&InfoHash, &Item)>, mut excess: u64) -> Vec<(InfoHash, Why)> {
    items.sort_by_key(|(hash, item)| (item.is_offered(), item.record.wanted_unix_us, **hash));
    let mut out = Vec::new();
    for (hash, item) in items {
        if excess == 0 {
            break;
        }
        excess = excess.saturating_sub(item.length);
        out.push((*hash, Why::Room));
    }
    out
}

/// Shorter beginnings of hashes are taken for names only.
const PREFIX_MIN: usize = 4;
