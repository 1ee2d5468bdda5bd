//! The loop that drives a machine, and the arms that carry out its outputs.
//!
//! Invariants: the machine hears of a stream only between its start and its one `Closed`, whoever lost it;
//! every queue is bounded by what the machine granted or ordered, by [`ACCEPTED_MAX`] or [`DATAGRAMS_MAX`].
//! Tests: `tests/e2e.rs`.

use crate::disk::{Work, Workers};
use crate::host::{Buffers, Clock, raise_file_limit, words, workers};
use crate::net::{Bound, bind};
use crate::tcp::{Stream, accept, connect};
use crate::tls::Conduit;
use crate::udp;
use crate::{Commands, Notice, Options};
use dovetail_core::failure::{Failure, FailureKind};
use dovetail_core::ids::StreamId;
use dovetail_core::machine::{CloseHow, Input, Listener, Lost, Machine, Output};
use dovetail_core::time::Deadline;
use rustix::net::Shutdown;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::thread::JoinHandle;
use std::time::Instant;

/// Inputs handled before the deadline is looked at again: a busy socket cannot starve a timer.
pub const INPUTS_PER_DEADLINE: u32 = 32;

/// Accepted connections the machine has not heard of yet; the kernel holds the next ones.
pub const ACCEPTED_MAX: usize = 64;

/// Receptions of datagrams the machine has not heard of yet; the kernel holds the next ones, and then loses them.
pub const DATAGRAMS_MAX: usize = 16;

/// Drive `machine`; see [`crate::Runtime::run`].
///
/// # Errors
///
/// An address cannot be listened on.
pub fn run<M: Machine>(
    mut machine: M,
    options: Options,
    commands: Commands,
    mut observe: impl FnMut(Notice) -> ControlFlow<()>,
) -> Result<M, Failure> {
    let mut io = Io::start(options, commands)?;
    let mut budget = INPUTS_PER_DEADLINE;
    loop {
        while let Some(output) = machine.poll() {
            if let Some(notice) = io.apply(output)
                && observe(notice).is_break()
            {
                return Ok(machine);
            }
        }
        io.datagrams(&mut machine);
        let ready = if budget > 0 { io.ready() } else { None };
        let input = match ready {
            Some(input) => {
                budget -= 1;
                input
            }
            None => {
                budget = INPUTS_PER_DEADLINE;
                io.wait(machine.deadline())
            }
        };
        machine.handle(io.clock.now(), input);
    }
}

/// A stream the machine has not been told the end of.
enum Slot {
    Connecting,
    /// Closed while it was connecting: whatever the connect still brings comes too late.
    Abandoned,
    Open(Arc<Stream>),
}

