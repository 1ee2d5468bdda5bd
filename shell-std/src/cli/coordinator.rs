//! `coordinator`: the role that knows what files are and who has them, until it is stopped.

use super::args::CoordinatorArgs;
use super::env;
use super::home::absolute;
use super::out::Out;
use super::serve::{http_ready, serve_knowing};
use super::settings::{self, CONFIGURE};
use crate::watch::Watch;
use crate::{Handle, ListenOn, Options, Runtime};
use dovetail_core::command::Command;
use dovetail_core::coordinator::{Coordinator, CoordinatorConfig};
use dovetail_core::failure::{Failure, FailureKind};
use dovetail_core::machine::Listener;
use dovetail_core::settings::{GroupPolicy, Problem, Provider, Source};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub(crate) fn coordinator<R: Runtime>(args: &CoordinatorArgs, out: Out) -> Result<(), Failure> {
    let policy_file = args.policy.as_deref().map(absolute).transpose()?;
    let first = policy_file.as_deref().map(|path| first_policy(path, out));
    let (source, policy) = first.transpose()?.unzip();
    let config = CoordinatorConfig {
        allow: args.allow.clone(),
        proxies: env::proxies()?,
        policy: policy.unwrap_or_default(),
        relay_bytes_per_s: args.relay,
        ..CoordinatorConfig::default()
    };
    let mut options = Options::default();
    let on = ListenOn::Tcp(args.listen);
    options.listen.push((Listener::Http, on));
    match rendezvous(args)? {
        Some([at, other]) => options.listen.extend([
            (Listener::Rendezvous, ListenOn::Udp(at)),
            (Listener::RendezvousOther, ListenOn::Udp(other)),
        ]),
        None if args.relay.is_some() => {
            let why = "it goes through the rendezvous, and there is none";
            return Err(Failure::new(FailureKind::Usage, "cannot relay", why)
                .remedy("give --rendezvous an address that agents reach, as in 0.0.0.0:3544"));
        }
        None => {}
    }
    let machine = Coordinator::new(config, env::seed()?);
    let watch = |handle: &Handle| match policy_file.zip(source) {
        Some((path, source)) => {
            let watch = watch(path, source, handle, out);
            let reload = settings::reload(&watch);
            (Some(watch), Some(reload))
        }
        None => (None, None),
    };
    serve_knowing::<R, _>(machine, options, out, watch, |bound| {
        http_ready("coordinator", "agents", bound)
    })
}

/// Its two addresses, if there is to be one.
fn rendezvous(args: &CoordinatorArgs) -> Result<Option<[SocketAddr; 2]>, Failure> {
    let at = match args.rendezvous.as_deref() {
        Some("off") => return Ok(None),
        Some(text) => text.parse().map_err(|_| {
            let what = format!("cannot have a rendezvous at {text}");
            Failure::new(FailureKind::Usage, what, "that is no address with a port")
                .remedy("say --rendezvous 0.0.0.0:3544, or off")
        })?,
        None if args.listen.ip().is_loopback() => return Ok(None),
        None => SocketAddr::new(args.listen.ip(), RENDEZVOUS_PORT),
    };
    let next = if at.port() == 0 {
        0
    } else {
        at.port().saturating_add(1)
    };
    Ok(Some([at, SocketAddr::new(at.ip(), next)]))
}

/// Of Teredo, which Windows' peers use for the same (UDP).
const RENDEZVOUS_PORT: u16 = 3544;

/// Without a policy that was asked for nothing begins; everything that is wrong is said.
fn first_policy(path: &Path, out: Out) -> Result<(Source, GroupPolicy), Failure> {
    let policy = |source| GroupPolicy::read(&source).map(|policy| (source, policy));
    read(path).and_then(policy).map_err(|mut problems| {
        let last = problems.pop();
        settings::tell(&problems, out);
        let why = last.map_or_else(String::new, |problem| problem.to_string());
        let what = format!("cannot use the policy {}", path.display());
        Failure::new(FailureKind::Usage, what, why)
            .remedy("docs/settings.md describes all settings")
    })
}

fn read(path: &Path) -> Result<Source, Vec<Problem>> {
    match settings::read(path) {
        Ok(Some(source)) => Ok(source),
        Ok(None) => Err(vec![Problem {
            place: path.display().to_string(),
            key: String::new(),
            what: "there is no such file".into(),
            allowed: String::new(),
        }]),
        Err(problem) => Err(vec![problem]),
    }
}

/// Give the machine, which has `known`, the policy whenever it changes. While there is none to read, the old one stands.
fn watch(path: PathBuf, mut known: Source, handle: &Handle, out: Out) -> Watch {
    let handle = handle.clone();
    let file = path.clone();
    let files = move || vec![file.clone()];
    let watch = Watch::start(files, move || match read(&path) {
        Ok(source) if source == known => {}
        Ok(source) => {
            known.clone_from(&source);
            let provider = Provider::GroupPolicy;
            let sources = vec![source];
            handle.send(CONFIGURE, Command::Configure { provider, sources });
        }
        Err(problems) => settings::tell(&problems, out),
    });
    watch.nudge().now();
    watch
}
