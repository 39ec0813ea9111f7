//! Endpoints as operators manage them: every field, the check of versions, ordering, and the selection of
//! events.

use super::*;

use DeliveryState::*;

use crate::Error;
use domain::delivery::{AttemptTrigger, DeliveryClass};
use domain::endpoint::{Ordering, Payload, Signing};
use domain::event::EventKind;
use domain::notice::Notice;
use domain::principal::{TenantId, TenantScope};

fn made(name: &str) -> Endpoint {
    Endpoint { origin: Origin::Api, ..subscribed(name, &["upload.*"]) }
}

fn odd(name: &str) -> Endpoint {
    let patterns = vec!["upload.completed".to_owned(), "delivery.*".to_owned()];
    let terms = EndpointTerms {
        url: "https://example.com/a?b=\"c\"".to_owned(),
        description: "Grüße\0".to_owned(),
        filter: EventFilter::new(patterns).unwrap(),
        metadata: vec![("z".to_owned(), "1".to_owned()), ("a".to_owned(), String::new())],
        ordering: Ordering::Strict,
        payload: Payload::Thin,
        signing: Signing::Both,
        max_in_flight: Some(3),
        max_per_second: Some(u32::MAX),
        timeout: Some(Duration::from_millis(1_500)),
        retry_schedule: Some(vec![Duration::from_secs(1), Duration::from_hours(24)]),
        auto_disable: false,
        ca_certificates: Some("-----BEGIN CERTIFICATE-----\n".to_owned()),
    };
    let health = Health {
        consecutive_failures: 11,
        failing_since: Some(at(-9)),
        exhausted: 2,
        open_until: Some(at(30)),
        warned_percent: 70,
    };
    let state = EndpointState::Disabled { since: at(-1), because: DisabledBecause::Failing };
    Endpoint { terms, sealed: vec![0, 255], state, health, created_at: at(-20), updated_at: at(-1), ..made(name) }
}

pub async fn an_endpoint_survives<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![], NOW).await.unwrap();
    let written = store.put_endpoint(odd("odd"), NOW).await.unwrap();
    store.put_endpoint(made("plain"), NOW).await.unwrap();
    assert_eq!(written, Endpoint { version: 1, ..odd("odd") });
    store.close().await;

    let store = place.open().await;
    store.open_for(own(), vec![subscribed("configured", &["*"])], NOW).await.unwrap();
    let names: Vec<_> =
        store.endpoints(TenantScope::All).await.unwrap().into_iter().map(|it| it.id.as_str().to_owned()).collect();
    assert_eq!(names, ["configured", "odd", "plain"]);
    assert_eq!(stored(&*store, "odd").await, written, "neither terms nor state are touched by a start");
    let later = Endpoint { created_at: at(60), updated_at: at(60), ..subscribed("configured", &["*"]) };
    store.open_for(own(), vec![later], at(60)).await.unwrap();
    let configured = stored(&*store, "configured").await;
    assert_eq!((configured.created_at, configured.updated_at), (NOW, at(60)), "a start creates no endpoint anew");

    let change = HealthChange { has_succeeded: true, exhausted: 9, ..HealthChange::default() };
    note_health(&*store, "odd", change, NOW).await;
    let health = Health { exhausted: 9, ..Health::default() };
    assert_eq!(stored(&*store, "odd").await, Endpoint { health, ..written });
}

pub async fn an_endpoint_is_changed_by_its_version<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![], NOW).await.unwrap();
    let first = store.put_endpoint(made("a"), NOW).await.unwrap();
    let again = store.put_endpoint(made("a"), NOW).await;
    assert!(matches!(again, Err(Error::EndpointConflict(id)) if id == endpoint("a")), "the name is taken");
    let second = store.put_endpoint(Endpoint { sealed: vec![1], ..first.clone() }, NOW).await.unwrap();
    let late = store.put_endpoint(Endpoint { sealed: vec![2], ..first }, NOW).await;
    assert!(matches!(late, Err(Error::EndpointConflict(_))), "{late:?}");
    assert_eq!(stored(&*store, "a").await, second);
    let gone = store.put_endpoint(Endpoint { version: 7, ..made("b") }, NOW).await;
    assert!(matches!(gone, Err(Error::EndpointConflict(_))), "one that was removed does not come back");
}

