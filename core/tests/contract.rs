//! The contract of `dovetail_core::machine`, line by line, kept by the simulator.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use core::cell::RefCell;
use core::time::Duration;
use dovetail_core::command::{Command, Reply};
use dovetail_core::content::{Digest, FlatHash};
use dovetail_core::host::HostFacts;
use dovetail_core::ids::{CallId, FileId, OpId, StreamId};
use dovetail_core::machine::{
    CloseHow, DiskDone, DiskErrorKind, DiskOp, Effects, Endpoint, Host, Input, Listener, Lost,
    Machine, OpenHow, Output, Shape,
};
use dovetail_core::sim::toys::{Bulk, Echo, OP_ASKER_TEXT, OpAsker, Pinger, Reader, Shaped};
use dovetail_core::sim::{ClockSpec, DiskSpec, HostId, HostSpec, Kill, LinkSpec, World};
use dovetail_core::time::{Deadline, Mono, Now};
use std::rc::Rc;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn to(host: Host) -> Endpoint {
    Endpoint {
        host,
        port: 7680,
        tls: None,
    }
}

fn addr(n: u8) -> Host {
    Host::Addr([10, 0, 0, n].into())
}

fn spec(n: u8) -> HostSpec {
    HostSpec::at(&format!("10.0.0.{n}"))
}

fn serving(n: u8) -> HostSpec {
    spec(n).listen(Listener::Peers, 7680)
}

/// Does what the test says, from outside, and writes down what it is told.
#[derive(Default)]
struct Probe {
    fx: Effects,
    seen: Vec<(Mono, Input)>,
    deadline: Option<Mono>,
}

impl Machine for Probe {
    fn handle(&mut self, now: Now, input: Input) {
        if matches!(input, Input::Tick) && self.deadline.is_some_and(|at| at <= now.mono) {
            self.deadline = None;
        }
        self.seen.push((now.mono, input));
    }

    fn poll(&mut self) -> Option<Output> {
        self.fx.poll()
    }

    fn deadline(&self) -> Option<Deadline> {
        Some(Deadline::new(self.deadline?, "the test's"))
    }
}

fn seen(world: &World, host: HostId) -> Vec<Input> {
    let probe = world.machine::<Probe>(host);
    probe.seen.iter().map(|(_, input)| input.clone()).collect()
}

fn act<R>(world: &mut World, host: HostId, act: impl FnOnce(&mut Effects) -> R) -> R {
    world.with(host, |p: &mut Probe| act(&mut p.fx))
}

fn closes(inputs: &[Input]) -> Vec<Lost> {
    let closed = inputs.iter().filter_map(|input| match input {
        Input::Closed { why, .. } => Some(why.clone()),
        _ => None,
    });
    closed.collect()
}

/// Writes down in which order its parts are called.
struct Diary {
    lines: Rc<RefCell<Vec<&'static str>>>,
    outputs: u32,
    datagrams: u32,
    at: Mono,
}

impl Machine for Diary {
    fn handle(&mut self, _now: Now, _input: Input) {
        self.lines.borrow_mut().push("handle");
        self.outputs = 2;
        self.datagrams = 1;
        self.at = Mono::NEVER;
    }

    fn poll(&mut self) -> Option<Output> {
        self.lines.borrow_mut().push("poll");
        self.outputs = self.outputs.checked_sub(1)?;
        Some(Output::Grant {
            stream: StreamId(99),
            bytes: 1,
        })
    }

    fn poll_datagram(
        &mut self,
        _now: Now,
        buf: &mut Vec<u8>,
    ) -> Option<dovetail_core::machine::Datagram> {
        assert!(buf.is_empty(), "the buffer is cleared");
        self.lines.borrow_mut().push("datagram");
        self.datagrams = self.datagrams.checked_sub(1)?;
        buf.push(1);
        let to = "10.0.0.9:7680".parse().unwrap();
        let segment_bytes = buf.len();
        let socket = dovetail_core::ids::SocketId::default();
        Some(dovetail_core::machine::Datagram {
            socket,
            to,
            segment_bytes,
            ecn: dovetail_core::machine::Ecn::NotEct,
        })
    }

