//! The query plan of every statement that the store sends: by an index, never through a whole table, never by
//! sorting.
//!
//! The statements are not listed here. They are recorded while the store runs every kind of query and change.

use rusqlite::Connection;

use super::TemporaryFile;
use super::statements::StatementTrace;
use crate::outbox::DELIVERIES;
use crate::{SqliteSettings, SqliteStore};
use domain::delivery::{AttemptOutcome, DeliveryState, Disposition, ReplaySelection};
use domain::endpoint::{Endpoint, EndpointState, EndpointTerms, Ordering};
use domain::event::EventKind;
use domain::health::HealthChange;
use domain::id::{DeliveryId, EventId, ReplayId};
use domain::log::EventPosition;
use domain::notice::Notice;
use domain::policy::TypePattern;
use domain::principal::{TenantId, TenantScope};
use domain::query::{DeliveryQuery, NumberBounds, UploadQuery};
use domain::replay::{ReplayJob, ReplayState};
use domain::stage::Stage;
use state::conformance::*;
use state::{
    Deliveries, Dispatch, Endpoints, EventLog, Leases, Membership, Notices, Replays, Retention, SettlementBatch, Store,
    SweepSelection, Uploads,
};

/// Tables that always have few rows.
const SMALL: [&str; 7] =
    ["health", "endpoints", "endpoint_configuration", "nodes", "replay_jobs", "backlog_jobs", "node_endpoints"];

/// Returns the beginnings of statements that sort a few rows: the requested number, or a small backlog.
fn sorting() -> [String; 2] {
    ["UPDATE deliveries SET state = 'leased'".to_owned(), format!("{} INDEXED BY deliveries_", *DELIVERIES)]
}

#[tokio::test]
async fn every_statement_goes_by_an_index() {
    let place = TemporaryFile::new();
    let settings = SqliteSettings { read_connections: 1, lookup_connections: 1, ..SqliteSettings::default() };
    let store = SqliteStore::open(&place.path(), settings, bodies()).await.unwrap();
    let listener = StatementTrace::of(&store).await;
    write_everything(&store).await;
    ask_everything(&store).await;

    let statements = listener.take();
    let connection = Connection::open(place.path()).unwrap();
    let (partial, sorting) = (partial_indexes(&connection), sorting());
    let (mut seen, mut slow) = (0, Vec::new());
    for sql in &statements {
        seen += 1;
        let may_sort = sorting.iter().any(|beginning| sql.starts_with(beginning));
        for step in plan(&connection, sql) {
            if scans(&step, &partial) || !may_sort && step.contains("TEMP B-TREE") {
                slow.push(format!("{step}\n    in {sql}"));
            }
        }
    }
    assert!(seen >= 30, "only {seen} statements were overheard");
    assert!(slow.is_empty(), "{}", slow.join("\n"));
}

async fn write_everything(store: &SqliteStore) {
    store.open_for(own(), vec![subscribed("a", &["upload.*"]), subscribed("b", &["upload.*"])], NOW).await.unwrap();
    let mut upload = store.insert(change_of(new_upload(1))).await.unwrap();
    let node = leases::node(1);
    store.join(&node, Membership::Others, None).await.unwrap();
    assert!(store.renew(node.instance, LEASE).await.unwrap());
    store.acquire(upload.id(), node.instance).await.unwrap();
    store.leave(node.instance).await.unwrap();
    upload = store.find(TenantScope::All, upload.id()).await.unwrap().unwrap();
    receive(&mut upload, 5_000, at(2));
    let mut upload = store.commit(change_of(upload)).await.unwrap();
    complete(&mut upload, at(3));
    store.commit(change_of(upload)).await.unwrap();
    let sent = claim(store, "a", at(4)).await;
    succeed(store, &sent[0], at(4)).await;
    for sent in claim(store, "a", at(5)).await {
        settle(store, vec![settlement(&sent, AttemptOutcome::Timeout, Disposition::Dead)], at(5)).await;
    }
    pause(store, "b", at(6)).await;
    store.open_for(own(), vec![subscribed("b", &["upload.*"])], at(7)).await.unwrap();
    store.check().await.unwrap();
    manage_endpoints(store).await;
    send_again_and_forget(store).await;
}

