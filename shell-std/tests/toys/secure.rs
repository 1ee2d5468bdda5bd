//! TLS against a rustls server with a certificate authority of its own. Generic over the runtime.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "each test uses some of them, in its own place"
)]

#[path = "contract.rs"]
mod contract;

use bytes::Bytes;
use contract::toys::{done, pattern};
use contract::{Probe, loopback, play};
use dovetail_core::ids::StreamId;
use dovetail_core::machine::{CloseHow, Effects, Endpoint, Host, Input, Lost};
use dovetail_std::tls::trusting;
use dovetail_std::{Options, Runtime};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

const NAME: &str = "files.example";

/// An authority, a server it vouches for as [`NAME`], and a client that trusts it.
fn authority(name: &str) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![NAME.into()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(issuer.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    (Arc::new(server), trusting(roots))
}

type Session<'s> = rustls::Stream<'s, ServerConnection, TcpStream>;

/// Serve one connection: `before` in the clear, `then` under TLS.
fn serve(
    config: Arc<ServerConfig>,
    before: impl FnOnce(&mut TcpStream) + Send + 'static,
    then: impl FnOnce(&mut Session<'_>) + Send + 'static,
) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(loopback()).unwrap();
    let at = listener.local_addr().unwrap();
    let serving = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        before(&mut socket);
        let mut tls = ServerConnection::new(config).unwrap();
        then(&mut rustls::Stream::new(&mut tls, &mut socket));
    });
    (at, serving)
}

fn goodbye(session: &mut Session<'_>) {
    session.conn.send_close_notify();
    while session.conn.wants_write() {
        session.conn.write_tls(session.sock).unwrap();
    }
}

fn secure(at: SocketAddr, name: &str) -> Endpoint {
    Endpoint {
        host: Host::Addr(at.ip()),
        port: at.port(),
        tls: Some(name.into()),
    }
}

fn trust(tls: Arc<ClientConfig>) -> Options {
    Options {
        tls: Some(tls),
        ..Options::default()
    }
}

const TOTAL: u64 = 16 << 20;

/// A request, 16 MiB of answer under odd credit, the server's goodbye.
fn fetch<R: Runtime>(start: impl FnOnce(&mut Effects), tls: Arc<ClientConfig>) {
    let (mut got, mut granted, mut sent, mut opened) = (0u64, 0u64, 0, 0);
    let on = move |fx: &mut Effects, input| match input {
        Input::Opened { stream, .. } | Input::Secured { stream } => {
            opened += 1;
            assert_eq!(opened, 1);
            fx.send(stream, Bytes::from_static(b"GET"));
            granted += 1;
            fx.grant(stream, 1);
        }
        Input::Sent { len, .. } => sent += len,
        Input::Received { stream, bytes } => {
            assert!(bytes == pattern(got, bytes.len()));
            got += bytes.len() as u64;
            assert!(got <= granted, "more than was granted");
            if got == granted {
                let credit = if got % 3 == 0 { 5 } else { 200_000 };
                granted += u64::from(credit);
                fx.grant(stream, credit);
            }
        }
        Input::Closed { why, .. } => {
            assert_eq!((why, got, sent), (Lost::Eof, TOTAL, 3));
            done(fx);
        }
        _ => {}
    };
    play::<R, _>(Probe::new(start, on), trust(tls));
}

fn answer(session: &mut Session<'_>) {
    let mut request = [0; 3];
    session.read_exact(&mut request).unwrap();
    assert_eq!(&request, b"GET");
    for offset in (0..TOTAL).step_by(1 << 20) {
        session.write_all(&pattern(offset, 1 << 20)).unwrap();
    }
    goodbye(session);
}

pub fn a_secure_stream_is_opened_with_tls_up<R: Runtime>() {
    let (server, client) = authority("friend");
    let (at, serving) = serve(server, |_| (), answer);
    let start = |fx: &mut Effects| {
        fx.connect(secure(at, NAME));
    };
    fetch::<R>(start, client);
    serving.join().unwrap();
}

