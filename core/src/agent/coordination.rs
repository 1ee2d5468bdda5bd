//! What the coordinator says and is told: its events go to the swarms they are about, and so do those of its rendezvous.
//!
//! Decides: when peers of a content are announced, whether this device may be met from outside its network. Never does:
//! the calls (`announce`), the introductions (`rendezvous`). Tested in `core/tests/coordination.rs`, `nat.rs`.

use super::dial::Place;
use super::rules::told_addresses;
use super::{ANNOUNCER, Agent};
use crate::announce::messages::{Peer, Scope};
use crate::announce::{Announcer, AnnouncerConfig, AnnouncerEvent, SwarmState};
use crate::command::Level;
use crate::content::InfoHash;
use crate::failure::{Failure, FailureKind};
use crate::http::{Proxies, Url};
use crate::job::Job;
use crate::machine::Input;
use crate::policy::Known;
use crate::rendezvous;
use crate::rng::Rng;
use crate::settings::{Mode, PeerTransport};
use crate::wire::PeerId;
use alloc::format;
use alloc::string::ToString as _;
use alloc::vec::Vec;
use core::net::SocketAddr;

impl Agent {
    pub(super) fn on_announcer_stream(&mut self, input: Input) {
        let mut events = Vec::new();
        self.fx.owner = ANNOUNCER;
        if let Some(announcer) = &mut self.announcer {
            announcer.on_stream(self.now, &input, &mut self.fx, &mut events);
        }
        self.settle_announcer(events);
    }

    pub(super) fn tick_announcer(&mut self) {
        let mut events = Vec::new();
        self.fx.owner = ANNOUNCER;
        if let Some(announcer) = &mut self.announcer {
            announcer.on_tick(self.now, &mut self.fx, &mut events);
        }
        self.settle_announcer(events);
    }

    pub(super) fn settle_announcer(&mut self, events: Vec<AnnouncerEvent>) {
        for event in events {
            match event {
                AnnouncerEvent::Peers { info_hash, peers } => {
                    let owner = self.by_hash.get(&info_hash.truncated()).copied();
                    let now = self.now.mono;
                    self.with_swarm(owner, |swarm, c| {
                        let count = peers.len();
                        let named = peers
                            .into_iter()
                            .map(|p| (place(&p), Known::Coordinator(p.class)));
                        swarm.add_candidates(named, c);
                        swarm.tell_job(c, |job, _| job.on_peers_named(now, count));
                    });
                }
                AnnouncerEvent::Record { token, answer } => {
                    if self.on_lent_record(token, &answer) {
                        continue;
                    }
                    self.with_swarm(Some(token), |swarm, c| {
                        swarm.tell_job(c, |job, a| job.on_record(answer, a))
                    });
                }
                AnnouncerEvent::Lost { why } => {
                    let text = format!(
                        "the coordinator does not answer ({why}); downloads go on without new peers"
                    );
                    self.log(Level::Warn, text);
                    let owners: Vec<u64> = self.swarms.keys().copied().collect();
                    for owner in owners {
                        self.with_swarm(Some(owner), |swarm, c| {
                            swarm.tell_job(c, Job::on_no_coordinator)
                        });
                    }
                }
                AnnouncerEvent::Back => {
                    self.log(Level::Info, "the coordinator answers again".to_string())
                }
                AnnouncerEvent::Stopped => {
                    if let Some(shutdown) = &mut self.shutdown {
                        shutdown.goodbye_said = true;
                    }
                }
                AnnouncerEvent::Wanted(key) => self.on_wanted(key),
                AnnouncerEvent::Policy(values) => {
                    let url = self.config.coordinator.clone().unwrap_or_default();
                    self.on_group_policy(&url, &values);
                }
                AnnouncerEvent::Rendezvous(way) => {
                    self.rendezvous = way;
                    self.tell_rendezvous();
                }
                AnnouncerEvent::Published { .. } => {}
            }
        }
    }

    /// Whether and how this device can be met from outside its network.
    pub(super) fn tell_rendezvous(&mut self) {
        let limits = &self.rules.limits;
        let goes_out = matches!(limits.mode, Mode::Group | Mode::Internet);
        let may = goes_out && limits.transport != PeerTransport::Tcp && self.shutdown.is_none();
        let port = self.me.port.filter(|_| may && self.me.share);
        let now = self.now.mono;
        let rendezvous = &mut self.datagrams.rendezvous;
        if let Some(port) = port {
            let own = told_addresses(limits).into_iter();
            rendezvous.set_own(now, own.map(|ip| SocketAddr::new(ip, port)).collect());
        }
        let way = self.rendezvous.clone().filter(|_| port.is_some());
        self.rules.has_rendezvous = way.is_some();
        rendezvous.set_way(now, way);
    }

    pub(super) fn on_rendezvous(&mut self, event: rendezvous::Event) {
        let (peer, found) = match event {
            rendezvous::Event::Outside(at, kind) => {
                let text = match at {
                    Some(at) => format!("seen from outside at {at}: {kind}"),
                    None => "not seen from outside over UDP any more".to_string(),
                };
                return self.log(Level::Info, text);
            }
            rendezvous::Event::Expected { from, class } => {
                return self.rules.expect(self.now.mono, from, class);
            }
            rendezvous::Event::Reached { peer, at } => (peer, Ok(at)),
            rendezvous::Event::Unreachable { peer, why } => (peer, Err(why)),
        };
        let owners: Vec<u64> = self.swarms.keys().copied().collect();
        for owner in owners {
            self.with_swarm(Some(owner), |swarm, c| swarm.on_introduced(peer, found, c));
        }
    }

    pub(super) fn announce(&mut self, owner: u64, join: bool) {
        let (Some(announcer), Some(swarm)) = (&mut self.announcer, self.swarms.get(&owner)) else {
            return;
        };
        let Some(metainfo) = swarm.metainfo().filter(|_| swarm.meets()) else {
            return;
        };
        let state = SwarmState {
            have_pieces: swarm.have().count(),
            left_bytes: swarm.left_bytes(),
        };
        if join {
            announcer.join(self.now, metainfo.info_hash, state);
            if announcer.is_lost() {
                self.with_swarm(Some(owner), |swarm, c| {
                    swarm.tell_job(c, Job::on_no_coordinator)
                });
            }
        } else {
            announcer.update(self.now, metainfo.info_hash, state);
        }
    }

    /// Peers do not meet here for this content any more.
    pub(super) fn part(&mut self, owner: u64, hash: InfoHash) {
        if self.by_hash.get(&hash.truncated()) == Some(&owner) {
            self.by_hash.remove(&hash.truncated());
            if let Some(announcer) = self.announcer.as_mut().filter(|_| self.shutdown.is_none()) {
                announcer.leave(self.now, hash);
            }
        }
    }
}

fn place(peer: &Peer) -> Place {
    Place {
        addr: peer.addr,
        device: Some(peer.peer_id),
    }
}

pub(super) fn announcer(
    text: &str,
    proxies: &Proxies,
    peer_id: PeerId,
    rng: &mut Rng,
) -> Result<Announcer, Failure> {
    let coordinator = Url::parse(text).map_err(|error| {
        let what = format!("cannot use the coordinator {text}");
        Failure::new(FailureKind::Usage, what, error.to_string())
            .remedy("give --coordinator a URL like http://host:7680")
    })?;
    let config = AnnouncerConfig {
        coordinator,
        proxies: proxies.clone(),
        peer_id: peer_id.0,
        scope: Scope::default(),
        group: None,
    };
    Ok(Announcer::new(config, rng.fork()))
}
