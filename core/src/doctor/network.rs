//! Ways in and out: the port, firewalls, the coordinator, caches, proxies, NAT; and the clock.

use super::{Found, Health, Patient, ok, problem, warning};
use crate::api::{CheckLine, PortMappingState};
use crate::policy::is_private_v4;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

impl Patient<'_> {
    pub(super) fn network(&self, checks: &mut Vec<CheckLine>) {
        checks.extend(self.listening());
        checks.extend(self.firewall());
        checks.push(self.coordinator());
        checks.push(self.caches());
        checks.push(self.proxies());
        self.congestion(checks);
        checks.push(self.port_mapping());
        checks.push(self.nat());
        checks.push(self.clock());
    }

    fn listening(&self) -> Option<CheckLine> {
        const NAME: &str = "listening";
        let port = &self.found.port;
        let at = port.at;
        if matches!(self.found.agent, Found::Nobody) {
            let taken = port.tcp.as_ref().err().or_else(|| port.udp.as_ref().err());
            return Some(match taken {
                None => ok(NAME, format!("port {} is free for an agent", at.port())),
                Some(why) => problem(NAME, format!("port {} cannot be had", at.port()))
                    .why(why.as_str())
                    .remedy(
                        "stop the program that has it, or start the agent with another --listen",
                    ),
            });
        }
        self.status()?.listening.as_ref()?;
        Some(match (&port.tcp, &port.udp) {
            (Err(why), _) => problem(NAME, format!("{at} cannot be reached over TCP"))
                .why(why.as_str())
                .remedy("start the agent with a --listen that others reach, as in 0.0.0.0:7680"),
            (Ok(()), Err(why)) => warning(NAME, format!("nothing listens at {at} over UDP"))
                .why(why.as_str())
                .remedy("stop the agent and start it again"),
            (Ok(()), Ok(())) if at.ip().is_loopback() => {
                problem(NAME, format!("only this machine reaches {at}"))
                    .remedy("start the agent with a --listen that others reach, as in 0.0.0.0:7680")
            }
            (Ok(()), Ok(())) => ok(NAME, format!("peers get in at {at}, over TCP and UDP")),
        })
    }

    fn firewall(&self) -> Option<CheckLine> {
        const NAME: &str = "firewall";
        let firewall = self.found.firewall.as_ref()?;
        let (name, port) = (&firewall.name, self.found.port.at.port());
        if firewall.names_port == Some(true) {
            return Some(ok(NAME, format!("{name} names port {port}")));
        }
        let what = match firewall.names_port {
            Some(_) => format!("{name} does not name port {port}"),
            None => format!("{name} is on, and its rules cannot be read from here"),
        };
        let open = match name.as_str() {
            "ufw" => format!("`ufw allow {port}`"),
            "firewalld" => format!(
                "`firewall-cmd --permanent --add-port={port}/tcp --add-port={port}/udp`, then --reload"
            ),
            _ => format!("let TCP and UDP port {port} in"),
        };
        Some(warning(NAME, what).remedy(open))
    }

    fn coordinator(&self) -> CheckLine {
        const NAME: &str = "coordinator";
        let Some(coordinator) = &self.found.coordinator else {
            let check = warning(NAME, "none is named: peers are found by --peer alone");
            return check.remedy(match self.found.agent {
                Found::Running(_) => "start the agent with --coordinator URL",
                _ => "name one with `dovetail doctor --coordinator URL`",
            });
        };
        let url = &coordinator.url;
        match &coordinator.answer {
            Err(why) => problem(NAME, format!("{url} does not answer"))
                .why(why.as_str())
                .remedy("look whether it runs there, and whether a proxy or firewall is between"),
            Ok(Health { took_us, .. }) => {
                let took = milliseconds(*took_us);
                let lost = self.status().and_then(|status| status.coordinator.as_ref());
                if lost.is_some_and(|told| !told.reachable) {
                    let what = format!("{url} answers in {took}, but did not answer the agent");
                    return warning(NAME, what).remedy("look again in a minute");
                }
                ok(NAME, format!("{url} answers in {took}"))
            }
        }
    }

    /// The agent alone knows what it has found.
    fn caches(&self) -> CheckLine {
        const NAME: &str = "caches";
        if let Some(reason) = &self.limits.caches_reason {
            let check = warning(NAME, "cache servers are left alone");
            return self.because(check, reason);
        }
        let names: Vec<String> = match self.status() {
            Some(status) => status.policy.caches.clone(),
            None => self.limits.caches.iter().map(ToString::to_string).collect(),
        };
        let how = if self.limits.looks_for_caches {
            "cache_host_source"
        } else {
            "cache_host"
        };
        let what = match (names.is_empty(), self.limits.looks_for_caches) {
            (false, _) => names.join(", "),
            (true, true) if self.status().is_some() => "none is found by DNS-SD".into(),
            (true, true) => "an agent would look for one by DNS-SD".into(),
            (true, false) => "none is set".into(),
        };
        ok(NAME, what).setting(self.explain(how))
    }

    fn proxies(&self) -> CheckLine {
        const NAME: &str = "proxies";
        match &self.found.proxies[..] {
            [] => ok(NAME, "none in this environment"),
            proxies => {
                ok(NAME, proxies.join(", ")).why("in this environment; the agent goes by its own")
            }
        }
    }

    fn congestion(&self, checks: &mut Vec<CheckLine>) {
        const NAME: &str = "congestion";
        let kernel = &self.found.kernel;
        let before = checks.len();
        if kernel.has_time_stamps == Some(false) {
            let what = "TCP time stamps are off: downloads in the background yield less well";
            checks.push(warning(NAME, what).remedy("`sysctl net.ipv4.tcp_timestamps=1`"));
        }
        if !kernel.can_bound_receiving {
            let what = format!(
                "Linux {} cannot bound receive windows: downloads in the background yield less well",
                kernel.release
            );
            checks.push(warning(NAME, what).remedy("use Linux 5.15 or newer"));
        }
        if checks.len() == before {
            let what = format!(
                "Linux {}: background traffic yields in both directions",
                kernel.release
            );
            checks.push(ok(NAME, what));
        }
    }

    fn port_mapping(&self) -> CheckLine {
        const NAME: &str = "port_mapping";
        let Some(status) = self.status() else {
            return match &self.limits.port_map.v4 {
                Ok(target) => ok(
                    NAME,
                    format!("an agent would ask the router {}", target.gateway),
                ),
                Err(reason) => ok(NAME, "no router would be asked")
                    .why(reason.text.as_str())
                    .setting(self.explain(reason.setting)),
            };
        };
        let mapping = &status.nat.port_mapping;
        let (outside, protocol) = (mapping.outside.as_deref(), mapping.protocol.as_deref());
        let check = match mapping.state {
            PortMappingState::Off => ok(NAME, "no router is asked"),
            PortMappingState::Asked => {
                ok(NAME, "the router has been asked, and has not answered yet")
            }
            PortMappingState::Mapped => ok(
                NAME,
                format!(
                    "the router lets peers in at {} ({})",
                    outside.unwrap_or_default(),
                    protocol.unwrap_or_default()
                ),
            ),
            PortMappingState::Failed => warning(NAME, "the router gives no port").remedy(format!(
                "switch PCP or UPnP on at the router, or lead its port {} here",
                self.found.port.at.port()
            )),
        };
        check
            .why(mapping.why.as_str())
            .setting(mapping.setting.as_str())
    }

    fn nat(&self) -> CheckLine {
        let what = match (self.status(), self.limits.port_map.own_v4) {
            (Some(status), _) => status.nat.words.clone(),
            (None, None) => "whether there is a NAT is not known: no default route of IPv4".into(),
            (None, Some(own)) if is_private_v4(own) => format!("behind a NAT: {own}"),
            (None, Some(own)) => format!("no NAT: {own} is public"),
        };
        let is_hard_to_find = self.status().is_some_and(|status| {
            status.nat.is_symmetric && status.nat.port_mapping.state != PortMappingState::Mapped
        });
        if is_hard_to_find {
            let port = self.found.port.at.port();
            return warning("nat", what)
                .why("it takes another port for each peer, and peers behind strict NATs let that in only if they know it")
                .remedy(format!(
                    "lead port {port} here at the router, or start the coordinator with --relay RATE"
                ));
        }
        ok("nat", what)
    }

    fn clock(&self) -> CheckLine {
        const NAME: &str = "clock";
        if self.found.now.unix_us < BUILT_AFTER_UNIX_US {
            return problem(NAME, "the clock is years behind")
                .why("certificates seem not to be valid yet")
                .remedy("set it, for example with an NTP service");
        }
        let answer = self.found.coordinator.as_ref();
        let health = answer.and_then(|coordinator| coordinator.answer.as_ref().ok());
        match health.and_then(|health| health.ahead_s) {
            None => ok(NAME, "there is no other to compare it with"),
            Some(ahead_s) if ahead_s.abs() <= CLOCK_OFF_MAX_S => {
                ok(NAME, "it agrees with the coordinator's")
            }
            Some(ahead_s) => {
                let way = if ahead_s > 0 { "ahead of" } else { "behind" };
                let what = format!("it is {} s {way} the coordinator's", ahead_s.abs());
                warning(NAME, what)
                    .why("hours of the day and certificates go by it")
                    .remedy("set it, for example with an NTP service")
            }
        }
    }
}

/// This program is from after the 1st of November 2026.
const BUILT_AFTER_UNIX_US: i64 = 1_793_491_200_000_000;

/// Nothing here needs a better clock.
const CLOCK_OFF_MAX_S: i64 = 60;

/// `3.2 ms`
fn milliseconds(us: u64) -> String {
    format!("{}.{} ms", us / 1000, us % 1000 / 100)
}
