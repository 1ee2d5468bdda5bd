//! Moving segments, acknowledgements and datagrams over the links, and bytes into machines.
//!
//! Invariant: a flow stands in its uplink's round exactly while it is ready to send.

use super::clock::ns;
use super::conn::{EndState, Path};
use super::event::What;
use super::flow::{Flow, Segment};
use super::link::{Flying, Sender};
use super::nat::Reach;
use super::shaping::SEGMENT_BYTES_MAX;
use super::spec::Reads;
use super::world::{SiteId, Soon, World};
use crate::ids::SocketId;
use crate::machine::{Ecn, Input, Lost};
use bytes::{Bytes, BytesMut};
use core::net::SocketAddr;
use std::boxed::Box;

/// Linux: at least so long.
const DELAYED_ACK_NS: u64 = 40_000_000;

impl World {
    // --- paths

    pub(super) fn path(&self, from: u32, to: u32) -> Path {
        if from == to {
            return Path::LOOPBACK;
        }
        let b = &self.hosts[to as usize];
        let mut path = self.path_to_site(from, b.site);
        path.extra_ns = ns(self.extra_delay(from, to));
        path.push(b.down);
        path
    }

    fn path_to_site(&self, from: u32, to: Option<SiteId>) -> Path {
        let a = &self.hosts[from as usize];
        let mut path = Path::LOOPBACK;
        path.push(a.up);
        if a.site != to {
            if let Some(site) = a.site {
                path.push(self.sites[site.0].0);
            }
            if let Some(site) = to {
                path.push(self.sites[site.0].1);
            }
        }
        path
    }

    fn is_site_uplink(&self, host: u32, link: u32) -> bool {
        let site = self.hosts[host as usize].site;
        site.is_some_and(|site| self.sites[site.0].0 == link)
    }

    /// Without queueing: what handshakes and acknowledgements take.
    pub(super) fn delay_ns(&self, id: u32, side: u8) -> u64 {
        let Some(Some(conn)) = self.conns.get(id as usize) else {
            return 0;
        };
        let path = conn.paths[usize::from(side)];
        let mut sum = path.extra_ns;
        let mut hop = 0;
        while let Some(link) = path.link(hop) {
            sum += ns(self.links[link as usize].spec.delay);
            hop += 1;
        }
        sum
    }

    // --- sending

    /// Something about this flow changed: it may have become ready.
    pub(super) fn kick(&mut self, id: u32, dir: u8) {
        let Some(conn) = self
            .conns
            .get_mut(id as usize)
            .and_then(Option::as_deref_mut)
        else {
            return;
        };
        let d = usize::from(dir);
        if conn.flows[d].is_ready() && !conn.flows[d].in_round {
            match conn.paths[d].link(0) {
                Some(link) => {
                    conn.flows[d].in_round = true;
                    let sender = Sender::Flow { conn: id, dir };
                    self.links[link as usize].round.push_back(sender);
                    self.pump(link);
                }
                None => self.loop_back(id, dir),
            }
        }
        self.arm_rto(id, dir);
    }

    /// Let the uplink send while it is free.
    pub(super) fn pump(&mut self, l: u32) {
        let now_ns = self.now_ns;
        loop {
            let link = &mut self.links[l as usize];
            if link.busy_until_ns > now_ns {
                return;
            }
            let Some(sender) = link.round.pop_front() else {
                return;
            };
            let owner = match sender {
                Sender::Flow { conn, dir } => self.send_segment(l, conn, dir),
                Sender::Datagrams => self.send_datagram(l),
            };
            let Some(owner) = owner else { continue };
            let free_ns = self.links[l as usize].busy_until_ns;
            if free_ns > now_ns {
                self.schedule(owner, free_ns, What::LinkFree(l));
                return;
            }
        }
    }

