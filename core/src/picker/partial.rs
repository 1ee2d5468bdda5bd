//! A piece that is begun: who was asked for each block, who gave it.

use crate::content::Run;
use crate::ids::SourceId;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// Sources that may be asked for one block at the same time.
pub const ASKERS_MAX: usize = 2;

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    giver: Option<SourceId>,
    askers: [Option<SourceId>; ASKERS_MAX],
}

#[derive(Debug)]
pub(super) struct Partial {
    blocks: Vec<Slot>,
    missing: u32,
    /// After a failed check: all blocks from one source, so that blame is certain.
    exclusive: bool,
}

/// What became of a block that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Took {
    /// It is the first copy; the other source that was asked for it too, if any, can be told to stop.
    New { other: Option<SourceId> },
    /// It was here already.
    Duplicate,
    /// Its piece is not being downloaded.
    Unwanted,
}

impl Partial {
    pub(super) fn new(blocks: u32) -> Self {
        Self {
            blocks: vec![Slot::default(); blocks as usize],
            missing: blocks,
            exclusive: false,
        }
    }

    pub(super) const fn make_exclusive(&mut self) {
        self.exclusive = true;
    }

    pub(super) const fn missing(&self) -> u32 {
        self.missing
    }

    pub(super) fn has_free(&self, source: SourceId) -> bool {
        self.may_join(source) && self.blocks.iter().any(Slot::is_free)
    }

    pub(super) fn is_untouched(&self) -> bool {
        !self.exclusive && self.blocks.iter().all(Slot::is_free)
    }

    /// The first stretch of free blocks, reserved.
    pub(super) fn reserve(&mut self, source: SourceId, piece: u32, max_blocks: u32) -> Option<Run> {
        self.reserve_where(source, piece, max_blocks, Slot::is_free)
    }

    /// The first stretch of blocks asked of exactly one other source, a slow one, reserved a second time.
    pub(super) fn reserve_again(
        &mut self,
        source: SourceId,
        piece: u32,
        max_blocks: u32,
        slow: &impl Fn(SourceId) -> bool,
    ) -> Option<Run> {
        if self.exclusive {
            return None;
        }
        self.reserve_where(source, piece, max_blocks, |slot| {
            slot.giver.is_none()
                && matches!(slot.askers, [Some(other), None] if other != source && slow(other))
        })
    }

    fn reserve_where(
        &mut self,
        source: SourceId,
        piece: u32,
        max_blocks: u32,
        fits: impl Fn(&Slot) -> bool,
    ) -> Option<Run> {
        if max_blocks == 0 {
            return None;
        }
        let first = self.blocks.iter().position(&fits)?;
        let mut count = 0;
        for slot in self.blocks.iter_mut().skip(first) {
            if count == max_blocks || !fits(slot) {
                break;
            }
            if let Some(free) = slot.askers.iter_mut().find(|a| a.is_none()) {
                *free = Some(source);
            }
            count += 1;
        }
        Some(Run {
            piece,
            first: first as u32,
            count,
        })
    }

    pub(super) fn take(&mut self, source: SourceId, index: u32) -> Took {
        let Some(slot) = self.blocks.get_mut(index as usize) else {
            return Took::Unwanted;
        };
        if slot.giver.is_some() {
            return Took::Duplicate;
        }
        let other = slot.askers.iter().flatten().copied().find(|a| *a != source);
        *slot = Slot {
            giver: Some(source),
            askers: [None; ASKERS_MAX],
        };
        self.missing -= 1;
        Took::New { other }
    }

    pub(super) fn release(&mut self, source: SourceId, blocks: Range<u32>) {
        let span = blocks.start as usize..(blocks.end as usize).min(self.blocks.len());
        for slot in self.blocks.get_mut(span).into_iter().flatten() {
            let [first, second] = &mut slot.askers;
            if *second == Some(source) {
                *second = None;
            }
            if *first == Some(source) {
                *first = second.take();
                // Who does not deliver cannot keep others away.
                self.exclusive = false;
            }
        }
    }

    pub(super) fn givers(&self) -> Vec<Option<SourceId>> {
        self.blocks.iter().map(|slot| slot.giver).collect()
    }

    /// This source does not go on with it, so it cannot keep others away.
    pub(super) fn open_to_others(&mut self, source: SourceId) {
        if self.involved().any(|s| *s == source) {
            self.exclusive = false;
        }
    }

    fn involved(&self) -> impl Iterator<Item = &SourceId> {
        self.blocks
            .iter()
            .flat_map(|s| s.giver.iter().chain(s.askers.iter().flatten()))
    }

    /// An exclusive piece is joined only by whoever is on it already.
    fn may_join(&self, source: SourceId) -> bool {
        !self.exclusive || self.involved().all(|s| *s == source)
    }

    pub(super) fn check(&self) {
        let missing = self.blocks.iter().filter(|s| s.giver.is_none()).count();
        assert_eq!(missing, self.missing as usize, "missing blocks");
        for slot in &self.blocks {
            assert!(
                slot.giver.is_none() || slot.askers == [None; ASKERS_MAX],
                "a block that is here is asked for"
            );
            assert!(
                slot.askers[0].is_some() || slot.askers[1].is_none(),
                "askers are kept in order"
            );
        }
    }
}

impl Slot {
    fn is_free(&self) -> bool {
        self.giver.is_none() && self.askers == [None; ASKERS_MAX]
    }
}
