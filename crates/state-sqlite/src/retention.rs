//! Retention: removes old rows, in batches.
//!
//! A reader finds the rows to remove, so that the search never blocks writes: it walks deliveries, events and
//! ended uploads from the oldest on, skips rows that must be kept, and examines a bounded number of rows at a
//! time. An event and its deliveries are removed together, so that a replay of missed events does not mistake
//! removed deliveries for missed ones.

use std::collections::BTreeSet;

use domain::replay::ReplayJob;
use rusqlite::{Connection, OptionalExtension, params};

use crate::rows::{Columns, integer};
use crate::writer::{Work, WriteTransaction};
use crate::{SqliteStore, lanes};
use domain::event::EventKind;
use domain::id::{DeliveryId, UploadId};
use domain::metadata::Metadata;
use domain::time::Timestamp;
use state::{Result, RetentionHorizon};

/// The number of rows of a kind that one query examines.
const WINDOW: u32 = 10_000;

/// The number of latest replays that are kept.
const REPLAYS: u32 = 1_000;

/// The number of ended uploads that one query examines; each requires a lookup.
const UPLOADS: u32 = 200;

/// The time of an ended upload's last change, and its id: the order of the walk.
type UploadPosition = (i64, Vec<u8>);

/// The positions of the walks; `None` for a walk that has reached its end.
#[derive(Debug, Clone)]
pub(super) struct PruneCursors {
    deliveries: Option<Vec<u8>>,
    events: Option<i64>,
    uploads: Option<UploadPosition>,
}

impl Default for PruneCursors {
    fn default() -> Self {
        Self { deliveries: Some(Vec::new()), events: Some(0), uploads: Some((i64::MIN, Vec::new())) }
    }
}

impl PruneCursors {
    fn are_at_the_end(&self) -> bool {
        self.deliveries.is_none() && self.events.is_none() && self.uploads.is_none()
    }
}

/// Rows that may be removed.
#[derive(Debug, Default)]
struct PrunableRows {
    deliveries: Vec<FinishedDelivery>,
    /// Unfinished deliveries to endpoints that no longer exist in the configuration.
    abandoned: Vec<[u8; 16]>,
    events: Vec<i64>,
    /// Uploads without bytes.
    uploads: Vec<UploadId>,
    jobs: Vec<[u8; 16]>,
    calls: Vec<[u8; 16]>,
}

impl PrunableRows {
    fn is_empty(&self) -> bool {
        let Self { deliveries, abandoned, events, uploads, jobs, calls } = self;
        let is_in_log = deliveries.is_empty() && abandoned.is_empty() && events.is_empty();
        is_in_log && uploads.is_empty() && jobs.is_empty() && calls.is_empty()
    }
}

/// A finished delivery.
#[derive(Debug)]
struct FinishedDelivery {
    id: [u8; 16],
    /// The upload, whose other deliveries of the event are removed together with this one. `None` for
    /// deliveries that are never replayed: progress, and events that are not about an upload.
    upload: Option<[u8; 16]>,
    event_position: i64,
}

/// The condition that a delivery must be kept, given `finished` as `?1` and `dead` as `?2`.
macro_rules! stays {
    ($delivery:literal) => {
        concat!(
            "(",
            $delivery,
            ".finished_at_ms IS NULL OR ",
            $delivery,
            ".finished_at_ms >= ?1 OR (",
            $delivery,
            ".state = 'dead' AND ",
            $delivery,
            ".finished_at_ms >= ?2))"
        )
    };
}

/// The condition that an event has no deliveries. Deliveries without an upload have a separate index.
macro_rules! without_deliveries {
    () => {
        "NOT EXISTS (SELECT 1 FROM deliveries WHERE deliveries.upload_id = events.upload_id AND event_position = position)
         AND (events.upload_id IS NOT NULL
             OR NOT EXISTS (SELECT 1 FROM deliveries WHERE deliveries.upload_id IS NULL AND event_position = position))"
    };
}

impl SqliteStore {
    pub(super) async fn prune_piece(&self, horizon: RetentionHorizon, limit: u32) -> Result<u64> {
        let mut places = self.pruning.lock().await;
        loop {
            let from = places.clone();
            let find = move |connection: &mut Connection| find_old(connection, horizon, &from, limit);
            let (old, next) = self.readers.read("find records to remove", find).await?;
            *places = next;
            let gone = if old.is_empty() { 0 } else { self.writer.write(Prune { old, horizon, limit }).await? };
            if gone > 0 {
                return Ok(gone);
            }
            if places.are_at_the_end() {
                *places = PruneCursors::default();
                return Ok(0);
            }
        }
    }
}

