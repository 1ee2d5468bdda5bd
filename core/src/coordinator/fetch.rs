//! One file of an origin, fetched once from its first byte to its last and hashed on the way.
//!
//! Decides how the stream is cut into pieces and how much of it waits for the hash thread; that holds the
//! origin back when hashing is slower. Never keeps a byte longer than its piece takes to hash, never
//! decides whether the address may be fetched (the parent says so, for each redirect too), never tries
//! twice. A version that was hashed before is not fetched again: the origin is asked for another one only,
//! and by its validators and length it is told whether what comes is that. Invariants: one hash job at a time (the hash of the whole file runs through all of them); at
//! most `PIECES_WAITING_MAX` whole pieces wait.
//!
//! Tested in `core/tests/coordination.rs`.

use super::records::NewRecord;
use crate::content::{FlatHash, Geometry, HashDone, HashJob, Metainfo, TreeBuilder};
use crate::http::{
    ClientEvent, ClientRequest, Connection, Framing, Proxies, ResponseHead, Url, Validator,
    redirect,
};
use crate::machine::{Effects, Input};
use crate::time::{Deadline, Now};
use ::http::StatusCode;
use ::http::header;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

#[derive(Debug)]
pub(super) struct Fetch {
    /// As it was asked for.
    url: Url,
    /// Where redirects have led.
    at: Url,
    redirects: u8,
    connection: Connection,
    /// The version hashed before; fetched again only if there is another one now.
    known: Option<Version>,
    validator: Option<Validator>,
    cut: Option<Cut>,
}

/// What tells one version of a file from another, short of hashing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    length: u64,
    validator: Option<Validator>,
}

/// The file in the making.
#[derive(Debug)]
struct Cut {
    geometry: Geometry,
    tree: TreeBuilder,
    received: u64,
    /// The piece that is arriving.
    filling: Vec<Bytes>,
    filled: u32,
    /// Whole pieces, in order.
    waiting: VecDeque<Vec<Bytes>>,
    /// `None` while a job is out.
    flat: Option<FlatHash>,
    /// The next piece to be hashed, or the one that is.
    piece: u32,
    /// Received and not yet given back as credit.
    held: usize,
}

/// Where a fetch goes on.
enum Step {
    Here,
    /// At another address, over another connection.
    Elsewhere,
    /// Nowhere: it is still the version known.
    Unchanged,
}

/// What came of a fetch.
pub(super) type Ended = Result<Fetched, String>;

#[derive(Debug)]
pub(super) enum Fetched {
    File(NewRecord, Version),
    Unchanged,
}

impl Fetch {
    pub(super) fn start(
        now: Now,
        url: Url,
        known: Option<Version>,
        proxies: &Proxies,
        fx: &mut Effects,
    ) -> Self {
        Self {
            connection: begin(now, &url, known.as_ref(), proxies, fx),
            at: url.clone(),
            url,
            redirects: 0,
            known,
            validator: None,
            cut: None,
        }
    }

    pub(super) fn done_bytes(&self) -> u64 {
        self.cut.as_ref().map_or(0, |cut| cut.received)
    }

    /// 0 while unknown.
    pub(super) fn length(&self) -> u64 {
        self.cut.as_ref().map_or(0, |cut| cut.geometry.length())
    }

    pub(super) fn on_stream(
        &mut self,
        now: Now,
        input: &Input,
        may_fetch: impl Fn(&Url) -> bool,
        proxies: &Proxies,
        fx: &mut Effects,
    ) -> Option<Ended> {
        let mut events = Vec::new();
        self.connection.on_input(now, input, fx, &mut events);
        self.settle(now, events, may_fetch, proxies, fx)
    }

    pub(super) fn on_tick(
        &mut self,
        now: Now,
        may_fetch: impl Fn(&Url) -> bool,
        proxies: &Proxies,
        fx: &mut Effects,
    ) -> Option<Ended> {
        let mut events = Vec::new();
        self.connection.on_tick(now, fx, &mut events);
        self.settle(now, events, may_fetch, proxies, fx)
    }

