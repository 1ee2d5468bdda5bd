//! Body for one session whose peer says anything and whose parent does anything.

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use core::time::Duration;
use dovetail_core::content::{Bitfield, Block, Digest, Geometry, HashRequest, Run};
use dovetail_core::ids::StreamId;
use dovetail_core::limits::{
    BLOCK_LEN, PIPELINE_BLOCKS_MAX, UNREAD_REPLIES_MAX, UPLOAD_QUEUE_BLOCKS,
};
use dovetail_core::machine::{Effects, Output};
use dovetail_core::session::{Identity, Session, SessionEvent, Upload};
use dovetail_core::time::Mono;
use dovetail_core::wire::{
    ClaimMessage, ExtensionHandshake, Handshake, Message, PeerExtensions, PeerId, RangeMessage,
    encode,
};
use std::collections::{BTreeMap, BTreeSet};

/// Small numbers are likelier to mean something than large ones.
#[derive(Clone, Copy, Debug, Arbitrary)]
enum Op {
    Tick {
        ms: u16,
    },
    /// So much of what was sent has left.
    Sent {
        part: u8,
    },
    Interested(bool),
    Choked(bool),
    Ask {
        piece: u8,
        first: u8,
        count: u8,
    },
    Cancel {
        piece: u8,
        index: u8,
    },
    Recall {
        most: u8,
    },
    Have {
        piece: u8,
    },
    Claim {
        piece: u8,
        on: bool,
    },
    Serve {
        refuse: bool,
    },
    AskHashes,
    // What the peer says.
    Raw {
        len: u8,
    },
    Simple(u8),
    PeerHas {
        piece: u8,
        large: bool,
    },
    PeerAsks {
        piece: u8,
        begin: u32,
        length: u32,
    },
    PeerAsksRange {
        piece: u8,
        first: u8,
        count: u8,
    },
    PeerCancels {
        piece: u8,
        first: u8,
        count: u8,
    },
    /// Data for what it was asked, or not.
    Gives {
        piece: u8,
        first: u8,
        count: u8,
        ranged: bool,
    },
    Rejects {
        piece: u8,
        first: u8,
        count: u8,
        ranged: bool,
    },
    PeerClaims {
        piece: u8,
        on: bool,
    },
    Extensions {
        range: bool,
        claim: bool,
        queue: Option<u32>,
    },
    PeerAsksHashes {
        base: u8,
        index: u8,
        count: u16,
    },
}

const PIECES: u32 = 6;
const PER_PIECE: u32 = 4;

/// No panic; runs are given back at most as often as they were asked; data only of what was asked, whole;
/// what is queued stays bounded; after a fault nothing is said; a deadline that was met moves on.
pub fn ops(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Some(mut parent) = Parent::new(&mut input) else {
        return;
    };
    while !input.is_empty() {
        let Ok(op) = Op::arbitrary(&mut input) else {
            break;
        };
        parent.act(op, &mut input);
        parent.check();
    }
    let outstanding = parent.outstanding.len();
    let released = parent.session.on_closed();
    let given_back: u32 = released.iter().map(|r| r.count).sum();
    assert!(given_back as usize <= outstanding, "more than was asked");
}

struct Parent {
    session: Session,
    fx: Effects,
    now: Mono,
    geometry: Geometry,
    me: Identity,
    have: Bitfield,
    /// Asked and not yet answered, as the parent sees it.
    outstanding: BTreeSet<Block>,
    /// How often each block was asked for.
    asked: BTreeMap<Block, u32>,
    unsent: u64,
    closed: bool,
    faulted: bool,
}

