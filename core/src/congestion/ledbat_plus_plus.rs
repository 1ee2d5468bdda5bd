//! LEDBAT++ with the changes that make it yield on short buffers too.
//!
//! From the draft: round trips instead of one-way delays, a gain below Reno's on short paths, the modified slow start,
//! additive increase below the target and multiplicative decrease above it, slowdowns.
//! Otherwise than the draft, each with its measurement in `docs/yielding.md`:
//! - the **target** is three quarters of the base round trip within 1 and 8 ms (60 ms there): behind a buffer of
//!   100 ms the draft's leaves a foreground flow 62 % of the line, this one 98 %. Jitter raises it, to 60 ms at most: what
//!   slowdowns see of it;
//! - on a slow and short line, whose round trip has room for [`SHORT_SEGMENTS`] packets at most, the target is no shorter than
//!   [`TARGET_SEGMENTS`] take there: our own floor is no queue to yield to;
//! - the **queue** is what a pair of packets sees above what it takes on an empty path; the base may be that of a packet that is hardly one
//!   ([`PAIR_SEGMENTS`]);
//! - the **base** does not age. It is given up on evidence only ([`EXPIRY`]), and may come from another flow;
//! - the window also shrinks **below the target**, less the emptier the queue is ([`DECREASE_DIVISOR`]): with a sharp edge, bases that
//!   differ by a packet's time leave one flow twice the share of another;
//! - a queue that is long beyond doubt begins a slowdown at once ([`STARTLING_TARGETS`]);
//! - a slowdown that would tell nothing new is left out, if the path was seen empty since the last one;
//! - after a timeout the slow start goes to ten segments at least.

use super::delay::{Jitter, Recent, Smoothed};
use super::{Ack, RTT_MAX_US, Window};
use crate::time::Mono;
use core::time::Duration;

const TARGET_MIN_US: u64 = 1_000;
const TARGET_MAX_US: u64 = 8_000;
/// Two segments are the floor.
const TARGET_SEGMENTS: u64 = 3;
/// A round trip that has room for more is no short line: ...
const SHORT_SEGMENTS: u64 = 6;
/// ... there packets raise the target so far and no further.
const TARGET_FOR_PACKETS_MAX_US: u64 = 12_000;
/// Receivers acknowledge every second segment, and so a pair takes longer than the handshake has by what it takes to send. A flow
/// whose handshake met with an empty path would see that much more of a queue than one that came later, and leave it the line.
const PAIR_SEGMENTS: u64 = 2;
/// ... at most this part of the target: a pair, too, may never have seen the path empty.
const PAIR_TARGET_DIVISOR: u64 = 4;
/// A rate is measured over so long.
const RATE_SPAN: Duration = Duration::from_millis(200);
/// The draft's own target: as far as ours can be raised.
const TARGET_RAISED_MAX_US: u64 = 60_000;
/// No flow grows slower than this part of Reno. (The draft has 16: a queue of 60 ms on a LAN. Ours is of 1 ms there, and
/// a segment more in a round trip is nothing to it.)
const GAIN_DIVISOR_MAX: u64 = 4;
/// ... and no slow start slower than this part.
const RAMP_DIVISOR_MAX: u64 = 2;
/// At the target a window loses one over this in a round trip.
const DECREASE_DIVISOR: i128 = 20;
/// A slowdown lasts so many round trips, and no shorter one counts: else slowdowns would follow each other closely.
const SLOWDOWN_ROUND_TRIPS: u64 = 2;
/// Time between slowdowns, in their own length. The draft has 9; 19 costs half as much and is as fair.
const SLOWDOWN_EVERY: u64 = 19;
/// ... but no less than this: a LAN's round trips are so short that slowdowns would follow each other all the time.
const SLOWDOWN_WAIT_MIN: Duration = Duration::from_millis(500);
/// A queue of so many targets, and no shorter than this, is somebody else's: a slowdown begins at once. (What jitter adds
/// to the target counts once: were it somebody's queue, a queue of four such would not fit into many a buffer.) By halves, one in each
/// of round trips that have become long, the flow would need half a second to be out of the way.
const STARTLING_TARGETS: u64 = 4;
const STARTLING_MIN_US: u64 = 20_000;
/// Jitter is watched until a slow start has so many segments: they make no queue of their own.
const JITTER_SEGMENTS: u64 = 4;
/// Segments that slow start reaches after a timeout: repeated ones would bring it down to nothing.
const SSTHRESH_SEGMENTS: u64 = 10;
/// After so long without news the window says nothing about the path.
const IDLE: Duration = Duration::from_secs(10);
/// The base is given up when, for so long and over two slowdowns, a flow that had shrunk to its floor, or to half of what
/// the line has carried, has seen no round trip near it, and what it has seen stays the same: a longer route does,
/// somebody's queue does not.
const EXPIRY: Duration = Duration::from_secs(30);
/// ... or for so long, whatever it was (the draft's history): on a path with jitter a longer route would never be found.
const EXPIRY_ANYHOW: Duration = Duration::from_secs(600);

