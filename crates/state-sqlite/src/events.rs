//! The log of events. Each event is written by the commit that caused it, with a delivery for every
//! subscribed endpoint.

use std::sync::LazyLock;

use rusqlite::params;
use state_rows::{EventRow, sql};

use crate::endpoints::Subscriber;
use crate::lanes::NewDelivery;
use crate::query::tenants;
use crate::rows::{EVENT_COLUMNS, PLACEHOLDERS, bound, integer};
use crate::writer::WriteTransaction;
use crate::{SqliteStore, lanes, rows};
use domain::delivery::AttemptTrigger;
use domain::event::EventKind;
use domain::id::{DeliveryId, UploadId, in_order};
use domain::lane::LaneLoad;
use domain::log::{EventPage, EventPosition, LoggedEvent};
use domain::metadata::Metadata;
use domain::principal::{TenantId, TenantScope};
use domain::upload::Upload;
use state::{NewEvent, Result};

/// The new events of an upload, ready to be written. The caller prepares them, which leaves the writer less
/// work.
#[derive(Debug)]
pub(super) struct UploadEvents {
    tenant: TenantId,
    upload: UploadId,
    /// The metadata, because some endpoints subscribe only to uploads with certain metadata. Empty if there
    /// are no events.
    metadata: Metadata,
    events: Vec<NewEvent>,
}

/// An endpoint with the load of its lane, once that is known: a commit reads it at most once.
type Interested<'a> = (&'a Subscriber, Option<LaneLoad>);

impl UploadEvents {
    pub(super) fn of(upload: &Upload, events: Vec<NewEvent>) -> Self {
        // A checkpoint without events copies nothing.
        let metadata = if events.is_empty() { Metadata::default() } else { upload.record().metadata.clone() };
        Self { tenant: upload.tenant(), upload: upload.id(), metadata, events }
    }

    pub(super) fn log(&self, tx: &mut WriteTransaction) -> rusqlite::Result<()> {
        if self.events.is_empty() {
            return Ok(());
        }
        let subscribers = tx.subscribers()?;
        let own = subscribers.iter().filter(|one| one.tenant == self.tenant);
        let interested = own.filter(|one| one.terms.wants_upload(&self.metadata));
        // The first event supersedes all pending progress. Later in this commit, progress can only come from
        // an event of the commit itself.
        let mut may_be_overtaken = true;
        let mut interested: Vec<Interested<'_>> = interested.map(|endpoint| (endpoint, None)).collect();
        for event in &self.events {
            if may_be_overtaken && lanes::supersede_progress(tx, self.upload, event.at)? {
                interested.iter_mut().for_each(|(_, unfinished)| *unfinished = None);
            }
            log(tx, event, (self.tenant, self.upload), &mut interested)?;
            may_be_overtaken = event.kind == EventKind::Progress;
        }
        Ok(())
    }
}

