//! What becomes of an object's slices: from their first byte to the disk and the record, and what is found when they
//! are compared with their checksums.

use super::object::{Arriving, FileState, Object, SLICE, Told, slice_of, start_of};
use super::orders::{Doing, Orders};
use super::record::record_path;
use crate::content::{Digest, HashDone};
use crate::machine::{DiskDone, DiskError, DiskOp};
use crate::time::Now;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use bytes::Bytes;

impl Object {
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
            self.recheck(slice);
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
        self.recheck(slice);
        self.stored = self.stored.saturating_sub(self.slice_len(slice));
        self.dirty(now);
        Some(Told::Damaged(slice))
    }

    /// Forget slices in memory that nobody will read: those that are not stored and behind everybody; and if they
    /// are still more than twice as many as it may have, the farthest ahead. Without readers nothing half-arrived is kept.
    pub(super) fn trim(&mut self, most: usize) {
        if self.readers.is_empty() {
            let of_no_use =
                |slice: &u32, a: &Arriving| a.loose || u64::from(a.len) < self.slice_len(*slice);
            let slices = self.memory.iter().filter(|(slice, a)| of_no_use(slice, a));
            let slices: Vec<u32> = slices.map(|(slice, _)| *slice).collect();
            return slices.into_iter().for_each(|slice| self.forget(slice));
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
        behind.into_iter().for_each(|slice| self.forget(slice));
        if self.memory.len() <= most * 2 {
            return;
        }
        let needed: BTreeSet<u32> = self
            .readers
            .values()
            .map(|left| slice_of(left.start))
            .collect();
        while self.memory.len() > most * 2 {
            let last = self
                .memory
                .iter()
                .rev()
                .find(|(slice, a)| a.loose && !needed.contains(slice));
            let Some(slice) = last.map(|(slice, _)| *slice) else {
                return;
            };
            self.forget(slice);
        }
    }

    fn forget(&mut self, slice: u32) {
        self.memory.remove(&slice);
        self.recheck(slice);
    }

    pub(super) fn check(&self) {
        for (slice, arriving) in &self.memory {
            assert!(!self.has(*slice), "slice {slice} is in memory and stored");
            assert!(
                u64::from(arriving.len) <= self.slice_len(*slice),
                "a slice too long"
            );
        }
        for slice in 0..self.slices() {
            let here = self.is_here(slice);
            assert_ne!(here, self.absent.contains(&slice), "slice {slice}");
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

    pub(super) fn dirty(&mut self, now: Now) {
        self.dirty_since.get_or_insert(now.mono);
    }

    /// Write down what is stored, once it is durable.
    pub(super) fn record_soon(&mut self, now: Now, at_once: bool, dir: &str, orders: &mut Orders) {
        let due = self
            .record_due()
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
