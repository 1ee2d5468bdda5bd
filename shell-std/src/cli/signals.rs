//! Ctrl-C and SIGTERM: the first asks, the second ends.
//!
//! Decides: that the second signal does not wait. Tests: `shell-smol/tests/cli.rs`.

use crate::host::words;
use dovetail_core::failure::{Failure, FailureKind};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::process::exit;
use std::thread;

/// Call `stop` at the first signal that asks to end; end at once at the second.
pub(crate) fn on_stop(stop: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|e| Failure::new(FailureKind::Refused, "cannot listen for signals", words(&e)))?;
    thread::spawn(move || {
        let mut stop = Some(stop);
        for _ in signals.forever() {
            match stop.take() {
                Some(stop) => stop(),
                None => exit(i32::from(FailureKind::Interrupted.exit_code())),
            }
        }
    });
    Ok(())
}

/// End with the process that started us, also when it is killed. If it is gone already, end now.
pub(crate) fn die_with(parent: i32) {
    _ = set_parent_process_death_signal(Some(Signal::KILL));
    if getppid().map(Pid::as_raw_pid) != Some(parent) {
        exit(i32::from(FailureKind::Interrupted.exit_code()));
    }
}
