//! One HTTP request with a small answer, driven like a role: over TLS, through proxies, with redirects.
//!
//! Decides: nothing; the call is the core's [`Call`]. Tests: `shell-smol/tests/cli.rs` (`publish`, `get --metainfo URL`).

use crate::{Notice, Options, Runtime, channel};
use dovetail_core::api::check_url;
use dovetail_core::command::{Command, Reply};
use dovetail_core::failure::{Failure, FailureKind};
use dovetail_core::http::{Call, CallOutcome, CallRequest, Proxies, Response, Url};
use dovetail_core::ids::{CallId, StreamId};
use dovetail_core::machine::{Effects, Input, Machine, Output};
use dovetail_core::time::{Deadline, Mono, Now};
use std::ops::ControlFlow;

#[derive(Debug)]
struct Errand {
    fx: Effects,
    proxies: Proxies,
    /// Until it is started.
    request: Option<CallRequest>,
    call: Option<Call>,
    outcome: Option<CallOutcome>,
}

const END: CallId = CallId(1);

/// Ask and wait for the answer. A bad status is an answer too.
///
/// # Errors
/// If there is no whole answer.
pub(crate) fn run<R: Runtime>(request: CallRequest, proxies: Proxies) -> Result<Response, Failure> {
    let url = request.request.url.clone();
    let errand = Errand {
        fx: Effects::default(),
        proxies,
        request: Some(request),
        call: None,
        outcome: None,
    };
    let (_, commands) = channel();
    let errand = R::run(
        errand,
        Options::default(),
        commands,
        |notice| match notice {
            Notice::Reply(END, Reply::Stopped) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        },
    )?;
    let unreachable =
        |why: String| Failure::new(FailureKind::Unavailable, format!("cannot reach {url}"), why);
    match errand.outcome {
        Some(Ok(response)) => Ok(response),
        Some(Err(e)) => Err(unreachable(e.to_string())),
        None => Err(unreachable("stopped".into())),
    }
}

/// The address of something a server offers: `path` behind the path of its base URL.
pub(crate) fn below(base: &str, path: &str) -> Result<Url, Failure> {
    check_url(&format!("{}{path}", base.trim_end_matches('/')))
}

impl Errand {
    fn settle(&mut self, outcome: Option<CallOutcome>) {
        if outcome.is_some() {
            self.outcome = outcome;
            self.call = None;
            self.fx.reply(END, Reply::Stopped);
        }
    }
}

impl Machine for Errand {
    fn handle(&mut self, now: Now, input: Input) {
        if let Some(request) = self.request.take() {
            self.call = Some(Call::start(now, request, &self.proxies, None, &mut self.fx));
        }
        let Some(call) = &mut self.call else { return };
        let outcome = match (&input, stream_of(&input)) {
            (_, Some(stream)) if call.owns(stream) => call.on_input(now, &input, &mut self.fx),
            (
                Input::Command {
                    command: Command::Shutdown,
                    ..
                },
                _,
            ) => {
                call.abort(&mut self.fx);
                self.fx.reply(END, Reply::Stopped);
                None
            }
            _ => call.on_tick(now, &mut self.fx),
        };
        self.settle(outcome);
    }

    fn poll(&mut self) -> Option<Output> {
        self.fx.poll()
    }

    fn deadline(&self) -> Option<Deadline> {
        if self.request.is_some() {
            return Some(Deadline::new(Mono::ZERO, "start"));
        }
        self.call.as_ref().and_then(Call::deadline)
    }
}

const fn stream_of(input: &Input) -> Option<StreamId> {
    match input {
        Input::Opened { stream, .. }
        | Input::Secured { stream }
        | Input::Received { stream, .. }
        | Input::Sent { stream, .. }
        | Input::Closed { stream, .. } => Some(*stream),
        _ => None,
    }
}
