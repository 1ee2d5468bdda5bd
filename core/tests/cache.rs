//! The cache role in virtual time: what is fetched, kept and served when things go wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "common/cache_scene.rs"]
mod cache_scene;

use bytes::Bytes;
use cache_scene::{LENGTH, MIB, MINUTE, Scene, config};
use core::time::Duration;
use dovetail_core::cache::{Cache, CacheConfig};
use dovetail_core::command::Command;
use dovetail_core::host::{DiskSpace, HostFacts};
use dovetail_core::machine::{DiskErrorKind, Endpoint, Host, Listener};
use dovetail_core::sim::origin::{Fault, FaultyOrigin, When};
use dovetail_core::sim::toys::Reader;
use dovetail_core::sim::{HostId, HostSpec, Kill, World};

#[test]
fn a_miss_then_hits() {
    let mut scene = Scene::new();
    scene.whole("MISS");
    let fetched = scene.served();
    assert_eq!(fetched, LENGTH as u64, "one copy");
    scene.whole("HIT");
    scene.whole("HIT");
    assert_eq!(scene.served(), fetched);
    let health = scene.health();
    let length = LENGTH as u64;
    assert_eq!(health["hits"], 2);
    assert_eq!(health["misses"], 1);
    assert_eq!(health["bytes_served"], 3 * length);
    assert_eq!(health["bytes_from_origin"], length);
    assert_eq!(health["bytes_saved"], 2 * length);
    assert_eq!(health["objects"], 1);
    assert_eq!(health["bytes"], length);
    assert_eq!(health["status"], "ok");
    let first = &scene.origin().requests[0];
    assert_eq!(first.target, "/f");
    let client = scene.start("/.dovetail/metrics", "");
    let text = String::from_utf8(scene.finish(client).body).unwrap();
    assert!(text.contains("\ndovetail_cache_hits_total 2\n") && text.ends_with("# EOF\n"));
}

#[test]
fn a_small_file_costs_one_connection() {
    let mut scene = Scene::with(1, 300_000, config());
    scene.whole("MISS");
    assert_eq!(scene.origin().connections, 1);
    scene.whole("HIT");
    scene.run(601);
    scene.whole("HIT");
    assert_eq!(
        scene.origin().connections,
        2,
        "asked whether it is the same"
    );
    scene.run(60);
    assert_eq!(scene.world.outstanding(scene.cache), (0, 0));
}

#[test]
fn fifty_clients_cost_one_copy() {
    let mut scene = Scene::with(3, 20 * MIB, config());
    let target = "/f?cacheHostOrigin=origin";
    let clients: Vec<HostId> = (0..50).map(|_| scene.start(target, "")).collect();
    for client in clients {
        let got = scene.finish(client);
        assert!(got.body == scene.content);
    }
    assert_eq!(scene.served(), 20 * MIB as u64);
}

#[test]
fn parts_are_served_and_only_their_slices_fetched() {
    let mut scene = Scene::new();
    let got = scene.get("Range: bytes=2097152-3145727\r\n");
    assert_eq!((got.status(), got.x_cache()), (206, "MISS"));
    assert_eq!(
        got.field("content-range"),
        Some(&*format!("bytes 2097152-3145727/{LENGTH}"))
    );
    assert!(got.body == scene.content[2 * MIB..3 * MIB]);
    assert_eq!(scene.served(), MIB as u64);
    let again = scene.get("Range: bytes=2100000-2100009\r\n");
    assert_eq!(again.x_cache(), "HIT");
    assert!(again.body == scene.content[2_100_000..2_100_010]);
    let tail = scene.get("Range: bytes=-5\r\n");
    assert!(tail.body == scene.content[LENGTH - 5..]);
    let across = scene.get("Range: bytes=1048570-2097160\r\n");
    assert!(across.body == scene.content[1_048_570..2_097_161]);
    let past = scene.get(&format!("Range: bytes={LENGTH}-\r\n"));
    assert_eq!(past.status(), 416);
    assert_eq!(
        past.field("content-range"),
        Some(&*format!("bytes */{LENGTH}"))
    );
    let etag = got.field("etag").unwrap().to_owned();
    let unchanged = scene.get(&format!("If-None-Match: {etag}\r\n"));
    assert_eq!((unchanged.status(), unchanged.body.len()), (304, 0));
    let guarded = scene.get(&format!("Range: bytes=0-9\r\nIf-Range: {etag}\r\n"));
    assert_eq!(guarded.status(), 206);
    let other = scene.get("Range: bytes=0-9\r\nIf-Range: \"other\"\r\n");
    assert_eq!((other.status(), other.body.len()), (200, LENGTH));
    let head = scene.ask("HEAD", "/f?cacheHostOrigin=origin", "", "cache");
    let head = scene.finish(head);
    assert_eq!(head.field("content-length"), Some(&*LENGTH.to_string()));
    assert!(head.body.is_empty());
}

