//! The faulty origin serves well when asked to, and each fault shows on the wire.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use core::time::Duration;
use dovetail_core::machine::{Endpoint, Host, Listener, Lost};
use dovetail_core::sim::origin::{Fault, FaultyOrigin, When};
use dovetail_core::sim::toys::Reader;
use dovetail_core::sim::{HostSpec, World};

const SECOND: Duration = Duration::from_secs(1);

fn content() -> Bytes {
    (0..100_000_u32).map(|n| (n % 251) as u8).collect()
}

struct Talk {
    text: Vec<u8>,
    closed: Option<Lost>,
    took: Duration,
    requests: usize,
    served: u64,
}

/// Say this to the origin, let 100 s pass, and look what came back.
fn talk(origin: FaultyOrigin, say: &str) -> Talk {
    let mut world = World::new(1);
    let spec = HostSpec::at("10.0.0.1").listen(Listener::Http, 80);
    let server = world.host("origin", origin, spec);
    let to = Endpoint {
        host: Host::Name("origin.test".into()),
        port: 80,
        tls: None,
    };
    world.name("origin.test", server);
    let say = Bytes::copy_from_slice(say.as_bytes());
    let reader = Reader::new(to, say, 1 << 20, Duration::ZERO);
    let client = world.host("client", reader, HostSpec::at("10.0.0.2"));
    let done = |w: &World| w.machine::<Reader>(client).is_done();
    let _ = world.run_until(done, SECOND * 100);
    let took = world.now();
    let origin = world.machine::<FaultyOrigin>(server);
    let reader = world.machine::<Reader>(client);
    Talk {
        text: reader.bytes(),
        closed: reader.closed.clone().map(|c| c.0),
        took,
        requests: origin.requests.len(),
        served: origin.served,
    }
}

impl Talk {
    fn head(&self) -> String {
        let end = self.text.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        String::from_utf8(self.text[..end].to_vec()).unwrap()
    }

    fn body(&self) -> &[u8] {
        let end = self.text.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        &self.text[end + 4..]
    }
}

const GET: &str = "GET /f HTTP/1.1\r\nHost: o\r\nConnection: close\r\n\r\n";
const PART: &str =
    "GET /f HTTP/1.1\r\nHost: o\r\nRange: bytes=1000-1999\r\nConnection: close\r\n\r\n";

fn with(fault: Fault) -> FaultyOrigin {
    FaultyOrigin::new(content()).fault(When::Always, fault)
}

#[test]
fn without_faults_it_serves_all_parts_and_validators() {
    let all = talk(FaultyOrigin::new(content()), GET);
    assert!(all.head().starts_with("HTTP/1.1 200 "));
    assert!(all.head().contains("\r\nContent-Length: 100000\r\n"));
    assert!(all.body() == content());
    assert_eq!((all.closed, all.served), (Some(Lost::Eof), 100_000));

    let part = talk(FaultyOrigin::new(content()), PART);
    assert!(part.head().starts_with("HTTP/1.1 206 "));
    let place = "\r\nContent-Range: bytes 1000-1999/100000\r\n";
    assert!(part.head().contains(place) && part.head().contains("\r\nETag: \"v1\"\r\n"));
    assert!(part.body() == &content()[1000..2000]);

    let stale = PART.replace("Range:", "If-Range: \"v0\"\r\nRange:");
    assert!(talk(FaultyOrigin::new(content()), &stale).body() == content());
    let fresh = PART.replace("Range:", "If-Range: \"v1\"\r\nRange:");
    assert_eq!(
        talk(FaultyOrigin::new(content()), &fresh).body().len(),
        1000
    );
    let tail = PART.replace("1000-1999", "-10");
    assert!(talk(FaultyOrigin::new(content()), &tail).body() == &content()[99_990..]);
    let past = talk(
        FaultyOrigin::new(content()),
        &PART.replace("1000-1999", "100000-"),
    );
    assert!(past.head().starts_with("HTTP/1.1 416 "));
    let missing = talk(FaultyOrigin::default().file("/g", content()), GET);
    assert!(missing.head().starts_with("HTTP/1.1 404 "));
    let head = talk(FaultyOrigin::new(content()), &GET.replace("GET", "HEAD"));
    assert!(head.head().contains("Content-Length: 100000") && head.body().is_empty());
}

#[test]
fn requests_on_one_connection_are_answered_in_order() {
    let keep = PART.replace("Connection: close\r\n", "");
    let both = talk(FaultyOrigin::new(content()), &format!("{keep}{PART}"));
    assert_eq!((both.requests, both.served), (2, 2000));
    let one = talk(with(Fault::NoKeepAlive), &format!("{keep}{PART}"));
    assert_eq!((one.requests, one.served), (1, 1000));
    assert!(one.head().contains("\r\nConnection: close"));
}

