//! Scenario 16: several nodes on one database and one folder, each in its own network namespace.
//!
//! The scenario runs in a separate process, in new namespaces for network, mounts and processes: addresses
//! and ports are free there, and everything in them ends with that process.

use std::fs;
use std::process::Command;

use anyhow::{Context, ensure};

use crate::lab::{Lab, Notebook};
use crate::postgres::Postgres;
use crate::results::Results;
use crate::scenario::on_postgres::{ManyRows, beside_many_rows};
use crate::subject::Subject;

mod capped;
mod network;
mod nodes;
mod takeover;

pub(crate) use capped::{CAPPED_ALL, CAPPED_ONE};
pub(crate) use takeover::{CUT_OFF, HEALTHY, KILLED, SILENT};

/// The environment variable that is set within the namespaces.
const INSIDE: &str = "BENCH_INSIDE_NAMESPACES";

const NUMBER: u8 = 16;

/// The subject of all samples of this scenario.
const SUBJECT: Subject = Subject::LongshorePostgres;

pub(crate) fn run(lab: &Lab, book: &mut Notebook) -> anyhow::Result<()> {
    if lab.present(&[SUBJECT], book).is_empty() {
        return Ok(());
    }
    if std::env::var_os(INSIDE).is_some() {
        return measure(lab, book);
    }
    if !can_make_namespaces() {
        book.note("Not measured: network namespaces could not be made, which takes root, `unshare`, `ip` and `tc`.");
        return Ok(());
    }
    run_inside(lab, book)
}

fn can_make_namespaces() -> bool {
    let succeeds = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    let tools = [("ip", "-Version"), ("tc", "-Version")];
    tools.into_iter().all(|(tool, version)| succeeds(Command::new(tool).arg(version)))
        && succeeds(Command::new("unshare").args(["--net", "--mount", "--pid", "--fork", "true"]))
}

/// Runs this scenario again in new namespaces, and takes over its results.
fn run_inside(lab: &Lab, book: &mut Notebook) -> anyhow::Result<()> {
    let out = lab.kit.empty_folder_called("namespaces")?;
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command.arg(std::env::current_exe()?).args(["run", "--only", &NUMBER.to_string()]);
    command.args(["--rounds", &lab.rounds.to_string(), "--rows", &lab.rows.to_string()]);
    command.arg("--out").arg(&out).arg("--longshore").arg(lab.kit.longshore_program());
    command.arg("--peers").arg(lab.kit.peers()).arg("--scratch").arg(lab.kit.scratch().join("inside"));
    if lab.plan.quick {
        command.arg("--quick");
    }
    let status = command.env(INSIDE, "1").status().context("could not run unshare")?;
    ensure!(status.success(), "the run in the namespaces failed ({status})");
    let mut results = Results::load(&out.join("benchmarks/results.json"))?;
    fs::remove_dir_all(&out)?;
    book.absorb(results.scenarios.remove(&NUMBER).context("the run in the namespaces left no results")?);
    Ok(())
}

fn measure(lab: &Lab, book: &mut Notebook) -> anyhow::Result<()> {
    network::prepare()?;
    book.note(
        "Three nodes, each in its own network namespace, and PostgreSQL, the generator and the shared folder on the \
         same machine. Clients know the committed offset and send 64 KiB from there to another node, of an upload for \
         which the first node has an open request. The time is from that request, or from the failure if it is \
         earlier, to the 2xx response; a client that gets another response repeats its request after 50 ms.",
    );
    let postgres = Postgres::start(&lab.kit.empty_folder_called("postgres")?, network::HERE.into())?;
    takeover::measure(lab, &*postgres.create_database()?, str::to_owned, book);
    capped::measure(lab, &*postgres.create_database()?, book);
    if lab.rows > 0 {
        let rows = ManyRows::prepare_in(&postgres, lab, book)?;
        takeover::measure(lab, &*rows.copy()?, beside_many_rows, book);
    }
    Ok(())
}
