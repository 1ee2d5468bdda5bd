//! `shelf`: what this home's agent keeps for peers, and what is to stay or go.

use super::args::{Global, ShelfArgs, ShelfCommand};
use super::home::Home;
use super::out::Out;
use super::status;
use dovetail_core::api::{
    Line, SHELF_TARGET, ShelfAsk, ShelfItemLine, ShelfLine, Span, shelf_body,
};
use dovetail_core::failure::Failure;
use dovetail_core::stats::Bytes;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) fn shelf(args: &ShelfArgs, global: &Global, out: Out) -> Result<(), Failure> {
    let home = Home::new(global.home.as_deref())?;
    let (ask, verb) = match &args.command {
        ShelfCommand::Ls => (ShelfAsk::List, ""),
        ShelfCommand::Pin { content } => {
            (ShelfAsk::Pin(content.clone()), "stays, whatever its age")
        }
        ShelfCommand::Unpin { content } => (ShelfAsk::Unpin(content.clone()), "goes in its turn"),
        ShelfCommand::Rm { content } => (ShelfAsk::Remove(content.clone()), "is gone"),
    };
    let answer = match shelf_body(&ask) {
        None => status::ask(&home, "GET", SHELF_TARGET, "")?,
        Some((target, body)) => status::ask(&home, "POST", target, &body)?,
    };
    match answer {
        Line::Shelf(line) => {
            let words = if ask == ShelfAsk::List {
                in_words(&line, now_unix_us())
            } else {
                let names = line
                    .items
                    .iter()
                    .map(|item| format!("{} {verb}", item.name));
                names.collect::<Vec<_>>().join("\n")
            };
            out.result(words.trim_end(), &Line::Shelf(line));
            Ok(())
        }
        Line::Failed(failed) => Err(failed.failure),
        _ => Err(status::garbled("it is about something else".into())),
    }
}

fn now_unix_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    })
}

fn in_words(shelf: &ShelfLine, now_us: i64) -> String {
    let mut words = String::new();
    let held = Bytes(shelf.loose_bytes);
    _ = match shelf.quota_bytes {
        Some(quota) => writeln!(words, "{}: {held} of {}", shelf.folder, Bytes(quota)),
        None => writeln!(words, "{}: {held}", shelf.folder),
    };
    let offered = shelf.items.iter().filter(|item| item.offered).count();
    _ = match shelf.items.len() {
        0 => writeln!(words, "nothing is kept"),
        n => writeln!(
            words,
            "{n} kept, {offered} offered in {} slots",
            shelf.slots
        ),
    };
    for item in &shelf.items {
        _ = writeln!(words, "  {}", item_words(item, now_us));
    }
    words
}

fn item_words(item: &ShelfItemLine, now_us: i64) -> String {
    let place = match (item.offered, item.wanted) {
        (true, _) => "offered",
        (false, true) => "waits for a slot",
        (false, false) => "not wanted now",
    };
    let stays = match (item.pinned, item.expires_unix_us) {
        (true, _) => "pinned".to_owned(),
        (false, None) => "no expiry".to_owned(),
        (false, Some(at)) => {
            let left = Duration::from_secs(u64::try_from(at - now_us).unwrap_or(0) / 1_000_000);
            format!("expires in {}", Span(left))
        }
    };
    let root = item.root.get(..12).unwrap_or(&item.root);
    let (length, sent) = (Bytes(item.length), Bytes(item.sent));
    format!(
        "{root}  {}: {length}, {place}, {stays}, {sent} sent",
        item.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shelf_in_words() {
        let item = ShelfItemLine {
            name: "a.iso".into(),
            length: 2048,
            root: "0123456789abcdef".into(),
            expires_unix_us: Some(7_200_000_000),
            offered: true,
            sent: 1024,
            ..ShelfItemLine::default()
        };
        let pinned = ShelfItemLine {
            name: "b.iso".into(),
            pinned: true,
            offered: false,
            wanted: true,
            ..item.clone()
        };
        let shelf = ShelfLine {
            folder: "/srv/shelf".into(),
            loose_bytes: 2048,
            quota_bytes: Some(4096),
            slots: 4,
            items: vec![item, pinned],
        };
        assert_eq!(
            in_words(&shelf, 0),
            "/srv/shelf: 2 KiB of 4 KiB\n2 kept, 1 offered in 4 slots\n  \
             0123456789ab  a.iso: 2 KiB, offered, expires in 2 h 00 min, 1 KiB sent\n  \
             0123456789ab  b.iso: 2 KiB, waits for a slot, pinned, 1 KiB sent\n"
        );
        let empty = ShelfLine::default();
        assert_eq!(in_words(&empty, 0), ": 0 B\nnothing is kept\n");
    }
}
