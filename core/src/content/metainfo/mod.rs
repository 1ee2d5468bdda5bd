//! Metainfo: the v2 `.torrent` file of one file (BEP 52), with web seeds (BEP 19) and trackers (BEP 3, 12).
//!
//! Decides: what a metainfo file says, and refuses what is unsafe (names that leave the folder) or untrue
//! (a piece layer that does not lead to the root). Makes the same info dict for the same file everywhere:
//! `{file tree, meta version, name, piece length}` and nothing else, so that two publishers of one file
//! under one name have one info-hash.
//! Never does: v1 (SHA-1), folders.
//! Invariants: [`Metainfo::info_hash`] is the SHA-256 of [`Metainfo::info`]; `name`, `geometry`, `id` and
//! `private` are what `info` says; a `layer` leads to the root of `id`.
//! Spec: BEP 52; where it is silent, what libtorrent refuses. Tests: `tests.rs` beside this,
//! `core/tests/interop_vectors.rs`, `fuzz/src/content.rs`.

mod read;
#[cfg(test)]
mod tests;

use super::bencode::{BencodeError, Tree};
use super::{ContentId, Digest, Geometry, GeometryError, MerkleError, PieceLayer};
use crate::limits::{METAINFO_LEN_MAX, NAME_LEN_MAX};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;
use core::fmt::Write as _;

/// What one metainfo file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metainfo {
    /// A plain file name: not empty, no separators, not `.` or `..`.
    pub name: String,
    pub geometry: Geometry,
    pub id: ContentId,
    /// `None` if the file has more than one piece and the metainfo carries no layer; peers have it then.
    pub layer: Option<PieceLayer>,
    /// Web seeds as written: URLs of the file, or of its folder. See [`Metainfo::web_seeds`].
    pub urls: Vec<String>,
    /// Trackers, most wanted first.
    pub announce: Vec<String>,
    pub info_hash: InfoHash,
    /// BEP 27: peers only from the trackers.
    pub private: bool,
    pub comment: Option<String>,
    pub created_by: Option<String>,
    info: Bytes,
}

/// SHA-256 of the info dict.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InfoHash(pub [u8; 32]);

#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetainfoError {
    /// Longer than [`METAINFO_LEN_MAX`].
    TooLong(usize),
    Bencode(BencodeError),
    /// This key is missing.
    Missing(&'static str),
    /// This key's value has the wrong type or range.
    Malformed(&'static str),
    /// A v1 torrent: its pieces are SHA-1.
    VersionOne,
    /// A newer version than 2.
    Version(i64),
    /// A folder with this many files and folders at its top; only single files are handled.
    Folder {
        entries: usize,
    },
    /// The file is a symbolic link.
    Link,
    /// A name that is empty, too long, or could name something outside the folder.
    Name(String),
    Geometry(GeometryError),
    /// The piece layer is wrong.
    Layer(MerkleError),
    /// `piece layers` holds something that belongs to no file.
    StrayLayer,
}

impl Metainfo {
    /// Read a metainfo file.
    ///
    /// # Errors
    /// If it is not a well-formed v2 (or hybrid) torrent of one file with a safe name, or its piece layer
    /// does not lead to its root.
    pub fn parse(bytes: &[u8]) -> Result<Self, MetainfoError> {
        if bytes.len() > METAINFO_LEN_MAX {
            return Err(MetainfoError::TooLong(bytes.len()));
        }
        read::metainfo(bytes)
    }

    /// Read an info dict alone, as peers send it (BEP 9).
    ///
    /// # Errors
    /// As [`Metainfo::parse`].
    pub fn from_info(info: &[u8]) -> Result<Self, MetainfoError> {
        read::info(super::bencode::parse(info)?)
    }

    /// The metainfo of a file whose tree is known.
    ///
    /// # Errors
    /// If the name is not a plain file name.
    pub fn for_content(
        name: &str,
        layer: PieceLayer,
        urls: Vec<String>,
        announce: Vec<String>,
    ) -> Result<Self, MetainfoError> {
        let mut meta = Self::for_root(name, layer.geometry(), layer.root())?;
        meta.layer = Some(layer);
        meta.urls = urls;
        meta.announce = announce;
        Ok(meta)
    }

    /// The metainfo of a file of which only the identity is known (a link, a coordinator's record).
    ///
    /// # Errors
    /// If the name is not a plain file name.
    pub fn for_root(name: &str, geometry: Geometry, root: Digest) -> Result<Self, MetainfoError> {
        check_name(name)?;
        let mut file = vec![(
            b"length".to_vec(),
            Tree::Integer(geometry.length().cast_signed()),
        )];
        if geometry.length() > 0 {
            file.push((b"pieces root".to_vec(), Tree::Bytes(root.0.to_vec())));
        }
        let leaf = Tree::dict([(b"", Tree::Dict(file.into_iter().collect()))]);
        let info = Tree::dict([
            (b"file tree", Tree::dict([(name.as_bytes(), leaf)])),
            (b"meta version", Tree::Integer(2)),
            (b"name", Tree::text(name)),
            (
                b"piece length",
                Tree::Integer(geometry.piece_length().into()),
            ),
        ]);
        Self::from_info(&info.encode())
    }

    /// The info dict, exactly as found or made.
    pub const fn info(&self) -> &Bytes {
        &self.info
    }

    /// URLs of the file over HTTP: to one that ends in a slash the name is added (BEP 19); other schemes are left out.
    pub fn web_seeds(&self) -> impl Iterator<Item = String> + '_ {
        let schemes = ["http://", "https://"];
        let over_http = move |url: &&String| {
            schemes.iter().any(|scheme| {
                let start = url.as_bytes().get(..scheme.len());
                start.is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
            })
        };
        self.urls.iter().filter(over_http).map(|url| {
            let mut url = url.clone();
            if url.ends_with('/') {
                push_escaped(&mut url, &self.name);
            }
            url
        })
    }

    /// The metainfo file. The info dict is written as it was found.
    pub fn encode(&self) -> Vec<u8> {
        let mut top = vec![(b"info".to_vec(), Tree::Encoded(self.info.to_vec()))];
        if let [first, ..] = &self.announce[..] {
            top.push((b"announce".to_vec(), Tree::text(first)));
        }
        if self.announce.len() > 1 {
            let tiers = self.announce.iter();
            let tiers = tiers.map(|url| Tree::List(vec![Tree::text(url)])).collect();
            top.push((b"announce-list".to_vec(), Tree::List(tiers)));
        }
        if !self.urls.is_empty() {
            let urls = self.urls.iter().map(|url| Tree::text(url)).collect();
            top.push((b"url-list".to_vec(), Tree::List(urls)));
        }
        if let Some(comment) = &self.comment {
            top.push((b"comment".to_vec(), Tree::text(comment)));
        }
        if let Some(created_by) = &self.created_by {
            top.push((b"created by".to_vec(), Tree::text(created_by)));
        }
        if let Some(layers) = self.encode_layers() {
            top.push((b"piece layers".to_vec(), layers));
        }
        Tree::Dict(top.into_iter().collect()).encode()
    }

    /// BEP 52 wants the key in every torrent, but entries only for files of more than one piece.
    fn encode_layers(&self) -> Option<Tree> {
        let layer = self.layer.as_ref()?;
        if self.geometry.pieces() < 2 {
            return Some(Tree::dict([]));
        }
        let hashes = layer.hashes().iter().flat_map(|hash| hash.0).collect();
        Some(Tree::dict([(&self.id.root.0, Tree::Bytes(hashes))]))
    }
}