#[test]
fn the_host_field_names_the_origin_too() {
    let mut scene = Scene::new();
    let client = scene.ask("GET", "/f", "", "origin");
    assert!(scene.finish(client).body == scene.content);
    let served = scene.served();
    scene.whole("HIT");
    assert_eq!(scene.served(), served);
}

#[test]
fn a_file_that_changed_is_another_object() {
    let mut scene = Scene::new();
    scene.whole("MISS");
    let newer = scene.world.content("newer", LENGTH);
    scene.world.with(scene.origin, |origin: &mut FaultyOrigin| {
        origin.set_content("*", newer.clone());
    });
    scene.whole("HIT");
    scene.run(601);
    scene.content = newer;
    scene.whole("MISS");
    scene.whole("HIT");
    assert_eq!(scene.health()["objects"], 1);
    let disk = scene.world.disk(scene.cache);
    assert_eq!(
        disk.paths().filter(|path| path.ends_with(".data")).count(),
        1
    );
}

#[test]
fn a_file_that_is_still_the_same_is_asked_for_and_not_fetched() {
    let mut scene = Scene::new();
    scene.whole("MISS");
    let served = scene.served();
    scene.run(601);
    scene.whole("HIT");
    assert!(scene.served() <= served + 1);
    let requests = scene.origin().requests.len();
    scene.whole("HIT");
    assert_eq!(scene.origin().requests.len(), requests, "fresh again");
}

#[test]
fn two_versions_are_never_mixed() {
    let mut scene = Scene::with(5, 12 * MIB, config());
    let newer = scene.world.content("newer", 12 * MIB);
    scene.world.with(scene.origin, |origin: &mut FaultyOrigin| {
        origin.change_after(3 * MIB as u64, newer.clone());
        origin.add_fault(
            When::Requests(0..1),
            Fault::Truncate {
                after: 3 * MIB as u64,
            },
        );
    });
    let got = scene.get("");
    assert_eq!(got.status(), 200);
    assert!(got.body.len() < 12 * MIB, "broken off");
    assert!(got.body[..] == scene.content[..got.body.len()]);
    scene.content = newer;
    scene.whole("MISS");
}

#[test]
fn hits_go_on_while_the_origin_is_down() {
    let mut scene = Scene::new();
    scene.whole("MISS");
    scene.world.kill(scene.origin, Kill::Process);
    scene.whole("HIT");
    scene.run(601);
    scene.whole("STALE");
    scene.whole("STALE");
    let other = scene.start("/other?cacheHostOrigin=origin", "");
    let other = scene.finish(other);
    assert_eq!(other.status(), 502);
    assert!(
        String::from_utf8(other.body)
            .unwrap()
            .contains("http://origin/other")
    );
}

#[test]
fn an_origin_in_trouble_is_not_asked_again_at_once() {
    let mut scene = Scene::new();
    scene.whole("MISS");
    scene.run(601);
    scene.refuse_with(503);
    let before = scene.origin().requests.len();
    scene.whole("STALE");
    scene.whole("STALE");
    assert_eq!(scene.origin().requests.len(), before + 1);
    scene.heal();
    scene.run(31);
    scene.whole("HIT");
}

#[test]
fn what_is_kept_outlives_a_restart() {
    let mut scene = Scene::new();
    scene.whole("MISS");
    scene.run(5);
    let served = scene.served();
    scene.restart(Kill::Process);
    scene.whole("HIT");
    scene.restart(Kill::Power);
    scene.whole("HIT");
    assert_eq!(scene.served(), served);
    let stop = scene.world.command(scene.cache, Command::Shutdown);
    let stopped = |w: &World| w.reply(stop).is_some();
    scene.world.run_until(stopped, MINUTE).expect("an end");
    scene.run(1);
    assert_eq!(scene.world.disk(scene.cache).open_files(), 0);
}

