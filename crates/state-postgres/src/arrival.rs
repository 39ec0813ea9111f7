//! Records that are moved in from another database, in batches.
//!
//! A batch and the place at which the next one begins are committed together, so that an interrupted move
//! continues without a gap or a repetition. No store opens the database before the move is finished.

use std::collections::BTreeSet;
use std::time::Duration;

use state_rows::{BatchEnd, Cell, EventRow, LastNumbers, MoveRecord, MovedTable, Row as _, RowBatch};
use tokio::sync::Mutex;

use crate::bucket::{SourceId, bucket_of, day_of};
use crate::clock::ServerTime;
use crate::fault::Fault;
use crate::log::array_of;
use crate::migrate::Allowed;
use crate::params::{Kind, Param, params};
use crate::records::{self, PreparedRecord};
use crate::rows::{Columns, EVENT_COLUMNS};
use crate::session::{Purpose, Session};
use crate::settings::PostgresSettings;
use crate::transaction::one;
use crate::{days, migrate, pooler, unfinished, upkeep};
use domain::id::UploadId;
use domain::log::EventPosition;
use domain::time::Timestamp;
use domain::upload::{Record, Upload};
use state::Result;

const OPEN: &str = "open the database for a move";
const WRITE: &str = "write moved records";

/// The age up to which a day gets partitions. Identifiers with an older or a future time were chosen by an
/// application, and their rows go to the common partition.
const OLDEST_DAY: Duration = Duration::from_hours(24 * 366 * 10);

const ANALYZE: &str = "ANALYZE uploads, upload_progress, upload_metadata, events, deliveries, attempts, endpoints,
     replay_jobs, hook_calls";

/// A database that receives the records of another one.
#[derive(Debug)]
pub struct PostgresTarget {
    session: Session,
    /// Holds the lock of an open store, so that no server uses the database.
    _presence: Session,
    now: Timestamp,
    /// The days whose partitions exist.
    days: Mutex<BTreeSet<Timestamp>>,
}

/// The place at which a move continues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovePlace {
    /// `None` once all tables were copied.
    pub table: Option<MovedTable>,
    pub after: BatchEnd,
    pub is_finished: bool,
}

impl PostgresTarget {
    /// Connects, migrates the database, and begins the move that `record` describes, or continues it. Fails
    /// if the database contains anything else.
    pub async fn open(settings: &PostgresSettings, record: &MoveRecord) -> Result<(Self, MovePlace)> {
        let opened = async {
            let connector = pooler::direct(settings, settings.start_timeout).await?;
            let first = upkeep::connect_first(&connector, Purpose::Write, settings.start_timeout).await?;
            let presence = upkeep::begin(first, true, settings.schema).await?;
            let session = connector.connect(Purpose::Migrate).await?;
            migrate::run(&session, settings.schema, Allowed::All).await?;
            let now = ServerTime::measured(&session).await?.now();
            days::make_ahead(&session, now).await?;
            let place = begin(&session, record).await?;
            Ok((Self { session, _presence: presence, now, days: Mutex::default() }, place))
        };
        opened.await.map_err(|fault: Fault| fault.into_error(OPEN))
    }

    /// Writes a batch, and the place at which the move continues.
    pub async fn write(&self, table: MovedTable, batch: &RowBatch) -> Result<()> {
        let written = async {
            self.make_days(table, batch).await?;
            let (continues_with, after) = match &batch.end {
                Some(end) => (Some(table), end.clone()),
                None => (table.next(), BatchEnd::default()),
            };
            self.session.begin().await?;
            let written = async {
                insert(&self.session, table, batch).await?;
                let step = continues_with.map(|table| table.name().to_owned());
                self.session.execute("UPDATE moves SET step = $1, after = $2", params![step, after.0]).await?;
                self.session.commit().await
            };
            let written = written.await;
            if written.is_err() {
                self.session.roll_back().await;
            }
            written
        };
        written.await.map_err(|fault: Fault| fault.into_error(WRITE))
    }

    /// Returns the number of rows of a table.
    pub async fn count(&self, table: MovedTable) -> Result<u64> {
        let counted = async {
            let sql = format!("SELECT count(*) FROM {}", table.name());
            Columns::of(one(&self.session.query(&sql, &[]).await?)?).next()
        };
        counted.await.map_err(|fault: Fault| fault.into_error("count moved records"))
    }

