//! An HTTP/1.1 origin that misbehaves on request, with a responder of its own.
//!
//! Without faults it is a good server: ranges, `If-Range`, validators, HEAD, kept-alive connections,
//! requests one after another on each. Rules say which requests meet which [`Fault`]; several may meet one.
//! Decides nothing about clients; it counts what they took. Own parser on purpose: a mistake in
//! `crate::http` must not cancel out.

use crate::ids::StreamId;
use crate::machine::{CloseHow, Effects, Input, Machine, Output};
use crate::time::{Deadline, Mono, Now};
use bytes::Bytes;
use core::ops::Range;
use core::time::Duration;
use std::collections::BTreeMap;
use std::string::String;
use std::vec::Vec;

mod answer;
mod request;

use answer::{Answer, span_of};
use request::Request;

/// What goes wrong with a response. Bytes count from the start of its body, unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Silence after so many body bytes; for ever, or for a while.
    Stall { after: u64, span: Option<Duration> },
    /// The body trickles.
    Slow { bytes_per_s: u64 },
    /// The head takes its time.
    SlowHead { wait: Duration },
    /// 301, 302, 303, 307 or 308. Redirect a path to itself for a loop.
    Redirect { status: u16, to: String },
    /// Answer 200 with everything, and do not say that ranges are accepted.
    IgnoreRange,
    /// Close in an orderly way after so many body bytes, whatever the head promised.
    Truncate { after: u64 },
    /// Reset the connection half a second after so many body bytes.
    Reset { after: u64 },
    /// So many bytes more than the head promised.
    Overlong { extra: u64 },
    /// The bytes of this part of the file are wrong.
    Lie { file: Range<u64> },
    /// A status without the content, perhaps with `Retry-After` in seconds.
    Status {
        status: u16,
        retry_after_s: Option<u32>,
    },
    /// Chunked coding, so without a length.
    Chunked,
    /// 206 without the length of the whole.
    UnknownTotal,
    /// Neither a length nor chunks: the body ends with the connection.
    NoLength,
    /// Close after every response, saying so.
    NoKeepAlive,
    /// No `ETag` and no `Last-Modified`.
    NoValidators,
    /// 206 for another place than asked: so many bytes later.
    WrongPlace { shift: u64 },
    /// Not HTTP at all.
    Garbage,
}

/// Which requests meet a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    Always,
    /// By number, counted from 0 over all connections.
    Requests(Range<u64>),
    /// Those that come at or after this time of the origin's clock.
    Since(Duration),
    /// Requests for this path.
    Path(String),
}

/// One request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub range: Option<String>,
    pub status: u16,
    pub at: Mono,
}

struct Content {
    bytes: Bytes,
    version: u32,
}

#[derive(Default)]
struct Client {
    heard: Vec<u8>,
    answer: Option<Answer>,
    unsent: u64,
    closing: bool,
}

/// See the module.
#[derive(Default)]
pub struct FaultyOrigin {
    fx: Effects,
    files: BTreeMap<String, Content>,
    /// Served for every path that has no file of its own.
    any: Option<Content>,
    rules: Vec<(When, Fault)>,
    change: Option<(u64, Bytes)>,
    /// Bytes per second of all connections together; 0 is no limit.
    pub rate_bytes_per_s: u64,
    rate_free: Mono,
    clients: BTreeMap<StreamId, Client>,
    turn: u64,
    wake: Option<Mono>,
    /// Body bytes given to connections.
    pub served: u64,
    pub connections: u64,
    pub requests: Vec<Seen>,
}

const UNSENT_MAX: u64 = 256 * 1024;
const RESET_WAIT: Duration = Duration::from_millis(500);
const HEAD_MAX: usize = 64 * 1024;

impl FaultyOrigin {
    /// Serves this content under every path.
    pub fn new(content: Bytes) -> Self {
        Self {
            any: Some(Content {
                bytes: content,
                version: 1,
            }),
            ..Self::default()
        }
    }

    #[must_use]
    pub fn file(mut self, path: &str, bytes: Bytes) -> Self {
        self.set_content(path, bytes);
        self
    }

    /// Bytes per second of all connections together.
    #[must_use]
    pub fn rate(mut self, bytes_per_s: u64) -> Self {
        self.rate_bytes_per_s = bytes_per_s;
        self
    }

    #[must_use]
    pub fn fault(mut self, when: When, fault: Fault) -> Self {
        self.add_fault(when, fault);
        self
    }

    /// For requests that come from now on.
    pub fn add_fault(&mut self, when: When, fault: Fault) {
        self.rules.push((when, fault));
    }

    /// A good server from now on (responses under way keep their faults).
    pub fn clear_faults(&mut self) {
        self.rules.clear();
    }

    /// Another version of a file, or of the content of every path (`*`), with new validators.
    pub fn set_content(&mut self, path: &str, bytes: Bytes) {
        let old = match path {
            "*" => self.any.as_ref(),
            path => self.files.get(path),
        };
        let content = Content {
            bytes,
            version: old.map_or(0, |c| c.version) + 1,
        };
        if path == "*" {
            self.any = Some(content);
        } else {
            self.files.insert(path.into(), content);
        }
    }

    /// [`FaultyOrigin::set_content`] of every path once so many body bytes were served.
    /// Responses under way go on with the old bytes.
    pub fn change_after(&mut self, served: u64, bytes: Bytes) {
        self.change = Some((served, bytes));
    }

    /// How often the whole content was served, in thousandths.
    pub fn copies_milli(&self) -> u64 {
        let len = self.any.as_ref().map_or(0, |c| c.bytes.len() as u64);
        (self.served * 1000).checked_div(len).unwrap_or(0)
    }

    // --- requests