async fn manage_endpoints(store: &SqliteStore) {
    for ordering in [Ordering::None, Ordering::Strict, Ordering::PerUpload] {
        for state in [EndpointState::Paused { since: NOW }, EndpointState::Enabled] {
            let before = stored(store, "b").await;
            let terms = EndpointTerms { ordering, ..before.terms.clone() };
            store.put_endpoint(Endpoint { terms, state, ..before }, at(8)).await.unwrap();
        }
        store.insert(change_of(new_upload(9))).await.ok();
        let mut upload = store.find(TenantScope::All, new_upload(9).id()).await.unwrap().unwrap();
        receive(&mut upload, 10, at(9));
        store.commit(change_of(upload)).await.unwrap();
        if let Some(sent) = claim(store, "b", at(1_000)).await.first() {
            succeed(store, sent, at(10)).await;
        }
    }
    store.insert(change_of(new_upload(7))).await.unwrap();
    assert_eq!(store.expire(at(10), 1, at(11)).await.unwrap(), 1);
    disable(store, "b", at(11)).await;
    let failing = Notice::EndpointFailing { endpoint: endpoint("a"), since: NOW, percent: 50 };
    store.announce(TenantId::DEFAULT, failing, at(12)).await.unwrap();
    store.test_endpoint(TenantScope::All, own(), &endpoint("b"), at(12), LEASE).await.unwrap();
    let health = vec![(endpoint("b"), HealthChange { failures: 1, ..HealthChange::default() })];
    store.settle(SettlementBatch { settlements: vec![], health }, at(12)).await.unwrap();
}

async fn send_again_and_forget(store: &SqliteStore) {
    let job = ReplayJob {
        id: ReplayId::new(NOW, [0; 10]),
        tenant: TenantId::DEFAULT,
        endpoint: endpoint("b"),
        what: ReplaySelection::Everything,
        from: NOW,
        before: at(1_000),
        state: ReplayState::Running,
        cursor: EventPosition(0),
        queued: 0,
        created_at: NOW,
        finished_at: None,
    };
    let id = job.id;
    store.begin_replay(job.clone()).await.unwrap();
    store.advance_replay(id, 100, at(13)).await.unwrap();
    store.cancel_replay(TenantScope::All, id, at(13)).await.unwrap();
    let pending = ReplayJob { id: ReplayId::new(NOW, [1; 10]), what: ReplaySelection::Pending, ..job };
    store.begin_replay(pending).await.unwrap();
    store.replay_jobs(TenantScope::All).await.unwrap();
    for delivery in deliveries_to(store, "b").await {
        store.replay(TenantScope::All, delivery.id, true, at(13)).await.unwrap();
    }
    store.expunge(TenantScope::All, new_upload(9).id()).await.unwrap();
    store.remove_endpoint(TenantScope::All, &endpoint("b"), at(14)).await.unwrap();
    store.advance_backlog(1, at(14)).await.unwrap();
    while store.prune(horizon(at(2_000)), 3).await.unwrap() > 0 {}
}

