//! The demo's processes: this same program, each with its own role, home and log.
//!
//! Decides: how they are started and ended. Invariant: none outlives the demo, however it ends: they are killed
//! when they are dropped, and by the kernel when the demo's own process is killed. They are in groups of their
//! own, so that Ctrl-C reaches only the demo. All are started by the main thread: the kernel ends a child with
//! the thread that started it. Tests: `shell-smol/tests/demo.rs`.

use super::super::home::utf8;
use crate::host::words;
use dovetail_core::api::Line;
use dovetail_core::failure::{Failure, FailureKind};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::Sender;
use std::thread;

/// One process of the demo.
#[derive(Debug)]
pub(super) struct Part {
    /// As in `device 3`.
    name: String,
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    log: PathBuf,
}

/// What the demo waits for.
#[derive(Debug)]
pub(super) enum Heard {
    /// A line of the device of this number.
    Line(u32, Box<Line>),
    /// The device of this number says no more.
    End(u32),
    /// Ctrl-C.
    Stop,
}

/// For machines that are small, on battery, on a metered network or a VPN.
const SETTINGS: [(&str, &str); 7] = [
    ("DOVETAIL_DOWNLOAD_MODE", "lan"),
    ("DOVETAIL_MIN_RAM_ALLOWED_TO_PEER", "0B"),
    ("DOVETAIL_MIN_DISK_SIZE_ALLOWED_TO_PEER", "0B"),
    ("DOVETAIL_MIN_FILE_SIZE_TO_PEER", "0B"),
    ("DOVETAIL_MIN_BATTERY_PERCENTAGE_ALLOWED_TO_UPLOAD", "1%"),
    ("DOVETAIL_ALLOW_VPN_PEER_CACHING", "true"),
    ("DOVETAIL_ALLOW_METERED", "true"),
];

impl Part {
    /// Start this program with `args`, its log in `folder`.
    pub(super) fn start(name: &str, folder: &Path, args: &[&str]) -> Result<Self, Failure> {
        let cannot = |e: std::io::Error| {
            let what = format!("cannot start the {name} of the demo");
            Failure::new(FailureKind::Refused, what, words(&e))
        };
        fs::create_dir_all(folder).map_err(cannot)?;
        let log = folder.join(format!("{}.log", name.replace(' ', "-")));
        let program = std::env::current_exe().map_err(cannot)?;
        let mut child = Command::new(program)
            .args(["--json", "--home", &utf8(folder)?])
            .args(["--die-with", &std::process::id().to_string()])
            .args(args)
            // What this machine or its settings forbid must not keep the demo from showing it.
            .env("DOVETAIL_CONFIG_DIR", folder.join("no-settings"))
            .envs(SETTINGS)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).map_err(cannot)?)
            .process_group(0)
            .spawn()
            .map_err(cannot)?;
        let stdout = child.stdout.take().map(BufReader::new);
        Ok(Self {
            name: name.to_owned(),
            child,
            stdout,
            log,
        })
    }

    /// Its next line; what the role logs is left out.
    pub(super) fn line(&mut self) -> Result<Line, Failure> {
        loop {
            let mut text = String::new();
            let read = match &mut self.stdout {
                Some(stdout) => stdout.read_line(&mut text),
                None => Ok(0),
            };
            if !matches!(read, Ok(1..)) {
                return Err(self.ended());
            }
            match Line::parse(&text) {
                Ok(Line::Log { .. }) => {}
                Ok(Line::Failed(line)) => return Err(line.failure),
                Ok(line) => return Ok(line),
                Err(e) => {
                    let what = format!("cannot understand the {}", self.name);
                    return Err(Failure::new(FailureKind::Unavailable, what, e.to_string()));
                }
            }
        }
    }

    /// The address it listens on, once it does.
    pub(super) fn address(&mut self) -> Result<String, Failure> {
        match self.line()? {
            Line::Listening {
                listening: Some(at),
                ..
            } => Ok(at),
            _ => Err(self.ended()),
        }
    }

    /// Pass its lines on from now, as those of the device of this number.
    pub(super) fn listen(&mut self, device: u32, to: Sender<Heard>) {
        let Some(stdout) = self.stdout.take() else {
            return;
        };
        thread::spawn(move || {
            for text in stdout.lines().map_while(Result::ok) {
                if let Ok(line) = Line::parse(&text) {
                    _ = to.send(Heard::Line(device, Box::new(line)));
                }
            }
            _ = to.send(Heard::End(device));
        });
    }

    /// It should not have ended: say what it said last.
    fn ended(&self) -> Failure {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let why = match log.lines().next_back() {
            Some(last) => format!("it said: {last}"),
            None => "it said nothing".into(),
        };
        let what = format!("the {} of the demo ended early", self.name);
        Failure::new(FailureKind::Unavailable, what, why)
            .remedy("run the demo with --keep and look at the logs")
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
