//! Moving the records to another database: reading them in batches, and the mark that keeps servers from
//! using what is left.
//!
//! The mark is committed before the first row is read, so that no server changes a row that was already
//! copied. It stays after the move; only [`SqliteSource::keep`] removes it.

use std::path::Path;
use std::sync::{Arc, Mutex};

use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params};
use state_rows::{BatchEnd, Cell, EventRow, LastNumbers, MoveRecord, MovedTable, Row as _, RowBatch};

use crate::lock::lock;
use crate::rows::{Columns, EVENT_COLUMNS, UPLOAD_COLUMNS, upload};
use crate::{close, connection, failed, migrate, run_blocking};
use domain::log::EventPosition;
use state::{Durability, Error, Result};

const READ: &str = "read the records to be moved";
const MARK: &str = "mark the records as moved";

/// The size in bytes to which the write-ahead log is truncated.
const LOG_BYTES: u64 = 4 << 20;

/// A database whose records are moved. The caller holds the lock of its folder.
#[derive(Debug)]
pub struct SqliteSource {
    connection: Arc<Mutex<Connection>>,
}

impl SqliteSource {
    /// Opens an existing database and migrates it, because rows are read in the form that this program knows.
    pub async fn open(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        let connection = run_blocking(move || {
            if !path.exists() {
                let text = format!("there is no database {}", path.display());
                return Err(Error::Failed { operation: READ, source: text.into() });
            }
            migrate::refuse_newer(&path)?;
            let opened = connection::open_writer(&path, Durability::Strict, LOG_BYTES);
            let mut connection = opened.map_err(failed(READ))?;
            migrate::run(&mut connection)?;
            Ok(connection)
        });
        Ok(Self { connection: Arc::new(Mutex::new(connection.await?)) })
    }

    /// Returns the move that has begun, if there is one.
    pub async fn mark(&self) -> Result<Option<MoveRecord>> {
        self.with(READ, mark).await
    }

    /// Records a move, or its end. No server opens the database from then on.
    pub async fn set_mark(&self, record: MoveRecord) -> Result<()> {
        self.with(MARK, move |connection| {
            let transaction = connection.unchecked_transaction()?;
            transaction.execute("DELETE FROM moves", [])?;
            let sql = "INSERT INTO moves (id, target, is_finished) VALUES (?1, ?2, ?3)";
            transaction.execute(sql, params![record.id, record.other_end, record.is_finished])?;
            transaction.commit()
        })
        .await
    }

    /// Removes the mark, so that a server can use these records again. Returns the move that it named.
    pub async fn keep(&self) -> Result<Option<MoveRecord>> {
        self.with(MARK, |connection| {
            let found = mark(connection)?;
            connection.execute("DELETE FROM moves", [])?;
            Ok(found)
        })
        .await
    }

    /// Reads the rows of a table after the end of a batch, at most about `limit`.
    pub async fn read(&self, table: MovedTable, after: &BatchEnd, limit: u32) -> Result<RowBatch> {
        let after = after.clone();
        self.with(READ, move |connection| match table {
            MovedTable::Uploads => uploads(connection, &after, limit),
            MovedTable::Attempts => attempts(connection, &after, limit),
            table => rows(connection, table, &after, limit),
        })
        .await
    }

    /// Returns the number of rows of a table that are moved.
    pub async fn count(&self, table: MovedTable) -> Result<u64> {
        let sql = match table {
            MovedTable::Uploads => "SELECT count(*) FROM uploads JOIN upload_origins USING (id)".to_owned(),
            // The attempts of a removed delivery cannot be found by anyone.
            MovedTable::Attempts => {
                "SELECT count(*) FROM attempts JOIN deliveries ON deliveries.id = delivery_id".to_owned()
            }
            table => format!("SELECT count(*) FROM {}", table.name()),
        };
        let count =
            self.with(READ, move |connection| connection.query_one(&sql, [], |row| row.get::<_, i64>(0))).await?;
        Ok(u64::try_from(count).unwrap_or_default())
    }

