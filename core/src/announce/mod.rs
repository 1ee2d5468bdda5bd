//! The agent's side of coordination: keeps the coordinator informed of what this device takes part in,
//! and asks it what files are and who has them.
//!
//! Decides when to announce what, when to ask again, and when the coordinator counts as lost. Never
//! decides whom to dial and never keeps a download waiting: without a coordinator an agent loses new
//! peers, nothing else. Invariants: at most two calls are outstanding, one about presence and one about
//! content, each on its own kept-alive stream; every lookup and publication is answered.
//!
//! Tests: `pace.rs`, `swarms.rs`, here, and `core/tests/coordination.rs`.

mod content_calls;
pub mod hex;
mod lane;
pub mod messages;
mod pace;
mod swarms;

pub use content_calls::{Key, Lookup};
pub use swarms::SwarmState;

use crate::content::{Digest, InfoHash};
use crate::http::{Proxies, Route, Url};
use crate::ids::StreamId;
use crate::limits::{ANNOUNCE_REPLY_MAX, GOODBYE_TIMEOUT, HELD_PER_ANNOUNCE_MAX};
use crate::machine::{Effects, Input};
use crate::rendezvous::{self, Way};
use crate::rng::Rng;
use crate::time::{Deadline, Mono, Now};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use content_calls::ContentCalls;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use lane::{Ask, Lane, Outcome};
use messages::{ANNOUNCE_PATH, AnnounceReply, AnnounceRequest, Peer, PeerId, Scope};
use pace::{Due, Intervals, Pace};
use swarms::Swarms;

/// Who announces, and where to.
#[derive(Clone, Debug)]
pub struct AnnouncerConfig {
    /// Base address; the protocol's paths are put behind its path.
    pub coordinator: Url,
    pub proxies: Proxies,
    pub peer_id: PeerId,
    pub scope: Scope,
    /// Devices of the same group may be peers across networks.
    pub group: Option<String>,
}

/// What the agent is told. Lives until the call that reported it returns.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum AnnouncerEvent {
    /// Peers of one swarm, nearest first; may be empty, may repeat known ones.
    Peers {
        info_hash: InfoHash,
        peers: Vec<Peer>,
    },
    /// The answer to [`Announcer::lookup`]. After [`Lookup::Pending`] another one follows.
    Record { token: u64, answer: Lookup },
    /// The answer to [`Announcer::publish`]; an error says why in one line.
    Published {
        token: u64,
        result: Result<(), String>,
    },
    /// Others want a content that is held here, by its truncated info hash.
    Wanted([u8; 20]),
    /// The settings that the coordinator gives its devices are others now.
    Policy(BTreeMap<String, String>),
    /// The way to the coordinator's rendezvous is another one now.
    Rendezvous(Option<Way>),
    /// The coordinator does not answer (any more). Comes once, until [`AnnouncerEvent::Back`].
    Lost { why: String },
    /// It answers again.
    Back,
    /// After [`Announcer::shutdown`]: everything is said, the streams are being closed. Comes once.
    Stopped,
}

/// One device's link to its coordinator.
#[derive(Debug)]
pub struct Announcer {
    device: PeerId,
    scope: Scope,
    group: Option<String>,
    port: u16,
    addresses: Vec<IpAddr>,
    mapped: Option<SocketAddr>,
    held: Vec<String>,
    swarms: Swarms,
    pace: Pace,
    presence: Lane,
    content: ContentCalls,
    lost: bool,
    /// The coordinator's address, as far as streams go there and not to a proxy.
    coordinator: Option<IpAddr>,
    is_direct: bool,
    rendezvous: Option<Way>,
    /// What the coordinator said last about settings.
    policy: BTreeMap<String, String>,
    /// When to say hello if there is nothing else to say; `None`: not at all.
    hello_at: Option<Mono>,
    stop: Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    No,
    /// Saying goodbye, until then at the latest.
    By(Mono),
    Done,
}

