//! One download: from the caller's request to the verified file.
//!
//! ```text
//!  opening ─ identifying ─┬─ rechecking ─┬─ running ─ whole-file hash ─ finishing ─ ended
//!     (disk) (coordinator)│  (resume)    │
//!                         └─ probing ────┴─ streaming (length unknown)
//!                            (HTTP only)
//! ```
//!
//! Decides: what the file is and which rung of the trust ladder it stands on (design §5), which source may be
//! asked for which piece and when, what becomes of bytes that do not match, when to give up.
//! Never does: wire messages (session), HTTP (web source), choosing pieces (picker).
//!
//! Invariants: nothing is written before it is verified against the highest rung available; every byte is
//! counted once, useful in one class or wasted; what is begun in memory stays below `OPEN_BYTES_MAX`.
//!
//! Tested in `core/tests/swarm.rs`, `matrix.rs`, `resume.rs`, `trouble.rs`.

mod assembly;
mod downlink;
mod ending;
mod identify;
mod peers;
mod resume;
mod storage;
mod tally;
mod terms;
mod verify;
mod web;

use crate::announce::Key;
use crate::command::{GetRequest, Level, Progress, Report, ShareRequest};
use crate::content::{Digest, HashDone, LayerBuilder, Metainfo, PieceLayer};
use crate::failure::Failure;
use crate::http::{Ban, Bans, Proxies};
use crate::ids::{OpId, SourceId};
use crate::limits::{PATIENCE, PEER_GRACE, PROGRESS_EVERY};
use crate::machine::Effects;
use crate::picker::Picker;
use crate::policy::{Limits, Reason};
use crate::rng::Rng;
use crate::session::Session;
use crate::stats::TokenBucket;
use crate::time::{Deadline, Mono, Now};
use crate::wire::PeerId;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::{String, ToString as _};
use alloc::sync::Arc;
use alloc::vec::Vec;
use assembly::Assembly;
use core::time::Duration;
pub use downlink::{Asker, Downlink};
pub use resume::Resume;
pub use storage::{Storage, StorageEvent};
use tally::Tally;
use verify::{Verdict, Verifier};
use web::Web;

/// The open connections of one content.
pub type Sessions = BTreeMap<SourceId, Session>;

/// What a job may touch while it is called.
pub struct Around<'a> {
    pub now: Now,
    /// The download's number among its agent's.
    pub owner: u64,
    pub limits: &'a Limits,
    pub down: &'a mut Downlink,
    pub bans: &'a Bans,
    pub fx: &'a mut Effects,
    pub storage: &'a mut Storage,
    pub sessions: &'a mut Sessions,
    pub ev: &'a mut Vec<JobEvent>,
}

/// What the parent hears.
#[derive(Debug)]
pub enum JobEvent {
    /// Ask the coordinator what this is; the answer goes to [`Job::on_record`].
    Lookup(Key),
    /// The content is known: peers may be met.
    Identified(Arc<Metainfo>),
    /// A piece is verified and stored.
    Have(u32),
    /// Peers gave the piece layer that the metainfo lacked.
    Layer(PieceLayer),
    /// A stored piece turned out damaged.
    Lost(u32),
    /// Tell the neighbours what is fetched from a scarce source, or no longer is.
    Claim {
        pieces: Vec<u32>,
        on: bool,
    },
    /// This source gave bytes that do not match.
    Blame(SourceId),
    /// A cache server is not to be asked for a while, by any download.
    Banned(Ban),
    Log(Level, String),
    /// The download is over, one way or the other. Comes once.
    Ended(Result<Report, Failure>),
}

