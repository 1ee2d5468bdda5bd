//! Lookups and publications: one after the other, and again where the coordinator asks for time.
//!
//! Decides the order (first come, first served, those that wait aside) and what an HTTP answer means.
//! Never does: believe a record. The agent checks it against what it knows.
//! Invariants: at most `CONTENT_CALLS_MAX` are waiting; each is answered, at once when the coordinator
//! cannot be reached.
//! Tested in `core/tests/coordination.rs`.

use super::AnnouncerEvent;
use super::hex;
use super::lane::{Answer, Ask, Failed, Lane, Outcome};
use super::messages::{CONTENT_PATH, ContentRecord, Pending, Publication, Published};
use crate::content::{Digest, InfoHash};
use crate::ids::StreamId;
use crate::limits::{CONTENT_CALLS_MAX, CONTENT_MESSAGE_MAX, SMALL_ANSWER_MAX};
use crate::machine::{Effects, Input};
use crate::rng::Rng;
use crate::time::{Deadline, Mono, Now};
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt::Write as _;
use core::time::Duration;

/// What a file is asked for by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    Url(String),
    /// Of the whole file.
    Sha256(Digest),
    /// Of its Merkle tree.
    Root(Digest),
    InfoHash(InfoHash),
}

/// What the coordinator says a file is.
#[derive(Clone, Debug, PartialEq)]
pub enum Lookup {
    Found(Box<ContentRecord>),
    /// It does not know, and will not find out.
    Unknown,
    /// It is hashing the file. Asked again by itself; [`super::Announcer::forget`] ends that.
    Pending(Pending),
    /// It could not be asked: one line.
    Failed(String),
}

/// A call's effect on whether the coordinator counts as there.
pub(super) type Reached = Option<Result<(), String>>;

#[derive(Debug)]
pub(super) struct ContentCalls {
    lane: Lane,
    rng: Rng,
    waiting: VecDeque<Call>,
    under_way: Option<Call>,
    /// Answers that need no call.
    refused: Vec<AnnouncerEvent>,
}

#[derive(Debug)]
struct Call {
    token: u64,
    not_before: Mono,
    what: What,
    forgotten: bool,
}

#[derive(Debug)]
enum What {
    /// The path and query.
    Lookup(String),
    Publish(Bytes),
}

impl ContentCalls {
    pub(super) const fn new(lane: Lane, rng: Rng) -> Self {
        Self {
            lane,
            rng,
            waiting: VecDeque::new(),
            under_way: None,
            refused: Vec::new(),
        }
    }

    pub(super) fn lookup(&mut self, now: Now, token: u64, key: &Key) {
        self.enqueue(now, token, What::Lookup(key.target()));
    }

    pub(super) fn publish(
        &mut self,
        now: Now,
        token: u64,
        metainfo: Bytes,
        sha256: Option<Digest>,
        urls: Vec<String>,
    ) {
        let publication = Publication {
            metainfo,
            sha256,
            urls,
        };
        let body = serde_json::to_vec(&publication).unwrap_or_default();
        if body.len() > CONTENT_MESSAGE_MAX {
            let why = format!(
                "the metainfo file is too large for a coordinator ({} bytes as a message, {CONTENT_MESSAGE_MAX} allowed)",
                body.len()
            );
            let result = Err(why);
            self.refused
                .push(AnnouncerEvent::Published { token, result });
            return;
        }
        self.enqueue(now, token, What::Publish(body.into()));
    }

    pub(super) fn forget(&mut self, token: u64) {
        let lookup = |call: &Call| call.token == token && matches!(call.what, What::Lookup(_));
        self.waiting.retain(|call| !lookup(call));
        if let Some(call) = self.under_way.as_mut().filter(|call| lookup(call)) {
            call.forgotten = true;
        }
    }

    pub(super) fn owns(&self, stream: StreamId) -> bool {
        self.lane.owns(stream)
    }

    pub(super) fn on_stream(
        &mut self,
        now: Now,
        input: &Input,
        fx: &mut Effects,
        ev: &mut Vec<AnnouncerEvent>,
    ) -> Reached {
        let outcome = self.lane.on_stream(now, input, fx)?;
        self.on_outcome(now, outcome, ev)
    }

    pub(super) fn on_tick(
        &mut self,
        now: Now,
        fx: &mut Effects,
        ev: &mut Vec<AnnouncerEvent>,
    ) -> Reached {
        ev.append(&mut self.refused);
        let mut reached = None;
        if let Some(outcome) = self.lane.on_tick(now, fx) {
            reached = self.on_outcome(now, outcome, ev);
        }
        while self.under_way.is_none() {
            let ready = |call: &Call| call.not_before <= now.mono;
            let Some(at) = self.waiting.iter().position(ready) else {
                break;
            };
            let Some(call) = self.waiting.remove(at) else {
                break;
            };
            let stillborn = self.lane.start(now, call.ask(), fx);
            self.under_way = Some(call);
            if let Some(outcome) = stillborn {
                self.on_outcome(now, outcome, ev);
            }
        }
        reached
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        if self.under_way.is_some() {
            return self.lane.deadline();
        }
        let first = self.waiting.iter().map(|call| call.not_before).min();
        let retry = first.map(|at| Deadline::new(at, "a lookup is to be asked again"));
        Deadline::earlier(self.lane.deadline(), retry)
    }

