//! Answers that are passed on and not kept: files whose length nobody tells, and whatever else than a file an origin
//! says.
//!
//! A file without a length goes to each client over a connection of its own, as fast as the client takes it; if the
//! origin breaks off, so does the answer. Other answers are short: they are read whole, for all who wait.

use super::desk::{bad_gateway, refusal};
use super::orders::Id;
use super::probe::{Probe, Reach, plain_request};
use super::{Cache, X_CACHE};
use crate::http::{
    Answer, AnswerBody, ClientEvent, Connection, Framing, Opening, ResponseHead, Url,
};
use crate::ids::StreamId;
use crate::limits::{CONNECT_TIMEOUT, HTTP_HEAD_MAX, SEND_PER_STREAM};
use crate::machine::{Effects, Input};
use crate::time::{Deadline, Now};
use ::http::StatusCode;
use ::http::header::{self, HeaderMap, HeaderName};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

/// One answer on its way from an origin to a client.
#[derive(Debug)]
pub(super) struct Passing {
    pub client: StreamId,
    at: Url,
    connection: Connection,
    /// Handed to the client, and not yet consumed from the origin's side: as far as it was sent.
    unsent: usize,
}

/// Fields of an origin's answer that are its clients' business.
const PASSED_ON: [HeaderName; 7] = [
    header::CONTENT_TYPE,
    header::CONTENT_LANGUAGE,
    header::WWW_AUTHENTICATE,
    header::RETRY_AFTER,
    header::ALLOW,
    header::ETAG,
    header::LAST_MODIFIED,
];

/// As much of an answer as can be passed on.
pub(super) fn pass_on(
    status: StatusCode,
    fields: &HeaderMap,
    body: AnswerBody,
    via: &str,
) -> Answer {
    let mut answer = Answer::new(status, body)
        .with(header::VIA, &format!("1.1 {via}"))
        .with(X_CACHE, "MISS");
    for name in PASSED_ON {
        for value in fields.get_all(&name) {
            answer.headers.append(name.clone(), value.clone());
        }
    }
    answer
}

impl Passing {
    const fn new(client: StreamId, at: Url, connection: Connection) -> Self {
        Self {
            client,
            at,
            connection,
            unsent: 0,
        }
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.connection.deadline()
    }

    pub(super) fn close(&mut self, fx: &mut Effects) {
        self.connection.close(fx);
    }

    pub(super) fn check(&self) {
        let most = WINDOW as usize + HTTP_HEAD_MAX;
        assert!(self.unsent <= most, "{} not yet sent", self.unsent);
    }

    /// The client's stream has taken so many bytes, heads and frames included.
    pub(super) fn on_sent(&mut self, now: Now, len: u32, fx: &mut Effects) {
        let len = self.unsent.min(len as usize);
        self.unsent -= len;
        self.connection.consumed(now, len, fx);
    }
}

impl Cache {
    /// The origin's answer has no length: stream it to each of those who wait.
    pub(super) fn pass_through(&mut self, mut probe: Probe, head: &ResponseHead, begun: Bytes) {
        let mut waiters = core::mem::take(&mut probe.waiters).into_iter();
        let (at, via) = (probe.at().clone(), String::from(probe.via()));
        // One byte of it is no answer for anybody.
        let is_all = head.status == StatusCode::OK;
        let first = is_all.then(|| waiters.next()).flatten();
        for client in waiters {
            let id = self.next_id();
            self.orders.fx.owner = id;
            let connection = ask(self.now, &at, &via, &self.reach, &mut self.orders.fx);
            self.begin_passing(id, Passing::new(client, at.clone(), connection));
        }
        if let Some(client) = first {
            let id = probe.id();
            let (at, mut connection) = probe.into_parts();
            connection.widen(WINDOW, &mut self.orders.fx);
            self.begin_passing(id, Passing::new(client, at, connection));
            self.on_passing_head(id, head);
            self.on_passing_body(id, begun);
        } else {
            probe.close(&mut self.orders.fx);
        }
    }

    fn begin_passing(&mut self, id: Id, mut passing: Passing) {
        let visitor = self.visitors.get_mut(&passing.client);
        if let Some(transfer) = visitor.and_then(|visitor| visitor.transfer.as_mut()) {
            transfer.passing = Some(id);
            self.passings.insert(id, passing);
        } else {
            passing.close(&mut self.orders.fx);
        }
    }

