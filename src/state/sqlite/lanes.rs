//! The order of deliveries. A lane is everything one endpoint is to hear about one upload.
//!
//! In a lane, first attempts go out in the order of the events, one at a time (webhooks.md G6): what comes later
//! waits until the first attempt of everything before it is over. A delivery that has had its first attempt and backs
//! off holds nobody back. Progress that was overtaken is dropped (webhooks.md C3, C4), and whoever changes a lane
//! lets it go on afterwards, so nothing waits for what will never come.

use sqlx::Row;

use crate::domain::delivery::EndpointId;
use crate::domain::id::DeliveryId;
use crate::domain::id::UploadId;
use crate::domain::time::Timestamp;
use crate::state::sqlite::writer::Desk;

/// What a new delivery is made of.
#[derive(Debug)]
pub(super) struct NewDelivery<'a> {
    pub(super) id: DeliveryId,
    pub(super) event_position: i64,
    pub(super) event_id: [u8; 16],
    pub(super) kind: &'static str,
    pub(super) endpoint: &'a EndpointId,
    pub(super) upload: UploadId,
    pub(super) sequence: i64,
    pub(super) now: Timestamp,
}

/// Adds a delivery to the end of its lane: paused with its endpoint, waiting its turn, or ready now.
pub(super) async fn join(desk: &mut Desk, new: &NewDelivery<'_>) -> sqlx::Result<()> {
    let state: String = sqlx::query_scalar(
        "INSERT INTO deliveries (id, event_position, event_id, kind, endpoint, upload_id, sequence, attempts,
             next_at_ms, created_at_ms, state)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, ?8, ?8, CASE
             WHEN EXISTS (SELECT 1 FROM endpoints WHERE id = ?5 AND paused_at_ms IS NOT NULL) THEN 'paused'
             WHEN EXISTS (SELECT 1 FROM deliveries
                 WHERE upload_id = ?6 AND endpoint = ?5 AND attempts = 0 AND finished_at_ms IS NULL
                     AND state IN ('waiting', 'ready', 'leased')) THEN 'waiting'
             ELSE 'ready' END)
         RETURNING state",
    )
    .bind(new.id.as_bytes().to_vec())
    .bind(new.event_position)
    .bind(new.event_id.to_vec())
    .bind(new.kind)
    .bind(new.endpoint.as_str().to_owned())
    .bind(new.upload.as_bytes().to_vec())
    .bind(new.sequence)
    .bind(new.now.unix_ms())
    .fetch_one(&mut desk.connection)
    .await?;
    desk.made_ready |= state == "ready";
    Ok(())
}

/// Drops the progress of an upload that nobody is sending right now, at all endpoints, since there is later news.
pub(super) async fn supersede_progress(desk: &mut Desk, upload: UploadId, now: Timestamp) -> sqlx::Result<()> {
    let overtaken = sqlx::query(
        "UPDATE deliveries SET state = 'superseded', finished_at_ms = ?2
         WHERE upload_id = ?1 AND kind = 'upload.progress' AND finished_at_ms IS NULL AND state <> 'leased'
         RETURNING endpoint",
    )
    .bind(upload.as_bytes().to_vec())
    .bind(now.unix_ms())
    .fetch_all(&mut desk.connection)
    .await?;
    for row in overtaken {
        go_on(desk, row.try_get("endpoint")?, upload, now).await?;
    }
    Ok(())
}

/// Makes the first waiting delivery of a lane ready, if nothing before it is still to have its first attempt.
pub(super) async fn go_on(desk: &mut Desk, endpoint: &str, upload: UploadId, now: Timestamp) -> sqlx::Result<()> {
    let next = sqlx::query(
        "UPDATE deliveries SET state = 'ready', next_at_ms = ?3
         WHERE id = (SELECT id FROM deliveries
                 WHERE upload_id = ?1 AND endpoint = ?2 AND state = 'waiting' ORDER BY sequence LIMIT 1)
             AND NOT EXISTS (SELECT 1 FROM deliveries
                 WHERE upload_id = ?1 AND endpoint = ?2 AND attempts = 0 AND finished_at_ms IS NULL
                     AND state IN ('ready', 'leased'))",
    )
    .bind(upload.as_bytes().to_vec())
    .bind(endpoint.to_owned())
    .bind(now.unix_ms())
    .execute(&mut desk.connection)
    .await?;
    desk.made_ready |= next.rows_affected() > 0;
    Ok(())
}

/// Lets an endpoint's paused deliveries go on: those that have had their first attempt at once, the others in order.
pub(super) async fn resume(desk: &mut Desk, endpoint: &EndpointId, now: Timestamp) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE deliveries SET state = CASE WHEN attempts = 0 THEN 'waiting' ELSE 'ready' END, next_at_ms = ?2
         WHERE endpoint = ?1 AND state = 'paused'",
    )
    .bind(endpoint.as_str().to_owned())
    .bind(now.unix_ms())
    .execute(&mut desk.connection)
    .await?;
    // Of each lane the first that is still to have its first attempt; later ones see it before them and stay.
    let first = sqlx::query(
        "UPDATE deliveries SET state = 'ready', next_at_ms = ?2
         WHERE endpoint = ?1 AND state = 'waiting' AND NOT EXISTS (SELECT 1 FROM deliveries AS earlier
                 WHERE earlier.upload_id = deliveries.upload_id AND earlier.endpoint = ?1
                     AND earlier.attempts = 0 AND earlier.finished_at_ms IS NULL
                     AND earlier.sequence < deliveries.sequence)",
    )
    .bind(endpoint.as_str().to_owned())
    .bind(now.unix_ms())
    .execute(&mut desk.connection)
    .await?;
    desk.made_ready |= first.rows_affected() > 0;
    Ok(())
}

/// Pauses what an endpoint has not been sent. What is being sent now is settled first and may then be paused too.
pub(super) async fn pause(desk: &mut Desk, endpoint: &EndpointId) -> sqlx::Result<()> {
    // Two statements, because each has an index of its own and the finished ones are never walked.
    for sql in [
        "UPDATE deliveries SET state = 'paused' WHERE endpoint = ?1 AND state = 'ready'",
        "UPDATE deliveries SET state = 'paused' WHERE endpoint = ?1 AND state = 'waiting'",
    ] {
        sqlx::query(sql).bind(endpoint.as_str().to_owned()).execute(&mut desk.connection).await?;
    }
    Ok(())
}