/// Everything of one run that is not the machine.
struct Io {
    clock: Clock,
    queue: Arc<Queue>,
    commands: Commands,
    /// Taken from the queue, not handled yet.
    taken: VecDeque<Item>,
    streams: BTreeMap<StreamId, Slot>,
    /// Have something to write that came since the last flush.
    unflushed: BTreeSet<StreamId>,
    accepted: u64,
    workers: Workers,
    buffers: Buffers,
    listeners: Vec<(Arc<Bound>, JoinHandle<()>)>,
    datagrams: Vec<(Arc<udp::Socket>, JoinHandle<()>)>,
    datagram: Vec<u8>,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Io {
    fn start(options: Options, commands: Commands) -> Result<Self, Failure> {
        raise_file_limit();
        let listening = bind(&options)?;
        let queue = Arc::new(Queue::default());
        let no_thread = |error| {
            let what = "cannot start a thread";
            Failure::new(FailureKind::Listen, what, words(&error))
        };
        let answers = Arc::clone(&queue);
        let answer = move |input| answers.push(input);
        commands.wake(Waker::from(Arc::clone(&queue)));
        let mut io = Self {
            clock: Clock::start(),
            workers: Workers::start(workers(), answer).map_err(no_thread)?,
            queue,
            commands,
            taken: VecDeque::new(),
            streams: BTreeMap::new(),
            unflushed: BTreeSet::new(),
            accepted: 0,
            buffers: Buffers::default(),
            listeners: Vec::new(),
            datagrams: Vec::new(),
            datagram: Vec::with_capacity(udp::DATAGRAMS_BYTES),
            tls: options.tls,
        };
        for bound in listening.streams {
            let (listener, at) = (bound.listener, bound.at);
            io.queue.push(Input::Listening { listener, at });
            let (bound, queue) = (Arc::new(bound), Arc::clone(&io.queue));
            let shared = Arc::clone(&bound);
            let thread = std::thread::Builder::new().name("dovetail-accept".into());
            let thread = thread.spawn(move || accept(&shared, &queue));
            io.listeners.push((bound, thread.map_err(no_thread)?));
        }
        for (listener, at) in listening.datagrams_at {
            io.queue.push(Input::Listening { listener, at });
        }
        for (id, socket) in listening.datagrams.into_iter().enumerate() {
            let socket = Arc::new(udp::Socket::new(id, socket));
            let (shared, queue) = (Arc::clone(&socket), Arc::clone(&io.queue));
            let thread = std::thread::Builder::new().name("dovetail-udp".into());
            let thread = thread.spawn(move || udp::receive(&shared, &queue));
            io.datagrams.push((socket, thread.map_err(no_thread)?));
        }
        Ok(io)
    }

    /// Carry out one output, or pass it on to the observer.
    fn apply(&mut self, output: Output) -> Option<Notice> {
        match output {
            Output::Connect { stream, to } => {
                self.streams.insert(stream, Slot::Connecting);
                connect(stream, to, self.tls.clone(), &self.queue);
            }
            Output::Grant { stream, bytes } => {
                if let Some(stream) = self.open(stream) {
                    stream.grant(bytes);
                }
            }
            Output::StartTls { stream, name } => {
                if let Some(stream) = self.open(stream) {
                    stream.start_tls(self.tls.clone(), &name, &self.queue);
                }
            }
            Output::Send { stream, bytes } => {
                if let Some(open) = self.open(stream) {
                    open.send(bytes);
                    self.unflushed.insert(stream);
                }
            }
            Output::SendFile {
                stream,
                file,
                offset,
                len,
            } => {
                if let Some(open) = self.open(stream) {
                    open.send_file(self.workers.part(file, offset, len), &self.queue);
                    self.unflushed.insert(stream);
                }
            }
            Output::Shape { stream, shape } => {
                if let Some(open) = self.open(stream) {
                    open.shape(shape, &self.queue);
                }
            }
            Output::Close { stream, how } => self.close(stream, how),
            Output::Disk { op, todo } => self.workers.submit(Work::Disk(op, todo)),
            Output::Hash { op, job } => self.workers.submit(Work::Hash(op, job)),
            Output::Reply { call, reply } => return Some(Notice::Reply(call, reply)),
            Output::Notify(event) => return Some(Notice::Event(event)),
            _ => debug_assert!(false, "an output without an arm"),
        }
        None
    }

    fn open(&self, stream: StreamId) -> Option<&Arc<Stream>> {
        match self.streams.get(&stream) {
            Some(Slot::Open(open)) => Some(open),
            _ => None,
        }
    }

    fn close(&mut self, stream: StreamId, how: CloseHow) {
        match self.streams.get_mut(&stream) {
            Some(Slot::Open(open)) => open.close(how, &self.queue),
            Some(slot @ Slot::Connecting) => {
                *slot = Slot::Abandoned;
                let why = Lost::Asked;
                self.queue.push(Input::Closed { stream, why });
            }
            Some(Slot::Abandoned) | None => {}
        }
    }

    /// Send the machine's datagrams. The socket waits for room, so it is always writable.
    fn datagrams<M: Machine>(&mut self, machine: &mut M) {
        while let Some(datagram) = machine.poll_datagram(self.clock.now(), &mut self.datagram) {
            if let Some((socket, _)) = self.datagrams.get(usize::from(datagram.socket.0)) {
                // Nothing to be told: it waits for room, and what the network refuses is lost.
                let _ = socket.send(datagram, &self.datagram);
            }
        }
    }

    /// The next input, if one is there.
    fn ready(&mut self) -> Option<Input> {
        loop {
            if self.taken.is_empty() {
                self.flush();
                self.queue.take(&mut self.taken);
                if let Some(input) = self.commands.take() {
                    return Some(input);
                }
            }
            let item = self.taken.pop_front()?;
            if let Some(input) = self.admit(item) {
                return Some(input);
            }
        }
    }

    /// The next input, or the deadline.
    fn wait(&mut self, deadline: Option<Deadline>) -> Input {
        self.flush();
        loop {
            let time = deadline.map(|deadline| self.clock.until(deadline.at));
            if time.is_some_and(|time| time.is_zero()) {
                return Input::Tick;
            }
            if let Some(input) = self.ready() {
                return input;
            }
            self.queue.wait(time.map(|time| Instant::now() + time));
        }
    }

    /// Write what was queued since the last time, all chunks of a stream at once.
    fn flush(&mut self) {
        for stream in std::mem::take(&mut self.unflushed) {
            if let Some(open) = self.open(stream) {
                open.flush(&self.queue);
            }
        }
    }

    /// What the machine hears of an item, if anything.
    fn admit(&mut self, item: Item) -> Option<Input> {
        let input = match item {
            Item::Input(input) => input,
            Item::Accepted(socket, listener, from) => {
                return self.accepted(socket, listener, from);
            }
            Item::Connected {
                stream,
                socket,
                to,
                conduit,
                until,
            } => {
                let opened = Some((Input::Opened { stream, to }, until));
                return self.connected(stream, socket, conduit, opened);
            }
        };
        match &input {
            Input::Closed { stream, .. } => {
                self.streams.remove(stream)?;
            }
            Input::Opened { stream, .. }
            | Input::Secured { stream }
            | Input::Received { stream, .. }
            | Input::Sent { stream, .. }
            | Input::Path { stream, .. } => {
                self.streams.get(stream)?;
            }
            _ => {}
        }
        Some(input)
    }

    fn accepted(&mut self, socket: OwnedFd, listener: Listener, from: SocketAddr) -> Option<Input> {
        self.accepted += 1;
        let stream = StreamId(self.accepted << 1 | 1);
        let conduit = Conduit::default();
        // Without a thread for it, nobody has called.
        let open = Stream::open(stream, socket, conduit, None, &self.queue, &self.buffers).ok()?;
        self.streams.insert(stream, Slot::Open(open));
        Some(Input::Accepted {
            stream,
            listener,
            from,
        })
    }

    fn connected(
        &mut self,
        stream: StreamId,
        socket: OwnedFd,
        conduit: Conduit,
        opened: Option<(Input, Instant)>,
    ) -> Option<Input> {
        let slot = self.streams.get_mut(&stream)?;
        if !matches!(slot, Slot::Connecting) {
            return None;
        }
        match Stream::open(stream, socket, conduit, opened, &self.queue, &self.buffers) {
            Ok(open) => {
                open.flush(&self.queue);
                *slot = Slot::Open(open);
                None
            }
            Err(why) => {
                self.streams.remove(&stream);
                Some(Input::Closed { stream, why })
            }
        }
    }
}

impl Drop for Io {
    /// Abort what is open, let go of the addresses, wait for the work that has begun.
    fn drop(&mut self) {
        self.queue.end();
        for slot in self.streams.values() {
            if let Slot::Open(stream) = slot {
                stream.end();
            }
        }
        for (bound, thread) in self.listeners.drain(..) {
            let _ = rustix::net::shutdown(&bound.socket, Shutdown::Both);
            let _ = thread.join();
        }
        for (socket, thread) in self.datagrams.drain(..) {
            let _ = rustix::net::shutdown(&*socket, Shutdown::Both);
            let _ = thread.join();
        }
    }
}

/// What threads bring to the driver.
#[derive(Debug)]
pub enum Item {
    Input(Input),
    Accepted(OwnedFd, Listener, SocketAddr),
    Connected {
        stream: StreamId,
        socket: OwnedFd,
        to: SocketAddr,
        conduit: Conduit,
        /// When a handshake must be over.
        until: Instant,
    },
}

/// The way from the threads to the driver.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<Waiting>,
    ready: Condvar,
    room: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    items: VecDeque<Item>,
    accepted: usize,
    datagrams: usize,
    is_waiting: bool,
    is_woken: bool,
    is_ended: bool,
}