impl Announcer {
    pub fn new(config: AnnouncerConfig, mut rng: Rng) -> Self {
        let lane = || Lane::new(config.coordinator.clone(), config.proxies.clone());
        Self {
            device: config.peer_id,
            scope: config.scope,
            group: config.group.clone(),
            port: 0,
            addresses: Vec::new(),
            mapped: None,
            held: Vec::new(),
            swarms: Swarms::default(),
            presence: lane(),
            content: ContentCalls::new(lane(), rng.fork()),
            pace: Pace::new(rng.fork()),
            lost: false,
            coordinator: None,
            is_direct: matches!(config.proxies.route(&config.coordinator), Route::Direct),
            rendezvous: None,
            policy: BTreeMap::new(),
            hello_at: Some(Mono::ZERO + HELLO_FIRST),
            stop: Stop::No,
        }
    }

    /// The TCP port where this device accepts peers; 0 (as at first) if it accepts none.
    pub fn set_port(&mut self, now: Now, port: u16) {
        if core::mem::replace(&mut self.port, port) != port && !self.swarms.is_empty() {
            self.swarms.refresh();
            self.pace.changed(now.mono);
        }
    }

    /// How far away peers may be, and the group they may be of.
    pub fn set_scope(&mut self, now: Now, scope: Scope, group: Option<String>) {
        if (self.scope, &self.group) != (scope, &group) {
            (self.scope, self.group) = (scope, group);
            if !self.swarms.is_empty() {
                self.swarms.refresh();
                self.pace.changed(now.mono);
            }
        }
    }

