//! What we have asked one peer for: how much more may be asked, and what became of it.
//!
//! The pipeline is sized by the bandwidth-delay product: measured rate × (shortest answer time + a
//! margin for the other side's scheduling), between a floor that gets a cold connection going and a cap
//! that bounds memory and what is lost when the peer dies.

use crate::content::{Block, Run};
use crate::limits::BLOCK_LEN;
use crate::limits::{PIPELINE_BLOCKS_MAX, PIPELINE_BLOCKS_MIN, PIPELINE_MARGIN};
use crate::stats::Rate;
use crate::time::Mono;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Requests {
    asked: BTreeMap<Block, Mono>,
    /// Asked, then cancelled or given up: an answer may still be on its way and is no fault.
    late: BTreeMap<Block, Mono>,
    rate: Rate,
    fastest_answer: Option<Duration>,
    last_progress: Mono,
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
        for index in run.first..run.first + run.count {
            let block = Block {
                piece: run.piece,
                index,
            };
            self.asked.insert(block, now);
            self.late.remove(&block);
        }
    }

    pub(super) fn arrived(&mut self, now: Mono, block: Block, len: u32) -> Arrival {
        if let Some(at) = self.asked.remove(&block) {
            let took = now.since(at);
            self.fastest_answer = Some(self.fastest_answer.map_or(took, |f| f.min(took)));
            self.last_progress = now;
            self.rate.add(now, len.into());
            return Arrival::Expected;
        }
        match self.late.remove(&block) {
            Some(_) => Arrival::Late,
            None => Arrival::Unasked,
        }
    }

    /// Will not come any more (rejected).
    pub(super) fn rejected(&mut self, block: Block) -> bool {
        self.late.remove(&block);
        self.asked.remove(&block).is_some()
    }

    /// No longer wanted; true if it was outstanding, so that the peer is to be told.
    pub(super) fn cancel(&mut self, block: Block) -> bool {
        match self.asked.remove(&block) {
            Some(at) => {
                self.late.insert(block, at);
                true
            }
            None => false,
        }
    }

    /// Everything outstanding is given up, as runs.
    pub(super) fn give_up(&mut self) -> Vec<Run> {
        let asked = core::mem::take(&mut self.asked);
        let runs = runs_of(asked.keys().copied());
        self.late.extend(asked);
        runs
    }

    pub(super) fn outstanding(&self) -> u32 {
        self.asked.len() as u32
    }

    pub(super) fn late(&self) -> u32 {
        self.late.len() as u32
    }

    pub(super) fn is_asked(&self, block: Block) -> bool {
        self.asked.contains_key(&block)
    }

    /// Blocks that may be asked for on top of what is outstanding.
    pub(super) fn room(&mut self, now: Mono) -> u32 {
        let answer = self
            .fastest_answer
            .unwrap_or_default()
            .min(Duration::from_secs(2));
        let horizon_us = (answer + PIPELINE_MARGIN).as_micros() as u64;
        let bytes = self.rate.bytes_per_s(now).saturating_mul(horizon_us) / 1_000_000;
        let blocks = u32::try_from(bytes / u64::from(BLOCK_LEN)).unwrap_or(u32::MAX);
        blocks
            .clamp(PIPELINE_BLOCKS_MIN, PIPELINE_BLOCKS_MAX)
            .saturating_sub(self.outstanding())
    }

    pub(super) fn rate_bytes_per_s(&mut self, now: Mono) -> u64 {
        self.rate.bytes_per_s(now)
    }

    /// Since when nothing has come although something is asked.
    pub(super) fn waiting_since(&self) -> Option<Mono> {
        (!self.asked.is_empty()).then_some(self.last_progress)
    }
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
        assert_eq!(r.room(Mono::ZERO), PIPELINE_BLOCKS_MIN);
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
            r.room(now).abs_diff(expected.max(PIPELINE_BLOCKS_MIN)) <= 4,
            "{}",
            r.room(now)
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
}
