//! A simulated disk: files in memory, durable only once synced, with faults that tests switch on.
//!
//! Decides what each [`DiskOp`] does and answers; the world decides when. Folders need not be made first
//! (see [`Disk::require_folders`]). Names are durable at once; bytes and lengths are after a sync.
//! Invariant: at most `capacity` bytes are in use, reserved ones included.

use super::bases::Bases;
use super::extents::Extents;
use super::spec::{DiskSpec, PowerCut};
use crate::ids::FileId;
use crate::limits::{SHELF_FILES_MAX, SMALL_FILE_MAX};
use crate::machine::{DiskDone, DiskError, DiskErrorKind, DiskOp, OpenHow};
use crate::rng::Rng;
use bytes::Bytes;
use core::time::Duration;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::string::String;
use std::vec::Vec;

/// What goes wrong on a disk; change it at any time through `World::disk`.
#[derive(Clone, Debug, Default)]
pub struct DiskFaults {
    /// After this many more bytes written or reserved, the disk is full.
    pub full_after: Option<u64>,
    pub read_only: bool,
    /// Every operation on these paths is denied.
    pub deny: BTreeSet<String>,
    /// One byte of so many reads in a million is wrong.
    pub corrupt_reads_ppm: u32,
    /// The next operations fail, one each.
    pub fail_next: VecDeque<DiskErrorKind>,
    /// Added to the latency of every operation.
    pub stall: Duration,
}

/// How much a disk was used since its world began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters {
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub syncs: u64,
}

pub struct Disk {
    spec: DiskSpec,
    pub faults: DiskFaults,
    pub counters: DiskCounters,
    bases: Rc<RefCell<Bases>>,
    folders: Option<BTreeSet<String>>,
    names: BTreeMap<String, u64>,
    nodes: BTreeMap<u64, Node>,
    open: BTreeMap<FileId, Handle>,
    last_node: u64,
    used: u64,
}

#[derive(Clone, Copy)]
pub(super) struct Handle {
    node: u64,
    writes: bool,
}

#[derive(Default)]
struct Node {
    now: Extents,
    stable: Extents,
    /// Writes since the last sync.
    dirty: Vec<(u64, u64)>,
    reserved: u64,
    modified_unix_us: i64,
    named: bool,
    handles: u32,
}

type Answer = Result<DiskDone, DiskError>;

impl Disk {
    pub(super) fn new(spec: DiskSpec, bases: Rc<RefCell<Bases>>) -> Self {
        Self {
            spec,
            faults: DiskFaults::default(),
            counters: DiskCounters::default(),
            bases,
            folders: None,
            names: BTreeMap::new(),
            nodes: BTreeMap::new(),
            open: BTreeMap::new(),
            last_node: 0,
            used: 0,
        }
    }

    // --- for tests

    /// Put a durable file there, replacing what was. The bytes become a base of the world: never copied.
    pub fn put(&mut self, path: &str, bytes: Bytes) {
        self.bases.borrow_mut().keep(&bytes);
        self.replace(path, bytes, 0);
    }

    /// The whole file as it is now.
    pub fn get(&self, path: &str) -> Option<Bytes> {
        let content = &self.nodes.get(self.names.get(path)?)?.now;
        content.read(0, content.len)
    }

    /// Part of the file as it is now; cheap where [`Disk::get`] would have to copy.
    pub fn get_range(&self, path: &str, offset: u64, len: u64) -> Option<Bytes> {
        self.nodes.get(self.names.get(path)?)?.now.read(offset, len)
    }

    /// Does the file hold exactly these bytes? (Without copying it whole.)
    pub fn holds(&self, path: &str, bytes: &[u8]) -> bool {
        let Some(node) = self.names.get(path).and_then(|n| self.nodes.get(n)) else {
            return false;
        };
        node.now.len == bytes.len() as u64
            && bytes.chunks(1 << 20).enumerate().all(|(i, chunk)| {
                let read = node.now.read((i as u64) << 20, chunk.len() as u64);
                // Shared bytes are the same bytes: no need to look at them a hundred times.
                read.is_some_and(|read| read.as_ptr() == chunk.as_ptr() || read == chunk)
            })
    }

