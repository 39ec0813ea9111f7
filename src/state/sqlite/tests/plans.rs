//! How SQLite goes about every statement the store sends: by an index, never through a whole table, never by sorting.
//!
//! The statements are not listed here. They are overheard while the store is asked everything it can be asked.

use std::collections::BTreeSet;
use std::sync::Mutex;

use rusqlite::Connection;
use rusqlite::trace::TraceEvent;
use rusqlite::trace::TraceEventCodes;

use super::TemporaryFile;
use crate::domain::delivery::AttemptOutcome;
use crate::domain::delivery::DeliveryState;
use crate::domain::event::EventKind;
use crate::domain::upload::Stage;
use crate::state::DeliveryQuery;
use crate::state::Due;
use crate::state::EventPosition;
use crate::state::Outbox;
use crate::state::UploadQuery;
use crate::state::UploadStore;
use crate::state::Verdict;
use crate::state::conformance::*;
use crate::state::sqlite::SqliteSettings;
use crate::state::sqlite::SqliteStore;
use crate::state::sqlite::writer;

/// Tables of a few rows, whatever happens.
const SMALL: [&str; 2] = ["health", "endpoints"];

/// How statements begin that sort a few rows: as many as were asked for, or the backlog that was asked for.
const SORTING: [&str; 2] = [
    "UPDATE deliveries SET state = 'leased'",
    "SELECT id, event_id, kind, upload_id, sequence, endpoint, state, created_at_ms, next_at_ms, finished_at_ms
         FROM deliveries INDEXED BY deliveries_",
];

static OVERHEARD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn listen(connection: &Connection) -> rusqlite::Result<()> {
    connection.trace_v2(
        TraceEventCodes::SQLITE_TRACE_STMT,
        Some(|event| {
            if let TraceEvent::Stmt(statement, _) = event {
                OVERHEARD.lock().unwrap().insert(statement.sql().into_owned());
            }
        }),
    );
    Ok(())
}

struct Listen;

impl writer::Work for Listen {
    const OPERATION: &'static str = "listen";
    type Output = ();

    fn run(&self, desk: &mut writer::Desk) -> rusqlite::Result<()> {
        listen(&desk.connection)
    }
}

#[tokio::test]
async fn every_statement_goes_by_an_index() {
    let place = TemporaryFile::new();
    let settings = SqliteSettings { read_connections: 1, ..SqliteSettings::default() };
    let store = SqliteStore::open(&place.path(), settings).await.unwrap();
    store.writer.write(Listen).await.unwrap();
    store.readers.read("listen", |connection| listen(connection)).await.unwrap();
    write_everything(&store).await;
    ask_everything(&store).await;

    let statements = std::mem::take(&mut *OVERHEARD.lock().unwrap());
    let asked = statements
        .iter()
        .filter(|sql| ["SELECT", "INSERT", "UPDATE", "DELETE"].iter().any(|verb| sql.starts_with(verb)));
    let connection = Connection::open(place.path()).unwrap();
    let partial = partial_indexes(&connection);
    let (mut seen, mut slow) = (0, Vec::new());
    for sql in asked {
        seen += 1;
        let may_sort = SORTING.iter().any(|beginning| sql.starts_with(beginning));
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
    store.open_for(vec![subscribed("a", &["upload.*"]), subscribed("b", &["upload.*"])], NOW).await.unwrap();
    let mut upload = store.insert(new_upload(1)).await.unwrap();
    receive(&mut upload, 5_000, at(2));
    let mut upload = store.commit(upload).await.unwrap();
    complete(&mut upload, at(3));
    store.commit(upload).await.unwrap();
    let sent = claim(store, "a", at(4)).await;
    succeed(store, &sent[0], at(4)).await;
    for sent in claim(store, "a", at(5)).await {
        settle(store, vec![settlement(&sent, AttemptOutcome::Timeout, Verdict::Dead)], at(5)).await;
    }
    pause(store, "b", at(6)).await;
    store.open_for(vec![subscribed("b", &["upload.*"])], at(7)).await.unwrap();
    store.check().await.unwrap();
}

async fn ask_everything(store: &SqliteStore) {
    store.find(new_upload(1).id()).await.unwrap();
    for question in [Due::Unsettled, Due::Expired { now: NOW }, Due::Silent { since: NOW }, Due::Removable] {
        store.due(question, 0, 10).await.unwrap();
    }
    for query in upload_queries() {
        store.list(&query).await.unwrap();
    }
    for query in delivery_queries() {
        store.deliveries(&query).await.unwrap();
    }
    store.events_of(new_upload(1).id(), 0, 10).await.unwrap();
    store.events_since(EventPosition(0), 10).await.unwrap();
    store.newest_event().await.unwrap();
    store.next_due(&[endpoint("a")]).await.unwrap();
    store.backlog(None).await.unwrap();
    store.backlog(Some(&endpoint("a"))).await.unwrap();
}

/// Every mix of conditions.
fn upload_queries() -> impl Iterator<Item = UploadQuery> {
    (0..64_usize).map(|mix| {
        let pair = |number: usize| (format!("key {number}"), b"value".to_vec());
        UploadQuery {
            stages: [Stage::Created, Stage::Completed].into_iter().take(mix % 4 % 3).collect(),
            metadata: (0..mix / 4 % 4 % 3).map(pair).collect(),
            created_from: (mix & 16 != 0).then_some(NOW),
            created_before: (mix & 32 != 0).then_some(NOW),
            before: (mix & 32 == 0).then(|| new_upload(9).id()),
            limit: 10,
        }
    })
}

fn delivery_queries() -> impl Iterator<Item = DeliveryQuery> {
    let states = [None].into_iter().chain(DeliveryState::ALL.map(Some));
    states.flat_map(|state| {
        (0..8_u8).map(move |mix| DeliveryQuery {
            endpoint: (mix & 1 != 0).then(|| endpoint("a")),
            upload: (mix & 2 != 0).then(|| new_upload(1).id()),
            kind: (mix & 4 != 0).then_some(EventKind::Created),
            state,
            before: None,
            limit: 10,
        })
    })
}

/// An index of only those rows that still want something: few, or else the list of them is what was asked for.
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

/// Whether the step goes through a table, or a whole index of it.
fn scans(step: &str, partial: &[String]) -> bool {
    let scanned = step.strip_prefix("SCAN ").and_then(|rest| rest.split(' ').next());
    let is_table = scanned.is_some_and(|name| !name.starts_with('(') && name != "CONSTANT" && !SMALL.contains(&name));
    let is_partial = step.split(' ').next_back().is_some_and(|index| partial.iter().any(|known| known == index));
    is_table && !is_partial
}
