//! Answers to the calls of other nodes.

use super::{PeerLimits, YieldAnswer, YieldCondition};
use crate::command::{EngineError, Unavailable};
use crate::{Engine, Inner};
use domain::id::UploadId;
use domain::principal::TenantScope;
use domain::rejection::Rejection;
use state::ProgressReading;

impl Engine {
    /// Stops writing an upload for another node, and releases its lease.
    pub async fn yield_upload(&self, id: UploadId, when: YieldCondition) -> Result<YieldAnswer, EngineError> {
        // In a task: a caller that is dropped must not leave an upload between two steps.
        let engine = self.clone();
        let yielding = self.spawn(async move { engine.0.yield_upload(id, when).await });
        yielding.await.map_err(EngineError::task_died)?
    }

    /// Has the writer of an upload commit the bytes that it has, if this node writes it.
    pub async fn checkpoint(&self, id: UploadId) {
        if let Some(holder) = self.0.leases.holder(id) {
            holder.checkpoint(self.0.settings.takeover_timeout).await;
        }
    }

    /// Reads the progress of the writers of this node.
    pub async fn local_progress(&self, uploads: &[UploadId]) -> Vec<Option<ProgressReading>> {
        self.0.progress.of(uploads).await
    }
}

impl Inner {
    async fn yield_upload(&self, id: UploadId, when: YieldCondition) -> Result<YieldAnswer, EngineError> {
        let at = match when {
            YieldCondition::At(at) => Some(at),
            YieldCondition::Always => None,
            YieldCondition::Idle if self.leases.holder(id).is_some_and(|holder| !holder.is_parked()) => {
                return Ok(YieldAnswer::Busy);
            }
            YieldCondition::Idle => None,
        };
        // Answers well before the caller's time limit. The caller repeats its request.
        let limits = self.peers.as_ref().map_or_else(PeerLimits::default, |peers| peers.limits);
        let held = match self.leases.take(id, at, limits.silent_after / 2).await {
            Ok(held) => held,
            Err(EngineError::Rejected(Rejection::WrongOffset { ours, .. })) => return Ok(YieldAnswer::Elsewhere(ours)),
            Err(EngineError::Unavailable(Unavailable::Held)) => return Ok(YieldAnswer::Busy),
            Err(error) => return Err(error),
        };
        let upload = self.find(TenantScope::All, id).await?;
        let (lease, ours) = (upload.record().lease, upload.offset());
        if !lease.is_of(self.node) {
            return Ok(YieldAnswer::Released);
        }
        if upload.stage().takes_bytes() && at.is_some_and(|at| at != ours) {
            return Ok(YieldAnswer::Elsewhere(ours));
        }
        self.nodes.release(id, lease).await?;
        // Only now: a request to this node must find that it no longer has the lease.
        drop(held);
        Ok(YieldAnswer::Released)
    }
}
