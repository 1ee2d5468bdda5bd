//! What one stream sends next.
//!
//! Decides: the order (selective acknowledgement, lost packets, new bytes, FIN, plain acknowledgement), what the windows
//! and the pace allow, which packet probes the path's MTU.
//! Spec: BEP 29. Tested in `core/tests/utp.rs`.

use super::super::packet::{HEADER_LEN, Kind};
use super::super::send::Part;
use super::{Connection, Phase, SYN};
use crate::limits::UTP_WINDOW_PROBE_MAX;
use crate::machine::Ecn;
use crate::time::Mono;
use alloc::vec::Vec;

/// Packets that leave together after an idle moment however slow the pace is.
const BURST_PACKETS: u64 = 2;

/// Packets that follow a probe of the MTU within the window, so that its loss is seen without a timeout.
const PROBE_FOLLOWERS: u64 = 1;

/// What the windows say about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// So many bytes of it may leave.
    For(u16),
    Later,
}

/// A packet that leaves.
struct Next {
    part: Part,
    /// Bytes that are added to it to make it a probe.
    padding: u16,
    ecn: Ecn,
}

impl Connection {
    /// The next datagram, written to `out`, and whether it may be marked; `None` if there is none.
    pub(in crate::transport) fn poll_packet(
        &mut self,
        now: Mono,
        out: &mut Vec<u8>,
    ) -> Option<Ecn> {
        let mut ecn = Ecn::NotEct;
        match self.phase {
            Phase::Gone => {}
            Phase::Connecting if self.is_syn_due => self.write_syn(now, out),
            Phase::Connecting => {}
            Phase::Unconfirmed if self.is_ack_due(now) => self.write_state(now, out),
            Phase::Unconfirmed => {}
            Phase::Open | Phase::Lingering => {
                let is_ack_due = self.is_ack_due(now);
                if is_ack_due && (self.receiver.has_gap() || self.marks.is_due()) {
                    self.write_state(now, out);
                } else if let Some(next) = self.next_part(now) {
                    ecn = next.ecn;
                    self.write_part(now, next, out);
                } else if is_ack_due || self.is_keep_alive_due(now) {
                    self.write_state(now, out);
                }
            }
        }
        (!out.is_empty()).then_some(ecn)
    }

    fn write_syn(&mut self, now: Mono, out: &mut Vec<u8>) {
        let mut header = self.header(Kind::Syn, now, SYN);
        header.ack = 0;
        header.encode_state(|_| {}, Some(0), out);
        self.is_syn_due = false;
        self.syns_sent = self.syns_sent.saturating_add(1);
        self.sent_at = now;
        self.timeout_at = Some(now + self.rtt.timeout());
    }

    /// An acknowledgement without data; it has the number of the next packet and does not use it up.
    fn write_state(&mut self, now: Mono, out: &mut Vec<u8>) {
        let header = self.header(Kind::State, now, self.sender.next_number());
        let marks = self.marks.tell(self.phase == Phase::Unconfirmed);
        header.encode_state(|out| self.receiver.write_selective(out), marks, out);
        self.on_acknowledged(now, header.window_bytes);
    }

    fn write_part(&mut self, now: Mono, next: Next, out: &mut Vec<u8>) {
        let Next { part, padding, .. } = next;
        let kind = if part.is_fin { Kind::Fin } else { Kind::Data };
        let header = self.header(kind, now, part.number);
        header.encode_padded(padding.into(), out);
        self.sender.copy(part, out);
        self.on_acknowledged(now, header.window_bytes);
    }

    /// What leaves now, if anything may.
    fn next_part(&mut self, now: Mono) -> Option<Next> {
        self.paced_until = None;
        let lost = self.sender.lost();
        let unsent_bytes = self.sender.unsent_bytes();
        let wanted = match lost {
            Some(part) => part.len,
            None if !self.sender.may_send_new() => return None,
            None if unsent_bytes > 0 => u16::try_from(unsent_bytes)
                .unwrap_or(u16::MAX)
                .min(self.payload_bytes()),
            None if self.wants_fin => 0,
            None => return None,
        };
        let Room::For(len) = self.room(now, wanted, lost.is_some()) else {
            return None;
        };
        let rate = self.allowed.pacing_bytes_per_s;
        if rate.is_some() && !self.pace.is_free(now) {
            self.paced_until = Some(self.pace.free_at());
            return None;
        }
        let next = self.commit(now, lost, len);
        if let Some(rate) = rate {
            let size = usize::from(next.part.len) + usize::from(next.padding) + HEADER_LEN;
            let burst_bytes = BURST_PACKETS * u64::from(self.mtu.datagram_bytes());
            self.pace.on_sent(now, size as u64, rate, burst_bytes);
        }
        Some(next)
    }

