//! An agent's side: keeps its outside address alive, learns what NAT it sits behind, and meets peers.
//!
//! Decides: when to say hello, to which addresses of a peer probes go, which of them is taken (the first that answers),
//! when a meeting has failed. Never does: choose whom to meet, or speak to them afterwards.
//! Invariants: each [`Client::introduce`] is answered by one `Reached` or `Unreachable`; what is kept is bounded.
//! Tested here and in `core/tests/nat.rs`.

use super::message::{Key, Message, Token, decode, is_ours, is_signed};
use super::nat::{Filtering, Mapping, NatKind};
use super::relay::Channel;
use super::server::Refusal;
use super::{ContentKey, DeviceId};
use crate::limits::{
    RELAY_AFTER, RENDEZVOUS_HELLO_AGAIN, RENDEZVOUS_HELLO_EVERY, RENDEZVOUS_MEETINGS_MAX,
    RENDEZVOUS_PATIENCE, RENDEZVOUS_PLACES_MAX, RENDEZVOUS_PROBE_EVERY,
};
use crate::rng::Rng;
use crate::stats::SourceClass;
use crate::time::{Deadline, Mono};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

/// The way to a coordinator's rendezvous, as its announce answer tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    pub to: SocketAddr,
    /// A second port, by which it can be told what kind a NAT is.
    pub other: Option<SocketAddr>,
    pub key: Key,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Datagrams of this peer come from there, and ours get through to there.
    Reached {
        peer: DeviceId,
        at: SocketAddr,
    },
    Unreachable {
        peer: DeviceId,
        why: Unreachable,
    },
    /// Somebody will come from one of these addresses whom the coordinator has introduced.
    Expected {
        from: Vec<IpAddr>,
        class: SourceClass,
    },
    /// Where this device is seen from outside, or nowhere any more; and behind what.
    Outside(Option<SocketAddr>, NatKind),
}

/// Why a peer was not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// No way leads to the coordinator's rendezvous.
    NoRendezvous,
    /// It is not there, or not to be a peer.
    Refused,
    /// The NATs of both let nothing through: known from their kinds.
    ShutOut,
    /// Nothing got through, and it is not known why.
    Silence,
}

#[derive(Debug)]
pub struct Client {
    rng: Rng,
    device: DeviceId,
    way: Option<Way>,
    own: Vec<SocketAddr>,
    outside: Option<SocketAddr>,
    /// At the other port.
    outside_other: Option<SocketAddr>,
    /// Something was sent to the other port: what comes from there proves nothing any more.
    has_asked_other: bool,
    has_answered_from_other: bool,
    cookie: u64,
    nonce: u64,
    kind: NatKind,
    /// Hellos since the last answer.
    unanswered: u32,
    hello_at: Option<Mono>,
    /// The other port is asked then.
    other_at: Option<Mono>,
    calls: BTreeMap<DeviceId, Calling>,
    meetings: BTreeMap<Token, Meeting>,
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
    events: VecDeque<Event>,
}

/// Asked for an introduction.
#[derive(Debug)]
struct Calling {
    content: ContentKey,
    until: Mono,
    again_at: Mono,
    /// So many times.
    asked: u32,
}

#[derive(Debug)]
struct Meeting {
    peer: DeviceId,
    has_called: bool,
    places: Vec<SocketAddr>,
    /// A relayed way is probed from then on.
    relay_at: Mono,
    until: Mono,
    /// `None` once one has got through.
    probe_at: Option<Mono>,
    rounds: u32,
}

/// Hellos unanswered after which the device counts as not seen from outside.
const UNANSWERED_MAX: u32 = 3;

/// Between the first hello and the one to the other port: an answer from there must have had time to come in by itself.
const OTHER_AFTER: Duration = Duration::from_secs(1);