impl Parent {
    fn new(input: &mut Unstructured<'_>) -> Option<Self> {
        let mut fx = Effects::default();
        let length = u64::from(PIECES - 1) * u64::from(PER_PIECE * BLOCK_LEN) + 99;
        let now = Mono::from_us(1);
        let [fast, extended, full] = <[bool; 3]>::arbitrary(input).ok()?;
        let mut parent = Self {
            session: Session::accept(now, StreamId(1), &mut fx),
            fx,
            now,
            geometry: Geometry::new(length, PER_PIECE * BLOCK_LEN).ok()?,
            me: Identity {
                peer_id: PeerId([1; 20]),
                info_hash: [9; 20],
                port: Some(7680),
            },
            have: if full {
                Bitfield::full(PIECES)
            } else {
                Bitfield::empty(PIECES)
            },
            outstanding: BTreeSet::new(),
            asked: BTreeMap::new(),
            unsent: 0,
            closed: false,
            faulted: false,
        };
        let mut hello = Handshake::new([9; 20], PeerId([2; 20]));
        if !extended {
            hello.reserved[5] = 0;
        }
        if !fast {
            hello.reserved[7] = 0;
        }
        parent.hear(hello.encode());
        assert!(parent.session.is_open());
        Some(parent)
    }

    fn act(&mut self, op: Op, input: &mut Unstructured<'_>) {
        let (now, fx) = (self.now, &mut self.fx);
        match op {
            Op::Tick { ms } => self.tick(Duration::from_millis(ms.into())),
            Op::Sent { part } => {
                let len = self.unsent * u64::from(part) / 255;
                self.unsent -= len;
                self.session.on_sent(now, len as u32);
            }
            Op::Interested(want) => self.session.set_interested(now, want, fx),
            Op::Choked(choke) => self.session.set_choked(now, choke, fx),
            Op::Ask {
                piece,
                first,
                count,
            } => self.ask(run_at(piece, first, count)),
            Op::Cancel { piece, index } => {
                let block = Block {
                    piece: u32::from(piece) % PIECES,
                    index: u32::from(index) % PER_PIECE,
                };
                self.session.cancel(now, block, fx);
                self.outstanding.remove(&block);
            }
            Op::Recall { most } => {
                self.session.recall(now, most.into(), fx);
                assert!(self.session.recalled_blocks() <= self.session.outstanding_blocks());
            }
            Op::Have { piece } => {
                let piece = u32::from(piece) % PIECES;
                self.have.insert(piece);
                self.session.have(now, piece, fx);
            }
            Op::Claim { piece, on } => {
                self.session
                    .claim(now, &[u32::from(piece) % PIECES], on, fx);
            }
            Op::Serve { refuse } => {
                if let Some(upload) = self.session.next_upload(u32::MAX) {
                    self.serve(&upload, refuse);
                }
            }
            Op::AskHashes => {
                if let Some(request) = HashRequest::for_piece(&self.geometry, Digest::default(), 0)
                {
                    self.session.ask_hashes(now, request, fx);
                }
            }
            Op::Raw { len } => {
                let bytes = input.bytes(input.len().min(len.into())).unwrap_or_default();
                self.hear(Bytes::copy_from_slice(bytes));
            }
            said => self.say(&message(said, &self.geometry)),
        }
        self.settle();
    }

    fn tick(&mut self, span: Duration) {
        let due = self.session.deadline().filter(|d| d.at <= self.now + span);
        // Where the world would call: at the deadline, if it comes first.
        self.now = due.map_or(self.now + span, |d| d.at.max(self.now));
        let mut events = Vec::new();
        self.session.on_tick(self.now, &mut self.fx, &mut events);
        self.on_events(events);
        if let (Some(met), Some(next)) = (due, self.session.deadline()) {
            assert!(next.at > self.now, "{met:?} was met, and now {next:?}");
        }
    }

    fn ask(&mut self, run: Run) {
        let blocks: Vec<Block> = blocks(run).collect();
        let whole = blocks.iter().all(|b| self.geometry.block_len(*b) > 0);
        let fresh = blocks.iter().all(|b| !self.outstanding.contains(b));
        if !whole || !fresh || self.session.room(self.now) < run.count {
            return;
        }
        self.session.request(self.now, run, &mut self.fx);
        for block in blocks {
            self.outstanding.insert(block);
            *self.asked.entry(block).or_default() += 1;
        }
    }

