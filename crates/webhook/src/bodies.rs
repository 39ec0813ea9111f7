//! Event bodies that the store builds within its transactions, in the JSON that receivers get.

use state::{EventBodies, StoredEvent};

/// Returns the functions that write the bodies.
pub fn bodies() -> EventBodies {
    EventBodies {
        notice: api::event::notice,
        ping: api::event::ping,
        thin: |it: &StoredEvent<'_>| api::event::thin(it.kind, it.at, it.upload, it.sequence, it.body),
        expunged: |it: &StoredEvent<'_>| api::event::expunged(it.kind, it.at, it.upload, it.sequence, it.body),
    }
}
