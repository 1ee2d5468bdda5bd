//! Role: downloads for local callers, keeps content, serves it to peers.

use alloc::string::String;
use core::net::SocketAddr;

/// What an agent is told once, at its start. (Settings that change while it runs are policy's.)
#[derive(Clone, Debug, Default)]
pub struct AgentConfig {
    /// The coordinator's base URL.
    pub coordinator: Option<String>,
    /// `http_proxy`, `https_proxy`, `no_proxy` as the environment or the settings give them.
    pub http_proxy: Option<String>,
    pub https_proxy: Option<String>,
    pub no_proxy: Option<String>,
    /// Accept peers and announce this device. Without it nothing listens.
    pub share: bool,
    /// Bytes per second sent to all peers together; 0 is no limit.
    pub upload_limit_bytes_per_s: u64,
    /// Peers to dial for every content, besides those the coordinator names.
    pub peers: alloc::vec::Vec<SocketAddr>,
}
