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
use crate::bucket::{SourceId, all_buckets, bucket_of};
use crate::fault::Fault;
use crate::params::{Kind, Param, params};
use crate::past_days::ReadWindow;
use crate::query::tenants;
use crate::rows::{self, Columns, EVENT_COLUMNS};
use crate::session::Session;
use crate::transaction::{Transaction, one};
use crate::{past_days, unfinished};
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
        for entry in entries {
            self.touched.note(&entry.source, None);
        }
        self.execute_of(entries.iter().map(|entry| &entry.source), &INSERT, &values).await.map(drop)
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
             AND bucket = ANY($6::bigint[]) AND source_id >= $7 AND source_id < $8
         ORDER BY position LIMIT $3"
    )
});

/// The end of a window that begins after `$1`; no row if the log ends earlier.
const WINDOW_END: &str = "SELECT position FROM events WHERE position > $1 AND position <= $2
         AND bucket = ANY($4::bigint[]) AND source_id >= $5 AND source_id < $6
     ORDER BY position LIMIT 1 OFFSET $3";

/// The position up to which events may have been removed, and the number of events between two positions on
/// some days: of all tenants, and of the given tenants.
const BEHIND: &str = "SELECT (SELECT removed_up_to FROM log), count(*),
         count(*) FILTER (WHERE tenant BETWEEN $3 AND $4)
     FROM (SELECT tenant FROM events WHERE position > $1 AND position <= $2 AND bucket = ANY($6::bigint[])
             AND source_id >= $7 AND source_id < $8
         ORDER BY position LIMIT $5) AS behind";

/// Reads the number that is added to the numbers of transactions, and changes nothing.
pub(crate) async fn read_base(session: &Session) -> std::result::Result<i64, Fault> {
    let rows = session.query("SELECT base FROM log", &[]).await?;
    Ok(one(&rows)?.try_get(0)?)
}

/// Reads the number that is added to the numbers of transactions. It is raised if the log contains a position
/// that no transaction of this server can have written: the database was restored from another server. Writes
/// nothing otherwise.
pub(crate) async fn base(session: &Session) -> std::result::Result<i64, Fault> {
    const RAISE: &str = "UPDATE log SET base = least.base
         FROM (SELECT (greatest((SELECT position FROM events WHERE bucket = ANY($1::bigint[]) AND source_id >= $2
                     ORDER BY position DESC LIMIT 1), (SELECT max(newest_position) FROM past_days), 0) >> 20)
                 - pg_current_xact_id()::text::bigint + 1) AS least (base)
         WHERE log.base < least.base";
    session.begin().await?;
    let raising = async {
        let past = unfinished::read(session).await?.past;
        session.query(RAISE, params![all_buckets(), past]).await?;
        let rows = session.query("SELECT base FROM log", &[]).await?;
        Ok::<_, Fault>(one(&rows)?.try_get(0)?)
    };
    match raising.await {
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
        let (mut found, mut last) = (Vec::<LoggedEvent>::new(), newest);
        let is_full = |found: &[LoggedEvent]| u32::try_from(found.len()).is_ok_and(|count| count >= limit);
        for days in past_days::with_events(self.primary(), OPERATION, &self.shared.days, after.0).await? {
            if days.oldest_position > last {
                break;
            }
            let read = self.events_within(&days, scope, after, last, limit).await?;
            last = read.1;
            found.extend(read.0);
            found.sort_by_key(|event| event.position);
            found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            found.retain(|event| event.position.0 <= last);
            last = found.last().filter(|_| is_full(&found)).map_or(last, |event| event.position.0);
        }
        let is_full = is_full(&found);
        Ok(EventPage { found, seen: EventPosition(last.max(after.0)), has_more: is_full || last < newest || is_behind })
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
        let (mut removed_up_to, mut all, mut wanted) = (0, 0_u32, 0_u32);
        for days in past_days::with_events(self.primary(), OPERATION, &self.shared.days, after.0).await? {
            let [from, end] = past_days::bounds(&days);
            let values = params![after, newest, least, greatest, WINDOW + 1, all_buckets(), from, end];
            let rows = self.readers.query(OPERATION, BEHIND, values).await?;
            let read = || {
                let mut columns = Columns::of(one(&rows)?);
                Ok((columns.next::<i64>()?, columns.next::<u32>()?, columns.next::<u32>()?))
            };
            let counted = read().map_err(|fault: Fault| fault.into_error(OPERATION))?;
            (removed_up_to, all, wanted) = (counted.0, all + counted.1, wanted + counted.2);
            if all > WINDOW {
                break;
            }
        }
        Ok(Some(if removed_up_to > after.0 || all > WINDOW { most } else { wanted.min(most) }))
    }
}

impl PostgresStore {
    /// Reads events of some days between two positions, and returns them with the position up to which it has
    /// looked.
    async fn events_within(
        &self,
        days: &ReadWindow,
        scope: TenantScope,
        after: EventPosition,
        last: i64,
        limit: u32,
    ) -> Result<(Vec<LoggedEvent>, i64)> {
        const OPERATION: &str = "read the log of events";
        let window = i64::from(WINDOW.max(limit)) - 1;
        let [from, until] = past_days::bounds(days);
        let values = params![after, last, window, all_buckets(), from.clone(), until.clone()];
        let end = self.readers.query(OPERATION, WINDOW_END, values).await?;
        let last = end.first().map_or(last, |row| row.get(0));
        let (least, most) = tenants(scope);
        let values = params![after, last, limit, least, most, all_buckets(), from, until];
        let found = self.readers.query(OPERATION, &SINCE, values).await?;
        let found: std::result::Result<Vec<LoggedEvent>, Fault> = found.iter().map(rows::logged_event).collect();
        Ok((found.map_err(|fault| fault.into_error(OPERATION))?, last))
    }
}
