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

    /// Returns the settings of a store; it uses the pooler, if the suite has one.
    pub(crate) fn settings(&self) -> PostgresSettings {
        // The suite queues thousands of calls at once, also on a busy machine.
        PostgresSettings { patience: Duration::from_mins(10), ..self.settings_at(&self.url_of_store()) }
    }

    /// Returns the settings of a store that reaches the database, or its pooler, at another address.
    pub(crate) fn settings_at(&self, url: &str) -> PostgresSettings {
        let parsed = |url: &str| DatabaseUrl::parse(url, None).unwrap();
        let direct_address = pooler().map(|_| parsed(&self.url()));
        PostgresSettings { direct_address, ..PostgresSettings::new(parsed(url)) }
    }

    /// Returns the address of the database on the server itself.
    pub(crate) fn url(&self) -> String {
        url_of(&self.name)
    }

    /// Returns the address of the database on the pooler of the suite, or on the server if there is none.
    pub(crate) fn url_of_store(&self) -> String {
        pooler().map_or_else(|| self.url(), |pooler| at_database(&pooler, &self.name))
    }

    /// Ends all connections to the database, also those that a pooler keeps.
    pub(crate) async fn end_connections(&self) {
        let sql = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()";
        self.connect().await.query(sql, &[]).await.unwrap();
    }

    /// Opens a connection outside the store.
    pub(crate) async fn connect(&self) -> Client {
        connect(&self.url()).await
    }
}

fn new_name() -> String {
    format!("longshore_test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Returns the address of the pooler of the suite, if `tests/services/postgres.sh` has started one.
fn pooler() -> Option<String> {
    std::env::var("TEST_POSTGRES_DIRECT_URL").is_ok().then(|| std::env::var("TEST_POSTGRES_URL").unwrap())
}

fn url_of(database: &str) -> String {
    let address = std::env::var("TEST_POSTGRES_DIRECT_URL").or_else(|_| std::env::var("TEST_POSTGRES_URL"));
    at_database(&address.expect("TEST_POSTGRES_URL names a server; tests/services/postgres.sh starts one"), database)
}

fn at_database(address: &str, database: &str) -> String {
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

/// Waits until so many sessions of the client's database wait for locks of a type.
pub(crate) async fn until_waiting(client: &Client, lock_type: &str, sessions: i64) {
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = $1 AND NOT granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    while client.query_one(waiting, &[&lock_type]).await.unwrap().get::<_, i64>(0) < sessions {
        tokio::time::sleep(Duration::from_millis(1)).await;
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
        until_waiting(&client, "advisory", 1).await;
        Box::new(client)
    }
}
