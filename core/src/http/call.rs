//! One request and its whole, small answer: how agents talk to the coordinator and fetch metainfo.
//!
//! Decides about redirects (followed for `GET`, never from https to http), the one silent retry on a
//! kept-alive connection that the server had closed, the size and the time an answer may take. Never
//! judges a status: 404 is an answer.
//!
//! Tests: `http/call_tests.rs`.

use crate::http::client::{ClientEvent, Connection, HttpFault};
use crate::http::proxy::{Proxies, Route};
use crate::http::redirect::{RedirectError, redirect};
use crate::http::request::ClientRequest;
use crate::http::url::Url;
use crate::ids::StreamId;
use crate::machine::{Effects, Input};
use crate::time::{Deadline, Mono, Now};
use ::http::header::{self, HeaderMap};
use ::http::{Method, StatusCode};
use alloc::boxed::Box;
use alloc::vec::Vec;
use bytes::{Bytes, BytesMut};
use core::fmt;
use core::time::Duration;

/// What to ask, and how much patience and memory it is worth.
#[derive(Clone, Debug)]
pub struct CallRequest {
    pub request: ClientRequest,
    /// Longest answer body taken, in bytes.
    pub response_max: usize,
    /// For everything together, redirects included.
    pub timeout: Duration,
}

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Where it came from, after redirects.
    pub url: Url,
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallError {
    /// On this way.
    Http(HttpFault, Box<Route>),
    /// The answer is longer than `response_max`.
    TooLong,
    TimedOut,
    Redirect(RedirectError),
}

/// A call under way. Ends with exactly one outcome.
#[derive(Debug)]
pub struct Call {
    request: CallRequest,
    proxies: Proxies,
    connection: Connection,
    until: Mono,
    redirects: u8,
    retried: bool,
    head: Option<(StatusCode, HeaderMap)>,
    body: BytesMut,
    /// The connection is still good for another call.
    keep: bool,
}

/// How a call went.
pub type CallOutcome = Result<Response, CallError>;

impl CallRequest {
    /// With the usual bounds: 1 MiB, 30 s.
    pub fn new(request: ClientRequest) -> Self {
        Self {
            request,
            response_max: 1024 * 1024,
            timeout: Duration::from_secs(30),
        }
    }

    pub fn get(url: Url) -> Self {
        Self::new(ClientRequest::get(url))
    }

    pub fn post_json(url: Url, json: impl Into<Bytes>) -> Self {
        Self::new(ClientRequest::post(url, "application/json", json))
    }
}

impl Call {
    /// `keep` is a connection that an earlier call left ([`Call::into_connection`]); one to another server
    /// is closed.
    pub fn start(
        now: Now,
        request: CallRequest,
        proxies: &Proxies,
        keep: Option<Connection>,
        fx: &mut Effects,
    ) -> Self {
        let url = &request.request.url;
        let connection = match keep {
            Some(kept) if kept.is_idle() && kept.serves(url) => kept,
            Some(mut other) => {
                other.close(fx);
                Connection::open(now, url, proxies, fx)
            }
            None => Connection::open(now, url, proxies, fx),
        };
        let mut call = Self {
            until: now.mono + request.timeout,
            request,
            proxies: proxies.clone(),
            connection,
            redirects: 0,
            retried: false,
            head: None,
            body: BytesMut::new(),
            keep: false,
        };
        // A request that cannot be written fails on the next tick: `start` has no outcome.
        if call.ask(now, fx).is_some() {
            call.until = now.mono + Duration::from_micros(1);
        }
        call
    }

    pub fn owns(&self, stream: StreamId) -> bool {
        self.connection.stream() == stream
    }

    /// Feed an input about a stream this call owns.
    pub fn on_input(&mut self, now: Now, input: &Input, fx: &mut Effects) -> Option<CallOutcome> {
        let mut events = Vec::new();
        self.connection.on_input(now, input, fx, &mut events);
        self.settle(now, events, fx)
    }

