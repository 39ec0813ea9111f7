//! A store as opened by one process.

use std::fmt;

use async_trait::async_trait;

use crate::Result;
use crate::clock::Clock;

/// The availability of a store, its clock, and its shutdown.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Checks that the store can read and write now.
    async fn check(&self) -> Result<()>;

    /// Returns the one clock by which rows are written and judged: due times, leases of deliveries, expiry,
    /// and the times of events. Every node on one database gets the same time. Each call returns the same
    /// clock, so a step that one user has observed is known to all.
    fn clock(&self) -> Clock;

    /// Writes queued changes and closes the database; later calls fail.
    async fn close(&self);
}
