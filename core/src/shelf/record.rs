//! What is kept beside a content's bytes: a small JSON file.

use alloc::string::String;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One content's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Hex of the Merkle root.
    pub root: String,
    pub completed_unix_us: i64,
    /// When a peer last wanted it; at first when it was completed.
    pub wanted_unix_us: i64,
    #[serde(default)]
    pub pinned: bool,
    /// To peers, since it is here.
    #[serde(default)]
    pub sent_bytes: u64,
    /// The `.torrent` file, piece layers included.
    #[serde(with = "crate::announce::messages::base64_bytes")]
    pub metainfo: Bytes,
}

impl Record {
    pub fn encode(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    pub fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}
