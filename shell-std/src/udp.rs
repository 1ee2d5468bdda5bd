//! Datagrams: a socket each for the listeners that [have them](dovetail_core::machine::Listener::has_datagrams).
//!
//! Many datagrams cross into the kernel in one call, which cuts them up (UDP_SEGMENT) and puts them together again
//! (UDP_GRO); where it cannot, they go one by one. None is fragmented: which lengths pass, uTP finds out. All are marked
//! as lower effort (RFC 8622), as what they carry gives way to everything else; what routers say by marks (ECN, RFC 3168)
//! is passed on.
//!
//! Tests: `tests/e2e.rs`, and at the foot of this file.

use crate::driver::Queue;
use crate::net::canonical;
use crate::path::{LOWER_EFFORT, set_u32};
use bytes::Bytes;
use dovetail_core::ids::SocketId;
use dovetail_core::machine::{Datagram, Ecn, Input};
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg,
};
use rustix::net::sockopt;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// More than the kernel hands over at once.
pub const DATAGRAMS_BYTES: usize = 64 * 1024;

/// What the kernel may hold of datagrams not read yet, and of those not sent; it may allow less.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// The socket.
#[derive(Debug)]
pub struct Socket {
    id: SocketId,
    socket: UdpSocket,
    is_v6: bool,
    /// The kernel cuts up what it is given, as far as it has not refused to.
    cuts_up: AtomicBool,
}

/// What came from one sender at one time: how many bytes, in datagrams of which length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    pub socket: SocketId,
    pub from: SocketAddr,
    pub len: usize,
    pub segment_bytes: usize,
    /// Of all of them: the kernel puts only equal ones together.
    pub ecn: Ecn,
}

impl Socket {
    /// The `nth` of the machine's.
    pub fn new(nth: usize, socket: UdpSocket) -> Self {
        let is_v6 = matches!(socket.local_addr(), Ok(SocketAddr::V6(_)));
        let fd = socket.as_fd();
        // What a system does not know of this, it does without.
        set_u32(fd, libc::SOL_UDP, libc::UDP_GRO, 1);
        let probe = libc::IP_PMTUDISC_PROBE.unsigned_abs();
        set_u32(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, probe);
        let _ = sockopt::set_ip_tos(fd, LOWER_EFFORT);
        set_u32(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1);
        if is_v6 {
            set_u32(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1);
            set_u32(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, probe);
            let _ = sockopt::set_ipv6_tclass(fd, LOWER_EFFORT.into());
        }
        let _ = sockopt::set_socket_recv_buffer_size(fd, BUFFER_BYTES);
        let _ = sockopt::set_socket_send_buffer_size(fd, BUFFER_BYTES);
        Self {
            id: SocketId(u8::try_from(nth).unwrap_or(u8::MAX)),
            socket,
            is_v6,
            cuts_up: AtomicBool::new(true),
        }
    }

    /// Send datagrams to one address. What the network refuses is lost, as datagrams are.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`]: there is no room (of a socket that does not wait).
    pub fn send(&self, datagram: Datagram, bytes: &[u8]) -> io::Result<()> {
        let Datagram {
            to,
            segment_bytes,
            ecn,
            ..
        } = datagram;
        let octet = LOWER_EFFORT | ECT_0;
        let (tos, class) = (octet, i32::from(octet));
        let mark = if to.ip().to_canonical().is_ipv4() {
            ControlMessage::Ipv4Tos(&tos)
        } else {
            ControlMessage::Ipv6TClass(&class)
        };
        let marks = if ecn == Ecn::Ect { &[mark][..] } else { &[] };
        let to = SockaddrStorage::from(self.reachable(to));
        let segment = u16::try_from(segment_bytes).unwrap_or(u16::MAX);
        if bytes.len() <= segment_bytes {
            return self.send_one(&to, bytes, marks);
        }
        if self.cuts_up.load(Ordering::Relaxed) {
            let cut = [marks, &[ControlMessage::UdpGsoSegments(&segment)]].concat();
            match self.send_one(&to, bytes, &cut) {
                Err(error) if is_refusal(&error) => self.cuts_up.store(false, Ordering::Relaxed),
                result => return result,
            }
        }
        let mut datagrams = bytes.chunks(segment_bytes.max(1));
        datagrams.try_for_each(|datagram| self.send_one(&to, datagram, marks))
    }

