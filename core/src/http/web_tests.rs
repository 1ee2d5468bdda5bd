//! [`super::WebSource`] against scripted origins, in virtual time: ranges, versions, redirects, alternatives,
//! back-pressure and lanes. What goes wrong is in `web_fault_tests`.

use crate::http::testing::{Script, Seen, World, content, reply};
use crate::http::web_rig::{Job, LEN, cut, download, good, part, status, whole};
use crate::http::{Known, Lane, Url, Validator, WebEvent};
use crate::machine::{Endpoint, Lost};
use crate::time::Mono;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use core::cell::RefCell;
use core::time::Duration;
use std::rc::Rc;

#[test]
fn a_good_origin_needs_one_request() {
    for cut in [1000, 1448, 65_536, usize::MAX] {
        let mut world = World::new(|seen| good(seen, 0));
        world.cut = cut;
        let mut job = Job::new(&["http://h/f"], world);
        assert!(job.run().expect("the file") == content(LEN, 0));
        assert_eq!(job.world.log, ["GET /f bytes=0-"]);
        assert!(job.told.is_empty(), "{:?}", job.told);
    }
}

#[test]
fn ranges_come_over_one_kept_connection_with_a_guard() {
    let mut world = World::new(|seen| {
        assert_eq!(seen.field("if-range"), (seen.nth > 0).then_some("\"v0\""));
        good(seen, 0)
    });
    world.cut = 1448;
    let mut job = Job::new(&["http://h/f"], world);
    job.ask = Some(100_000);
    // Before the length is known everything is asked for; then the tail is given away.
    while job.length.is_none() {
        job.top_up();
        job.world.turn();
        while let Some(input) = job.world.inputs.pop_front() {
            job.web
                .on_input(job.world.now, &input, &mut job.world.fx, &mut job.events);
        }
        assert!(job.settle().is_none());
    }
    job.web
        .shrink(Lane(0), 250_000, &mut job.world.fx, &mut job.events);
    job.asked
        .insert(Lane(0), job.asked[&Lane(0)].start..250_000);
    assert!(job.run().expect("the file") == content(LEN, 0));
    assert_eq!(
        job.world.log,
        ["GET /f bytes=0-", "GET /f bytes=250000-299999"]
    );
    assert_eq!(job.world.connects, 1, "the little that was left was read");
}

#[test]
fn an_origin_without_ranges_is_one_stream() {
    let notice = "the server does not serve ranges: one sequential stream";
    let (outcome, told, log) = download(|_| whole(&content(LEN, 0), ""));
    assert_eq!((outcome, log.len()), (Ok(()), 1));
    assert_eq!(told, [notice]);
    // A break in the middle: again from the start, skipping what is there.
    let (outcome, told, log) = download(|seen| {
        let mut script = whole(&content(LEN, 0), "ETag: \"v0\"\r\n");
        if seen.nth == 0 {
            script.wire.truncate(150_000);
            script = script.then(Lost::Reset);
        }
        script
    });
    assert_eq!(outcome, Ok(()));
    assert_eq!(told, [notice, "the answer broke off: connection reset"]);
    assert_eq!(log, ["GET /f bytes=0-", "GET /f"]);
}

#[test]
fn a_server_that_stops_doing_ranges_is_followed() {
    let (outcome, told, log) = download(|seen| match seen.nth {
        0 => {
            let mut script = good(seen, 0);
            script.wire.truncate(100_000);
            script.then(Lost::Eof)
        }
        _ => whole(&content(LEN, 0), "ETag: \"v0\"\r\n"),
    });
    assert_eq!(outcome, Ok(()));
    assert_eq!(
        told.last().map(String::as_str),
        Some("the server does not serve ranges: one sequential stream")
    );
    // Once with If-Range, once without it, then the stream is taken.
    assert_eq!(log.len(), 3, "{log:?}");
}

#[test]
fn lengths_that_nobody_tells() {
    let chunked = |seen: &Seen<'_>| {
        assert_eq!(seen.nth, 0);
        let mut wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in content(LEN, 0).chunks(10_000) {
            wire.extend(
                format!("{:x}\r\n", chunk.len())
                    .bytes()
                    .chain(chunk.iter().copied())
                    .chain(*b"\r\n"),
            );
        }
        wire.extend(b"0\r\n\r\n");
        reply(wire)
    };
    assert_eq!(download(chunked).0, Ok(()));
    let until_close = |_: &Seen<'_>| {
        let wire = [&b"HTTP/1.0 200 OK\r\n\r\n"[..], &content(LEN, 0)].concat();
        reply(wire).then(Lost::Eof)
    };
    let (outcome, told, _) = download(until_close);
    assert_eq!(outcome, Ok(()));
    assert_eq!(
        told,
        ["the server does not serve ranges: one sequential stream"]
    );
}

