//! Replays: of one delivery, or of a time range by a job that keeps its position.
//!
//! A job walks the log of events in batches, each in one transaction with its cursor: after a crash it
//! resumes at its position, and no event is queued twice. It begins and ends where its time range does, which
//! a binary search of the log finds. A replay never touches unfinished deliveries, so a replay and an
//! automatic retry share one delivery. Pending deliveries need no walk: the [`backlog`] makes their retries
//! due.

use std::sync::LazyLock;

use rusqlite::{OptionalExtension, Row, params};
use state_rows::{ReplayRow, sql};

use crate::backlog::BacklogJobKind;
use crate::endpoints::Subscriber;
use crate::lanes::NewDelivery;
use crate::outbox::read_backlog;
use crate::query::tenants;
use crate::rows::{Columns, PLACEHOLDERS, bound};
use crate::writer::{Work, WriteTransaction};
use crate::{backlog, endpoints, events, lanes, rows};
use domain::delivery::{AttemptTrigger, Backlog, DeliveryState, ReplayOutcome, ReplaySelection};
use domain::event::EventKind;
use domain::id::{DeliveryId, EventId, ReplayId, UploadId, in_order};
use domain::lane::{self, ReplayAction};
use domain::log::EventPosition;
use domain::principal::{TenantId, TenantScope};
use domain::replay::{ReplayJob, ReplayState};
use domain::time::Timestamp;

/// Sends one delivery again.
pub(super) struct ReplayDelivery {
    pub(super) scope: TenantScope,
    pub(super) delivery: DeliveryId,
    pub(super) force: bool,
    pub(super) now: Timestamp,
}

impl Work for ReplayDelivery {
    const OPERATION: &'static str = "send a delivery again";
    type Output = ReplayOutcome;

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<ReplayOutcome> {
        let mut statement = tx.connection.prepare_cached(
            "SELECT tenant, endpoint, state, generation FROM deliveries WHERE id = ?1 AND tenant BETWEEN ?2 AND ?3",
        )?;
        let read = |row: &Row<'_>| {
            let mut columns = Columns::of(row);
            Ok((columns.next::<TenantId>()?, columns.next()?, columns.next()?, columns.next::<i64>()?))
        };
        let (least, most) = tenants(self.scope);
        let found = statement.query_one(params![self.delivery.as_bytes(), least, most], read).optional()?;
        drop(statement);
        let Some((tenant, endpoint, state, generation)) = found else { return Ok(ReplayOutcome::NoDelivery) };
        let subscribers = tx.subscribers()?;
        let Some(subscriber) = subscribers.iter().find(|one| one.id == endpoint && one.tenant == tenant) else {
            return Ok(ReplayOutcome::NoEndpoint);
        };
        let is_being_cancelled = subscriber.is_cancelling(generation);
        if let Err(answer) = subscriber.availability().check_replay(state, self.force, is_being_cancelled) {
            return Ok(answer);
        }
        lanes::rejoin(tx, self.delivery, subscriber, self.now)?;
        Ok(ReplayOutcome::Queued)
    }
}

static COLUMNS: LazyLock<String> = LazyLock::new(sql::columns::<ReplayRow>);

static JOB: LazyLock<String> = LazyLock::new(|| format!("SELECT {} FROM replay_jobs WHERE id = ?1", *COLUMNS));

/// The running jobs and the latest hundred. Each was requested by an operator, so they are few.
pub(super) static JOBS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {} FROM replay_jobs
         WHERE tenant BETWEEN ?1 AND ?2 AND (state = 'running' OR id IN (
             SELECT id FROM replay_jobs WHERE tenant BETWEEN ?1 AND ?2 ORDER BY id DESC LIMIT 100))
         ORDER BY id DESC",
        *COLUMNS
    )
});

static INSERT: LazyLock<String> = LazyLock::new(|| sql::insert::<ReplayRow>(PLACEHOLDERS));

static UPDATE: LazyLock<String> = LazyLock::new(|| sql::update::<ReplayRow>(PLACEHOLDERS, ""));

pub(super) fn job(row: &Row<'_>) -> rusqlite::Result<ReplayJob> {
    rows::read::<ReplayRow>(row).map(ReplayJob::from)
}

