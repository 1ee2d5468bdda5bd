//! What a later run must know to go on: the resume file beside the unfinished output.

use crate::content::{Bitfield, ContentId, Digest, Geometry};
use crate::http::{Known, Url, Validator};
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Which version of which file is on disk, and which pieces of it are durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    pub geometry: Geometry,
    /// The Merkle root, when it was known.
    pub root: Option<Digest>,
    /// The URL the bytes came from and what tells its version, when there is no root.
    pub url: Option<String>,
    pub validator: Option<Validator>,
    pub have: Bitfield,
}

/// Format of the file; samples of every released version stay loadable.
#[derive(Serialize, Deserialize)]
struct File {
    dovetail_resume: u32,
    length: u64,
    piece_length: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_modified: Option<String>,
    #[serde(default)]
    date_is_strong: bool,
    /// Hex of the bitfield, BEP 3 order.
    have: String,
}

const VERSION: u32 = 1;

impl Resume {
    /// `None` for anything that is not a resume file of a version we know: the download starts anew.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let file: File = serde_json::from_slice(bytes).ok()?;
        if file.dovetail_resume != VERSION {
            return None;
        }
        let geometry = Geometry::new(file.length, file.piece_length).ok()?;
        let root = match file.root {
            Some(hex) => Some(Digest(from_hex(&hex)?.try_into().ok()?)),
            None => None,
        };
        let have = Bitfield::from_bytes(&from_hex(&file.have)?, geometry.pieces())?;
        let validator =
            (file.etag.is_some() || file.last_modified.is_some()).then_some(Validator {
                etag: file.etag,
                last_modified: file.last_modified,
                date_is_strong: file.date_is_strong,
            });
        Some(Self {
            geometry,
            root,
            url: file.url,
            validator,
            have,
        })
    }

    pub fn encode(&self) -> Bytes {
        let file = File {
            dovetail_resume: VERSION,
            length: self.geometry.length(),
            piece_length: self.geometry.piece_length(),
            root: self.root.map(|r| r.to_string()),
            url: self.url.clone(),
            etag: self.validator.as_ref().and_then(|v| v.etag.clone()),
            last_modified: self
                .validator
                .as_ref()
                .and_then(|v| v.last_modified.clone()),
            date_is_strong: self.validator.as_ref().is_some_and(|v| v.date_is_strong),
            have: to_hex(self.have.as_bytes()),
        };
        serde_json::to_vec(&file).unwrap_or_default().into()
    }

    /// The version of the origin's file that the bytes on disk are of, if there is one to be told by.
    pub fn known(&self) -> Option<Known> {
        let url = Url::parse(self.url.as_ref()?).ok()?;
        let validator = self.validator.clone().filter(|v| v.if_range().is_some())?;
        Some(Known {
            length: Some(self.geometry.length()),
            validator: Some(validator),
            url,
        })
    }

    /// Whether these bytes belong to this content.
    pub fn is_of(&self, id: &ContentId, geometry: &Geometry) -> bool {
        self.geometry == *geometry && self.root == Some(id.root)
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|b| [b >> 4, b & 15])
        .filter_map(|n| char::from_digit(n.into(), 16))
        .collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).map(|d| d as u8))
        .collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty()
        .then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_refuses_what_does_not_fit() {
        let geometry = Geometry::new(10 * 16384, 16384).unwrap();
        let mut have = Bitfield::empty(10);
        have.insert(3);
        let resume = Resume {
            geometry,
            root: Some(Digest::of(b"x")),
            url: Some("http://o/f".into()),
            validator: None,
            have,
        };
        let bytes = resume.encode();
        assert_eq!(Resume::parse(&bytes), Some(resume));
        for cut in 0..bytes.len() {
            assert_eq!(Resume::parse(&bytes[..cut]), None);
        }
        let text = core::str::from_utf8(&bytes).unwrap();
        assert_eq!(Resume::parse(text.replace(":1,", ":99,").as_bytes()), None);
        assert_eq!(
            Resume::parse(text.replace("163840", "999999").as_bytes()),
            None
        );
    }

    #[test]
    fn version_1_sample_loads() {
        let sample = br#"{"dovetail_resume":1,"length":32768,"piece_length":16384,
            "url":"http://o/f","etag":"\"e\"","have":"80"}"#;
        let resume = Resume::parse(sample).unwrap();
        assert!(resume.have.has(0) && !resume.have.has(1) && resume.root.is_none());
    }
}
