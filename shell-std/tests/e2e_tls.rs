//! TLS over std threads.

#[macro_use]
#[path = "toys/secure.rs"]
mod secure;

secure!(dovetail_std::Threads);
