//! The desk over plain calls: what callers send and what they read back.

use super::*;
use crate::command::{Command, Event, Level, Progress, Reply, Report, Verified};
use crate::failure::{Failure, FailureKind};
use crate::ids::{CallId, JobId, StreamId};
use crate::limits::{LOCAL_CALLERS_MAX, PROGRESS_UNREAD_MAX};
use crate::machine::{CloseHow, Effects, Output};
use crate::stats::ByClass;
use crate::time::Now;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

const CALLER: StreamId = StreamId(1);

#[derive(Default)]
struct Room {
    desk: Desk,
    fx: Effects,
    asked: Vec<Asked>,
    now: Now,
}

impl Room {
    fn with_caller() -> Self {
        let mut room = Self::default();
        room.desk.on_accepted(room.now, CALLER, &mut room.fx);
        room
    }

    fn says(&mut self, text: &str) -> Vec<Asked> {
        let bytes = text.to_string().into();
        self.desk
            .on_bytes(self.now, CALLER, &bytes, &mut self.fx, &mut self.asked);
        self.desk.check();
        core::mem::take(&mut self.asked)
    }

    fn posts(&mut self, target: &str, body: &str) -> Vec<Asked> {
        self.says(&post(target, body))
    }

    fn replies(&mut self, call: CallId, reply: &Reply) -> Vec<Asked> {
        self.desk
            .on_reply(self.now, call, reply, &mut self.fx, &mut self.asked);
        self.desk.check();
        core::mem::take(&mut self.asked)
    }

    fn leaves(&mut self) -> Vec<Asked> {
        self.desk.on_closed(CALLER, &mut self.asked);
        self.desk.check();
        core::mem::take(&mut self.asked)
    }

    fn progress(&mut self, call: CallId, done: u64) {
        let event = Event::Progress {
            call,
            job: JobId(1),
            progress: Progress {
                done,
                ..Progress::default()
            },
        };
        self.desk.on_event(self.now, &event, &mut self.fx);
    }

    /// Everything sent since the last look.
    fn sent(&mut self) -> String {
        let mut text = Vec::new();
        while let Some(output) = self.fx.poll() {
            if let Output::Send { bytes, .. } = output {
                text.extend_from_slice(&bytes);
            }
        }
        String::from_utf8(text).unwrap()
    }
}

fn post(target: &str, body: &str) -> String {
    format!(
        "POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn get() -> String {
    post(GET_TARGET, r#"{"urls":["http://a/x"],"output":"/x"}"#)
}

/// The lines in the chunks of a streamed answer.
fn lines(sent: &str) -> Vec<Line> {
    sent.lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| Line::parse(line).unwrap())
        .collect()
}

fn only_command(asked: &[Asked]) -> (CallId, &Command) {
    match asked {
        [Asked::Command { call, command }] => (*call, command),
        other => panic!("{other:?}"),
    }
}

fn report() -> Report {
    Report {
        output: "/x".into(),
        length: 10,
        elapsed_us: 1_000_000,
        received: ByClass {
            origin: 10,
            ..ByClass::default()
        },
        wasted: 0,
        resumed: 0,
        peers: 0,
        verified: Verified::Length,
        sha256: None,
    }
}

#[test]
fn a_get_is_a_stream_of_lines_that_ends_with_the_result() {
    let mut room = Room::with_caller();
    let asked = room.says(&get());
    let (call, command) = only_command(&asked);
    assert!(Desk::owns(call));
    assert!(matches!(command, Command::Get(get) if get.output == "/x"));
    let head = room.sent();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.to_lowercase().contains("application/jsonl"), "{head}");
    assert_eq!(lines(&head), [Line::Accepted { call: call.0 }]);

    room.progress(call, 5);
    assert!(matches!(&lines(&room.sent())[..], [Line::Progress(line)] if line.done == 5));
    room.progress(CallId(call.0 + 1), 5);
    assert_eq!(room.sent(), "", "progress of somebody else");

    assert!(room.replies(call, &Reply::Got(Ok(report()))).is_empty());
    let end = room.sent();
    assert_eq!(lines(&end).pop().unwrap().into_got(), Some(Ok(report())));
    assert!(end.ends_with("0\r\n\r\n"), "{end}");

    // The connection is free again, and nothing is left to stop.
    assert!(matches!(
        room.says("GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")[..],
        [Asked::Status { .. }]
    ));
}

#[test]
fn a_caller_who_goes_away_stops_its_download() {
    let mut room = Room::with_caller();
    let asked = room.says(&get());
    let (call, _) = only_command(&asked);
    let asked = room.leaves();
    assert!(
        matches!(only_command(&asked), (stop, Command::Stop(job)) if *job == call && stop != call)
    );
    room.sent();
    // The answers that still come are for nobody.
    let (stop, _) = only_command(&asked);
    let interrupted = Failure::new(FailureKind::Interrupted, "a", "b");
    room.replies(call, &Reply::Got(Err(interrupted)));
    room.replies(stop, &Reply::Stopped);
    assert_eq!(room.sent(), "");
}

