//! `longshore migrate`: brings the database to the schema of this program, or shows what that would change.

use std::collections::BTreeMap;
use std::io::Write;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::cli::{Failure, print, settings};
use crate::config::Config;

/// The action of the subcommand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigrateMode {
    /// Compares the schemas and changes nothing.
    Check,
    Apply,
}

/// The result of the subcommand, for people and for scripts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrateReport {
    pub text: String,
    /// True if no migration is pending any more.
    pub is_current: bool,
}

const AFTER_HELP: &str = "\
A single server migrates its database when it starts, and needs this command only to do so in advance. Nodes of a \
cluster apply migrations beside which nodes of the version before keep working. This command also applies those that \
exclude older versions, once no such node is running.

With --check the exit code is 1 if migrations are pending.";

pub(super) fn command() -> Command {
    let check = Arg::new("check")
        .long("check")
        .action(ArgAction::SetTrue)
        .help("Print the pending migrations, and change nothing");
    Command::new("migrate")
        .about("Bring the database to the schema of this program")
        .arg(check)
        .args(settings::all_flags())
        .after_help(AFTER_HELP)
}

pub(super) fn run(
    matches: &ArgMatches,
    env: &BTreeMap<String, String>,
    out: &mut dyn Write,
    migrate: impl FnOnce(Config, MigrateMode) -> anyhow::Result<MigrateReport>,
) -> Result<(), Failure> {
    let mode = if matches.get_flag("check") { MigrateMode::Check } else { MigrateMode::Apply };
    let config = settings::load(matches, env).map_err(Failure::Configuration)?;
    let report = migrate(config, mode).map_err(Failure::Serving)?;
    print(out, &report.text)?;
    if report.is_current { Ok(()) } else { Err(Failure::Pending) }
}
