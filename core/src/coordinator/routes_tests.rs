//! Every endpoint, good and bad.

use super::CoordinatorConfig;
use super::routes::Desk;
use crate::announce::hex;
use crate::announce::messages::{
    AnnounceReply, ContentRecord, Health, Overview, Pending, Published, Refusal, SwarmReply,
};
use crate::command::{Event, Level};
use crate::content::bencode;
use crate::content::{Digest, Geometry, HashJob, Metainfo, TreeBuilder};
use crate::http::{Answer, AnswerBody, IncomingRequest};
use crate::machine::{Effects, Output};
use crate::rng::Rng;
use crate::stats::SourceClass;
use crate::time::{Mono, Now};
use ::http::header::{ALLOW, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use ::http::{Method, StatusCode};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use base64::Engine as _;
use bytes::Bytes;
use core::net::SocketAddr;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

struct Bench {
    desk: Desk,
    fx: Effects,
    now: Now,
}

impl Bench {
    fn new() -> Self {
        let config = CoordinatorConfig {
            allow: vec!["files.example.org".parse().unwrap()],
            ..CoordinatorConfig::default()
        };
        Self {
            desk: Desk::new(config, Rng::from_u64(1)),
            fx: Effects::default(),
            now: Now::default(),
        }
    }

    fn ask(&mut self, method: Method, from: &str, uri: &str, body: impl Into<Bytes>) -> Answer {
        self.ask_with(method, from, uri, body, HeaderMap::new())
    }

    fn ask_with(
        &mut self,
        method: Method,
        from: &str,
        uri: &str,
        body: impl Into<Bytes>,
        headers: HeaderMap,
    ) -> Answer {
        let request = IncomingRequest {
            method,
            uri: uri.parse().unwrap(),
            headers,
            body: body.into(),
            http10: false,
        };
        let from = SocketAddr::new(from.parse().unwrap(), 50_000);
        self.desk.answer(self.now, from, &request, &mut self.fx)
    }

    fn get(&mut self, uri: &str) -> Answer {
        self.ask(Method::GET, "10.0.0.250", uri, "")
    }

    fn post(&mut self, from: &str, uri: &str, body: &Value) -> Answer {
        self.ask(Method::POST, from, uri, body.to_string())
    }

    fn announce(&mut self, from: &str, device: u8, left: u64) -> SwarmReply {
        let body = announce(device, json!({"left_bytes": left}));
        let mut reply: AnnounceReply = read(&self.post(from, "/v1/announce", &body), 200);
        assert_eq!((reply.interval_s, reply.min_interval_s), (30, 1));
        reply.swarms.remove(0)
    }

    fn later(&mut self, seconds: u64) {
        self.now.mono = Mono::from_us(self.now.mono.as_us() + seconds * 1_000_000);
        self.desk.registry.expire(self.now.mono);
    }

    fn logged(&mut self) -> Vec<(Level, String)> {
        let mut lines = Vec::new();
        while let Some(output) = self.fx.poll() {
            if let Output::Notify(Event::Log { level, text }) = output {
                lines.push((level, text));
            }
        }
        lines
    }
}

fn body(answer: &Answer) -> &Bytes {
    match &answer.body {
        AnswerBody::Full(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

fn read<T: DeserializeOwned>(answer: &Answer, status: u16) -> T {
    let text = String::from_utf8_lossy(body(answer));
    assert_eq!(answer.status.as_u16(), status, "{text}");
    serde_json::from_str(&text).unwrap_or_else(|why| panic!("{why}: {text}"))
}

/// A refusal must say what is wrong.
fn refused(answer: &Answer, status: u16, says: &str) {
    let refusal: Refusal = read(answer, status);
    let text = refusal.to_string();
    assert!(
        !refusal.error.is_empty() && !refusal.why.is_empty(),
        "{text}"
    );
    assert!(text.contains(says), "{text} / {says}");
}

const SWARM: [u8; 32] = [0xab; 32];

fn announce(device: u8, swarm: Value) -> Value {
    let mut swarm = swarm;
    swarm["info_hash"] = hex::encode(&SWARM).into();
    json!({
        "device": hex::encode(&[device; 20]),
        "port": 7680,
        "swarms": [swarm],
        "from_the_future": {"ignored": true},
    })
}

fn metainfo(name: &str, value: u8) -> Metainfo {
    let geometry = Geometry::new(40_000, 16 * 1024).unwrap();
    let mut tree = TreeBuilder::new(geometry);
    for piece in 0..geometry.pieces() {
        let job = HashJob {
            chunks: vec![vec![value; geometry.piece_len(piece) as usize].into()],
            leaves: true,
            flat: None,
        };
        tree.piece(piece, &job.run().leaves).unwrap();
    }
    Metainfo::for_content(name, tree.finish().unwrap(), vec![], vec![]).unwrap()
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[test]
fn devices_learn_of_each_other_and_leave() {
    let mut bench = Bench::new();
    let first = bench.announce("10.0.0.1", 1, 100);
    assert_eq!((first.seeds, first.downloaders), (0, 1));
    assert_eq!(first.peers, []);
    let second = bench.announce("10.0.0.2", 2, 0);
    assert_eq!((second.seeds, second.downloaders), (1, 1));
    let [peer] = &second.peers[..] else {
        panic!("{second:?}")
    };
    assert_eq!(peer.addr, "10.0.0.1:7680".parse().unwrap());
    assert_eq!(peer.peer_id, [1; 20]);
    assert_eq!((peer.class, peer.seed), (SourceClass::Lan, false));
    let again = bench.announce("10.0.0.1", 1, 50);
    assert!(again.peers[0].seed && again.peers.len() == 1);
    let stopped = announce(2, json!({"left_bytes": 0, "event": "stopped"}));
    let reply: AnnounceReply = read(&bench.post("10.0.0.2", "/v1/announce", &stopped), 200);
    assert_eq!((reply.swarms[0].seeds, reply.swarms[0].downloaders), (0, 1));
    assert!(reply.swarms[0].peers.is_empty());
    assert_eq!(bench.announce("10.0.0.1", 1, 50).peers, []);
}

#[test]
fn presence_ends_two_and_a_half_intervals_after_the_last_word() {
    let mut bench = Bench::new();
    bench.announce("10.0.0.1", 1, 0);
    bench.later(74);
    assert_eq!(bench.announce("10.0.0.2", 2, 9).peers.len(), 1);
    bench.later(1);
    assert_eq!(bench.announce("10.0.0.2", 2, 9).peers.len(), 0);
    let health: Health = read(&bench.get("/health"), 200);
    assert_eq!((health.devices, health.swarms, health.contents), (1, 1, 0));
    assert_eq!(health.status, "ok");
}

#[test]
fn bad_announces_say_what_is_wrong() {
    let mut bench = Bench::new();
    let good = announce(1, json!({"left_bytes": 1}));
    let with = |path: &str, value: Value| {
        let mut bad = good.clone();
        *bad.pointer_mut(path).unwrap() = value;
        bad
    };
    let many_swarms = vec![good["swarms"][0].clone(); 257];
    let table = [
        (json!({}), "device"),
        (json!([]), ""),
        (with("/device", json!("abc")), "40 hex digits"),
        (with("/device", json!(12)), "40 hex digits"),
        (with("/port", json!(65536)), "65536"),
        (with("/port", json!(-1)), "-1"),
        (with("/swarms", json!({})), "sequence"),
        (
            with("/swarms/0/info_hash", json!("ab".repeat(20))),
            "64 hex digits",
        ),
        (with("/swarms/0/left_bytes", json!(-5)), "-5"),
        (
            with("/swarms/0", json!({"info_hash": "ab".repeat(32)})),
            "left_bytes",
        ),
        (with("/from_the_future", json!(null)), ""),
        (with("/swarms", json!(many_swarms)), "256"),
    ];
    for (n, (bad, says)) in table.iter().enumerate() {
        let answer = bench.post("10.0.0.1", "/v1/announce", bad);
        if n == 10 {
            assert_eq!(answer.status, StatusCode::OK, "unknown fields are ignored");
        } else {
            refused(&answer, 400, says);
        }
    }
    for (extra, says) in [
        (json!({"group": "g".repeat(300)}), "255"),
        (json!({"addresses": vec!["10.0.0.1"; 9]}), "8 allowed"),
        (json!({"addresses": ["10.0.0"]}), "IP"),
        (json!({"scope": "planet"}), "planet"),
        (json!({"event": "x"}), ""),
    ] {
        let mut message = good.clone();
        for (key, value) in extra.as_object().unwrap() {
            message[key] = value.clone();
        }
        let answer = bench.post("10.0.0.1", "/v1/announce", &message);
        if extra.get("event").is_some() {
            assert_eq!(answer.status, StatusCode::OK, "no field of this level");
        } else {
            refused(&answer, 400, says);
        }
    }
    let nonsense = bench.ask(Method::POST, "10.0.0.1", "/v1/announce", &b"\xff{"[..]);
    refused(&nonsense, 400, "");
    let huge = vec![b' '; 256 * 1024 + 1];
    let answer = bench.ask(Method::POST, "10.0.0.1", "/v1/announce", huge);
    refused(&answer, 413, "262144");
}

#[test]
fn what_is_published_is_found_by_every_key() {
    let mut bench = Bench::new();
    let meta = metainfo("a b.iso", 1);
    let (url, sha256) = ("http://h/a%20b.iso?v=1", "cd".repeat(32));
    let publication = json!({
        "metainfo": base64(&meta.encode()), "sha256": sha256, "urls": [url], "more": 1,
    });
    let answer = bench.post("10.0.0.1", "/v1/content", &publication);
    let published: Published = read(&answer, 201);
    assert_eq!(published.info_hash, meta.info_hash);
    let lines = bench.logged();
    assert_eq!(lines.len(), 1);
    assert!(
        lines[0].0 == Level::Info && lines[0].1.contains("a b.iso"),
        "{lines:?}"
    );
    for query in [
        "url=http%3A%2F%2Fh%2Fa%2520b.iso%3Fv%3D1".to_string(),
        "url=http://h:80/a%2520b.iso?v=1".to_string(),
        format!("sha256={sha256}"),
        format!("root={}", meta.id.root),
        format!("info_hash={}", meta.info_hash),
    ] {
        let record: ContentRecord = read(&bench.get(&format!("/v1/content?{query}")), 200);
        assert_eq!(record.root, meta.id.root, "{query}");
        assert_eq!(record.sha256, Some(Digest([0xcd; 32])));
        assert_eq!(record.urls, [url]);
        assert_eq!(Metainfo::parse(&record.metainfo).unwrap().layer, meta.layer);
    }
    refused(
        &bench.get(&format!("/v1/content?sha256={}", "00".repeat(32))),
        404,
        "published",
    );
}

#[test]
fn a_changed_file_is_said_aloud() {
    let mut bench = Bench::new();
    for value in [1, 2] {
        let metainfo = base64(&metainfo("a", value).encode());
        let message = json!({"metainfo": metainfo, "urls": ["http://h/a"]});
        bench.post("10.0.0.1", "/v1/content", &message);
    }
    let record: ContentRecord = read(&bench.get("/v1/content?url=http://h/a"), 200);
    assert_eq!(record.info_hash, metainfo("a", 2).info_hash);
    let warned = bench.logged();
    let mut warned = warned.iter().filter(|(level, _)| *level == Level::Warn);
    let text = &warned.next_back().unwrap().1;
    assert!(text.contains("http://h/a is another file now"), "{text}");
}

#[test]
fn bad_publications_say_what_is_wrong() {
    let mut bench = Bench::new();
    let good = metainfo("a", 1);
    let encoded = good.encode();
    let mut wrong_layer = encoded.clone();
    let at = wrong_layer.len() - 10;
    wrong_layer[at] ^= 1;
    let mut without = good.clone();
    without.layer = None;
    let many: Vec<String> = (0..33).map(|n| format!("http://h/{n}")).collect();
    for (bad, says) in [
        (json!({}), "metainfo"),
        (json!({"metainfo": "!!!"}), "base64"),
        (json!({"metainfo": base64(b"de")}), ""),
        (json!({"metainfo": base64(&wrong_layer)}), ""),
        (json!({"metainfo": base64(&without.encode())}), "layer"),
        (
            json!({"metainfo": base64(&encoded), "sha256": "00"}),
            "64 hex",
        ),
        (
            json!({"metainfo": base64(&encoded), "urls": ["ftp://h/"]}),
            "http",
        ),
        (
            json!({"metainfo": base64(&encoded), "urls": many}),
            "32 allowed",
        ),
    ] {
        refused(&bench.post("10.0.0.1", "/v1/content", &bad), 400, says);
    }
    let health: Health = read(&bench.get("/health"), 200);
    assert_eq!(health.contents, 0);
}

#[test]
fn questions_about_content() {
    let mut bench = Bench::new();
    for (query, status, says) in [
        ("", 400, "url="),
        ("?name=x", 400, "url="),
        ("?url=h/a", 400, "url"),
        ("?url=%ff", 400, "url="),
        ("?sha256=zz", 400, "64 hex"),
        ("?root=", 400, "64 hex"),
        (
            "?url=http://elsewhere/a",
            404,
            "elsewhere:80 is not on the allow list",
        ),
        ("?url=http://u:p@files.example.org/a", 404, "allow"),
        ("?url=http://files.example.org:22/a", 404, "--allow"),
    ] {
        refused(&bench.get(&format!("/v1/content{query}")), status, says);
    }
    assert!(bench.fx.is_idle(), "nothing was fetched");
    for _ in 0..3 {
        let answer = bench.get("/v1/content?url=http://files.example.org/a");
        let pending: Pending = read(&answer, 202);
        assert_eq!((pending.done_bytes, pending.length), (0, 0));
        assert_eq!(answer.headers[RETRY_AFTER], "1");
    }
    let mut connects = 0;
    while let Some(output) = bench.fx.poll() {
        connects += u32::from(matches!(output, Output::Connect { .. }));
    }
    assert_eq!(connects, 1, "once for all who ask");
    let mut full = 0;
    for n in 0..300 {
        let answer = bench.get(&format!("/v1/content?url=http://files.example.org/{n}"));
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            refused(&answer, 503, "waiting");
            assert_eq!(answer.headers[RETRY_AFTER], "30");
            full += 1;
        }
    }
    assert_eq!(full, 300 - 3 - 256, "three more run, 256 wait");
    bench.desk.identifier.check();
}

#[test]
fn other_paths_and_methods() {
    let mut bench = Bench::new();
    for (method, path, allow) in [
        (Method::GET, "/v1/announce", "POST"),
        (Method::PUT, "/v1/content", "GET, HEAD, POST"),
        (Method::POST, "/health", "GET, HEAD"),
        (Method::DELETE, "/announce", "GET"),
    ] {
        let answer = bench.ask(method, "10.0.0.1", path, "");
        refused(&answer, 405, allow);
        assert_eq!(answer.headers[ALLOW], allow);
    }
    refused(&bench.get("/v2/announce"), 404, "/v2/announce");
    let front = bench.get("/");
    assert_eq!(front.status, StatusCode::OK);
    assert!(String::from_utf8_lossy(body(&front)).contains("0 devices"));
}

#[test]
fn the_overview_names_what_it_knows() {
    let mut bench = Bench::new();
    let meta = metainfo("a.iso", 1);
    let message = json!({"metainfo": base64(&meta.encode())});
    bench.post("10.0.0.1", "/v1/content", &message);
    let mut known = announce(1, json!({"left_bytes": 0}));
    known["swarms"][0]["info_hash"] = meta.info_hash.to_string().into();
    bench.post("10.0.0.1", "/v1/announce", &known);
    bench.announce("10.0.0.1", 1, 7);
    let overview: Overview = read(&bench.get("/v1/swarms"), 200);
    assert!(!overview.more && overview.swarms.len() == 2);
    let named: Vec<_> = overview
        .swarms
        .iter()
        .filter(|s| s.name == "a.iso")
        .collect();
    assert_eq!(named.len(), 1);
    assert_eq!(named[0].info_hash, meta.info_hash.truncated());
    assert_eq!((named[0].length, named[0].seeds), (40_000, 1));
}

fn track(event: &str, peer: u8, left: u64, more: &str) -> String {
    let hash = "%ab".repeat(20);
    let id = format!("-LT2110-{}", String::from(char::from(peer)).repeat(12));
    format!("/announce?info_hash={hash}&peer_id={id}&port=6881&left={left}&event={event}{more}")
}

#[test]
fn standard_clients_and_agents_meet() {
    let mut bench = Bench::new();
    let answer = bench.ask(
        Method::GET,
        "10.0.0.9",
        &track("started", b'a', 0, "&compact=1"),
        "",
    );
    assert_eq!(answer.status, StatusCode::OK);
    let agent = bench.announce("10.0.0.1", 1, 100);
    assert_eq!(agent.peers[0].addr, "10.0.0.9:6881".parse().unwrap());
    assert!(agent.peers[0].seed);
    let answer = bench.ask(
        Method::GET,
        "10.0.0.9",
        &track("", b'a', 0, "&compact=1"),
        "",
    );
    let reply = bencode::parse(body(&answer)).unwrap().dict().unwrap();
    let number = |key: &[u8]| reply.get(key).unwrap().integer().unwrap();
    assert_eq!((number(b"complete"), number(b"incomplete")), (1, 1));
    assert_eq!(number(b"interval"), 300);
    let peers = reply.get(b"peers").unwrap().bytes().unwrap();
    assert_eq!(peers, [10, 0, 0, 1, 30, 0]);
    bench.later(100);
    let scrape = bench.get(&format!("/scrape?info_hash={}", "%ab".repeat(20)));
    let scrape = String::from_utf8_lossy(body(&scrape)).into_owned();
    assert!(
        scrape.contains("8:completei1e"),
        "it lives longer than an agent: {scrape}"
    );
    assert!(scrape.contains("10:incompletei0e"), "{scrape}");
    bench.ask(Method::GET, "10.0.0.9", &track("stopped", b'a', 0, ""), "");
    let scrape = bench.get(&format!("/scrape?info_hash={}", "%ab".repeat(20)));
    assert_eq!(&body(&scrape)[..], b"d5:filesdee");
    let bad = bench.get("/announce?port=1");
    assert!(body(&bad).starts_with(b"d14:failure reason"));
}

#[test]
fn a_proxy_on_this_machine_is_believed_and_nobody_else() {
    let mut bench = Bench::new();
    let mut headers = HeaderMap::new();
    let name = HeaderName::from_static("x-forwarded-for");
    headers.insert(name, HeaderValue::from_static("203.0.113.9, 10.0.0.7"));
    let message = announce(1, json!({"left_bytes": 0})).to_string();
    for (from, seen) in [
        ("127.0.0.1", "10.0.0.7:7680"),
        ("10.0.0.8", "10.0.0.8:7680"),
    ] {
        let uri = "/v1/announce";
        bench.ask_with(Method::POST, from, uri, message.clone(), headers.clone());
        let other = bench.announce("10.0.0.2", 2, 10);
        assert_eq!(other.peers[0].addr, seen.parse().unwrap());
    }
}
