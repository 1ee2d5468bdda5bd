//! When the next announce is due.
//!
//! Decides: at once at first; soon after something changed; early, and ever less early, while a download
//! has too few peers; else at the coordinator's interval; ever later while the coordinator fails. Always
//! with jitter, so that devices started together drift apart. Never does: I/O.
//! Invariant: never earlier than the coordinator allows, however often something changes.
//! Tested here.

use crate::rng::Rng;
use crate::time::Mono;
use core::time::Duration;

#[derive(Debug)]
pub(super) struct Pace {
    rng: Rng,
    /// The next announce of everything.
    full: Option<Mono>,
    /// The next announce of what changed or wants peers.
    soon: Option<Mono>,
    /// Not before, whatever happens: minimum interval, back-off, `Retry-After`.
    not_before: Mono,
    /// Announces in a row that did not get through.
    failures: u32,
    /// Early announces in a row for the sake of more peers.
    early: u32,
}

/// What the coordinator said about time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Intervals {
    pub(super) interval: Duration,
    pub(super) minimum: Duration,
}

/// What an announce that is due is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Everything,
    /// What changed, and what wants more peers.
    Some,
}

impl Pace {
    pub(super) const fn new(rng: Rng) -> Self {
        Self {
            rng,
            full: None,
            soon: None,
            not_before: Mono::ZERO,
            failures: 0,
            early: 0,
        }
    }

    pub(super) fn at(&self) -> Option<Mono> {
        let first = match (self.full, self.soon) {
            (Some(full), Some(soon)) => full.min(soon),
            (full, soon) => full.or(soon)?,
        };
        Some(first.max(self.not_before))
    }

    /// What to announce now, if anything; from here on it is under way.
    pub(super) fn take(&mut self, now: Mono) -> Option<Due> {
        if self.at()? > now {
            return None;
        }
        self.soon = None;
        if self.full.is_some_and(|full| full > now) {
            return Some(Due::Some);
        }
        self.full = None;
        Some(Due::Everything)
    }

    /// Something changed that others should know.
    pub(super) fn changed(&mut self, now: Mono) {
        self.early = 0;
        let soon = match self.not_before {
            Mono::ZERO => now,
            _ => now + self.jitter(SOON),
        };
        self.advance_to(soon);
    }

    /// The rest of an announce that did not fit into one call: at once.
    pub(super) fn more(&mut self, now: Mono) {
        self.not_before = now;
        self.soon = Some(now);
    }

    /// Nothing to announce any more.
    pub(super) fn idle(&mut self) {
        self.full = None;
        self.soon = None;
    }

    /// The announce was answered.
    pub(super) fn answered(&mut self, now: Mono, say: Intervals, wants_peers: bool) {
        self.failures = 0;
        self.not_before = now + say.minimum.clamp(MINIMUM, INTERVAL_MAX);
        if self.full.is_none() {
            let interval = say.interval.clamp(MINIMUM, INTERVAL_MAX);
            self.full = Some(now + self.jitter(interval).min(interval));
        }
        if wants_peers {
            let wait = SOON.saturating_mul(1 << self.early.min(10));
            self.early += 1;
            let at = now + self.jitter(wait);
            self.advance_to(at);
        } else {
            self.early = 0;
        }
    }

    /// The announce did not get through; the next one tells everything, for the coordinator may have
    /// forgotten it by then. `retry_after` is the coordinator's own wish.
    pub(super) fn failed(&mut self, now: Mono, retry_after: Option<Duration>) {
        let back_off = BACK_OFF_MIN
            .saturating_mul(1 << self.failures.min(10))
            .min(BACK_OFF_MAX);
        self.failures = self.failures.saturating_add(1);
        let wait = self.jitter(back_off);
        let wait = retry_after.map_or(wait, |asked| asked.min(RETRY_AFTER_MAX).max(wait));
        self.not_before = now + wait;
        self.full = Some(self.not_before);
    }

    fn advance_to(&mut self, at: Mono) {
        self.soon = Some(self.soon.map_or(at, |soon| soon.min(at)));
    }

