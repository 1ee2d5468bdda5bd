//! Chunking: the same messages however the bytes come, payload never copied, memory bounded.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use dovetail_core::content::Run;
use dovetail_core::limits::{BLOCK_LEN, RANGE_BLOCKS_MAX, RANGE_LEN_MAX, ROPE_CHUNK_MIN};
use dovetail_core::wire::{Framer, Message, PeerExtensions, RangeMessage, encode};

fn range(len: u32) -> Message {
    let data: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
    Message::Range(RangeMessage::Data {
        run: Run {
            piece: 7,
            first: 0,
            count: len.div_ceil(BLOCK_LEN),
        },
        data: vec![data.into()],
    })
}

fn bytes_of(message: &Message) -> Bytes {
    let frame = encode(message, &PeerExtensions::OURS).unwrap();
    [frame.head.to_vec(), frame.payload.concat()]
        .concat()
        .into()
}

#[test]
fn payload_is_the_very_bytes_that_came() {
    let wire = bytes_of(&range(RANGE_LEN_MAX));
    let mut framer = Framer::default();
    let mut sent = Vec::new();
    let mut rest = wire.clone();
    while !rest.is_empty() {
        let chunk = rest.split_to(rest.len().min(100_000));
        sent.push(chunk.as_ptr_range());
        assert_eq!(framer.next(), Ok(None));
        framer.on_bytes(chunk);
    }
    let Ok(Some(Message::Range(RangeMessage::Data { run, data }))) = framer.next() else {
        panic!("no range came out");
    };
    assert_eq!(run.count, RANGE_BLOCKS_MAX);
    assert_eq!(data.len(), sent.len());
    for (chunk, place) in data.iter().zip(&sent) {
        assert!(place.contains(&chunk.as_ptr()), "a chunk was copied");
    }
    assert_eq!(data.concat(), wire[19..]);
}

#[test]
fn a_payload_is_sent_as_the_chunks_it_came_in() {
    let data: Vec<Bytes> = (0..4_u8).map(|i| Bytes::from(vec![i; 4096])).collect();
    let message = Message::Piece {
        piece: 1,
        begin: 0,
        data: data.clone(),
    };
    let frame = encode(&message, &PeerExtensions::default()).unwrap();
    assert_eq!(frame.head[..], [0, 0, 0x40, 9, 7, 0, 0, 0, 1, 0, 0, 0, 0]);
    for (sent, given) in frame.payload.iter().zip(&data) {
        assert_eq!(sent.as_ptr(), given.as_ptr());
    }
}

#[test]
fn every_cut_gives_the_same_messages() {
    let messages = [
        Message::Unchoke,
        range(40_000),
        Message::KeepAlive,
        Message::Have(5),
        Message::Piece {
            piece: 1,
            begin: 16384,
            data: vec![Bytes::from(vec![9; 3000])],
        },
        Message::Bitfield(Bytes::from(vec![0xaa; 3000])),
        Message::HaveAll,
    ];
    let wire: Vec<u8> = messages.iter().flat_map(bytes_of).collect();
    for size in [1, 2, 3, 5, 7, 1023, 1024, 1025, 4096, 16384, wire.len()] {
        let mut framer = Framer::default();
        let mut again = Vec::new();
        let mut count = 0;
        for chunk in wire.chunks(size) {
            framer.on_bytes(Bytes::copy_from_slice(chunk));
            while let Some(message) = framer.next().unwrap() {
                again.extend_from_slice(&bytes_of(&message));
                count += 1;
            }
        }
        assert_eq!(count, messages.len(), "chunks of {size}");
        assert!(again == wire, "chunks of {size}");
    }
}

#[test]
fn single_bytes_do_not_make_a_rope_of_single_bytes() {
    let wire = bytes_of(&range(300_000));
    let mut framer = Framer::default();
    for byte in &wire[..wire.len() - 1] {
        framer.on_bytes(Bytes::copy_from_slice(&[*byte]));
    }
    assert_eq!(framer.next(), Ok(None));
    assert_eq!(framer.buffered(), wire.len() - 1);
    framer.on_bytes(wire.slice(wire.len() - 1..));
    let Ok(Some(Message::Range(RangeMessage::Data { data, .. }))) = framer.next() else {
        panic!("no range came out");
    };
    assert!(data.len() <= 300_000 / ROPE_CHUNK_MIN + 1, "{}", data.len());
    assert_eq!(data.concat(), wire[19..]);
}
