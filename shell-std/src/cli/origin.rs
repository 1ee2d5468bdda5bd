//! `origin`: a small range server over a folder, until it is stopped.

use super::args::OriginArgs;
use super::env;
use super::home::{absolute, utf8};
use super::out::Out;
use super::serve::{http_ready, serve};
use crate::{ListenOn, Options, Runtime};
use dovetail_core::failure::{Failure, FailureKind};
use dovetail_core::machine::Listener;
use dovetail_core::origin::{Origin, OriginConfig};

pub(crate) fn origin<R: Runtime>(args: &OriginArgs, out: Out) -> Result<(), Failure> {
    let dir = absolute(&args.dir)?;
    if !dir.is_dir() {
        return Err(Failure::new(
            FailureKind::Disk,
            format!("cannot serve {}", dir.display()),
            "there is no such folder",
        ));
    }
    let served = utf8(&dir)?;
    let config = OriginConfig {
        dir: served.clone(),
        limit_bytes_per_s: args.limit.unwrap_or(0),
    };
    let mut options = Options::default();
    let on = ListenOn::Tcp(args.listen);
    options.listen.push((Listener::Http, on));
    let machine = Origin::new(config, env::seed()?);
    serve::<R>(machine, options, out, |bound| {
        http_ready("origin", &served, bound)
    })
}
