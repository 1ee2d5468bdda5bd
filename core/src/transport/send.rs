//! The sending half of a stream: what is in flight, what is lost, what an acknowledgement means.
//!
//! Decides: what counts as lost (RFC 9002, 6.1: a packet is lost when one that left three transmissions later has
//! arrived, or any later one and a little more than a round trip has passed), which round trips are samples (Karn).
//! Never does: windows, timers, pacing.
//! Invariants ([`Sender::check`]): packets in flight are numbered without gaps; each is outstanding, lost or arrived;
//! `flight_bytes` counts the outstanding ones. Work per packet is O(log n).
//! Spec: BEP 29. Tested in `send_tests.rs` and `core/tests/utp.rs`.

use super::bitmap::Bitmap;
use super::outbox::Outbox;
use super::rtt::Rtt;
use crate::limits::{UTP_FLIGHT_PACKETS, UTP_REORDER_TOLERANCE};
use crate::time::Mono;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Outstanding,
    Lost,
    Arrived,
}

#[derive(Clone, Copy, Debug)]
struct Flying {
    /// Place of its payload in the stream.
    start: u64,
    len: u16,
    state: State,
    is_probe: bool,
    times_sent: u32,
    sent_at: Mono,
    first_sent_at: Mono,
    /// Which transmission of the stream it was last.
    transmission: u64,
}

/// A packet to be written: its number, its payload's place and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) number: u64,
    pub(super) start: u64,
    pub(super) len: u16,
    pub(super) is_fin: bool,
}

/// What an acknowledgement said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) acked_bytes: u64,
    /// The cumulative acknowledgement moved on.
    pub(super) has_advanced: bool,
    pub(super) rtt_us: Option<u64>,
    /// Of the packets found lost now, when the youngest was sent first. Probes are not among them.
    pub(super) lost_sent_at: Option<Mono>,
    pub(super) has_probe_arrived: bool,
    pub(super) is_probe_lost: bool,
}

#[derive(Debug)]
pub(super) struct Sender {
    outbox: Outbox,
    /// Place of the first byte that was in no packet.
    next_byte: u64,
    flight: VecDeque<Flying>,
    /// Number of the first packet in flight, or of the next.
    first: u64,
    /// Those of `flight` after the first that have arrived.
    arrived: Bitmap,
    lost: BTreeSet<u64>,
    /// Transmissions whose packets may still be outstanding, in order: which, and the packet's number.
    order: VecDeque<(u64, u64)>,
    next_transmission: u64,
    last_arrived_transmission: u64,
    /// When the oldest transmission counts as lost because it was overtaken.
    overtaken_at: Option<Mono>,
    flight_bytes: u64,
    outstanding: usize,
    fin: Option<u64>,
    /// Acknowledgements of the same number without news.
    repeated_acks: u64,
}

impl Sender {
    pub(super) fn new(first: u64) -> Self {
        Self {
            outbox: Outbox::default(),
            next_byte: 0,
            flight: VecDeque::new(),
            first,
            arrived: Bitmap::new(),
            lost: BTreeSet::new(),
            order: VecDeque::new(),
            next_transmission: UTP_REORDER_TOLERANCE + 1,
            last_arrived_transmission: 0,
            overtaken_at: None,
            flight_bytes: 0,
            outstanding: 0,
            fin: None,
            repeated_acks: 0,
        }
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.outbox.push(bytes);
    }

    /// Bytes given so far.
    pub(super) const fn given_bytes(&self) -> u64 {
        self.outbox.end()
    }

    /// Place of the first byte not acknowledged in order.
    pub(super) fn acked_to(&self) -> u64 {
        self.flight
            .front()
            .map_or(self.next_byte, |packet| packet.start)
    }

    /// Bytes that were in no packet.
    pub(super) const fn unsent_bytes(&self) -> u64 {
        self.outbox.end() - self.next_byte
    }

    /// Bytes that were in no packet will not be sent.
    pub(super) fn truncate(&mut self) {
        self.outbox.truncate(self.next_byte);
    }

    pub(super) const fn flight_bytes(&self) -> u64 {
        self.flight_bytes
    }

    /// Number of the next new packet.
    pub(super) fn next_number(&self) -> u64 {
        self.first + self.flight.len() as u64
    }

    /// Number of the first packet not acknowledged.
    pub(super) const fn first_number(&self) -> u64 {
        self.first
    }

    /// Nothing is on its way.
    pub(super) const fn is_quiet(&self) -> bool {
        self.outstanding == 0
    }

    /// Everything sent was acknowledged.
    pub(super) fn is_acked(&self) -> bool {
        self.flight.is_empty()
    }

    pub(super) const fn is_fin_acked(&self) -> bool {
        matches!(self.fin, Some(fin) if fin < self.first)
    }

    /// Only the FIN waits for its acknowledgement.
    pub(super) fn is_fin_alone(&self) -> bool {
        self.fin == Some(self.first)
    }

