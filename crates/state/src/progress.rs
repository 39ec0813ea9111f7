//! How far uploads are at this moment, beyond what is committed.
//!
//! A writer sets counters and waits for nobody; whoever asks gets a reading of them. What is read here is
//! never a promise: it may be behind, or missing, and only the committed row is the truth. So an adapter that
//! reaches other nodes publishes readings at its own pace, answers with the last one it has, and with none
//! when it reaches nobody soon. It says how old a reading is, and whoever asks two nodes in turn may get an
//! older one from the second. [`LocalProgress`] reads the counters of its own process, and is never behind.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use crate::lock::lock;
use domain::id::UploadId;

/// Tells how far writers are, wherever they are.
#[async_trait]
pub trait LiveProgress: fmt::Debug + Send + Sync + 'static {
    /// Publishes the counters of a writer of this process, in place of
    /// those of the writer before it. Never waits.
    fn publish(&self, upload: UploadId, counters: Arc<dyn WriterCounters>);

    /// Takes counters back when their writer ends, unless another's have taken their place. Never waits.
    fn withdraw(&self, upload: UploadId, counters: &Arc<dyn WriterCounters>);

    /// Reads how far each of these is; `None` for one that nobody writes, as far as is known. Never fails,
    /// and never waits for long: many may be asked for at once.
    async fn of(&self, uploads: &[UploadId]) -> Vec<Option<ProgressReading>>;

    /// Whether a reading may be behind one that was given before, here or by another node. Where it may not,
    /// a lower reading says that bytes were dropped.
    fn may_lag(&self) -> bool;
}

/// What a writer counts. Reading takes no lock and disturbs nobody.
pub trait WriterCounters: fmt::Debug + Send + Sync {
    fn read(&self) -> ProgressReading;
}

/// How far a writer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgressReading {
    /// Bytes taken from clients so far, committed or not, counted from the start of the upload.
    pub received_bytes: u64,
    /// As measured when bytes last came; zero before the first measurement.
    pub bytes_per_second: u64,
    /// How long ago bytes last came, as far as is known here. Of another node's
    /// writer it is at least the age of the reading.
    pub age: Duration,
}

impl ProgressReading {
    /// A rate measured longer ago than this says nothing about now.
    const RATE_FADES_AFTER: Duration = Duration::from_secs(3);

    /// The rate now: zero when bytes have ceased to come.
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
