//! Role: tells agents what a file is and who has it.
//!
//! Decides who is told about whom (`select.rs`), what a URL or hash stands for (`records.rs`), and finds
//! out what an allowed origin's file is by hashing it (`identify.rs`). Never moves payload and never
//! schedules pieces: peers do that among themselves. Standard BitTorrent clients are served too
//! (`tracker.rs`). Everything it knows is soft state: after a restart agents announce again within an
//! interval, and content is published or hashed again.
//!
//! Invariants: everything it keeps is bounded (`limits.rs`); a connection costs a bounded buffer.
//!
//! Tests: `routes_tests.rs`, each file's own, and `core/tests/coordination.rs`.

mod device;
mod fetch;
mod identify;
mod meeting;
mod query;
mod records;
mod registry;
mod routes;
mod select;
mod tracker;
#[cfg(test)]
mod routes_tests;

pub use crate::http::{HostPattern, HostPatternError};

use crate::command::{Command, Level, Reply};
use crate::failure::{Failure, FailureKind};
use crate::http::{Answer, AnswerBody, Proxies, ServerConnection};
use crate::ids::{CallId, StreamId};
use crate::limits::{
    CONTENT_MESSAGE_MAX, COORDINATOR_BODIES_MAX, COORDINATOR_CONNECTIONS_MAX, GOODBYE_TIMEOUT,
    SEND_PER_STREAM,
};
use crate::machine::{CloseHow, Datagram, Effects, Input, Listener, Machine, Output};
use crate::rng::Rng;
use crate::settings::{GroupPolicy, Problem, Provider, Source};
use crate::time::{Deadline, Mono, Now};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::ToString as _;
use alloc::vec::Vec;
use bytes::Bytes;
use core::net::SocketAddr;
use core::time::Duration;
use routes::Desk;

/// What a coordinator is told once, at its start.
#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    /// Origins whose files it may fetch and hash itself. None by default.
    pub allow: Vec<HostPattern>,
    /// How often agents announce; presence lasts two and a half times as long.
    pub interval: Duration,
    /// How early an agent that wants more peers may come again.
    pub min_interval: Duration,
    /// The way to origins.
    pub proxies: Proxies,
    /// What may be handed on, in all, between devices whose NATs leave them no other way. `None` by default: nothing.
    pub relay_bytes_per_s: Option<u64>,
    /// Settings for its agents. [`Command::Configure`] changes it.
    pub policy: GroupPolicy,
}

impl Default for CoordinatorConfig {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            interval: Duration::from_secs(30),
            min_interval: Duration::from_secs(1),
            proxies: Proxies::none(),
            relay_bytes_per_s: None,
            policy: GroupPolicy::default(),
        }
    }
}

/// The coordinator's machine. Agents and clients reach it on [`Listener::Http`].
#[derive(Debug)]
pub struct Coordinator {
    fx: Effects,
    desk: Desk,
    connections: BTreeMap<StreamId, Connection>,
    /// When each connection wants to be called.
    timers: BTreeSet<(Mono, StreamId)>,
    /// Bytes of requests that have not arrived whole.
    unread: usize,
    latest: Now,
    stopping: Option<Stopping>,
}

#[derive(Debug)]
struct Connection {
    http: ServerConnection,
    from: SocketAddr,
    timer: Option<Mono>,
    /// Bytes received since the last whole request.
    unread: usize,
    /// What a long answer still has to send.
    rest: Bytes,
}

#[derive(Clone, Copy, Debug)]
struct Stopping {
    call: CallId,
    /// Then what has not left is dropped.
    by: Mono,
    aborted: bool,
}

impl Coordinator {
    pub fn new(config: CoordinatorConfig, seed: [u8; 32]) -> Self {
        Self {
            fx: Effects::default(),
            desk: Desk::new(config, Rng::new(seed)),
            connections: BTreeMap::new(),
            timers: BTreeSet::new(),
            unread: 0,
            latest: Now::default(),
            stopping: None,
        }
    }

    fn route(&mut self, now: Now, input: Input) {
        match input {
            Input::Accepted {
                stream,
                listener,
                from,
            } => self.on_accepted(now, stream, listener, from),
            Input::Command { call, command } => self.on_command(now, call, command),
            Input::Listening {
                listener: Listener::Rendezvous | Listener::RendezvousOther,
                at,
            } => self.desk.rendezvous.on_listening(at),
            Input::Datagrams {
                socket,
                from,
                bytes,
                segment_bytes,
                ..
            } => {
                let Desk {
                    rendezvous,
                    registry,
                    ..
                } = &mut self.desk;
                let whence = (socket, from);
                rendezvous.on_datagrams(now.mono, registry, whence, bytes, segment_bytes);
            }
            Input::Hashed { op, done } => {
                let Some(owner) = self.fx.op_owner(op) else {
                    return;
                };
                let identifier = &mut self.desk.identifier;
                if let Some(identified) = identifier.on_hashed(now, owner, done, &mut self.fx) {
                    self.desk.identified(identified, &mut self.fx);
                }
            }
            Input::Opened { stream, .. }
            | Input::Secured { stream }
            | Input::Received { stream, .. }
            | Input::Sent { stream, .. }
            | Input::Closed { stream, .. } => self.on_stream(now, stream, input),
            _ => {}
        }
    }

