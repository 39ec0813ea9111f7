//! Servers of a single test, which it may start, freeze, promote and kill.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use longshore_state_postgres::{DatabaseUrl, PostgresSettings};
use tokio_postgres::{Client, NoTls};

/// A PostgreSQL server with its own folder and port; stopped and removed with this value.
#[derive(Debug)]
pub(crate) struct Server {
    folder: PathBuf,
    port: u16,
}

fn programs() -> PathBuf {
    PathBuf::from(std::env::var("TEST_POSTGRES_BIN").expect("tests/services/postgres.sh names the programs"))
}

/// Runs a program of PostgreSQL, or another one by its path, as the owner of the server, which is not root,
/// and waits for it.
pub(crate) fn run(program: &str, arguments: &[&str]) -> bool {
    let program = programs().join(program);
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    let mut command = if is_root {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    let quiet = || Stdio::null();
    command.args(arguments).current_dir("/").stdin(quiet()).stdout(quiet()).stderr(quiet()).status().unwrap().success()
}

/// Returns a port that nobody listens on, and that no other test was given: it is still free between this
/// call and the start of the server, so that the system may name it twice.
pub(crate) fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

/// Returns the path of a folder that does not exist yet.
pub(crate) fn new_folder() -> PathBuf {
    static FOLDERS: AtomicU32 = AtomicU32::new(0);
    let parent = PathBuf::from(std::env::var("TEST_POSTGRES_PLACE").unwrap());
    parent.join(format!("server-{}-{}", std::process::id(), FOLDERS.fetch_add(1, Ordering::Relaxed)))
}

impl Server {
    /// Creates a server and does not start it.
    pub(crate) fn new() -> Self {
        let server = Self { folder: new_folder(), port: free_port() };
        let folder = server.folder.display().to_string();
        let made =
            run("initdb", &["-D", &folder, "-U", "postgres", "--auth=trust", "--no-locale", "-E", "UTF8", "--no-sync"]);
        assert!(made, "initdb in {folder}");
        server
    }

    pub(crate) fn started() -> Self {
        let server = Self::new();
        server.start();
        server
    }

    /// Starts the server and waits until it accepts connections.
    pub(crate) fn start(&self) {
        let parent = self.folder.parent().unwrap().display();
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories={parent} -c fsync=off -c shared_buffers=16MB \
             -c max_wal_senders=4 -c hot_standby=on -c max_standby_streaming_delay=-1 \
             -c max_locks_per_transaction=256",
            self.port
        );
        let (folder, log) = (self.folder.display().to_string(), format!("{}.log", self.folder.display()));
        let started = run("pg_ctl", &["-D", &folder, "-l", &log, "-o", &options, "-w", "-t", "60", "start"]);
        assert!(started, "see {log}");
    }

    /// Ends the server as a power failure does.
    pub(crate) fn kill(&self) {
        run("pg_ctl", &["-D", &self.folder.display().to_string(), "-m", "immediate", "-w", "stop"]);
    }

    /// Copies this server to one that follows it.
    pub(crate) fn standby(&self) -> Self {
        let standby = Self { folder: new_folder(), port: free_port() };
        let (folder, port) = (standby.folder.display().to_string(), self.port.to_string());
        let copied = run(
            "pg_basebackup",
            &[
                "-h",
                "127.0.0.1",
                "-p",
                &port,
                "-U",
                "postgres",
                "-D",
                &folder,
                "-R",
                "-X",
                "stream",
                "-c",
                "fast",
                "--no-sync",
            ],
        );
        assert!(copied, "pg_basebackup to {folder}");
        standby.start();
        standby
    }

    pub(crate) fn promote(&self) {
        assert!(run("pg_ctl", &["-D", &self.folder.display().to_string(), "-w", "promote"]));
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@{}/postgres", self.address())
    }

    pub(crate) fn settings(&self) -> PostgresSettings {
        PostgresSettings::new(DatabaseUrl::parse(&self.url(), None).unwrap())
    }

    pub(crate) async fn connect(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// Stops or resumes all processes of the server.
    pub(crate) fn signal(&self, signal: &str) {
        let file = std::fs::read_to_string(self.folder.join("postmaster.pid")).unwrap();
        let postmaster = file.lines().next().unwrap().to_owned();
        let children = Command::new("pgrep").args(["-P", &postmaster]).output().unwrap().stdout;
        let children = String::from_utf8(children).unwrap();
        for process in [postmaster.as_str()].into_iter().chain(children.split_whitespace()) {
            // A child may have ended meanwhile.
            let _ = Command::new("kill").args([signal, process]).status().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.folder.join("postmaster.pid").exists() {
            self.signal("-CONT");
        }
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Waits until a condition is true.
pub(crate) async fn until(what: &str, mut is_true: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_true().await {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