    fn deadline(&self) -> Option<Deadline> {
        self.lines.borrow_mut().push("deadline");
        Some(Deadline::new(self.at, "diary"))
    }
}

#[test]
fn line_1_the_loop_drains_then_asks_the_deadline_then_waits() {
    let lines = Rc::new(RefCell::new(Vec::new()));
    let diary = Diary {
        lines: Rc::clone(&lines),
        outputs: 1,
        datagrams: 0,
        at: Mono::from_us(500),
    };
    let mut world = World::new(1);
    world.host("diary", diary, spec(1));
    world.run_for(SECOND);
    let mut lines = lines.borrow().clone();
    lines.dedup_by(|a, b| a == b && *a == "deadline");
    let first = ["poll", "poll", "datagram", "deadline"];
    let then = [
        "handle", "poll", "poll", "poll", "datagram", "datagram", "deadline",
    ];
    assert_eq!(lines, [&first[..], &then[..]].concat());
}

#[test]
fn line_1_datagrams_are_asked_for_only_while_the_socket_is_writable() {
    let mut world = World::new(1);
    world.net.datagram_buffer = 20;
    let slow = LinkSpec::rate(1000);
    let to = "10.0.0.2:7680".parse().unwrap();
    let all_at_once = Pinger::new(Some(to), 100, Duration::ZERO);
    let at = |n| spec(n).listen(Listener::Peers, 7680);
    let pinger = world.host("pinger", all_at_once, at(1).links(slow, slow));
    world.host("ponger", Pinger::new(None, 0, SECOND), at(2));
    // 45 bytes with headers a datagram: 22 a second leave; no more are taken than fit the buffer.
    world.run_for(SECOND);
    let sent = world.traffic(pinger).0.packets;
    assert!((20..=24).contains(&sent), "{sent}");
    world.run_for(SECOND * 10);
    assert_eq!(world.machine::<Pinger>(pinger).returned.len(), 100);
}

#[test]
fn line_2_a_tick_comes_at_the_deadline_and_the_clock_never_goes_back() {
    for drift_ppm in [-200, 0, 200] {
        let mut world = World::new(1);
        let clock = ClockSpec {
            drift_ppm,
            ..ClockSpec::default()
        };
        let host = world.host("probe", Probe::default(), spec(1).clock(clock));
        for us in [1, 777, 1_000_003, 3_600_000_000] {
            world.with(host, |p: &mut Probe| p.deadline = Some(Mono::from_us(us)));
            world
                .run_until(
                    |w| w.machine::<Probe>(host).deadline.is_none(),
                    SECOND * 4000,
                )
                .unwrap_or_else(|e| panic!("{e}"));
            let probe = world.machine::<Probe>(host);
            assert_eq!(probe.seen.last().unwrap().0.as_us(), us, "exactly then");
        }
        let probe = world.machine::<Probe>(host);
        assert_eq!(probe.seen.len(), 4, "no tick without need");
        assert!(probe.seen.is_sorted_by_key(|(at, _)| *at));
    }
}

#[test]
#[should_panic(expected = "livelock: restless")]
fn line_2_a_deadline_that_stays_in_the_past_is_found() {
    struct Restless;
    impl Machine for Restless {
        fn handle(&mut self, _now: Now, _input: Input) {}
        fn poll(&mut self) -> Option<Output> {
            None
        }
        fn deadline(&self) -> Option<Deadline> {
            Some(Deadline::new(Mono::from_us(5), "never done"))
        }
    }
    let mut world = World::new(1);
    world.host("restless", Restless, spec(1));
    world.run_for(SECOND);
}

