//! The addresses of one file, as alternatives: which one to ask now.
//!
//! Cache servers come first, in turn, then the origin's own URLs. Within a tier decides by success: stay where it
//! works, go to the next after a failure, come back later. Backs off exponentially with jitter per address; a final
//! answer (404, bad certificate) ends an address for good, or bans a cache for some time. Remembers where redirects
//! led, and forgets it when that target fails (signed URLs expire).
//!
//! The origin is asked only when no cache can be, and not before [`Tiers`] allow it. A cache that is banned is
//! passed over at once, whatever the fallback delay; but where the origin is never to be asked, a ban is no more
//! than a wait.
//!
//! Tests: at the end of this file and `http/web_tests.rs`, `core/tests/caches.rs`.

use crate::failure::{Failure, FailureKind};
use crate::http::bans::{Ban, Bans};
use crate::http::cache_host::{CacheHost, cache_url};
use crate::http::url::Url;
use crate::rng::Rng;
use crate::settings::Fallback;
use crate::time::{Mono, Now};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

/// Cache servers, and how they give way to the origin.
#[derive(Clone, Debug, Default)]
pub struct Tiers {
    /// In the order they are to be used.
    pub caches: Vec<CacheHost>,
    pub fallback: Fallback,
    /// When the download began: the fallback delay counts from there.
    pub since: Mono,
    /// The origin is not asked before.
    pub origin_from: Mono,
    /// Caches that other downloads found wanting.
    pub bans: Bans,
}

#[derive(Debug)]
pub(crate) struct Targets {
    list: Vec<Target>,
    urls: Vec<Url>,
    tiers: Tiers,
    cache: usize,
    origin: usize,
    rng: Rng,
}

#[derive(Debug)]
struct Target {
    url: Url,
    /// Number of the origin's URL that this is an address of.
    resource: usize,
    /// `None`: the origin's own.
    cache: Option<CacheHost>,
    /// Where redirects led.
    resolved: Option<Url>,
    dead: bool,
    /// In a row, without anything good in between.
    failures: u32,
    retry_at: Option<Mono>,
    /// Why it failed last.
    why: String,
}

impl Target {
    fn new(url: Url, resource: usize, cache: Option<CacheHost>) -> Self {
        Self {
            url,
            resource,
            cache,
            resolved: None,
            dead: false,
            failures: 0,
            retry_at: None,
            why: String::new(),
        }
    }

    fn waits(&self, now: Now) -> bool {
        self.retry_at.is_some_and(|at| now.mono < at)
    }
}

impl Targets {
    pub(crate) fn new(urls: Vec<Url>, tiers: Tiers, rng: Rng) -> Self {
        let mut targets = Self {
            list: Vec::new(),
            urls,
            tiers: Tiers::default(),
            cache: 0,
            origin: 0,
            rng,
        };
        targets.set_tiers(tiers);
        targets
    }

    pub(crate) fn caches(&self) -> &[CacheHost] {
        &self.tiers.caches
    }

    /// Other caches, or another time. What is known of addresses that stay is kept.
    pub(crate) fn set_tiers(&mut self, tiers: Tiers) {
        if self.tiers.caches == tiers.caches && !self.list.is_empty() {
            self.tiers = tiers;
            return;
        }
        let old: Vec<Target> = core::mem::take(&mut self.list);
        let addresses = tiers.caches.iter().flat_map(|cache| {
            let of =
                |(resource, url)| Some((cache_url(cache, url)?, resource, Some(cache.clone())));
            self.urls.iter().enumerate().filter_map(of)
        });
        let origins = self.urls.iter().enumerate();
        let origins = origins.map(|(resource, url)| (url.clone(), resource, None));
        let mut old: Vec<Option<Target>> = old.into_iter().map(Some).collect();
        self.list = addresses
            .chain(origins)
            .map(|(url, resource, cache)| {
                let same = old.iter_mut().find(|target| {
                    target
                        .as_ref()
                        .is_some_and(|target| target.url == url && target.cache == cache)
                });
                same.and_then(Option::take)
                    .unwrap_or_else(|| Target::new(url, resource, cache))
            })
            .collect();
        self.cache = 0;
        self.origin = self.list.len() - self.urls.len();
        self.tiers = tiers;
    }

