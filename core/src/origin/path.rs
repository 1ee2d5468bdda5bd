//! From a request's path to a file's path, and never out of the folder.

use crate::http::percent_decode;
use alloc::format;
use alloc::string::String;

/// The path below the folder that a request means: begins with `/`, decoded. `None` for what no file can
/// be called: dot segments, NUL, a backslash, text that is not UTF-8, or the folder itself.
pub(super) fn file_path(requested: &str) -> Option<String> {
    let mut path = String::new();
    for segment in requested.split('/') {
        let segment = String::from_utf8(percent_decode(segment)).ok()?;
        if segment.is_empty() {
            continue;
        }
        let climbs = matches!(segment.as_str(), "." | "..");
        if climbs || segment.contains(['/', '\\', '\0']) {
            return None;
        }
        path = format!("{path}/{segment}");
    }
    let names_a_file = !path.is_empty() && !requested.ends_with('/');
    names_a_file.then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_below() {
        for (requested, path) in [
            ("/a/b.iso", Some("/a/b.iso")),
            ("/a%20b", Some("/a b")),
            ("//a///b", Some("/a/b")),
            ("/%C3%BC", Some("/ü")),
            ("/..a", Some("/..a")),
            ("/", None),
            ("", None),
            ("/a/", None),
            ("/../etc/passwd", None),
            ("/a/../../etc/passwd", None),
            ("/%2e%2e/etc/passwd", None),
            ("/.%2e/etc/passwd", None),
            ("/a/./b", None),
            ("/..%2f..%2fetc", None),
            ("/a%2fb", None),
            ("/a%00b", None),
            ("/a%5c..%5cb", None),
            ("/%ff", None),
        ] {
            assert_eq!(file_path(requested).as_deref(), path, "{requested}");
        }
    }
}
