//! The contract of `dovetail_core::machine`, line by line, over real sockets, files and clocks. Generic over
//! the runtime: each shell's `e2e.rs` names the runtimes.
#![allow(
    dead_code,
    unreachable_pub,
    unused_macros,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "each test uses some of them, in its own place"
)]

#[path = "files.rs"]
mod files;
#[path = "mod.rs"]
pub mod toys;

pub use files::*;

use bytes::Bytes;
use dovetail_core::command::{Command, Reply};
use dovetail_core::content::HashJob;
use dovetail_core::failure::{Failure, FailureKind};
use dovetail_core::host::HostFacts;
use dovetail_core::ids::{CallId, SocketId, StreamId};
use dovetail_core::limits::SEND_PER_STREAM;
use dovetail_core::machine::{
    CloseHow, Datagram, Ecn, Effects, Endpoint, Host, Input, Listener, Lost, Machine, Output, Shape,
};
use dovetail_core::time::{Deadline, Mono, Now};
use dovetail_std::{Commands, ListenOn, Notice, Options, Runtime, channel};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use toys::{done, pattern};

/// A machine from a closure. It panics after a minute: whatever it waits for will not come.
pub struct Probe<F> {
    pub fx: Effects,
    on: F,
    datagrams: Vec<(SocketAddr, Bytes)>,
}

const PATIENCE: Duration = Duration::from_secs(60);

impl<F: FnMut(&mut Effects, Input)> Probe<F> {
    pub fn new(start: impl FnOnce(&mut Effects), on: F) -> Self {
        let mut fx = Effects::default();
        start(&mut fx);
        Self {
            fx,
            on,
            datagrams: Vec::new(),
        }
    }
}

impl<F: FnMut(&mut Effects, Input)> Machine for Probe<F> {
    fn handle(&mut self, now: Now, input: Input) {
        assert!(now.mono < Mono::ZERO + PATIENCE, "stuck");
        (self.on)(&mut self.fx, input);
    }

    fn poll(&mut self) -> Option<Output> {
        self.fx.poll()
    }

    fn poll_datagram(&mut self, _: Now, buf: &mut Vec<u8>) -> Option<Datagram> {
        let (to, bytes) = self.datagrams.pop()?;
        buf.clear();
        buf.extend_from_slice(&bytes);
        let segment_bytes = bytes.len();
        Some(Datagram {
            socket: SocketId::default(),
            to,
            segment_bytes,
            ecn: Ecn::NotEct,
        })
    }

    fn deadline(&self) -> Option<Deadline> {
        Some(Deadline::new(Mono::ZERO + PATIENCE, "patience"))
    }
}

/// Run to the first reply.
pub fn play<R: Runtime, M: Machine>(machine: M, options: Options) -> M {
    let (_, commands) = channel();
    R::run(machine, options, commands, until_reply).expect("listens")
}

fn until_reply(notice: Notice) -> ControlFlow<()> {
    match notice {
        Notice::Reply(..) => ControlFlow::Break(()),
        Notice::Event(_) => ControlFlow::Continue(()),
    }
}

pub fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

fn listen(listener: Listener) -> Options {
    Options {
        listen: vec![(listener, ListenOn::Tcp(loopback()))],
        ..Options::default()
    }
}

pub fn endpoint(at: SocketAddr) -> Endpoint {
    Endpoint {
        host: Host::Addr(at.ip()),
        port: at.port(),
        tls: None,
    }
}

/// Tells where the machine listens.
struct Announced<M>(M, mpsc::Sender<SocketAddr>);

impl<M: Machine> Machine for Announced<M> {
    fn handle(&mut self, now: Now, input: Input) {
        if let Input::Listening { at, .. } = &input {
            let _ = self.1.send(*at);
        }
        self.0.handle(now, input);
    }

    fn poll(&mut self) -> Option<Output> {
        self.0.poll()
    }

