//! Starts a server on loopback with its own empty folder, monitors it, and leaves nothing behind.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, bail};

use crate::certificate::Certificate;
use crate::kit::Kit;
use crate::postgres::{Database, Postgres};
use crate::process;
use crate::subject::Subject;
use crate::tus::{Client, Target};

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A receiver, and its events; tusd supports one receiver.
#[derive(Debug, Clone)]
pub(crate) struct Hook {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    /// By Longshore's names.
    pub(crate) events: &'static [&'static str],
}

/// The setup of the server in a scenario.
#[derive(Debug, Default, Clone)]
pub(crate) struct Setup {
    pub(crate) tls: Option<Arc<Certificate>>,
    /// The receivers, each with its events.
    pub(crate) hooks: Vec<Hook>,
    /// Longshore's retry schedule, instead of the default.
    pub(crate) retry_schedule: Option<&'static [&'static str]>,
    /// The number of tusd's attempts to reach its hook, instead of three.
    pub(crate) tusd_tries: Option<u32>,
    /// Longshore does not compare files with records after its start.
    pub(crate) skip_scan: bool,
    /// A SHA-256 of every upload; only Longshore computes one.
    pub(crate) sha256: bool,
    /// The expected number of concurrent uploads; a server with limits gets limits above it.
    pub(crate) uploads_at_once: Option<usize>,
    /// The database of a Longshore on PostgreSQL, instead of an empty one on a server started for it.
    pub(crate) database: Option<Arc<Database>>,
    /// A folder to use and keep, instead of an empty one.
    pub(crate) data: Option<PathBuf>,
    /// The `cgroup.procs` of a control group to put the server in.
    pub(crate) group: Option<PathBuf>,
}

/// The addresses and folders of a server, from which its command line is built.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) setup: &'a Setup,
    pub(crate) port: u16,
    pub(crate) read_port: u16,
    pub(crate) folder: &'a Path,
    /// The database, if it is not in the folder.
    pub(crate) database: Option<&'a Database>,
}

/// A running server. When dropped, it is killed and its folder is removed.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) subject: Subject,
    pub(crate) target: Target,
    /// The address for reads; the same as `target` if there is no second listener.
    pub(crate) read_address: SocketAddr,
    pub(crate) folder: PathBuf,
    pub(crate) command: String,
    /// The time from the start of the process until it listened.
    pub(crate) start_up: Duration,
    /// Resident memory before the first request.
    pub(crate) idle: u64,
    keep: bool,
    child: Child,
    /// The database, if it is not in the folder. It outlives the process.
    database: Option<Arc<Database>>,
}

impl Running {
    pub(crate) fn start(kit: &Kit, subject: Subject, setup: &Setup) -> anyhow::Result<Self> {
        let folder = match &setup.data {
            Some(folder) => folder.clone(),
            None => kit.empty_folder(subject)?,
        };
        let [port, read_port] = free_ports()?;
        let database = match &setup.database {
            None if subject == Subject::LongshorePostgres => Some(empty_database(kit)?),
            given => given.clone(),
        };
        let place = Place { setup, port, read_port, folder: &folder, database: database.as_deref() };
        let mut command = kit.command(subject, &place)?;
        let shown = kit.describe(subject, &command, &place);
        let log_path = folder.with_extension("log");
        let log = File::create(&log_path)?;
        let began = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("could not start {}", subject.label()))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let reads_apart = subject.is_longshore() && kit.knows("read_listen") && setup.tls.is_none();
        let mut running = Self {
            subject,
            target: Target { address, files: kit.files_path(subject), tls: setup.tls.as_ref().map(|one| one.client()) },
            read_address: if reads_apart { SocketAddr::from((Ipv4Addr::LOCALHOST, read_port)) } else { address },
            folder,
            command: shown,
            start_up: Duration::ZERO,
            idle: 0,
            keep: setup.data.is_some(),
            child,
            database,
        };
        if let Some(group) = &setup.group {
            fs::write(group, running.pid().to_string()).context("could not put a server into its control group")?;
        }
        running.wait_until_ready(&log_path)?;
        running.start_up = began.elapsed();
        // Threads and tables that a server creates after its start belong to the idle server.
        thread::sleep(Duration::from_millis(300));
        running.idle = process::resident(running.pid())?;
        Ok(running)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the processor seconds used so far by the server of the database; `None` if the database is in
    /// the process.
    pub(crate) fn database_cpu_seconds(&self) -> anyhow::Result<Option<f64>> {
        self.database.as_ref().map(|database| process::cpu_seconds(database.server.pid())).transpose()
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.target)
    }

    /// Returns a client of the listener for reads.
    pub(crate) fn reader(&self) -> Client {
        Client::new(&Target { address: self.read_address, ..self.target.clone() })
    }

    /// Ends the server as an operator does, so that its database is closed, and keeps its folder.
    pub(crate) fn stop_gently(mut self) -> anyhow::Result<()> {
        self.keep = true;
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.child.wait()?;
        Ok(())
    }

    fn wait_until_ready(&mut self, log: &Path) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let ready = match self.subject {
                // Longshore prints when it listens, which also gives its start-up time.
                subject if subject.is_longshore() => {
                    fs::read_to_string(log).unwrap_or_default().contains("listening on http")
                }
                _ => TcpStream::connect(self.target.address).is_ok(),
            };
            if ready {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended at once ({status}): {}", self.subject.label(), tail(log));
            }
            if Instant::now() > deadline {
                bail!("{} did not start: {}", self.subject.label(), tail(log));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A failure of either does not matter: the process has ended, or the next run handles the folder.
        self.child.kill().ok();
        self.child.wait().ok();
        if !self.keep {
            fs::remove_dir_all(&self.folder).ok();
            rustix::fs::sync();
        }
    }
}

/// Starts a PostgreSQL server, and creates a database in it.
pub(crate) fn empty_database(kit: &Kit) -> anyhow::Result<Arc<Database>> {
    let folder = kit.empty_folder_called("postgres")?;
    Postgres::start(&folder, Ipv4Addr::LOCALHOST.into())?.create_database()
}

/// Returns two ports that were free a moment ago.
fn free_ports() -> anyhow::Result<[u16; 2]> {
    let one = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok([one.local_addr()?.port(), other.local_addr()?.port()])
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}
