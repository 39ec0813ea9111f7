//! Events about delivery itself, which are entries of the log like other events.

use std::fmt;

use async_trait::async_trait;

use crate::Result;
use domain::notice::Notice;
use domain::principal::TenantId;
use domain::time::Timestamp;

/// Notices about delivery itself.
#[async_trait]
pub trait Notices: fmt::Debug + Send + Sync + 'static {
    /// Writes a notice for a tenant, with a delivery for every endpoint of this tenant that subscribes to it.
    async fn announce(&self, tenant: TenantId, notice: Notice, now: Timestamp) -> Result<()>;
}
