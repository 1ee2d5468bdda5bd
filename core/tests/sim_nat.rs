//! The simulator's NATs: who can answer whom, for how long, and what streams do.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use core::net::SocketAddr;
use core::time::Duration;
use dovetail_core::ids::SocketId;
use dovetail_core::machine::{
    Datagram, Ecn, Effects, Endpoint, Host, Input, Listener, Lost, Machine, Output,
};
use dovetail_core::sim::toys::{Bulk, Echo, Reader};
use dovetail_core::sim::{
    Filtering, HostId, HostSpec, LinkSpec, Mapping, NatSpec, SiteId, World, seeds,
};
use dovetail_core::time::{Deadline, Now};
use std::collections::VecDeque;

const SECOND: Duration = Duration::from_secs(1);

const FULL: NatSpec = NatSpec::FULL_CONE;
const ADDRESS: NatSpec = NatSpec::ADDRESS_RESTRICTED;
const PORT: NatSpec = NatSpec::PORT_RESTRICTED;
const SYMMETRIC: NatSpec = NatSpec::SYMMETRIC;
const KINDS: [NatSpec; 4] = [FULL, ADDRESS, PORT, SYMMETRIC];

/// Says what it is told to say, and writes down whom it hears; may answer greetings.
#[derive(Default)]
struct Talker {
    fx: Effects,
    answers: bool,
    out: VecDeque<(SocketAddr, &'static [u8])>,
    heard: Vec<SocketAddr>,
    answered: Vec<SocketAddr>,
}

const HELLO: &[u8] = b"hello";
const ANSWER: &[u8] = b"answer";

impl Machine for Talker {
    fn handle(&mut self, _now: Now, input: Input) {
        if let Input::Datagrams { from, bytes, .. } = input {
            if bytes == ANSWER {
                self.answered.push(from);
            } else {
                self.heard.push(from);
                self.out.extend(self.answers.then_some((from, ANSWER)));
            }
        }
    }

    fn poll(&mut self) -> Option<Output> {
        self.fx.poll()
    }

    fn poll_datagram(&mut self, _now: Now, buf: &mut Vec<u8>) -> Option<Datagram> {
        let (to, say) = self.out.pop_front()?;
        buf.extend_from_slice(say);
        Some(Datagram {
            socket: SocketId(0),
            to,
            segment_bytes: say.len(),
            ecn: Ecn::NotEct,
        })
    }