pub async fn new_endpoints_hear_at_once_and_removed_ones_no_more<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![], NOW).await.unwrap();
    let mut upload = store.insert(change_of(new_upload(0))).await.unwrap();
    store.put_endpoint(made("a"), NOW).await.unwrap();
    receive(&mut upload, 1, NOW);
    let mut upload = store.commit(change_of(upload)).await.unwrap();
    assert_eq!(claimed(&*store, "a", at(1)).await, [2]);
    upload.terminate(DeletedBy::Client, at(2)).unwrap();
    let mut upload = store.commit(change_of(upload)).await.unwrap();
    assert_eq!(states_at(&*store, "a").await, [Leased, Waiting]);

    store.cancel_backlog(TenantScope::All, &endpoint("a"), at(2)).await.unwrap();
    assert_eq!(states_at(&*store, "a").await, [Cancelled, Cancelled]);
    store.insert(change_of(new_upload(8))).await.unwrap();
    assert_eq!(states_at(&*store, "a").await, [Cancelled, Cancelled, Ready]);

    assert!(store.remove_endpoint(TenantScope::All, &endpoint("a"), at(3)).await.unwrap());
    assert!(!store.remove_endpoint(TenantScope::All, &endpoint("a"), at(3)).await.unwrap());
    upload.bytes_removed(at(4));
    store.commit(change_of(upload)).await.unwrap();
    store.insert(change_of(new_upload(9))).await.unwrap();
    assert_eq!(states_at(&*store, "a").await, [Cancelled, Cancelled, Cancelled]);
    assert_eq!(store.endpoints(TenantScope::All).await.unwrap(), []);
}

/// Deliveries for an endpoint of the configuration do not go to a later endpoint that takes its name.
pub async fn a_new_endpoint_inherits_nothing<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], NOW).await.unwrap();
    store.insert(change_of(new_upload(0))).await.unwrap();
    store.open_for(own(), vec![], at(1)).await.unwrap();
    store.put_endpoint(made("a"), at(2)).await.unwrap();
    assert_eq!(states_at(&*store, "a").await, [Cancelled]);
    store.insert(change_of(new_upload(1))).await.unwrap();
    assert_eq!(claimed(&*store, "a", at(3)).await, [1]);
}

/// An endpoint that the configuration omits for a while still gets its pending deliveries. After the
/// retention time, or on an operator's request, they are cancelled, and can then be replayed.
pub async fn what_waits_for_nobody_ends<P: StateFixture>(place: P) {
    let store = place.open().await;
    let configured = || vec![subscribed("a", &["upload.*"]), subscribed("b", &["upload.*"])];
    store.open_for(own(), configured(), NOW).await.unwrap();
    for number in 0..4 {
        let mut upload = store.insert(change_of(new_upload(number))).await.unwrap();
        receive(&mut upload, 1, at(i64::from(number)));
        store.commit(change_of(upload)).await.unwrap();
    }
    store.open_for(own(), vec![subscribed("b", &["upload.*"])], at(10)).await.unwrap();
    assert_eq!(claimed(&*store, "a", at(10)).await, [0_u64; 0]);
    let untouched = states_at(&*store, "b").await;
    let prune = async |abandoned| {
        let horizon = RetentionHorizon { abandoned, ..horizon(NOW) };
        while store.prune(horizon, 1).await.unwrap() > 0 {}
    };
    prune(at(2)).await;
    let two_and_two = [Cancelled, Cancelled, Cancelled, Cancelled, Ready, Waiting, Ready, Waiting];
    assert_eq!(states_at(&*store, "a").await, two_and_two, "the old ones");
    assert_eq!(states_at(&*store, "b").await, untouched);
    store.open_for(own(), configured(), at(11)).await.unwrap();
    prune(at(100)).await;
    assert_eq!(states_at(&*store, "a").await, two_and_two, "it is there again");
    assert_eq!(claim(&*store, "a", at(12)).await.len(), 2);

    store.open_for(own(), vec![], at(13)).await.unwrap();
    assert!(store.remove_endpoint(TenantScope::All, &endpoint("a"), at(14)).await.unwrap());
    assert!(!store.remove_endpoint(TenantScope::All, &endpoint("a"), at(14)).await.unwrap());
    assert_eq!(states_at(&*store, "a").await, [Cancelled; 8]);
    assert_eq!(states_at(&*store, "b").await, untouched);
}

