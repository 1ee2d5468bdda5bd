//! The command line as people and scripts see it: help, errors, exit codes, downloads, stopping. Runs the real
//! program.
//!
//! The help texts are in `tests/help/`; `UPDATE_HELP=1 cargo test -p dovetail-smol --test cli` writes them anew.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot set its scene must fail"
)]

mod program;

use dovetail_core::api::{Line, LogLevel, VerifiedBy};
use dovetail_core::content::Digest;
use dovetail_core::failure::FailureKind;
use program::{Ended, Folder, PROGRAM, becomes, code};
use rustix::process::Signal;
use std::fs;
use std::net::TcpListener;

const MIB: usize = 1 << 20;

#[test]
fn help_is_as_written_down() {
    let folder = Folder::new();
    for command in [
        "",
        "get",
        "publish",
        "status",
        "config",
        "doctor",
        "agent",
        "coordinator",
        "origin",
        "cache",
        "demo",
    ] {
        let args: Vec<_> = [command, "--help"]
            .into_iter()
            .filter(|arg| !arg.is_empty())
            .collect();
        let shown = folder.run(&args).ok();
        let name = if command.is_empty() {
            "dovetail"
        } else {
            command
        };
        let path = format!("{}/tests/help/{name}.txt", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_HELP").is_some() {
            fs::write(&path, &shown).unwrap();
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(shown, written, "{path} differs");
        assert!(
            shown.lines().all(|line| line.chars().count() <= 100),
            "too wide: {shown}"
        );
    }
}

#[test]
fn the_host_is_shown_without_an_agent() {
    let folder = Folder::new();
    let words = folder.run(&["status", "--host"]).ok();
    assert!(
        words.contains("interface lo: loopback, 127.0.0.1/8"),
        "{words}"
    );
    assert!(
        words.contains("\nmemory: ") && words.contains("\ntime zone: UTC"),
        "{words}"
    );
    let line = folder.run(&["--json", "status", "--host"]).ok();
    let Ok(Line::Host(host)) = Line::parse(&line) else {
        panic!("{line}");
    };
    assert!(host.ram_bytes.is_some_and(|bytes| bytes > 0));
}

/// What the program says to commands that cannot be done: the whole text, and the code.
#[track_caller]
fn refused(ended: &Ended, exit_code: i32, text: &str) {
    assert_eq!(ended.stderr, text);
    assert_eq!(ended.stdout, "");
    assert_eq!(ended.code, Some(exit_code));
}

#[test]
fn commands_that_make_no_sense() {
    let folder = Folder::new();
    fs::write(folder.path().join("garbage.torrent"), "not bencode").unwrap();
    fs::write(folder.path().join("v1.torrent"), V1).unwrap();
    for (args, text) in [
        (
            &["get", "ftp://example.org/x"][..],
            "error: cannot use the URL `ftp://example.org/x`: `ftp://example.org/x` does not begin with \
             http:// or https://\n  tip: give it as http://HOST/PATH or https://HOST/PATH\n",
        ),
        (
            &["get", "http://:80/x"],
            "error: cannot use the URL `http://:80/x`: no host name\n  \
             tip: give it as http://HOST/PATH or https://HOST/PATH\n",
        ),
        (
            &["get", "http://example.org/x", "--sha256", "abc"],
            "error: cannot use the SHA-256 `abc`: it is not 64 hexadecimal digits\n  \
             tip: take it from `sha256sum FILE`\n",
        ),
        (
            &["get", "http://example.org/x", "--peer", "10.0.0.7:port"],
            "error: cannot use the peer `10.0.0.7:port`: invalid port value\n  \
             tip: give it as ADDRESS or ADDRESS:PORT\n",
        ),
        (
            &["get", "--metainfo", "garbage.torrent"],
            "error: cannot use the metainfo garbage.torrent: not a metainfo file: unexpected byte 0x6e in \
             bencode at byte 0\n  \
             tip: it must be a BitTorrent v2 .torrent file of one file, as `dovetail publish` writes it\n",
        ),
        (
            &["get", "--metainfo", "v1.torrent"],
            "error: cannot use the metainfo v1.torrent: a BitTorrent v1 torrent (SHA-1); only v2 and \
             hybrid ones are handled\n  \
             tip: it must be a BitTorrent v2 .torrent file of one file, as `dovetail publish` writes it\n",
        ),
        (
            &[
                "coordinator",
                "--listen",
                "127.0.0.1:0",
                "--allow",
                "http://x/",
            ],
            "error: invalid value 'http://x/' for '--allow <HOST>': \"http://x/\" is not a host; write it as \
             files.example.org, *.example.org, 10.0.0.5:8080 or host:*\n\nFor more information, try '--help'.\n",
        ),
        (
            &["demo", "--size", "huge"],
            "error: invalid value 'huge' for '--size <SIZE>': it does not start with a number (write it as in \
             350MiB or 1.5GB)\n\nFor more information, try '--help'.\n",
        ),
        (
            &["get", "http://example.org/x", "--limit", "20Mb/s"],
            "error: invalid value '20Mb/s' for '--limit <RATE>': `Mb` may mean bits or bytes: write `Mbit` or \
             `MB` (write it as in 20MB/s or 350KiB/s)\n\nFor more information, try '--help'.\n",
        ),
        (
            &["get", "http://example.org/x", "--limit", "0"],
            "error: invalid value '0' for '--limit <RATE>': a limit of 0 would never end; leave the option \
             out for no limit\n\nFor more information, try '--help'.\n",
        ),
        (
            &["get"],
            "error: the following required arguments were not provided:\n  <URL>...\n\n\
             Usage: dovetail get <URL>...\n\nFor more information, try '--help'.\n",
        ),
        (
            &["get", "http://example.org/x", "--listen", "127.0.0.1:0"],
            "error: the following required arguments were not provided:\n  --share\n\n\
             Usage: dovetail get --share --listen <ADDR> <URL>...\n\nFor more information, try '--help'.\n",
        ),
        (
            &[
                "get",
                "http://example.org/x",
                "--foreground",
                "--background",
            ],
            "error: the argument '--foreground' cannot be used with '--background'\n\n\
             Usage: dovetail get --foreground <URL>...\n\nFor more information, try '--help'.\n",
        ),
    ] {
        refused(&folder.run(args), 2, text);
    }
}

/// A well-formed v1 torrent of one file.
const V1: &str =
    "d4:infod6:lengthi5e4:name1:a12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaaee";

#[test]
fn files_and_folders_that_cannot_be_used() {
    let folder = Folder::new();
    folder.file("a", 10);
    for (args, exit_code, text) in [
        (
            &["get", "--metainfo", "none.torrent"][..],
            5,
            "error: cannot read the metainfo none.torrent: no such file or directory\n",
        ),
        (
            &["get", "http://127.0.0.1:1/x", "-o", "none/"],
            5,
            "error: cannot write into none/: there is no such folder\n  tip: make it first\n",
        ),
        (
            &["get", "http://127.0.0.1:1/x", "-o", "none/x"],
            5,
            "error: cannot write DIR/none/x: no such file or directory\n  \
             tip: make the folder first, or choose another with -o\n",
        ),
        (
            &["get", "http://127.0.0.1:1/x", "-o", "a/x"],
            5,
            "error: cannot write DIR/a/x: not a directory\n  \
             tip: make the folder first, or choose another with -o\n",
        ),
        (
            &["get", "http://127.0.0.1:1/x", "-o", "a"],
            6,
            "error: cannot write DIR/a: the file exists\n  \
             tip: choose another name with -o, or replace it with --overwrite\n",
        ),
        (
            &["publish", "none"],
            5,
            "error: cannot read DIR/none: no such file or directory\n",
        ),
        (
            &["publish", "."],
            5,
            "error: cannot read DIR: it is not a regular file\n",
        ),
        (
            &["publish", "a", "-o", "none/a.torrent"],
            5,
            "error: cannot write DIR/none/a.torrent: no such file or directory\n  \
             tip: choose another path with -o\n",
        ),
        (
            &["publish", "a", "--name", "../a"],
            2,
            "error: cannot publish a file under the name `../a`: `../a` is not a plain file name\n  \
             tip: give another with --name\n",
        ),
        (
            &["origin", "none"],
            5,
            "error: cannot serve DIR/none: there is no such folder\n",
        ),
        (
            &["demo", "none"],
            5,
            "error: cannot use the file none: no such file or directory\n",
        ),
        (
            &["status"],
            3,
            "error: cannot ask the agent: none is running in DIR/home\n  \
             tip: start one with `dovetail agent`, or name its folder with --home\n",
        ),
    ] {
        refused(&folder.run(args), exit_code, text);
    }
}

#[test]
fn failures_as_json_are_one_line() {
    let folder = Folder::new();
    let ended = folder.run(&["--json", "get", "ftp://x"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(2), ""));
    let Line::Failed(line) = ended.last_line() else {
        panic!("{ended:?}");
    };
    assert_eq!(line.failure.kind, FailureKind::Usage);
    assert_eq!(line.exit_code, 2);
    assert_eq!(ended.stdout.lines().count(), 1);
}

#[test]
fn a_proxy_that_makes_no_sense_is_named_by_its_variable() {
    let folder = Folder::new();
    let mut command = folder.dovetail(&["get", "http://example.org/x"]);
    let ended = folder.run_as(command.env("http_proxy", "http://"));
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("http_proxy"), "{ended:?}");
}