#[test]
fn a_caller_who_goes_away_after_the_result_stops_nothing() {
    let mut room = Room::with_caller();
    let asked = room.says(&get());
    let (call, _) = only_command(&asked);
    room.replies(call, &Reply::Got(Ok(report())));
    assert!(room.leaves().is_empty());
}

#[test]
fn other_requests_get_one_answer_with_the_status_of_its_kind() {
    let mut room = Room::with_caller();
    let asked = room.posts(SHARE_TARGET, r#"{"metainfo":"ZGU=","path":"/x"}"#);
    let (call, command) = only_command(&asked);
    assert!(matches!(command, Command::Share(share) if share.path == "/x"));
    room.progress(call, 1);
    assert_eq!(room.sent(), "");
    let failure = Failure::new(FailureKind::Mismatch, "cannot share /x", "it has changed");
    room.replies(call, &Reply::Shared(Err(failure.clone())));
    let sent = room.sent();
    assert!(sent.starts_with("HTTP/1.1 422 "), "{sent}");
    assert_eq!(lines(&sent), [Line::failed(failure)]);

    let asked = room.posts(STOP_TARGET, r#"{"call":7}"#);
    let (call, command) = only_command(&asked);
    assert!(matches!(command, Command::Stop(CallId(7))));
    room.replies(call, &Reply::Stopped);
    let sent = room.sent();
    assert!(sent.starts_with("HTTP/1.1 200 "), "{sent}");
    assert_eq!(lines(&sent), [Line::Stopped]);
}

#[test]
fn status_is_asked_of_the_agent() {
    let mut room = Room::with_caller();
    let asked = room.says("GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n");
    let [Asked::Status { call }] = asked[..] else {
        panic!("{asked:?}");
    };
    let status = Status {
        coordinator: Some(CoordinatorStatus {
            url: "http://c".into(),
            reachable: false,
        }),
        ..Status::default()
    };
    let Room {
        desk,
        fx,
        asked,
        now,
    } = &mut room;
    desk.on_status(*now, call, status.clone(), fx, asked);
    assert_eq!(lines(&room.sent()), [Line::Status(status.into())]);
}

#[test]
fn bad_requests_are_refused_and_the_connection_lives_on() {
    let mut room = Room::with_caller();
    for (text, status) in [
        (post("/v2/get", "{}"), "404"),
        (post(STATUS_TARGET, "{}"), "405"),
        (post(GET_TARGET, "{"), "400"),
    ] {
        assert!(room.says(&text).is_empty());
        let sent = room.sent();
        assert!(sent.starts_with(&format!("HTTP/1.1 {status} ")), "{sent}");
        assert!(matches!(&lines(&sent)[..], [Line::Failed(_)]), "{sent}");
    }
    assert_eq!(room.says(&get()).len(), 1);
}

#[test]
fn requests_in_a_row_are_answered_in_a_row() {
    let mut room = Room::with_caller();
    let two = format!("{}{}", get(), post(STOP_TARGET, r#"{"call":7}"#));
    let asked = room.says(&two);
    let (first, _) = only_command(&asked);
    let asked = room.replies(first, &Reply::Got(Ok(report())));
    let (second, command) = only_command(&asked);
    assert!(matches!(command, Command::Stop(CallId(7))));
    room.sent();
    room.replies(second, &Reply::Stopped);
    assert_eq!(lines(&room.sent()), [Line::Stopped]);
}

#[test]
fn a_caller_who_does_not_read_gets_fewer_lines() {
    let mut room = Room::with_caller();
    let asked = room.says(&get());
    let (call, _) = only_command(&asked);
    for done in 0..10_000 {
        room.progress(call, done);
    }
    let sent = room.sent();
    let most = PROGRESS_UNREAD_MAX as usize + 1024;
    assert!((most / 2..most).contains(&sent.len()), "{}", sent.len());
    // Once it has read, it hears the latest, and then the end.
    room.desk
        .on_sent(room.now, CALLER, u32::try_from(sent.len()).unwrap());
    room.progress(call, 77);
    room.replies(call, &Reply::Got(Ok(report())));
    let sent = room.sent();
    assert!(matches!(&lines(&sent)[..], [Line::Progress(line), Line::Got(_)] if line.done == 77));
}

#[test]
fn logs_are_not_for_callers() {
    let mut room = Room::with_caller();
    room.says(&get());
    room.sent();
    let event = Event::Log {
        level: Level::Warn,
        text: "x".into(),
    };
    room.desk.on_event(room.now, &event, &mut room.fx);
    assert_eq!(room.sent(), "");
}

#[test]
fn one_caller_too_many_is_sent_away() {
    let mut room = Room::default();
    for n in 0..=LOCAL_CALLERS_MAX as u64 {
        let stream = StreamId(n << 1 | 1);
        room.desk.on_accepted(room.now, stream, &mut room.fx);
    }
    let mut closed = Vec::new();
    while let Some(output) = room.fx.poll() {
        if let Output::Close { stream, how } = output {
            closed.push((stream, how));
        }
    }
    let last = StreamId((LOCAL_CALLERS_MAX as u64) << 1 | 1);
    assert_eq!(closed, [(last, CloseHow::Abort)]);
}
