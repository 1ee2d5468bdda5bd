//! Texts: names, folders, and lists of words and hosts.
//!
//! Decides: what such a text may hold. Tests: `table_tests.rs`.

use super::kind::{Bounds, Kind, Notation, Shape};
use crate::limits::NAME_LEN_MAX;
use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// A name of up to [`NAME_LEN_MAX`] bytes.
pub(super) struct Name;

impl Kind for Name {
    type Value = String;

    fn parse(text: &str, _: Notation, _: Bounds) -> Result<String, String> {
        match text {
            "" => Err("it is empty".to_owned()),
            text if text.len() > NAME_LEN_MAX => Err("it is too long".to_owned()),
            text if text.chars().any(char::is_control) => {
                Err("it has a control character".to_owned())
            }
            text => Ok(text.to_owned()),
        }
    }

    fn show(value: &String) -> String {
        value.clone()
    }

    fn allowed(_: Bounds) -> String {
        format!("a text of up to {NAME_LEN_MAX} bytes, often a GUID")
    }
}

/// A folder of this machine.
pub(super) struct Folder;

impl Kind for Folder {
    type Value = String;

    fn parse(text: &str, _: Notation, _: Bounds) -> Result<String, String> {
        if text.starts_with('/') {
            return Ok(text.to_owned());
        }
        Err("it does not begin with a slash".to_owned())
    }

    fn show(value: &String) -> String {
        value.clone()
    }

    fn allowed(_: Bounds) -> String {
        "the whole path of a folder, as in /srv/dovetail".to_owned()
    }
}

fn split_list(text: &str) -> Vec<String> {
    let parts = text.split(',').map(str::trim);
    parts
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Words to look for.
pub(super) struct Words;

impl Kind for Words {
    type Value = Vec<String>;
    const SHAPE: Shape = Shape::List;

    fn parse(text: &str, _: Notation, _: Bounds) -> Result<Vec<String>, String> {
        Ok(split_list(text))
    }

    fn show(value: &Vec<String>) -> String {
        value.join(", ")
    }

    fn allowed(_: Bounds) -> String {
        "a list of words, as in [\"corp\", \"tunnel\"] or \"corp, tunnel\"".to_owned()
    }
}

/// Names or addresses of servers, with or without a port.
pub(super) struct Hosts;

impl Kind for Hosts {
    type Value = Vec<String>;
    const SHAPE: Shape = Shape::List;

    fn parse(text: &str, _: Notation, _: Bounds) -> Result<Vec<String>, String> {
        let hosts = split_list(text);
        let fits =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
        match hosts.iter().find(|host| !host.chars().all(fits)) {
            Some(host) => Err(format!("`{host}` is not HOST or HOST:PORT")),
            None => Ok(hosts),
        }
    }

    fn show(value: &Vec<String>) -> String {
        value.join(", ")
    }

    fn allowed(_: Bounds) -> String {
        "a list of HOST or HOST:PORT, as in [\"cache1\", \"10.0.0.5:8080\"] or \"cache1, 10.0.0.5:8080\""
            .to_owned()
    }
}
