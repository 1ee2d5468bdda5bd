//! Role: downloads for local callers, keeps content, serves it to peers.
//!
//! Each input takes three visible steps: **route** (whose is it), **settle** (translate what the children say
//! until they say nothing more), **top up** (hand out reads, dials and announces as limits allow).
//!
//! Decides: which content a connection belongs to, what a swarm's events mean to callers and coordinator.
//! Never does: what happens inside one content (`swarm`), callers' HTTP (`api`), coordination (`announce`).
//! Tested in `core/tests/swarm.rs`, `matrix.rs`, `resume.rs`, `trouble.rs`, and over real sockets by both shells.

mod callers;
mod coordination;
mod datagrams;
mod dial;
mod ledger;
mod lent;
mod mapping;
mod queue;
mod rules;
mod shelf;
mod shelf_desk;
mod status;
mod swarm;
mod yielding;

use crate::announce::{Announcer, Lookup};
use crate::api::{Asked, Desk};
use crate::command::{Event, Level, Reply};
use crate::failure::Failure;
use crate::http::Proxies;
use crate::ids::{CallId, StreamId};
use crate::job::{Job, JobConfig};
use crate::limits::LOBBY_MAX;
use crate::machine::{CloseHow, Datagram, Effects, Input, Listener, Machine, Output};
use crate::policy::{Known, Limits};
use crate::rendezvous;
use crate::rng::Rng;
use crate::session::{Session, SessionEvent};
use crate::settings::Layers;
use crate::stats::TokenBucket;
use crate::time::{Deadline, Now};
use crate::wire::PeerId;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use coordination::announcer;
use core::net::SocketAddr;
use datagrams::Datagrams;
use dial::Place;
use ledger::Ledger;
use lent::Lent;
pub use lent::Loan;
use mapping::Mappings;
use queue::Waiting;
use rules::Rules;
use shelf::{Keeper, SHELF_CALL};
use swarm::{Context, Me, Swarm, SwarmEvent};

/// What an agent is told once, at its start. (Settings that change while it runs are policy's.)
#[derive(Clone, Debug, Default)]
pub struct AgentConfig {
    /// The coordinator's base URL.
    pub coordinator: Option<String>,
    /// `http_proxy`, `https_proxy`, `no_proxy` as the environment or the settings give them.
    pub http_proxy: Option<String>,
    pub https_proxy: Option<String>,
    pub no_proxy: Option<String>,
    /// Accept peers, give to them and announce this device. Without it nothing listens and nothing is given.
    pub share: bool,
    /// What everybody said about settings before the start; [`crate::command::Command::Configure`] changes it.
    pub settings: Layers,
    /// Folder of the contents kept for peers, unless `modify_cache_drive` names another; `None`: nothing is kept, and
    /// downloads are offered from their outputs until the agent stops.
    pub shelf_dir: Option<String>,
    /// The file in which uploads of the month are counted.
    pub usage_file: Option<String>,
    /// Peers to dial for every content, besides those the coordinator names.
    pub peers: Vec<SocketAddr>,
}

/// The agent of one device.
#[derive(Debug)]
pub struct Agent {
    config: AgentConfig,
    jobs: JobConfig,
    me: Me,
    /// Where peers are accepted.
    listening: Option<SocketAddr>,
    rng: Rng,
    now: Now,
    fx: Effects,
    next: Option<Deadline>,
    desk: Desk,
    announcer: Option<Announcer>,
    datagrams: Datagrams,
    /// The way to the coordinator's rendezvous, if it has one.
    rendezvous: Option<rendezvous::Way>,
    lobby: BTreeMap<StreamId, (Session, SocketAddr)>,
    swarms: BTreeMap<u64, Swarm>,
    by_hash: BTreeMap<[u8; 20], u64>,
    /// Swarms on their way out: nobody wants them any more, their record is being made.
    closing: BTreeSet<u64>,
    /// Stop commands, answered when the swarm is gone.
    stops: Vec<(CallId, u64)>,
    shutdown: Option<Shutdown>,
    said: VecDeque<(u64, SwarmEvent)>,
    /// What callers asked for and was not taken up yet.
    asked: Vec<Asked>,
    upload: TokenBucket,
    rules: Rules,
    mappings: Mappings,
    keeper: Option<Keeper>,
    lent: Lent,
    /// Downloads that wait for their turn.
    waiting: VecDeque<Waiting>,
    last_owner: u64,
    last_job: u32,
    /// A stream over datagrams has said something since what there is was last handed out.
    is_stirred: bool,
}

