//! The boundary between thinking and doing: a role is a [`Machine`], a shell drives it.
//!
//! # Contract
//!
//! 1. **Loop.** Drain [`Machine::poll`] to `None`; drain [`Machine::poll_datagram`] while the socket is
//!    writable; read [`Machine::deadline`]; wait for one input or the deadline; [`Machine::handle`] it; again.
//! 2. **Deadlines** are asked only after a drain, so queued work never waits for a timer. After a drain the
//!    deadline lies in the future of the last `now`, or another input is needed. `Tick` may come early,
//!    late or twice. `now.mono` never goes back; if it does, the machine takes the latest it has seen.
//! 3. **Reads are by credit.** The shell delivers at most as many bytes as were granted on a stream.
//! 4. **Writes are by completion.** Each [`Output::Send`] and [`Output::SendFile`] is answered by [`Input::Sent`]
//!    with its length (in parts, or several at once by the sum), in order.
//! 5. **Work is answered.** [`Output::Connect`] by one `Opened` or `Closed` (TLS included, if asked for);
//!    [`Output::StartTls`] by one `Secured` or `Closed`; [`Output::Disk`] and
//!    [`Output::Hash`] by exactly one input with the same id, success or not.
//! 6. **`Closed` comes exactly once per stream**, also after the core's own [`Output::Close`]; it stands for
//!    every `Connect`, grant and send still unanswered there. End of the peer's bytes is `Closed` with
//!    [`Lost::Eof`], and comes after every byte it sent was delivered (as credit allows).
//! 7. **Late or unknown ids are ignored** by the machine; nothing a peer, a disk or a caller says makes
//!    `handle` fail or panic.
//! 8. **Everything outstanding is bounded** by a constant of [`crate::limits`].
//! 9. **Same seed and same inputs give the same outputs**, byte for byte.
//! 10. **Paths.** From [`Output::Shape`] with `report_every` on, [`Input::Path`] comes at once and then about that often
//!     while bytes move in either direction. A shape counts as a whole: what it does not say is as if never said.
//!
//! Stream ids: low bit 0 opened by the core, 1 accepted by the shell; no id is reused within a run. Files are
//! opened before other work names them, and operations on one file may complete in any order.
//!
//! Tests: `core/tests/contract.rs` (one per line), `core/tests/determinism.rs`.

use crate::command::{Command, Event, Level, Reply};
use crate::content::{HashDone, HashJob};
use crate::host::HostFacts;
use crate::ids::{CallId, FileId, OpId, SocketId, StreamId};
use crate::time::{Deadline, Now};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use core::net::SocketAddr;
use core::time::Duration;

/// A role: agent, coordinator, origin.
pub trait Machine {
    /// The only mutation. Never fails, never panics.
    fn handle(&mut self, now: Now, input: Input);

    /// The next piece of work for the shell. Drain to `None` after every `handle`.
    fn poll(&mut self) -> Option<Output>;

    /// The next datagrams, their payload written to `buf` (cleared first). Asked only while the socket is writable.
    fn poll_datagram(&mut self, now: Now, buf: &mut Vec<u8>) -> Option<Datagram> {
        let _ = (now, buf);
        None
    }

    /// When to call again at the latest. Asked only after a drain.
    fn deadline(&self) -> Option<Deadline>;

    /// Assert the machine's invariants; the simulator calls it after every step.
    fn check(&self) {}
}

