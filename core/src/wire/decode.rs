//! From a whole frame to a [`Message`]: nom parsers on complete input; payload is cut off before.

use super::extension::PeerExtensions;
use super::frame::Rope;
use super::message::{id, sub};
use super::{ClaimMessage, Message, RangeMessage, WireError};
use crate::content::{Digest, HashRequest, Run};
use crate::limits::{
    BLOCK_LEN, CLAIM_PIECES_MAX, EXTENDED_LEN_MAX, HASHES_MAX, PIECES_MAX, RANGE_BLOCKS_MAX,
    RANGE_LEN_MAX,
};
use alloc::vec::Vec;
use bytes::Bytes;
use nom::bytes::complete::take;
use nom::combinator::{all_consuming, map, map_opt, rest};
use nom::multi::many1;
use nom::number::complete::{be_u16, be_u32};
use nom::{IResult, Parser};

/// Lengths of frames, id included.
const FRAME_PIECE_HEAD: u32 = 1 + 8;
const FRAME_RANGE: u32 = 1 + 1 + 1 + 12;
const FRAME_CLAIM_HEAD: u32 = 1 + 1 + 1;
const FRAME_HASH: u32 = 1 + 48;

/// More uncles than any tree has layers.
const UNCLES_MAX: u32 = 32;

/// What is known of a frame from its first bytes.
pub(super) struct Head {
    length: u32,
    id: Option<u8>,
    extended_id: Option<u8>,
    sub_type: Option<u8>,
}

impl Head {
    /// Id, extended id, sub-type.
    pub(super) const LEN: usize = 3;

    /// `there` are as many of the frame's first bytes as have come.
    pub(super) fn new(length: u32, there: &[u8]) -> Self {
        Self {
            length,
            id: there.first().copied(),
            extended_id: there.get(1).copied(),
            sub_type: there.get(2).copied(),
        }
    }

    /// Whether a message of this kind can be that long; as much of it as can be said now.
    pub(super) fn check_length(&self) -> Result<(), WireError> {
        let Some(id) = self.id else {
            return Ok(());
        };
        let length = self.length;
        let fits = match id {
            id::CHOKE..=id::NOT_INTERESTED | id::HAVE_ALL | id::HAVE_NONE => length == 1,
            id::HAVE | id::SUGGEST | id::ALLOWED_FAST => length == 5,
            id::BITFIELD => length <= 1 + PIECES_MAX / 8,
            id::REQUEST | id::CANCEL | id::REJECT => length == 13,
            id::PIECE => (1..=BLOCK_LEN).contains(&length.wrapping_sub(FRAME_PIECE_HEAD)),
            id::PORT => length == 3,
            id::EXTENDED => self.extended_length_fits(),
            id::HASH_REQUEST | id::HASH_REJECT => length == FRAME_HASH,
            id::HASHES => {
                let hashes = length.wrapping_sub(FRAME_HASH);
                hashes.is_multiple_of(32) && hashes <= (HASHES_MAX + UNCLES_MAX) * 32
            }
            unknown => return Err(WireError::UnknownId(unknown)),
        };
        if fits {
            Ok(())
        } else {
            Err(WireError::Length { id, length })
        }
    }

    fn extended_length_fits(&self) -> bool {
        let length = self.length;
        match (self.extended_id, self.sub_type) {
            (None, _) => length >= 2,
            (Some(PeerExtensions::OUR_RANGE), None) => length >= FRAME_RANGE,
            (Some(PeerExtensions::OUR_RANGE), Some(sub::RANGE_DATA)) => {
                (1..=RANGE_LEN_MAX).contains(&length.wrapping_sub(FRAME_RANGE))
            }
            (Some(PeerExtensions::OUR_RANGE), Some(_)) => length == FRAME_RANGE,
            (Some(PeerExtensions::OUR_CLAIM), _) => {
                let pieces = length.wrapping_sub(FRAME_CLAIM_HEAD);
                pieces.is_multiple_of(4) && (1..=CLAIM_PIECES_MAX as u32).contains(&(pieces / 4))
            }
            (Some(_), _) => length <= EXTENDED_LEN_MAX,
        }
    }

    fn is_range_data(&self) -> bool {
        self.id == Some(id::EXTENDED)
            && self.extended_id == Some(PeerExtensions::OUR_RANGE)
            && self.sub_type == Some(sub::RANGE_DATA)
    }
}

