//! Whom to connect to, and when again.
//!
//! Decides: the order of candidates (those tried least, of these the nearest), the pause between
//! attempts, who is not to be talked to any more, and what is tried in which order to reach somebody:
//! TCP, which the kernel does for less work and which fills a LAN without being paced by us; beside it uTP if TCP
//! is not through soon, as it gets through NATs that arrange it, and where only the TCP port is shut.
//! Never does: the connecting itself.

use crate::limits::{CANDIDATES_MAX, REDIAL_AFTER, REDIAL_AFTER_MAX, UTP_AFTER};
use crate::policy::Known;
use crate::rendezvous::DeviceId;
use crate::settings::PeerTransport;
use crate::time::{Deadline, Mono};
use alloc::collections::{BTreeMap, BTreeSet};
use core::net::SocketAddr;
use core::time::Duration;

/// What is tried to reach a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Tcp,
    /// ... and uTP if it is not through at this time.
    TcpThenUtp(Mono),
    Utp,
}

pub(super) fn way(now: Mono, transport: PeerTransport, has_datagrams: bool) -> Way {
    match transport {
        PeerTransport::Auto if has_datagrams => Way::TcpThenUtp(now + UTP_AFTER),
        PeerTransport::Utp if has_datagrams => Way::Utp,
        _ => Way::Tcp,
    }
}

/// Where a peer is: several devices behind one NAT share an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) addr: SocketAddr,
    /// As far as the coordinator or the peer has said who it is.
    pub(super) device: Option<DeviceId>,
}

impl Place {
    pub(super) const fn at(addr: SocketAddr) -> Self {
        Self { addr, device: None }
    }
}

/// Peers of one content that may be dialled.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    known: BTreeMap<Place, Candidate>,
    banned: BTreeSet<Place>,
}

#[derive(Debug)]
struct Candidate {
    known: Known,
    connected: bool,
    /// It may not be met under the limits in force.
    barred: bool,
    tries: u32,
    not_before: Mono,
}

impl Candidates {
    pub(super) fn add(&mut self, place: Place, known: Known) {
        if self.known.len() < CANDIDATES_MAX && !self.banned.contains(&place) {
            let fresh = Candidate {
                known,
                connected: false,
                barred: false,
                tries: 0,
                not_before: Mono::ZERO,
            };
            let candidate = self.known.entry(place).or_insert(fresh);
            // What the caller or the coordinator says counts for more than that it came to us.
            if known != Known::Other && candidate.known != Known::Caller {
                candidate.known = known;
                candidate.barred = false;
            }
        }
    }

    /// The best candidate to dial now of those that may be met: `near` says how near they are. It counts as connected
    /// from here on.
    pub(super) fn next<N: Ord + Copy>(
        &mut self,
        now: Mono,
        near: impl Fn(SocketAddr, Known) -> Option<N>,
    ) -> Option<(Place, Known)> {
        let mut best = None;
        for (place, c) in &mut self.known {
            if c.connected || c.barred || c.not_before > now {
                continue;
            }
            match near(place.addr, c.known) {
                Some(near) => best = best.into_iter().chain([(c.tries, near, *place)]).min(),
                None => c.barred = true,
            }
        }
        let (_, _, place) = best?;
        let candidate = self.known.get_mut(&place)?;
        candidate.connected = true;
        candidate.tries += 1;
        Some((place, candidate.known))
    }

    /// Other limits are in force: whoever could not be met perhaps can.
    pub(super) fn reconsider(&mut self) {
        self.known.values_mut().for_each(|c| c.barred = false);
    }

    /// How we know this peer, or another one at its address.
    pub(super) fn known(&self, addr: SocketAddr) -> Known {
        let same_place = self.known.iter().find(|(place, _)| place.addr == addr);
        let same_host = || self.known.iter().find(|(p, _)| p.addr.ip() == addr.ip());
        let named = same_place.or_else(same_host);
        named.map_or(Known::Other, |(_, c)| c.known)
    }

    /// A connection to it has opened: it answers.
    pub(super) fn opened(&mut self, place: Place) {
        if let Some(candidate) = self.known.get_mut(&place) {
            (candidate.connected, candidate.tries) = (true, 0);
        }
    }

    pub(super) fn closed(&mut self, now: Mono, place: Place) {
        if let Some(candidate) = self.known.get_mut(&place) {
            let pause = REDIAL_AFTER * 2_u32.saturating_pow(candidate.tries.min(10));
            candidate.connected = false;
            candidate.not_before = now + pause.min(REDIAL_AFTER_MAX);
        }
    }

    /// No use for it at present (ourselves, or both of us are complete).
    pub(super) fn rest(&mut self, now: Mono, place: Place, pause: Duration) {
        if let Some(candidate) = self.known.get_mut(&place) {
            candidate.connected = false;
            candidate.not_before = now + pause;
        }
    }

    pub(super) fn ban(&mut self, place: Place) {
        self.known.remove(&place);
        if self.banned.len() < CANDIDATES_MAX {
            self.banned.insert(place);
        }
    }

    pub(super) fn is_banned(&self, place: Place) -> bool {
        self.banned.contains(&place)
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        let at = self
            .known
            .values()
            .filter(|c| !c.connected && !c.barred)
            .map(|c| c.not_before)
            .min()?;
        Some(Deadline::new(at, "dial a peer"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::SourceClass;

    fn addr(n: u8) -> Place {
        Place::at(SocketAddr::from(([10, 0, 0, n], 7680)))
    }

    #[test]
    fn nearest_first_then_a_growing_pause() {
        let mut c = Candidates::default();
        let near = |addr: SocketAddr, _: Known| Some(addr != self::addr(2).addr);
        let next = |c: &mut Candidates, now| c.next(now, near).map(|(place, _)| place);
        c.add(addr(1), Known::Coordinator(SourceClass::Internet));
        c.add(addr(2), Known::Coordinator(SourceClass::Lan));
        assert_eq!(next(&mut c, Mono::ZERO), Some(addr(2)));
        assert_eq!(next(&mut c, Mono::ZERO), Some(addr(1)));
        assert_eq!(next(&mut c, Mono::ZERO), None);
        c.closed(Mono::ZERO, addr(2));
        let again = c.deadline().unwrap().at;
        assert_eq!(again, Mono::ZERO + REDIAL_AFTER * 2);
        assert!(next(&mut c, Mono::ZERO).is_none() && next(&mut c, again).is_some());
        c.closed(again, addr(2));
        assert_eq!(c.deadline().unwrap().at, again + REDIAL_AFTER * 4);
    }

    #[test]
    fn the_banned_stay_out() {
        let mut c = Candidates::default();
        c.add(addr(1), Known::Caller);
        c.ban(addr(1));
        c.add(addr(1), Known::Caller);
        let next = c.next(Mono::ZERO, |_, _| Some(0));
        assert!(next.is_none() && c.is_banned(addr(1)));
    }

    #[test]
    fn who_may_not_be_met_is_not_dialled() {
        let mut c = Candidates::default();
        c.add(addr(1), Known::Other);
        assert_eq!(c.next(Mono::ZERO, |_, _| None::<u8>), None);
        c.add(addr(1), Known::Caller);
        let next = c.next(Mono::ZERO, |_, known| (known == Known::Caller).then_some(0));
        assert_eq!(next, Some((addr(1), Known::Caller)));
    }
}
