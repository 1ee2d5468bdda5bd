//! Agents behind NATs: which pairs find a way to each other over the coordinator's rendezvous, and how soon.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod common;

use bytes::Bytes;
use common::{FILE, MIB, metainfo, settings};
use core::time::Duration;
use dovetail_core::agent::{Agent, AgentConfig};
use dovetail_core::command::{Command, Event, GetRequest, Level, Reply, ShareRequest};
use dovetail_core::coordinator::{Coordinator, CoordinatorConfig};
use dovetail_core::host::{HostFacts, Interface, LinkKind};
use dovetail_core::machine::Listener;
use dovetail_core::sim::NatSpec;
use dovetail_core::sim::{Call, HostId, HostSpec, Kill, LinkSpec, SiteId, World};

const S: Duration = Duration::from_secs(1);

const KINDS: [(&str, NatSpec); 4] = [
    ("full cone", NatSpec::FULL_CONE),
    ("address-restricted", NatSpec::ADDRESS_RESTRICTED),
    ("port-restricted", NatSpec::PORT_RESTRICTED),
    ("symmetric", NatSpec::SYMMETRIC),
];

/// Two sites with the same private network, far from each other and from the coordinator.
struct Sites {
    world: World,
    content: Bytes,
    coordinator: HostId,
    sites: Vec<SiteId>,
}

fn coordinator(relay_bytes_per_s: Option<u64>) -> Coordinator {
    let config = CoordinatorConfig {
        relay_bytes_per_s,
        ..CoordinatorConfig::default()
    };
    Coordinator::new(config, [2; 32])
}

impl Sites {
    fn new(seed: u64, nats: &[NatSpec]) -> Self {
        Self::relaying(seed, nats, None)
    }

    fn relaying(seed: u64, nats: &[NatSpec], relay_bytes_per_s: Option<u64>) -> Self {
        let mut world = World::new(seed);
        world.check_every = 10;
        let content = world.content("image.bin", 4 * MIB as usize);
        let spec = HostSpec::at("192.0.2.2")
            .listen(Listener::Http, 80)
            .listen(Listener::Rendezvous, 3544)
            .listen(Listener::RendezvousOther, 3545);
        let coordinator = world.host("coordinator", coordinator(relay_bytes_per_s), spec);
        world.name("coordinator", coordinator);
        let line = LinkSpec::rate(12_500_000).delay(Duration::from_millis(15));
        let mut sites = Vec::new();
        for (n, nat) in nats.iter().enumerate() {
            let site = world.site(&format!("site{n}"), line, line);
            let outside = format!("198.51.{}.1", 100 + n).parse().unwrap();
            world.nat(site, outside, *nat);
            sites.push(site);
        }
        Self {
            world,
            content,
            coordinator,
            sites,
        }
    }

    fn agent(&mut self, name: &str, site: usize, addr: &str) -> HostId {
        let spec = HostSpec::at(addr);
        self.agent_at(name, site, spec, &[&format!("{addr}/24")])
    }

    /// One that IPv6 reaches, too, through a firewall, and that has bridges of its own, as for containers.
    fn agent_with_ipv6(&mut self, name: &str, site: usize, addr: &str) -> HostId {
        let v6 = format!("2001:db8:{site}::10");
        let spec = HostSpec::at(addr).and(&v6);
        let mut subnets = vec![format!("{addr}/24"), "fe80::10/64".into()];
        subnets.extend((17..22).map(|n| format!("172.{n}.0.1/16")));
        subnets.push(format!("{v6}/64"));
        let subnets: Vec<&str> = subnets.iter().map(String::as_str).collect();
        self.agent_at(name, site, spec, &subnets)
    }

    fn agent_at(&mut self, name: &str, site: usize, spec: HostSpec, subnets: &[&str]) -> HostId {
        let config = AgentConfig {
            coordinator: Some("http://coordinator".into()),
            share: true,
            settings: settings(&[
                ("min_file_size_to_peer", "0B"),
                ("download_mode", "group"),
                ("group_id", "g"),
            ]),
            ..AgentConfig::default()
        };
        let spec = spec.listen(Listener::Peers, 7680).site(self.sites[site]);
        let agent = Agent::new(config, self.world.seed_for(name)).unwrap();
        let host = self.world.host(name, agent, spec);
        let facts = HostFacts {
            interfaces: vec![Interface {
                name: "eth0".into(),
                link: LinkKind::Ethernet,
                default_route: true,
                subnets: subnets.iter().map(|net| net.parse().unwrap()).collect(),
                ..Interface::default()
            }],
            ..HostFacts::default()
        };
        self.world.host_facts(host, facts);
        host
    }

    fn share(&mut self, host: HostId) {
        self.world.disk(host).put(FILE, self.content.clone());
        let metainfo = metainfo("image.bin", &self.content, &[]);
        let share = ShareRequest {
            metainfo: metainfo.encode().into(),
            path: FILE.into(),
        };
        self.world.command(host, Command::Share(share));
    }

