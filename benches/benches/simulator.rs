//! The simulator: a swarm of eight and a stream of its own, as events per second of real time.

#[path = "../../core/tests/common/mod.rs"]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "written for tests: a bench of a broken fleet would be worthless too"
)]
mod common;

use common::{Fleet, MIB};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dovetail_core::sim::World;
use std::hint::black_box;
use std::time::Duration;

/// Eight agents fetch 16 MiB from an origin of 20 MB/s and from each other.
fn swarm() -> World {
    let mut fleet = Fleet::new(1, 16 * MIB, 20_000_000);
    fleet.world.check_every = 0;
    fleet.world.without_journal();
    fleet.agents(8);
    fleet.all_get();
    fleet.finish(Duration::from_secs(300));
    fleet.world
}

fn simulator(c: &mut Criterion) {
    // The same each time: it is one seed.
    let events = swarm().steps();
    let mut group = c.benchmark_group("simulator");
    group.sample_size(10);
    group.throughput(Throughput::Elements(events));
    group.bench_function("events of a swarm of 8", |b| {
        b.iter(|| black_box(swarm().steps()));
    });
    group.finish();
}

criterion_group!(benches, simulator);
criterion_main!(benches);
