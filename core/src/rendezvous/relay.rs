//! The way that is left where two NATs let nothing through: the coordinator hands on what two devices send each other.
//!
//! Off unless the coordinator is given a rate for it. A pair has a *channel*, whose number only the two and the coordinator
//! know. A relayed datagram is a magic, that number, and the datagram itself; it goes on as it came. To the rest of an
//! agent a channel is an address like any other ([`Channel::place`]).
//!
//! Decides: which datagrams go on, and when: all together stay within the rate, none waits longer than [`RELAY_WAIT_MAX`],
//! and no channel has more than its part of what waits. Never does: keep a datagram that cannot leave in time; it is
//! dropped, as on any line.
//! Trust: only what comes from the address of one end goes on, to the address of the other one; both have proven theirs
//! ([`super::Server`]), and both were introduced. Tested here and in `core/tests/nat.rs`.

use super::DeviceId;
use crate::limits::{
    RELAY_CHANNELS_MAX, RELAY_IDLE, RELAY_PART_MIN_BYTES, RELAY_SHORT_BYTES, RELAY_WAIT_MAX,
};
use crate::time::Mono;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use bytes::Bytes;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use core::time::Duration;

const MAGIC: [u8; 4] = *b"DVRR";
/// What a datagram is longer by on this way.
const HEAD_BYTES: usize = MAGIC.len() + 8;

/// Addresses in `100::/64` lead nowhere (RFC 6666): nothing real comes from there.
const PLACES: u128 = 0x0100 << 112;
/// Every address has a port, and 0 would be none.
const PORT: u16 = 3544;

/// Stands for two devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Channel(pub(super) u64);

impl Channel {
    /// The address that stands for it.
    pub fn place(self) -> SocketAddr {
        let ip = Ipv6Addr::from(PLACES | u128::from(self.0));
        SocketAddr::new(ip.into(), PORT)
    }

    /// The channel that an address stands for.
    pub fn at(ip: IpAddr) -> Option<Self> {
        let IpAddr::V6(v6) = ip else {
            return None;
        };
        let bits = u128::from(v6);
        (bits >> 64 << 64 == PLACES).then_some(Self(bits as u64))
    }

    /// Make a datagram one of this channel.
    pub fn wrap(self, datagram: &mut Vec<u8>) {
        let number = self.0.to_be_bytes();
        datagram.splice(0..0, MAGIC.into_iter().chain(number));
    }

    /// What the coordinator says of a channel it does not know (any more): a datagram with nothing in it.
    pub(super) fn is_gone(self) -> Vec<u8> {
        let mut datagram = Vec::new();
        self.wrap(&mut datagram);
        datagram
    }

    /// The channel of a relayed datagram, and where the datagram in it begins.
    pub fn unwrap(datagram: &[u8]) -> Option<(Self, usize)> {
        let rest = datagram.strip_prefix(&MAGIC)?;
        let number = rest.first_chunk::<8>()?;
        Some((Self(u64::from_be_bytes(*number)), HEAD_BYTES))
    }
}

/// The coordinator's part.
#[derive(Debug)]
pub(super) struct Relay {
    bytes_per_s: u64,
    channels: BTreeMap<Channel, Ends>,
    /// When each was used last, roughly.
    used: BTreeSet<(Mono, Channel)>,
    /// Channels with something waiting.
    waiting: usize,
    /// Acknowledgements, mostly: they pass what waits, else a queue would count twice in every round trip.
    short: VecDeque<Waiting>,
    queue: VecDeque<Waiting>,
    /// When the line that the rate makes is free again.
    free_at: Mono,
}

#[derive(Debug)]
struct Ends {
    devices: [DeviceId; 2],
    used: Mono,
    waiting_bytes: u64,
}

#[derive(Debug)]
struct Waiting {
    until: Mono,
    channel: Channel,
    to: SocketAddr,
    datagram: Bytes,
}

impl Relay {
    pub(super) fn new(bytes_per_s: u64) -> Self {
        Self {
            bytes_per_s: bytes_per_s.max(1),
            channels: BTreeMap::new(),
            used: BTreeSet::new(),
            waiting: 0,
            short: VecDeque::new(),
            queue: VecDeque::new(),
            free_at: Mono::ZERO,
        }
    }