    fn send_one(
        &self,
        to: &SockaddrStorage,
        bytes: &[u8],
        control: &[ControlMessage<'_>],
    ) -> io::Result<()> {
        let slices = [IoSlice::new(bytes)];
        let fd = self.socket.as_raw_fd();
        loop {
            match sendmsg(fd, &slices, control, MsgFlags::empty(), Some(to)) {
                Err(Errno::EINTR) => {}
                Err(error @ (Errno::EAGAIN | Errno::EIO | Errno::EINVAL)) => {
                    return Err(error.into());
                }
                _ => return Ok(()),
            }
        }
    }

    /// Receive into `buffer`, which should hold [`DATAGRAMS_BYTES`]; `control` is room for what the kernel says of it.
    ///
    /// # Errors
    ///
    /// The operating system's, also what an earlier datagram met on its way (refused, unreachable).
    pub fn receive(&self, buffer: &mut [u8], control: &mut Vec<u8>) -> io::Result<Arrived> {
        control.resize(CONTROL_BYTES, 0);
        let mut slices = [IoSliceMut::new(buffer)];
        let fd = self.socket.as_raw_fd();
        let flags = MsgFlags::empty();
        let message = recvmsg::<SockaddrStorage>(fd, &mut slices, Some(control), flags)?;
        let len = message.bytes;
        let (mut segment, mut ecn) = (None, Ecn::NotEct);
        for said in message.cmsgs()? {
            match said {
                ControlMessageOwned::UdpGroSegments(bytes) => segment = usize::try_from(bytes).ok(),
                ControlMessageOwned::Ipv4Tos(octet) => ecn = mark_of(octet),
                ControlMessageOwned::Ipv6TClass(class) => ecn = mark_of(class as u8),
                _ => {}
            }
        }
        let from = message.address.as_ref().and_then(address);
        let from = from.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Arrived {
            socket: self.id,
            from: canonical(from),
            len,
            segment_bytes: segment.filter(|bytes| *bytes > 0).unwrap_or(len),
            ecn,
        })
    }

    /// An IPv4 address as a socket for both families needs it.
    fn reachable(&self, to: SocketAddr) -> SocketAddr {
        match to.ip() {
            IpAddr::V4(ip) if self.is_v6 => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
            _ => to,
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Room for two control messages with an `int` each, generously.
const CONTROL_BYTES: usize = 128;

/// ECN's two bits (RFC 3168 §5): may be marked, was marked.
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

const fn mark_of(octet: u8) -> Ecn {
    match octet & 0b11 {
        0 => Ecn::NotEct,
        CE => Ecn::Ce,
        _ => Ecn::Ect,
    }
}

/// The kernel, or the device, cannot cut up datagrams.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EINVAL | libc::EOPNOTSUPP)
    )
}

fn address(from: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = from.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| {
        from.as_sockaddr_in6()
            .map(|v6| SocketAddr::V6((*v6).into()))
    })
}

/// What the machine hears of what came.
pub fn input(arrived: Arrived, buffer: &[u8]) -> Input {
    Input::Datagrams {
        socket: arrived.socket,
        from: arrived.from,
        bytes: Bytes::copy_from_slice(&buffer[..arrived.len]),
        segment_bytes: arrived.segment_bytes,
        ecn: arrived.ecn,
    }
}

