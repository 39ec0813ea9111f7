//! Replays: of one delivery, or of a time range by a job that keeps its position.
//!
//! A job walks the log of events in batches, each in one transaction with its cursor: after a crash it
//! resumes at its position, and no event is queued twice. It reads only up to the horizon of the log, so it
//! misses no event that is committed late. It begins and ends where its time range does, which a binary
//! search of the log finds. A replay never touches unfinished deliveries, so a replay and an automatic retry
//! share one delivery. Pending deliveries need no walk: a [`backlog`] job makes their retries due.

use std::sync::LazyLock;

use async_trait::async_trait;
use state_rows::sql::Placeholders;
use state_rows::{ReplayRow, sql};
use tokio_postgres::Row;

use crate::PostgresStore;
use crate::backlog::{self, BacklogJobKind};
use crate::backlog_counts::read_backlog;
use crate::bucket::{SourceId, all_buckets, bucket_of};
use crate::endpoints::is_there;
use crate::fault::Fault;
use crate::lanes::{DeliveryKey, Returning};
use crate::params::params;
use crate::past_days;
use crate::query::tenants;
use crate::replay_piece::{MOST_LOOKED_AT, PastEvent};
use crate::rows::{self, Columns};
use crate::session::Planning;
use crate::transaction::{AfterLostAnswer, Transaction, Work};
use domain::delivery::{Backlog, DeliveryState, ReplayOutcome, ReplaySelection};
use domain::event::EventKind;
use domain::id::{DeliveryId, ReplayId, UploadId};
use domain::log::EventPosition;
use domain::principal::{TenantId, TenantScope};
use domain::replay::{ReplayJob, ReplayState};
use domain::time::Timestamp;
use state::{Replays, Result};

#[async_trait]
impl Replays for PostgresStore {
    async fn begin_replay(&self, job: ReplayJob) -> Result<ReplayJob> {
        let cursor = self.place_before(job.from.minus(ReplayJob::DISORDER)).await?.max(job.cursor);
        self.write(BeginReplay(ReplayJob { cursor, ..job })).await
    }

    async fn replay_jobs(&self, scope: TenantScope) -> Result<Vec<ReplayJob>> {
        const OPERATION: &str = "list replays";
        let (least, most) = tenants(scope);
        let values = params![least, most];
        let found = self.readers.query_as(OPERATION, &JOBS, Planning::Once(None), values).await?;
        let jobs: std::result::Result<_, Fault> = found.iter().map(job).collect();
        jobs.map_err(|fault| fault.into_error(OPERATION))
    }

    async fn advance_replay(&self, id: ReplayId, limit: u32, now: Timestamp) -> Result<Option<ReplayJob>> {
        let (visible, has_more) = self.newest_visible(AdvanceReplay::OPERATION).await?;
        self.write(AdvanceReplay { id, limit, now, visible: EventPosition(visible), has_more }).await
    }

    async fn cancel_replay(&self, scope: TenantScope, id: ReplayId, now: Timestamp) -> Result<bool> {
        self.write(CancelReplay { scope, id, now }).await
    }
}

impl PostgresStore {
    /// Returns the last log position that is at or after every event older than `then`.
    async fn place_before(&self, then: Timestamp) -> Result<EventPosition> {
        const OPERATION: &str = BeginReplay::OPERATION;
        let (newest, _) = self.newest_visible(OPERATION).await?;
        let oldest = self.first_event_from(0).await?.map_or(1, |(position, _)| position);
        let (mut first, mut end) = (oldest, newest.saturating_add(1));
        while first < end {
            let middle = first + (end - first) / 2;
            match self.first_event_from(middle).await? {
                Some((position, at)) if at < then => first = position.saturating_add(1),
                Some(_) | None => end = middle,
            }
        }
        // No event lies before the first one.
        Ok(EventPosition(if first == oldest { 0 } else { first - 1 }))
    }

