//! Where a message body ends, and its bytes without copying them.
//!
//! Decides how many of the received bytes belong to the body (RFC 9112 §6, §7): none, a known length,
//! chunked, or all until the stream ends. Payload is handed on as slices of what was received. Chunk
//! extensions and trailers are skipped; control lines are bounded. Never looks past the end of the body:
//! what follows stays in the input.
//!
//! Tests: at the end of this file; fuzz body `http_head`.

use bytes::Bytes;
use core::fmt;

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Empty,
    Length(u64),
    Chunked,
    /// Ends with the stream (HTTP/1.0 and `Connection: close`).
    UntilClose,
}

/// Takes a body's payload out of received bytes.
#[derive(Clone, Debug)]
pub struct BodyReader {
    state: State,
    /// Bytes of the control line being read (chunk size, trailer).
    line_len: usize,
    trailer_len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// A chunk-size line that is none.
    ChunkSize,
    /// Payload longer than its chunk said.
    ChunkEnd,
    TrailerTooLong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    /// Chunk-size digits so far; `digits` counts them.
    Size {
        size: u64,
        digits: u8,
    },
    /// Rest of a chunk-size line: blanks and extensions.
    Extension {
        size: u64,
    },
    /// The `\n` of a chunk-size line.
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    /// `\r\n` behind a chunk; true once the `\r` was there.
    DataEnd {
        cr: bool,
    },
    Trailer {
        cr: bool,
    },
    Ended,
}

impl BodyReader {
    pub const fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Length(0) => State::Ended,
            Framing::Length(len) => State::Length(len),
            Framing::Chunked => State::Size { size: 0, digits: 0 },
            Framing::UntilClose => State::UntilClose,
        };
        Self {
            state,
            line_len: 0,
            trailer_len: 0,
        }
    }

    /// The next payload at the front of `input`; `None` if more input is needed or the body has ended.
    ///
    /// # Errors
    /// If chunked framing is broken.
    pub fn read(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, BodyError> {
        while !input.is_empty() {
            match &mut self.state {
                State::Ended => break,
                State::UntilClose => return Ok(Some(input.split_off(0))),
                State::Length(left) => {
                    let part = take(input, left);
                    if *left == 0 {
                        self.state = State::Ended;
                    }
                    return Ok(Some(part));
                }
                State::Data { left } => {
                    let part = take(input, left);
                    if *left == 0 {
                        self.state = State::DataEnd { cr: false };
                    }
                    return Ok(Some(part));
                }
                _ => {
                    let [byte] = *input.split_to(1) else { break };
                    self.state = self.control(byte)?;
                }
            }
        }
        Ok(None)
    }

    /// The whole body was read.
    pub const fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// The stream has ended: was that the end of the body too?
    pub const fn ends_with_stream(&self) -> bool {
        matches!(self.state, State::Ended | State::UntilClose)
    }

    /// Payload bytes still to come, where that is known.
    pub const fn left(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Ended => Some(0),
            _ => None,
        }
    }

    /// One byte of framing.
    fn control(&mut self, byte: u8) -> Result<State, BodyError> {
        match self.state {
            State::Size { size, digits } => {
                if let Some(digit) = char::from(byte).to_digit(16) {
                    if digits >= 16 {
                        return Err(BodyError::ChunkSize);
                    }
                    let size = size << 4 | u64::from(digit);
                    return Ok(State::Size {
                        size,
                        digits: digits + 1,
                    });
                }
                if digits == 0 {
                    return Err(BodyError::ChunkSize);
                }
                self.line_len = 0;
                match byte {
                    b'\r' => Ok(State::SizeEnd { size }),
                    b'\n' => Ok(self.chunk_begins(size)),
                    b';' | b' ' | b'\t' => Ok(State::Extension { size }),
                    _ => Err(BodyError::ChunkSize),
                }
            }
            State::Extension { size } => {
                self.line_len += 1;
                match byte {
                    b'\r' => Ok(State::SizeEnd { size }),
                    b'\n' => Err(BodyError::ChunkSize),
                    _ if self.line_len > LINE_LEN_MAX => Err(BodyError::ChunkSize),
                    _ => Ok(State::Extension { size }),
                }
            }
            State::SizeEnd { size } if byte == b'\n' => Ok(self.chunk_begins(size)),
            State::SizeEnd { .. } => Err(BodyError::ChunkSize),
            State::DataEnd { cr: false } if byte == b'\r' => Ok(State::DataEnd { cr: true }),
            State::DataEnd { .. } if byte == b'\n' => Ok(State::Size { size: 0, digits: 0 }),
            State::DataEnd { .. } => Err(BodyError::ChunkEnd),
            State::Trailer { cr } => self.trailer(byte, cr),
            other => Ok(other),
        }
    }

    fn chunk_begins(&mut self, size: u64) -> State {
        self.line_len = 0;
        if size == 0 {
            State::Trailer { cr: false }
        } else {
            State::Data { left: size }
        }
    }

    /// Trailer fields are skipped; an empty line ends the body.
    fn trailer(&mut self, byte: u8, cr: bool) -> Result<State, BodyError> {
        self.trailer_len += 1;
        if self.trailer_len > TRAILER_LEN_MAX {
            return Err(BodyError::TrailerTooLong);
        }
        match byte {
            b'\r' if !cr => Ok(State::Trailer { cr: true }),
            b'\n' if self.line_len == 0 => Ok(State::Ended),
            b'\n' => {
                self.line_len = 0;
                Ok(State::Trailer { cr: false })
            }
            _ => {
                self.line_len += 1;
                Ok(State::Trailer { cr: false })
            }
        }
    }
}