impl InfoHash {
    /// What handshakes, trackers and discovery carry (BEP 52).
    pub const fn truncated(&self) -> [u8; 20] {
        let (short, _) = self.0.split_at(20);
        let mut out = [0; 20];
        out.copy_from_slice(short);
        out
    }
}

/// Lower-case hex.
impl fmt::Display for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Digest(self.0).fmt(f)
    }
}

impl fmt::Debug for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Whether this is a plain file name on every system we know.
pub(super) fn check_name(name: &str) -> Result<(), MetainfoError> {
    let separators = |c: char| matches!(c, '/' | '\\') || c.is_control();
    let plain = !matches!(name, "" | "." | "..")
        && name.len() <= NAME_LEN_MAX
        && !name.contains(separators);
    if plain {
        Ok(())
    } else {
        Err(MetainfoError::Name(name.into()))
    }
}

impl From<BencodeError> for MetainfoError {
    fn from(error: BencodeError) -> Self {
        Self::Bencode(error)
    }
}

impl From<GeometryError> for MetainfoError {
    fn from(error: GeometryError) -> Self {
        Self::Geometry(error)
    }
}

impl From<MerkleError> for MetainfoError {
    fn from(error: MerkleError) -> Self {
        Self::Layer(error)
    }
}

impl fmt::Display for MetainfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(len) => write!(
                f,
                "metainfo of {len} bytes is longer than the {METAINFO_LEN_MAX} allowed"
            ),
            Self::Bencode(error) => write!(f, "not a metainfo file: {error}"),
            Self::Missing(key) => write!(f, "metainfo has no `{key}`"),
            Self::Malformed(key) => write!(f, "metainfo has a malformed `{key}`"),
            Self::VersionOne => {
                f.write_str("a BitTorrent v1 torrent (SHA-1); only v2 and hybrid ones are handled")
            }
            Self::Version(n) => write!(f, "metainfo version {n}; only version 2 is handled"),
            Self::Folder { entries } => write!(
                f,
                "a torrent of a folder (entries at its top: {entries}); only single files are handled"
            ),
            Self::Link => f.write_str("a torrent of a symbolic link"),
            Self::Name(name) => write!(f, "`{}` is not a plain file name", name.escape_debug()),
            Self::Geometry(error) => error.fmt(f),
            Self::Layer(error) => write!(f, "wrong piece layer: {error}"),
            Self::StrayLayer => f.write_str("`piece layers` names a root that no file has"),
        }
    }
}

/// One path segment, percent-encoded (RFC 3986, unreserved characters stay).
fn push_escaped(url: &mut String, name: &str) {
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            let _ = write!(url, "%{byte:02X}");
        }
    }
}
