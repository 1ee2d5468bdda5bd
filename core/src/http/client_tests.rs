//! The client's side of a connection, and whole calls, against scripted bytes.

use crate::http::testing::{Script, World, content, reply};
use crate::http::{
    Call, CallError, CallOutcome, CallRequest, ClientEvent, ClientRequest, Connection, HttpFault,
    Proxies, RedirectError, Url,
};
use crate::limits::{
    CONNECT_TIMEOUT, GRANT_PER_STREAM, HTTP_FIRST_BYTE_TIMEOUT, HTTP_HEAD_MAX, HTTP_KEEP_TIMEOUT,
    HTTP_STALL_TIMEOUT,
};
use crate::machine::{Input, Lost};
use ::http::StatusCode;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

fn url(text: &str) -> Url {
    Url::parse(text).expect(text)
}

/// One exchange; what it told, in short words: `200`, `body 5`, `done keep`, or the fault.
fn exchange(world: &mut World, connection: &mut Connection, request: ClientRequest) -> Vec<String> {
    let mut events = Vec::new();
    connection.start(world.now, request, &mut world.fx, &mut events);
    let mut told = Vec::new();
    let mut body = 0;
    loop {
        for event in core::mem::take(&mut events) {
            match event {
                ClientEvent::Head(head) => told.push(head.status.as_u16().to_string()),
                ClientEvent::Body(bytes) => {
                    body += bytes.len();
                    connection.consumed(world.now, bytes.len(), &mut world.fx);
                }
                ClientEvent::Done { reusable } => {
                    told.push(format!("body {body}"));
                    told.push(if reusable {
                        "keep".into()
                    } else {
                        "close".into()
                    });
                    return told;
                }
                ClientEvent::Fault(fault) => {
                    if body > 0 {
                        told.push(format!("body {body}"));
                    }
                    told.push(fault.to_string());
                    return told;
                }
            }
        }
        let busy = world.turn();
        while let Some(input) = world.inputs.pop_front() {
            connection.on_input(world.now, &input, &mut world.fx, &mut events);
        }
        if !busy && events.is_empty() {
            let deadline = connection.deadline().expect("something to wait for");
            world.pass_to(deadline.at);
            connection.on_tick(world.now, &mut world.fx, &mut events);
        }
    }
}

fn get(world: &mut World, text: &str) -> Vec<String> {
    let url = url(text);
    let mut connection = Connection::open(world.now, &url, &Proxies::none(), &mut world.fx);
    exchange(world, &mut connection, ClientRequest::get(url))
}

#[test]
fn answers_end_where_they_should_at_every_cut() {
    let eof = Some(Lost::Eof);
    for (wire, then, told) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
            None,
            &["200", "body 3", "keep"][..],
        ),
        (
            "HTTP/1.1 204 No Content\r\n\r\n",
            None,
            &["204", "body 0", "keep"],
        ),
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            None,
            &["304", "body 0", "keep"],
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            None,
            &["200", "body 2", "keep"],
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
            None,
            &["200", "body 1", "keep"],
        ),
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na",
            None,
            &["200", "body 1", "close"],
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nabc",
            None,
            &["200", "body 1", "close"],
        ),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na",
            None,
            &["200", "body 1", "close"],
        ),
        (
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
            None,
            &["200", "body 1", "keep"],
        ),
        (
            "HTTP/1.0 200 OK\r\n\r\nabc",
            eof.clone(),
            &["200", "body 3", "close"],
        ),
        (
            "HTTP/1.1 200 OK\r\n\r\nabc",
            eof.clone(),
            &["200", "body 3", "close"],
        ),
        (
            "HTTP/1.1 200 OK\r\n\r\nabc",
            Some(Lost::Reset),
            &["200", "body 3", "the answer broke off: connection reset"],
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
            eof.clone(),
            &["200", "body 3", "the answer broke off: connection closed"],
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
            eof.clone(),
            &["200", "body 2", "the answer broke off: connection closed"],
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            None,
            &["200", "malformed answer: malformed chunk size"],
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Le",
            eof.clone(),
            &["the answer broke off: connection closed"],
        ),
        ("", eof.clone(), &["no answer: connection closed"]),
        ("SSH-2.0-OpenSSH\r\n\r\n", None, &["malformed answer"]),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            None,
            &["malformed answer: unasked change of protocol"],
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            None,
            &["malformed answer: unknown transfer coding"],
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            None,
            &["malformed answer"],
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            None,
            &["malformed answer"],
        ),
    ] {
        // Trailing bytes that come later than the answer's end find an idle connection.
        let cuts = if told.last() == Some(&"close") {
            64.max(wire.len())..65
        } else {
            1..wire.len().max(2)
        };
        for cut in cuts {
            let then = then.clone();
            let mut world = World::new(move |_| Script {
                then: then.clone().map_or(
                    crate::http::testing::Then::Keep,
                    crate::http::testing::Then::Close,
                ),
                ..reply(wire)
            });
            world.cut = cut;
            let got = get(&mut world, "http://h/");
            let matches = got.len() == told.len()
                && got
                    .iter()
                    .zip(told)
                    .all(|(got, told)| got.starts_with(told));
            assert!(matches, "{wire:?} cut at {cut}: {got:?}");
            assert_eq!(world.log, ["GET /"]);
        }
    }
}

