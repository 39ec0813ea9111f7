//! Deliveries on their way: claimed, sent by whoever claimed them, settled.
//!
//! A claim is bound to its lease, and a lease has an end: a sender that dies loses what it has claimed, and
//! what it still settles afterwards moves nothing. What happens to a delivery is decided in [`domain::lane`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;

use crate::Result;
use domain::delivery::{Attempt, AttemptTrigger, DeliveryClass, Disposition};
use domain::endpoint::{EndpointId, Health};
use domain::event::EventKind;
use domain::id::{DeliveryId, EventId, InstanceId, UploadId};
use domain::principal::TenantScope;
use domain::time::Timestamp;
/// Claims of due deliveries, and what comes of them.
#[async_trait]
pub trait Dispatch: fmt::Debug + Send + Sync + 'static {
    /// Leases due deliveries to a node, for each endpoint at most as many as it has slots, oldest due first.
    async fn claim_due(
        &self,
        node: InstanceId,
        slots: &[(EndpointId, u32)],
        now: Timestamp,
        lease: Duration,
    ) -> Result<Vec<Claim>>;

    /// Writes attempts, what becomes of their deliveries, and how their endpoints are doing; lets the
    /// next waiting delivery of the same endpoint and upload go. A settlement whose lease is no longer
    /// held records its attempt and moves nothing.
    async fn settle(&self, settled: SettlementBatch, now: Timestamp) -> Result<()>;

    /// Has every lease of a node end at `until`: the clock was set, and
    /// says nothing of how long they were held.
    async fn renew_leases(&self, node: InstanceId, until: Timestamp) -> Result<()>;

    /// Makes ready deliveries due `now` that wait since a later time, which only a clock that was ahead can
    /// have written. Works in pieces. Says how many deliveries those were.
    async fn restart_waits(&self, now: Timestamp) -> Result<u64>;

    /// When the next delivery to one of these endpoints becomes due, be
    /// it ready or leased by a worker that died.
    async fn next_due(&self, endpoints: &[EndpointId]) -> Result<Option<Timestamp>>;

    /// Writes a test event for one endpoint, whatever its state, and leases its delivery to a node. `None`
    /// when there is no such endpoint in the scope.
    async fn test_endpoint(
        &self,
        scope: TenantScope,
        node: InstanceId,
        id: &EndpointId,
        now: Timestamp,
        lease: Duration,
    ) -> Result<Option<Claim>>;

    /// Rings after every commit that made a delivery ready. May ring for nothing.
    fn bell(&self) -> Arc<Notify>;
}

/// A delivery leased to the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub delivery: DeliveryId,
    /// Proves the lease when settling; another claim of the same delivery has another.
    pub lease: [u8; 16],
    pub endpoint: EndpointId,
    pub event: EventId,
    pub kind: EventKind,
    pub class: DeliveryClass,
    pub trigger: AttemptTrigger,
    /// `None` for news that is not of an upload.
    pub upload: Option<UploadId>,
    /// When the event occurred.
    pub occurred_at: Timestamp,
    /// When this delivery began: with its event, when it was last asked for again, or when its stopped
    /// endpoint went on.
    pub begun_at: Timestamp,
    /// Attempts made and counted so far.
    pub attempts: u32,
    /// How many of them were before it was last asked for again.
    pub attempts_before: u32,
    /// Whether somebody had claimed it before and let the lease run out.
    pub is_taken_over: bool,
    /// As this endpoint gets it: whole, or what a thin one is told.
    pub body: Bytes,
}

/// What came of some claims, and what is known of their endpoints since.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SettlementBatch {
    pub settlements: Vec<Settlement>,
    pub health: Vec<(EndpointId, Health)>,
}

/// What came of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    pub delivery: DeliveryId,
    pub lease: [u8; 16],
    /// Recorded as it is; an aborted one does not count as an attempt made.
    pub attempt: Attempt,
    pub disposition: Disposition,
}
