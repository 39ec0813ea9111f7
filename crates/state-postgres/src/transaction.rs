//! Transactions of all kinds except commits of uploads, which [`writer`](crate::writer) groups.
//!
//! A [`Work`] describes a change. It runs within a transaction and may run again from the start after the
//! server has rolled it back: after a deadlock, a lock timeout, or a connection that broke before `COMMIT`
//! was sent. If the response to `COMMIT` is lost, only work that permits it is repeated; for other work the
//! caller gets an error that the result is unknown.
//!
//! Each statement sees what was committed before it began (READ COMMITTED). Locks provide the order. They are
//! always taken in this sequence, so that transactions do not deadlock:
//!
//! 1. the endpoints, shared by work that reads them ([`Transaction::subscribers`]) and exclusively by work
//!    that changes them ([`Transaction::change_endpoints`]);
//! 2. the claims for endpoints, in the order of their keys ([`Transaction::lock_claims`]);
//! 3. the lanes of uploads, in the order of their keys ([`Transaction::lock_lanes`]);
//! 4. rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_postgres::Row;

use crate::bucket::SourceId;
use crate::due_places::LaterDays;
use crate::fault::{Fault, Remedy};
use crate::lineage::RecordedTimeline;
use crate::measures::{AmbiguousCommit, Measures};
use crate::params::{Param, params};
use crate::past_days::Touched;
use crate::rows::Columns;
use crate::session::{Planning, Session, WRITE_LIMIT};
use crate::sessions::Sessions;
use crate::subscribers::{KnownSubscribers, Subscriber};
use crate::unfinished::{self, UnfinishedFrom};
use crate::windows::KnownDays;
use domain::endpoint::{EndpointId, Ordering as EndpointOrdering};
use domain::id::UploadId;
use state::{Error, EventBodies, Result};

/// The number of attempts for a transaction that the server rolls back.
pub(crate) const TRIES: u32 = 5;

/// The procedure for work whose result is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterLostAnswer {
    /// The work is repeated: doing it twice has the same effect as doing it once.
    Repeat,
    /// The caller gets an error that the result is unknown.
    Report,
}

/// A change that is written atomically.
pub(crate) trait Work: Send + Sync + 'static {
    /// The operation as a verb phrase, for errors.
    const OPERATION: &'static str;
    const AFTER_LOST_ANSWER: AfterLostAnswer;
    type Output: Send + 'static;

    /// Writes within the open transaction. It may run more than once.
    fn run(&self, tx: &mut Transaction<'_>) -> impl Future<Output = std::result::Result<Self::Output, Fault>> + Send;
}

/// Data shared by all transactions of a store.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The functions for the bodies of events that the work itself causes.
    pub(crate) bodies: EventBodies,
    pub(crate) known: KnownSubscribers,
    pub(crate) days: KnownDays,
    pub(crate) recorded_timeline: RecordedTimeline,
    /// The number added to that of a transaction for its positions in the log.
    pub(crate) position_base: AtomicI64,
    /// The time that a caller waits in addition to the limit of a statement.
    pub(crate) patience: Duration,
    /// Rings when a delivery became ready.
    pub(crate) bell: Arc<Notify>,
    /// Rings when other nodes must be notified.
    pub(crate) wake_others: Arc<Notify>,
    /// When claims, and queries of the next due time, have searched all days.
    pub(crate) later_days: LaterDays,
    /// True while this server runs alone and does not hold the lock of the database.
    pub(crate) is_unlocked: AtomicBool,
    /// True for a store that changes nothing but the registration of its node.
    pub(crate) only_reads: bool,
    pub(crate) measures: Measures,
    /// The number of items of work committed.
    pub(crate) works: AtomicU64,
    /// The number of progress deliveries dropped.
    pub(crate) superseded: AtomicU64,
}

/// The open transaction, with cached data.
#[derive(Debug)]
pub(crate) struct Transaction<'s> {
    session: &'s Session,
    pub(crate) shared: &'s Shared,
    /// The endpoints that may get deliveries of new events, if they have been read. The lock on the endpoints
    /// is held from then on.
    subscribers: Option<Arc<[Subscriber]>>,
    /// True if this transaction changes endpoints. The endpoints that it reads are then uncommitted, and are
    /// not cached for others.
    changes_endpoints: bool,
    /// The bounds of unfinished work, if they have been read.
    unfinished_from: Option<UnfinishedFrom>,
    /// The first identifiers of unfinished work that this transaction adds, which bounds must not exceed.
    added: Added,
    /// The days on which it has added events or deliveries.
    pub(crate) touched: Touched,
    /// True if a delivery became ready; the bell rings once that is committed.
    pub(crate) made_ready: bool,
    /// The number of progress deliveries dropped; counted once it is committed.
    pub(crate) superseded: u64,
    /// The number of events written.
    events: i64,
}

