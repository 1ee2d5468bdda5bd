//! Who is due when. One entry per key; setting it again moves it.

use crate::time::Mono;
use alloc::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub(super) struct Timers<K> {
    queue: BTreeSet<(Mono, K)>,
    due: BTreeMap<K, Mono>,
}

impl<K: Copy + Ord> Timers<K> {
    pub(super) const fn new() -> Self {
        Self {
            queue: BTreeSet::new(),
            due: BTreeMap::new(),
        }
    }

    /// `None`: never.
    pub(super) fn set(&mut self, key: K, at: Option<Mono>) {
        if self.at(key) == at {
            return;
        }
        if let Some(old) = self.due.remove(&key) {
            self.queue.remove(&(old, key));
        }
        if let Some(at) = at {
            self.due.insert(key, at);
            self.queue.insert((at, key));
        }
    }

    pub(super) fn at(&self, key: K) -> Option<Mono> {
        self.due.get(&key).copied()
    }

    /// Who is due first.
    pub(super) fn first(&self) -> Option<K> {
        self.queue.first().map(|(_, key)| *key)
    }

    /// Who is due now, each once.
    pub(super) fn due(&self, now: Mono) -> impl Iterator<Item = K> {
        let due = self.queue.iter().take_while(move |(at, _)| *at <= now);
        due.map(|(_, key)| *key)
    }
}
