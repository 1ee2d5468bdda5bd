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

mod desk;
mod fill;
mod object;
mod orders;
mod probe;
mod record;
mod report;
mod store;
mod visitor;

use crate::command::{Command, Level, Reply};
use crate::failure::{Failure, FailureKind};
use crate::http::{Answer, Gate, HostPattern, Proxies};
use crate::ids::{CallId, OpId, StreamId};
use crate::limits::CACHE_CONNECTIONS_MAX;
use crate::machine::{
    CloseHow, DiskDone, DiskError, DiskErrorKind, Input, Listener, Machine, Output,
};
use crate::rng::Rng;
use crate::time::{Deadline, Mono, Now};
use ::http::StatusCode;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use fill::Filling;
use object::Told;
use orders::{Doing, Id, Orders};
use probe::{Probe, Reach};
use report::Counters;
use store::Store;
use visitor::{Pumped, Visitor};

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
    store: Store,
    counters: Counters,
    /// Objects something happened to, clients that can perhaps go on, clients that may have asked.
    touched: BTreeSet<Id>,
    eager: BTreeSet<StreamId>,
    asking: BTreeSet<StreamId>,
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
        let mut rng = Rng::new(seed);
        let mut orders = Orders::default();
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
            store: Store::new(dir, config.quota_bytes, &mut orders),
            counters: Counters::default(),
            touched: BTreeSet::new(),
            eager: BTreeSet::new(),
            asking: BTreeSet::new(),
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
                    self.eager.insert(*stream);
                }
            }
            Input::Received { stream, bytes } if self.visitors.contains_key(stream) => {
                if let Some(visitor) = self.visitors.get_mut(stream) {
                    visitor.connection.on_bytes(now, bytes);
                    self.asking.insert(*stream);
                }
            }
            Input::Closed { stream, .. } if self.visitors.contains_key(stream) => {
                self.orders.fx.stream_owner(*stream, true);
                self.leave(*stream);
            }
            Input::Received { stream, .. }
            | Input::Opened { stream, .. }
            | Input::Secured { stream } => self.upstream(*stream, false, input),
            Input::Closed { stream, .. } => self.upstream(*stream, true, input),
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
        }
    }

    /// Something from an origin.
    fn upstream(&mut self, stream: StreamId, closed: bool, input: &Input) {
        let Some(owner) = self.orders.fx.stream_owner(stream, closed) else {
            return;
        };
        if self.probes.contains_key(&owner) {
            self.ask_probe(owner, input);
        } else if let Some(object) = self.store.objects.get_mut(&owner)
            && object.fill.owns(stream)
        {
            object.on_web_input(self.now, input, &mut self.orders);
            self.touched.insert(owner);
        }
    }

    /// An answer about an object: tell it, and let everybody look.
    fn with(&mut self, id: Id, act: impl FnOnce(&mut object::Object, &mut Orders) -> Option<Told>) {
        let Some(object) = self.store.objects.get_mut(&id) else {
            return;
        };
        object.ops = object.ops.saturating_sub(1);
        let told = act(object, &mut self.orders);
        self.eager.extend(object.readers.keys());
        self.touched.insert(id);
        if let Some(told) = told {
            self.tell(id, &told);
        }
    }

    fn tell(&mut self, id: Id, told: &Told) {
        let Some(object) = self.store.objects.get(&id) else {
            return;
        };
        let url = &object.url;
        let text = match told {
            Told::Damaged(slice) => {
                self.counters.slices_damaged += 1;
                format!("{url}: slice {slice} is damaged on the disk; it is fetched anew")
            }
            Told::NotStored(error) if self.told_full && error.kind == DiskErrorKind::Full => return,
            Told::NotStored(error) => {
                self.told_full |= error.kind == DiskErrorKind::Full;
                let dir = &self.store.dir;
                format!(
                    "cannot store {url} in {dir}: {}; it is served without",
                    error.text
                )
            }
        };
        self.orders.fx.log(Level::Warn, text);
    }

    fn disk(&mut self, op: OpId, done: Result<DiskDone, DiskError>) {
        let now = self.now;
        let dir = self.store.dir.clone();
        match self.orders.answered(op) {
            Some(Doing::List) => {
                if let Some(error) = self.store.on_listed(done, &mut self.orders) {
                    let text = format!("cannot list {dir}: {}", error.text);
                    self.orders.fx.log(Level::Warn, text);
                }
            }
            Some(Doing::Load { name }) => {
                let id = self.next_id();
                self.store.on_loaded(id, name, done, &mut self.orders);
            }
            Some(Doing::Open { object }) => self.with(object, |o, _| o.on_opened(&done)),
            Some(Doing::Check { object, slice }) => {
                self.with(object, |o, orders| {
                    o.on_check_read(now, slice, done, orders)
                });
            }
            Some(Doing::SliceWrite { object, slice }) => {
                if done.as_ref().is_err_and(|e| e.kind == DiskErrorKind::Full) {
                    self.store.evict_one(object, &mut self.orders);
                } else {
                    self.told_full = false;
                }
                self.with(object, |o, _| o.on_slice_written(now, slice, done));
            }
            Some(Doing::Sync { object, record }) => {
                let is_durable = done.is_ok();
                self.with(object, |o, orders| {
                    o.on_synced(record, is_durable, &dir, orders);
                    done.err().map(Told::NotStored)
                });
            }
            Some(Doing::Record { object }) => self.with(object, |o, _| {
                o.on_recorded();
                done.err().map(Told::NotStored)
            }),
            Some(Doing::Read { object, stream }) => self.on_read(object, stream, op, done),
            _ => {}
        }
        if self.store.is_ready {
            self.asking.extend(
                self.visitors
                    .iter()
                    .filter(|(_, v)| v.transfer.is_none())
                    .map(|(s, _)| *s),
            );
        }
    }

    fn on_read(&mut self, id: Id, stream: StreamId, op: OpId, done: Result<DiskDone, DiskError>) {
        let now = self.now;
        let transfer = self
            .visitors
            .get_mut(&stream)
            .and_then(|v| v.transfer.as_mut());
        let transfer = transfer.filter(|transfer| transfer.reading == Some(op));
        let mut told = None;
        match (transfer, done) {
            (Some(transfer), Ok(DiskDone::Bytes(bytes))) => transfer.on_read(bytes),
            (Some(transfer), _) => {
                transfer.reading = None;
                told = Some(object::slice_of(transfer.left().start));
            }
            (None, _) => {}
        }
        if let Some(object) = self.store.objects.get_mut(&id) {
            object.ops = object.ops.saturating_sub(1);
            self.touched.insert(id);
            self.eager.insert(stream);
            if let Some(told) = told.and_then(|slice| object.on_damaged(now, slice)) {
                self.tell(id, &told);
            }
        }
    }

    fn tick(&mut self) {
        let now = self.now;
        for visitor in self.visitors.values_mut() {
            visitor.connection.on_tick(now, &mut self.orders.fx);
        }
        let probes: Vec<Id> = self.probes.keys().copied().collect();
        for id in probes {
            self.ask_probe(id, &Input::Tick);
        }
        for (id, object) in &mut self.store.objects {
            if object.fill.is_active() {
                object.on_web_input(now, &Input::Tick, &mut self.orders);
                self.touched.insert(*id);
            } else if object.deadline().is_some_and(|due| due.at <= now.mono) {
                self.touched.insert(*id);
            }
        }
    }

    fn leave(&mut self, stream: StreamId) {
        let Some(mut visitor) = self.visitors.remove(&stream) else {
            return;
        };
        let unsent = visitor.connection.unsent();
        self.counters.bytes_served = self.counters.bytes_served.saturating_sub(unsent);
        visitor.connection.on_closed();
        if let Some(id) = visitor.transfer.and_then(|transfer| transfer.object) {
            self.part(stream, id);
        }
    }

    /// A client does not read this object any more.
    fn part(&mut self, stream: StreamId, id: Id) {
        if let Some(object) = self.store.objects.get_mut(&id) {
            object.readers.remove(&stream);
            self.touched.insert(id);
        }
    }

    /// Until nothing follows from anything.
    fn settle(&mut self) {
        loop {
            if let Some(stream) = self.eager.pop_first() {
                self.pump(stream);
            } else if let Some(id) = self.touched.pop_first() {
                self.turn(id);
            } else if let Some(stream) = self.asking.pop_first() {
                self.serve(stream);
            } else {
                break;
            }
        }
        if let Some(call) = self.stopping
            && self
                .store
                .objects
                .values()
                .all(|o| o.is_recorded() && o.ops == 0)
        {
            self.stopping = None;
            self.orders.fx.reply(call, Reply::Stopped);
        }
    }

    /// Move a client on.
    fn pump(&mut self, stream: StreamId) {
        let Some(visitor) = self.visitors.get_mut(&stream) else {
            return;
        };
        let Some(id) = visitor
            .transfer
            .as_ref()
            .and_then(|transfer| transfer.object)
        else {
            self.asking.insert(stream);
            return;
        };
        let Some(object) = self.store.objects.get_mut(&id) else {
            return;
        };
        let (pumped, handed) = visitor.pump(self.now, object, &mut self.orders);
        self.counters.bytes_served += handed;
        self.touched.insert(id);
        match pumped {
            Pumped::Done => {
                self.part(stream, id);
                self.asking.insert(stream);
            }
            Pumped::Blocked
                if object.fill.rests(self.now.mono) || object.dead && !object.fill.is_active() =>
            {
                let why = self
                    .why
                    .get(&id)
                    .map_or("the file has changed", String::as_str);
                let answer = Answer::text(
                    StatusCode::BAD_GATEWAY,
                    format!("cannot fetch {}: {why}", object.url),
                );
                visitor.refuse(self.now, &answer, &mut self.orders.fx);
                self.part(stream, id);
                self.asking.insert(stream);
            }
            Pumped::Blocked | Pumped::Going => {
                if let Some(transfer) = &visitor.transfer {
                    object.readers.insert(stream, transfer.left().clone());
                }
            }
        }
    }

    /// Whatever is due for an object.
    fn turn(&mut self, id: Id) {
        let now = self.now;
        let Some(object) = self.store.objects.get_mut(&id) else {
            return;
        };
        let (filling, received) = object.take_up(now, &mut self.orders);
        self.counters.bytes_from_origin += received;
        if received > 0 || filling != Filling::Going {
            self.eager.extend(object.readers.keys());
        }
        match filling {
            Filling::Going => {}
            Filling::Changed => return self.on_changed(id),
            Filling::Failed(why) => {
                let text = format!("{}: {why}", object.url);
                self.orders.fx.log(Level::Warn, text);
                self.why.insert(id, why);
            }
        }
        if !object.is_opening() {
            for slice in core::mem::take(&mut object.sealed) {
                self.store_slice(id, slice);
            }
        }
        let Some(object) = self.store.objects.get_mut(&id) else {
            return;
        };
        if self.eager.is_empty() {
            object.go_on(now, &self.reach, &mut self.rng, &mut self.orders);
            if object.has_news() {
                self.touched.insert(id);
            }
        } else {
            // Clients first: what they need next tells what to ask for.
            self.touched.insert(id);
            return;
        }
        object.trim();
        let at_once = object.readers.is_empty() || self.stopping.is_some();
        object.record_soon(now, at_once, &self.store.dir, &mut self.orders);
        object.close(&mut self.orders);
        if object.is_idle() {
            self.why.remove(&id);
        }
        self.store.sweep(id, &mut self.orders);
    }

    fn store_slice(&mut self, id: Id, slice: u32) {
        let Some(object) = self.store.objects.get(&id) else {
            return;
        };
        let (len, keeps) = (object.slice_len(slice), object.keeps && !object.dead);
        let fits = keeps && self.store.make_room(len, id, &mut self.orders);
        if let Some(object) = self.store.objects.get_mut(&id) {
            if fits {
                object.store(slice, &mut self.orders);
            } else {
                object.thin = true;
                object.let_go(slice);
            }
        }
    }

    /// The origin has another version now: nobody is given two of them.
    fn on_changed(&mut self, id: Id) {
        let Some(object) = self.store.objects.get(&id) else {
            return;
        };
        let text = format!("{}: the file has changed at its origin", object.url);
        let readers: Vec<StreamId> = object.readers.keys().copied().collect();
        self.orders.fx.log(Level::Info, text);
        self.store.retire(id, &mut self.orders);
        for stream in readers {
            let Some(visitor) = self.visitors.get_mut(&stream) else {
                continue;
            };
            let begun = visitor
                .transfer
                .as_ref()
                .is_some_and(visitor::Transfer::is_answered);
            if !begun && let Some(transfer) = visitor.transfer.take() {
                self.part(stream, id);
                let afresh = visitor::Transfer::new(transfer.request, transfer.url.clone());
                self.attach(stream, afresh);
            }
        }
        self.touched.insert(id);
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
        let mono: Mono = self.now.mono;
        let visitors = self
            .visitors
            .values()
            .filter_map(|v| v.connection.deadline());
        let probes = self.probes.values().filter_map(Probe::deadline);
        let objects = self.store.objects.values();
        let records = objects.clone().filter_map(object::Object::deadline);
        let fills = objects.filter_map(|object| object.fill.deadline(mono));
        visitors
            .chain(probes)
            .chain(records)
            .chain(fills)
            .fold(None, |first, next| Deadline::earlier(first, Some(next)))
    }

    fn check(&self) {
        assert!(
            self.visitors.len() <= CACHE_CONNECTIONS_MAX,
            "too many connections"
        );
        for (id, object) in &self.store.objects {
            object.check();
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
