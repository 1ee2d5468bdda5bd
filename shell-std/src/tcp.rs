//! Streams: connecting, accepting, and one reader (and, once a socket is full, one writer) for each.
//!
//! A reader blocks only while its stream has credit, a writer only while there is something to write; both
//! end with their stream. The driver writes by itself as long as the socket takes it without waiting.
//!
//! Without credit the end of a stream is not noticed: it comes when the machine asks for more.
//! Tests: `tests/e2e.rs`, `tests/e2e_tls.rs`.

use crate::driver::{Item, Queue};
use crate::file_part::{FilePart, NotSent};
use crate::host::{Buffers, ReadSize, words};
use crate::net::{Bound, accept_one, addresses, lost, send_some, send_waiting, share};
use crate::path::{Shaping, within};
use crate::tls::{Conduit, config};
use bytes::Bytes;
use dovetail_core::ids::StreamId;
use dovetail_core::limits::CONNECT_TIMEOUT;
use dovetail_core::machine::{CloseHow, Endpoint, Host, Input, Lost, Shape};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, sockopt};
use rustls::ClientConfig;
use std::io::IoSlice;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One blocking write; what it writes is reported when it returns.
const WRITE_MAX: usize = 256 * 1024;

/// After the last byte, wait this long for the peer to read it and hang up: closing earlier would destroy
/// what it has not read, if it has sent something we did not read.
pub const LINGER: Duration = Duration::from_secs(2);

/// Enough for a TLS handshake.
const STACK_LEN: usize = 512 * 1024;

/// Pass on who connects, until the listener is shut down.
pub fn accept(bound: &Bound, queue: &Queue) {
    loop {
        match accept_one(&bound.socket) {
            Ok((socket, from)) => {
                let listener = bound.listener;
                if !queue.push_accepted(socket, listener, from) {
                    return;
                }
            }
            Err(_) if queue.is_ended() => return,
            // Out of files or memory: somebody has to close something first.
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                std::thread::sleep(ACCEPT_AGAIN);
            }
            Err(_) => {}
        }
    }
}

/// How long to wait when the system has no file left for a connection.
pub const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Open a stream on a thread of its own.
pub fn connect(stream: StreamId, to: Endpoint, tls: Option<Arc<ClientConfig>>, queue: &Arc<Queue>) {
    let answer = Arc::clone(queue);
    let started = start("dovetail-connect", move || {
        let until = Instant::now() + CONNECT_TIMEOUT;
        let opened = dial(&to, until).and_then(|(socket, at)| {
            let mut conduit = Conduit::default();
            if let Some(name) = &to.tls {
                conduit.start_tls(tls.map_or_else(config, Ok)?, name)?;
            }
            Ok((socket, at, conduit))
        });
        match opened {
            Ok((socket, to, conduit)) => answer.push_item(Item::Connected {
                stream,
                socket,
                to,
                conduit,
                until,
            }),
            Err(why) => answer.push(Input::Closed { stream, why }),
        }
    });
    if let Err(why) = started {
        queue.push(Input::Closed { stream, why });
    }
}

/// Try each address in turn, each with its share of the time left.
fn dial(to: &Endpoint, until: Instant) -> Result<(OwnedFd, SocketAddr), Lost> {
    let addresses = resolve(to, until)?;
    let mut why = Lost::NameNotFound;
    for (at, to) in addresses.iter().enumerate() {
        match TcpStream::connect_timeout(to, share(until, addresses.len() - at)) {
            Ok(socket) => {
                let _ = socket.set_nodelay(true);
                return Ok((socket.into(), *to));
            }
            Err(error) => why = lost(&error),
        }
    }
    Err(why)
}

