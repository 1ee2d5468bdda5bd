//! Reading a metainfo file: from checked bencode to a checked [`Metainfo`].

use super::{InfoHash, Metainfo, MetainfoError, check_name};
use crate::content::bencode::{self, Dict, Value};
use crate::content::{ContentId, Digest, Geometry, PieceLayer};
use crate::limits::METAINFO_URLS_MAX;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

use MetainfoError::{Malformed, Missing};

pub(super) fn metainfo(bytes: &[u8]) -> Result<Metainfo, MetainfoError> {
    let top = bencode::parse(bytes)?.dict().ok_or(Malformed("metainfo"))?;
    let mut meta = info(top.get(b"info").ok_or(Missing("info"))?)?;
    meta.layer = layer(&meta, top)?;
    meta.urls = url_list(top)?;
    meta.announce = trackers(top)?;
    meta.comment = text(top, "comment")?;
    meta.created_by = text(top, "created by")?;
    Ok(meta)
}

pub(super) fn info(value: Value<'_>) -> Result<Metainfo, MetainfoError> {
    let info = value.dict().ok_or(Malformed("info"))?;
    match info.get(b"meta version").map(Value::integer) {
        Some(Some(2)) => {}
        Some(Some(other)) => return Err(MetainfoError::Version(other)),
        Some(None) => return Err(Malformed("meta version")),
        None if info.get(b"pieces").is_some() => return Err(MetainfoError::VersionOne),
        None => return Err(Missing("meta version")),
    }
    let name = text(info, "name")?.ok_or(Missing("name"))?;
    check_name(&name)?;
    let file = single_file(info, &name)?;
    let geometry = Geometry::new(length(file)?, piece_length(info)?)?;
    if let Some(v1) = info.get(b"length")
        && v1.integer() != Some(geometry.length().cast_signed())
    {
        return Err(Malformed("length"));
    }
    let id = ContentId {
        length: geometry.length(),
        root: root(file, &geometry)?,
    };
    let own_layer = match geometry.pieces() {
        0 => Some(PieceLayer::new(geometry, Vec::new())?),
        1 => Some(PieceLayer::new(geometry, vec![id.root])?),
        _ => None,
    };
    Ok(Metainfo {
        name,
        geometry,
        id,
        layer: own_layer,
        urls: Vec::new(),
        announce: Vec::new(),
        info_hash: InfoHash(Digest::of(value.raw()).0),
        private: info.get(b"private").and_then(Value::integer) == Some(1),
        comment: None,
        created_by: None,
        info: Bytes::copy_from_slice(value.raw()),
    })
}

/// The one file of the tree: an entry of the torrent's own name that is a file.
fn single_file<'a>(info: Dict<'a>, name: &str) -> Result<Dict<'a>, MetainfoError> {
    const KEY: &str = "file tree";
    let tree = info.get(KEY.as_bytes()).ok_or(Missing(KEY))?;
    let tree = tree.dict().ok_or(Malformed(KEY))?;
    let mut entries = tree.entries();
    let (key, entry) = entries.next().ok_or(Malformed(KEY))?;
    let entry = entry.dict().ok_or(Malformed(KEY))?;
    let file = entry.get(b"");
    if let (Some(file), true, None) = (file, key == name.as_bytes(), entries.next()) {
        if entry.entries().nth(1).is_some() {
            return Err(Malformed(KEY));
        }
        let file = file.dict().ok_or(Malformed(KEY))?;
        let attributes = file.get(b"attr").and_then(Value::bytes).unwrap_or_default();
        if attributes.contains(&b'l') || file.get(b"symlink path").is_some() {
            return Err(MetainfoError::Link);
        }
        return Ok(file);
    }
    Err(MetainfoError::Folder {
        entries: tree.entries().count(),
    })
}

fn length(file: Dict<'_>) -> Result<u64, MetainfoError> {
    let length = file.get(b"length").ok_or(Missing("length"))?;
    let length = length.integer().and_then(|n| u64::try_from(n).ok());
    length.ok_or(Malformed("length"))
}

