//! The server's side of one connection: requests in, answers out, one after another.
//!
//! Decides where a request ends, what is malformed (answered here, then closed), how an answer is framed
//! and whether the connection lives on. Never decides what a request means. The parent feeds `on_*`, then
//! asks [`ServerConnection::poll`] until `None`, and answers each request with
//! [`ServerConnection::respond`]; a pipelined request comes out of `poll` once the answer before it is
//! complete.
//!
//! Invariants: at most `HTTP_SERVER_WINDOW` bytes wait unparsed; a head is at most `HTTP_HEAD_MAX` long;
//! a request that does not arrive in time, or an answer that is not taken, ends the connection.
//!
//! Spec: RFC 9110, RFC 9112. A POST without `Content-Length` has no body (RFC 9112 §6.3), so 411 is only
//! for HTTP/1.0, where it is not told apart from a forgotten length.
//! Tests: `http/server_tests.rs`; fuzz body `http_head`.

use crate::http::answer::{Answer, AnswerBody, IncomingRequest};
use crate::http::body::{BodyError, BodyReader, Framing};
use crate::http::date::format_http_date;
use crate::http::range::number;
use crate::ids::{FileId, StreamId};
use crate::limits::{
    HTTP_BODY_TIMEOUT, HTTP_HEAD_MAX, HTTP_HEAD_TIMEOUT, HTTP_IDLE_TIMEOUT, HTTP_SEND_TIMEOUT,
    HTTP_SERVER_WINDOW, SEND_PER_STREAM,
};
use crate::machine::{CloseHow, Effects};
use crate::time::{Deadline, Mono, Now};
use ::http::header::{self, HeaderMap};
use ::http::{Method, Request, StatusCode, Version};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use bytes::{Bytes, BytesMut};
use core::fmt::Write as _;
use ureq_proto::parser::try_parse_request;

/// One accepted connection.
#[derive(Debug)]
pub struct ServerConnection {
    stream: StreamId,
    body_max: usize,
    state: State,
    /// Received and not yet parsed.
    input: BytesMut,
    /// Taken from `input` and not yet granted again.
    owed: u32,
    /// Given to the stream and not yet reported sent.
    unsent: u64,
    /// The connection ends after the current answer.
    close_after: bool,
    /// When the current wait ends badly.
    until: Mono,
}

#[derive(Debug)]
enum State {
    /// Waiting for a request, or in the middle of its head.
    Head,
    Body(Box<Collecting>),
    /// The parent has the request.
    Answering {
        head_only: bool,
        http10: bool,
    },
    /// An answer's body is on its way.
    Sending(Sending),
    /// Flushing the last answer.
    Closing,
    Gone,
}

/// A request whose body is on its way.
#[derive(Debug)]
struct Collecting {
    request: IncomingRequest,
    reader: BodyReader,
    collected: BytesMut,
}

#[derive(Clone, Copy, Debug)]
enum Sending {
    Length(u64),
    Chunked,
    UntilClose,
}

impl ServerConnection {
    /// Take over an accepted stream. Bodies of requests longer than `body_max` are refused with 413.
    pub fn new(now: Now, stream: StreamId, body_max: usize, fx: &mut Effects) -> Self {
        fx.grant(stream, HTTP_SERVER_WINDOW);
        Self {
            stream,
            body_max,
            state: State::Head,
            input: BytesMut::new(),
            owed: 0,
            unsent: 0,
            close_after: false,
            until: now.mono + HTTP_IDLE_TIMEOUT,
        }
    }

    pub const fn stream(&self) -> StreamId {
        self.stream
    }

    /// Nothing more will come or go.
    pub const fn is_gone(&self) -> bool {
        matches!(self.state, State::Gone)
    }

    /// Bytes of body that may be handed over now.
    pub fn room(&self) -> u32 {
        let room = u64::from(SEND_PER_STREAM).saturating_sub(self.unsent);
        u32::try_from(room).unwrap_or(SEND_PER_STREAM)
    }

