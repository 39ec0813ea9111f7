//! The durable sender: takes deliveries from the outbox, sends them signed, and writes down what came of it.
//!
//! Every delivery is sent at least once until its receiver has answered with success or its attempts are used up.
//! Nothing is known only here: what must survive a crash is in the outbox, behind a lease that runs out. The sender
//! knows nothing of how uploads work, where they are stored, or of the server's own HTTP.
//!
//! ```text
//! outbox ──► delivery ──► courier ──► egress ──► receiver
//!    ▲       claims         │ sends one
//!    └──── record ◄─────────┘ and asks verdict, which asks retry
//! ```
//!
//! Beside it, [`hooks`] asks the application what may happen. It shares how messages are signed, and nothing else.

mod courier;
mod delivery;
mod egress;
mod endpoint;
mod hooks;
mod metrics;
mod outage;
mod record;
mod retry;
mod sign;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod verdict;

pub use courier::Clock;
pub use delivery::Error;
pub use delivery::Sender;
pub use egress::install_tls_provider;
pub use endpoint::Endpoint;
pub use endpoint::InvalidEndpoint;
pub use endpoint::InvalidSettings;
pub use endpoint::LEASE_MARGIN;
pub use endpoint::Settings;
pub use hooks::HookMetrics;
pub use hooks::HookSettings;
pub use hooks::Hooks;
pub use metrics::Metrics;
pub use retry::DEFAULT_SCHEDULE;
pub use retry::MAX_JITTER_PERCENT;
pub use retry::PROGRESS_EXPIRY;
pub use retry::PROGRESS_SCHEDULE;
pub use retry::RetryAfter;
pub use retry::next_attempt;
pub use sign::InvalidSecret;
pub use sign::Secret;
pub use sign::sign;
pub use sign::sign_with_all;