    /// The address to ask now, and its number. `sticky`: do not leave the origin's current URL before it failed a
    /// few times in a row, because another server may have another file.
    pub(crate) fn pick(&mut self, now: Now, sticky: bool) -> Option<(usize, Url)> {
        let index = match self.pick_cache(now) {
            Some(index) => {
                self.cache = index;
                index
            }
            None => self.pick_origin(now, sticky)?,
        };
        let target = self.list.get(index)?;
        let url = target.resolved.as_ref().unwrap_or(&target.url);
        Some((index, url.clone()))
    }

    pub(crate) fn pick_cache(&self, now: Now) -> Option<usize> {
        let caches = 0..self.list.len() - self.urls.len();
        let usable = |index: usize| {
            let target = self.list.get(index)?;
            let good = !target.dead && !target.waits(now) && !self.is_banned(target, now.mono);
            good.then_some((index, target.failures))
        };
        if caches.contains(&self.cache) && usable(self.cache).is_some() {
            return Some(self.cache);
        }
        let count = caches.len();
        (1..=count)
            .filter_map(|step| usable((self.cache + step) % count))
            .min_by_key(|(_, failures)| *failures)
            .map(|(index, _)| index)
    }

    fn pick_origin(&mut self, now: Now, sticky: bool) -> Option<usize> {
        if !self.may_ask_origin(now.mono) {
            return None;
        }
        let current = self.list.get(self.origin)?;
        let waits = current.waits(now);
        if sticky && !current.dead && waits && current.failures < STICKY_FAILURES {
            return None;
        }
        if current.dead || waits {
            self.origin = self.best_origin(now)?;
        }
        Some(self.origin)
    }

    fn may_ask_origin(&self, now: Mono) -> bool {
        now >= self.tiers.origin_from
            && match self.tiers.fallback {
                _ if self.tiers.caches.is_empty() => true,
                Fallback::AtOnce => true,
                Fallback::After(delay) => now >= self.tiers.since + delay || self.are_banned(now),
                Fallback::Never => false,
            }
    }

    /// Every cache is.
    fn are_banned(&self, now: Mono) -> bool {
        let mut caches = self.list.iter().filter(|target| target.cache.is_some());
        caches.all(|target| target.dead || self.is_banned(target, now))
    }

    fn is_banned(&self, target: &Target, now: Mono) -> bool {
        let (Some(cache), Some(url)) = (&target.cache, self.urls.get(target.resource)) else {
            return false;
        };
        // Where there is nobody else to ask, it is asked again as often as one that fails otherwise.
        self.tiers.fallback != Fallback::Never && self.tiers.bans.holds(cache, url, now)
    }

    /// Can any address be asked now?
    pub(crate) fn usable(&mut self, now: Now, sticky: bool) -> bool {
        self.pick(now, sticky).is_some()
    }

    pub(crate) fn url(&self, index: usize) -> Option<&Url> {
        self.list.get(index).map(|target| &target.url)
    }

    /// The origin's first URL.
    pub(crate) fn first_origin(&self) -> Option<&Url> {
        self.urls.first()
    }

    pub(crate) fn resource(&self, index: usize) -> Option<usize> {
        self.list.get(index).map(|target| target.resource)
    }