/// One download.
#[derive(Debug)]
pub struct Job {
    request: GetRequest,
    peer_id: PeerId,
    /// Only verify a complete file, to offer it.
    sharing: bool,
    /// Peers may turn up: somebody knows some, and policy allows them.
    may_meet: bool,
    /// Somebody may name peers.
    knows_peers: bool,
    /// A coordinator may be asked what the file is.
    may_look_up: bool,
    peers_first: bool,
    /// Why nothing may be transferred at present.
    paused: Option<Reason>,
    phase: Phase,
    metainfo: Option<Arc<Metainfo>>,
    /// The metainfo came without its piece layer: peers are asked for it.
    learning: Option<LayerBuilder>,
    /// What the file is, known only since HTTP is at work.
    adopting: Option<Arc<Metainfo>>,
    found: Option<Resume>,
    picker: Option<Picker>,
    assembly: Assembly,
    verifier: Verifier,
    web: Web,
    recheck: Recheck,
    tally: Tally,
    limit: TokenBucket,
    rng: Rng,
    started: Mono,
    last_progress: Mono,
    told_at: Mono,
    writing: u32,
    catching_up: bool,
    /// Pieces we have told the neighbours we fetch.
    claimed: BTreeSet<u32>,
    /// Neighbours that claim pieces, and when each last said that it has one.
    claimants: BTreeMap<SourceId, Mono>,
    /// Peers hold what we lack and do not deliver enough, since then.
    short_since: Option<Mono>,
    /// They deliver as much as is asked of them.
    peers_suffice: bool,
    /// When to take the free seat at the origin.
    seat_at: Option<Mono>,
    /// Why a peer could not be reached, the last one.
    no_way: Option<String>,
    stale: Stale,
}

/// Which sources may have become able to take more work since the last top-up: looking at all of them at
/// every input would cost more than the work itself.
#[derive(Debug, Default)]
struct Stale {
    /// Pieces, memory or rate became free.
    all: bool,
    peers: BTreeSet<SourceId>,
    web: bool,
}

#[derive(Debug)]
enum Phase {
    Opening,
    Identifying {
        until: Mono,
    },
    /// HTTP only: waiting for the first answer, which tells the length.
    Probing,
    /// Reading back what an earlier run left.
    Rechecking,
    Running,
    /// A body of unknown length, in order.
    Streaming(web::Streaming),
    Finishing,
    Ended,
}

#[derive(Debug, Default)]
struct Recheck {
    queue: VecDeque<u32>,
    under_way: u32,
    /// The pieces came in this run and are counted already.
    credited: bool,
}

/// What a job must know of its agent.
#[derive(Clone, Debug)]
pub struct JobConfig {
    /// Who we are to our peers.
    pub peer_id: PeerId,
    pub has_coordinator: bool,
    /// There are peers to ask for everything, besides those a request names.
    pub has_peers: bool,
    pub proxies: Proxies,
}

impl Job {
    /// A download. The parent has made `a.storage` for it, whose answers go to [`Job::on_storage`].
    pub fn new(request: GetRequest, config: &JobConfig, mut rng: Rng, a: &mut Around<'_>) -> Self {
        let mono = a.now.mono;
        let limit = TokenBucket::new(request.limit_bytes_per_s);
        let web = Web::new(config.proxies.clone(), rng.fork(), request.require_peers);
        let may_meet = config.has_coordinator || config.has_peers || !request.peers.is_empty();
        let mut job = Self {
            phase: Phase::Opening,
            metainfo: None,
            learning: None,
            adopting: None,
            found: None,
            picker: None,
            assembly: Assembly::default(),
            verifier: Verifier::default(),
            web,
            recheck: Recheck::default(),
            tally: Tally::default(),
            limit,
            rng,
            started: mono,
            last_progress: mono,
            told_at: mono,
            writing: 0,
            catching_up: false,
            claimed: BTreeSet::new(),
            claimants: BTreeMap::new(),
            short_since: None,
            peers_suffice: false,
            seat_at: None,
            no_way: None,
            stale: Stale::default(),
            sharing: false,
            may_meet,
            peers_first: false,
            knows_peers: may_meet,
            may_look_up: config.has_coordinator,
            paused: None,
            peer_id: config.peer_id,
            request,
        };
        if job.request.sha256.is_some() {
            job.verifier.want_flat();
        }
        if !config.has_coordinator {
            let wait = if job.request.peers.is_empty() {
                Duration::ZERO
            } else {
                PEER_GRACE
            };
            job.web.allow_from(mono + wait);
        }
        job
    }

    /// Verify a complete local file against its metainfo.
    pub fn share(share: ShareRequest, config: &JobConfig, rng: Rng, a: &mut Around<'_>) -> Self {
        let request = GetRequest {
            metainfo: Some(share.metainfo),
            output: share.path,
            ..GetRequest::default()
        };
        Self {
            sharing: true,
            ..Self::new(request, config, rng, a)
        }
    }

    pub const fn metainfo(&self) -> Option<&Arc<Metainfo>> {
        self.metainfo.as_ref()
    }

