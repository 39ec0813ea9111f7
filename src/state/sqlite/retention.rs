//! Forgetting: what is old enough goes, a piece at a time, and what an upload's client said goes when asked.
//!
//! What to remove is found by a reader, so that looking for it never keeps anyone from writing: it walks the log from its
//! beginning, past what must stay.

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
use crate::state::sqlite::writer::Desk;
use crate::state::sqlite::writer::Work;

/// Rows that may go.
#[derive(Debug, Default)]
struct Old {
    deliveries: Vec<[u8; 16]>,
    events: Vec<i64>,
    jobs: Vec<[u8; 16]>,
    calls: Vec<[u8; 16]>,
}

impl Old {
    fn is_empty(&self) -> bool {
        self.deliveries.is_empty() && self.events.is_empty() && self.jobs.is_empty() && self.calls.is_empty()
    }
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
}

fn find_old(connection: &Connection, horizon: Horizon, limit: u32) -> rusqlite::Result<Old> {
    // Identifiers begin with the time they were made at, so the old ones come first.
    let from_then_on = DeliveryId::new(horizon.finished, [0; 10]);
    let deliveries = connection
        .prepare_cached(
            "SELECT id FROM deliveries WHERE id < ?1 AND finished_at_ms < ?2 AND (state <> 'dead' OR finished_at_ms < ?3)
             ORDER BY id LIMIT ?4",
        )?
        .query_map(
            params![from_then_on.as_bytes(), horizon.finished.unix_ms(), horizon.dead.unix_ms(), limit],
            |row| row.get(0),
        )?
        .collect::<rusqlite::Result<_>>()?;
    let events = if oldest_event(connection)?.is_some_and(|oldest| oldest < horizon.finished) {
        connection
            .prepare_cached(
                "SELECT position FROM events WHERE position > 0 AND occurred_at_ms < ?1 AND NOT EXISTS (SELECT 1 FROM deliveries
                     WHERE deliveries.upload_id IS events.upload_id AND event_position = position)
                 ORDER BY position LIMIT ?2",
            )?
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
        .prepare_cached("SELECT id FROM hook_calls WHERE id < ?1 ORDER BY id LIMIT ?2")?
        .query_map(params![from_then_on.as_bytes(), limit], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Old { deliveries, events, jobs, calls })
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
        for id in &self.old.deliveries {
            // It may have been asked for again since it was found.
            let removed = desk.execute(
                "DELETE FROM deliveries WHERE id = ?1 AND finished_at_ms < ?2",
                params![id, self.horizon.finished.unix_ms()],
            )?;
            if removed > 0 {
                desk.execute("DELETE FROM attempts WHERE delivery_id = ?1", [id])?;
            }
            gone += removed;
        }
        for position in &self.old.events {
            gone += desk.execute(
                "DELETE FROM events WHERE position = ?1 AND NOT EXISTS (SELECT 1 FROM deliveries
                     WHERE deliveries.upload_id IS events.upload_id AND event_position = position)",
                [position],
            )?;
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

pub(super) struct Expunge(pub(super) UploadId);

impl Work for Expunge {
    const OPERATION: &'static str = "take an upload's words out of its events";
    type Output = u64;

    fn run(&self, desk: &mut Desk) -> rusqlite::Result<u64> {
        let event = |row: &Row<'_>| {
            let mut columns = Columns::of(row);
            Ok((columns.next::<i64>()?, columns.next::<i64>()?, columns.kind()?, columns.instant()?))
        };
        let events: Vec<(i64, i64, EventKind, Timestamp)> = desk
            .connection
            .prepare_cached("SELECT position, sequence, kind, occurred_at_ms FROM events WHERE upload_id = ?1")?
            .query_map([self.0.as_bytes()], event)?
            .collect::<rusqlite::Result<_>>()?;
        for (position, sequence, kind, at) in &events {
            let body = expunged_body(*kind, *at, self.0, *sequence);
            desk.execute("UPDATE events SET body = ?2 WHERE position = ?1", params![position, body])?;
        }
        Ok(u64::try_from(events.len()).unwrap_or(u64::MAX))
    }
}
