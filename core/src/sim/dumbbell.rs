//! One line, many flows, packet by packet: what congestion control does to a queue, in virtual time.
//!
//! A [`Dumbbell`] has senders on the left, one line with a tail-drop queue, and receivers that acknowledge each
//! packet. Much smaller than a [`super::World`]: no machines, no bytes, just windows; half an hour of a flow takes
//! seconds. What is measured is measured at the line: bytes carried by flow, and how long packets stood.
//!
//! Loss is found as TCP finds it (three later packets acknowledged), or by a timeout that doubles.

use super::rivals::Rival;
use crate::congestion::{Ack, Controller, Group};
use crate::rng::Rng;
use crate::time::Mono;
use core::cmp::Reverse;
use core::time::Duration;
use std::boxed::Box;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::vec::Vec;

/// A full packet, and what of it is payload.
const PACKET_BYTES: u64 = 1500;
pub const SEGMENT_BYTES: u32 = 1448;
const SEGMENT: u64 = SEGMENT_BYTES as u64;
/// Measurements are kept by tenths of a second.
const SLICE_NS: u64 = 100_000_000;
const REORDER_MAX: u64 = 3;

/// The line.
#[derive(Clone, Copy, Debug)]
pub struct LineSpec {
    pub bits_per_s: u64,
    /// There and back, without the queue.
    pub rtt: Duration,
    pub queue_bytes: u64,
    pub loss_ppm: u32,
    /// Up to this much more delay a packet; packets keep their order.
    pub jitter: Duration,
}

impl LineSpec {
    /// 20 Mbit/s, 20 ms, and a queue of 100 ms: the home router of the measurements.
    pub const HOME: Self = Self {
        bits_per_s: 20_000_000,
        rtt: Duration::from_millis(20),
        queue_bytes: 250_000,
        loss_ppm: 0,
        jitter: Duration::ZERO,
    };
}

/// Who sends.
#[derive(Clone, Debug)]
pub enum Sender {
    /// Ours, paced.
    Controlled(Box<Controller>),
    /// Ours, one of the background flows of one machine.
    Background,
    Reno,
    Cubic,
    /// A call, or a stream: so much and no more, whatever gets lost.
    Constant {
        bits_per_s: u64,
    },
    /// Somebody clicks: a transfer of so many bytes over a new CUBIC connection, every so often.
    Clicks {
        bytes: u64,
        every: Duration,
    },
}

/// A sender's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowId(usize);

#[derive(Debug)]
enum Control {
    Ours(Box<Controller>),
    Member,
    Rival(Rival),
    /// Nanoseconds between packets.
    Constant(u64),
}

#[derive(Debug)]
struct Flow {
    control: Control,
    start_ns: u64,
    stop_ns: u64,
    /// Its clock runs so much faster.
    drift_ppm: i64,
    clicks: Option<(u64, u64)>,
    click_ns: u64,
    taken_ns: Vec<u64>,
    /// Sent and not acknowledged: number and time.
    out: BTreeMap<u64, u64>,
    next: u64,
    /// Packets left to send; `u64::MAX` without end.
    left: u64,
    may_send_ns: u64,
    is_timer_set: bool,
    heard_ns: u64,
    backoff: u32,
    rtt_ns: u64,
    carried: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Send(usize),
    Click(usize),
    Left,
    Acked {
        flow: usize,
        number: u64,
        sent_ns: u64,
    },
    Timeout {
        flow: usize,
        heard_ns: u64,
    },
    /// Of the group.
    Turn,
}

#[derive(Debug)]
pub struct Dumbbell {
    line: LineSpec,
    now_ns: u64,
    count: u64,
    agenda: BinaryHeap<Reverse<(u64, u64, What)>>,
    queue: VecDeque<(usize, u64, u64)>,
    is_busy: bool,
    last_arrival_ns: u64,
    dark_until_ns: u64,
    flows: Vec<Flow>,
    group: Group<usize>,
    turn_ns: u64,
    /// By slice: the sum of the times packets stood, and how many there were.
    stood: Vec<(u64, u64)>,
    rng: Rng,
}

