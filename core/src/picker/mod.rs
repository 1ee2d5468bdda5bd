//! Which block next, from whom.
//!
//! Decides: rarest piece first with random ties (or in order, for a caller that reads along), finishing
//! what is begun, whole spans for HTTP, bounded duplicates at the end, and who touches a *scarce* piece:
//! one that no downloading peer holds yet, so that only an origin or a seed can give it. A scarce piece
//! that a neighbour has claimed is left to that neighbour.
//!
//! Never does: time-outs, sending, hashing. No clock; callers release what a source will not deliver.
//!
//! Invariants ([`Picker::check`]): a piece is in exactly one state; the free list holds exactly the free
//! pieces under their current availability; a block is asked of at most [`ASKERS_MAX`] sources.
//!
//! Tested here, against a naive model in `fuzz` (`picker_ops`), and in every swarm scenario.

mod partial;

use crate::content::{Bitfield, Block, Geometry, Run};
use crate::ids::SourceId;
use crate::rng::Rng;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::ops::Range;
use partial::Partial;
pub use partial::{ASKERS_MAX, Took};

/// The state of every piece of one download, and what each source could give.
#[derive(Debug)]
pub struct Picker {
    geometry: Geometry,
    sequential: bool,
    have: Bitfield,
    states: Vec<State>,
    ties: Vec<u32>,
    /// How many downloading peers (not seeds) hold each piece.
    availability: Vec<u16>,
    free: BTreeSet<Key>,
    partial: BTreeMap<u32, Partial>,
    peers: BTreeMap<SourceId, Peer>,
    claims: BTreeMap<u32, BTreeSet<SourceId>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    /// Part of a span an HTTP lane is working towards.
    Reserved(SourceId),
    Partial,
    /// Every block is here; hashing or writing.
    Checking,
    Have,
}

/// Order of the free list: rarest first, then by a random tie (or by index when sequential).
type Key = (u16, u32, u32);

#[derive(Debug)]
struct Peer {
    have: Bitfield,
    seed: bool,
    /// How many pieces it has that we lack.
    useful: u32,
}

/// Which pieces a pick may open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Only pieces no downloading peer holds and nobody has claimed: what is worth an origin's bytes.
    Scarce,
    /// Also pieces that peers hold. Claimed pieces still only when nothing else is left.
    Any,
}

impl Picker {
    pub fn new(geometry: Geometry, sequential: bool, rng: &mut Rng) -> Self {
        let pieces = geometry.pieces();
        let mut ties: Vec<u32> = (0..pieces).collect();
        if !sequential {
            rng.shuffle(&mut ties);
        }
        Self {
            geometry,
            sequential,
            have: Bitfield::empty(pieces),
            states: alloc::vec![State::Free; pieces as usize],
            free: ties
                .iter()
                .enumerate()
                .map(|(piece, tie)| (0, *tie, piece as u32))
                .collect(),
            ties,
            availability: alloc::vec![0; pieces as usize],
            partial: BTreeMap::new(),
            peers: BTreeMap::new(),
            claims: BTreeMap::new(),
        }
    }

    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    pub const fn have(&self) -> &Bitfield {
        &self.have
    }

    pub const fn is_complete(&self) -> bool {
        self.have.is_full()
    }

    /// Bytes of pieces that are begun and not yet verified: what assembly may hold in memory.
    pub fn open_bytes(&self) -> u64 {
        self.partial
            .keys()
            .map(|p| u64::from(self.geometry.piece_len(*p)))
            .sum()
    }

    // --- what sources have

    /// A peer whose pieces are not known yet.
    pub fn add_peer(&mut self, source: SourceId) {
        let have = Bitfield::empty(self.geometry.pieces());
        self.peers.entry(source).or_insert(Peer {
            have,
            seed: false,
            useful: 0,
        });
    }

    /// The peer's whole set at once.
    pub fn peer_has_set(&mut self, source: SourceId, have: &Bitfield) {
        if have.is_full() {
            self.peer_has_all(source);
        } else {
            have.iter().for_each(|piece| self.peer_has(source, piece));
        }
    }

