//! One stream over datagrams: its handshake, its timers, its end.
//!
//! ```text
//!  connect ── Connecting ──┐                 ┌── Lingering ──┐
//!                          ├───── Open ──────┤               ├── Gone
//!  SYN ────── Unconfirmed ─┘                 └───────────────┘
//! ```
//!
//! Decides: when a packet counts, when an answer is overdue, when the stream is closed and why.
//! Never does: choosing packets to send (`outgoing.rs`), knowing other streams.
//! Invariants ([`Connection::check`]): the owner is told `Closed` once and nothing after it; whatever is outstanding
//! has a timer. Spec: BEP 29, RFC 6298; `machine.rs`, lines 3, 4 and 6. Tested in `core/tests/utp.rs`.

use super::bitmap::Bitmap;
use super::mtu::Mtu;
use super::pace::Pace;
use super::packet::{HEADER_LEN, Header, Kind, Packet, number_near};
use super::receive::{Arrival, Receiver};
use super::rtt::Rtt;
use super::send::{Outcome, Sender};
use super::{ConnId, Event};
use crate::congestion::{Ack, Controller};
use crate::limits::{
    CONNECT_TIMEOUT, UTP_ACK_DELAY, UTP_ACK_PACKETS, UTP_GIVE_UP, UTP_KEEP_ALIVE, UTP_LINGER,
    UTP_MTU_TIMEOUTS, UTP_REORDER_PACKETS, UTP_SEND_BUFFER_MAX, UTP_SEND_BUFFER_MIN,
    UTP_UNGRANTED_BYTES,
};
use crate::machine::Lost;
use crate::time::{Deadline, Mono};
use alloc::collections::VecDeque;
use bytes::Bytes;
use core::net::SocketAddr;

/// Inside, numbers begin one lap of the 16 bits up, so that there are numbers before the first.
const LAP: u64 = 1 << 16;

/// The number of a SYN, as libutp has it.
const SYN: u64 = LAP + 1;

/// What some peers say of our delay before they know it (libtorrent knows of them); others say 0.
const NOT_MEASURED: u32 = i32::MAX as u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// SYN sent.
    Connecting,
    /// SYN answered; the peer has not shown that it has the answer, and nobody was told of it.
    Unconfirmed,
    Open,
    /// The owner was told `Closed`; late packets are still answered.
    Lingering,
    Gone,
}

#[derive(Debug)]
pub(super) struct Connection {
    id: ConnId,
    pub(super) peer: SocketAddr,
    pub(super) receive_id: u16,
    pub(super) send_id: u16,
    pub(super) phase: Phase,
    pub(super) control: Controller,
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    pub(super) mtu: Mtu,
    pub(super) pace: Pace,
    pub(super) rtt: Rtt,
    began_at: Mono,

    /// What the peer takes, and its clock when it said so.
    pub(super) peer_window_bytes: u64,
    peer_window_stamp_us: u32,
    /// Our clock at the arrival of the peer's last packet less its clock at sending.
    pub(super) difference_us: u32,

    /// The SYN is to be sent; how often it was.
    pub(super) is_syn_due: bool,
    pub(super) syns_sent: u32,
    /// Packets to acknowledge, and when at the latest.
    packets_to_ack: u32,
    is_ack_due: bool,
    ack_at: Option<Mono>,
    /// Something left last.
    pub(super) sent_at: Mono,

    heard_at: Mono,
    /// Something was acknowledged last, or began to wait for that.
    pub(super) progress_at: Mono,
    pub(super) timeout_at: Option<Mono>,
    /// When the last packet goes again; once until something is acknowledged.
    tail_at: Option<Mono>,
    has_probed_tail: bool,
    pub(super) paced_until: Option<Mono>,
    /// The peer's window is closed and is asked about with single packets; one may leave now.
    pub(super) is_asking: bool,
    pub(super) may_ask: bool,
    /// More would have left if the congestion window were larger.
    pub(super) is_window_limited: bool,
    /// Acknowledged bytes the controller has not heard of for want of a round trip to tell with them.
    untold_bytes: u64,
    loss_told_at: Option<Mono>,