impl Dumbbell {
    pub fn new(line: LineSpec, seed: u64) -> Self {
        Self {
            line,
            now_ns: 0,
            count: 0,
            agenda: BinaryHeap::new(),
            queue: VecDeque::new(),
            is_busy: false,
            last_arrival_ns: 0,
            dark_until_ns: 0,
            flows: Vec::new(),
            group: Group::default(),
            turn_ns: 0,
            stood: Vec::new(),
            rng: Rng::from_u64(seed),
        }
    }

    /// A sender that starts so long after the beginning.
    pub fn add(&mut self, sender: Sender, start: Duration) -> FlowId {
        let id = self.flows.len();
        let start_ns = super::clock::ns(start);
        let clicks = match &sender {
            Sender::Clicks { bytes, every } => Some((*bytes, super::clock::ns(*every))),
            _ => None,
        };
        self.flows.push(Flow {
            control: match sender {
                Sender::Controlled(controller) => Control::Ours(controller),
                Sender::Background => Control::Member,
                Sender::Constant { bits_per_s } => {
                    Control::Constant(PACKET_BYTES * 8 * 1_000_000_000 / bits_per_s.max(1))
                }
                Sender::Reno => Control::Rival(Rival::new(false, SEGMENT_BYTES)),
                Sender::Cubic | Sender::Clicks { .. } => {
                    Control::Rival(Rival::new(true, SEGMENT_BYTES))
                }
            },
            start_ns,
            stop_ns: u64::MAX,
            drift_ppm: 0,
            clicks,
            click_ns: start_ns,
            taken_ns: Vec::new(),
            out: BTreeMap::new(),
            next: 0,
            left: if clicks.is_some() { 0 } else { u64::MAX },
            may_send_ns: 0,
            is_timer_set: false,
            heard_ns: start_ns,
            backoff: 0,
            rtt_ns: super::clock::ns(self.line.rtt),
            carried: Vec::new(),
        });
        let first = if clicks.is_some() {
            What::Click(id)
        } else {
            What::Send(id)
        };
        self.at(start_ns, first);
        FlowId(id)
    }

    pub fn stop(&mut self, flow: FlowId, after: Duration) {
        self.flows[flow.0].stop_ns = super::clock::ns(after);
    }

    /// Let a sender's clock run faster or slower.
    pub fn drift(&mut self, flow: FlowId, ppm: i32) {
        self.flows[flow.0].drift_ppm = ppm.into();
    }

    /// From now on the path is as long as this.
    pub fn set_rtt(&mut self, rtt: Duration) {
        self.line.rtt = rtt;
    }

    pub fn set_rate(&mut self, bits_per_s: u64) {
        self.line.bits_per_s = bits_per_s;
    }

    /// From now on and for so long nothing arrives.
    pub fn black_out(&mut self, span: Duration) {
        self.dark_until_ns = self.now_ns + super::clock::ns(span);
    }

    pub fn run_to(&mut self, end: Duration) {
        let end_ns = super::clock::ns(end);
        while let Some(Reverse((at_ns, _, _))) = self.agenda.peek()
            && *at_ns <= end_ns
        {
            let Some(Reverse((at_ns, _, what))) = self.agenda.pop() else {
                break;
            };
            self.now_ns = at_ns;
            self.happen(what);
        }
        self.now_ns = end_ns;
    }

    // --- what was measured

    /// Bits a second of this flow (whole packets) between two times.
    pub fn bits_per_s(&self, flow: FlowId, from: Duration, to: Duration) -> u64 {
        let carried = &self.flows[flow.0].carried;
        let slices = slice(super::clock::ns(from))..slice(super::clock::ns(to)).min(carried.len());
        let bytes: u64 = carried.get(slices).map_or(0, |part| part.iter().sum());
        let ms = (to - from).as_millis().max(1) as u64;
        bytes * 8 * 1000 / ms
    }

