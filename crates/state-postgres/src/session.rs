//! Sessions: connections, their security and time limits, and the conditions under which they are discarded.
//!
//! A session is lent to one user at a time. A session that was dropped inside a transaction, or whose
//! response came too late, is closed and never used again: the server rolls the open transaction back.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::poll_fn;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio_postgres::error::Severity;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, NoTls, Notification, Row, SimpleQueryMessage, Statement,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::day_tables::{Day, on_day};
use crate::fault::{Fault, Remedy};
use crate::lineage::Lineage;
use crate::lock::lock;
use crate::params::Param;
use crate::settings::{DatabaseUrl, Tls};
use crate::setup::{Limits, Route, ServerIdentity, server_of};
use state::Durability;

/// The server's time limits for a statement that reads, and for one that writes.
pub(crate) const READ_LIMIT: Duration = Duration::from_secs(5);
pub(crate) const WRITE_LIMIT: Duration = Duration::from_secs(15);
const MIGRATION_LIMIT: Duration = Duration::from_hours(6);

/// The additional time that this program waits for a response: the server may have disappeared.
const PATIENCE: Duration = Duration::from_secs(1);

/// The time within which a connection must be open and its limits set. The library's own limit covers the
/// network only, and a frozen server accepts connections without ever answering.
const OPENING_LIMIT: Duration = Duration::from_secs(5);

/// The purpose of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Read,
    /// Reads from a replica.
    ReadReplica,
    Write,
    /// Changes tables, which may take long, and maintains the database.
    Migrate,
    /// Waits for notifications and runs only short statements.
    Listen,
}

/// Creates sessions.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    address: DatabaseUrl,
    tls: Option<MakeRustls>,
    route: Route,
    durability: Durability,
    lineage: Arc<Lineage>,
    /// The number of transactions begun by the sessions of this connector.
    transactions: Arc<AtomicU64>,
    /// The threads that drive the connections: those that have opened the store, unless the session is for
    /// one thread. A session may first be needed by a thread that takes uploads, which is busy and has a
    /// lower priority.
    runtime: Handle,
}

#[derive(Clone)]
struct MakeRustls(MakeRustlsConnect);

impl std::fmt::Debug for MakeRustls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MakeRustls")
    }
}

impl Connector {
    pub(crate) fn new(address: DatabaseUrl, durability: Durability) -> Result<Self, Fault> {
        let tls = tls_of(&address)?;
        let (lineage, transactions) = (Arc::default(), Arc::default());
        let runtime = Handle::current();
        Ok(Self { address, tls, route: Route::Direct, durability, lineage, transactions, runtime })
    }

    /// Returns a connector to the same server through a transaction pooler at an address.
    pub(crate) fn through_pooler(&self, address: DatabaseUrl) -> Result<Self, Fault> {
        let tls = tls_of(&address)?;
        Ok(Self { address, tls, route: Route::TransactionPooler, ..self.clone() })
    }

    /// Returns a connector whose sessions set nothing on the server that outlasts a transaction.
    pub(crate) fn without_settings(&self) -> Self {
        Self { route: Route::TransactionPooler, ..self.clone() }
    }

    /// Returns a connector whose connections are driven by the runtime of the caller.
    pub(crate) fn driven_here(&self) -> Self {
        Self { runtime: Handle::current(), ..self.clone() }
    }

    /// Returns a connector to a replica of the same server.
    pub(crate) fn to_replica(&self, address: DatabaseUrl) -> Result<Self, Fault> {
        let other = Self::new(address.of_replica(), self.durability)?;
        Ok(Self { lineage: Arc::clone(&self.lineage), ..other })
    }

    pub(crate) fn address(&self) -> &DatabaseUrl {
        &self.address
    }

