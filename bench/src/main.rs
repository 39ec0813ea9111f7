//! The benchmark suite: `bench run` measures, `bench report` writes the report. `bench/run` calls both.
//!
//! - `scenario` drives servers and returns numbers; it does not evaluate them.
//! - `report` evaluates and plots numbers; it measures nothing. The interface between the two is
//!   results.json.
//! - `kit` knows every server: add one there.
//! - `floor` is a server that does almost nothing, to show the limits of the generator and the disk.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::kit::Kit;
use crate::lab::{Lab, Notebook};
use crate::machine::Machine;
use crate::payload::Payload;
use crate::plan::Plan;
use crate::results::Results;
use crate::subject::Subject;

mod certificate;
mod floor;
mod h2_client;
mod kit;
mod lab;
mod machine;
mod payload;
mod plan;
mod postgres;
mod process;
mod receiver;
mod report;
mod results;
mod scenario;
mod server;
mod stats;
mod subject;
mod tus;
mod wire;
mod words;

/// Open files for 10,000 connections on either side.
const FILES: u64 = 65_536;

fn main() -> ExitCode {
    let matches = command().get_matches();
    let done = match matches.subcommand() {
        Some(("run", matches)) => run(matches),
        Some(("report", matches)) => report::write(&path(matches, "out")),
        Some((name @ ("sink" | "bare"), matches)) => {
            let folder = (name == "bare").then(|| path(matches, "dir"));
            serve_floor(matches, folder)
        }
        _ => unreachable!("a subcommand is required"),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve_floor(matches: &ArgMatches, folder: Option<PathBuf>) -> anyhow::Result<()> {
    let tls = match matches.contains_id("certificate") {
        true => Some(floor::tls(&path(matches, "certificate"), &path(matches, "key"))?),
        false => None,
    };
    floor::serve(*matches.get_one::<u16>("port").expect("it is required"), folder, tls)
}

fn command() -> Command {
    let out = Arg::new("out").long("out").value_name("DIR").default_value("docs").help("The folder for benchmarks.md");
    let text = |name: &'static str, help: &'static str| Arg::new(name).long(name).value_name("PATH").help(help);
    let floor = |name: &'static str, about: &'static str| {
        let port = Arg::new("port").long("port").value_parser(clap::value_parser!(u16)).required(true);
        let folder = text("dir", "The folder to write to").default_value(".");
        let key = text("key", "Its private key").requires("certificate");
        let certificate = text("certificate", "Serve TLS 1.3 with this certificate").requires("key");
        Command::new(name).about(about).args([port, folder, certificate, key])
    };
    let run = Command::new("run")
        .about("Measure, and store the numbers in OUT/benchmarks/results.json")
        .arg(out.clone())
        .arg(Arg::new("only").long("only").value_name("LIST").value_delimiter(',').help("Scenarios, such as 1,2,6"))
        .arg(Arg::new("servers").long("servers").value_name("LIST").value_delimiter(',').help("The servers to measure"))
        .arg(Arg::new("rounds").long("rounds").value_parser(clap::value_parser!(u32).range(1..)).default_value("5"))
        .arg(
            Arg::new("rows")
                .long("rows")
                .value_parser(clap::value_parser!(u64))
                .help("Upload records for the runs beside many rows in 15 and 16; 0: no such runs [default: 1000000]"),
        )
        .arg(Arg::new("quick").long("quick").action(ArgAction::SetTrue).help("Small sizes and one round"))
        .arg(text("root", "The repository").default_value("."))
        .arg(text("longshore", "The server").default_value("target/release/longshore"))
        .arg(text("before", "An earlier build of the server, measured alternately with this one"))
        .arg(text("peers", "The folder with the peers that bench/run installed").default_value("target/bench-peers"))
        .arg(
            text("scratch", "The folder that servers write to, on the disk to measure")
                .default_value("target/bench-data"),
        );
    Command::new("bench")
        .about("Measures Longshore side by side with other upload servers")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(run)
        .subcommand(Command::new("report").about("Write benchmarks.md and its plots from results.json").arg(out))
        .subcommand(floor("sink", "A server that discards uploads"))
        .subcommand(floor("bare", "A server that receives and writes directly, nothing else"))
}

fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    process::end_all_on_signal().context("could not wait for signals")?;
    let file = path(matches, "out").join("benchmarks/results.json");
    let chosen = scenarios(matches)?;
    let lab = lab(matches)?;
    for scenario in chosen {
        eprintln!("=== {} {}", scenario.number, scenario.title);
        let mut book = Notebook::new(scenario.number);
        (scenario.run)(&lab, &mut book).with_context(|| format!("scenario {} failed", scenario.number))?;
        // The file is read again each time: a scenario takes minutes, and another run may have written
        // meanwhile.
        let mut results = Results::load(&file)?;
        results.scenarios.insert(scenario.number, book.close(&lab));
        results.save(&file)?;
    }
    Ok(())
}

fn lab(matches: &ArgMatches) -> anyhow::Result<Lab> {
    let quick = matches.get_flag("quick");
    let scratch = path(matches, "scratch");
    let kit = Kit::find(&path(matches, "root"), &path(matches, "longshore"), &path(matches, "peers"), &scratch)?
        .beside(matches.get_one::<String>("before").map(PathBuf::from))?;
    let rounds = *matches.get_one::<u32>("rounds").expect("it has a default");
    let plan = if quick { Plan::quick() } else { Plan::full() };
    Ok(Lab {
        machine: Machine::look(kit.scratch())?,
        files_allowed: process::allow_files(FILES)?,
        payload: Payload::prepare()?,
        rows: matches.get_one::<u64>("rows").copied().unwrap_or(plan.rows),
        plan,
        chosen: subjects(matches)?,
        rounds: if quick { 1 } else { rounds },
        kit,
    })
}

fn scenarios(matches: &ArgMatches) -> anyhow::Result<Vec<&'static scenario::Scenario>> {
    let Some(wanted) = matches.get_many::<String>("only") else { return Ok(scenario::ALL.iter().collect()) };
    wanted
        .map(|wanted| {
            let found = scenario::ALL.iter().find(|scenario| scenario.number.to_string() == *wanted);
            found.with_context(|| format!("there is no scenario {wanted}; they are 1 to 16"))
        })
        .collect()
}

/// Returns the selected subjects. The baselines always run, because the other numbers are compared with them.
fn subjects(matches: &ArgMatches) -> anyhow::Result<Vec<Subject>> {
    let Some(wanted) = matches.get_many::<String>("servers") else { return Ok(Subject::ALL.to_vec()) };
    let mut chosen = vec![Subject::Sink, Subject::Bare, Subject::LongshoreBefore];
    for name in wanted {
        match Subject::named(name) {
            Some(subject) => chosen.push(subject),
            None => bail!("no server is called {name}; they are {}", Subject::ALL.map(Subject::name).join(", ")),
        }
    }
    Ok(chosen)
}

fn path(matches: &ArgMatches, name: &str) -> PathBuf {
    PathBuf::from(matches.get_one::<String>(name).expect("it has a default"))
}
