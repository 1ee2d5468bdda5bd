//! `agent`: the role that downloads for local callers and serves peers, until it is stopped.

use super::args::{AgentArgs, Global};
use super::home::{Home, utf8};
use super::out::Out;
use super::serve::{Bound, serve_knowing};
use super::settings::Files;
use super::{env, settings};
use crate::facts::{Places, Watch};
use crate::{Handle, ListenOn, Options, Runtime};
use dovetail_core::agent::Agent;
use dovetail_core::api::Line;
use dovetail_core::failure::Failure;
use dovetail_core::host::HostFacts;
use dovetail_core::machine::Listener;
use std::path::{Path, PathBuf};

pub(crate) fn agent<R: Runtime>(
    args: &AgentArgs,
    global: &Global,
    out: Out,
) -> Result<(), Failure> {
    let home = Home::new(global.home.as_deref())?;
    home.check()?;
    let files = Files::of(&home);
    let said = files.read();
    let (layers, problems) = settings::load(&said, &args.set)?;
    settings::tell(&problems, out);
    let mut config = env::agent_config(
        args.coordinator.as_deref(),
        &args.peers,
        args.share,
        args.upload_limit,
        layers,
    )?;
    config.usage_file = Some(utf8(&home.as_ref().join("usage.json"))?);
    let shelf = home.as_ref().join("shelf");
    config.shelf_dir = Some(utf8(&shelf)?);
    let set = config.settings.effective(&HostFacts::default()).values;
    let shelf = set.modify_cache_drive.map_or(shelf, PathBuf::from);
    let mut options = Options::default();
    let socket = home.socket();
    let on = ListenOn::Unix(socket.clone());
    options.listen.push((Listener::Local, on));
    if args.share {
        let on = ListenOn::Tcp(args.listen);
        options.listen.push((Listener::Peers, on));
    }
    let machine = Agent::new(config, env::seed()?)?;
    let socket = socket.display().to_string();
    let watch = |handle: &Handle| {
        let files = settings::watch(files, said, handle, out);
        let reload = settings::reload(&files);
        ((watch(&shelf, handle), files), Some(reload))
    };
    serve_knowing::<R, _>(machine, options, out, watch, |bound| {
        ready("agent", Some(&socket), bound)
    })
}

/// Tell the machine behind `handle` what this host is like: first of all, and whenever it changes.
pub(crate) fn watch(shelf: &Path, handle: &Handle) -> Watch {
    let handle = handle.clone();
    Watch::start(Places::system(shelf), move |facts| handle.host(facts))
}

/// What is said when the agent listens.
pub(crate) fn ready(role: &str, socket: Option<&str>, bound: &Bound) -> (String, Line) {
    let peers = bound.get(&Listener::Peers).map(ToString::to_string);
    let at = match &peers {
        Some(at) => format!("peers at {at}"),
        None => "not shared with peers".into(),
    };
    let words = match socket {
        Some(socket) => format!("{role} is ready: {at}, callers at {socket}"),
        None => format!("{role} is ready: {at}"),
    };
    let line = Line::Listening {
        role: role.to_owned(),
        listening: peers,
        socket: socket.map(str::to_owned),
    };
    (words, line)
}