#[test]
fn an_empty_file_is_a_file() {
    for script in [
        || status("200 OK", "Accept-Ranges: bytes\r\n"),
        || status("416 Range Not Satisfiable", "Content-Range: bytes */0\r\n"),
        || reply("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ] {
        let mut job = Job::new(&["http://h/f"], World::new(move |_| script()));
        assert_eq!(job.run(), Ok(vec![]));
        assert_eq!((job.length, job.world.log.len()), (Some(0), 1));
    }
}

#[test]
fn a_changed_file_is_never_spliced() {
    // The second version shows after the first answer broke off.
    let changed = |seen: &Seen<'_>| match seen.nth {
        0 => cut(good(seen, 1), 200_000).then(Lost::Eof),
        _ => good(seen, 0),
    };
    let (outcome, told, log) = download(changed);
    assert_eq!(outcome, Ok(()));
    assert_eq!(
        told,
        [
            "the answer broke off: connection closed",
            "changed Some(300000)"
        ]
    );
    assert_eq!(log.len(), 3, "{log:?}");
    // A server that ignores If-Range is found out by its tag.
    let ignorant = |seen: &Seen<'_>| match (seen.nth, seen.range()) {
        (0, _) => cut(good(seen, 1), 200_000).then(Lost::Eof),
        (_, Some((start, end))) => part(&content(LEN, 0), start, end, "\"v0\""),
        _ => good(seen, 0),
    };
    assert_eq!(download(ignorant).0, Ok(()));
    // One that has no tags, by its length.
    let tagless = |seen: &Seen<'_>| {
        let body = if seen.nth == 0 {
            content(LEN + 7, 1)
        } else {
            content(LEN, 0)
        };
        let (start, end) = seen.range().expect("a range");
        let script = part(&body, start, end, "none");
        if seen.nth == 0 {
            cut(script, 200_000).then(Lost::Eof)
        } else {
            script
        }
    };
    let (outcome, told, _) = download(tagless);
    assert_eq!(outcome, Ok(()));
    assert_eq!(
        told,
        [
            "the answer broke off: connection closed",
            "changed Some(300000)"
        ]
    );
    // And one whose file never stays the same is given up.
    let restless = |seen: &Seen<'_>| cut(good(seen, seen.nth as u8), 200_000).then(Lost::Eof);
    let (outcome, _, _) = download(restless);
    assert_eq!(
        outcome,
        Err("cannot fetch http://h/f: the file keeps changing".into())
    );
}

#[test]
fn a_resumed_download_knows_its_version() {
    let known = |version: &str| Known {
        length: Some(LEN as u64),
        validator: Some(Validator {
            etag: Some(version.to_string()),
            ..Validator::default()
        }),
        url: Url::parse("http://h/f").expect("url"),
    };
    for (version, told) in [
        ("\"v0\"", &[][..]),
        ("\"old\"", &["changed Some(300000)".to_string()]),
    ] {
        let world = World::new(|seen| good(seen, 0));
        let mut job = Job::with(&["http://h/f"], world, |config| {
            config.expect = Some(known(version))
        });
        job.have = content(LEN, 0)[..100_000]
            .iter()
            .copied()
            .map(Some)
            .collect();
        assert!(job.run().expect("the file") == content(LEN, 0), "{version}");
        assert_eq!(job.told, told, "{version}");
        assert_eq!(job.world.log[0], "GET /f bytes=100000-299999");
    }
}

