//! When a router is asked for a port, what its answers mean, and when the port is given back; in virtual time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::{FILE, MIB, metainfo};
use core::net::SocketAddr;
use core::time::Duration;
use dovetail_core::agent::{Agent, AgentConfig};
use dovetail_core::command::{Command, Event, GetRequest, Level, Reply, ShareRequest};
use dovetail_core::coordinator::{Coordinator, CoordinatorConfig};
use dovetail_core::host::{HostFacts, Interface, LinkKind};
use dovetail_core::machine::{Input, Listener, Machine as _};
use dovetail_core::port_map::{Family, MapProtocol, PortAnswer, PortMapping, PortRequest};
use dovetail_core::settings::{Layers, Provider};
use dovetail_core::sim::{HostId, HostSpec, World};
use dovetail_core::time::Now;

const S: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn layers(values: &[(&str, &str)]) -> Layers {
    let mut layers = Layers::default();
    for (name, value) in values {
        layers.set(Provider::CommandLine, name, value).expect(name);
    }
    layers
}

const INTERNET: &[(&str, &str)] = &[("download_mode", "internet")];

fn at(subnets: &[&str], gateways: &[&str]) -> HostFacts {
    HostFacts {
        interfaces: vec![Interface {
            name: "eth0".into(),
            link: LinkKind::Ethernet,
            subnets: subnets.iter().map(|text| text.parse().unwrap()).collect(),
            default_route: true,
            gateways: gateways.iter().map(|text| text.parse().unwrap()).collect(),
            ..Interface::default()
        }],
        ..HostFacts::default()
    }
}

fn home() -> HostFacts {
    at(&["192.168.1.20/24"], &["192.168.1.1"])
}

/// One agent and what is said to its shell.
struct Lab {
    world: World,
    device: HostId,
    facts: HostFacts,
}

impl Lab {
    fn new(values: &[(&str, &str)], share: bool) -> Self {
        let mut world = World::new(1);
        let config = AgentConfig {
            share,
            settings: layers(values),
            ..AgentConfig::default()
        };
        let agent = Agent::new(config, [7; 32]).unwrap();
        let spec = HostSpec::at("192.168.1.20").listen(Listener::Peers, 7680);
        let device = world.host("device", agent, spec);
        Self {
            world,
            device,
            facts: HostFacts::default(),
        }
    }

    fn facts(&mut self, facts: HostFacts) {
        self.facts = facts;
        self.world.host_facts(self.device, self.facts.clone());
        self.world.run_for(S);
    }

    /// The router has said something to the request of this round.
    fn answer(&mut self, round: u32, result: Result<PortMapping, &str>) {
        let result = result.map_err(str::to_owned);
        self.facts.port_answers = vec![PortAnswer { round, result }];
        self.facts(self.facts.clone());
    }

    fn events(&self) -> &[Event] {
        self.world.events(self.device)
    }

    fn requests(&self) -> Vec<&PortRequest> {
        let events = self.events().iter();
        let requests = events.filter_map(|event| match event {
            Event::MapPort(request) => Some(request),
            _ => None,
        });
        requests.collect()
    }

    fn given_back(&self) -> usize {
        let events = self.events().iter();
        let is_v4 = |event: &&Event| matches!(event, Event::UnmapPort(Family::V4));
        events.filter(is_v4).count()
    }

    /// What the log says of routers.
    fn log(&self) -> Vec<&str> {
        let events = self.events().iter();
        let texts = events.filter_map(|event| match event {
            Event::Log { level, text } if *level >= Level::Info => Some(text.as_str()),
            _ => None,
        });
        texts.filter(|text| text.contains("router")).collect()
    }

    fn mapped(&self) -> Option<String> {
        let agent = self.world.machine::<Agent>(self.device);
        agent.mapped().map(|at| at.to_string())
    }
}

fn mapping(outside: &str, lifetime_s: u32) -> PortMapping {
    PortMapping {
        protocol: MapProtocol::Pcp,
        outside: outside.parse().unwrap(),
        lifetime_s,
    }
}

