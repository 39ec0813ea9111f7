//! Queries of deliveries, and the replay of a single one.

use std::fmt;

use async_trait::async_trait;

use crate::Result;
use domain::delivery::{Backlog, DeliveryRecord, ReplayOutcome};
use domain::endpoint::EndpointId;
use domain::id::DeliveryId;
use domain::principal::TenantScope;
use domain::query::{DeliveryPage, DeliveryQuery};
use domain::time::Timestamp;

/// Deliveries with their attempts.
#[async_trait]
pub trait Deliveries: fmt::Debug + Send + Sync + 'static {
    /// Returns matching deliveries, newest first, with their attempts.
    async fn deliveries(&self, scope: TenantScope, query: &DeliveryQuery) -> Result<DeliveryPage>;

    async fn delivery(&self, scope: TenantScope, id: DeliveryId) -> Result<Option<DeliveryRecord>>;

    /// Counts the deliveries in each unfinished state, of one endpoint in the scope or of all, up to
    /// [`Backlog::MOST`].
    async fn backlog(&self, scope: TenantScope, endpoint: Option<&EndpointId>) -> Result<Backlog>;

    /// Makes a delivery due now, with its full number of attempts. `force` also replays a delivery that
    /// succeeded.
    async fn replay(&self, scope: TenantScope, id: DeliveryId, force: bool, now: Timestamp) -> Result<ReplayOutcome>;
}
