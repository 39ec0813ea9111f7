//! `longshore store check`: tries the configured object store.

use std::collections::BTreeMap;
use std::io::Write;

use clap::{ArgMatches, Command};

use crate::cli::{Failure, print, settings};
use crate::config::Config;

const AFTER_HELP: &str = "\
Writes small objects below the prefix, and removes them. The configuration is that of serve.

  longshore store check --config longshore.toml
  LONGSHORE_S3_BUCKET=uploads LONGSHORE_S3_ENDPOINT=https://s3.example.com longshore store check";

pub(super) fn command() -> Command {
    let check = Command::new("check")
        .about("Try the bucket, and print what the store can do and what follows")
        .args(settings::all_flags())
        .after_help(AFTER_HELP);
    Command::new("store")
        .about("Check the object store")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommand(check)
}

pub(super) fn run(
    matches: &ArgMatches,
    env: &BTreeMap<String, String>,
    out: &mut dyn Write,
    check: impl FnOnce(Config) -> anyhow::Result<String>,
) -> Result<(), Failure> {
    let Some(("check", matches)) = matches.subcommand() else { unreachable!("clap demands a known subcommand") };
    let config = settings::load(matches, env).map_err(Failure::Configuration)?;
    let report = check(config).map_err(Failure::Serving)?;
    print(out, &report)
}
