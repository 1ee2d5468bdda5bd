//! What every machine was told and what it answered, in a canonical form: for the digest, and for people.
//!
//! One journal per host, so that the digest does not depend on the order in which a test added them.
//! Payload cut from a base is named by the base and the place; other payload is written out.
//! Never writes addresses or anything else that differs between two runs of one program.

use super::bases::Bases;
use crate::content::{Digest, HashDone, HashJob};
use crate::machine::{CloseHow, Datagram, DiskDone, DiskError, DiskOp, Input, Listener, Output};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::format;
use std::fs::File;
use std::io::Write as _;
use std::string::String;
use std::vec::Vec;

pub(super) struct Journal {
    on: bool,
    hash: Sha256,
    buf: Vec<u8>,
    trace: Option<File>,
}

const FLUSH_LEN: usize = 16 * 1024;

impl Journal {
    pub(super) fn new(trace: Option<File>) -> Self {
        Self {
            on: true,
            hash: Sha256::new(),
            buf: Vec::new(),
            trace,
        }
    }

    pub(super) fn set_on(&mut self, on: bool) {
        self.on = on;
    }

    pub(super) fn input(&mut self, now_ns: u64, input: &Input, bases: &Bases) {
        if self.on {
            self.number(now_ns);
            self.put_input(input, bases);
            self.flush(FLUSH_LEN);
        }
        if let Some(file) = &mut self.trace {
            // A trace that cannot be written is only a worse trace.
            let _ = writeln!(file, "{} < {}", Clock(now_ns), describe_input(input));
        }
    }

    pub(super) fn output(&mut self, now_ns: u64, output: &Output, bases: &Bases) {
        if self.on {
            self.put_output(output, bases);
        }
        if let Some(file) = &mut self.trace {
            let _ = writeln!(file, "{} > {}", Clock(now_ns), describe_output(output));
        }
    }

    pub(super) fn datagram(&mut self, now_ns: u64, datagram: &Datagram, payload: &[u8]) {
        let Datagram { to, ecn, .. } = datagram;
        if self.on {
            self.tag(b'g');
            self.text(&format!("{to} {ecn:?}"));
            self.number(payload.len() as u64);
            self.buf.extend_from_slice(payload);
        }
        if let Some(file) = &mut self.trace {
            let _ = writeln!(
                file,
                "{} > Datagram to {to}, {} bytes",
                Clock(now_ns),
                payload.len()
            );
        }
    }

    /// The digest of all until now.
    pub(super) fn digest(&self) -> Digest {
        let mut hash = self.hash.clone();
        hash.update(&self.buf);
        Digest(hash.finalize().into())
    }

    fn put_input(&mut self, input: &Input, bases: &Bases) {
        match input {
            Input::Tick => self.tag(b't'),
            Input::Command { call, command } => {
                self.tag(b'c');
                self.number(call.0);
                self.text(&format!("{command:?}"));
            }
            Input::Listening { listener, at } => {
                self.tag(b'l');
                self.tag(listener_tag(*listener));
                self.text(&format!("{at}"));
            }
            Input::Accepted {
                stream,
                listener,
                from,
            } => {
                self.tag(b'a');
                self.number(stream.0);
                self.tag(listener_tag(*listener));
                self.text(&format!("{from}"));
            }
            Input::Opened { stream, to } => {
                self.tag(b'o');
                self.number(stream.0);
                self.text(&format!("{to}"));
            }
            Input::Secured { stream } => {
                self.tag(b's');
                self.number(stream.0);
            }
            Input::Received { stream, bytes } => {
                self.tag(b'r');
                self.number(stream.0);
                self.payload(bytes, bases);
            }
            Input::Sent { stream, len } => {
                self.tag(b'S');
                self.number(stream.0);
                self.number((*len).into());
            }
            Input::Path { stream, facts } => {
                self.tag(b'v');
                self.number(stream.0);
                self.text(&format!("{facts:?}"));
            }
            Input::Closed { stream, why } => {
                self.tag(b'x');
                self.number(stream.0);
                self.text(&format!("{why:?}"));
            }
            Input::Datagrams {
                socket,
                from,
                bytes,
                ecn,
                ..
            } => {
                self.tag(b'd');
                self.number(socket.0.into());
                self.text(&format!("{from} {ecn:?}"));
                self.payload(bytes, bases);
            }
            Input::Disk { op, done } => {
                self.tag(b'D');
                self.number(op.0);
                match done {
                    Ok(DiskDone::Bytes(bytes)) => self.payload(bytes, bases),
                    other => self.text(&format!("{other:?}")),
                }
            }
            Input::Hashed { op, done } => {
                self.tag(b'h');
                self.number(op.0);
                for leaf in &done.leaves {
                    self.buf.extend_from_slice(&leaf.0);
                }
                if let Some(flat) = done.flat.clone() {
                    self.buf.extend_from_slice(&flat.digest().0);
                }
            }
            Input::Host(facts) => {
                self.tag(b'f');
                self.text(&format!("{facts:?}"));
            }
        }
    }

