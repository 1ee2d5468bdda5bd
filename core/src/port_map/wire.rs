//! PCP and NAT-PMP in bytes: one question, and what is said to it.
//!
//! Decides: which datagram is an answer to which question. Never does: repeat a question, fall back. Invariant: any
//! bytes are an answer or none, without panic. Spec: RFC 6887 §7, §11; RFC 6886 §3. Tests: below.

use super::Transport;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where routers are asked, over UDP.
pub const PORT: u16 = 5351;

/// No datagram of either protocol is longer (RFC 6887 §7).
pub const DATAGRAM_MAX: usize = 1100;

/// One question to a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    Pcp {
        /// The source address of the datagram.
        local: IpAddr,
        nonce: [u8; 12],
        transport: Transport,
        port: u16,
        /// The port that would be best outside.
        wish: u16,
        /// 0 takes the mapping back.
        lifetime_s: u32,
    },
    /// Which address does the router have outside?
    NatPmpAddress,
    NatPmp {
        transport: Transport,
        port: u16,
        wish: u16,
        lifetime_s: u32,
    },
}

/// What a router says to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Mapped {
        /// NAT-PMP tells it apart, see [`Question::NatPmpAddress`].
        addr: Option<IpAddr>,
        port: u16,
        lifetime_s: u32,
    },
    Address(Ipv4Addr),
    /// Only the other of the two protocols is spoken here.
    OtherVersion,
    /// In words.
    Refused(String),
}

const PCP: u8 = 2;
const NAT_PMP: u8 = 0;
const ANSWER: u8 = 0x80;
const MAP: u8 = 1;
const HEADER_LEN: usize = 24;