    /// Place in the stream up to which the writer was told `Sent`.
    taken_to: u64,
    /// The owner has asked for the end once everything is sent.
    is_closing: bool,
    /// A FIN is to follow the last byte.
    pub(super) wants_fin: bool,
    /// The peer is gone: nothing will be sent.
    is_deaf: bool,
    linger_until: Option<Mono>,

    /// When the transport will look at its timers, and whether it will ask for packets.
    pub(super) armed_at: Option<Mono>,
    pub(super) is_ready: bool,
}

impl Connection {
    pub(super) fn connect(
        now: Mono,
        id: ConnId,
        peer: SocketAddr,
        receive_id: u16,
        control: Controller,
    ) -> Self {
        let send_id = receive_id.wrapping_add(1);
        let mut it = Self::new(now, id, peer, (receive_id, send_id), control, SYN + 1);
        it.phase = Phase::Connecting;
        it.is_syn_due = true;
        it
    }

    /// In answer to a SYN; `seq` is what we number from.
    pub(super) fn accept(
        now: Mono,
        id: ConnId,
        peer: SocketAddr,
        syn: &Header,
        seq: u16,
        control: Controller,
    ) -> Self {
        let ids = (syn.connection_id.wrapping_add(1), syn.connection_id);
        let mut it = Self::new(now, id, peer, ids, control, LAP + u64::from(seq));
        it.receiver.begin(LAP + u64::from(syn.seq) + 1);
        it.peer_window_bytes = syn.window_bytes.into();
        it.peer_window_stamp_us = syn.timestamp_us;
        it.difference_us = (now.as_us() as u32).wrapping_sub(syn.timestamp_us);
        it.is_ack_due = true;
        it
    }

    fn new(
        now: Mono,
        id: ConnId,
        peer: SocketAddr,
        (receive_id, send_id): (u16, u16),
        control: Controller,
        first: u64,
    ) -> Self {
        Self {
            id,
            peer,
            receive_id,
            send_id,
            phase: Phase::Unconfirmed,
            control,
            sender: Sender::new(first),
            receiver: Receiver::new(LAP),
            mtu: Mtu::new(now, peer),
            pace: Pace::default(),
            rtt: Rtt::default(),
            began_at: now,
            peer_window_bytes: UTP_UNGRANTED_BYTES,
            peer_window_stamp_us: 0,
            difference_us: 0,
            is_syn_due: false,
            syns_sent: 0,
            packets_to_ack: 0,
            is_ack_due: false,
            ack_at: None,
            sent_at: now,
            heard_at: now,
            progress_at: now,
            timeout_at: None,
            tail_at: None,
            has_probed_tail: false,
            paced_until: None,
            is_asking: false,
            may_ask: false,
            is_window_limited: false,
            untold_bytes: 0,
            loss_told_at: None,
            taken_to: 0,
            is_closing: false,
            wants_fin: false,
            is_deaf: false,
            linger_until: None,
            armed_at: None,
            is_ready: false,
        }
    }

    // --- what the owner wants

    /// The owner knows the stream and was not told its end.
    const fn is_known(&self) -> bool {
        matches!(self.phase, Phase::Connecting | Phase::Open)
    }

    pub(super) fn write(&mut self, now: Mono, bytes: Bytes, events: &mut VecDeque<Event>) {
        let takes = self.is_known() && !self.is_closing && !self.receiver.has_ended();
        if takes && !bytes.is_empty() {
            self.sender.push(bytes);
            self.settle(now, events);
        }
    }

    pub(super) fn grant(&mut self, now: Mono, bytes: u64, events: &mut VecDeque<Event>) {
        if !self.is_known() || self.is_closing {
            return;
        }
        self.receiver.grant(bytes);
        self.settle(now, events);
        let packet_bytes = u64::from(self.mtu.datagram_bytes());
        if self.phase == Phase::Open && self.receiver.is_update_due(packet_bytes) {
            self.is_ack_due = true;
        }
    }

