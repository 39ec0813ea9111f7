//! A store as one process has it open.

use std::fmt;

use async_trait::async_trait;

use crate::Result;
use crate::clock::Clock;

/// Whether a store works, its clock, and its end.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Tries whether the store reads and writes now.
    async fn check(&self) -> Result<()>;

    /// The one clock by which rows are written and judged: due times, leases of deliveries, expiry, and the
    /// times of events. Every node on one database gets the same time. Each call gives the same clock, so
    /// what one user of it has seen of a step, all have seen.
    fn clock(&self) -> Clock;

    /// Writes what is queued and closes the database; later calls fail.
    async fn close(&self);
}