    /// A seed: it does not count towards availability, since what only seeds have is scarce.
    pub fn peer_has_all(&mut self, source: SourceId) {
        let missing = self.geometry.pieces() - self.have.count();
        let full = Bitfield::full(self.geometry.pieces());
        let Some(peer) = self.peers.get_mut(&source).filter(|p| !p.seed) else {
            return;
        };
        let before = core::mem::replace(&mut peer.have, full);
        (peer.seed, peer.useful) = (true, missing);
        before
            .iter()
            .for_each(|piece| self.change_availability(piece, -1));
    }

    /// One more piece. A peer that now has everything becomes a seed, but the pieces it gathered stay
    /// counted: it holds copies that came from somewhere, so they are not scarce.
    pub fn peer_has(&mut self, source: SourceId, piece: u32) {
        let lacking = !self.have.has(piece);
        let Some(peer) = self.peers.get_mut(&source) else {
            return;
        };
        if !peer.seed && peer.have.insert(piece) {
            peer.useful += u32::from(lacking);
            self.change_availability(piece, 1);
        }
        self.unclaim(source, piece);
    }

    /// The source is gone: what it was asked for is free again, what it holds no longer counts.
    pub fn remove_source(&mut self, source: SourceId) {
        self.release_all(source);
        self.open_to_others(source);
        self.unclaim_all(source);
        if let Some(peer) = self.peers.remove(&source)
            && !peer.seed
        {
            peer.have
                .iter()
                .for_each(|piece| self.change_availability(piece, -1));
        }
    }

    /// Whether this peer has a piece that we lack.
    pub fn wants(&self, source: SourceId) -> bool {
        self.peers.get(&source).is_some_and(|p| p.useful > 0)
    }

    /// Whether [`Picker::pick`] would find something; without a reach, in what is begun.
    pub fn can_pick(&self, source: SourceId, reach: Option<Reach>) -> bool {
        let peer = self.peers.get(&source);
        let has = |piece| peer.is_none_or(|p| p.have.has(piece));
        let mut begun = self.partial.iter();
        begun.any(|(piece, partial)| has(*piece) && partial.has_free(source))
            || reach.is_some_and(|reach| self.find_free(source, reach).is_some())
    }

    pub fn peer_lacks(&self, source: SourceId, piece: u32) -> bool {
        self.peers.get(&source).is_some_and(|p| !p.have.has(piece))
    }

    pub fn peer_is_complete(&self, source: SourceId) -> bool {
        self.peers.get(&source).is_some_and(|p| p.have.is_full())
    }

    /// No downloading peer holds it: only an origin or a seed can give it.
    pub fn is_scarce(&self, piece: u32) -> bool {
        self.availability
            .get(piece as usize)
            .is_none_or(|n| *n == 0)
    }

    /// Every missing piece is begun or given to a lane.
    pub fn is_end_game(&self) -> bool {
        self.free.is_empty()
    }

    pub fn is_free(&self, piece: u32) -> bool {
        self.state(piece) == State::Free
    }

    /// Whether some missing, unbegun piece is held by a peer: peers could be delivering.
    pub fn peers_hold_missing(&self) -> bool {
        self.peers.values().any(|p| p.useful > 0 && !p.seed)
            || self.free.iter().any(|(n, ..)| *n > 0)
    }

    /// A peer that has everything is connected.
    pub fn has_seed(&self) -> bool {
        self.peers.values().any(|p| p.seed)
    }

    // --- claims

    /// A neighbour says it is fetching this piece from a scarce source.
    pub fn claim(&mut self, source: SourceId, piece: u32) {
        if piece < self.geometry.pieces() {
            self.claims.entry(piece).or_default().insert(source);
        }
    }

    pub fn unclaim(&mut self, source: SourceId, piece: u32) {
        if let Some(claimants) = self.claims.get_mut(&piece) {
            claimants.remove(&source);
            if claimants.is_empty() {
                self.claims.remove(&piece);
            }
        }
    }

