//! Forgetting: what is old enough goes, a piece at a time, and what an upload's client said goes when asked.
//!
//! What to remove is found by a reader, so that looking for it never keeps anyone from writing: it walks the log from its
//! beginning, past what must stay. An event and its deliveries go together, so that a replay of what was missed does not
//! take what was forgotten for it.

use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::Row;
use rusqlite::params;

use crate::domain::event::EventKind;
use crate::domain::id::DeliveryId;
use crate::domain::id::UploadId;
use crate::domain::time::Timestamp;
use crate::state::Horizon;
use crate::state::Result;
use crate::state::event_body::expunged_body;
use crate::state::sqlite::SqliteStore;
use crate::state::sqlite::rows::Columns;
use crate::state::sqlite::rows::integer;
use crate::state::sqlite::writer::Desk;
use crate::state::sqlite::writer::Work;

/// Rows that may go.
#[derive(Debug, Default)]
struct Old {
    deliveries: Vec<Delivered>,
    /// Unfinished deliveries to endpoints that are no more.
    abandoned: Vec<[u8; 16]>,
    events: Vec<i64>,
    jobs: Vec<[u8; 16]>,
    calls: Vec<[u8; 16]>,
}

impl Old {
    fn is_empty(&self) -> bool {
        let Self { deliveries, abandoned, events, jobs, calls } = self;
        deliveries.is_empty() && abandoned.is_empty() && events.is_empty() && jobs.is_empty() && calls.is_empty()
    }
}

/// A delivery that ended.
#[derive(Debug)]
struct Delivered {
    id: [u8; 16],
    /// With it go the other deliveries of the event. `None` for what is never replayed: progress, and news that is not
    /// of an upload.
    upload: Option<[u8; 16]>,
    event_position: i64,
}

/// That a delivery must stay, given `finished` as `?1` and `dead` as `?2`.
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

/// That nothing is to be delivered or remembered of an event. Those without an upload have an index of their own.
macro_rules! without_deliveries {
    () => {
        "NOT EXISTS (SELECT 1 FROM deliveries WHERE deliveries.upload_id = events.upload_id AND event_position = position)
         AND (events.upload_id IS NOT NULL
             OR NOT EXISTS (SELECT 1 FROM deliveries WHERE deliveries.upload_id IS NULL AND event_position = position))"
    };
}

impl SqliteStore {
    pub(super) async fn prune_piece(&self, horizon: Horizon, limit: u32) -> Result<u64> {
        let find = move |connection: &mut Connection| find_old(connection, horizon, limit);
        let old = self.readers.read("find what is old", find).await?;
        if old.is_empty() {
            return Ok(0);
        }
        self.writer.write(Prune { old, horizon }).await
    }

    pub(super) async fn expunge_in_pieces(&self, upload: UploadId) -> Result<u64> {
        let (mut total, mut after) = (0, i64::MIN);
        loop {
            let (count, last) = self.writer.write(Expunge { upload, after }).await?;
            let Some(last) = last else { return Ok(total) };
            (total, after) = (total + count, last);
        }
    }
}

