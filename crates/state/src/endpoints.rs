//! Endpoints, and decisions about the backlog of each.
//!
//! A decision about an endpoint is effective from the commit that writes it, however long the backlog is,
//! because claims check it. The deliveries are updated in batches afterwards.

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
    /// Registers the endpoints of a node's configuration; called once when the node starts. They replace
    /// endpoints of the same name, so the latest start decides where two configurations differ. An endpoint
    /// that the server had disabled is enabled again; one that an operator paused stays paused. An endpoint
    /// stays as long as the configuration of any live node names it; the deliveries of an endpoint that no
    /// configuration names are kept until it is named again. The call also reclaims deliveries claimed by
    /// nodes that are not alive, and none from others.
    async fn open_for(&self, node: InstanceId, configured: Vec<Endpoint>, now: Timestamp) -> Result<()>;

    /// Returns the endpoints in a scope, by name.
    async fn endpoints(&self, scope: TenantScope) -> Result<Vec<Endpoint>>;

    /// Writes an endpoint of the tenant it names: a new one has version 0, any other the version it was read
    /// at. A name that another tenant uses causes a conflict, whatever the version, and leaves that tenant's
    /// endpoint unchanged. From then on its unfinished deliveries resume or stop with its state, however many
    /// there are. Returns the endpoint as written. After
    /// [`Error::EndpointConflict`](crate::Error::EndpointConflict) nothing has changed.
    async fn put_endpoint(&self, endpoint: Endpoint, now: Timestamp) -> Result<Endpoint>;

    /// Removes an endpoint and cancels its unfinished deliveries; this includes an endpoint that the
    /// configuration no longer names. Returns true if the scope had such an endpoint; an endpoint of another
    /// tenant is not changed.
    async fn remove_endpoint(&self, scope: TenantScope, id: &EndpointId, now: Timestamp) -> Result<bool>;

    /// Cancels every unfinished delivery to an endpoint: none of them is sent any more. Most of a long
    /// backlog is marked later, by [`Self::advance_backlog`]; until then no delivery is claimed for the
    /// endpoint. Returns true if the scope has such an endpoint.
    async fn cancel_backlog(&self, scope: TenantScope, id: &EndpointId, now: Timestamp) -> Result<bool>;

    /// Applies decisions about endpoints to up to `limit` of their deliveries: a cancelled backlog, a
    /// resumption, or a relaxed order. Returns true if there was work, including work left by a crash.
    async fn advance_backlog(&self, limit: u32, now: Timestamp) -> Result<bool>;
}
