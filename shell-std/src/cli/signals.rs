//! Ctrl-C and SIGTERM: the first asks, the second ends. SIGHUP is one of them, or asks for settings to be read anew.
//!
//! Decides: that the second signal does not wait, and which signals are one (`timeout` sends its signal to the
//! process and to its group). Tests: `shell-smol/tests/cli.rs`.

use crate::host::words;
use dovetail_core::failure::{Failure, FailureKind};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::{IsTerminal as _, stdin};
use std::process::exit;
use std::thread;
use std::time::{Duration, Instant};

/// Signals that come this close together are one; no hand is faster.
const ONE_SIGNAL: Duration = Duration::from_millis(100);

/// Call `stop` at the first signal that asks to end; end at once at the second.
pub(crate) fn on_stop(stop: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    listen(stop, None)
}

/// The same, but SIGHUP calls `reload`, unless it comes because our terminal is gone.
pub(crate) fn on_stop_or_reload(
    stop: impl FnOnce() + Send + 'static,
    reload: Reload,
) -> Result<(), Failure> {
    listen(stop, Some(reload))
}

/// What to do at SIGHUP.
pub(crate) type Reload = Box<dyn Fn() + Send>;

fn listen(stop: impl FnOnce() + Send + 'static, reload: Option<Reload>) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|e| Failure::new(FailureKind::Refused, "cannot listen for signals", words(&e)))?;
    let had_terminal = stdin().is_terminal();
    thread::spawn(move || {
        let mut signals = signals.forever();
        for signal in signals.by_ref() {
            match &reload {
                // A terminal that was closed is none any more.
                Some(reload) if signal == SIGHUP && had_terminal == stdin().is_terminal() => {
                    reload();
                }
                _ => break,
            }
        }
        stop();
        let first = Instant::now();
        let to_end = |signal: &i32| *signal != SIGHUP || reload.is_none();
        while signals.find(to_end).is_some() {
            if first.elapsed() > ONE_SIGNAL {
                exit(i32::from(FailureKind::Interrupted.exit_code()));
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
