//! Background traffic gives way to everybody else's: uploads to peers, and downloads nobody waits for.
//!
//! Decides: which streams are controlled, and turns what the kernel says of their paths ([`PathFacts`]) into what they
//! may take ([`Shape`]). Never does: the mathematics (`congestion`), which jobs are in the background (`queue`).
//! - A stream on this machine is not controlled: it shares no line with anybody. Every other one is; on a LAN the
//!   target is so short (1 ms) that an idle network is filled all the same.
//! - Uploads are bounded at the sender, by bytes under way. Our own peers' uploads to us are, too, so only HTTP servers
//!   and foreign peers are bounded by us as receiver, by the window we let them see (RFC 9840). Without time stamps the
//!   round trip is told by how long a window takes to arrive. Where the window cannot be bounded, reads are paced: the
//!   kernel's buffer fills, and its flow control holds the sender back. Where neither is there nothing tells of a queue,
//!   and nothing is bounded.
//! - Foreground downloads are never bounded.
//!
//! Invariants: a stream is in `uploads` or `downloads` only while it is watched; a watched stream has been shaped.
//! Tests: `core/tests/background.rs`; over real lines by `benches/run.py yield`.

use crate::congestion::{Ack, Arrivals, Controller, Group};
use crate::host::HostFacts;
use crate::ids::StreamId;
use crate::limits::{REPORT_EVERY_MAX, REPORT_EVERY_MIN};
use crate::machine::{Effects, PathFacts, Shape};
use crate::time::{Deadline, Mono};
use alloc::collections::{BTreeMap, BTreeSet};
use core::net::IpAddr;
use core::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Yielding {
    uploads: Group<StreamId>,
    downloads: Group<StreamId>,
    watched: BTreeMap<StreamId, Watched>,
    own: BTreeSet<IpAddr>,
    /// When the next bytes of paced streams are due.
    pace_at: Option<Mono>,
}

/// A controlled stream.
#[derive(Debug)]
struct Watched {
    remote: IpAddr,
    sends: bool,
    receives: bool,
    heard: Option<(Mono, PathFacts)>,
    received: Received,
    arrivals: Arrivals,
    paced: Paced,
    shape: Shape,
    /// An odd packet was under way when the last acknowledgement had come: its own may be kept back.
    is_odd: bool,
}

/// Reads that are due, of a stream whose window cannot be bounded.
#[derive(Clone, Copy, Debug, Default)]
struct Paced {
    since: Option<Mono>,
    bytes: u64,
}

/// How fast a stream receives, over about a round trip.
#[derive(Clone, Copy, Debug, Default)]
struct Received {
    bytes_per_s: u64,
}

/// Paced reads come so often: a segment or more of most lines.
const PACE_EVERY: Duration = Duration::from_millis(10);

/// Before anything is known of a path: one packet of slow start, as far as the shell can tell.
const FIRST_SEND_WINDOW_BYTES: u64 = 4096;

impl Yielding {
    /// This device's addresses, and whether its networks have changed: then old paths tell nothing.
    pub(super) fn on_host(&mut self, facts: &HostFacts) {
        let addrs = facts.interfaces.iter().flat_map(|i| &i.subnets);
        let own: BTreeSet<IpAddr> = addrs.map(|subnet| subnet.addr).collect();
        if !self.own.is_empty() && own != self.own {
            self.uploads.forget_paths();
            self.downloads.forget_paths();
        }
        self.own = own;
    }

    /// What we send to peers, also over uTP, which does itself what is done here for the kernel's streams.
    pub(super) fn flows(&mut self) -> &mut Group<StreamId> {
        &mut self.uploads
    }

    /// A connection to a peer: what we send there gives way.
    pub(super) fn on_peer(&mut self, stream: StreamId, remote: IpAddr, fx: &mut Effects) {
        self.set(stream, remote, fx, |watched| watched.sends = true);
    }

    /// What comes on this stream gives way, or is waited for.
    pub(super) fn on_download(
        &mut self,
        stream: StreamId,
        remote: IpAddr,
        is_background: bool,
        fx: &mut Effects,
    ) {
        self.set(stream, remote, fx, |watched| {
            watched.receives = is_background
        });
    }

