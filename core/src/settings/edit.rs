//! Changes one setting in the text of a file, and leaves all else as it is: comments, order, blank lines.
//!
//! Decides: where a new line goes, how a value is written in TOML. Never does: check the value (`layers`).
//! Invariant: what comes out reads as TOML and says what was asked for; else it is an error. Tests: below.

use super::table::{self, Row};
use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::ops::Range;
use toml::de::{DeTable, DeValue};

/// Where a key stands in the text.
struct Place {
    is_ours: bool,
    /// From the beginning of the key to the end of the value.
    whole: Range<usize>,
    value: Range<usize>,
    is_header: bool,
}

/// The text with `name = value` in it, instead of whatever it said of this setting before, under either name; or
/// without, if there is no value.
///
/// # Errors
/// Why that cannot be done.
pub fn edit(text: &str, row: &Row, value: Option<&str>) -> Result<String, String> {
    let mut places = places(text, row)?;
    if places.iter().any(|place| place.is_header) {
        return Err(format!("it has {} as a table", row.name));
    }
    let mut edited = text.to_owned();
    // From the end, so that the places before stay right.
    places.sort_by_key(|place| core::cmp::Reverse(place.whole.start));
    let ours = places.iter().position(|place| place.is_ours);
    let kept = ours.unwrap_or(0);
    for (n, place) in places.iter().enumerate() {
        match value {
            Some(value) if kept == n && place.is_ours => {
                edited.replace_range(place.value.clone(), &literal(value));
            }
            Some(value) if kept == n => {
                edited.replace_range(place.whole.clone(), &line(row, value));
            }
            _ => edited.replace_range(whole_lines(text, &place.whole), ""),
        }
    }
    if let (Some(value), true) = (value, places.is_empty()) {
        insert(&mut edited, &line(row, value))?;
    }
    check(&edited, row, value)?;
    Ok(edited)
}

fn places(text: &str, row: &Row) -> Result<Vec<Place>, String> {
    let parsed = parse(text)?;
    let found = parsed
        .get_ref()
        .iter()
        .filter(|(key, _)| is(key.get_ref(), row));
    Ok(found
        .map(|(key, value)| {
            let (key, is_ours, value_at) = (key.span(), *key.get_ref() == row.name, value.span());
            // A table with a header has its header's place.
            let is_header =
                value_at.start < key.end && matches!(value.get_ref(), DeValue::Table(_));
            Place {
                is_ours,
                whole: key.start..value_at.end.max(key.end),
                value: value_at,
                is_header,
            }
        })
        .collect())
}

fn is(key: &str, row: &Row) -> bool {
    table::find(key).is_some_and(|(found, _)| found.name == row.name)
}

fn parse(text: &str) -> Result<toml::Spanned<DeTable<'_>>, String> {
    DeTable::parse(text).map_err(|e| {
        let at = e.span().map_or(0, |span| span.start);
        let line = 1 + text.get(..at).unwrap_or_default().matches('\n').count();
        format!("line {line}: {}", e.message().replace('\n', ", "))
    })
}

/// The lines that these bytes are on; a comment behind them goes with them.
fn whole_lines(text: &str, range: &Range<usize>) -> Range<usize> {
    let before = text.get(..range.start).unwrap_or_default();
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let after = text.get(range.end..).unwrap_or_default();
    let end = after.find('\n').map_or(text.len(), |at| range.end + at + 1);
    start..end
}

/// Behind the last plain value; else before everything, since what follows a header belongs to its table.
fn insert(text: &mut String, line: &str) -> Result<(), String> {
    let last = {
        let parsed = parse(text)?;
        let values = parsed.get_ref().iter();
        let plain = values.filter(|(key, value)| value.span().start >= key.span().end);
        plain.map(|(_, value)| value.span().end).max()
    };
    let has_tables = text.lines().any(|line| line.trim_start().starts_with('['));
    let at = match last {
        Some(end) => whole_lines(text, &(end..end)).end,
        None if has_tables => 0,
        None => text.len(),
    };
    let open = !text.get(..at).unwrap_or_default().is_empty()
        && !text.get(..at).unwrap_or_default().ends_with('\n');
    let lead = if open { "\n" } else { "" };
    text.insert_str(at, &format!("{lead}{line}\n"));
    Ok(())
}

fn line(row: &Row, value: &str) -> String {
    format!("{} = {}", row.name, literal(value))
}

