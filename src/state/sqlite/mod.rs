//! The state in one SQLite file: for one process on one machine, with nothing to install.
//!
//! One connection writes, and all writing is committed in groups (see [`writer`]); a few others read, and a reader
//! never waits for the writer. A commit is on stable storage when it is answered (`synchronous = FULL`), and a reader
//! that starts after the answer sees it. The order of deliveries is kept in [`lanes`] and nowhere else.

use std::path::Path;
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

        let bell = Arc::new(Notify::new());
        let writer = Writer::start(connection, settings.group_commit_max, Arc::clone(&bell));
        Ok(Arc::new(Self { writer, reads, bell }))
    }

    /// How many transactions have been tried for writing. Many commits share one.
    pub fn transactions(&self) -> u64 {
        self.writer.transactions()
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