    fn poll_datagram(&mut self, now: Now, buf: &mut Vec<u8>) -> Option<Datagram> {
        self.0.poll_datagram(now, buf)
    }

    fn deadline(&self) -> Option<Deadline> {
        self.0.deadline()
    }
}

/// Run `server` on a thread with `A`; once it listens, run the client with `B`.
fn pair<A: Runtime, B: Runtime, S: Machine + Send + 'static, C: Machine>(
    server: S,
    listener: Listener,
    client: impl FnOnce(SocketAddr) -> C,
) -> (S, C) {
    let (tell, told) = mpsc::channel();
    let server = Announced(server, tell);
    let thread = thread::spawn(move || play::<A, _>(server, listen(listener)));
    let at = told.recv().expect("it listens");
    let client = play::<B, _>(client(at), Options::default());
    (thread.join().expect("the server is well").0, client)
}

/// Sends back what it gets; closes when the other side has.
fn echo() -> Probe<impl FnMut(&mut Effects, Input)> {
    let (mut owed, mut sent) = (0u64, 0u64);
    let on = move |fx: &mut Effects, input| match input {
        Input::Accepted { stream, from, .. } => {
            assert!(stream.is_accepted() && from.ip().is_loopback());
            fx.adopt(stream);
            fx.grant(stream, SEND_PER_STREAM);
        }
        Input::Received { stream, bytes } => {
            owed += bytes.len() as u64;
            fx.send(stream, bytes);
        }
        Input::Sent { stream, len } => {
            sent += u64::from(len);
            assert!(sent <= owed);
            fx.grant(stream, len);
        }
        Input::Closed { why, .. } => {
            assert_eq!((why, sent), (Lost::Eof, owed));
            done(fx);
        }
        _ => {}
    };
    Probe::new(|_| (), on)
}

/// Takes `total` bytes of the pattern with this much credit at a time, and then the end; says something first.
fn taker(
    at: SocketAddr,
    credit: u32,
    mut say: Option<Bytes>,
    total: u64,
) -> Probe<impl FnMut(&mut Effects, Input)> {
    let mut got = 0;
    let on = move |fx: &mut Effects, input| match input {
        Input::Opened { stream, .. } => {
            fx.send(stream, say.take().unwrap_or_default());
            fx.grant(stream, credit);
        }
        Input::Received { stream, bytes } => {
            assert!(bytes == pattern(got, bytes.len()));
            got += bytes.len() as u64;
            fx.grant(stream, bytes.len() as u32);
        }
        Input::Closed { why, .. } => {
            assert_eq!((why, got), (Lost::Eof, total));
            done(fx);
        }
        _ => {}
    };
    Probe::new(
        |fx| {
            fx.connect(endpoint(at));
        },
        on,
    )
}

/// Contract 3 and 4: 64 MiB there and back; credit in odd portions is never exceeded, `Sent` sums up.
pub fn bytes_come_back_within_credit<A: Runtime, B: Runtime>() {
    const TOTAL: u64 = 64 << 20;
    const CREDITS: [u32; 6] = [1, 70_000, 1 << 20, 4096, 333_333, 17];
    let (mut sent, mut queued, mut got, mut granted, mut turn) = (0u64, 0u64, 0u64, 0u64, 0);
    let (mut closed, mut opened) = (0, 0);
    let client = move |at| {
        let on = move |fx: &mut Effects, input| {
            match input {
                Input::Opened { to, .. } => {
                    opened += 1;
                    assert_eq!((to, opened), (at, 1));
                }
                Input::Received { bytes, .. } => {
                    assert!(bytes == pattern(got, bytes.len()), "wrong bytes");
                    got += bytes.len() as u64;
                    assert!(got <= granted, "more than was granted");
                }
                Input::Sent { len, .. } => sent += u64::from(len),
                Input::Closed { why, .. } => {
                    closed += 1;
                    assert_eq!((why, closed), (Lost::Asked, 1));
                    assert_eq!((sent, got), (TOTAL, TOTAL));
                    return done(fx);
                }
                _ => {}
            }
            let stream = StreamId(2);
            if got == granted && opened == 1 {
                let credit = CREDITS[turn % CREDITS.len()];
                turn += 1;
                granted += u64::from(credit);
                fx.grant(stream, credit);
            }
            while opened == 1 && queued < TOTAL && queued - sent < u64::from(SEND_PER_STREAM) {
                let len = (TOTAL - queued).min(100_003);
                fx.send(stream, pattern(queued, len as usize));
                queued += len;
            }
            if got == TOTAL && sent == TOTAL {
                fx.close(stream, CloseHow::Flush);
            }
        };
        Probe::new(
            |fx| {
                fx.connect(endpoint(at));
            },
            on,
        )
    };
    pair::<A, B, _, _>(echo(), Listener::Http, client);
}

