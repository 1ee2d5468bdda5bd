//! The bytes of one simulated file: slices of whatever was written, never copied.
//!
//! Invariants: extents do not overlap and are not empty; neighbours cut from one base are one extent;
//! what no extent covers reads as zeros.

use super::bases::Bases;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::vec::Vec;

#[derive(Clone, Default)]
pub(super) struct Extents {
    by_offset: BTreeMap<u64, Bytes>,
    pub(super) len: u64,
}

static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

impl Extents {
    pub(super) fn write(&mut self, offset: u64, bytes: Bytes, bases: &Bases) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len() as u64;
        self.clear(offset, end);
        self.len = self.len.max(end);
        let (mut offset, mut bytes) = (offset, bytes);
        if let Some((&before, held)) = self.by_offset.range(..offset).next_back()
            && before + held.len() as u64 == offset
            && let Some(joined) = bases.join(held, &bytes)
        {
            (offset, bytes) = (before, joined);
        }
        if let Some(held) = self.by_offset.get(&end)
            && let Some(joined) = bases.join(&bytes, held)
        {
            self.by_offset.remove(&end);
            bytes = joined;
        }
        self.by_offset.insert(offset, bytes);
    }

    /// The bytes in `offset..offset + len`; `None` if the file ends before.
    pub(super) fn read(&self, offset: u64, len: u64) -> Option<Bytes> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len)?;
        if len == 0 {
            return Some(Bytes::new());
        }
        let first = self.by_offset.range(..=offset).next_back();
        if let Some((&start, held)) = first
            && start + held.len() as u64 >= end
        {
            let skip = (offset - start) as usize;
            return Some(held.slice(skip..skip + len as usize));
        }
        let covered = self.slices(offset, end);
        if covered.is_empty() && len <= ZEROS.len() as u64 {
            return Some(Bytes::from_static(&ZEROS[..len as usize]));
        }
        let mut out = std::vec![0; len as usize];
        for (at, bytes) in covered {
            let from = (at - offset) as usize;
            out[from..from + bytes.len()].copy_from_slice(&bytes);
        }
        Some(out.into())
    }

    /// Set the length; what is cut off is gone.
    pub(super) fn truncate(&mut self, len: u64) {
        self.clear(len, u64::MAX);
        self.len = len;
    }

    /// Take over what `from` holds in `start..end`, holes included.
    pub(super) fn copy_from(&mut self, from: &Self, start: u64, end: u64, bases: &Bases) {
        self.clear(start, end);
        for (at, bytes) in from.slices(start, end) {
            self.write(at, bytes, bases);
        }
    }

    fn slices(&self, start: u64, end: u64) -> Vec<(u64, Bytes)> {
        let from = match self.by_offset.range(..=start).next_back() {
            Some((&at, held)) if at + held.len() as u64 > start => at,
            _ => start,
        };
        self.by_offset
            .range(from..end)
            .map(|(&at, held)| {
                let skip = start.saturating_sub(at);
                let keep = (end - at).min(held.len() as u64);
                (at + skip, held.slice(skip as usize..keep as usize))
            })
            .collect()
    }

    fn clear(&mut self, start: u64, end: u64) {
        if let Some((&at, held)) = self.by_offset.range_mut(..start).next_back()
            && at + held.len() as u64 > start
        {
            let tail = held.slice((start - at) as usize..);
            let head = held.slice(..(start - at) as usize);
            self.by_offset.insert(at, head);
            self.by_offset.insert(start, tail);
        }
        while let Some((&at, _)) = self.by_offset.range(start..end).next() {
            let Some(held) = self.by_offset.remove(&at) else {
                return;
            };
            if at + held.len() as u64 > end {
                self.by_offset
                    .insert(end, held.slice((end - at) as usize..));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn it_reads_what_a_plain_vector_would() {
        let mut bases = Bases::default();
        let base = Bytes::from_iter((0..4096_u32).map(|n| (n % 255 + 1) as u8));
        bases.keep(&base);
        let mut rng = Rng::from_u64(5);
        let (mut extents, mut naive) = (Extents::default(), Vec::new());
        for _ in 0..3000 {
            let offset = rng.below(3000) as usize;
            let len = 1 + rng.below(1000) as usize;
            if rng.below(20) == 0 {
                extents.truncate(offset as u64);
                naive.resize(offset, 0);
                continue;
            }
            let from = if rng.below(2) == 0 {
                offset
            } else {
                rng.below(3000) as usize
            };
            let bytes = base.slice(from..from + len);
            if naive.len() < offset + len {
                naive.resize(offset + len, 0);
            }
            naive[offset..offset + len].copy_from_slice(&bytes);
            extents.write(offset as u64, bytes, &bases);
            let (start, end) = (rng.below(offset as u64 + 1), (offset + len) as u64);
            let read = extents.read(start, end - start).unwrap();
            assert!(read[..] == naive[start as usize..end as usize]);
            let mut copy = Extents::default();
            copy.copy_from(&extents, start, end, &bases);
            assert!(copy.read(start, end - start).unwrap() == read);
        }
        assert!(extents.read(0, extents.len + 1).is_none());
    }

    #[test]
    fn neighbours_of_one_base_become_one_extent_without_copying() {
        let mut bases = Bases::default();
        let base = Bytes::from(std::vec![7; 1000]);
        bases.keep(&base);
        let mut extents = Extents::default();
        for at in [300, 0, 100, 200, 400] {
            extents.write(at, base.slice(at as usize..at as usize + 100), &bases);
        }
        assert_eq!(extents.by_offset.len(), 1);
        let read = extents.read(50, 400).unwrap();
        assert_eq!(read.as_ptr(), base[50..].as_ptr());
    }
}
