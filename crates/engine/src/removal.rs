//! Deletion by an operator, and removal of files by retention.
//!
//! The record comes first: its commit says that the bytes are no longer needed, and who decided that. The
//! bytes are removed afterwards. If a crash leaves some of them, the sweeper finds them by the record and
//! removes them.

use crate::command::EngineError;
use crate::peers::YieldCondition;
use crate::{Engine, Inner};
use domain::id::UploadId;
use domain::principal::{Principal, TenantScope};
use domain::removal::DeletedBy;
use domain::stage::Stage;
use domain::upload::Upload;

impl Engine {
    /// Deletes an upload for an operator, whatever its stage and its dialect. A running append is ended
    /// first. No hook is called. Deleting an upload that has already ended changes nothing.
    pub async fn delete(&self, principal: &Principal, id: UploadId) -> Result<(), EngineError> {
        let (engine, scope) = (self.clone(), principal.scope());
        let deleting = self.spawn(async move { engine.0.delete(scope, id).await });
        deleting.await.map_err(EngineError::task_died)?
    }
}

impl Inner {
    async fn delete(&self, scope: TenantScope, id: UploadId) -> Result<(), EngineError> {
        if !self.find(scope, id).await?.owns_bytes() {
            return Ok(());
        }
        let (held, ended) = self.leases.take_to_end(id, self.settings.takeover_timeout).await?;
        let mut upload = self.obtain(self.find(scope, id).await?, YieldCondition::Always, None).await?;
        if upload.owns_bytes() {
            upload.delete_for_operator(self.now())?;
            let upload = self.commit(upload).await?;
            if let Stage::Ended(how) = upload.stage() {
                ended.send_replace(Some(how));
            }
            tracing::info!(upload = %id, stage = upload.stage().name(), "an operator deleted an upload");
            self.remove_bytes(upload).await;
        }
        drop(held);
        Ok(())
    }

    /// Removes the file of an upload that completed long enough ago. The caller holds its lease.
    pub(super) async fn remove_outdated(&self, mut upload: Upload) -> Result<(), EngineError> {
        upload.remove(DeletedBy::Retention, self.now())?;
        let upload = self.commit(upload).await?;
        tracing::info!(upload = %upload.id(), "removed the file of an upload after limits.completed_expiry");
        self.remove_bytes(upload).await;
        Ok(())
    }
}
