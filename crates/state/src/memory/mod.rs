//! The state in memory: for tests of the layers above, and for a server without persistence.
//!
//! It implements the ports exactly and passes the conformance suite. It needs no thread and never waits, so a
//! run on a paused clock is deterministic; nothing in it is random. [`MemoryDatabase`] is the medium: it
//! outlives the stores opened on it, as a database file outlives a process. Every change is a separate
//! transaction.
//!
//! [`domain::lane`] defines the rules for deliveries. Lookups that a database makes by an index are scans
//! here, so many deliveries need much memory and time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio::sync::Notify;

use crate::clock::Clock;
use crate::lock::lock;
use crate::{ClusterIdentity, Error, EventBodies, Result};
use domain::endpoint::EndpointId;
use domain::hook::HookCall;
use domain::id::{DeliveryId, HookCallId, InstanceId, ReplayId, UploadId};
use domain::log::EventPosition;
use domain::replay::ReplayJob;
use domain::time::Timestamp;
use domain::upload::Record;

mod backlog;
mod deliveries;
mod duties;
mod endpoints;
mod hook_calls;
mod leases;
mod listing;
mod log;
mod outbox;
mod replays;
mod retention;
mod sending;
#[cfg(test)]
mod tests;
mod uploads;

use backlog::{BacklogJob, JobNumber};
use deliveries::{EndpointQueue, StoredDelivery};
use duties::HeldDuty;
use endpoints::StoredEndpoint;
use leases::RegisteredNode;
use log::LogEntry;

/// The stored data, which exists as long as a handle to it.
#[derive(Debug, Clone)]
pub struct MemoryDatabase(Arc<Mutex<Tables>>);

#[derive(Debug)]
struct Tables {
    /// The reading of the store's clock at the latest access.
    now: Timestamp,
    bodies: EventBodies,
    uploads: BTreeMap<UploadId, Record>,
    nodes: BTreeMap<InstanceId, RegisteredNode>,
    cluster: Option<ClusterIdentity>,
    duties: BTreeMap<&'static str, HeldDuty>,
    /// Events in the order of their commits.
    log: BTreeMap<EventPosition, LogEntry>,
    last_position: i64,
    endpoints: BTreeMap<EndpointId, StoredEndpoint>,
    /// The highest epoch of a configuration of endpoints.
    config_epoch: u64,
    deliveries: BTreeMap<DeliveryId, StoredDelivery>,
    /// All deliveries about an upload, in any state.
    of_upload: BTreeMap<UploadId, BTreeSet<DeliveryId>>,
    /// The unfinished deliveries of each endpoint.
    queues: BTreeMap<EndpointId, EndpointQueue>,
    jobs: BTreeMap<JobNumber, BacklogJob>,
    last_job: JobNumber,
    replays: BTreeMap<ReplayId, ReplayJob>,
    hook_calls: BTreeMap<HookCallId, HookCall>,
    /// A counter that replaces random values: for identifiers and claims.
    drawn: u64,
    /// True if the open transaction made a delivery ready.
    made_ready: bool,
    superseded: u64,
    transactions: u64,
    bells: Vec<Weak<Notify>>,
}

impl MemoryDatabase {
    pub fn new(bodies: EventBodies) -> Self {
        Self(Arc::new(Mutex::new(Tables {
            now: Timestamp::from_unix_ms(0),
            bodies,
            uploads: BTreeMap::new(),
            nodes: BTreeMap::new(),
            cluster: None,
            duties: BTreeMap::new(),
            log: BTreeMap::new(),
            last_position: 0,
            endpoints: BTreeMap::new(),
            config_epoch: 0,
            deliveries: BTreeMap::new(),
            of_upload: BTreeMap::new(),
            queues: BTreeMap::new(),
            jobs: BTreeMap::new(),
            last_job: 0,
            replays: BTreeMap::new(),
            hook_calls: BTreeMap::new(),
            drawn: 0,
            made_ready: false,
            superseded: 0,
            transactions: 0,
            bells: Vec::new(),
        })))
    }

    /// Opens the existing state. Several stores may be open at once.
    #[expect(clippy::disallowed_methods, reason = "the medium is this machine's")]
    pub fn open(&self) -> Arc<MemoryState> {
        self.open_by(Clock::system())
    }

    /// Opens the existing state with another clock than the machine's.
    pub fn open_by(&self, clock: Clock) -> Arc<MemoryState> {
        let bell = Arc::new(Notify::new());
        let mut tables = self.tables();
        tables.bells.retain(|bell| bell.strong_count() > 0);
        tables.bells.push(Arc::downgrade(&bell));
        let superseded_before = tables.superseded;
        drop(tables);
        let memory = self.clone();
        Arc::new(MemoryState { memory, clock, is_closed: AtomicBool::default(), bell, superseded_before })
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        lock(&self.0)
    }
}

impl Tables {
    /// Returns unique numbers, which replace random ones.
    fn draw(&mut self) -> [u8; 16] {
        self.drawn += 1;
        u128::from(self.drawn).to_be_bytes()
    }

    /// Returns the random part of an identifier. Identifiers of one millisecond sort in the order of their
    /// creation.
    fn draw_id_part(&mut self) -> [u8; 10] {
        let mut part = [0; 10];
        part[3..].copy_from_slice(&self.draw()[9..]);
        part
    }
}

/// The state as opened by one process.
#[derive(Debug)]
pub struct MemoryState {
    memory: MemoryDatabase,
    clock: Clock,
    is_closed: AtomicBool,
    bell: Arc<Notify>,
    superseded_before: u64,
}

impl MemoryState {
    /// Returns the number of transactions written through any store.
    pub fn transactions(&self) -> u64 {
        self.memory.tables().transactions
    }

    fn read(&self, operation: &'static str) -> Result<MutexGuard<'_, Tables>> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(Error::Failed { operation, source: "the state is closed".into() });
        }
        let mut tables = self.memory.tables();
        tables.now = self.clock.now();
        Ok(tables)
    }

    /// Makes a change, and rings if it made a delivery ready.
    fn write<T>(&self, operation: &'static str, work: impl FnOnce(&mut Tables) -> T) -> Result<T> {
        let mut tables = self.read(operation)?;
        tables.transactions += 1;
        tables.made_ready = false;
        let done = work(&mut tables);
        if tables.made_ready {
            tables.bells.iter().filter_map(Weak::upgrade).for_each(|bell| bell.notify_one());
        }
        Ok(done)
    }
}
