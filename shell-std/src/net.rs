//! Addresses, names and sockets as the operating system has them: nothing of it is about a runtime.
//!
//! Decides nothing but how the system is asked, and in which words its refusals are told.
//! Tests: at the foot of this file, `tests/e2e.rs`.

use crate::file_part::NotSent;
use crate::host::words;
use crate::{ListenOn, Options};
use dovetail_core::failure::{Failure, FailureKind};
use dovetail_core::machine::{Host, Listener, Lost};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, SocketFlags, sockopt};
use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs as _, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Connections the kernel completes while nobody accepts them.
const BACKLOG: i32 = 1024;

/// A listener that is bound.
#[derive(Debug)]
pub struct Bound {
    pub listener: Listener,
    pub socket: OwnedFd,
    pub at: SocketAddr,
    path: Option<PathBuf>,
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What the options name, bound.
#[derive(Debug, Default)]
pub struct Listening {
    pub streams: Vec<Bound>,
    /// In the order of their listeners; the peers' is beside their listener for streams.
    pub datagrams: Vec<UdpSocket>,
    /// Of the sockets for datagrams alone.
    pub datagrams_at: Vec<(Listener, SocketAddr)>,
}

/// Bind what the options name.
///
/// # Errors
///
/// The first address that cannot be listened on.
pub fn bind(options: &Options) -> Result<Listening, Failure> {
    let mut listening = Listening::default();
    for (listener, on) in &options.listen {
        match on {
            ListenOn::Unix(path) => listening.streams.push(bind_unix(*listener, path)?),
            ListenOn::Tcp(at) if *listener == Listener::Peers => {
                let bound = bind_both(*at);
                let (tcp, udp) = bound.map_err(|error| cannot_listen(*at, "--listen", &error))?;
                listening.streams.push(tcp);
                listening.datagrams.push(udp);
            }
            ListenOn::Tcp(at) => {
                let bound = bind_tcp(*listener, *at);
                let tcp = bound.map_err(|error| cannot_listen(*at, "--listen", &error))?;
                listening.streams.push(tcp);
            }
            ListenOn::Udp(at) => {
                let bound = UdpSocket::bind(at).and_then(|udp| Ok((udp.local_addr()?, udp)));
                let (bound_at, udp) =
                    bound.map_err(|error| cannot_listen(*at, "--rendezvous", &error))?;
                listening.datagrams_at.push((*listener, bound_at));
                listening.datagrams.push(udp);
            }
        }
    }
    Ok(listening)
}

fn bind_tcp(listener: Listener, at: SocketAddr) -> io::Result<Bound> {
    let socket = TcpListener::bind(at)?;
    let at = socket.local_addr()?;
    let socket = OwnedFd::from(socket);
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(Bound {
        listener,
        socket,
        at,
        path: None,
    })
}

/// TCP and UDP at one port. If the system chooses it, the other protocol may have it taken: ask again.
fn bind_both(at: SocketAddr) -> io::Result<(Bound, UdpSocket)> {
    let mut tries = 0;
    loop {
        let tcp = bind_tcp(Listener::Peers, at)?;
        match UdpSocket::bind(SocketAddr::new(at.ip(), tcp.at.port())) {
            Ok(udp) => return Ok((tcp, udp)),
            Err(_) if at.port() == 0 && tries < 16 => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

fn bind_unix(listener: Listener, path: &Path) -> Result<Bound, Failure> {
    let cannot = |why: String| {
        let what = format!("cannot listen on {}", path.display());
        Failure::new(FailureKind::Listen, what, why)
    };
    if UnixStream::connect(path).is_ok() {
        return Err(cannot("another agent is running for this home".into())
            .remedy("stop it, or give this one a --home of its own"));
    }
    let bind = || -> io::Result<Bound> {
        if let Some(folder) = path.parent() {
            let mut private = std::fs::DirBuilder::new();
            private.recursive(true).mode(0o700).create(folder)?;
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = OwnedFd::from(UnixListener::bind(path)?);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Bound {
            listener,
            socket,
            at: local(),
            path: Some(path.to_owned()),
        })
    };
    bind().map_err(|error| cannot(words(&error)).remedy("choose another folder with --home"))
}

/// How callers on a unix socket appear: the boundary knows only IP addresses.
fn local() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

fn cannot_listen(at: SocketAddr, option: &str, error: &io::Error) -> Failure {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "stop the program that has it, or choose another with",
        io::ErrorKind::AddrNotAvailable => {
            "choose an address of this machine, or 0.0.0.0 for all of them, with"
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 need privileges; choose another with",
        _ => "choose another with",
    };
    let remedy = format!("{remedy} {option}");
    let what = format!("cannot listen on {at}");
    Failure::new(FailureKind::Listen, what, words(error)).remedy(remedy)
}

/// Accept one connection, and say who it is from.
///
/// # Errors
///
/// The operating system's.
pub fn accept_one(socket: &OwnedFd) -> Result<(OwnedFd, SocketAddr), Errno> {
    let (socket, from) = rustix::net::acceptfrom_with(socket, SocketFlags::CLOEXEC)?;
    let from = from.and_then(|from| SocketAddr::try_from(from).ok());
    if from.is_some() {
        let _ = sockopt::set_tcp_nodelay(&socket, true);
    }
    Ok((socket, from.map_or_else(local, canonical)))
}

/// An IPv4 address that came through an IPv6 socket, as what it is.
pub fn canonical(from: SocketAddr) -> SocketAddr {
    SocketAddr::new(from.ip().to_canonical(), from.port())
}

/// What one of `left` addresses may take of the time until then.
pub fn share(until: Instant, left: usize) -> Duration {
    let left = u32::try_from(left).unwrap_or(u32::MAX).max(1);
    let time = until.saturating_duration_since(Instant::now()) / left;
    time.max(Duration::from_millis(1))
}

/// All addresses of a host, families in turn. Blocks while the system's resolver does.
///
/// # Errors
///
/// The name is not known, or nobody could be asked.
pub fn addresses(host: &Host, port: u16) -> Result<Vec<SocketAddr>, Lost> {
    let name = match host {
        Host::Addr(ip) => return Ok(vec![SocketAddr::new(*ip, port)]),
        Host::Name(name) => name,
    };
    let found = (name.as_str(), port).to_socket_addrs().map_err(|error| {
        let text = words(&error);
        if text.contains("emporary failure") {
            Lost::Other("the name servers do not answer".into())
        } else {
            Lost::NameNotFound
        }
    })?;
    Ok(interleave(found.collect()))
}

/// The resolver's order, but families alternate: one that leads nowhere costs one turn, not all of them.
fn interleave(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let mut second = second.into_iter();
    let mut ordered = Vec::new();
    for address in first {
        ordered.push(address);
        ordered.extend(second.next());
    }
    ordered.extend(second);
    ordered
}

/// The operating system's error as the machine's word for it.
pub fn lost(error: &io::Error) -> Lost {
    if error.kind() == io::ErrorKind::TimedOut {
        return Lost::TimedOut;
    }
    match Errno::from_io_error(error) {
        Some(Errno::CONNREFUSED) => Lost::Refused,
        Some(Errno::CONNRESET | Errno::PIPE | Errno::CONNABORTED) => Lost::Reset,
        Some(Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::NETDOWN | Errno::HOSTDOWN) => {
            Lost::Unreachable
        }
        _ => Lost::Other(words(error)),
    }
}

/// One gathering write.
///
/// # Errors
///
/// See [`NotSent`]; never `Cold`.
pub fn send_some(socket: &OwnedFd, slices: &[IoSlice<'_>], more: bool) -> Result<usize, NotSent> {
    let more = if more {
        SendFlags::MORE
    } else {
        SendFlags::empty()
    };
    send(socket, slices, SendFlags::DONTWAIT | more).map_err(|error| match error {
        Errno::AGAIN => NotSent::Full,
        error => NotSent::Lost(lost(&error.into())),
    })
}

/// Write as [`send_some`], but wait for room.
///
/// # Errors
///
/// The stream is over.
pub fn send_waiting(socket: &OwnedFd, slices: &[IoSlice<'_>]) -> Result<usize, Lost> {
    send(socket, slices, SendFlags::empty()).map_err(|error| lost(&error.into()))
}

fn send(socket: &OwnedFd, slices: &[IoSlice<'_>], flags: SendFlags) -> Result<usize, Errno> {
    let flags = flags | SendFlags::NOSIGNAL;
    rustix::io::retry_on_intr(|| {
        let nothing_else = &mut SendAncillaryBuffer::default();
        rustix::net::sendmsg(socket, slices, nothing_else, flags)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    fn v6(port: u16) -> SocketAddr {
        SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port))
    }

    #[test]
    fn families_take_turns_in_the_resolvers_order() {
        let found = vec![v6(1), v6(2), v6(3), v4(4), v4(5)];
        assert_eq!(interleave(found), [v6(1), v4(4), v6(2), v4(5), v6(3)]);
        let found = vec![v4(1), v6(2), v6(3)];
        assert_eq!(interleave(found), [v4(1), v6(2), v6(3)]);
        assert_eq!(interleave(Vec::new()), []);
    }

    #[test]
    fn errors_are_the_machines_words() {
        let said = |errno: Errno| lost(&errno.into());
        assert_eq!(said(Errno::CONNREFUSED), Lost::Refused);
        assert_eq!(said(Errno::PIPE), Lost::Reset);
        assert_eq!(said(Errno::HOSTUNREACH), Lost::Unreachable);
        assert_eq!(said(Errno::NETUNREACH), Lost::Unreachable);
        assert_eq!(said(Errno::TIMEDOUT), Lost::TimedOut);
        assert_eq!(lost(&io::ErrorKind::TimedOut.into()), Lost::TimedOut);
        let denied = Lost::Other("permission denied".into());
        assert_eq!(said(Errno::ACCESS), denied);
    }

    #[test]
    fn what_is_left_of_the_time_is_shared() {
        let until = Instant::now() + Duration::from_secs(12);
        assert!(share(until, 3) <= Duration::from_secs(4));
        assert!(share(until, 3) > Duration::from_secs(3));
        assert!(share(Instant::now(), 0) > Duration::ZERO);
    }

    #[test]
    fn an_address_through_the_other_family_is_what_it_is() {
        let mapped = "[::ffff:10.1.2.3]:80".parse().unwrap();
        assert_eq!(canonical(mapped), "10.1.2.3:80".parse().unwrap());
        assert_eq!(canonical(v6(1)), v6(1));
    }
}
