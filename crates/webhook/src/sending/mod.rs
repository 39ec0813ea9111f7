//! The path of a delivery, from the outbox to its receiver and back.
//!
//! ```text
//! outbox ──► dispatcher ──► courier ──► egress ──► receiver
//!    ▲        claims          │ sends one  └ calls only addresses that the rules allow
//!    │           └ registry   │
//!    └── recorder ◄───────────┘ and consults decision, which uses retry, and health
//! ```
//!
//! Beside it, [`follower`] follows changes of endpoints by other nodes, [`maintenance`] does background
//! work, [`throttle`] limits rates and slots, [`store_outage`] handles outages of the store, and
//! [`liveness`] reports whether the loop still runs.

pub(crate) mod courier;
pub(crate) mod decision;
pub(crate) mod dispatcher;
pub(crate) mod egress;
pub(crate) mod follower;
pub(crate) mod health;
pub(crate) mod liveness;
pub(crate) mod maintenance;
pub(crate) mod recorder;
pub(crate) mod registry;
pub(crate) mod retry;
pub(crate) mod store_outage;
pub(crate) mod throttle;
