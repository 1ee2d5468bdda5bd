//! The table as documents: `docs/settings.md`, and the list under `dovetail config --help`.
//!
//! Decides: their layout. Tests: `core/tests/docs.rs`; the list is in `shell-smol/tests/help/config.txt`.

use super::table::{Row, TABLE};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

/// Columns of the names in the list.
const NAME_WIDTH: usize = 45;

/// Columns of the page.
const PAGE_WIDTH: usize = 118;

/// All settings and their built-in values, for a terminal.
pub fn help() -> String {
    let mut text = String::from("Settings and their built-in values:\n");
    for (heading, rows) in sections() {
        _ = writeln!(text, "\n{heading}:");
        for row in rows {
            let value = match row.default() {
                value if value.is_empty() => "none".into(),
                value => value,
            };
            _ = writeln!(text, "  {:NAME_WIDTH$} {value}", row.name);
        }
    }
    text.push_str("\nWhat each of them does: docs/settings.md, or `dovetail config --markdown`.");
    text
}

/// `docs/settings.md`
pub fn markdown() -> String {
    let mut text = String::from(INTRODUCTION);
    for (heading, rows) in sections() {
        _ = writeln!(text, "\n## {heading}");
        for row in rows {
            entry(&mut text, row);
        }
    }
    text
}

fn entry(text: &mut String, row: &Row) {
    _ = writeln!(text, "\n### `{}`\n", row.name);
    wrap(text, row.doc, "");
    text.push('\n');
    wrap(text, &format!("- allowed: {}", row.allowed()), "  ");
    if row.name != "network" {
        let value = match row.default() {
            value if value.is_empty() => "none".into(),
            value => format!("`{value}`"),
        };
        _ = writeln!(text, "- built in: {value}");
    }
    if let Some(name) = row.do_name {
        let unit = match row.do_unit() {
            "" => String::new(),
            unit => format!(", a number of {unit}"),
        };
        _ = writeln!(text, "- Delivery Optimization: `{name}`{unit}");
    }
}

fn sections() -> Vec<(&'static str, Vec<&'static Row>)> {
    let mut sections: Vec<(&str, Vec<&Row>)> = Vec::new();
    for row in TABLE {
        match sections.last_mut() {
            Some((heading, rows)) if *heading == row.heading => rows.push(row),
            _ => sections.push((row.heading, [row].into())),
        }
    }
    sections
}

fn wrap(text: &mut String, words: &str, indent: &str) {
    let mut column = 0;
    for word in words.split_whitespace() {
        let len = word.chars().count();
        if column > 0 && column + 1 + len > PAGE_WIDTH {
            _ = write!(text, "\n{indent}");
            column = indent.len();
        } else if column > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += len;
    }
    text.push('\n');
}

const INTRODUCTION: &str = "\
# Settings

This page is made from the table in `core/src/settings/table.rs` by `dovetail config --markdown`; a test compares them.

`dovetail config` shows every value in force, who set it, and what does not count and why.
`dovetail config set NAME VALUE` changes one for this agent; `dovetail config unset NAME` takes that back.

## Who can set what

Of several that say something about a setting, the last of this list counts:

1. built in
2. Microsoft's `/etc/deliveryoptimization-agent/admin-config.json`, with Delivery Optimization's names and units
3. the administrator's `/etc/dovetail/dovetail.toml`, then `/etc/dovetail/dovetail.d/*.toml` in the order of their names
4. `dovetail.toml` in the agent's home, which `dovetail config set` writes
5. the coordinator, for all agents that use it (`dovetail coordinator --policy FILE`)
6. environment variables: `DOVETAIL_MAX_CACHE_AGE=7d`
7. the command line: `--set max_cache_age=7d`
8. a `[locked]` table in an administrator's file

`DOVETAIL_CONFIG_DIR` names a folder that takes the place of `/etc/dovetail`; `admin-config.json` is then looked for in
that folder, too, and nothing is read from `/etc`.

A value that cannot be used is reported with its file and line, what is wrong and what would be right, and everything else
counts. A running agent reads its files anew within ten seconds of a change, and at once on SIGHUP. A value that becomes
unusable then stays as it was.

While an agent runs in this home, `dovetail config` shows what that agent was told by its coordinator, in its environment and
on its command line. Without one it shows its own environment.

## How they are written

```toml
max_cache_age = \"7d\"
max_upload_bandwidth = \"20MB/s\"
allow_metered = true
cache_host = [\"cache1\", \"10.0.0.5:8080\"]

[locked]                # nobody can say otherwise
download_mode = \"group\"

[[network]]             # while this machine has an address in this network
on = \"10.8.0.0/16\"
download_mode = \"simple\"
```

Numbers carry their unit: `MB` is 1000², `MiB` is 1024². Delivery Optimization's names (`DOMaxCacheAge`, or without `DO`)
can be used as well; their numbers are bare, in the unit of the policy, where KB is 1024 bytes, MB is 1000² and GB is
1000³.

`unset` is the value of a setting that has none.
";
