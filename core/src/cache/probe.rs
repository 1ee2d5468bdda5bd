//! One question to an origin: is there such a file, how long is it, is it still the one we have?
//!
//! Asks for a range, which tells length, validators and whether ranges work, and is answered by servers that mind `HEAD`: for
//! the bytes that are wanted first, so that the answer is the beginning of the fetch, or for one byte if perhaps none is
//! wanted. Follows redirects as far as the gate permits. One probe for any number of clients that wait.

use super::fill::Spare;
use super::orders::Id;
use crate::http::range::{ContentRange, number, range_field};
use crate::http::{
    BegunAnswer, ClientEvent, ClientRequest, Connection, Framing, Gate, Opening, Proxies,
    ResponseHead, Route, Url, Validator, redirect,
};
use crate::ids::StreamId;
use crate::limits::{CACHE_ANSWER_MAX, CONNECT_TIMEOUT, HTTP_HEAD_MAX};
use crate::machine::{Effects, Input};
use crate::time::{Deadline, Now};
use ::http::StatusCode;
use ::http::header::{self, HeaderMap, HeaderName};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bytes::{Bytes, BytesMut};
use core::net::IpAddr;
use core::ops::Range;

#[derive(Debug)]
pub(super) struct Probe {
    pub question: Question,
    pub waiters: Vec<StreamId>,
    id: Id,
    at: Url,
    redirects: u8,
    connection: Connection,
    /// An answer that is no file, as far as it has come.
    reading: Option<Box<Said>>,
    /// What is told once the one byte that was asked for is there.
    found: Option<Finding>,
    /// The answer that has told what the file is, from its head on.
    begun: Vec<ClientEvent>,
}

#[derive(Clone, Debug)]
pub(super) struct Question {
    pub url: Url,
    pub asks: Range<u64>,
    /// Of the version we have.
    pub known: Option<Validator>,
    /// Through whom the request came, and we.
    pub via: String,
}

/// Asked for where perhaps nothing more is wanted.
pub(super) const FIRST_BYTE: Range<u64> = 0..1;

/// What a probe needs from the role.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    pub gate: Gate,
    pub proxies: Proxies,
    /// What we add to `Via`.
    pub via: String,
}

#[derive(Clone, Debug)]
pub(super) enum Finding {
    /// It is still the version we have.
    Same(Freshness),
    File(Found),
    /// A file of which nobody says how long it is, and how it begins. The connection stays.
    Endless(Box<Said>),
    /// The origin says something else.
    Said(Box<Said>),
    /// There is no answer we can use.
    Failed(String),
    /// It leads where it must not; and what only the log is told about that.
    Forbidden(String, Option<String>),
}

/// An answer, and the first bytes of its body or all of them.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub head: ResponseHead,
    pub body: BytesMut,
    is_whole: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub at: Url,
    pub length: u64,
    pub ranges: bool,
    pub validator: Option<Validator>,
    pub content_type: Option<String>,
    pub freshness: Freshness,
}

/// What `Cache-Control` says (RFC 9111 §5.2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Freshness {
    /// It must not be kept.
    pub no_store: bool,
    pub max_age_s: Option<u64>,
}

impl Probe {
    pub(super) fn start(
        now: Now,
        id: Id,
        question: Question,
        reach: &Reach,
        fx: &mut Effects,
    ) -> Self {
        fx.owner = id;
        Self {
            connection: ask(now, &question.url, &question, reach, fx),
            at: question.url.clone(),
            question,
            waiters: Vec::new(),
            id,
            redirects: 0,
            reading: None,
            found: None,
            begun: Vec::new(),
        }
    }

