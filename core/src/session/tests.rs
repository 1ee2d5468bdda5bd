//! Two sessions with a wire between them, and one session with a peer that says anything.

use super::*;
use crate::limits::{PIPELINE_BLOCKS_MIN, RANGE_BLOCKS_MAX};
use crate::machine::Output;
use crate::wire::EXTENSION_HANDSHAKE;

const PIECE: u32 = 4 * BLOCK_LEN;
const PIECES: u32 = 10;

fn geometry() -> Geometry {
    Geometry::new(u64::from(PIECES - 1) * u64::from(PIECE) + 100, PIECE).unwrap()
}

fn me(name: u8) -> Identity {
    Identity {
        peer_id: PeerId([name; 20]),
        info_hash: [9; 20],
        port: Some(7000 + u16::from(name)),
    }
}

/// One side, its outputs and what it said.
struct Side {
    session: Session,
    me: Identity,
    have: Bitfield,
    fx: Effects,
    ev: Vec<SessionEvent>,
    closed: bool,
}

impl Side {
    fn new(session: Session, fx: Effects, name: u8, have: Bitfield) -> Self {
        Self {
            session,
            me: me(name),
            have,
            fx,
            ev: Vec::new(),
            closed: false,
        }
    }

    /// What goes out, as one buffer; it counts as sent.
    fn out(&mut self, now: Mono) -> Vec<u8> {
        let bytes = self.unread();
        self.session.on_sent(now, bytes.len() as u32);
        bytes
    }

    /// What goes out, and is not reported as sent.
    fn unread(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(output) = self.fx.poll() {
            match output {
                Output::Send { bytes: sent, .. } => {
                    assert!(!self.closed, "it sends after it closed");
                    bytes.extend_from_slice(&sent);
                }
                Output::Close { .. } => self.closed = true,
                _ => {}
            }
        }
        bytes
    }

    fn hear(&mut self, now: Mono, bytes: Vec<u8>) {
        let (fx, ev) = (&mut self.fx, &mut self.ev);
        self.session.on_bytes(now, bytes.into(), fx, ev);
        let hello = |e: &SessionEvent| matches!(e, SessionEvent::Hello { .. });
        if self.ev.iter().any(hello) {
            self.ev.retain(|e| !hello(e));
            let (fx, ev) = (&mut self.fx, &mut self.ev);
            self.session
                .welcome(now, &self.me, geometry(), &self.have, fx, ev);
        }
    }

    fn say(&mut self, now: Mono, message: &Message) {
        self.hear(now, raw(message));
    }

    fn tick(&mut self, now: Mono) -> Vec<SessionEvent> {
        self.session.on_tick(now, &mut self.fx, &mut self.ev);
        self.said()
    }

    fn said(&mut self) -> Vec<SessionEvent> {
        core::mem::take(&mut self.ev)
    }

    fn fault(&mut self) -> Option<PeerFault> {
        let faults = self.said().into_iter().filter_map(|e| match e {
            SessionEvent::Fault(fault) => Some(fault),
            _ => None,
        });
        faults.last()
    }

    /// Read what is asked of it, and give it.
    fn upload(&mut self, now: Mono) -> u32 {
        let mut parts = 0;
        while let Some(upload) = self.session.next_upload(u32::MAX) {
            parts += upload.parts.len() as u32;
            self.deliver(now, &upload);
        }
        parts
    }

    fn deliver(&mut self, now: Mono, upload: &Upload) {
        let bytes = Bytes::from(alloc::vec![7; upload.len as usize]);
        self.session.deliver(now, upload, &bytes, &mut self.fx);
    }
}

/// A dialled, B accepted; A has nothing, B has everything.
struct Pair {
    now: Mono,
    a: Side,
    b: Side,
}

