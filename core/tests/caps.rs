//! Caps of the bandwidth hold over any five seconds, are used when there is demand, and are shared evenly.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::{Fleet, MIB, settings};
use core::time::Duration;
use dovetail_core::agent::{Agent, AgentConfig};
use dovetail_core::command::{Command, GetRequest, Reply};
use dovetail_core::machine::{Input, Listener, Machine, Output};
use dovetail_core::sim::{HostId, HostSpec, LinkSpec, World};
use dovetail_core::time::{Deadline, Now};

const S: Duration = Duration::from_secs(1);

/// An agent, and when it received how much.
struct Metered {
    agent: Agent,
    received: Vec<(u64, u64)>,
}

impl Machine for Metered {
    fn handle(&mut self, now: Now, input: Input) {
        if let Input::Received { bytes, .. } = &input {
            self.received.push((now.mono.as_us(), bytes.len() as u64));
        }
        self.agent.handle(now, input);
    }

    fn poll(&mut self) -> Option<Output> {
        self.agent.poll()
    }

    fn deadline(&self) -> Option<Deadline> {
        self.agent.deadline()
    }

    fn check(&self) {
        self.agent.check();
    }
}

/// The least and the most that came in five seconds, within this part of the run.
fn windows(received: &[(u64, u64)], from: Duration, to: Duration) -> (f64, f64) {
    let (from, to) = (from.as_micros() as u64, to.as_micros() as u64);
    let span = 5_000_000;
    let (mut least, mut most) = (f64::MAX, 0.0_f64);
    let mut at = from;
    while at + span <= to {
        let within = received.iter().filter(|(t, _)| (at..at + span).contains(t));
        let rate = within.map(|(_, len)| *len).sum::<u64>() as f64 / 5.0;
        (least, most) = (least.min(rate), most.max(rate));
        at += 100_000;
    }
    (least, most)
}

/// An origin with `files` files of 100 MB, an agent with these settings; peers, if asked for, have the first.
fn device_with(values: &[(&str, &str)], seeds: usize, rtt: Duration) -> (Fleet, HostId) {
    let mut fleet = Fleet::new(1, 95 * MIB, 50_000_000);
    fleet.world.check_every = 1000;
    fleet.world.without_journal();
    for n in 0..3 {
        let content = fleet.content.clone();
        let path = format!("/srv/{n}.bin");
        fleet.world.disk(fleet.origin).put(&path, content);
    }
    fleet.agents(seeds);
    for seed in fleet.agents.clone() {
        fleet.share(seed);
    }
    let mut values = values.to_vec();
    values.push(("min_file_size_to_peer", "0B"));
    let config = AgentConfig {
        settings: settings(&values),
        ..Fleet::config()
    };
    let device = metered(&mut fleet, "device", config, rtt);
    fleet.world.run_for(S);
    (fleet, device)
}

fn metered(fleet: &mut Fleet, name: &str, config: AgentConfig, rtt: Duration) -> HostId {
    let seed = fleet.world.seed_for(name);
    let metered = Metered {
        agent: Agent::new(config, seed).unwrap(),
        received: Vec::new(),
    };
    let link = LinkSpec::LAN.delay(rtt / 4);
    let addr = format!("10.9.0.{}", name.len());
    let spec = HostSpec::at(&addr)
        .listen(Listener::Peers, 7680)
        .links(link, link);
    fleet.world.host(name, metered, spec)
}

fn get(world: &mut World, host: HostId, n: usize, foreground: bool) {
    let request = GetRequest {
        urls: vec![format!("http://origin/{n}.bin")],
        output: format!("/data/{n}.bin"),
        foreground,
        ..GetRequest::default()
    };
    world.command(host, Command::Get(request));
}

fn check(name: &str, fleet: &Fleet, device: HostId, from: Duration, to: Duration, cap: f64) {
    let received = &fleet.world.machine::<Metered>(device).received;
    check_windows(name, received, from, to, cap);
}

fn check_windows(name: &str, received: &[(u64, u64)], from: Duration, to: Duration, cap: f64) {
    let (least, most) = windows(received, from, to);
    println!("{name}: {:.3} to {:.3} of the cap", least / cap, most / cap);
    assert!(most <= 1.05 * cap, "{name}: {most} of {cap}");
    assert!(least >= 0.9 * cap, "{name}: {least} of {cap}");
}

#[test]
fn a_class_stays_at_its_cap_whatever_the_number_of_downloads() {
    for (rate, cap) in [("1MB/s", 1e6), ("300KB/s", 3e5), ("10MB/s", 1e7)] {
        for jobs in [1, 3] {
            for rtt_ms in [0, 40] {
                let values = [("max_background_download_bandwidth", rate)];
                let rtt = Duration::from_millis(rtt_ms);
                let (mut fleet, device) = device_with(&values, 0, rtt);
                (0..jobs).for_each(|n| get(&mut fleet.world, device, n, false));
                fleet.world.run_for(S * 9);
                let name = format!("{rate}, {jobs} downloads, {rtt_ms} ms");
                check(&name, &fleet, device, S * 2, S * 10, cap);
            }
        }
    }
}

#[test]
fn peers_count_towards_the_cap_of_the_class() {
    let values = [("max_foreground_download_bandwidth", "2MB/s")];
    let (mut fleet, device) = device_with(&values, 3, Duration::ZERO);
    let request = GetRequest {
        foreground: true,
        ..fleet.request()
    };
    let call = fleet.world.command(device, Command::Get(request));
    fleet.world.run_for(S * 20);
    check("peers", &fleet, device, S * 3, S * 21, 2e6);
    let done = |w: &World| w.reply(call).is_some();
    fleet.world.run_until(done, S * 60).unwrap();
    let Some(Reply::Got(Ok(report))) = fleet.world.reply(call) else {
        panic!("{:?}", fleet.world.reply(call));
    };
    assert!(report.received.lan > 90 * MIB, "{report:?}");
}

