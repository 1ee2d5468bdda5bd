//! Choosing: a whole download of 10 000 pieces from 200 sources, from the first pick to the last verified piece.
#![expect(
    clippy::expect_used,
    reason = "a bench of a stuck picker would be worthless"
)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dovetail_core::content::{Bitfield, Block, Geometry};
use dovetail_core::ids::SourceId;
use dovetail_core::limits::{PIECE_LEN, RANGE_BLOCKS_MAX};
use dovetail_core::picker::{Picker, Reach};
use dovetail_core::rng::Rng;
use std::hint::black_box;

const PIECES: u32 = 10_000;
const SOURCES: u64 = 200;

/// What each source has: half of everything, by lot.
fn halves() -> Vec<Bitfield> {
    let mut rng = Rng::from_u64(1);
    let mut half = || {
        let mut have = Bitfield::empty(PIECES);
        for piece in 0..PIECES {
            if rng.below(2) == 0 {
                have.insert(piece);
            }
        }
        have
    };
    (0..SOURCES).map(|_| half()).collect()
}

fn with_sources(have: &[Bitfield]) -> Picker {
    let length = u64::from(PIECES) * u64::from(PIECE_LEN);
    let geometry = Geometry::new(length, PIECE_LEN).expect("a legal geometry");
    let mut picker = Picker::new(geometry, false, &mut Rng::from_u64(2));
    for (source, have) in (0..).map(SourceId).zip(have) {
        picker.add_peer(source);
        picker.peer_has_set(source, have);
    }
    picker
}

/// Every source in turn is asked for a piece and delivers it.
fn download(mut picker: Picker) -> Picker {
    for turn in 0.. {
        if picker.is_complete() {
            break;
        }
        let source = SourceId(turn % SOURCES);
        let Some(run) = picker.pick(source, RANGE_BLOCKS_MAX, Reach::Any) else {
            continue;
        };
        for index in run.first..run.first + run.count {
            let piece = run.piece;
            black_box(picker.on_block(source, Block { piece, index }));
        }
        if picker.finish_if_whole(run.piece) {
            black_box(picker.verified(run.piece));
        }
    }
    picker
}

fn picker(c: &mut Criterion) {
    let have = halves();
    let mut group = c.benchmark_group("picker, 10 000 pieces, 200 sources");
    group.sample_size(10);
    group.throughput(Throughput::Elements(PIECES.into()));
    group.bench_function("pick, take, verify all", |b| {
        b.iter_batched(|| with_sources(&have), download, BatchSize::PerIteration);
    });
    group.throughput(Throughput::Elements(SOURCES));
    group.bench_function("hear what all sources have", |b| {
        b.iter(|| with_sources(black_box(&have)));
    });
    group.finish();
}

criterion_group!(benches, picker);
criterion_main!(benches);
