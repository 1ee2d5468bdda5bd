//! The port at the router: asked for, renewed, given back.
//!
//! Decides: when to ask, and what an answer means to the coordinator and to readers of the log. Never does: choose the
//! router (`policy/port_map.rs`), speak to it (the shell). A mapping is renewed at half of its lifetime, then at half of
//! what is left (RFC 6887 §11.2.1); whoever got none asks again after [`ASK_AGAIN`], or when the network is another one.
//! Invariant: at most one request of a family is out; what is not ours any more is not told to anybody.
//! Tests: `core/tests/port_mapping.rs`.

use super::Agent;
use crate::command::{Event, Level};
use crate::machine::Effects;
use crate::policy::{MapTarget, Reason};
use crate::port_map::{Family, PortAnswer, PortMapping, PortRequest};
use crate::time::{Deadline, Mono};
use alloc::format;
use alloc::string::String;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use core::time::Duration;

/// A lifetime short enough that a router which has forgotten all is soon told again.
const LIFETIME_S: u32 = 3600;

/// After a refusal, or silence: routers do not learn to map ports, but they are switched on later than we are.
const ASK_AGAIN: Duration = Duration::from_secs(30 * 60);

/// Between two attempts to renew, at least (RFC 6887 §11.2.1).
const RENEW_AFTER_MIN: Duration = Duration::from_secs(4);

#[derive(Debug)]
pub(super) struct Mappings {
    v4: Mapping,
    v6: Mapping,
    rounds: u32,
    nonce: [u8; 12],
}

/// Of one family.
#[derive(Debug)]
struct Mapping {
    family: Family,
    wanted: Option<Wanted>,
    asked: Option<u32>,
    held: Option<Held>,
    /// When to ask, first or again.
    next_at: Option<Mono>,
    failure: Option<String>,
    /// The last word to the log was that there is none.
    told_failure: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    target: MapTarget,
    port: u16,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    mapping: PortMapping,
    ends_at: Mono,
}

impl Mappings {
    pub(super) const fn new(nonce: [u8; 12]) -> Self {
        Self {
            v4: Mapping::new(Family::V4),
            v6: Mapping::new(Family::V6),
            rounds: 0,
            nonce,
        }
    }

    /// What the router gave over IPv4, and what was said instead.
    pub(super) const fn v4(&self) -> (Option<&PortMapping>, Option<&String>) {
        let held = match &self.v4.held {
            Some(held) => Some(&held.mapping),
            None => None,
        };
        (held, self.v4.failure.as_ref())
    }

    pub(super) const fn opened_v6(&self) -> bool {
        self.v6.held.is_some()
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        Deadline::earlier(self.v4.deadline(), self.v6.deadline())
    }

    /// No port is wanted any more.
    pub(super) fn stop(&mut self, fx: &mut Effects) {
        self.v4.want(Mono::ZERO, None, fx);
        self.v6.want(Mono::ZERO, None, fx);
    }
}

impl Mapping {
    const fn new(family: Family) -> Self {
        Self {
            family,
            wanted: None,
            asked: None,
            held: None,
            next_at: None,
            failure: None,
            told_failure: false,
        }
    }

    /// Another target is another router or another network: what was before is gone with it.
    fn want(&mut self, now: Mono, wanted: Option<Wanted>, fx: &mut Effects) {
        if wanted == self.wanted {
            return;
        }
        if wanted.is_none() && (self.asked.is_some() || self.held.is_some()) {
            fx.notify(Event::UnmapPort(self.family));
        }
        *self = Self {
            next_at: wanted.is_some().then_some(now),
            wanted,
            ..Self::new(self.family)
        };
    }

    fn deadline(&self) -> Option<Deadline> {
        let next = self
            .next_at
            .map(|at| Deadline::new(at, "ask the router for a port"));
        let end = self
            .held
            .map(|held| Deadline::new(held.ends_at, "the router takes the port back"));
        Deadline::earlier(next, end)
    }

