//! Duties of nodes.

use std::time::Duration;

use async_trait::async_trait;

use crate::memory::MemoryState;
use crate::{Duties, Result};
use domain::duty::Duty;
use domain::id::InstanceId;
use domain::time::Timestamp;

/// A duty that a node has until a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeldDuty {
    node: InstanceId,
    until: Timestamp,
}

#[async_trait]
impl Duties for MemoryState {
    async fn claim_duty(&self, duty: Duty, node: InstanceId, lasts: Duration) -> Result<bool> {
        let tables = self.read("find the node of a duty")?;
        let held = tables.duties.get(duty.name()).copied();
        let is_elsewhere =
            held.is_some_and(|held| held.node != node && held.until > tables.now && tables.is_alive(held.node));
        let is_fresh = held.is_some_and(|held| held.node == node && held.until > tables.now.plus(lasts / 2));
        drop(tables);
        if is_elsewhere || is_fresh {
            return Ok(is_fresh);
        }
        self.write("claim a duty", |tables| {
            let until = tables.now.plus(lasts);
            tables.duties.insert(duty.name(), HeldDuty { node, until });
            true
        })
    }
}
