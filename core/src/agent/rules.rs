//! The limits in force: worked out anew whenever settings, host, hour or usage change, and told to everybody.
//!
//! Decides: when to ask policy again, and who must hear of the answer. Never does: what the answer is (`policy`).
//! Tested in `core/tests/policy.rs` and `settings_scenarios.rs`.

use super::ledger::Ledger;
use super::swarm::Swarm;
use super::yielding::Yielding;
use super::{ANNOUNCER, Agent};
use crate::announce::messages::Scope;
use crate::command::{Event, GetRequest, Level};
use crate::failure::{Failure, FailureKind};
use crate::host::HostFacts;
use crate::http::Bans;
use crate::job::Downlink;
use crate::limits::INTRODUCED_MAX;
use crate::policy::{self, Code, Known, Limits, Usage};
use crate::settings::{Effective, Layers, Mode, PeerTransport, Problem, Provider, Source};
use crate::stats::SourceClass;
use crate::time::{Mono, Now};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

/// What all contents of an agent go by.
#[derive(Debug)]
pub(super) struct Rules {
    layers: Layers,
    facts: HostFacts,
    effective: Effective,
    pub(super) limits: Limits,
    pub(super) down: Downlink,
    pub(super) bans: Bans,
    pub(super) ledger: Ledger,
    pub(super) yielding: Yielding,
    /// The coordinator has a rendezvous, and this device may be met through it.
    pub(super) has_rendezvous: bool,
    /// Whom the coordinator has introduced, by address, with when: they may come.
    introduced: BTreeMap<IpAddr, (Mono, SourceClass)>,
    shelf_bytes: u64,
    /// What the limits were worked out from.
    usage: Usage,
    /// Between the two clocks, and from UTC: a jump of either is a reason to look again.
    skew_us: i64,
    utc_offset_s: i32,
    next_at: Option<Mono>,
    /// The limits were told to those they bind.
    applied: bool,
    /// The shell was told to look for cache servers.
    looks_for_caches: bool,
    /// Restrictions that were told.
    told: BTreeSet<String>,
}

impl Rules {
    pub(super) fn new(layers: Layers, ledger: Ledger) -> Self {
        let facts = HostFacts::default();
        let effective = layers.effective(&facts);
        let (usage, now) = (Usage::default(), Now::default());
        let limits = policy::limits(&effective.values, &facts, &usage, now.wall);
        Self {
            layers,
            facts,
            effective,
            limits,
            down: Downlink::default(),
            bans: Bans::default(),
            ledger,
            yielding: Yielding::default(),
            has_rendezvous: false,
            introduced: BTreeMap::new(),
            shelf_bytes: 0,
            usage,
            skew_us: 0,
            utc_offset_s: 0,
            next_at: None,
            applied: false,
            looks_for_caches: false,
            told: BTreeSet::new(),
        }
    }

    /// The coordinator says that somebody of this class will come from one of these addresses.
    pub(super) fn expect(&mut self, now: Mono, from: Vec<IpAddr>, class: SourceClass) {
        for ip in from {
            self.introduced.insert(ip, (now, class));
        }
        while self.introduced.len() > INTRODUCED_MAX {
            let oldest = self.introduced.iter().min_by_key(|(_, (at, _))| *at);
            if let Some(oldest) = oldest.map(|(ip, _)| *ip) {
                self.introduced.remove(&oldest);
            }
        }
    }

    /// How somebody is known who was introduced.
    pub(super) fn introduced(&self, ip: IpAddr) -> Known {
        let known = self.introduced.get(&ip.to_canonical());
        known.map_or(Known::Other, |(_, class)| Known::Coordinator(*class))
    }

    pub(super) const fn layers(&self) -> &Layers {
        &self.layers
    }

    /// Where the shelf is, if a setting says so.
    pub(super) fn shelf_dir(&self) -> Option<String> {
        self.effective.values.modify_cache_drive.clone()
    }

    pub(super) fn disk_free_bytes(&self) -> Option<u64> {
        self.facts.disk.map(|disk| disk.free_bytes)
    }

    /// What the shelf holds counts into its quota, from the next look on.
    pub(super) const fn set_shelf_bytes(&mut self, bytes: u64) {
        self.shelf_bytes = bytes;
    }

    pub(super) const fn next_at(&self) -> Option<Mono> {
        self.next_at
    }

    /// A setting and who set it: `download_mode = bypass (set by /etc/dovetail/dovetail.toml:3)`.
    pub(super) fn explain(&self, setting: &str) -> String {
        self.effective.explain(setting)
    }

