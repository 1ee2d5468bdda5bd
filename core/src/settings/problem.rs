//! What is wrong with a setting somebody wrote.
//!
//! Decides: the one line that says where, what, and what is allowed. Tests: `layers_tests.rs`.

use super::table::TABLE;
use crate::failure::{Failure, FailureKind};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// One mistake, printed as `place: key: what is wrong; allowed: what would be right`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// `/etc/dovetail/dovetail.toml:12`, `DOVETAIL_MAX_CACHE_AGE`, `--set max_cache_age`
    pub place: String,
    /// Empty if it is about the whole file.
    pub key: String,
    pub what: String,
    /// May be empty.
    pub allowed: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)?;
        if !self.allowed.is_empty() {
            write!(f, "; allowed: {}", self.allowed)?;
        }
        Ok(())
    }
}

impl core::error::Error for Problem {}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let what = if problem.key.is_empty() {
            format!("cannot use {}", problem.place)
        } else {
            format!("cannot use {} ({})", problem.key, problem.place)
        };
        let failure = Self::new(FailureKind::Usage, what, problem.what);
        if problem.allowed.is_empty() {
            return failure;
        }
        failure.remedy(format!("allowed: {}", problem.allowed))
    }
}

/// What to say of a name that no setting has.
pub fn unknown(key: &str) -> String {
    if let Some(instead) = given_up(key) {
        return format!("Windows has given this policy up; write {instead}");
    }
    match nearest(key) {
        Some(name) => format!("there is no such setting; did you mean {name}?"),
        None => "there is no such setting; `dovetail config --help` lists all".into(),
    }
}

fn given_up(key: &str) -> Option<&'static str> {
    match key.strip_prefix("DO").unwrap_or(key) {
        "MaxDownloadBandwidth" => {
            Some("DOMaxForegroundDownloadBandwidth and DOMaxBackgroundDownloadBandwidth")
        }
        "PercentageMaxDownloadBandwidth" => {
            Some("DOPercentageMaxForegroundBandwidth and DOPercentageMaxBackgroundBandwidth")
        }
        _ => None,
    }
}

/// A name at most a third of whose letters differ.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    let names = TABLE
        .iter()
        .flat_map(|row| core::iter::once(row.name).chain(row.do_name));
    let nearest = names
        .map(|name| (distance(key, name), name))
        .min_by_key(|(distance, _)| *distance)?;
    (nearest.0 <= nearest.1.len() / 3).then_some(nearest.1)
}

/// How many letters must be changed, added or left out to make one text of the other.
fn distance(a: &str, b: &str) -> usize {
    const LONGEST: usize = 80;
    let b: Vec<u8> = b
        .bytes()
        .take(LONGEST)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().take(LONGEST).enumerate() {
        let x = x.to_ascii_lowercase();
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = Vec::with_capacity(row.len());
        next.push(left);
        for (y, above) in b.iter().zip(row.iter().skip(1)) {
            let best = (diagonal + usize::from(x != *y))
                .min(left + 1)
                .min(above + 1);
            diagonal = *above;
            left = best;
            next.push(best);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}
