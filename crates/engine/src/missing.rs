//! Bytes that were durable and no longer exist: an operator has removed the file or restored a database
//! without it, or a server with relaxed durability has lost the latest writes in a power failure.
//!
//! The code that finds bytes missing records it, and clients get an error saying that the upload is gone: a
//! retry would not bring its bytes back. The record is otherwise unchanged. Each access to the upload looks
//! for its file again, so that a restored file is served again.

use std::error::Error;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::Inner;
use crate::command::{EngineError, Unavailable};
use domain::id::UploadId;
use domain::node::Lease;
use domain::principal::TenantScope;
use domain::rejection::Rejection;
use domain::stage::Stage;
use domain::upload::Upload;

/// Reports whether an upload must have a file: it has bytes, or has been moved to its final place.
pub(super) fn needs_file(upload: &Upload) -> bool {
    upload.owns_bytes() && (upload.received_bytes() > 0 || upload.stage() == Stage::Completed)
}

impl Inner {
    /// Translates an error of the storage for the code that needed the bytes of an upload. Missing bytes are
    /// recorded, unless the upload has ended meanwhile: bytes are removed only after that is committed. A
    /// node that has lost the lease of the upload cannot judge its blobs.
    ///
    /// Boxed: it is rarely called, and would take half of the memory of thousands of running appends.
    pub(super) fn explain(&self, upload: &Upload, error: storage::Error) -> BoxFuture<'_, EngineError> {
        self.find_meaning(upload.id(), upload.record().lease, error).boxed()
    }

    async fn find_meaning(&self, id: UploadId, lease: Lease, error: storage::Error) -> EngineError {
        let is_finished = error.kind == storage::ErrorKind::Finished;
        if !is_finished && !error.is_loss() {
            return EngineError::storage(error);
        }
        let upload = match self.find(TenantScope::All, id).await {
            Ok(upload) => upload,
            Err(error) => return error,
        };
        if let Some(why) = upload.ended() {
            return why.into();
        }
        if upload.record().lease != lease {
            return EngineError::Unavailable(Unavailable::Superseded);
        }
        if is_finished {
            // It is unknown which of the two is right, and a retry would not resolve it.
            let error = &error as &dyn Error;
            tracing::error!(upload = %id, error, "the record of an upload is older than its finished file");
            return Rejection::BytesMissing.into();
        }
        if !needs_file(&upload) {
            return EngineError::storage(error);
        }
        if let Err(error) = self.note_missing(upload, &error).await {
            let error = &error as &dyn Error;
            tracing::warn!(upload = %id, error, "could not record that the bytes of an upload are missing");
        }
        Rejection::BytesMissing.into()
    }

    /// Records that the bytes of an upload are missing, and logs it, unless that is known.
    pub(super) async fn note_missing(&self, upload: Upload, why: &storage::Error) -> Result<(), EngineError> {
        let id = upload.id();
        if self.mark_missing(upload).await? {
            tracing::error!(upload = %id, error = why as &dyn Error, "the bytes of an upload are missing from the storage");
        }
        Ok(())
    }

    /// Records that the bytes of an upload are missing, without a log line. Reports whether that is new.
    pub(super) async fn mark_missing(&self, mut upload: Upload) -> Result<bool, EngineError> {
        let is_new = !self.only_reads && upload.mark_bytes_missing(self.now());
        if is_new {
            self.commit(upload).await?;
        }
        Ok(is_new)
    }

    /// Returns an upload without the mark that its bytes are missing, if they exist again.
    pub(super) async fn recheck_bytes(&self, upload: Upload) -> Result<Upload, EngineError> {
        // Boxed, as above.
        if upload.record().missing_since.is_none() { Ok(upload) } else { self.find_bytes(upload).boxed().await }
    }

    async fn find_bytes(&self, upload: Upload) -> Result<Upload, EngineError> {
        if !self.has_bytes(&upload).await? {
            return Ok(upload);
        }
        let id = upload.id();
        match self.note_found(upload).await {
            // Another task has recorded it.
            Err(state::Error::Conflict(_)) => self.find(TenantScope::All, id).await,
            noted => Ok(noted?),
        }
    }

    /// Records that the bytes of an upload exist again.
    pub(super) async fn note_found(&self, mut upload: Upload) -> state::Result<Upload> {
        upload.clear_bytes_missing(self.now());
        if self.only_reads {
            return Ok(upload);
        }
        let upload = self.try_commit(upload).await?;
        tracing::info!(upload = %upload.id(), "the missing bytes of an upload were found again");
        Ok(upload)
    }

    /// Reports whether all received bytes of an upload are stored.
    pub(super) async fn has_bytes(&self, upload: &Upload) -> Result<bool, EngineError> {
        if !needs_file(upload) {
            return Ok(true);
        }
        self.are_stored(upload, upload.reach().get()).await.map_err(EngineError::storage)
    }

    /// Counts the uploads whose bytes were found missing before the start.
    pub(super) async fn count_missing(&self) -> Result<(), EngineError> {
        let count = self.uploads.count_missing().await?;
        self.metrics.missing(i64::try_from(count).unwrap_or(i64::MAX));
        Ok(())
    }
}