/// Take the frame's bytes (all of which are there) and read them.
pub(super) fn message(head: &Head, rope: &mut Rope) -> Result<Message, WireError> {
    let Some(id) = head.id else {
        return Ok(Message::KeepAlive);
    };
    let malformed = WireError::Malformed { id };
    if id == id::PIECE {
        let front = rope.take_joined(FRAME_PIECE_HEAD as usize);
        let data = rope.take((head.length - FRAME_PIECE_HEAD) as usize);
        let (piece, begin) = whole((be_u32, be_u32), after_id(&front)).ok_or(malformed)?;
        return Ok(Message::Piece { piece, begin, data });
    }
    if head.is_range_data() {
        let front = rope.take_joined(FRAME_RANGE as usize);
        let len = head.length - FRAME_RANGE;
        let data = rope.take(len as usize);
        let run = front.get(3..).and_then(|body| whole(run, body));
        let run = run.filter(|run| len.div_ceil(BLOCK_LEN) == run.count);
        let run = run.ok_or(malformed)?;
        return Ok(Message::Range(RangeMessage::Data { run, data }));
    }
    let frame = rope.take_joined(head.length as usize);
    small(id, &frame).ok_or(malformed)
}

fn small(id: u8, frame: &Bytes) -> Option<Message> {
    let body = after_id(frame);
    Some(match id {
        id::CHOKE => Message::Choke,
        id::UNCHOKE => Message::Unchoke,
        id::INTERESTED => Message::Interested,
        id::NOT_INTERESTED => Message::NotInterested,
        id::HAVE => Message::Have(whole(be_u32, body)?),
        id::BITFIELD => Message::Bitfield(frame.slice_ref(body)),
        id::REQUEST => {
            let (piece, begin, length) = whole((be_u32, be_u32, be_u32), body)?;
            Message::Request {
                piece,
                begin,
                length,
            }
        }
        id::CANCEL => {
            let (piece, begin, length) = whole((be_u32, be_u32, be_u32), body)?;
            Message::Cancel {
                piece,
                begin,
                length,
            }
        }
        id::PORT => Message::Port(whole(be_u16, body)?),
        id::SUGGEST => Message::Suggest(whole(be_u32, body)?),
        id::HAVE_ALL => Message::HaveAll,
        id::HAVE_NONE => Message::HaveNone,
        id::REJECT => {
            let (piece, begin, length) = whole((be_u32, be_u32, be_u32), body)?;
            Message::Reject {
                piece,
                begin,
                length,
            }
        }
        id::ALLOWED_FAST => Message::AllowedFast(whole(be_u32, body)?),
        id::EXTENDED => extended(frame, body)?,
        id::HASH_REQUEST => Message::HashRequest(whole(hash_request, body)?),
        id::HASHES => {
            let (request, hashes) = whole((hash_request, rest), body)?;
            let (hashes, _) = hashes.as_chunks();
            let hashes = hashes.iter().copied().map(Digest).collect();
            Message::Hashes { request, hashes }
        }
        id::HASH_REJECT => Message::HashReject(whole(hash_request, body)?),
        _ => return None,
    })
}

fn extended(frame: &Bytes, body: &[u8]) -> Option<Message> {
    let (extended_id, body) = body.split_first()?;
    Some(match *extended_id {
        PeerExtensions::OUR_RANGE => {
            let (sub_type, body) = body.split_first()?;
            let run = whole(run, body)?;
            Message::Range(match *sub_type {
                sub::RANGE_REQUEST => RangeMessage::Request(run),
                sub::RANGE_REJECT => RangeMessage::Reject(run),
                sub::RANGE_CANCEL => RangeMessage::Cancel(run),
                _ => return None,
            })
        }
        PeerExtensions::OUR_CLAIM => {
            let (sub_type, body) = body.split_first()?;
            let pieces: Vec<u32> = whole(many1(be_u32), body)?;
            Message::Claim(match *sub_type {
                sub::CLAIM => ClaimMessage::Claim(pieces),
                sub::UNCLAIM => ClaimMessage::Unclaim(pieces),
                _ => return None,
            })
        }
        id => Message::Extended {
            id,
            payload: frame.slice_ref(body),
        },
    })
}

fn after_id(frame: &[u8]) -> &[u8] {
    frame.get(1..).unwrap_or_default()
}

/// Run a parser over the whole input.
fn whole<'a, T, P>(parser: P, input: &'a [u8]) -> Option<T>
where
    P: Parser<&'a [u8], Output = T, Error = nom::error::Error<&'a [u8]>>,
{
    let (_, value) = all_consuming(parser).parse(input).ok()?;
    Some(value)
}

fn run(input: &[u8]) -> IResult<&[u8], Run> {
    map_opt((be_u32, be_u32, be_u32), |(piece, first, count)| {
        let fits = (1..=RANGE_BLOCKS_MAX).contains(&count) && first.checked_add(count).is_some();
        fits.then_some(Run {
            piece,
            first,
            count,
        })
    })
    .parse(input)
}

fn digest(input: &[u8]) -> IResult<&[u8], Digest> {
    map_opt(take(32_usize), |bytes: &[u8]| {
        bytes.try_into().ok().map(Digest)
    })
    .parse(input)
}

fn hash_request(input: &[u8]) -> IResult<&[u8], HashRequest> {
    map(
        (digest, be_u32, be_u32, be_u32, be_u32),
        |(root, base_layer, index, count, proof_layers)| HashRequest {
            root,
            base_layer,
            index,
            count,
            proof_layers,
        },
    )
    .parse(input)
}