    fn on_accepted(&mut self, now: Now, stream: StreamId, listener: Listener, from: SocketAddr) {
        self.fx.owner = CALLERS;
        self.fx.adopt(stream);
        let full = self.connections.len() >= COORDINATOR_CONNECTIONS_MAX;
        if full || listener != Listener::Http || self.stopping.is_some() {
            self.fx.close(stream, CloseHow::Abort);
            return;
        }
        let connection = Connection {
            http: ServerConnection::new(now, stream, CONTENT_MESSAGE_MAX, &mut self.fx),
            from,
            timer: None,
            unread: 0,
            rest: Bytes::new(),
        };
        self.connections.insert(stream, connection);
        self.settle_timer(stream);
    }

    fn on_stream(&mut self, now: Now, stream: StreamId, input: Input) {
        let closed = matches!(input, Input::Closed { .. });
        match self.fx.stream_owner(stream, closed) {
            Some(CALLERS) => self.on_caller(now, stream, input),
            Some(owner) => {
                let identifier = &mut self.desk.identifier;
                let identified = identifier.on_stream(now, owner, &input, &mut self.fx);
                if let Some(identified) = identified {
                    self.desk.identified(identified, &mut self.fx);
                }
            }
            None => {}
        }
    }

    fn on_caller(&mut self, now: Now, stream: StreamId, input: Input) {
        let Some(connection) = self.connections.get_mut(&stream) else {
            return;
        };
        match input {
            Input::Received { bytes, .. } => self.on_request_bytes(now, stream, &bytes),
            Input::Sent { len, .. } => connection.http.on_sent(now, len),
            Input::Closed { .. } => connection.http.on_closed(),
            _ => return,
        }
        self.serve(now, stream);
    }

    fn on_request_bytes(&mut self, now: Now, stream: StreamId, bytes: &Bytes) {
        let Some(connection) = self.connections.get_mut(&stream) else {
            return;
        };
        connection.http.on_bytes(now, bytes);
        connection.unread += bytes.len();
        self.unread += bytes.len();
        if self.unread > COORDINATOR_BODIES_MAX {
            connection.http.abort(&mut self.fx);
        }
    }

    /// Answer what has arrived whole on this connection, and keep its timer right.
    fn serve(&mut self, now: Now, stream: StreamId) {
        let crowded = self.connections.len() > COORDINATOR_CONNECTIONS_MAX / 2;
        while let Some(connection) = self.connections.get_mut(&stream) {
            connection.send_rest(now, &mut self.fx);
            let Some(request) = connection.http.poll(now, &mut self.fx) else {
                break;
            };
            self.unread -= core::mem::take(&mut connection.unread);
            if crowded || self.stopping.is_some() {
                connection.http.close_after_answer();
            }
            let from = connection.from;
            let answer = self.desk.answer(now, from, &request, &mut self.fx);
            connection.respond(now, answer, &mut self.fx);
        }
        self.settle_timer(stream);
    }

    fn settle_timer(&mut self, stream: StreamId) {
        let Some(connection) = self.connections.get_mut(&stream) else {
            return;
        };
        let wanted = connection.http.deadline().map(|deadline| deadline.at);
        if wanted != connection.timer {
            if let Some(old) = connection.timer {
                self.timers.remove(&(old, stream));
            }
            if let Some(at) = wanted {
                self.timers.insert((at, stream));
            }
            connection.timer = wanted;
        }
        if connection.http.is_gone() {
            self.unread -= connection.unread;
            if let Some(old) = connection.timer {
                self.timers.remove(&(old, stream));
            }
            self.connections.remove(&stream);
        }
    }

    fn on_command(&mut self, now: Now, call: CallId, command: Command) {
        match command {
            Command::Shutdown if self.stopping.is_none() => {
                self.stopping = Some(Stopping {
                    call,
                    by: now.mono + GOODBYE_TIMEOUT,
                    aborted: false,
                });
                self.desk.identifier.shutdown(&mut self.fx);
                for connection in self.connections.values_mut() {
                    connection.http.close(now, &mut self.fx);
                }
            }
            Command::Prioritise { .. } => self.fx.reply(call, Reply::Prioritised(false)),
            Command::Shutdown => self.fx.reply(call, Reply::Stopped),
            Command::Get(_) => self.fx.reply(call, Reply::Got(Err(not_an_agent()))),
            Command::Share(_) => self.fx.reply(call, Reply::Shared(Err(not_an_agent()))),
            Command::Configure {
                provider: Provider::GroupPolicy,
                sources,
            } => {
                let problems = self.on_policy(&sources);
                self.fx.reply(call, Reply::Configured(problems));
            }
            Command::Configure { .. } => self.fx.reply(call, Reply::Configured(Vec::new())),
            _ => {}
        }
    }

