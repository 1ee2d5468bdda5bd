//! Which of the packets after a gap are there: the window of a selective acknowledgement, either side.

use crate::limits::UTP_REORDER_PACKETS;
use alloc::vec::Vec;

const BITS: usize = u64::BITS as usize;
const WORDS: usize = UTP_REORDER_PACKETS / BITS;

/// Bit `i` stands for the packet `i + 1` after the first that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bitmap([u64; WORDS]);

impl Bitmap {
    /// A selective acknowledgement is told in words of 32 bits (BEP 29).
    const TOLD_BYTES: usize = 4;

    pub(super) const fn new() -> Self {
        Self([0; WORDS])
    }

    /// From the bytes of a selective acknowledgement; bits past our window are nothing.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let mut out = Self::new();
        for (word, part) in out.0.iter_mut().zip(bytes.chunks(BITS / 8)) {
            let mut le = [0; BITS / 8];
            for (to, from) in le.iter_mut().zip(part) {
                *to = *from;
            }
            *word = u64::from_le_bytes(le);
        }
        out
    }

    /// As few bytes as tell every set bit; none if there are none.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let words = self.0.iter().rposition(|w| *w != 0).map_or(0, |at| at + 1);
        let start = out.len();
        for word in self.0.iter().take(words) {
            out.extend_from_slice(&word.to_le_bytes());
        }
        let used = out
            .iter()
            .skip(start)
            .rposition(|b| *b != 0)
            .map_or(0, |at| at + 1);
        out.truncate(start + used.next_multiple_of(Self::TOLD_BYTES));
    }

    pub(super) fn set(&mut self, bit: usize) {
        if let Some(word) = self.0.get_mut(bit / BITS) {
            *word |= 1 << (bit % BITS);
        }
    }

    pub(super) fn is_set(&self, bit: usize) -> bool {
        self.0
            .get(bit / BITS)
            .is_some_and(|word| word >> (bit % BITS) & 1 == 1)
    }

    /// The window moves on by so many packets.
    pub(super) fn advance(&mut self, by: usize) {
        let (words, bits) = (by / BITS, by % BITS);
        for at in 0..WORDS {
            let word = |offset| self.0.get(at + words + offset).copied().unwrap_or(0);
            let (low, high) = (word(0), word(1));
            let moved = if bits == 0 {
                low
            } else {
                low >> bits | high << (BITS - bits)
            };
            if let Some(to) = self.0.get_mut(at) {
                *to = moved;
            }
        }
    }

    /// The bits that are set here and not in `other`, lowest first.
    pub(super) fn without<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = usize> + 'a {
        let words = self.0.iter().zip(&other.0).map(|(a, b)| a & !b);
        words.enumerate().flat_map(|(at, mut word)| {
            core::iter::from_fn(move || {
                (word != 0).then(|| {
                    let bit = word.trailing_zeros() as usize;
                    word &= word - 1;
                    at * BITS + bit
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_moves_and_is_told() {
        let mut map = Bitmap::new();
        for bit in [0, 5, 63, 64, 130, 1023, 1024, 5000] {
            map.set(bit);
        }
        let bits = |map: &Bitmap| map.without(&Bitmap::new()).collect::<Vec<_>>();
        assert_eq!(bits(&map), [0, 5, 63, 64, 130, 1023]);
        let mut bytes = Vec::new();
        map.write(&mut bytes);
        assert_eq!(bytes.len(), 128);
        assert_eq!(Bitmap::from_bytes(&bytes), map);
        map.advance(1);
        assert_eq!(bits(&map), [4, 62, 63, 129, 1022]);
        map.advance(64);
        assert_eq!(bits(&map), [65, 958]);
        map.advance(900);
        bytes.clear();
        map.write(&mut bytes);
        assert_eq!((bits(&map), bytes.len()), ([58].to_vec(), 8));
        assert!(map.is_set(58) && !map.is_set(57) && !map.is_set(9999));
        map.advance(usize::MAX / 2);
        bytes.clear();
        map.write(&mut bytes);
        assert!(map == Bitmap::new() && bytes.is_empty());
    }

    #[test]
    fn words_of_a_selective_ack_are_of_32_bits() {
        let mut map = Bitmap::new();
        map.set(3);
        let mut bytes = b"x".to_vec();
        map.write(&mut bytes);
        assert_eq!(bytes, [b'x', 8, 0, 0, 0]);
    }
}
