//! One content at work: its file, its peers, the job that wants it, the serving of it to others.
//!
//! Decides: what each child's event means to its siblings (a stored piece becomes a `have`, a bad one a ban,
//! a request a read). Children never call each other; everything passes through here.
//! Invariants: a stream belongs to one session or to the job's web source; `have` holds only pieces that
//! are verified and on disk.

mod neighbours;

use super::dial::{Candidates, Place};
use super::rules::Rules;
use crate::announce::Key;
use crate::command::{GetRequest, Level, Progress, Report, ShareRequest};
use crate::content::{Bitfield, HashDone, InfoHash, Metainfo, PieceLayer};
use crate::failure::Failure;
use crate::http::Ban;
use crate::ids::{CallId, JobId, OpId, SourceId, StreamId};
use crate::job::{Around, Job, JobConfig, JobEvent, Sessions, Storage, StorageEvent, is_job_read};
use crate::limits::{BLAMES_MAX, PEER_STALL};
use crate::machine::{DiskDone, DiskError, Effects, Input};
use crate::policy::{Known, Limits};
use crate::rendezvous::{ContentKey, DeviceId};
use crate::rng::Rng;
use crate::serve::Serve;
use crate::session::Session;
use crate::settings::Mode;
use crate::stats::{SourceClass, TokenBucket};
use crate::time::{Deadline, Mono, Now};
use crate::wire::PeerId;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

/// One content of an agent.
#[derive(Debug)]
pub(super) struct Swarm {
    /// Its number among the agent's owners.
    pub(super) owner: u64,
    pub(super) call: CallId,
    pub(super) id: JobId,
    pub(super) sharing: bool,
    pub(super) foreground: bool,
    /// The widest download mode the caller wants.
    widest: Mode,
    /// Peers are wanted whatever the file's length.
    insists: bool,
    /// Peers may be met.
    meets: bool,
    output: String,
    pub(super) me: Me,
    metainfo: Option<Arc<Metainfo>>,
    layer: Option<PieceLayer>,
    storage: Storage,
    have: Bitfield,
    job: Option<Job>,
    serve: Serve,
    sessions: Sessions,
    peers: BTreeMap<SourceId, Peer>,
    streams: BTreeMap<StreamId, SourceId>,
    /// Open connections to HTTP servers, and whose they are.
    web_streams: BTreeMap<StreamId, IpAddr>,
    candidates: Candidates,
    /// Asked of the rendezvous, not answered yet.
    introductions: BTreeMap<DeviceId, Introduction>,
    last_source: u64,
    /// There may be somebody to dial.
    dial_soon: bool,
    /// No session has a deadline before this.
    wake: Option<Deadline>,
    /// Bytes sent on connections that are closed.
    sent_before: u64,
}

/// Who this agent is to its peers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Me {
    pub(super) peer_id: PeerId,
    pub(super) port: Option<u16>,
    /// Give to others, too.
    pub(super) share: bool,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) place: Place,
    pub(super) class: SourceClass,
    known: Known,
    has: Bitfield,
    blames: u32,
    /// Reached through the coordinator.
    pub(super) is_relayed: bool,
    /// It is being dialled: when, or at once if this does not succeed, uTP is tried, too.
    utp_at: Option<Mono>,
    /// The other attempt to reach it; the first that gets through ends it.
    rival: Option<SourceId>,
}

/// A peer that the rendezvous is to find a way to.
#[derive(Clone, Copy, Debug)]
struct Introduction {
    place: Place,
    class: SourceClass,
    known: Known,
    /// TCP is still tried meanwhile.
    tcp: Option<SourceId>,
}

/// What the agent hears.
#[derive(Debug)]
pub(super) enum SwarmEvent {
    Introduce(DeviceId, ContentKey),
    Lookup(Key),
    /// It is known what this is, and peers may be met for it.
    Meets(InfoHash),
    /// They may not any more.
    Parts(InfoHash),
    Banned(Ban),
    /// The number of good pieces, or their being complete, has changed.
    Advanced,
    Log(Level, String),
    Ended(Result<Report, Failure>),
}

/// What a swarm is given while it is called.
pub(super) struct Context<'a> {
    pub(super) now: Now,
    pub(super) fx: &'a mut Effects,
    pub(super) ev: &'a mut Vec<SwarmEvent>,
    pub(super) rules: &'a mut Rules,
}

