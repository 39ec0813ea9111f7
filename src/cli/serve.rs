//! `longshore serve`: reads the configuration and serves until it is stopped.

use std::collections::BTreeMap;

use clap::{ArgMatches, Command};

use crate::cli::{Failure, settings};
use crate::config::Config;

pub(super) fn command() -> Command {
    Command::new("serve")
        .about("Serve uploads until SIGTERM or SIGINT")
        .args(settings::all_flags())
        .after_help(settings::AFTER_HELP)
}

pub(super) fn run(
    matches: &ArgMatches,
    env: &BTreeMap<String, String>,
    serve: impl FnOnce(Config) -> anyhow::Result<()>,
) -> Result<(), Failure> {
    let config = settings::load(matches, env).map_err(Failure::Configuration)?;
    serve(config).map_err(Failure::Serving)
}
