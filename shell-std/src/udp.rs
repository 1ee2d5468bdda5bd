//! Datagrams: a socket each for the listeners that [have them](dovetail_core::machine::Listener::has_datagrams).
//!
//! Many datagrams cross into the kernel in one call, which cuts them up (UDP_SEGMENT) and puts them together again
//! (UDP_GRO); where it cannot, they go one by one. None is fragmented: which lengths pass, uTP finds out. All are marked
//! as lower effort (RFC 8622), as what they carry gives way to everything else.
//!
//! Tests: `tests/e2e.rs`, and at the foot of this file.

use crate::driver::Queue;
use crate::net::canonical;
use crate::path::{LOWER_EFFORT, set_u32};
use bytes::Bytes;
use dovetail_core::ids::SocketId;
use dovetail_core::machine::Input;
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
        if is_v6 {
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

    /// Send datagrams of `segment_bytes` to one address. What the network refuses is lost, as datagrams are.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`]: there is no room (of a socket that does not wait).
    pub fn send(&self, to: SocketAddr, bytes: &[u8], segment_bytes: usize) -> io::Result<()> {
        let to = SockaddrStorage::from(self.reachable(to));
        let segment = u16::try_from(segment_bytes).unwrap_or(u16::MAX);
        if bytes.len() <= segment_bytes {
            return self.send_one(&to, bytes, &[]);
        }
        if self.cuts_up.load(Ordering::Relaxed) {
            let cut = [ControlMessage::UdpGsoSegments(&segment)];
            match self.send_one(&to, bytes, &cut) {
                Err(error) if is_refusal(&error) => self.cuts_up.store(false, Ordering::Relaxed),
                result => return result,
            }
        }
        let mut datagrams = bytes.chunks(segment_bytes.max(1));
        datagrams.try_for_each(|datagram| self.send_one(&to, datagram, &[]))
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
        let segment = message.cmsgs()?.find_map(|said| match said {
            ControlMessageOwned::UdpGroSegments(bytes) => usize::try_from(bytes).ok(),
            _ => None,
        });
        let from = message.address.as_ref().and_then(address);
        let from = from.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Arrived {
            socket: self.id,
            from: canonical(from),
            len,
            segment_bytes: segment.filter(|bytes| *bytes > 0).unwrap_or(len),
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

/// Room for one control message with an `int`, generously.
const CONTROL_BYTES: usize = 64;

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
            here.send(to, &[1; 44 * 1000 + 5], 1000).unwrap();
            here.send(to, &[2; 300], 300).unwrap();
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
            here.send(to, b"x", 1).unwrap();
            here.send(to, &[0; 65_507], 65_507).unwrap();
            let elsewhere = SocketAddr::from(([240, 0, 0, 1], 1));
            here.send(elsewhere, &[1; 70_000], 70_000).unwrap();
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
        here.send((Ipv4Addr::LOCALHOST, port).into(), b"four", 4)
            .unwrap();
        let (mut buffer, mut control) = (vec![0; DATAGRAMS_BYTES], Vec::new());
        let arrived = both.receive(&mut buffer, &mut control).unwrap();
        assert!(arrived.from.is_ipv4() && arrived.len == 4);
        both.send(arrived.from, b"answer", 6).unwrap();
        assert_eq!(lengths(&here, 1), [6]);
    }
}
