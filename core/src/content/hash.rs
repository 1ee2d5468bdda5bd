//! Hash work as data: the core makes a [`HashJob`], the shell picks the thread, [`HashJob::run`] is pure.

use crate::limits::BLOCK_LEN;
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;
use sha2::{Digest as _, Sha256};

/// A SHA-256 value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

/// A running SHA-256 over a whole file, fed piece by piece in order.
#[derive(Clone, Default)]
pub struct FlatHash(Sha256);

/// Bytes of one piece (in order, in as many chunks as they came), to be hashed.
#[derive(Clone, Debug)]
pub struct HashJob {
    pub chunks: Vec<Bytes>,
    /// Cut the chunks into 16 KiB blocks and give their leaf hashes.
    pub leaves: bool,
    /// Also feed the chunks to this running hash of the whole file.
    pub flat: Option<FlatHash>,
}

/// The answer to a [`HashJob`].
#[derive(Clone, Debug, Default)]
pub struct HashDone {
    /// SHA-256 of each 16 KiB block, the last perhaps shorter; empty unless asked for.
    pub leaves: Vec<Digest>,
    pub flat: Option<FlatHash>,
}

impl HashJob {
    pub fn run(self) -> HashDone {
        let mut flat = self.flat;
        if let Some(FlatHash(hash)) = &mut flat {
            for chunk in &self.chunks {
                hash.update(chunk);
            }
        }
        let leaves = if self.leaves {
            leaves(&self.chunks)
        } else {
            Vec::new()
        };
        HashDone { leaves, flat }
    }
}

fn leaves(chunks: &[Bytes]) -> Vec<Digest> {
    let mut out = Vec::new();
    let mut hash = Sha256::new();
    let mut filled = 0;
    for chunk in chunks {
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            let (part, after) = rest.split_at(rest.len().min(BLOCK_LEN as usize - filled));
            hash.update(part);
            filled += part.len();
            rest = after;
            if filled == BLOCK_LEN as usize {
                out.push(Digest(hash.finalize_reset().into()));
                filled = 0;
            }
        }
    }
    if filled > 0 {
        out.push(Digest(hash.finalize().into()));
    }
    out
}

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl FlatHash {
    pub fn digest(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl fmt::Debug for FlatHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FlatHash")
    }
}

/// Lower-case hex.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
