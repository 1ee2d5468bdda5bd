//! Where callers on this machine are received: the server's side of the local socket, as part of the agent.
//!
//! Decides: which connection waits for which call, and how each answer is written. Never does: the work; it
//! hands [`Asked`] to the agent and is told replies and events. Invariants: a connection waits for at most one
//! call; when it goes away its `get` is stopped, and what was good is kept; a caller who does not read gets
//! fewer progress lines, never an unbounded queue. Schema: `docs/json.md`. Tests: `api/desk_tests.rs`.
//!
//! The agent routes in a few lines. It sets [`Effects::owner`] first, and passes on:
//! its `Accepted` of [`crate::machine::Listener::Local`], the `Received`, `Sent` and `Closed` of those streams,
//! ticks, every [`Event`], and the replies to calls that [`Desk::owns`].

use super::line::{Line, Status};
use super::request::{Ask, Refusal, parse_request};
use super::shelf_line::ShelfAsk;
use crate::command::{Command, Event, Reply};
use crate::failure::FailureKind;
use crate::http::{Answer, AnswerBody, IncomingRequest, ServerConnection};
use crate::ids::{CallId, StreamId};
use crate::limits::{API_BODY_MAX, LOCAL_CALLERS_MAX, PROGRESS_UNREAD_MAX, SEND_PER_STREAM};
use crate::machine::{CloseHow, Effects};
use crate::time::{Deadline, Now};
use ::http::StatusCode;
use ::http::header::CONTENT_TYPE;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;

/// All connections of local callers.
#[derive(Debug, Default)]
pub struct Desk {
    callers: BTreeMap<StreamId, Caller>,
    calls: BTreeMap<CallId, StreamId>,
    last_call: u64,
}

/// What the agent is to do for a caller.
#[derive(Clone, Debug)]
pub enum Asked {
    /// Answered through [`Desk::on_reply`].
    Command { call: CallId, command: Command },
    /// Answered through [`Desk::on_status`].
    Status { call: CallId },
    /// Answered through [`Desk::on_line`].
    Shelf { call: CallId, ask: ShelfAsk },
}

#[derive(Debug)]
struct Caller {
    http: ServerConnection,
    waits: Option<Waits>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waits {
    call: CallId,
    /// Lines are sent as they come; else one answer at the end.
    streams: bool,
}

/// Calls of the desk are numbered from here, those of the shell from 1: they never meet.
const FIRST_CALL: u64 = 1 << 32;

impl Desk {
    /// The desk made this call: its reply belongs to [`Desk::on_reply`], not to the shell.
    pub const fn owns(call: CallId) -> bool {
        call.0 >= FIRST_CALL
    }

    pub fn on_accepted(&mut self, now: Now, stream: StreamId, fx: &mut Effects) {
        fx.adopt(stream);
        if self.callers.len() >= LOCAL_CALLERS_MAX {
            fx.close(stream, CloseHow::Abort);
            return;
        }
        let http = ServerConnection::new(now, stream, API_BODY_MAX, fx);
        self.callers.insert(stream, Caller { http, waits: None });
    }

    pub fn on_bytes(
        &mut self,
        now: Now,
        stream: StreamId,
        bytes: &Bytes,
        fx: &mut Effects,
        asked: &mut Vec<Asked>,
    ) {
        if let Some(caller) = self.callers.get_mut(&stream) {
            caller.http.on_bytes(now, bytes);
            self.serve(now, stream, fx, asked);
        }
    }

    pub fn on_sent(&mut self, now: Now, stream: StreamId, len: u32) {
        if let Some(caller) = self.callers.get_mut(&stream) {
            caller.http.on_sent(now, len);
        }
    }

    /// The caller is gone: nobody wants its download any more.
    pub fn on_closed(&mut self, stream: StreamId, asked: &mut Vec<Asked>) {
        let Some(mut caller) = self.callers.remove(&stream) else {
            return;
        };
        caller.http.on_closed();
        let Some(waits) = caller.waits else { return };
        self.calls.remove(&waits.call);
        if waits.streams {
            let call = self.next_call();
            let command = Command::Stop(waits.call);
            asked.push(Asked::Command { call, command });
        }
    }

    pub fn on_tick(&mut self, now: Now, fx: &mut Effects) {
        for caller in self.callers.values_mut() {
            caller.http.on_tick(now, fx);
        }
    }

    /// A reply to a call that the desk owns.
    pub fn on_reply(
        &mut self,
        now: Now,
        call: CallId,
        reply: &Reply,
        fx: &mut Effects,
        asked: &mut Vec<Asked>,
    ) {
        let status = match reply {
            Reply::Got(Ok(_))
            | Reply::Shared(Ok(()))
            | Reply::Configured(_)
            | Reply::Prioritised(_)
            | Reply::Stopped => StatusCode::OK,
            Reply::Got(Err(failure)) | Reply::Shared(Err(failure)) => status_of(failure.kind),
        };
        self.answer(now, call, status, &Line::of_reply(reply), fx, asked);
    }

    /// The answer to [`Asked::Status`].
    pub fn on_status(
        &mut self,
        now: Now,
        call: CallId,
        status: Status,
        fx: &mut Effects,
        asked: &mut Vec<Asked>,
    ) {
        self.on_line(now, call, &Line::Status(Box::new(status)), fx, asked);
    }

