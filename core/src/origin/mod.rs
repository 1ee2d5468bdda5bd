//! Role: a small range server over a folder, for trying things out (`dovetail origin DIR`).
//!
//! Decides which file a request means, what its validators say, how much is read ahead, and who may send
//! next when all connections together are limited: small slices in turn, so that five downloads at once
//! take five times as long. Never writes, never lists folders, never leaves its folder.
//!
//! Invariants: at most `ORIGIN_CONNECTIONS_MAX` connections, each with at most `ORIGIN_READ_AHEAD` bytes
//! read and not yet handed over, and `SEND_PER_STREAM` handed over and not yet sent. Every file opened is
//! closed once nothing reads from it.
//!
//! `GET /.dovetail/stats` tells `{"bytes_sent": …, "requests": …, "files": {"/path": bytes}}`: bytes of
//! bodies that left, without those cut off.
//!
//! Spec: RFC 9110 (§13 conditions, §14 ranges). Tests: `origin/tests.rs`.

mod path;
mod visitor;

#[cfg(test)]
mod tests;

use crate::command::{Command, Level, Reply};
use crate::failure::{Failure, FailureKind};
use crate::ids::{CallId, FileId, OpId, StreamId};
use crate::limits::{ORIGIN_CONNECTIONS_MAX, ORIGIN_FILES_COUNTED};
use crate::machine::{
    CloseHow, DiskDone, DiskError, DiskOp, Effects, Input, Listener, Machine, Output,
};
use crate::stats::TokenBucket;
use crate::time::{Deadline, Mono, Now};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;
use serde::Serialize;
use visitor::Visitor;

/// What to serve, and how fast.
#[derive(Clone, Debug, Default)]
pub struct OriginConfig {
    /// Absolute path of the folder.
    pub dir: String,
    /// For all connections together; 0 is no limit.
    pub limit_bytes_per_s: u64,
}

/// The role.
#[derive(Debug)]
pub struct Origin {
    dir: String,
    visitors: BTreeMap<StreamId, Visitor>,
    bucket: TokenBucket,
    /// Whose turn it is to send: the first visitor after this one.
    turn: StreamId,
    /// Somebody waits for the bucket to fill.
    thirsty_until: Option<Mono>,
    /// Work outstanding for visitors that left: the file to close when it is answered.
    orphans: BTreeMap<OpId, FileId>,
    served: Served,
    closing: bool,
    now: Now,
    fx: Effects,
}

/// What was served since the start.
#[derive(Clone, Debug, Default, Serialize)]
struct Served {
    bytes_sent: u64,
    requests: u64,
    files: BTreeMap<String, u64>,
}

impl Origin {
    /// `_seed` is not needed: nothing here is random.
    pub fn new(config: OriginConfig, _seed: [u8; 32]) -> Self {
        Self {
            dir: config.dir.trim_end_matches('/').to_string(),
            visitors: BTreeMap::new(),
            bucket: TokenBucket::new(config.limit_bytes_per_s),
            turn: StreamId(0),
            thirsty_until: None,
            orphans: BTreeMap::new(),
            served: Served::default(),
            closing: false,
            now: Now::default(),
            fx: Effects::default(),
        }
    }

    fn route(&mut self, input: Input) {
        let now = self.now;
        match input {
            Input::Tick => self.tick(),
            Input::Command { call, command } => self.command(call, &command),
            Input::Listening { at, .. } => {
                let text = format!("serving {} at http://{at}/", self.dir);
                self.fx.log(Level::Debug, text);
            }
            Input::Accepted {
                stream, listener, ..
            } => self.accept(stream, listener),
            Input::Received { stream, bytes } => {
                if let Some(visitor) = self.visitors.get_mut(&stream) {
                    visitor.on_bytes(now, &bytes);
                    self.serve(stream);
                }
            }
            Input::Sent { stream, len } => {
                if let Some(visitor) = self.visitors.get_mut(&stream) {
                    visitor.on_sent(now, len);
                }
            }
            Input::Closed { stream, .. } => {
                self.fx.stream_owner(stream, true);
                self.leave(stream);
            }
            Input::Disk { op, done } => self.disk(op, done),
            _ => {}
        }
    }

    fn accept(&mut self, stream: StreamId, listener: Listener) {
        self.fx.owner = stream.0;
        self.fx.adopt(stream);
        let full = self.visitors.len() >= ORIGIN_CONNECTIONS_MAX;
        if full || self.closing || listener != Listener::Http {
            self.fx.close(stream, CloseHow::Abort);
        } else {
            let visitor = Visitor::new(self.now, stream, &mut self.fx);
            self.visitors.insert(stream, visitor);
        }
    }

    fn disk(&mut self, op: OpId, done: Result<DiskDone, DiskError>) {
        let Some(owner) = self.fx.op_owner(op) else {
            return;
        };
        if let Some(file) = self.orphans.remove(&op) {
            self.fx.owner = owner;
            self.fx.disk(DiskOp::Close { file });
            return;
        }
        let stream = StreamId(owner);
        self.fx.owner = owner;
        if let Some(visitor) = self.visitors.get_mut(&stream) {
            visitor.on_disk(self.now, op, done, &mut self.fx);
            self.serve(stream);
        }
    }

