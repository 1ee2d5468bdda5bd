//! Other people's congestion control, for what ours shares a line with: Reno (RFC 5681) and CUBIC (RFC 9438), both
//! with HyStart's delay exit. Floating point is fine here: it is test equipment.

use crate::congestion::Ack;
use crate::time::Mono;

const FIRST_WINDOW_SEGMENTS: f64 = 10.0;
const CUBIC_C: f64 = 0.4;
const CUBIC_BETA: f64 = 0.7;

/// One foreground sender's window.
#[derive(Clone, Debug)]
pub(super) struct Rival {
    is_cubic: bool,
    segment: f64,
    window: f64,
    ssthresh: f64,
    rtt_us: f64,
    base_us: f64,
    reduced_at: Option<Mono>,
    /// Of this epoch: when it began, the last maximum (segments), the time to it (s), Reno's estimate (segments).
    epoch: Option<(Mono, f64, f64)>,
    last_max: f64,
}

impl Rival {
    pub(super) fn new(is_cubic: bool, segment_bytes: u32) -> Self {
        let segment = f64::from(segment_bytes);
        Self {
            is_cubic,
            segment,
            window: FIRST_WINDOW_SEGMENTS * segment,
            ssthresh: f64::INFINITY,
            rtt_us: 0.0,
            base_us: f64::INFINITY,
            reduced_at: None,
            epoch: None,
            last_max: 0.0,
        }
    }

    pub(super) fn window_bytes(&self) -> u64 {
        self.window as u64
    }

    pub(super) fn on_ack(&mut self, now: Mono, ack: Ack) {
        let (bytes, rtt_us) = (ack.bytes as f64, ack.rtt_us as f64);
        if self.rtt_us == 0.0 {
            self.rtt_us = rtt_us;
        }
        self.rtt_us += (rtt_us - self.rtt_us) / 8.0;
        self.base_us = self.base_us.min(rtt_us);
        if !ack.is_window_limited {
            return;
        }
        if self.window < self.ssthresh {
            self.window += bytes;
            if rtt_us > self.base_us + (self.base_us / 8.0).clamp(4000.0, 16_000.0) {
                self.ssthresh = self.window;
            }
        } else if self.is_cubic {
            self.grow_cubic(now, bytes);
        } else {
            self.window += self.segment * bytes / self.window;
        }
    }

    fn grow_cubic(&mut self, now: Mono, bytes: f64) {
        let segments = self.window / self.segment;
        let (since, k, reno) = self.epoch.unwrap_or_else(|| {
            self.last_max = self.last_max.max(segments);
            (now, ((self.last_max - segments) / CUBIC_C).cbrt(), segments)
        });
        let t = now.since(since).as_secs_f64() + self.rtt_us / 1e6;
        let aim = (CUBIC_C * (t - k).powi(3) + self.last_max).clamp(segments, 1.5 * segments);
        let acked = bytes / self.segment;
        let reno = reno + 3.0 * (1.0 - CUBIC_BETA) / (1.0 + CUBIC_BETA) * acked / segments;
        self.epoch = Some((since, k, reno));
        let cubic = segments + (aim - segments) / segments * acked;
        self.window = cubic.max(reno) * self.segment;
    }

    pub(super) fn on_loss(&mut self, now: Mono) {
        let rtt = core::time::Duration::from_micros(self.rtt_us as u64);
        if self.reduced_at.is_some_and(|at| now < at + rtt) {
            return;
        }
        self.reduced_at = Some(now);
        let segments = self.window / self.segment;
        self.last_max = if segments < self.last_max {
            segments * (1.0 + CUBIC_BETA) / 2.0
        } else {
            segments
        };
        let kept = if self.is_cubic { CUBIC_BETA } else { 0.5 };
        self.window = (self.window * kept).max(2.0 * self.segment);
        self.ssthresh = self.window;
        self.epoch = None;
    }

    pub(super) fn on_timeout(&mut self) {
        self.ssthresh = (self.window / 2.0).max(2.0 * self.segment);
        self.window = self.segment;
        self.epoch = None;
    }
}
