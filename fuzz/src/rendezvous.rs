//! Bodies for the rendezvous: what a datagram says, and two devices and a coordinator over a network that does anything.

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use core::net::SocketAddr;
use core::time::Duration;
use dovetail_core::rendezvous::{Channel, Client, Event, Server, Way, decode};
use dovetail_core::rng::Rng;
use dovetail_core::stats::SourceClass;
use dovetail_core::time::Mono;

/// A datagram: no panic, and written again it is read as the same.
pub fn packet(data: &[u8]) {
    if let Some(message) = decode(data) {
        let written = message.encode(None);
        // What is signed lacks its code here.
        let unsigned = data.len().saturating_sub(written.len());
        assert!(unsigned == 0 || unsigned == 16, "another length");
        let mut again = written;
        again.resize(data.len(), 0);
        assert_eq!(decode(&again), Some(message), "not read as written");
    }
}

#[derive(Clone, Copy, Debug, Arbitrary)]
enum Op {
    Introduce {
        by: bool,
    },
    Deliver {
        which: u8,
    },
    Repeat {
        which: u8,
    },
    Lose {
        which: u8,
    },
    Damage {
        which: u8,
        at: u8,
        to: u8,
    },
    /// It comes from another address, as if from behind a NAT that has changed its mind.
    Move {
        which: u8,
        port: u8,
    },
    Wait {
        ms: u16,
    },
}

struct Flying {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

struct Scene {
    now: Mono,
    server: Server,
    clients: [Client; 2],
    network: Vec<Flying>,
    asked: [u32; 2],
    answered: [u32; 2],
}

const NETWORK_MAX: usize = 200;

fn place(n: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n as u8], 7680))
}

const fn device(n: usize) -> [u8; 20] {
    [n as u8 + 1; 20]
}

/// Operations: every introduction is answered once, deadlines lie ahead, nothing panics and nothing grows.
pub fn ops(data: &[u8]) {
    let mut rng = Rng::from_u64(1);
    let relays = data.len() % 2 == 1;
    let server = Server::new(rng.fork(), relays.then_some(10_000));
    let now = Mono::from_us(1_000_000);
    let clients = [0, 1].map(|n| {
        let mut client = Client::new(device(n), rng.fork());
        client.set_own(now, vec![place(n)]);
        let way = Way {
            to: place(8),
            other: Some(place(9)),
            key: server.key(device(n)),
        };
        client.set_way(now, Some(way));
        client
    });
    let mut scene = Scene {
        now,
        server,
        clients,
        network: Vec::new(),
        asked: [0; 2],
        answered: [0; 2],
    };
    let mut u = Unstructured::new(data);
    scene.settle();
    while let Ok(op) = Op::arbitrary(&mut u) {
        scene.apply(op);
        scene.settle();
        if u.is_empty() {
            break;
        }
    }
    for _ in 0..20 {
        scene.apply(Op::Wait { ms: 1000 });
        scene.settle();
    }
    assert_eq!(
        scene.asked, scene.answered,
        "an introduction without its answer"
    );
}

impl Scene {
    fn apply(&mut self, op: Op) {
        let len = self.network.len().max(1);
        let at = |which: u8| usize::from(which) % len;
        match op {
            Op::Introduce { by } => {
                let by = usize::from(by);
                // Another one under way is the same to it.
                if self.asked[by] == self.answered[by] {
                    self.asked[by] += 1;
                    self.clients[by].introduce(self.now, device(1 - by), [7; 20]);
                }
            }
            Op::Deliver { which } => {
                if at(which) < self.network.len() {
                    let flying = self.network.remove(at(which));
                    self.deliver(&flying);
                }
            }
            Op::Repeat { which } => {
                if at(which) < self.network.len() {
                    let flying = self.network.swap_remove(at(which));
                    self.deliver(&flying);
                    self.network.push(flying);
                }
            }
            Op::Lose { which } => {
                if at(which) < self.network.len() {
                    self.network.swap_remove(at(which));
                }
            }
            Op::Damage {
                which,
                at: byte,
                to,
            } => {
                if let Some(flying) = self.network.get_mut(at(which)) {
                    let byte = usize::from(byte) % flying.bytes.len();
                    flying.bytes[byte] = to;
                }
            }
            Op::Move { which, port } => {
                if let Some(flying) = self.network.get_mut(at(which)) {
                    flying.from.set_port(40_000 + u16::from(port));
                }
            }
            Op::Wait { ms } => {
                self.now = self.now + Duration::from_millis(ms.into());
                for client in &mut self.clients {
                    client.on_tick(self.now);
                }
            }
        }
    }

    fn deliver(&mut self, flying: &Flying) {
        let Flying { from, to, bytes } = flying;
        for n in 0..2 {
            if place(n).ip() == to.ip() {
                let relayed = Channel::unwrap(bytes).filter(|_| *from == place(8));
                let (from, at) = relayed.map_or((*from, 0), |(channel, at)| (channel.place(), at));
                self.clients[n].on_datagram(self.now, from, &bytes[at..]);
            }
        }
        for (socket, port) in [place(8), place(9)].into_iter().enumerate() {
            if port == *to {
                let may = |_, _, _| Some(SourceClass::Group);
                let bytes = Bytes::copy_from_slice(bytes);
                self.server
                    .on_datagram(self.now, socket, *from, &bytes, may);
                let said = self.hear_server();
                assert!(said <= 2 * bytes.len(), "it makes more of it");
            }
        }
        self.server.check();
    }

    /// How many bytes the server sends now.
    fn hear_server(&mut self) -> usize {
        let mut said = 0;
        while let Some((socket, to, answer)) = self.server.poll_datagram(self.now) {
            said += answer.len();
            self.put(place(8 + socket), to, answer.into());
        }
        let deadline = self.server.deadline();
        assert!(deadline.is_none_or(|d| d.at > self.now), "{deadline:?}");
        said
    }

    fn put(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        if self.network.len() < NETWORK_MAX {
            self.network.push(Flying { from, to, bytes });
        }
    }

    fn settle(&mut self) {
        self.hear_server();
        for n in 0..2 {
            while let Some(event) = self.clients[n].poll_event() {
                if let Event::Reached { .. } | Event::Unreachable { .. } = event {
                    self.answered[n] += 1;
                    assert!(self.answered[n] <= self.asked[n], "answered unasked");
                }
            }
            while let Some((mut to, mut bytes)) = self.clients[n].poll_datagram() {
                if let Some(channel) = Channel::at(to.ip()) {
                    channel.wrap(&mut bytes);
                    to = place(8);
                }
                self.put(place(n), to, bytes);
            }
            let deadline = self.clients[n].deadline();
            assert!(deadline.is_none_or(|d| d.at > self.now), "{deadline:?}");
            self.clients[n].check();
        }
    }
}