    /// Reads the log of events in its order.
    pub async fn events(&self, after: EventPosition, limit: u32) -> Result<Vec<(EventPosition, EventRow)>> {
        self.with(READ, move |connection| {
            let sql = format!("SELECT {} FROM events WHERE position > ?1 ORDER BY position LIMIT ?2", *EVENT_COLUMNS);
            let mut statement = connection.prepare_cached(&sql)?;
            let read = statement.query_map(params![after.0, limit], |row| {
                let mut columns = Columns::of(row);
                Ok((EventPosition(columns.next()?), EventRow::read(&mut columns)?))
            });
            read?.collect()
        })
        .await
    }

    /// Returns the highest numbers that were ever used.
    pub async fn last_numbers(&self) -> Result<LastNumbers> {
        self.with(READ, |connection| {
            let sql = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = ?1";
            let last = |name: &str| connection.query_one(sql, [name], |row| row.get(0));
            let config_epoch =
                connection.query_one("SELECT epoch FROM endpoint_configuration", [], |row| row.get(0))?;
            Ok(LastNumbers { event: EventPosition(last("events")?), backlog_job: last("backlog_jobs")?, config_epoch })
        })
        .await
    }

    /// Closes the database.
    pub async fn close(self) -> Result<()> {
        run_blocking(move || match Arc::try_unwrap(self.connection) {
            Ok(connection) => {
                let connection = connection.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
                close(connection).map_err(failed("close the database"))
            }
            // A cancelled read is still running, and closes the connection when it ends.
            Err(_) => Ok(()),
        })
        .await
    }

    async fn with<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let connection = Arc::clone(&self.connection);
        run_blocking(move || work(&lock(&connection)).map_err(failed(operation))).await
    }
}

/// Rejects a database whose records were moved, or are being moved.
pub(super) fn refuse_moved(connection: &Connection) -> Result<()> {
    let Some(MoveRecord { other_end, is_finished, .. }) = mark(connection).map_err(failed(READ))? else {
        return Ok(());
    };
    let text = if is_finished {
        format!(
            "its records were moved to {other_end}: configure database.url, or use these older records again with \
             `longshore move-state --undo`"
        )
    } else {
        format!(
            "its records are being moved to {other_end}: complete the move by repeating `longshore move-state`, or \
             abandon it with `longshore move-state --undo`"
        )
    };
    Err(Error::Failed { operation: "open the database", source: text.into() })
}

fn mark(connection: &Connection) -> rusqlite::Result<Option<MoveRecord>> {
    let record = |row: &Row<'_>| Ok(MoveRecord { id: row.get(0)?, other_end: row.get(1)?, is_finished: row.get(2)? });
    connection.query_row("SELECT id, target, is_finished FROM moves", [], record).optional()
}

/// The key of a table by which its rows are read in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Text(&'static str),
    Id(&'static str),
    Number(&'static str),
}

fn key_of(table: MovedTable) -> Key {
    match table {
        MovedTable::Endpoints => Key::Text("id"),
        MovedTable::Events => Key::Number("position"),
        MovedTable::BacklogJobs => Key::Number("number"),
        MovedTable::Uploads
        | MovedTable::Deliveries
        | MovedTable::Attempts
        | MovedTable::ReplayJobs
        | MovedTable::HookCalls => Key::Id("id"),
    }
}

impl Key {
    const fn column(self) -> &'static str {
        match self {
            Self::Text(column) | Self::Id(column) | Self::Number(column) => column,
        }
    }

    /// Returns the value after which a batch begins.
    fn after(self, end: &BatchEnd) -> Value {
        match self {
            Self::Text(_) => Value::Text(String::from_utf8_lossy(&end.0).into_owned()),
            Self::Id(_) => Value::Blob(end.0.clone()),
            Self::Number(_) => {
                let number = end.0.as_slice().try_into().map(i64::from_be_bytes);
                Value::Integer(number.unwrap_or(i64::MIN))
            }
        }
    }
}

