//! Whole agents on one line with a person's own traffic: uploads to peers and background downloads give way, downloads
//! in the foreground do not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot set its scene must fail"
)]

use bytes::Bytes;
use core::time::Duration;
use dovetail_core::agent::{Agent, AgentConfig};
use dovetail_core::command::{Command, GetRequest, Reply, ShareRequest};
use dovetail_core::machine::{Endpoint, Host, Listener};
use dovetail_core::origin::{Origin, OriginConfig};
use dovetail_core::sim::toys::{Bulk, Reader};
use dovetail_core::sim::{Call, HostId, HostSpec, LinkSpec, NetSpec, SiteId, World};
use std::net::SocketAddr;

mod common;
use common::{FILE, MIB, metainfo, settings};

/// 20 Mbit/s, 20 ms, a queue of 100 ms.
const RATE: u64 = 2_500_000;

const fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn world(seed: u64, net: NetSpec) -> (World, SiteId) {
    let mut world = World::new(seed);
    world.net = NetSpec {
        segment_bytes: 1448,
        ..net
    };
    world.check_every = 0;
    world.without_journal();
    let line = LinkSpec::rate(RATE)
        .delay(Duration::from_millis(10))
        .queue(250_000);
    let site = world.site("home", line, line);
    (world, site)
}

fn to(addr: &str) -> Endpoint {
    let addr: SocketAddr = addr.parse().unwrap();
    Endpoint {
        host: Host::Addr(addr.ip()),
        port: addr.port(),
        tls: None,
    }
}

/// A server somewhere else, with a file and nothing to give way to.
fn origin(world: &mut World, name: &str, addr: &str, content: &Bytes) -> HostId {
    let spec = HostSpec::at(addr).listen(Listener::Http, 80);
    let config = OriginConfig {
        dir: "/srv".into(),
        limit_bytes_per_s: 0,
    };
    let host = world.host(name, Origin::new(config, [1; 32]), spec);
    world.disk(host).put("/srv/image.bin", content.clone());
    world.name(name, host);
    host
}

fn agent(world: &mut World, name: &str, addr: &str, site: Option<SiteId>) -> HostId {
    let config = AgentConfig {
        share: true,
        settings: settings(&[
            ("min_file_size_to_peer", "0B"),
            ("download_mode", "internet"),
        ]),
        ..AgentConfig::default()
    };
    let mut spec = HostSpec::at(addr).listen(Listener::Peers, 7680);
    spec.site = site;
    let seed = world.seed_for(name);
    world.host(name, Agent::new(config, seed).unwrap(), spec)
}

/// What came down the line for a host between now and then, in bytes a second.
fn rate_of(world: &mut World, host: HostId, span: Duration) -> u64 {
    let before = world.traffic(host).1.bytes;
    world.run_for(span);
    (world.traffic(host).1.bytes - before) / span.as_secs()
}

/// A device at home that begins a download from somewhere else.
fn home_download(seed: u64, net: NetSpec, foreground: bool) -> (World, SiteId, HostId, Call) {
    let (mut world, site) = world(seed, net);
    let (device, get) = download(&mut world, site, foreground);
    (world, site, device, get)
}

fn download(world: &mut World, site: SiteId, foreground: bool) -> (HostId, Call) {
    let content = world.content("image.bin", (256 * MIB) as usize);
    origin(world, "origin", "192.0.2.1", &content);
    let device = agent(world, "device", "10.0.0.1", Some(site));
    let request = GetRequest {
        urls: vec!["http://origin/image.bin".into()],
        output: FILE.into(),
        foreground,
        ..GetRequest::default()
    };
    (device, world.command(device, Command::Get(request)))
}

/// Somebody else at home gets a film, as fast as it comes.
fn person(world: &mut World, site: SiteId) -> HostId {
    let bytes = world.content("film", (256 * MIB) as usize);
    let server = HostSpec::at("192.0.2.9").listen(Listener::Http, 80);
    world.host("films", Bulk::new(bytes, 64 * 1024), server);
    let spec = HostSpec::at("10.0.0.2").site(site);
    world.host("person", Reader::fast(to("192.0.2.9:80")), spec)
}

