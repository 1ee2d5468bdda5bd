//! The files, variables and options that settings come from, for every command that needs them.
//!
//! Decides: nothing but which files there are; what they mean is the core's (`settings`). A file that cannot be read
//! is a problem like a wrong line in it: it is told, and the rest counts. Tests: below, `shell-smol/tests/config.rs`.

use super::home::Home;
use super::out::Out;
use super::signals::Reload;
use crate::Handle;
use crate::facts::{Places, gather};
use crate::host::words;
use crate::watch::Watch;
use dovetail_core::api::{LogLevel, ToldLine};
use dovetail_core::command::Command;
use dovetail_core::failure::Failure;
use dovetail_core::ids::CallId;
use dovetail_core::limits::SETTINGS_FILE_LEN_MAX;
use dovetail_core::settings::{Effective, Layers, Problem, Provider, Source};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// What each provider's files say, and which of them cannot be read.
pub(crate) type Said = [(Provider, Vec<Source>, Vec<Problem>); 3];

const SYSTEM_DIR: &str = "/etc/dovetail";
const ADMIN_CONFIG: &str = "/etc/deliveryoptimization-agent/admin-config.json";

/// Where one home's settings are.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// `dovetail.toml` and `dovetail.d`
    system: PathBuf,
    admin_config: PathBuf,
    home: PathBuf,
}

impl Files {
    pub(crate) fn of(home: &Home) -> Self {
        Self::below(std::env::var_os("DOVETAIL_CONFIG_DIR"), home)
    }

    /// With a folder of its own, nothing is read from `/etc`.
    fn below(given: Option<OsString>, home: &Home) -> Self {
        let (system, admin_config) = match given.filter(|dir| !dir.is_empty()) {
            Some(dir) => {
                let dir = PathBuf::from(dir);
                let admin_config = dir.join("admin-config.json");
                (dir, admin_config)
            }
            None => (SYSTEM_DIR.into(), ADMIN_CONFIG.into()),
        };
        Self {
            system,
            admin_config,
            home: home.settings(),
        }
    }

    /// The file that `config set` changes.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// All that may exist, by who speaks in them, in the order in which they count.
    pub(crate) fn all(&self) -> [(Provider, Vec<PathBuf>); 3] {
        let mut system = vec![self.system.join("dovetail.toml")];
        system.extend(drop_ins(&self.system.join("dovetail.d")));
        [
            (Provider::AdminConfig, vec![self.admin_config.clone()]),
            (Provider::File, system),
            (Provider::Home, vec![self.home.clone()]),
        ]
    }

    /// What the files say now, and which of them cannot be read.
    pub(crate) fn read(&self) -> Said {
        self.all().map(|(provider, paths)| {
            let (mut sources, mut problems) = (Vec::new(), Vec::new());
            for path in paths {
                match read(&path) {
                    Ok(source) => sources.extend(source),
                    Err(problem) => problems.push(problem),
                }
            }
            (provider, sources, problems)
        })
    }
}

/// In the order of their names; hidden files and those of editors do not count.
fn drop_ins(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            !name.starts_with(b".") && path.extension().is_some_and(|ext| ext == "toml")
        })
        .collect();
    paths.sort();
    paths
}

/// A file's text; `None` if there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<Source>, Problem> {
    let place = path.display().to_string();
    let wrong = |what: String| Problem {
        place: place.clone(),
        key: String::new(),
        what: format!("{what}; nothing of this file is taken"),
        allowed: String::new(),
    };
    let text = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let limit = SETTINGS_FILE_LEN_MAX as u64 + 1;
        File::open(path)?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = match text() {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(wrong(format!("it cannot be read: {}", words(&e)))),
    };
    if bytes.len() > SETTINGS_FILE_LEN_MAX {
        let most = SETTINGS_FILE_LEN_MAX;
        return Err(wrong(format!("it has more than {most} bytes")));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(Source { place, text })),
        Err(_) => Err(wrong("it is not UTF-8".into())),
    }
}

