//! Follows the endpoints in the outbox, which other nodes change too.
//!
//! Claims are made by the endpoints as stored, so a node never claims for one that was stopped or removed
//! elsewhere. Reading them once a second lets a node send for new ones too, and notice what attempts of other
//! nodes have done to their health.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::endpoints::endpoint::SendableEndpoint;
use crate::endpoints::vault::Vault;
use crate::sending::registry::EndpointRegistry;
use crate::sending::store_outage::StoreOutage;
use domain::endpoint::{Endpoint as Stored, Origin};
use domain::principal::TenantScope;
use state::Outbox;

/// Interval of reading the endpoints.
const READ_EVERY: Duration = Duration::from_secs(1);

/// Keeps a registry equal to the endpoints in the outbox.
pub(crate) struct EndpointFollower {
    pub(crate) outbox: Arc<dyn Outbox>,
    pub(crate) registry: Arc<EndpointRegistry>,
    pub(crate) vault: Vault,
    /// The endpoints of the configuration, whose secrets the outbox does not have.
    pub(crate) configured: Vec<SendableEndpoint>,
}

impl EndpointFollower {
    /// Runs until `stop`.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let mut outage = StoreOutage::none("read the webhook endpoints");
        let following = async {
            loop {
                let pause = match self.read_endpoints().await {
                    Ok(()) => {
                        outage.over();
                        READ_EVERY
                    }
                    Err(error) => outage.failed(&error, rand::random()),
                };
                sleep(pause).await;
            }
        };
        stop.run_until_cancelled(following).await;
    }

    /// Applies the endpoints as stored to the registry.
    pub(crate) async fn read_endpoints(&self) -> state::Result<()> {
        // No change of this node is between its write and its application to the registry.
        let _writing = self.registry.write().await;
        let stored = self.outbox.endpoints(TenantScope::All).await?;
        for entry in &*self.registry.all() {
            if !stored.iter().any(|stored| stored.id == *entry.id()) {
                tracing::info!(endpoint = %entry.id(), "an endpoint was removed through another node");
                self.registry.remove(entry.id());
            }
        }
        for stored in stored {
            self.apply(stored);
        }
        Ok(())
    }

    fn apply(&self, stored: Stored) {
        let known = self.registry.find(&stored.id);
        if let Some(entry) = known.as_ref().filter(|entry| entry.is_current(&stored)) {
            return entry.follow(stored.health);
        }
        let id = stored.id.clone();
        if known.as_ref().is_some_and(|entry| entry.endpoint().stored().created_at != stored.created_at) {
            // Another endpoint of the same name: nothing of the former one applies to it.
            self.registry.remove(&id);
        }
        match self.opened(stored) {
            Some(endpoint) => self.registry.put(endpoint),
            None => self.registry.remove(&id),
        }
    }

    /// Returns an endpoint with its secrets, or `None` if this node does not have them.
    fn opened(&self, stored: Stored) -> Option<SendableEndpoint> {
        match stored.origin {
            Origin::Config => self.configured.iter().find(|own| *own.id() == stored.id)?.with(stored).ok(),
            Origin::Api => {
                SendableEndpoint::new(stored.clone(), self.vault.open(&stored.id, &stored.sealed).ok()?).ok()
            }
        }
    }
}
