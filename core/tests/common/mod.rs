//! A small fleet in virtual time: one origin, one coordinator, agents.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod scene;
pub mod tricky;

use bytes::Bytes;
use core::time::Duration;
use dovetail_core::agent::{Agent, AgentConfig};
use dovetail_core::command::{Command, Event, GetRequest, Level, Reply, Report, ShareRequest};
use dovetail_core::content::{Geometry, HashJob, Metainfo, TreeBuilder};
use dovetail_core::coordinator::{Coordinator, CoordinatorConfig};
use dovetail_core::failure::Failure;
use dovetail_core::machine::Listener;
use dovetail_core::origin::{Origin, OriginConfig};
use dovetail_core::settings::{Layers, Provider};
use dovetail_core::sim::{Call, HostId, HostSpec, LinkSpec, World};

pub const MIB: u64 = 1024 * 1024;
pub const FILE: &str = "/data/image.bin";

/// The metainfo of these bytes under this name, as `publish` makes it.
pub fn metainfo(name: &str, content: &Bytes, urls: &[&str]) -> Metainfo {
    let geometry = Geometry::for_length(content.len() as u64).unwrap();
    let mut tree = TreeBuilder::new(geometry);
    for piece in 0..geometry.pieces() {
        let range = geometry.piece_range(piece);
        let chunks = vec![content.slice(range.start as usize..range.end as usize)];
        let leaves = HashJob {
            chunks,
            leaves: true,
            flat: None,
        }
        .run()
        .leaves;
        tree.piece(piece, &leaves).unwrap();
    }
    let urls = urls.iter().map(ToString::to_string).collect();
    Metainfo::for_content(name, tree.finish().unwrap(), urls, Vec::new()).unwrap()
}

/// What a command line would say.
pub fn settings(values: &[(&str, &str)]) -> Layers {
    let mut layers = Layers::default();
    for (name, value) in values {
        layers.set(Provider::CommandLine, name, value).unwrap();
    }
    layers
}

/// With all that is known about the file.
pub fn by_metainfo(metainfo: &Metainfo) -> GetRequest {
    GetRequest {
        metainfo: Some(metainfo.encode().into()),
        output: FILE.into(),
        ..GetRequest::default()
    }
}

/// By the origin's URL, with nothing known about the file.
pub fn by_url() -> GetRequest {
    GetRequest {
        urls: vec![URL.into()],
        output: FILE.into(),
        ..GetRequest::default()
    }
}

pub struct Fleet {
    pub world: World,
    pub content: Bytes,
    pub metainfo: Metainfo,
    pub origin: HostId,
    pub coordinator: HostId,
    pub agents: Vec<HostId>,
    pub calls: Vec<Call>,
    pub links: LinkSpec,
}

pub const URL: &str = "http://origin/image.bin";

impl Fleet {
    /// An origin with one file behind an uplink of this rate, and a coordinator.
    pub fn new(seed: u64, length: u64, origin_rate: u64) -> Self {
        Self::coordinated(seed, length, origin_rate, CoordinatorConfig::default())
    }

    pub fn coordinated(
        seed: u64,
        length: u64,
        origin_rate: u64,
        coordinator: CoordinatorConfig,
    ) -> Self {
        let mut world = World::new(seed);
        let content = world.content("image.bin", length as usize);
        let metainfo = metainfo("image.bin", &content, &[URL]);
        let up = LinkSpec::rate(origin_rate);
        let spec = HostSpec::at("10.0.0.1")
            .listen(Listener::Http, 80)
            .links(up, LinkSpec::LAN);
        let config = OriginConfig {
            dir: "/srv".into(),
            limit_bytes_per_s: 0,
        };
        let origin = world.host("origin", Origin::new(config, [1; 32]), spec);
        world.disk(origin).put("/srv/image.bin", content.clone());
        let spec = HostSpec::at("10.0.0.2").listen(Listener::Http, 80);
        let coordinator = world.host("coordinator", Coordinator::new(coordinator, [2; 32]), spec);
        world.name("origin", origin);
        world.name("coordinator", coordinator);
        let links = LinkSpec::LAN;
        Self {
            world,
            content,
            metainfo,
            origin,
            coordinator,
            agents: vec![],
            calls: vec![],
            links,
        }
    }

    pub fn config() -> AgentConfig {
        AgentConfig {
            coordinator: Some("http://coordinator".into()),
            share: true,
            // The files of these tests are small.
            settings: settings(&[("min_file_size_to_peer", "0B")]),
            ..AgentConfig::default()
        }
    }

