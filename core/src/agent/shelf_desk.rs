//! What callers ask of the shelf: a list, a pin, a removal.

use super::Agent;
use super::SHELF;
use crate::api::{Line, ShelfAsk, ShelfItemLine, ShelfLine};
use crate::content::InfoHash;
use crate::failure::{Failure, FailureKind};
use crate::shelf::Why;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

impl Agent {
    pub(super) fn on_shelf_asked(&mut self, ask: &ShelfAsk) -> Line {
        match self.shelf_answer(ask) {
            Ok(line) => Line::Shelf(line),
            Err(failure) => Line::failed(failure),
        }
    }

    fn shelf_answer(&mut self, ask: &ShelfAsk) -> Result<ShelfLine, Failure> {
        if self.keeper.is_none() {
            let why = "this agent does not share with peers, so it keeps nothing for them";
            let failure = Failure::new(FailureKind::Refused, "there is no shelf", why);
            return Err(failure.remedy("start it with --share"));
        }
        let (text, pin) = match ask {
            ShelfAsk::List => return Ok(self.shelf_line(|_| true)),
            ShelfAsk::Pin(text) => (text, Some(true)),
            ShelfAsk::Unpin(text) => (text, Some(false)),
            ShelfAsk::Remove(text) => (text, None),
        };
        let hash = self.one_content(text)?;
        let Some(pinned) = pin else {
            let line = self.shelf_line(|of| of == hash);
            self.drop_content(hash, &Why::Asked);
            return Ok(line);
        };
        self.fx.owner = SHELF;
        if let Some(keeper) = &mut self.keeper {
            keeper.pin(hash, pinned, self.now.mono, &mut self.fx);
        }
        Ok(self.shelf_line(|of| of == hash))
    }

    fn one_content(&self, text: &str) -> Result<InfoHash, Failure> {
        let found = self.keeper.as_ref().map(|keeper| keeper.shelf.find(text));
        let found = found.unwrap_or_default();
        match found[..] {
            [only] => Ok(only),
            [] => {
                let what = format!("there is no {text} on the shelf");
                let why = "neither a name nor the beginning of a root is that";
                let failure = Failure::new(FailureKind::Usage, what, why);
                Err(failure.remedy("`dovetail shelf ls` shows what is there"))
            }
            [..] => {
                let what = format!("{text} is not clear");
                let why = format!("{} contents on the shelf are called so", found.len());
                let failure = Failure::new(FailureKind::Usage, what, why);
                Err(failure
                    .remedy("give the beginning of its root, from `dovetail shelf ls --json`"))
            }
        }
    }

    fn shelf_line(&self, of: impl Fn(InfoHash) -> bool) -> ShelfLine {
        let limits = &self.rules.limits.shelf;
        let Some(keeper) = &self.keeper else {
            return ShelfLine::default();
        };
        let now = self.now.mono;
        let age_us = limits
            .max_age
            .map(|age| i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
        let mut items: Vec<ShelfItemLine> = keeper
            .shelf
            .iter()
            .filter(|(hash, _)| of(*hash))
            .map(|(hash, item)| {
                let record = &item.record;
                let live = keeper.offer(hash).and_then(|owner| self.swarms.get(&owner));
                ShelfItemLine {
                    name: item.name.clone(),
                    length: item.length,
                    root: record.root.to_string(),
                    completed_unix_us: record.completed_unix_us,
                    expires_unix_us: age_us
                        .filter(|_| !record.pinned)
                        .map(|age| record.completed_unix_us.saturating_add(age)),
                    pinned: record.pinned,
                    offered: item.is_offered(),
                    wanted: item.is_wanted(now),
                    sent: record.sent_bytes + live.map_or(0, |swarm| swarm.sent_bytes()),
                }
            })
            .collect();
        items.sort_by(|a, b| (&a.name, &a.root).cmp(&(&b.name, &b.root)));
        ShelfLine {
            folder: String::from(keeper.dir()),
            loose_bytes: keeper.shelf.loose_bytes(),
            quota_bytes: limits.quota_bytes,
            slots: limits.slots,
            items,
        }
    }
}
