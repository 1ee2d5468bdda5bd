//! The loop: next event, one input, drain, deadline; and the guards against machines that never rest.

use super::clock::Clock;
use super::event::{At, What};
use super::world::{HostId, Soon, Stuck, World};
use crate::machine::{Input, Output};
use crate::time::Mono;
use core::net::SocketAddr;
use core::time::Duration;
use std::boxed::Box;

/// Ticks one host may take at one instant.
const TICKS_MAX: u32 = 64;
/// Outputs one machine may give in one drain.
const OUTPUTS_MAX: u32 = 100_000;
/// Inputs per host that all hosts together may be given at one instant, on average.
const STEPS_PER_HOST_MAX: u32 = 20_000;

impl World {
    /// Let the next thing happen; `false` if there is none.
    pub fn step(&mut self) -> bool {
        if self.settle() {
            return true;
        }
        let Some((at_ns, what)) = self.agenda.pop() else {
            return false;
        };
        self.now_ns = at_ns;
        self.steps += 1;
        self.happen(what);
        self.settle();
        true
    }

    /// Run until `done`, for at most `limit` from now.
    ///
    /// # Errors
    /// If time is up, or nothing will ever happen any more.
    pub fn run_until(
        &mut self,
        mut done: impl FnMut(&Self) -> bool,
        limit: Duration,
    ) -> Result<(), Stuck> {
        let end_ns = self.now_ns.saturating_add(super::clock::ns(limit));
        self.dirty = true;
        loop {
            if core::mem::take(&mut self.dirty) && done(self) {
                return Ok(());
            }
            match self.agenda.next_ns() {
                _ if !self.soon.is_empty() => {}
                None => return Err(self.stuck(true)),
                Some(at_ns) if at_ns > end_ns => {
                    self.now_ns = end_ns;
                    return Err(self.stuck(false));
                }
                Some(_) => {}
            }
            self.step();
        }
    }

    /// Let this much time pass.
    pub fn run_for(&mut self, span: Duration) {
        let end_ns = self.now_ns.saturating_add(super::clock::ns(span));
        self.settle();
        while self.agenda.next_ns().is_some_and(|at_ns| at_ns <= end_ns) {
            self.step();
        }
        self.now_ns = end_ns;
    }

