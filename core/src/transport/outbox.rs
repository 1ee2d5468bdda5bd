//! The bytes a stream was given to send, from the first that is not acknowledged on.
//!
//! Never does: packets. Invariant: chunks lie next to each other; payload is copied only into the datagram, small
//! chunks once more. Bounded by its owner (`limits::UTP_SEND_BUFFER_MAX` and what a writer may have unanswered).

use crate::limits::UTP_SEND_CHUNK_MIN;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bytes::Bytes;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Each with its place in the stream.
    chunks: VecDeque<(u64, Bytes)>,
    end: u64,
}

impl Outbox {
    /// Place in the stream after the last byte.
    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        let start = self.end;
        self.end += bytes.len() as u64;
        let joined = match self.chunks.back() {
            Some((_, last)) if last.len() + bytes.len() <= UTP_SEND_CHUNK_MIN => {
                Bytes::from([last.as_ref(), bytes.as_ref()].concat())
            }
            _ => {
                self.chunks.push_back((start, bytes));
                return;
            }
        };
        if let Some((_, last)) = self.chunks.back_mut() {
            *last = joined;
        }
    }

    /// Everything before `at` is no longer needed.
    pub(super) fn release(&mut self, at: u64) {
        while let Some((start, bytes)) = self.chunks.front()
            && start + bytes.len() as u64 <= at
        {
            self.chunks.pop_front();
        }
    }

    /// Everything from `at` on will not be sent.
    pub(super) fn truncate(&mut self, at: u64) {
        self.end = self.end.min(at);
        while let Some((start, bytes)) = self.chunks.back_mut() {
            if *start < at {
                let keep = usize::try_from(at - *start).unwrap_or(usize::MAX);
                bytes.truncate(keep);
                break;
            }
            self.chunks.pop_back();
        }
    }

    /// Append `len` bytes from place `at` on to `out`; fewer if they are not there.
    pub(super) fn copy(&self, at: u64, len: usize, out: &mut Vec<u8>) {
        let first = self
            .chunks
            .partition_point(|(start, bytes)| start + bytes.len() as u64 <= at);
        let mut at = at;
        let mut left = len;
        for (start, bytes) in self.chunks.range(first.min(self.chunks.len())..) {
            let skip = usize::try_from(at.saturating_sub(*start)).unwrap_or(usize::MAX);
            let there = bytes.get(skip..).unwrap_or_default();
            let take = there.get(..left).unwrap_or(there);
            out.extend_from_slice(take);
            at += take.len() as u64;
            left -= take.len();
            if left == 0 {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_found_by_their_place() {
        let mut outbox = Outbox::default();
        let stream: Vec<u8> = (0..10_000_u32).map(|i| (i * 7 % 251) as u8).collect();
        let mut at = 0;
        for len in [1, 2, 3, 500, 600, 1, 2000, 1500, 5393] {
            outbox.push(Bytes::copy_from_slice(&stream[at..at + len]));
            at += len;
        }
        assert_eq!(outbox.end(), 10_000);
        assert!(outbox.chunks.len() < 9, "small ones are joined");
        for start in (0..10_000).step_by(37) {
            let mut out = Vec::new();
            outbox.copy(start as u64, 1400, &mut out);
            assert_eq!(out, stream[start..(start + 1400).min(10_000)]);
        }
        outbox.release(5000);
        outbox.truncate(9000);
        let mut out = Vec::new();
        outbox.copy(5000, 9999, &mut out);
        assert_eq!(out, stream[5000..9000]);
        assert_eq!(outbox.end(), 9000);
        outbox.release(9000);
        out.clear();
        outbox.copy(9000, 1, &mut out);
        assert!(out.is_empty() && outbox.chunks.is_empty());
    }
}