/// Contract 6: `Flush` delivers everything that was sent before, then `Closed`; the other side reads it all
/// and then `Eof`, whatever its credit.
pub fn closing_delivers_what_was_sent<A: Runtime, B: Runtime>() {
    const TOTAL: u64 = 8 << 20;
    let on = |fx: &mut Effects, input| match input {
        Input::Accepted { stream, .. } => {
            fx.adopt(stream);
            // Bytes nobody reads must not destroy those that are on their way.
            fx.grant(stream, 1);
            for offset in (0..TOTAL).step_by(1 << 20) {
                fx.send(stream, pattern(offset, 1 << 20));
            }
            fx.close(stream, CloseHow::Flush);
        }
        Input::Closed { why, .. } => {
            assert_eq!(why, Lost::Asked);
            done(fx);
        }
        _ => {}
    };
    let client = |at| taker(at, 30_000, Some(pattern(0, 100_000)), TOTAL);
    pair::<A, B, _, _>(Probe::new(|_| (), on), Listener::Http, client);
}

/// Contract 10: nothing leaves while the window is shut; once it is open, no more than it is under way; what was sent
/// has arrived in the end, as the reports say.
pub fn shapes_are_kept_and_paths_told<A: Runtime, B: Runtime>() {
    const TOTAL: u64 = 8 << 20;
    const WINDOW: u64 = 200_000;
    let shape = |window| Shape {
        is_background: true,
        send_window_bytes: Some(window),
        receive_window_bytes: Some(300_000),
        report_every: Some(Duration::from_millis(1)),
        ..Shape::default()
    };
    let (mut reports, mut acked, mut sent) = (0, 0, 0);
    let on = move |fx: &mut Effects, input| match input {
        Input::Accepted { stream, .. } => {
            fx.adopt(stream);
            fx.shape(stream, shape(0));
            for offset in (0..TOTAL).step_by(1 << 20) {
                fx.send(stream, pattern(offset, 1 << 20));
            }
        }
        Input::Path { stream, facts } => {
            reports += 1;
            if reports == 1 {
                assert_eq!((sent, facts.unacked_bytes), (0, 0), "the window was shut");
                fx.shape(stream, shape(WINDOW));
            }
            assert!(facts.unacked_bytes <= WINDOW, "{facts:?}");
            assert!(facts.segment_bytes > 500 && facts.acked_bytes >= acked);
            acked = facts.acked_bytes;
            if acked >= TOTAL {
                fx.close(stream, CloseHow::Flush);
            }
        }
        Input::Sent { len, .. } => sent += u64::from(len),
        Input::Closed { why, .. } => {
            assert_eq!((why, sent), (Lost::Asked, TOTAL));
            done(fx);
        }
        _ => {}
    };
    let client = |at| taker(at, 1 << 20, None, TOTAL);
    pair::<A, B, _, _>(Probe::new(|_| (), on), Listener::Http, client);
}

