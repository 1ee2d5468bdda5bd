//! What the simulator itself costs: a hundred hosts in a row pass on 256 MiB, each by a machine that decides nothing.
//! Events per second of real time, with and without a journal; `--test` passes on little, to see that it works.

use bytes::Bytes;
use core::net::IpAddr;
use core::time::Duration;
use dovetail_core::content::HashJob;
use dovetail_core::ids::{FileId, StreamId};
use dovetail_core::machine::{
    DiskOp, Effects, Endpoint, Host, Input, Listener, Machine, OpenHow, Output,
};
use dovetail_core::sim::toys::Bulk;
use dovetail_core::sim::{HostSpec, LinkSpec, World};
use dovetail_core::time::{Deadline, Now};
use std::time::Instant;

/// Reads from the one before, writes and hashes pieces, and passes all on to the one behind.
struct Relay {
    fx: Effects,
    from: StreamId,
    to: Option<StreamId>,
    waiting: Vec<Bytes>,
    piece: Vec<Bytes>,
    piece_len: usize,
    written: u64,
    hashed: u64,
    received: u64,
    unsent: u32,
}

const PIECE: usize = 1024 * 1024;
const FILE: FileId = FileId(7);

impl Relay {
    fn new(from: Endpoint) -> Self {
        let mut fx = Effects::default();
        let stream = fx.connect(from);
        fx.grant(stream, 1024 * 1024);
        fx.disk(DiskOp::Open {
            file: FILE,
            path: "/file".into(),
            how: OpenHow::CreateNew,
        });
        Self {
            fx,
            from: stream,
            to: None,
            waiting: Vec::new(),
            piece: Vec::new(),
            piece_len: 0,
            written: 0,
            hashed: 0,
            received: 0,
            unsent: 0,
        }
    }

    fn store(&mut self, bytes: Bytes) {
        self.piece_len += bytes.len();
        self.piece.push(bytes);
        if self.piece_len < PIECE {
            return;
        }
        let chunks = std::mem::take(&mut self.piece);
        self.fx.hash(HashJob {
            chunks: chunks.clone(),
            leaves: true,
            flat: None,
        });
        let offset = self.written;
        self.written += self.piece_len as u64;
        self.piece_len = 0;
        self.fx.disk(DiskOp::Write {
            file: FILE,
            offset,
            chunks,
        });
    }
}

impl Machine for Relay {
    fn handle(&mut self, _now: Now, input: Input) {
        match input {
            Input::Received { bytes, .. } => {
                self.received += bytes.len() as u64;
                if self.to.is_none() {
                    self.waiting.push(bytes.clone());
                    self.fx.grant(self.from, bytes.len() as u32);
                } else if self.unsent < 4 * 1024 * 1024 {
                    self.fx.grant(self.from, bytes.len() as u32);
                }
                if let Some(to) = self.to {
                    self.unsent += bytes.len() as u32;
                    self.fx.send(to, bytes.clone());
                }
                self.store(bytes);
            }
            Input::Accepted { stream, .. } => {
                self.to = Some(stream);
                for bytes in self.waiting.drain(..) {
                    self.unsent += bytes.len() as u32;
                    self.fx.send(stream, bytes);
                }
            }
            Input::Sent { len, .. } => {
                let before = self.unsent;
                self.unsent -= len;
                if before >= 4 * 1024 * 1024 && self.unsent < 4 * 1024 * 1024 {
                    self.fx.grant(self.from, 1024 * 1024);
                }
            }
            Input::Hashed { done, .. } => self.hashed += done.leaves.len() as u64,
            _ => {}
        }
    }

    fn poll(&mut self) -> Option<Output> {
        self.fx.poll()
    }

    fn deadline(&self) -> Option<Deadline> {
        None
    }
}

fn main() {
    let quick = std::env::args().any(|arg| arg == "--test");
    let (hosts, len) = if quick {
        (10, 4 * PIECE)
    } else {
        (100, 256 * PIECE)
    };
    for journal in [true, false] {
        let start = Instant::now();
        let mut world = World::new(1);
        if !journal {
            world.without_journal();
        }
        let content = world.content("file", len);
        println!("content: {:?}", start.elapsed());
        let link = LinkSpec::rate(12_500_000);
        let addr = |i: usize| IpAddr::from([10, 0, (i / 200) as u8, (i % 200 + 1) as u8]);
        let spec = |i| {
            HostSpec::at(&addr(i).to_string())
                .listen(Listener::Peers, 7680)
                .links(link, link)
        };
        world.host("0", Bulk::new(content.clone(), 16 * 1024), spec(0));
        let ids: Vec<_> = (1..hosts)
            .map(|i| {
                let from = Endpoint {
                    host: Host::Addr(addr(i - 1)),
                    port: 7680,
                    tls: None,
                };
                world.host(&i.to_string(), Relay::new(from), spec(i))
            })
            .collect();
        let start = Instant::now();
        let done = |w: &World| {
            ids.last()
                .is_some_and(|id| w.machine::<Relay>(*id).hashed == (len / 16384) as u64)
        };
        world
            .run_until(done, Duration::from_secs(1000))
            .unwrap_or_else(|e| panic!("{e}"));
        let took = start.elapsed();
        // The last writes.
        world.run_for(Duration::from_secs(1));
        for id in &ids {
            assert!(world.disk(*id).holds("/file", &content));
        }
        println!(
            "journal {journal}: {:?} of virtual time, {} events in {took:?}: {:.2} million events/s, hash memo {:?}",
            world.now(),
            world.steps(),
            world.steps() as f64 / took.as_secs_f64() / 1e6,
            world.hash_jobs()
        );
    }
}
