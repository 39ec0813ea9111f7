//! Stages that backends report about their own work on an upload.
//!
//! A report is committed like every change: in one commit, under the upload's lease. It never ends a writer.
//! It waits for a writer that is between the last byte and `completed`, so that neither loses a commit to the
//! other.

use tokio::time::Instant;

use crate::command::{EngineError, Unavailable};
use crate::lease::LeaseGuard;
use crate::writer_requests::WriterRequest;
use crate::{Engine, Inner};
use domain::id::UploadId;
use domain::principal::{Principal, TenantScope};
use domain::report::{NewReport, ReportRejected};
use domain::upload::{ReportOutcome, Upload};

/// Attempts to commit a report that conflicts with another change. Under the lease, conflicts are rare.
const TRIES: u32 = 5;

/// The reason why a report was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error(transparent)]
    Rejected(#[from] ReportRejected),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Engine {
    /// Records the report of a backend. Returns the upload afterwards, and whether the report changed it.
    pub async fn report(
        &self,
        principal: &Principal,
        id: UploadId,
        new: NewReport,
    ) -> Result<(Upload, ReportOutcome), ReportError> {
        self.0.check_running()?;
        // If the result is known already, this does not wait for a writer.
        let scope = principal.scope();
        self.0.find(scope, id).await?.check_reportable(self.0.now())?;
        let engine = self.clone();
        let reporting = self.spawn(async move {
            let held = engine.0.wait_for_lease(id).await?;
            let reported = engine.0.commit_report(scope, id, new).await;
            drop(held);
            reported
        });
        reporting.await.map_err(EngineError::task_died)?
    }
}

impl Inner {
    /// Takes the lease once it is free. Does not request it from its holder.
    async fn wait_for_lease(&self, id: UploadId) -> Result<LeaseGuard<WriterRequest>, EngineError> {
        let deadline = Instant::now() + self.settings.takeover_timeout;
        loop {
            if let Some(held) = self.leases.try_take(id) {
                return Ok(held);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(EngineError::Unavailable(Unavailable::Held));
            }
            if let Some(holder) = self.leases.holder(id) {
                holder.ended_within(left).await;
            }
        }
    }

    async fn commit_report(
        &self,
        scope: TenantScope,
        id: UploadId,
        new: NewReport,
    ) -> Result<(Upload, ReportOutcome), ReportError> {
        for _ in 0..TRIES {
            let mut upload = self.find(scope, id).await?;
            if upload.is_settling() {
                // The node that settles it must not lose the commit of a verdict to this one.
                upload = self.own(upload).await?;
            }
            let reported = upload.report(new.clone(), self.now())?;
            if reported == ReportOutcome::Unchanged {
                return Ok((upload, reported));
            }
            match self.try_commit(upload).await {
                Ok(upload) => return Ok((upload, reported)),
                Err(state::Error::Conflict(_)) => {}
                Err(error) => return Err(EngineError::from(error).into()),
            }
        }
        Err(EngineError::Unavailable(Unavailable::Superseded).into())
    }
}
