//! Moves the records of a data folder from SQLite to PostgreSQL.
//!
//! The server is stopped meanwhile. The source is marked before the first row is copied, so that no server
//! changes it until the move is finished or abandoned. The target records how far the move has come. Every
//! step can be repeated: a move that was interrupted at any point continues when it is started again.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};
use state_postgres::{DatabaseUrl, PostgresSettings, PostgresTarget};
use state_rows::{BatchEnd, EventRow, MoveRecord, MovedTable};
use state_sqlite::SqliteSource;

use crate::app::data_folder::DataFolder;
use crate::app::database::sqlite_path;
use domain::log::EventPosition;
use storage::local::FolderAccess;

/// The ends of a move.
#[derive(Debug, Clone)]
pub struct MoveOrder {
    /// The data folder whose database is moved.
    pub data_dir: PathBuf,
    pub target: DatabaseUrl,
    /// The number of rows that are committed together.
    pub batch_rows: u32,
}

/// The default number of rows that are committed together.
pub const BATCH_ROWS: u32 = 1_000;

impl MoveOrder {
    /// Creates the order for a database at a URL.
    pub fn new(data_dir: PathBuf, url: &str, password: Option<&str>) -> anyhow::Result<Self> {
        let target = DatabaseUrl::parse(url, password).context("the target is not the URL of a PostgreSQL database")?;
        Ok(Self { data_dir, target, batch_rows: BATCH_ROWS })
    }
}

impl MovedRecords {
    /// Describes the result, and what to do next.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (table, rows) in &self.tables {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{table}: {rows}");
        }
        let _ = writeln!(text, "sha256 of the log of events: {}", self.log_digest);
        let _ = writeln!(text, "moved to {}; start the server with this database.url", self.target);
        text
    }
}

/// The progress of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveStep {
    /// Rows of a table were copied.
    Copied { table: &'static str, done: u64, total: u64 },
    /// Events were read back and compared.
    Compared { done: u64, total: u64 },
}

/// The records that were moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedRecords {
    pub target: String,
    /// Each table with the number of its rows.
    pub tables: Vec<(&'static str, u64)>,
    /// The SHA-256 of the log of events, in both databases.
    pub log_digest: String,
}

/// Moves all records, or completes a move that was interrupted.
pub async fn move_state(order: &MoveOrder, progress: &mut dyn FnMut(MoveStep)) -> anyhow::Result<MovedRecords> {
    ensure!(order.data_dir.is_dir(), "there is no data folder {}", order.data_dir.display());
    let _folder = DataFolder::take(&order.data_dir, FolderAccess::Exclusive)?;
    let path = sqlite_path(&order.data_dir);
    let source = SqliteSource::open(&path).await.with_context(|| format!("could not open {}", path.display()))?;
    let target = order.target.to_string();
    let mark = match source.mark().await? {
        Some(mark) if mark.other_end != target => bail!(
            "a move of these records to {} has begun; complete that one, or abandon it with --undo",
            mark.other_end
        ),
        Some(mark) => mark,
        None => MoveRecord { id: rand::random(), other_end: target.clone(), is_finished: false },
    };
    let shown = std::path::absolute(&path).unwrap_or_else(|_| path.clone()).display().to_string();
    let settings = PostgresSettings::new(order.target.clone());
    // The target is checked before the source is marked, so that a mistake in its address changes nothing.
    let record = MoveRecord { other_end: shown, ..mark.clone() };
    let (receiving, place) = PostgresTarget::open(&settings, &record)
        .await
        .with_context(|| format!("could not move records to {target}"))?;
    if !mark.is_finished {
        source.set_mark(mark.clone()).await?;
    }
    let (mut table, mut after) = (place.table, place.after);
    while let Some(current) = table {
        copy(&source, &receiving, current, after, order.batch_rows, progress).await?;
        (table, after) = (current.next(), BatchEnd::default());
    }
    let moved = describe(&receiving, target, progress).await?;
    // Servers may have changed the records since a move that is finished.
    if !place.is_finished {
        compare(&source, &moved, progress).await?;
        receiving.finish(source.last_numbers().await?).await?;
    }
    source.set_mark(MoveRecord { is_finished: true, ..mark }).await?;
    source.close().await?;
    Ok(moved)
}

