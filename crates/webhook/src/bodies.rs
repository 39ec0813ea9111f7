//! The bodies that the store needs within its transactions, in the JSON of receivers.

use state::{EventBodies, StoredEvent};

/// Returns how they are written.
pub fn bodies() -> EventBodies {
    EventBodies {
        notice: api::event::notice,
        ping: api::event::ping,
        thin: |it: &StoredEvent<'_>| api::event::thin(it.kind, it.at, it.upload, it.sequence, it.body),
        expunged: |it: &StoredEvent<'_>| api::event::expunged(it.kind, it.at, it.upload, it.sequence, it.body),
    }
}
