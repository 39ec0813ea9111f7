//! The metrics of the engine.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use storage::Capacity;

use crate::lock::lock;
use crate::peers::PeerMetrics;
use domain::dialect::Dialect;
use domain::event::EventKind;
use domain::id::UploadId;
use domain::stage::Stage;
use domain::upload::Upload;

#[derive(Debug)]
pub struct EngineMetrics {
    pub(super) bytes_received: Counter,
    pub(super) generations_sealed: Counter,
    /// Bytes that were passed on to other nodes.
    pub(super) forwarded_bytes: Counter,
    pub(super) peers: PeerMetrics,
    events: Family<EventLabel, Counter>,
    created: Family<ProtocolLabel, Counter>,
    ended: Family<EndLabel, Counter>,
    unfinished: Unfinished,
    booked_bytes: Gauge,
    files_without_record: Gauge,
    records_without_file: Gauge,
    free_bytes: Gauge,
    size_bytes: Gauge,
    without_space: Counter,
    commit: Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabel {
    r#type: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Protocol(Dialect);

impl EncodeLabelValue for Protocol {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        EncodeLabelValue::encode(&self.0.name(), encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProtocolLabel {
    protocol: Protocol,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabel {
    protocol: Protocol,
    stage: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabel {
    stage: &'static str,
}

/// The stages of uploads that are not complete and can still become so.
pub(super) const UNFINISHED: [Stage; 6] =
    [Stage::Created, Stage::Receiving, Stage::Stalled, Stage::Received, Stage::Verified, Stage::Stored];

/// The events after which an upload is no longer in progress.
const ENDS: [EventKind; 4] = [EventKind::Completed, EventKind::Failed, EventKind::Expired, EventKind::Terminated];

/// The number of uploads in progress, by stage: updated with every commit, and counted at a start.
#[derive(Debug, Default)]
struct Unfinished {
    known: Mutex<HashMap<UploadId, Stage>>,
    counts: Family<StageLabel, Gauge>,
}

impl Unfinished {
    fn note(&self, id: UploadId, stage: Stage) {
        let mut known = lock(&self.known);
        let is_unfinished = UNFINISHED.contains(&stage);
        let before = if is_unfinished { known.insert(id, stage) } else { known.remove(&id) };
        if before == Some(stage) {
            return;
        }
        if let Some(before) = before {
            self.gauge(before, |gauge| gauge.dec());
        }
        if is_unfinished {
            self.gauge(stage, |gauge| gauge.inc());
        }
    }

    /// Forgets the uploads that are not known any more.
    fn keep(&self, is_known: impl Fn(UploadId) -> bool) {
        lock(&self.known).retain(|id, stage| {
            let stays = is_known(*id);
            if !stays {
                self.gauge(*stage, |gauge| gauge.dec());
            }
            stays
        });
    }

    fn gauge(&self, stage: Stage, change: impl FnOnce(&Gauge) -> i64) {
        change(&self.counts.get_or_create(&StageLabel { stage: stage.name() }));
    }
}

impl Default for EngineMetrics {
    fn default() -> Self {
        Self {
            bytes_received: Counter::default(),
            generations_sealed: Counter::default(),
            forwarded_bytes: Counter::default(),
            peers: PeerMetrics::default(),
            events: Family::default(),
            created: Family::default(),
            ended: Family::default(),
            unfinished: Unfinished::default(),
            booked_bytes: Gauge::default(),
            files_without_record: Gauge::default(),
            records_without_file: Gauge::default(),
            free_bytes: Gauge::default(),
            size_bytes: Gauge::default(),
            without_space: Counter::default(),
            commit: Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0]),
        }
    }
}

impl EngineMetrics {
    /// Registers all metrics, each with all of its labels, so that events that have not happened yet are
    /// reported as zero.
    pub fn register(&self, dialects: &[Dialect], registry: &mut Registry) {
        let uploads = EventKind::ALL.into_iter().filter(|kind| kind.name().starts_with("upload."));
        for kind in uploads {
            drop(self.events.get_or_create(&EventLabel { r#type: kind.name() }));
        }
        for protocol in dialects.iter().copied().map(Protocol) {
            drop(self.created.get_or_create(&ProtocolLabel { protocol }));
            for stage in ENDS.map(stage_of) {
                drop(self.ended.get_or_create(&EndLabel { protocol, stage }));
            }
        }
        for stage in UNFINISHED {
            self.unfinished.gauge(stage, Gauge::get);
        }
        registry.register(
            "upload_bytes_received",
            "Bytes received from clients, committed or not",
            self.bytes_received.clone(),
        );
        let sealed = "Blobs of uploads that were sealed because an earlier holder may still have been writing to them";
        registry.register("generations_sealed", sealed, self.generations_sealed.clone());
        let forwarded = "Bytes of requests that were passed on to the nodes that write their uploads";
        registry.register("peer_forwarded_bytes", forwarded, self.forwarded_bytes.clone());
        self.peers.register(registry);
        registry.register("upload_events", "Upload events, by type", self.events.clone());
        registry.register("uploads_created", "Uploads created, by protocol", self.created.clone());
        let ended = "Uploads that completed, failed, expired or were terminated, by protocol and stage";
        registry.register("uploads_ended", ended, self.ended.clone());
        let unfinished = "Uploads in progress, by stage";
        registry.register("uploads_in_progress", unfinished, self.unfinished.counts.clone());
        let booked = "Disk space booked by unfinished uploads of known length for bytes they have yet to receive, in \
                      bytes";
        registry.register_with_unit("upload_booked", booked, Unit::Bytes, self.booked_bytes.clone());
        let files = "Stored files without an upload record, as found after the start";
        registry.register("storage_files_without_record", files, self.files_without_record.clone());
        let records = "Upload records whose bytes are known to be missing from the storage";
        registry.register("upload_records_without_file", records, self.records_without_file.clone());
        let free = "Free disk space where uploads are stored, as last measured, in bytes";
        registry.register_with_unit("storage_free", free, Unit::Bytes, self.free_bytes.clone());
        let size = "Size of the disk where uploads are stored, in bytes";
        registry.register_with_unit("storage_size", size, Unit::Bytes, self.size_bytes.clone());
        let without_space = "Requests rejected (507) for lack of disk space";
        registry.register("storage_no_space", without_space, self.without_space.clone());
        let commit = "Time to commit an upload with its events and deliveries, in seconds";
        registry.register_with_unit("upload_commit", commit, Unit::Seconds, self.commit.clone());
    }

    /// Sets the bytes that unfinished uploads have booked.
    pub(super) fn booked(&self, bytes: u64) {
        self.booked_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Sets the number of files without a record that the inventory found.
    pub(super) fn files_without_record(&self, files: u64) {
        self.files_without_record.set(i64::try_from(files).unwrap_or(i64::MAX));
    }

    /// Adds uploads whose bytes are missing; negative if they were found again.
    pub(super) fn missing(&self, more: i64) {
        self.records_without_file.inc_by(more);
    }

    pub(super) fn disk(&self, capacity: Capacity) {
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.free_bytes.set(bytes(capacity.free_bytes));
        self.size_bytes.set(bytes(capacity.size_bytes));
    }

    /// Returns the counter of requests rejected for lack of disk space.
    pub fn without_space(&self) -> &Counter {
        &self.without_space
    }

    /// Forgets unfinished uploads that have ended on another node.
    pub(super) fn keep_unfinished(&self, is_known: impl Fn(UploadId) -> bool) {
        self.unfinished.keep(is_known);
    }

    /// Updates the stage of an upload, as it was committed or as it is found at the start.
    pub(super) fn note(&self, upload: &Upload) {
        self.unfinished.note(upload.id(), upload.stage());
    }

    /// Counts the commit of an upload, which took this long, and its events.
    pub(super) fn count(&self, committed: &Upload, kinds: &[EventKind], took: Duration) {
        self.note(committed);
        self.commit.observe(took.as_secs_f64());
        let protocol = Protocol(committed.record().dialect);
        for kind in kinds {
            self.events.get_or_create(&EventLabel { r#type: kind.name() }).inc();
            if *kind == EventKind::Created {
                self.created.get_or_create(&ProtocolLabel { protocol }).inc();
            }
            if ENDS.contains(kind) {
                self.ended.get_or_create(&EndLabel { protocol, stage: stage_of(*kind) }).inc();
            }
        }
    }
}

/// Returns the part of an event's name after the dot.
fn stage_of(kind: EventKind) -> &'static str {
    kind.name().rsplit('.').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::stage::Ended;
    use domain::time::Timestamp;

    #[test]
    fn each_upload_in_progress_is_counted_once_where_it_stands() {
        let unfinished = Unfinished::default();
        let id = |byte| UploadId::new(Timestamp::from_unix_ms(1), [byte; 10]);
        let counts = || {
            UNFINISHED.map(|stage| {
                let mut count = 0;
                unfinished.gauge(stage, |gauge| {
                    count = gauge.get();
                    count
                });
                count
            })
        };
        for stage in [Stage::Created, Stage::Receiving, Stage::Receiving, Stage::Stalled] {
            unfinished.note(id(1), stage);
        }
        unfinished.note(id(2), Stage::Created);
        assert_eq!(counts(), [1, 0, 1, 0, 0, 0]);
        unfinished.note(id(1), Stage::Completed);
        unfinished.note(id(1), Stage::Ended(Ended::Terminated));
        unfinished.note(id(2), Stage::Ended(Ended::Expired));
        assert_eq!(counts(), [0; 6]);
        assert!(unfinished.known.lock().unwrap().is_empty(), "an ended upload is forgotten");
    }
}
