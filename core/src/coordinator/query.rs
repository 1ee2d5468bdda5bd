//! The query of a request, name by name, percent-decoded to bytes.
//!
//! A `+` stays a `+`: neither trackers' clients nor ours write spaces that way. Tested here.

use crate::http::percent_decode;
use alloc::string::String;
use alloc::vec::Vec;
use core::str::FromStr;

#[derive(Clone, Copy, Debug)]
pub(super) struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    pub(super) fn new(text: Option<&'a str>) -> Self {
        Self(text.unwrap_or_default())
    }

    pub(super) fn pairs(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let parts = self.0.split('&').filter(|part| !part.is_empty());
        parts.map(|part| part.split_once('=').unwrap_or((part, "")))
    }

    fn raw(self, name: &str) -> Option<&'a str> {
        self.pairs().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// The first value of this name.
    pub(super) fn bytes(self, name: &str) -> Option<Vec<u8>> {
        self.raw(name).map(percent_decode)
    }

    /// As text; `None` also if it is not UTF-8.
    pub(super) fn text(self, name: &str) -> Option<String> {
        String::from_utf8(self.bytes(name)?).ok()
    }

    /// As a number or address; `Some(None)` if it is there and is none.
    pub(super) fn parsed<T: FromStr>(self, name: &str) -> Option<Option<T>> {
        let raw = self.bytes(name)?;
        Some(core::str::from_utf8(&raw).ok().and_then(|t| t.parse().ok()))
    }

    /// Every value of this name that is exactly 20 bytes.
    pub(super) fn ids(self, name: &'a str) -> impl Iterator<Item = [u8; 20]> {
        self.pairs()
            .filter(move |(n, _)| *n == name)
            .filter_map(|(_, v)| percent_decode(v).try_into().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let query = Query::new(Some("a=1&b=%41%20+&&c&d=x=y&a=2&bad=%ff&n=-1"));
        assert_eq!(query.text("a").as_deref(), Some("1"));
        assert_eq!(query.text("b").as_deref(), Some("A +"));
        assert_eq!(query.text("c").as_deref(), Some(""));
        assert_eq!(query.text("d").as_deref(), Some("x=y"));
        assert_eq!(query.text("e"), None);
        assert_eq!(query.text("bad"), None);
        assert_eq!(query.bytes("bad"), Some(alloc::vec![0xff]));
        assert_eq!(query.parsed::<u16>("a"), Some(Some(1)));
        assert_eq!(query.parsed::<u16>("n"), Some(None));
        assert_eq!(query.parsed::<u16>("e"), None);
        assert_eq!(Query::new(None).text("a"), None);
    }
}
