//! Toy machines for both shells: one gives bytes to whoever connects, one takes and checks them.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test uses some of them, in its own place"
)]

use bytes::Bytes;
use dovetail_core::command::Reply;
use dovetail_core::content::HashJob;
use dovetail_core::ids::{CallId, FileId, OpId, StreamId};
use dovetail_core::limits::{GRANT_PER_STREAM, SEND_PER_STREAM};
use dovetail_core::machine::{
    CloseHow, DiskDone, DiskOp, Effects, Endpoint, Input, Lost, Machine, OpenHow, Output,
};
use dovetail_core::time::{Deadline, Now};
use std::collections::BTreeMap;

pub const PIECE: usize = 1 << 20;

const PIECES_IN_MEMORY: usize = 8;

/// The byte at each place of the toys' content.
pub fn pattern(offset: u64, len: usize) -> Bytes {
    let words = offset / 8..(offset + len as u64).div_ceil(8);
    let mut bytes = Vec::with_capacity(len + 16);
    for word in words {
        bytes.extend((word.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes());
    }
    let skip = (offset % 8) as usize;
    Bytes::from(bytes).slice(skip..skip + len)
}

/// Says that the machine is done: the observer breaks on any reply.
pub fn done(fx: &mut Effects) {
    fx.reply(CallId(0), Reply::Stopped);
}

/// Gives a file, or the same memory over and over, to the first who connects.
pub struct Giver {
    pub fx: Effects,
    pub total: u64,
    pub memory: Option<Bytes>,
    file: FileId,
    stream: Option<StreamId>,
    ordered: u64,
    read: BTreeMap<u64, Bytes>,
    reads: BTreeMap<OpId, u64>,
    queued: u64,
    pub sent: u64,
}

impl Giver {
    pub fn new(total: u64, memory: Option<Bytes>, path: Option<String>) -> Self {
        let mut fx = Effects::default();
        let file = fx.file();
        if let Some(path) = path {
            let how = OpenHow::Read;
            fx.disk(DiskOp::Open { file, path, how });
        }
        Self {
            fx,
            total,
            memory,
            file,
            stream: None,
            ordered: 0,
            read: BTreeMap::new(),
            reads: BTreeMap::new(),
            queued: 0,
            sent: 0,
        }
    }

    fn top_up(&mut self) {
        let Some(stream) = self.stream else { return };
        while self.ordered < self.total && self.ordered - self.sent < 4 * u64::from(SEND_PER_STREAM)
        {
            let len = (self.total - self.ordered).min(PIECE as u64);
            if let Some(memory) = &self.memory {
                self.read.insert(self.ordered, memory.slice(..len as usize));
            } else {
                let (file, offset, len) = (self.file, self.ordered, len as u32);
                let op = self.fx.disk(DiskOp::Read { file, offset, len });
                self.reads.insert(op, offset);
            }
            self.ordered += len;
        }
        while self.queued - self.sent < u64::from(SEND_PER_STREAM) {
            let Some(bytes) = self.read.remove(&self.queued) else {
                break;
            };
            self.queued += bytes.len() as u64;
            self.fx.send(stream, bytes);
        }
    }
}

impl Machine for Giver {
    fn handle(&mut self, _: Now, input: Input) {
        match input {
            Input::Accepted { stream, .. } => {
                self.fx.adopt(stream);
                self.stream = Some(stream);
                self.fx.grant(stream, 1);
            }
            Input::Disk { op, done } => match (self.reads.remove(&op), done) {
                (Some(offset), Ok(DiskDone::Bytes(bytes))) => {
                    self.read.insert(offset, bytes);
                }
                (_, Ok(_)) => {}
                (_, Err(error)) => panic!("{error:?}"),
            },
            Input::Sent { stream, len } => {
                self.sent += u64::from(len);
                if self.sent == self.total {
                    self.fx.close(stream, CloseHow::Flush);
                }
            }
            Input::Closed { why, .. } => {
                assert_eq!((why, self.sent), (Lost::Asked, self.total));
                done(&mut self.fx);
            }
            _ => {}
        }
        self.top_up();
    }

    fn poll(&mut self) -> Option<Output> {
        self.fx.poll()
    }

    fn deadline(&self) -> Option<Deadline> {
        None
    }
}

/// Takes everything, hashes it in pieces, and writes it to a file if it has one.
pub struct Taker {
    pub fx: Effects,
    pub check: bool,
    file: Option<FileId>,
    pub taken: u64,
    pub granted: u64,
    piece: Vec<Bytes>,
    filled: usize,
    hashing: BTreeMap<OpId, (u64, Vec<Bytes>)>,
    pub outstanding: usize,
    pub reads: u64,
    ended: bool,
    stream: Option<StreamId>,
}

impl Taker {
    pub fn new(from: Endpoint, path: Option<String>) -> Self {
        let mut fx = Effects::default();
        let file = path.map(|path| {
            let file = fx.file();
            let how = OpenHow::ReadWrite;
            fx.disk(DiskOp::Open { file, path, how });
            file
        });
        fx.connect(from);
        Self {
            fx,
            check: false,
            file,
            taken: 0,
            granted: 0,
            piece: Vec::new(),
            filled: 0,
            hashing: BTreeMap::new(),
            outstanding: usize::from(file.is_some()),
            reads: 0,
            ended: false,
            stream: None,
        }
    }

    fn received(&mut self, mut bytes: Bytes) {
        if self.check {
            assert!(bytes == pattern(self.taken, bytes.len()));
        }
        self.reads += 1;
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(PIECE - self.filled));
            self.filled += part.len();
            self.taken += part.len() as u64;
            self.piece.push(part);
            if self.filled == PIECE {
                self.complete();
            }
        }
    }

    fn complete(&mut self) {
        let chunks = std::mem::take(&mut self.piece);
        let offset = self.taken - self.filled as u64;
        self.filled = 0;
        let op = self.fx.hash(HashJob {
            chunks: chunks.clone(),
            leaves: true,
            flat: None,
        });
        self.outstanding += 1;
        self.hashing.insert(op, (offset, chunks));
    }
}

