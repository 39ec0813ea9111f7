//! The plans of all statements about deliveries, see [`plans`](crate::plans).

use domain::delivery::{AttemptOutcome, DeliveryState, Disposition, ReplaySelection};
use domain::endpoint::{Endpoint, EndpointTerms, Ordering};
use domain::notice::Notice;
use domain::principal::{TenantId, TenantScope};
use domain::query::DeliveryQuery;
use domain::removal::DeletedBy;
use longshore_state_postgres::PostgresStore;
use state::conformance::{
    LEASE, NOW, StateFixture, at, change_of, endpoint, horizon, leases, new_upload, pause, receive, settle, settlement,
    stored, subscribed, up_to,
};
use state::{
    BacklogLimits, Deliveries, Dispatch, Endpoints, Leases, Membership, Notices, Replays, Retention, Store, Uploads,
};

use crate::place::Database;
use crate::plans::{Plans, lacks_a_bucket, run_in_all_ways, scanned};
use crate::sending::replay_job;

#[tokio::test]
async fn every_statement_about_deliveries_goes_by_an_index() {
    let place = Database::new();
    let plans = Plans::log(&place).await;
    let store = place.open().await;
    run_in_all_ways(&store, async |_| send_and_forget(&store).await).await;
    store.close().await;
    let plans = plans.read();
    assert!(plans.len() >= 60, "only {} plans were logged", plans.len());
    let slow: Vec<_> = plans.iter().filter(|plan| !scanned(plan).is_empty()).map(String::as_str).collect();
    assert!(slow.is_empty(), "{}", slow.join("\n"));

    let unplaced: Vec<_> = plans.iter().filter(|plan| lacks_a_bucket(plan)).map(String::as_str).collect();
    assert!(unplaced.is_empty(), "{}", unplaced.join("\n"));

    // Claims use the indexes of due rows, and sort only expired leases.
    let claims: Vec<_> = plans.iter().filter(|plan| plan.contains("SKIP LOCKED")).collect();
    assert!(claims.len() >= 2);
    for plan in claims {
        let is_ready = plan.contains("state = 'ready'");
        let index = if is_ready { "_endpoint_next_at_ms_sequence_idx" } else { "_endpoint_lease_until_ms_idx" };
        assert!(plan.contains(index), "{plan}");
        assert!(!is_ready || !plan.contains("Sort  (cost"), "{plan}");
    }
    // A settlement and its effects are written in one partition.
    let updates: Vec<_> = plans.iter().filter(|plan| plan.contains("SET state = settled.state, attempts")).collect();
    assert!(!updates.is_empty());
    for plan in updates {
        assert_eq!(plan.matches("Update on deliveries_2").count(), 1, "{plan}");
    }
}

/// Runs all operations on deliveries, with endpoints in every state.
async fn send_and_forget(store: &PostgresStore) {
    let node = leases::node(1);
    store.join(&node, Membership::Others, None).await.unwrap();
    let plain = subscribed("a", &["*"]);
    let ordered = |name, ordering| {
        let plain = subscribed(name, &["*"]);
        Endpoint { terms: EndpointTerms { ordering, ..plain.terms.clone() }, ..plain }
    };
    let configured = vec![plain, ordered("strict", Ordering::Strict), ordered("free", Ordering::None)];
    store.open_for(node.instance, configured.clone(), NOW).await.unwrap();
    for number in 0..4 {
        let mut upload = store.insert(change_of(new_upload(number))).await.unwrap();
        for step in 1..=3 {
            receive(&mut upload, 200, at(10 * step));
            upload = store.commit(change_of(upload)).await.unwrap();
        }
        upload.terminate(DeletedBy::Client, at(50)).unwrap();
        let mut ended = store.commit(change_of(upload)).await.unwrap();
        ended.bytes_removed(at(51));
        store.commit(change_of(ended)).await.unwrap();
    }
    let names = ["a", "strict", "free"];
    let slots = names.map(|name| up_to(name, 3));
    let claims = store.claim_due(node.instance, &slots, at(60), LEASE).await.unwrap();
    assert!(claims.len() > 4);
    let settlements = claims.iter().zip(0..).map(|(claim, number)| {
        let disposition = [Disposition::Succeeded, Disposition::Dead, Disposition::RetryAt(at(90))][number % 3];
        settlement(claim, AttemptOutcome::Status(500), disposition)
    });
    settle(store, settlements.collect(), at(61)).await;
    store.renew_leases(node.instance, at(70)).await.unwrap();
    store.restart_waits(at(62)).await.unwrap();
    store.next_due(&names.map(endpoint)).await.unwrap();
    store.test_endpoint(TenantScope::All, node.instance, &endpoint("a"), at(62), LEASE).await.unwrap().unwrap();
    let failing = Notice::EndpointFailing { endpoint: endpoint("free"), since: NOW, percent: 50 };
    store.announce(TenantId::DEFAULT, failing, at(62)).await.unwrap();
    for query in delivery_queries(&claims[0]) {
        store.deliveries(TenantScope::All, &query).await.unwrap();
    }
    store.delivery(TenantScope::All, claims[0].delivery).await.unwrap().unwrap();
    store.backlog(TenantScope::All, None).await.unwrap();
    store.replay(TenantScope::All, claims[0].delivery, true, at(63)).await.unwrap();
    for what in [ReplaySelection::Everything, ReplaySelection::Pending] {
        let job = replay_job("free", what, at(64));
        store.begin_replay(job.clone()).await.unwrap();
        store.advance_replay(job.id, 100, at(65)).await.unwrap();
    }
    let changed = stored(store, "strict").await;
    let terms = EndpointTerms { ordering: Ordering::PerUpload, ..changed.terms.clone() };
    store.put_endpoint(Endpoint { terms, ..changed }, at(66)).await.unwrap();
    pause(store, "a", at(66)).await;
    store.expire(at(30), 5, at(67)).await.unwrap();
    let limits = BacklogLimits { begun_before: at(20), most: 2 };
    while !store.drop_excess(limits, 5, at(68)).await.unwrap().is_empty() {}
    store.cancel_backlog(TenantScope::All, &endpoint("free"), at(69)).await.unwrap();
    store.open_for(node.instance, configured[1..].to_vec(), at(70)).await.unwrap();
    store.expunge(TenantScope::All, new_upload(1).id()).await.unwrap();
    for before in [at(69), at(20_000)] {
        while store.prune(horizon(before), 10).await.unwrap() > 0 {}
    }
}

/// Combinations of the conditions that may change the walked index.
fn delivery_queries(claim: &state::Claim) -> impl Iterator<Item = DeliveryQuery> {
    let (upload, event) = (claim.upload, claim.event);
    (0..144_usize).map(move |mix| DeliveryQuery {
        state: DeliveryState::ALL.get(mix % 9).copied(),
        endpoint: (mix / 9 % 2 == 1).then(|| endpoint("a")),
        upload: upload.filter(|_| mix / 18 % 2 == 1),
        event: (mix / 36 % 2 == 1).then_some(event),
        last_status: (mix / 72 % 2 == 1).then_some(500..=599),
        limit: 10,
        ..DeliveryQuery::default()
    })
}