    /// Bytes handed to the stream and not yet reported sent, heads included.
    pub const fn unsent(&self) -> u64 {
        self.unsent
    }

    pub fn on_bytes(&mut self, now: Now, bytes: &Bytes) {
        if matches!(self.state, State::Closing | State::Gone) {
            return;
        }
        if matches!(self.state, State::Head) && self.input.is_empty() {
            self.until = now.mono + HTTP_HEAD_TIMEOUT;
        }
        self.input.extend_from_slice(bytes);
    }

    pub fn on_sent(&mut self, now: Now, len: u32) {
        self.unsent = self.unsent.saturating_sub(len.into());
        if matches!(self.state, State::Sending(_) | State::Closing) {
            self.until = now.mono + HTTP_SEND_TIMEOUT;
        }
    }

    pub fn on_closed(&mut self) {
        self.state = State::Gone;
        self.input.clear();
    }

    pub fn on_tick(&mut self, now: Now, fx: &mut Effects) {
        if self
            .deadline()
            .is_none_or(|deadline| now.mono < deadline.at)
        {
            return;
        }
        match self.state {
            State::Head if self.input.is_empty() => self.close(now, fx),
            State::Head | State::Body(_) => {
                self.refuse(
                    now,
                    StatusCode::REQUEST_TIMEOUT,
                    "request took too long",
                    fx,
                );
            }
            _ => self.abort(fx),
        }
    }

    pub fn deadline(&self) -> Option<Deadline> {
        let why = match self.state {
            State::Head if self.input.is_empty() => "http idle",
            State::Head => "http request head",
            State::Body(_) => "http request body",
            State::Sending(_) if self.unsent > 0 => "http answer not taken",
            State::Closing => "http close",
            _ => return None,
        };
        Some(Deadline::new(self.until, why))
    }

    /// The next whole request; `None` while there is none or an answer is still under way.
    pub fn poll(&mut self, now: Now, fx: &mut Effects) -> Option<IncomingRequest> {
        let request = self.next_request(now, fx);
        if self.owed > 0 && !self.is_gone() {
            fx.grant(self.stream, self.owed);
            self.owed = 0;
        }
        request
    }

    /// Answer the request that `poll` gave. True if the body is now to be sent with `send_body`; false for
    /// a complete answer, and for `HEAD`.
    pub fn respond(&mut self, now: Now, answer: &Answer, fx: &mut Effects) -> bool {
        let State::Answering { head_only, http10 } = self.state else {
            return false;
        };
        let bodiless = answer.status.is_informational()
            || matches!(
                answer.status,
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            );
        let sending = match answer.body {
            AnswerBody::Full(ref bytes) => Sending::Length(bytes.len() as u64),
            AnswerBody::Length(len) => Sending::Length(len),
            AnswerBody::Unknown if http10 => {
                self.close_after = true;
                Sending::UntilClose
            }
            AnswerBody::Unknown => Sending::Chunked,
        };
        let head = self.answer_head(now, answer, (!bodiless).then_some(sending), http10);
        self.send(fx, Bytes::from(head));
        self.until = now.mono + HTTP_SEND_TIMEOUT;
        self.state = State::Sending(sending);
        if bodiless || head_only {
            self.answered(now, fx);
        } else if let AnswerBody::Full(bytes) = &answer.body {
            self.send(fx, bytes.clone());
            self.answered(now, fx);
        } else if let Sending::Length(0) = sending {
            self.answered(now, fx);
        } else {
            return true;
        }
        false
    }

