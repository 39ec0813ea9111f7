//! The log of events: written in the commit that caused them.

use bytes::Bytes;

use crate::memory::Tables;
use crate::{EventPosition, LoggedEvent};
use api::event_body::{event_body, expunged_body};
use domain::id::{EventId, UploadId};
use domain::time::Timestamp;
use domain::upload::Upload;

/// Events say that the status of their upload is told here, with its id behind it.
const STATUS_ROOT: &str = "/api/v1/uploads/";

impl Tables {
    pub(super) fn append_news(&mut self, upload: &Upload) {
        for event in upload.news() {
            // Never the same again, also when the newest event was removed: readers keep it as a bookmark.
            self.last_position += 1;
            self.events.push(LoggedEvent {
                position: EventPosition(self.last_position),
                id: EventId::new(event.at, in_order(upload.id(), event.sequence)),
                tenant: upload.tenant(),
                upload: upload.id(),
                sequence: event.sequence,
                kind: event.kind,
                body: Bytes::from(event_body(upload.record(), event, STATUS_ROOT)),
            });
        }
    }

    pub(super) fn log(&self, limit: u32, is_wanted: impl Fn(&LoggedEvent) -> bool) -> Vec<LoggedEvent> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        self.events.iter().filter(|event| is_wanted(event)).take(limit).cloned().collect()
    }

    pub(super) fn expunge(&mut self, upload: UploadId) -> u64 {
        let mut changed = 0;
        for event in self.events.iter_mut().filter(|event| event.upload == upload) {
            let sequence = i64::try_from(event.sequence).unwrap_or(i64::MAX);
            let body = expunged_body(event.kind, event.id.made_at(), upload, sequence, &event.body);
            event.body = Bytes::from(body);
            changed += 1;
        }
        if let Some(record) = self.uploads.get(&upload) {
            let mut settled = Upload::from_record(record.clone());
            if settled.is_settled() {
                settled.expunge();
                self.put(settled);
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

/// What stands for the random part of an event's id: the same in every run, and sorted as the events happened.
fn in_order(upload: UploadId, sequence: u64) -> [u8; 10] {
    let mut part = [0; 10];
    let [.., high, low] = sequence.to_be_bytes();
    part[..2].copy_from_slice(&[high & 0x0f, low]);
    part[2..].copy_from_slice(&upload.as_bytes()[8..]);
    part
}
