//! What an answer does to a lane of [`WebSource`]: verdicts become events, retries and facts.

use crate::http::allow::Gate;
use crate::http::body::Framing;
use crate::http::client::{HttpFault, ResponseHead};
use crate::http::proxy::Route;
use crate::http::redirect::Redirect;
use crate::http::validator::Validator;
use crate::http::verdict::{Known, Question, Verdict, judge};
use crate::http::web_source::{Fetch, Lane, WebEvent, WebSource};
use crate::machine::{Effects, Lost};
use crate::time::Now;
use ::http::StatusCode;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use bytes::Bytes;
use core::net::IpAddr;
use core::time::Duration;

/// How a fetch failed.
enum Failing {
    /// Worth another try, perhaps not before this long.
    Later { after: Option<Duration>, busy: bool },
    /// This URL is done for.
    Final,
    /// It cannot be reached or says nothing: a cache is banned for everything.
    Unreachable,
}

const LATER: Failing = Failing::Later {
    after: None,
    busy: false,
};

impl WebSource {
    pub(super) fn on_head(
        &mut self,
        now: Now,
        index: usize,
        head: &ResponseHead,
        fx: &mut Effects,
        ev: &mut Vec<WebEvent>,
    ) {
        let Some(fetch) = self.fetch_of(index).cloned() else {
            return;
        };
        let known = self.known_at(&fetch);
        let question = Question {
            url: &fetch.asked,
            start: fetch.at,
            ranged: fetch.ranged,
            known: known.as_ref(),
            verified: self.verified,
            redirects: fetch.redirects,
            unix_s: now.wall.unix_us.div_euclid(1_000_000),
        };
        let route = self.proxies.route(&fetch.asked);
        match judge(head, &question) {
            Verdict::Part { end, total } => {
                self.on_good_head(index, head, total, true, Some(end), ev);
            }
            Verdict::Whole { length, ranges } => {
                if fetch.ranged && fetch.at > 0 && fetch.with_if_range {
                    // Perhaps only the condition displeased: another date format, another backend's tag.
                    self.if_range = false;
                    return self.ask_again(now, index, head.framing, fx, ev);
                }
                let ranges = ranges || (self.ranges == Some(true) && fetch.at == 0);
                if let Some(fetch) = self.fetch_of(index) {
                    fetch.at = 0;
                }
                self.on_good_head(index, head, length, ranges, length, ev);
                if !ranges {
                    self.stop_others(index, fx, ev);
                }
            }
            Verdict::Nothing => {
                self.on_good_head(index, head, Some(0), true, Some(0), ev);
                self.release(index, head.framing, fx);
                self.finish(index, fx, ev);
            }
            Verdict::Changed { length } => self.on_changed(now, index, length, head, fx, ev),
            Verdict::Redirect(to) => self.on_redirect(now, index, to, head.framing, fx, ev),
            Verdict::Later { why, after, busy } => {
                self.release(index, head.framing, fx);
                let failing = Failing::Later { after, busy };
                self.fail(now, index, &route.blame(why), &failing, fx, ev);
            }
            Verdict::RangesBroken(why) if self.ranges != Some(true) && fetch.ranged => {
                ev.push(WebEvent::Notice(format!(
                    "{}: {why}; asking for the whole file",
                    fetch.asked
                )));
                self.ranges = Some(false);
                self.ask_again(now, index, head.framing, fx, ev);
            }
            Verdict::RangesBroken(why) => {
                self.drop_connection(index, fx);
                self.fail(now, index, &route.blame(why), &LATER, fx, ev);
            }
            Verdict::Final(why) => {
                if self.re_resolve(index) {
                    return self.ask_again(now, index, head.framing, fx, ev);
                }
                self.release(index, head.framing, fx);
                self.fail(now, index, &route.blame(why), &Failing::Final, fx, ev);
            }
        }
    }

