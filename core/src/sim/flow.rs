//! One direction of a TCP-like stream: what was written, what is on the wire, what arrived, what was read.
//!
//! Decides when a segment may leave (windows), what is lost and goes again, and what the receiver may read.
//! Never knows hosts, links or events; the world moves its segments and acknowledgements.
//! The congestion control is the plain one: slow start, additive increase, ×0.7 on a loss (once per
//! window), a timeout starts over. Every transmission has its own number; a transmission overtaken by
//! three acknowledged later ones is lost (as in QUIC, RFC 9002 §6.1.1).
//! Invariants: `read ≤ arrived`, `next ≤ taken ≤ written`; bytes are kept once, from `read` to `written`.

use super::shaping::SEGMENT_BYTES_MAX;
use bytes::Bytes;
use std::collections::VecDeque;
use std::vec::Vec;

const REORDER_MAX: u32 = 3;
const RTO_MIN_NS: u64 = 200_000_000;
const RTO_MAX_NS: u64 = 60_000_000_000;
const RTO_FIRST_NS: u64 = 1_000_000_000;
const SEND_BUFFER_MIN: u64 = 64 * 1024;
/// RFC 6928's ten packets, where segments are smaller than that.
const FIRST_WINDOW: u64 = 14_600;

/// The bounds a flow works under.
#[derive(Clone, Copy)]
pub(super) struct FlowSpec {
    pub(super) segment: u64,
    pub(super) receive_buffer: u64,
    pub(super) send_buffer_max: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Which transmission this is.
    pub(super) number: u32,
    pub(super) start: u64,
    pub(super) len: u32,
    pub(super) fin: bool,
}

struct Flight {
    start: u64,
    at_ns: u64,
    len: u32,
    fin: bool,
    acked: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fin {
    No,
    Wanted,
    Sent,
    Acked,
}

pub(super) struct Flow {
    spec: FlowSpec,
    data: VecDeque<Bytes>,
    written: u64,
    /// Handed to the send buffer.
    taken: u64,
    /// End offsets of sends not yet answered.
    sends: VecDeque<u64>,
    answered: u64,

    next: u64,
    acked: u64,
    flights: VecDeque<Flight>,
    first_flight: u32,
    in_flight: u64,
    again: VecDeque<(u64, u32, bool)>,
    window: u64,
    threshold: u64,
    /// Losses of transmissions before this one belong to a window already reduced.
    recover: u32,
    /// How far the receiver lets us send.
    edge: u64,
    rtt_ns: u64,
    rtt_var_ns: u64,
    backoff: u32,
    rto_from_ns: u64,
    progress_ns: u64,
    probe: bool,
    fin: Fin,
    halted: bool,

    arrived: u64,
    read: u64,
    early: Vec<(u64, u64)>,
    fin_at: Option<u64>,
    advertised: u64,
    /// Transmissions that have come and are not acknowledged yet, since when, and what had arrived before.
    waiting: Vec<u32>,
    waits_since_ns: Option<u64>,
    told: u64,
    is_delayed_ack_due: bool,

    /// In its uplink's round.
    pub(super) in_round: bool,
    pub(super) rto_armed: bool,
    pub(super) read_queued: bool,
    pub(super) sent_queued: bool,

