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
use state::{Bells, Error, EventBodies, Result, SchemaStatus, Store};

mod arrival;
mod attempts;
mod backlog;
mod backlog_counts;
mod bells;
mod bucket;
mod claims;
mod clock;
mod cluster_record;
mod day_tables;
mod days;
mod deliveries;
mod due;
mod due_places;
mod duties;
mod endpoints;
mod events;
mod expiry;
mod expunge;
mod fault;
mod hook_calls;
mod horizon;
mod index_build;
mod lanes;
mod leases;
mod lineage;
mod listing;
mod lock;
mod log;
mod measures;
mod migrate;
mod notices;
mod params;
mod past_days;
mod pooler;
mod positions;
mod prune;
mod query;
mod read_source;
mod reads;
mod records;
mod replay;
mod replay_piece;
mod replica;
mod replicas;
mod retention;
mod rows;
mod schema;
mod session;
mod sessions;
mod settings;
mod setup;
mod subscribers;
mod text;
mod transaction;
mod unfinished;
mod upkeep;
mod uploads;
mod waits;
mod windows;
mod writer;

pub use arrival::{MovePlace, PostgresTarget};
use bells::SharedBells;
use clock::ServerTime;
pub use days::MOST_OTHER_ROWS;
use due_places::LaterDays;
use fault::Fault;
pub use measures::{DistributionReading, Readings};
use migrate::Allowed;
use replicas::Replicas;
pub use replicas::{ReadCounts, ReplicaReading};
use retention::PruneCursors;
pub use schema::Schema;
use session::{Connector, Purpose};
use sessions::Sessions;
pub use settings::{BadDatabaseUrl, DatabaseUrl, PostgresSettings, ReplicaSettings};
use transaction::{AfterLostAnswer, Shared, Transaction, Work};
use writer::Writers;

const OPEN: &str = "open the database";

/// The difference from the server's clock at which a node does not start, because its clock is used for
/// identifiers.
const CLOCK_OFF: Duration = Duration::from_secs(60);

/// The number of finished days that are not left to the hourly upkeep, but passed at the start.
const MANY_DAYS: usize = 32;

