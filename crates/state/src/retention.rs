//! Giving up, dropping and forgetting, a bounded piece at a time.

use std::fmt;

use async_trait::async_trait;

use crate::Result;
use domain::endpoint::EndpointId;
use domain::id::UploadId;
use domain::principal::TenantScope;
use domain::time::Timestamp;
/// What is removed, from whatever waits too long to what nobody needs any more.
#[async_trait]
pub trait Retention: fmt::Debug + Send + Sync + 'static {
    /// Gives up a piece of the deliveries that began before then and have waited ever since, ready or for
    /// their turn: dead, or superseded if they tell of progress. What waits with a stopped endpoint is kept.
    /// Says how many those were; zero when nothing is left to give up.
    async fn expire(&self, begun_before: Timestamp, limit: u32, now: Timestamp) -> Result<u64>;

    /// Drops a piece of what waits beyond the limits of a backlog, oldest first: cancelled, so that it can be
    /// replayed while its events are kept. Says of which endpoints how many; nothing when every backlog keeps
    /// to its limits.
    async fn drop_excess(&self, limits: BacklogLimits, limit: u32, now: Timestamp) -> Result<Vec<(EndpointId, u64)>>;

    /// Removes a piece of what is older than it must be kept: finished deliveries with their attempts, dead
    /// ones, events that no delivery needs, uploads without bytes with their events and deliveries once
    /// nothing of them is to be delivered any more, and calls of hooks. Says how many rows went; zero when
    /// nothing is left to remove.
    async fn prune(&self, horizon: RetentionHorizon, limit: u32) -> Result<u64>;

    /// Takes what was said about an upload out of every event of it: what is left says what happened and
    /// when. Once it has completed or ended, its record loses it, too. Says how many events that were; none
    /// when the upload is not in the scope.
    async fn expunge(&self, scope: TenantScope, upload: UploadId) -> Result<u64>;

    /// How many deliveries of progress were dropped since the store was opened: for later news, or because
    /// their attempts or their time were used up.
    fn superseded(&self) -> u64;
}

/// How much may wait for an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BacklogLimits {
    /// What waits for an endpoint that is stopped, or not there any more, and began before then is dropped.
    pub begun_before: Timestamp,
    /// The most deliveries that wait for any one endpoint.
    pub most: u64,
}

/// What is old enough to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionHorizon {
    /// Deliveries that ended before then, and events and calls of hooks from before then.
    /// The deliveries of an event go together.
    pub finished: Timestamp,
    /// Deliveries given up before then.
    pub dead: Timestamp,
    /// Uploads that were last changed before then and have no bytes any more.
    pub ended_uploads: Timestamp,
    /// Deliveries made before then, to endpoints that the configuration no longer names, are cancelled.
    pub abandoned: Timestamp,
    /// Of calls of hooks, the latest so many are kept. At least 1.
    pub most_hook_calls: u64,
    pub now: Timestamp,
}