    /// Between three quarters and five quarters of `span`.
    fn jitter(&mut self, span: Duration) -> Duration {
        let us = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros((us / 4 * 3).saturating_add(self.rng.below(us / 2)))
    }
}

/// After a change, and the first early announce: long enough to gather several changes into one call.
const SOON: Duration = Duration::from_secs(1);
/// Whatever a coordinator says, no more often than this.
const MINIMUM: Duration = Duration::from_millis(500);
/// Whatever a coordinator says, no less often than this.
const INTERVAL_MAX: Duration = Duration::from_secs(3600);
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(60);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    const SAY: Intervals = Intervals {
        interval: Duration::from_secs(30),
        minimum: Duration::from_secs(1),
    };

    fn at(ms: u64) -> Mono {
        Mono::from_us(ms * 1000)
    }

    fn due_in(pace: &Pace, now: Mono) -> Duration {
        pace.at().unwrap().since(now)
    }

    #[test]
    fn first_at_once_then_soon_after_a_change() {
        let mut pace = Pace::new(Rng::from_u64(1));
        assert_eq!(pace.at(), None);
        assert_eq!(pace.take(at(4000)), None);
        pace.changed(at(5000));
        assert_eq!(pace.take(at(5000)), Some(Due::Everything));
        pace.answered(at(5010), SAY, false);
        let wait = due_in(&pace, at(5010));
        assert!(wait >= Duration::from_millis(22_500) && wait <= SAY.interval);
        pace.changed(at(9000));
        let wait = due_in(&pace, at(9000));
        assert!(wait >= Duration::from_millis(750) && wait <= Duration::from_millis(1250));
        assert_eq!(pace.take(at(10_250)), Some(Due::Some));
        pace.answered(at(10_260), SAY, false);
        assert!(
            pace.at().unwrap() <= at(35_010),
            "the full one keeps its time"
        );
        assert_eq!(pace.take(at(35_010)), Some(Due::Everything));
    }

    #[test]
    fn changes_cannot_push_below_the_minimum() {
        let mut pace = Pace::new(Rng::from_u64(2));
        let say = Intervals {
            minimum: Duration::from_secs(10),
            ..SAY
        };
        pace.changed(at(0));
        pace.take(at(0));
        pace.answered(at(1), say, true);
        for ms in 2..100 {
            pace.changed(at(ms));
        }
        assert_eq!(pace.at(), Some(at(10_001)));
        pace.more(at(200));
        assert_eq!(pace.take(at(200)), Some(Due::Some));
    }

    #[test]
    fn a_download_without_peers_comes_early_and_ever_less_early() {
        let mut pace = Pace::new(Rng::from_u64(3));
        let mut now = at(0);
        let mut waits = alloc::vec::Vec::new();
        pace.changed(now);
        for _ in 0..8 {
            assert!(pace.take(now).is_some());
            pace.answered(now, SAY, true);
            waits.push(due_in(&pace, now).as_millis());
            now = pace.at().unwrap();
        }
        assert!(waits[0] <= 1250, "{waits:?}");
        assert!(waits[2] > waits[0] && waits[3] > waits[2], "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= 30_000), "{waits:?}");
    }

    #[test]
    fn failures_back_off_and_retry_after_counts() {
        let mut pace = Pace::new(Rng::from_u64(4));
        let mut waits = alloc::vec::Vec::new();
        let mut now = at(0);
        pace.changed(now);
        for _ in 0..12 {
            assert_eq!(pace.take(now), Some(Due::Everything));
            pace.failed(now, None);
            waits.push(due_in(&pace, now));
            now = pace.at().unwrap();
        }
        assert!(waits[0] <= Duration::from_millis(1250));
        assert!(waits[11] >= Duration::from_secs(45) && waits[11] <= Duration::from_secs(75));
        pace.failed(now, Some(Duration::from_secs(200)));
        assert_eq!(due_in(&pace, now), Duration::from_secs(200));
        pace.changed(now);
        assert_eq!(due_in(&pace, now), Duration::from_secs(200));
        pace.answered(now, SAY, false);
        pace.failed(now, None);
        assert!(due_in(&pace, now) <= Duration::from_millis(1250));
    }
}
