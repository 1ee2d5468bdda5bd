//! What `dovetail config` says of one setting.
//!
//! Decides: names and shapes, and the same in words. Tests: below; `docs/json.md` is checked against it.

use crate::settings::{EffectiveRow, Ignored, Layers, Problem, Provider, SetBy, row};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A setting, the value in force, and who set it. Values are texts, as a file would have them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingLine {
    pub name: String,
    pub value: String,
    pub built_in: String,
    /// The kind of who set it: `built_in`, `file`, `environment`, …
    pub set_by: String,
    /// The file and line, variable or option; empty if built in.
    pub place: String,
    /// What was said too and does not count.
    pub ignored: Vec<IgnoredLine>,
}

/// A value that does not count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IgnoredLine {
    pub value: String,
    pub set_by: String,
    pub place: String,
    pub why: String,
}

/// What a running agent was told of a setting by its coordinator, its environment or its command line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldLine {
    pub name: String,
    pub value: String,
    pub set_by: String,
    pub place: String,
}

impl ToldLine {
    pub fn of(layers: &Layers) -> Vec<Self> {
        let line = |(set_by, name, value): (SetBy, &str, &str)| Self {
            name: name.into(),
            value: value.into(),
            set_by: set_by.provider.name().into(),
            place: set_by.place,
        };
        layers.told().map(line).collect()
    }

    /// Let `layers` be told the same.
    ///
    /// # Errors
    /// It is nothing that this version knows.
    pub fn tell(&self, layers: &mut Layers) -> Result<(), Problem> {
        let provider = Provider::of_name(&self.set_by).ok_or_else(|| Problem {
            place: self.place.clone(),
            key: self.name.clone(),
            what: format!("`{}` is not who sets a setting", self.set_by),
            allowed: String::new(),
        })?;
        layers.set_at(provider, &self.place, &self.name, &self.value)
    }
}

impl From<&EffectiveRow> for SettingLine {
    fn from(effective: &EffectiveRow) -> Self {
        Self {
            name: effective.name.into(),
            value: effective.value.clone(),
            built_in: row(effective.name).map_or_else(String::new, |row| row.default()),
            set_by: effective.set_by.provider.name().into(),
            place: effective.set_by.place.clone(),
            ignored: effective.ignored.iter().map(Into::into).collect(),
        }
    }
}

impl From<&Ignored> for IgnoredLine {
    fn from(ignored: &Ignored) -> Self {
        Self {
            value: ignored.value.clone(),
            set_by: ignored.set_by.provider.name().into(),
            place: ignored.set_by.place.clone(),
            why: ignored.why.clone(),
        }
    }
}

impl EffectiveRow {
    /// The setting in words: one line, and one more for each value that does not count.
    pub fn in_words(&self) -> String {
        let mut words = format!("{} = {} ({})", self.name, shown(&self.value), self.set_by);
        for ignored in &self.ignored {
            let (value, by) = (shown(&ignored.value), ignored.set_by.to_string());
            let line = format!("\n  {value} ({by}) ignored because {}", ignored.why);
            words.push_str(&line);
        }
        words
    }
}

fn shown(value: &str) -> &str {
    if value.is_empty() { "none" } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::HostFacts;

    #[test]
    fn a_setting_in_words_and_as_a_line() {
        let mut layers = Layers::default();
        layers
            .set(Provider::Environment, "upload_slots", "6")
            .unwrap();
        layers.assign("upload_slots=7").unwrap();
        let effective = layers.effective(&HostFacts::default());
        let slots = effective.row("upload_slots").unwrap();
        assert_eq!(
            slots.in_words(),
            "upload_slots = 7 (set by --set upload_slots)\n  \
             6 (set by DOVETAIL_UPLOAD_SLOTS) ignored because --set upload_slots goes first"
        );
        let line = SettingLine::from(slots);
        assert_eq!((line.value.as_str(), line.built_in.as_str()), ("7", "4"));
        assert_eq!(line.set_by, "command_line");
        assert_eq!(line.ignored[0].set_by, "environment");
        let keywords = effective.row("vpn_keywords").unwrap();
        assert_eq!(keywords.in_words(), "vpn_keywords = none (built in)");
    }

    #[test]
    fn what_one_was_told_another_can_be_told() {
        let mut agent = Layers::default();
        agent.set(Provider::Home, "upload_slots", "5").unwrap();
        agent
            .set(Provider::Environment, "upload_slots", "6")
            .unwrap();
        let place = "--upload-limit";
        let (limit, rate) = ("max_upload_bandwidth", "3MB/s");
        agent
            .set_at(Provider::CommandLine, place, limit, rate)
            .unwrap();
        let policy = [("max_cache_age".into(), "1d".into())].into();
        assert_eq!(
            agent.read_values(Provider::GroupPolicy, "the policy", &policy),
            []
        );

        let mut other = Layers::default();
        other.set(Provider::Home, "upload_slots", "5").unwrap();
        for line in ToldLine::of(&agent) {
            line.tell(&mut other).unwrap();
        }
        let rows = |layers: &Layers| -> Vec<String> {
            let effective = layers.effective(&HostFacts::default());
            effective
                .rows()
                .iter()
                .map(EffectiveRow::in_words)
                .collect()
        };
        assert_eq!(rows(&agent), rows(&other));
        let words = rows(&other).join("\n");
        assert!(
            words.contains("max_cache_age = 1d (set by the policy)"),
            "{words}"
        );
        assert!(words.contains("upload_slots = 6 (set by DOVETAIL_UPLOAD_SLOTS)"));
        assert!(words.contains("(set by --upload-limit)"));

        let odd = ToldLine {
            set_by: "somebody".into(),
            ..ToldLine::default()
        };
        assert!(odd.tell(&mut other).is_err());
    }
}
