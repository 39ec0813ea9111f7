//! Nodes, and their leases on uploads.

use std::time::Duration;

use async_trait::async_trait;

use crate::memory::{MemoryState, Tables};
use crate::{ClusterIdentity, ClusterRecord, LEFT_NODES_KEPT, Leases, Membership, Result};
use domain::id::{InstanceId, UploadId};
use domain::node::{Handover, Lease, Node};
use domain::time::Timestamp;

#[async_trait]
impl ClusterRecord for MemoryState {
    async fn record_cluster(&self, own: &ClusterIdentity) -> Result<ClusterIdentity> {
        self.write("record the cluster", |tables| {
            if tables.cluster.as_ref().is_none_or(|recorded| recorded.admits(own)) {
                tables.cluster = Some(own.clone());
            }
            tables.cluster.clone().unwrap_or_else(|| own.clone())
        })
    }
}

#[async_trait]
impl Leases for MemoryState {
    async fn join(&self, node: &Node, membership: Membership, lasts: Option<Duration>) -> Result<()> {
        self.write("register a node", |tables| {
            let now = tables.now;
            tables.nodes.retain(|_, known| match known.left_at {
                Some(left_at) => left_at.plus(LEFT_NODES_KEPT) > now,
                None => membership == Membership::Others && known.is_alive(now),
            });
            let alive_until = lasts.map(|lasts| now.plus(lasts));
            tables.nodes.insert(node.instance, RegisteredNode { node: node.clone(), alive_until, left_at: None });
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
            let now = tables.now;
            if let Some(leaving) = tables.nodes.get_mut(&node).filter(|known| known.is_alive(now)) {
                leaving.left_at = Some(now);
            }
        })
    }

    async fn acquire(&self, upload: UploadId, by: InstanceId) -> Result<Option<Lease>> {
        self.write("take the lease of an upload", |tables| {
            let lease = tables.uploads.get(&upload)?.lease;
            let is_free = !lease.is_of(by) && !lease.holder.is_some_and(|holder| tables.is_alive(holder));
            let is_taken = is_free && tables.is_alive(by);
            let lease = if is_taken { lease.taken_by(by, tables.handover_of(lease)) } else { lease };
            tables.uploads.get_mut(&upload)?.lease = lease;
            Some(lease)
        })
    }

    async fn seize(&self, upload: UploadId, seen: Lease, by: InstanceId) -> Result<Option<Lease>> {
        self.write("take the lease of an upload from another node", |tables| {
            let is_alive = tables.is_alive(by);
            let lease = &mut tables.uploads.get_mut(&upload)?.lease;
            if *lease == seen && !seen.is_of(by) && is_alive {
                *lease = seen.taken_by(by, Handover::Unclean);
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
    /// The time at which it left.
    left_at: Option<Timestamp>,
}

impl RegisteredNode {
    fn is_alive(&self, now: Timestamp) -> bool {
        self.left_at.is_none() && self.alive_until.is_none_or(|until| until > now)
    }
}

impl Tables {
    pub(super) fn is_alive(&self, node: InstanceId) -> bool {
        self.nodes.get(&node).is_some_and(|registered| registered.is_alive(self.now))
    }

    /// Reports how the last holder of a free lease has left the upload.
    fn handover_of(&self, free: Lease) -> Handover {
        let has_left = |holder| self.nodes.get(&holder).is_some_and(|known| known.left_at.is_some());
        if free.holder.is_none_or(has_left) { Handover::Clean } else { Handover::Unclean }
    }

    /// Reports whether another live node holds the lease.
    pub(super) fn is_elsewhere(&self, lease: Lease, node: InstanceId) -> bool {
        lease.holder.is_some_and(|holder| holder != node && self.is_alive(holder))
    }
}
