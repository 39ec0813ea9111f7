//! The processes of a cluster, and the database, folder and keys that they share.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::program::{Program, Ran};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A database, a folder and a key file that nodes share. The database is dropped with this value.
pub struct Cluster {
    folder: TempDir,
    database: String,
}

/// A running node.
pub struct Node {
    pub program: Program,
    pub address: SocketAddr,
}

impl Cluster {
    pub fn new() -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let cluster =
            Self { folder: TempDir::new().unwrap(), database: format!("cluster_{}_{number}", std::process::id()) };
        psql(&format!("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'", cluster.database));
        std::fs::write(cluster.key_file(1), key(1)).unwrap();
        std::fs::write(cluster.key_file(2), key(2)).unwrap();
        cluster
    }

    pub fn key_file(&self, number: u8) -> PathBuf {
        self.folder.path().join(format!("key-{number}"))
    }

    pub fn database(&self) -> String {
        self.database.clone()
    }

    pub fn url(&self) -> String {
        let (server, _) =
            server_url().rsplit_once('/').map(|(server, name)| (server.to_owned(), name.to_owned())).unwrap();
        format!("{server}/{}", self.database)
    }

    /// Starts a node. Later flags replace earlier ones.
    fn spawn(&self, name: &str, flags: &[&str]) -> Program {
        let (url, key, data) = (self.url(), self.key_file(1), self.folder.path().join("data"));
        let has = |flag: &str| flags.contains(&flag);
        let mut all = vec!["--database-url", &url, "--storage-shared", "true", "--node-name", name];
        for (flag, value) in [
            ("--auth-server-key-file", key.to_str().unwrap()),
            ("--cluster-peer-listen", "127.0.0.1:0"),
            ("--cluster-drain-notice", "1s"),
            ("--cluster-drain-grace", "1s"),
        ] {
            if !has(flag) {
                all.extend([flag, value]);
            }
        }
        all.extend(flags);
        Program::serve(&data, &all)
    }

    pub fn start(&self, name: &str, flags: &[&str]) -> Node {
        let mut program = self.spawn(name, flags);
        let address = program.address();
        Node { program, address }
    }

    /// Runs a node that does not start.
    pub fn refused(&self, flags: &[&str]) -> Ran {
        self.spawn("refused", flags).ran()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        psql(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.database));
    }
}

impl Node {
    pub async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// Returns the names of the nodes that this one lists, with their states.
    pub async fn sees(&self) -> Vec<(String, bool)> {
        let list = self.client().await.get("/api/v1/nodes").await;
        assert_eq!(list.status, 200, "{list:?}");
        assert!(!String::from_utf8_lossy(&list.body).contains("peer"), "addresses of peers are not shown");
        let name =
            |node: &serde_json::Value| (node["name"].as_str().unwrap().to_owned(), node["draining"].as_bool().unwrap());
        list.json()["nodes"].as_array().unwrap().iter().map(name).collect()
    }
}

fn server_url() -> String {
    std::env::var("TEST_POSTGRES_URL").expect("TEST_POSTGRES_URL names a server; tests/services/postgres.sh starts one")
}

fn psql(sql: &str) {
    psql_at(&server_url(), sql);
}

pub fn psql_at(url: &str, sql: &str) -> String {
    let ran = Command::new("psql").args([url, "-qtAc", sql]).output().unwrap();
    assert!(ran.status.success(), "{sql}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

/// Returns the text of a key file.
fn key(byte: u8) -> String {
    format!("k{byte}:{}\n", STANDARD.encode([byte; 32]))
}
