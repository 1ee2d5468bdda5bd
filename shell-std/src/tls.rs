//! The bytes of one stream in both directions, with or without TLS: no socket, no thread, no clock.
//!
//! Both shells put a [`Conduit`] between the machine and a socket. It keeps the credit for reading, the
//! queue for writing, and what rustls has decrypted but the credit does not cover yet.
//!
//! Invariants: [`Conduit::deliver`] never gives more than was granted; [`Conduit::written`] sums to what
//! was sent; an end ([`Conduit::end`]) is told only after everything before it was delivered.
//! Tests: at the foot of this file; whole handshakes in `tests/e2e_tls.rs`.

use crate::file_part::FilePart;
use bytes::{Buf as _, Bytes, BytesMut};
use dovetail_core::machine::Lost;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore};
use std::collections::VecDeque;
use std::io::{BufRead as _, IoSlice, Write as _};
use std::sync::{Arc, OnceLock};

/// Chunks handed to one system call.
pub const CHUNKS_PER_WRITE: usize = 64;

/// What a read during a handshake, or of a stream under TLS, must have room for: one record and its frame.
const RECORD_LEN: usize = 18 * 1024;

/// One stream's bytes, between the machine and the socket.
#[derive(Debug, Default)]
pub struct Conduit {
    credit: usize,
    /// Received and not yet covered by credit.
    received: VecDeque<Bytes>,
    /// On its way to the socket.
    outgoing: VecDeque<Chunk>,
    /// Handed over while the handshake runs.
    held: VecDeque<Bytes>,
    tls: Option<Box<ClientConnection>>,
    end: Option<Lost>,
}

#[derive(Debug)]
struct Chunk {
    load: Load,
    /// How many of the machine's bytes are reported when this has left; `None`: just these, as they leave.
    stands_for: Option<u32>,
}

#[derive(Debug)]
enum Load {
    Bytes(Bytes),
    File(FilePart),
}

impl Chunk {
    /// As the machine handed it over.
    const fn plain(load: Load) -> Self {
        Self {
            load,
            stands_for: None,
        }
    }

    const fn bytes(&self) -> Option<&Bytes> {
        match &self.load {
            Load::Bytes(bytes) => Some(bytes),
            Load::File(_) => None,
        }
    }
}

impl Load {
    fn advance(&mut self, max: usize) -> usize {
        match self {
            Self::Bytes(bytes) => {
                let part = max.min(bytes.len());
                bytes.advance(part);
                part
            }
            Self::File(file) => {
                let part = max.min(file.len);
                file.offset += part as u64;
                file.len -= part;
                part
            }
        }
    }

    const fn is_empty(&self) -> bool {
        match self {
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::File(file) => file.len == 0,
        }
    }
}

impl Conduit {
    /// The machine may be given this much more.
    pub fn grant(&mut self, bytes: u32) {
        self.credit = self.credit.saturating_add(bytes as usize);
    }

    /// How much to read from the socket now, at most; `None`: nothing.
    pub fn wants(&self) -> Option<usize> {
        if self.end.is_some() || !self.received.is_empty() {
            return None;
        }
        if self.is_handshaking() {
            return Some(RECORD_LEN);
        }
        match (self.credit, &self.tls) {
            (0, _) => None,
            (credit, None) => Some(credit),
            (credit, Some(_)) => Some(credit.max(RECORD_LEN)),
        }
    }

    /// Bytes came from the socket, at most as many as it wanted.
    ///
    /// # Errors
    ///
    /// TLS failed; the stream is over once [`Conduit::chunks`] (the alert) were written, or at once.
    pub fn receive(&mut self, bytes: Bytes) -> Result<(), Lost> {
        if self.tls.is_none() {
            self.received.push_back(bytes);
            return Ok(());
        }
        let result = self.decrypt(&bytes);
        self.collect(0);
        result
    }

