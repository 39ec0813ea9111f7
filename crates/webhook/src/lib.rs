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

mod admin;
mod beat;
mod bodies;
mod courier;
mod delivery;
mod egress;
mod endpoint;
mod health;
mod lanes;
mod metrics;
mod outage;
mod pace;
mod record;
mod retry;
mod sender;
mod settings;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod upkeep;
mod vault;
mod verdict;

pub use admin::{
    Admin, AdminError, Change, KeyReport, NewEndpoint, ReplayRequest, Report, Resumption, Rotation, Shown, Tested,
};
pub use beat::{Beat, Unwell};
pub use bodies::bodies;
pub use endpoint::{Endpoint, InvalidEndpoint};
pub use health::HealthRules;
pub use metrics::Metrics;
pub use retry::{DEFAULT_SCHEDULE, MAX_JITTER_PERCENT, PROGRESS_EXPIRY, PROGRESS_SCHEDULE, RetryAfter, next_attempt};
pub use sender::{Error, Parts, Sender};
pub use settings::{InvalidSettings, Settings};
pub use vault::{Unreadable, Vault};