/// Contract 6: `Abort` is answered once, at once, with everything still queued; the other side is told.
pub fn aborting_is_answered_once<A: Runtime, B: Runtime>() {
    let on = |fx: &mut Effects, input| match input {
        Input::Accepted { stream, .. } => {
            fx.adopt(stream);
            fx.grant(stream, 1 << 20);
        }
        Input::Received { stream, bytes } => fx.grant(stream, bytes.len() as u32),
        Input::Closed { why, .. } => {
            assert!(matches!(why, Lost::Reset | Lost::Eof), "{why:?}");
            done(fx);
        }
        _ => {}
    };
    let mut closed = 0;
    let client = move |at| {
        let on = move |fx: &mut Effects, input| match input {
            Input::Opened { stream, .. } => {
                // More than the sockets hold, so the writer is at work.
                for _ in 0..64 {
                    fx.send(stream, pattern(0, 1 << 20));
                }
                fx.close(stream, CloseHow::Flush);
                fx.close(stream, CloseHow::Abort);
                fx.close(stream, CloseHow::Abort);
            }
            Input::Closed { why, .. } => {
                closed += 1;
                assert_eq!((why, closed), (Lost::Asked, 1));
                // Answered after anything the shell may still have had to say.
                fx.hash(small_hash());
            }
            Input::Hashed { .. } => done(fx),
            _ => {}
        };
        Probe::new(
            |fx| {
                fx.connect(endpoint(at));
            },
            on,
        )
    };
    pair::<A, B, _, _>(Probe::new(|_| (), on), Listener::Http, client);
}

fn small_hash() -> HashJob {
    HashJob {
        chunks: vec![Bytes::from_static(b"small")],
        leaves: true,
        flat: None,
    }
}

/// Contract 5: what becomes of a `Connect` to `host`.
fn fate<R: Runtime>(host: Host, port: u16) -> Result<SocketAddr, Lost> {
    let (tell, told) = mpsc::channel();
    let on = move |fx: &mut Effects, input| match input {
        Input::Opened { to, .. } => {
            tell.send(Ok(to)).unwrap();
            done(fx);
        }
        Input::Closed { why, .. } => {
            tell.send(Err(why)).unwrap();
            done(fx);
        }
        _ => {}
    };
    let tls = None;
    let start = |fx: &mut Effects| {
        fx.connect(Endpoint { host, port, tls });
    };
    play::<R, _>(Probe::new(start, on), Options::default());
    told.recv().expect("an answer")
}

pub fn connecting_fails_in_known_ways<R: Runtime>() {
    let nobody = TcpListener::bind(loopback()).unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    let localhost = Host::Addr(Ipv4Addr::LOCALHOST.into());
    assert_eq!(fate::<R>(localhost, port), Err(Lost::Refused));
    assert_eq!(
        fate::<R>(Host::Name("localhost".into()), port),
        Err(Lost::Refused)
    );
    let everybody = Host::Addr(Ipv4Addr::new(224, 0, 0, 1).into());
    assert_eq!(fate::<R>(everybody, 80), Err(Lost::Unreachable));
    let no_name = Host::Name("no name has a space".into());
    assert_eq!(fate::<R>(no_name, 80), Err(Lost::NameNotFound));
}

pub fn names_are_resolved<R: Runtime>() {
    let somebody = TcpListener::bind(loopback()).unwrap();
    let at = somebody.local_addr().unwrap();
    let found = fate::<R>(Host::Name("localhost".into()), at.port());
    assert_eq!(found, Ok(at));
}

/// Contract 6: a connect that is closed before it is answered is closed once, and nothing else.
pub fn a_connect_can_be_given_up<R: Runtime>() {
    let somebody = TcpListener::bind(loopback()).unwrap();
    let at = somebody.local_addr().unwrap();
    let on = |fx: &mut Effects, input| match input {
        Input::Closed { why, stream } => {
            assert_eq!((why, stream), (Lost::Asked, StreamId(2)));
            fx.hash(small_hash());
        }
        Input::Hashed { .. } => done(fx),
        Input::Tick => {}
        other => panic!("{other:?}"),
    };
    let start = |fx: &mut Effects| {
        let stream = fx.connect(endpoint(at));
        fx.close(stream, CloseHow::Abort);
        fx.close(stream, CloseHow::Flush);
        fx.send(stream, Bytes::from_static(b"too late"));
        fx.grant(stream, 1);
    };
    play::<R, _>(Probe::new(start, on), Options::default());
}

