//! What is kept beside an object's bytes: a small JSON file. Its checksums make the bytes believable after a crash.

use crate::content::Digest;
use crate::http::Validator;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One object's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// As clients ask for it.
    pub url: String,
    /// Where redirects led.
    pub at: String,
    pub length: u64,
    pub ranges: bool,
    pub validator: Option<Validator>,
    pub content_type: Option<String>,
    /// When the origin last said that this is the file.
    pub checked_unix_us: i64,
    pub max_age_s: u64,
    pub used_unix_us: i64,
    /// SHA-256, in hex, of each slice that is stored.
    pub slices: BTreeMap<u32, String>,
}

impl Record {
    pub(super) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

pub(super) fn digest_from_hex(text: &str) -> Option<Digest> {
    let mut digest = Digest::default();
    if text.len() != digest.0.len() * 2 {
        return None;
    }
    for (place, byte) in digest.0.iter_mut().enumerate() {
        let digits = text.get(place * 2..place * 2 + 2)?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(digest)
}

/// The files of an object, in the cache's folder.
pub(super) fn data_path(dir: &str, name: &str) -> String {
    format!("{dir}/{name}.data")
}

pub(super) fn record_path(dir: &str, name: &str) -> String {
    format!("{dir}/{name}.json")
}
