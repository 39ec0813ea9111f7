//! Duties: background work that one of several nodes does at a time.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::Result;
use domain::duty::Duty;
use domain::id::InstanceId;

/// The time for which a node has a duty after it has claimed it. It is long, so that a node that works alone
/// rarely writes it; a node that dies loses its duties when it counts as dead.
pub const DUTY_LASTS: Duration = Duration::from_mins(5);

/// Reports whether a node has a duty, which it claims for [`DUTY_LASTS`] if it is free. A claim that fails,
/// for example because the disk of the state is full, does not stop work that may free space: work that two
/// nodes do at once breaks nothing.
pub async fn has_duty(duties: &(impl Duties + ?Sized), duty: Duty, node: InstanceId) -> bool {
    duties.claim_duty(duty, node, DUTY_LASTS).await.unwrap_or_else(|error| {
        tracing::debug!(error = &error as &dyn Error, duty = duty.name(), "could not claim a duty");
        true
    })
}

/// The distribution of background work.
#[async_trait]
pub trait Duties: fmt::Debug + Send + Sync + 'static {
    /// Claims a duty for a node, or keeps it. Returns true if the node has it. The duty is free for other
    /// nodes `lasts` after the last claim by the clock of the state, or when its node no longer counts as
    /// alive. A node calls this before each step, and stops when the duty has passed to another. A call
    /// while more than half of the time is left writes nothing.
    async fn claim_duty(&self, duty: Duty, node: InstanceId, lasts: Duration) -> Result<bool>;
}
