//! An origin, a cache before it, and clients that speak plain HTTP, in virtual time.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use bytes::Bytes;
use core::time::Duration;
use dovetail_core::cache::{Cache, CacheConfig};
use dovetail_core::command::Event;
use dovetail_core::machine::{Endpoint, Host, Listener};
use dovetail_core::sim::origin::{Fault, FaultyOrigin, When};
use dovetail_core::sim::toys::Reader;
use dovetail_core::sim::{HostId, HostSpec, Kill, World};

pub const MIB: usize = 1024 * 1024;
pub const LENGTH: usize = 5 * MIB + 12_345;
pub const MINUTE: Duration = Duration::from_secs(60);
pub const DIR: &str = "/cache";

/// An origin, a cache that may ask it, and clients that come and go.
pub struct Scene {
    pub world: World,
    pub content: Bytes,
    pub origin: HostId,
    pub cache: HostId,
    pub clients: u32,
    pub config: CacheConfig,
}

pub struct Got {
    pub head: String,
    pub body: Vec<u8>,
}

impl Got {
    pub fn status(&self) -> u16 {
        self.head[9..12].parse().unwrap()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut fields = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
        fields.next().map(|(_, value)| value)
    }

    pub fn x_cache(&self) -> &str {
        self.field("x-cache").unwrap_or("none")
    }
}

pub fn config() -> CacheConfig {
    CacheConfig {
        dir: DIR.into(),
        allow: vec!["origin".parse().unwrap()],
        ..CacheConfig::default()
    }
}

impl Scene {
    pub fn new() -> Self {
        Self::with(1, LENGTH, config())
    }

    pub fn with(seed: u64, length: usize, config: CacheConfig) -> Self {
        let mut world = World::new(seed);
        let content = world.content("file", length);
        let spec = HostSpec::at("10.0.0.1").listen(Listener::Http, 80);
        let server = FaultyOrigin::new(content.clone()).rate(40_000_000);
        let origin = world.host("origin", server, spec);
        world.name("origin", origin);
        let machine = Cache::new(config.clone(), world.seed_for("cache"));
        let spec = HostSpec::at("10.0.0.2").listen(Listener::Http, 80);
        let cache = world.host("cache", machine, spec);
        world.name("cache", cache);
        Self {
            world,
            content,
            origin,
            cache,
            clients: 0,
            config,
        }
    }

    pub fn start(&mut self, target: &str, fields: &str) -> HostId {
        self.ask("GET", target, fields, "cache")
    }

    pub fn ask(&mut self, method: &str, target: &str, fields: &str, host: &str) -> HostId {
        let say = format!(
            "{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n"
        );
        let to = Endpoint {
            host: Host::Name("cache".into()),
            port: 80,
            tls: None,
        };
        let reader = Reader::new(to, Bytes::from(say), 1 << 20, Duration::ZERO);
        self.clients += 1;
        let n = self.clients;
        let spec = HostSpec::at(&format!("10.1.{}.{}", n / 250, 1 + n % 250));
        self.world.host(&format!("client{n}"), reader, spec)
    }

    pub fn finish(&mut self, client: HostId) -> Got {
        let done = |w: &World| w.machine::<Reader>(client).is_done();
        self.world.run_until(done, MINUTE * 10).expect("an end");
        let reader = self.world.machine::<Reader>(client);
        let text = reader.bytes();
        let end = text.windows(4).position(|w| w == b"\r\n\r\n");
        let end = end.unwrap_or(text.len());
        Got {
            head: String::from_utf8(text[..end].to_vec()).unwrap(),
            body: text.get(end + 4..).unwrap_or_default().to_vec(),
        }
    }

    pub fn get(&mut self, fields: &str) -> Got {
        let client = self.start("/f?cacheHostOrigin=origin", fields);
        self.finish(client)
    }

    /// The whole file, which must be right.
    pub fn whole(&mut self, x_cache: &str) {
        let got = self.get("");
        assert_eq!(
            (got.status(), got.x_cache()),
            (200, x_cache),
            "{}",
            got.head
        );
        assert!(got.body == self.content, "{} bytes", got.body.len());
    }

    pub fn origin(&self) -> &FaultyOrigin {
        self.world.machine::<FaultyOrigin>(self.origin)
    }

    pub fn served(&self) -> u64 {
        self.origin().served
    }

    pub fn refuse_with(&mut self, status: u16) {
        let fault = Fault::Status {
            status,
            retry_after_s: None,
        };
        let add = |origin: &mut FaultyOrigin| origin.add_fault(When::Always, fault);
        self.world.with(self.origin, add);
    }

    pub fn heal(&mut self) {
        self.world.with(self.origin, FaultyOrigin::clear_faults);
    }

    pub fn restart(&mut self, how: Kill) {
        self.world.kill(self.cache, how);
        let machine = Cache::new(self.config.clone(), [7; 32]);
        self.world.restart(self.cache, machine);
    }

    pub fn says(&self, what: &str) -> bool {
        let events = self.world.events(self.cache).iter();
        events
            .filter(|event| matches!(event, Event::Log { text, .. } if text.contains(what)))
            .count()
            > 0
    }

    pub fn health(&mut self) -> serde_json::Value {
        let client = self.start("/.dovetail/health", "");
        let got = self.finish(client);
        serde_json::from_slice(&got.body).unwrap()
    }

    /// The data file of the only object.
    pub fn data_path(&mut self) -> String {
        let mut paths = self.world.disk(self.cache).paths();
        let path = paths.find(|path| path.ends_with(".data"));
        path.expect("a data file").to_owned()
    }

    pub fn run(&mut self, seconds: u64) {
        self.world.run_for(Duration::from_secs(seconds));
    }
}
