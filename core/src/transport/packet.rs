//! The packets of uTP: a header of 20 bytes, a chain of extensions, payload.
//!
//! Decides: what is a packet and what is not. Never does: anything with it.
//! Spec: BEP 29. Tested here and by the fuzz body `utp_packet`.

use alloc::vec::Vec;
use nom::bytes::complete::take;
use nom::number::complete::{be_u8, be_u16, be_u32};
use nom::{IResult, Parser};

pub const HEADER_LEN: usize = 20;
const VERSION: u8 = 1;

/// Kinds of extensions.
mod extension {
    pub(super) const NONE: u8 = 0;
    pub(super) const SELECTIVE_ACK: u8 = 1;
    pub(super) const BITS: u8 = 2;
    /// Ours: fills a probe up to the size it probes. Others skip it, as they do with any they do not know.
    pub(super) const PADDING: u8 = 0x70;
    /// Ours: how many packets of the stream have come marked (RFC 3168), so far. Who sends it may be sent such packets.
    pub(super) const CONGESTION: u8 = 0x71;
}

/// Length of the `BITS` extension.
const BITS_LEN: usize = 8;

/// Kind of what follows, length.
const EXTENSION_HEAD: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Data,
    Fin,
    State,
    Reset,
    Syn,
}

/// The fixed part, without the kind of the first extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub connection_id: u16,
    pub timestamp_us: u32,
    /// What the sender measured of our last packet: its clock at arrival less ours at sending.
    pub timestamp_difference_us: u32,
    pub window_bytes: u32,
    pub seq: u16,
    pub ack: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    pub header: Header,
    /// Bit `i`, least significant first, stands for sequence number `ack + 2 + i`.
    pub selective_ack: Option<&'a [u8]>,
    pub extension_bits: Option<[u8; BITS_LEN]>,
    /// Packets that the sender of this one has received with a mark of congestion; counts on past its 32 bits.
    pub congestion: Option<u32>,
    pub payload: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketError {
    TooShort,
    Version(u8),
    Kind(u8),
    /// An extension does not end within the packet, or has not the length of its kind.
    Extension(u8),
}

/// Read a datagram.
pub fn decode(datagram: &[u8]) -> Result<Packet<'_>, PacketError> {
    let (rest, fields) = head(datagram).map_err(|_| PacketError::TooShort)?;
    let (type_version, mut next, connection_id, timestamps, window_bytes, seq, ack) = fields;
    let version = type_version & 0xf;
    if version != VERSION {
        return Err(PacketError::Version(version));
    }
    let kind = match type_version >> 4 {
        0 => Kind::Data,
        1 => Kind::Fin,
        2 => Kind::State,
        3 => Kind::Reset,
        4 => Kind::Syn,
        other => return Err(PacketError::Kind(other)),
    };
    let header = Header {
        kind,
        connection_id,
        timestamp_us: timestamps.0,
        timestamp_difference_us: timestamps.1,
        window_bytes,
        seq,
        ack,
    };
    let mut packet = Packet {
        header,
        selective_ack: None,
        extension_bits: None,
        congestion: None,
        payload: rest,
    };
    while next != extension::NONE {
        let this = next;
        let bad = PacketError::Extension(this);
        let (rest, (following, body)) = one_extension(packet.payload).map_err(|_| bad)?;
        packet.payload = rest;
        next = following;
        match this {
            // BEP 29 has whole words of 32 bits; libtorrent sends as many bytes as it needs.
            extension::SELECTIVE_ACK => packet.selective_ack = Some(body),
            extension::BITS => {
                packet.extension_bits = Some(body.try_into().map_err(|_| bad)?);
            }
            extension::CONGESTION => {
                let count = body.try_into().map_err(|_| bad)?;
                packet.congestion = Some(u32::from_be_bytes(count));
            }
            _ => {}
        }
    }
    Ok(packet)
}

type Fields = (u8, u8, u16, (u32, u32), u32, u16, u16);

fn head(input: &[u8]) -> IResult<&[u8], Fields> {
    let timestamps = (be_u32, be_u32);
    (be_u8, be_u8, be_u16, timestamps, be_u32, be_u16, be_u16).parse(input)
}

