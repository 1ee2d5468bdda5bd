//! A one-way link at work: who uses the serialiser next, what the queue drops, how late a packet arrives.
//!
//! A host's uplink asks its streams and its datagram queue in turn, one packet each (so streams of one
//! host share it fairly and wait without loss). Every other link is a plain FIFO with tail drop.

use super::clock::{ns, transfer_ns};
use super::nat::Reach;
use super::spec::LinkSpec;
use crate::machine::Ecn;
use crate::rng::Rng;
use bytes::Bytes;
use core::net::SocketAddr;
use std::boxed::Box;
use std::collections::VecDeque;

/// Bytes on the wire besides the payload: a segment's or datagram's headers.
pub(super) const HEADER_BYTES: u64 = 40;

/// Who may send the next packet of an uplink.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    Flow { conn: u32, dir: u8 },
    Datagrams,
}

/// A datagram on its way.
pub(super) struct Flying {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) from_host: u32,
    pub(super) towards: Reach,
    pub(super) bytes: Bytes,
    pub(super) ecn: Ecn,
}

/// What a link has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Payload bytes, retransmissions included.
    pub bytes: u64,
    pub packets: u64,
    /// Dropped by the full queue, lost on the wire.
    pub dropped: u64,
    pub lost: u64,
    /// Datagrams that a host has sent over it.
    pub datagrams: u64,
    /// Datagrams that got a mark of congestion.
    pub marked: u64,
}

pub(super) struct Link {
    pub(super) spec: LinkSpec,
    pub(super) counters: LinkCounters,
    rng: Rng,
    pub(super) busy_until_ns: u64,
    last_arrival_ns: u64,
    pub(super) round: VecDeque<Sender>,
    pub(super) datagrams: VecDeque<Box<Flying>>,
    pub(super) datagram_bytes: u64,
}

impl Link {
    pub(super) fn new(spec: LinkSpec, rng: Rng) -> Self {
        Self {
            spec,
            counters: LinkCounters::default(),
            rng,
            busy_until_ns: 0,
            last_arrival_ns: 0,
            round: VecDeque::new(),
            datagrams: VecDeque::new(),
            datagram_bytes: 0,
        }
    }

    /// A packet comes to a FIFO link: when it arrives at the other end, if it does.
    pub(super) fn forward(&mut self, now_ns: u64, payload: u64) -> Option<u64> {
        let wait_ns = self.busy_until_ns.saturating_sub(now_ns);
        if wait_ns > 0 && self.spec.rate_bytes_per_s > 0 {
            let queued = wait_ns as u128 * self.spec.rate_bytes_per_s as u128 / 1_000_000_000;
            if queued as u64 + payload > self.spec.queue_bytes {
                self.counters.dropped += 1;
                return None;
            }
        }
        let left_ns = self.serialise(now_ns, payload);
        self.arrival(left_ns)
    }

    /// A datagram comes to the link: it gets a mark if it waits too long and may have one.
    pub(super) fn mark(&mut self, now_ns: u64, ecn: &mut Ecn) {
        let wait_ns = self.busy_until_ns.saturating_sub(now_ns);
        if *ecn == Ecn::Ect
            && self
                .spec
                .marks_after
                .is_some_and(|after| wait_ns > ns(after))
        {
            *ecn = Ecn::Ce;
            self.counters.marked += 1;
        }
    }

    /// Occupy the wire for one packet; when its last bit has left.
    pub(super) fn serialise(&mut self, now_ns: u64, payload: u64) -> u64 {
        let took = transfer_ns(payload + HEADER_BYTES, self.spec.rate_bytes_per_s);
        self.busy_until_ns = self.busy_until_ns.max(now_ns) + took;
        self.counters.bytes += payload;
        self.counters.packets += 1;
        self.busy_until_ns
    }

    /// When a packet that left at this moment arrives, if the wire does not lose it.
    pub(super) fn arrival(&mut self, left_ns: u64) -> Option<u64> {
        let spec = self.spec;
        if self.hits(spec.loss_ppm) {
            self.counters.lost += 1;
            return None;
        }
        let mut at = left_ns + ns(spec.delay);
        if !spec.jitter.is_zero() {
            at += self.rng.below(ns(spec.jitter));
        }
        if self.hits(spec.reorder_ppm) {
            let late = (ns(spec.delay) + ns(spec.jitter)).max(1_000_000);
            return Some(at + self.rng.below(late));
        }
        self.last_arrival_ns = self.last_arrival_ns.max(at);
        Some(self.last_arrival_ns)
    }

    fn hits(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.rng.below(1_000_000) < u64::from(ppm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    #[test]
    fn a_fifo_serialises_delays_and_drops_its_tail() {
        let spec = LinkSpec::rate(1_000_000)
            .delay(Duration::from_millis(10))
            .queue(3000);
        let mut link = Link::new(spec, Rng::from_u64(1));
        assert_eq!(link.forward(0, 960), Some(11_000_000));
        assert_eq!(link.forward(0, 960), Some(12_000_000));
        assert_eq!(link.forward(0, 960), Some(13_000_000));
        assert_eq!(link.forward(0, 960), None);
        assert_eq!(link.forward(3_000_000, 960), Some(14_000_000));
        assert_eq!((link.counters.packets, link.counters.dropped), (4, 1));
    }

    #[test]
    fn jitter_keeps_order_and_reordering_does_not() {
        let mut spec = LinkSpec::rate(0).jitter(Duration::from_millis(5));
        let mut link = Link::new(spec, Rng::from_u64(1));
        let mut times: std::vec::Vec<_> = (0..1000).map(|t| link.forward(t, 100)).collect();
        assert!(times.is_sorted());
        spec.reorder_ppm = 100_000;
        link.spec = spec;
        times = (0..1000)
            .map(|t| link.forward(t + 10_000_000, 100))
            .collect();
        assert!(!times.is_sorted());
    }
}