    fn tick(&mut self, now: Mono, rounds: &mut u32, nonce: [u8; 12], fx: &mut Effects) {
        if self.held.is_some_and(|held| held.ends_at <= now) {
            self.held = None;
        }
        let is_due = self.next_at.is_some_and(|at| at <= now);
        let Some(wanted) = self.wanted.as_ref().filter(|_| is_due) else {
            return;
        };
        let local = match (self.family, wanted.target.addresses.first()) {
            (Family::V4, Some(addr)) => *addr,
            _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        *rounds += 1;
        self.asked = Some(*rounds);
        // Until the answer says better.
        self.next_at = Some(now + ASK_AGAIN);
        fx.notify(Event::MapPort(PortRequest {
            round: *rounds,
            gateway: wanted.target.gateway,
            interface: wanted.target.interface.clone(),
            local: SocketAddr::new(local, wanted.port),
            lifetime_s: LIFETIME_S,
            nonce,
        }));
    }

    /// What is to be logged of it, if anything.
    fn on_answer(&mut self, now: Mono, answer: &PortAnswer) -> Option<String> {
        self.asked.take_if(|round| *round == answer.round)?;
        let gateway = self.wanted.as_ref()?.target.gateway;
        let result = answer.result.as_ref().map_err(Clone::clone);
        match result.and_then(usable) {
            Ok(mapping) => {
                let lifetime = Duration::from_secs(mapping.lifetime_s.min(LIFETIME_S).into());
                let before = self.held.replace(Held {
                    mapping: *mapping,
                    ends_at: now + lifetime,
                });
                self.next_at = Some(now + (lifetime / 2).max(RENEW_AFTER_MIN));
                self.failure = None;
                self.told_failure = false;
                let same = before.is_some_and(|held| held.mapping.outside == mapping.outside);
                (!same).then(|| {
                    let PortMapping {
                        outside, protocol, ..
                    } = mapping;
                    format!("the router {gateway} lets peers in at {outside} ({protocol})")
                })
            }
            Err(why) => {
                let pause = match self.held {
                    Some(held) => (held.ends_at.since(now) / 2).max(RENEW_AFTER_MIN),
                    None => ASK_AGAIN,
                };
                self.next_at = Some(now + pause);
                let told = core::mem::replace(&mut self.told_failure, true);
                // Over IPv6 most routers are silent, and many have no firewall to open.
                let text = (!told && self.family == Family::V4).then(|| {
                    format!(
                        "the router {gateway} gives no port ({why}); peers in other networks may not get in here"
                    )
                });
                self.failure = Some(why);
                text
            }
        }
    }
}

/// A port that could not be renewed in time is none.
fn usable(mapping: &PortMapping) -> Result<&PortMapping, String> {
    let is_short = Duration::from_secs(mapping.lifetime_s.into()) < RENEW_AFTER_MIN * 2;
    if is_short || mapping.outside.port() == 0 || mapping.outside.ip().is_unspecified() {
        let PortMapping {
            outside,
            lifetime_s,
            ..
        } = mapping;
        return Err(format!("of no use: {outside} for {lifetime_s} s"));
    }
    Ok(mapping)
}

impl Agent {
    /// Where the router lets peers of other networks in.
    pub fn mapped(&self) -> Option<SocketAddr> {
        self.mappings.v4().0.map(|mapping| mapping.outside)
    }

    /// Limits, port or life have changed: is a port wanted, and from whom?
    pub(super) fn want_mappings(&mut self) {
        let port = self.me.port.filter(|_| self.me.share);
        let port = port.filter(|_| self.shutdown.is_none());
        let limits = &self.rules.limits.port_map;
        let wanted = |target: &Result<MapTarget, Reason>| {
            let target = target.as_ref().ok()?.clone();
            port.map(|port| Wanted { target, port })
        };
        let (v4, v6) = (wanted(&limits.v4), wanted(&limits.v6));
        let (now, mappings) = (self.now.mono, &mut self.mappings);
        mappings.v4.want(now, v4, &mut self.fx);
        mappings.v6.want(now, v6, &mut self.fx);
        self.tell_mapped();
    }

    pub(super) fn on_port_answers(&mut self, answers: &[PortAnswer]) {
        let now = self.now.mono;
        for answer in answers {
            let mappings = &mut self.mappings;
            let v4 = mappings.v4.on_answer(now, answer);
            let said = v4.or_else(|| mappings.v6.on_answer(now, answer));
            if let Some(text) = said {
                self.log(Level::Info, text);
            }
        }
        self.tell_mapped();
    }

    pub(super) fn tend_mappings(&mut self) {
        let now = self.now.mono;
        if self.mappings.deadline().is_none_or(|due| due.at > now) {
            return;
        }
        let Mappings {
            v4,
            v6,
            rounds,
            nonce,
        } = &mut self.mappings;
        v4.tick(now, rounds, *nonce, &mut self.fx);
        v6.tick(now, rounds, *nonce, &mut self.fx);
        self.tell_mapped();
    }

    /// The coordinator names the mapped port to peers in other networks.
    fn tell_mapped(&mut self) {
        let outside = self.mapped();
        if let Some(announcer) = &mut self.announcer {
            announcer.set_mapped(self.now, outside);
        }
    }
}
