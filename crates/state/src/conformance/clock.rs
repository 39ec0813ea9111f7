//! The clock that a state provides, and deliveries after it was set.

use super::*;
use crate::Membership;
use domain::endpoint::Ordering;
use domain::node::{Node, NodeName};

/// The time by which the clock was ahead, in seconds.
const AHEAD: i64 = 7_200;

pub async fn what_waits_by_a_clock_that_was_ahead_is_due<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.created"])], NOW).await.unwrap();
    let upload = |number: u8, seconds: i64| {
        let mut new = asked(number);
        new.id = UploadId::new(at(seconds), [number; 10]);
        Upload::create(new, at(seconds))
    };
    // The first delivery has backed off since before the step, the second since the clock was ahead, and the
    // third was never tried.
    for (number, begun) in [(1, 0), (2, 0)] {
        store.insert(change_of(upload(number, begun))).await.unwrap();
    }
    let mut claims = claim(&*store, "a", at(1)).await;
    claims.sort_by_key(|claim| claim.upload);
    let fail = |claim: &Claim, started: i64, wait: i64| {
        let mut failed = settlement(claim, AttemptOutcome::Status(500), Disposition::RetryAt(at(started + wait)));
        failed.attempt.started_at = at(started);
        failed
    };
    settle(&*store, vec![fail(&claims[0], 1, 1_000)], at(1)).await;
    settle(&*store, vec![fail(&claims[1], AHEAD, 5)], at(AHEAD)).await;
    store.insert(change_of(upload(3, AHEAD))).await.unwrap();

    assert_eq!(claim(&*store, "a", at(10)).await, []);
    assert_eq!(store.restart_waits(at(10)).await.unwrap(), 2);
    assert_eq!(store.restart_waits(at(10)).await.unwrap(), 0, "again there is nothing to do");
    let due: Vec<_> = claim(&*store, "a", at(10)).await.iter().map(|claim| claim.upload).collect();
    let [second, third] = [upload(2, 0).id(), upload(3, AHEAD).id()].map(Some);
    assert!(due.len() == 2 && due.contains(&second) && due.contains(&third), "{due:?}");
    assert_eq!(
        claim(&*store, "a", at(1_001)).await[..].len(),
        3,
        "expired leases, and deliveries that waited by the right clock"
    );
}

/// All handles share one clock. They may differ by the duration of a message, which is not measured here.
pub async fn all_handles_tell_one_time<P: StateFixture>(place: P) {
    const MESSAGE: Duration = Duration::from_secs(30);
    let (first, second) = (place.open().await, place.open().await);
    let before = first.clock().now();
    let between = second.clock().now();
    let after = first.clock().now();
    assert!(before <= between.plus(MESSAGE) && between <= after.plus(MESSAGE), "{before:?} {between:?} {after:?}");

    // Nodes are judged by the same clock: a node is dead once the time it joined for has passed, and not
    // before.
    let node = own();
    let named = |instance| Node::alone(instance, NodeName::new("clock").unwrap(), "1.0.0");
    first.join(&named(node), Membership::Others, Some(MESSAGE * 10)).await.unwrap();
    assert!(second.renew(node, Duration::ZERO).await.unwrap());
    assert!(!first.renew(node, MESSAGE).await.unwrap());
}

pub async fn a_long_backlog_is_followed_in_pieces<P: StateFixture>(place: P) {
    let store = place.open().await;
    let filter = EventFilter::new(vec!["upload.*".to_owned()]).unwrap();
    let terms = EndpointTerms { filter, ordering: Ordering::None, ..EndpointTerms::of("http://127.0.0.1:9/hooks") };
    store
        .open_for(own(), vec![Endpoint::new(TenantId::DEFAULT, endpoint("a"), Origin::Config, terms, NOW)], NOW)
        .await
        .unwrap();
    let inserting = (0..1_203_u32).map(|number| {
        let mut new = asked(0);
        let mut random = [0; 10];
        random[..4].copy_from_slice(&number.to_be_bytes());
        new.id = UploadId::new(at(AHEAD), random);
        store.insert(change_of(Upload::create(new, at(AHEAD))))
    });
    for inserted in futures::future::join_all(inserting).await {
        inserted.unwrap();
    }
    assert_eq!(store.restart_waits(at(AHEAD)).await.unwrap(), 0, "they are due");
    assert_eq!(store.restart_waits(NOW).await.unwrap(), 1_203);
    assert_eq!(store.next_due(&[endpoint("a")]).await.unwrap(), Some(NOW));
}

pub async fn renewed_leases_end_at_the_given_time<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.created"])], NOW).await.unwrap();
    for number in 0..2 {
        store.insert(change_of(new_upload(number))).await.unwrap();
    }
    let held = claim(&*store, "a", at(1)).await;
    // The clock steps ahead while the sender is still working.
    store.renew_leases(own(), at(AHEAD).plus(Duration::from_secs(60))).await.unwrap();
    assert_eq!(claim(&*store, "a", at(AHEAD)).await, []);
    succeed(&*store, &held[0], at(AHEAD)).await;
    // The clock is set back, and the sender has died.
    store.renew_leases(own(), at(70)).await.unwrap();
    let taken_over: Vec<_> = claim(&*store, "a", at(70)).await.iter().map(|claim| claim.delivery).collect();
    assert_eq!(taken_over, [held[1].delivery]);
}
