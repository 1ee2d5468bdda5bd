//! The job's dealings with peers: what is asked of whom, what they deliver.

use super::assembly::blocks_of;
use super::{Around, Job, JobEvent, Phase, Sessions, Stale};
use crate::content::{Bitfield, Digest, HashRequest, Run};
use crate::ids::SourceId;
use crate::limits::{
    CLAIM_PATIENCE, ORIGIN_SEATS, PEERS_ENOUGH_BYTES_PER_S, PEERS_SHORT_FOR,
    PEERS_SHORT_FOR_WITH_FETCHERS, PIPELINE_BLOCKS_MIN, SEAT_LOT, STEAL_BLOCKS, STEAL_WAIT,
};
use crate::picker::{Picker, Reach, Took};
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
    pub fn released(&mut self, source: SourceId, runs: &[Run]) {
        self.stale.all = true;
        if let Some(picker) = &mut self.picker {
            runs.iter().for_each(|run| picker.release(source, *run));
        }
    }

    /// A run from a peer.
    pub fn on_data(&mut self, source: SourceId, run: Run, data: Vec<Bytes>, a: &mut Around<'_>) {
        self.stale.peers.insert(source);
        let Some(geometry) = self.picker.as_ref().map(|p| *p.geometry()) else {
            return;
        };
        self.tally
            .arrived(a.now.mono, source, geometry.run_len(run).into());
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
        if stale.all {
            let ids: Vec<SourceId> = a.sessions.keys().copied().collect();
            ids.into_iter()
                .for_each(|source| self.top_up_peer(source, a));
        } else {
            stale
                .peers
                .iter()
                .for_each(|source| self.top_up_peer(*source, a));
        }
    }

    fn top_up_peer(&mut self, source: SourceId, a: &mut Around<'_>) {
        let mono = a.now.mono;
        let Some(picker) = &self.picker else { return };
        let wants = picker.wants(source);
        let Some(session) = a.sessions.get_mut(&source) else {
            return;
        };
        session.set_interested(mono, wants, a.fx);
        if !wants {
            return;
        }
        let room = session.room(mono);
        // Ranges are asked for in worthwhile lengths, not one per block that comes in.
        let least = if session.speaks_ranges() {
            RANGE_BLOCKS_LEAST
        } else {
            1
        };
        if room >= least || (room > 0 && session.outstanding_blocks() == 0) {
            self.ask(source, room, a);
        }
    }

    fn ask(&mut self, source: SourceId, mut room: u32, a: &mut Around<'_>) {
        let mut scarce = Vec::new();
        while room > 0 {
            let starving = self.is_starving(a.sessions);
            let Some(picker) = &mut self.picker else {
                return;
            };
            let reach = if picker.peer_is_complete(source) && !starving {
                Reach::Scarce
            } else {
                Reach::Any
            };
            let full = picker.open_bytes() >= OPEN_BYTES_MAX;
            let run = if full {
                picker.pick_begun(source, room)
            } else {
                picker.pick(source, room, reach)
            };
            let run = run
                .or_else(|| steal(picker, source, room, a))
                .or_else(|| pick_duplicate(picker, source, room, a.sessions, a.now.mono));
            let Some(run) = run else { break };
            if picker.is_scarce(run.piece) && self.claimed.insert(run.piece) {
                scarce.push(run.piece);
            }
            self.limit.take(picker.geometry().run_len(run).into());
            room -= run.count.min(room);
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
    }

    /// So little is on its way that a seed should rather be asked for what others hold too.
    fn is_starving(&self, sessions: &Sessions) -> bool {
        let outstanding: u32 = sessions.values().map(|s| s.outstanding_blocks()).sum();
        outstanding < PIPELINE_BLOCKS_MIN
    }

    /// Whether peers hold what we lack and deliver too little of it, and since when.
    pub(super) fn note_shortage(&mut self, a: &mut Around<'_>) {
        let Some(picker) = &self.picker else { return };
        let short = self.tally.peer_rate.bytes_per_s(a.now.mono) < PEERS_ENOUGH_BYTES_PER_S
            && picker.peers_hold_missing();
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
        let seats_taken = picker.claimants() >= ORIGIN_SEATS;
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
        if self.web.is_fetching(now) {
            return Some(Reach::Scarce);
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

/// Take over what another peer would deliver last, if this one has nothing to do meanwhile.
fn steal(picker: &mut Picker, source: SourceId, room: u32, a: &mut Around<'_>) -> Option<Run> {
    let now = a.now.mono;
    let mine = a.sessions.get_mut(&source)?.expected_wait(now);
    let (wait, victim) = a
        .sessions
        .iter_mut()
        .filter(|(id, _)| **id != source)
        .map(|(id, session)| (session.expected_wait(now), *id))
        .max()?;
    if wait < STEAL_WAIT || wait < mine * 2 {
        return None;
    }
    let run = a
        .sessions
        .get(&victim)?
        .last_asked(room.min(STEAL_BLOCKS))?;
    if picker.peer_lacks(source, run.piece) || !picker.hand_over(victim, source, run) {
        return None;
    }
    a.sessions.get_mut(&victim)?.cancel_run(now, run, a.fx);
    Some(run)
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
const END_GAME_WAIT_US: u64 = 500_000;

/// The shortest range worth asking for while others are under way: 256 KiB.
const RANGE_BLOCKS_LEAST: u32 = 16;

/// Blocks asked twice at a time: an end game costs at most this much per source.
const END_GAME_BLOCKS: u32 = 4;
