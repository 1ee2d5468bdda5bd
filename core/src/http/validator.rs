//! Is it still the same file? Entity tags and modification dates (RFC 9110 §8.8, §13).
//!
//! Decides which validator may guard a range request (`If-Range` needs a strong one, so that two versions
//! are never spliced), whether two answers speak of the same version, and how a server evaluates
//! `If-Range` and `If-None-Match`.
//!
//! Tests: at the end of this file.

use crate::http::date::parse_http_date;
use ::http::header::{self, HeaderMap, HeaderName};
use alloc::borrow::ToOwned;
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// What a server said to tell versions of a file apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validator {
    /// `"…"` or `W/"…"`, as received.
    pub etag: Option<String>,
    /// As received.
    pub last_modified: Option<String>,
    /// The date is old enough to tell versions apart by itself (RFC 9110 §8.8.2.2).
    pub date_is_strong: bool,
}

impl Validator {
    /// `None` if the answer has neither field.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let etag = text(headers, header::ETAG).filter(|tag| is_etag(tag));
        let last_modified = text(headers, header::LAST_MODIFIED);
        let modified_s = last_modified.and_then(parse_http_date);
        let date_s = text(headers, header::DATE).and_then(parse_http_date);
        let date_is_strong = match (modified_s, date_s) {
            (Some(modified), Some(date)) => modified < date,
            _ => false,
        };
        if etag.is_none() && modified_s.is_none() {
            return None;
        }
        Some(Self {
            etag: etag.map(str::to_owned),
            last_modified: modified_s.and(last_modified).map(str::to_owned),
            date_is_strong,
        })
    }

    /// The value for `If-Range`, if there is a strong one.
    pub fn if_range(&self) -> Option<&str> {
        match &self.etag {
            Some(etag) if !etag.starts_with("W/") => Some(etag),
            Some(_) => None,
            None => self
                .last_modified
                .as_deref()
                .filter(|_| self.date_is_strong),
        }
    }

    /// Do two answers of one server speak of the same version? What only one of them says, says nothing.
    pub fn agrees_with(&self, other: &Self) -> bool {
        match (&self.etag, &other.etag) {
            (Some(a), Some(b)) => opaque(a) == opaque(b),
            _ => match (&self.last_modified, &other.last_modified) {
                (Some(a), Some(b)) => a == b,
                _ => true,
            },
        }
    }

    /// Do answers of two servers speak of copies of the same version? Mirrors keep dates, and often tags.
    pub fn is_copy_of(&self, other: &Self) -> bool {
        let same_tag = matches!((&self.etag, &other.etag), (Some(a), Some(b)) if a == b);
        let same_date = self.last_modified.is_some() && self.last_modified == other.last_modified;
        same_tag || same_date
    }
}

/// A server's view of `If-Range`: may the range be served? (RFC 9110 §13.1.5; `etag` is strong.)
pub fn if_range_holds(field: &str, etag: &str, last_modified: &str) -> bool {
    let field = field.trim();
    if is_etag(field) {
        field == etag
    } else {
        field == last_modified
    }
}

/// A server's view of `If-None-Match`: does the client have this version? (RFC 9110 §13.1.2)
pub fn if_none_match_hits(field: &str, etag: &str) -> bool {
    field.trim() == "*"
        || field
            .split(',')
            .any(|tag| is_etag(tag.trim()) && opaque(tag.trim()) == opaque(etag))
}

fn is_etag(text: &str) -> bool {
    let tag = opaque(text);
    tag.len() >= 2 && tag.starts_with('"') && tag.ends_with('"')
}

fn opaque(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag)
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::HeaderValue;

    fn validator(fields: &[(HeaderName, &'static str)]) -> Option<Validator> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(name, HeaderValue::from_static(value));
        }
        Validator::of(&headers)
    }

    const OLD: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const NEW: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    #[test]
    fn only_strong_validators_guard_ranges() {
        use header::{DATE, ETAG, LAST_MODIFIED};
        for (fields, if_range) in [
            (&[(ETAG, "\"a\"")][..], Some("\"a\"")),
            (&[(ETAG, "W/\"a\"")], None),
            (
                &[(ETAG, "W/\"a\""), (LAST_MODIFIED, OLD), (DATE, NEW)],
                None,
            ),
            (&[(LAST_MODIFIED, OLD), (DATE, NEW)], Some(OLD)),
            (&[(LAST_MODIFIED, OLD), (DATE, OLD)], None),
            (&[(LAST_MODIFIED, OLD)], None),
        ] {
            let got = validator(fields).expect("a validator");
            assert_eq!(got.if_range(), if_range, "{fields:?}");
        }
        assert_eq!(validator(&[]), None);
        assert_eq!(validator(&[(ETAG, "unquoted")]), None);
        assert_eq!(validator(&[(LAST_MODIFIED, "yesterday")]), None);
    }

    #[test]
    fn versions_are_told_apart() {
        let make = |etag: Option<&str>, date: Option<&str>| Validator {
            etag: etag.map(str::to_owned),
            last_modified: date.map(str::to_owned),
            date_is_strong: true,
        };
        for (a, b, agrees, copy) in [
            (
                make(Some("\"a\""), None),
                make(Some("\"a\""), None),
                true,
                true,
            ),
            (
                make(Some("\"a\""), None),
                make(Some("W/\"a\""), None),
                true,
                false,
            ),
            (
                make(Some("\"a\""), Some(OLD)),
                make(Some("\"b\""), Some(OLD)),
                false,
                true,
            ),
            (
                make(Some("\"a\""), Some(OLD)),
                make(None, Some(OLD)),
                true,
                true,
            ),
            (
                make(Some("\"a\""), Some(OLD)),
                make(None, Some(NEW)),
                false,
                false,
            ),
            (
                make(Some("\"a\""), None),
                make(None, Some(NEW)),
                true,
                false,
            ),
        ] {
            assert_eq!(a.agrees_with(&b), agrees, "{a:?} {b:?}");
            assert_eq!(b.agrees_with(&a), agrees, "{b:?} {a:?}");
            assert_eq!(a.is_copy_of(&b), copy, "{a:?} {b:?}");
        }
    }

    #[test]
    fn a_server_evaluates_conditions() {
        assert!(if_range_holds("\"a\"", "\"a\"", OLD));
        assert!(!if_range_holds("\"b\"", "\"a\"", OLD));
        assert!(!if_range_holds("W/\"a\"", "\"a\"", OLD));
        assert!(if_range_holds(OLD, "\"a\"", OLD));
        assert!(!if_range_holds(NEW, "\"a\"", OLD));
        assert!(if_none_match_hits("*", "\"a\""));
        assert!(if_none_match_hits("\"b\", W/\"a\"", "\"a\""));
        assert!(!if_none_match_hits("\"b\"", "\"a\""));
        assert!(!if_none_match_hits("a", "\"a\""));
    }
}
