//! Settings from files, the environment and the command line, as people and scripts see them. Runs the real program.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot set its scene must fail"
)]

mod program;

use dovetail_core::api::{Line, LogLevel};
use program::{Folder, Running, becomes, code};
use rustix::process::Signal;
use std::fs;
use std::process::Command;

fn write(folder: &Folder, name: &str, text: &str) {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// What `config` says of one setting: its line and those below it.
fn told(shown: &str, name: &str) -> Vec<String> {
    let begins = format!("{name} = ");
    let mut lines = shown.lines().skip_while(|line| !line.starts_with(&begins));
    let first = lines.next().map(str::to_owned);
    let below = lines.take_while(|line| line.starts_with(' '));
    first
        .into_iter()
        .chain(below.map(|line| line.trim().to_owned()))
        .collect()
}

#[test]
fn what_is_wrong_is_told_by_line_and_the_rest_counts() {
    let folder = Folder::new();
    write(
        &folder,
        "etc/dovetail.toml",
        "# all wrong but one\nmax_upload_bandwidth = 500\nmax_cache_aeg = \"3d\"\nupload_slots = 1000\n\
         max_cache_size = 45\n",
    );
    write(&folder, "etc/dovetail.d/10-odd.toml", "max_cache_size = \n");
    write(
        &folder,
        "home/dovetail.toml",
        "[locked]\nupload_slots = 9\n",
    );
    let ended = folder.run_as(
        folder
            .dovetail(&["config"])
            .env("DOVETAIL_ALLOW_METERED", "perhaps"),
    );
    assert_eq!(
        ended.stderr,
        "warning: DIR/etc/dovetail.toml:2: max_upload_bandwidth: `500`: it needs a unit, as in 500KB/s; allowed: a \
         rate from 0 to 4TiB/s, as in 20MB/s\n\
         warning: DIR/etc/dovetail.toml:3: max_cache_aeg: there is no such setting; did you mean max_cache_age?\n\
         warning: DIR/etc/dovetail.toml:4: upload_slots: `1000`: it is too large; allowed: a number from 1 to 64\n\
         warning: DIR/etc/dovetail.d/10-odd.toml:1: string values must be quoted, expected literal string; nothing of \
         this file is taken\n\
         warning: DIR/home/dovetail.toml:1: locked: only a file of the administrator can lock settings\n\
         warning: DOVETAIL_ALLOW_METERED: allow_metered: `perhaps`: it is neither true nor false; allowed: true or \
         false\n"
    );
    assert_eq!(
        told(&ended.stdout, "max_cache_size"),
        ["max_cache_size = 45% (set by DIR/etc/dovetail.toml:5)"]
    );
    assert_eq!(
        told(&ended.stdout, "upload_slots"),
        ["upload_slots = 4 (built in)"]
    );
    assert_eq!(ended.code, Some(0));
}

#[test]
fn the_last_provider_counts_and_the_others_are_told_why_not() {
    let folder = Folder::new();
    write(
        &folder,
        "etc/admin-config.json",
        "{\n  \"DOMaxCacheAge\": 86400,\n  \"DOMaxCacheSize\": 30\n}\n",
    );
    write(&folder, "etc/dovetail.toml", "max_cache_age = \"2d\"\n");
    write(
        &folder,
        "etc/dovetail.d/20-b.toml",
        "max_cache_age = \"4d\"\n",
    );
    write(
        &folder,
        "etc/dovetail.d/10-a.toml",
        "max_cache_age = \"3d\"\n",
    );
    write(&folder, "etc/dovetail.d/.hidden.toml", "upload_slots = 9\n");
    write(&folder, "etc/dovetail.d/30-c.toml~", "upload_slots = 9\n");
    write(&folder, "home/dovetail.toml", "\nmax_cache_age = \"5d\"\n");
    let ended = folder.run_as(
        folder
            .dovetail(&["config", "--set", "max_cache_age=7d"])
            .env("DOVETAIL_MAX_CACHE_AGE", "6d"),
    );
    assert_eq!(ended.stderr, "");
    let by = "--set max_cache_age goes first";
    assert_eq!(
        told(&ended.stdout, "max_cache_age"),
        [
            "max_cache_age = 7d (set by --set max_cache_age)".to_owned(),
            format!("1d (set by DIR/etc/admin-config.json:2) ignored because {by}"),
            format!("2d (set by DIR/etc/dovetail.toml:1) ignored because {by}"),
            format!("3d (set by DIR/etc/dovetail.d/10-a.toml:1) ignored because {by}"),
            format!("4d (set by DIR/etc/dovetail.d/20-b.toml:1) ignored because {by}"),
            format!("5d (set by DIR/home/dovetail.toml:2) ignored because {by}"),
            format!("6d (set by DOVETAIL_MAX_CACHE_AGE) ignored because {by}"),
        ]
    );
    assert_eq!(
        told(&ended.stdout, "max_cache_size"),
        ["max_cache_size = 30% (set by DIR/etc/admin-config.json:3)"]
    );
    assert_eq!(
        told(&ended.stdout, "upload_slots"),
        ["upload_slots = 4 (built in)"]
    );

    write(
        &folder,
        "etc/dovetail.d/90-lock.toml",
        "[locked]\nmax_cache_age = \"1h\"\n",
    );
    let ended = folder.run(&["config", "get", "max_cache_age"]);
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("1h\n", ""));
    let ended = folder.run(&["config", "--set", "max_cache_age=7d"]);
    assert_eq!(
        ended.stderr,
        "warning: --set max_cache_age: it does not count: max_cache_age is locked by \
         DIR/etc/dovetail.d/90-lock.toml:2\n"
    );
}

