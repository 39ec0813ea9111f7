//! A streaming replica of the database server that the tests use.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::cluster::psql_at;

/// A running replica; stopped and removed with this value.
pub struct Standby {
    folder: PathBuf,
    port: u16,
}

/// Runs a program of PostgreSQL as its owner, which is not root, and waits for it.
fn run(program: &str, arguments: &[&str]) -> bool {
    let program = PathBuf::from(std::env::var("TEST_POSTGRES_BIN").unwrap()).join(program);
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    let mut command = Command::new(if is_root { PathBuf::from("runuser") } else { program.clone() });
    if is_root {
        command.args(["-u", "postgres", "--"]).arg(program);
    }
    command.args(arguments).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().unwrap().success()
}

impl Standby {
    /// Copies the server with all its databases, and follows it.
    pub fn start() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let place = PathBuf::from(std::env::var("TEST_POSTGRES_PLACE").unwrap());
        let standby = Self { folder: place.join(format!("standby-{port}")), port };
        let (folder, url) = (standby.folder.display().to_string(), std::env::var("TEST_POSTGRES_URL").unwrap());
        let copy = ["-d", &url, "-D", &folder, "-R", "-X", "stream", "-c", "fast", "--no-sync"];
        assert!(run("pg_basebackup", &copy), "pg_basebackup to {folder}");
        // A paused replica cancels no statement.
        let options = format!("-p {port} -c unix_socket_directories={folder} -c max_standby_streaming_delay=-1");
        let log = format!("{folder}.log");
        let start = ["-D", &folder, "-l", &log, "-o", &options, "-w", "-t", "60", "start"];
        assert!(run("pg_ctl", &start), "see {log}");
        standby
    }

    /// Returns the URL of a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Stops replaying what the primary sends.
    pub fn pause(&self) {
        self.psql("SELECT pg_wal_replay_pause()");
        while self.psql("SELECT pg_get_wal_replay_pause_state()").trim() != "paused" {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    pub fn resume(&self) {
        self.psql("SELECT pg_wal_replay_resume()");
    }

    pub fn kill(&self) {
        run("pg_ctl", &["-D", &self.folder.display().to_string(), "-m", "immediate", "-w", "stop"]);
    }

    fn psql(&self, sql: &str) -> String {
        psql_at(&self.url("postgres"), sql)
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
