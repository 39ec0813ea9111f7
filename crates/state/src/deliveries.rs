//! Deliveries as people and programs ask for them, and one of them sent again.

use std::fmt;
use std::ops::RangeInclusive;

use async_trait::async_trait;

use crate::Result;
use domain::delivery::{AttemptOutcome, DeliveryRecord, DeliveryState, Replayed};
use domain::endpoint::EndpointId;
use domain::event::EventKind;
use domain::id::{DeliveryId, EventId, UploadId};
use domain::principal::TenantScope;
use domain::time::Timestamp;
/// Deliveries, with the attempts made at them.
#[async_trait]
pub trait Deliveries: fmt::Debug + Send + Sync + 'static {
    /// Deliveries that match, newest first, with their attempts.
    async fn deliveries(&self, scope: TenantScope, query: &DeliveryQuery) -> Result<DeliveryPage>;

    async fn delivery(&self, scope: TenantScope, id: DeliveryId) -> Result<Option<DeliveryRecord>>;

    /// How many deliveries are in each unfinished state, of one endpoint or of all; no further than [`Backlog::MOST`].
    async fn backlog(&self, endpoint: Option<&EndpointId>) -> Result<Backlog>;

    /// Makes a delivery due now, with its attempts before it again. `force` sends again what has succeeded.
    async fn replay(&self, id: DeliveryId, force: bool, now: Timestamp) -> Result<Replayed>;
}

/// Unfinished deliveries. Counting walks over them, so it ends somewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Whether there are more in some state than its number says, which is [`Self::MOST`] then.
    pub has_more: bool,
    pub waiting: u64,
    pub ready: u64,
    pub leased: u64,
    pub paused: u64,
    /// When the oldest of those that are ready became due.
    pub oldest_due: Option<Timestamp>,
}

impl Backlog {
    /// In each state it is counted so far.
    pub const MOST: u32 = 100_000;
}

/// Deliveries as they were asked for, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryPage {
    pub found: Vec<DeliveryRecord>,
    /// Ask for those before this one for more. A page that is not full may have it too: no question looks at more than a
    /// bounded number of deliveries.
    pub next: Option<DeliveryId>,
}

/// Which deliveries to list. Every condition given must hold.
#[derive(Debug, Clone, Default)]
pub struct DeliveryQuery {
    pub endpoint: Option<EndpointId>,
    pub upload: Option<UploadId>,
    /// Deliveries that were made with this event. Those that a replay has made later are not found by it.
    pub event: Option<EventId>,
    pub kind: Option<EventKind>,
    pub state: Option<DeliveryState>,
    pub created_from: Option<Timestamp>,
    /// Excluded.
    pub created_before: Option<Timestamp>,
    /// The latest attempt was answered with one of these statuses.
    pub last_status: Option<RangeInclusive<u16>>,
    /// The latest attempt ended with this error, one of [`AttemptOutcome::ERRORS`].
    pub last_error: Option<AttemptOutcome>,
    /// Only deliveries older than this one: the cursor of the page before.
    pub before: Option<DeliveryId>,
    pub limit: u32,
}
