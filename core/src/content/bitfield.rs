//! Which pieces somebody has, in the bit order of BEP 3: piece 0 is the high bit of the first byte.

use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

/// A set of piece indexes below a fixed bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bitfield {
    bytes: Vec<u8>,
    pieces: u32,
    count: u32,
}

impl Bitfield {
    pub fn empty(pieces: u32) -> Self {
        Self {
            bytes: vec![0; pieces.div_ceil(8) as usize],
            pieces,
            count: 0,
        }
    }

    pub fn full(pieces: u32) -> Self {
        let mut bytes = vec![0xff; pieces.div_ceil(8) as usize];
        if let (Some(last), spare @ 1..) = (bytes.last_mut(), bytes_spare(pieces)) {
            *last <<= spare;
        }
        Self {
            bytes,
            pieces,
            count: pieces,
        }
    }

    /// From a wire message or a resume file; `None` if it is of the wrong length or has spare bits set.
    pub fn from_bytes(bytes: &[u8], pieces: u32) -> Option<Self> {
        if bytes.len() != pieces.div_ceil(8) as usize {
            return None;
        }
        let spare_mask = (1_u8 << bytes_spare(pieces)) - 1;
        if bytes.last().is_some_and(|last| last & spare_mask != 0) {
            return None;
        }
        let count = bytes.iter().map(|b| b.count_ones()).sum();
        Some(Self {
            bytes: bytes.to_vec(),
            pieces,
            count,
        })
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.bytes)
    }

    pub fn has(&self, piece: u32) -> bool {
        let byte = self.bytes.get(piece as usize / 8).copied().unwrap_or(0);
        piece < self.pieces && byte & (0x80 >> (piece % 8)) != 0
    }

    /// Adds a piece; `true` if it is within bounds and was not there.
    pub fn insert(&mut self, piece: u32) -> bool {
        if piece >= self.pieces || self.has(piece) {
            return false;
        }
        if let Some(byte) = self.bytes.get_mut(piece as usize / 8) {
            *byte |= 0x80 >> (piece % 8);
            self.count += 1;
        }
        true
    }

    pub fn remove(&mut self, piece: u32) {
        if self.has(piece)
            && let Some(byte) = self.bytes.get_mut(piece as usize / 8)
        {
            *byte &= !(0x80 >> (piece % 8));
            self.count -= 1;
        }
    }

    pub const fn pieces(&self) -> u32 {
        self.pieces
    }

    /// How many pieces are in the set.
    pub const fn count(&self) -> u32 {
        self.count
    }

    pub const fn is_full(&self) -> bool {
        self.count == self.pieces
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.pieces).filter(|piece| self.has(*piece))
    }
}

const fn bytes_spare(pieces: u32) -> u32 {
    (8 - pieces % 8) % 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_leaves_spare_bits_clear_and_round_trips() {
        for pieces in [0, 1, 7, 8, 9, 16, 1000] {
            let full = Bitfield::full(pieces);
            assert!(full.is_full() && full.iter().count() == pieces as usize);
            assert_eq!(Bitfield::from_bytes(full.as_bytes(), pieces), Some(full));
        }
    }

    #[test]
    fn spare_bits_and_wrong_lengths_are_refused() {
        assert_eq!(Bitfield::from_bytes(&[0b0000_0001], 7), None);
        assert_eq!(Bitfield::from_bytes(&[0, 0], 7), None);
        assert!(Bitfield::from_bytes(&[0b1000_0000], 1).is_some_and(|b| b.has(0)));
    }

    #[test]
    fn insert_and_remove_keep_count() {
        let mut b = Bitfield::empty(10);
        assert!(b.insert(9) && !b.insert(9) && !b.insert(10));
        assert_eq!((b.count(), b.as_bytes()), (1, &[0, 0b0100_0000][..]));
        b.remove(9);
        b.remove(9);
        assert_eq!(b, Bitfield::empty(10));
    }
}