/// What files, variables and options say; what is wrong in files and variables.
///
/// # Errors
/// If an option makes no sense: whoever typed it can mend it at once.
pub(crate) fn load(said: &Said, options: &[String]) -> Result<(Layers, Vec<Problem>), Failure> {
    load_for(None, said, options)
}

/// The same as a running agent sees it, if there is one: what it alone was `told` counts, not the variables here.
///
/// # Errors
/// As for [`load`].
pub(crate) fn load_for(
    told: Option<&[ToldLine]>,
    said: &Said,
    options: &[String],
) -> Result<(Layers, Vec<Problem>), Failure> {
    let mut layers = Layers::default();
    let mut problems = Vec::new();
    for (provider, sources, unreadable) in said {
        problems.extend(unreadable.iter().cloned());
        problems.extend(layers.read(*provider, sources));
    }
    match told {
        Some(told) => problems.extend(told.iter().filter_map(|line| line.tell(&mut layers).err())),
        None => {
            let variables = std::env::vars_os();
            // A setting is text; what is not, is none.
            let variables = variables.filter_map(|(name, text)| {
                Some((name.into_string().ok()?, text.into_string().ok()?))
            });
            problems.extend(layers.read_environment(variables));
        }
    }
    for option in options {
        layers.assign(option)?;
    }
    problems.extend(layers.overruled());
    Ok((layers, problems))
}

/// What SIGHUP does: look at the files now.
pub(crate) fn reload(watch: &Watch) -> Reload {
    let nudge = watch.nudge();
    Box::new(move || nudge.now())
}

/// Give the machine behind `handle`, which knows `known`, what the files say, whenever that changes. What it cannot
/// use, it logs.
pub(crate) fn watch(files: Files, mut known: Said, handle: &Handle, out: Out) -> Watch {
    let handle = handle.clone();
    let paths = files.clone();
    let list = move || {
        paths
            .all()
            .into_iter()
            .flat_map(|(_, paths)| paths)
            .collect()
    };
    let watch = Watch::start(list, move || {
        let now = files.read();
        for ((provider, sources, unreadable), before) in now.iter().zip(&known) {
            // Without one of its files a provider would seem to have taken back what that one says.
            if !unreadable.is_empty() {
                tell(unreadable, out);
            } else if before != &(*provider, sources.clone(), Vec::new()) {
                let (provider, sources) = (*provider, sources.clone());
                handle.send(CONFIGURE, Command::Configure { provider, sources });
            }
        }
        known = now;
    });
    // What has changed since `known` was read, nobody else would see.
    watch.nudge().now();
    watch
}

/// Nobody waits for the answer: the machine logs what is wrong.
pub(crate) const CONFIGURE: CallId = CallId(9);

/// Say what is wrong, a line each.
pub(crate) fn tell(problems: &[Problem], out: Out) {
    for problem in problems {
        out.log(LogLevel::Warn, &problem.to_string());
    }
}

/// What counts on this host.
pub(crate) fn effective(layers: &Layers, home: &Home) -> Effective {
    layers.effective(&gather(&Places::system(home.as_ref())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_given_takes_the_place_of_etc() {
        let home = Home::new(Some(Path::new("/h"))).unwrap();
        let paths = |given: Option<&str>| -> Vec<String> {
            let all = Files::below(given.map(Into::into), &home).all();
            let paths = all.into_iter().flat_map(|(_, paths)| paths);
            paths.map(|path| path.display().to_string()).collect()
        };
        assert_eq!(
            paths(Some("/none")),
            [
                "/none/admin-config.json",
                "/none/dovetail.toml",
                "/h/dovetail.toml"
            ]
        );
        for given in [None, Some("")] {
            let paths = paths(given);
            assert_eq!(paths.first().unwrap(), ADMIN_CONFIG);
            assert_eq!(paths.get(1).unwrap(), "/etc/dovetail/dovetail.toml");
        }
    }
}