/// The first identifiers of some unfinished work.
#[derive(Debug, Clone, Copy, Default)]
struct Added {
    upload: Option<SourceId>,
    delivery: Option<SourceId>,
}

/// The keys of advisory locks: the upper half names the kind, the lower half the object.
pub(crate) const ENDPOINTS_LOCK: i64 = 0x4c6f_6e67_0000_0000;
const LANES_LOCK: i64 = 0x4c6f_6e68_0000_0000;
const CLAIMS_LOCK: i64 = 0x4c6f_6e6a_0000_0000;

impl<'s> Transaction<'s> {
    /// Begins a transaction on a session.
    pub(crate) async fn begin(session: &'s Session, shared: &'s Shared) -> std::result::Result<Self, Fault> {
        if shared.is_unlocked.load(Ordering::Acquire) {
            return Err(Fault::Unlocked);
        }
        if shared.only_reads {
            session.begin().await?;
        } else {
            shared.recorded_timeline.begin(session).await?;
        }
        Ok(Self {
            session,
            shared,
            subscribers: None,
            changes_endpoints: false,
            unfinished_from: None,
            added: Added::default(),
            touched: Touched::default(),
            made_ready: false,
            superseded: 0,
            events: 0,
        })
    }

    /// Commits, and then rings the bells.
    pub(crate) async fn commit(mut self) -> std::result::Result<(), Fault> {
        self.lower_bounds().await?;
        self.record_past_days().await?;
        self.session.commit().await?;
        self.shared.superseded.fetch_add(self.superseded, Ordering::Relaxed);
        if self.made_ready {
            self.shared.bell.notify_one();
        }
        if self.made_ready || self.events > 0 {
            self.shared.wake_others.notify_one();
        }
        Ok(())
    }

    pub(crate) async fn query(&self, sql: &str, values: &[Param]) -> std::result::Result<Vec<Row>, Fault> {
        self.session.query(sql, values).await
    }

    /// Runs a statement and returns its first row, if there is one.
    pub(crate) async fn query_opt(&self, sql: &str, values: &[Param]) -> std::result::Result<Option<Row>, Fault> {
        Ok(self.session.query(sql, values).await?.into_iter().next())
    }