    pub(super) fn on_input(
        &mut self,
        now: Now,
        input: &Input,
        reach: &Reach,
        fx: &mut Effects,
    ) -> Option<Finding> {
        let mut events = Vec::new();
        let mut is_short = self.found.is_some();
        let mut found = self.found.take();
        match input {
            Input::Tick => self.connection.on_tick(now, fx, &mut events),
            Input::Opened { stream, to } if *stream == self.connection.stream() => {
                if !reach.permits_at(&self.at, to.ip()) {
                    self.connection.close(fx);
                    let host = self.at.authority();
                    let text = format!(
                        "{host} is in a network that no wildcard reaches; whoever runs this cache can allow it by its \
                         whole name, with --allow {host}"
                    );
                    let log = format!(
                        "refused {host}: it is at {}, which no wildcard reaches",
                        to.ip()
                    );
                    return Some(Finding::Forbidden(text, Some(log)));
                }
                self.connection.on_input(now, input, fx, &mut events);
            }
            _ => self.connection.on_input(now, input, fx, &mut events),
        }
        let mut events = events.into_iter();
        while let Some(event) = events.next() {
            match event {
                ClientEvent::Head(head) => {
                    found = self.on_head(now, &head, reach, fx);
                    if matches!(found, Some(Finding::File(_))) && self.question.asks != FIRST_BYTE {
                        if head.status == StatusCode::OK {
                            self.question.asks.end = u64::MAX;
                        }
                        self.begun.push(ClientEvent::Head(head));
                        self.begun.extend(events);
                        return found;
                    }
                    is_short = head.framing == Framing::Length(1);
                    if found.is_none() && self.reading.is_none() {
                        // What else came belongs to the answer that led elsewhere.
                        return None;
                    }
                }
                ClientEvent::Body(_) if found.is_some() => {}
                ClientEvent::Done { .. } if found.is_some() => return found,
                ClientEvent::Body(bytes) => self.on_body(now, &bytes, fx),
                ClientEvent::Done { .. } => {
                    let mut said = self.reading.take()?;
                    said.is_whole = true;
                    return Some(match said.head.status {
                        StatusCode::PARTIAL_CONTENT => Finding::Endless(said),
                        _ => Finding::Said(said),
                    });
                }
                ClientEvent::Fault(_) if found.is_some() => return found,
                ClientEvent::Fault(fault) => {
                    let said = self.reading.take().filter(|said| !is_file(&said.head));
                    let failed = Finding::Failed(fault.to_string());
                    return Some(said.map_or(failed, Finding::Said));
                }
            }
        }
        if is_short && found.is_some() {
            // With its one byte the connection is free for the fetch.
            self.found = found;
            return None;
        }
        if found.is_some() {
            return found;
        }
        let said = self.reading.take()?;
        if is_file(&said.head) {
            return Some(Finding::Endless(said));
        }
        if said.body.len() > CACHE_ANSWER_MAX {
            return Some(Finding::Said(said));
        }
        self.reading = Some(said);
        None
    }

    fn on_body(&mut self, now: Now, bytes: &[u8], fx: &mut Effects) {
        if let Some(said) = &mut self.reading {
            said.body.extend_from_slice(bytes);
            if !is_file(&said.head) {
                self.connection.consumed(now, bytes.len(), fx);
            }
        }
    }

    pub(super) const fn id(&self) -> Id {
        self.id
    }

    /// Where redirects have led.
    pub(super) const fn at(&self) -> &Url {
        &self.at
    }

    pub(super) fn via(&self) -> &str {
        &self.question.via
    }

    pub(super) fn into_parts(self) -> (Url, Connection) {
        (self.at, self.connection)
    }

    /// What is left for the fetch of what it has found, if that can go on there.
    pub(super) fn into_spare(mut self, fx: &mut Effects) -> Option<Spare> {
        if !self.begun.is_empty() {
            return Some(Spare::Answer(BegunAnswer {
                connection: self.connection,
                asked: self.at,
                start: self.question.asks.start,
                end: self.question.asks.end,
                events: self.begun,
            }));
        }
        if self.connection.is_idle() {
            return Some(Spare::Idle(self.connection));
        }
        self.connection.close(fx);
        None
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.connection.deadline()
    }

    pub(super) fn close(&mut self, fx: &mut Effects) {
        self.connection.close(fx);
    }

    /// Over a new connection.
    fn ask(&mut self, now: Now, reach: &Reach, fx: &mut Effects) {
        self.connection.close(fx);
        fx.owner = self.id;
        self.connection = ask(now, &self.at, &self.question, reach, fx);
    }

    /// The body belongs to it.
    fn read_on(&mut self, head: &ResponseHead) -> Option<Finding> {
        self.reading = Some(Box::new(Said {
            head: head.clone(),
            body: BytesMut::new(),
            is_whole: false,
        }));
        None
    }

