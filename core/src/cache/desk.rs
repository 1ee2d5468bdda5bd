//! What a request is about, and who answers it.

use super::object::{Object, SLICE};
use super::orders::Id;
use super::passing::pass_on;
use super::probe::{FIRST_BYTE, Finding, Found, Probe, Question, Said};
use super::report::{health_json, metrics_text};
use super::store::Store;
use super::visitor::{Mark, Transfer};
use super::{Cache, X_CACHE};
use crate::command::Level;
use crate::http::range::Asked;
use crate::http::{Answer, AnswerBody, IncomingRequest, Url, origin_url};
use crate::ids::StreamId;
use crate::limits::{
    CACHE_HOPS_MAX, CACHE_ORIGIN_REST, CACHE_PROBES_MAX, CACHE_RUN_SLICES, GRANT_PER_STREAM,
};
use crate::machine::Input;
use ::http::header;
use ::http::{Method, StatusCode};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::Range;

/// Addresses of the cache itself.
const OWN: &str = "/.dovetail/";

impl Cache {
    /// Requests of this client, until there is none that can be begun.
    pub(super) fn serve(&mut self, stream: StreamId) {
        while self.store.is_ready
            && let Some(visitor) = self.visitors.get_mut(&stream)
            && visitor.transfer.is_none()
            && let Some(request) = visitor.connection.poll(self.now, &mut self.orders.fx)
        {
            match self.understand(&request) {
                Ok(url) => self.attach(stream, Transfer::new(request, url)),
                Err(answer) => self.answer(stream, &answer),
            }
        }
    }

    fn answer(&mut self, stream: StreamId, answer: &Answer) {
        if let Some(visitor) = self.visitors.get_mut(&stream) {
            visitor.refuse(self.now, answer, &mut self.orders.fx);
            self.asking.insert(stream);
        }
    }

