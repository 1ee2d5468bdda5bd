//! One peer connection.
