//! [`super::WebSource`] against every way an origin can fail: a row for each, in virtual time.

use crate::http::Proxies;
use crate::http::testing::{Script, Seen, World, content, reply};
use crate::http::web_rig::{Job, LEN, cut, download, good, part, status, whole};
use crate::limits::HTTP_STALL_TIMEOUT;
use crate::machine::Lost;
use crate::time::Mono;
use alloc::format;
use alloc::string::ToString;
use core::time::Duration;

/// One thing goes wrong, once or a few times; then the origin is good. The file comes, and this is told.
#[test]
fn faults_that_pass() {
    type Fault = fn(&Seen<'_>) -> Script;
    let rows: [(&str, usize, Fault, &[&str]); 15] = [
        (
            "500",
            2,
            |_| status("500 Internal Server Error", ""),
            &["the server answered 500 Internal Server Error"; 2],
        ),
        (
            "502 with a body",
            1,
            |_| reply("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\nsorry"),
            &["the server answered 502 Bad Gateway"],
        ),
        (
            "429",
            1,
            |_| status("429 Too Many Requests", "Retry-After: 7\r\n"),
            &["the server answered 429 Too Many Requests"],
        ),
        (
            "503 until a date",
            1,
            |_| {
                status(
                    "503 Service Unavailable",
                    "Retry-After: Thu, 01 Jan 1970 00:01:00 GMT\r\n",
                )
            },
            &["the server answered 503 Service Unavailable"],
        ),
        (
            "silence",
            1,
            |_| Script::silence(),
            &["timed out waiting for an answer"],
        ),
        (
            "garbage",
            1,
            |_| reply("garbage\r\n\r\n"),
            &["malformed answer: http parse fail: invalid HTTP version"],
        ),
        (
            "closed at once",
            1,
            |_| Script::silence().then(Lost::Eof),
            &["no answer: connection closed"],
        ),
        (
            "reset in the body",
            3,
            |seen| cut(good(seen, 0), 50_000).then(Lost::Reset),
            &["the answer broke off: connection reset"; 3],
        ),
        (
            "truncated",
            1,
            |seen| cut(good(seen, 0), 100_000).then(Lost::Eof),
            &["the answer broke off: connection closed"],
        ),
        (
            "stalls",
            1,
            |seen| cut(good(seen, 0), 100_000),
            &["timed out waiting for more bytes"],
        ),
        ("over-long", 1, |seen| extra(good(seen, 0)), &[]),
        (
            "shorter than asked",
            1,
            |seen| {
                part(
                    &content(LEN, 0),
                    seen.range().map_or(0, |r| r.0),
                    Some(70_000),
                    "\"v0\"",
                )
            },
            &["the answer ended at byte 70000"],
        ),
        (
            "a part from elsewhere",
            1,
            |_| part(&content(LEN, 0), 5, None, "\"v0\""),
            &["http://h/f: bytes from 5 where 0 was asked; asking for the whole file"],
        ),
        (
            "a part without a place",
            1,
            |_| status("206 Partial Content", ""),
            &["http://h/f: a part without a usable Content-Range; asking for the whole file"],
        ),
        (
            "416 for no reason",
            1,
            |_| status("416 Range Not Satisfiable", ""),
            &["http://h/f: a range inside the file was refused; asking for the whole file"],
        ),
    ];
    for (name, times, fault, expected) in rows {
        for cut in [1000, usize::MAX] {
            let mut world = World::new(move |seen| {
                if seen.nth < times {
                    fault(seen)
                } else {
                    good(seen, 0)
                }
            });
            world.cut = cut;
            let mut job = Job::new(&["http://h/f"], world);
            let got = job
                .run()
                .unwrap_or_else(|failure| panic!("{name}: {failure}"));
            assert!(got == content(LEN, 0), "{name}");
            assert_eq!(job.told, expected, "{name}");
        }
    }
}

fn extra(mut script: Script) -> Script {
    script.wire.extend(b"HTTP/1.1 200 OK\r\nsmuggled");
    script
}

/// Faults that do not pass: one clear message, and no byte.
#[test]
fn faults_that_stay() {
    type Fault = fn(&Seen<'_>) -> Script;
    let rows: [(Fault, &str, usize); 10] = [
        (
            |_| status("404 Not Found", ""),
            "the server answered 404 Not Found",
            1,
        ),
        (
            |_| status("403 Forbidden", ""),
            "the server answered 403 Forbidden",
            1,
        ),
        (
            |_| status("410 Gone", ""),
            "the server answered 410 Gone",
            1,
        ),
        (
            |_| status("401 Unauthorized", ""),
            "the server answered 401 Unauthorized",
            1,
        ),
        (
            |_| status("302 Found", ""),
            "redirect without a location",
            1,
        ),
        (
            |_| status("302 Found", "Location: /f\r\n"),
            "more than 10 redirects",
            11,
        ),
        (
            |_| whole(b"x", "Content-Encoding: gzip\r\n"),
            "the server insists on content coding gzip",
            1,
        ),
        (
            |_| status("500 Internal Server Error", ""),
            "the server answered 500 Internal Server Error",
            8,
        ),
        (
            |_| Script::silence().then(Lost::Reset),
            "no answer: connection reset",
            8,
        ),
        (
            |_| status("204 No Content", ""),
            "the server answered 204 No Content",
            1,
        ),
    ];
    for (fault, why, requests) in rows {
        let (outcome, _, log) = download(fault);
        assert_eq!(outcome, Err(format!("cannot fetch http://h/f: {why}")));
        assert_eq!(log.len(), requests, "{why}: {log:?}");
    }
    for (lost, why, tries) in [
        (Lost::Refused, "connection refused", 8),
        (Lost::NameNotFound, "host name not found", 8),
        (
            Lost::Tls("certificate expired".into()),
            "TLS: certificate expired",
            1,
        ),
        (Lost::Eof, "the server hung up during the TLS handshake", 8),
    ] {
        let world = World::new(|_| Script::silence()).connecting(move |_| Err(lost.clone()));
        let mut job = Job::new(&["https://h/f"], world);
        let failure = job.run().expect_err("no connection");
        assert_eq!(
            failure.to_string(),
            format!("cannot fetch https://h/f: {why}")
        );
        assert_eq!(job.world.connects, tries);
    }
}

#[test]
fn waits_are_as_long_as_the_server_says_or_grow() {
    let waited = |script: fn() -> Script, times: usize| {
        let world = World::new(move |seen| {
            if seen.nth < times {
                script()
            } else {
                good(seen, 0)
            }
        });
        let mut job = Job::new(&["http://h/f"], world);
        job.run().expect("the file");
        job.world.now.mono.since(Mono::ZERO)
    };
    let seconds = Duration::from_secs;
    let wait = waited(
        || status("503 Service Unavailable", "Retry-After: 30\r\n"),
        1,
    );
    assert!((seconds(30)..seconds(40)).contains(&wait), "{wait:?}");
    let wait = waited(
        || status("503 Service Unavailable", "Retry-After: 99999\r\n"),
        1,
    );
    assert!(
        (seconds(600)..seconds(760)).contains(&wait),
        "capped: {wait:?}"
    );
    let wait = waited(|| status("500 Internal Server Error", ""), 5);
    assert!(
        (Duration::from_millis(7750)..seconds(10)).contains(&wait),
        "{wait:?}"
    );
    let wait = waited(Script::silence, 1);
    assert!((seconds(30)..seconds(32)).contains(&wait), "{wait:?}");
    assert!(HTTP_STALL_TIMEOUT <= seconds(30));
}

/// Whatever fails behind a proxy, the reader is told which proxy that was and where it is set.
#[test]
fn failures_name_the_proxy() {
    type Answer = fn(&Seen<'_>) -> Script;
    let forbidden: Answer = |_| status("403 Forbidden", "");
    let password: Answer = |_| status("407 Proxy Authentication Required", "");
    let (plain, secret) = ("http://h/f", "https://h/f");
    for (url, reached, answer, why) in [
        (
            plain,
            Ok(()),
            forbidden,
            "the server answered 403 Forbidden (through the proxy web:3128)",
        ),
        (
            plain,
            Ok(()),
            password,
            "the proxy answered 407 Proxy Authentication Required (through the proxy web:3128)",
        ),
        (
            plain,
            Err(Lost::Refused),
            forbidden,
            "cannot reach the proxy web:3128: connection refused",
        ),
        (
            secret,
            Ok(()),
            forbidden,
            "the proxy tun:3129 answered 403 Forbidden",
        ),
        (
            secret,
            Err(Lost::NameNotFound),
            forbidden,
            "cannot reach the proxy tun:3129: host name not found",
        ),
    ] {
        let world = World::new(answer).connecting(move |_| reached.clone());
        let mut job = Job::with(&[url], world, |config| {
            let (web, tunnel) = (Some("u:secret@web:3128"), Some("u:secret@tun:3129"));
            config.proxies = Proxies::new(web, tunnel, None).expect("proxies");
        });
        let failure = job.run().expect_err(why);
        assert_eq!(failure.what, format!("cannot fetch {url}"));
        assert_eq!(failure.why, why);
        let variable = format!("{}_proxy", url.split(':').next().unwrap_or_default());
        assert!(failure.remedy.contains(&variable), "{failure}");
    }
}
