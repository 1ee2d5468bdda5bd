//! The bytes of one stream in both directions, with or without TLS: nothing of it is about a runtime.

pub use dovetail_std::tls::*;
