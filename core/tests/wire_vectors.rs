//! Golden vectors: bytes written by hand from the specifications (`tests/vectors/*.hex`), and what they mean.
//! Every vector is decoded whole, byte by byte and behind another message, and encoded again.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use bytes::Bytes;
use dovetail_core::content::{Digest, HashRequest, Run};
use dovetail_core::wire::{
    ClaimMessage, ExtensionHandshake, Framer, Handshake, HandshakeReader, Message, MetadataMessage,
    PeerExtensions, PeerId, RangeMessage, WireError, encode,
};
use std::collections::BTreeMap;

fn vectors(text: &str) -> BTreeMap<&str, Vec<u8>> {
    let mut out: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    let mut name = None;
    for line in text.lines() {
        if let Some(title) = line.strip_prefix('[') {
            let title = title.strip_suffix(']').expect("a title ends in ]");
            assert!(out.insert(title, Vec::new()).is_none(), "{title} twice");
            name = Some(title);
            continue;
        }
        let mut hex = String::new();
        for (i, part) in line.split('#').next().unwrap().split('"').enumerate() {
            if i % 2 == 0 {
                hex.extend(part.split_whitespace());
            } else {
                hex.extend(part.bytes().map(|b| format!("{b:02x}")));
            }
        }
        let bytes = hex
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).expect("hex"));
        let bytes: Vec<u8> = bytes.collect();
        if !bytes.is_empty() {
            out.get_mut(name.expect("a title first"))
                .unwrap()
                .extend(bytes);
        }
    }
    out
}

/// Decode `bytes` in chunks of `size`; the first fault, or all messages.
fn decode(bytes: &[u8], size: usize) -> Result<Vec<Message>, WireError> {
    let mut framer = Framer::default();
    let mut out = Vec::new();
    for chunk in bytes.chunks(size) {
        framer.on_bytes(Bytes::copy_from_slice(chunk));
        while let Some(message) = framer.next()? {
            out.push(message);
        }
    }
    assert_eq!(framer.buffered(), 0, "left over of {bytes:02x?}");
    Ok(out)
}

/// The same message with its payload in one chunk.
fn joined(message: Message) -> Message {
    let join = |data: Vec<Bytes>| vec![Bytes::from(data.concat())];
    match message {
        Message::Piece { piece, begin, data } => Message::Piece {
            piece,
            begin,
            data: join(data),
        },
        Message::Range(RangeMessage::Data { run, data }) => Message::Range(RangeMessage::Data {
            run,
            data: join(data),
        }),
        other => other,
    }
}

fn check<const N: usize>(text: &str, expected: [(&str, Message); N]) {
    let mut vectors = vectors(text);
    for (name, message) in expected {
        let bytes = vectors
            .remove(name)
            .unwrap_or_else(|| panic!("no [{name}]"));
        assert_eq!(
            decode(&bytes, bytes.len()),
            Ok(vec![message.clone()]),
            "{name}"
        );
        let by_byte = decode(&bytes, 1).map(|all| all.into_iter().map(joined).collect());
        assert_eq!(by_byte, Ok(vec![message.clone()]), "{name} byte by byte");
        let twice = [&bytes[..], &bytes].concat();
        assert_eq!(
            decode(&twice, twice.len()).map(|all| all.len()),
            Ok(2),
            "{name} twice"
        );
        let frame = encode(&message, &PeerExtensions::OURS).expect("we list all extensions");
        assert_eq!(
            [frame.head.to_vec(), frame.payload.concat()].concat(),
            bytes,
            "{name} encoded"
        );
        assert_eq!(frame.len(), bytes.len());
    }
    assert!(vectors.is_empty(), "untested: {:?}", vectors.keys());
}

#[test]
fn bep3() {
    let text = include_str!("vectors/bep3.hex");
    check(
        text,
        [
            ("keep-alive", Message::KeepAlive),
            ("choke", Message::Choke),
            ("unchoke", Message::Unchoke),
            ("interested", Message::Interested),
            ("not interested", Message::NotInterested),
            ("have", Message::Have(123_456)),
            (
                "bitfield",
                Message::Bitfield(Bytes::from_static(&[0xa1, 0x80])),
            ),
            ("bitfield of no pieces", Message::Bitfield(Bytes::new())),
            (
                "request",
                Message::Request {
                    piece: 3,
                    begin: 16384,
                    length: 16384,
                },
            ),
            (
                "request that makes no sense",
                Message::Request {
                    piece: u32::MAX,
                    begin: u32::MAX,
                    length: 0,
                },
            ),
            (
                "piece",
                Message::Piece {
                    piece: 3,
                    begin: 32768,
                    data: vec![Bytes::from_static(b"hello")],
                },
            ),
            (
                "cancel",
                Message::Cancel {
                    piece: 3,
                    begin: 16384,
                    length: 16384,
                },
            ),
            ("port", Message::Port(6881)),
        ],
    );
}

