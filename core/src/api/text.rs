//! The last line of a download.
//!
//! Decides: its wording. Never does: colour, width, bars; those are the shell's. Tests: below.

use crate::command::{Report, Verified};
use crate::stats::Bytes;
use crate::text::Span;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::time::Duration;

/// The last line of a download: `1.2 GiB in 14 s: 1.18 GiB from 6 peers, 20 MiB from origin, verified`.
pub fn summary(report: &Report) -> String {
    let mut parts: Vec<String> = Vec::new();
    let received = &report.received;
    if received.peers() > 0 {
        let noun = if report.peers == 1 { "peer" } else { "peers" };
        parts.push(format!(
            "{} from {} {noun}",
            Bytes(received.peers()),
            report.peers
        ));
    }
    if received.cache > 0 {
        parts.push(format!("{} from cache", Bytes(received.cache)));
    }
    if received.origin > 0 {
        parts.push(format!("{} from origin", Bytes(received.origin)));
    }
    if report.resumed > 0 {
        parts.push(format!("{} from an earlier run", Bytes(report.resumed)));
    }
    parts.push(
        match report.verified {
            Verified::Sha256 | Verified::Merkle => "verified",
            Verified::Length => "not verified (nobody gave a hash)",
        }
        .to_string(),
    );
    format!(
        "{} in {}: {}",
        Bytes(report.length),
        Span(Duration::from_micros(report.elapsed_us)),
        parts.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::ByClass;

    fn report() -> Report {
        Report {
            output: "/tmp/x".into(),
            length: 12 * (1 << 30) / 10 + 1,
            elapsed_us: 14_100_000,
            received: ByClass {
                origin: 20 << 20,
                lan: 118 * (1 << 30) / 100 + 1,
                ..ByClass::default()
            },
            wasted: 0,
            resumed: 0,
            peers: 6,
            verified: Verified::Merkle,
            sha256: None,
        }
    }

    #[test]
    fn the_last_line() {
        assert_eq!(
            summary(&report()),
            "1.2 GiB in 14 s: 1.18 GiB from 6 peers, 20 MiB from origin, verified"
        );
        let alone = Report {
            length: 100,
            elapsed_us: 300_000,
            received: ByClass {
                origin: 60,
                ..ByClass::default()
            },
            resumed: 40,
            peers: 0,
            verified: Verified::Length,
            ..report()
        };
        assert_eq!(
            summary(&alone),
            "100 B in 0.3 s: 60 B from origin, 40 B from an earlier run, not verified (nobody gave a hash)"
        );
        let one = Report {
            received: ByClass {
                lan: 1024,
                link_local: 1024,
                cache: 512,
                ..ByClass::default()
            },
            length: 2560,
            peers: 1,
            verified: Verified::Sha256,
            ..report()
        };
        assert_eq!(
            summary(&one),
            "2.5 KiB in 14 s: 2 KiB from 1 peer, 512 B from cache, verified"
        );
    }
}
