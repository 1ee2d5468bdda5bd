//! Two transports, a link in virtual time between them, and what their owners expect of the streams.
//!
//! Every byte is checked against a pattern when it is delivered; the contract of streams (credit, completion, one
//! `Closed`) is asserted at each event.
#![allow(dead_code, reason = "not every test needs all of it")]

use bytes::Bytes;
use core::net::SocketAddr;
use core::time::Duration;
use dovetail_core::ids::StreamId;
use dovetail_core::machine::{CloseHow, Ecn, Input, Lost};
use dovetail_core::rng::Rng;
use dovetail_core::time::{Deadline, Mono};
use dovetail_core::transport::{Flows, Kind, Transport, decode};
use std::collections::BTreeMap;

pub(crate) const A: usize = 0;
pub(crate) const B: usize = 1;

/// One direction of the link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkSpec {
    pub(crate) delay_us: u64,
    pub(crate) loss_ppm: u64,
    pub(crate) duplicate_ppm: u64,
    /// Packets that come up to two delays later than they should.
    pub(crate) reorder_ppm: u64,
    /// 0: as fast as you like.
    pub(crate) rate_bytes_per_s: u64,
    pub(crate) queue_bytes: u64,
    /// Larger datagrams do not arrive.
    pub(crate) largest: usize,
    /// Those that wait longer are marked, if they may be.
    pub(crate) marks_after_us: u64,
    /// Those that may be marked do not arrive.
    pub(crate) is_deaf: bool,
}

impl LinkSpec {
    pub(crate) const fn delay_ms(ms: u64) -> Self {
        Self {
            delay_us: ms * 1000,
            loss_ppm: 0,
            duplicate_ppm: 0,
            reorder_ppm: 0,
            rate_bytes_per_s: 0,
            queue_bytes: u64::MAX,
            largest: 1500,
            marks_after_us: u64::MAX,
            is_deaf: false,
        }
    }

    pub(crate) const fn loss_percent(mut self, percent: u64) -> Self {
        self.loss_ppm = percent * 10_000;
        self
    }

    pub(crate) const fn rate(mut self, bytes_per_s: u64, queue_bytes: u64) -> Self {
        self.rate_bytes_per_s = bytes_per_s;
        self.queue_bytes = queue_bytes;
        self
    }

    pub(crate) const fn chaos(mut self) -> Self {
        self.duplicate_ppm = 20_000;
        self.reorder_ppm = 30_000;
        self
    }
}

/// What an owner does with its stream, and what it has seen of it.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) label: u8,
    /// Bytes still to be handed over.
    pub(crate) to_send: u64,
    pub(crate) handed: u64,
    pub(crate) sent: u64,
    pub(crate) granted: u64,
    pub(crate) received: u64,
    /// Credit is kept at this.
    pub(crate) credit: u64,
    /// Close once everything is handed over.
    pub(crate) closes: bool,
    pub(crate) is_closing: bool,
    pub(crate) is_open: bool,
    pub(crate) closed: Option<Lost>,
    pub(crate) received_at: Mono,
    pub(crate) closed_at: Mono,
}

const HANDED_AT_ONCE: u64 = 256 * 1024;

impl Stream {
    fn new(label: u8, plan: Plan) -> Self {
        Self {
            label,
            to_send: plan.send,
            handed: 0,
            sent: 0,
            granted: 0,
            received: 0,
            credit: plan.credit,
            closes: plan.closes,
            is_closing: false,
            is_open: false,
            closed: None,
            received_at: Mono::ZERO,
            closed_at: Mono::ZERO,
        }
    }
}

/// What a new stream shall do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) send: u64,
    pub(crate) credit: u64,
    pub(crate) closes: bool,
}

impl Plan {
    pub(crate) const fn send(bytes: u64) -> Self {
        Self {
            send: bytes,
            credit: 1024 * 1024,
            closes: false,
        }
    }

    pub(crate) const fn then_close(mut self) -> Self {
        self.closes = true;
        self
    }

    pub(crate) const fn credit(mut self, bytes: u64) -> Self {
        self.credit = bytes;
        self
    }
}

