//! The simulator's own behaviour: streams, links, disks, kills.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use core::time::Duration;
use dovetail_core::machine::{Endpoint, Host, Listener, Lost};
use dovetail_core::sim::toys::{Bulk, Reader};
use dovetail_core::sim::{HostSpec, Kill, LinkSpec, Reads, World, seeds};

const SECOND: Duration = Duration::from_secs(1);
const MIB: usize = 1024 * 1024;

fn to(addr: &str) -> Endpoint {
    Endpoint {
        host: Host::Addr(addr.parse().unwrap()),
        port: 80,
        tls: None,
    }
}

/// Serve `len` bytes over these links to one reader; its machine afterwards holds all.
fn transfer(seed: u64, len: usize, up: LinkSpec, down: LinkSpec, reads: Reads) -> (World, f64) {
    let mut world = World::new(seed);
    world.net.reads = reads;
    let content = world.content("file", len);
    let server = HostSpec::at("10.0.0.1")
        .listen(Listener::Http, 80)
        .links(up, up);
    world.host("server", Bulk::new(content.clone(), 100_000), server);
    let client = HostSpec::at("10.0.0.2").links(down, down);
    let client = world.host("client", Reader::fast(to("10.0.0.1")), client);
    let done = |w: &World| w.machine::<Reader>(client).is_done();
    world
        .run_until(done, SECOND * 1000)
        .unwrap_or_else(|e| panic!("{e}"));
    let reader = world.machine::<Reader>(client);
    assert_eq!(reader.closed.as_ref().unwrap().0, Lost::Eof);
    assert!(reader.bytes() == content, "the bytes are the same");
    let took = world.now().as_secs_f64();
    (world, took)
}

#[test]
fn a_transfer_takes_as_long_as_its_narrowest_link() {
    for (up, down) in [(10, 100), (100, 10)] {
        let [up, down] = [up, down].map(|mb| LinkSpec::rate(mb * 1_000_000));
        let (_, took) = transfer(1, 20_000_000, up, down, Reads::AsSent);
        assert!((2.0..2.1).contains(&took), "{took}");
    }
}

#[test]
fn a_long_link_is_filled_after_slow_start() {
    let link = LinkSpec::rate(10_000_000).delay(Duration::from_millis(25));
    let (_, took) = transfer(1, 20_000_000, link, link, Reads::AsSent);
    assert!((2.2..3.5).contains(&took), "{took}");
}

#[test]
fn loss_jitter_and_reordering_slow_a_stream_and_harm_no_byte() {
    let clean = LinkSpec::rate(10_000_000).delay(Duration::from_millis(5));
    let lossy = clean
        .loss_ppm(20_000)
        .jitter(Duration::from_millis(2))
        .reorder_ppm(20_000);
    for seed in seeds(1..=5) {
        let (_, fast) = transfer(seed, 4 * MIB, clean, clean, Reads::AsSent);
        let (world, slow) = transfer(seed, 4 * MIB, lossy, lossy, Reads::AsSent);
        let server = world.find("server").unwrap();
        assert!(world.traffic(server).0.lost > 0);
        assert!(slow > fast && slow < 30.0 * fast, "{fast} {slow}");
    }
}

#[test]
fn a_short_queue_drops_and_the_stream_still_uses_most_of_the_link() {
    let up = LinkSpec::LAN.delay(Duration::from_millis(5));
    let down = LinkSpec::rate(5_000_000).queue(128 * 1024);
    let (world, took) = transfer(3, 20 * MIB, up, down, Reads::AsSent);
    let client = world.find("client").unwrap();
    assert!(world.traffic(client).1.dropped > 0);
    assert!(took < 1.3 * (20 * MIB) as f64 / 5e6, "{took}");
}

#[test]
fn however_reads_are_cut_the_bytes_are_the_same() {
    for reads in [Reads::AsSent, Reads::Chopped, Reads::Merged] {
        transfer(4, MIB, LinkSpec::LAN, LinkSpec::LAN, reads);
    }
}

#[test]
fn streams_of_one_host_share_its_uplink_evenly() {
    let mut world = World::new(9);
    let content = world.content("file", 8 * MIB);
    let slow = LinkSpec::rate(4_000_000);
    let server = HostSpec::at("10.0.0.1")
        .listen(Listener::Http, 80)
        .links(slow, slow);
    world.host("server", Bulk::new(content, 16 * 1024), server);
    let clients: Vec<_> = (2..6)
        .map(|i| {
            let spec = HostSpec::at(&format!("10.0.0.{i}"));
            world.host(&format!("client {i}"), Reader::fast(to("10.0.0.1")), spec)
        })
        .collect();
    world.run_for(SECOND * 4);
    for client in clients {
        let received = world.machine::<Reader>(client).received;
        assert!((3_700_000..4_100_000).contains(&received), "{received}");
    }
}