#[test]
fn a_tag_that_drifts_does_not_matter_when_hashes_prove_the_bytes() {
    let mut world = World::new(|seen| {
        let etag = format!("\"backend{}\"", seen.nth % 2);
        let guarded = seen.field("if-range").is_none_or(|tag| tag == etag);
        let script = match seen.range().filter(|_| guarded) {
            Some((start, end)) => part(&content(LEN, 0), start, end, &etag),
            None => whole(&content(LEN, 0), &format!("ETag: {etag}\r\n")),
        };
        if seen.nth < 3 {
            cut(script, 90_000).then(Lost::Eof)
        } else {
            script
        }
    });
    world.cut = 10_000;
    let mut job = Job::with(&["http://h/f"], world, |config| config.verified = true);
    assert!(job.run().expect("the file") == content(LEN, 0));
    assert!(
        !job.told
            .iter()
            .any(|told| told.contains("changed") || told.contains("ranges")),
        "{:?}",
        job.told
    );
    // A file of another length is not the file whose hashes are known.
    let world = World::new(|_| whole(b"<html>log in to this network</html>", ""));
    let mut job = Job::with(&["http://h/f"], world, |config| {
        config.verified = true;
        config.expect = Some(Known {
            length: Some(LEN as u64),
            validator: None,
            url: Url::parse("http://h/f").expect("url"),
        });
    });
    let failure = job.run().expect_err("another file").to_string();
    assert_eq!(
        failure,
        "cannot fetch http://h/f: the file there has 35 bytes, not what its hashes are for"
    );
}

#[test]
fn redirects_are_followed_remembered_and_renewed() {
    // Signed targets live for two requests.
    let signed = Rc::new(RefCell::new((0, 0)));
    let state = signed.clone();
    let mut world = World::new(move |seen| {
        let mut state = state.borrow_mut();
        if seen.server == "h:80" {
            state.0 += 1;
            state.1 = 0;
            return status(
                "302 Found",
                &format!("Location: http://cdn/signed{}\r\n", state.0),
            );
        }
        state.1 += 1;
        if state.1 > 2 || seen.target != format!("/signed{}", state.0) {
            return status("403 Forbidden", "");
        }
        cut(good(seen, 0), 70_000).then(Lost::Eof)
    });
    world.cut = 10_000;
    let mut job = Job::new(&["http://h/f"], world);
    assert!(job.run().expect("the file") == content(LEN, 0));
    assert_eq!(
        signed.borrow().0,
        3,
        "asked anew only when the target had expired"
    );
    assert!(
        job.told
            .iter()
            .all(|told| told.starts_with("the answer broke off")),
        "{:?}",
        job.told
    );

    let (outcome, _, log) = download(|seen| match seen.target.as_str() {
        "/f" => status("301 Moved Permanently", "Location: a/b\r\n"),
        "/a/b" => status("308 Permanent Redirect", "Location: //g:81/../c?d\r\n"),
        "/c?d" => good(seen, 0),
        other => panic!("{other}"),
    });
    assert_eq!(outcome, Ok(()));
    assert_eq!(
        log,
        ["GET /f bytes=0-", "GET /a/b bytes=0-", "GET /c?d bytes=0-"]
    );

    let world = World::new(|_| status("302 Found", "Location: http://h/f\r\n"));
    let failure = Job::new(&["https://h/f"], world)
        .run()
        .expect_err("a downgrade")
        .to_string();
    assert_eq!(
        failure,
        "cannot fetch https://h/f: redirect from https to http://h/f refused"
    );
}

#[test]
fn alternatives_take_over() {
    let urls = ["http://a/f", "http://b/f", "http://c/f"];
    let run = |answer: fn(&Seen<'_>) -> Script, verified: bool| {
        let mut world = World::new(answer);
        world.cut = 10_000;
        let mut job = Job::with(&urls, world, |config| config.verified = verified);
        assert!(job.run().expect("the file") == content(LEN, 0));
        (job.told, job.world.now.mono.since(Mono::ZERO))
    };
    let (_, took) = run(
        |seen| match seen.server {
            "a:80" => status("404 Not Found", ""),
            "b:80" => status("500 Internal Server Error", ""),
            _ => good(seen, 0),
        },
        false,
    );
    assert_eq!(
        took,
        Duration::ZERO,
        "no wait while another URL can be asked"
    );
    // Mirrors with other tags: mixed when hashes prove the bytes, begun anew when nothing does.
    let broken_mirror = |seen: &Seen<'_>| match (seen.server, seen.range()) {
        ("a:80", _) if seen.nth == 0 => cut(good(seen, 0), 200_000).then(Lost::Eof),
        ("a:80", _) => status("404 Not Found", ""),
        (_, Some((start, end))) => part(&content(LEN, 0), start, end, "\"mirror\""),
        _ => panic!("{}", seen.target),
    };
    let (told, _) = run(broken_mirror, true);
    assert_eq!(
        told,
        [
            "the answer broke off: connection closed",
            "the server answered 404 Not Found"
        ]
    );
    let (told, _) = run(broken_mirror, false);
    assert_eq!(
        told.last().map(String::as_str),
        Some("changed Some(300000)")
    );

    let world = World::new(|_| Script::silence()).connecting(|to: &Endpoint| {
        Err(if to.port == 80 {
            Lost::Refused
        } else {
            Lost::NameNotFound
        })
    });
    let failure = Job::new(&["http://a/f", "http://b:8/f"], world)
        .run()
        .expect_err("none")
        .to_string();
    assert_eq!(
        failure,
        "cannot fetch http://a/f or 1 other URLs: connection refused, host name not found"
    );
    let failure = Job::new(&[], World::new(|_| Script::silence()));
    assert_eq!(
        failure.web.targets.failure().to_string(),
        "no URL to fetch from: "
    );
}

