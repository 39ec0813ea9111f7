//! Requests to the node that holds an upload.

use std::time::Duration;

use tokio::time::Instant;

use super::{NoAnswer, PeerAccess, YieldAnswer, YieldCondition};
use crate::Inner;
use crate::command::{EngineError, Unavailable};
use domain::id::{InstanceId, UploadId};
use domain::node::Lease;
use domain::principal::TenantScope;
use domain::rejection::Rejection;
use domain::upload::Upload;

/// Time between two requests to a holder that still needs the upload.
const RETRY_AFTER: Duration = Duration::from_millis(50);

impl Inner {
    /// Returns the upload as it is once this node holds its lease in the state. The caller holds the local
    /// lease. Another live node that holds the upload is requested to yield it; if it does not answer, the
    /// upload is taken from it, unless the request is to be rejected anyway.
    pub(crate) async fn obtain(
        &self,
        mut found: Upload,
        when: YieldCondition,
        rejection: Option<Rejection>,
    ) -> Result<Upload, EngineError> {
        if self.holds(&found) {
            return Ok(found);
        }
        let id = found.id();
        let deadline = Instant::now() + self.settings.takeover_timeout;
        loop {
            let lease = self.acquire(&found).await?;
            if lease.is_of(self.node) {
                // The previous holder may have committed until it lost the lease. Another node may have taken
                // the upload since, and its lease must not be mistaken for this node's.
                found = self.find(TenantScope::All, id).await?;
                if found.record().lease == lease {
                    return Ok(found);
                }
            }
            let (Some(peers), Some(holder)) = (&self.peers, lease.holder.filter(|holder| *holder != self.node)) else {
                return Err(EngineError::Unavailable(Unavailable::Held));
            };
            match peers.request_yield(holder, id, when).await {
                Ok(YieldAnswer::Released) => {}
                Ok(YieldAnswer::Elsewhere(ours)) if let YieldCondition::At(theirs) = when => {
                    return Err(Rejection::WrongOffset { ours, theirs }.into());
                }
                Ok(YieldAnswer::Busy | YieldAnswer::Elsewhere(_)) => tokio::time::sleep(RETRY_AFTER).await,
                Err(no_answer) => match rejection {
                    Some(rejection) => return Err(rejection.into()),
                    None => self.seize(id, lease, &no_answer).await?,
                },
            }
            if Instant::now() >= deadline {
                return Err(EngineError::Unavailable(Unavailable::Held));
            }
        }
    }

    /// Takes an upload from a node that does not answer, unless its lease has changed since `seen`.
    async fn seize(&self, id: UploadId, seen: Lease, no_answer: &NoAnswer) -> Result<(), EngineError> {
        let lease = self.nodes.seize(id, seen, self.node).await?.ok_or(Rejection::NotFound)?;
        if lease.is_of(self.node) {
            tracing::warn!(upload = %id, error = %no_answer, "took over an upload from a node that does not answer");
        }
        Ok(())
    }

    /// Has the holder of an upload commit the bytes that it has, if that is another node.
    pub(crate) async fn checkpoint_elsewhere(&self, upload: &Upload) {
        let Some((peers, holder)) = self.other_holder(upload) else { return };
        let asked = peers.calls.checkpoint(holder, upload.id());
        // Without an answer the committed row is still correct, only a little older.
        match tokio::time::timeout(self.settings.takeover_timeout, asked).await {
            Ok(Ok(())) => {}
            Ok(Err(no_answer)) => {
                tracing::debug!(upload = %upload.id(), error = %no_answer, "could not request a checkpoint");
            }
            Err(_) => tracing::debug!(upload = %upload.id(), "a node has not answered the request for a checkpoint"),
        }
    }

    /// Returns the node that may be writing an upload, if that is not this one.
    pub(super) fn other_holder(&self, upload: &Upload) -> Option<(&PeerAccess, InstanceId)> {
        let peers = self.peers.as_ref()?;
        let holder = upload.record().lease.holder.filter(|holder| *holder != self.node)?;
        upload.stage().takes_bytes().then_some((peers, holder))
    }
}

impl PeerAccess {
    async fn request_yield(
        &self,
        holder: InstanceId,
        upload: UploadId,
        when: YieldCondition,
    ) -> Result<YieldAnswer, NoAnswer> {
        let answer = tokio::time::timeout(self.limits.silent_after, self.calls.yield_upload(holder, upload, when));
        answer.await.unwrap_or_else(|_| Err(NoAnswer::because("it is silent")))
    }
}
