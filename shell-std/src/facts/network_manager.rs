//! NetworkManager, where it runs: which devices are metered, and the DHCP options of its leases.
//!
//! Decides: what of its answers counts. Never does: wait longer than [`PATIENCE`]; start its command where it does
//! not run. Its private files are left alone; its command is there with it, and works for every user.
//! Specification: nmcli(1), `NMMetered` of libnm. Tests: below, with a script in place of nmcli.

use super::Places;
use super::leases::{Lease, from_hex};
use super::links::{Link, Named};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// It answers in some hundredths of a second, if at all.
const PATIENCE: Duration = Duration::from_secs(1);

/// More than it says of a thousand devices.
const ANSWER_MAX: usize = 1 << 20;

/// What NetworkManager said; empty if it does not run or did not answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// By interface; those it does not know are not in it.
    is_metered: BTreeMap<String, bool>,
    pub(super) leases: Vec<Lease>,
}

impl Answer {
    /// Of the interfaces that lead to the Internet: metered if one of them is.
    pub(super) fn metered(&self, links: &[Link]) -> Option<bool> {
        links
            .iter()
            .filter(|link| link.interface.default_route)
            .filter_map(|link| self.is_metered.get(&link.interface.name))
            .copied()
            .reduce(|one, other| one || other)
    }
}

pub(super) fn ask(places: &Places) -> Answer {
    if !places.at("run/NetworkManager").is_dir() {
        return Answer::default();
    }
    say(places).map(|said| parse(&said)).unwrap_or_default()
}

/// What its command prints; `None` if there is none, or it takes too long.
fn say(places: &Places) -> Option<String> {
    let until = Instant::now() + PATIENCE;
    let mut child = Command::new(&places.nmcli)
        .args(["--terse", "--escape", "no", "--fields"])
        .args(["GENERAL.DEVICE,GENERAL.METERED,DHCP4", "device", "show"])
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut said = Vec::new();
    let mut is_whole = false;
    if let Some(mut pipe) = child.stdout.take() {
        let mut buffer = [0; 4096];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut wait = [PollFd::new(&pipe, PollFlags::IN)];
            let left = Timespec::try_from(left).ok();
            if poll(&mut wait, left.as_ref()).is_ok_and(|ready| ready == 0) {
                break;
            }
            match pipe.read(&mut buffer) {
                Ok(0) => {
                    is_whole = true;
                    break;
                }
                Ok(len) if said.len() < ANSWER_MAX => said.extend_from_slice(&buffer[..len]),
                Ok(_) | Err(_) => break,
            }
        }
    }
    // It has said all, or more than we wait for.
    _ = child.kill();
    _ = child.wait();
    is_whole.then(|| String::from_utf8_lossy(&said).into_owned())
}

