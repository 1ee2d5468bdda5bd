//! Agents' side and coordinator together, in virtual time: who finds whom and when, what a coordinator's
//! absence costs, how a file becomes known.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on must stop"
)]

use bytes::Bytes;
use core::time::Duration;
use dovetail_core::announce::messages::{ContentRecord, Health, Scope};
use dovetail_core::announce::{
    Announcer, AnnouncerConfig, AnnouncerEvent, Key, Lookup, SwarmState,
};
use dovetail_core::command::{Command, Reply};
use dovetail_core::content::{Digest, InfoHash, Metainfo};
use dovetail_core::coordinator::{Coordinator, CoordinatorConfig};
use dovetail_core::http::{Answer, AnswerBody, IncomingRequest, Proxies, ServerConnection, Url};
use dovetail_core::ids::StreamId;
use dovetail_core::machine::{Effects, Endpoint, Host, Input, Listener, Machine, Output};
use dovetail_core::origin::{Origin, OriginConfig};
use dovetail_core::rng::Rng;
use dovetail_core::settings::{GroupPolicy, Provider, Source};
use dovetail_core::sim::toys::Reader;
use dovetail_core::sim::{HostId, HostSpec, Kill, LinkSpec, World, seeds};
use dovetail_core::stats::SourceClass;
use dovetail_core::time::{Deadline, Mono, Now};
use http::StatusCode;
use std::collections::BTreeMap;

const SECOND: Duration = Duration::from_secs(1);
const SWARM: InfoHash = InfoHash([0xab; 32]);
const LEECH: SwarmState = SwarmState {
    have_pieces: 0,
    left_bytes: 1000,
};
const SEED: SwarmState = SwarmState {
    have_pieces: 10,
    left_bytes: 0,
};

type Todo = Box<dyn FnOnce(&mut Announcer, Now)>;

/// A role that does nothing but announce.
struct Device {
    fx: Effects,
    announcer: Announcer,
    todo: Vec<Todo>,
    events: Vec<(Mono, AnnouncerEvent)>,
    connects: u32,
}

impl Device {
    fn new(n: u8, coordinator: &str, seed: [u8; 32]) -> Self {
        let config = AnnouncerConfig {
            coordinator: Url::parse(coordinator).unwrap(),
            proxies: Proxies::none(),
            peer_id: [n; 20],
            scope: Scope::Lan,
            group: None,
        };
        let mut device = Self {
            fx: Effects::default(),
            announcer: Announcer::new(config, Rng::new(seed)),
            todo: Vec::new(),
            events: Vec::new(),
            connects: 0,
        };
        device.then(|announcer, now| announcer.set_port(now, 7680));
        device
    }

    fn then(&mut self, act: impl FnOnce(&mut Announcer, Now) + 'static) {
        self.todo.push(Box::new(act));
    }

    fn joins(mut self, state: SwarmState) -> Self {
        self.then(move |announcer, now| announcer.join(now, SWARM, state));
        self
    }

    /// Everybody it was told about.
    fn peers(&self) -> BTreeMap<[u8; 20], (SourceClass, bool)> {
        let told = self.events.iter().filter_map(|(_, event)| match event {
            AnnouncerEvent::Peers { peers, .. } => Some(peers),
            _ => None,
        });
        told.flatten()
            .map(|peer| (peer.peer_id, (peer.class, peer.seed)))
            .collect()
    }

    fn lookups(&self) -> Vec<(Mono, &Lookup)> {
        let answers = self.events.iter().filter_map(|(at, event)| match event {
            AnnouncerEvent::Record { answer, .. } => Some((*at, answer)),
            _ => None,
        });
        answers.collect()
    }

    fn found(&self) -> Option<&ContentRecord> {
        match self.lookups().last() {
            Some((_, Lookup::Found(record))) => Some(record),
            _ => None,
        }
    }

    fn count(&self, wanted: impl Fn(&AnnouncerEvent) -> bool) -> usize {
        self.events
            .iter()
            .filter(|(_, event)| wanted(event))
            .count()
    }
}

