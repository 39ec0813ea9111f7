//! Endpoints that are stopped, resumed, or no longer named; and the start of a process.

use super::*;

use DeliveryState::*;

async fn begun<P: StateFixture>(place: &P) -> (Arc<P::Store>, Upload) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"]), subscribed("b", &["upload.*"])], NOW).await.unwrap();
    let mut upload = store.insert(change_of(new_upload(0))).await.unwrap();
    receive(&mut upload, 1, NOW);
    let upload = store.commit(change_of(upload)).await.unwrap();
    (store, upload)
}

/// Deliveries of a paused endpoint are kept, not dropped, and not sent (webhooks E6).
pub async fn a_paused_endpoint_gets_no_delivery<P: StateFixture>(place: P) {
    let (store, mut upload) = begun(&place).await;
    disable(&*store, "a", at(1)).await;
    disable(&*store, "a", at(2)).await;
    upload.terminate(DeletedBy::Client, at(3)).unwrap();
    store.commit(change_of(upload)).await.unwrap();
    assert_eq!(states_at(&*store, "a").await, [Paused, Paused, Paused]);
    assert_eq!(claimed(&*store, "a", at(1_000)).await, [0_u64; 0]);
    assert_eq!(store.next_due(&[endpoint("a")]).await.unwrap(), None);
    assert_eq!(states_at(&*store, "b").await, [Ready, Waiting, Waiting], "the other is not touched");
}

pub async fn what_is_being_sent_settles_into_the_pause<P: StateFixture>(place: P) {
    let (store, _) = begun(&place).await;
    store.insert(change_of(new_upload(1))).await.unwrap();
    let claims = claim(&*store, "a", at(5)).await;
    assert_eq!(claims.len(), 2);
    disable(&*store, "a", at(6)).await;
    for sent in &claims {
        retry(&*store, sent, at(7), at(7)).await;
    }
    assert_eq!(states_at(&*store, "a").await, [Paused, Paused, Paused]);

    // Deliveries that had their first attempt before the pause are sent at once and block no others; the
    // oldest is sent first.
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], at(8)).await.unwrap();
    assert_eq!(states_at(&*store, "a").await, [Ready, Ready, Ready]);
    let attempts: Vec<_> = claim(&*store, "a", at(8)).await.iter().map(|claim| claim.attempts).collect();
    assert_eq!(attempts, [0, 1, 1]);
}

pub async fn opening_resumes_in_order<P: StateFixture>(place: P) {
    let (store, mut upload) = begun(&place).await;
    disable(&*store, "a", at(1)).await;
    upload.terminate(DeletedBy::Client, at(3)).unwrap();
    store.commit(change_of(upload)).await.unwrap();
    store.close().await;
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], at(4)).await.unwrap();
    assert_eq!(states_at(&*store, "a").await, [Ready, Waiting, Waiting]);
    for sequence in 1..=3 {
        let due = claim(&*store, "a", at(5)).await;
        assert_eq!(due.iter().map(sequence_of).collect::<Vec<_>>(), [sequence]);
        succeed(&*store, &due[0], at(5)).await;
    }
}

pub async fn opening_takes_back_every_lease<P: StateFixture>(place: P) {
    let (store, _) = begun(&place).await;
    let lost = claim(&*store, "a", at(1)).await.remove(0);
    claim(&*store, "b", at(1)).await;
    store.close().await;
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], at(2)).await.unwrap();
    assert_eq!(states_at(&*store, "a").await, [Ready, Waiting]);
    assert_eq!(states_at(&*store, "b").await, [Ready, Waiting]);
    let again = claim(&*store, "a", at(2)).await.remove(0);
    assert_eq!((again.delivery, again.attempts), (lost.delivery, 0));
    succeed(&*store, &lost, at(3)).await;
    assert_eq!(states_at(&*store, "a").await, [Leased, Waiting], "the old lease is worth nothing");
}

pub async fn deliveries_of_endpoints_no_longer_named_stay<P: StateFixture>(place: P) {
    let (store, mut upload) = begun(&place).await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], at(1)).await.unwrap();
    upload.terminate(DeletedBy::Client, at(2)).unwrap();
    store.commit(change_of(upload)).await.unwrap();
    assert_eq!(states_at(&*store, "a").await.len(), 3);
    assert_eq!(states_at(&*store, "b").await, [Ready, Waiting], "nothing new, nothing lost");
    store.open_for(own(), vec![subscribed("b", &["upload.*"])], at(3)).await.unwrap();
    assert_eq!(claimed(&*store, "b", at(4)).await, [1]);
}
