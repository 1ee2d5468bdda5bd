//! Downloads that cannot be: no space, no right to write, damaged, asked for wrongly, without a source.
//!
//! Each is told in words that name the file and what to do, leaves nothing half done, and goes on once it is mended.
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
use dovetail_core::command::{GetRequest, Verified};
use dovetail_core::content::Digest;
use dovetail_core::coordinator::{Coordinator, CoordinatorConfig};
use dovetail_core::failure::FailureKind;
use dovetail_core::machine::{DiskErrorKind, Listener};
use dovetail_core::sim::origin::{Fault, FaultyOrigin, When};
use dovetail_core::sim::{DiskSpec, HostSpec};

// --- the disk says no

/// The disk refuses, the message says so, and once it is mended the download goes on.
fn refused(name: &str, spoil: impl Fn(&mut Scene), mend: impl Fn(&mut Scene), kept: u64) {
    for by_url in [false, true] {
        let mut scene = Scene::new(1);
        let request = scene.request(by_url);
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
            let request = scene.request(by_url);
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
        let base = scene.request(by_url);
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
        let request = scene.request(by_url);
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
        let request = scene.request(by_url);
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
        ..by_url()
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
        let request = scene.request(by_url);
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
        let request = scene.request(by_url);
        let report = scene.get(&request).unwrap();
        assert_eq!(report.length, 0);
        assert!(scene.disk().holds(FILE, b""));
    }
}