    pub(super) fn on_body(
        &mut self,
        now: Now,
        index: usize,
        bytes: Bytes,
        fx: &mut Effects,
        ev: &mut Vec<WebEvent>,
    ) {
        let Some(lane) = self.lanes.get_mut(index) else {
            return;
        };
        if let Some(patience) = lane.drain {
            let left = patience.checked_sub(bytes.len() as u64);
            lane.drain = left;
            if let (Some(_), Some(connection)) = (left, &mut lane.connection) {
                return connection.consumed(now, bytes.len(), fx);
            }
            self.drop_connection(index, fx);
            if self.fetch_of(index).is_some_and(|fetch| fetch.again) {
                self.ask(now, index, fx, ev);
            }
            return;
        }
        self.on_payload(now, index, bytes, fx, ev);
    }

    pub(super) fn on_done(
        &mut self,
        now: Now,
        index: usize,
        reusable: bool,
        fx: &mut Effects,
        ev: &mut Vec<WebEvent>,
    ) {
        let Some(lane) = self.lanes.get_mut(index) else {
            return;
        };
        let drained = lane.drain.take().is_some();
        if !reusable {
            self.drop_connection(index, fx);
        }
        let Some(fetch) = self.fetch_of(index).cloned() else {
            return;
        };
        if drained {
            if fetch.again {
                self.ask(now, index, fx, ev);
            }
        } else if fetch.end.is_some_and(|end| fetch.next >= end) {
            self.finish(index, fx, ev);
        } else if fetch.end.is_none() && fetch.at >= fetch.next {
            // The end of the answer is the end of the file.
            if let Some(known) = &mut self.known {
                known.length = Some(fetch.at);
            }
            self.finish(index, fx, ev);
        } else {
            let why = format!("the answer ended at byte {}", fetch.at);
            let why = self.proxies.route(&fetch.asked).blame(why);
            self.fail(now, index, &why, &LATER, fx, ev);
        }
    }

    pub(super) fn on_fault(
        &mut self,
        now: Now,
        index: usize,
        fault: &HttpFault,
        fx: &mut Effects,
        ev: &mut Vec<WebEvent>,
    ) {
        self.drop_connection(index, fx);
        let Some(fetch) = self.fetch_of(index) else {
            return;
        };
        if fetch.again {
            return self.ask(now, index, fx, ev);
        }
        let asked = fetch.asked.clone();
        if matches!(fault, HttpFault::NoAnswer { reused: true, .. }) && !fetch.retried {
            fetch.retried = true;
            return self.ask(now, index, fx, ev);
        }
        if !fetch.streaming && self.re_resolve(index) {
            return self.ask(now, index, fx, ev);
        }
        let failing = match fault {
            HttpFault::Connect(_) | HttpFault::TimedOut(_) if self.is_cache(index) => {
                Failing::Unreachable
            }
            HttpFault::Connect(Lost::Tls(_)) => Failing::Final,
            HttpFault::ProxyRefused(status) if status.is_client_error() => Failing::Final,
            HttpFault::ProxyRefused(StatusCode::SERVICE_UNAVAILABLE) => Failing::Later {
                after: None,
                busy: true,
            },
            _ => LATER,
        };
        let why = fault.on(&self.proxies.route(&asked));
        self.fail(now, index, &why, &failing, fx, ev);
    }

    /// All that was wanted is here. What is left of the answer is read if it is little, to keep the
    /// connection.
    pub(super) fn finish(&mut self, index: usize, fx: &mut Effects, ev: &mut Vec<WebEvent>) {
        let Some(lane) = self.lanes.get_mut(index) else {
            return;
        };
        let Some(fetch) = lane.fetch.take() else {
            return;
        };
        let idle = lane
            .connection
            .as_ref()
            .is_none_or(|connection| connection.is_idle());
        if !idle && lane.drain.is_none() {
            match fetch.answer_end.filter(|_| fetch.streaming) {
                Some(end) if end.saturating_sub(fetch.at) <= DRAIN_MAX => {
                    // At least one byte of patience, so that a lane that drains is told from one that does not.
                    lane.drain = Some(DRAIN_MAX);
                }
                _ => self.drop_connection(index, fx),
            }
        }
        ev.push(WebEvent::Finished {
            lane: lane_name(index),
        });
    }

