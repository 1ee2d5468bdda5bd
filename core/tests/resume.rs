//! Downloads that are interrupted: killed at any moment, out of disk, damaged, asked for wrongly.
//!
//! After each interruption the same request goes on from what was verified and durable; the output has its
//! name only when it is complete; nothing that stood there is touched unasked.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod common;

use bytes::Bytes;
use common::{FILE, MIB, URL, metainfo};
use core::time::Duration;
use dovetail_core::agent::{Agent, AgentConfig};
use dovetail_core::command::{Command, Event, GetRequest, Reply, Report, Verified};
use dovetail_core::content::{Digest, Metainfo};
use dovetail_core::coordinator::{Coordinator, CoordinatorConfig};
use dovetail_core::failure::{Failure, FailureKind};
use dovetail_core::limits::{OPEN_BYTES_MAX, SYNC_AFTER_BYTES};
use dovetail_core::machine::{DiskErrorKind, Listener};
use dovetail_core::rng::Rng;
use dovetail_core::sim::origin::{Fault, FaultyOrigin, When};
use dovetail_core::sim::{Call, DiskSpec, HostId, HostSpec, Kill, PowerCut, World, seeds};
use std::sync::OnceLock;

const LENGTH: u64 = 6 * MIB + 77;
const RATE: u64 = 1_000_000;
const PART: &str = "/data/image.bin.dovetail-part";
const STATE: &str = "/data/image.bin.dovetail-state";
const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);

/// One device, one origin.
struct Scene {
    world: World,
    content: Bytes,
    metainfo: Metainfo,
    device: HostId,
    origin: HostId,
    config: AgentConfig,
}

impl Scene {
    fn new(seed: u64) -> Self {
        Self::with(seed, AgentConfig::default(), DiskSpec::default())
    }

