//! The steps from the last byte to `completed`. Every step can be repeated: after a crash between two of
//! them, the sweeper completes the upload at the next start.

use futures::StreamExt;

use crate::Inner;
use crate::blobs::GenerationsNotJoined;
use crate::command::EngineError;
use crate::digest::{RunningDigests, UnreadableState};
use crate::hooks::Initiator;
use domain::checksum::Digest;
use domain::failure::Failure;
use domain::rejection::Rejection;
use domain::stage::Stage;
use domain::time::Timestamp;
use domain::upload::{StoredBytes, Upload};

/// Turns a failed upload into an error for the request that brought the last byte: no client may take it for
/// a stored one.
pub(super) fn unless_failed(upload: Upload) -> Result<Upload, EngineError> {
    match upload.ended() {
        Some(why) => Err(upload.broken_promise().map_or(why, Rejection::BrokenPromise).into()),
        None => Ok(upload),
    }
}

impl Inner {
    /// Seals an upload that has all its bytes, and checks the digests that its client declared. Digests that
    /// could not be computed while the bytes arrived are computed from the stored ones.
    ///
    /// Where open blobs cannot be read, the upload is only marked as sealed. The blob must not be sealed
    /// before that is committed: an upload that still takes bytes would be left with a blob that takes none.
    pub(super) async fn seal(
        &self,
        upload: &mut Upload,
        mut digests: Vec<Digest>,
        now: Timestamp,
    ) -> Result<(), EngineError> {
        upload.check_sealable().map_err(EngineError::inconsistent)?;
        if !self.abilities.reads_open {
            return upload.seal(digests, now).map_err(EngineError::inconsistent);
        }
        let missing = upload.missing_digests(&digests);
        if !missing.is_empty() {
            let computed = self.digest_blob(upload, RunningDigests::of(&missing), upload.offset().get()).await?;
            digests.extend(computed.finish());
            digests.sort_by_key(Digest::algorithm);
        }
        upload.seal(digests, now).map_err(EngineError::inconsistent)?;
        if !upload.is_partial() || upload.broken_promise().is_some() {
            self.verify(upload).await.map_err(EngineError::storage)?;
        }
        Ok(())
    }