    /// The origin's address, or what is answered instead.
    fn understand(&mut self, request: &IncomingRequest) -> Result<Url, Box<Answer>> {
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return Err(Box::new(Answer::method_not_allowed("GET, HEAD")));
        }
        if let Some(own) = request.path().strip_prefix(OWN) {
            return Err(Box::new(self.own(own)));
        }
        let hops = via_of(request);
        if hops.contains(&self.reach.via) || hops.split(',').count() > CACHE_HOPS_MAX {
            let why = "the request has come through this cache already, or through too many";
            return Err(Box::new(Answer::text(StatusCode::LOOP_DETECTED, why)));
        }
        let target = request
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        let host = request.uri.authority().map(::http::uri::Authority::as_str);
        let host = host
            .or_else(|| request.header(header::HOST))
            .unwrap_or_default();
        let asked = origin_url(target, host)
            .map_err(|why| Box::new(Answer::text(StatusCode::BAD_REQUEST, why)))?;
        let mut url = asked.url;
        if !asked.scheme_said && self.https_origins.permits(&url) {
            let secure = format!("https://{}{}", url.authority(), url.target());
            url = Url::parse(&secure).unwrap_or(url);
        }
        if self.reach.gate.permits(&url) {
            return Ok(url);
        }
        self.counters.refused += 1;
        let host = url.authority();
        let text = format!(
            "{host} is not on this cache's list; whoever runs it can add it with --allow {host}"
        );
        self.orders.fx.log(Level::Debug, format!("refused {url}"));
        Err(Box::new(refusal(text)))
    }

    fn own(&self, name: &str) -> Answer {
        match name {
            "health" => {
                let json = health_json(&self.counters, &self.store);
                Answer::json(StatusCode::OK, json).with(header::CACHE_CONTROL, "no-store")
            }
            "metrics" => {
                let text = Bytes::from(metrics_text(&self.counters, &self.store));
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                Answer::new(StatusCode::OK, AnswerBody::Full(text)).with(header::CONTENT_TYPE, kind)
            }
            _ => Answer::text(StatusCode::NOT_FOUND, "there are health and metrics here"),
        }
    }

    /// Give a request its object, or ask the origin for it.
    pub(super) fn attach(&mut self, stream: StreamId, transfer: Transfer) {
        let url = transfer.url.clone();
        let hops = via_of(&transfer.request);
        let wanted = wanted_first(&transfer.request);
        let Some(visitor) = self.visitors.get_mut(&stream) else {
            return;
        };
        visitor.transfer = Some(transfer);
        let known = self.store.find(&url.to_string());
        let object = known.and_then(|id| self.store.objects.get(&id));
        let object = object.filter(|object| !object.dead);
        if let (Some(id), Some(object)) = (known, object) {
            let fresh = object.is_fresh(self.now);
            if fresh || self.now.mono < object.rest_until {
                return self.enter(stream, id, !fresh);
            }
        }
        let validator = object.and_then(|object| object.validator.clone());
        if let Some(probe) = self
            .probes
            .values_mut()
            .find(|probe| probe.question.url == url)
        {
            probe.waiters.push(stream);
        } else if self.probes.len() >= CACHE_PROBES_MAX {
            let answer = Answer::text(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many origins are being asked",
            )
            .with(header::RETRY_AFTER, "5");
            self.answer(stream, &answer);
        } else {
            let id = self.next_id();
            let via = match &hops[..] {
                "" => format!("1.1 {}", self.reach.via),
                hops => format!("{hops}, 1.1 {}", self.reach.via),
            };
            let question = Question {
                url,
                asks: if validator.is_none() {
                    wanted
                } else {
                    FIRST_BYTE
                },
                known: validator,
                via,
            };
            let (reach, fx) = (&self.reach, &mut self.orders.fx);
            let mut probe = Probe::start(self.now, id, question, reach, fx);
            probe.waiters.push(stream);
            self.probes.insert(id, probe);
        }
    }

    pub(super) fn ask_probe(&mut self, id: Id, input: &Input) {
        let finding = self
            .probes
            .get_mut(&id)
            .and_then(|probe| probe.on_input(self.now, input, &self.reach, &mut self.orders.fx));
        if let Some(finding) = finding
            && let Some(probe) = self.probes.remove(&id)
        {
            self.on_finding(probe, finding);
        }
    }

    fn on_finding(&mut self, mut probe: Probe, finding: Finding) {
        let (now, url) = (self.now, &probe.question.url.clone());
        let known = self.store.find(&url.to_string());
        let object = known.and_then(|id| self.store.objects.get_mut(&id));
        let object = object.filter(|object| !object.dead);
        let served = match (finding, object) {
            (Finding::Same(freshness), Some(object)) => {
                object.refresh(freshness.max_age_s, self.revalidate, now);
                Ok((object.id, false))
            }
            (Finding::File(found), Some(object)) if is_same(object, &found) => {
                object.refresh(found.freshness.max_age_s, self.revalidate, now);
                Ok((object.id, false))
            }
            (Finding::File(found), _) => Ok((self.add(url, found), false)),
            (Finding::Failed(why), Some(object)) => {
                object.rest_until = now.mono + CACHE_ORIGIN_REST;
                let text = format!("{url}: {why}; what is stored is served without asking");
                self.orders.fx.log(Level::Warn, text);
                Ok((object.id, true))
            }
            (Finding::Said(said), Some(object)) if is_passing(said.head.status) => {
                object.rest_until = now.mono + CACHE_ORIGIN_REST;
                Ok((object.id, true))
            }
            (Finding::Said(said), _) => {
                // The origin does not give it to anybody any more, and neither do we.
                self.retire(known);
                let (status, fields) = (said.head.status, said.head.headers.clone());
                Err(match said.whole() {
                    Some(body) => pass_on(status, &fields, AnswerBody::Full(body), &self.reach.via),
                    None => Answer::text(status, format!("{} answered {status}", url.authority()))
                        .with(X_CACHE, "MISS"),
                })
            }
            (Finding::Endless(said), _) => {
                self.retire(known);
                self.counters.misses += probe.waiters.len() as u64;
                let Said { head, body, .. } = *said;
                return self.pass_through(probe, &head, body.freeze());
            }
            (Finding::Same(_), None) => {
                let why = format!(
                    "{} says nothing has changed, but nothing is here",
                    url.authority()
                );
                Err(bad_gateway(why))
            }
            (Finding::Failed(why), None) => Err(bad_gateway(format!("cannot fetch {url}: {why}"))),
            (Finding::Forbidden(why, log), _) => {
                self.counters.refused += 1;
                if let Some(log) = log {
                    self.orders.fx.log(Level::Warn, log);
                }
                Err(refusal(why))
            }
        };
        let waiters = core::mem::take(&mut probe.waiters);
        self.keep_connection(probe, served.as_ref().ok().map(|(id, _)| *id));
        match served {
            Ok((id, stale)) => {
                self.touched.insert(id);
                waiters
                    .iter()
                    .for_each(|stream| self.enter(*stream, id, stale));
            }
            Err(answer) => {
                for stream in &waiters {
                    self.answer(*stream, &answer);
                }
            }
        }
    }

    fn retire(&mut self, known: Option<Id>) {
        if let Some(id) = known {
            self.store.retire(id, &mut self.orders);
        }
    }

    /// The fetch that follows can go on where the question was asked.
    fn keep_connection(&mut self, mut probe: Probe, object: Option<Id>) {
        let object = object.and_then(|id| self.store.objects.get_mut(&id));
        match object.filter(|object| object.fill.takes_connection()) {
            Some(object) => {
                let fx = &mut self.orders.fx;
                let Some(mut spare) = probe.into_spare(fx) else {
                    return;
                };
                let connection = spare.connection();
                if !connection.is_gone() {
                    fx.owner = object.id;
                    fx.adopt(connection.stream());
                    connection.widen(GRANT_PER_STREAM, fx);
                }
                object.fill.spare = Some(spare);
            }
            None => probe.close(&mut self.orders.fx),
        }
    }

    fn add(&mut self, url: &Url, found: Found) -> Id {
        let id = self.next_id();
        let name = Store::new_name(id, &url.to_string(), self.now);
        let object = Object::new(id, name, url.clone(), found, self.revalidate, self.now);
        self.store.add(object, &mut self.orders);
        id
    }

    /// Serve this object to this client.
    fn enter(&mut self, stream: StreamId, id: Id, stale: bool) {
        let (Some(visitor), Some(object)) = (
            self.visitors.get_mut(&stream),
            self.store.objects.get_mut(&id),
        ) else {
            return;
        };
        object.used_unix_us = self.now.wall.unix_us;
        let mark = |range: &Range<u64>| match object.holds(range) {
            _ if stale => Mark::Stale,
            true => Mark::Hit,
            false => Mark::Miss,
        };
        let is_body = visitor.enter(
            self.now,
            object,
            |range| {
                let mark = mark(range);
                match mark {
                    Mark::Hit => self.counters.hits += 1,
                    Mark::Miss => self.counters.misses += 1,
                    Mark::Stale => self.counters.stale += 1,
                }
                mark
            },
            &self.reach.via,
            &mut self.orders.fx,
        );
        if is_body {
            object.open(&self.store.dir, &mut self.orders);
            if let Some(transfer) = &visitor.transfer {
                object.readers.insert(stream, transfer.left().clone());
            }
            self.eager.insert(stream);
        } else {
            self.asking.insert(stream);
        }
        self.store.used(id);
        self.touched.insert(id);
    }
}

