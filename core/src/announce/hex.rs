//! Hashes and ids as lower-case hex, in JSON and in queries.
//!
//! Tested here.

use crate::content::{Digest, InfoHash};
use alloc::string::String;
use core::fmt::Write as _;
use serde::de::{Error, Visitor};
use serde::{Deserializer, Serializer};

/// Lower-case hex of `bytes`.
pub fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// Exactly `N` bytes from `2 * N` hex digits of either case; `None` for anything else.
pub fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair
            .iter()
            .try_fold(0_u8, |value, digit| Some(value << 4 | nibble(*digit)?))?;
    }
    Some(out)
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

struct Hex<const N: usize>;

impl<const N: usize> Visitor<'_> for Hex<N> {
    type Value = [u8; N];

    fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} hex digits", N * 2)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<[u8; N], E> {
        decode(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

/// `#[serde(with = "hex::id")]` for a 20-byte id.
pub mod id {
    use super::*;

    pub fn serialize<S: Serializer>(id: &[u8; 20], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&encode(id))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 20], D::Error> {
        from.deserialize_str(Hex::<20>)
    }
}

/// `#[serde(with = "hex::digest")]` for a SHA-256 value.
pub mod digest {
    use super::*;

    pub fn serialize<S: Serializer>(digest: &Digest, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&encode(&digest.0))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
        from.deserialize_str(Hex::<32>).map(Digest)
    }
}

/// `#[serde(with = "hex::info_hash")]` for an info-hash, not truncated.
pub mod info_hash {
    use super::*;

    pub fn serialize<S: Serializer>(hash: &InfoHash, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&encode(&hash.0))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<InfoHash, D::Error> {
        from.deserialize_str(Hex::<32>).map(InfoHash)
    }
}

/// `#[serde(with = "hex::maybe_digest")]` for a SHA-256 value that may be missing or null.
pub mod maybe_digest {
    use super::*;
    use serde::Deserialize as _;

    pub fn serialize<S: Serializer>(digest: &Option<Digest>, to: S) -> Result<S::Ok, S::Error> {
        match digest {
            Some(digest) => digest::serialize(digest, to),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Digest>, D::Error> {
        let Some(text) = Option::<String>::deserialize(from)? else {
            return Ok(None);
        };
        Hex::<32>.visit_str(&text).map(|bytes| Some(Digest(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trip_and_refusals() {
        assert_eq!(encode(&[0x00, 0xAB, 0x7f]), "00ab7f");
        assert_eq!(decode::<3>("00aB7F"), Some([0x00, 0xAB, 0x7f]));
        for bad in ["", "00ab7", "00ab7f0", "00ab7g", "00ab7é", "+0ab7f"] {
            assert_eq!(decode::<3>(bad), None, "{bad}");
        }
    }
}
