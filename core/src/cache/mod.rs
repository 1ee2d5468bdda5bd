//! Role: a connected cache (`dovetail cache --allow HOST`): ranges of allowed origins' files, fetched once for
//! everybody and kept.
//!
//! Decides which origin a request means and whether it may be asked, when it is asked whether a file is still the
//! same, what is fetched, stored and evicted, and what is served when the origin is away. Never asks an origin that
//! is not on its list, never gives away stored bytes that it has not compared with their checksum in this run.
//!
//! A request (`desk.rs`) finds an object (`store.rs`, `object.rs`), after a question to its origin (`probe.rs`) if
//! there is none that is fresh; the client (`visitor.rs`) takes what is here, and what is not is fetched (`fill.rs`).
//!
//! Invariants: one probe per address and one fill per object, whoever waits; an object that is read is not evicted.
//!
//! Spec: RFC 9110, RFC 9111 in part; `docs/cache.md`. Tests: `core/tests/cache.rs`.

mod answers;
mod desk;
mod fill;
mod object;
mod orders;
mod passing;
mod peer;
mod probe;
mod record;
mod report;
mod slices;
mod store;
mod timers;
mod turns;
mod visitor;

use crate::command::{Command, Reply};
use crate::failure::{Failure, FailureKind};
use crate::http::{Gate, HostPattern, Proxies};
use crate::ids::{CallId, StreamId};
use crate::limits::{CACHE_CONNECTIONS_MAX, CACHE_FILLS_MAX, CACHE_MEMORY_SLICES};
use crate::machine::{CloseHow, Effects, Input, Listener, Lost, Machine, Output};
use crate::rng::Rng;
use crate::time::{Deadline, Now};
use ::http::header::HeaderName;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use object::Told;
use orders::{Doing, Id, Orders};
use passing::Passing;
pub use peer::CachePeer;
use probe::{Probe, Reach};
use report::Counters;
use store::Store;
use timers::Timers;
use visitor::Visitor;

/// What to cache, where, and how much of it.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// Absolute path of the folder; it exists.
    pub dir: String,
    /// The origins that may be asked.
    pub allow: Vec<HostPattern>,
    /// Origins asked over https when the client does not say how.
    pub https_origins: Vec<HostPattern>,
    pub proxies: Proxies,
    pub quota_bytes: u64,
    /// How long a file counts as the same where its origin does not say.
    pub revalidate: Duration,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            dir: String::new(),
            allow: Vec::new(),
            https_origins: Vec::new(),
            proxies: Proxies::default(),
            quota_bytes: QUOTA_DEFAULT,
            revalidate: REVALIDATE_DEFAULT,
        }
    }
}

/// How an answer came to be.
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");

/// Until an administrator says otherwise.
pub const QUOTA_DEFAULT: u64 = 50 * 1024 * 1024 * 1024;
pub const REVALIDATE_DEFAULT: Duration = Duration::from_secs(600);

/// The role.
#[derive(Debug)]
pub struct Cache {
    reach: Reach,
    https_origins: Gate,
    revalidate: Duration,
    visitors: BTreeMap<StreamId, Visitor>,
    probes: BTreeMap<Id, Probe>,
    passings: BTreeMap<Id, Passing>,
    store: Store,
    counters: Counters,
    /// Objects something happened to, clients that can perhaps go on, clients that may have asked.
    touched: BTreeSet<Id>,
    eager: BTreeSet<StreamId>,
    asking: BTreeSet<StreamId>,
    client_timers: Timers<StreamId>,
    object_timers: Timers<Id>,
    /// Objects that are being fetched, and those that wait until fewer are.
    filling: BTreeSet<Id>,
    queue: VecDeque<Id>,
    /// Objects whose file is open.
    open: BTreeSet<Id>,
    /// Why an object's fill ended.
    why: BTreeMap<Id, String>,
    last_id: Id,
    /// Whether it was said that the disk takes no more.
    told_full: bool,
    stopping: Option<CallId>,
    rng: Rng,
    now: Now,
    orders: Orders,
}

impl Cache {
    pub fn new(config: CacheConfig, seed: [u8; 32]) -> Self {
        Self::numbered(config, seed, Effects::default())
    }

    fn numbered(config: CacheConfig, seed: [u8; 32], fx: Effects) -> Self {
        let mut rng = Rng::new(seed);
        let mut orders = Orders::new(fx);
        let dir = config.dir.trim_end_matches('/').into();
        Self {
            reach: Reach {
                gate: Gate::new(config.allow),
                proxies: config.proxies,
                via: format!("dovetail-{:08x}", rng.next_u64() >> 32),
            },
            https_origins: Gate::new(config.https_origins),
            revalidate: config.revalidate,
            visitors: BTreeMap::new(),
            probes: BTreeMap::new(),
            passings: BTreeMap::new(),
            store: Store::new(dir, config.quota_bytes, &mut orders),
            counters: Counters::default(),
            touched: BTreeSet::new(),
            eager: BTreeSet::new(),
            asking: BTreeSet::new(),
            client_timers: Timers::new(),
            object_timers: Timers::new(),
            filling: BTreeSet::new(),
            queue: VecDeque::new(),
            open: BTreeSet::new(),
            why: BTreeMap::new(),
            last_id: 0,
            told_full: false,
            stopping: None,
            rng,
            now: Now::default(),
            orders,
        }
    }