#[test]
fn setting_a_value_keeps_the_rest_of_the_file() {
    let folder = Folder::new();
    let file = || String::from_utf8(folder.read("home/dovetail.toml")).unwrap();
    assert_eq!(
        folder.run(&["config", "set", "DOMaxCacheAge", "3600"]).ok(),
        "max_cache_age = 1h (set by DIR/home/dovetail.toml:1)\n"
    );
    assert_eq!(file(), "max_cache_age = \"1h\"\n");
    write(
        &folder,
        "home/dovetail.toml",
        "# ours\nmax_cache_age = \"1h\" # short\n\n[[network]]\non = \"10.0.0.0/8\"\nupload_slots = 1\n",
    );
    folder.run(&["config", "set", "max_cache_age", "2d"]).ok();
    folder.run(&["config", "set", "allow_metered", "yes"]).ok();
    folder
        .run(&[
            "config",
            "set",
            "delay_cache_server_fallback_background",
            "-1",
        ])
        .ok();
    assert_eq!(
        file(),
        "# ours\nmax_cache_age = \"2d\" # short\nallow_metered = true\n\
         delay_cache_server_fallback_background = \"never\"\n\n\
         [[network]]\non = \"10.0.0.0/8\"\nupload_slots = 1\n"
    );
    let ended = folder.run_as(
        folder
            .dovetail(&["config", "unset", "max_cache_age", "--json"])
            .env("DOVETAIL_MAX_CACHE_AGE", "5d"),
    );
    let Line::Setting(line) = ended.last_line() else {
        panic!("{}", ended.stdout);
    };
    assert_eq!(
        (
            line.value.as_str(),
            line.built_in.as_str(),
            line.set_by.as_str()
        ),
        ("5d", "3d", "environment")
    );
    assert!(
        file().starts_with("# ours\nallow_metered = true\n"),
        "{}",
        file()
    );
    // What is not there can be taken out again.
    folder.run(&["config", "unset", "max_cache_age"]).ok();
}