    /// One segment of this flow onto the wire; the sending host, if something was sent.
    fn send_segment(&mut self, l: u32, id: u32, dir: u8) -> Option<u32> {
        let now_ns = self.now_ns;
        let conn = self.conns.get_mut(id as usize)?.as_deref_mut()?;
        let d = usize::from(dir);
        let (owner, extra_ns) = (conn.ends[d].host, conn.paths[d].extra_ns);
        let flow = &mut conn.flows[d];
        flow.in_round = false;
        let segment = flow.next_segment(now_ns)?;
        let link = &mut self.links[l as usize];
        if flow.is_ready() {
            flow.in_round = true;
            link.round.push_back(Sender::Flow { conn: id, dir });
        }
        let arm = !flow.rto_armed;
        let left_ns = link.serialise(now_ns, segment.len.into());
        let arrival = link.arrival(left_ns);
        if arm {
            self.arm_rto(id, dir);
        }
        if let Some(at_ns) = arrival {
            let event = What::Segment {
                conn: id,
                dir,
                hop: 1,
                segment,
            };
            self.schedule(owner, at_ns + extra_ns, event);
        }
        Some(owner)
    }

    fn loop_back(&mut self, id: u32, dir: u8) {
        let now_ns = self.now_ns;
        while let Some(conn) = self.conn(id) {
            let d = usize::from(dir);
            let (owner, extra_ns) = (conn.ends[d].host, conn.paths[d].extra_ns);
            let Some(segment) = conn.flows[d].next_segment(now_ns) else {
                return;
            };
            let event = What::Segment {
                conn: id,
                dir,
                hop: 0,
                segment,
            };
            self.schedule(owner, now_ns + extra_ns, event);
        }
    }

    // --- arriving

    pub(super) fn on_segment(&mut self, id: u32, dir: u8, hop: u8, segment: Segment) {
        let Some(conn) = self
            .conns
            .get_mut(id as usize)
            .and_then(Option::as_deref_mut)
        else {
            return;
        };
        let d = usize::from(dir);
        let owner = conn.ends[d].host;
        if let Some(link) = conn.paths[d].link(hop) {
            let arrival = self.links[link as usize].forward(self.now_ns, segment.len.into());
            let hop = hop + 1;
            match arrival {
                Some(at_ns) if at_ns > self.now_ns => {
                    let event = What::Segment {
                        conn: id,
                        dir,
                        hop,
                        segment,
                    };
                    self.schedule(owner, at_ns, event);
                }
                Some(_) => self.on_segment(id, dir, hop, segment),
                None => {}
            }
            return;
        }
        self.deliver(id, dir, segment);
    }

    /// A segment is at its receiver.
    fn deliver(&mut self, id: u32, dir: u8, segment: Segment) {
        let side = 1 - dir;
        let Some(conn) = self.conn(id) else { return };
        let receiver = conn.ends[usize::from(side)].host;
        let (sender, state) = (
            conn.ends[usize::from(dir)].host,
            conn.ends[usize::from(side)].state,
        );
        if self.is_cut(sender, receiver) || !self.hosts[receiver as usize].powered {
            return;
        }
        if self.resets(id, side) {
            self.reset_peer(id, side);
            return;
        }
        let (now_ns, delays_acks) = (self.now_ns, self.net.delayed_acks);
        let Some(conn) = self.conn(id) else { return };
        let flow = &mut conn.flows[usize::from(dir)];
        flow.on_segment(segment);
        if state == EndState::Gone {
            // The kernel lingers: it takes what still comes and throws it away.
            while flow.read(u64::MAX).is_some() {}
        }
        if !delays_acks || flow.must_acknowledge() {
            self.acknowledge(id, dir);
        } else if flow.begin_to_wait(now_ns) {
            self.schedule(
                receiver,
                now_ns + DELAYED_ACK_NS,
                What::DelayedAck { conn: id, dir },
            );
        }
        self.note_path(id, side);
        self.read_soon(id, side);
    }