impl Pair {
    fn met() -> Self {
        let now = Mono::from_us(1_000_000);
        let (mut fx, mut fx_b) = (Effects::default(), Effects::default());
        let mut dialled = Session::dial(now, StreamId(2));
        dialled.on_opened(now, &me(1), &mut fx);
        let accepted = Session::accept(now, StreamId(1), &mut fx_b);
        let mut pair = Self {
            now,
            a: Side::new(dialled, fx, 1, Bitfield::empty(PIECES)),
            b: Side::new(accepted, fx_b, 2, Bitfield::full(PIECES)),
        };
        pair.pump();
        pair
    }

    /// Until nothing is on the wire.
    fn pump(&mut self) {
        loop {
            let (from_a, from_b) = (self.a.out(self.now), self.b.out(self.now));
            if from_a.is_empty() && from_b.is_empty() {
                return;
            }
            self.b.hear(self.now, from_a);
            self.a.hear(self.now, from_b);
        }
    }

    /// A wants, B gives.
    fn wanted(mut self) -> Self {
        self.a
            .session
            .set_interested(self.now, true, &mut self.a.fx);
        self.pump();
        assert!(self.b.session.they_want());
        self.b.session.set_choked(self.now, false, &mut self.b.fx);
        self.pump();
        assert!(!self.a.session.they_choke());
        self.a.said();
        self.b.said();
        self
    }

    fn ask(&mut self, run: Run) {
        self.a.session.request(self.now, run, &mut self.a.fx);
    }
}

fn raw(message: &Message) -> Vec<u8> {
    let frame = encode(message, &PeerExtensions::OURS).unwrap();
    [&frame.head[..], &frame.payload.concat()].concat()
}

fn run(piece: u32, first: u32, count: u32) -> Run {
    Run {
        piece,
        first,
        count,
    }
}

fn runs(events: &[SessionEvent]) -> Vec<Run> {
    let data = events.iter().filter_map(|e| match e {
        SessionEvent::Data { run, data } => {
            let len: usize = data.iter().map(Bytes::len).sum();
            assert_eq!(len as u32, geometry().run_len(*run));
            Some(*run)
        }
        _ => None,
    });
    data.collect()
}

#[test]
fn they_meet_and_tell_what_they_have() {
    let mut pair = Pair::met();
    assert!(pair.a.session.is_open() && pair.b.session.is_open());
    assert!(pair.a.session.speaks_ranges() && pair.b.session.speaks_ranges());
    assert_eq!(pair.a.session.peer_id(), me(2).peer_id);
    let (a, b) = (pair.a.said(), pair.b.said());
    assert!(a.iter().any(|e| matches!(e, SessionEvent::HasAll)));
    assert!(a.iter().any(|e| matches!(e, SessionEvent::Port(7002))));
    assert!(b.iter().any(|e| matches!(e, SessionEvent::Port(7001))));
    assert!(!b.iter().any(|e| matches!(e, SessionEvent::HasAll)));
    assert_eq!(pair.a.session.room(pair.now), 0, "choked");
}

#[test]
fn ranges_come_in_one_message_each() {
    let mut pair = Pair::met().wanted();
    assert!(pair.a.session.room(pair.now) >= PIPELINE_BLOCKS_MIN);
    pair.ask(run(0, 0, 4));
    pair.ask(run(PIECES - 1, 0, 1));
    assert_eq!(pair.a.session.outstanding_blocks(), 5);
    pair.pump();
    assert_eq!(pair.b.upload(pair.now), 2);
    pair.pump();
    let said = pair.a.said();
    assert_eq!(runs(&said), [run(0, 0, 4), run(PIECES - 1, 0, 1)]);
    assert_eq!(pair.a.session.outstanding_blocks(), 0);
    assert_eq!(pair.b.session.unsent_bytes(), 0);
}

#[test]
fn a_plain_peer_is_asked_block_by_block() {
    let mut pair = Pair::met().wanted();
    pair.a.session.extensions = PeerExtensions::default();
    pair.ask(run(0, 1, 3));
    pair.ask(run(PIECES - 1, 0, 1));
    pair.pump();
    // Neighbours are read at once, and answered one by one.
    assert_eq!(pair.b.upload(pair.now), 4);
    pair.pump();
    let came = runs(&pair.a.said());
    let single = |(piece, block)| run(piece, block, 1);
    assert_eq!(came, [(0, 1), (0, 2), (0, 3), (PIECES - 1, 0)].map(single));
}

