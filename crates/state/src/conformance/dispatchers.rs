//! Several senders on one state: each check opens it twice.

use std::collections::HashSet;

use futures::future::join_all;

use super::leases::two_nodes;
use super::*;
use crate::{ConfigurationStanding, EndpointConfiguration};
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
                let claims = store.claim_due(node, &[up_to("a", 3)], at(100), LEASE).await.unwrap();
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

/// Inserts uploads, whose first deliveries are due.
async fn add_deliveries<S: UploadStore>(store: &S, count: u8) {
    for number in 0..count {
        store.insert(change_of(new_upload(number))).await.unwrap();
    }
}

/// Returns the limits of a node that sends `in_flight` deliveries to an endpoint with four slots.
fn of_four(in_flight: u32) -> [(EndpointId, ClaimLimits); 1] {
    let (endpoint, limits) = up_to("a", 100);
    [(endpoint, ClaimLimits { in_flight, max_in_flight: 4, ..limits })]
}

/// A claim counts the deliveries that other nodes have leased (scale-out C9).
pub async fn all_nodes_together_keep_to_the_slots_of_an_endpoint<P: StateFixture>(place: P) {
    let [(first, one), (second, two)] = two_nodes(&place).await;
    first.open_for(one, vec![subscribed("a", &["upload.*"])], NOW).await.unwrap();
    add_deliveries(&*first, 20).await;
    let three = [(endpoint("a"), ClaimLimits { slots: 3, ..of_four(0)[0].1 })];
    let claims = first.claim_due(one, &three, at(100), LEASE).await.unwrap();
    assert_eq!(claims.len(), 3);
    assert_eq!(second.claim_due(two, &of_four(0), at(101), LEASE).await.unwrap().len(), 1);
    assert_eq!(second.claim_due(two, &of_four(1), at(101), LEASE).await.unwrap(), []);

    // The node itself knows best how many it is sending: the attempts of two of its claims are over, and
    // their settlements are about to be written.
    assert_eq!(first.claim_due(one, &of_four(1), at(102), LEASE).await.unwrap().len(), 2);
    succeed(&*first, &claims[0], at(103)).await;
    assert_eq!(second.claim_due(two, &of_four(1), at(103), LEASE).await.unwrap(), [], "four of the first are leased");

    // Leases that have expired count no more.
    let expired = at(103).plus(LEASE);
    assert_eq!(second.claim_due(two, &of_four(0), expired, LEASE).await.unwrap().len(), 4);
}

/// Of many claims at once, each counts those before it (scale-out C9).
pub async fn concurrent_claims_keep_to_the_slots_of_an_endpoint<P: StateFixture>(place: P) {
    const ROUNDS: u8 = 10;
    let [(first, one), (second, two)] = two_nodes(&place).await;
    let (third, three) = (place.open().await, leases::node(3));
    third.join(&three, crate::Membership::Others, None).await.unwrap();
    first.open_for(one, vec![subscribed("a", &["upload.*"])], NOW).await.unwrap();
    add_deliveries(&*first, ROUNDS * 8).await;
    let nodes = [(first, one), (second, two), (third, three.instance)];
    for round in 0..ROUNDS {
        let now = at(1_000 + i64::from(round));
        let claims = nodes.iter().map(|(store, node)| {
            let (store, node) = (Arc::clone(store), *node);
            tokio::spawn(async move { (node, store.claim_due(node, &of_four(0), now, LEASE).await.unwrap()) })
        });
        let claims: Vec<_> = join_all(claims).await.into_iter().map(Result::unwrap).collect();
        let count: usize = claims.iter().map(|(_, claims)| claims.len()).sum();
        assert_eq!(count, 4, "round {round}");
        for claim in claims.iter().flat_map(|(_, claims)| claims) {
            succeed(&*nodes[0].0, claim, now).await;
        }
    }
}

/// The breaker is part of the stored endpoint, which every claim reads (scale-out C9).
pub async fn an_open_breaker_stops_every_node_and_one_of_them_probes<P: StateFixture>(place: P) {
    let [(first, one), (second, two)] = two_nodes(&place).await;
    first.open_for(one, vec![subscribed("a", &["upload.*"])], NOW).await.unwrap();
    add_deliveries(&*first, 20).await;
    let opened = HealthChange { failures: 10, opened_until: Some(at(130)), ..HealthChange::default() };
    note_health(&*first, "a", opened, at(100)).await;
    assert_eq!(second.claim_due(two, &of_four(0), at(129), LEASE).await.unwrap(), []);
    let probe = second.claim_due(two, &of_four(0), at(130), LEASE).await.unwrap();
    assert_eq!(probe.len(), 1);
    assert_eq!(first.claim_due(one, &of_four(0), at(131), LEASE).await.unwrap(), [], "the other node probes");

    succeed(&*second, &probe[0], at(132)).await;
    note_health(&*second, "a", HealthChange { has_succeeded: true, ..HealthChange::default() }, at(132)).await;
    assert_eq!(first.claim_due(one, &of_four(0), at(132), LEASE).await.unwrap().len(), 4);

    note_health(&*first, "a", HealthChange { opened_until: Some(at(160)), ..opened }, at(133)).await;
    note_health(&*first, "a", HealthChange::probe(at(134)), at(134)).await;
    let probed = second.claim_due(two, &of_four(0), at(134).plus(LEASE), LEASE).await.unwrap();
    assert_eq!(probed.len(), 1, "an operator has asked for a probe");
}