    /// One packet, for all that has come since the last.
    fn acknowledge(&mut self, id: u32, dir: u8) {
        let back_ns = self.delay_ns(id, 1 - dir);
        let Some(conn) = self.conn(id) else { return };
        let receiver = conn.ends[usize::from(1 - dir)].host;
        let flow = &mut conn.flows[usize::from(dir)];
        let (edge, numbers) = (flow.advertise(), flow.acknowledge());
        for (n, number) in numbers.into_iter().enumerate() {
            let ack = What::Ack {
                conn: id,
                dir,
                number,
                edge,
                is_first: n == 0,
            };
            self.schedule(receiver, self.now_ns + back_ns, ack);
        }
    }

    pub(super) fn on_delayed_ack(&mut self, id: u32, dir: u8) {
        let now_ns = self.now_ns;
        let Some(conn) = self.conn(id) else { return };
        let receiver = conn.ends[usize::from(1 - dir)].host;
        let flow = &mut conn.flows[usize::from(dir)];
        match flow.waits_until(now_ns, DELAYED_ACK_NS) {
            Some(at_ns) if at_ns > now_ns => {
                self.schedule(receiver, at_ns, What::DelayedAck { conn: id, dir });
            }
            Some(_) => self.acknowledge(id, dir),
            None => {}
        }
    }

    pub(super) fn on_ack(&mut self, id: u32, dir: u8, number: u32, edge: u64, is_first: bool) {
        let now_ns = self.now_ns;
        let Some(conn) = self.conn(id) else { return };
        let (sender, receiver) = (
            conn.ends[usize::from(dir)].host,
            conn.ends[usize::from(1 - dir)].host,
        );
        let flow = &mut conn.flows[usize::from(dir)];
        if flow.is_halted() {
            return;
        }
        if !self.cuts.is_empty() && self.is_cut(sender, receiver) {
            return;
        }
        let own_ns = self.own_ns(id, dir, number);
        let Some(conn) = self.conn(id) else { return };
        let flow = &mut conn.flows[usize::from(dir)];
        flow.on_ack(number, edge, now_ns, is_first.then_some(own_ns));
        if flow.can_answer() || !flow.is_all_taken() {
            self.sent_soon(id, dir);
        }
        self.note_path(id, dir);
        self.kick(id, dir);
    }

    /// How much longer this transmission was on its links than a packet would have been.
    fn own_ns(&self, id: u32, dir: u8, number: u32) -> u64 {
        let Some(conn) = self.conns.get(id as usize).and_then(Option::as_deref) else {
            return 0;
        };
        let (flow, path) = (&conn.flows[usize::from(dir)], conn.paths[usize::from(dir)]);
        let excess = flow.flight_bytes(number).saturating_sub(SEGMENT_BYTES_MAX);
        let links = (0..).map_while(|hop| path.link(hop));
        let rates = links.map(|link| self.links[link as usize].spec.rate_bytes_per_s);
        let each = rates.filter(|rate| *rate > 0);
        each.map(|rate| excess * 1_000_000_000 / rate).sum()
    }

    // --- the retransmission timer

    fn arm_rto(&mut self, id: u32, dir: u8) {
        let Some(conn) = self.conn(id) else { return };
        let d = usize::from(dir);
        if conn.flows[d].rto_armed {
            return;
        }
        let owner = conn.ends[d].host;
        if let Some(at_ns) = conn.flows[d].rto_at() {
            conn.flows[d].rto_armed = true;
            let at_ns = at_ns.max(self.now_ns);
            self.schedule(owner, at_ns, What::Rto { conn: id, dir });
        }
    }

    pub(super) fn on_rto(&mut self, id: u32, dir: u8) {
        let now_ns = self.now_ns;
        let timeout_ns = ns(self.net.stream_timeout);
        let Some(conn) = self.conn(id) else { return };
        let d = usize::from(dir);
        let flow = &mut conn.flows[d];
        flow.rto_armed = false;
        let Some(at_ns) = flow.rto_at() else { return };
        if at_ns > now_ns {
            self.arm_rto(id, dir);
            return;
        }
        if now_ns.saturating_sub(flow.progress_ns()) >= timeout_ns {
            if conn.ends[d].is_held() {
                self.end(id, dir, Lost::TimedOut);
            } else {
                flow.halt();
            }
            self.forget_if_done(id);
            return;
        }
        flow.on_timeout(now_ns);
        self.note_path(id, dir);
        self.kick(id, dir);
    }

