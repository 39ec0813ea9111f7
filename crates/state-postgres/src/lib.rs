//! The state in PostgreSQL 15 or later, for large installations and for several nodes that share it.
//!
//! Uploads are committed in groups (see `writer`). Every other change has a separate transaction (see
//! `transaction`), and reads have separate connections. When a commit returns, it is on the server's stable
//! storage, unless the durability is relaxed, and every read that starts afterwards sees it. If the response
//! to a commit is lost, the caller gets [`Error::Unanswered`]. Several nodes may
//! use one database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use state::clock::Clock;
use state::{Bells, Error, EventBodies, Result, Store};

mod attempts;
mod backlog;
mod backlog_counts;
mod bells;
mod bucket;
mod claims;
mod clock;
mod days;
mod deliveries;
mod due;
mod endpoints;
mod events;
mod expiry;
mod expunge;
mod fault;
mod hook_calls;
mod horizon;
mod lanes;
mod leases;
mod lineage;
mod listing;
mod lock;
mod log;
mod migrate;
mod notices;
mod params;
mod prune;
mod query;
mod records;
mod replay;
mod replay_piece;
mod retention;
mod rows;
mod session;
mod sessions;
mod settings;
mod subscribers;
mod text;
mod transaction;
mod upkeep;
mod uploads;
mod waits;
mod writer;

use bells::SharedBells;
use clock::ServerTime;
use fault::Fault;
use retention::PruneCursors;
use session::{Connector, Purpose};
use sessions::Sessions;
pub use settings::{BadDatabaseUrl, DatabaseUrl, PostgresSettings};
use transaction::{AfterLostAnswer, Shared, Transaction, Work};
use writer::Writers;

const OPEN: &str = "open the database";

/// The difference from the server's clock at which a node does not start, because its clock is used for
/// identifiers.
const CLOCK_OFF: Duration = Duration::from_secs(60);

/// The time within which the store must show that it works.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Uploads and outbox in a PostgreSQL database.
#[derive(Debug)]
pub struct PostgresStore {
    connector: Connector,
    clock: Clock,
    time: ServerTime,
    writers: Writers,
    /// Connections for all transactions except commits of uploads.
    transactions: Arc<Sessions>,
    readers: Arc<Sessions>,
    shared: Arc<Shared>,
    bells: Arc<SharedBells>,
    /// The positions of the sweep for old rows.
    pruning: tokio::sync::Mutex<PruneCursors>,
    upkeep: [Upkeep; 2],
}

