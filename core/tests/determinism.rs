//! The same seed and the same calls give the same run, byte for byte, in whatever order hosts were added.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use core::time::Duration;
use dovetail_core::content::Digest;
use dovetail_core::machine::{Endpoint, Host, Listener};
use dovetail_core::sim::toys::{Bulk, Echo, OpAsker, Pinger, Reader};
use dovetail_core::sim::{ClockSpec, DiskSpec, HostId, HostSpec, Kill, LinkSpec, World, seeds};

const MS: Duration = Duration::from_millis(1);
const HOSTS: usize = 14;

fn addr(n: usize) -> String {
    format!("10.0.0.{}", n + 1)
}

fn to(n: usize) -> Endpoint {
    Endpoint {
        host: Host::Addr(addr(n).parse().unwrap()),
        port: 7680,
        tls: None,
    }
}

fn spec(n: usize) -> HostSpec {
    let link = LinkSpec::rate(2_000_000)
        .delay(MS * (1 + n as u32))
        .jitter(MS)
        .queue(100_000)
        .loss_ppm(3000)
        .reorder_ppm(3000);
    let disk = DiskSpec {
        jitter: MS,
        ..DiskSpec::default()
    };
    let clock = ClockSpec {
        offset_us: 1000 * n as i64,
        drift_ppm: 17 * n as i32 - 100,
        utc_offset_s: 3600,
    };
    HostSpec::at(&addr(n))
        .listen(Listener::Peers, 7680)
        .links(link, link)
        .disk(disk)
        .clock(clock)
}

fn add(world: &mut World, n: usize, content: &Bytes) -> HostId {
    let name = format!("host {n}");
    let say = content.slice(..200_000);
    match n {
        0 | 1 => world.host(&name, Bulk::new(content.clone(), 30_000), spec(n)),
        2 | 3 => world.host(&name, Echo::default(), spec(n)),
        4 | 5 => world.host(&name, OpAsker::new("/home"), spec(n)),
        6 | 7 => {
            let peer = format!("{}:7680", addr(13 - n)).parse().unwrap();
            world.host(&name, Pinger::new(Some(peer), 50, MS * 13), spec(n))
        }
        8..=10 => world.host(&name, Reader::fast(to(n % 2)), spec(n)),
        _ => {
            let reader = Reader::new(to(2 + n % 2), say, 20_000, MS * 9);
            world.host(&name, reader, spec(n))
        }
    }
}

/// All kinds of things at once, lossy links and a crash included.
fn busy(seed: u64, order: &[usize]) -> Digest {
    let mut world = World::new(seed);
    let content = world.content("file", 1_000_000);
    let mut ids = [None; HOSTS];
    for n in order {
        ids[*n] = Some(add(&mut world, *n, &content));
    }
    let id = |n: usize| ids[n].unwrap();
    world.run_for(MS * 700);
    world.kill(id(0), Kill::Power);
    world.kill(id(3), Kill::Process);
    world.partition(id(1), id(9));
    world.run_for(MS * 500);
    world.restart(id(0), Bulk::new(content, 30_000));
    world.heal(id(1), id(9));
    world.run_for(MS * 20_000);
    assert!(world.steps() > 1000, "it was busy");
    world.digest()
}

#[test]
fn a_run_repeats_itself() {
    let order: Vec<usize> = (0..HOSTS).collect();
    for seed in seeds(1..=5) {
        assert_eq!(busy(seed, &order), busy(seed, &order), "SIM_SEED={seed}");
    }
}

#[test]
fn the_order_of_adding_hosts_does_not_matter() {
    let order: Vec<usize> = (0..HOSTS).collect();
    let reversed: Vec<usize> = (0..HOSTS).rev().collect();
    let mixed: Vec<usize> = (0..HOSTS).map(|n| n * 5 % HOSTS).collect();
    for seed in seeds(1..=5) {
        let digest = busy(seed, &order);
        assert_eq!(digest, busy(seed, &reversed), "SIM_SEED={seed}");
        assert_eq!(digest, busy(seed, &mixed), "SIM_SEED={seed}");
    }
}

#[test]
fn seeds_differ() {
    let order: Vec<usize> = (0..HOSTS).collect();
    assert_ne!(busy(1, &order), busy(2, &order));
}