    fn usage_now(&mut self, now: Now) -> Usage {
        Usage {
            internet_upload_bytes: self.ledger.internet_upload_bytes(now.wall),
            downlink_bytes_per_s: self.down.line_bytes_per_s(),
            shelf_bytes: self.shelf_bytes,
        }
    }

    /// Something that limits depend on has changed by itself: the clocks, the line, what was uploaded.
    fn is_stale(&mut self, now: Now) -> bool {
        let skew_us = skew_us(now);
        let clocks = skew_us.abs_diff(self.skew_us) > CLOCK_JUMP_US
            || now.wall.utc_offset_s != self.utc_offset_s;
        let due = !self.applied || self.next_at.is_some_and(|at| at <= now.mono);
        let usage = self.usage_now(now);
        let cap = self.effective.values.monthly_upload_data_cap;
        let over = |usage: &Usage| cap > 0 && usage.internet_upload_bytes >= cap;
        let line = |usage: &Usage| usage.downlink_bytes_per_s.unwrap_or(0);
        let moved = usage.shelf_bytes != self.usage.shelf_bytes;
        let faster = line(&usage) > line(&self.usage) / 20 * 21;
        clocks || due || faster || moved || over(&usage) != over(&self.usage)
    }

    fn work_out(&mut self, now: Now) -> bool {
        self.usage = self.usage_now(now);
        let (settings, facts) = (&self.effective.values, &self.facts);
        let limits = policy::limits(settings, facts, &self.usage, now.wall);
        self.skew_us = skew_us(now);
        self.utc_offset_s = now.wall.utc_offset_s;
        self.next_at = limits.next_change.map(|span| now.mono + span);
        let new = Limits {
            next_change: None,
            ..limits
        };
        let is_other = new != self.limits || !core::mem::replace(&mut self.applied, true);
        self.limits = new;
        is_other
    }

    /// Everything that is restricted now, in words.
    pub(super) fn restrictions(&self) -> Vec<String> {
        let limits = &self.limits;
        let uploads = &limits.uploads;
        let stopped = uploads.stopped.as_ref();
        // In a mode without peers that uploads rest goes without saying.
        let stopped = stopped.filter(|reason| limits.mode_reason.as_ref() != Some(*reason));
        let stopped = stopped.filter(|_| limits.mode.peers());
        [
            limits.mode_reason.as_ref(),
            limits.background.paused.as_ref(),
            stopped.filter(|reason| limits.background.paused.as_ref() != Some(*reason)),
            uploads.internet_stopped.as_ref(),
            limits.caches_reason.as_ref(),
        ]
        .into_iter()
        .flatten()
        .map(|reason| reason.to_string())
        .collect()
    }
}

impl Agent {
    pub(super) fn on_host(&mut self, mut facts: HostFacts) {
        let rules = &mut self.rules;
        if networks(&rules.facts) != networks(&facts) {
            rules.down.forget_line();
        }
        rules.yielding.on_host(&facts);
        rules.effective = rules.layers.effective(&facts);
        let answers = core::mem::take(&mut facts.port_answers);
        rules.facts = facts;
        self.reconsider();
        self.on_port_answers(&answers);
    }

    /// One provider says something else now. What it says wrong is told, and what held before stays.
    pub(super) fn on_configure(&mut self, provider: Provider, sources: &[Source]) -> Vec<Problem> {
        let problems = self.rules.layers.read(provider, sources);
        self.on_settings(&problems);
        problems
    }

    pub(super) fn on_group_policy(&mut self, place: &str, values: &BTreeMap<String, String>) {
        let problems = self
            .rules
            .layers
            .read_values(Provider::GroupPolicy, place, values);
        self.on_settings(&problems);
    }

    fn on_settings(&mut self, problems: &[Problem]) {
        for problem in problems {
            self.log(Level::Warn, problem.to_string());
        }
        self.rules.effective = self.rules.layers.effective(&self.rules.facts);
        self.reconsider();
    }

    pub(super) fn reconsider_if_stale(&mut self) {
        if self.rules.is_stale(self.now) {
            self.reconsider();
        }
    }

    /// Work the limits out, and tell whoever they bind if they are others than before.
    pub(super) fn reconsider(&mut self) {
        if !self.rules.work_out(self.now) {
            return;
        }
        let rules = &mut self.rules;
        rules.down.set(self.now.mono, &rules.limits);
        let rate = rules.limits.uploads.bytes_per_s;
        self.upload.set_rate(self.now.mono, rate);
        let calls_over_utp = rules.limits.transport != PeerTransport::Tcp;
        self.datagrams
            .set_accepting(self.me.share && calls_over_utp);
        let looks = rules.limits.looks_for_caches;
        if core::mem::replace(&mut rules.looks_for_caches, looks) != looks {
            self.fx.notify(Event::LookForCaches(looks));
        }
        self.tell_restrictions();
        self.want_mappings();
        self.tell_announcer();
        self.look_at_shelf();
        let owners: Vec<u64> = self.swarms.keys().copied().collect();
        for owner in owners {
            self.with_swarm(Some(owner), Swarm::on_limits);
        }
    }

