//! A hundred agents that all ask for one file at once, in virtual time, over twenty seeds: when the last one is done,
//! measured against the lower bound, and how many copies the origin gave.
//!
//! No clock of this machine is read. `SIM_SEED=n` runs one seed; `--test` a small crowd, to see that it works.

#[path = "../../core/tests/common/mod.rs"]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "written for tests: a bench of a broken fleet would be worthless too"
)]
mod common;

use common::{MIB, crowd};
use dovetail_core::sim::seeds;

fn main() {
    let quick = std::env::args().any(|arg| arg == "--test");
    let (agents, length, all) = if quick {
        (10, 8 * MIB, 1..=1)
    } else {
        (100, 256 * MIB, 1..=20)
    };
    let runs = seeds(all)
        .into_iter()
        .map(|seed| crowd(seed, agents, length));
    let (mut ratios, mut copies): (Vec<_>, Vec<_>) = runs.unzip();
    ratios.sort_by(f64::total_cmp);
    copies.sort_by(f64::total_cmp);
    for (what, sorted) in [("time over the bound", ratios), ("copies", copies)] {
        if let (Some(least), Some(most)) = (sorted.first(), sorted.last()) {
            println!(
                "{what}: {least:.2} to {most:.2}, median {:.2}",
                sorted[sorted.len() / 2]
            );
        }
    }
}
