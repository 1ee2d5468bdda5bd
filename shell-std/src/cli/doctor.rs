//! `doctor`: looks at everything that could keep peers away, and prints what the core makes of it.
//!
//! Decides: where to look, and the words around the judgements. Never does: judge (`dovetail_core::doctor`), change
//! anything. Tests: `shell-smol/tests/doctor.rs`.

use super::args::{DoctorArgs, Global};
use super::home::Home;
use super::out::Out;
use super::settings::{self, Files};
use super::{env, errand, status};
use crate::Runtime;
use crate::facts::{Places, gather};
use crate::host::{Clock, words};
use crate::path::can_bound_receiving;
use dovetail_core::announce::messages::HEALTH_PATH;
use dovetail_core::api::{CheckLine, DoctorLine, Line, STATUS_TARGET};
use dovetail_core::doctor::{
    Coordinator, Findings, Firewall, Found, Health, Kernel, Port, examine,
};
use dovetail_core::failure::{Failure, FailureKind};
use dovetail_core::host::HostFacts;
use dovetail_core::http::{CallRequest, parse_http_date};
use dovetail_core::time::Wall;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// For each thing that is asked over the network.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where an agent listens unless it is told otherwise.
const PEERS_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7680);

pub(crate) fn doctor<R: Runtime>(
    args: &DoctorArgs,
    global: &Global,
    out: Out,
) -> Result<(), Failure> {
    let home = Home::new(global.home.as_deref())?;
    let checks = examine(&look::<R>(args, &home)?);
    for check in &checks {
        out.result(in_words(check).trim_end(), &Line::Check(check.clone()));
    }
    let line = DoctorLine::of(&checks);
    let summary = format!(
        "{}, {}, {} ok",
        count(line.problems, "problem"),
        count(line.warnings, "warning"),
        line.ok
    );
    out.result(&summary, &Line::Doctor(line));
    if line.problems == 0 {
        return Ok(());
    }
    let found = if line.problems == 1 {
        "a problem was"
    } else {
        "problems were"
    };
    let home = home.as_ref().display();
    let what = format!("the agent of {home} cannot use peers as it should");
    Err(Failure::new(
        FailureKind::Unwell,
        what,
        format!("{found} found"),
    ))
}

fn count(number: u32, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

/// A verdict and a name in columns, and below what else there is to say.
fn in_words(check: &CheckLine) -> String {
    let mut words = String::new();
    let (verdict, name) = (check.verdict.name(), &check.name);
    _ = writeln!(words, "{verdict:7}  {name:12}  {}", check.what);
    for (label, text) in [
        ("why: ", &check.why),
        ("set: ", &check.setting),
        ("do:  ", &check.remedy),
    ] {
        if !text.is_empty() {
            _ = writeln!(words, "{:23}{label}{text}", "");
        }
    }
    words
}

fn look<R: Runtime>(args: &DoctorArgs, home: &Home) -> Result<Findings, Failure> {
    let agent = agent(home);
    let status = match &agent {
        Found::Running(status) => Some(status),
        _ => None,
    };
    let told = status.map(|status| &status.policy.told[..]);
    let (layers, problems) = settings::load_for(told, &Files::of(home).read(), &[])?;
    let facts = gather(&Places::system(home.as_ref()));
    let now = Clock::start().now().wall;
    let theirs = status.and_then(|status| status.coordinator.as_ref());
    let url = args.coordinator.as_ref();
    let url = url.or_else(|| theirs.map(|coordinator| &coordinator.url));
    let at = status.and_then(|status| status.listening.as_ref()?.parse().ok());
    let port = match at {
        Some(at) => reach(reachable_at(at, &facts)),
        None => have(PEERS_DEFAULT),
    };
    let coordinator = match url {
        Some(url) => Some(coordinator::<R>(url, now)?),
        None => None,
    };
    Ok(Findings {
        home: home.as_ref().display().to_string(),
        version: env!("CARGO_PKG_VERSION").into(),
        settings: layers.effective(&facts),
        problems,
        now,
        coordinator,
        proxies: env::proxies_in_words(),
        firewall: firewall(Path::new("/"), port.at.port()),
        kernel: kernel(),
        port,
        facts,
        agent,
    })
}

fn agent(home: &Home) -> Found {
    if home.agent().is_none() {
        return Found::Nobody;
    }
    match status::ask(home, "GET", STATUS_TARGET, "") {
        Ok(Line::Status(status)) => Found::Running(status),
        Ok(_) => Found::Silent("its answer is about something else".into()),
        Err(failure) => Found::Silent(failure.to_string()),
    }
}

/// Where others would reach what listens there: all addresses stand for the one in the default route's network.
fn reachable_at(at: SocketAddr, facts: &HostFacts) -> SocketAddr {
    if !at.ip().is_unspecified() {
        return at;
    }
    let mut interfaces: Vec<_> = facts.interfaces.iter().collect();
    interfaces.sort_by_key(|interface| !interface.default_route);
    let mut own = interfaces
        .into_iter()
        .flat_map(|interface| &interface.subnets);
    let like = own.find(|net| net.addr.is_ipv4() && !net.addr.is_loopback());
    let ip = like.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |net| net.addr);
    SocketAddr::new(ip, at.port())
}

/// Does the agent answer there?
fn reach(at: SocketAddr) -> Port {
    let tcp = TcpStream::connect_timeout(&at, PATIENCE);
    let udp = match UdpSocket::bind(at) {
        Ok(_) => Err("the port is free".into()),
        Err(_) => Ok(()),
    };
    Port {
        at,
        tcp: tcp.map(drop).map_err(|e| words(&e)),
        udp,
    }
}

