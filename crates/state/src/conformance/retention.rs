//! Removal of old data: records of uploads, and backlogs beyond their limits.

use super::*;
use domain::query::UploadQuery;

use DeliveryState::*;

use crate::BacklogLimits;
use domain::failure::Failure;
use domain::principal::TenantScope;

async fn prune<S: Outbox>(store: &S, before: Timestamp) {
    while store.prune(horizon(before), 2).await.unwrap() > 0 {}
}

fn with_metadata(number: u8) -> Upload {
    let metadata = Metadata::new(vec![("user".to_owned(), b"7".to_vec()), ("long".to_owned(), vec![b'x'; 2_000])]);
    let asked = NewUpload { metadata: metadata.unwrap(), ..asked(number) };
    Upload::create(asked, NOW)
}

/// A record is removed once its bytes are deleted, and not before, regardless of how the upload ended.
pub async fn records_without_bytes_end<P: StateFixture>(place: P) {
    let store = place.open().await;
    for number in 0..6 {
        let mut upload = store.insert(change_of(with_metadata(number))).await.unwrap();
        match number {
            0 => upload.expire(at(2)),
            1 => upload.terminate(DeletedBy::Client, at(2)).unwrap(),
            2..=4 => complete(&mut upload, at(2)),
            _ => {}
        }
        if (2..=3).contains(&number) {
            upload.remove(DeletedBy::Operator, at(3)).unwrap();
        }
        let mut upload = store.commit(change_of(upload)).await.unwrap();
        // The bytes of the fourth could not be deleted yet.
        if number <= 2 {
            upload.bytes_removed(at(3));
            store.commit(change_of(upload)).await.unwrap();
        }
    }
    let listed = async || {
        let query = UploadQuery { limit: 100, ..UploadQuery::default() };
        let page = store.list(TenantScope::All, &query).await.unwrap();
        page.found.iter().map(|upload| upload.id().as_bytes()[15]).collect::<Vec<_>>()
    };
    let ended_before = |seconds| RetentionHorizon { ended_uploads: at(seconds), ..horizon(NOW) };
    while store.prune(ended_before(3), 2).await.unwrap() > 0 {}
    assert_eq!(listed().await, [5, 4, 3, 2, 1, 0], "none is old enough");
    while store.prune(ended_before(1_000), 2).await.unwrap() > 0 {}
    assert_eq!(listed().await, [5, 4, 3]);
    for number in 0..3 {
        assert!(store.find(TenantScope::All, asked(number).id).await.unwrap().is_none());
        assert_eq!(store.events_of(TenantScope::All, asked(number).id, 0, 100).await.unwrap(), []);
    }
    // The identifier is free again, with the same metadata too.
    store.insert(change_of(with_metadata(0))).await.unwrap();
}

/// Records are removed regardless of how the upload ended, with all their events and deliveries. Records that
/// may still be needed are kept.
pub async fn records_of_ended_uploads_end<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], NOW).await.unwrap();
    for number in 0..7 {
        let mut upload = store.insert(change_of(with_metadata(number))).await.unwrap();
        receive(&mut upload, 1, at(1));
        match number {
            0 | 5 => upload.expire(at(2)),
            1 => upload.terminate(DeletedBy::Client, at(2)).unwrap(),
            2 => upload.fail(Failure { code: "x".to_owned(), message: "y".to_owned(), rejection: None }, at(2)),
            3 => complete(&mut upload, at(2)),
            6 => upload.terminate(DeletedBy::Client, at(2)).unwrap(),
            _ => {}
        }
        let mut upload = store.commit(change_of(upload)).await.unwrap();
        // The bytes of the seventh could not be deleted yet.
        if matches!(number, 0 | 1 | 2 | 5) {
            upload.bytes_removed(at(3));
            store.commit(change_of(upload)).await.unwrap();
        }
    }
    // All deliveries succeed except those about the sixth.
    loop {
        let claims = claim(&*store, "a", at(5)).await;
        let claims: Vec<_> = claims.into_iter().filter(|claim| claim.upload != Some(asked(5).id)).collect();
        if claims.is_empty() {
            break;
        }
        for sent in &claims {
            succeed(&*store, sent, at(5)).await;
        }
    }
    prune(&*store, at(2)).await;
    let listed = async || {
        let query = UploadQuery { limit: 100, ..UploadQuery::default() };
        let page = store.list(TenantScope::All, &query).await.unwrap();
        page.found.iter().map(|upload| upload.id().as_bytes()[15]).collect::<Vec<_>>()
    };
    assert_eq!(listed().await, [6, 5, 4, 3, 2, 1, 0], "none is old enough");
    let horizon = RetentionHorizon { ended_uploads: at(4), ..horizon(NOW) };
    while store.prune(horizon, 2).await.unwrap() > 0 {}
    assert_eq!(listed().await, [6, 5, 4, 3]);
    for number in 0..3 {
        assert!(store.find(TenantScope::All, asked(number).id).await.unwrap().is_none());
        assert_eq!(store.events_of(TenantScope::All, asked(number).id, 0, 100).await.unwrap(), []);
        let of_it = DeliveryQuery { upload: Some(asked(number).id), limit: 10, ..DeliveryQuery::default() };
        assert_eq!(store.deliveries(TenantScope::All, &of_it).await.unwrap().found, []);
    }
    let by_user =
        UploadQuery { metadata: vec![("user".to_owned(), b"7".to_vec())], limit: 100, ..UploadQuery::default() };
    assert_eq!(store.list(TenantScope::All, &by_user).await.unwrap().found.len(), 4);
    // The identifier is free again, with the same metadata too.
    store.insert(change_of(with_metadata(0))).await.unwrap();

    // A pending delivery keeps the record of its upload, but not forever.
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], at(6)).await.unwrap();
    store.cancel_backlog(TenantScope::All, &endpoint("a"), at(6)).await.unwrap();
    while store.prune(horizon, 2).await.unwrap() > 0 {}
    assert_eq!(listed().await, [6, 4, 3, 0]);
}

