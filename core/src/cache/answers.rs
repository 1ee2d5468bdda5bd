//! What disk and hash threads answer, and whom that concerns.

use super::Cache;
use super::object::{Object, Told};
use super::orders::{Doing, Id, Orders};
use crate::command::Level;
use crate::ids::OpId;
use crate::machine::{DiskDone, DiskError, DiskErrorKind};
use alloc::format;

impl Cache {
    /// An answer about an object: tell it, and let everybody look.
    pub(super) fn with(
        &mut self,
        id: Id,
        act: impl FnOnce(&mut Object, &mut Orders) -> Option<Told>,
    ) {
        let Some(object) = self.store.objects.get_mut(&id) else {
            return;
        };
        object.ops = object.ops.saturating_sub(1);
        let told = act(object, &mut self.orders);
        self.eager.extend(object.readers.keys());
        self.store.recount(id);
        self.touched.insert(id);
        if let Some(told) = told {
            self.tell(id, &told);
        }
    }

    pub(super) fn tell(&mut self, id: Id, told: &Told) {
        let Some(object) = self.store.objects.get(&id) else {
            return;
        };
        let url = &object.url;
        let mut damaged = false;
        let text = match told {
            Told::Damaged(slice) => {
                damaged = true;
                self.counters.slices_damaged += 1;
                format!("{url}: slice {slice} is damaged on the disk; it is fetched anew")
            }
            Told::Unreadable(why) => {
                format!(
                    "{url}: cannot read what is stored of it: {why}; all of it is looked at anew"
                )
            }
            Told::NotStored(error) if self.told_full && error.kind == DiskErrorKind::Full => return,
            Told::NotStored(error) => {
                self.told_full |= error.kind == DiskErrorKind::Full;
                let dir = &self.store.dir;
                format!(
                    "cannot store {url} in {dir}: {}; it is served without",
                    error.text
                )
            }
        };
        self.orders.fx.log(Level::Warn, text);
        if damaged {
            self.store.take_back(id);
        }
    }

    pub(super) fn disk(&mut self, op: OpId, done: Result<DiskDone, DiskError>) {
        let now = self.now;
        let dir = self.store.dir.clone();
        let was_ready = self.store.is_ready;
        match self.orders.answered(op) {
            Some(Doing::List) => {
                if let Some(error) = self.store.on_listed(done, &mut self.orders) {
                    let text = format!("cannot list {dir}: {}", error.text);
                    self.orders.fx.log(Level::Warn, text);
                }
            }
            Some(Doing::Load { name }) => {
                let id = self.next_id();
                self.store.on_loaded(id, name, done, &mut self.orders);
            }
            Some(Doing::Open { object }) => self.with(object, |o, _| o.on_opened(&done)),
            Some(Doing::Check { object, slice }) => {
                self.with(object, |o, orders| {
                    o.on_check_read(now, slice, done, orders)
                });
            }
            Some(Doing::SliceWrite { object, slice }) => {
                if done.as_ref().is_err_and(|e| e.kind == DiskErrorKind::Full) {
                    self.store.evict_one(object, &mut self.orders);
                } else {
                    self.told_full = false;
                }
                self.with(object, |o, _| o.on_slice_written(now, slice, done));
            }
            Some(Doing::Sync { object, record }) => {
                let is_durable = done.is_ok();
                self.with(object, |o, orders| {
                    o.on_synced(record, is_durable, &dir, orders);
                    done.err().map(Told::NotStored)
                });
            }
            Some(Doing::Record { object }) => self.with(object, |o, _| {
                o.on_recorded();
                done.err().map(Told::NotStored)
            }),
            _ => {}
        }
        if self.store.is_ready && !was_ready {
            self.asking.extend(self.visitors.keys());
        }
    }
}
