//! One JSON line: what the local API streams and what `--json` prints. The schema is in `docs/json.md`.
//!
//! Decides: names and shapes. Never does: when a line is written. Invariants: a line holds no newline;
//! `Line::parse(line.render())` gives the line back. Tests: below, and `docs/json.md` is checked against it.

use super::check_line::{CheckLine, DoctorLine};
use super::host_line::HostLine;
use super::setting_line::{SettingLine, ToldLine};
use super::shelf_line::ShelfLine;
use crate::command::{Event, Level, Progress, Reply, Report, Verified};
use crate::content::Digest;
use crate::failure::{Failure, FailureKind};
use crate::stats::ByClass;
use alloc::boxed::Box;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// What is said to a caller, one per line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Line {
    /// A long-running command is ready: the TCP address it got, and where callers on this machine reach it.
    Listening {
        role: String,
        listening: Option<String>,
        socket: Option<String>,
    },
    /// The job has been taken; `call` names it for `POST /v1/stop`.
    Accepted {
        call: u64,
    },
    Progress(ProgressLine),
    Log {
        level: LogLevel,
        text: String,
    },
    /// The download is complete.
    Got(GotLine),
    /// The file is offered to peers.
    Shared,
    /// The command has failed.
    Failed(FailedLine),
    /// Answers `POST /v1/priority`: whether there is such a download.
    Prioritised {
        found: bool,
    },
    Stopped,
    /// New settings were taken up; what is wrong in them.
    Configured {
        problems: Vec<String>,
    },
    Status(Box<Status>),
    Shelf(ShelfLine),
    Host(HostLine),
    Setting(SettingLine),
    Check(CheckLine),
    Doctor(DoctorLine),
    Published(PublishedLine),
    DemoProgress(DemoProgressLine),
    DemoDevice(DemoDeviceLine),
    Demo(DemoLine),
}

/// How a download goes. Byte counts are bytes; `length` is 0 while unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressLine {
    pub job: u32,
    pub length: u64,
    pub done: u64,
    pub resumed: u64,
    pub received: ByClass,
    pub wasted: u64,
    pub rate_bytes_per_s: u64,
    pub peers: u32,
    /// Why nothing is transferred at present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GotLine {
    pub output: String,
    pub length: u64,
    pub elapsed_us: u64,
    pub received: ByClass,
    pub wasted: u64,
    pub resumed: u64,
    pub peers: u32,
    pub verified: VerifiedBy,
    /// Hex; of the whole file, if it is known.
    pub sha256: Option<String>,
    /// The same in words.
    pub summary: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifiedBy {
    Sha256,
    Merkle,
    Length,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedLine {
    #[serde(flatten)]
    pub failure: Failure,
    pub exit_code: u8,
}

/// What an agent is doing, for `GET /v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    #[serde(default)]
    pub version: String,
    /// Where peers are accepted; `null` if they are not.
    #[serde(default)]
    pub listening: Option<String>,
    pub jobs: Vec<JobStatus>,
    pub shared: Vec<SharedStatus>,
    pub peers: Vec<PeerStatus>,
    /// The coordinator's URL and whether it answered last time.
    pub coordinator: Option<CoordinatorStatus>,
    #[serde(default)]
    pub policy: PolicyStatus,
    #[serde(default)]
    pub nat: NatStatus,
}

/// What this agent may do now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// The download mode in force.
    pub mode: String,
    /// `download_mode = lan (built in)`
    pub mode_set: String,
    /// What is restricted now, and why.
    pub restrictions: Vec<String>,
    /// Cache servers in the order they are asked.
    pub caches: Vec<String>,
    /// What was sent to Internet peers this month.
    pub internet_upload_bytes: u64,
    /// What only this agent was told; all other settings are in files.
    #[serde(default)]
    pub told: Vec<ToldLine>,
}

/// How this device is reached from other networks, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatStatus {
    pub kind: NatKind,
    /// How it maps and filters, in the words of RFC 4787; empty while nobody has tried it.
    pub behaviour: String,
    /// It takes another port for each peer.
    #[serde(default)]
    pub is_symmetric: bool,
    /// All of it in words.
    pub words: String,
    pub port_mapping: PortMappingStatus,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NatKind {
    #[default]
    Unknown,
    /// The address is public.
    None,
    /// The address is private.
    Behind,
}

