//! Every setting of the table changes what happens: a scenario each, run in virtual time with and without it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod common;
mod settings_table;

use bytes::Bytes;
use common::{FILE, MIB, URL, metainfo};
use core::time::Duration;
use dovetail_core::agent::{Agent, AgentConfig};
use dovetail_core::command::{Command, Event, GetRequest, Reply, Report, ShareRequest};
use dovetail_core::content::Metainfo;
use dovetail_core::coordinator::{Coordinator, CoordinatorConfig};
use dovetail_core::host::{Battery, DiskSpace, HostFacts, Interface, LinkKind};
use dovetail_core::machine::Listener;
use dovetail_core::settings::{Layers, Provider, Source, TABLE};
use dovetail_core::sim::origin::{Fault, FaultyOrigin, When};
use dovetail_core::sim::{Call, HostId, HostSpec, World};
use settings_table::scenarios;
use std::collections::BTreeSet;

const S: Duration = Duration::from_secs(1);
const LENGTH: u64 = 8 * MIB;
const GB: u64 = 1_000_000_000;

/// What a scenario is made of; everything else is as it is by default.
struct Lab {
    facts: HostFacts,
    /// Settings besides the one that is tried.
    base: &'static [(&'static str, &'static str)],
    /// Where others are that have the file, and what they are set to.
    seeds: &'static [&'static str],
    seed_settings: &'static [(&'static str, &'static str)],
    /// Nobody gets to them over TCP.
    seeds_drop_streams: bool,
    device: &'static str,
    foreground: bool,
    /// The device knows the URL alone; the coordinator knows what the file is.
    by_url: bool,
    /// The cache `c` answers 503.
    cache_fails: bool,
    /// Somebody there downloads it afterwards.
    taker: Option<&'static str>,
    downloads: usize,
    /// Looked at so long after the last download has ended.
    later: Duration,
}

const LAB: Lab = Lab {
    facts: HostFacts {
        interfaces: Vec::new(),
        metered: None,
        battery: None,
        ram_bytes: None,
        disk: None,
        dns_suffix: None,
        dhcp_group_id: None,
        dhcp_cache_hosts: None,
        found_caches: Vec::new(),
        port_answers: Vec::new(),
    },
    base: &[],
    seeds: &[],
    seed_settings: &[],
    seeds_drop_streams: false,
    device: "10.0.1.1",
    foreground: false,
    by_url: false,
    cache_fails: false,
    taker: None,
    downloads: 1,
    later: Duration::ZERO,
};

fn peers() -> Lab {
    Lab {
        seeds: &["10.0.1.11", "10.0.1.12"],
        ..LAB
    }
}

/// What came of it.
#[derive(Debug)]
struct Outcome {
    report: Option<Report>,
    failed: Option<String>,
    elapsed: Duration,
    /// When the origin and the cache were first asked.
    origin_at: Option<Duration>,
    cache_at: Option<Duration>,
    waited: BTreeSet<String>,
    /// Files in the shelf's folders, and what the device offers.
    kept: usize,
    kept_elsewhere: usize,
    offered: usize,
    taken: Option<Report>,
    asks_router: bool,
}

impl Outcome {
    /// From where the bytes came, in words.
    fn from(&self) -> String {
        let Some(report) = &self.report else {
            return self.failed.clone().unwrap_or_else(|| "waits".into());
        };
        sources(report)
    }

    fn taken(&self) -> String {
        self.taken.as_ref().map_or("nothing".into(), sources)
    }
}

fn sources(report: &Report) -> String {
    let received = report.received;
    let named = [
        (received.origin, "origin"),
        (received.cache, "cache"),
        (received.lan + received.link_local, "lan"),
        (received.group, "group"),
        (received.internet, "internet"),
    ];
    let used = named.iter().filter(|(bytes, _)| *bytes > 0);
    used.map(|(_, name)| *name).collect::<Vec<_>>().join("+")
}

fn layers(values: &[(&str, &str)]) -> Layers {
    let mut layers = Layers::default();
    for (name, value) in values {
        if *name == "network" {
            let text = format!("[[network]]\n{value}");
            let place = "test.toml".into();
            let problems = layers.read(Provider::File, &[Source { place, text }]);
            assert!(problems.is_empty(), "{problems:?}");
        } else {
            layers.set(Provider::CommandLine, name, value).expect(name);
        }
    }
    layers
}

struct Run {
    world: World,
    content: Bytes,
}

impl Run {
    /// Contents differ by their names alone.
    fn metainfo(&self, n: usize) -> Metainfo {
        let name = if n == 0 {
            "image.bin".into()
        } else {
            format!("image{n}.bin")
        };
        metainfo(&name, &self.content, &[URL])
    }

    fn agent(&mut self, name: &str, addr: &str, values: &[(&str, &str)]) -> HostId {
        let spec = HostSpec::at(addr).listen(Listener::Peers, 7680);
        self.agent_on(name, spec, values)
    }

