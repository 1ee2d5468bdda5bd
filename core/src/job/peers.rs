//! The job's dealings with peers: what is asked of whom, what they deliver.

use super::assembly::blocks_of;
use super::{Around, Job, JobEvent, Phase, Sessions, Stale};
use crate::content::{Bitfield, Digest, HashRequest, Run};
use crate::ids::SourceId;
use crate::limits::{
    BLOCK_LEN, CLAIM_PATIENCE, ON_ORDER, ON_ORDER_BLOCKS_MIN, ORIGIN_SEATS, PEERS_SHORT_FOR,
    PEERS_SHORT_FOR_WITH_FETCHERS, PIPELINE_BLOCKS_MIN, RECALL_BLOCKS, RECALL_WAIT, SEAT_LOT,
};
use crate::picker::{Picker, Reach, Took};
use crate::session::Session;
use crate::stats::SourceClass;
use crate::time::Mono;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;

pub(super) use crate::limits::OPEN_BYTES_MAX;

impl Job {
    /// A peer of this content is connected.
    pub fn add_peer(&mut self, source: SourceId, class: SourceClass, a: &mut Around<'_>) {
        self.stale.all = true;
        self.tally.know(source, class);
        if let Some(picker) = &mut self.picker {
            picker.add_peer(source);
        }
        let claimed: Vec<u32> = self.claimed.iter().copied().collect();
        if let Some(session) = a.sessions.get_mut(&source) {
            session.claim(a.now.mono, &claimed, true, a.fx);
        }
        self.learn_hashes(a);
    }

    /// Claims that nothing came of for long no longer keep anybody away.
    pub(super) fn expire_claims(&mut self, now: Mono) {
        let Some(picker) = &mut self.picker else {
            return;
        };
        for (source, heard) in &self.claimants {
            if *heard + CLAIM_PATIENCE <= now {
                picker.unclaim_all(*source);
            }
        }
    }

    pub fn remove_peer(&mut self, source: SourceId) {
        self.claimants.remove(&source);
        self.stale.all = true;
        if let Some(picker) = &mut self.picker {
            picker.remove_source(source);
        }
    }

    pub fn peer_has_all(&mut self, source: SourceId) {
        self.stale.peers.insert(source);
        if let Some(picker) = &mut self.picker {
            picker.peer_has_all(source);
        }
    }

    pub fn peer_has_set(&mut self, source: SourceId, have: &Bitfield) {
        self.stale.peers.insert(source);
        if let Some(picker) = &mut self.picker {
            picker.peer_has_set(source, have);
        }
    }

    pub fn peer_has(&mut self, now: Mono, source: SourceId, piece: u32) {
        self.stale.peers.insert(source);
        if let Some(heard) = self.claimants.get_mut(&source) {
            *heard = now;
        }
        if let Some(picker) = &mut self.picker {
            picker.peer_has(source, piece);
        }
    }

    /// What a neighbour says it is fetching, or no longer is. One that claims and never has is not believed.
    pub fn peer_claims(&mut self, now: Mono, source: SourceId, pieces: &[u32], on: bool) {
        self.stale.web = true;
        self.stale.peers.insert(source);
        let heard = *self.claimants.entry(source).or_insert(now);
        if on && heard + CLAIM_PATIENCE <= now {
            return;
        }
        if let Some(picker) = &mut self.picker {
            for piece in pieces {
                if on {
                    picker.claim(source, *piece);
                } else {
                    picker.unclaim(source, *piece);
                }
            }
        }
    }

    /// Bytes of a message that never came whole.
    pub fn cut_short(&mut self, bytes: u64) {
        self.tally.waste(bytes);
    }

    /// A peer may be asked now.
    pub fn unchoked(&mut self, source: SourceId) {
        self.stale.peers.insert(source);
    }

    /// Runs a peer will not deliver: choked, stalled, rejected, gone.
    pub fn released(&mut self, source: SourceId, runs: &[Run], a: &mut Around<'_>) {
        self.stale.all = true;
        if let Some(picker) = &mut self.picker {
            runs.iter().for_each(|run| picker.release(source, *run));
            picker.open_to_others(source);
            let bytes = |run: &Run| u64::from(picker.geometry().run_len(*run));
            let unpaid = runs.iter().map(bytes).sum();
            let class = self.tally.class(source);
            self.limit.give_back(unpaid);
            a.down.repay(self.asker(a), class, unpaid);
        }
    }

