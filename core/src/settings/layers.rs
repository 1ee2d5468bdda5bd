//! Who says what: each provider's values, locks and network rules, with the place each was written.
//!
//! Decides: which words are taken and which are a [`Problem`]; what stays in force when a file goes bad. Never
//! does: read files (the shell gives their text), choose among providers (`effective`). Invariant: every value held
//! here is valid, in the words [`Row::show`] would choose. Tests: `layers_tests.rs`.

use super::kind::Shape;
use super::problem::{self, Problem};
use super::source::{self, Content, Item};
use super::table::{self, Row, Spelling};
use crate::host::Subnet;
use alloc::borrow::ToOwned as _;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;

/// Who set a value. A later one goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Provider {
    BuiltIn,
    /// Microsoft's `/etc/deliveryoptimization-agent/admin-config.json`.
    AdminConfig,
    /// The administrator's `/etc/dovetail/dovetail.toml` and its drop-ins.
    File,
    /// `dovetail.toml` in the agent's home, which `dovetail config set` writes.
    Home,
    /// What the coordinator tells its agents.
    GroupPolicy,
    Environment,
    CommandLine,
    /// A `[locked]` table in an administrator's file.
    Locked,
}

impl Provider {
    pub const ALL: [Self; 8] = [
        Self::BuiltIn,
        Self::AdminConfig,
        Self::File,
        Self::Home,
        Self::GroupPolicy,
        Self::Environment,
        Self::CommandLine,
        Self::Locked,
    ];

    /// The one of that [`name`](Self::name).
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|provider| provider.name() == name)
    }

    /// Who speaks to a running role alone; everybody else speaks in files that anybody can read.
    const fn is_heard_by_a_role_alone(self) -> bool {
        matches!(
            self,
            Self::GroupPolicy | Self::Environment | Self::CommandLine
        )
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::BuiltIn => "built_in",
            Self::AdminConfig => "admin_config",
            Self::File => "file",
            Self::Home => "home",
            Self::GroupPolicy => "group_policy",
            Self::Environment => "environment",
            Self::CommandLine => "command_line",
            Self::Locked => "locked",
        }
    }
}

/// Who set a value, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SetBy {
    pub provider: Provider,
    /// `/etc/dovetail/dovetail.toml:12`, `DOVETAIL_MAX_CACHE_AGE`; empty if built in.
    pub place: String,
}

impl SetBy {
    pub const BUILT_IN: Self = Self {
        provider: Provider::BuiltIn,
        place: String::new(),
    };
}

impl fmt::Display for SetBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.provider {
            Provider::BuiltIn => f.write_str("built in"),
            Provider::Locked => write!(f, "locked by {}", self.place),
            _ => write!(f, "set by {}", self.place),
        }
    }
}

/// One text with settings, and where it is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As users know it: the path of a file.
    pub place: String,
    pub text: String,
}

/// What everybody says, all of it valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    layers: BTreeMap<Provider, Layer>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layer {
    /// In the order they were said.
    pub(super) said: Vec<Said>,
    pub(super) rules: Vec<Rule>,
    pub(super) locked: Vec<Said>,
    problems: Vec<Problem>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) name: &'static str,
    pub(super) text: String,
    pub(super) place: String,
    /// The source that said it.
    source: String,
    /// It is not there any more: what replaced it is wrong.
    stale: bool,
}

/// Values for a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) network: Subnet,
    pub(super) said: Vec<Said>,
    pub(super) source: String,
}

/// Keys of `admin-config.json` that are Microsoft's agent's own affair.
const NOT_OURS: [&str; 1] = ["RestControllerValidateRemoteAddr"];

impl Layers {
    /// Replace what a provider says by what these texts say; of two that name the same setting the later one counts.
    /// What is wrong is told, and for that key what the provider said before stays. Of a text that cannot be read at
    /// all, everything stays.
    pub fn read(&mut self, provider: Provider, sources: &[Source]) -> Vec<Problem> {
        let old = self.layers.remove(&provider).unwrap_or_default();
        let mut reading = Reading::new(provider, &old);
        for source in sources {
            reading.source(source);
        }
        self.install(provider, reading.new)
    }

    /// As [`Self::read`], for values that come as pairs.
    pub fn read_values(
        &mut self,
        provider: Provider,
        place: &str,
        values: &BTreeMap<String, String>,
    ) -> Vec<Problem> {
        let old = self.layers.remove(&provider).unwrap_or_default();
        let mut reading = Reading::new(provider, &old);
        let items = values.iter().map(|(key, text)| Item::scalar(key, text));
        reading.plain(place, items.collect());
        self.install(provider, reading.new)
    }

    /// Say one value, for the environment and the command line. The place is the variable or `--set NAME`.
    ///
    /// # Errors
    /// If there is no such setting, or the text is not for it.
    pub fn set(&mut self, provider: Provider, name: &str, text: &str) -> Result<(), Problem> {
        let place = match provider {
            Provider::Environment => format!("DOVETAIL_{}", name.to_uppercase()),
            Provider::CommandLine => format!("--set {name}"),
            _ => provider.name().to_owned(),
        };
        self.set_at(provider, &place, name, text)
    }

