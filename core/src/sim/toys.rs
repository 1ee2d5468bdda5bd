//! The smallest machines that use each part of the boundary: for the contract's tests, over the
//! simulator and over real shells alike.
//!
//! Each begins by itself, keeps what it saw in public fields, and says when it is done.

use crate::command::{Command, Reply};
use crate::content::{FlatHash, HashDone, HashJob};
use crate::ids::{FileId, OpId, SocketId, StreamId};
use crate::limits::{GRANT_PER_STREAM, SEND_PER_STREAM};
use crate::machine::{
    CloseHow, Datagram, DiskDone, DiskError, DiskOp, Ecn, Effects, Endpoint, Input, Listener, Lost,
    Machine, OpenHow, Output, PathFacts, Shape,
};
use crate::time::{Deadline, Mono, Now};
use bytes::Bytes;
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::format;
use std::string::String;
use std::vec::Vec;

/// Sends back what comes, on any number of streams, and gives credit only for what it has sent back.
#[derive(Default)]
pub struct Echo {
    fx: Effects,
    pub listening: Vec<(Listener, SocketAddr)>,
    pub open: BTreeMap<StreamId, SocketAddr>,
    pub closed: Vec<(StreamId, Lost)>,
    pub echoed: u64,
}

impl Machine for Echo {
    fn handle(&mut self, _now: Now, input: Input) {
        match input {
            Input::Listening { listener, at } => self.listening.push((listener, at)),
            Input::Accepted { stream, from, .. } => {
                self.open.insert(stream, from);
                self.fx.grant(stream, 64 * 1024);
            }
            Input::Received { stream, bytes } => self.fx.send(stream, bytes),
            Input::Sent { stream, len } => {
                self.echoed += u64::from(len);
                self.fx.grant(stream, len);
            }
            Input::Closed { stream, why } => {
                self.open.remove(&stream);
                self.closed.push((stream, why));
            }
            Input::Command { call, .. } => self.fx.reply(call, Reply::Stopped),
            _ => {}
        }
    }

    fn poll(&mut self) -> Option<Output> {
        self.fx.poll()
    }

    fn deadline(&self) -> Option<Deadline> {
        None
    }
}

/// Sends its content to whoever connects, then closes.
pub struct Bulk {
    fx: Effects,
    content: Bytes,
    chunk: usize,
    streams: BTreeMap<StreamId, Sending>,
    pub closed: Vec<(StreamId, Lost)>,
    /// Bytes reported sent, over all streams.
    pub sent: u64,
    /// Most bytes one stream had not yet reported sent.
    pub unsent_most: u32,
}

#[derive(Default)]
struct Sending {
    next: usize,
    unsent: u32,
    closing: bool,
}

impl Bulk {
    pub fn new(content: Bytes, chunk: usize) -> Self {
        Self {
            fx: Effects::default(),
            content,
            chunk,
            streams: BTreeMap::new(),
            closed: Vec::new(),
            sent: 0,
            unsent_most: 0,
        }
    }

    fn fill(&mut self, stream: StreamId) {
        let Some(sending) = self.streams.get_mut(&stream) else {
            return;
        };
        while sending.next < self.content.len() && sending.unsent < SEND_PER_STREAM {
            let end = (sending.next + self.chunk).min(self.content.len());
            let bytes = self.content.slice(sending.next..end);
            sending.next = end;
            sending.unsent += bytes.len() as u32;
            self.unsent_most = self.unsent_most.max(sending.unsent);
            self.fx.send(stream, bytes);
        }
        if sending.next == self.content.len() && !sending.closing {
            sending.closing = true;
            self.fx.close(stream, CloseHow::Flush);
        }
    }
}

impl Machine for Bulk {
    fn handle(&mut self, _now: Now, input: Input) {
        match input {
            Input::Accepted { stream, .. } => {
                self.streams.insert(stream, Sending::default());
                self.fill(stream);
            }
            Input::Sent { stream, len } => {
                let sending = self.streams.get_mut(&stream).expect("its stream");
                sending.unsent = sending
                    .unsent
                    .checked_sub(len)
                    .expect("sent what was given");
                self.sent += u64::from(len);
                self.fill(stream);
            }
            Input::Closed { stream, why } => {
                self.streams.remove(&stream);
                self.closed.push((stream, why));
            }
            _ => {}
        }
    }

