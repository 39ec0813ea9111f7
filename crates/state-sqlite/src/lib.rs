//! The state in one SQLite file: for one process on one machine, with nothing to install.
//!
//! One connection writes, and all writing is committed in groups (see `writer`); a few others read (see
//! `readers`), and a reader never waits for the writer. Each connection has a thread of its own, so no
//! statement runs on a thread that serves the network. A commit is on stable storage when it is answered,
//! unless the durability is relaxed, and a reader that starts after the answer sees it. The order of
//! deliveries is kept in `lanes` and nowhere else.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{Mutex, Notify};

use state::clock::Clock;
use state::{Durability, Error, EventBodies, Result};

mod attempts;
mod backlog;
mod claims;
mod clock;
mod connection;
mod endpoints;
mod events;
mod expiry;
mod expunge;
mod file_watch;
mod hook_calls;
mod lanes;
mod leases;
mod listing;
mod lock;
mod log_bound;
mod migrate;
mod notices;
mod outbox;
mod query;
mod read_gate;
mod readers;
mod replay;
mod reserve;
mod retention;
mod rows;
#[cfg(test)]
mod tests;
mod uploads;
mod writer;

use file_watch::FileWatch;
use log_bound::LogBound;
use read_gate::ReadGate;
use readers::Readers;
use reserve::DiskReserve;
use retention::PruneCursors;
use writer::Writer;

/// How the database is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteSettings {
    /// The most commits written in one transaction.
    pub group_commit_max: usize,
    /// How many connections answer lists and other long questions at the same time.
    pub read_connections: u32,
    /// The most memory for pages kept at hand, of all connections together.
    pub cache_bytes: u64,
    /// How many connections look up what is found by a key, beside those.
    pub lookup_connections: u32,
    /// Above this size the write-ahead log is reset, and long reads are held back for that.
    pub max_log_bytes: u64,
    /// This much disk space is kept for commits that free disk space; 0 for none.
    pub reserve_bytes: u64,
    /// What an answered commit outlives.
    pub durability: Durability,
}

/// Two, so that one reads while the other returns its answer.
pub const LOOKUP_CONNECTIONS: u32 = 2;

const OPEN: &str = "open the database";

impl Default for SqliteSettings {
    fn default() -> Self {
        Self {
            group_commit_max: 128,
            read_connections: 4,
            cache_bytes: 64 << 20,
            lookup_connections: LOOKUP_CONNECTIONS,
            max_log_bytes: 128 << 20,
            reserve_bytes: 0,
            durability: Durability::Strict,
        }
    }
}

/// Uploads and outbox in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    bodies: EventBodies,
    /// The machine's, by which SQLite goes too.
    clock: Clock,
    /// The write-ahead log.
    log: PathBuf,
    writer: Writer,
    readers: Readers,
    bell: Arc<Notify>,
    /// Where the sweep through what is old has come to.
    pruning: Mutex<PruneCursors>,
}

impl SqliteStore {
    /// Opens the database, makes it if it is not there, and brings it up to date. One that
    /// a newer version wrote is left as it is.
    #[expect(clippy::disallowed_methods, reason = "the database is on this machine")]
    pub async fn open(path: &Path, settings: SqliteSettings, bodies: EventBodies) -> Result<Arc<Self>> {
        Self::open_by(Clock::system(), path, settings, bodies).await
    }

    /// The same with another clock than the machine's.
    pub async fn open_by(
        clock: Clock,
        path: &Path,
        settings: SqliteSettings,
        bodies: EventBodies,
    ) -> Result<Arc<Self>> {
        let path = path.to_owned();
        let opening = tokio::task::spawn_blocking(move || Self::open_files(clock, path, settings, bodies));
        opening.await.map_err(|error| Error::Failed { operation: OPEN, source: error.into() })?
    }

    fn open_files(clock: Clock, path: PathBuf, settings: SqliteSettings, bodies: EventBodies) -> Result<Arc<Self>> {
        migrate::refuse_newer(&path)?;
        let lookup_connections = settings.lookup_connections.max(1);
        let read_connections = settings.read_connections.max(1);
        let for_writing = settings.cache_bytes / 2;
        let for_each_reader =
            (settings.cache_bytes - for_writing) / u64::from(lookup_connections.saturating_add(read_connections));
        let mut writing =
            connection::open_writer(&path, settings.durability, settings.max_log_bytes / 2).map_err(failed(OPEN))?;
        connection::limit_cache(&writing, for_writing).map_err(failed(OPEN))?;
        migrate::run(&mut writing)?;
        let gate = Arc::new(ReadGate::default());
        let lookups = (0..lookup_connections).map(|_| {
            let reader = connection::open_reader(&path)?;
            connection::limit_cache(&reader, for_each_reader)?;
            Ok(reader)
        });
        let lookups = lookups.collect::<rusqlite::Result<_>>().map_err(failed(OPEN))?;
        let walks = (0..read_connections).map(|_| {
            let reader = connection::open_interruptible(&path, &gate)?;
            connection::limit_cache(&reader, for_each_reader)?;
            Ok(reader)
        });
        let walks = walks.collect::<rusqlite::Result<_>>().map_err(failed(OPEN))?;
        let file_watch = Arc::new(FileWatch::of(&path).map_err(failed_to_start)?);
        let bell = Arc::new(Notify::new());
        let reserve = DiskReserve::of(&path, settings.reserve_bytes);
        let log = log_bound::log_of(&path);
        let bound = LogBound::new(log.clone(), settings.max_log_bytes, Arc::clone(&gate));
        let writer = Writer::start(
            writing,
            bodies,
            bound,
            reserve,
            settings.group_commit_max,
            Arc::clone(&bell),
            Arc::clone(&file_watch),
        )?;
        let readers = Readers::start(lookups, walks, gate, &file_watch)?;
        Ok(Arc::new(Self { bodies, clock, log, writer, readers, bell, pruning: Mutex::default() }))
    }

    /// How many transactions have been tried for writing. Many commits share one.
    pub fn transactions(&self) -> u64 {
        self.writer.transactions()
    }

    /// How many writes have been committed in those transactions.
    pub fn writes(&self) -> u64 {
        self.writer.works()
    }

    /// The size of the write-ahead log on the disk.
    pub fn log_bytes(&self) -> u64 {
        std::fs::metadata(&self.log).map_or(0, |found| found.len())
    }

    async fn shut(&self) {
        let connection = self.writer.finish().await;
        self.readers.finish().await;
        let Some(connection) = connection else { return };
        let closed = tokio::task::spawn_blocking(move || close(connection)).await;
        if !matches!(closed, Ok(Ok(()))) {
            tracing::warn!(?closed, "the database was not closed cleanly; no data is lost");
        }
    }
}

/// The log would be replayed at the next start just as well; this leaves one tidy file behind.
fn close(connection: Connection) -> rusqlite::Result<()> {
    connection.query_one("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    connection.close().map_err(|(_, error)| error)
}

/// Says what could not be done when a statement fails.
fn failed(operation: &'static str) -> impl Fn(rusqlite::Error) -> Error {
    move |error| shared_failure(operation, Arc::new(error))
}

fn shared_failure(operation: &'static str, error: Arc<rusqlite::Error>) -> Error {
    if is_full(&error) { Error::NoSpace { operation } } else { Error::Failed { operation, source: Box::new(error) } }
}

fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

fn failed_to_start(error: io::Error) -> Error {
    Error::Failed { operation: OPEN, source: error.into() }
}

fn closed(operation: &'static str) -> Error {
    Error::Failed { operation, source: "the database is closed".into() }
}