    pub fn agent(&mut self, config: AgentConfig) -> HostId {
        let n = self.agents.len();
        let addr = format!("10.0.{}.{}", 1 + n / 250, 1 + n % 250);
        let spec = HostSpec::at(&addr)
            .listen(Listener::Peers, 7680)
            .links(self.links, self.links);
        let name = format!("agent{n}");
        let seed = self.world.seed_for(&name);
        let host = self
            .world
            .host(&name, Agent::new(config, seed).unwrap(), spec);
        self.agents.push(host);
        host
    }

    pub fn agents(&mut self, n: usize) {
        for _ in 0..n {
            self.agent(Self::config());
        }
    }

    pub fn request(&self) -> GetRequest {
        by_metainfo(&self.metainfo)
    }

    pub fn get(&mut self, host: HostId, request: GetRequest) -> Call {
        let call = self.world.command(host, Command::Get(request));
        self.calls.push(call);
        call
    }

    /// Every agent asks at once.
    pub fn all_get(&mut self) {
        for host in self.agents.clone() {
            let request = self.request();
            self.get(host, request);
        }
    }

    pub fn share(&mut self, host: HostId) -> Call {
        self.world.disk(host).put(FILE, self.content.clone());
        let share = ShareRequest {
            metainfo: self.metainfo.encode().into(),
            path: FILE.into(),
        };
        self.world.command(host, Command::Share(share))
    }

    /// Until every call is answered.
    pub fn finish(&mut self, limit: Duration) {
        let calls = self.calls.clone();
        let outcome = self
            .world
            .run_until(|w| calls.iter().all(|c| w.reply(*c).is_some()), limit);
        if let Err(stuck) = outcome {
            panic!("not finished: {stuck:?}");
        }
    }

    pub fn result(&self, call: Call) -> Result<Report, Failure> {
        match self.world.reply(call) {
            Some(Reply::Got(result)) => result.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// What the roles logged, for a failing test.
    pub fn print_logs(&self) {
        for host in self.agents.iter().chain([&self.origin, &self.coordinator]) {
            for event in self.world.events(*host) {
                if let Event::Log { level, text } = event
                    && *level > Level::Debug
                {
                    println!("{} {level:?} {text}", self.world.host_name(*host));
                }
            }
        }
    }

    /// Every download succeeded and every output is right.
    pub fn check_outputs(&mut self) -> Vec<Report> {
        self.print_logs();
        let reports: Vec<Report> = self
            .calls
            .clone()
            .iter()
            .map(|c| self.result(*c).expect("a good result"))
            .collect();
        for host in self.agents.clone() {
            assert!(
                self.world.disk(host).holds(FILE, &self.content),
                "{} has a wrong file",
                self.world.host_name(host)
            );
        }
        reports
    }

    /// Copies of the file the origin gave.
    pub fn origin_copies(&self, reports: &[Report]) -> f64 {
        reports.iter().map(|r| r.received.origin).sum::<u64>() as f64 / self.content.len() as f64
    }
}

/// Mundinger, Weber, Weiss (2008): F/c · (1 + ⌊log2 N⌋ / M), everybody's uplink being c.
fn mundinger_s(length: u64, rate: u64, peers: u32) -> f64 {
    let pieces = length.div_ceil(MIB) as f64;
    length as f64 / rate as f64 * (1.0 + f64::from(peers.ilog2()) / pieces)
}

/// Everybody's link has the origin's rate and all ask at once: (last one's time ÷ the bound, origin's copies).
pub fn crowd(seed: u64, agents: u32, length: u64) -> (f64, f64) {
    let rate = 12_500_000;
    let mut fleet = Fleet::new(seed, length, rate);
    fleet.world.check_every = 0;
    fleet.world.without_journal();
    fleet.links = LinkSpec::rate(rate);
    fleet.agents(agents as usize);
    fleet.all_get();
    fleet.finish(Duration::from_secs(1200));
    let reports = fleet.check_outputs();
    let last = reports.iter().map(|r| r.elapsed_us).max().unwrap() as f64 / 1e6;
    let ratio = last / mundinger_s(length, rate, agents);
    let copies = fleet.origin_copies(&reports);
    println!(
        "seed {seed}: last of {agents} after {last:.1} s, {ratio:.2} x the bound, {copies:.2} copies"
    );
    (ratio, copies)
}
