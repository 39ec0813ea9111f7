//! The nodes that count as alive, as this node last read them.

use std::sync::Arc;

use tokio::sync::watch;

use domain::id::InstanceId;
use domain::node::{Node, NodeRole};

/// The nodes that count as alive, this one included. Clones see the same nodes.
#[derive(Debug, Clone)]
pub struct LivingNodes(watch::Receiver<Arc<[Node]>>);

impl LivingNodes {
    pub(crate) fn following(nodes: watch::Receiver<Arc<[Node]>>) -> Self {
        Self(nodes)
    }

    /// Returns the nodes in the order of their instances.
    pub fn list(&self) -> Arc<[Node]> {
        Arc::clone(&self.0.borrow())
    }

    /// Returns a node, if it counted as alive when the list was read.
    pub fn find(&self, instance: InstanceId) -> Option<Node> {
        self.0.borrow().iter().find(|node| node.instance == instance).cloned()
    }

    /// Returns the number of nodes that send webhooks, at least 1.
    pub fn senders(&self) -> usize {
        self.0.borrow().iter().filter(|node| node.role != NodeRole::Read).count().max(1)
    }

    /// Waits until a node is to drain. Pending forever if it never is.
    pub async fn draining(&mut self, instance: InstanceId) {
        let is_draining = |nodes: &Arc<[Node]>| nodes.iter().any(|node| node.instance == instance && node.is_draining);
        if self.0.wait_for(is_draining).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
