//! The datagrams of the rendezvous: a magic, a kind, fields of fixed length, a message authentication code.
//!
//! The magic cannot be mistaken for uTP, whose first byte ends in the version 1. Addresses have 18 bytes: IPv6, or IPv4
//! in it (RFC 4291 §2.5.5.2), and the port; all zero is none. Padding makes questions as long as their answers.
//! Tested here and by the fuzz body `rendezvous`.

use super::nat::NatKind;
use super::{ContentKey, DeviceId};
use crate::stats::SourceClass;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use hmac::{Hmac, KeyInit as _, Mac as _};
use nom::bytes::complete::{tag, take};
use nom::number::complete::{be_u16, be_u64, u8};
use nom::{IResult, Parser};
use sha2::Sha256;

/// What an agent proves its datagrams with; the coordinator makes it from the device's name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key(pub [u8; 32]);

/// Stands for one meeting of two devices.
pub(super) type Token = [u8; 16];

/// Own addresses a device tells, and addresses it is told of another one.
pub(super) const OWN_MAX: usize = 4;
pub(super) const PLACES_MAX: usize = 1 + OWN_MAX;

const MAGIC: &[u8] = b"DVR1";
const MAC_LEN: usize = 16;
const CALL_PADDING: usize = 160 - 5 - 20 - 20 - 20 - MAC_LEN;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// To the coordinator: here I am.
    Hello {
        device: DeviceId,
        /// Comes back in the answer.
        nonce: u64,
        /// Of the last answer; 0 before there was any.
        cookie: u64,
        /// Shall be answered from the other port, too.
        wants_both: bool,
        kind: NatKind,
        own: Vec<SocketAddr>,
    },
    Welcome {
        nonce: u64,
        cookie: u64,
        /// It was sent from the other port.
        is_other: bool,
        outside: SocketAddr,
    },
    /// To the coordinator: introduce me.
    Call {
        device: DeviceId,
        wanted: DeviceId,
        content: ContentKey,
    },
    /// To both: this is where the other one may be.
    Meet {
        peer: DeviceId,
        token: [u8; 16],
        has_called: bool,
        /// How far away the coordinator knows it to be.
        class: SourceClass,
        places: Vec<SocketAddr>,
    },
    Refused {
        wanted: DeviceId,
        why: u8,
    },
    /// Between the two: does this get through? It has.
    Probe {
        token: [u8; 16],
        is_answer: bool,
    },
}

impl Message {
    const fn code(&self) -> u8 {
        match self {
            Self::Hello { .. } => 1,
            Self::Welcome { .. } => 2,
            Self::Call { .. } => 3,
            Self::Meet { .. } => 4,
            Self::Refused { .. } => 5,
            Self::Probe { .. } => 6,
        }
    }

    /// Write it; between agent and coordinator with the agent's key.
    pub fn encode(&self, key: Option<&Key>) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(self.code());
        match self {
            Self::Hello {
                device,
                nonce,
                cookie,
                wants_both,
                kind,
                own,
            } => {
                out.extend_from_slice(device);
                out.extend_from_slice(&nonce.to_be_bytes());
                out.extend_from_slice(&cookie.to_be_bytes());
                out.extend_from_slice(&[u8::from(*wants_both), kind.to_byte()]);
                put_places(own, OWN_MAX, &mut out);
            }
            Self::Welcome {
                nonce,
                cookie,
                is_other,
                outside,
            } => {
                out.extend_from_slice(&nonce.to_be_bytes());
                out.extend_from_slice(&cookie.to_be_bytes());
                out.push(u8::from(*is_other));
                put_places(core::slice::from_ref(outside), 1, &mut out);
            }
            Self::Call {
                device,
                wanted,
                content,
            } => {
                out.extend_from_slice(device);
                out.extend_from_slice(wanted);
                out.extend_from_slice(content);
                out.extend_from_slice(&[0; CALL_PADDING]);
            }
            Self::Meet {
                peer,
                token,
                has_called,
                class,
                places,
            } => {
                out.extend_from_slice(peer);
                out.extend_from_slice(token);
                out.extend_from_slice(&[u8::from(*has_called), class_code(*class)]);
                put_places(places, PLACES_MAX, &mut out);
            }
            Self::Refused { wanted, why } => {
                out.extend_from_slice(wanted);
                out.push(*why);
            }
            Self::Probe { token, is_answer } => {
                out.extend_from_slice(token);
                out.push(u8::from(*is_answer));
            }
        }
        if let Some(key) = key {
            let code = mac(key, &out);
            out.extend_from_slice(&code);
        }
        out
    }
}

