//! Which block next, from whom.
