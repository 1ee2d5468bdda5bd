//! Uploads of one content: whom to unchoke, what to read next, under credit.
//!
//! Decides: who is unchoked: few, so that being unchoked means being served now; a place nobody uses goes to
//! whoever has waited longest, and so does one that was used for its turn. What lies in send buffers is kept
//! short, so that pieces leave one after the other and can be passed on early.
//! Reads are bounded per peer and in all; bytes leave as the stream reports them sent.
//! Never does: which contents are offered (that is the shelf's), rates of the kernel.
//! Tested in `core/tests/swarm.rs`.

use crate::content::{Bitfield, Geometry};
use crate::ids::SourceId;
use crate::limits::{
    SEND_PER_STREAM, UPLOAD_GRACE, UPLOAD_PEERS, UPLOAD_PLACES, UPLOAD_ROTATION,
    UPLOAD_ROTATION_ROUND_TRIPS, UPLOAD_THINKING, UPLOAD_UNUSED, UPLOAD_WINDOW, UPLOAD_WINDOW_MIN,
    UPLOADS_READING_MAX,
};
use crate::machine::Effects;
use crate::session::{Session, Upload};
use crate::stats::{Rate, TokenBucket};
use crate::time::{Deadline, Mono};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;

/// The serving side of one content.
#[derive(Debug, Default)]
pub struct Serve {
    places: BTreeMap<SourceId, Place>,
    waiting: BTreeMap<SourceId, Mono>,
    reading: BTreeMap<u64, (SourceId, Upload)>,
    reading_bytes: u64,
    last_token: u64,
    /// Who was served last: the next one goes first.
    turn: Option<SourceId>,
    rate: Rate,
    /// Somebody came, left or changed its mind since the last look.
    stale: bool,
    looked_at: Mono,
}

#[derive(Debug)]
struct Place {
    since: Mono,
    /// Until its first request can be here.
    grace: Duration,
    /// How long it may be used while others wait.
    turn: Duration,
    last_used: Mono,
}

/// A read to be made for a peer.
#[derive(Debug)]
pub struct UploadRead {
    pub token: u64,
    pub offset: u64,
    pub len: u32,
}

impl Serve {
    /// Somebody came, left or changed its mind.
    pub fn changed(&mut self) {
        self.stale = true;
    }

    /// Choke and unchoke, if there is a reason to. `may`: policy lets us give to this peer.
    pub fn rechoke(
        &mut self,
        now: Mono,
        sessions: &mut BTreeMap<SourceId, Session>,
        may: impl Fn(&SourceId) -> bool,
        fx: &mut Effects,
    ) {
        let due = self.deadline().is_some_and(|d| d.at <= now);
        let room = !self.waiting.is_empty() && !self.is_full(now, sessions);
        if !due && !room && !core::mem::take(&mut self.stale) {
            return;
        }
        self.looked_at = now;
        let wants = |id: &SourceId| {
            sessions
                .get(id)
                .is_some_and(|s| s.is_open() && s.they_want() && may(id))
        };
        let leaving: Vec<SourceId> = self
            .places
            .keys()
            .copied()
            .filter(|id| !wants(id))
            .collect();
        self.waiting.retain(|id, _| wants(id));
        for (id, session) in sessions.iter() {
            let wants = session.is_open() && session.they_want() && may(id);
            if wants && !self.places.contains_key(id) {
                self.waiting.entry(*id).or_insert(now);
            }
        }
        for id in leaving {
            self.take_place(id, now, sessions, fx);
        }
        for (id, place) in &mut self.places {
            if sessions
                .get(id)
                .is_some_and(|s| !s.is_stuck() && (s.has_uploads() || s.unsent_bytes() > 0))
            {
                place.last_used = now;
            }
        }
        while !self.waiting.is_empty() {
            if self.is_full(now, sessions) {
                let Some(out) = self.due_to_leave(now) else {
                    break;
                };
                self.take_place(out, now, sessions, fx);
            }
            let Some((&next, _)) = self
                .waiting
                .iter()
                .min_by_key(|(id, since)| (**since, **id))
            else {
                break;
            };
            self.waiting.remove(&next);
            let round_trip = sessions
                .get(&next)
                .and_then(Session::round_trip)
                .unwrap_or(UPLOAD_GRACE);
            let grace = (round_trip * 2 + UPLOAD_THINKING).min(UPLOAD_GRACE);
            let turn = UPLOAD_ROTATION.max(round_trip * UPLOAD_ROTATION_ROUND_TRIPS);
            self.places.insert(
                next,
                Place {
                    since: now,
                    grace,
                    turn,
                    last_used: now,
                },
            );
            if let Some(session) = sessions.get_mut(&next) {
                session.set_choked(now, false, fx);
            }
        }
    }

    /// Enough are being served, or unchoked, that nobody else should be for now.
    fn is_full(&self, now: Mono, sessions: &BTreeMap<SourceId, Session>) -> bool {
        let served = |(id, place): &(&SourceId, &Place)| {
            now < place.since + place.grace
                || sessions
                    .get(id)
                    .is_some_and(|s| !s.is_stuck() && (s.has_uploads() || s.unsent_bytes() > 0))
        };
        self.places.len() >= UPLOAD_PLACES
            || self.places.iter().filter(served).count() >= UPLOAD_PEERS
    }

