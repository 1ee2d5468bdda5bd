//! Who gave what: each byte counted once.

use crate::content::{Block, Digest, Geometry};
use crate::ids::SourceId;
use crate::stats::{ByClass, Rate, SourceClass};
use crate::time::Mono;
use alloc::collections::{BTreeMap, BTreeSet};

/// The counters of one job. Bytes are credited when their piece is verified and stored.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) received: ByClass,
    pub(super) wasted: u64,
    pub(super) resumed: u64,
    pub(super) sha256: Option<Digest>,
    pub(super) rate: Rate,
    pub(super) peer_rate: Rate,
    /// Some source has delivered something since this download was started or resumed.
    pub(super) any_arrived: bool,
    classes: BTreeMap<SourceId, SourceClass>,
    peers: BTreeSet<SourceId>,
}

impl Tally {
    pub(super) fn know(&mut self, source: SourceId, class: SourceClass) {
        self.classes.insert(source, class);
    }

    pub(super) fn arrived(&mut self, now: Mono, source: SourceId, bytes: u64) {
        self.any_arrived = true;
        self.rate.add(now, bytes);
        if self.class(source).is_peer() {
            self.peer_rate.add(now, bytes);
        }
    }

    pub(super) fn credit(&mut self, piece: u32, givers: &[Option<SourceId>], geometry: &Geometry) {
        for (index, giver) in (0..).zip(givers) {
            let Some(source) = giver else { continue };
            let class = self.class(*source);
            self.received
                .add(class, geometry.block_len(Block { piece, index }).into());
            if class.is_peer() {
                self.peers.insert(*source);
            }
        }
    }

    pub(super) const fn waste(&mut self, bytes: u64) {
        self.wasted = self.wasted.saturating_add(bytes);
    }

    /// Bytes of a piece that came over HTTP alone were counted and are wrong.
    pub(super) const fn discredit(&mut self, bytes: u64) {
        let of_cache = bytes.saturating_sub(self.received.origin);
        self.received.origin = self.received.origin.saturating_sub(bytes);
        self.received.cache = self.received.cache.saturating_sub(of_cache);
        self.waste(bytes);
    }

    /// Everything received so far was for nothing: the file is another one.
    pub(super) fn discard(&mut self) {
        self.wasted += self.received.total();
        (self.received, self.resumed) = (ByClass::default(), 0);
    }

    /// Distinct peers that gave something useful.
    pub(super) fn peers(&self) -> u32 {
        self.peers.len() as u32
    }

    pub(super) fn class(&self, source: SourceId) -> SourceClass {
        self.classes
            .get(&source)
            .copied()
            .unwrap_or(SourceClass::Origin)
    }
}
