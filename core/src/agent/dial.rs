//! Whom to connect to, and when again.
//!
//! Decides: the order of candidates (those tried least, of these the nearest), the pause between
//! attempts, who is not to be talked to any more, and what is tried in which order to reach somebody:
//! TCP, which the kernel does for less work and which fills a LAN without being paced by us; beside it uTP if TCP
//! is not through soon, as it gets through NATs that arrange it, and where only the TCP port is shut.
//! Never does: the connecting itself.

use crate::limits::{CANDIDATES_MAX, REDIAL_AFTER, REDIAL_AFTER_MAX, UTP_AFTER};
use crate::policy::Known;
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

/// Peers of one content that may be dialled.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    known: BTreeMap<SocketAddr, Candidate>,
    banned: BTreeSet<SocketAddr>,
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
    pub(super) fn add(&mut self, addr: SocketAddr, known: Known) {
        if self.known.len() < CANDIDATES_MAX && !self.banned.contains(&addr) {
            let fresh = Candidate {
                known,
                connected: false,
                barred: false,
                tries: 0,
                not_before: Mono::ZERO,
            };
            let candidate = self.known.entry(addr).or_insert(fresh);
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
    ) -> Option<(SocketAddr, Known)> {
        let mut best = None;
        for (addr, c) in &mut self.known {
            if c.connected || c.barred || c.not_before > now {
                continue;
            }
            match near(*addr, c.known) {
                Some(near) => best = best.into_iter().chain([(c.tries, near, *addr)]).min(),
                None => c.barred = true,
            }
        }
        let (_, _, addr) = best?;
        let candidate = self.known.get_mut(&addr)?;
        candidate.connected = true;
        candidate.tries += 1;
        Some((addr, candidate.known))
    }

    /// Other limits are in force: whoever could not be met perhaps can.
    pub(super) fn reconsider(&mut self) {
        self.known.values_mut().for_each(|c| c.barred = false);
    }

    /// How we know this peer, or another one at its address.
    pub(super) fn known(&self, addr: SocketAddr) -> Known {
        let same_host = || self.known.iter().find(|(a, _)| a.ip() == addr.ip());
        let named = self.known.get_key_value(&addr).or_else(same_host);
        named.map_or(Known::Other, |(_, c)| c.known)
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

    fn addr(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 7680))
    }

    #[test]
    fn nearest_first_then_a_growing_pause() {
        let mut c = Candidates::default();
        let near = |addr: SocketAddr, _: Known| Some(addr != self::addr(2));
        let next = |c: &mut Candidates, now| c.next(now, near).map(|(addr, _)| addr);
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
