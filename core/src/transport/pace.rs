//! When the next packet may leave at a given rate: a clock that each packet moves on.

use crate::limits::UTP_PACING_QUANTUM;
use crate::time::Mono;

#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    /// Nanoseconds, because a packet of a fast stream takes a few microseconds.
    free_at_ns: u64,
}

impl Pace {
    const NS: u64 = 1_000_000_000;

    /// A packet may leave now.
    pub(super) fn is_free(&self, now: Mono) -> bool {
        self.free_at_ns <= ns(now)
    }

    /// When to come back: a little late, so that packets due within a quantum leave together.
    pub(super) fn free_at(&self) -> Mono {
        Mono::from_us(self.free_at_ns.div_ceil(1000)) + UTP_PACING_QUANTUM
    }

    /// A packet has left. What was not used counts for two quanta, or for `burst_bytes` if that is more.
    pub(super) fn on_sent(
        &mut self,
        now: Mono,
        bytes: u64,
        rate_bytes_per_s: u64,
        burst_bytes: u64,
    ) {
        let took_ns = |bytes: u64| {
            let ns = u128::from(bytes) * u128::from(Self::NS) / u128::from(rate_bytes_per_s.max(1));
            u64::try_from(ns).unwrap_or(u64::MAX)
        };
        let quanta_ns = 2 * UTP_PACING_QUANTUM.as_nanos() as u64;
        let unused_ns = quanta_ns.max(took_ns(burst_bytes));
        let earliest_ns = ns(now).saturating_sub(unused_ns);
        self.free_at_ns = self
            .free_at_ns
            .max(earliest_ns)
            .saturating_add(took_ns(bytes));
    }
}

const fn ns(at: Mono) -> u64 {
    at.as_us().saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_and_bursts_are_small() {
        let mut pace = Pace::default();
        let (mut now, mut sent) = (Mono::from_us(1_000_000), 0);
        let end = Mono::from_us(2_000_000);
        let mut in_a_row_max = 0;
        while now < end {
            let mut in_a_row = 0;
            while pace.is_free(now) {
                pace.on_sent(now, 1000, 10_000_000, 4000);
                sent += 1;
                in_a_row += 1;
            }
            in_a_row_max = in_a_row_max.max(in_a_row);
            assert!(pace.free_at() > now);
            now = pace.free_at();
        }
        assert!((9_900..=10_100).contains(&sent), "{sent}");
        assert!(in_a_row_max <= 22, "{in_a_row_max}");
    }

    #[test]
    fn no_rate_is_absurd() {
        let mut pace = Pace::default();
        pace.on_sent(Mono::ZERO, u64::MAX, 0, u64::MAX);
        assert!(!pace.is_free(Mono::from_us(1)) && pace.free_at() >= Mono::ZERO);
    }
}
