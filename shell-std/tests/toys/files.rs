//! The part of the contract that is about files and the work of threads: hashes, disk operations, files that travel.

use super::toys::{Giver, Taker, done, pattern};
use super::{Probe, endpoint, pair, until_reply};
use bytes::Bytes;
use dovetail_core::command::Command;
use dovetail_core::content::{Digest, HashJob};
use dovetail_core::ids::{CallId, OpId};
use dovetail_core::machine::{
    DiskDone, DiskError, DiskErrorKind, DiskOp, Effects, Input, Listener, Lost, OpenHow,
};
use dovetail_std::{Options, Runtime, channel};
use rustix::fs::Advice;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

/// Contract 5: hash work is answered with its id.
pub fn hashes_are_answered<R: Runtime>() {
    let mut left = 100;
    let mut asked = BTreeMap::new();
    let mut started = false;
    let on = move |fx: &mut Effects, input| {
        if let Input::Hashed { op, done } = &input {
            let text: String = asked.remove(op).expect("asked once");
            assert_eq!(done.leaves, [Digest::of(text.as_bytes())]);
            left -= 1;
        }
        if !started {
            started = true;
            for n in 0..100 {
                let text = format!("{n}");
                let op = fx.hash(HashJob {
                    chunks: vec![text.clone().into()],
                    leaves: true,
                    flat: None,
                });
                asked.insert(op, text);
            }
        }
        if left == 0 {
            done(fx);
        }
    };
    let (handle, commands) = channel();
    handle.send(CallId(0), Command::Shutdown);
    R::run(
        Probe::new(|_| (), on),
        Options::default(),
        commands,
        until_reply,
    )
    .map(drop)
    .unwrap();
}

/// Carry out disk operations one after the other.
fn disk<R: Runtime>(todo: Vec<DiskOp>) -> Vec<Result<DiskDone, DiskError>> {
    let mut todo = todo.into_iter();
    let (tell, told) = mpsc::channel();
    let mut waits: Option<OpId> = None;
    let on = move |fx: &mut Effects, input| {
        match input {
            Input::Disk { op, done } => {
                assert_eq!(waits.take(), Some(op));
                tell.send(done).unwrap();
            }
            Input::Command { .. } => {}
            other => panic!("{other:?}"),
        }
        match todo.next() {
            Some(next) => waits = Some(fx.disk(next)),
            None => done(fx),
        }
    };
    let (handle, commands) = channel();
    handle.send(CallId(0), Command::Shutdown);
    R::run(
        Probe::new(|_| (), on),
        Options::default(),
        commands,
        until_reply,
    )
    .map(drop)
    .unwrap();
    told.iter().collect()
}

pub fn files_are_written_read_and_renamed<R: Runtime>() {
    let folder = folder("files");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let file = Effects::default().file();
    let chunks = vec![pattern(0, 100_000), Bytes::new(), pattern(100_000, 7)];
    let read = |offset, len| DiskOp::Read { file, offset, len };
    let answers = disk::<R>(vec![
        DiskOp::Open {
            file,
            path: path("part"),
            how: OpenHow::CreateNew,
        },
        DiskOp::Allocate { file, len: 200_000 },
        DiskOp::Write {
            file,
            offset: 50,
            chunks,
        },
        DiskOp::Sync { file },
        read(60, 99_990),
        read(199_999, 2),
        DiskOp::Rename {
            from: path("part"),
            to: path("whole"),
            replace: false,
        },
        DiskOp::Close { file },
        read(0, 1),
        DiskOp::Stat {
            path: path("whole"),
        },
    ]);
    assert!(matches!(answers[0], Ok(DiskDone::Opened { len: 0, .. })));
    for at in [1, 2, 3, 6, 7] {
        assert_eq!(answers[at], Ok(DiskDone::Done), "{at}");
    }
    assert_eq!(answers[4], Ok(DiskDone::Bytes(pattern(10, 99_990))));
    let kind = |at: usize| answers[at].as_ref().unwrap_err().kind;
    assert_eq!(kind(5), DiskErrorKind::Short);
    assert_eq!(kind(8), DiskErrorKind::Other);
    assert!(matches!(
        answers[9],
        Ok(DiskDone::Found {
            len: 200_000,
            is_dir: false,
            modified_unix_us: 1_600_000_000_000_000..
        })
    ));
    let _ = std::fs::remove_dir_all(&folder);
}

