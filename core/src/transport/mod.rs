//! uTP: reliable byte streams over one UDP socket.
//!
//! Decides: which stream a datagram belongs to, which peers may open one, whose turn it is to send.
//! Never does: I/O, reading clocks; how fast a stream may send is `congestion`'s.
//! Invariants ([`Transport::check`]): a stream is known by its id from `connect` or `Accepted` on until `Closed`, which
//! comes once; work per packet is O(log n) in streams and packets; everything kept is bounded by `limits::UTP_*`.
//!
//! Streams behave as `machine.rs` has it (lines 3, 4 and 6): `Received` by credit, `Sent` by completion (bytes are in
//! the bounded send buffer), `Closed` with [`Lost::Eof`] after the peer's last byte. There is no half-closed stream: a
//! peer that has closed reads no more.
//!
//! Spec: BEP 29, with what libutp and libtorrent make of it. Tested in each file and in `core/tests/utp.rs`.

mod bitmap;
mod connection;
mod mtu;
mod outbox;
mod pace;
mod packet;
mod receive;
mod rtt;
mod send;
#[cfg(test)]
mod send_tests;

use crate::congestion::Controller;
use crate::limits::{
    UTP_BASES_REMEMBERED, UTP_CONNECTIONS_MAX, UTP_DATAGRAM_MAX_V4, UTP_LINGERING_MAX,
    UTP_REPLIES_MAX, UTP_RESETS_PER_S, UTP_TURN_PACKETS, UTP_UNCONFIRMED_MAX,
};
use crate::machine::{CloseHow, Lost};
use crate::rng::Rng;
use crate::time::{Deadline, Mono};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use bytes::Bytes;
use connection::{Connection, Phase};
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
pub use packet::{HEADER_LEN, Header, Kind, Packet, PacketError, decode};

/// A stream of one [`Transport`]. Low bit 0: opened here; 1: accepted. No id is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer has opened a stream, and hears us.
    Accepted {
        id: ConnId,
        from: SocketAddr,
    },
    /// `connect` succeeded.
    Opened {
        id: ConnId,
    },
    Received {
        id: ConnId,
        bytes: Bytes,
    },
    /// So many bytes more were taken into the send buffer.
    Sent {
        id: ConnId,
        len: u32,
    },
    Closed {
        id: ConnId,
        why: Lost,
    },
}

/// A datagram to send; its payload is in the buffer given to [`Transport::poll_datagram`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub to: SocketAddr,
    /// It probes how large datagrams may be: it shall be lost if it is too large (IP's DF bit).
    pub dont_fragment: bool,
}

/// How a stream is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The shortest round trip seen.
    pub least_rtt_us: Option<u64>,
    pub window_bytes: u64,
    pub flight_bytes: u64,
    /// Largest datagram that has crossed the path.
    pub datagram_bytes: u16,
}

/// Makes the congestion controller of a stream from its segment size and the base round trip remembered.
pub type MakeController = fn(mss: u32, remembered_base_us: Option<u64>) -> Controller;

type Key = (SocketAddr, u16);

#[derive(Debug)]
pub struct Transport {
    now: Mono,
    rng: Rng,
    make_controller: MakeController,
    is_accepting: bool,
    connections: BTreeMap<ConnId, Box<Connection>>,
    /// By peer and the id its packets carry.
    keys: BTreeMap<Key, ConnId>,
    unconfirmed: BTreeSet<ConnId>,
    lingering: BTreeSet<ConnId>,
    last_id: u64,
    events: VecDeque<Event>,
    /// Streams that may have something to send, in turn.
    ready: VecDeque<ConnId>,
    packets_of_turn: u32,
    timers: BTreeSet<(Mono, ConnId)>,
    /// RESETs, which belong to no stream.
    replies: VecDeque<(SocketAddr, Header)>,
    resets_since: Mono,
    resets: u32,
    /// Base round trips of streams that are gone, with when that was.
    bases: BTreeMap<IpAddr, (Mono, u64)>,
}

impl Transport {
    /// Streams driven by LEDBAT++.
    pub fn new(rng: Rng) -> Self {
        Self::with_controller(rng, Controller::ledbat_plus_plus)
    }

