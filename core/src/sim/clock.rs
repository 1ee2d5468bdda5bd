//! World time (nanoseconds since the world began) and what each host's own clocks show for it.
//!
//! Invariant: [`Clock::world_ns`] is the first instant at which the host's clock shows the asked time,
//! so a machine is woken exactly then, never early.

use super::spec::ClockSpec;
use crate::time::{Mono, Now, Wall};
use core::time::Duration;

/// 2026-01-01T00:00Z, when every world begins.
const EPOCH_UNIX_US: i64 = 1_767_225_600_000_000;
const MILLION: u64 = 1_000_000;

/// One host's clocks since its last start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start_ns: u64,
    /// Own microseconds in a true second.
    us_per_s: u64,
    spec: ClockSpec,
}

impl Clock {
    pub(super) fn new(start_ns: u64, spec: ClockSpec) -> Self {
        Self {
            start_ns,
            us_per_s: MILLION.saturating_add_signed(spec.drift_ppm.into()).max(1),
            spec,
        }
    }

    pub(super) fn set_zone(&mut self, utc_offset_s: i32) {
        self.spec.utc_offset_s = utc_offset_s;
    }

    pub(super) fn set_offset(&mut self, offset_us: i64) {
        self.spec.offset_us = offset_us;
    }

    pub(super) fn now(&self, world_ns: u64) -> Now {
        Now {
            mono: Mono::from_us(self.own_us(world_ns.saturating_sub(self.start_ns))),
            wall: Wall {
                unix_us: EPOCH_UNIX_US + self.own_us(world_ns) as i64 + self.spec.offset_us,
                utc_offset_s: self.spec.utc_offset_s,
            },
        }
    }

    /// The first world time at which this host's monotonic clock shows at least `at`.
    pub(super) fn world_ns(&self, at: Mono) -> u64 {
        if at == Mono::NEVER {
            return u64::MAX;
        }
        let span = if self.us_per_s == MILLION {
            at.as_us().saturating_mul(1000)
        } else {
            let ns = (u128::from(at.as_us()) * 1_000_000_000).div_ceil(self.us_per_s.into());
            u64::try_from(ns).unwrap_or(u64::MAX)
        };
        self.start_ns.saturating_add(span)
    }

    fn own_us(&self, ns: u64) -> u64 {
        if self.us_per_s == MILLION {
            return ns / 1000;
        }
        (u128::from(ns) * u128::from(self.us_per_s) / 1_000_000_000) as u64
    }
}

pub(super) fn ns(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// How long `bytes` take at a rate; nothing when unlimited.
pub(super) fn transfer_ns(bytes: u64, bytes_per_s: u64) -> u64 {
    if bytes_per_s == 0 {
        return 0;
    }
    match bytes.checked_mul(1_000_000_000) {
        Some(scaled) => scaled / bytes_per_s,
        None => (u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_s)) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_met_exactly_whatever_the_drift() {
        for drift_ppm in [-300, -1, 0, 1, 7, 250] {
            let spec = ClockSpec {
                drift_ppm,
                ..ClockSpec::default()
            };
            let clock = Clock::new(12_345_678, spec);
            for us in [0, 1, 2, 999, 1_000_003, 86_400_000_000] {
                let at = clock.world_ns(Mono::from_us(us));
                assert!(clock.now(at).mono.as_us() >= us);
                if us > 0 {
                    assert!(clock.now(at - 1).mono.as_us() < us, "{drift_ppm} {us}");
                }
            }
        }
    }
}