    /// Run until nothing is left to happen; machines with a standing deadline never come there.
    ///
    /// # Errors
    /// If time is up.
    pub fn run_until_idle(&mut self, limit: Duration) -> Result<(), Stuck> {
        match self.run_until(|_| false, limit) {
            Err(stuck) if stuck.idle => Ok(()),
            other => other,
        }
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Start(at) if self.is_current(at) => self.on_start(at.host),
            What::Timer(at) if self.is_current(at) => self.on_timer(at.host),
            What::Tell(at, input) if self.is_current(at) => self.handle(at.host, *input),
            What::Disk(at, work) if self.is_current(at) => self.on_disk(at, *work),
            What::Hash(at, work) if self.is_current(at) => self.on_hash(at, work.0, work.1),
            What::Start(_) | What::Timer(_) | What::Tell(..) | What::Disk(..) | What::Hash(..) => {}
            What::LinkFree(link) => self.pump(link),
            What::Segment {
                conn,
                dir,
                hop,
                segment,
            } => self.on_segment(conn, dir, hop, segment),
            What::Datagram { hop, flying } => self.on_datagram(hop, flying),
            What::Ack {
                conn,
                dir,
                number,
                edge,
                is_first,
            } => self.on_ack(conn, dir, number, edge, is_first),
            What::DelayedAck { conn, dir } => self.on_delayed_ack(conn, dir),
            What::Rto { conn, dir } => self.on_rto(conn, dir),
            What::Report { conn, side } => self.on_report(conn, side),
            What::Control {
                conn,
                side,
                attempt,
                what,
            } => self.on_control(conn, side, attempt, what),
        }
    }

    /// Do all that is due at this very instant; was there anything?
    pub(super) fn settle(&mut self) -> bool {
        let mut any = false;
        while let Some(soon) = self.soon.pop_front() {
            any = true;
            match soon {
                Soon::Read { conn, side } => self.read_now(conn, side),
                Soon::Sent { conn, side } => self.sent_now(conn, side),
                Soon::Tell(at, input) if self.is_current(at) => self.handle(at.host, *input),
                Soon::Tell(..) => {}
                Soon::Drain(host) => {
                    self.hosts[host as usize].drain_queued = false;
                    self.drain(host);
                }
            }
        }
        any
    }

    fn is_current(&self, at: At) -> bool {
        let host = &self.hosts[at.host as usize];
        host.life == at.life && host.is_alive()
    }

    fn on_start(&mut self, host: u32) {
        let h = &mut self.hosts[host as usize];
        h.clock = Clock::new(self.now_ns, h.clock_spec);
        let addr = h.addr;
        let listen = h.listen.clone();
        self.drain(host);
        for (listener, port) in listen {
            let at = SocketAddr::new(addr, port);
            self.handle(host, Input::Listening { listener, at });
        }
    }

    fn on_timer(&mut self, host: u32) {
        let now_ns = self.now_ns;
        let h = &mut self.hosts[host as usize];
        if h.timer_ns > now_ns {
            // An earlier timer of this instant has already done it.
            return;
        }
        h.timer_ns = u64::MAX;
        let due = h.machine.as_ref().and_then(|m| m.deadline());
        let due_ns = due.map(|d| h.clock.world_ns(d.at));
        if due_ns.is_none_or(|due_ns| due_ns > now_ns) {
            self.arm(host);
            return;
        }
        if h.ticks_at_ns != now_ns {
            (h.ticks_at_ns, h.ticks) = (now_ns, 0);
        }
        h.ticks += 1;
        assert!(
            h.ticks <= TICKS_MAX,
            "livelock: {} wants to be called again at once for ever: {due:?}",
            h.name
        );
        self.handle(host, Input::Tick);
    }

    /// Queue an input for this instant.
    pub(super) fn tell(&mut self, host: u32, input: Input) {
        let at = self.hosts[host as usize].at();
        self.soon.push_back(Soon::Tell(at, Box::new(input)));
    }

    /// One input, and all that follows from it.
    pub(super) fn handle(&mut self, host: u32, input: Input) {
        self.guard(host);
        let now_ns = self.now_ns;
        let h = &mut self.hosts[host as usize];
        let Some(machine) = &mut h.machine else {
            return;
        };
        h.journal.input(now_ns, &input, &self.bases.borrow());
        machine.handle(h.clock.now(now_ns), input);
        self.dirty = true;
        self.drain(host);
        let h = &mut self.hosts[host as usize];
        h.since_check += 1;
        if self.check_every > 0 && h.since_check >= self.check_every {
            h.since_check = 0;
            if let Some(machine) = &h.machine {
                machine.check();
            }
        }
    }

    pub(super) fn drain(&mut self, host: u32) {
        self.note(host);
        let mut outputs = 0;
        while let Some(output) = self.next_output(host) {
            outputs += 1;
            assert!(
                outputs <= OUTPUTS_MAX,
                "livelock: {} gives outputs without end",
                self.host_name(HostId(host))
            );
            self.apply(host as usize, output);
        }
        self.drain_datagrams(host);
        self.arm(host);
    }

    fn next_output(&mut self, host: u32) -> Option<Output> {
        let h = &mut self.hosts[host as usize];
        let output = h.machine.as_mut()?.poll()?;
        h.journal.output(self.now_ns, &output, &self.bases.borrow());
        Some(output)
    }

    fn drain_datagrams(&mut self, host: u32) {
        let h = host as usize;
        loop {
            let writable = self.is_writable(h);
            self.hosts[h].wants_datagrams = !writable;
            if !writable {
                return;
            }
            let mut payload = core::mem::take(&mut self.datagram);
            payload.clear();
            let h_ref = &mut self.hosts[h];
            let now = h_ref.clock.now(self.now_ns);
            let machine = h_ref.machine.as_mut();
            let sent = machine.and_then(|m| m.poll_datagram(now, &mut payload));
            if let Some(datagram) = sent {
                self.hosts[h]
                    .journal
                    .datagram(self.now_ns, &datagram, &payload);
                let segment_bytes = datagram.segment_bytes.max(1);
                for bytes in payload.chunks(segment_bytes) {
                    self.queue_datagram(h, datagram.socket, datagram.to, bytes, datagram.ecn);
                }
            }
            self.datagram = payload;
            if sent.is_none() {
                return;
            }
        }
    }

    fn apply(&mut self, h: usize, output: Output) {
        match output {
            Output::Connect { stream, to } => self.connect(h, stream, to),
            Output::Grant { stream, bytes } => self.grant(h, stream, bytes),
            Output::StartTls { stream, name: _ } => self.start_tls(h, stream),
            Output::Send { stream, bytes } => self.send(h, stream, bytes),
            Output::SendFile {
                stream,
                file,
                offset,
                len,
            } => self.send_file(h, stream, file, offset, len),
            Output::Close { stream, how } => self.close(h, stream, how),
            Output::Shape { stream, shape } => self.shape(h, stream, shape),
            Output::Disk { op, todo } => self.order_disk(h, op, todo),
            Output::Hash { op, job } => self.order_hash(h, op, job),
            Output::Reply { call, reply } => {
                let host = &mut self.hosts[h];
                let known = (1..=host.last_call).contains(&call.0);
                let first = host.replies.insert(call, reply).is_none();
                assert!(
                    known && first,
                    "contract: {} answers call {} twice or unasked",
                    host.name,
                    call.0
                );
            }
            Output::Notify(event) => self.hosts[h].events.push(event),
        }
    }

    /// See to it that the machine is called at its deadline.
    fn arm(&mut self, host: u32) {
        let h = &mut self.hosts[host as usize];
        let Some(deadline) = h.machine.as_ref().and_then(|m| m.deadline()) else {
            return;
        };
        if deadline.at == Mono::NEVER {
            return;
        }
        let due_ns = h.clock.world_ns(deadline.at).max(self.now_ns);
        // A timer that comes too early finds the deadline moved and waits again, without a tick.
        if due_ns < h.timer_ns {
            h.timer_ns = due_ns;
            let at = h.at();
            self.schedule(host, due_ns, What::Timer(at));
        }
    }

    fn guard(&mut self, host: u32) {
        if self.steps_at_ns != self.now_ns {
            (self.steps_at_ns, self.steps_here) = (self.now_ns, 0);
        }
        self.steps_here += 1;
        let most = STEPS_PER_HOST_MAX.saturating_mul(self.hosts.len() as u32);
        if self.steps_here > most {
            let why = self.stuck(false);
            let name = self.host_name(HostId(host));
            assert!(
                self.steps_here <= most,
                "livelock at one instant, {name} next: {why}"
            );
        }
    }
}
