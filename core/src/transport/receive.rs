//! The receiving half of a stream: what came in order, what came too early, what the reader may have.
//!
//! Decides: what is kept, what is dropped, how large the window is. Never does: acknowledgements' timing.
//! Invariants ([`Receiver::check`]): bytes are delivered in order, once, and never more than was granted; what is kept
//! is bounded in bytes (twice the capacity: in order and too early) and in packets.
//! Spec: BEP 29; `machine.rs`, lines 3 and 6. Tested here and in `core/tests/utp.rs`.

use super::bitmap::Bitmap;
use crate::limits::{UTP_RECEIVE_CREDIT_MAX, UTP_REORDER_PACKETS, UTP_UNGRANTED_BYTES};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use bytes::Bytes;

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It continues the stream, and nothing is missing.
    InOrder,
    /// It was missing, or something before it still is.
    AroundGap,
    /// It had come before, or is not part of the stream.
    Useless,
    /// There is no room for it.
    NoRoom,
}

#[derive(Debug)]
pub(super) struct Receiver {
    /// Number of the packet that continues the stream.
    next: u64,
    early: BTreeMap<u64, Bytes>,
    early_bits: Bitmap,
    early_bytes: u64,
    /// In order, and waiting for credit.
    held: VecDeque<Bytes>,
    held_bytes: u64,
    credit_bytes: u64,
    fin: Option<u64>,
    /// Nobody reads any more: what comes is acknowledged and dropped.
    is_discarding: bool,
    /// The window as last told, less what has come since.
    told_bytes: u64,
}

impl Receiver {
    pub(super) const fn new(next: u64) -> Self {
        Self {
            next,
            early: BTreeMap::new(),
            early_bits: Bitmap::new(),
            early_bytes: 0,
            held: VecDeque::new(),
            held_bytes: 0,
            credit_bytes: 0,
            fin: None,
            is_discarding: false,
            told_bytes: UTP_UNGRANTED_BYTES,
        }
    }

    /// The peer's numbers begin here.
    pub(super) const fn begin(&mut self, next: u64) {
        self.next = next;
    }

    pub(super) const fn next_number(&self) -> u64 {
        self.next
    }

    /// Whether a packet of that number may be part of the stream or has been.
    pub(super) fn is_plausible(&self, number: u64) -> bool {
        number < self.next + UTP_REORDER_PACKETS as u64
            && number + 4 * UTP_REORDER_PACKETS as u64 > self.next
    }

    pub(super) fn has_gap(&self) -> bool {
        !self.early.is_empty()
    }

    /// Every byte of the peer has come, and its FIN.
    pub(super) const fn has_ended(&self) -> bool {
        matches!(self.fin, Some(fin) if fin < self.next)
    }

    /// ... and the reader has them all.
    pub(super) fn is_delivered(&self) -> bool {
        self.has_ended() && self.held.is_empty()
    }

    pub(super) fn grant(&mut self, bytes: u64) {
        self.credit_bytes = self.credit_bytes.saturating_add(bytes);
    }

    /// Nobody reads any more.
    pub(super) fn discard(&mut self) {
        self.is_discarding = true;
        self.held.clear();
        self.held_bytes = 0;
        self.early_bytes = 0;
        for bytes in self.early.values_mut() {
            *bytes = Bytes::new();
        }
    }

    fn capacity_bytes(&self) -> u64 {
        self.credit_bytes.min(UTP_RECEIVE_CREDIT_MAX) + UTP_UNGRANTED_BYTES
    }

    /// What the peer may have in flight.
    pub(super) fn window_bytes(&self) -> u64 {
        if self.held.len() >= UTP_REORDER_PACKETS {
            return 0;
        }
        let kept_bytes = self.held_bytes + self.early_bytes;
        self.capacity_bytes().saturating_sub(kept_bytes)
    }

    /// The window was told to the peer.
    pub(super) const fn on_told(&mut self, window_bytes: u64) {
        self.told_bytes = window_bytes;
    }

    /// The peer can hardly send a packet, as far as it knows.
    pub(super) const fn is_nearly_closed(&self, packet_bytes: u64) -> bool {
        self.told_bytes < 2 * packet_bytes
    }