fn take(input: &mut Bytes, left: &mut u64) -> Bytes {
    let len = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
    *left -= len as u64;
    input.split_to(len)
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ChunkSize => "malformed chunk size",
            Self::ChunkEnd => "chunk longer than announced",
            Self::TrailerTooLong => "trailer too long",
        })
    }
}

impl core::error::Error for BodyError {}

/// Longest chunk extension skipped.
const LINE_LEN_MAX: usize = 1024;
/// Longest trailer section skipped.
const TRAILER_LEN_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// Feed `wire` cut at every place; the payload, what was left over, and whether the body had ended.
    fn read(
        framing: Framing,
        wire: &'static [u8],
        cut: usize,
    ) -> Result<(Vec<u8>, usize, bool), BodyError> {
        let mut reader = BodyReader::new(framing);
        let mut payload = Vec::new();
        let mut left = 0;
        for part in [wire.get(..cut), wire.get(cut..)].into_iter().flatten() {
            let mut input = Bytes::from_static(part);
            while let Some(bytes) = reader.read(&mut input)? {
                payload.extend_from_slice(&bytes);
            }
            left += input.len();
        }
        Ok((payload, left, reader.is_ended()))
    }

    #[test]
    fn bodies_end_where_their_framing_says_at_every_cut() {
        for (framing, wire, payload, left, ended) in [
            (Framing::Empty, &b"next"[..], &b""[..], 4, true),
            (Framing::Length(0), b"next", b"", 4, true),
            (Framing::Length(3), b"abcnext", b"abc", 4, true),
            (Framing::Length(9), b"abc", b"abc", 0, false),
            (Framing::UntilClose, b"abc", b"abc", 0, false),
            (
                Framing::Chunked,
                b"3\r\nabc\r\n0\r\n\r\nnext",
                b"abc",
                4,
                true,
            ),
            (
                Framing::Chunked,
                b"3;x=\"y\"\r\nabc\r\nA \r\n0123456789\r\n000\r\n\r\n",
                b"abc0123456789",
                0,
                true,
            ),
            (
                Framing::Chunked,
                b"1\r\na\r\n0\r\nX: y\r\nZ: w\r\n\r\nn",
                b"a",
                1,
                true,
            ),
            (Framing::Chunked, b"1\na\n0\n\n", b"a", 0, true),
            (Framing::Chunked, b"5\r\nab", b"ab", 0, false),
            (Framing::Chunked, b"1\r\na\r\n0\r\n", b"a", 0, false),
        ] {
            for cut in 0..=wire.len() {
                let got = read(framing, wire, cut);
                assert_eq!(
                    got,
                    Ok((payload.to_vec(), left, ended)),
                    "{framing:?} cut at {cut}"
                );
            }
        }
    }

    #[test]
    fn broken_chunks_are_errors_at_every_cut() {
        for (wire, error) in [
            (&b"x\r\n"[..], BodyError::ChunkSize),
            (b"\r\n", BodyError::ChunkSize),
            (b"-1\r\n", BodyError::ChunkSize),
            (b"1x\r\n", BodyError::ChunkSize),
            (b"1\rx", BodyError::ChunkSize),
            (b"11112222333344445\r\n", BodyError::ChunkSize),
            (b"1;a\nb\r\n", BodyError::ChunkSize),
            (b"1\r\nabc\r\n", BodyError::ChunkEnd),
            (b"1\r\na\rb", BodyError::ChunkEnd),
        ] {
            for cut in 0..=wire.len() {
                assert_eq!(
                    read(Framing::Chunked, wire, cut),
                    Err(error),
                    "cut at {cut}"
                );
            }
        }
        let mut reader = BodyReader::new(Framing::Chunked);
        let mut endless = Bytes::from([&b"0\r\n"[..], &[b'a'; TRAILER_LEN_MAX + 1]].concat());
        assert_eq!(reader.read(&mut endless), Err(BodyError::TrailerTooLong));
        let mut reader = BodyReader::new(Framing::Chunked);
        let mut endless = Bytes::from([&b"1;"[..], &[b'a'; LINE_LEN_MAX + 1]].concat());
        assert_eq!(reader.read(&mut endless), Err(BodyError::ChunkSize));
    }

    #[test]
    fn payload_is_sliced_not_copied() {
        let wire = Bytes::from_static(b"3\r\nabc\r\n");
        let mut input = wire.clone();
        let mut reader = BodyReader::new(Framing::Chunked);
        let part = reader.read(&mut input).expect("good").expect("payload");
        assert_eq!(part.as_ptr(), wire.slice(3..).as_ptr());
        assert!(!reader.ends_with_stream());
        assert!(BodyReader::new(Framing::UntilClose).ends_with_stream());
        assert_eq!(BodyReader::new(Framing::Length(5)).left(), Some(5));
    }
}
