//! What a request asks for, as far as the faulty origin cares.

use core::ops::Range;
use std::string::{String, ToString as _};

pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) path: String,
    pub(super) range: Option<String>,
    pub(super) if_range: Option<String>,
    pub(super) close: bool,
}

impl Request {
    pub(super) fn parse(head: &str) -> Self {
        let mut words = head.lines().next().unwrap_or_default().split(' ');
        let method = words.next().unwrap_or_default().to_string();
        let target = words.next().unwrap_or_default().to_string();
        Self {
            method,
            path: path_of(&target),
            target,
            range: header(head, "range"),
            if_range: header(head, "if-range"),
            close: header(head, "connection").is_some_and(|v| v.eq_ignore_ascii_case("close")),
        }
    }
}

/// Where the head ends, its empty line included.
pub(super) fn head_end(bytes: &[u8]) -> Option<usize> {
    let end = b"\r\n\r\n";
    let at = bytes.windows(end.len()).position(|w| w == end)?;
    Some(at + end.len())
}

pub(super) enum Wanted {
    All,
    Part(Range<u64>),
    Nothing,
}

/// One range of RFC 9110 §14.1.2; anything else is ignored, as a server may.
pub(super) fn parse_range(value: &str, len: u64) -> Wanted {
    let Some((first, last)) = value.strip_prefix("bytes=").and_then(|v| v.split_once('-')) else {
        return Wanted::All;
    };
    let part = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(len),
        (Ok(first), Err(_)) if last.is_empty() => first..len,
        (Err(_), Ok(suffix)) if first.is_empty() => len.saturating_sub(suffix)..len,
        _ => return Wanted::All,
    };
    if part.start < part.end {
        Wanted::Part(part)
    } else {
        Wanted::Nothing
    }
}

/// The path of a request target: in origin form, or in absolute form (to a proxy).
fn path_of(target: &str) -> String {
    let rest = target.split_once("://").map_or(target, |(_, rest)| {
        rest.find('/').map_or("/", |at| &rest[at..])
    });
    rest.split('?').next().unwrap_or_default().into()
}

fn header(head: &str, name: &str) -> Option<String> {
    let lines = head.lines().skip(1);
    let mut pairs = lines.filter_map(|line| line.split_once(':'));
    let (_, value) = pairs.find(|(n, _)| n.eq_ignore_ascii_case(name))?;
    Some(value.trim().into())
}
