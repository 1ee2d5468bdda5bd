//! `demo`: the whole system on this machine, as real processes: an origin with a slow line, a coordinator, and
//! devices that download one file from it and from each other.
//!
//! Decides: the scene, and what its end is measured against. Never does: any downloading itself. Invariants:
//! nothing of it is left afterwards, unless asked for; it fails unless every device has the right file.
//! Tests: `shell-smol/tests/demo.rs`.

mod children;
mod screen;
mod source;
mod table;

use super::args::DemoArgs;
use super::errand;
use super::hashing::hash_file;
use super::home::utf8;
use super::out::Out;
use super::signals;
use crate::Runtime;
use crate::host::words;
use children::{Heard, Part};
use dovetail_core::api::{DemoDeviceLine, DemoLine, GotLine, Line, Span};
use dovetail_core::content::Geometry;
use dovetail_core::failure::{Failure, FailureKind};
use dovetail_core::http::{CallRequest, Proxies};
use dovetail_core::origin::STATS_PATH;
use dovetail_core::stats::Bytes;
use screen::Screen;
use source::Source;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// When nothing has moved for this long, nothing will.
const STALLED: Duration = Duration::from_secs(120);

pub(crate) fn demo<R: Runtime>(args: &DemoArgs, out: Out) -> Result<(), Failure> {
    let (tell, heard) = mpsc::channel();
    let stop = tell.clone();
    signals::on_stop(move || _ = stop.send(Heard::Stop))?;
    let folder = Folder::make(args.keep)?;
    let served = folder.path.join("origin");
    fs::create_dir_all(&served).map_err(|e| cannot_write(&served, &e))?;
    let source = source::prepare(args.file.as_deref(), args.size, &served)?;
    introduce(args, &source, out);

    let scene = Scene::set(args, &source, &folder.path)?;
    let mut devices = Vec::new();
    let mut agents = Vec::new();
    for number in 1..=args.devices {
        let home = folder.path.join(format!("device-{number}"));
        agents.push(scene.agent(number, &home)?);
        devices.push(home);
    }
    let started = Instant::now();
    let mut gets = Vec::new();
    for (number, home) in (1..).zip(&devices) {
        let mut get = scene.get(number, home, &source)?;
        get.listen(number, tell.clone());
        gets.push(get);
    }
    let got = watch(&heard, args.devices, source.length, out)?;
    let elapsed = started.elapsed();

    out.remark("checking every file against the source");
    let lines = check(&got, &devices, &source, &scene.sha256)?;
    let sent = scene.origin_sent::<R>()?;
    let result = conclude(args, &source, &lines, sent, elapsed);
    for line in &lines {
        out.line(&Line::DemoDevice(line.clone()));
    }
    out.result(
        &table::in_words(&lines, &result),
        &Line::Demo(result.clone()),
    );
    drop((gets, agents, scene));
    if !result.verified {
        return Err(Failure::new(
            FailureKind::Mismatch,
            "the demo failed",
            "a device has a file that differs from the source",
        ));
    }
    what_next(&folder, out);
    Ok(())
}

/// The processes that stay the same for all devices.
struct Scene {
    _origin: Part,
    _coordinator: Part,
    origin_url: String,
    coordinator_url: String,
    file_url: String,
    sha256: String,
}

impl Scene {
    /// Start the origin and the coordinator, and publish the file.
    fn set(args: &DemoArgs, source: &Source, folder: &Path) -> Result<Self, Failure> {
        let served = utf8(&folder.join("origin"))?;
        let limit = args.origin_limit.to_string();
        let at = ["--listen", "127.0.0.1:0"];
        let mut origin = Part::start(
            "origin",
            &folder.join("origin-home"),
            &["origin", &served, at[0], at[1], "--limit", &limit],
        )?;
        let mut coordinator = Part::start(
            "coordinator",
            &folder.join("coordinator"),
            &["coordinator", at[0], at[1]],
        )?;
        let origin_url = format!("http://{}", origin.address()?);
        let coordinator_url = format!("http://{}", coordinator.address()?);
        let file_url = format!("{origin_url}/{}", percent_encoded(&source.name));
        let (file, torrent) = (
            utf8(&source.path)?,
            utf8(&folder.join(format!("{}.torrent", source.name)))?,
        );
        let mut publisher = Part::start(
            "publisher",
            &folder.join("publisher"),
            &[
                "publish",
                &file,
                "-o",
                &torrent,
                "--url",
                &file_url,
                "--coordinator",
                &coordinator_url,
            ],
        )?;
        let Line::Published(published) = publisher.line()? else {
            return Err(unexpected("the publisher"));
        };
        Ok(Self {
            _origin: origin,
            _coordinator: coordinator,
            origin_url,
            coordinator_url,
            file_url,
            sha256: published.sha256,
        })
    }

    fn agent(&self, number: u32, home: &Path) -> Result<Part, Failure> {
        let mut agent = Part::start(
            &format!("agent of device {number}"),
            home,
            &[
                "agent",
                "--share",
                "--listen",
                "127.0.0.1:0",
                "--coordinator",
                &self.coordinator_url,
            ],
        )?;
        agent.address()?;
        Ok(agent)
    }

    fn get(&self, number: u32, home: &Path, source: &Source) -> Result<Part, Failure> {
        let output = utf8(&home.join(&source.name))?;
        Part::start(
            &format!("device {number}"),
            home,
            &["get", &self.file_url, "-o", &output],
        )
    }

