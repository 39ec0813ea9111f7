//! Threads that drive the connections of their reads.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use longshore_state_postgres::{PostgresSettings, PostgresStore};
use state::Uploads;
use state::conformance::{StateFixture, bodies, change_of, new_upload};
use tokio::sync::Barrier;

use domain::id::UploadId;
use domain::principal::TenantScope;

use crate::place::Database;

async fn finds(store: &PostgresStore, id: UploadId) -> bool {
    store.find(TenantScope::All, id).await.unwrap().is_some()
}

/// Runs a future on a thread that drives the connections of its reads, to the end of that thread.
fn on_driving_thread<T: Send + 'static>(
    store: &Arc<PostgresStore>,
    work: impl Future<Output = T> + Send + 'static,
) -> thread::JoinHandle<T> {
    let store = Arc::clone(store);
    thread::spawn(move || {
        store.drive_reads_on_this_thread();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    })
}

/// The runtime of the test has one thread, which waits for the reads and thus drives nothing.
#[tokio::test]
async fn reads_need_no_other_thread() {
    let place = Database::new();
    let store = place.open().await;
    let id = store.insert(change_of(new_upload(1))).await.unwrap().id();
    let reading = Arc::clone(&store);
    let reads = on_driving_thread(&store, async move {
        for _ in 0..3 {
            let found = tokio::time::timeout(Duration::from_secs(10), finds(&reading, id)).await;
            assert!(found.expect("another thread drives the connection"));
        }
    });
    reads.join().unwrap();
    // Its connections have ended with the thread.
    assert!(finds(&store, id).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_threads_together_keep_to_the_limit() {
    const LIMIT: u32 = 2;
    const THREADS: usize = 4;
    let place = Database::new();
    let settings = PostgresSettings { read_connections: LIMIT, ..place.settings() };
    let store = PostgresStore::open(settings, bodies()).await.unwrap();
    let id = store.insert(change_of(new_upload(1))).await.unwrap().id();
    let client = place.connect().await;
    let count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()";
    let before: i64 = client.query_one(count, &[]).await.unwrap().get(0);

    // A thread goes on driving what others have borrowed.
    let all_done = Arc::new(Barrier::new(THREADS + 1));
    let threads = [(); THREADS].map(|()| {
        let (reading, all_done) = (Arc::clone(&store), Arc::clone(&all_done));
        on_driving_thread(&store, async move {
            for _ in 0..50 {
                assert!(finds(&reading, id).await);
            }
            all_done.wait().await;
        })
    });
    let mut most = before;
    for _ in 0..50 {
        assert!(finds(&store, id).await);
        most = most.max(client.query_one(count, &[]).await.unwrap().get(0));
    }
    all_done.wait().await;
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(most <= before + i64::from(LIMIT), "{most} connections, {before} of them before any read");
}
