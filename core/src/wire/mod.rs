//! Peer messages: framing, decode, encode, handshake, extensions (BEP 3, 6, 9, 10, 52).
//!
//! Decides: what bytes mean, and which are faults of the peer. [`Framer`] cuts the stream: length first,
//! against the limit of its kind, then *complete* parsers on a whole frame. Payload of pieces and ranges is
//! never copied: it leaves as slices of the chunks the socket gave, and is sent as slices too.
//! Never does: state of a conversation (who may send what when is [`crate::session`]'s).
//! Invariants: at most one frame is held unparsed; `encode(decode(x)) == x` for every accepted frame; a
//! message that is accepted has its right length and its counts within [`crate::limits`].
//! Spec: BEP 3, 6, 9, 10, 52; our own extension is written down at [`RangeMessage`] and [`ClaimMessage`].
//! Tests: `core/tests/wire_vectors.rs` (golden), `core/tests/wire_chunks.rs`, `fuzz/src/wire.rs`.

mod decode;
mod encode;
mod extension;
mod frame;
mod handshake;
mod message;
mod metadata;

pub use encode::{Frame, encode, encode_into};
pub use extension::{EXTENSION_HANDSHAKE, ExtensionHandshake, PeerExtensions};
pub use frame::Framer;
pub use handshake::{HANDSHAKE_LEN, Handshake, HandshakeReader, PeerId};
pub use message::{ClaimMessage, Message, RangeMessage};
pub use metadata::{METADATA_PART_LEN, MetadataMessage};

use crate::content::bencode::BencodeError;
use core::fmt;

/// A fault of the peer. The stream cannot be used any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WireError {
    /// The first bytes are no BitTorrent handshake.
    NotBitTorrent,
    /// A frame of this length.
    TooLong(u32),
    /// No message has this id.
    UnknownId(u8),
    /// A message of this kind cannot have this length.
    Length { id: u8, length: u32 },
    /// The right length, but contents that mean nothing.
    Malformed { id: u8 },
    /// An extension message that should be bencode and is not.
    Bencode(BencodeError),
}

impl From<BencodeError> for WireError {
    fn from(error: BencodeError) -> Self {
        Self::Bencode(error)
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBitTorrent => f.write_str("not a BitTorrent handshake"),
            Self::TooLong(length) => write!(f, "message of {length} bytes is too long"),
            Self::UnknownId(id) => write!(f, "unknown message id {id}"),
            Self::Length { id, length } => {
                write!(f, "message {id} cannot have a length of {length}")
            }
            Self::Malformed { id } => write!(f, "malformed message {id}"),
            Self::Bencode(error) => write!(f, "malformed extension message: {error}"),
        }
    }
}