    /// As [`Self::set`], with the place as users know it: `--upload-limit`.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn set_at(
        &mut self,
        provider: Provider,
        place: &str,
        name: &str,
        text: &str,
    ) -> Result<(), Problem> {
        let said = check(place, &Item::scalar(name, text)).map_err(|(problem, _)| problem)?;
        self.layers.entry(provider).or_default().said.push(said);
        Ok(())
    }

    /// Everything that is wrong with what was read last, by provider.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.layers.values().flat_map(|layer| &layer.problems)
    }

    /// What a provider says, network rules and locks left out: names and values as text.
    pub fn values_of(&self, provider: Provider) -> BTreeMap<String, String> {
        let said = self
            .layers
            .get(&provider)
            .map(|layer| layer.said.as_slice());
        said.unwrap_or_default()
            .iter()
            .map(|said| (said.name.to_owned(), said.text.clone()))
            .collect()
    }

    /// What its coordinator, its environment and its command line tell a running role: who says it, the setting's
    /// name, the value.
    pub fn told(&self) -> impl Iterator<Item = (SetBy, &'static str, &str)> {
        let alone = |provider: &Provider| provider.is_heard_by_a_role_alone();
        let layers = self.iter().filter(move |(provider, _)| alone(provider));
        layers.flat_map(|(provider, layer)| {
            let said = layer.said.iter();
            said.map(move |said| (said.set_by(provider), said.name, said.text.as_str()))
        })
    }

    /// Names and places of what a provider says.
    pub(super) fn said_by(&self, provider: Provider) -> impl Iterator<Item = (&'static str, &str)> {
        let layer = self.layers.get(&provider).into_iter();
        layer
            .flat_map(|layer| &layer.said)
            .map(|said| (said.name, said.place.as_str()))
    }

    /// Where a setting is locked, if it is.
    pub fn lock(&self, name: &str) -> Option<SetBy> {
        let mut locked = self.layers.values().flat_map(|layer| &layer.locked);
        let said = locked.rfind(|said| said.name == name)?;
        Some(said.set_by(Provider::Locked))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Provider, &Layer)> {
        self.layers
            .iter()
            .map(|(provider, layer)| (*provider, layer))
    }

    fn install(&mut self, provider: Provider, layer: Layer) -> Vec<Problem> {
        let problems = layer.problems.clone();
        if layer != Layer::default() {
            self.layers.insert(provider, layer);
        }
        problems
    }
}

impl Said {
    pub(super) fn set_by(&self, provider: Provider) -> SetBy {
        let place = if self.stale {
            format!("{}, as it was before", self.place)
        } else {
            self.place.clone()
        };
        SetBy { provider, place }
    }

    fn kept(&self) -> Self {
        Self {
            stale: true,
            ..self.clone()
        }
    }
}

/// One provider's texts being read.
struct Reading<'a> {
    provider: Provider,
    old: &'a Layer,
    new: Layer,
}

impl<'a> Reading<'a> {
    fn new(provider: Provider, old: &'a Layer) -> Self {
        Self {
            provider,
            old,
            new: Layer::default(),
        }
    }

    fn source(&mut self, source: &Source) {
        let content = if self.provider == Provider::AdminConfig {
            source::from_json(&source.text)
        } else {
            source::from_toml(&source.text)
        };
        match content {
            Ok(content) => self.content(&source.place, content),
            Err((line, what)) => {
                let place = at(&source.place, line);
                self.wrong(place, "", format!("{what}; nothing of this file is taken"));
                self.keep_source(&source.place);
            }
        }
    }

    fn content(&mut self, place: &str, content: Content) {
        self.plain(place, content.plain);
        if let Some((line, items)) = content.locked {
            if self.provider == Provider::File {
                self.locked(place, items);
            } else {
                let what = "only a file of the administrator can lock settings".to_owned();
                self.wrong(at(place, line), "locked", what);
            }
        }
        for (line, items) in content.networks {
            if matches!(self.provider, Provider::File | Provider::Home) {
                self.network(place, line, items);
            } else {
                let what = "only a file on this machine can have rules for networks".to_owned();
                self.wrong(at(place, line), "network", what);
            }
        }
        for (name, line, _) in content.groups {
            let what = "only a coordinator's policy has settings for groups".to_owned();
            self.wrong(at(place, line), &format!("group.{name}"), what);
        }
    }

    fn plain(&mut self, place: &str, items: Vec<Item>) {
        let old = &self.old.said;
        let (said, problems) = self.items(place, items, old);
        self.new.said.extend(said);
        self.new.problems.extend(problems);
    }

    fn locked(&mut self, place: &str, items: Vec<Item>) {
        let old = &self.old.locked;
        let (said, problems) = self.items(place, items, old);
        self.new.locked.extend(said);
        self.new.problems.extend(problems);
    }

