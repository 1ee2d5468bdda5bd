//! `get`: one download, by this home's agent or in this process.
//!
//! Decides: the name of the output, who does the work, what is printed meanwhile. Never does: the download.
//! Invariant: the first Ctrl-C leaves a state from which the same command goes on. Tests: `shell-smol/tests/cli.rs`.

use super::args::{GetArgs, Global};
use super::bars::Bars;
use super::home::{Home, absolute, utf8};
use super::out::Out;
use super::serve::Watched;
use super::settings::Files;
use super::{agent, env, errand, exchange, settings, signals};
use crate::host::words;
use crate::{ListenOn, Notice, Options, Runtime, channel};
use bytes::Bytes;
use dovetail_core::agent::Agent;
use dovetail_core::api::{
    self, GET_TARGET, Line, ProgressLine, check_get, check_url, get_body, name_from_url, safe_name,
};
use dovetail_core::command::{Command, Event, GetRequest, Reply, Report};
use dovetail_core::content::Metainfo;
use dovetail_core::failure::{Failure, FailureKind};
use dovetail_core::http::CallRequest;
use dovetail_core::ids::CallId;
use dovetail_core::limits::METAINFO_LEN_MAX;
use dovetail_core::machine::Listener;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) fn get<R: Runtime>(args: &GetArgs, global: &Global, out: Out) -> Result<(), Failure> {
    let home = Home::new(global.home.as_deref())?;
    let request = request::<R>(args)?;
    let name = Path::new(&request.output)
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let mut screen = Screen {
        bars: Bars::new(out, &name),
        out,
    };
    let running = (!args.standalone).then(|| home.agent()).flatten();
    let result = match running {
        Some(stream) => {
            remark_on_ignored(args, out);
            by_agent(stream, &request, &mut screen)
        }
        None => alone::<R>(args, request, &home, &mut screen),
    };
    if let Some(bars) = screen.bars.take() {
        bars.clear();
    }
    let report = result.map_err(how_to_go_on)?;
    let line = Line::Got((&report).into());
    out.result(&api::summary(&report), &line);
    Ok(())
}

/// What is shown while the download runs.
struct Screen {
    bars: Option<Bars>,
    out: Out,
}

impl Screen {
    fn progress(&mut self, line: ProgressLine) {
        if let Some(bars) = &mut self.bars {
            bars.show(&line.progress());
        }
        self.out.line(&Line::Progress(line));
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Progress { job, progress, .. } => {
                self.progress(ProgressLine::new(job.0, progress));
            }
            Event::Log { level, text } => {
                let write = || self.out.log((*level).into(), text);
                match &self.bars {
                    Some(bars) => bars.suspend(write),
                    None => write(),
                }
            }
            _ => {}
        }
    }
}

/// The arguments as the core takes them.
fn request<R: Runtime>(args: &GetArgs) -> Result<GetRequest, Failure> {
    for url in &args.urls {
        check_url(url)?;
    }
    let sha256 = match &args.sha256 {
        None => None,
        Some(text) => Some(api::parse_sha256(text).ok_or_else(|| {
            Failure::new(
                FailureKind::Usage,
                format!("cannot use the SHA-256 `{text}`"),
                "it is not 64 hexadecimal digits",
            )
            .remedy("take it from `sha256sum FILE`")
        })?),
    };
    let metainfo = match &args.metainfo {
        None => None,
        Some(from) => Some(load_metainfo::<R>(from)?),
    };
    let name = match (&metainfo, args.urls.first()) {
        (Some((_, metainfo)), _) => safe_name(&metainfo.name),
        (None, Some(url)) => name_from_url(url),
        (None, None) => String::new(),
    };
    let request = GetRequest {
        urls: args.urls.clone(),
        metainfo: metainfo.map(|(bytes, _)| bytes),
        output: utf8(&output(args.output.as_deref(), &name)?)?,
        overwrite: args.overwrite,
        sha256,
        foreground: !args.background,
        sequential: args.sequential,
        require_peers: args.require_peers,
        peers: env::peers(&args.peers)?,
        limit_bytes_per_s: args.limit.unwrap_or(0),
        mode: args.mode,
    };
    check_get(&request)?;
    Ok(request)
}

