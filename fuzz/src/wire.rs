//! Bodies for what peers send.

use bytes::Bytes;
use dovetail_core::limits::FRAME_LEN_MAX;
use dovetail_core::wire::{
    ExtensionHandshake, Framer, HANDSHAKE_LEN, HandshakeReader, Message, MetadataMessage,
    PeerExtensions, WireError, encode,
};

/// Input: eight bytes that say where to cut, then the stream.
const CUTS_LEN: usize = 8;

/// A stream of frames: the same messages and the same fault however it is cut; encoded again they are the
/// bytes that came.
pub fn frames(data: &[u8]) {
    let (cuts, stream) = data.split_at(data.len().min(CUTS_LEN));
    let (whole, fault) = decode(&[stream]);
    let (again, fault_again) = decode(&cut(stream, cuts));
    assert_eq!(fault, fault_again);
    assert!(whole == again, "cut, other messages came");
    let written: Vec<u8> = whole.iter().flat_map(|frame| frame.bytes.clone()).collect();
    assert!(stream.starts_with(&written), "not written as it came");
    for frame in &whole {
        inner(&frame.message);
    }
}

/// A handshake: the same however it is cut, and written again as it came.
pub fn handshake(data: &[u8]) {
    let (cuts, stream) = data.split_at(data.len().min(CUTS_LEN));
    let mut rest = Bytes::copy_from_slice(stream);
    let whole = HandshakeReader::default().read(&mut rest);
    if let Ok(Some(handshake)) = whole {
        assert_eq!(handshake.encode(), stream[..HANDSHAKE_LEN]);
        assert_eq!(rest, stream[HANDSHAKE_LEN..]);
    }
    let mut reader = HandshakeReader::default();
    let mut read = Ok(None);
    for chunk in cut(stream, cuts) {
        if read != Ok(None) {
            break;
        }
        read = reader.read(&mut Bytes::copy_from_slice(chunk));
    }
    assert_eq!(read, whole);
}

#[derive(PartialEq)]
struct Decoded {
    /// Payload in one chunk.
    bytes: Vec<u8>,
    message: Message,
}

fn decode(chunks: &[&[u8]]) -> (Vec<Decoded>, Option<WireError>) {
    let mut framer = Framer::default();
    let mut out = Vec::new();
    for chunk in chunks {
        framer.on_bytes(Bytes::copy_from_slice(chunk));
        loop {
            match framer.next() {
                Ok(Some(message)) => out.push(decoded(message)),
                Ok(None) => break,
                Err(fault) => return (out, Some(fault)),
            }
        }
        assert!(framer.buffered() < 4 + FRAME_LEN_MAX as usize);
    }
    (out, None)
}

fn decoded(message: Message) -> Decoded {
    let frame = encode(&message, &PeerExtensions::OURS).expect("we list all extensions");
    let bytes = [&frame.head[..], &frame.payload.concat()].concat();
    let mut framer = Framer::default();
    framer.on_bytes(bytes.clone().into());
    let joined = framer.next().expect("what we write is read");
    let message = joined.expect("a whole frame");
    Decoded { bytes, message }
}

/// What is wrapped in messages.
fn inner(message: &Message) {
    match message {
        Message::Extended { id: 0, payload } => {
            if let Ok(handshake) = ExtensionHandshake::parse(payload) {
                let again = ExtensionHandshake::parse(&handshake.encode());
                assert_eq!(again, Ok(handshake));
            }
        }
        Message::Extended {
            id: PeerExtensions::OUR_METADATA,
            payload,
        } => {
            if let Ok(Some(message)) = MetadataMessage::parse(payload) {
                let again = MetadataMessage::parse(&message.encode());
                assert_eq!(again, Ok(Some(message)));
            }
        }
        _ => {}
    }
}

/// The stream in chunks of these sizes, over and over (0 is one byte).
fn cut<'a>(mut stream: &'a [u8], sizes: &[u8]) -> Vec<&'a [u8]> {
    let mut out = Vec::new();
    for size in sizes.iter().chain(&[1]).cycle() {
        if stream.is_empty() {
            return out;
        }
        // Squared, so that both single bytes and chunks above the rope's minimum occur.
        let size = usize::from(*size).pow(2).clamp(1, stream.len());
        let (chunk, rest) = stream.split_at(size);
        out.push(chunk);
        stream = rest;
    }
    out
}
