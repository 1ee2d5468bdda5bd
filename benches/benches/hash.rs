//! Verifying: the leaves of one piece, the running hash of a whole file, and the tree above the pieces.
#![expect(
    clippy::expect_used,
    reason = "a bench of a broken tree would be worthless"
)]

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dovetail_benches::{KIB, MIB, cut, noise};
use dovetail_core::content::{FlatHash, Geometry, HashJob, TreeBuilder};
use std::hint::black_box;

fn job(chunks: &[Bytes], leaves: bool, flat: bool) -> HashJob {
    HashJob {
        chunks: chunks.to_vec(),
        leaves,
        flat: flat.then(FlatHash::default),
    }
}

fn hash(c: &mut Criterion) {
    let piece = noise(MIB);
    let mut group = c.benchmark_group("hash");
    group.throughput(Throughput::Bytes(MIB as u64));
    let cases = [
        ("leaves of 1 MiB in one chunk", MIB, true, false),
        ("leaves of 1 MiB in odd chunks", 48 * KIB + 13, true, false),
        ("whole-file hash", MIB, false, true),
        ("leaves and whole-file hash", MIB, true, true),
    ];
    for (name, chunk, leaves, flat) in cases {
        let chunks = cut(&piece, chunk);
        assert_eq!(
            job(&chunks, leaves, flat).run().leaves.len(),
            if leaves { 64 } else { 0 }
        );
        group.bench_function(name, |b| {
            b.iter_batched(
                || job(&chunks, leaves, flat),
                |job| black_box(job.run()),
                BatchSize::SmallInput,
            );
        });
    }

    let geometry = Geometry::for_length(64 * MIB as u64).expect("a legal length");
    let leaves = job(&[piece], true, false).run().leaves;
    group.throughput(Throughput::Bytes(geometry.length()));
    group.bench_function("tree above the leaves of 64 MiB", |b| {
        b.iter(|| {
            let mut tree = TreeBuilder::new(geometry);
            for piece in 0..geometry.pieces() {
                tree.piece(piece, &leaves).expect("all leaves of a piece");
            }
            black_box(tree.finish().expect("all pieces"))
        });
    });
    group.finish();
}

criterion_group!(benches, hash);
criterion_main!(benches);
