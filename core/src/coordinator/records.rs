//! What files are: content records by info-hash, URL, SHA-256 and Merkle root.
//!
//! Decides which record a key stands for: of a URL the newest, for files change; of a SHA-256 the one this
//! coordinator hashed itself before any claim, and of claims the newest. Never decides whether content is
//! what it says: a record enters with its metainfo parsed, and a parsed piece layer leads to its root.
//! Invariants: at most `RECORDS_MAX` records of `RECORDS_BYTES_MAX` together, the oldest go first; every
//! index entry leads to a record.
//! Tested here.

use crate::announce::messages::ContentRecord;
use crate::content::{Digest, InfoHash, Metainfo, MetainfoError};
use crate::http::Url;
use crate::limits::{CONTENT_MESSAGE_MAX, RECORDS_BYTES_MAX, RECORDS_MAX, URLS_PER_CONTENT_MAX};
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;

#[derive(Debug, Default)]
pub(super) struct Records {
    records: BTreeMap<InfoHash, Record>,
    by_url: BTreeMap<String, InfoHash>,
    by_sha256: BTreeMap<Digest, InfoHash>,
    by_root: BTreeMap<Digest, InfoHash>,
    by_short: BTreeMap<[u8; 20], InfoHash>,
    by_age: BTreeMap<u64, InfoHash>,
    last_age: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Record {
    content: ContentRecord,
    /// `content` as it is answered.
    json: Bytes,
    /// This coordinator hashed the file itself.
    own: bool,
    age: u64,
}

/// What is to be known.
#[derive(Debug)]
pub(super) struct NewRecord {
    pub(super) metainfo: Bytes,
    pub(super) sha256: Option<Digest>,
    pub(super) urls: Vec<Url>,
    /// Hashed here, not claimed by somebody.
    pub(super) own: bool,
}

/// What became of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entered {
    pub(super) info_hash: InfoHash,
    pub(super) name: String,
    pub(super) length: u64,
    /// URLs that stood for other content before.
    pub(super) replaced: Vec<(String, InfoHash)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub(super) enum RecordError {
    Metainfo(MetainfoError),
    /// Without them an agent could not check what it gets from peers.
    NoPieceLayer,
    TooManyUrls(usize),
    /// Its answer would be longer than agents take.
    TooLarge(usize),
}

impl Records {
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn by_info_hash(&self, info_hash: InfoHash) -> Option<&Bytes> {
        Some(&self.records.get(&info_hash)?.json)
    }

    pub(super) fn by_url(&self, url: &Url) -> Option<&Bytes> {
        self.by_info_hash(*self.by_url.get(&url.to_string())?)
    }

    pub(super) fn by_sha256(&self, sha256: Digest) -> Option<&Bytes> {
        self.by_info_hash(*self.by_sha256.get(&sha256)?)
    }

    pub(super) fn by_root(&self, root: Digest) -> Option<&Bytes> {
        self.by_info_hash(*self.by_root.get(&root)?)
    }

    /// Name and length of what a swarm is about.
    pub(super) fn title(&self, short: [u8; 20]) -> Option<(&str, u64)> {
        let content = &self.records.get(self.by_short.get(&short)?)?.content;
        Some((&content.name, content.length))
    }

    /// # Errors
    /// If the metainfo cannot be used, or there is too much of something.
    pub(super) fn enter(&mut self, new: NewRecord) -> Result<Entered, RecordError> {
        let parsed = Metainfo::parse(&new.metainfo).map_err(RecordError::Metainfo)?;
        if parsed.layer.is_none() {
            return Err(RecordError::NoPieceLayer);
        }
        let info_hash = parsed.info_hash;
        let known = self.records.get(&info_hash);
        let urls = self.urls_of(&new, &parsed)?;
        let content = ContentRecord {
            info_hash,
            name: parsed.name,
            length: parsed.id.length,
            root: parsed.id.root,
            sha256: sha256_of(&new, known),
            urls,
            metainfo: new.metainfo,
        };
        let own = new.own || known.is_some_and(|known| known.own);
        let record = Record::new(content, own)?;
        let entered = Entered {
            info_hash,
            name: record.content.name.clone(),
            length: record.content.length,
            replaced: self.take_over_urls(&new.urls, info_hash),
        };
        self.remove(info_hash);
        self.insert(record);
        self.make_room(info_hash);
        Ok(entered)
    }