    /// Mean time that packets stood in the queue between two times.
    pub fn queue(&self, from: Duration, to: Duration) -> Duration {
        let slices = slice(super::clock::ns(from))..slice(super::clock::ns(to));
        let part = self.stood.iter().skip(slices.start).take(slices.len());
        let (sum, count) = part.fold((0, 0), |(sum, count), (s, c)| (sum + s, count + c));
        Duration::from_nanos(sum / count.max(1))
    }

    /// How long each click took.
    pub fn clicks(&self, flow: FlowId) -> Vec<Duration> {
        let taken = self.flows[flow.0].taken_ns.iter();
        taken.map(|ns| Duration::from_nanos(*ns)).collect()
    }

    /// The window of a sender now.
    pub fn window_bytes(&self, flow: FlowId) -> u64 {
        match &self.flows[flow.0].control {
            Control::Ours(controller) => controller.window_bytes(),
            Control::Member => self.group.window_bytes(flow.0),
            Control::Rival(rival) => rival.window_bytes(),
            Control::Constant(_) => u64::MAX,
        }
    }

    /// Jain's index of these flows between two times: 1 is fair, one over their number is not.
    pub fn fairness(&self, flows: &[FlowId], from: Duration, to: Duration) -> f64 {
        let rates: Vec<f64> = flows
            .iter()
            .map(|flow| self.bits_per_s(*flow, from, to) as f64)
            .collect();
        let sum: f64 = rates.iter().sum();
        let squares: f64 = rates.iter().map(|rate| rate * rate).sum();
        sum * sum / (rates.len() as f64 * squares.max(1.0))
    }

    // --- what happens