    /// Hand over a part of the answer's body. With a known length the answer is complete when all of it
    /// was handed over; bytes beyond it are dropped.
    pub fn send_body(&mut self, now: Now, mut bytes: Bytes, fx: &mut Effects) {
        if bytes.is_empty() {
            return;
        }
        if self.unsent == 0 {
            self.until = now.mono + HTTP_SEND_TIMEOUT;
        }
        match self.state {
            State::Sending(Sending::Length(left)) => {
                bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - bytes.len() as u64;
                self.state = State::Sending(Sending::Length(left));
                self.send(fx, bytes);
                if left == 0 {
                    self.answered(now, fx);
                }
            }
            State::Sending(Sending::Chunked) => {
                self.send(fx, Bytes::from(format!("{:x}\r\n", bytes.len())));
                self.send(fx, bytes);
                self.send(fx, Bytes::from_static(b"\r\n"));
            }
            State::Sending(Sending::UntilClose) => self.send(fx, bytes),
            _ => {}
        }
    }

    /// Hand over a part of the answer's body that lies in a file: as many bytes as are left of a known length, at
    /// most. Nothing for an answer without one: its chunks would have to be framed.
    pub fn send_file(&mut self, now: Now, file: FileId, offset: u64, len: u32, fx: &mut Effects) {
        let State::Sending(Sending::Length(left)) = self.state else {
            return;
        };
        if self.unsent == 0 {
            self.until = now.mono + HTTP_SEND_TIMEOUT;
        }
        let len = u32::try_from(left).unwrap_or(u32::MAX).min(len);
        self.unsent += u64::from(len);
        fx.send_file(self.stream, file, offset, len);
        let left = left - u64::from(len);
        self.state = State::Sending(Sending::Length(left));
        if left == 0 {
            self.answered(now, fx);
        }
    }

    /// The body is complete. One that is shorter than promised can only be broken off.
    pub fn finish(&mut self, now: Now, fx: &mut Effects) {
        match self.state {
            State::Sending(Sending::Chunked) => {
                self.send(fx, Bytes::from_static(b"0\r\n\r\n"));
                self.answered(now, fx);
            }
            State::Sending(Sending::UntilClose) => self.answered(now, fx),
            State::Sending(Sending::Length(_)) => self.abort(fx),
            _ => {}
        }
    }

    /// End the connection at once.
    pub fn abort(&mut self, fx: &mut Effects) {
        if !self.is_gone() {
            fx.close(self.stream, CloseHow::Abort);
            self.on_closed();
        }
    }

    /// Take no more requests; what was answered still leaves.
    pub fn close(&mut self, now: Now, fx: &mut Effects) {
        if !matches!(self.state, State::Closing | State::Gone) {
            fx.close(self.stream, CloseHow::Flush);
            self.state = State::Closing;
            self.until = now.mono + HTTP_SEND_TIMEOUT;
            self.input.clear();
        }
    }

    /// The current answer is the last one on this connection.
    pub fn close_after_answer(&mut self) {
        self.close_after = true;
    }

    fn next_request(&mut self, now: Now, fx: &mut Effects) -> Option<IncomingRequest> {
        if matches!(self.state, State::Head) && !self.input.is_empty() {
            match self.parse_head() {
                Ok(None) => return None,
                Ok(Some((request, framing))) => self.begin_body(now, request, framing, fx),
                Err(Refusal(status, why)) => {
                    self.refuse(now, status, why, fx);
                    return None;
                }
            }
        }
        match self.collect_body() {
            Ok(Some(request)) => {
                self.state = State::Answering {
                    head_only: request.method == Method::HEAD,
                    http10: request.http10,
                };
                Some(request)
            }
            Ok(None) => None,
            Err(Refusal(status, why)) => {
                self.refuse(now, status, why, fx);
                None
            }
        }
    }