    /// The new ones, then those known before, each once.
    fn urls_of(&self, new: &NewRecord, parsed: &Metainfo) -> Result<Vec<String>, RecordError> {
        let listed = parsed.web_seeds().filter_map(|url| Url::parse(&url).ok());
        let known = self.records.get(&parsed.info_hash);
        let known = known.map(|known| &known.content.urls[..]);
        let mut urls: Vec<String> = Vec::new();
        let fresh = new.urls.iter().cloned().chain(listed);
        for url in fresh.map(|url| url.to_string()) {
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
        if urls.len() > URLS_PER_CONTENT_MAX {
            return Err(RecordError::TooManyUrls(urls.len()));
        }
        for url in known.unwrap_or_default() {
            if !urls.contains(url) {
                urls.push(url.clone());
            }
        }
        urls.truncate(URLS_PER_CONTENT_MAX);
        Ok(urls)
    }

    /// Other records no longer name these URLs: what is there now is something else.
    fn take_over_urls(&mut self, urls: &[Url], info_hash: InfoHash) -> Vec<(String, InfoHash)> {
        let mut replaced = Vec::new();
        for url in urls.iter().map(ToString::to_string) {
            let Some(old) = self.by_url.get(&url).copied() else {
                continue;
            };
            if old == info_hash {
                continue;
            }
            if let Some(mut record) = self.remove(old) {
                record.content.urls.retain(|known| *known != url);
                if let Ok(record) = Record::new(record.content, record.own) {
                    self.insert(record);
                }
            }
            replaced.push((url, old));
        }
        replaced
    }

    fn insert(&mut self, mut record: Record) {
        self.last_age += 1;
        record.age = self.last_age;
        let content = &record.content;
        let info_hash = content.info_hash;
        for url in &content.urls {
            self.by_url.insert(url.clone(), info_hash);
        }
        if let Some(sha256) = content.sha256
            && !self.is_own(self.by_sha256.get(&sha256))
        {
            self.by_sha256.insert(sha256, info_hash);
        }
        self.by_root.insert(content.root, info_hash);
        self.by_short.insert(info_hash.truncated(), info_hash);
        self.by_age.insert(record.age, info_hash);
        self.bytes += record.bytes();
        self.records.insert(info_hash, record);
    }

    fn is_own(&self, info_hash: Option<&InfoHash>) -> bool {
        info_hash
            .and_then(|info_hash| self.records.get(info_hash))
            .is_some_and(|record| record.own)
    }

    fn remove(&mut self, info_hash: InfoHash) -> Option<Record> {
        let record = self.records.remove(&info_hash)?;
        let content = &record.content;
        for url in &content.urls {
            remove_if(&mut self.by_url, url, info_hash);
        }
        if let Some(sha256) = &content.sha256 {
            remove_if(&mut self.by_sha256, sha256, info_hash);
        }
        remove_if(&mut self.by_root, &content.root, info_hash);
        remove_if(&mut self.by_short, &info_hash.truncated(), info_hash);
        self.by_age.remove(&record.age);
        self.bytes -= record.bytes();
        Some(record)
    }

    fn make_room(&mut self, keep: InfoHash) {
        while self.records.len() > RECORDS_MAX || self.bytes > RECORDS_BYTES_MAX {
            let oldest = self.by_age.values().find(|old| **old != keep).copied();
            match oldest {
                Some(oldest) => self.remove(oldest),
                None => return,
            };
        }
    }

    pub(super) fn check(&self) {
        debug_assert_eq!(self.records.len(), self.by_age.len());
        debug_assert_eq!(self.records.len(), self.by_short.len());
        let known = |hash: &InfoHash| self.records.contains_key(hash);
        debug_assert!(self.by_url.values().all(known));
        debug_assert!(self.by_root.values().all(known));
        debug_assert!(self.by_sha256.values().all(known));
        let bytes: usize = self.records.values().map(Record::bytes).sum();
        debug_assert_eq!(bytes, self.bytes);
    }
}

impl Record {
    fn new(content: ContentRecord, own: bool) -> Result<Self, RecordError> {
        let json = Bytes::from(serde_json::to_vec(&content).unwrap_or_default());
        if json.len() > CONTENT_MESSAGE_MAX {
            return Err(RecordError::TooLarge(json.len()));
        }
        Ok(Self {
            content,
            json,
            own,
            age: 0,
        })
    }

