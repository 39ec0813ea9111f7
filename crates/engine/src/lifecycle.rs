//! Creates uploads, and ends them when their client cancels them.

use crate::command::{Cancel, Create, EngineError, Inspection};
use crate::completion::unless_failed;
use crate::hooks::{IdIsTaken, Initiator};
use crate::peers::YieldCondition;
use crate::{Engine, Inner};
use domain::id::UploadId;
use domain::principal::{Principal, TenantScope};
use domain::rejection::Rejection;
use domain::removal::DeletedBy;
use domain::size::Length;
use domain::stage::Ended;
use domain::time::Timestamp;
use domain::upload::{NewUpload, Upload, UploadTerms};
use domain::write_rules::WriteOrder;

impl Engine {
    /// Creates an upload. An upload of length zero is completed at once.
    pub async fn create(&self, command: Create) -> Result<Upload, EngineError> {
        let inner = &self.0;
        inner.check_running()?;
        inner.check_keeps_uploads()?;
        let length_bytes = command.length.map_or(0, Length::get);
        if length_bytes > inner.settings.max_upload_bytes {
            return Err(Rejection::OverLimit(inner.settings.max_upload_bytes).into());
        }
        if command.write_rules.order == WriteOrder::Any && !inner.takes_any_order() {
            return Err(Rejection::InOrderOnly.into());
        }
        inner.check_space(length_bytes).await?;
        // In a task: a caller that is dropped must leave the upload neither without its events nor between
        // two stages.
        let engine = self.clone();
        let creating = self.spawn(async move { engine.0.create(command).await });
        creating.await.map_err(EngineError::task_died)?
    }

    /// Returns the current state of an upload. A live writer first commits the bytes it has, and then
    /// continues.
    ///
    /// Waits while an upload has all its bytes but is not settled: no client may take it for complete before
    /// it is.
    pub async fn inspect(&self, principal: &Principal, id: UploadId) -> Result<Inspection, EngineError> {
        let inner = &self.0;
        inner.check_contact()?;
        let holder = inner.leases.holder(id);
        if holder.is_some() || inner.peers.is_some() {
            // A caller without access to the upload must not disturb its writer.
            let found = inner.find(principal.scope(), id).await?;
            match holder {
                Some(holder) => holder.checkpoint(inner.settings.takeover_timeout).await,
                None => inner.checkpoint_elsewhere(&found).await,
            }
        }
        let upload = inner.recheck_bytes(inner.find_settled(principal.scope(), id).await?).await?;
        Ok(Inspection { gone: upload.gone(inner.now()), upload })
    }

    /// Ends an upload and removes its bytes, if the application permits. A running append is ended first, and
    /// its client is notified that the upload is gone.
    pub async fn cancel(&self, command: Cancel) -> Result<(), EngineError> {
        let Cancel { principal, id, caller } = command;
        let upload = self.0.find(principal.scope(), id).await?;
        let engine = self.clone();
        let cancelling = self.spawn(async move {
            engine.0.permit_ending(&upload, caller.as_deref()).await?;
            engine.0.end(principal.scope(), upload).await
        });
        cancelling.await.map_err(EngineError::task_died)?
    }

    /// Ends an upload whose creation request failed to fill it and which no client can resume. Calls no hook.
    pub async fn discard(&self, principal: &Principal, id: UploadId) -> Result<(), EngineError> {
        let (engine, scope) = (self.clone(), principal.scope());
        let upload = self.0.find(scope, id).await?;
        let discarding = self.spawn(async move { engine.0.end(scope, upload).await });
        discarding.await.map_err(EngineError::task_died)?
    }
}

impl Inner {
    async fn create(&self, mut command: Create) -> Result<Upload, EngineError> {
        let caller = command.caller.take();
        let new = self.new_upload(command, self.now());
        let new = self.permit(new, caller.as_deref()).await?;
        let (id, now) = (new.id, self.now());
        let mut upload = Upload::create(new, now);
        if upload.is_full() {
            self.seal(&mut upload, Vec::new(), now).await?;
        }
        let held = self.leases.try_take(id).ok_or_else(|| EngineError::chosen_badly(IdIsTaken))?;
        let upload = self.insert(upload).await?;
        let settled = self.drive_to_completion(upload, &Initiator::Client(caller)).await.and_then(unless_failed);
        drop(held);
        settled
    }

    async fn end(&self, scope: TenantScope, mut found: Upload) -> Result<(), EngineError> {
        let id = found.id();
        // A request that would be rejected anyway ends no writer and takes over no lease.
        found.terminate(DeletedBy::Client, self.now())?;
        let (held, ended) = self.leases.take_to_end(id, self.settings.takeover_timeout).await?;
        let mut upload = self.obtain(self.find(scope, id).await?, YieldCondition::Always, None).await?;
        upload.terminate(DeletedBy::Client, self.now())?;
        let upload = self.commit(upload).await?;
        ended.send_replace(Some(Ended::Terminated));
        tracing::info!(upload = %id, "upload terminated");
        self.remove_bytes(upload).await;
        drop(held);
        Ok(())
    }

    pub(super) fn new_upload(&self, command: Create, now: Timestamp) -> NewUpload {
        let mut wanted_digests = self.settings.writer.digests.clone();
        wanted_digests.extend(command.wanted_digests);
        wanted_digests.extend(command.promised_digests.iter().map(|promised| promised.algorithm()));
        wanted_digests.sort_unstable();
        wanted_digests.dedup();
        NewUpload {
            id: UploadId::new(now, (self.randomness)()),
            tenant: command.principal.tenant,
            dialect: command.dialect,
            write_rules: command.write_rules,
            role: command.role,
            length: command.length,
            metadata: command.metadata,
            metadata_as_sent: command.metadata_as_sent,
            terms: UploadTerms::default(),
            wanted_digests,
            promised_digests: command.promised_digests,
            expires_at: self.expires_at(now, now),
        }
    }
}
