//! A database with many days: frequent statements touch the young ones only, and miss nothing on the old
//! ones.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use domain::delivery::{DeliveryState, ReplayOutcome};
use domain::id::UploadId;
use domain::log::EventPosition;
use domain::principal::TenantScope;
use domain::query::UploadQuery;
use domain::removal::DeletedBy;
use domain::time::Timestamp;
use domain::upload::{NewUpload, Upload};
use longshore_state_postgres::PostgresStore;
use state::conformance::{
    LEASE, StateFixture, asked, change_of, claim, complete, deliveries_to, endpoint, horizon, own, receive, subscribed,
    succeed,
};
use state::{Deliveries, Dispatch, Endpoints, EventLog, Retention, Store, SweepSelection, Uploads};

use crate::place::{Database, until_waiting};
use crate::plans::Plans;

const DAY: Duration = Duration::from_hours(24);

/// The selections of uploads with work.
const OPEN: [SweepSelection; 3] = [SweepSelection::Unsealed, SweepSelection::Unsettled, SweepSelection::Removable];

/// Creates the days up to the present one.
async fn make_past_days(store: &PostgresStore, days: u32) -> Timestamp {
    let oldest = store.clock().now().minus(DAY * days);
    store.make_days(oldest, days).await.unwrap();
    oldest
}

async fn completed(store: &PostgresStore, number: u8, created: Timestamp) -> Upload {
    let new = NewUpload { id: UploadId::new(created, [number; 10]), ..asked(1) };
    let mut upload = store.insert(change_of(Upload::create(new, created))).await.unwrap();
    receive(&mut upload, 10_000, created.plus(Duration::from_secs(1)));
    let mut upload = store.commit(change_of(upload)).await.unwrap();
    complete(&mut upload, created.plus(Duration::from_secs(2)));
    store.commit(change_of(upload)).await.unwrap()
}

/// Returns the days whose partitions a plan names; a partition in a plan is locked with its indexes.
fn days_in(plan: &str) -> BTreeSet<&str> {
    let is_day = |name: &&str| name.len() == 8 && name.bytes().all(|byte| byte.is_ascii_digit());
    plan.split(|mark: char| !mark.is_ascii_alphanumeric()).filter(is_day).filter(|day| day.starts_with("20")).collect()
}

/// scale-out P7: the number of old days does not matter to claims, to sweeps, and to the newest page of a
/// list. The transactions of a claim and of a sweep lock few partitions.
#[tokio::test]
async fn frequent_statements_touch_the_young_days_only() {
    let days: u32 = std::env::var("OLD_DAYS").ok().map_or(120, |days| days.parse().unwrap());
    let place = Database::empty();
    let store = place.open().await;
    let oldest = make_past_days(&store, days).await;
    let now = store.clock().now();
    for (number, day) in (0..4_u8).zip([0, 30, 60, 90]) {
        completed(&store, number, oldest.plus(DAY * day)).await;
    }
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], now).await.unwrap();
    store.pass_finished_days().await.unwrap();
    store.close().await;

    count_locks_of_claims(&place).await;
    let plans = Plans::log(&place).await;
    let store = place.open().await;
    for number in 10..40 {
        completed(&store, number, now).await;
    }
    let client = place.connect().await;
    client.batch_execute("TRUNCATE locks").await.unwrap();
    assert!(!claim(&*store, "a", now.plus(LEASE)).await.is_empty());
    let locks: i64 = client.query_one("SELECT max(count) FROM locks", &[]).await.unwrap().get(0);
    assert!((1..300).contains(&locks), "a claim has locked {locks} tables and indexes");
    store.next_due(&[endpoint("a")]).await.unwrap();
    store.renew_leases(own(), now.plus(LEASE * 2)).await.unwrap();
    for selection in OPEN {
        store.due(selection, state::SweepShare::OwnAndFree(own()), 0, 10).await.unwrap();
    }
    for selection in [SweepSelection::Expired { now }, SweepSelection::Silent { since: now }] {
        store.due(selection, state::SweepShare::OwnAndFree(own()), 0, 10).await.unwrap();
    }
    let page = store.list(TenantScope::All, &UploadQuery { limit: 20, ..UploadQuery::default() }).await.unwrap();
    assert_eq!(page.found.len(), 20);
    while store.prune(horizon(now.minus(DAY * 10)), 100).await.unwrap() > 0 {}
    assert_eq!(store.count_missing().await.unwrap(), 0);
    let all = store.list(TenantScope::All, &UploadQuery { limit: 100, ..UploadQuery::default() }).await.unwrap();
    assert_eq!(all.found.len(), 34, "the list goes back to the oldest day");
    // The log, its end, and lists of deliveries.
    let newest = store.newest_event().await.unwrap();
    let log = store.events_since(TenantScope::All, EventPosition(0), 1_000).await.unwrap();
    assert!(log.found.len() >= 34 * 3, "{} events of 34 uploads", log.found.len());
    assert_eq!((log.seen, log.has_more), (newest, false));
    assert!(log.found.is_sorted_by_key(|event| event.position));
    assert!(store.events_since(TenantScope::All, newest, 10).await.unwrap().found.is_empty());
    // Of the first events, some have been removed.
    let late = log.found[log.found.len() - 51].position;
    let behind = store.count_events_behind(TenantScope::All, late, 1_000).await.unwrap();
    assert_eq!(behind, Some(50));
    let sent = deliveries_to(&*store, "a").await;
    assert_eq!(store.delivery(TenantScope::All, sent[0].id).await.unwrap().as_ref(), Some(&sent[0]));
    store.close().await;

    let plans = plans.read();
    for words in [
        "SKIP LOCKED",
        "min(due.at_ms)",
        "claimed_by = $2",
        "FROM uploads JOIN upload_progress",
        "AS page JOIN",
        "max(newest_position)",
        "position > $1 AND position <= $2",
        "AS behind",
        "latest.delivery_id IS NOT NULL",
    ] {
        assert!(plans.iter().any(|plan| plan.contains(words)), "no plan of {words}");
    }
    for plan in &plans {
        let days = days_in(plan).len();
        assert!(days <= 17 && !plan.contains("Subplans Removed"), "{days} days:\n{plan}");
    }
}