    /// Bounds that the machines at the two ends have set ([`crate::machine::Shape`]).
    send_window: Option<u64>,
    receive_window: Option<u64>,
    /// The send window has kept bytes out of the send buffer.
    pub(super) was_held_back: bool,
    resent: u32,
    out_of_order: u32,
    path_rtt_ns: u64,
    last_rtt_ns: u64,
    least_rtt_ns: u64,
    acks: u32,
}

impl Flow {
    pub(super) fn new(spec: FlowSpec) -> Self {
        Self {
            spec,
            data: VecDeque::new(),
            written: 0,
            taken: 0,
            sends: VecDeque::new(),
            answered: 0,
            next: 0,
            acked: 0,
            flights: VecDeque::new(),
            first_flight: 0,
            in_flight: 0,
            again: VecDeque::new(),
            window: spec.segment.max(FIRST_WINDOW),
            threshold: u64::MAX,
            recover: 0,
            edge: spec.receive_buffer,
            rtt_ns: 0,
            rtt_var_ns: 0,
            backoff: 0,
            rto_from_ns: 0,
            progress_ns: 0,
            probe: false,
            fin: Fin::No,
            halted: false,
            arrived: 0,
            read: 0,
            early: Vec::new(),
            fin_at: None,
            advertised: spec.receive_buffer,
            waiting: Vec::new(),
            waits_since_ns: None,
            told: 0,
            is_delayed_ack_due: false,
            in_round: false,
            rto_armed: false,
            read_queued: false,
            sent_queued: false,
            send_window: None,
            receive_window: None,
            was_held_back: false,
            resent: 0,
            out_of_order: 0,
            path_rtt_ns: 0,
            last_rtt_ns: 0,
            least_rtt_ns: 0,
            acks: 0,
        }
    }

    // --- the sender's side

    pub(super) fn write(&mut self, bytes: Bytes, now_ns: u64) {
        if !self.is_outstanding() {
            self.rto_from_ns = now_ns;
            self.progress_ns = now_ns;
        }
        self.written += bytes.len() as u64;
        self.sends.push_back(self.written);
        self.data.push_back(bytes);
    }

    /// Move bytes into the send buffer; how many bytes of whole sends are thereby answered.
    pub(super) fn take(&mut self) -> u32 {
        self.taken = self.written.min(self.reach());
        self.was_held_back |= self.is_held();
        let before = self.answered;
        while let Some(end) = self.sends.front().filter(|end| **end <= self.taken) {
            self.answered = *end;
            self.sends.pop_front();
        }
        (self.answered - before) as u32
    }

    /// The send window keeps bytes out of the send buffer now.
    pub(super) fn is_held(&self) -> bool {
        self.taken < self.written && Some(self.buffer_room()) == self.send_window
    }

    fn buffer_room(&self) -> u64 {
        let room = (2 * self.window).clamp(SEND_BUFFER_MIN, self.spec.send_buffer_max);
        room.min(self.send_window.unwrap_or(u64::MAX))
    }

    /// How far the send buffer reaches now. Up to a send window shells write whole segments, or all there is.
    fn reach(&self) -> u64 {
        let room = self.buffer_room();
        let reach = self.taken.max(self.acked + room);
        if Some(room) == self.send_window && reach < self.written {
            let segment = self.spec.segment.min(SEGMENT_BYTES_MAX);
            return reach - (reach - self.taken) % segment;
        }
        reach
    }

    /// Would [`Flow::take`] answer a send?
    pub(super) fn can_answer(&self) -> bool {
        let reach = self.reach();
        self.sends.front().is_some_and(|end| *end <= reach)
    }

    pub(super) fn is_all_taken(&self) -> bool {
        self.taken == self.written
    }

    /// The writer died: what the send buffer had not taken is lost.
    pub(super) fn abandon_untaken(&mut self) {
        let mut excess = self.written - self.taken;
        while let Some(back) = self.data.back_mut().filter(|_| excess > 0) {
            let cut = excess.min(back.len() as u64);
            back.truncate(back.len() - cut as usize);
            excess -= cut;
            if back.is_empty() {
                self.data.pop_back();
            }
        }
        self.written = self.taken;
        self.sends.clear();
    }

    /// Nothing is written after this; the receiver gets an end of stream behind the last byte.
    pub(super) fn finish(&mut self) {
        if self.fin == Fin::No {
            self.fin = Fin::Wanted;
        }
    }

    pub(super) fn is_fin_acked(&self) -> bool {
        self.fin == Fin::Acked
    }

    /// Send nothing any more; what is on the wire still arrives.
    pub(super) fn halt(&mut self) {
        self.halted = true;
        self.sends.clear();
    }

