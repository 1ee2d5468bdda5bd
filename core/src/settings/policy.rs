//! A coordinator's settings for its agents: for all of them, and for those of one group.
//!
//! Decides: what such a file may say. Invariant: all of it is valid, in our names and the words of the table.
//! Tests: below.

use super::layers::{Source, at, check};
use super::problem::Problem;
use super::source::{self, Item};
use alloc::borrow::ToOwned as _;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// What agents are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupPolicy {
    all: Values,
    groups: BTreeMap<String, Values>,
}

type Values = BTreeMap<String, String>;

/// What decides about the group itself; an agent that left its group by the group's own policy would come back
/// at the next announce, and leave again.
const NOT_IN_A_GROUP: [&str; 3] = ["download_mode", "group_id", "group_id_source"];

impl GroupPolicy {
    /// Read a file: settings, then `[group.NAME]` tables.
    ///
    /// # Errors
    /// Everything that is wrong with it; then nothing of it can be used.
    pub fn read(source: &Source) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut wrong = |line: usize, key: &str, what: String| {
            problems.push(Problem {
                place: at(&source.place, line),
                key: key.to_owned(),
                what,
                allowed: String::new(),
            });
        };
        let content = match source::from_toml(&source.text) {
            Ok(content) => content,
            Err((line, what)) => {
                wrong(line, "", what);
                return Err(problems);
            }
        };
        if let Some((line, _)) = content.locked {
            let what = "only a file of the administrator can lock settings".to_owned();
            wrong(line, "locked", what);
        }
        for (line, _) in &content.networks {
            let what = "only a file on the agent's machine can have rules for networks".to_owned();
            wrong(*line, "network", what);
        }
        let all = values(&source.place, content.plain, &mut problems);
        let mut groups = BTreeMap::new();
        for (group, line, items) in content.groups {
            let Some(items) = items else {
                problems.push(Problem {
                    place: at(&source.place, line),
                    key: format!("group.{group}"),
                    what: "a group is a table, as in [group.NAME]".to_owned(),
                    allowed: String::new(),
                });
                continue;
            };
            let values = values(&source.place, items, &mut problems);
            for name in NOT_IN_A_GROUP {
                if values.contains_key(name) {
                    problems.push(Problem {
                        place: at(&source.place, line),
                        key: format!("group.{group}"),
                        what: format!("{name} decides who is in the group; set it for all"),
                        allowed: String::new(),
                    });
                }
            }
            groups.insert(group, values);
        }
        if problems.is_empty() {
            Ok(Self { all, groups })
        } else {
            Err(problems)
        }
    }

    /// What an agent of this group is told: what is said for all, and instead what is said for its group.
    pub fn of(&self, group: Option<&str>) -> Values {
        let mut values = self.all.clone();
        let own = group.and_then(|group| self.groups.get(group));
        values.extend(own.cloned().unwrap_or_default());
        values
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.groups.values().all(BTreeMap::is_empty)
    }
}

impl From<Values> for GroupPolicy {
    /// For all agents alike.
    fn from(all: Values) -> Self {
        Self {
            all,
            groups: BTreeMap::new(),
        }
    }
}

fn values(place: &str, items: Vec<Item>, problems: &mut Vec<Problem>) -> Values {
    let mut values = Values::new();
    for item in items {
        let place = at(place, item.line);
        match check(&place, &item) {
            Ok(said) if values.contains_key(said.name) => problems.push(Problem {
                place,
                key: item.key,
                what: "it is there twice".to_owned(),
                allowed: String::new(),
            }),
            Ok(said) => {
                values.insert(said.name.to_owned(), said.text);
            }
            Err((problem, _)) => problems.push(problem),
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;

    fn read(text: &str) -> Result<GroupPolicy, Vec<String>> {
        let source = Source {
            place: "policy.toml".into(),
            text: text.into(),
        };
        GroupPolicy::read(&source)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_group_has_what_all_have_and_its_own() {
        let policy = read(
            "download_mode = 2\nDOMaxCacheAge = 60\n[group.lab]\nupload_slots = 9\nmax_cache_age = \"2d\"\n\
             [group.\"a b\"]\n",
        )
        .unwrap();
        let told = |group| -> Vec<(String, String)> { policy.of(group).into_iter().collect() };
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            let pairs = pairs.iter();
            pairs
                .map(|(name, text)| ((*name).into(), (*text).into()))
                .collect()
        };
        let all = pairs(&[("download_mode", "group"), ("max_cache_age", "1min")]);
        assert_eq!(told(None), all);
        assert_eq!(told(Some("a b")), all);
        assert_eq!(told(Some("office")), all);
        assert_eq!(
            told(Some("lab")),
            pairs(&[
                ("download_mode", "group"),
                ("max_cache_age", "2d"),
                ("upload_slots", "9")
            ])
        );
        assert!(!policy.is_empty() && read("").unwrap().is_empty());
    }

    #[test]
    fn nothing_of_a_wrong_policy_is_used_and_all_that_is_wrong_is_told() {
        for (text, want) in [
            (
                "upload_slotz = 4\nupload_slots = 0",
                vec![
                    "policy.toml:1: upload_slotz: there is no such setting; did you mean upload_slots?",
                    "policy.toml:2: upload_slots: `0`: it is too small; allowed: a number from 1 to 64",
                ],
            ),
            (
                "a =",
                vec!["policy.toml:1: string values must be quoted, expected literal string"],
            ),
            (
                "[locked]\n[[network]]\non = \"::/0\"",
                vec![
                    "policy.toml:1: locked: only a file of the administrator can lock settings",
                    "policy.toml:2: network: only a file on the agent's machine can have rules for networks",
                ],
            ),
            (
                "[group.lab]\nmax_cache_age = \"1d\"\nDOMaxCacheAge = 1",
                vec!["policy.toml:3: DOMaxCacheAge: it is there twice"],
            ),
            (
                "[group.lab]\ndownload_mode = \"lan\"",
                vec![
                    "policy.toml:1: group.lab: download_mode decides who is in the group; set it for all",
                ],
            ),
            (
                "[group]\nupload_slots = 4",
                vec!["policy.toml:2: group.upload_slots: a group is a table, as in [group.NAME]"],
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), want, "{text}");
        }
    }
}
