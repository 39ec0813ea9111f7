//! Attempts: recorded as they end, together with what becomes of their deliveries.

use rusqlite::OptionalExtension;
use rusqlite::Row;
use rusqlite::params;

use crate::domain::delivery::Attempt;
use crate::domain::delivery::AttemptOutcome;
use crate::domain::delivery::DeliveryClass;
use crate::domain::delivery::DeliveryState;
use crate::domain::id::UploadId;
use crate::domain::time::Timestamp;
use crate::state::Settlement;
use crate::state::Verdict;
use crate::state::sqlite::claims::class_of;
use crate::state::sqlite::lanes;
use crate::state::sqlite::rows::Columns;
use crate::state::sqlite::rows::integer;
use crate::state::sqlite::writer::Desk;
use crate::state::sqlite::writer::Work;

/// What the note of an attempt says, or begins with, when its lease had gone to another.
const LATE: &str = "late";

pub(super) struct Settle {
    pub(super) settlements: Vec<Settlement>,
    pub(super) now: Timestamp,
}

impl Work for Settle {
    const OPERATION: &'static str = "record delivery attempts";
    type Output = ();

    fn run(&self, desk: &mut Desk) -> rusqlite::Result<()> {
        for settlement in &self.settlements {
            settle(desk, settlement, self.now)?;
        }
        Ok(())
    }
}

fn settle(desk: &mut Desk, settlement: &Settlement, now: Timestamp) -> rusqlite::Result<()> {
    let Some(held) = held_delivery(desk, settlement)? else {
        return record(desk, settlement, Some(late_note(&settlement.attempt)));
    };
    record(desk, settlement, settlement.attempt.note.clone())?;
    let (state, next_at) = held.next(settlement.verdict);
    let finished_at = matches!(state, DeliveryState::Succeeded | DeliveryState::Dead | DeliveryState::Superseded);
    let counts = settlement.attempt.outcome != AttemptOutcome::Aborted;
    desk.execute(
        "UPDATE deliveries SET state = ?2, attempts = attempts + ?3, next_at_ms = coalesce(?4, next_at_ms),
             finished_at_ms = ?5, lease = NULL, lease_until_ms = NULL
         WHERE id = ?1",
        params![
            settlement.delivery.as_bytes(),
            state.name(),
            counts,
            next_at.map(Timestamp::unix_ms),
            finished_at.then_some(now.unix_ms())
        ],
    )?;
    desk.made_ready |= state == DeliveryState::Ready;
    if held.endpoint_is_paused { Ok(()) } else { lanes::go_on(desk, &held.endpoint, held.upload, now) }
}

/// A delivery whose lease the settlement still holds.
struct Held {
    endpoint: String,
    endpoint_is_paused: bool,
    upload: UploadId,
    class: DeliveryClass,
    /// Whether the upload has told something later.
    overtaken: bool,
}

impl Held {
    /// Where the delivery goes, and when it is due there. Progress that failed is never a dead letter (webhooks.md C5),
    /// and is not sent again once there is later news (webhooks.md C4).
    fn next(&self, verdict: Verdict) -> (DeliveryState, Option<Timestamp>) {
        match (verdict, self.class) {
            (Verdict::Succeeded, _) => (DeliveryState::Succeeded, None),
            (Verdict::Dead, DeliveryClass::Progress) => (DeliveryState::Superseded, None),
            (Verdict::RetryAt(_) | Verdict::Paused, DeliveryClass::Progress) if self.overtaken => {
                (DeliveryState::Superseded, None)
            }
            (Verdict::Dead, DeliveryClass::Normal) => (DeliveryState::Dead, None),
            (Verdict::RetryAt(at), _) if self.endpoint_is_paused => (DeliveryState::Paused, Some(at)),
            (Verdict::RetryAt(at), _) => (DeliveryState::Ready, Some(at)),
            (Verdict::Paused, _) => (DeliveryState::Paused, None),
        }
    }
}

fn held_delivery(desk: &mut Desk, settlement: &Settlement) -> rusqlite::Result<Option<Held>> {
    let mut statement = desk.connection.prepare_cached(
        "SELECT endpoint,
             EXISTS (SELECT 1 FROM endpoints
                 WHERE endpoints.id = deliveries.endpoint AND paused_at_ms IS NOT NULL),
             upload_id, kind,
             EXISTS (SELECT 1 FROM events
                 WHERE events.upload_id = deliveries.upload_id AND events.sequence > deliveries.sequence)
         FROM deliveries WHERE id = ?1 AND lease = ?2",
    )?;
    statement.query_one(params![settlement.delivery.as_bytes(), settlement.lease], held).optional()
}

fn held(row: &Row<'_>) -> rusqlite::Result<Held> {
    let mut columns = Columns::of(row);
    Ok(Held {
        endpoint: columns.next()?,
        endpoint_is_paused: columns.next()?,
        upload: UploadId::from_bytes(columns.next()?),
        class: class_of(columns.kind()?),
        overtaken: columns.next()?,
    })
}

fn late_note(attempt: &Attempt) -> String {
    match &attempt.note {
        Some(note) => format!("{LATE}; {note}"),
        None => LATE.to_owned(),
    }
}

/// Recording the same attempt again changes nothing.
fn record(desk: &mut Desk, settlement: &Settlement, note: Option<String>) -> rusqlite::Result<()> {
    let attempt = &settlement.attempt;
    let recorded = desk.execute(
        "INSERT INTO attempts (delivery_id, number, started_at_ms, took_us, status, error, response_body, note)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
        params![
            settlement.delivery.as_bytes(),
            attempt.number,
            attempt.started_at.unix_ms(),
            integer(u64::try_from(attempt.took.as_micros()).unwrap_or(u64::MAX)),
            attempt.outcome.status(),
            attempt.outcome.error_class(),
            attempt.response_body,
            note
        ],
    );
    recorded.map(drop)
}
