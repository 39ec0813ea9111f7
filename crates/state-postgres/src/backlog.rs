//! Changes of a whole backlog, made in batches.
//!
//! A decision about an endpoint is one small row. It is effective from the commit that writes it, because
//! claims check the endpoint: no delivery is sent to a stopped endpoint, and a pause touches no delivery. The
//! remaining changes of the deliveries themselves are made by a job in bounded batches, each in a separate
//! transaction, so that commits of uploads never wait for a long backlog. A job survives a crash, and one
//! node at a time processes it. Each kind is correct wherever it stops:
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
//!
//! The first batch is done in the transaction that begins the job and has locked the endpoints. The other
//! batches lock the lanes and run concurrently with commits and claims.

use tokio_postgres::Row;

use crate::bucket::all_buckets;
use crate::fault::Fault;
use crate::lanes::{ChangedLanes, DeliveryKey, keys};
use crate::params::{Param, params};
use crate::rows::Columns;
use crate::transaction::{AfterLostAnswer, Transaction, Work, one};
use domain::endpoint::{EndpointId, Ordering};
use domain::id::UploadId;
use domain::time::Timestamp;

/// The number of deliveries that a job updates in the transaction that begins it. This completes a short
/// backlog.
const FIRST_PIECE: u32 = 500;

domain::named! {
    /// The effect of a job on a backlog.
    pub(crate) enum BacklogJobKind {
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
    cursor: [u8; 16],
}

/// Begins a job and does its first batch. The job replaces an unfinished one of the same kind. The
/// transaction has locked the endpoints for a change.
pub(crate) async fn begin(
    tx: &mut Transaction<'_>,
    endpoint: &EndpointId,
    kind: BacklogJobKind,
    now: Timestamp,
) -> Result<(), Fault> {
    tx.execute("DELETE FROM backlog_jobs WHERE endpoint = $1 AND kind = $2", params![endpoint, kind.name()]).await?;
    let begun = tx
        .query(
            "INSERT INTO backlog_jobs (endpoint, kind, begun_at_ms) VALUES ($1, $2, $3) RETURNING number",
            params![endpoint, kind.name(), now],
        )
        .await?;
    let number: i64 = Columns::of(one(&begun)?).next()?;
    tx.execute("UPDATE endpoints SET generation = $2 WHERE id = $1", params![endpoint, number]).await?;
    tx.forget_subscribers();
    if kind == BacklogJobKind::Cancel {
        let from = tx.unfinished_from().await?.deliveries;
        // The number of rows is limited by the deliveries in flight. A settlement that still arrives is late.
        tx.execute(
            "UPDATE deliveries SET state = 'cancelled', finished_at_ms = $2, lease = NULL, lease_until_ms = NULL,
                 claimed_by = NULL
             WHERE endpoint = $1 AND state = 'leased' AND bucket = ANY($3::bigint[]) AND source_id >= $4",
            params![endpoint, now, all_buckets(), from],
        )
        .await?;
    }
    let job = BacklogJob { number, endpoint: endpoint.clone(), kind, begun_at: now, cursor: [0; 16] };
    if job.advance(tx, FIRST_PIECE, now).await? {
        job.end(tx).await?;
    }
    Ok(())
}

fn job(row: &Row) -> Result<BacklogJob, Fault> {
    let mut columns = Columns::of(row);
    Ok(BacklogJob {
        number: columns.next()?,
        endpoint: columns.next()?,
        kind: columns.named(BacklogJobKind::by_name)?,
        begun_at: columns.next()?,
        cursor: columns.next()?,
    })
}

/// Does the next batch of a job. Returns true if it was the last one of a cancellation, which [`EndCancel`]
/// then ends.
pub(crate) struct Advance {
    pub(crate) number: i64,
    pub(crate) limit: u32,
    pub(crate) now: Timestamp,
}

impl Work for Advance {
    const OPERATION: &'static str = "continue with a backlog";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = bool;

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<bool, Fault> {
        tx.subscribers().await?;
        let sql = "SELECT number, endpoint, kind, begun_at_ms, cursor FROM backlog_jobs WHERE number = $1 FOR UPDATE";
        let found = tx.query_opt(sql, params![self.number]).await?;
        let Some(job) = found.as_ref().map(job).transpose()? else { return Ok(false) };
        let was_last = job.advance(tx, self.limit.max(1), self.now).await?;
        if was_last && job.kind != BacklogJobKind::Cancel {
            job.end(tx).await?;
        }
        Ok(was_last && job.kind == BacklogJobKind::Cancel)
    }
}

/// Ends a cancellation after its last batch, so that the endpoint gets claims again. Deliveries queued since
/// the job began belong to a later generation, so none is left to cancel.
pub(crate) struct EndCancel {
    pub(crate) number: i64,
}

impl Work for EndCancel {
    const OPERATION: &'static str = "continue with a backlog";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = ();

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<(), Fault> {
        tx.change_endpoints().await?;
        tx.execute("DELETE FROM backlog_jobs WHERE number = $1", params![self.number]).await?;
        tx.made_ready = true;
        Ok(())
    }
}

/// Finds the deliveries of one state that a cancellation ends.
macro_rules! find_cancelled {
    ($state:literal) => {
        concat!(
            "SELECT source_id, id, upload_id FROM deliveries WHERE endpoint = $1 AND state = '",
            $state,
            "' AND generation < $2 AND bucket = ANY($4::bigint[]) AND source_id >= $5 LIMIT $3"
        )
    };
}

/// Makes retries due. Deliveries that are being cancelled keep their generation.
const HASTEN: &str = "UPDATE deliveries SET next_at_ms = $4, generation = $2
     FROM (SELECT bucket, source_id, id FROM deliveries
         WHERE endpoint = $1 AND state = 'ready' AND next_at_ms > $4 AND generation < $2
             AND bucket = ANY($5::bigint[]) AND source_id >= $6
             AND generation >= coalesce((SELECT max(number) FROM backlog_jobs
                 WHERE backlog_jobs.endpoint = $1 AND kind = 'cancel'), 0)
         LIMIT $3 FOR UPDATE) AS later
     WHERE deliveries.bucket = later.bucket AND deliveries.source_id = later.source_id AND deliveries.id = later.id
         AND deliveries.source_id >= $6";

const RELEASE_ALL: &str = "UPDATE deliveries SET state = 'ready'
     FROM (SELECT bucket, source_id, id FROM deliveries WHERE endpoint = $1 AND state = 'waiting'
             AND bucket = ANY($3::bigint[]) AND source_id >= $4
         LIMIT $2 FOR UPDATE) AS waiting
     WHERE deliveries.bucket = waiting.bucket AND deliveries.source_id = waiting.source_id
         AND deliveries.id = waiting.id AND deliveries.source_id >= $4";

impl BacklogJob {
    /// Does a batch. Returns true if it was the last one.
    async fn advance(&self, tx: &mut Transaction<'_>, limit: u32, now: Timestamp) -> Result<bool, Fault> {
        let done = match self.kind {
            BacklogJobKind::Cancel => self.cancel(tx, limit, now).await?,
            BacklogJobKind::Hasten => self.hasten(tx, limit).await?,
            BacklogJobKind::Release => self.release(tx, limit, now).await?,
        };
        Ok(done < u64::from(limit))
    }

    async fn end(&self, tx: &mut Transaction<'_>) -> Result<(), Fault> {
        tx.execute("DELETE FROM backlog_jobs WHERE number = $1", params![self.number]).await?;
        tx.forget_subscribers();
        tx.made_ready = true;
        Ok(())
    }

    /// Cancels waiting deliveries first; otherwise each would become ready before it is cancelled.
    async fn cancel(&self, tx: &mut Transaction<'_>, limit: u32, now: Timestamp) -> Result<u64, Fault> {
        let from = tx.unfinished_from().await?.deliveries;
        let values = |limit: u64| {
            let (endpoint, number) = (Param::from(&self.endpoint), Param::from(self.number));
            [endpoint, number, Param::from(limit), Param::from(all_buckets()), Param::from(from)]
        };
        let mut found = tx.query(find_cancelled!("waiting"), &values(u64::from(limit))).await?;
        let left = u64::from(limit).saturating_sub(count(&found));
        if left > 0 {
            found.extend(tx.query(find_cancelled!("ready"), &values(left)).await?);
        }
        let (mut old, mut lanes) = (Vec::new(), ChangedLanes::new());
        for row in &found {
            let mut columns = Columns::of(row);
            old.push(DeliveryKey { source: columns.next()?, id: columns.next()? });
            if let Some(upload) = columns.next::<Option<UploadId>>()? {
                lanes.insert((upload, self.endpoint.as_str().to_owned()), now);
            }
        }
        tx.lock_lanes(lanes.keys().map(|(upload, _)| *upload)).await?;
        // Some of them may have been replayed since they were found.
        self.cancel_old(tx, &old, now).await?;
        // Deliveries queued since may have waited for one of these.
        tx.release_next(&lanes).await?;
        Ok(count(&found))
    }

    async fn cancel_old(&self, tx: &Transaction<'_>, old: &[DeliveryKey], now: Timestamp) -> Result<(), Fault> {
        if old.is_empty() {
            return Ok(());
        }
        let mut values = keys(old);
        values.extend([Param::from(now), Param::from(self.number)]);
        tx.execute(
            "UPDATE deliveries SET state = 'cancelled', finished_at_ms = $6
             FROM unnest($1::bigint[], $2::uuid[], $3::uuid[]) AS old (bucket, source_id, id)
             WHERE deliveries.bucket = old.bucket AND deliveries.source_id = old.source_id
                 AND deliveries.id = old.id AND deliveries.source_id BETWEEN $4 AND $5
                 AND state IN ('ready', 'waiting') AND generation < $7",
            &values,
        )
        .await
        .map(drop)
    }

    async fn hasten(&self, tx: &mut Transaction<'_>, limit: u32) -> Result<u64, Fault> {
        let from = tx.unfinished_from().await?.deliveries;
        let values = params![&self.endpoint, self.number, limit, self.begun_at, all_buckets(), from];
        let hastened = tx.execute(HASTEN, values).await?;
        tx.made_ready |= hastened > 0;
        Ok(hastened)
    }

    /// Releases deliveries by the endpoint's current ordering, which may have changed again since the job
    /// began.
    async fn release(&self, tx: &mut Transaction<'_>, limit: u32, now: Timestamp) -> Result<u64, Fault> {
        let from = tx.unfinished_from().await?.deliveries;
        match tx.ordering_of(self.endpoint.as_str()).await? {
            Ordering::None => {
                let values = params![&self.endpoint, limit, all_buckets(), from];
                let released = tx.execute(RELEASE_ALL, values).await?;
                tx.made_ready |= released > 0;
                Ok(released)
            }
            Ordering::PerUpload | Ordering::Strict => {
                let sql = "SELECT DISTINCT source_id FROM deliveries
                     WHERE endpoint = $1 AND state = 'waiting' AND source_id > $2 AND bucket = ANY($4::bigint[])
                         AND source_id >= $5 ORDER BY source_id LIMIT $3";
                let found = tx.query(sql, params![&self.endpoint, self.cursor, limit, all_buckets(), from]).await?;
                let uploads = found.iter().map(|row| Columns::of(row).next());
                let uploads: Vec<UploadId> = uploads.collect::<Result<_, Fault>>()?;
                tx.lock_lanes(uploads.iter().copied()).await?;
                let lane = |upload: &UploadId| ((*upload, self.endpoint.as_str().to_owned()), now);
                tx.release_next(&uploads.iter().map(lane).collect()).await?;
                if let Some(last) = uploads.last() {
                    let sql = "UPDATE backlog_jobs SET cursor = $2 WHERE number = $1";
                    tx.execute(sql, params![self.number, last]).await?;
                }
                Ok(count(&found))
            }
        }
    }
}

fn count(found: &[Row]) -> u64 {
    u64::try_from(found.len()).unwrap_or(u64::MAX)
}
