//! What the machine asks of its host besides sockets and files: clocks, randomness, memory, words.
//!
//! Shared by both shells. Tests: at the foot of this file.

use bytes::Bytes;
use dovetail_core::time::{Mono, Now, Wall};
use jiff::tz::{TimeZone, reset_system_time_zone_cache};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::rand::{GetRandomFlags, getrandom};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The clocks of this machine; monotonic time counts from [`Clock::start`].
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    /// Local offset from UTC and the Unix second it was looked up.
    offset: Mutex<(i32, i64)>,
}

impl Clock {
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
            offset: Mutex::new((0, i64::MIN)),
        }
    }

    pub fn now(&self) -> Now {
        Now {
            mono: Mono::from_us(whole_us(self.start.elapsed())),
            wall: self.wall(),
        }
    }

    /// How long until `at`; zero if it has come.
    pub fn until(&self, at: Mono) -> Duration {
        at.since(Mono::from_us(whole_us(self.start.elapsed())))
    }

    fn wall(&self) -> Wall {
        let unix_us = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
        };
        Wall {
            unix_us,
            utc_offset_s: self.utc_offset_s(unix_us.div_euclid(1_000_000)),
        }
    }

    /// Looked up once a minute: daylight saving changes at full minutes, and a traveller's `/etc/localtime` at any.
    fn utc_offset_s(&self, unix_s: i64) -> i32 {
        let mut known = self.offset.lock().unwrap_or_else(PoisonError::into_inner);
        let minute = unix_s.div_euclid(60);
        if known.1 != minute {
            // Else it would hold the zone for some minutes more.
            reset_system_time_zone_cache();
            let zone = TimeZone::system();
            let offset =
                jiff::Timestamp::from_second(unix_s).map_or(0, |at| zone.to_offset(at).seconds());
            *known = (offset, minute);
        }
        known.0
    }
}

/// A seed for a machine, from the operating system.
///
/// # Errors
///
/// The operating system has no randomness to give (before Linux 3.17).
pub fn seed() -> io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    let mut filled = 0;
    while filled < seed.len() {
        match getrandom(&mut seed[filled..], GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(seed)
}

/// Threads for disk and hash work: enough to do both at once, few enough to leave the machine usable.
pub fn workers() -> usize {
    std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, 4)
}

/// Let this process have as many sockets as it may: the usual first limit is less than a few hundred peers.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Refused: then the first limit has to do.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// The operating system's words for an error: no path, no number, no capital.
pub fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut letters = text.chars();
    match (letters.next(), letters.clone().next()) {
        // "I/O error" keeps its capital.
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

/// Recycled memory for reads. A buffer goes out as [`Bytes`] and comes back when the last of them is
/// dropped, so that steady transfers neither zero nor fault in new pages.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Arc<Mutex<Shelves>>);

#[derive(Debug, Default)]
struct Shelves {
    by_size: [Vec<Vec<u8>>; SIZES.len()],
    bytes: usize,
}

/// What one read may return at most, and the steps below it.
const SIZES: [usize; 4] = [16 << 10, 64 << 10, 256 << 10, 1 << 20];

/// Memory kept for reuse; more is given back to the system.
const KEPT_BYTES: usize = 8 << 20;

/// Memory to read into, all of it initialised.
#[derive(Debug)]
pub struct Buffer {
    memory: Vec<u8>,
    home: Buffers,
}

struct Filled {
    buffer: Buffer,
    len: usize,
}

impl Buffers {
    /// A buffer of at least `len` bytes.
    pub fn take(&self, len: usize) -> Buffer {
        let size = SIZES.iter().position(|size| *size >= len);
        let reused = size.and_then(|size| {
            let mut shelves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let memory = shelves.by_size.get_mut(size)?.pop()?;
            shelves.bytes -= memory.len();
            Some(memory)
        });
        let len = size.map_or(len, |size| SIZES[size]);
        Buffer {
            memory: reused.unwrap_or_else(|| vec![0; len]),
            home: self.clone(),
        }
    }

    fn give_back(&self, memory: Vec<u8>) {
        let Some(size) = SIZES.iter().position(|size| *size == memory.len()) else {
            return;
        };
        let mut shelves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shelves.bytes + memory.len() <= KEPT_BYTES {
            shelves.bytes += memory.len();
            shelves.by_size[size].push(memory);
        }
    }
}

impl Buffer {
    /// The first `len` bytes of it, to read into.
    pub fn room(&mut self, len: usize) -> &mut [u8] {
        let len = len.min(self.memory.len());
        &mut self.memory[..len]
    }

    /// Its first `len` bytes. Few bytes are copied out, so that they do not hold much memory.
    pub fn filled(self, len: usize) -> Bytes {
        let len = len.min(self.memory.len());
        if len < self.memory.len() / 4 {
            return Bytes::copy_from_slice(&self.memory[..len]);
        }
        Bytes::from_owner(Filled { buffer: self, len })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.memory));
    }
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.buffer.memory[..self.len]
    }
}