fn end_at(key: ValueRef<'_>) -> BatchEnd {
    BatchEnd(match key {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.to_vec(),
        ValueRef::Integer(number) => number.to_be_bytes().to_vec(),
        ValueRef::Null | ValueRef::Real(_) => Vec::new(),
    })
}

fn rows(connection: &Connection, table: MovedTable, after: &BatchEnd, limit: u32) -> rusqlite::Result<RowBatch> {
    let (key, columns) = (key_of(table), table.columns());
    let selected: Vec<&str> = columns.iter().map(|column| expression(table, column)).collect();
    let (name, by) = (table.name(), key.column());
    let sql = format!("SELECT {}, {by} FROM {name} WHERE {by} > ?1 ORDER BY {by} LIMIT ?2", selected.join(", "));
    let mut statement = connection.prepare_cached(&sql)?;
    let mut read = statement.query(params![key.after(after), limit])?;
    let mut batch = RowBatch::default();
    while let Some(row) = read.next()? {
        batch.rows.push(cells(row, columns.len())?);
        batch.end = Some(end_at(row.get_ref(columns.len())?));
    }
    Ok(batch)
}

/// Returns the expression of a column.
fn expression(table: MovedTable, column: &'static str) -> &'static str {
    match (table, column) {
        // Before its first upload, a job has an empty cursor here.
        (MovedTable::BacklogJobs, "cursor") => "iif(length(cursor) = 16, cursor, zeroblob(16))",
        (_, column) => column,
    }
}

fn uploads(connection: &Connection, after: &BatchEnd, limit: u32) -> rusqlite::Result<RowBatch> {
    let sql = format!(
        "SELECT {} FROM uploads JOIN upload_origins USING (id) WHERE id > ?1 ORDER BY id LIMIT ?2",
        *UPLOAD_COLUMNS
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let read = statement.query_map(params![after.0, limit], upload)?;
    let uploads: Vec<_> = read.collect::<rusqlite::Result<_>>()?;
    let end = uploads.last().map(|upload| BatchEnd(upload.id().as_bytes().to_vec()));
    Ok(RowBatch { rows: Vec::new(), uploads, end })
}

/// Reads the attempts of some deliveries.
fn attempts(connection: &Connection, after: &BatchEnd, limit: u32) -> rusqlite::Result<RowBatch> {
    const LAST: &str = "SELECT max(id) FROM (SELECT id FROM deliveries WHERE id > ?1 ORDER BY id LIMIT ?2)";
    let Some(last) = connection.query_one(LAST, params![after.0, limit], |row| row.get::<_, Option<Vec<u8>>>(0))?
    else {
        return Ok(RowBatch::default());
    };
    let columns = MovedTable::Attempts.columns();
    let selected: Vec<String> = columns.iter().map(|column| format!("attempts.{column}")).collect();
    let sql = format!(
        "SELECT {}, coalesce(deliveries.upload_id, deliveries.event_id)
         FROM deliveries JOIN attempts ON attempts.delivery_id = deliveries.id
         WHERE deliveries.id > ?1 AND deliveries.id <= ?2",
        selected.join(", ")
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let read = statement.query_map(params![after.0, last], |row| cells(row, columns.len() + 1))?;
    Ok(RowBatch { rows: read.collect::<rusqlite::Result<_>>()?, uploads: Vec::new(), end: Some(BatchEnd(last)) })
}

fn cells(row: &Row<'_>, count: usize) -> rusqlite::Result<Vec<Cell>> {
    let cell = |place| {
        Ok(match row.get_ref(place)? {
            ValueRef::Null => Cell::Null,
            ValueRef::Integer(integer) => Cell::Integer(integer),
            ValueRef::Text(_) => Cell::Text(row.get::<_, String>(place)?.into()),
            ValueRef::Blob(bytes) => Cell::Bytes(bytes.to_vec()),
            // A real number is in no column; reading it as an integer is the error that names the column.
            ValueRef::Real(_) => Cell::Integer(row.get(place)?),
        })
    };
    (0..count).map(cell).collect()
}
