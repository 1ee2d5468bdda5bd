//! `doctor`: the real program looks at real agents, coordinators and settings, and says what is wrong.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot set its scene must fail"
)]

mod program;

use dovetail_core::api::{CheckLine, DoctorLine, Line, Verdict};
use dovetail_core::doctor::NAMES;
use dovetail_core::failure::FailureKind;
use program::{Ended, Folder};
use rustix::process::Signal;
use std::fs;
use std::net::TcpListener;

/// The checks, the last line of the doctor, and whether the command failed for them.
fn examine(folder: &Folder, args: &[&str]) -> (Vec<CheckLine>, DoctorLine) {
    let ended = folder.run(&[&["--json", "doctor"], args].concat());
    let mut checks = Vec::new();
    let mut last = None;
    for text in ended.stdout.lines() {
        match Line::parse(text).unwrap() {
            Line::Check(check) => checks.push(check),
            Line::Doctor(line) => last = Some(line),
            Line::Failed(failed) => {
                assert_eq!(failed.failure.kind, FailureKind::Unwell);
                assert_eq!(failed.exit_code, 9);
            }
            other => panic!("{other:?}"),
        }
    }
    let line = last.unwrap();
    assert_eq!(line, DoctorLine::of(&checks));
    assert_eq!(ended.code, Some(if line.problems > 0 { 9 } else { 0 }));
    let places: Vec<_> = checks
        .iter()
        .map(|check| NAMES.iter().position(|name| *name == check.name).unwrap())
        .collect();
    assert!(places.is_sorted(), "{checks:?}");
    (checks, line)
}

#[track_caller]
fn check<'c>(checks: &'c [CheckLine], name: &str) -> &'c CheckLine {
    let found = checks.iter().find(|check| check.name == name);
    found.unwrap_or_else(|| panic!("{name}: {checks:#?}"))
}

#[test]
fn without_an_agent_it_says_so_and_looks_at_the_rest() {
    let folder = Folder::new();
    let Ended {
        code,
        stdout,
        stderr,
    } = folder.run(&["doctor"]);
    assert_eq!(code, Some(9), "{stdout}{stderr}");
    let head = "problem  agent         none runs in DIR/home\n                       \
                do:  start one with `dovetail agent --share`, or name its folder with --home\n";
    assert!(stdout.starts_with(head), "{stdout}");
    assert!(
        stdout.contains("ok       settings      2 are set, and count\n"),
        "{stdout}"
    );
    assert!(stderr.starts_with("error: the agent of DIR/home cannot use peers as it should: "));
    let (checks, _) = examine(&folder, &[]);
    assert_eq!(check(&checks, "agent").verdict, Verdict::Problem);
    assert_eq!(check(&checks, "coordinator").verdict, Verdict::Warning);
    assert!(checks.iter().all(|check| check.name != "sharing"));
}

#[test]
fn a_running_agent_is_asked_and_its_port_is_tried() {
    let folder = Folder::new();
    let coordinator = ["coordinator", "--listen", "127.0.0.1:0"];
    let mut coordinator = folder.start(&coordinator);
    let url = format!("http://{}", coordinator.listening());
    let args = [
        "agent",
        "--share",
        "--listen",
        "0.0.0.0:0",
        "--coordinator",
        &url,
    ];
    let mut agent = folder.start(&args);
    agent.listening();
    let (checks, _) = examine(&folder, &[]);
    for name in [
        "agent",
        "mode",
        "sharing",
        "listening",
        "port_mapping",
        "nat",
        "clock",
    ] {
        let check = check(&checks, name);
        assert_eq!(check.verdict, Verdict::Ok, "{check:?}");
    }
    let told = &check(&checks, "coordinator").what;
    assert!(told.starts_with(&format!("{url} answers in ")), "{told}");
    assert_eq!(
        check(&checks, "clock").what,
        "it agrees with the coordinator's"
    );
    let listening = &check(&checks, "listening").what;
    assert!(listening.ends_with(", over TCP and UDP"), "{listening}");
    assert_eq!(
        check(&checks, "port_mapping").why,
        "mode lan has no peers in other networks"
    );
    assert_eq!(
        check(&checks, "port_mapping").setting,
        "download_mode = lan (built in)"
    );
    // What is set while it runs is seen, with whoever set it.
    folder
        .run(&["config", "set", "download_mode", "simple"])
        .ok();
    let (checks, line) = examine(&folder, &[]);
    let mode = check(&checks, "mode");
    assert_eq!((mode.verdict, line.problems > 0), (Verdict::Problem, true));
    assert_eq!(
        mode.setting,
        "download_mode = simple (set by DIR/home/dovetail.toml:1)"
    );
    assert_eq!(mode.remedy, "`dovetail config set download_mode lan`");
    for role in [&mut agent, &mut coordinator] {
        role.signal(Signal::TERM);
        assert!(role.end().1.success());
    }
}

#[test]
fn a_coordinator_that_does_not_answer_and_a_typo_are_told() {
    let folder = Folder::new();
    fs::create_dir_all(folder.path().join("etc")).unwrap();
    let file = folder.path().join("etc/dovetail.toml");
    fs::write(file, "upload_slots = 0\n").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (checks, _) = examine(&folder, &["--coordinator", &url]);
    let coordinator = check(&checks, "coordinator");
    assert_eq!(coordinator.verdict, Verdict::Problem);
    assert!(
        coordinator.why.contains("connection refused"),
        "{coordinator:?}"
    );
    let settings = check(&checks, "settings");
    assert_eq!(settings.verdict, Verdict::Warning);
    assert!(
        settings
            .why
            .starts_with("DIR/etc/dovetail.toml:1: upload_slots: "),
        "{settings:?}"
    );
}

#[test]
fn proxies_are_shown_without_passwords() {
    let folder = Folder::new();
    let mut command = folder.dovetail(&["doctor"]);
    command.env("http_proxy", "http://user:secret@proxy:3128");
    let shown = folder.run_as(&mut command).stdout;
    assert!(shown.contains("http_proxy = http://proxy:3128"), "{shown}");
    assert!(!shown.contains("secret"), "{shown}");
}
