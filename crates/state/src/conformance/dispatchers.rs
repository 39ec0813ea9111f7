//! Several senders on one state: each check opens it twice.

use std::collections::HashSet;

use futures::future::join_all;

use super::leases::two_nodes;
use super::*;
use domain::log::EventPosition;

use DeliveryState::*;

pub async fn two_dispatchers_never_hold_one_delivery<P: StateFixture>(place: P) {
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

/// A delivery that a node is sending stays with it when another node starts; those of a dead node are
/// reclaimed at once (scale-out N1).
pub async fn a_start_takes_no_delivery_from_a_running_node<P: StateFixture>(place: P) {
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
    assert_eq!(others.len(), 1, "the delivery that the first node does not send");
    // Each node reads its clock separately: a step of one clock does not affect the deliveries that another
    // node sends.
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

/// During a rolling change of the configuration no node removes an endpoint that another still names
/// (scale-out C13).
pub async fn an_endpoint_stays_while_a_living_node_names_it<P: StateFixture>(place: P) {
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

/// The subscribers are read again after another node has written.
pub async fn what_one_node_writes_the_other_knows<P: StateFixture>(place: P) {
    let [(first, one), (second, _)] = two_nodes(&place).await;
    first.open_for(one, vec![], NOW).await.unwrap();
    first.insert(change_of(new_upload(1))).await.unwrap();
    let made = Endpoint { origin: Origin::Api, ..subscribed("a", &["upload.*"]) };
    second.put_endpoint(made, at(1)).await.unwrap();
    first.insert(change_of(new_upload(2))).await.unwrap();
    assert_eq!(states_at(&*first, "a").await, [Ready]);
    pause(&*second, "a", at(2)).await;
    assert_eq!(first.claim_due(one, &[(endpoint("a"), 9)], at(9), LEASE).await.unwrap(), []);
    first.insert(change_of(new_upload(3))).await.unwrap();
    assert_eq!(states_at(&*first, "a").await, [Paused, Paused], "also events after the pause");
    put_state(&*second, "a", EndpointState::Enabled, at(3)).await;
    first.insert(change_of(new_upload(4))).await.unwrap();
    assert_eq!(states_at(&*first, "a").await, [Ready, Ready, Ready]);
}

/// Readers follow the log by position, so no event may appear before a position already read.
pub async fn a_reader_misses_nothing_that_two_nodes_write<P: StateFixture>(place: P) {
    const STEPS: i64 = 30;
    let nodes = two_nodes(&place).await;
    let reader = place.open().await;
    let writers = nodes.map(|(store, _)| store).into_iter().zip(1_u8..).map(|(store, number)| {
        tokio::spawn(async move {
            let mut upload = store.insert(change_of(new_upload(number))).await.unwrap();
            for step in 1..=STEPS {
                receive(&mut upload, 100, at(100 + step));
                upload = store.commit(change_of(upload)).await.unwrap();
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let (mut seen, mut found) = (EventPosition::default(), Vec::new());
    loop {
        let are_done = writers.iter().all(tokio::task::JoinHandle::is_finished);
        let page = reader.events_since(TenantScope::All, seen, 7).await.unwrap();
        found.extend(page.found.iter().map(|event| (event.upload, event.sequence)));
        if are_done && page.found.is_empty() && !page.has_more {
            break;
        }
        seen = page.seen;
        tokio::task::yield_now().await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    for number in [1, 2] {
        let sequences = found.iter().filter(|(upload, _)| *upload == new_upload(number).id());
        assert!(sequences.map(|(_, sequence)| *sequence).eq(1..=31), "{found:?}");
    }
}

/// One node writes events while another settles the deliveries before them: neither may leave a delivery
/// waiting forever.
pub async fn a_lane_advances_with_concurrent_writes_and_settlements<P: StateFixture>(place: P) {
    const UPLOADS: u8 = 20;
    let [(first, one), (second, two)] = two_nodes(&place).await;
    let wanted = ["upload.created", "upload.receiving", "upload.received", "upload.completed"];
    first.open_for(one, vec![subscribed("a", &wanted)], NOW).await.unwrap();
    let writer = tokio::spawn(async move {
        for number in 0..UPLOADS {
            let mut upload = first.insert(change_of(new_upload(number))).await.unwrap();
            receive(&mut upload, 1_000, at(100));
            upload = first.commit(change_of(upload)).await.unwrap();
            complete(&mut upload, at(200));
            first.commit(change_of(upload)).await.unwrap();
        }
    });
    let mut sent: Vec<(Option<UploadId>, u64)> = Vec::new();
    loop {
        let is_done = writer.is_finished();
        let claims = second.claim_due(two, &[(endpoint("a"), 3)], at(1_000), LEASE).await.unwrap();
        if is_done && claims.is_empty() {
            break;
        }
        for claim in claims {
            sent.push((claim.upload, sequence_of(&claim)));
            succeed(&*second, &claim, at(1_000)).await;
        }
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
    assert_eq!(states_at(&*second, "a").await, vec![Succeeded; usize::from(UPLOADS) * wanted.len()]);
    for number in 0..UPLOADS {
        let sequences = sent.iter().filter(|(upload, _)| *upload == Some(new_upload(number).id()));
        assert!(sequences.is_sorted(), "each lane keeps its order: {sent:?}");
    }
}
