//! One version of one file: which slices of it are stored, which are arriving, who reads.
//!
//! A slice is in one of these states: absent; in memory (arriving, or whole and not yet stored); stored, with its
//! checksum. A stored slice is compared with its checksum before it is first given away in a run, so that what a
//! crash or a disk did to it is found and fetched anew. Bytes are given to readers as they arrive.
//!
//! Where slices come from is in `fill.rs`.

use super::fill::Fill;
use super::orders::{Doing, Id, Orders};
use super::probe::Found;
use super::record::{Record, data_path, digest_from_hex, record_path};
use crate::content::{Digest, HashDone};
use crate::http::{Url, Validator};
use crate::ids::{FileId, StreamId};
use crate::limits::{CACHE_SLICE_LEN, CACHE_SLICES_IN_MEMORY, ORIGIN_READ_LEN, SYNC_AFTER};
use crate::machine::{DiskDone, DiskError, DiskOp, OpenHow};
use crate::time::{Deadline, Mono, Now};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::Range;
use core::time::Duration;

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
    checked_unix_us: i64,
    max_age_s: u64,
    pub used_unix_us: i64,
    /// The stored slices.
    digests: BTreeMap<u32, Digest>,
    /// Those that were compared with their checksum in this run.
    sound: BTreeSet<u32>,
    checking: BTreeSet<u32>,
    pub(super) memory: BTreeMap<u32, Arriving>,
    /// Whole slices about which it is to be decided whether they are stored.
    pub sealed: Vec<u32>,
    pub readers: BTreeMap<StreamId, Range<u64>>,
    file: FileState,
    /// It may be stored.
    pub keeps: bool,
    /// The disk would not take the last slice: fetch no more than is read.
    pub thin: bool,
    /// Another version took its place, or nobody may ask for it any more.
    pub dead: bool,
    pub fill: Fill,
    /// Disk and hash work outstanding.
    pub ops: u32,
    /// Bytes stored or being stored.
    pub stored: u64,
    dirty_since: Option<Mono>,
    recording: bool,
    /// The origin is not asked whether it is still the same before this.
    pub rest_until: Mono,
}