#[test]
fn a_download_ends_with_one_line() {
    let folder = Folder::new();
    let bytes = folder.file("served/a b.bin", 3 * MIB);
    let (_origin, url) = folder.origin(&[]);
    let ended = folder.run(&["get", &format!("{url}/a%20b.bin")]);
    assert_eq!(ended.stderr, "");
    let said = ended.ok();
    assert!(said.starts_with("3 MiB in "), "{said}");
    assert!(
        said.ends_with(" s: 3 MiB from origin, not verified (nobody gave a hash)\n"),
        "{said}"
    );
    assert!(folder.read("a b.bin") == bytes);

    let sha256 = Digest::of(&bytes).to_string();
    let said = folder
        .run(&[
            "get",
            &format!("{url}/a%20b.bin"),
            "--overwrite",
            "--sha256",
            &sha256,
        ])
        .ok();
    assert!(
        said.ends_with(" s: 3 MiB from origin, verified\n"),
        "{said}"
    );

    let quiet = folder.run(&["-q", "get", &format!("{url}/a%20b.bin"), "-o", "other"]);
    assert_eq!(quiet.stderr, "");
    assert_eq!(quiet.ok(), "");
    assert!(folder.read("other") == bytes);
}

#[test]
fn a_download_into_a_folder_takes_its_name_from_the_url() {
    let folder = Folder::new();
    let bytes = folder.file("served/dir/x.bin", 1000);
    fs::create_dir(folder.path().join("into")).unwrap();
    let (_origin, url) = folder.origin(&[]);
    folder
        .run(&["get", &format!("{url}/dir/x.bin?y=z"), "-o", "into"])
        .ok();
    assert_eq!(folder.read("into/x.bin"), bytes);
}

