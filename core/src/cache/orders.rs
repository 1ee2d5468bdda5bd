//! What the cache has asked of its disk and of the hash threads, and for whom.

use crate::content::{FlatHash, HashJob};
use crate::ids::OpId;
use crate::machine::{DiskOp, Effects};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

/// Names an object, or a question to an origin, within one run.
pub(super) type Id = u64;

#[derive(Debug)]
pub(super) enum Doing {
    List,
    Load {
        name: String,
    },
    Tidy,
    Open {
        object: Id,
    },
    /// Read a slice, to compare it with its checksum.
    Check {
        object: Id,
        slice: u32,
    },
    CheckHash {
        object: Id,
        slice: u32,
    },
    SliceHash {
        object: Id,
        slice: u32,
    },
    SliceWrite {
        object: Id,
        slice: u32,
    },
    Sync {
        object: Id,
        record: Bytes,
    },
    Record {
        object: Id,
    },
}

#[derive(Debug)]
pub(super) struct Orders {
    pub fx: Effects,
    doing: BTreeMap<OpId, Doing>,
}

impl Orders {
    pub(super) const fn new(fx: Effects) -> Self {
        Self {
            fx,
            doing: BTreeMap::new(),
        }
    }

    pub(super) fn disk(&mut self, todo: DiskOp, doing: Doing) -> OpId {
        let op = self.fx.disk(todo);
        self.doing.insert(op, doing);
        op
    }

    pub(super) fn hash(&mut self, chunks: Vec<Bytes>, doing: Doing) {
        let op = self.fx.hash(HashJob {
            chunks,
            leaves: false,
            flat: Some(FlatHash::default()),
        });
        self.doing.insert(op, doing);
    }

    pub(super) fn remove(&mut self, path: String) {
        self.disk(DiskOp::Remove { path }, Doing::Tidy);
    }

    /// What an answer is about, once.
    pub(super) fn answered(&mut self, op: OpId) -> Option<Doing> {
        self.fx.op_owner(op);
        self.doing.remove(&op)
    }
}