    fn network(&mut self, place: &str, line: usize, mut items: Vec<Item>) {
        let at_rule = at(place, line);
        let on = items.iter().position(|item| item.key == "on");
        let Some(on) = on.map(|on| items.remove(on)) else {
            let what = "it does not say where it holds: `on` is missing".to_owned();
            return self.wrong(at_rule, "network", what);
        };
        let network: Subnet = match on.text(Shape::Scalar).map(|text| text.parse()) {
            Ok(Ok(network)) => network,
            _ => {
                self.new.problems.push(Problem {
                    place: at(place, on.line),
                    key: "on".to_owned(),
                    what: format!("`{}` is not a network", on.shown()),
                    allowed: "an address and the length of its prefix, as in 10.8.0.0/16"
                        .to_owned(),
                });
                return;
            }
        };
        let old = self.old.rules.iter();
        let old = old.filter(|rule| rule.network == network && rule.source == place);
        let old: Vec<Said> = old.flat_map(|rule| rule.said.clone()).collect();
        let (said, problems) = self.items(place, items, &old);
        self.new.problems.extend(problems);
        self.new.rules.push(Rule {
            network,
            said,
            source: place.to_owned(),
        });
    }

    /// What can be taken of these, and what is wrong with the rest. For what is wrong, what was there before stays.
    fn items(&self, place: &str, items: Vec<Item>, old: &[Said]) -> (Vec<Said>, Vec<Problem>) {
        let mut taken: Vec<Said> = Vec::new();
        let mut problems = Vec::new();
        for item in items {
            if self.provider == Provider::AdminConfig && NOT_OURS.contains(&item.key.as_str()) {
                continue;
            }
            let place = at(place, item.line);
            match check_from(self.provider, &place, &item) {
                Ok(said) => match taken.iter().find(|earlier| earlier.name == said.name) {
                    Some(earlier) => problems.push(Problem {
                        place,
                        key: item.key,
                        what: format!(
                            "it is the same setting as in {}, which counts",
                            earlier.place
                        ),
                        allowed: String::new(),
                    }),
                    None => taken.push(said),
                },
                Err((problem, row)) => {
                    problems.push(problem);
                    let before = row.and_then(|row| old.iter().rfind(|said| said.name == row.name));
                    taken.extend(before.map(Said::kept));
                }
            }
        }
        for said in &mut taken {
            if said.source.is_empty() {
                said.source = place.to_owned();
            }
        }
        (taken, problems)
    }

    fn keep_source(&mut self, place: &str) {
        let of = |all: &[Said]| -> Vec<Said> {
            let of = all.iter().filter(|said| said.source == place);
            of.map(Said::kept).collect()
        };
        self.new.said.extend(of(&self.old.said));
        self.new.locked.extend(of(&self.old.locked));
        let rules = self.old.rules.iter().filter(|rule| rule.source == place);
        self.new.rules.extend(rules.map(|rule| Rule {
            said: rule.said.iter().map(Said::kept).collect(),
            ..rule.clone()
        }));
    }

    fn wrong(&mut self, place: String, key: &str, what: String) {
        self.new.problems.push(Problem {
            place,
            key: key.to_owned(),
            what,
            allowed: String::new(),
        });
    }
}

pub(super) fn at(place: &str, line: usize) -> String {
    if line == 0 {
        return place.to_owned();
    }
    format!("{place}:{line}")
}

pub(super) type Wrong = (Problem, Option<&'static Row>);

fn check_from(provider: Provider, place: &str, item: &Item) -> Result<Said, Wrong> {
    match table::find(&item.key) {
        Some((_, Spelling::Ours)) if provider == Provider::AdminConfig => Err((
            Problem {
                place: place.to_owned(),
                key: item.key.clone(),
                what: "this file has Microsoft's names only".to_owned(),
                allowed: String::new(),
            },
            None,
        )),
        _ => check(place, item),
    }
}

/// The value in the words of the table, or what is wrong with it.
pub(super) fn check(place: &str, item: &Item) -> Result<Said, Wrong> {
    let wrong = |what: String, allowed: String| Problem {
        place: place.to_owned(),
        key: item.key.clone(),
        what,
        allowed,
    };
    let Some((row, spelling)) = table::find(&item.key) else {
        return Err((wrong(problem::unknown(&item.key), String::new()), None));
    };
    if row.shape() == Shape::Networks {
        let what = "it is written as tables in a file".to_string();
        return Err((wrong(what, row.allowed()), None));
    }
    match item
        .text(row.shape())
        .and_then(|text| row.canonical(&text, spelling))
    {
        Ok(text) => Ok(Said {
            name: row.name,
            text,
            place: place.to_owned(),
            source: String::new(),
            stale: false,
        }),
        Err(why) => {
            let what = match item.shown().as_str() {
                "" => why,
                shown => format!("`{shown}`: {why}"),
            };
            Err((wrong(what, row.allowed_as(spelling)), Some(row)))
        }
    }
}
