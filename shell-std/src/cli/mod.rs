//! The command line of both binaries: `dovetail` over smol, `dovetail-std` over threads.
//!
//! Decides: what is typed, what is printed, the exit code. Never does: protocol or policy; it gives commands
//! to roles and renders what they say. Tests: `shell-smol/tests/cli.rs`.

mod args;
mod out;
mod home;
mod signals;
mod env;
mod exchange;
mod errand;
mod hashing;
mod bars;
mod serve;
mod settings;
mod agent;
mod coordinator;
mod origin;
mod cache;
mod get;
mod publish;
mod status;
mod shelf;
mod config;
mod doctor;
mod status_host;
mod demo;

use crate::Runtime;
use args::{Cli, Command};
use clap::Parser as _;
use dovetail_core::failure::Failure;
use out::Out;
use std::process::ExitCode;

/// Read the arguments, do what they say, and give the exit code (`docs/exit-codes.md`).
pub fn main<R: Runtime>() -> ExitCode {
    let cli = Cli::parse();
    let out = Out::new(&cli.global);
    if let Some(parent) = cli.global.die_with {
        signals::die_with(parent);
    }
    match run::<R>(&cli, out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            out.failure(&failure);
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

fn run<R: Runtime>(cli: &Cli, out: Out) -> Result<(), Failure> {
    let global = &cli.global;
    match &cli.command {
        Command::Get(args) => get::get::<R>(args, global, out),
        Command::Publish(args) => publish::publish::<R>(args, global, out),
        Command::Config(args) => config::config(args, global, out),
        Command::Status(args) if args.host => status_host::status_host(global, out),
        Command::Status(_) => status::status(global, out),
        Command::Doctor(args) => doctor::doctor::<R>(args, global, out),
        Command::Shelf(args) => shelf::shelf(args, global, out),
        Command::Agent(args) => agent::agent::<R>(args, global, out),
        Command::Coordinator(args) => coordinator::coordinator::<R>(args, out),
        Command::Origin(args) => origin::origin::<R>(args, out),
        Command::Cache(args) => cache::cache::<R>(args, global, out),
        Command::Demo(args) => demo::demo::<R>(args, out),
    }
}
