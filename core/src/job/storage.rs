//! One content's file on disk: the unfinished file beside the output, its resume file, the rename at the end.
//!
//! Decides: when written pieces are synced and recorded, and the order that makes a crash harmless: data,
//! sync, record. A piece counts as durable only after the record that names it is itself durable.
//!
//! Never does: verification (its caller writes only what is verified), picking.
//!
//! Invariants: `durable` ⊆ pieces that were synced; the output appears under its name only complete.
//!
//! Tested in `core/tests/resume.rs` with power cuts at every step.

use super::assembly::Slices;
use super::resume::Resume;
use crate::content::{Bitfield, Geometry};
use crate::failure::{Failure, FailureKind};
use crate::ids::{FileId, OpId};
use crate::limits::{SYNC_AFTER, SYNC_AFTER_BYTES};
use crate::machine::{DiskDone, DiskError, DiskErrorKind, DiskOp, Effects, OpenHow};
use crate::time::{Deadline, Mono};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use bytes::Bytes;

/// The file of one content.
#[derive(Debug)]
pub struct Storage {
    paths: Paths,
    overwrite: bool,
    file: Option<FileId>,
    ops: BTreeMap<OpId, Doing>,
    found: Option<Resume>,
    /// What the resume file says besides the pieces; set once the content is known.
    identity: Option<Resume>,
    /// Written, not yet synced.
    written: Vec<u32>,
    written_bytes: u64,
    written_since: Option<Mono>,
    recording: bool,
    finishing: bool,
    /// This run made the unfinished file and has written nothing to it.
    bare: bool,
}

#[derive(Debug)]
struct Paths {
    output: String,
    part: String,
    state: String,
}

#[derive(Debug)]
enum Doing {
    StatOutput,
    LoadState,
    Open,
    Allocate,
    Read {
        token: u64,
    },
    Write {
        piece: u32,
        len: u64,
    },
    WriteAt {
        len: u64,
    },
    Sync {
        pieces: Vec<u32>,
    },
    Record,
    LastSync,
    Rename,
    /// Remove the resume file: the output is complete.
    Forget,
    Tidy,
}

/// What the parent hears.
#[derive(Debug)]
pub enum StorageEvent {
    /// Open; what an earlier run left, if anything.
    Opened {
        resume: Option<Resume>,
        len: u64,
    },
    /// Space is reserved.
    Allocated,
    Read {
        token: u64,
        result: Result<Bytes, DiskError>,
    },
    Written {
        piece: u32,
    },
    /// Bytes of a stream without known length are written.
    WrittenAt {
        len: u64,
    },
    /// The output is complete under its own name.
    Finished,
    Failed(Failure),
}

impl Storage {
    /// For a download to `output`. Looks at what is there, then answers `Opened` or `Failed`.
    pub fn download(output: &str, overwrite: bool, fx: &mut Effects) -> Self {
        let mut storage = Self::new(output, overwrite);
        storage.order(
            DiskOp::Stat {
                path: output.to_string(),
            },
            Doing::StatOutput,
            fx,
        );
        storage
    }

    /// For a complete file that is only read.
    pub fn complete(path: &str, fx: &mut Effects) -> Self {
        let mut storage = Self::new(path, false);
        storage.paths.part = path.to_string();
        storage.open(OpenHow::Read, fx);
        storage
    }

    fn new(output: &str, overwrite: bool) -> Self {
        let paths = Paths {
            output: output.to_string(),
            part: format!("{output}.dovetail-part"),
            state: format!("{output}.dovetail-state"),
        };
        Self {
            paths,
            overwrite,
            file: None,
            ops: BTreeMap::new(),
            found: None,
            identity: None,
            written: Vec::new(),
            written_bytes: 0,
            written_since: None,
            recording: false,
            finishing: false,
            bare: false,
        }
    }

    /// The unfinished file's path, for messages.
    pub fn part_path(&self) -> &str {
        &self.paths.part
    }

    /// Which content this is, and which pieces of it are known to be durable: the base of every later record.
    pub fn identify(&mut self, identity: Resume) {
        self.identity = Some(identity);
    }

    /// This piece is not good after all.
    pub fn forget(&mut self, piece: u32) {
        self.written.retain(|p| *p != piece);
        if let Some(identity) = &mut self.identity {
            identity.have.remove(piece);
        }
    }

    pub fn allocate(&mut self, geometry: &Geometry, fx: &mut Effects) {
        if let Some(file) = self.file {
            self.order(
                DiskOp::Allocate {
                    file,
                    len: geometry.length(),
                },
                Doing::Allocate,
                fx,
            );
        }
    }

    pub fn read(&mut self, token: u64, offset: u64, len: u32, fx: &mut Effects) {
        if let Some(file) = self.file {
            self.order(
                DiskOp::Read { file, offset, len },
                Doing::Read { token },
                fx,
            );
        }
    }