#[test]
fn hosts_of_a_site_share_its_line_but_not_among_themselves() {
    let mut world = World::new(9);
    let content = world.content("file", 2_000_000);
    let line = LinkSpec::rate(1_000_000).delay(Duration::from_millis(10));
    let site = world.site("office", line, line);
    let outside = HostSpec::at("192.0.2.1").listen(Listener::Http, 80);
    world.host("outside", Bulk::new(content.clone(), 50_000), outside);
    let inside = HostSpec::at("10.0.0.1")
        .listen(Listener::Http, 80)
        .site(site);
    world.host("inside", Bulk::new(content, 50_000), inside);
    let mut readers = Vec::new();
    for (i, from) in ["192.0.2.1", "192.0.2.1", "10.0.0.1"].iter().enumerate() {
        let spec = HostSpec::at(&format!("10.0.0.{}", 10 + i)).site(site);
        readers.push(world.host(&format!("reader {i}"), Reader::fast(to(from)), spec));
    }
    world.run_for(Duration::from_millis(200));
    assert!(world.machine::<Reader>(readers[2]).is_done());
    let all = |w: &World| readers.iter().all(|r| w.machine::<Reader>(*r).is_done());
    world
        .run_until(all, SECOND * 20)
        .unwrap_or_else(|e| panic!("{e}"));
    let took = world.now().as_secs_f64();
    assert!((4.0..5.0).contains(&took), "{took}");
    assert!(world.site_traffic(site).1.bytes >= 4_000_000);
}

#[test]
fn a_killed_process_ends_its_streams_and_a_power_cut_leaves_them_hanging() {
    for how in [Kill::Process, Kill::Power] {
        let mut world = World::new(2);
        let content = world.content("file", 50 * MIB);
        let server = HostSpec::at("10.0.0.1").listen(Listener::Http, 80);
        let server = world.host("server", Bulk::new(content, 100_000), server);
        let spec = HostSpec::at("10.0.0.2");
        let say = Bytes::from(vec![0; 8 * MIB]);
        let reader = Reader::new(to("10.0.0.1"), say, MIB as u32, Duration::ZERO);
        let client = world.host("client", reader, spec);
        world.run_for(Duration::from_millis(100));
        world.kill(server, how);
        let done = |w: &World| w.machine::<Reader>(client).is_done();
        world
            .run_until(done, SECOND * 200)
            .unwrap_or_else(|e| panic!("{e}"));
        let reader = world.machine::<Reader>(client);
        let (why, took) = (reader.closed.clone().unwrap().0, world.now());
        match how {
            // Its kernel held unread bytes of ours: it resets.
            Kill::Process => assert!(why == Lost::Reset && took < SECOND, "{why:?} {took:?}"),
            Kill::Power => {
                assert!(
                    why == Lost::TimedOut && took > SECOND * 50,
                    "{why:?} {took:?}"
                );
            }
        }
    }
}

#[test]
fn after_a_power_cut_the_restarted_host_knows_no_old_stream() {
    let mut world = World::new(2);
    let content = world.content("file", 50 * MIB);
    let spec = HostSpec::at("10.0.0.1").listen(Listener::Http, 80);
    let server = world.host("server", Bulk::new(content.clone(), 100_000), spec);
    let reader = Reader::new(to("10.0.0.1"), Bytes::from(vec![0; 8 * MIB]), 1, SECOND);
    let client = world.host("client", reader, HostSpec::at("10.0.0.2"));
    world.run_for(Duration::from_millis(30));
    world.kill(server, Kill::Power);
    world.run_for(SECOND);
    world.restart(server, Bulk::new(content, 100_000));
    let done = |w: &World| w.machine::<Reader>(client).is_done();
    world
        .run_until(done, SECOND * 50)
        .unwrap_or_else(|e| panic!("{e}"));
    let closed = world.machine::<Reader>(client).closed.clone();
    assert_eq!(closed.unwrap().0, Lost::Reset);
}

#[test]
fn a_partition_stops_a_stream_and_healing_it_goes_on() {
    let mut world = World::new(2);
    let content = world.content("file", 20 * MIB);
    let slow = LinkSpec::rate(10_000_000);
    let spec = HostSpec::at("10.0.0.1")
        .listen(Listener::Http, 80)
        .links(slow, slow);
    let server = world.host("server", Bulk::new(content.clone(), 100_000), spec);
    let client = world.host(
        "client",
        Reader::fast(to("10.0.0.1")),
        HostSpec::at("10.0.0.2"),
    );
    world.run_for(SECOND);
    world.partition(server, client);
    world.run_for(SECOND);
    let before = world.machine::<Reader>(client).received;
    world.run_for(SECOND * 5);
    assert_eq!(world.machine::<Reader>(client).received, before);
    world.heal(server, client);
    let done = |w: &World| w.machine::<Reader>(client).is_done();
    world
        .run_until(done, SECOND * 20)
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(world.machine::<Reader>(client).bytes() == content);
}