/// The port that the router leads here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMappingStatus {
    pub state: PortMappingState,
    /// Where peers of other networks get in.
    pub outside: Option<String>,
    /// `PCP`, `NAT-PMP` or `UPnP-IGD`.
    pub protocol: Option<String>,
    /// The router's firewall is open for us over IPv6.
    pub pinhole_v6: bool,
    /// Why there is none.
    pub why: String,
    /// The setting that decided that, and who set it.
    pub setting: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortMappingState {
    /// Nobody is asked.
    #[default]
    Off,
    Asked,
    Mapped,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    pub call: u64,
    pub output: String,
    #[serde(flatten)]
    pub progress: ProgressLine,
}

/// A content that peers can have from here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedStatus {
    pub path: String,
    pub length: u64,
    /// Hex of the Merkle root.
    pub root: String,
    /// Bytes sent to peers since the agent started.
    pub sent: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    pub addr: String,
    /// `lan`, `link_local`, `group` or `internet`.
    pub class: String,
    /// What carries the session: `tcp`, `utp`, or `relay` (uTP through the coordinator).
    pub transport: String,
    pub received: u64,
    pub sent: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorStatus {
    pub url: String,
    pub reachable: bool,
}

/// What `publish` has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedLine {
    pub torrent: String,
    pub name: String,
    pub length: u64,
    /// Hex of the Merkle root.
    pub root: String,
    /// Hex of the whole file.
    pub sha256: String,
    pub info_hash: String,
    /// The coordinator that took the record.
    pub coordinator: Option<String>,
    /// The running agent of this home serves the file.
    pub served: bool,
}

/// How far a device of the demo is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemoProgressLine {
    pub device: u32,
    #[serde(flatten)]
    pub progress: ProgressLine,
}

/// What became of one device of the demo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemoDeviceLine {
    pub device: u32,
    pub elapsed_us: u64,
    pub received: ByClass,
    /// Its file has the source's SHA-256.
    pub verified: bool,
}

/// What the demo has shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemoLine {
    pub file: String,
    pub length: u64,
    pub devices: u32,
    pub origin_limit_bytes_per_s: u64,
    /// From the first request to the last device's end.
    pub elapsed_us: u64,
    /// What the origin sent of the file, in thousandths of it.
    pub origin_copies_permille: u64,
    /// Share of all received bytes that came from peers, in thousandths.
    pub from_peers_permille: u64,
    /// One copy through the origin's line.
    pub bound_us: u64,
    /// The least time in which hosts that each send no faster than the origin can spread the file (Mundinger et al.).
    pub mundinger_us: u64,
    /// Every device has the right file.
    pub verified: bool,
}

/// Why a line could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError(pub String);

impl core::fmt::Display for LineError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "not a line of the local API: {}", self.0)
    }
}

impl core::error::Error for LineError {}

