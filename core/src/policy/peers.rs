//! How near a peer is, and whether it may be met.
//!
//! Decides once per connection, from what the coordinator says and from the networks this host is in; address
//! ranges count only where neither tells. A public address in a network of ours is a LAN peer.

use super::Limits;
use crate::settings::{Mode, Restrict};
use crate::stats::SourceClass;
use core::net::IpAddr;

/// How we came to know a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// The coordinator named it and says how near it is.
    Coordinator(SourceClass),
    /// The caller or this agent's configuration named it.
    Caller,
    /// It has come to us, or another peer spoke of it.
    Other,
}

impl Limits {
    /// The class all bytes of a connection with this peer are counted in.
    pub fn class_of(&self, addr: IpAddr, known: Known) -> SourceClass {
        let addr = addr.to_canonical();
        if is_link_local(addr) {
            return SourceClass::LinkLocal;
        }
        if self.is_local(addr) {
            return SourceClass::Lan;
        }
        match known {
            Known::Coordinator(class) => class,
            // Private addresses elsewhere are reached by routing: other sites, or a VPN.
            Known::Caller | Known::Other if is_private(addr) => {
                if self.local_networks.is_empty() {
                    SourceClass::Lan
                } else {
                    SourceClass::Group
                }
            }
            Known::Caller | Known::Other => SourceClass::Internet,
        }
    }

    /// May this peer be met in this mode? Whoever the caller names is, if peers are used at all.
    pub fn may_meet(&self, mode: Mode, addr: IpAddr, class: SourceClass, known: Known) -> bool {
        if !mode.peers() {
            return false;
        }
        if known == Known::Caller {
            return true;
        }
        let near = match mode {
            Mode::Lan => class <= SourceClass::Lan,
            Mode::Group => class <= SourceClass::Group,
            Mode::Internet => true,
            Mode::HttpOnly | Mode::Simple | Mode::Bypass => false,
        };
        near && match (self.restrict, mode) {
            (_, Mode::Internet) | (Restrict::None, _) | (Restrict::Auto, Mode::Group) => true,
            (Restrict::Subnet | Restrict::Auto, _) => {
                let addr = addr.to_canonical();
                self.local_networks.is_empty() || self.is_local(addr) || is_link_local(addr)
            }
            (Restrict::LocalDiscovery, _) => class == SourceClass::LinkLocal,
        }
    }

    fn is_local(&self, addr: IpAddr) -> bool {
        addr.is_loopback() || self.local_networks.iter().any(|net| net.contains(addr))
    }
}

const fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr.is_link_local(),
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    }
}

const fn is_private(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr.is_private(),
        IpAddr::V6(addr) => addr.is_unique_local(),
    }
}
