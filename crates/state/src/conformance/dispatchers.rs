//! Several senders on one state: each check opens it twice.

use std::collections::HashSet;

use futures::future::join_all;

use super::leases::two_nodes;
use super::*;

use DeliveryState::*;

pub async fn two_dispatchers_never_hold_one_delivery<P: Place>(place: P) {
    let nodes = two_nodes(&place).await;
    nodes[0].0.open_for(nodes[0].1, vec![subscribed("a", &["upload.*"])], NOW).await.unwrap();
    for number in 0..40 {
        nodes[usize::from(number % 2)].0.insert(change_of(new_upload(number))).await.unwrap();
    }
    let dispatchers = nodes.into_iter().map(|(store, node)| {
        tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let claims = store.claim_due(node, &[(endpoint("a"), 3)], at(100), LEASE).await.unwrap();
                if claims.is_empty() {
                    return mine;
                }
                mine.extend(claims);
            }
        })
    });
    let claims: Vec<Claim> = join_all(dispatchers).await.into_iter().flat_map(Result::unwrap).collect();
    let deliveries: HashSet<_> = claims.iter().map(|claim| claim.delivery).collect();
    assert_eq!((claims.len(), deliveries.len()), (40, 40));
}

/// N1: what a node is sending stays with it, whoever starts; what a dead node was sending is taken back at once.
pub async fn a_start_takes_no_delivery_from_a_running_node<P: Place>(place: P) {
    let [(first, one), (second, two)] = two_nodes(&place).await;
    let configured = || vec![subscribed("a", &["upload.*"])];
    first.open_for(one, configured(), NOW).await.unwrap();
    for number in 0..3 {
        first.insert(change_of(new_upload(number))).await.unwrap();
    }
    let slots = [(endpoint("a"), 2)];
    let claims = first.claim_due(one, &slots, at(5), LEASE).await.unwrap();
    second.open_for(two, configured(), at(6)).await.unwrap();
    assert_eq!(states_at(&*second, "a").await, [Leased, Leased, Ready]);
    let others = second.claim_due(two, &[(endpoint("a"), 100)], at(7), LEASE).await.unwrap();
    assert_eq!(others.len(), 1, "what the first node does not send");
    // Clocks are each node's own: that one was set says nothing of what the other sends.
    second.renew_leases(two, at(8)).await.unwrap();
    assert_eq!(first.claim_due(one, &slots, at(9), LEASE).await.unwrap().len(), 1, "that of the second has ended");
    succeed(&*first, &claims[0], at(9)).await;
    assert_eq!(states_at(&*second, "a").await, [Succeeded, Leased, Leased]);

    first.leave(one).await.unwrap();
    second.open_for(two, configured(), at(10)).await.unwrap();
    assert_eq!(states_at(&*second, "a").await, [Succeeded, Ready, Ready]);
    succeed(&*first, &claims[1], at(11)).await;
    assert_eq!(states_at(&*second, "a").await, [Succeeded, Ready, Ready], "a late settlement moves nothing");
}

/// N12: in a rolling change of the configuration no node switches off what another still names.
pub async fn an_endpoint_stays_while_a_living_node_names_it<P: Place>(place: P) {
    let [(first, one), (second, two)] = two_nodes(&place).await;
    let names = async |store: &P::Store| {
        let endpoints = store.endpoints(TenantScope::All).await.unwrap();
        endpoints.iter().map(|stored| stored.id.as_str().to_owned()).collect::<Vec<_>>()
    };
    let all = |names: &[&str]| names.iter().map(|name| subscribed(name, &["upload.*"])).collect::<Vec<_>>();
    first.open_for(one, all(&["a", "b"]), NOW).await.unwrap();
    let changed = subscribed("b", &["upload.created"]);
    second.open_for(two, [all(&["c"]), vec![changed.clone()]].concat(), at(1)).await.unwrap();
    assert_eq!(names(&first).await, ["a", "b", "c"]);
    assert_eq!(stored(&*first, "b").await.terms, changed.terms, "the latest start decides");

    first.leave(one).await.unwrap();
    second.open_for(two, all(&["b", "c"]), at(2)).await.unwrap();
    assert_eq!(names(&second).await, ["b", "c"]);
}

/// Who gets deliveries is looked up again when another node has written.
pub async fn what_one_node_writes_the_other_knows<P: Place>(place: P) {
    let [(first, one), (second, _)] = two_nodes(&place).await;
    first.open_for(one, vec![], NOW).await.unwrap();
    first.insert(change_of(new_upload(1))).await.unwrap();
    let made = Endpoint { origin: Origin::Api, ..subscribed("a", &["upload.*"]) };
    second.put_endpoint(made, at(1)).await.unwrap();
    first.insert(change_of(new_upload(2))).await.unwrap();
    assert_eq!(states_at(&*first, "a").await, [Ready]);
    pause(&*second, "a", at(2)).await;
    assert_eq!(first.claim_due(one, &[(endpoint("a"), 9)], at(9), LEASE).await.unwrap(), []);
}