pub(crate) struct End {
    pub(crate) transport: Transport,
    pub(crate) flows: Flows,
    pub(crate) at: SocketAddr,
    pub(crate) streams: BTreeMap<StreamId, Stream>,
    pub(crate) plan: Plan,
    /// Added to the world's time to give this end's clock.
    pub(crate) offset_us: u64,
    pub(crate) datagrams: u64,
    pub(crate) datagram_bytes: u64,
    pub(crate) largest: usize,
    /// Of its datagrams, those that may be marked, those that were, and those that found no room.
    pub(crate) markable: u64,
    pub(crate) marked: u64,
    pub(crate) dropped: u64,
    pub(crate) longest_wait_us: u64,
    opened: u64,
}

/// Says whether a datagram gets through: which way, when, what.
pub(crate) type Filter = Box<dyn FnMut(usize, Mono, &[u8]) -> bool>;

pub(crate) struct World {
    pub(crate) now: Mono,
    pub(crate) ends: [End; 2],
    pub(crate) links: [LinkSpec; 2],
    pub(crate) filter: Filter,
    free_at_us: [u64; 2],
    flying: BTreeMap<(u64, u64), (usize, Bytes, Ecn)>,
    count: u64,
    rng: Rng,
    /// Invariants are asserted each so many steps.
    pub(crate) check_every: u64,
    steps: u64,
    pub(crate) delivered: u64,
}

pub(crate) fn pattern(label: u8, at: u64) -> u8 {
    let x = at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
    x as u8 ^ label
}

/// The bytes of a stream from one place on.
fn bytes_of(label: u8, at: u64, len: u64) -> Bytes {
    (at..at + len)
        .map(|at| pattern(label, at))
        .collect::<Vec<_>>()
        .into()
}

impl World {
    pub(crate) fn new(seed: u64, link: LinkSpec) -> Self {
        let mut rng = Rng::from_u64(seed);
        let mut end = |n: u8, offset_us| End {
            transport: Transport::new(rng.fork()),
            flows: Flows::default(),
            opened: 0,
            at: SocketAddr::from(([10, 0, 0, n], 7680)),
            streams: BTreeMap::new(),
            plan: Plan::send(0),
            offset_us,
            datagrams: 0,
            datagram_bytes: 0,
            largest: 0,
            markable: 0,
            marked: 0,
            dropped: 0,
            longest_wait_us: 0,
        };
        // One clock whose 32 bits wrap a second after the start, and one that is hours away from it.
        let ends = [end(1, 4_293_967_296), end(2, 12_345_678_901)];
        Self {
            now: Mono::from_us(1),
            ends,
            links: [link; 2],
            filter: Box::new(|_, _, _| true),
            free_at_us: [0; 2],
            flying: BTreeMap::new(),
            count: 0,
            rng,
            check_every: 16,
            steps: 0,
            delivered: 0,
        }
    }

    fn clock(&self, end: usize) -> Mono {
        self.now + Duration::from_micros(self.ends[end].offset_us)
    }

    /// A connects to B.
    pub(crate) fn connect(&mut self, plan: Plan) -> StreamId {
        let (now, to) = (self.clock(A), self.ends[B].at);
        let end = &mut self.ends[A];
        end.opened += 1;
        let id = StreamId::utp(end.opened, false);
        end.transport.connect(now, &mut end.flows, id, to);
        end.streams.insert(id, Stream::new(b'a', plan));
        self.top_up(A, id);
        id
    }

    pub(crate) fn stream(&self, end: usize) -> &Stream {
        self.ends[end].streams.values().next().expect("one stream")
    }

    pub(crate) fn stream_mut(&mut self, end: usize) -> &mut Stream {
        let first = self.ends[end].streams.values_mut().next();
        first.expect("one stream")
    }

    pub(crate) fn id(&self, end: usize) -> StreamId {
        *self.ends[end].streams.keys().next().expect("one stream")
    }

    pub(crate) fn close(&mut self, end: usize, id: StreamId, how: CloseHow) {
        let end = &mut self.ends[end];
        end.streams.get_mut(&id).expect("known").is_closing = true;
        end.transport.close(id, how);
    }

