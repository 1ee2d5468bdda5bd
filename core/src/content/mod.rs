//! What a file *is*: its cut into pieces and blocks, its SHA-256 Merkle tree, its metainfo file.
//!
//! Spec: BEP 52 (BitTorrent v2). Content is named by its length and the root of its Merkle tree, so
//! any block of it can be proved against 32 bytes.

mod bitfield;
pub mod bencode;
mod geometry;
pub mod hash;
pub mod merkle;
mod metainfo;

pub use bitfield::Bitfield;
pub use geometry::{Block, Geometry, GeometryError, Run};
pub use hash::{Digest, FlatHash, HashDone, HashJob};
pub use merkle::{HashRequest, LayerBuilder, MerkleError, PieceLayer, TreeBuilder, piece_root};
pub use metainfo::{InfoHash, Metainfo, MetainfoError};

/// The identity of content: two hosts that hash the same file get the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentId {
    pub length: u64,
    pub root: Digest,
}
