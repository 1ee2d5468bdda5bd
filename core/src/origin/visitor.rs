//! One connection to the origin, and the file it is being sent.

use super::path::file_path;
use crate::http::range::{Asked, content_range_field};
use crate::http::{
    Answer, AnswerBody, IncomingRequest, ServerConnection, format_http_date, if_none_match_hits,
    if_range_holds, parse_http_date,
};
use crate::ids::{FileId, OpId, StreamId};
use crate::limits::{ORIGIN_READ_AHEAD, ORIGIN_READ_LEN};
use crate::machine::{DiskDone, DiskError, DiskErrorKind, DiskOp, Effects, OpenHow};
use crate::time::{Deadline, Now};
use ::http::header;
use ::http::{Method, StatusCode};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use bytes::Bytes;
use core::ops::Range;

#[derive(Debug)]
pub(super) struct Visitor {
    connection: ServerConnection,
    transfer: Option<Transfer>,
    /// Path of the latest request, and how much of its body was handed over.
    latest: (String, u64),
}

/// One request for a file, from open to close.
#[derive(Debug)]
struct Transfer {
    request: IncomingRequest,
    path: String,
    file: FileId,
    state: State,
    /// The one operation outstanding.
    pending: Option<OpId>,
    status: StatusCode,
    /// What is still to be read.
    unread: Range<u64>,
    /// Read, in order, not yet handed over.
    ready: VecDeque<Bytes>,
    ready_len: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Looking,
    Opening,
    Sending,
}

impl Visitor {
    pub(super) fn new(now: Now, stream: StreamId, fx: &mut Effects) -> Self {
        Self {
            connection: ServerConnection::new(now, stream, 0, fx),
            transfer: None,
            latest: (String::new(), 0),
        }
    }

    pub(super) fn on_bytes(&mut self, now: Now, bytes: &Bytes) {
        self.connection.on_bytes(now, bytes);
    }

    pub(super) fn on_sent(&mut self, now: Now, len: u32) {
        self.connection.on_sent(now, len);
    }

    pub(super) fn on_tick(&mut self, now: Now, fx: &mut Effects) {
        self.connection.on_tick(now, fx);
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.connection.deadline()
    }

    pub(super) fn next_request(&mut self, now: Now, fx: &mut Effects) -> Option<IncomingRequest> {
        self.connection.poll(now, fx)
    }

    pub(super) fn answer_json(&mut self, now: Now, json: Bytes, fx: &mut Effects) {
        let answer = Answer::json(StatusCode::OK, json).with(header::CACHE_CONTROL, "no-store");
        self.connection.respond(now, &answer, fx);
    }

    /// Take a request up. It is answered here, or when the disk has answered.
    pub(super) fn begin(
        &mut self,
        now: Now,
        dir: &str,
        request: &IncomingRequest,
        fx: &mut Effects,
    ) {
        if !matches!(request.method, Method::GET | Method::HEAD) {
            let answer = Answer::method_not_allowed("GET, HEAD");
            self.connection.respond(now, &answer, fx);
            return;
        }
        let Some(path) = file_path(request.path()) else {
            return self.refuse(now, StatusCode::NOT_FOUND, fx);
        };
        self.latest = (String::from(request.path()), 0);
        let pending = fx.disk(DiskOp::Stat {
            path: format!("{dir}{path}"),
        });
        self.transfer = Some(Transfer {
            request: request.clone(),
            file: fx.file(),
            state: State::Looking,
            pending: Some(pending),
            status: StatusCode::OK,
            unread: 0..0,
            ready: VecDeque::new(),
            ready_len: 0,
            path: format!("{dir}{path}"),
        });
    }

