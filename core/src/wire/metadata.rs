//! `ut_metadata` (BEP 9): the info dict from a peer, in parts of 16 KiB.

use super::WireError;
use super::message::id;
use crate::content::bencode::{self, Dict, Keys, Tree, Value};
use alloc::vec::Vec;
use bytes::Bytes;

/// Every part but the last is this long.
pub const METADATA_PART_LEN: u32 = 16 * 1024;

/// The payload of an `ut_metadata` message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataMessage {
    Request {
        part: u32,
    },
    /// `total_len`: of the whole info dict.
    Data {
        part: u32,
        total_len: u32,
        data: Bytes,
    },
    Reject {
        part: u32,
    },
}

impl MetadataMessage {
    /// Read the payload of an extended message with [`super::PeerExtensions::OUR_METADATA`]; `None` for types
    /// BEP 9 tells to pass over.
    ///
    /// # Errors
    /// If the dictionary is malformed, or the data longer than a part.
    pub fn parse(payload: &Bytes) -> Result<Option<Self>, WireError> {
        let malformed = WireError::Malformed { id: id::EXTENDED };
        let (value, data) = bencode::parse_prefix(payload, Keys::AnyOrder)?;
        let dict = value.dict().ok_or(malformed)?;
        let part = number(dict, b"piece").ok_or(malformed)?;
        match number(dict, b"msg_type").ok_or(malformed)? {
            0 => Ok(Some(Self::Request { part })),
            1 if data.len() <= METADATA_PART_LEN as usize => Ok(Some(Self::Data {
                part,
                total_len: number(dict, b"total_size").ok_or(malformed)?,
                data: payload.slice_ref(data),
            })),
            1 => Err(malformed),
            2 => Ok(Some(Self::Reject { part })),
            _ => Ok(None),
        }
    }

    /// The payload of the extended message.
    pub fn encode(&self) -> Bytes {
        let (kind, part) = match self {
            Self::Request { part } => (0, part),
            Self::Data { part, .. } => (1, part),
            Self::Reject { part } => (2, part),
        };
        let mut dict = Vec::from([
            (b"msg_type".to_vec(), Tree::Integer(kind)),
            (b"piece".to_vec(), Tree::Integer((*part).into())),
        ]);
        let mut tail = &Bytes::new();
        if let Self::Data {
            total_len, data, ..
        } = self
        {
            dict.push((b"total_size".to_vec(), Tree::Integer((*total_len).into())));
            tail = data;
        }
        let mut out = Tree::Dict(dict.into_iter().collect()).encode();
        out.extend_from_slice(tail);
        out.into()
    }
}

fn number(dict: Dict<'_>, key: &[u8]) -> Option<u32> {
    u32::try_from(dict.get(key).and_then(Value::integer)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of BEP 9.
    #[test]
    fn the_examples_of_the_specification() {
        let request = Bytes::from_static(b"d8:msg_typei0e5:piecei0ee");
        let reject = Bytes::from_static(b"d8:msg_typei2e5:piecei0ee");
        let data = Bytes::from_static(b"d8:msg_typei1e5:piecei0e10:total_sizei34256eexxxxxxxx");
        for (bytes, message) in [
            (&request, MetadataMessage::Request { part: 0 }),
            (&reject, MetadataMessage::Reject { part: 0 }),
            (
                &data,
                MetadataMessage::Data {
                    part: 0,
                    total_len: 34256,
                    data: Bytes::from_static(b"xxxxxxxx"),
                },
            ),
        ] {
            assert_eq!(
                MetadataMessage::parse(bytes).unwrap().as_ref(),
                Some(&message)
            );
            assert_eq!(message.encode(), bytes);
        }
    }

    #[test]
    fn unknown_types_are_passed_over_and_malformed_ones_are_faults() {
        let parse =
            |text: &'static str| MetadataMessage::parse(&Bytes::from_static(text.as_bytes()));
        assert_eq!(parse("d8:msg_typei7e5:piecei0ee"), Ok(None));
        assert!(parse("d8:msg_typei0ee").is_err());
        assert!(parse("d8:msg_typei0e5:piecei-1ee").is_err());
        assert!(parse("d8:msg_typei1e5:piecei0ee").is_err());
        assert!(parse("le").is_err());
        let mut long = b"d8:msg_typei1e5:piecei0e10:total_sizei34256ee".to_vec();
        long.extend([0; METADATA_PART_LEN as usize + 1]);
        assert!(MetadataMessage::parse(&long.into()).is_err());
    }
}
