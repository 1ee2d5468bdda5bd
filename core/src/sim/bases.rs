//! The buffers all content of a world is cut from: one copy in memory, however many hosts hold it.
//!
//! A *base* is a buffer registered once and kept for the life of the world. Two consequences:
//! its address range is never reused, so `(address, length)` inside a base names the same bytes for ever
//! (that is what the hash memo and the journal's short payload names rest on); and neighbouring slices
//! of one base can be joined again without copying.

use crate::content::{Digest, FlatHash, HashDone, HashJob};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::vec::Vec;

#[derive(Default)]
pub(super) struct Bases {
    /// By start address; for look-ups only, never iterated (addresses differ from run to run).
    by_start: BTreeMap<usize, Base>,
    leaves: BTreeMap<Spans, Vec<Digest>>,
    flat: BTreeMap<(Digest, Spans), FlatHash>,
    /// Hash jobs answered from memory, and those that were computed.
    pub(super) hits: u64,
    pub(super) misses: u64,
}

type Spans = Vec<(usize, usize)>;

struct Base {
    bytes: Bytes,
    name: Digest,
}

impl Bases {
    /// Keep `bytes` for ever. (Slices of a known base need no keeping.)
    pub(super) fn keep(&mut self, bytes: &Bytes) {
        if bytes.is_empty() || self.find(bytes).is_some() {
            return;
        }
        let base = Base {
            bytes: bytes.clone(),
            name: Digest::of(bytes),
        };
        self.by_start.insert(address(bytes), base);
    }

    /// The base's name (its SHA-256) and where in it `slice` lies.
    pub(super) fn locate(&self, slice: &Bytes) -> Option<(&Digest, usize)> {
        let (base, offset) = self.find(slice)?;
        Some((&base.name, offset))
    }

    /// `first` and `second` as one slice, if they are neighbours in one base.
    pub(super) fn join(&self, first: &Bytes, second: &Bytes) -> Option<Bytes> {
        if address(first) + first.len() != address(second) {
            return None;
        }
        let (base, offset) = self.find(first)?;
        let end = offset + first.len() + second.len();
        (end <= base.bytes.len()).then(|| base.bytes.slice(offset..end))
    }

    /// [`HashJob::run`], computed once for the same slices of bases (and the same running hash).
    pub(super) fn run(&mut self, job: HashJob) -> HashDone {
        let Some(spans) = self.spans(&job.chunks) else {
            self.misses += 1;
            return job.run();
        };
        let state = job.flat.as_ref().map(|flat| flat.clone().digest());
        let leaves = if job.leaves {
            self.leaves.get(&spans).cloned()
        } else {
            Some(Vec::new())
        };
        let key = state.map(|state| (state, spans.clone()));
        let flat = match &key {
            Some(key) => self.flat.get(key).cloned().map(Some),
            None => Some(None),
        };
        if let (Some(leaves), Some(flat)) = (leaves, flat) {
            self.hits += 1;
            return HashDone { leaves, flat };
        }
        self.misses += 1;
        let wants_leaves = job.leaves;
        let done = job.run();
        if wants_leaves {
            self.leaves.insert(spans, done.leaves.clone());
        }
        if let (Some(key), Some(flat)) = (key, &done.flat) {
            self.flat.insert(key, flat.clone());
        }
        done
    }

    /// The address ranges of the chunks, neighbours joined; `None` if any lies outside all bases.
    fn spans(&self, chunks: &[Bytes]) -> Option<Spans> {
        let mut spans: Spans = Vec::new();
        for chunk in chunks.iter().filter(|c| !c.is_empty()) {
            let start = address(chunk);
            match spans.last_mut() {
                // The sum must stay in one base: two bases can be neighbours in memory.
                Some((from, len)) if *from + *len == start && self.same_base(*from, chunk) => {
                    *len += chunk.len();
                }
                _ => {
                    self.find(chunk)?;
                    spans.push((start, chunk.len()));
                }
            }
        }
        Some(spans)
    }

    fn same_base(&self, start: usize, chunk: &Bytes) -> bool {
        self.by_start
            .range(..=start)
            .next_back()
            .is_some_and(|(base, held)| address(chunk) + chunk.len() <= base + held.bytes.len())
    }

    fn find(&self, slice: &Bytes) -> Option<(&Base, usize)> {
        let start = address(slice);
        let (base_start, base) = self.by_start.range(..=start).next_back()?;
        let offset = start - base_start;
        (!slice.is_empty() && offset + slice.len() <= base.bytes.len()).then_some((base, offset))
    }
}

fn address(bytes: &Bytes) -> usize {
    bytes.as_ptr() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memo_answers_what_the_job_would() {
        let mut bases = Bases::default();
        let base = Bytes::from_iter((0..100_000_u32).map(|n| (n % 251) as u8));
        bases.keep(&base);
        let job = |cut: usize, flat: Option<FlatHash>| HashJob {
            chunks: std::vec![base.slice(10..cut), base.slice(cut..70_000)],
            leaves: true,
            flat,
        };
        let real = job(500, Some(FlatHash::default())).run();
        for cut in [500, 9_999, 60_000] {
            let done = bases.run(job(cut, Some(FlatHash::default())));
            assert_eq!(done.leaves, real.leaves);
            let digests = [done.flat, real.flat.clone()].map(|f| f.map(FlatHash::digest));
            assert_eq!(digests[0], digests[1]);
        }
        assert_eq!((bases.hits, bases.misses), (2, 1));
        assert_eq!(bases.run(job(500, None)).leaves, real.leaves);
        assert!(bases.run(job(500, None)).flat.is_none());
    }

    #[test]
    fn bytes_outside_a_base_are_hashed_for_real() {
        let mut bases = Bases::default();
        for byte in 0..3_u8 {
            let job = HashJob {
                chunks: std::vec![Bytes::from(std::vec![byte; 100])],
                leaves: true,
                flat: None,
            };
            assert_eq!(bases.run(job.clone()).leaves, job.run().leaves);
        }
        assert_eq!(bases.hits, 0);
    }
}
