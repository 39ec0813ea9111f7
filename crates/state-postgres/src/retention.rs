//! Retention: removes old rows, in batches.
//!
//! A reader finds the rows to remove, so that the search never blocks writes: it walks deliveries, events and
//! ended uploads from the oldest on, skips rows that must be kept, and examines a bounded number of rows at a
//! time. [`prune`](mod@crate::prune) checks the rows again and removes them. An event and its deliveries are
//! removed together, so that a replay of missed events does not mistake removed deliveries for missed ones.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use tokio_postgres::Row;

use crate::PostgresStore;
use crate::bucket::{SourceId, all_buckets};
use crate::fault::Fault;
use crate::lanes::DeliveryKey;
use crate::params::{Param, params};
use crate::prune::{self, OldEvent};
use crate::query::AFTER_ALL;
use crate::rows::Columns;
use crate::windows::Window;
use domain::endpoint::EndpointId;
use domain::event::EventKind;
use domain::id::{DeliveryId, HookCallId, ReplayId, UploadId};
use domain::principal::TenantScope;
use domain::replay::ReplayJob;
use domain::time::Timestamp;
use state::{BacklogLimits, Result, Retention, RetentionHorizon};

/// The number of rows of a kind that one query examines.
const WINDOW: u32 = 10_000;

/// The number of latest replays that are kept.
const REPLAYS: u32 = 1_000;

/// The number of ended uploads that one query examines; each requires a lookup.
const UPLOADS: u32 = 200;

const OPERATION: &str = "find records to remove";

#[async_trait]
impl Retention for PostgresStore {
    async fn expire(&self, begun_before: Timestamp, limit: u32, now: Timestamp) -> Result<u64> {
        self.expire_piece(begun_before, limit, now).await
    }

    async fn drop_excess(&self, limits: BacklogLimits, limit: u32, now: Timestamp) -> Result<Vec<(EndpointId, u64)>> {
        self.drop_excess_piece(limits, limit, now).await
    }

    async fn prune(&self, horizon: RetentionHorizon, limit: u32) -> Result<u64> {
        let mut places = self.pruning.lock().await;
        loop {
            let (old, next) = self.find_old(horizon, &places, limit).await?;
            *places = next;
            let gone = self.remove_old(horizon, limit, old).await?;
            if gone > 0 {
                return Ok(gone);
            }
            if places.are_at_the_end() {
                let end = self.shared.days.from(places.from).end;
                if end == AFTER_ALL {
                    *places = PruneCursors::default();
                    return Ok(0);
                }
                *places = PruneCursors::at(end);
            }
        }
    }

    async fn expunge(&self, scope: TenantScope, upload: UploadId) -> Result<u64> {
        self.expunge_in_pieces(scope, upload).await
    }

    fn superseded(&self) -> u64 {
        self.shared.superseded.load(Ordering::Relaxed)
    }
}

/// The rounded time of an ended upload's last change, and its id: the order of the walk.
type UploadPosition = (i64, [u8; 16]);

/// The window of days that is walked, and the positions of the walks in it; `None` for a walk that has
/// reached the end of the window.
#[derive(Debug, Clone)]
pub(crate) struct PruneCursors {
    /// The first identifier of the window.
    from: SourceId,
    deliveries: Option<[u8; 16]>,
    events: Option<i64>,
    uploads: Option<UploadPosition>,
}

impl Default for PruneCursors {
    fn default() -> Self {
        Self::at(SourceId::default())
    }
}

impl PruneCursors {
    /// Returns the positions at the start of a window.
    fn at(from: SourceId) -> Self {
        Self { from, deliveries: Some([0; 16]), events: Some(0), uploads: Some((i64::MIN, [0; 16])) }
    }

    fn are_at_the_end(&self) -> bool {
        self.deliveries.is_none() && self.events.is_none() && self.uploads.is_none()
    }
}

/// Rows that may be removed.
#[derive(Debug, Default)]
struct PrunableRows {
    /// Events whose deliveries may all be removed.
    delivered: BTreeSet<OldEvent>,
    /// Deliveries that are never replayed, of progress and of notices. Each is removed separately.
    deliveries: Vec<(DeliveryKey, OldEvent)>,
    /// Unfinished deliveries to endpoints that no longer exist in the configuration.
    abandoned: Vec<DeliveryKey>,
    events: Vec<OldEvent>,
    /// Uploads without bytes.
    uploads: Vec<UploadId>,
    jobs: Vec<ReplayId>,
    calls: Vec<HookCallId>,
}