#[test]
fn a_cancelled_request_is_rejected_or_comes_all_the_same() {
    for plain in [false, true] {
        let mut pair = Pair::met().wanted();
        if plain {
            pair.a.session.extensions = PeerExtensions::default();
        }
        let block = Block { piece: 1, index: 0 };
        for read_before in [false, true] {
            pair.ask(run(1, 0, 1));
            pair.pump();
            if read_before {
                pair.b.upload(pair.now);
            }
            pair.a.session.cancel(pair.now, block, &mut pair.a.fx);
            pair.pump();
            assert_eq!(pair.b.upload(pair.now), 0, "withdrawn, or given");
            pair.pump();
            let said = pair.a.said();
            assert_eq!(runs(&said).len(), usize::from(read_before));
            assert!(
                !said
                    .iter()
                    .any(|e| matches!(e, SessionEvent::Rejected { .. }))
            );
            assert_eq!(pair.a.session.requests.late(pair.now), 0, "settled");
        }
        assert!(!pair.a.closed && !pair.b.closed);
    }
}

#[test]
fn a_refused_request_is_released() {
    let mut pair = Pair::met().wanted();
    pair.ask(run(2, 0, 4));
    pair.pump();
    let upload = pair.b.session.next_upload(u32::MAX).unwrap();
    pair.b.session.refuse(pair.now, &upload, &mut pair.b.fx);
    pair.pump();
    let said = pair.a.said();
    assert!(matches!(said[..], [SessionEvent::Rejected { run: r }] if r == run(2, 0, 4)));
    assert_eq!(pair.a.session.outstanding_blocks(), 0);
}

#[test]
fn after_a_choke_each_request_still_gets_its_block_or_its_reject() {
    let mut pair = Pair::met().wanted();
    pair.ask(run(0, 0, 4));
    pair.ask(run(1, 0, 2));
    pair.pump();
    let begun = pair.b.session.next_upload(u32::MAX).unwrap();
    pair.b.session.set_choked(pair.now, true, &mut pair.b.fx);
    pair.pump();
    let said = pair.a.said();
    assert!(
        matches!(&said[..], [
            SessionEvent::Choked { released },
            SessionEvent::Rejected { run: rejected },
        ] if released.is_empty() && *rejected == run(1, 0, 2)),
        "{said:?}"
    );
    assert_eq!(pair.a.session.outstanding_blocks(), 4, "still on its way");
    pair.b.deliver(pair.now, &begun);
    pair.pump();
    assert_eq!(runs(&pair.a.said()), [run(0, 0, 4)]);
    assert_eq!(pair.a.session.room(pair.now), 0);
    pair.b.session.set_choked(pair.now, false, &mut pair.b.fx);
    pair.pump();
    assert!(pair.a.session.room(pair.now) >= PIPELINE_BLOCKS_MIN);
}

#[test]
fn a_choke_by_a_plain_peer_releases_everything_once() {
    let mut pair = Pair::met().wanted();
    pair.a.session.extensions = PeerExtensions::default();
    pair.a.session.fast = false;
    pair.ask(run(0, 0, 4));
    pair.ask(run(1, 0, 2));
    for expected in [&[run(0, 0, 4), run(1, 0, 2)][..], &[]] {
        pair.a.say(pair.now, &Message::Choke);
        let said = pair.a.said();
        assert!(
            matches!(&said[..], [SessionEvent::Choked { released }] if released == expected),
            "{said:?}"
        );
    }
}

