//! Rates: what was measured, and what is allowed.

use crate::limits::BLOCK_LEN;
use crate::time::Mono;
use core::time::Duration;

/// Bytes per second over the last two seconds (less at the start).
#[derive(Clone, Debug, Default)]
pub struct Rate {
    buckets: [u64; RATE_BUCKETS],
    /// Number of the newest bucket since time zero.
    newest: u64,
    first: Option<Mono>,
}

const RATE_BUCKETS: usize = 8;
const RATE_BUCKET_US: u64 = 250_000;

impl Rate {
    pub fn add(&mut self, now: Mono, bytes: u64) {
        self.advance(now);
        self.first.get_or_insert(now);
        if let Some(bucket) = self.buckets.get_mut(self.newest as usize % RATE_BUCKETS) {
            *bucket += bytes;
        }
    }

    pub fn bytes_per_s(&mut self, now: Mono) -> u64 {
        self.advance(now);
        let Some(first) = self.first else { return 0 };
        let window_us = (RATE_BUCKETS as u64 - 1) * RATE_BUCKET_US + now.as_us() % RATE_BUCKET_US;
        let lived_us = (now.since(first).as_micros() as u64).max(20_000);
        self.buckets.iter().sum::<u64>().saturating_mul(1_000_000) / window_us.min(lived_us).max(1)
    }

    fn advance(&mut self, now: Mono) {
        let current = now.as_us() / RATE_BUCKET_US;
        let gone = current.saturating_sub(self.newest).min(RATE_BUCKETS as u64);
        for step in 1..=gone {
            let index = (current - gone + step) as usize % RATE_BUCKETS;
            if let Some(bucket) = self.buckets.get_mut(index) {
                *bucket = 0;
            }
        }
        self.newest = self.newest.max(current);
    }
}

/// A budget of bytes that refills at a constant rate. Integer microseconds; no drift.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    /// 0 is no limit.
    rate_bytes_per_s: u64,
    burst_bytes: u64,
    tokens: i64,
    filled_at: Mono,
    /// Fractions of a byte, in byte-microseconds below one million.
    rest: u64,
}

impl TokenBucket {
    /// Holds at most a twentieth of a second's worth.
    pub fn new(rate_bytes_per_s: u64) -> Self {
        let burst_bytes = burst(rate_bytes_per_s);
        Self {
            rate_bytes_per_s,
            burst_bytes,
            tokens: burst_bytes as i64,
            filled_at: Mono::ZERO,
            rest: 0,
        }
    }

    /// Another rate from now on. What is owed stays owed.
    pub fn set_rate(&mut self, now: Mono, rate_bytes_per_s: u64) {
        if rate_bytes_per_s == self.rate_bytes_per_s {
            return;
        }
        if self.is_limited() {
            self.available(now);
        }
        self.rate_bytes_per_s = rate_bytes_per_s;
        self.burst_bytes = burst(rate_bytes_per_s);
        self.tokens = self.tokens.min(self.burst_bytes as i64);
        (self.filled_at, self.rest) = (self.filled_at.max(now), 0);
    }

    /// 0 is no limit.
    pub const fn rate(&self) -> u64 {
        self.rate_bytes_per_s
    }

    pub const fn is_limited(&self) -> bool {
        self.rate_bytes_per_s > 0
    }

    /// Bytes that may go now; may be exceeded once by a whole block, which is then owed.
    pub fn available(&mut self, now: Mono) -> u64 {
        if !self.is_limited() {
            return u64::MAX;
        }
        let us = now.since(self.filled_at).as_micros().min(10_000_000) as u64;
        let due = us * self.rate_bytes_per_s + self.rest;
        self.rest = due % 1_000_000;
        self.filled_at = self.filled_at.max(now);
        self.tokens = self
            .tokens
            .saturating_add((due / 1_000_000) as i64)
            .min(self.burst_bytes as i64);
        u64::try_from(self.tokens).unwrap_or(0)
    }

    pub const fn take(&mut self, bytes: u64) {
        if self.is_limited() {
            self.tokens = self.tokens.saturating_sub(bytes as i64);
        }
    }

    /// What was taken and not used.
    pub fn give_back(&mut self, bytes: u64) {
        let full = self.burst_bytes as i64;
        self.tokens = self.tokens.saturating_add(bytes as i64).min(full);
    }

    /// When something will be available again.
    pub fn ready_at(&self) -> Mono {
        let lacking = u64::try_from(1 - self.tokens.min(1)).unwrap_or(0);
        let us = (lacking * 1_000_000).div_ceil(self.rate_bytes_per_s.max(1));
        self.filled_at + Duration::from_micros(us)
    }
}

/// At least a block; little, so that caps hold over short times, too.
fn burst(rate_bytes_per_s: u64) -> u64 {
    (rate_bytes_per_s / 20).max(u64::from(BLOCK_LEN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_flow_has_its_rate_and_silence_ends_it() {
        let mut rate = Rate::default();
        for ms in 0..10_000 {
            rate.add(Mono::from_us(ms * 1000), 1000);
        }
        let at = Mono::from_us(10_000_000);
        assert!(
            (900_000..=1_100_000).contains(&rate.bytes_per_s(at)),
            "{}",
            rate.bytes_per_s(at)
        );
        assert_eq!(rate.bytes_per_s(at + Duration::from_secs(3)), 0);
    }

    #[test]
    fn a_bucket_gives_its_rate_whatever_the_steps() {
        for step_us in [7, 999, 40_000] {
            let mut bucket = TokenBucket::new(1_000_000);
            bucket.take(bucket.burst_bytes);
            let (mut given, mut now) = (0, Mono::ZERO);
            while now.as_us() < 2_000_000 {
                now = now + Duration::from_micros(step_us);
                let n = bucket.available(now);
                bucket.take(n);
                given += n;
            }
            assert!(
                (1_990_000..=2_010_000).contains(&given),
                "{step_us}: {given}"
            );
        }
    }

    #[test]
    fn an_empty_bucket_says_when() {
        let mut bucket = TokenBucket::new(1_000);
        bucket.take(20_000);
        assert_eq!(bucket.available(Mono::ZERO), 0);
        let at = bucket.ready_at();
        assert!(bucket.available(at) >= 1);
    }
}