    pub(super) fn may_send_new(&self) -> bool {
        self.flight.len() < UTP_FLIGHT_PACKETS && self.fin.is_none()
    }

    /// The first packet to be sent again.
    pub(super) fn lost(&self) -> Option<Part> {
        let number = *self.lost.first()?;
        let packet = self.flight.get(self.place(number)?)?;
        Some(Part {
            number,
            start: packet.start,
            len: packet.len,
            is_fin: self.fin == Some(number),
        })
    }

    /// A lost packet leaves again.
    pub(super) fn on_resent(&mut self, now: Mono, number: u64) {
        let transmission = self.next_transmission;
        let place = self.place(number);
        let Some(packet) = place.and_then(|place| self.flight.get_mut(place)) else {
            return;
        };
        if !self.lost.remove(&number) {
            return;
        }
        packet.state = State::Outstanding;
        packet.is_probe = false;
        packet.times_sent = packet.times_sent.saturating_add(1);
        packet.sent_at = now;
        packet.transmission = transmission;
        self.flight_bytes += u64::from(packet.len);
        self.outstanding += 1;
        self.order.push_back((transmission, number));
        self.next_transmission += 1;
    }

    /// New bytes leave, at most as many as are there.
    pub(super) fn send_new(&mut self, now: Mono, len: u16, is_probe: bool) -> Part {
        let len = u16::try_from(self.unsent_bytes()).map_or(len, |unsent| len.min(unsent));
        self.send(now, len, is_probe)
    }

    /// The FIN leaves, after every byte.
    pub(super) fn send_fin(&mut self, now: Mono) -> Part {
        self.fin = Some(self.next_number());
        self.send(now, 0, false)
    }

    fn send(&mut self, now: Mono, len: u16, is_probe: bool) -> Part {
        let number = self.next_number();
        let start = self.next_byte;
        let transmission = self.next_transmission;
        self.flight.push_back(Flying {
            start,
            len,
            state: State::Outstanding,
            is_probe,
            times_sent: 1,
            sent_at: now,
            first_sent_at: now,
            transmission,
        });
        self.order.push_back((transmission, number));
        self.next_transmission += 1;
        self.next_byte += u64::from(len);
        self.flight_bytes += u64::from(len);
        self.outstanding += 1;
        Part {
            number,
            start,
            len,
            is_fin: self.fin == Some(number),
        }
    }

    pub(super) fn copy(&self, part: Part, out: &mut Vec<u8>) {
        self.outbox.copy(part.start, usize::from(part.len), out);
    }

    /// Everything up to `acked` has arrived, and what `selective` says. `acked` is below [`Self::next_number`].
    pub(super) fn on_ack(
        &mut self,
        now: Mono,
        acked: u64,
        selective: Option<&Bitmap>,
        rtt: &Rtt,
    ) -> Outcome {
        let least_rtt_us = rtt.least_us();
        let mut out = Outcome::default();
        let mut passed = 0;
        // Once something has advanced, what was said to have arrived after it counts too: nobody can take it back.
        while let Some(packet) = self.flight.front().copied()
            && (self.first <= acked || (passed > 0 && packet.state == State::Arrived))
        {
            self.flight.pop_front();
            self.on_arrived(now, self.first, packet, least_rtt_us, &mut out);
            self.first += 1;
            passed += 1;
        }
        if passed > 0 {
            out.has_advanced = true;
            self.repeated_acks = 0;
            self.arrived.advance(passed);
            self.outbox.release(self.acked_to());
        }
        // A selective acknowledgement older than the last one says nothing new.
        if let Some(selective) = selective.filter(|_| acked + 1 == self.first) {
            self.on_selective(now, selective, least_rtt_us, &mut out);
        }
        self.find_lost(now, rtt.patience(), &mut out);
        out
    }

    /// When [`Self::on_overtaken`] is due.
    pub(super) const fn overtaken_at(&self) -> Option<Mono> {
        self.overtaken_at
    }

    /// What was overtaken and has not come since is lost.
    pub(super) fn on_overtaken(&mut self, now: Mono, rtt: &Rtt) -> Outcome {
        let mut out = Outcome::default();
        self.find_lost(now, rtt.patience(), &mut out);
        out
    }

    fn on_selective(
        &mut self,
        now: Mono,
        selective: &Bitmap,
        least_rtt_us: Option<u64>,
        out: &mut Outcome,
    ) {
        let news: Vec<usize> = selective.without(&self.arrived).collect();
        for bit in news {
            let Some(packet) = self.flight.get(bit + 1).copied() else {
                break;
            };
            self.on_arrived(now, self.first + bit as u64 + 1, packet, least_rtt_us, out);
            if let Some(packet) = self.flight.get_mut(bit + 1) {
                packet.state = State::Arrived;
            }
            self.arrived.set(bit);
        }
    }

