//! uTP: reliable byte streams over one UDP socket.
//!
//! Decides: which stream a datagram belongs to, which peers may open one, whose turn it is to send.
//! Never does: I/O, reading clocks; how fast a stream may send is said by the [`Group`] of flows that its owner lends it,
//! which other transports' flows may be in, too.
//! Invariants ([`Transport::check`]): a stream is known by its id from `connect` or `Accepted` on until `Closed`, which
//! comes once, and is a flow of the group meanwhile; work per packet is O(log n) in streams and packets; everything kept is bounded by `limits::UTP_*`.
//!
//! Streams behave as those of a shell, and speak of themselves in the same [`Input`]s (`machine.rs`, lines 3, 4 and 6):
//! `Received` by credit, `Sent` by completion (bytes are in the bounded send buffer), `Closed` with [`Lost::Eof`] after
//! the peer's last byte. There is no half-closed stream: a
//! peer that has closed reads no more.
//!
//! Spec: BEP 29, with what libutp and libtorrent make of it. Tested in each file and in `core/tests/utp.rs`.

mod bitmap;
mod connection;
mod flow;
mod mtu;
mod outbox;
mod pace;
mod packet;
mod receive;
mod rtt;
mod send;
#[cfg(test)]
mod send_tests;

use crate::congestion::Group;
use crate::ids::StreamId;
use crate::limits::{
    UTP_CONNECTIONS_MAX, UTP_DATAGRAM_MAX_V4, UTP_LINGERING_MAX, UTP_REPLIES_MAX, UTP_RESETS_PER_S,
    UTP_TURN_PACKETS, UTP_UNCONFIRMED_MAX,
};
use crate::machine::{CloseHow, Ecn, Input, Lost};
use crate::rng::Rng;
use crate::time::{Deadline, Mono};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use bytes::Bytes;
use connection::{Connection, Phase};
use core::net::SocketAddr;
use core::time::Duration;
use flow::Allowed;
pub use packet::{HEADER_LEN, Header, Kind, Packet, PacketError, decode};

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

/// The flows of a device, uTP streams among them.
pub type Flows = Group<StreamId>;

type Key = (SocketAddr, u16);

#[derive(Debug)]
pub struct Transport {
    now: Mono,
    rng: Rng,
    is_accepting: bool,
    connections: BTreeMap<StreamId, Box<Connection>>,
    /// By peer and the id its packets carry.
    keys: BTreeMap<Key, StreamId>,
    unconfirmed: BTreeSet<StreamId>,
    lingering: BTreeSet<StreamId>,
    accepted: u64,
    events: VecDeque<Input>,
    /// Streams that may have something to send, in turn.
    ready: VecDeque<StreamId>,
    packets_of_turn: u32,
    timers: BTreeSet<(Mono, StreamId)>,
    /// RESETs, which belong to no stream.
    replies: VecDeque<(SocketAddr, Header)>,
    resets_since: Mono,
    resets: u32,
    /// Streams that wait for their turn as flows.
    resting: BTreeSet<StreamId>,
    /// No streams any more, but still flows.
    gone: Vec<StreamId>,
}

impl Transport {
    pub fn new(rng: Rng) -> Self {
        Self {
            now: Mono::ZERO,
            rng,
            is_accepting: true,
            connections: BTreeMap::new(),
            keys: BTreeMap::new(),
            unconfirmed: BTreeSet::new(),
            lingering: BTreeSet::new(),
            accepted: 0,
            events: VecDeque::new(),
            ready: VecDeque::new(),
            packets_of_turn: 0,
            timers: BTreeSet::new(),
            replies: VecDeque::new(),
            resets_since: Mono::ZERO,
            resets: 0,
            resting: BTreeSet::new(),
            gone: Vec::new(),
        }
    }

    /// Whether peers may open streams (they may, until told otherwise).
    pub fn set_accepting(&mut self, is_accepting: bool) {
        self.is_accepting = is_accepting;
    }

