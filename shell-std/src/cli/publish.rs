//! `publish`: say what a file is, to a metainfo file, a coordinator, and this home's agent.
//!
//! Decides: the order (the metainfo file first, so that nobody hears of a file that cannot be described), and
//! what is said about each step. Never does: serving; that is the agent's. Tests: `shell-smol/tests/cli.rs`.

use super::args::{Global, PublishArgs};
use super::home::{Home, absolute, utf8};
use super::out::Out;
use super::{bars, env, errand, exchange, hashing};
use crate::Runtime;
use crate::host::words;
use bytes::Bytes;
use dovetail_core::announce::messages::{CONTENT_PATH, Publication, Refusal};
use dovetail_core::api::{Line, PublishedLine, SHARE_TARGET, check_url, share_body};
use dovetail_core::command::ShareRequest;
use dovetail_core::content::{Digest, Metainfo};
use dovetail_core::failure::{Failure, FailureKind};
use dovetail_core::http::CallRequest;
use dovetail_core::stats;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

pub(crate) fn publish<R: Runtime>(
    args: &PublishArgs,
    global: &Global,
    out: Out,
) -> Result<(), Failure> {
    for url in args.urls.iter().chain(&args.coordinator) {
        check_url(url)?;
    }
    let home = Home::new(global.home.as_deref())?;
    let file = absolute(&args.file)?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => utf8(Path::new(file.file_name().unwrap_or_default()))?,
    };
    let torrent = torrent_path(args, &file)?;

    let bar = bars::work(out, &name);
    let hashed = hashing::hash_file(&file, |done, total| {
        if let Some(bar) = &bar {
            bar.set_length(total);
            bar.set_position(done);
            let (done, total) = (stats::Bytes(done), stats::Bytes(total));
            bar.set_message(format!("{done} of {total} hashed"));
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let hashed = hashed?;
    let metainfo = describe(args, &name, hashed.layer)?;
    let bytes = Bytes::from(metainfo.encode());
    write_torrent(&torrent, &bytes, args.overwrite)?;
    if let Some(coordinator) = &args.coordinator {
        tell::<R>(coordinator, &bytes, hashed.sha256, &args.urls)?;
    }
    let handed_over = match home.agent() {
        Some(agent) => hand_over(agent, bytes, &file),
        None => Err(nobody_serves(&home)),
    };
    let unserved = match handed_over {
        // Not to serve is a choice of whoever runs the agent, or runs none.
        Err(failure) if failure.kind == FailureKind::Refused => Some(failure),
        other => other.map(|()| None)?,
    };
    let line = PublishedLine {
        torrent: utf8(&torrent)?,
        name,
        length: metainfo.id.length,
        root: metainfo.id.root.to_string(),
        sha256: hashed.sha256.to_string(),
        info_hash: metainfo.info_hash.to_string(),
        coordinator: args.coordinator.clone(),
        served: unserved.is_none(),
    };
    let words = in_words(&line, unserved.as_ref());
    out.result(&words, &Line::Published(line));
    Ok(())
}

fn torrent_path(args: &PublishArgs, file: &Path) -> Result<PathBuf, Failure> {
    match &args.output {
        Some(path) => absolute(path),
        None => {
            let mut path = file.as_os_str().to_owned();
            path.push(".torrent");
            Ok(path.into())
        }
    }
}

fn describe(
    args: &PublishArgs,
    name: &str,
    layer: dovetail_core::content::PieceLayer,
) -> Result<Metainfo, Failure> {
    let announce = match &args.coordinator {
        Some(base) => vec![format!("{}/announce", base.trim_end_matches('/'))],
        None => Vec::new(),
    };
    Metainfo::for_content(name, layer, args.urls.clone(), announce).map_err(|e| {
        let what = format!("cannot publish a file under the name `{name}`");
        Failure::new(FailureKind::Usage, what, e.to_string()).remedy("give another with --name")
    })
}

/// A metainfo file with other content is only replaced when asked for.
fn write_torrent(path: &Path, bytes: &[u8], overwrite: bool) -> Result<(), Failure> {
    let what = || format!("cannot write {}", path.display());
    match fs::read(path) {
        Ok(there) if there == bytes => return Ok(()),
        Ok(_) if !overwrite => {
            let why = "there is another file of this name";
            return Err(Failure::new(FailureKind::Exists, what(), why)
                .remedy("replace it with --overwrite, or choose another with -o"));
        }
        _ => {}
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".part");
    let unfinished = PathBuf::from(unfinished);
    fs::write(&unfinished, bytes)
        .and_then(|()| fs::rename(&unfinished, path))
        .map_err(|e| {
            _ = fs::remove_file(&unfinished);
            Failure::new(FailureKind::Disk, what(), words(&e)).remedy("choose another path with -o")
        })
}

/// Make the content known to a coordinator.
fn tell<R: Runtime>(
    coordinator: &str,
    metainfo: &Bytes,
    sha256: Digest,
    urls: &[String],
) -> Result<(), Failure> {
    let publication = Publication {
        metainfo: metainfo.clone(),
        sha256: Some(sha256),
        urls: urls.to_vec(),
    };
    let body = serde_json::to_vec(&publication).unwrap_or_default();
    let call = CallRequest::post_json(errand::below(coordinator, CONTENT_PATH)?, body);
    let what = format!("cannot publish at the coordinator {coordinator}");
    let response = errand::run::<R>(call, env::proxies()?).map_err(|failure| {
        Failure::new(failure.kind, what.clone(), failure.why)
            .remedy("the metainfo file is written; run the same command again when it answers")
    })?;
    if response.status.is_success() {
        return Ok(());
    }
    let refusal: Refusal = serde_json::from_slice(&response.body).unwrap_or_else(|_| Refusal {
        error: String::new(),
        why: format!("it says {}", response.status),
        remedy: "check the URL given with --coordinator".into(),
    });
    let why = match (refusal.error.as_str(), refusal.why.as_str()) {
        ("", why) | (why, "") => why.to_owned(),
        (error, why) => format!("{error}: {why}"),
    };
    Err(Failure::new(FailureKind::Refused, what, why).remedy(refusal.remedy))
}

/// Let the running agent serve the file.
fn hand_over(agent: UnixStream, metainfo: Bytes, file: &Path) -> Result<(), Failure> {
    let body = share_body(&ShareRequest {
        metainfo,
        path: utf8(file)?,
    });
    let failed = |why: String| {
        let what = "cannot hand the file to this home's agent";
        Failure::new(FailureKind::Unavailable, what, why)
    };
    let mut answer =
        exchange::ask(agent, "POST", SHARE_TARGET, &body).map_err(|e| failed(words(&e)))?;
    let text = answer
        .line()
        .map_err(|e| failed(words(&e)))?
        .unwrap_or_default();
    match Line::parse(&text) {
        Ok(Line::Shared) => Ok(()),
        Ok(Line::Failed(line)) => Err(line.failure),
        Ok(_) => Err(failed("it answers something else".into())),
        Err(e) => Err(failed(e.to_string())),
    }
}

fn nobody_serves(home: &Home) -> Failure {
    let why = format!("no agent runs in {}", home.as_ref().display());
    Failure::new(FailureKind::Refused, "", why).remedy("start one with `dovetail agent --share`")
}

fn in_words(line: &PublishedLine, unserved: Option<&Failure>) -> String {
    let mut words = format!(
        "{} is {}, SHA-256 {}\nwrote {}",
        line.name,
        stats::Bytes(line.length),
        line.sha256,
        line.torrent
    );
    if let Some(coordinator) = &line.coordinator {
        words += &format!("\ntold the coordinator {coordinator}");
    }
    words += &match unserved {
        None => "\nthis home's agent serves it".to_owned(),
        Some(failure) => format!(
            "\nnot served from here: {} ({})",
            failure.why, failure.remedy
        ),
    };
    words
}
