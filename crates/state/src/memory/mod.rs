//! The state in memory, for tests of what stands on it.
//!
//! It keeps the [`UploadStore`](crate::UploadStore) port to the letter and passes its conformance suite. It needs
//! no thread and never waits, so a run on a paused clock is the same every time. [`Memory`] is the medium: it outlives
//! the stores opened on it, as a database file outlives a process.
//!
//! Offers of the [`Outbox`](crate::Outbox) only what is true of a store without endpoints: events are logged,
//! nothing is delivered, and an endpoint is an error. So the checks of the suite that need endpoints do not run here,
//! nor do those of how commits share transactions: every commit is a transaction.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::{Bodies, Error, LoggedEvent, Result};
use domain::hook::HookCall;
use domain::id::{HookCallId, UploadId};
use domain::upload::Record;

mod hook_calls;
mod log;
mod outbox;
#[cfg(test)]
mod tests;
mod uploads;

/// What is written, for as long as anyone holds it.
#[derive(Debug, Clone)]
pub struct Memory {
    tables: Arc<Mutex<Tables>>,
    bodies: Bodies,
}

#[derive(Debug, Default)]
struct Tables {
    uploads: BTreeMap<UploadId, Record>,
    /// In the order of their commits.
    events: Vec<LoggedEvent>,
    last_position: i64,
    hook_calls: BTreeMap<HookCallId, HookCall>,
    transactions: u64,
}

impl Memory {
    pub fn new(bodies: Bodies) -> Self {
        Self { tables: Arc::default(), bodies }
    }

    /// Opens the state that is there. Several may be open at once.
    pub fn open(&self) -> Arc<MemoryState> {
        Arc::new(MemoryState { memory: self.clone(), is_closed: AtomicBool::default(), bell: Arc::default() })
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state as one process has it open.
#[derive(Debug)]
pub struct MemoryState {
    memory: Memory,
    is_closed: AtomicBool,
    /// Never rings: nothing is ever due.
    bell: Arc<Notify>,
}

impl MemoryState {
    /// How many transactions have been written, through whichever store.
    pub fn transactions(&self) -> u64 {
        self.memory.tables().transactions
    }

    fn read(&self, operation: &'static str) -> Result<MutexGuard<'_, Tables>> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(Error::Failed { operation, source: "the state is closed".into() });
        }
        Ok(self.memory.tables())
    }

    fn write(&self, operation: &'static str) -> Result<MutexGuard<'_, Tables>> {
        let mut tables = self.read(operation)?;
        tables.transactions += 1;
        Ok(tables)
    }
}
