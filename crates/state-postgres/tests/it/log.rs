//! The log of events while transactions commit in a different order than they began.

use std::sync::Arc;

use domain::id::UploadId;
use domain::log::EventPosition;
use domain::principal::TenantScope;
use domain::upload::{NewUpload, Upload};
use longshore_state_postgres::{PostgresSettings, PostgresStore};
use state::conformance::{NOW, StateFixture, asked, at, bodies, change_of, receive};
use state::{EventLog, Store, Uploads};

use crate::place::Database;

const WRITERS: u8 = 8;
const COMMITS: i64 = 30;

/// Every transaction with events waits up to 30 ms before it commits. A concurrent reader sees every event
/// once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_misses_nothing_however_long_commits_take() {
    read_while_commits_take_long().await;
}

/// The same with readers that check locks, because a transaction of another database is older.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_misses_nothing_beside_another_database() {
    let elsewhere = Database::new();
    let older = elsewhere.connect().await;
    older.batch_execute("BEGIN; UPDATE health SET checks = checks + 1").await.unwrap();
    read_while_commits_take_long().await;
    older.batch_execute("COMMIT").await.unwrap();
}

async fn read_while_commits_take_long() {
    let place = Database::new();
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_sleep(random() * 0.03); RETURN NULL; END';
        CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION slow()";
    place.connect().await.batch_execute(slow).await.unwrap();
    let settings = PostgresSettings { write_connections: u32::from(WRITERS), ..place.settings() };
    let store = PostgresStore::open(settings, bodies()).await.unwrap();
    let writers: Vec<_> = (0..WRITERS).map(|number| tokio::spawn(write(Arc::clone(&store), number))).collect();
    let reader = place.open().await;
    let (mut seen, mut found) = (EventPosition::default(), Vec::new());
    loop {
        let are_done = writers.iter().all(tokio::task::JoinHandle::is_finished);
        let page = reader.events_since(TenantScope::All, seen, 7).await.unwrap();
        found.extend(page.found.iter().map(|event| (event.upload, event.sequence, event.position)));
        if are_done && page.found.is_empty() && !page.has_more {
            break;
        }
        seen = page.seen;
    }
    let mut uploads = Vec::new();
    for writer in writers {
        uploads.push(writer.await.unwrap());
    }
    assert!(found.is_sorted_by_key(|(_, _, position)| *position), "in the order of their positions");
    for upload in uploads {
        let sequences: Vec<u64> =
            found.iter().filter(|(of, ..)| *of == upload).map(|(_, sequence, _)| *sequence).collect();
        let count = u64::try_from(COMMITS).unwrap() + 1;
        assert!(sequences.iter().copied().eq(1..=count), "{upload}: {sequences:?}");
    }
    assert_eq!(reader.newest_event().await.unwrap(), found.last().unwrap().2);
    store.close().await;
}

async fn write(store: Arc<PostgresStore>, number: u8) -> UploadId {
    // Each upload uses a different writer.
    let id = UploadId::new(NOW, [0, 0, 0, 0, 0, 0, 0, 0, 0, number]);
    let mut upload = store.insert(change_of(Upload::create(NewUpload { id, ..asked(1) }, NOW))).await.unwrap();
    for step in 1..=COMMITS {
        receive(&mut upload, 100, at(step));
        upload = store.commit(change_of(upload)).await.unwrap();
    }
    id
}

/// A reader sees a committed event although an older transaction stays open for a while.
#[tokio::test]
async fn a_reader_waits_for_an_older_transaction() {
    let place = Database::new();
    let store = place.open().await;
    let older = place.connect().await;
    older.batch_execute("BEGIN; UPDATE health SET checks = checks + 1").await.unwrap();
    store.insert(change_of(state::conformance::new_upload(1))).await.unwrap();
    let early = store.events_since(TenantScope::All, EventPosition::default(), 10).await.unwrap();
    assert_eq!((early.found.len(), early.has_more), (0, true), "there is more, and it may not be read yet");
    let reading = store.events_since(TenantScope::All, early.seen, 10);
    let ending = async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        older.batch_execute("COMMIT").await.unwrap();
    };
    let (page, ()) = tokio::join!(reading, ending);
    let page = page.unwrap();
    assert_eq!((page.found.len(), page.has_more), (1, false));
}

