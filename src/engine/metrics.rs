//! What the engine counts.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use storage::Capacity;

use crate::domain::event::EventKind;

#[derive(Debug)]
pub struct Metrics {
    pub(super) bytes_received: Counter,
    events: Family<EventLabel, Counter>,
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

impl Default for Metrics {
    fn default() -> Self {
        Self {
            bytes_received: Counter::default(),
            events: Family::default(),
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

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("upload_bytes_received", "Bytes taken from clients", self.bytes_received.clone());
        registry.register("upload_events", "Events of uploads, by type", self.events.clone());
        let booked = "Bytes that unfinished uploads of known length have yet to receive";
        registry.register("upload_booked_bytes", booked, self.booked_bytes.clone());
        let files = "Stored files that no record of an upload names, as found after the start";
        registry.register("storage_files_without_record", files, self.files_without_record.clone());
        let records = "Records of uploads whose bytes are known to be missing from the storage";
        registry.register("upload_records_without_file", records, self.records_without_file.clone());
        let free = "Free disk space where uploads are stored, as it was last measured";
        registry.register("storage_free_bytes", free, self.free_bytes.clone());
        let size = "Size of the disk where uploads are stored";
        registry.register("storage_size_bytes", size, self.size_bytes.clone());
        let without_space = "Requests rejected (507) for lack of disk space";
        registry.register("storage_no_space", without_space, self.without_space.clone());
        let commit = "How long commits of uploads took, with their events and the deliveries of these";
        registry.register("upload_commit_seconds", commit, self.commit.clone());
    }

    /// Notes how many bytes unfinished uploads have booked.
    pub(super) fn booked(&self, bytes: u64) {
        self.booked_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Notes what was found when records and blobs were compared.
    pub(super) fn strays(&self, files: u64) {
        self.files_without_record.set(i64::try_from(files).unwrap_or(i64::MAX));
    }

    /// Notes that the bytes of so many more uploads are missing.
    pub(super) fn missing(&self, more: i64) {
        self.records_without_file.inc_by(more);
    }

    pub(super) fn disk(&self, capacity: Capacity) {
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.free_bytes.set(bytes(capacity.free_bytes));
        self.size_bytes.set(bytes(capacity.size_bytes));
    }

    /// Counts a request that was rejected for lack of disk space.
    pub fn rejected_for_space(&self) {
        self.without_space.inc();
    }

    /// Counts a commit that took so long, and the events in it.
    pub(super) fn count(&self, kinds: &[EventKind], took: Duration) {
        self.commit.observe(took.as_secs_f64());
        for kind in kinds {
            self.events.get_or_create(&EventLabel { r#type: kind.name() }).inc();
        }
    }
}