/// Where the file goes: the path given, or `name` in the folder given or in this one.
fn output(given: Option<&Path>, name: &str) -> Result<PathBuf, Failure> {
    let path = match given {
        None => PathBuf::from(name),
        Some(given) if given.is_dir() => given.join(name),
        Some(given) => given.to_path_buf(),
    };
    if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(Failure::new(
            FailureKind::Disk,
            format!("cannot write into {}", path.display()),
            "there is no such folder",
        )
        .remedy("make it first"));
    }
    absolute(&path)
}

fn load_metainfo<R: Runtime>(from: &str) -> Result<(Bytes, Metainfo), Failure> {
    let bytes = if from.contains("://") {
        fetch_metainfo::<R>(from)?
    } else {
        read_metainfo(Path::new(from))?
    };
    let metainfo = Metainfo::parse(&bytes).map_err(|e| {
        Failure::new(
            FailureKind::Usage,
            format!("cannot use the metainfo {from}"),
            e.to_string(),
        )
        .remedy(
            "it must be a BitTorrent v2 .torrent file of one file, as `dovetail publish` writes it",
        )
    })?;
    Ok((bytes, metainfo))
}

fn fetch_metainfo<R: Runtime>(url: &str) -> Result<Bytes, Failure> {
    let mut call = CallRequest::get(check_url(url)?);
    call.response_max = METAINFO_LEN_MAX;
    call.timeout = Duration::from_secs(120);
    let response = errand::run::<R>(call, env::proxies()?)?;
    if response.status.is_success() {
        return Ok(response.body);
    }
    Err(Failure::new(
        FailureKind::Unavailable,
        format!("cannot fetch the metainfo {url}"),
        format!("the server says {}", response.status),
    ))
}

fn read_metainfo(path: &Path) -> Result<Bytes, Failure> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // One byte more than allowed is enough for the parser to say that it is too long.
        let most = METAINFO_LEN_MAX as u64 + 1;
        File::open(path)?.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map(Bytes::from).map_err(|e| {
        let what = format!("cannot read the metainfo {}", path.display());
        Failure::new(FailureKind::Disk, what, words(&e))
    })
}

/// The running agent has its own coordinator, port and peers: say so rather than do something else.
fn remark_on_ignored(args: &GetArgs, out: Out) {
    let given = [
        ("--coordinator", args.coordinator.is_some()),
        ("--share", args.share),
        ("--set", !args.set.is_empty()),
    ];
    let mut ignored: Vec<_> = given
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
        .collect();
    let Some(last) = ignored.pop() else { return };
    let names = match ignored.as_slice() {
        [] => last.to_owned(),
        others => format!("{} and {last}", others.join(", ")),
    };
    out.remark(&format!(
        "this home's agent does the download: its own settings count, not {names} (see --standalone)"
    ));
}