#[derive(Clone, Debug)]
pub struct LedbatPlusPlus {
    window: Window,
    state: State,
    /// The first slow start also ends where the queue grows.
    is_first_start: bool,
    ssthresh_bytes: u64,
    base_us: Option<u64>,
    /// The shortest round trip of a pair of segments, or more.
    pair_us: Option<u64>,
    recent: Recent,
    smoothed: Smoothed,
    reduced_at: Option<Mono>,
    heard_at: Option<Mono>,
    /// The one that lasts, or was last.
    slowdown: Slowdown,
    /// The path was seen empty since the last slowdown.
    was_empty: bool,
    jitter: Jitter,
    fastest: Fastest,
    doubt: Option<Doubt>,
}

/// Why a flow slows down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slowdown {
    /// It was time.
    Due,
    /// Somebody's queue has become long: what is seen meanwhile is no jitter.
    Startled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Slow start, up to `ssthresh_bytes`; `since` is the beginning of the slowdown it ends, if it ends one.
    Ramp {
        since: Option<Mono>,
    },
    Avoidance {
        slowdown_at: Mono,
    },
    /// At the floor until `until`, so that the queue drains.
    Slowdown {
        since: Mono,
        until: Mono,
    },
}

/// Since when no round trip near the base was seen, the shortest of them and the longest of what is left of each round
/// trip, and slowdowns meanwhile.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    since: Mono,
    shortest_us: u64,
    longest_us: u64,
    slowdowns: u32,
}

impl LedbatPlusPlus {
    pub fn new(segment_bytes: u32, remembered_base_us: Option<u64>) -> Self {
        Self {
            window: Window::new(segment_bytes),
            state: State::Ramp { since: None },
            is_first_start: true,
            ssthresh_bytes: u64::MAX,
            base_us: remembered_base_us.map(|us| us.clamp(1, RTT_MAX_US)),
            pair_us: None,
            recent: Recent::default(),
            smoothed: Smoothed::default(),
            reduced_at: None,
            heard_at: None,
            slowdown: Slowdown::Due,
            was_empty: false,
            jitter: Jitter::default(),
            fastest: Fastest::default(),
            doubt: None,
        }
    }

    pub fn on_ack(&mut self, now: Mono, ack: Ack) {
        if self.heard_at.is_some_and(|at| now >= at + IDLE) {
            self.start_anew();
        }
        self.heard_at = Some(now);
        self.fastest.add(now, ack.bytes);
        self.measure(now, ack);
        match self.state {
            State::Slowdown { .. } => self.slow_down(now, ack),
            State::Avoidance { slowdown_at } if now >= slowdown_at => self.on_slowdown_due(now),
            State::Avoidance { .. } if self.is_startling() => {
                self.begin_slowdown(now, Slowdown::Startled);
            }
            State::Avoidance { .. } => self.avoid(ack),
            State::Ramp { since } => self.ramp(now, since, ack),
        }
    }

