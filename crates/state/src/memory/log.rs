//! The log of events. Each event is written by the commit that caused it, with a delivery for every
//! subscribed endpoint.

use bytes::Bytes;
use domain::log::{EventPage, EventPosition, LoggedEvent};

use crate::memory::Tables;
use crate::memory::deliveries::NewDelivery;
use crate::{NewEvent, StoredEvent};
use domain::delivery::AttemptTrigger;
use domain::endpoint::EndpointId;
use domain::event::EventKind;
use domain::id::{EventId, UploadId};
use domain::principal::{TenantId, TenantScope};
use domain::time::Timestamp;
use domain::upload::Upload;

/// The maximum number of log positions that one page examines.
const WINDOW: u32 = 5_000;

/// A committed event; `upload` is `None` for an event that is not about an upload.
#[derive(Debug, Clone)]
pub(super) struct LogEntry {
    pub(super) id: EventId,
    pub(super) tenant: TenantId,
    pub(super) upload: Option<UploadId>,
    pub(super) sequence: u64,
    pub(super) kind: EventKind,
    pub(super) at: Timestamp,
    pub(super) body: Bytes,
}

impl LogEntry {
    fn of_upload(&self, position: EventPosition) -> Option<LoggedEvent> {
        Some(LoggedEvent {
            position,
            id: self.id,
            tenant: self.tenant,
            upload: self.upload?,
            sequence: self.sequence,
            kind: self.kind,
            body: self.body.to_vec(),
        })
    }
}

impl Tables {
    /// Writes the new events of an upload.
    pub(super) fn append_events(&mut self, upload: &Upload, events: Vec<NewEvent>) {
        let metadata = &upload.record().metadata;
        let own = self.present().filter(|kept| kept.endpoint.tenant == upload.tenant());
        let interested = own.filter(|kept| kept.endpoint.terms.wants_upload(metadata));
        let interested: Vec<EndpointId> = interested.map(|kept| kept.endpoint.id.clone()).collect();
        for NewEvent { id, kind, at, sequence, body } in events {
            self.supersede_progress(upload.id(), at);
            let tenant = upload.tenant();
            let logged = LogEntry { id, tenant, upload: Some(upload.id()), sequence, kind, at, body };
            let position = self.append(logged);
            for endpoint in &interested {
                if self.endpoints.get(endpoint).is_some_and(|kept| kept.endpoint.terms.filter.wants(kind)) {
                    self.join(NewDelivery { position, endpoint, trigger: AttemptTrigger::Auto, now: at });
                }
            }
        }
    }

    /// Adds an event to the end of the log.
    pub(super) fn append(&mut self, event: LogEntry) -> EventPosition {
        // A position is never reused, even if the newest event was removed, because readers keep positions as
        // bookmarks.
        self.last_position += 1;
        let position = EventPosition(self.last_position);
        self.log.insert(position, event);
        position
    }

    pub(super) fn newest_event(&self) -> EventPosition {
        self.log.last_key_value().map_or(EventPosition::default(), |(position, _)| *position)
    }

    pub(super) fn events_of(&self, scope: TenantScope, id: UploadId, after: u64, limit: u32) -> Vec<LoggedEvent> {
        let of_upload = self.log.iter().filter(|(_, event)| event.upload == Some(id) && scope.covers(event.tenant));
        let wanted = of_upload.filter(|(_, event)| event.sequence > after);
        wanted.filter_map(|(position, event)| event.of_upload(*position)).take(limit as usize).collect()
    }

    pub(super) fn events_since(&self, scope: TenantScope, after: EventPosition, limit: u32) -> EventPage {
        let end = EventPosition(after.0.saturating_add(i64::from(WINDOW.max(limit))));
        let newest = self.newest_event();
        let behind = self.log.range(after..).filter(|(position, _)| **position > after && **position <= end);
        let wanted = behind.filter(|(_, event)| scope.covers(event.tenant));
        let found = wanted.filter_map(|(position, event)| event.of_upload(*position));
        let found: Vec<LoggedEvent> = found.take(limit as usize).collect();
        let is_full = found.len() == limit as usize;
        let last = found.last().filter(|_| is_full).map(|event| event.position);
        EventPage { seen: last.unwrap_or(end.min(newest).max(after)), found, has_more: is_full || end < newest }
    }

    pub(super) fn count_behind(&self, scope: TenantScope, after: EventPosition, most: u32) -> Option<u32> {
        if after > self.newest_event() {
            return None;
        }
        let places = self.newest_event().0 - after.0;
        let (mut all, mut wanted) = (0, 0);
        for (_, event) in self.log.range(EventPosition(after.0 + 1)..) {
            all += 1;
            wanted += u32::from(scope.covers(event.tenant));
        }
        // Positions are assigned without gaps. An empty one means that an event was removed.
        Some(if places > i64::from(WINDOW) || all < places { most } else { wanted.min(most) })
    }

    /// Removes free text about an upload from its events, from the attempts to deliver them, from its hook
    /// calls, and from its record once it is settled.
    pub(super) fn expunge(&mut self, scope: TenantScope, upload: UploadId) -> u64 {
        let mut changed = 0;
        let is_meant = |event: &&mut LogEntry| event.upload == Some(upload) && scope.covers(event.tenant);
        for event in self.log.values_mut().filter(is_meant) {
            let (kind, at, sequence) = (event.kind, event.at, event.sequence);
            let stored = StoredEvent { kind, at, upload, sequence, body: &event.body };
            event.body = (self.bodies.expunged)(&stored).into();
            changed += 1;
        }
        for id in self.of_upload.get(&upload).into_iter().flatten() {
            let delivery = self.deliveries.get_mut(id).filter(|delivery| scope.covers(delivery.tenant));
            for attempt in delivery.into_iter().flat_map(|delivery| &mut delivery.attempt_records) {
                (attempt.response_body, attempt.response_headers, attempt.note) = (Vec::new(), Vec::new(), None);
            }
        }
        let asked = self.hook_calls.values_mut().filter(|call| call.upload == upload && scope.covers(call.tenant));
        for call in asked {
            (call.message, call.response_body) = (None, Vec::new());
        }
        if let Some(record) = self.uploads.get(&upload).filter(|record| scope.covers(record.tenant)) {
            let mut settled = Upload::from_record(record.clone());
            if settled.is_settled() {
                settled.expunge();
                self.put(settled, Vec::new());
            }
        }
        changed
    }
}
