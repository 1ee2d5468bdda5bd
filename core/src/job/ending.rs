//! How a download ends: complete and checked as a whole, stopped, or given up.
//!
//! Invariant: [`JobEvent::Ended`] comes once; what is good is recorded before.

use super::{Around, Job, JobEvent, Phase};
use crate::command::{Report, Verified};
use crate::content::Digest;
use crate::failure::{Failure, FailureKind};
use crate::limits::PATIENCE;
use crate::picker::Picker;
use alloc::format;

impl Job {
    pub(super) fn finish_if_complete(&mut self, a: &mut Around<'_>) {
        let Some(picker) = self.picker.as_ref().filter(|p| p.is_complete()) else {
            return;
        };
        let pieces = picker.geometry().pieces();
        if self.verifier.has_flat() {
            let Some(digest) = self.verifier.flat_digest(pieces) else {
                return;
            };
            if let Some(asked) = self.request.sha256.filter(|asked| *asked != digest) {
                return self.fail(
                    mismatch(&self.request.output, asked, digest, a.storage.part_path()),
                    a,
                );
            }
            self.tally.sha256 = Some(digest);
        }
        self.web.close(a.fx);
        self.phase = Phase::Finishing;
        a.storage.finish(a.fx);
    }

    pub(super) fn on_finished(&mut self, a: &mut Around<'_>) {
        let length = self.picker.as_ref().map_or(0, |p| p.geometry().length());
        let verified = match (self.request.sha256, &self.metainfo) {
            (Some(_), _) => Verified::Sha256,
            (None, Some(_)) => Verified::Merkle,
            (None, None) => Verified::Length,
        };
        let report = Report {
            output: self.request.output.clone(),
            length,
            elapsed_us: a.now.mono.since(self.started).as_micros() as u64,
            received: self.tally.received,
            wasted: self.tally.wasted,
            resumed: self.tally.resumed,
            peers: self.tally.peers(),
            verified,
            sha256: self.tally.sha256,
        };
        self.end(Ok(report), a);
    }

    pub(super) fn end_share(&mut self, a: &mut Around<'_>) {
        if self.picker.as_ref().is_some_and(Picker::is_complete) {
            return self.on_finished(a);
        }
        let what = format!("cannot share {}", self.request.output);
        let failure = Failure::new(
            FailureKind::Mismatch,
            what,
            "it is not the file its metainfo names",
        );
        self.fail(failure.remedy("publish it again"), a);
    }

    /// Stop now, keeping what is good.
    pub fn stop(&mut self, a: &mut Around<'_>) {
        let what = format!("stopped before {} was complete", self.request.output);
        let failure = Failure::new(FailureKind::Interrupted, what, "the caller asked")
            .remedy("run the same command again to resume");
        self.fail(failure, a);
    }

    pub(super) fn give_up(&mut self, a: &mut Around<'_>) {
        let failure = self.web.last_failure().unwrap_or_else(|| {
            let what = format!("cannot download {}", self.request.output);
            let mut why = format!("no source delivered anything for {} s", PATIENCE.as_secs());
            if let Some(no_way) = &self.no_way {
                why = format!("{why}; {no_way}");
            }
            Failure::new(FailureKind::Unavailable, what, why).remedy("name a URL or more peers")
        });
        self.fail(failure, a);
    }

    pub(super) fn fail(&mut self, failure: Failure, a: &mut Around<'_>) {
        if !self.is_ended() {
            a.storage.record_soon(a.fx);
            self.end(Err(failure), a);
        }
    }

    fn end(&mut self, result: Result<Report, Failure>, a: &mut Around<'_>) {
        self.web.close(a.fx);
        self.assembly.clear();
        self.phase = Phase::Ended;
        a.ev.push(JobEvent::Ended(result));
    }
}

fn mismatch(output: &str, asked: Digest, found: Digest, part: &str) -> Failure {
    let why = format!("its SHA-256 is {found}, but {asked} was asked for");
    Failure::new(
        FailureKind::Mismatch,
        format!("{output} is not the file you want"),
        why,
    )
    .remedy(format!(
        "check --sha256 and the URL; what was downloaded is kept in {part}"
    ))
}
