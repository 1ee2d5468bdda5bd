//! What callers on this machine ask for, and what they are told.
//!
//! Never does: HTTP with them (`api`), downloading (`swarm`).

use super::swarm::{Context, Start, Swarm};
use super::{Agent, DESK};
use crate::api::{Asked, Desk};
use crate::command::{Command, Event, GetRequest, Reply, ShareRequest};
use crate::failure::{Failure, FailureKind};
use crate::ids::{CallId, JobId, StreamId};
use crate::job::Job;
use crate::limits::CONTENTS_MAX;
use crate::machine::Input;
use alloc::format;
use alloc::vec::Vec;

impl Agent {
    pub(super) fn on_command(&mut self, call: CallId, command: Command) {
        match command {
            Command::Get(request) => self.on_get(call, request),
            Command::Share(request) => self.on_share(call, request),
            Command::Configure { provider, sources } => {
                let problems = self.on_configure(provider, &sources);
                self.reply(call, Reply::Configured(problems));
            }
            Command::Prioritise { get, foreground } => {
                let is_there = self.prioritise(get, foreground);
                self.reply(call, Reply::Prioritised(is_there));
            }
            Command::Stop(target) if self.unqueue(target) => self.reply(call, Reply::Stopped),
            Command::Stop(target) => {
                let owner = self
                    .swarms
                    .values()
                    .find(|s| s.call == target && s.job().is_some())
                    .map(|s| s.owner);
                match owner {
                    Some(owner) => {
                        self.stops.push((call, owner));
                        self.with_swarm(Some(owner), |swarm, c| swarm.tell_job(c, Job::stop));
                    }
                    None => self.reply(call, Reply::Stopped),
                }
            }
            Command::Shutdown => self.shut_down(call),
        }
    }

    fn on_get(&mut self, call: CallId, request: GetRequest) {
        let is_taken = self.swarms.values().any(|s| {
            !self.closing.contains(&s.owner) && s.job().is_some() && s.output() == request.output
        });
        let is_taken = is_taken || self.is_waiting_for(&request.output);
        if let Some(failure) = self.refusal(&request.output, is_taken) {
            return self.reply(call, Reply::Got(Err(failure)));
        }
        self.enqueue(call, request);
    }

    fn prioritise(&mut self, get: CallId, foreground: bool) -> bool {
        if let Some(waiting) = self.waiting.iter_mut().find(|w| w.call == get) {
            waiting.request.foreground = foreground;
            return true;
        }
        let mut swarms = self.swarms.values();
        let owner = swarms.find(|s| s.call == get && s.is_downloading());
        let owner = owner.map(|swarm| swarm.owner);
        self.with_swarm(owner, |swarm, c| swarm.prioritise(foreground, c));
        owner.is_some()
    }

    fn on_share(&mut self, call: CallId, request: ShareRequest) {
        if !self.me.share {
            let what = format!("cannot serve {}", request.path);
            let why = "this agent does not share with peers";
            let failure =
                Failure::new(FailureKind::Refused, what, why).remedy("start it with --share");
            return self.reply(call, Reply::Shared(Err(failure)));
        }
        if let Some(failure) = self.refusal(&request.path, false) {
            return self.reply(call, Reply::Shared(Err(failure)));
        }
        self.last_job += 1;
        let id = JobId(self.last_job);
        self.start(call, id, |start, c| Swarm::share(start, request, c));
    }

    /// A new swarm, with its first events.
    pub(super) fn start(
        &mut self,
        call: CallId,
        id: JobId,
        make: impl FnOnce(Start<'_>, &mut Context<'_>) -> Swarm,
    ) {
        self.last_owner += 1;
        let owner = self.last_owner;
        let start = Start {
            owner,
            call,
            id,
            me: self.me,
            jobs: &self.jobs,
            rng: self.rng.fork(),
        };
        let mut events = Vec::new();
        let mut c = Context {
            now: self.now,
            fx: &mut self.fx,
            ev: &mut events,
            rules: &mut self.rules,
        };
        let swarm = make(start, &mut c);
        self.swarms.insert(owner, swarm);
        self.said
            .extend(events.into_iter().map(|event| (owner, event)));
    }

    fn refusal(&self, path: &str, taken: bool) -> Option<Failure> {
        let what = || format!("cannot take on {path}");
        if self.shutdown.is_some() {
            return Some(Failure::new(
                FailureKind::Interrupted,
                what(),
                "the agent is stopping",
            ));
        }
        if taken {
            let failure = Failure::new(
                FailureKind::Exists,
                what(),
                "it is being downloaded already",
            );
            return Some(failure.remedy("wait for it, or choose another name with -o"));
        }
        (self.swarms.len() + self.waiting.len() >= CONTENTS_MAX).then(|| {
            Failure::new(
                FailureKind::Refused,
                what(),
                format!("this agent has {CONTENTS_MAX} contents at work"),
            )
        })
    }

    pub(super) fn on_caller_stream(&mut self, stream: StreamId, input: &Input) {
        self.fx.owner = DESK;
        match input {
            Input::Received { bytes, .. } => {
                self.desk
                    .on_bytes(self.now, stream, bytes, &mut self.fx, &mut self.asked);
            }
            Input::Sent { len, .. } => self.desk.on_sent(self.now, stream, *len),
            Input::Closed { .. } => self.desk.on_closed(stream, &mut self.asked),
            _ => {}
        }
    }

    pub(super) fn on_asked(&mut self, asked: Asked) {
        match asked {
            Asked::Command { call, command } => self.on_command(call, command),
            Asked::Shelf { call, ask } => {
                let line = self.on_shelf_asked(&ask);
                self.fx.owner = DESK;
                self.desk
                    .on_line(self.now, call, &line, &mut self.fx, &mut self.asked);
            }
            Asked::Status { call } => {
                let status = self.status();
                self.fx.owner = DESK;
                self.desk
                    .on_status(self.now, call, status, &mut self.fx, &mut self.asked);
            }
        }
    }

    pub(super) fn reply(&mut self, call: CallId, reply: Reply) {
        if Self::is_own_call(call, &reply) {
            return;
        }
        if Desk::owns(call) {
            self.fx.owner = DESK;
            self.desk
                .on_reply(self.now, call, &reply, &mut self.fx, &mut self.asked);
        } else {
            self.fx.reply(call, reply);
        }
    }

    pub(super) fn notify(&mut self, event: Event) {
        self.fx.owner = DESK;
        self.desk.on_event(self.now, &event, &mut self.fx);
        self.fx.notify(event);
    }
}
