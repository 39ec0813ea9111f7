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

/// The endpoints that the configuration of a node names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointConfiguration {
    /// The age of the configuration, as its author numbers it.
    pub epoch: u64,
    pub endpoints: Vec<Endpoint>,
}

/// The relation of a configuration to those of other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigurationStanding {
    /// It applies. No other live node of the same epoch has different endpoints.
    Applied,
    /// It applies, and replaces that of another live node of the same epoch, which has different endpoints.
    Differs,
    /// It does not apply, because a node with this newer epoch has started.
    Outdated { newest: u64 },
}

/// Endpoints, and decisions about their backlogs.
#[async_trait]
pub trait Endpoints: fmt::Debug + Send + Sync + 'static {
    /// Registers the endpoints of a node's configuration; called when the node starts. They replace
    /// endpoints of the same name, so of configurations with one epoch the latest start decides. A
    /// configuration with a higher epoch replaces all those with lower ones; one with a lower epoch than
    /// any before changes no endpoint. An endpoint that the server had disabled is enabled again; one that
    /// an operator paused stays paused. An endpoint stays as long as a configuration of the highest epoch
    /// names it whose node is alive; the deliveries of an endpoint that none names are kept until it is
    /// named again. The call also reclaims deliveries claimed by nodes that are not alive, and none from
    /// others.
    async fn configure(
        &self,
        node: InstanceId,
        configuration: EndpointConfiguration,
        now: Timestamp,
    ) -> Result<ConfigurationStanding>;

    /// Registers the endpoints of a configuration without an epoch, like [`Self::configure`].
    async fn open_for(&self, node: InstanceId, configured: Vec<Endpoint>, now: Timestamp) -> Result<()> {
        let configuration = EndpointConfiguration { epoch: 0, endpoints: configured };
        self.configure(node, configuration, now).await.map(drop)
    }

    /// Returns the endpoints in a scope, by name.
    async fn endpoints(&self, scope: TenantScope) -> Result<Vec<Endpoint>>;

    /// Writes an endpoint of the tenant it names: a new one has version 0, any other the version it was read
    /// at. A name that another tenant uses causes a conflict, whatever the version, and leaves that tenant's
    /// endpoint unchanged. From then on its unfinished deliveries resume or stop with its state, however many
    /// there are. The stored health stays as it is, or is cleared if a stopped endpoint is enabled
    /// ([`Endpoint::health_over`]). Returns the endpoint as written. After
    /// [`Error::EndpointConflict`](crate::Error::EndpointConflict) nothing has changed.
    async fn put_endpoint(&self, endpoint: Endpoint, now: Timestamp) -> Result<Endpoint>;

    /// Writes a new endpoint like [`Self::put_endpoint`]. Returns `None`, and writes nothing, if the tenant
    /// has `most` endpoints created through the API by then, at whatever node they were created.
    async fn add_endpoint(&self, endpoint: Endpoint, most: u32, now: Timestamp) -> Result<Option<Endpoint>>;

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
