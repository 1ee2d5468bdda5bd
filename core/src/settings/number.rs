//! Numbers: sizes, rates and spans with a unit; percentages, counts and switches without.
//!
//! Decides: which units there are, the words for what is wrong. Tests: `table_tests.rs`.

use super::kind::{Bounds, Kind, Notation, Unit};
use super::value::{Fallback, Percent};
use crate::text::{parse_duration, parse_rate, parse_size};
use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::{String, ToString as _};
use core::time::Duration;

/// Numbers that have a unit.
pub(super) trait Measure {
    const NOUN: &'static str;
    const EXAMPLE: &'static str;
    /// What most people will have meant by a bare number.
    const LIKELY: &'static str;
    /// Largest first.
    const UNITS: &'static [(u64, &'static str)];
    fn read(text: &str) -> Result<u64, String>;
}

pub(super) struct Sizes;
pub(super) struct Rates;
pub(super) struct Spans;

impl Measure for Sizes {
    const NOUN: &'static str = "a size";
    const EXAMPLE: &'static str = "50MB";
    const LIKELY: &'static str = "MB";
    const UNITS: &'static [(u64, &'static str)] = &[
        (1 << 40, "TiB"),
        (1_000_000_000_000, "TB"),
        (1 << 30, "GiB"),
        (1_000_000_000, "GB"),
        (1 << 20, "MiB"),
        (1_000_000, "MB"),
        (1 << 10, "KiB"),
        (1_000, "KB"),
        (1, "B"),
    ];

    fn read(text: &str) -> Result<u64, String> {
        parse_size(text).map_err(|e| e.to_string())
    }
}

impl Measure for Rates {
    const NOUN: &'static str = "a rate";
    const EXAMPLE: &'static str = "20MB/s";
    const LIKELY: &'static str = "KB/s";
    const UNITS: &'static [(u64, &'static str)] = &[
        (1 << 40, "TiB/s"),
        (1_000_000_000_000, "TB/s"),
        (1 << 30, "GiB/s"),
        (1_000_000_000, "GB/s"),
        (1 << 20, "MiB/s"),
        (1_000_000, "MB/s"),
        (1 << 10, "KiB/s"),
        (1_000, "KB/s"),
        (1, "B/s"),
    ];

    fn read(text: &str) -> Result<u64, String> {
        parse_rate(text).map_err(|e| e.to_string())
    }
}

impl Measure for Spans {
    const NOUN: &'static str = "a span of time";
    const EXAMPLE: &'static str = "3d or 90s";
    const LIKELY: &'static str = "s";
    const UNITS: &'static [(u64, &'static str)] = &[
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "min"),
        (1000, "s"),
        (1, "ms"),
    ];

    fn read(text: &str) -> Result<u64, String> {
        let span = parse_duration(text).map_err(|e| e.to_string())?;
        u64::try_from(span.as_millis()).map_err(|_| "the number is too large".to_owned())
    }
}

fn measure<M: Measure>(text: &str, notation: Notation, bounds: Bounds) -> Result<u64, String> {
    let bare = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let value = match notation {
        Notation::Microsoft(unit) => whole(text, unit)?
            .checked_mul(unit.scale())
            .ok_or_else(|| "the number is too large".to_owned())?,
        Notation::Ours if bare && text.bytes().all(|b| b == b'0') => 0,
        Notation::Ours if bare => {
            return Err(format!("it needs a unit, as in {text}{}", M::LIKELY));
        }
        Notation::Ours => M::read(text)?,
    };
    within(value, bounds)
}

fn show_measure<M: Measure>(value: u64) -> String {
    if value == 0 {
        return "0".to_owned();
    }
    let exact = M::UNITS
        .iter()
        .find(|(scale, _)| value.is_multiple_of(*scale));
    let (scale, unit) = exact.copied().unwrap_or((1, ""));
    if value / scale < 10_000 {
        return format!("{}{unit}", value / scale);
    }
    // Three decimals of a larger unit may be exact, and shorter.
    let shorter = M::UNITS.iter().find(|(scale, _)| {
        value >= *scale && (u128::from(value) * 1000).is_multiple_of(u128::from(*scale))
    });
    match shorter {
        Some((larger, unit)) if *larger > scale && larger.is_multiple_of(1000) => {
            let thousandths = u128::from(value) * 1000 / u128::from(*larger);
            let decimals = format!("{:03}", thousandths % 1000);
            let decimals = decimals.trim_end_matches('0');
            format!("{}.{decimals}{unit}", thousandths / 1000)
        }
        _ => format!("{}{unit}", value / scale),
    }
}

fn allowed_measure<M: Measure>(bounds: Bounds) -> String {
    let (min, max) = (show_measure::<M>(bounds.min), show_measure::<M>(bounds.max));
    format!("{} from {min} to {max}, as in {}", M::NOUN, M::EXAMPLE)
}