#[test]
fn bep6() {
    let text = include_str!("vectors/bep6.hex");
    check(
        text,
        [
            ("suggest", Message::Suggest(9)),
            ("have all", Message::HaveAll),
            ("have none", Message::HaveNone),
            (
                "reject",
                Message::Reject {
                    piece: 3,
                    begin: 16384,
                    length: 848,
                },
            ),
            ("allowed fast", Message::AllowedFast(2)),
        ],
    );
}

#[test]
fn bep10() {
    const HANDSHAKE: &[u8] = b"d1:md11:ut_metadatai2e6:ut_pexi1ee4:reqqi2000e1:v12:libtorrent/2e";
    const REQUEST: &[u8] = b"d8:msg_typei0e5:piecei0ee";
    let extended = |id, payload| Message::Extended {
        id,
        payload: Bytes::from_static(payload),
    };
    let text = include_str!("vectors/bep10.hex");
    check(
        text,
        [
            ("extension handshake", extended(0, HANDSHAKE)),
            ("unknown extension", extended(0xf0, &[1, 2, 3])),
            ("empty extension message", extended(0xf0, &[])),
            (
                "metadata request",
                extended(PeerExtensions::OUR_METADATA, REQUEST),
            ),
        ],
    );
    let read = ExtensionHandshake::parse(HANDSHAKE).unwrap();
    assert_eq!(read.client.as_deref(), Some("libtorrent/2"));
    assert_eq!(read.request_queue, Some(2000));
    let only_metadata = PeerExtensions {
        metadata: Some(2),
        ..Default::default()
    };
    assert_eq!(read.extensions, only_metadata);
    assert_eq!(
        MetadataMessage::parse(&Bytes::from_static(REQUEST)),
        Ok(Some(MetadataMessage::Request { part: 0 }))
    );
}

#[test]
fn bep52() {
    let root = Digest(std::array::from_fn(|i| i as u8));
    let request = |base_layer, index, count, proof_layers| HashRequest {
        root,
        base_layer,
        index,
        count,
        proof_layers,
    };
    let text = include_str!("vectors/bep52.hex");
    check(
        text,
        [
            (
                "hash request",
                Message::HashRequest(request(6, 512, 256, 9)),
            ),
            (
                "hashes",
                Message::Hashes {
                    request: request(6, 2, 2, 1),
                    hashes: [0xa0, 0xb1, 0xc2].map(|b| Digest([b; 32])).into(),
                },
            ),
            (
                "hashes, none",
                Message::Hashes {
                    request: request(0, 0, 0, 0),
                    hashes: vec![],
                },
            ),
            ("hash reject", Message::HashReject(request(0, 64, 64, 0))),
        ],
    );
}

#[test]
fn dovetail() {
    let run = Run {
        piece: 3,
        first: 16,
        count: 64,
    };
    let last = Run {
        piece: 3,
        first: 63,
        count: 1,
    };
    let text = include_str!("vectors/dovetail.hex");
    check(
        text,
        [
            ("range request", Message::Range(RangeMessage::Request(run))),
            (
                "range data",
                Message::Range(RangeMessage::Data {
                    run: last,
                    data: vec![Bytes::from_static(b"abcdef")],
                }),
            ),
            ("range reject", Message::Range(RangeMessage::Reject(run))),
            ("range cancel", Message::Range(RangeMessage::Cancel(run))),
            ("claim", Message::Claim(ClaimMessage::Claim(vec![5, 4]))),
            ("unclaim", Message::Claim(ClaimMessage::Unclaim(vec![5]))),
        ],
    );
}

#[test]
fn extensions_go_out_under_the_id_the_peer_gave_or_not_at_all() {
    let peer = PeerExtensions {
        range: Some(77),
        ..Default::default()
    };
    let run = Run {
        piece: 1,
        first: 2,
        count: 3,
    };
    let frame = encode(&Message::Range(RangeMessage::Request(run)), &peer).unwrap();
    assert_eq!(frame.head[..7], [0, 0, 0, 15, 20, 77, 0]);
    let claim = Message::Claim(ClaimMessage::Claim(vec![1]));
    assert_eq!(encode(&claim, &peer), None);
}