fn one_extension(input: &[u8]) -> IResult<&[u8], (u8, &[u8])> {
    let (input, (following, len)) = (be_u8, be_u8).parse(input)?;
    let (input, body) = take(len).parse(input)?;
    Ok((input, (following, body)))
}

impl Packet<'_> {
    /// Write the packet as it would be read: extensions that mean nothing to us are gone.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let sack = self
            .selective_ack
            .map(|bytes| (extension::SELECTIVE_ACK, bytes));
        let bits = self
            .extension_bits
            .as_ref()
            .map(|bytes| (extension::BITS, bytes.as_slice()));
        let count = self.congestion.map(u32::to_be_bytes);
        let congestion = count
            .as_ref()
            .map(|bytes| (extension::CONGESTION, bytes.as_slice()));
        let chain = || [sack, bits, congestion].into_iter().flatten();
        let kinds = chain().map(|(kind, _)| kind);
        let mut kinds = kinds.chain([extension::NONE]);
        self.header
            .encode(kinds.next().unwrap_or(extension::NONE), out);
        for ((_, body), following) in chain().zip(kinds) {
            put_extension(following, body, out);
        }
        out.extend_from_slice(self.payload);
    }
}

fn put_extension(following: u8, body: &[u8], out: &mut Vec<u8>) {
    let len = u8::try_from(body.len()).unwrap_or(u8::MAX);
    out.extend_from_slice(&[following, len]);
    out.extend_from_slice(body.get(..usize::from(len)).unwrap_or_default());
}

impl Header {
    /// The 20 bytes, with the kind of the extension that follows them.
    fn encode(&self, first_extension: u8, out: &mut Vec<u8>) {
        let kind: u8 = match self.kind {
            Kind::Data => 0,
            Kind::Fin => 1,
            Kind::State => 2,
            Kind::Reset => 3,
            Kind::Syn => 4,
        };
        out.extend_from_slice(&[kind << 4 | VERSION, first_extension]);
        out.extend_from_slice(&self.connection_id.to_be_bytes());
        out.extend_from_slice(&self.timestamp_us.to_be_bytes());
        out.extend_from_slice(&self.timestamp_difference_us.to_be_bytes());
        out.extend_from_slice(&self.window_bytes.to_be_bytes());
        out.extend_from_slice(&self.seq.to_be_bytes());
        out.extend_from_slice(&self.ack.to_be_bytes());
    }

    /// The header alone; the caller appends payload.
    pub(super) fn encode_plain(&self, out: &mut Vec<u8>) {
        self.encode(extension::NONE, out);
    }

    /// The header, what `write` appends as a selective acknowledgement if that is anything, and the count of marks if
    /// there is to be one.
    pub(super) fn encode_state(
        &self,
        write: impl FnOnce(&mut Vec<u8>),
        congestion: Option<u32>,
        out: &mut Vec<u8>,
    ) {
        // Where the kind of the next extension goes.
        let mut link = out.len() + 1;
        let has_selective = self.encode_selective(write, out);
        if has_selective {
            link += HEADER_LEN - 1;
        }
        if let (Some(count), Some(place)) = (congestion, out.get_mut(link)) {
            *place = extension::CONGESTION;
            put_extension(extension::NONE, &count.to_be_bytes(), out);
        }
    }

    /// Whether there was anything to append.
    fn encode_selective(&self, write: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) -> bool {
        let start = out.len();
        self.encode(extension::SELECTIVE_ACK, out);
        out.extend_from_slice(&[extension::NONE, 0]);
        let body = out.len();
        write(out);
        let len = u8::try_from(out.len() - body).unwrap_or(0);
        if len == 0 {
            out.truncate(start);
            self.encode_plain(out);
            return false;
        }
        if let Some(place) = out.get_mut(body - 1) {
            *place = len;
        }
        true
    }

    /// The header and `padding` bytes of extensions that nobody reads (not 1, which no extension has).
    pub(super) fn encode_padded(&self, padding: usize, out: &mut Vec<u8>) {
        const LONGEST: usize = EXTENSION_HEAD + u8::MAX as usize;
        if padding < EXTENSION_HEAD {
            return self.encode_plain(out);
        }
        self.encode(extension::PADDING, out);
        let mut left = padding;
        while left >= EXTENSION_HEAD {
            let mut this = left.min(LONGEST);
            if left - this == 1 {
                this -= 1;
            }
            left -= this;
            let is_last = left < EXTENSION_HEAD;
            let following = if is_last {
                extension::NONE
            } else {
                extension::PADDING
            };
            let len = this - EXTENSION_HEAD;
            out.extend_from_slice(&[following, len as u8]);
            out.resize(out.len() + len, 0);
        }
    }
}