impl Question {
    /// The datagram that asks it.
    pub fn write(&self) -> Vec<u8> {
        match *self {
            Self::Pcp {
                local,
                nonce,
                transport,
                port,
                wish,
                lifetime_s,
            } => {
                let any: IpAddr = match local {
                    IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                let mut out = Vec::from([PCP, MAP, 0, 0]);
                out.extend(lifetime_s.to_be_bytes());
                out.extend(sixteen(local));
                out.extend(nonce);
                out.extend([number(transport), 0, 0, 0]);
                out.extend(port.to_be_bytes());
                out.extend(wish.to_be_bytes());
                out.extend(sixteen(any));
                out
            }
            Self::NatPmpAddress => Vec::from([NAT_PMP, 0]),
            Self::NatPmp {
                transport,
                port,
                wish,
                lifetime_s,
            } => {
                let mut out = Vec::from([NAT_PMP, opcode(transport), 0, 0]);
                out.extend(port.to_be_bytes());
                out.extend(wish.to_be_bytes());
                out.extend(lifetime_s.to_be_bytes());
                out
            }
        }
    }

    /// What a datagram of the router says to it; `None` if it is about something else.
    pub fn read(&self, datagram: &[u8]) -> Option<Said> {
        if datagram.len() > DATAGRAM_MAX {
            return None;
        }
        let (version, code) = (*datagram.first()?, *datagram.get(1)?);
        if code & ANSWER == 0 {
            return None;
        }
        match self {
            Self::Pcp { .. } if version == NAT_PMP => {
                // RFC 6887 appendix A: "unsupported version", as NAT-PMP says it.
                (u16_at(datagram, 2)? == 1).then_some(Said::OtherVersion)
            }
            Self::Pcp { .. } if version == PCP && code == ANSWER | MAP => self.read_pcp(datagram),
            Self::NatPmpAddress | Self::NatPmp { .. } if version == PCP => Some(Said::OtherVersion),
            Self::NatPmpAddress if version == NAT_PMP && code == ANSWER => {
                let [a, b, c, d] = *datagram.get(8..12)?.first_chunk()?;
                Some(match nat_pmp_refusal(u16_at(datagram, 2)?) {
                    Some(refused) => refused,
                    None => Said::Address(Ipv4Addr::new(a, b, c, d)),
                })
            }
            Self::NatPmp {
                transport, port, ..
            } if version == NAT_PMP && code == ANSWER | opcode(*transport) => {
                let refused = nat_pmp_refusal(u16_at(datagram, 2)?);
                if u16_at(datagram, 8)? != *port {
                    return None;
                }
                Some(refused.unwrap_or(Said::Mapped {
                    addr: None,
                    port: u16_at(datagram, 10)?,
                    lifetime_s: u32_at(datagram, 12)?,
                }))
            }
            _ => None,
        }
    }

    fn read_pcp(&self, datagram: &[u8]) -> Option<Said> {
        let Self::Pcp {
            nonce,
            transport,
            port,
            ..
        } = self
        else {
            return None;
        };
        let result = *datagram.get(3)?;
        if result == 1 {
            return Some(Said::OtherVersion);
        }
        let map = datagram.get(HEADER_LEN..)?;
        let ours = map.get(..12)? == nonce
            && *map.get(12)? == number(*transport)
            && u16_at(map, 16)? == *port;
        if !ours {
            return None;
        }
        if result != 0 {
            return Some(Said::Refused(pcp_words(result)));
        }
        let addr = Ipv6Addr::from(*map.get(20..36)?.first_chunk::<16>()?);
        Some(Said::Mapped {
            addr: Some(IpAddr::V6(addr).to_canonical()),
            port: u16_at(map, 18)?,
            lifetime_s: u32_at(datagram, 4)?,
        })
    }
}

/// IPv4 addresses are mapped ones.
const fn sixteen(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// IANA's protocol number.
const fn number(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => 6,
        Transport::Udp => 17,
    }
}

/// NAT-PMP's.
const fn opcode(transport: Transport) -> u8 {
    match transport {
        Transport::Udp => 1,
        Transport::Tcp => 2,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn nat_pmp_refusal(result: u16) -> Option<Said> {
    let words = match result {
        0 => return None,
        1 => return Some(Said::OtherVersion),
        2 => "it is not allowed (not authorized)",
        3 => "the router has no address outside (network failure)",
        4 => "the router has no room (out of resources)",
        5 => "the router cannot do it (unsupported opcode)",
        _ => return Some(Said::Refused(format!("result {result}"))),
    };
    Some(Said::Refused(words.into()))
}

fn pcp_words(result: u8) -> String {
    let words = match result {
        2 => "it is not allowed (NOT_AUTHORIZED)",
        3 => "the router finds the request malformed (MALFORMED_REQUEST)",
        4 => "the router cannot do it (UNSUPP_OPCODE)",
        7 => "the router has no address outside (NETWORK_FAILURE)",
        8 => "the router has no room (NO_RESOURCES)",
        9 => "the router cannot do it (UNSUPP_PROTOCOL)",
        10 => "we have too many ports (USER_EX_QUOTA)",
        11 => "that port is not to be had (CANNOT_PROVIDE_EXTERNAL)",
        12 => "another NAT lies between (ADDRESS_MISMATCH)",
        _ => return format!("result {result}"),
    };
    words.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
        let pair =
            |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
        digits.chunks(2).map(pair).collect()
    }

    fn pcp() -> Question {
        Question::Pcp {
            local: "192.168.1.20".parse().unwrap(),
            nonce: *b"dovetail-pcp",
            transport: Transport::Tcp,
            port: 7680,
            wish: 7681,
            lifetime_s: 3600,
        }
    }

    const NAT_PMP_TCP: Question = Question::NatPmp {
        transport: Transport::Tcp,
        port: 7680,
        wish: 7680,
        lifetime_s: 3600,
    };

    /// RFC 6887 figures 2 and 9.
    const PCP_ASKED: &str = "02 01 0000 00000e10 00000000000000000000ffffc0a80114
        646f76657461696c2d706370 06 000000 1e00 1e01 00000000000000000000ffff00000000";
    const PCP_SAID: &str = "02 81 00 00 00000708 0000abcd 000000000000000000000000
        646f76657461696c2d706370 06 000000 1e00 1e02 00000000000000000000ffffcb007107";

    #[test]
    fn pcp_as_in_the_rfc() {
        assert_eq!(pcp().write(), hex(PCP_ASKED));
        assert_eq!(
            pcp().read(&hex(PCP_SAID)),
            Some(Said::Mapped {
                addr: Some("203.0.113.7".parse().unwrap()),
                port: 7682,
                lifetime_s: 1800,
            })
        );
    }

    #[test]
    fn nat_pmp_as_in_the_rfc() {
        assert_eq!(Question::NatPmpAddress.write(), [0, 0]);
        assert_eq!(
            Question::NatPmpAddress.read(&hex("00 80 0000 00000001 cb007107")),
            Some(Said::Address(Ipv4Addr::new(203, 0, 113, 7)))
        );
        assert_eq!(NAT_PMP_TCP.write(), hex("00 02 0000 1e00 1e00 00000e10"));
        assert_eq!(
            NAT_PMP_TCP.read(&hex("00 82 0000 00000001 1e00 1e05 00000708")),
            Some(Said::Mapped {
                addr: None,
                port: 7685,
                lifetime_s: 1800,
            })
        );
    }

    #[test]
    fn only_an_answer_to_the_question_counts() {
        let said = hex(PCP_SAID);
        for (at, what) in [
            (0, "version"),
            (1, "opcode"),
            (24, "nonce"),
            (36, "protocol"),
            (41, "port"),
        ] {
            let mut other = said.clone();
            other[at] ^= 0x7;
            assert_eq!(pcp().read(&other), None, "{what}");
        }
        for len in 0..said.len() {
            assert_eq!(pcp().read(&said[..len]), None, "{len} bytes");
        }
        assert_eq!(pcp().read(&pcp().write()), None, "our own question");
        assert_eq!(pcp().read(&[0x82; DATAGRAM_MAX + 1]), None);
        let udp = hex("00 81 0000 00000001 1e00 1e05 00000708");
        assert_eq!(NAT_PMP_TCP.read(&udp), None);
        let other_port = hex("00 82 0000 00000001 1e01 1e05 00000708");
        assert_eq!(NAT_PMP_TCP.read(&other_port), None);
    }

    #[test]
    fn refusals_are_words_and_old_routers_are_known() {
        let mut said = hex(PCP_SAID);
        said[3] = 2;
        assert_eq!(
            pcp().read(&said),
            Some(Said::Refused("it is not allowed (NOT_AUTHORIZED)".into()))
        );
        said[3] = 77;
        assert_eq!(pcp().read(&said), Some(Said::Refused("result 77".into())));
        said[3] = 1;
        assert_eq!(pcp().read(&said), Some(Said::OtherVersion));
        assert_eq!(
            pcp().read(&hex("00 81 0001 00000001")),
            Some(Said::OtherVersion)
        );
        assert_eq!(
            Question::NatPmpAddress.read(&hex("02 80 00 01 00000000")),
            Some(Said::OtherVersion)
        );
        assert_eq!(
            NAT_PMP_TCP.read(&hex("00 82 0002 00000001 1e00 0000 00000000")),
            Some(Said::Refused("it is not allowed (not authorized)".into()))
        );
    }
}
