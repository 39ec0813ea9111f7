//! Changes of a whole backlog, made in batches.
//!
//! A decision about an endpoint is one small row. It is effective from the commit that writes it, because
//! claims check the endpoint: no delivery is sent to a stopped endpoint, and a pause touches no delivery. The
//! remaining changes of the deliveries themselves are made by a job in bounded batches, each in a separate
//! transaction, so that commits of uploads never wait for a long backlog. A job survives a crash. Each kind
//! is correct wherever it stops:
//!
//! - [`BacklogJobKind::Cancel`] ends the deliveries queued before the job began. No delivery of the endpoint
//!   is claimed until the job is done, so no cancelled delivery is sent.
//! - [`BacklogJobKind::Hasten`] makes retries due that were planned for later, when their endpoint was
//!   resumed or a replay of pending deliveries was requested. Until a batch reaches them, they are due at
//!   their planned time.
//! - [`BacklogJobKind::Release`] releases deliveries that no longer wait for others after the order was
//!   relaxed. Until a batch reaches them, they are released when earlier ones are settled.
//!
//! A job distinguishes old deliveries from new ones by their generation, which is the number of the latest
//! job of their endpoint when they were queued, and not by time, because clocks can be set.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::rows::Columns;
use crate::writer::{Work, WriteTransaction};
use crate::{SqliteStore, lanes};
use domain::endpoint::{EndpointId, Ordering};
use domain::id::UploadId;
use domain::time::Timestamp;
use state::Result;

/// The number of deliveries that a job updates in the transaction that begins it. This completes a short
/// backlog.
const FIRST_PIECE: u32 = 500;

domain::named! {
    /// The effect of a job on a backlog.
    pub(super) enum BacklogJobKind {
        Cancel = "cancel",
        Hasten = "hasten",
        Release = "release",
    }
}

struct BacklogJob {
    number: i64,
    endpoint: EndpointId,
    kind: BacklogJobKind,
    begun_at: Timestamp,
    cursor: Vec<u8>,
}

/// Begins a job and does its first batch. The job replaces an unfinished one of the same kind.
pub(super) fn begin(
    tx: &mut WriteTransaction,
    endpoint: &EndpointId,
    kind: BacklogJobKind,
    now: Timestamp,
) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM backlog_jobs WHERE endpoint = ?1 AND kind = ?2", [endpoint.as_str(), kind.name()])?;
    tx.execute(
        "INSERT INTO backlog_jobs (endpoint, kind, begun_at_ms) VALUES (?1, ?2, ?3)",
        params![endpoint.as_str(), kind.name(), now.unix_ms()],
    )?;
    let number = tx.connection.last_insert_rowid();
    tx.execute("UPDATE endpoints SET generation = ?2 WHERE id = ?1", params![endpoint.as_str(), number])?;
    tx.subscribers = None;
    if kind == BacklogJobKind::Cancel {
        // The number of rows is limited by the deliveries in flight. A settlement that still arrives is late.
        tx.execute(
            "UPDATE deliveries SET state = 'cancelled', finished_at_ms = ?2, lease = NULL, lease_until_ms = NULL,
                 claimed_by = NULL
             WHERE endpoint = ?1 AND state = 'leased'",
            params![endpoint.as_str(), now.unix_ms()],
        )?;
    }
    let job = BacklogJob { number, endpoint: endpoint.clone(), kind, begun_at: now, cursor: Vec::new() };
    advance(tx, &job, FIRST_PIECE, now)
}

impl SqliteStore {
    pub(super) async fn advance_backlog_job(&self, limit: u32, now: Timestamp) -> Result<bool> {
        let oldest = |connection: &mut Connection| connection.prepare_cached(OLDEST)?.query_one([], job).optional();
        match self.readers.look_up("find a backlog to process", oldest).await? {
            Some(job) => self.writer.write(Advance { number: job.number, limit, now }).await.map(|()| true),
            None => Ok(false),
        }
    }
}

const OLDEST: &str = "SELECT number, endpoint, kind, begun_at_ms, cursor FROM backlog_jobs ORDER BY number LIMIT 1";

fn job(row: &Row<'_>) -> rusqlite::Result<BacklogJob> {
    let mut columns = Columns::of(row);
    Ok(BacklogJob {
        number: columns.next()?,
        endpoint: columns.next()?,
        kind: columns.named(BacklogJobKind::by_name)?,
        begun_at: columns.next()?,
        cursor: columns.next()?,
    })
}

struct Advance {
    number: i64,
    limit: u32,
    now: Timestamp,
}

impl Work for Advance {
    const OPERATION: &'static str = "continue with a backlog";
    type Output = ();

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<()> {
        let sql = "SELECT number, endpoint, kind, begun_at_ms, cursor FROM backlog_jobs WHERE number = ?1";
        let found = tx.connection.prepare_cached(sql)?.query_one([self.number], job).optional()?;
        match found {
            Some(job) => advance(tx, &job, self.limit.max(1), self.now),
            None => Ok(()),
        }
    }
}