#[test]
fn line_3_reads_are_by_credit() {
    let mut world = World::new(1);
    let content = world.content("file", 5_000_000);
    world.host("bulk", Bulk::new(content.clone(), 70_000), serving(1));
    let reader = Reader::new(to(addr(1)), Bytes::new(), 10_000, MS * 10);
    let reader = world.host("reader", reader, spec(2));
    for _ in 0..100 {
        world.run_for(MS * 10);
        let r = world.machine::<Reader>(reader);
        assert!(r.received <= r.granted && r.received + 10_000 >= r.granted);
    }
    // Unread bytes stop the sender at what the two kernels hold.
    let mut world = World::new(1);
    world.net.receive_buffer = 100_000;
    world.net.send_buffer_max = 100_000;
    let bulk = world.host("bulk", Bulk::new(content, 10_000), serving(1));
    let unread = Reader::new(to(addr(1)), Bytes::new(), 1, SECOND * 1000);
    world.host("reader", unread, spec(2));
    world.run_for(SECOND * 10);
    let sent = world.machine::<Bulk>(bulk).sent;
    assert!((100_000..=200_001).contains(&sent), "{sent}");
}

#[test]
fn line_4_writes_are_by_completion_in_order() {
    let mut world = World::new(1);
    world.net.send_buffer_max = 64 * 1024;
    let link = LinkSpec::rate(100_000);
    world.host("echo", Echo::default(), serving(1).links(link, link));
    let probe = world.host("probe", Probe::default(), spec(2).links(link, link));
    let lens = [1, 50_000, 3, 100_000, 7, 64_000];
    let stream = act(&mut world, probe, |fx| {
        let stream = fx.connect(to(addr(1)));
        for len in lens {
            fx.send(stream, Bytes::from(vec![5; len]));
        }
        fx.grant(stream, 1 << 20);
        stream
    });
    let ends: Vec<u64> = lens
        .iter()
        .scan(0, |sum, len| {
            *sum += *len as u64;
            Some(*sum)
        })
        .collect();
    world.run_for(SECOND * 20);
    let (mut sum, mut answers) = (0, 0);
    for (at, input) in &world.machine::<Probe>(probe).seen {
        if let Input::Sent { stream: s, len } = input {
            assert_eq!(*s, stream);
            sum += u64::from(*len);
            answers += 1;
            assert!(ends.contains(&sum), "whole sends only");
            if sum > 150_000 {
                assert!(
                    *at > Mono::from_us(500_000),
                    "not before the transport took it"
                );
            }
        }
    }
    assert_eq!(Some(&sum), ends.last());
    assert!(answers > 1);
}

#[test]
fn line_4_a_part_of_a_file_is_sent_in_its_place() {
    let mut world = World::new(1);
    let link = LinkSpec::rate(100_000);
    world.host("echo", Echo::default(), serving(1).links(link, link));
    let probe = world.host("probe", Probe::default(), spec(2).links(link, link));
    let content = world.content("file", 50_000);
    world.disk(probe).put("/f", content.clone());
    let file = act(&mut world, probe, |fx| {
        let (file, path, how) = (fx.file(), "/f".into(), OpenHow::Read);
        fx.disk(DiskOp::Open { file, path, how });
        file
    });
    world.run_for(SECOND);
    let stream = act(&mut world, probe, |fx| {
        let stream = fx.connect(to(addr(1)));
        fx.grant(stream, 1 << 20);
        fx.send(stream, Bytes::from_static(b"before"));
        fx.send_file(stream, file, 10_000, 30_000);
        fx.send(stream, Bytes::from_static(b"after"));
        fx.disk(DiskOp::Close { file });
        stream
    });
    world.run_for(SECOND * 5);
    let (mut sent, mut back) = (0, Vec::new());
    for input in seen(&world, probe) {
        match input {
            Input::Sent { len, .. } => sent += len,
            Input::Received { bytes, .. } => back.extend_from_slice(&bytes),
            _ => {}
        }
    }
    let expected = [b"before", &content[10_000..40_000], b"after"].concat();
    assert_eq!(sent as usize, expected.len());
    assert!(back == expected);
    // The file is closed: what is sent of it now cannot be had.
    act(&mut world, probe, |fx| fx.send_file(stream, file, 0, 1));
    world.run_for(SECOND);
    let closes = closes(&seen(&world, probe));
    assert!(matches!(closes[..], [Lost::File(_)]), "{closes:?}");
}

