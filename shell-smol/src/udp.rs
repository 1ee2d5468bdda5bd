//! Datagrams: one socket, at the address of [`Listener::Peers`](dovetail_core::machine::Listener::Peers).
//!
//! Tests: `tests/e2e.rs`.

use crate::driver::Queue;
use crate::net::canonical;
use async_io::Async;
use bytes::Bytes;
use dovetail_core::machine::Input;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

pub use dovetail_std::udp::{DATAGRAM_MAX, reachable};

/// Pass on what comes, as long as the run lasts.
pub async fn receive(socket: Arc<Async<UdpSocket>>, queue: Arc<Queue>) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((len, from)) => {
                queue.push_datagram(Input::Datagram {
                    from: canonical(from),
                    bytes: Bytes::copy_from_slice(&buffer[..len]),
                });
            }
            Err(_) if queue.is_ended() => return,
            // What an earlier datagram met on its way (refused, unreachable) is told here.
            Err(_) => {}
        }
    }
}

/// Send one datagram, waiting for room; what the network refuses is lost, as datagrams are.
pub async fn send(socket: &Async<UdpSocket>, to: SocketAddr, bytes: &[u8]) {
    let to = reachable(socket.get_ref(), to);
    let _ = socket.send_to(bytes, to).await;
}
