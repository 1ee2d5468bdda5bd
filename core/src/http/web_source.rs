//! One file over HTTP: ranges of it, over one or a few connections, from one of several URLs.
//!
//! Decides which URL to ask and when again, how many connections are worth having, how a range is asked so
//! that two versions of a file are never spliced, and what an answer's bytes are worth. Never decides which
//! bytes are wanted: the job asks for ranges on idle lanes and takes what comes.
//!
//! Invariants: no byte outside of what was asked on a lane is delivered, and none twice for one `fetch`;
//! every `fetch` ends with exactly one `Finished`, `Failed`, `Changed` or `cancel`; at most
//! `max_connections` streams. Bytes delivered are granted again when the job says `consumed`.
//!
//! Without ranges there is one sequential stream; bytes before the offset asked are skipped (and it says
//! so once). The judgement of an answer is `verdict`, of URLs `targets`, of connections `lanes`; what an
//! answer does to a lane is in `web_answers`.
//!
//! Spec: RFC 9110 §13, §14. Tests: `http/web_tests.rs`, `http/web_fault_tests.rs`.

use crate::failure::Failure;
use crate::http::allow::Gate;
use crate::http::bans::Ban;
use crate::http::client::{ClientEvent, Connection, Opening};
use crate::http::lanes::LaneTrial;
use crate::http::proxy::Proxies;
use crate::http::range::range_field;
use crate::http::request::ClientRequest;
use crate::http::targets::{Targets, Tiers};
use crate::http::url::Url;
use crate::http::validator::Validator;
use crate::http::verdict::Known;
use crate::ids::StreamId;
use crate::limits::{CACHE_CONNECT_TIMEOUT, GRANT_PER_STREAM};
use crate::machine::{Effects, Input};
use crate::rng::Rng;
use crate::stats::Rate;
use crate::time::{Deadline, Mono, Now};
use ::http::header;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bytes::Bytes;

/// Where a job's bytes are, and how to get there.
#[derive(Clone, Debug)]
pub struct WebConfig {
    /// Alternatives, most wanted first.
    pub urls: Vec<Url>,
    pub proxies: Proxies,
    /// Cache servers that are asked before them.
    pub tiers: Tiers,
    /// Connections at a time, at most (4 is usual).
    pub max_connections: u8,
    /// The version that an earlier run began with.
    pub expect: Option<Known>,
    /// Length and hash tree of the file are known, so that every byte will be proved: mirrors may be mixed,
    /// and a URL with a file of another length is of no use (instead of a reason to begin anew).
    pub verified: bool,
}

/// One connection's worth of work; a small number from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lane(pub u8);

/// A lane to fetch on, and where that will be from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneFor {
    pub lane: Lane,
    /// A cache server is asked; else the origin.
    pub cached: bool,
}

/// What the source tells the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebEvent {
    /// After the first good answer, and again when ranges turned out not to work, or with each answer
    /// that does not tell the length.
    Facts {
        length: Option<u64>,
        /// Parts can be asked for. If not, ask for everything from the first missing byte on.
        ranges: bool,
        validator: Option<Validator>,
        /// Where it comes from, after redirects.
        url: Url,
    },
    Bytes {
        lane: Lane,
        offset: u64,
        bytes: Bytes,
    },
    /// All that was asked on this lane was delivered. If no end was asked and the length was not known,
    /// this is the end of the file.
    Finished { lane: Lane },
    /// The range ended early; what was delivered stands. Ask for the rest when a lane is idle.
    Failed { lane: Lane, why: String },
    /// The file on the server is not the one this began with: what is not proved by a hash must be dropped.
    /// All lanes are idle.
    Changed { length: Option<u64>, url: Url },
    /// No URL can be asked now. `retry_at` is when one can; `None`: never.
    Unavailable {
        failure: Failure,
        retry_at: Option<Mono>,
        /// In a row, of the URL that is best off.
        failures: u32,
    },
    /// A cache server is not asked for a while.
    Banned(Ban),
    /// Something worth a line in the log.
    Notice(String),
}

