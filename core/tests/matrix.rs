//! Every kind of origin with every kind of peer, and every kind of origin alone.
//!
//! Each download ends right if one of its sources can deliver; if none can it fails with a clear message,
//! keeps what was good, and a later run with a good source goes on from there. Never a bad byte is kept.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod common;

use bytes::Bytes;
use common::tricky::{Trick, Tricky};
use common::{FILE, MIB, URL, metainfo};
use core::ops::Range;
use core::time::Duration;
use dovetail_core::agent::{Agent, AgentConfig};
use dovetail_core::command::{
    Command, Event, GetRequest, Level, Reply, Report, ShareRequest, Verified,
};
use dovetail_core::content::Metainfo;
use dovetail_core::failure::{Failure, FailureKind};
use dovetail_core::machine::Listener;
use dovetail_core::sim::origin::{Fault, FaultyOrigin, When};
use dovetail_core::sim::{Call, HostId, HostSpec, Kill, LinkSpec, World};

const LENGTH: u64 = 8 * MIB + 4321;
const RATE: u64 = 4_000_000;
const PEER: &str = "10.0.0.3:7680";
const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Ok,
    Slow,
    Stalls,
    Lies,
    Truncates,
    Vanishes,
    ReturnsLate,
}

impl How {
    /// Whether all of the file can be had from it in the end.
    fn delivers(self) -> bool {
        !matches!(self, Self::Lies | Self::Vanishes)
    }

    fn origin(self, content: &Bytes) -> FaultyOrigin {
        let rate = if self == Self::Slow { 150_000 } else { RATE };
        let origin = FaultyOrigin::new(content.clone()).rate(rate);
        let fault = match self {
            Self::Stalls => Fault::Stall {
                after: MIB,
                span: None,
            },
            Self::Lies => Fault::Lie { file: 0..LENGTH },
            Self::Truncates => Fault::Truncate { after: MIB },
            _ => return origin,
        };
        origin.fault(When::Always, fault)
    }

    fn trick(self) -> Trick {
        match self {
            Self::Stalls => Trick::StallAfter(MIB),
            Self::Lies => Trick::Lie,
            Self::Truncates => Trick::CutAfter(MIB),
            _ => Trick::None,
        }
    }
}

/// A device that downloads, an origin, a peer that has the file.
struct Scene {
    world: World,
    content: Bytes,
    metainfo: Metainfo,
    device: HostId,
    origin: HostId,
    peer: HostId,
}

impl Scene {
    fn new(seed: u64, origin: How, peer: How) -> Self {
        let mut world = World::new(seed);
        let content = world.content("image.bin", LENGTH as usize);
        Self::with(world, &content, origin.origin(&content), peer)
    }

    fn with(mut world: World, content: &Bytes, origin: FaultyOrigin, peer: How) -> Self {
        let spec = HostSpec::at("10.0.0.1").listen(Listener::Http, 80);
        let origin = world.host("origin", origin, spec);
        world.name("origin", origin);
        let config = AgentConfig::default();
        let device = Agent::new(config, world.seed_for("device")).unwrap();
        let device = world.host("device", device, HostSpec::at("10.0.0.2"));
        let up = if peer == How::Slow { 150_000 } else { RATE };
        let spec = HostSpec::at("10.0.0.3")
            .listen(Listener::Peers, 7680)
            .links(LinkSpec::rate(up), LinkSpec::LAN);
        let tricky = sharing(&world, peer.trick());
        let host = world.host("peer", tricky, spec);
        let metainfo = metainfo("image.bin", content, &[URL]);
        let content = content.clone();
        let mut scene = Self {
            world,
            content,
            metainfo,
            device,
            origin,
            peer: host,
        };
        scene.share();
        scene
    }

    /// The peer has the file and offers it.
    fn share(&mut self) {
        self.world.disk(self.peer).put(FILE, self.content.clone());
        let share = ShareRequest {
            metainfo: self.metainfo.encode().into(),
            path: FILE.into(),
        };
        let call = self.world.command(self.peer, Command::Share(share));
        let shared = |w: &World| matches!(w.reply(call), Some(Reply::Shared(Ok(()))));
        self.world
            .run_until(shared, MINUTE)
            .expect("the peer shares");
    }

