//! Streams: connecting, accepting, and one reader (and, once a socket is full, one writer) for each.
//!
//! A reader waits only while its stream has credit, a writer only while there is something to write; both
//! end with their stream. The driver writes by itself as long as the socket takes it without waiting.
//!
//! Without credit the end of a stream is not noticed: it comes when the machine asks for more.
//! Tests: `tests/e2e.rs`, `tests/e2e_tls.rs`.

use crate::driver::{Item, Queue, Tasks};
use crate::file_part::{FilePart, NotSent};
use crate::host::{Buffers, ReadSize, words};
use crate::net::{Bound, accept_one, addresses, lost, send_some, share};
use crate::path::{Shaping, within};
use crate::tls::{Conduit, config};
use async_io::{Async, Timer};
use bytes::Bytes;
use dovetail_core::ids::StreamId;
use dovetail_core::limits::CONNECT_TIMEOUT;
use dovetail_core::machine::{CloseHow, Endpoint, Host, Input, Lost, Shape};
use futures_lite::FutureExt as _;
use futures_lite::future::zip;
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, sockopt};
use rustls::ClientConfig;
use std::cell::{Cell, RefCell, RefMut};
use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

pub use dovetail_std::tcp::{ACCEPT_AGAIN, LINGER};

/// Pass on who connects, as long as the run lasts.
pub async fn accept(bound: Bound, queue: Arc<Queue>) {
    let Ok(socket) = bound.socket.try_clone().and_then(Async::new) else {
        return;
    };
    loop {
        match accept_one(socket.get_ref()) {
            Ok((socket, from)) => {
                let listener = bound.listener;
                if !queue.push_accepted(socket, listener, from).await {
                    return;
                }
            }
            Err(Errno::AGAIN) => {
                let _ = socket.readable().await;
            }
            Err(_) if queue.is_ended() => return,
            // Out of files or memory: somebody has to close something first.
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                Timer::after(ACCEPT_AGAIN).await;
            }
            Err(_) => {}
        }
    }
}

/// Open a stream.
pub async fn connect(
    stream: StreamId,
    to: Endpoint,
    tls: Option<Arc<ClientConfig>>,
    queue: Arc<Queue>,
) {
    let until = Instant::now() + CONNECT_TIMEOUT;
    let opened = async {
        let (socket, at) = dial(&to, until).await?;
        let mut conduit = Conduit::default();
        if let Some(name) = &to.tls {
            let config = match tls {
                Some(config) => config,
                None => blocking::unblock(config).await?,
            };
            conduit.start_tls(config, name)?;
        }
        Ok((socket, at, conduit))
    };
    match opened.await {
        Ok((socket, to, conduit)) => queue.push_item(Item::Connected {
            stream,
            socket,
            to,
            conduit,
            until,
        }),
        Err(why) => queue.push(Input::Closed { stream, why }),
    }
}

/// Try each address in turn, each with its share of the time left.
async fn dial(to: &Endpoint, until: Instant) -> Result<(OwnedFd, SocketAddr), Lost> {
    let addresses = resolve(to, until).await?;
    let mut why = Lost::NameNotFound;
    for (at, to) in addresses.iter().enumerate() {
        let share = share(until, addresses.len() - at);
        let opened = async {
            let socket = Async::<TcpStream>::connect(*to).await?;
            socket.get_ref().set_nodelay(true)?;
            socket.into_inner()
        };
        match or_late(opened, Instant::now() + share).await {
            Ok(socket) => return Ok((socket.into(), *to)),
            Err(error) => why = lost(&error),
        }
    }
    Err(why)
}

async fn or_late<T>(work: impl Future<Output = io::Result<T>>, until: Instant) -> io::Result<T> {
    let late = async {
        Timer::at(until).await;
        Err(io::ErrorKind::TimedOut.into())
    };
    work.or(late).await
}

/// The system's resolver cannot be told to hurry: it may be left behind on its thread.
async fn resolve(to: &Endpoint, until: Instant) -> Result<Vec<SocketAddr>, Lost> {
    if let Host::Addr(ip) = to.host {
        return Ok(vec![SocketAddr::new(ip, to.port)]);
    }
    let (host, port) = (to.host.clone(), to.port);
    let answer = async { Ok(blocking::unblock(move || addresses(&host, port)).await) };
    or_late(answer, until).await.unwrap_or(Err(Lost::TimedOut))
}

