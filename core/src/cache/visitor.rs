//! One client of the cache, and the part of an object it is being sent.

use super::X_CACHE;
use super::object::{Object, Piece};
use super::orders::{Id, Orders};
use crate::http::range::{Asked, content_range_field};
use crate::http::{
    Answer, AnswerBody, IncomingRequest, ServerConnection, Url, if_none_match_hits, if_range_holds,
    parse_http_date,
};
use crate::ids::StreamId;
use crate::machine::Effects;
use crate::time::Now;
use ::http::header;
use ::http::{Method, StatusCode};
use bytes::Bytes;
use core::ops::Range;

#[derive(Debug)]
pub(super) struct Visitor {
    pub connection: ServerConnection,
    pub transfer: Option<Transfer>,
    /// What it was sent last.
    pub latest: Option<Id>,
}

/// One request for an object, from its arrival to its last byte.
#[derive(Debug)]
pub(super) struct Transfer {
    pub request: IncomingRequest,
    pub url: Url,
    /// `None` while the origin is being asked.
    pub object: Option<Id>,
    /// It is answered by this, not by an object; and whether its head was.
    pub passing: Option<Id>,
    pub is_passed: bool,
    /// What is sent once the first byte is there.
    head: Option<Answer>,
    /// Not yet taken from the object.
    left: Range<u64>,
}

/// Where a client stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pumped {
    /// It has to take bytes first, or the disk to answer.
    Going,
    /// The bytes it needs next are not here.
    Blocked,
    Done,
}

/// How an answer came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Hit,
    Miss,
    /// The origin could not be asked whether it still holds.
    Stale,
}

impl Mark {
    const fn text(self) -> &'static str {
        match self {
            Self::Hit => "HIT",
            Self::Miss => "MISS",
            Self::Stale => "STALE",
        }
    }
}

impl Transfer {
    pub(super) const fn new(request: IncomingRequest, url: Url) -> Self {
        Self {
            request,
            url,
            object: None,
            passing: None,
            is_passed: false,
            head: None,
            left: 0..0,
        }
    }

    pub(super) const fn left(&self) -> &Range<u64> {
        &self.left
    }

    pub(super) const fn is_answered(&self) -> bool {
        self.is_passed || self.head.is_none() && self.object.is_some()
    }
}

impl Visitor {
    pub(super) fn new(now: Now, stream: StreamId, fx: &mut Effects) -> Self {
        Self {
            connection: ServerConnection::new(now, stream, 0, fx),
            transfer: None,
            latest: None,
        }
    }

    /// End the request with this answer, if it has none yet; else break the answer off.
    pub(super) fn refuse(&mut self, now: Now, answer: &Answer, fx: &mut Effects) {
        let answered = self.transfer.take().is_some_and(|t| t.is_answered());
        if answered {
            self.connection.finish(now, fx);
        } else {
            self.connection.respond(now, answer, fx);
        }
    }

