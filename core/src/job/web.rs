//! The job's dealings with HTTP: which lane fetches which bytes, what its answers mean.

use super::assembly::Cursor;
use super::{Around, Job, JobEvent, Phase, Resume, Sessions, storage};
use crate::command::Level;
use crate::content::{Bitfield, Geometry};
use crate::failure::Failure;
use crate::http::{
    Ban, Known, Lane, LaneFor, Proxies, Tiers, Url, Validator, WebConfig, WebEvent, WebSource,
};
use crate::ids::{SourceId, StreamId};
use crate::limits::{OPEN_BYTES_MAX, SEAT_KEPT, WEB_BLAMES_MAX, WEB_CONNECTIONS_MAX};
use crate::machine::{Effects, Input};
use crate::picker::Reach;
use crate::rng::Rng;
use crate::stats::SourceClass;
use crate::time::{Deadline, Mono, Now};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::Range;
use core::time::Duration;

/// The HTTP side of one job.
#[derive(Debug)]
pub(super) struct Web {
    proxies: Proxies,
    rng: Rng,
    /// The caller wants peers only.
    forbidden: bool,
    pub(super) source: Option<WebSource>,
    not_before: Option<Mono>,
    /// Peers are asked alone until then: the HTTP delay.
    pub(super) delayed_until: Mono,
    lanes: BTreeMap<Lane, Work>,
    /// Bytes taken in and not yet given back as credit: memory or the rate limit is used up.
    owed: VecDeque<(Lane, usize)>,
    last_fetch: Option<Mono>,
    /// The piece after the last one a lane was given: where the next one goes on.
    next: u32,
    /// What the source said while it was being asked.
    said: Vec<WebEvent>,
    failure: Option<Failure>,
    blames: u32,
    /// It said nothing while peers could: not asked until then, longer each time.
    rests_until: Option<Mono>,
    silences: u32,
}

/// What one lane is fetching.
#[derive(Debug)]
struct Work {
    source: SourceId,
    cursor: Cursor,
    /// Where its range ends.
    end: u64,
    /// When bytes last came, or it was asked for.
    heard: Mono,
}

/// A body without a length, written as it comes.
#[derive(Debug)]
pub(super) struct Streaming {
    offset: u64,
    unwritten: u64,
    ended: bool,
    from: SourceClass,
}

/// Each lane is two sources: what comes from a cache is counted apart.
const fn source_of(lane: LaneFor) -> SourceId {
    SourceId(lane.lane.0 as u64 + if lane.cached { CACHE_SOURCES } else { 0 })
}

/// The lane behind a source below those of peers.
const fn lane_of(source: SourceId) -> Lane {
    Lane((source.0 % CACHE_SOURCES) as u8)
}

pub(super) const fn is_cache(source: SourceId) -> bool {
    source.0 >= CACHE_SOURCES && source.0 < 2 * CACHE_SOURCES
}

const CACHE_SOURCES: u64 = 256;

impl Web {
    pub(super) const fn new(proxies: Proxies, rng: Rng, forbidden: bool) -> Self {
        Self {
            proxies,
            rng,
            forbidden,
            source: None,
            not_before: None,
            delayed_until: Mono::ZERO,
            lanes: BTreeMap::new(),
            owed: VecDeque::new(),
            last_fetch: None,
            next: NOWHERE,
            said: Vec::new(),
            failure: None,
            blames: 0,
            rests_until: None,
            silences: 0,
        }
    }

    pub(super) fn open(
        &mut self,
        urls: Vec<Url>,
        tiers: Tiers,
        expect: Option<Known>,
        verified: bool,
    ) {
        if !urls.is_empty() && !self.forbidden {
            let config = WebConfig {
                urls,
                tiers,
                proxies: self.proxies.clone(),
                max_connections: WEB_CONNECTIONS_MAX,
                expect,
                verified,
            };
            self.source = Some(WebSource::new(config, self.rng.fork()));
        }
    }