#[test]
fn the_wrong_hash_is_the_wrong_file() {
    let folder = Folder::new();
    let bytes = folder.file("served/a", MIB);
    let (_origin, url) = folder.origin(&[]);
    let (is, wanted) = (Digest::of(&bytes), Digest::of(b"something else"));
    let ended = folder.run(&["get", &format!("{url}/a"), "--sha256", &wanted.to_string()]);
    refused(
        &ended,
        4,
        &format!(
            "error: DIR/a is not the file you want: its SHA-256 is {is}, but {wanted} was asked for\n  \
             tip: check --sha256 and the URL; what was downloaded is kept in DIR/a.dovetail-part\n"
        ),
    );
    assert!(!folder.path().join("a").exists());
}

#[test]
fn sources_that_do_not_deliver() {
    let folder = Folder::new();
    let (_origin, url) = folder.origin(&[]);
    let missing = format!("{url}/none");
    refused(
        &folder.run(&["get", &missing]),
        3,
        &format!("error: cannot fetch {missing}: the server answered 404 Not Found\n"),
    );
    let ended = folder.run(&["get", "--metainfo", &missing]);
    refused(
        &ended,
        3,
        &format!("error: cannot fetch the metainfo {missing}: the server says 404 Not Found\n"),
    );
}

#[test]
fn without_its_coordinator_a_download_goes_on_over_http() {
    let folder = Folder::new();
    let bytes = folder.file("served/a", MIB);
    let (_origin, url) = folder.origin(&[]);
    let ended = folder.run(&[
        "get",
        &format!("{url}/a"),
        "--coordinator",
        "http://127.0.0.1:1",
    ]);
    assert!(ended.stderr.starts_with("warning: "), "{ended:?}");
    assert!(ended.stderr.contains("http://127.0.0.1:1"), "{ended:?}");
    assert!(ended.ok().contains("1 MiB from origin"));
    assert!(folder.read("a") == bytes);
}

