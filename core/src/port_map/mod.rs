//! What is asked of a router so that peers of other networks get in, and how PCP and NAT-PMP say it.
//!
//! Decides: what belongs to a request and to its answer ([`PortRequest`], [`PortAnswer`]); bytes ([`Question`]). Never
//! does: say when to ask (`agent/mapping.rs`) or whom (`policy/port_map.rs`); send anything (the shell does, and speaks
//! UPnP-IGD by a crate). Tests: `wire.rs`, and against miniupnpd in the interop tests.

mod wire;

pub use wire::{DATAGRAM_MAX, PORT, Question, Said};

use alloc::string::String;
use core::fmt;
use core::net::{IpAddr, SocketAddr};

/// Over IPv4 a port of the router's own address is led to us, over IPv6 its firewall is opened for ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const fn of(addr: &IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Let peers in at this port, TCP and UDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRequest {
    /// Counts requests; the answer repeats it.
    pub round: u32,
    pub gateway: IpAddr,
    /// Of the interface to the gateway, whose address may be link-local.
    pub interface: String,
    /// Where to lead them. An unspecified IPv6 address stands for the one this host goes out with.
    pub local: SocketAddr,
    pub lifetime_s: u32,
    /// By which PCP tells our mappings from others'.
    pub nonce: [u8; 12],
}

/// What came of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortAnswer {
    pub round: u32,
    /// Else in a few words why not.
    pub result: Result<PortMapping, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMapping {
    pub protocol: MapProtocol,
    /// Where peers of other networks reach us.
    pub outside: SocketAddr,
    pub lifetime_s: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapProtocol {
    /// RFC 6887
    Pcp,
    /// RFC 6886
    NatPmp,
    /// UPnP Internet Gateway Device
    Igd,
}

impl MapProtocol {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Igd => "UPnP-IGD",
        }
    }
}

impl fmt::Display for MapProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a port is mapped for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
}
