//! How each kind of value is written: parsed, bounded, rendered.
//!
//! Decides: notations, and the words for what is wrong. Invariant: what [`Kind::show`] writes, [`Kind::parse`] reads
//! back as the same value. Never does: which setting has which kind (`table`). Tests: below and in `table`.

use super::value::{
    CacheHostSource, DayHours, Encryption, Fallback, GroupIdSource, HoursLimit, Mode, NetworkRule,
    Percent, Restrict,
};
use crate::limits::NAME_LEN_MAX;
use crate::text::{parse_duration, parse_rate, parse_size};
use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::time::Duration;

/// Whose notation a value is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notation {
    /// Numbers carry their unit.
    Ours,
    /// Bare numbers, in the unit of the policy.
    Microsoft(Unit),
}

/// The unit of a Delivery Optimization policy. Kilobytes are 1024 bytes, megabytes and gigabytes powers of 1000, so
/// that the numbers Microsoft ships are our defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// A number that is none of a unit, or a text.
    Plain,
    KilobytesPerSecond,
    Megabytes,
    Gigabytes,
    Seconds,
    Percent,
}

impl Unit {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::KilobytesPerSecond => "KB/s",
            Self::Megabytes => "MB",
            Self::Gigabytes => "GB",
            Self::Seconds => "s",
            Self::Percent => "%",
        }
    }

    /// In bytes, bytes per second or milliseconds.
    pub(super) const fn scale(self) -> u64 {
        match self {
            Self::Plain | Self::Percent => 1,
            Self::KilobytesPerSecond => 1024,
            Self::Megabytes => 1_000_000,
            Self::Gigabytes => 1_000_000_000,
            Self::Seconds => 1000,
        }
    }
}

/// The least and the most, in bytes, bytes per second, milliseconds, percent, hours or pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) min: u64,
    pub(super) max: u64,
}

/// How a value may look in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Scalar,
    List,
    /// A window of hours.
    Hours,
    /// `[[network]]`
    Networks,
}

/// One kind of value.
pub(super) trait Kind {
    type Value;
    const SHAPE: Shape = Shape::Scalar;
    /// Other words for [`UNSET`].
    const ALSO_UNSET: &'static [&'static str] = &[];

    /// The value, or what is wrong with the text.
    fn parse(text: &str, notation: Notation, bounds: Bounds) -> Result<Self::Value, String>;
    fn show(value: &Self::Value) -> String;
    /// What it is, and what is allowed.
    fn allowed(bounds: Bounds) -> String;
}

/// How nothing is written where a value may be missing.
const UNSET: &str = "unset";

// --- numbers with a unit

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

// --- numbers without

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

// --- one of several

/// Values with names, and Delivery Optimization's numbers if it has them.
pub(super) trait Choice: Copy + PartialEq + 'static {
    const ALL: &'static [(Self, &'static str, Option<u8>)];
    const ALSO_UNSET: &'static [&'static str] = &[];
}

pub(super) struct One<C>(PhantomData<C>);

impl<C: Choice> Kind for One<C> {
    type Value = C;
    const ALSO_UNSET: &'static [&'static str] = C::ALSO_UNSET;

    fn parse(text: &str, _: Notation, _: Bounds) -> Result<C, String> {
        let number = text.parse::<u8>().ok();
        let found = C::ALL
            .iter()
            .find(|(_, name, known)| *name == text || (known.is_some() && *known == number));
        found
            .map(|(choice, _, _)| *choice)
            .ok_or_else(|| "there is no such choice".to_owned())
    }

    fn show(value: &C) -> String {
        let found = C::ALL.iter().find(|(choice, _, _)| choice == value);
        found.map_or_else(String::new, |(_, name, _)| (*name).to_owned())
    }

    fn allowed(_: Bounds) -> String {
        let names: Vec<String> = C::ALL
            .iter()
            .map(|(_, name, number)| match number {
                Some(number) => format!("{name} ({number})"),
                None => (*name).to_owned(),
            })
            .collect();
        match names.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
            None => String::new(),
        }
    }
}

const fn entry(mode: Mode) -> (Mode, &'static str, Option<u8>) {
    (mode, mode.name(), Some(mode.number()))
}