    pub(super) fn on_disk(
        &mut self,
        now: Now,
        op: OpId,
        done: Result<DiskDone, DiskError>,
        fx: &mut Effects,
    ) {
        let Some(transfer) = self.transfer.as_mut().filter(|t| t.pending == Some(op)) else {
            return;
        };
        transfer.pending = None;
        match (transfer.state, done) {
            (State::Looking, Ok(DiskDone::Found { is_dir: false, .. })) => {
                let path = transfer.path.clone();
                let file = transfer.file;
                transfer.state = State::Opening;
                transfer.pending = Some(fx.disk(DiskOp::Open {
                    file,
                    path,
                    how: OpenHow::Read,
                }));
            }
            (
                State::Opening,
                Ok(DiskDone::Opened {
                    len,
                    modified_unix_us,
                }),
            ) => {
                transfer.state = State::Sending;
                self.answer(now, len, modified_unix_us, fx);
            }
            (State::Sending, Ok(DiskDone::Bytes(bytes))) => {
                transfer.ready_len += bytes.len() as u64;
                transfer.ready.push_back(bytes);
                transfer.read_ahead(fx);
            }
            // Promised bytes that cannot be read: the connection can only break off.
            (State::Sending, _) => {
                self.connection.finish(now, fx);
                self.end_transfer(fx);
            }
            (State::Looking | State::Opening, done) => {
                self.transfer = None;
                self.refuse(now, status_of(&done), fx);
            }
        }
    }

    /// The file is open: decide what part of it is sent.
    fn answer(&mut self, now: Now, length: u64, modified_unix_us: i64, fx: &mut Effects) {
        let Some(transfer) = &mut self.transfer else {
            return;
        };
        let etag = format!("\"{length:x}-{modified_unix_us:x}\"");
        let modified_s = modified_unix_us.div_euclid(1_000_000);
        let last_modified = format_http_date(modified_s);
        let (status, range) = choose(&transfer.request, length, &etag, modified_s);
        let body = match status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                AnswerBody::Length(range.end - range.start)
            }
            _ => AnswerBody::Full(Bytes::new()),
        };
        let mut answer = Answer::new(status, body)
            .with(header::ACCEPT_RANGES, "bytes")
            .with(header::ETAG, &etag)
            .with(header::LAST_MODIFIED, &last_modified)
            .with(header::CONTENT_TYPE, "application/octet-stream");
        if status == StatusCode::PARTIAL_CONTENT {
            answer = answer.with(header::CONTENT_RANGE, &content_range_field(&range, length));
        } else if status == StatusCode::RANGE_NOT_SATISFIABLE {
            answer = answer.with(header::CONTENT_RANGE, &format!("bytes */{length}"));
        }
        transfer.status = status;
        if self.connection.respond(now, &answer, fx) {
            transfer.unread = range;
            transfer.read_ahead(fx);
        } else {
            self.end_transfer(fx);
        }
    }

    pub(super) fn wants_to_send(&self) -> bool {
        self.connection.room() > 0
            && !self.connection.is_gone()
            && self
                .transfer
                .as_ref()
                .is_some_and(|transfer| !transfer.ready.is_empty())
    }

    /// Hand over at most `max` bytes; how many it were.
    pub(super) fn send(&mut self, now: Now, max: usize, fx: &mut Effects) -> usize {
        let room = self.connection.room() as usize;
        let Some(transfer) = &mut self.transfer else {
            return 0;
        };
        let Some(front) = transfer.ready.front_mut() else {
            return 0;
        };
        let part = front.split_to(front.len().min(max).min(room));
        if front.is_empty() {
            transfer.ready.pop_front();
        }
        let len = part.len();
        transfer.ready_len -= len as u64;
        self.latest.1 += len as u64;
        self.connection.send_body(now, part, fx);
        transfer.read_ahead(fx);
        len
    }

    /// All of the current file was handed over.
    pub(super) fn is_done(&self) -> bool {
        self.transfer.as_ref().is_some_and(|transfer| {
            transfer.state == State::Sending
                && transfer.unread.is_empty()
                && transfer.ready.is_empty()
                && transfer.pending.is_none()
        })
    }

    pub(super) fn end_transfer(&mut self, fx: &mut Effects) {
        if let Some(transfer) = self.transfer.take()
            && transfer.state == State::Sending
        {
            fx.disk(DiskOp::Close {
                file: transfer.file,
            });
        }
    }

    /// The stream is gone. If an operation is outstanding whose file must be closed afterwards: both.
    pub(super) fn on_closed(&mut self, fx: &mut Effects) -> Option<(OpId, FileId)> {
        self.connection.on_closed();
        match &self.transfer {
            Some(Transfer {
                pending: Some(op),
                file,
                state: State::Opening | State::Sending,
                ..
            }) => {
                let orphan = (*op, *file);
                self.transfer = None;
                Some(orphan)
            }
            _ => {
                self.end_transfer(fx);
                None
            }
        }
    }

    /// The path of the latest request.
    pub(super) fn path(&self) -> &str {
        &self.latest.0
    }

    /// Bytes of the latest body that were handed over and did not leave.
    pub(super) fn unsent_body(&self) -> u64 {
        self.connection.unsent().min(self.latest.1)
    }

    /// For the log.
    pub(super) fn finished_line(&self) -> String {
        let (path, len) = &self.latest;
        self.transfer.as_ref().map_or_else(String::new, |transfer| {
            let (method, status) = (&transfer.request.method, transfer.status.as_u16());
            format!("{method} {path} {status} {len} bytes")
        })
    }

    pub(super) fn check(&self) {
        if let Some(transfer) = &self.transfer {
            assert!(
                transfer.ready_len <= ORIGIN_READ_AHEAD,
                "read too far ahead"
            );
        }
    }

    fn refuse(&mut self, now: Now, status: StatusCode, fx: &mut Effects) {
        let reason = status.canonical_reason().unwrap_or("error");
        self.connection
            .respond(now, &Answer::text(status, reason), fx);
    }
}