    /// Reads the log of events in its order.
    pub async fn events(&self, after: EventPosition, limit: u32) -> Result<Vec<(EventPosition, EventRow)>> {
        let read = async {
            let columns = &*EVENT_COLUMNS;
            let sql = format!("SELECT {columns} FROM events WHERE position > $1 ORDER BY position LIMIT $2");
            let rows = self.session.query(&sql, params![after, limit]).await?;
            let event = |row| {
                let mut columns = Columns::of(row);
                Ok((EventPosition(columns.next()?), EventRow::read(&mut columns)?))
            };
            rows.iter().map(event).collect::<std::result::Result<_, Fault>>()
        };
        read.await.map_err(|fault| fault.into_error("read the moved log of events"))
    }

    /// Finishes the move: servers may use the database from then on.
    pub async fn finish(&self, last: LastNumbers) -> Result<()> {
        let finished = async {
            // Everything before the first event may have been removed.
            const REMOVED: &str = "UPDATE log SET removed_up_to = greatest(removed_up_to,
                 (SELECT coalesce(min(position) - 1, $1) FROM events))";
            const NEXT_JOB: &str = "SELECT setval(pg_get_serial_sequence('backlog_jobs', 'number'), $1)";
            // Statements are planned for the sizes of tables, which autovacuum would notice only later.
            self.session.batch(ANALYZE).await?;
            self.session.begin().await?;
            let finished = async {
                self.session.execute(REMOVED, params![last.event]).await?;
                if last.backlog_job > 0 {
                    self.session.query(NEXT_JOB, params![last.backlog_job]).await?;
                }
                let endpoints = "UPDATE endpoints_version SET version = version + 1, config_epoch = $1";
                self.session.execute(endpoints, params![last.config_epoch]).await?;
                // The moved rows may be older than every row that a server had here before.
                self.session.execute(unfinished::LOWER, params![[0_u8; 16], [0_u8; 16]]).await?;
                self.session.execute("UPDATE moves SET is_finished = true", &[]).await?;
                self.session.commit().await
            };
            let finished = finished.await;
            if finished.is_err() {
                self.session.roll_back().await;
            }
            finished
        };
        finished.await.map_err(|fault: Fault| fault.into_error("finish the move"))
    }

    /// Creates the partitions for the rows of a batch.
    async fn make_days(&self, table: MovedTable, batch: &RowBatch) -> std::result::Result<(), Fault> {
        let sources = batch.rows.iter().filter_map(|row| source_of(table, row));
        let sources = batch.uploads.iter().map(|upload| *upload.id().as_bytes()).chain(sources);
        let oldest = self.now.minus(OLDEST_DAY);
        let needed: BTreeSet<Timestamp> = sources
            .map(|source| UploadId::from_bytes(source).made_at())
            .filter(|at| (oldest..=self.now).contains(at))
            .map(day_of)
            .collect();
        let mut made = self.days.lock().await;
        for day in needed {
            if !made.contains(&day) {
                days::make(&self.session, day, 1).await?;
                made.insert(day);
            }
        }
        Ok(())
    }
}

/// Rejects a database that a move has not filled completely.
pub(crate) async fn refuse_unfinished(session: &Session) -> std::result::Result<(), Fault> {
    match found(session).await? {
        Some((MoveRecord { other_end, is_finished: false, .. }, _)) => Err(Fault::Unusable(format!(
            "a move of the records of {other_end} into this database is unfinished; repeat `longshore move-state`, or \
             configure an empty database"
        ))),
        Some(_) | None => Ok(()),
    }
}