#[test]
fn a_power_cut_at_any_moment_costs_no_wrong_byte() {
    for seed in 0..20 {
        let mut scene = Scene::with(seed, LENGTH, config());
        let client = scene.start("/f?cacheHostOrigin=origin", "");
        scene.world.run_for(Duration::from_millis(20 * seed));
        scene.world.kill(client, Kill::Process);
        scene.restart(Kill::Power);
        let got = scene.get("");
        assert!(
            got.status() == 200 && got.body == scene.content,
            "seed {seed}"
        );
        scene.whole("HIT");
    }
}

#[test]
fn a_damaged_slice_is_fetched_anew_and_said() {
    let mut scene = Scene::new();
    scene.whole("MISS");
    scene.run(5);
    let path = scene.data_path();
    let mut bytes = scene.world.disk(scene.cache).get(&path).unwrap().to_vec();
    bytes[3 * MIB + 7] ^= 1;
    scene.world.kill(scene.cache, Kill::Process);
    scene.world.disk(scene.cache).put(&path, Bytes::from(bytes));
    let machine = Cache::new(scene.config.clone(), [7; 32]);
    scene.world.restart(scene.cache, machine);
    let served = scene.served();
    let got = scene.get("");
    assert!(got.body == scene.content);
    assert_eq!(scene.served() - served, MIB as u64);
    assert!(scene.says("slice 3 is damaged"));
    assert_eq!(scene.health()["slices_damaged"], 1);
    scene.whole("HIT");
    // A file cut short is as good as one with wrong bytes.
    scene.run(5);
    scene.world.kill(scene.cache, Kill::Process);
    scene
        .world
        .disk(scene.cache)
        .put(&path, scene.content.slice(..MIB));
    let machine = Cache::new(scene.config.clone(), [7; 32]);
    scene.world.restart(scene.cache, machine);
    let got = scene.get("");
    assert!(got.body == scene.content);
}

#[test]
fn a_file_that_cannot_be_sent_breaks_the_answer_off_and_is_looked_at_anew() {
    let mut scene = Scene::new();
    scene.whole("MISS");
    scene.whole("HIT");
    scene.run(60);
    let faults = &mut scene.world.disk(scene.cache).faults;
    faults.fail_next.push_back(DiskErrorKind::Other);
    let got = scene.get("");
    assert!(got.body.len() < LENGTH && scene.content.starts_with(&got.body));
    assert!(scene.says("cannot read what is stored of it"));
    let served = scene.served();
    scene.whole("HIT");
    assert_eq!(scene.served(), served);
}

#[test]
fn a_full_disk_stops_storing_and_not_serving() {
    let mut scene = Scene::with(1, 30 * MIB, config());
    scene.world.disk(scene.cache).faults.full_after = Some(3 * MIB as u64);
    let got = scene.get("");
    assert!(got.body == scene.content);
    assert!(scene.says("cannot store"));
    scene.world.disk(scene.cache).faults.full_after = None;
    let again = scene.get("");
    assert!(again.body == scene.content);
    scene.whole("HIT");
}

#[test]
fn a_file_beyond_the_quota_is_served_and_what_fits_is_kept() {
    let quota_bytes = 4 * MIB as u64;
    let config = CacheConfig {
        quota_bytes,
        ..config()
    };
    let mut scene = Scene::with(1, 20 * MIB, config);
    let target = "/f?cacheHostOrigin=origin";
    let clients: Vec<HostId> = (0..5).map(|_| scene.start(target, "")).collect();
    for client in clients {
        assert!(scene.finish(client).body == scene.content);
    }
    let kept = scene.health()["bytes"].as_u64().unwrap();
    assert!(kept <= quota_bytes && kept > 0, "{kept}");
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let config = CacheConfig {
        quota_bytes: 12 * MIB as u64,
        ..config()
    };
    let mut scene = Scene::with(1, 5 * MIB, config);
    let mut hours = 0;
    let mut get = |name: &str| {
        scene.run(1);
        // Whatever the wall clock does.
        hours -= 1;
        scene
            .world
            .set_wall_clock(scene.cache, hours * 3_600_000_000);
        let client = scene.start(&format!("/{name}?cacheHostOrigin=origin"), "");
        let got = scene.finish(client);
        assert!(got.body == scene.content);
        got.x_cache().to_owned()
    };
    assert_eq!([get("a"), get("b"), get("a")], ["MISS", "MISS", "HIT"]);
    assert_eq!([get("c"), get("a"), get("b")], ["MISS", "HIT", "MISS"]);
    assert!(scene.health()["bytes"].as_u64().unwrap() <= 12 * MIB as u64);
    scene.run(5);
    let files = scene.world.disk(scene.cache).paths().count();
    assert_eq!(files, 4, "two objects");
}