impl Choice for Mode {
    const ALL: &'static [(Self, &'static str, Option<u8>)] = &[
        entry(Self::HttpOnly),
        entry(Self::Lan),
        entry(Self::Group),
        entry(Self::Internet),
        entry(Self::Simple),
        entry(Self::Bypass),
    ];
}

impl Choice for GroupIdSource {
    const ALL: &'static [(Self, &'static str, Option<u8>)] = &[
        (Self::DhcpOption234, "dhcp", Some(3)),
        (Self::DnsSuffix, "dns-suffix", Some(4)),
    ];
    const ALSO_UNSET: &'static [&'static str] = &["0"];
}

impl Choice for Restrict {
    const ALL: &'static [(Self, &'static str, Option<u8>)] = &[
        (Self::Auto, "auto", None),
        (Self::None, "none", Some(0)),
        (Self::Subnet, "subnet", Some(1)),
        (Self::LocalDiscovery, "local-discovery", Some(2)),
    ];
}

impl Choice for CacheHostSource {
    const ALL: &'static [(Self, &'static str, Option<u8>)] = &[
        (Self::Static, "static", Some(0)),
        (Self::Dhcp, "dhcp", Some(1)),
        (Self::DhcpForced, "dhcp-forced", Some(2)),
    ];
}

impl Choice for Encryption {
    const ALL: &'static [(Self, &'static str, Option<u8>)] = &[
        (Self::Required, "required", None),
        (Self::Preferred, "preferred", None),
        (Self::Off, "off", None),
    ];
}

/// A value that may be missing.
pub(super) struct Maybe<K>(PhantomData<K>);

impl<K: Kind> Kind for Maybe<K> {
    type Value = Option<K::Value>;
    const SHAPE: Shape = K::SHAPE;

    fn parse(text: &str, notation: Notation, bounds: Bounds) -> Result<Self::Value, String> {
        if text == UNSET || K::ALSO_UNSET.contains(&text) {
            return Ok(None);
        }
        K::parse(text, notation, bounds).map(Some)
    }

    fn show(value: &Self::Value) -> String {
        value.as_ref().map_or_else(|| UNSET.to_owned(), K::show)
    }

    fn allowed(bounds: Bounds) -> String {
        format!("{}, or {UNSET}", K::allowed(bounds))
    }
}

// --- texts

/// A name of up to [`NAME_LEN_MAX`] bytes.
pub(super) struct Name;

impl Kind for Name {
    type Value = String;

    fn parse(text: &str, _: Notation, _: Bounds) -> Result<String, String> {
        match text {
            "" => Err("it is empty".to_owned()),
            text if text.len() > NAME_LEN_MAX => Err("it is too long".to_owned()),
            text if text.chars().any(char::is_control) => {
                Err("it has a control character".to_owned())
            }
            text => Ok(text.to_owned()),
        }
    }

    fn show(value: &String) -> String {
        value.clone()
    }

    fn allowed(_: Bounds) -> String {
        format!("a text of up to {NAME_LEN_MAX} bytes, often a GUID")
    }
}

/// A folder of this machine.
pub(super) struct Folder;

impl Kind for Folder {
    type Value = String;

    fn parse(text: &str, _: Notation, _: Bounds) -> Result<String, String> {
        if text.starts_with('/') {
            return Ok(text.to_owned());
        }
        Err("it does not begin with a slash".to_owned())
    }

    fn show(value: &String) -> String {
        value.clone()
    }

    fn allowed(_: Bounds) -> String {
        "the whole path of a folder, as in /srv/dovetail".to_owned()
    }
}

