//! Cache servers that are not asked for a while.
//!
//! An answer of the 400s bans a cache for the origin host it was asked for; one that cannot be reached, or says
//! nothing in time, is banned for everything. Both last [`Bans::LENGTH`], as with Microsoft's client; all downloads
//! of an agent share them.

use crate::http::cache_host::CacheHost;
use crate::http::url::Url;
use crate::time::Mono;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::time::Duration;

/// One cache, for one origin host or for all, until then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    pub cache: CacheHost,
    /// `None`: for whatever is asked of it.
    pub origin: Option<String>,
    pub until: Mono,
}

impl Ban {
    pub(crate) fn all(cache: CacheHost, now: Mono) -> Self {
        Self {
            cache,
            origin: None,
            until: now + Bans::LENGTH,
        }
    }

    pub(crate) fn of_origin(cache: CacheHost, origin: &Url, now: Mono) -> Self {
        Self {
            origin: Some(origin.authority().to_string()),
            ..Self::all(cache, now)
        }
    }
}

/// The bans in force.
#[derive(Clone, Debug, Default)]
pub struct Bans(Vec<Ban>);

impl Bans {
    pub const LENGTH: Duration = Duration::from_secs(15 * 60);

    pub fn add(&mut self, ban: Ban) {
        let same = |old: &Ban| old.cache == ban.cache && old.origin == ban.origin;
        self.0.retain(|old| !same(old));
        if self.0.len() >= BANS_MAX {
            self.0.remove(0);
        }
        self.0.push(ban);
    }

    /// May this cache not be asked for that?
    pub fn holds(&self, cache: &CacheHost, origin: &Url, now: Mono) -> bool {
        self.0.iter().any(|ban| {
            let meant = ban
                .origin
                .as_deref()
                .is_none_or(|host| host == origin.authority());
            ban.cache == *cache && meant && now < ban.until
        })
    }

    pub fn iter(&self) -> impl Iterator<Item = &Ban> {
        self.0.iter()
    }

    pub(crate) fn ends(&self) -> impl Iterator<Item = Mono> + '_ {
        self.0.iter().map(|ban| ban.until)
    }

    pub(crate) fn expire(&mut self, now: Mono) {
        self.0.retain(|ban| now < ban.until);
    }
}

/// Caches of a fleet times its origins; the oldest is forgotten first.
const BANS_MAX: usize = 256;
