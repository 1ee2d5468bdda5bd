//! Numbers as people write and read them: sizes, rates, spans of time.
//!
//! Decides: units (powers of 1024 with an `i`, of 1000 without), rounding, wording. Integer arithmetic only.
//! Tests: below.

use crate::stats::Bytes;
use alloc::string::String;
use core::fmt;
use core::time::Duration;

/// Why a size, rate or duration could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextError {
    /// It does not start with a number.
    Number,
    /// The unit is not one we know.
    Unit(String),
    /// `Mb`: bits or bytes?
    BitsOrBytes(String),
    /// More than 2⁶⁴.
    TooLarge,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number => f.write_str("it does not start with a number"),
            Self::Unit(unit) => write!(f, "unknown unit `{unit}`"),
            Self::BitsOrBytes(unit) => {
                let prefix = unit.trim_end_matches('b');
                write!(
                    f,
                    "`{unit}` may mean bits or bytes: write `{prefix}bit` or `{prefix}B`"
                )
            }
            Self::TooLarge => f.write_str("the number is too large"),
        }
    }
}

impl core::error::Error for TextError {}

/// A byte count: `350MiB`, `1.5GiB`, `20 MB`, `4096`. `MB` is 1000², `MiB` is 1024², and so is a bare `M`
/// (as in curl and dd).
///
/// # Errors
/// If there is no number, the unit is unknown, or the result does not fit.
pub fn parse_size(text: &str) -> Result<u64, TextError> {
    let (number, unit) = split_number(text)?;
    let scale = size_unit(unit)?;
    scale_decimal(number, scale, 1)
}

/// Bytes per second: `20MB/s`, `350KiB/s`, `100Mbit/s`; `/s` may be left out.
///
/// # Errors
/// As [`parse_size`].
pub fn parse_rate(text: &str) -> Result<u64, TextError> {
    let (number, unit) = split_number(text)?;
    let unit = unit
        .strip_suffix("/s")
        .or_else(|| unit.strip_suffix("ps"))
        .unwrap_or(unit)
        .trim_end();
    if let Some(prefix) = unit.strip_suffix("bit") {
        let scale = match prefix {
            "" => 1,
            "k" | "K" => 1000,
            "M" | "m" => 1_000_000,
            "G" | "g" => 1_000_000_000,
            _ => return Err(TextError::Unit(unit.into())),
        };
        return scale_decimal(number, scale, 8);
    }
    scale_decimal(number, size_unit(unit)?, 1)
}

/// A span of time: `90s`, `10min`, `1.5h`, `2d`, `250ms`; a bare number is seconds.
///
/// # Errors
/// If there is no number, the unit is unknown, or the result does not fit.
pub fn parse_duration(text: &str) -> Result<Duration, TextError> {
    let (number, unit) = split_number(text)?;
    let scale_us: u64 = match unit {
        "ms" => 1000,
        "" | "s" | "sec" => 1_000_000,
        "m" | "min" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return Err(TextError::Unit(unit.into())),
    };
    scale_decimal(number, scale_us, 1).map(Duration::from_micros)
}

/// A rate as people read it: `11.2 MiB/s`.
#[derive(Clone, Copy, Debug)]
pub struct Rate(pub u64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", Bytes(self.0))
    }
}

/// A span of time as people read it: `0.4 s`, `14 s`, `2 min 05 s`, `3 h 20 min`.
#[derive(Clone, Copy, Debug)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (self.0.as_millis() + 50) / 100;
        if tenths < 100 && !tenths.is_multiple_of(10) {
            return write!(f, "{}.{} s", tenths / 10, tenths % 10);
        }
        let s = (self.0.as_millis() + 500) / 1000;
        match s {
            0..60 => write!(f, "{s} s"),
            60..3600 => write!(f, "{} min {:02} s", s / 60, s % 60),
            _ => write!(f, "{} h {:02} min", s / 3600, s / 60 % 60),
        }
    }
}

/// The number and what follows it, without the space between.
fn split_number(text: &str) -> Result<(&str, &str), TextError> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    if number.is_empty() {
        return Err(TextError::Number);
    }
    Ok((number, unit.trim()))
}