/// A download at work, and then somebody's own on another device at the same home: what each has of the line before,
/// and with the other.
fn download_beside_a_person(net: NetSpec, foreground: bool) -> (u64, u64, u64) {
    let (mut world, site, device, _) = home_download(1, net, foreground);
    world.run_for(s(10));
    let alone = rate_of(&mut world, device, s(20));
    let person = person(&mut world, site);
    world.run_for(s(10));
    let before = world.traffic(device).1.bytes;
    let theirs = rate_of(&mut world, person, s(30));
    let ours = (world.traffic(device).1.bytes - before) / 30;
    (alone, ours, theirs)
}

#[test]
fn a_download_in_the_background_gives_way_and_one_in_the_foreground_does_not() {
    let (alone, ours, theirs) = download_beside_a_person(NetSpec::default(), false);
    println!("background: alone {alone}, then {ours} beside {theirs} bytes a second");
    assert!(alone >= RATE * 90 / 100, "it fills the line: {alone}");
    assert!(theirs >= RATE * 93 / 100 && ours <= RATE * 5 / 100);
    let (alone, ours, theirs) = download_beside_a_person(NetSpec::default(), true);
    println!("foreground: alone {alone}, then {ours} beside {theirs} bytes a second");
    assert!(alone >= RATE * 95 / 100);
    assert!(
        ours >= RATE * 25 / 100,
        "somebody waits for it: {ours} beside {theirs}"
    );
}

/// Servers without TCP time stamps, and kernels before Linux 5.15.
#[test]
fn a_download_gives_way_without_time_stamps_and_without_a_window() {
    for (time_stamps, can_bound_receiving, alone_min, theirs_min) in
        [(false, true, 90, 92), (true, false, 65, 93)]
    {
        let net = NetSpec {
            time_stamps,
            can_bound_receiving,
            receive_buffer: 256 * 1024,
            ..NetSpec::default()
        };
        let (alone, ours, theirs) = download_beside_a_person(net, false);
        println!(
            "time stamps {time_stamps}, window {can_bound_receiving}: alone {alone}, then {ours} beside {theirs} bytes a second"
        );
        assert!(alone >= RATE * alone_min / 100 && theirs >= RATE * theirs_min / 100);
    }
}

/// It has never seen the line without a queue.
#[test]
fn a_download_that_comes_late_gives_way() {
    for time_stamps in [true, false] {
        let net = NetSpec {
            time_stamps,
            ..NetSpec::default()
        };
        let (mut world, site) = world(4, net);
        let person = person(&mut world, site);
        world.run_for(s(20));
        let (device, _) = download(&mut world, site, false);
        // The person's own traffic leaves the queue short once in a while, and so the path is known.
        world.run_for(s(20));
        let before = world.traffic(device).1.bytes;
        let theirs = rate_of(&mut world, person, s(30));
        let ours = (world.traffic(device).1.bytes - before) / 30;
        println!("late, time stamps {time_stamps}: {ours} beside {theirs} bytes a second");
        assert!(theirs >= RATE * 92 / 100, "{theirs}");
    }
}

/// A device at home that sends a file to a peer somewhere else.
fn upload(world: &mut World, site: SiteId, name: &str, addr: &str, to: &str) -> HostId {
    let content = world.content(name, (256 * MIB) as usize);
    let meta = metainfo("image.bin", &content, &[]);
    let seed = agent(world, name, addr, Some(site));
    world.disk(seed).put(FILE, content.clone());
    let share = ShareRequest {
        metainfo: meta.encode().into(),
        path: FILE.into(),
    };
    world.command(seed, Command::Share(share));
    world.run_for(s(5));
    let leech = agent(world, &format!("leech of {name}"), to, None);
    let request = GetRequest {
        metainfo: Some(meta.encode().into()),
        output: FILE.into(),
        peers: vec![format!("{addr}:7680").parse().unwrap()],
        require_peers: true,
        foreground: true,
        ..GetRequest::default()
    };
    world.command(leech, Command::Get(request));
    leech
}

