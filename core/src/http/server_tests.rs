//! The server's side of a connection against scripted bytes.

use crate::http::{Answer, AnswerBody, IncomingRequest, ServerConnection};
use crate::ids::StreamId;
use crate::limits::{
    HTTP_BODY_TIMEOUT, HTTP_HEAD_MAX, HTTP_HEAD_TIMEOUT, HTTP_IDLE_TIMEOUT, HTTP_SEND_TIMEOUT,
    HTTP_SERVER_WINDOW,
};
use crate::machine::{CloseHow, Effects, Output};
use crate::time::Now;
use ::http::{Method, StatusCode};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;

struct Client {
    server: ServerConnection,
    fx: Effects,
    now: Now,
    got: Vec<u8>,
    granted: u64,
    closed: Option<CloseHow>,
}

impl Client {
    fn new(body_max: usize) -> Self {
        let mut fx = Effects::default();
        let now = Now::default();
        let server = ServerConnection::new(now, StreamId(1), body_max, &mut fx);
        let mut client = Self {
            server,
            fx,
            now,
            got: Vec::new(),
            granted: 0,
            closed: None,
        };
        client.drain();
        client
    }

    fn drain(&mut self) {
        while let Some(output) = self.fx.poll() {
            match output {
                Output::Send { bytes, .. } => self.got.extend_from_slice(&bytes),
                Output::Grant { bytes, .. } => self.granted += u64::from(bytes),
                Output::Close { how, .. } => self.closed = Some(how),
                other => panic!("{other:?}"),
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Option<IncomingRequest> {
        self.granted = self
            .granted
            .checked_sub(bytes.len() as u64)
            .expect("sent beyond the grant");
        self.server
            .on_bytes(self.now, &Bytes::copy_from_slice(bytes));
        self.poll()
    }

    fn poll(&mut self) -> Option<IncomingRequest> {
        let request = self.server.poll(self.now, &mut self.fx);
        self.drain();
        request
    }

    fn respond(&mut self, answer: &Answer) -> bool {
        let more = self.server.respond(self.now, answer, &mut self.fx);
        self.drain();
        more
    }

    /// Let time pass, ticking at each deadline.
    fn wait(&mut self, span: Duration) {
        let until = self.now.mono + span;
        while let Some(deadline) = self.server.deadline().filter(|d| d.at <= until) {
            assert!(
                deadline.at > self.now.mono,
                "{}: a deadline that is over",
                deadline.why
            );
            self.now.mono = deadline.at;
            self.server.on_tick(self.now, &mut self.fx);
            self.drain();
        }
        self.now.mono = until;
    }

    /// What was received since, without the date that every answer carries.
    fn take(&mut self) -> String {
        let text = String::from_utf8(core::mem::take(&mut self.got)).expect("text");
        text.replace("date: Thu, 01 Jan 1970 00:00:00 GMT\r\n", "")
    }
}

fn ok(text: &str) -> Answer {
    Answer::new(
        StatusCode::OK,
        AnswerBody::Full(Bytes::copy_from_slice(text.as_bytes())),
    )
}

#[test]
fn a_request_is_whole_at_every_cut() {
    let wire = b"\r\nPOST /a%20b?q=1 HTTP/1.1\r\nHost: h\r\nX: y\r\nContent-Length: 4\r\n\r\nbodyGET / HTTP/1.1\r\nhost: h\r\n\r\n";
    for cut in 0..=wire.len() {
        let mut client = Client::new(100);
        let (first, second) = wire.split_at(cut);
        let early = client.send(first);
        let request = early.or_else(|| client.send(second)).expect("a request");
        assert_eq!(request.method, Method::POST);
        assert_eq!((request.path(), request.query()), ("/a%20b", Some("q=1")));
        assert_eq!(&request.body[..], b"body");
        assert!(client.poll().is_none(), "one at a time");
        client.respond(&ok("one"));
        assert_eq!(
            client.take(),
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none"
        );
        let mut next = client.poll();
        if next.is_none() {
            next = client.send(if wire.len() - cut > 30 { b"" } else { second });
        }
        assert_eq!(
            next.expect("the pipelined request").method,
            Method::GET,
            "cut at {cut}"
        );
        client.respond(&ok("two"));
        assert_eq!(
            client.take(),
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\ntwo"
        );
        assert_eq!(client.closed, None);
        assert_eq!(
            client.granted,
            u64::from(HTTP_SERVER_WINDOW),
            "all was granted again"
        );
    }
}

#[test]
fn malformed_requests_are_answered_and_the_connection_ends() {
    let long = format!(
        "GET / HTTP/1.1\r\nHost: h\r\nX: {}",
        "y".repeat(HTTP_HEAD_MAX)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nHost: h\r\n{}\r\n",
        "X: y\r\n".repeat(200)
    );
    let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n");
    for (wire, status) in [
        ("nonsense\r\n\r\n".into(), 400),
        ("GET /\r\n\r\n".into(), 400),
        ("GET / HTTP/2.0\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n".into(), 400),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        (post("Content-Length: x"), 400),
        (post("Content-Length: +4"), 400),
        (post("Content-Length: 4\r\nContent-Length: 5"), 400),
        (post("Content-Length: 4\r\nTransfer-Encoding: chunked"), 400),
        (post("Transfer-Encoding: gzip"), 501),
        (post("Transfer-Encoding: gzip, chunked"), 501),
        (post("Transfer-Encoding: chunked") + "zz\r\n", 400),
        (post("Content-Length: 101"), 413),
        (
            post("Transfer-Encoding: chunked") + "65\r\n" + &"x".repeat(0x65),
            413,
        ),
        (post("Expect: 200-ok\r\nContent-Length: 4"), 417),
        ("POST / HTTP/1.0\r\n\r\n".into(), 411),
        (
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            400,
        ),
        (long, 431),
        (many, 431),
    ] {
        let mut client = Client::new(100);
        assert!(client.send(wire.as_bytes()).is_none(), "{wire}");
        let answer = client.take();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{wire}\n{answer}"
        );
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert_eq!(client.closed, Some(CloseHow::Flush), "{wire}");
        client.server.on_bytes(
            client.now,
            &Bytes::from_static(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"),
        );
        assert!(client.poll().is_none(), "nothing is read after that");
    }
}

#[test]
fn bodies_of_all_kinds_are_collected() {
    for (fields, body, collected) in [
        ("Content-Length: 3", "abc", "abc"),
        ("Content-Length: 3, 3", "abc", "abc"),
        (
            "Transfer-Encoding: chunked",
            "1\r\na\r\n2;x\r\nbc\r\n0\r\nT: u\r\n\r\n",
            "abc",
        ),
        ("X: no length is no body", "", ""),
    ] {
        let mut client = Client::new(3);
        let wire = format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n{body}");
        let request = client.send(wire.as_bytes()).expect(fields);
        assert_eq!(&request.body[..], collected.as_bytes(), "{fields}");
    }
}

#[test]
fn expect_continue_is_answered_only_when_the_body_is_awaited() {
    let head = "PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    let mut client = Client::new(3);
    assert!(client.send(head.as_bytes()).is_none());
    assert_eq!(client.take(), "HTTP/1.1 100 Continue\r\n\r\n");
    assert!(client.send(b"abc").is_some());
    let mut client = Client::new(3);
    assert!(client.send(format!("{head}abc").as_bytes()).is_some());
    assert_eq!(client.take(), "");
}

#[test]
fn connections_live_on_or_end_as_the_client_asked() {
    for (version, field, lives) in [
        ("1.1", "X: y", true),
        ("1.1", "Connection: close", false),
        ("1.1", "Connection: x, Close", false),
        ("1.0", "X: y", false),
        ("1.0", "Connection: keep-alive", true),
    ] {
        let mut client = Client::new(0);
        let wire = format!("GET / HTTP/{version}\r\nHost: h\r\n{field}\r\n\r\n");
        assert!(client.send(wire.as_bytes()).is_some());
        client.respond(&ok("x"));
        assert_eq!(client.closed.is_none(), lives, "{version} {field}");
        let told = client.take();
        assert_eq!(told.contains("connection: close"), !lives, "{told}");
        assert_eq!(
            told.contains("connection: keep-alive"),
            lives && version == "1.0",
            "{told}"
        );
    }
    let mut client = Client::new(0);
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    client.server.close_after_answer();
    client.respond(&ok("x"));
    assert_eq!(client.closed, Some(CloseHow::Flush));
}

#[test]
fn answers_are_framed_by_what_is_known_of_them() {
    let get = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let sized = Answer::new(StatusCode::OK, AnswerBody::Length(5));
    let unknown = Answer::new(StatusCode::OK, AnswerBody::Unknown);
    let mut client = Client::new(0);

    client.send(get.as_bytes());
    assert!(client.respond(&sized));
    client
        .server
        .send_body(client.now, Bytes::from_static(b"abc"), &mut client.fx);
    client
        .server
        .send_body(client.now, Bytes::from_static(b"defg"), &mut client.fx);
    client.drain();
    assert_eq!(
        client.take(),
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcde",
        "not a byte more"
    );

    client.send(get.as_bytes());
    assert!(client.respond(&unknown));
    client.server.send_body(
        client.now,
        Bytes::from_static(b"0123456789abcdef"),
        &mut client.fx,
    );
    client.server.finish(client.now, &mut client.fx);
    client.drain();
    let chunked =
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n";
    assert_eq!(client.take(), chunked);

    client.send(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(!client.respond(&sized), "HEAD has no body");
    assert_eq!(
        client.take(),
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
    );

    client.send(get.as_bytes());
    assert!(!client.respond(&Answer::new(
        StatusCode::NOT_MODIFIED,
        AnswerBody::Length(5)
    )));
    assert_eq!(client.take(), "HTTP/1.1 304 Not Modified\r\n\r\n");

    client.send(get.as_bytes());
    client.respond(&sized);
    client.server.finish(client.now, &mut client.fx);
    client.drain();
    assert_eq!(
        client.closed,
        Some(CloseHow::Abort),
        "shorter than promised"
    );

    let mut client = Client::new(0);
    client.send(b"GET / HTTP/1.0\r\n\r\n");
    assert!(client.respond(&unknown));
    client
        .server
        .send_body(client.now, Bytes::from_static(b"abc"), &mut client.fx);
    client.server.finish(client.now, &mut client.fx);
    client.drain();
    assert_eq!(
        client.take(),
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc"
    );
    assert_eq!(client.closed, Some(CloseHow::Flush));
}

#[test]
fn slow_clients_are_not_waited_for() {
    let mut idle = Client::new(10);
    idle.wait(HTTP_IDLE_TIMEOUT * 2);
    assert_eq!(
        (idle.take(), idle.closed),
        (String::new(), Some(CloseHow::Abort))
    );

    let mut dripping = Client::new(10);
    for _ in 0..30 {
        dripping.send(b"G");
        dripping.wait(HTTP_HEAD_TIMEOUT / 20);
    }
    assert!(dripping.take().starts_with("HTTP/1.1 408 "));

    let mut body = Client::new(10);
    body.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc");
    body.wait(HTTP_BODY_TIMEOUT * 2);
    assert!(body.take().starts_with("HTTP/1.1 408 "));

    let mut deaf = Client::new(10);
    deaf.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    deaf.respond(&Answer::new(StatusCode::OK, AnswerBody::Length(500)));
    let room = deaf.server.room();
    deaf.server
        .send_body(deaf.now, Bytes::from_static(&[0; 100]), &mut deaf.fx);
    assert_eq!(deaf.server.room(), room - 100);
    deaf.wait(HTTP_SEND_TIMEOUT / 2);
    deaf.server.on_sent(deaf.now, 50);
    assert_eq!(deaf.server.room(), room - 50);
    deaf.wait(HTTP_SEND_TIMEOUT / 2);
    assert_eq!(deaf.closed, None);
    deaf.wait(HTTP_SEND_TIMEOUT);
    assert_eq!(deaf.closed, Some(CloseHow::Abort));
    assert!(deaf.server.is_gone());

    let mut thinking = Client::new(10);
    thinking.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    thinking.wait(HTTP_IDLE_TIMEOUT * 10);
    assert_eq!(thinking.closed, None, "the parent may take its time");
}

#[test]
fn a_flood_of_requests_waits_its_turn() {
    let mut client = Client::new(0);
    let request = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    assert!(client.send(request).is_some());
    while client.granted >= request.len() as u64 {
        assert!(client.send(request).is_none());
    }
    assert!(
        client.granted < request.len() as u64,
        "no more than the window is taken in"
    );
    let mut served = 0;
    loop {
        client.respond(&ok(""));
        served += 1;
        if client.poll().is_none() {
            break;
        }
    }
    assert_eq!(
        served,
        u64::from(HTTP_SERVER_WINDOW) / request.len() as u64 + 1
    );
}
