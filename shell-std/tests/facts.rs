//! Facts of the real host, and of network namespaces with interfaces made for the test.
//!
//! A test that needs a namespace runs itself again inside of one; where that is not allowed, or the kernel lacks a
//! kind of interface, it says so and passes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot set its scene must fail"
)]

use dovetail_core::host::{HostFacts, Interface, LinkKind};
use dovetail_std::dnssd::{self, Browser};
use dovetail_std::facts::{Places, Watch, gather};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn places() -> Places {
    Places::system(std::env::temp_dir())
}

#[test]
fn this_host_is_plausible() {
    let facts = gather(&places());
    println!("{facts:#?}");
    let loopback = interface(&facts, "lo");
    assert_eq!(loopback.link, LinkKind::Loopback);
    assert!(loopback.subnets.iter().any(|s| s.addr.is_loopback()));
    assert!(facts.ram_bytes.is_some_and(|bytes| bytes > 16 << 20));
    assert!(
        facts
            .disk
            .is_some_and(|disk| disk.free_bytes < disk.total_bytes)
    );
    assert!(facts.battery.is_none_or(|battery| battery.percent <= 100));
    assert_eq!(facts.found_caches, Vec::<String>::new());
}

fn interface<'f>(facts: &'f HostFacts, name: &str) -> &'f Interface {
    let mut all = facts.interfaces.iter();
    all.find(|interface| interface.name == name).unwrap()
}

/// True inside the namespace. Outside, runs the test of this name inside of one, and is false.
fn within(test: &str) -> bool {
    const WITHIN: &str = "DOVETAIL_TEST_WITHIN";
    if std::env::var_os(WITHIN).is_some() {
        return true;
    }
    // As this user in a namespace of users first; where that is not allowed, root may do without.
    let ways = [
        &["--user", "--map-root-user", "--net", "--mount"][..],
        &["--net", "--mount"],
    ];
    let script = "mount -t sysfs sysfs /sys && ip link set lo up && exec \"$@\"";
    for way in ways {
        let unshare = |args: &[&str]| {
            let mut command = Command::new("unshare");
            command
                .args(way)
                .args(["sh", "-c", script, "sh"])
                .args(args);
            command
        };
        let tried = unshare(&["true"]).stderr(Stdio::null()).status();
        if !tried.is_ok_and(|status| status.success()) {
            continue;
        }
        let own = std::env::current_exe().unwrap();
        let inside = unshare(&[own.to_str().unwrap(), "--exact", test, "--nocapture"])
            .env(WITHIN, "1")
            .output()
            .unwrap();
        println!("{}", String::from_utf8_lossy(&inside.stdout));
        let said = String::from_utf8_lossy(&inside.stderr);
        assert!(inside.status.success(), "{said}");
        return false;
    }
    println!("skipped: network namespaces are not allowed here");
    false
}

/// Did it work? If not, says what is missing.
fn ip(command: &str) -> bool {
    let done = Command::new("ip")
        .args(command.split_ascii_whitespace())
        .output();
    let works = done.is_ok_and(|done| done.status.success());
    if !works {
        println!("not here: ip {command}");
    }
    works
}

#[test]
fn kinds_of_real_interfaces() {
    if !within("kinds_of_real_interfaces") {
        return;
    }
    let mut made = Vec::new();
    for (name, add, kind) in [
        ("t0", "tuntap add t0 mode tun", LinkKind::Tun),
        ("t1", "tuntap add t1 mode tap", LinkKind::Tun),
        ("t2", "tuntap add t2 mode tap", LinkKind::Virtual),
        ("w0", "link add w0 type wireguard", LinkKind::Wireguard),
        ("d0", "link add d0 type dummy", LinkKind::Virtual),
        ("b0", "link add b0 type bridge", LinkKind::Virtual),
        (
            "v0",
            "link add v0 type veth peer name v1",
            LinkKind::Virtual,
        ),
        (
            "i0",
            "link add i0 type ipip local 10.1.0.1 remote 10.1.0.2",
            LinkKind::Tunnel,
        ),
        (
            "g0",
            "link add g0 type gre local 10.1.0.1 remote 10.1.0.2",
            LinkKind::Tunnel,
        ),
        (
            "x0",
            "link add x0 type xfrm dev lo if_id 7",
            LinkKind::Tunnel,
        ),
    ] {
        if ip(add) {
            made.push((name, kind));
        }
    }
    let has = |name: &str| made.iter().any(|(made, _)| *made == name);
    if has("t2") && has("b0") {
        assert!(ip("link set t2 master b0"));
    }
    // Nothing is up yet.
    let down = gather(&places());
    let names: Vec<_> = down.interfaces.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["lo"]);
    let mut sys = tempfile("sys");
    for (name, kind) in &made {
        assert!(ip(&format!("link set {name} up")));
        // The rest is as the kernel says; only the state is made up.
        sys.mirror(name);
        let places = Places {
            root: sys.0.clone(),
            ..places()
        };
        let facts = gather(&places);
        assert_eq!(interface(&facts, name).link, *kind, "{name}");
    }
}