/// The condition that a delivery must be kept, given `finished` as `$1` and `dead` as `$2`.
macro_rules! stays {
    ($delivery:literal) => {
        concat!(
            "(",
            $delivery,
            ".finished_at_ms IS NULL OR ",
            $delivery,
            ".finished_at_ms >= $1 OR (",
            $delivery,
            ".state = 'dead' AND ",
            $delivery,
            ".finished_at_ms >= $2))"
        )
    };
}
pub(crate) use stays;

/// The condition that an event has no deliveries, given the bounds of the events. `OFFSET 0` makes the
/// planner search the partition of each event instead of joining the whole tables.
macro_rules! without_deliveries {
    ($bounds:literal) => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM deliveries WHERE deliveries.bucket = events.bucket
                 AND deliveries.source_id = events.source_id AND deliveries.sequence = events.sequence
                 AND deliveries.source_id ",
            $bounds,
            " OFFSET 0)"
        )
    };
}
pub(crate) use without_deliveries;

/// The condition that an upload has a delivery that is unfinished, or that became dead not long enough ago,
/// given `dead` as `$2`, and the bounds of the uploads.
macro_rules! has_deliveries_to_keep {
    ($bounds:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM deliveries WHERE deliveries.bucket = uploads.bucket
                 AND deliveries.source_id = uploads.id AND deliveries.source_id ",
            $bounds,
            " AND (finished_at_ms IS NULL OR deliveries.state = 'dead' AND finished_at_ms >= $2) OFFSET 0)"
        )
    };
}
pub(crate) use has_deliveries_to_keep;

const DELIVERIES_END: &str = "SELECT id FROM deliveries WHERE id > $1 AND id < $2
     AND source_id >= $4 AND source_id < $5 AND bucket = ANY($6::bigint[]) ORDER BY id LIMIT 1 OFFSET $3";

const DELIVERIES: &str = concat!(
    "SELECT id, source_id, sequence, upload_id IS NOT NULL AND kind <> $6 FROM deliveries AS old
     WHERE id > $3 AND id <= $4 AND source_id >= $7 AND source_id < $8 AND bucket = ANY($9::bigint[]) AND NOT ",
    stays!("old"),
    " AND (kind = $6 OR NOT EXISTS (SELECT 1 FROM deliveries AS other WHERE other.bucket = old.bucket
         AND other.source_id = old.source_id AND other.sequence = old.sequence
         AND other.source_id >= $7 AND other.source_id < $8 AND ",
    stays!("other"),
    " OFFSET 0)) ORDER BY id LIMIT $5"
);

const EVENTS_END: &str = "SELECT position, occurred_at_ms FROM events WHERE position > $1
     AND source_id >= $3 AND source_id < $4 AND bucket = ANY($5::bigint[]) ORDER BY position LIMIT 1 OFFSET $2";

const EVENTS: &str = concat!(
    "SELECT source_id, sequence, upload_id IS NOT NULL FROM events
     WHERE position > $1 AND position <= $2 AND occurred_at_ms < $3
         AND source_id >= $5 AND source_id < $6 AND bucket = ANY($7::bigint[]) AND ",
    without_deliveries!("BETWEEN $5 AND $6"),
    " ORDER BY position LIMIT $4"
);

const UPLOADS_ENDED: &str = concat!(
    "SELECT changed_about_ms, id, updated_at_ms < $1 AND NOT ",
    has_deliveries_to_keep!("BETWEEN $6 AND $7"),
    " FROM uploads JOIN upload_progress USING (id, bucket)
     WHERE NOT bytes_kept AND (changed_about_ms, id) > ($3, $4) AND changed_about_ms < $1
         AND uploads.id >= $6 AND uploads.id < $7 AND upload_progress.id >= $6 AND upload_progress.id < $7
         AND bucket = ANY($8::bigint[])
     ORDER BY changed_about_ms, id LIMIT $5"
);

const JOBS: &str = "SELECT id FROM replay_jobs
     WHERE id < greatest($1, (SELECT id FROM replay_jobs ORDER BY id DESC LIMIT 1 OFFSET $2)) AND state <> 'running'
     ORDER BY id LIMIT $3";

