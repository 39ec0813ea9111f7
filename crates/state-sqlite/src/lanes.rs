//! The order of deliveries. A lane is everything one endpoint is to hear about one upload.
//!
//! In a lane, first attempts go out in the order of the events, one at a time (webhooks.md G6): what comes later
//! waits until the first attempt of everything before it is over. A delivery that has had its first attempt and backs
//! off holds nobody back. An endpoint can ask for more order than that, or for none (webhooks.md G7). Progress that was
//! overtaken is dropped (webhooks.md C3, C4), and whoever changes a lane lets it go on afterwards, so nothing waits for
//! what will never come. What becomes ready is due with its own age, not as of then: it does not pass through the whole backlog
//! once more. Whether its endpoint is stopped changes nothing in a lane.

use rusqlite::params;

use crate::endpoints::Subscriber;
use crate::writer::Desk;
use domain::delivery::Trigger;
use domain::endpoint::Ordering;
use domain::id::{DeliveryId, EventId, UploadId};
use domain::principal::TenantId;
use domain::time::Timestamp;

/// Inserts a delivery in a state; says whether it is ready.
macro_rules! insert_as {
    ($state:literal) => {
        concat!(
            "INSERT INTO deliveries (id, event_position, event_id, kind, endpoint, upload_id, sequence, trigger, attempts,
                 attempts_before, begun_at_ms, next_at_ms, created_at_ms, generation, tenant, state)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?9, 0, 0, ?8, ?8, ?8, ?10, ?11, ",
            $state,
            ") RETURNING state = 'ready'"
        )
    };
}

/// What a new delivery is made of.
#[derive(Debug)]
pub(super) struct NewDelivery<'a> {
    pub(super) id: DeliveryId,
    pub(super) event_position: i64,
    pub(super) event: EventId,
    pub(super) tenant: TenantId,
    pub(super) kind: &'static str,
    pub(super) endpoint: &'a Subscriber,
    /// `None` for news that is not of an upload, which is in no lane.
    pub(super) upload: Option<UploadId>,
    pub(super) sequence: i64,
    pub(super) trigger: Trigger,
    pub(super) now: Timestamp,
}

/// Adds a delivery to the end of its lane: waiting its turn, or ready now.
pub(super) fn join(desk: &mut Desk, new: &NewDelivery<'_>) -> rusqlite::Result<()> {
    let mut statement = desk.connection.prepare_cached(match new.endpoint.terms.ordering {
        Ordering::None => insert_as!("'ready'"),
        Ordering::PerUpload => insert_as!(
            "CASE WHEN EXISTS (SELECT 1 FROM deliveries
                 WHERE upload_id = ?6 AND endpoint = ?5 AND finished_at_ms IS NULL AND attempts = 0
                     AND state IN ('waiting', 'ready', 'leased')) THEN 'waiting' ELSE 'ready' END"
        ),
        Ordering::Strict => insert_as!(
            "CASE WHEN EXISTS (SELECT 1 FROM deliveries
                 WHERE upload_id = ?6 AND endpoint = ?5 AND finished_at_ms IS NULL) THEN 'waiting' ELSE 'ready' END"
        ),
    })?;
    let values = params![
        new.id.as_bytes(),
        new.event_position,
        new.event.as_bytes(),
        new.kind,
        new.endpoint.id.as_str(),
        new.upload.as_ref().map(UploadId::as_bytes),
        new.sequence,
        new.now.unix_ms(),
        new.trigger.name(),
        new.endpoint.generation,
        new.tenant.number(),
    ];
    let is_ready: bool = statement.query_one(values, |row| row.get(0))?;
    drop(statement);
    desk.made_ready |= is_ready && new.endpoint.is_enabled;
    Ok(())
}

/// Makes a delivery of before due now, or as soon as its lane lets it, with the whole schedule before it again.
pub(super) fn rejoin(
    desk: &mut Desk,
    delivery: DeliveryId,
    endpoint: &Subscriber,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let mut statement = desk.connection.prepare_cached(
        "UPDATE deliveries SET state = CASE
                 WHEN upload_id IS NOT NULL AND (?4 OR ?5 AND attempts = 0) THEN 'waiting'
                 ELSE 'ready' END,
             trigger = 'manual', attempts_before = attempts, begun_at_ms = ?3, next_at_ms = ?3, finished_at_ms = NULL,
             generation = ?2
         WHERE id = ?1
         RETURNING upload_id",
    )?;
    let (is_strict, is_per_upload) = match endpoint.terms.ordering {
        Ordering::Strict => (true, false),
        Ordering::PerUpload => (false, true),
        Ordering::None => (false, false),
    };
    let values = params![delivery.as_bytes(), endpoint.generation, now.unix_ms(), is_strict, is_per_upload];
    let upload: Option<[u8; 16]> = statement.query_one(values, |row| row.get(0))?;
    drop(statement);
    desk.made_ready |= endpoint.is_enabled;
    match upload {
        Some(upload) => go_on(desk, endpoint.id.as_str(), UploadId::from_bytes(upload), now),
        None => Ok(()),
    }
}

/// Drops the progress of an upload that nobody is sending right now, at all endpoints, since there is later news.
pub(super) fn supersede_progress(desk: &mut Desk, upload: UploadId, now: Timestamp) -> rusqlite::Result<()> {
    let mut statement = desk.connection.prepare_cached(
        "UPDATE deliveries SET state = 'superseded', finished_at_ms = ?2
         WHERE upload_id = ?1 AND kind = 'upload.progress' AND finished_at_ms IS NULL AND state <> 'leased'
         RETURNING endpoint",
    )?;
    let overtaken = statement.query_map(params![upload.as_bytes(), now.unix_ms()], |row| row.get(0))?;
    let lanes: Vec<String> = overtaken.collect::<rusqlite::Result<_>>()?;
    drop(statement);
    desk.superseded += u64::try_from(lanes.len()).unwrap_or_default();
    for endpoint in lanes {
        go_on(desk, &endpoint, upload, now)?;
    }
    Ok(())
}

/// Makes the first waiting delivery of a lane ready, if nothing before it is still to be waited for.
pub(super) fn go_on(desk: &mut Desk, endpoint: &str, upload: UploadId, now: Timestamp) -> rusqlite::Result<()> {
    let ordering = desk.ordering_of(endpoint)?;
    let next = desk.execute(
        match ordering {
            Ordering::PerUpload | Ordering::None => {
                "UPDATE deliveries SET state = 'ready', next_at_ms = min(next_at_ms, ?3)
                 WHERE id = (SELECT id FROM deliveries
                         WHERE upload_id = ?1 AND endpoint = ?2 AND state = 'waiting' ORDER BY sequence LIMIT 1)
                     AND NOT EXISTS (SELECT 1 FROM deliveries
                         WHERE upload_id = ?1 AND endpoint = ?2 AND finished_at_ms IS NULL AND attempts = 0
                             AND state IN ('ready', 'leased'))"
            }
            Ordering::Strict => {
                "UPDATE deliveries SET state = 'ready', next_at_ms = min(next_at_ms, ?3)
                 WHERE id = (SELECT id FROM deliveries
                         WHERE upload_id = ?1 AND endpoint = ?2 AND state = 'waiting' ORDER BY sequence LIMIT 1)
                     AND NOT EXISTS (SELECT 1 FROM deliveries
                         WHERE upload_id = ?1 AND endpoint = ?2 AND finished_at_ms IS NULL
                             AND state IN ('ready', 'leased'))"
            }
        },
        params![upload.as_bytes(), endpoint, now.unix_ms()],
    )?;
    desk.made_ready |= next > 0;
    Ok(())
}
