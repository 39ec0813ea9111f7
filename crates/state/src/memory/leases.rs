//! Nodes, and their leases on uploads.

use std::time::Duration;

use async_trait::async_trait;

use crate::memory::{MemoryState, Tables};
use crate::{Leases, Membership, Result};
use domain::id::{InstanceId, UploadId};
use domain::node::{Lease, Node};
use domain::time::Timestamp;

#[async_trait]
impl Leases for MemoryState {
    async fn join(&self, node: &Node, membership: Membership, lasts: Option<Duration>) -> Result<()> {
        self.write("register a node", |tables| {
            if membership == Membership::Alone {
                tables.nodes.clear();
            }
            let end = lasts.map(|lasts| tables.now.plus(lasts));
            tables.nodes.insert(node.instance, RegisteredNode { node: node.clone(), alive_until: end });
        })
    }

    async fn renew(&self, node: InstanceId, lasts: Duration) -> Result<bool> {
        self.write("renew the heartbeat of a node", |tables| {
            let is_alive = tables.is_alive(node);
            let end = tables.now.plus(lasts);
            if let Some(registered) = tables.nodes.get_mut(&node).filter(|_| is_alive) {
                registered.alive_until = Some(end);
            }
            is_alive
        })
    }

    async fn nodes(&self) -> Result<Vec<Node>> {
        let tables = self.read("list the nodes")?;
        let live = tables.nodes.values().filter(|registered| registered.is_alive(tables.now));
        Ok(live.map(|registered| registered.node.clone()).collect())
    }

    async fn drain(&self, node: InstanceId) -> Result<bool> {
        self.write("drain a node", |tables| {
            let now = tables.now;
            let live = tables.nodes.get_mut(&node).filter(|registered| registered.is_alive(now));
            live.map(|registered| registered.node.is_draining = true).is_some()
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

    async fn seize(&self, upload: UploadId, seen: Lease, by: InstanceId) -> Result<Option<Lease>> {
        self.write("take the lease of an upload from another node", |tables| {
            let is_alive = tables.is_alive(by);
            let lease = &mut tables.uploads.get_mut(&upload)?.lease;
            if *lease == seen && !seen.is_of(by) && is_alive {
                *lease = seen.taken_by(by);
            }
            Some(*lease)
        })
    }

    async fn release(&self, upload: UploadId, held: Lease) -> Result<()> {
        self.write("release the lease of an upload", |tables| {
            if let Some(record) = tables.uploads.get_mut(&upload).filter(|record| record.lease == held) {
                record.lease = held.released();
            }
        })
    }
}

/// A node, and the time until which it counts as alive.
#[derive(Debug)]
pub(super) struct RegisteredNode {
    node: Node,
    /// `None` for a node without an expiry.
    alive_until: Option<Timestamp>,
}

impl RegisteredNode {
    fn is_alive(&self, now: Timestamp) -> bool {
        self.alive_until.is_none_or(|until| until > now)
    }
}

impl Tables {
    pub(super) fn is_alive(&self, node: InstanceId) -> bool {
        self.nodes.get(&node).is_some_and(|registered| registered.is_alive(self.now))
    }

    /// Reports whether another live node holds the lease.
    pub(super) fn is_elsewhere(&self, lease: Lease, node: InstanceId) -> bool {
        lease.holder.is_some_and(|holder| holder != node && self.is_alive(holder))
    }
}