impl Machine for Taker {
    fn handle(&mut self, _: Now, input: Input) {
        match input {
            Input::Opened { stream, .. } => self.stream = Some(stream),
            Input::Received { bytes, .. } => {
                let len = bytes.len() as u32;
                assert!(
                    self.taken + u64::from(len) <= self.granted,
                    "beyond the credit"
                );
                self.received(bytes);
            }
            Input::Hashed { op, done } => {
                let (offset, chunks) = self.hashing.remove(&op).expect("asked");
                assert!(!done.leaves.is_empty());
                self.outstanding -= 1;
                if let Some(file) = self.file {
                    self.outstanding += 1;
                    self.fx.disk(DiskOp::Write {
                        file,
                        offset,
                        chunks,
                    });
                }
            }
            Input::Disk { done, .. } => {
                done.expect("the disk works");
                self.outstanding -= 1;
            }
            Input::Closed { why, .. } => {
                assert_eq!(why, Lost::Eof);
                self.ended = true;
                if self.filled > 0 {
                    self.complete();
                }
            }
            _ => {}
        }
        // Bounded: what is granted and what waits for hash and disk.
        if let Some(stream) = self.stream
            && self.outstanding < PIECES_IN_MEMORY
            && self.granted - self.taken <= u64::from(GRANT_PER_STREAM) / 2
        {
            let bytes = GRANT_PER_STREAM - (self.granted - self.taken) as u32;
            self.granted += u64::from(bytes);
            self.fx.grant(stream, bytes);
        }
        if self.ended && self.outstanding == 0 {
            done(&mut self.fx);
        }
    }

    fn poll(&mut self) -> Option<Output> {
        self.fx.poll()
    }

    fn deadline(&self) -> Option<Deadline> {
        None
    }
}
