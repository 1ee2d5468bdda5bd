//! Who takes part in which swarm, as far as they said so lately.
//!
//! Decides how long presence lasts and how much of it is kept. Never decides who is told about whom
//! (`select.rs`). Soft state: what is lost in a restart is announced again within an interval.
//! Invariants: at most `PRESENCES_MAX` memberships, none past its expiry after [`Registry::expire`]; the
//! indexes of a swarm hold exactly its members.
//! Tested here, in virtual time.

use super::device::{Device, Net, View};
use crate::announce::messages::PeerId;
use crate::limits::{PRESENCES_MAX, SWARMS_MAX};
use crate::time::Mono;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use core::ops::Bound;

/// An info-hash as it travels on the wire and to trackers: the first 20 bytes (BEP 52).
pub(super) type SwarmKey = [u8; 20];

#[derive(Debug, Default)]
pub(super) struct Registry {
    swarms: BTreeMap<SwarmKey, Swarm>,
    expiries: BTreeSet<(Mono, SwarmKey, PeerId)>,
    /// How many swarms each device is in.
    devices: BTreeMap<PeerId, u32>,
}

#[derive(Debug, Default)]
pub(super) struct Swarm {
    members: BTreeMap<PeerId, Member>,
    /// By kind and network, in an order that says nothing.
    near: BTreeSet<(Kind, Net, u64, PeerId)>,
    /// By kind, in an order that says nothing.
    all: BTreeSet<(Kind, u64, PeerId)>,
    seeds: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) device: Arc<Device>,
    pub(super) kind: Kind,
    expires: Mono,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Downloader,
    Seed,
}

/// No room for another membership or swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Registry {
    /// This device takes part until `expires`, unless it says so again.
    pub(super) fn announce(
        &mut self,
        swarm: SwarmKey,
        device: &Arc<Device>,
        kind: Kind,
        expires: Mono,
    ) -> Result<(), Full> {
        let peer = device.peer_id;
        let known = self
            .swarms
            .get(&swarm)
            .is_some_and(|known| known.members.contains_key(&peer));
        if known {
            self.leave(swarm, peer);
        } else if self.expiries.len() >= PRESENCES_MAX
            || (self.swarms.len() >= SWARMS_MAX && !self.swarms.contains_key(&swarm))
        {
            return Err(Full);
        }
        let member = Member {
            device: Arc::clone(device),
            kind,
            expires,
        };
        self.swarms.entry(swarm).or_default().insert(peer, member);
        self.expiries.insert((expires, swarm, peer));
        *self.devices.entry(peer).or_default() += 1;
        Ok(())
    }

    pub(super) fn leave(&mut self, swarm: SwarmKey, peer: PeerId) {
        let Some(known) = self.swarms.get_mut(&swarm) else {
            return;
        };
        let Some(member) = known.remove(peer) else {
            return;
        };
        if known.members.is_empty() {
            self.swarms.remove(&swarm);
        }
        self.expiries.remove(&(member.expires, swarm, peer));
        if let Some(count) = self.devices.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.devices.remove(&peer);
            }
        }
    }

    /// Forget everybody who has not been heard of for too long.
    pub(super) fn expire(&mut self, now: Mono) {
        while let Some((at, swarm, peer)) = self.expiries.first().copied() {
            if at > now {
                return;
            }
            self.leave(swarm, peer);
        }
    }

    pub(super) fn next_expiry(&self) -> Option<Mono> {
        self.expiries.first().map(|(at, ..)| *at)
    }

    pub(super) fn swarm(&self, swarm: SwarmKey) -> Option<&Swarm> {
        self.swarms.get(&swarm)
    }

    pub(super) fn swarms(&self) -> impl Iterator<Item = (&SwarmKey, &Swarm)> {
        self.swarms.iter()
    }

    pub(super) fn swarm_count(&self) -> usize {
        self.swarms.len()
    }

    pub(super) fn device_count(&self) -> usize {
        self.devices.len()
    }

    pub(super) fn check(&self) {
        let memberships: usize = self.swarms.values().map(|s| s.members.len()).sum();
        debug_assert_eq!(memberships, self.expiries.len());
        debug_assert!(memberships <= PRESENCES_MAX && self.swarms.len() <= SWARMS_MAX);
        for swarm in self.swarms.values() {
            debug_assert_eq!(swarm.members.len(), swarm.near.len());
            debug_assert_eq!(swarm.members.len(), swarm.all.len());
            debug_assert!(!swarm.members.is_empty());
        }
    }
}

impl Swarm {
    /// How one member sees another.
    pub(super) fn view(&self, by: PeerId, of: PeerId) -> Option<View> {
        let by = self.members.get(&by)?;
        by.device.view(&self.members.get(&of)?.device)
    }

    pub(super) const fn seeds(&self) -> u32 {
        self.seeds
    }

    pub(super) fn downloaders(&self) -> u32 {
        u32::try_from(self.members.len())
            .unwrap_or(u32::MAX)
            .saturating_sub(self.seeds)
    }

