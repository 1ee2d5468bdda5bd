//! What all downloads of an agent may receive together: caps by class, in turn, and what the line was seen to carry.
//!
//! A byte is paid for before it comes: when a peer is asked for it, or when an HTTP connection is given credit for
//! it. Whoever finds nothing left stands in line and is called by [`Downlink::next_turn`], so that downloads of one
//! class get equal shares however greedy they are. While a foreground download transfers, those in the background
//! together get a tenth of what it does.
//!
//! Decides: how much, and whose turn it is. Never does: asking. Tested here and in `core/tests/caps.rs`.

use crate::policy::{ClassLimits, Limits};
use crate::stats::{Rate, SourceClass, TokenBucket};
use crate::time::{Deadline, Mono};
use alloc::collections::VecDeque;
use core::time::Duration;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The download's number.
    pub owner: u64,
    pub foreground: bool,
}

/// The downloading side of one agent.
#[derive(Debug, Default)]
pub struct Downlink {
    foreground: Class,
    background: Class,
    foreground_rate: Rate,
    line: Line,
    /// Foreground downloads transfer something, as of then.
    busy_since: Option<Mono>,
    balanced_at: Mono,
}

#[derive(Debug, Default)]
struct Class {
    /// As the settings have it; 0 is no cap.
    cap_bytes_per_s: u64,
    all: Meter,
    /// All but link-local and LAN peers.
    wide: Meter,
}

/// One budget and the line of those who wait for it.
#[derive(Debug)]
struct Meter {
    bucket: TokenBucket,
    line: VecDeque<u64>,
    turn: Option<u64>,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            bucket: TokenBucket::new(0),
            line: VecDeque::new(),
            turn: None,
        }
    }
}

impl Meter {
    fn available(&mut self, now: Mono, owner: u64) -> u64 {
        if !self.bucket.is_limited() {
            return u64::MAX;
        }
        let my_turn = match self.turn {
            Some(turn) => turn == owner,
            None => self.line.is_empty(),
        };
        let left = if my_turn {
            self.bucket.available(now)
        } else {
            0
        };
        if left == 0 && !self.line.contains(&owner) {
            self.line.push_back(owner);
        }
        left
    }

    fn take(&mut self, owner: u64, bytes: u64) {
        self.bucket.take(bytes);
        if self.turn == Some(owner) {
            self.turn = None;
        }
    }

    fn next(&mut self, now: Mono) -> Option<u64> {
        if self.turn.is_some() || self.line.is_empty() || self.bucket.available(now) == 0 {
            return None;
        }
        self.turn = self.line.pop_front();
        self.turn
    }

    fn forget(&mut self, owner: u64) {
        self.line.retain(|waiting| *waiting != owner);
        self.turn = self.turn.filter(|turn| *turn != owner);
    }

    fn ready_at(&self) -> Option<Mono> {
        let waits = !self.line.is_empty() && self.turn.is_none();
        waits.then(|| self.bucket.ready_at())
    }
}

impl Class {
    fn set(&mut self, now: Mono, limits: &ClassLimits) {
        self.cap_bytes_per_s = limits.bytes_per_s;
        self.all.bucket.set_rate(now, limits.bytes_per_s);
        self.wide.bucket.set_rate(now, limits.wide_bytes_per_s);
    }

    fn meters(&mut self) -> [&mut Meter; 2] {
        [&mut self.all, &mut self.wide]
    }
}

impl Downlink {
    pub fn set(&mut self, now: Mono, limits: &Limits) {
        self.foreground.set(now, &limits.foreground);
        self.background.set(now, &limits.background);
        self.balance(now);
    }

    /// Bytes that may be paid for now. 0 puts the asker in line.
    pub fn available(&mut self, now: Mono, asker: Asker, from: SourceClass) -> u64 {
        let class = self.class(asker);
        let wide = if is_wide(from) {
            class.wide.available(now, asker.owner)
        } else {
            u64::MAX
        };
        if wide == 0 {
            return 0;
        }
        wide.min(class.all.available(now, asker.owner))
    }

    pub fn pay(&mut self, asker: Asker, from: SourceClass, bytes: u64) {
        let class = self.class(asker);
        class.all.take(asker.owner, bytes);
        if is_wide(from) {
            class.wide.take(asker.owner, bytes);
        }
    }