    pub(super) const fn has_source(&self) -> bool {
        self.source.is_some()
    }

    /// HTTP may be used from then on; the earliest of several calls counts.
    pub(super) fn allow_from(&mut self, at: Mono) {
        self.not_before = Some(self.not_before.map_or(at, |old| old.min(at)));
    }

    pub(super) fn is_allowed(&self, now: Mono) -> bool {
        self.not_before.is_some_and(|at| at <= now) && self.delayed_until <= now
    }

    /// This device has a seat at the origin: it is at it, or was a moment ago.
    pub(super) fn is_fetching(&self, now: Mono) -> bool {
        !self.lanes.is_empty() || self.last_fetch.is_some_and(|at| now.since(at) < SEAT_KEPT)
    }

    pub(super) fn can_resume(&self, found: &Resume, urls: &[String]) -> bool {
        found.root.is_none()
            && found.known().is_some()
            && found.url.as_ref().is_some_and(|url| urls.contains(url))
    }

    pub(super) fn last_failure(&self) -> Option<Failure> {
        self.failure.clone()
    }

    pub(super) fn heed(&mut self, ban: Ban) {
        if let Some(source) = &mut self.source {
            source.heed(ban);
        }
    }

    pub(super) fn owns(&self, stream: StreamId) -> bool {
        self.source.as_ref().is_some_and(|s| s.owns(stream))
    }

    pub(super) fn close(&mut self, fx: &mut Effects) {
        self.lanes.clear();
        self.owed.clear();
        if let Some(source) = &mut self.source {
            source.close(fx);
        }
    }

    pub(super) fn deadline(&self, now: Mono) -> Option<Deadline> {
        let begin = self
            .not_before
            .map(|at| at.max(self.delayed_until))
            .filter(|at| *at > now)
            .map(|at| Deadline::new(at, "HTTP may begin"));
        let source = self.source.as_ref();
        Deadline::earlier(begin, source.and_then(|source| source.deadline(now)))
    }

    /// Pieces the lanes are on or will come to.
    fn pieces(&self, geometry: &Geometry) -> BTreeSet<u32> {
        let length = u64::from(geometry.piece_length());
        let span = |w: &Work| (w.cursor.end() / length) as u32..w.end.div_ceil(length) as u32;
        self.lanes
            .values()
            .flat_map(span)
            .take(CLAIMS_MAX)
            .collect()
    }
}

impl Job {
    pub fn owns_stream(&self, stream: StreamId) -> bool {
        self.web.owns(stream)
    }

    /// An input about a stream of the web source.
    pub fn on_stream(&mut self, input: &Input, a: &mut Around<'_>) {
        let mut events = Vec::new();
        if let Some(source) = &mut self.web.source {
            source.on_input(a.now, input, a.fx, &mut events);
        }
        self.settle_web(events, a);
    }

    pub(super) fn tick_web(&mut self, a: &mut Around<'_>) {
        let mut events = Vec::new();
        if let Some(source) = &mut self.web.source {
            source.on_tick(a.now, a.fx, &mut events);
        }
        self.settle_web(events, a);
    }

    fn settle_web(&mut self, events: Vec<WebEvent>, a: &mut Around<'_>) {
        self.stale.web = true;
        for event in events {
            if self.is_ended() {
                return;
            }
            match event {
                WebEvent::Facts {
                    length,
                    ranges,
                    validator,
                    url,
                } => {
                    let validator = validator.filter(|v| ranges && v.if_range().is_some());
                    self.on_facts(length, validator, &url, a);
                }
                WebEvent::Bytes {
                    lane,
                    offset,
                    bytes,
                } => self.on_body(lane, offset, bytes, a),
                WebEvent::Finished { lane } => self.on_lane_done(lane, true, a),
                WebEvent::Failed { lane, .. } => self.on_lane_done(lane, false, a),
                WebEvent::Changed { .. } => self.on_changed(a),
                WebEvent::Unavailable {
                    failure,
                    retry_at,
                    failures,
                } => {
                    self.on_unavailable(failure, retry_at.is_none(), failures, a);
                }
                WebEvent::Banned(ban) => {
                    self.stale.all = true;
                    a.ev.push(JobEvent::Banned(ban));
                }
                WebEvent::Notice(text) => a.ev.push(JobEvent::Log(Level::Info, text)),
            }
        }
    }

