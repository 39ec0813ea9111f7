//! The record of what all nodes of a cluster have in common.

use std::fmt;

use async_trait::async_trait;

use crate::Result;
use domain::node::NodeName;

/// The name of a cluster, and the server keys of its nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterIdentity {
    pub name: NodeName,
    /// Fingerprints of the server keys, from which no key can be derived. Never empty, and without spaces.
    pub keys: Vec<String>,
}

impl ClusterIdentity {
    /// Reports whether two nodes can read what the other one has written: they have a key in common. While a
    /// key is replaced, nodes have the old one and the new one.
    pub fn shares_a_key_with(&self, other: &Self) -> bool {
        self.keys.iter().any(|key| other.keys.contains(key))
    }

    /// Reports whether a node of the identity `other` belongs to the same cluster.
    pub fn admits(&self, other: &Self) -> bool {
        self.name == other.name && self.shares_a_key_with(other)
    }
}

/// The record of a cluster in a state that several nodes share.
#[async_trait]
pub trait ClusterRecord: fmt::Debug + Send + Sync + 'static {
    /// Records the identity of a node that starts, if none is recorded yet or the recorded one admits it.
    /// Returns the record as it is then.
    async fn record_cluster(&self, own: &ClusterIdentity) -> Result<ClusterIdentity>;
}