    pub fn exists(&self, path: &str) -> bool {
        self.names.contains_key(path)
    }

    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    pub fn remove(&mut self, path: &str) -> bool {
        self.unlink(path)
    }

    /// Bytes in use, reserved ones included.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Files the machine holds open.
    pub fn open_files(&self) -> usize {
        self.open.len()
    }

    /// From now on files are only made in these folders, as on a real disk.
    pub fn require_folders(&mut self, folders: &[&str]) {
        self.folders = Some(folders.iter().map(|f| String::from(*f)).collect());
    }

    // --- for the world

    pub(super) fn spec(&self) -> &DiskSpec {
        &self.spec
    }

    pub(super) fn handle(&self, op: &DiskOp) -> Option<Handle> {
        let file = match op {
            DiskOp::Allocate { file, .. }
            | DiskOp::Read { file, .. }
            | DiskOp::Write { file, .. }
            | DiskOp::Sync { file }
            | DiskOp::Close { file } => file,
            DiskOp::Open { .. }
            | DiskOp::Rename { .. }
            | DiskOp::Remove { .. }
            | DiskOp::Stat { .. }
            | DiskOp::Load { .. }
            | DiskOp::Keep { .. }
            | DiskOp::List { .. }
            | DiskOp::Replace { .. } => return None,
        };
        self.open.get(file).copied()
    }

    /// The machine is gone: its files are closed, and after a power cut what was not synced may be gone.
    pub(super) fn crash(&mut self, power_cut: bool, rng: &mut Rng) {
        for handle in core::mem::take(&mut self.open).into_values() {
            self.release(handle.node);
        }
        if !power_cut || self.spec.power_cut == PowerCut::KeepsAll {
            return;
        }
        let bases = self.bases.borrow();
        for node in self.nodes.values_mut() {
            if self.spec.power_cut == PowerCut::KeepsSome {
                for (start, end) in core::mem::take(&mut node.dirty) {
                    if rng.below(2) == 0 {
                        node.stable.copy_from(&node.now, start, end, &bases);
                        node.stable.len = node.stable.len.max(end.min(node.now.len));
                    }
                }
            }
            node.dirty.clear();
            node.now = node.stable.clone();
            self.used -= node.reserved;
            node.reserved = node.now.len;
            self.used += node.reserved;
        }
    }

    /// Do it now. `handle` is the file as it was when the work was ordered.
    pub(super) fn run(
        &mut self,
        op: DiskOp,
        handle: Option<Handle>,
        unix_us: i64,
        rng: &mut Rng,
    ) -> Answer {
        if let Some(kind) = self.faults.fail_next.pop_front() {
            return fail(kind);
        }
        match op {
            DiskOp::Open { file, path, how } => self.open(file, &path, how),
            DiskOp::Read { offset, len, .. } => self.read(file(handle)?, offset, len, rng),
            DiskOp::Allocate { len, .. } => self.allocate(writable(handle)?, len, unix_us),
            DiskOp::Write { offset, chunks, .. } => {
                self.write(writable(handle)?, offset, chunks, unix_us)
            }
            DiskOp::Sync { .. } => self.sync(file(handle)?.node),
            DiskOp::Close { file: id } => {
                let handle = file(handle)?;
                self.open.remove(&id);
                self.release(handle.node);
                Ok(DiskDone::Done)
            }
            DiskOp::Rename { from, to, replace } => self.rename(&from, &to, replace),
            DiskOp::Remove { path } => {
                self.may_write(&path)?;
                let removed = self.unlink(&path);
                if removed {
                    Ok(DiskDone::Done)
                } else {
                    fail(DiskErrorKind::NotFound)
                }
            }
            DiskOp::Stat { path } => self.stat(&path),
            DiskOp::Load { path } => self.load(&path, rng),
            DiskOp::Keep { from, to } => self.keep(&from, &to, unix_us),
            DiskOp::List { path } => self.list(&path),
            DiskOp::Replace { path, bytes } => {
                self.may_write(&path)?;
                self.has_folder(&path)?;
                let held = self.names.get(&path).and_then(|n| self.nodes.get(n));
                let more = (bytes.len() as u64).saturating_sub(held.map_or(0, |n| n.reserved));
                self.may_grow(more)?;
                self.counters.written_bytes += bytes.len() as u64;
                self.counters.syncs += 1;
                self.replace(&path, bytes, unix_us);
                Ok(DiskDone::Done)
            }
        }
    }