    pub(crate) fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }

    /// Connects and sets the limits of the session.
    pub(crate) async fn connect(&self, purpose: Purpose) -> Result<Session, Fault> {
        self.connect_with(purpose, |_| {}).await
    }

    /// Connects, sets the limits of the session, and passes every notification to `heard`. The hosts are
    /// tried in their order: one that is down, a replica, or a former primary is skipped.
    pub(crate) async fn connect_with(
        &self,
        purpose: Purpose,
        heard: impl FnMut(&Notification) + Clone + Send + 'static,
    ) -> Result<Session, Fault> {
        let mut why = Fault::Closed;
        for host in self.address.hosts() {
            let (connector, heard) = (self.clone(), heard.clone());
            // The limit is part of the task, which would otherwise wait for a frozen server on its own.
            let opening = self.runtime.spawn(async move {
                let opening = connector.open_session(&host, purpose, heard);
                let opened = tokio::time::timeout(OPENING_LIMIT, opening).await;
                opened.unwrap_or(Err(Fault::Late(OPENING_LIMIT.as_secs())))
            });
            // Without an outcome, the threads have ended.
            match opening.await.unwrap_or(Err(Fault::Closed)) {
                Ok(session) => return Ok(session),
                Err(fault) => why = fault,
            }
        }
        Err(why)
    }

    async fn open_session(
        &self,
        host: &Config,
        purpose: Purpose,
        heard: impl FnMut(&Notification) + Send + 'static,
    ) -> Result<Session, Fault> {
        let warned = Arc::new(AtomicBool::new(false));
        let (client, driver) = self.open(host, Arc::clone(&warned), heard).await?;
        let limit = match purpose {
            Purpose::Read | Purpose::ReadReplica | Purpose::Listen => READ_LIMIT,
            Purpose::Write => WRITE_LIMIT,
            Purpose::Migrate => MIGRATION_LIMIT,
        };
        let limits = Limits { purpose, durability: self.durability, statement: limit };
        let begin_pooled = |is_reading| limits.begin_pooled(is_reading);
        let session = Session {
            client,
            driver: Driver(driver),
            warned,
            is_in_transaction: AtomicBool::new(false),
            must_begin: AtomicBool::new(false),
            prepared: Mutex::default(),
            keeps_plans: AtomicI8::new(0),
            limit,
            purpose,
            pooled: (self.route == Route::TransactionPooler)
                .then(|| PooledBegin { reading: begin_pooled(true), writing: begin_pooled(purpose == Purpose::Read) }),
            server: Mutex::new(None),
            lineage: Arc::clone(&self.lineage),
            transactions: Arc::clone(&self.transactions),
        };
        session.judge(&session.simple(&limits.set_up(self.route)).await?)?;
        Ok(session)
    }

    async fn open(
        &self,
        host: &Config,
        warned: Arc<AtomicBool>,
        heard: impl FnMut(&Notification) + Send + 'static,
    ) -> Result<(Client, AbortHandle), Fault> {
        Ok(match &self.tls {
            None => {
                let (client, connection) = host.connect(NoTls).await?;
                (client, tokio::spawn(drive(connection, warned, heard)).abort_handle())
            }
            Some(MakeRustls(tls)) => {
                let (client, connection) = host.connect(tls.clone()).await?;
                (client, tokio::spawn(drive(connection, warned, heard)).abort_handle())
            }
        })
    }
}

fn tls_of(address: &DatabaseUrl) -> Result<Option<MakeRustls>, Fault> {
    Ok(match address.tls() {
        Tls::Off => None,
        Tls::On { authorities } => Some(MakeRustls(MakeRustlsConnect::new(client_config(authorities.as_deref())?))),
    })
}

fn client_config(authorities: Option<&Path>) -> Result<ClientConfig, Fault> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(path) => {
            let unusable = |error: &dyn std::fmt::Display| {
                Fault::Unusable(format!("the certificates in {} cannot be read: {error}", path.display()))
            };
            let mut file = BufReader::new(File::open(path).map_err(|error| unusable(&error))?);
            for certificate in CertificateDer::pem_reader_iter(&mut file) {
                let certificate = certificate.map_err(|error| unusable(&error))?;
                roots.add(certificate).map_err(|error| unusable(&error))?;
            }
            if roots.is_empty() {
                return Err(unusable(&"there is none"));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| Fault::Unusable(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Runs the connection until either side ends it.
async fn drive<S, T>(
    mut connection: Connection<S, T>,
    warned: Arc<AtomicBool>,
    mut heard: impl FnMut(&Notification) + Send,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    loop {
        match poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notification(notification))) => heard(&notification),
            Some(Ok(AsyncMessage::Notice(notice))) => {
                // The server confirms a commit that was not replicated with a warning.
                if notice.severity() == "WARNING" {
                    warned.store(true, Ordering::Release);
                    tracing::warn!(
                        code = notice.code().code(),
                        message = notice.message(),
                        "the database sent a warning"
                    );
                }
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a connection to the database ended");
                return;
            }
            None => return,
        }
    }
}

