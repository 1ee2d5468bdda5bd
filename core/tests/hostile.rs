//! Peers that want no good: whatever they send, to a device that gives and to one that takes, the device
//! stays up, closes them, and the download ends right and in time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod common;

use bytes::Bytes;
use common::{FILE, MIB, URL, metainfo};
use core::time::Duration;
use dovetail_core::agent::{Agent, AgentConfig};
use dovetail_core::command::{Command, GetRequest, Reply, Report, ShareRequest};
use dovetail_core::content::{Digest, HashRequest, Metainfo, Run};
use dovetail_core::machine::{Effects, Endpoint, Host, Input, Listener, Machine, Output};
use dovetail_core::rng::Rng;
use dovetail_core::sim::origin::FaultyOrigin;
use dovetail_core::sim::{Call, HostId, HostSpec, World};
use dovetail_core::time::{Deadline, Now};
use dovetail_core::wire::{
    ClaimMessage, ExtensionHandshake, Handshake, Message, PeerExtensions, PeerId, RangeMessage,
    encode,
};
use std::collections::BTreeSet;

const LENGTH: u64 = 10 * MIB + 5;
const MINUTE: Duration = Duration::from_secs(60);

/// Says its piece on every connection, and again whenever it has left, so many times.
struct Villain {
    fx: Effects,
    hello: Bytes,
    say: Bytes,
    times: u32,
    /// Takes in what comes; else it lets it lie.
    reads: bool,
    dial: Option<Endpoint>,
    left: u32,
    met: u32,
    open: BTreeSet<dovetail_core::ids::StreamId>,
}

impl Villain {
    fn new(hello: Bytes, say: Bytes, times: u32, reads: bool) -> Self {
        Self {
            fx: Effects::default(),
            hello,
            say,
            times,
            reads,
            dial: None,
            left: 0,
            met: 0,
            open: BTreeSet::new(),
        }
    }

    fn meet(&mut self, stream: dovetail_core::ids::StreamId) {
        self.met += 1;
        self.left = self.times;
        self.open.insert(stream);
        if self.reads {
            self.fx.grant(stream, 1 << 30);
        }
        let first = [&self.hello[..], &self.say[..]].concat();
        self.fx.send(stream, first.into());
    }
}

impl Machine for Villain {
    fn handle(&mut self, _now: Now, input: Input) {
        match input {
            Input::Listening { .. } => {
                if let Some(to) = self.dial.clone() {
                    let _ = self.fx.connect(to);
                }
            }
            Input::Accepted { stream, .. } | Input::Opened { stream, .. } => self.meet(stream),
            Input::Sent { stream, .. } if self.left > 0 => {
                self.left -= 1;
                self.fx.send(stream, self.say.clone());
            }
            Input::Closed { stream, .. } => {
                self.open.remove(&stream);
            }
            _ => {}
        }
    }

    fn poll(&mut self) -> Option<Output> {
        self.fx.poll()
    }

    fn deadline(&self) -> Option<Deadline> {
        None
    }
}

fn raw(message: &Message) -> Vec<u8> {
    let frame = encode(message, &PeerExtensions::OURS).unwrap();
    [&frame.head[..], &frame.payload.concat()].concat()
}

fn hello_of(metainfo: &Metainfo) -> Bytes {
    let handshake = Handshake::new(
        metainfo.info_hash.truncated(),
        PeerId(*b"-XX0000-villainvilla"),
    );
    let extensions = ExtensionHandshake {
        extensions: PeerExtensions::OURS,
        request_queue: Some(u32::MAX),
        ..ExtensionHandshake::default()
    };
    let rest = raw(&extensions.to_message());
    [&handshake.encode()[..], &rest].concat().into()
}

