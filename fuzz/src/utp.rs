//! Bodies for uTP: what a datagram says, and a pair of transports whose owners and network do anything.

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use core::net::SocketAddr;
use core::time::Duration;
use dovetail_core::ids::StreamId;
use dovetail_core::machine::{CloseHow, Ecn, Input, Lost};
use dovetail_core::rng::Rng;
use dovetail_core::time::Mono;
use dovetail_core::transport::{Flows, Transport, decode};
use std::collections::BTreeMap;

/// A datagram: no panic, and written again it is read as the same.
pub fn packet(data: &[u8]) {
    let Ok(packet) = decode(data) else {
        return;
    };
    let mut written = Vec::new();
    packet.encode(&mut written);
    assert_eq!(decode(&written), Ok(packet), "not read as written");
    assert!(written.len() <= data.len(), "it grew");
}

#[derive(Clone, Copy, Debug, Arbitrary)]
enum Op {
    Connect,
    Send {
        end: bool,
        stream: u8,
        len: u16,
    },
    Grant {
        end: bool,
        stream: u8,
        len: u16,
    },
    Close {
        end: bool,
        stream: u8,
        abort: bool,
    },
    /// The network's oldest datagram, or another one.
    Deliver {
        which: u8,
    },
    /// The same, and it stays in the network.
    Repeat {
        which: u8,
    },
    Lose {
        which: u8,
    },
    /// A router marks a datagram that may be, or one that may not.
    Mark {
        which: u8,
    },
    /// Some byte of a datagram is another.
    Damage {
        which: u8,
        at: u8,
        to: u8,
    },
    Garbage {
        end: bool,
        head: u8,
        len: u8,
    },
    Wait {
        ms: u16,
    },
    /// Everything in the network, in order, again and again.
    Settle,
}

/// What an owner knows of its stream.
#[derive(Default)]
struct Stream {
    given: Vec<u8>,
    sent: u64,
    is_closing: bool,
    granted: u64,
    received: Vec<u8>,
    closed: Option<Lost>,
}

struct End {
    transport: Transport,
    flows: Flows,
    streams: BTreeMap<StreamId, Stream>,
}

struct Pair {
    now: Mono,
    ends: [End; 2],
    network: Vec<(usize, Vec<u8>, Ecn)>,
    /// Bytes were changed on the way: what arrives proves nothing any more.
    is_damaged: bool,
    /// Changes with each byte given, so that no two are alike for long.
    next: u8,
}

const NETWORK_MAX: usize = 256;

/// Longest datagram the network carries.
const LARGEST: usize = 1300;

fn at(end: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, end as u8], 1000))
}

/// Operations on a pair of transports: streams deliver what was given to the other end, in order, once, within
/// credit, and close once; nothing panics however the network behaves.
pub fn pair(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let may_damage = bool::arbitrary(&mut u).unwrap_or(false);
    let end = |seed| End {
        transport: Transport::new(Rng::from_u64(seed)),
        flows: Flows::default(),
        streams: BTreeMap::new(),
    };
    let mut pair = Pair {
        now: Mono::from_us(1 << 31),
        ends: [end(1), end(2)],
        network: Vec::new(),
        is_damaged: false,
        next: 0,
    };
    pair.connect();
    while let Ok(op) = Op::arbitrary(&mut u) {
        let damages = matches!(op, Op::Damage { .. } | Op::Garbage { .. });
        if may_damage || !damages {
            pair.apply(op);
            pair.drain();
        }
        if u.is_empty() {
            break;
        }
    }
    pair.finish();
}

impl Pair {
    fn apply(&mut self, op: Op) {
        match op {
            Op::Connect => self.connect(),
            Op::Send { end, stream, len } => {
                let bytes: Vec<u8> = (0..len).map(|i| self.next.wrapping_add(i as u8)).collect();
                self.next = self
                    .next
                    .wrapping_add(len as u8)
                    .wrapping_mul(5)
                    .wrapping_add(1);
                let end = &mut self.ends[usize::from(end)];
                let Some((id, s)) = nth(&mut end.streams, stream) else {
                    return;
                };
                // A writer keeps to what is answered.
                if s.given.len() as u64 - s.sent < 100_000 && !s.is_closing {
                    s.given.extend_from_slice(&bytes);
                    end.transport.send(id, bytes.into());
                }
            }
            Op::Grant { end, stream, len } => {
                let end = &mut self.ends[usize::from(end)];
                if let Some((id, s)) = nth(&mut end.streams, stream) {
                    s.granted += u64::from(len);
                    end.transport.grant(id, len.into());
                }
            }
            Op::Close { end, stream, abort } => {
                let end = &mut self.ends[usize::from(end)];
                let how = if abort {
                    CloseHow::Abort
                } else {
                    CloseHow::Flush
                };
                if let Some((id, s)) = nth(&mut end.streams, stream) {
                    s.is_closing = true;
                    end.transport.close(id, how);
                }
            }
            Op::Deliver { which } => {
                if let Some((to, bytes, ecn)) = self.take(which) {
                    self.put(to, bytes, ecn);
                }
            }
            Op::Repeat { which } => {
                let place = usize::from(which) % self.network.len().max(1);
                if let Some((to, bytes, ecn)) = self.network.get(place).cloned() {
                    self.put(to, bytes, ecn);
                }
            }
            Op::Lose { which } => {
                self.take(which);
            }
            Op::Mark { which } => {
                let place = usize::from(which) % self.network.len().max(1);
                if let Some((.., ecn)) = self.network.get_mut(place) {
                    *ecn = Ecn::Ce;
                }
            }
            Op::Damage { which, at, to } => {
                let place = usize::from(which) % self.network.len().max(1);
                if let Some((_, bytes, _)) = self.network.get_mut(place) {
                    let at = usize::from(at) % bytes.len();
                    self.is_damaged = true;
                    bytes[at] = to;
                }
            }
            Op::Garbage { end, head, len } => {
                let mut bytes = vec![head; usize::from(len)];
                if let Some(first) = bytes.first_mut() {
                    *first = head << 4 | 1;
                }
                self.is_damaged = true;
                self.put(usize::from(end), bytes, Ecn::NotEct);
            }
            Op::Wait { ms } => self.wait(ms.into()),
            Op::Settle => self.settle(20),
        }
    }