/// Deliveries to an endpoint that is no longer configured are cancelled by age. Younger deliveries that
/// waited behind them are sent when the endpoint is configured again.
pub async fn an_abandoned_delivery_holds_no_lane_up<P: StateFixture>(place: P) {
    let store = place.open().await;
    let configured = || vec![subscribed("a", &["upload.*"])];
    store.open_for(own(), configured(), NOW).await.unwrap();
    let mut upload = store.insert(change_of(new_upload(1))).await.unwrap();
    receive(&mut upload, 1, at(100));
    store.commit(change_of(upload)).await.unwrap();
    assert_eq!(states_at(&*store, "a").await, [Ready, Waiting]);
    store.open_for(own(), vec![], at(200)).await.unwrap();
    while store.prune(RetentionHorizon { abandoned: at(50), ..horizon(NOW) }, 2).await.unwrap() > 0 {}
    store.open_for(own(), configured(), at(300)).await.unwrap();
    assert_eq!(states_at(&*store, "a").await, [Cancelled, Ready]);
    assert_eq!(claimed(&*store, "a", at(300)).await, [2]);
}

/// A backlog is limited by age while its endpoint is stopped, and by number in any case; the oldest
/// deliveries are dropped first.
pub async fn a_backlog_keeps_to_its_limits<P: StateFixture>(place: P) {
    let store = place.open().await;
    let configured = || vec![subscribed("a", &["upload.*"]), subscribed("b", &["upload.*"])];
    store.open_for(own(), configured(), NOW).await.unwrap();
    for number in 0..6_u8 {
        let mut upload = store.insert(change_of(new_upload(number))).await.unwrap();
        receive(&mut upload, 1, at(i64::from(number)));
        store.commit(change_of(upload)).await.unwrap();
    }
    let drop_excess = async |begun_before, most, now| {
        let limits = BacklogLimits { begun_before, most };
        let mut total = 0;
        loop {
            let piece = store.drop_excess(limits, 3, now).await.unwrap();
            if piece.is_empty() {
                return total;
            }
            total += piece.iter().map(|(_, count)| count).sum::<u64>();
        }
    };
    assert_eq!(drop_excess(at(100), 1_000, at(100)).await, 0, "no age counts while an endpoint is sent to");
    pause(&*store, "a", at(100)).await;
    assert_eq!(drop_excess(at(2), 1_000, at(101)).await, 4);
    let old = [Cancelled, Cancelled, Cancelled, Cancelled];
    assert_eq!(states_at(&*store, "a").await, [&old[..], &[Paused; 8]].concat());
    assert_eq!(states_at(&*store, "b").await[..2], [Ready, Waiting]);

    assert_eq!(drop_excess(NOW, 6, at(102)).await, 2 + 6, "the oldest of either");
    assert_eq!(states_at(&*store, "a").await, [[Cancelled; 6], [Paused; 6]].concat());
    assert_eq!(
        states_at(&*store, "b").await[..8],
        [Cancelled, Cancelled, Cancelled, Cancelled, Cancelled, Cancelled, Ready, Waiting]
    );

    // The remaining deliveries are sent in order once the endpoint is resumed. An endpoint that the
    // configuration no longer names has limits too.
    put_state(&*store, "a", EndpointState::Enabled, at(103)).await;
    assert_eq!(drop_excess(at(50), 1_000, at(104)).await, 0, "its time begins anew");
    assert_eq!(claimed(&*store, "a", at(104)).await, [1, 1, 1]);
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], at(105)).await.unwrap();
    assert_eq!(drop_excess(at(50), 1_000, at(105)).await, 6, "that is b");
    assert_eq!(states_at(&*store, "b").await, [Cancelled; 12]);
}
