//! The nodes of a cluster.

use domain::node::Node;
use serde::{Deserialize, Serialize};

use crate::Keyword;

/// A node that counts as alive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeRecord {
    pub name: String,
    /// Id of this run of the program. Two nodes may have the same name.
    pub instance: String,
    pub role: Keyword,
    pub version: String,
    /// True while the node hands over its uploads because it is about to stop.
    pub draining: bool,
}

/// All nodes that count as alive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeList {
    pub nodes: Vec<NodeRecord>,
}

impl From<&Node> for NodeRecord {
    fn from(node: &Node) -> Self {
        Self {
            name: node.name.to_string(),
            instance: node.instance.to_string(),
            role: node.role.name().into(),
            version: node.version.clone(),
            draining: node.is_draining,
        }
    }
}
