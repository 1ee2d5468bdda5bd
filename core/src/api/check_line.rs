//! What `dovetail doctor` says: one line for each thing it looked at, and how many of them are well.
//!
//! Decides: names and shapes, which stay. Never does: judge (`doctor`). Tests: `docs/json.md` is checked against it.

use alloc::string::String;
use serde::{Deserialize, Serialize};

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckLine {
    /// Of `doctor::NAMES`.
    pub name: String,
    pub verdict: Verdict,
    /// What is so.
    pub what: String,
    /// Why it is so; may be empty.
    pub why: String,
    /// The setting that decided, and who set it; may be empty.
    pub setting: String,
    /// What to do; empty where nothing is to be done.
    pub remedy: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Ok,
    /// It restricts, or may.
    Warning,
    /// Peers do not come because of it.
    Problem,
}

impl Verdict {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// The last line of a doctor who has looked at everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoctorLine {
    pub ok: u32,
    pub warnings: u32,
    pub problems: u32,
}

impl CheckLine {
    pub fn new(name: &str, verdict: Verdict, what: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            verdict,
            what: what.into(),
            why: String::new(),
            setting: String::new(),
            remedy: String::new(),
        }
    }

    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    #[must_use]
    pub fn setting(mut self, setting: impl Into<String>) -> Self {
        self.setting = setting.into();
        self
    }

    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

impl DoctorLine {
    pub fn of(checks: &[CheckLine]) -> Self {
        let count = |verdict| {
            let checks = checks.iter().filter(|check| check.verdict == verdict);
            u32::try_from(checks.count()).unwrap_or(u32::MAX)
        };
        Self {
            ok: count(Verdict::Ok),
            warnings: count(Verdict::Warning),
            problems: count(Verdict::Problem),
        }
    }
}
