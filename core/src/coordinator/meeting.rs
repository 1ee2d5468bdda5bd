//! The rendezvous as a part of the coordinator: its ports, and whom the registry lets meet.
//!
//! Decides: that two devices are introduced if one was, or would be, named to the other for that content.
//! Never does: the protocol (`rendezvous/server.rs`). Tested in `core/tests/nat.rs`.

use super::registry::Registry;
use crate::announce::messages::{PeerId, Rendezvous};
use crate::content::Digest;
use crate::ids::SocketId;
use crate::machine::{Datagram, Ecn};
use crate::rendezvous::Server;
use crate::rng::Rng;
use crate::time::{Deadline, Mono};
use alloc::vec::Vec;
use bytes::Bytes;
use core::net::SocketAddr;

#[derive(Debug)]
pub(super) struct Meeting {
    server: Server,
    /// Of its sockets, in their order: none, one, or one and the other.
    ports: Vec<u16>,
}

impl Meeting {
    pub(super) fn new(rng: Rng, relay_bytes_per_s: Option<u64>) -> Self {
        Self {
            server: Server::new(rng, relay_bytes_per_s),
            ports: Vec::new(),
        }
    }

    pub(super) fn on_listening(&mut self, at: SocketAddr) {
        self.ports.push(at.port());
    }

    /// What a device is told of it.
    pub(super) fn offer(&self, device: PeerId) -> Option<Rendezvous> {
        Some(Rendezvous {
            port: *self.ports.first()?,
            other_port: self.ports.get(1).copied(),
            key: Digest(self.server.key(device).0),
        })
    }

    pub(super) fn on_datagrams(
        &mut self,
        now: Mono,
        registry: &Registry,
        (socket, from): (SocketId, SocketAddr),
        mut bytes: Bytes,
        segment_bytes: usize,
    ) {
        while !bytes.is_empty() {
            let datagram = bytes.split_to(segment_bytes.clamp(1, bytes.len()));
            let socket = usize::from(socket.0);
            self.server
                .on_datagram(now, socket, from, &datagram, |by, of, content| {
                    let view = registry.swarm(content)?.view(by, of)?;
                    Some(view.distance.class())
                });
        }
    }

    pub(super) fn poll_datagram(&mut self, now: Mono, out: &mut Vec<u8>) -> Option<Datagram> {
        let (socket, to, bytes) = self.server.poll_datagram(now)?;
        out.clear();
        out.extend_from_slice(&bytes);
        Some(Datagram {
            socket: SocketId(u8::try_from(socket).unwrap_or_default()),
            to,
            segment_bytes: bytes.len(),
            ecn: Ecn::NotEct,
        })
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.server.deadline()
    }

    pub(super) fn check(&self) {
        self.server.check();
    }
}
