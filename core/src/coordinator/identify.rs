//! Finding out what a file is by fetching and hashing it: once, however many ask.
//!
//! Decides what may be fetched (`http/allow.rs`), how many at a time, when an asker should come again, and how
//! long a failure is remembered. Never answers for a file itself: what was hashed becomes a record.
//! Invariants: an address is being fetched or waiting at most once; at most `IDENTIFY_MAX` fetches run and
//! `IDENTIFY_WAITING_MAX` wait; failures are bounded and expire.
//!
//! Tested in `core/tests/coordination.rs`.

use super::fetch::{Ended, Fetch, Fetched, Version};
use super::records::NewRecord;
use crate::announce::messages::Pending;
use crate::content::HashDone;
use crate::http::HostPattern;
use crate::http::{Proxies, Url};
use crate::limits::{FAILURES_REMEMBERED_MAX, IDENTIFY_MAX, IDENTIFY_WAITING_MAX, RECORDS_MAX};
use crate::machine::{Effects, Input};
use crate::time::{Deadline, Mono, Now};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

#[derive(Debug)]
pub(super) struct Identifier {
    allow: Vec<HostPattern>,
    proxies: Proxies,
    /// By owner number.
    running: BTreeMap<u64, Running>,
    waiting: VecDeque<Url>,
    failures: BTreeMap<Url, Failure>,
    /// What was hashed here, and when it was last known to be so.
    hashed: BTreeMap<Url, Hashed>,
    last_owner: u64,
}

#[derive(Debug)]
struct Running {
    url: Url,
    since: Mono,
    fetch: Fetch,
}

#[derive(Debug)]
struct Failure {
    why: String,
    until: Mono,
}

#[derive(Debug)]
struct Hashed {
    version: Version,
    checked: Mono,
}

/// What an asker is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    NotAllowed,
    /// Come again after this time.
    Pending(Pending, Duration),
    /// It was tried a moment ago.
    Failed(String),
    /// Too many are waiting.
    Full,
}

/// A fetch is over.
#[derive(Debug)]
pub(super) struct Identified {
    pub(super) url: Url,
    /// `None`: it is what it was.
    pub(super) result: Result<Option<NewRecord>, String>,
    pub(super) took: Duration,
}

impl Identifier {
    pub(super) const fn new(allow: Vec<HostPattern>, proxies: Proxies) -> Self {
        Self {
            allow,
            proxies,
            running: BTreeMap::new(),
            waiting: VecDeque::new(),
            failures: BTreeMap::new(),
            hashed: BTreeMap::new(),
            last_owner: 0,
        }
    }

    /// There is a record of this address. If it was hashed here a while ago, look whether it has changed.
    pub(super) fn refresh(&mut self, now: Now, url: &Url, fx: &mut Effects) {
        let Some(hashed) = self.hashed.get_mut(url) else {
            return;
        };
        if now.mono.since(hashed.checked) < FRESH_FOR || self.waiting.len() >= IDENTIFY_WAITING_MAX
        {
            return;
        }
        hashed.checked = now.mono;
        let running = self.running.values().any(|running| running.url == *url);
        if !running && !self.waiting.contains(url) {
            self.waiting.push_back(url.clone());
            self.start_next(now, fx);
        }
    }

    /// There is no record of this address.
    pub(super) fn ask(&mut self, now: Now, url: &Url, fx: &mut Effects) -> Asked {
        if !may_fetch(&self.allow, url) {
            return Asked::NotAllowed;
        }
        if let Some(running) = self.running.values().find(|running| running.url == *url) {
            return running.progress(now);
        }
        self.failures.retain(|_, failure| failure.until > now.mono);
        if let Some(failure) = self.failures.get(url) {
            return Asked::Failed(failure.why.clone());
        }
        self.hashed.remove(url);
        if !self.waiting.contains(url) {
            if self.waiting.len() >= IDENTIFY_WAITING_MAX {
                return Asked::Full;
            }
            self.waiting.push_back(url.clone());
            self.start_next(now, fx);
        }
        Asked::Pending(NOTHING_YET, RETRY_MIN)
    }

    pub(super) fn on_stream(
        &mut self,
        now: Now,
        owner: u64,
        input: &Input,
        fx: &mut Effects,
    ) -> Option<Identified> {
        fx.owner = owner;
        let running = self.running.get_mut(&owner)?;
        let allow = &self.allow;
        let may_fetch = |url: &Url| may_fetch(allow, url);
        let ended = running
            .fetch
            .on_stream(now, input, may_fetch, &self.proxies, fx)?;
        self.ended(now, owner, ended, fx)
    }

    pub(super) fn on_hashed(
        &mut self,
        now: Now,
        owner: u64,
        done: HashDone,
        fx: &mut Effects,
    ) -> Option<Identified> {
        fx.owner = owner;
        let ended = self
            .running
            .get_mut(&owner)?
            .fetch
            .on_hashed(now, done, fx)?;
        self.ended(now, owner, ended, fx)
    }

