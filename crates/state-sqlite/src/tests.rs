//! The conformance suite on SQLite files, and tests specific to SQLite.

use std::path::PathBuf;

use std::sync::{Mutex, mpsc};

use domain::delivery::Backlog;
use domain::log::EventPosition;
use domain::query::{DeliveryQuery, UploadQuery};

mod durability;
mod plans;
mod scopes;
mod statements;

use rusqlite::params;
use state_rows::{
    AttemptRow, DeliveryRow, EndpointRow, EventRow, HookCallRow, OriginRow, ReplayRow, Row, UploadRow, sql,
};

use super::*;
use crate::rows::PLACEHOLDERS;
use domain::delivery::DeliveryState;
use domain::endpoint::{DisabledBecause, Endpoint, EndpointState, EndpointTerms, Ordering};
use domain::event::EventKind;
use domain::id::{InstanceId, UploadId};
use domain::metadata::Metadata;
use domain::principal::{TenantId, TenantScope};
use domain::time::Timestamp;
use domain::upload::{NewUpload, Upload};
use state::conformance::{
    GathersCommits, NOW, StateFixture, asked, bodies, change_of, endpoint, leases, new_upload, own, subscribed,
};
use state::{
    Deliveries, Dispatch, Endpoints, EventLog, Leases, Membership, Retention, Store, SweepSelection, Uploads,
    conformance_suite,
};

#[derive(Debug)]
struct TemporaryFile(tempfile::TempDir);

impl TemporaryFile {
    fn path(&self) -> PathBuf {
        self.0.path().join("state.db")
    }
}

impl StateFixture for TemporaryFile {
    type Store = SqliteStore;

    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    async fn open(&self) -> Arc<SqliteStore> {
        SqliteStore::open(&self.path(), SqliteSettings::default(), bodies()).await.unwrap()
    }

    fn transactions(store: &SqliteStore) -> u64 {
        store.transactions()
    }
}

impl GathersCommits for TemporaryFile {
    async fn hold(store: &Arc<SqliteStore>) -> Box<dyn Send> {
        let (begun, beginning) = tokio::sync::oneshot::channel();
        let (held, release) = mpsc::channel::<()>();
        let wait = Wait { begun: Mutex::new(Some(begun)), release: Mutex::new(release) };
        let store = Arc::clone(store);
        tokio::spawn(async move { store.writer.write(wait).await });
        beginning.await.unwrap();
        Box::new(held)
    }
}

/// Signals that it has begun, and ends when the other end of `release` is dropped.
struct Wait {
    begun: Mutex<Option<tokio::sync::oneshot::Sender<()>>>,
    release: Mutex<mpsc::Receiver<()>>,
}

impl writer::Work for Wait {
    const OPERATION: &'static str = "wait";
    type Output = ();

    fn run(&self, _: &mut writer::WriteTransaction) -> rusqlite::Result<()> {
        self.begun.lock().unwrap().take().unwrap().send(()).unwrap();
        assert!(self.release.lock().unwrap().recv().is_err());
        Ok(())
    }
}

conformance_suite!(TemporaryFile, gathering commits);

/// A query with few matches walks a bounded number of rows, and returns the position where it stopped.
#[tokio::test]
async fn a_long_walk_is_made_in_stages() {
    let place = TemporaryFile::new();
    place.open().await.close().await;
    let connection = Connection::open(place.path()).unwrap();
    let fill =
        "INSERT INTO deliveries (id, event_position, event_id, kind, endpoint, upload_id, sequence, state, trigger,
             attempts, attempts_before, begun_at_ms, next_at_ms, created_at_ms, finished_at_ms)
         WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < 50000)
         SELECT unhex(printf('%032x', number)), number, randomblob(16), 'upload.created', 'a', randomblob(16), 1,
             'succeeded', 'auto', 1, 0, 0, 0, 0, 0 FROM numbers";
    connection.execute(fill, []).unwrap();
    connection
        .execute("UPDATE deliveries SET kind = 'upload.completed' WHERE event_position IN (1, 25000, 49999)", [])
        .unwrap();
    connection.close().unwrap();
    let store = place.open().await;
    let (mut before, mut pages) = (None, Vec::new());
    loop {
        let query = DeliveryQuery { kind: Some(EventKind::Completed), before, limit: 10, ..DeliveryQuery::default() };
        let page = store.deliveries(TenantScope::All, &query).await.unwrap();
        pages.push(page.found.len());
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(pages, [1, 1, 1], "20,000 at a time");
    let kind = Some(EventKind::Completed);
    let recent = DeliveryQuery { kind, created_from: Some(NOW), limit: 10, ..DeliveryQuery::default() };
    assert_eq!(store.deliveries(TenantScope::All, &recent).await.unwrap().next, None, "all before are too old");

    // A tenant without uploads, next to one that has them all.
    let another = TenantScope::One(TenantId::from_number(7));
    let (mut query, mut count) = (DeliveryQuery { limit: 10, ..DeliveryQuery::default() }, 1);
    let own = store.deliveries(TenantScope::One(TenantId::DEFAULT), &query).await.unwrap();
    assert_eq!(own, store.deliveries(TenantScope::All, &query).await.unwrap());
    assert_eq!(own.found.len(), 10);
    while let Some(next) = store.deliveries(another, &query).await.unwrap().next {
        (query.before, count) = (Some(next), count + 1);
    }
    assert_eq!(count, 3, "20,000 at a time");
}