/// The time within which the store must show that it works.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Uploads and outbox in a PostgreSQL database.
#[derive(Debug)]
pub struct PostgresStore {
    /// The connector for transactions and reads, which may lead through a transaction pooler.
    connector: Connector,
    /// The connector for sessions that need a dedicated server connection.
    direct: Connector,
    clock: Clock,
    time: ServerTime,
    writers: Writers,
    /// Connections for all transactions except commits of uploads.
    transactions: Arc<Sessions>,
    readers: Arc<Sessions>,
    replicas: Arc<Replicas>,
    shared: Arc<Shared>,
    bells: Arc<SharedBells>,
    /// The positions of the sweep for old rows.
    pruning: tokio::sync::Mutex<PruneCursors>,
    upkeep: [Upkeep; 3],
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
    /// Connects and migrates the database. A database written by a newer version is left unchanged. A store
    /// that is not alone leaves out migrations that exclude older programs: see `migrate`.
    pub async fn open(settings: PostgresSettings, bodies: EventBodies) -> Result<Arc<Self>> {
        let failed = |fault: Fault| fault.into_error(OPEN);
        let direct = pooler::direct(&settings, settings.start_timeout).await.map_err(failed)?;
        let connector = pooler::for_transactions(&direct, &settings).map_err(failed)?;
        let first = upkeep::connect_first(&direct, Purpose::Write, settings.start_timeout).await.map_err(failed)?;
        let presence = upkeep::begin(first, settings.alone, settings.schema).await.map_err(failed)?;
        let migrating = direct.connect(Purpose::Migrate).await.map_err(failed)?;
        if settings.only_reads {
            migrate::require(&migrating, settings.schema).await.map_err(failed)?;
        } else {
            let allowed = if settings.alone { Allowed::All } else { Allowed::Expansions };
            migrate::run(&migrating, settings.schema, allowed).await.map_err(migration_failed)?;
        }
        arrival::refuse_unfinished(&migrating).await.map_err(failed)?;
        let time = ServerTime::measured(&migrating).await.map_err(failed)?;
        refuse_other_time(&time)?;
        let position_base = if settings.only_reads {
            log::read_base(&migrating).await.map_err(failed)?
        } else {
            days::make_ahead(&migrating, time.now()).await.map_err(failed)?;
            log::base(&migrating).await.map_err(failed)?
        };
        let shared = Arc::new(Shared {
            bodies,
            known: subscribers::KnownSubscribers::default(),
            days: windows::KnownDays::default(),
            recorded_timeline: lineage::RecordedTimeline::default(),
            position_base: AtomicI64::new(position_base),
            patience: settings.patience,
            bell: Arc::new(Notify::new()),
            wake_others: Arc::new(Notify::new()),
            later_days: LaterDays::default(),
            is_unlocked: AtomicBool::new(false),
            only_reads: settings.only_reads,
            measures: measures::Measures::default(),
            works: AtomicU64::new(0),
            superseded: AtomicU64::new(0),
        });
        if settings.only_reads {
            upkeep::read_days(&migrating, &shared, time.now()).await.map_err(failed)?;
        } else {
            shared.recorded_timeline.catch_up(&migrating).await.map_err(failed)?;
            upkeep::pass_finished_days(&migrating, &shared, time.now(), MANY_DAYS).await.map_err(failed)?;
        }
        drop(migrating);
        let writers = Writers::start(&connector, &shared, settings.write_connections, settings.group_commit_max);
        let sessions = |purpose, count| Arc::new(Sessions::new(connector.clone(), purpose, count, settings.patience));
        let transactions = sessions(Purpose::Write, settings.transaction_connections);
        let readers = sessions(Purpose::Read, settings.read_connections);
        let replicas = Arc::new(Replicas::new(&connector, &settings).map_err(failed)?);
        replicas.check(&readers, settings.address.hosts().len() > 1).await.map_err(failed)?;
        let watching = Arc::clone(&replicas).watch(Arc::clone(&readers));
        let bells = Arc::new(SharedBells::new(Arc::clone(&shared.wake_others)));
        let listening = bells::serve(direct.clone(), Arc::clone(&bells), Arc::clone(&shared.bell));
        let keeping_up =
            upkeep::serve(direct.clone(), settings.alone, settings.schema, presence, time.clone(), Arc::clone(&shared));
        let upkeep = [tokio::spawn(keeping_up), tokio::spawn(listening), tokio::spawn(watching)];
        let upkeep = upkeep.map(|task| Upkeep(task.abort_handle()));
        let clock = time.clock();
        let pruning = tokio::sync::Mutex::default();
        Ok(Arc::new(Self {
            connector,
            direct,
            clock,
            time,
            writers,
            transactions,
            readers,
            replicas,
            shared,
            bells,
            pruning,
            upkeep,
        }))
    }

    /// Returns the address of the database, without its password.
    pub fn address(&self) -> &DatabaseUrl {
        self.connector.address()
    }

    /// Returns bells that ring for the commits of all nodes.
    pub fn bells(&self) -> Arc<dyn Bells> {
        Arc::clone(&self.bells) as Arc<dyn Bells>
    }

    /// Gives the calling thread separate database connections for reads, as far as their limit permits. It
    /// must be the only thread of a runtime, and be free for them at all times.
    pub fn drive_reads_on_this_thread(&self) {
        self.readers.drive_on_this_thread();
        self.replicas.drive_on_this_thread();
    }

    /// Returns the number of transactions begun. Many commits share one.
    pub fn transactions(&self) -> u64 {
        self.connector.transactions()
    }

    /// Returns the number of changes committed in those transactions.
    pub fn writes(&self) -> u64 {
        self.writers.written() + self.shared.works.load(Ordering::Relaxed)
    }

