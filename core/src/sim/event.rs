//! What is going to happen in a world, in the order in which it happens.
//!
//! Order: by time, then by the key of the host that caused it, then by that host's own count. None of
//! these depends on the order in which hosts were added, so neither does the run.

use super::flow::Segment;
use super::link::Flying;
use crate::content::HashJob;
use crate::ids::OpId;
use crate::machine::{DiskOp, Input};
use core::cmp::Ordering;
use std::boxed::Box;
use std::collections::BinaryHeap;

/// Where this happens, and in which life of that host; an earlier life's events are void.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct At {
    pub(super) host: u32,
    pub(super) life: u32,
}

pub(super) enum What {
    Start(At),
    Timer(At),
    Tell(At, Box<Input>),
    Disk(At, Box<DiskWork>),
    Hash(At, Box<(OpId, HashJob)>),
    LinkFree(u32),
    Segment {
        conn: u32,
        dir: u8,
        hop: u8,
        segment: Segment,
    },
    Datagram {
        hop: u8,
        flying: Box<Flying>,
    },
    /// To the sender of `dir`.
    Ack {
        conn: u32,
        dir: u8,
        number: u32,
        edge: u64,
        /// Of the transmissions that one packet acknowledges, kernels measure the first.
        is_first: bool,
    },
    /// To the receiver of `dir`.
    DelayedAck {
        conn: u32,
        dir: u8,
    },
    Rto {
        conn: u32,
        dir: u8,
    },
    /// To the machine at `side`, of its stream's path.
    Report {
        conn: u32,
        side: u8,
    },
    Control {
        conn: u32,
        side: u8,
        attempt: u8,
        what: Control,
    },
}

/// Steps of a connection's life, at `side`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Control {
    Dial,
    Syn,
    SynAck,
    Established,
    Failed(DialError),
    Secured,
    Reset,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DialError {
    Refused,
    TimedOut,
    Unreachable,
    NameNotFound,
}

pub(super) struct DiskWork {
    pub(super) op: OpId,
    pub(super) todo: DiskOp,
    pub(super) handle: Option<super::disk::Handle>,
}

struct Entry {
    at_ns: u64,
    key: u64,
    count: u64,
    what: What,
}

/// Events to come.
#[derive(Default)]
pub(super) struct Agenda {
    heap: BinaryHeap<Entry>,
}

impl Agenda {
    pub(super) fn push(&mut self, at_ns: u64, key: u64, count: u64, what: What) {
        self.heap.push(Entry {
            at_ns,
            key,
            count,
            what,
        });
    }

    pub(super) fn next_ns(&self) -> Option<u64> {
        self.heap.peek().map(|e| e.at_ns)
    }

    pub(super) fn pop(&mut self) -> Option<(u64, What)> {
        self.heap.pop().map(|e| (e.at_ns, e.what))
    }
}

impl Ord for Entry {
    /// The heap gives its greatest first: the earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_ns, other.key, other.count).cmp(&(self.at_ns, self.key, self.count))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}
