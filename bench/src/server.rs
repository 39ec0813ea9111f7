//! Starts a server on loopback with an empty folder of its own, watches it, and leaves nothing behind.

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
use crate::process;
use crate::subject::Subject;
use crate::tus::{Client, Target};

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A receiver, and what it is told; tusd takes one.
#[derive(Debug, Clone)]
pub(crate) struct Hook {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    /// As Longshore calls them.
    pub(crate) events: &'static [&'static str],
}

/// How a scenario wants its server.
#[derive(Debug, Default, Clone)]
pub(crate) struct Setup {
    pub(crate) tls: Option<Arc<Certificate>>,
    /// Who is told of what.
    pub(crate) hooks: Vec<Hook>,
    /// When Longshore tries again, instead of its own waits.
    pub(crate) retry_schedule: Option<&'static [&'static str]>,
    /// How often tusd tries to reach its hook, instead of three times.
    pub(crate) tusd_tries: Option<u32>,
    /// A SHA-256 of every upload; only Longshore computes one.
    pub(crate) sha256: bool,
    /// This many uploads at once are expected; a server that has limits gets limits above it.
    pub(crate) uploads_at_once: Option<usize>,
    /// Use this folder and keep it, instead of an empty one.
    pub(crate) data: Option<PathBuf>,
    /// A control group to put the server in, by its `cgroup.procs`.
    pub(crate) group: Option<PathBuf>,
}

/// Where the server is to listen and write; what its command line is made from.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) setup: &'a Setup,
    pub(crate) port: u16,
    pub(crate) read_port: u16,
    pub(crate) folder: &'a Path,
}

/// A running server. Dropped, it is killed and its folder removed.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) subject: Subject,
    pub(crate) target: Target,
    /// Where reading is answered; the same as `target` where there is no second listener.
    pub(crate) read_address: SocketAddr,
    pub(crate) folder: PathBuf,
    pub(crate) command: String,
    /// From the start of the process until it listened.
    pub(crate) start_up: Duration,
    /// Resident memory before the first request.
    pub(crate) idle: u64,
    keep: bool,
    child: Child,
}

impl Running {
    pub(crate) fn start(kit: &Kit, subject: Subject, setup: &Setup) -> anyhow::Result<Self> {
        let folder = match &setup.data {
            Some(folder) => folder.clone(),
            None => kit.empty_folder(subject)?,
        };
        let [port, read_port] = free_ports()?;
        let place = Place { setup, port, read_port, folder: &folder };
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
        };
        if let Some(group) = &setup.group {
            fs::write(group, running.pid().to_string()).context("could not put a server into its control group")?;
        }
        running.wait_until_ready(&log_path)?;
        running.start_up = began.elapsed();
        // Threads and tables that a server sets up on its own are part of the idle one.
        thread::sleep(Duration::from_millis(300));
        running.idle = process::resident(running.pid())?;
        Ok(running)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.target)
    }

    /// A client of the listener that answers questions.
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
                // It says so itself, which is also what its start-up is measured by.
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
        // Neither can fail in a way that matters: the process has ended, or
        // the folder is looked at by the next run.
        self.child.kill().ok();
        self.child.wait().ok();
        if !self.keep {
            fs::remove_dir_all(&self.folder).ok();
            rustix::fs::sync();
        }
    }
}

/// Two ports that were free a moment ago.
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