    pub fn on_loss(&mut self, now: Mono) {
        let is_counted = self.reduced_at.is_some_and(|at| now < at + self.rtt());
        if is_counted || matches!(self.state, State::Slowdown { .. }) {
            return;
        }
        self.reduced_at = Some(now);
        self.window.halve();
        if let State::Ramp { since } = self.state {
            self.enter_avoidance(now, since);
        }
    }

    pub fn on_timeout(&mut self, now: Mono) {
        let least = SSTHRESH_SEGMENTS * self.window.segment_bytes;
        self.ssthresh_bytes = (self.window.bytes() / 2).max(least);
        self.window.set_bytes(0);
        self.state = State::Ramp { since: Some(now) };
    }

    /// Slowdowns of flows that share a path show more, and cost no more, if they come together: take ours now if
    /// half of the time to it is over.
    pub fn join_slowdown(&mut self, now: Mono, slowdown: Slowdown) {
        let State::Avoidance { slowdown_at } = self.state else {
            return;
        };
        let left = slowdown_at.since(now);
        let usual = self.rtt() * (SLOWDOWN_ROUND_TRIPS * SLOWDOWN_EVERY) as u32;
        if left <= usual.max(SLOWDOWN_WAIT_MIN) / 2 {
            self.begin_slowdown(now, slowdown);
        }
    }

    pub const fn slowdown(&self) -> Option<Slowdown> {
        match self.state {
            State::Slowdown { .. } => Some(self.slowdown),
            State::Ramp { .. } | State::Avoidance { .. } => None,
        }
    }

    pub const fn window_bytes(&self) -> u64 {
        self.window.bytes()
    }

    pub const fn floor_bytes(&self) -> u64 {
        self.window.floor_bytes()
    }

    pub const fn base_rtt_us(&self) -> Option<u64> {
        self.base_us
    }

    pub fn learn_base(&mut self, base_us: u64) {
        let base_us = base_us.clamp(1, RTT_MAX_US);
        self.base_us = Some(self.base_us.map_or(base_us, |own| own.min(base_us)));
    }

    /// The path has become longer: this flow has found out, or others have.
    pub fn replace_base(&mut self, base_us: u64) {
        self.base_us = Some(base_us.clamp(1, RTT_MAX_US));
        self.pair_us = None;
        self.doubt = None;
    }

    pub fn queue_us(&self) -> u64 {
        let recent = self.recent.min_us().zip(self.base_us);
        recent.map_or(0, |(recent, base)| {
            recent.saturating_sub(base + self.own_us())
        })
    }

    /// What a pair of our own packets takes longer than the base.
    fn own_us(&self) -> u64 {
        let seen = self.pair_us.zip(self.base_us);
        let seen_us = seen.map_or(0, |(pair, base)| pair.saturating_sub(base));
        let pair_us = self.packets_us(PAIR_SEGMENTS).unwrap_or(0);
        let most_us = self.plain_target_us() / PAIR_TARGET_DIVISOR;
        seen_us.min(pair_us).min(most_us)
    }

    /// How long the line takes for so many packets. The best rate that the flow has had stands for the line's.
    fn packets_us(&self, count: u64) -> Option<u64> {
        let bytes = count * self.window.segment_bytes;
        (bytes * 1_000_000).checked_div(self.fastest.bytes_per_s)
    }

    pub fn forget_queue(&mut self) {
        self.recent = Recent::default();
        self.doubt = None;
    }

    pub fn is_yielding(&self) -> bool {
        self.window.bytes() <= self.floor_bytes() * 3 / 2 && self.queue_us() > self.target_us()
    }

    /// The queue this flow lets stand.
    fn target_us(&self) -> u64 {
        let raised = self.jitter.range_us().max(self.target_for_packets_us());
        self.plain_target_us().max(raised.min(TARGET_RAISED_MAX_US))
    }

    /// ... by what packets take. A flow that came late has had little of the line, and must not take a path that somebody's queue
    /// makes long for a slow line.
    fn target_for_packets_us(&self) -> u64 {
        let target_us = self.packets_us(TARGET_SEGMENTS).unwrap_or(0);
        let is_short = self.packets_us(SHORT_SEGMENTS) >= self.base_us;
        if is_short {
            target_us
        } else {
            target_us.min(TARGET_FOR_PACKETS_MAX_US)
        }
    }

