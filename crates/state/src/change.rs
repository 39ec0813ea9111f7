//! A change of an upload with the events it causes, and how bodies are written that a store has to make.
//!
//! The store keeps the body of an event as the bytes it was given. It neither
//! reads nor writes the JSON of receivers.

use bytes::Bytes;

use domain::endpoint::EndpointId;
use domain::event::{Event, EventKind};
use domain::id::{EventId, UploadId, in_order};
use domain::notice::Notice;
use domain::time::Timestamp;
use domain::upload::{Record, Upload};

/// An upload as it is to be written, with its new events. Writing the
/// same change again writes the same events.
#[derive(Debug, Clone)]
pub struct Change {
    upload: Upload,
    events: Vec<NewEvent>,
}

/// An event of an upload as it is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub id: EventId,
    pub kind: EventKind,
    pub at: Timestamp,
    pub sequence: u64,
    /// What every receiver gets, byte for byte (webhooks P7).
    pub body: Bytes,
}

impl Change {
    /// Takes an upload with all that it has to tell: `body` writes the body of each new event, `random` makes
    /// the random part of its id.
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

    /// Takes it apart, for a store to write.
    pub fn into_parts(self) -> (Upload, Vec<NewEvent>) {
        (self.upload, self.events)
    }
}

/// How bodies are written of which only the store knows, within its transaction, that they are needed.
#[derive(Debug, Clone, Copy)]
pub struct EventBodies {
    /// News of the sending itself.
    pub notice: fn(&Notice, Timestamp) -> String,
    /// A test of an endpoint.
    pub ping: fn(&EndpointId, Timestamp) -> String,
    /// Less than a full body, for an endpoint that wants little.
    pub thin: fn(&StoredEvent<'_>) -> String,
    /// What is left of a body once what was said about its upload is taken out.
    pub expunged: fn(&StoredEvent<'_>) -> String,
}

/// An event of an upload as it was written.
#[derive(Debug, Clone, Copy)]
pub struct StoredEvent<'a> {
    pub kind: EventKind,
    pub at: Timestamp,
    pub upload: UploadId,
    pub sequence: u64,
    pub body: &'a [u8],
}
