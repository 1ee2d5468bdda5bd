//! What machines say of their streams' shapes, and what they hear of paths.
//!
//! A report comes with an acknowledgement or a segment, at most as often as was asked for, and once more after the
//! last of them: the facts are those a kernel has. Pacing is not modelled; links serialise by themselves.

use super::event::What;
use super::flow::Flow;
use super::spec::NetSpec;
use super::world::World;
use crate::ids::StreamId;
use crate::machine::{Input, PathFacts, Shape};
use core::time::Duration;

/// Payload of an Ethernet packet: what kernels report, however long a world's segments are.
pub(super) const SEGMENT_BYTES_MAX: u64 = 1448;

/// Of one end of a stream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reporting {
    every: Option<Duration>,
    told: Option<PathFacts>,
    told_ns: u64,
    is_timer_set: bool,
}

impl World {
    pub(super) fn shape(&mut self, h: usize, stream: StreamId, shape: Shape) {
        let Some(&(id, side)) = self.hosts[h].streams.get(&stream) else {
            return;
        };
        let receive_window = shape.receive_window_bytes;
        let receive_window = receive_window.filter(|_| self.net.can_bound_receiving);
        let Some(conn) = self.conn(id) else { return };
        let s = usize::from(side);
        conn.flows[s].set_send_window(shape.send_window_bytes);
        conn.flows[1 - s].set_receive_window(receive_window);
        let is_new = conn.reporting[s].every.is_none();
        conn.reporting[s].every = shape.report_every;
        if is_new {
            self.report(id, side);
        }
        self.sent_soon(id, side);
        self.kick(id, side);
    }

    /// Something has moved at this end.
    pub(super) fn note_path(&mut self, id: u32, side: u8) {
        let now_ns = self.now_ns;
        let Some(conn) = self.conn(id) else { return };
        let owner = conn.ends[usize::from(side)].host;
        let reporting = &mut conn.reporting[usize::from(side)];
        let Some(every) = reporting.every else { return };
        let due_ns = reporting.told_ns + super::clock::ns(every);
        if due_ns <= now_ns {
            self.report(id, side);
        } else if !core::mem::replace(&mut reporting.is_timer_set, true) {
            self.schedule(owner, due_ns, What::Report { conn: id, side });
        }
    }

    pub(super) fn on_report(&mut self, id: u32, side: u8) {
        if let Some(conn) = self.conn(id) {
            conn.reporting[usize::from(side)].is_timer_set = false;
            self.report(id, side);
        }
    }

    fn report(&mut self, id: u32, side: u8) {
        let (now_ns, net) = (self.now_ns, self.net);
        let Some(conn) = self.conn(id) else { return };
        let s = usize::from(side);
        let (host, stream, is_held) = (
            conn.ends[s].host,
            conn.ends[s].stream,
            conn.ends[s].is_held(),
        );
        let facts = facts(net, &conn.flows[s], &conn.flows[1 - s]);
        let reporting = &mut conn.reporting[s];
        if reporting.every.is_none() || !is_held || reporting.told == Some(facts) {
            return;
        }
        reporting.told = Some(facts);
        reporting.told_ns = now_ns;
        conn.flows[s].was_held_back = false;
        self.tell(host, Input::Path { stream, facts });
    }
}

fn facts(net: NetSpec, out: &Flow, back: &Flow) -> PathFacts {
    let us = |ns: u64| u32::try_from(ns.div_ceil(1000)).unwrap_or(u32::MAX);
    PathFacts {
        segment_bytes: out.segment_bytes().min(SEGMENT_BYTES_MAX) as u32,
        rtt_us: us(out.path_rtt_ns()),
        least_rtt_us: us(out.least_rtt_ns()),
        acks: out.acks(),
        acked_bytes: out.acked_bytes(),
        unacked_bytes: out.unacked_bytes(),
        resent: out.resent(),
        has_timed_out: out.has_timed_out(),
        is_held_back: out.was_held_back || out.is_held(),
        receive_rtt_us: if net.time_stamps {
            us(back.last_rtt_ns())
        } else {
            0
        },
        received_bytes: back.arrived_bytes(),
        receive_window_bytes: u32::try_from(back.window_left()).ok(),
        out_of_order: back.out_of_order(),
        can_bound_receiving: net.can_bound_receiving,
    }
}
