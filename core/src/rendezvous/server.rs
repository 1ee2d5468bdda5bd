//! The coordinator's side: tells devices their outside addresses, and introduces them to each other.
//!
//! Decides: whose address counts, which addresses of one device another one is told, how often it may ask.
//! Never does: say who may meet whom; the coordinator's registry does. Keeps presence alone, which a restart loses and
//! the next hellos bring back; keys and cookies are worked out anew from one secret each time.
//! Invariants: an address is kept for a device once a cookie sent there came back; everything is bounded.
//! Tested here and in `core/tests/nat.rs`.

use super::message::{Key, Message, PLACES_MAX, decode, derive, is_ours, is_signed};
use super::relay::{Channel, Relay};
use super::{ContentKey, DeviceId, NatKind};
use crate::limits::{
    RENDEZVOUS_ANSWERS_MAX, RENDEZVOUS_CALLS_PER_S, RENDEZVOUS_DEVICES_MAX, RENDEZVOUS_PRESENCE,
};
use crate::policy::is_global_v6;
use crate::rng::Rng;
use crate::stats::SourceClass;
use crate::time::{Deadline, Mono};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use bytes::Bytes;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

/// Why a device is not introduced; travels as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The other one has not said hello lately.
    Absent = 1,
    /// They are not to be peers.
    Strangers = 2,
    /// Their NATs let nothing through between them.
    ShutOut = 3,
}

impl Refusal {
    pub(super) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Absent),
            2 => Some(Self::Strangers),
            3 => Some(Self::ShutOut),
            _ => None,
        }
    }
}

/// Of all devices of a coordinator.
#[derive(Debug)]
pub struct Server {
    secret: Key,
    rng: Rng,
    devices: BTreeMap<DeviceId, Device>,
    /// When each was heard of last.
    heard: BTreeSet<(Mono, DeviceId)>,
    answers: VecDeque<Answer>,
    relay: Option<Relay>,
}

#[derive(Debug)]
struct Device {
    at: SocketAddr,
    kind: NatKind,
    own: Vec<SocketAddr>,
    heard: Mono,
    calls_since: Mono,
    calls: u32,
}

/// A datagram to send, and from which of the two ports.
#[derive(Debug)]
struct Answer {
    socket: usize,
    to: SocketAddr,
    bytes: Vec<u8>,
}

impl Server {
    /// `relay_bytes_per_s`: what may be handed on between devices that have no other way, in all; `None` is nothing.
    pub fn new(mut rng: Rng, relay_bytes_per_s: Option<u64>) -> Self {
        Self {
            secret: Key(rng.bytes()),
            rng,
            devices: BTreeMap::new(),
            heard: BTreeSet::new(),
            answers: VecDeque::new(),
            relay: relay_bytes_per_s.map(Relay::new),
        }
    }

    /// What this device proves its datagrams with.
    pub fn key(&self, device: DeviceId) -> Key {
        let mut text = b"key ".to_vec();
        text.extend_from_slice(&device);
        Key(derive(&self.secret, &text))
    }

    /// What only somebody who gets datagrams at this address knows.
    fn cookie(&self, at: SocketAddr) -> u64 {
        self.number(alloc::format!("cookie {at}").as_bytes())
    }

    /// Of two devices, whoever of them asks.
    fn channel(&self, one: DeviceId, other: DeviceId) -> Channel {
        let mut text = b"channel ".to_vec();
        text.extend_from_slice(&one.min(other));
        text.extend_from_slice(&one.max(other));
        Channel(self.number(&text))
    }

    /// One that nobody else can work out.
    fn number(&self, text: &[u8]) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = derive(&self.secret, text);
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    pub fn devices(&self) -> usize {
        self.devices.len()
    }

