//! Delays of one flow: the shortest of the last round trip, a smoothed one, and what jitter adds to them.

use crate::time::Mono;

/// The minimum of the samples of about the last round trip, at least [`SAMPLES_MIN`] of them: single late packets
/// say nothing (RFC 6817 §3.4.2, ledbat++ §4.1).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recent {
    parts: [Part; PARTS],
    at: usize,
    since: Mono,
}

/// A round trip is forgotten a quarter at a time.
const PARTS: usize = 4;
const SAMPLES_MIN: u32 = 4;

#[derive(Clone, Copy, Debug, Default)]
struct Part {
    min_us: u64,
    samples: u32,
}

impl Recent {
    pub(super) fn add(&mut self, now: Mono, sample_us: u64, rtt_us: u64) {
        let others: u32 = (1..PARTS)
            .map(|n| self.parts[(self.at + n) % PARTS].samples)
            .fold(self.parts[self.at].samples, u32::saturating_add);
        let oldest = self.parts[(self.at + 1) % PARTS].samples;
        let spent = now.since(self.since).as_micros() >= u128::from(rtt_us) / PARTS as u128;
        let current = self.parts[self.at].samples;
        if current > 0 && spent && others.saturating_sub(oldest) + 1 >= SAMPLES_MIN.min(others) {
            self.at = (self.at + 1) % PARTS;
            self.parts[self.at] = Part::default();
            self.since = now;
        }
        let part = &mut self.parts[self.at];
        part.min_us = if part.samples == 0 {
            sample_us
        } else {
            part.min_us.min(sample_us)
        };
        part.samples = part.samples.saturating_add(1);
    }

    pub(super) fn min_us(&self) -> Option<u64> {
        let heard = self.parts.iter().filter(|part| part.samples > 0);
        heard.map(|part| part.min_us).min()
    }
}

/// The smoothed round trip of RFC 6298 §2.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Smoothed {
    eighths_us: u64,
}

impl Smoothed {
    pub(super) fn add(&mut self, sample_us: u64) {
        self.eighths_us = match self.eighths_us {
            0 => sample_us * 8,
            old => old - old / 8 + sample_us,
        };
    }

    pub(super) const fn us(self) -> Option<u64> {
        match self.eighths_us {
            0 => None,
            eighths => Some(eighths / 8),
        }
    }
}

/// How much a path's delays differ by themselves: how far they rise during a slowdown. Their fall tells nothing, that may
/// be our own queue as it drains. Somebody else's queue may be long, but it hardly grows in so short a time; where delays
/// rise and do not fall again somebody has come, and that slowdown tells nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Jitter {
    rises_us: [u64; RISES],
    heard: usize,
    now: Option<Seen>,
}

/// The delays of one slowdown.
#[derive(Clone, Copy, Debug)]
struct Seen {
    least_us: u64,
    /// The longest since the least.
    most_us: u64,
    rise_us: u64,
    /// From the longest to a later one.
    fall_us: u64,
    /// Samples since the least.
    since: u32,
}

/// Slowdowns that are remembered. Most may have seen something else than jitter: somebody's queue, or an acknowledgement
/// that a kernel has kept back (up to 40 ms, where an odd packet is left of a window).
const RISES: usize = 5;
/// So many of them, the least, say nothing: by chance they saw less than there is.
const RISES_SMALL: usize = 1;
/// The next one sees so little of the range, on average.
const RISE_SHARE: u64 = 3;
/// Of so many samples in a row that rise, jitter seldom has one.
const GROWTH_SAMPLES: u32 = 5;
/// Fewer slowdowns say nothing.
const RISES_MIN: usize = 3;

impl Jitter {
    pub(super) fn add(&mut self, sample_us: u64) {
        let seen = self.now.get_or_insert(Seen {
            least_us: sample_us,
            most_us: sample_us,
            rise_us: 0,
            fall_us: 0,
            since: 0,
        });
        if sample_us < seen.least_us {
            (seen.least_us, seen.most_us, seen.since) = (sample_us, sample_us, 0);
        }
        seen.since += 1;
        seen.most_us = seen.most_us.max(sample_us);
        seen.rise_us = seen.rise_us.max(sample_us - seen.least_us);
        if seen.rise_us > 0 {
            seen.fall_us = seen.fall_us.max(seen.most_us - sample_us);
        }
    }

