//! One peer connection: handshake, who chokes whom, requests in flight both ways, faults.
//!
//! ```text
//!  dial ── opened ─┐
//!                  ├─ handshake ── Hello ── welcome ── open ── closed
//!  accept ─────────┘       (the parent says which content)
//! ```
//!
//! Decides: message order, pipeline depth, when a peer stalls, what is a fault of the peer.
//! Never does: picking, verification, disk; it does not know what we have beyond what it is told to say.
//!
//! Invariants: every request we send is in `requests` until it is answered, rejected, cancelled or given
//! up; payload is never copied. Spec: BEP 3, 6, 10, 52. Tested here and in every swarm scenario.

mod reading;
mod requests;
mod uploads;

use crate::content::{Bitfield, Block, Digest, Geometry, HashRequest, Run};
use crate::ids::StreamId;
use crate::limits::{
    BLOCK_LEN, GRANT_PER_STREAM, HANDSHAKE_TIMEOUT, KEEP_ALIVE_AFTER, PEER_IDLE_TIMEOUT,
    PEER_STALL, PEER_STALLS_MAX, PIPELINE_BLOCKS_MIN, PIPELINE_BLOCKS_MIN_RANGED, ROPE_CHUNK_MIN,
    UNREAD_REPLIES_MAX, UPLOAD_QUEUE_BLOCKS, UPLOAD_STUCK,
};
use crate::machine::{CloseHow, Effects};
use crate::stats::Rate;
use crate::time::{Deadline, Mono};
use crate::wire::{
    ClaimMessage, ExtensionHandshake, Framer, Handshake, HandshakeReader, Message, PeerExtensions,
    PeerId, RangeMessage, WireError, encode,
};
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;
use core::time::Duration;
use requests::{Requests, blocks};
use uploads::Uploads;
pub use uploads::{Asked, Upload};

/// One connection to one peer about one content.
#[derive(Debug)]
pub struct Session {
    stream: StreamId,
    dialled: bool,
    phase: Phase,
    peer_id: PeerId,
    geometry: Option<Geometry>,
    greeting: HandshakeReader,
    framer: Framer,
    /// They speak BEP 10 and BEP 6.
    extended: bool,
    fast: bool,
    extensions: PeerExtensions,
    /// Requests they queue (`reqq`).
    request_queue: u32,
    interest: Interest,
    requests: Requests,
    uploads: Uploads,
    /// Bytes given to the stream and not yet reported sent.
    unsent: u64,
    received_bytes: u64,
    sent_bytes: u64,
    upload_rate: Rate,
    stalled_until: Option<Mono>,
    /// In a row, without anything in between.
    stalls: u32,
    /// When the stream last took something of what it was given, and whether that is long ago.
    taken: Mono,
    stuck: bool,
    /// Connected, or accepted.
    begun: Mono,
    /// How long a question and its answer take at least, as the start of the connection showed.
    round_trip: Option<Duration>,
    last_received: Mono,
    last_sent: Mono,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Handshake,
    /// Their handshake is here; the parent has not said yet which content this is.
    Greeted,
    Open,
    Closed,
}

#[derive(Clone, Copy, Debug)]
struct Interest {
    we_want: bool,
    they_want: bool,
    we_choke: bool,
    they_choke: bool,
}

/// Who we are in a handshake.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    pub peer_id: PeerId,
    /// The first 20 bytes of the v2 info-hash.
    pub info_hash: [u8; 20],
    /// The port we accept peers on, if we do.
    pub port: Option<u16>,
}

/// What the parent hears.
#[derive(Debug)]
pub enum SessionEvent {
    /// Their handshake. Answer with [`Session::welcome`] or [`Session::close`].
    Hello {
        info_hash: [u8; 20],
        peer_id: PeerId,
    },
    /// The port they accept peers on.
    Port(u16),
    HasAll,
    HasSet(Bitfield),
    Has(u32),
    Claim {
        pieces: Vec<u32>,
        on: bool,
    },
    Choked {
        released: Vec<Run>,
    },
    Unchoked,
    Interested(bool),
    /// A run arrived. Blocks that had been given up are among it if they come after all.
    Data {
        run: Run,
        data: Vec<Bytes>,
    },
    Rejected {
        run: Run,
    },
    /// Nothing came for a while: these runs are given up to others.
    Stalled {
        released: Vec<Run>,
    },
    /// There is something to upload now.
    Asked,
    HashesAsked(HashRequest),
    Hashes {
        request: HashRequest,
        hashes: Vec<Digest>,
    },
    HashesRejected(HashRequest),
    /// The stream is closing because of this.
    Fault(PeerFault),
}