#[test]
fn line_5_a_connect_is_answered_once_whatever_happens() {
    let mut world = World::new(1);
    let echo = world.host("echo", Echo::default(), serving(1));
    let cut = world.host("cut", Echo::default(), serving(3));
    let dark = world.host("dark", Echo::default(), serving(4));
    world.name("echo.test", dark);
    world.name("echo.test", echo);
    world.fail_tls("bad.test", "unknown issuer");
    let probe = world.host("probe", Probe::default(), spec(2));
    world.run_for(MS);
    world.partition(cut, probe);
    world.kill(dark, Kill::Power);
    let tls = |name: &str| Endpoint {
        tls: Some(name.into()),
        ..to(addr(1))
    };
    let closed_port = Endpoint {
        port: 1,
        ..to(addr(1))
    };
    let cases = [
        (to(addr(1)), Ok(0)),
        (tls("good.test"), Ok(0)),
        (tls("bad.test"), Err(Lost::Tls("unknown issuer".into()))),
        (closed_port, Err(Lost::Refused)),
        (to(addr(3)), Err(Lost::Unreachable)),
        (to(addr(99)), Err(Lost::Unreachable)),
        (to(addr(4)), Err(Lost::TimedOut)),
        (
            to(Host::Name("nowhere.test".into())),
            Err(Lost::NameNotFound),
        ),
        // Its first address is dark, its second answers.
        (to(Host::Name("echo.test".into())), Ok(0)),
    ];
    for (endpoint, expected) in cases {
        world.with(probe, |p: &mut Probe| p.seen.clear());
        let stream = act(&mut world, probe, |fx| fx.connect(endpoint.clone()));
        world.run_for(SECOND * 40);
        let got = seen(&world, probe);
        assert_eq!(got.len(), 1, "{endpoint:?}: {got:?}");
        match (&got[0], expected) {
            (Input::Opened { stream: s, to }, Ok(_)) => {
                assert!(*s == stream && to.ip().to_string() == "10.0.0.1");
            }
            (Input::Closed { stream: s, why }, Err(expected)) => {
                assert!(*s == stream && *why == expected, "{why:?}");
            }
            other => panic!("{endpoint:?}: {other:?}"),
        }
    }
}

#[test]
fn line_5_start_tls_is_answered_once() {
    let mut world = World::new(1);
    world.host("echo", Echo::default(), serving(1));
    let probe = world.host("probe", Probe::default(), spec(2));
    let stream = act(&mut world, probe, |fx| fx.connect(to(addr(1))));
    world.run_for(SECOND);
    act(&mut world, probe, |fx| {
        fx.start_tls(stream, "origin.test".into())
    });
    world.run_for(SECOND);
    let got = seen(&world, probe);
    let secured = |i: &&Input| matches!(i, Input::Secured { stream: s } if *s == stream);
    assert_eq!((got.len(), got.iter().filter(secured).count()), (2, 1));
}

