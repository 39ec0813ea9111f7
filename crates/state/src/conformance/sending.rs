//! Claims, leases, settlements, and their visible results.

use std::collections::HashSet;

use futures::FutureExt;
use futures::future::join_all;

use super::*;
use domain::delivery::{AttemptTrigger, Backlog, DeliveryClass};
use domain::event::EventKind;
use domain::principal::TenantScope;

async fn opened<P: StateFixture>(place: &P, uploads: u8) -> Arc<P::Store> {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], NOW).await.unwrap();
    for number in 0..uploads {
        store.insert(change_of(new_upload(number))).await.unwrap();
    }
    store
}

pub async fn endpoints_get_what_their_filters_want<P: StateFixture>(place: P) {
    let store = place.open().await;
    let all_but_progress = subscribed_to("most", EventFilter::all_but_progress());
    let none = subscribed("none", &[]);
    store.open_for(own(), vec![subscribed("all", &["upload.*"]), all_but_progress, none], NOW).await.unwrap();
    let mut upload = store.insert(change_of(new_upload(0))).await.unwrap();
    for second in 1..=2 {
        receive(&mut upload, 1_000, at(second));
    }
    complete(&mut upload, at(3));
    store.commit(change_of(upload)).await.unwrap();
    let names = |deliveries: Vec<DeliveryRecord>| deliveries.into_iter().map(|delivery| delivery.event_name);
    let mut all = ["created", "receiving", "progress", "received", "verified", "stored", "completed"].to_vec();
    let names_of = |short: &[&str]| short.iter().map(|name| format!("upload.{name}")).collect::<Vec<_>>();
    assert_eq!(names(deliveries_to(&*store, "all").await).collect::<Vec<_>>(), names_of(&all));
    all.retain(|name| *name != "progress");
    assert_eq!(names(deliveries_to(&*store, "most").await).collect::<Vec<_>>(), names_of(&all));
    assert_eq!(deliveries_to(&*store, "none").await, []);
}

pub async fn a_claim_tells_everything<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.progress", "upload.created"])], NOW).await.unwrap();
    let mut upload = store.insert(change_of(new_upload(3))).await.unwrap();
    receive(&mut upload, 1, at(4));
    receive(&mut upload, 1_000, at(5));
    store.commit(change_of(upload)).await.unwrap();
    let log = store.events_of(TenantScope::All, new_upload(3).id(), 0, 10).await.unwrap();
    for (event, class, when) in [(&log[0], DeliveryClass::Normal, at(3)), (&log[2], DeliveryClass::Progress, at(5))] {
        let claims = claim(&*store, "a", at(6)).await;
        let expected = Claim {
            endpoint_version: 1,
            delivery: claims[0].delivery,
            lease: claims[0].lease,
            endpoint: endpoint("a"),
            event: event.id,
            kind: event.kind,
            class,
            trigger: AttemptTrigger::Auto,
            upload: Some(event.upload),
            occurred_at: when,
            begun_at: when,
            attempts: 0,
            attempts_before: 0,
            is_taken_over: false,
            body: event.body.clone().into(),
        };
        assert_eq!(claims, [expected]);
        succeed(&*store, &claims[0], at(6)).await;
    }
}

pub async fn nothing_is_claimed_twice<P: StateFixture>(place: P) {
    let store = opened(&place, 60).await;
    let workers = (0..8).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let claims = store.claim_due(own(), &[up_to("a", 3)], at(100), LEASE).await.unwrap();
                if claims.is_empty() {
                    return mine;
                }
                mine.extend(claims);
            }
        })
    });
    let claims: Vec<Claim> = join_all(workers).await.into_iter().flat_map(Result::unwrap).collect();
    let deliveries: HashSet<_> = claims.iter().map(|claim| claim.delivery).collect();
    let leases: HashSet<_> = claims.iter().map(|claim| claim.lease).collect();
    assert_eq!((claims.len(), deliveries.len(), leases.len()), (60, 60, 60));
}

pub async fn claims_keep_to_the_slots_oldest_first<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"]), subscribed("b", &["upload.*"])], NOW).await.unwrap();
    for number in [5, 1, 3, 2, 4] {
        store.insert(change_of(new_upload(number))).await.unwrap();
    }
    let slots = [up_to("a", 2), up_to("b", 1), up_to("unknown", 9)];
    let claims = store.claim_due(own(), &slots, at(4), LEASE).await.unwrap();
    let got: Vec<_> = claims.iter().map(|claim| (claim.endpoint.as_str(), claim.upload)).collect();
    let [one, two] = [new_upload(1).id(), new_upload(2).id()].map(Some);
    assert_eq!(got, [("a", one), ("a", two), ("b", one)]);
    assert_eq!(store.claim_due(own(), &[up_to("a", 0)], at(4), LEASE).await.unwrap(), []);
    assert_eq!(claim(&*store, "a", at(4)).await.len(), 2, "the fifth is not due before its second");
}

