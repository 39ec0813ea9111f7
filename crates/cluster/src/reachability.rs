//! A check at the start of a node: whether nodes answer at the addresses that they have registered.

use std::time::Duration;

use futures::future::join_all;

use crate::LivingNodes;
use domain::node::Node;
use engine::peers::Peers;

/// The maximum time to wait for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Calls each living node, this one included, and logs those that do not answer. Nothing depends on it: a
/// node that cannot be called only loses its uploads more slowly.
pub async fn check(peers: &dyn Peers, living: &LivingNodes) {
    let nodes = living.list();
    let calls = nodes.iter().map(|node| async move { (node, answer(peers, node).await) });
    for (node, answer) in join_all(calls).await {
        if let Err(reason) = answer {
            tracing::warn!(
                node = %node.name,
                url = node.peer_url.as_deref(),
                reason,
                "a node does not answer at its address for other nodes; check cluster.peer_url there, and the firewall"
            );
        }
    }
}

async fn answer(peers: &dyn Peers, node: &Node) -> Result<(), String> {
    match tokio::time::timeout(ANSWER_WITHIN, peers.progress(node.instance, &[])).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(no_answer)) => Err(no_answer.to_string()),
        Err(_) => Err("it is silent".to_owned()),
    }
}
