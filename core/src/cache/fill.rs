//! The slices an object lacks, from its origin: soonest needed first, over as many connections as are worth having.
//!
//! Decides which run of slices a lane asks for, when the origin is held back, and when there is no point in going on.

use super::object::{Object, SLICE, slice_of, start_of};
use super::orders::Orders;
use super::probe::Reach;
use crate::http::{BegunAnswer, Connection, Known, Lane, Tiers, WebConfig, WebEvent, WebSource};
use crate::ids::StreamId;
use crate::limits::{CACHE_RUN_SLICES, WEB_CONNECTIONS_MAX};
use crate::machine::{Effects, Input};
use crate::rng::Rng;
use crate::time::{Deadline, Mono, Now};
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::Range;

#[derive(Debug, Default)]
pub(super) struct Fill {
    web: Option<WebSource>,
    /// For a fetch that begins now.
    pub spare: Option<Spare>,
    /// What each lane was asked for, and how much of it waits to be consumed.
    lanes: BTreeMap<Lane, Run>,
    held: BTreeMap<Lane, usize>,
    /// After it came to nothing.
    rest_until: Mono,
    events: Vec<WebEvent>,
}

/// What the probe has left over.
#[derive(Debug)]
pub(super) enum Spare {
    /// A connection on which something can be asked.
    Idle(Connection),
    /// An answer that has begun.
    Answer(BegunAnswer),
}

#[derive(Clone, Debug)]
struct Run {
    slices: Range<u32>,
}

/// What an object may have of what all share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    /// Slices in memory, arriving or not yet stored; past it the origin is held back.
    pub slices: usize,
    /// A fill, if it has none yet.
    pub may_begin: bool,
}

/// How a fill goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Filling {
    Going,
    /// The origin has another version now.
    Changed,
    /// The origin gives nothing; readers that need something of it cannot go on.
    Failed(String),
}

impl Fill {
    pub(super) const fn takes_connection(&self) -> bool {
        self.web.is_none() && self.spare.is_none()
    }

    /// Nothing is fetched after all.
    pub(super) fn close_spare(&mut self, fx: &mut Effects) {
        if let Some(mut spare) = self.spare.take() {
            spare.connection().close(fx);
        }
    }

    pub(super) const fn is_active(&self) -> bool {
        self.web.is_some()
    }

    pub(super) fn owns(&self, stream: StreamId) -> bool {
        self.web.as_ref().is_some_and(|web| web.owns(stream))
    }

    pub(super) fn deadline(&self, now: Mono) -> Option<Deadline> {
        self.web.as_ref()?.deadline(now)
    }

    pub(super) fn rests(&self, now: Mono) -> bool {
        now < self.rest_until
    }
}

impl Spare {
    pub(super) const fn connection(&mut self) -> &mut Connection {
        match self {
            Self::Idle(connection) => connection,
            Self::Answer(answer) => &mut answer.connection,
        }
    }
}

impl Object {
    /// An input for the fill; what came of it is taken up by [`Self::go_on`].
    pub(super) fn on_web_input(&mut self, now: Now, input: &Input, orders: &mut Orders) {
        orders.fx.owner = self.id;
        let Some(web) = &mut self.fill.web else {
            return;
        };
        if matches!(input, Input::Tick) {
            web.on_tick(now, &mut orders.fx, &mut self.fill.events);
        } else {
            web.on_input(now, input, &mut orders.fx, &mut self.fill.events);
        }
    }

