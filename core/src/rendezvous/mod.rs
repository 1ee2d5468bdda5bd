//! Devices behind NATs find a way to each other, with the coordinator's help.
//!
//! ```text
//!   A ── Hello ──▶ coordinator        every 20 s: the NAT keeps A's outside address, the coordinator knows it
//!   A ◀─ Welcome ─ coordinator        "you are seen at …"
//!   A ── Call B ─▶ coordinator ─ Meet ─▶ B
//!   A ◀─ Meet ──── coordinator        each hears where the other is, and a token
//!   A ◀── Probe ──────────────▶ B     both at once, until one gets through; then uTP goes the same way
//! ```
//!
//! Where the NATs of both let nothing through, a coordinator that relays (`relay.rs`) is one more place to probe.
//!
//! Decides: who may be introduced to whom ([`Server`], asking the coordinator's registry), what kind of NAT a device sits
//! behind, which address of a peer is taken ([`Client`]). Never does: the session that follows (`transport`).
//! Trust: an agent proves with a key, which the coordinator gave it over HTTP, that a datagram is its own; an address
//! counts once a cookie sent there has come back. No answer is longer than its question.
//!
//! Spec: ours; the idea is BEP 55's and RFC 5128 §3.3's. Words for NATs are RFC 4787's.
//! Tested in each file, and in `core/tests/nat.rs`.

mod client;
mod message;
mod nat;
mod relay;
mod server;

pub use client::{Client, Event, Unreachable, Way};
pub use message::{Key, Message, decode};
pub use nat::{Filtering, Mapping, NatKind};
pub use relay::Channel;
pub use server::Server;

/// The name of a device, as in announces.
pub type DeviceId = [u8; 20];

/// The content two devices meet for, as it travels on the wire (BEP 52: truncated).
pub type ContentKey = [u8; 20];
