//! One HTTP request over a blocking stream, its answer read line by line as it comes: how commands talk to
//! the agent of their home.
//!
//! Never does: TLS, redirects, keep-alive; the other end is on this machine. The parsing is the core's and
//! ureq-proto's. Tests: below, and with a real agent in `shell-smol/tests/cli.rs`.

use bytes::Bytes;
use dovetail_core::http::{BodyReader, Framing};
use std::io::{self, Read, Write};
use ureq_proto::http::{Response, header};
use ureq_proto::parser::try_parse_response;

/// An answer whose body is still coming.
#[derive(Debug)]
pub(crate) struct Incoming<S> {
    stream: S,
    body: BodyReader,
    /// Received and not yet taken apart.
    input: Bytes,
    /// Payload without its line's end yet.
    line: Vec<u8>,
    /// Payload behind the first line's end.
    rest: Bytes,
}

/// Head and line lengths beyond this are not ours.
const LINE_LEN_MAX: usize = 1024 * 1024;

const HEADERS_MAX: usize = 64;

/// Send a request and wait for the head of the answer.
pub(crate) fn ask<S: Read + Write>(
    mut stream: S,
    method: &str,
    target: &str,
    body: &str,
) -> io::Result<Incoming<S>> {
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    stream.flush()?;

    let mut input = Vec::new();
    let (len, response) = loop {
        match try_parse_response::<HEADERS_MAX>(&input) {
            Ok(Some(parsed)) => break parsed,
            Ok(None) if input.len() > LINE_LEN_MAX => {
                return Err(malformed("its head is too long"));
            }
            Ok(None) => {}
            Err(e) => return Err(malformed(e)),
        }
        if receive(&mut stream, &mut input)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    Ok(Incoming {
        body: BodyReader::new(framing(&response)?),
        stream,
        input: Bytes::from(input).slice(len..),
        line: Vec::new(),
        rest: Bytes::new(),
    })
}

impl<S: Read> Incoming<S> {
    /// The next line without its end; `None` after the last.
    pub(crate) fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            let payload = std::mem::take(&mut self.rest);
            if let Some(end) = payload.iter().position(|byte| *byte == b'\n') {
                self.line.extend_from_slice(&payload[..end]);
                self.rest = payload.slice(end + 1..);
                let line = std::mem::take(&mut self.line);
                return String::from_utf8(line).map(Some).map_err(malformed);
            }
            self.line.extend_from_slice(&payload);
            if self.line.len() > LINE_LEN_MAX {
                return Err(malformed("a line is too long"));
            }
            match self.payload()? {
                Some(payload) => self.rest = payload,
                None if self.line.is_empty() => return Ok(None),
                None => self.rest = Bytes::from_static(b"\n"),
            }
        }
    }

    /// The next part of the body; `None` at its end.
    fn payload(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(payload) = self.body.read(&mut self.input).map_err(malformed)? {
                return Ok(Some(payload));
            }
            if self.body.is_ended() {
                return Ok(None);
            }
            let mut more = Vec::new();
            if receive(&mut self.stream, &mut more)? == 0 {
                if self.body.ends_with_stream() {
                    return Ok(None);
                }
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.input = more.into();
        }
    }
}

fn framing(response: &Response<()>) -> io::Result<Framing> {
    let field = |name| {
        let value: &header::HeaderValue = response.headers().get(name)?;
        value.to_str().ok()
    };
    if field(header::TRANSFER_ENCODING).is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    {
        return Ok(Framing::Chunked);
    }
    match field(header::CONTENT_LENGTH) {
        Some(len) => len.parse().map(Framing::Length).map_err(malformed),
        None => Ok(Framing::UntilClose),
    }
}

fn receive(stream: &mut impl Read, into: &mut Vec<u8>) -> io::Result<usize> {
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(len) => {
                into.extend_from_slice(&buffer[..len]);
                return Ok(len);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn malformed(why: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// Answers with fixed bytes, a few at a time, and remembers what it was sent.
    struct Canned {
        answer: Cursor<Vec<u8>>,
        step: usize,
        sent: Vec<u8>,
    }

    impl Read for Canned {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = buffer.len().min(self.step);
            self.answer.read(&mut buffer[..len])
        }
    }

    impl Write for Canned {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.sent.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(answer: &str, step: usize) -> io::Result<Vec<String>> {
        let canned = Canned {
            answer: Cursor::new(answer.into()),
            step,
            sent: Vec::new(),
        };
        let mut incoming = ask(canned, "POST", "/v1/get", "{}")?;
        let mut lines = Vec::new();
        while let Some(line) = incoming.line()? {
            lines.push(line);
        }
        let sent = String::from_utf8(incoming.stream.sent).unwrap();
        assert!(sent.starts_with("POST /v1/get HTTP/1.1\r\n"), "{sent}");
        assert!(sent.ends_with("Content-Length: 2\r\n\r\n{}"), "{sent}");
        Ok(lines)
    }

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                       4\r\none\n\r\n2\r\ntw\r\n7\r\no\nthree\r\n0\r\n\r\n";
        let counted = "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\none\ntwo\nthree and not this";
        let closed = "HTTP/1.1 200 OK\r\n\r\none\ntwo\nthree\n";
        for answer in [chunked, counted, closed] {
            for step in 1..answer.len() {
                let lines = lines(answer, step).unwrap();
                assert_eq!(lines, ["one", "two", "three"], "{answer} by {step}");
            }
        }
    }

    #[test]
    fn a_broken_answer_is_an_error() {
        for (answer, kind) in [
            ("", io::ErrorKind::UnexpectedEof),
            ("HTTP/1.1 200 OK\r\n", io::ErrorKind::UnexpectedEof),
            ("what?\r\n\r\n", io::ErrorKind::InvalidData),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\none\n",
                io::ErrorKind::UnexpectedEof,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
                io::ErrorKind::InvalidData,
            ),
        ] {
            assert_eq!(lines(answer, 3).unwrap_err().kind(), kind, "{answer}");
        }
    }
}