    /// A run from a peer.
    pub fn on_data(&mut self, source: SourceId, run: Run, data: Vec<Bytes>, a: &mut Around<'_>) {
        self.stale.peers.insert(source);
        let Some(geometry) = self.picker.as_ref().map(|p| *p.geometry()) else {
            return;
        };
        self.arrived(source, geometry.run_len(run).into(), a);
        for (block, data) in blocks_of(run, &geometry, data) {
            self.on_block(source, block, data, a);
        }
        self.piece_arrived(run.piece, a);
    }

    pub(super) fn on_block(
        &mut self,
        source: SourceId,
        block: crate::content::Block,
        data: Vec<Bytes>,
        a: &mut Around<'_>,
    ) {
        let Some(picker) = &mut self.picker else {
            return;
        };
        match picker.on_block(source, block) {
            Took::New { other } => {
                self.assembly.put(block, data);
                self.last_progress = a.now.mono;
                if let Some(session) = other.and_then(|other| a.sessions.get_mut(&other)) {
                    session.cancel(a.now.mono, block, a.fx);
                }
            }
            Took::Duplicate | Took::Unwanted => {
                self.tally.waste(picker.geometry().block_len(block).into());
            }
        }
    }

    // --- asking

    pub(super) fn top_up_peers(&mut self, stale: &Stale, a: &mut Around<'_>) {
        if self.learning.is_some() || self.limit.available(a.now.mono) == 0 {
            return;
        }
        let mut budget = self.budget(a);
        if stale.all {
            let ids: Vec<SourceId> = a.sessions.keys().copied().collect();
            for source in ids {
                self.top_up_peer(source, &mut budget, a);
            }
        } else {
            for source in &stale.peers {
                self.top_up_peer(*source, &mut budget, a);
            }
        }
    }

    /// Blocks that may be asked for on top of what all peers owe. What waits at a busy peer, an idle one cannot
    /// give; so there is no more on order than the peers deliver in a while, however many they are.
    fn budget(&mut self, a: &Around<'_>) -> u32 {
        let owed: u32 = a.sessions.values().map(Session::outstanding_blocks).sum();
        let rate = self.tally.peer_rate.bytes_per_s(a.now.mono);
        let bytes = rate.saturating_mul(ON_ORDER.as_millis() as u64) / 1000;
        u32::try_from(bytes / u64::from(BLOCK_LEN))
            .unwrap_or(u32::MAX)
            .max(ON_ORDER_BLOCKS_MIN)
            .saturating_sub(owed)
    }

    fn top_up_peer(&mut self, source: SourceId, budget: &mut u32, a: &mut Around<'_>) {
        let reach = self.reach_for(source, a.sessions);
        let from = self.tally.class(source);
        let is_open = a.sessions.get(&source).is_some_and(Session::is_open);
        let wants = self.picker.as_ref().is_some_and(|p| p.wants(source));
        let allowance = if is_open && wants {
            self.allowance(from, a)
        } else {
            u64::MAX
        };
        let (Some(picker), Some(session)) = (&self.picker, a.sessions.get_mut(&source)) else {
            return;
        };
        let mono = a.now.mono;
        let affordable = affordable_blocks(allowance);
        // Ranges are asked for in worthwhile lengths, not one per block that comes in.
        let least = if session.speaks_ranges() && affordable == u32::MAX {
            RANGE_BLOCKS_LEAST
        } else {
            1
        };
        let may_use = || *budget >= least && picker.can_pick(source, reach);
        let wants =
            picker.wants(source) && (session.we_want() || !session.speaks_ranges() || may_use());
        session.set_interested(mono, wants, a.fx);
        let room = session.room(mono).min(*budget).min(affordable);
        if room >= least || (room > 0 && session.outstanding_blocks() == 0) {
            *budget -= self.ask(source, room, a);
        }
        // Under a cap a place is unused for moments only.
        if affordable == u32::MAX {
            self.decline_unused(source, a);
        }
        recall_excess(source, a);
    }

    /// A place at a peer of ours that we cannot use is somebody else's. Other clients would take long to give it
    /// back; and at the end it serves to take work from the slow.
    fn decline_unused(&self, source: SourceId, a: &mut Around<'_>) {
        let is_end = self.picker.as_ref().is_some_and(Picker::is_end_game);
        if let Some(session) = a.sessions.get_mut(&source)
            && session.speaks_ranges()
            && !session.they_choke()
            && session.outstanding_blocks() == 0
            && !is_end
        {
            session.set_interested(a.now.mono, false, a.fx);
        }
    }

