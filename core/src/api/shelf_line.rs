//! What is on the shelf, as callers see it.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Answer to `GET /v1/shelf` and to what changes it: the contents it is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShelfLine {
    pub folder: String,
    /// Of what is not pinned.
    pub loose_bytes: u64,
    /// What that may come to; `None`: no bound but the disk's.
    pub quota_bytes: Option<u64>,
    /// Contents offered at a time, at most.
    pub slots: u32,
    pub items: Vec<ShelfItemLine>,
}

/// One content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShelfItemLine {
    pub name: String,
    pub length: u64,
    /// Hex of the Merkle root.
    pub root: String,
    pub completed_unix_us: i64,
    /// When it goes for its age; `None`: not for that.
    pub expires_unix_us: Option<i64>,
    pub pinned: bool,
    /// It has a slot.
    pub offered: bool,
    /// Peers wanted it lately.
    pub wanted: bool,
    pub sent: u64,
}

/// What a caller wants of the shelf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShelfAsk {
    List,
    /// Keep it whatever its age and the quota.
    Pin(String),
    Unpin(String),
    Remove(String),
}
