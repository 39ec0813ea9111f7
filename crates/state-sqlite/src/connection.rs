//! Connections: the way each kind is opened, and its limits.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::read_gate::ReadGate;
use state::Durability;

/// The time for which a connection waits for a lock. Only another program ever holds one, such as a backup or
/// a database tool.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The number of statements that a connection keeps prepared: all writing statements, or the many forms of
/// lists.
const STATEMENTS: usize = 128;

/// The number of steps of SQLite's virtual machine between two checks of whether a long read must stop.
const STEPS: i32 = 1_000;

/// Opens the connection that writes. When its log restarts, the part of the file beyond `log_bytes` is
/// truncated.
pub(super) fn open_writer(path: &Path, durability: Durability, log_bytes: u64) -> rusqlite::Result<Connection> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // In WAL mode, FULL syncs the log in every commit. NORMAL leaves that to the kernel: commits survive a
    // crash of the process, and after a power failure the last commits may be lost, but never a part of one.
    let synchronous = match durability {
        Durability::Strict => "full",
        Durability::Relaxed => "normal",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "journal_size_limit", i64::try_from(log_bytes).unwrap_or(i64::MAX))?;
    overwrite_deleted(&connection, Overwrite::WithinPages)?;
    Ok(connection)
}

/// The parts of the file that are overwritten when rows are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overwrite {
    /// Only deleted content in pages that are written anyway.
    WithinPages,
    /// Freed pages as well.
    Everything,
}

/// Sets what later deletions overwrite.
pub(super) fn overwrite_deleted(connection: &Connection, what: Overwrite) -> rusqlite::Result<()> {
    let mode = match what {
        Overwrite::WithinPages => "fast",
        Overwrite::Everything => "on",
    };
    connection.pragma_update(None, "secure_delete", mode)
}

/// Opens a read-only connection to an existing file.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// Limits the memory for cached pages.
pub(super) fn limit_cache(connection: &Connection, bytes: u64) -> rusqlite::Result<()> {
    // A negative value is a size in KiB; a positive one would be a number of pages.
    let kib = i64::try_from(bytes / 1024).unwrap_or(i64::MAX);
    connection.pragma_update(None, "cache_size", -kib.max(1))
}

/// Opens a connection for long reads, which are interrupted when the gate is closed.
pub(super) fn open_interruptible(path: &Path, gate: &Arc<ReadGate>) -> rusqlite::Result<Connection> {
    let connection = open_reader(path)?;
    let gate = Arc::clone(gate);
    connection.progress_handler(STEPS, Some(move || gate.is_closed()))?;
    Ok(connection)
}

fn open(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    // Only one thread at a time uses a connection, so it needs no mutex.
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "foreign_keys", false)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    Ok(connection)
}
