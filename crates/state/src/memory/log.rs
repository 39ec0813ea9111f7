//! The log of events: written in the commit that caused them.

use bytes::Bytes;

use crate::memory::Tables;
use crate::{Bodies, EventPosition, LoggedEvent, NewEvent, StoredEvent};
use domain::id::UploadId;
use domain::time::Timestamp;
use domain::upload::Upload;

impl Tables {
    pub(super) fn append_news(&mut self, upload: &Upload, events: Vec<NewEvent>) {
        for event in events {
            // Never the same again, also when the newest event was removed: readers keep it as a bookmark.
            self.last_position += 1;
            self.events.push(LoggedEvent {
                position: EventPosition(self.last_position),
                id: event.id,
                tenant: upload.tenant(),
                upload: upload.id(),
                sequence: event.sequence,
                kind: event.kind,
                body: event.body,
            });
        }
    }

    pub(super) fn log(&self, limit: u32, is_wanted: impl Fn(&LoggedEvent) -> bool) -> Vec<LoggedEvent> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        self.events.iter().filter(|event| is_wanted(event)).take(limit).cloned().collect()
    }

    pub(super) fn expunge(&mut self, upload: UploadId, bodies: Bodies) -> u64 {
        let mut changed = 0;
        for event in self.events.iter_mut().filter(|event| event.upload == upload) {
            let (kind, at, sequence) = (event.kind, event.id.made_at(), event.sequence);
            let body = (bodies.expunged)(&StoredEvent { kind, at, upload, sequence, body: &event.body });
            event.body = Bytes::from(body);
            changed += 1;
        }
        if let Some(record) = self.uploads.get(&upload) {
            let mut settled = Upload::from_record(record.clone());
            if settled.is_settled() {
                settled.expunge();
                self.put(settled, Vec::new());
            }
        }
        changed
    }

    /// Removes at most `limit` events from before then, oldest first.
    pub(super) fn prune_events(&mut self, before: Timestamp, limit: u32) -> u64 {
        let mut removed = 0;
        self.events.retain(|event| {
            let goes = event.id.made_at() < before && removed < u64::from(limit);
            removed += u64::from(goes);
            !goes
        });
        removed
    }
}
