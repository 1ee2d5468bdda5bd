//! The contract over smol, and between smol and std threads in both directions.

#[macro_use]
#[path = "../../shell-std/tests/toys/contract.rs"]
mod contract;

use dovetail_smol::Smol;

contract!(each Smol);
contract!(between Smol, Smol);

mod smol_to_std {
    use super::{Smol, contract};
    use dovetail_std::Threads;

    contract!(between Smol, Threads);
}

mod std_to_smol {
    use super::{Smol, contract};
    use dovetail_std::Threads;

    contract!(between Threads, Smol);
}