impl Machine for Device {
    fn handle(&mut self, now: Now, input: Input) {
        for act in core::mem::take(&mut self.todo) {
            act(&mut self.announcer, now);
        }
        let mut events = Vec::new();
        if let Input::Closed { stream, .. } = &input {
            self.fx.stream_owner(*stream, true);
        }
        self.announcer
            .on_stream(now, &input, &mut self.fx, &mut events);
        self.announcer.on_tick(now, &mut self.fx, &mut events);
        let at = now.mono;
        self.events
            .extend(events.into_iter().map(|event| (at, event)));
    }

    fn poll(&mut self) -> Option<Output> {
        let output = self.fx.poll()?;
        self.connects += u32::from(matches!(output, Output::Connect { .. }));
        Some(output)
    }

    fn deadline(&self) -> Option<Deadline> {
        if self.todo.is_empty() {
            self.announcer.deadline()
        } else {
            Some(Deadline::new(Mono::ZERO, "to do"))
        }
    }
}

/// What a web server of ours does wrong.
#[derive(Clone, Debug)]
enum Fault {
    None,
    Status(u16),
    Busy,
    NoLength,
    Truncated,
    Stalls,
    RedirectTo(&'static str),
}

/// A web server with one file at every path.
struct Web {
    fx: Effects,
    content: Bytes,
    fault: Fault,
    /// Sends an entity tag, and honours it.
    validators: bool,
    connections: BTreeMap<StreamId, ServerConnection>,
    asked: Vec<(Mono, String)>,
}

impl Web {
    fn new(content: Bytes, fault: Fault) -> Self {
        Self {
            fx: Effects::default(),
            content,
            fault,
            validators: false,
            connections: BTreeMap::new(),
            asked: Vec::new(),
        }
    }

    fn answer(&self, request: &IncomingRequest) -> Answer {
        let etag = format!("\"{}\"", Digest::of(&self.content));
        let has = request.header(http::header::IF_NONE_MATCH);
        if self.validators && has == Some(&etag) {
            return Answer::empty(StatusCode::NOT_MODIFIED);
        }
        let answer = self.answer_in_full();
        if self.validators {
            return answer.with(http::header::ETAG, &etag);
        }
        answer
    }

    fn answer_in_full(&self) -> Answer {
        let length = self.content.len() as u64;
        let full = AnswerBody::Full(self.content.clone());
        match self.fault {
            Fault::None => Answer::new(StatusCode::OK, full),
            Fault::Status(status) => Answer::text(StatusCode::from_u16(status).unwrap(), "as told"),
            Fault::Busy => Answer::text(StatusCode::SERVICE_UNAVAILABLE, "busy")
                .with(http::header::RETRY_AFTER, "40"),
            Fault::NoLength => Answer::new(StatusCode::OK, AnswerBody::Unknown),
            Fault::Truncated | Fault::Stalls => {
                Answer::new(StatusCode::OK, AnswerBody::Length(length))
            }
            Fault::RedirectTo(to) => {
                Answer::text(StatusCode::FOUND, "there").with(http::header::LOCATION, to)
            }
        }
    }
}

impl Machine for Web {
    fn handle(&mut self, now: Now, input: Input) {
        let stream = match &input {
            Input::Accepted { stream, .. } => {
                let connection = ServerConnection::new(now, *stream, 1 << 20, &mut self.fx);
                self.connections.insert(*stream, connection);
                return;
            }
            Input::Received { stream, .. }
            | Input::Sent { stream, .. }
            | Input::Closed { stream, .. } => *stream,
            _ => return,
        };
        let Some(mut connection) = self.connections.remove(&stream) else {
            return;
        };
        match input {
            Input::Received { bytes, .. } => connection.on_bytes(now, &bytes),
            Input::Sent { len, .. } => connection.on_sent(now, len),
            _ => connection.on_closed(),
        }
        while let Some(request) = connection.poll(now, &mut self.fx) {
            self.asked.push((now.mono, request.uri.to_string()));
            let answer = self.answer(&request);
            if connection.respond(now, &answer, &mut self.fx) {
                let half = self.content.slice(..self.content.len() / 2);
                connection.send_body(now, half, &mut self.fx);
                match self.fault {
                    Fault::NoLength => connection.finish(now, &mut self.fx),
                    Fault::Truncated => {
                        connection.close(now, &mut self.fx);
                    }
                    _ => {}
                }
            }
        }
        self.connections.insert(stream, connection);
    }

