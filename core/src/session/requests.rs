//! What we have asked one peer for: how much more may be asked, and what became of it.
//!
//! The pipeline is sized by the bandwidth-delay product: measured rate × (shortest answer time + a
//! margin for the other side's scheduling), between a floor that gets a cold connection going and a cap
//! that bounds memory and what is lost when the peer dies.

use crate::content::{Block, Run};
use crate::limits::BLOCK_LEN;
use crate::limits::{PIPELINE_BLOCKS_MAX, PIPELINE_MARGIN};
use crate::stats::Rate;
use crate::time::Mono;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Requests {
    asked: BTreeMap<Block, Mono>,
    /// Of these, the ones the peer was told to leave if it has not begun them: its block or its reject will come.
    recalled: BTreeSet<Block>,
    /// Asked, then cancelled or given up: an answer may still be on its way and is no fault.
    late: BTreeMap<Block, Late>,
    rate: Rate,
    fastest_answer: Option<Duration>,
    answered_blocks: u32,
    last_progress: Mono,
}

#[derive(Clone, Copy, Debug)]
struct Late {
    asked: Mono,
    /// Asked again and given up again before the first answer came.
    times: u32,
}

/// What an arriving block is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    Expected,
    Late,
    Unasked,
}

impl Requests {
    pub(super) fn ask(&mut self, now: Mono, run: Run) {
        if self.asked.is_empty() {
            self.last_progress = now;
        }
        for block in blocks(run) {
            self.recalled.remove(&block);
            self.asked.insert(block, now);
        }
    }

    /// An answer is owed.
    pub(super) fn expects(&self, block: Block) -> bool {
        self.asked.contains_key(&block) || self.late.contains_key(&block)
    }

    pub(super) fn arrived(&mut self, now: Mono, block: Block, len: u32) -> Arrival {
        if let Some(at) = self.take(block) {
            let took = now.since(at);
            self.fastest_answer = Some(self.fastest_answer.map_or(took, |f| f.min(took)));
            self.last_progress = now;
            self.answered_blocks = self.answered_blocks.saturating_add(1);
            self.rate.add(now, len.into());
            return Arrival::Expected;
        }
        if self.settle_late(block) {
            Arrival::Late
        } else {
            Arrival::Unasked
        }
    }

    /// Payload is arriving, although nothing is whole yet.
    pub(super) const fn note_payload(&mut self, now: Mono) {
        self.last_progress = now;
    }

    /// Will not come any more (rejected).
    pub(super) fn rejected(&mut self, block: Block) -> bool {
        // Answers come in order: what was given up earlier is settled first.
        !self.settle_late(block) && self.take(block).is_some()
    }

    fn take(&mut self, block: Block) -> Option<Mono> {
        self.recalled.remove(&block);
        self.asked.remove(&block)
    }

    /// No longer wanted; true if it was outstanding, so that the peer is to be told.
    pub(super) fn cancel(&mut self, block: Block) -> bool {
        match self.take(block) {
            Some(at) => {
                self.expect_late(block, at);
                true
            }
            None => false,
        }
    }

    /// Take back the end of what was asked last, which will come last if the peer answers in order: at most
    /// `max_blocks`, none of them taken back before.
    pub(super) fn recall(&mut self, max_blocks: u32) -> Option<Run> {
        let free = |(block, _): &(&Block, &Mono)| !self.recalled.contains(block);
        let (_, &latest) = self.asked.iter().filter(free).max_by_key(|(_, at)| **at)?;
        let due = |block: &Block| {
            self.asked.get(block) == Some(&latest) && !self.recalled.contains(block)
        };
        let last = *self.asked.keys().rev().find(|block| due(block))?;
        let mut run = Run {
            piece: last.piece,
            first: last.index,
            count: 1,
        };
        while run.count < max_blocks
            && let Some(index) = run.first.checked_sub(1)
            && due(&Block { index, ..last })
        {
            run.first = index;
            run.count += 1;
        }
        self.recalled.extend(blocks(run));
        Some(run)
    }

    pub(super) fn recalled(&self) -> u32 {
        self.recalled.len() as u32
    }

    /// Everything outstanding is given up, as runs.
    pub(super) fn give_up(&mut self) -> Vec<Run> {
        self.recalled.clear();
        let asked = core::mem::take(&mut self.asked);
        let runs = runs_of(asked.keys().copied());
        for (block, at) in asked {
            self.expect_late(block, at);
        }
        runs
    }

    pub(super) fn outstanding(&self) -> u32 {
        self.asked.len() as u32
    }

    /// Requests given up that the peer may still have in its queue. One without the fast extension drops
    /// them silently, so they do not count for ever.
    pub(super) fn late(&self, now: Mono) -> u32 {
        let counts = |late: &&Late| late.asked + LATE_COUNTS_FOR > now;
        self.late.values().filter(counts).map(|l| l.times).sum()
    }

    fn expect_late(&mut self, block: Block, asked: Mono) {
        if self.late.len() >= LATE_MAX {
            let oldest = self.late.iter().min_by_key(|(_, late)| late.asked);
            if let Some(oldest) = oldest.map(|(block, _)| *block) {
                self.late.remove(&oldest);
            }
        }
        let late = self.late.entry(block).or_insert(Late { asked, times: 0 });
        (late.asked, late.times) = (asked, late.times.saturating_add(1));
    }

    /// One answer to a request that was given up; false if none was owed.
    fn settle_late(&mut self, block: Block) -> bool {
        let Some(late) = self.late.get_mut(&block) else {
            return false;
        };
        late.times -= 1;
        if late.times == 0 {
            self.late.remove(&block);
        }
        true
    }