    /// At most one is over at a time; call again until `None`.
    pub(super) fn on_tick(&mut self, now: Now, fx: &mut Effects) -> Option<Identified> {
        let allow = &self.allow;
        let may_fetch = |url: &Url| may_fetch(allow, url);
        let mut over = None;
        for (owner, running) in &mut self.running {
            fx.owner = *owner;
            if let Some(ended) = running.fetch.on_tick(now, may_fetch, &self.proxies, fx) {
                over = Some((*owner, ended));
                break;
            }
        }
        let (owner, ended) = over?;
        self.ended(now, owner, ended, fx)
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.running
            .values()
            .filter_map(|running| running.fetch.deadline())
            .reduce(|a, b| if b.at < a.at { b } else { a })
    }

    pub(super) fn shutdown(&mut self, fx: &mut Effects) {
        self.waiting.clear();
        for running in core::mem::take(&mut self.running).into_values() {
            let Running { mut fetch, .. } = running;
            fetch.abort(fx);
        }
    }

    fn start_next(&mut self, now: Now, fx: &mut Effects) {
        while self.running.len() < IDENTIFY_MAX
            && let Some(url) = self.waiting.pop_front()
        {
            self.last_owner += 1;
            fx.owner = self.last_owner;
            let known = self.hashed.get(&url).map(|hashed| hashed.version.clone());
            let fetch = Fetch::start(now, url.clone(), known, &self.proxies, fx);
            let running = Running {
                url,
                since: now.mono,
                fetch,
            };
            self.running.insert(self.last_owner, running);
        }
    }

    fn ended(
        &mut self,
        now: Now,
        owner: u64,
        result: Ended,
        fx: &mut Effects,
    ) -> Option<Identified> {
        let Running {
            url,
            since,
            mut fetch,
        } = self.running.remove(&owner)?;
        fetch.abort(fx);
        let result = match result {
            Ok(Fetched::File(record, version)) => {
                self.remember_version(now, &url, version);
                Ok(Some(record))
            }
            Ok(Fetched::Unchanged) => Ok(None),
            Err(why) => {
                self.remember_failure(now, &url, &why);
                Err(why)
            }
        };
        self.start_next(now, fx);
        Some(Identified {
            url,
            result,
            took: now.mono.since(since),
        })
    }

    fn remember_version(&mut self, now: Now, url: &Url, version: Version) {
        if self.hashed.len() >= RECORDS_MAX {
            self.hashed.pop_first();
        }
        let hashed = Hashed {
            version,
            checked: now.mono,
        };
        self.hashed.insert(url.clone(), hashed);
    }

    fn remember_failure(&mut self, now: Now, url: &Url, why: &str) {
        if self.failures.len() >= FAILURES_REMEMBERED_MAX {
            self.failures.pop_first();
        }
        let failure = Failure {
            why: why.into(),
            until: now.mono + FAILURE_LASTS,
        };
        self.failures.insert(url.clone(), failure);
    }

    pub(super) fn check(&self) {
        debug_assert!(self.running.len() <= IDENTIFY_MAX);
        debug_assert!(self.waiting.len() <= IDENTIFY_WAITING_MAX);
        debug_assert!(self.hashed.len() <= RECORDS_MAX);
        debug_assert!(self.failures.len() <= FAILURES_REMEMBERED_MAX);
        debug_assert!(self.waiting.is_empty() || self.running.len() == IDENTIFY_MAX);
    }
}

impl Running {
    fn progress(&self, now: Now) -> Asked {
        let (done, length) = (self.fetch.done_bytes(), self.fetch.length());
        let elapsed_us = now.mono.since(self.since).as_micros();
        let left_us =
            u128::from(length.saturating_sub(done)) * elapsed_us / u128::from(done.max(1));
        let left = Duration::from_micros(u64::try_from(left_us).unwrap_or(u64::MAX));
        let pending = Pending {
            done_bytes: done,
            length,
        };
        Asked::Pending(pending, left.clamp(RETRY_MIN, RETRY_MAX))
    }
}

fn may_fetch(allow: &[HostPattern], url: &Url) -> bool {
    allow.iter().any(|pattern| pattern.covers(url))
}

const NOTHING_YET: Pending = Pending {
    done_bytes: 0,
    length: 0,
};
const RETRY_MIN: Duration = Duration::from_secs(1);
/// An estimate; who comes too early asks once more.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// A file that was hashed here is looked after again, when asked for, this much later.
const FRESH_FOR: Duration = Duration::from_secs(60);
/// An origin that failed is left alone this long.
const FAILURE_LASTS: Duration = Duration::from_secs(60);