    fn get(&mut self, host: HostId) -> Call {
        let metainfo = metainfo("image.bin", &self.content, &[]);
        let request = GetRequest {
            metainfo: Some(metainfo.encode().into()),
            output: "/data/got.bin".into(),
            require_peers: true,
            ..GetRequest::default()
        };
        self.world.command(host, Command::Get(request))
    }

    /// How long it takes until the download is complete.
    fn completes(&mut self, call: Call, limit: Duration) -> Option<Duration> {
        let begun = self.world.now();
        let done = |w: &World| matches!(w.reply(call), Some(Reply::Got(Ok(_))));
        let came = self.world.run_until(done, limit).is_ok();
        came.then(|| self.world.now() - begun)
    }

    fn heard(&self, host: HostId, words: &str) -> usize {
        let events = self.world.events(host).iter();
        let said = events.filter(|event| {
            matches!(event, Event::Log { level, text } if *level >= Level::Info && text.contains(words))
        });
        said.count()
    }
}

/// A seed behind one kind of NAT, a downloader behind another; the seed has been there for a while.
fn pair(seed: u64, nats: [NatSpec; 2]) -> (Sites, HostId, HostId) {
    relayed_pair(seed, nats, None)
}

/// ... of a coordinator that relays at this rate.
fn relayed_pair(
    seed: u64,
    nats: [NatSpec; 2],
    relay_bytes_per_s: Option<u64>,
) -> (Sites, HostId, HostId) {
    let mut sites = Sites::relaying(seed, &nats, relay_bytes_per_s);
    let a = sites.agent("seed", 0, "192.168.1.10");
    sites.share(a);
    sites.world.run_for(S * 5);
    let b = sites.agent("downloader", 1, "192.168.1.10");
    (sites, a, b)
}

#[test]
fn everything_that_can_connect_does_in_two_seconds() {
    for (m, (left, a)) in KINDS.iter().enumerate() {
        for (n, (right, b)) in KINDS.iter().enumerate() {
            let (mut sites, _, downloader) = pair((4 * m + n) as u64, [*a, *b]);
            let call = sites.get(downloader);
            let took = sites.completes(call, S * 30);
            println!("{left} and {right}: {took:?}");
            // A port that is new for every peer, and a filter that lets in none it does not know: no way.
            let is_shut_out = m + n >= 5;
            assert_eq!(took.is_none(), is_shut_out, "{left} and {right}");
            assert!(took.is_none_or(|took| took < S * 2), "{left} and {right}");
        }
    }
}

#[test]
fn who_is_shut_out_is_told_why_and_not_asked_again_and_again() {
    let (mut sites, _, downloader) = pair(1, [NatSpec::SYMMETRIC; 2]);
    let call = sites.get(downloader);
    assert_eq!(sites.completes(call, S * 60), None);
    assert_eq!(sites.heard(downloader, "symmetric"), 1, "its own kind");
    let told = sites.heard(downloader, "no way to the peer");
    assert!((1..=5).contains(&told), "{told}");
    assert!(sites.heard(downloader, "let nothing through") >= 1);
    sites.world.run_for(S * 600);
    assert!(sites.heard(downloader, "no way to the peer") - told <= 12);
    let Some(Reply::Got(Err(failure))) = sites.world.reply(call) else {
        panic!("it cannot go on for ever");
    };
    assert!(failure.why.contains("let nothing through"), "{failure:?}");
}

fn symmetric_with_an_ipv6_seed(world_seed: u64) -> Sites {
    let mut sites = Sites::new(world_seed, &[NatSpec::SYMMETRIC; 2]);
    let seed = sites.agent_with_ipv6("seed", 0, "192.168.1.10");
    sites.share(seed);
    sites.world.run_for(S * 5);
    sites
}

#[test]
fn ipv6_leads_past_nats_that_shut_each_other_out() {
    let mut sites = symmetric_with_an_ipv6_seed(3);
    let downloader = sites.agent_with_ipv6("downloader", 1, "192.168.1.10");
    let call = sites.get(downloader);
    let took = sites.completes(call, S * 30);
    assert!(took.is_some_and(|took| took < S * 2), "{took:?}");
    assert_eq!(sites.heard(downloader, "no way to the peer"), 0);
}

#[test]
fn who_has_no_ipv6_is_shut_out_whatever_the_other_has() {
    let mut sites = symmetric_with_an_ipv6_seed(4);
    let downloader = sites.agent("downloader", 1, "192.168.1.10");
    let call = sites.get(downloader);
    assert_eq!(sites.completes(call, S * 60), None);
    assert!(sites.heard(downloader, "let nothing through") >= 1);
}

#[test]
fn several_behind_one_nat_are_told_apart() {
    let mut sites = Sites::new(2, &[NatSpec::PORT_RESTRICTED; 2]);
    for n in 10..13 {
        let seed = sites.agent(&format!("seed{n}"), 0, &format!("192.168.1.{n}"));
        sites.share(seed);
    }
    sites.world.run_for(S * 5);
    let downloader = sites.agent("downloader", 1, "192.168.1.10");
    let call = sites.get(downloader);
    assert!(sites.completes(call, S * 20).is_some());
}

