//! Connections: how each kind is opened, and what it may do.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::read_gate::ReadGate;
use state::Durability;

/// How long a connection waits for a lock. Only another program (a
/// backup, a person with a tool) ever holds one.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How many statements a connection keeps prepared: all that write, or the many shapes a list may have.
const STATEMENTS: usize = 128;

/// How many steps of SQLite's machine a long read may make until it looks whether it is to stop.
const STEPS: i32 = 1_000;

/// The one that writes. When its log begins anew, what is beyond `log_bytes` of the file is cut off.
pub(super) fn open_writer(path: &Path, durability: Durability, log_bytes: u64) -> rusqlite::Result<Connection> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // In WAL mode, FULL syncs the log in every commit. NORMAL leaves that to the kernel: what a process has
    // committed outlives it, and after a power failure the last commits may be gone, but never a part of one.
    let synchronous = match durability {
        Durability::Strict => "full",
        Durability::Relaxed => "normal",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "journal_size_limit", i64::try_from(log_bytes).unwrap_or(i64::MAX))?;
    overwrite_deleted(&connection, Overwrite::WithinPages)?;
    Ok(connection)
}

/// What of the file is overwritten when rows are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overwrite {
    /// Only what lies in pages that are written anyway.
    WithinPages,
    /// Pages that are freed as well.
    Everything,
}

/// Decides what later deletions leave behind.
pub(super) fn overwrite_deleted(connection: &Connection, what: Overwrite) -> rusqlite::Result<()> {
    let mode = match what {
        Overwrite::WithinPages => "fast",
        Overwrite::Everything => "on",
    };
    connection.pragma_update(None, "secure_delete", mode)
}

/// One that cannot write, for a file that is there.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// Keeps pages in this much memory.
pub(super) fn limit_cache(connection: &Connection, bytes: u64) -> rusqlite::Result<()> {
    // Negative: in KiB, and not in pages.
    let kib = i64::try_from(bytes / 1024).unwrap_or(i64::MAX);
    connection.pragma_update(None, "cache_size", -kib.max(1))
}

/// One for long reads, which end when the gate is closed.
pub(super) fn open_interruptible(path: &Path, gate: &Arc<ReadGate>) -> rusqlite::Result<Connection> {
    let connection = open_reader(path)?;
    let gate = Arc::clone(gate);
    connection.progress_handler(STEPS, Some(move || gate.is_closed()))?;
    Ok(connection)
}

fn open(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    // Each connection stays with one thread at a time, so it needs no mutex of its own.
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "foreign_keys", false)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    Ok(connection)
}
