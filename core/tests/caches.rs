//! Cache servers before the origin: who is asked, when the origin takes over, which failures ban whom and how long.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod common;

use bytes::Bytes;
use common::{FILE, MIB, URL, metainfo, settings};
use core::time::Duration;
use dovetail_core::agent::{Agent, AgentConfig};
use dovetail_core::command::{Command, Event, GetRequest, Reply, Report};
use dovetail_core::failure::{Failure, FailureKind};
use dovetail_core::http::Bans;
use dovetail_core::machine::Listener;
use dovetail_core::sim::origin::{Fault, FaultyOrigin, When};
use dovetail_core::sim::{Call, HostId, HostSpec, Kill, World};

const LENGTH: u64 = 8 * MIB;
const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);

/// One device, an origin and two caches that serve the same file.
struct Scene {
    world: World,
    content: Bytes,
    device: HostId,
    origin: HostId,
    caches: [HostId; 2],
}

impl Scene {
    fn new(values: &[(&str, &str)]) -> Self {
        let mut world = World::new(1);
        let content = world.content("image.bin", LENGTH as usize);
        let mut server = |name: &str, addr: &str| {
            let origin = FaultyOrigin::new(content.clone()).rate(4_000_000);
            let spec = HostSpec::at(addr).listen(Listener::Http, 80);
            let host = world.host(name, origin, spec);
            world.name(name, host);
            host
        };
        let origin = server("origin", "10.0.0.1");
        let caches = [server("c", "10.0.0.3"), server("d", "10.0.0.4")];
        let config = AgentConfig {
            settings: settings(values),
            ..AgentConfig::default()
        };
        let agent = Agent::new(config, world.seed_for("device")).unwrap();
        let device = world.host("device", agent, HostSpec::at("10.0.0.2"));
        Self {
            world,
            content,
            device,
            origin,
            caches,
        }
    }

    fn start(&mut self, request: GetRequest) -> Call {
        self.world.command(self.device, Command::Get(request))
    }

