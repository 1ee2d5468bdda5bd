//! Two sessions talking in memory: what the peer protocol costs without sockets, disks and hashing.
#![expect(
    clippy::expect_used,
    reason = "a bench of sessions that do not talk would be worthless"
)]

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dovetail_benches::{MIB, SOCKET_READ, cut, noise};
use dovetail_core::content::{Bitfield, Geometry, Run};
use dovetail_core::ids::StreamId;
use dovetail_core::limits::PIECE_LEN;
use dovetail_core::machine::{Effects, Output};
use dovetail_core::session::{Identity, Session, SessionEvent};
use dovetail_core::time::Mono;
use dovetail_core::wire::PeerId;
use std::time::Duration;

const PIECES: u32 = 64;

struct Side {
    session: Session,
    fx: Effects,
    events: Vec<SessionEvent>,
    me: Identity,
    have: Bitfield,
}

impl Side {
    fn new(dials: bool, have: Bitfield) -> Self {
        let mut fx = Effects::default();
        let session = if dials {
            Session::dial(Mono::ZERO, StreamId(2))
        } else {
            Session::accept(Mono::ZERO, StreamId(1), &mut fx)
        };
        let me = Identity {
            peer_id: PeerId([u8::from(dials); 20]),
            info_hash: [7; 20],
            port: None,
        };
        let events = Vec::new();
        Self {
            session,
            fx,
            events,
            me,
            have,
        }
    }

    /// What it sent since the last time, as another's socket would read it.
    fn sent(&mut self, now: Mono) -> Vec<Bytes> {
        let mut out = Vec::new();
        while let Some(output) = self.fx.poll() {
            if let Output::Send { bytes, .. } = output {
                self.session.on_sent(now, bytes.len() as u32);
                out.extend(cut(&bytes, SOCKET_READ));
            }
        }
        out
    }

    fn hear(&mut self, now: Mono, chunks: Vec<Bytes>) {
        for chunk in chunks {
            let (fx, events) = (&mut self.fx, &mut self.events);
            self.session.on_bytes(now, chunk, fx, events);
        }
    }
}

/// A seed and a leech, one clock, and the bytes of every piece.
struct Pair {
    seed: Side,
    leech: Side,
    geometry: Geometry,
    now: Mono,
    piece: Bytes,
}

impl Pair {
    fn meet(piece: &Bytes) -> Self {
        let length = u64::from(PIECES) * u64::from(PIECE_LEN);
        let mut pair = Self {
            seed: Side::new(false, Bitfield::full(PIECES)),
            leech: Side::new(true, Bitfield::empty(PIECES)),
            geometry: Geometry::new(length, PIECE_LEN).expect("a legal geometry"),
            now: Mono::ZERO,
            piece: piece.clone(),
        };
        let me = pair.leech.me;
        pair.leech
            .session
            .on_opened(pair.now, &me, &mut pair.leech.fx);
        for _ in 0..4 {
            pair.exchange();
            pair.settle();
        }
        pair.seed
            .session
            .set_choked(pair.now, false, &mut pair.seed.fx);
        pair.leech
            .session
            .set_interested(pair.now, true, &mut pair.leech.fx);
        pair.exchange();
        pair.settle();
        assert!(pair.leech.session.room(pair.now) > 0, "the leech may ask");
        pair
    }

    fn exchange(&mut self) {
        self.now = self.now + Duration::from_micros(500);
        let said = self.leech.sent(self.now);
        self.seed.hear(self.now, said);
        let said = self.seed.sent(self.now);
        self.leech.hear(self.now, said);
    }

    /// Do what a parent does; payload bytes that arrived.
    fn settle(&mut self) -> u64 {
        let (now, geometry) = (self.now, self.geometry);
        let mut arrived = 0;
        for side in [&mut self.seed, &mut self.leech] {
            for event in std::mem::take(&mut side.events) {
                match event {
                    SessionEvent::Hello { .. } => {
                        let (fx, events) = (&mut side.fx, &mut side.events);
                        let session = &mut side.session;
                        session.welcome(now, &side.me, geometry, &side.have, fx, events);
                    }
                    SessionEvent::Data { run, .. } => arrived += u64::from(geometry.run_len(run)),
                    SessionEvent::Fault(fault) => panic!("{fault}"),
                    _ => {}
                }
            }
        }
        while let Some(upload) = self.seed.session.next_upload(u32::MAX) {
            let from = upload.begin as usize;
            let bytes = self.piece.slice(from..from + upload.len as usize);
            let fx = &mut self.seed.fx;
            self.seed.session.deliver(now, &upload, &bytes, fx);
        }
        arrived
    }

    /// The leech fetches everything, asking for `count` blocks at a time.
    fn transfer(&mut self, count: u32) -> u64 {
        let blocks = self.geometry.blocks_per_piece();
        let mut runs = (0..PIECES).flat_map(|piece| {
            let firsts = (0..blocks).step_by(count as usize);
            firsts.map(move |first| Run {
                piece,
                first,
                count,
            })
        });
        let mut arrived = 0;
        while arrived < self.geometry.length() {
            while self.leech.session.room(self.now) >= count.min(16)
                && let Some(run) = runs.next()
            {
                self.leech
                    .session
                    .request(self.now, run, &mut self.leech.fx);
            }
            self.exchange();
            arrived += self.settle();
        }
        arrived
    }
}

fn session(c: &mut Criterion) {
    let piece = noise(MIB);
    let mut group = c.benchmark_group("session");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(u64::from(PIECES) * u64::from(PIECE_LEN)));
    for (name, count) in [("ranges of 1 MiB", 64), ("ranges of 16 KiB", 1)] {
        group.bench_function(format!("a pair, {name}"), |b| {
            b.iter(|| Pair::meet(&piece).transfer(count));
        });
    }
    group.finish();
}

criterion_group!(benches, session);
criterion_main!(benches);