    fn open(&mut self, file: FileId, path: &str, how: OpenHow) -> Answer {
        let found = self.names.get(path).copied();
        if how == OpenHow::Read {
            self.may_read(path)?;
        } else {
            self.may_write(path)?;
        }
        let id = match (found, how) {
            (Some(_), OpenHow::CreateNew) => return fail(DiskErrorKind::Exists),
            (None, OpenHow::Read) => return fail(DiskErrorKind::NotFound),
            (Some(id), _) => id,
            (None, _) => {
                self.has_folder(path)?;
                self.create(path)
            }
        };
        let handle = Handle {
            node: id,
            writes: how != OpenHow::Read,
        };
        if let Some(old) = self.open.insert(file, handle) {
            self.release(old.node);
        }
        let node = self.nodes.entry(id).or_default();
        node.handles += 1;
        Ok(DiskDone::Opened {
            len: node.now.len,
            modified_unix_us: node.modified_unix_us,
        })
    }

    fn read(&mut self, handle: Handle, offset: u64, len: u32, rng: &mut Rng) -> Answer {
        let node = self.nodes.entry(handle.node).or_default();
        let Some(bytes) = node.now.read(offset, len.into()) else {
            return fail(DiskErrorKind::Short);
        };
        self.counters.read_bytes += u64::from(len);
        Ok(DiskDone::Bytes(self.corrupt(bytes, rng)))
    }

    /// For a stream, at once.
    pub(super) fn read_now(
        &mut self,
        file: FileId,
        offset: u64,
        len: u32,
        rng: &mut Rng,
    ) -> Result<Bytes, DiskError> {
        if let Some(kind) = self.faults.fail_next.pop_front() {
            return fail(kind);
        }
        let handle = self.open.get(&file).copied();
        match self.read(self::file(handle)?, offset, len, rng)? {
            DiskDone::Bytes(bytes) => Ok(bytes),
            _ => fail(DiskErrorKind::Other),
        }
    }

    fn allocate(&mut self, handle: Handle, len: u64, unix_us: i64) -> Answer {
        self.may_change()?;
        let reserved = self.nodes.get(&handle.node).map_or(0, |n| n.reserved);
        self.may_grow(len.saturating_sub(reserved))?;
        let node = self.nodes.entry(handle.node).or_default();
        if len < node.now.len {
            node.now.truncate(len);
        }
        node.now.len = len;
        node.reserved = len;
        node.dirty.push((0, len));
        node.modified_unix_us = unix_us;
        self.used = self.used - reserved + len;
        Ok(DiskDone::Done)
    }

    fn write(&mut self, handle: Handle, offset: u64, chunks: Vec<Bytes>, unix_us: i64) -> Answer {
        self.may_change()?;
        let len: u64 = chunks.iter().map(|c| c.len() as u64).sum();
        let Some(end) = offset.checked_add(len) else {
            return fail(DiskErrorKind::Other);
        };
        let reserved = self.nodes.get(&handle.node).map_or(0, |n| n.reserved);
        self.may_grow(end.saturating_sub(reserved))?;
        let bases = self.bases.borrow();
        let node = self.nodes.entry(handle.node).or_default();
        self.used += end.saturating_sub(reserved);
        node.reserved = reserved.max(end);
        node.modified_unix_us = unix_us;
        node.dirty.push((offset, end));
        let mut at = offset;
        for chunk in chunks {
            let next = at + chunk.len() as u64;
            node.now.write(at, chunk, &bases);
            at = next;
        }
        self.counters.written_bytes += len;
        Ok(DiskDone::Done)
    }

    fn sync(&mut self, id: u64) -> Answer {
        self.counters.syncs += 1;
        let bases = self.bases.borrow();
        let node = self.nodes.entry(id).or_default();
        for (start, end) in core::mem::take(&mut node.dirty) {
            node.stable.copy_from(&node.now, start, end, &bases);
        }
        node.stable.truncate(node.now.len);
        Ok(DiskDone::Done)
    }