/// Ends the connection when it is dropped.
#[derive(Debug)]
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection with its limits set.
#[derive(Debug)]
pub(crate) struct Session {
    client: Client,
    driver: Driver,
    /// True if the server has sent a warning since the last reset.
    warned: Arc<AtomicBool>,
    is_in_transaction: AtomicBool,
    /// True if the transaction has begun for its user, and the server does not know yet.
    must_begin: AtomicBool,
    /// The statements that the server has prepared for this session, by their texts before the tables of a
    /// day are named.
    prepared: Mutex<HashMap<String, Vec<PreparedStatement>>>,
    /// 1 if the server keeps the plans of prepared statements, 0 if it plans each time, or [`UNKNOWN`].
    keeps_plans: AtomicI8,
    limit: Duration,
    purpose: Purpose,
    /// The statements that begin a transaction behind a transaction pooler; `None` with a dedicated server
    /// connection.
    pooled: Option<PooledBegin>,
    /// The server of the current transaction, or of the latest one.
    server: Mutex<Option<ServerIdentity>>,
    lineage: Arc<Lineage>,
    transactions: Arc<AtomicU64>,
}

/// When a statement is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planning {
    /// Each time, for its values: they exclude partitions.
    EachTime,
    /// Once in each session, about the partitions of a day or about tables without partitions. The plan must
    /// not depend on the values.
    Once(Option<Day>),
}

impl Planning {
    /// Returns the planning of a statement about rows of one day, if there is such a day.
    pub(crate) fn on(day: Option<Day>) -> Self {
        day.map_or(Self::EachTime, |day| Self::Once(Some(day)))
    }
}

/// The number of days for which a session keeps a statement: reads find uploads of any age, and changes
/// rarely concern old ones.
const MOST_DAYS_READ: usize = 64;
const MOST_DAYS_WRITTEN: usize = 4;

/// Settings for prepared statements. The plan may be made when the tables of a day are still empty, so it
/// must not be the best one for empty tables. All these statements look up rows by an index.
const KEEP_PLANS: &str =
    "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off;
     SET enable_mergejoin = off; SET jit = off";

const PLAN_EACH_TIME: &str =
    "RESET plan_cache_mode; RESET enable_seqscan; RESET enable_hashjoin; RESET enable_mergejoin;
     RESET jit";

/// Neither kind of planning: the next statement sets it.
const UNKNOWN: i8 = -1;

#[derive(Debug)]
struct PreparedStatement {
    day: Option<Day>,
    statement: Statement,
}

fn typed(values: &[Param]) -> Vec<(&(dyn ToSql + Sync), Type)> {
    values.iter().map(|value| (value.as_sql(), value.sql_type())).collect()
}

/// The statements that begin a transaction behind a transaction pooler.
#[derive(Debug)]
struct PooledBegin {
    reading: String,
    writing: String,
}

impl Session {
    /// Checks that the server in a response may be used, and remembers it.
    fn judge(&self, response: &[SimpleQueryMessage]) -> Result<(), Fault> {
        let server = server_of(response, self.purpose)?;
        match self.purpose {
            Purpose::ReadReplica => self.lineage.expect_system(server.system)?,
            Purpose::Read | Purpose::Write | Purpose::Migrate | Purpose::Listen => {
                self.lineage.accept(server.system, server.timeline)?;
            }
        }
        *lock(&self.server) = Some(server);
        Ok(())
    }

    /// Returns the identifier of the server of the latest transaction.
    pub(crate) fn system(&self) -> i64 {
        lock(&self.server).map_or(0, |server| server.system)
    }

    /// Returns the timeline of the server of the latest transaction.
    pub(crate) fn timeline(&self) -> u32 {
        lock(&self.server).map_or(0, |server| server.timeline)
    }

    /// Reports whether the session may be lent again.
    pub(crate) fn is_usable(&self) -> bool {
        !self.client.is_closed() && !self.is_in_transaction.load(Ordering::Acquire)
    }

    /// Runs one statement and returns its rows. Behind a transaction pooler, a statement outside of any
    /// transaction gets one that only reads, which costs no further round trip.
    pub(crate) async fn query(&self, sql: &str, values: &[Param]) -> Result<Vec<Row>, Fault> {
        self.query_as(sql, Planning::EachTime, values).await
    }

