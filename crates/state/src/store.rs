//! A store as one process has it open.

use std::fmt;

use async_trait::async_trait;

use crate::Result;

/// Whether a store works, and its end.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Tries whether the store reads and writes now.
    async fn check(&self) -> Result<()>;

    /// Writes what is queued and closes the database; later calls fail.
    async fn close(&self);
}
