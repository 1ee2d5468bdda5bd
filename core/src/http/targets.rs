//! The URLs of one file, as alternatives: which one to ask now.
//!
//! Decides by success: stay where it works, go to the next after a failure, come back later. Backs off
//! exponentially with jitter per URL; a final answer (404, bad certificate) ends a URL for good. Remembers
//! where redirects led, and forgets it when that target fails (signed URLs expire).
//!
//! Tests: at the end of this file and `http/web_tests.rs`.

use crate::failure::{Failure, FailureKind};
use crate::http::url::Url;
use crate::rng::Rng;
use crate::time::{Mono, Now};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

#[derive(Debug)]
pub(crate) struct Targets {
    list: Vec<Target>,
    current: usize,
    rng: Rng,
}

#[derive(Debug)]
struct Target {
    url: Url,
    /// Where redirects led.
    resolved: Option<Url>,
    dead: bool,
    /// In a row, without anything good in between.
    failures: u32,
    retry_at: Option<Mono>,
    /// Why it failed last.
    why: String,
}

impl Targets {
    pub(crate) fn new(urls: Vec<Url>, rng: Rng) -> Self {
        let list = urls
            .into_iter()
            .map(|url| Target {
                url,
                resolved: None,
                dead: false,
                failures: 0,
                retry_at: None,
                why: String::new(),
            })
            .collect();
        Self {
            list,
            current: 0,
            rng,
        }
    }

    /// The URL to ask now, and its number. `sticky`: do not leave the current one before it failed a few
    /// times in a row, because another server may have another file.
    pub(crate) fn pick(&mut self, now: Now, sticky: bool) -> Option<(usize, Url)> {
        let current = self.list.get(self.current)?;
        let waits = current.retry_at.is_some_and(|at| now.mono < at);
        if sticky && !current.dead && waits && current.failures < STICKY_FAILURES {
            return None;
        }
        if current.dead || waits {
            self.current = self.best(now)?;
        }
        let target = self.list.get(self.current)?;
        let url = target.resolved.as_ref().unwrap_or(&target.url);
        Some((self.current, url.clone()))
    }

    /// Can any URL be asked now?
    pub(crate) fn usable(&mut self, now: Now, sticky: bool) -> bool {
        self.pick(now, sticky).is_some()
    }

    pub(crate) fn url(&self, index: usize) -> Option<&Url> {
        self.list.get(index).map(|target| &target.url)
    }

    /// Something good came from it.
    pub(crate) fn succeeded(&mut self, index: usize) {
        if let Some(target) = self.list.get_mut(index) {
            target.failures = 0;
            target.retry_at = None;
        }
    }

    /// Not now. Without `after` the wait doubles from failure to failure.
    pub(crate) fn failed(&mut self, now: Now, index: usize, why: &str, after: Option<Duration>) {
        let Some(target) = self.list.get_mut(index) else {
            return;
        };
        target.failures = target.failures.saturating_add(1);
        target.why = why.to_string();
        let doublings = (target.failures - 1).min(16);
        let wait = (FIRST_WAIT * (1 << doublings)).min(LONGEST_WAIT);
        let wait = after.unwrap_or(wait).max(FIRST_WAIT);
        let wait_us = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        // Up to a quarter later, so that many machines do not come back as one.
        let jitter = Duration::from_micros(self.rng.below(wait_us / 4 + 1));
        target.retry_at = Some(now.mono + wait + jitter);
    }

    /// Never again.
    pub(crate) fn died(&mut self, index: usize, why: &str) {
        if let Some(target) = self.list.get_mut(index) {
            target.dead = true;
            target.retry_at = None;
            target.why = why.to_string();
        }
    }

    /// A redirect led here.
    pub(crate) fn resolved(&mut self, index: usize, to: &Url) {
        if let Some(target) = self.list.get_mut(index) {
            target.resolved = Some(to.clone());
        }
    }

    /// Forget where redirects led; true if there was something to forget.
    pub(crate) fn unresolve(&mut self, index: usize) -> bool {
        self.list
            .get_mut(index)
            .is_some_and(|target| target.resolved.take().is_some())
    }

    /// When the first URL that is backing off can be asked again; `None` if none will.
    pub(crate) fn retry_at(&self) -> Option<Mono> {
        self.list.iter().filter_map(|target| target.retry_at).min()
    }

    /// Forget waits that are over.
    pub(crate) fn wake(&mut self, now: Now) {
        for target in &mut self.list {
            if target.retry_at.is_some_and(|at| at <= now.mono) {
                target.retry_at = None;
            }
        }
    }

    /// Failures in a row of the most promising URL.
    pub(crate) fn failures(&self) -> u32 {
        let alive = self.list.iter().filter(|target| !target.dead);
        alive
            .map(|target| target.failures)
            .min()
            .unwrap_or(u32::MAX)
    }

