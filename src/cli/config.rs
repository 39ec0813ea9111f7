//! `longshore config`: prints the effective configuration, or the commented defaults.

use std::collections::BTreeMap;
use std::io::Write;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::cli::{Failure, print, settings};
use crate::config::{DEFAULTS, ResolvedConfig};

pub(super) fn command() -> Command {
    let defaults = Arg::new("defaults")
        .long("defaults")
        .action(ArgAction::SetTrue)
        .help("Print the commented default file instead, as a reference or a starting point");
    Command::new("config")
        .about("Check the configuration and print the values in force, with secrets hidden")
        .arg(defaults)
        .args(settings::all_flags())
        .after_help(settings::AFTER_HELP)
}

pub(super) fn run(matches: &ArgMatches, env: &BTreeMap<String, String>, out: &mut dyn Write) -> Result<(), Failure> {
    if matches.get_flag("defaults") {
        return print(out, DEFAULTS);
    }
    let resolved = settings::inputs(matches, env).and_then(|inputs| ResolvedConfig::read(&inputs));
    print(out, &resolved.map_err(Failure::Configuration)?.to_toml())
}