#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Input {
    /// The deadline has come. Always legal.
    Tick,
    Command {
        call: CallId,
        command: Command,
    },
    /// A listener is bound. Comes once per listener before anything is accepted there.
    Listening {
        listener: Listener,
        at: SocketAddr,
    },
    Accepted {
        stream: StreamId,
        listener: Listener,
        from: SocketAddr,
    },
    /// A `Connect` succeeded; `to` is the address that answered.
    Opened {
        stream: StreamId,
        to: SocketAddr,
    },
    /// TLS is up after [`Output::StartTls`].
    Secured {
        stream: StreamId,
    },
    Received {
        stream: StreamId,
        bytes: Bytes,
    },
    Sent {
        stream: StreamId,
        len: u32,
    },
    Closed {
        stream: StreamId,
        why: Lost,
    },
    /// How an open stream fares on the network (asked for by [`Output::Shape`]).
    Path {
        stream: StreamId,
        facts: PathFacts,
    },
    /// Datagrams that came one after the other from one sender, `segment_bytes` long each; the last may be shorter.
    Datagrams {
        socket: SocketId,
        from: SocketAddr,
        bytes: Bytes,
        segment_bytes: usize,
        ecn: Ecn,
    },
    Disk {
        op: OpId,
        done: Result<DiskDone, DiskError>,
    },
    Hashed {
        op: OpId,
        done: HashDone,
    },
    /// All that is known of the host: once at the start, and whenever something of it has changed.
    Host(Box<HostFacts>),
}

#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Output {
    Connect {
        stream: StreamId,
        to: Endpoint,
    },
    /// The shell may read this many bytes more from the stream.
    Grant {
        stream: StreamId,
        bytes: u32,
    },
    /// Speak TLS on this open stream from here on, as a client that expects a certificate for `name`
    /// (after a proxy agreed to a tunnel). Answered by [`Input::Secured`] or `Closed`.
    StartTls {
        stream: StreamId,
        name: String,
    },
    Send {
        stream: StreamId,
        bytes: Bytes,
    },
    /// Send this part of an open file, after what was sent before: like reading it and [`Output::Send`], but the
    /// bytes need not pass through the machine (sendfile). The file may be closed right after. If it cannot be read
    /// or ends too soon, the stream is `Closed` with [`Lost::File`].
    SendFile {
        stream: StreamId,
        file: FileId,
        offset: u64,
        len: u32,
    },
    /// Close once everything sent before has left (`Abort` in `how`: at once). Answered by `Closed`.
    Close {
        stream: StreamId,
        how: CloseHow,
    },
    /// How an open stream is to behave towards other people's traffic from now on.
    Shape {
        stream: StreamId,
        shape: Shape,
    },
    Disk {
        op: OpId,
        todo: DiskOp,
    },
    Hash {
        op: OpId,
        job: HashJob,
    },
    Reply {
        call: CallId,
        reply: Reply,
    },
    Notify(Event),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseHow {
    /// Deliver what was sent, then close.
    Flush,
    /// Drop what is still queued.
    Abort,
}

/// What a role can be asked to listen on. Which addresses, is the shell's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listener {
    /// TCP and UDP for peers (7680).
    Peers,
    /// TCP for HTTP clients of the coordinator, origin or cache.
    Http,
    /// Callers on this machine: a unix socket in the home's run folder.
    Local,
    /// UDP alone, for the coordinator's rendezvous (3544).
    Rendezvous,
    /// Another port for it, by which kinds of NATs are told apart.
    RendezvousOther,
}

impl Listener {
    /// It has a socket for datagrams.
    pub const fn has_datagrams(self) -> bool {
        matches!(self, Self::Peers | Self::Rendezvous | Self::RendezvousOther)
    }
}

/// Where to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub host: Host,
    pub port: u16,
    /// Speak TLS, expecting a certificate for this name.
    pub tls: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    Addr(core::net::IpAddr),
    /// The shell resolves it and tries each address.
    Name(String),
}

/// Why a stream is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lost {
    /// The other side closed after its last byte.
    Eof,
    /// The core closed it.
    Asked,
    Refused,
    Reset,
    TimedOut,
    Unreachable,
    NameNotFound,
    /// TLS failed, and trying again will not help: the text says how (unknown issuer, wrong name, expired).
    Tls(String),
    /// A file that was to be sent cannot be read: the text says why.
    File(String),
    Other(String),
}

