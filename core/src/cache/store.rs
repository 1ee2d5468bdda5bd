//! All objects: found again at the start, told apart by address, within the quota.
//!
//! Invariants: an address leads to one object, the version that is served from now on; nothing that is read, filled
//! or written is evicted.

use super::object::Object;
use super::orders::{Doing, Id, Orders};
use super::peer::Loans;
use super::record::{Record, data_path, record_path};
use crate::content::Digest;
use crate::host::HostFacts;
use crate::limits::{CACHE_LOANS_MAX, CACHE_OBJECTS_MAX};
use crate::machine::{DiskDone, DiskError, DiskOp};
use crate::policy::headroom_bytes;
use crate::time::Now;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

#[derive(Debug)]
pub(super) struct Store {
    pub dir: String,
    pub quota_bytes: u64,
    /// What may still be stored without filling the disk, as far as is known.
    spare_bytes: Option<u64>,
    /// What still has to go so that enough of the disk is free.
    excess_bytes: u64,
    pub objects: BTreeMap<Id, Object>,
    by_url: BTreeMap<String, Id>,
    /// Least recently used first.
    by_use: BTreeSet<(u64, Id)>,
    last_turn: u64,
    bytes: u64,
    /// Records still to be read at the start; `None` before the folder was listed.
    to_load: Option<Vec<String>>,
    data_files: BTreeSet<String>,
    pub is_ready: bool,
    pub loans: Loans,
}

impl Store {
    pub(super) fn new(dir: String, quota_bytes: u64, orders: &mut Orders) -> Self {
        let path = dir.clone();
        orders.disk(DiskOp::List { path }, Doing::List);
        Self {
            dir,
            quota_bytes,
            spare_bytes: None,
            excess_bytes: 0,
            objects: BTreeMap::new(),
            by_url: BTreeMap::new(),
            by_use: BTreeSet::new(),
            last_turn: 0,
            bytes: 0,
            to_load: None,
            data_files: BTreeSet::new(),
            is_ready: false,
            loans: Loans::default(),
        }
    }

    // --- at the start