    fn agent_on(&mut self, name: &str, spec: HostSpec, values: &[(&str, &str)]) -> HostId {
        let config = AgentConfig {
            coordinator: Some("http://coordinator".into()),
            share: true,
            shelf_dir: Some("/shelf".into()),
            settings: layers(values),
            ..AgentConfig::default()
        };
        let agent = Agent::new(config, self.world.seed_for(name)).unwrap();
        self.world.host(name, agent, spec)
    }

    fn request(&self, n: usize) -> GetRequest {
        GetRequest {
            metainfo: Some(self.metainfo(n).encode().into()),
            output: format!("{FILE}{n}"),
            ..GetRequest::default()
        }
    }

    fn wait(&mut self, call: Call, limit: Duration) -> Option<Result<Report, String>> {
        let done = |w: &World| w.reply(call).is_some();
        let _ = self.world.run_until(done, limit);
        match self.world.reply(call)? {
            Reply::Got(Ok(report)) => Some(Ok(report.clone())),
            Reply::Got(Err(failure)) => Some(Err(failure.to_string())),
            other => panic!("{other:?}"),
        }
    }

    fn first_request(&self, host: HostId, since: Duration) -> Option<Duration> {
        let server = self.world.machine::<FaultyOrigin>(host);
        let times = server
            .requests
            .iter()
            .map(|seen| Duration::from_micros(seen.at.as_us()));
        times.filter(|at| *at >= since).min().map(|at| at - since)
    }
}

fn run(lab: &Lab, value: Option<(&str, &str)>) -> Outcome {
    let mut world = World::new(1);
    world.check_every = 50;
    let content = world.content("image.bin", LENGTH as usize);
    let mut server = |name: &str, addr: &str| {
        let spec = HostSpec::at(addr).listen(Listener::Http, 80);
        let server = FaultyOrigin::new(content.clone()).rate(4_000_000);
        let host = world.host(name, server, spec);
        world.name(name, host);
        host
    };
    let (origin, cache) = (server("origin", "192.0.2.1"), server("c", "192.0.2.3"));
    if lab.cache_fails {
        let fault = Fault::Status {
            status: 503,
            retry_after_s: None,
        };
        world.with(cache, |cache: &mut FaultyOrigin| {
            cache.add_fault(When::Always, fault)
        });
    }
    let config = CoordinatorConfig {
        allow: vec!["origin".parse().unwrap()],
        ..CoordinatorConfig::default()
    };
    let spec = HostSpec::at("192.0.2.2").listen(Listener::Http, 80);
    let coordinator = world.host("coordinator", Coordinator::new(config, [2; 32]), spec);
    world.name("coordinator", coordinator);
    let mut run = Run { world, content };
    if lab.by_url {
        // Somebody has asked before: the coordinator has had time to find out what the file is.
        let other = run.agent("other", "192.0.2.9", &[]);
        let call = run.world.command(other, Command::Get(by_url(0)));
        run.wait(call, S * 60).unwrap().unwrap();
        run.world.run_for(S * 20);
    }
    for (n, addr) in lab.seeds.iter().enumerate() {
        let mut spec = HostSpec::at(addr).listen(Listener::Peers, 7680);
        spec.drops_streams = lab.seeds_drop_streams;
        let seed = run.agent_on(&format!("seed{n}"), spec, lab.seed_settings);
        run.world.disk(seed).put(FILE, run.content.clone());
        let share = ShareRequest {
            metainfo: run.metainfo(0).encode().into(),
            path: FILE.into(),
        };
        run.world.command(seed, Command::Share(share));
    }
    run.world.run_for(S * 3);
    let mut values = lab.base.to_vec();
    values.extend(value);
    let device = run.agent("device", lab.device, &values);
    run.world.host_facts(device, lab.facts.clone());
    run.world.run_for(S);
    let begun = run.world.now();
    let calls: Vec<Call> = (0..lab.downloads)
        .map(|n| {
            let request = if lab.by_url {
                by_url(n)
            } else {
                run.request(n)
            };
            let request = GetRequest {
                foreground: lab.foreground,
                ..request
            };
            run.world.command(device, Command::Get(request))
        })
        .collect();
    let results: Vec<_> = calls.iter().map(|call| run.wait(*call, S * 180)).collect();
    let elapsed = run.world.now() - begun;
    let taken = lab.taker.and_then(|addr| {
        run.world.run_for(S * 2);
        let taker = run.agent("taker", addr, lab.seed_settings);
        let request = GetRequest {
            require_peers: true,
            ..run.request(0)
        };
        let call = run.world.command(taker, Command::Get(request));
        run.wait(call, S * 100)?.ok()
    });
    run.world.run_for(lab.later);
    let waited = run
        .world
        .events(device)
        .iter()
        .filter_map(|event| match event {
            Event::Progress { progress, .. } => progress.waiting.clone(),
            _ => None,
        });
    let waited = waited.collect();
    let mut events = run.world.events(device).iter();
    let asks_router = events.any(|event| matches!(event, Event::MapPort(_)));
    let under = |disk: &dovetail_core::sim::Disk, folder: &str| {
        let paths = disk.paths().filter(|path| path.starts_with(folder));
        paths.filter(|path| path.ends_with(".data")).count()
    };
    let disk = run.world.disk(device);
    let (kept, kept_elsewhere) = (under(disk, "/shelf/"), under(disk, "/big/"));
    let offered = run.world.machine::<Agent>(device).offered();
    let last = results.into_iter().next_back().flatten();
    Outcome {
        report: last.clone().and_then(Result::ok),
        failed: last.and_then(Result::err),
        elapsed,
        origin_at: run.first_request(origin, begun),
        cache_at: run.first_request(cache, begun),
        waited,
        kept,
        kept_elsewhere,
        offered,
        taken,
        asks_router,
    }
}

