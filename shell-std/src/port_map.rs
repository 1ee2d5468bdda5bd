//! Ports of routers: asked for by PCP, NAT-PMP or UPnP-IGD, whichever answers first, and given back.
//!
//! Decides: the order, and how long to wait for an answer. Never does: ask again later (the core does), believe a
//! device that is not the router asked. The first two protocols are the core's [`Question`]s over a socket, the third is
//! the crate `igd-next`. Costs, while in use: one thread that sleeps.
//! Tests: below, and against miniupnpd in `shell-smol/tests/interop/test_port_map.py`.

use crate::host::words;
use dovetail_core::port_map::{
    DATAGRAM_MAX, Family, MapProtocol, PORT, PortAnswer, PortMapping, PortRequest, Question, Said,
    Transport,
};
use igd_next::{
    AddAnyPortError, AddPortError, Gateway, GatewayIpVersion, PortMappingProtocol, SearchOptions,
    search_gateway,
};
use rustix::net::netdevice::name_to_index;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// After each a question is asked again; the router is one hop away (RFC 6886 §3.1 begins with the first).
const WAITS: [Duration; 3] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1000),
];

/// Devices answer a search within this (UPnP Device Architecture §1.3.2, with the `MX` that is sent).
const SEARCH: Duration = Duration::from_secs(4);

/// How long giving back may hold up the end of the process.
const FAREWELL: Duration = Duration::from_secs(3);

/// What a router's list of ports shows.
const DESCRIPTION: &str = "Dovetail";

/// Asks for ports until it is dropped.
#[derive(Debug)]
pub struct Mapper {
    /// `None`: over.
    jobs: Option<Sender<Job>>,
    /// Says that the thread has ended.
    end: Receiver<()>,
}

#[derive(Debug)]
enum Job {
    Map(PortRequest),
    Unmap(Family),
}

impl Mapper {
    /// `tell` hears what came of each request.
    ///
    /// # Errors
    ///
    /// No thread.
    pub fn start(tell: impl FnMut(Family, PortAnswer) + Send + 'static) -> io::Result<Self> {
        let (jobs, todo) = channel();
        let (ended, end) = channel();
        let thread = thread::Builder::new().name("dovetail-port-map".into());
        thread.spawn(move || {
            work(&todo, tell);
            drop(ended);
        })?;
        Ok(Self {
            jobs: Some(jobs),
            end,
        })
    }

    pub fn map(&self, request: PortRequest) {
        self.send(Job::Map(request));
    }

    pub fn unmap(&self, family: Family) {
        self.send(Job::Unmap(family));
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // Refused only once it is over.
            _ = jobs.send(job);
        }
    }
}

impl Drop for Mapper {
    /// Does what was still to be done, within a limit.
    fn drop(&mut self) {
        self.jobs = None;
        _ = self.end.recv_timeout(FAREWELL);
    }
}

fn work(todo: &Receiver<Job>, mut tell: impl FnMut(Family, PortAnswer)) {
    let mut leases: BTreeMap<Family, Lease> = BTreeMap::new();
    while let Ok(job) = todo.recv() {
        match job {
            Job::Map(request) => {
                let family = Family::of(&request.gateway);
                let round = request.round;
                let result = map(request, leases.remove(&family));
                let result = result.map(|lease| {
                    let mapping = lease.mapping;
                    leases.insert(family, lease);
                    mapping
                });
                tell(family, PortAnswer { round, result });
            }
            Job::Unmap(family) => {
                if let Some(lease) = leases.remove(&family) {
                    lease.give_back();
                }
            }
        }
    }
}

/// What a router gave, and all that is needed to renew it or give it back.
struct Lease {
    request: PortRequest,
    mapping: PortMapping,
    /// Of UPnP-IGD.
    device: Option<Gateway>,
}

/// By the protocol that worked before, else by each in turn. The error says how each failed.
fn map(mut request: PortRequest, before: Option<Lease>) -> Result<Lease, String> {
    request.local.set_ip(source(&request)?);
    let mut protocols = vec![MapProtocol::Pcp];
    if request.gateway.is_ipv4() {
        protocols.extend([MapProtocol::NatPmp, MapProtocol::Igd]);
    }
    let before = before.filter(|lease| lease.request.gateway == request.gateway);
    if let Some(lease) = &before {
        protocols.sort_by_key(|protocol| *protocol != lease.mapping.protocol);
    }
    let mut device = before.and_then(|lease| lease.device);
    let mut failed = Vec::new();
    for protocol in protocols {
        let result = match protocol {
            MapProtocol::Pcp => Router::reach(&request).and_then(|router| router.pcp(&request)),
            MapProtocol::NatPmp => {
                Router::reach(&request).and_then(|router| router.nat_pmp(&request))
            }
            MapProtocol::Igd => igd(&request, &mut device),
        };
        match result {
            Ok(mapping) => {
                return Ok(Lease {
                    request,
                    mapping,
                    device,
                });
            }
            Err(why) => failed.push(format!("{protocol}: {why}")),
        }
    }
    Err(failed.join(", "))
}