/// What a peer did wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerFault {
    Wire(WireError),
    HandshakeTimeout,
    Idle,
    /// It owes blocks and sends none, time after time.
    Stalled,
    /// It asks and does not read the answers.
    Unread,
    BitfieldSize,
    PieceIndex(u32),
    /// A block that was never asked for, or of a wrong length.
    Unasked {
        piece: u32,
        begin: u32,
    },
}

impl Session {
    /// Connect to a peer.
    pub fn dial(now: Mono, stream: StreamId) -> Self {
        Self::new(now, stream, true, Phase::Connecting)
    }

    /// Take on a stream a peer opened.
    pub fn accept(now: Mono, stream: StreamId, fx: &mut Effects) -> Self {
        fx.adopt(stream);
        fx.grant(stream, GRANT_PER_STREAM);
        Self::new(now, stream, false, Phase::Handshake)
    }

    fn new(now: Mono, stream: StreamId, dialled: bool, phase: Phase) -> Self {
        Self {
            stream,
            dialled,
            phase,
            peer_id: PeerId([0; 20]),
            geometry: None,
            greeting: HandshakeReader::default(),
            framer: Framer::default(),
            extended: false,
            fast: false,
            extensions: PeerExtensions::default(),
            request_queue: REQUEST_QUEUE_UNTOLD,
            interest: Interest {
                we_want: false,
                they_want: false,
                we_choke: true,
                they_choke: true,
            },
            requests: Requests::default(),
            uploads: Uploads::default(),
            unsent: 0,
            received_bytes: 0,
            sent_bytes: 0,
            upload_rate: Rate::default(),
            stalled_until: None,
            stalls: 0,
            taken: now,
            stuck: false,
            begun: now,
            round_trip: None,
            last_received: now,
            last_sent: now,
        }
    }

    pub const fn stream(&self) -> StreamId {
        self.stream
    }

    pub const fn is_dialled(&self) -> bool {
        self.dialled
    }

    pub const fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    // --- the stream

    /// The dialled stream is open: introduce ourselves.
    pub fn on_opened(&mut self, now: Mono, me: &Identity, fx: &mut Effects) {
        if self.phase == Phase::Connecting {
            self.phase = Phase::Handshake;
            self.round_trip = Some(now.since(self.last_received));
            (self.begun, self.last_received) = (now, now);
            fx.grant(self.stream, GRANT_PER_STREAM);
            self.send_handshake(now, me, fx);
        }
    }

    pub fn on_bytes(
        &mut self,
        now: Mono,
        mut bytes: Bytes,
        fx: &mut Effects,
        ev: &mut Vec<SessionEvent>,
    ) {
        if self.phase == Phase::Closed {
            return;
        }
        fx.grant(self.stream, bytes.len() as u32);
        self.received_bytes += bytes.len() as u64;
        if self.is_open() && self.round_trip.is_none() {
            self.round_trip = Some(now.since(self.last_sent));
        }
        self.last_received = now;
        if self.phase == Phase::Handshake {
            match self.greeting.read(&mut bytes) {
                Ok(Some(hello)) => self.on_handshake(&hello, ev),
                Ok(None) => {}
                Err(error) => return self.fault(PeerFault::Wire(error), fx, ev),
            }
        }
        self.framer.on_bytes(bytes);
        self.read(now, fx, ev);
        if self.framer.buffered() >= ROPE_CHUNK_MIN {
            self.requests.note_payload(now);
        }
    }

    pub fn on_sent(&mut self, now: Mono, len: u32) {
        self.unsent = self.unsent.saturating_sub(len.into());
        self.sent_bytes += u64::from(len);
        (self.last_sent, self.taken, self.stuck) = (now, now, false);
        self.upload_rate.add(now, len.into());
    }