    /// Requests of this visitor, until there is none that can be begun.
    fn serve(&mut self, stream: StreamId) {
        let now = self.now;
        self.fx.owner = stream.0;
        let Some(visitor) = self.visitors.get_mut(&stream) else {
            return;
        };
        while let Some(request) = visitor.next_request(now, &mut self.fx) {
            if request.path() == STATS_PATH {
                let json = serde_json::to_vec(&self.served).unwrap_or_default();
                visitor.answer_json(now, Bytes::from(json), &mut self.fx);
            } else {
                self.served.requests += 1;
                visitor.begin(now, &self.dir, &request, &mut self.fx);
            }
        }
    }

    /// Hand over what was read: a slice for each in turn, as far as the limit allows.
    fn send(&mut self) {
        let now = self.now;
        self.thirsty_until = None;
        loop {
            let after = (
                core::ops::Bound::Excluded(self.turn),
                core::ops::Bound::Unbounded,
            );
            let next = self
                .visitors
                .range(after)
                .chain(self.visitors.range(..=self.turn))
                .find(|(_, visitor)| visitor.wants_to_send())
                .map(|(stream, _)| *stream);
            let Some(stream) = next else {
                return;
            };
            if self.bucket.available(now.mono) == 0 {
                // Not for every byte: a timer that fires too often costs more than it smooths.
                let at = self.bucket.ready_at().max(now.mono + SHORTEST_WAIT);
                self.thirsty_until = Some(at);
                return;
            }
            let slice = if self.bucket.is_limited() {
                SLICE_LEN
            } else {
                usize::MAX
            };
            self.turn = stream;
            self.fx.owner = stream.0;
            let Some(visitor) = self.visitors.get_mut(&stream) else {
                return;
            };
            let sent = visitor.send(now, slice, &mut self.fx);
            self.bucket.take(sent as u64);
            self.served.count(visitor.path(), sent as u64);
            if visitor.is_done() {
                let text = visitor.finished_line();
                self.fx.log(Level::Debug, text);
                visitor.end_transfer(&mut self.fx);
                self.serve(stream);
            }
        }
    }

    /// A visitor is gone: take back what did not leave, close its file.
    fn leave(&mut self, stream: StreamId) {
        let Some(mut visitor) = self.visitors.remove(&stream) else {
            return;
        };
        self.fx.owner = stream.0;
        self.served.uncount(visitor.path(), visitor.unsent_body());
        if let Some((op, file)) = visitor.on_closed(&mut self.fx) {
            self.orphans.insert(op, file);
        }
    }

    fn tick(&mut self) {
        let now = self.now;
        for (stream, visitor) in &mut self.visitors {
            self.fx.owner = stream.0;
            visitor.on_tick(now, &mut self.fx);
        }
    }

    fn command(&mut self, call: CallId, command: &Command) {
        let refused = || {
            Failure::new(
                FailureKind::Usage,
                "cannot do that here",
                "this is an origin, not an agent",
            )
        };
        match command {
            Command::Get(_) => self.fx.reply(call, Reply::Got(Err(refused()))),
            Command::Share(_) => self.fx.reply(call, Reply::Shared(Err(refused()))),
            Command::Configure { .. } => self.fx.reply(call, Reply::Configured(Vec::new())),
            Command::Prioritise { .. } => self.fx.reply(call, Reply::Prioritised(false)),
            Command::Stop(_) => self.fx.reply(call, Reply::Stopped),
            Command::Shutdown => {
                self.closing = true;
                let streams: Vec<StreamId> = self.visitors.keys().copied().collect();
                for stream in streams {
                    self.fx.owner = stream.0;
                    self.fx.close(stream, CloseHow::Abort);
                    self.leave(stream);
                }
                self.fx.reply(call, Reply::Stopped);
            }
        }
    }
}

impl Machine for Origin {
    fn handle(&mut self, now: Now, input: Input) {
        let mono = now.mono.max(self.now.mono);
        self.now = Now { mono, ..now };
        self.route(input);
        self.send();
    }

    fn poll(&mut self) -> Option<Output> {
        self.fx.poll()
    }

    fn deadline(&self) -> Option<Deadline> {
        let thirst = self
            .thirsty_until
            .map(|at| Deadline::new(at, "origin limit"));
        self.visitors
            .values()
            .filter_map(Visitor::deadline)
            .fold(thirst, |first, next| Deadline::earlier(first, Some(next)))
    }

    fn check(&self) {
        assert!(
            self.visitors.len() <= ORIGIN_CONNECTIONS_MAX,
            "too many connections"
        );
        self.visitors.values().for_each(Visitor::check);
    }
}

impl Served {
    fn count(&mut self, path: &str, len: u64) {
        self.bytes_sent += len;
        if self.files.len() < ORIGIN_FILES_COUNTED || self.files.contains_key(path) {
            *self.files.entry(path.to_string()).or_default() += len;
        }
    }

    fn uncount(&mut self, path: &str, len: u64) {
        self.bytes_sent = self.bytes_sent.saturating_sub(len);
        if let Some(bytes) = self.files.get_mut(path) {
            *bytes = bytes.saturating_sub(len);
        }
    }
}

/// Where the counters are.
pub const STATS_PATH: &str = "/.dovetail/stats";

/// What one visitor sends in its turn while there is a limit.
const SLICE_LEN: usize = 16 * 1024;
const SHORTEST_WAIT: Duration = Duration::from_millis(5);