    pub const fn picker(&self) -> Option<&Picker> {
        self.picker.as_ref()
    }

    pub const fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    // --- the disk

    pub fn on_storage(&mut self, event: StorageEvent, a: &mut Around<'_>) {
        self.stale.all = true;
        match event {
            StorageEvent::Opened { resume, .. } => {
                self.found = resume;
                self.begin(a);
            }
            StorageEvent::Allocated => {
                if matches!(self.phase, Phase::Rechecking) {
                    self.recheck_more(a);
                }
            }
            StorageEvent::Written { piece } => self.on_written(piece, a),
            StorageEvent::WrittenAt { len } => self.on_written_at(len, a),
            StorageEvent::Read { token, result } => match (result, ReadFor::of(token)) {
                (Ok(bytes), ReadFor::Recheck(piece)) => {
                    self.verifier.check_stored(piece, bytes, a.fx)
                }
                (Ok(bytes), ReadFor::CatchUp(piece)) => {
                    self.catching_up = false;
                    self.verifier.catch_up(piece, bytes, a.fx);
                }
                (Err(_), ReadFor::Recheck(piece)) => self.on_rechecked(piece, false, a),
                (Err(_), ReadFor::CatchUp(piece)) => {
                    self.catching_up = false;
                    self.lose(piece, a);
                }
            },
            StorageEvent::Finished => self.on_finished(a),
            StorageEvent::Failed(failure) => self.fail(failure, a),
        }
    }

    fn on_written(&mut self, piece: u32, a: &mut Around<'_>) {
        let Some(picker) = &mut self.picker else {
            return;
        };
        self.writing = self.writing.saturating_sub(1);
        let givers = picker.verified(piece);
        self.tally.credit(piece, &givers, picker.geometry());
        self.claimed.remove(&piece);
        self.last_progress = a.now.mono;
        a.ev.push(JobEvent::Have(piece));
    }

    fn recheck_more(&mut self, a: &mut Around<'_>) {
        let Some(geometry) = self.picker.as_ref().map(|p| *p.geometry()) else {
            return;
        };
        while self.recheck.under_way < RECHECKS_AT_ONCE
            && let Some(piece) = self.recheck.queue.pop_front()
        {
            self.recheck.under_way += 1;
            let token = ReadFor::Recheck(piece).token();
            a.storage.read(
                token,
                geometry.piece_offset(piece),
                geometry.piece_len(piece),
                a.fx,
            );
        }
        if self.recheck.under_way == 0 && matches!(self.phase, Phase::Rechecking) {
            self.phase = Phase::Running;
            self.last_progress = a.now.mono;
            if self.sharing {
                self.end_share(a);
            }
        }
    }

    fn on_rechecked(&mut self, piece: u32, good: bool, a: &mut Around<'_>) {
        self.recheck.under_way = self.recheck.under_way.saturating_sub(1);
        if good {
            self.restore(piece, a);
        } else {
            a.storage.forget(piece);
            if let Some(picker) = self.picker.as_ref().filter(|_| self.recheck.credited) {
                self.tally
                    .discredit(picker.geometry().piece_len(piece).into());
            }
        }
        self.recheck_more(a);
    }

    fn lose(&mut self, piece: u32, a: &mut Around<'_>) {
        if let Some(picker) = &mut self.picker {
            picker.lost(piece);
            a.storage.forget(piece);
            a.ev.push(JobEvent::Lost(piece));
        }
    }

    // --- pieces

    /// All blocks of a piece may be here: hash it, or store it at once if there is nothing to compare with.
    fn piece_arrived(&mut self, piece: u32, a: &mut Around<'_>) {
        if !self
            .picker
            .as_mut()
            .is_some_and(|p| p.finish_if_whole(piece))
        {
            return;
        }
        let chunks = self.assembly.take(piece);
        if let Some(chunks) = self.verifier.check_fresh(piece, chunks, a.fx) {
            self.store(piece, chunks, a);
        }
    }

    fn store(&mut self, piece: u32, chunks: assembly::Slices, a: &mut Around<'_>) {
        let Some(picker) = &self.picker else { return };
        self.writing += 1;
        a.storage
            .write(piece, picker.geometry().piece_offset(piece), chunks, a.fx);
    }

