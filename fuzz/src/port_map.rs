//! Body for port mapping: what a router, or whoever answers in its place, says.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use dovetail_core::port_map::{DATAGRAM_MAX, Question, Said, Transport};

const NONCE: [u8; 12] = *b"dovetail-pcp";
const PORT: u16 = 7680;

/// The first byte chooses the question, the others are the datagram: no panic, and a port is mapped only where the
/// datagram has the question's own fields at the places of RFC 6887 §11 and RFC 6886 §3.3.
pub fn answer(data: &[u8]) {
    let Some((choice, datagram)) = data.split_first() else {
        return;
    };
    let question = question(*choice, PORT);
    assert_eq!(
        question.read(&question.write()),
        None,
        "a question is no answer"
    );
    let Some(said) = question.read(datagram) else {
        return;
    };
    assert!(datagram.len() <= DATAGRAM_MAX, "too long for the protocols");
    if datagram.len() < DATAGRAM_MAX {
        let longer = [datagram, &[0xa5]].concat();
        assert_eq!(
            question.read(&longer),
            Some(said.clone()),
            "what follows counts"
        );
    }
    let Said::Mapped {
        port, lifetime_s, ..
    } = said
    else {
        return;
    };
    let (ours, given, lifetime) = match question {
        Question::Pcp { .. } => {
            assert_eq!(datagram[24..36], NONCE, "somebody else's question");
            (40..42, 42..44, 4..8)
        }
        Question::NatPmp { .. } => (8..10, 10..12, 12..16),
        Question::NatPmpAddress => panic!("an address is no mapping"),
    };
    assert_eq!(datagram[ours], PORT.to_be_bytes());
    assert_eq!(datagram[given], port.to_be_bytes());
    assert_eq!(datagram[lifetime], lifetime_s.to_be_bytes());
    let other = self::question(*choice, PORT + 1);
    assert_eq!(other.read(datagram), None, "an answer to two questions");
}

fn question(choice: u8, port: u16) -> Question {
    let transport = match choice & 1 {
        0 => Transport::Tcp,
        _ => Transport::Udp,
    };
    let (wish, lifetime_s) = (port, 3600);
    let pcp = |local: IpAddr| Question::Pcp {
        local,
        nonce: NONCE,
        transport,
        port,
        wish,
        lifetime_s,
    };
    match choice >> 1 & 3 {
        0 => pcp(Ipv4Addr::new(192, 168, 1, 20).into()),
        1 => pcp(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x20).into()),
        2 => Question::NatPmpAddress,
        _ => Question::NatPmp {
            transport,
            port,
            wish,
            lifetime_s,
        },
    }
}
