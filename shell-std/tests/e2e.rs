//! The contract over std threads.

#[macro_use]
#[path = "toys/contract.rs"]
mod contract;

use dovetail_std::Threads;

contract!(each Threads);
contract!(between Threads, Threads);
