//! Streams between hosts: dialling, closing, resets, the two ends' state.
//!
//! Invariants: an id is in its host's `streams` exactly while the machine may still hear of it; leaving
//! that map and queueing `Closed` are one step, so `Closed` comes once and last.
//! Handshakes, acknowledgements and resets take the path's delay but no bandwidth, and are not lost.

use super::event::{Control, DialError, What};
use super::flow::{Flow, FlowSpec};
use super::nat::Reach;
use super::shaping::Reporting;
use super::world::{Soon, World};
use crate::ids::{FileId, StreamId};
use crate::machine::{CloseHow, Endpoint, Host as Target, Input, Listener, Lost};
use core::net::SocketAddr;
use core::time::Duration;
use std::boxed::Box;
use std::collections::VecDeque;
use std::string::String;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum EndState {
    /// Nobody there yet.
    Absent,
    Connecting,
    Open,
    /// The machine asked to close; what it sent still goes to the send buffer.
    Closing,
    /// The machine has heard `Closed`; the kernel may still deliver what was sent.
    Gone,
    /// The power was cut.
    Dead,
}

pub(super) struct End {
    pub(super) host: u32,
    pub(super) stream: StreamId,
    pub(super) state: EndState,
    pub(super) addr: SocketAddr,
    pub(super) credit: u64,
    granted: u64,
    received: u64,
    sent: u64,
    answered: u64,
}

/// Links from one end to the other, and delay that belongs to no link.
#[derive(Clone, Copy)]
pub(super) struct Path {
    links: [u32; 4],
    len: u8,
    pub(super) extra_ns: u64,
}

pub(super) struct Conn {
    pub(super) ends: [End; 2],
    /// `flows[i]` goes from `ends[i]` to the other.
    pub(super) flows: [Flow; 2],
    pub(super) paths: [Path; 2],
    pub(super) reporting: [Reporting; 2],
    dial: Option<Box<Dial>>,
    attempt: u8,
    opened: bool,
    listener: Listener,
}

/// The last step of a handshake is repeated with the first data.
const CUT_RETRY_NS: u64 = 1_000_000_000;

struct Dial {
    targets: VecDeque<SocketAddr>,
    name: Option<String>,
    tls: Option<String>,
    port: u16,
    last: DialError,
}

impl Path {
    pub(super) const LOOPBACK: Self = Self {
        links: [0; 4],
        len: 0,
        extra_ns: 20_000,
    };

    pub(super) fn link(&self, hop: u8) -> Option<u32> {
        (hop < self.len).then(|| self.links[usize::from(hop)])
    }

    pub(super) fn push(&mut self, link: u32) {
        self.links[usize::from(self.len)] = link;
        self.len += 1;
    }
}

impl End {
    fn new(host: u32, stream: StreamId, state: EndState, addr: SocketAddr) -> Self {
        Self {
            host,
            stream,
            state,
            addr,
            credit: 0,
            granted: 0,
            received: 0,
            sent: 0,
            answered: 0,
        }
    }

    pub(super) fn is_held(&self) -> bool {
        matches!(
            self.state,
            EndState::Connecting | EndState::Open | EndState::Closing
        )
    }

    /// Its kernel still answers for this stream.
    fn is_lingering(&self, flow: &Flow) -> bool {
        self.state == EndState::Gone && !flow.is_halted() && !flow.is_fin_acked()
    }
}

impl World {
    // --- what machines ask for

