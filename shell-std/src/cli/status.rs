//! `status`: what this home's agent is doing, in words.

use super::args::Global;
use super::bars::total_words;
use super::exchange;
use super::home::Home;
use super::out::Out;
use crate::host::words;
use dovetail_core::api::{Line, PortMappingState, STATUS_TARGET, Status};
use dovetail_core::failure::{Failure, FailureKind};
use dovetail_core::stats::Bytes;
use std::fmt::Write as _;
use std::io;
use std::time::Duration;

pub(crate) fn status(global: &Global, out: Out) -> Result<(), Failure> {
    let home = Home::new(global.home.as_deref())?;
    match ask(&home, "GET", STATUS_TARGET, "")? {
        Line::Status(status) => {
            out.result(in_words(&status).trim_end(), &Line::Status(status));
            Ok(())
        }
        Line::Failed(failed) => Err(failed.failure),
        _ => Err(garbled("it is about something else".into())),
    }
}

/// One question to this home's agent, and its answer of one line.
pub(super) fn ask(home: &Home, method: &str, target: &str, body: &str) -> Result<Line, Failure> {
    let Some(stream) = home.agent() else {
        return Err(Failure::new(
            FailureKind::Unavailable,
            "cannot ask the agent",
            format!("none is running in {}", home.as_ref().display()),
        )
        .remedy("start one with `dovetail agent`, or name its folder with --home"));
    };
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            let why = format!("there was none for {} s", PATIENCE.as_secs());
            garbled(why).remedy("look whether the agent is stopped or stuck, and start it again")
        }
        _ => garbled(words(&e)),
    };
    // One that is stuck shall not hold up those who ask.
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut answer = exchange::ask(stream, method, target, body).map_err(failed)?;
    let text = answer.line().map_err(failed)?.unwrap_or_default();
    Line::parse(&text).map_err(|e| garbled(e.to_string()))
}

/// An agent answers such questions at once.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn garbled(why: String) -> Failure {
    let what = "cannot read the agent's answer";
    Failure::new(FailureKind::Unavailable, what, why)
}

fn in_words(status: &Status) -> String {
    let mut words = String::new();
    _ = match &status.coordinator {
        None => writeln!(words, "no coordinator"),
        Some(c) if c.reachable => writeln!(words, "coordinator {} answers", c.url),
        Some(c) => writeln!(words, "coordinator {} does not answer", c.url),
    };
    let policy = &status.policy;
    if !policy.mode.is_empty() {
        _ = writeln!(words, "mode {}: {}", policy.mode, policy.mode_set);
    }
    for restriction in &policy.restrictions {
        _ = writeln!(words, "  {restriction}");
    }
    if !policy.caches.is_empty() {
        _ = writeln!(words, "cache servers: {}", policy.caches.join(", "));
    }
    // In the other modes nobody comes from elsewhere.
    if status.nat.port_mapping.state != PortMappingState::Off {
        _ = writeln!(words, "{}", status.nat.words);
    }
    heading(&mut words, status.jobs.len(), "download", "downloads");
    for job in &status.jobs {
        let progress = total_words(&job.progress.progress());
        _ = match &job.progress.waiting {
            Some(why) => writeln!(words, "  {}: waits: {why}", job.output),
            None => writeln!(words, "  {}: {progress}", job.output),
        };
    }
    heading(
        &mut words,
        status.shared.len(),
        "file offered",
        "files offered",
    );
    for shared in &status.shared {
        let (length, sent) = (Bytes(shared.length), Bytes(shared.sent));
        _ = writeln!(words, "  {}: {length}, {sent} sent", shared.path);
    }
    heading(
        &mut words,
        status.peers.len(),
        "peer connected",
        "peers connected",
    );
    for peer in &status.peers {
        let (received, sent) = (Bytes(peer.received), Bytes(peer.sent));
        _ = writeln!(
            words,
            "  {} ({}, over {}): {received} received, {sent} sent",
            peer.addr, peer.class, peer.transport
        );
    }
    words
}

fn heading(words: &mut String, count: usize, one: &str, many: &str) {
    _ = match count {
        0 => writeln!(words, "no {many}"),
        1 => writeln!(words, "1 {one}"),
        n => writeln!(words, "{n} {many}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use dovetail_core::api::{
        CoordinatorStatus, JobStatus, NatStatus, PeerStatus, PolicyStatus, PortMappingStatus,
        ProgressLine, SharedStatus,
    };

    #[test]
    fn a_busy_agent_in_words() {
        let status = Status {
            jobs: vec![JobStatus {
                call: 1,
                output: "/srv/a.iso".into(),
                progress: ProgressLine {
                    length: 2048,
                    done: 1024,
                    ..ProgressLine::default()
                },
            }],
            shared: vec![],
            peers: vec![
                PeerStatus {
                    addr: "10.0.0.7:7680".into(),
                    class: "lan".into(),
                    transport: "tcp".into(),
                    received: 1024,
                    sent: 0,
                };
                2
            ],
            coordinator: Some(CoordinatorStatus {
                url: "http://c:7681".into(),
                reachable: true,
            }),
            policy: PolicyStatus {
                mode: "http-only".into(),
                mode_set: "download_mode = lan (built in)".into(),
                restrictions: vec!["no peers while the VPN wg0 is up".into()],
                caches: vec!["http://cache:8081".into()],
                internet_upload_bytes: 0,
                told: vec![],
            },
            nat: NatStatus {
                words: "behind a NAT: 192.168.1.20".into(),
                port_mapping: PortMappingStatus {
                    state: PortMappingState::Failed,
                    ..PortMappingStatus::default()
                },
                ..NatStatus::default()
            },
            ..Status::default()
        };
        assert_eq!(
            in_words(&status),
            "coordinator http://c:7681 answers\n\
             mode http-only: download_mode = lan (built in)\n  \
             no peers while the VPN wg0 is up\n\
             cache servers: http://cache:8081\n\
             behind a NAT: 192.168.1.20\n\
             1 download\n  /srv/a.iso: 1 KiB of 2 KiB, 0 B/s\n\
             no files offered\n\
             2 peers connected\n  \
             10.0.0.7:7680 (lan, over tcp): 1 KiB received, 0 B sent\n  \
             10.0.0.7:7680 (lan, over tcp): 1 KiB received, 0 B sent\n"
        );
        let shared = SharedStatus {
            path: "/srv/b".into(),
            length: 1,
            root: String::new(),
            sent: 2,
        };
        let idle = Status {
            shared: vec![shared],
            ..Status::default()
        };
        assert_eq!(
            in_words(&idle),
            "no coordinator\nno downloads\n1 file offered\n  /srv/b: 1 B, 2 B sent\nno peers connected\n"
        );
    }
}