    /// Hand over and grant what the plan says.
    pub(crate) fn top_up(&mut self, end: usize, id: StreamId) {
        let End {
            transport, streams, ..
        } = &mut self.ends[end];
        let s = streams.get_mut(&id).expect("known");
        if s.closed.is_some() || s.is_closing {
            return;
        }
        let left = s.granted - s.received;
        if left * 2 <= s.credit && left < s.credit {
            let more = s.credit - left;
            s.granted += more;
            transport.grant(id, u32::try_from(more).unwrap());
        }
        while s.to_send > 0 && s.handed - s.sent < HANDED_AT_ONCE {
            // Chunks of all sizes, as sessions give them.
            let len = [13, 16_384, 5, 999][(s.handed % 4) as usize].min(s.to_send);
            transport.send(id, bytes_of(s.label, s.handed, len));
            s.handed += len;
            s.to_send -= len;
        }
        if s.closes && s.to_send == 0 {
            s.is_closing = true;
            transport.close(id, CloseHow::Flush);
        }
    }

    fn drain_events(&mut self, n: usize) -> bool {
        let mut any = false;
        while let Some(input) = self.ends[n].transport.poll_input() {
            any = true;
            let now = self.now;
            let id = match input {
                Input::Accepted {
                    stream: id, from, ..
                } => {
                    assert_eq!(from, self.ends[1 - n].at);
                    let plan = self.ends[n].plan;
                    let mut stream = Stream::new(b'b', plan);
                    stream.is_open = true;
                    assert!(self.ends[n].streams.insert(id, stream).is_none());
                    id
                }
                Input::Opened { stream: id, .. } => {
                    let s = self.ends[n].streams.get_mut(&id).expect("known");
                    assert!(!s.is_open && s.closed.is_none());
                    s.is_open = true;
                    id
                }
                Input::Received { stream: id, bytes } => {
                    let s = self.ends[n].streams.get_mut(&id).expect("known");
                    assert!(s.closed.is_none() && !s.is_closing && s.is_open);
                    let theirs = s.label ^ b'a' ^ b'b';
                    for byte in &bytes {
                        assert_eq!(*byte, pattern(theirs, s.received), "at {}", s.received);
                        s.received += 1;
                    }
                    assert!(s.received <= s.granted, "more than granted");
                    s.received_at = now;
                    id
                }
                Input::Sent { stream: id, len } => {
                    let s = self.ends[n].streams.get_mut(&id).expect("known");
                    assert!(s.closed.is_none() && len > 0);
                    s.sent += u64::from(len);
                    assert!(s.sent <= s.handed);
                    id
                }
                Input::Closed { stream: id, why } => {
                    let s = self.ends[n].streams.get_mut(&id).expect("known");
                    assert_eq!(s.closed, None, "closed twice");
                    s.closed = Some(why);
                    s.closed_at = now;
                    id
                }
                other => panic!("{other:?}"),
            };
            self.top_up(n, id);
        }
        any
    }

    fn drain_datagrams(&mut self, n: usize) {
        let now = self.clock(n);
        let mut out = Vec::new();
        let mut budget = 5000;
        loop {
            let end = &mut self.ends[n];
            let polled = end.transport.poll_datagram(now, &mut end.flows, &mut out);
            let Some((to, ecn)) = polled else {
                break;
            };
            budget -= 1;
            assert!(budget > 0, "it does not stop sending");
            assert_eq!(to, self.ends[1 - n].at);
            decode(&out).expect("what is sent is uTP");
            let end = &mut self.ends[n];
            end.datagrams += 1;
            end.datagram_bytes += out.len() as u64;
            end.largest = end.largest.max(out.len());
            end.markable += u64::from(ecn == Ecn::Ect);
            self.put(n, Bytes::copy_from_slice(&out), ecn);
        }
    }

    /// A datagram enters the link from one end.
    pub(crate) fn put(&mut self, n: usize, bytes: Bytes, mut ecn: Ecn) {
        let link = self.links[n];
        let now = self.now;
        let is_unheard = link.is_deaf && ecn == Ecn::Ect;
        if !(self.filter)(n, now, &bytes) || bytes.len() > link.largest || is_unheard {
            return;
        }
        let now_us = now.as_us();
        let mut left_us = now_us;
        if link.rate_bytes_per_s > 0 {
            let size = bytes.len() as u64 + 28;
            let wait_us = self.free_at_us[n].saturating_sub(now_us);
            let end = &mut self.ends[n];
            if wait_us * link.rate_bytes_per_s / 1_000_000 + size > link.queue_bytes {
                end.dropped += 1;
                return;
            }
            end.longest_wait_us = end.longest_wait_us.max(wait_us);
            if ecn == Ecn::Ect && wait_us > link.marks_after_us {
                end.marked += 1;
                ecn = Ecn::Ce;
            }
            left_us = now_us + wait_us + (size * 1_000_000).div_ceil(link.rate_bytes_per_s);
            self.free_at_us[n] = left_us;
        }
        let mut hits = |ppm| self.rng.below(1_000_000) < ppm;
        if hits(link.loss_ppm) {
            return;
        }
        let copies = if hits(link.duplicate_ppm) { 2 } else { 1 };
        for _ in 0..copies {
            let mut at_us = left_us + link.delay_us;
            if self.rng.below(1_000_000) < link.reorder_ppm {
                at_us += self.rng.below(2 * link.delay_us + 1000);
            }
            self.count += 1;
            self.flying
                .insert((at_us, self.count), (1 - n, bytes.clone(), ecn));
        }
    }