    /// What to tell when nothing can be had.
    pub(crate) fn failure(&self) -> Failure {
        let what = match &self.list[..] {
            [] => "no URL to fetch from".to_string(),
            [only] => format!("cannot fetch {}", only.url),
            [first, rest @ ..] => {
                format!("cannot fetch {} or {} other URLs", first.url, rest.len())
            }
        };
        let mut whys: Vec<String> = Vec::new();
        for target in self.list.iter().filter(|target| !target.why.is_empty()) {
            if !whys.contains(&target.why) {
                whys.push(target.why.clone());
            }
        }
        Failure::new(FailureKind::Unavailable, what, whys.join(", "))
    }

    /// Usable, fewest failures, next after the current one.
    fn best(&self, now: Now) -> Option<usize> {
        let count = self.list.len();
        (1..=count)
            .map(|step| (self.current + step) % count)
            .filter_map(|index| Some((index, self.list.get(index)?)))
            .filter(|(_, target)| !target.dead && target.retry_at.is_none_or(|at| at <= now.mono))
            .min_by_key(|(_, target)| target.failures)
            .map(|(index, _)| index)
    }
}

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const STICKY_FAILURES: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn targets(urls: &[&str]) -> Targets {
        let urls = urls
            .iter()
            .map(|url| Url::parse(url).expect("url"))
            .collect();
        Targets::new(urls, Rng::from_u64(1))
    }

    fn at(ms: u64) -> Now {
        Now {
            mono: Mono::from_us(ms * 1000),
            ..Now::default()
        }
    }

    #[test]
    fn waits_double_with_jitter_up_to_a_minute() {
        let mut targets = targets(&["http://a/"]);
        let mut now = 0;
        for expected_ms in [
            250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000,
        ] {
            targets.failed(at(now), 0, "no", None);
            let retry_at = targets.retry_at().expect("a wait").as_us() / 1000;
            let wait = retry_at - now;
            assert!(
                (expected_ms..=expected_ms * 5 / 4).contains(&wait),
                "{wait} for {expected_ms}"
            );
            assert!(!targets.usable(at(retry_at - 1), false));
            now = retry_at + 1;
            assert!(targets.usable(at(now), false));
        }
        targets.succeeded(0);
        targets.failed(at(now), 0, "no", Some(Duration::from_secs(7)));
        let wait = targets.retry_at().expect("a wait").since(at(now).mono);
        assert!(wait >= Duration::from_secs(7) && wait <= Duration::from_secs(9));
        targets.wake(at(now + 9000));
        assert_eq!(targets.retry_at(), None);
    }

    #[test]
    fn the_next_url_is_taken_and_the_first_comes_back() {
        let mut targets = targets(&["http://a/", "http://b/", "http://c/"]);
        let pick = |targets: &mut Targets, ms| targets.pick(at(ms), false).map(|(index, _)| index);
        assert_eq!(pick(&mut targets, 0), Some(0));
        targets.failed(at(0), 0, "refused", None);
        assert_eq!(pick(&mut targets, 0), Some(1));
        assert_eq!(pick(&mut targets, 60_000), Some(1));
        targets.died(1, "404");
        assert_eq!(pick(&mut targets, 0), Some(2));
        targets.died(2, "403");
        assert_eq!(pick(&mut targets, 0), None);
        assert_eq!(pick(&mut targets, 60_000), Some(0));
        targets.died(0, "403");
        assert_eq!(pick(&mut targets, 60_000), None);
        let failure = targets.failure().to_string();
        assert_eq!(failure, "cannot fetch http://a/ or 2 other URLs: 403, 404");
    }

    #[test]
    fn an_unproved_file_is_not_mixed_lightly() {
        let mut targets = targets(&["http://a/", "http://b/"]);
        for _ in 0..3 {
            targets.failed(at(0), 0, "reset", None);
            assert_eq!(targets.pick(at(0), true), None);
        }
        targets.failed(at(0), 0, "reset", None);
        assert_eq!(targets.pick(at(0), true).map(|(index, _)| index), Some(1));
    }

    #[test]
    fn redirects_are_remembered_and_forgotten() {
        let mut targets = targets(&["http://a/"]);
        let there = Url::parse("http://b/signed").expect("url");
        targets.resolved(0, &there);
        assert_eq!(targets.pick(at(0), false), Some((0, there)));
        assert!(targets.unresolve(0));
        assert!(!targets.unresolve(0));
        let urls: Vec<_> = targets
            .pick(at(0), false)
            .into_iter()
            .map(|(_, url)| url)
            .collect();
        assert_eq!(urls, vec![Url::parse("http://a/").expect("url")]);
    }
}
