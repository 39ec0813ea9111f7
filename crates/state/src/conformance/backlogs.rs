//! Decisions about a whole backlog: they are effective at once, and the deliveries follow in batches, across
//! crashes too.

use super::*;

use DeliveryState::*;

use futures::future::join_all;

use domain::endpoint::Ordering;
use domain::principal::TenantScope;

/// More deliveries than the transaction of a decision updates.
const MANY: usize = 1_200;

const PIECE: u32 = 100;

/// Creates `count` uploads that `a` subscribes to, one per second and with bytes: for each, one delivery is
/// due and one waits behind it.
async fn begun<S: UploadStore>(store: &S, count: usize) {
    let uploads = join_all((0..count).map(|number| async move {
        let now = at(i64::try_from(number).unwrap());
        let asked = NewUpload { id: UploadId::new(now, rand::random()), ..asked(0) };
        let mut upload = store.insert(change_of(Upload::create(asked, now))).await.unwrap();
        receive(&mut upload, 1, now);
        store.commit(change_of(upload)).await.unwrap()
    }));
    assert_eq!(uploads.await.len(), count);
}

async fn created<S: UploadStore>(store: &S, second: i64) -> UploadId {
    let asked = NewUpload { id: UploadId::new(at(second), rand::random()), ..asked(0) };
    store.insert(change_of(Upload::create(asked, at(second)))).await.unwrap().id()
}

/// Counts the deliveries to `a` in each of these states.
async fn counts<S: Outbox>(store: &S, states: [DeliveryState; 3]) -> [usize; 3] {
    let mut counts = [0; 3];
    let mut query = DeliveryQuery { endpoint: Some(endpoint("a")), limit: 1_000, ..DeliveryQuery::default() };
    loop {
        let page = store.deliveries(TenantScope::All, &query).await.unwrap();
        for (state, count) in states.iter().zip(&mut counts) {
            *count += page.found.iter().filter(|delivery| delivery.state == *state).count();
        }
        query.before = page.next;
        if page.next.is_none() {
            return counts;
        }
    }
}

fn configured() -> Vec<Endpoint> {
    vec![subscribed("a", &["upload.*"]), subscribed("b", &["upload.terminated"])]
}

/// No cancelled delivery is sent, whatever is committed, settled and claimed meanwhile and whenever the
/// process ends. Later deliveries are sent.
pub async fn a_long_backlog_is_cancelled_in_pieces<P: StateFixture>(place: P) {
    let mut store = place.open().await;
    store.open_for(own(), configured(), NOW).await.unwrap();
    begun(&*store, MANY).await;
    let sent = claim(&*store, "a", at(9_000)).await;
    assert_eq!(sent.len(), 100);

    store.cancel_backlog(TenantScope::All, &endpoint("a"), at(9_000)).await.unwrap();
    let [cancelled, ..] = counts(&*store, [Cancelled, Ready, Waiting]).await;
    assert!((100..2 * MANY).contains(&cancelled), "a piece of it: {cancelled}");
    let (mut later, mut pieces) = (Vec::new(), 0);
    while store.advance_backlog(PIECE, at(9_001)).await.unwrap() {
        pieces += 1;
        later.push(created(&*store, 9_001).await);
        retry(&*store, &sent[pieces % sent.len()], at(9_001), at(9_001)).await;
        if pieces == 5 {
            store.close().await;
            store = place.open().await;
            store.open_for(own(), configured(), at(9_001)).await.unwrap();
        }
        let claims = claim(&*store, "a", at(9_002)).await;
        let are_new = claims.iter().all(|claim| claim.upload.is_some_and(|upload| later.contains(&upload)));
        assert!(are_new, "cancelled deliveries are not sent");
    }
    assert!(pieces > 10, "only {pieces} pieces");
    assert_eq!(counts(&*store, [Cancelled, Waiting, Paused]).await, [2 * MANY, 0, 0]);
    let mut left = later.len();
    while left > 0 {
        let claims = claim(&*store, "a", at(9_100)).await;
        assert!(!claims.is_empty(), "{left} of {} are never sent", later.len());
        for claim in &claims {
            succeed(&*store, claim, at(9_100)).await;
        }
        left = left.saturating_sub(claims.len());
    }
}

