//! The throughput check of both shells.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a check may fail loudly"
)]

#[path = "mod.rs"]
mod toys;

use dovetail_core::machine::{Endpoint, Host, Input, Listener, Machine, Output};
use dovetail_core::time::{Deadline, Now};
use dovetail_std::{ListenOn, Options, Runtime, channel};
use rustix::time::{ClockId, clock_gettime};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::process::{Command, Stdio};
use std::time::Instant;
use toys::{Giver, PIECE, Taker, pattern};

pub fn main<R: Runtime>() {
    let mut args = std::env::args().skip(1);
    let first = args.next().unwrap_or("1024".into());
    if first == "give" {
        return give::<R>(args);
    }
    let mib: u64 = first.parse().expect("MIB");
    let mode = args.next().unwrap_or("memory".into());
    let dir = args.next().unwrap_or("/tmp".into());
    let source = format!("{dir}/throughput.in");
    let target = format!("{dir}/throughput.out");
    if mode == "disk" && std::fs::metadata(&source).map_or(0, |m| m.len()) != mib << 20 {
        let mut file = std::fs::File::create(&source).expect("source");
        for piece in 0..mib {
            let bytes = pattern(piece << 20, PIECE);
            file.write_all(&bytes).expect("write");
        }
    }
    let program = std::env::current_exe().expect("exe");
    let mut giver = Command::new(program)
        .args(["give", &mib.to_string(), &mode, &source])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("giver");
    let mut lines = BufReader::new(giver.stdout.take().expect("out")).lines();
    let at: SocketAddr = lines
        .next()
        .expect("line")
        .expect("line")
        .parse()
        .expect("addr");
    let _ = std::fs::remove_file(&target);
    let start = Instant::now();
    let to = Endpoint {
        host: Host::Addr(at.ip()),
        port: at.port(),
        tls: None,
    };
    let path = (mode == "disk").then_some(target);
    let taker = Taker::new(to, path);
    let (_, commands) = channel();
    let taker = R::run(taker, Options::default(), commands, |_| {
        ControlFlow::Break(())
    });
    let taker = taker.expect("taker");
    assert_eq!(taker.taken, mib << 20);
    let wall = start.elapsed().as_secs_f64();
    let given: f64 = lines
        .next()
        .expect("line")
        .expect("line")
        .parse()
        .expect("cpu");
    let taken = cpu();
    giver.wait().expect("giver");
    let gib = mib as f64 / 1024.0;
    println!(
        "{:.0} MiB/s, CPU-s/GiB: giver {:.2} + taker {:.2} = {:.2}; {} reads of {} KiB; taker at most {} MiB",
        mib as f64 / wall,
        given / gib,
        taken / gib,
        (given + taken) / gib,
        taker.reads,
        (mib << 10) / taker.reads.max(1),
        peak_mib(),
    );
}

fn give<R: Runtime>(mut args: impl Iterator<Item = String>) {
    let mib: u64 = args.next().expect("mib").parse().expect("mib");
    let is_disk = args.next().as_deref() == Some("disk");
    let path = is_disk.then(|| args.next().expect("path"));
    let memory = (!is_disk).then(|| pattern(0, PIECE));
    let giver = Announced(Giver::new(mib << 20, memory, path));
    let options = Options {
        listen: vec![(
            Listener::Http,
            ListenOn::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))),
        )],
        ..Options::default()
    };
    let (_, commands) = channel();
    let run = R::run(giver, options, commands, |_| ControlFlow::Break(()));
    run.map(drop).expect("giver");
    println!("{}", cpu());
}

fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("linux");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.split_whitespace().next());
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 10
}

struct Announced(Giver);

impl Machine for Announced {
    fn handle(&mut self, now: Now, input: Input) {
        if let Input::Listening { at, .. } = &input {
            println!("{at}");
        }
        self.0.handle(now, input);
    }

    fn poll(&mut self) -> Option<Output> {
        self.0.poll()
    }

    fn deadline(&self) -> Option<Deadline> {
        self.0.deadline()
    }
}
