//! Congestion control for traffic nobody waits for: how many bytes one flow may have under way.
//!
//! Decides: the window and the pace of one flow, from what was acknowledged, how long that took and what was lost.
//! Never does: read a clock, know sockets or datagrams, choose which flows are controlled (`agent/yielding`).
//! Invariants: the window stays between [`MIN_WINDOW_SEGMENTS`] segments and [`WINDOW_MAX_BYTES`]; whatever the
//! samples say, nothing overflows or panics ([`Controller::check`]).
//! Spec: draft-irtf-iccrg-ledbat-plus-plus-06, RFC 6817, RFC 9840. Tests: here, `core/tests/yielding.rs`,
//! `core/tests/link_matrix.rs`, `fuzz/src/congestion.rs`.

mod arrivals;
mod delay;
mod group;
mod ledbat;
mod ledbat_plus_plus;
mod memory;

use crate::time::Mono;
pub use arrivals::Arrivals;
pub use group::Group;
pub use ledbat::Ledbat;
pub use ledbat_plus_plus::{LedbatPlusPlus, Slowdown};
pub use memory::{Base, BaseMemory};

/// No window is smaller: with less than two segments the receiver's delayed acknowledgement sets the pace
/// (RFC 6817 §3.1), and senders cut windows into slivers.
pub const MIN_WINDOW_SEGMENTS: u64 = 2;

/// No window is larger: 10 Gbit/s over 100 ms.
pub const WINDOW_MAX_BYTES: u64 = 128 * 1024 * 1024;

/// Segment lengths believed: IPv6's least packet without its headers (RFC 8200 §5) up to loopback's.
const SEGMENT_BYTES: core::ops::RangeInclusive<u32> = 500..=65_535;

/// Round trips longer than this are not measured but outages.
const RTT_MAX_US: u64 = 60_000_000;

/// News of one flow: bytes that have arrived at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub bytes: u64,
    pub rtt_us: u64,
    /// One-way delay with an unknown but constant offset, where the transport measures it (RFC 6817).
    pub one_way_us: Option<u32>,
    /// The window, not the sender's lack of bytes, held the flow back since the last news.
    pub is_window_limited: bool,
    /// The receiver may have kept the acknowledgement back (RFC 5681 §4.2): the round trip is no measure of jitter.
    pub may_be_late: bool,
}

/// The controller of one flow.
#[derive(Clone, Debug)]
pub enum Controller {
    LedbatPlusPlus(LedbatPlusPlus),
    Ledbat(Ledbat),
    Fixed { window_bytes: u64 },
}

impl Controller {
    /// What background traffic uses. `remembered_base_us` is the shortest round trip known of this path.
    pub fn ledbat_plus_plus(segment_bytes: u32, remembered_base_us: Option<u64>) -> Self {
        Self::LedbatPlusPlus(LedbatPlusPlus::new(segment_bytes, remembered_base_us))
    }

    /// RFC 6817, to compare with.
    pub fn ledbat(segment_bytes: u32) -> Self {
        Self::Ledbat(Ledbat::new(segment_bytes))
    }

    /// A window that nothing changes.
    pub fn fixed(window_bytes: u64) -> Self {
        Self::Fixed {
            window_bytes: window_bytes.clamp(1, WINDOW_MAX_BYTES),
        }
    }

    pub fn on_ack(&mut self, now: Mono, ack: Ack) {
        let ack = Ack {
            rtt_us: ack.rtt_us.clamp(1, RTT_MAX_US),
            bytes: ack.bytes.min(WINDOW_MAX_BYTES),
            ..ack
        };
        match self {
            Self::LedbatPlusPlus(c) => c.on_ack(now, ack),
            Self::Ledbat(c) => c.on_ack(now, ack),
            Self::Fixed { .. } => {}
        }
    }

    /// Something was lost. Several losses within one round trip count once.
    pub fn on_loss(&mut self, now: Mono) {
        match self {
            Self::LedbatPlusPlus(c) => c.on_loss(now),
            Self::Ledbat(c) => c.on_loss(now),
            Self::Fixed { .. } => {}
        }
    }

    /// Nothing was acknowledged for so long that all under way counts as lost.
    pub fn on_timeout(&mut self, now: Mono) {
        match self {
            Self::LedbatPlusPlus(c) => c.on_timeout(now),
            Self::Ledbat(c) => c.on_timeout(now),
            Self::Fixed { .. } => {}
        }
    }

    /// The flow slows down now, with its neighbours, if its own slowdown is near (see
    /// [`LedbatPlusPlus::join_slowdown`]).
    pub fn join_slowdown(&mut self, now: Mono, slowdown: Slowdown) {
        if let Self::LedbatPlusPlus(c) = self {
            c.join_slowdown(now, slowdown);
        }
    }

    /// The slowdown that lasts now.
    pub const fn slowdown(&self) -> Option<Slowdown> {
        match self {
            Self::LedbatPlusPlus(c) => c.slowdown(),
            Self::Ledbat(_) | Self::Fixed { .. } => None,
        }
    }

    /// Bytes that may be under way.
    pub const fn window_bytes(&self) -> u64 {
        match self {
            Self::LedbatPlusPlus(c) => c.window_bytes(),
            Self::Ledbat(c) => c.window_bytes(),
            Self::Fixed { window_bytes } => *window_bytes,
        }
    }