/// The system's resolver cannot be told to hurry: it gets a thread that may be left behind.
fn resolve(to: &Endpoint, until: Instant) -> Result<Vec<SocketAddr>, Lost> {
    if let Host::Addr(ip) = to.host {
        return Ok(vec![SocketAddr::new(ip, to.port)]);
    }
    let (answer, answered) = std::sync::mpsc::sync_channel(1);
    let (host, port) = (to.host.clone(), to.port);
    start("dovetail-resolve", move || {
        let _ = answer.send(addresses(&host, port));
    })?;
    let time = until.saturating_duration_since(Instant::now());
    answered.recv_timeout(time).unwrap_or(Err(Lost::TimedOut))
}

/// A stream that is open: its socket, its bytes, its threads' turns.
#[derive(Debug)]
pub struct Stream {
    id: StreamId,
    socket: OwnedFd,
    state: Mutex<State>,
    readable: Condvar,
    writable: Condvar,
    /// The send window may have room.
    room: Condvar,
    /// The path may have news.
    moved: Condvar,
}

#[derive(Debug)]
struct State {
    conduit: Conduit,
    shaping: Shaping,
    reporter: Reporter,
    phase: Phase,
    writer: Writer,
    /// Said once the handshake is over, which it must be by then.
    secured: Option<(Input, Instant)>,
    /// Nothing is left to throw away.
    has_eof: bool,
    /// The last read took all there was, and the next one is allowed.
    is_drained: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reporter {
    None,
    /// Waits for something to move.
    Idle,
    Busy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Writing what is left; what is read is thrown away.
    Closing,
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    None,
    Idle,
    Busy,
}

/// What a writer has done, waiting for as long as it took.
enum Wrote {
    Some(usize),
    /// The kernel cannot send this file by itself; these bytes of it will be written.
    Read(Bytes),
}

/// What a reader does next.
enum Turn {
    Read(usize, Option<Instant>),
    Discard,
    Over,
}

impl Stream {
    /// Take over a socket. `opened` is said once the handshake is over, if there is one.
    pub fn open(
        id: StreamId,
        socket: OwnedFd,
        conduit: Conduit,
        opened: Option<(Input, Instant)>,
        queue: &Arc<Queue>,
        buffers: &Buffers,
    ) -> Result<Arc<Self>, Lost> {
        let stream = Arc::new(Self {
            id,
            socket,
            state: Mutex::new(State {
                conduit,
                shaping: Shaping::default(),
                reporter: Reporter::None,
                phase: Phase::Open,
                writer: Writer::None,
                secured: None,
                has_eof: false,
                is_drained: false,
            }),
            readable: Condvar::new(),
            writable: Condvar::new(),
            room: Condvar::new(),
            moved: Condvar::new(),
        });
        let mut state = stream.lock();
        state.secured = opened;
        stream.say_secured(&mut state, queue);
        drop(state);
        let (reader, queue, buffers) = (Arc::clone(&stream), Arc::clone(queue), buffers.clone());
        start("dovetail-read", move || reader.read(&queue, &buffers))?;
        Ok(stream)
    }

    /// The reader may deliver this much more.
    pub fn grant(&self, bytes: u32) {
        self.lock().conduit.grant(bytes);
        self.readable.notify_one();
    }

    /// What it may take of the network from now on.
    pub fn shape(self: &Arc<Self>, shape: Shape, queue: &Arc<Queue>) {
        let mut state = self.lock();
        state.shaping.set(&self.socket, shape);
        if state.reporter == Reporter::None && shape.report_every.is_some() {
            let (stream, answer) = (Arc::clone(self), Arc::clone(queue));
            if let Err(why) = start("dovetail-report", move || stream.report(&answer)) {
                return self.lose(&mut state, why, queue);
            }
            state.reporter = Reporter::Busy;
        }
        self.flush_some(&mut state, queue);
        self.room.notify_one();
        self.note_movement(&mut state);
    }

    /// Queue bytes; [`Stream::flush`] writes them.
    pub fn send(&self, bytes: Bytes) {
        self.lock().conduit.send(bytes);
    }

    /// Queue a part of a file; one that cannot be read ends the stream.
    pub fn send_file(self: &Arc<Self>, part: Result<FilePart, Lost>, queue: &Arc<Queue>) {
        let mut state = self.lock();
        if let Err(why) = part.and_then(|part| state.conduit.send_file(part)) {
            self.lose(&mut state, why, queue);
        }
    }

