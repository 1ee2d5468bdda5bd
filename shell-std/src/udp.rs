//! Datagrams: one socket, at the address of [`Listener::Peers`](dovetail_core::machine::Listener::Peers).
//!
//! Tests: `tests/e2e.rs`.

use crate::driver::Queue;
use crate::net::canonical;
use bytes::Bytes;
use dovetail_core::machine::Input;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

/// More than any datagram carries.
pub const DATAGRAM_MAX: usize = 64 * 1024;

/// Pass on what comes, until the socket is shut down.
pub fn receive(socket: &UdpSocket, queue: &Arc<Queue>) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((len, from)) => {
                if queue.is_ended() {
                    return;
                }
                queue.push_datagram(Input::Datagram {
                    from: canonical(from),
                    bytes: Bytes::copy_from_slice(&buffer[..len]),
                });
            }
            // What an earlier datagram met on its way (refused, unreachable) is told here.
            Err(_) if queue.is_ended() => return,
            Err(_) => {}
        }
    }
}

/// Send one datagram, waiting for room; what the network refuses is lost, as datagrams are.
pub fn send(socket: &UdpSocket, to: SocketAddr, bytes: &[u8]) {
    let _ = socket.send_to(bytes, reachable(socket, to));
}

/// An IPv4 address as a socket for both families needs it.
pub fn reachable(socket: &UdpSocket, to: SocketAddr) -> SocketAddr {
    match (socket.local_addr(), to.ip()) {
        (Ok(SocketAddr::V6(_)), IpAddr::V4(ip)) => {
            SocketAddr::new(ip.to_ipv6_mapped().into(), to.port())
        }
        _ => to,
    }
}