    /// Advances an upload that has all its bytes until it is settled, or until a call to the application
    /// returns no verdict. The caller holds its lease. An upload that is still open or already settled is
    /// returned unchanged.
    pub(super) async fn drive_to_completion(
        &self,
        mut upload: Upload,
        initiator: &Initiator,
    ) -> Result<Upload, EngineError> {
        loop {
            // An incomplete upload never becomes a file, whatever path led here.
            if upload.is_settling()
                && let Err(error) = upload.check_whole()
            {
                upload = self.lose(upload, error).await?;
            }
            upload = match upload.stage() {
                Stage::Received if !upload.is_partial() => match self.seal_and_verify(&mut upload).await {
                    Ok(()) => self.commit(upload).await?,
                    Err(error) if error.is_loss() => self.lose(upload, error).await?,
                    Err(error) => return Err(EngineError::storage(error)),
                },
                Stage::Received if !self.abilities.reads_open => {
                    let sealed = self.seal_partial(upload).await?;
                    if sealed.stage() == Stage::Received {
                        return Ok(sealed);
                    }
                    sealed
                }
                Stage::Verified if self.awaits_verdict(&upload) => self.decide(upload, initiator).await?,
                Stage::Verified => self.finish(upload).await?,
                Stage::Stored => {
                    upload.complete_at(self.file_to_report(&upload), self.now());
                    self.commit(upload).await?
                }
                Stage::Ended(_) => {
                    if upload.record().bytes == StoredBytes::Kept {
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

    /// Verifies an upload that has all its bytes, once they can be read.
    async fn seal_and_verify(&self, upload: &mut Upload) -> storage::Result<()> {
        if !self.abilities.reads_open {
            self.seal_blob(upload).await?;
            self.complete_digests(upload).await?;
        }
        self.verify(upload).await
    }

    /// Seals the blob of a received partial upload, so that it can be read, and checks its digests. Both may
    /// have been done before: a partial upload has no stage that shows it.
    pub(super) async fn seal_partial(&self, mut upload: Upload) -> Result<Upload, EngineError> {
        let is_new = match self.seal_blob(&upload).await {
            Ok(()) => self.complete_digests(&mut upload).await,
            Err(error) => Err(error),
        };
        let is_new = match is_new {
            Ok(is_new) => is_new,
            Err(error) => return Err(self.explain(&upload, error).await),
        };
        if upload.broken_promise().is_some() {
            upload.verify(self.now());
        } else if !is_new {
            return Ok(upload);
        }
        self.commit(upload).await
    }

    /// Computes the missing digests of an upload from its stored bytes. Reports whether any were missing.
    async fn complete_digests(&self, upload: &mut Upload) -> storage::Result<bool> {
        let missing = upload.missing_digests(&upload.record().digests);
        if missing.is_empty() {
            return Ok(false);
        }
        let computed = self.read_into(upload, RunningDigests::of(&missing), upload.offset().get()).await?;
        upload.complete_digests(computed.finish());
        Ok(true)
    }

    /// Moves the bytes of a verified upload to their final place.
    async fn finish(&self, upload: Upload) -> Result<Upload, EngineError> {
        let mut upload = match self.join_generations(upload).await {
            Ok(joined) => joined,
            Err(GenerationsNotJoined::Blobs(upload, error)) if error.is_loss() => {
                return self.lose(*upload, error).await;
            }
            Err(GenerationsNotJoined::Blobs(_, error)) => return Err(EngineError::storage(error)),
            Err(GenerationsNotJoined::Record(error)) => return Err(error),
        };
        match self.finish_blob(&upload).await {
            Ok(()) => {
                let now = self.now();
                upload.store(now);
                upload.complete_at(self.file_to_report(&upload), now);
                let upload = self.commit(upload).await?;
                tracing::info!(upload = %upload.id(), size_bytes = upload.offset().get(), "upload completed");
                Ok(upload)
            }
            Err(error) if error.is_loss() => self.lose(upload, error).await,
            Err(error) => Err(EngineError::storage(error)),
        }
    }

    /// Fails an upload whose bytes are no longer complete: a retry would not bring them back. A node that has
    /// lost the lease may miss bytes that the next one has moved; its commit fails, and it logs nothing.
    async fn lose(
        &self,
        mut upload: Upload,
        error: impl std::error::Error + Send + 'static,
    ) -> Result<Upload, EngineError> {
        let message = "the bytes of the upload are missing from the storage".to_owned();
        upload.fail(Failure { code: "bytes-missing".to_owned(), message, rejection: None }, self.now());
        let failed = self.commit(upload).await?;
        tracing::error!(upload = %failed.id(), error = &error as &dyn std::error::Error, "an upload failed because its bytes are missing from the storage");
        Ok(failed)
    }

    /// Removes the bytes of an upload that no longer needs them, and records that. Reports whether it
    /// succeeded; a failure is logged, and the sweeper retries.
    pub(super) async fn remove_bytes(&self, mut upload: Upload) -> bool {
        let id = upload.id();
        let removed = self.discard_blobs(&upload).await.map_err(EngineError::storage);
        let noted = match removed {
            Ok(()) => {
                upload.bytes_removed(self.now());
                self.commit(upload).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &noted {
            let error = error as &dyn std::error::Error;
            tracing::warn!(upload = %id, error, "could not remove the bytes of an ended upload; will retry");
        }
        noted.is_ok()
    }

    /// Returns the running digests of an upload that takes bytes in order. If their saved state cannot be
    /// read, as after a change of version, they are computed from the stored bytes: now, or once those can be
    /// read.
    pub(super) async fn running_digests(&self, upload: &Upload) -> Result<RunningDigests, EngineError> {
        let (record, size_bytes) = (upload.record(), upload.offset().get());
        match RunningDigests::resume(&record.wanted_digests, &record.running_digests) {
            Ok(running) if size_bytes == 0 || !record.running_digests.is_empty() => Ok(running),
            Ok(_) | Err(UnreadableState) if !self.abilities.reads_open => Ok(RunningDigests::of(&[])),
            Ok(_) | Err(UnreadableState) => {
                tracing::warn!(upload = %upload.id(), size_bytes, "recomputing digests from the stored bytes");
                self.digest_blob(upload, RunningDigests::start(&record.wanted_digests), size_bytes).await
            }
        }
    }

    /// Updates digests with stored bytes that were not digested while they arrived.
    pub(super) async fn digest_blob(
        &self,
        upload: &Upload,
        digests: RunningDigests,
        size_bytes: u64,
    ) -> Result<RunningDigests, EngineError> {
        match self.read_into(upload, digests, size_bytes).await {
            Ok(digests) => Ok(digests),
            Err(error) => Err(self.explain(upload, error).await),
        }
    }

    async fn read_into(
        &self,
        upload: &Upload,
        mut digests: RunningDigests,
        size_bytes: u64,
    ) -> storage::Result<RunningDigests> {
        if size_bytes == 0 {
            return Ok(digests);
        }
        let mut bytes = self.read_bytes(upload, 0..size_bytes).await?;
        while let Some(chunk) = bytes.next().await {
            digests.update(&chunk?);
        }
        Ok(digests)
    }
}