#[test]
fn what_cannot_be_set_is_refused_and_changes_nothing() {
    let folder = Folder::new();
    write(&folder, "etc/dovetail.toml", "[locked]\nupload_slots = 2\n");
    for (args, exit_code, text) in [
        (
            &["config", "set", "upload_slots", "3"][..],
            7,
            "error: cannot change upload_slots in DIR/home/dovetail.toml: upload_slots = 2 (locked by \
             DIR/etc/dovetail.toml:2)\n  tip: ask the administrator of this machine\n",
        ),
        (
            &["config", "set", "max_cache_age", "60"],
            2,
            "error: cannot use max_cache_age (config set): `60`: it needs a unit, as in 60s\n  \
             tip: allowed: a span of time from 0 to 49711d, as in 3d or 90s\n",
        ),
        (
            &["config", "get", "max_cache_agee"],
            2,
            "error: cannot find the setting `max_cache_agee`: there is no such setting; did you mean \
             max_cache_age?\n",
        ),
        (
            &["get", "http://127.0.0.1:1/x", "--set", "upload_slots"],
            2,
            "error: cannot use upload_slots (--set): it does not say to what\n  \
             tip: allowed: NAME=VALUE, as in max_cache_age=7d\n",
        ),
        (
            &["agent", "--set", "max_cache_size=200"],
            2,
            "error: cannot use max_cache_size (--set max_cache_size): `200`: it is too large\n  \
             tip: allowed: a percentage from 1% to 100%\n",
        ),
    ] {
        let ended = folder.run(args);
        assert_eq!((ended.stderr.as_str(), ended.code), (text, Some(exit_code)));
        assert!(!folder.path().join("home/dovetail.toml").exists());
    }
    write(&folder, "home/dovetail.toml", "max_cache_age = \"3d");
    let ended = folder.run(&["config", "set", "max_cache_age", "2d"]);
    assert_eq!(ended.code, Some(2));
    let error = "error: cannot change max_cache_age in DIR/home/dovetail.toml: line 1: ";
    assert!(ended.stderr.contains(error), "{}", ended.stderr);
    assert_eq!(folder.read("home/dovetail.toml"), b"max_cache_age = \"3d");
}

/// The mode in force and who set it, as the running agent says.
fn mode(folder: &Folder) -> String {
    let ended = folder.run(&["status", "--json"]);
    match ended.last_line() {
        Line::Status(status) => status.policy.mode_set,
        other => panic!("{other:?}"),
    }
}