    /// Members of this kind in this network, each once, from an arbitrary point on.
    pub(super) fn in_net(&self, kind: Kind, net: Net, pivot: u64) -> impl Iterator<Item = &Member> {
        let from = (kind, net, pivot, NO_PEER);
        let (start, end) = ((kind, net, 0, NO_PEER), (kind, net, u64::MAX, LAST_PEER));
        let after = self.near.range(from..=end);
        let before = self
            .near
            .range((Bound::Included(start), Bound::Excluded(from)));
        after
            .chain(before)
            .filter_map(|(.., peer)| self.members.get(peer))
    }

    /// Members of this kind anywhere, each once, from an arbitrary point on.
    pub(super) fn anywhere(&self, kind: Kind, pivot: u64) -> impl Iterator<Item = &Member> {
        let from = (kind, pivot, NO_PEER);
        let (start, end) = ((kind, 0, NO_PEER), (kind, u64::MAX, LAST_PEER));
        let after = self.all.range(from..=end);
        let before = self
            .all
            .range((Bound::Included(start), Bound::Excluded(from)));
        after
            .chain(before)
            .filter_map(|(.., peer)| self.members.get(peer))
    }

    fn insert(&mut self, peer: PeerId, member: Member) {
        let device = &member.device;
        self.near
            .insert((member.kind, device.net, device.order, peer));
        self.all.insert((member.kind, device.order, peer));
        self.seeds += u32::from(member.kind == Kind::Seed);
        self.members.insert(peer, member);
    }

    fn remove(&mut self, peer: PeerId) -> Option<Member> {
        let member = self.members.remove(&peer)?;
        let device = &member.device;
        self.near
            .remove(&(member.kind, device.net, device.order, peer));
        self.all.remove(&(member.kind, device.order, peer));
        self.seeds -= u32::from(member.kind == Kind::Seed);
        Some(member)
    }
}

const NO_PEER: PeerId = [0; 20];
const LAST_PEER: PeerId = [0xff; 20];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announce::messages::Scope;
    use alloc::vec::Vec;

    fn device(n: u8, addr: &str) -> Arc<Device> {
        Arc::new(Device::new(
            [n; 20],
            addr.parse().unwrap(),
            &[],
            Scope::Lan,
            None,
        ))
    }

    fn s(seconds: u64) -> Mono {
        Mono::from_us(seconds * 1_000_000)
    }

    const A: SwarmKey = [0xa; 20];
    const B: SwarmKey = [0xb; 20];

    #[test]
    fn presence_ends_unless_renewed() {
        let mut registry = Registry::default();
        let (one, two) = (device(1, "10.0.0.1:7680"), device(2, "10.0.0.2:7680"));
        registry.announce(A, &one, Kind::Downloader, s(75)).unwrap();
        registry.announce(A, &two, Kind::Seed, s(80)).unwrap();
        registry.announce(B, &two, Kind::Seed, s(80)).unwrap();
        registry
            .announce(A, &one, Kind::Downloader, s(105))
            .unwrap();
        registry.check();
        assert_eq!(registry.next_expiry(), Some(s(80)));
        registry.expire(s(79));
        assert_eq!((registry.device_count(), registry.swarm_count()), (2, 2));
        registry.expire(s(80));
        registry.check();
        assert_eq!((registry.device_count(), registry.swarm_count()), (1, 1));
        let swarm = registry.swarm(A).unwrap();
        assert_eq!((swarm.seeds(), swarm.downloaders()), (0, 1));
        registry.expire(s(105));
        assert_eq!((registry.device_count(), registry.swarm_count()), (0, 0));
        assert_eq!(registry.next_expiry(), None);
    }

    #[test]
    fn a_downloader_becomes_a_seed_and_moves_to_another_network() {
        let mut registry = Registry::default();
        registry
            .announce(A, &device(1, "10.0.0.1:1"), Kind::Downloader, s(9))
            .unwrap();
        registry
            .announce(A, &device(1, "10.9.0.1:1"), Kind::Seed, s(9))
            .unwrap();
        registry.check();
        let swarm = registry.swarm(A).unwrap();
        assert_eq!((swarm.seeds(), swarm.downloaders()), (1, 0));
        let net = |addr: &str| Net::of(addr.parse().unwrap());
        assert_eq!(swarm.in_net(Kind::Seed, net("10.0.0.7"), 0).count(), 0);
        assert_eq!(swarm.in_net(Kind::Seed, net("10.9.0.7"), 0).count(), 1);
        registry.leave(A, [1; 20]);
        registry.leave(A, [1; 20]);
        registry.check();
        assert_eq!(registry.swarm_count(), 0);
    }

    #[test]
    fn every_pivot_gives_everybody_once() {
        let mut registry = Registry::default();
        for n in 1..=40 {
            let addr = alloc::format!("10.0.{}.{n}:1", n % 2);
            registry
                .announce(A, &device(n, &addr), Kind::Seed, s(1))
                .unwrap();
        }
        let swarm = registry.swarm(A).unwrap();
        for pivot in [0, 1 << 40, u64::MAX / 2, u64::MAX] {
            let mut ids: Vec<_> = swarm
                .anywhere(Kind::Seed, pivot)
                .map(|member| member.device.peer_id)
                .collect();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), 40);
            let net = Net::of("10.0.1.200".parse().unwrap());
            assert_eq!(swarm.in_net(Kind::Seed, net, pivot).count(), 20);
        }
    }
}