fn find_old(connection: &Connection, horizon: Horizon, limit: u32) -> rusqlite::Result<Old> {
    // Identifiers begin with the time they were made at, so the old ones come first.
    let from_then_on = DeliveryId::new(horizon.finished, [0; 10]);
    let deliveries = connection
        .prepare_cached(concat!(
            "SELECT id, CASE WHEN kind <> 'upload.progress' THEN upload_id END, event_position FROM deliveries AS old
             WHERE id < ?3 AND NOT ",
            stays!("old"),
            " AND (kind = 'upload.progress' OR NOT EXISTS (SELECT 1 FROM deliveries AS other
                 WHERE other.upload_id = old.upload_id AND other.event_position = old.event_position AND ",
            stays!("other"),
            ")) ORDER BY id LIMIT ?4",
        ))?
        .query_map(
            params![horizon.finished.unix_ms(), horizon.dead.unix_ms(), from_then_on.as_bytes(), limit],
            |row| Ok(Delivered { id: row.get(0)?, upload: row.get(1)?, event_position: row.get(2)? }),
        )?
        .collect::<rusqlite::Result<_>>()?;
    let events = if oldest_event(connection)?.is_some_and(|oldest| oldest < horizon.finished) {
        connection
            .prepare_cached(concat!(
                "SELECT position FROM events WHERE position > 0 AND occurred_at_ms < ?1 AND ",
                without_deliveries!(),
                " ORDER BY position LIMIT ?2",
            ))?
            .query_map(params![horizon.finished.unix_ms(), limit], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?
    } else {
        Vec::new()
    };
    let jobs = connection
        .prepare_cached("SELECT id FROM replay_jobs WHERE id < ?1 AND state <> 'running' ORDER BY id LIMIT ?2")?
        .query_map(params![from_then_on.as_bytes(), limit], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let calls = connection
        .prepare_cached(
            "SELECT id FROM hook_calls
             WHERE id < max(?1, ifnull((SELECT id FROM hook_calls WHERE id > x'' ORDER BY id DESC LIMIT 1 OFFSET ?2 - 1), x''))
             ORDER BY id LIMIT ?3",
        )?
        .query_map(params![from_then_on.as_bytes(), integer(horizon.most_hook_calls), limit], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Old { deliveries, abandoned: find_abandoned(connection, horizon, limit)?, events, jobs, calls })
}

/// What waits for endpoints that the configuration no longer names.
fn find_abandoned(connection: &Connection, horizon: Horizon, limit: u32) -> rusqlite::Result<Vec<[u8; 16]>> {
    connection
        .prepare_cached(
            "SELECT id FROM deliveries INDEXED BY deliveries_by_age
             WHERE state IN ('ready', 'waiting') AND endpoint IN (SELECT id FROM endpoints WHERE present = 0)
                 AND begun_at_ms < ?1 LIMIT ?2",
        )?
        .query_map(params![horizon.abandoned.unix_ms(), limit], |row| row.get(0))?
        .collect()
}

fn oldest_event(connection: &Connection) -> rusqlite::Result<Option<Timestamp>> {
    let mut statement =
        connection.prepare_cached("SELECT occurred_at_ms FROM events WHERE position > 0 ORDER BY position LIMIT 1")?;
    statement.query_one([], |row| Columns::of(row).instant()).optional()
}

struct Prune {
    old: Old,
    horizon: Horizon,
}

impl Work for Prune {
    const OPERATION: &'static str = "remove what is old";
    type Output = u64;

    fn run(&self, desk: &mut Desk) -> rusqlite::Result<u64> {
        let mut gone = 0;
        for delivered in &self.old.deliveries {
            gone += self.forget(desk, delivered)?;
        }
        for id in &self.old.abandoned {
            // It may be configured again by now. What it missed can be replayed then.
            gone += desk.execute(
                "UPDATE deliveries SET state = 'cancelled', finished_at_ms = ?2
                 WHERE id = ?1 AND finished_at_ms IS NULL AND state <> 'leased'
                     AND endpoint IN (SELECT id FROM endpoints WHERE present = 0)",
                params![id, self.horizon.now.unix_ms()],
            )?;
        }
        for position in &self.old.events {
            gone += self.forget_event(desk, *position)?;
        }
        for id in &self.old.jobs {
            gone += desk.execute("DELETE FROM replay_jobs WHERE id = ?1", [id])?;
        }
        for id in &self.old.calls {
            gone += desk.execute("DELETE FROM hook_calls WHERE id = ?1", [id])?;
        }
        Ok(u64::try_from(gone).unwrap_or(u64::MAX))
    }
}

impl Prune {
    /// Forgets a delivery, unless it or another of its event was asked for again since it was found.
    fn forget(&self, desk: &Desk, delivered: &Delivered) -> rusqlite::Result<usize> {
        let (finished, dead) = (self.horizon.finished.unix_ms(), self.horizon.dead.unix_ms());
        let removed: Vec<[u8; 16]> = match delivered.upload {
            Some(upload) => desk
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
            None => desk
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
            desk.execute("DELETE FROM attempts WHERE delivery_id = ?1", [id])?;
        }
        Ok(removed.len() + self.forget_event(desk, delivered.event_position)?)
    }

    fn forget_event(&self, desk: &Desk, position: i64) -> rusqlite::Result<usize> {
        desk.execute(
            concat!("DELETE FROM events WHERE position = ?1 AND occurred_at_ms < ?2 AND ", without_deliveries!()),
            params![position, self.horizon.finished.unix_ms()],
        )
    }
}

/// How many events are rewritten in one transaction: their bodies may be 20 kB each.
const EXPUNGED: u32 = 100;

/// Takes what a client said out of the next events of its upload, those with a sequence above `after`.
struct Expunge {
    upload: UploadId,
    after: i64,
}

impl Work for Expunge {
    const OPERATION: &'static str = "take an upload's words out of its events";
    /// How many those were, and the sequence of the last.
    type Output = (u64, Option<i64>);

    fn run(&self, desk: &mut Desk) -> rusqlite::Result<Self::Output> {
        let event = |row: &Row<'_>| {
            let mut columns = Columns::of(row);
            Ok((columns.next::<i64>()?, columns.next::<i64>()?, columns.kind()?, columns.instant()?))
        };
        let events: Vec<(i64, i64, EventKind, Timestamp)> = desk
            .connection
            .prepare_cached(
                "SELECT position, sequence, kind, occurred_at_ms FROM events
                 WHERE upload_id = ?1 AND sequence > ?2 ORDER BY sequence LIMIT ?3",
            )?
            .query_map(params![self.upload.as_bytes(), self.after, EXPUNGED], event)?
            .collect::<rusqlite::Result<_>>()?;
        let mut bodies = desk.connection.prepare_cached("SELECT body FROM events WHERE position = ?1")?;
        for (position, sequence, kind, at) in &events {
            let full = bodies.query_one([position], |row| Columns::of(row).body())?;
            let body = expunged_body(*kind, *at, self.upload, *sequence, &full);
            desk.execute("UPDATE events SET body = ?2 WHERE position = ?1", params![position, body])?;
        }
        let count = u64::try_from(events.len()).unwrap_or(u64::MAX);
        Ok((count, events.last().map(|(_, sequence, ..)| *sequence)))
    }
}