#[test]
fn publishing_needs_a_coordinator_that_answers() {
    let folder = Folder::new();
    folder.file("a", 1000);
    let ended = folder.run(&["publish", "a", "--coordinator", "http://127.0.0.1:1"]);
    refused(
        &ended,
        3,
        "error: cannot publish at the coordinator http://127.0.0.1:1: connection refused\n  \
         tip: the metainfo file is written; run the same command again when it answers\n",
    );
    assert!(folder.path().join("a.torrent").exists());
}

#[test]
fn a_metainfo_file_is_not_replaced_unless_asked_for() {
    let folder = Folder::new();
    folder.file("a", 1000);
    let said = folder.run(&["publish", "a"]).ok();
    assert!(said.starts_with("a is 1000 B, SHA-256 "), "{said}");
    assert!(
        said.ends_with(
            "\nwrote DIR/a.torrent\nnot served from here: no agent runs in DIR/home \
             (start one with `dovetail agent --share`)\n"
        ),
        "{said}"
    );
    // The same again changes nothing.
    folder.run(&["publish", "a"]).ok();
    let other = ["publish", "a", "--url", "http://example.org/a"];
    refused(
        &folder.run(&other),
        6,
        "error: cannot write DIR/a.torrent: there is another file of this name\n  \
         tip: replace it with --overwrite, or choose another with -o\n",
    );
    folder.run(&[&other[..], &["--overwrite"]].concat()).ok();
}

#[test]
fn two_agents_do_not_share_a_home_or_a_port() {
    let (one, two) = (Folder::new(), Folder::new());
    let mut agent = one.start(&["agent", "--share", "--listen", "127.0.0.1:0"]);
    let at = agent.listening();
    refused(
        &one.run(&["agent"]),
        8,
        "error: cannot listen on DIR/home/run/agent.sock: another agent is running for this home\n  \
         tip: stop it, or give this one a --home of its own\n",
    );
    refused(
        &two.run(&["agent", "--share", "--listen", &at]),
        8,
        &format!(
            "error: cannot listen on {at}: address already in use\n  \
             tip: stop the program that has it, or choose another with --listen\n"
        ),
    );
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    for role in [&["coordinator"][..], &["origin", "."]] {
        let ended = two.run(&[role, &["--listen", &at]].concat());
        assert_eq!(ended.code, Some(8), "{ended:?}");
    }
    agent.signal(Signal::TERM);
    let (last, status) = agent.end();
    assert_eq!((last, code(status)), (Some(Line::Stopped), 0));
    // What a killed agent leaves behind does not stop the next one.
    let agent = one
        .start(&["agent", "--share", "--listen", "127.0.0.1:0"])
        .listening();
    assert!(!agent.is_empty());
    one.start(&["agent", "--share", "--listen", "127.0.0.1:0"])
        .listening();
}

#[test]
fn what_ctrl_c_leaves_behind_is_resumed() {
    let folder = Folder::new();
    let bytes = folder.file("served/a", 8 * MIB);
    let (_origin, url) = folder.origin(&["--limit", "4MiB/s"]);
    let url = format!("{url}/a");
    let mut get = folder.start(&["get", &url]);
    get.until_done(2 * MIB as u64);
    get.signal(Signal::INT);
    let (last, status) = get.end();
    assert_eq!(code(status), 130);
    let Some(Line::Failed(line)) = last else {
        panic!("{last:?}");
    };
    assert_eq!(line.failure.kind, FailureKind::Interrupted);
    assert_eq!(line.failure.remedy, "run the same command again to resume");
    assert!(!folder.path().join("a").exists());

    let ended = folder.run(&["--json", "get", &url]);
    let Line::Got(got) = ended.last_line() else {
        panic!("{ended:?}");
    };
    assert!(got.resumed >= 2 * MIB as u64, "{got:?}");
    assert_eq!(
        got.resumed + got.received.origin,
        bytes.len() as u64,
        "{got:?}"
    );
    assert!(got.summary.contains(" from an earlier run, "), "{got:?}");
    assert!(folder.read("a") == bytes);
}