    /// A new policy; one with mistakes changes nothing.
    fn on_policy(&mut self, sources: &[Source]) -> Vec<Problem> {
        let read = match sources.last() {
            Some(source) => GroupPolicy::read(source),
            None => Ok(GroupPolicy::default()),
        };
        match read {
            Ok(policy) => {
                self.desk.policy = policy;
                Vec::new()
            }
            Err(problems) => {
                for problem in &problems {
                    self.fx.log(Level::Warn, problem.to_string());
                }
                problems
            }
        }
    }

    /// Whatever time has brought.
    fn settle(&mut self, now: Now) {
        self.desk.registry.expire(now.mono);
        while let Some(identified) = self.desk.identifier.on_tick(now, &mut self.fx) {
            self.desk.identified(identified, &mut self.fx);
        }
        while let Some((at, stream)) = self.timers.first().copied()
            && at <= now.mono
        {
            self.timers.remove(&(at, stream));
            if let Some(connection) = self.connections.get_mut(&stream) {
                connection.timer = None;
                connection.http.on_tick(now, &mut self.fx);
            }
            self.serve(now, stream);
        }
        self.wind_down(now);
    }

    fn wind_down(&mut self, now: Now) {
        let Some(stopping) = &mut self.stopping else {
            return;
        };
        if stopping.by <= now.mono && !stopping.aborted {
            stopping.aborted = true;
            let streams: Vec<StreamId> = self.connections.keys().copied().collect();
            for stream in streams {
                if let Some(connection) = self.connections.get_mut(&stream) {
                    connection.http.abort(&mut self.fx);
                }
                self.settle_timer(stream);
            }
        }
        let call = self.stopping.filter(|_| self.fx.is_idle());
        if let Some(Stopping { call, .. }) = call {
            self.stopping = None;
            self.fx.reply(call, Reply::Stopped);
        }
    }
}

impl Connection {
    /// Long answers are handed over as they leave.
    fn respond(&mut self, now: Now, mut answer: Answer, fx: &mut Effects) {
        let mut rest = Bytes::new();
        if let AnswerBody::Full(body) = &mut answer.body
            && body.len() > SEND_PER_STREAM as usize
        {
            rest = core::mem::take(body);
            answer.body = AnswerBody::Length(rest.len() as u64);
        }
        if self.http.respond(now, &answer, fx) {
            self.rest = rest;
        }
    }

    fn send_rest(&mut self, now: Now, fx: &mut Effects) {
        let len = self.rest.len().min(self.http.room() as usize);
        if len > 0 {
            self.http.send_body(now, self.rest.split_to(len), fx);
        }
    }
}

impl Machine for Coordinator {
    fn handle(&mut self, now: Now, input: Input) {
        let now = Now {
            mono: now.mono.max(self.latest.mono),
            ..now
        };
        self.latest = now;
        self.route(now, input);
        self.settle(now);
    }

    fn poll(&mut self) -> Option<Output> {
        self.fx.poll()
    }

    fn poll_datagram(&mut self, now: Now, buf: &mut Vec<u8>) -> Option<Datagram> {
        self.desk.rendezvous.poll_datagram(now.mono, buf)
    }

    fn deadline(&self) -> Option<Deadline> {
        let timer = self.timers.first();
        let connection = timer.map(|(at, _)| Deadline::new(*at, "a connection waits too long"));
        let expiry = self.desk.registry.next_expiry();
        let expiry = expiry.map(|at| Deadline::new(at, "presence ends"));
        let stop = self.stopping.filter(|stopping| !stopping.aborted);
        let stop = stop.map(|stopping| Deadline::new(stopping.by, "stopping takes too long"));
        let own = Deadline::earlier(Deadline::earlier(connection, expiry), stop);
        let own = Deadline::earlier(own, self.desk.rendezvous.deadline());
        Deadline::earlier(own, self.desk.identifier.deadline())
    }

    fn check(&self) {
        self.desk.registry.check();
        self.desk.records.check();
        self.desk.identifier.check();
        self.desk.rendezvous.check();
        let unread: usize = self.connections.values().map(|c| c.unread).sum();
        debug_assert_eq!(unread, self.unread);
        let timed = self.connections.values().filter(|c| c.timer.is_some());
        debug_assert_eq!(timed.count(), self.timers.len());
    }
}

fn not_an_agent() -> Failure {
    Failure::new(
        FailureKind::Usage,
        "a coordinator cannot do this",
        "it moves no files",
    )
    .remedy("ask an agent")
}

/// The owner number of accepted streams; those of fetches count from one.
const CALLERS: u64 = 0;