    pub(super) fn connect(&mut self, h: usize, stream: StreamId, to: Endpoint) {
        let net = self.net;
        let host = &mut self.hosts[h];
        assert!(
            !stream.is_accepted() && !host.streams.contains_key(&stream),
            "contract: {} connects with the id {} twice or out of turn",
            host.name,
            stream.0
        );
        let from = SocketAddr::new(host.addr, host.ephemeral_port());
        let conn = self.conns.len() as u32;
        host.streams.insert(stream, (conn, 0));
        let (targets, name, wait) = match to.host {
            Target::Addr(addr) => (
                [SocketAddr::new(addr, to.port)].into(),
                None,
                Duration::ZERO,
            ),
            Target::Name(name) => (VecDeque::new(), Some(name), net.name_lookup),
        };
        let spec = FlowSpec {
            segment: net.segment_bytes.into(),
            receive_buffer: net.receive_buffer,
            send_buffer_max: net.send_buffer_max,
        };
        self.conns.push(Some(Box::new(Conn {
            ends: [
                End::new(h as u32, stream, EndState::Connecting, from),
                End::new(u32::MAX, StreamId(u64::MAX), EndState::Absent, from),
            ],
            flows: [Flow::new(spec), Flow::new(spec)],
            paths: [Path::LOOPBACK; 2],
            reporting: [Reporting::default(); 2],
            dial: Some(Box::new(Dial {
                targets,
                name,
                tls: to.tls,
                port: to.port,
                last: DialError::NameNotFound,
            })),
            attempt: 0,
            opened: false,
            listener: Listener::Peers,
        })));
        self.control(conn, 0, super::clock::ns(wait), Control::Dial);
    }

    pub(super) fn grant(&mut self, h: usize, stream: StreamId, bytes: u32) {
        let Some(&(id, side)) = self.hosts[h].streams.get(&stream) else {
            return;
        };
        let Some(conn) = self.conn(id) else { return };
        let end = &mut conn.ends[usize::from(side)];
        end.credit += u64::from(bytes);
        end.granted += u64::from(bytes);
        self.read_soon(id, side);
    }

    pub(super) fn send(&mut self, h: usize, stream: StreamId, bytes: bytes::Bytes) {
        let now_ns = self.now_ns;
        let Some(&(id, side)) = self.hosts[h].streams.get(&stream) else {
            return;
        };
        let Some(conn) = self.conn(id) else { return };
        let end = &mut conn.ends[usize::from(side)];
        assert!(
            end.state != EndState::Closing,
            "contract: a send after Close on stream {}",
            stream.0
        );
        if bytes.is_empty() {
            return;
        }
        if conn.flows[usize::from(side)].is_halted() {
            // A reset came behind the end of the peer's bytes: nobody takes ours.
            self.end(id, side, Lost::Reset);
            self.forget_if_done(id);
            return;
        }
        end.sent += bytes.len() as u64;
        conn.flows[usize::from(side)].write(bytes, now_ns);
        if end.state == EndState::Open {
            self.sent_soon(id, side);
        }
    }

    /// What the disk has of it at this moment, without the time a disk takes: most of it is in memory.
    pub(super) fn send_file(
        &mut self,
        h: usize,
        stream: StreamId,
        file: FileId,
        offset: u64,
        len: u32,
    ) {
        let host = &mut self.hosts[h];
        match host.disk.read_now(file, offset, len, &mut host.rng) {
            Ok(bytes) => self.send(h, stream, bytes),
            Err(error) => {
                if let Some(&(id, side)) = self.hosts[h].streams.get(&stream) {
                    self.end(id, side, Lost::File(error.text));
                    self.reset_peer(id, side);
                    self.forget_if_done(id);
                }
            }
        }
    }

    pub(super) fn close(&mut self, h: usize, stream: StreamId, how: CloseHow) {
        let Some(&(id, side)) = self.hosts[h].streams.get(&stream) else {
            return;
        };
        let Some(conn) = self.conn(id) else { return };
        let end = &mut conn.ends[usize::from(side)];
        if end.state == EndState::Connecting {
            // Given up, with all that waits on it.
            self.end(id, side, Lost::Asked);
            self.forget_if_done(id);
            return;
        }
        match how {
            CloseHow::Flush => {
                end.state = EndState::Closing;
                self.sent_soon(id, side);
                // What still comes is read and thrown away, so that the end of it is seen.
                self.read_soon(id, side);
            }
            CloseHow::Abort => {
                self.end(id, side, Lost::Asked);
                self.reset_peer(id, side);
                self.forget_if_done(id);
            }
        }
    }

