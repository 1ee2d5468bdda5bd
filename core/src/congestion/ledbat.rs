//! RFC 6817, to compare with: one-way delay, a target of 100 ms, a gain of one.

use super::delay::Smoothed;
use super::{Ack, Window};
use crate::time::Mono;
use core::time::Duration;

const TARGET_US: i128 = 100_000;
const INITIAL_RTT_US: u64 = 100_000;
/// `BASE_HISTORY`: one minimum a minute.
const BASE_MINUTES: usize = 10;
const MINUTE: Duration = Duration::from_secs(60);
/// `CURRENT_FILTER`.
const CURRENT_SAMPLES: usize = 4;

#[derive(Clone, Debug)]
pub struct Ledbat {
    window: Window,
    /// Minima by minute, the newest last.
    base: [u64; BASE_MINUTES],
    minute_since: Option<Mono>,
    current: [u64; CURRENT_SAMPLES],
    smoothed: Smoothed,
    base_rtt_us: Option<u64>,
    in_slow_start: bool,
    reduced_at: Option<Mono>,
}

impl Ledbat {
    pub fn new(segment_bytes: u32) -> Self {
        Self {
            window: Window::new(segment_bytes),
            base: [u64::MAX; BASE_MINUTES],
            minute_since: None,
            current: [u64::MAX; CURRENT_SAMPLES],
            smoothed: Smoothed::default(),
            base_rtt_us: None,
            in_slow_start: true,
            reduced_at: None,
        }
    }

    pub fn on_ack(&mut self, now: Mono, ack: Ack) {
        self.add_delay(now, ack.one_way_us.map_or(ack.rtt_us, u64::from));
        self.smoothed.add(ack.rtt_us);
        self.base_rtt_us = Some(self.base_rtt_us.map_or(ack.rtt_us, |b| b.min(ack.rtt_us)));
        let off_us = TARGET_US - i128::from(self.queue_us());
        if self.in_slow_start {
            if off_us < TARGET_US / 2 {
                self.in_slow_start = false;
            } else if ack.is_window_limited {
                self.window
                    .change(i128::from(ack.bytes) * i128::from(Window::SCALE));
            }
            return;
        }
        if off_us >= 0 && !ack.is_window_limited {
            return;
        }
        let (bytes, segment) = (i128::from(ack.bytes), i128::from(self.window.segment_bytes));
        let change = bytes * segment * off_us * i128::from(Window::SCALE)
            / (TARGET_US * i128::from(self.window.bytes()));
        self.window.change(change);
    }

    pub fn on_loss(&mut self, now: Mono) {
        let rtt = Duration::from_micros(self.smoothed.us().unwrap_or(INITIAL_RTT_US));
        if self.reduced_at.is_some_and(|at| now < at + rtt) {
            return;
        }
        self.reduced_at = Some(now);
        self.in_slow_start = false;
        self.window.halve();
    }

    pub fn on_timeout(&mut self, _now: Mono) {
        self.window.set_bytes(0);
    }

    pub const fn window_bytes(&self) -> u64 {
        self.window.bytes()
    }

    pub const fn floor_bytes(&self) -> u64 {
        self.window.floor_bytes()
    }

    pub const fn base_rtt_us(&self) -> Option<u64> {
        self.base_rtt_us
    }

    pub fn queue_us(&self) -> u64 {
        let current = self.current.iter().min();
        let base = self.base.iter().min();
        current.zip(base).map_or(0, |(c, b)| c.saturating_sub(*b))
    }

    fn add_delay(&mut self, now: Mono, delay_us: u64) {
        if self.minute_since.is_none_or(|since| now >= since + MINUTE) {
            self.minute_since = Some(now);
            self.base.rotate_left(1);
            self.base[BASE_MINUTES - 1] = delay_us;
        }
        let minute = &mut self.base[BASE_MINUTES - 1];
        *minute = (*minute).min(delay_us);
        self.current.rotate_left(1);
        self.current[CURRENT_SAMPLES - 1] = delay_us;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(delay_us: u32) -> Ack {
        Ack {
            bytes: 1000,
            rtt_us: 20_000,
            one_way_us: Some(delay_us),
            is_window_limited: true,
            may_be_late: false,
        }
    }

    #[test]
    fn the_window_follows_the_delay() {
        let mut c = Ledbat::new(1000);
        (0..50).for_each(|n| c.on_ack(Mono::from_us(n), ack(5000)));
        assert_eq!(
            c.window_bytes(),
            52_000,
            "slow start adds what was acknowledged"
        );
        (0..4).for_each(|n| c.on_ack(Mono::from_us(100 + n), ack(60_000)));
        let at_target_half = c.window_bytes();
        (0..100).for_each(|n| c.on_ack(Mono::from_us(200 + n), ack(105_000)));
        assert!(
            c.window_bytes() - at_target_half < 1000,
            "at the target nothing moves"
        );
        (0..100).for_each(|n| c.on_ack(Mono::from_us(400 + n), ack(205_000)));
        assert!(c.window_bytes() < at_target_half);
        c.on_loss(Mono::from_us(1_000_000));
        let halved = c.window_bytes();
        c.on_loss(Mono::from_us(1_000_001));
        assert_eq!(c.window_bytes(), halved, "once a round trip");
    }
}
