//! Round trips as a receiver without time stamps can tell them: of a window that is kept full, as much arrives in one
//! round trip as it holds (Little's law; Linux measures so, too, but keeps only the least).
//!
//! Where the sender, not the window, holds the flow back, the result is too long: the window then shrinks until it holds
//! the flow back as well, and no further.

use crate::time::Mono;

/// One window's worth of bytes after the other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrivals {
    since: Mono,
    from_bytes: u64,
    window_bytes: u64,
}

impl Arrivals {
    /// So many bytes have arrived in all, and the sender may have a window of so many under way. When a whole window has
    /// come: how many bytes since the last, and how long a window takes.
    pub fn add(&mut self, now: Mono, arrived_bytes: u64, window_bytes: u64) -> Option<(u64, u64)> {
        let bytes = arrived_bytes.saturating_sub(self.from_bytes);
        if self.window_bytes > 0 && bytes < self.window_bytes {
            return None;
        }
        let span_us = u64::try_from(now.since(self.since).as_micros()).unwrap_or(u64::MAX);
        let found = (self.window_bytes > 0)
            .then(|| (bytes, span_us.saturating_mul(self.window_bytes) / bytes));
        *self = Self {
            since: now,
            from_bytes: arrived_bytes,
            window_bytes,
        };
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_takes_a_round_trip() {
        let mut arrivals = Arrivals::default();
        let ms = |ms: u64| Mono::from_us(ms * 1000);
        assert_eq!(arrivals.add(ms(0), 5_000, 10_000), None);
        assert_eq!(arrivals.add(ms(10), 10_000, 10_000), None);
        assert_eq!(
            arrivals.add(ms(25), 17_500, 10_000),
            Some((12_500, 20_000)),
            "what came too much has taken its time, too"
        );
        // The window is cut; what is under way is of the old one.
        assert_eq!(arrivals.add(ms(30), 20_000, 2_000), None);
        assert_eq!(arrivals.add(ms(45), 27_500, 2_000), Some((10_000, 20_000)));
        assert_eq!(arrivals.add(ms(65), 29_500, 2_000), Some((2_000, 20_000)));
    }
}