    fn with(seed: u64, config: AgentConfig, disk: DiskSpec) -> Self {
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

    fn by_metainfo(&self) -> GetRequest {
        GetRequest {
            metainfo: Some(self.metainfo.encode().into()),
            output: FILE.into(),
            ..GetRequest::default()
        }
    }

    fn by_url() -> GetRequest {
        GetRequest {
            urls: vec![URL.into()],
            output: FILE.into(),
            ..GetRequest::default()
        }
    }

    fn start(&mut self, request: &GetRequest) -> Call {
        let command = Command::Get(request.clone());
        self.world.command(self.device, command)
    }

    fn result(&mut self, call: Call) -> Result<Report, Failure> {
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

    fn get(&mut self, request: &GetRequest) -> Result<Report, Failure> {
        let call = self.start(request);
        self.result(call)
    }

    fn good(&mut self, request: &GetRequest) -> Report {
        match self.get(request) {
            Ok(report) => self.check_good(report),
            Err(failure) => {
                self.print_log();
                panic!("{failure}")
            }
        }
    }

    /// The output is right and stands alone, and the counters add up.
    fn check_good(&mut self, report: Report) -> Report {
        let disk = self.world.disk(self.device);
        assert!(disk.holds(FILE, &self.content), "a bad byte was kept");
        let paths: Vec<&str> = disk.paths().collect();
        assert_eq!(paths, [FILE], "nothing else stays");
        assert_eq!(report.received.total() + report.resumed, LENGTH);
        report
    }

    fn stop(&mut self, call: Call) {
        let stop = self.world.command(self.device, Command::Stop(call.id));
        let stopped = |w: &World| w.reply(stop).is_some();
        self.world.run_until(stopped, MINUTE).expect("it stops");
    }

    fn kill(&mut self, how: Kill) {
        self.world.kill(self.device, how);
        assert!(
            !self.world.disk(self.device).exists(FILE),
            "named too early"
        );
    }

    fn restart(&mut self) {
        let seed = self.world.seed_for("device");
        let agent = Agent::new(self.config.clone(), seed).unwrap();
        self.world.restart(self.device, agent);
    }

    fn disk(&mut self) -> &mut dovetail_core::sim::Disk {
        self.world.disk(self.device)
    }

    fn served(&self) -> u64 {
        self.world.machine::<FaultyOrigin>(self.origin).served
    }

    fn origin(&mut self, act: impl FnOnce(&mut FaultyOrigin)) {
        self.world.with(self.origin, act);
    }

    fn says(&self, what: &str) -> bool {
        let mut events = self.world.events(self.device).iter();
        events.any(|e| matches!(e, Event::Log { text, .. } if text.contains(what)))
    }

    fn print_log(&self) {
        for event in self.world.events(self.device) {
            if let Event::Log { level, text } = event {
                println!("    {level:?} {text}");
            }
        }
    }
}

/// The file of all scenes, made once.
fn image() -> (Bytes, Metainfo) {
    static IMAGE: OnceLock<(Bytes, Metainfo)> = OnceLock::new();
    let make = || {
        let content = World::new(1).content("image.bin", LENGTH as usize);
        let metainfo = metainfo("image.bin", &content, &[URL]);
        (content, metainfo)
    };
    IMAGE.get_or_init(make).clone()
}

/// What one kill may cost: what was not synced yet, what was in memory, what was on the line.
const LOST_MAX: u64 = SYNC_AFTER_BYTES + OPEN_BYTES_MAX;

// --- kills

/// Run to each of these moments, kill, start again, and finish.
fn interrupted(scene: &mut Scene, request: &GetRequest, kills: &[(Duration, Kill)]) -> Report {
    for (after, how) in kills {
        let call = scene.start(request);
        scene.world.run_for(*after);
        if scene.world.reply(call).is_some() {
            break;
        }
        scene.kill(*how);
        scene.restart();
    }
    if scene.disk().exists(FILE) {
        let report = Report {
            output: FILE.into(),
            length: LENGTH,
            elapsed_us: 0,
            received: Default::default(),
            wasted: 0,
            resumed: LENGTH,
            peers: 0,
            verified: Verified::Length,
            sha256: None,
        };
        return scene.check_good(report);
    }
    scene.good(request)
}

#[test]
fn a_kill_at_any_moment_costs_only_what_was_not_durable() {
    // The first piece is there after 1.1 s; written pieces are recorded 2 s later.
    for by_url in [false, true] {
        for how in [Kill::Process, Kill::Power] {
            for at_ms in [
                0, 1, 5, 20, 100, 500, 1999, 2003, 2500, 4100, 5000, 6200, 6280, 6290, 6300,
            ] {
                let mut scene = Scene::new(at_ms);
                let request = if by_url {
                    Scene::by_url()
                } else {
                    scene.by_metainfo()
                };
                let at = MS * at_ms as u32;
                let report = interrupted(&mut scene, &request, &[(at, how)]);
                let synced = at_ms.saturating_sub(1100) / 2300 * 2 * MIB;
                assert!(report.resumed >= synced, "{at_ms} {how:?}: {report:?}");
                let served = scene.served();
                assert!(
                    served <= LENGTH + 2 * RATE + 2 * MIB,
                    "{at_ms} {how:?}: {served}"
                );
            }
        }
    }
}

#[test]
fn killed_again_and_again_by_lot() {
    for seed in seeds(1..=30) {
        let mut rng = Rng::from_u64(seed);
        let power_cut = [
            PowerCut::LosesUnsynced,
            PowerCut::KeepsSome,
            PowerCut::KeepsAll,
        ];
        let disk = DiskSpec {
            power_cut: power_cut[rng.below(3) as usize],
            jitter: MS * rng.below(30) as u32,
            sync: MS * rng.below(200) as u32,
            ..DiskSpec::default()
        };
        let mut scene = Scene::with(seed, AgentConfig::default(), disk);
        let request = match rng.below(3) {
            0 => Scene::by_url(),
            1 => GetRequest {
                sha256: Some(Digest::of(&scene.content)),
                ..scene.by_metainfo()
            },
            _ => scene.by_metainfo(),
        };
        let kills: Vec<(Duration, Kill)> = (0..rng.below(5) + 1)
            .map(|_| {
                let how = if rng.below(2) == 0 {
                    Kill::Process
                } else {
                    Kill::Power
                };
                (Duration::from_micros(rng.below(5_000_000)), how)
            })
            .collect();
        interrupted(&mut scene, &request, &kills);
        let served = scene.served();
        let lost = LOST_MAX.min(4 * RATE + MIB) * kills.len() as u64;
        assert!(
            served <= LENGTH + lost,
            "seed {seed}: {served} after {kills:?}"
        );
    }
}

#[test]
fn killed_at_every_step_of_the_end() {
    let mut scene = Scene::new(1);
    let request = scene.by_metainfo();
    let call = scene.start(&request);
    let whole = |w: &World| w.reply(call).is_some();
    scene.world.run_until(whole, MINUTE).unwrap();
    let end = scene.world.now();
    for before_us in (0..6000).step_by(150) {
        for how in [Kill::Process, Kill::Power] {
            let mut scene = Scene::new(1);
            let call = scene.start(&request);
            let before = Duration::from_micros(before_us);
            scene.world.run_for(end - before);
            let answered = scene.world.reply(call).is_some();
            scene.world.kill(scene.device, how);
            let content = scene.content.clone();
            let named = scene.disk().exists(FILE);
            assert!(
                !named || scene.disk().holds(FILE, &content),
                "{before_us} {how:?}"
            );
            assert!(named || !answered, "answered before it was durable");
            if named {
                continue;
            }
            scene.restart();
            assert!(
                scene.good(&request).resumed >= LENGTH / 4,
                "{before_us} {how:?}"
            );
        }
    }
}

#[test]
fn an_agent_that_shares_resumes_too() {
    let config = AgentConfig {
        share: true,
        ..AgentConfig::default()
    };
    let mut scene = Scene::with(1, config, DiskSpec::default());
    let request = scene.by_metainfo();
    let report = interrupted(&mut scene, &request, &[(MS * 3500, Kill::Process)]);
    assert!(report.resumed >= RATE);
}

// --- stop

#[test]
fn stopped_and_asked_again_it_goes_on() {
    for by_url in [false, true] {
        let mut scene = Scene::new(1);
        let request = if by_url {
            Scene::by_url()
        } else {
            scene.by_metainfo()
        };
        let call = scene.start(&request);
        scene.world.run_for(MS * 1500);
        scene.stop(call);
        let failure = scene.result(call).expect_err("it was stopped");
        assert_eq!(failure.kind, FailureKind::Interrupted);
        assert!(scene.disk().exists(PART) && scene.disk().exists(STATE));
        assert!(!scene.disk().exists(FILE));
        assert_eq!(scene.disk().open_files(), 0, "no file stays open");
        let report = scene.good(&request);
        // Everything whole was recorded before the stop was answered.
        assert!(report.resumed >= RATE, "{report:?}");
    }
}

#[test]
fn shutdown_makes_everything_durable() {
    let mut scene = Scene::new(1);
    let request = scene.by_metainfo();
    let call = scene.start(&request);
    scene.world.run_for(MS * 1500);
    let down = scene.world.command(scene.device, Command::Shutdown);
    let stopped = |w: &World| w.reply(down).is_some();
    scene.world.run_until(stopped, MINUTE).unwrap();
    assert!(
        matches!(scene.world.reply(call), Some(Reply::Got(Err(f))) if f.kind == FailureKind::Interrupted)
    );
    scene.kill(Kill::Power);
    scene.restart();
    assert!(scene.good(&request).resumed >= RATE);
}

#[test]
fn two_downloads_of_one_output_are_refused() {
    let mut scene = Scene::new(1);
    let request = scene.by_metainfo();
    let first = scene.start(&request);
    scene.world.run_for(MS * 500);
    let failure = scene.get(&request).expect_err("it is taken");
    assert_eq!(failure.kind, FailureKind::Exists);
    let report = scene.result(first).unwrap();
    scene.check_good(report);
}

// --- what stands there

#[test]
fn an_existing_output_is_left_alone_unless_asked() {
    let mut scene = Scene::new(1);
    let mine = Bytes::from_static(b"mine");
    scene.disk().put(FILE, mine.clone());
    let failure = scene.get(&scene.by_metainfo()).expect_err("it exists");
    assert_eq!(failure.kind, FailureKind::Exists);
    assert!(scene.disk().holds(FILE, &mine));
    assert_eq!((scene.served(), scene.disk().paths().count()), (0, 1));
    let request = GetRequest {
        overwrite: true,
        ..scene.by_metainfo()
    };
    scene.good(&request);
}

#[test]
fn an_output_that_appears_meanwhile_is_left_alone() {
    let mut scene = Scene::new(1);
    let request = scene.by_metainfo();
    let call = scene.start(&request);
    scene.world.run_for(MS * 500);
    let mine = Bytes::from_static(b"mine");
    scene.disk().put(FILE, mine.clone());
    let failure = scene.result(call).expect_err("it exists");
    assert_eq!(failure.kind, FailureKind::Exists);
    assert!(scene.disk().holds(FILE, &mine));
    // What was fetched is not lost: without the other file it is done at once.
    scene.world.run_for(MS * 3000);
    assert!(scene.disk().remove(FILE));
    let report = scene.good(&request);
    assert_eq!(report.resumed, LENGTH, "{report:?}");
}

#[test]
fn what_is_overwritten_stands_until_the_new_file_is_whole() {
    let mut scene = Scene::new(1);
    let mine = Bytes::from_static(b"mine");
    scene.disk().put(FILE, mine.clone());
    let request = GetRequest {
        overwrite: true,
        ..scene.by_metainfo()
    };
    scene.start(&request);
    scene.world.run_for(MS * 4000);
    scene.world.kill(scene.device, Kill::Power);
    assert!(scene.disk().holds(FILE, &mine));
    scene.restart();
    assert!(scene.good(&request).resumed > 0);
}

#[test]
fn a_folder_is_not_overwritten() {
    let mut scene = Scene::new(1);
    scene
        .disk()
        .put("/data/image.bin/x", Bytes::from_static(b"x"));
    let request = GetRequest {
        overwrite: true,
        ..scene.by_metainfo()
    };
    let failure = scene.get(&request).expect_err("a folder");
    assert_eq!(failure.kind, FailureKind::Usage);
}

// --- what an earlier run left

#[test]
fn a_damaged_part_file_is_fetched_again_where_it_is_damaged() {
    let mut scene = Scene::new(1);
    let request = scene.by_metainfo();
    let call = scene.start(&request);
    scene.world.run_for(MS * 5000);
    scene.stop(call);
    let mut part = scene.disk().get(PART).unwrap().to_vec();
    for piece in [0, 2] {
        part[piece * MIB as usize + 99] ^= 1;
    }
    scene.disk().put(PART, part.into());
    let before = scene.served();
    let report = scene.good(&request);
    assert!(report.resumed >= 2 * MIB, "{report:?}");
    assert!(scene.served() - before <= LENGTH - report.resumed + MIB);
}

#[test]
fn a_resume_file_that_makes_no_sense_is_passed_over() {
    let garbage: [&[u8]; 5] = [b"", b"\0\xff", b"{}", b"{\"dovetail_resume\":1}", b"[[[[[["];
    for bytes in garbage {
        let mut scene = Scene::new(1);
        scene.disk().put(STATE, Bytes::from_static(bytes));
        scene.disk().put(PART, vec![7; LENGTH as usize].into());
        let report = scene.good(&scene.by_metainfo());
        assert_eq!(report.resumed, 0);
    }
}

#[test]
fn a_part_file_that_is_gone_or_of_another_length_is_begun_anew() {
    for replacement in [
        None,
        Some(0),
        Some(LENGTH as usize - 1),
        Some(2 * LENGTH as usize),
    ] {
        let mut scene = Scene::new(1);
        let request = scene.by_metainfo();
        let call = scene.start(&request);
        scene.world.run_for(MS * 3000);
        scene.stop(call);
        match replacement {
            None => assert!(scene.disk().remove(PART)),
            Some(len) => scene.disk().put(PART, vec![7; len].into()),
        }
        assert_eq!(scene.good(&request).resumed, 0);
    }
}

#[test]
fn another_file_under_the_same_name_does_not_resume() {
    let mut scene = Scene::new(1);
    let request = scene.by_metainfo();
    let call = scene.start(&request);
    scene.world.run_for(MS * 3000);
    scene.stop(call);
    let other = scene.world.content("other", LENGTH as usize);
    scene.origin(|o| o.set_content("*", other.clone()));
    scene.metainfo = metainfo("image.bin", &other, &[URL]);
    scene.content = other;
    assert_eq!(scene.good(&scene.by_metainfo()).resumed, 0);
}

#[test]
fn a_file_that_changed_between_runs_is_not_spliced() {
    for how in [Kill::Process, Kill::Power] {
        let mut scene = Scene::new(1);
        let request = Scene::by_url();
        scene.start(&request);
        scene.world.run_for(MS * 4500);
        scene.kill(how);
        let other = scene.world.content("other", LENGTH as usize);
        scene.origin(|o| o.set_content("*", other.clone()));
        scene.content = other;
        scene.restart();
        let report = scene.good(&request);
        assert_eq!(report.resumed, 0, "{report:?}");
    }
}

#[test]
fn without_a_validator_nothing_is_resumed_by_url() {
    let mut scene = Scene::new(1);
    scene.origin(|o| o.add_fault(When::Always, Fault::NoValidators));
    let request = Scene::by_url();
    let report = interrupted(&mut scene, &request, &[(MS * 4500, Kill::Process)]);
    assert_eq!(report.resumed, 0);
}

#[test]
fn a_run_by_metainfo_does_not_trust_what_a_run_by_url_left() {
    let mut scene = Scene::new(1);
    let call = scene.start(&Scene::by_url());
    scene.world.run_for(MS * 4500);
    scene.stop(call);
    assert_eq!(scene.good(&scene.by_metainfo()).verified, Verified::Merkle);
}

// --- the disk says no

/// The disk refuses, the message says so, and once it is mended the download goes on.
fn refused(name: &str, spoil: impl Fn(&mut Scene), mend: impl Fn(&mut Scene), kept: u64) {
    for by_url in [false, true] {
        let mut scene = Scene::new(1);
        let request = if by_url {
            Scene::by_url()
        } else {
            scene.by_metainfo()
        };
        let call = scene.start(&request);
        spoil(&mut scene);
        let failure = scene.result(call).expect_err(name);
        assert_eq!(failure.kind, FailureKind::Disk, "{name}: {failure}");
        assert!(
            failure.what.contains(FILE) && !failure.remedy.is_empty(),
            "{name}: {failure}"
        );
        assert!(!scene.disk().exists(FILE));
        scene.world.run_for(MS * 5000);
        assert_eq!(
            scene.world.outstanding(scene.device),
            (0, 0),
            "{name}: all is closed"
        );
        mend(&mut scene);
        let report = scene.good(&request);
        assert!(report.resumed >= kept, "{name}: {report:?}");
    }
}

#[test]
fn a_full_disk_is_told_before_anything_is_fetched() {
    let full = |s: &mut Scene| s.disk().faults.full_after = Some(3 * MIB);
    let mend = |s: &mut Scene| s.disk().faults.full_after = None;
    refused("full", full, mend, 0);
    let mut scene = Scene::new(1);
    full(&mut scene);
    scene.get(&scene.by_metainfo()).expect_err("full");
    assert_eq!(scene.served(), 0);
}

#[test]
fn a_disk_that_fails_in_the_middle_keeps_what_was_good() {
    for kind in [
        DiskErrorKind::Full,
        DiskErrorKind::ReadOnly,
        DiskErrorKind::Denied,
    ] {
        let spoil = |s: &mut Scene| {
            s.world.run_for(MS * 4500);
            s.disk().faults.fail_next.push_back(kind);
        };
        refused("fails once", spoil, |_| {}, RATE);
    }
}

#[test]
fn a_disk_that_turns_read_only_is_told() {
    let spoil = |s: &mut Scene| {
        s.world.run_for(MS * 4500);
        s.disk().faults.read_only = true;
    };
    refused(
        "read-only",
        spoil,
        |s| s.disk().faults.read_only = false,
        RATE,
    );
}

#[test]
fn a_folder_one_may_not_write_to_is_told() {
    let paths = [PART, STATE];
    let spoil = |s: &mut Scene| s.disk().faults.deny.extend(paths.map(String::from));
    refused("denied", spoil, |s| s.disk().faults.deny.clear(), 0);
    let spoil = |s: &mut Scene| s.disk().require_folders(&["/elsewhere"]);
    refused(
        "no folder",
        spoil,
        |s| s.disk().require_folders(&["/data"]),
        0,
    );
}

#[test]
fn every_single_failing_operation_ends_in_an_answer() {
    for by_url in [false, true] {
        for step in 0..40_u32 {
            let mut scene = Scene::new(1);
            let request = if by_url {
                Scene::by_url()
            } else {
                scene.by_metainfo()
            };
            let call = scene.start(&request);
            scene.world.run_for(MS * 170 * step);
            scene
                .disk()
                .faults
                .fail_next
                .push_back(DiskErrorKind::Other);
            let failed = scene.result(call);
            scene.world.run_for(MS * 3000);
            assert_eq!(scene.world.outstanding(scene.device), (0, 0), "{step}");
            scene.disk().faults.fail_next.clear();
            match failed {
                Ok(report) => drop(scene.check_good(report)),
                Err(_) => drop(scene.good(&request)),
            }
        }
    }
}

/// What the disk takes after it refused something else is still recorded, and nothing is waited for that cannot come.
#[test]
fn writes_that_end_after_a_failed_one_are_kept() {
    let mut late = 0;
    for step in 1..24 {
        let mut scene = Scene::new(1);
        scene.origin(|origin| origin.rate_bytes_per_s = 100 * MIB);
        scene.disk().faults.stall = MS * 200;
        let request = scene.by_metainfo();
        let call = scene.start(&request);
        scene.world.run_for(MS * 50 * step);
        scene.disk().faults.fail_next.push_back(DiskErrorKind::Full);
        if scene.result(call).is_ok() {
            continue;
        }
        let steps = scene.world.steps();
        scene.world.run_for(MS * 60_000);
        assert_eq!(scene.world.outstanding(scene.device), (0, 0), "{step}");
        assert!(scene.world.steps() - steps < 200, "{step}: it spins");
        scene.disk().faults.fail_next.clear();
        late += u32::from(scene.good(&request).resumed > 0);
    }
    assert!(late > 0, "no write was under way when another failed");
}

// --- asked for wrongly

#[test]
fn a_wrong_sha256_is_told_and_nothing_is_named() {
    for by_url in [false, true] {
        let mut scene = Scene::new(1);
        let base = if by_url {
            Scene::by_url()
        } else {
            scene.by_metainfo()
        };
        let wrong = GetRequest {
            sha256: Some(Digest::of(b"another file")),
            ..base.clone()
        };
        let failure = scene.get(&wrong).expect_err("it is another file");
        assert_eq!(failure.kind, FailureKind::Mismatch);
        assert!(
            failure
                .why
                .contains(&Digest::of(&scene.content).to_string()),
            "{failure}"
        );
        assert!(!scene.disk().exists(FILE) && scene.disk().exists(PART));
        scene.world.run_for(MS * 3000);
        // With the right one nothing is fetched again.
        let right = GetRequest {
            sha256: Some(Digest::of(&scene.content)),
            ..base
        };
        let served = scene.served();
        let report = scene.good(&right);
        assert_eq!(
            (report.verified, report.resumed),
            (Verified::Sha256, LENGTH)
        );
        assert_eq!(report.sha256, right.sha256);
        assert!(
            scene.served() - served <= MIB,
            "{}",
            scene.served() - served
        );
    }
}

#[test]
fn a_malformed_metainfo_is_told() {
    let whole: Bytes = Scene::new(1).metainfo.encode().into();
    for bytes in [
        Bytes::new(),
        Bytes::from_static(b"<html>"),
        whole.slice(..whole.len() - 1),
        whole.slice(1..),
    ] {
        let mut scene = Scene::new(1);
        let request = GetRequest {
            metainfo: Some(bytes),
            ..scene.by_metainfo()
        };
        let failure = scene.get(&request).expect_err("malformed");
        assert_eq!(failure.kind, FailureKind::Usage);
        assert!(!scene.disk().exists(FILE));
    }
}

#[test]
fn nothing_stays_of_a_download_that_never_got_a_byte() {
    let refuse = Fault::Status {
        status: 404,
        retry_after_s: None,
    };
    for by_url in [false, true] {
        let mut scene = Scene::new(1);
        scene.origin(|o| o.add_fault(When::Always, refuse.clone()));
        let request = if by_url {
            Scene::by_url()
        } else {
            scene.by_metainfo()
        };
        scene.get(&request).unwrap_err();
        scene.world.run_for(MINUTE);
        assert_eq!(scene.disk().paths().count(), 0, "by URL: {by_url}");
        // What an earlier run left is not this run's to remove.
        scene.origin(FaultyOrigin::clear_faults);
        let call = scene.start(&request);
        scene.world.run_for(Duration::from_secs(5));
        scene.stop(call);
        scene.origin(|o| o.add_fault(When::Always, refuse.clone()));
        scene.get(&request).unwrap_err();
        scene.world.run_for(MINUTE);
        assert!(scene.disk().exists(PART), "by URL: {by_url}");
        scene.origin(FaultyOrigin::clear_faults);
        assert!(scene.good(&request).resumed >= MIB);
    }
}

/// Nobody else can have the file: a few tries tell, a minute would tell no more. Once bytes have come it is worth waiting.
#[test]
fn an_only_origin_that_never_delivers_is_given_up_soon() {
    let broken = Fault::Status {
        status: 500,
        retry_after_s: None,
    };
    let breaks_off = Fault::Truncate { after: 2 * MIB };
    for (by_url, good_requests) in [(false, 0), (true, 0), (false, 1), (true, 1)] {
        let mut scene = Scene::new(1);
        let request = if by_url {
            Scene::by_url()
        } else {
            scene.by_metainfo()
        };
        scene.origin(|o| {
            o.add_fault(When::Requests(0..good_requests), breaks_off.clone());
            o.add_fault(When::Requests(good_requests..u64::MAX), broken.clone());
        });
        let failure = scene.get(&request).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unavailable);
        let waited = scene.world.now();
        let expected = match good_requests {
            0 => Duration::ZERO..Duration::from_secs(8),
            _ => MINUTE..2 * MINUTE,
        };
        assert!(
            expected.contains(&waited),
            "{by_url} {good_requests}: {waited:?}"
        );
    }
}

/// The record that comes while HTTP is at work is right, and what HTTP had brought is not.
#[test]
fn what_a_late_record_contradicts_is_fetched_again() {
    let config = AgentConfig {
        coordinator: Some("http://coordinator".into()),
        ..AgentConfig::default()
    };
    let mut scene = Scene::with(1, config, DiskSpec::default());
    let allowing = CoordinatorConfig {
        allow: vec!["origin".parse().unwrap()],
        ..CoordinatorConfig::default()
    };
    let spec = HostSpec::at("10.0.0.9").listen(Listener::Http, 80);
    let coordinator = Coordinator::new(allowing, [2; 32]);
    let coordinator = scene.world.host("coordinator", coordinator, spec);
    scene.world.name("coordinator", coordinator);
    // The coordinator asks first, and hears the truth.
    let lie = Fault::Lie { file: MIB..MIB + 9 };
    scene.origin(|o| o.add_fault(When::Requests(1..2), lie));
    let request = GetRequest {
        limit_bytes_per_s: RATE / 4,
        ..Scene::by_url()
    };
    let report = scene.good(&request);
    assert_eq!(report.verified, Verified::Merkle);
    assert_eq!(report.received.origin, LENGTH);
    assert!(report.wasted >= MIB, "the piece with the lie: {report:?}");
}

#[test]
fn without_any_source_it_fails() {
    let mut scene = Scene::new(1);
    let nothing = GetRequest {
        output: FILE.into(),
        ..GetRequest::default()
    };
    assert_eq!(scene.get(&nothing).unwrap_err().kind, FailureKind::Usage);
    let nobody = GetRequest {
        require_peers: true,
        ..scene.by_metainfo()
    };
    assert_eq!(
        scene.get(&nobody).unwrap_err().kind,
        FailureKind::Unavailable
    );
    let nonsense = GetRequest {
        urls: vec!["ht!tp:/x".into()],
        ..nothing
    };
    assert_eq!(scene.get(&nonsense).unwrap_err().kind, FailureKind::Usage);
    assert!(!scene.disk().exists(FILE));
}

#[test]
fn an_unreachable_coordinator_does_not_stop_a_download() {
    for by_url in [false, true] {
        let config = AgentConfig {
            coordinator: Some("http://nowhere:1".into()),
            ..AgentConfig::default()
        };
        let mut scene = Scene::with(1, config, DiskSpec::default());
        let request = if by_url {
            Scene::by_url()
        } else {
            scene.by_metainfo()
        };
        let report = scene.good(&request);
        assert_eq!(report.received.origin, LENGTH);
        assert!(scene.says("the coordinator does not answer"));
        assert!(report.elapsed_us < 15_000_000, "{report:?}");
    }
}

#[test]
fn an_empty_file_is_a_file() {
    for by_url in [false, true] {
        let mut scene = Scene::new(1);
        scene.origin(|o| o.set_content("*", Bytes::new()));
        scene.metainfo = metainfo("image.bin", &Bytes::new(), &[URL]);
        let request = if by_url {
            Scene::by_url()
        } else {
            scene.by_metainfo()
        };
        let report = scene.get(&request).unwrap();
        assert_eq!(report.length, 0);
        assert!(scene.disk().holds(FILE, b""));
    }
}
