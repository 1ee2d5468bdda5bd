//! The shell over std threads and blocking sockets, and what both shells share.
//!
//! A shell translates: one arm per [`dovetail_core::machine::Output`], no protocol, no policy, no constant
//! that is not about the operating system. `dovetail-smol` has the same files with the same functions;
//! what is not about a runtime (one disk operation, the clock, TLS, addresses) lives here once.
//!
//! Tests: `tests/e2e.rs` here and in `dovetail-smol`, over real sockets, files and clocks.
#![deny(unsafe_code)]

pub mod host;
pub mod dnssd;
pub mod port_map;
pub mod facts;
pub mod watch;
pub mod tls;
pub mod net;
pub mod path;
pub mod disk;
pub mod file_part;
pub mod udp;
pub mod tcp;
pub mod driver;
pub mod cli;

use dovetail_core::command::{Command, Event, Reply};
use dovetail_core::failure::Failure;
use dovetail_core::host::HostFacts;
use dovetail_core::ids::CallId;
use dovetail_core::machine::{Input, Listener, Machine};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

pub use driver::run;

/// What a run needs from its configuration.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Bound before the machine sees its first input; [`Listener::Peers`] also binds UDP at the same port.
    pub listen: Vec<(Listener, ListenOn)>,
    /// How to verify TLS servers; `None` trusts what this machine trusts (`SSL_CERT_FILE`, `SSL_CERT_DIR`,
    /// else the system's store).
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenOn {
    /// Port 0 lets the system choose; `Input::Listening` says what it chose.
    Tcp(SocketAddr),
    /// The same for datagrams alone.
    Udp(SocketAddr),
    /// A socket in the file system, for this user only. Callers there appear as `127.0.0.1:0`, and so does
    /// its `Input::Listening`.
    Unix(PathBuf),
}

/// What a machine says to whoever runs it.
#[derive(Clone, Debug)]
pub enum Notice {
    Reply(CallId, Reply),
    Event(Event),
}

/// Drives one machine until its observer has seen enough.
pub trait Runtime {
    /// Binds the listeners, then feeds `machine` until `observe` breaks; gives the machine back.
    ///
    /// `observe` is called on the thread of the caller, in the order of the machine's outputs; what it
    /// takes, the machine waits for. When it breaks, everything still open is aborted.
    ///
    /// # Errors
    ///
    /// Only before the start: an address that cannot be listened on (`FailureKind::Listen`).
    fn run<M: Machine>(
        machine: M,
        options: Options,
        commands: Commands,
        observe: impl FnMut(Notice) -> ControlFlow<()>,
    ) -> Result<M, Failure>;
}

/// The runtime of this crate: std threads and blocking sockets.
#[derive(Clone, Copy, Debug)]
pub struct Threads;

impl Runtime for Threads {
    fn run<M: Machine>(
        machine: M,
        options: Options,
        commands: Commands,
        observe: impl FnMut(Notice) -> ControlFlow<()>,
    ) -> Result<M, Failure> {
        run(machine, options, commands, observe)
    }
}

/// Two ends for commands and facts: the [`Handle`] goes to whoever gives them, [`Commands`] to [`Runtime::run`].
pub fn channel() -> (Handle, Commands) {
    let inbox = Arc::default();
    (Handle(Arc::clone(&inbox)), Commands(inbox))
}

/// Gives commands and facts to a running machine, from any thread. Cloneable.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Mutex<Inbox>>);

/// The receiving end of [`channel`].
#[derive(Debug)]
pub struct Commands(Arc<Mutex<Inbox>>);

#[derive(Debug, Default)]
struct Inbox {
    queue: VecDeque<Input>,
    waker: Option<Waker>,
}

impl Handle {
    /// Queue a command; its reply carries the same `call`. Nothing happens if the run is over.
    pub fn send(&self, call: CallId, command: Command) {
        self.push(Input::Command { call, command });
    }

    /// Queue what is known of the host. Facts that the machine has not heard yet are replaced.
    pub fn host(&self, facts: HostFacts) {
        self.push(Input::Host(Box::new(facts)));
    }

    fn push(&self, input: Input) {
        let waker = {
            let mut inbox = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let is_facts = |input: &Input| matches!(input, Input::Host(_));
            let mut queue = inbox.queue.iter_mut();
            let old = if is_facts(&input) {
                queue.find(|queued| is_facts(queued))
            } else {
                None
            };
            match old {
                Some(old) => *old = input,
                None => inbox.queue.push_back(input),
            }
            inbox.waker.clone()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Commands {
    /// The next command or facts, if there are any.
    pub fn take(&self) -> Option<Input> {
        let mut inbox = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inbox.queue.pop_front()
    }

    /// Wake this whenever something comes.
    pub fn wake(&self, waker: Waker) {
        let mut inbox = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inbox.waker = Some(waker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_facts_wait() {
        let (handle, commands) = channel();
        let facts = |ram_bytes| HostFacts {
            ram_bytes: Some(ram_bytes),
            ..HostFacts::default()
        };
        handle.host(facts(1));
        handle.send(CallId(1), Command::Shutdown);
        handle.host(facts(2));
        let Some(Input::Host(first)) = commands.take() else {
            panic!("no facts");
        };
        assert_eq!(first.ram_bytes, Some(2));
        assert!(matches!(commands.take(), Some(Input::Command { .. })));
        handle.host(facts(3));
        assert!(matches!(commands.take(), Some(Input::Host(_))));
        assert!(commands.take().is_none());
    }
}
