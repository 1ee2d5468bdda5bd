//! Peer messages: cut from the chunks a socket gives, decoded, encoded. Payload is passed on, never copied.
#![expect(
    clippy::expect_used,
    reason = "a bench of broken messages would be worthless"
)]

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dovetail_benches::{KIB, MIB, SOCKET_READ, cut, noise};
use dovetail_core::content::Run;
use dovetail_core::wire::{Framer, Message, PeerExtensions, RangeMessage, encode};
use std::hint::black_box;

/// Payload of one iteration.
const PAYLOAD: usize = 16 * MIB;

/// As any BitTorrent peer sends them.
fn pieces(payload: &Bytes) -> Vec<Message> {
    let blocks = cut(payload, 16 * KIB).into_iter().enumerate();
    let message = |(at, block)| Message::Piece {
        piece: (at / 64) as u32,
        begin: (at % 64 * 16 * KIB) as u32,
        data: vec![block],
    };
    blocks.map(message).collect()
}

/// As our own peers send them.
fn ranges(payload: &Bytes) -> Vec<Message> {
    let runs = cut(payload, MIB).into_iter().enumerate();
    let message = |(piece, data)| {
        Message::Range(RangeMessage::Data {
            run: Run {
                piece: piece as u32,
                first: 0,
                count: 64,
            },
            data: vec![data],
        })
    };
    runs.map(message).collect()
}

/// The messages as a socket would bring them.
fn chunks(messages: &[Message]) -> Vec<Bytes> {
    let mut stream = Vec::new();
    for message in messages {
        let frame = encode(message, &PeerExtensions::OURS).expect("an extension we list");
        stream.extend_from_slice(&frame.head);
        frame
            .payload
            .iter()
            .for_each(|part| stream.extend_from_slice(part));
    }
    cut(&stream.into(), SOCKET_READ)
}

fn decode_all(chunks: &[Bytes]) -> usize {
    let mut framer = Framer::default();
    let mut messages = 0;
    for chunk in chunks {
        framer.on_bytes(chunk.clone());
        while let Some(message) = framer.next().expect("whole messages") {
            black_box(message);
            messages += 1;
        }
    }
    messages
}

fn wire(c: &mut Criterion) {
    let payload = noise(PAYLOAD);
    let kinds = [
        ("pieces of 16 KiB", pieces(&payload)),
        ("ranges of 1 MiB", ranges(&payload)),
    ];
    let mut group = c.benchmark_group("wire");
    group.throughput(Throughput::Bytes(PAYLOAD as u64));
    for (kind, messages) in kinds {
        let chunks = chunks(&messages);
        assert_eq!(decode_all(&chunks), messages.len());
        group.bench_function(format!("decode {kind} from 256 KiB"), |b| {
            b.iter(|| decode_all(black_box(&chunks)));
        });
        group.bench_function(format!("encode {kind}"), |b| {
            b.iter(|| {
                for message in &messages {
                    black_box(encode(black_box(message), &PeerExtensions::OURS));
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, wire);
criterion_main!(benches);