#[test]
fn a_kept_connection_closed_by_the_server_is_asked_again_silently() {
    let mut world = World::new(|seen| {
        let script = good(seen, 0);
        // Every connection serves one request and closes when the next one comes.
        if seen.nth_here > 0 {
            Script::silence().then(Lost::Eof)
        } else {
            script
        }
    });
    world.cut = 5000;
    let mut job = Job::new(&["http://h/f"], world);
    job.ask = Some(60_000);
    job.length = Some(LEN);
    assert!(job.run().expect("the file") == content(LEN, 0));
    assert!(job.told.is_empty(), "{:?}", job.told);
    assert_eq!(job.world.connects, 5);
}

#[test]
fn http_1_0_servers_get_a_connection_for_each_range() {
    let mut world = World::new(|seen| {
        let mut script = good(seen, 0);
        script.wire.splice(..8, *b"HTTP/1.0");
        script.then(Lost::Eof)
    });
    world.cut = 5000;
    let mut job = Job::new(&["http://h/f"], world);
    job.ask = Some(60_000);
    job.length = Some(LEN);
    assert!(job.run().expect("the file") == content(LEN, 0));
    assert!(job.told.is_empty(), "{:?}", job.told);
    assert_eq!((job.world.connects, job.world.max_open), (5, 1));
}

#[test]
fn cancel_and_shrink_stop_bytes_at_once() {
    let mut world = World::new(|seen| good(seen, 0));
    world.cut = 10_000;
    let mut job = Job::new(&["http://h/f"], world);
    job.top_up();
    for _ in 0..8 {
        job.world.turn();
        while let Some(input) = job.world.inputs.pop_front() {
            job.web
                .on_input(job.world.now, &input, &mut job.world.fx, &mut job.events);
        }
        assert!(job.settle().is_none());
    }
    let (next, end) = job.web.position(Lane(0)).expect("at work");
    assert!(next > 0 && end == Some(LEN as u64));
    assert_eq!(job.web.idle_lane(job.world.now), None);
    job.web.cancel(Lane(0), &mut job.world.fx);
    assert_eq!(job.web.position(Lane(0)), None);
    job.world.turn();
    assert_eq!(job.world.open(), 0, "much was left: closed");
    let idle = job.web.idle_lane(job.world.now);
    assert_eq!(idle.map(|idle| idle.lane), Some(Lane(0)));
    // A range that shrinks to where it is has ended.
    job.asked.clear();
    job.top_up();
    let at = job.asked[&Lane(0)].start;
    job.web
        .shrink(Lane(0), at, &mut job.world.fx, &mut job.events);
    assert_eq!(job.events, [WebEvent::Finished { lane: Lane(0) }]);
}

