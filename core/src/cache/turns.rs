//! What follows from what has happened: clients first, then the objects they read, then new requests.

use super::Cache;
use super::fill::{Filling, Share};
use super::object::Object;
use super::orders::Id;
use super::visitor::{Pumped, Transfer};
use crate::command::{Level, Reply};
use crate::http::Answer;
use crate::ids::StreamId;
use crate::limits::{
    CACHE_FILES_OPEN_MAX, CACHE_FILLS_MAX, CACHE_MEMORY_SLICES, CACHE_SLICES_IN_MEMORY,
};
use ::http::StatusCode;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

impl Cache {
    /// Until nothing follows from anything.
    pub(super) fn settle(&mut self) {
        loop {
            if let Some(stream) = self.eager.pop_first() {
                self.pump(stream);
                self.asking.insert(stream);
            } else if let Some(id) = self.touched.pop_first() {
                self.turn(id);
                self.note(id);
            } else if let Some(stream) = self.asking.pop_first() {
                self.serve(stream);
                let visitor = self.visitors.get(&stream);
                let due = visitor.and_then(|visitor| visitor.connection.deadline());
                self.client_timers.set(stream, due.map(|due| due.at));
            } else if self.filling.len() < CACHE_FILLS_MAX
                && let Some(id) = self.queue.pop_front()
            {
                self.touched.insert(id);
            } else {
                break;
            }
        }
        self.close_files();
        if let Some(call) = self.stopping
            && self
                .store
                .objects
                .values()
                .all(|o| o.is_recorded() && o.ops == 0)
        {
            self.stopping = None;
            self.orders.fx.reply(call, Reply::Stopped);
        }
    }

    /// When this object is due, whether it is being fetched, and whether its file is open.
    fn note(&mut self, id: Id) {
        let object = self.store.objects.get(&id);
        let due = object.and_then(|object| object.deadline(self.now.mono));
        self.object_timers.set(id, due.map(|due| due.at));
        if object.is_some_and(|object| object.fill.is_active()) {
            self.filling.insert(id);
        } else {
            self.filling.remove(&id);
        }
        if object.is_some_and(Object::is_open) {
            self.open.insert(id);
        } else {
            self.open.remove(&id);
        }
    }

    /// Files stay open for the next client, as long as they are not too many.
    fn close_files(&mut self) {
        let most = match self.stopping {
            Some(_) => 0,
            None => CACHE_FILES_OPEN_MAX,
        };
        while self.open.len() > most {
            let objects = self.open.iter().filter_map(|id| self.store.objects.get(id));
            let idle = objects.filter(|object| object.is_idle() && object.is_recorded());
            let Some(id) = idle.min_by_key(|object| object.turn).map(|o| o.id) else {
                return;
            };
            if let Some(object) = self.store.objects.get_mut(&id) {
                object.close(&mut self.orders);
            }
            self.open.remove(&id);
        }
    }

    /// Move a client on.
    fn pump(&mut self, stream: StreamId) {
        let Some(visitor) = self.visitors.get_mut(&stream) else {
            return;
        };
        let transfer = visitor.transfer.as_ref();
        let Some(id) = transfer.and_then(|transfer| transfer.object) else {
            return;
        };
        let Some(object) = self.store.objects.get_mut(&id) else {
            return;
        };
        let (pumped, handed) = visitor.pump(self.now, object, &mut self.orders);
        self.counters.bytes_served += handed;
        self.touched.insert(id);
        match pumped {
            Pumped::Done => self.part(stream, id),
            Pumped::Blocked
                if object.fill.rests(self.now.mono) || object.dead && !object.fill.is_active() =>
            {
                let why = self
                    .why
                    .get(&id)
                    .map_or("the file has changed", String::as_str);
                let answer = Answer::text(
                    StatusCode::BAD_GATEWAY,
                    format!("cannot fetch {}: {why}", object.url),
                );
                visitor.refuse(self.now, &answer, &mut self.orders.fx);
                self.part(stream, id);
            }
            Pumped::Blocked | Pumped::Going => {
                if let Some(transfer) = &visitor.transfer {
                    object.readers.insert(stream, transfer.left().clone());
                }
            }
        }
    }

    /// Whatever is due for an object.
    fn turn(&mut self, id: Id) {
        let now = self.now;
        let Some(object) = self.store.objects.get_mut(&id) else {
            return;
        };
        let (filling, received) = object.take_up(now, &mut self.orders);
        self.counters.bytes_from_origin += received;
        if received > 0 || filling != Filling::Going {
            self.eager.extend(object.readers.keys());
        }
        match filling {
            Filling::Going => {}
            Filling::Changed => return self.on_changed(id),
            Filling::Failed(why) => {
                let text = format!("{}: {why}", object.url);
                self.orders.fx.log(Level::Warn, text);
                self.why.insert(id, why);
            }
        }
        if !object.is_opening() {
            for slice in core::mem::take(&mut object.sealed) {
                self.store_slice(id, slice);
            }
        }
        let Some(object) = self.store.objects.get_mut(&id) else {
            return;
        };
        if !self.eager.is_empty() {
            // Clients first: what they need next tells what to ask for.
            self.touched.insert(id);
            return;
        }
        let slices = CACHE_MEMORY_SLICES / self.filling.len().max(1);
        let share = Share {
            slices: slices.clamp(2, CACHE_SLICES_IN_MEMORY),
            may_begin: self.filling.len() < CACHE_FILLS_MAX,
        };
        let waits = object.go_on(now, &self.reach, share, &mut self.rng, &mut self.orders);
        object.fill.close_spare(&mut self.orders.fx);
        if waits && !self.queue.contains(&id) {
            self.queue.push_back(id);
        }
        if object.has_news() {
            self.touched.insert(id);
        }
        object.trim(share.slices);
        let at_once = object.readers.is_empty() || self.stopping.is_some();
        object.record_soon(now, at_once, &self.store.dir, &mut self.orders);
        if object.is_idle() {
            self.why.remove(&id);
        }
        self.store.lend(id);
        self.store.sweep(id, &mut self.orders);
        self.store.relieve(&mut self.orders);
    }

    fn store_slice(&mut self, id: Id, slice: u32) {
        let Some(object) = self.store.objects.get(&id) else {
            return;
        };
        let (len, keeps) = (object.slice_len(slice), object.keeps && !object.dead);
        let fits = keeps && self.store.make_room(len, id, &mut self.orders);
        if let Some(object) = self.store.objects.get_mut(&id) {
            if fits {
                object.store(slice, &mut self.orders);
                self.store.recount(id);
            } else {
                object.thin = true;
                object.let_go(slice);
            }
        }
    }

    /// The origin has another version now: nobody is given two of them.
    fn on_changed(&mut self, id: Id) {
        let Some(object) = self.store.objects.get(&id) else {
            return;
        };
        let text = format!("{}: the file has changed at its origin", object.url);
        let readers: Vec<StreamId> = object.readers.keys().copied().collect();
        self.orders.fx.log(Level::Info, text);
        self.store.retire(id, &mut self.orders);
        for stream in readers {
            let Some(visitor) = self.visitors.get_mut(&stream) else {
                continue;
            };
            let begun = visitor.transfer.as_ref().is_some_and(Transfer::is_answered);
            if !begun && let Some(transfer) = visitor.transfer.take() {
                self.part(stream, id);
                let afresh = Transfer::new(transfer.request, transfer.url.clone());
                self.attach(stream, afresh);
            }
        }
        self.touched.insert(id);
    }
}
