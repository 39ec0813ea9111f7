//! Claims: deliveries leased to whoever sends them.
//!
//! Each endpoint is asked for its own due rows, so the backlog of one that is down never stands in the way of another.

use std::time::Duration;

use rusqlite::Row;
use rusqlite::params;

use crate::domain::delivery::DeliveryClass;
use crate::domain::delivery::EndpointId;
use crate::domain::event::EventKind;
use crate::domain::id::DeliveryId;
use crate::domain::id::EventId;
use crate::domain::id::UploadId;
use crate::domain::time::Timestamp;
use crate::state::Claim;
use crate::state::sqlite::rows::Columns;
use crate::state::sqlite::writer::Desk;
use crate::state::sqlite::writer::Work;

pub(super) struct ClaimDue {
    pub(super) slots: Vec<(EndpointId, u32)>,
    pub(super) now: Timestamp,
    pub(super) lease: Duration,
}

impl Work for ClaimDue {
    const OPERATION: &'static str = "claim due deliveries";
    type Output = Vec<Claim>;

    fn run(&self, desk: &mut Desk) -> rusqlite::Result<Vec<Claim>> {
        let mut claims = Vec::new();
        for (endpoint, slots) in self.slots.iter().filter(|(_, slots)| *slots > 0) {
            claims.extend(claim(desk, endpoint, *slots, self.now, self.now.plus(self.lease))?);
        }
        Ok(claims)
    }
}

fn claim(
    desk: &mut Desk,
    endpoint: &EndpointId,
    slots: u32,
    now: Timestamp,
    until: Timestamp,
) -> rusqlite::Result<Vec<Claim>> {
    let mut statement = desk.connection.prepare_cached(
        "UPDATE deliveries SET state = 'leased', lease = randomblob(16), lease_until_ms = ?4
         WHERE id IN (SELECT id FROM (
             SELECT * FROM (SELECT id, next_at_ms, sequence FROM deliveries
                 WHERE endpoint = ?1 AND state = 'ready' AND next_at_ms <= ?2 ORDER BY next_at_ms, sequence LIMIT ?3)
             UNION ALL
             SELECT * FROM (SELECT id, next_at_ms, sequence FROM deliveries
                 WHERE endpoint = ?1 AND state = 'leased' AND lease_until_ms <= ?2 ORDER BY lease_until_ms LIMIT ?3)
             ORDER BY next_at_ms, sequence LIMIT ?3))
         AND NOT EXISTS (SELECT 1 FROM endpoints WHERE id = ?1 AND paused_at_ms IS NOT NULL)
         RETURNING id, lease, endpoint, event_id, kind, upload_id,
             (SELECT occurred_at_ms FROM events WHERE position = event_position), attempts,
             (SELECT body FROM events WHERE position = event_position), next_at_ms, sequence",
    )?;
    let values = params![endpoint.as_str(), now.unix_ms(), slots, until.unix_ms()];
    let claimed = statement.query_map(values, due_claim)?;
    let mut claims: Vec<(Claim, i64, i64)> = claimed.collect::<rusqlite::Result<_>>()?;
    claims.sort_by_key(|(_, next_at_ms, sequence)| (*next_at_ms, *sequence));
    Ok(claims.into_iter().map(|(claim, _, _)| claim).collect())
}

/// The claim, and what it is ordered by.
fn due_claim(row: &Row<'_>) -> rusqlite::Result<(Claim, i64, i64)> {
    let mut columns = Columns::of(row);
    let (delivery, lease, endpoint) = (columns.next()?, columns.next()?, columns.endpoint()?);
    let (event, kind, upload) = (columns.next()?, columns.kind()?, columns.next()?);
    let claim = Claim {
        delivery: DeliveryId::from_bytes(delivery),
        lease,
        endpoint,
        event: EventId::from_bytes(event),
        kind,
        class: class_of(kind),
        upload: UploadId::from_bytes(upload),
        occurred_at: columns.instant()?,
        attempts: columns.next()?,
        body: columns.body()?,
    };
    Ok((claim, columns.next()?, columns.next()?))
}

pub(super) fn class_of(kind: EventKind) -> DeliveryClass {
    if kind == EventKind::Progress { DeliveryClass::Progress } else { DeliveryClass::Normal }
}
