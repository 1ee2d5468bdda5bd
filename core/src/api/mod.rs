//! Callers on this machine: requests in, JSON lines out; and the numbers and names they read and write.

mod name;
mod text;

pub use name::{name_from_url, safe_name};
pub use text::{Rate, Span, TextError, parse_duration, parse_rate, parse_size, summary};
