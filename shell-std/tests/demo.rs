//! The demo over std threads: the same tests as over smol.

#[path = "../../shell-smol/tests/demo.rs"]
mod demo;