/// Lets servers use the records in a data folder again that were moved or were being moved, and says so.
pub async fn undo(data_dir: &Path) -> anyhow::Result<String> {
    ensure!(data_dir.is_dir(), "there is no data folder {}", data_dir.display());
    let _folder = DataFolder::take(data_dir, FolderAccess::Exclusive)?;
    let source = SqliteSource::open(&sqlite_path(data_dir)).await?;
    let mark = source.keep().await?;
    source.close().await?;
    Ok(match mark {
        Some(mark) => format!("servers may use {} again; {} is not changed\n", data_dir.display(), mark.other_end),
        None => format!("nothing was moved from {}\n", data_dir.display()),
    })
}

/// Copies the rows of a table after a key.
async fn copy(
    source: &SqliteSource,
    target: &PostgresTarget,
    table: MovedTable,
    mut after: BatchEnd,
    batch_rows: u32,
    progress: &mut dyn FnMut(MoveStep),
) -> anyhow::Result<()> {
    let total = source.count(table).await?;
    let mut done = target.count(table).await?;
    loop {
        progress(MoveStep::Copied { table: table.name(), done, total });
        let batch = source.read(table, &after, batch_rows).await?;
        target.write(table, &batch).await.with_context(|| format!("could not move {}", table.name()))?;
        done += batch.len() as u64;
        match batch.end {
            Some(end) => after = end,
            None => return Ok(()),
        }
    }
}

/// Counts the rows that have arrived, and computes the digest of their log.
async fn describe(
    target: &PostgresTarget,
    address: String,
    progress: &mut dyn FnMut(MoveStep),
) -> anyhow::Result<MovedRecords> {
    let mut tables = Vec::new();
    for table in MovedTable::ALL {
        tables.push((table.name(), target.count(table).await?));
    }
    let total = target.count(MovedTable::Events).await?;
    let mut log = LogDigest::default();
    loop {
        progress(MoveStep::Compared { done: log.events, total });
        let events = target.events(log.last, BATCH_ROWS).await?;
        if events.is_empty() {
            return Ok(MovedRecords { target: address, tables, log_digest: log.finish() });
        }
        events.iter().for_each(|event| log.add(event));
    }
}

/// Compares the records with those that have arrived.
async fn compare(
    source: &SqliteSource,
    moved: &MovedRecords,
    progress: &mut dyn FnMut(MoveStep),
) -> anyhow::Result<()> {
    for (table, (name, arrived)) in MovedTable::ALL.into_iter().zip(&moved.tables) {
        let sent = source.count(table).await?;
        ensure!(
            sent == *arrived,
            "{arrived} of {sent} rows of {name} have arrived; abandon this move with --undo, and repeat it with an empty \
             database"
        );
    }
    let total = source.count(MovedTable::Events).await?;
    let mut log = LogDigest::default();
    loop {
        progress(MoveStep::Compared { done: log.events, total });
        let events = source.events(log.last, BATCH_ROWS).await?;
        if events.is_empty() {
            break;
        }
        events.iter().for_each(|event| log.add(event));
    }
    let (sent, arrived) = (log.finish(), &moved.log_digest);
    ensure!(
        sent == *arrived,
        "the log of events has changed on its way: its SHA-256 was {sent} and is {arrived}; abandon this move with \
         --undo, and repeat it with an empty database"
    );
    Ok(())
}

/// The SHA-256 of the events of a log, in their order.
struct LogDigest {
    digest: Sha256,
    events: u64,
    last: EventPosition,
}

impl Default for LogDigest {
    fn default() -> Self {
        Self { digest: Sha256::new(), events: 0, last: EventPosition(0) }
    }
}

impl LogDigest {
    fn add(&mut self, (position, event): &(EventPosition, EventRow)) {
        let EventRow { id, tenant, upload_id, sequence, kind, occurred_at_ms, body } = event;
        self.events += 1;
        self.last = *position;
        let upload = upload_id.as_ref().map_or([0; 16], |upload| *upload.as_bytes());
        for number in [position.0, occurred_at_ms.unix_ms()] {
            self.digest.update(number.to_be_bytes());
        }
        for number in [u64::from(tenant.number()), *sequence, kind.name().len() as u64, body.len() as u64] {
            self.digest.update(number.to_be_bytes());
        }
        for bytes in [&id.as_bytes()[..], &upload[..], kind.name().as_bytes(), &body[..]] {
            self.digest.update(bytes);
        }
    }

    fn finish(self) -> String {
        self.digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
