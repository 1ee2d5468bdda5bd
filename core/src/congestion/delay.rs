//! Delays of one flow: the shortest of the last round trip, and a smoothed one.

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

    #[test]
    fn smoothed_moves_by_eighths() {
        let mut smoothed = Smoothed::default();
        assert_eq!(smoothed.us(), None);
        smoothed.add(800);
        smoothed.add(1600);
        assert_eq!(smoothed.us(), Some(900));
    }
}
