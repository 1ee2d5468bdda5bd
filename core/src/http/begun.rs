//! An answer that somebody else has asked for, and that a [`WebSource`] goes on with.
//!
//! Whoever asks what a file is (the cache's probe) asks for the bytes that are wanted first, and hands the answer over as
//! soon as its head has said enough: the question costs no round trip of its own. Tests: `core/tests/cache_cold.rs`.

use crate::http::client::{ClientEvent, Connection};
use crate::http::url::Url;
use crate::http::web_source::{Fetch, Lane, WebEvent, WebSource};
use crate::machine::Effects;
use crate::time::Now;
use alloc::vec::Vec;

/// An answer, as far as it has come.
#[derive(Debug)]
pub struct BegunAnswer {
    pub connection: Connection,
    /// The address really asked, after redirects.
    pub asked: Url,
    /// The first byte asked for.
    pub start: u64,
    /// One past the last, or anything beyond the end of the file.
    pub end: u64,
    /// Its head, and what has come after it.
    pub events: Vec<ClientEvent>,
}

impl WebSource {
    /// Go on with this answer on the first lane, which has not been used yet, as though it had been asked for there.
    pub fn take_over(
        &mut self,
        now: Now,
        mut answer: BegunAnswer,
        fx: &mut Effects,
        ev: &mut Vec<WebEvent>,
    ) -> Lane {
        let first = Lane(0);
        let sticky = self.sticky();
        let (Some((target, url)), Some(lane)) =
            (self.targets.pick(now, sticky), self.lanes.first_mut())
        else {
            answer.connection.close(fx);
            let why = "no URL can be asked now".into();
            ev.push(WebEvent::Failed { lane: first, why });
            return first;
        };
        let mut fetch = Fetch::new(answer.start, Some(answer.end), target, answer.asked);
        fetch.ranged = true;
        if fetch.asked != url {
            fetch.redirects = 1;
            self.targets.resolved(target, &fetch.asked);
        }
        lane.begin(answer.connection, fetch);
        self.settle(now, 0, answer.events, fx, ev);
        first
    }
}