/// Contract 6 and 7: a peer that resets is `Reset`, once; work on unknown streams does no harm.
pub fn a_reset_is_told_as_such<R: Runtime>() {
    let somebody = TcpListener::bind(loopback()).unwrap();
    let at = somebody.local_addr().unwrap();
    let peer = thread::spawn(move || {
        let (mut socket, _) = somebody.accept().unwrap();
        socket.read_exact(&mut [0]).unwrap();
        rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
    });
    let mut closed = 0;
    let on = move |fx: &mut Effects, input| match input {
        Input::Opened { stream, .. } => {
            fx.grant(stream, 1000);
            fx.send(stream, Bytes::from_static(b"x"));
            let unknown = StreamId(1 << 40);
            fx.grant(unknown, 1000);
            fx.send(unknown, Bytes::from_static(b"x"));
            fx.start_tls(unknown, "x".into());
            fx.close(unknown, CloseHow::Flush);
        }
        Input::Closed { why, stream } => {
            closed += 1;
            assert_eq!((why, stream, closed), (Lost::Reset, StreamId(2), 1));
            done(fx);
        }
        _ => {}
    };
    let start = |fx: &mut Effects| {
        fx.connect(endpoint(at));
    };
    play::<R, _>(Probe::new(start, on), Options::default());
    peer.join().unwrap();
}

/// Contract 2: a timer comes though something is always ready, and not before its time.
pub fn timers_are_not_starved<R: Runtime>() {
    struct Busy(Effects, Mono, bool);
    impl Machine for Busy {
        fn handle(&mut self, now: Now, input: Input) {
            match input {
                Input::Hashed { .. } => drop(self.0.hash(small_hash())),
                Input::Tick if now.mono >= self.1 => {
                    assert!(!self.2, "told twice");
                    self.2 = true;
                    done(&mut self.0);
                }
                _ => {}
            }
        }
        fn poll(&mut self) -> Option<Output> {
            self.0.poll()
        }
        fn deadline(&self) -> Option<Deadline> {
            (!self.2).then(|| Deadline::new(self.1, "test"))
        }
    }
    let mut fx = Effects::default();
    for _ in 0..64 {
        fx.hash(small_hash());
    }
    let busy = Busy(fx, Mono::from_us(50_000), false);
    assert!(play::<R, _>(busy, Options::default()).2);
    let idle = Busy(Effects::default(), Mono::from_us(50_000), false);
    assert!(play::<R, _>(idle, Options::default()).2);
}

/// Commands come from any thread, before and during the run, in order; the observer ends it.
pub fn commands_come_from_any_thread<R: Runtime>() {
    let (handle, commands) = channel();
    handle.send(CallId(1), Command::Shutdown);
    let on = |fx: &mut Effects, input| {
        if let Input::Command { call, command } = input {
            assert!(matches!(command, Command::Shutdown));
            fx.reply(call, Reply::Stopped);
        }
    };
    let mut heard = Vec::new();
    let mut threads = Vec::new();
    let observe = |notice| {
        let Notice::Reply(call, Reply::Stopped) = notice else {
            panic!("{notice:?}");
        };
        heard.push(call);
        if call == CallId(9) {
            return ControlFlow::Break(());
        }
        let handle = handle.clone();
        let next = move || handle.send(CallId(call.0 + 1), Command::Shutdown);
        threads.push(thread::spawn(next));
        ControlFlow::Continue(())
    };
    R::run(
        Probe::new(|_| (), on),
        Options::default(),
        commands,
        observe,
    )
    .map(drop)
    .unwrap();
    assert_eq!(heard, (1..=9).map(CallId).collect::<Vec<_>>());
    threads.into_iter().for_each(|t| t.join().unwrap());
}