    fn poll(&mut self) -> Option<Output> {
        self.fx.poll()
    }

    fn deadline(&self) -> Option<Deadline> {
        None
    }
}

/// Connects, may say something, and reads by small credit: so many bytes every so often.
pub struct Reader {
    fx: Effects,
    pub stream: StreamId,
    credit: u32,
    every: Duration,
    next: Option<Mono>,
    pub opened: Option<(SocketAddr, Mono)>,
    pub granted: u64,
    pub received: u64,
    pub got: Vec<Bytes>,
    pub sent: u64,
    pub closed: Option<(Lost, Mono)>,
}

impl Reader {
    /// `every` of zero: credit comes back as fast as it is used up.
    pub fn new(to: Endpoint, say: Bytes, credit: u32, every: Duration) -> Self {
        let mut fx = Effects::default();
        let stream = fx.connect(to);
        fx.send(stream, say);
        fx.grant(stream, credit);
        Self {
            fx,
            stream,
            credit,
            every,
            next: None,
            opened: None,
            granted: credit.into(),
            received: 0,
            got: Vec::new(),
            sent: 0,
            closed: None,
        }
    }

    /// Reads as fast as the stream gives.
    pub fn fast(to: Endpoint) -> Self {
        Self::new(to, Bytes::new(), GRANT_PER_STREAM, Duration::ZERO)
    }

    pub fn is_done(&self) -> bool {
        self.closed.is_some()
    }

    /// Everything received, in one piece.
    pub fn bytes(&self) -> Vec<u8> {
        self.got.concat()
    }

    fn grant(&mut self, bytes: u32) {
        self.granted += u64::from(bytes);
        self.fx.grant(self.stream, bytes);
    }
}

impl Machine for Reader {
    fn handle(&mut self, now: Now, input: Input) {
        assert!(self.closed.is_none() || matches!(input, Input::Tick));
        match input {
            Input::Tick if self.next.is_some_and(|at| at <= now.mono) => {
                self.next = Some(now.mono + self.every);
                self.grant(self.credit);
            }
            Input::Opened { to, .. } => {
                assert!(self.opened.is_none(), "opened twice");
                self.opened = Some((to, now.mono));
                if !self.every.is_zero() {
                    self.next = Some(now.mono + self.every);
                }
            }
            Input::Received { bytes, .. } => {
                self.received += bytes.len() as u64;
                assert!(self.received <= self.granted, "more than was granted");
                if self.every.is_zero() {
                    self.grant(bytes.len() as u32);
                }
                self.got.push(bytes);
            }
            Input::Sent { len, .. } => self.sent += u64::from(len),
            Input::Closed { why, .. } => {
                self.closed = Some((why, now.mono));
                self.next = None;
            }
            _ => {}
        }
    }

    fn poll(&mut self) -> Option<Output> {
        self.fx.poll()
    }

    fn deadline(&self) -> Option<Deadline> {
        Some(Deadline::new(self.next?, "more credit"))
    }
}