    /// The end, once everything is sent.
    pub(super) fn close(&mut self, now: Mono, events: &mut VecDeque<Event>) {
        if !self.is_known() || self.is_closing {
            return;
        }
        if self.phase == Phase::Connecting && self.sender.given_bytes() == 0 {
            return self.end(Lost::Asked, events);
        }
        self.is_closing = true;
        self.wants_fin = true;
        self.receiver.discard();
        if self.is_deaf {
            return self.end(Lost::Asked, events);
        }
        self.settle(now, events);
    }

    /// The end, now; the packet that tells the peer.
    pub(super) fn abort(&mut self, now: Mono, events: &mut VecDeque<Event>) -> Option<Header> {
        if !self.is_known() {
            return None;
        }
        let header = self.header(Kind::Reset, now, self.sender.next_number());
        self.end(Lost::Asked, events);
        Some(header)
    }

    // --- what the peer says

    pub(super) fn on_packet(
        &mut self,
        now: Mono,
        packet: &Packet<'_>,
        payload: Bytes,
        events: &mut VecDeque<Event>,
    ) {
        match (packet.header.kind, self.phase) {
            (_, Phase::Gone) => {}
            (Kind::Reset, _) => self.on_reset(now, packet.header.ack, events),
            (Kind::Syn, Phase::Unconfirmed) => self.is_ack_due = true,
            (Kind::Syn, _) => {}
            (Kind::State, Phase::Connecting) => self.on_syn_ack(now, &packet.header, events),
            (_, Phase::Connecting) => {}
            (Kind::Data | Kind::Fin | Kind::State, _) => {
                self.on_stream_packet(now, packet, payload, events);
            }
        }
    }

    fn on_syn_ack(&mut self, now: Mono, header: &Header, events: &mut VecDeque<Event>) {
        if header.ack != SYN as u16 {
            return;
        }
        self.hear(now, header);
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
        events.push_back(Event::Opened { id: self.id });
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
        payload: Bytes,
        events: &mut VecDeque<Event>,
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
            let (id, from) = (self.id, self.peer);
            events.push_back(Event::Accepted { id, from });
        }
        self.hear(now, header);
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
        let control_bytes = self.control.window_bytes();
        let is_limited = self.is_window_limited
            || (self.sender.unsent_bytes() > 0 && 2 * self.sender.flight_bytes() >= control_bytes);
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

