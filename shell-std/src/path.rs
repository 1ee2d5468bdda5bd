//! How a TCP stream fares on the network, and what it may take of it: `TCP_INFO` and a few socket options.
//!
//! The one place of the shells with `unsafe` code: no safe crate reads `TCP_INFO` as far as `tcpi_rcv_wnd`, or sets
//! `TCP_WINDOW_CLAMP` and `SO_MAX_PACING_RATE` (see `DECISIONS.md`). Everything works without privileges.
//!
//! The receive window has its traps. It had no effect before Linux 5.15. Set while the window is shut it wedges the
//! connection for good (until 6.7), so it is set only when all that has come was read. The kernel moves it along
//! whenever it enlarges the receive buffer, so it is looked at with each report. Under two segments senders send
//! slivers; the machine never asks for that.
//! Tests: at the foot of this file, and `tests/path.rs` over a real line.

use dovetail_core::ids::StreamId;
use dovetail_core::machine::{Input, PathFacts, Shape};
use rustix::net::sockopt;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

/// DSCP LE (RFC 8622), as the whole octet.
pub const LOWER_EFFORT: u8 = 0x04;

/// Larger than any window: no bound.
const NO_CLAMP: u32 = i32::MAX as u32;

/// `TCP_INFO` as of Linux 6.2, where `tcpi_rcv_wnd` came; later kernels only append.
const INFO_LEN: usize = 236;
/// ... as of Linux 5.4, where `tcpi_rcv_ooopack` came.
const INFO_LEN_LEAST: usize = 228;
/// `TCPI_OPT_TIMESTAMPS`.
const OPT_TIMESTAMPS: u8 = 1;
/// `TCP_CA_Loss`: the retransmission timer has run out and what was lost is not yet repaired.
const CA_LOSS: u8 = 4;

/// What a machine wants of one stream, and what it has heard.
#[derive(Debug, Default)]
pub struct Shaping {
    shape: Shape,
    is_bounded: bool,
    told: Option<PathFacts>,
    is_held_back: bool,
}

/// What came of looking at a path.
#[derive(Debug)]
pub struct Look {
    /// For the machine, if there is news.
    pub report: Option<Input>,
    /// Nothing moves: there is no need to look again before something does.
    pub is_quiet: bool,
}

impl Shaping {
    /// The machine has said something else.
    pub fn set(&mut self, socket: &OwnedFd, shape: Shape) {
        if shape.is_background != self.shape.is_background {
            mark(socket, shape.is_background);
        }
        if shape.pacing_bytes_per_s != self.shape.pacing_bytes_per_s {
            // The kernel's "no limit" is all ones.
            let rate = shape.pacing_bytes_per_s.unwrap_or(u64::MAX);
            set_option(
                socket,
                libc::SOL_SOCKET,
                libc::SO_MAX_PACING_RATE,
                &rate.to_ne_bytes(),
            );
        }
        self.shape = shape;
    }

    pub const fn report_every(&self) -> Option<Duration> {
        self.shape.report_every
    }

    /// How many bytes may be written now; `None`: as many as the socket takes. Whole segments only, unless that is all
    /// there is to write: a part of one would wait for the receiver's delayed acknowledgement.
    pub fn room(&mut self, socket: &OwnedFd, wanted: usize) -> Option<usize> {
        let window = self.shape.send_window_bytes?;
        let info = Info::of(socket)?;
        let room = window.saturating_sub(info.unacked_bytes());
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        self.is_held_back |= room < wanted;
        let segment = (info.u32(16) as usize).max(1);
        Some(if room < wanted {
            room - room % segment
        } else {
            room
        })
    }

    /// Look at the path; `is_drained`: all that has come was read, and more may be.
    pub fn look(&mut self, socket: &OwnedFd, stream: StreamId, is_drained: bool) -> Look {
        let Some(info) = Info::of(socket) else {
            return Look {
                report: None,
                is_quiet: true,
            };
        };
        if is_drained {
            self.bound_receiving(socket);
        }
        let facts = PathFacts {
            is_held_back: self.is_held_back,
            ..info.facts()
        };
        let is_news = self.told.replace(facts) != Some(facts);
        self.is_held_back = false;
        Look {
            report: is_news.then_some(Input::Path { stream, facts }),
            is_quiet: !is_news && facts.unacked_bytes == 0,
        }
    }

