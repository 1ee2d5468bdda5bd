//! Role: a small range server over a folder.
