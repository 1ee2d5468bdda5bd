//! The messages peers exchange after the handshake, as owned and checked values.

use crate::content::{Digest, HashRequest, Run};
use alloc::vec::Vec;
use bytes::Bytes;

/// A peer message. Payload (`data`) is in as many chunks as it came, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    KeepAlive,
    Choke,
    Unchoke,
    Interested,
    NotInterested,
    /// The sender has this piece.
    Have(u32),
    /// Pieces the sender has: piece 0 is the high bit of the first byte. Its length is not checked here.
    Bitfield(Bytes),
    /// `begin` and `length` in bytes within the piece. Any value is accepted here; what cannot be served is
    /// rejected, not a fault.
    Request {
        piece: u32,
        begin: u32,
        length: u32,
    },
    /// 1 byte to 16 KiB of data.
    Piece {
        piece: u32,
        begin: u32,
        data: Vec<Bytes>,
    },
    Cancel {
        piece: u32,
        begin: u32,
        length: u32,
    },
    /// UDP port of the sender's DHT node (BEP 5).
    Port(u16),
    /// BEP 6.
    Suggest(u32),
    HaveAll,
    HaveNone,
    /// The request of the same numbers will not be answered.
    Reject {
        piece: u32,
        begin: u32,
        length: u32,
    },
    AllowedFast(u32),
    /// BEP 10: the handshake ([`super::EXTENSION_HANDSHAKE`]), or an extension this crate does not type. In
    /// a decoded message `id` is ours, in one to be encoded it is the peer's.
    Extended {
        id: u8,
        payload: Bytes,
    },
    /// BEP 52.
    HashRequest(HashRequest),
    /// The range asked for, then its uncles. Their number is not checked here.
    Hashes {
        request: HashRequest,
        hashes: Vec<Digest>,
    },
    HashReject(HashRequest),
    Range(RangeMessage),
    Claim(ClaimMessage),
}

/// Our extension `dv_range`: verified runs of blocks in one message instead of many.
///
/// Body after the extended id, big-endian: sub-type (1 byte), piece (4), first block in the piece (4), number
/// of blocks (4), and for data the bytes themselves. Sub-types: 0 request, 1 data, 2 reject, 3 cancel.
/// A run has 1 to `RANGE_BLOCKS_MAX` blocks and lies within one piece; all of its blocks are full, but the
/// last of the file. As with blocks under BEP 6, each request is answered by exactly one data or reject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangeMessage {
    Request(Run),
    Data { run: Run, data: Vec<Bytes> },
    Reject(Run),
    Cancel(Run),
}

/// Our extension `dv_claim`: who fetches which pieces from a scarce source (an origin, a sole seed), so that
/// it gives each piece only once.
///
/// Body after the extended id: sub-type (1 byte; 0 claim, 1 unclaim), then 1 to `CLAIM_PIECES_MAX` piece
/// indexes (4 bytes each, big-endian).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimMessage {
    /// I am fetching these pieces from a scarce source; do not fetch them too.
    Claim(Vec<u32>),
    /// I do not fetch them any more (and did not get them; a `have` says that I did).
    Unclaim(Vec<u32>),
}

/// Message ids (BEP 3, 5, 6, 10, 52).
pub(super) mod id {
    pub(in crate::wire) const CHOKE: u8 = 0;
    pub(in crate::wire) const UNCHOKE: u8 = 1;
    pub(in crate::wire) const INTERESTED: u8 = 2;
    pub(in crate::wire) const NOT_INTERESTED: u8 = 3;
    pub(in crate::wire) const HAVE: u8 = 4;
    pub(in crate::wire) const BITFIELD: u8 = 5;
    pub(in crate::wire) const REQUEST: u8 = 6;
    pub(in crate::wire) const PIECE: u8 = 7;
    pub(in crate::wire) const CANCEL: u8 = 8;
    pub(in crate::wire) const PORT: u8 = 9;
    pub(in crate::wire) const SUGGEST: u8 = 13;
    pub(in crate::wire) const HAVE_ALL: u8 = 14;
    pub(in crate::wire) const HAVE_NONE: u8 = 15;
    pub(in crate::wire) const REJECT: u8 = 16;
    pub(in crate::wire) const ALLOWED_FAST: u8 = 17;
    pub(in crate::wire) const EXTENDED: u8 = 20;
    pub(in crate::wire) const HASH_REQUEST: u8 = 21;
    pub(in crate::wire) const HASHES: u8 = 22;
    pub(in crate::wire) const HASH_REJECT: u8 = 23;
}

/// Sub-types of our extensions.
pub(super) mod sub {
    pub(in crate::wire) const RANGE_REQUEST: u8 = 0;
    pub(in crate::wire) const RANGE_DATA: u8 = 1;
    pub(in crate::wire) const RANGE_REJECT: u8 = 2;
    pub(in crate::wire) const RANGE_CANCEL: u8 = 3;
    pub(in crate::wire) const CLAIM: u8 = 0;
    pub(in crate::wire) const UNCLAIM: u8 = 1;
}
