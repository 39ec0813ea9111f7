//! Stored lanes. [`domain::lane`] defines the rules; this module loads a view of a lane, calls the rule, and
//! writes the difference.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use rusqlite::{OptionalExtension, Row, params};
use state_rows::{DeliveryRow, sql};

use crate::endpoints::Subscriber;
use crate::rows::{Columns, PLACEHOLDERS, bound};
use crate::writer::WriteTransaction;
use domain::delivery::{AttemptTrigger, DeliveryClass, DeliveryState};
use domain::endpoint::{EndpointId, Ordering};
use domain::event::EventKind;
use domain::id::{DeliveryId, EventId, UploadId};
use domain::lane::{self, LaneLoad};
use domain::log::EventPosition;
use domain::principal::TenantId;
use domain::time::Timestamp;

static INSERT: LazyLock<String> = LazyLock::new(|| sql::insert::<DeliveryRow>(PLACEHOLDERS));

/// The values of a new delivery.
#[derive(Debug)]
pub(super) struct NewDelivery<'a> {
    pub(super) id: DeliveryId,
    pub(super) event_position: EventPosition,
    pub(super) event: EventId,
    pub(super) tenant: TenantId,
    pub(super) kind: EventKind,
    pub(super) endpoint: &'a Subscriber,
    /// `None` for an event that is not about an upload, which belongs to no lane.
    pub(super) upload: Option<UploadId>,
    pub(super) sequence: u64,
    pub(super) trigger: AttemptTrigger,
    pub(super) now: Timestamp,
}

/// Adds a delivery to the end of a lane with these unfinished deliveries: it is waiting, or ready now.
pub(super) fn join(tx: &mut WriteTransaction, new: &NewDelivery<'_>, unfinished: LaneLoad) -> rusqlite::Result<()> {
    let state = lane::join(new.endpoint.terms.ordering, unfinished);
    let row = DeliveryRow {
        id: new.id,
        tenant: new.tenant,
        event_position: new.event_position,
        event_id: new.event,
        kind: new.kind,
        endpoint: new.endpoint.id.clone(),
        upload_id: new.upload,
        sequence: new.sequence,
        state,
        trigger: new.trigger,
        attempts: 0,
        attempts_before: 0,
        begun_at_ms: new.now,
        next_at_ms: new.now,
        lease: None,
        lease_until_ms: None,
        claimed_by: None,
        created_at_ms: new.now,
        finished_at_ms: None,
        generation: new.endpoint.generation,
    };
    tx.execute(&INSERT, bound(&DeliveryRow::cells(&row)))?;
    tx.made_ready |= state == DeliveryState::Ready && new.endpoint.is_enabled;
    Ok(())
}

/// Computes the load of some deliveries of a lane. Each search ends with its first match.
macro_rules! load {
    ($which:literal) => {
        concat!(
            "CASE WHEN EXISTS (SELECT 1 FROM deliveries
                 WHERE upload_id = ?1 AND endpoint = ?2 AND finished_at_ms IS NULL AND attempts = 0",
            $which,
            ") THEN 2 WHEN EXISTS (SELECT 1 FROM deliveries
                 WHERE upload_id = ?1 AND endpoint = ?2 AND finished_at_ms IS NULL",
            $which,
            ") THEN 1 ELSE 0 END"
        )
    };
}

const UNFINISHED: &str = concat!("SELECT ", load!(""));

const FIRST_WAITING: &str = concat!(
    "SELECT id, next_at_ms, ",
    load!(" AND state IN ('ready', 'leased')"),
    " FROM deliveries WHERE upload_id = ?1 AND endpoint = ?2 AND state = 'waiting' ORDER BY sequence LIMIT 1"
);

const GO: &str = "UPDATE deliveries SET state = 'ready', next_at_ms = ?2 WHERE id = ?1";

fn read_load(columns: &mut Columns<'_>) -> rusqlite::Result<LaneLoad> {
    Ok(match columns.next::<u8>()? {
        0 => LaneLoad::Empty,
        1 => LaneLoad::Retries,
        _ => LaneLoad::FirstAttempts,
    })
}

/// Reads the load of a lane's unfinished deliveries, if the endpoint's ordering depends on it.
pub(super) fn unfinished(tx: &WriteTransaction, endpoint: &Subscriber, upload: UploadId) -> rusqlite::Result<LaneLoad> {
    if endpoint.terms.ordering == Ordering::None {
        return Ok(LaneLoad::Empty);
    }
    let mut statement = tx.connection.prepare_cached(UNFINISHED)?;
    let values = params![upload.as_bytes(), endpoint.id.as_str()];
    statement.query_one(values, |row| read_load(&mut Columns::of(row)))
}

