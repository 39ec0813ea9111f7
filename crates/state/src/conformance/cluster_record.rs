//! The record of a cluster, in states that several nodes share.

use crate::{ClusterIdentity, ClusterRecord};
use domain::node::NodeName;

fn identity(name: &str, keys: &[&str]) -> ClusterIdentity {
    let keys = keys.iter().map(|key| (*key).to_owned()).collect();
    ClusterIdentity { name: NodeName::new(name).unwrap(), keys }
}

/// `first` and `second` are two handles of one state.
pub async fn nodes_of_a_cluster_have_its_name_and_a_common_key(first: &dyn ClusterRecord, second: &dyn ClusterRecord) {
    let old = identity("a", &["old"]);
    assert_eq!(first.record_cluster(&old).await.unwrap(), old);
    for other in [identity("a", &["new"]), identity("b", &["old"])] {
        assert_eq!(second.record_cluster(&other).await.unwrap(), old, "another node changes nothing");
    }
    // A key is replaced step by step.
    for step in [identity("a", &["new", "old"]), identity("a", &["new"])] {
        assert_eq!(second.record_cluster(&step).await.unwrap(), step);
    }
    assert_eq!(first.record_cluster(&old).await.unwrap(), identity("a", &["new"]));
}
