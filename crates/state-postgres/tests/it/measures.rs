//! Measurements of a store, each changed by its cause. Those of lost responses are in `lost_answers`.

use std::sync::Arc;
use std::time::Duration;

use domain::id::UploadId;
use domain::time::Timestamp;
use domain::upload::{NewUpload, Upload};
use longshore_state_postgres::{PostgresSettings, PostgresStore};
use state::conformance::{StateFixture, asked, at, bodies, change_of, leases, new_upload, receive};
use state::{Error, Leases, Membership, Store, Uploads};

use crate::place::Database;

/// The advisory lock of the endpoints, for which commits with events wait.
const ENDPOINTS_LOCK: i64 = 5_507_742_257_958_092_800;

async fn open(place: &Database, change: impl FnOnce(&mut PostgresSettings)) -> Arc<PostgresStore> {
    let mut settings = place.settings();
    change(&mut settings);
    PostgresStore::open(settings, bodies()).await.unwrap()
}

#[tokio::test]
async fn the_lag_of_the_horizon_grows_while_an_older_transaction_is_open() {
    let place = Database::new();
    let store = place.open().await;
    let lag = async || {
        store.measure_horizon().await.unwrap();
        store.readings().horizon_lag
    };
    assert_eq!(lag().await, Duration::ZERO);
    let older = place.connect().await;
    older.batch_execute("BEGIN; UPDATE health SET checks = checks + 1").await.unwrap();
    store.insert(change_of(new_upload(1))).await.unwrap();
    lag().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let waited = lag().await;
    assert!((300..30_000).contains(&waited.as_millis()), "{waited:?}");
    older.batch_execute("COMMIT").await.unwrap();
    assert_eq!(lag().await, Duration::ZERO);
}

#[tokio::test]
async fn missing_partitions_and_rows_outside_of_them_are_seen() {
    let place = Database::new();
    let store = place.open().await;
    let readings = store.readings();
    assert_eq!((readings.partitions_ahead_days, readings.other_rows), (7.0, 0));
    let far = Timestamp::from_unix_ms(2_500_000_000_000);
    let new = NewUpload { id: UploadId::new(far, [1; 10]), ..asked(1) };
    store.insert(change_of(Upload::create(new, far))).await.unwrap();
    let day = store.clock().now().plus(Duration::from_hours(72)).day_path().replace('/', "");
    place.connect().await.batch_execute(&format!("DROP TABLE events_{day}")).await.unwrap();
    store.pass_finished_days().await.unwrap();
    let readings = store.readings();
    assert_eq!((readings.partitions_ahead_days, readings.other_rows), (2.0, 3), "an upload, its progress, its event");
}

#[tokio::test]
async fn a_commit_of_an_earlier_epoch_is_counted_and_another_conflict_is_not() {
    let place = Database::new();
    let (first, second) = (place.open().await, place.open().await);
    let (a, b) = (leases::node(1), leases::node(2));
    first.join(&a, Membership::Others, None).await.unwrap();
    second.join(&b, Membership::Others, None).await.unwrap();
    let id = first.insert(change_of(new_upload(1))).await.unwrap().id();
    let held = first.acquire(id, a.instance).await.unwrap().unwrap();
    let upload = first.find(domain::principal::TenantScope::All, id).await.unwrap().unwrap();
    let commit = async |mut upload: Upload| {
        receive(&mut upload, 10, at(1));
        first.commit(change_of(upload)).await
    };
    commit(upload.clone()).await.unwrap();
    assert!(matches!(commit(upload.clone()).await, Err(Error::Conflict(_))));
    assert_eq!(first.readings().epochs_rejected, 0, "only the version differs");
    second.seize(id, held, b.instance).await.unwrap().unwrap();
    assert!(matches!(commit(upload).await, Err(Error::Conflict(_))));
    assert_eq!(first.readings().epochs_rejected, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_and_waits_for_connections_are_observed() {
    let place = Database::new();
    let store = open(&place, |settings| (settings.write_connections, settings.transaction_connections) = (1, 1)).await;
    let before = store.readings();
    let holder = place.connect().await;
    holder.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({ENDPOINTS_LOCK})")).await.unwrap();
    let inserting: Vec<_> = (0..20)
        .map(|number| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.insert(change_of(new_upload(number))).await.map(drop) })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    holder.batch_execute("COMMIT").await.unwrap();
    for inserted in inserting {
        inserted.await.unwrap().unwrap();
    }
    let batches = store.readings().batches;
    assert_eq!(batches.sum - before.batches.sum, 20.0);
    assert!(batches.count() - before.batches.count() < 20, "those that waited were committed together");

    let waited = || store.readings().pool_waits.iter().find(|(pool, _)| *pool == "write").unwrap().1.sum;
    let waited_before = waited();
    holder.batch_execute("BEGIN; LOCK TABLE health IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let checks = [0, 1].map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.drain(state::conformance::own()).await.map(drop).and(store.check().await) })
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    holder.batch_execute("COMMIT").await.unwrap();
    for check in checks {
        check.await.unwrap().unwrap();
    }
    let waited = waited() - waited_before;
    assert!((0.2..10.0).contains(&waited), "one of two waited for the only connection: {waited} s");
}