    fn bound_receiving(&mut self, socket: &OwnedFd) {
        let wanted = match self.shape.receive_window_bytes {
            Some(bytes) => u32::try_from(bytes).unwrap_or(NO_CLAMP).min(NO_CLAMP),
            None if self.is_bounded => NO_CLAMP,
            None => return,
        };
        self.is_bounded = wanted != NO_CLAMP;
        let Some(clamp) = get_u32(socket, libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP) else {
            return;
        };
        let segment = self.told.map_or(1, |facts| facts.segment_bytes);
        if clamp.abs_diff(wanted) >= segment / 2 && can_bound_receiving() {
            let value = wanted.to_ne_bytes();
            set_option(socket, libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, &value);
        }
    }
}

/// The beginning of these slices, so long.
pub fn within<'a>(slices: &'a [IoSlice<'a>], mut room: usize) -> Vec<IoSlice<'a>> {
    let mut out = Vec::new();
    for slice in slices {
        if room == 0 {
            break;
        }
        let part = slice.len().min(room);
        out.push(IoSlice::new(&slice[..part]));
        room -= part;
    }
    out
}

fn mark(socket: &OwnedFd, is_background: bool) {
    let octet = if is_background { LOWER_EFFORT } else { 0 };
    // Of one family; the other one's option is refused.
    let _ = sockopt::set_ip_tos(socket, octet);
    let _ = sockopt::set_ipv6_tclass(socket, octet.into());
}

/// A receive window can be bounded, since Linux 5.15 (3aa7857fe1d7).
pub(crate) fn can_bound_receiving() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let name = rustix::system::uname();
        is_since_5_15(&name.release().to_string_lossy())
    })
}

fn is_since_5_15(release: &str) -> bool {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || parts.next().and_then(|part| part.parse::<u32>().ok());
    (next(), next()) >= (Some(5), Some(15))
}

/// The bytes of a `struct tcp_info` (include/uapi/linux/tcp.h), and how many of them the kernel knows.
struct Info {
    bytes: [u8; INFO_LEN],
    len: usize,
}

impl Info {
    /// `None` if this is no TCP socket, or the kernel is older than 5.4.
    fn of(socket: &OwnedFd) -> Option<Self> {
        let mut bytes = [0; INFO_LEN];
        let len = get_option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut bytes)?;
        (len >= INFO_LEN_LEAST).then_some(Self { bytes, len })
    }

    fn u32(&self, at: usize) -> u32 {
        let bytes = self.bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes)
    }

    fn u64(&self, at: usize) -> u64 {
        let bytes = self.bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u64::from_ne_bytes)
    }

    /// `tcpi_bytes_sent` - `tcpi_bytes_retrans` - `tcpi_bytes_acked` are under way, `tcpi_notsent_bytes` wait.
    fn unacked_bytes(&self) -> u64 {
        let gone = self.u64(208).saturating_add(self.u64(120));
        let under_way = self.u64(200).saturating_sub(gone);
        under_way.saturating_add(self.unsent_bytes())
    }

    fn unsent_bytes(&self) -> u64 {
        self.u32(144).into()
    }

    fn facts(&self) -> PathFacts {
        let has_time_stamps = self.bytes[5] & OPT_TIMESTAMPS != 0;
        PathFacts {
            segment_bytes: self.u32(16),
            rtt_us: self.u32(68),
            // All ones while there is none.
            least_rtt_us: Some(self.u32(148))
                .filter(|us| *us != u32::MAX)
                .unwrap_or(0),
            acks: self.u32(140),
            acked_bytes: self.u64(120),
            unacked_bytes: self.unacked_bytes(),
            resent: self.u32(100),
            has_timed_out: self.bytes[1] == CA_LOSS,
            is_held_back: false,
            receive_rtt_us: if has_time_stamps { self.u32(92) } else { 0 },
            received_bytes: self.u64(128),
            // `tcpi_rcv_wnd`, as it was told with the last acknowledgement.
            receive_window_bytes: (self.len >= INFO_LEN).then(|| self.u32(232)),
            out_of_order: self.u32(224),
            can_bound_receiving: can_bound_receiving(),
        }
    }
}

fn get_u32(socket: &OwnedFd, level: i32, name: i32) -> Option<u32> {
    let mut bytes = [0; 4];
    get_option(socket, level, name, &mut bytes)?;
    Some(u32::from_ne_bytes(bytes))
}

#[expect(unsafe_code, reason = "no safe crate knows these options")]
fn get_option(socket: &OwnedFd, level: i32, name: i32, into: &mut [u8]) -> Option<usize> {
    let mut len = libc::socklen_t::try_from(into.len()).ok()?;
    // SAFETY: the pointer is to `len` writable bytes that outlive the call, and any bytes are valid in them.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            into.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    (result == 0).then_some(len as usize)
}

/// An option the kernel does not know changes nothing: the stream is plain TCP in that respect.
pub fn set_u32(socket: impl AsFd, level: i32, name: i32, value: u32) {
    set_option(socket, level, name, &value.to_ne_bytes());
}