    /// A datagram came to one of the ports; `may_meet` says whether two devices are to be peers for a content, and of which
    /// class.
    pub fn on_datagram(
        &mut self,
        now: Mono,
        socket: usize,
        from: SocketAddr,
        datagram: &Bytes,
        may_meet: impl Fn(DeviceId, DeviceId, ContentKey) -> Option<SourceClass>,
    ) {
        self.expire(now);
        if let Some((channel, inside)) = Channel::unwrap(datagram) {
            if datagram.len() > inside && socket == 0 {
                self.hand_on(now, from, channel, datagram);
            }
            return;
        }
        if !is_ours(datagram) {
            return;
        }
        let message = decode(datagram);
        let (Some(Message::Hello { device, .. }) | Some(Message::Call { device, .. })) = message
        else {
            return;
        };
        if !is_signed(datagram, &self.key(device)) {
            return;
        }
        match message {
            Some(Message::Hello {
                nonce,
                cookie,
                wants_both,
                kind,
                own,
                ..
            }) => {
                self.welcome(socket, socket, from, device, nonce);
                if wants_both {
                    self.welcome(socket, 1 - socket.min(1), from, device, nonce);
                }
                if socket == 0 && cookie == self.cookie(from) {
                    self.remember(now, device, from, kind, own);
                }
            }
            Some(Message::Call {
                wanted, content, ..
            }) => {
                let known = self.devices.get_mut(&device);
                if known.is_some_and(|known| known.at == from && known.may_call(now)) {
                    let may = may_meet(device, wanted, content);
                    self.introduce(now, device, wanted, may);
                }
            }
            _ => {}
        }
    }

    /// After a restart nothing is known of a channel: its ends are told, and ask to be introduced again.
    fn hand_on(&mut self, now: Mono, from: SocketAddr, channel: Channel, datagram: &Bytes) {
        match self.relay.as_mut().filter(|relay| relay.knows(channel)) {
            Some(relay) => {
                let address = |device| self.devices.get(&device).map(|known| known.at);
                relay.on_datagram(now, from, channel, datagram.clone(), address);
            }
            None if self.answers.len() < RENDEZVOUS_ANSWERS_MAX => self.answers.push_back(Answer {
                socket: 0,
                to: from,
                bytes: channel.is_gone(),
            }),
            None => {}
        }
    }

    fn welcome(
        &mut self,
        asked: usize,
        socket: usize,
        to: SocketAddr,
        device: DeviceId,
        nonce: u64,
    ) {
        let welcome = Message::Welcome {
            nonce,
            cookie: self.cookie(to),
            is_other: socket != 0 || asked != 0,
            outside: to,
        };
        self.answer(socket, to, device, &welcome);
    }

    fn answer(&mut self, socket: usize, to: SocketAddr, device: DeviceId, message: &Message) {
        if self.answers.len() < RENDEZVOUS_ANSWERS_MAX {
            let bytes = message.encode(Some(&self.key(device)));
            self.answers.push_back(Answer { socket, to, bytes });
        }
    }

    fn remember(
        &mut self,
        now: Mono,
        device: DeviceId,
        at: SocketAddr,
        kind: NatKind,
        own: Vec<SocketAddr>,
    ) {
        let old = self.devices.get(&device).map(|known| known.heard);
        if let Some(heard) = old {
            self.heard.remove(&(heard, device));
        } else if self.devices.len() >= RENDEZVOUS_DEVICES_MAX {
            return;
        }
        self.heard.insert((now, device));
        let known = self.devices.entry(device).or_insert(Device {
            at,
            kind,
            own: Vec::new(),
            heard: now,
            calls_since: now,
            calls: 0,
        });
        (known.at, known.kind, known.own, known.heard) = (at, kind, own, now);
    }

    fn expire(&mut self, now: Mono) {
        while let Some((heard, device)) = self.heard.first().copied()
            && now >= heard + RENDEZVOUS_PRESENCE
        {
            self.heard.pop_first();
            self.devices.remove(&device);
        }
    }

    fn introduce(
        &mut self,
        now: Mono,
        caller: DeviceId,
        wanted: DeviceId,
        class: Option<SourceClass>,
    ) {
        let channel = self.channel(caller, wanted);
        let Some(here) = self.devices.get(&caller) else {
            return;
        };
        let there = self.devices.get(&wanted);
        let to = here.at;
        let is_shut_out = there.is_some_and(|there| here.is_shut_out_by(there));
        let mut is_relayed = || {
            let relay = self.relay.as_mut();
            relay.is_some_and(|relay| relay.open(now, channel, [caller, wanted]))
        };
        let agreed = match (there, class) {
            (_, None) => Err(Refusal::Strangers),
            (None, _) => Err(Refusal::Absent),
            (Some(there), Some(class)) => match is_relayed() {
                false if is_shut_out => Err(Refusal::ShutOut),
                is_relayed => Ok((there, class, is_relayed.then(|| channel.place()))),
            },
        };
        let (there, class, relayed) = match agreed {
            Ok(agreed) => agreed,
            Err(why) => {
                let why = why as u8;
                return self.answer(0, to, caller, &Message::Refused { wanted, why });
            }
        };
        let token = self.rng.bytes();
        let meet = |peer, other: &Device, towards: &Device, has_called| {
            let mut places = other.places_for(towards);
            if is_shut_out {
                places.clear();
            }
            places.truncate(PLACES_MAX - usize::from(relayed.is_some()));
            places.extend(relayed);
            Message::Meet {
                peer,
                token,
                has_called,
                class,
                places,
            }
        };
        let to_caller = meet(wanted, there, here, true);
        let to_wanted = meet(caller, here, there, false);
        let there_at = there.at;
        self.answer(0, to, caller, &to_caller);
        self.answer(0, there_at, wanted, &to_wanted);
    }