    /// The next bytes for the machine, within its credit.
    pub fn deliver(&mut self) -> Option<Bytes> {
        let front = self.received.front_mut()?;
        let len = front.len().min(self.credit);
        if len == 0 {
            return None;
        }
        self.credit -= len;
        if len < front.len() {
            return Some(front.split_to(len));
        }
        self.received.pop_front()
    }

    /// The socket says that nothing more will come.
    pub fn finish(&mut self, why: Lost) {
        let under_tls = self.tls.is_some();
        self.end.get_or_insert(match why {
            // Without the goodbye of TLS nobody can tell a complete stream from a cut one.
            Lost::Eof if under_tls && !self.is_handshaking() => Lost::Reset,
            why => why,
        });
    }

    /// Why nothing more will come, once everything was delivered.
    pub fn end(&self) -> Option<&Lost> {
        self.end.as_ref().filter(|_| self.received.is_empty())
    }

    /// Bytes from the machine, to be written.
    pub fn send(&mut self, bytes: Bytes) {
        if self.is_handshaking() {
            self.held.push_back(bytes);
            return;
        }
        let Some(tls) = &mut self.tls else {
            self.outgoing.push_back(Chunk::plain(Load::Bytes(bytes)));
            return;
        };
        // Without a buffer limit this takes all of it; a closed session is noticed by its reader.
        let _ = tls.writer().write_all(&bytes);
        self.collect(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    }

    /// A part of a file, to be written. Under TLS it is read here.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn send_file(&mut self, mut part: FilePart) -> Result<(), Lost> {
        if self.tls.is_none() {
            match self.outgoing.back_mut().map(|chunk| &mut chunk.load) {
                Some(Load::File(last)) if last.is_followed_by(&part) => last.len += part.len,
                _ => self.outgoing.push_back(Chunk::plain(Load::File(part))),
            }
            return Ok(());
        }
        while part.len > 0 {
            let bytes = part.read()?;
            part.offset += bytes.len() as u64;
            part.len -= bytes.len();
            self.send(bytes);
        }
        Ok(())
    }

    /// The part of a file that is to be written next, if it is one.
    pub fn file_part(&self) -> Option<&FilePart> {
        match &self.outgoing.front()?.load {
            Load::File(part) => Some(part),
            Load::Bytes(_) => None,
        }
    }

    /// The first bytes of the part of a file that is next were read: they are written instead.
    pub fn replace_part(&mut self, bytes: Bytes) {
        if let Some(Load::File(_)) = self.outgoing.front().map(|chunk| &chunk.load) {
            self.written(bytes.len());
            self.outgoing.push_front(Chunk::plain(Load::Bytes(bytes)));
        }
    }

    /// Nothing is on its way to the socket.
    pub fn is_flushed(&self) -> bool {
        self.outgoing.is_empty() && self.held.is_empty()
    }

    /// There is something to write now.
    pub fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Does a part of a file follow the first so many chunks? Then they need not leave by themselves.
    pub fn has_part_next(&self, chunks: usize) -> bool {
        let next = self.outgoing.get(chunks).map(|chunk| &chunk.load);
        matches!(next, Some(Load::File(_)))
    }