    pub(super) fn start_tls(&mut self, h: usize, stream: StreamId) {
        if let Some(&(id, side)) = self.hosts[h].streams.get(&stream) {
            let rtt = self.delay_ns(id, side) + self.delay_ns(id, 1 - side);
            self.control(id, side, rtt, Control::Secured);
        }
    }

    // --- steps of a connection

    pub(super) fn on_control(&mut self, id: u32, side: u8, attempt: u8, what: Control) {
        let Some(conn) = self.conn(id) else { return };
        if conn.attempt != attempt && what != Control::Reset {
            return;
        }
        let state = conn.ends[usize::from(side)].state;
        let (a, b) = (conn.ends[0].host, conn.ends[1].host);
        if matches!(what, Control::Established | Control::Reset) && self.is_cut(a, b) {
            if what == Control::Established {
                self.control(id, side, CUT_RETRY_NS, what);
            }
            return;
        }
        let Some(conn) = self.conn(id) else { return };
        match what {
            Control::Dial if state == EndState::Connecting => self.dial(id),
            Control::Syn => self.on_syn(id),
            Control::SynAck if state == EndState::Connecting => self.on_syn_ack(id),
            Control::Established => self.on_established(id),
            Control::Failed(why) if state == EndState::Connecting => {
                if let Some(dial) = &mut conn.dial {
                    dial.last = why;
                }
                self.dial(id);
            }
            Control::Secured if state == EndState::Open => {
                let stream = conn.ends[usize::from(side)].stream;
                let host = conn.ends[usize::from(side)].host;
                self.tell(host, Input::Secured { stream });
            }
            Control::Reset => self.on_reset(id, side),
            Control::Dial | Control::SynAck | Control::Failed(_) | Control::Secured => {}
        }
    }

    /// Try the next address, or give up.
    fn dial(&mut self, id: u32) {
        let Some(conn) = self.conns.get_mut(id as usize).and_then(Option::as_mut) else {
            return;
        };
        let Some(dial) = &mut conn.dial else { return };
        if let Some(name) = dial.name.take() {
            let found = self.names.get(&name).into_iter().flatten();
            let addrs = found.map(|h| self.hosts[*h as usize].addr);
            let addrs = addrs.chain(name.parse().ok());
            dial.targets = addrs.map(|a| SocketAddr::new(a, dial.port)).collect();
        }
        let Some(to) = dial.targets.pop_front() else {
            let why = match dial.last {
                DialError::Refused => Lost::Refused,
                DialError::TimedOut => Lost::TimedOut,
                DialError::Unreachable => Lost::Unreachable,
                DialError::NameNotFound => Lost::NameNotFound,
            };
            self.end(id, 0, why);
            self.forget_if_done(id);
            return;
        };
        conn.attempt += 1;
        let from = conn.ends[0].host;
        let target = if to.ip().is_loopback() {
            Some(Reach::Host(from))
        } else {
            self.reach(from, to.ip())
        };
        match target {
            Some(Reach::Host(there)) if !self.is_cut(from, there) => self.knock(id, there, to),
            // Nobody inside has asked for it: it is dropped there, and the patience runs.
            Some(Reach::Nat(_)) => {}
            _ => {
                self.control(id, 0, 1_000_000, Control::Failed(DialError::Unreachable));
                return;
            }
        }
        let patience = super::clock::ns(self.net.connect_timeout);
        self.control(id, 0, patience, Control::Failed(DialError::TimedOut));
    }

    fn knock(&mut self, id: u32, there: u32, to: SocketAddr) {
        let Some(conn) = self.conn(id) else { return };
        let (from, port) = (conn.ends[0].host, conn.ends[0].addr.port());
        let inside = SocketAddr::new(self.hosts[from as usize].addr_towards(to.ip()), port);
        let paths = [self.path(from, there), self.path(there, from)];
        let source = self.stream_source(inside, from, there);
        let Some(conn) = self.conn(id) else { return };
        conn.paths = paths;
        conn.ends[0].addr = source;
        conn.ends[1] = End::new(there, StreamId(u64::MAX), EndState::Absent, to);
        let way = self.delay_ns(id, 0);
        self.control(id, 1, way, Control::Syn);
    }