#[derive(Debug)]
struct Shutdown {
    call: CallId,
    goodbye_said: bool,
    done: bool,
}

const DESK: u64 = 1;
const ANNOUNCER: u64 = 2;
const LOBBY: u64 = 3;
const LEDGER: u64 = 4;
const SHELF: u64 = 5;
const FIRST_SWARM: u64 = 16;

impl Agent {
    /// # Errors
    /// If the coordinator's or a proxy's URL makes no sense.
    pub fn new(config: AgentConfig, seed: [u8; 32]) -> Result<Self, Failure> {
        let mut rng = Rng::new(seed);
        let peer_id = PeerId::new(rng.bytes());
        let [http, https, none] =
            [&config.http_proxy, &config.https_proxy, &config.no_proxy].map(Option::as_deref);
        let proxies = Proxies::new(http, https, none)?;
        let announcer = match &config.coordinator {
            Some(text) => Some(announcer(text, &proxies, peer_id, &mut rng)?),
            None => None,
        };
        Ok(Self {
            jobs: JobConfig {
                peer_id,
                has_coordinator: announcer.is_some(),
                has_peers: !config.peers.is_empty(),
                proxies,
            },
            me: Me {
                peer_id,
                port: None,
                share: config.share,
            },
            listening: None,
            upload: TokenBucket::new(0),
            mappings: Mappings::new(rng.bytes()),
            rules: Rules::new(
                config.settings.clone(),
                Ledger::new(config.usage_file.clone()),
            ),
            keeper: config
                .shelf_dir
                .clone()
                .filter(|_| config.share)
                .map(Keeper::new),
            lent: Lent::default(),
            waiting: VecDeque::new(),
            rendezvous: None,
            datagrams: Datagrams::new(peer_id.0, rng.fork()),
            config,
            rng,
            now: Now::default(),
            fx: Effects::default(),
            next: None,
            desk: Desk::default(),
            announcer,
            lobby: BTreeMap::new(),
            swarms: BTreeMap::new(),
            by_hash: BTreeMap::new(),
            closing: BTreeSet::new(),
            stops: Vec::new(),
            shutdown: None,
            said: VecDeque::new(),
            asked: Vec::new(),
            last_owner: FIRST_SWARM,
            last_job: 0,
            is_stirred: false,
        })
    }

    /// Number streams, files and work so that another role can run beside this one: before anything else.
    pub(crate) fn number(&mut self, fx: Effects) {
        self.fx = fx;
    }

    /// The limits in force.
    pub const fn limits(&self) -> &Limits {
        &self.rules.limits
    }

    /// Contents that peers can have from here now.
    pub fn offered(&self) -> usize {
        self.by_hash.len()
    }

    // --- route

    fn route(&mut self, input: Input) {
        match input {
            Input::Command { call, command } => self.on_command(call, command),
            Input::Listening {
                listener: Listener::Peers,
                at,
            } => self.on_listening(at),
            Input::Accepted {
                stream,
                listener,
                from,
            } => self.on_accepted(stream, listener, from),
            Input::Opened { stream, .. }
            | Input::Secured { stream }
            | Input::Received { stream, .. }
            | Input::Sent { stream, .. } => {
                let owner = self.fx.stream_owner(stream, false);
                self.route_stream(owner, stream, input);
            }
            Input::Closed { stream, .. } => {
                self.rules.yielding.on_closed(stream);
                let owner = self.fx.stream_owner(stream, true);
                self.route_stream(owner, stream, input);
            }
            Input::Disk { op, done } => {
                let owner = self.fx.op_owner(op);
                if owner == Some(LEDGER) {
                    let said = self.rules.ledger.on_disk(self.now, op, done);
                    if let Some((level, text)) = said {
                        self.log(level, text);
                    }
                    return;
                }
                if owner == Some(SHELF) {
                    return self.on_shelf_disk(op, done);
                }
                self.with_swarm(owner, |swarm, c| swarm.on_disk(op, done, c));
            }
            Input::Hashed { op, done } => {
                let owner = self.fx.op_owner(op);
                self.with_swarm(owner, |swarm, c| swarm.on_hashed(op, done, c));
            }
            Input::Host(facts) => self.on_host(*facts),
            Input::Tick
            | Input::Listening { .. }
            | Input::Datagrams { .. }
            | Input::Path { .. } => {}
        }
    }

