//! Concatenation: one upload made of others, in the given order.
//!
//! The record of the final upload is committed before its bytes are joined. If joining fails, or the process
//! dies meanwhile, the record fails and its bytes are removed: an incomplete final upload is never readable,
//! and the parts stay. The same happens if the client goes away, or the server stops, while the bytes are
//! joined.
//!
//! The number of bytes that one request can cause to be copied is bounded. Each part may be listed once, so
//! no more bytes are copied than clients have sent, and never more than `limits.max_upload_size`. While the
//! bytes are copied, their disk space is booked like that of any other upload.

use std::sync::Arc;

use storage::{BlobPart, Resume};
use tokio_util::sync::CancellationToken;

use crate::blobs::{current_key, epoch_of, parts_of};
use crate::command::{Create, EngineError, Unavailable};
use crate::completion::unless_failed;
use crate::digest::RunningDigests;
use crate::hooks::{IdIsTaken, Initiator};
use crate::{Engine, Inner, digest};
use domain::checksum::{Algorithm, Digest};
use domain::dialect::Dialect;
use domain::failure::Failure;
use domain::hook::Caller;
use domain::id::UploadId;
use domain::metadata::Metadata;
use domain::principal::{Principal, TenantScope};
use domain::rejection::Rejection;
use domain::removal::DeletedBy;
use domain::size::{Length, Offset};
use domain::upload::{DurableBytes, Role, Upload};
use domain::write_rules::{Completion, WriteOrder, WriteRules};

/// A request to create a final upload.
#[derive(Debug, Clone)]
pub struct Concatenate {
    /// The principal that creates it; the parts are of the same tenant.
    pub principal: Principal,
    pub dialect: Dialect,
    /// At least one, and each upload once.
    pub parts: Vec<UploadId>,
    /// The list exactly as written by the client.
    pub as_sent: String,
    pub metadata: Metadata,
    pub metadata_as_sent: Option<String>,
    pub wanted_digests: Vec<Algorithm>,
    pub promised_digests: Vec<Digest>,
    /// The part of the request that the application may see.
    pub caller: Option<Arc<Caller>>,
}

impl Engine {
    /// Creates a final upload from finished partial ones. A caller that is dropped while they are joined
    /// cancels it; if they are joined by then, the upload is completed.
    pub async fn concatenate(&self, command: Concatenate) -> Result<Upload, EngineError> {
        self.0.check_running()?;
        self.0.check_keeps_uploads()?;
        let parts = self.0.finished_parts(command.principal.scope(), &command.parts).await?;
        let total = parts.iter().try_fold(Offset::ZERO, |total, part| total.plus(part.offset().get()));
        let max_bytes = self.0.settings.max_upload_bytes;
        let total = total.filter(|total| total.get() <= max_bytes).ok_or(Rejection::OverLimit(max_bytes))?;
        if !self.0.abilities.joins_without_copying {
            self.0.check_space(total.get()).await?;
        }
        let engine = self.clone();
        let unwanted = self.0.stop.child_token();
        let _unwanted_when_dropped = unwanted.clone().drop_guard();
        let joining = self.spawn(async move { engine.0.make_final(command, parts, total, unwanted).await });
        joining.await.map_err(EngineError::task_died)?
    }
}

impl Inner {
    async fn finished_parts(&self, scope: TenantScope, ids: &[UploadId]) -> Result<Vec<Upload>, EngineError> {
        let mut parts: Vec<Upload> = Vec::with_capacity(ids.len());
        for (index, id) in ids.iter().enumerate() {
            if let Some(first) = ids[..index].iter().position(|earlier| earlier == id) {
                return Err(Rejection::PartTwice { first: first + 1, again: index + 1 }.into());
            }
            let part = self.uploads.find(scope, *id).await?.ok_or(Rejection::PartMissing(index + 1))?;
            let part = self.recheck_bytes(self.extended(part)).await?;
            if !part.is_partial() {
                return Err(Rejection::NotPartial(index + 1).into());
            }
            if part.gone(self.now()).is_some() {
                return Err(Rejection::PartMissing(index + 1).into());
            }
            if !part.is_settled() {
                return Err(Rejection::PartUnfinished(index + 1).into());
            }
            parts.push(part);
        }
        Ok(parts)
    }

    /// Returns the parts, once the storage can read them.
    async fn readable_parts(&self, mut parts: Vec<Upload>) -> Result<Vec<Upload>, EngineError> {
        if self.abilities.reads_open {
            return Ok(parts);
        }
        for (index, part) in parts.iter_mut().enumerate() {
            *part = self.seal_partial(part.clone()).await?;
            if part.ended().is_some() {
                return Err(Rejection::PartMissing(index + 1).into());
            }
        }
        Ok(parts)
    }

