//! The log of events: written in the commit that caused them, with a delivery for everyone who wants them.

use sqlx::Row;

use crate::domain::event::Event;
use crate::domain::id::DeliveryId;
use crate::domain::id::EventId;
use crate::domain::id::UploadId;
use crate::domain::upload::Record;
use crate::domain::upload::Upload;
use crate::state::EventPosition;
use crate::state::LoggedEvent;
use crate::state::Result;
use crate::state::event_body::event_body;
use crate::state::sqlite::SqliteStore;
use crate::state::sqlite::failed;
use crate::state::sqlite::lanes;
use crate::state::sqlite::lanes::NewDelivery;
use crate::state::sqlite::rows;
use crate::state::sqlite::rows::integer;
use crate::state::sqlite::writer::Desk;

/// Writes what an upload has caused since it was read.
pub(super) async fn log_news(desk: &mut Desk, upload: &Upload) -> sqlx::Result<()> {
    for event in upload.news() {
        lanes::supersede_progress(desk, upload.id(), event.at).await?;
        log(desk, upload.record(), event).await?;
    }
    Ok(())
}

async fn log(desk: &mut Desk, upload: &Record, event: &Event) -> sqlx::Result<()> {
    let id = EventId::new(event.at, random_in_order(event.sequence));
    let position = sqlx::query(
        "INSERT INTO events (id, upload_id, sequence, kind, occurred_at_ms, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )
    .bind(id.as_bytes().to_vec())
    .bind(upload.id.as_bytes().to_vec())
    .bind(integer(event.sequence))
    .bind(event.kind.name())
    .bind(event.at.unix_ms())
    .bind(event_body(upload, event))
    .execute(&mut desk.connection)
    .await?
    .last_insert_rowid();

    let subscriptions = std::mem::take(&mut desk.subscriptions);
    let mut told = Ok(());
    for subscription in subscriptions.iter().filter(|subscription| subscription.filter.wants(event.kind)) {
        let delivery = NewDelivery {
            id: DeliveryId::new(event.at, random_in_order(event.sequence)),
            event_position: position,
            event_id: *id.as_bytes(),
            kind: event.kind.name(),
            endpoint: &subscription.endpoint,
            upload: upload.id,
            sequence: integer(event.sequence),
            now: event.at,
        };
        told = lanes::join(desk, &delivery).await;
        if told.is_err() {
            break;
        }
    }
    desk.subscriptions = subscriptions;
    told
}

/// The random part of an id, beginning with the event's sequence, so that the ids of events that one commit made in
/// one millisecond sort as they happened (RFC 9562, 6.2).
fn random_in_order(sequence: u64) -> [u8; 10] {
    let mut random: [u8; 10] = rand::random();
    let [.., high, low] = sequence.to_be_bytes();
    random[..2].copy_from_slice(&[high & 0x0f, low]);
    random
}

impl SqliteStore {
    pub(super) async fn read_events_of(&self, id: UploadId, after: u64, limit: u32) -> Result<Vec<LoggedEvent>> {
        let query = sqlx::query(
            "SELECT position, id, upload_id, sequence, kind, body FROM events
             WHERE upload_id = ?1 AND sequence > ?2 ORDER BY sequence LIMIT ?3",
        );
        let query = query.bind(id.as_bytes().to_vec()).bind(integer(after)).bind(limit);
        self.read_all(query, rows::logged_event).await.map_err(failed("read the events of an upload"))
    }

    pub(super) async fn read_events_since(&self, after: EventPosition, limit: u32) -> Result<Vec<LoggedEvent>> {
        let query = sqlx::query(
            "SELECT position, id, upload_id, sequence, kind, body FROM events
             WHERE position > ?1 ORDER BY position LIMIT ?2",
        );
        self.read_all(query.bind(after.0).bind(limit), rows::logged_event)
            .await
            .map_err(failed("read the log of events"))
    }

    pub(super) async fn read_newest_event(&self) -> Result<EventPosition> {
        let newest =
            sqlx::query("SELECT coalesce(max(position), 0) AS newest FROM events").fetch_one(&self.reads).await;
        let position = newest.and_then(|row| row.try_get("newest"));
        position.map(EventPosition).map_err(failed("read the position of the newest event"))
    }
}