    fn is_startling(&self) -> bool {
        let plain_us = self.plain_target_us();
        let raised_us = self.target_us() - plain_us;
        let startling_us = (STARTLING_TARGETS * plain_us).max(STARTLING_MIN_US) + raised_us;
        let has_much = self.window.bytes() > 2 * self.floor_bytes();
        // Our own first slow start may have gone too far.
        self.queue_us() > startling_us && has_much && !self.is_slowdown_first()
    }

    /// ... by the length of the path alone.
    fn plain_target_us(&self) -> u64 {
        let base = self.base_us.unwrap_or(0);
        (base * 3 / 4).clamp(TARGET_MIN_US, TARGET_MAX_US)
    }

    /// The gain is one over this.
    fn gain_divisor(&self) -> u64 {
        let base = self.base_us.unwrap_or(1).max(1);
        let divisor = (2 * self.plain_target_us()).div_ceil(base);
        divisor.clamp(1, GAIN_DIVISOR_MAX)
    }

    fn rtt(&self) -> Duration {
        let us = self.smoothed.us().or(self.base_us).unwrap_or(100_000);
        Duration::from_micros(us)
    }

    fn measure(&mut self, now: Mono, ack: Ack) {
        let rtt_us = ack.rtt_us;
        self.smoothed.add(rtt_us);
        self.recent
            .add(now, rtt_us, self.smoothed.us().unwrap_or(rtt_us));
        self.learn_base(rtt_us);
        if ack.bytes >= PAIR_SEGMENTS * self.window.segment_bytes {
            self.pair_us = Some(self.pair_us.map_or(rtt_us, |least| least.min(rtt_us)));
        }
        let (base, target) = (self.base_us.unwrap_or(rtt_us), self.target_us());
        if rtt_us <= base + target / 10 {
            self.was_empty = true;
        }
        // A queue a little above the target leaves more than the floor.
        let line = self.fastest.bytes_per_s.saturating_mul(base) / 1_000_000;
        let small = (2 * self.floor_bytes()).max(line / 2);
        if rtt_us <= base + target || self.window.bytes() > small {
            self.doubt = None;
            return;
        }
        let doubt = self.doubt.get_or_insert(Doubt {
            since: now,
            shortest_us: rtt_us,
            longest_us: 0,
            slowdowns: 0,
        });
        let recent_us = self.recent.min_us().unwrap_or(rtt_us);
        doubt.shortest_us = doubt.shortest_us.min(rtt_us);
        doubt.longest_us = doubt.longest_us.max(recent_us);
        let is_steady = doubt.longest_us - doubt.shortest_us.min(doubt.longest_us) <= target;
        let expiry = if is_steady { EXPIRY } else { EXPIRY_ANYHOW };
        if doubt.slowdowns >= 2 && now >= doubt.since + expiry {
            let base_us = doubt.shortest_us;
            self.replace_base(base_us);
            self.recent = Recent::default();
            self.recent.add(now, rtt_us, rtt_us);
        }
    }

    // --- slow start

    fn ramp(&mut self, now: Mono, since: Option<Mono>, ack: Ack) {
        let (queue, target) = (self.queue_us(), self.target_us());
        let is_long = if self.is_first_start {
            queue > target * 3 / 4
        } else {
            queue > target
        };
        if is_long || self.window.bytes() >= self.ssthresh_bytes {
            return self.enter_avoidance(now, since);
        }
        let is_small = self.window.bytes() <= JITTER_SEGMENTS * self.window.segment_bytes;
        if since.is_some() && is_small && !ack.may_be_late {
            self.jitter.add(ack.rtt_us);
        }
        if ack.is_window_limited {
            let more =
                ack.bytes.min(self.window.bytes()) / self.gain_divisor().min(RAMP_DIVISOR_MAX);
            let grown = self.window.bytes() + more.max(1);
            self.window.set_bytes(grown.min(self.ssthresh_bytes));
        }
    }