/// A transaction of another database never delays readers, however long it takes.
#[tokio::test]
async fn other_databases_hold_nobody_back() {
    let (place, elsewhere) = (Database::new(), Database::new());
    let store = place.open().await;
    let older = elsewhere.connect().await;
    older.batch_execute("BEGIN; UPDATE health SET checks = checks + 1").await.unwrap();
    let mut upload = store.insert(change_of(state::conformance::new_upload(1))).await.unwrap();
    for step in 1..=5 {
        receive(&mut upload, 100, at(step));
        upload = store.commit(change_of(upload)).await.unwrap();
        let page = store.events_since(TenantScope::All, EventPosition::default(), 10).await.unwrap();
        assert_eq!((page.found.len(), page.has_more), (usize::try_from(step).unwrap() + 1, false));
    }
    older.batch_execute("COMMIT").await.unwrap();
}

/// A database that was restored on another server, whose transactions have lower numbers.
#[tokio::test]
async fn positions_grow_after_a_restore() {
    let place = Database::new();
    let store = place.open().await;
    store.insert(change_of(state::conformance::new_upload(1))).await.unwrap();
    store.close().await;
    place.connect().await.batch_execute("UPDATE events SET position = position + (1::bigint << 50)").await.unwrap();
    let store = place.open().await;
    let before = store.newest_event().await.unwrap();
    store.insert(change_of(state::conformance::new_upload(2))).await.unwrap();
    let page = store.events_since(TenantScope::All, before, 10).await.unwrap();
    assert_eq!(page.found.len(), 1);
}

/// A commit of one node rings the bells of another.
#[tokio::test]
async fn bells_ring_on_other_nodes() {
    let place = Database::new();
    let (first, second) = (place.open().await, place.open().await);
    let upload = first.insert(change_of(state::conformance::new_upload(1))).await.unwrap();
    let rings = second.bells();
    // Both nodes ring when they begin to listen, and the insertion rings too.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let mut latest = std::time::Duration::MAX;
    for _ in 0..5 {
        let mut bell = rings.of_upload(upload.id());
        let began = std::time::Instant::now();
        first.bells().changed(upload.id());
        bell.rung().await;
        latest = latest.min(began.elapsed());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(latest < std::time::Duration::from_millis(500), "{latest:?}: it rang without a commit");
}

/// A stream at one node follows what another writes, and goes on at any node behind the last event it has
/// seen (scale-out C6).
#[tokio::test]
async fn a_stream_at_one_node_follows_the_writes_of_another() {
    const EVENTS: u64 = 8;
    let place = Database::new();
    let (first, second) = (place.open().await, place.open().await);
    let mut upload = first.insert(change_of(state::conformance::new_upload(1))).await.unwrap();
    let id = upload.id();
    let mut bell = second.bells().of_upload(id);
    let writer = Arc::clone(&first);
    let writing = tokio::spawn(async move {
        for step in 1..EVENTS {
            state::conformance::receive(&mut upload, 100, at(i64::try_from(step).unwrap()));
            upload = writer.commit(change_of(upload)).await.unwrap();
        }
    });
    let mut seen = Vec::new();
    while seen.len() < usize::try_from(EVENTS).unwrap() {
        let last = seen.last().copied().unwrap_or(0);
        let found = second.events_of(TenantScope::All, id, last, 3).await.unwrap();
        if found.is_empty() {
            let rung = tokio::time::timeout(std::time::Duration::from_secs(10), bell.rung()).await;
            rung.expect("the bell rings at least once a second");
        }
        seen.extend(found.iter().map(|event| event.sequence));
    }
    writing.await.unwrap();
    assert!(seen.iter().copied().eq(1..=EVENTS), "each once and in order: {seen:?}");
    let rest = first.events_of(TenantScope::All, id, seen[4], 100).await.unwrap();
    assert!(rest.iter().map(|event| event.sequence).eq(6..=EVENTS), "another node goes on behind the same event");
}
