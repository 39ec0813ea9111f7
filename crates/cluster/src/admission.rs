//! The admission of a node to a cluster: it must have the name of the cluster, and a server key in common
//! with its other nodes.

use domain::node::NodeName;
use keyring::ServerKeys;
use state::{ClusterIdentity, ClusterRecord};

/// The reason why a node must not use a state.
#[derive(Debug, thiserror::Error)]
pub enum NotAdmitted {
    #[error(
        "the database belongs to the cluster {recorded}, but cluster.name is {own}: set cluster.name = \"{recorded}\", or \
         use another database"
    )]
    OtherCluster { recorded: NodeName, own: NodeName },
    #[error(
        "the other nodes of the cluster {0} have another server key: copy the file that their auth.server_key_file names \
         to this machine"
    )]
    OtherKey(NodeName),
    #[error("could not compare this node with the record of its cluster")]
    State(#[from] state::Error),
}

/// Records a node of the cluster `name`, or returns the reason why the state belongs to other nodes.
pub async fn admit(record: &dyn ClusterRecord, name: &NodeName, keys: &ServerKeys) -> Result<(), NotAdmitted> {
    let own = ClusterIdentity { name: name.clone(), keys: keys.fingerprints() };
    let recorded = record.record_cluster(&own).await?;
    if recorded.name != own.name {
        return Err(NotAdmitted::OtherCluster { recorded: recorded.name, own: own.name });
    }
    if recorded.shares_a_key_with(&own) { Ok(()) } else { Err(NotAdmitted::OtherKey(own.name)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use state::conformance::bodies;
    use state::memory::MemoryDatabase;

    #[tokio::test]
    async fn another_cluster_and_another_key_are_rejected_with_what_to_change() {
        let state = MemoryDatabase::new(bodies()).open();
        let [one, other] = ["one", "other"].map(|name| NodeName::new(name).unwrap());
        let [key, other_key] = [1, 2].map(|byte| ServerKeys::generate([byte; 32], [byte; 4]));
        admit(&*state, &one, &key).await.unwrap();
        admit(&*state, &one, &key).await.unwrap();
        let refused = admit(&*state, &other, &key).await.unwrap_err().to_string();
        assert!(refused.contains("set cluster.name = \"one\""), "{refused}");
        let refused = admit(&*state, &one, &other_key).await.unwrap_err().to_string();
        assert!(refused.contains("auth.server_key_file"), "{refused}");
    }
}
