//! On which terms a download works: what it may receive now, which caches it may ask, whether it is paused.
//!
//! Decides nothing that policy has not decided: it applies the limits in force to one download.

use super::{Around, Asker, Job, JobEvent};
use crate::command::Level;
use crate::http::{Ban, Tiers};
use crate::ids::SourceId;
use crate::policy::ClassLimits;
use crate::stats::SourceClass;
use crate::time::Mono;

impl Job {
    pub(super) const fn class<'a>(&self, a: &Around<'a>) -> &'a ClassLimits {
        a.limits.class(self.request.foreground)
    }

    pub(super) const fn asker(&self, a: &Around<'_>) -> Asker {
        Asker {
            owner: a.owner,
            foreground: self.request.foreground,
        }
    }

    /// Bytes that may be ordered from such a source now.
    pub(super) fn allowance(&mut self, from: SourceClass, a: &mut Around<'_>) -> u64 {
        let asker = self.asker(a);
        let own = self.limit.available(a.now.mono);
        if own == 0 {
            return 0;
        }
        own.min(a.down.available(a.now.mono, asker, from))
    }

    pub(super) fn pay(&mut self, from: SourceClass, bytes: u64, a: &mut Around<'_>) {
        self.limit.take(bytes);
        a.down.pay(self.asker(a), from, bytes);
    }

    pub(super) fn arrived(&mut self, source: SourceId, bytes: u64, a: &mut Around<'_>) {
        self.tally.arrived(a.now.mono, source, bytes);
        let class = self.tally.class(source);
        a.down.arrived(a.now.mono, self.asker(a), class, bytes);
    }

    /// The lowest cap on this download; 0 is none.
    pub(super) fn cap_bytes_per_s(&self, a: &Around<'_>) -> u64 {
        let shared = a.down.cap_bytes_per_s(self.request.foreground);
        let caps = [self.limit.rate(), shared];
        caps.into_iter().filter(|cap| *cap > 0).min().unwrap_or(0)
    }

    /// Other sources may be able to take more work now.
    pub const fn look_around(&mut self) {
        self.stale.all = true;
    }

    /// Another download has found a cache wanting.
    pub fn heed_ban(&mut self, ban: Ban) {
        self.stale.web = true;
        self.web.heed(ban);
    }

    /// Settings, facts or the hour have changed something.
    pub fn on_limits(&mut self, a: &mut Around<'_>) {
        self.stale.all = true;
        self.retier(a);
        self.heed_pause(a);
    }

    /// Somebody waits for it from now on, or nobody does.
    pub fn prioritise(&mut self, foreground: bool, a: &mut Around<'_>) {
        self.request.foreground = foreground;
        self.on_limits(a);
    }

    /// May peers be met for this download? Told when it is identified, and whenever the answer changes.
    pub fn on_may_meet(&mut self, may_meet: bool, a: &mut Around<'_>) {
        self.may_meet = may_meet && self.knows_peers;
        if !self.may_meet {
            self.web.allow_from(a.now.mono);
        }
        self.stale.all = true;
        self.retier(a);
    }

    pub(super) fn heed_pause(&mut self, a: &mut Around<'_>) {
        let paused = self.class(a).paused.clone().filter(|_| !self.sharing);
        if paused.is_some() == self.paused.is_some() {
            return;
        }
        let text = match &paused {
            Some(reason) => alloc::format!("{} waits: {reason}", self.request.output),
            None => alloc::format!("{} goes on", self.request.output),
        };
        if !self.is_ended() {
            a.ev.push(JobEvent::Log(Level::Info, text));
        }
        self.paused = paused;
        self.last_progress = a.now.mono;
        self.stale.all = true;
        if self.paused.is_some() && !self.is_ended() {
            self.drop_lanes(a);
            for session in a.sessions.values_mut() {
                session.set_interested(a.now.mono, false, a.fx);
            }
        }
    }

    /// Which caches may be asked, and when the origin.
    pub(super) fn tiers(&mut self, a: &Around<'_>) -> Tiers {
        let class = self.class(a);
        let peers_first = self.may_meet && self.metainfo.is_some();
        let delay = class.http_delay;
        let until = if peers_first && !delay.is_zero() {
            self.started + delay
        } else {
            Mono::ZERO
        };
        let no_caches = a.limits.caches.is_empty();
        self.web.delayed_until = if class.delay_includes_cache || no_caches {
            until
        } else {
            Mono::ZERO
        };
        Tiers {
            caches: a.limits.caches.clone(),
            fallback: class.cache_fallback,
            since: self.started,
            origin_from: until,
            bans: a.bans.clone(),
        }
    }

    /// Caches or times have changed.
    pub(super) fn retier(&mut self, a: &mut Around<'_>) {
        let tiers = self.tiers(a);
        self.stale.web = true;
        if self
            .web
            .source
            .as_ref()
            .is_some_and(|web| web.has_other_caches(&tiers))
        {
            self.drop_lanes(a);
        }
        if let Some(web) = &mut self.web.source {
            web.set_tiers(tiers);
        }
    }
}
