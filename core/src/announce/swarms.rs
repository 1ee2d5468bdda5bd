//! What this device takes part in, and what of it the coordinator still has to hear.
//!
//! Decides: which swarms go into the next announce and with which event. Never does: I/O, timing.
//! Invariants: an event is repeated until an announce that carried it was answered; a swarm that was never
//! announced leaves without a word.
//! Tested here.

use super::messages::{AnnounceEvent, SwarmAnnounce};
use crate::content::InfoHash;
use crate::limits::SWARMS_PER_ANNOUNCE_MAX;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// How far this device is with one content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwarmState {
    pub have_pieces: u32,
    /// 0 is a seed.
    pub left_bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Swarms {
    entries: BTreeMap<InfoHash, Entry>,
}

#[derive(Debug)]
struct Entry {
    state: SwarmState,
    /// The coordinator has answered an announce of it.
    known: bool,
    /// It became complete here after it was announced incomplete.
    completed: bool,
    /// To be told as left, then forgotten.
    leaving: bool,
    /// Belongs into the next announce.
    due: bool,
    /// In the announce under way, with this event.
    in_flight: Option<AnnounceEvent>,
    /// Peers the coordinator last named.
    peers: usize,
}

impl Swarms {
    /// Whether this is something new to tell soon.
    pub(super) fn join(&mut self, info_hash: InfoHash, state: SwarmState) -> bool {
        let known = self.entries.get(&info_hash).is_some_and(|old| old.known);
        let rejoined = !self.entries.contains_key(&info_hash) || self.is_leaving(info_hash);
        self.entries.insert(
            info_hash,
            Entry {
                state,
                known,
                completed: false,
                leaving: false,
                due: true,
                in_flight: None,
                peers: 0,
            },
        );
        rejoined
    }

    /// Whether this is something to tell soon: only completion is, the rest waits for the next announce.
    pub(super) fn update(&mut self, info_hash: InfoHash, state: SwarmState) -> bool {
        let Some(entry) = self.entries.get_mut(&info_hash) else {
            return false;
        };
        let completed = entry.state.left_bytes > 0 && state.left_bytes == 0;
        entry.state = state;
        if completed {
            entry.completed = true;
            entry.due = true;
        }
        completed
    }

    /// Whether the coordinator must be told.
    pub(super) fn leave(&mut self, info_hash: InfoHash) -> bool {
        let Some(entry) = self.entries.get_mut(&info_hash) else {
            return false;
        };
        if !entry.known && entry.in_flight.is_none() {
            self.entries.remove(&info_hash);
            return false;
        }
        entry.leaving = true;
        entry.due = true;
        true
    }