    // --- between streams and machines

    /// Give the machine what it may read.
    pub(super) fn read_now(&mut self, id: u32, side: u8) {
        let s = usize::from(side);
        let merged = self.net.reads == Reads::Merged;
        if let Some(conn) = self.conn(id) {
            conn.flows[1 - s].read_queued = false;
        }
        while let Some(conn) = self.conn(id) {
            let end = &conn.ends[s];
            let (host, stream, state) = (end.host, end.stream, end.state);
            let max = match state {
                EndState::Closing => u64::MAX,
                EndState::Open => end.credit,
                _ => return,
            };
            let max = match self.net.reads {
                Reads::Chopped if max > 0 && max != u64::MAX => {
                    1 + self.hosts[host as usize].rng.below(max.min(3000))
                }
                _ => max,
            };
            let Some(conn) = self.conn(id) else { return };
            let flow_bytes = read(
                &mut conn.flows[1 - s],
                max,
                merged && state == EndState::Open,
            );
            let Some(bytes) = flow_bytes else {
                let ended = conn.flows[1 - s].is_ended();
                if ended {
                    self.end(id, side, Lost::Eof);
                    self.forget_if_done(id);
                } else {
                    self.update_window(id, side);
                }
                return;
            };
            if state == EndState::Closing {
                continue;
            }
            self.note_received(id, side, bytes.len() as u64);
            self.handle(host, Input::Received { stream, bytes });
        }
    }

    fn update_window(&mut self, id: u32, side: u8) {
        let back_ns = self.delay_ns(id, side);
        let Some(conn) = self.conn(id) else { return };
        let receiver = conn.ends[usize::from(side)].host;
        let dir = 1 - side;
        let flow = &mut conn.flows[usize::from(dir)];
        if flow.should_update() {
            let ack = What::Ack {
                conn: id,
                dir,
                number: Flow::WINDOW_ONLY,
                edge: flow.advertise(),
                is_first: false,
            };
            self.schedule(receiver, self.now_ns + back_ns, ack);
        }
    }

    /// Move what was sent into the send buffer and say so.
    pub(super) fn sent_now(&mut self, id: u32, side: u8) {
        let s = usize::from(side);
        let Some(conn) = self.conn(id) else { return };
        conn.flows[s].sent_queued = false;
        let (host, stream, state) = (conn.ends[s].host, conn.ends[s].stream, conn.ends[s].state);
        if !matches!(state, EndState::Open | EndState::Closing) {
            return;
        }
        let len = conn.flows[s].take();
        if state == EndState::Closing && conn.flows[s].is_all_taken() {
            conn.flows[s].finish();
        }
        self.kick(id, side);
        if len > 0 {
            self.note_answered(id, side, len.into());
            self.handle(host, Input::Sent { stream, len });
        }
        if let Some(conn) = self.conn(id)
            && conn.ends[s].state == EndState::Closing
            && conn.flows[s].is_all_taken()
        {
            // The machine may have closed in this very moment.
            conn.flows[s].finish();
            self.kick(id, side);
            self.end(id, side, Lost::Asked);
            self.forget_if_done(id);
        }
    }

    // --- datagrams

    pub(super) fn is_writable(&self, h: usize) -> bool {
        let up = &self.links[self.hosts[h].up as usize];
        up.datagram_bytes < self.net.datagram_buffer
    }

