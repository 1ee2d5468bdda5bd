//! uTP.
mod packet;
