//! Files of somebody else that are offered to peers while they are there: what a cache in the same process has whole.
//!
//! A lent file waits until the coordinator knows what it is; then it stands on the shelf like any content, takes its
//! turn for a slot, and is compared with its hashes when it gets one. It counts towards no quota, and its file is never
//! touched. Tests: `core/tests/cache_peer.rs`.

use super::{Agent, Lookup};
use crate::announce::Key;
use crate::command::Level;
use crate::content::{InfoHash, Metainfo};
use crate::machine::{Input, Machine as _};
use crate::shelf::{Item, Record, Why};
use crate::time::{Deadline, Mono, Now};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString as _};
use core::time::Duration;

/// A complete file, and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loan {
    /// Absolute; the file does not change while it is lent.
    pub path: String,
    pub url: String,
    pub length: u64,
}

#[derive(Debug, Default)]
pub(super) struct Lent {
    /// By path.
    files: BTreeMap<String, (Loan, State)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The coordinator is asked what it is, under this number.
    Asking(u64),
    /// It does not know. Asked again then.
    Unknown(Mono),
    Known(InfoHash),
}

impl Lent {
    pub(super) fn deadline(&self) -> Option<Deadline> {
        let times = self.files.values().filter_map(|(_, state)| match state {
            State::Unknown(until) => Some(*until),
            State::Asking(_) | State::Known(_) => None,
        });
        let at = times.min()?;
        Some(Deadline::new(at, "ask again what a lent file is"))
    }
}

impl Agent {
    /// Offer this file to peers, if the coordinator knows what it is.
    pub fn lend(&mut self, now: Now, loan: Loan) {
        let state = State::Unknown(self.now.mono);
        self.lent.files.insert(loan.path.clone(), (loan, state));
        self.handle(now, Input::Tick);
    }

    /// This file will not be there any longer.
    pub fn take_back(&mut self, now: Now, path: &str) {
        match self.lent.files.remove(path) {
            Some((_, State::Asking(token))) => {
                if let Some(announcer) = &mut self.announcer {
                    announcer.forget(token);
                }
            }
            Some((_, State::Known(hash))) => self.drop_content(hash, &Why::TakenBack),
            _ => {}
        }
        self.handle(now, Input::Tick);
    }

    /// Ask about those that are unknown.
    pub(super) fn tend_lent(&mut self) {
        let now = self.now.mono;
        let mut announcer = self.announcer.as_mut().filter(|a| !a.is_lost());
        for (loan, state) in self.lent.files.values_mut() {
            let due = match state {
                State::Unknown(until) => *until <= now,
                // Nothing will answer.
                State::Asking(_) => announcer.is_none(),
                State::Known(_) => false,
            };
            match &mut announcer {
                Some(announcer) if due => {
                    self.last_owner += 1;
                    *state = State::Asking(self.last_owner);
                    announcer.lookup(self.now, self.last_owner, &Key::Url(loan.url.clone()));
                }
                None if due => *state = State::Unknown(now + WITHOUT_COORDINATOR),
                _ => {}
            }
        }
    }

    /// True if the answer was about a lent file.
    pub(super) fn on_lent_record(&mut self, token: u64, answer: &Lookup) -> bool {
        let mut files = self.lent.files.values_mut();
        let asked = |(_, state): &&mut (Loan, State)| *state == State::Asking(token);
        let Some((loan, state)) = files.find(asked) else {
            return false;
        };
        let metainfo = match answer {
            Lookup::Pending(_) => return true,
            Lookup::Found(record) => Metainfo::parse(&record.metainfo).ok(),
            _ => None,
        };
        let Some(metainfo) = metainfo.filter(|m| m.geometry.length() == loan.length) else {
            *state = State::Unknown(self.now.mono + ASK_AGAIN);
            return true;
        };
        let (hash, path) = (metainfo.info_hash, loan.path.clone());
        *state = State::Known(hash);
        let text = format!("{} can be offered to peers: {}", metainfo.name, loan.url);
        self.log(Level::Info, text);
        self.put_on_shelf(&metainfo, path);
        true
    }

    fn put_on_shelf(&mut self, metainfo: &Metainfo, path: String) {
        let wall = self.now.wall;
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        if keeper.shelf.get(metainfo.info_hash).is_some() {
            return;
        }
        let record = Record {
            root: metainfo.id.root.to_string(),
            completed_unix_us: wall.unix_us,
            wanted_unix_us: wall.unix_us,
            pinned: false,
            sent_bytes: 0,
            metainfo: metainfo.encode().into(),
        };
        let length = metainfo.geometry.length();
        let item = Item::new(metainfo.name.clone(), length, record).lent(path);
        keeper.shelf.insert(metainfo.info_hash, item, wall);
        self.look_at_shelf();
    }

    /// What was lent under this hash is not what it should be, or not wanted here any more.
    pub(super) fn forget_lent(&mut self, hash: InfoHash) {
        let later = self.now.mono + ASK_AGAIN;
        for (_, state) in self.lent.files.values_mut() {
            if *state == State::Known(hash) {
                *state = State::Unknown(later);
            }
        }
    }
}

/// A publisher may make it known meanwhile.
const ASK_AGAIN: Duration = Duration::from_secs(600);

const WITHOUT_COORDINATOR: Duration = Duration::from_secs(60);
