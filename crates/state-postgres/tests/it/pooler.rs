//! Stores behind PgBouncer in transaction mode, where successive transactions of a session run on different
//! server connections (scale-out P12).

use std::error::Error as _;
use std::time::{Duration, Instant};

use domain::principal::TenantScope;
use longshore_state_postgres::{PostgresSettings, PostgresStore};
use state::conformance::{StateFixture, at, bodies, change_of, new_upload, receive};
use state::{Error, EventLog, Leases, Store, Uploads};
use tokio_postgres::Client;

use crate::place::Database;
use crate::pooled_server::Pooler;
use crate::server::{Server, until};

const TRANSACTION_MODE: &str = "pool_mode = transaction\ndefault_pool_size = 4";

async fn refusal(settings: PostgresSettings) -> String {
    let error = PostgresStore::open(settings, bodies()).await.unwrap_err();
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Gives the pooler this many idle server connections.
async fn warm_up(pooler: &Pooler, count: usize) {
    let mut clients = Vec::new();
    for _ in 0..count {
        let client = pooler.connect("postgres").await;
        client.batch_execute("BEGIN").await.unwrap();
        clients.push(client);
    }
    for client in clients {
        client.batch_execute("COMMIT").await.unwrap();
    }
}

/// A start through a pooler in transaction mode requires the address of the server, whatever the order in
/// which the pooler uses its connections.
#[tokio::test]
async fn a_pooler_in_transaction_mode_requires_the_direct_address() {
    let server = Server::started();
    for order in ["", "\nserver_round_robin = 1"] {
        for idle in [0, 1, 2, 3, 4] {
            let Some(pooler) = Pooler::started(&server.address(), &format!("{TRANSACTION_MODE}{order}")) else {
                return;
            };
            warm_up(&pooler, idle).await;
            let refused = refusal(pooler.settings_without_direct()).await;
            assert!(refused.contains("set database.direct_url"), "{idle} idle{order}: {refused}");
            let refused = refusal(pooler.settings(&pooler.url())).await;
            assert!(refused.contains("database.direct_url leads through"), "{idle} idle{order}: {refused}");
            let left = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
            assert_eq!(server.connect().await.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
        }
    }
    let Some(pooler) = Pooler::started(&server.address(), "pool_mode = session") else { return };
    let store = PostgresStore::open(pooler.settings_without_direct(), bodies()).await.unwrap();
    store.insert(change_of(new_upload(1))).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn both_addresses_lead_to_one_database() {
    let (server, other) = (Server::started(), Server::started());
    let Some(pooler) = Pooler::started(&server.address(), TRANSACTION_MODE) else { return };
    server.connect().await.batch_execute("CREATE DATABASE elsewhere").await.unwrap();
    for direct in [other.url(), format!("postgres://postgres@{}/elsewhere", server.address())] {
        let refused = refusal(pooler.settings(&direct)).await;
        assert!(refused.contains("lead to different databases"), "{direct}: {refused}");
    }
}

/// Runs statements of every kind: commits, other transactions, and reads.
async fn use_store(store: &PostgresStore, number: u8) {
    let mut upload = store.insert(change_of(new_upload(number))).await.unwrap();
    receive(&mut upload, 10, at(1));
    let upload = store.commit(change_of(upload)).await.unwrap();
    store.check().await.unwrap();
    store.drain(state::conformance::own()).await.unwrap();
    assert_eq!(store.find(TenantScope::All, upload.id()).await.unwrap(), Some(upload.clone()));
    assert!(!store.events_of(TenantScope::All, upload.id(), 0, 10).await.unwrap().is_empty());
}

/// Settings and locks of the store stay within its transactions: another user of the same server connections
/// finds none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_leaves_nothing_on_shared_connections() {
    let place = Database::new();
    let server = place.url();
    let (_, address) = server.split_once('@').unwrap();
    let (address, name) = address.split_once('/').unwrap();
    let Some(pooler) = Pooler::started(address, TRANSACTION_MODE) else { return };
    let settings = PostgresSettings { direct_address: pooler.settings(&server).direct_address, ..place.settings() };
    let address = longshore_state_postgres::DatabaseUrl::parse(&pooler.url_of(name), None).unwrap();
    let store = PostgresStore::open(PostgresSettings { address, ..settings }, bodies()).await.unwrap();
    let using = (1..=8).map(|number| {
        let store = std::sync::Arc::clone(&store);
        tokio::spawn(async move { use_store(&store, number).await })
    });
    for used in using.collect::<Vec<_>>() {
        used.await.unwrap();
    }
    let mut clients = Vec::new();
    for _ in 0..4 {
        let client = pooler.connect(name).await;
        client.batch_execute("BEGIN").await.unwrap();
        clients.push(client);
    }
    for client in &clients {
        assert_eq!(settings_of_session(client).await, Vec::<String>::new());
        let held = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'";
        assert_eq!(client.query_one(held, &[]).await.unwrap().get::<_, i64>(0), 0);
    }
    drop(clients);
    store.close().await;
}

/// Returns the settings of a session that neither the server's configuration nor PgBouncer has made.
async fn settings_of_session(client: &Client) -> Vec<String> {
    let sql = "SELECT name FROM pg_settings WHERE source = 'session'
         AND name NOT IN ('application_name', 'client_encoding', 'DateStyle', 'TimeZone', 'standard_conforming_strings')";
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Each transaction brings its limits: a table that somebody has locked delays a read for two seconds.
#[tokio::test]
async fn limits_hold_behind_a_pooler() {
    let server = Server::started();
    let Some(pooler) = Pooler::started(&server.address(), TRANSACTION_MODE) else { return };
    let store = PostgresStore::open(pooler.settings(&server.url()), bodies()).await.unwrap();
    let holder = server.connect().await;
    holder.batch_execute("BEGIN; LOCK TABLE nodes, health IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let began = Instant::now();
    let read = store.nodes().await.unwrap_err();
    assert!(read.source().unwrap().to_string().contains("55P03"), "{read:?}");
    let took = began.elapsed();
    assert!((Duration::from_millis(1_500)..Duration::from_secs(5)).contains(&took), "{took:?}");
    holder.batch_execute("COMMIT").await.unwrap();
    store.nodes().await.unwrap();
    store.close().await;
}

/// scale-out P13: the pooler leads to a promoted standby, and then back to the former primary. The store
/// follows the promotion within open sessions, ends all leases, and neither reads nor writes on the former
/// primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_behind_a_pooler_is_noticed_in_each_transaction() {
    let primary = Server::started();
    let Some(pooler) = Pooler::started(&primary.address(), TRANSACTION_MODE) else { return };
    let direct = primary.url();
    let standby = primary.standby();
    let direct = direct.replace(&primary.address(), &format!("{},{}", primary.address(), standby.address()));
    let store = PostgresStore::open(pooler.settings(&direct), bodies()).await.unwrap();
    use_store(&store, 1).await;
    let held = store.insert(change_of(new_upload(2))).await.unwrap();
    let node = state::conformance::leases::node(1);
    store.join(&node, state::Membership::Others, None).await.unwrap();
    store.acquire(held.id(), node.instance).await.unwrap().unwrap();
    let wanted: String =
        primary.connect().await.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
    let follows = format!("SELECT pg_last_wal_replay_lsn() >= '{wanted}'::pg_lsn");
    let client = standby.connect().await;
    until("the standby follows", async || client.query_one(&follows, &[]).await.unwrap().get(0)).await;
    primary.kill();
    standby.promote();
    pooler.lead_to(&standby.address());
    until("the store has followed the pooler", async || store.check().await.is_ok()).await;
    use_store(&store, 3).await;
    let found = store.find(TenantScope::All, held.id()).await.unwrap().unwrap();
    assert_eq!(found.record().lease.holder, None, "leases end with their timeline");

    primary.start();
    pooler.lead_to(&primary.address());
    let former = primary.connect().await;
    let uploads = "SELECT count(*) FROM uploads";
    let before: i64 = former.query_one(uploads, &[]).await.unwrap().get(0);
    until("the pooler leads to the former primary", async || store.check().await.is_err()).await;
    for number in 20..24 {
        let refused = store.find(TenantScope::All, held.id()).await;
        assert!(matches!(refused, Err(Error::Unreachable { .. })), "{refused:?}");
        let refused = store.insert(change_of(new_upload(number))).await;
        assert!(matches!(refused, Err(Error::Unreachable { .. })), "{refused:?}");
    }
    assert_eq!(former.query_one(uploads, &[]).await.unwrap().get::<_, i64>(0), before);
    pooler.lead_to(&standby.address());
    until("the store has come back", async || store.check().await.is_ok()).await;
    use_store(&store, 30).await;
}
