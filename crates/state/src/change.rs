//! A change of an upload with the events it causes, and the functions for event bodies that a store has to
//! make.
//!
//! The store keeps the body of an event as the bytes it was given. It neither reads nor writes the JSON for
//! receivers.

use bytes::Bytes;

use domain::endpoint::EndpointId;
use domain::event::{Event, EventKind};
use domain::id::{EventId, UploadId, in_order};
use domain::notice::Notice;
use domain::time::Timestamp;
use domain::upload::{Record, Upload};

/// An upload to be written, with its new events. Writing the same change again writes the same events.
#[derive(Debug, Clone)]
pub struct Change {
    upload: Upload,
    events: Vec<NewEvent>,
}

/// An event of an upload to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub id: EventId,
    pub kind: EventKind,
    pub at: Timestamp,
    pub sequence: u64,
    /// The body that every receiver gets, byte for byte (webhooks P7).
    pub body: Bytes,
}

impl Change {
    /// Makes a change from an upload and its uncommitted events. `body` writes the body of each event,
    /// `random` provides the random part of its id.
    pub fn new(upload: Upload, body: impl Fn(&Record, &Event) -> String, mut random: impl FnMut() -> [u8; 10]) -> Self {
        let events = upload.events().iter().map(|event| NewEvent {
            id: EventId::new(event.at, in_order(event.sequence, random())),
            kind: event.kind,
            at: event.at,
            sequence: event.sequence,
            body: body(upload.record(), event).into(),
        });
        Self { events: events.collect(), upload }
    }

    pub fn upload(&self) -> &Upload {
        &self.upload
    }

    pub fn events(&self) -> &[NewEvent] {
        &self.events
    }

    /// Splits the change for a store to write.
    pub fn into_parts(self) -> (Upload, Vec<NewEvent>) {
        (self.upload, self.events)
    }
}

/// Functions for bodies whose need becomes known only within a transaction of the store.
#[derive(Debug, Clone, Copy)]
pub struct EventBodies {
    /// Writes the body of an event about delivery itself.
    pub notice: fn(&Notice, Timestamp) -> String,
    /// Writes the body of a test event for an endpoint.
    pub ping: fn(&EndpointId, Timestamp) -> String,
    /// Writes the short body for an endpoint with [`Payload::Thin`](domain::endpoint::Payload::Thin).
    pub thin: fn(&StoredEvent<'_>) -> String,
    /// Writes the rest of a body after the free text about its upload has been removed.
    pub expunged: fn(&StoredEvent<'_>) -> String,
}

/// A stored event of an upload.
#[derive(Debug, Clone, Copy)]
pub struct StoredEvent<'a> {
    pub kind: EventKind,
    pub at: Timestamp,
    pub upload: UploadId,
    pub sequence: u64,
    pub body: &'a [u8],
}