impl Line {
    /// The line with its newline.
    pub fn render(&self) -> String {
        // Plain structs, string keys: the serializer has nothing to refuse.
        let mut text = serde_json::to_string(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// # Errors
    /// If it is not JSON, or of a type this version does not know.
    pub fn parse(text: &str) -> Result<Self, LineError> {
        serde_json::from_str(text.trim_end()).map_err(|e| LineError(e.to_string()))
    }

    pub fn failed(failure: Failure) -> Self {
        Self::Failed(FailedLine {
            exit_code: failure.kind.exit_code(),
            failure,
        })
    }

    /// What the caller is told at the end of a call.
    pub fn of_reply(reply: &Reply) -> Self {
        match reply {
            Reply::Got(Ok(report)) => Self::Got(report.into()),
            Reply::Shared(Ok(())) => Self::Shared,
            Reply::Got(Err(failure)) | Reply::Shared(Err(failure)) => Self::failed(failure.clone()),
            Reply::Configured(problems) => Self::Configured {
                problems: problems.iter().map(|p| p.to_string()).collect(),
            },
            Reply::Prioritised(found) => Self::Prioritised { found: *found },
            Reply::Stopped => Self::Stopped,
        }
    }

    /// `None`: it is for the shell.
    pub fn of_event(event: &Event) -> Option<Self> {
        Some(match event {
            Event::Progress { job, progress, .. } => {
                Self::Progress(ProgressLine::new(job.0, progress))
            }
            Event::Log { level, text } => Self::Log {
                level: (*level).into(),
                text: text.clone(),
            },
            Event::LookForCaches(_)
            | Event::ShelfMoved(_)
            | Event::MapPort(_)
            | Event::UnmapPort(_) => return None,
        })
    }

    /// The end of a `get`: `None` if this line is not one.
    pub fn into_got(self) -> Option<Result<Report, Failure>> {
        match self {
            Self::Got(got) => Some(got.into_report()),
            Self::Failed(failed) => Some(Err(failed.failure)),
            _ => None,
        }
    }
}

impl ProgressLine {
    pub fn new(job: u32, progress: &Progress) -> Self {
        Self {
            job,
            length: progress.length,
            done: progress.done,
            resumed: progress.resumed,
            received: progress.received,
            wasted: progress.wasted,
            rate_bytes_per_s: progress.rate_bytes_per_s,
            peers: progress.peers,
            waiting: progress.waiting.clone(),
        }
    }

    pub fn progress(&self) -> Progress {
        Progress {
            length: self.length,
            done: self.done,
            resumed: self.resumed,
            received: self.received,
            wasted: self.wasted,
            rate_bytes_per_s: self.rate_bytes_per_s,
            peers: self.peers,
            waiting: self.waiting.clone(),
        }
    }
}

impl From<&Report> for GotLine {
    fn from(report: &Report) -> Self {
        Self {
            output: report.output.clone(),
            length: report.length,
            elapsed_us: report.elapsed_us,
            received: report.received,
            wasted: report.wasted,
            resumed: report.resumed,
            peers: report.peers,
            verified: match report.verified {
                Verified::Sha256 => VerifiedBy::Sha256,
                Verified::Merkle => VerifiedBy::Merkle,
                Verified::Length => VerifiedBy::Length,
            },
            sha256: report.sha256.map(|digest| digest.to_string()),
            summary: super::summary(report),
        }
    }
}

impl GotLine {
    fn into_report(self) -> Result<Report, Failure> {
        let sha256 = match self.sha256.as_deref().map(parse_sha256) {
            None => None,
            Some(Some(digest)) => Some(digest),
            Some(None) => {
                return Err(Failure::new(
                    FailureKind::Unavailable,
                    "cannot read the agent's answer",
                    "its sha256 is not 64 hex digits",
                ));
            }
        };
        Ok(Report {
            output: self.output,
            length: self.length,
            elapsed_us: self.elapsed_us,
            received: self.received,
            wasted: self.wasted,
            resumed: self.resumed,
            peers: self.peers,
            verified: match self.verified {
                VerifiedBy::Sha256 => Verified::Sha256,
                VerifiedBy::Merkle => Verified::Merkle,
                VerifiedBy::Length => Verified::Length,
            },
            sha256,
        })
    }
}

impl From<Level> for LogLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Debug => Self::Debug,
            Level::Info => Self::Info,
            Level::Warn => Self::Warn,
            Level::Error => Self::Error,
        }
    }
}

impl From<LogLevel> for Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Debug => Self::Debug,
            LogLevel::Info => Self::Info,
            LogLevel::Warn => Self::Warn,
            LogLevel::Error => Self::Error,
        }
    }
}