    fn result(&mut self, call: Call) -> Result<Report, Failure> {
        let answered = |w: &World| w.reply(call).is_some();
        self.world.run_until(answered, MINUTE * 20).expect("an end");
        match self.world.reply(call) {
            Some(Reply::Got(result)) => result.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// A download that must be good.
    fn get(&mut self) -> Report {
        let call = self.start(by_url());
        self.good(call)
    }

    fn good(&mut self, call: Call) -> Report {
        let report = self.result(call).unwrap_or_else(|e| {
            for event in self.world.events(self.device) {
                println!("{event:?}");
            }
            panic!("{e}")
        });
        assert!(self.world.disk(self.device).holds(FILE, &self.content));
        assert_eq!(report.received.total(), LENGTH);
        report
    }

    fn server(&mut self, host: HostId, act: impl FnOnce(&mut FaultyOrigin)) {
        self.world.with(host, act);
    }

    fn seen(&self, host: HostId) -> usize {
        self.world.machine::<FaultyOrigin>(host).requests.len()
    }

    fn says(&self, what: &str) -> bool {
        let events = self.world.events(self.device);
        events.iter().any(|event| match event {
            Event::Log { text, .. } => text.contains(what),
            _ => false,
        })
    }
}

fn by_url() -> GetRequest {
    GetRequest {
        urls: vec![URL.into()],
        output: FILE.into(),
        overwrite: true,
        ..GetRequest::default()
    }
}

fn refusing(status: u16) -> impl FnOnce(&mut FaultyOrigin) {
    move |server| {
        let fault = Fault::Status {
            status,
            retry_after_s: None,
        };
        server.add_fault(When::Always, fault);
    }
}

#[test]
fn a_cache_that_serves_spares_the_origin() {
    let mut scene = Scene::new(&[("cache_host", "c, d")]);
    let report = scene.get();
    assert_eq!(report.received.cache, LENGTH);
    assert_eq!(
        (scene.seen(scene.origin), scene.seen(scene.caches[1])),
        (0, 0)
    );
    let cache = scene.world.machine::<FaultyOrigin>(scene.caches[0]);
    let target = &cache.requests[0].target;
    assert_eq!(target, "/image.bin?cacheHostOrigin=origin");
}

#[test]
fn the_next_cache_then_the_origin() {
    let mut scene = Scene::new(&[("cache_host", "c, d")]);
    scene.server(scene.caches[0], refusing(404));
    assert_eq!(scene.get().received.cache, LENGTH);
    assert_eq!(scene.seen(scene.caches[0]), 1);
    scene.server(scene.caches[1], refusing(403));
    let report = scene.get();
    assert_eq!(report.received.origin, LENGTH);
    assert_eq!(scene.seen(scene.caches[0]), 1, "it is still banned");
}

#[test]
fn a_ban_lasts_a_quarter_of_an_hour_for_all_downloads() {
    let mut scene = Scene::new(&[("cache_host", "c")]);
    scene.server(scene.caches[0], refusing(404));
    assert_eq!(scene.get().received.origin, LENGTH);
    scene.server(scene.caches[0], FaultyOrigin::clear_faults);
    scene.world.run_for(Bans::LENGTH - MINUTE);
    assert_eq!(scene.get().received.origin, LENGTH);
    assert_eq!(scene.seen(scene.caches[0]), 1);
    scene.world.run_for(MINUTE);
    assert_eq!(scene.get().received.cache, LENGTH);
}

#[test]
fn a_client_error_bans_for_that_origin_alone_and_silence_for_all() {
    for (is_down, asked_again) in [(false, true), (true, false)] {
        let mut scene = Scene::new(&[("cache_host", "c")]);
        if is_down {
            scene.world.kill(scene.caches[0], Kill::Power);
        } else {
            scene.server(scene.caches[0], refusing(404));
        }
        scene.world.name("elsewhere", scene.origin);
        let before = scene.world.now();
        assert_eq!(scene.get().received.origin, LENGTH);
        let took = scene.world.now() - before;
        assert_eq!(took >= Duration::from_secs(3), is_down, "3 s to connect");
        assert!(took < Duration::from_secs(6), "{took:?}");
        if is_down {
            let cache = FaultyOrigin::new(scene.content.clone());
            scene.world.restart(scene.caches[0], cache);
        } else {
            scene.server(scene.caches[0], FaultyOrigin::clear_faults);
        }
        let call = scene.start(GetRequest {
            urls: vec!["http://elsewhere/image.bin".into()],
            ..by_url()
        });
        let report = scene.good(call);
        assert_eq!(report.received.cache > 0, asked_again, "{is_down}");
    }
}

#[test]
fn a_server_error_bans_nobody_and_the_origin_waits_for_its_time() {
    let values = [
        ("cache_host", "c"),
        ("delay_cache_server_fallback_background", "10s"),
    ];
    let mut scene = Scene::new(&values);
    scene.server(scene.caches[0], refusing(503));
    let call = scene.start(by_url());
    let began = scene.world.now();
    assert_eq!(scene.good(call).received.origin, LENGTH);
    let origin = scene.world.machine::<FaultyOrigin>(scene.origin);
    let first = origin.requests[0].at;
    let at = Duration::from_micros(first.as_us());
    let late = at - began - Duration::from_secs(10);
    assert!(late < 10 * MS, "{late:?} after the deadline");
    assert!(scene.seen(scene.caches[0]) > 3, "it was asked again");
}

#[test]
fn without_a_delay_the_origin_takes_over_at_once_and_the_cache_comes_back() {
    let mut scene = Scene::new(&[("cache_host", "c")]);
    scene.server(scene.origin, |origin| origin.rate_bytes_per_s = 500_000);
    let call = scene.start(by_url());
    scene.world.run_for(500 * MS);
    scene.world.kill(scene.caches[0], Kill::Process);
    let mut cache = FaultyOrigin::new(scene.content.clone()).rate(4_000_000);
    let fault = Fault::Status {
        status: 503,
        retry_after_s: None,
    };
    cache.add_fault(When::Requests(0..1), fault);
    scene.world.restart(scene.caches[0], cache);
    let report = scene.good(call);
    let cache = scene.world.machine::<FaultyOrigin>(scene.caches[0]);
    assert!(cache.served > 0 && report.received.origin > 0, "{report:?}");
    assert!(report.elapsed_us < 10_000_000, "{}", report.elapsed_us);
}

#[test]
fn never_means_never() {
    let values = [
        ("cache_host", "c"),
        ("delay_cache_server_fallback_background", "never"),
    ];
    for status in [503, 404] {
        let mut scene = Scene::new(&values);
        scene.server(scene.caches[0], refusing(status));
        let call = scene.start(by_url());
        let failure = scene.result(call).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unavailable);
        let text = failure.to_string();
        let fallback = "delay_cache_server_fallback_foreground and _background";
        assert!(
            text.contains(fallback) && text.contains("cache http://c"),
            "{text}"
        );
        assert_eq!(scene.seen(scene.origin), 0);
        let took = scene.world.now();
        assert!(took < Duration::from_secs(10), "{took:?}");
        // When the cache is well again, so is the next download.
        scene.server(scene.caches[0], FaultyOrigin::clear_faults);
        assert_eq!(scene.get().received.cache, LENGTH);
    }
}

#[test]
fn a_cache_with_damaged_bytes_is_left_for_this_origin() {
    let mut scene = Scene::new(&[("cache_host", "c")]);
    scene.server(scene.caches[0], |cache| {
        cache.add_fault(
            When::Always,
            Fault::Lie {
                file: 3 * MIB..4 * MIB,
            },
        );
    });
    let request = GetRequest {
        metainfo: Some(
            metainfo("image.bin", &scene.content, &[URL])
                .encode()
                .into(),
        ),
        ..by_url()
    };
    let call = scene.start(request);
    let report = scene.good(call);
    assert!(report.received.origin > 0 && report.wasted >= MIB);
    assert!(report.received.cache > 0);
}

#[test]
fn a_file_that_no_hash_proves_is_not_spliced_of_two_versions() {
    let mut scene = Scene::new(&[("cache_host", "c")]);
    let old = scene.world.content("older", LENGTH as usize);
    scene.server(scene.caches[0], |cache| {
        cache.set_content("*", old.clone());
        cache.add_fault(
            When::Requests(1..100),
            Fault::Status {
                status: 404,
                retry_after_s: None,
            },
        );
        cache.add_fault(When::Requests(0..1), Fault::Reset { after: 3 * MIB });
    });
    let call = scene.start(by_url());
    let answered = |w: &World| w.reply(call).is_some();
    scene.world.run_until(answered, MINUTE * 5).unwrap();
    assert!(
        scene.world.disk(scene.device).holds(FILE, &scene.content),
        "the origin's version, whole"
    );
    assert!(scene.says("the file changed on the server"));
}

#[test]
fn https_and_ports_of_the_origin_reach_the_cache() {
    let mut scene = Scene::new(&[("cache_host", "c:80")]);
    for (url, target) in [
        (
            "http://origin:8080/a?b=c",
            "/a?b=c&cacheHostOrigin=origin:8080",
        ),
        (
            "https://origin/a",
            "/a?cacheHostOrigin=origin&cacheHostOriginScheme=https",
        ),
    ] {
        let call = scene.start(GetRequest {
            urls: vec![url.into()],
            ..by_url()
        });
        assert_eq!(scene.good(call).received.cache, LENGTH);
        let cache = scene.world.machine::<FaultyOrigin>(scene.caches[0]);
        assert_eq!(cache.requests.last().unwrap().target, target);
    }
}