    /// Write what the socket takes without waiting, and leave the rest to the writer.
    pub fn flush(self: &Arc<Self>, queue: &Arc<Queue>) {
        self.flush_some(&mut self.lock(), queue);
    }

    /// Speak TLS from here on.
    pub fn start_tls(
        self: &Arc<Self>,
        tls: Option<Arc<ClientConfig>>,
        name: &str,
        queue: &Arc<Queue>,
    ) {
        let mut state = self.lock();
        let started = tls
            .map_or_else(config, Ok)
            .and_then(|config| state.conduit.start_tls(config, name));
        if let Err(why) = started {
            self.lose(&mut state, why, queue);
            return;
        }
        let secured = Input::Secured { stream: self.id };
        state.secured = Some((secured, Instant::now() + CONNECT_TIMEOUT));
        self.flush_some(&mut state, queue);
        self.readable.notify_one();
    }

    /// Close it, once what was sent has left or at once. Answered on the queue.
    pub fn close(self: &Arc<Self>, how: CloseHow, queue: &Arc<Queue>) {
        let mut state = self.lock();
        match how {
            CloseHow::Abort => {
                let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
                self.lose(&mut state, Lost::Asked, queue);
            }
            CloseHow::Flush if state.phase == Phase::Open => {
                state.conduit.say_goodbye();
                state.phase = Phase::Closing;
                self.flush_some(&mut state, queue);
                if state.writer != Writer::Busy {
                    self.wake_writer(&mut state, queue);
                }
                self.readable.notify_one();
            }
            CloseHow::Flush => {}
        }
    }

    /// Drop the connection without a word to the machine: it knows already.
    pub fn end(&self) {
        self.hang_up(&mut self.lock());
    }

    /// Reader: from the socket to the queue, while there is credit.
    fn read(self: &Arc<Self>, queue: &Arc<Queue>, buffers: &Buffers) {
        let mut size = ReadSize::default();
        loop {
            let (room, until) = match self.next_turn(queue) {
                Turn::Read(wanted, until) => (size.next(wanted), until),
                Turn::Discard => (size.next(usize::MAX), None),
                Turn::Over => return,
            };
            let mut buffer = buffers.take(room);
            let got = rustix::net::recv(&self.socket, buffer.room(room), RecvFlags::DONTWAIT);
            let lost = match got.map(|(got, _)| got) {
                Ok(0) => Lost::Eof,
                Ok(got) => {
                    size.learn(room, got);
                    self.receive(buffer.filled(got), queue);
                    continue;
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    drop(buffer);
                    self.lock().is_drained = true;
                    let has_come = self.wait(until);
                    self.lock().is_drained = false;
                    if has_come {
                        continue;
                    }
                    Lost::TimedOut
                }
                Err(error) => lost(&error.into()),
            };
            self.finish(lost, queue);
        }
    }