    pub fn with_controller(rng: Rng, make_controller: MakeController) -> Self {
        Self {
            now: Mono::ZERO,
            rng,
            make_controller,
            is_accepting: true,
            connections: BTreeMap::new(),
            keys: BTreeMap::new(),
            unconfirmed: BTreeSet::new(),
            lingering: BTreeSet::new(),
            last_id: 0,
            events: VecDeque::new(),
            ready: VecDeque::new(),
            packets_of_turn: 0,
            timers: BTreeSet::new(),
            replies: VecDeque::new(),
            resets_since: Mono::ZERO,
            resets: 0,
            bases: BTreeMap::new(),
        }
    }

    /// Whether peers may open streams (they may, until told otherwise).
    pub fn set_accepting(&mut self, is_accepting: bool) {
        self.is_accepting = is_accepting;
    }

    // --- what the owner wants

    /// Open a stream; answered by one `Opened` or `Closed`. Bytes may be sent and granted at once.
    pub fn connect(&mut self, now: Mono, to: SocketAddr) -> ConnId {
        let now = self.advance(now);
        let id = self.next_id(false);
        let Some(receive_id) = self.free_receive_id(to).filter(|_| self.has_place()) else {
            let why = Lost::Other("too many streams".into());
            self.events.push_back(Event::Closed { id, why });
            return id;
        };
        let control = self.controller(to);
        let connection = Connection::connect(now, id, to, receive_id, control);
        self.insert(id, connection);
        id
    }

    /// Bytes to send; answered by `Sent` as the buffer takes them.
    pub fn send(&mut self, id: ConnId, bytes: Bytes) {
        let now = self.now;
        self.with(id, |it, events| it.write(now, bytes, events));
    }

    /// The reader takes so many bytes more.
    pub fn grant(&mut self, id: ConnId, bytes: u32) {
        let now = self.now;
        self.with(id, |it, events| it.grant(now, bytes.into(), events));
    }

    /// Answered by `Closed`: after everything was acknowledged, or at once.
    pub fn close(&mut self, id: ConnId, how: CloseHow) {
        let now = self.now;
        match how {
            CloseHow::Flush => self.with(id, |it, events| it.close(now, events)),
            CloseHow::Abort => {
                let mut reset = None;
                self.with(id, |it, events| {
                    reset = it.abort(now, events).map(|header| (it.peer, header));
                });
                if let Some((to, header)) = reset {
                    self.reply(to, header);
                }
            }
        }
    }

    // --- what the shell brings

    /// A datagram came; false if it is not uTP, so that another protocol may share the socket.
    pub fn on_datagram(&mut self, now: Mono, from: SocketAddr, datagram: &Bytes) -> bool {
        let now = self.advance(now);
        let Ok(packet) = decode(datagram) else {
            return false;
        };
        let id = match packet.header.kind {
            Kind::Syn => self
                .keys
                .get(&(from, packet.header.connection_id.wrapping_add(1))),
            Kind::Reset => self.of_reset(from, packet.header.connection_id),
            _ => self.keys.get(&(from, packet.header.connection_id)),
        };
        match (id.copied(), packet.header.kind) {
            (Some(id), Kind::Syn) if !id.is_accepted() => {}
            (Some(id), _) => {
                let payload = datagram.slice_ref(packet.payload);
                self.with(id, |it, events| it.on_packet(now, &packet, payload, events));
            }
            (None, Kind::Reset) => {}
            (None, Kind::Syn) => self.on_syn(now, from, &packet.header),
            (None, _) => self.refuse(now, from, &packet.header),
        }
        true
    }

    /// A reset carries the id its sender sends with, or the one of the packet it answers.
    fn of_reset(&self, from: SocketAddr, carried: u16) -> Option<&ConnId> {
        let direct = self.keys.get(&(from, carried));
        let sends_with_it = |receive_id: u16| {
            let id = self.keys.get(&(from, receive_id))?;
            let it = self.connections.get(id)?;
            (it.send_id == carried).then_some(id)
        };
        direct
            .or_else(|| sends_with_it(carried.wrapping_sub(1)))
            .or_else(|| sends_with_it(carried.wrapping_add(1)))
    }

    fn on_syn(&mut self, now: Mono, from: SocketAddr, syn: &Header) {
        if !self.is_accepting || !self.has_place() {
            return self.refuse(now, from, syn);
        }
        if self.unconfirmed.len() >= UTP_UNCONFIRMED_MAX
            && let Some(oldest) = self.unconfirmed.first().copied()
        {
            self.remove(oldest);
        }
        let id = self.next_id(true);
        let seq = self.rng.below(1 << 16) as u16;
        let control = self.controller(from);
        let connection = Connection::accept(now, id, from, syn, seq, control);
        self.insert(id, connection);
    }

