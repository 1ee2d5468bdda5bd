//! The SHA-256 Merkle tree of a file (BEP 52).
//!
//! Leaves are the hashes of 16 KiB blocks (the last block shorter, not padded); missing leaves up to the next
//! power of two are 32 zero bytes; an inner node is the hash of its two children. The *piece layer* is the
//! layer at which one node stands for one piece. A file of at most one piece has only its own leaves.
//!
//! Layers are counted from the leaves (layer 0). [`PieceLayer`] is a whole layer; [`TreeBuilder`] makes one
//! from leaves; [`LayerBuilder`] makes one from proofs that peers sent; [`HashRequest`] is what is asked and
//! answered. Nothing here touches file bytes: leaves come from [`crate::content::HashJob`].
//! Invariants: a `PieceLayer` hashes to its root; a `LayerBuilder` holds no hash that was not proved.
//! Spec: BEP 52. Tests: in each file, `core/tests/interop_vectors.rs`, `fuzz/src/content.rs`.

mod build;
mod layer;
mod proof;

pub use build::{LayerBuilder, TreeBuilder};
pub use layer::PieceLayer;
pub use proof::{HashRequest, verify_hashes};

use crate::content::{Digest, Geometry};
use alloc::vec::Vec;
use core::fmt;
use sha2::{Digest as _, Sha256};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MerkleError {
    /// A layer or piece has this many hashes, and should have that many.
    Count { found: usize, expected: usize },
    /// The hashes do not lead to the root they should.
    WrongRoot,
    /// A hash request or its answer that cannot prove anything: misaligned, out of range, about another root.
    Request,
    /// There is no such piece.
    NoSuchPiece(u32),
}

/// The hash of an inner node.
pub fn parent(left: &Digest, right: &Digest) -> Digest {
    Digest(
        Sha256::new()
            .chain_update(left.0)
            .chain_update(right.0)
            .finalize()
            .into(),
    )
}

/// The root of a subtree of 2^`layer` padding leaves.
pub fn pad_hash(layer: u32) -> Digest {
    (0..layer).fold(Digest::default(), |pad, _| parent(&pad, &pad))
}

/// The hash of a piece, from the hashes of its blocks: the node of the piece layer, or the root of the file
/// if it has only this piece.
///
/// # Errors
/// If there is no such piece, or it has another number of blocks.
pub fn piece_root(
    geometry: &Geometry,
    piece: u32,
    leaves: &[Digest],
) -> Result<Digest, MerkleError> {
    if piece >= geometry.pieces() {
        return Err(MerkleError::NoSuchPiece(piece));
    }
    expect_count(leaves.len(), geometry.blocks_in(piece))?;
    let mut layer = leaves.to_vec();
    let mut pad = Digest::default();
    for _ in 0..piece_height(geometry) {
        layer = layer_above(&layer, &pad);
        pad = parent(&pad, &pad);
    }
    layer.first().copied().ok_or(MerkleError::WrongRoot)
}

/// The root of a file, from its piece hashes. An empty file has no root in BEP 52; ours is 32 zero bytes.
///
/// # Errors
/// If the number of hashes is not that of the file's pieces.
pub fn root_of_layer(geometry: &Geometry, hashes: &[Digest]) -> Result<Digest, MerkleError> {
    PieceLayer::new(*geometry, hashes.to_vec()).map(|layer| layer.root())
}

/// The layer on which one node stands for one piece: log2 of the blocks in a piece. Of a file of at most one
/// piece this is the root.
pub fn piece_height(geometry: &Geometry) -> u32 {
    match geometry.pieces() {
        0 => 0,
        1 => geometry.blocks_in(0).next_power_of_two().ilog2(),
        _ => geometry.blocks_per_piece().ilog2(),
    }
}

/// The layer of the root.
pub fn root_height(geometry: &Geometry) -> u32 {
    piece_height(geometry) + geometry.pieces().max(1).next_power_of_two().ilog2()
}

