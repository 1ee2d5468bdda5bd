//! What is known of the NAT a device sits behind, in the words of RFC 4787.

use core::fmt;

/// Whether one inside address has the same outside address for everybody (§4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mapping {
    #[default]
    Unknown,
    EndpointIndependent,
    /// Another one for other ports at least: "symmetric".
    Dependent,
}

/// Who gets in through a mapping (§5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filtering {
    #[default]
    Unknown,
    /// Other ports of an address that was written to, perhaps other addresses, too.
    PortIndependent,
    /// Only who was written to.
    AddressAndPortDependent,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatKind {
    pub mapping: Mapping,
    pub filtering: Filtering,
    /// The address others see is none of the device's own.
    pub is_translated: bool,
}

impl NatKind {
    /// No way is known by which datagrams of both get through: the port of one is a new one for the other, which lets in
    /// none but those it knows.
    pub fn shuts_out(self, other: Self) -> bool {
        let new_port = |a: Self, b: Self| {
            a.mapping == Mapping::Dependent
                && (b.mapping == Mapping::Dependent
                    || b.filtering == Filtering::AddressAndPortDependent)
        };
        new_port(self, other) || new_port(other, self)
    }

    pub(super) const fn to_byte(self) -> u8 {
        self.mapping as u8 | (self.filtering as u8) << 2 | (self.is_translated as u8) << 4
    }

    pub(super) const fn from_byte(byte: u8) -> Self {
        let mapping = match byte & 3 {
            1 => Mapping::EndpointIndependent,
            2 => Mapping::Dependent,
            _ => Mapping::Unknown,
        };
        let filtering = match byte >> 2 & 3 {
            1 => Filtering::PortIndependent,
            2 => Filtering::AddressAndPortDependent,
            _ => Filtering::Unknown,
        };
        Self {
            mapping,
            filtering,
            is_translated: byte >> 4 & 1 == 1,
        }
    }
}

impl fmt::Display for NatKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_translated {
            return f.write_str(match self.filtering {
                Filtering::AddressAndPortDependent => "no NAT, but a firewall",
                _ => "no NAT",
            });
        }
        let mapping = match self.mapping {
            Mapping::Unknown => "mapping unknown",
            Mapping::EndpointIndependent => "endpoint-independent mapping",
            Mapping::Dependent => "address- or port-dependent mapping (symmetric)",
        };
        let filtering = match self.filtering {
            Filtering::Unknown => "filtering unknown",
            Filtering::PortIndependent => "port-independent filtering",
            Filtering::AddressAndPortDependent => "address- and port-dependent filtering",
        };
        write!(f, "NAT with {mapping}, {filtering}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_travel_in_a_byte() {
        for byte in 0..=u8::MAX {
            let kind = NatKind::from_byte(byte);
            assert_eq!(NatKind::from_byte(kind.to_byte()), kind);
        }
    }

    #[test]
    fn who_cannot_meet_whom() {
        let nat = |mapping, filtering| NatKind {
            mapping,
            filtering,
            is_translated: true,
        };
        let cone = nat(Mapping::EndpointIndependent, Filtering::PortIndependent);
        let strict = nat(
            Mapping::EndpointIndependent,
            Filtering::AddressAndPortDependent,
        );
        let symmetric = nat(Mapping::Dependent, Filtering::AddressAndPortDependent);
        let shut_out = [(symmetric, symmetric), (symmetric, strict)];
        for (a, b) in shut_out {
            assert!(a.shuts_out(b) && b.shuts_out(a), "{a} and {b}");
        }
        for a in [cone, strict, NatKind::default()] {
            for b in [cone, strict, NatKind::default()] {
                assert!(!a.shuts_out(b));
            }
            assert_eq!(a.shuts_out(symmetric), a == strict);
        }
    }
}