#[test]
fn heads_are_bounded() {
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(HTTP_HEAD_MAX));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(1000));
    for wire in [endless.clone(), endless + "\r\n\r\n", many] {
        for cut in [1000, usize::MAX] {
            let reply_wire = wire.clone();
            let mut world = World::new(move |_| reply(reply_wire.clone()));
            world.cut = cut;
            let told = get(&mut world, "http://h/");
            assert_eq!(told, [HttpFault::HeadTooLarge.to_string()]);
            world.turn();
            assert_eq!(world.open(), 0);
        }
    }
}

#[test]
fn waiting_has_an_end() {
    for (wire, told, waited) in [
        (
            "",
            &["timed out waiting for an answer"][..],
            HTTP_FIRST_BYTE_TIMEOUT,
        ),
        (
            "HTTP/1.1 200",
            &["timed out waiting for an answer"],
            HTTP_FIRST_BYTE_TIMEOUT,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
            &["200", "body 3", "timed out waiting for more bytes"],
            HTTP_STALL_TIMEOUT,
        ),
    ] {
        let mut world = World::new(move |_| reply(wire));
        assert_eq!(get(&mut world, "http://h/"), told);
        assert_eq!(world.now.mono.since(crate::time::Mono::ZERO), waited);
        world.turn();
        assert_eq!(world.open(), 0, "the stream was closed");
    }
    let mut world = World::new(|_| Script::silence());
    let url = url("http://h/");
    let mut connection = Connection::open(world.now, &url, &Proxies::none(), &mut world.fx);
    world.pass(CONNECT_TIMEOUT);
    let mut events = Vec::new();
    connection.on_tick(world.now, &mut world.fx, &mut events);
    assert!(matches!(
        &events[..],
        [ClientEvent::Fault(HttpFault::TimedOut("the connection"))]
    ));
    for why in [
        Lost::Refused,
        Lost::NameNotFound,
        Lost::Tls("unknown issuer".into()),
    ] {
        let expected = HttpFault::Connect(why.clone()).to_string();
        let mut world = World::new(|_| Script::silence()).connecting(move |_| Err(why.clone()));
        assert_eq!(get(&mut world, "https://h/"), [expected]);
    }
}

#[test]
fn a_kept_connection_serves_again_until_it_is_closed() {
    let mut world = World::new(|_| reply("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"));
    let url = url("http://h/");
    let mut connection = Connection::open(world.now, &url, &Proxies::none(), &mut world.fx);
    for _ in 0..100 {
        let told = exchange(&mut world, &mut connection, ClientRequest::get(url.clone()));
        assert_eq!(told, ["200", "body 1", "keep"]);
    }
    assert_eq!(world.connects, 1);
    assert!(connection.is_idle() && connection.serves(&url));
    let mut events = Vec::new();
    world.pass(HTTP_KEEP_TIMEOUT);
    connection.on_tick(world.now, &mut world.fx, &mut events);
    assert!(
        connection.is_gone() && events.is_empty(),
        "kept long enough"
    );

    let mut connection = Connection::open(world.now, &url, &Proxies::none(), &mut world.fx);
    exchange(&mut world, &mut connection, ClientRequest::get(url));
    let bytes = bytes::Bytes::from_static(b"HTTP/1.1 408 Request Timeout\r\n\r\n");
    let stream = connection.stream();
    connection.on_input(
        world.now,
        &Input::Received { stream, bytes },
        &mut world.fx,
        &mut events,
    );
    assert!(
        connection.is_gone() && events.is_empty(),
        "a server's farewell is not an answer"
    );
}