    pub(super) fn on_passing_input(&mut self, id: Id, input: &Input) {
        let Some(passing) = self.passings.get_mut(&id) else {
            return;
        };
        let mut events = Vec::new();
        match input {
            Input::Tick => passing
                .connection
                .on_tick(self.now, &mut self.orders.fx, &mut events),
            Input::Opened { to, .. } if !self.reach.permits_at(&passing.at, to.ip()) => {
                let text = format!(
                    "{} is in a network that no wildcard reaches",
                    passing.at.authority()
                );
                return self.end_passing(id, Err(refusal(text)));
            }
            input => passing
                .connection
                .on_input(self.now, input, &mut self.orders.fx, &mut events),
        }
        for event in events {
            match event {
                ClientEvent::Head(head) => self.on_passing_head(id, &head),
                ClientEvent::Body(bytes) => self.on_passing_body(id, bytes),
                ClientEvent::Done { .. } => self.end_passing(id, Ok(())),
                ClientEvent::Fault(fault) => {
                    let text = format!("cannot fetch the file: {fault}");
                    self.end_passing(id, Err(bad_gateway(text)));
                }
            }
        }
    }

    fn on_passing_head(&mut self, id: Id, head: &ResponseHead) {
        let Some(passing) = self.passings.get(&id) else {
            return;
        };
        let body = match head.framing {
            Framing::Empty => AnswerBody::Full(Bytes::new()),
            Framing::Length(length) => AnswerBody::Length(length),
            Framing::Chunked | Framing::UntilClose => AnswerBody::Unknown,
        };
        let answer = pass_on(head.status, &head.headers, body, &self.reach.via);
        let client = passing.client;
        let Some(visitor) = self.visitors.get_mut(&client) else {
            return;
        };
        let goes_on = visitor
            .connection
            .respond(self.now, &answer, &mut self.orders.fx);
        if let Some(transfer) = visitor.transfer.as_mut().filter(|_| goes_on) {
            transfer.is_passed = true;
        } else {
            // There is no body, or it was not asked for.
            visitor.transfer = None;
            self.drop_passing(id);
        }
        self.asking.insert(client);
    }

    fn on_passing_body(&mut self, id: Id, bytes: Bytes) {
        let Some(passing) = self.passings.get_mut(&id) else {
            return;
        };
        passing.unsent += bytes.len();
        self.counters.bytes_from_origin += bytes.len() as u64;
        self.counters.bytes_served += bytes.len() as u64;
        if let Some(visitor) = self.visitors.get_mut(&passing.client) {
            visitor
                .connection
                .send_body(self.now, bytes, &mut self.orders.fx);
            self.asking.insert(passing.client);
        }
    }

    /// With an error, what is answered if nothing was yet.
    fn end_passing(&mut self, id: Id, how: Result<(), Answer>) {
        let Some(client) = self.drop_passing(id) else {
            return;
        };
        let Some(visitor) = self.visitors.get_mut(&client) else {
            return;
        };
        let Some(transfer) = visitor.transfer.take() else {
            return;
        };
        match how {
            Ok(()) => visitor.connection.finish(self.now, &mut self.orders.fx),
            Err(_) if transfer.is_passed => visitor.connection.abort(&mut self.orders.fx),
            Err(answer) => {
                visitor
                    .connection
                    .respond(self.now, &answer, &mut self.orders.fx);
            }
        }
        self.asking.insert(client);
    }

    /// Whose it was.
    pub(super) fn drop_passing(&mut self, id: Id) -> Option<StreamId> {
        let mut passing = self.passings.remove(&id)?;
        passing.close(&mut self.orders.fx);
        Some(passing.client)
    }
}

fn ask(now: Now, at: &Url, via: &str, reach: &Reach, fx: &mut Effects) -> Connection {
    let how = Opening {
        window: WINDOW,
        timeout: CONNECT_TIMEOUT,
    };
    let mut connection = Connection::open_as(now, at, &reach.proxies, how, fx);
    connection.start(now, plain_request(at, via), fx, &mut Vec::new());
    connection
}

/// On its way to one client, besides what is in its send buffer.
const WINDOW: u32 = SEND_PER_STREAM / 4;
