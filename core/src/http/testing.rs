//! A scripted other end for client tests: answers requests by a function, delivers within the credit
//! granted, in virtual time.

use crate::ids::StreamId;
use crate::limits::GRANT_PER_STREAM;
use crate::machine::{Effects, Endpoint, Input, Lost, Output};
use crate::time::{Mono, Now};
use ::http::Request;
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;
use ureq_proto::parser::try_parse_request;

/// What a scripted server does with a request.
pub(super) struct Script {
    pub wire: Vec<u8>,
    pub then: Then,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Then {
    Keep,
    Close(Lost),
}

/// One request as a scripted server sees it.
pub(super) struct Seen<'a> {
    /// `host:port` connected to.
    pub server: &'a str,
    /// Of all requests, from 0.
    pub nth: usize,
    /// On this connection, from 0.
    pub nth_here: usize,
    pub target: String,
    pub head: &'a Request<()>,
    pub body: &'a [u8],
}

impl Seen<'_> {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name)?.to_str().ok()
    }

    /// First byte, and the end if there is one.
    pub(super) fn range(&self) -> Option<(usize, Option<usize>)> {
        let (first, last) = self
            .field("range")?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        let end = last.parse::<usize>().ok().map(|last| last + 1);
        Some((first.parse().ok()?, end))
    }
}

pub(super) fn reply(wire: impl Into<Vec<u8>>) -> Script {
    Script {
        wire: wire.into(),
        then: Then::Keep,
    }
}

impl Script {
    pub(super) fn then(mut self, why: Lost) -> Self {
        self.then = Then::Close(why);
        self
    }

    /// Say nothing.
    pub(super) fn silence() -> Self {
        reply("")
    }
}