#[test]
fn a_port_is_asked_for_and_renewed_at_half_of_its_lifetime() {
    let mut lab = Lab::new(INTERNET, true);
    lab.facts(home());
    let first = lab.requests()[0].clone();
    assert_eq!(first.gateway.to_string(), "192.168.1.1");
    assert_eq!(first.local.to_string(), "192.168.1.20:7680");
    assert_eq!(first.lifetime_s, 3600);
    lab.answer(first.round, Ok(mapping("198.51.100.7:7680", 600)));
    assert_eq!(lab.mapped().as_deref(), Some("198.51.100.7:7680"));
    // The same facts again are no second answer.
    lab.facts(lab.facts.clone());
    lab.world.run_for(S * 295);
    assert_eq!(lab.requests().len(), 1);
    lab.world.run_for(S * 5);
    assert_eq!(lab.requests().len(), 2);
    let second = lab.requests()[1].clone();
    assert_eq!(second.nonce, first.nonce);
    assert_ne!(second.round, first.round);
    // A router that gives more than was asked for is asked again after half of what was.
    lab.answer(second.round, Ok(mapping("198.51.100.7:7680", u32::MAX)));
    lab.world.run_for(MINUTE * 29);
    assert_eq!(lab.requests().len(), 2);
    lab.world.run_for(MINUTE);
    assert_eq!(lab.requests().len(), 3);
    assert_eq!(
        lab.log(),
        ["the router 192.168.1.1 lets peers in at 198.51.100.7:7680 (PCP)"]
    );
}

#[test]
fn a_port_that_cannot_be_renewed_is_asked_for_until_it_ends() {
    let mut lab = Lab::new(INTERNET, true);
    lab.facts(home());
    lab.answer(1, Ok(mapping("198.51.100.7:7680", 64)));
    let mut asked_after_s = Vec::new();
    for second in 2..=64 {
        lab.world.run_for(S);
        let round = lab.requests().len() as u32;
        if round as usize > asked_after_s.len() + 1 {
            asked_after_s.push(second);
            let result = Err("no answer".into());
            lab.facts.port_answers = vec![PortAnswer { round, result }];
            lab.world.host_facts(lab.device, lab.facts.clone());
        }
        assert_eq!(lab.mapped().is_some(), second < 64, "{second}");
    }
    assert_eq!(asked_after_s, [32, 48, 56, 60, 64]);
    assert_eq!(lab.mapped(), None);
    let log = lab.log();
    assert_eq!(log.len(), 2, "{log:?}");
    assert!(log[1].contains("gives no port (no answer)"), "{log:?}");
}

#[test]
fn a_router_that_gives_none_is_asked_rarely_and_told_once() {
    let mut lab = Lab::new(INTERNET, true);
    lab.facts(home());
    for round in 1..=4 {
        assert_eq!(lab.requests().len(), round as usize);
        lab.answer(round, Err("PCP: no answer"));
        lab.world.run_for(MINUTE * 29);
        assert_eq!(lab.requests().len(), round as usize);
        lab.world.run_for(MINUTE);
    }
    assert_eq!(
        lab.log(),
        [
            "the router 192.168.1.1 gives no port (PCP: no answer); peers in other networks may not get in here"
        ]
    );
    // What cannot be kept is none.
    lab.answer(5, Ok(mapping("198.51.100.7:7680", 5)));
    assert_eq!(lab.mapped(), None);
    // Somebody has switched it on at last.
    lab.world.run_for(MINUTE * 30);
    lab.answer(6, Ok(mapping("198.51.100.7:7680", 600)));
    assert!(lab.mapped().is_some());
    assert_eq!(lab.log().len(), 2);
}

#[test]
fn the_port_is_given_back_when_it_is_of_no_use() {
    let held = |lab: &mut Lab| {
        lab.facts(home());
        let round = lab.requests().last().unwrap().round;
        lab.answer(round, Ok(mapping("198.51.100.7:7680", 600)));
        assert!(lab.mapped().is_some());
    };
    let mut lab = Lab::new(INTERNET, true);
    held(&mut lab);
    let mut metered = home();
    metered.metered = Some(true);
    lab.facts(metered);
    assert_eq!((lab.mapped(), lab.given_back()), (None, 1));
    // It is asked for anew, and an answer to the old request does not count.
    lab.facts(home());
    assert_eq!(lab.requests().len(), 2);
    lab.answer(1, Ok(mapping("198.51.100.7:1", 600)));
    assert_eq!(lab.mapped(), None);
    held(&mut lab);
    lab.facts(at(&["203.0.113.9/24"], &["203.0.113.1"]));
    assert_eq!((lab.mapped(), lab.given_back()), (None, 2));
    held(&mut lab);
    let call = lab.world.command(lab.device, Command::Shutdown);
    lab.world.run_for(S);
    assert!(matches!(lab.world.reply(call), Some(Reply::Stopped)));
    assert_eq!((lab.mapped(), lab.given_back()), (None, 3));
    let asked = lab.requests().len();
    lab.world.run_for(MINUTE * 60);
    assert_eq!(lab.requests().len(), asked);
}