    /// The first slowdown comes two round trips after the first slow start; later ones in proportion to what the
    /// last one took.
    fn enter_avoidance(&mut self, now: Mono, since: Option<Mono>) {
        let least = self.rtt() * SLOWDOWN_ROUND_TRIPS as u32;
        let wait = match since {
            Some(since) => now.since(since).max(least) * SLOWDOWN_EVERY as u32,
            None => least,
        };
        let wait = if self.is_first_start {
            wait
        } else {
            wait.max(SLOWDOWN_WAIT_MIN)
        };
        match self.slowdown {
            Slowdown::Due => self.jitter.close(),
            Slowdown::Startled => self.jitter.forget(),
        }
        self.is_first_start = false;
        self.was_empty = false;
        self.state = State::Avoidance {
            slowdown_at: now + wait,
        };
    }

    // --- avoidance

    /// In a round trip the window grows by a segment and shrinks by a part of itself that goes with the cube of the queue, both
    /// over the gain's divisor; above the target it shrinks steeply. (Were there nothing below it, a flow whose base is longer
    /// by a packet's time would have far more of the line.)
    fn avoid(&mut self, ack: Ack) {
        let (queue, target) = (i128::from(self.queue_us()), i128::from(self.target_us()));
        let window = i128::from(self.window.bytes());
        let scaled = window * i128::from(Window::SCALE);
        let segment = match ack.is_window_limited {
            true => i128::from(self.window.segment_bytes * Window::SCALE),
            false => 0,
        };
        let below = scaled * queue.min(target).pow(3) / (target.pow(3) * DECREASE_DIVISOR);
        let above = scaled * (queue - target).max(0) / target;
        let change = (segment - below) / i128::from(self.gain_divisor()) - above;
        let per_round_trip = change.max(-scaled / 2);
        let bytes_max = match per_round_trip > 0 {
            true => 4 * window,
            false => window,
        };
        let bytes = i128::from(ack.bytes).min(bytes_max);
        self.window.change(per_round_trip * bytes / window);
    }

    // --- slowdowns

    fn on_slowdown_due(&mut self, now: Mono) {
        if self.was_empty && !self.is_slowdown_first() {
            self.was_empty = false;
            let wait = self.rtt() * (SLOWDOWN_ROUND_TRIPS * SLOWDOWN_EVERY) as u32;
            self.state = State::Avoidance {
                slowdown_at: now + wait,
            };
        } else {
            self.begin_slowdown(now, Slowdown::Due);
        }
    }

    /// Nothing was ever seen of the empty path but what the first packets have met.
    const fn is_slowdown_first(&self) -> bool {
        self.ssthresh_bytes == u64::MAX
    }

    fn begin_slowdown(&mut self, now: Mono, slowdown: Slowdown) {
        self.slowdown = slowdown;
        self.ssthresh_bytes = self.window.bytes();
        self.window.set_bytes(0);
        self.state = State::Slowdown {
            since: now,
            until: now + self.rtt() * SLOWDOWN_ROUND_TRIPS as u32,
        };
    }

    fn slow_down(&mut self, now: Mono, ack: Ack) {
        let State::Slowdown { since, until } = self.state else {
            return;
        };
        // A round trip later what is measured was sent after the cut: the path's own delay, or somebody's queue.
        if now >= since + Duration::from_micros(ack.rtt_us) && !ack.may_be_late {
            self.jitter.add(ack.rtt_us);
        }
        if now < until {
            return;
        }
        if let Some(doubt) = &mut self.doubt {
            doubt.slowdowns += 1;
        }
        self.state = State::Ramp { since: Some(since) };
    }

    fn start_anew(&mut self) {
        *self = Self {
            jitter: self.jitter,
            fastest: self.fastest,
            ..Self::new(self.window.segment_bytes as u32, self.base_us)
        };
    }
}

/// The best rate that the flow has had.
#[derive(Clone, Copy, Debug, Default)]
struct Fastest {
    bytes_per_s: u64,
    since: Mono,
    bytes: u64,
}

