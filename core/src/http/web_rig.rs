//! For tests: a job without peers that asks a [`WebSource`], keeps what comes and checks every byte's place;
//! and the origins it is tried against.

use crate::failure::Failure;
use crate::http::testing::{Script, Seen, World, content, reply};
use crate::http::{Lane, Proxies, Url, WebConfig, WebEvent, WebSource};
use crate::rng::Rng;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

pub(super) const LEN: usize = 300_000;

/// A job without peers: asks for what it lacks, keeps what comes.
pub(super) struct Job {
    pub(super) web: WebSource,
    pub(super) world: World,
    pub(super) events: Vec<WebEvent>,
    pub(super) have: Vec<Option<u8>>,
    pub(super) length: Option<usize>,
    pub(super) ranges: bool,
    /// Longest range asked on one lane; `None`: to the end.
    pub(super) ask: Option<usize>,
    pub(super) asked: BTreeMap<Lane, core::ops::Range<u64>>,
    pub(super) told: Vec<String>,
    pub(super) patience: u32,
}

impl Job {
    pub(super) fn new(urls: &[&str], world: World) -> Self {
        Self::with(urls, world, |_| {})
    }

    pub(super) fn with(urls: &[&str], world: World, adjust: impl FnOnce(&mut WebConfig)) -> Self {
        let mut config = WebConfig {
            tiers: crate::http::Tiers::default(),
            urls: urls.iter().map(|url| Url::parse(url).expect(url)).collect(),
            proxies: Proxies::none(),
            max_connections: 4,
            expect: None,
            verified: false,
        };
        adjust(&mut config);
        Self {
            length: config
                .expect
                .as_ref()
                .and_then(|known| known.length)
                .map(|len| len as usize),
            web: WebSource::new(config, Rng::from_u64(7)),
            world,
            events: Vec::new(),
            have: Vec::new(),
            ranges: true,
            ask: None,
            asked: BTreeMap::new(),
            told: Vec::new(),
            patience: 8,
        }
    }

    /// Until the file is complete, or nothing more can be had.
    pub(super) fn run(&mut self) -> Result<Vec<u8>, Failure> {
        for _ in 0..200_000 {
            if let Some(failure) = self.settle() {
                return Err(failure);
            }
            if self.is_complete() {
                self.web.close(&mut self.world.fx);
                return Ok(self.have.iter().flatten().copied().collect());
            }
            self.top_up();
            let busy = self.world.turn();
            let inputs = !self.world.inputs.is_empty();
            while let Some(input) = self.world.inputs.pop_front() {
                self.web
                    .on_input(self.world.now, &input, &mut self.world.fx, &mut self.events);
            }
            if !busy && !inputs && self.events.is_empty() {
                let deadline = self
                    .web
                    .deadline(self.world.now.mono)
                    .expect("something to wait for");
                self.world.pass_to(deadline.at);
                self.web
                    .on_tick(self.world.now, &mut self.world.fx, &mut self.events);
            }
        }
        panic!("no end: {:?} {:?}", self.told, self.world.log);
    }

    pub(super) fn settle(&mut self) -> Option<Failure> {
        for event in core::mem::take(&mut self.events) {
            match event {
                WebEvent::Facts { length, ranges, .. } => {
                    self.length = length.map(|len| len as usize);
                    self.ranges = ranges;
                }
                WebEvent::Bytes {
                    lane,
                    offset,
                    bytes,
                } => {
                    let asked = self
                        .asked
                        .get(&lane)
                        .expect("bytes on a lane that was asked");
                    let end = offset + bytes.len() as u64;
                    assert!(
                        asked.start == offset && end <= asked.end,
                        "{offset}..{end} of {asked:?}"
                    );
                    let (start, end) = (offset as usize, end as usize);
                    self.have.resize(self.have.len().max(end), None);
                    for (slot, byte) in self.have[start..end].iter_mut().zip(&bytes) {
                        *slot = Some(*byte);
                    }
                    self.asked.insert(lane, end as u64..asked.end);
                    self.web
                        .consumed(self.world.now, lane, bytes.len(), &mut self.world.fx);
                }
                WebEvent::Finished { lane } => {
                    let asked = self.asked.remove(&lane).expect("finished once");
                    self.length = self.length.or(Some(asked.start as usize));
                }
                WebEvent::Failed { lane, why } => {
                    assert!(self.asked.remove(&lane).is_some(), "failed once");
                    self.told.push(why);
                }
                WebEvent::Changed { length, .. } => {
                    self.asked.clear();
                    self.have.clear();
                    self.length = None;
                    self.told.push(format!("changed {length:?}"));
                }
                WebEvent::Unavailable {
                    failure,
                    retry_at,
                    failures,
                } => {
                    if retry_at.is_none() || failures >= self.patience {
                        return Some(failure);
                    }
                }
                WebEvent::Notice(text) => self.told.push(text),
                WebEvent::Banned(ban) => self.told.push(ban.cache.to_string()),
            }
        }
        None
    }