    pub fn on_tick(&mut self, now: Now, fx: &mut Effects) -> Option<CallOutcome> {
        if self.until <= now.mono {
            self.connection.close(fx);
            return Some(Err(CallError::TimedOut));
        }
        let mut events = Vec::new();
        self.connection.on_tick(now, fx, &mut events);
        self.settle(now, events, fx)
    }

    pub fn deadline(&self) -> Option<Deadline> {
        let own = Deadline::new(self.until, "http call");
        Deadline::earlier(Some(own), self.connection.deadline())
    }

    /// Give it up.
    pub fn abort(&mut self, fx: &mut Effects) {
        self.connection.close(fx);
    }

    /// After the outcome: the connection, if the next call can use it. Its inputs go to
    /// [`Connection::on_input`] meanwhile.
    pub fn into_connection(self) -> Option<Connection> {
        (self.keep && self.connection.is_idle()).then_some(self.connection)
    }

    fn ask(&mut self, now: Now, fx: &mut Effects) -> Option<CallOutcome> {
        let mut events = Vec::new();
        self.head = None;
        self.body.clear();
        let request = self.request.request.clone();
        self.connection.start(now, request, fx, &mut events);
        self.settle(now, events, fx)
    }

    fn settle(
        &mut self,
        now: Now,
        events: Vec<ClientEvent>,
        fx: &mut Effects,
    ) -> Option<CallOutcome> {
        for event in events {
            match event {
                ClientEvent::Head(head) => self.head = Some((head.status, head.headers)),
                ClientEvent::Body(bytes) => {
                    self.connection.consumed(now, bytes.len(), fx);
                    if self.body.len() + bytes.len() > self.request.response_max {
                        self.connection.close(fx);
                        return Some(Err(CallError::TooLong));
                    }
                    self.body.extend_from_slice(&bytes);
                }
                ClientEvent::Done { reusable } => return self.on_done(now, reusable, fx),
                ClientEvent::Fault(HttpFault::NoAnswer { reused: true, .. }) if !self.retried => {
                    self.retried = true;
                    let url = &self.request.request.url;
                    self.connection = Connection::open(now, url, &self.proxies, fx);
                    return self.ask(now, fx);
                }
                ClientEvent::Fault(fault) => {
                    let route = self.proxies.route(&self.request.request.url);
                    return Some(Err(CallError::Http(fault, Box::new(route))));
                }
            }
        }
        None
    }

    fn on_done(&mut self, now: Now, reusable: bool, fx: &mut Effects) -> Option<CallOutcome> {
        let (status, headers) = self.head.take()?;
        let request = &self.request.request;
        let follows = matches!(request.method, Method::GET | Method::HEAD);
        match redirect(status, &headers, &request.url, self.redirects) {
            Ok(Some(to)) if follows => self.follow(now, to.url, reusable, fx),
            Err(e) if follows => {
                self.connection.close(fx);
                Some(Err(CallError::Redirect(e)))
            }
            _ => {
                self.keep = reusable;
                Some(Ok(Response {
                    status,
                    headers,
                    body: self.body.split().freeze(),
                    url: request.url.clone(),
                }))
            }
        }
    }

    fn follow(
        &mut self,
        now: Now,
        url: Url,
        reusable: bool,
        fx: &mut Effects,
    ) -> Option<CallOutcome> {
        self.redirects += 1;
        let request = &mut self.request.request;
        if !url.same_origin(&request.url) {
            request.headers.remove(header::AUTHORIZATION);
            request.headers.remove(header::COOKIE);
        }
        request.url = url;
        if !(reusable && self.connection.serves(&request.url)) {
            self.connection.close(fx);
            self.connection = Connection::open(now, &request.url, &self.proxies, fx);
        }
        self.ask(now, fx)
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(fault, route) => f.write_str(&fault.on(route)),
            Self::TooLong => f.write_str("the answer is longer than allowed"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Redirect(why) => write!(f, "{why}"),
        }
    }
}

impl core::error::Error for CallError {}
