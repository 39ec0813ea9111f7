//! Duties, claimed by several nodes.

use futures::future::join_all;

use super::leases::two_nodes;
use super::*;
use crate::Duties;
use domain::duty::Duty;

const LONG: Duration = Duration::from_hours(1);

/// Of nodes that claim at once, one has the duty (scale-out C8).
pub async fn one_node_has_a_duty_while_it_lives<P: StateFixture>(place: P) {
    let nodes = two_nodes(&place).await;
    let claims = (0..8).map(|number: usize| {
        let (store, node) = (Arc::clone(&nodes[number % 2].0), nodes[number % 2].1);
        tokio::spawn(async move { store.claim_duty(Duty::Prune, node, LONG).await.unwrap().then_some(node) })
    });
    let claimed: Vec<InstanceId> = join_all(claims).await.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(claimed.len(), 4, "a node keeps what it has");
    assert!(claimed.iter().all(|node| *node == claimed[0]));
    let [holder, other] = if claimed[0] == nodes[0].1 { [&nodes[0], &nodes[1]] } else { [&nodes[1], &nodes[0]] };
    assert!(!other.0.claim_duty(Duty::Prune, other.1, LONG).await.unwrap());
    assert!(other.0.claim_duty(Duty::Replays, other.1, LONG).await.unwrap(), "another duty");
    assert!(!holder.0.claim_duty(Duty::Replays, holder.1, LONG).await.unwrap());

    holder.0.leave(holder.1).await.unwrap();
    assert!(other.0.claim_duty(Duty::Prune, other.1, LONG).await.unwrap(), "its node is gone");
    assert!(!holder.0.claim_duty(Duty::Prune, holder.1, LONG).await.unwrap());
}

/// A node that is alive and no longer does its duty does not keep it (scale-out C8).
pub async fn a_duty_runs_out<P: StateFixture>(place: P) {
    let [(first, one), (second, two)] = two_nodes(&place).await;
    assert!(first.claim_duty(Duty::Prune, one, Duration::ZERO).await.unwrap());
    assert!(second.claim_duty(Duty::Prune, two, LONG).await.unwrap());
    assert!(!first.claim_duty(Duty::Prune, one, LONG).await.unwrap());
}

/// Nodes look often whether they have a duty, so that must cost little.
pub async fn a_duty_that_is_kept_costs_no_write<P: StateFixture>(place: P) {
    let [(first, one), (second, two)] = two_nodes(&place).await;
    assert!(first.claim_duty(Duty::Prune, one, LONG).await.unwrap());
    let before = (P::transactions(&first), P::transactions(&second));
    for _ in 0..3 {
        assert!(first.claim_duty(Duty::Prune, one, LONG).await.unwrap());
        assert!(!second.claim_duty(Duty::Prune, two, LONG).await.unwrap());
    }
    assert_eq!((P::transactions(&first), P::transactions(&second)), before);
}