#[test]
fn what_is_asked_back_is_rejected_if_not_begun_and_comes_once_if_it_is() {
    let mut pair = Pair::met().wanted();
    pair.ask(run(0, 0, 4));
    pair.ask(run(1, 0, 4));
    pair.pump();
    let begun = pair.b.session.next_upload(u32::MAX).unwrap();
    // From the end; the same is not asked back twice.
    for (most, recalled) in [(3, 3), (2, 5), (9, 8), (9, 8)] {
        pair.a.session.recall(pair.now, most, &mut pair.a.fx);
        assert_eq!(pair.a.session.recalled_blocks(), recalled);
    }
    pair.pump();
    let rejected: u32 = pair
        .a
        .said()
        .iter()
        .map(|e| match e {
            SessionEvent::Rejected { run } => run.count,
            other => panic!("{other:?}"),
        })
        .sum();
    assert_eq!((rejected, pair.a.session.outstanding_blocks()), (4, 4));
    pair.b.deliver(pair.now, &begun);
    pair.pump();
    assert_eq!(runs(&pair.a.said()), [run(0, 0, 4)]);
    let session = &pair.a.session;
    assert_eq!(
        (session.recalled_blocks(), session.outstanding_blocks()),
        (0, 0)
    );
    assert_eq!(pair.a.session.requests.late(pair.now), 0, "nothing is late");
}

#[test]
fn a_peer_that_would_not_reject_is_asked_for_nothing_back() {
    let mut pair = Pair::met().wanted();
    pair.a.session.fast = false;
    pair.ask(run(0, 0, 4));
    pair.a.session.recall(pair.now, 2, &mut pair.a.fx);
    assert_eq!(pair.a.session.recalled_blocks(), 0);
}

#[test]
fn choked_on_and_off_by_a_plain_peer_it_can_still_be_asked() {
    let mut pair = Pair::met().wanted();
    pair.a.session.extensions = PeerExtensions::default();
    pair.a.session.fast = false;
    for round in 0..200 {
        let now = Mono::from_us(1_000_000 * (round + 1));
        pair.a.say(now, &Message::Unchoke);
        let room = pair.a.session.room(now);
        assert!(room > 0, "round {round}");
        let piece = round as u32 % (PIECES - 1);
        pair.a
            .session
            .request(now, run(piece, 0, 4), &mut pair.a.fx);
        pair.a.say(now, &Message::Choke);
    }
}

#[test]
fn a_stalled_peer_is_left_alone_and_closed_the_third_time() {
    let mut pair = Pair::met().wanted();
    let mut now = pair.now;
    for time in 1..=PEER_STALLS_MAX {
        pair.a.session.request(now, run(0, 0, 4), &mut pair.a.fx);
        let _lost = pair.a.out(now);
        now = now + PEER_STALL;
        assert_eq!(pair.a.session.deadline().map(|d| d.at), Some(now));
        let said = pair.a.tick(now);
        let released = |r: &[Run]| r == [run(0, 0, 4)];
        assert!(matches!(&said[0], SessionEvent::Stalled { released: r } if released(r)));
        assert_eq!(pair.a.session.room(now), 0);
        let fault = matches!(said.last(), Some(SessionEvent::Fault(PeerFault::Stalled)));
        assert_eq!(fault, time == PEER_STALLS_MAX);
        now = now + PEER_STALL;
        pair.a.tick(now);
    }
    pair.a.unread();
    assert!(pair.a.closed);
}

#[test]
fn a_slow_answer_is_not_a_stall_and_may_come_twice() {
    let mut pair = Pair::met().wanted();
    pair.ask(run(0, 0, 4));
    pair.pump();
    pair.b.upload(pair.now);
    let answer = pair.b.out(pair.now);
    // Payload trickles in: never a stall, although nothing is whole for long.
    let mut now = pair.now;
    for part in answer.chunks(8 * 1024) {
        now = now + PEER_STALL / 2;
        assert!(
            !pair
                .a
                .tick(now)
                .iter()
                .any(|e| matches!(e, SessionEvent::Stalled { .. }))
        );
        pair.a.hear(now, part.to_vec());
    }
    assert_eq!(runs(&pair.a.said()), [run(0, 0, 4)]);
    // Given up, asked again, and then both answers come.
    pair.a.session.request(now, run(1, 0, 4), &mut pair.a.fx);
    let _delayed = pair.a.out(now);
    now = now + PEER_STALL;
    assert_eq!(pair.a.tick(now).len(), 1);
    now = now + PEER_STALL;
    pair.a.tick(now);
    pair.a.session.request(now, run(1, 0, 4), &mut pair.a.fx);
    let data = Message::Range(RangeMessage::Data {
        run: run(1, 0, 4),
        data: alloc::vec![alloc::vec![1; PIECE as usize].into()],
    });
    pair.a.say(now, &data);
    pair.a.say(now, &data);
    let said = pair.a.said();
    assert_eq!(runs(&said).len(), 2);
    pair.a.say(now, &data);
    assert!(matches!(pair.a.fault(), Some(PeerFault::Unasked { .. })));
}

