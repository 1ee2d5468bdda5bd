//! How a TCP stream fares on the network: nothing of it is about a runtime.

pub use dovetail_std::path::*;
