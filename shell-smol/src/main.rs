//! `dovetail`: all commands over smol.

use dovetail_smol::Smol;
use dovetail_std::cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main::<Smol>()
}
