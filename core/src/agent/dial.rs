//! Whom to connect to, and when again.
//!
//! Decides: the order of candidates (nearest class first, then those tried least), the pause between
//! attempts, and who is not to be talked to any more. Never does: the connecting itself.

use crate::limits::{CANDIDATES_MAX, REDIAL_AFTER, REDIAL_AFTER_MAX};
use crate::stats::SourceClass;
use crate::time::{Deadline, Mono};
use alloc::collections::{BTreeMap, BTreeSet};
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

/// Peers of one content that may be dialled.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    known: BTreeMap<SocketAddr, Candidate>,
    banned: BTreeSet<SocketAddr>,
}

#[derive(Debug)]
struct Candidate {
    class: SourceClass,
    connected: bool,
    tries: u32,
    not_before: Mono,
}

impl Candidates {
    pub(super) fn add(&mut self, addr: SocketAddr, class: SourceClass) {
        if self.known.len() < CANDIDATES_MAX && !self.banned.contains(&addr) {
            let fresh = Candidate {
                class,
                connected: false,
                tries: 0,
                not_before: Mono::ZERO,
            };
            self.known.entry(addr).or_insert(fresh).class = class;
        }
    }

    /// The best candidate to dial now; counts as connected from here on.
    pub(super) fn next(&mut self, now: Mono) -> Option<(SocketAddr, SourceClass)> {
        let (addr, candidate) = self
            .known
            .iter_mut()
            .filter(|(_, c)| !c.connected && c.not_before <= now)
            .min_by_key(|(addr, c)| (c.tries, c.class, **addr))?;
        candidate.connected = true;
        candidate.tries += 1;
        Some((*addr, candidate.class))
    }

    /// The class the coordinator gave this peer, if it named it; by address alone otherwise.
    pub(super) fn class_of(&self, addr: SocketAddr) -> SourceClass {
        let named = self.known.get(&addr).map(|c| c.class);
        let same_host = || {
            self.known
                .iter()
                .find(|(a, _)| a.ip() == addr.ip())
                .map(|(_, c)| c.class)
        };
        named
            .or_else(same_host)
            .unwrap_or_else(|| class_by_address(addr.ip()))
    }

    /// A connection to it has opened: it answers.
    pub(super) fn opened(&mut self, addr: SocketAddr) {
        if let Some(candidate) = self.known.get_mut(&addr) {
            (candidate.connected, candidate.tries) = (true, 0);
        }
    }

    pub(super) fn closed(&mut self, now: Mono, addr: SocketAddr) {
        if let Some(candidate) = self.known.get_mut(&addr) {
            let pause = REDIAL_AFTER * 2_u32.saturating_pow(candidate.tries.min(10));
            candidate.connected = false;
            candidate.not_before = now + pause.min(REDIAL_AFTER_MAX);
        }
    }

    /// No use for it at present (ourselves, or both of us are complete).
    pub(super) fn rest(&mut self, now: Mono, addr: SocketAddr, pause: Duration) {
        if let Some(candidate) = self.known.get_mut(&addr) {
            candidate.connected = false;
            candidate.not_before = now + pause;
        }
    }

    pub(super) fn ban(&mut self, addr: SocketAddr) {
        self.known.remove(&addr);
        if self.banned.len() < CANDIDATES_MAX {
            self.banned.insert(addr);
        }
    }

    pub(super) fn is_banned(&self, addr: SocketAddr) -> bool {
        self.banned.contains(&addr)
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        let at = self
            .known
            .values()
            .filter(|c| !c.connected)
            .map(|c| c.not_before)
            .min()?;
        Some(Deadline::new(at, "dial a peer"))
    }
}

/// What an address alone says: enough for peers the caller names.
pub(super) const fn class_by_address(ip: IpAddr) -> SourceClass {
    match ip {
        IpAddr::V4(ip) if ip.is_link_local() => SourceClass::LinkLocal,
        IpAddr::V4(ip) if ip.is_loopback() || ip.is_private() => SourceClass::Lan,
        IpAddr::V6(ip) if ip.is_unicast_link_local() => SourceClass::LinkLocal,
        IpAddr::V6(ip) if ip.is_loopback() || ip.is_unique_local() => SourceClass::Lan,
        _ => SourceClass::Internet,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 7680))
    }

    #[test]
    fn nearest_first_then_a_growing_pause() {
        let mut c = Candidates::default();
        c.add(addr(1), SourceClass::Internet);
        c.add(addr(2), SourceClass::Lan);
        assert_eq!(c.next(Mono::ZERO), Some((addr(2), SourceClass::Lan)));
        assert_eq!(c.next(Mono::ZERO), Some((addr(1), SourceClass::Internet)));
        assert_eq!(c.next(Mono::ZERO), None);
        c.closed(Mono::ZERO, addr(2));
        let again = c.deadline().unwrap().at;
        assert_eq!(again, Mono::ZERO + REDIAL_AFTER * 2);
        assert!(c.next(Mono::ZERO).is_none() && c.next(again).is_some());
        c.closed(again, addr(2));
        assert_eq!(c.deadline().unwrap().at, again + REDIAL_AFTER * 4);
    }

    #[test]
    fn the_banned_stay_out() {
        let mut c = Candidates::default();
        c.add(addr(1), SourceClass::Lan);
        c.ban(addr(1));
        c.add(addr(1), SourceClass::Lan);
        assert!(c.next(Mono::ZERO).is_none() && c.is_banned(addr(1)));
    }
}
