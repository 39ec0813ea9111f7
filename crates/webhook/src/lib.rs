//! The durable sender: takes deliveries from the outbox, sends them signed, and writes down what came of it.
//!
//! Every delivery is sent at least once until its receiver has answered with success or its attempts are used
//! up. Nothing is known only here: what must survive a crash is in the outbox, behind a lease that runs out.
//! The sender knows nothing of how uploads work, where they are stored, or of the server's own HTTP.
//!
//! Three rooms, each above the one before: `endpoints` (who is sent to, and with which secrets),
//! `sending` (the way of a delivery), `admin` (what operators do with both). `sender` puts them
//! together.

mod admin;
mod bodies;
mod endpoints;
mod lock;
mod metrics;
mod parts;
mod sender;
mod sending;
mod settings;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use admin::{
    Admin, AdminError, Administration, EndpointChange, EndpointOverview, KeyOverview, KeyRotation, NewEndpoint,
    ReplayRequest, Resumption, TestResult, VerificationKeys,
};
pub use bodies::bodies;
pub use endpoints::endpoint::{InvalidEndpoint, SendableEndpoint};
pub use endpoints::vault::{UnreadableSecrets, Vault};
pub use metrics::WebhookMetrics;
pub use parts::SenderParts;
pub use sender::{Sender, SenderError};
pub use sending::health::HealthRules;
pub use sending::liveness::{Liveness, Unhealthy};
pub use sending::retry::MAX_JITTER_PERCENT;
pub use settings::{InvalidWebhookSettings, WebhookSettings};
