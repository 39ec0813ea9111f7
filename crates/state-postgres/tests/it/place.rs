//! Databases for tests. Each test copies one that was migrated before.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use longshore_state_postgres::{DatabaseUrl, PostgresSettings, PostgresStore};
use state::Store;
use state::conformance::{GathersCommits, NOW, StateFixture, bodies, change_of};
use tokio_postgres::{Client, NoTls};

/// The number of days that the times of the suite span.
const DAYS: u32 = 16;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A separate database, dropped with this value.
#[derive(Debug)]
pub(crate) struct Database {
    name: String,
}

/// A separate database with a single writer, so that all concurrent commits share batches.
#[derive(Debug)]
pub(crate) struct OneWriter(Database);

impl Database {
    /// Creates a database without tables.
    pub(crate) fn empty() -> Self {
        Self::with("ENCODING 'UTF8'")
    }

    /// Creates a database without tables, with unusual options.
    pub(crate) fn with(options: &'static str) -> Self {
        let name = new_name();
        let sql = format!("CREATE DATABASE {name} TEMPLATE template0 {options}");
        block_on(administer(sql));
        Self { name }
    }

    pub(crate) fn settings(&self) -> PostgresSettings {
        PostgresSettings::new(DatabaseUrl::parse(&self.url(), None).unwrap())
    }

    pub(crate) fn url(&self) -> String {
        url_of(&self.name)
    }

    /// Opens a connection outside the store.
    pub(crate) async fn connect(&self) -> Client {
        connect(&self.url()).await
    }
}

fn new_name() -> String {
    format!("longshore_test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn url_of(database: &str) -> String {
    let address = std::env::var("TEST_POSTGRES_URL");
    let address = address.expect("TEST_POSTGRES_URL names a server; tests/services/postgres.sh starts one");
    let (server, _) = address.rsplit_once('/').unwrap();
    format!("{server}/{database}")
}

pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Runs a future to completion on a separate thread, even from within a runtime.
fn block_on<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let run = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    thread::spawn(run).join().unwrap()
}

async fn administer(sql: String) {
    connect(&url_of("postgres")).await.batch_execute(&sql).await.unwrap();
}

/// Returns the name of a database with all tables and the days of the suite.
fn template() -> &'static str {
    static TEMPLATE: OnceLock<String> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let name = format!("longshore_template_{}", std::process::id());
        let database = name.clone();
        block_on(async move {
            administer(format!("CREATE DATABASE {database} TEMPLATE template0 ENCODING 'UTF8'")).await;
            let address = DatabaseUrl::parse(&url_of(&database), None).unwrap();
            let store = PostgresStore::open(PostgresSettings::new(address), bodies()).await.unwrap();
            store.make_days(NOW.minus(Duration::from_hours(24)), DAYS).await.unwrap();
            store.close().await;
            drop(store);
            // A database that is copied must not be in use; the server notices the end of a connection
            // slightly later.
            let client = connect(&url_of("postgres")).await;
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1";
            while client.query_one(sql, &[&database]).await.unwrap().get::<_, i64>(0) > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        name
    })
}

impl StateFixture for Database {
    type Store = PostgresStore;

    fn new() -> Self {
        let name = new_name();
        block_on(administer(format!("CREATE DATABASE {name} TEMPLATE {}", template())));
        Self { name }
    }

    async fn open(&self) -> Arc<PostgresStore> {
        PostgresStore::open(self.settings(), bodies()).await.unwrap()
    }

    fn transactions(store: &PostgresStore) -> u64 {
        store.transactions()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        block_on(administer(format!("DROP DATABASE {} WITH (FORCE)", self.name)));
    }
}

impl StateFixture for OneWriter {
    type Store = PostgresStore;

    fn new() -> Self {
        Self(Database::new())
    }

    async fn open(&self) -> Arc<PostgresStore> {
        let settings = PostgresSettings { write_connections: 1, ..self.0.settings() };
        PostgresStore::open(settings, bodies()).await.unwrap()
    }

    fn transactions(store: &PostgresStore) -> u64 {
        store.transactions()
    }
}

impl GathersCommits for OneWriter {
    /// Locks the endpoints, and makes the writer wait for them with an upload that no test uses.
    async fn hold(store: &Arc<PostgresStore>) -> Box<dyn Send> {
        let (url, store) = (url_of(store.address().to_string().rsplit('/').next().unwrap()), Arc::clone(store));
        let client = connect(&url).await;
        client.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(5507742257958092800)").await.unwrap();
        tokio::spawn(async move {
            let unasked = state::conformance::new_upload(251);
            state::Uploads::insert(&*store, change_of(unasked)).await
        });
        let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        while client.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Box::new(client)
    }
}