/// What is said after a proper greeting, how often, and whether the answers are read.
fn scripts(metainfo: &Metainfo) -> Vec<(&'static str, Vec<u8>, u32, bool)> {
    let mut rng = Rng::from_u64(5);
    let noise: Vec<u8> = (0..4000).flat_map(|_| rng.bytes::<16>()).collect();
    let one = |m: Message| raw(&m);
    let run = Run {
        piece: 0,
        first: 0,
        count: 64,
    };
    let data = vec![Bytes::from(vec![1; 1 << 20])];
    let hashes = HashRequest {
        root: metainfo.id.root,
        base_layer: 6,
        index: 0,
        count: 4,
        proof_layers: 0,
    };
    let all = || [one(Message::HaveAll), one(Message::Unchoke)].concat();
    let ask = one(Message::Range(RangeMessage::Request(run)));
    let want = one(Message::Interested);
    let claim: Vec<u32> = (0..metainfo.geometry.pieces()).collect();
    let claims = one(Message::Claim(ClaimMessage::Claim(claim.clone())));
    let unclaims = one(Message::Claim(ClaimMessage::Unclaim(claim)));
    vec![
        ("noise", noise, 3, true),
        ("has all and gives nothing", all(), 0, true),
        ("claims all and gives nothing", claims.clone(), 0, true),
        (
            "claims and takes it back for ever",
            [claims, unclaims].concat(),
            2000,
            true,
        ),
        (
            "unasked data",
            [all(), one(Message::Range(RangeMessage::Data { run, data }))].concat(),
            3,
            true,
        ),
        ("pieces that are not", one(Message::Have(u32::MAX)), 3, true),
        (
            "a bitfield too long",
            one(Message::Bitfield(vec![255; 1000].into())),
            3,
            true,
        ),
        (
            "haves for ever",
            one(Message::Have(1)).repeat(100),
            2000,
            true,
        ),
        (
            "requests for ever",
            [want.clone(), ask.repeat(100)].concat(),
            2000,
            true,
        ),
        (
            "requests, reading nothing",
            [want, ask.repeat(100)].concat(),
            2000,
            false,
        ),
        (
            "hash requests, reading nothing",
            one(Message::HashRequest(hashes)).repeat(100),
            2000,
            false,
        ),
        (
            "chokes on and off",
            [
                one(Message::Unchoke),
                one(Message::HaveAll),
                one(Message::Choke),
            ]
            .concat(),
            2000,
            true,
        ),
        ("keep-alives for ever", vec![0; 4000], 2000, true),
        (
            "extension handshakes for ever",
            one(ExtensionHandshake::default().to_message()).repeat(50),
            2000,
            true,
        ),
        ("half a message", vec![0, 0x10, 0, 0, 7], 0, true),
        ("a message too long", vec![0xff; 10], 0, true),
        ("nothing", vec![], 0, true),
    ]
}

struct Scene {
    world: World,
    content: Bytes,
    metainfo: Metainfo,
    device: HostId,
}

impl Scene {
    fn new() -> Self {
        let mut world = World::new(1);
        let content = world.content("image.bin", LENGTH as usize);
        let metainfo = metainfo("image.bin", &content, &[URL]);
        let spec = HostSpec::at("10.0.0.1").listen(Listener::Http, 80);
        let origin = FaultyOrigin::new(content.clone()).rate(4_000_000);
        let origin = world.host("origin", origin, spec);
        world.name("origin", origin);
        let mut scene = Self {
            device: origin,
            world,
            content,
            metainfo,
        };
        scene.device = scene.agent("device", "10.0.0.2");
        scene
    }

    fn agent(&mut self, name: &str, addr: &str) -> HostId {
        let config = AgentConfig {
            share: true,
            ..AgentConfig::default()
        };
        let agent = Agent::new(config, self.world.seed_for(name)).unwrap();
        let spec = HostSpec::at(addr).listen(Listener::Peers, 7680);
        self.world.host(name, agent, spec)
    }

    fn villain(&mut self, villain: Villain) -> HostId {
        let spec = HostSpec::at("10.0.0.66").listen(Listener::Peers, 7680);
        self.world.host("villain", villain, spec)
    }

    fn get(&mut self, host: HostId, peer: &str, require_peers: bool) -> Call {
        let request = GetRequest {
            metainfo: Some(self.metainfo.encode().into()),
            output: FILE.into(),
            peers: vec![format!("{peer}:7680").parse().unwrap()],
            require_peers,
            ..GetRequest::default()
        };
        self.world.command(host, Command::Get(request))
    }

    fn good(&mut self, call: Call) -> Report {
        let answered = |w: &World| w.reply(call).is_some();
        self.world.run_until(answered, MINUTE * 5).expect("it ends");
        let Some(Reply::Got(result)) = self.world.reply(call).cloned() else {
            panic!("another reply");
        };
        let report = result.expect("a good result");
        let content = self.content.clone();
        assert!(self.world.disk(call.host).holds(FILE, &content));
        report
    }
}

fn device() -> Endpoint {
    Endpoint {
        host: Host::Addr("10.0.0.2".parse().unwrap()),
        port: 7680,
        tls: None,
    }
}

#[test]
fn a_device_that_takes_is_not_kept_from_it() {
    for (name, say, times, reads) in scripts(&Scene::new().metainfo) {
        let mut scene = Scene::new();
        let hello = hello_of(&scene.metainfo);
        let villain = scene.villain(Villain::new(hello, say.into(), times, reads));
        let call = scene.get(scene.device, "10.0.0.66", false);
        let report = scene.good(call);
        let met = scene.world.machine::<Villain>(villain).met;
        println!(
            "{name}: {:.1} s, met {met} times",
            report.elapsed_us as f64 / 1e6
        );
        assert!(met > 0, "{name}");
        assert_eq!(report.received.origin, LENGTH, "{name}");
        // Alone it takes 2.7 s.
        assert!(report.elapsed_us < 15_000_000, "{name}: {report:?}");
        assert!(report.wasted <= 2 * MIB, "{name}: {report:?}");
    }
}

