//! `longshore move-state`: moves the records of a stopped server from SQLite to PostgreSQL.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::cli::{Failure, print};
use crate::config::read_secret;
use crate::terminal::ProgressBar;

/// The order that the arguments give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MoveCommand {
    Move {
        data_dir: PathBuf,
        url: String,
        password: Option<String>,
    },
    /// Lets servers use the source again.
    Undo {
        data_dir: PathBuf,
    },
}

/// The progress of the copying or the comparison of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableProgress {
    pub action: &'static str,
    pub table: &'static str,
    pub done: u64,
    pub total: u64,
}

const AFTER_HELP: &str = "\
Stop the server first. PATH is its data folder. The target must be an empty database. The files of uploads stay in the \
data folder: afterwards, start the server with the same data folder and with database.url.

If the command is interrupted, repeat it: it continues where it was. Until it has finished, no server starts with \
either database. --undo lets servers use the SQLite database again; changes made in PostgreSQL since then are not \
moved back.

Examples:
  longshore move-state sqlite:./data postgres://longshore@db.internal/longshore --password-file /etc/longshore/password
  longshore move-state --undo sqlite:./data";

pub(super) fn command() -> Command {
    let source =
        Arg::new("source").value_name("sqlite:PATH").required(true).help("The data folder of the stopped server");
    let target = Arg::new("target")
        .value_name("postgres:URL")
        .required_unless_present("undo")
        .conflicts_with("undo")
        .help("The empty database, as in database.url");
    let password = Arg::new("password-file")
        .long("password-file")
        .value_name("FILE")
        .conflicts_with("undo")
        .help("File with the password of the database");
    let undo = Arg::new("undo")
        .long("undo")
        .action(ArgAction::SetTrue)
        .help("Abandon a move, or take it back: servers may use the SQLite database again");
    Command::new("move-state")
        .about("Move the records of a stopped server from SQLite to PostgreSQL")
        .args([source, target, password, undo])
        .after_help(AFTER_HELP)
}

pub(super) fn run(
    matches: &ArgMatches,
    out: &mut dyn Write,
    move_state: impl FnOnce(MoveCommand, &mut dyn FnMut(TableProgress)) -> anyhow::Result<String>,
) -> Result<(), Failure> {
    let command = parse(matches).map_err(Failure::NotUnderstood)?;
    let is_terminal = io::stderr().is_terminal();
    let mut bar = ProgressBar::new(io::stderr(), is_terminal);
    let outcome = move_state(command, &mut |it| bar.show(&format!("{} {}", it.action, it.table), it.done, it.total));
    bar.finish();
    print(out, &outcome.map_err(Failure::Serving)?)
}

fn parse(matches: &ArgMatches) -> Result<MoveCommand, String> {
    let given = |name: &str| matches.get_one::<String>(name).cloned();
    let source = given("source").unwrap_or_default();
    let Some(path) = source.strip_prefix("sqlite:").filter(|path| !path.is_empty()) else {
        return Err(format!("{source} is not a source; write sqlite: and the data folder, such as sqlite:./data"));
    };
    let data_dir = folder_of(Path::new(path));
    let Some(url) = given("target") else { return Ok(MoveCommand::Undo { data_dir }) };
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err("the target must be the URL of a PostgreSQL database, such as postgres://user@host/name".to_owned());
    }
    let password = given("password-file").map(|path| read_secret(&path)).transpose();
    let password = password.map_err(|why| format!("--password-file: {why}"))?;
    Ok(MoveCommand::Move { data_dir, url, password })
}

/// Returns the data folder, also for the path of the database in it.
fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if path.extension().is_some_and(|it| it == "db") && path.is_file() => {
            if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() }
        }
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<MoveCommand, String> {
        let matches = command().try_get_matches_from(line.split_whitespace());
        parse(&matches.map_err(|error| error.to_string())?)
    }

    #[test]
    fn both_ends_of_a_move_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let password = folder.path().join("password");
        std::fs::write(&password, "secret\n").unwrap();
        std::fs::write(folder.path().join("longshore.db"), "").unwrap();
        let at = folder.path().display();
        let line =
            format!("move-state sqlite:{at}/longshore.db postgres://a@b/c --password-file {}", password.display());
        let expected = MoveCommand::Move {
            data_dir: folder.path().to_owned(),
            url: "postgres://a@b/c".to_owned(),
            password: Some("secret".to_owned()),
        };
        assert_eq!(parsed(&line), Ok(expected));
        let undo = MoveCommand::Undo { data_dir: folder.path().to_owned() };
        assert_eq!(parsed(&format!("move-state --undo sqlite:{at}")), Ok(undo));
        for (wrong, why) in [
            ("move-state ./data postgres://a@b/c", "sqlite:./data"),
            ("move-state sqlite: postgres://a@b/c", "sqlite:./data"),
            ("move-state sqlite:./data mysql://a@b/c", "PostgreSQL"),
            ("move-state sqlite:./data", "postgres:URL"),
            ("move-state --undo sqlite:./data postgres://a@b/c", "cannot be used with"),
            ("move-state sqlite:./data postgres://a@b/c --password-file /none", "could not read"),
        ] {
            let error = parsed(wrong).unwrap_err();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }
}