#[test]
fn what_is_given_to_peers_stays_at_its_cap() {
    for (rate, cap) in [("100KB/s", 1e5), ("300KB/s", 3e5), ("5MB/s", 5e6)] {
        for devices in [&["a"][..], &["a", "bb", "ccc"]] {
            let mut fleet = Fleet::new(1, 95 * MIB, 50_000_000);
            fleet.world.without_journal();
            let seed = fleet.agent(AgentConfig {
                settings: settings(&[("max_upload_bandwidth", rate)]),
                ..Fleet::config()
            });
            fleet.share(seed);
            fleet.world.run_for(S * 3);
            let hosts: Vec<HostId> = devices
                .iter()
                .map(|name| {
                    // What they gave each other would not be the seed's.
                    let config = AgentConfig {
                        share: false,
                        ..Fleet::config()
                    };
                    let host = metered(&mut fleet, name, config, Duration::from_millis(10));
                    let request = GetRequest {
                        require_peers: true,
                        ..fleet.request()
                    };
                    fleet.world.command(host, Command::Get(request));
                    host
                })
                .collect();
            fleet.world.run_for(S * 19);
            let devices = hosts
                .iter()
                .map(|host| fleet.world.machine::<Metered>(*host));
            let received: Vec<_> = devices.flat_map(|device| device.received.clone()).collect();
            let name = format!("{rate} to {}", hosts.len());
            // Their clocks began with them.
            check_windows(&name, &received, S * 2, S * 19, cap);
        }
    }
}

#[test]
fn a_percentage_is_of_the_line_and_spares_the_lan() {
    let values = [
        ("percentage_max_background_bandwidth", "10%"),
        ("downlink_bandwidth", "10MB/s"),
    ];
    let (mut fleet, device) = device_with(&values, 0, Duration::ZERO);
    get(&mut fleet.world, device, 0, false);
    fleet.world.run_for(S * 9);
    check("percentage", &fleet, device, S * 2, S * 10, 1e6);

    let (mut fleet, device) = device_with(&values, 3, Duration::ZERO);
    let request = fleet.request();
    let call = fleet.world.command(device, Command::Get(request));
    let done = |w: &World| w.reply(call).is_some();
    fleet.world.run_until(done, S * 60).unwrap();
    let took = fleet.world.now() - S;
    assert!(took < S * 10, "{took:?}: peers in the LAN are not capped");
}

#[test]
fn downloads_of_one_class_get_equal_shares() {
    let values = [("max_background_download_bandwidth", "3MB/s")];
    let (mut fleet, device) = device_with(&values, 0, Duration::ZERO);
    (0..3).for_each(|n| get(&mut fleet.world, device, n, false));
    fleet.world.run_for(S * 20);
    let disk = fleet.world.disk(device);
    let written: Vec<u64> = (0..3)
        .map(|n| {
            let path = format!("/data/{n}.bin.dovetail-part");
            let has = |at: &u64| {
                let bytes = disk.get_range(&path, at * MIB, 1024);
                bytes.is_some_and(|bytes| bytes.iter().any(|byte| *byte != 0))
            };
            (0..95).filter(has).count() as u64
        })
        .collect();
    let (least, most) = (written.iter().min().unwrap(), written.iter().max().unwrap());
    println!("MiB of each: {written:?}");
    assert!(*least >= 15 && most - least <= 3, "{written:?}");
}

#[test]
fn the_foreground_goes_first() {
    let (mut fleet, device) = device_with(&[], 0, Duration::ZERO);
    get(&mut fleet.world, device, 0, false);
    get(&mut fleet.world, device, 1, true);
    fleet.world.run_for(S * 60);
    let ends: Vec<u64> = (0..2)
        .map(|n| {
            let path = format!("/data/{n}.bin");
            assert!(
                fleet.world.disk(device).exists(&path),
                "{path} is not there"
            );
            let reply = |call| match fleet.world.reply(call) {
                Some(Reply::Got(Ok(report))) => report.elapsed_us,
                other => panic!("{other:?}"),
            };
            reply(dovetail_core::sim::Call {
                host: device,
                id: dovetail_core::ids::CallId(n + 1),
            })
        })
        .collect();
    // The line gives 50 MB/s: alone the foreground takes 2 s, both together 4 s.
    println!("background {} us, foreground {} us", ends[0], ends[1]);
    assert!(ends[1] < 2_700_000 && ends[0] > 3_500_000, "{ends:?}");
}

#[test]
fn what_is_one_too_many_waits_for_its_turn() {
    let values = [("max_background_jobs", "1")];
    let (mut fleet, device) = device_with(&values, 0, Duration::ZERO);
    (0..3).for_each(|n| get(&mut fleet.world, device, n, false));
    get(&mut fleet.world, device, 3, true);
    fleet.world.run_for(Duration::from_millis(500));
    let waiting = fleet.world.events(device).iter().filter_map(|event| {
        use dovetail_core::command::Event::Progress;
        match event {
            Progress { progress, .. } => progress.waiting.clone(),
            _ => None,
        }
    });
    let waiting: Vec<String> = waiting.collect();
    let text = "its turn has not come (max_background_jobs = 1)";
    assert_eq!(waiting, [text, text]);
    fleet.world.run_for(S * 60);
    for n in 0..3 {
        let path = format!("/data/{n}.bin");
        assert!(fleet.world.disk(device).exists(&path), "{path}");
    }
}
