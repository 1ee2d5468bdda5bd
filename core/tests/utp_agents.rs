//! Whole agents whose sessions run over uTP: where TCP does not get through, and where it is not wanted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::{FILE, Fleet, MIB, settings};
use core::time::Duration;
use dovetail_core::agent::{Agent, AgentConfig};
use dovetail_core::command::GetRequest;
use dovetail_core::machine::Listener;
use dovetail_core::sim::{HostId, HostSpec, Kill, LinkSpec};

const MINUTE: Duration = Duration::from_secs(60);

fn config(transport: &str) -> AgentConfig {
    AgentConfig {
        settings: settings(&[
            ("min_file_size_to_peer", "0B"),
            ("peer_transport", transport),
        ]),
        ..Fleet::config()
    }
}

/// An agent whose host lets no TCP in.
fn shut_in(fleet: &mut Fleet, transport: &str, links: LinkSpec) -> HostId {
    let n = fleet.agents.len();
    let spec = HostSpec::at(&format!("10.0.9.{}", n + 1))
        .listen(Listener::Peers, 7680)
        .links(links, links)
        .drops_streams();
    let name = format!("shut{n}");
    let seed = fleet.world.seed_for(&name);
    let agent = Agent::new(config(transport), seed).unwrap();
    let host = fleet.world.host(&name, agent, spec);
    fleet.agents.push(host);
    host
}

fn from_peers(fleet: &Fleet) -> GetRequest {
    GetRequest {
        require_peers: true,
        ..fleet.request()
    }
}

fn datagrams(fleet: &Fleet, host: HostId) -> u64 {
    fleet.world.traffic(host).0.datagrams
}

/// A seed that TCP does not reach, and somebody who wants what it has.
fn seed_and_one(seed: u64, transport: &str, links: LinkSpec) -> Fleet {
    let mut fleet = Fleet::new(seed, 16 * MIB, 20_000_000);
    fleet.links = links;
    let host = shut_in(&mut fleet, "auto", links);
    fleet.share(host);
    fleet.world.run_for(Duration::from_secs(2));
    let other = fleet.agent(config(transport));
    let request = from_peers(&fleet);
    fleet.get(other, request);
    fleet
}

#[test]
fn what_tcp_does_not_reach_is_reached_over_utp() {
    for transport in ["auto", "utp"] {
        let mut fleet = seed_and_one(1, transport, LinkSpec::LAN);
        fleet.finish(MINUTE);
        let reports = fleet.check_outputs();
        assert_eq!(reports[0].received.lan, 16 * MIB);
        // 16 MiB at 1 Gbit/s, a head start for TCP, the coordinator's and the origin's answers.
        assert!(reports[0].elapsed_us < 2_000_000, "{reports:?}");
    }
    let mut fleet = seed_and_one(1, "tcp", LinkSpec::LAN);
    let call = fleet.calls[0];
    let outcome = fleet
        .world
        .run_until(|w| w.reply(call).is_some(), 3 * MINUTE);
    assert!(outcome.is_err() || fleet.result(call).is_err());
}

#[test]
fn a_lossy_long_line_is_crossed() {
    let far = LinkSpec::rate(2_500_000)
        .delay(Duration::from_millis(20))
        .loss_ppm(5_000);
    let mut fleet = seed_and_one(2, "auto", far);
    fleet.finish(5 * MINUTE);
    fleet.check_outputs();
}

#[test]
fn a_line_that_marks_is_shared_without_losses() {
    let line = LinkSpec::rate(2_500_000).delay(Duration::from_millis(10));
    let line = line.marks_after(Duration::from_millis(3));
    let mut fleet = seed_and_one(3, "utp", LinkSpec::LAN);
    fleet.world.set_links(fleet.agents[1], line, line);
    fleet.finish(MINUTE);
    let reports = fleet.check_outputs();
    let down = fleet.world.traffic(fleet.agents[1]).1;
    println!(
        "{} marked of {}, {} us",
        down.marked, down.packets, reports[0].elapsed_us
    );
    assert!(down.marked > 0 && down.dropped == 0);
    assert!(reports[0].elapsed_us < 10_000_000);
}

#[test]
fn tcp_is_taken_where_it_gets_through() {
    let mut fleet = Fleet::new(3, 16 * MIB, 20_000_000);
    let seed = fleet.agent(config("auto"));
    fleet.share(seed);
    fleet.world.run_for(Duration::from_secs(2));
    let other = fleet.agent(config("auto"));
    let request = from_peers(&fleet);
    fleet.get(other, request);
    fleet.finish(MINUTE);
    fleet.check_outputs();
    assert_eq!((datagrams(&fleet, seed), datagrams(&fleet, other)), (0, 0));
}

#[test]
fn ten_share_over_utp_alone() {
    let mut fleet = Fleet::new(4, 32 * MIB, 20_000_000);
    for _ in 0..10 {
        fleet.agent(config("utp"));
    }
    fleet.all_get();
    fleet.finish(5 * MINUTE);
    let reports = fleet.check_outputs();
    let copies = fleet.origin_copies(&reports);
    let last = reports.iter().map(|r| r.elapsed_us).max().unwrap() as f64 / 1e6;
    let bound = 32.0 * 1.048576 / 20.0;
    println!("copies {copies:.2}, last {last:.2} s, bound {bound:.2} s");
    assert!(copies <= 1.15, "{copies}");
    assert!(last <= 1.6 * bound, "{last} {bound}");
    for host in fleet.agents.clone() {
        assert!(datagrams(&fleet, host) > 0);
        fleet.world.machine::<Agent>(host);
    }
}

#[test]
fn a_seed_that_dies_and_comes_back_is_found_again() {
    let line = LinkSpec::rate(4_000_000);
    let mut fleet = seed_and_one(5, "auto", line);
    let seed = fleet.agents[0];
    fleet.world.run_for(Duration::from_secs(2));
    fleet.world.kill(seed, Kill::Process);
    fleet.world.run_for(Duration::from_secs(5));
    let again = Agent::new(config("auto"), fleet.world.seed_for("again")).unwrap();
    fleet.world.restart(seed, again);
    assert!(fleet.world.disk(seed).holds(FILE, &fleet.content));
    fleet.share(seed);
    fleet.finish(5 * MINUTE);
    let other = fleet.agents[1];
    assert!(fleet.world.disk(other).holds(FILE, &fleet.content));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let digest = |seed| {
        let mut fleet = seed_and_one(seed, "auto", LinkSpec::LAN.loss_ppm(2_000));
        fleet.finish(MINUTE);
        fleet.world.digest()
    };
    assert_eq!(digest(6), digest(6));
    assert_ne!(digest(6), digest(7));
}
