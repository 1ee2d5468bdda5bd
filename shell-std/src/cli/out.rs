//! What a command says and where: results on standard output, remarks and errors on standard error.
//!
//! Decides: words or JSON lines, and what --quiet leaves out. Never does: bars (see `bars.rs`). A closed pipe
//! is not an error: whoever closed it has read enough. Tests: `shell-smol/tests/cli.rs`.

use super::args::Global;
use dovetail_core::api::{Line, LogLevel};
use dovetail_core::failure::Failure;
use std::io::{self, IsTerminal as _, Write as _};

/// How to talk to whoever started us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
}

impl Out {
    pub(crate) fn new(global: &Global) -> Self {
        Self {
            json: global.json,
            quiet: global.quiet,
        }
    }

    /// A person is watching: bars make sense.
    pub(crate) fn has_bars(self) -> bool {
        !self.json && !self.quiet && io::stderr().is_terminal()
    }

    /// The result, in words and as a line.
    pub(crate) fn result(self, words: &str, line: &Line) {
        if self.json {
            self.line(line);
        } else if !self.quiet {
            _ = writeln!(io::stdout(), "{words}");
        }
    }

    /// A line for programs, only with --json.
    pub(crate) fn line(self, line: &Line) {
        if self.json {
            let mut stdout = io::stdout().lock();
            _ = stdout.write_all(line.render().as_bytes());
            _ = stdout.flush();
        }
    }

    /// A remark for people.
    pub(crate) fn remark(self, words: &str) {
        if !self.json && !self.quiet {
            _ = writeln!(io::stderr(), "{words}");
        }
    }

    /// What a role logs, from `info` up.
    pub(crate) fn log(self, level: LogLevel, text: &str) {
        let mark = match level {
            LogLevel::Debug => return,
            LogLevel::Info => "",
            LogLevel::Warn => "warning: ",
            LogLevel::Error => "error: ",
        };
        if self.json {
            self.line(&Line::Log {
                level,
                text: text.to_owned(),
            });
        } else if !self.quiet || level == LogLevel::Error {
            _ = writeln!(io::stderr(), "{mark}{text}");
        }
    }

    /// The end of a command that failed.
    pub(crate) fn failure(self, failure: &Failure) {
        if self.json {
            self.line(&Line::failed(failure.clone()));
            return;
        }
        let mut stderr = io::stderr().lock();
        _ = writeln!(stderr, "error: {}: {}", failure.what, failure.why);
        if !failure.remedy.is_empty() {
            _ = writeln!(stderr, "  tip: {}", failure.remedy);
        }
    }
}
