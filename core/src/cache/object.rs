//! One version of one file: which slices of it are stored, which are arriving, who reads.
//!
//! A slice is in one of these states: absent; in memory (arriving, or whole and not yet stored); stored, with its
//! checksum. A stored slice is compared with its checksum before it is first given away in a run, so that what a
//! crash or a disk did to it is found and fetched anew. Bytes are given to readers as they arrive.
//!
//! Where slices come from is in `fill.rs`, what becomes of them in `slices.rs`.

use super::fill::Fill;
use super::orders::{Doing, Id, Orders};
use super::probe::Found;
use super::record::{Record, data_path, digest_from_hex, record_path};
use crate::content::Digest;
use crate::http::{Url, Validator};
use crate::ids::{FileId, StreamId};
use crate::limits::{CACHE_SLICE_LEN, SYNC_AFTER};
use crate::machine::{DiskDone, DiskError, DiskOp, OpenHow};
use crate::time::{Deadline, Mono, Now};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::Range;
use core::time::Duration;
use rangemap::RangeSet;

#[derive(Debug)]
pub(super) struct Object {
    pub id: Id,
    /// Of its files.
    pub name: String,
    pub url: Url,
    pub at: Url,
    pub length: u64,
    pub ranges: bool,
    pub validator: Option<Validator>,
    pub content_type: Option<String>,
    pub(super) checked_unix_us: i64,
    max_age_s: u64,
    pub used_unix_us: i64,
    /// When it was used, as a number that grows; the store's.
    pub turn: u64,
    /// The stored slices.
    pub(super) digests: BTreeMap<u32, Digest>,
    /// Those that were compared with their checksum in this run.
    pub(super) sound: BTreeSet<u32>,
    pub(super) checking: BTreeSet<u32>,
    pub(super) memory: BTreeMap<u32, Arriving>,
    /// Neither stored nor whole in memory.
    pub(super) absent: RangeSet<u32>,
    /// Whole slices about which it is to be decided whether they are stored.
    pub sealed: Vec<u32>,
    pub readers: BTreeMap<StreamId, Range<u64>>,
    pub(super) file: FileState,
    /// It may be stored.
    pub keeps: bool,
    /// The disk would not take the last slice: fetch no more than is read.
    pub thin: bool,
    /// Another version took its place, or nobody may ask for it any more.
    pub dead: bool,
    pub fill: Fill,
    /// It is lent to the agent beside the cache.
    pub lent: bool,
    /// Disk and hash work outstanding.
    pub ops: u32,
    /// Bytes stored or being stored.
    pub stored: u64,
    /// ... as the store has counted them.
    pub counted: u64,
    pub(super) dirty_since: Option<Mono>,
    pub(super) recording: bool,
    /// The origin is not asked whether it is still the same before this.
    pub rest_until: Mono,
}

/// A slice in memory.
#[derive(Debug, Default)]
pub(super) struct Arriving {
    pub chunks: Vec<Bytes>,
    pub len: u32,
    pub(super) digest: Option<Digest>,
    pub(super) written: bool,
    /// It will not be stored.
    pub loose: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileState {
    Closed,
    Opening(FileId),
    Open(FileId),
    /// It cannot be opened.
    Broken,
}

/// Where the next bytes for a reader are.
#[derive(Debug)]
pub(super) enum Piece {
    Here(Bytes),
    OnDisk {
        file: FileId,
        len: u32,
    },
    /// They are being checked, or the file is being opened.
    Soon,
    Missing,
}

/// What is worth saying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Damaged(u32),
    Unreadable(String),
    NotStored(DiskError),
}

impl Object {
    pub(super) fn new(
        id: Id,
        name: String,
        url: Url,
        found: Found,
        default_age: Duration,
        now: Now,
    ) -> Self {
        let mut object = Self {
            id,
            name,
            url,
            at: found.at,
            length: found.length,
            ranges: found.ranges,
            validator: found.validator,
            content_type: found.content_type,
            checked_unix_us: 0,
            max_age_s: 0,
            used_unix_us: now.wall.unix_us,
            turn: 0,
            digests: BTreeMap::new(),
            sound: BTreeSet::new(),
            checking: BTreeSet::new(),
            memory: BTreeMap::new(),
            absent: RangeSet::new(),
            sealed: Vec::new(),
            readers: BTreeMap::new(),
            file: FileState::Closed,
            keeps: !found.freshness.no_store,
            thin: found.freshness.no_store,
            dead: false,
            fill: Fill::default(),
            lent: false,
            ops: 0,
            stored: 0,
            counted: 0,
            dirty_since: None,
            recording: false,
            rest_until: Mono::ZERO,
        };
        object.ranges &= !object.is_unproved();
        if object.slices() > 0 {
            object.absent.insert(0..object.slices());
        }
        let max_age_s = if found.freshness.no_store {
            Some(0)
        } else {
            found.freshness.max_age_s
        };
        object.refresh(max_age_s, default_age, now);
        object
    }