#[test]
fn bytes_held_back_hold_the_sender_back() {
    let len = 3 * GRANT_PER_STREAM as usize;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n").into_bytes();
    let wire = [head, content(len, 0)].concat();
    let mut world = World::new(move |_| reply(wire.clone()));
    let url = url("http://h/");
    let mut connection = Connection::open(world.now, &url, &Proxies::none(), &mut world.fx);
    let mut events = Vec::new();
    connection.start(
        world.now,
        ClientRequest::get(url),
        &mut world.fx,
        &mut events,
    );
    let mut held = 0;
    let mut total = 0;
    while total < len {
        while world.turn() || !world.inputs.is_empty() {
            while let Some(input) = world.inputs.pop_front() {
                connection.on_input(world.now, &input, &mut world.fx, &mut events);
            }
            for event in events.drain(..) {
                if let ClientEvent::Body(bytes) = event {
                    held += bytes.len();
                    total += bytes.len();
                }
            }
            assert!(held <= GRANT_PER_STREAM as usize, "{held} bytes at once");
        }
        // However long the parent takes, that is no stall.
        world.pass(HTTP_STALL_TIMEOUT * 3);
        if connection.deadline().is_some() {
            assert_eq!(total, len);
        }
        connection.on_tick(world.now, &mut world.fx, &mut events);
        connection.consumed(world.now, held, &mut world.fx);
        held = 0;
    }
    assert!(!connection.is_gone() || total == len);
}