#[test]
fn files_stay_open_for_the_next_client_but_not_too_many() {
    let mut scene = Scene::with(1, 1000, config());
    for n in 0..300 {
        let client = scene.start(&format!("/f{n}?cacheHostOrigin=origin"), "");
        assert!(scene.finish(client).body == scene.content);
    }
    scene.run(60);
    assert_eq!(scene.world.disk(scene.cache).open_files(), 256);
    let target = "/f0?cacheHostOrigin=origin";
    let clients = [scene.start(target, ""), scene.start(target, "")];
    for client in clients {
        assert_eq!(scene.finish(client).x_cache(), "HIT");
    }
}

#[test]
fn many_files_at_once_take_turns() {
    // How many are fetched at a time is an invariant of the cache.
    let mut scene = Scene::with(1, 2 * MIB, config());
    let names: Vec<String> = (0..150)
        .map(|n| format!("/f{n}?cacheHostOrigin=origin"))
        .collect();
    let clients: Vec<HostId> = names.iter().map(|name| scene.start(name, "")).collect();
    for client in clients {
        assert!(scene.finish(client).body == scene.content);
    }
    assert!(scene.served() < 151 * 2 * MIB as u64);
}

#[test]
fn an_origin_without_ranges_is_one_stream_for_all() {
    let mut scene = Scene::new();
    scene.world.with(scene.origin, |origin: &mut FaultyOrigin| {
        origin.add_fault(When::Always, Fault::IgnoreRange);
    });
    let target = "/f?cacheHostOrigin=origin";
    let clients: Vec<HostId> = (0..5).map(|_| scene.start(target, "")).collect();
    for client in clients {
        assert!(scene.finish(client).body == scene.content);
    }
    scene.whole("HIT");
    assert!(scene.served() < 2 * LENGTH as u64);
}

#[test]
fn an_origin_that_stumbles_is_asked_for_the_rest() {
    let mut scene = Scene::new();
    scene.world.with(scene.origin, |origin: &mut FaultyOrigin| {
        let after = 2 * MIB as u64 + 77;
        origin.add_fault(When::Requests(0..2), Fault::Reset { after });
    });
    scene.whole("MISS");
    scene.whole("HIT");
}

#[test]
fn clients_that_leave_stop_the_fill() {
    let mut scene = Scene::with(1, 60 * MIB, config());
    let client = scene.start("/f?cacheHostOrigin=origin", "");
    scene.world.run_for(Duration::from_millis(400));
    scene.world.kill(client, Kill::Process);
    scene.run(5);
    let served = scene.served();
    assert!(served < 40 * MIB as u64, "{served}");
    scene.run(60);
    assert_eq!(scene.served(), served);
    scene.whole("MISS");
    assert!(scene.served() < 66 * MIB as u64, "what was stored is used");
}

#[test]
fn without_validators_nothing_tells_that_it_is_the_same() {
    let mut scene = Scene::new();
    scene.world.with(scene.origin, |origin: &mut FaultyOrigin| {
        origin.add_fault(When::Always, Fault::NoValidators);
    });
    scene.whole("MISS");
    scene.whole("HIT");
    scene.run(601);
    scene.whole("MISS");
}