/// A stream that is open: its socket, its bytes, its tasks' turns.
#[derive(Debug)]
pub struct Stream {
    id: StreamId,
    socket: Async<OwnedFd>,
    state: RefCell<State>,
    readable: Bell,
    writable: Bell,
    /// The send window may have room.
    room: Bell,
    /// The path may have news.
    moved: Bell,
}

#[derive(Debug)]
struct State {
    conduit: Conduit,
    shaping: Shaping,
    phase: Phase,
    writer: Writer,
    /// Said once the handshake is over, which it must be by then.
    secured: Option<(Input, Instant)>,
    /// The socket has just taken less than it was given.
    is_full: bool,
    /// Nothing is left to throw away.
    has_eof: bool,
    /// The last read took all there was, and the next one is allowed.
    is_drained: bool,
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
    Idle,
    Busy,
}

/// What a writer does next.
enum Step {
    Again,
    /// Wait for room in the socket.
    Full,
    /// Wait for room in the send window.
    Held,
    /// Read this first.
    Cold(FilePart),
    Idle,
    Part,
    Over,
}

/// What came of one write.
enum Sent {
    All(usize),
    /// The socket is full. A little more would fit soon; the kernel says when it is worth it.
    Part(usize),
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
        tasks: &Tasks,
    ) -> Result<Rc<Self>, Lost> {
        let stream = Rc::new(Self {
            id,
            socket: Async::new(socket).map_err(|error| Lost::Other(words(&error)))?,
            state: RefCell::new(State {
                conduit,
                shaping: Shaping::default(),
                phase: Phase::Open,
                writer: Writer::Idle,
                secured: None,
                is_full: false,
                has_eof: false,
                is_drained: false,
            }),
            readable: Bell::default(),
            writable: Bell::default(),
            room: Bell::default(),
            moved: Bell::default(),
        });
        let mut state = stream.lock();
        state.secured = opened;
        stream.say_secured(&mut state, queue);
        drop(state);
        let (all, queue, buffers) = (Rc::clone(&stream), Arc::clone(queue), buffers.clone());
        let all = async move {
            let bytes = zip(all.read(&queue, &buffers), all.write(&queue));
            zip(bytes, all.report(&queue)).await
        };
        tasks.spawn(all).detach();
        Ok(stream)
    }

    /// The reader may deliver this much more.
    pub fn grant(&self, bytes: u32) {
        self.lock().conduit.grant(bytes);
        self.readable.ring();
    }

    /// What it may take of the network from now on.
    pub fn shape(&self, shape: Shape, queue: &Queue) {
        let mut state = self.lock();
        state.shaping.set(self.fd(), shape);
        if state.writer != Writer::Busy {
            self.flush_some(&mut state, queue);
        }
        self.room.ring();
        self.moved.ring();
    }

    /// Queue bytes; [`Stream::flush`] writes them.
    pub fn send(&self, bytes: Bytes) {
        self.lock().conduit.send(bytes);
    }

    /// Queue a part of a file; one that cannot be read ends the stream.
    pub fn send_file(&self, part: Result<FilePart, Lost>, queue: &Queue) {
        let mut state = self.lock();
        if let Err(why) = part.and_then(|part| state.conduit.send_file(part)) {
            self.lose(&mut state, why, queue);
        }
    }

    /// Write what the socket takes without waiting, and leave the rest to the writer.
    pub fn flush(&self, queue: &Queue) {
        self.flush_some(&mut self.lock(), queue);
    }

    /// Speak TLS from here on.
    pub fn start_tls(&self, tls: Option<Arc<ClientConfig>>, name: &str, queue: &Queue) {
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
        self.readable.ring();
    }

    /// Close it, once what was sent has left or at once. Answered on the queue.
    pub fn close(&self, how: CloseHow, queue: &Queue) {
        let mut state = self.lock();
        match how {
            CloseHow::Abort => {
                let _ = sockopt::set_socket_linger(self.fd(), Some(Duration::ZERO));
                self.lose(&mut state, Lost::Asked, queue);
            }
            CloseHow::Flush if state.phase == Phase::Open => {
                state.conduit.say_goodbye();
                state.phase = Phase::Closing;
                self.flush_some(&mut state, queue);
                if state.writer != Writer::Busy {
                    self.wake_writer(&mut state);
                }
                self.readable.ring();
            }
            CloseHow::Flush => {}
        }
    }

    /// Drop the connection without a word to the machine: it knows already.
    pub fn end(&self) {
        self.hang_up(&mut self.lock());
    }

    /// Reader: from the socket to the queue, while there is credit.
    async fn read(&self, queue: &Queue, buffers: &Buffers) {
        let mut size = ReadSize::default();
        loop {
            let (room, until) = match self.next_turn(queue).await {
                Turn::Read(wanted, until) => (size.next(wanted), until),
                Turn::Discard => (size.next(usize::MAX), None),
                Turn::Over => return,
            };
            // Where the last read took all there was, the next one waits for more before it asks.
            if self.lock().is_drained && !self.wait(until).await {
                self.finish(Lost::TimedOut, queue);
                continue;
            }
            self.lock().is_drained = false;
            let mut buffer = buffers.take(room);
            let got = rustix::net::recv(self.fd(), buffer.room(room), RecvFlags::DONTWAIT);
            let lost = match got.map(|(got, _)| got) {
                Ok(0) => Lost::Eof,
                Ok(got) => {
                    size.learn(room, got);
                    self.lock().is_drained = got < room;
                    self.receive(buffer.filled(got), queue);
                    continue;
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    self.lock().is_drained = true;
                    continue;
                }
                Err(error) => lost(&error.into()),
            };
            self.finish(lost, queue);
        }
    }

    /// Deliver what may be delivered, then wait for something to do.
    async fn next_turn(&self, queue: &Queue) -> Turn {
        loop {
            let turn = self.turn(&mut self.lock(), queue);
            if let Some(turn) = turn {
                return turn;
            }
            self.readable.wait().await;
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

    fn receive(&self, bytes: Bytes, queue: &Queue) {
        let mut state = self.lock();
        if state.phase != Phase::Open {
            return;
        }
        self.moved.ring();
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
    async fn write(&self, queue: &Queue) {
        loop {
            let step = self.write_some(&mut self.lock(), queue);
            match step {
                Step::Again => {}
                Step::Full => {
                    let _ = self.socket.writable().await;
                }
                Step::Held => self.room.wait().await,
                Step::Cold(part) => {
                    let read = blocking::unblock(move || part.read()).await;
                    self.take_read(read, queue);
                }
                Step::Idle => self.writable.wait().await,
                Step::Part => return self.part(queue).await,
                Step::Over => return,
            }
        }
    }

    fn write_some(&self, state: &mut State, queue: &Queue) -> Step {
        if state.phase == Phase::Ended {
            return Step::Over;
        }
        if std::mem::take(&mut state.is_full) {
            return Step::Full;
        }
        if state.conduit.has_outgoing() {
            match self.send_next(state) {
                Ok(Sent::All(written)) => self.say_sent(state, written, queue),
                Ok(Sent::Part(written)) => {
                    self.say_sent(state, written, queue);
                    return Step::Full;
                }
                Err(NotSent::Full) => return Step::Full,
                Err(NotSent::Held) => return Step::Held,
                Err(NotSent::Cold) => {
                    let part = state.conduit.file_part().cloned();
                    return part.map_or(Step::Again, Step::Cold);
                }
                Err(NotSent::Lost(why)) => self.lose(state, why, queue),
            }
            return Step::Again;
        }
        if state.phase == Phase::Closing {
            return Step::Part;
        }
        state.writer = Writer::Idle;
        Step::Idle
    }

    /// Everything is written: say so, and let the peer read it before the connection is gone.
    async fn part(&self, queue: &Queue) {
        let _ = rustix::net::shutdown(self.fd(), Shutdown::Write);
        queue.push(Input::Closed {
            stream: self.id,
            why: Lost::Asked,
        });
        let until = Instant::now() + LINGER;
        let mut nowhere = vec![0; 16 * 1024];
        while self.wait(Some(until)).await {
            match rustix::net::recv(self.fd(), &mut nowhere[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => break,
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => break,
            }
        }
        let mut state = self.lock();
        state.phase = Phase::Ended;
        let _ = rustix::net::shutdown(self.fd(), Shutdown::Both);
        self.moved.ring();
    }

    fn flush_some(&self, state: &mut State, queue: &Queue) {
        while state.writer != Writer::Busy && state.conduit.has_outgoing() {
            match self.send_next(state) {
                Ok(Sent::All(written)) => self.say_sent(state, written, queue),
                Ok(Sent::Part(written)) => {
                    self.say_sent(state, written, queue);
                    state.is_full = true;
                    self.wake_writer(state);
                }
                Err(NotSent::Full | NotSent::Held | NotSent::Cold) => self.wake_writer(state),
                Err(NotSent::Lost(why)) => return self.lose(state, why, queue),
            }
        }
    }

    /// Write as much as the window and the socket take now, and the page cache has.
    fn send_next(&self, state: &mut State) -> Result<Sent, NotSent> {
        let State {
            conduit, shaping, ..
        } = state;
        let slices = conduit.slices();
        let wanted = match conduit.file_part() {
            Some(part) => part.len,
            None => slices.iter().map(|slice| slice.len()).sum(),
        };
        let room = shaping.room(self.fd(), wanted);
        let asked = room.unwrap_or(wanted).min(wanted);
        if asked == 0 {
            return Err(NotSent::Held);
        }
        let written = match conduit.file_part() {
            Some(part) if part.is_warm() => part.beginning(asked).send(self.fd())?,
            Some(_) => return Err(NotSent::Cold),
            None if asked < wanted => send_some(self.fd(), &within(&slices, asked), false)?,
            None => send_some(self.fd(), &slices, conduit.has_part_next(slices.len()))?,
        };
        Ok(if written < asked {
            Sent::Part(written)
        } else {
            Sent::All(written)
        })
    }

    /// Reporter: tell the machine of the path, while it wants to know and something moves.
    async fn report(&self, queue: &Queue) {
        loop {
            let Some(every) = self.report_every() else {
                return;
            };
            match every {
                Some(every) if !self.look(queue) => {
                    Timer::after(every).await;
                }
                _ => self.moved.wait().await,
            }
        }
    }

    /// How often; `None` inside: not at all at present; outside: never again.
    fn report_every(&self) -> Option<Option<Duration>> {
        let state = self.lock();
        (state.phase != Phase::Ended).then(|| state.shaping.report_every())
    }

    /// Tell what is new; true if nothing moves.
    fn look(&self, queue: &Queue) -> bool {
        let mut state = self.lock();
        let is_drained =
            state.is_drained && state.phase == Phase::Open && state.conduit.wants().is_some();
        let look = state.shaping.look(self.fd(), self.id, is_drained);
        if let Some(report) = look.report {
            queue.push(report);
        }
        self.room.ring();
        look.is_quiet
    }

    /// What was read stands in for the part of the file.
    fn take_read(&self, read: Result<Bytes, Lost>, queue: &Queue) {
        let mut state = self.lock();
        match read {
            Ok(bytes) => state.conduit.replace_part(bytes),
            Err(why) => self.lose(&mut state, why, queue),
        }
    }

    fn wake_writer(&self, state: &mut State) {
        state.writer = Writer::Busy;
        self.writable.ring();
    }

    fn say_sent(&self, state: &mut State, written: usize, queue: &Queue) {
        let (stream, len) = (self.id, state.conduit.written(written));
        self.moved.ring();
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
            let _ = rustix::net::shutdown(self.fd(), Shutdown::Both);
        }
        self.readable.ring();
        self.writable.ring();
        self.room.ring();
        self.moved.ring();
    }

    /// Wait for something to read; false if the time is up first.
    async fn wait(&self, until: Option<Instant>) -> bool {
        let readable = async {
            let _ = self.socket.readable().await;
            true
        };
        let Some(until) = until else {
            return readable.await;
        };
        let late = async {
            Timer::at(until).await;
            false
        };
        readable.or(late).await
    }

    fn lock(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }

    fn fd(&self) -> &OwnedFd {
        self.socket.get_ref()
    }
}

/// Wakes the one task that waits for it, now or as soon as it does.
#[derive(Debug, Default)]
struct Bell {
    is_rung: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Bell {
    fn ring(&self) {
        self.is_rung.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    async fn wait(&self) {
        poll_fn(|context| {
            if self.is_rung.take() {
                return Poll::Ready(());
            }
            self.waker.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}