    /// Runs one statement, planned in this way, and returns its rows.
    pub(crate) async fn query_as(&self, sql: &str, planning: Planning, values: &[Param]) -> Result<Vec<Row>, Fault> {
        match &self.pooled {
            Some(begin) if !self.is_in_transaction.swap(true, Ordering::AcqRel) => {
                // Requests are sent in the order in which they are polled first.
                let (begun, found, ended) = futures::join!(
                    self.simple(&begin.reading),
                    self.statement(sql, planning, values),
                    self.simple("COMMIT")
                );
                ended?;
                self.is_in_transaction.store(false, Ordering::Release);
                self.judge(&begun?)?;
                found
            }
            Some(_) | None => self.statement(sql, planning, values).await,
        }
    }

    async fn statement(&self, sql: &str, planning: Planning, values: &[Param]) -> Result<Vec<Row>, Fault> {
        match self.prepared(sql, planning) {
            (_, Some(statement)) => {
                let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(Param::as_sql).collect();
                self.planned(true, self.client.query(&statement, &values)).await
            }
            (text, None) => {
                let is_once = planning != Planning::EachTime;
                let found = self.planned(is_once, self.client.query_typed(&text, &typed(values))).await?;
                self.prepare(sql, planning, &text, values).await?;
                Ok(found)
            }
        }
    }