const CALLS: &str = "SELECT id FROM hook_calls
     WHERE id < greatest($1, (SELECT id FROM hook_calls WHERE bucket = ANY($4::bigint[])
             ORDER BY id DESC LIMIT 1 OFFSET $2))
         AND bucket = ANY($4::bigint[])
     ORDER BY id LIMIT $3";

/// Pending deliveries to endpoints that no longer exist in the configuration.
const ABANDONED: &str = "SELECT source_id, id FROM deliveries
     WHERE state IN ('ready', 'waiting') AND endpoint = ANY($1::text[]) AND begun_at_ms < $2
         AND bucket = ANY($4::bigint[]) AND source_id >= $5 LIMIT $3";

impl PostgresStore {
    async fn find_old(
        &self,
        horizon: RetentionHorizon,
        from: &PruneCursors,
        limit: u32,
    ) -> Result<(PrunableRows, PruneCursors)> {
        let mut old = PrunableRows::default();
        let window = self.shared.days.from(from.from);
        let next = PruneCursors {
            from: from.from,
            deliveries: self.find_deliveries(horizon, window, from.deliveries, limit, &mut old).await?,
            events: self.find_events(horizon, window, from.events, limit, &mut old).await?,
            uploads: self.find_uploads(horizon, window, from.uploads, &mut old).await?,
        };
        if from.from != SourceId::default() {
            return Ok((old, next));
        }
        // Rows that do not belong to a day are searched with the first window. Identifiers begin with their
        // time of creation, so the old ones come first.
        let from_then_on = *DeliveryId::new(horizon.finished, [0; 10]).as_bytes();
        old.jobs = self.find_ids(JOBS, params![from_then_on, REPLAYS - 1, limit]).await?;
        let calls_before = horizon.most_hook_calls.saturating_sub(1);
        old.calls = self.find_ids(CALLS, params![from_then_on, calls_before, limit, all_buckets()]).await?;
        old.abandoned = self.find_abandoned(horizon, limit).await?;
        Ok((old, next))
    }

    async fn find<T>(
        &self,
        sql: &'static str,
        values: &[Param],
        read: fn(&mut Columns<'_>) -> std::result::Result<T, Fault>,
    ) -> Result<Vec<T>> {
        let found = self.readers.query(OPERATION, sql, values).await?;
        let read = |row: &Row| read(&mut Columns::of(row));
        let read: std::result::Result<_, Fault> = found.iter().map(read).collect();
        read.map_err(|fault| fault.into_error(OPERATION))
    }

    async fn find_ids<T: state_rows::FromCell>(&self, sql: &'static str, values: &[Param]) -> Result<Vec<T>> {
        self.find(sql, values, |columns| columns.next()).await
    }

    /// Finds deliveries that finished long enough ago, and returns the next position of the walk.
    async fn find_deliveries(
        &self,
        horizon: RetentionHorizon,
        window: Window,
        from: Option<[u8; 16]>,
        limit: u32,
        old: &mut PrunableRows,
    ) -> Result<Option<[u8; 16]>> {
        let Some(from) = from else { return Ok(None) };
        let from_then_on = *DeliveryId::new(horizon.finished, [0; 10]).as_bytes();
        let Window { from: first, end } = window;
        let values = params![from, from_then_on, WINDOW - 1, first, end, all_buckets()];
        let end: Vec<[u8; 16]> = self.find_ids(DELIVERIES_END, values).await?;
        let end = end.first().copied();
        let last = end.unwrap_or(from_then_on);
        let progress = EventKind::Progress.name();
        let times = (horizon.finished, horizon.dead);
        let values = params![times.0, times.1, from, last, limit, progress, first, window.end, all_buckets()];
        let read = |columns: &mut Columns<'_>| {
            let (id, event) = (columns.next()?, OldEvent { source: columns.next()?, sequence: columns.next()? });
            Ok((DeliveryKey { source: event.source, id }, event, columns.next::<bool>()?))
        };
        let found: Vec<(DeliveryKey, OldEvent, bool)> = self.find(DELIVERIES, values, read).await?;
        let next = if is_full(&found, limit) { Some(from) } else { end };
        for (key, event, goes_with_others) in found {
            if goes_with_others {
                old.delivered.insert(event);
            } else {
                old.deliveries.push((key, event));
            }
        }
        Ok(next)
    }