fn log(
    tx: &mut WriteTransaction,
    event: &NewEvent,
    (tenant, upload): (TenantId, UploadId),
    interested: &mut [Interested<'_>],
) -> rusqlite::Result<()> {
    let cells = EventRow::cells(event.id, tenant, Some(upload), event.sequence, event.kind, event.at, &event.body);
    tx.execute(&INSERT, bound(&cells))?;
    let position = tx.connection.last_insert_rowid();
    for (endpoint, unfinished) in interested.iter_mut().filter(|(one, _)| one.terms.filter.wants(event.kind)) {
        let delivery = NewDelivery {
            id: DeliveryId::new(event.at, in_order(event.sequence, rand::random())),
            event_position: EventPosition(position),
            event: event.id,
            tenant,
            kind: event.kind,
            endpoint,
            upload: Some(upload),
            sequence: event.sequence,
            trigger: AttemptTrigger::Auto,
            now: event.at,
        };
        let before = match unfinished {
            Some(known) => *known,
            None => lanes::unfinished(tx, endpoint, upload)?,
        };
        lanes::join(tx, &delivery, before)?;
        *unfinished = Some(LaneLoad::FirstAttempts);
    }
    Ok(())
}

/// Adds an event to the end of the log.
pub(super) static INSERT: LazyLock<String> = LazyLock::new(|| sql::insert::<EventRow>(PLACEHOLDERS));

static OF_UPLOAD: LazyLock<String> = LazyLock::new(|| {
    let columns = &*EVENT_COLUMNS;
    format!(
        "SELECT {columns} FROM events WHERE upload_id = ?1 AND sequence > ?2 AND tenant BETWEEN ?4 AND ?5 ORDER BY sequence LIMIT ?3"
    )
});

static SINCE: LazyLock<String> = LazyLock::new(|| {
    let columns = &*EVENT_COLUMNS;
    format!(
        "SELECT {columns} FROM events
         WHERE position > ?1 AND position <= ?2 AND upload_id IS NOT NULL AND tenant BETWEEN ?4 AND ?5
         ORDER BY position LIMIT ?3"
    )
});

/// The maximum number of log positions that a read examines: events that are not about uploads are skipped
/// one by one, and so are those of other tenants.
const WINDOW: u32 = 5_000;

/// The position of the newest event; 0 if there is none.
pub(super) const NEWEST: &str = "SELECT coalesce(max(position), 0) FROM events";

/// Counts the events between two positions: of all tenants, and of the given tenants.
const BETWEEN: &str = "SELECT count(*), count(*) FILTER (WHERE tenant BETWEEN ?3 AND ?4) FROM events
     WHERE position > ?1 AND position <= ?2";

impl SqliteStore {
    pub(super) async fn read_events_of(
        &self,
        scope: TenantScope,
        id: UploadId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<LoggedEvent>> {
        let (least, most) = tenants(scope);
        let events = self.readers.look_up("read the events of an upload", move |connection| {
            let values = params![id.as_bytes(), integer(after), limit, least, most];
            connection.prepare_cached(&OF_UPLOAD)?.query_map(values, rows::logged_event)?.collect()
        });
        events.await
    }

    pub(super) async fn read_events_since(
        &self,
        scope: TenantScope,
        after: EventPosition,
        limit: u32,
    ) -> Result<EventPage> {
        let end = after.0.saturating_add(i64::from(WINDOW.max(limit)));
        let (least, most) = tenants(scope);
        let page = self.readers.read("read the log of events", move |connection| {
            let newest: i64 = connection.prepare_cached(NEWEST)?.query_one([], |row| row.get(0))?;
            let mut statement = connection.prepare_cached(&SINCE)?;
            // Events committed between the two statements belong to the next page; otherwise they would be
            // returned twice.
            let values = params![after.0, end.min(newest), limit, least, most];
            let found = statement.query_map(values, rows::logged_event)?;
            let found: Vec<LoggedEvent> = found.collect::<rusqlite::Result<_>>()?;
            let is_full = u32::try_from(found.len()).is_ok_and(|count| count == limit);
            let last = found.last().filter(|_| is_full).map(|event| event.position);
            let seen = last.unwrap_or(EventPosition(end.min(newest).max(after.0)));
            Ok(EventPage { found, seen, has_more: is_full || end < newest })
        });
        page.await
    }

    pub(super) async fn read_newest_event(&self) -> Result<EventPosition> {
        let newest = self.readers.look_up("read the position of the newest event", |connection| {
            connection.prepare_cached(NEWEST)?.query_one([], |row| row.get(0))
        });
        newest.await.map(EventPosition)
    }

    pub(super) async fn read_count_behind(
        &self,
        scope: TenantScope,
        after: EventPosition,
        limit: u32,
    ) -> Result<Option<u32>> {
        let (least, most) = tenants(scope);
        let count = self.readers.read("count the events after a position", move |connection| {
            let newest: i64 = connection.prepare_cached(NEWEST)?.query_one([], |row| row.get(0))?;
            if after.0 > newest {
                return Ok(None);
            }
            let places = newest - after.0;
            if places > i64::from(WINDOW) {
                return Ok(Some(limit));
            }
            let values = params![after.0, newest, least, most];
            let (all, wanted): (i64, u32) =
                connection.prepare_cached(BETWEEN)?.query_one(values, |row| Ok((row.get(0)?, row.get(1)?)))?;
            // Positions are assigned without gaps. An empty one means that an event was removed.
            Ok(Some(if all < places { limit } else { wanted.min(limit) }))
        });
        count.await
    }
}