async fn ask_everything(store: &SqliteStore) {
    store.find(TenantScope::All, new_upload(1).id()).await.unwrap();
    for question in [
        SweepSelection::Unsettled,
        SweepSelection::Unsealed,
        SweepSelection::Expired { now: NOW },
        SweepSelection::Silent { since: NOW },
        SweepSelection::Overlong { now: NOW, latest: NOW },
        SweepSelection::ChangedAfter { now: NOW },
        SweepSelection::Removable,
        SweepSelection::Outdated { completed_before: NOW },
    ] {
        store.due(question, state::SweepShare::OwnAndFree(leases::node(1).instance), 0, 10).await.unwrap();
    }
    store.count_missing().await.unwrap();
    for query in upload_queries() {
        store.list(TenantScope::All, &query).await.unwrap();
    }
    for query in delivery_queries() {
        store.deliveries(TenantScope::All, &query).await.unwrap();
    }
    store.events_of(TenantScope::All, new_upload(1).id(), 0, 10).await.unwrap();
    store.events_since(TenantScope::All, EventPosition(0), 10).await.unwrap();
    store.newest_event().await.unwrap();
    store.count_events_behind(TenantScope::All, EventPosition(0), 10).await.unwrap();
    store.next_due(&[endpoint("a")]).await.unwrap();
    store.restart_waits(NOW).await.unwrap();
    store.renew_leases(own(), NOW).await.unwrap();
    store.endpoints(TenantScope::All).await.unwrap();
    store.delivery(TenantScope::All, DeliveryId::new(NOW, [0; 10])).await.unwrap();
    store.backlog(TenantScope::All, None).await.unwrap();
    store.backlog(TenantScope::All, Some(&endpoint("a"))).await.unwrap();
}

/// Returns every combination of conditions.
pub(super) fn upload_queries() -> impl Iterator<Item = UploadQuery> {
    (0..512_usize).map(|mix| {
        let bounds =
            |bit: usize| NumberBounds { least: (mix & bit != 0).then_some(1), most: (mix & bit != 0).then_some(2) };
        let pair = |number: usize| (format!("key {number}"), b"value".to_vec());
        UploadQuery {
            stages: [Stage::Created, Stage::Completed].into_iter().take(mix % 4 % 3).collect(),
            metadata: (0..mix / 4 % 4 % 3).map(pair).collect(),
            created_from: (mix & 16 != 0).then_some(NOW),
            created_before: (mix & 32 != 0).then_some(NOW),
            types: ["video/mp4", "image/*"].into_iter().filter_map(TypePattern::new).take(mix / 64 % 4 % 3).collect(),
            width: bounds(256),
            height: bounds(256),
            duration_ms: bounds(128),
            before: (mix & 32 == 0).then(|| new_upload(9).id()),
            limit: 10,
        }
    })
}

pub(super) fn delivery_queries() -> impl Iterator<Item = DeliveryQuery> {
    let states = [None].into_iter().chain(DeliveryState::ALL.map(Some));
    states.flat_map(|state| {
        (0..128_u8).map(move |mix| DeliveryQuery {
            endpoint: (mix & 1 != 0).then(|| endpoint("a")),
            upload: (mix & 2 != 0).then(|| new_upload(1).id()),
            event: (mix & 96 == 96).then(|| EventId::new(NOW, [0; 10])),
            kind: (mix & 4 != 0).then_some(EventKind::Created),
            state,
            created_from: (mix & 8 != 0).then_some(NOW),
            created_before: (mix & 16 != 0).then_some(NOW),
            last_status: (mix & 32 != 0).then_some(500..=599),
            last_error: (mix & 64 != 0).then_some(AttemptOutcome::Timeout),
            before: None,
            limit: 10,
        })
    })
}

/// Returns the indexes of only those rows that still need work: there are few, or their list is what the
/// query requests.
fn partial_indexes(connection: &Connection) -> Vec<String> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'index' AND sql LIKE '%WHERE%'";
    let mut statement = connection.prepare(sql).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
}

fn plan(connection: &Connection, sql: &str) -> Vec<String> {
    let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let mut rows = statement.raw_query();
    let mut steps = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        steps.push(row.get("detail").unwrap());
    }
    steps
}

/// Reports whether the step scans a table or a whole index of it.
fn scans(step: &str, partial: &[String]) -> bool {
    let scanned = step.strip_prefix("SCAN ").and_then(|rest| rest.split(' ').next());
    let is_table = scanned.is_some_and(|name| !name.starts_with('(') && name != "CONSTANT" && !SMALL.contains(&name));
    let is_partial = step.split(' ').next_back().is_some_and(|index| partial.iter().any(|known| known == index));
    is_table && !is_partial
}