    fn poll(&mut self) -> Option<Output> {
        self.fx.poll()
    }

    fn deadline(&self) -> Option<Deadline> {
        None
    }
}

const COORDINATOR: &str = "http://10.0.9.1:7681";

fn coordinator(world: &mut World, config: CoordinatorConfig) -> HostId {
    let machine = Coordinator::new(config, world.seed_for("coordinator"));
    let spec = HostSpec::at("10.0.9.1").listen(Listener::Http, 7681);
    world.host("coordinator", machine, spec)
}

fn allowing(hosts: &[&str]) -> CoordinatorConfig {
    CoordinatorConfig {
        allow: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        ..CoordinatorConfig::default()
    }
}

fn device(world: &mut World, n: u8, act: impl FnOnce(Device) -> Device) -> HostId {
    let name = format!("device {n}");
    let device = act(Device::new(n, COORDINATOR, world.seed_for(&name)));
    world.host(&name, device, HostSpec::at(&format!("10.0.0.{n}")))
}

fn asks(world: &mut World, n: u8, key: Key) -> HostId {
    device(world, n, |mut device| {
        device.then(move |announcer, now| announcer.lookup(now, 7, &key));
        device
    })
}

fn run(world: &mut World, done: impl FnMut(&World) -> bool, limit: Duration) {
    world
        .run_until(done, limit)
        .unwrap_or_else(|stuck| panic!("{stuck}"));
}

fn is(world: &World, host: HostId) -> &Device {
    world.machine::<Device>(host)
}

/// GET this from the coordinator, as a fresh client on a fresh host.
fn get(world: &mut World, path: &str) -> String {
    let n = world.steps();
    let name = format!("client {n}");
    let say = format!("GET {path} HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n");
    let to = Endpoint {
        host: Host::Addr("10.0.9.1".parse().unwrap()),
        port: 7681,
        tls: None,
    };
    let reader = Reader::new(to, say.into(), 1 << 20, Duration::ZERO);
    let at = format!("10.0.{}.{}", 100 + n / 250 % 100, n % 250 + 1);
    let client = world.host(&name, reader, HostSpec::at(&at));
    let done = |world: &World| world.machine::<Reader>(client).is_done();
    run(world, done, SECOND * 5);
    let bytes = world.machine::<Reader>(client).bytes();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (_, body) = text.split_once("\r\n\r\n").expect("a whole answer");
    body.to_string()
}

fn health(world: &mut World) -> Health {
    serde_json::from_str(&get(world, "/health")).unwrap()
}

#[test]
fn devices_find_each_other_within_seconds_and_never_themselves() {
    for seed in seeds(1..=5) {
        let mut world = World::new(seed);
        coordinator(&mut world, CoordinatorConfig::default());
        let hosts: Vec<HostId> = (1..=8)
            .map(|n| {
                let state = if n == 1 { SEED } else { LEECH };
                let host = device(&mut world, n, |device| device.joins(state));
                world.run_for(SECOND / 4);
                host
            })
            .collect();
        // Early ones come again by themselves until they know enough.
        let acquainted = |world: &World| {
            let known = |host: &HostId| is(world, *host).peers().len();
            hosts.iter().skip(1).all(|host| known(host) >= 4)
        };
        run(&mut world, acquainted, SECOND * 5);
        for (n, host) in (1..=8).zip(&hosts) {
            let peers = is(&world, *host).peers();
            assert!(!peers.contains_key(&[n; 20]), "itself");
            for (id, (class, seed)) in &peers {
                assert_eq!((*class, *seed), (SourceClass::Lan, *id == [1; 20]));
            }
            assert!(n != 1 || !peers.contains_key(&[1; 20]));
            assert_eq!(is(&world, *host).connects, 1, "one kept-alive stream");
        }
    }
}

#[test]
fn completion_is_told_soon_and_leaving_too() {
    let mut world = World::new(1);
    coordinator(&mut world, CoordinatorConfig::default());
    let one = device(&mut world, 1, |device| device.joins(LEECH));
    world.run_for(SECOND * 20);
    let done = |announcer: &mut Announcer, now: Now| announcer.update(now, SWARM, SEED);
    world.with(one, |device: &mut Device| device.then(done));
    world.run_for(SECOND * 3 / 2);
    let text = get(&mut world, "/v1/swarms");
    assert!(text.contains(r#""seeds":1,"downloaders":0"#), "{text}");
    let leave = |announcer: &mut Announcer, now: Now| announcer.leave(now, SWARM);
    world.with(one, |device: &mut Device| device.then(leave));
    world.run_for(SECOND * 3 / 2);
    assert_eq!(health(&mut world).devices, 0);
}

#[test]
fn who_goes_dark_is_forgotten() {
    let mut world = World::new(1);
    coordinator(&mut world, CoordinatorConfig::default());
    let one = device(&mut world, 1, |device| device.joins(SEED));
    world.run_for(SECOND * 100);
    assert_eq!(health(&mut world).devices, 1, "announced again and again");
    world.kill(one, Kill::Power);
    world.run_for(SECOND * 44);
    assert_eq!(health(&mut world).devices, 1);
    world.run_for(SECOND * 32);
    assert_eq!(health(&mut world).devices, 0);
}

#[test]
fn a_restarted_coordinator_knows_everybody_within_an_interval() {
    for seed in seeds(1..=5) {
        let mut world = World::new(seed);
        let host = coordinator(&mut world, CoordinatorConfig::default());
        let devices: Vec<HostId> = (1..=20)
            .map(|n| device(&mut world, n, |device| device.joins(SEED)))
            .collect();
        world.run_for(SECOND * 10);
        assert_eq!(health(&mut world).devices, 20);
        world.kill(host, Kill::Process);
        world.run_for(SECOND * 10);
        let config = CoordinatorConfig::default();
        world.restart(host, Coordinator::new(config, [9; 32]));
        assert_eq!(health(&mut world).devices, 0, "presence is soft state");
        world.run_for(SECOND * 31);
        assert_eq!(health(&mut world).devices, 20);
        for device in devices {
            let device = is(&world, device);
            let lost = device.count(|event| matches!(event, AnnouncerEvent::Lost { .. }));
            let back = device.count(|event| matches!(event, AnnouncerEvent::Back));
            assert!(lost <= 1 && lost == back, "{lost} {back}");
        }
    }
}

#[test]
fn without_a_coordinator_an_agent_asks_ever_more_rarely_and_says_so_once() {
    let mut world = World::new(3);
    // A host that refuses connections.
    world.host(
        "coordinator",
        Web::new(Bytes::new(), Fault::None),
        HostSpec::at("10.0.9.1"),
    );
    let one = asks(&mut world, 1, Key::Url("http://h/a".into()));
    world.with(one, |device: &mut Device| {
        device.then(|announcer, now| announcer.join(now, SWARM, LEECH));
    });
    world.run_for(SECOND);
    let answers = is(&world, one).lookups();
    let [(at, Lookup::Failed(why))] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert!(
        *at <= Mono::from_us(100_000) && why.contains("refused"),
        "{why}"
    );
    world.run_for(SECOND * 600);
    let device = is(&world, one);
    assert!((12..=24).contains(&device.connects), "{}", device.connects);
    let lost = device.count(|event| matches!(event, AnnouncerEvent::Lost { .. }));
    assert_eq!((lost, device.events.len()), (1, 2), "{:?}", device.events);
    assert!(device.announcer.is_lost());
}

#[test]
fn a_busy_coordinator_is_left_alone_as_long_as_it_asks() {
    let mut world = World::new(4);
    let web = Web::new(Bytes::new(), Fault::Busy);
    let spec = HostSpec::at("10.0.9.1").listen(Listener::Http, 7681);
    let host = world.host("coordinator", web, spec);
    let one = asks(&mut world, 1, Key::Sha256(Digest([1; 32])));
    world.with(one, |device: &mut Device| {
        device.then(|announcer, now| announcer.join(now, SWARM, LEECH));
    });
    world.run_for(SECOND * 130);
    let asked = &world.machine::<Web>(host).asked;
    for path in ["/v1/announce", "/v1/content"] {
        let times = asked.iter().filter(|(_, uri)| uri.contains(path));
        let times: Vec<u64> = times.map(|(at, _)| at.as_us() / 1_000_000).collect();
        assert_eq!(times.len(), 4, "{path} {times:?}");
        assert!(times.windows(2).all(|t| t[1] - t[0] >= 40), "{times:?}");
    }
}

#[test]
fn goodbye_is_said_and_does_not_take_long() {
    let mut world = World::new(5);
    let host = coordinator(&mut world, CoordinatorConfig::default());
    let devices: Vec<HostId> = (1..=3)
        .map(|n| device(&mut world, n, |device| device.joins(SEED)))
        .collect();
    world.run_for(SECOND * 2);
    let stop = |announcer: &mut Announcer, now: Now| announcer.shutdown(now);
    let stopped =
        |world: &World, host| is(world, host).count(|event| *event == AnnouncerEvent::Stopped);
    world.with(devices[0], |device: &mut Device| device.then(stop));
    world.run_for(SECOND / 10);
    assert_eq!(stopped(&world, devices[0]), 1);
    assert_eq!(world.outstanding(devices[0]), (0, 0), "nothing stays open");
    assert_eq!(health(&mut world).devices, 2);
    world.partition(devices[1], host);
    world.with(devices[1], |device: &mut Device| device.then(stop));
    world.run_for(SECOND * 21 / 10);
    assert_eq!(stopped(&world, devices[1]), 1);
    assert_eq!(world.outstanding(devices[1]), (0, 0));
    world.run_for(SECOND * 100);
    assert_eq!(stopped(&world, devices[0]) + stopped(&world, devices[1]), 2);
    let call = world.command(host, Command::Shutdown);
    let done = |world: &World| world.reply(call).is_some();
    run(&mut world, done, SECOND * 3);
    assert!(matches!(world.reply(call), Some(Reply::Stopped)));
    assert_eq!(world.outstanding(host), (0, 0));
}

/// An origin that serves `files/NAME` and the URL of that.
fn origin(world: &mut World, name: &str, content: &Bytes, links: LinkSpec) -> (HostId, String) {
    let config = OriginConfig {
        dir: "/files".into(),
        limit_bytes_per_s: 0,
    };
    let spec = HostSpec::at("10.0.8.1")
        .listen(Listener::Http, 80)
        .links(links, links);
    let host = world.host("origin", Origin::new(config, [0; 32]), spec);
    world.name("files.example.org", host);
    world
        .disk(host)
        .put(&format!("/files/{name}"), content.clone());
    (host, format!("http://files.example.org/{name}"))
}

#[test]
fn a_file_of_an_allowed_origin_is_hashed_once_for_all_who_ask() {
    for (seed, len) in [(1, 5 << 20), (2, (5 << 20) + 12_345), (3, 100), (4, 0)] {
        let mut world = World::new(seed);
        coordinator(&mut world, allowing(&["*.example.org"]));
        let content = world.content("file", len);
        let slow = LinkSpec::rate(2_000_000);
        let (origin, url) = origin(&mut world, "a.bin", &content, slow);
        let hosts: Vec<HostId> = (1..=10)
            .map(|n| asks(&mut world, n, Key::Url(url.clone())))
            .collect();
        let all = |world: &World| hosts.iter().all(|host| is(world, *host).found().is_some());
        run(&mut world, all, SECOND * 12);
        for host in &hosts {
            let device = is(&world, *host);
            assert!(matches!(device.lookups()[0].1, Lookup::Pending(_)));
            let record = device.found().unwrap();
            assert_eq!((record.length, &record.name[..]), (len as u64, "a.bin"));
            assert_eq!(record.sha256, Some(Digest::of(&content)));
            assert_eq!(record.urls, std::slice::from_ref(&url));
            let metainfo = Metainfo::parse(&record.metainfo).unwrap();
            assert_eq!(metainfo.info_hash, record.info_hash);
            assert_eq!(metainfo.id.root, record.root);
            let layer = metainfo.layer.unwrap();
            assert_eq!(layer.root(), record.root);
        }
        let sent = world.traffic(origin).0.bytes;
        let once = len as u64 * 105 / 100 + 4096;
        assert!(sent < once, "{sent} bytes left the origin, once is {len}");
        let record = is(&world, hosts[0]).found().unwrap().clone();
        for (n, key) in [
            (20, Key::Sha256(Digest::of(&content))),
            (21, Key::Root(record.root)),
            (22, Key::InfoHash(record.info_hash)),
        ] {
            let host = asks(&mut world, n, key);
            run(&mut world, |w| is(w, host).found().is_some(), SECOND);
            assert_eq!(is(&world, host).found().unwrap(), &record);
        }
    }
}

#[test]
fn a_file_that_changes_at_its_address_is_hashed_again() {
    for validators in [true, false] {
        let mut world = World::new(8);
        coordinator(&mut world, allowing(&["files.example.org"]));
        let (old, new) = (world.content("old", 300_000), world.content("new", 400_000));
        let mut web = Web::new(old.clone(), Fault::None);
        web.validators = validators;
        let spec = HostSpec::at("10.0.8.1").listen(Listener::Http, 80);
        let host = world.host("origin", web, spec);
        world.name("files.example.org", host);
        let key = Key::Url("http://files.example.org/x".into());
        let mut n = 0;
        let mut ask = |world: &mut World| {
            n += 1;
            let asker = asks(world, n, key.clone());
            run(world, |w| is(w, asker).found().is_some(), SECOND * 5);
            world.run_for(SECOND);
            is(world, asker).found().unwrap().sha256.unwrap()
        };
        let (old, new_digest) = (Digest::of(&old), Digest::of(&new));
        assert_eq!(ask(&mut world), old);
        assert_eq!(ask(&mut world), old);
        world.run_for(SECOND * 60);
        assert_eq!(ask(&mut world), old, "looked after, and unchanged");
        assert_eq!(world.machine::<Web>(host).asked.len(), 2);
        let sent = world.traffic(host).0.bytes;
        assert!(!validators || sent < 310_000, "{sent}");
        world.with(host, |web: &mut Web| web.content = new);
        assert_eq!(ask(&mut world), old, "not looked after yet");
        world.run_for(SECOND * 60);
        ask(&mut world);
        assert_eq!(ask(&mut world), new_digest);
        assert_eq!(world.machine::<Web>(host).asked.len(), 3);
    }
}

#[test]
fn only_allowed_hosts_are_fetched_also_behind_redirects() {
    let mut world = World::new(6);
    coordinator(&mut world, allowing(&["files.example.org"]));
    let content = world.content("file", 1000);
    let inner = HostSpec::at("10.0.8.2").listen(Listener::Http, 80);
    let inner = world.host("inner", Web::new(content.clone(), Fault::None), inner);
    let fault = Fault::RedirectTo("http://10.0.8.2/secret");
    let outer = HostSpec::at("10.0.8.1").listen(Listener::Http, 80);
    let outer = world.host("outer", Web::new(content, fault), outer);
    world.name("files.example.org", outer);
    for (n, url) in [
        (1, "http://10.0.8.2/secret"),
        (2, "http://files.example.org:22/x"),
        (3, "http://files.example.org/x"),
    ] {
        let host = asks(&mut world, n, Key::Url(url.into()));
        let told = |w: &World| matches!(is(w, host).lookups().last(), Some((_, Lookup::Unknown)));
        run(&mut world, told, SECOND * 5);
    }
    assert_eq!(world.machine::<Web>(inner).asked.len(), 0);
    assert_eq!(world.machine::<Web>(outer).asked.len(), 1);
    // The same place by a redirect that stays on the list.
    world.with(outer, |web: &mut Web| {
        web.fault = Fault::RedirectTo("/again")
    });
    let host = asks(
        &mut world,
        4,
        Key::Url("http://files.example.org/loop".into()),
    );
    let told = |w: &World| matches!(is(w, host).lookups().last(), Some((_, Lookup::Unknown)));
    run(&mut world, told, SECOND * 5);
    assert_eq!(
        world.machine::<Web>(outer).asked.len(),
        12,
        "ten redirects, no more"
    );
}

#[test]
fn what_an_origin_does_wrong_is_remembered_for_a_minute() {
    let faults = [
        Fault::Status(404),
        Fault::Status(500),
        Fault::NoLength,
        Fault::Truncated,
        Fault::Stalls,
    ];
    for fault in faults {
        let mut world = World::new(7);
        coordinator(&mut world, allowing(&["files.example.org"]));
        let content = world.content("file", 3 << 20);
        let spec = HostSpec::at("10.0.8.1").listen(Listener::Http, 80);
        let web = world.host("origin", Web::new(content, fault.clone()), spec);
        world.name("files.example.org", web);
        let url = "http://files.example.org/x";
        let unknown = |host| {
            move |w: &World| matches!(is(w, host).lookups().last(), Some((_, Lookup::Unknown)))
        };
        for n in 1..=3 {
            let host = asks(&mut world, n, Key::Url(url.into()));
            run(&mut world, unknown(host), SECOND * 40);
        }
        assert_eq!(world.machine::<Web>(web).asked.len(), 1, "{fault:?}");
        world.run_for(SECOND * 61);
        world.with(web, |web: &mut Web| web.fault = Fault::None);
        let host = asks(&mut world, 9, Key::Url(url.into()));
        run(&mut world, |w| is(w, host).found().is_some(), SECOND * 5);
    }
}

#[test]
fn what_is_published_is_found_and_the_newest_counts() {
    let mut world = World::new(8);
    coordinator(&mut world, allowing(&["files.example.org"]));
    let content = world.content("file", 300_000);
    let (_, url) = origin(&mut world, "a.bin", &content, LinkSpec::LAN);
    let first = asks(&mut world, 1, Key::Url(url));
    run(&mut world, |w| is(w, first).found().is_some(), SECOND * 5);
    let record = is(&world, first).found().unwrap().clone();
    let (metainfo, sha256) = (record.metainfo.clone(), record.sha256);
    let elsewhere = "http://other/b.bin";
    let publisher = device(&mut world, 2, |mut device| {
        device.then(move |announcer, now| {
            announcer.publish(now, 1, metainfo, sha256, vec![elsewhere.into()]);
            announcer.publish(now, 2, Bytes::from_static(b"junk"), None, Vec::new());
            announcer.lookup(now, 3, &Key::Url(elsewhere.into()));
        });
        device
    });
    run(&mut world, |w| is(w, publisher).found().is_some(), SECOND);
    let device = is(&world, publisher);
    let good = AnnouncerEvent::Published {
        token: 1,
        result: Ok(()),
    };
    assert_eq!(device.count(|event| *event == good), 1);
    let bad = device.events.iter().find_map(|(_, event)| match event {
        AnnouncerEvent::Published { token: 2, result } => result.clone().err(),
        _ => None,
    });
    assert!(bad.unwrap().contains("cannot publish this"));
    assert_eq!(
        device.count(|e| matches!(e, AnnouncerEvent::Lost { .. })),
        0
    );
    let record = device.found().unwrap();
    assert_eq!(record.urls.len(), 2);
    assert_eq!(record.urls[0], elsewhere);
}

/// What a device was told of its coordinator's settings, in order.
fn policies(world: &World, host: HostId) -> Vec<BTreeMap<String, String>> {
    let events = is(world, host).events.iter();
    events
        .filter_map(|(_, event)| match event {
            AnnouncerEvent::Policy(values) => Some(values.clone()),
            _ => None,
        })
        .collect()
}

#[test]
fn a_policy_reaches_devices_by_group_and_once_for_each_change() {
    let source = |text: &str| Source {
        place: "policy.toml".into(),
        text: text.into(),
    };
    let values = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(name, text)| ((*name).into(), (*text).into()))
            .collect()
    };
    let text = "DOMaxCacheAge = 60\n[group.lab]\nupload_slots = 9\n";
    let mut world = World::new(31);
    let config = CoordinatorConfig {
        policy: GroupPolicy::read(&source(text)).unwrap(),
        ..CoordinatorConfig::default()
    };
    let host = coordinator(&mut world, config);
    let lab = device(&mut world, 1, |mut device| {
        device.then(|announcer, now| announcer.set_scope(now, Scope::Group, Some("lab".into())));
        device.joins(SEED)
    });
    let other = device(&mut world, 2, |device| device.joins(SEED));
    world.run_for(SECOND * 100);
    let for_all = values(&[("max_cache_age", "1min")]);
    let for_lab = values(&[("max_cache_age", "1min"), ("upload_slots", "9")]);
    assert_eq!(policies(&world, other), vec![for_all.clone()]);
    assert_eq!(policies(&world, lab), vec![for_lab.clone()]);

    let mut configure = |text: &str| {
        let command = Command::Configure {
            provider: Provider::GroupPolicy,
            sources: vec![source(text)],
        };
        let call = world.command(host, command);
        world.run_for(SECOND * 100);
        match world.reply(call) {
            Some(Reply::Configured(problems)) => problems.len(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(configure("upload_slots = 0\nupload_slotz = 1"), 2);
    assert_eq!(configure("DOMaxCacheAge = 60\n"), 0);
    assert_eq!(configure(""), 0);
    let none = BTreeMap::new();
    assert_eq!(policies(&world, other), [for_all.clone(), none.clone()]);
    assert_eq!(policies(&world, lab), [for_lab, for_all, none]);
}

#[test]
fn a_standard_client_is_told_of_agents() {
    let mut world = World::new(9);
    coordinator(&mut world, CoordinatorConfig::default());
    let one = device(&mut world, 1, |device| device.joins(LEECH));
    world.run_for(SECOND / 10);
    let hash = "%ab".repeat(20);
    let query = format!("info_hash={hash}&peer_id=-LT2110-abcdefghijkl&port=6881&left=0&compact=1");
    let answer = get(&mut world, &format!("/announce?{query}"));
    assert!(
        answer.contains("5:peers6:\n\0\0\u{1}\u{1e}\0"),
        "{answer:?}"
    );
    let told = |w: &World| is(w, one).peers().contains_key(b"-LT2110-abcdefghijkl");
    run(&mut world, told, SECOND * 5);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let digest = |seed| {
        let mut world = World::new(seed);
        coordinator(&mut world, CoordinatorConfig::default());
        for n in 1..=60 {
            device(&mut world, n, |device| device.joins(LEECH));
        }
        world.run_for(SECOND * 70);
        world.digest()
    };
    assert_eq!(digest(1), digest(1));
    assert_ne!(digest(1), digest(2));
}
