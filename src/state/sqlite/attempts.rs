//! Attempts: recorded as they end, together with what becomes of their deliveries.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

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
use crate::state::sqlite::rows;
use crate::state::sqlite::rows::integer;
use crate::state::sqlite::writer::Desk;
use crate::state::sqlite::writer::Work;

/// What the note of an attempt says, or begins with, when its lease had gone to another.
const LATE: &str = "late";

pub(super) struct Settle {
    pub(super) settlements: Vec<Settlement>,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Work for Settle {
    const OPERATION: &'static str = "record delivery attempts";
    type Output = ();

    async fn run(self, desk: &mut Desk) -> sqlx::Result<()> {
        for settlement in &self.settlements {
            settle(desk, settlement, self.now).await?;
        }
        Ok(())
    }
}

async fn settle(desk: &mut Desk, settlement: &Settlement, now: Timestamp) -> sqlx::Result<()> {
    let Some(held) = held_delivery(desk, settlement).await? else {
        return record(desk, settlement, Some(late_note(&settlement.attempt))).await;
    };
    record(desk, settlement, settlement.attempt.note.clone()).await?;
    let (state, next_at) = held.next(settlement.verdict);
    let finished_at = matches!(state, DeliveryState::Succeeded | DeliveryState::Dead | DeliveryState::Superseded);
    let counts = settlement.attempt.outcome != AttemptOutcome::Aborted;
    sqlx::query(
        "UPDATE deliveries SET state = ?2, attempts = attempts + ?3, next_at_ms = coalesce(?4, next_at_ms),
             finished_at_ms = ?5, lease = NULL, lease_until_ms = NULL
         WHERE id = ?1",
    )
    .bind(settlement.delivery.as_bytes().to_vec())
    .bind(state.name())
    .bind(i64::from(counts))
    .bind(next_at.map(Timestamp::unix_ms))
    .bind(finished_at.then_some(now.unix_ms()))
    .execute(&mut desk.connection)
    .await?;
    desk.made_ready |= state == DeliveryState::Ready;
    if held.endpoint_is_paused { Ok(()) } else { lanes::go_on(desk, &held.endpoint, held.upload, now).await }
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

async fn held_delivery(desk: &mut Desk, settlement: &Settlement) -> sqlx::Result<Option<Held>> {
    let found = sqlx::query(
        "SELECT endpoint, upload_id, kind,
             EXISTS (SELECT 1 FROM endpoints
                 WHERE endpoints.id = deliveries.endpoint AND paused_at_ms IS NOT NULL) AS endpoint_is_paused,
             EXISTS (SELECT 1 FROM events
                 WHERE events.upload_id = deliveries.upload_id AND events.sequence > deliveries.sequence) AS overtaken
         FROM deliveries WHERE id = ?1 AND lease = ?2",
    )
    .bind(settlement.delivery.as_bytes().to_vec())
    .bind(settlement.lease.to_vec())
    .fetch_optional(&mut desk.connection)
    .await?;
    found.as_ref().map(held).transpose()
}

fn held(row: &SqliteRow) -> sqlx::Result<Held> {
    Ok(Held {
        endpoint: row.try_get("endpoint")?,
        endpoint_is_paused: row.try_get("endpoint_is_paused")?,
        upload: UploadId::from_bytes(rows::id(row, "upload_id")?),
        class: class_of(rows::kind(row)?),
        overtaken: row.try_get("overtaken")?,
    })
}

fn late_note(attempt: &Attempt) -> String {
    match &attempt.note {
        Some(note) => format!("{LATE}; {note}"),
        None => LATE.to_owned(),
    }
}

/// Recording the same attempt again changes nothing.
async fn record(desk: &mut Desk, settlement: &Settlement, note: Option<String>) -> sqlx::Result<()> {
    let attempt = &settlement.attempt;
    sqlx::query(
        "INSERT INTO attempts (delivery_id, number, started_at_ms, took_us, status, error, response_body, note)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
    )
    .bind(settlement.delivery.as_bytes().to_vec())
    .bind(attempt.number)
    .bind(attempt.started_at.unix_ms())
    .bind(integer(u64::try_from(attempt.took.as_micros()).unwrap_or(u64::MAX)))
    .bind(attempt.outcome.status())
    .bind(attempt.outcome.error_class())
    .bind(attempt.response_body.clone())
    .bind(note)
    .execute(&mut desk.connection)
    .await
    .map(drop)
}