fn split_list(text: &str) -> Vec<String> {
    let parts = text.split(',').map(str::trim);
    parts
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Words to look for.
pub(super) struct Words;

impl Kind for Words {
    type Value = Vec<String>;
    const SHAPE: Shape = Shape::List;

    fn parse(text: &str, _: Notation, _: Bounds) -> Result<Vec<String>, String> {
        Ok(split_list(text))
    }

    fn show(value: &Vec<String>) -> String {
        value.join(", ")
    }

    fn allowed(_: Bounds) -> String {
        "a list of words, as in [\"corp\", \"tunnel\"] or \"corp, tunnel\"".to_owned()
    }
}

/// Names or addresses of servers, with or without a port.
pub(super) struct Hosts;

impl Kind for Hosts {
    type Value = Vec<String>;
    const SHAPE: Shape = Shape::List;

    fn parse(text: &str, _: Notation, _: Bounds) -> Result<Vec<String>, String> {
        let hosts = split_list(text);
        let fits =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
        match hosts.iter().find(|host| !host.chars().all(fits)) {
            Some(host) => Err(format!("`{host}` is not HOST or HOST:PORT")),
            None => Ok(hosts),
        }
    }

    fn show(value: &Vec<String>) -> String {
        value.join(", ")
    }

    fn allowed(_: Bounds) -> String {
        "a list of HOST or HOST:PORT, as in [\"cache1\", \"10.0.0.5:8080\"] or \"cache1, 10.0.0.5:8080\""
            .to_owned()
    }
}

// --- tables

/// `8-17 10% else 45%`
pub(super) struct Hours;

impl Kind for Hours {
    type Value = HoursLimit;
    const SHAPE: Shape = Shape::Hours;

    fn parse(text: &str, _: Notation, _: Bounds) -> Result<HoursLimit, String> {
        let shape = || "it is not FROM-TO PERCENT else PERCENT".to_owned();
        let (from, rest) = text.split_once('-').ok_or_else(shape)?;
        let (to, rest) = rest.trim_start().split_once(' ').ok_or_else(shape)?;
        let (inside, outside) = rest.split_once("else").ok_or_else(shape)?;
        let percent = |text: &str| {
            let all = Bounds { min: 0, max: 100 };
            Share::parse(text.trim(), Notation::Ours, all)
                .map_err(|e| format!("`{}`: {e}", text.trim()))
        };
        Ok(HoursLimit {
            from: hour(from)?,
            to: hour(to)?,
            inside: percent(inside)?,
            outside: percent(outside)?,
        })
    }

    fn show(value: &HoursLimit) -> String {
        let HoursLimit {
            from,
            to,
            inside,
            outside,
        } = value;
        format!("{from}-{to} {}% else {}%", inside.0, outside.0)
    }

    fn allowed(_: Bounds) -> String {
        "hours 0 to 23 and percentages, as in \"8-17 10% else 45%\" or {from = 8, to = 17, inside = 10, outside = 45}"
            .to_owned()
    }
}

fn hour(text: &str) -> Result<u8, String> {
    let text = text.trim();
    let day = Bounds { min: 0, max: 23 };
    Count::parse(text, Notation::Ours, day)
        .map(|hour| hour as u8)
        .map_err(|e| format!("hour `{text}`: {e}"))
}

/// `22-6`
pub(super) struct DayWindow;

impl Kind for DayWindow {
    type Value = DayHours;

    fn parse(text: &str, _: Notation, _: Bounds) -> Result<DayHours, String> {
        let (from, to) = text
            .split_once('-')
            .ok_or_else(|| "it is not FROM-TO".to_owned())?;
        Ok(DayHours {
            from: hour(from)?,
            to: hour(to)?,
        })
    }

    fn show(value: &DayHours) -> String {
        format!("{}-{}", value.from, value.to)
    }

    fn allowed(_: Bounds) -> String {
        "hours 0 to 23, as in 22-6".to_owned()
    }
}

/// `[[network]]`, which `layers` reads.
pub(super) struct Networks;

impl Kind for Networks {
    type Value = Vec<NetworkRule>;
    const SHAPE: Shape = Shape::Networks;

    fn parse(_: &str, _: Notation, _: Bounds) -> Result<Vec<NetworkRule>, String> {
        Err("it is written as tables in a file".to_owned())
    }

    fn show(value: &Vec<NetworkRule>) -> String {
        let rules: Vec<String> = value
            .iter()
            .map(|rule| {
                let values: Vec<String> = rule
                    .values
                    .iter()
                    .map(|(name, value)| format!("{name} = {value}"))
                    .collect();
                format!("on {}: {}", rule.network, values.join(", "))
            })
            .collect();
        rules.join("; ")
    }

    fn allowed(_: Bounds) -> String {
        "[[network]] tables in a file, each with on = \"10.8.0.0/16\" and settings".to_owned()
    }
}
