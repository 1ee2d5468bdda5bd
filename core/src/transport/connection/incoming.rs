//! What a packet of the peer does to a stream.
//!
//! Decides: which packets count, what an acknowledgement means for the windows, when one is owed in turn.
//! Spec: BEP 29, RFC 5681. Tested in `core/tests/utp.rs`.

use super::super::bitmap::Bitmap;
use super::super::flow::News;
use super::super::packet::{Header, Kind, Packet, number_near};
use super::super::receive::Arrival;
use super::super::send::{Outcome, Sender};
use super::{Connection, LAP, Phase, SYN};
use crate::congestion::Ack;
use crate::limits::{UTP_ACK_DELAY, UTP_ACK_PACKETS, UTP_REORDER_PACKETS};
use crate::machine::{Ecn, Input, Listener, Lost};
use crate::time::Mono;
use alloc::collections::VecDeque;
use bytes::Bytes;

/// What some peers say of our delay before they know it (libtorrent knows of them); others say 0.
const NOT_MEASURED: u32 = i32::MAX as u32;

impl Connection {
    pub(in crate::transport) fn on_packet(
        &mut self,
        now: Mono,
        packet: &Packet<'_>,
        (payload, ecn): (Bytes, Ecn),
        events: &mut VecDeque<Input>,
    ) {
        match (packet.header.kind, self.phase) {
            (_, Phase::Gone) => {}
            (Kind::Reset, _) => self.on_reset(now, packet.header.ack, events),
            (Kind::Syn, Phase::Unconfirmed) => self.is_ack_due = true,
            (Kind::Syn, _) => {}
            (Kind::State, Phase::Connecting) => self.on_syn_ack(now, packet, events),
            (_, Phase::Connecting) => {}
            (Kind::Data | Kind::Fin | Kind::State, _) => {
                self.on_stream_packet(now, packet, (payload, ecn), events);
            }
        }
    }

    fn on_syn_ack(&mut self, now: Mono, packet: &Packet<'_>, events: &mut VecDeque<Input>) {
        let header = &packet.header;
        if header.ack != SYN as u16 {
            return;
        }
        self.hear(now, header);
        self.marks.on_heard(packet.congestion);
        self.peer_window_bytes = header.window_bytes.into();
        self.peer_window_stamp_us = header.timestamp_us;
        // The answer to a SYN has the number of the first packet that will follow it.
        self.receiver.begin(LAP + u64::from(header.seq));
        if self.syns_sent == 1 {
            self.rtt.sample(self.since_us(now, self.sent_at));
        }
        self.rtt.on_progress();
        self.is_syn_due = false;
        self.timeout_at = None;
        self.phase = Phase::Open;
        // The other side tells its owner of us when it hears from us, be there data or not.
        self.is_ack_due = true;
        let (stream, to) = (self.id, self.peer);
        events.push_back(Input::Opened { stream, to });
        self.settle(now, events);
    }

    fn since_us(&self, now: Mono, then: Mono) -> u64 {
        now.as_us().saturating_sub(then.as_us()).max(1)
    }

    fn hear(&mut self, now: Mono, header: &Header) {
        self.heard_at = now;
        if header.timestamp_us != 0 {
            self.difference_us = (now.as_us() as u32).wrapping_sub(header.timestamp_us);
        }
    }

    fn on_stream_packet(
        &mut self,
        now: Mono,
        packet: &Packet<'_>,
        (payload, ecn): (Bytes, Ecn),
        events: &mut VecDeque<Input>,
    ) {
        let header = &packet.header;
        let before = self.sender.first_number() - 1;
        let acked = number_near(before, header.ack);
        let number = number_near(self.receiver.next_number(), header.seq);
        let carries = header.kind != Kind::State;
        if acked >= self.sender.next_number()
            || acked + (UTP_REORDER_PACKETS as u64) < before
            || (carries && !self.receiver.is_plausible(number))
        {
            return;
        }
        if self.phase == Phase::Unconfirmed {
            if acked != before {
                return;
            }
            self.phase = Phase::Open;
            events.push_back(Input::Accepted {
                stream: self.id,
                listener: Listener::Peers,
                from: self.peer,
            });
        }
        self.hear(now, header);
        if self.marks.on_heard(packet.congestion) {
            self.news.push(News::Loss);
        }
        self.is_ack_due |= self.marks.on_received(ecn);
        self.on_ack(now, packet, acked);
        if carries {
            let is_fin = header.kind == Kind::Fin;
            self.on_payload(now, number, payload, is_fin);
        }
        self.settle(now, events);
    }