#[test]
fn proxies_are_spoken_to_in_their_own_way() {
    let proxies =
        Proxies::new(Some("http://u:p@proxy:8080"), Some("proxy:8081"), None).expect("proxies");
    let mut world = World::new(|seen| {
        assert_eq!(seen.server, "proxy:8080");
        assert_eq!(seen.field("proxy-authorization"), Some("Basic dTpw"));
        assert_eq!(seen.field("host"), Some("h:81"));
        reply("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    });
    let plain = url("http://h:81/a?b");
    let mut connection = Connection::open(world.now, &plain, &proxies, &mut world.fx);
    let told = exchange(&mut world, &mut connection, ClientRequest::get(plain));
    assert_eq!(told, ["200", "body 0", "keep"]);
    assert_eq!(world.log, ["GET http://h:81/a?b"]);

    let tunnel = |answer: &'static str| {
        let mut world = World::new(move |seen| {
            assert_eq!(seen.server, "proxy:8081");
            let connects = seen.nth_here == 0;
            reply(if connects {
                answer
            } else {
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"
            })
        })
        .connecting(|to| {
            assert_eq!(to.tls, None, "TLS is inside the tunnel only");
            Ok(())
        });
        let secret = url("https://h/x");
        let mut connection = Connection::open(world.now, &secret, &proxies, &mut world.fx);
        let told = exchange(&mut world, &mut connection, ClientRequest::get(secret));
        (told, world.log)
    };
    let (told, log) = tunnel("HTTP/1.1 200 Connection established\r\n\r\n");
    assert_eq!(told, ["200", "body 1", "keep"]);
    assert_eq!(log, ["CONNECT h:443", "TLS h", "GET /x"]);
    for (answer, fault) in [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
            "the proxy answered 407 Proxy Authentication Required",
        ),
        (
            "HTTP/1.1 200 OK\r\n\r\nearly",
            "malformed answer: bytes in the tunnel before TLS",
        ),
    ] {
        let (told, log) = tunnel(answer);
        assert_eq!(told, [fault]);
        assert_eq!(log, ["CONNECT h:443"]);
    }
}

/// A whole call, by itself or on a kept connection.
fn call(
    world: &mut World,
    request: CallRequest,
    keep: Option<Connection>,
) -> (CallOutcome, Option<Connection>) {
    let mut call = Call::start(world.now, request, &Proxies::none(), keep, &mut world.fx);
    loop {
        let mut outcome = None;
        let busy = world.turn();
        while let Some(input) = world.inputs.pop_front() {
            outcome = outcome.or(call.on_input(world.now, &input, &mut world.fx));
        }
        if !busy && outcome.is_none() {
            world.pass_to(call.deadline().expect("a call ends").at);
            outcome = call.on_tick(world.now, &mut world.fx);
        }
        if let Some(outcome) = outcome {
            return (outcome, call.into_connection());
        }
    }
}

#[test]
fn calls_post_json_and_keep_the_connection() {
    let mut world = World::new(|seen| {
        assert_eq!(seen.field("content-type"), Some("application/json"));
        assert!(
            seen.field("user-agent")
                .is_some_and(|agent| agent.starts_with("dovetail/"))
        );
        assert_eq!(seen.body, b"{\"a\":1}");
        reply("HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
    });
    let mut keep = None;
    for _ in 0..3 {
        let request = CallRequest::post_json(url("http://h/api"), "{\"a\":1}");
        let (outcome, kept) = call(&mut world, request, keep);
        let response = outcome.expect("an answer");
        assert_eq!(
            (response.status, &response.body[..]),
            (StatusCode::CREATED, &b"{}"[..])
        );
        keep = kept;
    }
    assert_eq!(world.connects, 1);
    // The server ends keep-alive just as the next request is under way.
    world.close_all(&Lost::Eof);
    let (outcome, _) = call(
        &mut world,
        CallRequest::post_json(url("http://h/api"), "{\"a\":1}"),
        keep,
    );
    assert!(outcome.is_ok(), "{outcome:?}");
    assert_eq!(world.connects, 2);
}

#[test]
fn calls_follow_redirects_and_say_what_is_wrong() {
    let answers = |seen: &crate::http::testing::Seen<'_>| match seen.target.as_str() {
        "/hop" => {
            reply("HTTP/1.1 302 Found\r\nLocation: http://g/end\r\nContent-Length: 3\r\n\r\nbye")
        }
        "/loop" => {
            reply("HTTP/1.1 307 Temporary Redirect\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n")
        }
        "/down" => {
            reply("HTTP/1.1 302 Found\r\nLocation: http://h/end\r\nContent-Length: 0\r\n\r\n")
        }
        "/end" => {
            assert_eq!(
                seen.field("authorization"),
                None,
                "credentials stay with their origin"
            );
            reply("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhere")
        }
        "/long" => reply(
            "HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n".to_string()
                + &"x".repeat(2_000_000),
        ),
        "/none" => reply("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        _ => Script::silence(),
    };
    let run = |request: CallRequest| call(&mut World::new(answers), request, None).0;
    let get = |text| run(CallRequest::get(url(text)));
    let response = get("http://me:pw@h/hop").expect("an answer");
    assert_eq!(
        (&response.body[..], response.url),
        (&b"here"[..], url("http://g/end"))
    );
    assert_eq!(
        get("http://h/none").map(|r| r.status),
        Ok(StatusCode::NOT_FOUND)
    );
    assert_eq!(
        get("http://h/loop").map(|r| r.status),
        Err(CallError::Redirect(RedirectError::TooMany))
    );
    let downgrade = RedirectError::Downgrade(url("http://h/end"));
    assert_eq!(
        get("https://h/down").map(|r| r.status),
        Err(CallError::Redirect(downgrade))
    );
    assert_eq!(
        get("http://h/long").map(|r| r.status),
        Err(CallError::TooLong)
    );
    let post = run(CallRequest::post_json(url("http://h/hop"), "{}"));
    assert_eq!(
        post.map(|r| r.status),
        Ok(StatusCode::FOUND),
        "only GET is followed"
    );
    let mut hasty = CallRequest::get(url("http://h/silent"));
    hasty.timeout = Duration::from_secs(3);
    assert_eq!(run(hasty).map(|r| r.status), Err(CallError::TimedOut));
    let patient = get("http://h/silent");
    assert_eq!(patient.map(|r| r.status), Err(CallError::TimedOut));
}

#[test]
fn what_is_asked_is_what_was_meant() {
    let url = url("http://u:p@h/x?y");
    let request = ClientRequest::get(url.clone()).with(::http::header::RANGE, "bytes=1-2");
    let (head, _) = request.encode(&crate::http::Route::Direct).expect("a head");
    let head = String::from_utf8(head.to_vec()).expect("text");
    assert!(head.starts_with("GET /x?y HTTP/1.1\r\n"), "{head}");
    for field in [
        "host: h\r\n",
        "authorization: Basic dTpw\r\n",
        "range: bytes=1-2\r\n",
        "accept-encoding: identity\r\n",
    ] {
        assert!(head.contains(field), "{head}");
    }
    assert!(!head.contains("content-length"), "{head}");
    let mut empty_post = ClientRequest::post(url, "text/plain", "");
    let (head, _) = empty_post
        .encode(&crate::http::Route::Direct)
        .expect("a head");
    assert!(String::from_utf8_lossy(&head).contains("content-length: 0\r\n"));
    empty_post.body = vec![b'x'; 100_000].into();
    assert!(empty_post.encode(&crate::http::Route::Direct).is_ok());
}