    const fn next_id(&mut self) -> Id {
        self.last_id += 1;
        self.last_id
    }

    fn route(&mut self, input: &Input) {
        let now = self.now;
        match input {
            Input::Tick => self.tick(),
            Input::Command { call, command } => self.command(*call, command),
            Input::Accepted {
                stream, listener, ..
            } => self.accept(*stream, *listener),
            Input::Sent { stream, len } => {
                if let Some(visitor) = self.visitors.get_mut(stream) {
                    visitor.connection.on_sent(now, *len);
                    let passing = visitor.transfer.as_ref().and_then(|t| t.passing);
                    if let Some(passing) = passing.and_then(|id| self.passings.get_mut(&id)) {
                        passing.on_sent(now, *len, &mut self.orders.fx);
                    }
                    self.eager.insert(*stream);
                }
            }
            Input::Received { stream, bytes } if self.visitors.contains_key(stream) => {
                if let Some(visitor) = self.visitors.get_mut(stream) {
                    visitor.connection.on_bytes(now, bytes);
                    self.asking.insert(*stream);
                }
            }
            Input::Closed { stream, why } if self.visitors.contains_key(stream) => {
                self.orders.fx.stream_owner(*stream, true);
                if let Lost::File(why) = why {
                    self.on_unreadable(*stream, why);
                }
                self.leave(*stream);
            }
            Input::Received { stream, .. }
            | Input::Opened { stream, .. }
            | Input::Secured { stream } => self.upstream(*stream, false, input),
            Input::Closed { stream, .. } => self.upstream(*stream, true, input),
            Input::Host(facts) => self.store.on_disk_space(facts, &mut self.orders),
            Input::Disk { op, done } => self.disk(*op, done.clone()),
            Input::Hashed { op, done } => {
                let doing = self.orders.answered(*op);
                match doing {
                    Some(Doing::SliceHash { object, slice }) => {
                        self.with(object, |o, _| {
                            o.on_slice_hashed(now, slice, done.clone());
                            None
                        });
                    }
                    Some(Doing::CheckHash { object, slice }) => {
                        let digest = done.flat.clone().map(|flat| flat.digest());
                        self.with(object, |o, _| o.on_checked(now, slice, digest));
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn accept(&mut self, stream: StreamId, listener: Listener) {
        self.orders.fx.owner = 0;
        self.orders.fx.adopt(stream);
        let full = self.visitors.len() >= CACHE_CONNECTIONS_MAX;
        if full || self.stopping.is_some() || listener != Listener::Http {
            self.orders.fx.close(stream, CloseHow::Abort);
        } else {
            let visitor = Visitor::new(self.now, stream, &mut self.orders.fx);
            self.visitors.insert(stream, visitor);
            self.asking.insert(stream);
        }
    }

    /// Something from an origin.
    fn upstream(&mut self, stream: StreamId, closed: bool, input: &Input) {
        let Some(owner) = self.orders.fx.stream_owner(stream, closed) else {
            return;
        };
        if self.probes.contains_key(&owner) {
            self.ask_probe(owner, input);
        } else if self.passings.contains_key(&owner) {
            self.on_passing_input(owner, input);
        } else if let Some(object) = self.store.objects.get_mut(&owner)
            && object.fill.owns(stream)
        {
            object.on_web_input(self.now, input, &mut self.orders);
            self.touched.insert(owner);
        }
    }

    fn tick(&mut self) {
        let now = self.now;
        for stream in self.client_timers.due(now.mono).collect::<Vec<_>>() {
            if let Some(visitor) = self.visitors.get_mut(&stream) {
                visitor.connection.on_tick(now, &mut self.orders.fx);
                self.asking.insert(stream);
            }
        }
        let probes: Vec<Id> = self.probes.keys().copied().collect();
        for id in probes {
            self.ask_probe(id, &Input::Tick);
        }
        for id in self.passings.keys().copied().collect::<Vec<_>>() {
            self.on_passing_input(id, &Input::Tick);
        }
        for id in self.object_timers.due(now.mono).collect::<Vec<_>>() {
            if let Some(object) = self.store.objects.get_mut(&id) {
                object.on_web_input(now, &Input::Tick, &mut self.orders);
            }
            self.touched.insert(id);
        }
    }

    /// A part of what this client was being sent could not be read.
    fn on_unreadable(&mut self, stream: StreamId, why: &str) {
        let latest = self
            .visitors
            .get(&stream)
            .and_then(|visitor| visitor.latest);
        if let Some(id) = latest
            && let Some(object) = self.store.objects.get_mut(&id)
        {
            object.sound.clear();
            self.tell(id, &Told::Unreadable(why.into()));
        }
    }

    fn leave(&mut self, stream: StreamId) {
        let Some(mut visitor) = self.visitors.remove(&stream) else {
            return;
        };
        self.client_timers.set(stream, None);
        let unsent = visitor.connection.unsent();
        self.counters.bytes_served = self.counters.bytes_served.saturating_sub(unsent);
        visitor.connection.on_closed();
        let Some(transfer) = visitor.transfer else {
            return;
        };
        if let Some(id) = transfer.object {
            self.part(stream, id);
        }
        if let Some(id) = transfer.passing {
            self.drop_passing(id);
        }
    }

    /// A client does not read this object any more.
    fn part(&mut self, stream: StreamId, id: Id) {
        if let Some(object) = self.store.objects.get_mut(&id) {
            object.readers.remove(&stream);
            self.touched.insert(id);
        }
    }

    fn command(&mut self, call: CallId, command: &Command) {
        let refused = || {
            let why = "this is a cache, not an agent";
            Failure::new(FailureKind::Usage, "cannot do that here", why)
        };
        match command {
            Command::Get(_) => self.orders.fx.reply(call, Reply::Got(Err(refused()))),
            Command::Share(_) => self.orders.fx.reply(call, Reply::Shared(Err(refused()))),
            Command::Configure { .. } => self.orders.fx.reply(call, Reply::Configured(Vec::new())),
            Command::Prioritise { .. } => self.orders.fx.reply(call, Reply::Prioritised(false)),
            Command::Stop(_) => self.orders.fx.reply(call, Reply::Stopped),
            Command::Shutdown => {
                self.stopping = Some(call);
                let streams: Vec<StreamId> = self.visitors.keys().copied().collect();
                for stream in streams {
                    self.orders.fx.close(stream, CloseHow::Abort);
                    self.leave(stream);
                }
                for probe in core::mem::take(&mut self.probes).values_mut() {
                    probe.close(&mut self.orders.fx);
                }
                self.touched.extend(self.store.objects.keys());
            }
        }
    }
}

impl Machine for Cache {
    fn handle(&mut self, now: Now, input: Input) {
        let mono = now.mono.max(self.now.mono);
        self.now = Now { mono, ..now };
        self.route(&input);
        self.settle();
    }

    fn poll(&mut self) -> Option<Output> {
        self.orders.fx.poll()
    }

    fn deadline(&self) -> Option<Deadline> {
        let client = self.client_timers.first();
        let client = client.and_then(|stream| self.visitors.get(&stream));
        let client = client.and_then(|visitor| visitor.connection.deadline());
        let object = self.object_timers.first();
        let object = object.and_then(|id| self.store.objects.get(&id));
        let object = object.and_then(|object| object.deadline(self.now.mono));
        let probes = self.probes.values().filter_map(Probe::deadline);
        let passings = self.passings.values().filter_map(Passing::deadline);
        let all = probes.chain(passings).chain(client).chain(object);
        all.fold(None, |first, next| Deadline::earlier(first, Some(next)))
    }

    fn check(&self) {
        assert!(
            self.visitors.len() <= CACHE_CONNECTIONS_MAX,
            "too many connections"
        );
        for (stream, visitor) in &self.visitors {
            let due = visitor.connection.deadline().map(|due| due.at);
            assert_eq!(due, self.client_timers.at(*stream), "a client's deadline");
        }
        self.store.check();
        for (id, passing) in &self.passings {
            let visitor = self.visitors.get(&passing.client);
            let passes = visitor.and_then(|v| v.transfer.as_ref()?.passing);
            assert_eq!(passes, Some(*id), "an answer for nobody");
            passing.check();
        }
        let slices: usize = self.store.objects.values().map(|o| o.memory.len()).sum();
        assert!(slices <= 2 * CACHE_MEMORY_SLICES, "{slices} in memory");
        let fills = self.filling.len();
        assert!(fills <= CACHE_FILLS_MAX, "{fills} fetched at a time");
        for (id, object) in &self.store.objects {
            object.check();
            let due = object.deadline(self.now.mono).map(|due| due.at);
            assert_eq!(due, self.object_timers.at(*id), "a deadline of object {id}");
            let fills = object.fill.is_active();
            assert_eq!(fills, self.filling.contains(id), "a fill of object {id}");
            for stream in object.readers.keys() {
                let reads = self
                    .visitors
                    .get(stream)
                    .and_then(|v| v.transfer.as_ref()?.object);
                assert_eq!(reads, Some(*id), "a reader that reads something else");
            }
        }
    }
}