    fn on_arrived(
        &mut self,
        now: Mono,
        number: u64,
        packet: Flying,
        least_rtt_us: Option<u64>,
        out: &mut Outcome,
    ) {
        match packet.state {
            State::Arrived => return,
            State::Lost => {
                self.lost.remove(&number);
            }
            State::Outstanding => {
                self.flight_bytes -= u64::from(packet.len);
                self.outstanding -= 1;
            }
        }
        out.acked_bytes += u64::from(packet.len);
        out.has_probe_arrived |= packet.is_probe && packet.state == State::Outstanding;
        let rtt_us = now.as_us().saturating_sub(packet.sent_at.as_us());
        if packet.times_sent == 1 {
            out.rtt_us = Some(out.rtt_us.map_or(rtt_us, |least| least.min(rtt_us)));
        } else if least_rtt_us.is_some_and(|least| rtt_us < least) {
            // So soon after it was sent again, it is the first one that has arrived (RFC 8985, 6.2).
            return;
        }
        self.last_arrived_transmission = self.last_arrived_transmission.max(packet.transmission);
    }

    /// Outstanding packets that were overtaken by enough, or long enough ago.
    fn find_lost(&mut self, now: Mono, patience: Option<Duration>, out: &mut Outcome) {
        self.overtaken_at = None;
        while let Some((transmission, number)) = self.order.front().copied() {
            let place = self.place(number);
            let packet = place.and_then(|place| self.flight.get(place));
            let is_it =
                |p: &&Flying| p.state == State::Outstanding && p.transmission == transmission;
            if let Some(packet) = packet.filter(is_it) {
                let by = self.last_arrived_transmission.checked_sub(transmission);
                let lost_at = patience.map(|patience| packet.sent_at + patience);
                match by {
                    None | Some(0) => break,
                    Some(by) if by >= UTP_REORDER_TOLERANCE => {}
                    Some(_) if lost_at.is_some_and(|at| at <= now) => {}
                    Some(_) => {
                        self.overtaken_at = lost_at;
                        break;
                    }
                }
                self.lose(number, out);
            }
            self.order.pop_front();
        }
    }

    fn lose(&mut self, number: u64, out: &mut Outcome) {
        let place = self.place(number);
        let Some(packet) = place.and_then(|place| self.flight.get_mut(place)) else {
            return;
        };
        if packet.state != State::Outstanding {
            return;
        }
        packet.state = State::Lost;
        self.flight_bytes -= u64::from(packet.len);
        self.outstanding -= 1;
        self.lost.insert(number);
        if packet.is_probe {
            packet.is_probe = false;
            out.is_probe_lost = true;
        } else {
            out.lost_sent_at = out.lost_sent_at.max(Some(packet.first_sent_at));
        }
    }

    /// The last outstanding packet is to go again, so that its acknowledgement tells what else has arrived. That is no
    /// sign of congestion yet.
    pub(super) fn probe_tail(&mut self) -> Outcome {
        let mut out = Outcome::default();
        let last = self
            .flight
            .iter()
            .rposition(|p| p.state == State::Outstanding);
        if let Some(place) = last {
            self.lose(self.first + place as u64, &mut out);
            out.lost_sent_at = None;
        }
        out
    }

    /// The same number was acknowledged again, without a selective acknowledgement: the third time the first packet
    /// is lost (RFC 5681), for peers that know nothing better.
    pub(super) fn on_repeated_ack(&mut self) -> Outcome {
        let mut out = Outcome::default();
        if !self.flight.is_empty() {
            self.repeated_acks += 1;
            if self.repeated_acks == UTP_REORDER_TOLERANCE {
                self.lose(self.first, &mut out);
            }
        }
        out
    }

    /// Nothing was heard in time: everything outstanding is lost.
    pub(super) fn on_timeout(&mut self) -> Outcome {
        let mut out = Outcome::default();
        for place in 0..self.flight.len() as u64 {
            self.lose(self.first + place, &mut out);
        }
        self.order.clear();
        self.overtaken_at = None;
        self.repeated_acks = 0;
        out
    }

    fn place(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.first)?).ok()
    }

    pub(super) fn check(&self) {
        let count = |state| self.flight.iter().filter(|p| p.state == state).count();
        let outstanding = self
            .flight
            .iter()
            .filter(|p| p.state == State::Outstanding)
            .map(|p| u64::from(p.len));
        assert_eq!(outstanding.sum::<u64>(), self.flight_bytes);
        assert_eq!(count(State::Outstanding), self.outstanding);
        assert_eq!(count(State::Lost), self.lost.len());
        assert!(self.flight.len() <= UTP_FLIGHT_PACKETS + 1, "and the FIN");
        let is_probing = |p: &&Flying| p.is_probe && p.state == State::Outstanding;
        assert!(self.flight.iter().filter(is_probing).count() <= 1);
        let mut at = self.acked_to();
        for (place, packet) in self.flight.iter().enumerate() {
            assert_eq!(packet.start, at);
            at += u64::from(packet.len);
            let told = place > 0 && self.arrived.is_set(place - 1);
            assert_eq!(told, packet.state == State::Arrived);
        }
        assert_eq!(at, self.next_byte);
    }
}
