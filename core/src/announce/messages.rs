//! What agents and coordinators say to each other: JSON over HTTP, under versioned paths.
//!
//! | call | body | answer |
//! | --- | --- | --- |
//! | `POST /v1/announce` | [`AnnounceRequest`] | 200 [`AnnounceReply`] |
//! | `GET /v1/content?url=…`, `?sha256=…`, `?root=…`, `?info_hash=…` | – | 200 [`ContentRecord`]; 202 [`Pending`] and `Retry-After` while the coordinator itself hashes the origin's file; 404 |
//! | `POST /v1/content` | [`Publication`] | 201 [`Published`] |
//! | `GET /v1/swarms` | – | 200 [`Overview`] |
//! | `GET /health` | – | 200 [`Health`] |
//!
//! Every refusal carries a [`Refusal`]. Fields that a reader does not know are ignored, so both sides can
//! grow; what a field holds must be right, or the whole message is refused. Announces are idempotent and
//! carry everything a coordinator that has just started needs.
//!
//! Tested here, at the endpoints in `coordinator/routes.rs`, and in `core/tests/coordination.rs`.

use super::hex;
use crate::content::{Digest, InfoHash};
use crate::limits::{ADDRESSES_PER_DEVICE_MAX, NAME_LEN_MAX, SWARMS_PER_ANNOUNCE_MAX};
use crate::stats::SourceClass;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use serde::{Deserialize, Serialize};

/// The name of a device towards peers and coordinators (BEP 20 style).
pub type PeerId = [u8; 20];

pub const ANNOUNCE_PATH: &str = "/v1/announce";
pub const CONTENT_PATH: &str = "/v1/content";
pub const SWARMS_PATH: &str = "/v1/swarms";
pub const HEALTH_PATH: &str = "/health";

/// What one device takes part in, all swarms at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnounceRequest {
    #[serde(with = "hex::id")]
    pub device: PeerId,
    /// TCP port where peers are accepted; 0: it only dials, and is not handed out.
    #[serde(default)]
    pub port: u16,
    /// How far away its peers may be. The nearer wish of two devices counts.
    #[serde(default)]
    pub scope: Scope,
    /// Devices of one group may be peers across networks (scope `group`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Its own addresses, for neighbours behind the same external address, and for everybody if it
    /// runs on the coordinator's machine (which sees it on loopback). Private addresses only, else ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Where its router lets peers in (PCP, NAT-PMP, UPnP-IGD). The port counts if the address is the one the announce
    /// comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapped: Option<SocketAddr>,
    /// Contents it has whole, offered now or not; hex of truncated info hashes. It is told which are wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<String>,
    pub swarms: Vec<SwarmAnnounce>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwarmAnnounce {
    /// SHA-256 of the info dictionary (BEP 52), not truncated.
    #[serde(with = "hex::info_hash")]
    pub info_hash: InfoHash,
    #[serde(default)]
    pub event: AnnounceEvent,
    #[serde(default)]
    pub have_pieces: u32,
    /// Bytes still missing; 0 is a seed.
    pub left_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnnounceEvent {
    Started,
    #[default]
    Update,
    Completed,
    Stopped,
}

/// How far away peers may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    #[default]
    Lan,
    Group,
    Internet,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnounceReply {
    /// When to announce again; presence ends after two and a half times this.
    pub interval_s: u32,
    /// An agent that wants more peers may come again this early.
    #[serde(default)]
    pub min_interval_s: u32,
    /// Settings for the devices of this coordinator, by the names of the settings table.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub policy: BTreeMap<String, String>,
    /// Where devices behind NATs are introduced to each other, if anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rendezvous: Option<Rendezvous>,
    /// Those of the held contents that others want, and how many do.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub wanted: BTreeMap<String, u32>,
    pub swarms: Vec<SwarmReply>,
}

/// UDP at the coordinator's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendezvous {
    pub port: u16,
    /// Answers, too: by which of two ports sees what, kinds of NATs are told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_port: Option<u16>,
    /// What this device proves its datagrams with.
    #[serde(with = "hex::digest")]
    pub key: Digest,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwarmReply {
    #[serde(with = "hex::info_hash")]
    pub info_hash: InfoHash,
    /// Members that have everything, the asker included.
    #[serde(default)]
    pub seeds: u32,
    /// Members that do not, the asker included.
    #[serde(default)]
    pub downloaders: u32,
    /// Nearest first.
    #[serde(default)]
    pub peers: Vec<Peer>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub addr: SocketAddr,
    #[serde(with = "hex::id")]
    pub peer_id: PeerId,
    /// What the coordinator knows of the topology.
    pub class: SourceClass,
    #[serde(default)]
    pub seed: bool,
}

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentRecord {
    #[serde(with = "hex::info_hash")]
    pub info_hash: InfoHash,
    pub name: String,
    /// Bytes.
    pub length: u64,
    /// Root of the file's Merkle tree (BEP 52 `pieces root`).
    #[serde(with = "hex::digest")]
    pub root: Digest,
    /// SHA-256 of the whole file. To be believed when the finished file agrees, not before.
    #[serde(
        default,
        with = "hex::maybe_digest",
        skip_serializing_if = "Option::is_none"
    )]
    pub sha256: Option<Digest>,
    #[serde(default)]
    pub urls: Vec<String>,
    /// The `.torrent` file, piece layers included.
    #[serde(with = "base64_bytes")]
    pub metainfo: bytes::Bytes,
}

