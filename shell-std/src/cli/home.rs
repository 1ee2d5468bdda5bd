//! The folder of one agent's state, and the way to the agent that runs there.
//!
//! Decides: which folder, and the names in it. Never does: make it.
//! Tests: below and `shell-smol/tests/cli.rs`.

use crate::host::words;
use dovetail_core::failure::{Failure, FailureKind};
use std::env;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// An agent's folder.
#[derive(Clone, Debug)]
pub(crate) struct Home(PathBuf);

/// The longest path of a unix socket on Linux, its final zero left out.
const SOCKET_PATH_MAX: usize = 107;

impl Home {
    /// The folder given, else the one of this user. Nothing is made yet.
    pub(crate) fn new(given: Option<&Path>) -> Result<Self, Failure> {
        let folder = match given {
            Some(given) => given.to_path_buf(),
            None => {
                default_folder(|name| env::var_os(name).map(PathBuf::from)).ok_or_else(|| {
                    Failure::new(
                        FailureKind::Usage,
                        "cannot tell where this agent's state belongs",
                        "neither HOME nor XDG_STATE_HOME nor DOVETAIL_HOME is set",
                    )
                    .remedy("give a folder with --home")
                })?
            }
        };
        absolute(&folder).map(Self)
    }

    /// Where the running agent takes requests.
    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("run/agent.sock")
    }

    /// What `config set` writes.
    pub(crate) fn settings(&self) -> PathBuf {
        self.0.join("dovetail.toml")
    }

    /// An agent can run here: its socket's path fits.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let socket = self.socket();
        let len = socket.as_os_str().len();
        if len <= SOCKET_PATH_MAX {
            return Ok(());
        }
        Err(Failure::new(
            FailureKind::Usage,
            format!("cannot use the home {}", self.0.display()),
            format!("its socket's path would have {len} bytes, {SOCKET_PATH_MAX} are possible"),
        )
        .remedy("give a shorter folder with --home"))
    }

    /// A connection to the agent that runs in this home; `None` if none does.
    pub(crate) fn agent(&self) -> Option<UnixStream> {
        UnixStream::connect(self.socket()).ok()
    }
}

impl AsRef<Path> for Home {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

/// `$DOVETAIL_HOME`, else by the XDG Base Directory Specification `$XDG_STATE_HOME`, if absolute, else
/// `~/.local/state`.
fn default_folder(var: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    if let Some(own) = var("DOVETAIL_HOME").filter(|path| !path.as_os_str().is_empty()) {
        return Some(own);
    }
    let state = var("XDG_STATE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| {
            let home = var("HOME").filter(|path| path.is_absolute())?;
            Some(home.join(".local/state"))
        })?;
    Some(state.join("dovetail"))
}

/// The path as seen from the root folder.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| {
        Failure::new(
            FailureKind::Usage,
            format!("cannot use the path `{}`", path.display()),
            words(&e),
        )
    })
}

/// The path as text, which is how the core names files.
pub(crate) fn utf8(path: &Path) -> Result<String, Failure> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Failure::new(
            FailureKind::Usage,
            format!("cannot use the path `{}`", path.display()),
            "it is not UTF-8",
        )
        .remedy("rename the file or folder")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_follows_the_xdg_specification() {
        let folder = |vars: &[(&str, &str)]| {
            default_folder(|name| {
                let found = vars.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| PathBuf::from(value))
            })
        };
        let both = [("XDG_STATE_HOME", "/state"), ("HOME", "/home/u")];
        assert_eq!(folder(&both), Some("/state/dovetail".into()));
        let relative = [("XDG_STATE_HOME", "state"), ("HOME", "/home/u")];
        assert_eq!(
            folder(&relative),
            Some("/home/u/.local/state/dovetail".into())
        );
        assert_eq!(folder(&[]), None);
        let own = [("DOVETAIL_HOME", "own"), both[0], both[1]];
        assert_eq!(folder(&own), Some("own".into()));
        let empty = [("DOVETAIL_HOME", ""), both[0], both[1]];
        assert_eq!(folder(&empty), Some("/state/dovetail".into()));
    }

    #[test]
    fn a_home_too_deep_for_a_socket_is_refused() {
        let deep = format!("/tmp/{}", "d".repeat(100));
        let home = Home::new(Some(Path::new(&deep))).unwrap();
        let refused = home.check().unwrap_err().to_string();
        assert!(refused.contains("120 bytes, 107 are possible"), "{refused}");
    }
}