    /// The two were introduced; false if there is no place for them.
    pub(super) fn open(&mut self, now: Mono, channel: Channel, devices: [DeviceId; 2]) -> bool {
        self.expire(now);
        let is_new = !self.channels.contains_key(&channel);
        if is_new && self.channels.len() >= RELAY_CHANNELS_MAX {
            return false;
        }
        if is_new {
            let ends = Ends {
                devices,
                used: now,
                waiting_bytes: 0,
            };
            self.channels.insert(channel, ends);
            self.used.insert((now, channel));
        }
        self.touch(now, channel);
        true
    }

    fn touch(&mut self, now: Mono, channel: Channel) {
        let Some(ends) = self.channels.get_mut(&channel) else {
            return;
        };
        if now.since(ends.used) >= Duration::from_secs(1) {
            self.used.remove(&(ends.used, channel));
            ends.used = now;
            self.used.insert((now, channel));
        }
    }

    fn expire(&mut self, now: Mono) {
        while let Some((used, channel)) = self.used.first().copied()
            && now >= used + RELAY_IDLE
        {
            self.used.pop_first();
            let ends = self.channels.remove(&channel);
            self.waiting -= usize::from(ends.is_some_and(|ends| ends.waiting_bytes > 0));
        }
    }

    pub(super) fn knows(&self, channel: Channel) -> bool {
        self.channels.contains_key(&channel)
    }

    /// A relayed datagram came from somewhere; `address` says where a device is.
    pub(super) fn on_datagram(
        &mut self,
        now: Mono,
        from: SocketAddr,
        channel: Channel,
        datagram: Bytes,
        address: impl Fn(DeviceId) -> Option<SocketAddr>,
    ) {
        self.expire(now);
        let Some(ends) = self.channels.get(&channel) else {
            return;
        };
        let [one, other] = ends.devices.map(address);
        let to = match (one, other) {
            (Some(one), Some(other)) if one == from => other,
            (Some(one), Some(other)) if other == from => one,
            _ => return,
        };
        self.touch(now, channel);
        self.enqueue(now, channel, to, datagram);
    }

    fn enqueue(&mut self, now: Mono, channel: Channel, to: SocketAddr, datagram: Bytes) {
        let Some(ends) = self.channels.get_mut(&channel) else {
            return;
        };
        let len = datagram.len() as u64;
        let is_first = ends.waiting_bytes == 0;
        let sharers = (self.waiting + usize::from(is_first)) as u64;
        let whole = bytes_in(self.bytes_per_s, RELAY_WAIT_MAX);
        // There is always room for one more.
        let part = (whole / (sharers + 1)).max(RELAY_PART_MIN_BYTES);
        let begins = self.free_at.max(now);
        if ends.waiting_bytes + len > part || begins.since(now) > RELAY_WAIT_MAX {
            return;
        }
        ends.waiting_bytes += len;
        self.waiting += usize::from(is_first);
        let takes_us = len.saturating_mul(1_000_000).div_ceil(self.bytes_per_s);
        self.free_at = begins + Duration::from_micros(takes_us);
        let is_short = len <= RELAY_SHORT_BYTES;
        let queue = if is_short {
            &mut self.short
        } else {
            &mut self.queue
        };
        queue.push_back(Waiting {
            until: if is_short { now } else { begins },
            channel,
            to,
            datagram,
        });
    }

    /// The next datagram whose time has come, and where to.
    pub(super) fn poll(&mut self, now: Mono) -> Option<(SocketAddr, Bytes)> {
        let next = match self.short.pop_front() {
            Some(short) => short,
            None => self.queue.pop_front_if(|next| next.until <= now)?,
        };
        if let Some(ends) = self.channels.get_mut(&next.channel) {
            let left = ends
                .waiting_bytes
                .saturating_sub(next.datagram.len() as u64);
            self.waiting -= usize::from(ends.waiting_bytes > 0 && left == 0);
            ends.waiting_bytes = left;
        }
        Some((next.to, next.datagram))
    }

    pub(super) fn next_at(&self) -> Option<Mono> {
        let next = self.short.front().or(self.queue.front());
        next.map(|next| next.until)
    }

    pub(super) fn check(&self) {
        assert_eq!(self.channels.len(), self.used.len());
        assert!(self.channels.len() <= RELAY_CHANNELS_MAX);
        let waiting = self.channels.values().filter(|ends| ends.waiting_bytes > 0);
        assert_eq!(waiting.count(), self.waiting);
    }
}

