//! Sessions: connections, their security and time limits, and the conditions under which they are discarded.
//!
//! A session is lent to one user at a time. A session that was dropped inside a transaction, or whose
//! response came too late, is closed and never used again: the server rolls the open transaction back.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::poll_fn;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;
use tokio_postgres::error::Severity;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Notification, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::fault::Fault;
use crate::lineage::Lineage;
use crate::params::Param;
use crate::settings::{DatabaseUrl, Tls};
use state::Durability;

/// The server's time limits for a statement that reads, and for one that writes.
const READ_LIMIT: Duration = Duration::from_secs(5);
const WRITE_LIMIT: Duration = Duration::from_secs(15);
const MIGRATION_LIMIT: Duration = Duration::from_hours(6);

/// The additional time that this program waits for a response: the server may have disappeared.
const PATIENCE: Duration = Duration::from_secs(1);

/// The time within which a connection must be open. The limit of one host covers the network only, and a
/// frozen server accepts connections without ever answering.
const OPENING_LIMIT: Duration = Duration::from_secs(10);

/// The oldest supported version, in the format of `server_version_num`.
const OLDEST: i64 = 150_000;

/// The purpose of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Read,
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
    durability: Durability,
    lineage: Arc<Lineage>,
    /// The number of transactions begun by the sessions of this connector.
    transactions: Arc<AtomicU64>,
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
        let tls = match address.tls() {
            Tls::Off => None,
            Tls::On { authorities } => Some(MakeRustls(MakeRustlsConnect::new(client_config(authorities.as_deref())?))),
        };
        Ok(Self { address, tls, durability, lineage: Arc::default(), transactions: Arc::default() })
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

    /// Connects, sets the limits of the session, and passes every notification to `heard`.
    pub(crate) async fn connect_with(
        &self,
        purpose: Purpose,
        heard: impl FnMut(&Notification) + Send + 'static,
    ) -> Result<Session, Fault> {
        let warned = Arc::new(AtomicBool::new(false));
        let opening = self.open(Arc::clone(&warned), heard);
        let opened = tokio::time::timeout(OPENING_LIMIT, opening).await;
        let (client, driver) = opened.map_err(|_| Fault::Late(OPENING_LIMIT.as_secs()))??;
        let limit = match purpose {
            Purpose::Read | Purpose::Listen => READ_LIMIT,
            Purpose::Write => WRITE_LIMIT,
            Purpose::Migrate => MIGRATION_LIMIT,
        };
        let session = Session {
            client,
            driver: Driver(driver),
            warned,
            is_in_transaction: AtomicBool::new(false),
            limit,
            transactions: Arc::clone(&self.transactions),
        };
        let (system, timeline) = session.set_up(purpose, self.durability).await?;
        self.lineage.accept(system, timeline)?;
        Ok(session)
    }

    async fn open(
        &self,
        warned: Arc<AtomicBool>,
        heard: impl FnMut(&Notification) + Send + 'static,
    ) -> Result<(Client, AbortHandle), Fault> {
        let config = self.address.config();
        Ok(match &self.tls {
            None => {
                let (client, connection) = config.connect(NoTls).await?;
                (client, tokio::spawn(drive(connection, warned, heard)).abort_handle())
            }
            Some(MakeRustls(tls)) => {
                let (client, connection) = config.connect(tls.clone()).await?;
                (client, tokio::spawn(drive(connection, warned, heard)).abort_handle())
            }
        })
    }
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
    limit: Duration,
    transactions: Arc<AtomicU64>,
}