/// A delivery that was being sent when the server died waits, like the others, while its endpoint is stopped.
pub async fn a_start_leaves_what_is_stopped_at_rest<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], NOW).await.unwrap();
    store.put_endpoint(made("b"), NOW).await.unwrap();
    store.insert(change_of(new_upload(0))).await.unwrap();
    for name in ["a", "b"] {
        assert_eq!(claim(&*store, name, at(1)).await.len(), 1);
        pause(&*store, name, at(1)).await;
    }
    store.close().await;
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], at(2)).await.unwrap();
    for name in ["a", "b"] {
        assert_eq!(states_at(&*store, name).await, [Paused], "{name}");
        put_state(&*store, name, EndpointState::Enabled, at(3)).await;
        assert_eq!(claim(&*store, name, at(3)).await.len(), 1, "{name}");
    }
}

/// A pause by an operator survives a restart; an endpoint that the server disabled is enabled again.
pub async fn a_start_undoes_only_what_the_server_did<P: StateFixture>(place: P) {
    let store = place.open().await;
    let configured = || vec![subscribed("a", &["upload.*"]), subscribed("b", &["upload.*"])];
    store.open_for(own(), configured(), NOW).await.unwrap();
    pause(&*store, "a", at(1)).await;
    disable(&*store, "b", at(1)).await;
    let failing = HealthChange { exhausted: 2, failing_since: Some(NOW), ..HealthChange::default() };
    note_health(&*store, "b", failing, at(1)).await;
    store.insert(change_of(new_upload(0))).await.unwrap();
    store.close().await;
    let store = place.open().await;
    store.open_for(own(), configured(), at(2)).await.unwrap();
    assert_eq!(stored(&*store, "a").await.state, EndpointState::Paused { since: at(1) });
    assert_eq!(stored(&*store, "b").await.state, EndpointState::Enabled);
    assert_eq!(stored(&*store, "b").await.health, Health::default(), "with no failures to its name");
    assert_eq!(states_at(&*store, "a").await, [Paused]);
    assert_eq!(states_at(&*store, "b").await, [Ready]);
}

/// Endpoints receive events of uploads with matching metadata (webhooks A2).
pub async fn metadata_chooses_who_hears<P: StateFixture>(place: P) {
    let store = place.open().await;
    let wanting = |name: &str, pairs: &[(&str, &str)]| {
        let metadata = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let plain = subscribed(name, &["*"]);
        Endpoint { terms: EndpointTerms { metadata, ..plain.terms.clone() }, ..plain }
    };
    let both = [("user", "7"), ("kind", "video")];
    store
        .open_for(own(), vec![wanting("both", &both), wanting("one", &both[..1]), wanting("none", &[])], NOW)
        .await
        .unwrap();
    for (number, pairs) in [(0, &both[..]), (1, &[("user", "7")]), (2, &[("user", "77"), ("kind", "video")])] {
        let metadata = pairs.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
        let asked = NewUpload { metadata: Metadata::new(metadata).unwrap(), ..asked(number) };
        store.insert(change_of(Upload::create(asked, NOW))).await.unwrap();
    }
    for (name, count) in [("both", 1), ("one", 2), ("none", 3)] {
        assert_eq!(deliveries_to(&*store, name).await.len(), count, "{name}");
    }
}