impl Queue {
    pub fn push(&self, input: Input) {
        self.push_item(Item::Input(input));
    }

    pub fn push_item(&self, item: Item) {
        let mut state = self.lock();
        if !state.is_ended {
            state.items.push_back(item);
            self.notify(state);
        }
    }

    /// Waits while too many are waiting; false once the run is over.
    pub fn push_accepted(&self, socket: OwnedFd, listener: Listener, from: SocketAddr) -> bool {
        let mut state = self.lock();
        while state.accepted >= ACCEPTED_MAX && !state.is_ended {
            state = self
                .room
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.is_ended {
            return false;
        }
        state.accepted += 1;
        state
            .items
            .push_back(Item::Accepted(socket, listener, from));
        self.notify(state);
        true
    }

    /// Waits while too many are waiting.
    pub fn push_datagrams(&self, datagrams: Input) {
        let mut state = self.lock();
        while state.datagrams >= DATAGRAMS_MAX && !state.is_ended {
            state = self
                .room
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if !state.is_ended {
            state.datagrams += 1;
            state.items.push_back(Item::Input(datagrams));
            self.notify(state);
        }
    }

    pub fn is_ended(&self) -> bool {
        self.lock().is_ended
    }

    fn take(&self, taken: &mut VecDeque<Item>) {
        let mut state = self.lock();
        std::mem::swap(&mut state.items, taken);
        state.is_woken = false;
        let accepted = std::mem::take(&mut state.accepted);
        let datagrams = std::mem::take(&mut state.datagrams);
        if accepted >= ACCEPTED_MAX || datagrams >= DATAGRAMS_MAX {
            self.room.notify_all();
        }
    }

    fn wait(&self, until: Option<Instant>) {
        let mut state = self.lock();
        while state.items.is_empty() && !state.is_woken {
            state.is_waiting = true;
            let time = until.map(|until| until.saturating_duration_since(Instant::now()));
            state = match time {
                Some(time) if time.is_zero() => break,
                Some(time) => {
                    let waited = self.ready.wait_timeout(state, time);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self
                    .ready
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
        state.is_waiting = false;
    }

    fn end(&self) {
        let mut state = self.lock();
        state.is_ended = true;
        state.items.clear();
        drop(state);
        self.room.notify_all();
    }

    fn notify(&self, mut state: MutexGuard<'_, Waiting>) {
        let waiting = std::mem::take(&mut state.is_waiting);
        drop(state);
        if waiting {
            self.ready.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A command has come.
impl Wake for Queue {
    fn wake(self: Arc<Self>) {
        let mut state = self.lock();
        state.is_woken = true;
        self.notify(state);
    }
}
