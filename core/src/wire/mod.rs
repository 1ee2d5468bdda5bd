//! Peer messages: framing, decode, encode, handshake, extensions (BEP 3, 6, 10, 52).