/// A slice in memory.
#[derive(Debug, Default)]
pub(super) struct Arriving {
    pub chunks: Vec<Bytes>,
    pub len: u32,
    digest: Option<Digest>,
    written: bool,
    /// It will not be stored.
    pub loose: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileState {
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
            digests: BTreeMap::new(),
            sound: BTreeSet::new(),
            checking: BTreeSet::new(),
            memory: BTreeMap::new(),
            sealed: Vec::new(),
            readers: BTreeMap::new(),
            file: FileState::Closed,
            keeps: !found.freshness.no_store,
            thin: found.freshness.no_store,
            dead: false,
            fill: Fill::default(),
            ops: 0,
            stored: 0,
            dirty_since: None,
            recording: false,
            rest_until: Mono::ZERO,
        };
        object.refresh(found.freshness.max_age_s, default_age, now);
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
                object.stored += object.slice_len(*slice);
            }
        }
        Some(object)
    }

    fn record(&self) -> Bytes {
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

    pub(super) fn slices(&self) -> u32 {
        u32::try_from(self.length.div_ceil(SLICE)).unwrap_or(u32::MAX)
    }

    pub(super) fn slice_len(&self, slice: u32) -> u64 {
        self.length.saturating_sub(start_of(slice)).min(SLICE)
    }

    pub(super) fn has(&self, slice: u32) -> bool {
        self.digests.contains_key(&slice)
    }

    /// All of this range is stored.
    pub(super) fn holds(&self, range: &Range<u64>) -> bool {
        range.is_empty()
            || (slice_of(range.start)..=slice_of(range.end - 1)).all(|slice| self.has(slice))
    }

    /// Whole in memory or stored.
    pub(super) fn is_here(&self, slice: u32) -> bool {
        let whole = |arriving: &Arriving| u64::from(arriving.len) == self.slice_len(slice);
        self.has(slice) || self.memory.get(&slice).is_some_and(whole)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.readers.is_empty() && self.ops == 0 && !self.fill.is_active()
    }

    pub(super) const fn is_recorded(&self) -> bool {
        (self.dirty_since.is_none() || !self.keeps || self.dead) && !self.recording
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
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
        if self.sound.contains(&slice) {
            let end = left.end.min(start_of(slice) + self.slice_len(slice));
            let len = (end - left.start).min(ORIGIN_READ_LEN.into());
            let len = u32::try_from(len).unwrap_or(ORIGIN_READ_LEN);
            return Piece::OnDisk { file, len };
        }
        if self.checking.insert(slice) {
            let object = self.id;
            let (offset, len) = (start_of(slice), self.slice_len(slice));
            let len = u32::try_from(len).unwrap_or(CACHE_SLICE_LEN);
            let todo = DiskOp::Read { file, offset, len };
            orders.disk(todo, Doing::Check { object, slice });
            self.ops += 1;
        }
        Piece::Soon
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
        self.digests.clear();
        self.stored = 0;
        Some(Told::NotStored(error.clone()))
    }

    // --- slices

    /// Bytes of a slice, from their place in it.
    pub(super) fn arrive(&mut self, slice: u32, at: u64, mut bytes: Bytes) {
        let whole = self.slice_len(slice);
        if self.has(slice) || at + bytes.len() as u64 > whole {
            return;
        }
        let arriving = self.memory.entry(slice).or_default();
        let len = u64::from(arriving.len);
        if at > len || at + (bytes.len() as u64) <= len {
            return;
        }
        let known = usize::try_from(len - at).unwrap_or(usize::MAX);
        let bytes = bytes.split_off(known.min(bytes.len()));
        arriving.len += u32::try_from(bytes.len()).unwrap_or(0);
        arriving.chunks.push(bytes);
        if u64::from(arriving.len) == whole {
            self.sealed.push(slice);
        }
    }

    /// A whole slice is to be stored.
    pub(super) fn store(&mut self, slice: u32, orders: &mut Orders) {
        let FileState::Open(file) = self.file else {
            return self.let_go(slice);
        };
        let Some(arriving) = self.memory.get(&slice) else {
            return;
        };
        let (object, offset) = (self.id, start_of(slice));
        let chunks = arriving.chunks.clone();
        orders.hash(chunks.clone(), Doing::SliceHash { object, slice });
        let todo = DiskOp::Write {
            file,
            offset,
            chunks,
        };
        orders.disk(todo, Doing::SliceWrite { object, slice });
        self.ops += 2;
        self.stored += self.slice_len(slice);
    }

    pub(super) const fn is_opening(&self) -> bool {
        matches!(self.file, FileState::Opening(_))
    }

    /// A slice stays in memory only, until it was read.
    pub(super) fn let_go(&mut self, slice: u32) {
        if let Some(arriving) = self.memory.get_mut(&slice) {
            arriving.loose = true;
        }
    }

    pub(super) fn on_slice_hashed(&mut self, now: Now, slice: u32, done: HashDone) {
        if let Some(arriving) = self.memory.get_mut(&slice) {
            arriving.digest = done.flat.map(|flat| flat.digest());
        }
        self.settle(now, slice);
    }

    pub(super) fn on_slice_written(
        &mut self,
        now: Now,
        slice: u32,
        done: Result<DiskDone, DiskError>,
    ) -> Option<Told> {
        match done {
            Ok(_) => {
                self.thin = false;
                if let Some(arriving) = self.memory.get_mut(&slice) {
                    arriving.written = true;
                }
                self.settle(now, slice);
                None
            }
            Err(error) => {
                self.thin = true;
                self.stored = self.stored.saturating_sub(self.slice_len(slice));
                self.let_go(slice);
                Some(Told::NotStored(error))
            }
        }
    }

    /// Written and hashed: it is stored.
    fn settle(&mut self, now: Now, slice: u32) {
        let Some((true, Some(digest))) = self.memory.get(&slice).map(|a| (a.written, a.digest))
        else {
            return;
        };
        self.memory.remove(&slice);
        self.digests.insert(slice, digest);
        self.sound.insert(slice);
        self.dirty(now);
    }

    pub(super) fn on_check_read(
        &mut self,
        now: Now,
        slice: u32,
        done: Result<DiskDone, DiskError>,
        orders: &mut Orders,
    ) -> Option<Told> {
        let object = self.id;
        match done {
            Ok(DiskDone::Bytes(bytes)) => {
                self.ops += 1;
                orders.hash(alloc::vec![bytes], Doing::CheckHash { object, slice });
                None
            }
            _ => self.on_checked(now, slice, None),
        }
    }

    pub(super) fn on_checked(
        &mut self,
        now: Now,
        slice: u32,
        digest: Option<Digest>,
    ) -> Option<Told> {
        self.checking.remove(&slice);
        if digest.is_some() && digest == self.digests.get(&slice).copied() {
            self.sound.insert(slice);
            return None;
        }
        self.on_damaged(now, slice)
    }

    /// It is not what was stored.
    pub(super) fn on_damaged(&mut self, now: Now, slice: u32) -> Option<Told> {
        self.digests.remove(&slice)?;
        self.sound.remove(&slice);
        self.stored = self.stored.saturating_sub(self.slice_len(slice));
        self.dirty(now);
        Some(Told::Damaged(slice))
    }

    /// Forget slices in memory that nobody will read: those that are not stored and behind everybody; and if they
    /// are still too many, the farthest ahead. Without readers nothing half-arrived is kept.
    pub(super) fn trim(&mut self) {
        if self.readers.is_empty() {
            let length = self.length;
            self.memory.retain(|slice, arriving| {
                let whole = length.saturating_sub(start_of(*slice)).min(SLICE);
                !arriving.loose && u64::from(arriving.len) == whole
            });
            return;
        }
        let next = |slice: u32| {
            let end = start_of(slice) + SLICE;
            self.readers
                .values()
                .any(|left| left.start < end && !left.is_empty())
        };
        let behind: Vec<u32> = self
            .memory
            .iter()
            .filter(|(slice, a)| a.loose && !next(**slice))
            .map(|(slice, _)| *slice)
            .collect();
        for slice in behind {
            self.memory.remove(&slice);
        }
        let needed: BTreeSet<u32> = self
            .readers
            .values()
            .map(|left| slice_of(left.start))
            .collect();
        while self.memory.len() > CACHE_SLICES_IN_MEMORY * 2 {
            let last = self
                .memory
                .iter()
                .rev()
                .find(|(slice, a)| a.loose && !needed.contains(slice));
            let Some(slice) = last.map(|(slice, _)| *slice) else {
                return;
            };
            self.memory.remove(&slice);
        }
    }

    pub(super) fn check(&self) {
        for (slice, arriving) in &self.memory {
            assert!(!self.has(*slice), "slice {slice} is in memory and stored");
            assert!(
                u64::from(arriving.len) <= self.slice_len(*slice),
                "a slice too long"
            );
        }
        let stored: u64 = self
            .digests
            .keys()
            .map(|slice| self.slice_len(*slice))
            .sum();
        assert!(self.stored >= stored, "stored bytes that are not counted");
        assert!(
            self.sound.iter().all(|slice| self.has(*slice)),
            "sound but not stored"
        );
    }

    // --- the record

    fn dirty(&mut self, now: Now) {
        self.dirty_since.get_or_insert(now.mono);
    }

    /// Write down what is stored, once it is durable.
    pub(super) fn record_soon(&mut self, now: Now, at_once: bool, dir: &str, orders: &mut Orders) {
        let due = self
            .deadline()
            .is_some_and(|due| at_once || due.at <= now.mono);
        if !due {
            return;
        }
        let object = self.id;
        let record = self.record();
        self.dirty_since = None;
        self.recording = true;
        self.ops += 1;
        match self.file {
            FileState::Open(file) => {
                orders.disk(DiskOp::Sync { file }, Doing::Sync { object, record });
            }
            _ => self.replace(record, dir, orders),
        }
    }

    fn replace(&mut self, bytes: Bytes, dir: &str, orders: &mut Orders) {
        let path = record_path(dir, &self.name);
        let object = self.id;
        orders.disk(DiskOp::Replace { path, bytes }, Doing::Record { object });
    }

    pub(super) fn on_synced(
        &mut self,
        record: Bytes,
        is_durable: bool,
        dir: &str,
        orders: &mut Orders,
    ) {
        if is_durable && !self.dead {
            self.ops += 1;
            self.replace(record, dir, orders);
        } else {
            self.recording = false;
        }
    }

    pub(super) const fn on_recorded(&mut self) {
        self.recording = false;
    }
}

pub(super) const SLICE: u64 = CACHE_SLICE_LEN as u64;

pub(super) fn start_of(slice: u32) -> u64 {
    u64::from(slice) * SLICE
}

pub(super) fn slice_of(offset: u64) -> u32 {
    u32::try_from(offset / SLICE).unwrap_or(u32::MAX)
}