#[test]
fn line_5_disk_and_hash_work_is_answered_once_and_says_what_a_disk_says() {
    let mut world = World::new(1);
    let asker = world.host("asker", OpAsker::new("/home"), spec(1));
    let done = |w: &World| w.machine::<OpAsker>(asker).is_done();
    world
        .run_until(done, SECOND * 10)
        .unwrap_or_else(|e| panic!("{e}"));
    world.run_for(SECOND * 10);
    let asker_now = world.machine::<OpAsker>(asker);
    let whole = std::str::from_utf8(OP_ASKER_TEXT).unwrap();
    for (step, expected) in [
        ("open missing", "NotFound"),
        ("create", "opened 0"),
        ("allocate", "ok"),
        ("write the end", "ok"),
        ("write the start", "ok"),
        ("sync", "ok"),
        ("read", whole),
        ("read past the end", "Short"),
        ("close", "ok"),
        ("create again", "Exists"),
        ("stat", "found 18"),
        ("stat the folder", "folder"),
        ("replace", "ok"),
        ("load", "one"),
        ("rename onto", "Exists"),
        ("rename over", "ok"),
        ("stat the old name", "NotFound"),
        ("load the new", whole),
        ("list nothing", ""),
        ("keep", "ok"),
        ("list", "k"),
        ("load the kept", whole),
        ("keep nothing", "NotFound"),
        ("remove", "ok"),
        ("remove again", "NotFound"),
        ("hash", "ok"),
    ] {
        assert_eq!(asker_now.answer(step), expected, "{step}");
    }
    assert_eq!((asker_now.answers.len(), asker_now.strays), (26, 0));
    let hashed = asker_now.hashed.clone().unwrap();
    let digest = Digest::of(OP_ASKER_TEXT);
    assert_eq!(hashed.leaves, [digest]);
    assert_eq!(hashed.flat.map(FlatHash::digest), Some(digest));
    assert_eq!(world.outstanding(asker), (0, 0));
}

#[test]
fn line_5_failing_disks_answer_too() {
    let mut world = World::new(1);
    let probe = world.host("probe", Probe::default(), spec(1));
    let file = FileId(1);
    let open = DiskOp::Open {
        file,
        path: "/a".into(),
        how: OpenHow::ReadWrite,
    };
    let write = |len| DiskOp::Write {
        file,
        offset: 0,
        chunks: vec![Bytes::from(vec![1; len])],
    };
    let run = |world: &mut World, op: DiskOp| {
        world.with(probe, |p: &mut Probe| p.seen.clear());
        let id = act(world, probe, |fx| fx.disk(op));
        world.run_for(SECOND);
        match &seen(world, probe)[..] {
            [Input::Disk { op, done }] if *op == id => done.clone().map_err(|e| e.kind),
            other => panic!("{other:?}"),
        }
    };
    assert!(run(&mut world, write(1)).is_err(), "not open yet");
    run(&mut world, open.clone()).unwrap();
    world.disk(probe).faults.full_after = Some(100);
    assert_eq!(run(&mut world, write(100)), Ok(DiskDone::Done));
    assert_eq!(run(&mut world, write(101)), Err(DiskErrorKind::Full));
    world.disk(probe).faults.read_only = true;
    assert_eq!(run(&mut world, write(1)), Err(DiskErrorKind::ReadOnly));
    world.disk(probe).faults = Default::default();
    world.disk(probe).faults.deny.insert("/a".into());
    assert_eq!(run(&mut world, open), Err(DiskErrorKind::Denied));
    world.disk(probe).faults.corrupt_reads_ppm = 1_000_000;
    let read = DiskOp::Read {
        file,
        offset: 0,
        len: 100,
    };
    let Ok(DiskDone::Bytes(bytes)) = run(&mut world, read) else {
        panic!("bytes");
    };
    assert_eq!(bytes.iter().filter(|b| **b != 1).count(), 1);
}

#[test]
fn line_5_operations_overtake_each_other() {
    let mut world = World::new(3);
    let disk = DiskSpec {
        jitter: MS * 10,
        ..DiskSpec::default()
    };
    let probe = world.host("probe", Probe::default(), spec(1).disk(disk));
    let ids: Vec<OpId> = act(&mut world, probe, |fx| {
        let stat = || DiskOp::Stat { path: "/x".into() };
        (0..50).map(|_| fx.disk(stat())).collect()
    });
    world.run_for(SECOND);
    let inputs = seen(&world, probe);
    let mut answered: Vec<OpId> = inputs
        .iter()
        .filter_map(|i| match i {
            Input::Disk { op, .. } => Some(*op),
            _ => None,
        })
        .collect();
    assert!(!answered.is_sorted());
    answered.sort_unstable();
    assert_eq!(answered, ids);
}

