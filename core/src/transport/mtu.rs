//! The largest datagram the path carries, found with probes that may be lost.
//!
//! A probe is a data packet whose payload fits any path, padded to the size in question: when it is lost, the same
//! packet goes again without padding. (Numbers count packets, so a packet cannot be cut once others follow it.)
//!
//! Decides: how large packets are, when and which size is probed. Never does: sending.
//! Invariants: one probe in flight; `confirmed` has crossed the path or is the least. Spec: BEP 29; RFC 8899 in spirit.

use crate::limits::{
    UTP_DATAGRAM_MAX_V4, UTP_DATAGRAM_MAX_V6, UTP_DATAGRAM_MIN, UTP_MTU_PROBES_LOST,
    UTP_MTU_SEARCH_AGAIN, UTP_MTU_STEP,
};
use crate::time::Mono;
use core::net::SocketAddr;

#[derive(Clone, Debug)]
pub(super) struct Mtu {
    confirmed: u16,
    ceiling: u16,
    most: u16,
    /// Size in flight.
    probe: Option<u16>,
    probes_lost: u32,
    search_again_at: Mono,
}

impl Mtu {
    pub(super) fn new(now: Mono, peer: SocketAddr) -> Self {
        let most = if peer.is_ipv4() {
            UTP_DATAGRAM_MAX_V4
        } else {
            UTP_DATAGRAM_MAX_V6
        };
        Self {
            confirmed: UTP_DATAGRAM_MIN,
            ceiling: most,
            most,
            probe: None,
            probes_lost: 0,
            search_again_at: now + UTP_MTU_SEARCH_AGAIN,
        }
    }

    /// Bytes a datagram may have.
    pub(super) const fn datagram_bytes(&self) -> u16 {
        self.confirmed
    }

    /// The size to probe, if it is time to: the largest first, which most paths carry, then halves.
    pub(super) fn probe_due(&mut self, now: Mono) -> Option<u16> {
        if now >= self.search_again_at && self.probe.is_none() {
            self.search_again_at = now + UTP_MTU_SEARCH_AGAIN;
            self.ceiling = self.most;
        }
        if self.probe.is_some() || self.ceiling < self.confirmed + UTP_MTU_STEP {
            return None;
        }
        if self.ceiling == self.most {
            return Some(self.most);
        }
        Some(self.confirmed + (self.ceiling - self.confirmed).div_ceil(2))
    }

    pub(super) fn on_probe_sent(&mut self, size: u16) {
        self.probe = Some(size);
    }

    pub(super) fn on_probe_arrived(&mut self) {
        if let Some(size) = self.probe.take() {
            self.confirmed = self.confirmed.max(size);
            self.probes_lost = 0;
        }
    }

    pub(super) fn on_probe_lost(&mut self) {
        let Some(size) = self.probe.take() else {
            return;
        };
        self.probes_lost += 1;
        if self.probes_lost >= UTP_MTU_PROBES_LOST {
            self.probes_lost = 0;
            self.ceiling = (size - 1).max(self.confirmed);
        }
    }

    /// Nothing has arrived for long: what has crossed the path once may not do so now.
    pub(super) fn on_black_hole(&mut self) {
        self.confirmed = UTP_DATAGRAM_MIN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Probes until the size is found, on a path that carries so much.
    fn search(mtu: &mut Mtu, path: u16) -> usize {
        let mut probes = 0;
        while let Some(size) = mtu.probe_due(Mono::ZERO) {
            mtu.on_probe_sent(size);
            assert_eq!(mtu.probe_due(Mono::ZERO), None, "one at a time");
            if size <= path {
                mtu.on_probe_arrived();
            } else {
                mtu.on_probe_lost();
            }
            probes += 1;
        }
        probes
    }

    #[test]
    fn it_finds_what_a_path_carries() {
        for path in [576, 600, 1000, 1200, 1402, 1471] {
            let mut mtu = Mtu::new(Mono::ZERO, SocketAddr::from(([1, 2, 3, 4], 5)));
            assert!(search(&mut mtu, path) <= 14);
            assert!((path - UTP_MTU_STEP..=path).contains(&mtu.datagram_bytes()) || path < 600);
        }
        let mut mtu = Mtu::new(Mono::ZERO, SocketAddr::from(([0; 8], 5)));
        assert_eq!(search(&mut mtu, 1500), 1);
        assert_eq!(mtu.datagram_bytes(), UTP_DATAGRAM_MAX_V6);
        assert_eq!(mtu.probe_due(Mono::ZERO), None);
        mtu.on_black_hole();
        assert_eq!(mtu.datagram_bytes(), UTP_DATAGRAM_MIN);
    }

    #[test]
    fn a_probe_lost_once_proves_nothing_and_the_search_begins_anew() {
        let mut mtu = Mtu::new(Mono::ZERO, SocketAddr::from(([1, 2, 3, 4], 5)));
        let first = mtu.probe_due(Mono::ZERO).unwrap();
        mtu.on_probe_sent(first);
        mtu.on_probe_lost();
        assert_eq!(mtu.probe_due(Mono::ZERO), Some(first));
        search(&mut mtu, 1000);
        let later = Mono::ZERO + UTP_MTU_SEARCH_AGAIN;
        assert_eq!(mtu.probe_due(later), Some(UTP_DATAGRAM_MAX_V4));
    }
}