    fn on_payload(
        &mut self,
        now: Now,
        index: usize,
        mut bytes: Bytes,
        fx: &mut Effects,
        ev: &mut Vec<WebEvent>,
    ) {
        let busy = self.busy();
        let Some(lane) = self.lanes.get_mut(index) else {
            return;
        };
        let (Some(fetch), Some(connection)) = (&mut lane.fetch, &mut lane.connection) else {
            return;
        };
        let len = bytes.len();
        let before = fetch.next.saturating_sub(fetch.at);
        fetch.at += len as u64;
        let skipped = usize::try_from(before).map_or(len, |before| before.min(len));
        let mut bytes = bytes.split_off(skipped);
        if let Some(end) = fetch.end {
            let wanted = end.saturating_sub(fetch.next);
            bytes.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
        }
        connection.consumed(now, len - bytes.len(), fx);
        lane.rate.add(now.mono, len as u64);
        if !bytes.is_empty() {
            let offset = fetch.next;
            fetch.next += bytes.len() as u64;
            fetch.delivered += bytes.len() as u64;
            lane.unconsumed += bytes.len();
            let lane = lane_name(index);
            ev.push(WebEvent::Bytes {
                lane,
                offset,
                bytes,
            });
        }
        let ended = fetch.end.is_some_and(|end| fetch.next >= end);
        let target = fetch.target;
        if fetch.delivered >= PROGRESS_LEN {
            self.targets.succeeded(target);
        }
        self.trial.on_bytes(now, len, busy);
        if ended {
            self.finish(index, fx, ev);
        }
    }

    fn on_good_head(
        &mut self,
        index: usize,
        head: &ResponseHead,
        length: Option<u64>,
        ranges: bool,
        answer_end: Option<u64>,
        ev: &mut Vec<WebEvent>,
    ) {
        let Some(fetch) = self.fetch_of(index) else {
            return;
        };
        fetch.streaming = true;
        fetch.answer_end = answer_end;
        let (asked, end) = (fetch.asked.clone(), fetch.end);
        let resource = self.fetch_of(index).map(|fetch| fetch.target);
        let resource = resource.and_then(|target| self.targets.resource(target));
        let before = (
            self.known.as_ref().and_then(|known| known.length),
            self.ranges,
        );
        let known = self.known.get_or_insert_with(|| Known {
            length: None,
            validator: None,
            url: asked.clone(),
        });
        known.length = known.length.or(length);
        if known.validator.is_none() || (self.verified && !known.url.same_origin(&asked)) {
            known.validator = Validator::of(&head.headers);
            known.url = asked;
            self.known_resource = resource;
        }
        let length = known.length;
        if !ranges && self.ranges != Some(false) {
            ev.push(WebEvent::Notice(
                "the server does not serve ranges: one sequential stream".to_string(),
            ));
        }
        self.ranges = Some(ranges);
        if !self.facts_told || length.is_none() || before != (length, self.ranges) {
            self.tell_facts(ev);
        }
        if let (Some(length), Some(fetch)) = (length, self.fetch_of(index)) {
            fetch.end = Some(end.map_or(length, |end| end.min(length)));
        }
    }

    fn tell_facts(&mut self, ev: &mut Vec<WebEvent>) {
        if let Some(known) = &self.known {
            self.facts_told = true;
            ev.push(WebEvent::Facts {
                length: known.length,
                ranges: self.ranges == Some(true),
                validator: known.validator.clone(),
                url: known.url.clone(),
            });
        }
    }

    fn on_changed(
        &mut self,
        now: Now,
        index: usize,
        length: Option<u64>,
        head: &ResponseHead,
        fx: &mut Effects,
        ev: &mut Vec<WebEvent>,
    ) {
        let Some(fetch) = self.fetch_of(index).cloned() else {
            return;
        };
        if self.verified {
            let has = length.map_or("another length".to_string(), |n| format!("{n} bytes"));
            let why = format!("the file there has {has}, not what its hashes are for");
            self.release(index, head.framing, fx);
            return self.fail(now, index, &why, &Failing::Final, fx, ev);
        }
        self.close(fx);
        self.known = None;
        self.facts_told = false;
        self.ranges = None;
        self.changes = self.changes.saturating_add(1);
        if self.changes > CHANGES_MAX {
            self.targets.died(fetch.target, "the file keeps changing");
        }
        ev.push(WebEvent::Changed {
            length,
            url: fetch.asked,
        });
        self.tell_if_unavailable(now, ev);
    }