/// What a stream may take of the network. The default is plain TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Its packets are marked as lower effort than everybody's (RFC 8622).
    pub is_background: bool,
    /// Bytes given to the kernel and not yet acknowledged stay below this; the rest waits in the shell, unsent.
    pub send_window_bytes: Option<u64>,
    /// Bytes leave no faster.
    pub pacing_bytes_per_s: Option<u64>,
    /// The peer may have so many bytes under way to us (RFC 9840).
    pub receive_window_bytes: Option<u64>,
    pub report_every: Option<Duration>,
}

/// What the kernel knows of a stream's path. Totals count from the stream's beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathFacts {
    /// Payload of a full packet.
    pub segment_bytes: u32,
    /// Smoothed as RFC 6298 §2 has it, an eighth by each acknowledgement; 0 while unknown.
    pub rtt_us: u32,
    /// The shortest of the last minutes; 0 while unknown.
    pub least_rtt_us: u32,
    /// Segments that have come, acknowledgements among them.
    pub acks: u32,
    pub acked_bytes: u64,
    /// Given to the kernel, not yet acknowledged.
    pub unacked_bytes: u64,
    /// Segments sent again.
    pub resent: u32,
    /// All that was under way counts as lost: the retransmission timer has run out.
    pub has_timed_out: bool,
    /// The send window has kept bytes back since the last report.
    pub is_held_back: bool,
    /// Round trip as the receiver sees it, by time stamps; 0 while or where it cannot be known.
    pub receive_rtt_us: u32,
    pub received_bytes: u64,
    /// So many more the other end may have under way to us; `None` where the kernel does not tell.
    pub receive_window_bytes: Option<u32>,
    /// Segments that came too early: others before them are lost, or late.
    pub out_of_order: u32,
    /// `receive_window_bytes` has an effect on this system.
    pub can_bound_receiving: bool,
}

impl PathFacts {
    /// One packet is under way and no second: a receiver may wait for that before it acknowledges (RFC 5681 §4.2).
    pub const fn has_odd_packet(&self) -> bool {
        self.unacked_bytes > 0 && self.unacked_bytes < 2 * self.segment_bytes as u64
    }
}

/// What a datagram says to routers, and they by it (RFC 3168 §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ecn {
    /// Its ends do not understand marks.
    #[default]
    NotEct,
    /// It may be marked instead of being dropped.
    Ect,
    /// *Congestion experienced*: it was marked.
    Ce,
}

/// Datagrams to send to one address; their payload is in the buffer given to [`Machine::poll_datagram`]. They are not to
/// be fragmented on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    pub socket: SocketId,
    pub to: SocketAddr,
    /// Length of each; the last may be shorter. At most `limits::DATAGRAMS_AT_ONCE`, `limits::DATAGRAMS_AT_ONCE_BYTES`.
    pub segment_bytes: usize,
    /// [`Ecn::Ect`] or not.
    pub ecn: Ecn,
}

/// The queue of outputs a role fills while it handles one input, and the register of who in the role
/// asked for what. A parent sets [`Effects::owner`] before it calls a child; whatever the child then
/// connects or orders is answered to that owner.
///
/// Streams over datagrams ([`StreamId::is_utp`]) are run by the role itself: what is ordered of them is in a queue of
/// its own, [`Effects::poll_utp`].
#[derive(Debug)]
pub struct Effects {
    /// Who is asking now: a number of the role's choosing.
    pub owner: u64,
    queue: VecDeque<Output>,
    utp: VecDeque<Output>,
    streams: BTreeMap<StreamId, u64>,
    ops: BTreeMap<OpId, u64>,
    /// Grants kept back.
    held: BTreeMap<StreamId, u32>,
    last_id: u64,
    step: u64,
}

impl Default for Effects {
    fn default() -> Self {
        Self::interleaved(0, 1)
    }
}

impl Effects {
    /// The `nth` of `of` roles that share a shell: their ids are told apart by [`Self::of_stream`] and
    /// [`Self::of_op`].
    pub const fn interleaved(nth: u64, of: u64) -> Self {
        Self {
            owner: 0,
            queue: VecDeque::new(),
            utp: VecDeque::new(),
            streams: BTreeMap::new(),
            ops: BTreeMap::new(),
            held: BTreeMap::new(),
            last_id: nth,
            step: of,
        }
    }

