//! The way of a delivery, from the outbox to its receiver and back.
//!
//! ```text
//! outbox ──► dispatcher ──► courier ──► egress ──► receiver
//!    ▲        claims          │ sends one  └ calls only addresses that the rules allow
//!    │           └ lanes      │
//!    └──── record ◄───────────┘ and asks verdict, which asks retry, and health
//! ```
//!
//! Beside it, [`maintenance`] does what has time, [`throttle`] holds back, [`store_outage`] lives without the
//! store, and [`liveness`] tells whether the loop still runs.

pub(crate) mod courier;
pub(crate) mod decision;
pub(crate) mod dispatcher;
pub(crate) mod egress;
pub(crate) mod health;
pub(crate) mod liveness;
pub(crate) mod maintenance;
pub(crate) mod recorder;
pub(crate) mod registry;
pub(crate) mod retry;
pub(crate) mod store_outage;
pub(crate) mod throttle;
