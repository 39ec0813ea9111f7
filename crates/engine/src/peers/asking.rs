//! Requests to the node that holds an upload.

use std::time::Duration;

use tokio::time::Instant;

use super::metrics::{MeasuredCall, Takeover};
use super::{NoAnswer, PeerAccess, YieldAnswer, YieldCondition};
use crate::Inner;
use crate::command::{EngineError, Unavailable};
use crate::inner::Acquired;
use domain::id::{InstanceId, UploadId};
use domain::node::Lease;
use domain::rejection::Rejection;
use domain::upload::Upload;

/// Time between two requests to a holder that still needs the upload.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// How the holder of an upload is probed during a call that may take long.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProbeTimes {
    /// Time before each probe.
    pub(super) every: Duration,
    /// Time for its answer.
    pub(super) patience: Duration,
}

/// The node that may write an upload from now on.
#[expect(clippy::large_enum_variant, reason = "one lives for a moment; boxing would allocate for each append")]
pub(crate) enum Obtained {
    /// This one: the upload as it is now.
    Here(Upload),
    /// Another one, which keeps it: it receives bytes of the upload in any order.
    Elsewhere(InstanceId),
}

impl Inner {
    /// Returns the upload as it is once this node holds its lease in the state. The caller holds the local
    /// lease. Another live node that holds the upload is requested to yield it; if it does not answer, the
    /// upload is taken from it, unless the request is to be rejected anyway.
    pub(crate) async fn obtain(
        &self,
        found: Upload,
        when: YieldCondition,
        rejection: Option<Rejection>,
    ) -> Result<Upload, EngineError> {
        match self.obtain_or_find_holder(found, when, rejection).await? {
            Obtained::Here(upload) => Ok(upload),
            Obtained::Elsewhere(_) => Err(EngineError::Unavailable(Unavailable::Held)),
        }
    }

    /// Does the same. With [`YieldCondition::Idle`], a holder that receives bytes keeps the upload.
    pub(crate) async fn obtain_or_find_holder(
        &self,
        found: Upload,
        when: YieldCondition,
        rejection: Option<Rejection>,
    ) -> Result<Obtained, EngineError> {
        if self.holds(&found) {
            return Ok(Obtained::Here(found));
        }
        let id = found.id();
        let began = Instant::now();
        let deadline = began + self.settings.takeover_timeout;
        let mut takeover = None;
        let mut seized = None;
        loop {
            let acquired = match seized.take() {
                Some(lease) => self.confirm(id, lease).await?,
                None => self.acquire(&found).await?,
            };
            let lease = match acquired {
                Acquired::Here(upload) => {
                    if let Some(takeover) = takeover {
                        self.metrics.peers.took_over(takeover, began);
                    }
                    return Ok(Obtained::Here(upload));
                }
                Acquired::Elsewhere(lease) => lease,
            };
            let (Some(peers), Some(holder)) = (&self.peers, lease.holder.filter(|holder| *holder != self.node)) else {
                return Err(EngineError::Unavailable(Unavailable::Held));
            };
            match self.request_yield(peers, holder, id, when).await {
                Ok(YieldAnswer::Released) => takeover = Some(Takeover::Clean),
                Ok(YieldAnswer::Elsewhere(ours))
                    if let YieldCondition::At(theirs) = when
                        && ours >= found.offset() =>
                {
                    return Err(Rejection::WrongOffset { ours, theirs }.into());
                }
                Ok(YieldAnswer::Busy) if when == YieldCondition::Idle => return Ok(Obtained::Elsewhere(holder)),
                Ok(YieldAnswer::Busy | YieldAnswer::Elsewhere(_)) => tokio::time::sleep(RETRY_AFTER).await,
                Err(no_answer) => match rejection {
                    Some(rejection) => return Err(rejection.into()),
                    None => {
                        seized = self.seize(id, lease, &no_answer).await?;
                        match seized {
                            Some(_) => takeover = Some(Takeover::Unclean),
                            // Another node was faster, or this one does not count as alive until its next
                            // heartbeat.
                            None => tokio::time::sleep(RETRY_AFTER).await,
                        }
                    }
                },
            }
            if Instant::now() >= deadline {
                return Err(EngineError::Unavailable(Unavailable::Held));
            }
        }
    }

    /// Takes an upload from a node that does not answer. Returns `None` if its lease has changed since
    /// `seen`, or this node does not count as alive.
    async fn seize(&self, id: UploadId, seen: Lease, no_answer: &NoAnswer) -> Result<Option<Lease>, EngineError> {
        let lease = self.nodes.seize(id, seen, self.node).await?.ok_or(Rejection::NotFound)?;
        if !lease.is_of(self.node) {
            return Ok(None);
        }
        tracing::warn!(upload = %id, error = %no_answer, "took over an upload from a node that does not answer");
        Ok(Some(lease))
    }

    /// Has the holder of an upload commit the bytes that it has, if that is another node. Committing may take
    /// long, but a holder that answers no other call meanwhile is not waited for: see
    /// [`PeerLimits::silent_after`](super::PeerLimits::silent_after).
    pub(crate) async fn checkpoint_elsewhere(&self, upload: &Upload) {
        let Some((peers, holder)) = self.other_holder(upload) else { return };
        let call = peers.calls.checkpoint(holder, upload.id());
        let half = peers.limits.silent_after / 2;
        let answer = tokio::select! {
            biased;
            answer = self.measure(MeasuredCall::Checkpoint, self.settings.takeover_timeout, call) => answer,
            silence = self.silence_of(peers, holder, upload.id(), ProbeTimes { every: half, patience: half }) => {
                Err(silence)
            }
        };
        // Without an answer the committed row is still correct, only a little older.
        if let Err(no_answer) = answer {
            tracing::debug!(upload = %upload.id(), error = %no_answer, "could not request a checkpoint");
        }
    }

    /// Waits until a node does not answer any more. A frozen one closes no connection.
    pub(super) async fn silence_of(
        &self,
        peers: &PeerAccess,
        holder: InstanceId,
        id: UploadId,
        ProbeTimes { every, patience }: ProbeTimes,
    ) -> NoAnswer {
        let upload = [id];
        loop {
            tokio::time::sleep(every).await;
            let call = peers.calls.progress(holder, &upload);
            if let Err(silence) = self.measure(MeasuredCall::Progress, patience, call).await {
                return silence;
            }
        }
    }

    /// Returns the node that may be writing an upload, if that is not this one.
    pub(super) fn other_holder(&self, upload: &Upload) -> Option<(&PeerAccess, InstanceId)> {
        let peers = self.peers.as_ref()?;
        let holder = upload.record().lease.holder.filter(|holder| *holder != self.node)?;
        upload.stage().takes_bytes().then_some((peers, holder))
    }

    async fn request_yield(
        &self,
        peers: &PeerAccess,
        holder: InstanceId,
        upload: UploadId,
        when: YieldCondition,
    ) -> Result<YieldAnswer, NoAnswer> {
        let call = peers.calls.yield_upload(holder, upload, when);
        self.measure(MeasuredCall::Yield, peers.limits.silent_after, call).await
    }

    /// Waits for the answer to a call. One that does not come within `patience` does not come at all.
    pub(super) async fn measure<T>(
        &self,
        call: MeasuredCall,
        patience: Duration,
        answer: impl Future<Output = Result<T, NoAnswer>>,
    ) -> Result<T, NoAnswer> {
        let answer = async {
            let answered = tokio::time::timeout(patience, answer).await;
            answered.unwrap_or_else(|_| Err(NoAnswer::because("it is silent")))
        };
        self.metrics.peers.measure(call, answer).await
    }
}