/// No transaction of the single writer grows with the backlog, whatever is decided about an endpoint and
/// whichever other operation affects many rows.
#[tokio::test]
async fn no_transaction_grows_with_the_backlog() {
    const BACKLOG: i64 = 6_000;
    /// The maximum number of rows that the first batch of a job changes, including the lanes released after
    /// it.
    const MOST: i64 = 1_100;
    let place = TemporaryFile::new();
    let store = place.open().await;
    let configured = |ordering| {
        let plain = subscribed("a", &["upload.*"]);
        vec![Endpoint { terms: EndpointTerms { ordering, ..plain.terms.clone() }, ..plain }]
    };
    store.open_for(own(), configured(Ordering::PerUpload), NOW).await.unwrap();
    let upload = store.insert(change_of(new_upload(1))).await.unwrap();
    store.close().await;
    let connection = Connection::open(place.path()).unwrap();
    let fill =
        "INSERT INTO deliveries (id, event_position, event_id, kind, endpoint, upload_id, sequence, state, trigger,
             attempts, attempts_before, begun_at_ms, next_at_ms, created_at_ms)
         WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < ?1)
         SELECT unhex(printf('%032x', number)), number, randomblob(16), 'upload.created', 'a',
             unhex(printf('%032x', number / 3)), number % 3, iif(number % 3, 'waiting', 'ready'), 'auto', number % 3 = 0, 0, 0,
             4000000000000, 0 FROM numbers";
    connection.execute(fill, [BACKLOG]).unwrap();
    let fill = "INSERT INTO events (id, upload_id, sequence, kind, occurred_at_ms, body)
         WITH RECURSIVE numbers (number) AS (SELECT 2 UNION ALL SELECT number + 1 FROM numbers WHERE number < ?1)
         SELECT randomblob(16), ?2, number, 'upload.progress', 0, '{}' FROM numbers";
    connection.execute(fill, params![BACKLOG, upload.id().as_bytes()]).unwrap();
    connection.close().unwrap();

    let store = place.open().await;
    let put = async |state, ordering| {
        let before = store.endpoints(TenantScope::All).await.unwrap().remove(0);
        let terms = EndpointTerms { ordering, ..before.terms.clone() };
        store.put_endpoint(Endpoint { state, terms, ..before }, NOW).await.unwrap();
    };
    let before = Mutex::new(changes(&store).await);
    let check = async |what: &str, most: i64| {
        let now = changes(&store).await;
        let (rows, transactions) = std::mem::replace(&mut *before.lock().unwrap(), now);
        let each = (now.0 - rows) / (now.1 - transactions - 1).max(1);
        assert!(each <= most, "{what} changed {each} rows in a transaction");
    };
    for (what, ordering, state) in [
        ("a pause", Ordering::PerUpload, EndpointState::Paused { since: NOW }),
        ("a resumption", Ordering::PerUpload, EndpointState::Enabled),
        ("strict order", Ordering::Strict, EndpointState::Enabled),
        ("being disabled", Ordering::Strict, EndpointState::Disabled { since: NOW, because: DisabledBecause::Gone }),
        ("a resumption with another order", Ordering::None, EndpointState::Enabled),
    ] {
        put(state, ordering).await;
        check(what, MOST).await;
        store.advance_backlog(100, NOW).await.unwrap();
        check("a piece", 300).await;
    }
    store.open_for(own(), configured(Ordering::PerUpload), NOW).await.unwrap();
    check("a start", MOST).await;
    store.expunge(TenantScope::All, upload.id()).await.unwrap();
    check("taking words out", MOST).await;
    store.cancel_backlog(TenantScope::All, &endpoint("a"), NOW).await.unwrap();
    check("a cancellation", MOST).await;
    store.open_for(own(), vec![], NOW).await.unwrap();
    store.remove_endpoint(TenantScope::All, &endpoint("a"), NOW).await.unwrap();
    check("a removal", MOST).await;
    while store.advance_backlog(100, NOW).await.unwrap() {
        check("a piece of a removal", 300).await;
    }
    let unfinished = DeliveryQuery { state: Some(DeliveryState::Ready), limit: 1, ..DeliveryQuery::default() };
    assert_eq!(store.deliveries(TenantScope::All, &unfinished).await.unwrap().found, []);
}