    /// The next datagram, from which port and where to.
    pub fn poll_datagram(&mut self, now: Mono) -> Option<(usize, SocketAddr, Bytes)> {
        if let Some(answer) = self.answers.pop_front() {
            return Some((answer.socket, answer.to, answer.bytes.into()));
        }
        let (to, datagram) = self.relay.as_mut()?.poll(now)?;
        Some((0, to, datagram))
    }

    /// When the next relayed datagram may leave.
    pub fn deadline(&self) -> Option<Deadline> {
        let at = self.relay.as_ref()?.next_at()?;
        Some(Deadline::new(at, "a relayed datagram"))
    }

    pub fn check(&self) {
        assert_eq!(self.devices.len(), self.heard.len());
        assert!(self.devices.len() <= RENDEZVOUS_DEVICES_MAX);
        assert!(self.answers.len() <= RENDEZVOUS_ANSWERS_MAX);
        self.relay.iter().for_each(Relay::check);
    }
}

impl Device {
    fn may_call(&mut self, now: Mono) -> bool {
        if now.since(self.calls_since) >= Duration::from_secs(1) {
            (self.calls_since, self.calls) = (now, 0);
        }
        self.calls += 1;
        self.calls <= RENDEZVOUS_CALLS_PER_S
    }

    /// ... where IPv6 does not lead past both NATs.
    fn is_shut_out_by(&self, other: &Self) -> bool {
        let is_far = self.at.ip() != other.at.ip();
        let leads_past = self.has_global_v6() && other.has_global_v6();
        is_far && !leads_past && self.kind.shuts_out(other.kind)
    }

    fn has_global_v6(&self) -> bool {
        self.own.iter().any(|place| is_global_v6(place.ip()))
    }

    /// Where somebody else may find it: its outside address; those in its own network for who is there, too; IPv6
    /// addresses that are the same everywhere.
    fn places_for(&self, other: &Self) -> Vec<SocketAddr> {
        let is_near = self.at.ip() == other.at.ip();
        let own = self.own.iter().copied().filter(|place| match place.ip() {
            IpAddr::V4(v4) => is_near && (v4.is_private() || v4.is_link_local()),
            IpAddr::V6(v6) if v6.is_unique_local() => is_near,
            v6 => is_global_v6(v6),
        });
        let mut places: Vec<SocketAddr> = core::iter::once(self.at).chain(own).collect();
        places.truncate(PLACES_MAX);
        places
    }
}

#[cfg(test)]
mod tests {
    use super::super::nat::Mapping;
    use super::*;

    const A: DeviceId = [1; 20];
    const B: DeviceId = [2; 20];
    const NOW: Mono = Mono::from_us(1_000_000);

    struct Rig {
        server: Server,
        now: Mono,
        own: Vec<SocketAddr>,
    }

    impl Rig {
        fn new() -> Self {
            Self::relaying(None)
        }

        fn relaying(bytes_per_s: Option<u64>) -> Self {
            let server = Server::new(Rng::from_u64(1), bytes_per_s);
            let own = alloc::vec!["192.168.1.2:7680".parse().unwrap()];
            Self {
                server,
                now: NOW,
                own,
            }
        }

        fn ask(&mut self, from: &str, message: &Message, key: &Key) -> Vec<(usize, Message)> {
            let bytes = Bytes::from(message.encode(Some(key)));
            let from = from.parse().unwrap();
            let may = |_, _, content| (content != [0; 20]).then_some(SourceClass::Group);
            self.server.on_datagram(self.now, 0, from, &bytes, may);
            self.server.check();
            let answers = core::iter::from_fn(|| self.server.poll_datagram(self.now));
            let answers: Vec<_> = answers.collect();
            let total: usize = answers.iter().map(|(.., bytes)| bytes.len()).sum();
            assert!(total <= 2 * bytes.len());
            answers
                .into_iter()
                .map(|(socket, _, bytes)| (socket, decode(&bytes).unwrap()))
                .collect()
        }