    /// Finds old events without deliveries, and returns the next position of the walk.
    async fn find_events(
        &self,
        horizon: RetentionHorizon,
        window: Window,
        from: Option<i64>,
        limit: u32,
        old: &mut PrunableRows,
    ) -> Result<Option<i64>> {
        let Some(from) = from else { return Ok(None) };
        let read = |columns: &mut Columns<'_>| Ok((columns.next()?, columns.next()?));
        let values = params![from, WINDOW - 1, window.from, window.end, all_buckets()];
        let end: Vec<(i64, Timestamp)> = self.find(EVENTS_END, values, read).await?;
        let end = end.first().copied();
        let last = end.map_or(i64::MAX, |(position, _)| position);
        let read = |columns: &mut Columns<'_>| Ok(OldEvent { source: columns.next()?, sequence: columns.next()? });
        let values = params![from, last, horizon.finished, limit, window.from, window.end, all_buckets()];
        old.events = self.find(EVENTS, values, read).await?;
        // Events after one that is too new are too new as well.
        let end = end.filter(|(_, at)| *at < horizon.finished.plus(ReplayJob::DISORDER)).map(|(position, _)| position);
        Ok(if is_full(&old.events, limit) { Some(from) } else { end })
    }

    /// Finds uploads without bytes that were last changed long enough ago, and returns the next position of
    /// the walk.
    async fn find_uploads(
        &self,
        horizon: RetentionHorizon,
        window: Window,
        from: Option<UploadPosition>,
        old: &mut PrunableRows,
    ) -> Result<Option<UploadPosition>> {
        let Some((changed_about_ms, id)) = from else { return Ok(None) };
        let (ended, dead) = (horizon.ended_uploads, horizon.dead);
        let values = params![ended, dead, changed_about_ms, id, UPLOADS, window.from, window.end, all_buckets()];
        let read = |columns: &mut Columns<'_>| Ok((columns.next()?, columns.next()?, columns.next()?));
        let ended: Vec<(i64, [u8; 16], bool)> = self.find(UPLOADS_ENDED, values, read).await?;
        let end = is_full(&ended, UPLOADS).then(|| ended.last().map(|(at, id, _)| (*at, *id))).flatten();
        let found = ended.into_iter().filter(|(.., may_go)| *may_go);
        old.uploads = found.map(|(_, id, _)| UploadId::from_bytes(id)).collect();
        // An upload with many rows is removed in batches: as long as the walk finds uploads, it stays at its
        // position.
        Ok(if old.uploads.is_empty() { end } else { from })
    }

    async fn find_abandoned(&self, horizon: RetentionHorizon, limit: u32) -> Result<Vec<DeliveryKey>> {
        let gone: Vec<String> = self.find_ids("SELECT id FROM endpoints WHERE NOT present", &[]).await?;
        if gone.is_empty() {
            return Ok(Vec::new());
        }
        let read = |columns: &mut Columns<'_>| Ok(DeliveryKey { source: columns.next()?, id: columns.next()? });
        let from = self.unfinished_from(OPERATION).await?.deliveries;
        self.find(ABANDONED, params![gone, horizon.abandoned, limit, all_buckets(), from], read).await
    }

    /// Removes the rows, each kind in a separate transaction.
    async fn remove_old(&self, horizon: RetentionHorizon, limit: u32, old: PrunableRows) -> Result<u64> {
        let PrunableRows { delivered, deliveries, abandoned, events, uploads, jobs, calls } = old;
        let mut gone = 0;
        if !(delivered.is_empty() && deliveries.is_empty()) {
            gone += self.write(prune::Deliveries { horizon, delivered, deliveries }).await?;
        }
        if !(abandoned.is_empty() && jobs.is_empty() && calls.is_empty()) {
            gone += self.write(prune::Others { horizon, abandoned, jobs, calls }).await?;
        }
        if !events.is_empty() {
            gone += self.write(prune::Events { horizon, events }).await?;
        }
        if !uploads.is_empty() && gone < u64::from(limit.max(1)) {
            gone += self.write(prune::Uploads { horizon, uploads, limit: limit.max(1) }).await?;
        }
        Ok(gone)
    }
}

/// Reports whether as many rows were found as requested, so that there may be more at the same position.
fn is_full<T>(found: &[T], limit: u32) -> bool {
    found.len() >= usize::try_from(limit).unwrap_or(usize::MAX)
}
