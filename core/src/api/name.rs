//! What a downloaded file is called when the caller does not say.
//!
//! Decides: a file name from a URL or from a metainfo's name. Never does: look at the disk. Invariant: the
//! result is one plain path component, at most 255 bytes, never `.` or `..`. Tests: below.

use crate::http::percent_decode;
use crate::limits::NAME_LEN_MAX;
use alloc::string::{String, ToString as _};

/// The name when nothing better is known.
const FALLBACK: &str = "download";

/// The last segment of the URL's path, percent-decoded and made [safe](safe_name); `download` if there is none.
pub fn name_from_url(url: &str) -> String {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = after_scheme
        .split(['?', '#'])
        .next()
        .and_then(|authority_and_path| authority_and_path.split_once('/'))
        .map_or("", |(_, path)| path);
    let segment = path.rsplit('/').next().unwrap_or("");
    safe_name(&String::from_utf8_lossy(&percent_decode(segment)))
}

/// `name` as one path component: separators and control characters become `_`, and a name that means a
/// folder becomes `download`.
pub fn safe_name(name: &str) -> String {
    let mut safe: String = name
        .chars()
        .map(|c| match c {
            '/' | '\\' | '\u{fffd}' => '_',
            c if c.is_control() => '_',
            c => c,
        })
        .collect();
    while safe.len() > NAME_LEN_MAX {
        safe.pop();
    }
    match safe.trim() {
        "" | "." | ".." => FALLBACK.to_string(),
        _ => safe,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_urls() {
        for (url, want) in [
            ("http://example.org/dir/file.iso", "file.iso"),
            ("https://example.org/file.iso?mirror=1#top", "file.iso"),
            ("http://example.org/a%20b.bin", "a b.bin"),
            ("http://example.org/", "download"),
            ("http://example.org", "download"),
            ("http://example.org?x=/etc/passwd", "download"),
            ("http://example.org/dir/", "download"),
            ("http://example.org/..", "download"),
            ("http://example.org/%2e%2e", "download"),
            ("http://example.org/%2e%2e%2fetc%2fpasswd", ".._etc_passwd"),
            ("http://example.org/a%5Cb", "a_b"),
            ("http://example.org/nul%00l", "nul_l"),
            ("http://example.org/%ff.bin", "_.bin"),
            ("http://example.org/100%", "100%"),
            ("http://example.org/%C3%A4.bin", "ä.bin"),
        ] {
            assert_eq!(name_from_url(url), want, "{url}");
        }
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let name = safe_name(&"ä".repeat(200));
        assert_eq!(name, "ä".repeat(127));
    }
}