    pub(super) fn is_complete(&self) -> bool {
        self.length
            .is_some_and(|len| self.have.len() >= len && self.have.iter().all(Option::is_some))
            && self.asked.is_empty()
    }

    pub(super) fn top_up(&mut self) {
        while let Some(idle) = self.web.idle_lane(self.world.now) {
            let lane = idle.lane;
            let Some((start, end)) = self.missing() else {
                return;
            };
            assert!(
                self.asked
                    .insert(lane, start..end.unwrap_or(u64::MAX))
                    .is_none(),
                "idle"
            );
            self.web.fetch(
                self.world.now,
                lane,
                start,
                end,
                &mut self.world.fx,
                &mut self.events,
            );
        }
    }

    /// The first gap that nobody fetches, as far as one lane should go.
    pub(super) fn missing(&self) -> Option<(u64, Option<u64>)> {
        let taken = |at: u64| self.asked.values().any(|range| range.contains(&at));
        let lacking =
            |at: usize| self.have.get(at).is_none_or(Option::is_none) && !taken(at as u64);
        let limit = self.length.unwrap_or(self.have.len() + 1);
        let start = (0..limit).find(|at| lacking(*at))?;
        if !self.ranges || self.length.is_none() {
            return Some((start as u64, None));
        }
        let end = (start..limit).find(|at| !lacking(*at)).unwrap_or(limit);
        let end = self.ask.map_or(end, |ask| end.min(start + ask));
        Some((start as u64, Some(end as u64)))
    }
}

/// A well-behaved origin with this content.
pub(super) fn good(seen: &Seen<'_>, version: u8) -> Script {
    let body = content(LEN, version);
    let etag = format!("\"v{version}\"");
    let guarded = seen.field("if-range").is_none_or(|tag| tag == etag);
    match seen.range().filter(|_| guarded) {
        Some((start, end)) => part(&body, start, end, &etag),
        None => whole(&body, &format!("ETag: {etag}\r\nAccept-Ranges: bytes\r\n")),
    }
}

pub(super) fn part(body: &[u8], start: usize, end: Option<usize>, etag: &str) -> Script {
    let end = end.unwrap_or(body.len()).min(body.len());
    let (total, last) = (body.len(), end - 1);
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nETag: {etag}\r\nContent-Range: bytes {start}-{last}/{total}\r\nContent-Length: {}\r\n\r\n",
        end - start
    );
    reply([head.as_bytes(), &body[start..end]].concat())
}

pub(super) fn whole(body: &[u8], fields: &str) -> Script {
    let head = format!(
        "HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n",
        body.len()
    );
    reply([head.as_bytes(), body].concat())
}

pub(super) fn status(status: &str, fields: &str) -> Script {
    reply(format!(
        "HTTP/1.1 {status}\r\n{fields}Content-Length: 0\r\n\r\n"
    ))
}

/// Run one download; the outcome, what was told, and the requests.
pub(super) fn download(
    answer: impl FnMut(&Seen<'_>) -> Script + 'static,
) -> (Result<(), String>, Vec<String>, Vec<String>) {
    let mut job = Job::new(&["http://h/f"], World::new(answer));
    let outcome = job
        .run()
        .map(|got| assert!(got == content(LEN, 0), "every byte in its place"));
    (
        outcome.map_err(|failure| failure.to_string()),
        job.told,
        job.world.log,
    )
}

pub(super) fn cut(mut script: Script, len: usize) -> Script {
    script.wire.truncate(len);
    script
}
