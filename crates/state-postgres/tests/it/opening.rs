//! Databases that a store opens, and those that it rejects with an explanation.

use std::error::Error as _;
use std::time::Duration;

use longshore_state_postgres::{DatabaseUrl, PostgresSettings, PostgresStore};
use state::conformance::{StateFixture, bodies, cluster_record, new_upload};
use state::{Error, Store, Uploads};

use crate::place::Database;

async fn refusal(settings: PostgresSettings) -> String {
    let error = PostgresStore::open(settings, bodies()).await.unwrap_err();
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

#[tokio::test]
async fn a_database_that_cannot_be_used_says_why() {
    let place = Database::empty();
    place.connect().await.batch_execute("CREATE TABLE uploads (id integer)").await.unwrap();
    assert!(refusal(place.settings()).await.contains("tables of another program"));

    let unknown = DatabaseUrl::parse(&place.url().replace("longshore_test", "nowhere"), None).unwrap();
    let refused = refusal(PostgresSettings::new(unknown)).await;
    assert!(refused.contains("does not exist") && refused.contains("3D000"), "{refused}");

    let place = Database::empty();
    let no_rights = "CREATE ROLE nobody LOGIN; REVOKE ALL ON SCHEMA public FROM PUBLIC";
    let _ = place.connect().await.batch_execute(no_rights).await;
    let nobody = DatabaseUrl::parse(&place.url().replace("postgres@", "nobody@"), None).unwrap();
    let refused = refusal(PostgresSettings::new(nobody)).await;
    assert!(refused.contains("42501") || refused.contains("3F000"), "{refused}");

    let latin = Database::with("ENCODING 'LATIN1'");
    assert!(refusal(latin.settings()).await.contains("ENCODING 'UTF8'"));
}

#[tokio::test]
async fn a_newer_database_is_left_as_it_is() {
    let place = Database::new();
    let store = place.open().await;
    store.close().await;
    let client = place.connect().await;
    client.batch_execute("UPDATE schema SET version = 1000, min_program = 999").await.unwrap();
    let refused = PostgresStore::open(place.settings(), bodies()).await;
    assert!(matches!(refused, Err(Error::TooNew { found: 1_000, .. })), "{refused:?}");
    // A newer version that this program may still use.
    client.batch_execute("UPDATE schema SET min_program = 1").await.unwrap();
    PostgresStore::open(place.settings(), bodies()).await.unwrap();
    let version: i32 = client.query_one("SELECT version FROM schema", &[]).await.unwrap().get(0);
    assert_eq!(version, 1_000);
}

/// A server that runs alone waits for its predecessor, and does not start next to another one.
#[tokio::test]
async fn a_store_that_is_alone_shares_with_nobody() {
    let place = Database::new();
    let alone = || PostgresSettings { alone: true, ..place.settings() };
    let first = PostgresStore::open(alone(), bodies()).await.unwrap();
    let second = tokio::spawn(PostgresStore::open(alone(), bodies()));
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!second.is_finished(), "it waits");
    first.insert(state::conformance::change_of(new_upload(1))).await.unwrap();
    first.close().await;
    drop(first);
    let second = second.await.unwrap().unwrap();
    assert!(refusal(place.settings()).await.contains("another server has this database open"));
    second.check().await.unwrap();
}

#[tokio::test]
async fn nodes_of_a_cluster_have_its_name_and_a_common_key() {
    let place = Database::new();
    let (first, second) = (place.open().await, place.open().await);
    cluster_record::nodes_of_a_cluster_have_its_name_and_a_common_key(&*first, &*second).await;
}

/// The advisory lock of an open store.
const LOCK: i64 = 0x4c6f_6e64_0000_0000;

/// A server that runs alone and loses its lock writes nothing until it has it back, and never again if
/// another server has used the database in between.
#[tokio::test]
async fn a_store_that_is_alone_writes_nothing_without_its_lock() {
    let place = Database::new();
    let store = PostgresStore::open(PostgresSettings { alone: true, ..place.settings() }, bodies()).await.unwrap();
    let other = place.connect().await;
    let register = |node: u8| {
        format!(
            "DELETE FROM nodes; INSERT INTO nodes (instance, name, role, version, draining)
             VALUES ('00000000-0000-0000-0000-{node:012}', 'node', 'all', '1', false)"
        )
    };
    other.batch_execute(&register(1)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    for is_used in [false, true] {
        let take = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                 AND classid = {} AND objid = 0;
             SELECT pg_advisory_lock({LOCK})",
            LOCK >> 32
        );
        other.batch_execute(&take).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(matches!(store.check().await, Err(Error::Unreachable { .. })));
        let insert = store.insert(state::conformance::change_of(new_upload(1))).await;
        assert!(matches!(insert, Err(Error::Unreachable { .. })), "{insert:?}");
        if is_used {
            other.batch_execute(&register(2)).await.unwrap();
        }
        other.batch_execute(&format!("SELECT pg_advisory_unlock({LOCK})")).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(store.check().await.is_err(), is_used);
    }
}

/// A server with an untrusted certificate, or one for another name, is rejected.
#[tokio::test]
async fn a_certificate_is_verified() {
    let Ok(authorities) = std::env::var("TEST_POSTGRES_CA") else {
        println!("skipped: the server has no certificate, because openssl is missing");
        return;
    };
    let place = Database::new();
    let at = |host: &str, options: &str| {
        let url = format!("{}?{options}", place.url().replace("127.0.0.1", host));
        PostgresSettings::new(DatabaseUrl::parse(&url, None).unwrap())
    };
    let trusted = format!("sslmode=verify-full&sslrootcert={authorities}");
    let store = PostgresStore::open(at("localhost", &trusted), bodies()).await.unwrap();
    store.insert(state::conformance::change_of(new_upload(1))).await.unwrap();
    let plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
        WHERE datname = current_database() AND application_name = 'longshore' AND NOT ssl";
    let client = place.connect().await;
    assert_eq!(client.query_one(plain, &[]).await.unwrap().get::<_, i64>(0), 0);
    store.close().await;

    let other_name = refusal(at("127.0.0.1", &trusted)).await;
    assert!(other_name.contains("certificate"), "{other_name}");
    let unknown = refusal(at("localhost", "sslmode=require")).await;
    assert!(unknown.contains("certificate"), "{unknown}");
}