/// What was known before the run comes before anything else; later facts come as they change.
pub fn facts_of_the_host_come_first<R: Runtime>() {
    const DONE: CallId = CallId(1);
    let (handle, commands) = channel();
    let facts = |ram_bytes| HostFacts {
        ram_bytes: Some(ram_bytes),
        ..HostFacts::default()
    };
    handle.host(facts(1));
    let mut heard = Vec::new();
    let on = |fx: &mut Effects, input| match input {
        Input::Host(facts) if facts.ram_bytes == Some(3) => fx.reply(DONE, Reply::Stopped),
        Input::Host(facts) => heard.push(facts.ram_bytes),
        Input::Listening { .. } => {
            heard.push(None);
            let handle = handle.clone();
            thread::spawn(move || {
                handle.host(facts(2));
                handle.host(facts(3));
            });
        }
        _ => {}
    };
    let machine = Probe::new(|_| (), on);
    R::run(machine, listen(Listener::Http), commands, until_reply)
        .map(drop)
        .unwrap();
    // The second may have been replaced by the third before it was heard.
    assert_eq!(heard[..2], [Some(1), None]);
    assert!(heard[2..].is_empty() || heard[2..] == [Some(2)]);
}

/// Datagrams go both ways between two machines, also several in one.
pub fn datagrams_are_answered<A: Runtime, B: Runtime>() {
    struct Ping {
        fx: Effects,
        to: Option<SocketAddr>,
        out: Option<(SocketAddr, Bytes)>,
        heard: Vec<Bytes>,
    }
    impl Machine for Ping {
        fn handle(&mut self, now: Now, input: Input) {
            assert!(now.mono < Mono::ZERO + PATIENCE, "stuck");
            match (input, self.to) {
                (Input::Listening { .. }, Some(to)) => {
                    self.out = Some((to, Bytes::from_static(b"pingpingpi")));
                }
                (Input::Datagrams { from, bytes, .. }, Some(to)) => {
                    assert_eq!((from, &bytes[..]), (to, &b"pong"[..]));
                    done(&mut self.fx);
                }
                (
                    Input::Datagrams {
                        from,
                        mut bytes,
                        segment_bytes,
                        ..
                    },
                    None,
                ) => {
                    while !bytes.is_empty() {
                        let len = segment_bytes.min(bytes.len());
                        self.heard.push(bytes.split_to(len));
                    }
                    if self.heard.len() == 3 {
                        assert_eq!(self.heard, ["ping", "ping", "pi"]);
                        self.out = Some((from, Bytes::from_static(b"pong")));
                        done(&mut self.fx);
                    }
                }
                _ => {}
            }
        }
        fn poll(&mut self) -> Option<Output> {
            // The answer leaves first: the reply ends the run.
            if self.out.is_some() && self.to.is_none() {
                return None;
            }
            self.fx.poll()
        }
        fn poll_datagram(&mut self, _: Now, buf: &mut Vec<u8>) -> Option<Datagram> {
            let (to, bytes) = self.out.take()?;
            buf.clear();
            buf.extend_from_slice(&bytes);
            let segment_bytes = 4;
            Some(Datagram {
                socket: SocketId::default(),
                to,
                segment_bytes,
                ecn: Ecn::NotEct,
            })
        }
        fn deadline(&self) -> Option<Deadline> {
            Some(Deadline::new(Mono::from_us(1000), "again"))
        }
    }
    let ping = |to| Ping {
        fx: Effects::default(),
        to,
        out: None,
        heard: Vec::new(),
    };
    let (tell, told) = mpsc::channel();
    let server = Announced(ping(None), tell);
    let thread = thread::spawn(move || drop(play::<A, _>(server, listen(Listener::Peers))));
    let at = told.recv().unwrap();
    play::<B, _>(ping(Some(at)), listen(Listener::Peers));
    thread.join().unwrap();
}

