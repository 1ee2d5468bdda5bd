//! A cache of real processes: an origin, the cache before it, and clients of both kinds.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot set its scene must fail"
)]

mod program;

use dovetail_core::api::Line;
use program::Folder;
use rustix::process::Signal;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

const MIB: usize = 1 << 20;

/// Ask for this, and read to the end: head and body.
fn ask(at: &str, target: &str, fields: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(at).unwrap();
    let head = format!("GET {target} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n{fields}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let body = bytes.split_off(end + 4);
    (String::from_utf8(bytes).unwrap(), body)
}

#[test]
fn an_origin_is_spared_and_then_not_needed() {
    let folder = Folder::new();
    let content = folder.file("served/image.bin", 5 * MIB + 123);
    let (origin, url) = folder.origin(&[]);
    let host = url.strip_prefix("http://").unwrap().to_owned();
    let args = [
        "cache",
        "--listen",
        "127.0.0.1:0",
        "--allow",
        &host,
        "--revalidate",
        "0s",
    ];
    let mut cache = folder.start(&args);
    let at = cache.listening();
    let target = format!("/image.bin?cacheHostOrigin={host}");

    let (head, body) = ask(&at, &target, "");
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("\r\nx-cache: MISS\r\n"),
        "{head}"
    );
    assert!(body == content);
    let (head, body) = ask(&at, &target, "Range: bytes=1048570-1048579\r\n");
    assert!(
        head.starts_with("HTTP/1.1 206 ") && head.contains("\r\nx-cache: HIT\r\n"),
        "{head}"
    );
    assert!(body == content[1_048_570..1_048_580]);

    let setting = format!("cache_host={at}");
    let image = format!("{url}/image.bin");
    let ended = folder.run(&["--json", "get", &image, "-o", "copy", "--set", &setting]);
    let Line::Got(got) = ended.last_line() else {
        panic!("{ended:#?}");
    };
    assert_eq!(got.received.cache, content.len() as u64);
    assert!(folder.read("copy") == content);

    // Without the origin, and after a restart of the cache.
    drop(origin);
    let (head, body) = ask(&at, &target, "");
    assert!(
        head.contains("\r\nx-cache: STALE\r\n") && body == content,
        "{head}"
    );
    cache.signal(Signal::TERM);
    assert_eq!(cache.end().1.code(), Some(0));
    let mut cache = folder.start(&args);
    let at = cache.listening();
    let (head, body) = ask(&at, &target, "");
    assert!(
        head.contains("\r\nx-cache: STALE\r\n") && body == content,
        "{head}"
    );

    let (_, health) = ask(&at, "/.dovetail/health", "");
    let health = String::from_utf8(health).unwrap();
    let saved = format!("\"bytes_saved\":{}", content.len());
    assert!(health.contains(&saved), "{health}");
    let (head, text) = ask(&at, "/x?cacheHostOrigin=example.org", "");
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert!(
        String::from_utf8(text)
            .unwrap()
            .contains("--allow example.org")
    );
}

#[test]
fn what_is_cached_goes_to_peers_too() {
    let folder = Folder::new();
    let content = folder.file("served/image.bin", 5 * MIB + 123);
    let (origin, url) = folder.origin(&[]);
    let host = url.strip_prefix("http://").unwrap().to_owned();
    let any = "127.0.0.1:0";
    let mut coordinator = folder.start(&["coordinator", "--listen", any, "--allow", &host]);
    let known = format!("http://{}", coordinator.listening());
    let small = "min_file_size_to_peer=0B";
    let mut cache = folder.start(&[
        "cache",
        "--listen",
        any,
        "--allow",
        &host,
        "--coordinator",
        &known,
        "--listen-peers",
        any,
        "--set",
        small,
    ]);
    let at = cache.listening();
    let image = format!("{url}/image.bin");
    let peers_only = [
        "--json",
        "get",
        &image,
        "-o",
        "copy",
        "--coordinator",
        &known,
        "--require-peers",
        "--set",
        small,
    ];
    let (_, body) = ask(&at, &format!("/image.bin?cacheHostOrigin={host}"), "");
    assert!(body == content);
    // The coordinator makes its record from the origin when the cache asks for it.
    cache.until(|line| matches!(line, Line::Log { text, .. } if text.contains("can be offered")));
    drop(origin);
    let ended = folder.run(&peers_only);
    let Line::Got(got) = ended.last_line() else {
        panic!("{ended:#?}");
    };
    assert_eq!(got.received.total(), content.len() as u64);
    assert_eq!(got.peers, 1);
    assert!(folder.read("copy") == content);
    cache.signal(Signal::TERM);
    assert_eq!(cache.end().1.code(), Some(0));
}