pub async fn an_expired_lease_goes_to_another<P: StateFixture>(place: P) {
    let store = opened(&place, 1).await;
    let first = claim(&*store, "a", at(10)).await.remove(0);
    assert_eq!(store.next_due(&[endpoint("a")]).await.unwrap(), Some(at(70)));
    assert_eq!(claim(&*store, "a", at(69)).await, []);
    let second = claim(&*store, "a", at(70)).await.remove(0);
    assert_eq!(second.delivery, first.delivery);
    assert_ne!(second.lease, first.lease);
    assert_eq!((second.attempts, first.is_taken_over, second.is_taken_over), (0, false, true));

    // A delivery with an expired lease is claimed even while newer deliveries are due.
    for number in 1..9 {
        store.insert(change_of(new_upload(number))).await.unwrap();
    }
    let third = store.claim_due(own(), &[up_to("a", 1)], at(130), LEASE).await.unwrap();
    assert_eq!(third[0].delivery, first.delivery);
}

pub async fn a_late_settlement_moves_nothing<P: StateFixture>(place: P) {
    let store = opened(&place, 1).await;
    let first = claim(&*store, "a", at(10)).await.remove(0);
    let second = claim(&*store, "a", at(70)).await.remove(0);
    let mut late = settlement(&first, AttemptOutcome::Status(500), Disposition::Dead);
    late.attempt.started_at = at(10);
    settle(&*store, vec![late.clone()], at(71)).await;
    assert_eq!(states_at(&*store, "a").await, [DeliveryState::Leased]);
    succeed(&*store, &second, at(72)).await;
    late.attempt.started_at = at(11);
    late.attempt.note = Some("said so".to_owned());
    settle(&*store, vec![late], at(73)).await;
    let delivery = deliveries_to(&*store, "a").await.remove(0);
    assert_eq!((delivery.state, delivery.finished_at), (DeliveryState::Succeeded, Some(at(72))));
    let notes: Vec<_> = delivery.attempts.iter().map(|attempt| attempt.note.as_deref()).collect();
    assert_eq!(notes, [None, Some("late"), Some("late; said so")]);
}

pub async fn attempts_are_recorded_once<P: StateFixture>(place: P) {
    let store = opened(&place, 1).await;
    let first = claim(&*store, "a", at(1)).await.remove(0);
    let failed = settlement(&first, AttemptOutcome::Dns, Disposition::RetryAt(at(5)));
    for _ in 0..3 {
        settle(&*store, vec![failed.clone(), failed.clone()], at(2)).await;
    }
    let delivery = deliveries_to(&*store, "a").await.remove(0);
    assert_eq!(delivery.attempts, [failed.attempt]);
    assert_eq!(claim(&*store, "a", at(5)).await[0].attempts, 1);
}

pub async fn the_bell_rings_for_ready_deliveries<P: StateFixture>(place: P) {
    let store = opened(&place, 0).await;
    let bell = store.bell();
    let rung = || bell.notified().now_or_never().is_some();
    rung();
    store.insert(change_of(new_upload(1))).await.unwrap();
    assert!(rung(), "a delivery was born ready");
    let mut upload = store.find(TenantScope::All, new_upload(1).id()).await.unwrap().unwrap();
    receive(&mut upload, 1, at(1));
    store.commit(change_of(upload)).await.unwrap();
    rung();
    let first = claim(&*store, "a", at(1)).await.remove(0);
    assert!(!rung(), "a claim makes nothing ready");
    succeed(&*store, &first, at(2)).await;
    assert!(rung(), "the next one may go");
    let second = claim(&*store, "a", at(2)).await.remove(0);
    retry(&*store, &second, at(9), at(3)).await;
    assert!(rung(), "there is a new time to wait for");
    assert_eq!(store.next_due(&[endpoint("a")]).await.unwrap(), Some(at(9)));
    assert_eq!(store.next_due(&[endpoint("b")]).await.unwrap(), None);
}

