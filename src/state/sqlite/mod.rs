//! The state in one SQLite file: for one process on one machine, with nothing to install.
//!
//! One connection writes, and all writing is committed in groups (see [`writer`]); a few others read, and a reader
//! never waits for the writer. A commit is on stable storage when it is answered (`synchronous = FULL`), and a reader
//! that starts after the answer sees it. The order of deliveries is kept in [`lanes`] and nowhere else.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::Connection;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::sqlite::SqliteJournalMode;
use sqlx::sqlite::SqlitePool;
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::sqlite::SqliteSynchronous;
use tokio::sync::Notify;

use crate::state::Error;
use crate::state::Result;

mod attempts;
mod claims;
mod events;
mod lanes;
mod listing;
mod migrate;
mod outbox;
mod rows;
#[cfg(test)]
mod tests;
mod uploads;
mod writer;

use writer::Writer;

/// How the database is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SqliteSettings {
    /// The most commits written in one transaction.
    pub group_commit_max: usize,
    /// How many connections read at the same time.
    pub read_connections: u32,
}

impl Default for SqliteSettings {
    fn default() -> Self {
        Self { group_commit_max: 128, read_connections: 4 }
    }
}

/// Uploads and outbox in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    /// Which file the database was when it was opened, whatever has its name later.
    file: (u64, u64),
    writer: Writer,
    reads: SqlitePool,
    bell: Arc<Notify>,
}

impl SqliteStore {
    /// Opens the database, makes it if it is not there, and brings it up to date. One that a newer version wrote is
    /// left as it is.
    pub async fn open(path: &Path, settings: SqliteSettings) -> Result<Arc<Self>> {
        const OPERATION: &str = "open the database";
        let options = SqliteConnectOptions::new()
            .filename(path)
            .foreign_keys(false)
            .busy_timeout(Duration::from_secs(5))
            .pragma("temp_store", "memory")
            .disable_statement_logging();
        migrate::refuse_newer(path, &options).await?;

        let writing = options
            .clone()
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("cache_size", "-32768")
            .pragma("journal_size_limit", "67108864");
        let mut connection = writing.connect().await.map_err(failed(OPERATION))?;
        migrate::run(&mut connection).await?;

        let reading = options.read_only(true).pragma("cache_size", "-8192");
        let reads = SqlitePoolOptions::new()
            .max_connections(settings.read_connections.max(1))
            .acquire_timeout(Duration::from_secs(10))
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(reading)
            .await
            .map_err(failed(OPERATION))?;

        let file =
            identity(path).await.map_err(|source| Error::Failed { operation: OPERATION, source: source.into() })?;
        let bell = Arc::new(Notify::new());
        let writer = Writer::start(connection, settings.group_commit_max, Arc::clone(&bell));
        Ok(Arc::new(Self { path: path.to_owned(), file, writer, reads, bell }))
    }

    /// How many transactions have been tried for writing. Many commits share one.
    pub fn transactions(&self) -> u64 {
        self.writer.transactions()
    }

    /// SQLite goes on with a file that was removed or replaced, and what it writes there is gone at the next start.
    async fn check_file(&self, operation: &'static str) -> Result<()> {
        let gone = |source| Error::Failed { operation, source };
        match identity(&self.path).await {
            Ok(found) if found == self.file => Ok(()),
            Ok(_) => Err(gone("another file has taken the place of the database since it was opened".into())),
            Err(error) => Err(gone(error.into())),
        }
    }

    async fn shut(&self) {
        let connection = self.writer.finish().await;
        self.reads.close().await;
        let Some(mut connection) = connection else { return };
        // The log would be replayed at the next start just as well; this leaves one tidy file behind.
        let checkpoint = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await.map(drop);
        if let Err(error) = checkpoint.and(connection.close().await) {
            tracing::warn!(%error, "the database was not closed tidily; nothing is lost");
        }
    }
}

/// The file system and the number of a file.
async fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = tokio::fs::metadata(path).await?;
    Ok((found.dev(), found.ino()))
}

/// Says what could not be done when a statement fails.
fn failed(operation: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |error| shared_failure(operation, Arc::new(error))
}

fn shared_failure(operation: &'static str, error: Arc<sqlx::Error>) -> Error {
    if is_full(&error) { Error::NoSpace { operation } } else { Error::Failed { operation, source: Box::new(error) } }
}

/// SQLite, result codes: the low byte is the primary code, and 13 is `SQLITE_FULL`.
fn is_full(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
    code.is_some_and(|code| code & 0xff == 13)
}

fn closed(operation: &'static str) -> Error {
    Error::Failed { operation, source: "the database is closed".into() }
}
