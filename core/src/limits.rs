//! Every bound of the system, with its reason. Nothing outstanding, queued or remembered is unbounded.

use core::time::Duration;

/// The unit of requesting and hashing (BEP 52).
pub const BLOCK_LEN: u32 = 16 * 1024;

/// Default unit of announcing and verifying: small enough to spread early, large enough that a piece
/// layer stays at 32 bytes a MiB.
pub const PIECE_LEN: u32 = 1024 * 1024;

/// Largest piece length accepted from a metainfo file: pieces are verified in memory.
pub const PIECE_LEN_MAX: u32 = 16 * 1024 * 1024;

/// Most pieces one content may have; libtorrent loads no more either.
pub const PIECES_MAX: u32 = 2_097_152;

/// Largest metainfo file read (libtorrent's own default is 10 MB).
pub const METAINFO_LEN_MAX: usize = 100 * 1024 * 1024;

/// Credit one stream may hold: about one bandwidth-delay product of a LAN, and what one read can return.
pub const GRANT_PER_STREAM: u32 = 1024 * 1024;

/// Bytes handed to a stream and not yet reported sent.
pub const SEND_PER_STREAM: u32 = 1024 * 1024;

/// How long a stream may take to open.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Largest file [`crate::machine::DiskOp::Load`] returns whole: metainfo and resume files.
pub const SMALL_FILE_MAX: usize = METAINFO_LEN_MAX;

// --- wire and session

// --- http and origin

// --- announce and coordinator

// --- job and agent
