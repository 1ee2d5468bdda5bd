//! Downloads that wait for their turn: bounded numbers at a time by class, first come, first served.
//!
//! Decides: who starts when; what those who wait are told. Never does: downloading (`swarm`).

use super::Agent;
use super::swarm::Swarm;
use crate::api::{JobStatus, ProgressLine};
use crate::command::{Event, GetRequest, Progress, Reply};
use crate::failure::{Failure, FailureKind};
use crate::ids::{CallId, JobId};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

/// A download that has not begun.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) call: CallId,
    pub(super) id: JobId,
    pub(super) request: GetRequest,
    told: String,
}

impl Waiting {
    fn progress(&self) -> Progress {
        Progress {
            waiting: Some(self.told.clone()),
            ..Progress::default()
        }
    }

    pub(super) fn status(&self) -> JobStatus {
        JobStatus {
            call: self.call.0,
            output: self.request.output.clone(),
            progress: ProgressLine::new(self.id.0, &self.progress()),
        }
    }
}

impl Agent {
    pub(super) fn enqueue(&mut self, call: CallId, request: GetRequest) {
        self.last_job += 1;
        self.waiting.push_back(Waiting {
            call,
            id: JobId(self.last_job),
            request,
            told: String::new(),
        });
    }

    /// Start whoever may, and tell the others why they wait.
    pub(super) fn run_queue(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let mut kept = Vec::new();
        while let Some(mut waiting) = self.waiting.pop_front() {
            if let Some(failure) = self.mode_refusal(&waiting.request) {
                self.reply(waiting.call, Reply::Got(Err(failure)));
                continue;
            }
            let foreground = waiting.request.foreground;
            let ahead = kept
                .iter()
                .any(|w: &Waiting| w.request.foreground == foreground);
            match self.reason_to_wait(foreground, ahead) {
                None => self.begin(waiting),
                Some(text) => {
                    if waiting.told != text {
                        waiting.told = text;
                        let (call, job, progress) = (waiting.call, waiting.id, waiting.progress());
                        self.notify(Event::Progress {
                            call,
                            job,
                            progress,
                        });
                    }
                    kept.push(waiting);
                }
            }
        }
        self.waiting.extend(kept);
    }

    fn reason_to_wait(&self, foreground: bool, ahead: bool) -> Option<String> {
        let limits = self.rules.limits.class(foreground);
        if let Some(reason) = &limits.paused {
            return Some(reason.to_string());
        }
        let is_of_class = |swarm: &&Swarm| swarm.is_downloading() && swarm.foreground == foreground;
        let running = self.swarms.values().filter(is_of_class).count();
        let full = running >= limits.jobs as usize;
        (full || ahead).then(|| {
            let name = if foreground {
                "max_foreground_jobs"
            } else {
                "max_background_jobs"
            };
            format!("its turn has not come ({name} = {})", limits.jobs)
        })
    }

    fn begin(&mut self, waiting: Waiting) {
        let Waiting {
            call, id, request, ..
        } = waiting;
        self.start(call, id, |start, c| Swarm::get(start, request, c));
    }

    /// Take a waiting download out of the line; false if there is none of this call.
    pub(super) fn unqueue(&mut self, target: CallId) -> bool {
        let Some(at) = self.waiting.iter().position(|w| w.call == target) else {
            return false;
        };
        if let Some(waiting) = self.waiting.remove(at) {
            let what = format!("stopped before {} was begun", waiting.request.output);
            let failure = Failure::new(FailureKind::Interrupted, what, "the caller asked")
                .remedy("run the same command again");
            self.reply(waiting.call, Reply::Got(Err(failure)));
        }
        true
    }

    pub(super) fn unqueue_all(&mut self) {
        let calls: Vec<CallId> = self.waiting.iter().map(|w| w.call).collect();
        for call in calls {
            self.unqueue(call);
        }
    }

    pub(super) fn is_waiting_for(&self, output: &str) -> bool {
        let mut waiting = self.waiting.iter();
        waiting.any(|w| w.request.output == output)
    }
}