/// Returns the numbers of rows changed and of transactions so far.
async fn changes(store: &SqliteStore) -> (i64, i64) {
    let rows = store.writer.write(Changes).await.unwrap();
    (rows, i64::try_from(store.transactions()).unwrap())
}

struct Changes;

impl writer::Work for Changes {
    const OPERATION: &'static str = "count changes";
    type Output = i64;

    fn run(&self, tx: &mut writer::WriteTransaction) -> rusqlite::Result<i64> {
        tx.connection.query_one("SELECT total_changes()", [], |row| row.get(0))
    }
}

/// The log is reset and reads complete, however long reads overlap.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_log_is_bounded_while_long_reads_overlap() {
    const MAX: u64 = 1 << 20;
    let place = TemporaryFile::new();
    let settings = SqliteSettings { max_log_bytes: MAX, ..SqliteSettings::default() };
    let store = SqliteStore::open(&place.path(), settings, bodies()).await.unwrap();
    store.insert(change_of(new_upload(0))).await.unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let reading: Vec<_> = (0..4).map(|_| tokio::spawn(read_long(Arc::clone(&store), Arc::clone(&stop)))).collect();
    let log = place.0.path().join("state.db-wal");
    let (mut written, mut largest) = (0_u64, 0);
    while written < 24 * MAX {
        let before = std::fs::metadata(&log).unwrap().len();
        let asked = NewUpload {
            id: UploadId::new(NOW, rand::random()),
            metadata: Metadata::new(vec![("key".to_owned(), vec![b'x'; 30_000])]).unwrap(),
            ..asked(0)
        };
        store.insert(change_of(Upload::create(asked, NOW))).await.unwrap();
        let after = std::fs::metadata(&log).unwrap().len();
        written += 60_000.max(after.saturating_sub(before));
        largest = largest.max(after);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let finished: Vec<u64> = futures::future::join_all(reading).await.into_iter().map(|read| read.unwrap()).collect();
    assert!(largest < 2 * MAX, "the log grew to {largest} bytes");
    assert!(finished.iter().all(|count| *count > 0), "{finished:?}");
}

/// Reads one snapshot after the other, each for a while, and returns the number of reads that completed.
async fn read_long(store: Arc<SqliteStore>, stop: Arc<std::sync::atomic::AtomicBool>) -> u64 {
    let mut finished = 0;
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        let count = |connection: &mut Connection| {
            let sql = "WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < 20000)
                SELECT count(*) FROM uploads, numbers WHERE uploads.id > x'' LIMIT 1";
            connection.query_one(sql, [], |row| row.get::<_, i64>(0))
        };
        // A read that is interrupted again and again may fail with that error.
        finished += u64::from(store.readers.read("read for long", count).await.is_ok());
    }
    finished
}

/// The descriptions shared by all databases match the tables that the migrations create here.
#[test]
fn every_statement_of_a_description_is_one_of_its_table() {
    fn check<R: Row>(connection: &Connection) {
        for sql in [
            format!("SELECT {} FROM {}", sql::columns::<R>(), R::TABLE),
            sql::insert::<R>(PLACEHOLDERS),
            sql::insert_new::<R>(PLACEHOLDERS),
            sql::upsert::<R>(PLACEHOLDERS),
            sql::update::<R>(PLACEHOLDERS, ""),
        ] {
            connection.prepare(&sql).unwrap_or_else(|error| panic!("{error}: {sql}"));
        }
    }
    let mut connection = Connection::open_in_memory().unwrap();
    migrate::run(&mut connection).unwrap();
    check::<AttemptRow>(&connection);
    check::<DeliveryRow>(&connection);
    check::<EndpointRow>(&connection);
    check::<EventRow>(&connection);
    check::<HookCallRow>(&connection);
    check::<OriginRow>(&connection);
    check::<ReplayRow>(&connection);
    check::<UploadRow>(&connection);
}

