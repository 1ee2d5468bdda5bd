//! How many connections to one origin are worth having: measured, not assumed.
//!
//! Decides by trial: with k lanes busy for a whole window their total rate is taken; then one more lane is
//! allowed, given a window to get up to speed, and kept only if the total rose by a tenth. A trial that
//! failed is not repeated for a minute. Never opens or closes anything itself.
//!
//! Tests: at the end of this file.

use crate::time::{Mono, Now};
use core::time::Duration;

/// Decides how many lanes may be busy.
#[derive(Clone, Debug)]
pub(crate) struct LaneTrial {
    max: u8,
    allowed: u8,
    /// Total rate with one lane fewer, while one more is on trial.
    before: Option<u64>,
    /// The window only serves to get up to speed.
    settling: bool,
    since: Mono,
    bytes: u64,
    /// How often bytes came in this window, and how often while exactly `allowed` lanes were busy.
    samples: u32,
    full: u32,
    /// No new trial before.
    not_before: Mono,
}

impl LaneTrial {
    pub(crate) fn new(max: u8) -> Self {
        Self {
            max: max.max(1),
            allowed: 1,
            before: None,
            settling: true,
            since: Mono::ZERO,
            bytes: 0,
            samples: 0,
            full: 0,
            not_before: Mono::ZERO,
        }
    }

    /// Lanes that may be busy now.
    pub(crate) const fn allowed(&self) -> u8 {
        self.allowed
    }

    /// `len` bytes came while this many lanes were busy.
    pub(crate) fn on_bytes(&mut self, now: Now, len: usize, busy: u8) {
        if self.settling && busy < self.allowed {
            return self.restart(now, true);
        }
        self.bytes += len as u64;
        self.samples = self.samples.saturating_add(1);
        self.full = self.full.saturating_add(u32::from(busy == self.allowed));
        let elapsed = now.mono.since(self.since);
        if elapsed < WINDOW {
            return;
        }
        let rate = per_second(self.bytes, elapsed);
        // Lanes pause for a moment between ranges; a window with longer pauses says nothing.
        let telling = !self.settling && self.full / 4 >= (self.samples - self.full);
        self.restart(now, false);
        if telling {
            self.measured(now, rate);
        }
    }

    /// The server would not serve more than this many at once.
    pub(crate) fn on_refusal(&mut self, now: Now, busy: u8) {
        self.allowed = busy.clamp(1, self.max);
        self.before = None;
        self.not_before = now.mono + AFTER_FAILED_TRIAL;
    }

    fn measured(&mut self, now: Now, rate: u64) {
        if let Some(before) = self.before.take() {
            if rate.saturating_mul(10) < before.saturating_mul(11) {
                self.allowed -= 1;
                self.not_before = now.mono + AFTER_FAILED_TRIAL;
            }
        } else if self.allowed < self.max && now.mono >= self.not_before {
            self.before = Some(rate);
            self.allowed += 1;
            self.restart(now, true);
        }
    }

    fn restart(&mut self, now: Now, settling: bool) {
        self.since = now.mono;
        self.bytes = 0;
        self.samples = 0;
        self.full = 0;
        self.settling = settling;
    }
}

fn per_second(bytes: u64, elapsed: Duration) -> u64 {
    let us = elapsed.as_micros().max(1000);
    u64::try_from(u128::from(bytes) * 1_000_000 / us).unwrap_or(u64::MAX)
}

const WINDOW: Duration = Duration::from_secs(1);
const AFTER_FAILED_TRIAL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    /// Run for some seconds against a server whose total rate depends on the lanes; the lanes allowed
    /// after each second.
    fn allowed_over(trial: &mut LaneTrial, from_s: u64, to_s: u64, rate: fn(u8) -> usize) -> u8 {
        for tick in from_s * 10..to_s * 10 {
            let now = Now {
                mono: Mono::from_us(tick * 100_000),
                ..Now::default()
            };
            let busy = trial.allowed();
            trial.on_bytes(now, rate(busy) / 10, busy);
        }
        trial.allowed()
    }

    #[test]
    fn lanes_are_added_while_each_makes_it_faster() {
        let mut trial = LaneTrial::new(4);
        assert_eq!(
            allowed_over(&mut trial, 0, 2, |k| 1_000_000 * usize::from(k)),
            1
        );
        assert_eq!(
            allowed_over(&mut trial, 2, 30, |k| 1_000_000 * usize::from(k)),
            4
        );
    }

    #[test]
    fn a_lane_that_does_not_help_is_given_back_and_not_tried_again_for_a_minute() {
        let mut trial = LaneTrial::new(4);
        let mut most = 0;
        for s in 0..50 {
            most = most.max(allowed_over(&mut trial, s, s + 1, |_| 1_000_000));
        }
        assert_eq!((most, trial.allowed()), (2, 1));
        let again = (50..100)
            .map(|s| allowed_over(&mut trial, s, s + 1, |_| 1_000_000))
            .max();
        assert_eq!(again, Some(2));
    }

    #[test]
    fn two_lanes_help_and_three_do_not() {
        let mut trial = LaneTrial::new(4);
        let rate = |k: u8| 1_000_000 * usize::from(k.min(2));
        assert_eq!(allowed_over(&mut trial, 0, 40, rate), 2);
    }

    #[test]
    fn a_refusal_counts_as_a_failed_trial() {
        let mut trial = LaneTrial::new(4);
        allowed_over(&mut trial, 0, 30, |k| 1_000_000 * usize::from(k));
        let now = Now {
            mono: Mono::from_us(30_000_000),
            ..Now::default()
        };
        trial.on_refusal(now, 2);
        assert_eq!(
            allowed_over(&mut trial, 30, 80, |k| 1_000_000 * usize::from(k)),
            2
        );
        assert_eq!(
            allowed_over(&mut trial, 80, 120, |k| 1_000_000 * usize::from(k)),
            4
        );
    }
}
