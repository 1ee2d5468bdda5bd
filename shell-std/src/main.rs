//! `dovetail-std`: all commands over std threads.

use dovetail_std::{Threads, cli};
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main::<Threads>()
}