/// How much the next read of a stream should be ready for: follows what its reads return.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadSize(usize);

impl ReadSize {
    /// Bytes to read next, within `limit`.
    pub fn next(self, limit: usize) -> usize {
        SIZES[self.0].min(limit)
    }

    /// A read into `room` bytes returned `got`.
    pub fn learn(&mut self, room: usize, got: usize) {
        if got == room {
            self.0 = (self.0 + 1).min(SIZES.len() - 1);
        } else if self.0 > 0 && got < SIZES[self.0] / 4 {
            self.0 -= 1;
        }
    }
}

fn whole_us(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_no_number_and_no_capital() {
        let said = |errno: Errno| words(&errno.into());
        assert_eq!(said(Errno::NOSPC), "no space left on device");
        assert_eq!(said(Errno::CONNREFUSED), "connection refused");
        assert_eq!(words(&io::Error::other("I/O went away")), "I/O went away");
    }

    #[test]
    fn memory_comes_back_when_the_last_slice_is_dropped() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take(100_000);
        buffer.room(200_000)[..5].copy_from_slice(b"hello");
        let at = buffer.memory.as_ptr();
        let bytes = buffer.filled(200_000);
        let part = bytes.slice(1..5);
        drop(bytes);
        assert_ne!(buffers.take(100_000).memory.as_ptr(), at);
        assert_eq!(&part[..], b"ello");
        drop(part);
        let again: Vec<_> = (0..2).map(|_| buffers.take(100_000)).collect();
        assert!(again.iter().any(|buffer| buffer.memory.as_ptr() == at));
    }

    #[test]
    fn few_bytes_do_not_hold_a_large_buffer() {
        let buffers = Buffers::default();
        let buffer = buffers.take(1 << 20);
        let at = buffer.memory.as_ptr();
        let kept = buffer.filled(100);
        assert_eq!(buffers.take(1 << 20).memory.as_ptr(), at);
        assert_eq!(kept.len(), 100);
    }

    #[test]
    fn the_read_size_follows_the_reads() {
        let mut size = ReadSize::default();
        assert_eq!(size.next(usize::MAX), 16 << 10);
        for _ in 0..9 {
            let room = size.next(usize::MAX);
            size.learn(room, room);
        }
        assert_eq!(size.next(usize::MAX), 1 << 20);
        assert_eq!(size.next(300), 300);
        size.learn(1 << 20, 100);
        assert_eq!(size.next(usize::MAX), 256 << 10);
    }

    #[test]
    fn clocks_go_forward_and_know_the_century() {
        let clock = Clock::start();
        let (first, second) = (clock.now(), clock.now());
        assert!(second.mono >= first.mono);
        assert!(first.wall.unix_us > 1_700_000_000_000_000);
        assert!(first.wall.utc_offset_s.abs() <= 14 * 3600);
        assert_ne!(seed().unwrap(), seed().unwrap());
    }

    /// In a mount namespace whose `/etc` has nothing but the time zone.
    #[test]
    fn a_change_of_the_time_zone_is_taken_up() {
        const ZONES: &str = "/usr/share/zoneinfo/Asia";
        const WITHIN: &str = "DOVETAIL_TEST_WITHIN";
        if std::env::var_os(WITHIN).is_none() {
            let script = "mount -t tmpfs t /etc && exec \"$0\" --exact \
                host::tests::a_change_of_the_time_zone_is_taken_up";
            let possible = std::process::Command::new("unshare")
                .args(["--user", "--map-root-user", "--mount", "true"])
                .status();
            if !possible.is_ok_and(|status| status.success())
                || !std::path::Path::new(ZONES).is_dir()
            {
                println!("skipped: no namespaces or no time zones here");
                return;
            }
            let status = std::process::Command::new("unshare")
                .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
                .arg(std::env::current_exe().unwrap())
                .env(WITHIN, "1")
                .env_remove("TZ")
                .status();
            assert!(status.unwrap().success());
            return;
        }
        let zone = |name: &str| {
            _ = std::fs::remove_file("/etc/localtime");
            std::os::unix::fs::symlink(format!("{ZONES}/{name}"), "/etc/localtime").unwrap();
        };
        zone("Tokyo");
        let clock = Clock::start();
        assert_eq!(clock.utc_offset_s(1_795_694_400), 9 * 3600);
        zone("Kolkata");
        assert_eq!(clock.utc_offset_s(1_795_694_401), 9 * 3600);
        assert_eq!(clock.utc_offset_s(1_795_694_460), 11 * 1800);
    }
}