fn size_unit(unit: &str) -> Result<u64, TextError> {
    if unit.len() == 2 && unit.ends_with('b') && unit != "kb" {
        return Err(TextError::BitsOrBytes(unit.into()));
    }
    let lower = unit.to_ascii_lowercase();
    Ok(match lower.as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1000_u64.pow(2),
        "gb" => 1000_u64.pow(3),
        "tb" => 1000_u64.pow(4),
        "k" | "kib" => 1024,
        "m" | "mib" => 1024_u64.pow(2),
        "g" | "gib" => 1024_u64.pow(3),
        "t" | "tib" => 1024_u64.pow(4),
        _ => return Err(TextError::Unit(unit.into())),
    })
}

/// `number` (digits, at most one dot) times `scale / divisor`, rounded down.
fn scale_decimal(number: &str, scale: u64, divisor: u64) -> Result<u64, TextError> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && part.is_empty()) || part.contains('.') {
        return Err(TextError::Number);
    }
    let digits = |text: &str| -> Result<u128, TextError> {
        if text.len() > 20 {
            return Err(TextError::TooLarge);
        }
        Ok(text
            .bytes()
            .fold(0, |n, digit| n * 10 + u128::from(digit - b'0')))
    };
    let scale = u128::from(scale);
    // Nine decimals are finer than a byte of a gigabyte.
    let part = part.get(..9).unwrap_or(part);
    let fraction = digits(part)? * scale / 10_u128.pow(part.len() as u32);
    let total = digits(whole)?
        .checked_mul(scale)
        .and_then(|n| n.checked_add(fraction))
        .ok_or(TextError::TooLarge)?;
    u64::try_from(total / u128::from(divisor)).map_err(|_| TextError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;

    #[test]
    fn sizes() {
        for (text, want) in [
            ("0", 0),
            ("4096", 4096),
            ("350MiB", 350 << 20),
            ("1.5GiB", 3 << 29),
            (".5k", 512),
            ("20 MB", 20_000_000),
            ("1 kb", 1000),
            ("64M", 64 << 20),
            ("7b", 7),
            (" 2TiB ", 2 << 40),
            ("0.0000000001GiB", 0),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(want), "{text}");
        }
        for (text, want) in [
            ("", TextError::Number),
            ("big", TextError::Number),
            (".", TextError::Number),
            ("1.2.3", TextError::Number),
            ("-5MB", TextError::Number),
            ("5 potatoes", TextError::Unit("potatoes".into())),
            ("5Mb", TextError::BitsOrBytes("Mb".into())),
            ("18446744073709551616", TextError::TooLarge),
            ("99999999999999999999999", TextError::TooLarge),
            ("20000000TiB", TextError::TooLarge),
        ] {
            assert_eq!(parse_size(text), Err(want), "{text}");
        }
    }

    #[test]
    fn rates() {
        for (text, want) in [
            ("20MB/s", 20_000_000),
            ("350KiB/s", 350 << 10),
            ("1.5M", 3 << 19),
            ("100Mbit/s", 12_500_000),
            ("1Gbit", 125_000_000),
            ("2.5 MBps", 2_500_000),
        ] {
            assert_eq!(parse_rate(text), Ok(want), "{text}");
        }
        assert_eq!(
            parse_rate("20Mb/s"),
            Err(TextError::BitsOrBytes("Mb".into()))
        );
        assert_eq!(parse_rate("20MB/h"), Err(TextError::Unit("MB/h".into())));
        assert_eq!(
            TextError::BitsOrBytes("Mb".into()).to_string(),
            "`Mb` may mean bits or bytes: write `Mbit` or `MB`"
        );
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("10min"), Ok(Duration::from_secs(600)));
        assert_eq!(parse_duration("1.5h"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(
            parse_duration("3 weeks"),
            Err(TextError::Unit("weeks".into()))
        );
    }

    #[test]
    fn spans() {
        for (ms, want) in [
            (0, "0 s"),
            (40, "0 s"),
            (400, "0.4 s"),
            (2000, "2 s"),
            (9_960, "10 s"),
            (14_200, "14 s"),
            (59_700, "1 min 00 s"),
            (125_000, "2 min 05 s"),
            (12_000_000, "3 h 20 min"),
        ] {
            assert_eq!(Span(Duration::from_millis(ms)).to_string(), want);
        }
    }
}