    /// Answer everything that is waiting, and close.
    pub(super) fn shutdown(&mut self, fx: &mut Effects, ev: &mut Vec<AnnouncerEvent>) {
        ev.append(&mut self.refused);
        let calls = self.under_way.take().into_iter();
        for call in calls.chain(self.waiting.drain(..)) {
            call.fail("this agent is stopping", ev);
        }
        self.lane.close(fx);
    }

    fn enqueue(&mut self, now: Now, token: u64, what: What) {
        let call = Call {
            token,
            not_before: now.mono,
            what,
            forgotten: false,
        };
        if self.waiting.len() >= CONTENT_CALLS_MAX {
            call.fail(
                "too many questions to the coordinator are waiting",
                &mut self.refused,
            );
        } else {
            self.waiting.push_back(call);
        }
    }

    fn on_outcome(&mut self, now: Now, outcome: Outcome, ev: &mut Vec<AnnouncerEvent>) -> Reached {
        let mut call = self.under_way.take()?;
        match outcome {
            Ok(answer) => {
                if let Some(after) = call.answer(&answer, ev) {
                    let us = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
                    let jitter = Duration::from_micros(self.rng.below(us / 4));
                    call.not_before = now.mono + after + jitter;
                    self.waiting.push_back(call);
                }
                Some(Ok(()))
            }
            Err(Failed {
                why, retry_after, ..
            }) => {
                // Busy is not lost: a lookup waits as it is told.
                if let (Some(after), What::Lookup(_)) = (retry_after, &call.what)
                    && !call.forgotten
                {
                    let token = call.token;
                    let answer = Lookup::Pending(Pending {
                        done_bytes: 0,
                        length: 0,
                    });
                    ev.push(AnnouncerEvent::Record { token, answer });
                    call.not_before = now.mono + after.clamp(RETRY_MIN, RETRY_MAX);
                    self.waiting.push_back(call);
                    return None;
                }
                call.fail(&why, ev);
                self.fail_fresh(now, &why, ev);
                Some(Err(why))
            }
        }
    }

    /// What has not been asked yet would fail the same way, only later.
    fn fail_fresh(&mut self, now: Now, why: &str, ev: &mut Vec<AnnouncerEvent>) {
        for call in core::mem::take(&mut self.waiting) {
            if call.not_before <= now.mono {
                call.fail(why, ev);
            } else {
                self.waiting.push_back(call);
            }
        }
    }
}

impl Call {
    fn ask(&self) -> Ask {
        match &self.what {
            What::Lookup(target) => Ask::get(target, CONTENT_MESSAGE_MAX),
            What::Publish(body) => Ask::post(CONTENT_PATH, body.clone(), SMALL_ANSWER_MAX),
        }
    }

    /// Report what the answer means; `Some` if it is to be asked again after that time.
    fn answer(&self, answer: &Answer, ev: &mut Vec<AnnouncerEvent>) -> Option<Duration> {
        if self.forgotten {
            return None;
        }
        let token = self.token;
        if matches!(self.what, What::Publish(_)) {
            let result = match answer.json::<Published>() {
                Ok(_) => Ok(()),
                Err(failed) => Err(failed.why),
            };
            ev.push(AnnouncerEvent::Published { token, result });
            return None;
        }
        let mut again = None;
        let answer = match answer.status {
            404 => Lookup::Unknown,
            202 => {
                let after = answer.retry_after.unwrap_or(RETRY_MIN);
                again = Some(after.clamp(RETRY_MIN, RETRY_MAX));
                match answer.json() {
                    Ok(pending) => Lookup::Pending(pending),
                    Err(failed) => Lookup::Failed(failed.why),
                }
            }
            _ => match answer.json() {
                Ok(record) => Lookup::Found(Box::new(record)),
                Err(failed) => Lookup::Failed(failed.why),
            },
        };
        if matches!(answer, Lookup::Failed(_)) {
            again = None;
        }
        ev.push(AnnouncerEvent::Record { token, answer });
        again
    }

    fn fail(self, why: &str, ev: &mut Vec<AnnouncerEvent>) {
        let token = self.token;
        ev.push(match self.what {
            _ if self.forgotten => return,
            What::Lookup(_) => AnnouncerEvent::Record {
                token,
                answer: Lookup::Failed(why.to_owned()),
            },
            What::Publish(_) => AnnouncerEvent::Published {
                token,
                result: Err(why.to_string()),
            },
        });
    }
}

impl Key {
    /// Path and query of the question.
    fn target(&self) -> String {
        let (name, value) = match self {
            Self::Url(url) => ("url", percent_encode(url)),
            Self::Sha256(digest) => ("sha256", hex::encode(&digest.0)),
            Self::Root(digest) => ("root", hex::encode(&digest.0)),
            Self::InfoHash(hash) => ("info_hash", hex::encode(&hash.0)),
        };
        format!("{CONTENT_PATH}?{name}={value}")
    }
}

/// Everything but RFC 3986's unreserved characters, `:` and `/`.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        assert_eq!(
            Key::Url("http://h/a b?x=1&y=%20".into()).target(),
            "/v1/content?url=http://h/a%20b%3Fx%3D1%26y%3D%2520"
        );
        assert_eq!(
            Key::Root(Digest([0xab; 32])).target(),
            format!("/v1/content?root={}", "ab".repeat(32))
        );
    }
}
