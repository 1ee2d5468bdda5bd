//! One stream over datagrams: its handshake, its timers, its end.
//!
//! ```text
//!  connect ── Connecting ──┐                 ┌── Lingering ──┐
//!                          ├───── Open ──────┤               ├── Gone
//!  SYN ────── Unconfirmed ─┘                 └───────────────┘
//! ```
//!
//! Decides: when a packet counts, when an answer is overdue, when the stream is closed and why.
//! Never does: knowing other streams. In parts: what comes in, what goes out, what time does.
//! Invariants ([`Connection::check`]): the owner is told `Closed` once and nothing after it; whatever is outstanding
//! has a timer. Spec: BEP 29, RFC 6298; `machine.rs`, lines 3, 4 and 6. Tested in `core/tests/utp.rs`.

mod incoming;
mod marks;
mod outgoing;
mod timers;

use self::marks::Marks;
use super::flow::{Allowed, News};
use super::mtu::Mtu;
use super::pace::Pace;
use super::packet::{HEADER_LEN, Header, Kind, Packet};
use super::receive::Receiver;
use super::rtt::Rtt;
use super::send::Sender;
use crate::ids::StreamId;
use crate::limits::{
    UTP_LINGER, UTP_SEND_BUFFER_MAX, UTP_SEND_BUFFER_MIN, UTP_UNGRANTED_BYTES, UTP_WINDOW_UPDATES,
};
use crate::machine::{Input, Lost};
use crate::time::Mono;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bytes::Bytes;
use core::net::SocketAddr;

/// Inside, numbers begin one lap of the 16 bits up, so that there are numbers before the first.
const LAP: u64 = 1 << 16;

/// The number of a SYN, as libutp has it.
const SYN: u64 = LAP + 1;

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
    id: StreamId,
    pub(super) peer: SocketAddr,
    pub(super) receive_id: u16,
    pub(super) send_id: u16,
    pub(super) phase: Phase,
    pub(super) allowed: Allowed,
    /// What congestion control has not heard of yet.
    pub(super) news: Vec<News>,
    pub(super) sender: Sender,
    receiver: Receiver,
    pub(super) mtu: Mtu,
    pace: Pace,
    pub(super) rtt: Rtt,
    marks: Marks,
    began_at: Mono,

    /// What the peer takes, and its clock when it said so.
    peer_window_bytes: u64,
    peer_window_stamp_us: u32,
    /// Our clock at the arrival of the peer's last packet less its clock at sending.
    difference_us: u32,

    /// The SYN is to be sent; how often it was.
    is_syn_due: bool,
    syns_sent: u32,
    /// Packets to acknowledge, and when at the latest.
    packets_to_ack: u32,
    is_ack_due: bool,
    ack_at: Option<Mono>,
    /// How often the peer is still told of a window that has opened.
    updates_left: u32,
    /// Something left last.
    sent_at: Mono,

    heard_at: Mono,
    /// Something was acknowledged last, or began to wait for that.
    progress_at: Mono,
    timeout_at: Option<Mono>,
    /// When the last packet goes again; once until something is acknowledged.
    tail_at: Option<Mono>,
    has_probed_tail: bool,
    paced_until: Option<Mono>,
    /// The peer's window is closed and is asked about with single packets; one may leave now.
    is_asking: bool,
    may_ask: bool,
    /// More would have left if the congestion window were larger.
    is_window_limited: bool,
    /// Acknowledged bytes the controller has not heard of for want of a round trip to tell with them.
    untold_bytes: u64,
    loss_told_at: Option<Mono>,

    /// Place in the stream up to which the writer was told `Sent`.
    taken_to: u64,
    /// The owner has asked for the end once everything is sent.
    is_closing: bool,
    /// A FIN is to follow the last byte.
    wants_fin: bool,
    /// The peer is gone: nothing will be sent.
    is_deaf: bool,
    linger_until: Option<Mono>,

    /// When the transport will look at its timers, and whether it will ask for packets.
    pub(super) armed_at: Option<Mono>,
    pub(super) is_ready: bool,
}

impl Connection {
    pub(super) fn connect(now: Mono, id: StreamId, peer: SocketAddr, receive_id: u16) -> Self {
        let send_id = receive_id.wrapping_add(1);
        let mut it = Self::new(now, id, peer, (receive_id, send_id), SYN + 1);
        it.phase = Phase::Connecting;
        it.is_syn_due = true;
        it
    }

    /// In answer to a SYN; `seq` is what we number from.
    pub(super) fn accept(
        now: Mono,
        id: StreamId,
        peer: SocketAddr,
        syn: &Packet<'_>,
        seq: u16,
    ) -> Self {
        let (marks, syn) = (syn.congestion, &syn.header);
        let ids = (syn.connection_id.wrapping_add(1), syn.connection_id);
        let mut it = Self::new(now, id, peer, ids, LAP + u64::from(seq));
        it.receiver.begin(LAP + u64::from(syn.seq) + 1);
        it.peer_window_bytes = syn.window_bytes.into();
        it.peer_window_stamp_us = syn.timestamp_us;
        it.difference_us = (now.as_us() as u32).wrapping_sub(syn.timestamp_us);
        it.is_ack_due = true;
        it.marks.on_heard(marks);
        it
    }