    fn on_syn(&mut self, id: u32) {
        let Some(conn) = self.conn(id) else { return };
        let (from, there, port) = (
            conn.ends[0].host,
            conn.ends[1].host,
            conn.ends[1].addr.port(),
        );
        let host = &self.hosts[there as usize];
        if !host.powered || host.drops_streams || self.is_cut(from, there) {
            return;
        }
        // Callers' sockets are files: they are not on the network.
        let listener = host
            .listener_on(port)
            .filter(|_| host.is_alive())
            .filter(|l| *l != Listener::Local || from == there);
        let back = self.delay_ns(id, 1);
        let Some(listener) = listener else {
            self.control(id, 0, back, Control::Failed(DialError::Refused));
            return;
        };
        let rtt = back + self.delay_ns(id, 0);
        let Some(conn) = self.conn(id) else { return };
        conn.listener = listener;
        let tls = conn.dial.as_ref().is_some_and(|d| d.tls.is_some());
        self.control(id, 0, back + if tls { rtt } else { 0 }, Control::SynAck);
    }

    fn on_syn_ack(&mut self, id: u32) {
        let Some(conn) = self.conn(id) else { return };
        let (host, there) = (conn.ends[0].host, conn.ends[1].host);
        if self.is_cut(host, there) {
            // The patience runs on; nothing else comes.
            return;
        }
        let Some(conn) = self.conn(id) else { return };
        let name = conn.dial.take().and_then(|d| d.tls);
        if let Some(text) = name.and_then(|name| self.tls_faults.get(&name).cloned()) {
            self.end(id, 0, Lost::Tls(text));
            self.forget_if_done(id);
            return;
        }
        let Some(conn) = self.conn(id) else { return };
        conn.attempt += 1;
        conn.opened = true;
        conn.ends[0].state = EndState::Open;
        let (stream, to) = (conn.ends[0].stream, conn.ends[1].addr);
        self.tell(host, Input::Opened { stream, to });
        self.sent_soon(id, 0);
        let way = self.delay_ns(id, 0);
        self.control(id, 1, way, Control::Established);
    }

    fn on_established(&mut self, id: u32) {
        let Some(conn) = self.conn(id) else { return };
        let h = conn.ends[1].host as usize;
        let (listener, from, port) = (conn.listener, conn.ends[0].addr, conn.ends[1].addr.port());
        conn.ends[1].state = EndState::Gone;
        let host = &mut self.hosts[h];
        if !host.is_alive() || host.listener_on(port).is_none() {
            self.reset_peer(id, 1);
            self.forget_if_done(id);
            return;
        }
        host.last_accepted += 2;
        let stream = StreamId(host.last_accepted + 1);
        host.streams.insert(stream, (id, 1));
        let Some(conn) = self.conn(id) else { return };
        conn.ends[1].state = EndState::Open;
        conn.ends[1].stream = stream;
        let accepted = Input::Accepted {
            stream,
            listener,
            from,
        };
        self.tell(h as u32, accepted);
        self.read_soon(id, 1);
    }

    /// The other end says that it knows nothing of this stream.
    fn on_reset(&mut self, id: u32, side: u8) {
        let Some(conn) = self.conn(id) else { return };
        let s = usize::from(side);
        if !conn.ends[s].is_held() {
            conn.flows[s].halt();
            self.forget_if_done(id);
            return;
        }
        // A reset behind the end of the stream only says that nobody reads what is sent: what came can be read.
        if conn.flows[1 - s].is_fin_known() && conn.flows[s].is_all_taken() {
            conn.flows[s].halt();
            return;
        }
        self.end(id, side, Lost::Reset);
        self.forget_if_done(id);
    }

    // --- ends

    /// The machine hears no more of this stream than `Closed`.
    pub(super) fn end(&mut self, id: u32, side: u8, why: Lost) {
        let Some(conn) = self.conn(id) else { return };
        let end = &mut conn.ends[usize::from(side)];
        let flush = end.state == EndState::Closing && why == Lost::Asked;
        let (host, stream) = (end.host, end.stream);
        end.state = EndState::Gone;
        if !flush {
            conn.flows[usize::from(side)].halt();
        }
        let held = self.hosts[host as usize].streams.remove(&stream);
        assert!(held.is_some(), "stream {} closes twice", stream.0);
        self.tell(host, Input::Closed { stream, why });
    }

