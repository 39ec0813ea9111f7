//! Bytes that were durable and are not there any more: somebody has removed the file, restored a database
//! without it, or lost the latest writes of a relaxed server with its power.
//!
//! Whoever finds that out notes it in the record, and clients are told that the upload is gone: trying again
//! would not bring its bytes back. The record stays as it was otherwise. Whenever the upload is asked for,
//! its file is looked for once more, so that one that was restored is served again.

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
use state::SweepSelection;

/// How many uploads are counted with one question.
const PAGE: u32 = 1_000;

/// Whether an upload cannot be without a file: it has bytes, or has been given its final place.
pub(super) fn needs_file(upload: &Upload) -> bool {
    upload.owns_bytes() && (upload.received_bytes() > 0 || upload.stage() == Stage::Completed)
}

impl Inner {
    /// Returns what an error of the storage means to whoever wanted the bytes of an upload. If they are
    /// missing, that is noted, unless the upload has ended meanwhile: bytes are removed only after that is
    /// committed. A node that has lost the upload knows nothing of its blobs any more.
    ///
    /// Boxed: it is seldom needed, and would be half of what thousands of running appends take.
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
            // Nobody can say which of the two is right, and trying again would not tell either.
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

    /// Notes that the bytes of an upload are missing, and logs it, unless that is known.
    pub(super) async fn note_missing(&self, upload: Upload, why: &storage::Error) -> Result<(), EngineError> {
        let id = upload.id();
        if self.mark_missing(upload).await? {
            tracing::error!(upload = %id, error = why as &dyn Error, "the bytes of an upload are missing from the storage");
        }
        Ok(())
    }

    /// The same without a line in the log. Says whether it was unknown.
    pub(super) async fn mark_missing(&self, mut upload: Upload) -> Result<bool, EngineError> {
        let is_new = upload.mark_bytes_missing(self.now());
        if is_new {
            self.commit(upload).await?;
        }
        Ok(is_new)
    }

    /// Returns an upload without the note that its bytes are missing, if they are there again.
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
            // Somebody else has noted it.
            Err(state::Error::Conflict(_)) => self.find(TenantScope::All, id).await,
            noted => Ok(noted?),
        }
    }

    /// Notes that the bytes of an upload are there again.
    pub(super) async fn note_found(&self, mut upload: Upload) -> state::Result<Upload> {
        upload.clear_bytes_missing(self.now());
        let upload = self.try_commit(upload).await?;
        tracing::info!(upload = %upload.id(), "the missing bytes of an upload were found again");
        Ok(upload)
    }

    /// Whether everything that was received of an upload is stored.
    pub(super) async fn has_bytes(&self, upload: &Upload) -> Result<bool, EngineError> {
        if !needs_file(upload) {
            return Ok(true);
        }
        self.are_stored(upload, upload.reach().get()).await.map_err(EngineError::storage)
    }

    /// Counts the uploads whose bytes are known to be missing from before the start.
    pub(super) async fn count_missing(&self) -> Result<(), EngineError> {
        let mut counted = 0;
        loop {
            let found = self.uploads.due(SweepSelection::Missing, self.node, counted, PAGE).await?;
            let count = u32::try_from(found.len()).unwrap_or(PAGE);
            self.metrics.missing(i64::from(count));
            counted += count;
            if count < PAGE {
                return Ok(());
            }
        }
    }
}