/// Switches and numbers bare, all else in quotes.
fn literal(value: &str) -> String {
    let is_number = value.parse::<i64>().is_ok_and(|n| n.to_string() == value);
    if is_number || matches!(value, "true" | "false") {
        return value.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn check(edited: &str, row: &Row, value: Option<&str>) -> Result<(), String> {
    let parsed = parse(edited)?;
    let mut found = parsed
        .get_ref()
        .iter()
        .filter(|(key, _)| is(key.get_ref(), row));
    let said = match (found.next(), found.next()) {
        (None, _) => None,
        (Some((_, said)), None) => Some(match said.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => number.as_str().to_owned(),
            DeValue::Boolean(is) => is.to_string(),
            _ => String::new(),
        }),
        (Some(_), Some(_)) => Some(String::new()),
    };
    if said.as_deref() == value {
        return Ok(());
    }
    Err(format!("{} cannot be changed where it stands", row.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(text: &str, name: &str, value: Option<&str>) -> Result<String, String> {
        edit(text, table::row(name).unwrap(), value)
    }

    #[test]
    fn all_else_stays_as_it_is() {
        let slots = |text: &str| edited(text, "upload_slots", Some("8")).unwrap();
        for (text, want) in [
            ("", "upload_slots = 8\n"),
            ("# mine", "# mine\nupload_slots = 8\n"),
            (
                "# mine\nupload_slots=4 # few\nmax_cache_age = \"3d\"\n",
                "# mine\nupload_slots=8 # few\nmax_cache_age = \"3d\"\n",
            ),
            (
                "max_cache_age = \"3d\" # days\n\n[[network]]\non = \"10.0.0.0/8\"\nupload_slots = 1\n",
                "max_cache_age = \"3d\" # days\nupload_slots = 8\n\n[[network]]\non = \"10.0.0.0/8\"\nupload_slots = 1\n",
            ),
            (
                "[[network]]\non = \"10.0.0.0/8\"\n",
                "upload_slots = 8\n[[network]]\non = \"10.0.0.0/8\"\n",
            ),
            (
                "vpn_keywords = [\n  \"a\",\n]",
                "vpn_keywords = [\n  \"a\",\n]\nupload_slots = 8\n",
            ),
            ("upload_slots = [\n 1,\n]\n", "upload_slots = 8\n"),
        ] {
            assert_eq!(slots(text), want);
        }
        for (text, want) in [
            ("DOMaxCacheAge = 60 # s\n", "max_cache_age = \"7d\" # s\n"),
            (
                "MaxCacheAge = 60\nmax_cache_age = \"3d\"\n# end\n",
                "max_cache_age = \"7d\"\n# end\n",
            ),
        ] {
            let said = edited(text, "max_cache_age", Some("7d")).unwrap();
            assert_eq!(said, want);
        }
        let hours = "hours_to_limit_background_download_bandwidth";
        let inline = format!("{hours} = {{from = 8, to = 17, inside = 10, outside = 45}} # day\n");
        assert_eq!(
            edited(&inline, hours, Some("9-17 10% else 45%")).unwrap(),
            format!("{hours} = \"9-17 10% else 45%\" # day\n")
        );
    }

    /// Whatever is cut out of a file: an error, or what was asked for; and reading it does not end anything.
    #[test]
    fn no_text_is_too_broken() {
        use super::super::{GroupPolicy, Layers, Provider, Source};
        let text = "# ä\nmax_cache_age = \"3d\" # ü\nDOMaxCacheSize = 0x1f\ncache_host = [\"a\", 'b']\n\
                    hours_to_limit_background_download_bandwidth = {from = 8, to = 17, inside = 1, outside = 2}\n\
                    [locked]\nupload_slots = 4\n[[network]]\non = \"10.0.0.0/8\"\nallow_metered = true\n\
                    [group.\"ö\"]\nupload_slots = -1_0\n";
        let bounds: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        let mut changed = 0;
        for (n, from) in bounds.iter().enumerate() {
            for to in bounds.iter().skip(n).take(12) {
                let source = Source {
                    place: "f".into(),
                    text: format!("{}{}", &text[..*from], &text[*to..]),
                };
                for provider in [Provider::File, Provider::AdminConfig] {
                    Layers::default().read(provider, core::slice::from_ref(&source));
                }
                _ = GroupPolicy::read(&source);
                for (name, value) in [("max_cache_age", Some("7d")), ("cache_host", None)] {
                    if let Ok(edited) = edited(&source.text, name, value) {
                        changed += 1;
                        let again = self::edited(&edited, name, value);
                        assert_eq!(again, Ok(edited));
                    }
                }
            }
        }
        assert!(changed > 1000, "{changed}");
    }

    #[test]
    fn values_are_written_so_that_they_read_back() {
        for (value, want) in [
            ("true", "group_id = true\n"),
            ("-1", "group_id = -1\n"),
            ("007", "group_id = \"007\"\n"),
            (
                "a \"b\" \\ \u{1}",
                "group_id = \"a \\\"b\\\" \\\\ \\u0001\"\n",
            ),
        ] {
            assert_eq!(edited("", "group_id", Some(value)).unwrap(), want);
        }
    }

    #[test]
    fn taken_back_it_is_gone_and_comments_above_stay() {
        let unset = |text: &str| edited(text, "upload_slots", None);
        for (text, want) in [
            ("", ""),
            (
                "# top\nupload_slots = 8 # why\n# next\nmax_cache_size = 3\n",
                "# top\n# next\nmax_cache_size = 3\n",
            ),
            ("a = 1\nupload_slots = 8", "a = 1\n"),
        ] {
            assert_eq!(unset(text).unwrap(), want);
        }
    }

    #[test]
    fn what_cannot_be_changed_is_an_error() {
        let hours = "hours_to_limit_background_download_bandwidth";
        for (text, name, why) in [
            (
                "a = 1\nb =",
                "upload_slots",
                "line 2: string values must be quoted, expected literal string",
            ),
            (
                "[hours_to_limit_background_download_bandwidth]\nfrom = 1\n",
                hours,
                "it has hours_to_limit_background_download_bandwidth as a table",
            ),
            (
                "hours_to_limit_background_download_bandwidth.from = 1\n",
                hours,
                "it has hours_to_limit_background_download_bandwidth as a table",
            ),
        ] {
            for value in [Some("unset"), None] {
                assert_eq!(edited(text, name, value).unwrap_err(), why);
            }
        }
    }
}