    /// The next chunks to write, as slices; none if a part of a file is next.
    pub fn slices(&self) -> Vec<IoSlice<'_>> {
        let next = self.outgoing.iter().take(CHUNKS_PER_WRITE);
        next.map_while(Chunk::bytes)
            .map(|bytes| IoSlice::new(bytes))
            .collect()
    }

    /// The next chunks to write, to hold while the conduit is in use elsewhere; about `limit` bytes.
    pub fn chunks(&self, limit: usize) -> Vec<Bytes> {
        let mut chunks = Vec::new();
        let mut len = 0;
        let next = self.outgoing.iter().take(CHUNKS_PER_WRITE);
        for bytes in next.map_while(Chunk::bytes) {
            chunks.push(bytes.slice(..bytes.len().min(limit - len)));
            len += bytes.len();
            if len >= limit {
                break;
            }
        }
        chunks
    }

    /// So many bytes left; how many of the machine's own that completes.
    pub fn written(&mut self, mut len: usize) -> u32 {
        let mut sent = 0;
        while len > 0 {
            let Some(chunk) = self.outgoing.front_mut() else {
                break;
            };
            let part = chunk.load.advance(len);
            len -= part;
            let done = chunk.load.is_empty();
            sent += match chunk.stands_for {
                None => u32::try_from(part).unwrap_or(u32::MAX),
                Some(whole) if done => whole,
                Some(_) => 0,
            };
            if done {
                self.outgoing.pop_front();
            }
        }
        sent
    }

    /// Speak TLS from here on, expecting a certificate for `name`.
    ///
    /// # Errors
    ///
    /// `name` is no name a certificate could have.
    pub fn start_tls(&mut self, config: Arc<ClientConfig>, name: &str) -> Result<(), Lost> {
        let no_name = |_| Lost::Tls(format!("{name} is not a name a certificate could have"));
        let server = ServerName::try_from(name.to_owned()).map_err(no_name)?;
        let mut tls = ClientConnection::new(config, server).map_err(|error| explain(&error))?;
        tls.set_buffer_limit(None);
        self.tls = Some(Box::new(tls));
        self.collect(0);
        Ok(())
    }

    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Say goodbye, if there is one to say.
    pub fn say_goodbye(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        self.collect(0);
    }

    fn decrypt(&mut self, bytes: &[u8]) -> Result<(), Lost> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        let was_handshaking = tls.is_handshaking();
        let mut rest = bytes;
        let mut plain = BytesMut::new();
        while !rest.is_empty() {
            // 0: the peer has said goodbye; what follows is nobody's.
            if tls
                .read_tls(&mut rest)
                .map_err(|error| Lost::Tls(error.to_string()))?
                == 0
            {
                break;
            }
            let state = tls.process_new_packets().map_err(|error| explain(&error))?;
            plain.reserve(state.plaintext_bytes_to_read());
            loop {
                let mut reader = tls.reader();
                let Ok(part) = reader.fill_buf() else { break };
                let len = part.len();
                if len == 0 {
                    self.end.get_or_insert(Lost::Eof);
                    break;
                }
                plain.extend_from_slice(part);
                reader.consume(len);
            }
        }
        if !plain.is_empty() {
            self.received.push_back(plain.freeze());
        }
        if was_handshaking && !tls.is_handshaking() {
            for bytes in std::mem::take(&mut self.held) {
                self.send(bytes);
            }
        }
        Ok(())
    }

    /// Move what rustls wants written to the queue.
    fn collect(&mut self, stands_for: u32) {
        let Some(tls) = &mut self.tls else { return };
        let mut wire = Vec::new();
        while tls.wants_write() {
            // Writing to memory does not fail.
            if tls.write_tls(&mut wire).is_err() {
                break;
            }
        }
        if !wire.is_empty() {
            self.outgoing.push_back(Chunk {
                load: Load::Bytes(wire.into()),
                stands_for: Some(stands_for),
            });
        }
    }
}

/// Trust in what this machine trusts; read once, on first use.
///
/// # Errors
///
/// This machine trusts nobody: no certificates are installed where it looks for them.
pub fn config() -> Result<Arc<ClientConfig>, Lost> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(Arc::clone(config));
    }
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(trusts_nobody(found.errors.first()));
    }
    Ok(Arc::clone(CONFIG.get_or_init(|| trusting(roots))))
}

fn trusts_nobody(error: Option<&impl std::fmt::Display>) -> Lost {
    let why = error.map(|error| format!(": {error}"));
    Lost::Tls(format!(
        "no trusted certificates on this machine{} (install ca-certificates, or set SSL_CERT_FILE or SSL_CERT_DIR)",
        why.unwrap_or_default()
    ))
}

