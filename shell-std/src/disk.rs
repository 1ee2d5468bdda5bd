//! Files: one operation of the machine is one call here. Workers run it, next to hashing.
//!
//! Decides nothing but how the operating system is asked. Never waits for another operation: those on one
//! file may run at the same time. Tests: at the foot of this file, `tests/e2e.rs`.

use crate::file_part::FilePart;
use crate::host::{Buffers, words};
use crate::tls::CHUNKS_PER_WRITE;
use bytes::{Buf as _, Bytes};
use dovetail_core::content::HashJob;
use dovetail_core::ids::{FileId, OpId};
use dovetail_core::limits::{SHELF_FILES_MAX, SMALL_FILE_MAX};
use dovetail_core::machine::{DiskDone, DiskError, DiskErrorKind, DiskOp, Input, Lost, OpenHow};
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{File, Permissions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;

/// The open files of one run.
#[derive(Debug, Default)]
pub struct Files {
    open: RwLock<BTreeMap<FileId, Arc<File>>>,
    buffers: Buffers,
    /// Two replacements share a temporary name if they share a target.
    replacing: Mutex<()>,
}

/// Work for a thread of its own: it may block or take its time.
#[derive(Debug)]
pub enum Work {
    Disk(OpId, DiskOp),
    Hash(OpId, HashJob),
}

impl Work {
    fn writes(&self) -> Option<FileId> {
        match self {
            Self::Disk(_, DiskOp::Write { file, .. }) => Some(*file),
            _ => None,
        }
    }

    /// Do it, on this thread.
    pub fn run(self, files: &Files) -> Input {
        match self {
            Self::Disk(op, todo) => Input::Disk {
                op,
                done: execute(files, todo),
            },
            Self::Hash(op, job) => Input::Hashed {
                op,
                done: job.run(),
            },
        }
    }
}

/// Threads that run [`Work`] and bring its answers.
#[derive(Debug)]
pub struct Workers {
    todo: Arc<Todo>,
    files: Arc<Files>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Todo {
    lanes: Mutex<Lanes>,
    ready: Condvar,
}

/// What waits for a thread, in the order it was given; writes to one file one after the other, for the
/// kernel locks the file around each, and threads that wait there could do something else.
#[derive(Debug, Default)]
struct Lanes {
    waiting: VecDeque<Work>,
    writing: BTreeSet<FileId>,
    is_over: bool,
}

impl Workers {
    /// Start the threads; `answer` is called on them.
    ///
    /// # Errors
    ///
    /// No thread can be started.
    pub fn start(
        count: usize,
        answer: impl Fn(Input) + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let mut workers = Self {
            todo: Arc::default(),
            files: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..count {
            let (todo, files) = (Arc::clone(&workers.todo), Arc::clone(&workers.files));
            let answer = answer.clone();
            let work = move || {
                let mut written = None;
                while let Some(work) = todo.next(written) {
                    written = work.writes();
                    answer(work.run(&files));
                }
            };
            let thread = std::thread::Builder::new().name("dovetail-work".into());
            workers.threads.push(thread.spawn(work)?);
        }
        Ok(workers)
    }

    /// A part of an open file; it stays readable when the file is closed.
    ///
    /// # Errors
    ///
    /// No such file is open.
    pub fn part(&self, file: FileId, offset: u64, len: u32) -> Result<FilePart, Lost> {
        let named = self.files.named(file);
        Ok(FilePart {
            file: named.map_err(|error| Lost::File(words(&error)))?,
            offset,
            len: len as usize,
        })
    }

    /// Have it done.
    pub fn submit(&self, work: Work) {
        self.todo.lock().waiting.push_back(work);
        self.todo.ready.notify_one();
    }
}

impl Drop for Workers {
    /// What has begun is finished; the rest is dropped.
    fn drop(&mut self) {
        let mut lanes = self.todo.lock();
        lanes.waiting.clear();
        lanes.is_over = true;
        drop(lanes);
        self.todo.ready.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Todo {
    /// The next work for a thread that has just written a file, perhaps; `None` when it is over.
    fn next(&self, written: Option<FileId>) -> Option<Work> {
        let mut lanes = self.lock();
        if let Some(file) = written {
            lanes.writing.remove(&file);
        }
        loop {
            if lanes.is_over {
                return None;
            }
            if let Some(work) = lanes.next() {
                // A write that waited for this thread's may be next in line.
                if written.is_some() && !lanes.waiting.is_empty() {
                    self.ready.notify_one();
                }
                return Some(work);
            }
            lanes = self
                .ready
                .wait(lanes)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lanes {
    fn next(&mut self) -> Option<Work> {
        let is_free = |work: &Work| {
            work.writes()
                .is_none_or(|file| !self.writing.contains(&file))
        };
        let at = self.waiting.iter().position(is_free)?;
        let work = self.waiting.remove(at)?;
        self.writing.extend(work.writes());
        Some(work)
    }
}

/// Carry out one disk operation, blocking.
///
/// # Errors
///
/// What the operating system said.
pub fn execute(files: &Files, todo: DiskOp) -> Result<DiskDone, DiskError> {
    attempt(files, todo).map_err(|error| DiskError {
        kind: kind(&error),
        text: words(&error),
    })
}

fn attempt(files: &Files, todo: DiskOp) -> io::Result<DiskDone> {
    match todo {
        DiskOp::Open { file, path, how } => open(files, file, &path, how),
        DiskOp::Allocate { file, len } => allocate(files.named(file)?.as_ref(), len),
        DiskOp::Read { file, offset, len } => read(files, file, offset, len),
        DiskOp::Write {
            file,
            offset,
            chunks,
        } => write(files.named(file)?.as_ref(), offset, chunks),
        DiskOp::Sync { file } => sync(files.named(file)?.as_ref()),
        DiskOp::Close { file } => {
            let mut open = files.open.write().unwrap_or_else(PoisonError::into_inner);
            open.remove(&file);
            Ok(DiskDone::Done)
        }
        DiskOp::Rename { from, to, replace } => rename(&from, &to, replace),
        DiskOp::Remove { path } => {
            std::fs::remove_file(path)?;
            Ok(DiskDone::Done)
        }
        DiskOp::Stat { path } => stat(&path),
        DiskOp::Load { path } => load(&path),
        DiskOp::Keep { from, to } => keep(&from, &to),
        DiskOp::List { path } => list(&path),
        DiskOp::Replace { path, bytes } => {
            let _alone = files.replacing.lock();
            replace(&path, &bytes)
        }
        _ => Err(Errno::NOSYS.into()),
    }
}

fn kind(error: &io::Error) -> DiskErrorKind {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR) => DiskErrorKind::NotFound,
        Some(Errno::ACCESS | Errno::PERM) => DiskErrorKind::Denied,
        Some(Errno::EXIST) => DiskErrorKind::Exists,
        Some(Errno::NOSPC | Errno::DQUOT) => DiskErrorKind::Full,
        Some(Errno::ROFS) => DiskErrorKind::ReadOnly,
        None if error.kind() == io::ErrorKind::UnexpectedEof => DiskErrorKind::Short,
        _ => DiskErrorKind::Other,
    }
}

impl Files {
    fn named(&self, file: FileId) -> io::Result<Arc<File>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.get(&file).cloned().ok_or_else(|| Errno::BADF.into())
    }
}

fn open(files: &Files, file: FileId, path: &str, how: OpenHow) -> io::Result<DiskDone> {
    let mut options = File::options();
    match how {
        OpenHow::Read => options.read(true),
        OpenHow::ReadWrite => options.read(true).write(true).create(true).truncate(false),
        OpenHow::CreateNew => options.read(true).write(true).create_new(true),
    };
    let opened = options.open(path)?;
    let found = opened.metadata()?;
    if found.is_dir() {
        return Err(Errno::ISDIR.into());
    }
    let mut open = files.open.write().unwrap_or_else(PoisonError::into_inner);
    open.insert(file, Arc::new(opened));
    Ok(DiskDone::Opened {
        len: found.len(),
        modified_unix_us: modified_unix_us(&found),
    })
}

/// Space for all of it where the file system can reserve it; in any case its length.
fn allocate(file: &File, len: u64) -> io::Result<DiskDone> {
    if len > 0 {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    file.set_len(len)?;
    Ok(DiskDone::Done)
}

fn read(files: &Files, file: FileId, offset: u64, len: u32) -> io::Result<DiskDone> {
    let file = files.named(file)?;
    let len = len as usize;
    let mut buffer = files.buffers.take(len);
    let mut filled = 0;
    while filled < len {
        let room = &mut buffer.room(len)[filled..];
        match rustix::io::pread(&*file, room, offset + filled as u64) {
            Ok(0) => return Err(short()),
            Ok(n) => filled += n,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(DiskDone::Bytes(buffer.filled(len)))
}

fn write(file: &File, offset: u64, chunks: Vec<Bytes>) -> io::Result<DiskDone> {
    let mut chunks = VecDeque::from(chunks);
    let mut offset = offset;
    while !chunks.is_empty() {
        let next = chunks.iter().take(CHUNKS_PER_WRITE);
        let slices: Vec<_> = next.map(|chunk| IoSlice::new(chunk)).collect();
        let mut written = match rustix::io::pwritev(file, &slices, offset) {
            Ok(n) => n,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if written == 0 && slices.iter().any(|slice| !slice.is_empty()) {
            return Err(Errno::NOSPC.into());
        }
        offset += written as u64;
        while let Some(front) = chunks.front_mut() {
            if front.len() > written {
                front.advance(written);
                break;
            }
            written -= front.len();
            chunks.pop_front();
        }
    }
    Ok(DiskDone::Done)
}

fn sync(file: &File) -> io::Result<DiskDone> {
    // Includes the length, as far as it is needed to find the data again.
    file.sync_data()?;
    Ok(DiskDone::Done)
}

fn rename(from: &str, to: &str, replace: bool) -> io::Result<DiskDone> {
    if replace {
        std::fs::rename(from, to)?;
    } else {
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                rustix::fs::linkat(CWD, from, CWD, to, AtFlags::empty())?;
                rustix::fs::unlinkat(CWD, from, AtFlags::empty())?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(DiskDone::Done)
}

fn stat(path: &str) -> io::Result<DiskDone> {
    let found = std::fs::metadata(path)?;
    Ok(DiskDone::Found {
        len: found.len(),
        modified_unix_us: modified_unix_us(&found),
        is_dir: found.is_dir(),
    })
}

fn load(path: &str) -> io::Result<DiskDone> {
    use std::io::Read as _;
    let file = File::open(path)?;
    let found = file.metadata()?;
    if found.is_dir() {
        return Err(Errno::ISDIR.into());
    }
    let mut bytes = Vec::new();
    bytes.reserve_exact(usize::try_from(found.len()).map_or(0, |len| len.min(SMALL_FILE_MAX)));
    file.take(SMALL_FILE_MAX as u64 + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() > SMALL_FILE_MAX {
        return Err(Errno::FBIG.into());
    }
    Ok(DiskDone::Bytes(bytes.into()))
}

fn replace(path: &str, bytes: &Bytes) -> io::Result<DiskDone> {
    use std::io::Write as _;
    let beside = format!("{path}.new");
    let made = || -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        let mut file = File::from(rustix::fs::open(beside.as_str(), flags, mode)?);
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        Ok(())
    };
    if let Err(error) = made() {
        let _ = std::fs::remove_file(&beside);
        return Err(error);
    }
    sync_folder(path)?;
    Ok(DiskDone::Done)
}

/// `std::fs::copy` has the kernel copy, which shares the blocks where the file system can.
fn keep(from: &str, to: &str) -> io::Result<DiskDone> {
    let beside = format!("{to}.new");
    let made = || -> io::Result<()> {
        if let Some(folder) = Path::new(to).parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::copy(from, &beside)?;
        // For writing: some file systems sync nothing through a file opened for reading.
        let copy = File::options().write(true).open(&beside)?;
        copy.set_permissions(Permissions::from_mode(0o600))?;
        copy.sync_all()?;
        std::fs::rename(&beside, to)
    };
    if let Err(error) = made() {
        let _ = std::fs::remove_file(&beside);
        return Err(error);
    }
    sync_folder(to)?;
    Ok(DiskDone::Done)
}

fn list(path: &str) -> io::Result<DiskDone> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(DiskDone::Names(Vec::new()));
        }
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries.take(SHELF_FILES_MAX) {
        let entry = entry?;
        if let (true, Ok(name)) = (
            entry.file_type()?.is_file(),
            entry.file_name().into_string(),
        ) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(DiskDone::Names(names))
}

/// A new name is durable once its folder is.
fn sync_folder(path: &str) -> io::Result<()> {
    let folder = match Path::new(path).parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Some file systems cannot sync a folder; some folders may be used but not read.
        Err(error)
            if !matches!(
                Errno::from_io_error(&error),
                Some(Errno::INVAL | Errno::ACCESS | Errno::OPNOTSUPP)
            ) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

fn modified_unix_us(found: &std::fs::Metadata) -> i64 {
    found
        .mtime()
        .saturating_mul(1_000_000)
        .saturating_add(found.mtime_nsec() / 1000)
}

fn short() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the file is shorter than it should be",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("dovetail-disk-{name}-{}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn path(&self, name: &str) -> String {
            self.0.join(name).to_str().unwrap().to_owned()
        }

        fn with(&self, name: &str, text: &str) -> String {
            std::fs::write(self.path(name), text).unwrap();
            self.path(name)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn run(todo: DiskOp) -> Result<DiskDone, (DiskErrorKind, String)> {
        execute(&Files::default(), todo).map_err(|error| (error.kind, error.text))
    }

    #[test]
    fn what_is_missing_is_not_found() {
        let folder = Folder::new("missing");
        let not_found = Err((
            DiskErrorKind::NotFound,
            "no such file or directory".to_owned(),
        ));
        let path = folder.path("nothing");
        let load = DiskOp::Load { path: path.clone() };
        assert_eq!(run(load), not_found);
        let stat = DiskOp::Stat { path: path.clone() };
        assert_eq!(run(stat), not_found);
        let remove = DiskOp::Remove { path: path.clone() };
        assert_eq!(run(remove), not_found);
        let how = OpenHow::Read;
        let file = FileId(1);
        assert_eq!(run(DiskOp::Open { file, path, how }), not_found);
    }

    #[test]
    fn what_is_there_is_kept() {
        let folder = Folder::new("kept");
        let (old, new) = (folder.with("old", "old"), folder.with("new", "new"));
        let exists = Err((DiskErrorKind::Exists, "file exists".to_owned()));
        let (file, how) = (FileId(1), OpenHow::CreateNew);
        let path = old.clone();
        assert_eq!(run(DiskOp::Open { file, path, how }), exists);
        let rename = |replace| DiskOp::Rename {
            from: new.clone(),
            to: old.clone(),
            replace,
        };
        assert_eq!(run(rename(false)), exists);
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "old");
        assert_eq!(run(rename(true)), Ok(DiskDone::Done));
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "new");
        assert!(!Path::new(&new).exists());
    }

    #[test]
    fn a_small_file_is_replaced_as_a_whole() {
        let folder = Folder::new("replace");
        let path = folder.path("state");
        for text in ["first", "second, longer", "3rd"] {
            let bytes = Bytes::from_static(text.as_bytes());
            let replace = DiskOp::Replace {
                path: path.clone(),
                bytes: bytes.clone(),
            };
            assert_eq!(run(replace), Ok(DiskDone::Done));
            let load = DiskOp::Load { path: path.clone() };
            assert_eq!(run(load), Ok(DiskDone::Bytes(bytes)));
        }
        let left = std::fs::read_dir(&folder.0).unwrap().count();
        assert_eq!(left, 1, "nothing temporary stays");
        let nowhere = folder.path("no/such/folder");
        let bytes = Bytes::new();
        let replace = DiskOp::Replace {
            path: nowhere,
            bytes,
        };
        assert!(matches!(run(replace), Err((DiskErrorKind::NotFound, _))));
    }

    #[test]
    fn a_folder_is_no_file() {
        let folder = Folder::new("folder");
        let path = folder.path("");
        let refused = Err((DiskErrorKind::Other, "is a directory".to_owned()));
        let load = DiskOp::Load { path: path.clone() };
        assert_eq!(run(load), refused);
        let (file, how) = (FileId(1), OpenHow::Read);
        let open = DiskOp::Open {
            file,
            path: path.clone(),
            how,
        };
        assert_eq!(run(open), refused);
        let found = run(DiskOp::Stat { path });
        assert!(matches!(found, Ok(DiskDone::Found { is_dir: true, .. })));
    }

    #[test]
    fn many_chunks_are_written_and_space_keeps_what_was_there() {
        let folder = Folder::new("chunks");
        let path = folder.with("file", "begin");
        let files = Files::default();
        let run = |todo| execute(&files, todo);
        let (file, how) = (FileId(1), OpenHow::ReadWrite);
        run(DiskOp::Open { file, path, how }).unwrap();
        // More chunks than one system call takes.
        let chunks: Vec<_> = (0..200u8).map(|n| Bytes::from(vec![n; 3])).collect();
        run(DiskOp::Write {
            file,
            offset: 5,
            chunks: chunks.clone(),
        })
        .unwrap();
        run(DiskOp::Allocate { file, len: 10_000 }).unwrap();
        let offset = 0;
        let read = run(DiskOp::Read {
            file,
            offset,
            len: 10_000,
        });
        let mut expected = b"begin".to_vec();
        expected.extend(chunks.iter().flatten());
        expected.resize(10_000, 0);
        assert_eq!(read, Ok(DiskDone::Bytes(expected.into())));
        let short = run(DiskOp::Read {
            file,
            offset,
            len: 10_001,
        });
        assert_eq!(short.unwrap_err().kind, DiskErrorKind::Short);
    }

    #[test]
    fn writes_to_one_file_take_turns_and_let_others_pass() {
        let write = |op, file| {
            let file = FileId(file);
            let (offset, chunks) = (0, Vec::new());
            Work::Disk(
                OpId(op),
                DiskOp::Write {
                    file,
                    offset,
                    chunks,
                },
            )
        };
        let id = |work: Work| match work {
            Work::Disk(op, _) | Work::Hash(op, _) => op.0,
        };
        let mut lanes = Lanes::default();
        for (op, file) in [(1, 1), (2, 1), (3, 2)] {
            lanes.waiting.push_back(write(op, file));
        }
        assert_eq!(lanes.next().map(id), Some(1));
        assert_eq!(lanes.next().map(id), Some(3));
        assert_eq!(lanes.next().map(id), None);
        lanes.writing.remove(&FileId(1));
        assert_eq!(lanes.next().map(id), Some(2));
    }
}
