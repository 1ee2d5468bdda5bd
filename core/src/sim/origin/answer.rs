//! One response of the faulty origin: its head, and the body piece by piece, faults and all.

use super::Fault;
use super::request::{Request, Wanted, parse_range};
use crate::machine::CloseHow;
use crate::time::Mono;
use bytes::Bytes;
use core::ops::Range;
use core::time::Duration;
use std::format;
use std::string::String;
use std::vec::Vec;

const LAST_MODIFIED: &str = "Thu, 01 Jan 2026 00:00:00 GMT";
const CHUNK: u64 = 16 * 1024;

/// A response under way.
pub(super) struct Answer {
    pub(super) head: Option<Bytes>,
    pub(super) bytes: Bytes,
    pub(super) place: Range<u64>,
    pub(super) sent: u64,
    pub(super) stall: Option<(u64, Option<Duration>)>,
    pub(super) cut: Option<(u64, CloseHow)>,
    pub(super) resetting: bool,
    pub(super) extra: u64,
    pub(super) lie: Range<u64>,
    pub(super) rate: u64,
    pub(super) not_before: Mono,
    pub(super) chunked: bool,
    pub(super) close: bool,
}

impl Answer {
    /// The answer and its status; `content` is the bytes and their version, if there is something there.
    pub(super) fn to(
        request: &Request,
        content: Option<(Bytes, u32)>,
        faults: &[Fault],
        now: Mono,
    ) -> (Self, u16) {
        let found = content.is_some();
        let (bytes, version) = content.unwrap_or_default();
        let len = bytes.len() as u64;
        let mut answer = Self::new(bytes, now);
        let (mut status, mut lines) = (200, Vec::new());
        if let Some((code, line)) = special(faults) {
            (status, answer.place) = (code, 0..0);
            lines.extend(line);
        } else if !found {
            (status, answer.place) = (404, 0..0);
        } else {
            let etag = format!("\"v{version}\"");
            match wanted(request, &etag, len, faults) {
                Wanted::All => {}
                Wanted::Part(part) => {
                    status = 206;
                    answer.place = shift(faults, part, len);
                    let place = &answer.place;
                    let last = place.end.saturating_sub(1);
                    let total = match faults.contains(&Fault::UnknownTotal) {
                        true => "*".into(),
                        false => format!("{len}"),
                    };
                    let start = place.start;
                    lines.push(format!("Content-Range: bytes {start}-{last}/{total}"));
                }
                Wanted::Nothing => {
                    (status, answer.place) = (416, 0..0);
                    lines.push(format!("Content-Range: bytes */{len}"));
                }
            }
            if !faults.contains(&Fault::IgnoreRange) {
                lines.push("Accept-Ranges: bytes".into());
            }
            if !faults.contains(&Fault::NoValidators) {
                lines.push(format!("ETag: {etag}"));
                lines.push(format!("Last-Modified: {LAST_MODIFIED}"));
            }
        }
        answer.close = request.close
            || faults.contains(&Fault::NoKeepAlive)
            || faults.contains(&Fault::NoLength);
        answer.apply(faults, now);
        answer.frame(&request.method, status, lines, faults);
        (answer, status)
    }

    fn new(bytes: Bytes, now: Mono) -> Self {
        Self {
            head: None,
            place: 0..bytes.len() as u64,
            bytes,
            sent: 0,
            stall: None,
            cut: None,
            resetting: false,
            extra: 0,
            lie: 0..0,
            rate: 0,
            not_before: now,
            chunked: false,
            close: false,
        }
    }

    fn apply(&mut self, faults: &[Fault], now: Mono) {
        for fault in faults {
            match fault {
                Fault::Stall { after, span } => self.stall = Some((*after, *span)),
                Fault::Slow { bytes_per_s } => self.rate = *bytes_per_s,
                Fault::SlowHead { wait } => self.not_before = now + *wait,
                Fault::Truncate { after } => self.cut = Some((*after, CloseHow::Flush)),
                Fault::Reset { after } => self.cut = Some((*after, CloseHow::Abort)),
                Fault::Overlong { extra } => self.extra = *extra,
                Fault::Lie { file } => self.lie = file.clone(),
                Fault::Chunked => self.chunked = true,
                Fault::Redirect { .. }
                | Fault::IgnoreRange
                | Fault::Status { .. }
                | Fault::NoLength
                | Fault::UnknownTotal
                | Fault::NoKeepAlive
                | Fault::NoValidators
                | Fault::WrongPlace { .. }
                | Fault::Garbage => {}
            }
        }
    }