    // --- answers

    fn on_facts(
        &mut self,
        length: Option<u64>,
        validator: Option<Validator>,
        url: &Url,
        a: &mut Around<'_>,
    ) {
        match (&self.picker, length) {
            (Some(picker), Some(length)) if picker.geometry().length() != length => {
                let known = picker.geometry().length();
                self.drop_web(
                    &format!("{url} is {length} bytes long, the file asked for {known}"),
                    a,
                );
            }
            (None, Some(length)) => match Geometry::for_length(length) {
                Ok(geometry) => self.on_length(geometry, validator, url, a),
                Err(error) => self.drop_web(&error.to_string(), a),
            },
            (None, None) => {
                let cached = self.web.lanes.values().any(|work| is_cache(work.source));
                let from = if cached {
                    SourceClass::Cache
                } else {
                    SourceClass::Origin
                };
                self.phase = Phase::Streaming(Streaming {
                    offset: 0,
                    unwritten: 0,
                    ended: false,
                    from,
                });
            }
            _ => {}
        }
    }

    fn on_length(
        &mut self,
        geometry: Geometry,
        validator: Option<Validator>,
        url: &Url,
        a: &mut Around<'_>,
    ) {
        self.set_geometry(geometry, a);
        if validator.is_some() {
            let mut identity = storage::identity(geometry, Bitfield::empty(geometry.pieces()));
            // The URL as asked, not where redirects led: that is what the next run will ask for.
            identity.url = self
                .request
                .urls
                .first()
                .cloned()
                .or_else(|| Some(url.to_string()));
            identity.validator = validator;
            a.storage.identify(identity);
        }
        // The probe asked for everything: its lane has the whole file as its span.
        if let (Some(work), Some(picker)) = (self.web.lanes.values_mut().next(), &mut self.picker) {
            let _ = picker.pick_span(work.source, 0, u32::MAX, Reach::Any);
            work.end = geometry.length();
        }
        self.phase = Phase::Running;
    }

    fn on_body(&mut self, lane: Lane, offset: u64, bytes: Bytes, a: &mut Around<'_>) {
        let len = bytes.len();
        let source = self.web.lanes.get(&lane).map(|work| work.source);
        if let Some(source) = source {
            self.arrived(source, len as u64, a);
        }
        self.web.owed.push_back((lane, len));
        if let Phase::Streaming(streaming) = &mut self.phase {
            streaming.unwritten += len as u64;
            a.storage.write_at(streaming.offset, bytes, a.fx);
            streaming.offset += len as u64;
            return;
        }
        let Some(geometry) = self.picker.as_ref().map(|p| *p.geometry()) else {
            return;
        };
        let Some(work) = self.web.lanes.get_mut(&lane) else {
            return;
        };
        if work.cursor.end() != offset {
            return self.tally.waste(len as u64);
        }
        let source = work.source;
        work.cursor.push(bytes);
        work.heard = a.now.mono;
        self.web.silences = 0;
        self.last_progress = a.now.mono;
        while let Some((block, data)) = self
            .web
            .lanes
            .get_mut(&lane)
            .and_then(|w| w.cursor.next(&geometry))
        {
            if let Some(picker) = &mut self.picker {
                picker.begin_reserved(source, block.piece);
            }
            self.on_block(source, block, data, a);
            let is_last = geometry.blocks_in(block.piece) == block.index + 1;
            if is_last
                && self
                    .picker
                    .as_ref()
                    .is_some_and(|p| !p.is_scarce(block.piece))
            {
                // Somebody else was at it, too: go elsewhere, lest both go on side by side.
                self.web.next = NOWHERE;
            }
            self.piece_arrived(block.piece, a);
        }
    }