/// The HTTP source of one job.
#[derive(Debug)]
pub struct WebSource {
    pub(super) proxies: Proxies,
    pub(super) verified: bool,
    pub(super) targets: Targets,
    pub(super) lanes: Vec<LaneState>,
    pub(super) trial: LaneTrial,
    /// What each connection may hold, and how many there may be, under a cap of the rate.
    narrow: Option<u32>,
    pub(super) known: Option<Known>,
    /// Which of the origin's URLs `known` is about.
    pub(super) known_resource: Option<usize>,
    pub(super) facts_told: bool,
    /// Does the server do ranges? `None` as long as nothing tells.
    pub(super) ranges: Option<bool>,
    /// Send `If-Range`; off after a server that minded.
    pub(super) if_range: bool,
    /// How often the file was another one.
    pub(super) changes: u8,
    /// What may be asked; `None`: everything.
    pub(super) gate: Option<Gate>,
}

#[derive(Debug, Default)]
pub(super) struct LaneState {
    pub(super) connection: Option<Connection>,
    pub(super) fetch: Option<Fetch>,
    /// The rest of an answer nobody wants is read to keep the connection: bytes of patience.
    pub(super) drain: Option<u64>,
    pub(super) rate: Rate,
    last_target: Option<usize>,
    /// Delivered from this connection and not yet consumed.
    pub(super) unconsumed: usize,
    /// Delivered from connections before this one and not yet consumed.
    pub(super) stale: usize,
}

/// One range being fetched.
#[derive(Clone, Debug)]
pub(super) struct Fetch {
    /// Exclusive; `None`: to the end of the file.
    pub(super) end: Option<u64>,
    /// The next byte to deliver.
    pub(super) next: u64,
    /// Where in the file the next byte of the answer belongs.
    pub(super) at: u64,
    /// Where the answer ends, if it says so.
    pub(super) answer_end: Option<u64>,
    /// Number of the URL among the targets.
    pub(super) target: usize,
    /// The URL really asked, after redirects.
    pub(super) asked: Url,
    pub(super) ranged: bool,
    pub(super) with_if_range: bool,
    pub(super) redirects: u8,
    /// Asked again silently because the server had closed a kept connection.
    pub(super) retried: bool,
    /// Asked again at the original URL because a redirect's target failed.
    pub(super) re_resolved: bool,
    /// A good head was there.
    pub(super) streaming: bool,
    /// Ask again once the connection is free.
    pub(super) again: bool,
    pub(super) delivered: u64,
}

impl Fetch {
    pub(super) const fn new(start: u64, end: Option<u64>, target: usize, asked: Url) -> Self {
        Self {
            end,
            next: start,
            at: start,
            answer_end: None,
            target,
            asked,
            ranged: false,
            with_if_range: false,
            redirects: 0,
            retried: false,
            re_resolved: false,
            streaming: false,
            again: false,
            delivered: 0,
        }
    }
}

impl LaneState {
    /// Fetch this, which was asked for on that connection.
    pub(super) fn begin(&mut self, connection: Connection, fetch: Fetch) {
        self.last_target = Some(fetch.target);
        self.connection = Some(connection);
        self.fetch = Some(fetch);
    }
}

impl WebSource {
    pub fn new(config: WebConfig, rng: Rng) -> Self {
        let max = config.max_connections.max(1);
        let known_resource = config.expect.as_ref().and_then(|known| {
            config
                .urls
                .iter()
                .position(|url| url.same_origin(&known.url))
        });
        Self {
            proxies: config.proxies,
            verified: config.verified,
            targets: Targets::new(config.urls, config.tiers, rng),
            lanes: (0..max).map(|_| LaneState::default()).collect(),
            trial: LaneTrial::new(max),
            narrow: None,
            known: config.expect,
            known_resource,
            facts_told: false,
            ranges: None,
            if_range: true,
            changes: 0,
            gate: None,
        }
    }

    /// From here on redirects lead only where `gate` permits, and nothing is asked at an address it does not.
    pub fn set_gate(&mut self, gate: Gate) {
        self.gate = Some(gate);
    }

    /// A connection that is open and idle, for the first lane.
    pub fn adopt(&mut self, connection: Connection) {
        if let Some(lane) = self.lanes.first_mut() {
            lane.connection = Some(connection);
        }
    }

