//! The nodes of a cluster for operators: the list of them, and the request to drain one.

use std::sync::Arc;

use crate::Drain;
use domain::id::InstanceId;
use domain::node::Node;
use state::Leases;

/// The nodes of a cluster, or the only node of a server that works alone.
#[derive(Debug, Clone)]
pub struct NodeDirectory {
    nodes: Arc<dyn Leases>,
    own: InstanceId,
    drain: Drain,
}

/// The reason why no node was drained.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    #[error("no living node has the name or the instance id {0}")]
    Unknown(String),
    #[error("{count} living nodes have the name {name}; use the instance id of one of them")]
    Ambiguous { name: String, count: usize },
    #[error("could not access the list of nodes")]
    State(#[from] state::Error),
}

impl NodeDirectory {
    /// Creates the directory of the node `own`, whose drain is `drain`.
    pub fn new(nodes: Arc<dyn Leases>, own: InstanceId, drain: Drain) -> Self {
        Self { nodes, own, drain }
    }

    /// Returns the nodes that count as alive.
    pub async fn list(&self) -> state::Result<Vec<Node>> {
        let mut nodes = self.nodes.nodes().await?;
        if let Some(own) = nodes.iter_mut().find(|node| node.instance == self.own) {
            own.is_draining |= self.drain.has_begun();
        }
        Ok(nodes)
    }

    /// Begins the drain of the node with this name or instance id. Returns the node as it is then.
    pub async fn drain(&self, name: &str) -> Result<Node, DrainError> {
        let nodes = self.list().await?;
        let is_meant = |node: &&Node| node.name.as_str() == name || node.instance.to_string() == name;
        let mut meant = nodes.iter().filter(is_meant);
        let node = meant.next().ok_or_else(|| DrainError::Unknown(name.to_owned()))?;
        let others = meant.count();
        if others > 0 {
            return Err(DrainError::Ambiguous { name: name.to_owned(), count: others + 1 });
        }
        if !self.nodes.drain(node.instance).await? {
            return Err(DrainError::Unknown(name.to_owned()));
        }
        // Other nodes read the list each second; this one need not wait.
        if node.instance == self.own {
            self.drain.begin();
        }
        Ok(Node { is_draining: true, ..node.clone() })
    }
}