    /// Tell a peer that we know nothing of its stream.
    fn refuse(&mut self, now: Mono, from: SocketAddr, header: &Header) {
        if now.since(self.resets_since) >= Duration::from_secs(1) {
            self.resets_since = now;
            self.resets = 0;
        }
        if self.resets >= UTP_RESETS_PER_S {
            return;
        }
        self.resets += 1;
        let reset = Header {
            kind: Kind::Reset,
            connection_id: header.connection_id,
            timestamp_us: now.as_us() as u32,
            timestamp_difference_us: (now.as_us() as u32).wrapping_sub(header.timestamp_us),
            window_bytes: 0,
            seq: self.rng.below(1 << 16) as u16,
            ack: header.seq,
        };
        self.reply(from, reset);
    }

    fn reply(&mut self, to: SocketAddr, header: Header) {
        if self.replies.len() < UTP_REPLIES_MAX {
            self.replies.push_back((to, header));
        }
    }

    /// The deadline has come. Always legal.
    pub fn on_tick(&mut self, now: Mono) {
        self.advance(now);
    }

    /// Time moves on: run the timers that are due. A clock that went back is not believed.
    fn advance(&mut self, now: Mono) -> Mono {
        self.now = self.now.max(now);
        let now = self.now;
        while let Some((at, id)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            if let Some(it) = self.connections.get_mut(&id) {
                it.armed_at = None;
                self.with(id, |it, events| it.on_timer(now, events));
            }
        }
        now
    }

    // --- what the shell takes

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next datagram, its payload written to `out` (cleared first).
    pub fn poll_datagram(&mut self, now: Mono, out: &mut Vec<u8>) -> Option<Outgoing> {
        let now = self.advance(now);
        out.clear();
        if let Some((to, header)) = self.replies.pop_front() {
            header.encode_plain(out);
            let dont_fragment = false;
            return Some(Outgoing { to, dont_fragment });
        }
        while let Some(id) = self.ready.front().copied() {
            let polled = self.connections.get_mut(&id).and_then(|it| {
                let dont_fragment = it.poll_packet(now, out)?;
                let to = it.peer;
                Some(Outgoing { to, dont_fragment })
            });
            if polled.is_some() {
                self.packets_of_turn += 1;
                if self.packets_of_turn >= UTP_TURN_PACKETS {
                    self.packets_of_turn = 0;
                    self.ready.rotate_left(1);
                }
                return polled;
            }
            self.packets_of_turn = 0;
            self.ready.pop_front();
            self.rest(now, id);
        }
        None
    }

    /// A stream has nothing to send now: its timer will say when it has.
    fn rest(&mut self, now: Mono, id: ConnId) {
        let Some(it) = self.connections.get_mut(&id) else {
            return;
        };
        it.is_ready = false;
        let Some(deadline) = it.deadline() else {
            return;
        };
        // What was due before it was first asked is done next, not now: a timer never lies in the past.
        let at = deadline.at.max(now + Duration::from_micros(1));
        // A timer that fires too early is cheaper than one that is moved with each packet.
        match it.armed_at {
            Some(armed_at) if armed_at <= at => return,
            Some(armed_at) => self.timers.remove(&(armed_at, id)),
            None => false,
        };
        it.armed_at = Some(at);
        self.timers.insert((at, id));
    }

    /// When to call again at the latest. Asked only after `poll_datagram` has said `None`.
    pub fn deadline(&self) -> Option<Deadline> {
        let (at, _) = self.timers.first()?;
        Some(Deadline::new(*at, "utp"))
    }

    pub fn facts(&self, id: ConnId) -> Option<Facts> {
        let it = self.connections.get(&id)?;
        Some(Facts {
            least_rtt_us: it.rtt.least_us(),
            window_bytes: it.control.window_bytes(),
            flight_bytes: it.sender.flight_bytes(),
            datagram_bytes: it.mtu.datagram_bytes(),
        })
    }

    /// Nothing is open, not even lingering.
    pub fn is_idle(&self) -> bool {
        self.connections.is_empty() && self.events.is_empty() && self.replies.is_empty()
    }

