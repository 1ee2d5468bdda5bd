//! One download.

mod assembly;
mod resume;
mod storage;
