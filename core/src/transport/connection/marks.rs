//! Marks of congestion (ECN, RFC 3168): routers mark packets instead of dropping them, and the receiver tells the sender.
//!
//! BEP 29 has no word for it, so it is in use only between ends that both say the count of marks in their handshake
//! ([`super::super::packet::Packet::congestion`]). Then packets with new bytes may be marked; what goes again, probes of the MTU and
//! what has no bytes may not (RFC 3168 §6.1.4, §6.1.5).
//!
//! Decides: which packets may be marked, when the count is told, whether a count is news. Never does: what follows
//! from it (`congestion`). A peer that lies about marks slows its own download.

use crate::machine::Ecn;

#[derive(Debug, Default)]
pub(super) struct Marks {
    /// The peer tells marks.
    is_told: bool,
    /// Packets that may be marked do not seem to get through.
    is_path_deaf: bool,
    /// One has.
    has_arrived: bool,
    /// Packets of the peer's that came marked, and how many of them it was told of.
    received: u32,
    told: u32,
    /// Of ours, as the peer has told.
    heard: u32,
}

impl Marks {
    /// A packet came with this count or none; whether the peer has received marked ones since the last.
    pub(super) fn on_heard(&mut self, count: Option<u32>) -> bool {
        let Some(count) = count else {
            return false;
        };
        self.is_told = true;
        // Older packets that come late say less.
        let is_news = (count.wrapping_sub(self.heard) as i32) > 0;
        if is_news {
            self.heard = count;
        }
        is_news && self.ecn() == Ecn::Ect
    }

    /// A packet of the stream came; whether that is to be told at once.
    pub(super) fn on_received(&mut self, ecn: Ecn) -> bool {
        let is_marked = ecn == Ecn::Ce && self.is_told;
        self.received = self.received.wrapping_add(u32::from(is_marked));
        is_marked
    }

    /// There is something to tell.
    pub(super) const fn is_due(&self) -> bool {
        self.received != self.told
    }

    /// The count for an acknowledgement, which is told now: always in the handshake, then once there were marks.
    pub(super) fn tell(&mut self, is_handshake: bool) -> Option<u32> {
        self.told = self.received;
        let has_words = is_handshake || self.received > 0;
        (self.is_told && has_words).then_some(self.received)
    }

    /// What new bytes leave with.
    pub(super) const fn ecn(&self) -> Ecn {
        if self.is_told && !self.is_path_deaf {
            Ecn::Ect
        } else {
            Ecn::NotEct
        }
    }

    /// A packet has arrived that was sent once.
    pub(super) const fn on_arrived(&mut self) {
        self.has_arrived = true;
    }

    /// Something was lost. If nothing that may be marked has ever arrived, that may be why.
    pub(super) const fn on_lost(&mut self) {
        self.is_path_deaf |= !self.has_arrived;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_tells_marks_is_sent_packets_that_may_be_marked() {
        let mut marks = Marks::default();
        assert!(!marks.on_heard(None) && !marks.on_received(Ecn::Ce));
        assert_eq!((marks.ecn(), marks.tell(true)), (Ecn::NotEct, None));
        assert!(!marks.on_heard(Some(0)));
        assert_eq!((marks.ecn(), marks.tell(true)), (Ecn::Ect, Some(0)));
        assert_eq!(marks.tell(false), None, "nothing to say");
        assert!(marks.on_received(Ecn::Ce) && marks.is_due() && !marks.on_received(Ecn::Ect));
        assert_eq!((marks.tell(false), marks.is_due()), (Some(1), false));
        assert_eq!(marks.tell(false), Some(1), "again: the first may be lost");
    }

    #[test]
    fn counts_only_grow() {
        let mut marks = Marks::default();
        let heard = [0, 3, 2, 3, 4, u32::MAX, 5].map(|count| marks.on_heard(Some(count)));
        assert_eq!(heard, [false, true, false, false, true, false, true]);
    }

    #[test]
    fn a_path_that_drops_what_may_be_marked_is_found_out() {
        let mut marks = Marks::default();
        marks.on_heard(Some(0));
        marks.on_lost();
        assert_eq!(marks.ecn(), Ecn::NotEct);
        let mut marks = Marks::default();
        marks.on_heard(Some(0));
        marks.on_arrived();
        marks.on_lost();
        assert_eq!(marks.ecn(), Ecn::Ect, "an ordinary loss");
    }
}