/// As through a proxy: some words in the clear, then TLS on the same stream.
pub fn an_open_stream_becomes_secure<R: Runtime>() {
    let (server, client) = authority("friend");
    let tunnel = |socket: &mut TcpStream| {
        let mut words = [0; 7];
        socket.read_exact(&mut words).unwrap();
        assert_eq!(&words, b"CONNECT");
        socket.write_all(b"200").unwrap();
    };
    let then = |session: &mut Session<'_>| {
        let mut words = [0; 4];
        session.read_exact(&mut words).unwrap();
        session.write_all(&words).unwrap();
        // The client says goodbye first.
        assert_eq!(session.read(&mut words).unwrap(), 0);
    };
    let (at, serving) = serve(server, tunnel, then);
    let mut steps = Vec::new();
    let on = move |fx: &mut Effects, input| match input {
        Input::Opened { stream, .. } => {
            fx.send(stream, Bytes::from_static(b"CONNECT"));
            // More than the answer: a reader is waiting when TLS starts.
            fx.grant(stream, 10);
        }
        Input::Received { stream, bytes } if bytes == "200" => {
            steps.push("tunnel");
            fx.start_tls(stream, NAME.into());
        }
        Input::Secured { stream } => {
            steps.push("secured");
            fx.send(stream, Bytes::from_static(b"ping"));
        }
        Input::Received { stream, bytes } => {
            assert_eq!(&bytes[..], b"ping");
            steps.push("pong");
            fx.close(stream, CloseHow::Flush);
        }
        Input::Closed { why, .. } => {
            assert_eq!(why, Lost::Asked);
            assert_eq!(steps, ["tunnel", "secured", "pong"]);
            done(fx);
        }
        _ => {}
    };
    let start = |fx: &mut Effects| {
        fx.connect(Endpoint {
            tls: None,
            ..secure(at, NAME)
        });
    };
    play::<R, _>(Probe::new(start, on), trust(client));
    serving.join().unwrap();
}

/// What becomes of a secure connect.
fn loss<R: Runtime>(to: Endpoint, tls: Arc<ClientConfig>) -> Lost {
    let (tell, told) = std::sync::mpsc::channel();
    let on = move |fx: &mut Effects, input| match input {
        Input::Opened { stream, .. } => fx.grant(stream, 1 << 20),
        Input::Closed { why, stream } => {
            assert_eq!(stream, StreamId(2));
            tell.send(why).unwrap();
            done(fx);
        }
        _ => {}
    };
    let start = |fx: &mut Effects| {
        fx.connect(to);
    };
    play::<R, _>(Probe::new(start, on), trust(tls));
    told.recv().unwrap()
}

fn tls(why: &str) -> Lost {
    Lost::Tls(why.into())
}

/// The server's side of a handshake that may fail.
fn try_handshake(session: &mut Session<'_>) {
    let _ = session.conn.complete_io(session.sock);
}

pub fn who_cannot_be_trusted_is_told<R: Runtime>() {
    let (server, client) = authority("friend");
    let (_, stranger) = authority("stranger");
    let (at, serving) = serve(Arc::clone(&server), |_| (), try_handshake);
    assert_eq!(
        loss::<R>(secure(at, NAME), stranger),
        tls("its certificate was issued by nobody this machine trusts")
    );
    serving.join().unwrap();
    let (at, serving) = serve(server, |_| (), try_handshake);
    let Lost::Tls(why) = loss::<R>(secure(at, "other.example"), client) else {
        panic!("not a failure of TLS");
    };
    assert!(
        why.contains("its certificate is for") && why.contains(NAME),
        "{why}"
    );
    serving.join().unwrap();
}

pub fn who_does_not_speak_tls_is_told<R: Runtime>() {
    let (_, client) = authority("friend");
    let listener = TcpListener::bind(loopback()).unwrap();
    let at = listener.local_addr().unwrap();
    let serving = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
        let _ = socket.read_to_end(&mut Vec::new());
        // The second caller: not a word.
        drop(listener.accept().unwrap());
    });
    assert_eq!(
        loss::<R>(secure(at, NAME), Arc::clone(&client)),
        tls("the server does not speak TLS on this port")
    );
    let hung_up = loss::<R>(secure(at, NAME), client);
    assert!([Lost::Eof, Lost::Reset].contains(&hung_up), "{hung_up:?}");
    serving.join().unwrap();
}

/// Without the goodbye of TLS, nobody knows that it is complete.
pub fn a_cut_stream_does_not_pass_for_complete<R: Runtime>() {
    let (server, client) = authority("friend");
    let cut = |session: &mut Session<'_>| session.write_all(b"half of it").unwrap();
    let (at, serving) = serve(server, |_| (), cut);
    assert_eq!(loss::<R>(secure(at, NAME), client), Lost::Reset);
    serving.join().unwrap();
}

/// One test each, with this runtime.
macro_rules! secure {
    ($one:ty) => {
        secure!($one:
            a_secure_stream_is_opened_with_tls_up
            an_open_stream_becomes_secure
            who_cannot_be_trusted_is_told
            who_does_not_speak_tls_is_told
            a_cut_stream_does_not_pass_for_complete);
    };
    ($one:ty: $($name:ident)*) => {
        $(#[test] fn $name() { secure::$name::<$one>(); })*
    };
}