    /// Decide what of the object is sent. True if bytes are; else it is answered.
    pub(super) fn enter(
        &mut self,
        now: Now,
        object: &Object,
        mut mark: impl FnMut(&Range<u64>) -> Mark,
        via: &str,
        fx: &mut Effects,
    ) -> bool {
        let Some(transfer) = &mut self.transfer else {
            return false;
        };
        let (status, range) = choose(&transfer.request, object);
        let body = match status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                AnswerBody::Length(range.end - range.start)
            }
            _ => AnswerBody::Full(Bytes::new()),
        };
        let content_type = object.content_type.as_deref();
        let mut answer = Answer::new(status, body)
            .with(header::ACCEPT_RANGES, "bytes")
            .with(
                header::CONTENT_TYPE,
                content_type.unwrap_or("application/octet-stream"),
            )
            .with(header::VIA, &alloc::format!("1.1 {via}"))
            .with(X_CACHE, mark(&range).text());
        if let Some(validator) = &object.validator {
            if let Some(etag) = &validator.etag {
                answer = answer.with(header::ETAG, etag);
            }
            if let Some(date) = &validator.last_modified {
                answer = answer.with(header::LAST_MODIFIED, date);
            }
        }
        if status == StatusCode::PARTIAL_CONTENT {
            let field = content_range_field(&range, object.length);
            answer = answer.with(header::CONTENT_RANGE, &field);
        } else if status == StatusCode::RANGE_NOT_SATISFIABLE {
            let field = alloc::format!("bytes */{}", object.length);
            answer = answer.with(header::CONTENT_RANGE, &field);
        }
        if transfer.request.method == Method::HEAD || range.is_empty() {
            self.connection.respond(now, &answer, fx);
            self.transfer = None;
            return false;
        }
        transfer.object = Some(object.id);
        self.latest = Some(object.id);
        transfer.head = Some(answer);
        transfer.left = range;
        true
    }

    /// Move on what is here: from memory or disk to the connection. How many bytes were handed over.
    pub(super) fn pump(
        &mut self,
        now: Now,
        object: &mut Object,
        orders: &mut Orders,
    ) -> (Pumped, u64) {
        let mut handed = 0;
        let Some(transfer) = &mut self.transfer else {
            return (Pumped::Done, handed);
        };
        loop {
            if transfer.left.is_empty() {
                self.transfer = None;
                return (Pumped::Done, handed);
            }
            let room = self.connection.room();
            if room == 0 || self.connection.is_gone() {
                return (Pumped::Going, handed);
            }
            let piece = object.look(&transfer.left, orders);
            let fx = &mut orders.fx;
            if matches!(piece, Piece::Here(_) | Piece::OnDisk { .. })
                && let Some(head) = transfer.head.take()
            {
                self.connection.respond(now, &head, fx);
            }
            let len = match piece {
                Piece::Here(mut bytes) => {
                    bytes.truncate(room as usize);
                    let len = bytes.len() as u64;
                    self.connection.send_body(now, bytes, fx);
                    len
                }
                Piece::OnDisk { file, len } => {
                    let (at, len) = (transfer.left.start, len.min(room));
                    self.connection.send_file(now, file, at, len, fx);
                    len.into()
                }
                Piece::Soon => return (Pumped::Going, handed),
                Piece::Missing => return (Pumped::Blocked, handed),
            };
            transfer.left.start += len;
            handed += len;
        }
    }
}

/// Status, and what part of the object goes with it (RFC 9110 §13.2.2).
fn choose(request: &IncomingRequest, object: &Object) -> (StatusCode, Range<u64>) {
    let validator = object.validator.as_ref();
    let etag = validator.and_then(|validator| validator.etag.as_deref());
    let date = validator.and_then(|validator| validator.last_modified.as_deref());
    let (etag, date) = (etag.unwrap_or_default(), date.unwrap_or_default());
    let unmodified = match request.header(header::IF_NONE_MATCH) {
        Some(tags) => !etag.is_empty() && if_none_match_hits(tags, etag),
        None => request
            .header(header::IF_MODIFIED_SINCE)
            .and_then(parse_http_date)
            .is_some_and(|since_s| parse_http_date(date).is_some_and(|at_s| at_s <= since_s)),
    };
    if unmodified {
        return (StatusCode::NOT_MODIFIED, 0..0);
    }
    // Nothing that begins with W/ equals what If-Range may name.
    let strong = if etag.starts_with("W/") { "" } else { etag };
    let holds = request
        .header(header::IF_RANGE)
        .is_none_or(|field| !field.is_empty() && if_range_holds(field, strong, date));
    let asked = request
        .header(header::RANGE)
        .filter(|_| holds && request.method == Method::GET)
        .map_or(Asked::Whole, |range| Asked::of(range, object.length));
    match asked {
        Asked::Whole => (StatusCode::OK, 0..object.length),
        Asked::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Asked::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, 0..0),
    }
}