    pub fn on_closed(&mut self) -> Vec<Run> {
        self.phase = Phase::Closed;
        self.requests.give_up()
    }

    pub fn close(&mut self, fx: &mut Effects) {
        if self.phase != Phase::Closed {
            self.phase = Phase::Closed;
            fx.close(self.stream, CloseHow::Abort);
        }
    }

    /// Bytes of a message that has not come whole.
    pub fn unfinished_bytes(&self) -> u64 {
        self.framer.buffered() as u64
    }

    pub fn on_tick(&mut self, now: Mono, fx: &mut Effects, ev: &mut Vec<SessionEvent>) {
        let quiet = now.since(self.last_received);
        match self.phase {
            Phase::Connecting | Phase::Closed => {}
            Phase::Handshake | Phase::Greeted if now.since(self.begun) >= HANDSHAKE_TIMEOUT => {
                self.fault(PeerFault::HandshakeTimeout, fx, ev);
            }
            Phase::Handshake | Phase::Greeted => {}
            Phase::Open if quiet >= PEER_IDLE_TIMEOUT => self.fault(PeerFault::Idle, fx, ev),
            Phase::Open => {
                if self
                    .requests
                    .waiting_since()
                    .is_some_and(|since| since + PEER_STALL <= now)
                {
                    self.stalled_until = Some(now + PEER_STALL);
                    self.stalls += 1;
                    let released = self.requests.give_up();
                    self.cancel_runs(now, &released, fx);
                    ev.push(SessionEvent::Stalled { released });
                    if self.stalls >= PEER_STALLS_MAX {
                        return self.fault(PeerFault::Stalled, fx, ev);
                    }
                }
                if self.stalled_until.is_some_and(|until| until <= now) {
                    self.stalled_until = None;
                }
                self.stuck |= self.unsent > 0 && now.since(self.taken) >= UPLOAD_STUCK;
                if now.since(self.last_sent) >= KEEP_ALIVE_AFTER {
                    self.send(now, &Message::KeepAlive, fx);
                }
            }
        }
    }

    pub fn deadline(&self) -> Option<Deadline> {
        match self.phase {
            Phase::Connecting | Phase::Closed => None,
            Phase::Handshake | Phase::Greeted => Some(Deadline::new(
                self.begun + HANDSHAKE_TIMEOUT,
                "peer handshake",
            )),
            Phase::Open => {
                let idle = Deadline::new(self.last_received + PEER_IDLE_TIMEOUT, "peer idle");
                let alive = Deadline::new(self.last_sent + KEEP_ALIVE_AFTER, "peer keep-alive");
                let stall = self
                    .requests
                    .waiting_since()
                    .map(|s| Deadline::new(s + PEER_STALL, "peer stall"));
                let again = self
                    .stalled_until
                    .map(|until| Deadline::new(until, "ask a stalled peer again"));
                let stuck = (self.unsent > 0 && !self.stuck)
                    .then(|| Deadline::new(self.taken + UPLOAD_STUCK, "a peer that does not read"));
                [Some(idle), Some(alive), stall, again, stuck]
                    .into_iter()
                    .fold(None, Deadline::earlier)
            }
        }
    }

    // --- orders from the parent

    /// This connection is about the content of this geometry, of which we have these pieces.
    pub fn welcome(
        &mut self,
        now: Mono,
        me: &Identity,
        geometry: Geometry,
        have: &Bitfield,
        fx: &mut Effects,
        ev: &mut Vec<SessionEvent>,
    ) {
        if self.phase != Phase::Greeted {
            return;
        }
        if !self.dialled {
            self.send_handshake(now, me, fx);
        }
        self.phase = Phase::Open;
        self.geometry = Some(geometry);
        if self.extended {
            let hello = ExtensionHandshake {
                extensions: PeerExtensions {
                    metadata: None,
                    ..PeerExtensions::OURS
                },
                client: Some(concat!("Dovetail ", env!("CARGO_PKG_VERSION")).into()),
                request_queue: Some(UPLOAD_QUEUE_BLOCKS),
                port: me.port,
                ..ExtensionHandshake::default()
            };
            self.send(now, &hello.to_message(), fx);
        }
        match (self.fast, have.count()) {
            (true, 0) => self.send(now, &Message::HaveNone, fx),
            (true, _) if have.is_full() => self.send(now, &Message::HaveAll, fx),
            (false, 0) => {}
            _ => self.send(now, &Message::Bitfield(have.to_bytes()), fx),
        }
        self.read(now, fx, ev);
    }