    fn on_lane_done(&mut self, lane: Lane, whole: bool, a: &mut Around<'_>) {
        self.stale.all = true;
        if let Phase::Streaming(streaming) = &mut self.phase {
            if whole {
                streaming.ended = true;
                return self.on_written_at(0, a);
            }
            // What has come cannot be continued without a length: from the start.
            self.tally.waste(streaming.offset);
            self.phase = Phase::Probing;
            self.web.lanes.clear();
            return;
        }
        if let Some(work) = self.web.lanes.remove(&lane) {
            self.tally.waste(work.cursor.unfinished());
            if let Some(picker) = &mut self.picker {
                picker.release_all(work.source);
            }
        }
    }

    /// The file on the server is not the one we began with.
    fn on_changed(&mut self, a: &mut Around<'_>) {
        if self.metainfo.is_some() {
            return self.drop_web("the origin's file is not the one asked for any more", a);
        }
        a.ev.push(JobEvent::Log(
            Level::Warn,
            "the file changed on the server; starting again".to_string(),
        ));
        self.tally.discard();
        self.assembly.clear();
        self.verifier.restart();
        self.web.lanes.clear();
        a.storage.restart();
        self.picker = None;
        self.phase = Phase::Probing;
    }

    /// Nobody else can have it: give up at once if no URL is left, and soon if none ever answered.
    fn on_unavailable(
        &mut self,
        failure: Failure,
        is_final: bool,
        failures: u32,
        a: &mut Around<'_>,
    ) {
        let never = !self.tally.any_arrived && failures >= FIRST_TRIES;
        if self.is_alone(a) && (is_final || never) {
            return self.fail(failure, a);
        }
        if self.web.failure.is_none() {
            let text = if is_final {
                failure.to_string()
            } else {
                format!("{}: {}; trying again", failure.what, failure.why)
            };
            a.ev.push(JobEvent::Log(Level::Warn, text));
        }
        self.web.failure = Some(failure);
    }

    /// Bytes of a cache or of the origin did not match the tree.
    pub fn blame_web(&mut self, source: SourceId, a: &mut Around<'_>) {
        if is_cache(source) {
            let lane = lane_of(source);
            if let Some(web) = &mut self.web.source {
                web.blame(a.now, lane, &mut self.web.said);
            }
            return;
        }
        self.web.blames += 1;
        if self.web.blames >= WEB_BLAMES_MAX {
            self.drop_web("its bytes do not match the hashes of the file asked for", a);
        }
    }

    fn drop_web(&mut self, why: &str, a: &mut Around<'_>) {
        let what = match self.request.urls.first() {
            Some(url) => format!("cannot use {url}"),
            None => "cannot use the origin".to_string(),
        };
        let failure = Failure::new(crate::failure::FailureKind::Mismatch, what, why.to_string())
            .remedy("publish the file again if it has changed");
        a.ev.push(JobEvent::Log(Level::Warn, failure.to_string()));
        self.leave_web(a);
        self.web.failure = Some(failure);
        if self.is_alone(a) {
            self.give_up(a);
        }
    }

    /// Give up what the lanes are on, and their connections.
    pub(super) fn drop_lanes(&mut self, a: &mut Around<'_>) {
        let lanes: Vec<Lane> = self.web.lanes.keys().copied().collect();
        for lane in lanes {
            self.on_lane_done(lane, false, a);
        }
        self.web.close(a.fx);
    }

    pub(super) fn leave_web(&mut self, a: &mut Around<'_>) {
        self.drop_lanes(a);
        self.web.source = None;
    }