/// Makes an existing delivery due now, or as soon as its lane releases it. Its full retry schedule starts
/// over.
pub(super) fn rejoin(
    tx: &mut WriteTransaction,
    delivery: DeliveryId,
    endpoint: &Subscriber,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let read = |row: &Row<'_>| {
        let mut columns = Columns::of(row);
        Ok((columns.next::<Option<UploadId>>()?, columns.next::<u32>()?))
    };
    let (upload, attempts) = tx
        .connection
        .prepare_cached("SELECT upload_id, attempts FROM deliveries WHERE id = ?1")?
        .query_one([delivery.as_bytes()], read)?;
    let state = lane::rejoin(endpoint.terms.ordering, upload.is_some(), attempts);
    tx.execute(
        "UPDATE deliveries SET state = ?4, trigger = ?5, attempts_before = attempts, begun_at_ms = ?3, next_at_ms = ?3,
             finished_at_ms = NULL, generation = ?2
         WHERE id = ?1",
        params![delivery.as_bytes(), endpoint.generation, now.unix_ms(), state.name(), AttemptTrigger::Manual.name()],
    )?;
    tx.made_ready |= endpoint.is_enabled;
    match upload {
        Some(upload) => release_next(tx, endpoint.id.as_str(), upload, now),
        None => Ok(()),
    }
}

/// Unfinished progress deliveries of an upload. The kind is literal text and not a bound value; otherwise the
/// partial index would not apply.
static PROGRESS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT id, endpoint, state FROM deliveries
         WHERE upload_id = ?1 AND kind = '{}' AND finished_at_ms IS NULL",
        EventKind::Progress.name()
    )
});

/// Drops the pending progress deliveries of an upload at all endpoints because of a later event. Those being
/// sent are kept. Returns true if there were any.
pub(super) fn supersede_progress(
    tx: &mut WriteTransaction,
    upload: UploadId,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let read = |row: &Row<'_>| {
        let mut columns = Columns::of(row);
        Ok((columns.next()?, columns.next()?, columns.next()?))
    };
    let mut statement = tx.connection.prepare_cached(&PROGRESS)?;
    let found = statement.query_map([upload.as_bytes()], read)?;
    let found: Vec<(DeliveryId, EndpointId, DeliveryState)> = found.collect::<rusqlite::Result<_>>()?;
    drop(statement);
    let mut lanes = BTreeSet::new();
    for (delivery, endpoint, state) in found {
        if lane::is_superseded(DeliveryClass::Progress, state) {
            end(tx, delivery, DeliveryState::Superseded, now)?;
            lanes.insert(endpoint);
        }
    }
    for endpoint in &lanes {
        release_next(tx, endpoint.as_str(), upload, now)?;
    }
    Ok(!lanes.is_empty())
}

/// Ends a delivery that is not being sent. The caller then releases the next one of its lane.
pub(super) fn end(
    tx: &mut WriteTransaction,
    delivery: DeliveryId,
    state: DeliveryState,
    now: Timestamp,
) -> rusqlite::Result<()> {
    tx.execute(
        "UPDATE deliveries SET state = ?2, finished_at_ms = ?3 WHERE id = ?1",
        params![delivery.as_bytes(), state.name(), now.unix_ms()],
    )?;
    tx.superseded += u64::from(state == DeliveryState::Superseded);
    Ok(())
}

/// Makes the first waiting delivery of a lane ready, unless an earlier one still blocks it.
pub(super) fn release_next(
    tx: &mut WriteTransaction,
    endpoint: &str,
    upload: UploadId,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let read = |row: &Row<'_>| {
        let mut columns = Columns::of(row);
        Ok((columns.next::<DeliveryId>()?, columns.next::<Timestamp>()?, read_load(&mut columns)?))
    };
    let first = tx
        .connection
        .prepare_cached(FIRST_WAITING)?
        .query_one(params![upload.as_bytes(), endpoint], read)
        .optional()?;
    let Some((delivery, next_at, under_way)) = first else { return Ok(()) };
    if lane::may_release_next(tx.ordering_of(endpoint)?, under_way) {
        tx.execute(GO, params![delivery.as_bytes(), lane::due_when_released(next_at, now).unix_ms()])?;
        tx.made_ready = true;
    }
    Ok(())
}
