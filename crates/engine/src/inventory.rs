//! Finds blobs without a record and records without their blob, once after each start.
//!
//! A database that was removed or restored from a backup leaves files without a record, and a disk that was
//! restored leaves records whose bytes are missing. Files are only counted and reported: an operator has to
//! decide which of the two is right. Records are marked, so that their status shows it, and lose the mark
//! when their bytes are back. The scan is slow, so that it delays no request.

use std::time::Duration;

use futures::StreamExt;
use storage::BlobKey;
use tokio::time::MissedTickBehavior;

use crate::command::{EngineError, Unavailable};
use crate::{Engine, Inner, blobs};
use domain::duty::Duty;
use domain::principal::TenantScope;
use domain::query::UploadQuery;
use domain::rejection::Rejection;
use domain::upload::{StoredBytes, Upload};

/// Number of comparisons between two pauses.
const STRIDE: u32 = 50;

/// Number of examples in the log line.
const EXAMPLES: usize = 5;

/// The result of a scan.
#[derive(Debug, Default)]
struct Discrepancies {
    count: u64,
    examples: Vec<String>,
}

impl Discrepancies {
    fn add(&mut self, name: String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(name);
        }
    }
}

impl Engine {
    /// Compares records and blobs in the background.
    pub fn start_inventory(&self) {
        let rate = self.0.settings.scan_rate;
        if rate == 0 {
            return;
        }
        let inner = std::sync::Arc::clone(&self.0);
        self.spawn(async move {
            let stopped = inner.stop.clone();
            match stopped.run_until_cancelled(inner.take_inventory(rate)).await {
                None | Some(Ok(())) => {}
                Some(Err(error)) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "could not compare the stored files with the records of uploads");
                }
            }
        });
    }
}

impl Inner {
    async fn take_inventory(&self, rate: u32) -> Result<(), EngineError> {
        if !self.has_duty(Duty::Inventory).await {
            tracing::debug!("another node compares the stored files with the records of uploads");
            return Ok(());
        }
        let mut throttle = Throttle::of(rate);
        let blobs = self.blobs_without_record(&mut throttle).await?;
        let records = self.records_without_blob(&mut throttle).await?;
        self.metrics.files_without_record(blobs.count);
        if blobs.count == 0 && records.count == 0 {
            tracing::debug!("every stored file has a record, and every record its file");
            return Ok(());
        }
        tracing::warn!(
            files_without_record = blobs.count,
            records_without_file = records.count,
            example_files = blobs.examples.join(" "),
            example_records = records.examples.join(" "),
            "stored files and records of uploads do not match: the database or the files were removed, or restored from a \
             backup. Nothing is removed automatically"
        );
        Ok(())
    }

    async fn blobs_without_record(&self, throttle: &mut Throttle) -> Result<Discrepancies, EngineError> {
        let mut strays = Discrepancies::default();
        let mut keys = self.blobs.keys().await.map_err(EngineError::storage)?;
        while let Some(key) = keys.next().await {
            throttle.step().await;
            let key = key.map_err(EngineError::storage)?;
            // The record is committed before the first byte, so a record that is looked up later is found.
            if !self.has_record(&key).await? && self.is_stored(&key).await? {
                strays.add(key.to_string());
            }
        }
        Ok(strays)
    }

    async fn is_stored(&self, key: &BlobKey) -> Result<bool, EngineError> {
        Ok(self.blobs.size(key).await.map_err(EngineError::storage)?.is_some())
    }

    async fn has_record(&self, key: &BlobKey) -> Result<bool, EngineError> {
        let Some(id) = blobs::id_of(key) else { return Ok(false) };
        let found = self.uploads.find(TenantScope::All, id).await?;
        Ok(found.is_some_and(|upload| upload.record().bytes == StoredBytes::Kept && blobs::owns(&upload, key)))
    }

    async fn records_without_blob(&self, throttle: &mut Throttle) -> Result<Discrepancies, EngineError> {
        let mut strays = Discrepancies::default();
        let mut query = UploadQuery { limit: STRIDE, ..UploadQuery::default() };
        loop {
            let page = self.uploads.list(TenantScope::All, &query).await?;
            for upload in &page.found {
                throttle.step().await;
                if self.lacks_blob(upload).await? {
                    strays.add(upload.id().to_string());
                }
            }
            query.before = page.next;
            if query.before.is_none() {
                return Ok(strays);
            }
        }
    }

    /// Reports whether the bytes of an upload are missing, and records the result, unless another live node
    /// holds the upload: that node finds it out when it needs the bytes.
    async fn lacks_blob(&self, listed: &Upload) -> Result<bool, EngineError> {
        if listed.record().missing_since.is_none() && self.has_bytes(listed).await? {
            return Ok(false);
        }
        // It may have ended since it was listed, or its bytes may have moved.
        let upload = match self.find(TenantScope::All, listed.id()).await {
            Err(EngineError::Rejected(Rejection::NotFound)) => return Ok(false),
            found => found?,
        };
        let (id, is_marked) = (upload.id(), upload.record().missing_since.is_some());
        let has_bytes = self.has_bytes(&upload).await?;
        let noted = match (has_bytes, is_marked) {
            (true, false) => return Ok(false),
            (true, true) => self.note_found(upload).await.map(drop).map_err(EngineError::from),
            (false, true) => return Ok(true),
            (false, false) => match self.own(upload).await {
                Ok(upload) => self.mark_missing(upload).await.map(drop),
                Err(error) => Err(error),
            },
        };
        match noted {
            Ok(()) => Ok(!has_bytes),
            Err(error) => {
                // Another node or task has recorded it, or will find it out.
                let is_anothers =
                    matches!(error, EngineError::Unavailable(Unavailable::Held | Unavailable::Superseded));
                let error = &error as &dyn std::error::Error;
                tracing::debug!(upload = %id, error, "could not record whether bytes are missing");
                Ok(!has_bytes && !is_anothers)
            }
        }
    }
}

/// Limits the number of steps per second.
struct Throttle {
    ticks: tokio::time::Interval,
    left: u32,
}

impl Throttle {
    fn of(rate: u32) -> Self {
        let every = Duration::from_secs(1) * STRIDE / rate;
        let mut ticks = tokio::time::interval(every.max(Duration::from_micros(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks, left: 0 }
    }

    async fn step(&mut self) {
        if self.left == 0 {
            self.ticks.tick().await;
            self.left = STRIDE;
        }
        self.left -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_are_compared_in_a_second_than_allowed() {
        let (began, mut throttle) = (tokio::time::Instant::now(), Throttle::of(1_000));
        for _ in 0..5_000 {
            throttle.step().await;
        }
        assert!(began.elapsed() >= Duration::from_millis(4_900), "{:?}", began.elapsed());
        assert!(began.elapsed() <= Duration::from_secs(6), "{:?}", began.elapsed());
    }
}