    fn rename(&mut self, from: &str, to: &str, replace: bool) -> Answer {
        self.may_write(from)?;
        self.may_write(to)?;
        let Some(id) = self.names.get(from).copied() else {
            return fail(DiskErrorKind::NotFound);
        };
        self.has_folder(to)?;
        if from == to {
            return Ok(DiskDone::Done);
        }
        if self.names.contains_key(to) {
            if !replace {
                return fail(DiskErrorKind::Exists);
            }
            self.unlink(to);
        }
        self.names.remove(from);
        self.names.insert(to.into(), id);
        Ok(DiskDone::Done)
    }

    fn stat(&self, path: &str) -> Answer {
        self.may_read(path)?;
        if let Some(node) = self.names.get(path).and_then(|n| self.nodes.get(n)) {
            return Ok(DiskDone::Found {
                len: node.now.len,
                modified_unix_us: node.modified_unix_us,
                is_dir: false,
            });
        }
        let folder = std::format!("{}/", path.trim_end_matches('/'));
        let named = self.folders.as_ref().is_some_and(|f| f.contains(path));
        let mut below = self.names.range(folder.clone()..);
        if named
            || below
                .next()
                .is_some_and(|(name, _)| name.starts_with(&folder))
        {
            return Ok(DiskDone::Found {
                len: 0,
                modified_unix_us: 0,
                is_dir: true,
            });
        }
        fail(DiskErrorKind::NotFound)
    }

    fn load(&mut self, path: &str, rng: &mut Rng) -> Answer {
        self.may_read(path)?;
        let Some(node) = self.names.get(path).and_then(|n| self.nodes.get(n)) else {
            return fail(DiskErrorKind::NotFound);
        };
        if node.now.len > SMALL_FILE_MAX as u64 {
            return fail(DiskErrorKind::Other);
        }
        let bytes = node.now.read(0, node.now.len).unwrap_or_default();
        self.counters.read_bytes += bytes.len() as u64;
        Ok(DiskDone::Bytes(self.corrupt(bytes, rng)))
    }

    fn replace(&mut self, path: &str, bytes: Bytes, unix_us: i64) {
        self.unlink(path);
        let id = self.create(path);
        let bases = self.bases.borrow();
        let node = self.nodes.entry(id).or_default();
        self.used += bytes.len() as u64;
        node.reserved = bytes.len() as u64;
        node.modified_unix_us = unix_us;
        node.now.write(0, bytes, &bases);
        node.stable = node.now.clone();
    }

    fn len(&self, path: &str) -> u64 {
        let node = self.names.get(path).and_then(|n| self.nodes.get(n));
        node.map_or(0, |n| n.now.len)
    }

    fn keep(&mut self, from: &str, to: &str, unix_us: i64) -> Answer {
        self.may_read(from)?;
        self.may_write(to)?;
        let Some(node) = self.names.get(from).and_then(|n| self.nodes.get(n)) else {
            return fail(DiskErrorKind::NotFound);
        };
        let (now, len) = (node.now.clone(), node.now.len);
        self.may_grow(len)?;
        self.unlink(to);
        let id = self.create(to);
        let node = self.nodes.entry(id).or_default();
        node.now = now;
        node.stable = node.now.clone();
        node.reserved = len;
        node.modified_unix_us = unix_us;
        self.used += len;
        self.counters.written_bytes += len;
        self.counters.syncs += 1;
        Ok(DiskDone::Done)
    }

    fn list(&self, path: &str) -> Answer {
        self.may_read(path)?;
        let folder = std::format!("{}/", path.trim_end_matches('/'));
        let below = self.names.range(folder.clone()..);
        let names = below.map_while(|(name, _)| name.strip_prefix(&folder));
        let files = names.filter(|name| !name.contains('/'));
        let files = files.take(SHELF_FILES_MAX).map(String::from);
        Ok(DiskDone::Names(files.collect()))
    }

    fn create(&mut self, path: &str) -> u64 {
        self.last_node += 1;
        self.names.insert(path.into(), self.last_node);
        let node = Node {
            named: true,
            ..Node::default()
        };
        self.nodes.insert(self.last_node, node);
        self.last_node
    }

    fn unlink(&mut self, path: &str) -> bool {
        let Some(id) = self.names.remove(path) else {
            return false;
        };
        self.nodes.entry(id).or_default().named = false;
        self.collect(id);
        true
    }

