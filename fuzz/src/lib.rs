//! Fuzz bodies as plain functions: each takes bytes and panics if something does not hold.
//!
//! Three ways to run them: `cargo test -p dovetail-fuzz` replays every seed on stable; `cargo fuzz run NAME
//! fuzz/corpus/NAME fuzz/seeds/NAME` looks for new input (needs cargo-fuzz; on stable with
//! `RUSTC_BOOTSTRAP=1`); and any body can be called from a debugger.
//!
//! Two kinds of bodies. Decoders (`wire`, `handshake`, `bencode`, `metainfo`, `rendezvous_packet`, `utp_packet`): no
//! panic, and what is accepted is written again as it came (`http_head`: is understood alike however it is cut;
//! `port_map_answer`: has its fields where the RFCs put them). Interpreters of operations (`merkle`, `session_ops`,
//! `picker_ops`, `rendezvous_ops`, `utp_pair`): bytes become operations by `arbitrary`, checked against what must hold
//! or against a naive model.
//!
//! To add one: the function in a module of its subject, a line in [`BODIES`], a target of three lines, its
//! `[[bin]]`, and at least one seed in `seeds/NAME/`. A finding becomes a seed.
#![allow(
    clippy::expect_used,
    reason = "a body panics when something does not hold"
)]

pub mod congestion;
pub mod content;
pub mod http;
pub mod picker;
pub mod port_map;
pub mod rendezvous;
pub mod session;
pub mod settings;
pub mod utp;
pub mod wire;

/// A body: any bytes are legal input.
pub type Body = fn(&[u8]);

/// Every body, by the name of its target and of its folder of seeds.
pub const BODIES: &[(&str, Body)] = &[
    ("wire", wire::frames),
    ("handshake", wire::handshake),
    ("bencode", content::bencode),
    ("congestion_ops", congestion::ops),
    ("metainfo", content::metainfo),
    ("merkle", content::merkle),
    ("http_head", http::heads),
    ("settings", settings::texts),
    ("session_ops", session::ops),
    ("picker_ops", picker::ops),
    ("port_map_answer", port_map::answer),
    ("rendezvous_packet", rendezvous::packet),
    ("rendezvous_ops", rendezvous::ops),
    ("utp_packet", utp::packet),
    ("utp_pair", utp::pair),
];
