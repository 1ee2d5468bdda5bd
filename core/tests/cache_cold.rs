//! The first request for a file of which a cache knows nothing: it is asked for what it wants, and that is the beginning of
//! the fetch.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "common/cache_scene.rs"]
mod cache_scene;

use cache_scene::{LENGTH, MIB, Scene, config};
use core::ops::Range;
use core::time::Duration;
use dovetail_core::sim::origin::{Fault, FaultyOrigin, When};

/// The ranges that the origin was asked for.
fn asked(scene: &Scene) -> Vec<&str> {
    let requests = scene.origin().requests.iter();
    requests
        .map(|seen| seen.range.as_deref().unwrap_or("all"))
        .collect()
}

#[test]
fn a_small_file_is_one_question() {
    let mut scene = Scene::with(1, 300_000, config());
    scene.whole("MISS");
    assert_eq!(asked(&scene), ["bytes=0-16777215"]);
    assert_eq!(scene.served(), 300_000);
}

#[test]
fn a_part_is_asked_for_in_whole_slices() {
    let mut scene = Scene::new();
    let got = scene.get("Range: bytes=2100000-3200000\r\n");
    assert!(got.body == scene.content[2_100_000..=3_200_000]);
    assert_eq!(asked(&scene), ["bytes=2097152-4194303"]);
}

#[test]
fn where_nothing_or_the_end_is_wanted_a_byte_is_asked_for() {
    let mut scene = Scene::new();
    let head = scene.ask("HEAD", "/f?cacheHostOrigin=origin", "", "cache");
    let head = scene.finish(head);
    let length = LENGTH.to_string();
    assert_eq!(head.field("content-length"), Some(&*length));
    assert_eq!(asked(&scene), ["bytes=0-0"]);

    let mut scene = Scene::new();
    let tail = scene.get("Range: bytes=-5\r\n");
    assert!(tail.body == scene.content[LENGTH - 5..]);
    assert_eq!(asked(&scene), ["bytes=0-0", "bytes=5242880-5255224"]);
}

#[test]
fn a_file_that_ends_before_what_is_wanted() {
    let mut scene = Scene::new();
    let past = scene.get("Range: bytes=90000000-\r\n");
    assert_eq!(past.status(), 416);
    let total = format!("bytes */{LENGTH}");
    assert_eq!(past.field("content-range"), Some(&*total));
    assert_eq!(asked(&scene), ["bytes=89128960-105906175", "bytes=0-0"]);
    scene.whole("MISS");
}

#[test]
fn an_empty_file() {
    let mut scene = Scene::with(1, 0, config());
    let got = scene.get("");
    assert_eq!((got.status(), got.body.len()), (200, 0));
    assert_eq!(asked(&scene).len(), 1);
}

#[test]
fn the_fetch_goes_on_where_a_redirect_has_led() {
    let mut scene = Scene::new();
    scene.world.with(scene.origin, |origin: &mut FaultyOrigin| {
        let to = "/elsewhere".into();
        let fault = Fault::Redirect { status: 302, to };
        origin.add_fault(When::Path("/f".into()), fault);
    });
    scene.whole("MISS");
    scene.whole("HIT");
    assert_eq!(scene.served(), LENGTH as u64);
    let requests = scene.origin().requests.iter();
    let targets: Vec<&str> = requests.map(|seen| seen.target.as_str()).collect();
    assert_eq!(targets[..2], ["/f", "/elsewhere"]);
    let last = targets.len() - 1;
    assert_eq!(
        targets.iter().filter(|at| **at == "/elsewhere").count(),
        last
    );
}

