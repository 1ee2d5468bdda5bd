//! Why peers do not come: everything that could be the reason, looked at and judged.
//!
//! Decides: what is well, what restricts, what is a problem; why, which setting decided, and what to do. Never does:
//! look itself; the shell gathers [`Findings`] (`shell-std/src/cli/doctor.rs`). Without a running agent it judges what
//! one would meet here. Tests: `tests.rs`; the whole command in `shell-smol/tests/doctor.rs`.

mod network;
mod rules;
#[cfg(test)]
mod tests;

use crate::api::{CheckLine, Status, Verdict};
use crate::host::HostFacts;
use crate::policy::{self, Limits, Usage};
use crate::settings::{Effective, Problem, Provider};
use crate::time::Wall;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;

/// The names of all checks, in their order; a check that does not apply is left out.
pub const NAMES: [&str; 16] = [
    "agent",
    "settings",
    "mode",
    "sharing",
    "uploads",
    "background",
    "files",
    "listening",
    "firewall",
    "coordinator",
    "caches",
    "proxies",
    "congestion",
    "port_mapping",
    "nat",
    "clock",
];

/// What was found.
#[derive(Clone, Debug)]
pub struct Findings {
    pub home: String,
    /// Of the program that looks.
    pub version: String,
    pub agent: Found,
    /// What counts here: for the running agent, if there is one.
    pub settings: Effective,
    pub problems: Vec<Problem>,
    pub facts: HostFacts,
    pub now: Wall,
    pub port: Port,
    pub coordinator: Option<Coordinator>,
    /// `http_proxy = http://proxy:3128`, without passwords.
    pub proxies: Vec<String>,
    pub firewall: Option<Firewall>,
    pub kernel: Kernel,
}

/// This home's agent.
#[derive(Clone, Debug)]
pub enum Found {
    Running(Box<Status>),
    /// It does not answer as it should.
    Silent(String),
    Nobody,
}

/// The port for peers: of the running agent whether it is reached, else whether it could be had.
#[derive(Clone, Debug)]
pub struct Port {
    pub at: SocketAddr,
    pub tcp: Result<(), String>,
    pub udp: Result<(), String>,
}

/// A coordinator that was asked for its health.
#[derive(Clone, Debug)]
pub struct Coordinator {
    pub url: String,
    pub answer: Result<Health, String>,
}

#[derive(Clone, Copy, Debug)]
pub struct Health {
    pub took_us: u64,
    /// By how much our clock is ahead of its.
    pub ahead_s: Option<i64>,
}

/// A local firewall that keeps out what it does not know.
#[derive(Clone, Debug)]
pub struct Firewall {
    /// `ufw`, `firewalld`, `nftables`.
    pub name: String,
    /// Whether its rules name the port, if they can be read.
    pub names_port: Option<bool>,
}

#[derive(Clone, Debug)]
pub struct Kernel {
    pub release: String,
    /// `net.ipv4.tcp_timestamps`
    pub has_time_stamps: Option<bool>,
    /// A receive window can be bounded.
    pub can_bound_receiving: bool,
}

/// Everything that was looked at, judged.
pub fn examine(findings: &Findings) -> Vec<CheckLine> {
    let patient = Patient::new(findings);
    let mut checks = Vec::new();
    patient.rules(&mut checks);
    patient.network(&mut checks);
    checks
}

/// Findings, and what policy makes of them.
struct Patient<'f> {
    found: &'f Findings,
    limits: Limits,
}

impl<'f> Patient<'f> {
    fn new(found: &'f Findings) -> Self {
        let status = match &found.agent {
            Found::Running(status) => Some(status),
            _ => None,
        };
        let usage = Usage {
            internet_upload_bytes: status.map_or(0, |s| s.policy.internet_upload_bytes),
            ..Usage::default()
        };
        let limits = policy::limits(&found.settings.values, &found.facts, &usage, found.now);
        Self { found, limits }
    }

    /// What the running agent says of itself.
    const fn status(&self) -> Option<&'f Status> {
        match &self.found.agent {
            Found::Running(status) => Some(status),
            Found::Silent(_) | Found::Nobody => None,
        }
    }

    fn explain(&self, setting: &str) -> String {
        self.found.settings.explain(setting)
    }

    /// How to give a setting another value, for whoever may.
    fn change(&self, setting: &str, value: &str) -> String {
        let by = self.found.settings.set_by(setting);
        match by.provider {
            Provider::BuiltIn | Provider::AdminConfig | Provider::File | Provider::Home => {
                format!("`dovetail config set {setting} {value}`")
            }
            _ => format!("have {setting} changed where it is set: {}", by.place),
        }
    }

    /// What lifts the restriction that this setting is the reason of.
    fn lift(&self, setting: &str) -> String {
        let value = match setting {
            "download_mode" => "lan",
            "allow_vpn_peer_caching" | "allow_metered" | "port_mapping" => "true",
            "min_ram_allowed_to_peer" | "min_disk_size_allowed_to_peer" => "0B",
            "monthly_upload_data_cap" => "0B",
            "min_battery_percentage_allowed_to_upload" => "1%",
            "peer_encryption" => "preferred",
            "group_id" => "NAME",
            "group_id_source" => "dns-suffix",
            _ => "unset",
        };
        self.change(setting, value)
    }
}

fn ok(name: &str, what: impl Into<String>) -> CheckLine {
    CheckLine::new(name, Verdict::Ok, what)
}

fn warning(name: &str, what: impl Into<String>) -> CheckLine {
    CheckLine::new(name, Verdict::Warning, what)
}

fn problem(name: &str, what: impl Into<String>) -> CheckLine {
    CheckLine::new(name, Verdict::Problem, what)
}