fn piece_length(info: Dict<'_>) -> Result<u32, MetainfoError> {
    let length = info.get(b"piece length").ok_or(Missing("piece length"))?;
    let length = length.integer().and_then(|n| u64::try_from(n).ok());
    let length = length.ok_or(Malformed("piece length"))?;
    u32::try_from(length).map_err(|_| crate::content::GeometryError::PieceLength(length).into())
}

fn root(file: Dict<'_>, geometry: &Geometry) -> Result<Digest, MetainfoError> {
    const KEY: &str = "pieces root";
    let root = file.get(KEY.as_bytes());
    if geometry.length() == 0 {
        return match root {
            None => Ok(Digest::default()),
            Some(_) => Err(Malformed(KEY)),
        };
    }
    let root = root.ok_or(Missing(KEY))?.bytes();
    let root = root.and_then(|bytes| bytes.try_into().ok());
    // libtorrent refuses the zero root too: it stands for "no root".
    match root.map(Digest) {
        Some(root) if root != Digest::default() => Ok(root),
        _ => Err(Malformed(KEY)),
    }
}

fn layer(meta: &Metainfo, top: Dict<'_>) -> Result<Option<PieceLayer>, MetainfoError> {
    const KEY: &str = "piece layers";
    let Some(layers) = top.get(KEY.as_bytes()) else {
        return Ok(meta.layer.clone());
    };
    let layers = layers.dict().ok_or(Malformed(KEY))?;
    let mut own = meta.layer.clone();
    for (root, hashes) in layers.entries() {
        if root != meta.id.root.0 || own.is_some() {
            return Err(MetainfoError::StrayLayer);
        }
        let (hashes, rest) = hashes.bytes().ok_or(Malformed(KEY))?.as_chunks();
        if !rest.is_empty() {
            return Err(Malformed(KEY));
        }
        let hashes = hashes.iter().copied().map(Digest).collect();
        own = Some(PieceLayer::verified(meta.geometry, hashes, meta.id.root)?);
    }
    Ok(own)
}

/// BEP 19: one string, or a list of them.
fn url_list(top: Dict<'_>) -> Result<Vec<String>, MetainfoError> {
    const KEY: &str = "url-list";
    let Some(value) = top.get(KEY.as_bytes()) else {
        return Ok(Vec::new());
    };
    let mut urls = Vec::new();
    match value.list() {
        Some(items) => {
            for item in items {
                add_url(&mut urls, item.text().ok_or(Malformed(KEY))?);
            }
        }
        None => add_url(&mut urls, value.text().ok_or(Malformed(KEY))?),
    }
    Ok(urls)
}

/// BEP 3's `announce`, then BEP 12's tiers, flattened.
fn trackers(top: Dict<'_>) -> Result<Vec<String>, MetainfoError> {
    const KEY: &str = "announce-list";
    let mut urls = Vec::new();
    if let Some(first) = text(top, "announce")? {
        add_url(&mut urls, &first);
    }
    if let Some(tiers) = top.get(KEY.as_bytes()) {
        for tier in tiers.list().ok_or(Malformed(KEY))? {
            for url in tier.list().ok_or(Malformed(KEY))? {
                add_url(&mut urls, url.text().ok_or(Malformed(KEY))?);
            }
        }
    }
    Ok(urls)
}

fn add_url(urls: &mut Vec<String>, url: &str) {
    let new = !url.is_empty() && !urls.iter().any(|known| known == url);
    if new && urls.len() < METAINFO_URLS_MAX {
        urls.push(url.into());
    }
}

fn text(dict: Dict<'_>, key: &'static str) -> Result<Option<String>, MetainfoError> {
    match dict.get(key.as_bytes()) {
        None => Ok(None),
        Some(value) => match value.text() {
            Some(text) => Ok(Some(text.to_string())),
            None => Err(Malformed(key)),
        },
    }
}