    pub fn on_hashed(&mut self, op: OpId, done: HashDone, a: &mut Around<'_>) {
        self.stale.all = true;
        match self.verifier.on_hashed(op, done) {
            Some(Verdict::Good {
                piece,
                chunks,
                blame,
            }) => {
                self.store(piece, chunks, a);
                a.ev.extend(blame.into_iter().map(JobEvent::Blame));
            }
            Some(Verdict::Bad { piece, leaves }) => self.on_bad(piece, leaves, a),
            Some(Verdict::Rechecked { piece, good }) => self.on_rechecked(piece, good, a),
            Some(Verdict::CaughtUp) | None => {}
        }
    }

    fn on_bad(&mut self, piece: u32, leaves: Vec<Digest>, a: &mut Around<'_>) {
        let Some(picker) = &mut self.picker else {
            return;
        };
        let givers = picker.failed(piece);
        self.tally.waste(picker.geometry().piece_len(piece).into());
        let distinct: BTreeSet<SourceId> = givers.iter().flatten().copied().collect();
        if let (1, Some(only)) = (distinct.len(), distinct.first()) {
            a.ev.push(JobEvent::Blame(*only));
        } else {
            self.verifier.suspect(piece, givers, leaves);
        }
    }

    /// A peer cannot be reached. The caller hears of it if nobody else delivers.
    pub fn on_no_way(&mut self, why: String) {
        self.no_way = Some(why);
    }

    // --- time

    pub fn on_tick(&mut self, a: &mut Around<'_>) {
        self.stale.all = true;
        let mono = a.now.mono;
        if let Phase::Identifying { until } = self.phase
            && until <= mono
        {
            let text = "the coordinator does not answer; going on over HTTP";
            a.ev.push(JobEvent::Log(Level::Warn, text.to_string()));
            self.probe(a);
        }
        self.tick_web(a);
        self.heed_pause(a);
        if self.is_hoping() && mono.since(self.last_progress) >= PATIENCE {
            self.give_up(a);
        }
    }

    pub fn deadline(&self, now: Mono) -> Option<Deadline> {
        let own = match self.phase {
            Phase::Ended | Phase::Opening | Phase::Finishing => None,
            Phase::Identifying { until } => Some(Deadline::new(until, "coordinator lookup")),
            Phase::Probing | Phase::Rechecking | Phase::Running | Phase::Streaming(_) => {
                let patience = self
                    .is_hoping()
                    .then(|| Deadline::new(self.last_progress + PATIENCE, "no progress"));
                let tell = Deadline::new(self.told_at + PROGRESS_EVERY, "tell progress");
                Deadline::earlier(patience, Some(tell))
            }
        };
        let web = if self.is_ended() {
            None
        } else {
            self.web.deadline(now)
        };
        let limit = (self.limit.is_limited() && self.is_transferring())
            .then(|| Deadline::new(self.limit.ready_at(), "download rate limit"))
            .filter(|limit| limit.at > now);
        let seat = self
            .seat_at
            .filter(|at| *at > now)
            .map(|at| Deadline::new(at, "take a seat at the origin"));
        [own, web, limit, seat]
            .into_iter()
            .fold(None, Deadline::earlier)
    }

    fn is_transferring(&self) -> bool {
        matches!(
            self.phase,
            Phase::Probing | Phase::Running | Phase::Streaming(_)
        )
    }

    /// It transfers, and something should come.
    fn is_hoping(&self) -> bool {
        self.is_transferring() && self.paused.is_none()
    }

    /// A moment to tell how far it is, if it is time again.
    pub fn progress_due(&mut self, now: Mono, sessions: &Sessions) -> Option<Progress> {
        let due = self.is_transferring() || matches!(self.phase, Phase::Rechecking);
        if !due || now < self.told_at + PROGRESS_EVERY {
            return None;
        }
        self.told_at = now;
        Some(self.progress(now, sessions))
    }

    pub fn progress(&mut self, now: Mono, sessions: &Sessions) -> Progress {
        let geometry = self.picker.as_ref().map(|p| *p.geometry());
        Progress {
            length: geometry.map_or(0, |g| g.length()),
            done: self.tally.resumed + self.tally.received.total(),
            resumed: self.tally.resumed,
            received: self.tally.received,
            wasted: self.tally.wasted,
            rate_bytes_per_s: self.tally.rate.bytes_per_s(now),
            peers: sessions.values().filter(|s| s.is_open()).count() as u32,
            waiting: self.paused.as_ref().map(|reason| reason.text.clone()),
        }
    }

