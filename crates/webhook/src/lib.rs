//! The durable sender of webhooks: claims deliveries from the outbox, sends them signed, and records every
//! attempt.
//!
//! Every delivery is sent at least once, until its receiver has responded with success or its attempts are
//! used up. All state that must survive a crash is in the outbox, behind a lease that expires. The sender
//! knows nothing of the processing of uploads, their storage, or the server's own HTTP.
//!
//! Three modules build on one another: `endpoints` (receivers and their secrets), `sending` (the path of a
//! delivery) and `admin` (operators' actions on both). `sender` joins them.

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
pub use parts::{SenderCount, SenderParts};
pub use sender::{Sender, SenderError};
pub use sending::health::HealthRules;
pub use sending::liveness::{Liveness, Unhealthy};
pub use sending::retry::MAX_JITTER_PERCENT;
pub use settings::{InvalidWebhookSettings, WebhookSettings};
