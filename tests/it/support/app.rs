//! The app that the program runs, on a free port and with its own folder.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longshore::app;
use longshore::app::{RunningServer, StopOutcome};
use longshore::config::{Config, Inputs};
use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::patience::until;

/// A server under test. Its folder is removed when it is dropped.
pub struct TestApp {
    running: Option<RunningServer>,
    config: Config,
    folder: Arc<TempDir>,
}

impl TestApp {
    /// Starts a server with the defaults, and with times that are short enough for tests.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// Starts a server with a changed configuration.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::from_file("", change).await
    }

    /// Starts a server with a configuration file, such as one with webhook endpoints, and further changes.
    pub async fn from_file(toml: &str, change: impl FnOnce(&mut Config)) -> Self {
        let folder = Arc::new(TempDir::new().unwrap());
        let inputs = Inputs { file: Some((PathBuf::from("test.toml"), toml.to_owned())), ..Inputs::default() };
        let mut config = Config::read(&inputs).expect("the test's configuration is valid");
        config.server.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.server.data_dir = folder.path().join("data");
        config.server.workers = Some(2);
        config.engine.space.min_free_bytes = 0;
        // On small disks the reserve would take most of the space.
        config.database.reserve_bytes = 0;
        config.engine.lifetimes.sweep_every = std::time::Duration::from_millis(100);
        change(&mut config);
        let running = app::start(config.clone()).await.expect("the server starts");
        Self { running: Some(running), config, folder }
    }

    pub fn address(&self) -> SocketAddr {
        self.running.as_ref().expect("the server runs").address()
    }

    /// Returns the address of the listener for reads.
    pub fn read_address(&self) -> SocketAddr {
        self.running.as_ref().expect("the server runs").read_address().expect("it was configured")
    }

    /// Opens a new connection.
    pub async fn client(&self) -> Client {
        Client::connect(self.address()).await
    }

    /// The configuration that [`Self::restart`] and [`Self::start_again`] use.
    pub fn config(&mut self) -> &mut Config {
        &mut self.config
    }

    pub fn data_dir(&self) -> &Path {
        &self.config.server.data_dir
    }

    /// Stops gracefully and starts again on the same folder and another port.
    pub async fn restart(&mut self) -> StopOutcome {
        let stopped = self.stop().await;
        self.start_again().await;
        stopped
    }

    pub async fn stop(&mut self) -> StopOutcome {
        self.running.take().expect("the server runs").stop().await
    }

    /// Returns every file below the data folder that holds bytes of uploads.
    pub fn stored_files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for place in ["incoming", "files"] {
            collect_files(&self.data_dir().join(place), &mut found);
        }
        found.sort();
        found
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

pub fn collect_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { collect_files(&path, found) } else { found.push(path) }
    }
}

impl TestApp {
    /// Starts again after [`Self::stop`].
    pub async fn start_again(&mut self) {
        assert!(self.running.is_none(), "it was stopped before");
        // The folder is free when the last thread of the earlier server is gone, a moment after it has
        // stopped.
        let started = until("the server starts again", async || match app::start(self.config.clone()).await {
            Err(error) if error.to_string().contains("in use") => None,
            started => Some(started),
        });
        self.running = Some(started.await.expect("the server starts again"));
    }
}