#[test]
fn bytes_not_consumed_hold_the_origin_back_even_across_connections() {
    let mut world = World::new(|seen| {
        let body = content(4 * 1024 * 1024, 0);
        let (start, end) = seen.range().expect("a range");
        part(&body, start, end, "\"v\"")
    });
    world.cut = 100_000;
    let mut job = Job::new(&["http://h/f"], world);
    let mut held = 0;
    let mut turn = |job: &mut Job| {
        while job.world.turn() || !job.world.inputs.is_empty() {
            while let Some(input) = job.world.inputs.pop_front() {
                job.web
                    .on_input(job.world.now, &input, &mut job.world.fx, &mut job.events);
            }
        }
        for event in core::mem::take(&mut job.events) {
            if let WebEvent::Bytes { bytes, .. } = event {
                held += bytes.len();
            }
        }
        held
    };
    job.web.fetch(
        job.world.now,
        Lane(0),
        0,
        None,
        &mut job.world.fx,
        &mut job.events,
    );
    let first = turn(&mut job);
    assert!(first <= 1024 * 1024, "{first}");
    // Hours of rate limiting are no stall.
    job.world.pass(Duration::from_secs(7200));
    job.web
        .on_tick(job.world.now, &mut job.world.fx, &mut job.events);
    assert!(job.events.is_empty());
    job.web.cancel(Lane(0), &mut job.world.fx);
    job.web.fetch(
        job.world.now,
        Lane(0),
        first as u64,
        None,
        &mut job.world.fx,
        &mut job.events,
    );
    let second = turn(&mut job);
    job.web
        .consumed(job.world.now, Lane(0), first, &mut job.world.fx);
    assert_eq!(
        turn(&mut job),
        second,
        "what the old connection brought grants nothing on the new one"
    );
    job.web
        .consumed(job.world.now, Lane(0), second - first, &mut job.world.fx);
    assert!(turn(&mut job) > second);
}

#[test]
fn lanes_are_opened_while_they_pay() {
    // Each connection brings 1 MB/s, in steps of 10 ms.
    let body_len = 200_000_000;
    let mut world = World::new(move |seen| {
        let (start, end) = seen.range().expect("a range");
        let end = end.unwrap_or(body_len).min(body_len);
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{}/{body_len}\r\nContent-Length: {}\r\n\r\n",
            end - 1,
            end - start
        );
        reply([head.into_bytes(), vec![0; end - start]].concat())
    });
    world.cut = 10_000;
    let mut job = Job::new(&["http://h/f"], world);
    let mut busiest = 0;
    let mut next = 0;
    for _ in 0..2000 {
        while let Some(idle) = job.web.idle_lane(job.world.now) {
            let lane = idle.lane;
            let end = next + 1_000_000;
            job.web.fetch(
                job.world.now,
                lane,
                next,
                Some(end),
                &mut job.world.fx,
                &mut job.events,
            );
            next = end;
        }
        job.world.turn();
        while let Some(input) = job.world.inputs.pop_front() {
            job.web
                .on_input(job.world.now, &input, &mut job.world.fx, &mut job.events);
        }
        for event in core::mem::take(&mut job.events) {
            if let WebEvent::Bytes { lane, bytes, .. } = event {
                job.web
                    .consumed(job.world.now, lane, bytes.len(), &mut job.world.fx);
            }
        }
        job.world.pass(Duration::from_millis(10));
        busiest = busiest.max(job.web.busy());
    }
    assert_eq!(busiest, 4);
    assert_eq!(job.world.max_open, 4);
    let rate = job.web.rate_bytes_per_s(job.world.now, Lane(0));
    assert!((800_000..1_200_000).contains(&rate), "{rate}");
}

#[test]
fn one_connection_too_many_is_not_a_failing_url() {
    let mut world = World::new(|seen| {
        if seen.field("x").is_some() {
            return Script::silence();
        }
        good(seen, 0)
    });
    world.cut = 1000;
    let mut job = Job::new(&["http://h/f"], world);
    job.length = Some(LEN);
    job.top_up();
    for _ in 0..10 {
        job.world.turn();
        while let Some(input) = job.world.inputs.pop_front() {
            job.web
                .on_input(job.world.now, &input, &mut job.world.fx, &mut job.events);
        }
        assert!(job.settle().is_none());
    }
    // A second lane, refused while the first one runs.
    let (now, fx, ev) = (job.world.now, &mut job.world.fx, &mut job.events);
    job.web.fetch(now, Lane(1), 200_000, None, fx, ev);
    let stream = crate::ids::StreamId(2 << 1);
    assert!(job.web.owns(stream));
    let refused = crate::machine::Input::Closed {
        stream,
        why: Lost::Refused,
    };
    job.web.on_input(now, &refused, fx, ev);
    assert_eq!(
        *ev,
        [WebEvent::Failed {
            lane: Lane(1),
            why: "connection refused".into()
        }]
    );
    assert_eq!(
        job.web.targets.retry_at(job.world.now.mono),
        None,
        "the URL is not to blame"
    );
    ev.clear();
    assert!(job.run().expect("the file") == content(LEN, 0));
}
