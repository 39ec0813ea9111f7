//! A pool: a limited number of sessions for one purpose, lent in turn.
//!
//! A session is created when it is first needed and kept until it breaks. If all sessions are lent, callers
//! wait in a queue.

use std::ops::Deref;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::Row;

use crate::fault::{Fault, Remedy};
use crate::lock::lock;
use crate::measures::{Distribution, DistributionReading};
use crate::params::Param;
use crate::session::{Connector, Planning, Purpose, READ_LIMIT, Session};
use state::Result;

#[derive(Debug)]
pub(crate) struct Sessions {
    connector: Connector,
    purpose: Purpose,
    slots: Semaphore,
    count: u32,
    /// The time that a caller of [`query`](Self::query) waits in addition to the limit of its statement.
    patience: Duration,
    idle: Mutex<Vec<Session>>,
    /// The times that callers waited for a session.
    waits: Distribution,
}

impl Sessions {
    pub(crate) fn new(connector: Connector, purpose: Purpose, count: u32, patience: Duration) -> Self {
        let count = count.max(1);
        let slots = Semaphore::new(usize::try_from(count).unwrap_or(1));
        let waits = Distribution::of_durations();
        Self { connector, purpose, slots, count, patience, idle: Mutex::default(), waits }
    }

    /// Lends a session, and connects if none is idle.
    pub(crate) async fn get(&self) -> std::result::Result<Lent<'_>, Fault> {
        let began = Instant::now();
        let slot = self.slots.acquire().await.map_err(|_| Fault::Closed)?;
        self.waits.observe_duration(began.elapsed());
        let kept = loop {
            match lock(&self.idle).pop() {
                Some(session) if !session.is_usable() => {}
                kept => break kept,
            }
        };
        let session = match kept {
            Some(session) => session,
            None => self.connector.connect(self.purpose).await?,
        };
        Ok(Lent { session: Some(session), from: self, _slot: slot })
    }

    /// Runs one statement that reads. It is repeated once on another session if the connection broke. A
    /// caller waits a bounded time, whatever the server does.
    pub(crate) async fn query(&self, operation: &'static str, sql: &str, values: &[Param]) -> Result<Vec<Row>> {
        self.query_as(operation, sql, Planning::EachTime, values).await
    }

    /// Runs one statement that reads, as [`query`](Self::query) does, planned in this way.
    pub(crate) async fn query_as(
        &self,
        operation: &'static str,
        sql: &str,
        planning: Planning,
        values: &[Param],
    ) -> Result<Vec<Row>> {
        let querying = async {
            match self.try_query(sql, planning, values).await {
                Err(fault) if fault.remedy() == Remedy::Reconnect => {
                    self.forget_idle();
                    self.try_query(sql, planning, values).await
                }
                // The partition of the day was dropped.
                Err(fault) if fault.is_of_missing_table() => self.try_query(sql, Planning::EachTime, values).await,
                first => first,
            }
        };
        let limit = READ_LIMIT + self.patience;
        let queried = tokio::time::timeout(limit, querying).await;
        queried.unwrap_or(Err(Fault::Overdue(limit.as_secs()))).map_err(|fault| fault.into_error(operation))
    }

    async fn try_query(&self, sql: &str, planning: Planning, values: &[Param]) -> std::result::Result<Vec<Row>, Fault> {
        self.get().await?.query_as(sql, planning, values).await
    }

    /// Returns the times that callers waited for a session, in seconds.
    pub(crate) fn waits(&self) -> DistributionReading {
        self.waits.read()
    }

    /// Closes the idle sessions: when one connection has broken, the others probably have too.
    pub(crate) fn forget_idle(&self) {
        lock(&self.idle).clear();
    }

    /// Stops lending, waits until all sessions have been returned, and closes the connections.
    pub(crate) async fn close(&self) {
        let all = self.slots.acquire_many(self.count).await;
        self.slots.close();
        drop(all);
        lock(&self.idle).clear();
    }
}

/// A lent session, which returns to the pool when it is dropped, if it is still usable.
#[derive(Debug)]
pub(crate) struct Lent<'a> {
    session: Option<Session>,
    from: &'a Sessions,
    _slot: SemaphorePermit<'a>,
}

impl Deref for Lent<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.session.as_ref().expect("it is only taken when this is dropped")
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take().filter(Session::is_usable) {
            lock(&self.from.idle).push(session);
        }
    }
}