/// Does a batch of a job; the last batch ends the job.
fn advance(tx: &mut WriteTransaction, job: &BacklogJob, limit: u32, now: Timestamp) -> rusqlite::Result<()> {
    let done = match job.kind {
        BacklogJobKind::Cancel => cancel(tx, job, limit, now)?,
        BacklogJobKind::Hasten => hasten(tx, job, limit)?,
        BacklogJobKind::Release => release(tx, job, limit, now)?,
    };
    if done < limit {
        tx.execute("DELETE FROM backlog_jobs WHERE number = ?1", [job.number])?;
        tx.subscribers = None;
        tx.made_ready = true;
    }
    Ok(())
}

/// Cancels waiting deliveries first; otherwise each would become ready before it is cancelled.
fn cancel(tx: &mut WriteTransaction, job: &BacklogJob, limit: u32, now: Timestamp) -> rusqlite::Result<u32> {
    let waiting = cancel_in(tx, "waiting", job, limit, now)?;
    let ready = cancel_in(tx, "ready", job, limit.saturating_sub(size(&waiting)), now)?;
    let done = size(&waiting) + size(&ready);
    // Deliveries queued since may have waited for one of these.
    for upload in waiting.into_iter().chain(ready).flatten().collect::<BTreeSet<_>>() {
        lanes::release_next(tx, job.endpoint.as_str(), upload, now)?;
    }
    Ok(done)
}

/// Cancels up to `limit` deliveries in `state`, and returns their uploads.
fn cancel_in(
    tx: &WriteTransaction,
    state: &str,
    job: &BacklogJob,
    limit: u32,
    now: Timestamp,
) -> rusqlite::Result<Vec<Option<UploadId>>> {
    let mut statement = tx.connection.prepare_cached(&format!(
        "UPDATE deliveries SET state = 'cancelled', finished_at_ms = ?4
         WHERE id IN (SELECT id FROM deliveries INDEXED BY deliveries_{state}
             WHERE endpoint = ?1 AND state = '{state}' AND generation < ?2 LIMIT ?3)
         RETURNING upload_id"
    ))?;
    let values = params![job.endpoint.as_str(), job.number, limit, now.unix_ms()];
    let upload = |row: &Row<'_>| row.get::<_, Option<_>>(0).map(|id| id.map(UploadId::from_bytes));
    statement.query_map(values, upload)?.collect()
}

fn size<T>(piece: &[T]) -> u32 {
    u32::try_from(piece.len()).unwrap_or(u32::MAX)
}

/// Makes retries due. Deliveries that are being cancelled keep their generation, by which the job finds them.
fn hasten(tx: &mut WriteTransaction, job: &BacklogJob, limit: u32) -> rusqlite::Result<u32> {
    let hastened = tx.execute(
        "UPDATE deliveries SET next_at_ms = ?4, generation = ?2
         WHERE id IN (SELECT id FROM deliveries INDEXED BY deliveries_ready
             WHERE endpoint = ?1 AND state = 'ready' AND next_at_ms > ?4 AND generation < ?2
                 AND generation >= coalesce((SELECT max(number) FROM backlog_jobs
                     WHERE backlog_jobs.endpoint = ?1 AND backlog_jobs.kind = 'cancel'), 0)
             LIMIT ?3)",
        params![job.endpoint.as_str(), job.number, limit, job.begun_at.unix_ms()],
    )?;
    tx.made_ready |= hastened > 0;
    Ok(u32::try_from(hastened).unwrap_or(u32::MAX))
}

/// Releases deliveries by the endpoint's current ordering, which may have changed again since the job began.
fn release(tx: &mut WriteTransaction, job: &BacklogJob, limit: u32, now: Timestamp) -> rusqlite::Result<u32> {
    match tx.ordering_of(job.endpoint.as_str())? {
        Ordering::None => {
            let released = tx.execute(
                "UPDATE deliveries SET state = 'ready'
                 WHERE id IN (SELECT id FROM deliveries INDEXED BY deliveries_waiting
                     WHERE endpoint = ?1 AND state = 'waiting' LIMIT ?2)",
                params![job.endpoint.as_str(), limit],
            )?;
            tx.made_ready |= released > 0;
            Ok(u32::try_from(released).unwrap_or(u32::MAX))
        }
        Ordering::PerUpload | Ordering::Strict => {
            let mut statement = tx.connection.prepare_cached(
                "SELECT DISTINCT upload_id FROM deliveries INDEXED BY deliveries_waiting
                 WHERE endpoint = ?1 AND state = 'waiting' AND upload_id > ?2 ORDER BY upload_id LIMIT ?3",
            )?;
            let upload = |row: &Row<'_>| row.get(0).map(UploadId::from_bytes);
            let lanes = statement.query_map(params![job.endpoint.as_str(), job.cursor, limit], upload)?;
            let lanes: Vec<UploadId> = lanes.collect::<rusqlite::Result<_>>()?;
            drop(statement);
            for upload in &lanes {
                lanes::release_next(tx, job.endpoint.as_str(), *upload, now)?;
            }
            if let Some(last) = lanes.last() {
                tx.execute(
                    "UPDATE backlog_jobs SET cursor = ?2 WHERE number = ?1",
                    params![job.number, last.as_bytes()],
                )?;
            }
            Ok(size(&lanes))
        }
    }
}