/// Two nodes that add endpoints at once keep to the limit (scale-out C9).
pub async fn the_number_of_endpoints_is_limited_over_all_nodes<P: StateFixture>(place: P) {
    let nodes = two_nodes(&place).await;
    nodes[0].0.open_for(nodes[0].1, vec![subscribed("configured", &["*"])], NOW).await.unwrap();
    let adding = (0..10).map(|number: usize| {
        let store = Arc::clone(&nodes[number % 2].0);
        let new = Endpoint { origin: Origin::Api, ..subscribed(&format!("new-{number}"), &["*"]) };
        tokio::spawn(async move { store.add_endpoint(new, 3, NOW).await.unwrap() })
    });
    let added: Vec<_> = join_all(adding).await.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(added.len(), 3);
    assert!(added.iter().all(|endpoint| endpoint.version == 1));
    let taken = nodes[1].0.add_endpoint(Endpoint { version: 0, ..added[0].clone() }, 9, NOW).await;
    assert!(matches!(taken, Err(crate::Error::EndpointConflict(_))), "{taken:?}");
    assert_eq!(nodes[0].0.endpoints(TenantScope::All).await.unwrap().len(), 4);
}

/// No node overwrites the failures that another has recorded (scale-out C9), and neither does an operator's
/// change.
pub async fn changes_of_health_by_two_nodes_add_up<P: StateFixture>(place: P) {
    let [(first, one), (second, _)] = two_nodes(&place).await;
    first.open_for(one, vec![subscribed("a", &["upload.*"])], NOW).await.unwrap();
    let read = stored(&*first, "a").await;
    let failed = |failures, since| HealthChange { failures, failing_since: Some(since), ..HealthChange::default() };
    let writers = [(&first, 3), (&second, 8)].map(|(store, since)| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            for _ in 0..10 {
                note_health(&*store, "a", failed(2, at(since)), at(9)).await;
            }
        })
    });
    for writer in writers {
        writer.await.unwrap();
    }
    let expected = Health { consecutive_failures: 40, failing_since: Some(at(3)), ..Health::default() };
    assert_eq!(stored(&*second, "a").await.health, expected);
    let written = second.put_endpoint(Endpoint { updated_at: at(10), ..read }, at(10)).await.unwrap();
    assert_eq!((written.health, stored(&*first, "a").await.health), (expected, expected));

    pause(&*first, "a", at(11)).await;
    assert_eq!(stored(&*first, "a").await.health, expected);
    put_state(&*second, "a", EndpointState::Enabled, at(12)).await;
    assert_eq!(stored(&*first, "a").await.health, Health::default());
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
    let slots = [up_to("a", 2)];
    let claims = first.claim_due(one, &slots, at(5), LEASE).await.unwrap();
    second.open_for(two, configured(), at(6)).await.unwrap();
    assert_eq!(states_at(&*second, "a").await, [Leased, Leased, Ready]);
    let others = second.claim_due(two, &[up_to("a", 100)], at(7), LEASE).await.unwrap();
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

/// A node with an older configuration neither writes endpoints nor keeps them (scale-out C13).
pub async fn the_newest_configuration_of_endpoints_stays<P: StateFixture>(place: P) {
    let [(first, one), (second, two)] = two_nodes(&place).await;
    let (third, three) = (place.open().await, leases::node(3));
    third.join(&three, crate::Membership::Others, None).await.unwrap();
    let names = async || {
        let endpoints = first.endpoints(TenantScope::All).await.unwrap();
        endpoints.iter().map(|stored| stored.id.as_str().to_owned()).collect::<Vec<_>>()
    };
    let old = || vec![subscribed("a", &["upload.*"]), subscribed("b", &["upload.*"])];
    let new = || vec![subscribed("b", &["upload.created"]), subscribed("c", &["upload.*"])];
    let with = |epoch, endpoints| EndpointConfiguration { epoch, endpoints };
    assert_eq!(first.configure(one, with(1, old()), NOW).await.unwrap(), ConfigurationStanding::Applied);
    assert_eq!(second.configure(two, with(1, old()), NOW).await.unwrap(), ConfigurationStanding::Applied);
    assert_eq!(third.configure(three.instance, with(2, new()), at(1)).await.unwrap(), ConfigurationStanding::Applied);
    assert_eq!(names().await, ["b", "c"], "names of older configurations count no more");

    // A node that still has the old configuration is restarted.
    first.leave(one).await.unwrap();
    let again = leases::node(4);
    first.join(&again, crate::Membership::Others, None).await.unwrap();
    let outdated = ConfigurationStanding::Outdated { newest: 2 };
    assert_eq!(first.configure(again.instance, with(1, old()), at(2)).await.unwrap(), outdated);
    third.leave(three.instance).await.unwrap();
    assert_eq!(second.configure(two, with(0, vec![]), at(3)).await.unwrap(), outdated);
    assert_eq!(names().await, ["b", "c"]);
    assert_eq!(stored(&*first, "b").await.terms, new()[0].terms);

    assert_eq!(second.configure(two, with(2, new()), at(4)).await.unwrap(), ConfigurationStanding::Applied);
    let other = vec![subscribed("b", &["upload.*"]), subscribed("c", &["upload.*"])];
    let differs = first.configure(again.instance, with(2, other), at(5)).await.unwrap();
    assert_eq!(differs, ConfigurationStanding::Differs);
    assert_eq!(stored(&*first, "b").await.terms, old()[1].terms, "the latest start decides");
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
    assert_eq!(first.claim_due(one, &[up_to("a", 9)], at(9), LEASE).await.unwrap(), []);
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
        let claims = second.claim_due(two, &[up_to("a", 3)], at(1_000), LEASE).await.unwrap();
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