#[expect(unsafe_code, reason = "no safe crate knows these options")]
fn set_option(socket: impl AsFd, level: i32, name: i32, value: &[u8]) {
    let Ok(len) = libc::socklen_t::try_from(value.len()) else {
        return;
    };
    // SAFETY: the pointer is to `len` readable bytes that outlive the call.
    let fd = socket.as_fd().as_raw_fd();
    let _ = unsafe { libc::setsockopt(fd, level, name, value.as_ptr().cast(), len) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (OwnedFd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0.into(), there)
    }

    #[test]
    fn kernels_are_told_apart() {
        for (release, is_since) in [
            ("5.15.0-91-generic", true),
            ("6.1.0", true),
            ("5.14.99", false),
            ("4.19", false),
            ("odd", false),
        ] {
            assert_eq!(is_since_5_15(release), is_since, "{release}");
        }
    }

    #[test]
    fn the_kernel_says_what_is_under_way_and_what_has_arrived() {
        let (here, mut there) = pair();
        let mut shaping = Shaping::default();
        let stream = StreamId(1);
        assert_eq!(shaping.room(&here, 100), None, "nothing is bounded");
        let shape = Shape {
            is_background: true,
            send_window_bytes: Some(100_000),
            pacing_bytes_per_s: Some(1_000_000_000),
            receive_window_bytes: Some(200_000),
            report_every: Some(Duration::from_millis(1)),
        };
        shaping.set(&here, shape);
        assert_eq!(sockopt::ip_tos(&here).unwrap(), LOWER_EFFORT);
        let rate = get_u32(&here, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE);
        assert_eq!(rate, Some(1_000_000_000));
        assert_eq!(shaping.room(&here, 1), Some(100_000));
        rustix::io::write(&here, &[7; 5000]).unwrap();
        there.read_exact(&mut [0; 5000]).unwrap();
        there.write_all(&[8; 3000]).unwrap();
        rustix::io::read(&here, &mut [0; 3000]).unwrap();
        let Some(Input::Path { facts, .. }) = shaping.look(&here, stream, true).report else {
            panic!("no news");
        };
        assert!(facts.segment_bytes > 500 && facts.received_bytes >= 3000);
        assert!(facts.acked_bytes + facts.unacked_bytes >= 5000);
        let clamp = || get_u32(&here, libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP).unwrap();
        assert_eq!(clamp(), 200_000);
        shaping.set(&here, Shape::default());
        shaping.look(&here, stream, true);
        assert_eq!(clamp(), NO_CLAMP, "what is not said does not hold");
        assert_eq!(sockopt::ip_tos(&here).unwrap(), 0);
        assert!(shaping.look(&here, stream, true).is_quiet);
    }

    #[test]
    fn a_window_is_filled_with_whole_segments() {
        let (here, _there) = pair();
        let segment = Info::of(&here).unwrap().u32(16) as usize;
        let mut shaping = Shaping::default();
        shaping.shape.send_window_bytes = Some(2 * segment as u64);
        assert_eq!(
            shaping.room(&here, 100),
            Some(2 * segment),
            "the last bytes"
        );
        assert_eq!(shaping.room(&here, 5 * segment), Some(2 * segment));
        shaping.shape.send_window_bytes = Some(2 * segment as u64 - 1);
        assert_eq!(shaping.room(&here, 5 * segment), Some(segment));
        shaping.shape.send_window_bytes = Some(segment as u64 - 1);
        assert_eq!(shaping.room(&here, 5 * segment), Some(0));
    }

    #[test]
    fn a_full_window_takes_nothing() {
        let (here, _there) = pair();
        let mut shaping = Shaping::default();
        let shape = Shape {
            send_window_bytes: Some(0),
            ..Shape::default()
        };
        shaping.set(&here, shape);
        assert_eq!(shaping.room(&here, 10), Some(0));
        let facts = shaping.look(&here, StreamId(1), true).report;
        assert!(matches!(facts, Some(Input::Path { facts, .. }) if facts.is_held_back));
    }

    #[test]
    fn slices_are_cut_to_a_length() {
        let slices = [IoSlice::new(b"abc"), IoSlice::new(b"def")];
        let lens = |room| {
            within(&slices, room)
                .iter()
                .map(|s| s.len())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (lens(0), lens(2), lens(4), lens(9)),
            (vec![], vec![2], vec![3, 1], vec![3, 3])
        );
    }

    #[test]
    fn what_is_no_tcp_has_no_path() {
        let (here, _there) = std::os::unix::net::UnixStream::pair().unwrap();
        let look = Shaping::default().look(&here.into(), StreamId(1), true);
        assert!(look.report.is_none() && look.is_quiet);
    }
}