    fn at(&mut self, at_ns: u64, what: What) {
        self.count += 1;
        self.agenda.push(Reverse((at_ns, self.count, what)));
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Send(flow) => {
                self.flows[flow].is_timer_set = false;
                self.join(flow);
                self.pump(flow);
            }
            What::Click(flow) => self.click(flow),
            What::Left => self.left(),
            What::Acked {
                flow,
                number,
                sent_ns,
            } => self.acked(flow, number, sent_ns),
            What::Timeout { flow, heard_ns } => self.timeout(flow, heard_ns),
            What::Turn => {
                self.group.on_tick(Mono::from_us(self.now_ns / 1000));
                (0..self.flows.len()).for_each(|flow| self.pump(flow));
                self.watch_turns();
            }
        }
    }

    fn join(&mut self, id: usize) {
        if matches!(self.flows[id].control, Control::Member) && !self.group.contains(id) {
            let remote = core::net::IpAddr::from([192, 0, 2, 1]);
            self.group.add(self.mono(id), id, remote, SEGMENT_BYTES);
        }
    }

    /// Flows of the group may be given or lose their turn.
    fn watch_turns(&mut self) {
        let due = self
            .group
            .deadline()
            .map(|deadline| deadline.at.as_us() * 1000);
        if let Some(at_ns) = due.filter(|at_ns| *at_ns > self.turn_ns) {
            self.turn_ns = at_ns;
            self.at(at_ns.max(self.now_ns), What::Turn);
        }
    }

    fn click(&mut self, id: usize) {
        let now_ns = self.now_ns;
        let flow = &mut self.flows[id];
        let Some((bytes, every_ns)) = flow.clicks else {
            return;
        };
        if flow.left == 0 && flow.out.is_empty() {
            flow.control = Control::Rival(Rival::new(true, SEGMENT_BYTES));
            flow.left = bytes.div_ceil(SEGMENT);
            flow.click_ns = now_ns;
            flow.heard_ns = now_ns;
        }
        self.at(now_ns + every_ns, What::Click(id));
        self.pump(id);
    }

    /// Send what window and pace allow.
    fn pump(&mut self, id: usize) {
        let now_ns = self.now_ns;
        let was_idle = self.flows[id].out.is_empty();
        while let Some(number) = self.next_packet(id) {
            self.push(id, number);
        }
        let flow = &mut self.flows[id];
        if was_idle && !flow.out.is_empty() {
            flow.heard_ns = now_ns;
            self.set_timeout(id);
        }
    }

    fn next_packet(&mut self, id: usize) -> Option<u64> {
        let now_ns = self.now_ns;
        let room = self.has_room(id);
        let pace = self.controller(id).and_then(Controller::pacing_bytes_per_s);
        let gap_ns = match &self.flows[id].control {
            Control::Constant(gap_ns) => Some(*gap_ns),
            _ => pace.map(|bytes_per_s| SEGMENT * 1_000_000_000 / bytes_per_s.max(1)),
        };
        let flow = &mut self.flows[id];
        let is_there = (flow.start_ns..flow.stop_ns).contains(&now_ns);
        if flow.left == 0 || !is_there || !room {
            return None;
        }
        if let Some(gap_ns) = gap_ns {
            if flow.may_send_ns > now_ns {
                if !std::mem::replace(&mut flow.is_timer_set, true) {
                    let at_ns = flow.may_send_ns;
                    self.at(at_ns, What::Send(id));
                }
                return None;
            }
            // A millisecond's worth may leave at once: timers are no finer.
            let from_ns = flow.may_send_ns.max(now_ns.saturating_sub(1_000_000));
            flow.may_send_ns = from_ns + gap_ns;
        }
        let number = flow.next;
        flow.out.insert(number, now_ns);
        flow.next += 1;
        if flow.left != u64::MAX {
            flow.left -= 1;
        }
        Some(number)
    }

    fn set_timeout(&mut self, id: usize) {
        let flow = &self.flows[id];
        let wait_ns = (4 * flow.rtt_ns).max(1_000_000_000) << flow.backoff.min(6);
        let heard_ns = flow.heard_ns;
        self.at(heard_ns + wait_ns, What::Timeout { flow: id, heard_ns });
    }

    fn timeout(&mut self, id: usize, heard_ns: u64) {
        let now = self.mono(id);
        let flow = &mut self.flows[id];
        if flow.out.is_empty() {
            return;
        }
        if flow.heard_ns != heard_ns {
            return self.set_timeout(id);
        }
        if flow.left != u64::MAX {
            flow.left += flow.out.len() as u64;
        }
        flow.out.clear();
        flow.backoff += 1;
        match &mut flow.control {
            Control::Ours(controller) => controller.on_timeout(now),
            Control::Member => self.group.on_timeout(now, id),
            Control::Rival(rival) => rival.on_timeout(),
            Control::Constant(_) => {}
        }
        self.pump(id);
    }

    fn controller(&self, id: usize) -> Option<&Controller> {
        match &self.flows[id].control {
            Control::Ours(controller) => Some(controller),
            Control::Member => self.group.controller(id),
            Control::Rival(_) | Control::Constant(_) => None,
        }
    }

    fn has_room(&self, id: usize) -> bool {
        let flow = &self.flows[id];
        let window = match &flow.control {
            Control::Member => self.group.window_bytes(id),
            _ => self.window_bytes(FlowId(id)).max(SEGMENT),
        };
        (flow.out.len() as u64 + 1) * SEGMENT <= window
    }

    fn tell_ack(&mut self, id: usize, now: Mono, ack: Ack) {
        match &mut self.flows[id].control {
            Control::Ours(controller) => {
                controller.on_ack(now, ack);
                controller.check();
            }
            Control::Member => {
                self.group.on_ack(now, id, ack);
                self.group.check();
                self.watch_turns();
            }
            Control::Rival(rival) => rival.on_ack(now, ack),
            Control::Constant(_) => {}
        }
    }

    fn tell_loss(&mut self, id: usize, now: Mono) {
        match &mut self.flows[id].control {
            Control::Ours(controller) => controller.on_loss(now),
            Control::Member => self.group.on_loss(now, id),
            Control::Rival(rival) => rival.on_loss(now),
            Control::Constant(_) => {}
        }
    }

    fn push(&mut self, flow: usize, number: u64) {
        let queued = self.queue.len() as u64 * PACKET_BYTES;
        if queued + PACKET_BYTES > self.line.queue_bytes.max(PACKET_BYTES) {
            return;
        }
        self.queue.push_back((flow, number, self.now_ns));
        self.carry();
    }

    /// Put the next packet onto the line, if it is free.
    fn carry(&mut self) {
        if self.is_busy {
            return;
        }
        let Some((id, number, queued_ns)) = self.queue.pop_front() else {
            return;
        };
        self.is_busy = true;
        let now_ns = self.now_ns;
        note(&mut self.stood, now_ns, |(sum, count)| {
            *sum += now_ns - queued_ns;
            *count += 1;
        });
        note(&mut self.flows[id].carried, now_ns, |bytes| {
            *bytes += PACKET_BYTES;
        });
        let left_ns = now_ns + PACKET_BYTES * 8 * 1_000_000_000 / self.line.bits_per_s;
        self.at(left_ns, What::Left);
        let is_lost = self.rng.below(1_000_000) < self.line.loss_ppm.into();
        if is_lost || now_ns < self.dark_until_ns {
            return;
        }
        let jitter_ns = self.rng.below(super::clock::ns(self.line.jitter) + 1);
        let arrival_ns = left_ns + super::clock::ns(self.line.rtt) + jitter_ns;
        self.last_arrival_ns = self.last_arrival_ns.max(arrival_ns);
        let sent_ns = queued_ns;
        let acked = What::Acked {
            flow: id,
            number,
            sent_ns,
        };
        self.at(self.last_arrival_ns, acked);
    }

    fn left(&mut self) {
        self.is_busy = false;
        self.carry();
    }

    fn mono(&self, id: usize) -> Mono {
        let us = self.now_ns / 1000;
        let drift = us as i64 / 1_000_000 * self.flows[id].drift_ppm;
        Mono::from_us(us.saturating_add_signed(drift))
    }

    fn acked(&mut self, id: usize, number: u64, sent_ns: u64) {
        let (now_ns, now) = (self.now_ns, self.mono(id));
        let has_room = self.has_room(id);
        let flow = &mut self.flows[id];
        let is_window_limited = !has_room || flow.may_send_ns > now_ns;
        if flow.out.remove(&number).is_none() {
            return;
        }
        flow.heard_ns = now_ns;
        flow.backoff = 0;
        let rtt_ns = now_ns - sent_ns;
        flow.rtt_ns = (7 * flow.rtt_ns + rtt_ns) / 8;
        let rtt_us = rtt_ns / 1000;
        let drift_us = now.as_us().wrapping_sub(sent_ns / 1000) as u32;
        let ack = Ack {
            bytes: SEGMENT,
            rtt_us,
            one_way_us: Some(drift_us),
            is_window_limited,
            may_be_late: false,
        };
        self.tell_ack(id, now, ack);
        let flow = &mut self.flows[id];
        let mut lost = false;
        while let Some((first, _)) = flow.out.first_key_value()
            && *first + REORDER_MAX <= number
        {
            flow.out.pop_first();
            flow.left = flow.left.saturating_add(1);
            lost = true;
        }
        if flow.clicks.is_some() && flow.left == 0 && flow.out.is_empty() {
            let taken_ns = now_ns - flow.click_ns;
            flow.taken_ns.push(taken_ns);
        }
        if lost {
            self.tell_loss(id, now);
        }
        self.pump(id);
    }
}

const fn slice(ns: u64) -> usize {
    (ns / SLICE_NS) as usize
}

fn note<T: Default + Clone>(slices: &mut Vec<T>, now_ns: u64, add: impl FnOnce(&mut T)) {
    let at = slice(now_ns);
    if slices.len() <= at {
        slices.resize(at + 1, T::default());
    }
    add(&mut slices[at]);
}
