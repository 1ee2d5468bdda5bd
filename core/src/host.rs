//! What a machine must know of its host: networks, power, memory, disk, what its networks announced.
//!
//! The shell reports facts ([`crate::machine::Input::Host`]) whenever one has changed; what they mean is
//! decided by `policy`. Unknown is `None` or empty, never a guess.

use crate::port_map::PortAnswer;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

/// Everything that is known of the host at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Interfaces that are up, loopback included.
    pub interfaces: Vec<Interface>,
    /// The network is paid for by volume, as NetworkManager sees it.
    pub metered: Option<bool>,
    /// `None`: no battery, or nobody tells.
    pub battery: Option<Battery>,
    /// Installed memory.
    pub ram_bytes: Option<u64>,
    /// The file system that holds the shelf.
    pub disk: Option<DiskSpace>,
    /// DNS search domain of the system.
    pub dns_suffix: Option<String>,
    /// DHCP options of the leases of this system, as text.
    pub dhcp_group_id: Option<String>,
    pub dhcp_cache_hosts: Option<String>,
    /// Cache servers announced by DNS-SD, `host:port`.
    pub found_caches: Vec<String>,
    /// What came of the last [`crate::command::Event::MapPort`] of each family.
    pub port_answers: Vec<PortAnswer>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// `eth0`, `wg0`.
    pub name: String,
    /// What an administrator may have called it (`ifalias`), or the driver's word for it.
    pub description: String,
    pub link: LinkKind,
    pub subnets: Vec<Subnet>,
    /// The default route of IPv4 or IPv6 leads through it.
    pub default_route: bool,
    /// Next hops of the default routes through it, the preferred one of each family.
    pub gateways: Vec<IpAddr>,
}

/// What kind of interface the kernel says it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkKind {
    #[default]
    Other,
    Loopback,
    Ethernet,
    Wireless,
    /// Bridges, bonds, VLANs, veth: software in front of other links.
    Virtual,
    Tun,
    Wireguard,
    Ppp,
    /// IPsec (`xfrm`, `vti`), GRE, IP in IP.
    Tunnel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Battery {
    pub percent: u8,
    /// Running from the battery now.
    pub discharging: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// An address and the length of its network's prefix: `10.8.0.7/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnet {
    pub addr: IpAddr,
    pub prefix: u8,
}

impl Subnet {
    /// Is `addr` in this network? IPv4-mapped IPv6 addresses count as IPv4.
    pub fn contains(&self, addr: IpAddr) -> bool {
        match (self.addr.to_canonical(), addr.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(addr)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32)));
                (own.to_bits() ^ addr.to_bits()) & mask.unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(addr)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix.min(128)));
                (own.to_bits() ^ addr.to_bits()) & mask.unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    /// `10.8.0.0/16`, `fd00::/8`; a bare address is a network of one.
    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let (addr, prefix) = match text.split_once('/') {
            Some((addr, prefix)) => (addr, Some(prefix)),
            None => (text, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_| SubnetError)?;
        let max = if addr.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| SubnetError)?,
            None => max,
        };
        if prefix > max {
            return Err(SubnetError);
        }
        Ok(Self { addr, prefix })
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

/// Not an address with a prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetError;

impl fmt::Display for SubnetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a network, as in 10.8.0.0/16 or fd00::/8")
    }
}

impl core::error::Error for SubnetError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        for (subnet, addr, within) in [
            ("10.8.0.0/16", "10.8.255.1", true),
            ("10.8.0.0/16", "10.9.0.1", false),
            ("10.8.0.7/16", "10.8.0.1", true),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("10.8.0.0/16", "::ffff:10.8.0.1", true),
            ("fd00::/8", "fdab::1", true),
            ("fd00::/8", "fe80::1", false),
            ("::/0", "10.0.0.1", false),
        ] {
            let subnet: Subnet = subnet.parse().unwrap();
            assert_eq!(
                subnet.contains(addr.parse().unwrap()),
                within,
                "{subnet} {addr}"
            );
        }
        for bad in [
            "",
            "10.8.0.0/33",
            "10.8/16",
            "fd00::/129",
            "10.8.0.0/-1",
            "a/8",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad:?}");
        }
    }
}