    pub(super) fn is_halted(&self) -> bool {
        self.halted
    }

    /// May a segment leave now?
    pub(super) fn is_ready(&self) -> bool {
        if self.halted {
            return false;
        }
        if self.probe {
            return true;
        }
        if self.in_flight >= self.window {
            return false;
        }
        !self.again.is_empty() || self.new_len().is_some()
    }

    /// Length of the next new segment; 0 is a bare end of stream.
    fn new_len(&self) -> Option<u64> {
        let unsent = self.taken - self.next;
        let allowed = self.edge.saturating_sub(self.next);
        let len = unsent.min(self.spec.segment).min(allowed);
        if len > 0 {
            // A sliver because the receiver's window is nearly shut waits for the window (RFC 1122 §4.2.3.4).
            let sliver = len < unsent && len < self.spec.segment && self.in_flight > 0;
            return (!sliver).then_some(len);
        }
        (self.fin == Fin::Wanted && self.next == self.written).then_some(0)
    }

    pub(super) fn next_segment(&mut self, now_ns: u64) -> Option<Segment> {
        if !self.is_ready() {
            return None;
        }
        let (start, len, fin) = if let Some(lost) = self.again.pop_front() {
            self.resent += 1;
            lost
        } else if let Some(len) = self.new_len() {
            let start = self.next;
            self.next += len;
            let fin = self.fin == Fin::Wanted && self.next == self.written;
            if fin {
                self.fin = Fin::Sent;
            }
            (start, len as u32, fin)
        } else {
            (self.next, 0, false)
        };
        self.probe = false;
        if self.flights.is_empty() {
            self.rto_from_ns = now_ns;
            if self.backoff == 0 {
                self.progress_ns = now_ns;
            }
        }
        let number = self.next_number();
        self.in_flight += u64::from(len);
        self.flights.push_back(Flight {
            start,
            at_ns: now_ns,
            len,
            fin,
            acked: false,
        });
        Some(Segment {
            number,
            start,
            len,
            fin,
        })
    }

    /// Length of a transmission not yet acknowledged.
    pub(super) fn flight_bytes(&self, number: u32) -> u64 {
        let index = number.wrapping_sub(self.first_flight) as usize;
        self.flights
            .get(index)
            .map_or(0, |flight| flight.len.into())
    }

    /// What a kernel would measure: its packets are shorter than a world's segments, which take `own_ns` longer.
    fn sample_path(&mut self, rtt_ns: u64, own_ns: u64) {
        let rtt_ns = rtt_ns.saturating_sub(own_ns).max(1);
        self.acks += 1;
        self.last_rtt_ns = rtt_ns;
        self.path_rtt_ns = match self.path_rtt_ns {
            0 => rtt_ns,
            old => (7 * old + rtt_ns) / 8,
        };
        self.least_rtt_ns = match self.least_rtt_ns {
            0 => rtt_ns,
            least => least.min(rtt_ns),
        };
    }

    /// `own_ns`: of one that is a sample of the round trip (see [`Flow::sample_path`]).
    pub(super) fn on_ack(&mut self, number: u32, edge: u64, now_ns: u64, own_ns: Option<u64>) {
        self.edge = self.edge.max(edge);
        let index = number.wrapping_sub(self.first_flight) as usize;
        let full = 2 * self.in_flight >= self.window;
        let Some(flight) = self.flights.get_mut(index).filter(|f| !f.acked) else {
            return;
        };
        flight.acked = true;
        let (len, at_ns) = (u64::from(flight.len), flight.at_ns);
        if flight.fin {
            self.fin = Fin::Acked;
        }
        self.in_flight -= len;
        self.acked += len;
        if let Some(own_ns) = own_ns {
            self.sample(now_ns.saturating_sub(at_ns));
            self.sample_path(now_ns.saturating_sub(at_ns), own_ns);
        }
        self.backoff = 0;
        self.rto_from_ns = now_ns;
        self.progress_ns = now_ns;
        if full {
            self.grow(len);
        }
        self.find_lost(number);
    }