/// A lookup of an upload does not wait behind lists.
#[tokio::test]
async fn a_lookup_never_waits_for_a_walk() {
    let place = TemporaryFile::new();
    let settings = SqliteSettings { read_connections: 1, ..SqliteSettings::default() };
    let store = SqliteStore::open(&place.path(), settings, bodies()).await.unwrap();
    let upload = store.insert(change_of(new_upload(0))).await.unwrap();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let (begun, beginning) = mpsc::channel();
    let walk = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let wait = move |_: &mut Connection| {
                begun.send(()).unwrap();
                assert!(released.lock().unwrap().recv().is_err());
                Ok(())
            };
            store.readers.read("walk", wait).await
        })
    };
    tokio::task::spawn_blocking(move || beginning.recv()).await.unwrap().unwrap();
    assert_eq!(store.find(TenantScope::All, upload.id()).await.unwrap().unwrap().id(), upload.id());
    assert_eq!(store.events_of(TenantScope::All, upload.id(), 0, 10).await.unwrap().len(), 1);
    assert_eq!(store.newest_event().await.unwrap(), EventPosition(1));
    assert_eq!(store.next_due(&[endpoint("a")]).await.unwrap(), None);
    store.check().await.unwrap();
    drop(release);
    walk.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_newer_database_is_left_as_it_is() {
    let place = TemporaryFile::new();
    let store = place.open().await;
    store.insert(change_of(new_upload(1))).await.unwrap();
    store.close().await;
    let connection = Connection::open(place.path()).unwrap();
    connection.pragma_update(None, "user_version", 1_000).unwrap();
    connection.close().unwrap();

    let before = std::fs::read(place.path()).unwrap();
    let refused = SqliteStore::open(&place.path(), SqliteSettings::default(), bodies()).await;
    assert!(matches!(refused, Err(Error::TooNew { found: 1_000, .. })), "{refused:?}");
    assert_eq!(std::fs::read(place.path()).unwrap(), before);
}

#[tokio::test]
async fn a_full_disk_fails_a_commit_and_not_the_store() {
    let place = TemporaryFile::new();
    let store = place.open().await;
    store.writer.write(LimitPages("PRAGMA max_page_count = 1")).await.unwrap();
    let mut written = 0;
    let refused = loop {
        match store.insert(change_of(new_upload(written))).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::NoSpace { .. }), "{refused:?}");
    assert!(store.find(TenantScope::All, new_upload(written).id()).await.unwrap().is_none());
    store.writer.write(LimitPages("PRAGMA max_page_count = 1000000")).await.unwrap();
    store.insert(change_of(new_upload(written))).await.unwrap();
}

/// On an almost full disk, the first write of a start may use the reserve, and the next write must then still
/// be possible.
#[tokio::test]
async fn a_start_may_use_what_is_kept_for_deleting() {
    struct TakeAll;

    impl writer::Work for TakeAll {
        const OPERATION: &'static str = "delete something large";
        type Output = ();

        fn frees_space(&self) -> bool {
            true
        }

        fn run(&self, _: &mut writer::WriteTransaction) -> rusqlite::Result<()> {
            Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None))
        }
    }

    let place = TemporaryFile::new();
    let settings = SqliteSettings { reserve_bytes: 4096, ..SqliteSettings::default() };
    let store = SqliteStore::open(&place.path(), settings, bodies()).await.unwrap();
    let reserve = place.0.path().join("state.db-reserve");
    assert!(reserve.exists());
    assert!(matches!(store.writer.write(TakeAll).await, Err(Error::NoSpace { .. })));
    assert!(!reserve.exists(), "the reserve was released");
    store.join(&leases::node(1), Membership::Others, None).await.unwrap();
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], NOW).await.unwrap();
}