/// Records the number of locks of every transaction that changes a delivery, when it commits.
async fn count_locks_of_claims(place: &Database) {
    let sql = "CREATE TABLE locks (count bigint);
        CREATE FUNCTION count_locks() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO locks SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid(); RETURN NULL; END';
        CREATE CONSTRAINT TRIGGER count_locks AFTER UPDATE ON deliveries DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION count_locks()";
    place.connect().await.batch_execute(sql).await.unwrap();
}

/// Claims and settles all deliveries to the endpoint.
async fn settle_everything(store: &Arc<PostgresStore>, now: Timestamp) {
    loop {
        let claims = claim(&**store, "a", now).await;
        if claims.is_empty() {
            return;
        }
        for claim in &claims {
            succeed(&**store, claim, now).await;
        }
    }
}

async fn bounds(place: &Database) -> (String, String) {
    let sql = "SELECT left(uploads::text, 13), left(deliveries::text, 13) FROM unfinished_from";
    let row = place.connect().await.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

/// A delivery of an old upload is sent again, and bytes of an old upload are removed: both lie before the
/// bound.
#[tokio::test]
async fn work_on_an_old_upload_is_found() {
    let place = Database::empty();
    let (store, other) = (place.open().await, place.open().await);
    let oldest = make_past_days(&store, 40).await;
    let now = store.clock().now();
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], now).await.unwrap();
    let mut old = completed(&store, 1, oldest).await;
    let young = NewUpload { id: UploadId::new(now, [9; 10]), ..asked(1) };
    store.insert(change_of(Upload::create(young, now))).await.unwrap();
    settle_everything(&store, now).await;
    let before = bounds(&place).await;
    store.pass_finished_days().await.unwrap();
    let passed = bounds(&place).await;
    assert!(passed.0 > before.0 && passed.1 > before.1, "{before:?} {passed:?}");

    let sent = deliveries_to(&*store, "a").await;
    let of_old = sent.iter().find(|delivery| delivery.upload == Some(old.id())).unwrap();
    assert_eq!(of_old.state, DeliveryState::Succeeded);
    let replayed = other.replay(TenantScope::All, of_old.id, true, now).await.unwrap();
    assert_eq!(replayed, ReplayOutcome::Queued);
    assert_eq!(store.next_due(&[endpoint("a")]).await.unwrap(), Some(now));
    let claims = claim(&*store, "a", now).await;
    assert_eq!(claims.iter().map(|claim| claim.delivery).collect::<Vec<_>>(), [of_old.id]);
    store.pass_finished_days().await.unwrap();
    assert!(bounds(&place).await.1 < passed.1, "a delivery that is being sent is not finished");
    succeed(&*store, &claims[0], now).await;

    store.pass_finished_days().await.unwrap();
    assert_eq!(bounds(&place).await, passed);
    assert!(
        other.due(SweepSelection::Removable, state::SweepShare::OwnAndFree(own()), 0, 10).await.unwrap().is_empty()
    );
    old.remove(DeletedBy::Operator, now).unwrap();
    let old = store.commit(change_of(old)).await.unwrap();
    let found = other.due(SweepSelection::Removable, state::SweepShare::OwnAndFree(own()), 0, 10).await.unwrap();
    assert_eq!(found.iter().map(Upload::id).collect::<Vec<_>>(), [old.id()]);
    assert!(!claim(&*other, "a", now).await.is_empty(), "its removal is announced");
}