    fn grow(&mut self, acked: u64) {
        let more = if self.window < self.threshold {
            acked
        } else {
            (self.spec.segment * acked / self.window).max(1)
        };
        self.window = (self.window + more).min(self.spec.send_buffer_max);
    }

    fn find_lost(&mut self, acked: u32) {
        let mut lost_number = None;
        while let Some(flight) = self.flights.front() {
            let number = self.first_flight;
            if !flight.acked {
                if acked.wrapping_sub(number) < REORDER_MAX || acked < number {
                    break;
                }
                lost_number = Some(number);
                self.in_flight -= u64::from(flight.len);
                if flight.len > 0 || flight.fin {
                    self.again.push_back((flight.start, flight.len, flight.fin));
                }
            }
            self.flights.pop_front();
            self.first_flight += 1;
        }
        if lost_number.is_some_and(|number| number >= self.recover) {
            self.window = (self.window * 7 / 10).max(2 * self.spec.segment);
            self.threshold = self.window;
            self.recover = self.next_number();
        }
    }

    /// All that is on the wire counts as lost.
    pub(super) fn on_timeout(&mut self, now_ns: u64) {
        self.threshold = (self.in_flight / 2).max(2 * self.spec.segment);
        for flight in core::mem::take(&mut self.flights) {
            self.first_flight += 1;
            if !flight.acked && (flight.len > 0 || flight.fin) {
                self.again.push_back((flight.start, flight.len, flight.fin));
            }
        }
        self.in_flight = 0;
        self.recover = self.first_flight;
        self.window = self.spec.segment;
        self.backoff += 1;
        self.rto_from_ns = now_ns;
        self.probe = self.again.is_empty() && self.new_len().is_none();
    }

    /// When the retransmission timer fires, if it runs.
    pub(super) fn rto_at(&self) -> Option<u64> {
        if self.halted || !self.is_outstanding() {
            return None;
        }
        let base = if self.rtt_ns == 0 {
            RTO_FIRST_NS
        } else {
            (self.rtt_ns + 4 * self.rtt_var_ns).max(RTO_MIN_NS)
        };
        let rto = base
            .saturating_mul(1 << self.backoff.min(20))
            .min(RTO_MAX_NS);
        Some(self.rto_from_ns.saturating_add(rto))
    }

    /// Since when the receiver has not acknowledged anything.
    pub(super) fn progress_ns(&self) -> u64 {
        self.progress_ns
    }

    /// Something is on the wire, or waits for the receiver's window.
    fn is_outstanding(&self) -> bool {
        !self.flights.is_empty() || !self.again.is_empty() || self.taken > self.next
    }

    fn sample(&mut self, rtt_ns: u64) {
        if self.rtt_ns == 0 {
            self.rtt_ns = rtt_ns.max(1);
            self.rtt_var_ns = rtt_ns / 2;
            return;
        }
        self.rtt_var_ns = (3 * self.rtt_var_ns + self.rtt_ns.abs_diff(rtt_ns)) / 4;
        self.rtt_ns = (7 * self.rtt_ns + rtt_ns) / 8;
    }

    fn next_number(&self) -> u32 {
        self.first_flight + self.flights.len() as u32
    }

    // --- the receiver's side

    pub(super) fn on_segment(&mut self, segment: Segment) {
        let end = segment.start + u64::from(segment.len);
        self.waiting.push(segment.number);
        if segment.fin {
            self.fin_at = Some(end);
        }
        if segment.start > self.arrived {
            self.out_of_order += 1;
            let at = self.early.partition_point(|early| early.0 < segment.start);
            self.early.insert(at, (segment.start, end));
            return;
        }
        self.arrived = self.arrived.max(end);
        while let Some(&(start, end)) = self.early.first() {
            if start > self.arrived {
                break;
            }
            self.arrived = self.arrived.max(end);
            self.early.remove(0);
        }
    }

