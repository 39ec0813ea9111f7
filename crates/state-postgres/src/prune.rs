//! Removal of the rows that [`retention`](crate::retention) has found.
//!
//! One node at a time removes rows. It locks the lanes of the rows and then checks them again, because a
//! replay may have selected them since.

use std::collections::BTreeSet;

use tokio_postgres::Row;

use crate::bucket::{SourceId, all_buckets, bucket_of};
use crate::fault::Fault;
use crate::lanes::{ChangedLanes, DeliveryKey, keys};
use crate::params::{Param, params};
use crate::retention::{has_deliveries_to_keep, stays, without_deliveries};
use crate::rows::Columns;
use crate::transaction::{AfterLostAnswer, Transaction, Work};
use domain::id::{DeliveryId, HookCallId, ReplayId, UploadId};
use domain::metadata::Metadata;
use state::RetentionHorizon;

const OPERATION: &str = "remove old records";

/// The advisory lock of the node that removes rows.
const PRUNE_LOCK: i64 = 0x4c6f_6e69_0000_0000;

/// The key of an event: its source and its sequence, which is 0 if the event is not about an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OldEvent {
    pub(crate) source: SourceId,
    pub(crate) sequence: i64,
}

impl OldEvent {
    /// Returns the upload whose lanes must be locked. For a notice this is an unused lock.
    fn lane(&self) -> UploadId {
        UploadId::from_bytes(self.source)
    }
}

/// Returns the values that name events: their buckets, sources and sequences, and the smallest and the
/// largest source.
fn event_keys(events: &[OldEvent]) -> Vec<Param> {
    let sources = || events.iter().map(|event| event.source);
    vec![
        Param::from(sources().map(|source| bucket_of(&source)).collect::<Vec<i64>>()),
        Param::from(sources().collect::<Vec<SourceId>>()),
        Param::from(events.iter().map(|event| event.sequence).collect::<Vec<i64>>()),
        Param::from(sources().min().unwrap_or_default()),
        Param::from(sources().max().unwrap_or_default()),
    ]
}

async fn begin(tx: &Transaction<'_>, lanes: impl Iterator<Item = UploadId> + Send) -> Result<(), Fault> {
    tx.query("SELECT pg_advisory_xact_lock($1)", params![PRUNE_LOCK]).await?;
    tx.lock_lanes(lanes).await
}

/// Removes finished deliveries with their attempts, and events that have no deliveries left.
pub(crate) struct Deliveries {
    pub(crate) horizon: RetentionHorizon,
    /// Events whose deliveries are removed together.
    pub(crate) delivered: BTreeSet<OldEvent>,
    /// Deliveries that are removed separately.
    pub(crate) deliveries: Vec<(DeliveryKey, OldEvent)>,
}