    /// Without the origin there is nobody to hope for.
    fn is_alone(&self, a: &Around<'_>) -> bool {
        a.sessions.is_empty() && (self.metainfo.is_none() || !self.may_meet)
    }

    /// Bytes of a stream without length are on disk.
    pub(super) fn on_written_at(&mut self, len: u64, a: &mut Around<'_>) {
        let Phase::Streaming(streaming) = &mut self.phase else {
            return;
        };
        streaming.unwritten -= len.min(streaming.unwritten);
        if !streaming.ended || streaming.unwritten > 0 {
            return;
        }
        match Geometry::for_length(streaming.offset) {
            Ok(geometry) => {
                self.web.lanes.clear();
                self.tally.received.add(streaming.from, geometry.length());
                self.picker = Some(crate::picker::Picker::new(geometry, false, &mut self.rng));
                if let Some(picker) = &mut self.picker {
                    (0..geometry.pieces()).for_each(|piece| drop(picker.verified(piece)));
                }
                self.phase = Phase::Running;
            }
            Err(error) => self.drop_web(&error.to_string(), a),
        }
    }

    // --- asking

    pub(super) fn top_up_web(&mut self, a: &mut Around<'_>) {
        if self.web.source.is_none() || !self.web.is_allowed(a.now.mono) {
            return;
        }
        let cap = self.cap_bytes_per_s(a);
        if let Some(web) = &mut self.web.source {
            web.set_rate_cap(cap);
        }
        self.give_credit(a);
        if self.is_running() {
            self.leave_silent_lanes(a);
            self.shorten_lanes(a);
            if self.is_resting(a.now.mono, a.sessions) {
                return self.sync_claims(a);
            }
        }
        while let Some(idle) = self.web.source.as_mut().and_then(|s| s.idle_lane(a.now)) {
            let Some(range) = self.find_work(idle, a) else {
                break;
            };
            let (lane, source) = (idle.lane, source_of(idle));
            if idle.cached {
                self.tally.know(source, SourceClass::Cache);
            }
            let work = Work {
                source,
                cursor: Cursor::at(range.start),
                end: range.end,
                heard: a.now.mono,
            };
            self.web.lanes.insert(lane, work);
            self.web.last_fetch = Some(a.now.mono);
            let end = (range.end != u64::MAX).then_some(range.end);
            if let Some(source) = &mut self.web.source {
                source.fetch(a.now, lane, range.start, end, a.fx, &mut self.web.said);
            }
        }
        self.sync_claims(a);
    }

    /// What the web source said while it was being asked; true if there was something.
    pub(super) fn settle_said(&mut self, a: &mut Around<'_>) -> bool {
        let said = core::mem::take(&mut self.web.said);
        let some = !said.is_empty();
        self.settle_web(said, a);
        some
    }

    /// Let lanes read on as far as memory and the rate limit allow.
    fn give_credit(&mut self, a: &mut Around<'_>) {
        let full = match (&self.phase, &self.picker) {
            (Phase::Streaming(s), _) => s.unwritten >= OPEN_BYTES_MAX,
            (_, Some(picker)) => picker.open_bytes() >= OPEN_BYTES_MAX,
            _ => false,
        };
        if full {
            return;
        }
        while let Some((lane, len)) = self.web.owed.front().copied() {
            if self.allowance(SourceClass::Origin, a) == 0 {
                return;
            }
            self.web.owed.pop_front();
            self.pay(SourceClass::Origin, len as u64, a);
            if let Some(source) = &mut self.web.source {
                source.consumed(a.now, lane, len, a.fx);
            }
        }
    }