impl Transfer {
    /// One read at a time, while what is read and not handed over leaves room for it.
    fn read_ahead(&mut self, fx: &mut Effects) {
        let len = (self.unread.end - self.unread.start).min(ORIGIN_READ_LEN.into());
        if self.pending.is_some() || len == 0 || self.ready_len + len > ORIGIN_READ_AHEAD {
            return;
        }
        let offset = self.unread.start;
        self.unread.start += len;
        let (file, len) = (self.file, u32::try_from(len).unwrap_or(ORIGIN_READ_LEN));
        self.pending = Some(fx.disk(DiskOp::Read { file, offset, len }));
    }
}

/// Status, and what part of the file goes with it (RFC 9110 §13.2.2).
fn choose(
    request: &IncomingRequest,
    length: u64,
    etag: &str,
    modified_s: i64,
) -> (StatusCode, Range<u64>) {
    let unmodified = match request.header(header::IF_NONE_MATCH) {
        Some(tags) => if_none_match_hits(tags, etag),
        None => request
            .header(header::IF_MODIFIED_SINCE)
            .and_then(parse_http_date)
            .is_some_and(|since_s| modified_s <= since_s),
    };
    if unmodified {
        return (StatusCode::NOT_MODIFIED, 0..0);
    }
    let holds = request
        .header(header::IF_RANGE)
        .is_none_or(|field| if_range_holds(field, etag, &format_http_date(modified_s)));
    let asked = request
        .header(header::RANGE)
        .filter(|_| holds && request.method == Method::GET)
        .map_or(Asked::Whole, |range| Asked::of(range, length));
    match asked {
        Asked::Whole => (StatusCode::OK, 0..length),
        Asked::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Asked::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, 0..0),
    }
}

fn status_of(done: &Result<DiskDone, DiskError>) -> StatusCode {
    match done {
        // A folder.
        Ok(DiskDone::Found { .. }) => StatusCode::NOT_FOUND,
        Err(error) => match error.kind {
            DiskErrorKind::NotFound => StatusCode::NOT_FOUND,
            DiskErrorKind::Denied => StatusCode::FORBIDDEN,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        },
        Ok(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