    // --- what the owner wants

    /// Open a stream under an id never used before; answered by one `Opened` or `Closed`. Bytes may be sent and granted
    /// at once.
    pub fn connect(&mut self, now: Mono, flows: &mut Flows, id: StreamId, to: SocketAddr) {
        let now = self.advance(now, flows);
        let Some(receive_id) = self.free_receive_id(to).filter(|_| self.has_place()) else {
            let why = Lost::Other("too many streams".into());
            let stream = id;
            return self.events.push_back(Input::Closed { stream, why });
        };
        let connection = Connection::connect(now, id, to, receive_id);
        self.insert(flows, id, connection);
    }

    /// No way leads to this peer any more: its streams end.
    pub fn lose(&mut self, now: Mono, flows: &mut Flows, peer: SocketAddr) {
        self.advance(now, flows);
        let theirs = self.keys.range((peer, 0)..=(peer, u16::MAX));
        let theirs: Vec<StreamId> = theirs.map(|(_, id)| *id).collect();
        for id in theirs {
            self.with(id, Connection::lose);
        }
    }

    /// Bytes to send; answered by `Sent` as the buffer takes them.
    pub fn send(&mut self, id: StreamId, bytes: Bytes) {
        let now = self.now;
        self.with(id, |it, events| it.write(now, bytes, events));
    }

    /// The reader takes so many bytes more.
    pub fn grant(&mut self, id: StreamId, bytes: u32) {
        let now = self.now;
        self.with(id, |it, events| it.grant(now, bytes.into(), events));
    }