    fn find_work(&mut self, idle: LaneFor, a: &mut Around<'_>) -> Option<Range<u64>> {
        if self.picker.is_none() {
            return (matches!(self.phase, Phase::Probing) && self.web.lanes.is_empty())
                .then_some(0..u64::MAX);
        }
        let reach = self.http_reach(a.now.mono, a.sessions)?;
        let pieces = self.span_pieces(a.now, idle.lane, a.sessions);
        let alone = pieces == u32::MAX;
        let picker = self
            .picker
            .as_mut()
            .filter(|p| p.open_bytes() < OPEN_BYTES_MAX)?;
        let source = source_of(idle);
        if let Some(run) = picker.pick_rest(source, reach) {
            return Some(picker.geometry().run_range(run));
        }
        let geometry = *picker.geometry();
        let bytes = |span: Range<u32>| {
            geometry.piece_offset(span.start)
                ..geometry.piece_offset(span.end).min(geometry.length())
        };
        if let Some(span) = picker.pick_span(source, self.web.next, pieces, reach) {
            self.web.next = span.end;
            return Some(bytes(span));
        }
        let slow = |other| {
            let peer = a.sessions.get(&other);
            peer.is_some_and(|s| s.owes_for(a.now.mono, SLOW_ANSWER))
        };
        if let Some(run) = picker.pick_slow(source, reach, slow) {
            return Some(geometry.run_range(run));
        }
        if !alone {
            return None;
        }
        self.steal_half(a)?;
        self.picker
            .as_mut()?
            .pick_span(source, NOWHERE, u32::MAX, reach)
            .map(bytes)
    }

    /// Pieces a lane takes at once: all there is when alone, else about half a second's worth, so that the
    /// neighbours get theirs from each other early.
    fn span_pieces(&mut self, now: Now, lane: Lane, sessions: &Sessions) -> u32 {
        if !sessions.values().any(|s| s.is_open()) {
            return u32::MAX;
        }
        let rate = self
            .web
            .source
            .as_mut()
            .map_or(0, |s| s.rate_bytes_per_s(now, lane));
        let piece = self
            .picker
            .as_ref()
            .map_or(1, |p| p.geometry().piece_length());
        u32::try_from(rate / 2 / u64::from(piece))
            .unwrap_or(u32::MAX)
            .clamp(1, SPAN_PIECES_MAX)
    }

    /// Free the second half of the longest span, for a lane that has nothing to do.
    fn steal_half(&mut self, a: &mut Around<'_>) -> Option<()> {
        let geometry = *self.picker.as_ref()?.geometry();
        let left = |w: &Work| w.end.saturating_sub(w.cursor.end());
        let (lane, work) = self.web.lanes.iter().max_by_key(|(_, w)| left(w))?;
        let lane = *lane;
        if left(work) < STEAL_BYTES_MIN.max(2 * u64::from(geometry.piece_length())) {
            return None;
        }
        let middle = work.cursor.end() + left(work) / 2;
        self.cut_lane(
            lane,
            middle.div_ceil(geometry.piece_length().into()) as u32,
            a,
        );
        Some(())
    }

    /// The lane fetches nothing from this piece on.
    fn cut_lane(&mut self, lane: Lane, end_piece: u32, a: &mut Around<'_>) {
        let Some(picker) = &mut self.picker else {
            return;
        };
        let Some(work) = self.web.lanes.get_mut(&lane) else {
            return;
        };
        let geometry = *picker.geometry();
        let end = geometry.piece_offset(end_piece);
        if end < work.end {
            let old = work.end.div_ceil(geometry.piece_length().into()) as u32;
            picker.release_span(work.source, end_piece..old);
            work.end = end;
            if let Some(source) = &mut self.web.source {
                source.shrink(lane, end, a.fx, &mut self.web.said);
            }
        }
    }

    /// With peers around no lane keeps a long span to itself, and none stays at the origin when a cache can be asked.
    fn shorten_lanes(&mut self, a: &mut Around<'_>) {
        let Some(geometry) = self.picker.as_ref().map(|p| *p.geometry()) else {
            return;
        };
        let web = self.web.source.as_ref();
        let back = web.is_some_and(|web| web.can_ask_cache(a.now));
        let lanes: Vec<(Lane, u64, bool)> = self
            .web
            .lanes
            .iter()
            .map(|(l, w)| (*l, w.cursor.end(), back && !is_cache(w.source)))
            .collect();
        for (lane, at, leaves) in lanes {
            let keep = if leaves {
                1
            } else {
                self.span_pieces(a.now, lane, a.sessions)
            };
            let next = at.div_ceil(geometry.piece_length().into()) as u32;
            if let Some(end) = next.checked_add(keep) {
                self.cut_lane(lane, end, a);
            }
        }
    }