    pub(super) fn on_hashed(
        &mut self,
        now: Now,
        done: HashDone,
        fx: &mut Effects,
    ) -> Option<Ended> {
        let cut = self.cut.as_mut()?;
        cut.flat = done.flat;
        if let Err(why) = cut.tree.piece(cut.piece, &done.leaves) {
            return Some(Err(format!("hashing went wrong: {why}")));
        }
        cut.piece += 1;
        cut.hash_next(fx);
        if cut.has_room() {
            self.connection.consumed(now, cut.held, fx);
            cut.held = 0;
        }
        self.finished()
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.connection.deadline()
    }

    pub(super) fn abort(&mut self, fx: &mut Effects) {
        self.connection.close(fx);
    }

    fn settle(
        &mut self,
        now: Now,
        events: Vec<ClientEvent>,
        may_fetch: impl Fn(&Url) -> bool,
        proxies: &Proxies,
        fx: &mut Effects,
    ) -> Option<Ended> {
        for event in events {
            let step = match event {
                ClientEvent::Head(head) => self.on_head(now, &head, &may_fetch, proxies, fx),
                ClientEvent::Body(bytes) => {
                    self.on_body(now, bytes, fx);
                    Ok(Step::Here)
                }
                ClientEvent::Done { .. } => {
                    self.connection.close(fx);
                    Ok(Step::Here)
                }
                ClientEvent::Fault(fault) => Err(fault.to_string()),
            };
            match step {
                Ok(Step::Here) => {}
                // What else came with the redirect is of the connection before.
                Ok(Step::Elsewhere) => return None,
                Ok(Step::Unchanged) => {
                    self.connection.close(fx);
                    return Some(Ok(Fetched::Unchanged));
                }
                Err(why) => {
                    self.connection.close(fx);
                    return Some(Err(why));
                }
            }
        }
        self.finished()
    }

    fn on_head(
        &mut self,
        now: Now,
        head: &ResponseHead,
        may_fetch: impl Fn(&Url) -> bool,
        proxies: &Proxies,
        fx: &mut Effects,
    ) -> Result<Step, String> {
        let led = redirect(head.status, &head.headers, &self.at, self.redirects);
        if let Some(to) = led.map_err(|why| why.to_string())? {
            if !may_fetch(&to.url) {
                return Err(format!(
                    "it leads to {}, which is not on the allow list",
                    to.url.origin()
                ));
            }
            self.redirects += 1;
            self.connection.close(fx);
            self.connection = begin(now, &to.url, self.known.as_ref(), proxies, fx);
            self.at = to.url;
            return Ok(Step::Elsewhere);
        }
        if head.status == StatusCode::NOT_MODIFIED && self.known.is_some() {
            return Ok(Step::Unchanged);
        }
        if head.status != StatusCode::OK {
            return Err(format!("the origin answered {}", head.status));
        }
        if let Some(coding) = head.headers.get(header::CONTENT_ENCODING)
            && !coding.as_bytes().eq_ignore_ascii_case(b"identity")
        {
            return Err("the origin sends it encoded although it was not asked to".to_string());
        }
        let length = match head.framing {
            Framing::Length(length) => length,
            Framing::Empty => 0,
            Framing::Chunked | Framing::UntilClose => {
                return Err("the origin does not say how long it is".to_string());
            }
        };
        let version = Version {
            length,
            validator: Validator::of(&head.headers),
        };
        if self.known.as_ref().is_some_and(|known| known.is(&version)) {
            return Ok(Step::Unchanged);
        }
        self.validator = version.validator;
        self.cut = Some(Cut::new(length)?);
        Ok(Step::Here)
    }

    fn on_body(&mut self, now: Now, bytes: Bytes, fx: &mut Effects) {
        let len = bytes.len();
        let Some(cut) = &mut self.cut else {
            return;
        };
        cut.take(bytes);
        cut.hash_next(fx);
        if cut.has_room() {
            self.connection.consumed(now, len, fx);
        } else {
            cut.held += len;
        }
    }

    fn finished(&mut self) -> Option<Ended> {
        let cut = self
            .cut
            .take_if(|cut| cut.piece == cut.geometry.pieces() && cut.flat.is_some())?;
        Some(self.record(cut))
    }