/// A removed endpoint's backlog is cancelled too, and an endpoint of the same name that is created before
/// that is done inherits none of it.
pub async fn a_removed_endpoint_leaves_nothing_to_its_successor<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![], NOW).await.unwrap();
    let made = || Endpoint { origin: Origin::Api, ..subscribed("a", &["upload.*"]) };
    store.put_endpoint(made(), NOW).await.unwrap();
    begun(&*store, MANY).await;
    assert!(store.remove_endpoint(TenantScope::All, &endpoint("a"), at(9_000)).await.unwrap());
    store.put_endpoint(made(), at(9_000)).await.unwrap();
    let new = created(&*store, 9_001).await;
    assert_eq!(claimed(&*store, "a", at(9_002)).await, [0_u64; 0], "until the old ones are gone");
    while store.advance_backlog(PIECE, at(9_002)).await.unwrap() {}
    let claims = claim(&*store, "a", at(9_002)).await;
    assert_eq!(claims.iter().map(|claim| claim.upload).collect::<Vec<_>>(), [Some(new)]);
}

/// Deliveries that are replayed while they are being cancelled are sent.
pub async fn replayed_deliveries_are_not_cancelled<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), configured(), NOW).await.unwrap();
    begun(&*store, MANY).await;
    store.cancel_backlog(TenantScope::All, &endpoint("a"), at(9_000)).await.unwrap();
    let query = |state| DeliveryQuery { state: Some(state), limit: 1, ..DeliveryQuery::default() };
    let mut again = Vec::new();
    for state in [Ready, Waiting, Cancelled] {
        for delivery in store.deliveries(TenantScope::All, &query(state)).await.unwrap().found {
            store.replay(TenantScope::All, delivery.id, false, at(9_001)).await.unwrap();
            again.push(delivery.id);
        }
    }
    assert!(again.len() >= 2, "one that is cancelled and one that is not yet");
    while store.advance_backlog(PIECE, at(9_001)).await.unwrap() {}
    let mut sent = Vec::new();
    loop {
        let claims = claim(&*store, "a", at(9_002)).await;
        if claims.is_empty() {
            break;
        }
        for claim in claims {
            succeed(&*store, &claim, at(9_002)).await;
            sent.push(claim.delivery);
        }
    }
    sent.sort_unstable();
    again.sort_unstable();
    assert_eq!(sent, again);
}

/// Regardless of the length of the backlog, no delivery is sent while the endpoint is stopped, each lane
/// keeps its order, and retries planned for much later are due on resumption. The latest decision applies,
/// even in the middle of a job and across a crash.
pub async fn a_long_backlog_stops_and_resumes_with_its_endpoint<P: StateFixture>(place: P) {
    let mut store = place.open().await;
    store.open_for(own(), configured(), NOW).await.unwrap();
    begun(&*store, MANY).await;
    // The first delivery of every lane has failed and is planned for a day later.
    loop {
        let claims = claim(&*store, "a", at(8_000)).await;
        if claims.is_empty() {
            break;
        }
        let claims: Vec<_> = claims.into_iter().filter(|claim| sequence_of(claim) == 1).collect();
        let later = Disposition::RetryAt(at(90_000));
        let failed = claims.iter().map(|claim| settlement(claim, AttemptOutcome::Timeout, later));
        settle(&*store, failed.collect(), at(8_000)).await;
    }
    store.open_for(own(), configured(), at(8_000)).await.unwrap();
    pause(&*store, "a", at(8_001)).await;
    assert_eq!(counts(&*store, [Paused, Ready, Waiting]).await, [2 * MANY, 0, 0], "with nothing left to do");
    assert!(!store.advance_backlog(PIECE, at(8_001)).await.unwrap());
    assert_eq!(claimed(&*store, "a", at(80_000)).await, [0_u64; 0]);

    put_state(&*store, "a", EndpointState::Enabled, at(8_002)).await;
    assert!(store.advance_backlog(PIECE, at(8_002)).await.unwrap());
    pause(&*store, "a", at(8_003)).await;
    assert!(store.advance_backlog(PIECE, at(8_003)).await.unwrap(), "a job does no harm to a stopped endpoint");
    assert_eq!(claimed(&*store, "a", at(80_000)).await, [0_u64; 0]);
    put_state(&*store, "a", EndpointState::Enabled, at(8_004)).await;
    store.close().await;
    store = place.open().await;
    store.open_for(own(), configured(), at(8_005)).await.unwrap();

    let (mut first, mut second) = (0, 0);
    loop {
        let more = store.advance_backlog(PIECE, at(8_005)).await.unwrap();
        let claims = claim(&*store, "a", at(8_006)).await;
        if claims.is_empty() && !more {
            break;
        }
        let mut settled = Vec::new();
        for sent in &claims {
            assert!(sent.begun_at >= at(8_002), "it has all its time again");
            match sequence_of(sent) {
                1 => first += 1,
                _ => second += 1,
            }
            settled.push(settlement(sent, AttemptOutcome::Status(204), Disposition::Succeeded));
        }
        settle(&*store, settled, at(8_006)).await;
    }
    assert_eq!((first, second), (MANY, MANY));
}