pub(super) struct BeginReplay(pub(super) ReplayJob);

impl Work for BeginReplay {
    const OPERATION: &'static str = "record a replay";
    type Output = ReplayJob;

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<ReplayJob> {
        let cursor = position_before(tx, self.0.from.minus(ReplayJob::DISORDER))?.max(self.0.cursor);
        let mut job = ReplayJob { cursor, ..self.0.clone() };
        if job.what == ReplaySelection::Pending {
            let own = TenantScope::One(job.tenant);
            let Backlog { waiting, ready, paused, .. } =
                read_backlog(&tx.connection, own, Some(&job.endpoint), Backlog::MOST)?;
            job.queued = waiting + ready + paused;
            (job.state, job.finished_at) = (ReplayState::Done, Some(job.created_at));
            if endpoints::is_there(tx, own, &job.endpoint)? {
                backlog::begin(tx, &job.endpoint, BacklogJobKind::Hasten, job.created_at)?;
            }
        }
        tx.execute(&INSERT, bound(&ReplayRow::cells(&job)))?;
        Ok(job)
    }
}

/// Returns the last log position that is at or after every event older than `then`.
fn position_before(tx: &WriteTransaction, then: Timestamp) -> rusqlite::Result<EventPosition> {
    let newest: i64 = tx.connection.prepare_cached(events::NEWEST)?.query_one([], |row| row.get(0))?;
    let mut statement = tx
        .connection
        .prepare_cached("SELECT position, occurred_at_ms FROM events WHERE position >= ?1 ORDER BY position LIMIT 1")?;
    let (mut first, mut end) = (1, newest.saturating_add(1));
    while first < end {
        let middle = first + (end - first) / 2;
        let read = |row: &Row<'_>| {
            let mut columns = Columns::of(row);
            Ok((columns.next::<i64>()?, columns.next::<Timestamp>()?))
        };
        match statement.query_one([middle], read).optional()? {
            Some((position, at)) if at < then => first = position.saturating_add(1),
            Some(_) | None => end = middle,
        }
    }
    Ok(EventPosition(first - 1))
}

pub(super) struct CancelReplay {
    pub(super) scope: TenantScope,
    pub(super) id: ReplayId,
    pub(super) now: Timestamp,
}

impl Work for CancelReplay {
    const OPERATION: &'static str = "stop a replay";
    type Output = bool;

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<bool> {
        let (least, most) = tenants(self.scope);
        let stopped = tx.execute(
            "UPDATE replay_jobs SET state = 'cancelled', finished_at_ms = ?2
             WHERE id = ?1 AND state = 'running' AND tenant BETWEEN ?3 AND ?4",
            params![self.id.as_bytes(), self.now.unix_ms(), least, most],
        )?;
        Ok(stopped > 0)
    }
}

pub(super) struct AdvanceReplay {
    pub(super) id: ReplayId,
    pub(super) limit: u32,
    pub(super) now: Timestamp,
}

impl Work for AdvanceReplay {
    const OPERATION: &'static str = "continue a replay";
    type Output = Option<ReplayJob>;

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<Option<ReplayJob>> {
        let found = tx.connection.prepare_cached(&JOB)?.query_one([self.id.as_bytes()], job).optional()?;
        let Some(mut job) = found else { return Ok(None) };
        if job.state != ReplayState::Running {
            return Ok(Some(job));
        }
        let subscribers = tx.subscribers()?;
        let subscriber = subscribers.iter().find(|one| one.id == job.endpoint && one.tenant == job.tenant);
        // A replay may include deliveries that are being cancelled, so it waits until that is done.
        if subscriber.is_some_and(|one| one.cancelled_before.is_some()) {
            return Ok(Some(job));
        }
        let piece = piece_of_log(tx, job.cursor, ReplayJob::MOST_LOOKED_AT)?;
        let end = job.before.plus(ReplayJob::DISORDER);
        let mut was_last = piece.len() < usize::try_from(ReplayJob::MOST_LOOKED_AT).unwrap_or(usize::MAX)
            || piece.iter().all(|event| event.occurred_at >= end);
        let mut looked_up = 0;
        for event in &piece {
            let in_range =
                event.tenant == job.tenant && event.occurred_at >= job.from && event.occurred_at < job.before;
            // Old progress events are obsolete.
            if let Some(subscriber) = subscriber.filter(|_| in_range && event.kind != EventKind::Progress) {
                if looked_up == self.limit {
                    was_last = false;
                    break;
                }
                looked_up += 1;
                job.queued += u64::from(queue(tx, subscriber, event, job.what, self.now)?);
            }
            job.cursor = event.position;
        }
        if was_last || subscriber.is_none() {
            job.state = if subscriber.is_some() { ReplayState::Done } else { ReplayState::Cancelled };
            job.finished_at = Some(self.now);
        }
        tx.execute(&UPDATE, bound(&ReplayRow::cells(&job)))?;
        Ok(Some(job))
    }
}

