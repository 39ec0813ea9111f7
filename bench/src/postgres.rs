//! A PostgreSQL server for one measurement, with durable settings, and databases in it.
//!
//! It has its own empty folder on the disk that is measured. As root it runs as the user `postgres`, because
//! the server refuses to run as root. It ends, and its folder is removed, when the last handle is dropped.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// The folders of Debian's packages, one for each version.
const PACKAGES: &str = "/usr/lib/postgresql";

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The name of the user and of the first database.
const USER: &str = "postgres";

/// The settings that differ from the server's defaults. Commits are synced to the disk, as by default.
const SETTINGS: &str = "max_connections = 200
shared_buffers = 512MB
max_wal_size = 2GB
fsync = on
full_page_writes = on
synchronous_commit = on
unix_socket_directories = ''
";

/// The programs of one version.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    folder: PathBuf,
    /// The user and the group that the server runs as, if this process is root.
    owner: Option<(u32, u32)>,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Postgres {
    programs: Programs,
    folder: PathBuf,
    address: SocketAddr,
    databases: AtomicU32,
    child: Child,
}

/// A database of a server. It is dropped with this value.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) server: Arc<Postgres>,
    name: String,
}

impl Programs {
    /// Finds the programs of the oldest version that Longshore supports, which is 15, or of the next one.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let versions = fs::read_dir(PACKAGES).into_iter().flatten().flatten();
        let mut versions: Vec<u32> = versions
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|version| *version >= 15)
            .collect();
        versions.sort_unstable();
        let version = versions.first().with_context(|| format!("PostgreSQL 15 or later is not in {PACKAGES}"))?;
        let owner =
            if rustix::process::geteuid().is_root() { Some((number_of("-u")?, number_of("-g")?)) } else { None };
        Ok(Self { folder: Path::new(PACKAGES).join(version.to_string()).join("bin"), owner })
    }

    /// Returns the version, such as `PostgreSQL 15.20`.
    pub(crate) fn version(&self) -> anyhow::Result<String> {
        let output = self.command("postgres").arg("--version").output().context("could not run PostgreSQL")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let number = text.split(' ').nth(2).context("PostgreSQL did not report its version")?;
        Ok(format!("PostgreSQL {}", number.trim()))
    }

    /// Returns the command for a program, which runs as the owner.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.folder.join(program));
        if let Some((user, group)) = self.owner {
            command.uid(user).gid(group);
        }
        command.current_dir("/").stdin(Stdio::null());
        command
    }
}

/// Returns the number of the owner's user (`-u`) or group (`-g`).
fn number_of(which: &str) -> anyhow::Result<u32> {
    let output = Command::new("id").args([which, USER]).output().context("could not run id")?;
    String::from_utf8_lossy(&output.stdout).trim().parse().with_context(|| format!("there is no user {USER}"))
}

impl Postgres {
    /// Starts a server in a new folder, listening on a free port of this address.
    pub(crate) fn start(folder: &Path, address: IpAddr) -> anyhow::Result<Arc<Self>> {
        let programs = Programs::find()?;
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        if let Some((user, group)) = programs.owner {
            chown(folder, Some(user), Some(group))?;
        }
        let data = folder.join("data");
        let output = programs
            .command("initdb")
            .args(["--username", USER, "--auth", "trust", "--encoding", "UTF8", "--no-locale", "--pgdata"])
            .arg(&data)
            .output()
            .context("could not run initdb")?;
        ensure!(output.status.success(), "initdb failed: {}", String::from_utf8_lossy(&output.stderr));
        let port = TcpListener::bind((address, 0))?.local_addr()?.port();
        let settings = format!("{SETTINGS}listen_addresses = '{address}'\nport = {port}\n");
        append(&data.join("postgresql.conf"), &settings)?;
        append(&data.join("pg_hba.conf"), &format!("host all all {address}/24 trust\n"))?;
        let log = File::create(folder.join("server.log"))?;
        let child = programs
            .command("postgres")
            .arg("-D")
            .arg(&data)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("could not start PostgreSQL")?;
        let address = SocketAddr::from((address, port));
        let mut server = Self { programs, folder: folder.to_owned(), address, databases: AtomicU32::new(0), child };
        server.wait_until_ready()?;
        Ok(Arc::new(server))
    }

    /// Creates a database without tables.
    pub(crate) fn create_database(self: &Arc<Self>) -> anyhow::Result<Arc<Database>> {
        self.create("template0")
    }

    /// Creates a copy of a database that no program has open.
    pub(crate) fn copy_database(self: &Arc<Self>, original: &Database) -> anyhow::Result<Arc<Database>> {
        self.create(&format!("{} STRATEGY file_copy", original.name))
    }

    fn create(self: &Arc<Self>, template: &str) -> anyhow::Result<Arc<Database>> {
        let name = format!("bench_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql(USER, &format!("CREATE DATABASE {name} TEMPLATE {template}"))?;
        // The copied pages and the checkpoint of a new database belong to no measurement.
        self.sql(USER, "CHECKPOINT")?;
        Ok(Arc::new(Database { server: Arc::clone(self), name }))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
                bail!("PostgreSQL ended at once ({status}): {}", log.trim());
            }
            match self.sql(USER, "SELECT 1") {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error.context("PostgreSQL did not start")),
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Executes statements and returns the rows, one on each line.
    fn sql(&self, database: &str, statements: &str) -> anyhow::Result<String> {
        let mut psql = self.psql(database);
        psql.args(["--command", statements]);
        output_of(psql)
    }

    fn psql(&self, database: &str) -> Command {
        let mut psql = Command::new(self.programs.folder.join("psql"));
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1"]);
        psql.args(["--username", USER, "--dbname", database]);
        psql.args(["--host", &self.address.ip().to_string(), "--port", &self.address.port().to_string()]);
        psql
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Nothing in the folder is needed any more. A server that gets SIGQUIT ends its processes first;
        // one that is killed does not.
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::QUIT).ok();
        self.child.wait().ok();
        fs::remove_dir_all(&self.folder).ok();
        rustix::fs::sync();
    }
}

impl Database {
    /// Returns the value for `database.url`.
    pub(crate) fn url(&self) -> String {
        format!("postgres://{USER}@{}/{}?sslmode=disable", self.server.address, self.name)
    }

    /// Executes statements and returns the rows, one on each line.
    pub(crate) fn sql(&self, statements: &str) -> anyhow::Result<String> {
        self.server.sql(&self.name, statements)
    }

    /// Executes the statements of a file with these variables.
    pub(crate) fn run_file(&self, file: &Path, variables: &[(&str, String)]) -> anyhow::Result<()> {
        let mut psql = self.server.psql(&self.name);
        for (name, value) in variables {
            psql.args(["--set", &format!("{name}={value}")]);
        }
        psql.arg("--file").arg(file);
        output_of(psql).map(drop)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // If it fails, the database ends with its server.
        self.server.sql(USER, &format!("DROP DATABASE {} WITH (FORCE)", self.name)).ok();
    }
}

fn output_of(mut command: Command) -> anyhow::Result<String> {
    let output = command.output().context("could not run psql")?;
    ensure!(output.status.success(), "a statement failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn append(file: &Path, text: &str) -> anyhow::Result<()> {
    let before = fs::read_to_string(file)?;
    fs::write(file, before + text).with_context(|| format!("could not write {}", file.display()))
}
