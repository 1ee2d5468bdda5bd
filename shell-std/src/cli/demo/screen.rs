//! How the devices of the demo fare: one bar for each for people who watch, else a line each second.

use super::super::out::Out;
use super::table::ratio;
use dovetail_core::api::{DemoProgressLine, GotLine, Line, ProgressLine, Rate, Span};
use dovetail_core::stats::Bytes;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// One bar for each device, or a line each second.
pub(super) struct Screen {
    out: Out,
    bars: Vec<ProgressBar>,
    /// Holds the bars together on the terminal.
    _multi: MultiProgress,
    length: u64,
    done: BTreeMap<u32, u64>,
    started: Instant,
    said: Instant,
}

impl Screen {
    pub(super) fn new(out: Out, devices: u32, length: u64) -> Self {
        let multi = MultiProgress::new();
        let bar = |number| {
            let style = ProgressStyle::with_template("{prefix:>10} [{bar:30}] {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = multi.add(ProgressBar::new(length));
            bar.set_style(style.progress_chars("=> "));
            bar.set_prefix(format!("device {number}"));
            bar
        };
        let bars = if out.has_bars() {
            (1..=devices).map(bar).collect()
        } else {
            Vec::new()
        };
        Self {
            out,
            bars,
            _multi: multi,
            length,
            done: (1..=devices).map(|device| (device, 0)).collect(),
            started: Instant::now(),
            said: Instant::now(),
        }
    }

    pub(super) fn progress(&mut self, device: u32, progress: ProgressLine) {
        self.done.insert(device, progress.done);
        if let Some(bar) = self.bars.get(device as usize - 1) {
            bar.set_position(progress.done);
            bar.set_message(format!(
                "{}, {} from peers",
                Rate(progress.rate_bytes_per_s),
                Bytes(progress.received.peers())
            ));
        }
        self.out
            .line(&Line::DemoProgress(DemoProgressLine { device, progress }));
    }

    pub(super) fn got(&mut self, device: u32, line: &GotLine) {
        self.done.insert(device, self.length);
        if let Some(bar) = self.bars.get(device as usize - 1) {
            bar.set_position(self.length);
            bar.abandon_with_message(format!(
                "done in {}, {} from peers",
                Span(Duration::from_micros(line.elapsed_us)),
                Bytes(line.received.peers())
            ));
        }
    }

    pub(super) fn tick(&mut self) {
        if !self.bars.is_empty() || self.said.elapsed() < Duration::from_secs(1) {
            return;
        }
        self.said = Instant::now();
        let devices = self.done.values();
        let parts: Vec<_> = devices
            .map(|done| format!("{} %", ratio(*done, 100, self.length)))
            .collect();
        let at = Span(Duration::from_secs(self.started.elapsed().as_secs()));
        self.out.remark(&format!("{at}: {}", parts.join(", ")));
    }

    /// Leave the bars as they are, and write below them.
    pub(super) fn end(&self) {
        for bar in &self.bars {
            bar.abandon();
        }
    }
}