    fn bytes(&self) -> usize {
        let urls: usize = self.content.urls.iter().map(String::len).sum();
        self.json.len() + self.content.metainfo.len() + urls * 2 + RECORD_OVERHEAD
    }
}

/// A claim does not replace what was hashed here.
fn sha256_of(new: &NewRecord, known: Option<&Record>) -> Option<Digest> {
    let known_sha256 = known.and_then(|known| known.content.sha256);
    if known.is_some_and(|known| known.own) && !new.own {
        return known_sha256.or(new.sha256);
    }
    new.sha256.or(known_sha256)
}

fn remove_if<K: Ord>(index: &mut BTreeMap<K, InfoHash>, key: &K, info_hash: InfoHash) {
    if index.get(key) == Some(&info_hash) {
        index.remove(key);
    }
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Metainfo(why) => write!(f, "{why}"),
            Self::NoPieceLayer => f.write_str("the metainfo has no piece layers"),
            Self::TooManyUrls(n) => write!(f, "{n} URLs, {URLS_PER_CONTENT_MAX} allowed"),
            Self::TooLarge(n) => write!(
                f,
                "its record takes {n} bytes, {CONTENT_MESSAGE_MAX} allowed; larger pieces make it smaller"
            ),
        }
    }
}

/// Index entries and bookkeeping of one record.
const RECORD_OVERHEAD: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Geometry, HashJob, TreeBuilder};
    use alloc::vec;

    /// The metainfo of `len` bytes of this value.
    fn metainfo(name: &str, value: u8, len: usize) -> Metainfo {
        let geometry = Geometry::new(len as u64, 16 * 1024).unwrap();
        let mut tree = TreeBuilder::new(geometry);
        for piece in 0..geometry.pieces() {
            let job = HashJob {
                chunks: vec![vec![value; geometry.piece_len(piece) as usize].into()],
                leaves: true,
                flat: None,
            };
            tree.piece(piece, &job.run().leaves).unwrap();
        }
        Metainfo::for_content(name, tree.finish().unwrap(), vec![], vec![]).unwrap()
    }

    fn new(metainfo: &Metainfo, urls: &[&str]) -> NewRecord {
        NewRecord {
            metainfo: metainfo.encode().into(),
            sha256: None,
            urls: urls.iter().map(|url| Url::parse(url).unwrap()).collect(),
            own: false,
        }
    }

    fn found(json: Option<&Bytes>) -> Option<ContentRecord> {
        json.map(|json| serde_json::from_slice(json).unwrap())
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn every_key_leads_there() {
        let mut records = Records::default();
        let mut meta = metainfo("a.bin", 1, 40_000);
        meta.urls = vec!["http://mirror/a.bin".into(), "ftp://mirror/a.bin".into()];
        let sha256 = Digest([9; 32]);
        let entered = records
            .enter(NewRecord {
                sha256: Some(sha256),
                ..new(&meta, &["http://H/a.bin"])
            })
            .unwrap();
        records.check();
        assert_eq!(entered.info_hash, meta.info_hash);
        let record = found(records.by_info_hash(meta.info_hash)).unwrap();
        assert_eq!(record.urls, ["http://h/a.bin", "http://mirror/a.bin"]);
        assert_eq!((record.length, record.root), (40_000, meta.id.root));
        assert_eq!(record.sha256, Some(sha256));
        assert_eq!(Metainfo::parse(&record.metainfo).unwrap().layer, meta.layer);
        for other in [
            records.by_url(&url("http://h:80/a.bin")),
            records.by_url(&url("http://mirror/a.bin")),
            records.by_sha256(sha256),
            records.by_root(meta.id.root),
        ] {
            assert_eq!(found(other).as_ref(), Some(&record));
        }
        assert_eq!(
            records.title(meta.info_hash.truncated()),
            Some(("a.bin", 40_000))
        );
        assert_eq!(records.by_url(&url("http://h/b.bin")), None);
    }

    #[test]
    fn a_changed_file_takes_its_url_with_it() {
        let mut records = Records::default();
        let (old, fresh) = (metainfo("a", 1, 20_000), metainfo("a", 2, 20_000));
        let urls = ["http://h/a", "http://h/old"];
        records.enter(new(&old, &urls)).unwrap();
        let entered = records.enter(new(&fresh, &["http://h/a"])).unwrap();
        records.check();
        assert_eq!(
            entered.replaced,
            [("http://h/a".to_string(), old.info_hash)]
        );
        let record = found(records.by_url(&url("http://h/a"))).unwrap();
        assert_eq!(record.info_hash, fresh.info_hash);
        let record = found(records.by_info_hash(old.info_hash)).unwrap();
        assert_eq!(record.urls, ["http://h/old"]);
    }

    #[test]
    fn own_hashes_stand_above_claims() {
        let mut records = Records::default();
        let (real, fake) = (metainfo("a", 1, 20_000), metainfo("a", 2, 20_000));
        let sha256 = Some(Digest([9; 32]));
        let claim = |meta: &Metainfo| NewRecord {
            sha256,
            ..new(meta, &[])
        };
        let hash = |records: &Records| found(records.by_sha256(Digest([9; 32]))).unwrap().info_hash;
        records.enter(claim(&fake)).unwrap();
        assert_eq!(hash(&records), fake.info_hash);
        records.enter(claim(&real)).unwrap();
        assert_eq!(hash(&records), real.info_hash, "of claims the newest");
        records
            .enter(NewRecord {
                own: true,
                ..claim(&real)
            })
            .unwrap();
        records.enter(claim(&fake)).unwrap();
        assert_eq!(hash(&records), real.info_hash);
        records
            .enter(NewRecord {
                sha256: Some(Digest([7; 32])),
                ..new(&real, &[])
            })
            .unwrap();
        assert_eq!(hash(&records), real.info_hash, "and keeps its SHA-256");
        records.check();
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let mut records = Records::default();
        let mut meta = metainfo("a", 1, 40_000);
        let many: Vec<_> = (0..40).map(|n| alloc::format!("http://h/{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(
            records.enter(new(&meta, &many)),
            Err(RecordError::TooManyUrls(40))
        );
        meta.layer = None;
        let error = records.enter(new(&meta, &[])).unwrap_err();
        assert!(
            matches!(error, RecordError::NoPieceLayer | RecordError::Metainfo(_)),
            "{error}"
        );
        let mut junk = new(&meta, &[]);
        junk.metainfo = Bytes::from_static(b"d4:infoi1ee");
        assert!(matches!(records.enter(junk), Err(RecordError::Metainfo(_))));
        assert_eq!(records.len(), 0);
        records.check();
    }

    #[test]
    fn the_oldest_make_room() {
        let mut records = Records::default();
        let hashes: Vec<_> = (0..5)
            .map(|n| {
                let meta = metainfo("a", n, 20_000);
                records.enter(new(&meta, &["http://h/a"])).unwrap();
                meta.info_hash
            })
            .collect();
        records.bytes += RECORDS_BYTES_MAX;
        records.make_room(hashes[4]);
        assert_eq!(records.len(), 1);
        records.bytes -= RECORDS_BYTES_MAX;
        records.check();
        assert!(records.by_info_hash(hashes[4]).is_some());
    }
}