    /// `None`: it goes on elsewhere, or there is more to read.
    fn on_head(
        &mut self,
        now: Now,
        head: &ResponseHead,
        reach: &Reach,
        fx: &mut Effects,
    ) -> Option<Finding> {
        match redirect(head.status, &head.headers, &self.at, self.redirects) {
            Err(why) => return Some(Finding::Failed(why.to_string())),
            Ok(Some(to)) if !reach.gate.permits(&to.url) => {
                let (from, to) = (self.at.authority(), to.url.authority());
                let text = format!(
                    "{from} leads to {to}, which is not on this cache's list; whoever runs it can add it with \
                     --allow {to}"
                );
                return Some(Finding::Forbidden(text, None));
            }
            Ok(Some(to)) => {
                self.redirects += 1;
                self.at = to.url;
                self.ask(now, reach, fx);
                return None;
            }
            Ok(None) => {}
        }
        let freshness = Freshness::of(&head.headers);
        let (length, ranges) = match head.status {
            StatusCode::NOT_MODIFIED if self.question.known.is_some() => {
                return Some(Finding::Same(freshness));
            }
            StatusCode::OK | StatusCode::PARTIAL_CONTENT if is_encoded(&head.headers) => {
                let why = "it sends the file encoded although it was not asked to";
                return Some(Finding::Failed(why.into()));
            }
            StatusCode::OK => match head.framing {
                Framing::Length(length) => (Some(length), false),
                Framing::Empty => (Some(0), true),
                Framing::Chunked | Framing::UntilClose => (None, false),
            },
            StatusCode::PARTIAL_CONTENT => match content_range(&head.headers) {
                Some(ContentRange::Part { start, total, .. })
                    if start == self.question.asks.start =>
                {
                    (total, true)
                }
                _ => (None, false),
            },
            StatusCode::RANGE_NOT_SATISFIABLE => match content_range(&head.headers) {
                Some(ContentRange::Unsatisfied { total: 0 }) => (Some(0), true),
                _ if self.question.asks != FIRST_BYTE => {
                    // The file may well be there, and end before what the client wants.
                    self.question.asks = FIRST_BYTE;
                    self.ask(now, reach, fx);
                    return None;
                }
                _ => return self.read_on(head),
            },
            _ => return self.read_on(head),
        };
        let Some(length) = length else {
            return self.read_on(head);
        };
        Some(Finding::File(Found {
            at: self.at.clone(),
            length,
            ranges,
            validator: Validator::of(&head.headers),
            content_type: text(&head.headers, header::CONTENT_TYPE).map(ToString::to_string),
            freshness,
        }))
    }
}

impl Reach {
    /// May a connection that goes to this address be used for that? A proxy sees to it itself.
    pub(super) fn permits_at(&self, url: &Url, ip: IpAddr) -> bool {
        !matches!(self.proxies.route(url), Route::Direct) || self.gate.permits_at(url, ip)
    }
}

impl Said {
    /// All of the body, if it is all and not too long.
    pub(super) fn whole(self) -> Option<Bytes> {
        self.is_whole.then(|| self.body.freeze())
    }
}

/// It gives what was asked for.
fn is_file(head: &ResponseHead) -> bool {
    matches!(head.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT)
}

impl Freshness {
    fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        let fields = headers.get_all(header::CACHE_CONTROL).iter();
        for field in fields.filter_map(|field| field.to_str().ok()) {
            for directive in field.split(',') {
                let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
                let age = number(value.trim().trim_matches('"'));
                match name.trim().to_ascii_lowercase().as_str() {
                    "no-store" | "private" => found.no_store = true,
                    "no-cache" => found.max_age_s = Some(0),
                    "s-maxage" => found.max_age_s = age.or(found.max_age_s),
                    "max-age" => found.max_age_s = found.max_age_s.or(age),
                    _ => {}
                }
            }
        }
        found
    }
}

fn ask(now: Now, url: &Url, question: &Question, reach: &Reach, fx: &mut Effects) -> Connection {
    let (asks, via) = (&question.asks, &question.via);
    let mut request =
        plain_request(url, via).with(header::RANGE, &range_field(asks.start, Some(asks.end)));
    if let Some(known) = &question.known {
        if let Some(etag) = &known.etag {
            request = request.with(header::IF_NONE_MATCH, etag);
        } else if let Some(date) = &known.last_modified {
            request = request.with(header::IF_MODIFIED_SINCE, date);
        }
    }
    // A server without ranges sends everything: it shall not get far.
    let how = Opening {
        window: u32::try_from(HTTP_HEAD_MAX).unwrap_or(u32::MAX),
        timeout: CONNECT_TIMEOUT,
    };
    let mut connection = Connection::open_as(now, url, &reach.proxies, how, fx);
    connection.start(now, request, fx, &mut Vec::new());
    connection
}

pub(super) fn plain_request(url: &Url, via: &str) -> ClientRequest {
    ClientRequest::get(url.clone()).with(header::VIA, via)
}

fn content_range(headers: &HeaderMap) -> Option<ContentRange> {
    ContentRange::parse(text(headers, header::CONTENT_RANGE)?)
}

fn is_encoded(headers: &HeaderMap) -> bool {
    text(headers, header::CONTENT_ENCODING)
        .is_some_and(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"))
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}
