//! What this agent is doing, for callers who ask.

use super::Agent;
use crate::api::{CoordinatorStatus, JobStatus, PeerStatus, ProgressLine, SharedStatus, Status};
use alloc::string::ToString as _;

impl Agent {
    pub(super) fn status(&mut self) -> Status {
        let now = self.now.mono;
        let mut status = Status::default();
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
            status.peers.extend(
                swarm
                    .peers()
                    .map(|(addr, class, received, sent)| PeerStatus {
                        addr: addr.to_string(),
                        class: class.name().to_string(),
                        client: alloc::string::String::new(),
                        received,
                        sent,
                    }),
            );
        }
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
}