/// The data of an event that a job needs.
struct PastEvent {
    position: EventPosition,
    id: EventId,
    tenant: TenantId,
    upload: UploadId,
    sequence: u64,
    kind: EventKind,
    occurred_at: Timestamp,
}

fn piece_of_log(tx: &WriteTransaction, after: EventPosition, limit: u32) -> rusqlite::Result<Vec<PastEvent>> {
    let mut statement = tx.connection.prepare_cached(
        "SELECT position, id, tenant, upload_id, sequence, kind, occurred_at_ms FROM events
         WHERE position > ?1 AND upload_id IS NOT NULL ORDER BY position LIMIT ?2",
    )?;
    let past = |row: &Row<'_>| {
        let mut columns = Columns::of(row);
        Ok(PastEvent {
            position: columns.next()?,
            id: columns.next()?,
            tenant: columns.next()?,
            upload: columns.next()?,
            sequence: columns.next()?,
            kind: columns.next()?,
            occurred_at: columns.next()?,
        })
    };
    statement.query_map(params![after.0, limit], past)?.collect()
}

/// Queues an event for an endpoint if the replay selects it. Returns true if it was queued.
fn queue(
    tx: &mut WriteTransaction,
    subscriber: &Subscriber,
    event: &PastEvent,
    what: ReplaySelection,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let found = tx
        .connection
        .prepare_cached(
            "SELECT id, state FROM deliveries WHERE upload_id = ?1 AND endpoint = ?2 AND event_position = ?3",
        )?
        .query_one(params![event.upload.as_bytes(), subscriber.id.as_str(), event.position.0], |row| {
            let mut columns = Columns::of(row);
            Ok((columns.next::<DeliveryId>()?, columns.next::<DeliveryState>()?))
        })
        .optional()?;
    match lane::replay(found.map(|(_, state)| state), what) {
        ReplayAction::Rejoin => {
            found.map(|(id, _)| lanes::rejoin(tx, id, subscriber, now)).transpose().map(|done| done.is_some())
        }
        ReplayAction::Join if wants(tx, subscriber, event)? => {
            let delivery = NewDelivery {
                id: DeliveryId::new(now, in_order(event.sequence, rand::random())),
                event_position: event.position,
                event: event.id,
                tenant: event.tenant,
                kind: event.kind,
                endpoint: subscriber,
                upload: Some(event.upload),
                sequence: event.sequence,
                trigger: AttemptTrigger::Manual,
                now,
            };
            let unfinished = lanes::unfinished(tx, subscriber, event.upload)?;
            lanes::join(tx, &delivery, unfinished)?;
            Ok(true)
        }
        ReplayAction::Join | ReplayAction::Nothing => Ok(false),
    }
}

fn wants(tx: &WriteTransaction, subscriber: &Subscriber, event: &PastEvent) -> rusqlite::Result<bool> {
    if !subscriber.terms.filter.wants(event.kind) || subscriber.terms.metadata.is_empty() {
        return Ok(subscriber.terms.filter.wants(event.kind));
    }
    let mut statement = tx.connection.prepare_cached("SELECT metadata FROM upload_origins WHERE id = ?1")?;
    let metadata = statement.query_one([event.upload.as_bytes()], |row| Columns::of(row).next()).optional()?;
    Ok(metadata.is_some_and(|metadata| subscriber.terms.wants_upload(&metadata)))
}
