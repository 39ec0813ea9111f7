//! The command line: its arguments, and the selection of the subcommand.
//!
//! Owns the texts of `--help`, exit codes, and the output on stdout. Flags are not listed here: they are the
//! keys of the configuration. Exit codes: 0 success, 1 failure, 2 wrong usage or configuration; a health
//! check uses only 0 and 1, because container engines reserve 2.

mod admin_key;
mod config;
mod health;
mod migrate;
mod move_state;
mod nodes;
mod serve;
mod settings;
mod store;
#[cfg(test)]
mod tests;
mod uploads;
mod webhooks;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::{env, io};

use clap::Command;

use crate::config::{Config, ConfigErrors, VARIABLE_PREFIX};
use crate::terminal::escaped_lines;

pub use migrate::{MigrateMode, MigrateReport};
pub use move_state::{MoveCommand, TableProgress};
pub use settings::load;

const ABOUT: &str = "A dedicated server for very large, resumable uploads";

const EXAMPLES: &str = "\
Examples:
  longshore serve                                 on 127.0.0.1:8080, with all data in ./data
  longshore config --defaults > longshore.toml    a commented file to start from
  longshore serve --config longshore.toml
  longshore serve --listen 0.0.0.0:8080 --auth-token-file /run/secrets/token
  longshore config --config longshore.toml        values in force and their sources
  longshore migrate --check                       migrations that the next start would apply
  longshore store check                           what the configured object store can do
  longshore health                                exit 0 if the server is ready, else 1
  longshore admin-key                             make a key for managing webhooks
  longshore uploads list --stage receiving        uploads that are receiving bytes
  longshore webhooks listen                       receive events here, verify and print them
  longshore nodes                                 the living nodes of a cluster";

/// Returns the definition of the whole command line.
pub fn command() -> Command {
    Command::new("longshore")
        .bin_name("longshore")
        .about(ABOUT)
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommand(serve::command())
        .subcommand(config::command())
        .subcommand(migrate::command())
        .subcommand(move_state::command())
        .subcommand(store::command())
        .subcommand(health::command())
        .subcommand(admin_key::command())
        .subcommand(uploads::command())
        .subcommand(webhooks::command())
        .subcommand(nodes::command())
        .subcommand(nodes::drain_command())
}

/// The work of the subcommands that need the whole program.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Runs the server, and returns once it has stopped.
    pub serve: fn(Config) -> anyhow::Result<()>,
    pub migrate: fn(Config, MigrateMode) -> anyhow::Result<MigrateReport>,
    /// Tries the object store, and returns a report for people.
    pub check_store: fn(Config) -> anyhow::Result<String>,
    /// Moves records, shows its progress, and returns a report for people.
    pub move_state: fn(MoveCommand, &mut dyn FnMut(TableProgress)) -> anyhow::Result<String>,
}

/// Runs the subcommand.
pub fn run(program: Program) -> ExitCode {
    let matches = command().get_matches();
    let outcome = environment().map_err(Failure::Configuration).and_then(|env| match matches.subcommand() {
        Some(("serve", matches)) => serve::run(matches, &env, program.serve),
        Some(("migrate", matches)) => migrate::run(matches, &env, &mut io::stdout().lock(), program.migrate),
        Some(("config", matches)) => config::run(matches, &env, &mut io::stdout().lock()),
        Some(("move-state", matches)) => move_state::run(matches, &mut io::stdout(), program.move_state),
        Some(("store", matches)) => store::run(matches, &env, &mut io::stdout().lock(), program.check_store),
        Some(("health", matches)) => health::run(matches, &env, &mut io::stdout().lock()),
        Some(("admin-key", _)) => admin_key::run(&mut io::stdout().lock()),
        Some(("uploads", matches)) => uploads::run(matches, &own_variables(), &mut io::stdout()),
        Some(("webhooks", matches)) => webhooks::run(matches, &own_variables(), &mut io::stdout()),
        Some(("nodes", matches)) => nodes::run(matches, &own_variables(), &mut io::stdout()),
        Some(("drain", matches)) => nodes::drain(matches, &own_variables(), &mut io::stdout()),
        _ => unreachable!("clap demands a known subcommand"),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Variables of the command line that are not keys of the configuration.
const NOT_KEYS: [&str; 3] = [webhooks::SERVER_VARIABLE, webhooks::KEY_VARIABLE, webhooks::TOKEN_VARIABLE];

fn own_variables() -> BTreeMap<String, String> {
    NOT_KEYS.into_iter().filter_map(|name| env::var(name).ok().map(|value| (name.to_owned(), value))).collect()
}

/// Returns the variables of this process that are keys of the configuration.
pub(crate) fn environment() -> Result<BTreeMap<String, String>, ConfigErrors> {
    let ours = |name: &std::ffi::OsString| {
        let name = name.to_string_lossy();
        name.starts_with(VARIABLE_PREFIX) && !NOT_KEYS.contains(&name.as_ref())
    };
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        let name = name.to_string_lossy().into_owned();
        let value =
            value.into_string().map_err(|_| ConfigErrors::one(format!("{name}: not UTF-8; write plain text")))?;
        Ok((name, value))
    };
    env::vars_os().filter(|(name, _)| ours(name)).map(text).collect()
}

/// Reason why a subcommand failed.
#[derive(Debug)]
enum Failure {
    Configuration(ConfigErrors),
    Serving(anyhow::Error),
    /// Migrations are pending; they have been printed.
    Pending,
    /// The complete message, in one line.
    NotReady(String),
    /// The arguments are invalid.
    NotUnderstood(String),
}

impl Failure {
    fn report(self) -> ExitCode {
        let (text, code) = match self {
            Self::Configuration(errors) => {
                (format!("longshore: the configuration cannot be used\n  {}", errors.lines().join("\n  ")), 2)
            }
            Self::Serving(error) => (format!("longshore: {error:#}"), 1),
            Self::Pending => return ExitCode::FAILURE,
            Self::NotReady(reason) => (format!("not ready: {reason}"), 1),
            Self::NotUnderstood(reason) => (format!("longshore: {reason}"), 2),
        };
        // If stderr is closed, the error cannot be reported.
        drop(writeln!(io::stderr().lock(), "{}", escaped_lines(&text)));
        ExitCode::from(code)
    }
}

/// Prints a whole text, escaped for terminals. A reader that has closed the pipe, such as `head`, is not an
/// error.
fn print(out: &mut dyn Write, text: &str) -> Result<(), Failure> {
    match out.write_all(escaped_lines(text).as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Serving(anyhow::Error::new(error).context("could not write to stdout")))
        }
        _ => Ok(()),
    }
}
