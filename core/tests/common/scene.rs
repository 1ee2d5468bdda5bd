//! One device and one origin with a file, for what happens to a single download.

use super::{FILE, MIB, URL, by_metainfo, metainfo};
use bytes::Bytes;
use core::time::Duration;
use dovetail_core::agent::{Agent, AgentConfig};
use dovetail_core::command::{Command, Event, GetRequest, Reply, Report};
use dovetail_core::content::Metainfo;
use dovetail_core::failure::Failure;
use dovetail_core::machine::Listener;
use dovetail_core::sim::origin::FaultyOrigin;
use dovetail_core::sim::{Call, DiskSpec, HostId, HostSpec, Kill, World};
use std::sync::OnceLock;

pub const LENGTH: u64 = 6 * MIB + 77;
pub const RATE: u64 = 1_000_000;
pub const PART: &str = "/data/image.bin.dovetail-part";
pub const STATE: &str = "/data/image.bin.dovetail-state";
pub const MS: Duration = Duration::from_millis(1);
pub const MINUTE: Duration = Duration::from_secs(60);

/// One device, one origin.
pub struct Scene {
    pub world: World,
    pub content: Bytes,
    pub metainfo: Metainfo,
    pub device: HostId,
    pub origin: HostId,
    pub config: AgentConfig,
}

impl Scene {
    pub fn new(seed: u64) -> Self {
        Self::with(seed, AgentConfig::default(), DiskSpec::default())
    }

    pub fn with(seed: u64, config: AgentConfig, disk: DiskSpec) -> Self {
        let mut world = World::new(seed);
        let (content, metainfo) = image();
        let content = world.share(content);
        let spec = HostSpec::at("10.0.0.1").listen(Listener::Http, 80);
        let origin = FaultyOrigin::new(content.clone()).rate(RATE);
        let origin = world.host("origin", origin, spec);
        world.name("origin", origin);
        let agent = Agent::new(config.clone(), world.seed_for("device")).unwrap();
        let device = world.host("device", agent, HostSpec::at("10.0.0.2").disk(disk));
        Self {
            world,
            content,
            metainfo,
            device,
            origin,
            config,
        }
    }

    pub fn by_metainfo(&self) -> GetRequest {
        by_metainfo(&self.metainfo)
    }

    pub fn request(&self, by_url: bool) -> GetRequest {
        if by_url {
            super::by_url()
        } else {
            self.by_metainfo()
        }
    }

    pub fn start(&mut self, request: &GetRequest) -> Call {
        let command = Command::Get(request.clone());
        self.world.command(self.device, command)
    }

    pub fn result(&mut self, call: Call) -> Result<Report, Failure> {
        let answered = |w: &World| w.reply(call).is_some();
        if let Err(stuck) = self.world.run_until(answered, MINUTE * 10) {
            self.print_log();
            panic!("{stuck}");
        }
        match self.world.reply(call) {
            Some(Reply::Got(result)) => result.clone(),
            other => panic!("{other:?}"),
        }
    }

    pub fn get(&mut self, request: &GetRequest) -> Result<Report, Failure> {
        let call = self.start(request);
        self.result(call)
    }

    pub fn good(&mut self, request: &GetRequest) -> Report {
        match self.get(request) {
            Ok(report) => self.check_good(report),
            Err(failure) => {
                self.print_log();
                panic!("{failure}")
            }
        }
    }

    /// The output is right and stands alone, and the counters add up.
    pub fn check_good(&mut self, report: Report) -> Report {
        let disk = self.world.disk(self.device);
        assert!(disk.holds(FILE, &self.content), "a bad byte was kept");
        let paths: Vec<&str> = disk.paths().collect();
        assert_eq!(paths, [FILE], "nothing else stays");
        assert_eq!(report.received.total() + report.resumed, LENGTH);
        report
    }

    pub fn stop(&mut self, call: Call) {
        let stop = self.world.command(self.device, Command::Stop(call.id));
        let stopped = |w: &World| w.reply(stop).is_some();
        self.world.run_until(stopped, MINUTE).expect("it stops");
    }

    pub fn kill(&mut self, how: Kill) {
        self.world.kill(self.device, how);
        assert!(
            !self.world.disk(self.device).exists(FILE),
            "named too early"
        );
    }

    pub fn restart(&mut self) {
        let seed = self.world.seed_for("device");
        let agent = Agent::new(self.config.clone(), seed).unwrap();
        self.world.restart(self.device, agent);
    }

    pub fn disk(&mut self) -> &mut dovetail_core::sim::Disk {
        self.world.disk(self.device)
    }

    pub fn served(&self) -> u64 {
        self.world.machine::<FaultyOrigin>(self.origin).served
    }

    pub fn origin(&mut self, act: impl FnOnce(&mut FaultyOrigin)) {
        self.world.with(self.origin, act);
    }

    pub fn says(&self, what: &str) -> bool {
        let mut events = self.world.events(self.device).iter();
        events.any(|e| matches!(e, Event::Log { text, .. } if text.contains(what)))
    }

    pub fn print_log(&self) {
        for event in self.world.events(self.device) {
            if let Event::Log { level, text } = event {
                println!("    {level:?} {text}");
            }
        }
    }
}

/// The file of all scenes, made once.
pub fn image() -> (Bytes, Metainfo) {
    static IMAGE: OnceLock<(Bytes, Metainfo)> = OnceLock::new();
    let make = || {
        let content = World::new(1).content("image.bin", LENGTH as usize);
        let metainfo = metainfo("image.bin", &content, &[URL]);
        (content, metainfo)
    };
    IMAGE.get_or_init(make).clone()
}
