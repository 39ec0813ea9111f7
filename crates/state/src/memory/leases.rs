//! Nodes, and their leases on uploads.

use std::time::Duration;

use async_trait::async_trait;

use crate::memory::{MemoryState, Tables};
use crate::{Leases, Membership, Result};
use domain::id::{InstanceId, UploadId};
use domain::node::{Lease, Node};

#[async_trait]
impl Leases for MemoryState {
    async fn join(&self, node: &Node, membership: Membership, lasts: Option<Duration>) -> Result<()> {
        self.write("register a node", |tables| {
            if membership == Membership::Alone {
                tables.nodes.clear();
            }
            let end = lasts.map(|lasts| tables.now.plus(lasts));
            tables.nodes.insert(node.instance, end);
        })
    }

    async fn renew(&self, node: InstanceId, lasts: Duration) -> Result<bool> {
        self.write("renew the heartbeat of a node", |tables| {
            let is_alive = tables.is_alive(node);
            if is_alive {
                let end = tables.now.plus(lasts);
                tables.nodes.insert(node, Some(end));
            }
            is_alive
        })
    }

    async fn leave(&self, node: InstanceId) -> Result<()> {
        self.write("unregister a node", |tables| {
            tables.nodes.remove(&node);
        })
    }

    async fn acquire(&self, upload: UploadId, by: InstanceId) -> Result<Option<Lease>> {
        self.write("take the lease of an upload", |tables| {
            let lease = tables.uploads.get(&upload)?.lease;
            let is_free = !lease.is_of(by) && !lease.holder.is_some_and(|holder| tables.is_alive(holder));
            let lease = if is_free && tables.is_alive(by) { lease.taken_by(by) } else { lease };
            tables.uploads.get_mut(&upload)?.lease = lease;
            Some(lease)
        })
    }
}

impl Tables {
    pub(super) fn is_alive(&self, node: InstanceId) -> bool {
        self.nodes.get(&node).is_some_and(|end| end.is_none_or(|end| end > self.now))
    }

    /// Reports whether another live node holds the lease.
    pub(super) fn is_elsewhere(&self, lease: Lease, node: InstanceId) -> bool {
        lease.holder.is_some_and(|holder| holder != node && self.is_alive(holder))
    }
}