/// `GENERAL.DEVICE:eth0`, then what is known of it:
/// `GENERAL.METERED:no (guessed)`, `DHCP4.OPTION[7]:private_235 = 63:2e`.
fn parse(said: &str) -> Answer {
    let mut answer = Answer::default();
    let mut device: Option<String> = None;
    for line in said.lines() {
        let Some((field, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        if field == "GENERAL.DEVICE" {
            device = Some(value.to_owned());
        }
        let Some(device) = &device else { continue };
        if field == "GENERAL.METERED" {
            let metered = match value.split(' ').next() {
                Some("yes") => true,
                Some("no") => false,
                _ => continue,
            };
            answer.is_metered.insert(device.clone(), metered);
        } else if field.starts_with("DHCP4.OPTION")
            && let Some((name, value)) = value.split_once(" = ")
        {
            option(&mut answer.leases, device, name, value);
        }
    }
    answer
}

fn option(leases: &mut Vec<Lease>, device: &str, name: &str, value: &str) {
    let interface = Named::Name(device.to_owned());
    if leases
        .last()
        .is_none_or(|lease| lease.interface != interface)
    {
        leases.push(Lease {
            interface,
            since_unix_s: 0,
            until_unix_s: None,
            group_id: None,
            cache_hosts: None,
        });
    }
    let Some(lease) = leases.last_mut() else {
        return;
    };
    match name {
        // It began one lease time before its end; and it holds, or it would not be shown.
        "expiry" => lease.since_unix_s += value.parse::<u32>().map_or(0, i64::from),
        "dhcp_lease_time" => lease.since_unix_s -= value.parse::<u32>().map_or(0, i64::from),
        "private_234" => lease.group_id = from_hex(value),
        "private_235" => lease.cache_hosts = from_hex(value),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Root;
    use super::*;
    use dovetail_core::host::Interface;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    const SAID: &str = "\
GENERAL.DEVICE:wwan0
GENERAL.METERED:yes (guessed)

GENERAL.DEVICE:eth0
GENERAL.METERED:no (guessed)
DHCP4.OPTION[1]:dhcp_lease_time = 600
DHCP4.OPTION[2]:expiry = 1795694400
DHCP4.OPTION[3]:private_234 = 7b:61:7d
DHCP4.OPTION[4]:private_235 = 63:2e:64:00

GENERAL.DEVICE:lo
GENERAL.METERED:unknown
";

    fn links(names: &[&str]) -> Vec<Link> {
        let link = |name: &&str| Link {
            index: None,
            interface: Interface {
                name: (*name).to_owned(),
                default_route: true,
                ..Interface::default()
            },
        };
        names.iter().map(link).collect()
    }

    #[test]
    fn metered_is_what_the_way_to_the_internet_is() {
        let answer = parse(SAID);
        for (names, metered) in [
            (&["eth0"][..], Some(false)),
            (&["wwan0"], Some(true)),
            (&["eth0", "wwan0"], Some(true)),
            (&["lo"], None),
            (&["other"], None),
            (&[], None),
        ] {
            assert_eq!(answer.metered(&links(names)), metered, "{names:?}");
        }
        let mut aside = links(&["eth0", "wwan0"]);
        aside[1].interface.default_route = false;
        assert_eq!(answer.metered(&aside), Some(false));
    }

    #[test]
    fn leases() {
        let expected = Lease {
            interface: Named::Name("eth0".into()),
            since_unix_s: 1_795_693_800,
            until_unix_s: None,
            group_id: Some("{a}".into()),
            cache_hosts: Some("c.d".into()),
        };
        assert_eq!(parse(SAID).leases, [expected]);
    }

    #[test]
    fn odd_answers() {
        for odd in [
            "",
            "GENERAL.METERED:yes",
            "DHCP4.OPTION[1]:private_235 = 61",
            "Error: NetworkManager is not running.",
            "GENERAL.DEVICE:x\nGENERAL.METERED:perhaps\nDHCP4.OPTION",
        ] {
            assert_eq!(parse(odd), Answer::default(), "{odd}");
        }
    }

    fn with_script(script: &str) -> Answer {
        let root = Root::new(&[("run/NetworkManager/x", "")]);
        root.write("nmcli", format!("#!/bin/sh\n{script}\n"));
        let places = root.places();
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&places.nmcli, executable).unwrap();
        ask(&places)
    }

    /// One test, not several: while one thread writes a program, another must not start one.
    #[test]
    fn the_command() {
        let said = with_script(&format!("cat <<'END'\n{SAID}END"));
        assert_eq!(said, parse(SAID));
        assert_eq!(with_script("exit 1"), Answer::default());
        let start = Instant::now();
        let slow = with_script(&format!("cat <<'END'\n{SAID}END\nexec sleep 100"));
        assert_eq!(slow, Answer::default());
        assert!(start.elapsed() < Duration::from_secs(20));
        // Where NetworkManager does not run, nothing is started.
        let root = Root::new(&[("nmcli", "not even a program")]);
        assert_eq!(ask(&root.places()), Answer::default());
        root.write("run/NetworkManager/x", "");
        assert_eq!(ask(&root.places()), Answer::default());
    }
}