#[test]
fn a_device_that_gives_goes_on_giving() {
    for (name, say, times, reads) in scripts(&Scene::new().metainfo) {
        let mut scene = Scene::new();
        let content = scene.content.clone();
        scene.world.disk(scene.device).put(FILE, content);
        let share = ShareRequest {
            metainfo: scene.metainfo.encode().into(),
            path: FILE.into(),
        };
        let shared = scene.world.command(scene.device, Command::Share(share));
        let done = |w: &World| w.reply(shared).is_some();
        scene.world.run_until(done, MINUTE).unwrap();
        let hello = hello_of(&scene.metainfo);
        let mut villain = Villain::new(hello, say.into(), times, reads);
        villain.dial = Some(device());
        scene.villain(villain);
        scene.world.run_for(Duration::from_secs(1));
        let other = scene.agent("other", "10.0.0.3");
        let call = scene.get(other, "10.0.0.2", true);
        let report = scene.good(call);
        println!("{name}: {:.1} s", report.elapsed_us as f64 / 1e6);
        assert!(report.elapsed_us < 15_000_000, "{name}: {report:?}");
    }
}

#[test]
fn strangers_are_shown_out() {
    let metainfo = Scene::new().metainfo;
    let whole = hello_of(&metainfo);
    let unknown = Handshake::new([7; 20], PeerId([1; 20])).encode();
    let greetings: [Bytes; 6] = [
        Bytes::from_static(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        Bytes::from_static(b"\x16\x03\x01\x02\x00\x01\x00"),
        vec![0; 100_000].into(),
        unknown,
        whole.slice(..40),
        Bytes::from_static(b"\x13"),
    ];
    for greeting in greetings {
        let mut scene = Scene::new();
        let mut villain = Villain::new(greeting.clone(), Bytes::new(), 0, true);
        villain.dial = Some(device());
        let villain = scene.villain(villain);
        scene.world.run_for(Duration::from_secs(12));
        assert_eq!(scene.world.machine::<Villain>(villain).met, 1);
        assert!(
            scene.world.machine::<Villain>(villain).open.is_empty(),
            "{greeting:?}"
        );
        assert_eq!(scene.world.outstanding(scene.device), (0, 0));
    }
}

#[test]
fn a_lobby_full_of_silent_strangers_empties_itself() {
    let mut scene = Scene::new();
    let content = scene.content.clone();
    scene.world.disk(scene.device).put(FILE, content);
    let share = ShareRequest {
        metainfo: scene.metainfo.encode().into(),
        path: FILE.into(),
    };
    scene.world.command(scene.device, Command::Share(share));
    for n in 0..100 {
        let mut villain = Villain::new(Bytes::from_static(b"\x13"), Bytes::new(), 0, true);
        villain.dial = Some(device());
        let spec = HostSpec::at(&format!("10.0.9.{n}")).listen(Listener::Peers, 7680);
        scene.world.host(&format!("villain{n}"), villain, spec);
    }
    scene.world.run_for(Duration::from_secs(1));
    assert!(scene.world.outstanding(scene.device).0 <= 64);
    let other = scene.agent("other", "10.0.0.3");
    let call = scene.get(other, "10.0.0.2", true);
    let report = scene.good(call);
    assert!(report.elapsed_us < 40_000_000, "{report:?}");
}

#[test]
fn a_metainfo_without_its_layer_is_completed_by_a_peer_and_not_by_a_liar() {
    // A peer that answers hash requests wrongly is no danger: only proved hashes are believed.
    let mut scene = Scene::new();
    let bare =
        Metainfo::for_root("image.bin", scene.metainfo.geometry, scene.metainfo.id.root).unwrap();
    assert_eq!(bare.info_hash, scene.metainfo.info_hash);
    let geometry = scene.metainfo.geometry;
    let request = HashRequest::for_piece(&geometry, bare.id.root, 0).unwrap();
    let lies = Message::Hashes {
        request,
        hashes: vec![Digest([3; 32]); request.answer_len()],
    };
    let hello = hello_of(&scene.metainfo);
    scene.villain(Villain::new(
        hello,
        [raw(&Message::HaveAll), raw(&lies)].concat().into(),
        0,
        true,
    ));
    let other = scene.agent("other", "10.0.0.3");
    let content = scene.content.clone();
    scene.world.disk(other).put(FILE, content);
    let share = ShareRequest {
        metainfo: scene.metainfo.encode().into(),
        path: FILE.into(),
    };
    scene.world.command(other, Command::Share(share));
    scene.world.run_for(Duration::from_secs(1));
    let request = GetRequest {
        metainfo: Some(bare.encode().into()),
        output: FILE.into(),
        peers: ["10.0.0.66:7680", "10.0.0.3:7680"]
            .map(|p| p.parse().unwrap())
            .to_vec(),
        ..GetRequest::default()
    };
    let call = scene.world.command(scene.device, Command::Get(request));
    let report = scene.good(call);
    assert_eq!(report.received.total(), LENGTH);
}