    /// They will not come after all.
    pub fn repay(&mut self, asker: Asker, from: SourceClass, bytes: u64) {
        let class = self.class(asker);
        class.all.bucket.give_back(bytes);
        if is_wide(from) {
            class.wide.bucket.give_back(bytes);
        }
    }

    /// What one download of this class may get at most; 0 is no cap.
    pub fn cap_bytes_per_s(&self, foreground: bool) -> u64 {
        let class = if foreground {
            &self.foreground
        } else {
            &self.background
        };
        let caps = [class.all.bucket.rate(), class.wide.bucket.rate()];
        caps.into_iter().filter(|cap| *cap > 0).min().unwrap_or(0)
    }

    /// Bytes that have come.
    pub fn arrived(&mut self, now: Mono, asker: Asker, from: SourceClass, bytes: u64) {
        if asker.foreground {
            self.foreground_rate.add(now, bytes);
            if self.busy_since.is_none() {
                self.busy_since = Some(now);
                self.balance(now);
            }
        }
        if is_wide(from) {
            self.line.add(now, bytes);
        }
    }

    /// Whoever is to be asked what it wants now; then [`Downlink::end_turn`].
    pub fn next_turn(&mut self, now: Mono) -> Option<u64> {
        let [a, b] = self.foreground.meters();
        let [c, d] = self.background.meters();
        [a, b, c, d].into_iter().find_map(|meter| meter.next(now))
    }

    pub fn end_turn(&mut self) {
        for class in [&mut self.foreground, &mut self.background] {
            class
                .meters()
                .into_iter()
                .for_each(|meter| meter.turn = None);
        }
    }

    /// A download is over.
    pub fn forget(&mut self, owner: u64) {
        for class in [&mut self.foreground, &mut self.background] {
            class
                .meters()
                .into_iter()
                .for_each(|meter| meter.forget(owner));
        }
    }

    pub fn on_tick(&mut self, now: Mono) {
        if self.busy_since.is_some() && self.balanced_at + BALANCE_EVERY <= now {
            self.balance(now);
        }
    }

    pub fn deadline(&self) -> Option<Deadline> {
        let meters = [&self.foreground, &self.background]
            .into_iter()
            .flat_map(|class| [&class.all, &class.wide]);
        let ready = meters.filter_map(Meter::ready_at).min();
        let ready = ready.map(|at| Deadline::new(at, "download bandwidth"));
        let balance = self.busy_since.map(|_| {
            let at = self.balanced_at + BALANCE_EVERY;
            Deadline::new(at, "the foreground's share")
        });
        Deadline::earlier(ready, balance)
    }

    /// What the line was seen to carry, peers in the same network left out.
    pub fn line_bytes_per_s(&self) -> Option<u64> {
        (self.line.peak_bytes_per_s > 0).then_some(self.line.peak_bytes_per_s)
    }

    /// Another network: what was measured means nothing.
    pub fn forget_line(&mut self) {
        self.line = Line::default();
    }

    fn balance(&mut self, now: Mono) {
        self.balanced_at = now;
        let rate = self.foreground_rate.bytes_per_s(now);
        if rate == 0 {
            self.busy_since = None;
        }
        let cap = self.background.cap_bytes_per_s;
        let share = (rate / BACKGROUND_SHARE).max(BACKGROUND_MIN);
        let cap = match (self.busy_since.is_some(), cap) {
            (false, cap) => cap,
            (true, 0) => share,
            (true, cap) => cap.min(share),
        };
        self.background.all.bucket.set_rate(now, cap);
    }

    fn class(&mut self, asker: Asker) -> &mut Class {
        if asker.foreground {
            &mut self.foreground
        } else {
            &mut self.background
        }
    }
}

/// Percentages of the line do not count peers in the same network.
const fn is_wide(from: SourceClass) -> bool {
    !matches!(from, SourceClass::LinkLocal | SourceClass::Lan)
}

/// The most the line gave in any span of two seconds.
#[derive(Debug, Default)]
struct Line {
    span: u64,
    bytes: u64,
    peak_bytes_per_s: u64,
}

