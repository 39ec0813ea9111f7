//! A bound on the size of the write-ahead log.
//!
//! SQLite moves the pages of the log into the database continuously, but restarts the log only when no reader
//! uses it. If overlapping reads keep the log in use until it exceeds its bound, new reads wait while the log
//! is reset.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::connection::BUSY_TIMEOUT;
use crate::read_gate::ReadGate;

/// The time for which the writer waits for reads to end. Short reads take less, and long ones are interrupted
/// at once.
const PATIENCE: Duration = Duration::from_millis(500);

/// The time before the next try while another program, such as a backup, continues to read.
const TRY_AGAIN: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct LogBound {
    log: PathBuf,
    max_bytes: u64,
    gate: Arc<ReadGate>,
    /// The time of the last failed reset.
    failed: Option<Instant>,
}

/// Returns the path of a database's write-ahead log.
pub(super) fn log_of(database: &Path) -> PathBuf {
    let mut log = database.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

impl LogBound {
    pub(super) fn new(log: PathBuf, max_bytes: u64, gate: Arc<ReadGate>) -> Self {
        Self { log, max_bytes, gate, failed: None }
    }

    /// Resets the log if it has exceeded its bound. Called between two transactions.
    pub(super) fn keep(&mut self, connection: &Connection) {
        let size_bytes = std::fs::metadata(&self.log).map_or(0, |found| found.len());
        if size_bytes <= self.max_bytes || self.failed.is_some_and(|failed| failed.elapsed() < TRY_AGAIN) {
            return;
        }
        let closed = self.gate.close();
        let reset = reset(connection);
        drop(closed);
        match reset {
            Ok(true) => {
                tracing::debug!(
                    size_bytes,
                    "reset the write-ahead log of the database, which had exceeded database.max_wal_size"
                );
                self.failed = None;
            }
            Ok(false) => {
                if self.failed.is_none() {
                    tracing::warn!(
                        size_bytes,
                        "the write-ahead log of the database exceeds database.max_wal_size, because another program \
                         reads the database continuously; it can shrink when that program stops"
                    );
                }
                self.failed = Some(Instant::now());
            }
            Err(error) => {
                tracing::warn!(size_bytes, %error, "could not reset the write-ahead log of the database; will retry");
                self.failed = Some(Instant::now());
            }
        }
    }
}

/// Resets the log. Returns true if it is empty now.
fn reset(connection: &Connection) -> rusqlite::Result<bool> {
    connection.busy_timeout(PATIENCE)?;
    let is_busy = connection.query_one("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0));
    connection.busy_timeout(BUSY_TIMEOUT)?;
    is_busy.map(|is_busy| !is_busy)
}