async fn ordered<P: StateFixture>(place: &P, ordering: Ordering) -> (Arc<P::Store>, Upload) {
    let store = place.open().await;
    let plain = subscribed("a", &["upload.*"]);
    let terms = EndpointTerms { ordering, ..plain.terms.clone() };
    store.open_for(own(), vec![Endpoint { terms, ..plain }], NOW).await.unwrap();
    let mut upload = store.insert(change_of(new_upload(0))).await.unwrap();
    complete(&mut upload, NOW);
    (Arc::clone(&store), store.commit(change_of(upload)).await.unwrap())
}

/// A strict endpoint waits for every event (webhooks G7).
pub async fn a_strict_endpoint_waits_for_every_event<P: StateFixture>(place: P) {
    let (store, _) = ordered(&place, Ordering::Strict).await;
    store.insert(change_of(new_upload(1))).await.unwrap();
    let first = claim(&*store, "a", at(1)).await;
    assert_eq!(first.len(), 2, "another upload does not wait");
    retry(&*store, &first[0], at(9), at(2)).await;
    assert_eq!(claimed(&*store, "a", at(3)).await, [0_u64; 0], "a delivery that backs off delays the others");
    let again = claim(&*store, "a", at(9)).await;
    assert_eq!(again.len(), 1);
    settle(&*store, vec![settlement(&again[0], AttemptOutcome::Timeout, Disposition::Dead)], at(9)).await;
    assert_eq!(claimed(&*store, "a", at(10)).await, [2], "until it fails permanently");
}

pub async fn an_endpoint_can_do_without_order<P: StateFixture>(place: P) {
    let (store, _) = ordered(&place, Ordering::None).await;
    assert_eq!(claimed(&*store, "a", at(1)).await, [1, 2, 3, 4, 5, 6]);
}

pub async fn a_change_of_order_reaches_what_waits<P: StateFixture>(place: P) {
    let (store, _) = ordered(&place, Ordering::Strict).await;
    let first = claim(&*store, "a", at(1)).await;
    retry(&*store, &first[0], at(100), at(1)).await;
    let order = async |ordering| {
        let before = stored(&*store, "a").await;
        let terms = EndpointTerms { ordering, ..before.terms.clone() };
        store.put_endpoint(Endpoint { terms, ..before }, at(2)).await.unwrap();
    };
    order(Ordering::PerUpload).await;
    assert_eq!(states_at(&*store, "a").await, [Ready, Ready, Waiting, Waiting, Waiting, Waiting]);
    order(Ordering::None).await;
    assert_eq!(states_at(&*store, "a").await, [Ready; 6]);
}

/// A thin body is short, and stays the same whatever happens to the upload meanwhile (webhooks P5, P6, P7).
pub async fn a_thin_endpoint_gets_a_short_body<P: StateFixture>(place: P) {
    let store = place.open().await;
    let plain = subscribed("a", &["*"]);
    let terms = EndpointTerms { payload: Payload::Thin, ..plain.terms.clone() };
    store.open_for(own(), vec![Endpoint { terms, ..plain }], NOW).await.unwrap();
    let mut upload = store.insert(change_of(new_upload(0))).await.unwrap();
    let first = claim(&*store, "a", at(1)).await.remove(0);
    retry(&*store, &first, at(2), at(1)).await;
    receive(&mut upload, 1, at(1));
    let upload = store.commit(change_of(upload)).await.unwrap();
    let again = claim(&*store, "a", at(3)).await;
    let again = again.iter().find(|claim| claim.event == first.event).unwrap();
    let expected = serde_json::json!({
        "type": "upload.created",
        "timestamp": NOW.to_string(),
        "data": {
            "upload_id": upload.id().to_string(),
            "sequence": 1,
            "stage": "created",
            "offset": 0,
            "length": 10_000,
            "url": format!("/api/v1/uploads/{}", upload.id()),
        },
    });
    assert_eq!(first.body, expected.to_string());
    assert_eq!(again.body, first.body);
}