    /// Returns the text of a statement, and the statement itself if it is prepared.
    fn prepared<'s>(&self, sql: &'s str, planning: Planning) -> (Cow<'s, str>, Option<Statement>) {
        match planning {
            Planning::EachTime => (Cow::Borrowed(sql), None),
            Planning::Once(day) => {
                let prepared = lock(&self.prepared);
                match prepared.get(sql).and_then(|all| all.iter().find(|one| one.day == day)) {
                    Some(known) => (Cow::Owned(String::new()), Some(known.statement.clone())),
                    None => (day.map_or(Cow::Borrowed(sql), |day| Cow::Owned(on_day(sql, day))), None),
                }
            }
        }
    }

    /// Prepares a statement after its first use, so that statements are always sent in the order of their
    /// calls. Only the newest days are kept: most statements are about them, and a statement about the tables
    /// of another day is planned quickly. A pooler would not lead to the server connection that has it.
    async fn prepare(&self, sql: &str, planning: Planning, text: &str, values: &[Param]) -> Result<(), Fault> {
        let Planning::Once(day) = planning else { return Ok(()) };
        if self.pooled.is_some() || !self.keeps(sql, day) {
            return Ok(());
        }
        let types: Vec<Type> = values.iter().map(Param::sql_type).collect();
        let statement = self.in_time(self.client.prepare_typed(text, &types)).await?;
        let mut prepared = lock(&self.prepared);
        let all = prepared.entry(sql.to_owned()).or_default();
        if all.len() >= self.most_days_prepared()
            && let Some((oldest, _)) = all.iter().enumerate().min_by_key(|(_, one)| one.day)
        {
            all.swap_remove(oldest);
        }
        all.push(PreparedStatement { day, statement });
        Ok(())
    }

    fn most_days_prepared(&self) -> usize {
        match self.purpose {
            Purpose::Read | Purpose::ReadReplica => MOST_DAYS_READ,
            Purpose::Write | Purpose::Migrate | Purpose::Listen => MOST_DAYS_WRITTEN,
        }
    }

    /// Reports whether a statement about a day is kept: it is newer than the oldest one that would be
    /// removed.
    fn keeps(&self, sql: &str, day: Option<Day>) -> bool {
        let prepared = lock(&self.prepared);
        let all = prepared.get(sql).map_or(&[][..], Vec::as_slice);
        all.len() < self.most_days_prepared() || all.iter().any(|one| one.day < day)
    }

    /// Sends a statement, after `BEGIN` if it is the first of a transaction, and after the settings for its
    /// planning if that differs from the statement before.
    async fn planned<T>(
        &self,
        is_once: bool,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Fault> {
        if self.pooled.is_some() {
            return self.in_time(answer).await;
        }
        let wanted = i8::from(is_once);
        let is_set = self.keeps_plans.swap(wanted, Ordering::AcqRel) == wanted;
        let settings = if is_once { KEEP_PLANS } else { PLAN_EACH_TIME };
        let before = match (self.must_begin.swap(false, Ordering::AcqRel), is_set) {
            (false, true) => return self.in_time(answer).await,
            (true, true) => Cow::Borrowed("BEGIN"),
            (false, false) => Cow::Borrowed(settings),
            (true, false) => Cow::Owned(format!("BEGIN; {settings}")),
        };
        // If one of these fails, so does the statement.
        let (_, answer) = futures::join!(self.simple(&before), self.in_time(answer));
        answer
    }

    /// Runs statements without values, and returns everything that the server sends.
    async fn simple(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>, Fault> {
        self.in_time(self.client.simple_query(sql)).await
    }

    /// Runs one statement and returns the number of rows changed.
    pub(crate) async fn execute(&self, sql: &str, values: &[Param]) -> Result<u64, Fault> {
        self.execute_as(sql, Planning::EachTime, values).await
    }

    /// Runs one statement, planned in this way, and returns the number of rows changed.
    pub(crate) async fn execute_as(&self, sql: &str, planning: Planning, values: &[Param]) -> Result<u64, Fault> {
        match self.prepared(sql, planning) {
            (_, Some(statement)) => {
                let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(Param::as_sql).collect();
                self.planned(true, self.client.execute(&statement, &values)).await
            }
            (text, None) => {
                let is_once = planning != Planning::EachTime;
                let changed = self.planned(is_once, self.client.execute_typed(&text, &typed(values))).await?;
                self.prepare(sql, planning, &text, values).await?;
                Ok(changed)
            }
        }
    }

    /// Runs statements without values.
    pub(crate) async fn batch(&self, sql: &str) -> Result<(), Fault> {
        let begins = self.must_begin.swap(false, Ordering::AcqRel);
        let sql = if begins { Cow::Owned(format!("BEGIN; {sql}")) } else { Cow::Borrowed(sql) };
        self.in_time(self.client.batch_execute(&sql)).await
    }

    pub(crate) async fn begin(&self) -> Result<(), Fault> {
        self.transactions.fetch_add(1, Ordering::Relaxed);
        self.is_in_transaction.store(true, Ordering::Release);
        self.warned.store(false, Ordering::Release);
        match &self.pooled {
            Some(begin) => self.judge(&self.simple(&begin.writing).await?),
            // It is sent with the first statement.
            None => {
                self.must_begin.store(true, Ordering::Release);
                Ok(())
            }
        }
    }

    /// Commits. After any failure from here on the result is unknown. The wait is therefore limited to the
    /// server's own time limit, and the commit is never cancelled.
    pub(crate) async fn commit(&self) -> Result<(), Fault> {
        if self.must_begin.swap(false, Ordering::AcqRel) {
            self.is_in_transaction.store(false, Ordering::Release);
            return Ok(());
        }
        let answer = self.batch("COMMIT").await;
        match answer {
            Ok(()) if self.warned.load(Ordering::Acquire) => Err(Fault::Unconfirmed),
            Ok(()) => {
                self.is_in_transaction.store(false, Ordering::Release);
                Ok(())
            }
            // The server reports that it has not committed. After a more severe error it may find the commit
            // in its log when it starts again.
            Err(Fault::Database(error))
                if error.as_db_error().is_some_and(|told| told.parsed_severity() == Some(Severity::Error)) =>
            {
                self.is_in_transaction.store(false, Ordering::Release);
                Err(Fault::Database(error))
            }
            Err(_) => Err(Fault::Unconfirmed),
        }
    }

    /// Rolls back the open transaction. A session whose server does not respond is not used again.
    pub(crate) async fn roll_back(&self) {
        if self.must_begin.swap(false, Ordering::AcqRel) {
            self.is_in_transaction.store(false, Ordering::Release);
            return;
        }
        // Settings of the transaction are undone.
        self.keeps_plans.store(UNKNOWN, Ordering::Release);
        if self.batch("ROLLBACK").await.is_ok() {
            self.is_in_transaction.store(false, Ordering::Release);
        }
    }

    /// Ends a transaction of work that is repeated at intervals: commits it if it has changed something, and
    /// rolls it back otherwise. Returns true if it was committed. Contention is no fault: the next run tries
    /// again.
    pub(crate) async fn end_upkeep(&self, outcome: Result<bool, Fault>) -> Result<bool, Fault> {
        if let Ok(true) = outcome {
            return self.commit().await.map(|()| true);
        }
        self.roll_back().await;
        match outcome {
            Err(fault) if fault.remedy() == Remedy::Repeat => Ok(false),
            outcome => outcome,
        }
    }

    /// Closes the connection immediately, regardless of any operation in progress.
    pub(crate) fn cut(&self) {
        self.driver.0.abort();
    }

    async fn in_time<T>(&self, answer: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Fault> {
        let limit = self.limit + PATIENCE;
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => Ok(answer?),
            Err(_) => {
                self.cut();
                Err(Fault::Late(limit.as_secs()))
            }
        }
    }
}