type Answering = Box<dyn FnMut(&Seen<'_>) -> Script>;
type Connecting = Box<dyn FnMut(&Endpoint) -> Result<(), Lost>>;

/// The network and everything behind it.
pub(super) struct World {
    pub fx: Effects,
    pub now: Now,
    /// Inputs for the machine under test.
    pub inputs: VecDeque<Input>,
    /// `GET /target range` of every request, for assertions.
    pub log: Vec<String>,
    pub connects: usize,
    pub max_open: usize,
    /// Bytes delivered in one `Received`, at most.
    pub cut: usize,
    answer: Answering,
    connect: Connecting,
    peers: BTreeMap<StreamId, Peer>,
}

#[derive(Default)]
struct Peer {
    server: String,
    inbox: Vec<u8>,
    outbox: VecDeque<u8>,
    credit: u64,
    requests: usize,
    closing: Option<Lost>,
}

impl World {
    pub(super) fn new(answer: impl FnMut(&Seen<'_>) -> Script + 'static) -> Self {
        Self {
            fx: Effects::default(),
            now: Now::default(),
            inputs: VecDeque::new(),
            log: Vec::new(),
            connects: 0,
            max_open: 0,
            cut: usize::MAX,
            answer: Box::new(answer),
            connect: Box::new(|_| Ok(())),
            peers: BTreeMap::new(),
        }
    }

    pub(super) fn connecting(
        mut self,
        connect: impl FnMut(&Endpoint) -> Result<(), Lost> + 'static,
    ) -> Self {
        self.connect = Box::new(connect);
        self
    }

    /// Open streams.
    pub(super) fn open(&self) -> usize {
        self.peers.len()
    }

    /// The other end closes an idle connection.
    pub(super) fn close_all(&mut self, why: &Lost) {
        for (stream, _) in core::mem::take(&mut self.peers) {
            self.inputs.push_back(Input::Closed {
                stream,
                why: why.clone(),
            });
        }
    }

    /// Carry out what the machine wants and deliver what is due; false if nothing happened.
    pub(super) fn turn(&mut self) -> bool {
        let mut busy = false;
        while let Some(output) = self.fx.poll() {
            busy = true;
            self.carry_out(output);
        }
        busy | self.deliver()
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Connect { stream, to } => {
                self.connects += 1;
                match (self.connect)(&to) {
                    Err(why) => self.inputs.push_back(Input::Closed { stream, why }),
                    Ok(()) => {
                        let server =
                            format!("{}:{}", crate::http::url::host_text(&to.host), to.port);
                        self.peers.insert(
                            stream,
                            Peer {
                                server,
                                ..Peer::default()
                            },
                        );
                        self.max_open = self.max_open.max(self.peers.len());
                        let to = ([127, 0, 0, 1], to.port).into();
                        self.inputs.push_back(Input::Opened { stream, to });
                    }
                }
            }
            Output::StartTls { stream, name } => {
                self.log.push(format!("TLS {name}"));
                self.inputs.push_back(Input::Secured { stream });
            }
            Output::Grant { stream, bytes } => {
                if let Some(peer) = self.peers.get_mut(&stream) {
                    peer.credit += u64::from(bytes);
                    assert!(
                        peer.credit <= u64::from(GRANT_PER_STREAM),
                        "credit is bounded"
                    );
                }
            }
            Output::Send { stream, bytes } => {
                let len = bytes.len() as u32;
                self.inputs.push_back(Input::Sent { stream, len });
                self.on_request_bytes(stream, &bytes);
            }
            Output::Close { stream, .. } => {
                if self.peers.remove(&stream).is_some() {
                    self.inputs.push_back(Input::Closed {
                        stream,
                        why: Lost::Asked,
                    });
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn on_request_bytes(&mut self, stream: StreamId, bytes: &Bytes) {
        let Some(peer) = self.peers.get_mut(&stream) else {
            return;
        };
        peer.inbox.extend_from_slice(bytes);
        let inbox = peer.inbox.clone();
        let connect = inbox.starts_with(b"CONNECT");
        // `CONNECT host:port` is no URI that the parser takes.
        let text = String::from_utf8_lossy(&inbox).replacen("CONNECT ", "GET http://", 1);
        let parsed = try_parse_request::<64>(if connect { text.as_bytes() } else { &inbox });
        let Some((len, head)) = parsed.expect("a well-formed request") else {
            return;
        };
        let body_len = head.headers().get("content-length").map_or(0, |v| {
            v.to_str()
                .expect("text")
                .parse::<usize>()
                .expect("a length")
        });
        let len = if connect { inbox.len() } else { len };
        let Some(body) = inbox.get(len..len + body_len) else {
            return;
        };
        peer.inbox.drain(..len + body_len);
        let line = String::from_utf8_lossy(inbox.split(|b| *b == b'\r').next().unwrap_or_default())
            .into_owned();
        let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let seen = Seen {
            server: &peer.server,
            nth: self
                .log
                .iter()
                .filter(|line| !line.starts_with("TLS"))
                .count(),
            nth_here: peer.requests,
            target,
            head: &head,
            body,
        };
        let range = seen
            .field("range")
            .map_or(String::new(), |range| format!(" {range}"));
        self.log.push(format!(
            "{} {}{range}",
            line.split(' ').next().unwrap_or_default(),
            seen.target
        ));
        let script = (self.answer)(&seen);
        peer.requests += 1;
        peer.outbox.extend(script.wire);
        if let Then::Close(why) = script.then {
            peer.closing = Some(why);
        }
    }

    /// One part for each stream that has something to say and may.
    fn deliver(&mut self) -> bool {
        let mut gone = Vec::new();
        let mut busy = false;
        for (stream, peer) in &mut self.peers {
            let len = peer
                .outbox
                .len()
                .min(self.cut)
                .min(usize::try_from(peer.credit).unwrap_or(usize::MAX));
            if len > 0 {
                busy = true;
                peer.credit -= len as u64;
                let bytes: Vec<u8> = peer.outbox.drain(..len).collect();
                self.inputs.push_back(Input::Received {
                    stream: *stream,
                    bytes: bytes.into(),
                });
            }
            if peer.outbox.is_empty()
                && let Some(why) = peer.closing.take()
            {
                busy = true;
                self.inputs.push_back(Input::Closed {
                    stream: *stream,
                    why,
                });
                gone.push(*stream);
            }
        }
        gone.iter().for_each(|stream| {
            self.peers.remove(stream);
        });
        busy
    }

    pub(super) fn pass(&mut self, span: Duration) {
        self.now.mono = self.now.mono + span;
    }

    pub(super) fn pass_to(&mut self, at: Mono) {
        assert!(at > self.now.mono, "a deadline that is over");
        self.now.mono = at;
    }
}

/// Content in which every byte tells where it belongs.
pub(super) fn content(len: usize, version: u8) -> Vec<u8> {
    (0..len)
        .map(|i| {
            let block = (i / 251) as u8;
            (i % 251) as u8 ^ block.wrapping_mul(31) ^ version.wrapping_mul(97)
        })
        .collect()
}
