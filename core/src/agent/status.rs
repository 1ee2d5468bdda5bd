//! What this agent is doing, for callers who ask.

use super::Agent;
use super::queue::Waiting;
use crate::api::{
    CoordinatorStatus, JobStatus, NatKind, NatStatus, PeerStatus, PolicyStatus, PortMappingState,
    PortMappingStatus, ProgressLine, SharedStatus, Status, ToldLine,
};
use crate::ids::StreamId;
use crate::policy::is_private_v4;
use crate::rendezvous::Mapping;
use alloc::format;
use alloc::string::{String, ToString};

impl Agent {
    pub(super) fn status(&mut self) -> Status {
        let now = self.now.mono;
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").to_string(),
            listening: self.listening.map(|at| at.to_string()),
            policy: self.policy_status(),
            nat: self.nat_status(),
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
                    transport: transport(session.stream(), peer.is_relayed).to_string(),
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

    fn nat_status(&self) -> NatStatus {
        let own = self.rules.limits.port_map.own_v4;
        let port_mapping = self.port_mapping_status();
        let (kind, mut words) = match own {
            None => (
                NatKind::Unknown,
                "whether there is a NAT is not known: no default route of IPv4".to_string(),
            ),
            Some(own) if is_private_v4(own) => (NatKind::Behind, format!("behind a NAT: {own}")),
            Some(own) => (NatKind::None, format!("no NAT: {own} is public")),
        };
        if let (Some(outside), Some(protocol)) = (&port_mapping.outside, &port_mapping.protocol) {
            words += &format!("; the router lets peers in at {outside} ({protocol})");
        }
        let (seen, behaviour) = self.datagrams.rendezvous.outside();
        let is_symmetric = behaviour.mapping == Mapping::Dependent;
        let behaviour = match seen {
            Some(at) => {
                words += &format!("; the coordinator sees it at {at} (UDP): {behaviour}");
                behaviour.to_string()
            }
            None => String::new(),
        };
        if kind == NatKind::Behind && seen.is_none() {
            words += "; its kind is not known: no coordinator's rendezvous has seen it";
        }
        NatStatus {
            kind,
            behaviour,
            is_symmetric,
            words,
            port_mapping,
        }
    }

    fn port_mapping_status(&self) -> PortMappingStatus {
        let (held, failure) = self.mappings.v4();
        let pinhole_v6 = self.mappings.opened_v6();
        let off = |setting: &str, why: String| PortMappingStatus {
            why,
            setting: self.rules.explain(setting),
            pinhole_v6,
            ..PortMappingStatus::default()
        };
        if self.me.port.is_none() || !self.me.share {
            return off("port_mapping", "this agent does not share".to_string());
        }
        if let Err(reason) = &self.rules.limits.port_map.v4 {
            return off(reason.setting, reason.text.clone());
        }
        PortMappingStatus {
            state: match (held, failure) {
                (Some(_), _) => PortMappingState::Mapped,
                (None, Some(_)) => PortMappingState::Failed,
                (None, None) => PortMappingState::Asked,
            },
            outside: held.map(|mapping| mapping.outside.to_string()),
            protocol: held.map(|mapping| mapping.protocol.name().to_string()),
            ..off("port_mapping", failure.cloned().unwrap_or_default())
        }
    }
}

const fn transport(stream: StreamId, is_relayed: bool) -> &'static str {
    match stream.is_utp() {
        _ if is_relayed => "relay",
        true => "utp",
        false => "tcp",
    }
}