/// What every new swarm is given.
pub(super) struct Start<'a> {
    pub(super) owner: u64,
    pub(super) call: CallId,
    pub(super) id: JobId,
    pub(super) me: Me,
    pub(super) jobs: &'a JobConfig,
    pub(super) rng: Rng,
}

impl Swarm {
    pub(super) fn get(start: Start<'_>, request: GetRequest, c: &mut Context<'_>) -> Self {
        c.fx.owner = start.owner;
        let storage = Storage::download(&request.output, request.overwrite, c.fx);
        let mut swarm = Self::new(&start, request.output.clone(), storage);
        swarm.foreground = request.foreground;
        swarm.widest = request.mode.unwrap_or(Mode::Internet);
        swarm.insists =
            request.metainfo.is_some() || !request.peers.is_empty() || request.require_peers;
        for addr in &request.peers {
            swarm.candidates.add(Place::at(*addr), Known::Caller);
        }
        let mode = swarm.mode(&c.rules.limits);
        let jobs = JobConfig {
            has_coordinator: start.jobs.has_coordinator && mode.asks_coordinator(),
            has_peers: start.jobs.has_peers && mode.peers(),
            ..start.jobs.clone()
        };
        swarm.start(c, |a| Job::new(request, &jobs, start.rng, a));
        swarm
    }

    pub(super) fn share(start: Start<'_>, request: ShareRequest, c: &mut Context<'_>) -> Self {
        c.fx.owner = start.owner;
        let storage = Storage::complete(&request.path, c.fx);
        let mut swarm = Self::new(&start, request.path.clone(), storage);
        swarm.sharing = true;
        swarm.insists = true;
        swarm.start(c, |a| Job::share(request, start.jobs, start.rng, a));
        swarm
    }

    fn new(start: &Start<'_>, output: String, storage: Storage) -> Self {
        Self {
            owner: start.owner,
            call: start.call,
            id: start.id,
            sharing: false,
            foreground: false,
            widest: Mode::Internet,
            insists: false,
            meets: false,
            output,
            sent_before: 0,
            me: start.me,
            metainfo: None,
            layer: None,
            storage,
            have: Bitfield::default(),
            job: None,
            serve: Serve::default(),
            sessions: Sessions::new(),
            peers: BTreeMap::new(),
            streams: BTreeMap::new(),
            web_streams: BTreeMap::new(),
            candidates: Candidates::default(),
            introductions: BTreeMap::new(),
            last_source: PEER_SOURCES,
            dial_soon: false,
            wake: None,
        }
    }