    /// The window has grown so much that the peer should hear of it, because it may be waiting.
    pub(super) fn is_update_due(&self, packet_bytes: u64) -> bool {
        let more_bytes = self.window_bytes().saturating_sub(self.told_bytes);
        let worth_bytes = if self.is_nearly_closed(packet_bytes) {
            packet_bytes
        } else {
            (self.capacity_bytes() / 4).max(2 * packet_bytes)
        };
        !self.is_discarding && more_bytes >= worth_bytes
    }

    pub(super) fn on_packet(&mut self, number: u64, payload: Bytes, is_fin: bool) -> Arrival {
        let past_fin = self.fin.is_some_and(|fin| number > fin);
        if number < self.next || past_fin || self.early.contains_key(&number) {
            return Arrival::Useless;
        }
        if number >= self.next + UTP_REORDER_PACKETS as u64 || !self.has_room(number, &payload) {
            return Arrival::NoRoom;
        }
        if is_fin {
            // Whatever came after the end is not part of the stream.
            self.fin = Some(number);
            for (_, bytes) in self.early.split_off(&(number + 1)) {
                self.early_bytes -= bytes.len() as u64;
            }
            self.early_bits = Bitmap::new();
            for early in self.early.keys() {
                self.early_bits.set((early - self.next - 1) as usize);
            }
        }
        self.told_bytes = self.told_bytes.saturating_sub(payload.len() as u64);
        let payload = if self.is_discarding {
            Bytes::new()
        } else {
            payload
        };
        if number > self.next {
            self.early_bytes += payload.len() as u64;
            self.early_bits.set((number - self.next - 1) as usize);
            self.early.insert(number, payload);
            return Arrival::AroundGap;
        }
        let had_gap = self.has_gap();
        self.hold(payload);
        let mut passed = 1;
        while let Some(bytes) = self.early.remove(&(self.next + passed)) {
            self.early_bytes -= bytes.len() as u64;
            self.hold(bytes);
            passed += 1;
        }
        self.next += passed;
        self.early_bits.advance(passed as usize);
        if had_gap {
            Arrival::AroundGap
        } else {
            Arrival::InOrder
        }
    }

    /// What continues the stream has room beside what came too early, or a gap could never close.
    fn has_room(&self, number: u64, payload: &Bytes) -> bool {
        if self.is_discarding || payload.is_empty() {
            return true;
        }
        let beside_bytes = if number == self.next {
            0
        } else {
            self.early_bytes
        };
        let kept_bytes = self.held_bytes + beside_bytes + payload.len() as u64;
        kept_bytes <= self.capacity_bytes() && self.held.len() < UTP_REORDER_PACKETS
    }

    fn hold(&mut self, payload: Bytes) {
        if !payload.is_empty() {
            self.held_bytes += payload.len() as u64;
            self.held.push_back(payload);
        }
    }

    /// The next bytes for the reader, as credit allows.
    pub(super) fn deliver(&mut self) -> Option<Bytes> {
        if self.credit_bytes == 0 {
            return None;
        }
        let mut bytes = self.held.pop_front()?;
        let most = usize::try_from(self.credit_bytes).unwrap_or(usize::MAX);
        if bytes.len() > most {
            let rest = bytes.split_off(most);
            self.held.push_front(rest);
        }
        self.credit_bytes -= bytes.len() as u64;
        self.held_bytes -= bytes.len() as u64;
        Some(bytes)
    }

    /// What a selective acknowledgement says; nothing without a gap.
    pub(super) fn write_selective(&self, out: &mut Vec<u8>) {
        self.early_bits.write(out);
    }

