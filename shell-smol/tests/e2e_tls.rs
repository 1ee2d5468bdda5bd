//! TLS over smol.

#[macro_use]
#[path = "../../shell-std/tests/toys/secure.rs"]
mod secure;

secure!(dovetail_smol::Smol);
