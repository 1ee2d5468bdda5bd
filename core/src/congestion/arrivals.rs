//! Round trips as a receiver without time stamps can tell them: what the window newly allows arrives a round trip later.
//! (Linux measures so, too, but keeps only the least.)
//!
//! Where the sender, not the window, holds the flow back, the result is too long: the window then shrinks until it holds
//! the flow back as well, and no further. It is never too short by much: what was allowed earlier and is still under way,
//! as after a cut, is no sample, nor is what a repaired loss sets free at once.

use crate::time::Mono;
use alloc::collections::VecDeque;

#[derive(Clone, Debug, Default)]
pub struct Arrivals {
    arrived_bytes: u64,
    /// The sender was never allowed to send beyond.
    edge_bytes: u64,
    /// Under way, in order.
    samples: VecDeque<Sample>,
    /// What had arrived when the last one ended.
    told_bytes: u64,
}

/// The last of the bytes up to `until_bytes` were allowed at `since`.
#[derive(Clone, Copy, Debug)]
struct Sample {
    since: Mono,
    until_bytes: u64,
}

/// Reports come some eight times in a round trip, which may have become four times as long.
const SAMPLES_MAX: usize = 32;

impl Arrivals {
    /// So many bytes have arrived in all, and the sender may have so many more under way, in whole segments. At the end of a
    /// sample: how many bytes have come since the last, and microseconds of a round trip.
    pub fn add(
        &mut self,
        now: Mono,
        arrived_bytes: u64,
        window_bytes: u64,
        segment_bytes: u32,
    ) -> Option<(u64, u64)> {
        let mut found = None;
        while let Some(sample) = self
            .samples
            .pop_front_if(|sample| sample.until_bytes <= arrived_bytes)
        {
            let rtt_us = u64::try_from(now.since(sample.since).as_micros()).unwrap_or(u64::MAX);
            found = Some((arrived_bytes - self.told_bytes, rtt_us.max(1)));
        }
        if found.is_some() {
            self.told_bytes = arrived_bytes;
        }
        let whole_bytes = window_bytes - window_bytes % u64::from(segment_bytes.max(1));
        let until_bytes = arrived_bytes + whole_bytes;
        let has_moved = arrived_bytes > self.arrived_bytes;
        if has_moved && until_bytes > self.edge_bytes && self.samples.len() < SAMPLES_MAX {
            self.samples.push_back(Sample {
                since: now,
                until_bytes,
            });
        }
        self.arrived_bytes = arrived_bytes;
        self.edge_bytes = self.edge_bytes.max(arrived_bytes + window_bytes);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const SEGMENT: u32 = 1_000;

    /// Bytes that come in round trips of 20 ms, reported every 5, with a sender that always sends what it may: what was found.
    fn found(windows: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut arrivals = Arrivals::default();
        let (mut arrived, mut edge) = (0, 0);
        let mut edges = VecDeque::from([0; 4]);
        let mut found = Vec::new();
        for (n, window) in windows.into_iter().enumerate() {
            // What was allowed a round trip ago is here, at 2500 bytes in 5 ms at most.
            let here: u64 = edges.pop_front().unwrap_or(0);
            arrived = here.min(arrived + 2_500).max(arrived) / 500 * 500;
            edge = edge.max(arrived + window);
            edges.push_back(edge);
            let now = Mono::from_us(n as u64 * 5_000);
            found.extend(arrivals.add(now, arrived, edge - arrived, SEGMENT));
        }
        found.into_iter().map(|(_, rtt_us)| rtt_us).collect()
    }

    #[test]
    fn what_is_newly_allowed_takes_a_round_trip() {
        let found = found([5_000; 100]);
        assert!(found.len() > 10, "{found:?}");
        assert!(found.iter().all(|us| *us == 20_000), "{found:?}");
    }

    #[test]
    fn a_queue_of_its_own_is_seen() {
        // 15000 bytes take 30 ms.
        let found = found([15_000; 100]);
        assert!(found[2..].iter().all(|us| *us == 30_000), "{found:?}");
    }

    #[test]
    fn what_was_allowed_before_a_cut_is_no_sample() {
        let windows = (0..400).map(|n| if n % 80 < 40 { 20_000 } else { 2_000 });
        let found = found(windows);
        assert!(found.len() > 30, "{found:?}");
        assert!(
            found.iter().all(|us| (18_000..=65_000).contains(us)),
            "{found:?}"
        );
    }

    #[test]
    fn what_a_repaired_loss_sets_free_is_no_sample() {
        let mut arrivals = Arrivals::default();
        let mut at = |ms: u64, arrived, window| {
            arrivals.add(Mono::from_us(ms * 1000), arrived, window, SEGMENT)
        };
        assert_eq!(at(0, 1_000, 10_000), None);
        assert_eq!(at(20, 11_000, 10_000), Some((11_000, 20_000)));
        // Nothing counts as arrived before what was lost has come again, and then all at once.
        for ms in 21..60 {
            assert_eq!(at(ms, 11_000, 10_000), None);
        }
        assert_eq!(at(60, 21_000, 10_000), Some((10_000, 40_000)));
        assert_eq!(at(80, 31_000, 10_000), Some((10_000, 20_000)));
    }
}