fn refusal<R: Runtime>(listen: Vec<(Listener, ListenOn)>) -> Failure {
    let (_, commands): (_, Commands) = channel();
    let options = Options {
        listen,
        ..Options::default()
    };
    let machine = Probe::new(|_| (), |_: &mut Effects, _| ());
    let run = R::run(machine, options, commands, |_| ControlFlow::Break(()));
    match run {
        Ok(_) => panic!("it listens"),
        Err(failure) => failure,
    }
}

pub fn an_address_in_use_is_a_failure<R: Runtime>() {
    let taken = TcpListener::bind(loopback()).unwrap();
    let at = taken.local_addr().unwrap();
    let failure = refusal::<R>(vec![(Listener::Peers, ListenOn::Tcp(at))]);
    assert_eq!(failure.kind, FailureKind::Listen);
    assert_eq!(
        failure.to_string(),
        format!(
            "cannot listen on {at}: address already in use; \
             stop the program that has it, or choose another with --listen"
        )
    );
    let elsewhere = ListenOn::Tcp("192.0.2.1:80".parse().unwrap());
    let failure = refusal::<R>(vec![(Listener::Http, elsewhere)]);
    assert!(failure.to_string().contains("--listen"), "{failure}");
}

/// The local socket: private, replaced when stale, refused when somebody answers there.
pub fn the_local_socket_is_private_and_alone<R: Runtime>() {
    let folder = folder("local").join("run");
    let path = folder.join("agent.sock");
    std::fs::create_dir_all(&folder).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let on = ListenOn::Unix(path.clone());
    let options = Options {
        listen: vec![(Listener::Local, on.clone())],
        ..Options::default()
    };
    let caller = path.clone();
    let again = on.clone();
    let act = move |fx: &mut Effects, input| match input {
        Input::Listening { listener, .. } => {
            assert_eq!(listener, Listener::Local);
            let mode = std::fs::metadata(&caller).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let failure = refusal::<R>(vec![(Listener::Local, again.clone())]);
            assert_eq!(failure.kind, FailureKind::Listen);
            assert!(failure.why.contains("another agent is running"));
            let mut socket = std::os::unix::net::UnixStream::connect(&caller).unwrap();
            socket.write_all(b"hello").unwrap();
        }
        Input::Accepted { stream, from, .. } => {
            // Two came: the one that only asked whether somebody answers, and the caller.
            assert_eq!(from, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
            fx.adopt(stream);
            fx.grant(stream, 5);
        }
        Input::Received { bytes, .. } => {
            assert_eq!(&bytes[..], b"hello");
            done(fx);
        }
        _ => {}
    };
    play::<R, _>(Probe::new(|_| (), act), options);
    assert!(!path.exists(), "removed with the run");
    let _ = std::fs::remove_dir_all(folder.parent().unwrap());
}

/// One test for each line of the contract, with these runtimes.
macro_rules! contract {
    (one $($name:ident)*; $one:ty) => {
        $(#[test] fn $name() { contract::$name::<$one>(); })*
    };
    (two $($name:ident)*; $one:ty, $two:ty) => {
        $(#[test] fn $name() { contract::$name::<$one, $two>(); })*
    };
    (each $one:ty) => {
        contract!(one
            connecting_fails_in_known_ways
            names_are_resolved
            a_connect_can_be_given_up
            a_reset_is_told_as_such
            timers_are_not_starved
            commands_come_from_any_thread
            facts_of_the_host_come_first
            hashes_are_answered
            files_are_written_read_and_renamed
            a_full_disk_says_so
            an_address_in_use_is_a_failure
            the_local_socket_is_private_and_alone;
            $one);
    };
    (between $one:ty, $two:ty) => {
        contract!(two
            bytes_come_back_within_credit
            closing_delivers_what_was_sent
            shapes_are_kept_and_paths_told
            aborting_is_answered_once
            datagrams_are_answered
            a_file_goes_across
            parts_of_a_file_leave_in_their_place;
            $one, $two);
    };
}