    fn record(&mut self, cut: Cut) -> Ended {
        let version = Version {
            length: cut.geometry.length(),
            validator: self.validator.take(),
        };
        let sha256 = cut.flat.map(FlatHash::digest);
        let layer = cut.tree.finish().ok_or("its tree is incomplete")?;
        let urls = vec![self.url.to_string()];
        let named = self.url.file_name().unwrap_or_default();
        let metainfo = Metainfo::for_content(&named, layer.clone(), urls.clone(), Vec::new())
            .or_else(|_| Metainfo::for_content(NAMELESS, layer, urls, Vec::new()))
            .map_err(|why| why.to_string())?;
        let record = NewRecord {
            metainfo: metainfo.encode().into(),
            sha256,
            urls: vec![self.url.clone()],
            own: true,
        };
        Ok(Fetched::File(record, version))
    }
}

impl Version {
    fn is(&self, other: &Self) -> bool {
        let same = match (&self.validator, &other.validator) {
            (Some(a), Some(b)) => a.agrees_with(b),
            (a, b) => a.is_none() && b.is_none(),
        };
        same && self.length == other.length
    }
}

/// Ask for a file, or only for one that differs from what is known.
fn begin(
    now: Now,
    url: &Url,
    known: Option<&Version>,
    proxies: &Proxies,
    fx: &mut Effects,
) -> Connection {
    let mut request = ClientRequest::get(url.clone());
    if let Some(validator) = known.and_then(|known| known.validator.as_ref()) {
        if let Some(etag) = &validator.etag {
            request = request.with(header::IF_NONE_MATCH, etag);
        }
        if let Some(date) = &validator.last_modified {
            request = request.with(header::IF_MODIFIED_SINCE, date);
        }
    }
    let mut connection = Connection::open(now, url, proxies, fx);
    // Sent once the stream is open; nothing can come of it before.
    connection.start(now, request, fx, &mut Vec::new());
    connection
}

impl Cut {
    fn new(length: u64) -> Result<Self, String> {
        let mut geometry = Geometry::for_length(length).map_err(|why| why.to_string())?;
        // A record has to fit into one answer.
        while geometry.pieces() > RECORD_PIECES_MAX {
            geometry = Geometry::new(length, geometry.piece_length().saturating_mul(2))
                .map_err(|why| why.to_string())?;
        }
        Ok(Self {
            geometry,
            tree: TreeBuilder::new(geometry),
            received: 0,
            filling: Vec::new(),
            filled: 0,
            waiting: VecDeque::new(),
            flat: Some(FlatHash::default()),
            piece: 0,
            held: 0,
        })
    }

    fn take(&mut self, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let arriving = self.piece_arriving();
            let missing = self
                .geometry
                .piece_len(arriving)
                .saturating_sub(self.filled);
            if missing == 0 {
                return;
            }
            let part = bytes.split_to(bytes.len().min(missing as usize));
            self.received += part.len() as u64;
            self.filled += part.len() as u32;
            let whole = part.len() == missing as usize;
            self.filling.push(part);
            if whole {
                self.waiting.push_back(core::mem::take(&mut self.filling));
                self.filled = 0;
            }
        }
    }

    fn piece_arriving(&self) -> u32 {
        (self.received / u64::from(self.geometry.piece_length())) as u32
    }

    fn hash_next(&mut self, fx: &mut Effects) {
        if self.flat.is_some()
            && let Some(chunks) = self.waiting.pop_front()
        {
            fx.hash(HashJob {
                chunks,
                leaves: true,
                flat: self.flat.take(),
            });
        }
    }

    fn has_room(&self) -> bool {
        self.waiting.len() < PIECES_WAITING_MAX
    }
}

/// The name of a file whose address has none.
const NAMELESS: &str = "file";
/// Whole pieces waiting behind the one that is being hashed.
const PIECES_WAITING_MAX: usize = 2;
/// 4 MiB of piece layer: fits base64-encoded into `CONTENT_MESSAGE_MAX`.
const RECORD_PIECES_MAX: u32 = 131_072;
