//! The shell over smol: one executor thread for the machine and its sockets, workers for disk and hashing.
//!
//! The same files with the same functions as `dovetail-std`, which also holds what is not about a runtime.
//!
//! Tests: `tests/e2e.rs`.
#![forbid(unsafe_code)]

pub mod host;
pub mod tls;
pub mod net;
pub mod path;
pub mod disk;
pub mod file_part;
pub mod udp;
pub mod tcp;
pub mod driver;

use dovetail_core::failure::Failure;
use dovetail_core::machine::Machine;
use std::ops::ControlFlow;

pub use dovetail_std::{Commands, Handle, ListenOn, Notice, Options, Runtime, channel};
pub use driver::run;

/// The runtime of this crate: smol on the thread of the caller.
#[derive(Clone, Copy, Debug)]
pub struct Smol;

impl Runtime for Smol {
    fn run<M: Machine>(
        machine: M,
        options: Options,
        commands: Commands,
        observe: impl FnMut(Notice) -> ControlFlow<()>,
    ) -> Result<M, Failure> {
        run(machine, options, commands, observe)
    }
}
