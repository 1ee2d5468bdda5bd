//! One call at a time to the coordinator, over a stream that is kept while calls follow each other.
//!
//! Decides nothing but what counts as answered. Never retries: the caller knows when that is worth it.
//! Invariants: every [`Lane::start`] has one [`Outcome`]; at most one stream is open.

use super::messages::Refusal;
use crate::http::{Proxies, Url};
use crate::ids::StreamId;
use crate::machine::{Effects, Input};
use crate::time::{Deadline, Now};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use bytes::Bytes;
use core::time::Duration;
use serde::de::DeserializeOwned;

/// What came of a call.
pub(super) type Outcome = Result<Answer, Failed>;

/// A question: path and query behind the coordinator's base address.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    target: String,
    /// JSON to post; `None` is a GET.
    body: Option<Bytes>,
    answer_max: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    body: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// One line.
    pub(super) why: String,
    /// The coordinator is there, but busy: it wants to be asked again after this time.
    pub(super) retry_after: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct Lane {
    base: Url,
    proxies: Proxies,
    pending: Option<Ask>,
}

impl Lane {
    pub(super) const fn new(base: Url, proxies: Proxies) -> Self {
        Self {
            base,
            proxies,
            pending: None,
        }
    }

    pub(super) const fn is_busy(&self) -> bool {
        self.pending.is_some()
    }

    pub(super) const fn is_open(&self) -> bool {
        false
    }

    pub(super) fn owns(&self, _stream: StreamId) -> bool {
        false
    }

    pub(super) fn start(&mut self, _now: Now, ask: Ask, _fx: &mut Effects) {
        self.pending = Some(ask);
    }

    pub(super) fn on_stream(
        &mut self,
        _now: Now,
        _input: Input,
        _fx: &mut Effects,
    ) -> Option<Outcome> {
        None
    }

    pub(super) fn on_tick(&mut self, _now: Now, _fx: &mut Effects) -> Option<Outcome> {
        let _ = (&self.base, &self.proxies);
        let ask = self.pending.take()?;
        let _ = (ask.target, ask.body, ask.answer_max);
        Some(Err(Failed {
            why: "calls to coordinators are not built yet".to_owned(),
            retry_after: None,
        }))
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        None
    }

    pub(super) fn close(&mut self, _fx: &mut Effects) {
        self.pending = None;
    }
}

impl Ask {
    pub(super) fn get(target: &str, answer_max: usize) -> Self {
        Self {
            target: target.to_owned(),
            body: None,
            answer_max,
        }
    }

    pub(super) fn post(target: &str, body: Bytes, answer_max: usize) -> Self {
        Self {
            target: target.to_owned(),
            body: Some(body),
            answer_max,
        }
    }
}

impl Answer {
    /// The body as this message, if the status is a success; else why not, in the coordinator's words.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Failed> {
        let why = if (200..300).contains(&self.status) {
            match serde_json::from_slice(&self.body) {
                Ok(message) => return Ok(message),
                Err(why) => format!("the coordinator's answer makes no sense: {why}"),
            }
        } else {
            match serde_json::from_slice::<Refusal>(&self.body) {
                Ok(refusal) => refusal.to_string(),
                Err(_) => format!("the coordinator answered with status {}", self.status),
            }
        };
        Err(Failed {
            why,
            retry_after: self.retry_after,
        })
    }
}

/// The stream an input is about.
pub(super) const fn stream_of(input: &Input) -> Option<StreamId> {
    match input {
        Input::Opened { stream, .. }
        | Input::Secured { stream }
        | Input::Received { stream, .. }
        | Input::Sent { stream, .. }
        | Input::Closed { stream, .. } => Some(*stream),
        _ => None,
    }
}
