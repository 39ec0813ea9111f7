//! The log of events: consistent with the uploads, in order, in pages.

use domain::log::{EventPage, EventPosition};
use futures::future::join_all;

use super::*;
use crate::Error;
use domain::event::EventKind;
use domain::notice::Notice;
use domain::principal::{TenantId, TenantScope};

/// No event without a change, no change without its event, no delivery without both (webhooks G2, G3).
pub async fn a_change_and_its_events_are_one<P: StateFixture>(place: P) {
    let store = place.open().await;
    store
        .open_for(own(), vec![subscribed("a", &["upload.*"]), subscribed("b", &["upload.completed"])], NOW)
        .await
        .unwrap();
    let read = store.insert(change_of(new_upload(1))).await.unwrap();
    let mut upload = read.clone();
    complete(&mut upload, at(1));
    store.commit(change_of(upload)).await.unwrap();
    let mut loser = read;
    loser.terminate(DeletedBy::Client, at(2)).unwrap();
    assert!(matches!(store.commit(change_of(loser.clone())).await, Err(Error::Conflict(_))));

    let events = store.events_of(TenantScope::All, loser.id(), 0, 100).await.unwrap();
    use EventKind::*;
    let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [Created, Receiving, Received, Verified, Stored, Completed]);
    assert!(events.iter().map(|event| event.sequence).eq(1..=6), "gapless (webhooks P5)");
    let delivered = deliveries_to(&*store, "a").await;
    assert!(delivered.iter().map(|delivery| delivery.event).eq(events.iter().map(|event| event.id)));
    let completed = deliveries_to(&*store, "b").await;
    assert_eq!((completed.len(), completed[0].event), (1, events[5].id));

    let body: serde_json::Value = serde_json::from_slice(&events[5].body).unwrap();
    assert_eq!(body["type"], "upload.completed");
    assert_eq!(body["data"]["offset"], 10_000);
}

pub async fn events_come_in_pages<P: StateFixture>(place: P) {
    let store = place.open().await;
    assert_eq!(store.newest_event().await.unwrap(), EventPosition::default());
    for number in 0..5 {
        let mut upload = store.insert(change_of(new_upload(number))).await.unwrap();
        complete(&mut upload, at(50));
        store.commit(change_of(upload)).await.unwrap();
    }
    let mut pages = Vec::new();
    let mut after = EventPosition::default();
    loop {
        let page = store.events_since(TenantScope::All, after, 4).await.unwrap();
        assert!(page.found.len() <= 4);
        after = page.seen;
        pages.extend(page.found);
        if !page.has_more {
            break;
        }
    }
    assert_eq!(pages.len(), 30);
    assert_eq!(after, store.newest_event().await.unwrap());
    assert!(pages.is_sorted_by_key(|event| event.position));

    let id = new_upload(3).id();
    let own: Vec<_> = pages.into_iter().filter(|event| event.upload == id).collect();
    assert_eq!(store.events_of(TenantScope::All, id, 0, 100).await.unwrap(), own);
    assert_eq!(store.events_of(TenantScope::All, id, 2, 3).await.unwrap(), own[2..5]);
    assert_eq!(store.events_of(TenantScope::All, id, 6, 3).await.unwrap(), []);
}

pub async fn what_was_missed_is_counted_so_far_and_no_further<P: StateFixture>(place: P) {
    let store = place.open().await;
    assert_eq!(store.count_events_behind(TenantScope::All, EventPosition::default(), 5).await.unwrap(), Some(0));
    for number in 0..4 {
        store.insert(change_of(new_upload(number))).await.unwrap();
    }
    let log = store.events_since(TenantScope::All, EventPosition::default(), 10).await.unwrap().found;
    for (after, most, expected) in [
        (EventPosition::default(), 10, 4),
        (EventPosition::default(), 3, 3),
        (log[0].position, 10, 3),
        (log[3].position, 10, 0),
    ] {
        assert_eq!(
            store.count_events_behind(TenantScope::All, after, most).await.unwrap(),
            Some(expected),
            "{after:?}, {most}"
        );
    }
    let elsewhere = EventPosition(log[3].position.0 + 1);
    assert_eq!(
        store.count_events_behind(TenantScope::All, elsewhere, 10).await.unwrap(),
        None,
        "nothing has been there yet"
    );
    let bytes = log[3].position.to_bytes();
    assert_eq!(EventPosition::from_bytes(&bytes), Some(log[3].position));
    assert_eq!(EventPosition::from_bytes(&bytes[1..]), None);
}