    /// More than one segment has come, or something out of order, or the end.
    pub(super) fn must_acknowledge(&self) -> bool {
        let came = self.arrived - self.told;
        came > self.spec.segment || came == 0 || !self.early.is_empty() || self.fin_at.is_some()
    }

    /// ... else it waits, since now; is it to be told when that has been long enough?
    pub(super) fn begin_to_wait(&mut self, now_ns: u64) -> bool {
        self.waits_since_ns.get_or_insert(now_ns);
        !core::mem::replace(&mut self.is_delayed_ack_due, true)
    }

    /// The acknowledgement that waits leaves at the latest then; if that is later than now, it is to be told again.
    pub(super) fn waits_until(&mut self, now_ns: u64, longest_ns: u64) -> Option<u64> {
        let until_ns = self.waits_since_ns.map(|since_ns| since_ns + longest_ns);
        self.is_delayed_ack_due = until_ns.is_some_and(|until_ns| until_ns > now_ns);
        until_ns
    }

    /// All that has come is acknowledged now: in the order in which it came.
    pub(super) fn acknowledge(&mut self) -> Vec<u32> {
        (self.waits_since_ns, self.told) = (None, self.arrived);
        core::mem::take(&mut self.waiting)
    }

    /// Bytes that can be read.
    pub(super) fn readable(&self) -> u64 {
        self.arrived - self.read
    }

    /// Read at most `max` bytes, at most to the end of the send they came from.
    pub(super) fn read(&mut self, max: u64) -> Option<Bytes> {
        let max = max.min(self.readable());
        let front = self.data.front_mut().filter(|_| max > 0)?;
        let bytes = if front.len() as u64 <= max {
            self.data.pop_front()?
        } else {
            front.split_to(max as usize)
        };
        self.read += bytes.len() as u64;
        Some(bytes)
    }

    /// The end of the stream is known to the receiver, read or not.
    pub(super) fn is_fin_known(&self) -> bool {
        self.fin_at.is_some()
    }

    /// Every byte was read and none will come.
    pub(super) fn is_ended(&self) -> bool {
        self.fin_at == Some(self.read)
    }

    /// The window to tell the sender with an acknowledgement.
    pub(super) fn advertise(&mut self) -> u64 {
        self.advertised = self.edge_now();
        self.advertised
    }

    /// What the sender may still send, of the window it was told.
    pub(super) fn window_left(&self) -> u64 {
        self.advertised.saturating_sub(self.arrived)
    }

    /// A bound moves the edge only to the right: what was allowed stays so (RFC 9840 §4.1.1).
    fn edge_now(&self) -> u64 {
        let edge = self.read + self.spec.receive_buffer;
        match self.receive_window {
            Some(window) => edge.min(self.arrived + window).max(self.advertised),
            None => edge,
        }
    }

    /// Has reading opened the window so far that the sender must be told?
    pub(super) fn should_update(&self) -> bool {
        let opened = self.edge_now() - self.advertised;
        let left = self.window_left();
        if self.receive_window.is_some() {
            return opened > 0;
        }
        let step = self.spec.segment.min(self.spec.receive_buffer / 2).max(1);
        opened >= step && left < 2 * self.spec.segment + self.spec.receive_buffer / 4
    }

    // --- what a machine may bound, and what it hears

    pub(super) fn set_send_window(&mut self, bytes: Option<u64>) {
        self.send_window = bytes;
    }

    pub(super) fn set_receive_window(&mut self, bytes: Option<u64>) {
        self.receive_window = bytes;
    }

    pub(super) fn segment_bytes(&self) -> u64 {
        self.spec.segment
    }

    pub(super) fn path_rtt_ns(&self) -> u64 {
        self.path_rtt_ns
    }

    pub(super) fn least_rtt_ns(&self) -> u64 {
        self.least_rtt_ns
    }

