//! The log of events: the positions of events, and reads in the order of their commits.
//!
//! A position consists of the number of the transaction that wrote the event and of the event's place within
//! it: `(number + base) << 20 | place`. Numbers are assigned when transactions begin to write, not when they
//! commit. A reader therefore reads only events before the *horizon*, which is the oldest transaction that
//! was still open when the statement began: events committed later lie beyond it, and none is missed. See
//! `horizon`.

use std::sync::LazyLock;

use async_trait::async_trait;
use state_rows::{EventRow, Row as _};

use crate::PostgresStore;
use crate::bucket::{SourceId, bucket_of};
use crate::fault::Fault;
use crate::params::{Kind, Param, params};
use crate::query::tenants;
use crate::rows::{self, Columns, EVENT_COLUMNS};
use crate::session::Session;
use crate::transaction::{Transaction, one};
use domain::event::EventKind;
use domain::id::{EventId, UploadId};
use domain::log::{EventPage, EventPosition, LoggedEvent};
use domain::principal::{TenantId, TenantScope};
use domain::time::Timestamp;
use state::{EventLog, Result};

/// The number of bits for the place within the transaction.
pub(crate) const PLACE_BITS: u32 = 20;

/// The maximum number of log positions that a read examines: events that are not about uploads are skipped
/// one by one, and so are those of other tenants.
const WINDOW: u32 = 5_000;

/// Returns the SQL expression for the position of the event at a place of this transaction; the arguments are
/// placeholders or columns.
pub(crate) fn position(base: &str, place: &str) -> String {
    format!("((pg_current_xact_id()::text::bigint + {base}) << {PLACE_BITS} | {place})")
}

/// An event to be logged. `source` is its upload, or the event itself if it is not about an upload.
#[derive(Debug)]
pub(crate) struct NewLogEntry<'a> {
    pub(crate) source: SourceId,
    pub(crate) id: EventId,
    pub(crate) tenant: TenantId,
    pub(crate) upload: Option<UploadId>,
    pub(crate) sequence: u64,
    pub(crate) kind: EventKind,
    pub(crate) at: Timestamp,
    pub(crate) body: &'a bytes::Bytes,
    /// The place of the event in the transaction, see [`Transaction::next_event`].
    pub(crate) place: i64,
}

/// Inserts events from arrays. The first value is the base; places, buckets, sources and the columns follow.
static INSERT: LazyLock<String> = LazyLock::new(|| {
    let columns = state_rows::sql::columns::<EventRow>();
    let arrays: Vec<String> =
        EventRow::COLUMNS.iter().enumerate().map(|(place, column)| array_of("events", column, place + 5)).collect();
    format!(
        "INSERT INTO events (position, bucket, source_id, {columns})
         SELECT {}, new.bucket, new.source_id, {}
         FROM unnest($2::bigint[], $3::bigint[], $4::uuid[], {}) AS new (place, bucket, source_id, {columns})",
        position("$1", "new.place"),
        EventRow::COLUMNS.iter().map(|column| format!("new.{column}")).collect::<Vec<_>>().join(", "),
        arrays.join(", "),
    )
});

/// Returns `$n::type[]` for a column.
pub(crate) fn array_of(table: &str, column: &str, place: usize) -> String {
    let of = match Kind::of(table, column) {
        Kind::Flag => "boolean",
        Kind::Integer => "bigint",
        Kind::Text => "text",
        Kind::Id => "uuid",
        Kind::Bytes => "bytea",
    };
    format!("${place}::{of}[]")
}

impl Transaction<'_> {
    /// Adds events to the end of the log.
    pub(crate) async fn log(&mut self, entries: &[NewLogEntry<'_>]) -> std::result::Result<(), Fault> {
        if entries.is_empty() {
            return Ok(());
        }
        let cells: Vec<_> = entries
            .iter()
            .map(|it| EventRow::cells(it.id, it.tenant, it.upload, it.sequence, it.kind, it.at, it.body))
            .collect();
        let mut values = vec![
            Param::from(self.shared.position_base()),
            Param::from(entries.iter().map(|entry| entry.place).collect::<Vec<i64>>()),
            Param::from(entries.iter().map(|entry| bucket_of(&entry.source)).collect::<Vec<i64>>()),
            Param::from(entries.iter().map(|entry| entry.source).collect::<Vec<[u8; 16]>>()),
        ];
        for (place, column) in EventRow::COLUMNS.iter().enumerate() {
            values.push(Kind::of("events", column).array(cells.iter().map(|row| &row[place])));
        }
        self.execute(&INSERT, &values).await.map(drop)
    }
}

static OF_UPLOAD: LazyLock<String> = LazyLock::new(|| {
    let columns = &*EVENT_COLUMNS;
    format!(
        "SELECT {columns} FROM events
         WHERE bucket = $6 AND source_id = $1 AND upload_id IS NOT NULL AND sequence > $2 AND tenant BETWEEN $4 AND $5
         ORDER BY sequence LIMIT $3"
    )
});