const DELETE_DELIVERED: &str = concat!(
    "DELETE FROM deliveries
     USING unnest($3::bigint[], $4::uuid[], $5::bigint[]) AS event (bucket, source_id, sequence)
     WHERE deliveries.bucket = event.bucket AND deliveries.source_id = event.source_id
         AND deliveries.sequence = event.sequence AND deliveries.source_id BETWEEN $6 AND $7
         AND NOT EXISTS (SELECT 1 FROM deliveries AS other WHERE other.bucket = event.bucket
             AND other.source_id = event.source_id AND other.source_id BETWEEN $6 AND $7
             AND other.sequence = event.sequence AND ",
    stays!("other"),
    " OFFSET 0) RETURNING deliveries.source_id, deliveries.id"
);

const DELETE_ALONE: &str = concat!(
    "DELETE FROM deliveries AS old
     USING unnest($3::bigint[], $4::uuid[], $5::uuid[]) AS key (bucket, source_id, id)
     WHERE old.bucket = key.bucket AND old.source_id = key.source_id AND old.id = key.id
         AND old.source_id BETWEEN $6 AND $7 AND NOT ",
    stays!("old"),
    " RETURNING old.source_id, old.id"
);

const DELETE_EVENTS: &str = concat!(
    "DELETE FROM events
     USING unnest($1::bigint[], $2::uuid[], $3::bigint[]) AS key (bucket, source_id, sequence)
     WHERE events.bucket = key.bucket AND events.source_id = key.source_id AND events.sequence = key.sequence
         AND events.source_id BETWEEN $4 AND $5 AND occurred_at_ms < $6 AND ",
    without_deliveries!("BETWEEN $4 AND $5"),
    " RETURNING position"
);

fn delivery_keys(rows: &[Row]) -> Result<Vec<DeliveryKey>, Fault> {
    let key = |row: &Row| {
        let mut columns = Columns::of(row);
        Ok(DeliveryKey { source: columns.next()?, id: columns.next::<DeliveryId>()? })
    };
    rows.iter().map(key).collect()
}

fn size<T>(rows: &[T]) -> u64 {
    u64::try_from(rows.len()).unwrap_or(u64::MAX)
}

impl Work for Deliveries {
    const OPERATION: &'static str = OPERATION;
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = u64;

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<u64, Fault> {
        let alone = || self.deliveries.iter().map(|(_, event)| *event);
        begin(tx, self.delivered.iter().map(OldEvent::lane).chain(alone().map(|event| event.lane()))).await?;
        let times = [Param::from(self.horizon.finished), Param::from(self.horizon.dead)];
        let mut removed = Vec::new();
        let delivered: Vec<OldEvent> = self.delivered.iter().copied().collect();
        if !delivered.is_empty() {
            let values: Vec<Param> = times.iter().cloned().chain(event_keys(&delivered)).collect();
            removed.extend(delivery_keys(&tx.query(DELETE_DELIVERED, &values).await?)?);
        }
        if !self.deliveries.is_empty() {
            let alone: Vec<DeliveryKey> = self.deliveries.iter().map(|(key, _)| *key).collect();
            let values: Vec<Param> = times.iter().cloned().chain(keys(&alone)).collect();
            removed.extend(delivery_keys(&tx.query(DELETE_ALONE, &values).await?)?);
        }
        tx.forget_attempts(&removed).await?;
        let events: BTreeSet<OldEvent> = delivered.into_iter().chain(alone()).collect();
        let events: Vec<OldEvent> = events.into_iter().collect();
        Ok(size(&removed) + tx.forget_events(&events, self.horizon).await?)
    }
}

/// Removes old events without deliveries.
pub(crate) struct Events {
    pub(crate) horizon: RetentionHorizon,
    pub(crate) events: Vec<OldEvent>,
}

impl Work for Events {
    const OPERATION: &'static str = OPERATION;
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = u64;

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<u64, Fault> {
        begin(tx, self.events.iter().map(OldEvent::lane)).await?;
        tx.forget_events(&self.events, self.horizon).await
    }
}

/// Cancels abandoned deliveries, and removes ended replays and old calls of hooks.
pub(crate) struct Others {
    pub(crate) horizon: RetentionHorizon,
    pub(crate) abandoned: Vec<DeliveryKey>,
    pub(crate) jobs: Vec<ReplayId>,
    pub(crate) calls: Vec<HookCallId>,
}

/// Cancels deliveries of endpoints that are not present. An endpoint may be configured again by now; its
/// missed deliveries can be replayed then. The keys come first.
const CANCEL: &str = "UPDATE deliveries SET state = 'cancelled', finished_at_ms = $6
     FROM unnest($1::bigint[], $2::uuid[], $3::uuid[]) AS abandoned (bucket, source_id, id)
     WHERE deliveries.bucket = abandoned.bucket AND deliveries.source_id = abandoned.source_id
         AND deliveries.id = abandoned.id AND deliveries.source_id BETWEEN $4 AND $5
         AND finished_at_ms IS NULL AND state <> 'leased'
         AND endpoint IN (SELECT endpoints.id FROM endpoints WHERE NOT present)
     RETURNING upload_id, endpoint";

impl Work for Others {
    const OPERATION: &'static str = OPERATION;
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = u64;

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<u64, Fault> {
        let mut gone = 0;
        if !self.abandoned.is_empty() {
            // No endpoint becomes present again until the transaction ends.
            tx.subscribers().await?;
            tx.lock_lanes(self.abandoned.iter().map(|key| UploadId::from_bytes(key.source))).await?;
            let mut values = keys(&self.abandoned);
            values.push(Param::from(self.horizon.now));
            let cancelled = tx.query(CANCEL, &values).await?;
            let mut lanes = ChangedLanes::new();
            for row in &cancelled {
                let mut columns = Columns::of(row);
                let (upload, endpoint): (Option<UploadId>, String) = (columns.next()?, columns.next()?);
                lanes.extend(upload.map(|upload| ((upload, endpoint), self.horizon.now)));
            }
            // Younger deliveries may have waited for these; they are sent if the endpoint becomes present
            // again.
            tx.release_next(&lanes).await?;
            gone += size(&cancelled);
        }
        if !self.jobs.is_empty() {
            let sql = "DELETE FROM replay_jobs WHERE id = ANY($1::uuid[])";
            gone += tx.execute(sql, params![self.jobs.clone()]).await?;
        }
        if !self.calls.is_empty() {
            let sql = "DELETE FROM hook_calls WHERE id = ANY($1::uuid[]) AND bucket = ANY($2::bigint[])";
            gone += tx.execute(sql, params![self.calls.clone(), all_buckets()]).await?;
        }
        Ok(gone)
    }
}

/// Removes uploads without bytes: their deliveries and events first, at most `limit` of each, and the records
/// together with the last of them.
pub(crate) struct Uploads {
    pub(crate) horizon: RetentionHorizon,
    pub(crate) uploads: Vec<UploadId>,
    pub(crate) limit: u32,
}

/// Selects the uploads that may still be removed; their buckets, identifiers and bounds come last.
const OLD_UPLOADS: &str = concat!(
    "SELECT uploads.id, metadata FROM unnest($3::bigint[], $4::uuid[]) AS wanted (bucket, id)
     JOIN uploads ON uploads.bucket = wanted.bucket AND uploads.id = wanted.id
     JOIN upload_progress ON upload_progress.bucket = wanted.bucket AND upload_progress.id = wanted.id
     WHERE uploads.id BETWEEN $5 AND $6 AND upload_progress.id BETWEEN $5 AND $6
         AND NOT bytes_kept AND updated_at_ms < $1 AND NOT ",
    has_deliveries_to_keep!("BETWEEN $5 AND $6"),
);

/// Locks the uploads against commits, in the order in which writers lock them.
const LOCK_UPLOADS: &str = "SELECT id FROM upload_progress
     WHERE id = ANY($1::uuid[]) AND bucket = ANY($4::bigint[]) AND id BETWEEN $2 AND $3 ORDER BY id FOR UPDATE";

impl Work for Uploads {
    const OPERATION: &'static str = OPERATION;
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = u64;

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<u64, Fault> {
        begin(tx, self.uploads.iter().copied()).await?;
        let (Some(least), Some(most)) = (self.uploads.iter().min(), self.uploads.iter().max()) else { return Ok(0) };
        let buckets: Vec<i64> = self.uploads.iter().map(|upload| bucket_of(upload.as_bytes())).collect();
        tx.query(LOCK_UPLOADS, params![self.uploads.clone(), least, most, buckets.clone()]).await?;
        let values = params![self.horizon.ended_uploads, self.horizon.dead, buckets, self.uploads.clone(), least, most];
        let old = |row: &Row| {
            let mut columns = Columns::of(row);
            Ok((columns.next()?, columns.next()?))
        };
        let found = tx.query(OLD_UPLOADS, values).await?;
        let old: Vec<(UploadId, Metadata)> = found.iter().map(old).collect::<Result<_, Fault>>()?;
        if old.is_empty() {
            return Ok(0);
        }
        self.forget(tx, &old).await
    }
}

impl Uploads {
    async fn forget(&self, tx: &Transaction<'_>, old: &[(UploadId, Metadata)]) -> Result<u64, Fault> {
        let ids: Vec<UploadId> = old.iter().map(|(upload, _)| *upload).collect();
        let (least, most) = (ids.iter().min().copied(), ids.iter().max().copied());
        let buckets: Vec<i64> = ids.iter().map(|upload| bucket_of(upload.as_bytes())).collect();
        let values = params![ids, least, most, buckets, self.limit];
        let deliveries = tx
            .query(
                "DELETE FROM deliveries USING (SELECT bucket, source_id, id FROM deliveries
                     WHERE source_id = ANY($1::uuid[]) AND bucket = ANY($4::bigint[]) AND source_id BETWEEN $2 AND $3
                     ORDER BY source_id, id LIMIT $5) AS old
                 WHERE deliveries.bucket = old.bucket AND deliveries.source_id = old.source_id
                     AND deliveries.id = old.id AND deliveries.source_id BETWEEN $2 AND $3
                 RETURNING deliveries.source_id, deliveries.id",
                values,
            )
            .await?;
        tx.forget_attempts(&delivery_keys(&deliveries)?).await?;
        let events = tx
            .query(
                "DELETE FROM events USING (SELECT bucket, source_id, sequence FROM events
                     WHERE source_id = ANY($1::uuid[]) AND bucket = ANY($4::bigint[]) AND source_id BETWEEN $2 AND $3
                     ORDER BY source_id, sequence LIMIT $5) AS old
                 WHERE events.bucket = old.bucket AND events.source_id = old.source_id
                     AND events.sequence = old.sequence AND events.source_id BETWEEN $2 AND $3
                 RETURNING position",
                values,
            )
            .await?;
        tx.note_removed(&events).await?;
        let gone = size(&deliveries) + size(&events);
        let limit = u64::from(self.limit);
        if size(&deliveries) >= limit || size(&events) >= limit {
            return Ok(gone);
        }
        let pairs: Vec<_> = old.iter().map(|(upload, metadata)| (*upload, metadata.pairs())).collect();
        tx.forget_metadata(&pairs).await?;
        for table in ["uploads", "upload_progress"] {
            let sql = format!(
                "DELETE FROM {table} WHERE id = ANY($1::uuid[]) AND bucket = ANY($4::bigint[]) AND id BETWEEN $2 AND $3"
            );
            tx.execute(&sql, &values[..4]).await?;
        }
        Ok(gone + size(old))
    }
}