    fn set(
        &mut self,
        stream: StreamId,
        remote: IpAddr,
        fx: &mut Effects,
        change: impl FnOnce(&mut Watched),
    ) {
        let is_here = remote.to_canonical().is_loopback() || self.own.contains(&remote);
        if is_here || stream.is_utp() {
            return;
        }
        let watched = self.watched.entry(stream).or_insert(Watched {
            remote,
            sends: false,
            receives: false,
            heard: None,
            received: Received::default(),
            arrivals: Arrivals::default(),
            paced: Paced::default(),
            shape: Shape::default(),
            is_odd: false,
        });
        change(watched);
        if !watched.receives {
            watched.arrivals = Arrivals::default();
            self.downloads.remove(stream);
            fx.release(stream);
        }
        self.reshape(stream, fx);
    }

    pub(super) fn on_closed(&mut self, stream: StreamId) {
        if self.watched.remove(&stream).is_some() {
            self.uploads.remove(stream);
            self.downloads.remove(stream);
        }
    }

    /// News of a path.
    pub(super) fn on_path(
        &mut self,
        now: Mono,
        stream: StreamId,
        facts: PathFacts,
        fx: &mut Effects,
    ) {
        let Some(watched) = self.watched.get_mut(&stream) else {
            return;
        };
        let before = watched.heard.replace((now, facts));
        if watched.sends {
            sent(&mut self.uploads, now, stream, watched, before, facts);
        }
        if watched.receives {
            received(&mut self.downloads, now, stream, watched, before, facts);
        }
        self.after(now, stream, fx);
    }

    pub(super) fn on_tick(&mut self, now: Mono, fx: &mut Effects) {
        self.uploads.on_tick(now);
        self.downloads.on_tick(now);
        self.pace_at = None;
        let streams: alloc::vec::Vec<StreamId> = self.watched.keys().copied().collect();
        for stream in streams {
            self.after(now, stream, fx);
        }
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        let turns = Deadline::earlier(self.uploads.deadline(), self.downloads.deadline());
        let paced = self.pace_at.map(|at| Deadline::new(at, "paced reads"));
        Deadline::earlier(turns, paced)
    }

    /// Tell the stream what it may have now.
    fn after(&mut self, now: Mono, stream: StreamId, fx: &mut Effects) {
        if let Some(controller) = self.downloads.controller(stream)
            && let Some(watched) = self.watched.get_mut(&stream)
        {
            // A window cannot be shut without harm: a download rests by not being read.
            if self.downloads.rests(stream) {
                fx.hold(stream);
            } else if watched.is_bounded() {
                fx.release(stream);
            } else {
                fx.hold(stream);
                let bytes = watched.paced.due(now, controller);
                watched.paced.bytes -= u64::from(fx.give(stream, bytes));
                self.pace_at = self.pace_at.or(Some(now + PACE_EVERY));
            }
        }
        self.reshape(stream, fx);
    }

    fn reshape(&mut self, stream: StreamId, fx: &mut Effects) {
        let Some(watched) = self.watched.get_mut(&stream) else {
            return;
        };
        let is_controlled = watched.sends || watched.receives;
        let mut shape = Shape {
            is_background: is_controlled,
            ..Shape::default()
        };
        let mut base_us = None;
        if watched.sends {
            let controller = self.uploads.controller(stream);
            shape.send_window_bytes = Some(match controller {
                Some(_) => even(self.uploads.window_bytes(stream), watched.segment_bytes()),
                None => FIRST_SEND_WINDOW_BYTES,
            });
            shape.pacing_bytes_per_s = controller.and_then(|c| c.pacing_bytes_per_s());
            base_us = controller.and_then(|c| c.base_rtt_us());
        }
        if watched.receives
            && let Some(controller) = self.downloads.controller(stream)
        {
            shape.receive_window_bytes = watched.is_bounded().then(|| controller.window_bytes());
            base_us = base_us.or(controller.base_rtt_us());
        }
        if is_controlled {
            let every = Duration::from_micros(base_us.unwrap_or(0) / 8);
            shape.report_every = Some(every.clamp(REPORT_EVERY_MIN, REPORT_EVERY_MAX));
        }
        if is_news(&watched.shape, &shape, watched.segment_bytes()) {
            watched.shape = shape;
            fx.shape(stream, shape);
        }
    }

    pub(super) fn check(&self) {
        self.uploads.check();
        self.downloads.check();
    }
}

