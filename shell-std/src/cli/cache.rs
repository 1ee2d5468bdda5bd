//! `cache`: a connected cache of allowed origins, until it is stopped.

use super::args::{CacheArgs, Global};
use super::home::{Home, absolute, utf8};
use super::out::Out;
use super::serve::{Bound, http_ready, serve_knowing};
use super::settings::Files;
use super::{agent, env, settings};
use crate::dnssd::{self, Announcement};
use crate::host::words;
use crate::{Handle, ListenOn, Options, Runtime};
use dovetail_core::cache::{Cache, CacheConfig, CachePeer};
use dovetail_core::command::Level;
use dovetail_core::failure::{Failure, FailureKind};
use dovetail_core::machine::Listener;
use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) fn cache<R: Runtime>(
    args: &CacheArgs,
    global: &Global,
    out: Out,
) -> Result<(), Failure> {
    let folder = folder(args, global)?;
    let dir = utf8(&folder)?;
    make(&folder)?;
    let config = CacheConfig {
        dir,
        allow: args.allow.clone(),
        https_origins: args.https_origins.clone(),
        proxies: env::proxies()?,
        quota_bytes: args.quota,
        revalidate: args.revalidate,
    };
    let mut options = Options::default();
    options
        .listen
        .push((Listener::Http, ListenOn::Tcp(args.listen)));
    let announcement = RefCell::new(None);
    let ready = |bound: &Bound| {
        if args.announce {
            *announcement.borrow_mut() = announce(bound, out);
        }
        http_ready("cache", "clients", bound)
    };
    let Some(coordinator) = &args.coordinator else {
        let machine = Cache::new(config, env::seed()?);
        let watch = |handle: &Handle| (agent::watch(&folder, handle), None);
        return serve_knowing::<R, _>(machine, options, out, watch, ready);
    };
    let files = Files::of(&Home::new(global.home.as_deref())?);
    let said = files.read();
    let (layers, problems) = settings::load(&said, &args.set)?;
    settings::tell(&problems, out);
    let mut peer = env::agent_config(Some(coordinator), &[], true, None, layers)?;
    let state = folder.join("peer");
    make(&state)?;
    peer.usage_file = Some(utf8(&state.join("usage.json"))?);
    peer.shelf_dir = Some(utf8(&state.join("shelf"))?);
    let on = ListenOn::Tcp(args.listen_peers);
    options.listen.push((Listener::Peers, on));
    let machine = CachePeer::new(config, peer, env::seed()?)?;
    let watch = |handle: &Handle| {
        let files = settings::watch(files, said, handle, out);
        let reload = settings::reload(&files);
        ((agent::watch(&folder, handle), files), Some(reload))
    };
    serve_knowing::<R, _>(machine, options, out, watch, ready)
}

fn make(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(|e| {
        let what = format!("cannot make the folder {}", folder.display());
        Failure::new(FailureKind::Disk, what, words(&e)).remedy("choose another with --folder")
    })
}

fn folder(args: &CacheArgs, global: &Global) -> Result<PathBuf, Failure> {
    match &args.folder {
        Some(folder) => absolute(folder),
        None => {
            let home = Home::new(global.home.as_deref())?;
            Ok(home.as_ref().join("cache-server"))
        }
    }
}

/// Let the local network know; without that the cache still serves whoever knows it.
fn announce(bound: &Bound, out: Out) -> Option<Announcement> {
    let port = bound.get(&Listener::Http)?.port();
    let told = dnssd::announce(dnssd::CACHE, &dnssd::host_name(), port, &[]);
    told.map_err(|why| out.log(Level::Warn.into(), &why.to_string()))
        .ok()
}