    fn on_outcome(
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
            let ack = Ack {
                bytes: core::mem::take(&mut self.untold_bytes),
                rtt_us,
                one_way_us,
                is_window_limited,
            };
            self.control.on_ack(now, ack);
            self.is_window_limited = false;
        }
        if outcome.has_probe_arrived {
            self.mtu.on_probe_arrived();
        }
        if outcome.is_probe_lost {
            self.mtu.on_probe_lost();
        }
        // Packets that left before the controller was told of a loss were lost to the same congestion.
        if let Some(sent_at) = outcome.lost_sent_at
            && self.loss_told_at.is_none_or(|told_at| sent_at >= told_at)
        {
            self.loss_told_at = Some(now);
            self.control.on_loss(now);
        }
        if outcome.has_advanced || outcome.acked_bytes > 0 {
            let timeout_at = now + self.rtt.timeout();
            self.timeout_at = (!self.sender.is_acked()).then_some(timeout_at);
            self.has_probed_tail = false;
            self.watch_tail(now);
        }
    }

    /// Something has left or was acknowledged: the wait for the last acknowledgement begins anew.
    pub(super) fn watch_tail(&mut self, now: Mono) {
        let waits = !self.has_probed_tail && !self.is_asking && !self.sender.is_quiet();
        let tail = self.rtt.tail().filter(|_| waits);
        self.tail_at = tail.map(|tail| now + tail);
    }

    fn probe_tail(&mut self, now: Mono) {
        self.tail_at = None;
        if self.is_asking || self.sender.lost().is_some() {
            return;
        }
        self.has_probed_tail = true;
        let outcome = self.sender.probe_tail();
        self.on_outcome(now, outcome, None, false);
    }

    fn on_payload(&mut self, now: Mono, number: u64, payload: Bytes, is_fin: bool) {
        let arrival = self.receiver.on_packet(number, payload, is_fin);
        if arrival == Arrival::InOrder && !is_fin {
            self.packets_to_ack += 1;
            self.is_ack_due |= self.packets_to_ack >= UTP_ACK_PACKETS;
            if self.ack_at.is_none() {
                self.ack_at = Some(now + UTP_ACK_DELAY);
            }
        } else {
            self.is_ack_due = true;
        }
    }

    fn on_reset(&mut self, now: Mono, ack: u16, events: &mut VecDeque<Event>) {
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

    // --- what follows from it

    /// Tell the owner what there is to tell.
    fn settle(&mut self, now: Mono, events: &mut VecDeque<Event>) {
        let id = self.id;
        if !self.is_known() {
            return;
        }
        while let Some(bytes) = self.receiver.deliver() {
            events.push_back(Event::Received { id, bytes });
        }
        self.take(events);
        if self.is_closing {
            // A peer that has closed too may never acknowledge our FIN (libtorrent ignores one it has seen before).
            let is_done = self.sender.is_fin_alone() && self.receiver.has_ended();
            if self.sender.is_fin_acked() || is_done {
                self.linger(now, Lost::Asked, events);
            }
            return;
        }
        if self.receiver.has_ended() && !self.wants_fin && !self.is_deaf {
            // The peer is closed and reads no more; what is in flight goes again only so that the FIN is in order.
            self.sender.truncate();
            self.wants_fin = true;
        }
        if self.receiver.is_delivered() {
            self.linger(now, Lost::Eof, events);
        }
    }

    /// Tell the writer what was taken into the buffer.
    fn take(&mut self, events: &mut VecDeque<Event>) {
        let buffer_bytes = (2 * self.control.window_bytes().min(UTP_SEND_BUFFER_MAX))
            .clamp(UTP_SEND_BUFFER_MIN, UTP_SEND_BUFFER_MAX);
        let limit = self.sender.acked_to() + buffer_bytes;
        let taken_to = self.sender.given_bytes().min(limit);
        let mut more = taken_to.saturating_sub(self.taken_to);
        self.taken_to = self.taken_to.max(taken_to);
        while more > 0 {
            let len = u32::try_from(more).unwrap_or(u32::MAX);
            more -= u64::from(len);
            events.push_back(Event::Sent { id: self.id, len });
        }
    }

    fn linger(&mut self, now: Mono, why: Lost, events: &mut VecDeque<Event>) {
        if self.is_deaf {
            return self.end(why, events);
        }
        self.phase = Phase::Lingering;
        self.receiver.discard();
        self.linger_until = Some(now + UTP_LINGER);
        events.push_back(Event::Closed { id: self.id, why });
    }

    /// The end without further words; the owner is told if it knows the stream.
    fn end(&mut self, why: Lost, events: &mut VecDeque<Event>) {
        if self.is_known() {
            events.push_back(Event::Closed { id: self.id, why });
        }
        self.phase = Phase::Gone;
    }

    // --- time

    pub(super) fn on_timer(&mut self, now: Mono, events: &mut VecDeque<Event>) {
        let is_over = now >= self.began_at + CONNECT_TIMEOUT;
        let is_due = self.timeout_at.is_some_and(|at| at <= now);
        if self.sender.overtaken_at().is_some_and(|at| at <= now) {
            let outcome = self.sender.on_overtaken(now, &self.rtt);
            self.on_outcome(now, outcome, None, false);
        }
        if self.tail_at.is_some_and(|at| at <= now) && !is_due {
            self.probe_tail(now);
        }
        match self.phase {
            Phase::Connecting if is_over => self.end(Lost::TimedOut, events),
            Phase::Connecting if is_due => {
                self.rtt.on_timeout();
                self.is_syn_due = true;
            }
            Phase::Unconfirmed if is_over => self.phase = Phase::Gone,
            Phase::Open if is_due => self.on_timeout(now, events),
            Phase::Lingering if self.linger_until.is_some_and(|at| at <= now) => {
                self.phase = Phase::Gone;
            }
            Phase::Lingering if is_due => self.on_timeout(now, events),
            _ => {}
        }
    }

    fn on_timeout(&mut self, now: Mono, events: &mut VecDeque<Event>) {
        self.timeout_at = None;
        self.tail_at = None;
        if self.sender.is_quiet() && !self.is_asking {
            return;
        }
        // A peer whose window is closed is there as long as it says so.
        let alive_at = if self.is_asking {
            self.progress_at.max(self.heard_at)
        } else {
            self.progress_at
        };
        let silence = now.since(alive_at);
        if silence >= UTP_LINGER && self.is_closing && self.sender.is_fin_alone() {
            return self.end(Lost::Asked, events);
        }
        if silence >= UTP_GIVE_UP {
            return self.end(Lost::TimedOut, events);
        }
        let outcome = self.sender.on_timeout();
        if outcome.is_probe_lost {
            self.mtu.on_probe_lost();
        }
        if self.is_asking {
            self.may_ask = true;
            self.rtt.on_timeout();
        } else if outcome.lost_sent_at.is_some() {
            self.loss_told_at = Some(now);
            self.control.on_timeout(now);
            self.rtt.on_timeout();
            if self.rtt.timeouts() >= UTP_MTU_TIMEOUTS {
                self.mtu.on_black_hole();
            }
        }
    }

    /// When something is to be done although nothing comes.
    pub(super) fn deadline(&self) -> Option<Deadline> {
        let at = |at: Option<Mono>, why| at.map(|at| Deadline::new(at, why));
        let timeout = at(self.timeout_at, "utp timeout");
        let handshake = at(Some(self.began_at + CONNECT_TIMEOUT), "utp handshake");
        match self.phase {
            Phase::Connecting => Deadline::earlier(timeout, handshake),
            Phase::Unconfirmed => handshake,
            Phase::Gone => None,
            Phase::Open | Phase::Lingering => {
                let keep_alive = self.keep_alive_at();
                [
                    timeout,
                    at(self.sender.overtaken_at(), "utp loss"),
                    at(self.tail_at, "utp tail"),
                    at(self.ack_at, "utp acknowledgement"),
                    at(self.paced_until, "utp pacing"),
                    at(keep_alive, "utp keep-alive"),
                    at(self.linger_until, "utp linger"),
                ]
                .into_iter()
                .fold(None, Deadline::earlier)
            }
        }
    }

    fn keep_alive_at(&self) -> Option<Mono> {
        (self.phase == Phase::Open).then(|| self.sent_at + UTP_KEEP_ALIVE)
    }

    pub(super) fn is_ack_due(&self, now: Mono) -> bool {
        self.is_ack_due || self.ack_at.is_some_and(|at| at <= now)
    }

    pub(super) fn is_keep_alive_due(&self, now: Mono) -> bool {
        self.keep_alive_at().is_some_and(|at| at <= now)
    }

    /// A packet with an acknowledgement is leaving.
    pub(super) fn on_acknowledged(&mut self, now: Mono, window_bytes: u32) {
        self.receiver.on_told(window_bytes.into());
        self.is_ack_due = false;
        self.ack_at = None;
        self.packets_to_ack = 0;
        self.sent_at = now;
    }

    pub(super) fn header(&self, kind: Kind, now: Mono, number: u64) -> Header {
        let id = if kind == Kind::Syn {
            self.receive_id
        } else {
            self.send_id
        };
        Header {
            kind,
            connection_id: id,
            timestamp_us: now.as_us() as u32,
            timestamp_difference_us: self.difference_us,
            window_bytes: u32::try_from(self.receiver.window_bytes()).unwrap_or(u32::MAX),
            seq: number as u16,
            ack: (self.receiver.next_number() - 1) as u16,
        }
    }

    pub(super) const fn syn_number() -> u64 {
        SYN
    }

    /// Payload a packet of ordinary size has.
    pub(super) const fn payload_bytes(&self) -> u16 {
        self.mtu.datagram_bytes() - HEADER_LEN as u16
    }

    pub(super) fn check(&self) {
        self.sender.check();
        self.receiver.check();
        let waits = matches!(self.phase, Phase::Open | Phase::Lingering) && !self.sender.is_quiet();
        assert!(!waits || self.timeout_at.is_some(), "no timer: {self:?}");
        assert!(self.taken_to <= self.sender.given_bytes() || self.receiver.has_ended());
        assert!(self.phase != Phase::Lingering || self.linger_until.is_some());
    }
}