    /// Take up what arrived; how many bytes it were.
    pub(super) fn take_up(&mut self, now: Now, orders: &mut Orders) -> (Filling, u64) {
        let mut received = 0;
        let mut filling = Filling::Going;
        for event in core::mem::take(&mut self.fill.events) {
            match event {
                WebEvent::Facts { ranges, .. } => self.ranges = ranges && !self.is_unproved(),
                WebEvent::Bytes {
                    lane,
                    offset,
                    bytes,
                } => {
                    received += bytes.len() as u64;
                    *self.fill.held.entry(lane).or_default() += bytes.len();
                    self.on_fill_bytes(offset, bytes);
                }
                WebEvent::Failed { why, .. } if self.is_unproved() && !self.is_whole() => {
                    filling = Filling::Failed(why);
                }
                WebEvent::Finished { lane } | WebEvent::Failed { lane, .. } => {
                    self.fill.lanes.remove(&lane);
                }
                WebEvent::Changed { .. } => {
                    self.fill.lanes.clear();
                    filling = Filling::Changed;
                }
                WebEvent::Unavailable {
                    failure,
                    retry_at,
                    failures,
                } if filling == Filling::Going
                    && (retry_at.is_none() || failures >= FAILURES_MAX) =>
                {
                    filling = Filling::Failed(failure.to_string());
                }
                WebEvent::Unavailable { .. } | WebEvent::Banned(_) | WebEvent::Notice(_) => {}
            }
        }
        if filling != Filling::Going {
            self.fill.rest_until = now.mono + REST;
            self.end_fill(orders);
        }
        (filling, received)
    }

    fn on_fill_bytes(&mut self, mut offset: u64, mut bytes: Bytes) {
        while !bytes.is_empty() && offset < self.length {
            let slice = slice_of(offset);
            let room = usize::try_from(start_of(slice) + SLICE - offset).unwrap_or(usize::MAX);
            let part = bytes.split_to(bytes.len().min(room));
            let len = part.len() as u64;
            self.arrive(slice, offset - start_of(slice), part);
            offset += len;
        }
    }

    /// Something is to be taken up.
    pub(super) const fn has_news(&self) -> bool {
        !self.fill.events.is_empty()
    }

    /// Ask for more, as long as somebody needs it. True if that has to wait until fewer others do.
    pub(super) fn go_on(
        &mut self,
        now: Now,
        reach: &Reach,
        share: Share,
        rng: &mut Rng,
        orders: &mut Orders,
    ) -> bool {
        if self.readers.is_empty() || self.dead && self.fill.web.is_none() {
            self.end_fill(orders);
            return false;
        }
        orders.fx.owner = self.id;
        let begun = !self.is_empty() && self.fill.web.is_none();
        self.dead |= begun && self.is_unproved() && !self.is_whole();
        if self.dead && self.fill.web.is_none() {
            return false;
        }
        self.release(now, share, orders);
        loop {
            if let Some(web) = &mut self.fill.web
                && web.idle_lane(now).is_none()
            {
                return false;
            }
            let Some((run, urgent)) = self.next_run() else {
                return false;
            };
            if self.fill.rests(now.mono) || (self.is_full(share) && !urgent) {
                return false;
            }
            if self.fill.web.is_none() && !share.may_begin {
                return true;
            }
            let known = Known {
                length: Some(self.length),
                validator: self.validator.clone(),
                url: self.at.clone(),
            };
            let url = self.url.clone();
            let spare = self.fill.spare.take();
            let spare = spare.and_then(|spare| self.fitting(spare, run.start, orders));
            let web = self.fill.web.get_or_insert_with(|| {
                let config = WebConfig {
                    urls: alloc::vec![url],
                    proxies: reach.proxies.clone(),
                    tiers: Tiers::default(),
                    max_connections: WEB_CONNECTIONS_MAX,
                    expect: Some(known),
                    verified: false,
                };
                let mut web = WebSource::new(config, rng.fork());
                web.set_gate(reach.gate.clone());
                web
            });
            match spare {
                Some(Spare::Idle(connection)) => web.adopt(connection),
                Some(Spare::Answer(answer)) => {
                    let end = answer.end.min(self.length);
                    let slices = run.start..slice_of(end.saturating_sub(1)) + 1;
                    let (fx, events) = (&mut orders.fx, &mut self.fill.events);
                    let lane = web.take_over(now, answer, fx, events);
                    self.fill.lanes.insert(lane, Run { slices });
                    continue;
                }
                None => {}
            }
            let Some(lane) = web.idle_lane(now).map(|idle| idle.lane) else {
                return false;
            };
            let begun = self.memory.get(&run.start).map_or(0, |a| a.len);
            let start = start_of(run.start) + u64::from(begun);
            let end = self.ranges.then(|| start_of(run.end).min(self.length));
            self.fill.lanes.insert(lane, Run { slices: run });
            web.fetch(now, lane, start, end, &mut orders.fx, &mut self.fill.events);
        }
    }