    pub fn set_interested(&mut self, now: Mono, want: bool, fx: &mut Effects) {
        if self.is_open() && self.interest.we_want != want {
            self.interest.we_want = want;
            self.send(
                now,
                if want {
                    &Message::Interested
                } else {
                    &Message::NotInterested
                },
                fx,
            );
        }
    }

    pub fn set_choked(&mut self, now: Mono, choke: bool, fx: &mut Effects) {
        if !self.is_open() || self.interest.we_choke == choke {
            return;
        }
        self.interest.we_choke = choke;
        self.send(
            now,
            if choke {
                &Message::Choke
            } else {
                &Message::Unchoke
            },
            fx,
        );
        if choke {
            for asked in self.uploads.drain() {
                self.reject(now, asked, fx);
            }
        }
    }

    pub fn have(&mut self, now: Mono, piece: u32, fx: &mut Effects) {
        if self.is_open() {
            self.send(now, &Message::Have(piece), fx);
        }
    }

    /// Tell a peer of ours which pieces we fetch from a scarce source, or no longer do.
    pub fn claim(&mut self, now: Mono, pieces: &[u32], on: bool, fx: &mut Effects) {
        if self.is_open() && self.extensions.claim.is_some() && !pieces.is_empty() {
            let claim = if on {
                ClaimMessage::Claim(pieces.to_vec())
            } else {
                ClaimMessage::Unclaim(pieces.to_vec())
            };
            self.send(now, &Message::Claim(claim), fx);
        }
    }

    /// Blocks that may be asked for now.
    pub fn room(&mut self, now: Mono) -> u32 {
        if !self.is_open()
            || self.interest.they_choke
            || !self.interest.we_want
            || self.stalled_until.is_some()
        {
            return 0;
        }
        let outstanding = self.requests.outstanding();
        let queued = outstanding + self.requests.late(now);
        self.depth(now)
            .saturating_sub(outstanding)
            .min(self.request_queue.saturating_sub(queued))
    }

    /// Blocks outstanding beyond what this peer is worth asking for: it has become slower.
    pub fn excess(&mut self, now: Mono) -> u32 {
        self.requests.outstanding().saturating_sub(self.depth(now))
    }

    fn depth(&mut self, now: Mono) -> u32 {
        let least = match self.requests.rate_bytes_per_s(now) {
            _ if !self.speaks_ranges() => PIPELINE_BLOCKS_MIN,
            0 => PIPELINE_BLOCKS_MIN_RANGED,
            // What a slow peer would take more than a second for, a quicker one could give.
            rate => u32::try_from(rate / u64::from(BLOCK_LEN))
                .unwrap_or(u32::MAX)
                .clamp(PIPELINE_BLOCKS_MIN, PIPELINE_BLOCKS_MIN_RANGED),
        };
        self.requests.depth(now, least)
    }

    pub fn request(&mut self, now: Mono, run: Run, fx: &mut Effects) {
        let Some(geometry) = self.geometry else {
            return;
        };
        self.requests.ask(now, run);
        if self.extensions.range.is_some() {
            self.send(now, &Message::Range(RangeMessage::Request(run)), fx);
        } else {
            for block in blocks(run) {
                let (piece, begin, length) = (
                    block.piece,
                    block.index * BLOCK_LEN,
                    geometry.block_len(block),
                );
                self.send(
                    now,
                    &Message::Request {
                        piece,
                        begin,
                        length,
                    },
                    fx,
                );
            }
        }
    }