    /// HTTP may begin a little after the peers were named, so that their claims are heard first.
    pub fn on_peers_named(&mut self, now: Mono, count: usize) {
        self.stale.web = true;
        let wait = if count == 0 {
            0
        } else {
            PEER_GRACE.as_micros() as u64
        };
        let jitter = self.rng.below(wait);
        self.web
            .allow_from(now + Duration::from_micros(wait / 2 + jitter));
    }

    /// The coordinator cannot name any: do not wait for peers.
    pub fn on_no_coordinator(&mut self, a: &mut Around<'_>) {
        self.stale.all = true;
        self.web.allow_from(a.now.mono);
        if matches!(self.phase, Phase::Identifying { .. }) {
            self.probe(a);
        }
    }

    // --- handing out work

    /// Ask for as much as limits and sources allow, and finish when all is there.
    pub fn top_up(&mut self, a: &mut Around<'_>) {
        for _ in 0..TOP_UPS_MAX {
            self.hand_out(a);
            if !self.settle_said(a) {
                break;
            }
        }
    }

    fn hand_out(&mut self, a: &mut Around<'_>) {
        if self.paused.is_some() {
            return;
        }
        match self.phase {
            Phase::Running if self.adopting.is_some() => self.adopt_at_rest(a),
            Phase::Running => {
                let stale = core::mem::take(&mut self.stale);
                // Whoever is first takes what a cap leaves: peers and HTTP in turn.
                self.peers_first = !self.peers_first && self.cap_bytes_per_s(a) > 0;
                if self.peers_first {
                    self.top_up_peers(&stale, a);
                }
                if stale.all || stale.web {
                    self.note_shortage(a);
                    self.expire_claims(a.now.mono);
                    self.top_up_web(a);
                }
                if !self.peers_first {
                    self.top_up_peers(&stale, a);
                }
                if stale.all {
                    self.catch_up_flat(a);
                    self.finish_if_complete(a);
                }
            }
            Phase::Probing | Phase::Streaming(_) => self.top_up_web(a),
            _ => {}
        }
    }

    fn catch_up_flat(&mut self, a: &mut Around<'_>) {
        let (Some(picker), false) = (&self.picker, self.catching_up) else {
            return;
        };
        if let Some(piece) = self
            .verifier
            .flat_wants()
            .filter(|piece| picker.have().has(*piece))
        {
            self.catching_up = true;
            let (offset, len) = (
                picker.geometry().piece_offset(piece),
                picker.geometry().piece_len(piece),
            );
            a.storage
                .read(ReadFor::CatchUp(piece).token(), offset, len, a.fx);
        }
    }

    /// Asserts the invariants of the header.
    pub fn check(&self) {
        if let Some(picker) = &self.picker {
            picker.check();
            let piece = u64::from(picker.geometry().piece_length());
            assert!(
                picker.open_bytes() <= peers::OPEN_BYTES_MAX + 2 * piece,
                "too much begun in memory"
            );
        }
    }
}

/// What a disk read of a job is for, packed in its token.
enum ReadFor {
    Recheck(u32),
    CatchUp(u32),
}

impl ReadFor {
    /// Tokens of jobs have this bit; those of uploads have not.
    const JOB: u64 = 1 << 63;
    const CATCH_UP: u64 = 1 << 62;

    const fn token(&self) -> u64 {
        match self {
            Self::Recheck(piece) => Self::JOB | *piece as u64,
            Self::CatchUp(piece) => Self::JOB | Self::CATCH_UP | *piece as u64,
        }
    }

    const fn of(token: u64) -> Self {
        let piece = token as u32;
        if token & Self::CATCH_UP == 0 {
            Self::Recheck(piece)
        } else {
            Self::CatchUp(piece)
        }
    }
}

/// Whether a storage read belongs to the job (else to an upload).
pub const fn is_job_read(token: u64) -> bool {
    token & ReadFor::JOB != 0
}

const RECHECKS_AT_ONCE: u32 = 4;

/// A lane that fails at once is asked again in the same step at most this often.
const TOP_UPS_MAX: u32 = 8;
