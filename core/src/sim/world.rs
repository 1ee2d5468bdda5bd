//! A world as tests see it: add hosts, give commands, let time pass, look.

use super::bases::Bases;
use super::clock::Clock;
use super::conn::Conn;
use super::disk::Disk;
use super::event::{Agenda, At, What};
use super::host::Host;
use super::journal::{Clock as Stamp, Journal};
use super::link::{Link, LinkCounters};
use super::nat::{Nat, Reach};
use super::spec::{HostSpec, LinkSpec, NetSpec};
use crate::command::{Command, Event, Reply};
use crate::content::Digest;
use crate::host::HostFacts;
use crate::ids::CallId;
use crate::machine::{Input, Machine};
use crate::rng::Rng;
use bytes::Bytes;
use core::any::Any;
use core::fmt;
use core::net::IpAddr;
use core::time::Duration;
use sha2::{Digest as _, Sha256};
use std::boxed::Box;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::path::Path;
use std::rc::Rc;
use std::string::String;
use std::vec::Vec;

/// A machine that can be looked into again; every machine is one.
pub trait SimMachine: Machine + Any {}
impl<M: Machine + Any> SimMachine for M {}

/// A host of one world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(pub(super) u32);

/// A router with one line that several hosts share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SiteId(pub(super) usize);

/// A command given to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    pub host: HostId,
    pub id: CallId,
}

/// How a host ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill {
    /// Its process dies; its kernel closes the sockets and keeps what was written.
    Process,
    /// The machine goes dark: nobody is told, and unsynced writes fare as [`super::PowerCut`] says.
    Power,
}

/// A run that did not come to what it was run for.
#[derive(Clone, Debug)]
pub struct Stuck {
    /// Whether time was up, or nothing was going to happen any more.
    pub idle: bool,
    pub at: Duration,
    pub seed: u64,
    /// What each host waits for.
    pub waiting: Vec<String>,
}

/// What is due at this very instant.
pub(super) enum Soon {
    Read { conn: u32, side: u8 },
    Sent { conn: u32, side: u8 },
    Tell(At, Box<Input>),
    Drain(u32),
}