/// Pass on what comes, until the socket is shut down.
pub fn receive(socket: &Socket, queue: &Arc<Queue>) {
    let mut buffer = vec![0; DATAGRAMS_BYTES];
    let mut control = Vec::new();
    while !queue.is_ended() {
        if let Ok(arrived) = socket.receive(&mut buffer, &mut control)
            && arrived.len > 0
        {
            queue.push_datagrams(input(arrived, &buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn pair() -> (Socket, Socket, SocketAddr) {
        let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (here, there) = (bind(), bind());
        let to = there.local_addr().unwrap();
        (Socket::new(0, here), Socket::new(0, there), to)
    }

    fn towards(to: impl Into<SocketAddr>, segment_bytes: usize) -> Datagram {
        Datagram {
            socket: SocketId::default(),
            to: to.into(),
            segment_bytes,
            ecn: Ecn::NotEct,
        }
    }

    fn lengths(socket: &Socket, count: usize) -> Vec<usize> {
        let (mut buffer, mut control) = (vec![0; DATAGRAMS_BYTES], Vec::new());
        let mut lengths = Vec::new();
        while lengths.len() < count {
            let arrived = socket.receive(&mut buffer, &mut control).unwrap();
            let datagrams = buffer[..arrived.len].chunks(arrived.segment_bytes);
            lengths.extend(datagrams.map(<[u8]>::len));
        }
        lengths
    }

    #[test]
    fn datagrams_keep_their_borders_whoever_cuts_them() {
        for cuts_up in [true, false] {
            let (here, there, to) = pair();
            here.cuts_up.store(cuts_up, Ordering::Relaxed);
            here.send(towards(to, 1000), &[1; 44 * 1000 + 5]).unwrap();
            here.send(towards(to, 300), &[2; 300]).unwrap();
            let mut expected = vec![1000; 44];
            expected.extend([5, 300]);
            assert_eq!(lengths(&there, 46), expected, "{cuts_up}");
        }
    }

    #[test]
    fn what_nobody_hears_or_is_too_long_is_lost() {
        let (here, there, to) = pair();
        drop(there);
        for _ in 0..3 {
            here.send(towards(to, 1), b"x").unwrap();
            here.send(towards(to, 65_507), &[0; 65_507]).unwrap();
            let elsewhere = SocketAddr::from(([240, 0, 0, 1], 1));
            here.send(towards(elsewhere, 70_000), &[1; 70_000]).unwrap();
        }
    }

    #[test]
    fn marks_go_and_come_in_both_families() {
        let sockets = ["127.0.0.1:0", "[::]:0"].map(|at| UdpSocket::bind(at).ok());
        for socket in sockets.into_iter().flatten() {
            let port = socket.local_addr().unwrap().port();
            let there = Socket::new(0, socket);
            for from in ["127.0.0.1:0", "[::1]:0"] {
                let Ok(here) = UdpSocket::bind(from) else {
                    continue;
                };
                let addr = SocketAddr::new(here.local_addr().unwrap().ip(), port);
                if addr.is_ipv6() && !there.is_v6 {
                    continue;
                }
                let here = Socket::new(0, here);
                let (mut buffer, mut control) = (vec![0; DATAGRAMS_BYTES], Vec::new());
                let mut next = || {
                    let arrived = there.receive(&mut buffer, &mut control).unwrap();
                    (arrived.len, arrived.ecn)
                };
                let mut datagram = towards(addr, 1000);
                here.send(datagram, &[1; 10]).unwrap();
                assert_eq!(next(), (10, Ecn::NotEct), "{addr}");
                datagram.ecn = Ecn::Ect;
                here.send(datagram, &[1; 20]).unwrap();
                assert_eq!(next(), (20, Ecn::Ect), "{addr}");
                here.send(datagram, &[1; 3000]).unwrap();
                assert_eq!(next().1, Ecn::Ect, "{addr}");
                while there.is_readable() {
                    assert_eq!(next().1, Ecn::Ect, "{addr}");
                }
                // As a router would leave it.
                let _ = sockopt::set_ip_tos(&here, CE);
                let _ = sockopt::set_ipv6_tclass(&here, CE.into());
                datagram.ecn = Ecn::NotEct;
                here.send(datagram, &[1; 30]).unwrap();
                assert_eq!(next(), (30, Ecn::Ce), "{addr}");
            }
        }
    }

    impl Socket {
        fn is_readable(&self) -> bool {
            let fd = rustix::event::PollFd::new(self, rustix::event::PollFlags::IN);
            let now = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            rustix::event::poll(&mut [fd], Some(&now)).unwrap() > 0
        }
    }

    #[test]
    fn both_families_share_a_socket() {
        let Ok(both) = UdpSocket::bind("[::]:0") else {
            return;
        };
        let port = both.local_addr().unwrap().port();
        let both = Socket::new(0, both);
        let (here, _, _) = pair();
        here.send(towards((Ipv4Addr::LOCALHOST, port), 4), b"four")
            .unwrap();
        let (mut buffer, mut control) = (vec![0; DATAGRAMS_BYTES], Vec::new());
        let arrived = both.receive(&mut buffer, &mut control).unwrap();
        assert!(arrived.from.is_ipv4() && arrived.len == 4);
        both.send(towards(arrived.from, 6), b"answer").unwrap();
        assert_eq!(lengths(&here, 1), [6]);
    }
}