/// A root folder whose interfaces are those of this namespace, except that they have a carrier.
struct Mirror(std::path::PathBuf);

fn tempfile(name: &str) -> Mirror {
    let name = format!("dovetail-{name}-{}", std::process::id());
    Mirror(std::env::temp_dir().join(name))
}

impl Mirror {
    fn mirror(&mut self, name: &str) {
        use std::fs;
        let from = std::path::Path::new("/sys/class/net").join(name);
        let to = self.0.join("sys/class/net").join(name);
        fs::create_dir_all(&to).unwrap();
        for file in ["type", "uevent", "flags", "tun_flags", "ifindex"] {
            if let Ok(bytes) = fs::read(from.join(file)) {
                fs::write(to.join(file), bytes).unwrap();
            }
        }
        for folder in ["device", "wireless", "phy80211", "brport"] {
            if from.join(folder).exists() {
                fs::create_dir_all(to.join(folder)).unwrap();
            }
        }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Two ends of a cable in this namespace; false if the kernel has none.
fn cable() -> bool {
    ip("link add v0 type veth peer name v1")
        && ip("addr add 10.1.0.1/24 dev v0")
        && ip("addr add 10.1.0.2/24 dev v1")
        && ip("link set v0 up")
        && ip("link set v1 up")
}

/// Facts for which `wanted`, told within [`PATIENCE`].
fn told(facts: &Receiver<HostFacts>, what: &str, wanted: impl Fn(&HostFacts) -> bool) -> HostFacts {
    let until = Instant::now() + PATIENCE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let facts = facts
            .recv_timeout(left)
            .unwrap_or_else(|_| panic!("never told: {what}"));
        if wanted(&facts) {
            return facts;
        }
    }
}

#[test]
fn the_disk_is_the_one_with_the_shelf() {
    let disk = |facts: &HostFacts| facts.disk.map(|disk| disk.total_bytes);
    let of = |folder: &str| disk(&gather(&Places::system(folder)));
    let (sender, facts) = channel();
    let watch = Watch::start(Places::system("/"), move |facts| drop(sender.send(facts)));
    let first = facts.try_recv().expect("told before it returns");
    assert_eq!(disk(&first), of("/"));
    if of("/dev/shm") == of("/") {
        return println!("not here: two disks");
    }
    // A folder that is not there yet will be on the disk of what it is in.
    watch.move_shelf("/dev/shm/not-yet/shelf".into());
    told(&facts, "another disk", |facts| {
        disk(facts) == of("/dev/shm")
    });
}

#[test]
fn changes_of_the_network_are_told_at_once() {
    if !within("changes_of_the_network_are_told_at_once") {
        return;
    }
    let (sender, facts) = channel();
    let watch = Watch::start(places(), move |facts| drop(sender.send(facts)));
    let first = facts.try_recv().expect("told before it returns");
    assert_eq!(first.interfaces.len(), 1);
    let start = Instant::now();
    if !cable() {
        return;
    }
    let cabled = told(&facts, "the cable", |facts| {
        let subnets = facts.interfaces.iter().map(|i| i.subnets.len());
        // Loopback, and IPv4 and IPv6 of both ends.
        facts.interfaces.len() == 3 && subnets.sum::<usize>() >= 5
    });
    let v0 = interface(&cabled, "v0");
    assert_eq!(v0.link, LinkKind::Virtual);
    assert!(v0.subnets.contains(&"10.1.0.1/24".parse().unwrap()));
    assert!(!v0.default_route);
    assert!(ip("route add default via 10.1.0.2 dev v0"));
    let routed = |facts: &HostFacts| interface(facts, "v0").default_route;
    told(&facts, "the route", routed);
    assert!(ip("route del default"));
    told(&facts, "no route", |facts| !routed(facts));
    assert!(ip("-6 route add default dev v0"));
    told(&facts, "the route of IPv6", routed);
    assert!(ip("link del v0"));
    told(&facts, "no cable", |facts| facts.interfaces.len() == 1);
    assert!(
        start.elapsed() < Duration::from_secs(25),
        "that was the look every 30 s"
    );
    drop(watch);
    // Its thread lets go of the sender.
    assert!(facts.recv_timeout(PATIENCE).is_err());
}

#[test]
fn a_vpn_takes_the_default_route() {
    if !within("a_vpn_takes_the_default_route") || !cable() {
        return;
    }
    assert!(ip("route add default via 10.1.0.2 dev v0 metric 100"));
    let Some(mut vpn) = tun("t0") else { return };
    assert!(ip("addr add 10.8.0.2/24 dev t0") && ip("link set t0 up"));
    assert!(ip("route add 0.0.0.0/1 dev t0") && ip("route add 128.0.0.0/1 dev t0"));
    let facts = gather(&places());
    let t0 = interface(&facts, "t0");
    assert_eq!(t0.link, LinkKind::Tun);
    assert!(t0.subnets.contains(&"10.8.0.2/24".parse().unwrap()));
    assert!(t0.default_route);
    assert!(interface(&facts, "v0").default_route);
    assert!(!interface(&facts, "v1").default_route);
    vpn.kill().unwrap();
    vpn.wait().unwrap();
    let facts = gather(&places());
    assert!(facts.interfaces.iter().all(|i| i.name != "t0"));
}

/// A tun that is up needs a program that holds it, as a VPN's does.
fn tun(name: &str) -> Option<Child> {
    let script = "import fcntl, struct, sys\n\
        tun = open('/dev/net/tun', 'r+b', buffering=0)\n\
        TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454ca, 1, 0x1000\n\
        fcntl.ioctl(tun, TUNSETIFF, struct.pack('16sH22x', sys.argv[1].encode(), IFF_TUN | IFF_NO_PI))\n\
        print('up', flush=True)\n\
        sys.stdin.read()\n";
    let program = Command::new("python3")
        .args(["-c", script, name])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut up = String::new();
    let program = program.ok().and_then(|mut program| {
        BufReader::new(program.stdout.take()?)
            .read_line(&mut up)
            .ok()?;
        (up == "up\n").then_some(program)
    });
    if program.is_none() {
        println!("not here: a program that holds a tun");
    }
    program
}

#[test]
fn caches_are_found_over_multicast() {
    if !within("caches_are_found_over_multicast") || !cable() {
        return;
    }
    let (sender, facts) = channel();
    let watch = Watch::start(places(), move |facts| drop(sender.send(facts)));
    watch.browse(true);
    let ours = dnssd::announce(dnssd::CACHE, "office", 7682, &[("path", "/")]).unwrap();
    // Both ends of the cable are the announcer's: at first it may be known by the other.
    let ours_is = |facts: &HostFacts| facts.found_caches == ["10.1.0.1:7682"];
    told(&facts, "ours", ours_is);
    let theirs = dnssd::announce(dnssd::CONNECTED_CACHE, "mcc", 80, &[]).unwrap();
    let both = told(&facts, "theirs, too", |facts| facts.found_caches.len() == 2);
    assert!(both.found_caches.iter().any(|at| at.ends_with(":80")));
    drop(ours);
    told(&facts, "ours gone", |facts| facts.found_caches.len() == 1);
    watch.browse(false);
    told(&facts, "not looking", |facts| facts.found_caches.is_empty());
    drop(theirs);
}

#[test]
fn without_a_network_nothing_is_found() {
    if !within("without_a_network_nothing_is_found") {
        return;
    }
    assert!(ip("link set lo down"));
    let (sender, found) = channel::<Vec<String>>();
    let browser = Browser::start(move |caches| drop(sender.send(caches)));
    assert!(found.recv_timeout(Duration::from_millis(300)).is_err());
    drop(browser);
    drop(dnssd::announce(dnssd::CACHE, "nowhere", 7682, &[]));
}