    /// Deliver what may be delivered, then wait for something to do.
    fn next_turn(&self, queue: &Queue) -> Turn {
        let mut state = self.lock();
        loop {
            if let Some(turn) = self.turn(&mut state, queue) {
                return turn;
            }
            state = self
                .readable
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn turn(&self, state: &mut State, queue: &Queue) -> Option<Turn> {
        match state.phase {
            Phase::Open => {}
            Phase::Closing if state.has_eof => return Some(Turn::Over),
            Phase::Closing => return Some(Turn::Discard),
            Phase::Ended => return Some(Turn::Over),
        }
        let stream = self.id;
        while let Some(bytes) = state.conduit.deliver() {
            queue.push(Input::Received { stream, bytes });
        }
        if let Some(why) = state.conduit.end().cloned() {
            self.lose(state, why, queue);
            return Some(Turn::Over);
        }
        let wanted = state.conduit.wants()?;
        let until = state.secured.as_ref().map(|(_, until)| *until);
        Some(Turn::Read(wanted, until))
    }

    fn receive(self: &Arc<Self>, bytes: Bytes, queue: &Arc<Queue>) {
        let mut state = self.lock();
        if state.phase != Phase::Open {
            return;
        }
        self.note_movement(&mut state);
        let received = state.conduit.receive(bytes);
        self.flush_some(&mut state, queue);
        match received {
            Ok(()) => self.say_secured(&mut state, queue),
            Err(why) => self.lose(&mut state, why, queue),
        }
    }

    /// Nothing more will come. While closing, only the writer knows when it is over.
    fn finish(&self, why: Lost, queue: &Queue) {
        let mut state = self.lock();
        match state.phase {
            Phase::Open => state.conduit.finish(why),
            Phase::Closing if why == Lost::Eof => state.has_eof = true,
            Phase::Closing => self.lose(&mut state, why, queue),
            Phase::Ended => {}
        }
    }

    /// Writer: from the conduit to the socket, whenever the socket did not take everything at once.
    fn write(&self, queue: &Queue) {
        let mut state = self.lock();
        loop {
            if state.phase == Phase::Ended {
                return;
            }
            if state.conduit.has_outgoing() {
                let (part, chunks) = (
                    state.conduit.file_part().cloned(),
                    state.conduit.chunks(WRITE_MAX),
                );
                let wanted = match &part {
                    Some(part) => part.len,
                    None => chunks.iter().map(Bytes::len).sum(),
                };
                let room = state.shaping.room(&self.socket, wanted);
                if room == Some(0) {
                    state = self
                        .room
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                let room = room.unwrap_or(usize::MAX);
                drop(state);
                let wrote = match part {
                    Some(part) => self.write_file(&part.beginning(room)),
                    None => self.write_chunks(&chunks, room),
                };
                state = self.lock();
                match wrote {
                    Ok(Wrote::Some(written)) => self.say_sent(&mut state, written, queue),
                    Ok(Wrote::Read(bytes)) => state.conduit.replace_part(bytes),
                    Err(why) => self.lose(&mut state, why, queue),
                }
            } else if state.phase == Phase::Closing {
                drop(state);
                self.part(queue);
                return;
            } else {
                state.writer = Writer::Idle;
                state = self
                    .writable
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Everything is written: say so, and let the peer read it before the connection is gone.
    fn part(&self, queue: &Queue) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
        queue.push(Input::Closed {
            stream: self.id,
            why: Lost::Asked,
        });
        let until = Instant::now() + LINGER;
        let mut nowhere = vec![0; 16 * 1024];
        while self.wait(Some(until)) {
            match rustix::net::recv(&self.socket, &mut nowhere[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => break,
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => break,
            }
        }
        let mut state = self.lock();
        state.phase = Phase::Ended;
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        self.moved.notify_one();
    }

    fn flush_some(self: &Arc<Self>, state: &mut State, queue: &Arc<Queue>) {
        while state.writer != Writer::Busy && state.conduit.has_outgoing() {
            match self.send_next(state) {
                Ok(written) => self.say_sent(state, written, queue),
                Err(NotSent::Full | NotSent::Held | NotSent::Cold) => {
                    self.wake_writer(state, queue);
                }
                Err(NotSent::Lost(why)) => return self.lose(state, why, queue),
            }
        }
    }

    /// Write what window and socket take now. Files take a disk's time: that is the writer's.
    fn send_next(&self, state: &mut State) -> Result<usize, NotSent> {
        let State {
            conduit, shaping, ..
        } = state;
        if conduit.file_part().is_some() {
            return Err(NotSent::Cold);
        }
        let slices = conduit.slices();
        let wanted = slices.iter().map(|slice| slice.len()).sum();
        let more = conduit.has_part_next(slices.len());
        match shaping.room(&self.socket, wanted) {
            Some(0) => Err(NotSent::Held),
            Some(room) if room < wanted => send_some(&self.socket, &within(&slices, room), false),
            _ => send_some(&self.socket, &slices, more),
        }
    }

    /// Reporter: tell the machine of the path, while it wants to know and something moves.
    fn report(&self, queue: &Queue) {
        let mut state = self.lock();
        while state.phase != Phase::Ended {
            let every = state.shaping.report_every();
            let every = every.filter(|_| !self.look(&mut state, queue));
            state.reporter = if every.is_some() {
                Reporter::Busy
            } else {
                Reporter::Idle
            };
            state = match every {
                Some(every) => {
                    drop(state);
                    std::thread::sleep(every);
                    self.lock()
                }
                None => self
                    .moved
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Tell what is new; true if nothing moves.
    fn look(&self, state: &mut State, queue: &Queue) -> bool {
        let is_drained =
            state.is_drained && state.phase == Phase::Open && state.conduit.wants().is_some();
        let look = state.shaping.look(&self.socket, self.id, is_drained);
        if let Some(report) = look.report {
            queue.push(report);
        }
        self.room.notify_one();
        look.is_quiet
    }

    fn note_movement(&self, state: &mut State) {
        if state.reporter == Reporter::Idle {
            state.reporter = Reporter::Busy;
            self.moved.notify_one();
        }
    }

    fn write_chunks(&self, chunks: &[Bytes], room: usize) -> Result<Wrote, Lost> {
        let slices: Vec<_> = chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
        send_waiting(&self.socket, &within(&slices, room)).map(Wrote::Some)
    }

    fn write_file(&self, part: &FilePart) -> Result<Wrote, Lost> {
        match part.send(&self.socket) {
            Ok(written) => Ok(Wrote::Some(written)),
            Err(NotSent::Full | NotSent::Held) => Ok(Wrote::Some(0)),
            Err(NotSent::Cold) => part.read().map(Wrote::Read),
            Err(NotSent::Lost(why)) => Err(why),
        }
    }

    fn wake_writer(self: &Arc<Self>, state: &mut State, queue: &Arc<Queue>) {
        if state.writer == Writer::None {
            let (stream, answer) = (Arc::clone(self), Arc::clone(queue));
            if let Err(why) = start("dovetail-write", move || stream.write(&answer)) {
                return self.lose(state, why, queue);
            }
        }
        state.writer = Writer::Busy;
        self.writable.notify_one();
    }

    fn say_sent(&self, state: &mut State, written: usize, queue: &Queue) {
        let (stream, len) = (self.id, state.conduit.written(written));
        self.note_movement(state);
        if len > 0 {
            queue.push(Input::Sent { stream, len });
        }
    }

    fn say_secured(&self, state: &mut State, queue: &Queue) {
        if !state.conduit.is_handshaking()
            && let Some((said, _)) = state.secured.take()
        {
            queue.push(said);
        }
    }

    /// It is over: say why, and drop the connection.
    fn lose(&self, state: &mut State, why: Lost, queue: &Queue) {
        if state.phase != Phase::Ended {
            let stream = self.id;
            queue.push(Input::Closed { stream, why });
            self.hang_up(state);
        }
    }

    fn hang_up(&self, state: &mut State) {
        if state.phase != Phase::Ended {
            state.phase = Phase::Ended;
            let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        }
        self.readable.notify_one();
        self.writable.notify_one();
        self.room.notify_one();
        self.moved.notify_one();
    }

    /// Wait for something to read; false if the time is up first.
    fn wait(&self, until: Option<Instant>) -> bool {
        loop {
            let time = until.map(|until| until.saturating_duration_since(Instant::now()));
            let time = time.and_then(|time| Timespec::try_from(time).ok());
            match poll(
                &mut [PollFd::new(&self.socket, PollFlags::IN)],
                time.as_ref(),
            ) {
                Ok(0) => return false,
                Err(Errno::INTR) => {}
                _ => return true,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Lost> {
    let thread = std::thread::Builder::new()
        .name(name.into())
        .stack_size(STACK_LEN);
    match thread.spawn(work) {
        Ok(_) => Ok(()),
        Err(error) => Err(Lost::Other(words(&error))),
    }
}
