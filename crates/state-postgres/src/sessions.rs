//! A pool: a limited number of sessions for one purpose, lent in turn.
//!
//! A session is created when it is first needed and kept until it breaks. If all sessions are lent, callers
//! wait in a queue.

use std::ops::Deref;
use std::sync::Mutex;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::Row;

use crate::fault::{Fault, Remedy};
use crate::lock::lock;
use crate::params::Param;
use crate::session::{Connector, Purpose, Session};
use state::Result;

#[derive(Debug)]
pub(crate) struct Sessions {
    connector: Connector,
    purpose: Purpose,
    slots: Semaphore,
    count: u32,
    idle: Mutex<Vec<Session>>,
}

impl Sessions {
    pub(crate) fn new(connector: Connector, purpose: Purpose, count: u32) -> Self {
        let count = count.max(1);
        let slots = Semaphore::new(usize::try_from(count).unwrap_or(1));
        Self { connector, purpose, slots, count, idle: Mutex::default() }
    }

    /// Lends a session, and connects if none is idle.
    pub(crate) async fn get(&self) -> std::result::Result<Lent<'_>, Fault> {
        let slot = self.slots.acquire().await.map_err(|_| Fault::Closed)?;
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

    /// Runs one statement that reads. It is repeated once on another session if the connection broke.
    pub(crate) async fn query(&self, operation: &'static str, sql: &str, values: &[Param]) -> Result<Vec<Row>> {
        match self.try_query(sql, values).await {
            Err(fault) if fault.remedy() == Remedy::Reconnect => {
                self.forget_idle();
                self.try_query(sql, values).await
            }
            first => first,
        }
        .map_err(|fault| fault.into_error(operation))
    }

    async fn try_query(&self, sql: &str, values: &[Param]) -> std::result::Result<Vec<Row>, Fault> {
        self.get().await?.query(sql, values).await
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