    fn frame(&mut self, method: &str, status: u16, lines: Vec<String>, faults: &[Fault]) {
        if faults.contains(&Fault::Garbage) {
            self.head = Some(Bytes::from_static(b"\x16\x03\x01 this is not HTTP\r\n\r\n"));
            self.close = true;
            self.place = 0..0;
            return;
        }
        let reason = match status {
            200 => "OK",
            206 => "Partial Content",
            _ => "As Configured",
        };
        let mut head = format!("HTTP/1.1 {status} {reason}\r\n");
        for line in lines {
            head.push_str(&line);
            head.push_str("\r\n");
        }
        if self.chunked {
            head.push_str("Transfer-Encoding: chunked\r\n");
        } else if !faults.contains(&Fault::NoLength) {
            let len = self.place.end - self.place.start;
            head.push_str(&format!("Content-Length: {len}\r\n"));
        }
        if self.close {
            head.push_str("Connection: close\r\n");
        }
        head.push_str("\r\n");
        self.head = Some(head.into());
        if method == "HEAD" {
            (self.place, self.extra, self.chunked) = (0..0, 0, false);
        }
    }

    pub(super) fn left(&self) -> u64 {
        self.place.end - self.place.start + self.extra
    }

    /// The next piece of the body, and how many body bytes it is.
    pub(super) fn next_chunk(&mut self) -> (Vec<Bytes>, u64) {
        let mut max = CHUNK;
        if let Some((after, _)) = self.stall {
            max = max.min(after.saturating_sub(self.sent).max(1));
        }
        if let Some((after, _)) = self.cut {
            max = max.min(after.saturating_sub(self.sent).max(1));
        }
        let start = self.place.start;
        let end = self.place.end.min(start + max);
        let body = if start < end {
            self.place.start = end;
            self.file(start, end)
        } else {
            let len = self.extra.min(max);
            self.extra -= len;
            Bytes::from(std::vec![b'+'; len as usize])
        };
        let len = body.len() as u64;
        self.sent += len;
        if !self.chunked {
            return (std::vec![body], len);
        }
        let size = format!("{len:x}\r\n").into();
        (std::vec![size, body, Bytes::from_static(b"\r\n")], len)
    }

    /// Bytes of the file, wrong where it lies.
    fn file(&self, start: u64, end: u64) -> Bytes {
        let bytes = self.bytes.slice(start as usize..end as usize);
        if self.lie.end <= start || self.lie.start >= end {
            return bytes;
        }
        let wrong =
            bytes.iter().zip(start..).map(
                |(byte, at)| {
                    if self.lie.contains(&at) { !byte } else { *byte }
                },
            );
        wrong.collect()
    }
}

fn wanted(request: &Request, etag: &str, len: u64, faults: &[Fault]) -> Wanted {
    let if_range = request.if_range.as_deref();
    let fresh = if_range.is_none_or(|v| v == etag || v == LAST_MODIFIED);
    match &request.range {
        Some(range) if fresh && !faults.contains(&Fault::IgnoreRange) => parse_range(range, len),
        _ => Wanted::All,
    }
}

/// A status instead of the content, with a header line.
fn special(faults: &[Fault]) -> Option<(u16, Option<String>)> {
    faults.iter().find_map(|fault| match fault {
        Fault::Redirect { status, to } => Some((*status, Some(format!("Location: {to}")))),
        Fault::Status {
            status,
            retry_after_s,
        } => Some((*status, retry_after_s.map(|s| format!("Retry-After: {s}")))),
        _ => None,
    })
}

fn shift(faults: &[Fault], part: Range<u64>, len: u64) -> Range<u64> {
    let by = faults.iter().find_map(|fault| match fault {
        Fault::WrongPlace { shift } => Some(*shift),
        _ => None,
    });
    let by = by.unwrap_or(0);
    (part.start + by).min(len)..(part.end + by).min(len)
}

/// How long so many bytes take; nothing without a rate.
pub(super) fn span_of(bytes: u64, bytes_per_s: u64) -> Duration {
    let us = (bytes * 1_000_000).checked_div(bytes_per_s).unwrap_or(0);
    Duration::from_micros(us)
}