    /// Write a verified piece.
    pub fn write(&mut self, piece: u32, offset: u64, chunks: Slices, fx: &mut Effects) {
        let len = chunks.iter().map(|c| c.len() as u64).sum();
        self.bare = false;
        if let Some(file) = self.file {
            self.order(
                DiskOp::Write {
                    file,
                    offset,
                    chunks,
                },
                Doing::Write { piece, len },
                fx,
            );
        }
    }

    /// Write bytes of a stream whose length is not known: they are never resumed.
    pub fn write_at(&mut self, offset: u64, bytes: Bytes, fx: &mut Effects) {
        let len = bytes.len() as u64;
        self.bare = false;
        if let Some(file) = self.file {
            let chunks = alloc::vec![bytes];
            self.order(
                DiskOp::Write {
                    file,
                    offset,
                    chunks,
                },
                Doing::WriteAt { len },
                fx,
            );
        }
    }

    /// Everything is written: make it durable and give it its name.
    pub fn finish(&mut self, fx: &mut Effects) {
        if let (Some(file), false) = (self.file, self.finishing) {
            self.finishing = true;
            self.bare = false;
            // A record under way must not land after the resume file was removed.
            if !self.recording {
                self.order(DiskOp::Sync { file }, Doing::LastSync, fx);
            }
        }
    }

    /// Begin again from nothing (the origin's file changed).
    pub fn restart(&mut self) {
        (self.identity, self.found) = (None, None);
        self.written.clear();
        (self.written_bytes, self.written_since) = (0, None);
    }

    /// Sync and record what is written now, without waiting for the usual moment.
    pub fn record_soon(&mut self, fx: &mut Effects) {
        if let (Some(file), false, false) = (
            self.file,
            self.written.is_empty(),
            self.recording || self.finishing,
        ) {
            let pieces = core::mem::take(&mut self.written);
            (self.written_bytes, self.written_since) = (0, None);
            self.recording = true;
            self.order(DiskOp::Sync { file }, Doing::Sync { pieces }, fx);
        }
    }

    /// Nothing that can be recorded is written or being written and waits for that.
    pub fn is_recorded(&self) -> bool {
        let writing = |doing: &Doing| matches!(doing, Doing::Write { .. });
        let waiting = self.identity.is_some() && !self.written.is_empty();
        !waiting && !self.recording && !self.ops.values().any(writing)
    }

    /// No operation is under way.
    pub fn is_idle(&self) -> bool {
        self.ops.is_empty()
    }

    /// An unfinished file with nothing in it goes, too.
    pub fn close(&mut self, fx: &mut Effects) {
        if let Some(file) = self.file.take() {
            self.order(DiskOp::Close { file }, Doing::Tidy, fx);
            if core::mem::take(&mut self.bare) {
                let path = self.paths.part.clone();
                self.order(DiskOp::Remove { path }, Doing::Tidy, fx);
            }
        }
    }

    pub fn on_tick(&mut self, now: Mono, fx: &mut Effects) {
        if self.deadline().is_some_and(|d| d.at <= now) {
            self.record_soon(fx);
        }
    }

    pub fn deadline(&self) -> Option<Deadline> {
        let since = self
            .written_since
            .filter(|_| self.file.is_some() && self.identity.is_some())
            .filter(|_| !self.recording && !self.finishing)?;
        Some(Deadline::new(since + SYNC_AFTER, "record written pieces"))
    }

    /// The answer to one of this storage's disk operations.
    pub fn on_disk(
        &mut self,
        now: Mono,
        op: OpId,
        done: Result<DiskDone, DiskError>,
        fx: &mut Effects,
    ) -> Option<StorageEvent> {
        let doing = self.ops.remove(&op)?;
        match (doing, done) {
            (Doing::StatOutput, done) => self.on_stat(done, fx),
            (Doing::LoadState, done) => {
                self.found = done.ok().and_then(|d| match d {
                    DiskDone::Bytes(bytes) => Resume::parse(&bytes),
                    _ => None,
                });
                self.open(OpenHow::ReadWrite, fx);
                None
            }
            (Doing::Open, Ok(DiskDone::Opened { len, .. })) => {
                self.bare = len == 0 && self.paths.part != self.paths.output;
                let resume = self.found.take().filter(|r| r.geometry.length() == len);
                Some(StorageEvent::Opened { resume, len })
            }
            (Doing::Allocate, Ok(_)) => Some(StorageEvent::Allocated),
            (Doing::Read { token }, Ok(DiskDone::Bytes(bytes))) => Some(StorageEvent::Read {
                token,
                result: Ok(bytes),
            }),
            (Doing::Read { token }, Err(error)) => Some(StorageEvent::Read {
                token,
                result: Err(error),
            }),
            (Doing::Write { piece, len }, Ok(_)) => {
                self.on_written(now, piece, len, fx);
                Some(StorageEvent::Written { piece })
            }
            (Doing::WriteAt { len }, Ok(_)) => Some(StorageEvent::WrittenAt { len }),
            (Doing::Sync { pieces }, Ok(_)) => {
                self.record(&pieces, fx);
                None
            }
            (Doing::Record, Ok(_)) => {
                self.on_recorded(fx);
                None
            }
            (Doing::LastSync, Ok(_)) => {
                let (from, to) = (self.paths.part.clone(), self.paths.output.clone());
                self.order(
                    DiskOp::Rename {
                        from,
                        to,
                        replace: self.overwrite,
                    },
                    Doing::Rename,
                    fx,
                );
                None
            }
            (Doing::Rename, Ok(_)) => {
                // The whole file is durable: no record is needed any more.
                self.written.clear();
                (self.written_bytes, self.written_since) = (0, None);
                let path = self.paths.state.clone();
                self.order(DiskOp::Remove { path }, Doing::Forget, fx);
                None
            }
            (Doing::Forget, _) => Some(StorageEvent::Finished),
            (Doing::Tidy, _) => None,
            (doing, Err(error)) => {
                use Doing::{LastSync, Record, Rename, Sync};
                if matches!(doing, Sync { .. } | Record) {
                    self.recording = false;
                }
                if matches!(doing, Sync { .. } | Record | LastSync | Rename) {
                    // What is written can still be recorded, for the next time.
                    self.finishing = false;
                }
                Some(StorageEvent::Failed(self.failure(&doing, &error)))
            }
            (doing, Ok(odd)) => {
                let error = DiskError {
                    kind: DiskErrorKind::Other,
                    text: format!("unexpected answer {odd:?}"),
                };
                Some(StorageEvent::Failed(self.failure(&doing, &error)))
            }
        }
    }