/// Two devices of one home, whose peers' kernels wait for a second segment before they acknowledge one: neither takes
/// that for a queue, whenever the second comes, and the first, whose small packets have seen the line empty, does not
/// leave it to the second.
#[test]
fn delayed_acknowledgements_keep_no_upload_at_its_floor() {
    for later_ms in [0, 330, 660, 990] {
        let net = NetSpec {
            delayed_acks: true,
            ..NetSpec::default()
        };
        let (mut world, site) = world(1, net);
        let one = upload(&mut world, site, "one", "10.0.0.1", "192.0.2.1");
        world.run_for(s(15));
        let alone = rate_of(&mut world, one, s(10));
        world.run_for(Duration::from_millis(later_ms));
        let other = upload(&mut world, site, "other", "10.0.0.2", "192.0.2.2");
        world.run_for(s(10));
        let mut least = RATE;
        let mut means = [0; 2];
        for _ in 0..20 {
            let before = world.traffic(one).1.bytes;
            let of_other = rate_of(&mut world, other, s(5));
            let of_one = (world.traffic(one).1.bytes - before) / 5;
            least = least.min(of_one).min(of_other);
            means = [means[0] + of_one / 20, means[1] + of_other / 20];
        }
        println!("{later_ms} ms: alone {alone}, then {means:?}, the least {least} bytes a second");
        assert!(alone >= RATE * 90 / 100 && means[0] + means[1] >= RATE * 90 / 100);
        assert!(least >= RATE * 10 / 100, "it stood at its floor: {least}");
        let differ = means[0].abs_diff(means[1]);
        assert!(differ <= RATE * 5 / 100, "shares differ by {differ}");
    }
}

#[test]
fn an_upload_to_a_peer_gives_way() {
    let (mut world, site) = world(2, NetSpec::default());
    let leech = upload(&mut world, site, "seed", "10.0.0.1", "192.0.2.1");
    world.run_for(s(10));
    let alone = rate_of(&mut world, leech, s(20));
    assert!(alone >= RATE * 90 / 100, "it fills the line: {alone}");
    // A person at the seed's home sends a film to somebody.
    let bytes = world.content("film", (256 * MIB) as usize);
    let spec = HostSpec::at("10.0.0.2")
        .listen(Listener::Http, 80)
        .site(site);
    world.host("person", Bulk::new(bytes, 64 * 1024), spec);
    let spec = HostSpec::at("192.0.2.9");
    let friend = world.host("friend", Reader::fast(to("10.0.0.2:80")), spec);
    world.run_for(s(10));
    let before = world.traffic(leech).1.bytes;
    let theirs = rate_of(&mut world, friend, s(30));
    let ours = (world.traffic(leech).1.bytes - before) / 30;
    println!("upload: alone {alone}, then {ours} beside {theirs} bytes a second");
    assert!(theirs >= RATE * 93 / 100 && ours <= RATE * 5 / 100);
}

/// Somebody begins to wait for a download that has given way so far.
#[test]
fn a_download_that_is_promoted_has_full_speed_in_two_round_trips() {
    let (mut world, site, device, get) = home_download(3, NetSpec::default(), false);
    person(&mut world, site);
    world.run_for(s(20));
    let before = rate_of(&mut world, device, s(10));
    assert!(before <= RATE * 5 / 100, "it gives way: {before}");
    let mut prioritise = |foreground| {
        let command = Command::Prioritise {
            get: get.id,
            foreground,
        };
        let call = world.command(device, command);
        // The line is full: a round trip is some 120 ms.
        world.run_for(Duration::from_millis(240));
        let replied = world.reply(call);
        assert!(matches!(replied, Some(Reply::Prioritised(true))));
        rate_of(&mut world, device, s(10))
    };
    let after = prioritise(true);
    assert!(after >= RATE * 25 / 100, "plain TCP's part: {after}");
    // What the servers may send by the window they have seen, they send.
    prioritise(false);
    let back = rate_of(&mut world, device, s(10));
    println!("promoted: {before} before, {after} after, {back} when nobody waits any more");
    assert!(back <= RATE * 10 / 100, "it gives way again: {back}");
}