/// Less than half a segment of change is not worth a system call; a window that has come to its end is.
fn is_news(told: &Shape, shape: &Shape, segment_bytes: u64) -> bool {
    let differs = |told: Option<u64>, now: Option<u64>| match (told, now) {
        (Some(told), Some(now)) => {
            told.abs_diff(now) * 2 >= segment_bytes || (told == 0) != (now == 0)
        }
        (told, now) => told != now,
    };
    told.is_background != shape.is_background
        || told.report_every != shape.report_every
        || told.pacing_bytes_per_s.is_some() != shape.pacing_bytes_per_s.is_some()
        || differs(told.send_window_bytes, shape.send_window_bytes)
        || differs(told.receive_window_bytes, shape.receive_window_bytes)
}

/// Receivers acknowledge every second segment at once. Of three, one would always wait for the next two, and each round
/// trip look twice as long: the flow would take it for a queue, and shrink.
const fn even(window_bytes: u64, segment_bytes: u64) -> u64 {
    if window_bytes > 2 * segment_bytes && window_bytes < 4 * segment_bytes {
        2 * segment_bytes
    } else {
        window_bytes
    }
}

/// What a report says of the sending side.
fn sent(
    group: &mut Group<StreamId>,
    now: Mono,
    stream: StreamId,
    watched: &mut Watched,
    before: Option<(Mono, PathFacts)>,
    facts: PathFacts,
) {
    if facts.rtt_us == 0 {
        return;
    }
    if !group.contains(stream) {
        group.add(now, stream, watched.remote, facts.segment_bytes);
        group.learn_base(stream, facts.least_rtt_us.into());
    }
    let before = before.map_or_else(PathFacts::default, |(_, facts)| facts);
    if facts.has_timed_out && !before.has_timed_out {
        group.on_timeout(now, stream);
    } else if facts.resent > before.resent {
        group.on_loss(now, stream);
    }
    let bytes = facts.acked_bytes.saturating_sub(before.acked_bytes);
    if bytes > 0 {
        let ack = Ack {
            bytes,
            rtt_us: round_trip_us(before, facts),
            one_way_us: None,
            is_window_limited: facts.is_held_back,
            may_be_late: core::mem::replace(&mut watched.is_odd, facts.has_odd_packet()),
        };
        group.on_ack(now, stream, ack);
    }
}

/// The round trip that was measured between two reports. The kernel tells only its smoothed one, which lags by many
/// round trips where acknowledgements are few: what it was before is taken out again. Segments that were no sample make
/// the result more like the smoothed one, never less.
fn round_trip_us(before: PathFacts, facts: PathFacts) -> u64 {
    const ONE: i64 = 1 << 16;
    let (old, new) = (i64::from(before.rtt_us), i64::from(facts.rtt_us));
    let samples = facts.acks.wrapping_sub(before.acks).clamp(1, 64);
    let kept = (0..samples).fold(ONE, |kept, _| kept * 7 / 8);
    let sample = if old == 0 {
        new
    } else {
        old + (new - old) * ONE / (ONE - kept)
    };
    let least = i64::from(facts.least_rtt_us).max(1);
    u64::try_from(sample.max(least)).unwrap_or(1)
}

/// What a report says of the receiving side.
fn received(
    group: &mut Group<StreamId>,
    now: Mono,
    stream: StreamId,
    watched: &mut Watched,
    before: Option<(Mono, PathFacts)>,
    facts: PathFacts,
) {
    // Without time stamps only a bounded window tells a round trip, and only where our own packets have told the base.
    let is_told = facts.receive_rtt_us > 0 || (facts.can_bound_receiving && facts.rtt_us > 0);
    let Some((at, before)) = before.filter(|_| is_told) else {
        return;
    };
    if !group.contains(stream) {
        group.add(now, stream, watched.remote, facts.segment_bytes);
    }
    if facts.receive_rtt_us == 0 {
        group.learn_base(stream, facts.least_rtt_us.into());
    }
    if facts.out_of_order > before.out_of_order {
        group.on_loss(now, stream);
    }
    let came = facts.received_bytes.saturating_sub(before.received_bytes);
    let over_us = facts.receive_rtt_us.max(facts.least_rtt_us).into();
    watched.received.add(came, now.since(at), over_us);
    let window_bytes = group.controller(stream).map_or(0, Controller::window_bytes);
    let Some((bytes, rtt_us)) = watched.round_trip(now, before, facts, window_bytes) else {
        return;
    };
    let in_a_round_trip = watched.received.bytes_per_s.saturating_mul(rtt_us) / 1_000_000;
    let ack = Ack {
        bytes,
        rtt_us,
        one_way_us: None,
        is_window_limited: 2 * in_a_round_trip >= window_bytes,
        // A window of an odd number of segments may wait for the receiver's delayed acknowledgement.
        may_be_late: facts.receive_rtt_us == 0,
    };
    group.on_ack(now, stream, ack);
}