    async fn make_final(
        &self,
        command: Concatenate,
        parts: Vec<Upload>,
        total: Offset,
        unwanted: CancellationToken,
    ) -> Result<Upload, EngineError> {
        let (caller, principal) = (command.caller, command.principal);
        let new = self.new_upload(
            Create {
                principal,
                dialect: command.dialect,
                write_rules: WriteRules { order: WriteOrder::InOrder, completion: Completion::WhenFull },
                role: Role::Final { parts: command.parts, as_sent: command.as_sent },
                length: Length::new(total.get()),
                metadata: command.metadata,
                metadata_as_sent: command.metadata_as_sent,
                wanted_digests: command.wanted_digests,
                promised_digests: command.promised_digests,
                caller: None,
            },
            self.now(),
        );
        let ids: Vec<UploadId> = parts.iter().map(Upload::id).collect();
        let new = self.permit(new, caller.as_deref()).await?;
        // The parts may have changed while the application decided.
        let parts = self.finished_parts(principal.scope(), &ids).await?;
        let parts = self.readable_parts(parts).await?;
        let held = self.leases.try_take(new.id).ok_or_else(|| EngineError::chosen_badly(IdIsTaken))?;
        let upload = self.insert(Upload::create(new, self.now())).await?;
        let joined = unwanted.run_until_cancelled(self.join(&upload, &parts, total)).await;
        let joined = match joined.unwrap_or(Err(EngineError::Unavailable(Unavailable::ShuttingDown))) {
            Ok(joined) => self.commit_joined(upload.clone(), joined, total).await,
            Err(error) => Err(error),
        };
        let settled = match joined {
            Ok(joined) => self.drive_to_completion(joined, &Initiator::Client(caller)).await.and_then(unless_failed),
            // A part may have been removed meanwhile: then nothing has failed, and the final upload is
            // withdrawn.
            Err(error) => match self.finished_parts(principal.scope(), &ids).await {
                Err(EngineError::Rejected(removed)) => {
                    self.withdraw_final(upload).await;
                    Err(removed.into())
                }
                Ok(_) | Err(_) => {
                    self.undo_final(upload).await;
                    Err(error)
                }
            },
        };
        drop(held);
        settled
    }

    /// Joins the bytes, durably. Nothing is committed yet: if the future is dropped, the join has no effect.
    async fn join(&self, upload: &Upload, parts: &[Upload], total: Offset) -> Result<Joined, EngineError> {
        // A part without bytes has no blob.
        let segments: Vec<BlobPart> = parts.iter().flat_map(|part| parts_of(part, part.offset().get())).collect();
        let resume = match self.blobs.concatenate(&segments, &current_key(upload), epoch_of(upload)).await {
            Ok(resume) => resume,
            Err(error) => return Err(self.explain_parts(parts, error).await),
        };
        let digests = match joined_crc32c(parts) {
            Some(crc) if upload.record().wanted_digests.is_empty() => vec![crc],
            known if !self.abilities.reads_open => known.into_iter().collect(),
            _ => {
                let digests = RunningDigests::start(&upload.record().wanted_digests);
                self.digest_blob(upload, digests, total.get()).await?.finish()
            }
        };
        Ok(Joined { resume, digests })
    }

    /// Records which parts have lost their bytes, if that is why they could not be joined.
    async fn explain_parts(&self, parts: &[Upload], error: storage::Error) -> EngineError {
        for part in parts.iter().filter(|_| error.is_loss()) {
            let noted = match self.has_bytes(part).await {
                Ok(false) => self.note_missing(part.clone(), &error).await,
                Ok(true) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = noted {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(upload = %part.id(), error, "could not record that the bytes of a part are missing");
            }
        }
        EngineError::storage(error)
    }

    async fn commit_joined(&self, mut upload: Upload, joined: Joined, total: Offset) -> Result<Upload, EngineError> {
        let now = self.now();
        if total > Offset::ZERO {
            let durable = DurableBytes {
                ranges: vec![(0, total.get())],
                running_digests: Vec::new(),
                resume: joined.resume.into_bytes(),
                expires_at: self.expires_at(upload.record().created_at, now),
            };
            upload.receive(durable, None, now).map_err(EngineError::inconsistent)?;
        }
        upload.seal(joined.digests, now).map_err(EngineError::inconsistent)?;
        if self.abilities.reads_open {
            self.verify(&mut upload).await.map_err(EngineError::storage)?;
        }
        self.commit(upload).await
    }

    /// Withdraws a final upload whose parts were removed before they were joined. If that cannot be
    /// committed, the sweeper fails it.
    async fn withdraw_final(&self, mut upload: Upload) {
        let id = upload.id();
        let withdrawn = match upload.terminate(DeletedBy::Client, self.now()) {
            Ok(()) => self.commit(upload).await,
            Err(rejection) => Err(rejection.into()),
        };
        match withdrawn {
            Ok(upload) => drop(self.remove_bytes(upload).await),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(upload = %id, error, "could not undo a concatenation whose parts were removed");
            }
        }
    }

    /// Fails a final upload whose bytes were not joined, and removes the bytes written so far. Reports
    /// whether it succeeded.
    pub(super) async fn undo_final(&self, mut upload: Upload) -> bool {
        let failure = Failure {
            code: "concatenation-failed".to_owned(),
            message: "the partial uploads were not joined; they are unchanged, and the concatenation can be requested \
                      again"
                .to_owned(),
            rejection: None,
        };
        let (id, left) = (upload.id(), upload.clone());
        upload.fail(failure, self.now());
        match self.commit(upload).await {
            Ok(failed) => self.remove_bytes(failed).await,
            Err(error) => {
                self.drop_strays(&left).await;
                let error = &error as &dyn std::error::Error;
                tracing::warn!(upload = %id, error, "could not record that a concatenation failed; will retry");
                false
            }
        }
    }
}

/// The bytes of a final upload, all of them durable.
struct Joined {
    resume: Resume,
    digests: Vec<Digest>,
}

/// Computes the CRC-32C of all parts in order from their own digests, without reading a byte.
fn joined_crc32c(parts: &[Upload]) -> Option<Digest> {
    let mut joined = 0;
    for part in parts {
        let digest = part.record().digests.iter().find(|digest| digest.algorithm() == Algorithm::Crc32c)?;
        let crc = u32::from_be_bytes(digest.value().try_into().ok()?);
        joined = digest::crc32c_joined(joined, crc, part.offset().get());
    }
    Digest::new(Algorithm::Crc32c, joined.to_be_bytes().to_vec())
}