/// Could an agent listen there?
fn have(at: SocketAddr) -> Port {
    Port {
        at,
        tcp: TcpListener::bind(at).map(drop).map_err(|e| words(&e)),
        udp: UdpSocket::bind(at).map(drop).map_err(|e| words(&e)),
    }
}

fn coordinator<R: Runtime>(url: &str, now: Wall) -> Result<Coordinator, Failure> {
    let mut call = CallRequest::get(errand::below(url, HEALTH_PATH)?);
    call.timeout = PATIENCE;
    let begun = Instant::now();
    let answer = errand::run::<R>(call, env::proxies()?).map_err(|failure| failure.why);
    let answer = answer.and_then(|response| {
        if !response.status.is_success() {
            return Err(format!("it answers {}", response.status));
        }
        let date = response
            .headers
            .get("date")
            .and_then(|date| date.to_str().ok());
        let theirs_s = date.and_then(parse_http_date);
        Ok(Health {
            took_us: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
            ahead_s: theirs_s.map(|theirs_s| now.unix_us.div_euclid(1_000_000) - theirs_s),
        })
    });
    Ok(Coordinator {
        url: url.to_owned(),
        answer,
    })
}

/// The first firewall that is on. Rules are read where this user may.
fn firewall(root: &Path, port: u16) -> Option<Firewall> {
    let port = port.to_string();
    let names = |text: String| text.contains(&port);
    let read = |path: &str| fs::read_to_string(root.join(path)).ok();
    let found = |name: &str, names_port| {
        Some(Firewall {
            name: name.into(),
            names_port,
        })
    };
    if read("etc/ufw/ufw.conf").is_some_and(|conf| conf.contains("ENABLED=yes")) {
        return found("ufw", read("etc/ufw/user.rules").map(names));
    }
    if root.join("run/firewalld").is_dir() {
        return found(
            "firewalld",
            read("etc/firewalld/zones/public.xml").map(names),
        );
    }
    let rules = Command::new("nft")
        .args(["list", "ruleset"])
        .stdin(Stdio::null())
        .output();
    let rules = String::from_utf8_lossy(&rules.ok()?.stdout).into_owned();
    keeps_out(&rules).then(|| Firewall {
        name: "nftables".into(),
        names_port: Some(names(rules)),
    })
}

/// A chain for what comes in drops what no rule takes.
fn keeps_out(rules: &str) -> bool {
    let mut chains = rules.split("chain ");
    chains.any(|chain| chain.contains("hook input") && chain.contains("policy drop"))
}

fn kernel() -> Kernel {
    let stamps = fs::read_to_string("/proc/sys/net/ipv4/tcp_timestamps");
    let name = rustix::system::uname();
    Kernel {
        release: name.release().to_string_lossy().into_owned(),
        has_time_stamps: stamps.ok().map(|text| text.trim() != "0"),
        can_bound_receiving: can_bound_receiving(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dovetail_core::api::Verdict;

    #[test]
    fn a_check_in_words() {
        let check = CheckLine::new("mode", Verdict::Problem, "mode http-only: no peers")
            .why("no peers while the VPN wg0 is up")
            .setting("allow_vpn_peer_caching = false (built in)")
            .remedy("`dovetail config set allow_vpn_peer_caching true`");
        assert_eq!(
            in_words(&check),
            "problem  mode          mode http-only: no peers\n                       \
             why: no peers while the VPN wg0 is up\n                       \
             set: allow_vpn_peer_caching = false (built in)\n                       \
             do:  `dovetail config set allow_vpn_peer_caching true`\n"
        );
        let check = CheckLine::new("agent", Verdict::Ok, "it runs");
        assert_eq!(in_words(&check), "ok       agent         it runs\n");
    }

    #[test]
    fn firewalls_that_keep_out() {
        let root = std::env::temp_dir().join(format!("dovetail-doctor-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let found = || firewall(&root, 7680).map(|found| (found.name, found.names_port));
        write("etc/ufw/ufw.conf", "ENABLED=yes\n");
        assert_eq!(found(), Some(("ufw".into(), None)));
        write("etc/ufw/user.rules", "-A ufw-user-input -p tcp --dport 22");
        assert_eq!(found(), Some(("ufw".into(), Some(false))));
        write(
            "etc/ufw/user.rules",
            "-A ufw-user-input -p tcp --dport 7680",
        );
        assert_eq!(found(), Some(("ufw".into(), Some(true))));
        write("etc/ufw/ufw.conf", "ENABLED=no\n");
        write("run/firewalld/x", "");
        assert_eq!(found(), Some(("firewalld".into(), None)));
        fs::remove_dir_all(&root).unwrap();
        assert!(keeps_out(
            "table inet f {\n chain i {\n type filter hook input priority 0; policy drop;\n}"
        ));
        assert!(!keeps_out(
            "chain i {\n hook input; policy accept;\n}\nchain f {\n hook forward; policy drop;\n}"
        ));
    }

    #[test]
    fn where_others_reach_it() {
        let mut facts = HostFacts::default();
        let at = |text: &str, facts: &HostFacts| reachable_at(text.parse().unwrap(), facts);
        assert_eq!(at("0.0.0.0:7", &facts).to_string(), "127.0.0.1:7");
        for (subnet, default_route) in [
            ("127.0.0.1/8", false),
            ("10.8.0.2/24", false),
            ("10.1.0.7/16", true),
        ] {
            facts.interfaces.push(dovetail_core::host::Interface {
                subnets: vec![subnet.parse().unwrap()],
                default_route,
                ..Default::default()
            });
        }
        assert_eq!(at("0.0.0.0:7", &facts).to_string(), "10.1.0.7:7");
        assert_eq!(at("192.0.2.1:7", &facts).to_string(), "192.0.2.1:7");
    }
}