/// Read a datagram. Whether it is signed must be checked before it is believed.
pub fn decode(datagram: &[u8]) -> Option<Message> {
    let (rest, message) = message(datagram).ok()?;
    let expected = match message {
        Message::Probe { .. } => 0,
        _ => MAC_LEN,
    };
    (rest.len() == expected).then_some(message)
}

/// It begins like a message of the rendezvous.
pub(super) fn is_ours(datagram: &[u8]) -> bool {
    datagram.starts_with(MAGIC)
}

/// It ends with the right code. Takes the same time whether it does or not.
pub(super) fn is_signed(datagram: &[u8], key: &Key) -> bool {
    let Some((body, code)) = datagram.split_last_chunk::<MAC_LEN>() else {
        return false;
    };
    keyed(key, body).verify_truncated_left(code).is_ok()
}

fn mac(key: &Key, body: &[u8]) -> [u8; MAC_LEN] {
    let mut code = [0; MAC_LEN];
    code.copy_from_slice(&derive(key, body)[..MAC_LEN]);
    code
}

/// HMAC-SHA256 (RFC 2104) of a text.
pub(super) fn derive(key: &Key, text: &[u8]) -> [u8; 32] {
    keyed(key, text).finalize().into_bytes().into()
}

fn keyed(key: &Key, text: &[u8]) -> Hmac<Sha256> {
    // As long as a block of SHA-256: shorter keys are filled up with zeros (RFC 2104 §2).
    let mut block = [0; 64];
    block[..key.0.len()].copy_from_slice(&key.0);
    let mut hmac = Hmac::<Sha256>::new(&block.into());
    hmac.update(text);
    hmac
}

fn put_places(places: &[SocketAddr], count: usize, out: &mut Vec<u8>) {
    for n in 0..count {
        let none = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let place = places.get(n).copied().unwrap_or(none);
        let ip = match place.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        out.extend_from_slice(&ip.octets());
        out.extend_from_slice(&place.port().to_be_bytes());
    }
}

fn message(input: &[u8]) -> IResult<&[u8], Message> {
    let (input, _) = tag(MAGIC).parse(input)?;
    let (input, code) = u8(input)?;
    match code {
        1 => {
            let (input, (device, nonce, cookie)) = (array, be_u64, be_u64).parse(input)?;
            let (input, (wants_both, kind)) = (flag, u8).parse(input)?;
            let (input, own) = places(input, OWN_MAX)?;
            let kind = NatKind::from_byte(kind);
            let hello = Message::Hello {
                device,
                nonce,
                cookie,
                wants_both,
                kind,
                own,
            };
            Ok((input, hello))
        }
        2 => {
            let (input, (nonce, cookie, is_other)) = (be_u64, be_u64, flag).parse(input)?;
            let (input, outside) = places(input, 1)?;
            let outside = outside.first().copied().ok_or_else(|| bad(input))?;
            let welcome = Message::Welcome {
                nonce,
                cookie,
                is_other,
                outside,
            };
            Ok((input, welcome))
        }
        3 => {
            let (input, (device, wanted, content)) = (array, array, array).parse(input)?;
            let (input, _) = take(CALL_PADDING).parse(input)?;
            let call = Message::Call {
                device,
                wanted,
                content,
            };
            Ok((input, call))
        }
        4 => {
            let (input, (peer, token, has_called, class)) =
                (array, array, flag, u8).parse(input)?;
            let (input, places) = places(input, PLACES_MAX)?;
            let meet = Message::Meet {
                peer,
                token,
                has_called,
                class: class_of(class),
                places,
            };
            Ok((input, meet))
        }
        5 => {
            let (input, (wanted, why)) = (array, u8).parse(input)?;
            Ok((input, Message::Refused { wanted, why }))
        }
        6 => {
            let (input, (token, is_answer)) = (array, flag).parse(input)?;
            Ok((input, Message::Probe { token, is_answer }))
        }
        _ => Err(bad(input)),
    }
}