/// Nodes of the layer above `layer`, whose missing sibling is `pad`.
fn layer_above(layer: &[Digest], pad: &Digest) -> Vec<Digest> {
    layer
        .chunks(2)
        .map(|pair| match pair {
            [left, right] => parent(left, right),
            [left] => parent(left, pad),
            _ => *pad,
        })
        .collect()
}

fn expect_count(found: usize, expected: u32) -> Result<(), MerkleError> {
    let expected = expected as usize;
    if found == expected {
        Ok(())
    } else {
        Err(MerkleError::Count { found, expected })
    }
}

impl fmt::Display for MerkleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { found, expected } => {
                write!(f, "{found} hashes where {expected} belong")
            }
            Self::WrongRoot => f.write_str("hashes do not lead to the root"),
            Self::Request => f.write_str("hash request or answer that proves nothing"),
            Self::NoSuchPiece(piece) => write!(f, "there is no piece {piece}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::BLOCK_LEN;
    use alloc::vec;

    /// The tree as BEP 52 words it: all leaves, zeros up to a power of two, pairs hashed up to the root.
    fn plain_root(leaves: &[Digest]) -> Digest {
        let mut layer = leaves.to_vec();
        layer.resize(leaves.len().next_power_of_two(), Digest::default());
        while layer.len() > 1 {
            layer = layer
                .chunks(2)
                .map(|p| {
                    let mut both = [0; 64];
                    both[..32].copy_from_slice(&p[0].0);
                    both[32..].copy_from_slice(&p[1].0);
                    Digest::of(&both)
                })
                .collect();
        }
        layer[0]
    }

    fn leaves(count: u32) -> Vec<Digest> {
        (0..count).map(|i| Digest::of(&i.to_be_bytes())).collect()
    }

    #[test]
    fn pieces_and_layer_lead_to_the_root_of_the_plain_tree() {
        for blocks_per_piece in [1, 2, 4, 8] {
            for blocks in 1..40_u32 {
                let length = u64::from(blocks) * u64::from(BLOCK_LEN) - 5;
                let geometry = Geometry::new(length, BLOCK_LEN * blocks_per_piece).unwrap();
                let all = leaves(blocks);
                let hashes: Vec<_> = all
                    .chunks(blocks_per_piece as usize)
                    .enumerate()
                    .map(|(i, l)| piece_root(&geometry, i as u32, l).unwrap())
                    .collect();
                assert_eq!(
                    root_of_layer(&geometry, &hashes).unwrap(),
                    plain_root(&all),
                    "{blocks} blocks in pieces of {blocks_per_piece}"
                );
            }
        }
    }

    #[test]
    fn heights() {
        let g = |blocks: u64, per: u32| Geometry::new(blocks * 16384, 16384 * per).unwrap();
        assert_eq!((piece_height(&g(0, 4)), root_height(&g(0, 4))), (0, 0));
        assert_eq!((piece_height(&g(1, 4)), root_height(&g(1, 4))), (0, 0));
        assert_eq!((piece_height(&g(3, 8)), root_height(&g(3, 8))), (2, 2));
        assert_eq!((piece_height(&g(9, 4)), root_height(&g(9, 4))), (2, 4));
        assert_eq!((piece_height(&g(641, 1)), root_height(&g(641, 1))), (0, 10));
    }

    #[test]
    fn wrong_counts_are_refused() {
        let geometry = Geometry::new(16384 * 5, 16384 * 4).unwrap();
        assert_eq!(
            piece_root(&geometry, 1, &leaves(4)),
            Err(MerkleError::Count {
                found: 4,
                expected: 1
            })
        );
        assert_eq!(
            piece_root(&geometry, 2, &[]),
            Err(MerkleError::NoSuchPiece(2))
        );
        assert!(root_of_layer(&geometry, &leaves(1)).is_err());
        assert_eq!(
            root_of_layer(&Geometry::new(0, 16384).unwrap(), &[]),
            Ok(Digest::default())
        );
    }

    #[test]
    fn pad_hashes_are_trees_of_zeros() {
        assert_eq!(pad_hash(0), Digest::default());
        assert_eq!(pad_hash(3), plain_root(&vec![Digest::default(); 8]));
    }
}