    /// A block that came from elsewhere.
    pub fn cancel(&mut self, now: Mono, block: Block, fx: &mut Effects) {
        if self.requests.cancel(block) {
            self.cancel_runs(
                now,
                &[Run {
                    piece: block.piece,
                    first: block.index,
                    count: 1,
                }],
                fx,
            );
        }
    }

    /// Ask back what this peer would deliver last. What it has not begun it rejects; without the fast extension it
    /// would not say so, and nothing is asked back.
    pub fn recall(&mut self, now: Mono, max_blocks: u32, fx: &mut Effects) {
        let mut left = if self.fast { max_blocks } else { 0 };
        while left > 0
            && let Some(run) = self.requests.recall(left)
        {
            left -= run.count;
            self.cancel_runs(now, &[run], fx);
        }
    }

    /// Blocks asked back, about which nothing was heard yet.
    pub fn recalled_blocks(&self) -> u32 {
        self.requests.recalled()
    }

    pub fn ask_hashes(&mut self, now: Mono, request: HashRequest, fx: &mut Effects) {
        if self.is_open() {
            self.send(now, &Message::HashRequest(request), fx);
        }
    }

    pub fn answer_hashes(
        &mut self,
        now: Mono,
        request: HashRequest,
        hashes: Option<Vec<Digest>>,
        fx: &mut Effects,
    ) {
        let message = match hashes.filter(|_| self.unsent < UNREAD_REPLIES_MAX) {
            Some(hashes) => Message::Hashes { request, hashes },
            None => Message::HashReject(request),
        };
        self.send(now, &message, fx);
    }

    // --- uploads

    /// The next read for this peer, if it may have one: about `most` bytes, at least a block.
    pub fn next_upload(&mut self, most: u32) -> Option<Upload> {
        if self.interest.we_choke {
            None
        } else {
            self.uploads.pop(most)
        }
    }

    /// The bytes of an upload, read from disk.
    pub fn deliver(&mut self, now: Mono, upload: &Upload, bytes: &Bytes, fx: &mut Effects) {
        if !self.is_open() {
            return;
        }
        for part in &upload.parts {
            let from = (part.begin - upload.begin) as usize;
            let Some(end) = from
                .checked_add(part.len as usize)
                .filter(|end| *end <= bytes.len())
            else {
                return;
            };
            let data = Vec::from([bytes.slice(from..end)]);
            let message = if part.ranged {
                Message::Range(RangeMessage::Data {
                    run: run_of(part),
                    data,
                })
            } else {
                Message::Piece {
                    piece: part.piece,
                    begin: part.begin,
                    data,
                }
            };
            self.send(now, &message, fx);
        }
    }

    /// We cannot serve it after all.
    pub fn refuse(&mut self, now: Mono, upload: &Upload, fx: &mut Effects) {
        for part in &upload.parts {
            self.reject(now, *part, fx);
        }
    }

    // --- what the parent may ask

    pub const fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    pub const fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    pub const fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    pub const fn unsent_bytes(&self) -> u64 {
        self.unsent
    }

    /// It takes nothing of what it was given: others need not wait for it.
    pub const fn is_stuck(&self) -> bool {
        self.stuck
    }

    pub fn has_uploads(&self) -> bool {
        !self.uploads.is_empty()
    }

    pub const fn they_want(&self) -> bool {
        self.interest.they_want
    }

    pub const fn we_want(&self) -> bool {
        self.interest.we_want
    }

    pub const fn we_choke(&self) -> bool {
        self.interest.we_choke
    }

    pub const fn they_choke(&self) -> bool {
        self.interest.they_choke
    }

    pub fn outstanding_blocks(&self) -> u32 {
        self.requests.outstanding()
    }

    pub fn is_asked(&self, block: Block) -> bool {
        self.requests.is_asked(block)
    }

    pub fn rate_bytes_per_s(&mut self, now: Mono) -> u64 {
        self.requests.rate_bytes_per_s(now)
    }

    /// How long what is outstanding will take: at the measured rate, or as long again as it has taken already.
    pub fn expected_wait(&mut self, now: Mono) -> Duration {
        let outstanding = u64::from(self.requests.outstanding()) * u64::from(BLOCK_LEN);
        let silent = self
            .requests
            .waiting_since()
            .map_or(Duration::ZERO, |since| now.since(since));
        match self.requests.rate_bytes_per_s(now) {
            0 => silent,
            rate => silent.max(Duration::from_micros(
                outstanding.saturating_mul(1_000_000) / rate,
            )),
        }
    }