pub async fn deliveries_are_listed_with_their_attempts<P: StateFixture>(place: P) {
    let store = opened(&place, 4).await;
    let claims = claim(&*store, "a", at(10)).await;
    retry(&*store, &claims[0], at(20), at(11)).await;
    settle(&*store, vec![settlement(&claims[1], AttemptOutcome::Tls, Disposition::Dead)], at(12)).await;
    succeed(&*store, &claims[2], at(13)).await;

    let all = DeliveryQuery { limit: 100, ..DeliveryQuery::default() };
    let only = |state| DeliveryQuery { state: Some(state), ..all.clone() };
    for (query, expected) in [
        (all.clone(), vec![3, 2, 1, 0]),
        (DeliveryQuery { limit: 2, ..all.clone() }, vec![3, 2]),
        (DeliveryQuery { before: Some(claims[2].delivery), ..all.clone() }, vec![1, 0]),
        (DeliveryQuery { upload: Some(new_upload(2).id()), ..all.clone() }, vec![2]),
        (DeliveryQuery { kind: Some(EventKind::Created), limit: 1, ..all.clone() }, vec![3]),
        (DeliveryQuery { kind: Some(EventKind::Failed), ..all.clone() }, vec![]),
        (DeliveryQuery { endpoint: Some(endpoint("b")), ..all.clone() }, vec![]),
        (only(DeliveryState::Ready), vec![0]),
        (only(DeliveryState::Dead), vec![1]),
        (only(DeliveryState::Succeeded), vec![2]),
        (only(DeliveryState::Leased), vec![3]),
        (only(DeliveryState::Paused), vec![]),
        (only(DeliveryState::Waiting), vec![]),
        (only(DeliveryState::Superseded), vec![]),
        (DeliveryQuery { upload: Some(new_upload(1).id()), ..only(DeliveryState::Dead) }, vec![1]),
        (DeliveryQuery { endpoint: Some(endpoint("a")), ..only(DeliveryState::Leased) }, vec![3]),
        (DeliveryQuery { created_from: Some(at(2)), ..all.clone() }, vec![3, 2]),
        (DeliveryQuery { created_before: Some(at(2)), ..all.clone() }, vec![1, 0]),
        (DeliveryQuery { created_from: Some(at(1)), created_before: Some(at(2)), ..all.clone() }, vec![1]),
        (DeliveryQuery { created_from: Some(at(1)), created_before: Some(at(1)), ..all.clone() }, vec![]),
        (DeliveryQuery { created_from: Some(at(1)), before: Some(claims[3].delivery), ..all.clone() }, vec![2, 1]),
        (DeliveryQuery { created_before: Some(at(3)), upload: Some(new_upload(2).id()), ..all.clone() }, vec![2]),
        (DeliveryQuery { created_before: Some(at(2)), ..only(DeliveryState::Leased) }, vec![]),
        (DeliveryQuery { last_status: Some(200..=299), ..all.clone() }, vec![2]),
        (DeliveryQuery { last_status: Some(205..=299), ..all.clone() }, vec![]),
        (DeliveryQuery { last_error: Some(AttemptOutcome::Tls), ..all.clone() }, vec![1]),
        (DeliveryQuery { last_error: Some(AttemptOutcome::Timeout), ..only(DeliveryState::Ready) }, vec![0]),
        (DeliveryQuery { last_error: Some(AttemptOutcome::Timeout), ..only(DeliveryState::Dead) }, vec![]),
    ] {
        let listed = store.deliveries(TenantScope::All, &query).await.unwrap().found;
        let uploads: Vec<u8> = listed.iter().map(|delivery| delivery.upload.unwrap().as_bytes()[15]).collect();
        assert_eq!(uploads, expected, "{query:?}");
    }
    let backing_off = store.deliveries(TenantScope::All, &only(DeliveryState::Ready)).await.unwrap().found.remove(0);
    let expected = DeliveryRecord {
        id: claims[0].delivery,
        event: claims[0].event,
        event_name: "upload.created".to_owned(),
        upload: Some(new_upload(0).id()),
        sequence: 1,
        endpoint: endpoint("a"),
        state: DeliveryState::Ready,
        created_at: NOW,
        next_attempt_at: Some(at(20)),
        finished_at: None,
        attempts: vec![settlement(&claims[0], AttemptOutcome::Timeout, Disposition::RetryAt(at(20))).attempt],
    };
    assert_eq!(backing_off, expected);
    let expected = Backlog { ready: 1, leased: 1, oldest_due: Some(at(20)), ..Backlog::default() };
    assert_eq!(store.backlog(TenantScope::All, None).await.unwrap(), expected);
    assert_eq!(store.backlog(TenantScope::All, Some(&endpoint("a"))).await.unwrap(), expected);
    assert_eq!(store.backlog(TenantScope::All, Some(&endpoint("b"))).await.unwrap(), Backlog::default());

    let again = claim(&*store, "a", at(20)).await.remove(0);
    settle(&*store, vec![settlement(&again, AttemptOutcome::Status(503), Disposition::RetryAt(at(90)))], at(21)).await;
    for (query, expected) in [
        (DeliveryQuery { last_status: Some(500..=599), ..all.clone() }, vec![claims[0].delivery]),
        (DeliveryQuery { last_error: Some(AttemptOutcome::Timeout), ..all.clone() }, vec![]),
    ] {
        let listed: Vec<_> =
            store.deliveries(TenantScope::All, &query).await.unwrap().found.into_iter().map(|found| found.id).collect();
        assert_eq!(listed, expected, "the latest attempt counts: {query:?}");
    }
}
