//! The shelf's files and offers: keeps what was downloaded, reads it back at the start, offers what has a slot.
//!
//! Every content is two files in the shelf's folder: `HASH.data`, a copy that shares nothing writable with the output,
//! and `HASH.json`, its record, written last. Whatever has no record is removed at the start. A content is checked
//! whole against its hashes each time it gets a slot, before the first byte is offered; what does not match is
//! dropped. Trouble with the shelf is said and never a download's.
//!
//! Decides: when to look after what. Never does: what goes and who is offered (`crate::shelf`).
//! Tests: `core/tests/shelf.rs`.

use super::swarm::Swarm;
use super::{Agent, SHELF};
use crate::command::{Event, Level, Reply, Report, ShareRequest};
use crate::content::{InfoHash, Metainfo};
use crate::failure::{Failure, FailureKind};
use crate::ids::{CallId, JobId, OpId};
use crate::machine::{DiskDone, DiskError, DiskOp, Effects};
use crate::policy::ShelfLimits;
use crate::shelf::{Item, Record, Shelf, Why};
use crate::time::{Deadline, Mono};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::time::Duration;

/// The call in whose name the shelf offers; nobody waits for its reply.
pub(super) const SHELF_CALL: CallId = CallId(0);

#[derive(Debug)]
pub(super) struct Keeper {
    dir: String,
    pub(super) shelf: Shelf,
    ops: BTreeMap<OpId, Doing>,
    started: bool,
    /// The swarm that offers each.
    offers: BTreeMap<InfoHash, u64>,
    /// Of these, those that still read the output they were downloaded to.
    from_output: BTreeMap<u64, Mono>,
    /// Downloads that are over and not kept: offered until then.
    lingering: BTreeMap<u64, Mono>,
    look_at: Mono,
}

#[derive(Debug)]
enum Doing {
    List,
    Load {
        hash: String,
    },
    Copy {
        owner: u64,
        hash: InfoHash,
        item: Box<Item>,
    },
    Record {
        owner: u64,
        hash: InfoHash,
        item: Box<Item>,
    },
    Save,
    Remove,
}

impl Keeper {
    pub(super) fn new(dir: String) -> Self {
        Self {
            dir,
            shelf: Shelf::default(),
            ops: BTreeMap::new(),
            started: false,
            offers: BTreeMap::new(),
            from_output: BTreeMap::new(),
            lingering: BTreeMap::new(),
            look_at: Mono::ZERO,
        }
    }

    fn path(&self, hash: &str, kind: &str) -> String {
        format!("{}/{hash}.{kind}", self.dir)
    }

    fn data_path(&self, hash: InfoHash) -> String {
        self.path(&name_of(hash), "data")
    }

    fn order(&mut self, todo: DiskOp, doing: Doing, fx: &mut Effects) {
        self.ops.insert(fx.disk(todo), doing);
    }

    fn save(&mut self, hash: InfoHash, fx: &mut Effects) {
        let own = self.shelf.get(hash).filter(|item| item.lent.is_none());
        if let Some(item) = own {
            let (path, bytes) = (self.path(&name_of(hash), "json"), item.record.encode());
            self.order(DiskOp::Replace { path, bytes }, Doing::Save, fx);
        }
    }

    /// The record first: without it the data is nothing.
    fn remove_files(&mut self, hash: &str, fx: &mut Effects) {
        for kind in ["json", "data"] {
            let path = self.path(hash, kind);
            self.order(DiskOp::Remove { path }, Doing::Remove, fx);
        }
    }

    pub(super) fn deadline(&self) -> Deadline {
        Deadline::new(self.look_at, "look after the shelf")
    }

    pub(super) fn is_idle(&self) -> bool {
        self.ops.is_empty()
    }

    pub(super) fn dir(&self) -> &str {
        &self.dir
    }

