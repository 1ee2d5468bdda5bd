//! Bars for people who watch: one for the whole file, one for each kind of source that delivered something.
//!
//! Decides: what a bar shows. Never does: anything when nobody watches ([`Out::has_bars`]).

use super::out::Out;
use dovetail_core::api::{Rate, Span};
use dovetail_core::command::Progress;
use dovetail_core::stats::{Bytes, SourceClass};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::time::Duration;

/// The bars of one download.
pub(crate) struct Bars {
    multi: MultiProgress,
    total: ProgressBar,
    classes: BTreeMap<SourceClass, ProgressBar>,
}

/// How a bar looks; the words behind it are ours.
const BAR: &str = "{prefix:>16} [{bar:30}] {msg}";
const SPINNER: &str = "{prefix:>16} {spinner} {msg}";

impl Bars {
    /// Bars with this name in front; `None` if nobody watches.
    pub(crate) fn new(out: Out, name: &str) -> Option<Self> {
        if !out.has_bars() {
            return None;
        }
        let multi = MultiProgress::new();
        let total = multi.add(ProgressBar::new(0));
        total.set_style(style(SPINNER));
        total.set_prefix(shortened(name));
        Some(Self {
            multi,
            total,
            classes: BTreeMap::new(),
        })
    }

    pub(crate) fn show(&mut self, progress: &Progress) {
        if progress.length > 0 && self.total.length() != Some(progress.length) {
            self.total.set_style(style(BAR));
            self.total.set_length(progress.length);
        }
        self.total.set_position(progress.done);
        self.total.set_message(total_words(progress));
        if progress.length == 0 {
            self.total.tick();
        }
        for class in SourceClass::ALL {
            let bytes = progress.received.of(class);
            if bytes > 0 {
                self.class(class, progress, bytes);
            }
        }
    }

    /// Write something else to the terminal between two drawings of the bars.
    pub(crate) fn suspend(&self, write: impl FnOnce()) {
        self.multi.suspend(write);
    }

    /// Take the bars away.
    pub(crate) fn clear(self) {
        _ = self.multi.clear();
    }

    fn class(&mut self, class: SourceClass, progress: &Progress, bytes: u64) {
        let multi = &self.multi;
        let bar = self.classes.entry(class).or_insert_with(|| {
            let bar = multi.add(ProgressBar::new(progress.length));
            bar.set_style(style(BAR));
            bar.set_prefix(class.name());
            bar
        });
        bar.set_length(progress.length);
        bar.set_position(bytes);
        bar.set_message(if class.is_peer() && progress.peers > 0 {
            let noun = if progress.peers == 1 { "peer" } else { "peers" };
            format!("{}, {} {noun} connected", Bytes(bytes), progress.peers)
        } else {
            Bytes(bytes).to_string()
        });
    }
}

/// A bar for work on this machine, with this name in front; `None` if nobody watches.
pub(crate) fn work(out: Out, name: &str) -> Option<ProgressBar> {
    if !out.has_bars() {
        return None;
    }
    let bar = ProgressBar::new(0);
    bar.set_style(style(BAR));
    bar.set_prefix(shortened(name));
    Some(bar)
}

/// `340 MiB of 1.2 GiB, 84 MiB/s, 11 s left, 320 MiB saved`
pub(crate) fn total_words(progress: &Progress) -> String {
    let mut words = Bytes(progress.done).to_string();
    if progress.length > 0 {
        words += &format!(" of {}", Bytes(progress.length));
    }
    let rate = progress.rate_bytes_per_s;
    words += &format!(", {}", Rate(rate));
    let left = progress.length.saturating_sub(progress.done);
    if let Some(seconds) = left.checked_div(rate).filter(|_| left > 0) {
        words += &format!(", {} left", Span(Duration::from_secs(seconds.max(1))));
    }
    let saved = progress.received.total() - progress.received.origin;
    if saved > 0 {
        words += &format!(", {} saved", Bytes(saved));
    }
    words
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// Long names would push the bar off the line.
fn shortened(name: &str) -> String {
    const WIDTH: usize = 16;
    if name.chars().count() <= WIDTH {
        return name.to_owned();
    }
    let mut short: String = name.chars().take(WIDTH - 1).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use dovetail_core::stats::ByClass;

    #[test]
    fn the_words_behind_the_bar() {
        let mut progress = Progress {
            done: 340 << 20,
            rate_bytes_per_s: 84 << 20,
            ..Progress::default()
        };
        assert_eq!(total_words(&progress), "340 MiB, 84 MiB/s");
        progress.length = 1 << 30;
        progress.received = ByClass {
            origin: 20 << 20,
            lan: 320 << 20,
            ..ByClass::default()
        };
        assert_eq!(
            total_words(&progress),
            "340 MiB of 1 GiB, 84 MiB/s, 8 s left, 320 MiB saved"
        );
        progress.rate_bytes_per_s = 0;
        assert_eq!(
            total_words(&progress),
            "340 MiB of 1 GiB, 0 B/s, 320 MiB saved"
        );
    }

    #[test]
    fn long_names_are_shortened_by_characters() {
        assert_eq!(shortened("image.iso"), "image.iso");
        assert_eq!(shortened("ääääääääääääääääää"), "äääääääääääääää…");
    }

    #[test]
    fn the_templates_are_well_formed() {
        for template in [BAR, SPINNER] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
