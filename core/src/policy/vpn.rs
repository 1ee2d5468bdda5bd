//! Which interfaces lead into a VPN.
//!
//! Decides by the kind of link (tun, WireGuard, IPsec and other tunnels), by words in name and description, and
//! for PPP by the default route: PPP below a default route of its own is a modem line, beside another one a VPN.

use crate::host::{HostFacts, Interface, LinkKind};
use alloc::string::String;

/// Words of Delivery Optimization that make an adapter a VPN.
const KEYWORDS: [&str; 3] = ["VPN", "Secure", "Virtual Private Network"];

/// The first interface that is up and belongs to a VPN.
pub fn vpn<'a>(facts: &'a HostFacts, keywords: &[String]) -> Option<&'a Interface> {
    let mut interfaces = facts.interfaces.iter();
    interfaces.find(|interface| is_vpn(interface, facts, keywords))
}

pub(super) fn is_vpn(interface: &Interface, facts: &HostFacts, keywords: &[String]) -> bool {
    if interface.subnets.is_empty() {
        return false;
    }
    let by_kind = match interface.link {
        LinkKind::Tun | LinkKind::Wireguard | LinkKind::Tunnel => true,
        LinkKind::Ppp => {
            let is_other = |other: &&Interface| other.name != interface.name;
            let mut others = facts.interfaces.iter().filter(is_other);
            !interface.default_route || others.any(|other| other.default_route)
        }
        LinkKind::Loopback => return false,
        LinkKind::Ethernet | LinkKind::Wireless | LinkKind::Virtual | LinkKind::Other => false,
    };
    let built_in = KEYWORDS.iter().copied();
    by_kind
        || built_in
            .chain(keywords.iter().map(String::as_str))
            .filter(|word| !word.is_empty())
            .any(|word| says(&interface.name, word) || says(&interface.description, word))
}

/// Contains the word, in whatever case.
fn says(text: &str, word: &str) -> bool {
    text.to_lowercase().contains(&word.to_lowercase())
}