    fn parse_head(&mut self) -> Result<Option<(IncomingRequest, Framing)>, Refusal> {
        // Empty lines before a request line are tolerated (RFC 9112 §2.2).
        while let Some(b'\r' | b'\n') = self.input.first() {
            let _ = self.input.split_to(1);
            self.owed += 1;
        }
        match try_parse_request::<HEADERS_MAX>(&self.input) {
            Ok(Some((len, _))) if len > HTTP_HEAD_MAX => Err(TOO_LARGE),
            Ok(Some((len, head))) => {
                let _ = self.input.split_to(len);
                self.owed = self
                    .owed
                    .saturating_add(u32::try_from(len).unwrap_or_default());
                self.close_after = !keeps_alive(&head);
                let framing = framing(&head)?;
                let (parts, ()) = head.into_parts();
                let request = IncomingRequest {
                    method: parts.method,
                    uri: parts.uri,
                    headers: parts.headers,
                    body: Bytes::new(),
                    http10: parts.version == Version::HTTP_10,
                };
                Ok(Some((request, framing)))
            }
            Ok(None) if self.input.len() >= HTTP_HEAD_MAX => Err(TOO_LARGE),
            Ok(None) => Ok(None),
            Err(ureq_proto::Error::HttpParseTooManyHeaders) => Err(TOO_LARGE),
            Err(_) => Err(Refusal(StatusCode::BAD_REQUEST, "malformed request")),
        }
    }

    fn begin_body(
        &mut self,
        now: Now,
        request: IncomingRequest,
        framing: Framing,
        fx: &mut Effects,
    ) {
        self.until = now.mono + HTTP_BODY_TIMEOUT;
        let reader = BodyReader::new(framing);
        let expects = request.headers.contains_key(header::EXPECT);
        let fits = reader
            .left()
            .is_none_or(|left| left <= self.body_max as u64);
        if expects && fits && !reader.is_ended() && !request.http10 && self.input.is_empty() {
            self.send(fx, Bytes::from_static(b"HTTP/1.1 100 Continue\r\n\r\n"));
        }
        self.state = State::Body(Box::new(Collecting {
            request,
            reader,
            collected: BytesMut::new(),
        }));
    }

    fn collect_body(&mut self) -> Result<Option<IncomingRequest>, Refusal> {
        let State::Body(collecting) = &mut self.state else {
            return Ok(None);
        };
        let Collecting {
            request,
            reader,
            collected,
        } = &mut **collecting;
        let too_long = Refusal(StatusCode::PAYLOAD_TOO_LARGE, "request body too long");
        let left = reader.left().unwrap_or_default();
        if (collected.len() as u64).saturating_add(left) > self.body_max as u64 {
            return Err(too_long);
        }
        let before = self.input.len();
        let mut input = self.input.split().freeze();
        loop {
            match reader.read(&mut input) {
                Ok(Some(part)) if collected.len() + part.len() > self.body_max => {
                    return Err(too_long);
                }
                Ok(Some(part)) => collected.extend_from_slice(&part),
                Ok(None) => break,
                Err(BodyError::TrailerTooLong) => return Err(TOO_LARGE),
                Err(_) => return Err(Refusal(StatusCode::BAD_REQUEST, "malformed request body")),
            }
        }
        let taken = before - input.len();
        self.owed = self
            .owed
            .saturating_add(u32::try_from(taken).unwrap_or_default());
        self.input.extend_from_slice(&input);
        if !reader.is_ended() {
            return Ok(None);
        }
        request.body = collected.split().freeze();
        Ok(Some(request.clone()))
    }

    /// The answer is complete: on to the next request, or the end.
    fn answered(&mut self, now: Now, fx: &mut Effects) {
        if self.close_after {
            self.close(now, fx);
        } else {
            self.state = State::Head;
            self.until = now.mono
                + if self.input.is_empty() {
                    HTTP_IDLE_TIMEOUT
                } else {
                    HTTP_HEAD_TIMEOUT
                };
        }
    }

    /// Answer a request that cannot be understood, and end the connection: where the next one would begin
    /// is not known.
    fn refuse(&mut self, now: Now, status: StatusCode, why: &str, fx: &mut Effects) {
        self.close_after = true;
        self.state = State::Answering {
            head_only: false,
            http10: false,
        };
        self.respond(now, &Answer::text(status, why), fx);
    }