    pub fn upload_bytes_per_s(&mut self, now: Mono) -> u64 {
        self.upload_rate.bytes_per_s(now)
    }

    pub fn is_stalled(&self) -> bool {
        self.stalled_until.is_some()
    }

    /// Whether it owes us something for longer than this.
    pub fn owes_for(&self, now: Mono, span: Duration) -> bool {
        self.requests
            .oldest()
            .is_some_and(|asked| asked + span <= now)
    }

    /// Whether one request may cover a whole piece (our own extension).
    pub const fn speaks_ranges(&self) -> bool {
        self.extensions.range.is_some()
    }

    // --- writing

    fn reject(&mut self, now: Mono, asked: Asked, fx: &mut Effects) {
        let Asked {
            piece,
            begin,
            len,
            ranged,
        } = asked;
        if ranged {
            self.send(
                now,
                &Message::Range(RangeMessage::Reject(run_of(&asked))),
                fx,
            );
        } else if self.fast {
            self.send(
                now,
                &Message::Reject {
                    piece,
                    begin,
                    length: len,
                },
                fx,
            );
        }
    }

    fn cancel_runs(&mut self, now: Mono, runs: &[Run], fx: &mut Effects) {
        let Some(geometry) = self.geometry else {
            return;
        };
        for run in runs {
            if self.extensions.range.is_some() {
                self.send(now, &Message::Range(RangeMessage::Cancel(*run)), fx);
            } else {
                for block in blocks(*run) {
                    let (piece, begin, length) = (
                        block.piece,
                        block.index * BLOCK_LEN,
                        geometry.block_len(block),
                    );
                    self.send(
                        now,
                        &Message::Cancel {
                            piece,
                            begin,
                            length,
                        },
                        fx,
                    );
                }
            }
        }
    }

    fn send_handshake(&mut self, now: Mono, me: &Identity, fx: &mut Effects) {
        let hello = Handshake::new(me.info_hash, me.peer_id);
        self.send_bytes(now, hello.encode(), fx);
    }

    fn send(&mut self, now: Mono, message: &Message, fx: &mut Effects) {
        if self.phase == Phase::Closed {
            return;
        }
        if let Some(frame) = encode(message, &self.extensions) {
            self.send_bytes(now, frame.head, fx);
            frame
                .payload
                .into_iter()
                .for_each(|slice| self.send_bytes(now, slice, fx));
        }
    }

    fn send_bytes(&mut self, now: Mono, bytes: Bytes, fx: &mut Effects) {
        self.last_sent = now;
        if self.unsent == 0 {
            self.taken = now;
        }
        self.unsent += bytes.len() as u64;
        fx.send(self.stream, bytes);
    }

    fn fault(&mut self, fault: PeerFault, fx: &mut Effects, ev: &mut Vec<SessionEvent>) {
        ev.push(SessionEvent::Fault(fault));
        self.close(fx);
    }
}

/// What a peer that does not tell its `reqq` is taken to queue.
const REQUEST_QUEUE_UNTOLD: u32 = 250;

fn run_of(asked: &Asked) -> Run {
    Run {
        piece: asked.piece,
        first: asked.begin / BLOCK_LEN,
        count: asked.len.div_ceil(BLOCK_LEN),
    }
}

impl fmt::Display for PeerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wire(error) => write!(f, "{error}"),
            Self::HandshakeTimeout => f.write_str("no handshake in time"),
            Self::Idle => f.write_str("silent for too long"),
            Self::Stalled => f.write_str("owes blocks and sends nothing"),
            Self::Unread => f.write_str("asks and does not read the answers"),
            Self::BitfieldSize => f.write_str("a bitfield of the wrong size"),
            Self::PieceIndex(piece) => write!(f, "piece {piece} does not exist"),
            Self::Unasked { piece, begin } => {
                write!(f, "a block nobody asked for: piece {piece}, byte {begin}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
