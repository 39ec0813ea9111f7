//! Nodes of a cluster, one on each host.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{Lab, Notebook};
use crate::postgres::Database;
use crate::scenario::cluster::SUBJECT;
use crate::scenario::cluster::network::Host;
use crate::tus::{Client, Target};

pub(super) const COUNT: usize = 3;

const PORT: u16 = 8080;
const PEER_PORT: u16 = 7080;

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The key that the nodes share. It protects nothing of value.
const KEY: &str = "bench:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";

pub(super) struct Cluster {
    pub(super) nodes: Vec<Node>,
    folder: PathBuf,
}

pub(super) struct Node {
    pub(super) host: Host,
    program: PathBuf,
    config: PathBuf,
    child: Option<Child>,
}

impl Cluster {
    /// Starts the nodes on new hosts, with this database and an empty folder.
    pub(super) fn start(lab: &Lab, database: &Database, book: &mut Notebook) -> anyhow::Result<Self> {
        let folder = lab.kit.empty_folder_called("cluster")?;
        let key = folder.join("server.key");
        fs::write(&key, KEY)?;
        let mut cluster = Self { nodes: Vec::new(), folder };
        for _ in 0..COUNT {
            let host = Host::add()?;
            let config = cluster.folder.join(format!("{}.toml", host.name));
            let text = settings(&host, &cluster.folder, &key, &database.url());
            book.started(SUBJECT, &described(&text, &cluster.folder, &database.url()));
            fs::write(&config, text)?;
            let program = fs::canonicalize(lab.kit.longshore_program())?;
            let mut node = Node { host, program, config, child: None };
            node.start()?;
            cluster.nodes.push(node);
        }
        // Each node has read the list of nodes with the last one in it.
        thread::sleep(Duration::from_secs(2));
        Ok(cluster)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.iter_mut().for_each(Node::kill);
        // A failure does not matter: the next run handles the folder.
        fs::remove_dir_all(&self.folder).ok();
    }
}

impl Node {
    /// Starts the node and waits until it listens.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        let path = self.config.with_extension("log");
        let log = File::create(&path)?;
        let mut command = self.host.command();
        command.arg(&self.program).args(["serve", "--config"]).arg(&self.config);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let child = self.child.insert(child);
        let deadline = Instant::now() + START_TIMEOUT;
        while !fs::read_to_string(&path)?.contains("listening on http") {
            if let Some(status) = child.try_wait()? {
                bail!("a node ended at once ({status}): {}", fs::read_to_string(&path)?.trim());
            }
            ensure!(Instant::now() < deadline, "a node did not start: {}", fs::read_to_string(&path)?.trim());
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends the process at once.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already.
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Stops the process, or continues it.
    pub(super) fn freeze(&self, is_frozen: bool) -> anyhow::Result<()> {
        let signal = if is_frozen { Signal::STOP } else { Signal::CONT };
        if let Some(child) = &self.child {
            kill_process(Pid::from_child(child), signal)?;
        }
        Ok(())
    }

    pub(super) fn client(&self) -> Client {
        let address = SocketAddr::from((self.host.address, PORT));
        Client::new(&Target { address, files: "/files", tls: None })
    }
}

fn settings(host: &Host, folder: &Path, key: &Path, database: &str) -> String {
    let Host { name, address, .. } = host;
    format!(
        "listen = \"{address}:{PORT}\"\ndata_dir = \"{}\"\nnode_name = \"{name}\"\n\
         [auth]\nopen = true\nhosts = [\"{address}\"]\nserver_key_file = \"{}\"\n\
         [limits]\nmax_active_uploads_per_address = 1000\nmax_connections_per_address = 2000\n\
         [storage]\nshared = true\nscan_rate = 0\n[database]\nurl = \"{database}\"\n\
         [cluster]\npeer_listen = \"{address}:{PEER_PORT}\"\n[log]\nlevel = \"warn\"\n",
        folder.join("data").display(),
        key.display()
    )
}

/// Returns the command of a node for the report, with generic paths.
fn described(settings: &str, folder: &Path, database: &str) -> String {
    let text = settings.replace(&folder.display().to_string(), "DIR").replace(database, "postgres://…");
    format!(
        "longshore serve --config NODE.toml\n\nwith this configuration, and another address for each node:\n\n{}",
        text.trim_end()
    )
}
