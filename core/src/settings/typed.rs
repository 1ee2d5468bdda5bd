//! What is said outside of files: environment variables and `--set`.
//!
//! Decides: which variables are settings, how an assignment is written, what is said of one that a lock overrules.
//! Tests: below.

use super::layers::{Layers, Provider};
use super::problem::{self, Problem};
use super::table;
use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// What the names of our variables begin with.
const PREFIX: &str = "DOVETAIL_";

impl Layers {
    /// Take the settings among these variables: `DOVETAIL_MAX_CACHE_AGE=7d`. What looks like a mistyped one is told;
    /// all others are somebody else's.
    pub fn read_environment(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (variable, text) in variables {
            let Some(name) = variable.strip_prefix(PREFIX) else {
                continue;
            };
            let name = name.to_ascii_lowercase();
            if table::row(&name).is_some() {
                problems.extend(self.set(Provider::Environment, &name, &text).err());
            } else if let Some(nearest) = problem::nearest(&name) {
                problems.push(Problem {
                    place: variable,
                    key: String::new(),
                    what: format!("there is no such setting; did you mean {nearest}?"),
                    allowed: String::new(),
                });
            }
        }
        problems
    }

    /// Take `NAME=VALUE`, as after `--set`.
    ///
    /// # Errors
    /// If it is not one, or as [`Self::set`].
    pub fn assign(&mut self, assignment: &str) -> Result<(), Problem> {
        let Some((name, text)) = assignment.split_once('=') else {
            return Err(Problem {
                place: "--set".to_owned(),
                key: assignment.to_owned(),
                what: "it does not say to what".to_owned(),
                allowed: "NAME=VALUE, as in max_cache_age=7d".to_owned(),
            });
        };
        self.set(Provider::CommandLine, name.trim(), text)
    }

    /// What was asked for on the command line and does not count, because it is locked.
    pub fn overruled(&self) -> Vec<Problem> {
        let asked = self.said_by(Provider::CommandLine);
        asked
            .filter_map(|(name, place)| {
                let lock = self.lock(name)?;
                Some(Problem {
                    place: place.to_owned(),
                    key: String::new(),
                    what: format!("it does not count: {name} is {lock}"),
                    allowed: String::new(),
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Source;
    use super::*;
    use crate::host::HostFacts;
    use alloc::string::ToString;

    #[test]
    fn variables_are_settings_if_their_name_is() {
        let mut layers = Layers::default();
        let variables = [
            ("DOVETAIL_MAX_CACHE_AGE", "7d"),
            ("DOVETAIL_UPLOAD_SLOTS", "many"),
            ("DOVETAIL_UPLOAD_SLOT", "3"),
            ("DOVETAIL_HOME", "/home/u"),
            ("DOVETAIL_CONFIG_DIR", "/etc"),
            ("DOVETAIL_TEST_WITHIN", "1"),
            ("MAX_CACHE_SIZE", "3"),
        ]
        .map(|(name, text)| (name.to_owned(), text.to_owned()));
        let problems = layers.read_environment(variables);
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "DOVETAIL_UPLOAD_SLOTS: upload_slots: `many`: it is not a whole number; allowed: a number from 1 to 64",
                "DOVETAIL_UPLOAD_SLOT: there is no such setting; did you mean upload_slots?",
            ]
        );
        let effective = layers.effective(&HostFacts::default());
        assert_eq!(
            effective.explain("max_cache_age"),
            "max_cache_age = 7d (set by DOVETAIL_MAX_CACHE_AGE)"
        );
        assert_eq!(effective.values.upload_slots, 4);
    }

    #[test]
    fn an_assignment_has_a_name_and_a_value() {
        let mut layers = Layers::default();
        layers.assign("max_cache_age = 7d").unwrap();
        layers.assign("DOMaxCacheSize=30").unwrap();
        let problem = layers.assign("upload_slots").unwrap_err();
        assert_eq!(
            problem.to_string(),
            "--set: upload_slots: it does not say to what; allowed: NAME=VALUE, as in max_cache_age=7d"
        );
        assert_eq!(layers.overruled(), []);
        let locked = Source {
            place: "d.toml".into(),
            text: "[locked]\nmax_cache_age = \"1d\"".into(),
        };
        layers.read(Provider::File, &[locked]);
        let told: Vec<String> = layers.overruled().iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            ["--set max_cache_age: it does not count: max_cache_age is locked by d.toml:2"]
        );
    }
}