    /// What an earlier run has kept. Nothing of it is believed before it was compared with its checksum.
    pub(super) fn restore(id: Id, name: String, record: &Record) -> Option<Self> {
        let url = Url::parse(&record.url).ok()?;
        let found = Found {
            at: Url::parse(&record.at).ok()?,
            length: record.length,
            ranges: record.ranges,
            validator: record.validator.clone(),
            content_type: record.content_type.clone(),
            freshness: super::probe::Freshness::default(),
        };
        let mut object = Self::new(id, name, url, found, Duration::ZERO, Now::default());
        object.checked_unix_us = record.checked_unix_us;
        object.max_age_s = record.max_age_s;
        object.used_unix_us = record.used_unix_us;
        object.dirty_since = None;
        for (slice, digest) in &record.slices {
            if *slice < object.slices() {
                object.digests.insert(*slice, digest_from_hex(digest)?);
                object.absent.remove(*slice..*slice + 1);
                object.stored += object.slice_len(*slice);
            }
        }
        let is_sure = !object.is_unproved() || object.is_whole();
        is_sure.then_some(object)
    }

    pub(super) fn record(&self) -> Bytes {
        Record {
            url: self.url.to_string(),
            at: self.at.to_string(),
            length: self.length,
            ranges: self.ranges,
            validator: self.validator.clone(),
            content_type: self.content_type.clone(),
            checked_unix_us: self.checked_unix_us,
            max_age_s: self.max_age_s,
            used_unix_us: self.used_unix_us,
            slices: self
                .digests
                .iter()
                .map(|(slice, digest)| (*slice, digest.to_string()))
                .collect(),
        }
        .encode()
    }

    /// The origin has just said that this is the file.
    pub(super) fn refresh(&mut self, max_age_s: Option<u64>, default_age: Duration, now: Now) {
        self.checked_unix_us = now.wall.unix_us;
        self.max_age_s = max_age_s.unwrap_or(default_age.as_secs());
        self.rest_until = Mono::ZERO;
        if !self.digests.is_empty() {
            self.dirty(now);
        }
    }

    pub(super) fn is_fresh(&self, now: Now) -> bool {
        let age_us = now.wall.unix_us.saturating_sub(self.checked_unix_us);
        // A clock that was put back makes nothing fresh.
        u64::try_from(age_us).is_ok_and(|age_us| age_us / 1_000_000 < self.max_age_s)
    }

    pub(super) const fn checked_unix_us(&self) -> i64 {
        self.checked_unix_us
    }

    /// Nothing tells two versions of it apart: it is one stream from one connection, whole or nothing.
    pub(super) fn is_unproved(&self) -> bool {
        let guard = self.validator.as_ref().and_then(Validator::if_range);
        guard.is_none()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.digests.is_empty() && self.memory.is_empty()
    }

    pub(super) fn is_whole(&self) -> bool {
        self.absent.is_empty()
    }

    pub(super) fn slices(&self) -> u32 {
        u32::try_from(self.length.div_ceil(SLICE)).unwrap_or(u32::MAX)
    }

    pub(super) fn slice_len(&self, slice: u32) -> u64 {
        self.length.saturating_sub(start_of(slice)).min(SLICE)
    }

    pub(super) fn has(&self, slice: u32) -> bool {
        self.digests.contains_key(&slice)
    }

    /// All of it is on the disk.
    pub(super) fn is_stored(&self) -> bool {
        self.is_whole() && self.memory.is_empty() && !self.digests.is_empty()
    }

    /// All of this range is stored.
    pub(super) fn holds(&self, range: &Range<u64>) -> bool {
        if range.is_empty() {
            return true;
        }
        let slices = slice_of(range.start)..slice_of(range.end - 1) + 1;
        !self.absent.overlaps(&slices) && self.memory.range(slices).next().is_none()
    }

    /// Whole in memory or stored.
    pub(super) fn is_here(&self, slice: u32) -> bool {
        let whole = |arriving: &Arriving| u64::from(arriving.len) == self.slice_len(slice);
        self.has(slice) || self.memory.get(&slice).is_some_and(whole)
    }