    pub fn unclaim_all(&mut self, source: SourceId) {
        self.claims.retain(|_, claimants| {
            claimants.remove(&source);
            !claimants.is_empty()
        });
    }

    /// The neighbours that are fetching from a scarce source right now.
    pub fn claimants(&self) -> BTreeSet<SourceId> {
        self.claims.values().flatten().copied().collect()
    }

    fn is_claimed(&self, piece: u32) -> bool {
        self.claims.contains_key(&piece)
    }

    // --- picking

    /// The next run of at most `max_blocks` blocks to ask of this peer, now reserved for it.
    pub fn pick(&mut self, source: SourceId, max_blocks: u32, reach: Reach) -> Option<Run> {
        if max_blocks == 0 {
            return None;
        }
        self.pick_begun(source, max_blocks).or_else(|| {
            let piece = self.find_free(source, reach)?;
            self.open(piece);
            self.partial
                .get_mut(&piece)?
                .reserve(source, piece, max_blocks)
        })
    }

    /// Consecutive free pieces for an HTTP lane, now reserved for it: at most `max_pieces`, starting at `next` if
    /// that suits. Devices that go on where they were, instead of jumping about, meet only where one comes to
    /// what another has begun: so few pieces are fetched twice by devices that do not hear each other's claims.
    pub fn pick_span(
        &mut self,
        lane: SourceId,
        next: u32,
        max_pieces: u32,
        reach: Reach,
    ) -> Option<Range<u32>> {
        let first = if self.suits_span(next, reach) {
            next
        } else {
            self.first_for_span(reach)?
        };
        let mut end = first;
        while end - first < max_pieces && (end == first || self.suits_span(end, reach)) {
            self.set_state(end, State::Reserved(lane));
            end += 1;
        }
        (end > first).then_some(first..end)
    }

    fn suits_span(&self, piece: u32, reach: Reach) -> bool {
        self.state(piece) == State::Free
            && (reach == Reach::Any || self.is_scarce(piece))
            && !self.is_claimed(piece)
    }

    /// Blocks of begun pieces that only others are asked for, to ask of this source too: the end game.
    /// `slow` says whether a source is so much slower than this one that asking twice is worth it.
    pub fn pick_duplicate(
        &mut self,
        source: SourceId,
        max_blocks: u32,
        slow: impl Fn(SourceId) -> bool,
    ) -> Option<Run> {
        let has = |piece| self.peers.get(&source).is_none_or(|p| p.have.has(piece));
        self.partial
            .iter_mut()
            .filter(|(piece, _)| has(**piece))
            .find_map(|(piece, partial)| partial.reserve_again(source, *piece, max_blocks, &slow))
    }

    /// Blocks that only a slow peer is asked for, for an HTTP lane that has nothing else to do.
    pub fn pick_slow(
        &mut self,
        lane: SourceId,
        reach: Reach,
        slow: impl Fn(SourceId) -> bool,
    ) -> Option<Run> {
        let availability = &self.availability;
        let scarce = |piece: &u32| availability.get(*piece as usize).is_none_or(|n| *n == 0);
        self.partial
            .iter_mut()
            .filter(|(piece, _)| reach == Reach::Any || scarce(piece))
            .find_map(|(piece, partial)| partial.reserve_again(lane, *piece, u32::MAX, &slow))
    }

    /// More of what is begun already; opens nothing.
    pub fn pick_begun(&mut self, source: SourceId, max_blocks: u32) -> Option<Run> {
        let peer = self.peers.get(&source);
        self.partial
            .iter_mut()
            .filter(|(piece, partial)| {
                partial.has_free(source) && peer.is_none_or(|p| p.have.has(**piece))
            })
            .min_by_key(|(_, partial)| partial.missing())
            .and_then(|(piece, partial)| partial.reserve(source, *piece, max_blocks))
    }

