//! Running the real program: folders that go away, processes that are ended, lines that are waited for.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part of what is shared"
)]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot set its scene must fail"
)]

use dovetail_core::api::Line;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The program of the package that these tests are built for.
pub const PROGRAM: &str = match (
    option_env!("CARGO_BIN_EXE_dovetail"),
    option_env!("CARGO_BIN_EXE_dovetail-std"),
) {
    (Some(program), _) | (None, Some(program)) => program,
    (None, None) => panic!("cargo builds tests of a package after its program"),
};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A folder of one test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("dovetail-cli-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// A file of so many bytes that differ from piece to piece.
    pub fn file(&self, name: &str, len: usize) -> Vec<u8> {
        let bytes: Vec<u8> = (0..len as u64)
            .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
            .collect();
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &bytes).unwrap();
        bytes
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.join(name)).unwrap()
    }

    /// The program, at home in this folder, without anything of the environment that could matter.
    pub fn dovetail(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        for variable in [
            "http_proxy",
            "https_proxy",
            "HTTPS_PROXY",
            "all_proxy",
            "ALL_PROXY",
            "no_proxy",
            "NO_PROXY",
            "COLUMNS",
        ] {
            command.env_remove(variable);
        }
        command
            .args(args)
            .env("DOVETAIL_HOME", self.0.join("home"))
            .env("DOVETAIL_CONFIG_DIR", self.0.join("etc"))
            // Peers are met on small machines, too.
            .env("DOVETAIL_MIN_RAM_ALLOWED_TO_PEER", "0B")
            .env("DOVETAIL_MIN_DISK_SIZE_ALLOWED_TO_PEER", "0B")
            .current_dir(&self.0)
            .stdin(Stdio::null());
        command
    }

    /// Run it to its end.
    pub fn run(&self, args: &[&str]) -> Ended {
        self.run_as(&mut self.dovetail(args))
    }

    pub fn run_as(&self, command: &mut Command) -> Ended {
        let output = command.output().unwrap();
        let text = |bytes| {
            let text = String::from_utf8(bytes).unwrap();
            text.replace(self.0.to_str().unwrap(), "DIR")
        };
        Ended {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Start it with `--json`, and listen to its lines.
    pub fn start(&self, args: &[&str]) -> Running {
        let mut command = self.dovetail(args);
        Running::start(command.arg("--json"))
    }

    /// Start an origin over this folder's `served`.
    pub fn origin(&self, args: &[&str]) -> (Running, String) {
        let served = self.join("served");
        fs::create_dir_all(&served).unwrap();
        let args = [&["origin", &served, "--listen", "127.0.0.1:0"], args].concat();
        let mut origin = self.start(&args);
        let at = origin.listening();
        (origin, format!("http://{at}"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

/// What a command left behind, the folder's name replaced by `DIR`.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.stdout
    }

    #[track_caller]
    pub fn last_line(&self) -> Line {
        let text = self.stdout.lines().next_back();
        let text = text.unwrap_or_else(|| panic!("nothing printed: {self:#?}"));
        Line::parse(text).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }
}

/// A process that prints lines; ended when dropped.
pub struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line; fails the test if there is none.
    #[track_caller]
    pub fn line(&mut self) -> Line {
        match self.lines.next() {
            Some(text) => {
                let text = text.unwrap();
                Line::parse(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
            }
            None => panic!("no more lines; it said {:?}", self.stderr()),
        }
    }

    /// The first line from here that `wanted` accepts.
    #[track_caller]
    pub fn until(&mut self, wanted: impl Fn(&Line) -> bool) -> Line {
        loop {
            let line = self.line();
            if wanted(&line) {
                return line;
            }
        }
    }

    /// Until the download has so many bytes.
    #[track_caller]
    pub fn until_done(&mut self, bytes: u64) {
        self.until(|line| matches!(line, Line::Progress(progress) if progress.done >= bytes));
    }

    #[track_caller]
    pub fn listening(&mut self) -> String {
        match self.line() {
            Line::Listening {
                listening: Some(at),
                ..
            } => at,
            line => panic!("{line:?}"),
        }
    }

    pub fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(id, signal).unwrap();
    }

    /// Read to the end: the last line, and how it ended.
    #[track_caller]
    pub fn end(&mut self) -> (Option<Line>, ExitStatus) {
        let mut last = None;
        for text in self.lines.by_ref() {
            last = Some(Line::parse(&text.unwrap()).unwrap());
        }
        (last, self.child.wait().unwrap())
    }

    fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            _ = stderr.read_to_string(&mut text);
        }
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// The code, or 128 and the signal, as a shell shows it.
pub fn code(status: ExitStatus) -> i32 {
    let signal = status.signal().map_or(0, |signal| 128 + signal);
    status.code().unwrap_or(signal)
}

/// Try again until it is so. The test fails if it does not become so.
#[track_caller]
pub fn becomes(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "it never was so that {what}");
        std::thread::yield_now();
    }
}
