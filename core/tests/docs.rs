//! The documents say what the code does: `docs/exit-codes.md`, `docs/json.md` and `docs/settings.md`.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot set its scene must fail"
)]

use dovetail_core::api::{
    GET_TARGET, Line, PRIORITY_TARGET, SHARE_TARGET, STOP_TARGET, parse_request,
};
use dovetail_core::failure::FailureKind;
use dovetail_core::settings::{TABLE, markdown};
use std::collections::BTreeSet;

const EXIT_CODES: &str = include_str!("../../docs/exit-codes.md");
const SETTINGS: &str = include_str!("../../docs/settings.md");
const JSON: &str = include_str!("../../docs/json.md");

const KINDS: [FailureKind; 9] = [
    FailureKind::Usage,
    FailureKind::Unavailable,
    FailureKind::Mismatch,
    FailureKind::Disk,
    FailureKind::Exists,
    FailureKind::Refused,
    FailureKind::Listen,
    FailureKind::Unwell,
    FailureKind::Interrupted,
];

#[test]
fn the_table_of_exit_codes_is_the_code() {
    let rows: Vec<(String, String)> = EXIT_CODES
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let code: u8 = cells.next()?.parse().ok()?;
            Some((code.to_string(), cells.next()?.replace('`', "")))
        })
        .collect();
    let mut expected = vec![("0".to_owned(), "–".to_owned())];
    expected.extend(KINDS.map(|kind| {
        let name = serde_json::to_value(kind).unwrap();
        let name = name.as_str().unwrap().to_owned();
        (kind.exit_code().to_string(), name)
    }));
    assert_eq!(rows, expected);
}

/// `dovetail config --markdown > docs/settings.md` makes it so.
#[test]
fn the_page_of_settings_is_the_table() {
    let page = markdown();
    let different = SETTINGS.lines().zip(page.lines()).find(|(is, be)| is != be);
    assert_eq!(different, None, "docs/settings.md is not fresh");
    assert_eq!(SETTINGS, page, "docs/settings.md is not fresh");
    assert!(TABLE.len() > 30);
    for row in TABLE {
        assert!(page.contains(&format!("\n### `{}`\n", row.name)));
    }
}

#[test]
fn every_kind_of_failure_is_in_the_table() {
    // serde names all kinds it knows when it meets one it does not.
    let refused = serde_json::from_str::<FailureKind>("\"?\"").unwrap_err();
    assert_eq!(names(&refused.to_string()).len(), KINDS.len(), "{refused}");
}

#[test]
fn every_line_in_the_document_is_one_and_says_everything() {
    for text in lines() {
        let line = Line::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        // A field missing in the document would come in here, a field too many would be gone.
        let shown: serde_json::Value = serde_json::from_str(text).unwrap();
        let written: serde_json::Value = serde_json::from_str(&line.render()).unwrap();
        assert_eq!(shown, written);
    }
}

#[test]
fn every_type_of_line_is_in_the_document() {
    let shown: BTreeSet<String> = lines()
        .map(|text| {
            let line: serde_json::Value = serde_json::from_str(text).unwrap();
            line["type"].as_str().unwrap().to_owned()
        })
        .collect();
    let refused = Line::parse("{\"type\":\"?\"}").unwrap_err().to_string();
    let known = names(&refused);
    assert!(known.contains("progress"), "{refused}");
    assert_eq!(shown, known);
}

#[test]
fn the_bodies_in_the_document_are_taken() {
    for (target, heading) in [
        (GET_TARGET, "### Body of `POST /v1/get`"),
        (SHARE_TARGET, "### Body of `POST /v1/share`"),
        (STOP_TARGET, "### Body of `POST /v1/stop`"),
        (PRIORITY_TARGET, "### Body of `POST /v1/priority`"),
    ] {
        let (_, after) = JSON.split_once(heading).unwrap();
        let (_, after) = after.split_once("```json\n").unwrap();
        let (body, _) = after.split_once("```").unwrap();
        if let Err(refusal) = parse_request("POST", target, body.as_bytes()) {
            panic!("{target}: {}", refusal.failure);
        }
    }
}

/// The JSON blocks of the document that are lines.
fn lines() -> impl Iterator<Item = &'static str> {
    JSON.lines().filter(|line| line.starts_with("{\"type\":"))
}

/// What stands in backquotes, after the first: "unknown variant `?`, expected one of `a`, `b`".
fn names(text: &str) -> BTreeSet<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.skip(1).map(str::to_owned).collect()
}