    fn start(&mut self, c: &mut Context<'_>, make: impl FnOnce(&mut Around<'_>) -> Job) {
        let mut events = Vec::new();
        let mut a = Around {
            now: c.now,
            owner: self.owner,
            limits: &c.rules.limits,
            down: &mut c.rules.down,
            bans: &c.rules.bans,
            fx: c.fx,
            storage: &mut self.storage,
            sessions: &mut self.sessions,
            ev: &mut events,
        };
        self.job = Some(make(&mut a));
        self.settle_job(events, c);
    }

    // --- questions

    pub(super) const fn metainfo(&self) -> Option<&Arc<Metainfo>> {
        self.metainfo.as_ref()
    }

    pub(super) const fn have(&self) -> &Bitfield {
        &self.have
    }

    pub(super) const fn job(&self) -> Option<&Job> {
        self.job.as_ref()
    }

    /// A download at work, as the limits on their number count.
    pub(super) fn is_downloading(&self) -> bool {
        !self.sharing && self.job.as_ref().is_some_and(|job| !job.is_ended())
    }

    pub(super) const fn meets(&self) -> bool {
        self.meets
    }

    fn mode(&self, limits: &Limits) -> Mode {
        limits.mode.narrower(self.widest)
    }

    pub(super) fn output(&self) -> &str {
        &self.output
    }

    pub(super) fn sent_bytes(&self) -> u64 {
        self.sent_before + self.sessions.values().map(Session::sent_bytes).sum::<u64>()
    }

    /// Each connected peer and its session.
    pub(super) fn peers(&self) -> impl Iterator<Item = (&Peer, &Session)> {
        let open = self.sessions.iter().filter(|(_, s)| s.is_open());
        open.filter_map(|(source, session)| Some((self.peers.get(source)?, session)))
    }

    /// Nothing good waits to be recorded.
    pub(super) fn is_settled(&self) -> bool {
        self.storage.is_recorded()
    }

    /// Bytes still missing; exact only when it is 0.
    pub(super) fn left_bytes(&self) -> u64 {
        let missing = u64::from(self.have.pieces() - self.have.count());
        self.metainfo
            .as_ref()
            .map_or(0, |m| missing * u64::from(m.geometry.piece_length()))
    }

    // --- inputs

    pub(super) fn on_stream(&mut self, stream: StreamId, input: Input, c: &mut Context<'_>) {
        c.fx.owner = self.owner;
        match self.streams.get(&stream).copied() {
            Some(source) => self.on_peer_stream(source, input, c),
            None => {
                if let Input::Opened { stream, to } = &input {
                    self.web_streams.insert(*stream, to.ip());
                    let is_background = !self.foreground;
                    c.rules
                        .yielding
                        .on_download(*stream, to.ip(), is_background, c.fx);
                }
                if let Input::Closed { stream, .. } = &input {
                    self.web_streams.remove(stream);
                }
                self.with_job(c, |job, a| job.on_stream(&input, a));
            }
        }
        self.top_up(c);
    }

    pub(super) fn on_disk(
        &mut self,
        op: OpId,
        done: Result<DiskDone, DiskError>,
        c: &mut Context<'_>,
    ) {
        c.fx.owner = self.owner;
        match self.storage.on_disk(c.now.mono, op, done, c.fx) {
            Some(StorageEvent::Read { token, result }) if !is_job_read(token) => {
                let bytes = result.ok();
                let damaged =
                    self.serve
                        .on_read(c.now.mono, token, bytes.as_ref(), &mut self.sessions, c.fx);
                if let Some(piece) = damaged {
                    self.have.remove(piece);
                    let text = format!("piece {piece} cannot be read any more and is not offered");
                    c.ev.push(SwarmEvent::Log(Level::Warn, text));
                }
            }
            Some(event) => self.with_job(c, |job, a| job.on_storage(event, a)),
            None => {}
        }
        self.top_up(c);
    }

    pub(super) fn on_hashed(&mut self, op: OpId, done: HashDone, c: &mut Context<'_>) {
        c.fx.owner = self.owner;
        self.with_job(c, |job, a| job.on_hashed(op, done, a));
        self.top_up(c);
    }

    /// Anything the agent wants of the job.
    pub(super) fn tell_job(
        &mut self,
        c: &mut Context<'_>,
        f: impl FnOnce(&mut Job, &mut Around<'_>),
    ) {
        c.fx.owner = self.owner;
        self.with_job(c, f);
        self.top_up(c);
    }

    /// Somebody waits for it now, or nobody does any more.
    pub(super) fn prioritise(&mut self, foreground: bool, c: &mut Context<'_>) {
        self.foreground = foreground;
        c.fx.owner = self.owner;
        for (stream, remote) in &self.web_streams {
            let yielding = &mut c.rules.yielding;
            yielding.on_download(*stream, *remote, !foreground, c.fx);
        }
        let sources: Vec<SourceId> = self.sessions.keys().copied().collect();
        for source in sources {
            self.yield_as_receiver(source, c);
        }
        self.tell_job(c, |job, a| job.prioritise(foreground, a));
    }

    pub(super) fn on_tick(&mut self, c: &mut Context<'_>) {
        c.fx.owner = self.owner;
        let ids: Vec<SourceId> = self.sessions.keys().copied().collect();
        for source in ids {
            let mut events = Vec::new();
            if let Some(session) = self.sessions.get_mut(&source) {
                session.on_tick(c.now.mono, c.fx, &mut events);
            }
            self.settle_session(source, events, c);
        }
        self.storage.on_tick(c.now.mono, c.fx);
        self.dial_soon = true;
        self.with_job(c, Job::on_tick);
        self.wake = None;
        self.top_up(c);
    }

    pub(super) fn progress_due(&mut self, now: Mono) -> Option<Progress> {
        self.job.as_mut()?.progress_due(now, &self.sessions)
    }

    pub(super) fn progress(&mut self, now: Mono) -> Option<Progress> {
        Some(self.job.as_mut()?.progress(now, &self.sessions))
    }

    pub(super) fn deadline(&self, now: Mono) -> Option<Deadline> {
        let job = self.job.as_ref().and_then(|j| j.deadline(now));
        let dial = if self.may_dial() {
            self.candidates.deadline()
        } else {
            None
        };
        let rivals = self.peers.values().filter_map(|peer| peer.utp_at).min();
        let own = [
            job,
            dial,
            rivals.map(|at| Deadline::new(at, "dial over uTP, too")),
            self.storage.deadline(),
            self.serve.deadline(),
            self.wake,
        ];
        own.into_iter().fold(None, Deadline::earlier)
    }

    /// No peers, no file.
    pub(super) fn close(&mut self, c: &mut Context<'_>) {
        c.fx.owner = self.owner;
        self.with_job(c, Job::stop);
        for session in self.sessions.values_mut() {
            session.close(c.fx);
        }
        self.storage.record_soon(c.fx);
    }

    pub(super) fn close_file(&mut self, c: &mut Context<'_>) {
        c.fx.owner = self.owner;
        self.storage.close(c.fx);
    }

    // --- the job's events

    fn with_job(&mut self, c: &mut Context<'_>, f: impl FnOnce(&mut Job, &mut Around<'_>)) {
        let mut events = Vec::new();
        let Some(job) = self.job.as_mut().filter(|j| !j.is_ended()) else {
            return;
        };
        let mut a = Around {
            now: c.now,
            owner: self.owner,
            limits: &c.rules.limits,
            down: &mut c.rules.down,
            bans: &c.rules.bans,
            fx: c.fx,
            storage: &mut self.storage,
            sessions: &mut self.sessions,
            ev: &mut events,
        };
        f(job, &mut a);
        self.settle_job(events, c);
    }

    fn settle_job(&mut self, events: Vec<JobEvent>, c: &mut Context<'_>) {
        for event in events {
            match event {
                JobEvent::Lookup(key) => c.ev.push(SwarmEvent::Lookup(key)),
                JobEvent::Identified(metainfo) => {
                    self.have = Bitfield::empty(metainfo.geometry.pieces());
                    self.layer = metainfo.layer.clone();
                    self.metainfo = Some(metainfo);
                    self.settle_meeting(true, c);
                }
                JobEvent::Banned(ban) => c.ev.push(SwarmEvent::Banned(ban)),
                JobEvent::Layer(layer) => self.layer = Some(layer),
                JobEvent::Have(piece) => self.on_good_piece(piece, c),
                JobEvent::Lost(piece) => self.have.remove(piece),
                JobEvent::Claim { pieces, on } => {
                    for session in self.sessions.values_mut() {
                        session.claim(c.now.mono, &pieces, on, c.fx);
                    }
                }
                JobEvent::Blame(source) => self.on_blame(source, c),
                JobEvent::Log(level, text) => c.ev.push(SwarmEvent::Log(level, text)),
                JobEvent::Ended(result) => c.ev.push(SwarmEvent::Ended(result)),
            }
        }
    }

    fn on_good_piece(&mut self, piece: u32, c: &mut Context<'_>) {
        if !self.have.insert(piece) {
            return;
        }
        if self.me.share {
            for (source, session) in &mut self.sessions {
                if self.peers.get(source).is_none_or(|p| !p.has.has(piece)) {
                    session.have(c.now.mono, piece, c.fx);
                }
            }
        }
        c.ev.push(SwarmEvent::Advanced);
    }

    fn on_blame(&mut self, source: SourceId, c: &mut Context<'_>) {
        if source.0 < PEER_SOURCES {
            return self.with_job(c, |job, a| job.blame_web(source, a));
        }
        let Some(peer) = self.peers.get_mut(&source) else {
            return;
        };
        peer.blames += 1;
        let text = format!("peer {} sent bytes that do not match", peer.place.addr);
        c.ev.push(SwarmEvent::Log(Level::Warn, text));
        if peer.blames >= BLAMES_MAX {
            self.candidates.ban(peer.place);
            self.close_session(source, c);
        }
    }

    // --- top up

    fn top_up(&mut self, c: &mut Context<'_>) {
        self.with_job(c, Job::top_up);
        if core::mem::take(&mut self.dial_soon) {
            self.dial(c);
        }
        self.set_wake(c.now.mono);
        if self.me.share && self.metainfo.is_some() {
            let (uploads, peers) = (&c.rules.limits.uploads, &self.peers);
            let may = |source: &SourceId| {
                let class = peers.get(source).map(|peer| peer.class);
                class.is_some_and(|class| uploads.allow(class))
            };
            self.serve
                .rechoke(c.now.mono, &mut self.sessions, may, c.fx);
        }
    }

    /// Its turn to use bandwidth that others use, too.
    pub(super) fn on_turn(&mut self, c: &mut Context<'_>) {
        self.tell_job(c, |job, _| job.look_around());
    }

    /// Other limits are in force.
    pub(super) fn on_limits(&mut self, c: &mut Context<'_>) {
        c.fx.owner = self.owner;
        self.serve.changed();
        self.candidates.reconsider();
        self.settle_meeting(false, c);
        self.with_job(c, Job::on_limits);
        let mode = self.mode(&c.rules.limits);
        let limits = &c.rules.limits;
        let unwelcome = |peer: &Peer| {
            !self.meets || !limits.may_meet(mode, peer.place.addr.ip(), peer.class, peer.known)
        };
        let unwelcome: Vec<SourceId> = self
            .peers
            .iter()
            .filter(|(_, peer)| unwelcome(peer))
            .map(|(source, _)| *source)
            .collect();
        for source in unwelcome {
            self.close_session(source, c);
        }
        self.dial_soon = true;
        self.top_up(c);
    }

    /// Whether peers may be met for this content, now that it is known or limits have changed.
    fn settle_meeting(&mut self, first: bool, c: &mut Context<'_>) {
        let Some(metainfo) = &self.metainfo else {
            return;
        };
        let limits = &c.rules.limits;
        let length = metainfo.geometry.length();
        let long_enough = self.insists || length >= limits.min_peer_file_bytes;
        let meets = self.mode(limits).peers() && long_enough;
        let info_hash = metainfo.info_hash;
        if meets == self.meets && !first {
            return;
        }
        self.meets = meets;
        self.dial_soon = true;
        self.with_job(c, |job, a| job.on_may_meet(meets, a));
        if meets {
            c.ev.push(SwarmEvent::Meets(info_hash));
        } else if !first {
            c.ev.push(SwarmEvent::Parts(info_hash));
        }
    }

    /// Looking at every session after every input would cost more than waking a little early.
    fn set_wake(&mut self, now: Mono) {
        let first = || {
            self.sessions
                .values()
                .map(Session::deadline)
                .fold(None, Deadline::earlier)
        };
        let asked_just_now =
            (!self.sessions.is_empty()).then(|| Deadline::new(now + PEER_STALL, "peer stall"));
        self.wake = Deadline::earlier(self.wake.or_else(first), asked_just_now);
    }

    /// Start reads for peers, one content after the other being asked; true if one was started.
    pub(super) fn serve_one(&mut self, budget: &mut TokenBucket, c: &mut Context<'_>) -> bool {
        let Some(geometry) = self.metainfo.as_ref().map(|m| m.geometry) else {
            return false;
        };
        c.fx.owner = self.owner;
        let read = self.serve.next_read(
            c.now.mono,
            &geometry,
            &self.have,
            &mut self.sessions,
            budget,
            c.fx,
        );
        if let Some(read) = &read {
            self.storage.read(read.token, read.offset, read.len, c.fx);
        }
        read.is_some()
    }

    /// Some peer wants something of it.
    pub(super) fn is_asked(&self) -> bool {
        self.sessions.values().any(Session::they_want)
    }

    pub(super) fn has_uploads(&self) -> bool {
        self.sessions.values().any(Session::has_uploads)
    }

    /// The job is over; what it got stays here to be shared.
    pub(super) fn end_job(&mut self, c: &mut Context<'_>) {
        self.job = None;
        c.fx.owner = self.owner;
        let full = |source: &SourceId| self.peers.get(source).is_some_and(|p| p.has.is_full());
        for (source, session) in &mut self.sessions {
            session.set_interested(c.now.mono, false, c.fx);
            if full(source) {
                session.close(c.fx);
            }
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.sessions.is_empty() && self.storage.is_idle()
    }

    pub(super) fn check(&self) {
        if let Some(job) = &self.job {
            job.check();
        }
        self.serve.check();
        for (stream, source) in &self.streams {
            assert!(
                self.sessions
                    .get(source)
                    .is_some_and(|s| s.stream() == *stream),
                "a stream without its session"
            );
        }
    }
}

/// Source ids of peers lie above those of HTTP lanes.
const PEER_SOURCES: u64 = 1 << 32;