impl Lease {
    /// Whether that works or not: the lease runs out.
    fn give_back(self) {
        let request = PortRequest {
            lifetime_s: 0,
            ..self.request
        };
        if let Some(device) = self.device {
            for protocol in [PortMappingProtocol::TCP, PortMappingProtocol::UDP] {
                _ = device.remove_port(protocol, self.mapping.outside.port());
            }
        } else if let Ok(router) = Router::reach(&request) {
            for transport in [Transport::Tcp, Transport::Udp] {
                _ = router.ask(&match self.mapping.protocol {
                    MapProtocol::Pcp => pcp(&request, transport, 0),
                    _ => nat_pmp(&request, transport, 0),
                });
            }
        }
    }
}

/// The address to let peers in at: for IPv6 the one this host goes out with.
fn source(request: &PortRequest) -> Result<IpAddr, String> {
    let local = request.local.ip();
    if !local.is_unspecified() {
        return Ok(local);
    }
    // Nothing is sent: the kernel chooses an address for somewhere far away.
    const FAR: Ipv6Addr = Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1);
    let socket = UdpSocket::bind((local, 0)).and_then(|socket| {
        socket.connect((FAR, PORT))?;
        socket.local_addr()
    });
    socket.map(|addr| addr.ip()).map_err(|e| words(&e))
}

/// A router that is asked by datagrams.
struct Router(UdpSocket);

impl Router {
    fn reach(request: &PortRequest) -> Result<Self, String> {
        let connect = || -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind((request.local.ip(), 0))?;
            let to = match request.gateway {
                IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                    let scope = name_to_index(&socket, &request.interface)?;
                    SocketAddrV6::new(v6, PORT, 0, scope).into()
                }
                gateway => SocketAddr::new(gateway, PORT),
            };
            socket.connect(to)?;
            Ok(socket)
        };
        connect().map(Self).map_err(|e| words(&e))
    }

    fn ask(&self, question: &Question) -> Result<Said, String> {
        let datagram = question.write();
        let mut buffer = [0; DATAGRAM_MAX + 1];
        for wait in WAITS {
            self.0.send(&datagram).map_err(|e| words(&e))?;
            let until = Instant::now() + wait;
            loop {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                self.0.set_read_timeout(Some(left)).map_err(|e| words(&e))?;
                match self.0.recv(&mut buffer) {
                    Ok(len) => {
                        if let Some(said) = question.read(&buffer[..len]) {
                            return Ok(said);
                        }
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(words(&e)),
                }
            }
        }
        Err("no answer".into())
    }

    /// TCP's port is the one that is told to others, so UDP is asked for the same.
    fn pcp(&self, request: &PortRequest) -> Result<PortMapping, String> {
        let (addr, port, lifetime_s) =
            mapped(self.ask(&pcp(request, Transport::Tcp, request.local.port()))?)?;
        let udp = mapped(self.ask(&pcp(request, Transport::Udp, port))?);
        Ok(PortMapping {
            protocol: MapProtocol::Pcp,
            outside: SocketAddr::new(addr.unwrap_or(request.local.ip()), port),
            lifetime_s: udp.map_or(lifetime_s, |(.., udp_s)| udp_s.min(lifetime_s)),
        })
    }

    fn nat_pmp(&self, request: &PortRequest) -> Result<PortMapping, String> {
        let addr = match self.ask(&Question::NatPmpAddress)? {
            Said::Address(addr) => addr,
            Said::Refused(why) => return Err(why),
            _ => return Err("not spoken there".into()),
        };
        let (_, port, lifetime_s) =
            mapped(self.ask(&nat_pmp(request, Transport::Tcp, request.local.port()))?)?;
        let udp = mapped(self.ask(&nat_pmp(request, Transport::Udp, port))?);
        Ok(PortMapping {
            protocol: MapProtocol::NatPmp,
            outside: SocketAddr::new(addr.into(), port),
            lifetime_s: udp.map_or(lifetime_s, |(.., udp_s)| udp_s.min(lifetime_s)),
        })
    }
}

fn mapped(said: Said) -> Result<(Option<IpAddr>, u16, u32), String> {
    match said {
        Said::Mapped {
            addr,
            port,
            lifetime_s,
        } => Ok((addr, port, lifetime_s)),
        Said::Refused(why) => Err(why),
        Said::OtherVersion | Said::Address(_) => Err("not spoken there".into()),
    }
}

const fn pcp(request: &PortRequest, transport: Transport, wish: u16) -> Question {
    Question::Pcp {
        local: request.local.ip(),
        nonce: request.nonce,
        transport,
        port: request.local.port(),
        wish,
        lifetime_s: request.lifetime_s,
    }
}

const fn nat_pmp(request: &PortRequest, transport: Transport, wish: u16) -> Question {
    Question::NatPmp {
        transport,
        port: request.local.port(),
        wish,
        lifetime_s: request.lifetime_s,
    }
}

