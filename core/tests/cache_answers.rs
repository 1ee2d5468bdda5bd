//! What a cache refuses, and what it passes on without keeping it, in virtual time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "common/cache_scene.rs"]
mod cache_scene;

use bytes::Bytes;
use cache_scene::{LENGTH, MIB, MINUTE, Scene, config};
use core::time::Duration;
use dovetail_core::cache::{Cache, CacheConfig};
use dovetail_core::http::Proxies;
use dovetail_core::machine::{Endpoint, Host, Listener};
use dovetail_core::origin::{Origin, OriginConfig};
use dovetail_core::sim::origin::{Fault, FaultyOrigin, When};
use dovetail_core::sim::toys::Reader;
use dovetail_core::sim::{HostId, HostSpec, Kill, World};

#[test]
fn what_the_origin_refuses_is_passed_on_and_not_kept() {
    let mut scene = Scene::new();
    scene.refuse_with(404);
    let got = scene.get("");
    assert_eq!(got.status(), 404);
    assert_eq!(scene.health()["objects"], 0);
    scene.heal();
    scene.whole("MISS");
    scene.run(601);
    scene.refuse_with(410);
    assert_eq!(scene.get("").status(), 410);
    assert_eq!(scene.health()["objects"], 0, "nor what was kept before");
}

#[test]
fn others_hosts_are_refused() {
    let mut scene = Scene::new();
    for (target, host, status) in [
        ("/f?cacheHostOrigin=evil.net", "cache", 403),
        ("/f?cacheHostOrigin=origin:8080", "cache", 403),
        ("/f?cacheHostOrigin=127.0.0.1", "cache", 403),
        ("/f?cacheHostOrigin=10.0.0.1", "cache", 403),
        ("/f?cacheHostOrigin=[::1]", "cache", 403),
        ("/f?cacheHostOrigin=169.254.169.254", "cache", 403),
        ("/f?cacheHostOrigin=origin.evil.net", "cache", 403),
        ("/f?cacheHostOrigin=u:p@origin", "cache", 400),
        ("/f?cacheHostOrigin=origin/x", "cache", 400),
        (
            "/f?cacheHostOrigin=origin&cacheHostOrigin=evil.net",
            "cache",
            400,
        ),
        (
            "/f?cacheHostOrigin=origin&cacheHostOriginScheme=gopher",
            "cache",
            400,
        ),
        ("/f", "cache", 403),
        ("http://evil.net/f", "cache", 403),
    ] {
        let client = scene.ask("GET", target, "", host);
        let got = scene.finish(client);
        assert_eq!(got.status(), status, "{target}");
        if status == 403 {
            let text = String::from_utf8(got.body).unwrap();
            assert!(text.contains("--allow "), "{text}");
        }
    }
    assert_eq!(scene.origin().connections, 0);
    let post = scene.ask("POST", "/f?cacheHostOrigin=origin", "", "cache");
    assert_eq!(scene.finish(post).status(), 405);
}

#[test]
fn wildcards_do_not_reach_the_own_network() {
    for (allow, status) in [("*.example.org", 403), ("in.example.org", 200)] {
        let allow = vec![allow.parse().unwrap()];
        let mut scene = Scene::with(1, LENGTH, CacheConfig { allow, ..config() });
        scene.world.name("in.example.org", scene.origin);
        let client = scene.start("/f?cacheHostOrigin=in.example.org", "");
        assert_eq!(scene.finish(client).status(), status);
        assert_eq!(scene.origin().requests.is_empty(), status == 403);
    }
}

#[test]
fn redirects_lead_only_to_allowed_hosts() {
    for (to, status) in [("http://origin/g", 200), ("http://evil.net/g", 403)] {
        let mut scene = Scene::new();
        let fault = Fault::Redirect {
            status: 302,
            to: to.into(),
        };
        scene.world.with(scene.origin, |origin: &mut FaultyOrigin| {
            origin.add_fault(When::Path("/f".into()), fault);
        });
        let got = scene.get("");
        assert_eq!(got.status(), status);
        assert!(status != 200 || got.body == scene.content);
    }
}

#[test]
fn a_loop_is_cut() {
    let mut world = World::new(1);
    let allow = vec!["loop".parse().unwrap()];
    let machine = Cache::new(CacheConfig { allow, ..config() }, [3; 32]);
    let spec = HostSpec::at("10.0.0.2").listen(Listener::Http, 80);
    let cache = world.host("cache", machine, spec);
    world.name("loop", cache);
    let to = Endpoint {
        host: Host::Name("loop".into()),
        port: 80,
        tls: None,
    };
    let say = "GET /f HTTP/1.1\r\nHost: loop\r\nConnection: close\r\n\r\n";
    let reader = Reader::new(to, Bytes::from(say), 1 << 20, Duration::ZERO);
    let client = world.host("client", reader, HostSpec::at("10.0.0.3"));
    let done = |w: &World| w.machine::<Reader>(client).is_done();
    world.run_until(done, MINUTE).expect("an end");
    let text = world.machine::<Reader>(client).bytes();
    assert!(text.starts_with(b"HTTP/1.1 508 "));
}