#[test]
fn line_6_closed_comes_once_and_end_of_stream_after_every_byte() {
    let mut world = World::new(1);
    let content = world.content("file", 300_000);
    let bulk = world.host("bulk", Bulk::new(content, 10_000), serving(1));
    let probe = world.host("probe", Probe::default(), spec(2));
    let stream = act(&mut world, probe, |fx| fx.connect(to(addr(1))));
    world.run_for(SECOND);
    assert_eq!(world.machine::<Bulk>(bulk).closed.len(), 1, "all has left");
    let mut got = 0;
    while got < 300_000 {
        assert!(closes(&seen(&world, probe)).is_empty());
        act(&mut world, probe, |fx| fx.grant(stream, 50_000));
        world.run_for(SECOND);
        let inputs = seen(&world, probe);
        let lens = inputs.iter().map(|i| match i {
            Input::Received { bytes, .. } => bytes.len(),
            _ => 0,
        });
        got = lens.sum();
    }
    assert_eq!(closes(&seen(&world, probe)), [Lost::Eof]);
    assert!(matches!(
        seen(&world, probe).last(),
        Some(Input::Closed { .. })
    ));
    assert_eq!(world.outstanding(probe).0, 0);
}

#[test]
fn line_6_closed_answers_the_machines_own_close() {
    for how in [CloseHow::Flush, CloseHow::Abort] {
        let mut world = World::new(1);
        let echo = world.host("echo", Echo::default(), serving(1));
        let probe = world.host("probe", Probe::default(), spec(2));
        let stream = act(&mut world, probe, |fx| fx.connect(to(addr(1))));
        world.run_for(SECOND);
        act(&mut world, probe, |fx| {
            fx.send(stream, Bytes::from_static(b"last words"));
            fx.close(stream, how);
        });
        world.run_for(SECOND);
        let inputs = seen(&world, probe);
        assert_eq!(closes(&inputs), [Lost::Asked]);
        assert!(matches!(inputs.last(), Some(Input::Closed { .. })));
        let closed = world.machine::<Echo>(echo).closed.clone();
        let expected = match how {
            CloseHow::Flush => Lost::Eof,
            CloseHow::Abort => Lost::Reset,
        };
        assert_eq!(closed.len(), 1);
        assert_eq!(closed[0].1, expected);
    }
}

#[test]
fn line_6_closing_while_connecting_is_answered_by_one_closed() {
    let mut world = World::new(1);
    let echo = world.host("echo", Echo::default(), serving(1));
    let probe = world.host("probe", Probe::default(), spec(2));
    act(&mut world, probe, |fx| {
        let stream = fx.connect(to(addr(1)));
        fx.send(stream, Bytes::from_static(b"x"));
        fx.close(stream, CloseHow::Flush);
    });
    world.run_for(SECOND * 60);
    assert_eq!(closes(&seen(&world, probe)), [Lost::Asked]);
    assert_eq!(seen(&world, probe).len(), 1);
    assert!(world.machine::<Echo>(echo).open.is_empty());
}

#[test]
fn line_6_both_sides_closing_at_once_hear_it_once_each() {
    for (a, b) in [
        (CloseHow::Flush, CloseHow::Flush),
        (CloseHow::Flush, CloseHow::Abort),
        (CloseHow::Abort, CloseHow::Abort),
    ] {
        let mut world = World::new(1);
        let left = world.host("left", Probe::default(), serving(1));
        let right = world.host("right", Probe::default(), spec(2));
        let stream = act(&mut world, right, |fx| fx.connect(to(addr(1))));
        world.run_for(SECOND);
        let accepted = seen(&world, left).iter().find_map(|i| match i {
            Input::Accepted { stream, .. } => Some(*stream),
            _ => None,
        });
        let accepted = accepted.unwrap();
        assert!(accepted.is_accepted() && !stream.is_accepted());
        act(&mut world, left, |fx| fx.close(accepted, a));
        act(&mut world, right, |fx| fx.close(stream, b));
        world.run_for(SECOND * 100);
        for host in [left, right] {
            assert_eq!(closes(&seen(&world, host)).len(), 1, "{a:?} {b:?}");
            assert_eq!(world.outstanding(host).0, 0);
        }
    }
}