    fn connect(&mut self) {
        if self.ends[0].streams.len() < 8 {
            let end = &mut self.ends[0];
            let id = StreamId::utp(end.streams.len() as u64, false);
            end.transport.connect(self.now, &mut end.flows, id, at(1));
            end.streams.insert(id, Stream::default());
        }
    }

    fn take(&mut self, which: u8) -> Option<(usize, Vec<u8>, Ecn)> {
        let place = usize::from(which) % self.network.len().max(1);
        (place < self.network.len()).then(|| self.network.remove(place))
    }

    fn put(&mut self, to: usize, bytes: Vec<u8>, ecn: Ecn) {
        let bytes = Bytes::from(bytes);
        let end = &mut self.ends[to];
        let from = at(1 - to);
        end.transport
            .on_datagram(self.now, &mut end.flows, from, (&bytes, ecn));
        self.drain();
    }

    fn wait(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
        for end in &mut self.ends {
            end.flows.on_tick(self.now);
            end.transport.on_tick(self.now, &mut end.flows);
        }
        self.drain();
    }

    /// Rounds of delivering everything, a little apart.
    fn settle(&mut self, rounds: usize) {
        for _ in 0..rounds {
            for (to, bytes, ecn) in core::mem::take(&mut self.network) {
                self.put(to, bytes, ecn);
            }
            self.wait(6);
        }
    }

    /// Events and datagrams of both ends, and what must hold of them.
    fn drain(&mut self) {
        for n in 0..2 {
            while let Some(input) = self.ends[n].transport.poll_input() {
                self.on_input(n, input);
            }
            let mut out = Vec::new();
            let mut budget = 10_000;
            let End {
                transport, flows, ..
            } = &mut self.ends[n];
            while let Some((to, ecn)) = transport.poll_datagram(self.now, flows, &mut out) {
                assert_eq!(to, at(1 - n));
                budget -= 1;
                assert!(budget > 0, "it does not stop sending");
                if self.network.len() < NETWORK_MAX && out.len() <= LARGEST {
                    self.network.push((1 - n, out.clone(), ecn));
                }
            }
            let deadline = self.ends[n].transport.deadline();
            assert!(deadline.is_none_or(|d| d.at > self.now), "{deadline:?}");
            self.ends[n].transport.check();
            self.ends[n].flows.check();
        }
    }

    fn on_input(&mut self, n: usize, input: Input) {
        let streams = &mut self.ends[n].streams;
        match input {
            Input::Accepted {
                stream: id, from, ..
            } => {
                assert_eq!(from, at(1 - n));
                assert!(streams.insert(id, Stream::default()).is_none());
            }
            Input::Opened { stream: id, .. } => assert!(streams[&id].closed.is_none()),
            Input::Received { stream: id, bytes } => {
                let s = streams.get_mut(&id).expect("known");
                assert!(s.closed.is_none() && !bytes.is_empty());
                s.received.extend_from_slice(&bytes);
                assert!(s.received.len() as u64 <= s.granted, "more than granted");
            }
            Input::Sent { stream: id, len } => {
                let s = streams.get_mut(&id).expect("known");
                assert!(s.closed.is_none());
                s.sent += u64::from(len);
                assert!(s.sent <= s.given.len() as u64);
            }
            Input::Closed { stream: id, why } => {
                let s = streams.get_mut(&id).expect("known");
                assert_eq!(s.closed, None, "closed twice");
                s.closed = Some(why);
            }
            other => panic!("{other:?}"),
        }
    }

    /// Whatever one end has received of a stream, the other has given in this order. Then the network is good again
    /// for long: everything closes.
    fn finish(&mut self) {
        self.compare();
        for _ in 0..400 {
            for end in &mut self.ends {
                for id in end.streams.keys() {
                    end.transport.close(*id, CloseHow::Flush);
                }
            }
            self.drain();
            self.settle(3);
            self.wait(500);
            if self.ends.iter().all(|end| end.transport.is_idle()) {
                break;
            }
        }
        for end in &self.ends {
            assert!(
                end.streams.values().all(|s| s.closed.is_some()),
                "one is stuck"
            );
            assert!(end.transport.is_idle(), "something is left over");
        }
        self.compare();
    }

    /// Each stream's bytes are the beginning of what some stream of the other end was given; those of an end that saw
    /// the other's last byte are all of it.
    fn compare(&self) {
        if self.is_damaged {
            return;
        }
        for n in 0..2 {
            for s in self.ends[n].streams.values() {
                let mut others = self.ends[1 - n].streams.values();
                let found = others.any(|other| {
                    let is_all = other.given.len() == s.received.len();
                    other.given.starts_with(&s.received)
                        && (s.closed != Some(Lost::Eof) || is_all || other.closed.is_some())
                });
                assert!(found || s.received.is_empty(), "bytes nobody gave");
            }
        }
    }
}

fn nth(streams: &mut BTreeMap<StreamId, Stream>, n: u8) -> Option<(StreamId, &mut Stream)> {
    let place = usize::from(n) % streams.len().max(1);
    let (id, stream) = streams.iter_mut().nth(place)?;
    Some((*id, stream))
}