/// A SHA-256 as 64 hex digits of either case; `None` if it is not.
pub fn parse_sha256(text: &str) -> Option<Digest> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let mut digest = [0; 32];
    if pairs.len() != digest.len() || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(pairs) {
        let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
        *byte = (high? << 4 | low?) as u8;
    }
    Some(Digest(digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{CallId, JobId};
    use alloc::format;

    fn report() -> Report {
        Report {
            output: "/srv/a \"b\"\n".into(),
            length: u64::MAX,
            elapsed_us: 14_000_000,
            received: ByClass {
                origin: 1,
                cache: 2,
                link_local: 3,
                lan: 4,
                group: 5,
                internet: 6,
            },
            wasted: 7,
            resumed: 8,
            peers: 9,
            verified: Verified::Sha256,
            sha256: Some(Digest([0xc5; 32])),
        }
    }

    #[test]
    fn lines_are_read_back_as_written() {
        let progress = Progress {
            length: 10,
            done: 5,
            rate_bytes_per_s: 3,
            ..Progress::default()
        };
        for line in [
            Line::Listening {
                role: "agent".into(),
                listening: Some("127.0.0.1:7680".into()),
                socket: None,
            },
            Line::Accepted { call: 1 << 32 },
            Line::of_event(&Event::Progress {
                call: CallId(1),
                job: JobId(4),
                progress: progress.clone(),
            })
            .unwrap(),
            Line::of_event(&Event::Log {
                level: Level::Warn,
                text: "two\nlines".into(),
            })
            .unwrap(),
            Line::of_reply(&Reply::Got(Ok(report()))),
            Line::of_reply(&Reply::Got(Err(Failure::new(
                FailureKind::Mismatch,
                "cannot keep x",
                "wrong",
            )
            .remedy("ask again")))),
            Line::of_reply(&Reply::Shared(Ok(()))),
            Line::of_reply(&Reply::Stopped),
            Line::Status(Box::new(Status {
                version: "0.1.0".into(),
                listening: Some("0.0.0.0:7680".into()),
                jobs: alloc::vec![JobStatus {
                    call: 3,
                    output: "/x".into(),
                    progress: ProgressLine::new(1, &progress),
                }],
                shared: alloc::vec![SharedStatus {
                    path: "/x".into(),
                    length: 1,
                    root: "00".into(),
                    sent: 2,
                }],
                peers: alloc::vec![PeerStatus {
                    addr: "[::1]:7680".into(),
                    class: "lan".into(),
                    transport: "utp".into(),
                    received: 1,
                    sent: 2,
                }],
                coordinator: Some(CoordinatorStatus {
                    url: "http://c:7681".into(),
                    reachable: true,
                }),
                policy: PolicyStatus::default(),
                nat: NatStatus::default(),
            })),
            Line::Configured {
                problems: alloc::vec!["x:3: wrong".into()],
            },
        ] {
            let text = line.render();
            assert_eq!(text.matches('\n').count(), 1, "{text:?}");
            assert_eq!(Line::parse(&text), Ok(line));
        }
    }

    #[test]
    fn a_failure_says_its_exit_code_beside_its_kind() {
        let line = Line::failed(Failure::new(FailureKind::Disk, "a", "b"));
        assert_eq!(
            line.render(),
            "{\"type\":\"failed\",\"kind\":\"disk\",\"what\":\"a\",\"why\":\"b\",\"remedy\":\"\",\"exit_code\":5}\n"
        );
    }

    #[test]
    fn a_report_survives_the_socket() {
        let line = Line::parse(&Line::of_reply(&Reply::Got(Ok(report()))).render()).unwrap();
        assert_eq!(line.into_got(), Some(Ok(report())));
        assert_eq!(Line::Stopped.into_got(), None);
    }

    #[test]
    fn unknown_types_and_garbage_are_errors() {
        for text in [
            "",
            "{}",
            "[]",
            "{\"type\":\"dance\"}",
            "{\"type\":\"got\"}",
            "\u{0}",
        ] {
            assert!(Line::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hex_digests() {
        let text = "0123456789abcdefABCDEF0123456789abcdef0123456789abcdef0123456789";
        assert_eq!(
            parse_sha256(text).map(|digest| digest.to_string()),
            Some(text.to_lowercase())
        );
        for bad in [
            "",
            "ab",
            &text[1..],
            &format!("{text}00"),
            &text.replace('a', "g"),
            &text.replace("ab", "ä"),
        ] {
            assert_eq!(parse_sha256(bad), None, "{bad}");
        }
    }
}