/// A background task that ends with the store.
#[derive(Debug)]
struct Upkeep(AbortHandle);

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl PostgresStore {
    /// Connects and migrates the database. A database written by a newer version is left unchanged.
    pub async fn open(settings: PostgresSettings, bodies: EventBodies) -> Result<Arc<Self>> {
        let failed = |fault: Fault| fault.into_error(OPEN);
        let connector = Connector::new(settings.address.clone(), settings.durability).map_err(failed)?;
        let presence = upkeep::begin(&connector, settings.alone).await.map_err(failed)?;
        let migrating = connector.connect(Purpose::Migrate).await.map_err(failed)?;
        migrate::run(&migrating).await?;
        let time = ServerTime::measured(&migrating).await.map_err(failed)?;
        refuse_other_time(&time)?;
        days::make_ahead(&migrating, time.now()).await.map_err(failed)?;
        let position_base = log::base(&migrating).await.map_err(failed)?;
        drop(migrating);
        let shared = Arc::new(Shared {
            bodies,
            known: subscribers::KnownSubscribers::default(),
            position_base: AtomicI64::new(position_base),
            bell: Arc::new(Notify::new()),
            wake_others: Arc::new(Notify::new()),
            is_unlocked: AtomicBool::new(false),
            works: AtomicU64::new(0),
            superseded: AtomicU64::new(0),
        });
        let writers = Writers::start(&connector, &shared, settings.write_connections, settings.group_commit_max);
        let sessions = |purpose, count| Arc::new(Sessions::new(connector.clone(), purpose, count));
        let transactions = sessions(Purpose::Write, settings.transaction_connections);
        let readers = sessions(Purpose::Read, settings.read_connections);
        let bells = Arc::new(SharedBells::new(Arc::clone(&shared.wake_others)));
        let listening = bells::serve(connector.clone(), Arc::clone(&bells), Arc::clone(&shared.bell));
        let keeping_up = upkeep::serve(connector.clone(), settings.alone, presence, time.clone(), Arc::clone(&shared));
        let upkeep = [tokio::spawn(keeping_up), tokio::spawn(listening)];
        let upkeep = upkeep.map(|task| Upkeep(task.abort_handle()));
        let clock = time.clock();
        let pruning = tokio::sync::Mutex::default();
        Ok(Arc::new(Self { connector, clock, time, writers, transactions, readers, shared, bells, pruning, upkeep }))
    }

    /// Returns the address of the database, without its password.
    pub fn address(&self) -> &DatabaseUrl {
        self.connector.address()
    }

    /// Returns bells that ring for the commits of all nodes.
    pub fn bells(&self) -> Arc<dyn Bells> {
        Arc::clone(&self.bells) as Arc<dyn Bells>
    }

    /// Returns the number of transactions begun. Many commits share one.
    pub fn transactions(&self) -> u64 {
        self.connector.transactions()
    }

    /// Returns the number of changes committed in those transactions.
    pub fn writes(&self) -> u64 {
        self.writers.written() + self.shared.works.load(Ordering::Relaxed)
    }

    /// Returns how far the clock of this machine is ahead of the server's, in seconds; negative if it is
    /// behind.
    pub fn clock_offset_seconds(&self) -> f64 {
        std::time::Duration::from_millis(1).as_secs_f64() * self.time.machine_is_ahead_ms() as f64
    }

    /// Creates the partitions of some days, for rows that are moved in from another database.
    pub async fn make_days(&self, from: domain::time::Timestamp, days: u32) -> Result<()> {
        let made = async {
            let session = self.connector.connect(Purpose::Migrate).await?;
            days::make(&session, from, days).await
        };
        made.await.map_err(|fault| fault.into_error("make partitions"))
    }

    /// Drops the partitions of empty days, and returns the number of those days. An open store does so every
    /// hour.
    pub async fn drop_empty_days(&self) -> Result<u32> {
        let dropped = async {
            let session = self.connector.connect(Purpose::Write).await?;
            days::drop_empty(&session, self.time.now()).await
        };
        dropped.await.map_err(|fault| fault.into_error("drop partitions"))
    }

    /// Runs work in a separate transaction. It is completed even if the caller leaves.
    pub(crate) async fn write<W: Work>(&self, work: W) -> Result<W::Output> {
        transaction::write(&self.transactions, &self.shared, work).await
    }
}

impl Shared {
    pub(crate) fn position_base(&self) -> i64 {
        self.position_base.load(Ordering::Relaxed)
    }
}

fn refuse_other_time(time: &ServerTime) -> Result<()> {
    let ahead_ms = time.machine_is_ahead_ms();
    if Duration::from_millis(ahead_ms.unsigned_abs()) < CLOCK_OFF {
        return Ok(());
    }
    let off = if ahead_ms > 0 { "ahead of" } else { "behind" };
    let text = format!(
        "the clock of this machine is {} s {off} that of the database server; set one of them right",
        ahead_ms.unsigned_abs() / 1_000
    );
    Err(Fault::Unusable(text).into_error(OPEN))
}

#[async_trait]
impl Store for PostgresStore {
    async fn check(&self) -> Result<()> {
        let check = async {
            self.write(CheckWriting).await?;
            self.readers.query(CheckWriting::OPERATION, "SELECT checks FROM health", &[]).await.map(drop)
        };
        let late = |error| Error::Failed { operation: CheckWriting::OPERATION, source: Box::new(error) };
        tokio::time::timeout(CHECK_TIMEOUT, check).await.map_err(late)?
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }

    async fn close(&self) {
        self.upkeep.iter().for_each(|task| task.0.abort());
        self.writers.finish().await;
        self.transactions.close().await;
        self.readers.close().await;
    }
}

struct CheckWriting;

impl Work for CheckWriting {
    const OPERATION: &'static str = "check the database";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = ();

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<(), Fault> {
        tx.execute("UPDATE health SET checks = checks + 1", &[]).await.map(drop)
    }
}