        fn hello(&mut self, device: DeviceId, from: &str, cookie: u64, kind: NatKind) -> u64 {
            let hello = Message::Hello {
                device,
                nonce: 9,
                cookie,
                wants_both: false,
                kind,
                own: self.own.clone(),
            };
            let key = self.server.key(device);
            match self.ask(from, &hello, &key)[..] {
                [
                    (
                        0,
                        Message::Welcome {
                            nonce: 9,
                            cookie,
                            outside,
                            ..
                        },
                    ),
                ] => {
                    assert_eq!(outside, from.parse().unwrap());
                    cookie
                }
                ref other => panic!("{other:?}"),
            }
        }

        fn register(&mut self, device: DeviceId, from: &str, kind: NatKind) {
            let cookie = self.hello(device, from, 0, kind);
            self.hello(device, from, cookie, kind);
        }

        fn call(&mut self, from: &str, content: u8) -> Vec<(usize, Message)> {
            let call = Message::Call {
                device: A,
                wanted: B,
                content: [content; 20],
            };
            let key = self.server.key(A);
            self.ask(from, &call, &key)
        }
    }

    const HERE: &str = "198.51.100.1:4000";
    const THERE: &str = "203.0.113.1:5000";

    #[test]
    fn two_devices_are_introduced() {
        let mut rig = Rig::new();
        rig.register(A, HERE, NatKind::default());
        rig.register(B, THERE, NatKind::default());
        let said = rig.call(HERE, 1);
        let [
            (
                0,
                Message::Meet {
                    peer: B,
                    token,
                    has_called: true,
                    class: SourceClass::Group,
                    places,
                },
            ),
            (
                0,
                Message::Meet {
                    peer: A,
                    token: other,
                    has_called: false,
                    places: theirs,
                    ..
                },
            ),
        ] = &said[..]
        else {
            panic!("{said:?}");
        };
        assert_eq!(token, other);
        assert_eq!(places[..], [THERE.parse().unwrap()], "no private addresses");
        assert_eq!(theirs[..], [HERE.parse().unwrap()]);
    }

    #[test]
    fn ipv6_addresses_are_told_if_they_are_the_same_everywhere() {
        let mut rig = Rig::new();
        let own = [
            "192.168.1.2:1",
            "[fe80::1]:1",
            "[fd00::1]:1",
            "[2001:db8::1]:1",
        ];
        rig.own = own.map(|at| at.parse().unwrap()).to_vec();
        rig.register(A, HERE, NatKind::default());
        rig.register(B, THERE, NatKind::default());
        let told = [THERE, own[3]].map(|at| at.parse().unwrap());
        let said = rig.call(HERE, 1);
        assert!(matches!(&said[0].1, Message::Meet { places, .. } if places[..] == told));
    }

    #[test]
    fn neighbours_are_told_their_own_addresses_too() {
        let mut rig = Rig::new();
        rig.register(A, HERE, NatKind::default());
        rig.register(B, "198.51.100.1:4001", NatKind::default());
        let said = rig.call(HERE, 1);
        let Some((_, Message::Meet { places, .. })) = said.first() else {
            panic!("{said:?}");
        };
        assert_eq!(places.len(), 2);
    }

    #[test]
    fn who_cannot_or_may_not_meet_is_told_why() {
        let refused = |said: Vec<(usize, Message)>| match said[..] {
            [(0, Message::Refused { wanted: B, why })] => Refusal::from_byte(why),
            ref other => panic!("{other:?}"),
        };
        let mut rig = Rig::new();
        assert_eq!(
            rig.call(HERE, 1),
            [],
            "who is not known itself hears nothing"
        );
        let symmetric = NatKind {
            mapping: Mapping::Dependent,
            ..NatKind::default()
        };
        rig.register(A, HERE, symmetric);
        assert_eq!(refused(rig.call(HERE, 1)), Some(Refusal::Absent));
        rig.register(B, THERE, symmetric);
        assert_eq!(refused(rig.call(HERE, 0)), Some(Refusal::Strangers));
        assert_eq!(refused(rig.call(HERE, 1)), Some(Refusal::ShutOut));
        assert_eq!(rig.call("198.51.100.1:4001", 1), [], "not from there");
        rig.now = rig.now + RENDEZVOUS_PRESENCE;
        assert_eq!(rig.call(HERE, 1), []);
        assert_eq!(rig.server.devices(), 0);
    }