#[test]
fn quiet_connections_are_kept_alive_and_dead_ones_closed() {
    let mut pair = Pair::met();
    for _ in 0..10 {
        pair.now = pair.now + KEEP_ALIVE_AFTER;
        pair.a.tick(pair.now);
        pair.b.tick(pair.now);
        pair.pump();
    }
    assert!(pair.a.session.is_open() && pair.b.session.is_open());
    let dead = pair.now + PEER_IDLE_TIMEOUT;
    pair.a.tick(pair.now + KEEP_ALIVE_AFTER);
    let said = pair.a.tick(dead);
    assert!(matches!(said[..], [SessionEvent::Fault(PeerFault::Idle)]));
}

#[test]
fn a_handshake_that_trickles_is_given_up() {
    let mut fx = Effects::default();
    let session = Session::accept(Mono::ZERO, StreamId(1), &mut fx);
    let mut side = Side::new(session, fx, 1, Bitfield::empty(PIECES));
    let hello = Handshake::new([9; 20], PeerId([5; 20])).encode();
    for (second, byte) in (1..10).zip(&hello) {
        let now = Mono::from_us(second * 1_000_000);
        side.hear(now, alloc::vec![*byte]);
        assert!(side.tick(now).is_empty());
    }
    let said = side.tick(Mono::ZERO + HANDSHAKE_TIMEOUT);
    assert!(matches!(
        said[..],
        [SessionEvent::Fault(PeerFault::HandshakeTimeout)]
    ));
}

#[test]
fn what_no_peer_may_say_closes_the_connection() {
    let block = |len: usize| alloc::vec![Bytes::from(alloc::vec![1; len])];
    let data = |run, len| {
        Message::Range(RangeMessage::Data {
            run,
            data: block(len),
        })
    };
    let piece = |piece, begin, len| Message::Piece {
        piece,
        begin,
        data: block(len),
    };
    let wrong = [
        Message::Have(PIECES),
        Message::Have(u32::MAX),
        Message::Bitfield(Bytes::from_static(&[0xff])),
        Message::Bitfield(Bytes::from_static(&[0xff, 0xff])),
        Message::Bitfield(Bytes::from_static(&[0xff, 0xc0, 0])),
        piece(0, 0, BLOCK_LEN as usize),
        piece(0, 1, 100),
        piece(PIECES, 0, 100),
        piece(u32::MAX, u32::MAX - BLOCK_LEN + 1, 100),
        data(run(0, 0, 1), BLOCK_LEN as usize),
        data(run(1, 0, 4), PIECE as usize),
        data(run(PIECES - 1, 0, 1), 100),
        Message::Claim(ClaimMessage::Claim(alloc::vec![0, PIECES])),
        Message::Claim(ClaimMessage::Unclaim(alloc::vec![u32::MAX])),
        Message::Extended {
            id: EXTENSION_HANDSHAKE,
            payload: Bytes::from_static(b"not bencode"),
        },
    ];
    for message in wrong {
        let mut pair = Pair::met().wanted();
        pair.ask(run(2, 0, 4));
        let _asked = pair.a.out(pair.now);
        pair.a.say(pair.now, &message);
        assert!(pair.a.fault().is_some(), "{message:?}");
        pair.a.unread();
        assert!(pair.a.closed && pair.a.session.is_closed());
        // Nothing more is read, and what was asked comes back.
        pair.a.say(pair.now, &Message::Unchoke);
        assert!(pair.a.said().is_empty());
        assert_eq!(pair.a.session.on_closed(), [run(2, 0, 4)], "{message:?}");
    }
}

