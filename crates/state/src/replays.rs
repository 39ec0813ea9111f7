//! Many deliveries sent again, by jobs that keep their place over a crash.

use std::fmt;

use async_trait::async_trait;

use crate::Result;
use domain::id::ReplayId;
use domain::principal::TenantScope;
use domain::replay::ReplayJob;
use domain::time::Timestamp;

/// Jobs that send many deliveries again.
#[async_trait]
pub trait Replays: fmt::Debug + Send + Sync + 'static {
    /// Writes a job that sends many deliveries again, and gives it as it was written. It begins shortly
    /// before the first event of its range. One of
    /// [`ReplaySelection::Pending`](domain::delivery::ReplaySelection::Pending) is done with that: what waits
    /// is due by then, or as soon as [`Endpoints::advance_backlog`](crate::Endpoints::advance_backlog) has
    /// come to it, in the order of its lane. One for an endpoint of another tenant touches no delivery: it is
    /// like one for an endpoint that is not there.
    async fn begin_replay(&self, job: ReplayJob) -> Result<ReplayJob>;

    /// The jobs in a scope that are kept, newest first.
    async fn replay_jobs(&self, scope: TenantScope) -> Result<Vec<ReplayJob>>;

    /// Does the next piece of a running job, in one transaction with its place: looks at a number of events
    /// and queues at most `limit` deliveries, at least 1. Gives the job as it is then; `None` when there is
    /// no such job.
    async fn advance_replay(&self, id: ReplayId, limit: u32, now: Timestamp) -> Result<Option<ReplayJob>>;

    /// Stops a job where it is. Says whether one in the scope was running.
    async fn cancel_replay(&self, scope: TenantScope, id: ReplayId, now: Timestamp) -> Result<bool>;
}