    fn new(
        now: Mono,
        id: StreamId,
        peer: SocketAddr,
        (receive_id, send_id): (u16, u16),
        first: u64,
    ) -> Self {
        Self {
            id,
            peer,
            receive_id,
            send_id,
            phase: Phase::Unconfirmed,
            allowed: Allowed::default(),
            news: Vec::new(),
            sender: Sender::new(first),
            receiver: Receiver::new(LAP),
            mtu: Mtu::new(now, peer),
            pace: Pace::default(),
            rtt: Rtt::default(),
            marks: Marks::default(),
            began_at: now,
            peer_window_bytes: UTP_UNGRANTED_BYTES,
            peer_window_stamp_us: 0,
            difference_us: 0,
            is_syn_due: false,
            syns_sent: 0,
            packets_to_ack: 0,
            is_ack_due: false,
            ack_at: None,
            updates_left: 0,
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

    pub(super) fn write(&mut self, now: Mono, bytes: Bytes, events: &mut VecDeque<Input>) {
        let takes = self.is_known() && !self.is_closing && !self.receiver.has_ended();
        if takes && !bytes.is_empty() {
            self.sender.push(bytes);
            self.settle(now, events);
        }
    }

    pub(super) fn grant(&mut self, now: Mono, bytes: u64, events: &mut VecDeque<Input>) {
        if !self.is_known() || self.is_closing {
            return;
        }
        self.receiver.grant(bytes);
        self.settle(now, events);
        let packet_bytes = u64::from(self.mtu.datagram_bytes());
        if self.phase == Phase::Open && self.receiver.is_update_due(packet_bytes) {
            self.is_ack_due = true;
            if self.receiver.is_nearly_closed(packet_bytes) {
                self.updates_left = UTP_WINDOW_UPDATES;
            }
        }
    }

    /// The end, once everything is sent.
    pub(super) fn close(&mut self, now: Mono, events: &mut VecDeque<Input>) {
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
    pub(super) fn abort(&mut self, now: Mono, events: &mut VecDeque<Input>) -> Option<Header> {
        if !self.is_known() {
            return None;
        }
        let header = self.header(Kind::Reset, now, self.sender.next_number());
        self.end(Lost::Asked, events);
        Some(header)
    }

    // --- what follows from it

    /// Tell the owner what there is to tell.
    fn settle(&mut self, now: Mono, events: &mut VecDeque<Input>) {
        let stream = self.id;
        if !self.is_known() {
            return;
        }
        while let Some(bytes) = self.receiver.deliver() {
            events.push_back(Input::Received { stream, bytes });
        }
        if self.phase == Phase::Open {
            self.take(events);
        }
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
    fn take(&mut self, events: &mut VecDeque<Input>) {
        let buffer_bytes = (2 * self.allowed.window_bytes.min(UTP_SEND_BUFFER_MAX))
            .clamp(UTP_SEND_BUFFER_MIN, UTP_SEND_BUFFER_MAX);
        let limit = self.sender.acked_to() + buffer_bytes;
        let taken_to = self.sender.given_bytes().min(limit);
        let mut more = taken_to.saturating_sub(self.taken_to);
        self.taken_to = self.taken_to.max(taken_to);
        while more > 0 {
            let len = u32::try_from(more).unwrap_or(u32::MAX);
            more -= u64::from(len);
            let stream = self.id;
            events.push_back(Input::Sent { stream, len });
        }
    }

    fn linger(&mut self, now: Mono, why: Lost, events: &mut VecDeque<Input>) {
        if self.is_deaf {
            return self.end(why, events);
        }
        self.phase = Phase::Lingering;
        self.receiver.discard();
        self.linger_until = Some(now + UTP_LINGER);
        let stream = self.id;
        events.push_back(Input::Closed { stream, why });
    }

    /// The end because no way is left.
    pub(super) fn lose(&mut self, events: &mut VecDeque<Input>) {
        self.end(Lost::Reset, events);
    }

    /// The end without further words; the owner is told if it knows the stream.
    fn end(&mut self, why: Lost, events: &mut VecDeque<Input>) {
        if self.is_known() {
            let stream = self.id;
            events.push_back(Input::Closed { stream, why });
        }
        self.phase = Phase::Gone;
    }

    /// A packet with an acknowledgement is leaving.
    fn on_acknowledged(&mut self, now: Mono, window_bytes: u32) {
        self.receiver.on_told(window_bytes.into());
        self.is_ack_due = false;
        self.updates_left = self.updates_left.saturating_sub(1);
        self.ack_at = (self.updates_left > 0).then(|| now + self.rtt.timeout());
        self.packets_to_ack = 0;
        self.sent_at = now;
    }

    fn header(&self, kind: Kind, now: Mono, number: u64) -> Header {
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

    /// Payload a packet of ordinary size has.
    const fn payload_bytes(&self) -> u16 {
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
