//! The dispatch of deliveries: claiming, sending and settling them.
//!
//! A claim is bound to a lease that expires: a sender that dies loses its claims, and a settlement after that
//! changes nothing. [`domain::lane`] defines the rules for deliveries.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;

use crate::Result;
use domain::delivery::{Attempt, AttemptTrigger, DeliveryClass, Disposition};
use domain::endpoint::EndpointId;
use domain::event::EventKind;
use domain::health::HealthChange;
use domain::id::{DeliveryId, EventId, InstanceId, UploadId};
use domain::lane::ClaimLimits;
use domain::principal::TenantScope;
use domain::time::Timestamp;
/// Claims of due deliveries, and their settlement.
#[async_trait]
pub trait Dispatch: fmt::Debug + Send + Sync + 'static {
    /// Leases due deliveries to a node, oldest due first. Each endpoint is given with its limits. The
    /// transaction also counts the deliveries that other nodes have leased and reads the breaker, so that
    /// all nodes together keep to the limit of an endpoint, and one of them sends the probe.
    async fn claim_due(
        &self,
        node: InstanceId,
        limits: &[(EndpointId, ClaimLimits)],
        now: Timestamp,
        lease: Duration,
    ) -> Result<Vec<Claim>>;

    /// Records attempts and the new states of their deliveries; releases the next waiting delivery of the
    /// same endpoint and upload. A settlement whose lease is no longer held records its attempt and changes
    /// nothing else. Changes of health are applied to the health as stored, which other nodes change too.
    async fn settle(&self, settled: SettlementBatch, now: Timestamp) -> Result<()>;

    /// Sets the end of every lease of a node to `until`. Called after the clock was set, when the recorded
    /// ends no longer show how long the leases were held.
    async fn renew_leases(&self, node: InstanceId, until: Timestamp) -> Result<()>;

    /// Makes ready deliveries due `now` that were planned by a clock that was ahead. Works in batches.
    /// Returns the number of deliveries changed.
    async fn restart_waits(&self, now: Timestamp) -> Result<u64>;

    /// Returns the time at which the next delivery to one of these endpoints becomes due, either ready or
    /// leased by a worker that died.
    async fn next_due(&self, endpoints: &[EndpointId]) -> Result<Option<Timestamp>>;

    /// Writes a test event for one endpoint, whatever its state, and leases its delivery to a node. Returns
    /// `None` if the scope has no such endpoint.
    async fn test_endpoint(
        &self,
        scope: TenantScope,
        node: InstanceId,
        id: &EndpointId,
        now: Timestamp,
        lease: Duration,
    ) -> Result<Option<Claim>>;

    /// Returns a bell that rings after every commit that made a delivery ready. It may also ring without
    /// cause.
    fn bell(&self) -> Arc<Notify>;
}

/// A delivery leased to the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub delivery: DeliveryId,
    /// Proves the lease at settlement; another claim of the same delivery has a different value.
    pub lease: [u8; 16],
    pub endpoint: EndpointId,
    /// The version of the endpoint at the claim. A sender that knows an older one reads the endpoint again.
    pub endpoint_version: u64,
    pub event: EventId,
    pub kind: EventKind,
    pub class: DeliveryClass,
    pub trigger: AttemptTrigger,
    /// `None` for an event that is not about an upload.
    pub upload: Option<UploadId>,
    /// The time of the event.
    pub occurred_at: Timestamp,
    /// The time at which this delivery began: with its event, at its latest replay, or when its stopped
    /// endpoint was resumed.
    pub begun_at: Timestamp,
    /// The number of counted attempts so far.
    pub attempts: u32,
    /// The number of those attempts before the latest replay.
    pub attempts_before: u32,
    /// True if an earlier claim of the delivery has lapsed.
    pub is_taken_over: bool,
    /// The body for this endpoint, full or thin.
    pub body: Bytes,
}

/// Settlements of claims, and the changes in the health of their endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SettlementBatch {
    pub settlements: Vec<Settlement>,
    pub health: Vec<(EndpointId, HealthChange)>,
}

/// The result of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    pub delivery: DeliveryId,
    pub lease: [u8; 16],
    /// The attempt, recorded unchanged. An aborted one does not count.
    pub attempt: Attempt,
    pub disposition: Disposition,
}