    pub(crate) fn cache(&self, index: usize) -> Option<&CacheHost> {
        self.list.get(index)?.cache.as_ref()
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

    /// Not this cache for a while: for this file's origin, or for anything.
    pub(crate) fn ban(&mut self, now: Now, index: usize, whole: bool, why: &str) -> Option<Ban> {
        self.failed(now, index, why, None);
        let target = self.list.get(index)?;
        let cache = target.cache.clone()?;
        let ban = if whole {
            Ban::all(cache, now.mono)
        } else {
            Ban::of_origin(cache, self.urls.get(target.resource)?, now.mono)
        };
        self.tiers.bans.add(ban.clone());
        Some(ban)
    }

    /// Another download has banned a cache.
    pub(crate) fn heed(&mut self, ban: Ban) {
        self.tiers.bans.add(ban);
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

    /// When something may be asked that cannot be now; `None` if nothing will.
    pub(crate) fn retry_at(&self, now: Mono) -> Option<Mono> {
        let waits = self.list.iter().filter_map(|target| target.retry_at);
        let bans = self
            .tiers
            .bans
            .ends()
            .filter(|_| !self.tiers.caches.is_empty());
        let fallback = match self.tiers.fallback {
            Fallback::After(delay) if !self.tiers.caches.is_empty() => {
                Some(self.tiers.since + delay)
            }
            _ => None,
        };
        let origin = [fallback, Some(self.tiers.origin_from)];
        waits
            .chain(bans)
            .chain(origin.into_iter().flatten())
            .filter(|at| *at > now)
            .min()
    }

    /// Forget waits that are over.
    pub(crate) fn wake(&mut self, now: Now) {
        for target in &mut self.list {
            if target.retry_at.is_some_and(|at| at <= now.mono) {
                target.retry_at = None;
            }
        }
        self.tiers.bans.expire(now.mono);
    }

    /// Failures in a row of the most promising address.
    pub(crate) fn failures(&self) -> u32 {
        let never = self.is_origin_barred();
        let alive = self.list.iter().filter(|target| !target.dead);
        alive
            .filter(|target| !never || target.cache.is_some())
            .map(|target| target.failures)
            .min()
            .unwrap_or(u32::MAX)
    }

    /// What to tell when nothing can be had.
    pub(crate) fn failure(&self) -> Failure {
        let what = match &self.urls[..] {
            [] => "no URL to fetch from".to_string(),
            [only] => format!("cannot fetch {only}"),
            [first, rest @ ..] => {
                format!("cannot fetch {first} or {} other URLs", rest.len())
            }
        };
        let mut whys: Vec<String> = Vec::new();
        for target in self.list.iter().filter(|target| !target.why.is_empty()) {
            let why = match &target.cache {
                Some(cache) => format!("cache {cache}: {}", target.why),
                None => target.why.clone(),
            };
            if !whys.contains(&why) {
                whys.push(why);
            }
        }
        Failure::new(FailureKind::Unavailable, what, whys.join(", "))
    }

    /// The settings keep the origin out altogether.
    fn is_origin_barred(&self) -> bool {
        self.tiers.fallback == Fallback::Never && !self.tiers.caches.is_empty()
    }

    /// What somebody can do about it, if the settings keep the origin out.
    pub(crate) fn remedy(&self) -> Option<&'static str> {
        self.is_origin_barred().then_some(
            "the origin is not asked because the cache fallback delay is \"never\" \
             (delay_cache_server_fallback_foreground and _background)",
        )
    }

    /// Usable, fewest failures, next after the current one.
    fn best_origin(&self, now: Now) -> Option<usize> {
        let count = self.urls.len();
        let first = self.list.len() - count;
        (1..=count)
            .map(|step| first + (self.origin - first + step) % count)
            .filter_map(|index| Some((index, self.list.get(index)?)))
            .filter(|(_, target)| !target.dead && !target.waits(now))
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
        Targets::new(urls, Tiers::default(), Rng::from_u64(1))
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
            let retry_at = targets.retry_at(at(now).mono).expect("a wait").as_us() / 1000;
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
        let wait = targets
            .retry_at(at(now).mono)
            .expect("a wait")
            .since(at(now).mono);
        assert!(wait >= Duration::from_secs(7) && wait <= Duration::from_secs(9));
        targets.wake(at(now + 9000));
        assert_eq!(targets.retry_at(at(now + 9000).mono), None);
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

    fn with_caches(fallback: Fallback) -> Targets {
        let urls = vec![Url::parse("http://o/f").expect("url")];
        let tiers = Tiers {
            caches: ["c", "d"].map(|c| c.parse().expect("a cache")).to_vec(),
            fallback,
            ..Tiers::default()
        };
        Targets::new(urls, tiers, Rng::from_u64(1))
    }

    fn host(targets: &mut Targets, ms: u64) -> Option<String> {
        let (_, url) = targets.pick(at(ms), true)?;
        Some(url.authority().to_string())
    }

    fn fail(targets: &mut Targets, ms: u64) {
        let (index, _) = targets.pick(at(ms), true).expect("an address");
        targets.failed(at(ms), index, "503", None);
    }

    #[test]
    fn caches_in_turn_then_the_origin_at_once() {
        let mut targets = with_caches(Fallback::AtOnce);
        assert_eq!(host(&mut targets, 0).as_deref(), Some("c"));
        fail(&mut targets, 0);
        assert_eq!(host(&mut targets, 0).as_deref(), Some("d"));
        fail(&mut targets, 0);
        assert_eq!(host(&mut targets, 0).as_deref(), Some("o"));
        assert_ne!(
            host(&mut targets, 1000).as_deref(),
            Some("o"),
            "a cache is back"
        );
    }

    #[test]
    fn the_origin_waits_for_the_fallback_delay_exactly() {
        let mut targets = with_caches(Fallback::After(Duration::from_secs(10)));
        let mut now = 0;
        loop {
            while host(&mut targets, now).is_some_and(|host| host != "o") {
                fail(&mut targets, now);
            }
            if host(&mut targets, now).as_deref() == Some("o") {
                break;
            }
            now = targets
                .retry_at(at(now).mono)
                .expect("a wait")
                .as_us()
                .div_ceil(1000);
        }
        assert_eq!(now, 10_000);
        let mut never = with_caches(Fallback::Never);
        fail(&mut never, 0);
        fail(&mut never, 0);
        assert_eq!(host(&mut never, 0), None);
        assert!(host(&mut never, 90_000_000).is_some_and(|host| host != "o"));
    }

    #[test]
    fn bans_pass_a_cache_over_for_their_time() {
        let mut targets = with_caches(Fallback::After(Duration::from_secs(3600)));
        for expected in ["c", "d"] {
            let (index, url) = targets.pick(at(0), true).expect("a cache");
            assert_eq!(url.authority(), expected);
            assert!(
                targets
                    .ban(at(0), index, expected == "c", "refused")
                    .is_some()
            );
        }
        assert_eq!(
            host(&mut targets, 0).as_deref(),
            Some("o"),
            "a ban beats the delay"
        );
        let end = Bans::LENGTH.as_millis() as u64;
        assert_eq!(host(&mut targets, end - 1).as_deref(), Some("o"));
        assert_eq!(host(&mut targets, end).as_deref(), Some("d"));
        let mut never = with_caches(Fallback::Never);
        never.ban(at(0), 0, true, "refused");
        never.ban(at(0), 1, true, "refused");
        assert_eq!(host(&mut never, 0), None);
        assert!(host(&mut never, 1000).is_some(), "asked again all the same");
    }

    #[test]
    fn the_origin_is_held_back_and_a_cache_is_not() {
        let urls = vec![Url::parse("http://o/f").expect("url")];
        let tiers = Tiers {
            caches: vec!["c".parse().expect("a cache")],
            origin_from: at(5000).mono,
            ..Tiers::default()
        };
        let mut targets = Targets::new(urls, tiers, Rng::from_u64(1));
        fail(&mut targets, 0);
        assert_eq!(host(&mut targets, 0), None);
        let (index, _) = targets.pick(at(1000), true).expect("the cache");
        targets.ban(at(1000), index, true, "gone");
        assert_eq!(host(&mut targets, 4999), None);
        assert_eq!(host(&mut targets, 5000).as_deref(), Some("o"));
    }
}
