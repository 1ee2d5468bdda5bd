//! One question to an origin: is there such a file, how long is it, is it still the one we have?
//!
//! Asks for the first byte, which tells length, validators and whether ranges work, and is answered by servers that
//! mind `HEAD`. Follows redirects as far as the gate permits. One probe for any number of clients that wait.

use super::orders::Id;
use crate::http::range::{ContentRange, number};
use crate::http::{
    ClientEvent, ClientRequest, Connection, Framing, Gate, Opening, Proxies, ResponseHead, Route,
    Url, Validator, redirect,
};
use crate::ids::StreamId;
use crate::limits::{CONNECT_TIMEOUT, HTTP_HEAD_MAX};
use crate::machine::{Effects, Input};
use crate::time::{Deadline, Now};
use ::http::StatusCode;
use ::http::header::{self, HeaderMap, HeaderName};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

#[derive(Debug)]
pub(super) struct Probe {
    pub url: Url,
    pub waiters: Vec<StreamId>,
    id: Id,
    at: Url,
    redirects: u8,
    connection: Connection,
    /// Of the version we have.
    known: Option<Validator>,
}

/// What a probe needs from the role.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    pub gate: Gate,
    pub proxies: Proxies,
    /// What we add to `Via`.
    pub via: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// It is still the version we have.
    Same(Freshness),
    File(Found),
    /// The origin says no.
    Status(StatusCode),
    /// There is no answer we can use.
    Failed(String),
    /// It leads where it must not.
    Forbidden(String),
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
        url: Url,
        known: Option<Validator>,
        reach: &Reach,
        fx: &mut Effects,
    ) -> Self {
        fx.owner = id;
        Self {
            connection: ask(now, &url, known.as_ref(), reach, fx),
            at: url.clone(),
            url,
            waiters: Vec::new(),
            id,
            redirects: 0,
            known,
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
        match input {
            Input::Tick => self.connection.on_tick(now, fx, &mut events),
            Input::Opened { stream, to } if *stream == self.connection.stream() => {
                let direct = matches!(reach.proxies.route(&self.at), Route::Direct);
                if direct && !reach.gate.permits_at(&self.at, to.ip()) {
                    self.connection.close(fx);
                    let host = self.at.authority();
                    return Some(Finding::Forbidden(format!(
                        "{host} is at {}, in a network that no wildcard reaches; whoever runs this cache can allow \
                         it by its whole name, with --allow {host}",
                        to.ip()
                    )));
                }
                self.connection.on_input(now, input, fx, &mut events);
            }
            _ => self.connection.on_input(now, input, fx, &mut events),
        }
        for event in events {
            match event {
                ClientEvent::Head(head) => {
                    let finding = self.on_head(now, &head, reach, fx);
                    if finding.is_some() {
                        self.connection.close(fx);
                    }
                    return finding;
                }
                ClientEvent::Fault(fault) => return Some(Finding::Failed(fault.to_string())),
                ClientEvent::Body(_) | ClientEvent::Done { .. } => {}
            }
        }
        None
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.connection.deadline()
    }

    pub(super) fn close(&mut self, fx: &mut Effects) {
        self.connection.close(fx);
    }

    /// `None`: it goes on elsewhere.
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
                return Some(Finding::Forbidden(format!(
                    "{from} leads to {to}, which is not on this cache's list; whoever runs it can add it with \
                     --allow {to}"
                )));
            }
            Ok(Some(to)) => {
                self.redirects += 1;
                self.connection.close(fx);
                fx.owner = self.id;
                self.connection = ask(now, &to.url, self.known.as_ref(), reach, fx);
                self.at = to.url;
                return None;
            }
            Ok(None) => {}
        }
        let freshness = Freshness::of(&head.headers);
        let (length, ranges) = match head.status {
            StatusCode::NOT_MODIFIED if self.known.is_some() => {
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
                Some(ContentRange::Part {
                    start: 0, total, ..
                }) => (total, true),
                _ => (None, false),
            },
            StatusCode::RANGE_NOT_SATISFIABLE => match content_range(&head.headers) {
                Some(ContentRange::Unsatisfied { total: 0 }) => (Some(0), true),
                _ => return Some(Finding::Status(head.status)),
            },
            status => return Some(Finding::Status(status)),
        };
        let Some(length) = length else {
            return Some(Finding::Failed(
                "it does not say how long the file is".into(),
            ));
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

fn ask(
    now: Now,
    url: &Url,
    known: Option<&Validator>,
    reach: &Reach,
    fx: &mut Effects,
) -> Connection {
    let mut request = ClientRequest::get(url.clone())
        .with(header::RANGE, "bytes=0-0")
        .with(header::VIA, &format!("1.1 {}", reach.via));
    if let Some(known) = known {
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