    /// The lane on which another range may be asked for now. More than one only once ranges are known to
    /// work, and only as many as measurement has shown to be faster.
    pub fn idle_lane(&mut self, now: Now) -> Option<LaneFor> {
        let sticky = self.sticky();
        let (target, _) = self.targets.pick(now, sticky)?;
        let allowed = match self.ranges {
            Some(true) if self.facts_told && self.narrow.is_none() => self.trial.allowed(),
            _ => 1,
        };
        if self.busy() >= allowed {
            return None;
        }
        let free = |lane: &LaneState| lane.fetch.is_none() && lane.drain.is_none();
        let warm = |lane: &LaneState| lane.connection.as_ref().is_some_and(Connection::is_idle);
        let index = self
            .lanes
            .iter()
            .position(|lane| free(lane) && warm(lane))
            .or_else(|| self.lanes.iter().position(free))?;
        Some(LaneFor {
            lane: Lane(u8::try_from(index).ok()?),
            cached: self.targets.cache(target).is_some(),
        })
    }

    /// Would a cache server be asked if a lane were idle?
    pub fn can_ask_cache(&self, now: Now) -> bool {
        self.targets.pick_cache(now).is_some()
    }

    /// Under a cap of the rate there is one connection, and little that may come on it at once.
    pub fn set_rate_cap(&mut self, bytes_per_s: u64) {
        let window = bytes_per_s.div_ceil(WINDOWS_PER_S);
        let window = window.clamp(WINDOW_MIN, GRANT_PER_STREAM.into());
        self.narrow = (bytes_per_s > 0).then(|| u32::try_from(window).unwrap_or(GRANT_PER_STREAM));
    }

    /// Other cache servers, or other times for them and the origin. If the servers are others
    /// ([`Self::has_other_caches`]), all lanes must be idle.
    pub fn set_tiers(&mut self, tiers: Tiers) {
        if self.has_other_caches(&tiers) {
            for lane in &mut self.lanes {
                lane.last_target = None;
            }
        }
        self.targets.set_tiers(tiers);
    }

    pub fn has_other_caches(&self, tiers: &Tiers) -> bool {
        self.targets.caches() != tiers.caches.as_slice()
    }

    /// Another download has banned a cache.
    pub fn heed(&mut self, ban: Ban) {
        self.targets.heed(ban);
    }

    /// What came last on this lane does not match its hashes. A cache is not asked for this file's origin any more,
    /// and true is returned; else it is the origin's file that is wrong.
    pub fn blame(&mut self, now: Now, lane: Lane, ev: &mut Vec<WebEvent>) -> bool {
        let state = self.lanes.get(usize::from(lane.0));
        let Some(target) = state.and_then(|state| state.last_target) else {
            return false;
        };
        let why = "its bytes do not match the file's hashes";
        let ban = self.targets.ban(now, target, false, why);
        let is_cache = ban.is_some();
        ev.extend(ban.map(WebEvent::Banned));
        is_cache
    }

    /// Ask for `start..end`, or everything from `start` on, on a lane that is idle.
    pub fn fetch(
        &mut self,
        now: Now,
        lane: Lane,
        start: u64,
        end: Option<u64>,
        fx: &mut Effects,
        ev: &mut Vec<WebEvent>,
    ) {
        let sticky = self.sticky();
        let length = self.known.as_ref().and_then(|known| known.length);
        let end = match (end, length) {
            (Some(end), Some(length)) => Some(end.min(length)),
            (end, length) => end.or(length),
        };
        let index = usize::from(lane.0);
        let picked = self.targets.pick(now, sticky);
        let Some(state) = self
            .lanes
            .get_mut(index)
            .filter(|state| state.fetch.is_none())
        else {
            return;
        };
        if end.is_some_and(|end| start >= end) && self.facts_told {
            return ev.push(WebEvent::Finished { lane });
        }
        let Some((target, asked)) = picked else {
            let why = "no URL can be asked now".to_string();
            return ev.push(WebEvent::Failed { lane, why });
        };
        state.last_target = Some(target);
        state.fetch = Some(Fetch {
            again: state.drain.is_some(),
            ..Fetch::new(start, end, target, asked)
        });
        if state.rate.bytes_per_s(now.mono) == 0 {
            // The silence before this fetch does not count.
            state.rate = Rate::default();
        }
        if state.drain.is_none() {
            self.ask(now, index, fx, ev);
        }
    }

    /// Bytes from `new_end` on are not wanted any more on this lane. Ends it if all before was delivered.
    pub fn shrink(&mut self, lane: Lane, new_end: u64, fx: &mut Effects, ev: &mut Vec<WebEvent>) {
        let index = usize::from(lane.0);
        let Some(fetch) = self.fetch_of(index) else {
            return;
        };
        fetch.end = Some(fetch.end.map_or(new_end, |end| end.min(new_end)));
        if fetch.next >= new_end {
            self.finish(index, fx, ev);
        }
    }