    fn route_stream(&mut self, owner: Option<u64>, stream: StreamId, input: Input) {
        match owner {
            Some(DESK) => self.on_caller_stream(stream, &input),
            Some(ANNOUNCER) => self.on_announcer_stream(input),
            Some(LOBBY) => self.on_lobby_stream(stream, input),
            owner => self.with_swarm(owner, |swarm, c| swarm.on_stream(stream, input, c)),
        }
    }

    fn on_listening(&mut self, at: SocketAddr) {
        self.listening = Some(at).filter(|_| self.me.share);
        self.me.port = Some(at.port());
        self.swarms
            .values_mut()
            .for_each(|swarm| swarm.me = self.me);
        self.tell_rendezvous();
        self.want_mappings();
        self.tell_announcer();
    }

    fn on_accepted(&mut self, stream: StreamId, listener: Listener, from: SocketAddr) {
        match listener {
            Listener::Local => {
                self.fx.owner = DESK;
                self.desk.on_accepted(self.now, stream, &mut self.fx);
            }
            Listener::Peers
                if self.me.share && self.shutdown.is_none() && self.lobby.len() < LOBBY_MAX =>
            {
                self.fx.owner = LOBBY;
                let session = Session::accept(self.now.mono, stream, &mut self.fx);
                self.lobby.insert(stream, (session, from));
            }
            _ => self.fx.close(stream, CloseHow::Abort),
        }
    }

    // --- peers

    fn on_lobby_stream(&mut self, stream: StreamId, input: Input) {
        let mut events = Vec::new();
        let Some((session, _)) = self.lobby.get_mut(&stream) else {
            return;
        };
        self.fx.owner = LOBBY;
        match input {
            Input::Received { bytes, .. } => {
                session.on_bytes(self.now.mono, bytes, &mut self.fx, &mut events)
            }
            Input::Sent { len, .. } => session.on_sent(self.now.mono, len),
            Input::Closed { .. } => {
                self.lobby.remove(&stream);
            }
            _ => {}
        }
        for event in events {
            if let SessionEvent::Hello { info_hash, .. } = event {
                self.leave_lobby(stream, info_hash);
            }
        }
    }

    /// It has said which content it wants: over to that swarm, if there is one.
    fn leave_lobby(&mut self, stream: StreamId, info_hash: [u8; 20]) {
        match self.by_hash.get(&info_hash).copied() {
            Some(owner) => {
                if let Some((session, from)) = self.lobby.remove(&stream) {
                    self.with_swarm(Some(owner), |swarm, c| swarm.take_session(session, from, c));
                }
            }
            None => {
                if let Some((session, _)) = self.lobby.get_mut(&stream) {
                    session.close(&mut self.fx);
                }
                self.on_wanted(info_hash);
            }
        }
    }

    fn log(&mut self, level: Level, text: String) {
        self.fx.notify(Event::Log { level, text });
    }

    // --- settle

