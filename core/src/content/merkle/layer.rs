//! A whole piece layer and everything above it: checks pieces, answers hash requests.

use super::proof::HashRequest;
use super::{
    MerkleError, expect_count, layer_above, pad_hash, parent, piece_height, piece_root, root_height,
};
use crate::content::{ContentId, Digest, Geometry};
use alloc::vec::Vec;

/// The hashes of all pieces of a file and the nodes above them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceLayer {
    geometry: Geometry,
    /// From the piece layer up to the root, without padding nodes. Empty for an empty file.
    layers: Vec<Vec<Digest>>,
}

impl PieceLayer {
    /// The layer of these piece hashes; its root is computed. A file of one piece has one hash, the root.
    ///
    /// # Errors
    /// If the number of hashes is not that of the file's pieces.
    pub fn new(geometry: Geometry, hashes: Vec<Digest>) -> Result<Self, MerkleError> {
        expect_count(hashes.len(), geometry.pieces())?;
        let mut layers = Vec::new();
        let mut pad = pad_hash(piece_height(&geometry));
        let mut layer = hashes;
        while layer.len() > 1 {
            let above = layer_above(&layer, &pad);
            layers.push(layer);
            layer = above;
            pad = parent(&pad, &pad);
        }
        if !layer.is_empty() {
            layers.push(layer);
        }
        Ok(Self { geometry, layers })
    }

    /// As [`PieceLayer::new`], believed only if it leads to this root.
    ///
    /// # Errors
    /// Also [`MerkleError::WrongRoot`].
    pub fn verified(
        geometry: Geometry,
        hashes: Vec<Digest>,
        root: Digest,
    ) -> Result<Self, MerkleError> {
        let layer = Self::new(geometry, hashes)?;
        if layer.root() == root {
            Ok(layer)
        } else {
            Err(MerkleError::WrongRoot)
        }
    }

    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// 32 zero bytes for an empty file.
    pub fn root(&self) -> Digest {
        self.layers
            .last()
            .and_then(|top| top.first())
            .copied()
            .unwrap_or_default()
    }

    pub fn id(&self) -> ContentId {
        ContentId {
            length: self.geometry.length(),
            root: self.root(),
        }
    }

    /// The hashes of the pieces, in order.
    pub fn hashes(&self) -> &[Digest] {
        self.layers.first().map_or(&[], Vec::as_slice)
    }

    pub fn piece(&self, piece: u32) -> Option<Digest> {
        self.hashes().get(piece as usize).copied()
    }

    /// Whether blocks with these hashes are this piece.
    pub fn is_piece(&self, piece: u32, leaves: &[Digest]) -> bool {
        piece_root(&self.geometry, piece, leaves).is_ok_and(|root| self.piece(piece) == Some(root))
    }

    /// The answer to a request for the piece layer or one above it: the hashes of the range, then the uncles
    /// from bottom to top. `None` stands for a hash reject.
    pub fn hashes_for(&self, request: &HashRequest) -> Option<Vec<Digest>> {
        if request.base_layer < piece_height(&self.geometry) {
            return None;
        }
        self.answer(request, |layer, index| self.node(layer, index))
    }

    /// The answer to a request within one piece (its leaves, or nodes above them), given the piece's leaf
    /// hashes. Which piece is asked about says [`HashRequest::piece_within`].
    pub fn hashes_within(&self, request: &HashRequest, leaves: &[Digest]) -> Option<Vec<Digest>> {
        let piece = request.piece_within(&self.geometry)?;
        if !self.is_piece(piece, leaves) {
            return None;
        }
        let height = piece_height(&self.geometry);
        let mut subtree = Vec::new();
        let mut layer = leaves.to_vec();
        for level in 0..height {
            let above = layer_above(&layer, &pad_hash(level));
            subtree.push(layer);
            layer = above;
        }
        self.answer(request, |layer, index| {
            if layer >= height {
                return self.node(layer, index);
            }
            let first = u64::from(piece) << (height - layer);
            let within = usize::try_from(u64::from(index).checked_sub(first)?).ok()?;
            let nodes = subtree.get(layer as usize)?;
            Some(
                nodes
                    .get(within)
                    .copied()
                    .unwrap_or_else(|| pad_hash(layer)),
            )
        })
    }

    fn answer(
        &self,
        request: &HashRequest,
        node: impl Fn(u32, u32) -> Option<Digest>,
    ) -> Option<Vec<Digest>> {
        if request.root != self.root() || !request.is_valid(&self.geometry) {
            return None;
        }
        let range = request.index..request.index.checked_add(request.count)?;
        let base = range.map(|index| node(request.base_layer, index));
        let uncles = request
            .uncles()
            .map(|(layer, index)| node(layer, index ^ 1));
        base.chain(uncles).collect()
    }

    /// A node of the piece layer or above, padding included. The caller has checked that the layer is that wide.
    fn node(&self, layer: u32, index: u32) -> Option<Digest> {
        if layer > root_height(&self.geometry) {
            return None;
        }
        let above = layer.checked_sub(piece_height(&self.geometry))?;
        let nodes = self.layers.get(above as usize)?;
        Some(
            nodes
                .get(index as usize)
                .copied()
                .unwrap_or_else(|| pad_hash(layer)),
        )
    }
}