static SINCE: LazyLock<String> = LazyLock::new(|| {
    let columns = &*EVENT_COLUMNS;
    format!(
        "SELECT {columns} FROM events
         WHERE position > $1 AND position <= $2 AND upload_id IS NOT NULL AND tenant BETWEEN $4 AND $5
         ORDER BY position LIMIT $3"
    )
});

/// The end of a window that begins after `$1`; no row if the log ends earlier.
const WINDOW_END: &str = "SELECT position FROM events WHERE position > $1 AND position <= $2 ORDER BY position
     LIMIT 1 OFFSET $3";

/// The position up to which events may have been removed, and the number of events between two positions: of
/// all tenants, and of the given tenants.
const BEHIND: &str = "SELECT (SELECT removed_up_to FROM log), count(*),
         count(*) FILTER (WHERE tenant BETWEEN $3 AND $4)
     FROM (SELECT tenant FROM events WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $5) AS behind";

/// Reads the number that is added to the numbers of transactions. It is raised if the log contains a position
/// that no transaction of this server can have written: the database was restored from another server.
pub(crate) async fn base(session: &Session) -> std::result::Result<i64, Fault> {
    const RAISE: &str = "UPDATE log SET base = greatest(base,
             (SELECT coalesce(max(position), 0) >> 20 FROM events) - pg_current_xact_id()::text::bigint + 1)
         RETURNING base";
    session.begin().await?;
    let raised = session.query(RAISE, &[]).await;
    let base = raised.and_then(|rows| Ok(one(&rows)?.try_get(0)?));
    match base {
        Ok(base) => session.commit().await.map(|()| base),
        Err(fault) => {
            session.roll_back().await;
            Err(fault)
        }
    }
}

#[async_trait]
impl EventLog for PostgresStore {
    async fn events_of(&self, scope: TenantScope, id: UploadId, after: u64, limit: u32) -> Result<Vec<LoggedEvent>> {
        const OPERATION: &str = "read the events of an upload";
        let (least, most) = tenants(scope);
        let values = params![id, after, limit, least, most, bucket_of(id.as_bytes())];
        let found = self.readers.query(OPERATION, &OF_UPLOAD, values).await?;
        let events: std::result::Result<_, Fault> = found.iter().map(rows::logged_event).collect();
        events.map_err(|fault| fault.into_error(OPERATION))
    }

    async fn events_since(&self, scope: TenantScope, after: EventPosition, limit: u32) -> Result<EventPage> {
        const OPERATION: &str = "read the log of events";
        let (newest, is_behind) = self.newest_visible(OPERATION).await?;
        let window = i64::from(WINDOW.max(limit)) - 1;
        let end = self.readers.query(OPERATION, WINDOW_END, params![after, newest, window]).await?;
        let end: Option<i64> = end.first().map(|row| row.get(0));
        let last = end.unwrap_or(newest);
        let (least, most) = tenants(scope);
        let found = self.readers.query(OPERATION, &SINCE, params![after, last, limit, least, most]).await?;
        let found: std::result::Result<Vec<LoggedEvent>, Fault> = found.iter().map(rows::logged_event).collect();
        let found = found.map_err(|fault| fault.into_error(OPERATION))?;
        let is_full = u32::try_from(found.len()).is_ok_and(|count| count == limit);
        let full_at = found.last().filter(|_| is_full).map(|event| event.position);
        let seen = full_at.unwrap_or(EventPosition(last.max(after.0)));
        Ok(EventPage { found, seen, has_more: is_full || last < newest || is_behind })
    }

    async fn newest_event(&self) -> Result<EventPosition> {
        let (newest, _) = self.newest_visible("read the position of the newest event").await?;
        Ok(EventPosition(newest))
    }

    async fn count_events_behind(&self, scope: TenantScope, after: EventPosition, most: u32) -> Result<Option<u32>> {
        const OPERATION: &str = "count the events behind a place";
        let (newest, _) = self.newest_visible(OPERATION).await?;
        if after.0 > newest {
            return Ok(None);
        }
        let (least, greatest) = tenants(scope);
        let values = params![after, newest, least, greatest, WINDOW + 1];
        let rows = self.readers.query(OPERATION, BEHIND, values).await?;
        let read = || {
            let mut columns = Columns::of(one(&rows)?);
            Ok((columns.next::<i64>()?, columns.next::<u32>()?, columns.next::<u32>()?))
        };
        let (removed_up_to, all, wanted) = read().map_err(|fault: Fault| fault.into_error(OPERATION))?;
        Ok(Some(if removed_up_to > after.0 || all > WINDOW { most } else { wanted.min(most) }))
    }
}