    /// What is left of a begun piece, for an HTTP lane.
    pub fn pick_rest(&mut self, lane: SourceId, reach: Reach) -> Option<Run> {
        let availability = &self.availability;
        let scarce = |piece: &u32| availability.get(*piece as usize).is_none_or(|n| *n == 0);
        self.partial
            .iter_mut()
            .filter(|(piece, partial)| {
                (reach == Reach::Any || scarce(piece)) && partial.has_free(lane)
            })
            .find_map(|(piece, partial)| partial.reserve(lane, *piece, u32::MAX))
    }

    fn find_free(&self, source: SourceId, reach: Reach) -> Option<u32> {
        let peer = self.peers.get(&source)?;
        let held = |(_, _, piece): &&Key| peer.have.has(*piece);
        let wanted =
            |(n, _, piece): &&Key| (reach == Reach::Any || *n == 0) && !self.is_claimed(*piece);
        let mut held_keys = self.free.iter().filter(held);
        let found = held_keys.clone().find(wanted);
        let found = found.or_else(|| held_keys.find(|_| reach == Reach::Any));
        found.map(|(_, _, piece)| *piece)
    }

    fn first_for_span(&self, reach: Reach) -> Option<u32> {
        // Alone on the origin, go through the file in order: fewer, longer requests.
        if self.peers.is_empty() || self.sequential {
            let first = self.free.iter().map(|(_, _, piece)| *piece).min()?;
            return Some(first);
        }
        let unclaimed = self
            .free
            .iter()
            .find(|(_, _, piece)| !self.is_claimed(*piece));
        match (unclaimed, reach) {
            (Some((0, _, piece)), _) | (Some((_, _, piece)), Reach::Any) => Some(*piece),
            (None, Reach::Any) => self.free.first().map(|(_, _, piece)| *piece),
            (_, Reach::Scarce) => None,
        }
    }

    // --- what comes of it

    /// The lane has reached this piece of its span: its blocks are asked of the lane from now on.
    pub fn begin_reserved(&mut self, lane: SourceId, piece: u32) -> bool {
        if self.state(piece) != State::Reserved(lane) {
            return false;
        }
        let mut partial = Partial::new(self.geometry.blocks_in(piece));
        let _ = partial.reserve(lane, piece, u32::MAX);
        self.partial.insert(piece, partial);
        self.set_state(piece, State::Partial);
        true
    }

    /// A block arrived. Says whether it is new, and who else was asked for it.
    pub fn on_block(&mut self, source: SourceId, block: Block) -> Took {
        self.partial
            .get_mut(&block.piece)
            .map_or(Took::Unwanted, |p| p.take(source, block.index))
    }

    /// All blocks of the piece are here. Moves it to checking.
    pub fn finish_if_whole(&mut self, piece: u32) -> bool {
        let whole = self.state(piece) == State::Partial
            && self.partial.get(&piece).is_some_and(|p| p.missing() == 0);
        if whole {
            self.set_state(piece, State::Checking);
        }
        whole
    }

    /// The source will not deliver this run after all (rejected, choked, timed out).
    pub fn release(&mut self, source: SourceId, run: Run) {
        if let Some(partial) = self.partial.get_mut(&run.piece) {
            partial.release(source, run.first..run.first.saturating_add(run.count));
        }
        self.close_if_untouched(run.piece);
    }

    /// The source may not go on for now (choked, stalled, gone): what was to be its alone is anybody's.
    pub fn open_to_others(&mut self, source: SourceId) {
        for partial in self.partial.values_mut() {
            partial.open_to_others(source);
        }
    }

    /// Everything asked of or reserved for this source is free again.
    pub fn release_all(&mut self, source: SourceId) {
        let begun: Vec<u32> = self.partial.keys().copied().collect();
        for piece in begun {
            self.release(
                source,
                Run {
                    piece,
                    first: 0,
                    count: u32::MAX,
                },
            );
        }
        let reserved = |s: &State| *s == State::Reserved(source);
        for piece in 0..self.states.len() as u32 {
            if reserved(&self.state(piece)) {
                self.set_state(piece, State::Free);
            }
        }
    }

    /// The lane gives back the pieces of its span that it has not reached.
    pub fn release_span(&mut self, lane: SourceId, span: Range<u32>) {
        for piece in span {
            if self.state(piece) == State::Reserved(lane) {
                self.set_state(piece, State::Free);
            }
        }
    }

