//! Datagrams: a socket each for the listeners that [have them](dovetail_core::machine::Listener::has_datagrams).
//!
//! Tests: `tests/e2e.rs`.

use crate::driver::Queue;
use async_io::Async;
use dovetail_core::machine::Datagram;
use std::sync::Arc;

pub use dovetail_std::udp::{DATAGRAMS_BYTES, Socket, input};

/// Pass on what comes, as long as the run lasts.
pub async fn receive(socket: Arc<Async<Socket>>, queue: Arc<Queue>) {
    let mut buffer = vec![0; DATAGRAMS_BYTES];
    let mut control = Vec::new();
    while !queue.is_ended() {
        let mut receive = |socket: &Socket| socket.receive(&mut buffer, &mut control);
        if let Ok(arrived) = socket.read_with(&mut receive).await {
            queue.push_datagrams(input(arrived, &buffer)).await;
        }
    }
}

/// Send datagrams, waiting for room; what the network refuses is lost, as datagrams are.
pub async fn send(socket: &Async<Socket>, datagram: Datagram, bytes: &[u8]) {
    let send = |socket: &Socket| socket.send(datagram, bytes);
    let _ = socket.write_with(send).await;
}
