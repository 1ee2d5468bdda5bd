//! One call at a time to the coordinator, over a stream that is kept while calls follow each other.
//!
//! Decides nothing but what counts as answered. Never retries: the caller knows when that is worth it.
//! Invariants: every [`Lane::start`] has one [`Outcome`]; at most one stream is open.

use super::messages::Refusal;
use crate::http::{
    Call, CallOutcome, CallRequest, ClientRequest, Connection, Proxies, Response, Url,
    parse_http_date,
};
use crate::ids::StreamId;
use crate::limits::COORDINATOR_TIMEOUT;
use crate::machine::{Effects, Input};
use crate::time::{Deadline, Now};
use ::http::StatusCode;
use ::http::header::RETRY_AFTER;
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
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
    state: State,
}

#[derive(Debug)]
enum State {
    Idle(Option<Box<Connection>>),
    Calling(Box<Call>),
}

impl Lane {
    pub(super) const fn new(base: Url, proxies: Proxies) -> Self {
        Self {
            base,
            proxies,
            state: State::Idle(None),
        }
    }

    pub(super) const fn is_busy(&self) -> bool {
        !matches!(self.state, State::Idle(_))
    }

    pub(super) fn owns(&self, stream: StreamId) -> bool {
        match &self.state {
            State::Idle(kept) => kept.as_ref().is_some_and(|kept| kept.stream() == stream),
            State::Calling(call) => call.owns(stream),
        }
    }

    /// Ask. While another call is under way this is ignored. `Some` if it cannot even be asked.
    pub(super) fn start(&mut self, now: Now, ask: Ask, fx: &mut Effects) -> Option<Outcome> {
        let State::Idle(kept) = &mut self.state else {
            return None;
        };
        let base = self.base.path().trim_end_matches('/');
        let url = match self.base.join(&format!("{base}{}", ask.target)) {
            Ok(url) => url,
            Err(why) => {
                return Some(Err(Failed {
                    why: format!("cannot ask {} for this: {why}", self.base.origin()),
                    retry_after: None,
                }));
            }
        };
        let request = match ask.body {
            Some(json) => ClientRequest::post(url, "application/json", json),
            None => ClientRequest::get(url),
        };
        let request = CallRequest {
            request,
            response_max: ask.answer_max,
            timeout: COORDINATOR_TIMEOUT,
        };
        let call = Call::start(
            now,
            request,
            &self.proxies,
            kept.take().map(|kept| *kept),
            fx,
        );
        self.state = State::Calling(Box::new(call));
        None
    }

    pub(super) fn on_stream(
        &mut self,
        now: Now,
        input: &Input,
        fx: &mut Effects,
    ) -> Option<Outcome> {
        match &mut self.state {
            State::Idle(kept) => {
                kept.as_mut()?.on_input(now, input, fx, &mut Vec::new());
                kept.take_if(|kept| kept.is_gone());
                None
            }
            State::Calling(call) => {
                let outcome = call.on_input(now, input, fx)?;
                Some(self.ended(now, outcome))
            }
        }
    }

    pub(super) fn on_tick(&mut self, now: Now, fx: &mut Effects) -> Option<Outcome> {
        match &mut self.state {
            State::Idle(kept) => {
                kept.as_mut()?.on_tick(now, fx, &mut Vec::new());
                kept.take_if(|kept| kept.is_gone());
                None
            }
            State::Calling(call) => {
                let outcome = call.on_tick(now, fx)?;
                Some(self.ended(now, outcome))
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        match &self.state {
            State::Idle(kept) => kept.as_ref()?.deadline(),
            State::Calling(call) => call.deadline(),
        }
    }

    /// Give up what is under way, and the connection.
    pub(super) fn close(&mut self, fx: &mut Effects) {
        match core::mem::replace(&mut self.state, State::Idle(None)) {
            State::Idle(Some(mut kept)) => kept.close(fx),
            State::Calling(mut call) => call.abort(fx),
            State::Idle(None) => {}
        }
    }

    fn ended(&mut self, now: Now, outcome: CallOutcome) -> Outcome {
        let ended = core::mem::replace(&mut self.state, State::Idle(None));
        if let (State::Calling(call), Ok(_)) = (ended, &outcome) {
            self.state = State::Idle(call.into_connection().map(Box::new));
        }
        let response = outcome.map_err(|why| Failed {
            why: format!("{}: {why}", self.base.origin()),
            retry_after: None,
        })?;
        let answer = Answer {
            status: response.status.as_u16(),
            retry_after: retry_after(now, &response),
            body: response.body,
        };
        let busy = response.status == StatusCode::TOO_MANY_REQUESTS;
        if busy || response.status.is_server_error() {
            return Err(answer.failed());
        }
        Ok(answer)
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
        if !(200..300).contains(&self.status) {
            return Err(self.failed());
        }
        serde_json::from_slice(&self.body).map_err(|why| Failed {
            why: format!("the coordinator's answer makes no sense: {why}"),
            retry_after: None,
        })
    }

    fn failed(&self) -> Failed {
        let why = match serde_json::from_slice::<Refusal>(&self.body) {
            Ok(refusal) => refusal.to_string(),
            Err(_) => format!("the coordinator answered with status {}", self.status),
        };
        Failed {
            why,
            retry_after: self.retry_after,
        }
    }
}

/// Seconds or a date (RFC 9110 §10.2.3).
fn retry_after(now: Now, response: &Response) -> Option<Duration> {
    let text = response.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let at_unix_s = parse_http_date(text)?;
    let seconds = at_unix_s.saturating_sub(now.wall.unix_us.div_euclid(1_000_000));
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
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