impl Fastest {
    fn add(&mut self, now: Mono, bytes: u64) {
        let span = now.since(self.since);
        if span >= RATE_SPAN {
            let span_us = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
            let rate = self.bytes.saturating_mul(1_000_000) / span_us;
            self.bytes_per_s = self.bytes_per_s.max(rate);
            (self.since, self.bytes) = (now, 0);
        }
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The target after half a minute on a path of 20 ms, where every other acknowledgement of a slowdown is kept back.
    fn target_where_acks_are_late(is_known: bool) -> u64 {
        let mut flow = LedbatPlusPlus::new(1448, None);
        for n in 0..6000 {
            let is_late = flow.slowdown().is_some() && n % 2 == 0;
            let ack = Ack {
                bytes: flow.window_bytes() / 4,
                rtt_us: match n {
                    0 => 20_000,
                    _ if is_late => 42_000,
                    _ => 24_000,
                },
                one_way_us: None,
                is_window_limited: true,
                may_be_late: is_late && is_known,
            };
            let now = Mono::from_us(n * 5_000);
            flow.on_ack(now, ack);
            if n == 100 {
                flow.on_loss(now);
            }
        }
        flow.target_us()
    }

    #[test]
    fn late_acknowledgements_are_no_jitter() {
        assert_eq!(target_where_acks_are_late(true), TARGET_MAX_US);
        assert!(target_where_acks_are_late(false) > 2 * TARGET_MAX_US);
    }

    /// The queue that a flow sees whose first packet, a small one, took so long, and whose pairs take 21 ms on an empty path of
    /// 20 Mbit/s, when they take 27.
    fn queue_where_the_first_took(first_us: u64) -> u64 {
        let mut flow = LedbatPlusPlus::new(1500, None);
        for n in 0..400 {
            let ack = Ack {
                bytes: if n == 0 { 100 } else { 3_000 },
                rtt_us: match n {
                    0 => first_us,
                    1..100 => 21_000,
                    _ => 27_000,
                },
                one_way_us: None,
                is_window_limited: true,
                may_be_late: false,
            };
            flow.on_ack(Mono::from_us(n * 1_200), ack);
        }
        flow.queue_us()
    }

    #[test]
    fn who_met_with_an_empty_path_first_sees_the_same_queue() {
        assert_eq!(queue_where_the_first_took(26_000), 6_000);
        assert_eq!(queue_where_the_first_took(20_000), 6_000);
        let in_doubt = queue_where_the_first_took(10_000);
        assert!(in_doubt >= 14_000, "a pair's time and no more: {in_doubt}");
    }

    /// The target on a path of 20 ms where, in slowdowns that were joined, delays were spread over 10 ms more.
    fn target_where_slowdowns_are_joined(slowdown: Slowdown) -> u64 {
        let mut rng = crate::rng::Rng::from_u64(1);
        let mut flow = LedbatPlusPlus::new(1448, Some(20_000));
        let mut joined = 0;
        for n in 0..6000 {
            let now = Mono::from_us(n * 5_000);
            let was_slow = flow.slowdown().is_some();
            flow.join_slowdown(now, slowdown);
            joined += u32::from(!was_slow && flow.slowdown().is_some());
            let more_us = if flow.slowdown().is_some() {
                rng.below(10_000)
            } else {
                0
            };
            let ack = Ack {
                bytes: flow.window_bytes() / 4,
                rtt_us: 20_000 + more_us,
                one_way_us: None,
                is_window_limited: true,
                may_be_late: false,
            };
            flow.on_ack(now, ack);
            if n == 20 {
                flow.on_loss(now);
            }
        }
        assert!(joined > 4, "{joined}");
        flow.target_us()
    }

    #[test]
    fn what_somebodys_queue_does_is_no_jitter() {
        let due = target_where_slowdowns_are_joined(Slowdown::Due);
        let startled = target_where_slowdowns_are_joined(Slowdown::Startled);
        assert!(due > TARGET_MAX_US, "{due}");
        assert_eq!(startled, TARGET_MAX_US);
    }
}
