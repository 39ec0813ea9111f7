//! The dependencies of the sender and its administration.

use std::fmt;
use std::sync::Arc;

use crate::endpoints::vault::Vault;
use crate::settings::WebhookSettings;
use domain::id::InstanceId;
use outbound::address::EgressRules;
use state::Outbox;

/// Returns the number of nodes that send at present, this one included. The rate of an endpoint is divided by
/// it.
pub type SenderCount = Arc<dyn Fn() -> usize + Send + Sync>;

/// The dependencies of a sender.
pub struct SenderParts {
    /// The node that sends.
    pub node: InstanceId,
    /// The outbox. Its clock is the clock of the whole sender.
    pub outbox: Arc<dyn Outbox>,
    pub rules: Arc<EgressRules>,
    pub vault: Vault,
    pub settings: WebhookSettings,
    pub senders: SenderCount,
}

impl fmt::Debug for SenderParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SenderParts").field("settings", &self.settings).finish_non_exhaustive()
    }
}