    fn put_output(&mut self, output: &Output, bases: &Bases) {
        match output {
            Output::Connect { stream, to } => {
                self.tag(b'C');
                self.number(stream.0);
                self.text(&format!("{to:?}"));
            }
            Output::Grant { stream, bytes } => {
                self.tag(b'G');
                self.number(stream.0);
                self.number((*bytes).into());
            }
            Output::StartTls { stream, name } => {
                self.tag(b'T');
                self.number(stream.0);
                self.text(name);
            }
            Output::Send { stream, bytes } => {
                self.tag(b'W');
                self.number(stream.0);
                self.payload(bytes, bases);
            }
            Output::SendFile {
                stream,
                file,
                offset,
                len,
            } => {
                self.tag(b'P');
                self.number(stream.0);
                self.number(file.0);
                self.number(*offset);
                self.number((*len).into());
            }
            Output::Shape { stream, shape } => {
                self.tag(b'H');
                self.number(stream.0);
                self.text(&format!("{shape:?}"));
            }
            Output::Close { stream, how } => {
                self.tag(if *how == CloseHow::Flush { b'f' } else { b'A' });
                self.number(stream.0);
            }
            Output::Disk { op, todo } => {
                self.tag(b'O');
                self.number(op.0);
                self.put_disk(todo, bases);
            }
            Output::Hash { op, job } => {
                self.tag(b'H');
                self.number(op.0);
                self.put_hash(job, bases);
            }
            Output::Reply { call, reply } => {
                self.tag(b'R');
                self.number(call.0);
                self.text(&format!("{reply:?}"));
            }
            Output::Notify(event) => {
                self.tag(b'N');
                self.text(&format!("{event:?}"));
            }
        }
    }

    fn put_disk(&mut self, op: &DiskOp, bases: &Bases) {
        match op {
            DiskOp::Read { file, offset, len } => {
                self.tag(b'r');
                self.number(file.0);
                self.number(*offset);
                self.number((*len).into());
            }
            DiskOp::Write {
                file,
                offset,
                chunks,
            } => {
                self.tag(b'w');
                self.number(file.0);
                self.number(*offset);
                for chunk in chunks {
                    self.payload(chunk, bases);
                }
            }
            DiskOp::Replace { path, bytes } => {
                self.tag(b'p');
                self.text(path);
                self.payload(bytes, bases);
            }
            other => self.text(&format!("{other:?}")),
        }
    }

    fn put_hash(&mut self, job: &HashJob, bases: &Bases) {
        self.tag(job.leaves.into());
        self.tag(job.flat.is_some().into());
        for chunk in &job.chunks {
            self.payload(chunk, bases);
        }
    }

    fn payload(&mut self, bytes: &Bytes, bases: &Bases) {
        self.number(bytes.len() as u64);
        match bases.locate(bytes) {
            Some((name, offset)) if bytes.len() > 64 => {
                self.buf.extend_from_slice(&name.0[..8]);
                self.number(offset as u64);
            }
            _ => self.buf.extend_from_slice(bytes),
        }
    }

    fn tag(&mut self, tag: u8) {
        self.buf.push(tag);
    }

    fn number(&mut self, number: u64) {
        self.buf.extend_from_slice(&number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.buf.extend_from_slice(text.as_bytes());
    }

    fn flush(&mut self, above: usize) {
        if self.buf.len() >= above {
            self.hash.update(&self.buf);
            self.buf.clear();
        }
    }
}

const fn listener_tag(listener: Listener) -> u8 {
    match listener {
        Listener::Peers => 0,
        Listener::Http => 1,
        Listener::Local => 2,
        Listener::Rendezvous => 3,
        Listener::RendezvousOther => 4,
    }
}

/// World time as `seconds.microseconds`.
pub(super) struct Clock(pub(super) u64);

impl core::fmt::Display for Clock {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "{}.{:06}",
            self.0 / 1_000_000_000,
            self.0 / 1000 % 1_000_000
        )
    }
}

/// One line, without payload.
pub(super) fn describe_input(input: &Input) -> String {
    match input {
        Input::Received { stream, bytes } => {
            format!(
                "Received {} {} bytes {}",
                stream.0,
                bytes.len(),
                peek(bytes)
            )
        }
        Input::Datagrams { from, bytes, .. } => {
            format!(
                "Datagram from {from}, {} bytes {}",
                bytes.len(),
                peek(bytes)
            )
        }
        Input::Disk { op, done } => format!("Disk {} {}", op.0, describe_done(done)),
        Input::Hashed { op, done } => format!("Hashed {} {}", op.0, describe_hash(done)),
        other => format!("{other:?}"),
    }
}

pub(super) fn describe_output(output: &Output) -> String {
    match output {
        Output::Send { stream, bytes } => {
            format!("Send {} {} bytes {}", stream.0, bytes.len(), peek(bytes))
        }
        Output::Disk { op, todo } => match todo {
            DiskOp::Write {
                file,
                offset,
                chunks,
            } => {
                let len: usize = chunks.iter().map(Bytes::len).sum();
                format!("Disk {} Write {} at {offset}, {len} bytes", op.0, file.0)
            }
            DiskOp::Replace { path, bytes } => {
                format!("Disk {} Replace {path}, {} bytes", op.0, bytes.len())
            }
            other => format!("Disk {} {other:?}", op.0),
        },
        Output::Hash { op, job } => {
            let len: usize = job.chunks.iter().map(Bytes::len).sum();
            format!("Hash {} {len} bytes", op.0)
        }
        other => format!("{other:?}"),
    }
}

fn describe_done(done: &Result<DiskDone, DiskError>) -> String {
    match done {
        Ok(DiskDone::Bytes(bytes)) => format!("{} bytes {}", bytes.len(), peek(bytes)),
        other => format!("{other:?}"),
    }
}

fn describe_hash(done: &HashDone) -> String {
    format!(
        "{} leaves, flat: {}",
        done.leaves.len(),
        done.flat.is_some()
    )
}

/// The first bytes, printable.
fn peek(bytes: &Bytes) -> String {
    format!("{}", bytes[..bytes.len().min(24)].escape_ascii())
}