    pub(super) fn check(&self) {
        let sum = |parts: &mut dyn Iterator<Item = &Bytes>| parts.map(|b| b.len() as u64).sum();
        let (early, held): (u64, u64) = (sum(&mut self.early.values()), sum(&mut self.held.iter()));
        assert_eq!((early, held), (self.early_bytes, self.held_bytes));
        assert!(self.early.len() < UTP_REORDER_PACKETS);
        assert!(self.held.len() <= 2 * UTP_REORDER_PACKETS);
        assert!(held == 0 || self.credit_bytes == 0, "delivered at once");
        assert!(held <= 2 * (UTP_RECEIVE_CREDIT_MAX + UTP_UNGRANTED_BYTES));
        let mut bits = Bitmap::new();
        for number in self.early.keys() {
            assert!(*number > self.next);
            bits.set((number - self.next - 1) as usize);
        }
        assert_eq!(bits, self.early_bits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(number: u64) -> Bytes {
        Bytes::from(Vec::from([number as u8; 1000]))
    }

    fn read(receiver: &mut Receiver) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(bytes) = receiver.deliver() {
            out.extend_from_slice(&bytes);
        }
        receiver.check();
        out
    }

    #[test]
    fn packets_come_out_in_order_and_once() {
        let mut r = Receiver::new(10);
        r.grant(100_000);
        assert_eq!(r.on_packet(10, packet(10), false), Arrival::InOrder);
        assert_eq!(r.on_packet(12, packet(12), false), Arrival::AroundGap);
        assert_eq!(r.on_packet(12, packet(12), false), Arrival::Useless);
        assert_eq!(r.on_packet(10, packet(10), false), Arrival::Useless);
        assert_eq!(read(&mut r), packet(10));
        let mut told = Vec::new();
        r.write_selective(&mut told);
        assert_eq!(told, [1, 0, 0, 0]);
        assert_eq!(r.on_packet(11, packet(11), false), Arrival::AroundGap);
        assert_eq!(read(&mut r), [packet(11), packet(12)].concat());
        assert_eq!((r.next_number(), r.has_gap()), (13, false));
    }

    #[test]
    fn without_credit_little_is_kept_and_nothing_delivered() {
        let mut r = Receiver::new(0);
        let kept = (0..100)
            .filter(|n| r.on_packet(*n, packet(*n), false) == Arrival::InOrder)
            .count();
        assert_eq!(kept, 32);
        assert_eq!(r.window_bytes(), 768);
        assert!(read(&mut r).is_empty());
        r.on_told(768);
        assert!(!r.is_update_due(1000));
        r.grant(1500);
        assert_eq!(read(&mut r).len(), 1500);
        assert!(r.is_update_due(1000));
        r.grant(1 << 30);
        assert_eq!(read(&mut r).len(), 30_500);
        assert_eq!(
            r.window_bytes(),
            UTP_RECEIVE_CREDIT_MAX + UTP_UNGRANTED_BYTES
        );
    }

    #[test]
    fn a_gap_can_close_when_all_room_is_taken() {
        let mut r = Receiver::new(0);
        for number in 1..=40 {
            r.on_packet(number, packet(number), false);
        }
        assert_eq!(r.on_packet(33, packet(33), false), Arrival::NoRoom);
        assert_eq!(r.on_packet(0, packet(0), false), Arrival::AroundGap);
        assert_eq!((r.next_number(), r.window_bytes()), (33, 0));
        r.check();
    }

    #[test]
    fn the_end_comes_after_everything() {
        let mut r = Receiver::new(0);
        r.grant(1500);
        assert_eq!(r.on_packet(3, packet(3), false), Arrival::AroundGap);
        assert_eq!(r.on_packet(2, Bytes::new(), true), Arrival::AroundGap);
        assert_eq!(r.on_packet(3, packet(3), false), Arrival::Useless);
        r.check();
        assert_eq!(r.on_packet(1, packet(1), false), Arrival::AroundGap);
        assert!(!r.has_ended());
        assert_eq!(r.on_packet(0, packet(0), false), Arrival::AroundGap);
        assert_eq!(read(&mut r).len(), 1500);
        assert!(r.has_ended() && !r.is_delivered());
        r.grant(500);
        assert_eq!(read(&mut r).len(), 500);
        assert!(r.is_delivered());
    }

    #[test]
    fn tiny_packets_do_not_fill_memory() {
        let mut r = Receiver::new(0);
        let tiny = || Bytes::from_static(b"x");
        let kept = (0..5000)
            .filter(|n| r.on_packet(*n, tiny(), false) == Arrival::InOrder)
            .count();
        assert_eq!((kept, r.window_bytes()), (UTP_REORDER_PACKETS, 0));
        r.check();
    }
}
