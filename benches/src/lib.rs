//! What the benches share: bytes to move, and a way to move them in pieces.
//!
//! Decides: nothing. Measures nothing itself: see `README.md` of this folder for what is measured how.

use bytes::Bytes;
use dovetail_core::rng::Rng;

pub const KIB: usize = 1024;
pub const MIB: usize = 1024 * 1024;

/// What a full read of a busy socket returns, more or less.
pub const SOCKET_READ: usize = 256 * KIB;

/// Bytes that do not compress and do not repeat, the same each time.
pub fn noise(len: usize) -> Bytes {
    let mut rng = Rng::from_u64(len as u64);
    let words = len.div_ceil(8);
    let mut bytes = Vec::with_capacity(words * 8);
    for _ in 0..words {
        bytes.extend_from_slice(&rng.next_u64().to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

/// Cut into parts of `len` bytes, the last perhaps shorter.
pub fn cut(bytes: &Bytes, len: usize) -> Vec<Bytes> {
    let starts = (0..bytes.len()).step_by(len.max(1));
    starts
        .map(|start| bytes.slice(start..bytes.len().min(start + len)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_its_length_and_parts_add_up() {
        let bytes = noise(1000);
        assert_eq!(bytes.len(), 1000);
        let parts = cut(&bytes, 300);
        assert_eq!(
            parts.iter().map(Bytes::len).collect::<Vec<_>>(),
            [300, 300, 300, 100]
        );
        assert_eq!(parts.concat(), bytes);
    }
}
