//! Contents kept for peers: across restarts and power cuts, within quota and age, in turn when slots are few.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod common;

use bytes::Bytes;
use common::{MIB, metainfo, settings};
use core::time::Duration;
use dovetail_core::agent::{Agent, AgentConfig};
use dovetail_core::command::{Command, Event, GetRequest, Level, Reply, Report};
use dovetail_core::content::Metainfo;
use dovetail_core::coordinator::{Coordinator, CoordinatorConfig};
use dovetail_core::host::{DiskSpace, HostFacts};
use dovetail_core::limits::SLOT_TURN;
use dovetail_core::machine::Listener;
use dovetail_core::origin::{Origin, OriginConfig};
use dovetail_core::settings::{Provider, Source};
use dovetail_core::sim::{Call, DiskSpec, HostId, HostSpec, Kill, PowerCut, World};

const S: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const SHELF: &str = "/home/shelf";

/// An origin with several files, a coordinator, devices with shelves.
struct Scene {
    world: World,
    origin: HostId,
    files: Vec<(Bytes, Metainfo)>,
    values: Vec<(String, String)>,
}

impl Scene {
    fn new(files: usize, length: u64, values: &[(&str, &str)]) -> Self {
        let mut world = World::new(1);
        world.check_every = 100;
        let config = OriginConfig {
            dir: "/srv".into(),
            limit_bytes_per_s: 0,
        };
        let spec = HostSpec::at("10.0.0.1").listen(Listener::Http, 80);
        let origin = world.host("origin", Origin::new(config, [1; 32]), spec);
        let spec = HostSpec::at("10.0.0.2").listen(Listener::Http, 80);
        let coordinator = Coordinator::new(CoordinatorConfig::default(), [2; 32]);
        let coordinator = world.host("coordinator", coordinator, spec);
        world.name("origin", origin);
        world.name("coordinator", coordinator);
        let files = (0..files)
            .map(|n| {
                let name = format!("f{n}.bin");
                let content = world.content(&name, length as usize);
                world
                    .disk(origin)
                    .put(&format!("/srv/{name}"), content.clone());
                let url = format!("http://origin/{name}");
                let metainfo = metainfo(&name, &content, &[&url]);
                (content, metainfo)
            })
            .collect();
        let mut all = vec![("min_file_size_to_cache".to_owned(), "0B".to_owned())];
        let said = values.iter();
        all.extend(said.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Self {
            world,
            origin,
            files,
            values: all,
        }
    }

    fn config(&self) -> AgentConfig {
        let values: Vec<(&str, &str)> = self
            .values
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        AgentConfig {
            coordinator: Some("http://coordinator".into()),
            share: true,
            shelf_dir: Some(SHELF.into()),
            settings: settings(&values),
            ..AgentConfig::default()
        }
    }

    fn agent(&mut self, name: &str) -> Agent {
        Agent::new(self.config(), self.world.seed_for(name)).unwrap()
    }

    fn device(&mut self, n: u8, disk: DiskSpec) -> HostId {
        let name = format!("device{n}");
        let agent = self.agent(&name);
        let spec = HostSpec::at(&format!("10.0.1.{n}"))
            .listen(Listener::Peers, 7680)
            .disk(disk);
        let host = self.world.host(&name, agent, spec);
        self.tell_free(host, 1 << 38);
        host
    }

    fn tell_free(&mut self, host: HostId, free_bytes: u64) {
        let facts = HostFacts {
            disk: Some(DiskSpace {
                free_bytes,
                total_bytes: 1 << 39,
            }),
            ..HostFacts::default()
        };
        self.world.host_facts(host, facts);
    }

    fn request(&self, n: usize) -> GetRequest {
        GetRequest {
            metainfo: Some(self.files[n].1.encode().into()),
            output: format!("/data/f{n}.bin"),
            overwrite: true,
            ..GetRequest::default()
        }
    }

    fn start(&mut self, host: HostId, request: GetRequest) -> Call {
        self.world.command(host, Command::Get(request))
    }

    fn get(&mut self, host: HostId, n: usize) -> Report {
        let request = self.request(n);
        let call = self.start(host, request);
        self.good(call)
    }

    fn ask_peers(&mut self, host: HostId, n: usize) -> Call {
        let request = GetRequest {
            require_peers: true,
            ..self.request(n)
        };
        self.start(host, request)
    }

    fn good(&mut self, call: Call) -> Report {
        let done = |w: &World| w.reply(call).is_some();
        let outcome = self.world.run_until(done, MINUTE * 60);
        match self.world.reply(call) {
            Some(Reply::Got(Ok(report))) => report.clone(),
            other => {
                self.print_logs();
                panic!("{other:?} {outcome:?}");
            }
        }
    }

    fn print_logs(&self) {
        for n in 1..9 {
            if let Some(host) = self.world.find(&format!("device{n}")) {
                for event in self.world.events(host) {
                    if let Event::Log { level, text } = event
                        && *level > Level::Debug
                    {
                        println!("device{n} {level:?} {text}");
                    }
                }
            }
        }
    }

    fn says(&self, host: HostId, what: &str) -> bool {
        let mut events = self.world.events(host).iter();
        events.any(|event| matches!(event, Event::Log { text, .. } if text.contains(what)))
    }

    /// Of the one content that is kept.
    fn data_path(&mut self, host: HostId) -> String {
        let mut paths = self.world.disk(host).paths();
        let data = paths.find(|path| path.ends_with(".data"));
        data.unwrap().to_owned()
    }

    /// Names of what is kept, by its records.
    fn kept(&mut self, host: HostId) -> Vec<String> {
        let disk = self.world.disk(host);
        let paths: Vec<String> = disk
            .paths()
            .filter(|path| path.starts_with(SHELF) && path.ends_with(".json"))
            .map(str::to_owned)
            .collect();
        let mut names: Vec<String> = paths
            .iter()
            .map(|path| {
                let data = path.replace(".json", ".data");
                let whole = self.files.iter().position(|(content, metainfo)| {
                    path.contains(&format!("{:?}", metainfo.info_hash).to_lowercase())
                        || disk.holds(&data, content)
                });
                format!("f{}", whole.expect("a whole copy"))
            })
            .collect();
        names.sort();
        names
    }

    fn restart(&mut self, host: HostId, how: Kill) {
        let name = self.world.host_name(host).to_owned();
        self.world.kill(host, how);
        let agent = self.agent(&name);
        self.world.restart(host, agent);
        self.tell_free(host, 1 << 38);
    }
}

#[test]
fn what_was_downloaded_is_offered_after_a_restart_and_without_its_output() {
    let mut scene = Scene::new(1, 6 * MIB, &[]);
    let first = scene.device(1, DiskSpec::default());
    scene.get(first, 0);
    scene.world.run_for(S);
    assert_eq!(scene.kept(first), ["f0"]);
    scene.world.disk(first).remove("/data/f0.bin");
    scene.restart(first, Kill::Process);
    scene.world.kill(scene.origin, Kill::Process);
    let second = scene.device(2, DiskSpec::default());
    let call = scene.ask_peers(second, 0);
    let report = scene.good(call);
    assert_eq!(report.received.lan, 6 * MIB);
}

#[test]
fn an_output_that_is_edited_in_place_does_not_change_what_is_offered() {
    let mut scene = Scene::new(1, 6 * MIB, &[]);
    let first = scene.device(1, DiskSpec::default());
    scene.get(first, 0);
    scene.world.run_for(MINUTE * 3);
    let wrong = Bytes::from(vec![7; 6 * MIB as usize]);
    scene.world.disk(first).put("/data/f0.bin", wrong);
    let second = scene.device(2, DiskSpec::default());
    let call = scene.ask_peers(second, 0);
    assert_eq!(scene.good(call).wasted, 0);
}

#[test]
fn a_damaged_copy_is_dropped_and_no_byte_of_it_is_sent() {
    let mut scene = Scene::new(1, 6 * MIB, &[]);
    let first = scene.device(1, DiskSpec::default());
    scene.get(first, 0);
    scene.world.run_for(S);
    let data = scene.data_path(first);
    let mut wrong = scene.files[0].0.to_vec();
    wrong[3_000_000] ^= 1;
    scene.world.disk(first).put(&data, wrong.into());
    scene.restart(first, Kill::Process);
    let second = scene.device(2, DiskSpec::default());
    let report = scene.get(second, 0);
    assert_eq!((report.received.origin, report.wasted), (6 * MIB, 0));
    assert!(scene.says(first, "does not match its hashes"));
    assert!(scene.kept(first).is_empty());
}

#[test]
fn a_copy_that_cannot_be_read_for_a_while_is_not_lost() {
    let mut scene = Scene::new(1, 6 * MIB, &[]);
    let first = scene.device(1, DiskSpec::default());
    scene.get(first, 0);
    scene.world.run_for(S);
    let data = scene.data_path(first);
    scene.world.disk(first).faults.deny.insert(data);
    scene.restart(first, Kill::Process);
    scene.world.run_for(MINUTE);
    assert!(scene.says(first, "cannot offer what is kept"));
    assert_eq!(scene.kept(first), ["f0"]);
    scene.world.disk(first).faults.deny.clear();
    scene.restart(first, Kill::Process);
    let second = scene.device(2, DiskSpec::default());
    let call = scene.ask_peers(second, 0);
    assert_eq!(scene.good(call).received.lan, 6 * MIB);
}

#[test]
fn a_power_cut_at_any_moment_leaves_a_content_whole_or_not_at_all() {
    let disk = DiskSpec {
        power_cut: PowerCut::KeepsSome,
        ..DiskSpec::default()
    };
    let mut kept = 0;
    for step in 0..40 {
        let mut scene = Scene::new(1, 3 * MIB, &[]);
        let first = scene.device(1, disk);
        let call = scene.start(first, scene.request(0));
        scene
            .world
            .run_for(Duration::from_millis(25) + Duration::from_millis(2) * step);
        let was_done = scene.world.reply(call).is_some();
        scene.restart(first, Kill::Power);
        scene.world.run_for(S * 5);
        let now = scene.kept(first);
        assert!(
            was_done || now.is_empty(),
            "{step}: kept before it was complete"
        );
        kept += now.len();
        let leftovers: Vec<String> = scene
            .world
            .disk(first)
            .paths()
            .filter(|path| path.starts_with(SHELF))
            .map(str::to_owned)
            .collect();
        assert_eq!(leftovers.len(), 2 * now.len(), "{step}: {leftovers:?}");
    }
    assert!((1..40).contains(&kept), "{kept}");
}

#[test]
fn age_and_quota_and_pins() {
    let values = [
        ("max_cache_age", "1h"),
        ("absolute_max_cache_size", "14MiB"),
    ];
    let mut scene = Scene::new(4, 6 * MIB, &values);
    let device = scene.device(1, DiskSpec::default());
    for n in 0..3 {
        scene.get(device, n);
        scene.world.run_for(MINUTE);
    }
    assert_eq!(scene.kept(device), ["f1", "f2"], "the oldest made room");
    scene.world.run_for(MINUTE * 58);
    assert_eq!(scene.kept(device), ["f2"], "one is too old");
    scene.world.run_for(MINUTE * 5);
    assert!(scene.kept(device).is_empty());
    assert!(scene.says(device, "older than max_cache_age"));
}

#[test]
fn a_disk_that_fills_up_gets_its_space_back() {
    let mut scene = Scene::new(2, 6 * MIB, &[]);
    let device = scene.device(1, DiskSpec::default());
    scene.get(device, 0);
    scene.world.run_for(MINUTE);
    scene.get(device, 1);
    scene.world.run_for(MINUTE);
    assert_eq!(scene.kept(device), ["f0", "f1"]);
    scene.tell_free(device, 1000);
    scene.world.run_for(MINUTE);
    assert!(scene.kept(device).is_empty());
    assert!(scene.says(device, "its space is needed"));
    assert!(
        scene.world.disk(device).exists("/data/f0.bin"),
        "outputs stay"
    );
    scene.get(device, 0);
    scene.world.run_for(S);
    assert!(scene.kept(device).is_empty(), "headroom is left alone");
}

#[test]
fn small_files_are_not_kept() {
    let mut scene = Scene::new(1, 6 * MIB, &[("min_file_size_to_cache", "7MiB")]);
    let device = scene.device(1, DiskSpec::default());
    scene.get(device, 0);
    scene.world.run_for(MINUTE * 2);
    assert!(scene.kept(device).is_empty());
}

#[test]
fn trouble_with_the_shelf_is_said_and_is_not_the_downloads() {
    for read_only in [false, true] {
        let mut scene = Scene::new(2, 6 * MIB, &[]);
        let device = scene.device(1, DiskSpec::default());
        if read_only {
            let (_, metainfo) = &scene.files[0];
            let hash = metainfo
                .info_hash
                .0
                .map(|byte| format!("{byte:02x}"))
                .concat();
            let denied = format!("{SHELF}/{hash}.data");
            scene.world.disk(device).faults.deny.insert(denied);
            scene.get(device, 0);
        } else {
            let call = scene.start(device, scene.request(0));
            scene.world.run_for(Duration::from_millis(20));
            // Room for the output, not for a copy.
            let used = scene.world.disk(device).used();
            assert!(used >= 6 * MIB, "{used}");
            scene.world.disk(device).faults.full_after = Some(MIB);
            scene.good(call);
        }
        scene.world.run_for(S);
        assert!(scene.says(device, "is not kept for peers"), "{read_only}");
        assert!(scene.says(device, "the download itself is complete"));
        assert!(scene.kept(device).is_empty());
    }
}

#[test]
fn another_folder_is_used_from_then_on() {
    let mut scene = Scene::new(2, 6 * MIB, &[("modify_cache_drive", "/big")]);
    let device = scene.device(1, DiskSpec::default());
    let kept = |world: &mut World, folder: &str| {
        let paths = world.disk(device).paths();
        paths.filter(|path| path.starts_with(folder)).count()
    };
    scene.get(device, 0);
    scene.world.run_for(S);
    assert_eq!(kept(&mut scene.world, "/big/"), 2);

    let source = Source {
        place: "settings".into(),
        text: "[locked]\nmodify_cache_drive = \"/bigger\"\n".into(),
    };
    let (provider, sources) = (Provider::File, vec![source]);
    let configure = Command::Configure { provider, sources };
    scene.world.command(device, configure);
    scene.world.run_for(S);
    // Whoever looks at the disk has to know which.
    let moves: Vec<&str> = scene
        .world
        .events(device)
        .iter()
        .filter_map(|event| match event {
            Event::ShelfMoved(folder) => Some(folder.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(moves, ["/big", "/bigger"]);
    scene.get(device, 1);
    scene.world.run_for(S);
    assert_eq!(kept(&mut scene.world, "/bigger/"), 2);
    assert_eq!(kept(&mut scene.world, "/big/"), 2);
}

#[test]
fn eight_contents_in_four_slots_are_all_served_within_the_bound() {
    let mut scene = Scene::new(8, 2 * MIB, &[]);
    let holders: Vec<HostId> = (1..=3)
        .map(|n| scene.device(n, DiskSpec::default()))
        .collect();
    for host in &holders {
        for n in 0..8 {
            scene.get(*host, n);
        }
    }
    scene.world.run_for(MINUTE * 5);
    scene.world.kill(scene.origin, Kill::Process);
    let begun = scene.world.now();
    let askers: Vec<Call> = (0..8)
        .map(|n| {
            let host = scene.device(10 + n, DiskSpec::default());
            scene.ask_peers(host, n.into())
        })
        .collect();
    // Two turns of four slots, and the announces that tell who wants what and who has it.
    let bound = SLOT_TURN * 2 + S * 90;
    for (n, call) in askers.into_iter().enumerate() {
        let report = scene.good(call);
        let took = scene.world.now() - begun;
        println!("content {n} after at most {took:?}");
        assert_eq!(report.received.peers(), 2 * MIB);
        assert!(took <= bound, "{n}: {took:?}, bound {bound:?}");
    }
}