    fn serve(&mut self, upload: &Upload, refuse: bool) {
        let parts: u32 = upload.parts.iter().map(|p| p.len).sum();
        assert_eq!(parts, upload.len, "parts make up the read");
        let end = u64::from(upload.begin) + u64::from(upload.len);
        assert!(end <= self.geometry.piece_len(upload.piece).into());
        if refuse {
            return self.session.refuse(self.now, upload, &mut self.fx);
        }
        let bytes = Bytes::from(vec![5; upload.len as usize]);
        self.session.deliver(self.now, upload, &bytes, &mut self.fx);
    }

    fn say(&mut self, message: &Message) {
        if let Some(frame) = encode(message, &PeerExtensions::OURS) {
            self.hear([&frame.head[..], &frame.payload.concat()].concat().into());
        }
    }

    fn hear(&mut self, bytes: Bytes) {
        let mut events = Vec::new();
        let (now, fx) = (self.now, &mut self.fx);
        self.session.on_bytes(now, bytes, fx, &mut events);
        if events
            .iter()
            .any(|e| matches!(e, SessionEvent::Hello { .. }))
        {
            let (me, have) = (&self.me, &self.have);
            self.session
                .welcome(now, me, self.geometry, have, fx, &mut events);
        }
        self.on_events(events);
        self.settle();
    }

    fn on_events(&mut self, events: Vec<SessionEvent>) {
        for event in events {
            assert!(!self.faulted, "said after its fault: {event:?}");
            match event {
                SessionEvent::Data { run, data } => self.on_data(run, &data),
                SessionEvent::Choked { released } => {
                    // With the fast extension what was asked is still answered.
                    let all = !released.is_empty();
                    released.into_iter().for_each(|run| self.give_back(run));
                    assert!(!all || self.outstanding.is_empty(), "all is given back");
                }
                SessionEvent::Stalled { released } => {
                    released.into_iter().for_each(|run| self.give_back(run));
                    assert!(self.outstanding.is_empty(), "all is given back");
                }
                SessionEvent::Rejected { run } => self.give_back(run),
                SessionEvent::Has(piece) => assert!(piece < PIECES),
                SessionEvent::HasSet(set) => assert_eq!(set.pieces(), PIECES),
                SessionEvent::Claim { pieces, .. } => assert!(pieces.iter().all(|p| *p < PIECES)),
                SessionEvent::HashesAsked(request) => {
                    let hashes = Some(vec![Digest::default(); request.count.min(8192) as usize]);
                    let (now, fx) = (self.now, &mut self.fx);
                    self.session.answer_hashes(now, request, hashes, fx);
                }
                SessionEvent::Fault(_) => self.faulted = true,
                _ => {}
            }
        }
    }

    fn on_data(&mut self, run: Run, data: &[Bytes]) {
        let len: usize = data.iter().map(Bytes::len).sum();
        assert_eq!(len as u32, self.geometry.run_len(run), "a run comes whole");
        for block in blocks(run) {
            self.outstanding.remove(&block);
            let left = self.asked.get_mut(&block).expect("only what was asked");
            *left = left.checked_sub(1).expect("not more often than asked");
        }
    }

    fn give_back(&mut self, run: Run) {
        for block in blocks(run) {
            assert!(
                self.outstanding.remove(&block),
                "given back twice: {block:?}"
            );
        }
    }

    /// Take what goes out.
    fn settle(&mut self) {
        while let Some(output) = self.fx.poll() {
            match output {
                Output::Send { bytes, .. } => {
                    assert!(!self.closed, "sends after it closed");
                    self.unsent += bytes.len() as u64;
                }
                Output::Close { .. } => {
                    assert!(!self.closed, "closes twice");
                    self.closed = true;
                }
                _ => {}
            }
        }
    }