    fn deadline(&self) -> Option<Deadline> {
        None
    }
}

const OUTSIDE: [&str; 2] = ["203.0.113.1", "203.0.113.2"];

/// A site with a NAT, its outside address the `n`th.
fn site(world: &mut World, n: usize, nat: NatSpec) -> SiteId {
    let line = LinkSpec::rate(10_000_000).delay(Duration::from_millis(5));
    let site = world.site(&format!("site {n}"), line, line);
    world.nat(site, OUTSIDE[n].parse().unwrap(), nat);
    site
}

/// A host with a socket for datagrams.
fn device(addr: &str) -> HostSpec {
    HostSpec::at(addr).listen(Listener::Peers, 7680)
}

fn talker(world: &mut World, name: &str, spec: HostSpec) -> HostId {
    world.host(name, Talker::default(), spec)
}

fn say(world: &mut World, who: HostId, to: SocketAddr) {
    world.with(who, |t: &mut Talker| t.out.push_back((to, HELLO)));
}

fn heard(world: &World, who: HostId) -> &[SocketAddr] {
    &world.machine::<Talker>(who).heard
}

/// Does `to` hear it when `who` says hello there?
fn is_heard(world: &mut World, who: HostId, to: SocketAddr, by: HostId) -> bool {
    let before = heard(world, by).len();
    say(world, who, to);
    world.run_for(SECOND);
    heard(world, by).len() > before
}

fn at(addr: &str) -> SocketAddr {
    addr.parse().unwrap()
}

/// `a` behind the NAT, and three outside: `x`, one at `x`'s address with another port, one elsewhere.
struct Scene {
    world: World,
    a: HostId,
    x: (HostId, SocketAddr),
    beside: (HostId, SocketAddr),
    elsewhere: (HostId, SocketAddr),
}

fn scene(seed: u64, nat: NatSpec) -> Scene {
    let mut world = World::new(seed);
    let home = site(&mut world, 0, nat);
    let a = device("192.168.1.10").site(home);
    let a = talker(&mut world, "a", a);
    // Two sockets of one address are two hosts behind a NAT that lets all in.
    let udp_timeout = SECOND * 3600;
    let shop = NatSpec {
        udp_timeout,
        ..FULL
    };
    let shop = site(&mut world, 1, shop);
    let x = device("192.168.1.10").site(shop);
    let x = talker(&mut world, "x", x);
    let beside = HostSpec::at("192.168.1.11").listen(Listener::Peers, 7681);
    let beside = talker(&mut world, "beside", beside.site(shop));
    let elsewhere = talker(&mut world, "elsewhere", device("198.51.100.7"));
    let there = at("198.51.100.7:7680");
    let x_at = at("203.0.113.2:7680");
    let beside_at = at("203.0.113.2:7681");
    for (who, seen_as) in [(x, x_at), (beside, beside_at)] {
        say(&mut world, who, there);
        world.run_for(SECOND);
        assert_eq!(heard(&world, elsewhere).last(), Some(&seen_as));
    }
    Scene {
        world,
        a,
        x: (x, x_at),
        beside: (beside, beside_at),
        elsewhere: (elsewhere, there),
    }
}

#[test]
fn who_may_answer_is_what_the_filtering_says() {
    // x itself; the same address from another port; somebody else.
    let rows = [
        (FULL, [true, true, true]),
        (ADDRESS, [true, true, false]),
        (PORT, [true, false, false]),
        (SYMMETRIC, [true, false, false]),
    ];
    for (nat, want) in rows {
        for (mapping, keeps_ports) in [
            (nat.mapping, true),
            (nat.mapping, false),
            (Mapping::AddressAndPortDependent, false),
        ] {
            let nat = NatSpec {
                mapping,
                keeps_ports,
                ..nat
            };
            let mut s = scene(1, nat);
            let first = at("203.0.113.1:7680");
            let (x, x_at) = s.x;
            assert!(
                !is_heard(&mut s.world, x, first, s.a),
                "nothing is open yet"
            );
            assert!(is_heard(&mut s.world, s.a, x_at, x));
            let hole = *heard(&s.world, x).last().unwrap();
            assert_eq!(hole == first, keeps_ports, "{nat:?}");
            let got =
                [x, s.beside.0, s.elsewhere.0].map(|who| is_heard(&mut s.world, who, hole, s.a));
            assert_eq!(got, want, "{nat:?}");
        }
    }
}

#[test]
fn the_mapping_says_whether_two_remotes_see_the_same_port() {
    for (nat, same) in [
        (FULL, true),
        (ADDRESS, true),
        (PORT, true),
        (SYMMETRIC, false),
    ] {
        let mut s = scene(1, nat);
        let seen = [s.x, s.beside, s.elsewhere].map(|(who, addr)| {
            assert!(is_heard(&mut s.world, s.a, addr, who));
            *heard(&s.world, who).last().unwrap()
        });
        assert!(seen.iter().all(|a| a.ip() == at("203.0.113.1:1").ip()));
        let ports = seen.map(|a| a.port());
        assert_eq!(ports[0] == ports[1], same, "{ports:?}");
        assert_eq!(ports[1] == ports[2], same, "{ports:?}");
        assert_eq!(ports[0] == ports[2], same, "{ports:?}");
    }
}

#[test]
fn two_inside_want_one_port_and_both_get_one() {
    for keeps_ports in [true, false] {
        let mut world = World::new(1);
        let nat = NatSpec {
            keeps_ports,
            ..PORT
        };
        let home = site(&mut world, 0, nat);
        let x = talker(&mut world, "x", device("198.51.100.7"));
        let inside = ["192.168.1.1", "192.168.1.2"]
            .map(|addr| talker(&mut world, addr, device(addr).site(home)));
        for who in inside {
            say(&mut world, who, at("198.51.100.7:7680"));
            world.run_for(SECOND);
        }
        let holes = heard(&world, x).to_vec();
        assert_ne!(holes[0], holes[1]);
        assert_eq!(holes[0].port() == 7680, keeps_ports);
        for (who, hole) in inside.into_iter().zip(holes) {
            assert!(is_heard(&mut world, x, hole, who));
        }
        // Among themselves they need no NAT.
        assert!(is_heard(
            &mut world,
            inside[0],
            at("192.168.1.2:7680"),
            inside[1]
        ));
        assert_eq!(
            heard(&world, inside[1]).last(),
            Some(&at("192.168.1.1:7680"))
        );
    }
}

#[test]
fn a_hole_closes_when_nothing_is_sent_through_it() {
    for nat in KINDS {
        let mut s = scene(1, nat);
        let (x, x_at) = s.x;
        let (elsewhere, there) = s.elsewhere;
        assert!(is_heard(&mut s.world, s.a, x_at, x));
        let hole = *heard(&s.world, x).last().unwrap();
        s.world.run_for(SECOND * 27);
        assert!(is_heard(&mut s.world, x, hole, s.a), "{nat:?}");
        s.world.run_for(SECOND * 2);
        assert!(
            !is_heard(&mut s.world, x, hole, s.a),
            "what comes in keeps nothing open: {nat:?}"
        );
        // Sending opens it again, and each further sending keeps it.
        assert!(is_heard(&mut s.world, s.a, x_at, x));
        let again = *heard(&s.world, x).last().unwrap();
        assert_eq!(again == hole, nat.keeps_ports, "{nat:?}");
        for _ in 0..3 {
            s.world.run_for(SECOND * 20);
            assert!(is_heard(&mut s.world, s.a, x_at, x));
        }
        s.world.run_for(SECOND * 20);
        assert!(is_heard(&mut s.world, x, again, s.a), "{nat:?}");
        // Sending to somebody else keeps the port of a cone, and no more than that.
        assert!(is_heard(&mut s.world, s.a, there, elsewhere));
        s.world.run_for(SECOND * 20);
        let is_open = is_heard(&mut s.world, x, again, s.a);
        assert_eq!(is_open, nat.filtering == Filtering::EndpointIndependent);
    }
}

#[test]
fn the_timeout_is_the_nats_own() {
    let udp_timeout = SECOND * 120;
    let mut s = scene(
        1,
        NatSpec {
            udp_timeout,
            ..PORT
        },
    );
    let (x, x_at) = s.x;
    assert!(is_heard(&mut s.world, s.a, x_at, x));
    let hole = *heard(&s.world, x).last().unwrap();
    s.world.run_for(SECOND * 110);
    assert!(is_heard(&mut s.world, x, hole, s.a));
    s.world.run_for(SECOND * 10);
    assert!(!is_heard(&mut s.world, x, hole, s.a));
}

/// Do two behind these NATs hear each other, once each has learned from a third where the other was seen,
/// both say hello there, and answer wherever they are greeted from?
fn meet(seed: u64, kinds: [NatSpec; 2]) -> bool {
    let mut world = World::new(seed);
    let third = talker(&mut world, "third", device("198.51.100.7"));
    let mut n = 0;
    // The same private network, the same address in it, on both sides.
    let pair = kinds.map(|nat| {
        let behind = site(&mut world, n, nat);
        n += 1;
        let answering = Talker {
            answers: true,
            ..Talker::default()
        };
        let spec = device("192.168.1.10").site(behind);
        world.host(&format!("peer {n}"), answering, spec)
    });
    for who in pair {
        say(&mut world, who, at("198.51.100.7:7680"));
        world.run_for(SECOND);
    }
    let seen = heard(&world, third).to_vec();
    for _ in 0..3 {
        say(&mut world, pair[0], seen[1]);
        say(&mut world, pair[1], seen[0]);
        world.run_for(SECOND);
    }
    pair.iter().all(|who| {
        let talker = world.machine::<Talker>(*who);
        !(talker.heard.is_empty() && talker.answered.is_empty())
    })
}

#[test]
fn pairs_meet_unless_a_symmetric_one_faces_a_filter_of_ports() {
    for (a, here) in KINDS.into_iter().enumerate() {
        for (b, there) in KINDS.into_iter().enumerate() {
            let want = !matches!((a, b), (3, 2 | 3) | (2, 3));
            for seed in seeds(1..=3) {
                let got = meet(seed, [here, there]);
                assert_eq!(got, want, "kinds {a} and {b}, seed {seed}");
            }
        }
    }
}

#[test]
fn a_datagram_that_crosses_another_finds_the_hole_that_one_has_made() {
    let mut world = World::new(1);
    let pair = [0, 1].map(|n| {
        let behind = site(&mut world, n, PORT);
        let spec = device("192.168.1.10").site(behind);
        talker(&mut world, OUTSIDE[n], spec)
    });
    // At the same moment: each leaves its own router before the other's comes there.
    let outside = OUTSIDE.map(|addr| SocketAddr::new(addr.parse().unwrap(), 7680));
    say(&mut world, pair[0], outside[1]);
    say(&mut world, pair[1], outside[0]);
    world.run_for(SECOND);
    assert_eq!(heard(&world, pair[0]), [outside[1]]);
    assert_eq!(heard(&world, pair[1]), [outside[0]]);
}

#[test]
fn ipv6_passes_a_nat_as_it_is_and_comes_in_as_an_answer() {
    for nat in KINDS {
        let mut world = World::new(1);
        let home = site(&mut world, 0, nat);
        let a = device("192.168.1.10").and("2001:db8:a::10").site(home);
        let a = talker(&mut world, "a", a);
        let x = device("198.51.100.7").and("2001:db8::7");
        let x = talker(&mut world, "x", x);
        let y = talker(&mut world, "y", device("2001:db8::8"));
        let a_at = at("[2001:db8:a::10]:7680");
        assert!(!is_heard(&mut world, x, a_at, a), "nobody has asked");
        assert!(is_heard(&mut world, a, at("[2001:db8::7]:7680"), x));
        assert_eq!(heard(&world, x), [a_at]);
        assert!(is_heard(&mut world, x, a_at, a));
        assert!(!is_heard(&mut world, y, a_at, a), "it was not asked");
        assert!(is_heard(&mut world, a, at("198.51.100.7:7680"), x));
        assert_eq!(heard(&world, x)[1].ip(), at("203.0.113.1:1").ip());
        world.run_for(SECOND * 30);
        assert!(!is_heard(&mut world, x, a_at, a), "it was long ago");
    }
}

#[test]
fn there_is_no_hairpin() {
    for nat in KINDS {
        let mut world = World::new(1);
        let home = site(&mut world, 0, nat);
        let x = talker(&mut world, "x", device("198.51.100.7"));
        let inside = ["192.168.1.1", "192.168.1.2"]
            .map(|addr| talker(&mut world, addr, device(addr).site(home)));
        assert!(is_heard(&mut world, inside[0], at("198.51.100.7:7680"), x));
        let hole = heard(&world, x)[0];
        assert!(!is_heard(&mut world, inside[1], hole, inside[0]));
    }
}

fn dial(addr: &str, port: u16) -> Endpoint {
    Endpoint {
        host: Host::Addr(addr.parse().unwrap()),
        port,
        tls: None,
    }
}

#[test]
fn streams_go_out_and_none_comes_in() {
    for nat in KINDS {
        let mut world = World::new(1);
        let content = world.content("file", 100_000);
        let home = site(&mut world, 0, nat);
        let inside = HostSpec::at("192.168.1.10")
            .site(home)
            .listen(Listener::Http, 80);
        world.host("inside", Bulk::new(content.clone(), 16_384), inside.clone());
        let outside = HostSpec::at("198.51.100.7").listen(Listener::Http, 80);
        world.host("outside", Bulk::new(content.clone(), 16_384), outside);
        let echo = HostSpec::at("198.51.100.8").listen(Listener::Http, 80);
        let echo = world.host("echo", Echo::default(), echo);

        let mut read = |from: HostSpec, name: &str, to: &str| {
            let reader = world.host(name, Reader::fast(dial(to, 80)), from);
            let done = |w: &World| w.machine::<Reader>(reader).is_done();
            let _ = world.run_until(done, SECOND * 60);
            let reader = world.machine::<Reader>(reader);
            (
                reader.bytes() == content,
                reader.closed.as_ref().map(|(why, _)| why.clone()),
            )
        };
        let at_home = |addr| HostSpec::at(addr).site(home);
        let all = (true, Some(Lost::Eof));
        let nothing = (false, Some(Lost::TimedOut));
        assert_eq!(read(at_home("192.168.1.11"), "out", "198.51.100.7"), all);
        assert_eq!(read(at_home("192.168.1.12"), "within", "192.168.1.10"), all);
        assert_eq!(
            read(at_home("192.168.1.13"), "hairpin", OUTSIDE[0]),
            nothing
        );
        let x = HostSpec::at("198.51.100.9");
        assert_eq!(read(x.clone(), "in", OUTSIDE[0]), nothing);
        let y = HostSpec::at("198.51.100.10");
        let unreachable = (false, Some(Lost::Unreachable));
        assert_eq!(read(y, "private", "192.168.1.10"), unreachable);

        let say = Bytes::from_static(HELLO);
        let to = dial("198.51.100.8", 80);
        for addr in ["192.168.1.14", "192.168.1.15"] {
            let reader = Reader::new(to.clone(), say.clone(), 1000, Duration::ZERO);
            world.host(addr, reader, at_home(addr));
        }
        world.run_for(SECOND);
        let seen: Vec<_> = world.machine::<Echo>(echo).open.values().collect();
        let [first, second] = seen[..] else {
            panic!("{seen:?}")
        };
        assert_ne!(first, second);
        assert!(
            seen.iter()
                .all(|from| from.ip() == at("203.0.113.1:1").ip())
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_ports() {
    let ports = |seed| {
        let mut s = scene(seed, SYMMETRIC);
        let seen = [s.x, s.beside, s.elsewhere].map(|(who, addr)| {
            assert!(is_heard(&mut s.world, s.a, addr, who));
            heard(&s.world, who).last().unwrap().port()
        });
        (seen, s.world.digest())
    };
    assert_eq!(ports(1), ports(1));
    assert_ne!(ports(1).0, ports(2).0);
}

#[test]
#[should_panic(expected = "comes before the hosts")]
fn a_nat_comes_before_its_hosts() {
    let mut world = World::new(1);
    let home = world.site("home", LinkSpec::LAN, LinkSpec::LAN);
    let spec = HostSpec::at("192.168.1.10").site(home);
    world.host("a", Talker::default(), spec);
    world.nat(home, OUTSIDE[0].parse().unwrap(), FULL);
}
