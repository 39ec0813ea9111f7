//! The durable sender: takes deliveries from the outbox, sends them signed, and writes down what came of it.
//!
//! Every delivery is sent at least once until its receiver has answered with success or its attempts are used up.
//! Nothing is known only here: what must survive a crash is in the outbox, behind a lease that runs out. The sender
//! knows nothing of how uploads work, where they are stored, or of the server's own HTTP.
//!
//! ```text
//! outbox ──► delivery ──► courier ──► egress ──► receiver
//!    ▲       claims         │ sends one  └ asks address, whether it may
//!    │          └ lanes     │
//!    └──── record ◄─────────┘ and asks verdict, which asks retry, and health
//! ```
//!
//! Beside it, `admin` is for those who change endpoints, `upkeep` does what has time, and `hooks` asks the application
//! what may happen; it shares how messages are signed, and nothing else.

mod address;
mod admin;
mod beat;
mod client;
mod courier;
mod delivery;
mod ed25519;
mod egress;
mod endpoint;
mod gate;
mod health;
mod hooks;
mod keys;
mod lanes;
mod metrics;
mod outage;
mod pace;
mod record;
mod retry;
mod sender;
mod settings;
mod sign;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod upkeep;
mod vault;
mod verdict;

pub use address::EgressRules;
pub use address::RefusedUrl;
pub use admin::Admin;
pub use admin::AdminError;
pub use admin::Change;
pub use admin::KeyReport;
pub use admin::NewEndpoint;
pub use admin::ReplayRequest;
pub use admin::Report;
pub use admin::Resumption;
pub use admin::Rotation;
pub use admin::Shown;
pub use admin::Tested;
pub use beat::Beat;
pub use beat::Unwell;
// What its operators' words are made of, for those who know the sender and not the outbox.
pub use crate::clock::Clock;
pub use crate::state::Backlog;
pub use crate::state::ReplayId;
pub use crate::state::ReplayJob;
pub use crate::state::ReplayState;
pub use crate::state::ReplayWhat;
pub use crate::state::Replayed;
pub use crate::state::terms_json;
pub use ed25519::InvalidPrivateKey;
pub use ed25519::InvalidPublicKey;
pub use ed25519::PrivateKey;
pub use ed25519::PublicKey;
pub use egress::install_tls_provider;
pub use endpoint::Endpoint;
pub use endpoint::InvalidEndpoint;
pub use health::HealthRules;
pub use hooks::HookMetrics;
pub use hooks::HookSettings;
pub use hooks::Hooks;
pub use hooks::InvalidHooks;
pub use keys::DEFAULT_OVERLAP;
pub use keys::InvalidKey;
pub use keys::Key;
pub use keys::KeyKind;
pub use keys::Keys;
pub use keys::MAX_OLD_KEYS;
pub use keys::MAX_OVERLAP;
pub use metrics::Metrics;
pub use retry::DEFAULT_SCHEDULE;
pub use retry::MAX_JITTER_PERCENT;
pub use retry::PROGRESS_EXPIRY;
pub use retry::PROGRESS_SCHEDULE;
pub use retry::RetryAfter;
pub use retry::next_attempt;
pub use sender::Error;
pub use sender::Parts;
pub use sender::Sender;
pub use settings::InvalidSettings;
pub use settings::Settings;
pub use sign::InvalidSecret;
pub use sign::Secret;
pub use sign::sign;
pub use vault::Unreadable;
pub use vault::Vault;