    fn on_redirect(
        &mut self,
        now: Now,
        index: usize,
        to: Redirect,
        framing: Framing,
        fx: &mut Effects,
        ev: &mut Vec<WebEvent>,
    ) {
        if self
            .gate
            .as_ref()
            .is_some_and(|gate| !gate.permits(&to.url))
        {
            let why = format!("it leads to {}, which is not allowed", to.url.origin());
            return self.on_out_of_bounds(now, index, &why, fx, ev);
        }
        let Some(fetch) = self.fetch_of(index) else {
            return;
        };
        fetch.redirects += 1;
        fetch.asked = to.url;
        let (target, asked) = (fetch.target, fetch.asked.clone());
        self.targets.resolved(target, &asked);
        self.ask_again(now, index, framing, fx, ev);
    }

    /// A redirect's target failed: forget it and prepare to ask the original URL. Once per fetch.
    fn re_resolve(&mut self, index: usize) -> bool {
        let Some(fetch) = self.fetch_of(index) else {
            return false;
        };
        // A fetch that was redirected just now saw a fresh target.
        if fetch.re_resolved || fetch.redirects > 0 {
            return false;
        }
        let target = fetch.target;
        if !self.targets.unresolve(target) {
            return false;
        }
        let Some(url) = self.targets.url(target).cloned() else {
            return false;
        };
        if let Some(fetch) = self.fetch_of(index) {
            fetch.re_resolved = true;
            fetch.asked = url;
        }
        true
    }

    /// Does the gate forbid what this lane asks, at the address it led to? (A proxy decides for itself.)
    pub(super) fn is_out_of_bounds(&mut self, index: usize, addr: IpAddr) -> bool {
        let Some(asked) = self.fetch_of(index).map(|fetch| fetch.asked.clone()) else {
            return false;
        };
        let direct = matches!(self.proxies.route(&asked), Route::Direct);
        let permits = |gate: &Gate| gate.permits_at(&asked, addr);
        direct && !self.gate.as_ref().is_none_or(permits)
    }

    pub(super) fn on_out_of_bounds(
        &mut self,
        now: Now,
        index: usize,
        why: &str,
        fx: &mut Effects,
        ev: &mut Vec<WebEvent>,
    ) {
        self.drop_connection(index, fx);
        self.fail(now, index, why, &Failing::Final, fx, ev);
    }

    /// Ask once more, as soon as the connection is free.
    fn ask_again(
        &mut self,
        now: Now,
        index: usize,
        framing: Framing,
        fx: &mut Effects,
        ev: &mut Vec<WebEvent>,
    ) {
        self.release(index, framing, fx);
        if let Some(fetch) = self.fetch_of(index) {
            fetch.again = true;
        }
        if self
            .lanes
            .get(index)
            .is_some_and(|lane| lane.drain.is_none())
        {
            self.ask(now, index, fx, ev);
        }
    }

    /// The body of this answer is not wanted: read it if it is little, or close.
    fn release(&mut self, index: usize, framing: Framing, fx: &mut Effects) {
        let short = match framing {
            Framing::Empty | Framing::Chunked => true,
            Framing::Length(len) => len <= DRAIN_MAX,
            Framing::UntilClose => false,
        };
        if !short {
            self.drop_connection(index, fx);
        } else if let Some(lane) = self.lanes.get_mut(index) {
            lane.drain = Some(DRAIN_MAX);
        }
    }

    /// There is only one stream without ranges.
    fn stop_others(&mut self, index: usize, fx: &mut Effects, ev: &mut Vec<WebEvent>) {
        for other in (0..self.lanes.len()).filter(|other| *other != index) {
            self.drop_connection(other, fx);
            if self
                .lanes
                .get_mut(other)
                .and_then(|lane| lane.fetch.take())
                .is_some()
            {
                let why = "the server does not serve ranges".to_string();
                ev.push(WebEvent::Failed {
                    lane: lane_name(other),
                    why,
                });
            }
        }
    }

