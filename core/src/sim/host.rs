//! One host of a world: its machine, its clocks, what is open and outstanding there, what it said.

use super::clock::Clock;
use super::disk::Disk;
use super::event::At;
use super::journal::Journal;
use super::spec::{ClockSpec, HashSpec};
use super::{SiteId, world::SimMachine};
use crate::command::{Event, Reply};
use crate::ids::{CallId, OpId, SocketId, StreamId};
use crate::machine::Listener;
use crate::rng::Rng;
use core::net::{IpAddr, SocketAddr};
use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet};
use std::string::String;
use std::vec::Vec;

pub(super) struct Host {
    pub(super) name: String,
    pub(super) id: u32,
    /// From the name and the world's seed: orders simultaneous events.
    pub(super) key: u64,
    pub(super) count: u64,
    pub(super) rng: Rng,
    pub(super) machine: Option<Box<dyn SimMachine>>,
    pub(super) powered: bool,
    pub(super) life: u32,
    pub(super) clock_spec: ClockSpec,
    pub(super) clock: Clock,
    pub(super) addr: IpAddr,
    pub(super) other_addr: Option<IpAddr>,
    pub(super) listen: Vec<(Listener, u16)>,
    pub(super) drops_streams: bool,
    pub(super) up: u32,
    pub(super) down: u32,
    pub(super) site: Option<SiteId>,

    pub(super) streams: BTreeMap<StreamId, (u32, u8)>,
    pub(super) last_accepted: u64,
    pub(super) next_port: u16,
    pub(super) ops: BTreeSet<OpId>,
    pub(super) disk: Disk,
    pub(super) disk_busy_ns: u64,
    pub(super) hash: HashSpec,
    pub(super) hash_busy_ns: u64,

    /// Of the earliest timer event on the agenda.
    pub(super) timer_ns: u64,
    pub(super) ticks_at_ns: u64,
    pub(super) ticks: u32,
    pub(super) since_check: u32,
    /// The socket was full; the machine is asked for datagrams when it is not.
    pub(super) wants_datagrams: bool,
    pub(super) drain_queued: bool,

    pub(super) last_call: u64,
    pub(super) replies: BTreeMap<CallId, Reply>,
    pub(super) events: Vec<Event>,
    pub(super) journal: Journal,
}

impl Host {
    pub(super) fn at(&self) -> At {
        At {
            host: self.id,
            life: self.life,
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.machine.is_some()
    }

    pub(super) fn listener_on(&self, port: u16) -> Option<Listener> {
        let mut bound = self.listen.iter();
        bound.find(|(_, p)| *p == port).map(|(l, _)| *l)
    }

    /// Where its sockets for datagrams are bound.
    fn datagram_ports(&self) -> impl Iterator<Item = u16> {
        let bound = self.listen.iter().filter(|(l, _)| l.has_datagrams());
        bound.map(|(_, port)| *port)
    }

    /// Its own address of the family of `to`.
    pub(super) fn addr_towards(&self, to: IpAddr) -> IpAddr {
        let other = self
            .other_addr
            .filter(|addr| addr.is_ipv4() == to.is_ipv4());
        other.unwrap_or(self.addr)
    }

    pub(super) fn datagram_addr(&self, socket: SocketId, to: IpAddr) -> Option<SocketAddr> {
        let port = self.datagram_ports().nth(socket.0.into())?;
        Some(SocketAddr::new(self.addr_towards(to), port))
    }

    pub(super) fn socket_at(&self, to: SocketAddr) -> Option<SocketId> {
        let mut ports = self
            .datagram_ports()
            .filter(|_| to.ip() == self.addr_towards(to.ip()));
        let place = ports.position(|port| port == to.port())?;
        u8::try_from(place).ok().map(SocketId)
    }

    pub(super) fn ephemeral_port(&mut self) -> u16 {
        self.next_port = if self.next_port == u16::MAX {
            49_152
        } else {
            self.next_port + 1
        };
        self.next_port
    }

    /// The number of the next event this host causes.
    pub(super) fn next_count(&mut self) -> u64 {
        self.count += 1;
        self.count
    }
}