#[test]
fn without_validators_no_two_versions_are_mixed() {
    let mut scene = Scene::new();
    scene.world.with(scene.origin, |origin: &mut FaultyOrigin| {
        origin.add_fault(When::Always, Fault::NoValidators);
    });
    let part = scene.get("Range: bytes=0-1999999\r\n");
    assert!(part.body == scene.content[..2_000_000]);
    scene.run(1);
    // The client has left; the next one must not get the rest of another file behind what is here.
    let other = scene.world.content("another", scene.content.len());
    scene.world.with(scene.origin, |origin: &mut FaultyOrigin| {
        origin.set_content("*", other.clone());
    });
    let whole = scene.get("");
    let one = whole.body == other || whole.body == scene.content;
    assert!(one, "a mixture");
    let again = scene.get("");
    assert!(again.body == whole.body);
    let part = scene.get("Range: bytes=2000000-2000999\r\n");
    assert!(part.body == whole.body[2_000_000..2_001_000]);
}

#[test]
fn the_disk_is_never_filled() {
    let mut scene = Scene::new();
    scene.whole("MISS");
    scene.whole("HIT");
    let tell = |scene: &mut Scene, free_bytes: u64| {
        let disk = DiskSpace {
            free_bytes,
            total_bytes: 1 << 30,
        };
        let facts = HostFacts {
            disk: Some(disk),
            ..HostFacts::default()
        };
        scene.world.host_facts(scene.cache, facts);
        scene.run(1);
    };
    // Less than the 256 MiB that stay free: what is stored goes, and nothing more is kept.
    tell(&mut scene, 100 << 20);
    let used = scene.world.disk(scene.cache).used();
    assert!(used < 1 << 20, "{used}");
    scene.whole("MISS");
    scene.whole("MISS");
    tell(&mut scene, 900 << 20);
    scene.whole("MISS");
    scene.whole("HIT");
}

#[test]
fn a_slow_client_holds_nobody_back_and_costs_no_second_copy() {
    let mut scene = Scene::with(2, 30 * MIB, config());
    let to = Endpoint {
        host: Host::Name("cache".into()),
        port: 80,
        tls: None,
    };
    let say = "GET /f?cacheHostOrigin=origin HTTP/1.1\r\nHost: cache\r\nConnection: close\r\n\r\n";
    let every = Duration::from_millis(100);
    let slow = Reader::new(to, Bytes::from(say), 256 * 1024, every);
    let slow = scene.world.host("slow", slow, HostSpec::at("10.2.0.1"));
    let before = scene.world.now();
    let got = scene.get("");
    assert!(got.body == scene.content);
    assert!(scene.world.now() - before < Duration::from_secs(3));
    let got = scene.finish(slow);
    assert!(got.body == scene.content);
    assert!(scene.world.now() - before > Duration::from_secs(10));
    assert_eq!(scene.served(), 30 * MIB as u64);
}

#[test]
fn an_origin_that_dies_in_the_middle_ends_the_answer_in_the_middle() {
    let mut scene = Scene::with(2, 30 * MIB, config());
    let client = scene.start("/f?cacheHostOrigin=origin", "");
    scene.world.run_for(Duration::from_millis(300));
    scene.world.kill(scene.origin, Kill::Process);
    let got = scene.finish(client);
    assert_eq!(got.status(), 200);
    assert!(got.body.len() < scene.content.len());
    assert!(got.body[..] == scene.content[..got.body.len()]);
    // What is stored of it is still given away.
    let part = scene.get("Range: bytes=0-99\r\n");
    assert_eq!((part.status(), part.x_cache()), (206, "HIT"));
    assert!(part.body == scene.content[..100]);
}

#[test]
fn https_origins() {
    let told = "/f?cacheHostOrigin=secure&cacheHostOriginScheme=https";
    for (target, https_origins) in [
        (told, vec![]),
        ("/f?cacheHostOrigin=secure", vec!["secure".parse().unwrap()]),
    ] {
        let allow = vec!["secure".parse().unwrap()];
        let config = CacheConfig {
            allow,
            https_origins,
            ..config()
        };
        let mut scene = Scene::with(1, LENGTH, config);
        let server = FaultyOrigin::new(scene.content.clone());
        // Nothing but port 443.
        let spec = HostSpec::at("10.0.0.9").listen(Listener::Http, 443);
        let secure = scene.world.host("secure", server, spec);
        scene.world.name("secure", secure);
        let client = scene.start(target, "");
        let got = scene.finish(client);
        assert_eq!(got.status(), 200, "{target}");
        assert!(got.body == scene.content);
    }
}