/// What can be wrong with the first answers, or with all.
fn troubles() -> Vec<(When, Fault)> {
    let mib = MIB as u64;
    let once = || When::Requests(0..1);
    vec![
        (When::Always, Fault::IgnoreRange),
        (When::Always, Fault::NoValidators),
        (When::Always, Fault::NoKeepAlive),
        (When::Always, Fault::Chunked),
        (When::Always, Fault::UnknownTotal),
        (When::Always, Fault::NoLength),
        (once(), Fault::IgnoreRange),
        (once(), Fault::NoValidators),
        (once(), Fault::Overlong { extra: 9 }),
        (once(), Fault::Garbage),
        (once(), Fault::WrongPlace { shift: mib }),
        (once(), Fault::WrongPlace { shift: 7 }),
        (once(), Fault::Truncate { after: 0 }),
        (once(), Fault::Truncate { after: 700_000 }),
        (once(), Fault::Reset { after: 100_000 }),
        (once(), Fault::Reset { after: 3 * mib }),
        (
            once(),
            Fault::Stall {
                after: 50_000,
                span: Some(Duration::from_secs(3)),
            },
        ),
        (
            once(),
            Fault::Stall {
                after: 50_000,
                span: None,
            },
        ),
        (
            once(),
            Fault::SlowHead {
                wait: Duration::from_secs(2),
            },
        ),
        (
            once(),
            Fault::Status {
                status: 503,
                retry_after_s: Some(1),
            },
        ),
    ]
}

/// Whatever the first answers are like, clients get right bytes or an honest end, and once it is over, the file.
#[test]
fn no_first_answer_costs_a_wrong_byte() {
    let parts = |length: usize| -> Vec<(String, Range<usize>)> {
        let part =
            |from: usize, to: usize| (format!("Range: bytes={from}-{}\r\n", to - 1), from..to);
        vec![
            (String::new(), 0..length),
            part(0, 10),
            part(length / 2, length.min(length / 2 + 100_000)),
            (
                format!("Range: bytes={}-\r\n", length / 3),
                length / 3..length,
            ),
            ("Range: bytes=-1000\r\n".into(), length - 1000..length),
        ]
    };
    for length in [3_000, 2 * MIB, 18 * MIB + 1] {
        for (fields, range) in parts(length) {
            for (when, fault) in troubles() {
                let case = format!("{length} bytes, {fields:?}, {when:?} {fault:?}");
                let mut scene = Scene::with(length as u64, length, config());
                scene.world.check_every = 100;
                scene.world.with(scene.origin, |origin: &mut FaultyOrigin| {
                    origin.add_fault(when, fault);
                });
                let got = scene.get(&fields);
                let wanted = match got.status() {
                    200 => &scene.content[..],
                    206 => &scene.content[range.clone()],
                    status => {
                        assert!(matches!(status, 502 | 503), "{case}: {}", got.head);
                        &[]
                    }
                };
                if !wanted.is_empty() && !got.head.contains("chunked") {
                    assert!(wanted.starts_with(&got.body), "{case}: wrong bytes");
                }
                scene.heal();
                scene.run(60);
                let whole = scene.get("");
                assert_eq!(whole.status(), 200, "{case}: {}", whole.head);
                assert!(whole.body == scene.content, "{case}: wrong after all");
            }
        }
    }
}

/// Nothing tells its versions apart: the answer to a question about a part of it is not where its fetch can begin.
#[test]
fn a_file_without_validators_is_one_answer_whatever_was_asked_first() {
    for changes_after in [1, 8, 15, 16, 17, 19] {
        let mut scene = Scene::with(changes_after, 20 * MIB, config());
        let newer = scene.world.content("newer", 20 * MIB);
        scene.world.with(scene.origin, |origin: &mut FaultyOrigin| {
            origin.add_fault(When::Always, Fault::NoValidators);
            origin.change_after(changes_after * MIB as u64, newer.clone());
        });
        let got = scene.get("");
        let is_one = scene.content.starts_with(&got.body) || newer.starts_with(&got.body);
        assert!(is_one, "mixed after {changes_after} MiB");
        let again = scene.get("");
        let is_one = again.body == newer || again.body == got.body;
        assert!(is_one, "mixed after {changes_after} MiB, by the second");
    }
}