/// A whole number without a unit.
fn whole(text: &str, unit: Unit) -> Result<u64, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(value) if digits => Ok(value),
        _ if digits => Err("the number is too large".to_owned()),
        _ => Err(match unit {
            Unit::Plain => "it is not a whole number".to_owned(),
            unit => format!("it is not a whole number (of {})", unit.name()),
        }),
    }
}

fn within(value: u64, bounds: Bounds) -> Result<u64, String> {
    if value < bounds.min {
        return Err("it is too small".to_owned());
    }
    if value > bounds.max {
        return Err("it is too large".to_owned());
    }
    Ok(value)
}

/// Bytes.
pub(super) struct Size;

impl Kind for Size {
    type Value = u64;

    fn parse(text: &str, notation: Notation, bounds: Bounds) -> Result<u64, String> {
        measure::<Sizes>(text, notation, bounds)
    }

    fn show(value: &u64) -> String {
        show_measure::<Sizes>(*value)
    }

    fn allowed(bounds: Bounds) -> String {
        allowed_measure::<Sizes>(bounds)
    }
}

/// Bytes per second.
pub(super) struct Rate;

impl Kind for Rate {
    type Value = u64;

    fn parse(text: &str, notation: Notation, bounds: Bounds) -> Result<u64, String> {
        measure::<Rates>(text, notation, bounds)
    }

    fn show(value: &u64) -> String {
        show_measure::<Rates>(*value)
    }

    fn allowed(bounds: Bounds) -> String {
        allowed_measure::<Rates>(bounds)
    }
}

pub(super) struct Span;

impl Kind for Span {
    type Value = Duration;

    fn parse(text: &str, notation: Notation, bounds: Bounds) -> Result<Duration, String> {
        measure::<Spans>(text, notation, bounds).map(Duration::from_millis)
    }

    fn show(value: &Duration) -> String {
        show_measure::<Spans>(value.as_millis() as u64)
    }

    fn allowed(bounds: Bounds) -> String {
        allowed_measure::<Spans>(bounds)
    }
}

/// A span of time, or never.
pub(super) struct Delay;

impl Kind for Delay {
    type Value = Fallback;

    fn parse(text: &str, notation: Notation, bounds: Bounds) -> Result<Fallback, String> {
        if text == "-1" || (text == "never" && notation == Notation::Ours) {
            return Ok(Fallback::Never);
        }
        Ok(match measure::<Spans>(text, notation, bounds)? {
            0 => Fallback::AtOnce,
            ms => Fallback::After(Duration::from_millis(ms)),
        })
    }

    fn show(value: &Fallback) -> String {
        match value {
            Fallback::AtOnce => "0".to_owned(),
            Fallback::After(span) => Span::show(span),
            Fallback::Never => "never".to_owned(),
        }
    }

    fn allowed(bounds: Bounds) -> String {
        format!("{}, or never", allowed_measure::<Spans>(bounds))
    }
}

// --- without a unit

pub(super) struct Share;

impl Kind for Share {
    type Value = Percent;

    fn parse(text: &str, notation: Notation, bounds: Bounds) -> Result<Percent, String> {
        let number = match notation {
            Notation::Ours => text.strip_suffix('%').unwrap_or(text).trim_end(),
            Notation::Microsoft(_) => text,
        };
        let value = within(whole(number, Unit::Percent)?, bounds)?;
        u8::try_from(value)
            .map(Percent)
            .map_err(|_| "it is too large".to_owned())
    }

    fn show(value: &Percent) -> String {
        format!("{}%", value.0)
    }

    fn allowed(bounds: Bounds) -> String {
        format!("a percentage from {}% to {}%", bounds.min, bounds.max)
    }
}

pub(super) struct Count;

impl Kind for Count {
    type Value = u32;

    fn parse(text: &str, _: Notation, bounds: Bounds) -> Result<u32, String> {
        let value = within(whole(text, Unit::Plain)?, bounds)?;
        u32::try_from(value).map_err(|_| "it is too large".to_owned())
    }

    fn show(value: &u32) -> String {
        value.to_string()
    }

    fn allowed(bounds: Bounds) -> String {
        format!("a number from {} to {}", bounds.min, bounds.max)
    }
}

pub(super) struct Switch;

impl Kind for Switch {
    type Value = bool;

    fn parse(text: &str, _: Notation, _: Bounds) -> Result<bool, String> {
        match text {
            "true" | "on" | "yes" | "1" => Ok(true),
            "false" | "off" | "no" | "0" => Ok(false),
            _ => Err("it is neither true nor false".to_owned()),
        }
    }

    fn show(value: &bool) -> String {
        value.to_string()
    }

    fn allowed(_: Bounds) -> String {
        "true or false".to_owned()
    }
}