fn bytes_in(bytes_per_s: u64, span: Duration) -> u64 {
    let span_us = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    bytes_per_s.saturating_mul(span_us) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Mono = Mono::from_us(1_000_000);

    fn device(n: u8) -> DeviceId {
        [n; 20]
    }

    fn address(device: DeviceId) -> Option<SocketAddr> {
        Some(SocketAddr::from(([198, 51, 100, device[0]], 7680)))
    }

    fn from(n: u8) -> SocketAddr {
        address(device(n)).unwrap()
    }

    /// A relay of 100 kB/s with two channels: 1 with 2, and 3 with 4.
    fn relay() -> Relay {
        let mut relay = Relay::new(100_000);
        assert!(relay.open(NOW, Channel(7), [device(1), device(2)]));
        assert!(relay.open(NOW, Channel(8), [device(3), device(4)]));
        relay
    }

    fn send(relay: &mut Relay, now: Mono, n: u8, channel: u64, len: usize) {
        let datagram = Bytes::from(alloc::vec![n; len]);
        relay.on_datagram(now, from(n), Channel(channel), datagram, address);
        relay.check();
    }

    fn take(relay: &mut Relay, now: Mono) -> Vec<(SocketAddr, usize)> {
        let taken = core::iter::from_fn(|| relay.poll(now));
        let taken = taken.map(|(to, datagram)| (to, datagram.len())).collect();
        relay.check();
        taken
    }

    #[test]
    fn a_channel_is_an_address_and_a_head() {
        let channel = Channel(0x0123_4567_89ab_cdef);
        assert_eq!(Channel::at(channel.place().ip()), Some(channel));
        for real in ["100::1:0:0:0:0", "2001:db8::1", "10.0.0.1", "::"] {
            assert_eq!(Channel::at(real.parse().unwrap()), None, "{real}");
        }
        let mut datagram = b"inside".to_vec();
        channel.wrap(&mut datagram);
        let (read, at) = Channel::unwrap(&datagram).unwrap();
        assert_eq!((read, &datagram[at..]), (channel, &b"inside"[..]));
        for cut in 0..HEAD_BYTES {
            assert_eq!(Channel::unwrap(&datagram[..cut]), None);
        }
        assert!(crate::transport::decode(&datagram).is_err());
        assert!(!super::super::message::is_ours(&datagram));
    }

    #[test]
    fn what_one_end_sends_goes_to_the_other_and_nothing_else_goes_anywhere() {
        let mut relay = relay();
        send(&mut relay, NOW, 1, 7, 100);
        send(&mut relay, NOW, 2, 7, 200);
        send(&mut relay, NOW, 3, 7, 300);
        send(&mut relay, NOW, 1, 9, 400);
        let later = NOW + Duration::from_millis(10);
        assert_eq!(take(&mut relay, later), [(from(2), 100), (from(1), 200)]);
        let nowhere = |_| None;
        relay.on_datagram(
            later,
            from(1),
            Channel(7),
            Bytes::from_static(b"x"),
            nowhere,
        );
        assert_eq!(take(&mut relay, later), []);
    }

    #[test]
    fn all_together_stay_within_the_rate_and_share_it() {
        let mut relay = relay();
        let mut got = [0_usize; 5];
        for tick in 0..10_000_u64 {
            let now = NOW + Duration::from_millis(tick);
            // One sends three times the rate, the other one half of it.
            send(&mut relay, now, 1, 7, 300);
            send(&mut relay, now, 3, 8, 50);
            for (to, len) in take(&mut relay, now) {
                got[if to == from(2) { 2 } else { 4 }] += len;
            }
        }
        let all = got[2] + got[4];
        assert!((980_000..=1_010_000).contains(&all), "{got:?}");
        assert!(
            got[4] >= 450_000,
            "who asks for less than its part has it: {got:?}"
        );
        let left = relay.next_at().unwrap();
        assert!(left <= NOW + Duration::from_secs(10) + RELAY_WAIT_MAX);
    }

    #[test]
    fn channels_nobody_uses_end() {
        let mut relay = relay();
        let later = NOW + RELAY_IDLE / 2;
        send(&mut relay, later, 1, 7, 10);
        let now = NOW + RELAY_IDLE;
        send(&mut relay, now, 3, 8, 10);
        send(&mut relay, now, 1, 7, 10);
        assert_eq!(
            take(&mut relay, now + RELAY_WAIT_MAX).len(),
            2,
            "of 7 alone"
        );
        for n in 0..RELAY_CHANNELS_MAX as u64 + 5 {
            let opened = relay.open(now, Channel(100 + n), [device(1), device(2)]);
            assert_eq!(opened, n + 1 < RELAY_CHANNELS_MAX as u64);
        }
        relay.check();
    }
}
