//! Claims: deliveries leased to whoever sends them.
//!
//! Each endpoint is asked for its own due rows, so the backlog of one that is down never stands in the way of another.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::domain::delivery::DeliveryClass;
use crate::domain::delivery::EndpointId;
use crate::domain::event::EventKind;
use crate::domain::id::DeliveryId;
use crate::domain::id::EventId;
use crate::domain::id::UploadId;
use crate::domain::time::Timestamp;
use crate::state::Claim;
use crate::state::sqlite::rows;
use crate::state::sqlite::writer::Desk;
use crate::state::sqlite::writer::Work;

pub(super) struct ClaimDue {
    pub(super) slots: Vec<(EndpointId, u32)>,
    pub(super) now: Timestamp,
    pub(super) lease: Duration,
}

#[async_trait]
impl Work for ClaimDue {
    const OPERATION: &'static str = "claim due deliveries";
    type Output = Vec<Claim>;

    async fn run(self, desk: &mut Desk) -> sqlx::Result<Vec<Claim>> {
        let mut claims = Vec::new();
        for (endpoint, slots) in self.slots.iter().filter(|(_, slots)| *slots > 0) {
            claims.extend(claim(desk, endpoint, *slots, self.now, self.now.plus(self.lease)).await?);
        }
        Ok(claims)
    }
}

async fn claim(
    desk: &mut Desk,
    endpoint: &EndpointId,
    slots: u32,
    now: Timestamp,
    until: Timestamp,
) -> sqlx::Result<Vec<Claim>> {
    let claimed = sqlx::query(
        "UPDATE deliveries SET state = 'leased', lease = randomblob(16), lease_until_ms = ?4
         WHERE id IN (SELECT id FROM (
             SELECT * FROM (SELECT id, next_at_ms, sequence FROM deliveries
                 WHERE endpoint = ?1 AND state = 'ready' AND next_at_ms <= ?2 ORDER BY next_at_ms, sequence LIMIT ?3)
             UNION ALL
             SELECT * FROM (SELECT id, next_at_ms, sequence FROM deliveries
                 WHERE endpoint = ?1 AND state = 'leased' AND lease_until_ms <= ?2 ORDER BY lease_until_ms LIMIT ?3)
             ORDER BY next_at_ms, sequence LIMIT ?3))
         AND NOT EXISTS (SELECT 1 FROM endpoints WHERE id = ?1 AND paused_at_ms IS NOT NULL)
         RETURNING id, lease, endpoint, event_id, kind, upload_id, sequence, attempts, next_at_ms,
             (SELECT occurred_at_ms FROM events WHERE position = event_position) AS occurred_at_ms,
             (SELECT body FROM events WHERE position = event_position) AS body",
    )
    .bind(endpoint.as_str().to_owned())
    .bind(now.unix_ms())
    .bind(slots)
    .bind(until.unix_ms())
    .fetch_all(&mut desk.connection)
    .await?;
    let mut claims: Vec<(i64, i64, Claim)> = claimed.iter().map(due_claim).collect::<sqlx::Result<_>>()?;
    claims.sort_by_key(|(next_at_ms, sequence, _)| (*next_at_ms, *sequence));
    Ok(claims.into_iter().map(|(_, _, claim)| claim).collect())
}

/// The claim, after what it is ordered by.
fn due_claim(row: &SqliteRow) -> sqlx::Result<(i64, i64, Claim)> {
    let kind = rows::kind(row)?;
    let claim = Claim {
        delivery: DeliveryId::from_bytes(rows::id(row, "id")?),
        lease: rows::id(row, "lease")?,
        endpoint: rows::endpoint(row)?,
        event: EventId::from_bytes(rows::id(row, "event_id")?),
        kind,
        class: class_of(kind),
        upload: UploadId::from_bytes(rows::id(row, "upload_id")?),
        occurred_at: rows::instant(row, "occurred_at_ms")?,
        attempts: row.try_get("attempts")?,
        body: rows::body(row)?,
    };
    Ok((row.try_get("next_at_ms")?, row.try_get("sequence")?, claim))
}

pub(super) fn class_of(kind: EventKind) -> DeliveryClass {
    if kind == EventKind::Progress { DeliveryClass::Progress } else { DeliveryClass::Normal }
}