#[test]
fn faults_show_as_early_as_they_can() {
    let length = |id, length| WireError::Length { id, length };
    let malformed = WireError::Malformed { id: 20 };
    let mut vectors = vectors(include_str!("vectors/faults.hex"));
    for (name, fault) in [
        ("frame too long", WireError::TooLong(0x10_0041)),
        ("unknown id", WireError::UnknownId(10)),
        (
            "unknown id, known before the body",
            WireError::UnknownId(24),
        ),
        ("choke with a body", length(0, 2)),
        ("have too short", length(4, 4)),
        ("bitfield of too many pieces", length(5, 262_146)),
        ("request too long", length(6, 14)),
        ("piece without data", length(7, 9)),
        ("piece longer than a block", length(7, 16394)),
        ("port too short", length(9, 2)),
        ("have all with a body", length(14, 2)),
        ("extended without id", length(20, 1)),
        ("extended too long", length(20, 65537)),
        ("hash request too short", length(21, 48)),
        ("hashes not whole", length(22, 65)),
        ("too many hashes", length(22, 49 + 8225 * 32)),
        ("range request too long", length(20, 16)),
        ("range without data", length(20, 15)),
        ("range data too long", length(20, 15 + 1_048_577)),
        ("range of no blocks", malformed),
        ("range of too many blocks", malformed),
        ("range past all indexes", malformed),
        ("range data of another length", malformed),
        ("range sub-type unknown", malformed),
        ("claim of nothing", length(20, 3)),
        ("claim not whole", length(20, 8)),
        ("claim of too many pieces", length(20, 4103)),
        ("claim sub-type unknown", malformed),
    ] {
        let bytes = vectors
            .remove(name)
            .unwrap_or_else(|| panic!("no [{name}]"));
        assert_eq!(decode(&bytes, bytes.len()), Err(fault), "{name}");
        assert_eq!(decode(&bytes, 1), Err(fault), "{name} byte by byte");
    }
    for name in ["not BitTorrent: TLS", "not BitTorrent: another protocol"] {
        let bytes = vectors.remove(name).unwrap();
        let mut reader = HandshakeReader::default();
        assert_eq!(
            reader.read(&mut bytes.into()),
            Err(WireError::NotBitTorrent),
            "{name}"
        );
    }
    assert!(vectors.is_empty(), "untested: {:?}", vectors.keys());
}

#[test]
fn handshakes() {
    let mut vectors = vectors(include_str!("vectors/handshake.hex"));
    let count_up = |from: u8| std::array::from_fn(|i| from + i as u8);
    let with = |five, seven| [0, 0, 0, 0, 0, five, 0, seven];
    let ours = Handshake::new(count_up(0xa0), PeerId::new(*b"0123456789ab"));
    assert!(ours.has_extensions() && ours.has_fast());
    let libtorrent = Handshake {
        reserved: with(0x10, 0x05),
        info_hash: count_up(0),
        peer_id: PeerId(*b"-LT2110-~~~~~~~~~~~~"),
    };
    let plain = Handshake {
        reserved: with(0, 0),
        info_hash: [0; 20],
        peer_id: PeerId([0xff; 20]),
    };
    assert!(!plain.has_extensions() && !plain.has_fast());
    for (name, handshake) in [("ours", ours), ("libtorrent", libtorrent), ("plain", plain)] {
        let bytes = vectors.remove(name).unwrap();
        assert_eq!(handshake.encode(), bytes, "{name}");
        let mut input = Bytes::from([&bytes[..], b"more"].concat());
        let read = HandshakeReader::default().read(&mut input);
        assert_eq!(read, Ok(Some(handshake)), "{name}");
        assert_eq!(input, &b"more"[..], "what follows is left");
        let mut reader = HandshakeReader::default();
        for (i, byte) in bytes.iter().enumerate() {
            let read = reader.read(&mut Bytes::copy_from_slice(&[*byte]));
            let expected = (i + 1 == bytes.len()).then_some(handshake);
            assert_eq!(read, Ok(expected), "{name} at byte {i}");
        }
    }
    assert!(vectors.is_empty(), "untested: {:?}", vectors.keys());
}
