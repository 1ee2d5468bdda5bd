//! `coordinator`: the role that knows what files are and who has them, until it is stopped.

use super::args::CoordinatorArgs;
use super::env;
use super::out::Out;
use super::serve::{http_ready, serve};
use crate::{ListenOn, Options, Runtime};
use dovetail_core::coordinator::{Coordinator, CoordinatorConfig};
use dovetail_core::failure::Failure;
use dovetail_core::machine::Listener;

pub(crate) fn coordinator<R: Runtime>(args: &CoordinatorArgs, out: Out) -> Result<(), Failure> {
    let config = CoordinatorConfig {
        allow: args.allow.clone(),
        proxies: env::proxies()?,
        ..CoordinatorConfig::default()
    };
    let mut options = Options::default();
    let on = ListenOn::Tcp(args.listen);
    options.listen.push((Listener::Http, on));
    let machine = Coordinator::new(config, env::seed()?);
    serve::<R>(machine, options, out, |bound| {
        http_ready("coordinator", "agents", bound)
    })
}
