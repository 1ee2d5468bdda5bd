//! What it takes to be a kind of value: parsed, bounded, rendered; and a value that may be missing.
//!
//! Decides: whose notation counts. The kinds are in `number`, `choice`, `words` and `hours`. Invariant: what
//! [`Kind::show`] writes, [`Kind::parse`] reads back as the same value. Never does: which setting has which kind
//! (`table`). Tests: `table_tests.rs`.

use super::value::NetworkRule;
use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::marker::PhantomData;

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