    fn with_swarm(&mut self, owner: Option<u64>, f: impl FnOnce(&mut Swarm, &mut Context<'_>)) {
        let Some(swarm) = owner.and_then(|owner| self.swarms.get_mut(&owner)) else {
            return;
        };
        let mut events = Vec::new();
        f(
            swarm,
            &mut Context {
                now: self.now,
                fx: &mut self.fx,
                ev: &mut events,
                rules: &mut self.rules,
            },
        );
        let owner = swarm.owner;
        self.said
            .extend(events.into_iter().map(|event| (owner, event)));
    }

    fn settle(&mut self) {
        loop {
            if let Some((owner, event)) = self.said.pop_front() {
                self.on_said(owner, event);
            } else if let Some(asked) = self.asked.pop() {
                self.on_asked(asked);
            } else if let Some(event) = self.datagrams.rendezvous.poll_event() {
                self.on_rendezvous(event);
            } else if let Some(order) = self.fx.poll_utp() {
                let flows = self.rules.yielding.flows();
                self.datagrams.carry_out(self.now.mono, flows, order);
            } else if let Some(input) = self.datagrams.poll_input() {
                self.route(input);
                self.is_stirred = true;
            } else {
                break;
            }
        }
    }

    fn on_said(&mut self, owner: u64, event: SwarmEvent) {
        match event {
            SwarmEvent::Lookup(key) => match &mut self.announcer {
                Some(announcer) => announcer.lookup(self.now, owner, &key),
                None => self.with_swarm(Some(owner), |swarm, c| {
                    swarm.tell_job(c, Job::on_no_coordinator)
                }),
            },
            SwarmEvent::Introduce(device, content) => {
                let rendezvous = &mut self.datagrams.rendezvous;
                rendezvous.introduce(self.now.mono, device, content);
            }
            SwarmEvent::Meets(info_hash) => {
                self.by_hash.entry(info_hash.truncated()).or_insert(owner);
                let named = self.config.peers.iter();
                let named: Vec<_> = named.map(|p| (Place::at(*p), Known::Caller)).collect();
                self.with_swarm(Some(owner), |swarm, c| swarm.add_candidates(named, c));
                self.announce(owner, true);
            }
            SwarmEvent::Parts(info_hash) => self.part(owner, info_hash),
            SwarmEvent::Banned(ban) => {
                self.rules.bans.add(ban.clone());
                let owners: Vec<u64> = self.swarms.keys().copied().collect();
                for other in owners.into_iter().filter(|other| *other != owner) {
                    let ban = ban.clone();
                    self.with_swarm(Some(other), |swarm, c| {
                        swarm.tell_job(c, |job, _| job.heed_ban(ban));
                    });
                }
            }
            SwarmEvent::Advanced => self.announce(owner, false),
            SwarmEvent::Log(level, text) => self.log(level, text),
            SwarmEvent::Ended(result) => self.on_ended(owner, result),
        }
    }

    fn on_ended(&mut self, owner: u64, result: Result<crate::command::Report, Failure>) {
        let Some(swarm) = self.swarms.get_mut(&owner) else {
            return;
        };
        let (call, id, good) = (swarm.call, swarm.id, result.is_ok());
        let last = swarm.progress(self.now.mono).filter(|_| !swarm.sharing);
        let sharing = swarm.sharing;
        if call == SHELF_CALL {
            self.on_shelf_checked(owner, &result);
        }
        let reply = if sharing {
            Reply::Shared(result.map(drop))
        } else {
            Reply::Got(result)
        };
        if let Some(progress) = last {
            self.notify(Event::Progress {
                call,
                job: id,
                progress,
            });
        }
        self.with_swarm(Some(owner), Swarm::end_job);
        self.announce(owner, false);
        self.reply(call, reply);
        self.rules.down.forget(owner);
        if !good || !self.me.share {
            self.dismiss(owner);
        } else if !sharing {
            self.keep(owner);
        }
    }

    /// This content is not worked on or offered any more.
    fn dismiss(&mut self, owner: u64) {
        if !self.closing.insert(owner) {
            return;
        }
        let metainfo = self.swarms.get(&owner).and_then(Swarm::metainfo);
        if let Some(hash) = metainfo.map(|m| m.info_hash) {
            self.part(owner, hash);
        }
        self.with_swarm(Some(owner), Swarm::close);
    }

    /// Swarms on their way out: close the file once their record is made, forget them once nothing is open.
    fn sweep(&mut self) {
        for owner in self.closing.clone() {
            let Some(swarm) = self.swarms.get(&owner) else {
                continue;
            };
            if swarm.is_settled() {
                self.with_swarm(Some(owner), Swarm::close_file);
            }
            if self
                .swarms
                .get(&owner)
                .is_some_and(|s| s.is_settled() && s.is_idle())
            {
                self.swarms.remove(&owner);
                self.closing.remove(&owner);
            }
        }
        let gone: Vec<CallId> = self
            .stops
            .iter()
            .filter(|(_, owner)| !self.swarms.contains_key(owner))
            .map(|(call, _)| *call)
            .collect();
        self.stops
            .retain(|(_, owner)| self.swarms.contains_key(owner));
        for call in gone {
            self.reply(call, Reply::Stopped);
        }
    }

    // --- the end

    fn shut_down(&mut self, call: CallId) {
        if self.shutdown.is_some() {
            return self.reply(call, Reply::Stopped);
        }
        self.shutdown = Some(Shutdown {
            call,
            goodbye_said: self.announcer.is_none(),
            done: false,
        });
        if let Some(announcer) = &mut self.announcer {
            announcer.shutdown(self.now);
        }
        self.mappings.stop(&mut self.fx);
        let owners: Vec<u64> = self.swarms.keys().copied().collect();
        for owner in owners {
            self.dismiss(owner);
        }
        for (session, _) in self.lobby.values_mut() {
            session.close(&mut self.fx);
        }
        self.unqueue_all();
        self.fx.owner = LEDGER;
        self.rules.ledger.save(&mut self.fx);
    }

    fn finish_shutdown(&mut self) {
        let Some(shutdown) = &mut self.shutdown else {
            return;
        };
        let kept = self.keeper.as_ref().is_none_or(Keeper::is_idle);
        let settled = self.swarms.is_empty() && self.rules.ledger.is_idle() && kept;
        if shutdown.goodbye_said && !shutdown.done && settled {
            shutdown.done = true;
            let call = shutdown.call;
            self.reply(call, Reply::Stopped);
            self.fx.owner = DESK;
            self.desk.close(self.now, &mut self.fx);
        }
    }

    // --- top up

    /// What comes many times a second, and mostly is of no interest to anybody but congestion control.
    fn take_note(&mut self, input: Input) -> Option<Input> {
        let now = self.now.mono;
        let yielding = &mut self.rules.yielding;
        match input {
            Input::Path { stream, facts } => yielding.on_path(now, stream, facts, &mut self.fx),
            Input::Datagrams {
                from,
                bytes,
                segment_bytes,
                ecn,
                ..
            } => {
                let flows = yielding.flows();
                self.datagrams
                    .on_datagrams(now, flows, from, (bytes, segment_bytes), ecn);
            }
            Input::Tick => self.datagrams.on_tick(now, yielding.flows()),
            input => return Some(input),
        }
        self.next = Deadline::earlier(self.next, yielding.deadline());
        None
    }

    /// Everything that follows from an input.
    fn go_on(&mut self, is_due: bool) {
        self.settle();
        if is_due {
            self.tick();
            self.settle();
        }
        // Streams over datagrams answer at once: what was handed out may make room for more.
        loop {
            self.is_stirred = false;
            self.top_up();
            if !self.is_stirred {
                break;
            }
        }
        self.next = self.find_deadline();
    }

    fn tick(&mut self) {
        self.fx.owner = DESK;
        self.desk.on_tick(self.now, &mut self.fx);
        self.fx.owner = LOBBY;
        let mut faults = Vec::new();
        for (session, _) in self.lobby.values_mut() {
            session.on_tick(self.now.mono, &mut self.fx, &mut faults);
        }
        let owners: Vec<u64> = self.swarms.keys().copied().collect();
        for owner in owners {
            self.with_swarm(Some(owner), Swarm::on_tick);
        }
        self.rules.down.on_tick(self.now.mono);
        self.rules.yielding.on_tick(self.now.mono, &mut self.fx);
    }

    /// Those who wait for bandwidth, one after the other.
    fn take_turns(&mut self) {
        while let Some(owner) = self.rules.down.next_turn(self.now.mono) {
            self.with_swarm(Some(owner), Swarm::on_turn);
            self.rules.down.end_turn();
        }
    }

    fn top_up(&mut self) {
        self.reconsider_if_stale();
        self.run_queue();
        self.take_turns();
        self.settle();
        self.tick_announcer();
        self.settle();
        self.tend_lent();
        self.tend_shelf();
        self.tend_mappings();
        self.settle();
        self.fx.owner = LEDGER;
        self.rules.ledger.on_tick(self.now, &mut self.fx);
        self.serve();
        self.tell_progress();
        self.sweep();
        self.settle();
        self.finish_shutdown();
    }

    /// Start reads for peers, one content after the other.
    fn serve(&mut self) {
        let mut again = true;
        let mut events = Vec::new();
        while again {
            again = false;
            for swarm in self.swarms.values_mut() {
                let mut c = Context {
                    now: self.now,
                    fx: &mut self.fx,
                    ev: &mut events,
                    rules: &mut self.rules,
                };
                again |= swarm.serve_one(&mut self.upload, &mut c);
            }
        }
    }

    fn tell_progress(&mut self) {
        let now = self.now.mono;
        let due: Vec<Event> = self
            .swarms
            .values_mut()
            .filter_map(|s| {
                // Asked of those that share too, though nobody is told: it moves their next time on.
                let progress = s.progress_due(now)?;
                (!s.sharing).then_some(Event::Progress {
                    call: s.call,
                    job: s.id,
                    progress,
                })
            })
            .collect();
        due.into_iter().for_each(|event| self.notify(event));
    }

    fn find_deadline(&self) -> Option<Deadline> {
        let now = self.now.mono;
        let waiting = self.upload.is_limited() && self.swarms.values().any(Swarm::has_uploads);
        let upload = waiting.then(|| Deadline::new(self.upload.ready_at(), "upload rate limit"));
        let children = [
            self.desk.deadline(),
            self.announcer.as_ref().and_then(Announcer::deadline),
            upload,
            self.rules.down.deadline(),
            self.rules.ledger.deadline(),
            self.keeper.as_ref().map(Keeper::deadline),
            self.lent.deadline(),
            self.rules.yielding.deadline(),
            self.mappings.deadline(),
            self.rules
                .next_at()
                .map(|at| Deadline::new(at, "other limits may hold")),
        ];
        let lobby = self.lobby.values().map(|(session, _)| session.deadline());
        let swarms = self.swarms.values().map(|s| s.deadline(now));
        children
            .into_iter()
            .chain(lobby)
            .chain(swarms)
            .fold(None, Deadline::earlier)
    }
}

impl Machine for Agent {
    fn handle(&mut self, now: Now, input: Input) {
        self.now = Now {
            mono: now.mono.max(self.now.mono),
            wall: now.wall,
        };
        let due = self.next.is_some_and(|next| next.at <= self.now.mono);
        let Some(input) = self.take_note(input) else {
            if due || self.datagrams.has_news() {
                self.go_on(due);
            }
            return;
        };
        self.route(input);
        self.go_on(due);
    }

    fn poll(&mut self) -> Option<Output> {
        self.fx.poll()
    }

    fn poll_datagram(&mut self, now: Now, buf: &mut Vec<u8>) -> Option<Datagram> {
        let now = now.mono.max(self.now.mono);
        self.datagrams.poll(now, self.rules.yielding.flows(), buf)
    }

    fn deadline(&self) -> Option<Deadline> {
        Deadline::earlier(self.next, self.datagrams.deadline())
    }

    fn check(&self) {
        self.datagrams.check();
        self.swarms.values().for_each(Swarm::check);
        self.desk.check();
        self.rules.yielding.check();
        assert!(
            self.said.is_empty() && self.asked.is_empty(),
            "an event outlived its call"
        );
    }
}
