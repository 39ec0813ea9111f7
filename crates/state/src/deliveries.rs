//! Deliveries as people and programs ask for them, and one of them sent again.

use std::fmt;

use async_trait::async_trait;

use crate::Result;
use domain::delivery::{Backlog, DeliveryRecord, ReplayOutcome};
use domain::endpoint::EndpointId;
use domain::id::DeliveryId;
use domain::principal::TenantScope;
use domain::query::{DeliveryPage, DeliveryQuery};
use domain::time::Timestamp;

/// Deliveries, with the attempts made at them.
#[async_trait]
pub trait Deliveries: fmt::Debug + Send + Sync + 'static {
    /// Deliveries that match, newest first, with their attempts.
    async fn deliveries(&self, scope: TenantScope, query: &DeliveryQuery) -> Result<DeliveryPage>;

    async fn delivery(&self, scope: TenantScope, id: DeliveryId) -> Result<Option<DeliveryRecord>>;

    /// How many deliveries are in each unfinished state, of one endpoint in the scope or of all
    /// in it; no further than [`Backlog::MOST`].
    async fn backlog(&self, scope: TenantScope, endpoint: Option<&EndpointId>) -> Result<Backlog>;

    /// Makes a delivery due now, with its attempts before it again. `force` sends again what has succeeded.
    async fn replay(&self, scope: TenantScope, id: DeliveryId, force: bool, now: Timestamp) -> Result<ReplayOutcome>;
}
