//! Tells when files have changed.
//!
//! Decides: when to look. Files are looked at every few seconds: that sees a file that is replaced, that appears, that is
//! behind a link or on another machine, and costs a few `stat` calls. Never does: read them. A file that is being
//! written is left alone until it rests. Tests: below.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

/// How often to look.
const LOOK: Duration = Duration::from_secs(5);

/// How long a changed file must stay as it is.
const REST: Duration = Duration::from_secs(1);

/// Looks until it is dropped.
#[derive(Debug)]
pub struct Watch(Sender<Say>);

/// Asks a [`Watch`] to tell now, changed or not.
#[derive(Clone, Debug)]
pub struct Nudge(Sender<Say>);

#[derive(Debug)]
enum Say {
    Now,
    End,
}

/// What tells that a file, its content or its permissions are others than before.
type Stamp = (u64, u64, i64, i64);

impl Watch {
    /// Call `changed` whenever one of these files has changed, appeared or gone since the start. Which files they are
    /// is asked at each look. Where no thread can be had, changes are not seen.
    pub fn start(
        files: impl Fn() -> Vec<PathBuf> + Send + 'static,
        changed: impl FnMut() + Send + 'static,
    ) -> Self {
        Self::every(LOOK, REST, files, changed)
    }

    fn every(
        look: Duration,
        rest: Duration,
        files: impl Fn() -> Vec<PathBuf> + Send + 'static,
        mut changed: impl FnMut() + Send + 'static,
    ) -> Self {
        let (nudge, nudged) = channel();
        let mut known = stamps(files());
        let thread = thread::Builder::new().name("dovetail-files".into());
        let watching = thread.spawn(move || {
            let mut seen = known.clone();
            loop {
                let moving = seen != known;
                let now = match nudged.recv_timeout(if moving { rest } else { look }) {
                    Ok(Say::Now) => true,
                    Err(RecvTimeoutError::Timeout) => false,
                    Ok(Say::End) | Err(RecvTimeoutError::Disconnected) => return,
                };
                let before = std::mem::replace(&mut seen, stamps(files()));
                if now || (moving && seen == before) {
                    known.clone_from(&seen);
                    changed();
                }
            }
        });
        drop(watching);
        Self(nudge)
    }

    pub fn nudge(&self) -> Nudge {
        Nudge(self.0.clone())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        _ = self.0.send(Say::End);
    }
}

impl Nudge {
    pub fn now(&self) {
        // Nobody there: it is over.
        _ = self.0.send(Say::Now);
    }
}

fn stamps(files: Vec<PathBuf>) -> BTreeMap<PathBuf, Stamp> {
    let stamp = |path: &PathBuf| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec()))
    };
    let files = files.into_iter();
    files
        .filter_map(|path| Some((path.clone(), stamp(&path)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::sync::mpsc::{Receiver, channel};

    const SHORT: Duration = Duration::from_millis(20);
    const PATIENCE: Duration = Duration::from_secs(30);

    fn watch(path: &std::path::Path, look: Duration) -> (Watch, Receiver<()>) {
        let (tell, told) = channel();
        let path = path.to_path_buf();
        let files = move || vec![path.clone()];
        let watch = Watch::every(look, SHORT, files, move || _ = tell.send(()));
        (watch, told)
    }

    #[test]
    fn what_appears_changes_and_goes_is_told() {
        let dir = std::env::temp_dir().join(format!("dovetail-watch-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("a.toml");
        let (watch, told) = watch(&file, SHORT);
        fs::write(&file, "a").unwrap();
        told.recv_timeout(PATIENCE).unwrap();
        let other = dir.join("b");
        fs::write(&other, "b").unwrap();
        fs::rename(&other, &file).unwrap();
        told.recv_timeout(PATIENCE).unwrap();
        fs::remove_file(&file).unwrap();
        told.recv_timeout(PATIENCE).unwrap();
        drop(watch);
        // Nobody speaks any more: the thread is gone.
        assert!(
            told.recv_timeout(PATIENCE)
                .is_err_and(|e| e == RecvTimeoutError::Disconnected)
        );
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_nudge_is_told_at_once_without_a_change() {
        let (watch, told) = watch(std::path::Path::new("/nonexistent"), PATIENCE * 10);
        watch.nudge().now();
        told.recv_timeout(PATIENCE).unwrap();
    }
}