/// A client that trusts these roots and speaks HTTP/1.1.
pub fn trusting(roots: RootCertStore) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    #[expect(clippy::expect_used, reason = "ring speaks both of rustls's versions")]
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("a provider with both versions");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// A TLS failure in words for whoever typed the URL.
fn explain(error: &rustls::Error) -> Lost {
    use rustls::Error;
    Lost::Tls(match error {
        Error::InvalidCertificate(error) => explain_certificate(error),
        Error::AlertReceived(alert) => format!("the server refused: {alert:?}"),
        Error::InvalidMessage(_) => "the server does not speak TLS on this port".into(),
        Error::PeerIncompatible(_) => "the server speaks only versions of TLS before 1.2".into(),
        other => other.to_string(),
    })
}

fn explain_certificate(error: &CertificateError) -> String {
    use CertificateError as E;
    match error {
        E::UnknownIssuer => "its certificate was issued by nobody this machine trusts".into(),
        E::Expired | E::ExpiredContext { .. } => "its certificate has expired".into(),
        E::NotValidYet | E::NotValidYetContext { .. } => {
            "its certificate is not valid yet (is this machine's clock right?)".into()
        }
        E::NotValidForName => "its certificate is for another name".into(),
        E::NotValidForNameContext { presented, .. } => {
            format!("its certificate is for {}", presented.join(", "))
        }
        E::Revoked => "its certificate was revoked".into(),
        // What rustls only passes on has a name for programmers.
        E::Other(other) if other.to_string() == "CaUsedAsEndEntity" => {
            "its certificate is one of an authority, not one of a server".into()
        }
        E::Other(other) => format!("its certificate is not valid: {other}"),
        other => format!("its certificate is not valid: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_delivered_than_granted() {
        let mut conduit = Conduit::default();
        assert_eq!(conduit.wants(), None);
        conduit.grant(10);
        assert_eq!(conduit.wants(), Some(10));
        conduit.receive(Bytes::from_static(b"0123456789")).unwrap();
        assert_eq!(conduit.wants(), None);
        assert_eq!(conduit.deliver().as_deref(), Some(&b"0123456789"[..]));
        conduit.receive(Bytes::from_static(b"abc")).unwrap();
        assert_eq!(conduit.deliver(), None);
        conduit.grant(2);
        assert_eq!(conduit.deliver().as_deref(), Some(&b"ab"[..]));
        assert_eq!(conduit.deliver(), None);
    }

    #[test]
    fn the_end_comes_after_the_last_byte() {
        let mut conduit = Conduit::default();
        conduit.receive(Bytes::from_static(b"last")).unwrap();
        conduit.finish(Lost::Eof);
        assert_eq!(conduit.end(), None);
        conduit.grant(9);
        assert_eq!(conduit.wants(), None);
        assert!(conduit.deliver().is_some());
        assert_eq!(conduit.end(), Some(&Lost::Eof));
    }

    #[test]
    fn what_was_written_sums_to_what_was_sent() {
        let mut conduit = Conduit::default();
        conduit.send(Bytes::from_static(b"hello "));
        conduit.send(Bytes::from_static(b"world"));
        assert_eq!(conduit.slices().len(), 2);
        assert_eq!(conduit.chunks(8), [&b"hello "[..], &b"wo"[..]]);
        assert_eq!(conduit.written(8), 8);
        assert_eq!(conduit.chunks(8), [&b"rld"[..]]);
        assert!(!conduit.is_flushed());
        assert_eq!(conduit.written(3), 3);
        assert!(conduit.is_flushed());
    }

    #[test]
    fn a_server_without_tls_is_named_as_such() {
        let mut conduit = Conduit::default();
        let config = trusting(RootCertStore::empty());
        conduit.start_tls(config, "example.org").unwrap();
        assert!(conduit.is_handshaking() && conduit.has_outgoing());
        let answer = Bytes::from_static(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let lost = conduit.receive(answer).unwrap_err();
        assert_eq!(
            lost,
            Lost::Tls("the server does not speak TLS on this port".into())
        );
    }

    #[test]
    fn a_name_no_certificate_has_is_refused() {
        let config = trusting(RootCertStore::empty());
        let lost = Conduit::default().start_tls(config, "not a name");
        assert!(matches!(lost, Err(Lost::Tls(text)) if text.contains("not a name")));
    }
}
