//! Live progress of uploads, beyond the committed offset.
//!
//! A writer sets counters and never waits; queries read them. A reading is not a guarantee: it may lag, or be
//! missing, and only the committed row is authoritative. An adapter that reaches other nodes may therefore
//! publish readings at its own rate, return the last one it has, and return none if it reaches no node soon.
//! It states the age of a reading; a caller that queries two nodes in succession may get an older one from
//! the second. [`LocalProgress`] reads the counters of its own process and never lags.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use crate::lock::lock;
use domain::id::UploadId;

/// Provides the progress of writers, on any node.
#[async_trait]
pub trait LiveProgress: fmt::Debug + Send + Sync + 'static {
    /// Publishes the counters of a writer of this process, replacing those of the previous writer. Never
    /// waits.
    fn publish(&self, upload: UploadId, counters: Arc<dyn WriterCounters>);

    /// Removes counters when their writer ends, unless another writer's have replaced them. Never waits.
    fn withdraw(&self, upload: UploadId, counters: &Arc<dyn WriterCounters>);

    /// Returns the progress of each upload; `None` for an upload without a known writer. Never fails, and
    /// never waits for long: callers may query many uploads at once.
    async fn of(&self, uploads: &[UploadId]) -> Vec<Option<ProgressReading>>;

    /// Reports whether a reading may be older than one returned before, here or by another node. If not, a
    /// lower reading means that bytes were dropped.
    fn may_lag(&self) -> bool;
}

/// The counters of a writer. Reading takes no lock and does not disturb the writer.
pub trait WriterCounters: fmt::Debug + Send + Sync {
    fn read(&self) -> ProgressReading;
}

/// The progress of a writer at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgressReading {
    /// Bytes received from clients so far, committed or not, counted from the start of the upload.
    pub received_bytes: u64,
    /// The rate as measured when bytes last arrived; zero before the first measurement.
    pub bytes_per_second: u64,
    /// The time since bytes last arrived, as far as is known here. For a writer on another node it is at
    /// least the age of the reading.
    pub age: Duration,
}

impl ProgressReading {
    /// A rate measured longer ago than this no longer describes the present.
    const RATE_FADES_AFTER: Duration = Duration::from_secs(3);

    /// Returns the current rate; zero if bytes have stopped arriving.
    pub fn rate(&self) -> u64 {
        if self.age > Self::RATE_FADES_AFTER { 0 } else { self.bytes_per_second }
    }
}

/// The writers of one process.
#[derive(Debug, Default)]
pub struct LocalProgress(Mutex<HashMap<UploadId, Arc<dyn WriterCounters>>>);

#[async_trait]
impl LiveProgress for LocalProgress {
    fn publish(&self, upload: UploadId, counters: Arc<dyn WriterCounters>) {
        lock(&self.0).insert(upload, counters);
    }

    fn withdraw(&self, upload: UploadId, counters: &Arc<dyn WriterCounters>) {
        let mut all = lock(&self.0);
        if all.get(&upload).is_some_and(|published| Arc::ptr_eq(published, counters)) {
            all.remove(&upload);
        }
    }

    async fn of(&self, uploads: &[UploadId]) -> Vec<Option<ProgressReading>> {
        let all = lock(&self.0);
        uploads.iter().map(|upload| all.get(upload).map(|counters| counters.read())).collect()
    }

    fn may_lag(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    #[tokio::test]
    async fn local_progress_keeps_the_promises_of_live_progress() {
        conformance::progress::a_reading_follows_its_writer(&LocalProgress::default()).await;
        conformance::progress::the_end_of_a_writer_takes_nothing_from_the_next(&LocalProgress::default()).await;
    }

    #[test]
    fn a_rate_fades_when_bytes_cease_to_come() {
        let reading = |age| ProgressReading { received_bytes: 9, bytes_per_second: 7, age };
        assert_eq!(reading(Duration::from_secs(3)).rate(), 7);
        assert_eq!(reading(Duration::from_millis(3_001)).rate(), 0);
    }
}