    /// Runs a statement about rows with these sources and returns the rows: see [`crate::day_tables`].
    pub(crate) async fn query_of<'id>(
        &self,
        sources: impl Iterator<Item = &'id SourceId> + Clone + Send,
        sql: &str,
        values: &[Param],
    ) -> std::result::Result<Vec<Row>, Fault> {
        self.session.query_as(sql, Planning::on(self.shared.days.day_of(sources)), values).await
    }

    /// Runs a statement about rows with these sources and returns the number of rows changed.
    pub(crate) async fn execute_of<'id>(
        &self,
        sources: impl Iterator<Item = &'id SourceId> + Clone + Send,
        sql: &str,
        values: &[Param],
    ) -> std::result::Result<u64, Fault> {
        self.session.execute_as(sql, Planning::on(self.shared.days.day_of(sources)), values).await
    }

    /// Runs a statement, planned in this way, and returns its rows.
    pub(crate) async fn query_as(
        &self,
        sql: &str,
        planning: Planning,
        values: &[Param],
    ) -> std::result::Result<Vec<Row>, Fault> {
        self.session.query_as(sql, planning, values).await
    }

    /// Runs a statement about tables without partitions, or about none, and returns its rows.
    pub(crate) async fn query_once(&self, sql: &str, values: &[Param]) -> std::result::Result<Vec<Row>, Fault> {
        self.session.query_as(sql, Planning::Once(None), values).await
    }

    /// Runs a statement and returns the number of rows changed.
    pub(crate) async fn execute(&self, sql: &str, values: &[Param]) -> std::result::Result<u64, Fault> {
        self.session.execute(sql, values).await
    }

    /// Locks lanes until the transaction ends: waits until no other transaction works on them.
    pub(crate) async fn lock_lanes(
        &self,
        uploads: impl IntoIterator<Item = UploadId> + Send,
    ) -> std::result::Result<(), Fault> {
        self.lock_in_order(uploads.into_iter().map(|upload| LANES_LOCK | lane_key(&upload)).collect()).await
    }

    /// Locks the claims for endpoints until the transaction ends.
    pub(crate) async fn lock_claims<'e>(
        &self,
        endpoints: impl IntoIterator<Item = &'e EndpointId> + Send,
    ) -> std::result::Result<(), Fault> {
        self.lock_in_order(endpoints.into_iter().map(|endpoint| CLAIMS_LOCK | claims_key(endpoint)).collect()).await
    }

    async fn lock_in_order(&self, mut keys: Vec<i64>) -> std::result::Result<(), Fault> {
        keys.sort_unstable();
        keys.dedup();
        if keys.is_empty() {
            return Ok(());
        }
        let sql = "SELECT pg_advisory_xact_lock(key) FROM unnest($1::bigint[]) AS keys (key)";
        self.query_once(sql, params![keys]).await.map(drop)
    }

    /// Returns the endpoints that may get deliveries of new events. No other transaction changes them until
    /// this one ends.
    pub(crate) async fn subscribers(&mut self) -> std::result::Result<Arc<[Subscriber]>, Fault> {
        if let Some(known) = &self.subscribers {
            return Ok(Arc::clone(known));
        }
        if self.changes_endpoints {
            let read = crate::subscribers::read(self.session).await?;
            self.subscribers = Some(Arc::clone(&read));
            return Ok(read);
        }
        let found = self.read_subscribers().await?;
        let subscribers = Arc::clone(&found.0);
        self.note_subscribers(found);
        Ok(subscribers)
    }

    /// Locks the endpoints, and reads those that may get deliveries of new events and the bounds of
    /// unfinished work. Further statements may be sent meanwhile. The caller notes the result.
    pub(crate) async fn read_subscribers(&self) -> std::result::Result<(Arc<[Subscriber]>, UnfinishedFrom), Fault> {
        let lock = params![ENDPOINTS_LOCK];
        // Two statements: the second sees everything that was committed before the lock was granted.
        let (_, current) = futures::try_join!(
            self.query_once("SELECT pg_advisory_xact_lock_shared($1)", lock),
            self.query_once("SELECT version, uploads, deliveries, past FROM endpoints_version, unfinished_from", &[]),
        )?;
        let mut columns = Columns::of(one(&current)?);
        let version: i64 = columns.next()?;
        let unfinished_from = UnfinishedFrom::read(&mut columns)?;
        let found = match self.shared.known.at(version) {
            Some(known) => known,
            None => {
                let read = crate::subscribers::read(self.session).await?;
                self.shared.known.remember(version, &read);
                read
            }
        };
        Ok((found, unfinished_from))
    }

    /// Notes the result of [`read_subscribers`](Self::read_subscribers).
    pub(crate) fn note_subscribers(&mut self, (found, unfinished_from): (Arc<[Subscriber]>, UnfinishedFrom)) {
        self.subscribers = Some(found);
        self.unfinished_from = Some(unfinished_from);
    }

    /// Locks the endpoints exclusively until this transaction ends; after that, other transactions read them
    /// again. Must be the first statement of the work, and is called once.
    pub(crate) async fn change_endpoints(&mut self) -> std::result::Result<(), Fault> {
        let lock = params![ENDPOINTS_LOCK];
        futures::try_join!(
            self.session.query("SELECT pg_advisory_xact_lock($1)", lock),
            self.session.execute("UPDATE endpoints_version SET version = version + 1", &[]),
        )?;
        self.changes_endpoints = true;
        Ok(())
    }

    /// Returns the bounds of unfinished work. Work that is unfinished when the transaction begins never lies
    /// before them.
    pub(crate) async fn unfinished_from(&mut self) -> std::result::Result<UnfinishedFrom, Fault> {
        match self.unfinished_from {
            Some(known) => Ok(known),
            None => Ok(*self.unfinished_from.insert(unfinished::read(self.session).await?)),
        }
    }

    /// Notes that this transaction adds an upload with work, or leaves it with work.
    pub(crate) fn adds_upload(&mut self, upload: SourceId) {
        self.added.upload = Some(self.added.upload.map_or(upload, |first| first.min(upload)));
    }

    /// Notes that this transaction adds an unfinished delivery, or makes one unfinished again.
    pub(crate) fn adds_delivery(&mut self, source: SourceId) {
        self.added.delivery = Some(self.added.delivery.map_or(source, |first| first.min(source)));
    }

    /// Lowers the bounds of unfinished work to what this transaction adds.
    async fn lower_bounds(&mut self) -> std::result::Result<(), Fault> {
        let Added { upload, delivery } = self.added;
        if upload.is_none() && delivery.is_none() {
            return Ok(());
        }
        // Holds the lock that keeps the bounds from being raised.
        self.subscribers().await?;
        let known = self.unfinished_from().await?;
        let lowest = UnfinishedFrom {
            uploads: upload.map_or(known.uploads, |first| first.min(known.uploads)),
            deliveries: delivery.map_or(known.deliveries, |first| first.min(known.deliveries)),
            past: known.past,
        };
        if lowest == known {
            return Ok(());
        }
        self.execute(unfinished::LOWER, params![lowest.uploads, lowest.deliveries]).await.map(drop)
    }

    /// Clears the cached endpoints after this transaction has changed them; the next call reads them again.
    pub(crate) fn forget_subscribers(&mut self) {
        self.subscribers = None;
    }

    /// Returns the ordering of an endpoint. An absent endpoint uses the default, which does not matter.
    pub(crate) async fn ordering_of(&mut self, endpoint: &str) -> std::result::Result<EndpointOrdering, Fault> {
        let subscribers = self.subscribers().await?;
        let found = subscribers.iter().find(|subscriber| subscriber.id.as_str() == endpoint);
        Ok(found.map_or(EndpointOrdering::PerUpload, |subscriber| subscriber.terms.ordering))
    }

    /// Returns the place of the next event within this transaction.
    pub(crate) fn next_event(&mut self) -> i64 {
        self.events += 1;
        self.events
    }

    /// Returns the place of the latest event.
    pub(crate) fn last_event(&self) -> i64 {
        self.events
    }

    pub(crate) fn session(&self) -> &'s Session {
        self.session
    }
}