    pub(super) fn reset_peer(&mut self, id: u32, side: u8) {
        let way = self.delay_ns(id, side);
        self.control(id, 1 - side, way, Control::Reset);
    }

    /// A killed process: its kernel closes the socket. A cut power: nobody does.
    pub(super) fn abandon(&mut self, id: u32, side: u8, power_cut: bool) {
        let Some(conn) = self.conn(id) else { return };
        let s = usize::from(side);
        let connecting = conn.ends[s].state == EndState::Connecting;
        let unread = conn.flows[1 - s].readable() > 0;
        conn.ends[s].state = EndState::Gone;
        if power_cut {
            conn.ends[s].state = EndState::Dead;
            conn.flows[s].halt();
        } else if connecting || unread {
            conn.flows[s].halt();
            self.reset_peer(id, side);
        } else {
            conn.flows[s].abandon_untaken();
            conn.flows[s].finish();
            self.kick(id, side);
        }
        self.forget_if_done(id);
    }

    /// A segment came to an end that does not hold the stream: is it answered with a reset?
    pub(super) fn resets(&mut self, id: u32, side: u8) -> bool {
        let Some(conn) = self.conn(id) else {
            return false;
        };
        let s = usize::from(side);
        let lingers = conn.ends[s].is_lingering(&conn.flows[s]);
        !conn.ends[s].is_held() && conn.ends[s].state != EndState::Absent && !lingers
    }

    /// When no machine holds either end any more, nobody can tell whether the rest arrives.
    pub(super) fn forget_if_done(&mut self, id: u32) {
        if let Some(conn) = self.conn(id)
            && conn.ends.iter().all(|end| !end.is_held())
            && !(conn.opened && conn.ends[1].state == EndState::Absent)
        {
            self.conns[id as usize] = None;
        }
    }

    pub(super) fn note_received(&mut self, id: u32, side: u8, len: u64) {
        if let Some(conn) = self.conn(id) {
            let end = &mut conn.ends[usize::from(side)];
            end.received += len;
            end.credit -= len;
            assert!(end.received <= end.granted, "delivered more than granted");
        }
    }

    pub(super) fn note_answered(&mut self, id: u32, side: u8, len: u64) {
        if let Some(conn) = self.conn(id) {
            let end = &mut conn.ends[usize::from(side)];
            end.answered += len;
            assert!(end.answered <= end.sent, "answered more than sent");
        }
    }

    pub(super) fn read_soon(&mut self, id: u32, side: u8) {
        let Some(conn) = self.conn(id) else { return };
        let flow = &mut conn.flows[1 - usize::from(side)];
        if !flow.read_queued {
            flow.read_queued = true;
            self.soon.push_back(Soon::Read { conn: id, side });
        }
    }

    pub(super) fn sent_soon(&mut self, id: u32, side: u8) {
        let Some(conn) = self.conn(id) else { return };
        let flow = &mut conn.flows[usize::from(side)];
        if !flow.sent_queued {
            flow.sent_queued = true;
            self.soon.push_back(Soon::Sent { conn: id, side });
        }
    }

    fn control(&mut self, id: u32, side: u8, after_ns: u64, what: Control) {
        let Some(conn) = self.conn(id) else { return };
        let by = match (what, side) {
            // A reset is caused by the other end; everything else is told in the connector's name.
            (Control::Reset, 0) => conn.ends[1].host,
            _ => conn.ends[0].host,
        };
        let attempt = conn.attempt;
        let event = What::Control {
            conn: id,
            side,
            attempt,
            what,
        };
        self.schedule(by, self.now_ns + after_ns, event);
    }

    pub(super) fn conn(&mut self, id: u32) -> Option<&mut Conn> {
        self.conns.get_mut(id as usize)?.as_deref_mut()
    }
}
