//! From the last byte to `completed`. Every step can be repeated, so a crash between two of them is finished by the
//! sweeper at the next start.

use futures::StreamExt;
use storage::Resume;

use crate::domain::rejection::Rejection;
use crate::domain::time::Timestamp;
use crate::domain::upload::Bytes;
use crate::domain::upload::Stage;
use crate::domain::upload::Upload;
use crate::engine::Inner;
use crate::engine::blob_key;
use crate::engine::command::EngineError;
use crate::engine::digest::Running;

/// What a request that brought the last byte is told: nobody may take a failed upload for a stored one.
pub(super) fn unless_failed(upload: Upload) -> Result<Upload, EngineError> {
    match upload.stage() {
        Stage::Ended(how) => Err(upload.broken_promise().map_or(Rejection::Gone(how), Rejection::BrokenPromise).into()),
        Stage::Created
        | Stage::Receiving
        | Stage::Stalled
        | Stage::Received
        | Stage::Verified
        | Stage::Stored
        | Stage::Completed => Ok(upload),
    }
}

impl Inner {
    /// Marks an upload as having all its bytes, and checks the digests its client promised.
    pub(super) fn seal(&self, upload: &mut Upload, digests: Running, now: Timestamp) {
        upload.seal(digests.finish(), now);
        if !upload.is_partial() {
            upload.verify(now);
        }
    }

    /// Carries an upload that has all its bytes on until nothing more happens by itself. The caller holds its lease.
    /// One that is still open, or rests, is given back as it is.
    pub(super) async fn settle(&self, mut upload: Upload) -> Result<Upload, EngineError> {
        loop {
            upload = match upload.stage() {
                Stage::Received if !upload.is_partial() => {
                    upload.verify(self.now());
                    self.commit(upload).await?
                }
                Stage::Verified => {
                    let resume = upload.record().resume.clone().map(Resume::from_bytes);
                    let key = blob_key(upload.id());
                    let finished = self.blobs.finish(&key, resume.as_ref(), upload.offset().get()).await;
                    finished.map_err(EngineError::storage)?;
                    let now = self.now();
                    upload.store(now);
                    upload.complete(now);
                    let upload = self.commit(upload).await?;
                    tracing::info!(upload = %upload.id(), size_bytes = upload.offset().get(), "upload completed");
                    upload
                }
                Stage::Stored => {
                    upload.complete(self.now());
                    self.commit(upload).await?
                }
                Stage::Ended(_) => {
                    if upload.record().bytes == Bytes::Kept {
                        self.remove_bytes(upload.clone()).await;
                    }
                    return Ok(upload);
                }
                Stage::Created | Stage::Receiving | Stage::Stalled | Stage::Received | Stage::Completed => {
                    return Ok(upload);
                }
            };
        }
    }

    /// Removes the bytes of an ended upload and notes that they are gone. Trouble is logged; the sweeper tries again.
    pub(super) async fn remove_bytes(&self, mut upload: Upload) {
        let id = upload.id();
        let resume = upload.record().resume.clone().map(Resume::from_bytes);
        if let Err(error) = self.blobs.discard(&blob_key(id), resume.as_ref()).await {
            tracing::warn!(upload = %id, error = &error as &dyn std::error::Error, "could not remove the bytes of an ended upload; will try again");
            return;
        }
        upload.bytes_removed(self.now());
        if let Err(error) = self.commit(upload).await {
            tracing::warn!(upload = %id, error = &error as &dyn std::error::Error, "could not note that the bytes of an upload are gone; will try again");
        }
    }

    /// Computes digests of bytes that were not seen passing.
    pub(super) async fn digest_blob(&self, upload: &Upload, size_bytes: u64) -> Result<Running, EngineError> {
        let mut digests = Running::start(&upload.record().wanted_digests);
        let mut bytes = self.blobs.read(&blob_key(upload.id()), 0..size_bytes).await.map_err(EngineError::storage)?;
        while let Some(chunk) = bytes.next().await {
            digests.update(&chunk.map_err(EngineError::storage)?);
        }
        Ok(digests)
    }
}