    pub(super) fn is_asked(&self, block: Block) -> bool {
        self.asked.contains_key(&block)
    }

    /// Blocks to have outstanding. A first quick answer may be a burst: no more than was answered before is
    /// added to the least.
    pub(super) fn depth(&mut self, now: Mono, least: u32) -> u32 {
        let answer = self
            .fastest_answer
            .unwrap_or_default()
            .min(Duration::from_secs(2));
        let horizon_us = (answer + PIPELINE_MARGIN).as_micros() as u64;
        let bytes = self.rate.bytes_per_s(now).saturating_mul(horizon_us) / 1_000_000;
        let blocks = u32::try_from(bytes / u64::from(BLOCK_LEN)).unwrap_or(u32::MAX);
        blocks
            .min(least.saturating_add(self.answered_blocks))
            .clamp(least, PIPELINE_BLOCKS_MAX)
    }

    pub(super) fn rate_bytes_per_s(&mut self, now: Mono) -> u64 {
        self.rate.bytes_per_s(now)
    }

    /// When the oldest request without an answer was made.
    pub(super) fn oldest(&self) -> Option<Mono> {
        self.asked.values().min().copied()
    }

    /// Since when nothing has come although something is asked.
    pub(super) fn waiting_since(&self) -> Option<Mono> {
        (!self.asked.is_empty()).then_some(self.last_progress)
    }
}

/// How long a request that was given up is taken to be in the peer's queue.
const LATE_COUNTS_FOR: Duration = Duration::from_secs(30);

/// Requests given up that are remembered for one peer.
const LATE_MAX: usize = 4096;

pub(super) fn blocks(run: Run) -> impl Iterator<Item = Block> {
    (run.first..run.first.saturating_add(run.count)).map(move |index| Block {
        piece: run.piece,
        index,
    })
}

/// Consecutive blocks joined to runs.
pub(super) fn runs_of(blocks: impl Iterator<Item = Block>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for block in blocks {
        match runs.last_mut() {
            Some(run) if run.piece == block.piece && run.first + run.count == block.index => {
                run.count += 1
            }
            _ => runs.push(Run {
                piece: block.piece,
                first: block.index,
                count: 1,
            }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::PIPELINE_BLOCKS_MIN;

    fn run(piece: u32, first: u32, count: u32) -> Run {
        Run {
            piece,
            first,
            count,
        }
    }

    #[test]
    fn the_pipeline_grows_with_rate_and_answer_time() {
        let mut r = Requests::default();
        assert_eq!(
            r.depth(Mono::ZERO, PIPELINE_BLOCKS_MIN),
            PIPELINE_BLOCKS_MIN
        );
        // 100 blocks a second over a path that answers in 100 ms.
        for i in 0..300_u32 {
            let at = Mono::from_us(u64::from(i) * 10_000);
            r.ask(at, run(i, 0, 1));
            let arrives = at + Duration::from_millis(100);
            assert_eq!(
                r.arrived(arrives, Block { piece: i, index: 0 }, BLOCK_LEN),
                Arrival::Expected
            );
        }
        let now = Mono::from_us(3_090_000);
        let expected =
            100 * (Duration::from_millis(100) + PIPELINE_MARGIN).as_millis() as u32 / 1000;
        assert!(
            r.depth(now, PIPELINE_BLOCKS_MIN)
                .abs_diff(expected.max(PIPELINE_BLOCKS_MIN))
                <= 4,
            "{}",
            r.depth(now, PIPELINE_BLOCKS_MIN)
        );
    }

    #[test]
    fn late_answers_are_told_from_unasked_ones() {
        let mut r = Requests::default();
        r.ask(Mono::ZERO, run(0, 0, 3));
        let block = |index| Block { piece: 0, index };
        assert!(r.cancel(block(1)) && !r.cancel(block(1)));
        assert_eq!(r.give_up(), [run(0, 0, 1), run(0, 2, 1)]);
        for index in 0..3 {
            assert_eq!(
                r.arrived(Mono::ZERO, block(index), BLOCK_LEN),
                Arrival::Late
            );
            assert_eq!(
                r.arrived(Mono::ZERO, block(index), BLOCK_LEN),
                Arrival::Unasked
            );
        }
    }

    #[test]
    fn a_block_asked_again_may_be_answered_twice() {
        let mut r = Requests::default();
        let block = Block { piece: 0, index: 0 };
        for _ in 0..3 {
            r.ask(Mono::ZERO, run(0, 0, 1));
            r.give_up();
        }
        r.ask(Mono::ZERO, run(0, 0, 1));
        assert_eq!((r.outstanding(), r.late(Mono::ZERO)), (1, 3));
        assert!(!r.rejected(block), "the first request's reject");
        let arrivals = [(); 4].map(|()| r.arrived(Mono::ZERO, block, BLOCK_LEN));
        use Arrival::{Expected, Late, Unasked};
        assert_eq!(arrivals, [Expected, Late, Late, Unasked]);
    }

    #[test]
    fn what_a_peer_dropped_silently_is_forgotten() {
        let mut r = Requests::default();
        let blocks = LATE_MAX as u32 + 100;
        r.ask(Mono::ZERO, run(0, 0, blocks));
        r.give_up();
        assert_eq!(r.late(Mono::ZERO), LATE_MAX as u32);
        assert_eq!(r.late(Mono::ZERO + LATE_COUNTS_FOR), 0);
    }
}
