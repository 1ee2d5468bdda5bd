//! Role: a cache that is also a peer (`dovetail cache --coordinator URL`): what it has whole, and the coordinator knows,
//! goes to devices that ask peers, too.
//!
//! Two roles in one machine that know nothing of each other: inputs go to whose they are, outputs leave as they come.
//! The cache tells what it has whole ([`News`]); that is lent to the agent, and taken back before the file goes.
//!
//! Tests: `core/tests/cache_peer.rs`.

use super::object::Object;
use super::record::data_path;
use super::{Cache, CacheConfig};
use crate::agent::{Agent, AgentConfig, Loan};
use crate::command::{Command, Event, Reply};
use crate::failure::Failure;
use crate::ids::{CallId, StreamId};
use crate::machine::{Datagram, Effects, Input, Listener, Machine, Output};
use crate::rng::Rng;
use crate::time::{Deadline, Now};
use alloc::collections::{BTreeSet, VecDeque};
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

/// What a cache tells of a file it can lend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It is whole, and somebody has just asked for it.
    Whole(Loan),
    /// It goes, by its path.
    Gone(String),
}

/// What is lent, and what the agent has not been told of it yet.
#[derive(Debug, Default)]
pub(super) struct Loans {
    /// There is somebody to lend to.
    pub wanted: bool,
    pub news: VecDeque<News>,
    pub count: usize,
}

impl Loans {
    pub(super) fn begin(&mut self, dir: &str, object: &mut Object) {
        object.lent = true;
        self.count += 1;
        self.news.push_back(News::Whole(Loan {
            path: data_path(dir, &object.name),
            url: object.url.to_string(),
            length: object.length,
        }));
    }

    /// Its file goes, or is not what it was.
    pub(super) fn end(&mut self, dir: &str, object: &mut Object) {
        if core::mem::take(&mut object.lent) {
            self.count -= 1;
            self.news
                .push_back(News::Gone(data_path(dir, &object.name)));
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct CachePeer {
    cache: Cache,
    agent: Agent,
    /// Accepted streams that are the agent's.
    callers: BTreeSet<StreamId>,
    /// The call that stops both, and how many have not stopped yet.
    stopping: Option<(CallId, u8)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Cache,
    Agent,
    Both,
}

const ROLES: u64 = 2;
const AGENT: u64 = 1;

const fn whose(number: u64) -> Whose {
    if number == AGENT {
        Whose::Agent
    } else {
        Whose::Cache
    }
}

impl CachePeer {
    /// # Errors
    /// Those of [`Agent::new`].
    pub fn new(cache: CacheConfig, agent: AgentConfig, seed: [u8; 32]) -> Result<Self, Failure> {
        let mut rng = Rng::new(seed);
        let mut agent = Agent::new(agent, rng.bytes())?;
        agent.number(Effects::interleaved(AGENT, ROLES));
        let mut cache = Cache::numbered(cache, rng.bytes(), Effects::interleaved(0, ROLES));
        cache.store.loans.wanted = true;
        Ok(Self {
            cache,
            agent,
            callers: BTreeSet::new(),
            stopping: None,
        })
    }

    pub const fn agent(&self) -> &Agent {
        &self.agent
    }

    fn whose(&mut self, input: &Input) -> Whose {
        let of_listener = |listener: Listener| match listener {
            Listener::Http => Whose::Cache,
            Listener::Peers
            | Listener::Local
            | Listener::Rendezvous
            | Listener::RendezvousOther => Whose::Agent,
        };
        match input {
            Input::Tick | Input::Host(_) => Whose::Both,
            Input::Command { call, command } => match command {
                Command::Shutdown => {
                    self.stopping = Some((*call, 2));
                    Whose::Both
                }
                Command::Configure { .. } => Whose::Agent,
                _ => Whose::Cache,
            },
            Input::Listening { listener, .. } => of_listener(*listener),
            Input::Accepted {
                stream, listener, ..
            } => {
                let whose = of_listener(*listener);
                if whose == Whose::Agent {
                    self.callers.insert(*stream);
                }
                whose
            }
            Input::Closed { stream, .. } if self.callers.remove(stream) => Whose::Agent,
            Input::Opened { stream, .. }
            | Input::Secured { stream }
            | Input::Received { stream, .. }
            | Input::Sent { stream, .. }
            | Input::Path { stream, .. }
            | Input::Closed { stream, .. } => {
                if self.callers.contains(stream) {
                    Whose::Agent
                } else if stream.is_accepted() {
                    Whose::Cache
                } else {
                    whose(Effects::of_stream(*stream, ROLES))
                }
            }
            Input::Disk { op, .. } | Input::Hashed { op, .. } => whose(Effects::of_op(*op, ROLES)),
            Input::Datagrams { .. } => Whose::Agent,
        }
    }

    fn pass_on_news(&mut self, now: Now) {
        while let Some(news) = self.cache.store.loans.news.pop_front() {
            match news {
                News::Whole(loan) => self.agent.lend(now, loan),
                News::Gone(path) => self.agent.take_back(now, &path),
            }
        }
    }

    /// The first of the two to stop says nothing. Who only lends has no use for cache servers, and keeps nothing.
    fn let_out(&mut self, output: Output) -> Option<Output> {
        if let Output::Notify(Event::LookForCaches(_) | Event::ShelfMoved(_)) = output {
            return None;
        }
        if let Output::Reply {
            call,
            reply: Reply::Stopped,
        } = &output
            && let Some((stop, left)) = &mut self.stopping
            && stop == call
        {
            *left = left.saturating_sub(1);
            return (*left == 0).then_some(output);
        }
        Some(output)
    }
}

impl Machine for CachePeer {
    fn handle(&mut self, now: Now, input: Input) {
        match self.whose(&input) {
            Whose::Cache => self.cache.handle(now, input),
            Whose::Agent => self.agent.handle(now, input),
            Whose::Both => {
                self.cache.handle(now, input.clone());
                self.agent.handle(now, input);
            }
        }
        self.pass_on_news(now);
    }

    fn poll(&mut self) -> Option<Output> {
        while let Some(output) = self.cache.poll().or_else(|| self.agent.poll()) {
            if let Some(output) = self.let_out(output) {
                return Some(output);
            }
        }
        None
    }

    fn poll_datagram(&mut self, now: Now, buf: &mut Vec<u8>) -> Option<Datagram> {
        self.agent.poll_datagram(now, buf)
    }

    fn deadline(&self) -> Option<Deadline> {
        Deadline::earlier(self.cache.deadline(), self.agent.deadline())
    }

    fn check(&self) {
        self.cache.check();
        self.agent.check();
    }
}
