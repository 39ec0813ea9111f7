//! The state in one SQLite file: for one process on one machine, with nothing to install.
//!
//! One connection writes, and commits its work in groups (see `writer`); a few others read (see `readers`),
//! and a reader never waits for the writer. Each connection has a dedicated thread, so no statement runs on a
//! thread that serves the network. A commit is on stable storage when its caller gets the reply, unless the
//! durability is relaxed, and a reader that starts after the reply sees it. Only `lanes` maintains the order
//! of deliveries.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{Mutex, Notify};

use state::clock::Clock;
use state::{Durability, Error, EventBodies, Result, SchemaStatus};

mod attempts;
mod backlog;
mod claims;
mod clock;
mod connection;
mod departure;
mod duties;
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

pub use departure::SqliteSource;
use file_watch::FileWatch;
use log_bound::LogBound;
use read_gate::ReadGate;
use readers::Readers;
use reserve::DiskReserve;
use retention::PruneCursors;
use writer::Writer;

/// Settings of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteSettings {
    /// The maximum number of commits in one transaction.
    pub group_commit_max: usize,
    /// The number of connections for lists and other long queries.
    pub read_connections: u32,
    /// The maximum memory for cached pages, in total for all connections, in bytes.
    pub cache_bytes: u64,
    /// The number of additional connections for lookups by a key.
    pub lookup_connections: u32,
    /// The size in bytes above which the write-ahead log is reset; long reads are held back meanwhile.
    pub max_log_bytes: u64,
    /// The disk space in bytes reserved for commits that free disk space; 0 for none.
    pub reserve_bytes: u64,
    /// The failures that an acknowledged commit survives.
    pub durability: Durability,
}

/// Two connections, so that one reads while the other returns its result.
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
    /// The machine's clock, which SQLite also uses.
    clock: Clock,
    /// The path of the write-ahead log.
    log: PathBuf,
    writer: Writer,
    readers: Readers,
    bell: Arc<Notify>,
    /// The positions of the sweep for old rows.
    pruning: Mutex<PruneCursors>,
}

impl SqliteStore {
    /// Opens the database, creates it if it does not exist, and migrates it. A database written by a newer
    /// version is left unchanged.
    #[expect(clippy::disallowed_methods, reason = "the database is on this machine")]
    pub async fn open(path: &Path, settings: SqliteSettings, bodies: EventBodies) -> Result<Arc<Self>> {
        Self::open_by(Clock::system(), path, settings, bodies).await
    }

    /// Opens the database with another clock than the machine's.
    pub async fn open_by(
        clock: Clock,
        path: &Path,
        settings: SqliteSettings,
        bodies: EventBodies,
    ) -> Result<Arc<Self>> {
        let path = path.to_owned();
        run_blocking(move || Self::open_files(clock, path, settings, bodies)).await
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
        departure::refuse_moved(&writing)?;
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

    /// Returns the number of transactions attempted. Many commits share one.
    pub fn transactions(&self) -> u64 {
        self.writer.transactions()
    }

    /// Returns the number of writes committed in those transactions.
    pub fn writes(&self) -> u64 {
        self.writer.works()
    }

    /// Returns the size of the write-ahead log on disk, in bytes.
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

/// Compares the schema of a database with that of this program, and changes nothing.
pub async fn schema_status(path: &Path) -> Result<SchemaStatus> {
    let path = path.to_owned();
    run_blocking(move || migrate::status(&path)).await
}

/// Migrates a database, creates it if it does not exist, and returns the schema that it had before. No server
/// may be using it.
pub async fn migrate(path: &Path, settings: &SqliteSettings) -> Result<SchemaStatus> {
    let (path, durability, log_bytes) = (path.to_owned(), settings.durability, settings.max_log_bytes / 2);
    run_blocking(move || {
        let before = migrate::status(&path)?;
        let mut connection = connection::open_writer(&path, durability, log_bytes).map_err(failed(OPEN))?;
        migrate::run(&mut connection)?;
        close(connection).map_err(failed("close the database"))?;
        Ok(before)
    })
    .await
}

async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::Failed { operation: OPEN, source: error.into() })?
}

/// Closes the database and removes its log. The next start could also replay the log; this leaves a single
/// file.
fn close(connection: Connection) -> rusqlite::Result<()> {
    connection.query_one("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    connection.close().map_err(|(_, error)| error)
}

/// Converts a failed statement to an error that names the operation.
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