    fn commit(&mut self, now: Mono, lost: Option<Part>, len: u16) -> Next {
        if self.sender.is_acked() && !self.is_asking {
            self.progress_at = now;
        }
        let mut padding = 0;
        let part = if let Some(part) = lost {
            self.sender.on_resent(now, part.number);
            part
        } else if len == 0 {
            self.sender.send_fin(now)
        } else {
            padding = self.probe_padding(now, len);
            self.sender.send_new(now, len, padding > 0)
        };
        if self.timeout_at.is_none() {
            self.timeout_at = Some(now + self.overdue_after());
        }
        self.watch_tail(now);
        let is_plain = lost.is_none() && padding == 0 && len > 0;
        let ecn = if is_plain {
            self.marks.ecn()
        } else {
            Ecn::NotEct
        };
        Next { part, padding, ecn }
    }

    fn overdue_after(&self) -> core::time::Duration {
        let timeout = self.rtt.timeout();
        if self.is_asking {
            timeout.min(UTP_WINDOW_PROBE_MAX)
        } else {
            timeout
        }
    }

    /// Whether the windows let a packet of `wanted` bytes go.
    fn room(&mut self, now: Mono, wanted: u16, is_again: bool) -> Room {
        let flight_bytes = self.sender.flight_bytes();
        let is_quiet = self.sender.is_quiet();
        let needed_bytes = flight_bytes + u64::from(wanted);
        // One packet may always be on its way: without it nothing would ever be heard.
        let is_full = needed_bytes > self.allowed.window_bytes && !is_quiet;
        if is_full || self.allowed.rests {
            self.is_window_limited = true;
            return Room::Later;
        }
        if needed_bytes <= self.peer_window_bytes || wanted == 0 {
            self.stop_asking(now);
            return Room::For(wanted);
        }
        if !is_quiet {
            return Room::Later;
        }
        let open = u16::try_from(self.peer_window_bytes).unwrap_or(u16::MAX);
        if open > 0 && !is_again {
            self.stop_asking(now);
            return Room::For(wanted.min(open));
        }
        self.ask(now, wanted, is_again)
    }

    /// The peer's window is open again: from here on silence means what it usually does.
    fn stop_asking(&mut self, now: Mono) {
        if !self.is_asking {
            return;
        }
        self.is_asking = false;
        self.progress_at = now;
        self.rtt.on_progress();
        if self.sender.is_quiet() {
            self.timeout_at = None;
        }
    }

    /// The peer's window is closed, and nothing is on its way that would be answered with a new one.
    fn ask(&mut self, now: Mono, wanted: u16, is_again: bool) -> Room {
        if !self.is_asking {
            self.is_asking = true;
            self.may_ask = false;
            self.progress_at = now;
            self.timeout_at = Some(now + self.overdue_after());
        }
        if !core::mem::take(&mut self.may_ask) {
            if self.timeout_at.is_none() {
                self.timeout_at = Some(now + self.overdue_after());
            }
            return Room::Later;
        }
        Room::For(if is_again { wanted } else { 1 })
    }

    /// How many bytes to add to a packet of `len` bytes so that it probes the path.
    fn probe_padding(&mut self, now: Mono, len: u16) -> u16 {
        let payload_bytes = self.payload_bytes();
        let following_bytes = (PROBE_FOLLOWERS + 1) * u64::from(payload_bytes);
        let window_bytes = self.allowed.window_bytes.min(self.peer_window_bytes);
        let is_followed =
            self.sender.unsent_bytes() >= following_bytes && window_bytes >= following_bytes;
        if len != payload_bytes || !is_followed {
            return 0;
        }
        let Some(size) = self.mtu.probe_due(now) else {
            return 0;
        };
        self.mtu.on_probe_sent(size);
        size.saturating_sub(self.mtu.datagram_bytes())
    }
}
