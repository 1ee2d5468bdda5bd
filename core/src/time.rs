//! Time as data. The core never reads a clock: every input carries a [`Now`].
//!
//! Durations are [`core::time::Duration`]; instants are microseconds since the machine's start, so
//! that two runs with the same inputs agree to the bit.

use core::ops::Add;
use core::time::Duration;

/// Microseconds since an arbitrary start; never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(u64);

impl Mono {
    pub const ZERO: Self = Self(0);
    /// Later than anything that happens.
    pub const NEVER: Self = Self(u64::MAX);

    pub const fn from_us(us: u64) -> Self {
        Self(us)
    }

    pub const fn as_us(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was; zero if it is still to come.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        let us = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(us))
    }
}

/// Civil time: microseconds since 1970-01-01T00:00Z, and the local offset from UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wall {
    pub unix_us: i64,
    pub utc_offset_s: i32,
}

/// Both clocks at the moment an input is handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    pub mono: Mono,
    pub wall: Wall,
}

/// When a machine wants to be called again, and why (for logs and livelock reports).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    pub at: Mono,
    pub why: &'static str,
}

impl Deadline {
    pub const fn new(at: Mono, why: &'static str) -> Self {
        Self { at, why }
    }

    /// The earlier of two optional deadlines.
    pub fn earlier(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        match (a, b) {
            (Some(a), Some(b)) => Some(if b.at < a.at { b } else { a }),
            (a, b) => a.or(b),
        }
    }
}