#[test]
fn a_name_that_moves_into_the_own_network_is_not_followed() {
    let allow = vec!["*.example.org".parse().unwrap()];
    let mut scene = Scene::with(1, LENGTH, CacheConfig { allow, ..config() });
    let server = FaultyOrigin::new(scene.content.clone());
    let spec = HostSpec::at("93.184.216.34").listen(Listener::Http, 80);
    let public = scene.world.host("public", server, spec);
    scene.world.name("a.example.org", public);
    scene.world.name("a.example.org", scene.origin);
    let target = "/f?cacheHostOrigin=a.example.org";
    let client = scene.start(target, "Range: bytes=0-9\r\n");
    assert!(scene.finish(client).body == scene.content[..10]);
    scene.world.kill(public, Kill::Process);
    let client = scene.start(target, "Range: bytes=4194304-4194313\r\n");
    let got = scene.finish(client);
    assert_eq!(got.status(), 502);
    let text = String::from_utf8(got.body).unwrap();
    assert!(text.contains("in a network of our own"), "{text}");
    assert!(scene.origin().requests.is_empty());
}

/// The body of a chunked answer, and whether it came to its end.
fn dechunk(mut text: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(end) = text.windows(2).position(|w| w == b"\r\n") {
        let len = core::str::from_utf8(&text[..end]).unwrap();
        let len = usize::from_str_radix(len, 16).unwrap();
        if len == 0 {
            return (body, true);
        }
        let chunk = &text[end + 2..];
        body.extend_from_slice(&chunk[..len.min(chunk.len())]);
        text = chunk.get(len + 2..).unwrap_or_default();
    }
    (body, false)
}

fn endless(length: usize, fault: Fault, more: Option<Fault>) -> Scene {
    let mut scene = Scene::with(1, length, config());
    scene.world.with(scene.origin, |origin: &mut FaultyOrigin| {
        for fault in [Some(Fault::IgnoreRange), Some(fault), more]
            .into_iter()
            .flatten()
        {
            origin.add_fault(When::Always, fault);
        }
    });
    scene
}

#[test]
fn a_file_without_a_length_is_streamed_and_not_kept() {
    for fault in [Fault::Chunked, Fault::NoLength] {
        let mut scene = endless(LENGTH, fault, None);
        let target = "/f?cacheHostOrigin=origin";
        let clients: Vec<HostId> = (0..3).map(|_| scene.start(target, "")).collect();
        for client in clients {
            let got = scene.finish(client);
            assert_eq!((got.status(), got.x_cache()), (200, "MISS"), "{}", got.head);
            assert!(got.field("etag").is_some() && got.field("accept-ranges").is_none());
            let (body, is_whole) = dechunk(&got.body);
            assert!(is_whole && body == scene.content);
        }
        let part = scene.get("Range: bytes=10-19\r\n");
        assert_eq!(part.status(), 200);
        assert!(dechunk(&part.body).0 == scene.content);
        let client = scene.ask("HEAD", target, "", "cache");
        let head = scene.finish(client);
        assert_eq!((head.status(), head.body.len()), (200, 0));
        assert_eq!(scene.health()["objects"], 0);
        assert_eq!(scene.world.outstanding(scene.cache), (0, 0));
    }
}

#[test]
fn a_short_file_without_a_length_is_one_answer() {
    let mut scene = Scene::with(1, 1000, config());
    scene.world.with(scene.origin, |origin: &mut FaultyOrigin| {
        origin.add_fault(When::Always, Fault::IgnoreRange);
        origin.add_fault(When::Always, Fault::Chunked);
    });
    let got = scene.get("");
    let body = match got.field("content-length") {
        Some(_) => got.body.clone(),
        None => dechunk(&got.body).0,
    };
    assert!(got.status() == 200 && body == scene.content, "{}", got.head);
}

#[test]
fn a_part_of_nobody_knows_how_much_is_asked_for_whole() {
    let mut scene = Scene::new();
    scene.world.with(scene.origin, |origin: &mut FaultyOrigin| {
        origin.add_fault(When::Always, Fault::UnknownTotal);
    });
    let target = "/f?cacheHostOrigin=origin";
    let clients = [scene.start(target, ""), scene.start(target, "")];
    for client in clients {
        let got = scene.finish(client);
        assert_eq!((got.status(), got.x_cache()), (200, "MISS"));
        assert!(got.body == scene.content);
    }
    assert_eq!(scene.health()["objects"], 0);
}

