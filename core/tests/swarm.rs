//! Downloads in virtual time: alone, with peers, with many peers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::{Fleet, MIB, by_url, crowd, settings};
use core::time::Duration;
use dovetail_core::agent::AgentConfig;
use dovetail_core::command::{GetRequest, Reply, Verified};
use dovetail_core::coordinator::CoordinatorConfig;
use dovetail_core::sim::seeds;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn alone_over_http_with_nothing_known() {
    let mut fleet = Fleet::new(1, 20 * MIB + 12345, 50_000_000);
    let host = fleet.agent(AgentConfig::default());
    fleet.get(host, by_url());
    fleet.finish(MINUTE);
    let reports = fleet.check_outputs();
    assert_eq!(reports[0].verified, Verified::Length);
    assert_eq!(reports[0].received.origin, fleet.content.len() as u64);
}

#[test]
fn five_agents_share_what_the_origin_gives_once() {
    let mut fleet = Fleet::new(2, 64 * MIB, 20_000_000);
    fleet.agents(5);
    fleet.all_get();
    fleet.finish(5 * MINUTE);
    let reports = fleet.check_outputs();
    let copies = fleet.origin_copies(&reports);
    let last = reports.iter().map(|r| r.elapsed_us).max().unwrap() as f64 / 1e6;
    let bound = 64.0 * 1.048576 / 20.0;
    println!("copies {copies:.2}, last {last:.2} s, bound {bound:.2} s");
    assert!(copies <= 1.1, "{copies}");
    assert!(last <= 1.25 * bound, "{last}");
}

#[test]
fn a_seed_alone_feeds_five_without_any_origin() {
    let mut fleet = Fleet::new(3, 32 * MIB, 20_000_000);
    let seed = fleet.agent(Fleet::config());
    fleet.share(seed);
    fleet.world.run_for(Duration::from_secs(2));
    fleet.agents(5);
    for host in fleet.agents.clone().into_iter().skip(1) {
        let request = GetRequest {
            require_peers: true,
            ..fleet.request()
        };
        fleet.get(host, request);
    }
    fleet.finish(5 * MINUTE);
    let reports = fleet.check_outputs();
    assert_eq!(reports.iter().map(|r| r.received.origin).sum::<u64>(), 0);
    assert!(
        reports
            .iter()
            .all(|r| r.received.peers() == 32 * MIB && r.verified == Verified::Merkle)
    );
}

#[test]
fn checking_a_shared_file_for_long_keeps_the_agent_calm() {
    // At a gigabyte a second this takes several of the times at which a download would tell its progress;
    // the world panics if a machine wants to be called again and again meanwhile.
    let mut fleet = Fleet::new(4, 512 * MIB, 125_000_000);
    let seed = fleet.agent(Fleet::config());
    let call = fleet.share(seed);
    fleet.world.run_for(Duration::from_secs(5));
    assert!(matches!(
        fleet.world.reply(call),
        Some(Reply::Shared(Ok(())))
    ));
}

#[test]
fn devices_that_ask_before_anybody_knows_the_file_share_it_once_the_coordinator_does() {
    // The coordinator, close to the origin, hashes its file in some ten seconds; meanwhile the devices behind their
    // lines of 10 Mbit/s go on over HTTP. What they have by then counts.
    let config = CoordinatorConfig {
        allow: vec!["origin".parse().unwrap()],
        ..CoordinatorConfig::default()
    };
    for seed in seeds(1..=3) {
        let mut fleet = Fleet::coordinated(seed, 64 * MIB, 20_000_000, config.clone());
        fleet.links = dovetail_core::sim::LinkSpec::rate(1_250_000);
        fleet.agents(10);
        for host in fleet.agents.clone() {
            fleet.get(host, by_url());
        }
        fleet.finish(10 * MINUTE);
        let reports = fleet.check_outputs();
        let copies = fleet.origin_copies(&reports);
        let last_s = reports.iter().map(|r| r.elapsed_us).max().unwrap() as f64 / 1e6;
        let alone_s = 64.0 * 1.048576 / 1.25;
        println!("seed {seed}: {copies:.2} copies, last after {last_s:.1} s, alone {alone_s:.1} s");
        assert!(
            copies <= 6.0 && last_s <= 1.45 * alone_s,
            "{copies} {last_s}"
        );
        for report in &reports {
            assert_eq!(report.verified, Verified::Merkle);
            assert_eq!(
                report.received.total(),
                report.length,
                "each byte counted once"
            );
        }
    }
}

#[test]
fn thirty_agents_come_near_the_bound_and_share_one_copy() {
    for seed in seeds(1..=3) {
        let (ratio, copies) = crowd(seed, 30, 64 * MIB);
        // Half a second to meet everybody counts for much here. Where every line is full, uploads also give way to each
        // other: without that it would be 1.45.
        assert!(ratio <= 1.75 && copies <= 1.15, "{ratio} {copies}");
    }
}

/// Twenty seeds: `cargo bench -p dovetail-benches --bench crowd`.
#[test]
fn a_hundred_agents_come_near_the_bound_and_share_one_copy() {
    for seed in seeds([1]) {
        let (ratio, copies) = crowd(seed, 100, 256 * MIB);
        assert!(ratio <= 1.7 && copies <= 1.1, "{ratio} {copies}");
    }
}

#[test]
fn many_slow_peers_add_up() {
    // Twenty seeds that give half a megabyte a second each: a single one would take two minutes.
    let mut fleet = Fleet::new(5, 64 * MIB, 12_500_000);
    for _ in 0..20 {
        let seed = fleet.agent(AgentConfig {
            settings: settings(&[("max_upload_bandwidth", "500KB/s")]),
            ..Fleet::config()
        });
        fleet.share(seed);
    }
    fleet.world.run_for(Duration::from_secs(5));
    let host = fleet.agent(Fleet::config());
    let request = GetRequest {
        require_peers: true,
        ..fleet.request()
    };
    let call = fleet.get(host, request);
    fleet.finish(5 * MINUTE);
    let took_s = fleet.result(call).unwrap().elapsed_us as f64 / 1e6;
    let best_s = 64.0 * 1.048576 / 10.0;
    println!("{took_s:.1} s, at best {best_s:.1} s");
    assert!(took_s <= 1.25 * best_s, "{took_s}");
}