    pub(super) fn on_listed(
        &mut self,
        done: Result<DiskDone, DiskError>,
        orders: &mut Orders,
    ) -> Option<DiskError> {
        let (names, error) = match done {
            Ok(DiskDone::Names(names)) => (names, None),
            Ok(_) => (Vec::new(), None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let stems = |end: &'static str| {
            let stem = move |name: &String| name.strip_suffix(end).map(ToString::to_string);
            names.iter().filter_map(stem)
        };
        self.data_files = stems(".data").collect();
        self.to_load = Some(stems(".json").collect());
        self.load_next(orders);
        error
    }

    fn load_next(&mut self, orders: &mut Orders) {
        let name = self.to_load.as_mut().and_then(Vec::pop);
        let Some(name) = name else {
            self.is_ready = true;
            self.recall_uses();
            // Bytes of which nothing is known.
            for name in core::mem::take(&mut self.data_files) {
                orders.remove(data_path(&self.dir, &name));
            }
            return;
        };
        let path = record_path(&self.dir, &name);
        orders.disk(DiskOp::Load { path }, Doing::Load { name });
    }

    pub(super) fn on_loaded(
        &mut self,
        id: Id,
        name: String,
        done: Result<DiskDone, DiskError>,
        orders: &mut Orders,
    ) {
        let record = match &done {
            Ok(DiskDone::Bytes(bytes)) => Record::parse(bytes),
            _ => None,
        };
        let object = record.and_then(|record| Object::restore(id, name.clone(), &record));
        match object.filter(|object| self.data_files.contains(&object.name)) {
            Some(object) if self.objects.len() < CACHE_OBJECTS_MAX => {
                self.data_files.remove(&name);
                self.take_in(object, orders);
            }
            _ => orders.remove(record_path(&self.dir, &name)),
        }
        self.load_next(orders);
    }

    /// Of two versions of a file the one that was checked last stays.
    fn take_in(&mut self, mut object: Object, orders: &mut Orders) {
        let url = object.url.to_string();
        let other = self.by_url.get(&url).and_then(|id| self.objects.get(id));
        let other = other.map(|other| (other.id, other.checked_unix_us()));
        match other {
            Some((_, checked)) if checked >= object.checked_unix_us() => {
                object.remove(&self.dir, orders);
                return;
            }
            Some((id, _)) => self.retire(id, orders),
            None => {}
        }
        self.insert(url, object);
    }

    /// In the order of the last run.
    fn recall_uses(&mut self) {
        let objects = self.objects.values();
        let mut uses: Vec<(i64, Id)> = objects.map(|o| (o.used_unix_us, o.id)).collect();
        uses.sort_unstable();
        uses.into_iter().for_each(|(_, id)| self.used(id));
    }

    // --- by address

    pub(super) fn find(&self, url: &str) -> Option<Id> {
        self.by_url.get(url).copied()
    }

    pub(super) fn add(&mut self, mut object: Object, orders: &mut Orders) {
        let url = object.url.to_string();
        if let Some(old) = self.find(&url) {
            self.retire(old, orders);
        }
        if self.objects.len() >= CACHE_OBJECTS_MAX && !self.evict_one(object.id, orders) {
            object.keeps = false;
            object.thin = true;
        }
        self.insert(url, object);
    }

    fn insert(&mut self, url: String, object: Object) {
        let id = object.id;
        self.by_url.insert(url, id);
        self.objects.insert(id, object);
        self.used(id);
        self.recount(id);
    }

    /// Somebody has just asked for it.
    pub(super) fn used(&mut self, id: Id) {
        if let Some(object) = self.objects.get_mut(&id) {
            self.by_use.remove(&(object.turn, id));
            self.last_turn += 1;
            object.turn = self.last_turn;
            self.by_use.insert((object.turn, id));
        }
    }

    /// It is not given to anybody any more, and goes once nobody reads it.
    pub(super) fn retire(&mut self, id: Id, orders: &mut Orders) {
        let Some(object) = self.objects.get_mut(&id) else {
            return;
        };
        object.dead = true;
        let url = object.url.to_string();
        if self.by_url.get(&url) == Some(&id) {
            self.by_url.remove(&url);
        }
        self.take_back(id);
        self.sweep(id, orders);
    }

    /// Remove it if it is dead and nobody needs it.
    pub(super) fn sweep(&mut self, id: Id, orders: &mut Orders) {
        let gone = |object: &mut Object| {
            (object.dead || !object.keeps && object.memory.is_empty()) && object.is_idle()
        };
        if self.objects.get_mut(&id).is_some_and(gone)
            && let Some(mut object) = self.objects.remove(&id)
        {
            object.remove(&self.dir, orders);
            object.fill.close_spare(&mut orders.fx);
            self.by_use.remove(&(object.turn, id));
            self.bytes -= object.counted;
            self.loans.end(&self.dir, &mut object);
            let url = object.url.to_string();
            if self.by_url.get(&url) == Some(&id) {
                self.by_url.remove(&url);
            }
        }
    }

    // --- lending

    /// Lend a file that somebody has just used, if all of it is stored.
    pub(super) fn lend(&mut self, id: Id) {
        let wanted = self.loans.wanted;
        let Some(object) = self.objects.get_mut(&id).filter(|_| wanted) else {
            return;
        };
        if object.lent || object.dead || !object.is_stored() {
            return;
        }
        self.loans.begin(&self.dir, object);
        if self.loans.count > CACHE_LOANS_MAX {
            let lent = |id: &Id| self.objects.get(id).is_some_and(|object| object.lent);
            let oldest = self.by_use.iter().map(|(_, id)| *id).find(lent);
            oldest.into_iter().for_each(|id| self.take_back(id));
        }
    }

    pub(super) fn take_back(&mut self, id: Id) {
        if let Some(object) = self.objects.get_mut(&id) {
            self.loans.end(&self.dir, object);
        }
    }

    // --- the quota

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Perhaps more or less of it is stored than before.
    pub(super) fn recount(&mut self, id: Id) {
        if let Some(object) = self.objects.get_mut(&id) {
            self.bytes = self.bytes - object.counted + object.stored;
            object.counted = object.stored;
        }
    }

    /// What the disk is like now. If less is free than should be, what is stored makes way.
    pub(super) fn on_disk_space(&mut self, facts: &HostFacts, orders: &mut Orders) {
        let headroom = headroom_bytes(facts);
        let free = facts.disk.map(|disk| disk.free_bytes);
        self.excess_bytes = free.map_or(0, |free| headroom.saturating_sub(free));
        self.spare_bytes = free.map(|free| free.saturating_sub(headroom));
        self.relieve(orders);
    }

    /// Give the disk back what is due, as far as nobody uses it now.
    pub(super) fn relieve(&mut self, orders: &mut Orders) {
        while self.excess_bytes > 0 && self.evict_one(0, orders) {}
    }

    /// Evict what was not used for longest, until so much more fits; false if it cannot.
    pub(super) fn make_room(&mut self, len: u64, keep: Id, orders: &mut Orders) -> bool {
        loop {
            let fits = self.bytes().saturating_add(len) <= self.quota_bytes;
            if fits && self.spare_bytes.is_none_or(|spare| spare >= len) {
                self.spare_bytes = self.spare_bytes.map(|spare| spare - len);
                return true;
            }
            if !self.evict_one(keep, orders) {
                return false;
            }
        }
    }

    pub(super) fn evict_one(&mut self, keep: Id, orders: &mut Orders) -> bool {
        let evictable =
            |object: &&Object| object.id != keep && object.is_idle() && object.stored > 0;
        let by_use = self.by_use.iter();
        let mut oldest = by_use.filter_map(|(_, id)| self.objects.get(id));
        let Some(object) = oldest.find(evictable) else {
            return false;
        };
        let (id, stored) = (object.id, object.stored);
        let due = stored.min(self.excess_bytes);
        self.excess_bytes -= due;
        self.spare_bytes = self.spare_bytes.map(|spare| spare + stored - due);
        self.retire(id, orders);
        true
    }

    pub(super) fn check(&self) {
        let objects = self.objects.values();
        let stored: u64 = objects.clone().map(|object| object.stored).sum();
        assert_eq!(stored, self.bytes, "bytes stored");
        let by_use: BTreeSet<(u64, Id)> = objects.map(|object| (object.turn, object.id)).collect();
        assert_eq!(by_use, self.by_use, "objects by use");
    }

    /// Of a new object's files: the address, and the moment to tell versions apart.
    pub(super) fn new_name(id: Id, url: &str, now: Now) -> String {
        let hash = Digest::of(url.as_bytes()).to_string();
        let hash = hash.get(..24).unwrap_or_default();
        format!("{hash}-{:x}-{id:x}", now.wall.unix_us)
    }
}