    #[test]
    fn nobody_registers_somebody_else_or_somewhere_else() {
        let mut rig = Rig::new();
        let cookie = rig.hello(A, HERE, 0, NatKind::default());
        assert_eq!(rig.server.devices(), 0, "nothing has come back yet");
        rig.hello(A, THERE, cookie, NatKind::default());
        assert_eq!(rig.server.devices(), 0, "a cookie is for one address");
        let hello = Message::Hello {
            device: A,
            nonce: 1,
            cookie,
            wants_both: false,
            kind: NatKind::default(),
            own: Vec::new(),
        };
        let others = rig.server.key(B);
        assert_eq!(rig.ask(HERE, &hello, &others), []);
        let own = rig.server.key(A);
        assert_eq!(rig.ask(HERE, &hello, &own).len(), 1);
        assert_eq!(rig.server.devices(), 1);
    }

    #[test]
    fn one_who_asks_too_often_waits() {
        let mut rig = Rig::new();
        rig.register(A, HERE, NatKind::default());
        let answered = (0..200).filter(|_| !rig.call(HERE, 1).is_empty()).count();
        assert_eq!(answered, RENDEZVOUS_CALLS_PER_S as usize);
        rig.now = rig.now + Duration::from_secs(1);
        assert_eq!(rig.call(HERE, 1).len(), 1);
    }

    fn relayed(rig: &mut Rig, from: &str, datagram: &[u8]) -> Vec<(SocketAddr, Vec<u8>)> {
        let may = |_, _, _| None;
        let (from, datagram) = (from.parse().unwrap(), Bytes::copy_from_slice(datagram));
        rig.server.on_datagram(rig.now, 0, from, &datagram, may);
        rig.server.check();
        core::iter::from_fn(|| rig.server.poll_datagram(rig.now))
            .map(|(_, to, bytes)| (to, bytes.to_vec()))
            .collect()
    }

    #[test]
    fn those_who_are_shut_out_are_given_a_channel_if_there_is_a_relay() {
        let symmetric = NatKind {
            mapping: Mapping::Dependent,
            ..NatKind::default()
        };
        let mut rig = Rig::relaying(Some(1_000_000));
        rig.register(A, HERE, symmetric);
        rig.register(B, THERE, symmetric);
        let [
            (_, Message::Meet { places, .. }),
            (_, Message::Meet { places: theirs, .. }),
        ] = &rig.call(HERE, 1)[..]
        else {
            panic!("not introduced");
        };
        assert_eq!((places.len(), places), (1, theirs), "nothing else is tried");
        let channel = Channel::at(places[0].ip()).unwrap();
        let mut datagram = b"something".to_vec();
        channel.wrap(&mut datagram);
        let there: SocketAddr = THERE.parse().unwrap();
        let handed_on = relayed(&mut rig, HERE, &datagram);
        assert_eq!(handed_on, [(there, datagram.clone())]);
        assert_eq!(relayed(&mut rig, "198.51.100.1:9", &datagram), []);
        let empty = channel.is_gone();
        assert_eq!(
            relayed(&mut rig, HERE, &empty),
            [],
            "no answer to an answer"
        );
        rig.server = Server::new(Rng::from_u64(1), None);
        let here: SocketAddr = HERE.parse().unwrap();
        assert_eq!(relayed(&mut rig, HERE, &datagram), [(here, empty)]);
    }

    #[test]
    fn others_are_told_of_the_channel_last() {
        let mut rig = Rig::relaying(Some(1_000_000));
        rig.register(A, HERE, NatKind::default());
        rig.register(B, THERE, NatKind::default());
        for (_, message) in rig.call(HERE, 1) {
            let Message::Meet { places, .. } = message else {
                panic!("{message:?}");
            };
            let is_channel = |at: &SocketAddr| Channel::at(at.ip()).is_some();
            assert_eq!(
                places.iter().map(is_channel).collect::<Vec<_>>(),
                [false, true]
            );
        }
    }
}
