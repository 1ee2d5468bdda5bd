//! The sans-IO core of Dovetail: every decision of the agent, the coordinator, the origin and the cache, and no
//! input or output. A shell feeds [`machine::Input`]s to a [`machine::Machine`] and carries out the
//! [`machine::Output`]s.
//!
//! The modules stand in reading order: each uses only modules listed above it
//! (`core/tests/module_order.rs` keeps this so).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(any(test, feature = "sim"))]
extern crate std;

pub mod time;
pub mod rng;
pub mod limits;
pub mod ids;
pub mod content;
pub mod stats;
pub mod text;
pub mod port_map;
pub mod host;
pub mod failure;
pub mod settings;
pub mod command;
pub mod congestion;
pub mod machine;
pub mod transport;
pub mod wire;
pub mod http;
pub mod policy;
pub mod session;
pub mod picker;
pub mod serve;
pub mod rendezvous;
pub mod announce;
pub mod job;
pub mod shelf;
pub mod api;
pub mod doctor;
pub mod coordinator;
pub mod origin;
pub mod agent;
pub mod cache;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