impl Client {
    pub const fn new(device: DeviceId, rng: Rng) -> Self {
        Self {
            rng,
            device,
            way: None,
            own: Vec::new(),
            outside: None,
            outside_other: None,
            has_asked_other: false,
            has_answered_from_other: false,
            cookie: 0,
            nonce: 0,
            kind: NatKind {
                mapping: Mapping::Unknown,
                filtering: Filtering::Unknown,
                is_translated: false,
            },
            unanswered: 0,
            hello_at: None,
            other_at: None,
            calls: BTreeMap::new(),
            meetings: BTreeMap::new(),
            datagrams: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The way to the rendezvous; `None`: there is none, or this device is not to be met from outside.
    pub fn set_way(&mut self, now: Mono, way: Option<Way>) {
        if self.way == way {
            return;
        }
        self.way = way;
        self.start_over(now);
    }

    /// This device's own addresses, with the port of its socket. Others than before: it is somewhere else now.
    pub fn set_own(&mut self, now: Mono, own: Vec<SocketAddr>) {
        if self.own != own {
            self.own = own;
            self.start_over(now);
        }
    }

    fn start_over(&mut self, now: Mono) {
        let was_seen = self.outside.take().is_some();
        (self.has_asked_other, self.has_answered_from_other) = (false, false);
        self.outside_other = None;
        (self.cookie, self.unanswered, self.other_at) = (0, 0, None);
        self.kind = NatKind::default();
        self.hello_at = self.way.is_some().then_some(now);
        if was_seen {
            self.tell_outside();
        }
        if self.way.is_none() {
            let calls = core::mem::take(&mut self.calls);
            for peer in calls.into_keys() {
                self.give_up(peer, Unreachable::NoRendezvous);
            }
        }
        self.on_tick(now);
    }

    /// Where the rendezvous is.
    pub fn rendezvous_at(&self) -> Option<SocketAddr> {
        self.way.as_ref().map(|way| way.to)
    }

    /// Where this device is seen from outside, and behind what.
    pub const fn outside(&self) -> (Option<SocketAddr>, NatKind) {
        (self.outside, self.kind)
    }

    /// Meet this peer for a content. One that is under way is the same.
    pub fn introduce(&mut self, now: Mono, peer: DeviceId, content: ContentKey) {
        let mut meetings = self.meetings.values();
        let is_met = meetings.any(|it| it.peer == peer && it.has_called && it.probe_at.is_some());
        if is_met || self.calls.contains_key(&peer) {
            return;
        }
        if self.way.is_none() || self.calls.len() >= RENDEZVOUS_MEETINGS_MAX {
            return self.give_up(peer, Unreachable::NoRendezvous);
        }
        let calling = Calling {
            content,
            until: now + RENDEZVOUS_PATIENCE,
            again_at: now,
            asked: 0,
        };
        self.calls.insert(peer, calling);
        self.on_tick(now);
    }

    fn give_up(&mut self, peer: DeviceId, why: Unreachable) {
        self.events.push_back(Event::Unreachable { peer, why });
    }

    /// A datagram came; false if it is not of the rendezvous.
    pub fn on_datagram(&mut self, now: Mono, from: SocketAddr, datagram: &[u8]) -> bool {
        if !is_ours(datagram) {
            return false;
        }
        let message = decode(datagram);
        if let Some(Message::Probe { token, is_answer }) = message {
            self.on_probe(now, from, token, is_answer);
            self.on_tick(now);
            return true;
        }
        let Some(way) = self.way.as_ref().filter(|way| {
            let is_from_there = from == way.to || Some(from) == way.other;
            is_from_there && is_signed(datagram, &way.key)
        }) else {
            return true;
        };
        let is_other = Some(from) == way.other;
        match message {
            Some(Message::Welcome {
                nonce,
                cookie,
                outside,
                ..
            }) if nonce == self.nonce => self.on_welcome(now, is_other, cookie, outside),
            Some(Message::Meet {
                peer,
                token,
                has_called,
                class,
                places,
            }) if !is_other => {
                if !has_called {
                    let from = places.iter().map(SocketAddr::ip).collect();
                    self.events.push_back(Event::Expected { from, class });
                }
                self.on_meet(now, peer, token, has_called, places);
            }
            Some(Message::Refused { wanted, why }) if !is_other => {
                let why = match Refusal::from_byte(why) {
                    Some(Refusal::ShutOut) => Unreachable::ShutOut,
                    _ => Unreachable::Refused,
                };
                if self.calls.remove(&wanted).is_some() {
                    self.give_up(wanted, why);
                }
            }
            _ => {}
        }
        self.on_tick(now);
        true
    }

    fn on_welcome(&mut self, now: Mono, is_other: bool, cookie: u64, outside: SocketAddr) {
        if is_other {
            if self.has_asked_other {
                self.outside_other = Some(outside);
            } else {
                self.has_answered_from_other = true;
            }
            return self.work_out_kind(now);
        }
        self.unanswered = 0;
        if self.cookie != cookie || self.outside != Some(outside) {
            self.cookie = cookie;
            // The cookie comes back at once: only then does the coordinator believe the address.
            self.hello_at = Some(now);
        } else {
            self.hello_at = Some(now + RENDEZVOUS_HELLO_EVERY);
        }
        if self.outside.replace(outside) != Some(outside) {
            self.outside_other = None;
            let has_other = self.way.as_ref().is_some_and(|way| way.other.is_some());
            self.other_at = has_other.then_some(now + OTHER_AFTER);
            self.kind.is_translated = !self.own.iter().any(|own| own.ip() == outside.ip());
            self.tell_outside();
        }
    }

    fn work_out_kind(&mut self, now: Mono) {
        let before = self.kind;
        if self.has_answered_from_other {
            self.kind.filtering = Filtering::PortIndependent;
        } else if self.has_asked_other {
            self.kind.filtering = Filtering::AddressAndPortDependent;
        }
        if let (Some(one), Some(other)) = (self.outside, self.outside_other) {
            self.kind.mapping = if one == other {
                Mapping::EndpointIndependent
            } else {
                Mapping::Dependent
            };
        }
        if self.kind != before {
            // The coordinator is to know it before the next introduction.
            self.hello_at = Some(now);
            self.tell_outside();
        }
    }

    fn tell_outside(&mut self) {
        self.events
            .push_back(Event::Outside(self.outside, self.kind));
    }

    // --- meetings

    fn on_meet(
        &mut self,
        now: Mono,
        peer: DeviceId,
        token: Token,
        has_called: bool,
        mut places: Vec<SocketAddr>,
    ) {
        let is_wanted = !has_called || self.calls.contains_key(&peer);
        // Asked for once more, a meeting begins anew.
        let is_known = self.meetings.contains_key(&token);
        let is_full = !is_known && self.meetings.len() >= RENDEZVOUS_MEETINGS_MAX;
        if !is_wanted || is_full || (is_known && !has_called) {
            return;
        }
        if has_called {
            self.calls.remove(&peer);
        }
        places.retain(|place| !is_unfit(place.ip()));
        let is_relayed = |place: &SocketAddr| Channel::at(place.ip()).is_some();
        let relay_at = if places.iter().all(is_relayed) {
            now
        } else {
            now + RELAY_AFTER
        };
        let meeting = Meeting {
            peer,
            has_called,
            places,
            relay_at,
            until: now + RENDEZVOUS_PATIENCE,
            probe_at: Some(now),
            rounds: 0,
        };
        self.meetings.insert(token, meeting);
    }

    fn on_probe(&mut self, now: Mono, from: SocketAddr, token: Token, is_answer: bool) {
        let Some(meeting) = self.meetings.get_mut(&token) else {
            return;
        };
        if !is_answer {
            // Where it comes from counts for more than where it was said to be.
            let is_new = !meeting.places.contains(&from);
            if is_new && meeting.places.len() < RENDEZVOUS_PLACES_MAX {
                meeting.places.insert(0, from);
                if meeting.probe_at.is_some() {
                    meeting.probe_at = Some(now);
                }
            }
            let answer = Message::Probe {
                token,
                is_answer: true,
            };
            self.datagrams.push_back((from, answer.encode(None)));
            return;
        }
        if meeting.probe_at.take().is_some() && meeting.has_called {
            let (peer, at) = (meeting.peer, from);
            self.events.push_back(Event::Reached { peer, at });
        }
    }

    // --- time

    pub fn on_tick(&mut self, now: Mono) {
        if self.hello_at.is_some_and(|at| at <= now) {
            self.say_hello(now);
        }
        if self.other_at.is_some_and(|at| at <= now) {
            self.other_at = None;
            if let Some(other) = self.way.as_ref().and_then(|way| way.other) {
                self.has_asked_other = true;
                self.send_hello(other, false);
            }
        }
        self.call(now);
        self.probe(now);
    }

    fn say_hello(&mut self, now: Mono) {
        let Some(to) = self.way.as_ref().map(|way| way.to) else {
            self.hello_at = None;
            return;
        };
        let pause = RENDEZVOUS_HELLO_AGAIN * 2_u32.saturating_pow(self.unanswered.min(10));
        self.unanswered += 1;
        self.hello_at = Some(now + pause.min(RENDEZVOUS_HELLO_EVERY));
        if self.unanswered > UNANSWERED_MAX && self.outside.take().is_some() {
            self.tell_outside();
        }
        self.send_hello(to, !self.has_asked_other);
    }

    fn send_hello(&mut self, to: SocketAddr, wants_both: bool) {
        let Some(key) = self.way.as_ref().map(|way| way.key) else {
            return;
        };
        if self.nonce == 0 {
            self.nonce = self.rng.next_u64() | 1;
        }
        let hello = Message::Hello {
            device: self.device,
            nonce: self.nonce,
            cookie: self.cookie,
            wants_both,
            kind: self.kind,
            own: self.own.clone(),
        };
        self.datagrams.push_back((to, hello.encode(Some(&key))));
    }

    /// Ask again for introductions, and give up those that take too long.
    fn call(&mut self, now: Mono) {
        let Some((to, key)) = self.way.as_ref().map(|way| (way.to, way.key)) else {
            return;
        };
        let late: Vec<DeviceId> = self
            .calls
            .iter()
            .filter(|(_, calling)| calling.until <= now)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in late {
            self.calls.remove(&peer);
            self.give_up(peer, Unreachable::NoRendezvous);
        }
        if self.outside.is_none() {
            return;
        }
        for (peer, calling) in &mut self.calls {
            if calling.again_at > now {
                continue;
            }
            calling.again_at = now + RENDEZVOUS_HELLO_AGAIN * 2_u32.pow(calling.asked.min(4));
            calling.asked += 1;
            let call = Message::Call {
                device: self.device,
                wanted: *peer,
                content: calling.content,
            };
            self.datagrams.push_back((to, call.encode(Some(&key))));
        }
    }

    fn probe(&mut self, now: Mono) {
        let late: Vec<Token> = self
            .meetings
            .iter()
            .filter(|(_, meeting)| meeting.until <= now)
            .map(|(token, _)| *token)
            .collect();
        for token in late {
            let failed = self.meetings.remove(&token);
            if let Some(it) = failed.filter(|it| it.has_called && it.probe_at.is_some()) {
                self.give_up(it.peer, Unreachable::Silence);
            }
        }
        for (token, meeting) in &mut self.meetings {
            if meeting.probe_at.is_none_or(|at| at > now) {
                continue;
            }
            let probe = Message::Probe {
                token: *token,
                is_answer: false,
            };
            for place in &meeting.places {
                if now >= meeting.relay_at || Channel::at(place.ip()).is_none() {
                    self.datagrams.push_back((*place, probe.encode(None)));
                }
            }
            let pause = RENDEZVOUS_PROBE_EVERY * (1 + meeting.rounds.min(19));
            meeting.rounds += 1;
            meeting.probe_at = Some(now + pause);
        }
    }

    pub fn deadline(&self) -> Option<Deadline> {
        let at = |at: Option<Mono>, why| at.map(|at| Deadline::new(at, why));
        let is_seen = self.outside.is_some();
        let calls = self.calls.values().map(|calling| {
            let again = calling.again_at;
            if is_seen {
                calling.until.min(again)
            } else {
                calling.until
            }
        });
        let meetings = self
            .meetings
            .values()
            .map(|meeting| meeting.probe_at.unwrap_or(meeting.until).min(meeting.until));
        [
            at(self.hello_at, "rendezvous hello"),
            at(self.other_at, "rendezvous hello to the other port"),
            at(calls.min(), "rendezvous call"),
            at(meetings.min(), "rendezvous probe"),
        ]
        .into_iter()
        .fold(None, Deadline::earlier)
    }

    pub fn poll_datagram(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.datagrams.pop_front()
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub fn check(&self) {
        assert!(self.calls.len() <= RENDEZVOUS_MEETINGS_MAX);
        assert!(self.meetings.len() <= RENDEZVOUS_MEETINGS_MAX);
        for meeting in self.meetings.values() {
            assert!(meeting.places.len() <= RENDEZVOUS_PLACES_MAX);
        }
    }
}

/// Nothing is sent there, whoever says so.
fn is_unfit(ip: IpAddr) -> bool {
    let is_broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    ip.is_multicast() || ip.is_unspecified() || ip.is_loopback() || is_broadcast
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoRendezvous => "the coordinator's rendezvous (UDP) does not answer",
            Self::Refused => "the coordinator does not know it, or has nothing to do for both",
            Self::ShutOut => {
                "the NATs of both let nothing through: one gives each peer another port, the other lets in none it does not know"
            }
            Self::Silence => "no datagrams got through between the two networks",
        })
    }
}