    /// Answered by `Closed`: after everything was acknowledged, or at once.
    pub fn close(&mut self, id: StreamId, how: CloseHow) {
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
    pub fn on_datagram(
        &mut self,
        now: Mono,
        flows: &mut Flows,
        from: SocketAddr,
        (datagram, ecn): (&Bytes, Ecn),
    ) -> bool {
        let now = self.advance(now, flows);
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
                self.with(id, |it, events| {
                    it.on_packet(now, &packet, (payload, ecn), events);
                });
                self.tell(now, flows, id);
            }
            (None, Kind::Reset) => {}
            (None, Kind::Syn) => self.on_syn(now, flows, from, &packet),
            (None, _) => self.refuse(now, from, &packet.header),
        }
        true
    }

    /// A reset carries the id its sender sends with, or the one of the packet it answers.
    fn of_reset(&self, from: SocketAddr, carried: u16) -> Option<&StreamId> {
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

    fn on_syn(&mut self, now: Mono, flows: &mut Flows, from: SocketAddr, syn: &Packet<'_>) {
        if !self.is_accepting || !self.has_place() {
            return self.refuse(now, from, &syn.header);
        }
        if self.unconfirmed.len() >= UTP_UNCONFIRMED_MAX
            && let Some(oldest) = self.unconfirmed.first().copied()
        {
            self.remove(oldest);
        }
        self.accepted += 1;
        let id = StreamId::utp(self.accepted, true);
        let seq = self.rng.below(1 << 16) as u16;
        let connection = Connection::accept(now, id, from, syn, seq);
        self.insert(flows, id, connection);
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
    pub fn on_tick(&mut self, now: Mono, flows: &mut Flows) {
        self.advance(now, flows);
    }

    /// Time moves on: run the timers that are due, wake whose turn it is. A clock that went back is not believed.
    fn advance(&mut self, now: Mono, flows: &mut Flows) -> Mono {
        self.now = self.now.max(now);
        let now = self.now;
        self.gone.drain(..).for_each(|id| flows.remove(id));
        while let Some((at, id)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            if let Some(it) = self.connections.get_mut(&id) {
                it.armed_at = None;
                self.with(id, |it, events| it.on_timer(now, events));
                self.tell(now, flows, id);
            }
        }
        while let Some(id) = self.resting.iter().copied().find(|id| !flows.rests(*id)) {
            self.resting.remove(&id);
            self.with(id, |_, _| {});
        }
        now
    }

    // --- what the shell takes

    pub fn has_news(&self) -> bool {
        !self.events.is_empty()
    }

    /// What the owner is to hear.
    pub fn poll_input(&mut self) -> Option<Input> {
        self.events.pop_front()
    }

    /// The next datagram, its payload written to `out` (cleared first), where to and whether it may be marked; it is not
    /// to be fragmented.
    pub fn poll_datagram(
        &mut self,
        now: Mono,
        flows: &mut Flows,
        out: &mut Vec<u8>,
    ) -> Option<(SocketAddr, Ecn)> {
        let now = self.advance(now, flows);
        out.clear();
        if let Some((to, header)) = self.replies.pop_front() {
            header.encode_plain(out);
            return Some((to, Ecn::NotEct));
        }
        while let Some(id) = self.ready.front().copied() {
            let polled = self.connections.get_mut(&id).and_then(|it| {
                it.allowed = Allowed::of(id, flows);
                Some((it.peer, it.poll_packet(now, out)?))
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
    fn rest(&mut self, now: Mono, id: StreamId) {
        let Some(it) = self.connections.get_mut(&id) else {
            return;
        };
        it.is_ready = false;
        if it.allowed.rests {
            self.resting.insert(id);
        }
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

    pub fn facts(&self, id: StreamId) -> Option<Facts> {
        let it = self.connections.get(&id)?;
        Some(Facts {
            least_rtt_us: it.rtt.least_us(),
            window_bytes: it.allowed.window_bytes,
            flight_bytes: it.sender.flight_bytes(),
            datagram_bytes: it.mtu.datagram_bytes(),
        })
    }

    /// Nothing is open, not even lingering.
    pub fn is_idle(&self) -> bool {
        self.connections.is_empty() && self.events.is_empty() && self.replies.is_empty()
    }

    // --- the register

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

    fn insert(&mut self, flows: &mut Flows, id: StreamId, mut connection: Connection) {
        let segment_bytes = UTP_DATAGRAM_MAX_V4 as usize - HEADER_LEN;
        flows.add(self.now, id, connection.peer.ip(), segment_bytes as u32);
        connection.allowed = Allowed::of(id, flows);
        let key = (connection.peer, connection.receive_id);
        self.keys.insert(key, id);
        self.connections.insert(id, Box::new(connection));
        self.with(id, |_, _| {});
    }

    /// Do something with a stream and see to what follows from it; nothing if there is no such stream.
    fn with(&mut self, id: StreamId, work: impl FnOnce(&mut Connection, &mut VecDeque<Input>)) {
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

    /// What congestion control is to hear of a stream, and what it says then.
    fn tell(&mut self, now: Mono, flows: &mut Flows, id: StreamId) {
        let Some(it) = self.connections.get_mut(&id) else {
            return;
        };
        it.news.drain(..).for_each(|news| news.tell(now, id, flows));
        it.allowed = Allowed::of(id, flows);
    }

    fn remove(&mut self, id: StreamId) {
        let Some(it) = self.connections.remove(&id) else {
            return;
        };
        self.keys.remove(&(it.peer, it.receive_id));
        self.unconfirmed.remove(&id);
        self.lingering.remove(&id);
        if let Some(at) = it.armed_at {
            self.timers.remove(&(at, id));
        }
        self.resting.remove(&id);
        self.gone.push(id);
    }

    /// Assert the invariants of all streams and of the register.
    pub fn check(&self) {
        assert_eq!(self.keys.len(), self.connections.len());
        assert!(self.unconfirmed.len() <= UTP_UNCONFIRMED_MAX);
        assert!(self.lingering.len() <= UTP_LINGERING_MAX);
        assert!(self.connections.len() <= UTP_CONNECTIONS_MAX + UTP_LINGERING_MAX);
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
