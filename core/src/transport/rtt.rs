//! Round-trip time and the retransmission timeout (RFC 6298).

use crate::limits::{
    UTP_TAIL_DELAY, UTP_TIMEOUT_INITIAL, UTP_TIMEOUT_MAX, UTP_TIMEOUT_MIN, UTP_TIMER_GRANULARITY,
};
use core::time::Duration;

/// Doublings after which the timeout is at its maximum in any case.
const DOUBLINGS_MAX: u32 = 16;

#[derive(Clone, Debug, Default)]
pub(super) struct Rtt {
    smoothed_us: Option<u64>,
    variation_us: u64,
    least_us: Option<u64>,
    latest_us: u64,
    /// Timeouts in a row.
    doublings: u32,
}

impl Rtt {
    /// From a packet that was sent once (Karn).
    pub(super) fn sample(&mut self, rtt_us: u64) {
        self.least_us = Some(self.least_us.map_or(rtt_us, |least| least.min(rtt_us)));
        self.latest_us = rtt_us;
        match self.smoothed_us {
            None => {
                self.smoothed_us = Some(rtt_us);
                self.variation_us = rtt_us / 2;
            }
            Some(smoothed_us) => {
                let off_us = smoothed_us.abs_diff(rtt_us);
                self.variation_us = (self.variation_us * 3 + off_us) / 4;
                self.smoothed_us = Some((smoothed_us * 7 + rtt_us) / 8);
            }
        }
    }

    pub(super) fn on_timeout(&mut self) {
        self.doublings = (self.doublings + 1).min(DOUBLINGS_MAX);
    }

    pub(super) fn on_progress(&mut self) {
        self.doublings = 0;
    }

    pub(super) const fn timeouts(&self) -> u32 {
        self.doublings
    }

    /// When an answer is overdue.
    pub(super) fn timeout(&self) -> Duration {
        let base = self.smoothed_us.map_or(UTP_TIMEOUT_INITIAL, |smoothed_us| {
            let us = smoothed_us.saturating_add(self.variation_us.saturating_mul(4));
            Duration::from_micros(us).max(UTP_TIMEOUT_MIN)
        });
        base.saturating_mul(1 << self.doublings)
            .min(UTP_TIMEOUT_MAX)
    }

    /// After so long a packet is lost if one that left later has arrived (RFC 9002, 6.1.2).
    pub(super) fn patience(&self) -> Option<Duration> {
        let rtt_us = self.smoothed_us?.max(self.latest_us);
        let patience_us = rtt_us.saturating_add(rtt_us / 8);
        Some(Duration::from_micros(patience_us).max(UTP_TIMER_GRANULARITY))
    }

    /// After so long without an acknowledgement the last packet goes again (RFC 8985, 7.2).
    pub(super) fn tail(&self) -> Option<Duration> {
        let two_us = self.smoothed_us?.saturating_mul(2);
        Some(Duration::from_micros(two_us).saturating_add(UTP_TAIL_DELAY))
    }

    /// The shortest round trip there was.
    pub(super) const fn least_us(&self) -> Option<u64> {
        self.least_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_follows_the_samples() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(), UTP_TIMEOUT_INITIAL);
        rtt.sample(100_000);
        assert_eq!(rtt.timeout(), UTP_TIMEOUT_MIN);
        rtt.sample(900_000);
        assert_eq!(rtt.timeout(), Duration::from_micros(200_000 + 4 * 237_500));
        rtt.on_timeout();
        rtt.on_timeout();
        assert_eq!(rtt.timeout(), Duration::from_micros(4 * 1_150_000));
        assert_eq!(rtt.timeouts(), 2);
        for _ in 0..100 {
            rtt.on_timeout();
        }
        assert_eq!(rtt.timeout(), UTP_TIMEOUT_MAX);
        rtt.on_progress();
        assert_eq!((rtt.timeouts(), rtt.least_us()), (0, Some(100_000)));
        assert_eq!(rtt.tail(), Some(Duration::from_micros(500_000)));
        assert_eq!(rtt.patience(), Some(Duration::from_micros(1_012_500)));
    }

    #[test]
    fn absurd_samples_do_no_harm() {
        let mut rtt = Rtt::default();
        rtt.sample(u64::MAX / 16);
        rtt.sample(0);
        assert_eq!(rtt.timeout(), UTP_TIMEOUT_MAX);
    }
}
