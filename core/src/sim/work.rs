//! Disk and hash work of hosts: when it is done, and its one answer.
//!
//! A device moves bytes for one operation at a time; latency overlaps. The effect of an operation is
//! the moment of its answer, so a crash before it loses the operation whole.

use super::clock::{ns, transfer_ns};
use super::disk::weight;
use super::event::{At, DiskWork, What};
use super::world::World;
use crate::content::HashJob;
use crate::ids::OpId;
use crate::machine::{DiskOp, Input};
use bytes::Bytes;
use std::boxed::Box;

impl World {
    pub(super) fn order_disk(&mut self, h: usize, op: OpId, todo: DiskOp) {
        let now_ns = self.now_ns;
        self.order(h, op);
        let host = &mut self.hosts[h];
        let spec = *host.disk.spec();
        let (read, written, durable) = weight(&todo, &host.disk);
        let mut busy =
            transfer_ns(read, spec.read_bytes_per_s) + transfer_ns(written, spec.write_bytes_per_s);
        if durable {
            busy += ns(spec.sync);
        }
        host.disk_busy_ns = host.disk_busy_ns.max(now_ns) + busy;
        let mut done_ns = host.disk_busy_ns + ns(spec.latency) + ns(host.disk.faults.stall);
        if !spec.jitter.is_zero() {
            done_ns += host.rng.below(ns(spec.jitter));
        }
        let work = DiskWork {
            op,
            handle: host.disk.handle(&todo),
            todo,
        };
        let at = host.at();
        self.schedule(at.host, done_ns, What::Disk(at, Box::new(work)));
    }

    pub(super) fn on_disk(&mut self, at: At, work: DiskWork) {
        let DiskWork { op, todo, handle } = work;
        let host = &mut self.hosts[at.host as usize];
        let unix_us = host.clock.now(self.now_ns).wall.unix_us;
        let done = host.disk.run(todo, handle, unix_us, &mut host.rng);
        self.answer(at.host, op, Input::Disk { op, done });
    }

    pub(super) fn order_hash(&mut self, h: usize, op: OpId, job: HashJob) {
        let now_ns = self.now_ns;
        self.order(h, op);
        let host = &mut self.hosts[h];
        let len: usize = job.chunks.iter().map(Bytes::len).sum();
        host.hash_busy_ns =
            host.hash_busy_ns.max(now_ns) + transfer_ns(len as u64, host.hash.bytes_per_s);
        let done_ns = host.hash_busy_ns + ns(host.hash.latency);
        let at = host.at();
        self.schedule(at.host, done_ns, What::Hash(at, Box::new((op, job))));
    }

    pub(super) fn on_hash(&mut self, at: At, op: OpId, job: HashJob) {
        let done = self.bases.borrow_mut().run(job);
        self.answer(at.host, op, Input::Hashed { op, done });
    }

    fn order(&mut self, h: usize, op: OpId) {
        let host = &mut self.hosts[h];
        let new = host.ops.insert(op);
        assert!(
            new,
            "contract: {} orders work with the id {} twice",
            host.name, op.0
        );
    }

    fn answer(&mut self, host: u32, op: OpId, input: Input) {
        let held = self.hosts[host as usize].ops.remove(&op);
        assert!(held, "work {} is answered twice", op.0);
        self.handle(host, input);
    }
}