const fn bad(input: &[u8]) -> nom::Err<nom::error::Error<&[u8]>> {
    let code = nom::error::ErrorKind::Verify;
    nom::Err::Error(nom::error::Error { input, code })
}

fn array<const N: usize>(input: &[u8]) -> IResult<&[u8], [u8; N]> {
    let (input, bytes) = take(N).parse(input)?;
    let array = bytes.try_into().map_err(|_| bad(input))?;
    Ok((input, array))
}

fn flag(input: &[u8]) -> IResult<&[u8], bool> {
    let (input, byte) = u8(input)?;
    Ok((input, byte == 1))
}

const fn class_code(class: SourceClass) -> u8 {
    match class {
        SourceClass::Lan | SourceClass::LinkLocal => 1,
        SourceClass::Group => 2,
        _ => 3,
    }
}

const fn class_of(code: u8) -> SourceClass {
    match code {
        1 => SourceClass::Lan,
        2 => SourceClass::Group,
        _ => SourceClass::Internet,
    }
}

/// So many addresses, without those that are none.
fn places(mut input: &[u8], count: usize) -> IResult<&[u8], Vec<SocketAddr>> {
    let mut places = Vec::new();
    for _ in 0..count {
        let (rest, (ip, port)) = (array::<16>, be_u16).parse(input)?;
        input = rest;
        let ip = IpAddr::from(ip).to_canonical();
        if port != 0 && !ip.is_unspecified() {
            places.push(SocketAddr::new(ip, port));
        }
    }
    Ok((input, places))
}

impl core::fmt::Debug for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Key")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn place(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn messages() -> Vec<Message> {
        let own = vec![place("192.168.1.7:7680"), place("[2001:db8::7]:7680")];
        vec![
            Message::Hello {
                device: [1; 20],
                nonce: 2,
                cookie: 3,
                wants_both: true,
                kind: NatKind::from_byte(6),
                own: own.clone(),
            },
            Message::Welcome {
                nonce: 2,
                cookie: 4,
                is_other: false,
                outside: place("198.51.100.9:40000"),
            },
            Message::Call {
                device: [1; 20],
                wanted: [9; 20],
                content: [5; 20],
            },
            Message::Meet {
                peer: [9; 20],
                token: [8; 16],
                has_called: true,
                class: SourceClass::Group,
                places: own,
            },
            Message::Refused {
                wanted: [9; 20],
                why: 2,
            },
            Message::Probe {
                token: [8; 16],
                is_answer: true,
            },
        ]
    }

    #[test]
    fn messages_are_read_as_written_and_nothing_else_is() {
        let key = Key([7; 32]);
        for message in messages() {
            let signs = !matches!(message, Message::Probe { .. });
            let bytes = message.encode(signs.then_some(&key));
            assert_eq!(decode(&bytes), Some(message));
            assert_eq!(is_signed(&bytes, &key), signs);
            assert!(!is_signed(&bytes, &Key([6; 32])));
            for cut in 0..bytes.len() {
                assert_eq!(decode(&bytes[..cut]), None);
            }
            if signs {
                let mut other = bytes.clone();
                other[7] ^= 1;
                assert!(!is_signed(&other, &key));
            }
        }
    }

    #[test]
    fn no_answer_is_longer_than_its_question() {
        let key = Key([7; 32]);
        let lengths: Vec<usize> = messages()
            .iter()
            .map(|m| m.encode(Some(&key)).len())
            .collect();
        let [hello, welcome, call, meet, refused, _] = lengths[..] else {
            panic!("{lengths:?}");
        };
        assert!(2 * welcome <= hello, "{lengths:?}");
        assert!(meet <= call && refused <= call, "{lengths:?}");
    }

    #[test]
    fn it_cannot_be_taken_for_utp() {
        let bytes = messages()[5].encode(None);
        assert!(is_ours(&bytes) && crate::transport::decode(&bytes).is_err());
    }
}
