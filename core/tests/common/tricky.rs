//! An agent that does not give what it promised: the peers nobody wants to meet.

use bytes::Bytes;
use dovetail_core::agent::Agent;
use dovetail_core::ids::StreamId;
use dovetail_core::machine::{CloseHow, Input, Machine, Output};
use dovetail_core::time::{Deadline, Now};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What is done to the payload an agent sends. Bytes count on each connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trick {
    None,
    /// One bit of each chunk is wrong.
    Lie,
    /// Says nothing more after so much payload; the connection stays open.
    StallAfter(u64),
    /// Closes in the middle of a message after so much payload.
    CutAfter(u64),
}

/// An honest agent behind a wire that is not.
pub struct Tricky {
    pub inner: Agent,
    pub trick: Trick,
    payload: BTreeMap<StreamId, u64>,
    silent: BTreeSet<StreamId>,
    queue: VecDeque<Output>,
}

/// Control messages of a small content are shorter than this, payload is longer.
const PAYLOAD_MIN: usize = 8 * 1024;

impl Tricky {
    pub fn new(inner: Agent, trick: Trick) -> Self {
        Self {
            inner,
            trick,
            payload: BTreeMap::new(),
            silent: BTreeSet::new(),
            queue: VecDeque::new(),
        }
    }

    fn send(&mut self, stream: StreamId, bytes: Bytes) -> Option<Output> {
        if self.silent.contains(&stream) {
            return None;
        }
        if bytes.len() < PAYLOAD_MIN {
            return Some(Output::Send { stream, bytes });
        }
        let sent = self.payload.entry(stream).or_default();
        let over = |most: u64| *sent + bytes.len() as u64 > most;
        let bytes = match self.trick {
            Trick::Lie => {
                let mut wrong = bytes.to_vec();
                wrong[7] ^= 1;
                wrong.into()
            }
            Trick::StallAfter(most) if over(most) => {
                self.silent.insert(stream);
                return None;
            }
            Trick::CutAfter(most) if over(most) => {
                self.silent.insert(stream);
                let how = CloseHow::Flush;
                self.queue.push_back(Output::Close { stream, how });
                bytes.slice(..bytes.len() / 2)
            }
            _ => bytes,
        };
        *sent += bytes.len() as u64;
        Some(Output::Send { stream, bytes })
    }
}

impl Machine for Tricky {
    fn handle(&mut self, now: Now, input: Input) {
        if let Input::Closed { stream, .. } = &input {
            self.payload.remove(stream);
            self.silent.remove(stream);
        }
        self.inner.handle(now, input);
    }

    fn poll(&mut self) -> Option<Output> {
        loop {
            if let Some(output) = self.queue.pop_front() {
                return Some(output);
            }
            match self.inner.poll()? {
                Output::Send { stream, bytes } => {
                    if let Some(output) = self.send(stream, bytes) {
                        return Some(output);
                    }
                }
                // It is closed already.
                Output::Close { stream, .. }
                    if self.silent.contains(&stream)
                        && matches!(self.trick, Trick::CutAfter(_)) => {}
                other => return Some(other),
            }
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        self.inner.deadline()
    }

    fn check(&self) {
        self.inner.check();
    }
}