/// Notices go to subscribed endpoints, and never to an endpoint about its own failures (webhooks E8, R14).
pub async fn notices_go_to_those_who_want_them<P: StateFixture>(place: P) {
    let store = place.open().await;
    let endpoints = [("a", "upload.*"), ("b", "endpoint.*"), ("c", "delivery.exhausted"), ("d", "*")];
    store.open_for(own(), endpoints.map(|(name, events)| subscribed(name, &[events])).to_vec(), NOW).await.unwrap();
    store.insert(change_of(new_upload(0))).await.unwrap();
    let claims = claim(&*store, "a", at(1)).await;
    settle(&*store, vec![settlement(&claims[0], AttemptOutcome::Status(500), Disposition::Dead)], at(1)).await;
    let failing = Notice::EndpointFailing { endpoint: endpoint("b"), since: NOW, percent: 50 };
    store.announce(TenantId::DEFAULT, failing, at(2)).await.unwrap();
    disable(&*store, "a", at(3)).await;
    disable(&*store, "a", at(4)).await;

    let received = async |name| {
        let all = deliveries_to(&*store, name).await;
        all.into_iter().rev().filter(|it| it.upload.is_none()).map(|it| it.event_name).collect::<Vec<_>>()
    };
    assert_eq!(received("a").await, [""; 0]);
    assert_eq!(received("b").await, ["endpoint.disabled"], "once, and not of itself");
    assert_eq!(received("c").await, ["delivery.exhausted"]);
    assert_eq!(received("d").await, ["delivery.exhausted", "endpoint.failing", "endpoint.disabled"]);

    // The failure of a notice causes no further notice; otherwise there would be no end.
    let notice = claim(&*store, "c", at(5)).await.remove(0);
    assert_eq!((notice.class, notice.upload), (DeliveryClass::Notice, None));
    let body: serde_json::Value = serde_json::from_slice(&notice.body).unwrap();
    assert_eq!(body["data"]["delivery_id"], claims[0].delivery.to_string());
    settle(&*store, vec![settlement(&notice, AttemptOutcome::Status(500), Disposition::Dead)], at(5)).await;
    assert_eq!(received("c").await, ["delivery.exhausted"]);
    assert_eq!(
        store.events_since(TenantScope::All, Default::default(), 100).await.unwrap().found.len(),
        1,
        "the log is of uploads"
    );
}

/// A test is leased to its caller, even while the endpoint is paused (webhooks A5).
pub async fn a_test_is_for_one_endpoint<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.created"]), subscribed("b", &["*"])], NOW).await.unwrap();
    pause(&*store, "a", NOW).await;
    let test = store.test_endpoint(TenantScope::All, own(), &endpoint("a"), at(1), LEASE).await.unwrap().unwrap();
    assert_eq!((test.kind, test.class, test.trigger), (EventKind::Ping, DeliveryClass::Test, AttemptTrigger::Test));
    assert_eq!(states_at(&*store, "a").await, [Leased]);
    assert_eq!(deliveries_to(&*store, "b").await, []);
    settle(&*store, vec![settlement(&test, AttemptOutcome::Status(500), Disposition::Cancelled)], at(2)).await;
    let record = store.delivery(TenantScope::All, test.delivery).await.unwrap().unwrap();
    assert_eq!((record.state, record.finished_at, record.attempts.len()), (Cancelled, Some(at(2)), 1));
    assert_eq!(record.attempts[0].trigger, AttemptTrigger::Test);

    let lost = store.test_endpoint(TenantScope::All, own(), &endpoint("b"), at(3), LEASE).await.unwrap().unwrap();
    store.close().await;
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("b", &["*"])], at(4)).await.unwrap();
    let record = store.delivery(TenantScope::All, lost.delivery).await.unwrap().unwrap();
    assert_eq!(record.state, Cancelled, "no caller waits for the result any more");
    assert_eq!(store.test_endpoint(TenantScope::All, own(), &endpoint("x"), at(3), LEASE).await.unwrap(), None);
}
