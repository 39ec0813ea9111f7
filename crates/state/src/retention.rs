//! Retention: expires, drops and removes old data, in bounded batches.

use std::fmt;

use async_trait::async_trait;

use crate::Result;
use domain::endpoint::EndpointId;
use domain::id::UploadId;
use domain::principal::TenantScope;
use domain::time::Timestamp;
/// The expiry of deliveries that wait too long, and the removal of old data.
#[async_trait]
pub trait Retention: fmt::Debug + Send + Sync + 'static {
    /// Expires a batch of the deliveries that began before `begun_before` and have waited since, ready or
    /// behind others of their lane. They become dead, or superseded if they are about progress. Pending
    /// deliveries of a stopped endpoint are kept. Returns the number expired; zero when none is left.
    async fn expire(&self, begun_before: Timestamp, limit: u32, now: Timestamp) -> Result<u64>;

    /// Drops a batch of the pending deliveries beyond the limits of a backlog, oldest first. They become
    /// cancelled, and can be replayed while their events are kept. Returns the endpoints with the numbers
    /// dropped; empty when every backlog is within its limits.
    async fn drop_excess(&self, limits: BacklogLimits, limit: u32, now: Timestamp) -> Result<Vec<(EndpointId, u64)>>;

    /// Removes a batch of data that is older than it must be kept: finished deliveries with their attempts,
    /// dead ones, events that no delivery needs, uploads without bytes (with their events and deliveries,
    /// once none of those must still be delivered), and hook calls. Returns the number of rows removed; zero
    /// when nothing is left to remove.
    async fn prune(&self, horizon: RetentionHorizon, limit: u32) -> Result<u64>;

    /// Removes free text about an upload from all its events; kinds and times of the events remain. Once the
    /// upload has completed or ended, its record loses the text too. Returns the number of events changed;
    /// zero if the scope does not have the upload.
    async fn expunge(&self, scope: TenantScope, upload: UploadId) -> Result<u64>;

    /// Returns the number of progress deliveries dropped since the store was opened: because of a later
    /// event, or because their attempts or their time were used up.
    fn superseded(&self) -> u64;
}

/// Limits on the backlog of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BacklogLimits {
    /// Pending deliveries that began before this time are dropped if their endpoint is stopped or no longer
    /// present.
    pub begun_before: Timestamp,
    /// The maximum number of pending deliveries of one endpoint.
    pub most: u64,
}

/// The ages at which data is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionHorizon {
    /// Deliveries that finished before this time, and events and hook calls from before it. The deliveries of
    /// an event are removed together.
    pub finished: Timestamp,
    /// Dead letters that failed before this time.
    pub dead: Timestamp,
    /// Uploads without bytes that were last changed before this time.
    pub ended_uploads: Timestamp,
    /// Deliveries created before this time, to endpoints that the configuration no longer names, are
    /// cancelled.
    pub abandoned: Timestamp,
    /// The number of latest hook calls that are kept. At least 1.
    pub most_hook_calls: u64,
    pub now: Timestamp,
}
