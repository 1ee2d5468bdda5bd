//! A piece layer that comes bit by bit: from leaves (publishing), or from proofs (peers).

use super::proof::{HashRequest, verify_hashes};
use super::{MerkleError, PieceLayer, piece_height, piece_root};
use crate::content::{Digest, Geometry};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// Makes a file's piece layer from leaf hashes, in any order of pieces.
#[derive(Clone, Debug)]
pub struct TreeBuilder(Partial);

impl TreeBuilder {
    pub fn new(geometry: Geometry) -> Self {
        Self(Partial::new(geometry))
    }

    /// The leaf hashes of one whole piece; gives the hash of the piece.
    ///
    /// # Errors
    /// If there is no such piece, or it has another number of blocks.
    pub fn piece(&mut self, piece: u32, leaves: &[Digest]) -> Result<Digest, MerkleError> {
        let hash = piece_root(&self.0.geometry, piece, leaves)?;
        self.0.set(piece, hash);
        Ok(hash)
    }

    /// Pieces still to come.
    pub const fn missing(&self) -> u32 {
        self.0.missing
    }

    /// The whole layer, with its root; `None` while pieces are missing.
    pub fn finish(self) -> Option<PieceLayer> {
        self.0.finish()
    }
}

/// A file's piece layer while peers send it: only what was proved against the root is kept.
#[derive(Clone, Debug)]
pub struct LayerBuilder {
    root: Digest,
    known: Partial,
}

impl LayerBuilder {
    /// Knows nothing yet; but of a file of one piece the only hash is the root.
    pub fn new(geometry: Geometry, root: Digest) -> Self {
        let mut known = Partial::new(geometry);
        if geometry.pieces() == 1 {
            known.set(0, root);
        }
        Self { root, known }
    }

    pub const fn geometry(&self) -> Geometry {
        self.known.geometry
    }

    pub const fn root(&self) -> Digest {
        self.root
    }

    pub fn piece(&self, piece: u32) -> Option<Digest> {
        self.known.hashes.get(piece as usize).copied().flatten()
    }

    /// Pieces whose hash is known.
    pub const fn known(&self) -> u32 {
        self.known.geometry.pieces() - self.known.missing
    }

    pub const fn is_complete(&self) -> bool {
        self.known.missing == 0
    }

    /// Whether blocks with these hashes are this piece; `None` while its hash is unknown.
    pub fn is_piece(&self, piece: u32, leaves: &[Digest]) -> Option<bool> {
        let hash = self.piece(piece)?;
        Some(piece_root(&self.known.geometry, piece, leaves) == Ok(hash))
    }

    /// The next request that would bring something new, leaving out those `already_asked`.
    pub fn next_request(
        &self,
        already_asked: impl Fn(&HashRequest) -> bool,
    ) -> Option<HashRequest> {
        let mut from = 0;
        while let Some(piece) = self.known.first_missing(from) {
            let request = HashRequest::for_piece(&self.known.geometry, self.root, piece)?;
            if !already_asked(&request) {
                return Some(request);
            }
            from = request.index.saturating_add(request.count);
        }
        None
    }

    /// Take an answer in: the pieces it is about.
    ///
    /// # Errors
    /// If it is not about this file's piece layer or does not prove its hashes; nothing of it is kept.
    pub fn accept(
        &mut self,
        request: &HashRequest,
        hashes: &[Digest],
    ) -> Result<Range<u32>, MerkleError> {
        let geometry = self.known.geometry;
        if request.root != self.root || request.base_layer != piece_height(&geometry) {
            return Err(MerkleError::Request);
        }
        verify_hashes(&geometry, request, hashes)?;
        let end = geometry.pieces().min(request.index + request.count);
        for (piece, hash) in (request.index..end).zip(hashes) {
            self.known.set(piece, *hash);
        }
        Ok(request.index..end)
    }

    /// The whole layer; `None` while hashes are missing, or if the file's padding is not BEP 52's.
    pub fn finish(self) -> Option<PieceLayer> {
        let root = self.root;
        self.known.finish().filter(|layer| layer.root() == root)
    }
}

#[derive(Clone, Debug)]
struct Partial {
    geometry: Geometry,
    hashes: Vec<Option<Digest>>,
    missing: u32,
}

impl Partial {
    fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            hashes: vec![None; geometry.pieces() as usize],
            missing: geometry.pieces(),
        }
    }

    fn set(&mut self, piece: u32, hash: Digest) {
        if let Some(slot) = self.hashes.get_mut(piece as usize)
            && slot.replace(hash).is_none()
        {
            self.missing -= 1;
        }
    }

    fn first_missing(&self, from: u32) -> Option<u32> {
        let rest = self.hashes.get(from as usize..)?;
        let at = rest.iter().position(Option::is_none)?;
        Some(from + at as u32)
    }

    fn finish(self) -> Option<PieceLayer> {
        let hashes: Option<Vec<Digest>> = self.hashes.into_iter().collect();
        PieceLayer::new(self.geometry, hashes?).ok()
    }
}
