//! uTP: pairs of transports over links that delay, lose, repeat and reorder, against a model of a byte stream; and
//! single transports against packets as libutp and libtorrent send them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod utp_rig;

use bytes::Bytes;
use core::net::SocketAddr;
use core::time::Duration;
use dovetail_core::ids::StreamId;
use dovetail_core::limits::{
    CONNECT_TIMEOUT, UTP_DATAGRAM_MAX_V4, UTP_GIVE_UP, UTP_KEEP_ALIVE, UTP_RESETS_PER_S,
    UTP_UNCONFIRMED_MAX,
};
use dovetail_core::machine::{CloseHow, Ecn, Input, Lost};
use dovetail_core::rng::Rng;
use dovetail_core::time::Mono;
use dovetail_core::transport::{Flows, Header, Kind, Packet, Transport, decode};
use utp_rig::{A, B, LinkSpec, Plan, World, drop_first};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * 1024;

/// Both ends send and both see everything; A closes when B has it all.
fn both_ways(seed: u64, link: LinkSpec, bytes: u64) -> World {
    let mut w = World::new(seed, link);
    w.ends[B].plan = Plan::send(bytes);
    let id = w.connect(Plan::send(bytes));
    w.until(600, |w| {
        w.ends[B].streams.len() == 1
            && w.stream(A).received == bytes
            && w.stream(B).received == bytes
    });
    assert_eq!((w.stream(A).sent, w.stream(B).sent), (bytes, bytes));
    w.close(A, id, CloseHow::Flush);
    w.until_closed(120);
    assert_eq!(w.stream(A).closed, Some(Lost::Asked));
    assert_eq!(w.stream(B).closed, Some(Lost::Eof));
    w
}

#[test]
fn everything_arrives_in_order_and_once() {
    let slow = LinkSpec::delay_ms(20).rate(500_000, 20_000);
    let links = [
        LinkSpec::delay_ms(0),
        LinkSpec::delay_ms(30),
        LinkSpec::delay_ms(10).loss_percent(1),
        LinkSpec::delay_ms(10).loss_percent(3),
        LinkSpec::delay_ms(10).loss_percent(20),
        LinkSpec::delay_ms(10).chaos(),
        LinkSpec::delay_ms(25).loss_percent(3).chaos(),
        slow,
        slow.loss_percent(1).chaos(),
        LinkSpec::delay_ms(2)
            .rate(5_000_000, 30_000)
            .loss_percent(3),
    ];
    for (n, link) in links.into_iter().enumerate() {
        for seed in 0..10 {
            both_ways(seed * 100 + n as u64, link, 200 * KIB + seed * 777);
        }
    }
}

/// 8 MiB over a line of 20 Mbit/s and 20 ms with a long queue.
fn over_a_line(change: impl FnOnce(&mut LinkSpec)) -> (World, Duration) {
    let mut link = LinkSpec::delay_ms(10).rate(2_500_000, 500_000);
    change(&mut link);
    let mut w = World::new(5, link);
    w.check_every = 1000;
    w.connect(Plan::send(8 * MIB));
    let took = w.until(60, |w| {
        !w.ends[B].streams.is_empty() && w.stream(B).received == 8 * MIB
    });
    (w, took)
}

#[test]
fn a_line_that_marks_loses_nothing_and_has_a_shorter_queue() {
    let (plain, took) = over_a_line(|_| {});
    assert!(plain.ends[A].markable > 5000 && plain.ends[A].marked == 0);
    assert_eq!(
        plain.ends[B].markable, 0,
        "acknowledgements may not be marked"
    );
    let (marking, took_marking) = over_a_line(|link| link.marks_after_us = 3000);
    let (a, longest_us) = (&marking.ends[A], plain.ends[A].longest_wait_us);
    println!(
        "{took:?}, queue of {longest_us} us; with {} marks {took_marking:?}, {} us",
        a.marked, a.longest_wait_us
    );
    assert!(a.marked > 5 && a.dropped == 0);
    assert!(a.longest_wait_us < longest_us && took_marking < took * 3 / 2);
}