fn find_old(
    connection: &Connection,
    horizon: RetentionHorizon,
    from: &PruneCursors,
    limit: u32,
) -> rusqlite::Result<(PrunableRows, PruneCursors)> {
    // Identifiers begin with their time of creation, so the old ones come first.
    let from_then_on = DeliveryId::new(horizon.finished, [0; 10]);
    let (deliveries, after_deliveries) = find_deliveries(connection, horizon, from.deliveries.as_deref(), limit)?;
    let (events, after_events) = find_events(connection, horizon, from.events, limit)?;
    let (uploads, after_uploads) = find_uploads(connection, horizon, from.uploads.as_ref())?;
    let places = PruneCursors { deliveries: after_deliveries, events: after_events, uploads: after_uploads };
    let jobs = connection
        .prepare_cached(
            "SELECT id FROM replay_jobs
             WHERE id < max(?1, ifnull((SELECT id FROM replay_jobs ORDER BY id DESC LIMIT 1 OFFSET ?2 - 1), x''))
                 AND state <> 'running'
             ORDER BY id LIMIT ?3",
        )?
        .query_map(params![from_then_on.as_bytes(), REPLAYS, limit], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let calls = connection
        .prepare_cached(
            "SELECT id FROM hook_calls
             WHERE id < max(?1, ifnull((SELECT id FROM hook_calls WHERE id > x'' ORDER BY id DESC LIMIT 1 OFFSET ?2 - 1), x''))
             ORDER BY id LIMIT ?3",
        )?
        .query_map(params![from_then_on.as_bytes(), integer(horizon.most_hook_calls), limit], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let abandoned = find_abandoned(connection, horizon, limit)?;
    Ok((PrunableRows { deliveries, abandoned, events, uploads, jobs, calls }, places))
}

/// Reports whether as many rows were found as requested, so that there may be more at the same position.
fn is_full<T>(found: &[T], limit: u32) -> bool {
    found.len() >= usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Returns deliveries that finished long enough ago, and the next position of the walk.
fn find_deliveries(
    connection: &Connection,
    horizon: RetentionHorizon,
    from: Option<&[u8]>,
    limit: u32,
) -> rusqlite::Result<(Vec<FinishedDelivery>, Option<Vec<u8>>)> {
    let Some(from) = from else { return Ok((Vec::new(), None)) };
    let from_then_on = DeliveryId::new(horizon.finished, [0; 10]);
    let end: Option<Vec<u8>> = connection
        .prepare_cached("SELECT id FROM deliveries WHERE id > ?1 AND id < ?2 ORDER BY id LIMIT 1 OFFSET ?3 - 1")?
        .query_one(params![from, from_then_on.as_bytes(), WINDOW], |row| row.get(0))
        .optional()?;
    let last = end.clone().unwrap_or_else(|| from_then_on.as_bytes().to_vec());
    let found: Vec<FinishedDelivery> = connection
        .prepare_cached(concat!(
            "SELECT id, CASE WHEN kind <> ?6 THEN upload_id END, event_position FROM deliveries AS old
             WHERE id > ?3 AND id <= ?4 AND NOT ",
            stays!("old"),
            " AND (kind = ?6 OR NOT EXISTS (SELECT 1 FROM deliveries AS other
                 WHERE other.upload_id = old.upload_id AND other.event_position = old.event_position AND ",
            stays!("other"),
            ")) ORDER BY id LIMIT ?5",
        ))?
        .query_map(
            params![horizon.finished.unix_ms(), horizon.dead.unix_ms(), from, last, limit, EventKind::Progress.name()],
            |row| Ok(FinishedDelivery { id: row.get(0)?, upload: row.get(1)?, event_position: row.get(2)? }),
        )?
        .collect::<rusqlite::Result<_>>()?;
    let next = if is_full(&found, limit) { Some(from.to_vec()) } else { end };
    Ok((found, next))
}

/// Returns old events without deliveries, and the next position of the walk.
fn find_events(
    connection: &Connection,
    horizon: RetentionHorizon,
    from: Option<i64>,
    limit: u32,
) -> rusqlite::Result<(Vec<i64>, Option<i64>)> {
    let Some(from) = from else { return Ok((Vec::new(), None)) };
    let end: Option<(i64, Timestamp)> = connection
        .prepare_cached(
            "SELECT position, occurred_at_ms FROM events WHERE position > ?1 ORDER BY position LIMIT 1 OFFSET ?2 - 1",
        )?
        .query_one(params![from, WINDOW], |row| {
            let mut columns = Columns::of(row);
            Ok((columns.next()?, columns.next()?))
        })
        .optional()?;
    let found: Vec<i64> = connection
        .prepare_cached(concat!(
            "SELECT position FROM events WHERE position > ?1 AND position <= ?2 AND occurred_at_ms < ?3 AND ",
            without_deliveries!(),
            " ORDER BY position LIMIT ?4",
        ))?
        .query_map(
            params![from, end.map_or(i64::MAX, |(position, _)| position), horizon.finished.unix_ms(), limit],
            |row| row.get(0),
        )?
        .collect::<rusqlite::Result<_>>()?;
    // Events after one that is too new are too new as well.
    let end = end.filter(|(_, at)| *at < horizon.finished.plus(ReplayJob::DISORDER)).map(|(position, _)| position);
    let next = if is_full(&found, limit) { Some(from) } else { end };
    Ok((found, next))
}

/// The condition that an upload has a delivery that is unfinished, or that became dead not long enough ago,
/// given `dead` as `?2`.
macro_rules! has_deliveries_to_keep {
    ($upload:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM deliveries WHERE deliveries.upload_id = ",
            $upload,
            " AND (finished_at_ms IS NULL OR deliveries.state = 'dead' AND finished_at_ms >= ?2))"
        )
    };
}

/// Returns uploads without bytes that were last changed long enough ago, and the next position of the walk.
fn find_uploads(
    connection: &Connection,
    horizon: RetentionHorizon,
    from: Option<&UploadPosition>,
) -> rusqlite::Result<(Vec<UploadId>, Option<UploadPosition>)> {
    let Some((updated_at_ms, id)) = from else { return Ok((Vec::new(), None)) };
    let ended: Vec<(i64, Vec<u8>, bool)> = connection
        .prepare_cached(concat!(
            "SELECT updated_at_ms, id, ",
            has_deliveries_to_keep!("uploads.id"),
            " FROM uploads INDEXED BY uploads_ended
             WHERE bytes_kept = 0
                 AND (updated_at_ms, id) > (?3, ?4) AND updated_at_ms < ?1
             ORDER BY updated_at_ms, id LIMIT ?5",
        ))?
        .query_map(
            params![horizon.ended_uploads.unix_ms(), horizon.dead.unix_ms(), updated_at_ms, id, UPLOADS],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?
        .collect::<rusqlite::Result<_>>()?;
    let end = is_full(&ended, UPLOADS).then(|| ended.last().map(|(at, id, _)| (*at, id.clone()))).flatten();
    let found = ended.into_iter().filter(|(.., is_kept)| !is_kept).filter_map(|(_, id, _)| id.try_into().ok());
    let found: Vec<UploadId> = found.map(UploadId::from_bytes).collect();
    // An upload with many rows is removed in batches: as long as the walk finds uploads, it stays at its
    // position.
    let next = if found.is_empty() { end } else { Some((*updated_at_ms, id.clone())) };
    Ok((found, next))
}

/// Returns pending deliveries to endpoints that the configuration no longer names.
fn find_abandoned(connection: &Connection, horizon: RetentionHorizon, limit: u32) -> rusqlite::Result<Vec<[u8; 16]>> {
    connection
        .prepare_cached(
            "SELECT id FROM deliveries INDEXED BY deliveries_by_age
             WHERE state IN ('ready', 'waiting') AND endpoint IN (SELECT id FROM endpoints WHERE present = 0)
                 AND begun_at_ms < ?1 LIMIT ?2",
        )?
        .query_map(params![horizon.abandoned.unix_ms(), limit], |row| row.get(0))?
        .collect()
}

struct Prune {
    old: PrunableRows,
    horizon: RetentionHorizon,
    /// The approximate number of rows to remove.
    limit: u32,
}

impl Work for Prune {
    const OPERATION: &'static str = "remove old records";
    type Output = u64;

    fn frees_space(&self) -> bool {
        true
    }

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<u64> {
        tx.overwriting(|tx| self.remove(tx))
    }
}

impl Prune {
    fn remove(&self, tx: &mut WriteTransaction) -> rusqlite::Result<u64> {
        let mut gone = 0;
        for delivered in &self.old.deliveries {
            gone += self.remove_with_event(tx, delivered)?;
        }
        gone += self.cancel_abandoned(tx)?;
        for position in &self.old.events {
            gone += self.remove_event(tx, *position)?;
        }
        for id in &self.old.jobs {
            gone += tx.execute("DELETE FROM replay_jobs WHERE id = ?1", [id])?;
        }
        for id in &self.old.calls {
            gone += tx.execute("DELETE FROM hook_calls WHERE id = ?1", [id])?;
        }
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX).max(1);
        for upload in &self.old.uploads {
            if gone >= limit {
                break;
            }
            gone += self.remove_upload(tx, *upload, limit)?;
        }
        Ok(u64::try_from(gone).unwrap_or(u64::MAX))
    }

    /// Cancels deliveries to endpoints that are not configured. An endpoint may be configured again: missed
    /// deliveries can be replayed then, and younger ones that waited for these are sent.
    fn cancel_abandoned(&self, tx: &mut WriteTransaction) -> rusqlite::Result<usize> {
        let now = self.horizon.now;
        let mut released = BTreeSet::new();
        let mut cancelled = 0;
        for id in &self.old.abandoned {
            let lane: Option<(String, Option<[u8; 16]>)> = tx
                .connection
                .prepare_cached(
                    "UPDATE deliveries SET state = 'cancelled', finished_at_ms = ?2
                     WHERE id = ?1 AND finished_at_ms IS NULL AND state <> 'leased'
                         AND endpoint IN (SELECT id FROM endpoints WHERE present = 0)
                     RETURNING endpoint, upload_id",
                )?
                .query_one(params![id, now.unix_ms()], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            cancelled += usize::from(lane.is_some());
            released.extend(lane.and_then(|(endpoint, upload)| Some((endpoint, upload?))));
        }
        for (endpoint, upload) in released {
            lanes::release_next(tx, &endpoint, UploadId::from_bytes(upload), now)?;
        }
        Ok(cancelled)
    }

    /// Removes a delivery, unless it or another one of its event was replayed since it was found.
    fn remove_with_event(&self, tx: &WriteTransaction, delivered: &FinishedDelivery) -> rusqlite::Result<usize> {
        let (finished, dead) = (self.horizon.finished.unix_ms(), self.horizon.dead.unix_ms());
        let removed: Vec<[u8; 16]> = match delivered.upload {
            Some(upload) => tx
                .connection
                .prepare_cached(concat!(
                    "DELETE FROM deliveries WHERE upload_id = ?3 AND event_position = ?4
                         AND NOT EXISTS (SELECT 1 FROM deliveries AS other
                             WHERE other.upload_id = ?3 AND other.event_position = ?4 AND ",
                    stays!("other"),
                    ") RETURNING id",
                ))?
                .query_map(params![finished, dead, upload, delivered.event_position], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?,
            None => tx
                .connection
                .prepare_cached(concat!(
                    "DELETE FROM deliveries AS old WHERE id = ?3 AND NOT ",
                    stays!("old"),
                    " RETURNING id"
                ))?
                .query_map(params![finished, dead, delivered.id], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?,
        };
        for id in &removed {
            tx.execute("DELETE FROM attempts WHERE delivery_id = ?1", [id])?;
        }
        Ok(removed.len() + self.remove_event(tx, delivered.event_position)?)
    }

    /// Removes an upload: its deliveries and events first, at most `limit` of each, and the record together
    /// with the last of them.
    fn remove_upload(&self, tx: &WriteTransaction, upload: UploadId, limit: usize) -> rusqlite::Result<usize> {
        let metadata: Option<Metadata> = tx
            .connection
            .prepare_cached(concat!(
                "SELECT metadata FROM uploads JOIN upload_origins USING (id)
                 WHERE id = ?3 AND bytes_kept = 0 AND updated_at_ms < ?1
                     AND NOT ",
                has_deliveries_to_keep!("?3"),
            ))?
            .query_one(
                params![self.horizon.ended_uploads.unix_ms(), self.horizon.dead.unix_ms(), upload.as_bytes()],
                |row| Columns::of(row).next(),
            )
            .optional()?;
        let Some(metadata) = metadata else { return Ok(0) };
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let deliveries: Vec<[u8; 16]> = tx
            .connection
            .prepare_cached("SELECT id FROM deliveries WHERE upload_id = ?1 ORDER BY id LIMIT ?2")?
            .query_map(params![upload.as_bytes(), most], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for id in &deliveries {
            tx.execute("DELETE FROM attempts WHERE delivery_id = ?1", [id])?;
            tx.execute("DELETE FROM deliveries WHERE id = ?1", [id])?;
        }
        let events = tx.execute(
            "DELETE FROM events WHERE position IN (SELECT position FROM events WHERE upload_id = ?1 LIMIT ?2)",
            params![upload.as_bytes(), most],
        )?;
        if deliveries.len() == limit || events == limit {
            return Ok(deliveries.len() + events);
        }
        for (key, value) in metadata.pairs() {
            let values = params![key, value, upload.as_bytes()];
            tx.execute("DELETE FROM upload_metadata WHERE key = ?1 AND value = ?2 AND upload_id = ?3", values)?;
        }
        tx.execute("DELETE FROM upload_origins WHERE id = ?1", [upload.as_bytes()])?;
        tx.execute("DELETE FROM uploads WHERE id = ?1", [upload.as_bytes()])?;
        Ok(deliveries.len() + events + 1)
    }

    fn remove_event(&self, tx: &WriteTransaction, position: i64) -> rusqlite::Result<usize> {
        tx.execute(
            concat!("DELETE FROM events WHERE position = ?1 AND occurred_at_ms < ?2 AND ", without_deliveries!()),
            params![position, self.horizon.finished.unix_ms()],
        )
    }
}