    fn tell_restrictions(&mut self) {
        let mut now: BTreeSet<String> = self.rules.restrictions().into_iter().collect();
        let limits = &self.rules.limits;
        let wants_utp = limits.mode.peers() && limits.transport == PeerTransport::Utp;
        if wants_utp && !self.me.share {
            let set = self.rules.explain("peer_transport");
            now.insert(format!(
                "peers are called over TCP all the same: {set}, and only who shares has a socket for uTP (add --share)"
            ));
        }
        let old = core::mem::replace(&mut self.rules.told, now.clone());
        for text in now.difference(&old) {
            self.log(Level::Info, format!("from now on: {text}"));
        }
        for text in old.difference(&now) {
            self.log(Level::Info, format!("no longer: {text}"));
        }
    }

    /// The coordinator hears whom to name to us, and whether we can be named to others.
    pub(super) fn tell_announcer(&mut self) {
        let limits = &self.rules.limits;
        let scope = match limits.mode {
            Mode::Internet => Scope::Internet,
            Mode::Group => Scope::Group,
            _ => Scope::Lan,
        };
        let gives = limits.uploads.stopped.is_none();
        let port = self.me.port.filter(|_| gives).unwrap_or(0);
        self.tell_rendezvous();
        let limits = &self.rules.limits;
        self.fx.owner = ANNOUNCER;
        if let Some(announcer) = &mut self.announcer {
            announcer.set_scope(self.now, scope, limits.group.clone());
            announcer.set_addresses(own_addresses(limits));
            announcer.set_port(self.now, port);
        }
    }

    /// Why a download cannot even begin.
    pub(super) fn mode_refusal(&self, request: &GetRequest) -> Option<Failure> {
        let mode = self.rules.limits.mode;
        let mode = request.mode.map_or(mode, |own| mode.narrower(own));
        let set = self.rules.explain("download_mode");
        if mode == Mode::Bypass {
            let what = "downloads are refused";
            let why = format!("{set}; {}", Code::Refused);
            let failure = Failure::new(FailureKind::Refused, what, why);
            return Some(failure.remedy("fetch it by other means, or have the setting changed"));
        }
        if request.require_peers && !mode.peers() {
            let why = match &self.rules.limits.mode_reason {
                Some(reason) if self.rules.limits.mode == mode => reason.to_string(),
                _ => set,
            };
            let what = "peers are required, and none may be used";
            let failure = Failure::new(FailureKind::Refused, what, why);
            return Some(failure.remedy("leave --require-peers out, or have the setting changed"));
        }
        None
    }
}

/// Where this device can be reached in its own networks.
pub(super) fn own_addresses(limits: &Limits) -> Vec<IpAddr> {
    limits.local_networks.iter().map(|net| net.addr).collect()
}

/// ... and what somebody elsewhere can do something with, of both families by turns: only few can be told, and a machine
/// may have many of one.
pub(super) fn told_addresses(limits: &Limits) -> Vec<IpAddr> {
    let own = own_addresses(limits).into_iter();
    let is_usable = |ip: &IpAddr| !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let mut counts = [0; 2];
    let mut told: Vec<(u32, IpAddr)> = own
        .filter(is_usable)
        .map(|ip| {
            let count = &mut counts[usize::from(ip.is_ipv6())];
            *count += 1;
            (*count, ip)
        })
        .collect();
    told.sort_by_key(|(turn, _)| *turn);
    told.into_iter().map(|(_, ip)| ip).collect()
}

/// What the measured line belongs to.
fn networks(facts: &HostFacts) -> Vec<(&str, &[crate::host::Subnet])> {
    let routes = facts.interfaces.iter().filter(|i| i.default_route);
    routes
        .map(|i| (i.name.as_str(), i.subnets.as_slice()))
        .collect()
}

const fn skew_us(now: Now) -> i64 {
    now.wall.unix_us.wrapping_sub(now.mono.as_us() as i64)
}

/// Clocks that are corrected a little are not looked at again for that.
const CLOCK_JUMP_US: u64 = Duration::from_secs(2).as_micros() as u64;
