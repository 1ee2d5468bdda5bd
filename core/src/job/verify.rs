//! Pieces from bytes to verified: hashing, blame, the whole-file SHA-256, re-checking what is on disk.

use super::assembly::Slices;
use crate::content::{Digest, FlatHash, HashDone, HashJob, PieceLayer};
use crate::ids::{OpId, SourceId};
use crate::machine::Effects;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;

/// What is known of the content's hashes, and what is being hashed.
#[derive(Debug, Default)]
pub(super) struct Verifier {
    layer: Option<PieceLayer>,
    flat: Option<Flat>,
    hashing: BTreeMap<OpId, Hashing>,
    /// Leaf hashes of failed tries, to find the culprit once the piece is right.
    suspects: BTreeMap<u32, Vec<FailedTry>>,
}

/// Who gave each block of a piece that failed, and the hash of each.
type FailedTry = (Vec<Option<SourceId>>, Vec<Digest>);

#[derive(Debug)]
struct Hashing {
    piece: u32,
    what: What,
    /// The running hash as it was before this piece, if this job continues it.
    flat_before: Option<FlatHash>,
}

#[derive(Debug)]
enum What {
    /// Just downloaded.
    Fresh(Slices),
    /// Read back from disk.
    Stored,
    /// Read back only to continue the whole-file hash.
    CatchUp,
}

/// The SHA-256 of the whole file, as far as it has come.
#[derive(Debug)]
struct Flat {
    /// The piece it needs next.
    next: u32,
    /// `None` while a hash job has it.
    state: Option<FlatHash>,
}

/// What a finished hash job says.
#[derive(Debug)]
pub(super) enum Verdict {
    /// A downloaded piece matches (or nothing is known to compare with): store it. Sources whose blocks in
    /// earlier tries were wrong are to blame.
    Good {
        piece: u32,
        chunks: Slices,
        blame: Vec<SourceId>,
    },
    /// A downloaded piece does not match.
    Bad { piece: u32, leaves: Vec<Digest> },
    /// A stored piece was re-checked.
    Rechecked { piece: u32, good: bool },
    /// The whole-file hash came further.
    CaughtUp,
}

impl Verifier {
    pub(super) fn know_layer(&mut self, layer: PieceLayer) {
        self.layer = Some(layer);
    }

    /// Compute the whole file's SHA-256 too.
    pub(super) fn want_flat(&mut self) {
        self.flat.get_or_insert_with(|| Flat {
            next: 0,
            state: Some(FlatHash::default()),
        });
    }

    /// Start over: the file is another one.
    pub(super) fn restart(&mut self) {
        self.suspects.clear();
        self.hashing.clear();
        if self.flat.is_some() {
            self.flat = None;
            self.want_flat();
        }
    }

    /// The piece the whole-file hash waits for, if it is not busy.
    pub(super) fn flat_wants(&self) -> Option<u32> {
        self.flat
            .as_ref()
            .filter(|f| f.state.is_some())
            .map(|f| f.next)
    }

    /// The whole-file hash, once it has seen all pieces; `None` before.
    pub(super) fn flat_digest(&self, pieces: u32) -> Option<Digest> {
        let flat = self.flat.as_ref().filter(|f| f.next == pieces)?;
        flat.state.clone().map(FlatHash::digest)
    }

    pub(super) fn is_hashing(&self) -> bool {
        !self.hashing.is_empty()
    }

    pub(super) const fn has_flat(&self) -> bool {
        self.flat.is_some()
    }

    /// A downloaded piece. Gives the chunks back if there is nothing to hash.
    pub(super) fn check_fresh(
        &mut self,
        piece: u32,
        chunks: Slices,
        fx: &mut Effects,
    ) -> Option<Slices> {
        if self.layer.is_none() && self.flat_wants() != Some(piece) {
            return Some(chunks);
        }
        self.order(
            piece,
            chunks.clone(),
            What::Fresh(chunks),
            self.layer.is_some(),
            fx,
        );
        None
    }

    /// A piece read back from disk.
    pub(super) fn check_stored(&mut self, piece: u32, bytes: Bytes, fx: &mut Effects) {
        self.order(
            piece,
            Vec::from([bytes]),
            What::Stored,
            self.layer.is_some(),
            fx,
        );
    }

    /// A good piece read back to continue the whole-file hash.
    pub(super) fn catch_up(&mut self, piece: u32, bytes: Bytes, fx: &mut Effects) {
        if self.flat_wants() == Some(piece) {
            self.order(piece, Vec::from([bytes]), What::CatchUp, false, fx);
        }
    }

    /// Remember who gave what in a failed try.
    pub(super) fn suspect(
        &mut self,
        piece: u32,
        givers: Vec<Option<SourceId>>,
        leaves: Vec<Digest>,
    ) {
        self.suspects
            .entry(piece)
            .or_default()
            .push((givers, leaves));
    }

    pub(super) fn on_hashed(&mut self, op: OpId, done: HashDone) -> Option<Verdict> {
        let Hashing {
            piece,
            what,
            flat_before,
        } = self.hashing.remove(&op)?;
        let good = match &self.layer {
            Some(layer) if !matches!(what, What::CatchUp) => layer.is_piece(piece, &done.leaves),
            _ => true,
        };
        if let (Some(flat), Some(before)) = (&mut self.flat, flat_before) {
            // Whatever is wrong with this piece, the running hash must not have seen it.
            flat.state = if good { done.flat } else { Some(before) };
            flat.next += u32::from(good);
        }
        Some(match what {
            What::Fresh(chunks) if good => Verdict::Good {
                piece,
                chunks,
                blame: self.culprits(piece, &done.leaves),
            },
            What::Fresh(_) => Verdict::Bad {
                piece,
                leaves: done.leaves,
            },
            What::Stored => Verdict::Rechecked { piece, good },
            What::CatchUp => Verdict::CaughtUp,
        })
    }

    fn order(&mut self, piece: u32, chunks: Slices, what: What, leaves: bool, fx: &mut Effects) {
        let flat = match &mut self.flat {
            Some(flat) if flat.next == piece && !matches!(what, What::Stored) => flat.state.take(),
            _ => None,
        };
        let op = fx.hash(HashJob {
            chunks,
            leaves,
            flat: flat.clone(),
        });
        self.hashing.insert(
            op,
            Hashing {
                piece,
                what,
                flat_before: flat,
            },
        );
    }

    fn culprits(&mut self, piece: u32, good: &[Digest]) -> Vec<SourceId> {
        let mut blame: Vec<SourceId> = Vec::new();
        for (givers, leaves) in self.suspects.remove(&piece).unwrap_or_default() {
            let wrong = leaves
                .iter()
                .zip(good)
                .zip(givers)
                .filter(|((bad, good), _)| bad != good);
            blame.extend(wrong.filter_map(|(_, giver)| giver));
        }
        blame.sort_unstable();
        blame.dedup();
        blame
    }
}
