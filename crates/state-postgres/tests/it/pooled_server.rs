//! PgBouncer in front of a server of a single test.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use longshore_state_postgres::{DatabaseUrl, PostgresSettings};
use tokio_postgres::Client;

use crate::server::{free_port, new_folder, run};

/// A running PgBouncer with its own port; stopped with this value.
#[derive(Debug)]
pub(crate) struct Pooler {
    folder: PathBuf,
    port: u16,
    options: String,
}

impl Pooler {
    /// Starts PgBouncer in front of the server at an address. `options` are lines of its configuration.
    /// Returns `None` where it is not installed.
    pub(crate) fn started(server: &str, options: &str) -> Option<Self> {
        let program =
            ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].into_iter().find(|path| PathBuf::from(path).exists());
        let Some(program) = program else {
            println!("skipped: pgbouncer is not installed");
            return None;
        };
        let pooler = Self { folder: new_folder(), port: free_port(), options: options.to_owned() };
        std::fs::create_dir(&pooler.folder).unwrap();
        // PgBouncer refuses to run as root; its user writes into this folder.
        assert!(Command::new("chmod").arg("777").arg(&pooler.folder).status().unwrap().success());
        pooler.write(server);
        assert!(run(program, &["-d", &pooler.file("pgbouncer.ini")]), "pgbouncer did not start");
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", pooler.port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "see {}", pooler.file("log"));
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(pooler)
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn write(&self, server: &str) {
        let (host, port) = server.split_once(':').unwrap();
        let text = format!(
            "[databases]\npostgres = host={host} port={port} user=postgres\n* = host={host} port={port} user=postgres\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {}\nunix_socket_dir =\nauth_type = any\nlogfile = {}\npidfile = {}\n{}\n",
            self.port,
            self.file("log"),
            self.file("pid"),
            self.options
        );
        std::fs::write(self.file("pgbouncer.ini"), text).unwrap();
    }

    /// Leads to another server from now on, also in the sessions that are open.
    pub(crate) fn lead_to(&self, server: &str) {
        self.write(server);
        self.signal("-HUP");
    }

    fn signal(&self, signal: &str) {
        let process = std::fs::read_to_string(self.file("pid")).unwrap();
        assert!(Command::new("kill").args([signal, process.trim()]).status().unwrap().success());
    }

    pub(crate) fn url(&self) -> String {
        self.url_of("postgres")
    }

    pub(crate) fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Returns the settings of a store that uses the pooler, with the address of the server itself.
    pub(crate) fn settings(&self, direct: &str) -> PostgresSettings {
        let direct_address = Some(DatabaseUrl::parse(direct, None).unwrap());
        PostgresSettings { direct_address, ..self.settings_without_direct() }
    }

    pub(crate) fn settings_without_direct(&self) -> PostgresSettings {
        PostgresSettings::new(DatabaseUrl::parse(&self.url(), None).unwrap())
    }

    pub(crate) async fn connect(&self, database: &str) -> Client {
        crate::place::connect(&self.url_of(database)).await
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.signal("-INT");
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