impl Session {
    /// Sets the limits, and returns the identifier of the server and its timeline.
    async fn set_up(&self, purpose: Purpose, durability: Durability) -> Result<(i64, u32), Fault> {
        let committing = match durability {
            // The operator's setting for replicas applies, but never less than a sync to the local disk.
            Durability::Strict => {
                "CASE WHEN current_setting('synchronous_commit') IN ('off', 'local') THEN 'on'
                 ELSE current_setting('synchronous_commit') END"
            }
            Durability::Relaxed => "'off'",
        };
        let reading = if purpose == Purpose::Read { "on" } else { "off" };
        let limit_ms = self.limit.as_millis();
        let sql = format!(
            "SELECT current_setting('server_version_num')::bigint, pg_is_in_recovery(),
                 current_setting('server_encoding'), (SELECT system_identifier FROM pg_control_system()),
                 CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END,
                 set_config('statement_timeout', '{limit_ms}', false), set_config('lock_timeout', '2000', false),
                 set_config('idle_in_transaction_session_timeout', '10000', false),
                 set_config('tcp_keepalives_idle', '5', false), set_config('tcp_keepalives_interval', '1', false),
                 set_config('tcp_keepalives_count', '3', false),
                 set_config('client_min_messages', 'warning', false),
                 set_config('default_transaction_isolation', 'read committed', false),
                 set_config('default_transaction_read_only', '{reading}', false),
                 set_config('synchronous_commit', {committing}, false),
                 CASE WHEN current_setting('server_version_num')::int >= 170000 AND {limit_ms} <= 20000
                     THEN set_config('transaction_timeout', '20000', false) END"
        );
        let row = self.query(&sql, &[]).await?;
        let row = row.first().ok_or_else(|| Fault::Unreadable("server_version_num".to_owned()))?;
        let (version, is_replica): (i64, bool) = (row.try_get(0)?, row.try_get(1)?);
        let encoding: String = row.try_get(2)?;
        let (system, timeline): (i64, Option<String>) = (row.try_get(3)?, row.try_get(4)?);
        if version < OLDEST {
            return Err(Fault::Unusable(format!(
                "the database server is PostgreSQL {}; version 15 or later is required",
                version / 10_000
            )));
        }
        if is_replica {
            return Err(Fault::Unusable(
                "the database server is a read-only replica; configure the address of the primary".to_owned(),
            ));
        }
        if encoding != "UTF8" {
            return Err(Fault::Unusable(format!(
                "the database has the encoding {encoding}; it must be created with ENCODING 'UTF8'"
            )));
        }
        let timeline = timeline.and_then(|timeline| u32::from_str_radix(&timeline, 16).ok());
        timeline.map(|timeline| (system, timeline)).ok_or_else(|| Fault::Unreadable("pg_walfile_name".to_owned()))
    }

    /// Reports whether the session may be lent again.
    pub(crate) fn is_usable(&self) -> bool {
        !self.client.is_closed() && !self.is_in_transaction.load(Ordering::Acquire)
    }

    /// Runs one statement and returns its rows.
    pub(crate) async fn query(&self, sql: &str, values: &[Param]) -> Result<Vec<Row>, Fault> {
        let values: Vec<(&(dyn ToSql + Sync), Type)> =
            values.iter().map(|value| (value.as_sql(), value.sql_type())).collect();
        self.in_time(self.client.query_typed(sql, &values)).await
    }

    /// Runs one statement and returns the number of rows changed.
    pub(crate) async fn execute(&self, sql: &str, values: &[Param]) -> Result<u64, Fault> {
        let values: Vec<(&(dyn ToSql + Sync), Type)> =
            values.iter().map(|value| (value.as_sql(), value.sql_type())).collect();
        self.in_time(self.client.execute_typed(sql, &values)).await
    }

    /// Runs statements without values.
    pub(crate) async fn batch(&self, sql: &str) -> Result<(), Fault> {
        self.in_time(self.client.batch_execute(sql)).await
    }

    pub(crate) async fn begin(&self) -> Result<(), Fault> {
        self.transactions.fetch_add(1, Ordering::Relaxed);
        self.is_in_transaction.store(true, Ordering::Release);
        self.warned.store(false, Ordering::Release);
        self.batch("BEGIN").await
    }

    /// Commits. After any failure from here on the result is unknown. The wait is therefore limited to the
    /// server's own time limit, and the commit is never cancelled.
    pub(crate) async fn commit(&self) -> Result<(), Fault> {
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
        if self.batch("ROLLBACK").await.is_ok() {
            self.is_in_transaction.store(false, Ordering::Release);
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