#[test]
fn another_network_is_another_router() {
    let mut lab = Lab::new(INTERNET, true);
    lab.facts(home());
    lab.answer(1, Ok(mapping("198.51.100.7:7680", 600)));
    lab.facts(at(
        &["10.9.0.5/16", "2001:db8::5/64"],
        &["10.9.0.1", "fe80::1"],
    ));
    assert_eq!(lab.mapped(), None);
    let asked: Vec<String> = lab.requests()[1..]
        .iter()
        .map(|request| format!("{} for {}", request.gateway, request.local))
        .collect();
    // Over IPv6 the address is the one that the host goes out with.
    assert_eq!(
        asked,
        ["10.9.0.1 for 10.9.0.5:7680", "fe80::1 for [::]:7680"]
    );
    let v6 = lab.requests()[2].round;
    lab.answer(v6, Err("no answer"));
    assert_eq!(
        lab.log().len(),
        1,
        "that IPv6 routers are silent is no news"
    );
}

#[test]
fn nobody_is_asked_who_need_not_be() {
    let off = [("download_mode", "internet"), ("port_mapping", "false")];
    for (values, share, facts) in [
        (&[][..], true, home()),
        (&off, true, home()),
        (INTERNET, false, home()),
        (INTERNET, true, at(&["198.51.100.7/24"], &["198.51.100.1"])),
        (INTERNET, true, at(&["192.168.1.20/24"], &[])),
    ] {
        let mut lab = Lab::new(values, share);
        lab.facts(facts);
        lab.world.run_for(MINUTE * 60);
        assert_eq!(lab.requests().len(), 0, "{values:?} {:?}", lab.facts);
        assert!(lab.log().is_empty());
    }
}

/// The coordinator names the port outside to those elsewhere, and they come in there.
#[test]
fn peers_elsewhere_are_told_the_port_outside() {
    const OUTSIDE: u16 = 40_123;
    let mut world = World::new(3);
    let content = world.content("image.bin", MIB as usize);
    let metainfo = metainfo("image.bin", &content, &[]);
    let spec = HostSpec::at("192.0.2.2").listen(Listener::Http, 80);
    let coordinator = Coordinator::new(CoordinatorConfig::default(), [2; 32]);
    let coordinator = world.host("coordinator", coordinator, spec);
    world.name("coordinator", coordinator);
    let mut agent = |name: &str, addr: &str, port: u16| {
        let config = AgentConfig {
            coordinator: Some("http://coordinator".into()),
            share: true,
            settings: layers(INTERNET),
            ..AgentConfig::default()
        };
        let agent = Agent::new(config, world.seed_for(name)).unwrap();
        let spec = HostSpec::at(addr).listen(Listener::Peers, port);
        let host = world.host(name, agent, spec);
        (host, addr.parse::<core::net::IpAddr>().unwrap())
    };
    // Its packets come from the router's address, where another port leads to it.
    let (seed, outside) = agent("seed", "198.51.100.7", OUTSIDE);
    let (taker, _) = agent("taker", "203.0.113.9", 7680);
    // What it believes to listen on is not what is open outside.
    let inside: SocketAddr = "192.168.1.20:7680".parse().unwrap();
    world.with(seed, |agent: &mut Agent| {
        let listener = Listener::Peers;
        agent.handle(
            Now::default(),
            Input::Listening {
                listener,
                at: inside,
            },
        );
    });
    world.disk(seed).put(FILE, content);
    let share = ShareRequest {
        metainfo: metainfo.encode().into(),
        path: FILE.into(),
    };
    world.command(seed, Command::Share(share));
    let mut facts = home();
    world.host_facts(seed, facts.clone());
    world.run_for(S * 3);
    facts.port_answers = vec![PortAnswer {
        round: 1,
        result: Ok(PortMapping {
            protocol: MapProtocol::NatPmp,
            outside: SocketAddr::new(outside, OUTSIDE),
            lifetime_s: 600,
        }),
    }];
    world.host_facts(seed, facts);
    world.run_for(S * 10);
    let get = GetRequest {
        metainfo: Some(metainfo.encode().into()),
        output: "/out".into(),
        require_peers: true,
        ..GetRequest::default()
    };
    let call = world.command(taker, Command::Get(get));
    let done = |world: &World| world.reply(call).is_some();
    world.run_until(done, MINUTE).unwrap();
    let Some(Reply::Got(Ok(report))) = world.reply(call) else {
        panic!("{:?}", world.reply(call));
    };
    assert_eq!(report.received.internet, MIB);
}
