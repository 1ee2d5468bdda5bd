//! Roles that run until they are stopped: say where they listen, pass on what they log, stop cleanly.
//!
//! Decides: when everything listens, and the words for it. Tests: `shell-smol/tests/cli.rs`.

use super::out::Out;
use super::signals::{self, Reload};
use crate::facts;
use crate::watch::Watch;
use crate::{Handle, Notice, Options, Runtime, channel};
use dovetail_core::api::Line;
use dovetail_core::command::{Command, Event, Reply};
use dovetail_core::failure::Failure;
use dovetail_core::ids::CallId;
use dovetail_core::machine::{Datagram, Input, Listener, Machine, Output};
use dovetail_core::time::{Deadline, Now};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::ControlFlow;

/// What a role bound.
pub(crate) type Bound = BTreeMap<Listener, SocketAddr>;

/// A machine, and somebody who hears once what its listeners are bound to.
pub(crate) struct Watched<M, F> {
    machine: M,
    waiting: usize,
    bound: Bound,
    ready: F,
}

impl<M: Machine, F: FnMut(&Bound)> Watched<M, F> {
    /// `ready` is called when as many listeners as `options` names are bound.
    pub(crate) fn new(machine: M, options: &Options, ready: F) -> Self {
        Self {
            machine,
            waiting: options.listen.len(),
            bound: Bound::new(),
            ready,
        }
    }
}

impl<M: Machine, F: FnMut(&Bound)> Machine for Watched<M, F> {
    fn handle(&mut self, now: Now, input: Input) {
        let listening = match &input {
            Input::Listening { listener, at } => Some((*listener, *at)),
            _ => None,
        };
        self.machine.handle(now, input);
        if let Some((listener, at)) = listening {
            self.bound.insert(listener, at);
            if self.bound.len() == self.waiting {
                (self.ready)(&self.bound);
            }
        }
    }

    fn poll(&mut self) -> Option<Output> {
        self.machine.poll()
    }

    fn poll_datagram(&mut self, now: Now, buf: &mut Vec<u8>) -> Option<Datagram> {
        self.machine.poll_datagram(now, buf)
    }

    fn deadline(&self) -> Option<Deadline> {
        self.machine.deadline()
    }

    fn check(&self) {
        self.machine.check();
    }
}

/// Run a role until a signal stops it. `ready` gives the words and the line for the moment it listens.
pub(crate) fn serve<R: Runtime>(
    machine: impl Machine,
    options: Options,
    out: Out,
    ready: impl Fn(&Bound) -> (String, Line),
) -> Result<(), Failure> {
    serve_knowing::<R, ()>(machine, options, out, |_| ((), None), ready)
}

/// Whoever sees to what a role must know of its host, as long as it lives.
pub(crate) trait Watching {
    /// The role wants to know something else from now on.
    fn heed(&self, _event: &Event) {}
}

impl Watching for () {}

impl Watching for facts::Watch {
    fn heed(&self, event: &Event) {
        match event {
            Event::LookForCaches(on) => self.browse(*on),
            Event::ShelfMoved(folder) => self.move_shelf(folder.into()),
            Event::MapPort(request) => self.map_port(request.clone()),
            Event::UnmapPort(family) => self.unmap_port(*family),
            _ => {}
        }
    }
}

/// Of files.
impl Watching for Watch {}

impl<W: Watching> Watching for Option<W> {
    fn heed(&self, event: &Event) {
        if let Some(watching) = self {
            watching.heed(event);
        }
    }
}

impl<A: Watching, B: Watching> Watching for (A, B) {
    fn heed(&self, event: &Event) {
        self.0.heed(event);
        self.1.heed(event);
    }
}

/// The same for a role that must know something of its host: `watch` gives who sees to it, and may say what SIGHUP is
/// to do.
pub(crate) fn serve_knowing<R: Runtime, W: Watching>(
    machine: impl Machine,
    options: Options,
    out: Out,
    watch: impl FnOnce(&Handle) -> (W, Option<Reload>),
    ready: impl Fn(&Bound) -> (String, Line),
) -> Result<(), Failure> {
    const SHUTDOWN: CallId = CallId(1);
    let (handle, commands) = channel();
    let (watching, reload) = watch(&handle);
    let stop = move || handle.send(SHUTDOWN, Command::Shutdown);
    match reload {
        Some(reload) => signals::on_stop_or_reload(stop, reload)?,
        None => signals::on_stop(stop)?,
    }
    let watched = Watched::new(machine, &options, |bound: &Bound| {
        let (words, line) = ready(bound);
        out.result(&words, &line);
    });
    R::run(watched, options, commands, |notice| match notice {
        Notice::Reply(SHUTDOWN, Reply::Stopped) => ControlFlow::Break(()),
        Notice::Event(Event::Log { level, text }) => {
            out.log(level.into(), &text);
            ControlFlow::Continue(())
        }
        Notice::Event(event) => {
            watching.heed(&event);
            ControlFlow::Continue(())
        }
        Notice::Reply(..) => ControlFlow::Continue(()),
    })?;
    drop(watching);
    out.line(&Line::Stopped);
    Ok(())
}

/// What is said when a role listens for HTTP, and for whom or what.
pub(crate) fn http_ready(role: &str, whom: &str, bound: &Bound) -> (String, Line) {
    let at = bound.get(&Listener::Http).map(ToString::to_string);
    let words = match &at {
        Some(at) => format!("{role} is ready: {whom} at http://{at}"),
        None => format!("{role} is ready"),
    };
    let line = Line::Listening {
        role: role.to_owned(),
        listening: at,
        socket: None,
    };
    (words, line)
}