    /// One line that answers a call.
    pub fn on_line(
        &mut self,
        now: Now,
        call: CallId,
        line: &Line,
        fx: &mut Effects,
        asked: &mut Vec<Asked>,
    ) {
        let status = match line {
            Line::Failed(failed) => status_of(failed.failure.kind),
            _ => StatusCode::OK,
        };
        self.answer(now, call, status, line, fx, asked);
    }

    /// Pass progress on to the caller it belongs to. Other events are not for callers.
    pub fn on_event(&mut self, now: Now, event: &Event, fx: &mut Effects) {
        let Event::Progress { call, .. } = event else {
            return;
        };
        let Some(caller) = self.calls.get(call).and_then(|s| self.callers.get_mut(s)) else {
            return;
        };
        let unread = SEND_PER_STREAM.saturating_sub(caller.http.room());
        if unread <= PROGRESS_UNREAD_MAX
            && let Some(line) = Line::of_event(event)
        {
            caller.http.send_body(now, line.render().into(), fx);
        }
    }

    /// Take no more requests; what was answered still leaves.
    pub fn close(&mut self, now: Now, fx: &mut Effects) {
        for caller in self.callers.values_mut() {
            caller.http.close(now, fx);
        }
    }

    pub fn deadline(&self) -> Option<Deadline> {
        self.callers.values().fold(None, |soonest, caller| {
            Deadline::earlier(soonest, caller.http.deadline())
        })
    }

    /// Assert the invariants.
    pub fn check(&self) {
        for (call, stream) in &self.calls {
            let waits = self.callers.get(stream).and_then(|caller| caller.waits);
            debug_assert_eq!(waits.map(|waits| waits.call), Some(*call));
        }
        let waiting = self.callers.values().filter(|c| c.waits.is_some()).count();
        debug_assert_eq!(waiting, self.calls.len());
    }

    /// Take what this caller asks until it has to wait for something.
    fn serve(&mut self, now: Now, stream: StreamId, fx: &mut Effects, asked: &mut Vec<Asked>) {
        while let Some(caller) = self.callers.get_mut(&stream) {
            if caller.waits.is_some() {
                return;
            }
            let Some(request) = caller.http.poll(now, fx) else {
                return;
            };
            match read(&request) {
                Ok(ask) => self.take(now, stream, ask, fx, asked),
                Err(refusal) => {
                    let status = StatusCode::from_u16(refusal.status).unwrap_or_default();
                    let line = Line::failed(refusal.failure);
                    caller.http.respond(now, &one_line(status, &line), fx);
                }
            }
        }
    }

    fn take(
        &mut self,
        now: Now,
        stream: StreamId,
        ask: Ask,
        fx: &mut Effects,
        asked: &mut Vec<Asked>,
    ) {
        let call = self.next_call();
        let Some(caller) = self.callers.get_mut(&stream) else {
            return;
        };
        let streams = matches!(ask, Ask::Get(_));
        if streams {
            let answer = Answer::new(StatusCode::OK, AnswerBody::Unknown)
                .with(CONTENT_TYPE, "application/jsonl");
            caller.http.respond(now, &answer, fx);
            let accepted = Line::Accepted { call: call.0 }.render();
            caller.http.send_body(now, accepted.into(), fx);
        }
        caller.waits = Some(Waits { call, streams });
        self.calls.insert(call, stream);
        asked.push(match ask {
            Ask::Get(get) => Asked::Command {
                call,
                command: Command::Get(get),
            },
            Ask::Share(share) => Asked::Command {
                call,
                command: Command::Share(share),
            },
            Ask::Stop(job) => Asked::Command {
                call,
                command: Command::Stop(job),
            },
            Ask::Prioritise { get, foreground } => Asked::Command {
                call,
                command: Command::Prioritise { get, foreground },
            },
            Ask::Status => Asked::Status { call },
            Ask::Shelf(ask) => Asked::Shelf { call, ask },
        });
    }

    fn answer(
        &mut self,
        now: Now,
        call: CallId,
        status: StatusCode,
        line: &Line,
        fx: &mut Effects,
        asked: &mut Vec<Asked>,
    ) {
        // The caller may have gone before its answer came.
        let Some(stream) = self.calls.remove(&call) else {
            return;
        };
        let Some(caller) = self.callers.get_mut(&stream) else {
            return;
        };
        if caller.waits.take().is_some_and(|waits| waits.streams) {
            caller.http.send_body(now, line.render().into(), fx);
            caller.http.finish(now, fx);
        } else {
            caller.http.respond(now, &one_line(status, line), fx);
        }
        self.serve(now, stream, fx, asked);
    }

    const fn next_call(&mut self) -> CallId {
        self.last_call += 1;
        CallId(FIRST_CALL + self.last_call)
    }
}

fn read(request: &IncomingRequest) -> Result<Ask, Refusal> {
    parse_request(request.method.as_str(), request.path(), &request.body)
}

fn one_line(status: StatusCode, line: &Line) -> Answer {
    Answer::json(status, line.render())
}

/// For answers of one line; a stream of lines has begun with 200 before it can fail.
const fn status_of(kind: FailureKind) -> StatusCode {
    match kind {
        FailureKind::Usage => StatusCode::BAD_REQUEST,
        FailureKind::Refused => StatusCode::FORBIDDEN,
        FailureKind::Exists => StatusCode::CONFLICT,
        FailureKind::Mismatch => StatusCode::UNPROCESSABLE_ENTITY,
        FailureKind::Unavailable => StatusCode::BAD_GATEWAY,
        FailureKind::Interrupted => StatusCode::SERVICE_UNAVAILABLE,
        FailureKind::Disk | FailureKind::Listen | FailureKind::Unwell => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}
