//! The agent's side of coordination.