    fn release(&mut self, id: u64) {
        let node = self.nodes.entry(id).or_default();
        node.handles = node.handles.saturating_sub(1);
        self.collect(id);
    }

    /// A file without name and handles is gone.
    fn collect(&mut self, id: u64) {
        if self
            .nodes
            .get(&id)
            .is_some_and(|n| !n.named && n.handles == 0)
        {
            self.used -= self.nodes.remove(&id).map_or(0, |n| n.reserved);
        }
    }

    fn corrupt(&self, bytes: Bytes, rng: &mut Rng) -> Bytes {
        let ppm = self.faults.corrupt_reads_ppm;
        if ppm == 0 || bytes.is_empty() || rng.below(1_000_000) >= u64::from(ppm) {
            return bytes;
        }
        let mut wrong = bytes.to_vec();
        let at = rng.below(wrong.len() as u64) as usize;
        wrong[at] ^= 1 << rng.below(8);
        wrong.into()
    }

    fn may_read(&self, path: &str) -> Result<(), DiskError> {
        if self.faults.deny.contains(path) {
            return fail(DiskErrorKind::Denied);
        }
        Ok(())
    }

    fn may_write(&self, path: &str) -> Result<(), DiskError> {
        self.may_read(path)?;
        self.may_change()
    }

    fn may_change(&self) -> Result<(), DiskError> {
        if self.faults.read_only {
            return fail(DiskErrorKind::ReadOnly);
        }
        Ok(())
    }

    fn may_grow(&mut self, more: u64) -> Result<(), DiskError> {
        if self.used + more > self.spec.capacity_bytes {
            return fail(DiskErrorKind::Full);
        }
        if let Some(left) = &mut self.faults.full_after {
            match left.checked_sub(more) {
                Some(rest) => *left = rest,
                None => return fail(DiskErrorKind::Full),
            }
        }
        Ok(())
    }

    fn has_folder(&self, path: &str) -> Result<(), DiskError> {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        match &self.folders {
            Some(folders) if !parent.is_empty() && !folders.contains(parent) => {
                fail(DiskErrorKind::NotFound)
            }
            _ => Ok(()),
        }
    }
}

/// What an operating system says.
fn fail<T>(kind: DiskErrorKind) -> Result<T, DiskError> {
    let text = match kind {
        DiskErrorKind::NotFound => "no such file or directory",
        DiskErrorKind::Denied => "permission denied",
        DiskErrorKind::Exists => "file exists",
        DiskErrorKind::Full => "no space left on device",
        DiskErrorKind::ReadOnly => "read-only file system",
        DiskErrorKind::Short => "unexpected end of file",
        DiskErrorKind::Other => "input/output error",
    };
    Err(DiskError {
        kind,
        text: text.into(),
    })
}

fn file(handle: Option<Handle>) -> Result<Handle, DiskError> {
    handle.ok_or_else(|| DiskError {
        kind: DiskErrorKind::Other,
        text: "bad file descriptor".into(),
    })
}

fn writable(handle: Option<Handle>) -> Result<Handle, DiskError> {
    match file(handle)? {
        handle if handle.writes => Ok(handle),
        _ => fail(DiskErrorKind::Denied),
    }
}

/// How many bytes the device moves for this, and whether it must reach stable storage.
pub(super) fn weight(op: &DiskOp, disk: &Disk) -> (u64, u64, bool) {
    match op {
        DiskOp::Read { len, .. } => (u64::from(*len), 0, false),
        DiskOp::Write { chunks, .. } => (0, chunks.iter().map(|c| c.len() as u64).sum(), false),
        DiskOp::Replace { bytes, .. } => (0, bytes.len() as u64, true),
        DiskOp::Sync { .. } => (0, 0, true),
        DiskOp::Load { path } => (disk.len(path), 0, false),
        DiskOp::Keep { from, .. } => (disk.len(from), disk.len(from), true),
        DiskOp::Open { .. }
        | DiskOp::Allocate { .. }
        | DiskOp::Close { .. }
        | DiskOp::Rename { .. }
        | DiskOp::Remove { .. }
        | DiskOp::List { .. }
        | DiskOp::Stat { .. } => (0, 0, false),
    }
}