    /// Returns the position and the time of the first event at a position or behind it.
    async fn first_event_from(&self, position: i64) -> Result<Option<(i64, Timestamp)>> {
        const OPERATION: &str = BeginReplay::OPERATION;
        const NEXT: &str = "SELECT position, occurred_at_ms FROM events WHERE position >= $1
                 AND bucket = ANY($2::bigint[]) AND source_id >= $3 AND source_id < $4
             ORDER BY position LIMIT 1";
        let mut first: Option<(i64, Timestamp)> = None;
        let after = position.saturating_sub(1);
        for days in past_days::with_events(self.primary(), OPERATION, &self.shared.days, after).await? {
            if first.is_some_and(|(position, _)| position < days.oldest_position) {
                break;
            }
            let [from, end] = past_days::bounds(&days);
            let found = self.readers.query(OPERATION, NEXT, params![position, all_buckets(), from, end]).await?;
            let read = |row: &Row| {
                let mut columns = Columns::of(row);
                Ok((columns.next::<i64>()?, columns.next::<Timestamp>()?))
            };
            let found = found.first().map(read).transpose().map_err(|fault: Fault| fault.into_error(OPERATION))?;
            first = first.into_iter().chain(found).min_by_key(|(position, _)| *position);
        }
        Ok(first)
    }
}

/// Sends one delivery again.
pub(crate) struct ReplayDelivery {
    pub(crate) scope: TenantScope,
    pub(crate) delivery: DeliveryId,
    pub(crate) force: bool,
    pub(crate) now: Timestamp,
}

impl Work for ReplayDelivery {
    const OPERATION: &'static str = "send a delivery again";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Report;
    type Output = ReplayOutcome;

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<ReplayOutcome, Fault> {
        const FIND: &str = "SELECT source_id, upload_id FROM deliveries
             WHERE bucket = $1 AND id = $2 AND tenant BETWEEN $3 AND $4 AND source_id >= $5 AND source_id < $6";
        const LOCK: &str = "SELECT tenant, endpoint, state, generation, attempts FROM deliveries
             WHERE bucket = $1 AND source_id = $2 AND id = $3 FOR UPDATE";
        let subscribers = tx.subscribers().await?;
        let (least, most) = tenants(self.scope);
        let bucket = bucket_of(self.delivery.as_bytes());
        let mut found = None;
        for days in tx.days_with_deliveries(self.delivery).await? {
            let [from, end] = past_days::bounds(&days);
            found = tx.query_opt(FIND, params![bucket, self.delivery, least, most, from, end]).await?;
            if found.is_some() {
                break;
            }
        }
        let Some(row) = found else { return Ok(ReplayOutcome::NoDelivery) };
        let mut columns = Columns::of(&row);
        let (source, upload): (SourceId, Option<UploadId>) = (columns.next()?, columns.next()?);
        tx.lock_lanes(upload).await?;
        let found = tx.query_opt(LOCK, params![bucket, source, self.delivery]).await?;
        let Some(row) = found else { return Ok(ReplayOutcome::NoDelivery) };
        let mut columns = Columns::of(&row);
        let (tenant, endpoint): (TenantId, domain::endpoint::EndpointId) = (columns.next()?, columns.next()?);
        let (state, generation): (DeliveryState, i64) = (columns.next()?, columns.next()?);
        let attempts = columns.next()?;
        let Some(subscriber) = subscribers.iter().find(|one| one.id == endpoint && one.tenant == tenant) else {
            return Ok(ReplayOutcome::NoEndpoint);
        };
        let is_being_cancelled = subscriber.is_cancelling(generation);
        if let Err(answer) = subscriber.availability().check_replay(state, self.force, is_being_cancelled) {
            return Ok(answer);
        }
        let key = DeliveryKey { source, id: self.delivery };
        let lanes = tx.rejoin(&[Returning { key, upload, attempts }], subscriber, self.now).await?;
        tx.release_next(&lanes).await?;
        Ok(ReplayOutcome::Queued)
    }
}

static JOB: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {} FROM replay_jobs WHERE id = $1 FOR UPDATE", sql::columns::<ReplayRow>()));

/// The running jobs and the latest hundred. Each was requested by an operator, so they are few.
static JOBS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {} FROM replay_jobs
         WHERE tenant BETWEEN $1 AND $2 AND (state = 'running' OR id IN (
             SELECT id FROM replay_jobs WHERE tenant BETWEEN $1 AND $2 ORDER BY id DESC LIMIT 100))
         ORDER BY id DESC",
        sql::columns::<ReplayRow>()
    )
});

static INSERT: LazyLock<String> = LazyLock::new(|| sql::insert::<ReplayRow>(Placeholders::Dollar));

static UPDATE: LazyLock<String> = LazyLock::new(|| sql::update::<ReplayRow>(Placeholders::Dollar, ""));

