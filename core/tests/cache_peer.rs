//! A cache that is also a peer: what it has whole goes to devices that ask peers only.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod common;

use bytes::Bytes;
use common::{FILE, Fleet, MIB, URL, by_url};
use core::time::Duration;
use dovetail_core::agent::AgentConfig;
use dovetail_core::cache::{CacheConfig, CachePeer};
use dovetail_core::command::{Command, Event, GetRequest, Reply};
use dovetail_core::coordinator::CoordinatorConfig;
use dovetail_core::machine::{Endpoint, Host, Listener};
use dovetail_core::sim::toys::Reader;
use dovetail_core::sim::{HostId, HostSpec, Kill};

const S: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const LENGTH: u64 = 6 * MIB + 77;

struct Scene {
    fleet: Fleet,
    cache: HostId,
    clients: u32,
}

impl Scene {
    /// A coordinator that makes the record of the origin's file itself when it is asked for it.
    fn new(quota_bytes: u64) -> Self {
        let coordinator = CoordinatorConfig {
            allow: vec!["origin".parse().unwrap()],
            ..CoordinatorConfig::default()
        };
        let mut fleet = Fleet::coordinated(1, LENGTH, 100_000_000, coordinator);
        let spec = HostSpec::at("10.0.9.1")
            .listen(Listener::Http, 80)
            .listen(Listener::Peers, 7680);
        let cache = CacheConfig {
            dir: "/cache".into(),
            allow: vec!["origin".parse().unwrap()],
            quota_bytes,
            ..CacheConfig::default()
        };
        let agent = AgentConfig {
            shelf_dir: Some("/cache/shelf".into()),
            ..Fleet::config()
        };
        let machine = CachePeer::new(cache, agent, [9; 32]).unwrap();
        let cache = fleet.world.host("cache", machine, spec);
        fleet.world.name("cache", cache);
        Self {
            fleet,
            cache,
            clients: 0,
        }
    }

    /// Through the cache, by a program that knows nothing of peers.
    fn fetch(&mut self, name: &str) {
        let say = format!(
            "GET /{name}?cacheHostOrigin=origin HTTP/1.1\r\nHost: cache\r\nConnection: close\r\n\r\n"
        );
        let to = Endpoint {
            host: Host::Name("cache".into()),
            port: 80,
            tls: None,
        };
        self.clients += 1;
        let spec = HostSpec::at(&format!("10.1.0.{}", self.clients));
        let reader = Reader::new(to, Bytes::from(say), 1 << 20, Duration::ZERO);
        let name = format!("client{}", self.clients);
        let client = self.fleet.world.host(&name, reader, spec);
        let done = |w: &dovetail_core::sim::World| w.machine::<Reader>(client).is_done();
        self.fleet.world.run_until(done, MINUTE).expect("an end");
        let text = self.fleet.world.machine::<Reader>(client).bytes();
        assert!(text.ends_with(&self.fleet.content));
    }

    /// A device that asks peers only.
    fn ask_peers(&mut self) -> Result<dovetail_core::command::Report, String> {
        let device = self.fleet.agent(Fleet::config());
        let request = GetRequest {
            require_peers: true,
            ..by_url()
        };
        let call = self.fleet.world.command(device, Command::Get(request));
        self.fleet.world.run_for(MINUTE * 5);
        match self.fleet.world.reply(call) {
            Some(Reply::Got(result)) => result.clone().map_err(|failure| failure.to_string()),
            other => Err(format!("{other:?}")),
        }
    }

    fn offered(&self) -> usize {
        let peer = self.fleet.world.machine::<CachePeer>(self.cache);
        peer.agent().offered()
    }

    fn says(&self, what: &str) -> bool {
        let mut events = self.fleet.world.events(self.cache).iter();
        events.any(|event| matches!(event, Event::Log { text, .. } if text.contains(what)))
    }
}

#[test]
fn what_is_cached_whole_goes_to_peers() {
    let mut scene = Scene::new(1 << 30);
    assert_eq!(scene.offered(), 0);
    scene.fetch("image.bin");
    scene.fleet.world.run_for(S * 30);
    assert_eq!(scene.offered(), 1);
    scene.fleet.world.kill(scene.fleet.origin, Kill::Process);
    let report = scene.ask_peers().unwrap();
    assert_eq!(report.received.lan, LENGTH);
    let device = scene.fleet.agents[0];
    let content = scene.fleet.content.clone();
    assert!(scene.fleet.world.disk(device).holds(FILE, &content));
    // Nothing was copied for it.
    let used = scene.fleet.world.disk(scene.cache).used();
    assert!(used < LENGTH + MIB, "{used}");
    // Both roles stop, and one answer says so.
    let call = scene.fleet.world.command(scene.cache, Command::Shutdown);
    scene.fleet.world.run_for(S * 10);
    assert!(matches!(
        scene.fleet.world.reply(call),
        Some(Reply::Stopped)
    ));
}

#[test]
fn what_is_evicted_is_taken_back_first() {
    let mut scene = Scene::new(8 * MIB);
    let content = scene.fleet.content.clone();
    let disk = scene.fleet.world.disk(scene.fleet.origin);
    disk.put("/srv/other.bin", content);
    scene.fetch("image.bin");
    scene.fleet.world.run_for(S * 30);
    assert_eq!(scene.offered(), 1);
    // There is room for one of them.
    scene.fetch("other.bin");
    scene.fleet.world.run_for(S);
    scene.fleet.world.kill(scene.fleet.origin, Kill::Process);
    let paths: Vec<String> = {
        let disk = scene.fleet.world.disk(scene.cache);
        disk.paths().map(str::to_owned).collect()
    };
    assert_eq!(paths.iter().filter(|p| p.ends_with(".data")).count(), 1);
    assert!(scene.says("its file goes"));
}

#[test]
fn what_the_coordinator_does_not_know_is_not_offered_until_it_does() {
    let mut scene = Scene::new(1 << 30);
    scene
        .fleet
        .world
        .kill(scene.fleet.coordinator, Kill::Process);
    scene.fetch("image.bin");
    scene.fleet.world.run_for(MINUTE);
    assert_eq!(scene.offered(), 0);
    let coordinator = CoordinatorConfig {
        allow: vec!["origin".parse().unwrap()],
        ..CoordinatorConfig::default()
    };
    let machine = dovetail_core::coordinator::Coordinator::new(coordinator, [3; 32]);
    scene.fleet.world.restart(scene.fleet.coordinator, machine);
    scene.fleet.world.run_for(MINUTE * 15);
    assert_eq!(scene.offered(), 1, "{URL}");
}

#[test]
fn a_file_that_is_damaged_on_the_disk_is_not_given_to_peers() {
    let mut scene = Scene::new(1 << 30);
    scene.fetch("image.bin");
    let disk = scene.fleet.world.disk(scene.cache);
    let data = disk
        .paths()
        .find(|p| p.ends_with(".data"))
        .unwrap()
        .to_owned();
    let mut wrong = disk.get(&data).unwrap().to_vec();
    wrong[3_000_000] ^= 1;
    disk.put(&data, wrong.into());
    scene.fleet.world.run_for(S * 30);
    assert_eq!(scene.offered(), 0);
    assert!(scene.says("does not match its hashes"));
}