fn by_url(n: usize) -> GetRequest {
    GetRequest {
        urls: vec![URL.into()],
        output: format!("{FILE}{n}"),
        ..GetRequest::default()
    }
}

/// One setting: what it is set to, and what is to be seen without and with it.
struct Scenario {
    setting: &'static str,
    value: &'static str,
    lab: Lab,
    seen: fn(&Outcome) -> String,
    without: &'static str,
    with: &'static str,
}

fn from(outcome: &Outcome) -> String {
    outcome.from()
}

fn taken(outcome: &Outcome) -> String {
    outcome.taken()
}

fn kept(outcome: &Outcome) -> String {
    outcome.kept.to_string()
}

fn waited(outcome: &Outcome) -> String {
    outcome
        .waited
        .iter()
        .cloned()
        .collect::<Vec<_>>()
        .join("; ")
}

/// 8 MiB in 2 s is the line, at a tenth of 10 MB/s it takes 8 s.
fn pace(outcome: &Outcome) -> String {
    match outcome.elapsed.as_secs() {
        0..=4 => "fast",
        5..=30 => "slow",
        _ => "stuck",
    }
    .into()
}

fn origin_at(outcome: &Outcome) -> String {
    let at = outcome.origin_at.or(outcome.cache_at);
    at.map_or("never".into(), |at| format!("after {} s", at.as_secs()))
}

fn asks_router(outcome: &Outcome) -> String {
    let asks = outcome.asks_router;
    if asks {
        "asks the router"
    } else {
        "asks nobody"
    }
    .into()
}

fn subnet(text: &str, name: &str, link: LinkKind) -> Interface {
    Interface {
        name: name.into(),
        link,
        subnets: vec![text.parse().unwrap()],
        default_route: true,
        ..Interface::default()
    }
}

fn on_lan() -> HostFacts {
    HostFacts {
        interfaces: vec![subnet("10.0.1.1/24", "eth0", LinkKind::Ethernet)],
        ..HostFacts::default()
    }
}

fn behind_a_router() -> HostFacts {
    let mut facts = on_lan();
    for interface in &mut facts.interfaces {
        interface.gateways = vec!["10.0.1.254".parse().unwrap()];
    }
    facts
}

fn on_vpn() -> HostFacts {
    let mut facts = on_lan();
    facts
        .interfaces
        .push(subnet("10.8.0.2/24", "wg0", LinkKind::Wireguard));
    facts
}

/// Kept once, looked at two minutes after.
fn keeping() -> Lab {
    Lab {
        base: &[("min_file_size_to_cache", "0B")],
        facts: HostFacts {
            disk: Some(DiskSpace {
                free_bytes: 10 * GB,
                total_bytes: 50 * GB,
            }),
            ..HostFacts::default()
        },
        later: S * 120,
        ..LAB
    }
}

const SLOW_SEEDS: &[(&str, &str)] = &[("max_upload_bandwidth", "300KB/s")];

/// A host of which just this is known.
fn facts(tell: impl FnOnce(&mut HostFacts)) -> HostFacts {
    let mut facts = HostFacts::default();
    tell(&mut facts);
    facts
}

fn origin_only_at(outcome: &Outcome) -> String {
    let at = outcome.origin_at;
    at.map_or("never".into(), |at| format!("after {} s", at.as_secs()))
}

#[test]
fn no_setting_is_parsed_and_ignored() {
    let tried: BTreeSet<&str> = scenarios().iter().map(|s| s.setting).collect();
    let all: BTreeSet<&str> = TABLE.iter().map(|row| row.name).collect();
    let missing: Vec<_> = all.difference(&tried).collect();
    assert!(
        missing.is_empty(),
        "settings without a scenario: {missing:?}"
    );
    let unknown: Vec<_> = tried.difference(&all).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn each_setting_alone_changes_the_outcome() {
    let mut wrong = Vec::new();
    for scenario in scenarios() {
        let without = run(&scenario.lab, None);
        let with = run(&scenario.lab, Some((scenario.setting, scenario.value)));
        let seen = [(scenario.seen)(&without), (scenario.seen)(&with)];
        if seen != [scenario.without, scenario.with] {
            wrong.push(format!(
                "{}: seen {seen:?}, expected {:?}\n  {without:?}\n  {with:?}",
                scenario.setting,
                [scenario.without, scenario.with]
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
