//! Downloads that are interrupted: killed at any moment, stopped, or begun where something stands already.
//!
//! After each interruption the same request goes on from what was verified and durable; the output has its
//! name only when it is complete; nothing that stood there is touched unasked. What goes wrong is in `trouble.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod common;

use bytes::Bytes;
use common::scene::{LENGTH, MINUTE, MS, PART, RATE, STATE, Scene};
use common::{FILE, MIB, URL, by_url, metainfo};
use core::time::Duration;
use dovetail_core::agent::AgentConfig;
use dovetail_core::command::{Command, GetRequest, Reply, Report, Verified};
use dovetail_core::content::Digest;
use dovetail_core::failure::FailureKind;
use dovetail_core::limits::{OPEN_BYTES_MAX, SYNC_AFTER_BYTES};
use dovetail_core::rng::Rng;
use dovetail_core::sim::origin::{Fault, When};
use dovetail_core::sim::{DiskSpec, Kill, PowerCut, World, seeds};

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
                let request = scene.request(by_url);
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
            0 => by_url(),
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
        let request = scene.request(by_url);
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
        let request = by_url();
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
    let request = by_url();
    let report = interrupted(&mut scene, &request, &[(MS * 4500, Kill::Process)]);
    assert_eq!(report.resumed, 0);
}

#[test]
fn a_run_by_metainfo_does_not_trust_what_a_run_by_url_left() {
    let mut scene = Scene::new(1);
    let call = scene.start(&by_url());
    scene.world.run_for(MS * 4500);
    scene.stop(call);
    assert_eq!(scene.good(&scene.by_metainfo()).verified, Verified::Merkle);
}