    /// An answer that has begun is of use if it brings what is needed first; else it is closed.
    fn fitting(&self, mut spare: Spare, first: u32, orders: &mut Orders) -> Option<Spare> {
        if let Spare::Answer(answer) = &spare {
            let is_all = answer.start == 0 && answer.end >= self.length;
            let begins = answer.start == start_of(first);
            if !begins || self.is_unproved() && !is_all {
                spare.connection().close(&mut orders.fx);
                return None;
            }
        }
        Some(spare)
    }

    /// The run of slices to be asked for next, and whether somebody waits for it now.
    fn next_run(&self) -> Option<(Range<u32>, bool)> {
        if self.is_unproved() {
            let first = self.fill.lanes.is_empty() && !self.is_whole();
            return first.then(|| (0..self.slices(), true));
        }
        let mut best: Option<(u32, u32, u32)> = None;
        for left in self.readers.values().filter(|left| !left.is_empty()) {
            let (first, last) = (slice_of(left.start), slice_of(left.end - 1));
            let horizon = if self.thin { last.min(first + 1) } else { last };
            let Some(slice) = self.first_open(first, horizon) else {
                continue;
            };
            let distance = slice - first;
            match best {
                Some((least, start, end)) if start == slice => {
                    best = Some((least.min(distance), start, end.max(horizon + 1)));
                }
                Some((least, ..)) if least <= distance => {}
                _ => best = Some((distance, slice, horizon + 1)),
            }
        }
        let (distance, start, end) = best?;
        if !self.ranges {
            return Some((start..self.slices(), distance == 0));
        }
        let longest = if self.thin { 1 } else { CACHE_RUN_SLICES };
        let end = end.min(start.saturating_add(longest));
        let hole = self.absent.get(&start).map_or(end, |hole| hole.end);
        let claimed = self.fill.lanes.values().map(|run| run.slices.start);
        let claimed = claimed.filter(|at| *at > start).min().unwrap_or(end);
        Some((start..end.min(hole).min(claimed), distance == 0))
    }

    /// The first slice from `first` to `last` that is absent and not asked for.
    fn first_open(&self, first: u32, last: u32) -> Option<u32> {
        let mut at = first;
        loop {
            let hole = self.absent.overlapping(at..last + 1).next()?;
            at = at.max(hole.start);
            let mut runs = self.fill.lanes.values();
            match runs.find(|run| run.slices.contains(&at)) {
                Some(run) => at = run.slices.end,
                None => return Some(at),
            }
            if at > last {
                return None;
            }
        }
    }

    fn is_full(&self, share: Share) -> bool {
        self.memory.len() >= share.slices
    }

    /// Let the origin send as much again as was dealt with.
    fn release(&mut self, now: Now, share: Share, orders: &mut Orders) {
        let full = self.is_full(share);
        // A lane that brings what somebody waits for must not be held back by slices that wait for it.
        let waited: Vec<u32> = self
            .readers
            .values()
            .map(|left| slice_of(left.start))
            .collect();
        let Some(web) = &mut self.fill.web else {
            return self.fill.held.clear();
        };
        for (lane, held) in &mut self.fill.held {
            let at = web.position(*lane).map(|(next, _)| slice_of(next));
            if !full || at.is_some_and(|at| waited.contains(&at)) {
                web.consumed(now, *lane, core::mem::take(held), &mut orders.fx);
            }
        }
    }

    pub(super) fn end_fill(&mut self, orders: &mut Orders) {
        // The rest might be of another version.
        self.dead |= self.fill.web.is_some() && self.is_unproved() && !self.is_whole();
        if let Some(mut web) = self.fill.web.take() {
            web.close(&mut orders.fx);
        }
        self.fill.lanes.clear();
        self.fill.held.clear();
        self.fill.events.clear();
    }
}

/// Failures in a row of an origin before readers are told.
const FAILURES_MAX: u32 = 3;
/// How long nothing is asked of it then: less than a client that tries again waits.
const REST: core::time::Duration = core::time::Duration::from_secs(2);