    /// It came, or it went: does the register of absent slices still hold?
    pub(super) fn recheck(&mut self, slice: u32) {
        if self.is_here(slice) {
            self.absent.remove(slice..slice + 1);
        } else {
            self.absent.insert(slice..slice + 1);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.readers.is_empty() && self.ops == 0 && !self.fill.is_active()
    }

    pub(super) const fn is_recorded(&self) -> bool {
        (self.dirty_since.is_none() || !self.keeps || self.dead) && !self.recording
    }

    pub(super) fn deadline(&self, now: Mono) -> Option<Deadline> {
        Deadline::earlier(self.record_due(), self.fill.deadline(now))
    }

    pub(super) fn record_due(&self) -> Option<Deadline> {
        let since = self
            .dirty_since
            .filter(|_| !self.recording && self.keeps && !self.dead)?;
        Some(Deadline::new(since + SYNC_AFTER, "record stored slices"))
    }

    // --- readers

    /// The next bytes of `left`, or where they are.
    pub(super) fn look(&mut self, left: &Range<u64>, orders: &mut Orders) -> Piece {
        let slice = slice_of(left.start);
        if let Some(bytes) = self.in_memory(left) {
            return Piece::Here(bytes);
        }
        if !self.has(slice) {
            return Piece::Missing;
        }
        let FileState::Open(file) = self.file else {
            return match self.file {
                FileState::Broken => Piece::Missing,
                _ => Piece::Soon,
            };
        };
        // The one after it shall be ready in time.
        for slice in [slice, slice + 1] {
            if start_of(slice) < left.end {
                self.check_stored(file, slice, orders);
            }
        }
        if !self.sound.contains(&slice) {
            return Piece::Soon;
        }
        let end = left.end.min(start_of(slice) + self.slice_len(slice));
        let len = u32::try_from(end - left.start).unwrap_or(CACHE_SLICE_LEN);
        Piece::OnDisk { file, len }
    }

    /// Compare a stored slice with its checksum, once.
    fn check_stored(&mut self, file: FileId, slice: u32, orders: &mut Orders) {
        if self.sound.contains(&slice) || !self.has(slice) || !self.checking.insert(slice) {
            return;
        }
        let object = self.id;
        let (offset, len) = (start_of(slice), self.slice_len(slice));
        let len = u32::try_from(len).unwrap_or(CACHE_SLICE_LEN);
        let todo = DiskOp::Read { file, offset, len };
        orders.disk(todo, Doing::Check { object, slice });
        self.ops += 1;
    }

    fn in_memory(&self, left: &Range<u64>) -> Option<Bytes> {
        let slice = slice_of(left.start);
        let arriving = self.memory.get(&slice)?;
        let mut skip = usize::try_from(left.start - start_of(slice)).ok()?;
        for chunk in &arriving.chunks {
            if skip < chunk.len() {
                let most = usize::try_from(left.end - left.start).unwrap_or(usize::MAX);
                return Some(chunk.slice(skip..chunk.len().min(skip.saturating_add(most))));
            }
            skip -= chunk.len();
        }
        None
    }

    // --- the file

    pub(super) fn open(&mut self, dir: &str, orders: &mut Orders) {
        if self.file == FileState::Closed && self.keeps {
            let file = orders.fx.file();
            self.file = FileState::Opening(file);
            self.ops += 1;
            let (path, how) = (data_path(dir, &self.name), OpenHow::ReadWrite);
            let object = self.id;
            orders.disk(DiskOp::Open { file, path, how }, Doing::Open { object });
        }
    }

    pub(super) const fn is_open(&self) -> bool {
        matches!(self.file, FileState::Open(_))
    }

    /// Nobody reads it any more.
    pub(super) fn close(&mut self, orders: &mut Orders) {
        if let (FileState::Open(file), true) = (self.file, self.is_idle() && self.is_recorded()) {
            self.file = FileState::Closed;
            orders.disk(DiskOp::Close { file }, Doing::Tidy);
        }
    }

    /// Remove what is on the disk.
    pub(super) fn remove(&mut self, dir: &str, orders: &mut Orders) {
        self.dead = true;
        self.close(orders);
        if self.keeps {
            orders.remove(record_path(dir, &self.name));
            orders.remove(data_path(dir, &self.name));
        }
    }

    pub(super) fn on_opened(&mut self, done: &Result<DiskDone, DiskError>) -> Option<Told> {
        self.file = match (self.file, done) {
            (FileState::Opening(file), Ok(_)) => FileState::Open(file),
            _ => FileState::Broken,
        };
        let error = done.as_ref().err()?;
        // Served without being stored; another run may have better luck with it.
        self.keeps = false;
        self.thin = true;
        for slice in core::mem::take(&mut self.digests).into_keys() {
            self.recheck(slice);
        }
        self.stored = 0;
        Some(Told::NotStored(error.clone()))
    }
}

pub(super) const SLICE: u64 = CACHE_SLICE_LEN as u64;

pub(super) fn start_of(slice: u32) -> u64 {
    u64::from(slice) * SLICE
}

pub(super) fn slice_of(offset: u64) -> u32 {
    u32::try_from(offset / SLICE).unwrap_or(u32::MAX)
}
