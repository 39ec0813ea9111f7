//! The log of events.

use bytes::Bytes;
use domain::event::EventKind;
use domain::id::{EventId, UploadId};
use domain::log::{EventPosition, LoggedEvent};
use domain::principal::TenantId;
use domain::time::Timestamp;

use crate::table::table;

table! {
    /// An event as it is written; the database assigns its position.
    pub struct EventRow in "events", key (upload_id, sequence), of (id: EventId, tenant: TenantId, upload: Option<UploadId>, sequence: u64, kind: EventKind,
        occurred_at: Timestamp, body: &Bytes) {
        id: EventId = id;
        tenant: TenantId = tenant;
        /// `None` for an event that is not about an upload.
        upload_id: Option<UploadId> = upload;
        sequence: u64 = sequence;
        kind: EventKind = kind;
        occurred_at_ms: Timestamp = occurred_at;
        body: Bytes = body;
    }
}

impl EventRow {
    /// Returns the event as readers of the log get it; `None` if it is not about an upload.
    pub fn of_upload(self, position: EventPosition) -> Option<LoggedEvent> {
        let Self { id, tenant, upload_id, sequence, kind, occurred_at_ms: _, body } = self;
        Some(LoggedEvent { position, id, tenant, upload: upload_id?, sequence, kind, body: body.into() })
    }
}
