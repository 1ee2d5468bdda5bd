//! Role: tells agents what a file is and who has it.