    pub(super) fn leave_all(&mut self) {
        let all: Vec<InfoHash> = self.entries.keys().copied().collect();
        for info_hash in all {
            self.leave(info_hash);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn contains(&self, info_hash: InfoHash) -> bool {
        self.entries
            .get(&info_hash)
            .is_some_and(|entry| !entry.leaving)
    }

    fn is_leaving(&self, info_hash: InfoHash) -> bool {
        self.entries
            .get(&info_hash)
            .is_some_and(|entry| entry.leaving)
    }

    pub(super) fn any_due(&self) -> bool {
        self.entries.values().any(|entry| entry.due)
    }

    /// Everything belongs into the next announce.
    pub(super) fn refresh(&mut self) {
        for entry in self.entries.values_mut() {
            entry.due = true;
        }
    }

    /// The next announce's swarms, from here on in flight.
    pub(super) fn batch(&mut self) -> Vec<SwarmAnnounce> {
        let due = self.entries.iter_mut().filter(|(_, entry)| entry.due);
        due.take(SWARMS_PER_ANNOUNCE_MAX)
            .map(|(info_hash, entry)| {
                let event = entry.event();
                entry.due = false;
                entry.in_flight = Some(event);
                SwarmAnnounce {
                    info_hash: *info_hash,
                    event,
                    have_pieces: entry.state.have_pieces,
                    left_bytes: entry.state.left_bytes,
                }
            })
            .collect()
    }

    /// The announce under way was answered.
    pub(super) fn answered(&mut self) {
        self.entries.retain(|_, entry| {
            let Some(told) = entry.in_flight.take() else {
                return true;
            };
            entry.known = told != AnnounceEvent::Stopped;
            if told == AnnounceEvent::Completed || entry.state.left_bytes > 0 {
                entry.completed = false;
            }
            !(entry.leaving && told == AnnounceEvent::Stopped)
        });
    }

    /// It did not get through: all of it must be told again.
    pub(super) fn failed(&mut self) {
        for entry in self.entries.values_mut() {
            if entry.in_flight.take().is_some() {
                entry.due = true;
            }
        }
    }

    /// Some download here was given fewer peers than it could use.
    pub(super) fn wants_peers(&self) -> bool {
        self.entries.values().any(Entry::wants_peers)
    }

    /// Those belong into the next announce.
    pub(super) fn refresh_wanting(&mut self) {
        for entry in self.entries.values_mut() {
            entry.due |= entry.wants_peers();
        }
    }

    pub(super) fn peers_named(&mut self, info_hash: InfoHash, peers: usize) {
        if let Some(entry) = self.entries.get_mut(&info_hash) {
            entry.peers = peers;
        }
    }
}

impl Entry {
    const fn wants_peers(&self) -> bool {
        !self.leaving && self.state.left_bytes > 0 && self.peers < FEW_PEERS
    }

    fn event(&self) -> AnnounceEvent {
        if self.leaving {
            AnnounceEvent::Stopped
        } else if !self.known {
            AnnounceEvent::Started
        } else if self.completed {
            AnnounceEvent::Completed
        } else {
            AnnounceEvent::Update
        }
    }
}

/// Below this a download looks for more before the interval is over.
const FEW_PEERS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const A: InfoHash = InfoHash([1; 32]);
    const B: InfoHash = InfoHash([2; 32]);

    fn state(left_bytes: u64) -> SwarmState {
        SwarmState {
            have_pieces: 0,
            left_bytes,
        }
    }

    fn events(swarms: &mut Swarms) -> Vec<(InfoHash, AnnounceEvent)> {
        let batch = swarms.batch();
        batch.iter().map(|s| (s.info_hash, s.event)).collect()
    }

    #[test]
    fn life_of_a_swarm() {
        let mut swarms = Swarms::default();
        assert!(swarms.join(A, state(10)));
        assert!(!swarms.join(A, state(9)), "already in");
        assert_eq!(events(&mut swarms), [(A, AnnounceEvent::Started)]);
        assert!(swarms.wants_peers());
        swarms.failed();
        assert_eq!(events(&mut swarms), [(A, AnnounceEvent::Started)]);
        swarms.answered();
        swarms.peers_named(A, 10);
        assert!(!swarms.wants_peers());
        assert_eq!(events(&mut swarms), []);
        assert!(!swarms.update(A, state(5)));
        swarms.refresh();
        assert_eq!(events(&mut swarms), [(A, AnnounceEvent::Update)]);
        swarms.answered();
        assert!(swarms.update(A, state(0)));
        assert_eq!(events(&mut swarms), [(A, AnnounceEvent::Completed)]);
        swarms.failed();
        assert_eq!(events(&mut swarms), [(A, AnnounceEvent::Completed)]);
        swarms.answered();
        swarms.refresh();
        assert_eq!(events(&mut swarms), [(A, AnnounceEvent::Update)]);
        swarms.answered();
        assert!(swarms.leave(A));
        assert!(!swarms.contains(A));
        assert_eq!(events(&mut swarms), [(A, AnnounceEvent::Stopped)]);
        assert!(!swarms.is_empty());
        swarms.answered();
        assert!(swarms.is_empty());
    }

    #[test]
    fn completing_while_an_announce_is_out_is_told_next() {
        let mut swarms = Swarms::default();
        swarms.join(A, state(10));
        swarms.batch();
        assert!(swarms.update(A, state(0)));
        swarms.answered();
        assert_eq!(events(&mut swarms), [(A, AnnounceEvent::Completed)]);
    }

    #[test]
    fn leaving_while_the_first_announce_is_out_is_told() {
        let mut swarms = Swarms::default();
        swarms.join(A, state(10));
        swarms.join(B, state(10));
        assert!(!swarms.leave(B), "never announced");
        swarms.batch();
        assert!(swarms.leave(A));
        swarms.answered();
        assert_eq!(events(&mut swarms), [(A, AnnounceEvent::Stopped)]);
    }

    #[test]
    fn rejoining_before_the_goodbye_went_out() {
        let mut swarms = Swarms::default();
        swarms.join(A, state(10));
        swarms.batch();
        swarms.answered();
        swarms.leave(A);
        assert!(swarms.join(A, state(4)));
        assert_eq!(events(&mut swarms), [(A, AnnounceEvent::Update)]);
    }

    #[test]
    fn batches_are_bounded() {
        let mut swarms = Swarms::default();
        for n in 0..600_u32 {
            let mut hash = [0; 32];
            hash[..4].copy_from_slice(&n.to_be_bytes());
            swarms.join(InfoHash(hash), state(1));
        }
        let mut sizes = Vec::new();
        while swarms.any_due() {
            sizes.push(swarms.batch().len());
            swarms.answered();
        }
        assert_eq!(sizes, [256, 256, 88]);
    }
}