    /// Which of `of` roles has opened this stream.
    pub const fn of_stream(stream: StreamId, of: u64) -> u64 {
        (stream.0 >> 1) % of
    }

    /// Which of `of` roles has given this work.
    pub const fn of_op(op: OpId, of: u64) -> u64 {
        op.0 % of
    }

    const fn next_id(&mut self) -> u64 {
        self.last_id += self.step;
        self.last_id
    }

    pub fn connect(&mut self, to: Endpoint) -> StreamId {
        let stream = StreamId(self.next_id() << 1);
        self.streams.insert(stream, self.owner);
        self.queue.push_back(Output::Connect { stream, to });
        stream
    }

    /// Connect over datagrams.
    pub fn connect_utp(&mut self, to: SocketAddr) -> StreamId {
        let stream = StreamId::utp(self.next_id(), false);
        self.streams.insert(stream, self.owner);
        let to = Endpoint {
            host: Host::Addr(to.ip()),
            port: to.port(),
            tls: None,
        };
        self.utp.push_back(Output::Connect { stream, to });
        stream
    }

    /// Take an accepted stream into the register, for the current owner.
    pub fn adopt(&mut self, stream: StreamId) {
        self.streams.insert(stream, self.owner);
    }

    pub fn grant(&mut self, stream: StreamId, bytes: u32) {
        if let Some(held) = self.held.get_mut(&stream) {
            *held = held.saturating_add(bytes);
        } else if bytes > 0 {
            self.order(stream, Output::Grant { stream, bytes });
        }
    }

    pub fn start_tls(&mut self, stream: StreamId, name: String) {
        self.queue.push_back(Output::StartTls { stream, name });
    }

    /// Empty sends are dropped: nothing would answer them.
    pub fn send(&mut self, stream: StreamId, bytes: Bytes) {
        if !bytes.is_empty() {
            self.order(stream, Output::Send { stream, bytes });
        }
    }

    /// A part of an open file; an empty one is dropped.
    pub fn send_file(&mut self, stream: StreamId, file: FileId, offset: u64, len: u32) {
        if len > 0 {
            let part = Output::SendFile {
                stream,
                file,
                offset,
                len,
            };
            self.order(stream, part);
        }
    }

    pub fn shape(&mut self, stream: StreamId, shape: Shape) {
        self.queue.push_back(Output::Shape { stream, shape });
    }

    /// Keep grants of this stream back from now on: nothing is read until [`Self::release`].
    pub fn hold(&mut self, stream: StreamId) {
        self.held.entry(stream).or_default();
    }

    /// Give what was kept back.
    pub fn release(&mut self, stream: StreamId) {
        if let Some(bytes) = self.held.remove(&stream) {
            self.grant(stream, bytes);
        }
    }

    /// Give at most so many bytes of what is kept back, and keep the rest; how many were given.
    pub fn give(&mut self, stream: StreamId, at_most: u32) -> u32 {
        let held = self.held.get_mut(&stream);
        let bytes = held.map_or(0, |held| {
            let bytes = at_most.min(*held);
            *held -= bytes;
            bytes
        });
        if bytes > 0 {
            self.queue.push_back(Output::Grant { stream, bytes });
        }
        bytes
    }

    pub fn close(&mut self, stream: StreamId, how: CloseHow) {
        self.order(stream, Output::Close { stream, how });
    }

    pub fn file(&mut self) -> FileId {
        FileId(self.next_id())
    }

    pub fn disk(&mut self, todo: DiskOp) -> OpId {
        let op = self.op();
        self.queue.push_back(Output::Disk { op, todo });
        op
    }

    pub fn hash(&mut self, job: HashJob) -> OpId {
        let op = self.op();
        self.queue.push_back(Output::Hash { op, job });
        op
    }

    pub fn reply(&mut self, call: CallId, reply: Reply) {
        self.queue.push_back(Output::Reply { call, reply });
    }

    pub fn notify(&mut self, event: Event) {
        self.queue.push_back(Output::Notify(event));
    }

