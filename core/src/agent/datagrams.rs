//! The socket beside the peers' port: streams to peers over uTP, and the rendezvous that finds ways for them.
//!
//! Decides: how datagrams are put together for one system call. Never does: who is dialled this way (`dial`), how fast
//! it goes (`congestion`). Invariants: what streams have to say is heard before the call that brought it returns.
//! Tests: `core/tests/utp_agents.rs`, and over real sockets by both shells.

use crate::ids::SocketId;
use crate::limits::{DATAGRAMS_AT_ONCE, DATAGRAMS_AT_ONCE_BYTES};
use crate::machine::{Datagram, Ecn, Host, Input, Output};
use crate::rendezvous::{Channel, Client, DeviceId};
use crate::rng::Rng;
use crate::time::{Deadline, Mono};
use crate::transport::{Flows, Transport};
use alloc::vec::Vec;
use bytes::{Buf as _, Bytes};
use core::net::SocketAddr;
use core::time::Duration;

#[derive(Debug)]
pub(super) struct Datagrams {
    transport: Transport,
    pub(super) rendezvous: Client,
    now: Mono,
    /// One that could not leave with those before it, and where it is to go.
    kept: Option<(SocketAddr, Ecn)>,
    kept_bytes: Vec<u8>,
}

impl Datagrams {
    pub(super) fn new(device: DeviceId, mut rng: Rng) -> Self {
        Self {
            rendezvous: Client::new(device, rng.fork()),
            transport: Transport::new(rng),
            now: Mono::ZERO,
            kept: None,
            kept_bytes: Vec::new(),
        }
    }

    pub(super) fn set_accepting(&mut self, is_accepting: bool) {
        self.transport.set_accepting(is_accepting);
    }

    pub(super) fn on_datagrams(
        &mut self,
        now: Mono,
        flows: &mut Flows,
        from: SocketAddr,
        (mut bytes, segment_bytes): (Bytes, usize),
        ecn: Ecn,
    ) {
        self.now = now;
        while !bytes.is_empty() {
            let mut datagram = bytes.split_to(segment_bytes.clamp(1, bytes.len()));
            let Some(from) = self.sender(from, &mut datagram) else {
                continue;
            };
            if datagram.is_empty() {
                self.transport.lose(now, flows, from);
                continue;
            }
            if !self.rendezvous.on_datagram(now, from, &datagram) {
                self.transport
                    .on_datagram(now, flows, from, (&datagram, ecn));
            }
        }
    }

    /// Who a datagram is from, and what is in it if it was relayed. Nobody real is where relayed ways are.
    fn sender(&self, from: SocketAddr, datagram: &mut Bytes) -> Option<SocketAddr> {
        if self.rendezvous.rendezvous_at() == Some(from)
            && let Some((channel, inside)) = Channel::unwrap(datagram)
        {
            datagram.advance(inside);
            return Some(channel.place());
        }
        Channel::at(from.ip()).is_none().then_some(from)
    }

    /// Where a datagram has to be sent, and made ready for that; nowhere if the rendezvous is gone.
    fn address(&self, to: SocketAddr, datagram: &mut Vec<u8>) -> Option<SocketAddr> {
        let Some(channel) = Channel::at(to.ip()) else {
            return Some(to);
        };
        channel.wrap(datagram);
        self.rendezvous.rendezvous_at()
    }

    pub(super) fn on_tick(&mut self, now: Mono, flows: &mut Flows) {
        self.now = now;
        self.rendezvous.on_tick(now);
        self.transport.on_tick(now, flows);
    }

    /// Do what the role has ordered of a stream.
    pub(super) fn carry_out(&mut self, now: Mono, flows: &mut Flows, order: Output) {
        match order {
            Output::Connect { stream, to } => {
                if let Host::Addr(ip) = to.host {
                    let to = SocketAddr::new(ip, to.port);
                    self.transport.connect(now, flows, stream, to);
                }
            }
            Output::Grant { stream, bytes } => self.transport.grant(stream, bytes),
            Output::Send { stream, bytes } => self.transport.send(stream, bytes),
            Output::Close { stream, how } => self.transport.close(stream, how),
            other => debug_assert!(false, "not about a stream to a peer: {other:?}"),
        }
    }

    /// What the role is to hear of its streams.
    pub(super) fn poll_input(&mut self) -> Option<Input> {
        self.transport.poll_input()
    }

    pub(super) fn has_news(&self) -> bool {
        self.transport.has_news() || self.rendezvous.has_events()
    }

    /// The next datagrams, as many of one length to one address as come in turn.
    pub(super) fn poll(
        &mut self,
        now: Mono,
        flows: &mut Flows,
        out: &mut Vec<u8>,
    ) -> Option<Datagram> {
        self.now = now;
        out.clear();
        while let Some((to, mut bytes)) = self.rendezvous.poll_datagram() {
            if let Some(to) = self.address(to, &mut bytes) {
                out.extend_from_slice(&bytes);
                return Some(alone(to, out));
            }
        }
        let (to, ecn) = match self.kept.take() {
            Some(kept) => {
                core::mem::swap(out, &mut self.kept_bytes);
                kept
            }
            None => self.next(now, flows, out)?,
        };
        let segment_bytes = out.len();
        for _ in 1..DATAGRAMS_AT_ONCE.min(DATAGRAMS_AT_ONCE_BYTES / segment_bytes.max(1)) {
            let mut next = core::mem::take(&mut self.kept_bytes);
            let kept = self.next(now, flows, &mut next);
            self.kept_bytes = next;
            let next = &self.kept_bytes;
            if kept.is_none() {
                break;
            }
            if kept != Some((to, ecn)) || next.len() > segment_bytes {
                self.kept = kept;
                break;
            }
            out.extend_from_slice(next);
            if next.len() < segment_bytes {
                break;
            }
        }
        Some(Datagram {
            socket: SocketId::default(),
            to,
            segment_bytes,
            ecn,
        })
    }

    fn next(
        &mut self,
        now: Mono,
        flows: &mut Flows,
        out: &mut Vec<u8>,
    ) -> Option<(SocketAddr, Ecn)> {
        loop {
            let (peer, ecn) = self.transport.poll_datagram(now, flows, out)?;
            if let Some(to) = self.address(peer, out) {
                // A relay tells nobody of marks.
                let ecn = if to == peer { ecn } else { Ecn::NotEct };
                return Some((to, ecn));
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        if self.has_news() {
            let soon = self.now + Duration::from_micros(1);
            return Some(Deadline::new(soon, "a stream over datagrams has news"));
        }
        Deadline::earlier(self.transport.deadline(), self.rendezvous.deadline())
    }

    pub(super) fn check(&self) {
        self.transport.check();
        self.rendezvous.check();
    }
}

fn alone(to: SocketAddr, datagram: &[u8]) -> Datagram {
    Datagram {
        socket: SocketId::default(),
        to,
        segment_bytes: datagram.len(),
        ecn: Ecn::NotEct,
    }
}