impl Transaction<'_> {
    async fn forget_attempts(&self, deliveries: &[DeliveryKey]) -> Result<(), Fault> {
        if deliveries.is_empty() {
            return Ok(());
        }
        let sql =
            "DELETE FROM attempts USING unnest($1::bigint[], $2::uuid[], $3::uuid[]) AS old (bucket, source_id, id)
             WHERE attempts.bucket = old.bucket AND attempts.source_id = old.source_id
                 AND attempts.delivery_id = old.id AND attempts.source_id BETWEEN $4 AND $5";
        self.execute(sql, &keys(deliveries)).await.map(drop)
    }

    /// Removes old events without deliveries, and returns their number.
    async fn forget_events(&self, events: &[OldEvent], horizon: RetentionHorizon) -> Result<u64, Fault> {
        let mut values = event_keys(events);
        values.push(Param::from(horizon.finished));
        let removed = self.query(DELETE_EVENTS, &values).await?;
        self.note_removed(&removed).await?;
        Ok(size(&removed))
    }

    /// Records the position up to which the log may have gaps, given the positions of removed events.
    async fn note_removed(&self, removed: &[Row]) -> Result<(), Fault> {
        let position = |row| Columns::of(row).next::<i64>();
        let positions: Vec<i64> = removed.iter().map(position).collect::<Result<_, Fault>>()?;
        let Some(last) = positions.into_iter().max() else { return Ok(()) };
        let sql = "UPDATE log SET removed_up_to = $1 WHERE removed_up_to < $1";
        self.execute(sql, params![last]).await.map(drop)
    }
}