    fn hear(&mut self, now: Now, stream: StreamId) {
        loop {
            let Some(client) = self.clients.get_mut(&stream) else {
                return;
            };
            if client.answer.is_some() || client.closing {
                return;
            }
            let Some(end) = request::head_end(&client.heard) else {
                if client.heard.len() > HEAD_MAX {
                    client.closing = true;
                    self.fx.close(stream, CloseHow::Flush);
                }
                return;
            };
            let head: Vec<u8> = client.heard.drain(..end).collect();
            let head = String::from_utf8_lossy(&head).into_owned();
            let answer = self.respond(now, &head);
            if let Some(client) = self.clients.get_mut(&stream) {
                client.answer = Some(answer);
            }
        }
    }

    fn respond(&mut self, now: Now, head: &str) -> Answer {
        let request = Request::parse(head);
        let faults = self.faults(now, &request.path);
        let content = self.files.get(&request.path).or(self.any.as_ref());
        let content = content.map(|c| (c.bytes.clone(), c.version));
        let (answer, status) = Answer::to(&request, content, &faults, now.mono);
        self.requests.push(Seen {
            method: request.method,
            target: request.target,
            range: request.range,
            status,
            at: now.mono,
        });
        answer
    }

    fn faults(&self, now: Now, path: &str) -> Vec<Fault> {
        let number = self.requests.len() as u64;
        let met = self.rules.iter().filter(|(when, _)| match when {
            When::Always => true,
            When::Requests(numbers) => numbers.contains(&number),
            When::Since(start) => now.mono.since(Mono::ZERO) >= *start,
            When::Path(p) => p == path,
        });
        met.map(|(_, fault)| fault.clone()).collect()
    }

    // --- bodies

    /// Give every connection what it may have now, in turn; find out when to go on.
    fn pump(&mut self, now: Now) {
        self.wake = None;
        let mut idle = 0;
        while idle < self.clients.len() {
            let next = self.clients.range(StreamId(self.turn + 1)..).next();
            let Some((&stream, _)) = next.or_else(|| self.clients.iter().next()) else {
                return;
            };
            self.turn = stream.0;
            if self.send_some(now, stream) {
                idle = 0;
                self.hear(now, stream);
            } else {
                idle += 1;
            }
        }
    }

    /// One chunk; was there something to send?
    fn send_some(&mut self, now: Now, stream: StreamId) -> bool {
        let Some(client) = self.clients.get_mut(&stream) else {
            return false;
        };
        let Some(answer) = &mut client.answer else {
            return false;
        };
        if client.closing || client.unsent >= UNSENT_MAX {
            return false;
        }
        if answer.not_before > now.mono {
            self.wake = Some(
                self.wake
                    .map_or(answer.not_before, |w| w.min(answer.not_before)),
            );
            return false;
        }
        if let Some(head) = answer.head.take() {
            client.unsent += head.len() as u64;
            self.fx.send(stream, head);
            return true;
        }
        if let Some((_, span)) = answer.stall.filter(|(after, _)| *after <= answer.sent) {
            answer.stall = None;
            answer.not_before = span.map_or(Mono::NEVER, |span| now.mono + span);
            return true;
        }
        if let Some((_, how)) = answer.cut.filter(|(after, _)| *after <= answer.sent) {
            if how == CloseHow::Abort && !answer.resetting {
                // A reset overtakes what is on the wire: let it arrive.
                answer.resetting = true;
                answer.not_before = now.mono + RESET_WAIT;
                return true;
            }
            client.closing = true;
            self.fx.close(stream, how);
            return true;
        }
        if answer.left() > 0 {
            if self.rate_bytes_per_s > 0 && self.rate_free > now.mono {
                self.wake = Some(self.wake.map_or(self.rate_free, |w| w.min(self.rate_free)));
                return false;
            }
            let (body, len) = answer.next_chunk();
            answer.not_before = now.mono + span_of(len, answer.rate);
            self.rate_free = self.rate_free.max(now.mono) + span_of(len, self.rate_bytes_per_s);
            self.served += len;
            for bytes in body {
                client.unsent += bytes.len() as u64;
                self.fx.send(stream, bytes);
            }
            self.change_if_due();
            return true;
        }
        if answer.chunked {
            let end = Bytes::from_static(b"0\r\n\r\n");
            client.unsent += end.len() as u64;
            self.fx.send(stream, end);
        }
        if answer.close {
            client.closing = true;
            self.fx.close(stream, CloseHow::Flush);
        }
        client.answer = None;
        true
    }

    fn change_if_due(&mut self) {
        if let Some((_, bytes)) = self.change.take_if(|(after, _)| *after <= self.served) {
            self.set_content("*", bytes);
        }
    }
}

impl Machine for FaultyOrigin {
    fn handle(&mut self, now: Now, input: Input) {
        match input {
            Input::Accepted { stream, .. } => {
                self.connections += 1;
                self.clients.insert(stream, Client::default());
                self.fx.grant(stream, HEAD_MAX as u32);
            }
            Input::Received { stream, bytes } => {
                if let Some(client) = self.clients.get_mut(&stream) {
                    client.heard.extend_from_slice(&bytes);
                    self.fx.grant(stream, bytes.len() as u32);
                    self.hear(now, stream);
                }
            }
            Input::Sent { stream, len } => {
                if let Some(client) = self.clients.get_mut(&stream) {
                    client.unsent = client.unsent.saturating_sub(len.into());
                }
            }
            Input::Closed { stream, .. } => {
                self.clients.remove(&stream);
            }
            _ => {}
        }
        self.pump(now);
    }

    fn poll(&mut self) -> Option<Output> {
        self.fx.poll()
    }

    fn deadline(&self) -> Option<Deadline> {
        let at = self.wake.filter(|at| *at != Mono::NEVER)?;
        Some(Deadline::new(at, "more of a response"))
    }
}