    // --- the register

    fn next_id(&mut self, is_accepted: bool) -> ConnId {
        self.last_id += 1;
        ConnId(self.last_id << 1 | u64::from(is_accepted))
    }

    fn has_place(&self) -> bool {
        self.connections.len() - self.lingering.len() < UTP_CONNECTIONS_MAX
    }

    /// An id for the peer's packets that no stream with it has.
    fn free_receive_id(&mut self, peer: SocketAddr) -> Option<u16> {
        let start = self.rng.below(1 << 16) as u16;
        (0..=u16::MAX)
            .map(|step| start.wrapping_add(step))
            .find(|id| !self.keys.contains_key(&(peer, *id)))
    }

    fn controller(&self, peer: SocketAddr) -> Controller {
        let base_us = self.bases.get(&peer.ip()).map(|(_, base_us)| *base_us);
        let mss = UTP_DATAGRAM_MAX_V4 as usize - HEADER_LEN;
        (self.make_controller)(mss as u32, base_us)
    }

    fn insert(&mut self, id: ConnId, connection: Connection) {
        let key = (connection.peer, connection.receive_id);
        self.keys.insert(key, id);
        self.connections.insert(id, Box::new(connection));
        self.with(id, |_, _| {});
    }

    /// Do something with a stream and see to what follows from it; nothing if there is no such stream.
    fn with(&mut self, id: ConnId, work: impl FnOnce(&mut Connection, &mut VecDeque<Event>)) {
        let Some(it) = self.connections.get_mut(&id) else {
            return;
        };
        work(it, &mut self.events);
        let phase = it.phase;
        if phase == Phase::Gone {
            return self.remove(id);
        }
        if !it.is_ready {
            it.is_ready = true;
            self.ready.push_back(id);
        }
        if phase == Phase::Unconfirmed {
            self.unconfirmed.insert(id);
        } else if id.is_accepted() {
            self.unconfirmed.remove(&id);
        }
        if phase == Phase::Lingering && self.lingering.insert(id) {
            while self.lingering.len() > UTP_LINGERING_MAX
                && let Some(oldest) = self.lingering.first().copied()
            {
                self.remove(oldest);
            }
        }
    }

    fn remove(&mut self, id: ConnId) {
        let Some(it) = self.connections.remove(&id) else {
            return;
        };
        self.keys.remove(&(it.peer, it.receive_id));
        self.unconfirmed.remove(&id);
        self.lingering.remove(&id);
        if let Some(at) = it.armed_at {
            self.timers.remove(&(at, id));
        }
        if let Some(base_us) = it.control.base_rtt_us() {
            self.remember_base(it.peer.ip(), base_us);
        }
    }

    fn remember_base(&mut self, ip: IpAddr, base_us: u64) {
        self.bases.insert(ip, (self.now, base_us));
        if self.bases.len() > UTP_BASES_REMEMBERED {
            let oldest = self.bases.iter().min_by_key(|(_, (at, _))| *at);
            if let Some(oldest) = oldest.map(|(ip, _)| *ip) {
                self.bases.remove(&oldest);
            }
        }
    }

    /// Assert the invariants of all streams and of the register.
    pub fn check(&self) {
        assert_eq!(self.keys.len(), self.connections.len());
        assert!(self.unconfirmed.len() <= UTP_UNCONFIRMED_MAX);
        assert!(self.lingering.len() <= UTP_LINGERING_MAX);
        assert!(self.connections.len() <= UTP_CONNECTIONS_MAX + UTP_LINGERING_MAX);
        assert!(self.bases.len() <= UTP_BASES_REMEMBERED);
        assert!(self.timers.len() <= self.connections.len());
        for (id, it) in &self.connections {
            it.check();
            assert_eq!(self.keys.get(&(it.peer, it.receive_id)), Some(id));
            let is = |phase| it.phase == phase;
            assert_eq!(self.unconfirmed.contains(id), is(Phase::Unconfirmed));
            assert_eq!(self.lingering.contains(id), is(Phase::Lingering));
            assert!(!is(Phase::Gone));
            assert!(
                it.armed_at
                    .is_none_or(|at| self.timers.contains(&(at, *id)))
            );
        }
    }
}

impl ConnId {
    pub const fn is_accepted(self) -> bool {
        self.0 & 1 == 1
    }
}
