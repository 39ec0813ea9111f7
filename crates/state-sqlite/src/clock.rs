//! Deliveries after the clock was set.
//!
//! A time in the future was written by a clock that was ahead, so the period that began then is treated as
//! begun now. A reader finds candidates one page at a time, and the writer changes one page at a time, so a
//! long backlog blocks no other writes.

use rusqlite::{Connection, Row, params};

use crate::SqliteStore;
use crate::writer::{Work, WriteTransaction};
use domain::id::InstanceId;
use domain::lane;
use domain::time::Timestamp;
use state::Result;

/// The number of deliveries examined, and at most changed, at a time.
const PAGE: u32 = 500;

/// Ready deliveries that are due later, in the order of their index, with the values that show the start of
/// their wait.
const LATER: &str = "SELECT id, next_at_ms, sequence, attempts, begun_at_ms,
         (SELECT max(started_at_ms) FROM attempts WHERE delivery_id = deliveries.id)
     FROM deliveries INDEXED BY deliveries_ready
     WHERE endpoint = ?1 AND state = 'ready' AND (next_at_ms, sequence, id) > (?2, ?3, ?4)
     ORDER BY next_at_ms, sequence, id LIMIT ?5";

/// A position in the order of an endpoint's ready deliveries.
#[derive(Debug, Clone, Copy)]
struct ReadyPosition {
    next_at_ms: i64,
    sequence: i64,
    id: [u8; 16],
}

/// A page of ready deliveries that are due later.
#[derive(Debug)]
struct Page {
    ahead: Vec<[u8; 16]>,
    /// The start of the next page; `None` after the last one.
    end: Option<ReadyPosition>,
}

impl SqliteStore {
    pub(super) async fn renew_all_leases(&self, node: InstanceId, until: Timestamp) -> Result<()> {
        self.writer.write(RenewLeases { node, until }).await
    }

    pub(super) async fn restart_all_waits(&self, now: Timestamp) -> Result<u64> {
        let mut count = 0;
        let endpoints = |connection: &mut Connection| {
            let mut statement = connection.prepare_cached("SELECT id FROM endpoints ORDER BY id")?;
            statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()
        };
        for endpoint in self.readers.read(RestartWaits::OPERATION, endpoints).await? {
            let mut from = Some(ReadyPosition { next_at_ms: now.unix_ms(), sequence: i64::MAX, id: [u8::MAX; 16] });
            while let Some(place) = from {
                let endpoint = endpoint.clone();
                let read = move |connection: &mut Connection| page(connection, &endpoint, place, now);
                let Page { ahead, end } = self.readers.read(RestartWaits::OPERATION, read).await?;
                if !ahead.is_empty() {
                    count += self.writer.write(RestartWaits { ahead, now }).await?;
                }
                from = end;
            }
        }
        Ok(count)
    }
}

fn page(connection: &Connection, endpoint: &str, from: ReadyPosition, now: Timestamp) -> rusqlite::Result<Page> {
    let mut statement = connection.prepare_cached(LATER)?;
    let values = params![endpoint, from.next_at_ms, from.sequence, from.id, PAGE];
    let place = |row: &Row<'_>| {
        let place = ReadyPosition { id: row.get(0)?, next_at_ms: row.get(1)?, sequence: row.get(2)? };
        let (attempts, begun_at) = (row.get(3)?, Timestamp::from_unix_ms(row.get(4)?));
        let latest = row.get::<_, Option<i64>>(5)?.map(Timestamp::from_unix_ms);
        Ok((place, lane::was_planned_by_fast_clock(attempts, begun_at, latest, now)))
    };
    let rows: Vec<(ReadyPosition, bool)> = statement.query_map(values, place)?.collect::<rusqlite::Result<_>>()?;
    let is_full = rows.len() >= PAGE as usize;
    Ok(Page {
        end: rows.last().map(|(place, _)| *place).filter(|_| is_full),
        ahead: rows.into_iter().filter(|(_, is_ahead)| *is_ahead).map(|(place, _)| place.id).collect(),
    })
}

struct RenewLeases {
    node: InstanceId,
    until: Timestamp,
}

impl Work for RenewLeases {
    const OPERATION: &'static str = "renew leases";
    type Output = ();

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<()> {
        // The number of rows is limited by the deliveries in flight.
        let sql = "UPDATE deliveries SET lease_until_ms = ?1 WHERE state = 'leased' AND claimed_by = ?2";
        tx.execute(sql, params![self.until.unix_ms(), self.node.as_bytes()]).map(drop)
    }
}

struct RestartWaits {
    ahead: Vec<[u8; 16]>,
    now: Timestamp,
}

impl Work for RestartWaits {
    const OPERATION: &'static str = "make deliveries due after the clock was set back";
    type Output = u64;

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<u64> {
        let mut count = 0;
        for id in &self.ahead {
            count += tx.execute(
                "UPDATE deliveries SET next_at_ms = ?2, begun_at_ms = min(begun_at_ms, ?2)
                 WHERE id = ?1 AND state = 'ready' AND next_at_ms > ?2",
                params![id, self.now.unix_ms()],
            )?;
        }
        tx.made_ready |= count > 0;
        Ok(u64::try_from(count).unwrap_or(u64::MAX))
    }
}