#[test]
fn rates_are_kept() {
    for origin in [
        FaultyOrigin::new(content()).rate(10_000),
        with(Fault::Slow {
            bytes_per_s: 10_000,
        }),
    ] {
        let slow = talk(origin, GET);
        let took = slow.took.as_secs_f64();
        assert!(
            slow.body() == content() && (8.0..11.0).contains(&took),
            "{took}"
        );
    }
    let wait = SECOND * 5;
    let late = talk(with(Fault::SlowHead { wait }), GET);
    assert!(late.took > wait && late.took < wait + SECOND);
}

#[test]
fn a_stall_is_silence_in_the_middle() {
    let stalled = talk(
        with(Fault::Stall {
            after: 500,
            span: None,
        }),
        GET,
    );
    assert_eq!((stalled.body().len(), stalled.closed), (500, None));
    let span = Some(SECOND * 7);
    let paused = talk(with(Fault::Stall { after: 500, span }), GET);
    assert!(paused.body() == content() && paused.took > SECOND * 7);
}

#[test]
fn bodies_that_are_not_what_the_head_promised() {
    let short = talk(with(Fault::Truncate { after: 12_345 }), GET);
    assert_eq!(
        (short.body().len(), short.closed),
        (12_345, Some(Lost::Eof))
    );
    let reset = talk(with(Fault::Reset { after: 12_345 }), GET);
    assert_eq!(
        (reset.body().len(), reset.closed),
        (12_345, Some(Lost::Reset))
    );
    let long = talk(with(Fault::Overlong { extra: 10 }), GET);
    assert_eq!(long.body().len(), 100_010);
    assert!(long.head().contains("Content-Length: 100000"));
    let file = 1500..1600;
    let lie = talk(with(Fault::Lie { file }), PART);
    let right = content();
    let wrong = lie.body().iter().zip(&right[1000..2000]);
    let wrong: Vec<_> = (0..).zip(wrong).filter(|(_, (a, b))| a != b).collect();
    assert_eq!((wrong.len(), wrong[0].0, wrong[99].0), (100, 500, 599));
}

#[test]
fn ranges_that_are_not_what_was_asked() {
    let ignored = talk(with(Fault::IgnoreRange), PART);
    assert!(ignored.head().starts_with("HTTP/1.1 200 ") && ignored.body() == content());
    assert!(!ignored.head().contains("Accept-Ranges"));
    let shifted = talk(with(Fault::WrongPlace { shift: 7 }), PART);
    assert!(shifted.head().contains("bytes 1007-2006/100000"));
    assert!(shifted.body() == &content()[1007..2007]);
}

#[test]
fn other_statuses_and_redirects() {
    let status = 503;
    let retry_after_s = Some(9);
    let busy = talk(
        with(Fault::Status {
            status,
            retry_after_s,
        }),
        GET,
    );
    assert!(busy.head().starts_with("HTTP/1.1 503 ") && busy.head().contains("Retry-After: 9"));
    let to = String::from("http://elsewhere/x");
    let moved = talk(with(Fault::Redirect { status: 307, to }), GET);
    assert!(moved.head().starts_with("HTTP/1.1 307 "));
    assert!(moved.head().contains("Location: http://elsewhere/x") && moved.body().is_empty());
    assert!(
        talk(with(Fault::Garbage), GET)
            .text
            .starts_with(b"\x16\x03")
    );
}

#[test]
fn bodies_without_a_length() {
    let chunked = talk(with(Fault::Chunked), PART);
    assert!(!chunked.head().contains("Content-Length"));
    let body = [b"3e8\r\n", &content()[1000..2000], b"\r\n0\r\n\r\n"].concat();
    assert!(chunked.body() == body);
    let keep = PART.replace("Connection: close\r\n", "");
    let open = talk(with(Fault::NoLength), &keep);
    assert!(open.body() == &content()[1000..2000] && open.closed == Some(Lost::Eof));
    assert!(!open.head().contains("Content-Length"));
    assert!(!talk(with(Fault::NoValidators), GET).head().contains("ETag"));
}

#[test]
fn rules_choose_requests_and_content_changes() {
    let keep = PART.replace("Connection: close\r\n", "");
    let missing = Fault::Status {
        status: 404,
        retry_after_s: None,
    };
    let origin = FaultyOrigin::new(content()).fault(When::Requests(1..2), missing.clone());
    let three = talk(origin, &format!("{keep}{keep}{PART}"));
    assert_eq!((three.requests, three.served), (3, 2000));
    let origin = FaultyOrigin::new(content()).fault(When::Path("/g".into()), missing);
    assert!(talk(origin, GET).head().starts_with("HTTP/1.1 200"));
    let mut origin = FaultyOrigin::new(content());
    origin.change_after(500, Bytes::from(vec![9; 5000]));
    let changed = talk(origin, &format!("{keep}{PART}"));
    let text = String::from_utf8_lossy(&changed.text).into_owned();
    assert!(text.contains("\"v1\"") && text.contains("\"v2\""));
    assert!(changed.text.ends_with(&[9; 1000]));
}