#[test]
fn line_7_outputs_for_unknown_streams_do_nothing() {
    let mut world = World::new(1);
    let probe = world.host("probe", Probe::default(), spec(2));
    act(&mut world, probe, |fx| {
        let ghost = StreamId(4711);
        fx.grant(ghost, 5);
        fx.send(ghost, Bytes::from_static(b"boo"));
        fx.start_tls(ghost, "x".into());
        fx.close(ghost, CloseHow::Abort);
    });
    world.run_for(SECOND * 100);
    assert!(seen(&world, probe).is_empty());
}

#[test]
fn line_7_toys_ignore_late_and_unknown_ids() {
    let mut asker = OpAsker::new("/home");
    let op = OpId(999);
    let done = Ok(DiskDone::Done);
    asker.handle(Now::default(), Input::Disk { op, done });
    assert_eq!((asker.strays, asker.answers.len()), (1, 0));
    let mut echo = Echo::default();
    let (stream, why) = (StreamId(3), Lost::Eof);
    echo.handle(Now::default(), Input::Closed { stream, why });
    echo.handle(Now::default(), Input::Tick);
    assert!(echo.open.is_empty());
}

#[test]
fn line_8_what_is_handed_to_a_stream_is_bounded() {
    let mut world = World::new(1);
    let content = world.content("file", 20_000_000);
    let bulk = Bulk::new(content, 16 * 1024);
    world.host("bulk", bulk, serving(1));
    let reader = Reader::new(to(addr(1)), Bytes::new(), 1, SECOND * 1000);
    world.host("reader", reader, spec(2));
    world.run_for(SECOND * 10);
    let bulk = world.machine::<Bulk>(world.find("bulk").unwrap());
    let bound = dovetail_core::limits::SEND_PER_STREAM + 16 * 1024;
    assert!(bulk.unsent_most > 0 && bulk.unsent_most <= bound);
}

#[test]
fn line_9_same_seed_and_inputs_same_outputs() {
    let digest = |seed| {
        let mut world = World::new(seed);
        let link = LinkSpec::rate(1_000_000).jitter(MS).loss_ppm(10_000);
        world.host("echo", Echo::default(), serving(1).links(link, link));
        let say = Bytes::from(vec![3; 500_000]);
        let reader = Reader::new(to(addr(1)), say, 100_000, MS * 7);
        world.host("reader", reader, spec(2).links(link, link));
        world.run_for(SECOND * 5);
        world.digest()
    };
    assert_eq!(digest(1), digest(1));
    assert_ne!(digest(1), digest(2));
}