    pub(super) fn pin(&mut self, hash: InfoHash, pinned: bool, now: Mono, fx: &mut Effects) {
        if let Some(item) = self.shelf.get_mut(hash) {
            item.record.pinned = pinned;
        }
        self.save(hash, fx);
        self.look_at = now;
    }

    /// The offer of a content, for what it has sent.
    pub(super) fn offer(&self, hash: InfoHash) -> Option<u64> {
        self.offers.get(&hash).copied()
    }
}

impl Agent {
    /// Something may be due on the shelf.
    pub(super) fn tend_shelf(&mut self) {
        let now = self.now.mono;
        if self.keeper.as_ref().is_none_or(|k| k.look_at > now) {
            return;
        }
        self.follow_folder();
        self.fx.owner = SHELF;
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        if !keeper.started {
            keeper.started = true;
            let path = keeper.dir.clone();
            keeper.order(DiskOp::List { path }, Doing::List, &mut self.fx);
        }
        self.note_demand();
        self.drop_overdue();
        self.leave_outputs();
        self.hand_slots_on();
        self.end_lingering();
        self.tell_of_shelf();
        self.plan_next_look();
    }

    /// The setting may have moved the shelf.
    fn follow_folder(&mut self) {
        let Some(keeper) = &self.keeper else { return };
        let set = self.rules.shelf_dir();
        let Some(dir) = set.or_else(|| self.config.shelf_dir.clone()) else {
            return;
        };
        if dir == keeper.dir || !keeper.is_idle() {
            return;
        }
        if keeper.started {
            let text = format!(
                "the shelf is {dir} from now on; {} is left as it is",
                keeper.dir
            );
            self.log(Level::Info, text);
        }
        let owners: Vec<u64> = self
            .keeper
            .iter()
            .flat_map(|k| k.offers.values())
            .copied()
            .collect();
        owners.into_iter().for_each(|owner| self.dismiss(owner));
        self.fx.notify(Event::ShelfMoved(dir.clone()));
        let lingering = self.keeper.take().map(|old| old.lingering);
        self.keeper = Some(Keeper {
            lingering: lingering.unwrap_or_default(),
            ..Keeper::new(dir)
        });
    }

