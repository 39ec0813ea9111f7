//! News of the sending itself, in the log of events like any other.

use std::fmt;

use async_trait::async_trait;

use crate::Result;
use domain::notice::Notice;
use domain::time::Timestamp;
/// News of the sending itself.
#[async_trait]
pub trait Notices: fmt::Debug + Send + Sync + 'static {
    /// Writes news of the sending itself, with a delivery for everyone who wants it.
    async fn announce(&self, notice: Notice, now: Timestamp) -> Result<()>;
}