/// A reader that was absent while an event was removed can no longer receive all events.
pub async fn an_event_that_was_removed_counts_as_too_many<P: StateFixture>(place: P) {
    let store = place.open().await;
    for number in 0..4 {
        let mut upload = store.insert(change_of(new_upload(number))).await.unwrap();
        if number == 1 {
            upload.terminate(DeletedBy::Client, at(1)).unwrap();
            let mut ended = store.commit(change_of(upload)).await.unwrap();
            ended.bytes_removed(at(1));
            store.commit(change_of(ended)).await.unwrap();
        }
    }
    let log = store.events_since(TenantScope::All, EventPosition::default(), 10).await.unwrap().found;
    let counted = async |after| store.count_events_behind(TenantScope::All, after, 100).await.unwrap();
    assert_eq!((log.len(), counted(EventPosition::default()).await), (5, Some(5)));

    let horizon = RetentionHorizon { ended_uploads: at(1_000), ..horizon(NOW) };
    while store.prune(horizon, 2).await.unwrap() > 0 {}
    assert!(store.find(TenantScope::All, new_upload(1).id()).await.unwrap().is_none());
    // The second and the third are removed.
    let expected = [Some(100), Some(100), Some(2), Some(1), Some(0)];
    for (event, expected) in log.iter().zip(expected) {
        assert_eq!(counted(event.position).await, expected, "{:?}", event.position);
    }
}

/// A page examines a bounded number of events, however many other events lie between those of uploads.
pub async fn a_page_looks_at_a_bounded_number_of_events<P: StateFixture>(place: P) {
    const OTHERS: usize = 6_000;
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["endpoint.failing"])], NOW).await.unwrap();
    let failing = || Notice::EndpointFailing { endpoint: endpoint("b"), since: NOW, percent: 50 };
    let announced = join_all((0..OTHERS).map(|_| store.announce(TenantId::DEFAULT, failing(), at(1)))).await;
    assert!(announced.iter().all(Result::is_ok));
    store.insert(change_of(new_upload(1))).await.unwrap();

    let first = store.events_since(TenantScope::All, EventPosition::default(), 10).await.unwrap();
    assert_eq!((first.found.len(), first.has_more), (0, true), "it ends before the upload's event");
    let second = store.events_since(TenantScope::All, first.seen, 10).await.unwrap();
    assert_eq!((second.found.len(), second.has_more), (1, false));
    assert_eq!(second.seen, store.newest_event().await.unwrap());
    let behind = async |scope| store.count_events_behind(scope, EventPosition::default(), 100).await.unwrap();
    let another = TenantScope::One(TenantId::from_number(7));
    assert_eq!((behind(TenantScope::All).await, behind(another).await), (Some(100), Some(100)));
    let last = store.events_since(TenantScope::All, second.seen, 10).await.unwrap();
    assert_eq!(last, EventPage { found: vec![], seen: second.seen, has_more: false });
}

pub async fn every_commit_of_a_crowd_is_logged_in_order<P: StateFixture>(place: P) {
    let store = place.open().await;
    let writers = (0..20).map(|number| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut upload = store.insert(change_of(new_upload(number))).await.unwrap();
            for step in 1..=10 {
                receive(&mut upload, 1_000, at(100 + step));
                upload = store.commit(change_of(upload)).await.unwrap();
            }
            upload.id()
        })
    });
    let ids: Vec<UploadId> = join_all(writers).await.into_iter().map(Result::unwrap).collect();
    let log = store.events_since(TenantScope::All, EventPosition::default(), 1_000).await.unwrap().found;
    assert_eq!(log.len(), 20 * 11);
    for id in ids {
        let sequences = log.iter().filter(|event| event.upload == id).map(|event| event.sequence);
        assert!(sequences.eq(1..=11), "an upload's events are logged in sequence");
    }
}
