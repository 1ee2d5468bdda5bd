//! What callers say to a role, and what it says back.
//!
//! A [`Command`] is answered by exactly one [`Reply`] with the same call id. [`Event`]s come in between
//! and belong to nobody's call in particular: progress and log.

use crate::content::Digest;
use crate::failure::Failure;
use crate::ids::{CallId, JobId};
use crate::port_map::{Family, PortRequest};
use crate::settings::{Mode, Problem, Provider, Source};
use crate::stats::ByClass;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use core::net::SocketAddr;

#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Command {
    /// Download one file. Answered by [`Reply::Got`] when it is complete or has failed.
    Get(GetRequest),
    /// Offer a complete local file to peers. Answered by [`Reply::Shared`] once it is verified.
    Share(ShareRequest),
    /// Stop a job, keeping what is good. Its own `Get` is answered as interrupted.
    Stop(CallId),
    /// Somebody waits for this download from now on, or nobody does any more. Answered by [`Reply::Prioritised`].
    Prioritise { get: CallId, foreground: bool },
    /// Settings of one provider, replacing what it said before. Answered by [`Reply::Configured`] with what is wrong
    /// in them; for that, what held before stays.
    Configure {
        provider: Provider,
        sources: Vec<Source>,
    },
    /// Make everything durable, say goodbye to the coordinator, close all streams. Answered by [`Reply::Stopped`].
    Shutdown,
}

/// One download, as the caller wants it.
#[derive(Clone, Debug, Default)]
pub struct GetRequest {
    /// Where the bytes live; several are alternatives. May be empty if the metainfo names some, or peers do.
    pub urls: Vec<String>,
    /// A `.torrent` file's bytes.
    pub metainfo: Option<Bytes>,
    /// Absolute path of the result.
    pub output: String,
    /// Replace an existing output.
    pub overwrite: bool,
    /// SHA-256 of the whole file, if the caller knows it.
    pub sha256: Option<Digest>,
    /// Somebody waits for it.
    pub foreground: bool,
    /// Hand out pieces in order, for a caller that reads along.
    pub sequential: bool,
    /// Never take bytes from the origin (the caller wants to know that peers suffice).
    pub require_peers: bool,
    /// Addresses of peers to dial besides those the coordinator names.
    pub peers: Vec<SocketAddr>,
    /// Bytes per second this job may receive; 0 is no limit.
    pub limit_bytes_per_s: u64,
    /// A download mode for this file; never wider than the one in force.
    pub mode: Option<Mode>,
}

#[derive(Clone, Debug)]
pub struct ShareRequest {
    pub metainfo: Bytes,
    /// Absolute path of the complete file.
    pub path: String,
}

#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Reply {
    Got(Result<Report, Failure>),
    Shared(Result<(), Failure>),
    Configured(Vec<Problem>),
    /// Whether there is such a download.
    Prioritised(bool),
    Stopped,
}

/// How a download went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub output: String,
    pub length: u64,
    pub elapsed_us: u64,
    /// Useful bytes of this run, by where they came from.
    pub received: ByClass,
    /// Bytes received and thrown away (duplicates, bad blocks).
    pub wasted: u64,
    /// Bytes that an earlier run had already verified.
    pub resumed: u64,
    /// Distinct peers that delivered at least one useful block.
    pub peers: u32,
    pub verified: Verified,
    pub sha256: Option<Digest>,
}

/// The highest rung of the trust ladder that the result was checked against (design §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// SHA-256 of the whole file, given by the caller.
    Sha256,
    /// The Merkle tree of a metainfo file or content record.
    Merkle,
    /// Nobody gave a hash: complete and of one version, as far as HTTP can tell.
    Length,
}

/// What a role tells about itself while it works.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    Progress {
        call: CallId,
        job: JobId,
        progress: Progress,
    },
    Log {
        level: Level,
        text: String,
    },
    /// Look for cache servers on the local networks by DNS-SD from now on, or look no longer. Until it is said, nobody
    /// looks; what is found comes as [`crate::host::HostFacts::found_caches`].
    LookForCaches(bool),
    /// Ask the router for this port, once; what it said comes in [`crate::host::HostFacts::port_answers`]. It replaces
    /// the request of that family before.
    MapPort(PortRequest),
    /// Give the port back, if one was given.
    UnmapPort(Family),
    /// The shelf is in this folder from now on: [`crate::host::HostFacts::disk`] is to be the disk it is on.
    ShelfMoved(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// 0 while unknown.
    pub length: u64,
    /// Verified bytes, this run's and earlier ones'.
    pub done: u64,
    pub resumed: u64,
    pub received: ByClass,
    pub wasted: u64,
    /// Over the last few seconds.
    pub rate_bytes_per_s: u64,
    pub peers: u32,
    /// Why nothing is transferred at present: `its turn has not come (max_background_jobs = 4)`.
    pub waiting: Option<String>,
}

/// By who must act: a user sees `Info` and above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}