    /// Bytes of the file that left the origin.
    fn origin_sent<R: Runtime>(&self) -> Result<u64, Failure> {
        let call = CallRequest::get(errand::below(&self.origin_url, STATS_PATH)?);
        let response = errand::run::<R>(call, Proxies::none())?;
        let stats: serde_json::Value =
            serde_json::from_slice(&response.body).map_err(|_| unexpected("the origin"))?;
        let sent = stats.get("bytes_sent").and_then(serde_json::Value::as_u64);
        sent.ok_or_else(|| unexpected("the origin"))
    }
}

/// Show how the devices fare until each has ended; their reports, by device.
fn watch(
    heard: &Receiver<Heard>,
    devices: u32,
    length: u64,
    out: Out,
) -> Result<BTreeMap<u32, GotLine>, Failure> {
    let mut screen = Screen::new(out, devices, length);
    let mut got = BTreeMap::new();
    let mut moved = Instant::now();
    while got.len() < devices as usize {
        match heard.recv_timeout(Duration::from_secs(1)) {
            Ok(Heard::Line(device, line)) => match *line {
                Line::Progress(progress) => {
                    moved = Instant::now();
                    screen.progress(device, progress);
                }
                Line::Got(line) => {
                    moved = Instant::now();
                    screen.got(device, &line);
                    got.insert(device, line);
                }
                Line::Failed(line) => {
                    let mut failure = line.failure;
                    failure.what = format!("device {device}: {}", failure.what);
                    return Err(failure);
                }
                _ => {}
            },
            Ok(Heard::End(device)) if got.contains_key(&device) => {}
            Ok(Heard::End(device)) => return Err(unexpected(&format!("device {device}"))),
            Ok(Heard::Stop) | Err(RecvTimeoutError::Disconnected) => {
                let what = "the demo is not complete";
                return Err(Failure::new(FailureKind::Interrupted, what, "stopped"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if moved.elapsed() > STALLED {
            let why = format!("nothing has moved for {}", Span(STALLED));
            let what = "the demo is stuck";
            return Err(Failure::new(FailureKind::Unavailable, what, why)
                .remedy("run it with --keep and look at the logs"));
        }
        screen.tick();
    }
    screen.end();
    Ok(got)
}

/// Compare every device's file with the source.
fn check(
    got: &BTreeMap<u32, GotLine>,
    homes: &[PathBuf],
    source: &Source,
    sha256: &str,
) -> Result<Vec<DemoDeviceLine>, Failure> {
    let mut lines = Vec::new();
    for ((device, line), home) in got.iter().zip(homes) {
        let hashed = hash_file(&home.join(&source.name), |_, _| {})?;
        lines.push(DemoDeviceLine {
            device: *device,
            elapsed_us: line.elapsed_us,
            received: line.received,
            verified: hashed.sha256.to_string() == sha256,
        });
    }
    Ok(lines)
}

fn conclude(
    args: &DemoArgs,
    source: &Source,
    lines: &[DemoDeviceLine],
    origin_sent: u64,
    elapsed: Duration,
) -> DemoLine {
    let from_peers = lines.iter().map(|line| line.received.peers()).sum();
    let received = lines.iter().map(|line| line.received.total()).sum();
    let bound_us = table::one_copy_us(source.length, args.origin_limit);
    let pieces = Geometry::for_length(source.length).map_or(1, |geometry| geometry.pieces());
    DemoLine {
        file: source.name.clone(),
        length: source.length,
        devices: args.devices,
        origin_limit_bytes_per_s: args.origin_limit,
        elapsed_us: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
        origin_copies_permille: table::ratio(origin_sent, 1000, source.length),
        from_peers_permille: table::ratio(from_peers, 1000, received),
        bound_us,
        mundinger_us: table::mundinger_us(bound_us, args.devices, pieces),
        verified: lines.len() == args.devices as usize && lines.iter().all(|line| line.verified),
    }
}

fn introduce(args: &DemoArgs, source: &Source, out: Out) {
    let one_copy = Duration::from_micros(table::one_copy_us(source.length, args.origin_limit));
    out.remark(&format!(
        "spreading {} ({}, {}) to {} devices, from an origin that sends {}",
        source.name,
        source.is,
        Bytes(source.length),
        args.devices,
        table::limit(args.origin_limit),
    ));
    out.remark(&format!(
        "one copy takes the origin {}, one for each device {}",
        Span(one_copy),
        Span(one_copy * args.devices)
    ));
}

fn what_next(folder: &Folder, out: Out) {
    let kept = if folder.keep {
        format!("everything is in {}\n", folder.path.display())
    } else {
        String::new()
    };
    out.remark(&format!(
        "\n{kept}Try next:\n  \
         dovetail demo --devices 10 --size 256MiB\n  \
         dovetail get URL                     a download of your own\n  \
         dovetail coordinator                 and then, on each machine:\n  \
         dovetail agent --share --coordinator http://THAT-MACHINE:7681"
    ));
}

/// The demo's folder, removed with it.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn make(keep: bool) -> Result<Self, Failure> {
        let name = format!("dovetail-demo-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|e| cannot_write(&path, &e))?;
        Ok(Self { path, keep })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn cannot_write(path: &Path, e: &std::io::Error) -> Failure {
    let what = format!("cannot make the folder {}", path.display());
    Failure::new(FailureKind::Disk, what, words(e))
        .remedy("choose another place with the environment variable TMPDIR")
}

fn unexpected(who: &str) -> Failure {
    let what = format!("the demo cannot understand {who}");
    Failure::new(
        FailureKind::Unavailable,
        what,
        "it did not say what was expected",
    )
    .remedy("run it with --keep and look at the logs")
}

/// A file name as part of a URL's path.
fn percent_encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes()
        .map(|byte| match byte {
            byte if plain(byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_parts_of_a_url() {
        assert_eq!(percent_encoded("a b%ä.iso"), "a%20b%25%C3%A4.iso");
    }
}
