//! A part of a file on its way to a socket: nothing of it is about a runtime.

pub use dovetail_std::file_part::*;