    /// Ask a peer for at most `room` blocks; returns for how many it was asked.
    fn ask(&mut self, source: SourceId, room: u32, a: &mut Around<'_>) -> u32 {
        let mut left = room;
        let mut scarce = Vec::new();
        while left > 0 {
            let reach = self.reach_for(source, a.sessions);
            let Some(picker) = &mut self.picker else {
                break;
            };
            let run = match reach {
                Some(reach) => picker.pick(source, left, reach),
                None => picker.pick_begun(source, left),
            };
            let run = run.or_else(|| pick_duplicate(picker, source, left, a.sessions, a.now.mono));
            let Some(run) = run else {
                recall_for(source, left, a);
                break;
            };
            if picker.is_scarce(run.piece) && self.claimed.insert(run.piece) {
                scarce.push(run.piece);
            }
            let bytes = picker.geometry().run_len(run).into();
            let from = self.tally.class(source);
            self.pay(from, bytes, a);
            left -= run.count.min(left);
            if let Some(session) = a.sessions.get_mut(&source) {
                session.request(a.now.mono, run, a.fx);
            }
        }
        if !scarce.is_empty() {
            a.ev.push(JobEvent::Claim {
                pieces: scarce,
                on: true,
            });
        }
        room - left
    }

    /// Which pieces may be begun with this peer; none while memory is full.
    fn reach_for(&self, source: SourceId, sessions: &Sessions) -> Option<Reach> {
        let picker = self.picker.as_ref()?;
        if picker.open_bytes() >= OPEN_BYTES_MAX {
            None
        } else if picker.peer_is_complete(source) && !self.is_starving(sessions) {
            Some(Reach::Scarce)
        } else {
            Some(Reach::Any)
        }
    }

    /// So little is on its way that a seed should rather be asked for what others hold too.
    fn is_starving(&self, sessions: &Sessions) -> bool {
        let outstanding: u32 = sessions.values().map(|s| s.outstanding_blocks()).sum();
        outstanding < PIPELINE_BLOCKS_MIN
    }

    /// Whether peers hold what we lack and deliver too little of it, and since when.
    pub(super) fn note_shortage(&mut self, a: &mut Around<'_>) {
        // Under a cap peers cannot give more, and would give less if HTTP took its part of it.
        let enough = match self.cap_bytes_per_s(a) {
            0 => self.class(a).min_peer_bytes_per_s,
            cap => self.class(a).min_peer_bytes_per_s.min(cap / 4),
        };
        let Some(picker) = &self.picker else { return };
        self.peers_suffice = self.tally.peer_rate.bytes_per_s(a.now.mono) >= enough;
        let short = !self.peers_suffice && picker.peers_hold_missing();
        self.short_since = if short {
            self.short_since.or(Some(a.now.mono))
        } else {
            None
        };
    }

    /// What HTTP may fetch now, given what peers do.
    pub(super) fn http_reach(&mut self, now: Mono, sessions: &Sessions) -> Option<Reach> {
        let Some(picker) = &self.picker else {
            return Some(Reach::Any);
        };
        let peers = sessions.values().filter(|s| s.is_open()).count() as u32;
        if peers == 0 || self.metainfo.is_none() {
            return Some(Reach::Any);
        }
        // While neighbours fetch for all of us, their origin is what is slow: more askers would not help it.
        let seats_taken = picker.claimants().len() >= ORIGIN_SEATS;
        let patience = if seats_taken {
            PEERS_SHORT_FOR_WITH_FETCHERS
        } else {
            PEERS_SHORT_FOR
        };
        // Neighbours that claim pieces and deliver nothing are not waited for.
        let idle = now.since(self.last_progress) >= patience;
        if idle
            || self
                .short_since
                .is_some_and(|since| since + patience <= now)
        {
            return Some(Reach::Any);
        }
        if self.peers_suffice && picker.has_seed() {
            return None;
        }
        if self.web.is_fetching(now) {
            // More than enough took a seat at once: those with the highest ids leave theirs.
            let lower = |id: &SourceId| {
                let session = sessions.get(id);
                session.is_some_and(|s| s.peer_id().0 < self.peer_id.0)
            };
            let stays = picker.claimants().iter().filter(|id| lower(id)).count() < ORIGIN_SEATS;
            return stays.then_some(Reach::Scarce);
        }
        if seats_taken {
            self.seat_at = None;
            return None;
        }
        // Everybody sees a free seat at the same time: each waits its lot, and whoever is first says so.
        let lot = SEAT_LOT * peers;
        let rng = &mut self.rng;
        let at = *self
            .seat_at
            .get_or_insert_with(|| now + Duration::from_micros(rng.below(lot.as_micros() as u64)));
        (at <= now).then_some(Reach::Scarce)
    }

