//! The extension handshake (BEP 10): which extensions the other side takes, and under which id.

use super::{Message, WireError};
use crate::content::bencode::{self, Dict, Keys, Tree, Value};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

/// The extended id of the extension handshake itself.
pub const EXTENSION_HANDSHAKE: u8 = 0;

/// Longest client name kept, in bytes.
const CLIENT_LEN_MAX: usize = 64;

/// The extensions we know, each with the id its receiver gave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerExtensions {
    /// `dv_range`, see [`super::RangeMessage`].
    pub range: Option<u8>,
    /// `dv_claim`, see [`super::ClaimMessage`].
    pub claim: Option<u8>,
    /// `ut_metadata` (BEP 9), see [`super::MetadataMessage`].
    pub metadata: Option<u8>,
}

impl PeerExtensions {
    /// The ids under which we take our extensions; [`super::Framer`] reads them.
    pub const OUR_RANGE: u8 = 1;
    pub const OUR_CLAIM: u8 = 2;
    pub const OUR_METADATA: u8 = 3;

    /// What we list in our own handshake.
    pub const OURS: Self = Self {
        range: Some(Self::OUR_RANGE),
        claim: Some(Self::OUR_CLAIM),
        metadata: Some(Self::OUR_METADATA),
    };

    const NAMES: [&'static str; 3] = ["dv_range", "dv_claim", "ut_metadata"];

    const fn ids(&self) -> [Option<u8>; 3] {
        [self.range, self.claim, self.metadata]
    }

    fn read(m: Dict<'_>) -> Self {
        let [range, claim, metadata] = Self::NAMES.map(|name| {
            let id = m.get(name.as_bytes()).and_then(Value::integer)?;
            // 0 takes an extension back.
            u8::try_from(id).ok().filter(|id| *id != 0)
        });
        Self {
            range,
            claim,
            metadata,
        }
    }
}

/// What the other side says of itself. A peer may send it again later with only what has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtensionHandshake {
    /// `m`.
    pub extensions: PeerExtensions,
    /// `v`: name and version.
    pub client: Option<String>,
    /// `reqq`: how many requests it queues.
    pub request_queue: Option<u32>,
    /// `p`: the TCP port it listens on.
    pub port: Option<u16>,
    /// Length of the info dict in bytes, if it has it.
    pub metadata_size: Option<u32>,
    /// It will never download: a seed, or incomplete by choice.
    pub upload_only: bool,
    /// `yourip`: our address as it sees it.
    pub your_ip: Option<IpAddr>,
}

impl ExtensionHandshake {
    /// Read the payload of extended message 0. Unknown keys and keys of the wrong type are passed over;
    /// keys may come in any order.
    ///
    /// # Errors
    /// If it is not a bencoded dictionary.
    pub fn parse(payload: &[u8]) -> Result<Self, WireError> {
        let (value, _) = bencode::parse_prefix(payload, Keys::AnyOrder)?;
        let dict = value.dict().ok_or(WireError::Malformed {
            id: super::message::id::EXTENDED,
        })?;
        let m = dict.get(b"m").and_then(Value::dict);
        Ok(Self {
            extensions: m.map(PeerExtensions::read).unwrap_or_default(),
            client: dict.get(b"v").and_then(Value::bytes).map(client_name),
            request_queue: number(dict, b"reqq"),
            port: number(dict, b"p").filter(|port| *port != 0),
            metadata_size: number(dict, b"metadata_size").filter(|size| *size != 0),
            upload_only: number(dict, b"upload_only") == Some(1_u8),
            your_ip: dict
                .get(b"yourip")
                .and_then(Value::bytes)
                .and_then(ip_address),
        })
    }

    pub fn encode(&self) -> Vec<u8> {
        let ids = PeerExtensions::NAMES.into_iter().zip(self.extensions.ids());
        let m = ids.filter_map(|(name, id)| Some((name.as_bytes().to_vec(), number_tree(id?))));
        let mut dict = BTreeMap::from([(b"m".to_vec(), Tree::Dict(m.collect()))]);
        let mut put = |key: &[u8], value: Option<Tree>| {
            if let Some(value) = value {
                dict.insert(key.to_vec(), value);
            }
        };
        put(b"v", self.client.as_deref().map(Tree::text));
        put(b"reqq", self.request_queue.map(number_tree));
        put(b"p", self.port.map(number_tree));
        put(b"metadata_size", self.metadata_size.map(number_tree));
        put(b"upload_only", self.upload_only.then(|| number_tree(1_u8)));
        put(
            b"yourip",
            self.your_ip.map(|ip| match ip {
                IpAddr::V4(ip) => Tree::Bytes(ip.octets().to_vec()),
                IpAddr::V6(ip) => Tree::Bytes(ip.octets().to_vec()),
            }),
        );
        Tree::Dict(dict).encode()
    }

    pub fn to_message(&self) -> Message {
        Message::Extended {
            id: EXTENSION_HANDSHAKE,
            payload: self.encode().into(),
        }
    }
}

fn number<T: TryFrom<i64>>(dict: Dict<'_>, key: &[u8]) -> Option<T> {
    T::try_from(dict.get(key)?.integer()?).ok()
}

fn number_tree(number: impl Into<i64>) -> Tree {
    Tree::Integer(number.into())
}

/// Printable, and not too long.
fn client_name(bytes: &[u8]) -> String {
    let bytes = bytes.get(..CLIENT_LEN_MAX).unwrap_or(bytes);
    let text = String::from_utf8_lossy(bytes);
    text.chars().filter(|c| !c.is_control()).collect()
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let all = ExtensionHandshake {
            extensions: PeerExtensions::OURS,
            client: Some("dovetail 0.1".into()),
            request_queue: Some(500),
            port: Some(7680),
            metadata_size: Some(200),
            upload_only: true,
            your_ip: Some([10, 0, 0, 1].into()),
        };
        assert_eq!(ExtensionHandshake::parse(&all.encode()), Ok(all));
        let none = ExtensionHandshake::default();
        assert_eq!(none.encode(), b"d1:mdee");
        assert_eq!(ExtensionHandshake::parse(b"d1:mdee"), Ok(none));
    }

    #[test]
    fn a_careless_peer_is_read_as_far_as_it_makes_sense() {
        let payload = b"d1:v3:a\x00\xff1:md8:dv_rangei0e8:dv_claimi256e11:ut_metadatai2ee1:pi70000e4:reqq1:x6:yourip3:abce";
        let read = ExtensionHandshake::parse(payload).unwrap();
        assert_eq!(
            read,
            ExtensionHandshake {
                extensions: PeerExtensions {
                    metadata: Some(2),
                    ..Default::default()
                },
                client: Some("a\u{fffd}".into()),
                ..Default::default()
            }
        );
        assert!(matches!(
            ExtensionHandshake::parse(b"x"),
            Err(WireError::Bencode(_))
        ));
        assert_eq!(
            ExtensionHandshake::parse(b"le"),
            Err(WireError::Malformed { id: 20 })
        );
    }
}
