//! Addresses, names and sockets as the operating system has them: nothing of it is about a runtime.

pub use dovetail_std::net::*;