#[test]
fn what_was_downloaded_is_kept_listed_pinned_and_removed() {
    let folder = Folder::new();
    let bytes = folder.file("served/a", 3 * MIB);
    let (_origin, url) = folder.origin(&[]);
    let url = format!("{url}/a");
    folder
        .run(&["publish", "served/a", "--url", &url, "-o", "a.torrent"])
        .ok();
    refused(
        &folder.run(&["shelf", "ls"]),
        3,
        "error: cannot ask the agent: none is running in DIR/home\n  \
         tip: start one with `dovetail agent`, or name its folder with --home\n",
    );
    let mut args = vec!["agent", "--share", "--listen", "127.0.0.1:0"];
    args.extend(["--set", "min_file_size_to_cache=0B"]);
    let mut agent = folder.start(&args);
    agent.listening();
    let get = ["get", "--metainfo", "a.torrent", "-o", "out"];
    folder.run(&get).ok();
    let shelf = || match folder.run(&["shelf", "ls", "--json"]).last_line() {
        Line::Shelf(shelf) => shelf,
        line => panic!("{line:?}"),
    };
    until(|| shelf().items.len() == 1);
    let item = shelf().items.remove(0);
    assert_eq!((item.name.as_str(), item.length), ("a", 3 << 20));
    assert!(!item.pinned && item.expires_unix_us.is_some());
    let pin = folder.run(&["shelf", "pin", &item.root[..8]]).ok();
    assert_eq!(pin, "a stays, whatever its age\n");
    let listed = folder.run(&["shelf", "ls"]).ok();
    assert!(
        listed.contains("a: 3 MiB, offered, pinned, 0 B sent"),
        "{listed}"
    );
    refused(
        &folder.run(&["shelf", "rm", "b"]),
        2,
        "error: there is no b on the shelf: neither a name nor the beginning of a root is that\n  \
         tip: `dovetail shelf ls` shows what is there\n",
    );
    // It is still there after a restart, without its output.
    agent.signal(Signal::TERM);
    agent.end();
    fs::remove_file(folder.path().join("out")).unwrap();
    let mut agent = folder.start(&args);
    agent.listening();
    until(|| shelf().items.len() == 1);
    assert!(shelf().items[0].pinned);
    let kept = fs::read_dir(folder.path().join("home/shelf")).unwrap();
    let mut kept = kept.map(|entry| entry.unwrap().path());
    let data = kept
        .find(|path| path.extension().is_some_and(|end| end == "data"))
        .unwrap();
    assert!(fs::read(&data).unwrap() == bytes);
    assert_eq!(folder.run(&["shelf", "rm", "a"]).ok(), "a is gone\n");
    let listed = folder.run(&["shelf", "ls"]).ok();
    assert!(listed.ends_with("nothing is kept\n"), "{listed}");
    until(|| !data.exists());
}