    /// Everything that happens now, then on to the next moment; false if nothing will ever happen.
    pub(crate) fn step(&mut self) -> bool {
        loop {
            let events = self.drain_events(A) | self.drain_events(B);
            self.drain_datagrams(A);
            self.drain_datagrams(B);
            if !events {
                break;
            }
        }
        self.steps += 1;
        if self.steps.is_multiple_of(self.check_every) {
            for end in &self.ends {
                end.transport.check();
                end.flows.check();
            }
        }
        let mut next_us = self.flying.first_key_value().map(|((at_us, _), _)| *at_us);
        for n in [A, B] {
            let end = &self.ends[n];
            let deadline = Deadline::earlier(end.transport.deadline(), end.flows.deadline());
            let Some(deadline) = deadline else {
                continue;
            };
            assert!(deadline.at > self.clock(n), "{deadline:?} has passed");
            let at_us = deadline.at.as_us() - self.ends[n].offset_us;
            next_us = Some(next_us.map_or(at_us, |next| next.min(at_us)));
        }
        let Some(next_us) = next_us else {
            return false;
        };
        self.now = self.now.max(Mono::from_us(next_us));
        while let Some(entry) = self.flying.first_entry()
            && entry.key().0 <= next_us
        {
            let (to, bytes, ecn) = entry.remove();
            let (now, from) = (self.clock(to), self.ends[1 - to].at);
            self.delivered += 1;
            let End {
                transport, flows, ..
            } = &mut self.ends[to];
            assert!(transport.on_datagram(now, flows, from, (&bytes, ecn)));
        }
        for n in [A, B] {
            let now = self.clock(n);
            let end = &mut self.ends[n];
            end.flows.on_tick(now);
            end.transport.on_tick(now, &mut end.flows);
        }
        true
    }

    /// Go on until it is so; how long that took.
    pub(crate) fn until(&mut self, limit_s: u64, mut done: impl FnMut(&Self) -> bool) -> Duration {
        let start = self.now;
        let limit = start + Duration::from_secs(limit_s);
        while !done(self) {
            let goes_on = self.step();
            if !goes_on || self.now > limit {
                assert!(done(self), "stuck at {:?}:\n{}", self.now, self.picture());
            }
        }
        self.now.since(start)
    }

    /// Go on for a while.
    pub(crate) fn run(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while self.now < end && self.step() {}
    }

    /// Both ends' streams are closed, and after that nothing is left over.
    pub(crate) fn until_closed(&mut self, limit_s: u64) -> Duration {
        let took = self.until(limit_s, |w| {
            [A, B].iter().all(|n| {
                let mut streams = w.ends[*n].streams.values();
                streams.clone().count() > 0 && streams.all(|s| s.closed.is_some())
            })
        });
        self.until(120, |w| w.ends.iter().all(|end| end.transport.is_idle()));
        took
    }

    pub(crate) fn picture(&self) -> String {
        let end = |n: usize| -> String {
            let End {
                transport, streams, ..
            } = &self.ends[n];
            let line =
                |(id, s): (&StreamId, &Stream)| format!("{:?} {s:?}\n", transport.facts(*id));
            streams.iter().map(line).collect()
        };
        format!("{}{}", end(A), end(B))
    }
}

/// Drops the first so many packets of a kind that come from one end.
pub(crate) fn drop_first(end: usize, kind: Kind, mut count: u32) -> Filter {
    Box::new(move |from, _, bytes| {
        let is_it = from == end && decode(bytes).is_ok_and(|p| p.header.kind == kind);
        let drops = is_it && count > 0;
        count -= u32::from(drops);
        !drops
    })
}
