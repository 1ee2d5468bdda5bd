//! The simulator: machines in virtual time.
