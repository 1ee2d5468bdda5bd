//! What was sent to Internet peers this month, for the monthly cap: counted, and kept across restarts.
//!
//! Decides: when a month begins anew, and when the file is written. A clock set back begins no new month and gives
//! nothing back. A file that cannot be read or written costs the count of earlier runs, no more, and is said once.

use crate::command::Level;
use crate::ids::OpId;
use crate::machine::{DiskDone, DiskError, DiskErrorKind, DiskOp, Effects};
use crate::policy::month_number;
use crate::time::{Deadline, Mono, Now, Wall};
use alloc::format;
use alloc::string::{String, ToString as _};
use bytes::Bytes;
use core::time::Duration;
use serde::{Deserialize, Serialize};

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// `None`: nothing is kept.
    path: Option<String>,
    month: i64,
    internet_upload_bytes: u64,
    loading: Option<OpId>,
    saving: Option<OpId>,
    started: bool,
    /// Counted and not written, since then.
    unsaved_since: Option<Mono>,
    complained: bool,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    /// `2026-11`
    month: String,
    internet_upload_bytes: u64,
}

impl Ledger {
    pub(super) fn new(path: Option<String>) -> Self {
        Self {
            path,
            ..Self::default()
        }
    }

    pub(super) fn count(&mut self, now: Now, bytes: u64) {
        self.turn_month(now.wall);
        self.internet_upload_bytes = self.internet_upload_bytes.saturating_add(bytes);
        self.unsaved_since.get_or_insert(now.mono);
    }

    pub(super) fn internet_upload_bytes(&mut self, wall: Wall) -> u64 {
        self.turn_month(wall);
        self.internet_upload_bytes
    }

    fn turn_month(&mut self, wall: Wall) {
        let month = month_number(wall);
        if month > self.month {
            (self.month, self.internet_upload_bytes) = (month, 0);
        }
    }

    /// Read what earlier runs counted; write when it is time.
    pub(super) fn on_tick(&mut self, now: Now, fx: &mut Effects) {
        let Some(path) = self.path.clone() else {
            return;
        };
        if !self.started {
            self.started = true;
            self.loading = Some(fx.disk(DiskOp::Load { path }));
        } else if self.deadline().is_some_and(|due| due.at <= now.mono) {
            self.save(fx);
        }
    }

    pub(super) fn save(&mut self, fx: &mut Effects) {
        let (Some(path), Some(_), None, None) = (
            self.path.clone(),
            self.unsaved_since,
            self.loading,
            self.saving,
        ) else {
            return;
        };
        self.unsaved_since = None;
        let kept = Kept {
            month: month_name(self.month),
            internet_upload_bytes: self.internet_upload_bytes,
        };
        let bytes = Bytes::from(serde_json::to_vec(&kept).unwrap_or_default());
        self.saving = Some(fx.disk(DiskOp::Replace { path, bytes }));
    }

    /// Nothing waits to be written.
    pub(super) const fn is_idle(&self) -> bool {
        self.saving.is_none()
            && self.loading.is_none()
            && (self.path.is_none() || self.unsaved_since.is_none())
    }

    pub(super) fn on_disk(
        &mut self,
        now: Now,
        op: OpId,
        done: Result<DiskDone, DiskError>,
    ) -> Option<(Level, String)> {
        if self.saving == Some(op) {
            self.saving = None;
            return done.err().and_then(|e| self.complain("written", &e.text));
        }
        if self.loading != Some(op) {
            return None;
        }
        self.loading = None;
        let why = match done {
            Ok(DiskDone::Bytes(bytes)) => match read(&bytes) {
                Some((month, bytes)) => {
                    self.turn_month(now.wall);
                    if month > self.month {
                        // The clock was set back: that month is not over.
                        (self.month, self.internet_upload_bytes) = (month, bytes);
                    } else if month == self.month {
                        self.internet_upload_bytes += bytes;
                    }
                    return None;
                }
                None => "it makes no sense".to_string(),
            },
            Err(error) if error.kind == DiskErrorKind::NotFound => return None,
            Err(error) => error.text,
            Ok(_) => return None,
        };
        self.complain("read", &why)
    }

    fn complain(&mut self, verb: &str, why: &str) -> Option<(Level, String)> {
        if core::mem::replace(&mut self.complained, true) {
            return None;
        }
        let path = self.path.as_deref().unwrap_or_default();
        let text = format!(
            "what was uploaded this month cannot be {verb} ({path}: {why}); \
             monthly_upload_data_cap counts this run only"
        );
        Some((Level::Warn, text))
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        let since = self.unsaved_since.filter(|_| self.path.is_some())?;
        let idle = self.saving.is_none() && self.loading.is_none();
        idle.then(|| Deadline::new(since + SAVE_AFTER, "keep what was uploaded"))
    }
}

fn month_name(month: i64) -> String {
    format!("{}-{:02}", month.div_euclid(12), month.rem_euclid(12) + 1)
}

fn read(bytes: &[u8]) -> Option<(i64, u64)> {
    let kept: Kept = serde_json::from_slice(bytes).ok()?;
    let (year, month) = kept.month.rsplit_once('-')?;
    let (year, month): (i64, i64) = (year.parse().ok()?, month.parse().ok()?);
    let good = (1..=12).contains(&month) && (0..100_000).contains(&year);
    good.then_some((year * 12 + month - 1, kept.internet_upload_bytes))
}

/// What a crash may cost of the count.
const SAVE_AFTER: Duration = Duration::from_secs(60);