fn warned(agent: &mut Running) -> String {
    let line =
        agent.until(|line| matches!(line, Line::Log { level, .. } if *level == LogLevel::Warn));
    match line {
        Line::Log { text, .. } => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_running_agent_takes_up_what_changes() {
    let folder = Folder::new();
    write(&folder, "etc/dovetail.toml", "download_mode = \"simple\"\n");
    let mut agent = folder.start(&["agent"]);
    agent.until(|line| matches!(line, Line::Listening { .. }));
    let said = |line: u32, mode: &str| {
        format!("download_mode = {mode} (set by DIR/etc/dovetail.toml:{line})")
    };
    let now = || mode(&folder);
    assert_eq!(now(), said(1, "simple"));

    // By itself.
    write(
        &folder,
        "etc/dovetail.toml",
        "\ndownload_mode = \"http-only\"\n",
    );
    becomes("the agent hears of its file", || {
        now() == said(2, "http-only")
    });

    // At once on SIGHUP; and what becomes wrong stays as it was.
    write(
        &folder,
        "etc/dovetail.toml",
        "download_mode = \"sometimes\"\n",
    );
    agent.signal(Signal::HUP);
    let warning = warned(&mut agent);
    assert!(
        warning.ends_with(
            "/etc/dovetail.toml:1: download_mode: `sometimes`: there is no such choice; allowed: http-only (0), lan \
             (1), group (2), internet (3), simple (99) or bypass (100)"
        ),
        "{warning}"
    );
    let before = said(2, "http-only").replace(":2)", ":2, as it was before)");
    assert_eq!(now(), before);

    // In the home, without touching the agent.
    fs::remove_file(folder.path().join("etc/dovetail.toml")).unwrap();
    folder
        .run(&["config", "set", "download_mode", "bypass"])
        .ok();
    agent.signal(Signal::HUP);
    becomes("the agent hears of its home's file", || {
        now() == "download_mode = bypass (set by DIR/home/dovetail.toml:1)"
    });
    let ended = folder.run(&["get", "http://127.0.0.1:1/x"]);
    assert_eq!(ended.code, Some(7), "{}", ended.stderr);
    agent.signal(Signal::TERM);
    let (last, status) = agent.end();
    assert_eq!((last, code(status)), (Some(Line::Stopped), 0));
}

#[test]
fn an_agent_starts_with_what_is_right_and_says_what_is_not() {
    let folder = Folder::new();
    write(
        &folder,
        "etc/dovetail.toml",
        "upload_slots = 0\ndownload_mode = \"http-only\"\n",
    );
    let mut agent = folder.start(&["agent", "--set", "max_cache_age=1d"]);
    let warning = warned(&mut agent);
    assert!(
        warning.ends_with("upload_slots: `0`: it is too small; allowed: a number from 1 to 64")
    );
    agent.until(|line| matches!(line, Line::Listening { .. }));
    assert!(mode(&folder).starts_with("download_mode = http-only (set by "));
}

#[test]
fn a_coordinator_gives_its_agents_settings() {
    let folder = Folder::new();
    write(
        &folder,
        "policy.toml",
        "download_mode = \"lan\"\nupload_slots = 0\n[group.lab]\nmax_cache_aeg = \"3d\"\n",
    );
    let args = [
        "coordinator",
        "--listen",
        "127.0.0.1:0",
        "--policy",
        "policy.toml",
    ];
    let ended = folder.run(&args);
    assert_eq!(
        ended.stderr,
        "warning: DIR/policy.toml:2: upload_slots: `0`: it is too small; allowed: a number from 1 to 64\n\
         error: cannot use the policy DIR/policy.toml: DIR/policy.toml:4: max_cache_aeg: there is no such setting; \
         did you mean max_cache_age?\n  tip: docs/settings.md describes all settings\n"
    );
    assert_eq!(ended.code, Some(2));

    write(&folder, "policy.toml", "download_mode = \"http-only\"\n");
    let mut coordinator = folder.start(&args);
    let url = format!("http://{}", coordinator.listening());
    let mut agent = folder.start(&["agent", "--coordinator", &url]);
    agent.until(|line| matches!(line, Line::Listening { .. }));
    becomes("the policy reaches the agent", || {
        mode(&folder).starts_with("download_mode = http-only (set by http://")
    });
    let config = |command: &mut Command| told(&folder.run_as(command).ok(), "download_mode");
    let mut here = folder.dovetail(&["config"]);
    let by_coordinator = format!("download_mode = http-only (set by {url})");
    let known = config(&mut here);
    assert_eq!(known.join("\n"), by_coordinator);
    // The agent was not started with that.
    assert_eq!(config(here.env("DOVETAIL_DOWNLOAD_MODE", "group")), known);
    let set = folder
        .run(&["config", "set", "download_mode", "group"])
        .ok();
    let ignored =
        format!("group (set by DIR/home/dovetail.toml:1) ignored because {url} goes first");
    assert_eq!(told(&set, "download_mode"), [by_coordinator, ignored]);
    write(&folder, "policy.toml", "download_mode = \"never\"\n");
    coordinator.signal(Signal::HUP);
    let warning = warned(&mut coordinator);
    assert!(warning.contains("/policy.toml:1: download_mode: `never`: there is no such choice"));
    coordinator.signal(Signal::TERM);
    let (last, status) = coordinator.end();
    assert_eq!((last, code(status)), (Some(Line::Stopped), 0));
    agent.signal(Signal::TERM);
    agent.end();
    let mut here = folder.dovetail(&["config"]);
    assert_eq!(
        config(here.env("DOVETAIL_DOWNLOAD_MODE", "group"))[0],
        "download_mode = group (set by DOVETAIL_DOWNLOAD_MODE)"
    );
}

#[test]
fn an_agent_that_is_stuck_holds_nobody_up() {
    let folder = Folder::new();
    let mut agent = folder.start(&["agent"]);
    agent.until(|line| matches!(line, Line::Listening { .. }));
    agent.signal(Signal::STOP);
    let ended = folder.run(&["config", "get", "upload_slots"]);
    assert_eq!(
        ended.stderr,
        "warning: what the agent alone was told is not shown: cannot read the agent's answer: there was none for 5 s; \
         look whether the agent is stopped or stuck, and start it again\n"
    );
    assert_eq!(ended.ok(), "4\n");
    let ended = folder.run(&["status"]);
    assert_eq!(
        (ended.code, &*ended.stderr),
        (
            Some(3),
            "error: cannot read the agent's answer: there was none for 5 s\n  \
             tip: look whether the agent is stopped or stuck, and start it again\n"
        )
    );
    agent.signal(Signal::CONT);
    assert!(folder.run(&["status"]).ok().contains("no downloads"));
}