    // --- a metainfo without its piece layer

    fn learn_hashes(&mut self, a: &mut Around<'_>) {
        let Some(learning) = &self.learning else {
            return;
        };
        if let Some(request) = learning.next_request(|_| false) {
            for session in a.sessions.values_mut() {
                session.ask_hashes(a.now.mono, request, a.fx);
            }
        }
    }

    pub fn on_hashes(
        &mut self,
        source: SourceId,
        request: &HashRequest,
        hashes: &[Digest],
        a: &mut Around<'_>,
    ) {
        let Some(learning) = &mut self.learning else {
            return;
        };
        if learning.accept(request, hashes).is_err() {
            a.ev.push(JobEvent::Blame(source));
        }
        if learning.is_complete() {
            match self
                .learning
                .take()
                .and_then(crate::content::LayerBuilder::finish)
            {
                Some(layer) => {
                    a.ev.push(JobEvent::Layer(layer.clone()));
                    self.verifier.know_layer(layer);
                    self.recheck_more(a);
                }
                None => self.give_up(a),
            }
        } else {
            self.learn_hashes(a);
        }
    }

    pub(super) const fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running)
    }
}

/// Whole blocks for these bytes; one for the last few, which are then owed.
fn affordable_blocks(bytes: u64) -> u32 {
    if bytes == u64::MAX {
        return u32::MAX;
    }
    u32::try_from(bytes.div_ceil(u64::from(BLOCK_LEN))).unwrap_or(u32::MAX - 1)
}

/// Ask back what a busy peer would deliver last, for one that has nothing to do. It is free again, for whoever is
/// idle then, when the busy one says that it has not begun it; so nothing comes twice.
fn recall_for(source: SourceId, room: u32, a: &mut Around<'_>) {
    let now = a.now.mono;
    let Some(mine) = a.sessions.get_mut(&source).map(|s| s.expected_wait(now)) else {
        return;
    };
    let busiest = a
        .sessions
        .iter_mut()
        .filter(|(id, session)| **id != source && session.recalled_blocks() == 0)
        .map(|(id, session)| (session.expected_wait(now), *id))
        .max();
    if let Some((wait, id)) = busiest
        && wait >= RECALL_WAIT.max(mine * 2)
        && let Some(session) = a.sessions.get_mut(&id)
    {
        let half = session.outstanding_blocks() / 2;
        session.recall(now, room.min(RECALL_BLOCKS).min(half), a.fx);
    }
}

/// A peer that turned out slower than it seemed gives back what would take it long: others may be idle, and what
/// all peers have on order together is bounded.
fn recall_excess(source: SourceId, a: &mut Around<'_>) {
    let has_others = a.sessions.len() > 1;
    if let Some(session) = a.sessions.get_mut(&source)
        && has_others
        && session.recalled_blocks() == 0
        && session.expected_wait(a.now.mono) > ON_ORDER * 2
    {
        let excess = session.excess(a.now.mono);
        session.recall(a.now.mono, excess, a.fx);
    }
}

/// Ask a second source for the last blocks, if nothing else is left and the first would take much longer.
fn pick_duplicate(
    picker: &mut Picker,
    source: SourceId,
    room: u32,
    sessions: &mut Sessions,
    now: Mono,
) -> Option<Run> {
    if !picker.is_end_game() {
        return None;
    }
    let wait_us: BTreeMap<SourceId, u64> = sessions
        .iter_mut()
        .map(|(id, s)| (*id, s.expected_wait(now).as_micros() as u64))
        .collect();
    let mine = wait_us.get(&source).copied().unwrap_or(0);
    let slow = |other: SourceId| {
        wait_us
            .get(&other)
            .is_some_and(|theirs| *theirs > END_GAME_WAIT_US && *theirs > mine.saturating_mul(4))
    };
    picker.pick_duplicate(source, room.min(END_GAME_BLOCKS), slow)
}

/// Blocks that come sooner than this are not worth asking for twice.
const END_GAME_WAIT_US: u64 = 1_000_000;

/// The shortest range worth asking for while others are under way: 256 KiB.
const RANGE_BLOCKS_LEAST: u32 = 16;

/// Blocks asked twice at a time: an end game costs at most this much per source.
const END_GAME_BLOCKS: u32 = 4;