    pub(super) fn acks(&self) -> u32 {
        self.acks
    }

    pub(super) fn last_rtt_ns(&self) -> u64 {
        self.last_rtt_ns
    }

    pub(super) fn acked_bytes(&self) -> u64 {
        self.acked
    }

    pub(super) fn unacked_bytes(&self) -> u64 {
        self.taken - self.acked
    }

    pub(super) fn arrived_bytes(&self) -> u64 {
        self.arrived
    }

    pub(super) fn resent(&self) -> u32 {
        self.resent
    }

    pub(super) fn out_of_order(&self) -> u32 {
        self.out_of_order
    }

    pub(super) fn has_timed_out(&self) -> bool {
        self.backoff > 0
    }

    /// An acknowledgement that names no transmission, only the window.
    pub(super) const WINDOW_ONLY: u32 = u32::MAX;
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: FlowSpec = FlowSpec {
        segment: 1000,
        receive_buffer: 100_000,
        send_buffer_max: 100_000,
    };

    #[test]
    fn bytes_come_in_order_whatever_is_lost_or_overtaken() {
        for seed in 0..50 {
            let mut rng = crate::rng::Rng::from_u64(seed);
            let sent = Bytes::from_iter((0..200_000_u32).map(|n| (n * 7 % 253) as u8));
            let mut flow = Flow::new(SPEC);
            flow.write(sent.slice(..77_777), 0);
            flow.write(sent.slice(77_777..), 0);
            flow.finish();
            let (mut got, mut wire, mut now) = (Vec::new(), Vec::new(), 0);
            while !flow.is_ended() {
                now += 1_000_000;
                flow.take();
                while let Some(segment) = flow.next_segment(now) {
                    wire.push(segment);
                }
                if wire.is_empty() {
                    now = flow.rto_at().unwrap();
                    flow.on_timeout(now);
                    continue;
                }
                let at = rng.below(wire.len().min(5) as u64) as usize;
                let segment = wire.remove(at);
                if rng.below(10) == 0 {
                    continue;
                }
                flow.on_segment(segment);
                while let Some(bytes) = flow.read(1 + rng.below(3000)) {
                    got.extend_from_slice(&bytes);
                }
                if rng.below(10) > 0 {
                    let edge = flow.advertise();
                    flow.on_ack(segment.number, edge, now, Some(0));
                }
            }
            assert!(got == sent, "seed {seed}");
        }
    }

    #[test]
    fn a_full_receiver_stops_the_sender_and_a_probe_finds_the_window_open() {
        let mut flow = Flow::new(FlowSpec {
            receive_buffer: 2500,
            ..SPEC
        });
        flow.write(Bytes::from(std::vec![1; 10_000]), 0);
        flow.take();
        while let Some(segment) = flow.next_segment(1) {
            flow.on_segment(segment);
            let edge = flow.advertise();
            flow.on_ack(segment.number, edge, 2, Some(0));
        }
        assert_eq!(flow.readable(), 2500);
        assert_eq!(flow.read(2500).map(|b| b.len()), Some(2500));
        assert!(flow.should_update());
        let at = flow.rto_at().unwrap();
        flow.on_timeout(at);
        let probe = flow.next_segment(at).unwrap();
        assert_eq!(probe.len, 0);
        flow.on_segment(probe);
        let edge = flow.advertise();
        flow.on_ack(probe.number, edge, at + 1, Some(0));
        assert_eq!(flow.next_segment(at + 1).map(|s| s.len), Some(1000));
    }

    #[test]
    fn a_send_is_answered_when_its_last_byte_fits_the_buffer() {
        let mut flow = Flow::new(SPEC);
        flow.write(Bytes::from(std::vec![1; 60_000]), 0);
        flow.write(Bytes::from(std::vec![1; 60_000]), 0);
        assert_eq!(flow.take(), 60_000);
        assert_eq!(flow.take(), 0);
        assert!(!flow.is_all_taken());
    }
}
