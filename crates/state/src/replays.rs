//! Replays of many deliveries, by jobs whose position survives a crash.

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
    /// Records a job that sends many deliveries again, and returns it as written. It begins shortly before
    /// the first event of its range. A job of
    /// [`ReplaySelection::Pending`](domain::delivery::ReplaySelection::Pending) is complete when it is
    /// recorded: pending deliveries are due by then, or as soon as
    /// [`Endpoints::advance_backlog`](crate::Endpoints::advance_backlog) has reached them, in the order of
    /// their lanes. A job for an endpoint of another tenant touches no delivery, like a job for a missing
    /// endpoint.
    async fn begin_replay(&self, job: ReplayJob) -> Result<ReplayJob>;

    /// Returns the jobs kept in a scope, newest first.
    async fn replay_jobs(&self, scope: TenantScope) -> Result<Vec<ReplayJob>>;

    /// Does the next batch of a running job in the transaction that records its position: examines a number
    /// of events and queues at most `limit` deliveries, at least 1. Returns the resulting job, or `None` if
    /// there is no such job.
    async fn advance_replay(&self, id: ReplayId, limit: u32, now: Timestamp) -> Result<Option<ReplayJob>>;

    /// Stops a job at its current position. Returns true if the scope had such a running job.
    async fn cancel_replay(&self, scope: TenantScope, id: ReplayId, now: Timestamp) -> Result<bool>;
}
