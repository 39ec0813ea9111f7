//! Programs of two versions beside each other on one database.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use longshore_state_postgres::{PostgresSettings, PostgresStore, Schema, migrate, schema_status};
use state::conformance::{StateFixture, bodies, change_of, new_upload};
use state::{Error, MigrationEffect, Result, Store, Uploads};

use domain::principal::TenantScope;

use crate::place::{Database, until_waiting};

fn of(place: &Database, schema: Schema) -> PostgresSettings {
    PostgresSettings { schema, ..place.settings() }
}

async fn open(place: &Database, schema: Schema) -> Result<Arc<PostgresStore>> {
    PostgresStore::open(of(place, schema), bodies()).await
}

async fn version(place: &Database) -> (i32, i32) {
    let row = place.connect().await.query_one("SELECT version, min_program FROM schema", &[]).await.unwrap();
    (row.get(0), row.get(1))
}

/// The number of the latest migration of this version.
async fn current(place: &Database) -> i32 {
    i32::try_from(schema_status(&of(place, Schema::CURRENT)).await.unwrap().known).unwrap()
}

async fn is_index_complete(place: &Database) -> bool {
    let sql = "SELECT (SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('uploads_by_next_note'))
         AND (SELECT count(*) FROM pg_inherits WHERE inhparent = to_regclass('uploads_by_next_note'))
           = (SELECT count(*) FROM pg_inherits WHERE inhparent = to_regclass('uploads'))";
    place.connect().await.query_one(sql, &[]).await.unwrap().get(0)
}

/// scale-out P17: the version before keeps working while the schema is expanded and afterwards, also after
/// a restart.
#[tokio::test]
async fn an_older_program_works_beside_a_newer_schema() {
    let place = Database::new();
    let current = current(&place).await;
    let older = open(&place, Schema::CURRENT).await.unwrap();
    older.insert(change_of(new_upload(1))).await.unwrap();
    let newer = open(&place, Schema::NEXT).await.unwrap();
    assert_eq!(version(&place).await, (current + 2, 1));
    assert!(is_index_complete(&place).await);
    let second = older.insert(change_of(new_upload(2))).await.unwrap();
    let third = newer.insert(change_of(new_upload(3))).await.unwrap();
    older.close().await;
    drop(older);
    let older = open(&place, Schema::CURRENT).await.unwrap();
    older.check().await.unwrap();
    assert_eq!(older.find(TenantScope::All, third.id()).await.unwrap(), Some(third));
    assert_eq!(newer.find(TenantScope::All, second.id()).await.unwrap(), Some(second));
    assert_eq!(version(&place).await, (current + 2, 1));
}

/// scale-out P17: a migration that excludes a version is applied only when no program of that version runs,
/// and such a program does not start afterwards.
#[tokio::test]
async fn a_contraction_waits_for_the_last_older_program() {
    let place = Database::new();
    let current = current(&place).await;
    let older = open(&place, Schema::CURRENT).await.unwrap();
    let newer = open(&place, Schema::NEXT).await.unwrap();

    let refused = migrate(&of(&place, Schema::AFTER_NEXT)).await.unwrap_err();
    let text = refused.source().unwrap().to_string();
    assert!(text.contains("stop the servers of that version"), "{text}");
    // A node of a cluster starts without it.
    let newest = open(&place, Schema::AFTER_NEXT).await.unwrap();
    assert_eq!(version(&place).await, (current + 2, 1));

    older.close().await;
    drop(older);
    // The server notices the end of a connection slightly later.
    let contracted = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            match migrate(&of(&place, Schema::AFTER_NEXT)).await {
                Ok(before) => return before,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    });
    let before = contracted.await.unwrap();
    assert_eq!(before.pending.iter().map(|it| it.effect).collect::<Vec<_>>(), [MigrationEffect::Contract]);
    assert_eq!(version(&place).await, (current + 3, current + 2));
    newer.insert(change_of(new_upload(1))).await.unwrap();
    newest.insert(change_of(new_upload(2))).await.unwrap();
    let refused = open(&place, Schema::CURRENT).await;
    assert!(matches!(refused, Err(Error::TooNew { .. })), "{refused:?}");
}

/// A server that is alone needs no command.
#[tokio::test]
async fn a_store_that_is_alone_applies_every_migration() {
    let place = Database::new();
    let current = current(&place).await;
    let alone = PostgresSettings { alone: true, ..of(&place, Schema::AFTER_NEXT) };
    let store = PostgresStore::open(alone, bodies()).await.unwrap();
    store.insert(change_of(new_upload(1))).await.unwrap();
    assert_eq!(version(&place).await, (current + 3, current + 2));
}

/// A migration that waits for a table lets the statements of others pass.
#[tokio::test]
async fn a_busy_table_delays_a_migration_and_nothing_else() {
    let place = Database::new();
    let older = open(&place, Schema::CURRENT).await.unwrap();
    let holder = place.connect().await;
    holder.batch_execute("BEGIN; LOCK TABLE uploads IN ROW EXCLUSIVE MODE").await.unwrap();
    let migrating = tokio::spawn({
        let settings = of(&place, Schema::NEXT);
        async move { migrate(&settings).await }
    });
    until_waiting(&place.connect().await, "relation", 1).await;
    older.insert(change_of(new_upload(1))).await.unwrap();
    assert!(!migrating.is_finished());
    holder.batch_execute("COMMIT").await.unwrap();
    migrating.await.unwrap().unwrap();
    older.insert(change_of(new_upload(2))).await.unwrap();
    assert!(is_index_complete(&place).await);
}

#[tokio::test]
async fn an_interrupted_index_is_completed() {
    let place = Database::new();
    open(&place, Schema::CURRENT).await.unwrap().close().await;
    let client = place.connect().await;
    let column = "ALTER TABLE uploads ADD COLUMN next_note text COLLATE \"C\"; UPDATE schema SET version = version + 1";
    client.batch_execute(column).await.unwrap();
    let left = "CREATE INDEX uploads_by_next_note ON ONLY uploads (next_note, id);
         CREATE INDEX uploads_by_next_note_other ON uploads_other (next_note, id);
         UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass('uploads_by_next_note_other')";
    client.batch_execute(left).await.unwrap();
    assert!(!is_index_complete(&place).await);
    migrate(&of(&place, Schema::NEXT)).await.unwrap();
    assert!(is_index_complete(&place).await);
    let invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
    assert_eq!(client.query_one(invalid, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_comparison_of_schemas_changes_nothing() {
    let place = Database::empty();
    let status = schema_status(&of(&place, Schema::NEXT)).await.unwrap();
    assert_eq!((status.found, status.pending.len()), (0, usize::try_from(status.known).unwrap()));
    assert_eq!(status.pending[0].name, "0001_state");
    let tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
    assert_eq!(place.connect().await.query_one(tables, &[]).await.unwrap().get::<_, i64>(0), 0);
    let starts = (0..4).map(|_| {
        let settings = of(&place, Schema::NEXT);
        tokio::spawn(async move { migrate(&settings).await })
    });
    for start in starts.collect::<Vec<_>>() {
        start.await.unwrap().unwrap();
    }
    assert_eq!(schema_status(&of(&place, Schema::NEXT)).await.unwrap().pending, []);
}