    fn fail(
        &mut self,
        now: Now,
        index: usize,
        why: &str,
        failing: &Failing,
        fx: &mut Effects,
        ev: &mut Vec<WebEvent>,
    ) {
        let Some(fetch) = self.lanes.get_mut(index).and_then(|lane| lane.fetch.take()) else {
            return;
        };
        let draining = self
            .lanes
            .get(index)
            .is_some_and(|lane| lane.drain.is_some());
        if !draining
            && self
                .connection_of(index)
                .is_some_and(|connection| !connection.is_idle())
        {
            self.drop_connection(index, fx);
        }
        let streaming = |lane: &&super::web_source::LaneState| {
            lane.fetch.as_ref().is_some_and(|fetch| fetch.streaming)
        };
        let others = u8::try_from(self.lanes.iter().filter(streaming).count()).unwrap_or(u8::MAX);
        let is_cache = self.targets.cache(fetch.target).is_some();
        match failing {
            Failing::Final | Failing::Unreachable if is_cache => {
                let whole = matches!(failing, Failing::Unreachable);
                self.targets.unresolve(fetch.target);
                let ban = self.targets.ban(now, fetch.target, whole, why);
                ev.extend(ban.map(WebEvent::Banned));
            }
            Failing::Final | Failing::Unreachable => {
                self.targets.unresolve(fetch.target);
                self.targets.died(fetch.target, why);
            }
            // What worked this far is worth trying again at once.
            Failing::Later { busy: false, .. } if fetch.delivered >= PROGRESS_LEN => {}
            Failing::Later { after, busy } => {
                if others > 0 || *busy {
                    self.trial.on_refusal(now, others);
                }
                // Refused beside others that run: one connection too many, not a URL that fails.
                if others == 0 || after.is_some() {
                    self.targets.failed(now, fetch.target, why, *after);
                }
            }
        }
        let lane = lane_name(index);
        ev.push(WebEvent::Failed {
            lane,
            why: why.to_string(),
        });
        if others == 0 {
            self.tell_if_unavailable(now, ev);
        }
    }

    /// What is known of the file, as of the address asked if that is one of the same resource: a cache passes the
    /// origin's validators on.
    pub(super) fn known_at(&self, fetch: &Fetch) -> Option<Known> {
        let mut known = self.known.clone()?;
        let resource = self.targets.resource(fetch.target);
        if resource.is_some() && resource == self.known_resource {
            known.url = fetch.asked.clone();
        }
        Some(known)
    }

    fn is_cache(&mut self, index: usize) -> bool {
        let target = self.fetch_of(index).map(|fetch| fetch.target);
        target.is_some_and(|target| self.targets.cache(target).is_some())
    }

    fn tell_if_unavailable(&mut self, now: Now, ev: &mut Vec<WebEvent>) {
        let sticky = self.sticky();
        if !self.targets.usable(now, sticky) {
            let first = self.targets.first_origin();
            let first = first.map(|url| self.proxies.route(url));
            let by_route = first.as_ref().map_or("", Route::remedy);
            let remedy = self.targets.remedy().unwrap_or(by_route);
            ev.push(WebEvent::Unavailable {
                failure: self.targets.failure().remedy(remedy),
                retry_at: self.targets.retry_at(now.mono),
                failures: self.targets.failures(),
            });
        }
    }
}

fn lane_name(index: usize) -> Lane {
    Lane(u8::try_from(index).unwrap_or(u8::MAX))
}

/// Bytes of an unwanted answer read to keep its connection: about what a new connection costs on a LAN.
const DRAIN_MAX: u64 = 128 * 1024;
/// A fetch that delivered this much has shown that its URL works.
const PROGRESS_LEN: u64 = 64 * 1024;
/// A file that was another one this often is not worth following.
const CHANGES_MAX: u8 = 3;