/// The coordinator is hashing the file; ask again after `Retry-After`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    pub done_bytes: u64,
    /// 0 while unknown.
    pub length: u64,
}

/// Makes content known to a coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// The `.torrent` file, piece layers included.
    #[serde(with = "base64_bytes")]
    pub metainfo: bytes::Bytes,
    #[serde(
        default,
        with = "hex::maybe_digest",
        skip_serializing_if = "Option::is_none"
    )]
    pub sha256: Option<Digest>,
    /// Besides those in the metainfo's own `url-list`.
    #[serde(default)]
    pub urls: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    #[serde(with = "hex::info_hash")]
    pub info_hash: InfoHash,
}

/// Who is where, in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overview {
    pub swarms: Vec<SwarmOverview>,
    /// There are more than are listed.
    #[serde(default)]
    pub more: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwarmOverview {
    /// Truncated to 20 bytes, as on the wire.
    #[serde(with = "hex::id")]
    pub info_hash: [u8; 20],
    /// Empty if no content record is known.
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub length: u64,
    pub seeds: u32,
    pub downloaders: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub status: String,
    pub devices: u32,
    pub swarms: u32,
    pub contents: u32,
}

/// What could not be done, why, and what the reader can do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub error: String,
    #[serde(default)]
    pub why: String,
    #[serde(default)]
    pub remedy: String,
}

/// What is wrong with a message that is well-formed JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageError {
    TooManySwarms(usize),
    TooManyAddresses(usize),
    GroupTooLong(usize),
}

impl AnnounceRequest {
    /// Check what the types cannot.
    ///
    /// # Errors
    /// If a list or text is longer than its limit.
    pub fn check(&self) -> Result<(), MessageError> {
        if self.swarms.len() > SWARMS_PER_ANNOUNCE_MAX {
            return Err(MessageError::TooManySwarms(self.swarms.len()));
        }
        if self.addresses.len() > ADDRESSES_PER_DEVICE_MAX {
            return Err(MessageError::TooManyAddresses(self.addresses.len()));
        }
        match &self.group {
            Some(group) if group.len() > NAME_LEN_MAX => {
                Err(MessageError::GroupTooLong(group.len()))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManySwarms(n) => {
                write!(
                    f,
                    "{n} swarms in one announce, {SWARMS_PER_ANNOUNCE_MAX} allowed"
                )
            }
            Self::TooManyAddresses(n) => {
                write!(f, "{n} addresses, {ADDRESSES_PER_DEVICE_MAX} allowed")
            }
            Self::GroupTooLong(n) => {
                write!(f, "group of {n} bytes, {NAME_LEN_MAX} allowed")
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)?;
        if !self.why.is_empty() {
            write!(f, ": {}", self.why)?;
        }
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

pub(crate) mod base64_bytes {
    use alloc::string::String;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD
            .decode(text.as_bytes())
            .map(Bytes::from)
            .map_err(|why| D::Error::custom(alloc::format!("not base64: {why}")))
    }
}