/// Returns the move into this database, and its place.
async fn found(session: &Session) -> std::result::Result<Option<(MoveRecord, MovePlace)>, Fault> {
    let rows = session.query("SELECT id, source, is_finished, step, after FROM moves", &[]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let mut columns = Columns::of(row);
    let record = MoveRecord { id: columns.next()?, other_end: columns.next()?, is_finished: columns.next()? };
    let step: Option<String> = columns.next()?;
    let table = match step {
        None => None,
        Some(name) => Some(MovedTable::by_name(&name).ok_or_else(|| Fault::Unreadable("step".to_owned()))?),
    };
    let place = MovePlace { table, after: BatchEnd(columns.next()?), is_finished: record.is_finished };
    Ok(Some((record, place)))
}

async fn begin(session: &Session, record: &MoveRecord) -> std::result::Result<MovePlace, Fault> {
    const HAS_ROWS: &str = "SELECT EXISTS (SELECT FROM uploads) OR EXISTS (SELECT FROM events)
         OR EXISTS (SELECT FROM endpoints) OR EXISTS (SELECT FROM deliveries) OR EXISTS (SELECT FROM hook_calls)
         OR EXISTS (SELECT FROM replay_jobs) OR EXISTS (SELECT FROM nodes)";
    if let Some((known, place)) = found(session).await? {
        // An attempt that was interrupted before it had marked the other database has copied nothing.
        let has_begun = place.table != Some(MovedTable::ALL[0]) || !place.after.0.is_empty();
        if known.id != record.id && !has_begun {
            let sql = "UPDATE moves SET id = $1, source = $2";
            session.execute(sql, params![record.id, record.other_end.clone()]).await?;
            return Ok(place);
        }
        if known.id == record.id {
            return Ok(place);
        }
        return Err(Fault::Unusable(format!(
            "the database contains records that an earlier move brought from {}; configure an empty one",
            known.other_end
        )));
    }
    if one(&session.query(HAS_ROWS, &[]).await?)?.try_get(0)? {
        return Err(Fault::Unusable(
            "the database is not empty: a server has used it; configure an empty one".to_owned(),
        ));
    }
    let first = MovedTable::ALL[0];
    let sql = "INSERT INTO moves (id, source, step, after, is_finished) VALUES ($1, $2, $3, $4, false)";
    let values = params![record.id, record.other_end.clone(), first.name().to_owned(), Vec::<u8>::new()];
    session.execute(sql, values).await?;
    Ok(MovePlace { table: Some(first), after: BatchEnd::default(), is_finished: false })
}

async fn insert(session: &Session, table: MovedTable, batch: &RowBatch) -> std::result::Result<(), Fault> {
    if batch.is_empty() {
        return Ok(());
    }
    if table == MovedTable::Uploads {
        return insert_uploads(session, &batch.uploads).await;
    }
    let columns = table.columns();
    let mut all = columns.clone();
    let sources: Vec<Option<SourceId>> = batch.rows.iter().map(|row| source_of(table, row)).collect();
    let mut values = Vec::with_capacity(columns.len() + 2);
    for (place, column) in columns.iter().enumerate() {
        let kind = kind_of(table, column);
        let cells = batch.rows.iter().zip(&sources).map(|(row, source)| arriving(table, column, &row[place], source));
        let cells = cells.map(|cell| typed(kind, cell).ok_or_else(|| Fault::Unreadable((*column).to_owned())));
        let cells: Vec<Cell> = cells.collect::<std::result::Result<_, _>>()?;
        values.push(kind.array(cells.iter()));
    }
    if sources.iter().all(Option::is_some) {
        let sources: Vec<SourceId> = sources.into_iter().flatten().collect();
        all.push("bucket");
        values.push(Param::from(sources.iter().map(bucket_of).collect::<Vec<i64>>()));
        if table != MovedTable::HookCalls {
            all.push("source_id");
            values.push(Param::from(sources));
        }
    }
    let arrays: Vec<String> = (1..).zip(&all).map(|(place, column)| cast(table, column, place)).collect();
    let own_numbers = if table == MovedTable::BacklogJobs { "OVERRIDING SYSTEM VALUE " } else { "" };
    let sql = format!(
        "INSERT INTO {} ({}) {own_numbers}SELECT * FROM unnest({})",
        table.name(),
        all.join(", "),
        arrays.join(", ")
    );
    session.execute(&sql, &values).await.map(drop)
}

async fn insert_uploads(session: &Session, uploads: &[Upload]) -> std::result::Result<(), Fault> {
    let before = |upload: &Upload| {
        let record = upload.record().clone();
        // Writing a record raises its version, which a move keeps.
        Upload::from_record(Record { version: record.version.saturating_sub(1), ..record })
    };
    let before: Vec<Upload> = uploads.iter().map(before).collect();
    let prepared: Vec<PreparedRecord> = before.iter().map(PreparedRecord::of).collect();
    let rows: Vec<_> = prepared.iter().zip(&before).map(|(row, it)| (row, it.record().metadata.pairs())).collect();
    records::insert(session, None, &rows).await.map(drop)
}

fn cast(table: MovedTable, column: &str, place: usize) -> String {
    match (table, column) {
        (MovedTable::BacklogJobs, "cursor") => format!("${place}::uuid[]"),
        _ => array_of(table.name(), column, place),
    }
}

fn kind_of(table: MovedTable, column: &str) -> Kind {
    match (table, column) {
        (MovedTable::BacklogJobs, "cursor") => Kind::Id,
        _ => Kind::of(table.name(), column),
    }
}

/// Returns the identifier that places a row, if its table is distributed by one.
fn source_of(table: MovedTable, row: &[Cell]) -> Option<SourceId> {
    let columns = table.columns();
    let id = |column: &str| {
        let cell = columns.iter().position(|known| *known == column).and_then(|place| row.get(place));
        cell.and_then(as_id)
    };
    match table {
        MovedTable::Events => id("upload_id").or_else(|| id("id")),
        MovedTable::Deliveries => id("upload_id").or_else(|| id("event_id")),
        MovedTable::Attempts => row.last().and_then(as_id),
        MovedTable::HookCalls => id("upload_id"),
        MovedTable::Endpoints | MovedTable::Uploads | MovedTable::ReplayJobs | MovedTable::BacklogJobs => None,
    }
}

fn as_id(cell: &Cell) -> Option<[u8; 16]> {
    match cell {
        Cell::Bytes(bytes) => bytes.as_slice().try_into().ok(),
        Cell::Id(id) => Some(*id),
        Cell::Null | Cell::Flag(_) | Cell::Integer(_) | Cell::Text(_) | Cell::Json(_) | Cell::Shared(_) => None,
    }
}

/// Returns a cell as it is stored here: the identifier of a delivery ends like that of its source.
fn arriving(table: MovedTable, column: &str, cell: &Cell, source: &Option<SourceId>) -> Cell {
    let is_delivery = matches!((table, column), (MovedTable::Deliveries, "id") | (MovedTable::Attempts, "delivery_id"));
    match (as_id(cell), source) {
        (Some(mut id), Some(source)) if is_delivery => {
            id[14..].copy_from_slice(&source[14..]);
            Cell::Id(id)
        }
        _ => cell.clone(),
    }
}

/// Converts a cell of a database that has fewer types; `None` if it does not fit the column.
fn typed(kind: Kind, cell: Cell) -> Option<Cell> {
    match (kind, cell) {
        (_, Cell::Null) => Some(Cell::Null),
        (Kind::Id, cell) => as_id(&cell).map(Cell::Id),
        (Kind::Flag, Cell::Integer(flag)) => Some(Cell::Flag(flag != 0)),
        (Kind::Integer, cell @ Cell::Integer(_))
        | (Kind::Flag, cell @ Cell::Flag(_))
        | (Kind::Text, cell @ (Cell::Text(_) | Cell::Json(_) | Cell::Shared(_)))
        | (Kind::Bytes, cell @ Cell::Bytes(_)) => Some(cell),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_of_the_wrong_type_is_not_guessed() {
        assert_eq!(typed(Kind::Id, Cell::Bytes(vec![7; 16])), Some(Cell::Id([7; 16])));
        assert_eq!(typed(Kind::Id, Cell::Bytes(vec![7; 15])), None);
        assert_eq!(typed(Kind::Flag, Cell::Integer(1)), Some(Cell::Flag(true)));
        assert_eq!(typed(Kind::Integer, Cell::Text("7".into())), None);
        assert_eq!(typed(Kind::Bytes, Cell::Text("7".into())), None);
        assert_eq!(typed(Kind::Text, Cell::Null), Some(Cell::Null));
    }

    #[test]
    fn a_delivery_lies_with_its_upload() {
        let (delivery, upload) = (Cell::Bytes(vec![1; 16]), Some([2; 16]));
        let Cell::Id(id) = arriving(MovedTable::Deliveries, "id", &delivery, &upload) else { panic!("no id") };
        assert_eq!((id[13], &id[14..]), (1, &[2, 2][..]));
        assert_eq!(arriving(MovedTable::Deliveries, "event_id", &delivery, &upload), delivery);
    }
}
