//! One process gives, another takes, hashes and writes: MiB/s and CPU seconds for each GiB.
//!
//! `throughput [MIB] [memory|disk] [DIR]`

#[path = "../tests/toys/bulk.rs"]
mod bulk;

fn main() {
    bulk::main::<dovetail_std::Threads>();
}