#[test]
fn what_makes_no_sense_and_does_no_harm_is_refused_or_passed_over() {
    let mut pair = Pair::met().wanted();
    let harmless = [
        Message::Suggest(u32::MAX),
        Message::AllowedFast(u32::MAX),
        Message::Port(0),
        Message::HaveNone,
        Message::Reject {
            piece: 7,
            begin: 1,
            length: 0,
        },
        Message::Cancel {
            piece: u32::MAX,
            begin: u32::MAX,
            length: u32::MAX,
        },
        Message::Range(RangeMessage::Reject(run(u32::MAX, u32::MAX - 4, 4))),
        Message::Range(RangeMessage::Cancel(run(u32::MAX, u32::MAX - 4, 4))),
        Message::Extended {
            id: 77,
            payload: Bytes::from_static(b"x"),
        },
        Message::Interested,
        Message::Interested,
        Message::NotInterested,
    ];
    for message in harmless {
        pair.a.say(pair.now, &message);
        assert_eq!(pair.a.fault(), None, "{message:?}");
    }
    let asked = [
        (PIECES, 0, 1),
        (0, PIECE, 1),
        (0, u32::MAX, u32::MAX),
        (0, 0, 0),
        (0, 0, BLOCK_LEN + 1),
    ];
    pair.a.session.set_choked(pair.now, false, &mut pair.a.fx);
    pair.a.unread();
    for (piece, begin, length) in asked {
        pair.a.say(
            pair.now,
            &Message::Request {
                piece,
                begin,
                length,
            },
        );
        let answer = raw(&Message::Reject {
            piece,
            begin,
            length,
        });
        assert_eq!(pair.a.unread(), answer, "{piece} {begin} {length}");
    }
    assert!(!pair.a.session.has_uploads());
}

#[test]
fn a_flood_of_requests_is_bounded_and_its_sender_closed_when_it_does_not_read() {
    let mut pair = Pair::met();
    pair.b.unread();
    let flood = raw(&Message::Range(RangeMessage::Request(run(0, 0, 4)))).repeat(1000);
    let mut queued = 0;
    for _ in 0..1000 {
        pair.b.hear(pair.now, flood.clone());
        queued += pair.b.unread().len() as u64;
        if pair.b.closed {
            break;
        }
    }
    assert_eq!(pair.b.fault(), Some(PeerFault::Unread));
    assert!(queued <= UNREAD_REPLIES_MAX + 100, "{queued}");
    // Served, it gets no more than the queue holds.
    let mut pair = Pair::met().wanted();
    pair.b.hear(pair.now, flood);
    let most = UPLOAD_QUEUE_BLOCKS / 4 + RANGE_BLOCKS_MAX;
    assert!(pair.b.upload(pair.now) <= most);
}

#[test]
fn hash_requests_are_answered_while_somebody_reads() {
    let request = HashRequest {
        root: Digest::default(),
        base_layer: 2,
        index: 0,
        count: 8192,
        proof_layers: 0,
    };
    let mut pair = Pair::met();
    let mut queued = 0;
    let ask = raw(&Message::HashRequest(request)).repeat(100);
    while !pair.b.closed {
        pair.b.hear(pair.now, ask.clone());
        for event in pair.b.said() {
            if let SessionEvent::HashesAsked(request) = event {
                let hashes = Some(alloc::vec![Digest::default(); 8192]);
                pair.b
                    .session
                    .answer_hashes(pair.now, request, hashes, &mut pair.b.fx);
            }
        }
        queued += pair.b.unread().len() as u64;
        assert!(queued < 2 * UNREAD_REPLIES_MAX, "{queued}");
    }
}