/// Sequence numbers have 16 bits on the wire; inside they count on. The number nearest to `near` that ends like this.
pub(super) fn number_near(near: u64, seq: u16) -> u64 {
    let step = seq.wrapping_sub(near as u16) as i16;
    near.wrapping_add_signed(i64::from(step))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            kind: Kind::State,
            connection_id: 0x1234,
            timestamp_us: 5,
            timestamp_difference_us: 6,
            window_bytes: 7,
            seq: 8,
            ack: 9,
        }
    }

    #[test]
    fn a_packet_is_read_as_written() {
        let packet = Packet {
            header: header(),
            selective_ack: Some(&[1, 2, 3, 4]),
            extension_bits: Some([9; 8]),
            congestion: Some(0x0102_0304),
            payload: b"payload",
        };
        let mut bytes = Vec::new();
        packet.encode(&mut bytes);
        assert_eq!(bytes[..4], [0x21, 1, 0x12, 0x34]);
        assert_eq!(decode(&bytes), Ok(packet));
        for cut in 0..HEADER_LEN + 6 + 10 + 6 {
            assert!(decode(&bytes[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_state_says_what_there_is_to_say() {
        for selective in [None, Some(&[5, 6, 7, 8][..])] {
            for congestion in [None, Some(77)] {
                let mut bytes = Vec::new();
                let write = |out: &mut Vec<u8>| out.extend(selective.unwrap_or_default());
                header().encode_state(write, congestion, &mut bytes);
                let packet = decode(&bytes).unwrap();
                assert_eq!(
                    (packet.selective_ack, packet.congestion, packet.payload),
                    (selective, congestion, &b""[..])
                );
            }
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        let mut bytes = Vec::new();
        header().encode_plain(&mut bytes);
        let with = |at: usize, value: u8, more: &[u8]| {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            bytes.extend_from_slice(more);
            decode(&bytes).map(|p| p.payload.len())
        };
        assert_eq!(with(0, 0x22, b""), Err(PacketError::Version(2)));
        assert_eq!(with(0, 0x51, b""), Err(PacketError::Kind(5)));
        assert_eq!(with(1, 1, b""), Err(PacketError::Extension(1)));
        assert_eq!(with(1, 1, &[0, 3, 1, 1]), Err(PacketError::Extension(1)));
        assert_eq!(
            with(1, 1, &[0, 3, 1, 1, 1]),
            Ok(0),
            "as libtorrent sends it"
        );
        assert_eq!(
            with(1, 2, &[0, 4, 1, 1, 1, 1]),
            Err(PacketError::Extension(2))
        );
        assert_eq!(
            with(1, 0x71, &[0, 3, 1, 1, 1]),
            Err(PacketError::Extension(0x71))
        );
        assert_eq!(with(1, 3, &[0, 4, 1, 1, 1]), Err(PacketError::Extension(3)));
        assert_eq!(
            with(1, 3, &[7, 1, 1, 0, 0, 5]),
            Ok(1),
            "unknown ones are skipped"
        );
    }

    #[test]
    fn padding_has_the_length_asked_for() {
        for padding in (0..=1000).filter(|p| *p != 1) {
            let mut bytes = Vec::new();
            header().encode_padded(padding, &mut bytes);
            assert_eq!(bytes.len(), HEADER_LEN + padding);
            bytes.extend_from_slice(b"abc");
            let packet = decode(&bytes).unwrap();
            assert_eq!((packet.payload, packet.header), (&b"abc"[..], header()));
        }
    }

    #[test]
    fn numbers_count_on_where_sequence_numbers_wrap() {
        assert_eq!(number_near(0x1_fffe, 1), 0x2_0001);
        assert_eq!(number_near(0x2_0001, 0xfffe), 0x1_fffe);
        assert_eq!(number_near(0x1_0000, 0), 0x1_0000);
    }
}
