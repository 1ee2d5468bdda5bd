//! Which contents are offered: a few at a time, in turn, by demand.
//!
//! A content that peers want and that has no slot waits; whoever waits longest is next. It gets a free slot, else
//! that of a content nobody has wanted lately, else that of the one which has had its slot longest, once that was
//! [`SLOT_TURN`]. So with `w` wanted contents and `s` slots nobody waits longer than `⌈w/s⌉` turns. Free slots that
//! nobody waits for go to the newest contents.

use super::Shelf;
use crate::content::InfoHash;
use crate::limits::{SLOT_DEMAND_FOR, SLOT_TURN};
use crate::time::{Mono, Wall};
use alloc::vec::Vec;

/// A content's place among the slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    offered_since: Option<Mono>,
    wanted_at: Option<Mono>,
    waiting_since: Option<Mono>,
}

impl Place {
    pub(super) const fn is_offered(&self) -> bool {
        self.offered_since.is_some()
    }

    pub(super) fn is_wanted(&self, now: Mono) -> bool {
        self.wanted_at
            .is_some_and(|at| now.since(at) < SLOT_DEMAND_FOR)
    }
}

/// What changes now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    pub stop: Vec<InfoHash>,
    pub start: Vec<InfoHash>,
}

impl Shelf {
    /// A peer wants this content.
    pub fn wanted(&mut self, hash: InfoHash, now: Mono, wall: Wall) {
        if let Some(item) = self.items.get_mut(&hash) {
            item.record.wanted_unix_us = item.record.wanted_unix_us.max(wall.unix_us);
            item.slot.wanted_at = Some(now);
            if !item.slot.is_offered() {
                item.slot.waiting_since.get_or_insert(now);
            }
        }
    }

    /// It is offered already: its download has just ended.
    pub fn hold_slot(&mut self, hash: InfoHash, now: Mono) {
        if let Some(item) = self.items.get_mut(&hash) {
            item.slot.offered_since = Some(now);
            item.slot.waiting_since = None;
        }
    }

    /// It is not offered any more, for another reason than its turn.
    pub fn leave_slot(&mut self, hash: InfoHash) {
        if let Some(item) = self.items.get_mut(&hash) {
            item.slot.offered_since = None;
        }
    }

    /// Hand the slots on.
    pub fn rotate(&mut self, now: Mono, slots: u32) -> Turn {
        let mut turn = Turn::default();
        for item in self.items.values_mut() {
            if !item.slot.is_wanted(now) {
                item.slot.waiting_since = None;
            }
        }
        loop {
            let offered = self.iter().filter(|(_, i)| i.is_offered()).count();
            let next = self.next_waiting();
            let free = offered < slots as usize;
            let over = offered > slots as usize;
            if free {
                let Some(next) = next.or_else(|| self.newest_idle(&turn)) else {
                    break;
                };
                self.hold_slot(next, now);
                turn.start.push(next);
            } else if let Some(out) = self.due_to_leave(now, over, next.is_some()) {
                self.leave_slot(out);
                turn.start.retain(|hash| *hash != out);
                turn.stop.push(out);
            } else {
                break;
            }
        }
        turn
    }

    /// When slots may change hands next.
    pub fn next_turn(&self) -> Option<Mono> {
        self.next_waiting()?;
        let since = self.items.values().filter_map(|i| i.slot.offered_since);
        Some(since.min()? + SLOT_TURN)
    }

    fn next_waiting(&self) -> Option<InfoHash> {
        let waiting = self.iter().filter(|(_, item)| !item.is_offered());
        let waiting = waiting.filter_map(|(hash, item)| Some((item.slot.waiting_since?, hash)));
        waiting.min().map(|(_, hash)| hash)
    }

    /// Not one that has just given its slot up.
    fn newest_idle(&self, turn: &Turn) -> Option<InfoHash> {
        let idle = self.iter().filter(|(_, item)| !item.is_offered());
        let idle = idle.filter(|(hash, _)| !turn.stop.contains(hash));
        idle.max_by_key(|(_, item)| item.record.completed_unix_us)
            .map(|(hash, _)| hash)
    }

    fn due_to_leave(&self, now: Mono, over: bool, somebody_waits: bool) -> Option<InfoHash> {
        if !over && !somebody_waits {
            return None;
        }
        let offered = self
            .iter()
            .filter_map(|(hash, item)| Some((item.slot.offered_since?, hash, item)));
        let longest =
            offered.min_by_key(|(since, hash, item)| (item.is_wanted(now), *since, *hash));
        longest
            .filter(|(since, _, item)| over || !item.is_wanted(now) || *since + SLOT_TURN <= now)
            .map(|(_, hash, _)| hash)
    }
}