pub struct World {
    /// The transport; set it before hosts connect.
    pub net: NetSpec,
    /// Call every machine's `check` after every so many of its steps; 0 is never.
    pub check_every: u32,
    pub(super) seed: u64,
    pub(super) now_ns: u64,
    pub(super) agenda: Agenda,
    pub(super) soon: VecDeque<Soon>,
    pub(super) hosts: Vec<Host>,
    pub(super) by_name: BTreeMap<String, u32>,
    /// Behind each NAT, and in the world outside.
    pub(super) by_addr: BTreeMap<(Option<SiteId>, IpAddr), Reach>,
    pub(super) names: BTreeMap<String, Vec<u32>>,
    pub(super) tls_faults: BTreeMap<String, String>,
    pub(super) sites: Vec<(u32, u32)>,
    pub(super) nats: BTreeMap<SiteId, Nat>,
    pub(super) links: Vec<Link>,
    pub(super) conns: Vec<Option<Box<Conn>>>,
    pub(super) cuts: BTreeSet<(u32, u32)>,
    pub(super) extra: BTreeMap<(u32, u32), Duration>,
    pub(super) bases: Rc<RefCell<Bases>>,
    pub(super) steps: u64,
    pub(super) steps_at_ns: u64,
    pub(super) steps_here: u32,
    pub(super) count: u64,
    pub(super) datagram: Vec<u8>,
    pub(super) dirty: bool,
    journal_on: bool,
    last: Option<u32>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self {
            net: NetSpec::default(),
            check_every: 1,
            seed,
            now_ns: 0,
            agenda: Agenda::default(),
            soon: VecDeque::new(),
            hosts: Vec::new(),
            by_name: BTreeMap::new(),
            by_addr: BTreeMap::new(),
            names: BTreeMap::new(),
            tls_faults: BTreeMap::new(),
            sites: Vec::new(),
            nats: BTreeMap::new(),
            links: Vec::new(),
            conns: Vec::new(),
            cuts: BTreeSet::new(),
            extra: BTreeMap::new(),
            bases: Rc::default(),
            steps: 0,
            steps_at_ns: 0,
            steps_here: 0,
            count: 0,
            datagram: Vec::new(),
            dirty: true,
            journal_on: true,
            last: None,
        }
    }

    // --- building

    /// Add a host; its machine starts at this instant, before anything later happens.
    ///
    /// # Panics
    /// If the name or the address is taken.
    pub fn host(&mut self, name: &str, machine: impl SimMachine, spec: HostSpec) -> HostId {
        self.host_boxed(name, Box::new(machine), spec)
    }

    /// [`World::host`] for a machine whose type is decided at run time.
    ///
    /// # Panics
    /// If the name or the address is taken.
    pub fn host_boxed(
        &mut self,
        name: &str,
        machine: Box<dyn SimMachine>,
        spec: HostSpec,
    ) -> HostId {
        let id = self.hosts.len() as u32;
        assert!(
            self.by_name.insert(name.into(), id).is_none(),
            "two hosts are called {name}"
        );
        self.occupy(spec.site, spec.addr, Reach::Host(id));
        if let Some(other) = spec.other_addr {
            self.occupy_other(spec.site, other, id);
        }
        let seed = self.seed_for(name);
        let mut rng = Rng::new(seed);
        let up = self.add_link(spec.up, rng.fork());
        let down = self.add_link(spec.down, rng.fork());
        let mut journal = Journal::new(self.trace_file(name));
        journal.set_on(self.journal_on);
        self.hosts.push(Host {
            name: name.into(),
            id,
            // Key 0 is the world's own.
            key: rng.next_u64() | 1,
            count: 0,
            rng,
            machine: Some(machine),
            powered: true,
            life: 0,
            clock_spec: spec.clock,
            clock: Clock::new(self.now_ns, spec.clock),
            addr: spec.addr,
            other_addr: spec.other_addr,
            listen: spec.listen,
            drops_streams: spec.drops_streams,
            up,
            down,
            site: spec.site,
            streams: BTreeMap::new(),
            last_accepted: 0,
            next_port: 49_151,
            ops: BTreeSet::new(),
            disk: Disk::new(spec.disk, Rc::clone(&self.bases)),
            disk_busy_ns: 0,
            hash: spec.hash,
            hash_busy_ns: 0,
            timer_ns: u64::MAX,
            ticks_at_ns: 0,
            ticks: 0,
            since_check: 0,
            wants_datagrams: false,
            drain_queued: false,
            last_call: 0,
            replies: BTreeMap::new(),
            events: Vec::new(),
            journal,
        });
        self.start(id);
        HostId(id)
    }

    /// A site's router: `up` towards everybody outside, `down` back. Hosts inside reach each other without it.
    pub fn site(&mut self, name: &str, up: LinkSpec, down: LinkSpec) -> SiteId {
        let mut rng = Rng::new(self.seed_for(name));
        let up = self.add_link(up, rng.fork());
        let down = self.add_link(down, rng.fork());
        self.sites.push((up, down));
        SiteId(self.sites.len() - 1)
    }

    /// Let this name resolve to the host (too): several are tried in the order given.
    pub fn name(&mut self, name: &str, host: HostId) {
        self.names.entry(name.into()).or_default().push(host.0);
    }

    /// TLS with this name fails, saying so.
    pub fn fail_tls(&mut self, name: &str, text: &str) {
        self.tls_faults.insert(name.into(), text.into());
    }

    /// More one-way delay between two hosts, both ways, for what is sent from now on.
    pub fn extra_delay_between(&mut self, a: HostId, b: HostId, delay: Duration) {
        self.extra.insert(pair(a.0, b.0), delay);
    }

    /// A seed for a machine on the host of this name, independent of all others.
    pub fn seed_for(&self, name: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        hash.update(name);
        hash.finalize().into()
    }

    /// Keep these bytes once for all: slices of them are compared, joined and hashed by their place.
    /// Give content to origins and machines through this.
    #[must_use]
    pub fn share(&mut self, bytes: Bytes) -> Bytes {
        self.bases.borrow_mut().keep(&bytes);
        bytes
    }

    /// Shared pseudo-random content, the same for the same seed and name.
    pub fn content(&mut self, name: &str, len: usize) -> Bytes {
        let mut rng = Rng::new(self.seed_for(name));
        let mut bytes = Vec::with_capacity(len + 64);
        while bytes.len() < len {
            bytes.extend_from_slice(&rng.bytes::<64>());
        }
        bytes.truncate(len);
        self.share(bytes.into())
    }

    /// Stop keeping the journal: faster, but [`World::digest`] then only knows the time and the hosts.
    pub fn without_journal(&mut self) {
        self.journal_on = false;
        for host in &mut self.hosts {
            host.journal.set_on(false);
        }
    }

    // --- acting

    /// Give a command at this instant.
    pub fn command(&mut self, host: HostId, command: Command) -> Call {
        self.command_in(host, Duration::ZERO, command)
    }

    /// Give a command after some time.
    pub fn command_in(&mut self, host: HostId, after: Duration, command: Command) -> Call {
        let h = &mut self.hosts[host.0 as usize];
        h.last_call += 1;
        let call = CallId(h.last_call);
        let at = h.at();
        let at_ns = self.now_ns + super::clock::ns(after);
        let input = Box::new(Input::Command { call, command });
        self.schedule_own(at_ns, What::Tell(at, input));
        Call { host, id: call }
    }

    /// Tell a machine what its host is like from this instant on; until then it knows nothing.
    pub fn host_facts(&mut self, host: HostId, facts: HostFacts) {
        let at = self.hosts[host.0 as usize].at();
        let input = Box::new(Input::Host(Box::new(facts)));
        self.schedule_own(self.now_ns, What::Tell(at, input));
    }

    /// Move a host into another time zone, as summer time does.
    pub fn set_zone(&mut self, host: HostId, utc_offset_s: i32) {
        let h = &mut self.hosts[host.0 as usize];
        h.clock_spec.utc_offset_s = utc_offset_s;
        h.clock.set_zone(utc_offset_s);
    }

    /// Set a host's wall clock so much off the true time.
    pub fn set_wall_clock(&mut self, host: HostId, offset_us: i64) {
        let h = &mut self.hosts[host.0 as usize];
        h.clock_spec.offset_us = offset_us;
        h.clock.set_offset(offset_us);
    }

    /// Change a machine from outside (an origin's fault, say), once all that is due at this instant has
    /// happened; afterwards it is drained.
    ///
    /// # Panics
    /// If the host is down or runs another type of machine.
    pub fn with<M: Machine + Any, R>(&mut self, host: HostId, act: impl FnOnce(&mut M) -> R) -> R {
        self.run_for(Duration::ZERO);
        let machine = self.hosts[host.0 as usize].machine.as_deref_mut();
        let machine = machine.expect("the host is up") as &mut dyn Any;
        let result = act(machine.downcast_mut().expect("a machine of this type"));
        self.drain(host.0);
        self.settle();
        result
    }

    pub fn kill(&mut self, host: HostId, how: Kill) {
        let power_cut = how == Kill::Power;
        let h = &mut self.hosts[host.0 as usize];
        h.machine = None;
        h.powered = !power_cut;
        h.life += 1;
        h.timer_ns = u64::MAX;
        h.wants_datagrams = false;
        h.ops.clear();
        h.disk.crash(power_cut, &mut h.rng);
        let up = h.up as usize;
        for (id, side) in core::mem::take(&mut h.streams).into_values() {
            self.abandon(id, side, power_cut);
        }
        if power_cut {
            self.links[up].datagrams.clear();
            self.links[up].datagram_bytes = 0;
        }
        self.dirty = true;
    }

    /// Start a killed host again, with the same disk.
    ///
    /// # Panics
    /// If it is up.
    pub fn restart(&mut self, host: HostId, machine: impl SimMachine) {
        let now_ns = self.now_ns;
        let h = &mut self.hosts[host.0 as usize];
        assert!(!h.is_alive(), "{} is up", h.name);
        h.machine = Some(Box::new(machine));
        h.powered = true;
        h.clock = Clock::new(now_ns, h.clock_spec);
        h.disk_busy_ns = now_ns;
        h.hash_busy_ns = now_ns;
        h.replies.clear();
        self.start(host.0);
    }

    /// From now on nothing passes between the two; new connections are unreachable.
    pub fn partition(&mut self, a: HostId, b: HostId) {
        self.cuts.insert(pair(a.0, b.0));
    }

    pub fn heal(&mut self, a: HostId, b: HostId) {
        self.cuts.remove(&pair(a.0, b.0));
    }

    /// Change a host's links, for packets sent from now on.
    pub fn set_links(&mut self, host: HostId, up: LinkSpec, down: LinkSpec) {
        let h = &self.hosts[host.0 as usize];
        let (u, d) = (h.up as usize, h.down as usize);
        self.links[u].spec = up;
        self.links[d].spec = down;
    }

    /// Change a site's line.
    pub fn set_site(&mut self, site: SiteId, up: LinkSpec, down: LinkSpec) {
        let (u, d) = self.sites[site.0];
        self.links[u as usize].spec = up;
        self.links[d as usize].spec = down;
    }

    // --- looking

    /// Time since the world began.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.now_ns)
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Events until now.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    pub fn find(&self, name: &str) -> Option<HostId> {
        self.by_name.get(name).map(|id| HostId(*id))
    }

    pub fn host_name(&self, host: HostId) -> &str {
        &self.hosts[host.0 as usize].name
    }

    pub fn is_up(&self, host: HostId) -> bool {
        self.hosts[host.0 as usize].is_alive()
    }

    pub fn reply(&self, call: Call) -> Option<&Reply> {
        self.hosts[call.host.0 as usize].replies.get(&call.id)
    }

    pub fn events(&self, host: HostId) -> &[Event] {
        &self.hosts[host.0 as usize].events
    }

    /// The events until now, and forget them (long runs make many).
    pub fn take_events(&mut self, host: HostId) -> Vec<Event> {
        core::mem::take(&mut self.hosts[host.0 as usize].events)
    }

    /// The machine, to look into.
    ///
    /// # Panics
    /// If the host is down or runs another type of machine.
    pub fn machine<M: Machine + Any>(&self, host: HostId) -> &M {
        let machine = self.hosts[host.0 as usize].machine.as_deref();
        let machine = machine.expect("the host is up") as &dyn Any;
        machine.downcast_ref().expect("a machine of this type")
    }

    pub fn disk(&mut self, host: HostId) -> &mut Disk {
        &mut self.hosts[host.0 as usize].disk
    }

    /// What the host's uplink and downlink have carried.
    pub fn traffic(&self, host: HostId) -> (LinkCounters, LinkCounters) {
        let h = &self.hosts[host.0 as usize];
        let (up, down) = (h.up as usize, h.down as usize);
        (self.links[up].counters, self.links[down].counters)
    }

    /// What a site's line has carried, up and down.
    pub fn site_traffic(&self, site: SiteId) -> (LinkCounters, LinkCounters) {
        let (up, down) = self.sites[site.0];
        (
            self.links[up as usize].counters,
            self.links[down as usize].counters,
        )
    }

    /// Open streams of a host, and its disk and hash work not yet answered.
    pub fn outstanding(&self, host: HostId) -> (usize, usize) {
        let h = &self.hosts[host.0 as usize];
        (h.streams.len(), h.ops.len())
    }

    /// Connections that some machine still holds an end of.
    pub fn connections(&self) -> usize {
        self.conns.iter().flatten().count()
    }

    /// Hash jobs answered from memory, and computed.
    pub fn hash_jobs(&self) -> (u64, u64) {
        let bases = self.bases.borrow();
        (bases.hits, bases.misses)
    }

    /// SHA-256 of what every machine was told and answered, and when.
    pub fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        for (name, id) in &self.by_name {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            hash.update(self.hosts[*id as usize].journal.digest().0);
        }
        hash.update(self.now_ns.to_le_bytes());
        Digest(hash.finalize().into())
    }

    // --- inside

    fn start(&mut self, id: u32) {
        let at = self.hosts[id as usize].at();
        self.schedule(id, self.now_ns, What::Start(at));
    }

    fn add_link(&mut self, spec: LinkSpec, rng: Rng) -> u32 {
        self.links.push(Link::new(spec, rng));
        self.links.len() as u32 - 1
    }

    fn trace_file(&self, name: &str) -> Option<File> {
        let dir = std::env::var_os("SIM_TRACE")?;
        std::fs::create_dir_all(&dir).expect("the trace folder can be made");
        let path = Path::new(&dir).join(std::format!("{}-{name}.log", self.seed));
        Some(File::create(path).expect("the trace can be written"))
    }

    /// Put an event on the agenda that this host causes.
    pub(super) fn schedule(&mut self, by: u32, at_ns: u64, what: What) {
        let host = &mut self.hosts[by as usize];
        let (key, count) = (host.key, host.next_count());
        self.agenda.push(at_ns, key, count, what);
    }

    fn schedule_own(&mut self, at_ns: u64, what: What) {
        self.count += 1;
        self.agenda.push(at_ns, 0, self.count, what);
    }

    pub(super) fn is_cut(&self, a: u32, b: u32) -> bool {
        !self.cuts.is_empty() && self.cuts.contains(&pair(a, b))
    }

    pub(super) fn extra_delay(&self, a: u32, b: u32) -> Duration {
        self.extra.get(&pair(a, b)).copied().unwrap_or_default()
    }

    pub(super) fn note(&mut self, host: u32) {
        self.last = Some(host);
    }

    pub(super) fn stuck(&self, idle: bool) -> Stuck {
        let waiting = self.by_name.values().map(|id| {
            let h = &self.hosts[*id as usize];
            let deadline = h.machine.as_ref().and_then(|m| m.deadline());
            let wake = deadline.map_or_else(
                || String::from("no deadline"),
                |d| std::format!("{} at {}", d.why, Stamp(h.clock.world_ns(d.at))),
            );
            std::format!(
                "{}: {wake}, {} streams, {} disk and hash works{}",
                h.name,
                h.streams.len(),
                h.ops.len(),
                if h.is_alive() { "" } else { " (down)" },
            )
        });
        Stuck {
            idle,
            at: self.now(),
            seed: self.seed,
            waiting: waiting.collect(),
        }
    }
}

fn pair(a: u32, b: u32) -> (u32, u32) {
    (a.min(b), a.max(b))
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.idle {
            "nothing will happen any more"
        } else {
            "time is up"
        };
        write!(f, "{what} at {:?} (SIM_SEED={})", self.at, self.seed)?;
        self.waiting.iter().try_for_each(|w| write!(f, "\n  {w}"))
    }
}

/// A run that panics says how to run it again.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let last = self.last.and_then(|h| self.hosts.get(h as usize));
            let name = last.map_or("nobody", |h| h.name.as_str());
            std::eprintln!(
                "the world of SIM_SEED={} failed at {} s; the last to act was {name}",
                self.seed,
                Stamp(self.now_ns)
            );
        }
    }
}

/// The seeds a test runs with: these, or only the one that `SIM_SEED` names.
pub fn seeds(all: impl IntoIterator<Item = u64>) -> Vec<u64> {
    match std::env::var("SIM_SEED") {
        Ok(one) => std::vec![one.parse().expect("SIM_SEED is a number")],
        Err(_) => all.into_iter().collect(),
    }
}
