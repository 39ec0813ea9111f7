//! News of the sending itself, in the log of events like any other.

use std::fmt;

use async_trait::async_trait;

use crate::Result;
use domain::notice::Notice;
use domain::principal::TenantId;
use domain::time::Timestamp;

/// News of the sending itself.
#[async_trait]
pub trait Notices: fmt::Debug + Send + Sync + 'static {
    /// Writes news of the sending for a tenant, with a delivery for
    /// every endpoint of this tenant that wants it.
    async fn announce(&self, tenant: TenantId, notice: Notice, now: Timestamp) -> Result<()>;
}
