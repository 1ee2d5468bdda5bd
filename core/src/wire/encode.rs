//! From a [`Message`] to bytes: the head is written, payload is passed on in its chunks.

use super::extension::PeerExtensions;
use super::message::{id, sub};
use super::{ClaimMessage, Message, RangeMessage};
use crate::content::{HashRequest, Run};
use alloc::vec::Vec;
use bytes::Bytes;

/// An encoded message: send `head`, then the chunks of `payload`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub head: Bytes,
    pub payload: Vec<Bytes>,
}

impl Frame {
    /// Bytes on the wire.
    pub fn len(&self) -> usize {
        self.head.len() + len(&self.payload)
    }

    pub const fn is_empty(&self) -> bool {
        self.head.is_empty()
    }
}

/// Encode a message for a peer that listed these extensions; `None` if it is a message of an extension the
/// peer did not list (to send it would be a fault).
pub fn encode(message: &Message, peer: &PeerExtensions) -> Option<Frame> {
    let mut head = Vec::with_capacity(32);
    let payload = encode_into(message, peer, &mut head)?.to_vec();
    let head = head.into();
    Some(Frame { head, payload })
}

/// As [`encode`], with the head appended to `out` (several small messages in one buffer); gives the payload
/// that must follow at once. At `None` nothing was written.
pub fn encode_into<'m>(
    message: &'m Message,
    peer: &PeerExtensions,
    out: &mut Vec<u8>,
) -> Option<&'m [Bytes]> {
    let mut payload: &[Bytes] = &[];
    match message {
        Message::KeepAlive => out.extend_from_slice(&[0; 4]),
        Message::Choke => bare(out, id::CHOKE),
        Message::Unchoke => bare(out, id::UNCHOKE),
        Message::Interested => bare(out, id::INTERESTED),
        Message::NotInterested => bare(out, id::NOT_INTERESTED),
        Message::Have(piece) => words(out, id::HAVE, &[*piece]),
        Message::Bitfield(bits) => {
            start(out, id::BITFIELD, bits.len());
            out.extend_from_slice(bits);
        }
        Message::Request {
            piece,
            begin,
            length,
        } => words(out, id::REQUEST, &[*piece, *begin, *length]),
        Message::Piece { piece, begin, data } => {
            start(out, id::PIECE, 8 + len(data));
            put_words(out, &[*piece, *begin]);
            payload = data;
        }
        Message::Cancel {
            piece,
            begin,
            length,
        } => words(out, id::CANCEL, &[*piece, *begin, *length]),
        Message::Port(port) => {
            start(out, id::PORT, 2);
            out.extend_from_slice(&port.to_be_bytes());
        }
        Message::Suggest(piece) => words(out, id::SUGGEST, &[*piece]),
        Message::HaveAll => bare(out, id::HAVE_ALL),
        Message::HaveNone => bare(out, id::HAVE_NONE),
        Message::Reject {
            piece,
            begin,
            length,
        } => words(out, id::REJECT, &[*piece, *begin, *length]),
        Message::AllowedFast(piece) => words(out, id::ALLOWED_FAST, &[*piece]),
        Message::Extended { id, payload: body } => {
            start(out, id::EXTENDED, 1 + body.len());
            out.push(*id);
            out.extend_from_slice(body);
        }
        Message::HashRequest(request) => hashes(out, id::HASH_REQUEST, request, 0),
        Message::Hashes {
            request,
            hashes: list,
        } => {
            hashes(out, id::HASHES, request, 32 * list.len());
            list.iter().for_each(|hash| out.extend_from_slice(&hash.0));
        }
        Message::HashReject(request) => hashes(out, id::HASH_REJECT, request, 0),
        Message::Range(message) => payload = range(out, peer.range?, message),
        Message::Claim(message) => claim(out, peer.claim?, message),
    }
    Some(payload)
}

fn range<'m>(out: &mut Vec<u8>, extended_id: u8, message: &'m RangeMessage) -> &'m [Bytes] {
    let (sub_type, run, data): (u8, &Run, &[Bytes]) = match message {
        RangeMessage::Request(run) => (sub::RANGE_REQUEST, run, &[]),
        RangeMessage::Data { run, data } => (sub::RANGE_DATA, run, data),
        RangeMessage::Reject(run) => (sub::RANGE_REJECT, run, &[]),
        RangeMessage::Cancel(run) => (sub::RANGE_CANCEL, run, &[]),
    };
    start(out, id::EXTENDED, 2 + 12 + len(data));
    out.extend_from_slice(&[extended_id, sub_type]);
    put_words(out, &[run.piece, run.first, run.count]);
    data
}

fn claim(out: &mut Vec<u8>, extended_id: u8, message: &ClaimMessage) {
    let (sub_type, pieces) = match message {
        ClaimMessage::Claim(pieces) => (sub::CLAIM, pieces),
        ClaimMessage::Unclaim(pieces) => (sub::UNCLAIM, pieces),
    };
    start(out, id::EXTENDED, 2 + 4 * pieces.len());
    out.extend_from_slice(&[extended_id, sub_type]);
    put_words(out, pieces);
}

fn hashes(out: &mut Vec<u8>, id: u8, request: &HashRequest, more: usize) {
    start(out, id, 48 + more);
    out.extend_from_slice(&request.root.0);
    put_words(
        out,
        &[
            request.base_layer,
            request.index,
            request.count,
            request.proof_layers,
        ],
    );
}

fn bare(out: &mut Vec<u8>, id: u8) {
    start(out, id, 0);
}

fn words(out: &mut Vec<u8>, id: u8, words: &[u32]) {
    start(out, id, 4 * words.len());
    put_words(out, words);
}

/// Length and id of a message with a body this long. Messages are bounded by `FRAME_LEN_MAX`.
fn start(out: &mut Vec<u8>, id: u8, body_len: usize) {
    let length = u32::try_from(1 + body_len).unwrap_or(u32::MAX);
    debug_assert!(length <= crate::limits::FRAME_LEN_MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.push(id);
}

fn put_words(out: &mut Vec<u8>, words: &[u32]) {
    for word in words {
        out.extend_from_slice(&word.to_be_bytes());
    }
}

fn len(chunks: &[Bytes]) -> usize {
    chunks.iter().map(Bytes::len).sum()
}