    /// The peer whose place is unused, or the longest served, if its time is over.
    fn due_to_leave(&self, now: Mono) -> Option<SourceId> {
        let unused = self
            .places
            .iter()
            .find(|(_, p)| p.last_used + UPLOAD_UNUSED <= now);
        let over = || {
            self.places
                .iter()
                .filter(|(_, p)| p.since + p.turn <= now)
                .min_by_key(|(_, p)| p.since)
        };
        unused.or_else(over).map(|(id, _)| *id)
    }

    fn take_place(
        &mut self,
        id: SourceId,
        now: Mono,
        sessions: &mut BTreeMap<SourceId, Session>,
        fx: &mut Effects,
    ) {
        self.places.remove(&id);
        if let Some(session) = sessions.get_mut(&id) {
            session.set_choked(now, true, fx);
        }
    }

    /// The next read that may be started, if any. Requests for what we do not have are refused on the way.
    pub fn next_read(
        &mut self,
        now: Mono,
        geometry: &Geometry,
        have: &Bitfield,
        sessions: &mut BTreeMap<SourceId, Session>,
        budget: &mut TokenBucket,
        fx: &mut Effects,
    ) -> Option<UploadRead> {
        let available = budget.available(now);
        if self.reading_bytes >= UPLOADS_READING_MAX || available == 0 {
            return None;
        }
        let most = u32::try_from(available).unwrap_or(u32::MAX);
        let unsent: u64 = self
            .places
            .keys()
            .filter_map(|id| sessions.get(id))
            .filter(|s| !s.is_stuck())
            .map(Session::unsent_bytes)
            .sum();
        let window = self
            .rate
            .bytes_per_s(now)
            .saturating_mul(UPLOAD_WINDOW.as_millis() as u64)
            / 1000;
        if unsent + self.reading_bytes >= window.max(UPLOAD_WINDOW_MIN) {
            return None;
        }
        let after: Vec<SourceId> = self
            .places
            .keys()
            .copied()
            .filter(|id| Some(*id) > self.turn)
            .collect();
        let before: Vec<SourceId> = self
            .places
            .keys()
            .copied()
            .filter(|id| Some(*id) <= self.turn)
            .collect();
        for id in after.into_iter().chain(before) {
            let Some(session) = sessions.get_mut(&id) else {
                continue;
            };
            if session.unsent_bytes() + self.reading_for(id) >= u64::from(SEND_PER_STREAM) {
                continue;
            }
            while let Some(upload) = session.next_upload(most) {
                if !have.has(upload.piece) {
                    session.refuse(now, &upload, fx);
                    continue;
                }
                self.turn = Some(id);
                self.last_token += 1;
                self.reading_bytes += u64::from(upload.len);
                self.rate.add(now, upload.len.into());
                if let Some(place) = self.places.get_mut(&id) {
                    place.last_used = now;
                }
                budget.take(upload.len.into());
                let read = UploadRead {
                    token: self.last_token,
                    offset: geometry.piece_offset(upload.piece) + u64::from(upload.begin),
                    len: upload.len,
                };
                self.reading.insert(self.last_token, (id, upload));
                return Some(read);
            }
        }
        None
    }

    /// A read is done; `None` if it failed: the piece it was in is returned, as damaged.
    pub fn on_read(
        &mut self,
        now: Mono,
        token: u64,
        bytes: Option<&Bytes>,
        sessions: &mut BTreeMap<SourceId, Session>,
        fx: &mut Effects,
    ) -> Option<u32> {
        let (id, upload) = self.reading.remove(&token)?;
        self.reading_bytes -= u64::from(upload.len);
        let session = sessions.get_mut(&id);
        match bytes {
            Some(bytes) => {
                if let Some(session) = session {
                    session.deliver(now, &upload, bytes, fx);
                }
                None
            }
            None => {
                if let Some(session) = session {
                    session.refuse(now, &upload, fx);
                }
                Some(upload.piece)
            }
        }
    }

    pub fn forget(&mut self, id: SourceId) {
        self.stale |= self.places.remove(&id).is_some();
        self.waiting.remove(&id);
    }

    pub fn deadline(&self) -> Option<Deadline> {
        if self.waiting.is_empty() {
            return None;
        }
        let full = self.places.len() >= UPLOAD_PLACES;
        let unused = |p: &Place| {
            if full {
                p.last_used + UPLOAD_UNUSED
            } else {
                p.since + UPLOAD_GRACE
            }
        };
        let due = |p: &Place| (p.since + p.turn).min(unused(p));
        let at = self
            .places
            .values()
            .map(due)
            .filter(|at| *at > self.looked_at)
            .min()?;
        Some(Deadline::new(at, "give an upload place to somebody else"))
    }

    fn reading_for(&self, id: SourceId) -> u64 {
        self.reading
            .values()
            .filter(|(who, _)| *who == id)
            .map(|(_, u)| u64::from(u.len))
            .sum()
    }

    /// Asserts the bounds of the header.
    pub fn check(&self) {
        assert!(
            self.places.len() <= UPLOAD_PLACES,
            "too many peers are served"
        );
        assert!(
            self.places.keys().all(|id| !self.waiting.contains_key(id)),
            "served and waiting"
        );
        let reading: u64 = self.reading.values().map(|(_, u)| u64::from(u.len)).sum();
        assert_eq!(reading, self.reading_bytes, "bytes being read");
    }
}