impl Line {
    fn add(&mut self, now: Mono, bytes: u64) {
        let span = now.as_us() / LINE_SPAN_US;
        if span != self.span {
            let rate = self.bytes * 1_000_000 / LINE_SPAN_US;
            self.peak_bytes_per_s = self.peak_bytes_per_s.max(rate);
            (self.span, self.bytes) = (span, 0);
        }
        self.bytes += bytes;
    }
}

const LINE_SPAN_US: u64 = 2_000_000;
const BALANCE_EVERY: Duration = Duration::from_secs(1);
/// Background downloads get this part of the foreground's present rate, and never less than a little.
const BACKGROUND_SHARE: u64 = 10;
const BACKGROUND_MIN: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::HostFacts;
    use crate::policy::{Usage, limits};
    use crate::settings::Settings;
    use crate::time::Wall;

    const BACK: Asker = Asker {
        owner: 1,
        foreground: false,
    };
    const FORE: Asker = Asker {
        owner: 9,
        foreground: true,
    };

    fn downlink(change: impl FnOnce(&mut Settings)) -> Downlink {
        let mut settings = Settings::default();
        change(&mut settings);
        let usage = Usage {
            downlink_bytes_per_s: Some(1_000_000),
            ..Usage::default()
        };
        let mut down = Downlink::default();
        let limits = limits(&settings, &HostFacts::default(), &usage, Wall::default());
        down.set(Mono::ZERO, &limits);
        down
    }

    fn at(ms: u64) -> Mono {
        Mono::from_us(ms * 1000)
    }

    #[test]
    fn three_downloads_share_a_cap_evenly() {
        let mut down = downlink(|s| s.max_background_download_bandwidth = 1_000_000);
        let mut got = [0_u64; 3];
        let asks = |down: &mut Downlink, got: &mut [u64; 3], owner: usize, ms| {
            let asker = Asker {
                owner: owner as u64,
                ..BACK
            };
            // The first is greedy: it asks at every moment; each takes chunks of its own size.
            while down.available(at(ms), asker, SourceClass::Origin) > 0 {
                let chunk = 16_384;
                down.pay(asker, SourceClass::Origin, chunk);
                got[owner] += chunk;
            }
        };
        for ms in 0..10_000 {
            asks(&mut down, &mut got, 0, ms);
            if ms == 0 {
                asks(&mut down, &mut got, 1, ms);
                asks(&mut down, &mut got, 2, ms);
            }
            while let Some(owner) = down.next_turn(at(ms)) {
                asks(&mut down, &mut got, owner as usize, ms);
                down.end_turn();
            }
        }
        let total: u64 = got.iter().sum();
        assert!((9_900_000..=10_150_000).contains(&total), "{total}");
        for share in got {
            assert!(share.abs_diff(total / 3) < 100_000, "{got:?}");
        }
    }

    #[test]
    fn percentages_leave_peers_in_the_lan_alone() {
        let mut down = downlink(|s| s.percentage_max_background_bandwidth.0 = 10);
        assert_eq!(down.cap_bytes_per_s(false), 100_000);
        assert_eq!(down.available(at(0), BACK, SourceClass::Lan), u64::MAX);
        for far in [SourceClass::Origin, SourceClass::Cache, SourceClass::Group] {
            assert!(down.available(at(0), BACK, far) <= 100_000, "{far:?}");
        }
        assert_eq!(down.available(at(0), FORE, SourceClass::Origin), u64::MAX);
    }

    #[test]
    fn the_background_gets_a_tenth_while_the_foreground_is_busy() {
        let mut down = downlink(|_| ());
        assert_eq!(down.cap_bytes_per_s(false), 0);
        for ms in 0..5000 {
            down.arrived(at(ms), FORE, SourceClass::Origin, 2000);
            down.on_tick(at(ms));
        }
        let cap = down.cap_bytes_per_s(false);
        assert!((190_000..=210_000).contains(&cap), "{cap}");
        for ms in 5000..9000 {
            down.on_tick(at(ms));
        }
        assert_eq!(down.cap_bytes_per_s(false), 0);
        let line = down.line_bytes_per_s().expect("measured");
        assert!((1_900_000..=2_100_000).contains(&line), "{line}");
    }
}