    fn on_ack(&mut self, now: Mono, packet: &Packet<'_>, acked: u64) {
        let header = &packet.header;
        let window_bytes = u64::from(header.window_bytes);
        let is_current = acked + 1 >= self.sender.first_number();
        let age = header.timestamp_us.wrapping_sub(self.peer_window_stamp_us) as i32;
        let is_same_window = window_bytes == self.peer_window_bytes;
        // A window that opens is believed in any case: the peer's clock may have been set back.
        let is_newer = acked >= self.sender.first_number()
            || age >= 0
            || window_bytes > self.peer_window_bytes;
        if is_current && is_newer {
            self.peer_window_bytes = window_bytes;
            self.peer_window_stamp_us = header.timestamp_us;
        }
        let allowed_bytes = self.allowed.window_bytes;
        let is_limited = self.is_window_limited
            || (self.sender.unsent_bytes() > 0 && 2 * self.sender.flight_bytes() >= allowed_bytes);
        let selective = packet.selective_ack.map(Bitmap::from_bytes);
        let outcome = self
            .sender
            .on_ack(now, acked, selective.as_ref(), &self.rtt);
        let difference_us = header.timestamp_difference_us;
        let is_measured = difference_us != 0 && difference_us != NOT_MEASURED;
        let one_way_us = is_measured.then_some(difference_us);
        self.on_outcome(now, outcome, one_way_us, is_limited);
        let is_repeated = header.kind == Kind::State
            && selective.is_none()
            && is_current
            && is_same_window
            && !outcome.has_advanced;
        if is_repeated {
            let outcome = self.sender.on_repeated_ack();
            self.on_outcome(now, outcome, None, false);
        }
    }

    pub(super) fn on_outcome(
        &mut self,
        now: Mono,
        outcome: Outcome,
        one_way_us: Option<u32>,
        is_window_limited: bool,
    ) {
        self.untold_bytes += outcome.acked_bytes;
        if outcome.has_advanced || outcome.acked_bytes > 0 {
            self.progress_at = now;
            self.is_asking = false;
            self.rtt.on_progress();
        }
        if let Some(rtt_us) = outcome.rtt_us {
            let rtt_us = rtt_us.max(1);
            self.rtt.sample(rtt_us);
            // Probes of the MTU are never marked.
            if !outcome.has_probe_arrived {
                self.marks.on_arrived();
            }
            let ack = Ack {
                bytes: core::mem::take(&mut self.untold_bytes),
                rtt_us,
                one_way_us,
                is_window_limited,
                may_be_late: false,
            };
            self.news.push(News::Ack(ack));
            self.is_window_limited = false;
        }
        if outcome.has_probe_arrived {
            self.mtu.on_probe_arrived();
        }
        if outcome.is_probe_lost {
            self.mtu.on_probe_lost();
        }
        // Packets that left before congestion control was told of a loss were lost to the same congestion.
        if let Some(sent_at) = outcome.lost_sent_at
            && self.loss_told_at.is_none_or(|told_at| sent_at >= told_at)
        {
            self.loss_told_at = Some(now);
            self.marks.on_lost();
            self.news.push(News::Loss);
        }
        if outcome.has_advanced || outcome.acked_bytes > 0 {
            let timeout_at = now + self.rtt.timeout();
            self.timeout_at = (!self.sender.is_acked()).then_some(timeout_at);
            self.has_probed_tail = false;
            self.watch_tail(now);
        }
    }

    fn on_payload(&mut self, now: Mono, number: u64, payload: Bytes, is_fin: bool) {
        let arrival = self.receiver.on_packet(number, payload, is_fin);
        self.updates_left = 0;
        if arrival == Arrival::InOrder && !is_fin {
            self.packets_to_ack += 1;
            self.is_ack_due |= self.packets_to_ack >= UTP_ACK_PACKETS;
            let ack_at = now + UTP_ACK_DELAY;
            self.ack_at = Some(self.ack_at.map_or(ack_at, |at| at.min(ack_at)));
        } else {
            self.is_ack_due = true;
        }
    }

    fn on_reset(&mut self, now: Mono, ack: u16, events: &mut VecDeque<Input>) {
        // It answers a packet of ours, or tells what the peer has: nothing we did not send.
        let before = self.sender.first_number() - 1;
        if number_near(before, ack) > self.sender.next_number() {
            return;
        }
        match self.phase {
            Phase::Connecting => self.end(Lost::Refused, events),
            Phase::Open if !self.is_closing && self.receiver.has_ended() => {
                // All its bytes are here; the reader shall have them.
                self.is_deaf = true;
                self.wants_fin = false;
                self.sender = Sender::new(self.sender.next_number());
                self.taken_to = 0;
                self.timeout_at = None;
                self.settle(now, events);
            }
            Phase::Open if self.is_closing && self.sender.is_fin_alone() => {
                self.end(Lost::Asked, events);
            }
            Phase::Open => self.end(Lost::Reset, events),
            Phase::Unconfirmed | Phase::Lingering | Phase::Gone => self.phase = Phase::Gone,
        }
    }
}
