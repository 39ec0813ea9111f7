//! Deliveries that wait too long.

use super::*;

use DeliveryState::*;

use domain::endpoint::Ordering;

/// Expires all deliveries that began before `begun_before`, one at a time, and returns their number.
async fn expire<S: Outbox>(store: &S, begun_before: Timestamp, now: Timestamp) -> u64 {
    let mut count = 0;
    while store.expire(begun_before, 1, now).await.unwrap() > 0 {
        count += 1;
    }
    count
}

/// Creates uploads, one per second, whose first two events `a` subscribes to.
async fn begun<S: UploadStore>(store: &S, uploads: u8) {
    for number in 0..uploads {
        let mut upload = store.insert(change_of(new_upload(number))).await.unwrap();
        receive(&mut upload, 1, at(i64::from(number)));
        store.commit(change_of(upload)).await.unwrap();
    }
}

/// Deliveries expire whether they are due and not claimed, back off, or wait behind others (webhooks R13,
/// R14).
pub async fn deliveries_that_wait_too_long_expire<P: StateFixture>(place: P) {
    let store = place.open().await;
    let watching = subscribed("watching", &["delivery.exhausted"]);
    store.open_for(own(), vec![subscribed("a", &["upload.*"]), watching], NOW).await.unwrap();
    begun(&*store, 3).await;
    let tried = claim(&*store, "a", NOW).await.remove(0);
    retry(&*store, &tried, at(500), at(1)).await;
    assert_eq!(states_at(&*store, "a").await, [Ready, Ready, Ready, Waiting, Ready, Waiting]);
    assert_eq!(expire(&*store, NOW, at(9)).await, 0, "nothing began before then");
    assert_eq!(expire(&*store, at(2), at(9)).await, 4);
    assert_eq!(states_at(&*store, "a").await, [Dead, Dead, Dead, Dead, Ready, Waiting]);
    assert_eq!(deliveries_to(&*store, "a").await[0].finished_at, Some(at(9)));

    let notices = claim(&*store, "watching", at(9)).await;
    let attempts = notices.iter().map(|claim| {
        let body: serde_json::Value = serde_json::from_slice(&claim.body).unwrap();
        assert_eq!(body["type"], "delivery.exhausted");
        body["data"]["attempts"].as_u64().unwrap()
    });
    assert_eq!(attempts.sum::<u64>(), 1, "only one of the four was ever tried");
    assert_eq!(notices.len(), 4);
    for sent in &notices {
        retry(&*store, sent, at(500), at(9)).await;
    }
    assert_eq!(expire(&*store, at(10), at(11)).await, 6, "the remaining deliveries and the notices");
    let newest_first = states_at(&*store, "watching").await;
    assert_eq!(newest_first, [Ready, Ready, Dead, Dead, Dead, Dead], "an expired notice causes no further notice");
}

/// Deliveries that are not too old are released, in every ordering.
pub async fn a_lane_advances_past_expired_deliveries<P: StateFixture>(place: P) {
    let store = place.open().await;
    let plain = subscribed("a", &["upload.*"]);
    let terms = EndpointTerms { ordering: Ordering::Strict, ..plain.terms.clone() };
    store.open_for(own(), vec![Endpoint { terms, ..plain }, subscribed("b", &["upload.*"])], NOW).await.unwrap();
    let mut upload = store.insert(change_of(new_upload(0))).await.unwrap();
    receive(&mut upload, 1, at(10));
    store.commit(change_of(upload)).await.unwrap();
    let tried = claim(&*store, "a", NOW).await.remove(0);
    retry(&*store, &tried, at(500), at(1)).await;
    for name in ["a", "b"] {
        assert_eq!(states_at(&*store, name).await, [Ready, Waiting], "{name}");
    }
    assert_eq!(expire(&*store, at(5), at(20)).await, 2);
    for name in ["a", "b"] {
        assert_eq!(states_at(&*store, name).await, [Dead, Ready], "{name}");
        assert_eq!(claimed(&*store, name, at(20)).await, [2], "{name}");
    }
    assert_eq!(expire(&*store, at(100), at(101)).await, 0, "a delivery that is being sent does not expire");
}

/// Expired progress is dropped without a notice (webhooks C5).
pub async fn old_progress_is_dropped_without_a_word<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.progress", "delivery.exhausted"])], NOW).await.unwrap();
    let mut upload = store.insert(change_of(new_upload(0))).await.unwrap();
    receive(&mut upload, 1, NOW);
    receive(&mut upload, 1_000, at(1));
    store.commit(change_of(upload)).await.unwrap();
    assert_eq!(expire(&*store, at(2), at(3)).await, 1);
    assert_eq!((states_at(&*store, "a").await, store.superseded()), (vec![Superseded], 1));
}

/// Deliveries kept for a stopped endpoint get their full time when it is resumed (webhooks E6). Those of an
/// endpoint that no configuration names are left to the removal of old data.
pub async fn what_is_kept_does_not_age<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"]), subscribed("b", &["upload.*"])], NOW).await.unwrap();
    begun(&*store, 2).await;
    let tried = claim(&*store, "a", NOW).await.remove(0);
    retry(&*store, &tried, at(60), NOW).await;
    pause(&*store, "a", at(1)).await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], at(2)).await.unwrap();
    assert_eq!(expire(&*store, at(1_000), at(1_000)).await, 0);
    assert_eq!(states_at(&*store, "a").await, [Paused; 4]);
    assert_eq!(states_at(&*store, "b").await, [Ready, Waiting, Ready, Waiting]);

    put_state(&*store, "a", EndpointState::Enabled, at(1_000)).await;
    assert_eq!(expire(&*store, at(1_000), at(1_001)).await, 0);
    let claims = claim(&*store, "a", at(1_001)).await;
    assert_eq!(claims.iter().map(|claim| claim.begun_at).collect::<Vec<_>>(), [at(1_000); 3]);
}
