//! Byte ranges, both ways: reading `Range` and `Content-Range`, writing them.
//!
//! Decides what part of a representation a request asks for (RFC 9110 §14). A request for several ranges
//! is answered with the whole: nobody among our clients asks for more than one, and multipart answers cost
//! more than they give. Ill-formed ranges and other units are ignored, as the RFC demands.
//!
//! Tests: at the end of this file.

use alloc::format;
use alloc::string::String;
use core::ops::Range;

/// What a `Range` field asks of a representation of known length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Answer 200 with everything.
    Whole,
    /// Answer 206 with these bytes; never empty.
    Part(Range<u64>),
    /// Answer 416.
    Unsatisfiable,
}

/// What a response says it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentRange {
    /// `bytes first-last/total`; `end` is one past the last byte.
    Part {
        start: u64,
        end: u64,
        total: Option<u64>,
    },
    /// `bytes */total`, with a 416.
    Unsatisfied { total: u64 },
}

impl Asked {
    /// Read the value of a `Range` field against a representation of `length` bytes.
    pub fn of(range: &str, length: u64) -> Self {
        let Some((unit, set)) = range.split_once('=') else {
            return Self::Whole;
        };
        if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
            return Self::Whole;
        }
        let Some((first, last)) = set.trim().split_once('-') else {
            return Self::Whole;
        };
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first > last => Self::Whole,
            (Some(first), _) if first >= length && (last.is_empty() || number(last).is_some()) => {
                Self::Unsatisfiable
            }
            (Some(first), Some(last)) => Self::Part(first..last.saturating_add(1).min(length)),
            (Some(first), None) if last.is_empty() => Self::Part(first..length),
            (None, Some(0)) if first.is_empty() => Self::Unsatisfiable,
            (None, Some(_)) if first.is_empty() && length == 0 => Self::Unsatisfiable,
            (None, Some(suffix)) if first.is_empty() => {
                Self::Part(length.saturating_sub(suffix)..length)
            }
            _ => Self::Whole,
        }
    }
}

impl ContentRange {
    /// Read the value of a `Content-Range` field; `None` if it is malformed or of another unit.
    pub fn parse(value: &str) -> Option<Self> {
        let (unit, rest) = value.trim().split_once(' ')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (range, total) = rest.trim().split_once('/')?;
        if range == "*" {
            return Some(Self::Unsatisfied {
                total: number(total)?,
            });
        }
        let total = match total {
            "*" => None,
            total => Some(number(total)?),
        };
        let (first, last) = range.split_once('-')?;
        let (start, end) = (number(first)?, number(last)?.checked_add(1)?);
        let sound = start < end && total.is_none_or(|total| end <= total);
        sound.then_some(Self::Part { start, end, total })
    }
}

/// `bytes=first-last`, or `bytes=first-` without an end. The range must not be empty.
pub fn range_field(start: u64, end: Option<u64>) -> String {
    match end {
        Some(end) => format!("bytes={start}-{}", end.saturating_sub(1)),
        None => format!("bytes={start}-"),
    }
}

/// `bytes first-last/total`.
pub fn content_range_field(range: &Range<u64>, total: u64) -> String {
    format!(
        "bytes {}-{}/{total}",
        range.start,
        range.end.saturating_sub(1)
    )
}

/// Digits only: what Rust's own parser takes besides (`+1`) is no number here.
pub(crate) fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        for (range, length, asked) in [
            ("bytes=0-0", 10, Asked::Part(0..1)),
            ("bytes=0-9", 10, Asked::Part(0..10)),
            ("bytes=0-99", 10, Asked::Part(0..10)),
            ("bytes=3-", 10, Asked::Part(3..10)),
            ("bytes=9-9", 10, Asked::Part(9..10)),
            ("bytes=-3", 10, Asked::Part(7..10)),
            ("bytes=-99", 10, Asked::Part(0..10)),
            ("Bytes = 3-4", 10, Asked::Part(3..5)),
            ("bytes=3-18446744073709551615", 10, Asked::Part(3..10)),
            ("bytes=10-", 10, Asked::Unsatisfiable),
            ("bytes=10-12", 10, Asked::Unsatisfiable),
            ("bytes=-0", 10, Asked::Unsatisfiable),
            ("bytes=0-", 0, Asked::Unsatisfiable),
            ("bytes=-1", 0, Asked::Unsatisfiable),
            ("bytes=5-3", 10, Asked::Whole),
            ("bytes=0-1,3-4", 10, Asked::Whole),
            ("bytes=", 10, Asked::Whole),
            ("bytes=-", 10, Asked::Whole),
            ("bytes=a-b", 10, Asked::Whole),
            ("bytes=1-b", 10, Asked::Whole),
            ("bytes=99-b", 10, Asked::Whole),
            ("bytes=+1-2", 10, Asked::Whole),
            ("lines=1-2", 10, Asked::Whole),
            ("nonsense", 10, Asked::Whole),
        ] {
            assert_eq!(Asked::of(range, length), asked, "{range} of {length}");
        }
    }

    #[test]
    fn responses() {
        let part = |start, end, total| Some(ContentRange::Part { start, end, total });
        for (value, range) in [
            ("bytes 0-0/1", part(0, 1, Some(1))),
            ("bytes 5-9/10", part(5, 10, Some(10))),
            ("bytes 5-9/*", part(5, 10, None)),
            ("Bytes  5-9/10", part(5, 10, Some(10))),
            ("bytes */10", Some(ContentRange::Unsatisfied { total: 10 })),
            ("bytes */*", None),
            ("bytes 5-10/10", None),
            ("bytes 9-5/10", None),
            ("bytes 5/10", None),
            ("bytes 5-9", None),
            ("bytes 0-18446744073709551615/*", None),
            ("items 0-0/1", None),
            ("", None),
        ] {
            assert_eq!(ContentRange::parse(value), range, "{value}");
        }
        assert_eq!(range_field(5, Some(10)), "bytes=5-9");
        assert_eq!(range_field(5, None), "bytes=5-");
        assert_eq!(content_range_field(&(5..10), 20), "bytes 5-9/20");
    }
}