    fn answer_head(
        &self,
        now: Now,
        answer: &Answer,
        sending: Option<Sending>,
        http10: bool,
    ) -> String {
        let reason = answer.status.canonical_reason().unwrap_or("Unknown");
        let mut head = String::with_capacity(HEAD_USUAL_LEN);
        _ = write!(head, "HTTP/1.1 {} {reason}\r\n", answer.status.as_u16());
        let unix_s = now.wall.unix_us.div_euclid(1_000_000);
        let mut field = |name: &str, value: &str| {
            for part in [name, ": ", value, "\r\n"] {
                head.push_str(part);
            }
        };
        field("date", &format_http_date(unix_s));
        for (name, value) in &answer.headers {
            if let Ok(value) = value.to_str() {
                field(name.as_str(), value);
            }
        }
        match sending {
            Some(Sending::Length(len)) => field("content-length", &format!("{len}")),
            Some(Sending::Chunked) => field("transfer-encoding", "chunked"),
            Some(Sending::UntilClose) | None => {}
        }
        if self.close_after {
            field("connection", "close");
        } else if http10 {
            field("connection", "keep-alive");
        }
        head.push_str("\r\n");
        head
    }

    fn send(&mut self, fx: &mut Effects, bytes: Bytes) {
        self.unsent += bytes.len() as u64;
        fx.send(self.stream, bytes);
    }
}

/// A head of ours is hardly ever longer.
const HEAD_USUAL_LEN: usize = 512;

/// A status and a line of text for a request that is malformed.
struct Refusal(StatusCode, &'static str);

/// How a request's body ends (RFC 9112 §6.3). Anything two readers could understand differently is refused.
fn framing(head: &Request<()>) -> Result<Framing, Refusal> {
    let bad = |why| Err(Refusal(StatusCode::BAD_REQUEST, why));
    let http10 = head.version() == Version::HTTP_10;
    let headers = head.headers();
    let hosts = headers.get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && !http10) {
        return bad("exactly one Host is needed");
    }
    if let Some(expect) = headers.get(header::EXPECT)
        && !expect.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return Err(Refusal(
            StatusCode::EXPECTATION_FAILED,
            "unknown expectation",
        ));
    }
    let length = content_length(headers)?;
    if headers.contains_key(header::TRANSFER_ENCODING) {
        if length.is_some() || http10 {
            return bad("ambiguous length of the request body");
        }
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        let chunked = codings
            .next()
            .is_some_and(|c| c.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if !chunked || codings.next().is_some() {
            return Err(Refusal(
                StatusCode::NOT_IMPLEMENTED,
                "unknown transfer coding",
            ));
        }
        return Ok(Framing::Chunked);
    }
    match length {
        Some(length) => Ok(Framing::Length(length)),
        None if http10 && matches!(*head.method(), Method::POST | Method::PUT) => Err(Refusal(
            StatusCode::LENGTH_REQUIRED,
            "Content-Length is needed",
        )),
        None => Ok(Framing::Empty),
    }
}

/// Several equal lengths are one; different ones are an attack.
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let mut length = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        for part in value.to_str().unwrap_or_default().split(',') {
            match number(part.trim()) {
                Some(len) if length.is_none_or(|length| length == len) => length = Some(len),
                _ => return Err(Refusal(StatusCode::BAD_REQUEST, "malformed Content-Length")),
            }
        }
    }
    Ok(length)
}

fn keeps_alive(head: &Request<()>) -> bool {
    let says = |token: &str| {
        head.headers()
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|option| option.trim().eq_ignore_ascii_case(token))
    };
    !says("close") && (head.version() == Version::HTTP_11 || says("keep-alive"))
}

const TOO_LARGE: Refusal = Refusal(
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "request head too large",
);

/// Fields in a request head.
const HEADERS_MAX: usize = 100;
