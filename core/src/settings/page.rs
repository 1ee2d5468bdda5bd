//! The table as documents: `docs/settings.md`, and the long help of `dovetail config`.
//!
//! Decides: their layout. Tests: `core/tests/docs.rs`.

use super::table::TABLE;
use alloc::string::String;
use core::fmt::Write as _;

/// All settings for a terminal, by heading.
pub fn help() -> String {
    let mut text = String::new();
    let mut heading = "";
    for row in TABLE {
        if row.heading != heading {
            heading = row.heading;
            _ = writeln!(text, "{heading}:");
        }
        _ = writeln!(text, "  {}", row.name);
    }
    text
}

/// `docs/settings.md`
pub fn markdown() -> String {
    let mut text = String::new();
    _ = writeln!(text, "# Settings");
    text
}