impl Watched {
    fn segment_bytes(&self) -> u64 {
        self.heard
            .map_or(1, |(_, facts)| facts.segment_bytes.into())
    }

    /// The window that the sender sees is ours to bound.
    fn is_bounded(&self) -> bool {
        self.heard
            .is_some_and(|(_, facts)| facts.can_bound_receiving)
    }

    /// What has come, and the round trip it was measured with: by time stamps; else by the arrival of what a window has
    /// allowed. Where the kernel does not tell the window, what it has allowed at first would make the result too short.
    fn round_trip(
        &mut self,
        now: Mono,
        before: PathFacts,
        facts: PathFacts,
        bound_bytes: u64,
    ) -> Option<(u64, u64)> {
        if facts.receive_rtt_us == 0 {
            let (window_bytes, least_us) = match facts.receive_window_bytes {
                Some(told) => (told.into(), 0),
                None => (bound_bytes, facts.least_rtt_us.into()),
            };
            let (arrived, segment) = (facts.received_bytes, facts.segment_bytes);
            let (bytes, rtt_us) = self.arrivals.add(now, arrived, window_bytes, segment)?;
            return Some((bytes, rtt_us.max(least_us)));
        }
        let bytes = facts.received_bytes.saturating_sub(before.received_bytes);
        (bytes > 0).then_some((bytes, facts.receive_rtt_us.into()))
    }
}

impl Paced {
    /// Bytes that may be read by now: a window in a round trip as it is now, so that reads slow down while a queue grows.
    fn due(&mut self, now: Mono, controller: &Controller) -> u32 {
        let since = self.since.replace(now).unwrap_or(now);
        let window_bytes = controller.window_bytes();
        let rtt_us = controller.base_rtt_us().unwrap_or(0) + controller.queue_us();
        let span_us = u64::try_from(now.since(since).as_micros()).unwrap_or(u64::MAX);
        let more = window_bytes.saturating_mul(span_us) / rtt_us.max(1);
        self.bytes = self.bytes.saturating_add(more).min(window_bytes);
        u32::try_from(self.bytes).unwrap_or(u32::MAX)
    }
}

impl Received {
    /// A smoothed rate: news weighs as much as the part of a round trip (10 ms at least) that it is about.
    fn add(&mut self, bytes: u64, span: Duration, rtt_us: u64) {
        let span_us = u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(100);
        let over_us = rtt_us.max(10_000);
        let weight_us = span_us.min(over_us);
        let now = bytes.saturating_mul(1_000_000) / span_us;
        let kept = u128::from(self.bytes_per_s) * u128::from(over_us - weight_us);
        let new = u128::from(now) * u128::from(weight_us);
        self.bytes_per_s = u64::try_from((kept + new) / u128::from(over_us)).unwrap_or(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_third_segment_waits_alone() {
        let windows = [0, 2000, 2500, 3000, 3999, 4000, 5500];
        let told = windows.map(|window| even(window, 1000));
        assert_eq!(told, [0, 2000, 2000, 2000, 2000, 4000, 5500]);
    }

    #[test]
    fn what_the_kernel_has_smoothed_is_taken_apart_again() {
        let facts = |rtt_us, acks| PathFacts {
            rtt_us,
            acks,
            least_rtt_us: 20_000,
            ..PathFacts::default()
        };
        // Two samples of 20 ms after a queue of 15: the smoothed one has hardly moved.
        let before = facts(35_000, 100);
        let smoothed = 35_000 - 15_000 / 8 - (15_000 - 15_000 / 8) / 8;
        let sample = round_trip_us(before, facts(smoothed, 102));
        assert!(sample.abs_diff(20_000) < 20, "{sample}");
        assert_eq!(round_trip_us(before, facts(21_000, 300)), 20_999);
        assert_eq!(
            round_trip_us(before, facts(1_000, 101)),
            20_000,
            "never below the least"
        );
        assert_eq!(
            round_trip_us(PathFacts::default(), facts(30_000, 5)),
            30_000
        );
    }
}