    /// The slowdown is over.
    pub(super) fn close(&mut self) {
        if let Some(Seen { rise_us, .. }) = self.now.take().filter(Seen::is_told) {
            self.rises_us[self.heard % RISES] = rise_us;
            self.heard = self.heard.wrapping_add(1);
        }
    }

    /// What this slowdown has seen tells nothing.
    pub(super) fn forget(&mut self) {
        self.now = None;
    }

    /// The width of the range that delays are spread over.
    pub(super) fn range_us(&self) -> u64 {
        let mut rises = self.rises_us;
        let rises = &mut rises[..self.heard.min(RISES)];
        rises.sort_unstable();
        if rises.len() < RISES_MIN {
            return 0;
        }
        rises[RISES_SMALL] * RISE_SHARE
    }
}

impl Seen {
    /// It was not one that only grew; of few samples that is no wonder.
    fn is_told(&self) -> bool {
        4 * self.fall_us >= self.rise_us || self.since < GROWTH_SAMPLES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_forgets_after_a_round_trip_and_not_before_enough_samples() {
        let mut recent = Recent::default();
        assert_eq!(recent.min_us(), None);
        for (ms, sample) in [(0, 10), (1, 50), (2, 50), (3, 50), (4, 50)] {
            recent.add(Mono::from_us(ms * 1000), sample, 4000);
        }
        assert_eq!(recent.min_us(), Some(50), "10 is a round trip old");
        let mut slow = Recent::default();
        for (s, sample) in [(0, 10), (9, 50), (18, 60)] {
            slow.add(Mono::from_us(s * 1_000_000), sample, 4000);
        }
        assert_eq!(
            slow.min_us(),
            Some(10),
            "of three samples none is forgotten"
        );
    }

    /// Delays of 20 ms and somebody's queue, and up to so much of jitter: so many slowdowns with six samples each.
    fn jitter_of(slowdowns: u64, range_us: u64, queue_us: impl Fn(u64, u64) -> u64) -> u64 {
        let mut rng = crate::rng::Rng::from_u64(1);
        let mut jitter = Jitter::default();
        for slowdown in 0..slowdowns {
            for sample in 0..6 {
                let queue_us = queue_us(slowdown, sample);
                jitter.add(20_000 + queue_us + rng.below(range_us + 1));
            }
            jitter.close();
        }
        jitter.range_us()
    }

    #[test]
    fn jitter_is_told_from_a_queue() {
        for range_us in [2_000, 10_000, 40_000] {
            let seen_us = jitter_of(9, range_us, |_, _| 0);
            assert!(seen_us >= range_us * 6 / 10 && seen_us <= range_us * 18 / 10);
        }
        assert_eq!(jitter_of(2, 10_000, |_, _| 0), 0, "too few say nothing");
        assert_eq!(jitter_of(9, 0, |_, _| 80_000), 0, "a queue that stands");
        let drained = jitter_of(9, 0, |_, n| 10_000 / (n + 1));
        assert_eq!(drained, 0, "our own");
        let sawtooth = jitter_of(9, 0, |slowdown, n| slowdown * 10_000 + n * 200);
        assert!(sawtooth <= 2_000, "one that grows: {sawtooth}");
        let visits = jitter_of(9, 2000, |slowdown, n| (slowdown % 3).min(1) * n * 5_000);
        assert!(
            visits <= 4_000,
            "short transfers, in two of three: {visits}"
        );
        let joined = jitter_of(5, 0, |slowdown, n| slowdown / 3 * n * 20_000);
        assert_eq!(joined, 0, "somebody has joined");
    }

    #[test]
    fn smoothed_moves_by_eighths() {
        let mut smoothed = Smoothed::default();
        assert_eq!(smoothed.us(), None);
        smoothed.add(800);
        smoothed.add(1600);
        assert_eq!(smoothed.us(), Some(900));
    }
}