    /// Limits have changed.
    pub(super) fn look_at_shelf(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            keeper.look_at = self.now.mono;
        }
    }

    fn note_demand(&mut self) {
        let (now, wall) = (self.now.mono, self.now.wall);
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        for (hash, owner) in &keeper.offers {
            if self.swarms.get(owner).is_some_and(Swarm::is_asked) {
                keeper.shelf.wanted(*hash, now, wall);
            }
        }
    }

    /// Somebody wants a content by this truncated hash.
    pub(super) fn on_wanted(&mut self, key: [u8; 20]) {
        let (now, wall) = (self.now.mono, self.now.wall);
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let hash = keeper.shelf.iter().find(|(h, _)| h.truncated() == key);
        if let Some((hash, is_offered)) = hash.map(|(hash, item)| (hash, item.is_offered())) {
            keeper.shelf.wanted(hash, now, wall);
            if !is_offered {
                keeper.look_at = now;
            }
        }
    }

    fn drop_overdue(&mut self) {
        let limits = &self.rules.limits.shelf;
        let (free, wall) = (self.rules.disk_free_bytes(), self.now.wall);
        let Some(keeper) = &self.keeper else { return };
        for (hash, why) in keeper.shelf.overdue(limits, free, wall) {
            self.drop_content(hash, &why);
        }
    }

    /// It is not kept any more.
    pub(super) fn drop_content(&mut self, hash: InfoHash, why: &Why) {
        self.fx.owner = SHELF;
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let Some(item) = keeper.shelf.remove(hash) else {
            return;
        };
        if item.lent.is_none() {
            keeper.remove_files(&name_of(hash), &mut self.fx);
        }
        keeper.look_at = self.now.mono;
        let offer = keeper.offers.remove(&hash);
        if let Some(owner) = &offer {
            keeper.from_output.remove(owner);
        }
        let level = match why {
            Why::Damaged(_) => Level::Warn,
            Why::TakenBack => Level::Debug,
            _ => Level::Info,
        };
        let text = format!(
            "{} is not kept for peers any more: {}",
            item.name,
            why.words()
        );
        self.log(level, text);
        if let Some(owner) = offer {
            self.dismiss(owner);
        }
        self.forget_lent(hash);
    }

    /// Whatever nobody reads just now is offered from the shelf's own copy from here on.
    fn leave_outputs(&mut self) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let now = self.now.mono;
        let quiet = |(owner, since): (&u64, &Mono)| {
            let asked = self.swarms.get(owner).is_some_and(Swarm::is_asked);
            (!asked && *since + LINGER <= now).then_some(*owner)
        };
        let owners: Vec<u64> = keeper.from_output.iter().filter_map(quiet).collect();
        let of = |(hash, owner): (&InfoHash, &u64)| owners.contains(owner).then_some(*hash);
        let quiet: Vec<InfoHash> = keeper.offers.iter().filter_map(of).collect();
        for hash in quiet {
            self.end_offer(hash);
        }
    }

    fn hand_slots_on(&mut self) {
        let peers = self.rules.limits.mode.peers() && self.shutdown.is_none();
        let slots = if peers {
            self.rules.limits.shelf.slots
        } else {
            0
        };
        let now = self.now.mono;
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let turn = keeper.shelf.rotate(now, slots);
        for hash in turn.stop {
            self.end_offer(hash);
        }
        for hash in turn.start {
            self.begin_offer(hash);
        }
    }

    fn begin_offer(&mut self, hash: InfoHash) {
        let Some(keeper) = &self.keeper else { return };
        let Some(item) = keeper.shelf.get(hash) else {
            return;
        };
        if self.by_hash.contains_key(&hash.truncated()) {
            return;
        }
        let request = ShareRequest {
            metainfo: item.record.metainfo.clone(),
            path: item.lent.clone().unwrap_or_else(|| keeper.data_path(hash)),
        };
        self.last_job += 1;
        let id = JobId(self.last_job);
        self.start(SHELF_CALL, id, |start, c| Swarm::share(start, request, c));
        let owner = self.last_owner;
        if let Some(keeper) = &mut self.keeper {
            keeper.offers.insert(hash, owner);
        }
    }

    fn end_offer(&mut self, hash: InfoHash) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        keeper.shelf.leave_slot(hash);
        let Some(owner) = keeper.offers.remove(&hash) else {
            return;
        };
        keeper.from_output.remove(&owner);
        let sent = self.swarms.get(&owner).map_or(0, Swarm::sent_bytes);
        if let Some(item) = keeper.shelf.get_mut(hash) {
            item.record.sent_bytes += sent;
        }
        self.fx.owner = SHELF;
        keeper.save(hash, &mut self.fx);
        self.dismiss(owner);
    }

    /// The check before an offer is over.
    pub(super) fn on_shelf_checked(&mut self, owner: u64, result: &Result<Report, Failure>) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let offer = keeper.offers.iter().find(|(_, of)| **of == owner);
        let Some(hash) = offer.map(|(hash, _)| *hash) else {
            return;
        };
        match result {
            Err(failure) if failure.kind == FailureKind::Mismatch => {
                let why = "its copy on the shelf does not match its hashes".to_string();
                self.drop_content(hash, &Why::Damaged(why));
            }
            // It may be there, and cannot be read now. It keeps its slot, so that it is tried again at its next turn.
            Err(failure) if failure.kind == FailureKind::Disk => {
                keeper.offers.remove(&hash);
                let text = format!("cannot offer what is kept: {failure}");
                self.log(Level::Warn, text);
            }
            _ => {}
        }
    }

    // --- keeping

    /// A download has ended well: keep it, or offer it a little longer.
    pub(super) fn keep(&mut self, owner: u64) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let Some(swarm) = self.swarms.get(&owner) else {
            return;
        };
        let linger = self.now.mono + LINGER;
        let Some(metainfo) = swarm.metainfo().filter(|_| swarm.meets()).cloned() else {
            keeper.lingering.insert(owner, linger);
            return;
        };
        let hash = metainfo.info_hash;
        keeper.look_at = self.now.mono;
        if keeper.shelf.get(hash).is_some() {
            keeper.lingering.insert(owner, linger);
            return;
        }
        let length = metainfo.geometry.length();
        let free = self.rules.disk_free_bytes();
        let room = keeper
            .shelf
            .room_for(length, &self.rules.limits.shelf, free);
        match room {
            Ok(victims) => {
                for victim in victims {
                    self.drop_content(victim, &Why::Room);
                }
                self.copy(owner, &metainfo);
            }
            Err(why) => {
                keeper.lingering.insert(owner, linger);
                let text = format!("{} is not kept for peers: {why}", metainfo.name);
                self.log(Level::Debug, text);
            }
        }
    }

    fn copy(&mut self, owner: u64, metainfo: &Metainfo) {
        let (Some(keeper), Some(swarm)) = (&mut self.keeper, self.swarms.get(&owner)) else {
            return;
        };
        let hash = metainfo.info_hash;
        let now_us = self.now.wall.unix_us;
        let record = Record {
            root: metainfo.id.root.to_string(),
            completed_unix_us: now_us,
            wanted_unix_us: now_us,
            pinned: false,
            sent_bytes: 0,
            metainfo: metainfo.encode().into(),
        };
        let length = metainfo.geometry.length();
        let item = Box::new(Item::new(metainfo.name.clone(), length, record));
        let todo = DiskOp::Keep {
            from: swarm.output().to_string(),
            to: keeper.data_path(hash),
        };
        self.fx.owner = SHELF;
        keeper.order(todo, Doing::Copy { owner, hash, item }, &mut self.fx);
    }

    pub(super) fn on_shelf_disk(&mut self, op: OpId, done: Result<DiskDone, DiskError>) {
        self.fx.owner = SHELF;
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let Some(doing) = keeper.ops.remove(&op) else {
            return;
        };
        keeper.look_at = self.now.mono;
        match (doing, done) {
            (Doing::List, Ok(DiskDone::Names(names))) => self.on_listed(names),
            (Doing::Load { hash }, Ok(DiskDone::Bytes(bytes))) => self.on_loaded(&hash, &bytes),
            (Doing::Copy { owner, hash, item }, Ok(_)) => {
                let todo = DiskOp::Replace {
                    path: keeper.path(&name_of(hash), "json"),
                    bytes: item.record.encode(),
                };
                keeper.order(todo, Doing::Record { owner, hash, item }, &mut self.fx);
            }
            (Doing::Record { owner, hash, item }, Ok(_)) => self.on_kept(owner, hash, *item),
            (Doing::Copy { owner, hash, item } | Doing::Record { owner, hash, item }, Err(e)) => {
                keeper.remove_files(&name_of(hash), &mut self.fx);
                keeper.lingering.insert(owner, self.now.mono + LINGER);
                let text = format!(
                    "{} is not kept for peers: {} says {}; the download itself is complete",
                    item.name, keeper.dir, e.text
                );
                self.log(Level::Warn, text);
            }
            (Doing::List | Doing::Save | Doing::Load { .. }, Err(error)) => {
                let text = format!(
                    "the shelf {} cannot be used: {}; downloads go on (modify_cache_drive names another folder)",
                    keeper.dir, error.text
                );
                self.log(Level::Warn, text);
            }
            _ => {}
        }
    }

    fn on_kept(&mut self, owner: u64, hash: InfoHash, item: Item) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        keeper.shelf.insert(hash, item, self.now.wall);
        if self.swarms.contains_key(&owner) && !self.closing.contains(&owner) {
            keeper.offers.insert(hash, owner);
            keeper.from_output.insert(owner, self.now.mono);
            keeper.shelf.hold_slot(hash, self.now.mono);
        }
    }

    // --- the start

    fn on_listed(&mut self, names: Vec<String>) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let stored: BTreeSet<&str> = names
            .iter()
            .filter_map(|n| n.strip_suffix(".data"))
            .collect();
        let recorded: BTreeSet<&str> = names
            .iter()
            .filter_map(|n| n.strip_suffix(".json"))
            .collect();
        for name in &names {
            let (hash, kind) = name.split_once('.').unwrap_or((name, ""));
            let is_ours = hash.len() == 64 && hash.bytes().all(|c| c.is_ascii_hexdigit());
            let path = format!("{}/{name}", keeper.dir);
            match kind {
                "json" if is_ours && stored.contains(hash) => {
                    let hash = hash.to_string();
                    keeper.order(DiskOp::Load { path }, Doing::Load { hash }, &mut self.fx);
                }
                "data" if recorded.contains(hash) => {}
                // Left by a crash.
                "json" | "data" | "data.new" | "json.new" if is_ours => {
                    keeper.order(DiskOp::Remove { path }, Doing::Remove, &mut self.fx);
                }
                _ => {}
            }
        }
    }

    fn on_loaded(&mut self, hash: &str, bytes: &[u8]) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let record = Record::parse(bytes);
        let parsed = record.and_then(|record| {
            let metainfo = Metainfo::parse(&record.metainfo).ok()?;
            (name_of(metainfo.info_hash) == hash).then_some((metainfo, record))
        });
        match parsed {
            // It was downloaded again since the start.
            Some((metainfo, _)) if keeper.shelf.get(metainfo.info_hash).is_some() => {}
            Some((metainfo, record)) => {
                let item = Item::new(metainfo.name.clone(), metainfo.geometry.length(), record);
                keeper.shelf.insert(metainfo.info_hash, item, self.now.wall);
            }
            None => {
                keeper.remove_files(hash, &mut self.fx);
                let text = format!("{hash} on the shelf has a damaged record and was dropped");
                self.log(Level::Warn, text);
            }
        }
    }

    // --- rest

    fn end_lingering(&mut self) {
        let now = self.now.mono;
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let over: Vec<u64> = keeper
            .lingering
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(owner, _)| *owner)
            .collect();
        keeper.lingering.retain(|_, until| *until > now);
        for owner in over {
            if self.swarms.contains_key(&owner) {
                self.dismiss(owner);
            }
        }
    }

    fn tell_of_shelf(&mut self) {
        let Some(keeper) = &self.keeper else { return };
        self.rules.set_shelf_bytes(keeper.shelf.loose_bytes());
        if let Some(announcer) = &mut self.announcer {
            announcer.set_held(self.now, keeper.shelf.iter().map(|(hash, _)| hash));
        }
    }

    fn plan_next_look(&mut self) {
        let (now, wall) = (self.now.mono, self.now.wall);
        let limits: &ShelfLimits = &self.rules.limits.shelf;
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let expiry = keeper
            .shelf
            .next_expiry(limits, wall)
            .map(|span| now + span);
        let linger = keeper.lingering.values().min().copied();
        let next = [
            expiry,
            keeper.shelf.next_turn(),
            linger,
            Some(now + LOOK_EVERY),
        ];
        let next = next.into_iter().flatten().min().unwrap_or(now + LOOK_EVERY);
        // What was just done may have changed something already.
        keeper.look_at = next.max(now + Duration::from_millis(1));
    }

    /// A reply of the shelf's own calls is nobody's.
    pub(super) fn is_own_call(call: CallId, reply: &Reply) -> bool {
        call == SHELF_CALL && matches!(reply, Reply::Shared(_))
    }
}

fn name_of(hash: InfoHash) -> String {
    crate::announce::hex::encode(&hash.0)
}

/// How long a download that is not kept is offered all the same, to those who are at it.
const LINGER: Duration = Duration::from_secs(60);

const LOOK_EVERY: Duration = Duration::from_secs(30);
