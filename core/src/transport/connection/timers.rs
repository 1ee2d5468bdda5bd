//! What time does to a stream: timeouts, the tail, keep-alives, the end of a handshake and of a linger.
//!
//! Decides: when silence means loss, and when it means the end. Spec: RFC 6298, RFC 8985 (7), RFC 9002 (6.1.2).
//! Tested in `core/tests/utp.rs`.

use super::super::flow::News;
use super::{Connection, Phase};
use crate::limits::{CONNECT_TIMEOUT, UTP_GIVE_UP, UTP_KEEP_ALIVE, UTP_LINGER, UTP_MTU_TIMEOUTS};
use crate::machine::{Input, Lost};
use crate::time::{Deadline, Mono};
use alloc::collections::VecDeque;

impl Connection {
    pub(in crate::transport) fn on_timer(&mut self, now: Mono, events: &mut VecDeque<Input>) {
        let is_over = now >= self.began_at + CONNECT_TIMEOUT;
        let is_due = self.timeout_at.is_some_and(|at| at <= now);
        if self.sender.overtaken_at().is_some_and(|at| at <= now) {
            let outcome = self.sender.on_overtaken(now, &self.rtt);
            self.on_outcome(now, outcome, None, false);
        }
        if self.tail_at.is_some_and(|at| at <= now) && !is_due {
            self.probe_tail(now);
        }
        match self.phase {
            Phase::Connecting if is_over => self.end(Lost::TimedOut, events),
            Phase::Connecting if is_due => {
                self.rtt.on_timeout();
                self.is_syn_due = true;
            }
            Phase::Unconfirmed if is_over => self.phase = Phase::Gone,
            Phase::Open if is_due => self.on_timeout(now, events),
            Phase::Lingering if self.linger_until.is_some_and(|at| at <= now) => {
                self.phase = Phase::Gone;
            }
            Phase::Lingering if is_due => self.on_timeout(now, events),
            _ => {}
        }
    }

    /// Something has left or was acknowledged: the wait for the last acknowledgement begins anew.
    pub(super) fn watch_tail(&mut self, now: Mono) {
        let waits = !self.has_probed_tail && !self.is_asking && !self.sender.is_quiet();
        let tail = self.rtt.tail().filter(|_| waits);
        self.tail_at = tail.map(|tail| now + tail);
    }

    fn probe_tail(&mut self, now: Mono) {
        self.tail_at = None;
        if self.is_asking || self.sender.lost().is_some() {
            return;
        }
        self.has_probed_tail = true;
        let outcome = self.sender.probe_tail();
        self.on_outcome(now, outcome, None, false);
    }

    fn on_timeout(&mut self, now: Mono, events: &mut VecDeque<Input>) {
        self.timeout_at = None;
        self.tail_at = None;
        if self.sender.is_quiet() && !self.is_asking {
            return;
        }
        // A peer whose window is closed is there as long as it says so.
        let alive_at = if self.is_asking {
            self.progress_at.max(self.heard_at)
        } else {
            self.progress_at
        };
        let silence = now.since(alive_at);
        if silence >= UTP_LINGER && self.is_closing && self.sender.is_fin_alone() {
            return self.end(Lost::Asked, events);
        }
        if silence >= UTP_GIVE_UP {
            return self.end(Lost::TimedOut, events);
        }
        let outcome = self.sender.on_timeout();
        if outcome.is_probe_lost {
            self.mtu.on_probe_lost();
        }
        if self.is_asking {
            self.may_ask = true;
            self.rtt.on_timeout();
        } else if outcome.lost_sent_at.is_some() {
            self.loss_told_at = Some(now);
            self.marks.on_lost();
            self.news.push(News::Timeout);
            self.rtt.on_timeout();
            if self.rtt.timeouts() >= UTP_MTU_TIMEOUTS {
                self.mtu.on_black_hole();
            }
        }
    }

    /// When something is to be done although nothing comes.
    pub(in crate::transport) fn deadline(&self) -> Option<Deadline> {
        let at = |at: Option<Mono>, why| at.map(|at| Deadline::new(at, why));
        let timeout = at(self.timeout_at, "utp timeout");
        let handshake = at(Some(self.began_at + CONNECT_TIMEOUT), "utp handshake");
        match self.phase {
            Phase::Connecting => Deadline::earlier(timeout, handshake),
            Phase::Unconfirmed => handshake,
            Phase::Gone => None,
            Phase::Open | Phase::Lingering => {
                let keep_alive = self.keep_alive_at();
                [
                    timeout,
                    at(self.sender.overtaken_at(), "utp loss"),
                    at(self.tail_at, "utp tail"),
                    at(self.ack_at, "utp acknowledgement"),
                    at(self.paced_until, "utp pacing"),
                    at(keep_alive, "utp keep-alive"),
                    at(self.linger_until, "utp linger"),
                ]
                .into_iter()
                .fold(None, Deadline::earlier)
            }
        }
    }

    fn keep_alive_at(&self) -> Option<Mono> {
        (self.phase == Phase::Open).then(|| self.sent_at + UTP_KEEP_ALIVE)
    }

    pub(super) fn is_ack_due(&self, now: Mono) -> bool {
        self.is_ack_due || self.ack_at.is_some_and(|at| at <= now)
    }

    pub(super) fn is_keep_alive_due(&self, now: Mono) -> bool {
        self.keep_alive_at().is_some_and(|at| at <= now)
    }
}