/// A resumption makes no delivery due that a job is still cancelling.
pub async fn a_resumption_restores_no_cancelled_delivery<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), configured(), NOW).await.unwrap();
    begun(&*store, MANY).await;
    // The first delivery of every lane has failed and is planned for a day later.
    loop {
        let claims = claim(&*store, "a", at(8_000)).await;
        let claims: Vec<_> = claims.into_iter().filter(|claim| sequence_of(claim) == 1).collect();
        if claims.is_empty() {
            break;
        }
        let later = Disposition::RetryAt(at(90_000));
        let failed = claims.iter().map(|claim| settlement(claim, AttemptOutcome::Timeout, later));
        settle(&*store, failed.collect(), at(8_000)).await;
    }
    pause(&*store, "a", at(8_001)).await;
    store.cancel_backlog(TenantScope::All, &endpoint("a"), at(9_000)).await.unwrap();
    put_state(&*store, "a", EndpointState::Enabled, at(9_001)).await;
    while store.advance_backlog(PIECE, at(9_002)).await.unwrap() {}
    assert_eq!(counts(&*store, [Cancelled, Ready, Waiting]).await, [2 * MANY, 0, 0]);
}

/// A retry that was planned after the resumption of the endpoint keeps its time.
pub async fn a_retry_of_after_the_resumption_is_not_hastened<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), configured(), NOW).await.unwrap();
    begun(&*store, 2).await;
    let early = claim(&*store, "a", at(10)).await;
    assert_eq!(early.len(), 2);
    pause(&*store, "a", at(11)).await;
    retry(&*store, &early[0], at(5_000), at(11)).await;
    put_state(&*store, "a", EndpointState::Enabled, at(12)).await;
    retry(&*store, &early[1], at(5_000), at(13)).await;
    while store.advance_backlog(PIECE, at(13)).await.unwrap() {}
    let claims = claim(&*store, "a", at(14)).await;
    let due: Vec<_> = claims.iter().map(|claim| (sequence_of(claim), claim.attempts)).collect();
    assert_eq!(due, [(2, 0), (2, 0), (1, 1)], "of the first only the one that failed before");
}

/// A relaxed order is applied to the whole backlog, whatever the previous order and whatever is settled
/// meanwhile.
pub async fn a_relaxed_order_reaches_a_long_backlog<P: StateFixture>(place: P) {
    let mut store = place.open().await;
    let ordered = |ordering| {
        let plain = subscribed("a", &["upload.*"]);
        vec![Endpoint { terms: EndpointTerms { ordering, ..plain.terms.clone() }, ..plain }]
    };
    store.open_for(own(), ordered(Ordering::Strict), NOW).await.unwrap();
    begun(&*store, MANY).await;
    let sent = claim(&*store, "a", at(9_000)).await;
    retry(&*store, &sent[0], at(90_000), at(9_000)).await;
    store.open_for(own(), ordered(Ordering::PerUpload), at(9_001)).await.unwrap();
    assert!(store.advance_backlog(PIECE, at(9_001)).await.unwrap());
    store.close().await;
    store = place.open().await;
    store.open_for(own(), ordered(Ordering::PerUpload), at(9_002)).await.unwrap();
    while store.advance_backlog(PIECE, at(9_002)).await.unwrap() {}
    assert_eq!(counts(&*store, [Ready, Waiting, Leased]).await, [MANY + 1, MANY - 1, 0]);

    store.open_for(own(), ordered(Ordering::None), at(9_003)).await.unwrap();
    let once = claim(&*store, "a", at(9_003)).await;
    succeed(&*store, &once[0], at(9_003)).await;
    while store.advance_backlog(PIECE, at(9_003)).await.unwrap() {}
    assert_eq!(counts(&*store, [Waiting, Leased, Succeeded]).await, [0, once.len() - 1, 1]);
}