    fn on_stat(
        &mut self,
        done: Result<DiskDone, DiskError>,
        fx: &mut Effects,
    ) -> Option<StorageEvent> {
        match done {
            Ok(DiskDone::Found { is_dir: true, .. }) => Some(StorageEvent::Failed(
                Failure::new(FailureKind::Usage, self.cannot("write"), "it is a folder")
                    .remedy("name a file with -o"),
            )),
            Ok(_) if !self.overwrite => Some(StorageEvent::Failed(self.exists())),
            _ => {
                let path = self.paths.state.clone();
                self.order(DiskOp::Load { path }, Doing::LoadState, fx);
                None
            }
        }
    }

    fn on_written(&mut self, now: Mono, piece: u32, len: u64, fx: &mut Effects) {
        self.written.push(piece);
        self.written_bytes += len;
        self.written_since.get_or_insert(now);
        if self.written_bytes >= SYNC_AFTER_BYTES && self.identity.is_some() {
            self.record_soon(fx);
        }
    }

    fn record(&mut self, pieces: &[u32], fx: &mut Effects) {
        let Some(identity) = &mut self.identity else {
            return self.on_recorded(fx);
        };
        for piece in pieces {
            identity.have.insert(*piece);
        }
        let bytes = identity.encode();
        self.order(
            DiskOp::Replace {
                path: self.paths.state.clone(),
                bytes,
            },
            Doing::Record,
            fx,
        );
    }

    fn on_recorded(&mut self, fx: &mut Effects) {
        self.recording = false;
        if let (Some(file), true) = (self.file, self.finishing) {
            self.order(DiskOp::Sync { file }, Doing::LastSync, fx);
        }
    }

    fn open(&mut self, how: OpenHow, fx: &mut Effects) {
        let file = fx.file();
        self.file = Some(file);
        self.order(
            DiskOp::Open {
                file,
                path: self.paths.part.clone(),
                how,
            },
            Doing::Open,
            fx,
        );
    }

    fn order(&mut self, todo: DiskOp, doing: Doing, fx: &mut Effects) {
        self.ops.insert(fx.disk(todo), doing);
    }

    fn cannot(&self, verb: &str) -> String {
        format!("cannot {verb} {}", self.paths.output)
    }

    fn exists(&self) -> Failure {
        Failure::new(FailureKind::Exists, self.cannot("write"), "the file exists")
            .remedy("choose another name with -o, or replace it with --overwrite")
    }

    fn failure(&self, doing: &Doing, error: &DiskError) -> Failure {
        let verb = match doing {
            Doing::Open if self.paths.part == self.paths.output => "read",
            Doing::Read { .. } => "read",
            Doing::Allocate => "reserve space for",
            _ => "write",
        };
        let remedy = match error.kind {
            DiskErrorKind::Full => {
                "free some space or choose another folder with -o; what is here is kept and the download resumes"
            }
            DiskErrorKind::Denied | DiskErrorKind::ReadOnly => {
                "choose a folder you may write to with -o"
            }
            DiskErrorKind::NotFound if verb == "write" => {
                "make the folder first, or choose another with -o"
            }
            DiskErrorKind::Exists => return self.exists(),
            _ => "",
        };
        Failure::new(FailureKind::Disk, self.cannot(verb), error.text.clone()).remedy(remedy)
    }
}

/// Pieces of `have` as a fresh identity for [`Storage::identify`].
pub(super) fn identity(geometry: Geometry, have: Bitfield) -> Resume {
    Resume {
        geometry,
        root: None,
        url: None,
        validator: None,
        have,
    }
}
