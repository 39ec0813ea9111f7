//! The conformance suite over SQLite files, and what is SQLite's own.

use std::path::PathBuf;

use super::*;
use crate::state::UploadStore;
use crate::state::conformance::Place;
use crate::state::conformance::conformance_suite;
use crate::state::conformance::new_upload;

#[derive(Debug)]
struct TemporaryFile(tempfile::TempDir);

impl TemporaryFile {
    fn path(&self) -> PathBuf {
        self.0.path().join("state.db")
    }
}

impl Place for TemporaryFile {
    type Store = SqliteStore;

    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    async fn open(&self) -> Arc<SqliteStore> {
        SqliteStore::open(&self.path(), SqliteSettings::default()).await.unwrap()
    }

    fn transactions(store: &SqliteStore) -> u64 {
        store.transactions()
    }
}

conformance_suite!(TemporaryFile);

#[tokio::test]
async fn a_newer_database_is_left_as_it_is() {
    let place = TemporaryFile::new();
    let store = place.open().await;
    store.insert(new_upload(1)).await.unwrap();
    store.close().await;
    let mut connection = SqliteConnectOptions::new().filename(place.path()).connect().await.unwrap();
    sqlx::raw_sql("PRAGMA user_version = 9").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();

    let before = std::fs::read(place.path()).unwrap();
    let refused = SqliteStore::open(&place.path(), SqliteSettings::default()).await;
    assert!(matches!(refused, Err(Error::TooNew { found: 9, known: 1 })), "{refused:?}");
    assert_eq!(std::fs::read(place.path()).unwrap(), before);
}

#[tokio::test]
async fn a_full_disk_fails_a_commit_and_not_the_store() {
    let place = TemporaryFile::new();
    let store = place.open().await;
    store.writer.write(LimitPages("PRAGMA max_page_count = 1")).await.unwrap();
    let mut written = 0;
    let refused = loop {
        match store.insert(new_upload(written)).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::NoSpace { .. }), "{refused:?}");
    assert!(store.find(new_upload(written).id()).await.unwrap().is_none());
    store.writer.write(LimitPages("PRAGMA max_page_count = 1000000")).await.unwrap();
    store.insert(new_upload(written)).await.unwrap();
}

struct LimitPages(&'static str);

#[async_trait::async_trait]
impl writer::Work for LimitPages {
    const OPERATION: &'static str = "limit the database";
    type Output = ();

    async fn run(self, desk: &mut writer::Desk) -> sqlx::Result<()> {
        desk.execute(self.0).await
    }
}

/// Work that fails after it has written leaves no trace, and its neighbours are kept.
#[tokio::test]
async fn failed_work_is_undone_alone() {
    struct Stumble;

    #[async_trait::async_trait]
    impl writer::Work for Stumble {
        const OPERATION: &'static str = "stumble";
        type Output = ();

        async fn run(self, desk: &mut writer::Desk) -> sqlx::Result<()> {
            desk.execute("UPDATE health SET checks = checks + 100").await?;
            desk.execute("INSERT INTO nowhere VALUES (1)").await
        }
    }

    let place = TemporaryFile::new();
    let store = place.open().await;
    let before = store.transactions();
    let (first, stumbled, last) =
        tokio::join!(store.insert(new_upload(1)), store.writer.write(Stumble), store.insert(new_upload(2)));
    assert_eq!(store.transactions() - before, 1);
    assert!(first.is_ok() && last.is_ok());
    assert!(matches!(stumbled, Err(Error::Failed { operation: "stumble", .. })));
    let checks: i64 = sqlx::query_scalar("SELECT checks FROM health").fetch_one(&store.reads).await.unwrap();
    assert_eq!(checks, 0);
}

/// The work goes on without its caller.
#[tokio::test]
async fn a_caller_may_leave() {
    let place = TemporaryFile::new();
    let store = place.open().await;
    let id = new_upload(1).id();
    {
        let mut insert = Box::pin(store.insert(new_upload(1)));
        assert!(futures::poll!(&mut insert).is_pending());
    }
    store.check().await.unwrap();
    assert!(store.find(id).await.unwrap().is_some());
}