#[test]
fn an_origin_that_breaks_off_breaks_the_answer_off() {
    let after = 2_000_000;
    for more in [Fault::Truncate { after }, Fault::Reset { after }] {
        let mut scene = endless(LENGTH, Fault::Chunked, Some(more));
        let got = scene.get("");
        assert_eq!(got.status(), 200);
        let (body, is_whole) = dechunk(&got.body);
        assert!(!is_whole, "{} bytes", body.len());
        assert!(scene.content.starts_with(&body));
    }
}

#[test]
fn a_slow_client_holds_the_origin_back() {
    let mut scene = endless(20 * MIB, Fault::Chunked, None);
    scene.world.net.send_buffer_max = 64 * 1024;
    scene.world.net.receive_buffer = 64 * 1024;
    let to = Endpoint {
        host: Host::Name("cache".into()),
        port: 80,
        tls: None,
    };
    let say = "GET /f?cacheHostOrigin=origin HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n";
    let reader = Reader::new(to, Bytes::from(say), 10_000, Duration::from_millis(20));
    let client = scene.world.host("slow", reader, HostSpec::at("10.0.0.9"));
    scene.run(5);
    // What is on its way between the three of them.
    let served = scene.served();
    assert!(served < 4 * MIB as u64, "{served}");
    let got = scene.finish(client);
    let (body, is_whole) = dechunk(&got.body);
    assert!(is_whole && body == scene.content);
}

#[test]
fn what_an_origin_says_besides_is_passed_on() {
    let mut scene = Scene::new();
    let config = OriginConfig {
        dir: "/srv".into(),
        limit_bytes_per_s: 0,
    };
    let spec = HostSpec::at("10.0.0.5").listen(Listener::Http, 80);
    let real = scene.world.host("real", Origin::new(config, [1; 32]), spec);
    scene.world.name("real", real);
    scene.config.allow.push("real".parse().unwrap());
    scene.restart(Kill::Process);
    let client = scene.start("/missing?cacheHostOrigin=real", "");
    let got = scene.finish(client);
    assert_eq!((got.status(), got.x_cache()), (404, "MISS"));
    assert_eq!(got.field("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(got.body, b"Not Found\n");
    let fault = Fault::Status {
        status: 503,
        retry_after_s: Some(77),
    };
    scene.world.with(scene.origin, |origin: &mut FaultyOrigin| {
        origin.add_fault(When::Always, fault);
    });
    let got = scene.get("");
    assert_eq!((got.status(), got.field("retry-after")), (503, Some("77")));
}

#[test]
fn a_refusal_says_so_and_tells_no_address() {
    let mut scene = Scene::with(
        1,
        LENGTH,
        CacheConfig {
            allow: vec!["*.example.org".parse().unwrap()],
            ..config()
        },
    );
    scene.world.name("in.example.org", scene.origin);
    for host in ["in.example.org", "elsewhere"] {
        let client = scene.start(&format!("/f?cacheHostOrigin={host}"), "");
        let got = scene.finish(client);
        assert_eq!((got.status(), got.x_cache()), (403, "REFUSED"));
        let text = String::from_utf8(got.body).unwrap();
        assert!(
            !text.contains("10.0.0.1") && text.contains("--allow"),
            "{text}"
        );
    }
    assert!(scene.says("10.0.0.1"));
}

#[test]
fn a_loop_over_two_caches_is_cut() {
    let mut world = World::new(1);
    let proxy = |other: &str| {
        let url = format!("http://{other}:80");
        CacheConfig {
            proxies: Proxies::new(Some(&url), None, None).unwrap(),
            ..config()
        }
    };
    for (n, (name, other)) in [("a", "b"), ("b", "a")].into_iter().enumerate() {
        let machine = Cache::new(proxy(other), [n as u8; 32]);
        let spec = HostSpec::at(&format!("10.0.0.{}", n + 2)).listen(Listener::Http, 80);
        let host = world.host(name, machine, spec);
        world.name(name, host);
    }
    let to = Endpoint {
        host: Host::Name("a".into()),
        port: 80,
        tls: None,
    };
    let say = "GET /f?cacheHostOrigin=origin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let reader = Reader::new(to, Bytes::from(say), 1 << 20, Duration::ZERO);
    let client = world.host("client", reader, HostSpec::at("10.0.0.9"));
    let done = |w: &World| w.machine::<Reader>(client).is_done();
    world
        .run_until(done, Duration::from_secs(5))
        .expect("an end");
    let text = world.machine::<Reader>(client).bytes();
    assert!(text.starts_with(b"HTTP/1.1 508 "));
}