#[test]
fn a_path_that_drops_what_may_be_marked_is_done_without() {
    let (w, took) = over_a_line(|link| link.is_deaf = true);
    assert!(
        (1..=20).contains(&w.ends[A].markable),
        "{}",
        w.ends[A].markable
    );
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_flush_delivers_what_was_sent() {
    for seed in 0..20 {
        let link = LinkSpec::delay_ms(15).loss_percent(3).chaos();
        let mut w = World::new(seed, link);
        w.connect(Plan::send(150 * KIB).then_close());
        w.until_closed(120);
        assert_eq!(w.stream(B).received, 150 * KIB, "seed {seed}");
        assert_eq!(w.stream(A).closed, Some(Lost::Asked));
        assert_eq!(w.stream(B).closed, Some(Lost::Eof));
    }
}

#[test]
fn both_may_close_at_once() {
    for seed in 0..20 {
        let link = LinkSpec::delay_ms(15).loss_percent(5).chaos();
        let mut w = World::new(seed, link);
        w.connect(Plan::send(1000));
        w.until(60, |w| {
            !w.ends[B].streams.is_empty() && w.stream(B).received == 1000
        });
        for end in [A, B] {
            let id = w.id(end);
            w.close(end, id, CloseHow::Flush);
        }
        w.until_closed(120);
        for end in [A, B] {
            assert_eq!(w.stream(end).closed, Some(Lost::Asked), "seed {seed}");
        }
    }
}

#[test]
fn a_link_is_filled() {
    for loss in [0, 1] {
        let link = LinkSpec::delay_ms(10)
            .rate(4_000_000, 200_000)
            .loss_percent(loss);
        let mut w = World::new(7, link);
        w.check_every = 1000;
        w.connect(Plan::send(20 * MIB).then_close());
        let took = w.until_closed(100);
        assert_eq!(w.stream(B).received, 20 * MIB);
        println!(
            "loss {loss} %: 20 MiB in {took:?}, {} datagrams",
            w.ends[A].datagrams
        );
        if loss == 0 {
            assert!(took < Duration::from_secs(9), "{took:?}");
        }
        let least = 20 * MIB / 1472;
        assert!(
            w.ends[A].datagrams < least * 11 / 10,
            "few are sent in vain"
        );
        assert!(w.ends[B].datagrams < least * 3 / 4, "acknowledged in pairs");
    }
}

#[test]
fn a_blackout_of_ten_seconds_is_survived() {
    for (seed, both) in [(1, true), (2, false)] {
        let mut w = World::new(seed, LinkSpec::delay_ms(20).rate(1_000_000, 50_000));
        let dark = Duration::from_millis(900).as_micros() as u64..10_900_000;
        w.filter =
            Box::new(move |from, now, _| !dark.contains(&now.as_us()) || (from == B && !both));
        w.ends[B].plan = Plan::send(2 * MIB);
        w.connect(Plan::send(2 * MIB));
        w.run(10_900);
        let before = w.stream(B).received;
        assert!(before < 2 * MIB, "the blackout was too late");
        w.until(20, |w| {
            w.stream(B).received == 2 * MIB && w.stream(A).received == 2 * MIB
        });
    }
}

#[test]
fn a_peer_that_is_gone_is_given_up() {
    let mut w = World::new(3, LinkSpec::delay_ms(20));
    w.filter = Box::new(|_, now, _| now < Mono::from_us(500_000));
    w.ends[B].plan = Plan::send(100 * MIB);
    w.connect(Plan::send(100 * MIB));
    w.until_closed(150);
    for end in [A, B] {
        assert_eq!(w.stream(end).closed, Some(Lost::TimedOut));
        assert!(w.stream(end).closed_at >= Mono::ZERO + UTP_GIVE_UP);
    }
}

#[test]
fn lost_packets_of_the_handshake_and_the_end_go_again() {
    for (end, kind) in [
        (A, Kind::Syn),
        (B, Kind::State),
        (A, Kind::State),
        (A, Kind::Fin),
        (B, Kind::Fin),
        (A, Kind::Data),
    ] {
        for count in 1..=3 {
            let mut w = World::new(5, LinkSpec::delay_ms(20));
            w.filter = drop_first(end, kind, count);
            w.connect(Plan::send(3000).then_close());
            w.until_closed(60);
            assert_eq!(w.stream(B).received, 3000);
            assert_eq!(w.stream(A).closed, Some(Lost::Asked), "{kind:?} of {end}");
            assert_eq!(w.stream(B).closed, Some(Lost::Eof));
        }
    }
}

#[test]
fn a_lost_last_packet_does_not_wait_for_the_timeout() {
    let mut w = World::new(5, LinkSpec::delay_ms(20));
    w.connect(Plan::send(3000));
    w.until(1, |w| {
        !w.ends[B].streams.is_empty() && w.stream(B).received == 3000
    });
    w.filter = drop_first(A, Kind::Data, 1);
    w.stream_mut(A).to_send = 100;
    let id = w.id(A);
    w.top_up(A, id);
    let took = w.until(1, |w| w.stream(B).received == 3100);
    assert!(took < Duration::from_millis(300), "{took:?}");
}

#[test]
fn a_stream_that_says_nothing_is_accepted_too() {
    let mut w = World::new(5, LinkSpec::delay_ms(20));
    w.ends[B].plan = Plan::send(5000);
    w.connect(Plan::send(0));
    w.until(1, |w| w.stream(A).received == 5000);
}

#[test]
fn nobody_there_and_nobody_wanted() {
    let mut w = World::new(5, LinkSpec::delay_ms(20));
    w.filter = Box::new(|_, _, _| false);
    w.connect(Plan::send(3000));
    w.until(60, |w| w.stream(A).closed.is_some());
    assert_eq!(w.stream(A).closed, Some(Lost::TimedOut));
    assert_eq!(w.now.since(Mono::from_us(1)), CONNECT_TIMEOUT);
    let mut w = World::new(5, LinkSpec::delay_ms(20));
    w.ends[B].transport.set_accepting(false);
    w.connect(Plan::send(3000));
    let took = w.until(60, |w| w.stream(A).closed.is_some());
    assert_eq!(w.stream(A).closed, Some(Lost::Refused));
    assert!(took < Duration::from_millis(50));
}

#[test]
fn an_abort_tells_the_peer() {
    for lost in [0, 1] {
        let mut w = World::new(5, LinkSpec::delay_ms(20).rate(1_000_000, 30_000));
        w.filter = drop_first(A, Kind::Reset, lost);
        w.connect(Plan::send(50 * MIB));
        w.run(1000);
        let id = w.id(A);
        w.close(A, id, CloseHow::Abort);
        w.ends[A].transport.check();
        // Without the reset: the next packet of the peer is answered with one.
        w.stream_mut(B).to_send = 10;
        let id = w.id(B);
        w.top_up(B, id);
        w.until_closed(10);
        assert_eq!(w.stream(A).closed, Some(Lost::Asked));
        assert_eq!(w.stream(B).closed, Some(Lost::Reset));
    }
}

#[test]
fn a_window_closes_and_opens() {
    for updates_lost in [0, 4] {
        let mut w = World::new(5, LinkSpec::delay_ms(20));
        w.ends[B].plan = Plan::send(0).credit(100 * KIB);
        w.connect(Plan::send(MIB).then_close());
        w.until(10, |w| !w.ends[B].streams.is_empty());
        w.stream_mut(B).credit = 0;
        w.run(120_000);
        let first = w.stream(B).received;
        assert!(first <= 100 * KIB && w.stream(A).closed.is_none());
        let before = w.ends[A].datagrams;
        w.run(60_000);
        assert!(
            w.ends[A].datagrams - before < 20,
            "a closed window is asked rarely"
        );
        w.filter = drop_first(B, Kind::State, updates_lost);
        w.stream_mut(B).credit = 100 * KIB;
        let id = w.id(B);
        w.top_up(B, id);
        let took = w.until_closed(60);
        assert_eq!(w.stream(B).received, MIB);
        assert_eq!(w.stream(B).closed, Some(Lost::Eof));
        assert!(
            took < Duration::from_secs(if updates_lost == 0 { 3 } else { 50 }),
            "{took:?}"
        );
    }
}

#[test]
fn a_slow_reader_gets_everything_and_the_end_waits_for_it() {
    let mut w = World::new(5, LinkSpec::delay_ms(5).loss_percent(1));
    w.ends[B].plan = Plan::send(0).credit(0);
    w.connect(Plan::send(20_000).then_close());
    w.run(10_000);
    assert_eq!(
        w.stream(A).closed,
        Some(Lost::Asked),
        "all of it was taken in"
    );
    while w.stream(B).closed.is_none() {
        let s = w.stream_mut(B);
        assert!(s.received < 20_000);
        s.granted += 1000;
        let id = w.id(B);
        w.ends[B].transport.grant(id, 1000);
        w.run(10);
    }
    assert_eq!(w.stream(B).received, 20_000);
    assert_eq!(w.stream(B).closed, Some(Lost::Eof));
}

#[test]
fn small_credit_is_no_end() {
    for credit in [1, 7, 600, 3000] {
        let mut w = World::new(5, LinkSpec::delay_ms(5).loss_percent(3));
        w.ends[B].plan = Plan::send(0).credit(credit);
        let bytes = if credit < 100 { 40 * KIB } else { 150 * KIB };
        w.connect(Plan::send(bytes).then_close());
        w.until_closed(300);
        assert_eq!(w.stream(B).received, bytes);
    }
}

#[test]
fn a_path_that_swallows_large_datagrams_is_found_out() {
    for largest in [576, 1000, 1200, 1402, 1472] {
        for loss in [0, 3] {
            let mut w = World::new(9, LinkSpec::delay_ms(10).loss_percent(loss));
            w.links[A].largest = largest;
            w.links[A].rate_bytes_per_s = 2_000_000;
            w.links[A].queue_bytes = if loss == 0 { u64::MAX } else { 60_000 };
            w.check_every = 100;
            w.connect(Plan::send(4 * MIB));
            w.until(120, |w| {
                !w.ends[B].streams.is_empty() && w.stream(B).received == 4 * MIB
            });
            let found = w.ends[A].transport.facts(w.id(A)).unwrap().datagram_bytes;
            assert!(usize::from(found) <= largest);
            if loss == 0 {
                assert!(usize::from(found) + 16 > largest, "{found} of {largest}");
            }
        }
    }
}

#[test]
fn an_idle_stream_says_something_now_and_then() {
    let mut w = World::new(9, LinkSpec::delay_ms(10));
    w.connect(Plan::send(100));
    w.run(1000);
    let before = [w.ends[A].datagrams, w.ends[B].datagrams];
    w.run(10 * UTP_KEEP_ALIVE.as_millis() as u64 + 500);
    for end in [A, B] {
        assert_eq!(w.ends[end].datagrams - before[end], 10);
        assert!(w.stream(end).closed.is_none());
    }
}

#[test]
fn many_streams_share_a_socket() {
    let mut w = World::new(11, LinkSpec::delay_ms(10).rate(5_000_000, 100_000));
    w.ends[B].plan = Plan::send(50 * KIB);
    for _ in 0..60 {
        w.connect(Plan::send(100 * KIB).then_close());
    }
    w.until_closed(60);
    for s in w.ends[B].streams.values() {
        assert_eq!((s.received, s.closed.clone()), (100 * KIB, Some(Lost::Eof)));
    }
    assert_eq!(w.ends[B].streams.len(), 60);
}

// --- a single transport against packets made by hand

/// What an owner hears of its streams.
#[derive(Debug, PartialEq)]
enum Heard {
    Accepted(StreamId, SocketAddr),
    Opened(StreamId),
    Received(StreamId, Bytes),
    Sent(StreamId, u32),
    Closed(StreamId, Lost),
}

struct Peer {
    t: Transport,
    flows: Flows,
    now: Mono,
    at: SocketAddr,
    /// Of the last datagram, and what it said of marks.
    ecn: Ecn,
    congestion: Option<u32>,
}

impl Peer {
    fn new() -> Self {
        Self {
            ecn: Ecn::NotEct,
            congestion: None,
            t: Transport::new(Rng::from_u64(4)),
            flows: Flows::default(),
            now: Mono::from_us(5_000_000),
            at: SocketAddr::from(([192, 168, 0, 9], 1234)),
        }
    }

    fn put(&mut self, header: Header, payload: &[u8]) {
        self.put_marked(header, payload, None, Ecn::NotEct);
    }

    fn put_marked(&mut self, header: Header, payload: &[u8], congestion: Option<u32>, ecn: Ecn) {
        let packet = Packet {
            header,
            selective_ack: None,
            extension_bits: (header.kind == Kind::Syn).then_some([0; 8]),
            congestion,
            payload,
        };
        let mut bytes = Vec::new();
        packet.encode(&mut bytes);
        assert!(self.hears(&bytes.into(), ecn));
        self.t.check();
    }

    fn get(&mut self) -> Option<(Header, Vec<u8>)> {
        let mut out = Vec::new();
        let (to, ecn) = self.t.poll_datagram(self.now, &mut self.flows, &mut out)?;
        assert_eq!(to, self.at);
        let packet = decode(&out).unwrap();
        (self.ecn, self.congestion) = (ecn, packet.congestion);
        Some((packet.header, packet.payload.to_vec()))
    }

    fn wait_ms(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
        self.t.on_tick(self.now, &mut self.flows);
    }

    fn connect(&mut self) -> StreamId {
        let id = StreamId::utp(1, false);
        self.t.connect(self.now, &mut self.flows, id, self.at);
        id
    }

    fn hear(&mut self) -> Option<Heard> {
        self.t.poll_input().map(|input| match input {
            Input::Accepted { stream, from, .. } => Heard::Accepted(stream, from),
            Input::Opened { stream, .. } => Heard::Opened(stream),
            Input::Received { stream, bytes } => Heard::Received(stream, bytes),
            Input::Sent { stream, len } => Heard::Sent(stream, len),
            Input::Closed { stream, why } => Heard::Closed(stream, why),
            other => panic!("{other:?}"),
        })
    }

    fn hears(&mut self, datagram: &Bytes, ecn: Ecn) -> bool {
        self.t
            .on_datagram(self.now, &mut self.flows, self.at, (datagram, ecn))
    }
}

const fn header(kind: Kind, connection_id: u16, seq: u16, ack: u16) -> Header {
    Header {
        kind,
        connection_id,
        timestamp_us: 1_000_000,
        timestamp_difference_us: 0,
        window_bytes: 1_000_000,
        seq,
        ack,
    }
}

#[test]
fn a_libutp_peer_is_answered_as_it_expects() {
    let mut p = Peer::new();
    p.put(header(Kind::Syn, 65_535, 1, 0), b"");
    let (syn_ack, _) = p.get().unwrap();
    assert_eq!(
        (syn_ack.kind, syn_ack.connection_id, syn_ack.ack),
        (Kind::State, 65_535, 1)
    );
    assert_eq!(syn_ack.timestamp_difference_us, 4_000_000);
    assert!(syn_ack.window_bytes >= 16 * 1024);
    assert_eq!(
        (p.get(), p.hear()),
        (None, None),
        "not told before it is heard"
    );
    // The SYN again: the answer again, with the same number.
    p.put(header(Kind::Syn, 65_535, 1, 0), b"");
    let (again, _) = p.get().unwrap();
    assert_eq!((again.seq, again.ack), (syn_ack.seq, 1));
    let before = syn_ack.seq.wrapping_sub(1);
    p.put(header(Kind::Data, 0, 2, before.wrapping_add(1)), b"wrong");
    assert_eq!(p.hear(), None, "it acknowledges what was not sent");
    p.put(header(Kind::Data, 0, 2, before), b"hello");
    let Some(Heard::Accepted(id, from)) = p.hear() else {
        panic!("accepted")
    };
    assert_eq!(from, p.at);
    p.t.grant(id, 100);
    let bytes = Bytes::from_static(b"hello");
    assert_eq!(p.hear(), Some(Heard::Received(id, bytes)));
    // Our data has the number the answer to the SYN had.
    p.t.send(id, Bytes::from_static(b"world"));
    let (data, payload) = p.get().unwrap();
    assert_eq!(
        (data.kind, data.seq, data.ack),
        (Kind::Data, syn_ack.seq, 2)
    );
    assert_eq!(payload, b"world");
    p.put(header(Kind::Fin, 0, 3, syn_ack.seq), b"");
    assert_eq!(p.hear(), Some(Heard::Sent(id, 5)));
    let why = Lost::Eof;
    assert_eq!(p.hear(), Some(Heard::Closed(id, why)));
    let (fin, _) = p.get().unwrap();
    assert_eq!((fin.kind, fin.ack), (Kind::Fin, 3));
    assert_eq!(p.get(), None);
    p.wait_ms(10_001);
    assert!(p.t.is_idle());
}

#[test]
fn marks_are_counted_for_who_understands_and_nobody_else() {
    for understands in [false, true] {
        let mut p = Peer::new();
        let told = understands.then_some(0);
        p.put_marked(header(Kind::Syn, 7, 1, 0), b"", told, Ecn::NotEct);
        let (syn_ack, _) = p.get().unwrap();
        assert_eq!((p.congestion, p.ecn), (told, Ecn::NotEct));
        let before = syn_ack.seq.wrapping_sub(1);
        p.put_marked(header(Kind::Data, 8, 2, before), b"hello", None, Ecn::Ce);
        let Some(Heard::Accepted(id, _)) = p.hear() else {
            panic!("accepted")
        };
        p.t.send(id, Bytes::from_static(b"world"));
        if understands {
            // The mark is told at once, before there are data to tell it with.
            let (state, _) = p.get().unwrap();
            assert_eq!(
                (state.kind, state.ack, p.congestion),
                (Kind::State, 2, Some(1))
            );
        }
        let (data, _) = p.get().unwrap();
        let ecn = if understands { Ecn::Ect } else { Ecn::NotEct };
        assert_eq!((data.kind, p.ecn, p.congestion), (Kind::Data, ecn, None));
        let again = (0..10).find_map(|_| {
            p.wait_ms(500);
            p.get()
        });
        let (again, _) = again.unwrap();
        assert_eq!(
            (again.seq, p.ecn),
            (data.seq, Ecn::NotEct),
            "RFC 3168 6.1.5"
        );
    }
}

#[test]
fn we_call_as_libutp_does() {
    let mut p = Peer::new();
    let id = p.connect();
    p.t.send(id, Bytes::from_static(b"first"));
    let (syn, _) = p.get().unwrap();
    assert_eq!((syn.kind, syn.seq), (Kind::Syn, 1));
    assert_eq!((p.get(), p.hear()), (None, None));
    p.put(header(Kind::State, syn.connection_id, 0, 1), b"");
    assert_eq!(p.hear(), Some(Heard::Opened(id)));
    assert_eq!(p.hear(), Some(Heard::Sent(id, 5)));
    let (data, payload) = p.get().unwrap();
    assert_eq!(data.connection_id, syn.connection_id.wrapping_add(1));
    assert_eq!(
        (data.seq, data.ack),
        (2, 65_535),
        "one less than its number"
    );
    assert_eq!(payload, b"first");
    assert_eq!(p.get(), None);
    // Not acknowledged: again, the same.
    p.wait_ms(500);
    assert_eq!(
        p.get().map(|(h, payload)| (h.seq, payload)),
        Some((2, b"first".to_vec()))
    );
    p.put(
        header(Kind::Reset, syn.connection_id.wrapping_add(1), 0, 9),
        b"",
    );
    assert_eq!(p.hear(), None, "a reset in answer to what was never sent");
    p.put(
        header(Kind::Reset, syn.connection_id.wrapping_add(1), 0, 2),
        b"",
    );
    let why = Lost::Reset;
    assert_eq!(p.hear(), Some(Heard::Closed(id, why)));
    assert!(p.t.is_idle());
}

#[test]
fn unknown_streams_are_reset_but_not_endlessly() {
    let mut p = Peer::new();
    p.put(header(Kind::Reset, 5, 1, 1), b"");
    assert_eq!(p.get(), None);
    for seq in 0..1000 {
        p.put(header(Kind::Data, 5, seq, 1), b"x");
    }
    let (reset, _) = p.get().unwrap();
    assert_eq!(
        (reset.kind, reset.connection_id, reset.ack),
        (Kind::Reset, 5, 0)
    );
    let more = core::iter::from_fn(|| p.get()).count();
    assert_eq!(more as u32 + 1, UTP_RESETS_PER_S);
    assert!(!p.hears(&Bytes::from_static(b"d1:ad2:id20:"), Ecn::NotEct));
}

#[test]
fn a_flood_of_syns_is_bounded_and_ends() {
    let mut p = Peer::new();
    for id in 0..5000 {
        p.put(header(Kind::Syn, id * 2, 1, 0), b"");
    }
    let mut answers = 0;
    while let Some((answer, _)) = p.get() {
        answers += usize::from(answer.kind == Kind::State);
    }
    assert_eq!(answers, UTP_UNCONFIRMED_MAX);
    assert_eq!(p.hear(), None);
    p.wait_ms(CONNECT_TIMEOUT.as_millis() as u64);
    assert!(p.t.is_idle() && p.t.deadline().is_none());
}

#[test]
fn a_peer_without_selective_acks_gets_its_lost_packet() {
    let mut p = Peer::new();
    let id = p.connect();
    let (syn, _) = p.get().unwrap();
    p.put(header(Kind::State, syn.connection_id, 500, 1), b"");
    p.t.send(id, vec![1; 2000].into());
    let sent: Vec<u16> = core::iter::from_fn(|| p.get())
        .map(|(h, _)| h.seq)
        .collect();
    assert_eq!(sent, [2, 3, 4, 5]);
    p.wait_ms(20);
    for _ in 0..3 {
        assert_eq!(p.get(), None);
        p.put(header(Kind::State, syn.connection_id, 500, 1), b"");
    }
    assert_eq!(p.get().map(|(h, _)| h.seq), Some(2));
    assert_eq!(p.get(), None);
}

#[test]
fn a_reset_takes_nothing_from_what_has_come_whole() {
    let mut p = Peer::new();
    let id = p.connect();
    let (syn, _) = p.get().unwrap();
    p.put(header(Kind::State, syn.connection_id, 500, 1), b"");
    p.put(header(Kind::Data, syn.connection_id, 500, 1), b"all of it");
    p.put(header(Kind::Fin, syn.connection_id, 501, 1), b"");
    p.put(header(Kind::Reset, syn.connection_id, 502, 1), b"");
    assert_eq!(p.hear(), Some(Heard::Opened(id)));
    assert_eq!(p.hear(), None);
    p.t.send(id, Bytes::from_static(b"nobody reads this"));
    p.t.grant(id, 100);
    let bytes = Bytes::from_static(b"all of it");
    assert_eq!(p.hear(), Some(Heard::Received(id, bytes)));
    let why = Lost::Eof;
    assert_eq!(p.hear(), Some(Heard::Closed(id, why)));
    assert!(p.t.is_idle());
}

#[test]
fn a_reset_in_answer_to_the_fin_alone_is_the_end_we_asked_for() {
    for acked in [1, 2] {
        let mut p = Peer::new();
        let id = p.connect();
        p.t.send(id, Bytes::from_static(b"data"));
        p.t.close(id, CloseHow::Flush);
        let (syn, _) = p.get().unwrap();
        p.put(header(Kind::State, syn.connection_id, 500, 1), b"");
        let kinds: Vec<Kind> = core::iter::from_fn(|| p.get())
            .map(|(h, _)| h.kind)
            .collect();
        assert_eq!(kinds, [Kind::Data, Kind::Fin]);
        p.put(header(Kind::State, syn.connection_id, 500, acked), b"");
        p.put(header(Kind::Reset, syn.connection_id, 500, 3), b"");
        let why = if acked == 2 { Lost::Asked } else { Lost::Reset };
        let last = core::iter::from_fn(|| p.hear()).last();
        assert_eq!(last, Some(Heard::Closed(id, why)));
    }
}

/// Much in little time, over a link that neither loses nor waits.
#[test]
fn two_hundred_mib_arrive_in_full_packets() {
    let mut rng = Rng::from_u64(1);
    let mut ends = [Transport::new(rng.fork()), Transport::new(rng.fork())];
    let at = [1, 2].map(|n| SocketAddr::from(([10, 0, 0, n], 7680)));
    let mut now = Mono::from_us(1);
    let mut flows = [Flows::default(), Flows::default()];
    let id = StreamId::utp(1, false);
    ends[A].connect(now, &mut flows[A], id, at[B]);
    let chunk = Bytes::from(vec![7; 16 * 1024]);
    let total = 200 * MIB;
    let (mut handed, mut sent, mut received) = (0, 0, 0);
    let (mut datagrams, mut buffer) = (0_u64, Vec::new());
    while received < total {
        while handed - sent < MIB && handed < total {
            ends[A].send(id, chunk.clone());
            handed += chunk.len() as u64;
        }
        now = now + Duration::from_micros(500);
        for n in [A, B] {
            ends[n].on_tick(now, &mut flows[n]);
            let mut batch = Vec::new();
            while ends[n]
                .poll_datagram(now, &mut flows[n], &mut buffer)
                .is_some()
            {
                batch.push(Bytes::copy_from_slice(&buffer));
            }
            datagrams += batch.len() as u64;
            for datagram in batch {
                let datagram = (&datagram, Ecn::NotEct);
                ends[1 - n].on_datagram(now, &mut flows[1 - n], at[n], datagram);
            }
            while let Some(input) = ends[n].poll_input() {
                match input {
                    Input::Accepted { stream: id, .. } => ends[n].grant(id, 1 << 20),
                    Input::Received { stream: id, bytes } => {
                        received += bytes.len() as u64;
                        ends[n].grant(id, bytes.len() as u32);
                    }
                    Input::Sent { len, .. } => sent += u64::from(len),
                    _ => {}
                }
            }
        }
    }
    assert_eq!((received, sent), (total, total));
    // Acknowledgements and the search for the largest packet are few.
    let least = total / u64::from(UTP_DATAGRAM_MAX_V4);
    assert!(
        datagrams < least * 5 / 4,
        "{datagrams} datagrams, {least} full ones"
    );
}

#[test]
fn an_opened_window_is_told_until_the_peer_sends() {
    let mut p = Peer::new();
    let id = p.connect();
    let (syn, _) = p.get().unwrap();
    p.put(header(Kind::State, syn.connection_id, 500, 1), b"");
    for seq in 500..532 {
        p.put(header(Kind::Data, syn.connection_id, seq, 1), &[1; 1000]);
    }
    let told = core::iter::from_fn(|| p.get()).last().unwrap().0;
    assert!(told.window_bytes < 1000);
    p.wait_ms(10);
    assert_eq!(p.get(), None);
    p.t.grant(id, 100_000);
    let mut told = 0;
    for _ in 0..100 {
        told += core::iter::from_fn(|| p.get()).count();
        p.wait_ms(100);
    }
    assert_eq!(told, 3);
    p.t.grant(id, 1);
    p.put(header(Kind::Data, syn.connection_id, 532, 1), &[1; 1000]);
    p.wait_ms(10);
    assert_eq!(core::iter::from_fn(|| p.get()).count(), 1);
    p.wait_ms(10_000);
    assert_eq!(p.get(), None);
}