    fn check(&self) {
        assert_eq!(
            self.session.outstanding_blocks() as usize,
            self.outstanding.len()
        );
        assert!(self.session.outstanding_blocks() <= PIPELINE_BLOCKS_MAX);
        assert_eq!(self.session.unsent_bytes(), self.unsent);
        // One message may still be answered past the limit; what is served is the parent's to hold back.
        let served = u64::from(UPLOAD_QUEUE_BLOCKS) * u64::from(BLOCK_LEN);
        assert!(
            self.unsent <= 2 * UNREAD_REPLIES_MAX + served,
            "{}",
            self.unsent
        );
        assert_eq!(self.faulted, self.closed, "a fault closes");
        assert_eq!(self.session.is_closed(), self.closed);
    }
}

fn message(op: Op, geometry: &Geometry) -> Message {
    let payload = |len: u32| vec![Bytes::from(vec![3; len as usize])];
    match op {
        Op::PeerHas { piece, large } => Message::Have(if large {
            u32::MAX
        } else {
            u32::from(piece) % 8
        }),
        Op::PeerAsks {
            piece,
            begin,
            length,
        } => Message::Request {
            piece: u32::from(piece) % 8,
            begin: begin % (2 * PER_PIECE * BLOCK_LEN),
            length: length % (BLOCK_LEN + 2),
        },
        Op::PeerAsksRange {
            piece,
            first,
            count,
        } => Message::Range(RangeMessage::Request(run_at(piece, first, count))),
        Op::PeerCancels {
            piece,
            first,
            count,
        } => Message::Range(RangeMessage::Cancel(run_at(piece, first, count))),
        Op::Gives {
            piece,
            first,
            count,
            ranged,
        } => {
            let run = run_at(piece, first, if ranged { count } else { 0 });
            let data = payload(geometry.run_len(run).max(1));
            if ranged {
                Message::Range(RangeMessage::Data { run, data })
            } else {
                let begin = run.first * BLOCK_LEN;
                Message::Piece {
                    piece: run.piece,
                    begin,
                    data,
                }
            }
        }
        Op::Rejects {
            piece,
            first,
            count,
            ranged,
        } => {
            let run = run_at(piece, first, count);
            let (begin, length) = (run.first * BLOCK_LEN, BLOCK_LEN);
            if ranged {
                Message::Range(RangeMessage::Reject(run))
            } else {
                Message::Reject {
                    piece: run.piece,
                    begin,
                    length,
                }
            }
        }
        Op::PeerClaims { piece, on } => {
            let pieces = vec![u32::from(piece) % 7];
            Message::Claim(if on {
                ClaimMessage::Claim(pieces)
            } else {
                ClaimMessage::Unclaim(pieces)
            })
        }
        Op::Extensions {
            range,
            claim,
            queue,
        } => ExtensionHandshake {
            extensions: PeerExtensions {
                range: range.then_some(PeerExtensions::OUR_RANGE),
                claim: claim.then_some(PeerExtensions::OUR_CLAIM),
                metadata: None,
            },
            request_queue: queue,
            port: Some(7000),
            ..ExtensionHandshake::default()
        }
        .to_message(),
        Op::PeerAsksHashes { base, index, count } => Message::HashRequest(HashRequest {
            root: Digest::default(),
            base_layer: base.into(),
            index: index.into(),
            count: count.into(),
            proof_layers: 0,
        }),
        Op::Simple(n) => simple(n),
        _ => Message::KeepAlive,
    }
}

fn simple(n: u8) -> Message {
    match n % 8 {
        0 => Message::Choke,
        1 | 2 => Message::Unchoke,
        3 => Message::Interested,
        4 => Message::NotInterested,
        5 => Message::HaveAll,
        6 => Message::Bitfield(Bytes::from_static(&[0b1010_1000])),
        _ => Message::KeepAlive,
    }
}

/// Mostly within the file.
fn run_at(piece: u8, first: u8, count: u8) -> Run {
    let first = u32::from(first) % PER_PIECE;
    Run {
        piece: u32::from(piece) % (PIECES + 1),
        first,
        count: 1 + u32::from(count) % (PER_PIECE - first),
    }
}

fn blocks(run: Run) -> impl Iterator<Item = Block> {
    (run.first..run.first + run.count).map(move |index| Block {
        piece: run.piece,
        index,
    })
}