/// A device that is full says so, and what was written stays readable.
pub fn a_full_disk_says_so<R: Runtime>() {
    let folder = folder("full");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&folder)
        .output();
    if !mounted.is_ok_and(|mounted| mounted.status.success()) {
        println!("skipped: mounting a small tmpfs needs root");
        return;
    }
    let path = folder.join("file").to_str().unwrap().to_owned();
    let file = Effects::default().file();
    let write = |offset, len| DiskOp::Write {
        file,
        offset,
        chunks: vec![pattern(offset, len)],
    };
    let answers = disk::<R>(vec![
        DiskOp::Open {
            file,
            path,
            how: OpenHow::ReadWrite,
        },
        write(0, 4096),
        DiskOp::Allocate { file, len: 2 << 20 },
        write(4096, 2 << 20),
        DiskOp::Read {
            file,
            offset: 0,
            len: 4096,
        },
    ]);
    let unmounted = std::process::Command::new("umount").arg(&folder).status();
    assert!(unmounted.unwrap().success());
    let full = Err(DiskError {
        kind: DiskErrorKind::Full,
        text: "no space left on device".into(),
    });
    assert_eq!(answers[2..4], [full.clone(), full]);
    assert_eq!(answers[4], Ok(DiskDone::Bytes(pattern(0, 4096))));
    let _ = std::fs::remove_dir_all(&folder);
}

/// A file goes from disk through two machines to disk.
pub fn a_file_goes_across<A: Runtime, B: Runtime>() {
    const TOTAL: usize = (32 << 20) + 12_345;
    let folder = folder("across");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    std::fs::write(path("in"), pattern(0, TOTAL)).unwrap();
    let giver = Giver::new(TOTAL as u64, None, Some(path("in")));
    let taker = |at| {
        let mut taker = Taker::new(endpoint(at), Some(path("out")));
        taker.check = true;
        taker
    };
    let (giver, taker) = pair::<A, B, _, _>(giver, Listener::Http, taker);
    assert_eq!((giver.sent, taker.taken), (TOTAL as u64, TOTAL as u64));
    assert!(std::fs::read(path("out")).unwrap() == pattern(0, TOTAL));
    let _ = std::fs::remove_dir_all(&folder);
}

/// Contract 4: parts of a file leave in their place among other bytes, also once the file is closed and gone; one that
/// is not there ends the stream.
pub fn parts_of_a_file_leave_in_their_place<A: Runtime, B: Runtime>() {
    parts_leave::<A, B>(|_| ());
    parts_leave::<A, B>(drop_from_page_cache);
}

/// Where there is a disk, it has to be waited for.
fn drop_from_page_cache(path: &Path) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
}

fn parts_leave<A: Runtime, B: Runtime>(prepare: impl FnOnce(&Path)) {
    const TOTAL: u64 = 8 << 20;
    const PART: u32 = 1_000_003;
    let folder = folder("parts");
    let path = folder.join("in").to_str().unwrap().to_owned();
    std::fs::write(&path, pattern(0, TOTAL as usize)).unwrap();
    prepare(path.as_ref());
    let (mut sent, mut client, mut is_open) = (0, None, false);
    let file = Effects::default().file();
    let on = move |fx: &mut Effects, input| {
        match input {
            Input::Accepted { stream, .. } => {
                fx.adopt(stream);
                client = Some(stream);
            }
            Input::Disk { done, .. } => is_open |= matches!(done, Ok(DiskDone::Opened { .. })),
            Input::Sent { len, .. } => sent += u64::from(len),
            Input::Closed { why, .. } => {
                let too_short = Lost::File(format!("it ends before byte {}", TOTAL + 1));
                assert_eq!((why, sent), (too_short, TOTAL));
                done(fx);
            }
            _ => {}
        }
        let Some(stream) = client.take_if(|_| is_open) else {
            return;
        };
        let mut at = 0;
        while at < TOTAL {
            let len = u64::from(PART).min(TOTAL - at);
            fx.send_file(stream, file, at, len as u32);
            at += len;
            let len = 10_000.min(TOTAL - at);
            fx.send(stream, pattern(at, len as usize));
            at += len;
        }
        fx.send_file(stream, file, TOTAL, 1);
        fx.disk(DiskOp::Close { file });
        let path = path.clone();
        fx.disk(DiskOp::Remove { path });
    };
    let opened = folder.join("in").to_str().unwrap().to_owned();
    let server = Probe::new(
        |fx| {
            let (file, path, how) = (fx.file(), opened, OpenHow::Read);
            fx.disk(DiskOp::Open { file, path, how });
        },
        on,
    );
    let mut got = 0;
    let client = move |at| {
        let on = move |fx: &mut Effects, input| match input {
            Input::Opened { stream, .. } => fx.grant(stream, 70_000),
            Input::Received { stream, bytes } => {
                assert!(bytes == pattern(got, bytes.len()), "wrong bytes");
                got += bytes.len() as u64;
                fx.grant(stream, bytes.len() as u32);
            }
            Input::Closed { .. } => done(fx),
            _ => {}
        };
        Probe::new(
            |fx| {
                fx.connect(endpoint(at));
            },
            on,
        )
    };
    pair::<A, B, _, _>(server, Listener::Http, client);
    let _ = std::fs::remove_dir_all(&folder);
}

/// An empty folder for one test.
pub fn folder(name: &str) -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("dovetail-{name}-{}-{count}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
