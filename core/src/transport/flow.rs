//! A stream as a flow of `congestion`: what it is allowed, and what is told of it.

use crate::congestion::{Ack, Group};
use crate::ids::StreamId;
use crate::time::Mono;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Ack(Ack),
    Loss,
    Timeout,
}

impl News {
    pub(super) fn tell(self, now: Mono, id: StreamId, flows: &mut Group<StreamId>) {
        match self {
            Self::Ack(ack) => flows.on_ack(now, id, ack),
            Self::Loss => flows.on_loss(now, id),
            Self::Timeout => flows.on_timeout(now, id),
        }
    }
}

/// What a stream may have under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Allowed {
    pub(super) window_bytes: u64,
    pub(super) pacing_bytes_per_s: Option<u64>,
    /// Others have their turn: nothing new leaves.
    pub(super) rests: bool,
}

impl Allowed {
    pub(super) fn of(id: StreamId, flows: &Group<StreamId>) -> Self {
        let controller = flows.controller(id);
        Self {
            window_bytes: controller.map_or(0, |c| c.window_bytes()),
            pacing_bytes_per_s: controller.and_then(|c| c.pacing_bytes_per_s()),
            rests: flows.rests(id),
        }
    }
}