    /// Returns the state of each replica.
    pub fn replicas(&self) -> Vec<ReplicaReading> {
        self.replicas.readings()
    }

    /// Returns how many reads went to which kind of server.
    pub fn read_counts(&self) -> ReadCounts {
        self.replicas.counts()
    }

    /// Returns how far the clock of this machine is ahead of the server's, in seconds; negative if it is
    /// behind.
    pub fn clock_offset_seconds(&self) -> f64 {
        std::time::Duration::from_millis(1).as_secs_f64() * self.time.machine_is_ahead_ms() as f64
    }

    /// Returns the measurements of this store so far.
    pub fn readings(&self) -> Readings {
        let pool_waits = vec![("read", self.readers.waits()), ("write", self.transactions.waits())];
        self.shared.measures.read(self.time.now(), pool_waits)
    }

    /// Measures how far readers of the log are behind. An open store does so every few seconds.
    pub async fn measure_horizon(&self) -> Result<()> {
        let measured = async { horizon::measure(&self.direct.connect(Purpose::Read).await?, &self.shared).await };
        measured.await.map_err(|fault| fault.into_error("measure the horizon of the log"))
    }

    /// Creates the partitions of some days, for rows that are moved in from another database.
    pub async fn make_days(&self, from: domain::time::Timestamp, days: u32) -> Result<()> {
        let made = async {
            let session = self.direct.connect(Purpose::Migrate).await?;
            days::make(&session, from, days).await?;
            self.shared.days.remember(days::first_ids(&session).await?);
            Ok(())
        };
        made.await.map_err(|fault: Fault| fault.into_error("make partitions"))
    }

    /// Makes all statements name the tables of all days, until the store looks for days again.
    #[doc(hidden)]
    pub fn forget_days(&self) {
        self.shared.days.forget();
    }

    /// Drops the partitions of empty days, and returns the number of those days. An open store does so every
    /// hour.
    pub async fn drop_empty_days(&self) -> Result<u32> {
        let dropped = async {
            let session = self.direct.connect(Purpose::Write).await?;
            days::drop_empty(&session, self.time.now()).await
        };
        dropped.await.map_err(|fault| fault.into_error("drop partitions"))
    }

    /// Excludes days without unfinished work from frequent statements. An open store does so every hour.
    pub async fn pass_finished_days(&self) -> Result<()> {
        let passed = async {
            let session = self.direct.connect(Purpose::Write).await?;
            upkeep::pass_finished_days(&session, &self.shared, self.time.now(), 1).await
        };
        passed.await.map_err(|fault| fault.into_error("find the days with unfinished work"))
    }

    /// Runs work in a separate transaction. It is completed even if the caller leaves.
    pub(crate) async fn write<W: Work>(&self, work: W) -> Result<W::Output> {
        transaction::write(&self.transactions, &self.shared, work).await
    }
}

/// Compares the schema of a database with that of this program, and changes nothing.
pub async fn schema_status(settings: &PostgresSettings) -> Result<SchemaStatus> {
    let compared = async {
        let direct = pooler::direct(settings, Duration::ZERO).await?;
        migrate::status(&direct.connect(Purpose::Migrate).await?, settings.schema).await
    };
    compared.await.map_err(|fault| fault.into_error("read the schema of the database"))
}

/// Applies all migrations of this program, and returns the schema that the database had before. Servers of
/// the version before may be running, unless a migration excludes them: then it fails and changes nothing
/// more.
pub async fn migrate(settings: &PostgresSettings) -> Result<SchemaStatus> {
    let migrated = async {
        let direct = pooler::direct(settings, Duration::ZERO).await?;
        let session = direct.connect(Purpose::Migrate).await?;
        migrate::run(&session, settings.schema, Allowed::All).await
    };
    migrated.await.map_err(migration_failed)
}

fn migration_failed(fault: Fault) -> Error {
    fault.into_error("migrate the database")
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
        self.replicas.close().await;
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
