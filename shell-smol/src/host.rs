//! What the machine asks of its host besides sockets and files: nothing of it is about a runtime.

pub use dovetail_std::host::*;
