//! Calls between the engines of nodes that share one state.
//!
//! A request for an upload may reach a node that does not hold its lease. The engine of that node then calls
//! the holder: to give the upload back (`asking`), to commit the bytes it has, or to read its progress
//! (`readings`). The bytes for an upload that several requests fill in any order are passed on to its holder
//! (`forwarding`). The holder answers with the methods in `answering`. An adapter transports the calls.
//!
//! No call decides anything. The lease in the state decides who may write, so a call may be lost, repeated or
//! answered late. A holder that does not answer in time loses the upload: the caller raises its epoch, and
//! the holder's later commits fail.

mod answering;
mod asking;
mod forwarding;
mod metrics;
mod readings;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use crate::Engine;
use crate::command::{Append, EngineError};
use domain::id::{InstanceId, UploadId};
use domain::size::Offset;
use state::ProgressReading;

pub(super) use asking::Obtained;
pub use forwarding::{BodyLost, ForwardedBody};
pub(super) use metrics::PeerMetrics;
pub(super) use readings::PeerReadings;

/// Calls the engines of other nodes.
///
/// An adapter returns an error as soon as it knows that no answer will come: the node is not registered, its
/// connection is refused or lost, or it does not know the call. The engine limits the time of each call.
#[async_trait]
pub trait Peers: fmt::Debug + Send + Sync + 'static {
    /// Requests that a node stops writing an upload and releases its lease.
    async fn yield_upload(
        &self,
        holder: InstanceId,
        upload: UploadId,
        when: YieldCondition,
    ) -> Result<YieldAnswer, NoAnswer>;

    /// Requests that a node commits the bytes of an upload that it has received.
    async fn checkpoint(&self, holder: InstanceId, upload: UploadId) -> Result<(), NoAnswer>;

    /// Reads the progress of the writers of a node, in the order of the uploads; `None` for an upload that
    /// it does not write.
    async fn progress(
        &self,
        holder: InstanceId,
        uploads: &[UploadId],
    ) -> Result<Vec<Option<ProgressReading>>, NoAnswer>;

    /// Passes a request with bytes on to the node that writes the upload, and returns its outcome. The body
    /// is read only as fast as that node accepts it. This call may take as long as the request of a client.
    async fn forward(
        &self,
        holder: InstanceId,
        command: Append,
        body: ForwardedBody,
    ) -> Result<ForwardOutcome, NoAnswer>;
}

/// The condition on which the holder of an upload ends its writer for another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum YieldCondition {
    /// In any case: the upload is to end.
    Always,
    /// If this is the committed offset. A request at another offset would be rejected anyway, and disturbs
    /// no writer.
    At(Offset),
    /// If no request is sending bytes. For uploads in any order: their requests do not replace each other.
    Idle,
}

/// The answer of the holder of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum YieldAnswer {
    /// The node does not write the upload and does not hold its lease, which any node can acquire.
    Released,
    /// The committed offset is another one. The holder continues.
    Elsewhere(Offset),
    /// The holder still needs the upload. The same request may succeed in a moment.
    Busy,
}

/// The outcome of a request that was passed on to the holder of an upload.
#[derive(Debug)]
pub enum ForwardOutcome {
    /// Its bytes that count are committed.
    Committed,
    /// It failed at the holder, as it would have failed there without the detour.
    Failed(EngineError),
    /// The node does not hold the upload. Nothing has changed; it does not pass the request on again.
    NotHolder,
}

/// Another node did not answer.
#[derive(Debug, thiserror::Error)]
#[error("the other node did not answer: {reason}")]
pub struct NoAnswer {
    reason: Box<dyn Error + Send + Sync>,
}

impl NoAnswer {
    pub fn because(reason: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { reason: reason.into() }
    }
}

/// Limits of calls to other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerLimits {
    /// A holder that has not answered a request for an upload after this time loses it.
    pub silent_after: Duration,
    /// Maximum time for reading the progress of another node.
    pub progress_timeout: Duration,
    /// Readings of another node's progress are reused for this time.
    pub progress_reuse: Duration,
    /// Maximum number of requests whose bytes are passed on to other nodes at once. Further ones are shed.
    pub max_forwarded: usize,
    /// The holder ends a request that another node passes on after this time without bytes. Longer than a
    /// client may be silent.
    pub forwarded_idle_timeout: Duration,
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self {
            silent_after: Duration::from_secs(1),
            progress_timeout: Duration::from_millis(300),
            progress_reuse: Duration::from_millis(500),
            max_forwarded: 64,
            forwarded_idle_timeout: Duration::from_mins(5),
        }
    }
}

/// The other nodes, as the engine knows them.
#[derive(Debug)]
pub(super) struct PeerAccess {
    calls: Arc<dyn Peers>,
    limits: PeerLimits,
    readings: PeerReadings,
    forwarding: Arc<Semaphore>,
}

impl Engine {
    /// Shares uploads with other nodes from now on.
    #[must_use]
    pub fn with_peers(mut self, calls: Arc<dyn Peers>, limits: PeerLimits) -> Self {
        let forwarding = Arc::new(Semaphore::new(limits.max_forwarded.min(Semaphore::MAX_PERMITS)));
        let peers = PeerAccess { calls, limits, readings: PeerReadings::default(), forwarding };
        Arc::get_mut(&mut self.0).expect("an engine is given its peers before it is shared").peers = Some(peers);
        self
    }
}
