//! Names of things that cross module boundaries.

use core::fmt;

/// A byte stream. Low bit 0: opened by the core; 1: accepted. No id is used twice within a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

impl StreamId {
    /// Streams over datagrams have this bit: uTP in the core runs them, and the shell never hears of them.
    const UTP: u64 = 1 << 62;

    pub const fn utp(number: u64, is_accepted: bool) -> Self {
        Self(Self::UTP | number << 1 | is_accepted as u64)
    }

    pub const fn is_utp(self) -> bool {
        self.0 & Self::UTP != 0
    }

    pub const fn is_accepted(self) -> bool {
        self.0 & 1 == 1
    }
}

/// A socket for datagrams: they count from 0, in the order of the listeners that have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u8);

/// Work given to the shell (disk, hash); answered once with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// A file the core has asked the shell to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u64);

/// A caller's command; its reply carries the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// One download asked for by one caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u32);

/// A source of one job: a peer session, an origin or a cache connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