    /// This device's own addresses, for neighbours behind the same external address.
    pub fn set_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.addresses = addresses;
        self.addresses
            .truncate(crate::limits::ADDRESSES_PER_DEVICE_MAX);
    }

    /// Where its router lets peers of other networks in, if it does.
    pub fn set_mapped(&mut self, now: Now, mapped: Option<SocketAddr>) {
        if core::mem::replace(&mut self.mapped, mapped) != mapped && !self.swarms.is_empty() {
            self.swarms.refresh();
            self.pace.changed(now.mono);
        }
    }

    /// What this device has whole, whether it offers it or not.
    pub fn set_held(&mut self, now: Now, held: impl Iterator<Item = InfoHash>) {
        let held = held.take(HELD_PER_ANNOUNCE_MAX);
        let held: Vec<String> = held.map(|hash| hex::encode(&hash.truncated())).collect();
        if self.held.is_empty() && !held.is_empty() {
            self.hello_at = Some(now.mono);
        }
        self.held = held;
    }

    /// Take part in a swarm, as downloader or seed. What came due is sent by [`Self::on_tick`].
    pub fn join(&mut self, now: Now, info_hash: InfoHash, state: SwarmState) {
        if self.swarms.join(info_hash, state) {
            self.pace.changed(now.mono);
        }
    }

    /// How far this device is; cheap, may be called for every piece.
    pub fn update(&mut self, now: Now, info_hash: InfoHash, state: SwarmState) {
        if self.swarms.update(info_hash, state) {
            self.pace.changed(now.mono);
        }
    }

    /// No part in this swarm any more: peers are not sent here for it.
    pub fn leave(&mut self, now: Now, info_hash: InfoHash) {
        if self.swarms.leave(info_hash) {
            self.pace.changed(now.mono);
        }
    }

    /// Ask for more peers of what is being downloaded, as early as the coordinator allows.
    pub fn want_peers(&mut self, now: Now, info_hash: InfoHash) {
        if self.swarms.contains(info_hash) {
            self.swarms.peers_named(info_hash, 0);
            self.pace.changed(now.mono);
        }
    }

    /// Ask what a file is. Answered by [`AnnouncerEvent::Record`] with this token, at once if the
    /// coordinator cannot be reached.
    pub fn lookup(&mut self, now: Now, token: u64, key: &Key) {
        self.content.lookup(now, token, key);
    }

    /// No more answers to this lookup are wanted.
    pub fn forget(&mut self, token: u64) {
        self.content.forget(token);
    }

    /// Make content known. Answered by [`AnnouncerEvent::Published`] with this token.
    pub fn publish(
        &mut self,
        now: Now,
        token: u64,
        metainfo: Bytes,
        sha256: Option<Digest>,
        urls: Vec<String>,
    ) {
        self.content.publish(now, token, metainfo, sha256, urls);
    }

    /// Say goodbye to all swarms, within `GOODBYE_TIMEOUT`, then report [`AnnouncerEvent::Stopped`].
    pub fn shutdown(&mut self, now: Now) {
        if self.stop != Stop::No {
            return;
        }
        self.swarms.leave_all();
        self.stop = Stop::By(now.mono + GOODBYE_TIMEOUT);
    }

    pub const fn is_lost(&self) -> bool {
        self.lost
    }

    pub fn owns(&self, stream: StreamId) -> bool {
        self.presence.owns(stream) || self.content.owns(stream)
    }

    /// Anything about a stream this machine owns.
    pub fn on_stream(
        &mut self,
        now: Now,
        input: &Input,
        fx: &mut Effects,
        ev: &mut Vec<AnnouncerEvent>,
    ) {
        let Some(stream) = lane::stream_of(input) else {
            return;
        };
        if let Input::Opened { to, .. } = input {
            self.coordinator = Some(to.ip()).filter(|_| self.is_direct);
        }
        if self.presence.owns(stream) {
            if let Some(outcome) = self.presence.on_stream(now, input, fx) {
                self.on_announced(now, outcome, ev);
            }
        } else if self.content.owns(stream) {
            let reached = self.content.on_stream(now, input, fx, ev);
            self.on_reached(reached, ev);
        }
        self.on_tick(now, fx, ev);
    }

    /// Do what is due. To be called after every other method, and at [`Self::deadline`].
    pub fn on_tick(&mut self, now: Now, fx: &mut Effects, ev: &mut Vec<AnnouncerEvent>) {
        if self.stop != Stop::No {
            self.wind_down(now, fx, ev);
            return;
        }
        if let Some(outcome) = self.presence.on_tick(now, fx) {
            self.on_announced(now, outcome, ev);
        }
        if self.swarms.is_empty() {
            self.pace.idle();
            if self.hello_at.is_some_and(|at| at <= now.mono) && !self.presence.is_busy() {
                self.hello_at = None;
                self.announce(now, fx, ev);
            }
        } else if !self.presence.is_busy() {
            match self.pace.take(now.mono) {
                Some(Due::Everything) => {
                    self.swarms.refresh();
                    self.announce(now, fx, ev);
                }
                Some(Due::Some) => {
                    self.swarms.refresh_wanting();
                    self.announce(now, fx, ev);
                }
                None => {}
            }
        }
        let reached = self.content.on_tick(now, fx, ev);
        self.on_reached(reached, ev);
    }

    pub fn deadline(&self) -> Option<Deadline> {
        let announce = match self.stop {
            Stop::No if self.presence.is_busy() => None,
            Stop::No if self.swarms.is_empty() => self
                .hello_at
                .map(|at| Deadline::new(at, "hear of new settings")),
            Stop::No => self
                .pace
                .at()
                .map(|at| Deadline::new(at, "the next announce is due")),
            Stop::By(at) => Some(Deadline::new(at, "the goodbye takes too long")),
            Stop::Done => return None,
        };
        let calls = Deadline::earlier(self.presence.deadline(), self.content.deadline());
        Deadline::earlier(announce, calls)
    }

    fn announce(&mut self, now: Now, fx: &mut Effects, ev: &mut Vec<AnnouncerEvent>) {
        let request = AnnounceRequest {
            device: self.device,
            port: self.port,
            scope: self.scope,
            group: self.group.clone(),
            addresses: self.addresses.clone(),
            mapped: self.mapped,
            held: self.held.clone(),
            swarms: self.swarms.batch(),
        };
        let body = serde_json::to_vec(&request).unwrap_or_default();
        let ask = Ask::post(ANNOUNCE_PATH, body.into(), ANNOUNCE_REPLY_MAX);
        if let Some(outcome) = self.presence.start(now, ask, fx) {
            self.on_announced(now, outcome, ev);
        }
    }

    fn on_announced(&mut self, now: Now, outcome: Outcome, ev: &mut Vec<AnnouncerEvent>) {
        match outcome.and_then(|answer| answer.json::<AnnounceReply>()) {
            Ok(reply) => {
                self.on_reached(Some(Ok(())), ev);
                let pause = if self.held.is_empty() {
                    HELLO_EVERY
                } else {
                    Duration::from_secs(reply.interval_s.max(1).into())
                };
                self.hello_at = Some(now.mono + pause);
                for text in reply.wanted.keys() {
                    let key = hex::decode::<20>(text);
                    ev.extend(key.map(AnnouncerEvent::Wanted));
                }
                if self.policy != reply.policy {
                    self.policy.clone_from(&reply.policy);
                    ev.push(AnnouncerEvent::Policy(reply.policy));
                }
                let way = self.way(reply.rendezvous.as_ref());
                if self.rendezvous != way {
                    self.rendezvous.clone_from(&way);
                    ev.push(AnnouncerEvent::Rendezvous(way));
                }
                if self.swarms.is_empty() {
                    return;
                }
                self.swarms.answered();
                for swarm in reply.swarms {
                    let peers = usable(swarm.peers, self.device);
                    self.swarms.peers_named(swarm.info_hash, peers.len());
                    if self.swarms.contains(swarm.info_hash) {
                        let info_hash = swarm.info_hash;
                        ev.push(AnnouncerEvent::Peers { info_hash, peers });
                    }
                }
                let say = Intervals {
                    interval: Duration::from_secs(reply.interval_s.into()),
                    minimum: Duration::from_secs(reply.min_interval_s.into()),
                };
                self.pace.answered(now.mono, say, self.swarms.wants_peers());
                if self.swarms.any_due() {
                    self.pace.more(now.mono);
                }
            }
            Err(failed) => {
                self.swarms.failed();
                self.hello_at = Some(now.mono + HELLO_EVERY);
                self.pace.failed(now.mono, failed.retry_after);
                self.on_reached(Some(Err(failed.why)), ev);
            }
        }
    }

    fn way(&self, said: Option<&messages::Rendezvous>) -> Option<Way> {
        let (ip, said) = (self.coordinator?, said?);
        let at = |port| SocketAddr::new(ip, port);
        Some(Way {
            to: at(said.port),
            other: said.other_port.map(at),
            key: rendezvous::Key(said.key.0),
        })
    }

    /// One kind of event for all calls: the coordinator is there, or not.
    fn on_reached(&mut self, reached: Option<Result<(), String>>, ev: &mut Vec<AnnouncerEvent>) {
        match reached {
            Some(Ok(())) if self.lost => {
                self.lost = false;
                ev.push(AnnouncerEvent::Back);
            }
            Some(Err(why)) if !self.lost => {
                self.lost = true;
                ev.push(AnnouncerEvent::Lost { why });
            }
            _ => {}
        }
    }

    /// The goodbye: what is under way first, then everything as stopped, then the streams.
    fn wind_down(&mut self, now: Now, fx: &mut Effects, ev: &mut Vec<AnnouncerEvent>) {
        let Stop::By(by) = self.stop else {
            return;
        };
        self.content.shutdown(fx, ev);
        if let Some(outcome) = self.presence.on_tick(now, fx) {
            self.on_announced(now, outcome, &mut Vec::new());
        }
        if !self.presence.is_busy() && !self.lost && self.swarms.any_due() {
            self.announce(now, fx, ev);
        }
        if !self.presence.is_busy() || now.mono >= by {
            self.presence.close(fx);
            self.stop = Stop::Done;
            ev.push(AnnouncerEvent::Stopped);
        }
    }
}

/// A device that takes part in nothing hears of new settings this often.
const HELLO_FIRST: Duration = Duration::from_secs(2);
const HELLO_EVERY: Duration = Duration::from_secs(300);

/// Peers one can dial, and not this device itself.
fn usable(mut peers: Vec<Peer>, device: PeerId) -> Vec<Peer> {
    peers.retain(|peer| {
        peer.class.is_peer()
            && peer.peer_id != device
            && peer.addr.port() != 0
            && !peer.addr.ip().is_unspecified()
            && !peer.addr.ip().is_multicast()
    });
    peers.truncate(crate::limits::PEERS_PER_ANSWER_MAX);
    peers
}
