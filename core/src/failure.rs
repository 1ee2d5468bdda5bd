//! What is said when something cannot be done: what failed, why, and what to do about it.

use alloc::string::String;
use core::fmt;
use serde::{Deserialize, Serialize};

/// The kind of a failure: decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureKind {
    /// The command itself makes no sense (bad URL, malformed metainfo, two things that exclude each other).
    Usage,
    /// No source could deliver: name not found, refused, 4xx/5xx to the end of patience.
    Unavailable,
    /// The bytes are not those that were asked for (wrong SHA-256, wrong Merkle root).
    Mismatch,
    /// This machine's disk: denied, full, read-only.
    Disk,
    /// The output exists and overwriting was not asked for.
    Exists,
    /// A policy forbids it.
    Refused,
    /// Stopped by the caller; what was good is kept for the next time.
    Interrupted,
    /// An address cannot be listened on.
    Listen,
    /// `doctor` has found a problem.
    Unwell,
}

impl FailureKind {
    /// The exit code of the process; the table in `docs/exit-codes.md` is checked against this.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Unavailable => 3,
            Self::Mismatch => 4,
            Self::Disk => 5,
            Self::Exists => 6,
            Self::Refused => 7,
            Self::Listen => 8,
            Self::Unwell => 9,
            Self::Interrupted => 130,
        }
    }
}

/// Printed as `what: why. remedy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    /// What could not be done, naming the thing: `cannot write /data/x.iso`.
    pub what: String,
    /// Why, in the words of whoever refused: `no space left on device`.
    pub why: String,
    /// What the reader can do, naming the setting or option; may be empty.
    pub remedy: String,
}

impl Failure {
    pub fn new(kind: FailureKind, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            why: why.into(),
            remedy: String::new(),
        }
    }

    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}
