//! What the engine counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::domain::event::EventKind;

#[derive(Debug, Default)]
pub struct Metrics {
    pub(super) bytes_received: Counter,
    events: Family<EventLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabel {
    r#type: &'static str,
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("upload_bytes_received", "Bytes taken from clients", self.bytes_received.clone());
        registry.register("upload_events", "Events of uploads, by type", self.events.clone());
    }

    pub(super) fn count(&self, kinds: &[EventKind]) {
        for kind in kinds {
            self.events.get_or_create(&EventLabel { r#type: kind.name() }).inc();
        }
    }
}