fn job(row: &Row) -> std::result::Result<ReplayJob, Fault> {
    rows::read::<ReplayRow>(row).map(ReplayJob::from)
}

/// Records a job whose position is already determined.
struct BeginReplay(ReplayJob);

impl Work for BeginReplay {
    const OPERATION: &'static str = "record a replay";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Report;
    type Output = ReplayJob;

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<ReplayJob, Fault> {
        let mut job = self.0.clone();
        if job.what == ReplaySelection::Pending {
            tx.change_endpoints().await?;
            let own = TenantScope::One(job.tenant);
            let Backlog { waiting, ready, paused, .. } =
                read_backlog(tx.session(), own, Some(&job.endpoint), Backlog::MOST).await?;
            job.queued = waiting + ready + paused;
            (job.state, job.finished_at) = (ReplayState::Done, Some(job.created_at));
            if is_there(tx, own, &job.endpoint).await? {
                backlog::begin(tx, &job.endpoint, BacklogJobKind::Hasten, job.created_at).await?;
            }
        }
        tx.execute(&INSERT, &rows::values::<ReplayRow>(&ReplayRow::cells(&job))).await?;
        Ok(job)
    }
}

struct CancelReplay {
    scope: TenantScope,
    id: ReplayId,
    now: Timestamp,
}

impl Work for CancelReplay {
    const OPERATION: &'static str = "stop a replay";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Report;
    type Output = bool;

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<bool, Fault> {
        let (least, most) = tenants(self.scope);
        let stopped = tx
            .execute(
                "UPDATE replay_jobs SET state = 'cancelled', finished_at_ms = $2
                 WHERE id = $1 AND state = 'running' AND tenant BETWEEN $3 AND $4",
                params![self.id, self.now, least, most],
            )
            .await?;
        Ok(stopped > 0)
    }
}

struct AdvanceReplay {
    id: ReplayId,
    limit: u32,
    now: Timestamp,
    /// The last position that may be read.
    visible: EventPosition,
    /// True if the log continues beyond the last position that may be read.
    has_more: bool,
}

impl Work for AdvanceReplay {
    const OPERATION: &'static str = "continue a replay";
    /// The cursor is part of the job, so no event is queued twice.
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = Option<ReplayJob>;

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<Option<ReplayJob>, Fault> {
        let subscribers = tx.subscribers().await?;
        let found = tx.query_opt(&JOB, params![self.id]).await?;
        let Some(mut job) = found.as_ref().map(job).transpose()? else { return Ok(None) };
        if job.state != ReplayState::Running {
            return Ok(Some(job));
        }
        let subscriber = subscribers.iter().find(|one| one.id == job.endpoint && one.tenant == job.tenant);
        // A replay may include deliveries that are being cancelled, so it waits until that is done.
        if subscriber.is_some_and(|one| one.cancelled_before.is_some()) {
            return Ok(Some(job));
        }
        let mut piece = tx.piece_of_log(job.cursor, self.visible).await?;
        let end = job.before.plus(ReplayJob::DISORDER);
        let is_all = piece.len() < MOST_LOOKED_AT && !self.has_more;
        let mut was_last = is_all || piece.iter().all(|event| event.occurred_at >= end) && !piece.is_empty();
        // Old progress events are obsolete.
        let (tenant, range) = (job.tenant, job.from..job.before);
        let is_wanted = |event: &PastEvent| {
            event.tenant == tenant && range.contains(&event.occurred_at) && event.kind != EventKind::Progress
        };
        if subscriber.is_some() {
            let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
            let first_left = piece.iter().enumerate().filter(|(_, event)| is_wanted(event)).nth(limit);
            if let Some((first_left, _)) = first_left {
                piece.truncate(first_left);
                was_last = false;
            }
        }
        job.cursor = piece.last().map_or(job.cursor, |event| event.position);
        if let Some(subscriber) = subscriber {
            let wanted: Vec<PastEvent> = piece.into_iter().filter(is_wanted).collect();
            job.queued += tx.queue_again(subscriber, wanted, job.what, self.now).await?;
        }
        if was_last || subscriber.is_none() {
            job.state = if subscriber.is_some() { ReplayState::Done } else { ReplayState::Cancelled };
            job.finished_at = Some(self.now);
        }
        tx.execute(&UPDATE, &rows::values::<ReplayRow>(&ReplayRow::cells(&job))).await?;
        Ok(Some(job))
    }
}
