//! What the demo has shown, in numbers and in words.
//!
//! Decides: the bounds it is measured against. Integer arithmetic. Tests: below.

use dovetail_core::api::{DemoDeviceLine, DemoLine, Rate, Span};
use dovetail_core::stats::Bytes;
use std::fmt::Write as _;
use std::time::Duration;

/// One copy through a line of this rate.
pub(super) fn one_copy_us(length: u64, bytes_per_s: u64) -> u64 {
    ratio(length, 1_000_000, bytes_per_s)
}

/// `F/c · (1 + ⌊log2 N⌋/M)`: the least time in which `devices` hosts and one source, all sending at the same
/// rate, can spread a file of so many pieces (Mundinger, Weber, Weiss 2008).
pub(super) fn mundinger_us(one_copy_us: u64, devices: u32, pieces: u32) -> u64 {
    let rounds = u64::from(devices.checked_ilog2().unwrap_or(0));
    one_copy_us.saturating_add(ratio(one_copy_us, rounds, pieces.into()))
}

/// `a · b / c`, rounded down; 0 for a `c` of 0.
pub(super) fn ratio(a: u64, b: u64, c: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    let quotient = product.checked_div(c.into()).unwrap_or(0);
    u64::try_from(quotient).unwrap_or(u64::MAX)
}

/// A limit as it was probably typed: `20 MB/s`, else in powers of two.
pub(super) fn limit(bytes_per_s: u64) -> String {
    match (bytes_per_s / 1_000_000, bytes_per_s % 1_000_000) {
        (megabytes @ 1.., 0) => format!("{megabytes} MB/s"),
        _ => Rate(bytes_per_s).to_string(),
    }
}

/// The table and what follows from it.
pub(super) fn in_words(devices: &[DemoDeviceLine], demo: &DemoLine) -> String {
    let mut words = format!(
        "{:<8}{:>12}{:>15}{:>15}   {}\n",
        "device", "time", "from origin", "from peers", "SHA-256"
    );
    for line in devices {
        _ = writeln!(
            words,
            "{:<8}{:>12}{:>15}{:>15}   {}",
            line.device,
            Span(Duration::from_micros(line.elapsed_us)).to_string(),
            Bytes(line.received.origin).to_string(),
            Bytes(line.received.peers()).to_string(),
            if line.verified { "right" } else { "WRONG" }
        );
    }
    let span = |us| Span(Duration::from_micros(us));
    let separate_us = demo.bound_us.saturating_mul(demo.devices.into());
    _ = write!(
        words,
        "\n{} devices got {} in {}; separately it would have taken {} at {}.\n\
         The origin sent {} copies; {} % of all bytes came from peers.\n\
         One copy through the origin's line takes {}: this took {} times as long\n\
         ({} times Mundinger's bound of {} for devices no faster than the origin).",
        demo.devices,
        demo.file,
        span(demo.elapsed_us),
        span(separate_us),
        limit(demo.origin_limit_bytes_per_s),
        Hundredths(demo.origin_copies_permille / 10),
        demo.from_peers_permille / 10,
        span(demo.bound_us),
        Hundredths(ratio(demo.elapsed_us, 100, demo.bound_us)),
        Hundredths(ratio(demo.elapsed_us, 100, demo.mundinger_us)),
        span(demo.mundinger_us),
    );
    words
}

/// `1.05`
struct Hundredths(u64);

impl std::fmt::Display for Hundredths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dovetail_core::stats::ByClass;

    #[test]
    fn bounds() {
        // 256 MiB at 20 MB/s, 8 devices, pieces of 1 MiB: issue 2's example says 13.4 s for one copy.
        let one_copy = one_copy_us(256 << 20, 20_000_000);
        assert_eq!(one_copy, 13_421_772);
        assert_eq!(
            mundinger_us(one_copy, 8, 256),
            one_copy + one_copy * 3 / 256
        );
        assert_eq!(mundinger_us(one_copy, 1, 256), one_copy);
        assert_eq!(mundinger_us(one_copy, 8, 0), one_copy);
        assert_eq!(one_copy_us(1, 0), 0);
    }

    #[test]
    fn the_table() {
        let device = |device, verified| DemoDeviceLine {
            device,
            elapsed_us: 3_600_000,
            received: ByClass {
                origin: 14 << 20,
                lan: 50 << 20,
                ..ByClass::default()
            },
            verified,
        };
        let demo = DemoLine {
            file: "demo-64MiB.bin".into(),
            length: 64 << 20,
            devices: 2,
            origin_limit_bytes_per_s: 20_000_000,
            elapsed_us: 3_700_000,
            origin_copies_permille: 1054,
            from_peers_permille: 781,
            bound_us: 3_355_443,
            mundinger_us: 3_407_871,
            verified: false,
        };
        assert_eq!(
            in_words(&[device(1, true), device(2, false)], &demo),
            "\
device          time    from origin     from peers   SHA-256
1              3.6 s         14 MiB         50 MiB   right
2              3.6 s         14 MiB         50 MiB   WRONG

2 devices got demo-64MiB.bin in 3.7 s; separately it would have taken 6.7 s at 20 MB/s.
The origin sent 1.05 copies; 78 % of all bytes came from peers.
One copy through the origin's line takes 3.4 s: this took 1.10 times as long
(1.08 times Mundinger's bound of 3.4 s for devices no faster than the origin)."
        );
    }
}
