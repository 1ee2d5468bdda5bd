//! `config`: the settings of this home, who set them; and its own file changed.
//!
//! Decides: what is printed, when a change is refused. While this home's agent runs, it is asked for what it alone was
//! told (by its coordinator, in its environment, on its command line). Tests: `shell-smol/tests/config.rs`.

use super::args::{ConfigAct, ConfigArgs, Global};
use super::home::Home;
use super::out::Out;
use super::settings::{self, Files};
use super::status;
use crate::host::words;
use dovetail_core::api::{Line, LogLevel, STATUS_TARGET, ToldLine};
use dovetail_core::failure::{Failure, FailureKind};
use dovetail_core::host::HostFacts;
use dovetail_core::settings::{
    EffectiveRow, Layers, Provider, Row, edit, find_row, markdown, unknown,
};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

pub(crate) fn config(args: &ConfigArgs, global: &Global, out: Out) -> Result<(), Failure> {
    if args.markdown {
        // A closed pipe has read enough.
        _ = io::stdout().write_all(markdown().as_bytes());
        return Ok(());
    }
    let home = Home::new(global.home.as_deref())?;
    let files = Files::of(&home);
    let told = told(&home, out);
    let load = || settings::load_for(told.as_deref(), &files.read(), &args.set);
    let (layers, problems) = load()?;
    settings::tell(&problems, out);
    match &args.act {
        None => {
            for row in settings::effective(&layers, &home).rows() {
                show(row, &row.in_words(), out);
            }
            Ok(())
        }
        Some(ConfigAct::Get { name }) => {
            let name = row(name)?.name;
            if let Some(row) = settings::effective(&layers, &home).row(name) {
                show(row, &row.value, out);
            }
            Ok(())
        }
        Some(ConfigAct::Set { name, value }) => {
            let (row, value) = checked(name, value)?;
            change(&files, &layers, row, Some(&value))?;
            tell_effect(&load()?.0, &home, row, out);
            Ok(())
        }
        Some(ConfigAct::Unset { name }) => {
            let row = row(name)?;
            change(&files, &layers, row, None)?;
            tell_effect(&load()?.0, &home, row, out);
            Ok(())
        }
    }
}

/// What this home's agent alone was told; `None` if none runs.
fn told(home: &Home, out: Out) -> Option<Vec<ToldLine>> {
    home.agent()?;
    match status::ask(home, "GET", STATUS_TARGET, "") {
        Ok(Line::Status(status)) => Some(status.policy.told),
        Ok(_) => None,
        Err(why) => {
            let text = format!("what the agent alone was told is not shown: {why}");
            out.log(LogLevel::Warn, &text);
            None
        }
    }
}

fn show(row: &EffectiveRow, words: &str, out: Out) {
    out.result(words, &Line::Setting(row.into()));
}

/// The setting of that name.
fn row(name: &str) -> Result<&'static Row, Failure> {
    find_row(name).ok_or_else(|| {
        let what = format!("cannot find the setting `{name}`");
        Failure::new(FailureKind::Usage, what, unknown(name))
    })
}

/// The setting of that name, and the value in our words.
fn checked(name: &str, value: &str) -> Result<(&'static Row, String), Failure> {
    let row = row(name)?;
    let mut typed = Layers::default();
    typed.set_at(Provider::Home, "config set", name, value)?;
    let value = typed.values_of(Provider::Home).remove(row.name);
    Ok((row, value.unwrap_or_default()))
}

/// Change the home's file, or leave it whole.
fn change(files: &Files, layers: &Layers, row: &Row, value: Option<&str>) -> Result<(), Failure> {
    let path = files.home();
    let what = || format!("cannot change {} in {}", row.name, path.display());
    if value.is_some() && layers.lock(row.name).is_some() {
        // A lock is the same on every host.
        let why = layers.effective(&HostFacts::default()).explain(row.name);
        return Err(Failure::new(FailureKind::Refused, what(), why)
            .remedy("ask the administrator of this machine"));
    }
    let text = match settings::read(path) {
        Ok(source) => source.map_or_else(String::new, |source| source.text),
        Err(problem) => return Err(problem.into()),
    };
    let edited = edit(&text, row, value).map_err(|why| {
        Failure::new(FailureKind::Usage, what(), why).remedy("change the file by hand")
    })?;
    if edited == text {
        return Ok(());
    }
    replace(path, &edited).map_err(|e| Failure::new(FailureKind::Disk, what(), words(&e)))
}

/// Whoever reads the file finds the old text or the new one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    // What a link leads to is replaced, not the link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = path.with_extension(format!("toml.{}", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = File::create(&new)?;
        if let Ok(old) = fs::metadata(&path) {
            file.set_permissions(old.permissions())?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().inspect_err(|_| _ = fs::remove_file(&new))
}

/// Show what counts now, which somebody else may still decide.
fn tell_effect(layers: &Layers, home: &Home, row: &Row, out: Out) {
    if let Some(row) = settings::effective(layers, home).row(row.name) {
        show(row, &row.in_words(), out);
    }
}