    /// The least the window can be.
    pub const fn floor_bytes(&self) -> u64 {
        match self {
            Self::LedbatPlusPlus(c) => c.floor_bytes(),
            Self::Ledbat(c) => c.floor_bytes(),
            Self::Fixed { window_bytes } => *window_bytes,
        }
    }

    /// How fast to hand bytes on, so that a window does not leave in one burst; `None` until a round trip is known.
    pub fn pacing_bytes_per_s(&self) -> Option<u64> {
        let base_us = self.base_rtt_us()?;
        Some(pace(self.window_bytes(), base_us))
    }

    /// The shortest round trip of this path, as far as known.
    pub const fn base_rtt_us(&self) -> Option<u64> {
        match self {
            Self::LedbatPlusPlus(c) => c.base_rtt_us(),
            Self::Ledbat(c) => c.base_rtt_us(),
            Self::Fixed { .. } => None,
        }
    }

    /// Another flow on this path has seen a shorter round trip.
    pub fn learn_base(&mut self, base_us: u64) {
        if let Self::LedbatPlusPlus(c) = self {
            c.learn_base(base_us);
        }
    }

    /// Other flows on this path have evidence that it is longer now.
    pub fn replace_base(&mut self, base_us: u64) {
        if let Self::LedbatPlusPlus(c) = self {
            c.replace_base(base_us);
        }
    }

    /// Round trip times above the base: the queue on the path, in microseconds.
    pub fn queue_us(&self) -> u64 {
        match self {
            Self::LedbatPlusPlus(c) => c.queue_us(),
            Self::Ledbat(c) => c.queue_us(),
            Self::Fixed { .. } => 0,
        }
    }

    /// What is known of the queue is old: the flow has rested.
    pub fn forget_queue(&mut self) {
        if let Self::LedbatPlusPlus(c) = self {
            c.forget_queue();
        }
    }

    /// The queue is longer than this flow wants it, and it has nothing left to give but its floor.
    pub fn is_yielding(&self) -> bool {
        match self {
            Self::LedbatPlusPlus(c) => c.is_yielding(),
            Self::Ledbat(_) | Self::Fixed { .. } => false,
        }
    }

    /// Asserts the bounds of the header.
    pub fn check(&self) {
        let window = self.window_bytes();
        assert!(window >= self.floor_bytes() && window <= WINDOW_MAX_BYTES);
        assert!(self.base_rtt_us().is_none_or(|us| us > 0));
    }
}

/// A quarter more than a window each round trip: smooth, and never what holds the window back.
fn pace(window_bytes: u64, base_us: u64) -> u64 {
    (window_bytes * 1_250_000 / base_us.max(PACE_RTT_MIN_US)).max(1)
}

/// Round trips shorter than this are a LAN's, where hosts' own delays are longer than the wire.
const PACE_RTT_MIN_US: u64 = 100;

/// A window in 1/65536 bytes: gains are small fractions of a segment.
#[derive(Clone, Copy, Debug)]
struct Window {
    scaled: u64,
    segment_bytes: u64,
}

impl Window {
    const SCALE: u64 = 1 << 16;

    fn new(segment_bytes: u32) -> Self {
        let segment_bytes = segment_bytes.clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end());
        let segment_bytes = u64::from(segment_bytes);
        Self {
            scaled: MIN_WINDOW_SEGMENTS * segment_bytes * Self::SCALE,
            segment_bytes,
        }
    }

    const fn bytes(self) -> u64 {
        self.scaled / Self::SCALE
    }

    const fn floor_bytes(self) -> u64 {
        MIN_WINDOW_SEGMENTS * self.segment_bytes
    }

    fn set_bytes(&mut self, bytes: u64) {
        let bytes = bytes.clamp(self.floor_bytes(), WINDOW_MAX_BYTES);
        self.scaled = bytes * Self::SCALE;
    }

    /// Change by so much, in 1/65536 bytes.
    fn change(&mut self, by: i128) {
        let floor = i128::from(self.floor_bytes() * Self::SCALE);
        let most = i128::from(WINDOW_MAX_BYTES * Self::SCALE);
        let scaled = (i128::from(self.scaled) + by).clamp(floor, most);
        self.scaled = u64::try_from(scaled).unwrap_or(self.scaled);
    }

    fn halve(&mut self) {
        self.set_bytes(self.bytes() / 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_stay_within_their_bounds() {
        let mut w = Window::new(1);
        assert_eq!(
            w.bytes(),
            1000,
            "a segment that cannot be is taken for the least"
        );
        w.change(i128::MIN / 4);
        assert_eq!(w.bytes(), w.floor_bytes());
        w.change(i128::MAX / 4);
        assert_eq!(w.bytes(), WINDOW_MAX_BYTES);
        w.halve();
        assert_eq!(w.bytes(), WINDOW_MAX_BYTES / 2);
    }

    #[test]
    fn a_window_is_paced_a_quarter_faster_than_its_round_trip() {
        assert_eq!(pace(100_000, 20_000), 6_250_000);
        assert_eq!(pace(100_000, 1), 1_250_000_000, "as over 100 µs");
    }

    #[test]
    fn a_fixed_window_does_not_move() {
        let mut c = Controller::fixed(5000);
        c.on_loss(Mono::ZERO);
        c.on_timeout(Mono::ZERO);
        assert_eq!((c.window_bytes(), c.pacing_bytes_per_s()), (5000, None));
        c.check();
    }
}