/// The device is looked for once; others than the router are not spoken to.
fn igd(request: &PortRequest, device: &mut Option<Gateway>) -> Result<PortMapping, String> {
    let gateway = match device.take() {
        Some(gateway) => gateway,
        None => search(request)?,
    };
    let addr = gateway.get_external_ip().map_err(|e| e.to_string())?;
    let (port, lease_s) = add(&gateway, request)?;
    // A port without UDP is still a port.
    _ = gateway.add_port(
        PortMappingProtocol::UDP,
        port,
        request.local,
        lease_s,
        DESCRIPTION,
    );
    *device = Some(gateway);
    Ok(PortMapping {
        protocol: MapProtocol::Igd,
        outside: SocketAddr::new(addr, port),
        // One that never ends is asked for again all the same: the router may forget it.
        lifetime_s: request.lifetime_s,
    })
}

fn search(request: &PortRequest) -> Result<Gateway, String> {
    let mut options = SearchOptions::default();
    options.bind_addr = SocketAddr::new(request.local.ip(), 0);
    options.timeout = Some(SEARCH);
    options.single_search_timeout = Some(SEARCH);
    options.gateway_ip_version = GatewayIpVersion::V4;
    let gateway = search_gateway(options).map_err(|_| "no answer".to_owned())?;
    if gateway.addr.ip() == request.gateway {
        Ok(gateway)
    } else {
        Err(format!("{} answers, not the router", gateway.addr.ip()))
    }
}

/// A port for TCP, ours if it is free; and the lease that this router can give.
fn add(gateway: &Gateway, request: &PortRequest) -> Result<(u16, u32), String> {
    let (local, tcp) = (request.local, PortMappingProtocol::TCP);
    let mut lease_s = request.lifetime_s;
    let ours = |lease_s| gateway.add_port(tcp, local.port(), local, lease_s, DESCRIPTION);
    let any = |lease_s| gateway.add_any_port(tcp, local, lease_s, DESCRIPTION);
    let mut result = ours(lease_s);
    if let Err(AddPortError::OnlyPermanentLeasesSupported) = result {
        lease_s = 0;
        result = ours(lease_s);
    }
    match result {
        Ok(()) => Ok((local.port(), lease_s)),
        Err(AddPortError::PortInUse) => match any(lease_s) {
            Err(AddAnyPortError::OnlyPermanentLeasesSupported) => any(0).map(|port| (port, 0)),
            port => port.map(|port| (port, lease_s)),
        }
        .map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const NONCE: [u8; 12] = *b"dovetail-pcp";

    fn request(port: u16) -> PortRequest {
        PortRequest {
            round: 7,
            gateway: Ipv4Addr::LOCALHOST.into(),
            interface: "lo".into(),
            local: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
            lifetime_s: 60,
            nonce: NONCE,
        }
    }

    #[test]
    fn where_nothing_listens_that_is_known_at_once() {
        // Nothing answers on this host's own port 5351.
        let begun = Instant::now();
        let router = Router::reach(&request(7680)).unwrap();
        let refused = router.pcp(&request(7680)).unwrap_err();
        assert_eq!(refused, "connection refused");
        assert!(begun.elapsed() < WAITS[0]);
    }

    #[test]
    fn silence_is_waited_out_and_garbage_is_no_answer() {
        let quiet = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let asking = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        asking.connect(quiet.local_addr().unwrap()).unwrap();
        quiet
            .send_to(b"hello", asking.local_addr().unwrap())
            .unwrap();
        let begun = Instant::now();
        let router = Router(asking);
        let failed = router.ask(&Question::NatPmpAddress).unwrap_err();
        assert_eq!(failed, "no answer");
        assert!(begun.elapsed() >= WAITS.iter().sum());
        let mut asked = 0;
        quiet.set_nonblocking(true).unwrap();
        while quiet.recv(&mut [0; 100]).is_ok() {
            asked += 1;
        }
        assert_eq!(asked, WAITS.len());
    }

    #[test]
    fn each_request_has_its_answer_and_the_end_is_soon() {
        let (told, answers) = channel();
        let mapper = Mapper::start(move |family, answer| told.send((family, answer)).unwrap());
        let mapper = mapper.unwrap();
        // An address that is not ours: nothing is sent anywhere.
        let mut odd = request(7680);
        odd.local.set_ip("192.0.2.1".parse().unwrap());
        odd.gateway = "192.0.2.2".parse().unwrap();
        mapper.map(odd);
        mapper.unmap(Family::V4);
        let (family, answer) = answers.recv().unwrap();
        assert_eq!((family, answer.round), (Family::V4, 7));
        let why = answer.result.unwrap_err();
        assert!(
            why.starts_with("PCP: cannot assign requested address, NAT-PMP: "),
            "{why}"
        );
        let begun = Instant::now();
        drop(mapper);
        assert!(begun.elapsed() < FAREWELL);
    }
}