/// Something that another process does soon.
fn until(is_so: impl Fn() -> bool) {
    for _ in 0..400 {
        if is_so() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    panic!("it did not come to it within ten seconds");
}

#[test]
fn the_running_agent_does_the_work_and_stops_with_its_caller() {
    let folder = Folder::new();
    let bytes = folder.file("served/a", 8 * MIB);
    let (_origin, url) = folder.origin(&["--limit", "4MiB/s"]);
    let url = format!("{url}/a");
    let mut agent = folder.start(&["agent"]);
    assert!(matches!(
        agent.line(),
        Line::Listening { listening: None, socket: Some(socket), .. } if socket == folder.join("home/run/agent.sock")
    ));
    let jobs = || match folder.run(&["status", "--json"]).last_line() {
        Line::Status(status) => status.jobs,
        line => panic!("{line:?}"),
    };
    let idle = "no coordinator\nmode lan: download_mode = lan (built in)\nno downloads\nno files offered\nno peers connected\n";
    assert_eq!(folder.run(&["status"]).ok(), idle);

    // Interrupted.
    let mut get = folder.start(&["get", &url]);
    get.until_done(MIB as u64);
    assert_eq!(jobs().len(), 1);
    assert_eq!(jobs()[0].output, "DIR/a");
    get.signal(Signal::INT);
    let (last, status) = get.end();
    assert_eq!(code(status), 130);
    assert!(
        matches!(last, Some(Line::Failed(line)) if line.failure.kind == FailureKind::Interrupted)
    );
    becomes("the job has stopped", || jobs().is_empty());

    // Killed.
    let mut get = folder.start(&["get", &url]);
    get.until_done(2 * MIB as u64);
    get.signal(Signal::KILL);
    becomes("the job has stopped", || jobs().is_empty());

    // Left alone; with a remark, because the agent has no coordinator.
    let ended = folder.run(&["get", &url, "--coordinator", "http://127.0.0.1:1"]);
    assert_eq!(
        ended.stderr,
        "this home's agent does the download: its own settings count, not --coordinator (see --standalone)\n"
    );
    let said = ended.ok();
    assert!(said.contains(" from an earlier run, "), "{said}");
    assert!(folder.read("a") == bytes);
}

#[test]
fn an_agent_that_dies_is_said_and_the_download_goes_on_later() {
    let folder = Folder::new();
    let bytes = folder.file("served/a", 4 * MIB);
    let (_origin, url) = folder.origin(&["--limit", "4MiB/s"]);
    let url = format!("{url}/a");
    let mut agent = folder.start(&["agent"]);
    agent.line();
    let mut get = folder.start(&["get", &url]);
    get.until_done(MIB as u64);
    drop(agent);
    let (last, status) = get.end();
    assert_eq!(code(status), 3);
    let Some(Line::Failed(line)) = last else {
        panic!("{last:?}");
    };
    assert_eq!(line.failure.what, "lost the agent that did the download");
    folder.run(&["get", &url]).ok();
    assert!(folder.read("a") == bytes);
}

#[test]
fn a_published_file_comes_from_the_agent_that_serves_it() {
    let (seed, leech) = (Folder::new(), Folder::new());
    let bytes = seed.file("a", 3 * MIB + 5);
    let mut agent = seed.start(&["agent", "--share", "--listen", "127.0.0.1:0"]);
    let at = agent.listening();
    let Line::Published(published) = seed.run(&["publish", "a", "--json"]).last_line() else {
        panic!("not published");
    };
    assert!(published.served);
    assert_eq!(published.sha256, Digest::of(&bytes).to_string());
    let said = seed.run(&["status"]).ok();
    assert!(
        said.contains("1 file offered\n  DIR/a: 3 MiB, 0 B sent\n"),
        "{said}"
    );

    let torrent = seed.join("a.torrent");
    let said = leech
        .run(&["get", "--metainfo", &torrent, "--peer", &at])
        .ok();
    assert!(
        said.ends_with(" s: 3 MiB from 1 peer, verified\n"),
        "{said}"
    );
    assert!(leech.read("a") == bytes);

    // An agent that does not share says so, and publishing goes on without it.
    let folder = Folder::new();
    folder.file("a", 1000);
    let mut agent = folder.start(&["agent"]);
    agent.line();
    let said = folder.run(&["publish", "a"]).ok();
    assert!(
        said.ends_with(
            "\nnot served from here: this agent does not share with peers (start it with --share)\n"
        ),
        "{said}"
    );
}

#[test]
fn what_the_coordinator_knows_makes_a_plain_url_verifiable() {
    let folder = Folder::new();
    let bytes = folder.file("served/a", 2 * MIB);
    let (_origin, url) = folder.origin(&[]);
    let file_url = format!("{url}/a");
    let mut coordinator = folder.start(&["coordinator", "--listen", "127.0.0.1:0"]);
    let coordinator_url = format!("http://{}", coordinator.listening());
    let said = folder
        .run(&[
            "publish",
            "served/a",
            "--url",
            &file_url,
            "--coordinator",
            &coordinator_url,
        ])
        .ok();
    assert!(
        said.contains(&format!("\ntold the coordinator {coordinator_url}\n")),
        "{said}"
    );
    let ended = folder.run(&[
        "get",
        &file_url,
        "--coordinator",
        &coordinator_url,
        "--json",
    ]);
    let Line::Got(got) = ended.last_line() else {
        panic!("{ended:?}");
    };
    assert_eq!(got.verified, VerifiedBy::Merkle);
    assert!(folder.read("a") == bytes);

    // The metainfo file itself can be fetched, too.
    let torrent = format!("{url}/a.torrent");
    let said = folder.run(&["get", "--metainfo", &torrent, "-o", "b"]).ok();
    assert!(said.ends_with(" from origin, verified\n"), "{said}");
    assert!(folder.read("b") == bytes);

    // Something else than a coordinator.
    let ended = folder.run(&[
        "publish",
        "served/a",
        "--url",
        &file_url,
        "--coordinator",
        &url,
        "--overwrite",
    ]);
    assert_eq!(ended.code, Some(7), "{ended:?}");
    assert!(
        ended
            .stderr
            .contains("check the URL given with --coordinator"),
        "{ended:?}"
    );
}

#[test]
fn what_no_patience_can_help_is_said_at_once() {
    let folder = Folder::new();
    folder.file("served/a", 1000);
    let (_origin, url) = folder.origin(&[]);
    let url = format!("{url}/a");
    folder.run(&["publish", "served/a", "-o", "a.torrent"]).ok();
    for (args, exit_code, text) in [
        (
            &["get", "--metainfo", "a.torrent"][..],
            2,
            "error: cannot download DIR/a: nothing says where it is: the metainfo names no URL\n  \
             tip: name a URL, a --peer or a --coordinator\n",
        ),
        (
            &["get", &url, "--require-peers"],
            2,
            "error: cannot download DIR/a: peers are required, but none is named\n  \
             tip: name a URL, a --peer or a --coordinator\n",
        ),
        (
            &["get", &url, "--require-peers", "--peer", "127.0.0.1:1"],
            3,
            "error: cannot download DIR/a: peers are required, but nobody says what the file is\n  \
             tip: give --metainfo, or a --coordinator that knows the file\n",
        ),
    ] {
        refused(&folder.run(args), exit_code, text);
    }
}

#[test]
fn logs_are_lines_too() {
    let folder = Folder::new();
    folder.file("served/a", 1000);
    let (_origin, url) = folder.origin(&[]);
    let mut get = folder.start(&[
        "get",
        &format!("{url}/a"),
        "--coordinator",
        "http://127.0.0.1:1",
    ]);
    let line = get.until(|line| matches!(line, Line::Log { .. }));
    assert!(
        matches!(
            line,
            Line::Log {
                level: LogLevel::Warn,
                ..
            }
        ),
        "{line:?}"
    );
    get.until(|line| matches!(line, Line::Got(_)));
}

#[test]
fn a_full_disk_is_said_and_nothing_half_done_takes_the_name() {
    let folder = Folder::new();
    folder.file("served/a", 8 * MIB);
    let (_origin, url) = folder.origin(&[]);
    let small = folder.join("small");
    fs::create_dir(&small).unwrap();
    // A small file system that only this process sees.
    let script = "mount -t tmpfs -o size=4m tmpfs small || exit 99; \"$0\" get \"$1\" -o small/a; \
                  code=$?; ls small; exit $code";
    let mut command = std::process::Command::new("unshare");
    command
        .args(["-rm", "sh", "-c", script, PROGRAM])
        .arg(format!("{url}/a"))
        .env("DOVETAIL_HOME", folder.join("home"))
        .current_dir(folder.path());
    let ended = folder.run_as(&mut command);
    if ended.code == Some(99) || ended.stderr.starts_with("unshare: ") {
        println!("skipped: this system lets nobody mount a small tmpfs");
        return;
    }
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert!(
        ended.stderr.starts_with("error: cannot ") && ended.stderr.contains("DIR/small/a"),
        "{ended:?}"
    );
    assert!(
        ended.stderr.contains(": no space left on device\n"),
        "{ended:?}"
    );
    assert!(!ended.stdout.lines().any(|name| name == "a"), "{ended:?}");
}
