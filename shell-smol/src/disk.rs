//! Files: workers run the machine's operations, next to hashing.
//!
//! Threads of their own and not the pool that smol shares with everything that blocks: few, so that the
//! machine stays usable, and each takes its next work without asking the executor.

pub use dovetail_std::disk::*;
