//! What this agent is doing, for callers who ask.

use super::Agent;
use super::queue::Waiting;
use crate::api::{
    CoordinatorStatus, JobStatus, PeerStatus, PolicyStatus, ProgressLine, SharedStatus, Status,
    ToldLine,
};
use crate::ids::StreamId;
use alloc::string::ToString;

impl Agent {
    pub(super) fn status(&mut self) -> Status {
        let now = self.now.mono;
        let mut status = Status {
            policy: self.policy_status(),
            ..Status::default()
        };
        for swarm in self.swarms.values_mut() {
            let (call, output) = (swarm.call.0, swarm.output().to_string());
            match swarm.progress(now).filter(|_| !swarm.sharing) {
                Some(progress) => {
                    status.jobs.push(JobStatus {
                        call,
                        output,
                        progress: ProgressLine::new(swarm.id.0, &progress),
                    });
                }
                None => status
                    .shared
                    .extend(swarm.metainfo().map(|metainfo| SharedStatus {
                        path: output,
                        length: metainfo.geometry.length(),
                        root: metainfo.id.root.to_string(),
                        sent: swarm.sent_bytes(),
                    })),
            }
            status
                .peers
                .extend(swarm.peers().map(|(peer, session)| PeerStatus {
                    addr: peer.place.addr.to_string(),
                    class: peer.class.name().to_string(),
                    transport: transport(session.stream()).to_string(),
                    received: session.received_bytes(),
                    sent: session.sent_bytes(),
                }));
        }
        let waiting = self.waiting.iter().map(Waiting::status);
        status.jobs.extend(waiting);
        status.coordinator = self
            .config
            .coordinator
            .as_ref()
            .map(|url| CoordinatorStatus {
                url: url.clone(),
                reachable: self.announcer.as_ref().is_some_and(|a| !a.is_lost()),
            });
        status
    }

    fn policy_status(&mut self) -> PolicyStatus {
        let limits = &self.rules.limits;
        PolicyStatus {
            mode: limits.mode.name().to_string(),
            mode_set: self.rules.explain("download_mode"),
            restrictions: self.rules.restrictions(),
            caches: limits.caches.iter().map(ToString::to_string).collect(),
            internet_upload_bytes: self.rules.ledger.internet_upload_bytes(self.now.wall),
            told: ToldLine::of(self.rules.layers()),
        }
    }
}

const fn transport(stream: StreamId) -> &'static str {
    if stream.is_utp() { "utp" } else { "tcp" }
}
