//! `dovetail demo`, as real processes: what it shows, and that it leaves nothing behind.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot set its scene must fail"
)]

mod program;

use dovetail_core::api::Line;
use dovetail_core::failure::FailureKind;
use program::{Folder, Running, becomes, code};
use rustix::process::Signal;
use std::fs;

/// A demo whose folder lies in this one's.
fn start(folder: &Folder, args: &[&str]) -> Running {
    let mut command = folder.dovetail(&[&["demo", "--json"], args].concat());
    Running::start(command.env("TMPDIR", folder.path()))
}

fn left_in(folder: &Folder) -> Vec<String> {
    let names = fs::read_dir(folder.path()).unwrap();
    names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("dovetail-demo-"))
        .collect()
}

/// Processes that a demo with this id has started, as the kernel lists them.
fn parts_of(demo: u32) -> usize {
    let wanted = format!("--die-with\0{demo}\0");
    let processes = fs::read_dir("/proc").unwrap();
    processes
        .filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok())
        .filter(|command| String::from_utf8_lossy(command).contains(&wanted))
        .count()
}

#[test]
fn every_device_gets_the_file_mostly_from_the_others() {
    let folder = Folder::new();
    let mut demo = start(
        &folder,
        &[
            "--devices",
            "4",
            "--size",
            "24MiB",
            "--origin-limit",
            "12MB/s",
        ],
    );
    let mut devices = Vec::new();
    let result = loop {
        match demo.line() {
            Line::DemoProgress(_) => {}
            Line::DemoDevice(device) => devices.push(device),
            Line::Demo(result) => break result,
            line => panic!("{line:?}"),
        }
    };
    let (_, status) = demo.end();
    assert_eq!(code(status), 0);
    assert_eq!(
        devices.iter().map(|line| line.device).collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
    for device in &devices {
        assert!(device.verified, "{device:?}");
        assert_eq!(device.received.total(), 24 << 20, "{device:?}");
    }
    assert!(result.verified);
    assert_eq!(
        (result.file.as_str(), result.length),
        ("demo-24MiB.bin", 24 << 20)
    );
    assert!(
        (1000..=1300).contains(&result.origin_copies_permille),
        "{result:?}"
    );
    assert!(result.from_peers_permille >= 650, "{result:?}");
    assert!(result.elapsed_us >= result.bound_us * 9 / 10, "{result:?}");
    assert_eq!(left_in(&folder), [""; 0]);
    assert_eq!(parts_of(demo.id()), 0);
}

#[test]
fn in_words_it_ends_with_a_table_and_what_to_try_next() {
    let folder = Folder::new();
    folder.file("a b.bin", 2 << 20);
    let mut command = folder.dovetail(&["demo", "a b.bin", "--devices", "2", "--keep"]);
    let ended = folder.run_as(command.env("TMPDIR", folder.path()));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let (head, rest) = ended.stdout.split_once('\n').unwrap();
    assert_eq!(
        head,
        "device          time    from origin     from peers   SHA-256"
    );
    assert_eq!(rest.matches("   right\n").count(), 2, "{ended:?}");
    assert!(rest.contains("\n2 devices got a b.bin in "), "{ended:?}");
    assert!(
        ended.stderr.starts_with(
            "spreading a b.bin (your file, 2 MiB) to 2 devices, from an origin that sends 20 MB/s\n"
        ),
        "{ended:?}"
    );
    let [kept] = &left_in(&folder)[..] else {
        panic!("{:?}", left_in(&folder));
    };
    assert!(
        ended
            .stderr
            .contains(&format!("\neverything is in DIR/{kept}\nTry next:\n")),
        "{ended:?}"
    );
    let spread = folder.read(&format!("{kept}/device-2/a b.bin"));
    assert!(spread == folder.read("a b.bin"));
}

#[test]
fn ctrl_c_ends_everything() {
    let folder = Folder::new();
    let mut demo = start(
        &folder,
        &[
            "--devices",
            "2",
            "--size",
            "64MiB",
            "--origin-limit",
            "8MB/s",
        ],
    );
    demo.until(|line| matches!(line, Line::DemoProgress(_)));
    assert!(parts_of(demo.id()) >= 6, "{} parts", parts_of(demo.id()));
    demo.signal(Signal::INT);
    let (last, status) = demo.end();
    assert_eq!(code(status), 130);
    assert!(
        matches!(last, Some(Line::Failed(line)) if line.failure.kind == FailureKind::Interrupted)
    );
    assert_eq!(left_in(&folder), [""; 0]);
    assert_eq!(parts_of(demo.id()), 0);
}

#[test]
fn when_it_is_killed_its_parts_die_with_it() {
    let folder = Folder::new();
    let mut demo = start(
        &folder,
        &[
            "--devices",
            "2",
            "--size",
            "64MiB",
            "--origin-limit",
            "8MB/s",
        ],
    );
    demo.until(|line| matches!(line, Line::DemoProgress(_)));
    let id = demo.id();
    demo.signal(Signal::KILL);
    becomes("no part of the demo is left", || parts_of(id) == 0);
}
