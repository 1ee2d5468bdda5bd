//! Callers on this machine: requests in, JSON lines out.
