//! Hours of the day, with or without percentages.
//!
//! Decides: how they are written. Tests: `table_tests.rs`.

use super::kind::{Bounds, Kind, Notation, Shape};
use super::number::{Count, Share};
use super::value::{DayHours, HoursLimit};
use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;

/// `8-17 10% else 45%`
pub(super) struct Hours;

impl Kind for Hours {
    type Value = HoursLimit;
    const SHAPE: Shape = Shape::Hours;

    fn parse(text: &str, _: Notation, _: Bounds) -> Result<HoursLimit, String> {
        let shape = || "it is not FROM-TO PERCENT else PERCENT".to_owned();
        let (from, rest) = text.split_once('-').ok_or_else(shape)?;
        let (to, rest) = rest.trim_start().split_once(' ').ok_or_else(shape)?;
        let (inside, outside) = rest.split_once("else").ok_or_else(shape)?;
        let percent = |text: &str| {
            let all = Bounds { min: 0, max: 100 };
            Share::parse(text.trim(), Notation::Ours, all)
                .map_err(|e| format!("`{}`: {e}", text.trim()))
        };
        Ok(HoursLimit {
            from: hour(from)?,
            to: hour(to)?,
            inside: percent(inside)?,
            outside: percent(outside)?,
        })
    }

    fn show(value: &HoursLimit) -> String {
        let HoursLimit {
            from,
            to,
            inside,
            outside,
        } = value;
        format!("{from}-{to} {}% else {}%", inside.0, outside.0)
    }

    fn allowed(_: Bounds) -> String {
        "hours 0 to 23 and percentages, as in \"8-17 10% else 45%\" or {from = 8, to = 17, inside = 10, outside = 45}"
            .to_owned()
    }
}

fn hour(text: &str) -> Result<u8, String> {
    let text = text.trim();
    let day = Bounds { min: 0, max: 23 };
    Count::parse(text, Notation::Ours, day)
        .map(|hour| hour as u8)
        .map_err(|e| format!("hour `{text}`: {e}"))
}

/// `22-6`
pub(super) struct DayWindow;

impl Kind for DayWindow {
    type Value = DayHours;

    fn parse(text: &str, _: Notation, _: Bounds) -> Result<DayHours, String> {
        let (from, to) = text
            .split_once('-')
            .ok_or_else(|| "it is not FROM-TO".to_owned())?;
        Ok(DayHours {
            from: hour(from)?,
            to: hour(to)?,
        })
    }

    fn show(value: &DayHours) -> String {
        format!("{}-{}", value.from, value.to)
    }

    fn allowed(_: Bounds) -> String {
        "hours 0 to 23, as in 22-6".to_owned()
    }
}