    /// A lane that says nothing gives up its pieces, if peers have any of them: they need not wait for the
    /// origin's own time-outs.
    fn leave_silent_lanes(&mut self, a: &mut Around<'_>) {
        let Some(picker) = &self.picker else { return };
        let length = u64::from(picker.geometry().piece_length());
        let held = |w: &Work| {
            let pieces = (w.cursor.end() / length) as u32..w.end.div_ceil(length) as u32;
            pieces.into_iter().any(|piece| {
                a.sessions
                    .iter()
                    .any(|(id, s)| s.is_open() && !s.is_stalled() && !picker.peer_lacks(*id, piece))
            })
        };
        let owed = |lane: &Lane| self.web.owed.iter().any(|(l, _)| l == lane);
        let silent: Vec<Lane> = self
            .web
            .lanes
            .iter()
            .filter(|(lane, w)| w.heard + LANE_SILENT <= a.now.mono && !owed(lane) && held(w))
            .map(|(lane, _)| *lane)
            .collect();
        for lane in silent {
            if let Some(source) = &mut self.web.source {
                source.cancel(lane, a.fx);
            }
            self.on_lane_done(lane, false, a);
            let rest = LANE_SILENT * 2_u32.saturating_pow(self.web.silences.min(4));
            self.web.silences += 1;
            self.web.rests_until = Some(a.now.mono + rest);
        }
    }

    /// The origin was silent, and there are peers to ask instead.
    fn is_resting(&self, now: Mono, sessions: &Sessions) -> bool {
        self.web.rests_until.is_some_and(|until| until > now)
            && sessions.iter().any(|(id, s)| {
                s.is_open() && !s.is_stalled() && self.picker.as_ref().is_some_and(|p| p.wants(*id))
            })
    }

    /// Tell the neighbours what the lanes are on, and what they are no longer on.
    fn sync_claims(&mut self, a: &mut Around<'_>) {
        let Some(picker) = &self.picker else { return };
        if self.metainfo.is_none() {
            return;
        }
        let working = self.web.pieces(picker.geometry());
        let off: Vec<u32> = self
            .claimed
            .iter()
            .copied()
            .filter(|p| !working.contains(p) && picker.is_free(*p))
            .collect();
        let on: Vec<u32> = working
            .into_iter()
            .filter(|p| !self.claimed.contains(p))
            .collect();
        self.claimed.retain(|p| !off.contains(p));
        self.claimed.extend(&on);
        for (pieces, on) in [(off, false), (on, true)] {
            if !pieces.is_empty() {
                a.ev.push(JobEvent::Claim { pieces, on });
            }
        }
    }
}

/// No piece to go on from: the picker chooses.
const NOWHERE: u32 = u32::MAX;

/// Pieces claimed at a time: more than a fetcher's lanes reach in a second.
const CLAIMS_MAX: usize = 64;

/// Pieces a lane takes at once when there are peers.
const SPAN_PIECES_MAX: u32 = 16;

/// What a peer has owed for so long, an idle lane fetches too.
const SLOW_ANSWER: Duration = Duration::from_secs(2);

/// How long a lane may say nothing while peers have what it is to fetch.
const LANE_SILENT: Duration = Duration::from_secs(4);

/// Attempts at a server that has never answered, when there are no peers to hope for.
const FIRST_TRIES: u32 = 4;

/// A remainder worth a request of its own.
const STEAL_BYTES_MIN: u64 = 4 * 1024 * 1024;