/// Uses every disk operation once or more in one folder, one after another, and hashes.
pub struct OpAsker {
    fx: Effects,
    todo: VecDeque<(&'static str, Work)>,
    waiting: Option<(OpId, &'static str)>,
    /// What each step was answered; a second answer would be a second row.
    pub answers: Vec<(&'static str, Result<DiskDone, DiskError>)>,
    pub hashed: Option<HashDone>,
    /// Answers to ids it does not wait for.
    pub strays: u32,
}

enum Work {
    Disk(DiskOp),
    Hash(HashJob),
}

/// What [`OpAsker`] writes.
pub const OP_ASKER_TEXT: &[u8] = b"one file in pieces";

impl OpAsker {
    /// Works in `folder`, which exists and is empty.
    pub fn new(folder: &str) -> Self {
        let path = |name: &str| format!("{folder}/{name}");
        let file = FileId(1);
        let text = Bytes::from_static(OP_ASKER_TEXT);
        let open = |how| DiskOp::Open {
            file,
            path: path("a"),
            how,
        };
        let rename = |to: &str, replace| DiskOp::Rename {
            from: path("a"),
            to: path(to),
            replace,
        };
        let stat = |name| DiskOp::Stat { path: path(name) };
        let read = |offset, len| DiskOp::Read { file, offset, len };
        let steps = [
            ("open missing", open(OpenHow::Read)),
            ("create", open(OpenHow::CreateNew)),
            ("allocate", DiskOp::Allocate { file, len: 18 }),
            (
                "write the end",
                DiskOp::Write {
                    file,
                    offset: 8,
                    chunks: [text.slice(8..11), text.slice(11..)].into(),
                },
            ),
            (
                "write the start",
                DiskOp::Write {
                    file,
                    offset: 0,
                    chunks: [text.slice(..8)].into(),
                },
            ),
            ("sync", DiskOp::Sync { file }),
            ("read", read(0, 18)),
            ("read past the end", read(10, 9)),
            ("close", DiskOp::Close { file }),
            ("create again", open(OpenHow::CreateNew)),
            ("stat", stat("a")),
            (
                "stat the folder",
                DiskOp::Stat {
                    path: folder.into(),
                },
            ),
            (
                "replace",
                DiskOp::Replace {
                    path: path("b"),
                    bytes: text.slice(..3),
                },
            ),
            ("load", DiskOp::Load { path: path("b") }),
            ("rename onto", rename("b", false)),
            ("rename over", rename("b", true)),
            ("stat the old name", stat("a")),
            ("load the new", DiskOp::Load { path: path("b") }),
            ("list nothing", DiskOp::List { path: path("kept") }),
            (
                "keep",
                DiskOp::Keep {
                    from: path("b"),
                    to: path("kept/k"),
                },
            ),
            ("list", DiskOp::List { path: path("kept") }),
            (
                "load the kept",
                DiskOp::Load {
                    path: path("kept/k"),
                },
            ),
            (
                "keep nothing",
                DiskOp::Keep {
                    from: path("z"),
                    to: path("kept/z"),
                },
            ),
            ("remove", DiskOp::Remove { path: path("b") }),
            ("remove again", DiskOp::Remove { path: path("b") }),
        ];
        let mut asker = Self {
            fx: Effects::default(),
            todo: steps
                .into_iter()
                .map(|(n, op)| (n, Work::Disk(op)))
                .collect(),
            waiting: None,
            answers: Vec::new(),
            hashed: None,
            strays: 0,
        };
        let job = HashJob {
            chunks: [text].into(),
            leaves: true,
            flat: Some(FlatHash::default()),
        };
        asker.todo.push_back(("hash", Work::Hash(job)));
        asker.next();
        asker
    }

    pub fn is_done(&self) -> bool {
        self.todo.is_empty() && self.waiting.is_none()
    }

    /// The answer of one step, in short: `ok`, the bytes or length in it, or the error's kind.
    pub fn answer(&self, step: &str) -> String {
        let row = self.answers.iter().find(|(name, _)| *name == step);
        match row.map(|(_, answer)| answer) {
            None => String::from("none"),
            Some(Ok(DiskDone::Done)) => String::from("ok"),
            Some(Ok(DiskDone::Opened { len, .. })) => format!("opened {len}"),
            Some(Ok(DiskDone::Found { is_dir: true, .. })) => String::from("folder"),
            Some(Ok(DiskDone::Found { len, .. })) => format!("found {len}"),
            Some(Ok(DiskDone::Names(names))) => names.join(","),
            Some(Ok(DiskDone::Bytes(bytes))) => String::from_utf8_lossy(bytes).into_owned(),
            Some(Err(error)) => format!("{:?}", error.kind),
        }
    }

    fn next(&mut self) {
        self.waiting = self.todo.pop_front().map(|(name, work)| {
            let op = match work {
                Work::Disk(todo) => self.fx.disk(todo),
                Work::Hash(job) => self.fx.hash(job),
            };
            (op, name)
        });
    }
}

impl Machine for OpAsker {
    fn handle(&mut self, _now: Now, input: Input) {
        let (op, answer) = match input {
            Input::Disk { op, done } => (op, done),
            Input::Hashed { op, done } => {
                self.hashed = Some(done);
                (op, Ok(DiskDone::Done))
            }
            _ => return,
        };
        match self.waiting {
            Some((waiting, name)) if waiting == op => {
                self.answers.push((name, answer));
                self.next();
            }
            _ => self.strays += 1,
        }
    }

    fn poll(&mut self) -> Option<Output> {
        self.fx.poll()
    }

    fn deadline(&self) -> Option<Deadline> {
        None
    }
}

/// Sends numbered datagrams at a steady pace and sends others' back.
pub struct Pinger {
    fx: Effects,
    to: Option<SocketAddr>,
    count: u32,
    every: Duration,
    next: Option<Mono>,
    /// It is time, but the socket was full: it is asked again when it is not.
    due: bool,
    sent: u32,
    pongs: VecDeque<(SocketAddr, Bytes)>,
    /// Numbers as they came back, and the round trip of each.
    pub returned: Vec<(u32, Duration)>,
    sent_at: BTreeMap<u32, Mono>,
}

impl Pinger {
    /// Sends `count` of them to `to`; with `None` it only answers.
    pub fn new(to: Option<SocketAddr>, count: u32, every: Duration) -> Self {
        Self {
            fx: Effects::default(),
            to,
            count,
            every,
            next: to.map(|_| Mono::ZERO),
            due: false,
            sent: 0,
            pongs: VecDeque::new(),
            returned: Vec::new(),
            sent_at: BTreeMap::new(),
        }
    }
}

const PING: u8 = 1;
const PONG: u8 = 2;

impl Machine for Pinger {
    fn handle(&mut self, now: Now, input: Input) {
        if self.next.take_if(|at| *at <= now.mono).is_some() {
            self.due = true;
        }
        match input {
            Input::Datagrams { from, bytes, .. } if bytes.first() == Some(&PING) => {
                self.pongs.push_back((from, bytes.slice(1..)));
            }
            Input::Datagrams { bytes, .. } if bytes.first() == Some(&PONG) => {
                let number = bytes[1..].try_into().map_or(0, u32::from_be_bytes);
                let sent_at = self.sent_at.get(&number).copied().unwrap_or_default();
                self.returned.push((number, now.mono.since(sent_at)));
            }
            Input::Command {
                call,
                command: Command::Shutdown,
            } => self.fx.reply(call, Reply::Stopped),
            _ => {}
        }
    }

    fn poll(&mut self) -> Option<Output> {
        self.fx.poll()
    }

    fn poll_datagram(&mut self, now: Now, buf: &mut Vec<u8>) -> Option<Datagram> {
        buf.clear();
        if let Some((to, number)) = self.pongs.pop_front() {
            buf.push(PONG);
            buf.extend_from_slice(&number);
            let segment_bytes = buf.len();
            return Some(Datagram {
                socket: SocketId::default(),
                to,
                segment_bytes,
                ecn: Ecn::NotEct,
            });
        }
        let to = self.to?;
        if !self.due && self.next.is_none_or(|at| at > now.mono) {
            return None;
        }
        self.due = false;
        buf.push(PING);
        buf.extend_from_slice(&self.sent.to_be_bytes());
        self.sent_at.insert(self.sent, now.mono);
        self.sent += 1;
        self.next = (self.sent < self.count).then(|| now.mono + self.every);
        let segment_bytes = buf.len();
        Some(Datagram {
            socket: SocketId::default(),
            to,
            segment_bytes,
            ecn: Ecn::NotEct,
        })
    }

    fn deadline(&self) -> Option<Deadline> {
        Some(Deadline::new(self.next?, "next ping"))
    }
}

/// Sends its content under a shape, and writes down what it hears of the path.
pub struct Shaped {
    bulk: Bulk,
    shape: Shape,
    shaped: VecDeque<Output>,
    pub heard: Vec<PathFacts>,
}

impl Shaped {
    pub fn new(content: Bytes, shape: Shape) -> Self {
        Self {
            bulk: Bulk::new(content, 16 * 1024),
            shape,
            shaped: VecDeque::new(),
            heard: Vec::new(),
        }
    }

    pub fn sent(&self) -> u64 {
        self.bulk.sent
    }

    pub fn is_done(&self) -> bool {
        !self.bulk.closed.is_empty()
    }
}

impl Machine for Shaped {
    fn handle(&mut self, now: Now, input: Input) {
        match input {
            Input::Accepted { stream, .. } => {
                let shape = self.shape;
                self.shaped.push_back(Output::Shape { stream, shape });
                self.bulk.handle(now, input);
            }
            Input::Path { facts, .. } => self.heard.push(facts),
            input => self.bulk.handle(now, input),
        }
    }

    fn poll(&mut self) -> Option<Output> {
        self.shaped.pop_front().or_else(|| self.bulk.poll())
    }

    fn deadline(&self) -> Option<Deadline> {
        None
    }
}