pub(super) fn refusal(text: String) -> Answer {
    Answer::text(StatusCode::FORBIDDEN, text).with(X_CACHE, "REFUSED")
}

pub(super) fn bad_gateway(text: String) -> Answer {
    Answer::text(StatusCode::BAD_GATEWAY, text).with(X_CACHE, "MISS")
}

/// What a client needs first of a file of which nothing is known yet: whole slices, as many as are asked for at once.
fn wanted_first(request: &IncomingRequest) -> Range<u64> {
    const RUN: u64 = CACHE_RUN_SLICES as u64 * SLICE;
    if request.method == Method::HEAD {
        return FIRST_BYTE;
    }
    let part = match request.header(header::RANGE) {
        None => 0..u64::MAX,
        Some(field) => match Asked::of(field, u64::MAX) {
            Asked::Whole => 0..u64::MAX,
            // Counted from an end that is not known.
            Asked::Part(part) if part.start > u64::MAX / 2 => return FIRST_BYTE,
            Asked::Part(part) => part,
            Asked::Unsatisfiable => return FIRST_BYTE,
        },
    };
    let start = part.start / SLICE * SLICE;
    let slices = (part.end - start).div_ceil(SLICE).min(RUN / SLICE);
    start..start + slices * SLICE
}

/// Through whom the request has come (RFC 9110 §7.6.3).
fn via_of(request: &IncomingRequest) -> String {
    let fields = request.headers.get_all(header::VIA).iter();
    let fields: Vec<&str> = fields.filter_map(|field| field.to_str().ok()).collect();
    fields.join(", ")
}

/// The same version as far as validators can tell; without any, nothing tells.
fn is_same(object: &Object, found: &Found) -> bool {
    let agrees = object.validator.as_ref().zip(found.validator.as_ref());
    object.length == found.length && agrees.is_some_and(|(old, new)| old.agrees_with(new))
}

/// The origin is in trouble: that says nothing about the file.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        )
}
