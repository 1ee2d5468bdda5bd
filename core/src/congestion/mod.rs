//! How fast a stream over datagrams may send.
//!
//! A stand-in with the interface of the real one: additive increase, halving, no delay signal.

use crate::time::Mono;

/// What one acknowledgement says.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    pub bytes: u64,
    pub rtt_us: u64,
    /// The peer's clock at arrival less ours at sending, wrapping.
    pub one_way_us: Option<u32>,
    pub is_window_limited: bool,
}

#[derive(Clone, Debug)]
pub enum Controller {
    Plain(Plain),
}

#[derive(Clone, Debug)]
pub struct Plain {
    mss: u64,
    window_bytes: u64,
    threshold_bytes: u64,
    rtt_us: Option<u64>,
    base_us: Option<u64>,
    cut_at: Mono,
}

impl Controller {
    pub fn ledbat_plus_plus(mss: u32, remembered_base_us: Option<u64>) -> Self {
        let mss = u64::from(mss.max(1));
        Self::Plain(Plain {
            mss,
            window_bytes: 4 * mss,
            threshold_bytes: u64::MAX,
            rtt_us: None,
            base_us: remembered_base_us,
            cut_at: Mono::ZERO,
        })
    }

    pub fn on_ack(&mut self, _now: Mono, ack: Ack) {
        let Self::Plain(it) = self;
        it.rtt_us = Some(match it.rtt_us {
            Some(rtt_us) => (rtt_us * 7 + ack.rtt_us) / 8,
            None => ack.rtt_us,
        });
        it.base_us = Some(it.base_us.map_or(ack.rtt_us, |b| b.min(ack.rtt_us)));
        if !ack.is_window_limited {
            return;
        }
        it.window_bytes += if it.window_bytes < it.threshold_bytes {
            ack.bytes
        } else {
            (it.mss * ack.bytes / it.window_bytes.max(1)).max(1)
        };
    }

    pub fn on_loss(&mut self, now: Mono) {
        let Self::Plain(it) = self;
        let since_us = now.as_us().saturating_sub(it.cut_at.as_us());
        if since_us < it.rtt_us.unwrap_or(0) {
            return;
        }
        it.cut_at = now;
        it.window_bytes = (it.window_bytes / 2).max(2 * it.mss);
        it.threshold_bytes = it.window_bytes;
    }

    pub fn on_timeout(&mut self, _now: Mono) {
        let Self::Plain(it) = self;
        it.threshold_bytes = (it.window_bytes / 2).max(2 * it.mss);
        it.window_bytes = it.mss;
    }

    pub fn window_bytes(&self) -> u64 {
        let Self::Plain(it) = self;
        it.window_bytes
    }

    pub fn pacing_bytes_per_s(&self) -> Option<u64> {
        let Self::Plain(it) = self;
        let rtt_us = it.rtt_us?.max(1);
        Some(it.window_bytes.saturating_mul(1_500_000) / rtt_us)
    }

    pub fn base_rtt_us(&self) -> Option<u64> {
        let Self::Plain(it) = self;
        it.base_us
    }
}