#[test]
fn neighbours_behind_one_nat_need_no_rendezvous() {
    let mut sites = Sites::new(3, &[NatSpec::SYMMETRIC]);
    let a = sites.agent("seed", 0, "192.168.1.10");
    sites.share(a);
    sites.world.run_for(S * 5);
    let b = sites.agent("downloader", 0, "192.168.1.11");
    let call = sites.get(b);
    assert!(sites.completes(call, S * 2).is_some());
}

#[test]
fn a_coordinator_that_goes_takes_no_session_along_and_is_found_again() {
    let (mut sites, _, downloader) = pair(4, [NatSpec::PORT_RESTRICTED; 2]);
    let call = sites.get(downloader);
    let coordinator_host = sites.coordinator;
    // The way is open after half a second; the file takes longer.
    sites.world.run_for(Duration::from_millis(450));
    sites.world.kill(coordinator_host, Kill::Process);
    assert!(sites.completes(call, S * 30).is_some());
    sites.world.run_for(S * 120);
    sites.world.restart(coordinator_host, coordinator(None));
    sites.world.run_for(S * 120);
    let third = sites.agent("third", 1, "192.168.1.12");
    let call = sites.get(third);
    assert!(sites.completes(call, S * 20).is_some());
}

#[test]
fn a_mapping_is_kept_while_nothing_is_downloaded() {
    let (mut sites, _, downloader) = pair(5, [NatSpec::PORT_RESTRICTED; 2]);
    sites.world.run_for(S * 3600);
    let call = sites.get(downloader);
    assert!(sites.completes(call, S * 5).is_some());
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let digest = |seed| {
        let (mut sites, _, downloader) = pair(seed, [NatSpec::SYMMETRIC, NatSpec::FULL_CONE]);
        let call = sites.get(downloader);
        assert!(sites.completes(call, S * 20).is_some());
        sites.world.digest()
    };
    assert_eq!(digest(6), digest(6));
}

/// Datagrams that the coordinator has sent.
fn relayed(sites: &Sites) -> u64 {
    sites.world.traffic(sites.coordinator).0.datagrams
}

const RELAY_BYTES_PER_S: u64 = 250_000;

#[test]
fn pairs_that_are_shut_out_meet_through_a_coordinator_that_relays() {
    let [.., port_restricted, symmetric] = KINDS.map(|(_, nat)| nat);
    for (seed, nats) in [
        [symmetric, symmetric],
        [symmetric, port_restricted],
        [port_restricted, symmetric],
    ]
    .into_iter()
    .enumerate()
    {
        let relay = Some(RELAY_BYTES_PER_S);
        let (mut sites, _, downloader) = relayed_pair(20 + seed as u64, nats, relay);
        let call = sites.get(downloader);
        let took = sites.completes(call, S * 30).unwrap();
        println!("{took:?}, {} datagrams", relayed(&sites));
        assert!(relayed(&sites) > 4 * MIB / 1500);
        // All of it, one way, at the relay's rate.
        let least = Duration::from_secs(4 * MIB / RELAY_BYTES_PER_S);
        assert!(took >= least && took < least * 3 / 2, "{took:?}");
    }
}

#[test]
fn a_relay_carries_nothing_for_those_who_have_another_way() {
    let nats = [NatSpec::PORT_RESTRICTED, NatSpec::ADDRESS_RESTRICTED];
    let (mut sites, _, downloader) = relayed_pair(30, nats, Some(1000));
    let call = sites.get(downloader);
    let took = sites.completes(call, S * 10).unwrap();
    assert!(took < S * 2, "{took:?}");
    assert!(relayed(&sites) < 100);
}

#[test]
fn pairs_share_a_relay() {
    let nats = [NatSpec::SYMMETRIC; 4];
    let mut sites = Sites::relaying(31, &nats, Some(RELAY_BYTES_PER_S));
    let seed = sites.agent("seed", 0, "192.168.1.10");
    sites.share(seed);
    sites.world.run_for(S * 5);
    let calls: Vec<Call> = (1..4)
        .map(|site| {
            let downloader = sites.agent(&format!("downloader{site}"), site, "192.168.1.10");
            sites.get(downloader)
        })
        .collect();
    for call in calls {
        assert!(sites.completes(call, S * 200).is_some());
    }
    let all = sites.world.now() - S * 5;
    println!("{all:?}");
    let least = Duration::from_secs(3 * 4 * MIB / RELAY_BYTES_PER_S);
    assert!(all >= least && all < least * 3 / 2, "{all:?}");
}

#[test]
fn a_relay_that_goes_is_found_again() {
    let nats = [NatSpec::SYMMETRIC; 2];
    let relay = Some(RELAY_BYTES_PER_S);
    let (mut sites, _, downloader) = relayed_pair(32, nats, relay);
    let call = sites.get(downloader);
    sites.world.run_for(S * 5);
    let coordinator_host = sites.coordinator;
    sites.world.kill(coordinator_host, Kill::Process);
    assert!(sites.completes(call, S * 3).is_none());
    sites.world.restart(coordinator_host, coordinator(relay));
    assert!(sites.completes(call, S * 200).is_some());
}