#[test]
fn line_10_shapes_are_kept_and_paths_told() {
    let mut world = World::new(1);
    let content = world.content("file", 5_000_000);
    let shape = Shape {
        send_window_bytes: Some(20_000),
        report_every: Some(MS * 2),
        ..Shape::default()
    };
    let shaped = Shaped::new(content, shape);
    let far = LinkSpec::rate(12_500_000).delay(MS * 5);
    let shaped = world.host("shaped", shaped, serving(1).links(far, far));
    let reader = world.host("reader", Reader::fast(to(addr(1))), spec(2));
    world.run_for(SECOND);
    let from = world.machine::<Reader>(reader).received;
    world.run_for(SECOND);
    // 20 kB in a round trip of a little more than ten milliseconds.
    let rate = world.machine::<Reader>(reader).received - from;
    assert!((1_600_000..=2_000_000).contains(&rate), "{rate}");
    let heard = &world.machine::<Shaped>(shaped).heard;
    assert!((300..=1100).contains(&heard.len()), "{}", heard.len());
    assert!(heard.iter().all(|facts| facts.unacked_bytes <= 20_000));
    assert!(heard.iter().skip(5).all(|facts| facts.is_held_back));
    assert!(heard.last().unwrap().rtt_us.abs_diff(10_400) < 1000);
    world.run_for(SECOND * 9);
    assert!(world.machine::<Shaped>(shaped).is_done());
    assert_eq!(world.machine::<Reader>(reader).received, 5_000_000);

    // The reader bounds the sender, and opens again.
    let mut world = World::new(1);
    let bytes = world.content("file", 50_000_000);
    world.host(
        "bulk",
        Bulk::new(bytes, 64 * 1024),
        serving(1).links(far, far),
    );
    let probe = world.host("probe", Probe::default(), spec(2));
    let stream = act(&mut world, probe, |fx| {
        let stream = fx.connect(to(addr(1)));
        fx.grant(stream, 1 << 30);
        stream
    });
    let bounds = |window| Shape {
        receive_window_bytes: window,
        ..Shape::default()
    };
    let mut rate = |window| {
        act(&mut world, probe, |fx| fx.shape(stream, bounds(window)));
        world.run_for(SECOND);
        let before = world.traffic(probe).1.bytes;
        world.run_for(SECOND);
        world.traffic(probe).1.bytes - before
    };
    let bounded = rate(Some(40_000));
    assert!((2_500_000..=4_000_000).contains(&bounded), "{bounded}");
    assert!(
        rate(None) > 8_000_000,
        "a bound that is not said does not hold"
    );
}

#[test]
fn commands_are_answered_by_their_call() {
    let mut world = World::new(1);
    let echo = world.host("echo", Echo::default(), spec(1));
    let first = world.command(echo, Command::Shutdown);
    let second = world.command_in(echo, SECOND, Command::Shutdown);
    world.run_for(MS);
    assert!(matches!(world.reply(first), Some(Reply::Stopped)));
    assert!(world.reply(second).is_none());
    world.run_for(SECOND);
    assert!(world.reply(second).is_some() && second.id == CallId(2));
}

/// Keeps what it is told of its host's memory, and when.
#[derive(Default)]
struct Knowing {
    fx: Effects,
    told: Vec<(Mono, Option<u64>)>,
}

impl Machine for Knowing {
    fn handle(&mut self, now: Now, input: Input) {
        match input {
            Input::Host(facts) => self.told.push((now.mono, facts.ram_bytes)),
            Input::Command { call, .. } => self.fx.reply(call, Reply::Stopped),
            _ => {}
        }
    }

    fn poll(&mut self) -> Option<Output> {
        self.fx.poll()
    }

    fn deadline(&self) -> Option<Deadline> {
        None
    }
}

#[test]
fn facts_of_a_host_are_told_at_their_time() {
    let facts = |ram_bytes| HostFacts {
        ram_bytes: Some(ram_bytes),
        ..HostFacts::default()
    };
    let run = |second| {
        let mut world = World::new(1);
        let host = world.host("host", Knowing::default(), spec(1));
        world.host_facts(host, facts(1));
        world.run_for(SECOND);
        world.host_facts(host, facts(second));
        world.kill(host, Kill::Process);
        world.restart(host, Knowing::default());
        world.run_for(SECOND);
        world.host_facts(host, facts(second));
        world.run_for(MS);
        let told = world.machine::<Knowing>(host).told.clone();
        // Facts for an earlier life are void; clocks begin with a life.
        assert_eq!(told, [(Mono::ZERO + SECOND, Some(second))]);
        world.digest()
    };
    assert_eq!(run(2), run(2));
    assert_ne!(run(2), run(3));
}