    /// Nothing more is wanted on this lane. Closes the connection unless little is left of the answer.
    pub fn cancel(&mut self, lane: Lane, fx: &mut Effects) {
        let index = usize::from(lane.0);
        let mut unheard = Vec::new();
        if self.fetch_of(index).is_some() {
            self.finish(index, fx, &mut unheard);
        }
    }

    /// The next byte that this lane will deliver, and where it will end; `None` if it is idle.
    pub fn position(&self, lane: Lane) -> Option<(u64, Option<u64>)> {
        let fetch = self.lanes.get(usize::from(lane.0))?.fetch.as_ref()?;
        Some((fetch.next, fetch.end))
    }

    /// What this lane delivers, over the last two seconds.
    pub fn rate_bytes_per_s(&mut self, now: Now, lane: Lane) -> u64 {
        self.lanes
            .get_mut(usize::from(lane.0))
            .filter(|state| state.fetch.is_some())
            .map_or(0, |state| state.rate.bytes_per_s(now.mono))
    }

    /// The job has dealt with this many bytes of the lane: as many may come again.
    pub fn consumed(&mut self, now: Now, lane: Lane, len: usize, fx: &mut Effects) {
        let Some(state) = self.lanes.get_mut(usize::from(lane.0)) else {
            return;
        };
        let stale = len.min(state.stale);
        state.stale -= stale;
        let fresh = (len - stale).min(state.unconsumed);
        state.unconsumed -= fresh;
        if let Some(connection) = &mut state.connection
            && fresh > 0
        {
            connection.consumed(now, fresh, fx);
        }
    }

    /// Close everything: the job is over.
    pub fn close(&mut self, fx: &mut Effects) {
        for index in 0..self.lanes.len() {
            self.drop_connection(index, fx);
            if let Some(lane) = self.lanes.get_mut(index) {
                lane.fetch = None;
            }
        }
    }

    pub fn owns(&self, stream: StreamId) -> bool {
        self.lane_of(stream).is_some()
    }

    /// Feed an input about a stream of this source; others are ignored.
    pub fn on_input(&mut self, now: Now, input: &Input, fx: &mut Effects, ev: &mut Vec<WebEvent>) {
        let stream = match input {
            Input::Opened { stream, .. }
            | Input::Secured { stream }
            | Input::Received { stream, .. }
            | Input::Closed { stream, .. } => *stream,
            _ => return,
        };
        let Some(index) = self.lane_of(stream) else {
            return;
        };
        self.targets.wake(now);
        if let Input::Opened { to, .. } = input
            && self.is_out_of_bounds(index, to.ip())
        {
            let why = format!("its address {} is in a network of our own", to.ip());
            return self.on_out_of_bounds(now, index, &why, fx, ev);
        }
        let mut events = Vec::new();
        if let Some(connection) = self.connection_of(index) {
            connection.on_input(now, input, fx, &mut events);
        }
        self.settle(now, index, events, fx, ev);
    }

    pub fn on_tick(&mut self, now: Now, fx: &mut Effects, ev: &mut Vec<WebEvent>) {
        self.targets.wake(now);
        for index in 0..self.lanes.len() {
            let mut events = Vec::new();
            if let Some(connection) = self.connection_of(index) {
                connection.on_tick(now, fx, &mut events);
            }
            self.settle(now, index, events, fx, ev);
        }
    }

    /// Includes the moment at which a URL can be asked again: look for an idle lane then.
    pub fn deadline(&self, now: Mono) -> Option<Deadline> {
        let retry = self
            .targets
            .retry_at(now)
            .map(|at| Deadline::new(at, "another address may be asked"));
        self.lanes
            .iter()
            .filter_map(|lane| lane.connection.as_ref()?.deadline())
            .fold(retry, |first, next| Deadline::earlier(first, Some(next)))
    }

    /// Lanes at work.
    pub fn busy(&self) -> u8 {
        let busy = |lane: &&LaneState| lane.fetch.is_some() || lane.drain.is_some();
        u8::try_from(self.lanes.iter().filter(busy).count()).unwrap_or(u8::MAX)
    }

