//! Goodput in virtual time: what one agent fetches from another over 1 Gbit/s, near and far.
//!
//! No clock of this machine is read: the figures are the same everywhere, and show what the protocol and its
//! pipeline leave of a line, apart from what the code costs. `--test` moves little, to see that it works.

#[path = "../../core/tests/common/mod.rs"]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "written for tests: a bench of a broken fleet would be worthless too"
)]
mod common;

use common::{Fleet, MIB};
use dovetail_core::command::GetRequest;
use dovetail_core::sim::LinkSpec;
use std::time::Duration;

const RATE: u64 = 125_000_000;

/// Bytes per virtual second from a seed to a downloader, and its time in seconds.
fn goodput(length: u64, round_trip: Duration) -> (f64, f64) {
    let mut fleet = Fleet::new(1, length, RATE);
    fleet.world.check_every = 0;
    fleet.world.without_journal();
    // A path is an uplink and a downlink; room for one bandwidth-delay product, as a good router has it.
    let queue = (RATE as f64 * round_trip.as_secs_f64()) as u64;
    fleet.links = LinkSpec::rate(RATE)
        .delay(round_trip / 4)
        .queue(queue.max(MIB));
    let seed = fleet.agent(Fleet::config());
    fleet.share(seed);
    fleet.world.run_for(Duration::from_secs(2));
    let leech = fleet.agent(Fleet::config());
    let request = GetRequest {
        require_peers: true,
        ..fleet.request()
    };
    fleet.get(leech, request);
    fleet.finish(Duration::from_secs(3600));
    let reports = fleet.check_outputs();
    let took = reports.iter().map(|r| r.elapsed_us).max().unwrap_or(0) as f64 / 1e6;
    (length as f64 / took, took)
}

fn main() {
    let quick = std::env::args().any(|arg| arg == "--test");
    let lengths: &[u64] = if quick {
        &[4 * MIB]
    } else {
        &[64 * MIB, 512 * MIB]
    };
    println!("goodput in virtual time, one agent to another, 1 Gbit/s each way");
    println!(
        "{:>10} {:>9} {:>9} {:>9} {:>9}",
        "round trip", "file MiB", "seconds", "MB/s", "of link"
    );
    for length in lengths {
        for round_trip_us in [100, 20_000, 100_000] {
            let (rate, took) = goodput(*length, Duration::from_micros(round_trip_us));
            println!(
                "{:>7} ms {:>9} {took:>9.2} {:>9.1} {:>9.2}",
                round_trip_us as f64 / 1000.0,
                length / MIB,
                rate / 1e6,
                rate / RATE as f64
            );
        }
    }
}
