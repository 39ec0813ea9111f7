//! Partitions of days.

use domain::id::UploadId;
use domain::principal::TenantScope;
use domain::time::Timestamp;
use domain::upload::{NewUpload, Upload};
use state::conformance::{StateFixture, asked, change_of, new_upload};
use state::{Store, Uploads};

use crate::place::Database;

async fn partitions(place: &Database, like: &str) -> i64 {
    let sql = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname LIKE $1";
    place.connect().await.query_one(sql, &[&like]).await.unwrap().get(0)
}

/// The template has the days of the suite, which are past by the server's clock, and the days that a start
/// creates.
#[tokio::test]
async fn an_empty_day_is_dropped_and_one_with_rows_stays() {
    let place = Database::new();
    let store = place.open().await;
    let now = store.clock().now();
    let old = Timestamp::from_unix_ms(1_700_000_000_000);
    store.make_days(old, 3).await.unwrap();
    let kept = NewUpload { id: UploadId::new(old, [1; 10]), ..asked(1) };
    store.insert(change_of(Upload::create(kept.clone(), old))).await.unwrap();
    assert!(partitions(&place, "%_20231114").await == 6 && partitions(&place, "%_20231115").await == 6);
    let dropped = store.drop_empty_days().await.unwrap();
    assert!(dropped >= 2, "{dropped}");
    assert!(partitions(&place, "%_20231114").await == 6 && partitions(&place, "%_20231115").await == 0);
    let today = format!("uploads_{}", now.day_path().replace('/', ""));
    assert_eq!(partitions(&place, &today).await, 1);
    assert!(store.find(TenantScope::All, kept.id).await.unwrap().is_some());
    assert_eq!(store.drop_empty_days().await.unwrap(), 0);
}

/// An upload of a day without a partition is not lost.
#[tokio::test]
async fn an_upload_of_no_day_is_kept_apart() {
    let place = Database::new();
    let store = place.open().await;
    let far = Timestamp::from_unix_ms(2_500_000_000_000);
    let new = NewUpload { id: UploadId::new(far, [1; 10]), ..asked(1) };
    let upload = store.insert(change_of(Upload::create(new, far))).await.unwrap();
    assert_eq!(store.find(TenantScope::All, upload.id()).await.unwrap(), Some(upload));
    store.insert(change_of(new_upload(1))).await.unwrap();
    let apart = "SELECT count(*) FROM uploads_other";
    assert_eq!(place.connect().await.query_one(apart, &[]).await.unwrap().get::<_, i64>(0), 1);
}

/// Two nodes that start at the same time create the same tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_may_start_at_once() {
    let place = Database::empty();
    let starts = (0..4).map(|_| {
        let settings = place.settings();
        tokio::spawn(longshore_state_postgres::PostgresStore::open(settings, state::conformance::bodies()))
    });
    for start in starts.collect::<Vec<_>>() {
        let store = start.await.unwrap().unwrap();
        store.check().await.unwrap();
    }
}