    fn get(&mut self) -> Call {
        let request = GetRequest {
            metainfo: Some(self.metainfo.encode().into()),
            output: FILE.into(),
            peers: vec![PEER.parse().unwrap()],
            ..GetRequest::default()
        };
        self.world.command(self.device, Command::Get(request))
    }

    /// Whichever goes away goes at 1.1 s; what returns, 20 s after.
    fn let_go(&mut self, origin: How, peer: How) {
        self.world.run_for(MS * 1100);
        let gone = |how| matches!(how, How::Vanishes | How::ReturnsLate);
        for (host, how) in [(self.origin, origin), (self.peer, peer)] {
            if gone(how) {
                self.world.kill(host, Kill::Power);
            }
        }
        if [origin, peer].contains(&How::ReturnsLate) {
            self.world.run_for(MS * 20_000);
        }
        if origin == How::ReturnsLate {
            self.world
                .restart(self.origin, origin.origin(&self.content));
        }
        if peer == How::ReturnsLate {
            let again = sharing(&self.world, Trick::None);
            self.world.restart(self.peer, again);
            self.share();
        }
    }

    fn result(&mut self, call: Call) -> Result<Report, Failure> {
        let answered = self
            .world
            .run_until(|w| w.reply(call).is_some(), MINUTE * 20);
        if let Err(stuck) = answered {
            self.print_log();
            panic!("{stuck}");
        }
        match self.world.reply(call) {
            Some(Reply::Got(result)) => result.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn logs(&self) -> Vec<(Level, String)> {
        let events = self.world.events(self.device).iter();
        let logs = events.filter_map(|event| match event {
            Event::Log { level, text } => Some((*level, text.clone())),
            _ => None,
        });
        logs.collect()
    }

    fn says(&self, what: &str) -> bool {
        self.logs().iter().any(|(_, text)| text.contains(what))
    }

    fn print_log(&self) {
        for (level, text) in self.logs() {
            println!("    {level:?} {text}");
        }
    }

    /// The output is right; every byte that came down the line is accounted for.
    fn check_good(&mut self, report: &Report, wasted: Range<u64>) {
        let disk = self.world.disk(self.device);
        assert!(disk.holds(FILE, &self.content), "a bad byte was kept");
        let paths: Vec<&str> = disk.paths().collect();
        assert_eq!(paths, [FILE], "nothing else stays");
        assert_eq!(report.received.total() + report.resumed, LENGTH);
        assert!(wasted.contains(&report.wasted), "wasted {}", report.wasted);
    }

    fn received_by_line(&self) -> u64 {
        self.world.traffic(self.device).1.bytes
    }
}

fn sharing(world: &World, trick: Trick) -> Tricky {
    let config = AgentConfig {
        share: true,
        ..AgentConfig::default()
    };
    Tricky::new(Agent::new(config, world.seed_for("peer")).unwrap(), trick)
}

/// Most bytes a cell may throw away.
const WASTED_MAX: u64 = 8 * MIB;

fn cell(origin: How, peer: How) {
    let mut scene = Scene::new(1, origin, peer);
    let begun = scene.received_by_line();
    let call = scene.get();
    scene.let_go(origin, peer);
    let result = scene.result(call);
    let came = scene.received_by_line() - begun;
    println!(
        "{origin:?} origin, {peer:?} peer: {result:?} after {:?}",
        scene.world.now()
    );
    if peer == How::Lies {
        let named = format!("peer {PEER} sent bytes that do not match");
        assert!(scene.says(&named), "the liar is named");
    }
    if origin.delivers() || peer.delivers() {
        let report = result.unwrap_or_else(|failure| {
            scene.print_log();
            panic!("{failure}")
        });
        scene.check_good(&report, 0..WASTED_MAX);
        assert_eq!(report.verified, Verified::Merkle);
        let told = report.received.total() + report.wasted;
        // What was under way when a source went away or was left is in neither.
        let overhead = 2 * MIB + came / 20;
        assert!(
            told <= came && came <= told + overhead,
            "{told} told of {came}"
        );
        return;
    }
    let failure = result.expect_err("nobody could deliver");
    let kinds = [FailureKind::Unavailable, FailureKind::Mismatch];
    assert!(kinds.contains(&failure.kind), "{failure:?}");
    assert!(!scene.world.disk(scene.device).exists(FILE));
    // A good origin at last: what was good is kept.
    if scene.world.is_up(scene.origin) {
        scene.world.with(scene.origin, FaultyOrigin::clear_faults);
    } else {
        let good = How::Ok.origin(&scene.content);
        scene.world.restart(scene.origin, good);
    }
    let call = scene.get();
    let report = scene.result(call).expect("the origin is good now");
    scene.check_good(&report, 0..WASTED_MAX);
    // (Beside a liar the origin may be gone before a whole piece was good.)
    if [origin, peer].contains(&How::Vanishes) && ![origin, peer].contains(&How::Lies) {
        assert!(report.resumed > 0, "what was good is kept");
    }
}

/// A test for each cell.
macro_rules! rows {
    ($($row:ident $origin:ident),*) => {
        $(mod $row {
            use super::{How, cell};

            rows!(@cells $origin: with_a_good_peer Ok, with_a_slow_peer Slow, with_a_peer_that_stalls Stalls,
                with_a_lying_peer Lies, with_a_truncating_peer Truncates, with_a_peer_that_vanishes Vanishes,
                with_a_peer_that_returns_late ReturnsLate);
        })*
    };
    (@cells $origin:ident: $($name:ident $peer:ident),*) => {
        $(#[test]
        fn $name() {
            cell(How::$origin, How::$peer);
        })*
    };
}

rows!(
    a_good_origin Ok,
    a_slow_origin Slow,
    an_origin_that_stalls Stalls,
    a_lying_origin Lies,
    a_truncating_origin Truncates,
    an_origin_that_vanishes Vanishes,
    an_origin_that_returns_late ReturnsLate
);

// --- the origin alone

/// Download from an origin with these faults and nobody else, by URL and by metainfo.
fn alone(
    origin: impl Fn(FaultyOrigin) -> FaultyOrigin,
    by_url: bool,
) -> (Scene, Result<Report, Failure>) {
    let mut world = World::new(1);
    let content = world.content("image.bin", LENGTH as usize);
    let good = FaultyOrigin::new(content.clone()).rate(RATE);
    let mut scene = Scene::with(world, &content, origin(good), How::Ok);
    scene.world.kill(scene.peer, Kill::Power);
    let mut request = GetRequest {
        output: FILE.into(),
        ..GetRequest::default()
    };
    if by_url {
        request.urls = vec![URL.into()];
    } else {
        request.metainfo = Some(scene.metainfo.encode().into());
    }
    let call = scene.world.command(scene.device, Command::Get(request));
    let result = scene.result(call);
    (scene, result)
}

/// It ends well both ways.
fn alone_well(name: &str, wasted: u64, origin: impl Fn(FaultyOrigin) -> FaultyOrigin) {
    for by_url in [true, false] {
        let (mut scene, result) = alone(&origin, by_url);
        let report = result.unwrap_or_else(|failure| {
            scene.print_log();
            panic!("{name}: {failure}")
        });
        println!("{name}: {report:?}");
        scene.check_good(&report, 0..wasted + 1);
    }
}

#[test]
fn alone_with_an_origin_that_is_merely_odd() {
    let to = "http://origin/elsewhere";
    let redirect = |status| Fault::Redirect {
        status,
        to: to.into(),
    };
    let here = || When::Path("/image.bin".into());
    for status in [301, 302, 303, 307, 308] {
        alone_well("redirect", 0, |o| o.fault(here(), redirect(status)));
    }
    alone_well("slow head", 0, |o| {
        let wait = MS * 5000;
        o.fault(When::Requests(0..1), Fault::SlowHead { wait })
    });
    alone_well("no ranges", 0, |o| {
        o.fault(When::Always, Fault::IgnoreRange)
    });
    alone_well("chunked", 0, |o| o.fault(When::Always, Fault::Chunked));
    alone_well("no length", 0, |o| o.fault(When::Always, Fault::NoLength));
    alone_well("no keep-alive", 0, |o| {
        o.fault(When::Always, Fault::NoKeepAlive)
    });
    alone_well("no validators", 0, |o| {
        o.fault(When::Always, Fault::NoValidators)
    });
    alone_well("overlong", MIB, |o| {
        o.fault(When::Always, Fault::Overlong { extra: 999 })
    });
}

#[test]
fn alone_with_an_origin_that_fails_now_and_then() {
    let cut = || Fault::Truncate {
        after: 3 * MIB + 77,
    };
    alone_well("cut", MIB, |o| o.fault(When::Always, cut()));
    let reset = || Fault::Reset { after: 2 * MIB };
    alone_well("reset", MIB, |o| o.fault(When::Always, reset()));
    // Without ranges all has to come again.
    alone_well("cut, no ranges", LENGTH, |o| {
        let o = o.fault(When::Requests(0..2), cut());
        o.fault(When::Always, Fault::IgnoreRange)
    });
    let busy = |retry_after_s| Fault::Status {
        status: 503,
        retry_after_s,
    };
    alone_well("503", 0, |o| o.fault(When::Requests(0..2), busy(None)));
    alone_well("503, retry after", 0, |o| {
        o.fault(When::Requests(0..1), busy(Some(7)))
    });
    let stall = || Fault::Stall {
        after: MIB,
        span: None,
    };
    alone_well("stall", MIB, |o| o.fault(When::Requests(0..3), stall()));
    alone_well("wrong place", MIB, |o| {
        o.fault(When::Requests(1..2), Fault::WrongPlace { shift: 100 })
    });
    alone_well("garbage", MIB, |o| {
        o.fault(When::Requests(1..2), Fault::Garbage)
    });
}

#[test]
fn a_retry_after_is_kept() {
    let busy = Fault::Status {
        status: 503,
        retry_after_s: Some(9),
    };
    let (scene, result) = alone(|o| o.fault(When::Requests(0..1), busy.clone()), true);
    assert!(result.unwrap().elapsed_us >= 9_000_000);
    let requests = &scene.world.machine::<FaultyOrigin>(scene.origin).requests;
    assert!(requests[1].at.since(requests[0].at) >= MS * 9000);
}

#[test]
fn alone_with_an_origin_that_cannot_give_it() {
    let here = || When::Path("/image.bin".into());
    let to = |to: &str| Fault::Redirect {
        status: 302,
        to: to.into(),
    };
    let status = |status| Fault::Status {
        status,
        retry_after_s: None,
    };
    let faults = [
        to(URL),
        to("http://origin:81/image.bin"),
        status(404),
        status(403),
        status(410),
        status(503),
        Fault::Garbage,
    ];
    for fault in faults {
        for by_url in [true, false] {
            let (mut scene, result) = alone(|o| o.fault(here(), fault.clone()), by_url);
            let failure = result.expect_err("there is nothing to get");
            println!("{fault:?}: {failure} after {:?}", scene.world.now());
            assert_eq!(failure.kind, FailureKind::Unavailable, "{failure}");
            assert!(failure.to_string().contains("http://origin"), "{failure}");
            assert!(!scene.world.disk(scene.device).exists(FILE));
            scene.world.run_for(MS * 3000);
            assert_eq!(scene.world.outstanding(scene.device), (0, 0));
        }
    }
}

#[test]
fn a_file_that_changes_midway_is_begun_anew_or_refused() {
    let other = World::new(2).content("other", LENGTH as usize);
    // Requests are short enough that the change falls between two of them.
    let change = |o: FaultyOrigin| {
        let cut = Fault::Truncate { after: 2 * MIB };
        let mut o = o.fault(When::Always, cut);
        o.change_after(3 * MIB, other.clone());
        o
    };
    let (mut scene, result) = alone(change, true);
    scene.content = other.clone();
    let report = result.unwrap();
    scene.check_good(&report, 2 * MIB..5 * MIB);
    assert!(scene.says("changed"));
    let (mut scene, result) = alone(change, false);
    assert_eq!(result.unwrap_err().kind, FailureKind::Mismatch);
    assert!(!scene.world.disk(scene.device).exists(FILE));
}