/// An event about an upload of a day that is past is at the end of the log for every node, and its delivery
/// at the beginning of a list, also after further days have become past.
#[tokio::test]
async fn news_of_an_old_upload_is_read_first() {
    let place = Database::empty();
    let (store, other) = (place.open().await, place.open().await);
    let oldest = make_past_days(&store, 60).await;
    let now = store.clock().now();
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], now).await.unwrap();
    let mut uploads = Vec::new();
    for number in 0..6_u8 {
        uploads.push(completed(&store, number, oldest.plus(DAY * 10 * u32::from(number))).await);
    }
    settle_everything(&store, now).await;
    store.pass_finished_days().await.unwrap();
    let end_of_past = "SELECT left(past::text, 13) FROM unfinished_from";
    let end_of_past: String = place.connect().await.query_one(end_of_past, &[]).await.unwrap().get(0);
    assert!(end_of_past > uploads[5].id().to_string(), "all six lie on past days");
    for (round, old) in [2, 0, 5, 1].into_iter().enumerate() {
        let seen = other.newest_event().await.unwrap();
        let mut old = uploads[old].clone();
        let later = now.plus(Duration::from_secs(round as u64));
        old.remove(DeletedBy::Operator, later).unwrap();
        let old = store.commit(change_of(old)).await.unwrap();
        let page = other.events_since(TenantScope::All, seen, 10).await.unwrap();
        assert_eq!(page.found.iter().map(|event| event.upload).collect::<Vec<_>>(), [old.id()], "round {round}");
        assert_eq!(other.newest_event().await.unwrap(), page.found[0].position);
        assert_eq!(other.count_events_behind(TenantScope::All, seen, 10).await.unwrap(), Some(1));
        let query = domain::query::DeliveryQuery { limit: 1, ..domain::query::DeliveryQuery::default() };
        let first = other.deliveries(TenantScope::All, &query).await.unwrap().found.remove(0);
        assert_eq!(first.upload, Some(old.id()), "round {round}");
        assert_eq!(other.delivery(TenantScope::All, first.id).await.unwrap(), Some(first));
        store.pass_finished_days().await.unwrap();
    }
    // Pages join without a gap or a repetition, in the log and in the list.
    let whole = other.events_since(TenantScope::All, EventPosition(0), 1_000).await.unwrap();
    let (mut seen, mut pages) = (EventPosition(0), Vec::new());
    loop {
        let page = other.events_since(TenantScope::All, seen, 3).await.unwrap();
        pages.extend(page.found);
        seen = page.seen;
        if !page.has_more {
            break;
        }
    }
    assert_eq!(pages, whole.found);
    let all = deliveries_to(&*other, "a").await;
    let (mut before, mut listed) = (None, Vec::new());
    loop {
        let query = domain::query::DeliveryQuery { limit: 4, before, ..domain::query::DeliveryQuery::default() };
        let page = other.deliveries(TenantScope::All, &query).await.unwrap();
        listed.extend(page.found.iter().map(|delivery| delivery.id));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(listed.len(), all.len());
    assert!(listed.is_sorted_by(|one, next| one > next), "newest first: {listed:?}");
}

/// A bound is not raised past work that a transaction in progress adds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_waits_for_those_who_have_read_it() {
    let place = Database::empty();
    let store = place.open().await;
    let oldest = make_past_days(&store, 40).await;
    place
        .connect()
        .await
        .batch_execute("DELETE FROM past_days;
             UPDATE unfinished_from SET uploads = '00000000-0000-0000-0000-000000000000', past = '00000000-0000-0000-0000-000000000000'")
        .await
        .unwrap();
    // The insertion has read the bound and waits for the table.
    let blocking = place.connect().await;
    blocking.batch_execute("BEGIN; LOCK TABLE upload_metadata IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let metadata = domain::metadata::Metadata::new(vec![("key".to_owned(), b"value".to_vec())]).unwrap();
    let new = NewUpload { id: UploadId::new(oldest, [1; 10]), metadata, ..asked(1) };
    let (inserting, raising) = (Arc::clone(&store), Arc::clone(&store));
    let inserted = tokio::spawn(async move { inserting.insert(change_of(Upload::create(new, oldest))).await });
    let watch = place.connect().await;
    until_waiting(&watch, "relation", 1).await;
    let raised = tokio::spawn(async move { raising.pass_finished_days().await });
    until_waiting(&watch, "advisory", 1).await;
    blocking.batch_execute("COMMIT").await.unwrap();
    let upload = inserted.await.unwrap().unwrap();
    raised.await.unwrap().unwrap();
    let first: String = watch.query_one("SELECT uploads::text FROM unfinished_from", &[]).await.unwrap().get(0);
    assert!(first <= upload.id().to_string(), "{first} is after {}", upload.id());
    let page = store.events_since(TenantScope::All, EventPosition(0), 10).await.unwrap();
    assert_eq!(page.found.iter().map(|event| event.upload).collect::<Vec<_>>(), [upload.id()]);
}