    /// Put the question of a lane's fetch on the wire.
    pub(super) fn ask(&mut self, now: Now, index: usize, fx: &mut Effects, ev: &mut Vec<WebEvent>) {
        let ranged = self.ranges != Some(false);
        let if_range = self.if_range && ranged;
        let known = self
            .lanes
            .get(index)
            .and_then(|lane| self.known_at(lane.fetch.as_ref()?));
        let Some(fetch) = self.fetch_of(index) else {
            return;
        };
        fetch.again = false;
        fetch.streaming = false;
        fetch.ranged = ranged;
        fetch.with_if_range = false;
        fetch.at = if ranged { fetch.next } else { 0 };
        let mut request = ClientRequest::get(fetch.asked.clone());
        if ranged {
            let end = fetch.end.filter(|end| *end > fetch.next);
            request = request.with(header::RANGE, &range_field(fetch.next, end));
        }
        let guard = known
            .filter(|known| if_range && known.url.same_origin(&fetch.asked))
            .and_then(|known| known.validator);
        if let Some(guard) = guard.as_ref().and_then(Validator::if_range) {
            request = request.with(header::IF_RANGE, guard);
            fetch.with_if_range = true;
        }
        self.send(now, index, request, fx, ev);
    }

    fn send(
        &mut self,
        now: Now,
        index: usize,
        request: ClientRequest,
        fx: &mut Effects,
        ev: &mut Vec<WebEvent>,
    ) {
        let target = self.fetch_of(index).map(|fetch| fetch.target);
        let mut how = Opening::default();
        how.window = self.narrow.unwrap_or(how.window);
        if target.is_some_and(|target| self.targets.cache(target).is_some()) {
            how.timeout = CACHE_CONNECT_TIMEOUT;
        }
        let fits = |kept: &Connection| kept.is_idle() && kept.serves(&request.url);
        if !self.connection_of(index).is_some_and(|kept| fits(kept)) {
            self.drop_connection(index, fx);
        }
        let Some(state) = self.lanes.get_mut(index) else {
            return;
        };
        let proxies = &self.proxies;
        let connection = state
            .connection
            .get_or_insert_with(|| Connection::open_as(now, &request.url, proxies, how, fx));
        let mut events = Vec::new();
        connection.start(now, request, fx, &mut events);
        self.settle(now, index, events, fx, ev);
    }

    /// Translate a connection's events until none is left, or the lane has another connection.
    pub(super) fn settle(
        &mut self,
        now: Now,
        index: usize,
        events: Vec<ClientEvent>,
        fx: &mut Effects,
        ev: &mut Vec<WebEvent>,
    ) {
        let stream = self
            .connection_of(index)
            .map(|connection| connection.stream());
        for event in events {
            if self
                .connection_of(index)
                .map(|connection| connection.stream())
                != stream
            {
                return;
            }
            match event {
                ClientEvent::Head(head) => self.on_head(now, index, &head, fx, ev),
                ClientEvent::Body(bytes) => self.on_body(now, index, bytes, fx, ev),
                ClientEvent::Done { reusable } => self.on_done(now, index, reusable, fx, ev),
                ClientEvent::Fault(fault) => self.on_fault(now, index, &fault, fx, ev),
            }
        }
    }

    pub(super) fn connection_of(&mut self, index: usize) -> Option<&mut Connection> {
        self.lanes.get_mut(index)?.connection.as_mut()
    }

    pub(super) fn fetch_of(&mut self, index: usize) -> Option<&mut Fetch> {
        self.lanes.get_mut(index)?.fetch.as_mut()
    }

    pub(super) fn drop_connection(&mut self, index: usize, fx: &mut Effects) {
        if let Some(lane) = self.lanes.get_mut(index) {
            if let Some(mut connection) = lane.connection.take() {
                connection.close(fx);
            }
            lane.drain = None;
            lane.stale += core::mem::take(&mut lane.unconsumed);
        }
    }

    /// A file that no hash proves is not put together from several servers if that can be avoided.
    pub(super) fn sticky(&self) -> bool {
        !self.verified && self.facts_told
    }

    fn lane_of(&self, stream: StreamId) -> Option<usize> {
        self.lanes.iter().position(|lane| {
            lane.connection
                .as_ref()
                .is_some_and(|c| c.stream() == stream)
        })
    }
}

/// Under a cap, so many windows make up a second's worth.
const WINDOWS_PER_S: u64 = 5;
/// Below this every answer would stop and go.
const WINDOW_MIN: u64 = 32 * 1024;