    /// The piece is verified and stored (also: found good on disk when resuming). Returns who gave each block.
    pub fn verified(&mut self, piece: u32) -> Vec<Option<SourceId>> {
        let givers = self
            .partial
            .remove(&piece)
            .map(|p| p.givers())
            .unwrap_or_default();
        if self.have.insert(piece) {
            self.set_state(piece, State::Have);
            self.claims.remove(&piece);
            for peer in self.peers.values_mut().filter(|p| p.have.has(piece)) {
                peer.useful = peer.useful.saturating_sub(1);
            }
        }
        givers
    }

    /// The piece did not match its hash. Returns who gave each block; the next try is one source's alone.
    pub fn failed(&mut self, piece: u32) -> Vec<Option<SourceId>> {
        let givers = self
            .partial
            .remove(&piece)
            .map(|p| p.givers())
            .unwrap_or_default();
        if self.state(piece) == State::Checking {
            let mut again = Partial::new(self.geometry.blocks_in(piece));
            again.make_exclusive();
            self.partial.insert(piece, again);
            self.set_state(piece, State::Partial);
        }
        givers
    }

    /// A piece that was thought good is not (the file on disk was damaged, or the origin's file changed).
    pub fn lost(&mut self, piece: u32) {
        if self.have.has(piece) {
            self.have.remove(piece);
            self.set_state(piece, State::Free);
            for peer in self.peers.values_mut().filter(|p| p.have.has(piece)) {
                peer.useful += 1;
            }
        }
    }

    // --- bookkeeping

    fn open(&mut self, piece: u32) {
        self.partial
            .insert(piece, Partial::new(self.geometry.blocks_in(piece)));
        self.set_state(piece, State::Partial);
    }

    /// A begun piece of which nothing arrived and nothing is asked is free again.
    fn close_if_untouched(&mut self, piece: u32) {
        if self.state(piece) == State::Partial
            && self.partial.get(&piece).is_some_and(Partial::is_untouched)
        {
            self.partial.remove(&piece);
            self.set_state(piece, State::Free);
        }
    }

    fn state(&self, piece: u32) -> State {
        self.states
            .get(piece as usize)
            .copied()
            .unwrap_or(State::Have)
    }

    fn set_state(&mut self, piece: u32, state: State) {
        let key = self.key(piece);
        if let Some(slot) = self.states.get_mut(piece as usize) {
            *slot = state;
            if state == State::Free {
                self.free.insert(key);
            } else {
                self.free.remove(&key);
            }
        }
    }

    fn key(&self, piece: u32) -> Key {
        let tie = self.ties.get(piece as usize).copied().unwrap_or(0);
        let availability = self.availability.get(piece as usize).copied().unwrap_or(0);
        (if self.sequential { 0 } else { availability }, tie, piece)
    }

    fn change_availability(&mut self, piece: u32, by: i16) {
        let old = self.key(piece);
        if let Some(n) = self.availability.get_mut(piece as usize) {
            *n = n.saturating_add_signed(by);
        }
        if self.free.remove(&old) {
            self.free.insert(self.key(piece));
        }
    }

    /// Asserts the invariants of the header.
    pub fn check(&self) {
        for piece in 0..self.geometry.pieces() {
            let state = self.state(piece);
            assert_eq!(
                state == State::Free,
                self.free.contains(&self.key(piece)),
                "free list, piece {piece}"
            );
            assert_eq!(
                state == State::Have,
                self.have.has(piece),
                "have, piece {piece}"
            );
            let begun = matches!(state, State::Partial | State::Checking);
            assert_eq!(
                begun,
                self.partial.contains_key(&piece),
                "partial, piece {piece}"
            );
        }
        assert_eq!(
            self.free.len(),
            self.states.iter().filter(|s| **s == State::Free).count(),
            "stale free keys"
        );
        self.partial.values().for_each(Partial::check);
    }
}

#[cfg(test)]
mod tests;
