//! The values in force: what counts among all that providers say, who set it, and what is not read and why.
//!
//! Decides: precedence, locks, which network rules hold, which settings another one makes meaningless. Never does:
//! act on a value (`policy`). Tests: `layers_tests.rs`.

use super::Settings;
use super::layers::{Layers, Provider, Said, SetBy};
use super::table::{self, TABLE};
use super::value::{CacheHostSource, Mode, NetworkRule};
use crate::host::{HostFacts, Subnet};
use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

/// The values in force and where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    pub values: Settings,
    rows: Vec<EffectiveRow>,
}

/// One setting in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveRow {
    pub name: &'static str,
    /// As the table writes it.
    pub value: String,
    pub set_by: SetBy,
    /// What was said too and does not count; the value in force itself, if another setting makes it meaningless.
    pub ignored: Vec<Ignored>,
}

/// A value that does not count: "… ignored because {why}".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    pub set_by: SetBy,
    pub value: String,
    pub why: String,
}

impl Default for Effective {
    /// The built-in values.
    fn default() -> Self {
        Layers::default().effective(&HostFacts::default())
    }
}

impl Effective {
    /// In the order of the table.
    pub fn rows(&self) -> &[EffectiveRow] {
        &self.rows
    }

    pub fn row(&self, name: &str) -> Option<&EffectiveRow> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// Who set the value in force.
    pub fn set_by(&self, name: &str) -> SetBy {
        self.row(name)
            .map_or(SetBy::BUILT_IN, |row| row.set_by.clone())
    }

    /// `max_cache_age = 3d (set by /etc/dovetail/dovetail.toml:12)`, for messages.
    pub fn explain(&self, name: &str) -> String {
        match self.row(name) {
            Some(row) => format!("{name} = {} ({})", row.value, row.set_by),
            None => name.to_owned(),
        }
    }
}

impl Layers {
    /// What counts on a host like this.
    pub fn effective(&self, facts: &HostFacts) -> Effective {
        let here = |network: &Subnet| {
            let subnets = facts.interfaces.iter().flat_map(|i| &i.subnets);
            subnets.into_iter().any(|s| network.contains(s.addr))
        };
        let mut heard: Vec<(SetBy, &Said)> = Vec::new();
        let mut networks = Vec::new();
        let mut networks_by = SetBy::BUILT_IN;
        for (provider, layer) in self.iter() {
            heard.extend(layer.said.iter().map(|said| (said.set_by(provider), said)));
            for rule in &layer.rules {
                if here(&rule.network) {
                    heard.extend(rule.said.iter().map(|said| {
                        let mut by = said.set_by(provider);
                        by.place = format!("{} for network {}", by.place, rule.network);
                        (by, said)
                    }));
                }
                networks_by = SetBy {
                    provider,
                    place: rule.source.clone(),
                };
                let values = rule.said.iter();
                networks.push(NetworkRule {
                    network: rule.network,
                    values: values
                        .map(|said| (said.name.to_owned(), said.text.clone()))
                        .collect(),
                });
            }
        }
        for (_, layer) in self.iter() {
            let locked = layer.locked.iter();
            heard.extend(locked.map(|said| (said.set_by(Provider::Locked), said)));
        }
        let mut values = Settings {
            networks,
            ..Settings::default()
        };
        let mut rows: Vec<EffectiveRow> = TABLE
            .iter()
            .map(|row| {
                let of = heard.iter().filter(|(_, said)| said.name == row.name);
                let (set_by, ignored) = choose(of);
                if let Some((_, said)) = &set_by {
                    // It was checked when it was read.
                    _ = row.put(&mut values, &said.text);
                }
                EffectiveRow {
                    name: row.name,
                    value: row.show(&values),
                    set_by: set_by.map_or(SetBy::BUILT_IN, |(by, _)| by),
                    ignored,
                }
            })
            .collect();
        if let Some(row) = rows.iter_mut().find(|row| row.name == "network") {
            row.set_by = networks_by;
        }
        meaningless(&values, facts, &mut rows);
        Effective { values, rows }
    }
}

/// The last one counts; the others are told why not.
fn choose<'a>(
    heard: impl Iterator<Item = &'a (SetBy, &'a Said)>,
) -> (Option<(SetBy, &'a Said)>, Vec<Ignored>) {
    let mut heard: Vec<(SetBy, &Said)> = heard.cloned().collect();
    let Some((winner, said)) = heard.pop() else {
        return (None, Vec::new());
    };
    let ignored = heard.into_iter().map(|(set_by, said)| {
        let why = match winner.provider {
            Provider::Locked => winner.to_string(),
            provider if provider == set_by.provider => format!("{} comes later", winner.place),
            _ => format!("{} goes first", winner.place),
        };
        Ignored {
            value: said.text.clone(),
            set_by,
            why,
        }
    });
    let ignored = ignored.collect();
    (Some((winner, said)), ignored)
}

/// Tell those whose value is in force but not read, because of others.
fn meaningless(values: &Settings, facts: &HostFacts, rows: &mut [EffectiveRow]) {
    let by: Vec<(&'static str, SetBy)> = rows.iter().map(|r| (r.name, r.set_by.clone())).collect();
    let because = |name: &str| {
        let by = by.iter().find(|(of, _)| *of == name).map(|(_, by)| by);
        let value = table::row(name).map(|row| row.show(values));
        format!(
            "{name} is {} ({})",
            value.unwrap_or_default(),
            by.unwrap_or(&SetBy::BUILT_IN)
        )
    };
    let mut told: Vec<(&str, String)> = Vec::new();
    let mode = values.download_mode;
    if mode != Mode::Group {
        told.push(("group_id", because("download_mode")));
        told.push(("group_id_source", because("download_mode")));
    } else if values.group_id.is_some() {
        told.push(("group_id_source", because("group_id")));
    }
    if !matches!(mode, Mode::Lan | Mode::Group) {
        told.push(("restrict_peer_selection_by", because("download_mode")));
    }
    if !mode.peers() {
        for name in [
            "delay_foreground_download_from_http",
            "delay_background_download_from_http",
            "min_background_qos",
        ] {
            told.push((name, because("download_mode")));
        }
    }
    if values.absolute_max_cache_size.is_some() {
        told.push(("max_cache_size", because("absolute_max_cache_size")));
    }
    if values.cache_host_source == Some(CacheHostSource::DhcpForced)
        && let Some(hosts) = &facts.dhcp_cache_hosts
    {
        let why = format!("{}, and DHCP says {hosts}", because("cache_host_source"));
        told.push(("cache_host", why));
    }
    for (name, why) in told {
        let row = rows.iter_mut().find(|row| row.name == name);
        let Some(row) = row.filter(|row| row.set_by.provider != Provider::BuiltIn) else {
            continue;
        };
        row.ignored.push(Ignored {
            set_by: row.set_by.clone(),
            value: row.value.clone(),
            why,
        });
    }
}
