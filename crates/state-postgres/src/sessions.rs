//! A pool: a limited number of sessions for one purpose, lent in turn.
//!
//! A session is created when it is first needed and kept until it breaks. If all sessions are lent, callers
//! wait in a queue.
//!
//! A thread may have separate sessions, whose connections it drives itself: a statement then needs no other
//! thread. Those of all threads count towards the limit, and while it is reached, a thread also gets one that
//! another drives.

use std::collections::HashSet;
use std::ops::Deref;
use std::sync::Mutex;
use std::thread::ThreadId;
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
    idle: Mutex<Vec<IdleSession>>,
    /// The threads that have separate sessions.
    driving: Mutex<HashSet<ThreadId>>,
    /// The times that callers waited for a session.
    waits: Distribution,
}

/// A session that is not lent.
#[derive(Debug)]
struct IdleSession {
    session: Session,
    /// The thread that drives its connection, if it is one with separate sessions.
    driver: Option<ThreadId>,
}

impl Sessions {
    pub(crate) fn new(connector: Connector, purpose: Purpose, count: u32, patience: Duration) -> Self {
        let count = count.max(1);
        let slots = Semaphore::new(usize::try_from(count).unwrap_or(1));
        let waits = Distribution::of_durations();
        let (idle, driving) = (Mutex::default(), Mutex::default());
        Self { connector, purpose, slots, count, patience, idle, driving, waits }
    }

    /// Gives the calling thread separate sessions. It must be the only thread of a runtime.
    pub(crate) fn drive_on_this_thread(&self) {
        lock(&self.driving).insert(std::thread::current().id());
    }

    /// Returns the calling thread, if it has separate sessions.
    fn driving_thread(&self) -> Option<ThreadId> {
        let thread = std::thread::current().id();
        lock(&self.driving).contains(&thread).then_some(thread)
    }

    /// Lends a session, and connects if none is idle.
    pub(crate) async fn get(&self) -> std::result::Result<Lent<'_>, Fault> {
        let began = Instant::now();
        let slot = self.slots.acquire().await.map_err(|_| Fault::Closed)?;
        self.waits.observe_duration(began.elapsed());
        let driver = self.driving_thread();
        let session = match self.take_idle(driver) {
            Some(kept) => kept,
            None => {
                let connecting = match driver {
                    Some(_) => self.connector.driven_here().connect(self.purpose).await,
                    None => self.connector.connect(self.purpose).await,
                };
                IdleSession { session: connecting?, driver }
            }
        };
        Ok(Lent { session: Some(session), from: self, _slot: slot })
    }

    /// Takes an idle session with this driver. Takes another one if none may be opened, as the caller has
    /// taken its slot already.
    fn take_idle(&self, driver: Option<ThreadId>) -> Option<IdleSession> {
        let mut idle = lock(&self.idle);
        idle.retain(|kept| kept.session.is_usable());
        if let Some(own) = idle.iter().rposition(|kept| kept.driver == driver) {
            return Some(idle.remove(own));
        }
        if idle.len() > self.slots.available_permits() { idle.pop() } else { None }
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
    session: Option<IdleSession>,
    from: &'a Sessions,
    _slot: SemaphorePermit<'a>,
}

impl Deref for Lent<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session.as_ref().expect("it is only taken when this is dropped").session
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(lent) = self.session.take().filter(|lent| lent.session.is_usable()) {
            lock(&self.from.idle).push(lent);
        }
    }
}