    pub fn log(&mut self, level: Level, text: impl Into<String>) {
        self.notify(Event::Log {
            level,
            text: text.into(),
        });
    }

    /// Whose stream an input is about; `None` for late and unknown ids. `Closed` also forgets it.
    pub fn stream_owner(&mut self, stream: StreamId, closed: bool) -> Option<u64> {
        if closed {
            self.held.remove(&stream);
            self.streams.remove(&stream)
        } else {
            self.streams.get(&stream).copied()
        }
    }

    /// Whose work an input answers, once; `None` for late and unknown ids.
    pub fn op_owner(&mut self, op: OpId) -> Option<u64> {
        self.ops.remove(&op)
    }

    pub fn poll(&mut self) -> Option<Output> {
        self.queue.pop_front()
    }

    /// The next order about a stream over datagrams.
    pub fn poll_utp(&mut self) -> Option<Output> {
        self.utp.pop_front()
    }

    fn order(&mut self, stream: StreamId, output: Output) {
        let queue = if stream.is_utp() {
            &mut self.utp
        } else {
            &mut self.queue
        };
        queue.push_back(output);
    }

    /// No stream is open and no work outstanding.
    pub fn is_idle(&self) -> bool {
        self.streams.is_empty() && self.ops.is_empty()
    }

    fn op(&mut self) -> OpId {
        let op = OpId(self.next_id());
        self.ops.insert(op, self.owner);
        op
    }
}

#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DiskOp {
    /// Answered by [`DiskDone::Opened`]. Parent folders are not made.
    Open {
        file: FileId,
        path: String,
        how: OpenHow,
    },
    /// Reserve space so that later writes cannot run out of it; sets the file's length.
    Allocate {
        file: FileId,
        len: u64,
    },
    /// Answered by [`DiskDone::Bytes`]: exactly `len` bytes, or an error with [`DiskErrorKind::Short`].
    Read {
        file: FileId,
        offset: u64,
        len: u32,
    },
    Write {
        file: FileId,
        offset: u64,
        chunks: Vec<Bytes>,
    },
    /// Data and length are on stable storage when this is answered.
    Sync {
        file: FileId,
    },
    Close {
        file: FileId,
    },
    /// Within one folder. Without `replace`, an existing `to` is an error with [`DiskErrorKind::Exists`].
    Rename {
        from: String,
        to: String,
        replace: bool,
    },
    Remove {
        path: String,
    },
    /// Length and kind of what is at `path`, without opening it. Answered by [`DiskDone::Found`].
    Stat {
        path: String,
    },
    /// A whole small file (at most `limits::SMALL_FILE_MAX`). Answered by [`DiskDone::Bytes`].
    Load {
        path: String,
    },
    /// A copy of a whole file that shares nothing writable with it (a reflink where the file system can), under a
    /// name that appears only once it is durable; its folder is made.
    Keep {
        from: String,
        to: String,
    },
    /// The names of the files in a folder, at most `limits::SHELF_FILES_MAX`. Answered by [`DiskDone::Names`]; a
    /// folder that is not there has none.
    List {
        path: String,
    },
    /// Replace a small file as one step: after a crash it holds the old or the new bytes, durably.
    Replace {
        path: String,
        bytes: Bytes,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenHow {
    Read,
    /// Read and write; made if missing, kept if there.
    ReadWrite,
    /// Read and write; an error with [`DiskErrorKind::Exists`] if there.
    CreateNew,
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskDone {
    Done,
    Opened {
        len: u64,
        modified_unix_us: i64,
    },
    Found {
        len: u64,
        modified_unix_us: i64,
        is_dir: bool,
    },
    Bytes(Bytes),
    Names(Vec<String>),
}

/// What the operating system said, and what it said it about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskError {
    pub kind: DiskErrorKind,
    /// The operating system's words, without the path.
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskErrorKind {
    NotFound,
    Denied,
    Exists,
    Full,
    ReadOnly,
    /// The file ends before the bytes asked for.
    Short,
    Other,
}