/// Hand the job to the running agent; it stops the job when we hang up.
fn by_agent(
    stream: UnixStream,
    request: &GetRequest,
    screen: &mut Screen,
) -> Result<Report, Failure> {
    let lost = |e: io::Error| {
        Failure::new(
            FailureKind::Unavailable,
            "lost the agent that did the download",
            words(&e),
        )
        .remedy("look at the agent, then run the same command again: it goes on where it was")
    };
    let stopped = Arc::new(AtomicBool::new(false));
    let hang_up = stream.try_clone().map_err(lost)?;
    let flag = Arc::clone(&stopped);
    signals::on_stop(move || {
        flag.store(true, Ordering::SeqCst);
        _ = hang_up.shutdown(Shutdown::Both);
    })?;
    let read = || -> io::Result<Option<Result<Report, Failure>>> {
        let mut answer = exchange::ask(stream, "POST", GET_TARGET, &get_body(request))?;
        while let Some(text) = answer.line()? {
            match Line::parse(&text) {
                Ok(Line::Progress(line)) => screen.progress(line),
                Ok(line) => {
                    if let Some(result) = line.into_got() {
                        return Ok(Some(result));
                    }
                }
                // A newer agent may say more than we understand.
                Err(_) => {}
            }
        }
        Ok(None)
    };
    let end = read();
    if stopped.load(Ordering::SeqCst) && !matches!(end, Ok(Some(_))) {
        return Err(interrupted(&request.output));
    }
    match end.map_err(lost)? {
        Some(result) => result,
        None => Err(lost(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// Run an agent for this one download.
fn alone<R: Runtime>(
    args: &GetArgs,
    request: GetRequest,
    home: &Home,
    screen: &mut Screen,
) -> Result<Report, Failure> {
    const GET: CallId = CallId(1);
    const STOP: CallId = CallId(2);
    const SHUTDOWN: CallId = CallId(3);
    check_sources(args, &request)?;
    let (layers, problems) = settings::load(&Files::of(home).read(), &args.set)?;
    settings::tell(&problems, screen.out);
    let coordinator = args.coordinator.as_deref();
    let config = env::agent_config(coordinator, &[], args.share, None, layers)?;
    let output = request.output.clone();
    let mut options = Options::default();
    if args.share {
        let on = ListenOn::Tcp(args.listen);
        options.listen.push((Listener::Peers, on));
    }
    let (handle, commands) = channel();
    let stop = handle.clone();
    signals::on_stop(move || stop.send(STOP, Command::Stop(GET)))?;
    let watching = agent::watch(home.as_ref(), &handle);
    handle.send(GET, Command::Get(request));
    let out = screen.out;
    let machine = Agent::new(config, env::seed()?)?;
    let machine = Watched::new(machine, &options, |bound| {
        let (_, line) = agent::ready("get", None, bound);
        out.line(&line);
    });
    let mut result = None;
    R::run(machine, options, commands, |notice| {
        match notice {
            Notice::Reply(GET, Reply::Got(got)) => {
                result = Some(got);
                handle.send(SHUTDOWN, Command::Shutdown);
            }
            Notice::Reply(SHUTDOWN, _) => return ControlFlow::Break(()),
            Notice::Reply(..) => {}
            Notice::Event(event) => screen.event(&event),
        }
        ControlFlow::Continue(())
    })?;
    drop(watching);
    result.unwrap_or_else(|| Err(interrupted(&output)))
}

/// Say at once what no patience can help.
fn check_sources(args: &GetArgs, request: &GetRequest) -> Result<(), Failure> {
    let named = match &request.metainfo {
        Some(bytes) => Metainfo::parse(bytes).map_or(0, |metainfo| metainfo.urls.len()),
        None => 0,
    };
    let web = !request.require_peers && named + request.urls.len() > 0;
    if web || args.share || args.coordinator.is_some() || !request.peers.is_empty() {
        return Ok(());
    }
    let what = format!("cannot download {}", request.output);
    let why = if request.require_peers {
        "peers are required, but none is named"
    } else {
        "nothing says where it is: the metainfo names no URL"
    };
    Err(Failure::new(FailureKind::Usage, what, why)
        .remedy("name a URL, a --peer or a --coordinator"))
}

fn interrupted(output: &str) -> Failure {
    Failure::new(
        FailureKind::Interrupted,
        format!("{output} is not complete"),
        "stopped",
    )
}

/// The words for a stopped download.
fn how_to_go_on(failure: Failure) -> Failure {
    if failure.kind == FailureKind::Interrupted {
        return failure.remedy("run the same command again to resume");
    }
    failure
}