    pub(super) fn queue_datagram(
        &mut self,
        h: usize,
        socket: SocketId,
        to: SocketAddr,
        payload: &[u8],
        ecn: Ecn,
    ) {
        let l = self.hosts[h].up;
        let from = self.hosts[h].datagram_addr(socket, to.ip());
        let (Some(from), Some(towards)) = (from, self.reach(h as u32, to.ip())) else {
            return;
        };
        if payload.len() > self.net.datagram_max {
            self.links[l as usize].counters.dropped += 1;
            return;
        }
        let flying = Box::new(Flying {
            from,
            to,
            from_host: h as u32,
            towards,
            bytes: Bytes::copy_from_slice(payload),
            ecn,
        });
        if towards == Reach::Host(h as u32) {
            let at_ns = self.now_ns + Path::LOOPBACK.extra_ns;
            self.schedule(h as u32, at_ns, What::Datagram { hop: 0, flying });
            return;
        }
        let link = &mut self.links[l as usize];
        link.datagram_bytes += flying.bytes.len() as u64;
        link.datagrams.push_back(flying);
        if link.datagrams.len() == 1 {
            link.round.push_back(Sender::Datagrams);
        }
        self.pump(l);
    }

    fn send_datagram(&mut self, l: u32) -> Option<u32> {
        let now_ns = self.now_ns;
        let link = &mut self.links[l as usize];
        let flying = link.datagrams.pop_front()?;
        link.counters.datagrams += 1;
        let len = flying.bytes.len() as u64;
        link.datagram_bytes -= len;
        if !link.datagrams.is_empty() {
            link.round.push_back(Sender::Datagrams);
        }
        let left_ns = link.serialise(now_ns, len);
        let arrival = link.arrival(left_ns);
        let owner = flying.from_host;
        let host = &mut self.hosts[owner as usize];
        if host.wants_datagrams && !host.drain_queued {
            host.drain_queued = true;
            self.soon.push_back(Soon::Drain(owner));
        }
        let extra_ns = match flying.towards {
            Reach::Host(to) => ns(self.extra_delay(owner, to)),
            Reach::Nat(_) => 0,
        };
        if let Some(at_ns) = arrival {
            self.schedule(owner, at_ns + extra_ns, What::Datagram { hop: 1, flying });
        }
        Some(owner)
    }

    pub(super) fn on_datagram(&mut self, hop: u8, mut flying: Box<Flying>) {
        let from = flying.from_host;
        let path = match flying.towards {
            Reach::Host(to) => self.path(from, to),
            Reach::Nat(site) => self.path_to_site(from, Some(site)),
        };
        if let Some(link) = path.link(hop) {
            if self.is_site_uplink(from, link) && !self.translate_outward(&mut flying) {
                return;
            }
            let len = flying.bytes.len() as u64;
            let link = &mut self.links[link as usize];
            link.mark(self.now_ns, &mut flying.ecn);
            if let Some(at_ns) = link.forward(self.now_ns, len) {
                let hop = hop + 1;
                self.schedule(from, at_ns, What::Datagram { hop, flying });
            }
            return;
        }
        let to = match flying.towards {
            Reach::Host(to) => to,
            Reach::Nat(site) => return self.translate_inward(site, hop, flying),
        };
        let host = &self.hosts[to as usize];
        if let Some(socket) = host.socket_at(flying.to)
            && host.is_alive()
            && !self.is_cut(from, to)
        {
            let Flying {
                from, bytes, ecn, ..
            } = *flying;
            let segment_bytes = bytes.len();
            let input = Input::Datagrams {
                socket,
                from,
                bytes,
                segment_bytes,
                ecn,
            };
            self.handle(to, input);
        }
    }
}

fn read(flow: &mut Flow, max: u64, merged: bool) -> Option<Bytes> {
    let first = flow.read(max)?;
    if !merged || flow.readable() == 0 || first.len() as u64 == max {
        return Some(first);
    }
    let mut all = BytesMut::from(first);
    while let Some(more) = flow.read(max - all.len() as u64) {
        all.extend_from_slice(&more);
    }
    Some(all.freeze())
}
