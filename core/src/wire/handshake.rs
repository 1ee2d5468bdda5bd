//! The first 68 bytes of a connection (BEP 3; reserved bits of BEP 6 and 10; truncated hash of BEP 52).

use super::WireError;
use bytes::Bytes;
use core::fmt;

pub const HANDSHAKE_LEN: usize = 68;

const PREFIX: &[u8; 20] = b"\x13BitTorrent protocol";

/// Reserved byte 5: extension protocol (BEP 10).
const EXTENSION_BIT: u8 = 0x10;
/// Reserved byte 7: fast extension (BEP 6).
const FAST_BIT: u8 = 0x04;

/// A name a peer gives itself, new in each run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub [u8; 20]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    pub reserved: [u8; 8],
    /// The first 20 bytes of the info-hash.
    pub info_hash: [u8; 20],
    pub peer_id: PeerId,
}

/// Takes the handshake from the front of a stream, in whatever chunks it comes.
#[derive(Clone, Debug)]
pub struct HandshakeReader {
    bytes: [u8; HANDSHAKE_LEN],
    filled: usize,
}

impl PeerId {
    /// `-DV0001-` and twelve random bytes.
    pub fn new(random: [u8; 12]) -> Self {
        let mut id = [0; 20];
        id[..8].copy_from_slice(b"-DV0001-");
        id[8..].copy_from_slice(&random);
        Self(id)
    }
}

impl Handshake {
    /// Ours: with fast extension and extension protocol.
    pub const fn new(info_hash: [u8; 20], peer_id: PeerId) -> Self {
        Self {
            reserved: [0, 0, 0, 0, 0, EXTENSION_BIT, 0, FAST_BIT],
            info_hash,
            peer_id,
        }
    }

    pub const fn has_extensions(&self) -> bool {
        let [_, _, _, _, _, byte, _, _] = self.reserved;
        byte & EXTENSION_BIT != 0
    }

    pub const fn has_fast(&self) -> bool {
        let [_, _, _, _, _, _, _, byte] = self.reserved;
        byte & FAST_BIT != 0
    }

    pub fn encode(&self) -> Bytes {
        Bytes::from(
            [
                &PREFIX[..],
                &self.reserved,
                &self.info_hash,
                &self.peer_id.0,
            ]
            .concat(),
        )
    }
}

impl Default for HandshakeReader {
    fn default() -> Self {
        Self {
            bytes: [0; HANDSHAKE_LEN],
            filled: 0,
        }
    }
}

impl HandshakeReader {
    /// Take what belongs to the handshake from `input`; the handshake once it is whole. What is left in
    /// `input` then belongs to the [`super::Framer`].
    ///
    /// # Errors
    /// At the first byte that differs from a BitTorrent handshake.
    pub fn read(&mut self, input: &mut Bytes) -> Result<Option<Handshake>, WireError> {
        let open = self.bytes.get_mut(self.filled..).unwrap_or_default();
        let part = input.split_to(input.len().min(open.len()));
        open.iter_mut()
            .zip(&part)
            .for_each(|(to, from)| *to = *from);
        self.filled += part.len();
        let prefix = self.bytes.iter().take(self.filled).zip(PREFIX);
        if prefix
            .into_iter()
            .any(|(found, expected)| found != expected)
        {
            return Err(WireError::NotBitTorrent);
        }
        Ok((self.filled == HANDSHAKE_LEN).then(|| self.handshake()))
    }

    fn handshake(&self) -> Handshake {
        let [mut reserved, mut info_hash, mut peer_id] = [[0; 20]; 3];
        reserved[..8].copy_from_slice(&self.bytes[20..28]);
        info_hash.copy_from_slice(&self.bytes[28..48]);
        peer_id.copy_from_slice(&self.bytes[48..]);
        let [a, b, c, d, e, f, g, h, ..] = reserved;
        Handshake {
            reserved: [a, b, c, d, e, f, g, h],
            info_hash,
            peer_id: PeerId(peer_id),
        }
    }
}

/// The client's letters as text, the rest in hex.
impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (client, rest) = self.0.split_at(8);
        write!(f, "{}", client.escape_ascii())?;
        rest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