struct LimitPages(&'static str);

impl writer::Work for LimitPages {
    const OPERATION: &'static str = "limit the database";
    type Output = ();

    fn run(&self, tx: &mut writer::WriteTransaction) -> rusqlite::Result<()> {
        tx.connection.query_row(self.0, [], |_| Ok(()))
    }
}

/// Work that fails after it has written leaves no trace, and other work of its batch is kept.
#[tokio::test]
async fn failed_work_is_undone_alone() {
    struct FailOnce;

    impl writer::Work for FailOnce {
        const OPERATION: &'static str = "stumble";
        type Output = ();

        fn run(&self, tx: &mut writer::WriteTransaction) -> rusqlite::Result<()> {
            tx.execute("UPDATE health SET checks = checks + 100", [])?;
            tx.superseded += 100;
            tx.execute("INSERT INTO nowhere VALUES (1)", []).map(drop)
        }
    }

    let place = TemporaryFile::new();
    let store = place.open().await;
    let held = TemporaryFile::hold(&store).await;
    let mut all = Box::pin(futures::future::join3(
        store.insert(change_of(new_upload(1))),
        store.writer.write(FailOnce),
        store.insert(change_of(new_upload(2))),
    ));
    assert!(futures::poll!(&mut all).is_pending());
    let before = store.transactions();
    drop(held);
    let (first, stumbled, last) = all.await;
    assert_eq!(store.transactions() - before, 2, "all in one go, and then one by one");
    assert!(first.is_ok() && last.is_ok());
    assert!(matches!(stumbled, Err(Error::Failed { operation: "stumble", .. })));
    assert_eq!(store.newest_event().await.unwrap(), EventPosition(2));
    let checks =
        |connection: &mut Connection| connection.query_one("SELECT checks FROM health", [], |row| row.get::<_, i64>(0));
    assert_eq!(store.readers.read("look", checks).await.unwrap(), 0);
    assert_eq!(store.superseded(), 0);
}

/// A count stops at its limit and reports that there are more.
#[tokio::test]
async fn a_backlog_is_not_counted_to_its_end() {
    let place = TemporaryFile::new();
    let store = place.open().await;
    store
        .open_for(own(), vec![subscribed("a", &["upload.created"]), subscribed("b", &["upload.failed"])], NOW)
        .await
        .unwrap();
    for number in 0..3 {
        store.insert(change_of(new_upload(number))).await.unwrap();
    }
    for (most, has_more, ready) in [(2, true, 2), (3, false, 3), (4, false, 3)] {
        for whose in [None, Some(endpoint("a"))] {
            let count = move |connection: &mut Connection| {
                outbox::read_backlog(connection, TenantScope::All, whose.as_ref(), most)
            };
            let backlog = store.readers.read("count", count).await.unwrap();
            assert_eq!(backlog, Backlog { has_more, ready, oldest_due: Some(NOW), ..Backlog::default() });
        }
    }
}

/// The work is done without its caller.
#[tokio::test]
async fn a_caller_may_leave() {
    let place = TemporaryFile::new();
    let store = place.open().await;
    let id = new_upload(1).id();
    {
        let mut insert = Box::pin(store.insert(change_of(new_upload(1))));
        assert!(futures::poll!(&mut insert).is_pending());
    }
    store.check().await.unwrap();
    assert!(store.find(TenantScope::All, id).await.unwrap().is_some());
}

#[tokio::test]
async fn a_row_that_cannot_be_read_hides_no_other() {
    let place = TemporaryFile::new();
    let store = place.open().await;
    for number in 0..4 {
        store.insert(change_of(new_upload(number))).await.unwrap();
    }
    let ids: Vec<UploadId> = (0..4).map(|number| new_upload(number).id()).collect();
    let connection = rusqlite::Connection::open(place.path()).unwrap();
    let backwards = "UPDATE uploads SET generations = '[[1,5],[2,4],[3,null]]' WHERE id = ?1";
    assert_eq!(connection.execute(backwards, params![ids[1].as_bytes()]).unwrap(), 1);
    assert!(store.find(TenantScope::All, ids[1]).await.is_err());

    let node = InstanceId::new(NOW, [1; 10]);
    let now = Timestamp::from_unix_ms(i64::MAX);
    for (limit, expected) in [(2, vec![ids[0], ids[2]]), (10, vec![ids[0], ids[2], ids[3]])] {
        let due =
            store.due(SweepSelection::Expired { now }, state::SweepShare::OwnAndFree(node), 0, limit).await.unwrap();
        assert_eq!(due.iter().map(Upload::id).collect::<Vec<_>>(), expected);
    }
    let mut query = UploadQuery { limit: 1, ..UploadQuery::default() };
    let mut listed = Vec::new();
    loop {
        let page = store.list(TenantScope::All, &query).await.unwrap();
        listed.extend(page.found.iter().map(Upload::id));
        query.before = page.next;
        if query.before.is_none() {
            break;
        }
    }
    assert_eq!(listed, [ids[3], ids[2], ids[0]]);
}