fn lane_key(upload: &UploadId) -> i64 {
    let bytes = upload.as_bytes();
    // The last 62 bits of an identifier are random.
    i64::from(u32::from_be_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]))
}

/// Hashes the name of an endpoint (FNV-1a). Two endpoints with one key only wait for each other.
fn claims_key(endpoint: &EndpointId) -> i64 {
    let mix = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    i64::from(endpoint.as_str().bytes().fold(0x811c_9dc5, mix))
}

/// Returns the only row of a statement that always has one.
pub(crate) fn one(rows: &[Row]) -> std::result::Result<&Row, Fault> {
    rows.first().ok_or_else(|| Fault::Unreadable("a row that must be there".to_owned()))
}

/// Runs work in a separate transaction. It is completed even if the caller leaves. A caller waits a bounded
/// time, whatever the server does.
pub(crate) async fn write<W: Work>(sessions: &Arc<Sessions>, shared: &Arc<Shared>, work: W) -> Result<W::Output> {
    let (sessions, shared) = (Arc::clone(sessions), Arc::clone(shared));
    let limit = WRITE_LIMIT + shared.patience;
    let running = tokio::spawn(async move { persist(&sessions, &shared, &work).await });
    // After the limit, or a panic, the result is unknown.
    tokio::time::timeout(limit, running)
        .await
        .map_err(|_| Error::Unanswered { operation: W::OPERATION })?
        .map_err(|_| Error::Unanswered { operation: W::OPERATION })?
        .map_err(|fault| fault.into_error(W::OPERATION))
}

async fn persist<W: Work>(sessions: &Sessions, shared: &Shared, work: &W) -> std::result::Result<W::Output, Fault> {
    for _ in 1..TRIES {
        match attempt(sessions, shared, work).await {
            Err(Fault::Unconfirmed) if W::AFTER_LOST_ANSWER == AfterLostAnswer::Report => {
                shared.measures.ambiguous(AmbiguousCommit::Unknown);
                return Err(Fault::Unconfirmed);
            }
            Err(fault) if fault.remedy() != Remedy::None => {
                if matches!(fault, Fault::Unconfirmed) {
                    shared.measures.ambiguous(AmbiguousCommit::Repeated);
                }
                if fault.remedy() == Remedy::Reconnect {
                    sessions.forget_idle();
                }
                tracing::debug!(
                    error = &fault as &dyn std::error::Error,
                    operation = W::OPERATION,
                    "a transaction is repeated"
                );
            }
            settled => return settled,
        }
    }
    attempt(sessions, shared, work).await
}

async fn attempt<W: Work>(sessions: &Sessions, shared: &Shared, work: &W) -> std::result::Result<W::Output, Fault> {
    let session = sessions.get().await?;
    let mut tx = Transaction::begin(&session, shared).await?;
    match work.run(&mut tx).await {
        Ok(output) => {
            tx.commit().await?;
            shared.works.fetch_add(1, Ordering::Relaxed);
            Ok(output)
        }
        Err(fault) => {
            end_failed(&session, shared, &fault).await;
            Err(fault)
        }
    }
}

/// Ends a transaction in which a statement has failed.
pub(crate) async fn end_failed(session: &Session, shared: &Shared, fault: &Fault) {
    if fault.remedy() != Remedy::Reconnect {
        session.roll_back().await;
    }
    // The partitions of a day were dropped since this node has looked for them.
    if fault.is_of_missing_table() {
        shared.days.forget();
    }
}
