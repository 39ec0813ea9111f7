//! Endpoints: who gets events, and what is decided about everything that waits for one.
//!
//! A decision about an endpoint holds from the commit that writes it, however many deliveries wait: claims
//! consult it. The deliveries follow in pieces.

use std::fmt;

use async_trait::async_trait;

use crate::Result;
use domain::endpoint::{Endpoint, EndpointId};
use domain::id::InstanceId;
use domain::principal::TenantScope;
use domain::time::Timestamp;

/// Endpoints, and decisions about their backlogs.
#[async_trait]
pub trait Endpoints: fmt::Debug + Send + Sync + 'static {
    /// Called once when a node starts, with the endpoints that its configuration names. They take the place
    /// of those that are there, so the latest start decides what two configurations say differently. An
    /// endpoint that the server had stopped gets another chance, one that an operator paused stays paused. An
    /// endpoint stays for as long as the configuration of any node names it that counts as alive; what is not
    /// delivered to one that nobody names waits for it to come back. Takes back what was claimed by nodes
    /// that do not count as alive, and nothing from others.
    async fn open_for(&self, node: InstanceId, configured: Vec<Endpoint>, now: Timestamp) -> Result<()>;

    /// The endpoints in a scope, by name.
    async fn endpoints(&self, scope: TenantScope) -> Result<Vec<Endpoint>>;

    /// Writes an endpoint of the tenant it names: a new one has version 0, any other the version it was read
    /// at. A name that another tenant has is taken: it conflicts, whatever the version, and leaves that
    /// tenant's untouched. From then on its unfinished deliveries go on or stop with its state; how many
    /// those are does not matter. Gives it back as written; on
    /// [`Error::EndpointConflict`](crate::Error::EndpointConflict) nothing has changed.
    async fn put_endpoint(&self, endpoint: Endpoint, now: Timestamp) -> Result<Endpoint>;

    /// Removes an endpoint and cancels its unfinished deliveries, also one that the configuration no longer
    /// names. Says whether there was one in the scope; one of another tenant stays as it is.
    async fn remove_endpoint(&self, scope: TenantScope, id: &EndpointId, now: Timestamp) -> Result<bool>;

    /// Cancels every delivery to an endpoint that is unfinished now: none of them is sent any more. Of a long
    /// backlog most are marked later, by [`Self::advance_backlog`]; until then nothing is claimed for the
    /// endpoint. Says whether there is such an endpoint in the scope.
    async fn cancel_backlog(&self, scope: TenantScope, id: &EndpointId, now: Timestamp) -> Result<bool>;

    /// Brings up to `limit` deliveries in line with what was decided about their endpoint: that its backlog
    /// is cancelled, that it was resumed, or that its order was relaxed. Says whether anything was left to
    /// do, also from before a crash.
    async fn advance_backlog(&self, limit: u32, now: Timestamp) -> Result<bool>;
}
