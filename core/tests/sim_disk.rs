//! Simulated disks: what survives a crash, and how long work takes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use core::time::Duration;
use dovetail_core::ids::FileId;
use dovetail_core::machine::{DiskDone, DiskOp, Effects, Input, Machine, OpenHow, Output};
use dovetail_core::sim::{DiskSpec, HostId, HostSpec, Kill, PowerCut, World};
use dovetail_core::time::{Deadline, Mono, Now};

/// Orders what the test says.
#[derive(Default)]
struct User {
    fx: Effects,
    done: Vec<(Mono, Result<DiskDone, dovetail_core::machine::DiskError>)>,
}

impl Machine for User {
    fn handle(&mut self, now: Now, input: Input) {
        if let Input::Disk { done, .. } = input {
            self.done.push((now.mono, done));
        }
    }

    fn poll(&mut self) -> Option<Output> {
        self.fx.poll()
    }

    fn deadline(&self) -> Option<Deadline> {
        None
    }
}

const FILE: FileId = FileId(1);

fn open() -> DiskOp {
    DiskOp::Open {
        file: FILE,
        path: "/data/f".into(),
        how: OpenHow::ReadWrite,
    }
}

fn write(offset: u64, byte: u8, len: usize) -> DiskOp {
    DiskOp::Write {
        file: FILE,
        offset,
        chunks: vec![Bytes::from(vec![byte; len])],
    }
}

fn run(world: &mut World, host: HostId, ops: impl IntoIterator<Item = DiskOp>) {
    for op in ops {
        world.with(host, |u: &mut User| u.fx.disk(op));
        world.run_for(Duration::from_secs(1));
        let user = world.machine::<User>(host);
        assert!(user.done.last().unwrap().1.is_ok());
    }
}

fn host(world: &mut World, power_cut: PowerCut) -> HostId {
    let disk = DiskSpec {
        power_cut,
        ..DiskSpec::default()
    };
    world.host("user", User::default(), HostSpec::at("10.0.0.1").disk(disk))
}

#[test]
fn a_power_cut_loses_what_was_not_synced_and_nothing_else() {
    let mut world = World::new(1);
    let user = host(&mut world, PowerCut::LosesUnsynced);
    let sync = DiskOp::Sync { file: FILE };
    let replace = DiskOp::Replace {
        path: "/data/small".into(),
        bytes: Bytes::from_static(b"kept"),
    };
    let ops = [
        open(),
        write(0, 1, 1000),
        sync,
        write(500, 2, 1000),
        replace,
    ];
    run(&mut world, user, ops);
    assert_eq!(world.disk(user).get("/data/f").unwrap().len(), 1500);
    world.kill(user, Kill::Power);
    assert_eq!(world.disk(user).open_files(), 0);
    assert!(world.disk(user).holds("/data/f", &[1; 1000]));
    assert!(world.disk(user).holds("/data/small", b"kept"));
    assert_eq!(world.disk(user).used(), 1004);
}

#[test]
fn a_killed_process_loses_nothing_written_but_what_was_under_way() {
    let mut world = World::new(1);
    let user = host(&mut world, PowerCut::LosesUnsynced);
    run(&mut world, user, [open(), write(0, 1, 1000)]);
    world.with(user, |u: &mut User| u.fx.disk(write(0, 9, 1000)));
    world.kill(user, Kill::Process);
    world.restart(user, User::default());
    world.run_for(Duration::from_secs(1));
    assert!(world.disk(user).holds("/data/f", &[1; 1000]));
    assert!(world.machine::<User>(user).done.is_empty());
}

#[test]
fn a_power_cut_may_keep_some_writes_and_not_others() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..10 {
        let mut world = World::new(seed);
        let user = host(&mut world, PowerCut::KeepsSome);
        let allocate = DiskOp::Allocate {
            file: FILE,
            len: 8000,
        };
        let writes = (0..8).map(|n| write(n * 1000, 1 + n as u8, 1000));
        run(&mut world, user, [open(), allocate]);
        run(&mut world, user, [DiskOp::Sync { file: FILE }]);
        run(&mut world, user, writes);
        world.kill(user, Kill::Power);
        let bytes = world.disk(user).get("/data/f").unwrap();
        assert_eq!(bytes.len(), 8000);
        for (n, part) in (1_u8..).zip(bytes.chunks(1000)) {
            assert!(part.iter().all(|b| *b == n) || part.iter().all(|b| *b == 0));
            *(if part[0] == n { &mut kept } else { &mut lost }) += 1;
        }
    }
    assert!(kept > 20 && lost > 20, "{kept} {lost}");
}

#[test]
fn a_disk_is_as_fast_as_it_is() {
    let mut world = World::new(1);
    let disk = DiskSpec {
        read_bytes_per_s: 1_000_000,
        write_bytes_per_s: 500_000,
        latency: Duration::from_millis(10),
        sync: Duration::from_millis(100),
        ..DiskSpec::default()
    };
    let user = world.host("user", User::default(), HostSpec::at("10.0.0.1").disk(disk));
    run(&mut world, user, [open()]);
    let start = world.now();
    world.with(user, |u: &mut User| {
        u.fx.disk(write(0, 1, 500_000));
        u.fx.disk(write(500_000, 1, 500_000));
        u.fx.disk(DiskOp::Sync { file: FILE });
    });
    world.run_for(Duration::from_secs(3));
    let done = world.machine::<User>(user).done[1..].iter();
    let ms: Vec<_> = done
        .map(|d| d.0.as_us() / 1000 - start.as_millis() as u64)
        .collect();
    assert_eq!(ms, [1010, 2010, 2110]);
}

#[test]
fn a_full_disk_stays_usable() {
    let mut world = World::new(1);
    let disk = DiskSpec {
        capacity_bytes: 2000,
        ..DiskSpec::default()
    };
    let user = world.host("user", User::default(), HostSpec::at("10.0.0.1").disk(disk));
    run(&mut world, user, [open(), write(0, 1, 1500)]);
    world.with(user, |u: &mut User| u.fx.disk(write(1500, 1, 501)));
    world.run_for(Duration::from_secs(1));
    assert!(world.machine::<User>(user).done.last().unwrap().1.is_err());
    run(&mut world, user, [write(1500, 1, 500), write(0, 2, 2000)]);
    assert_eq!(world.disk(user).used(), 2000);
    let close = DiskOp::Close { file: FILE };
    let remove = DiskOp::Remove {
        path: "/data/f".into(),
    };
    run(&mut world, user, [remove, close]);
    assert_eq!(world.disk(user).used(), 0, "gone with its last handle");
}
