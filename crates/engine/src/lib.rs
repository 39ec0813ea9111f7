//! The upload engine, shared by all dialects: `create · append · inspect · concatenate · cancel`, and
//! reading.
//!
//! It knows nothing of HTTP, SQL or files. Dialects translate their requests into [`command`] values and
//! translate the results back; a rule that more than one dialect needs is decided here.
//!
//! Reading order: [`command`] (requests to the engine and their results), `append` (assigns a request with
//! bytes to a writer), `admission` (rejects requests that break a rule), [`feed`] (passes the bytes of a
//! request to the writer), `writer` (the one task that writes them, one request after the other or several in
//! parallel as `ranges`), `ledger` and `commit` (the bytes that count, and the only place that makes them
//! durable and commits them), [`lease`] and `writer_requests` (one writer per upload), `completion` (from the
//! last byte to `completed`), `verify` (the content of the bytes), `compare` (bytes that are sent again),
//! [`concatenate`](mod@concatenate), `lifecycle` (creation and cancellation), [`report`] (the reports of
//! backends), `sweep` (work that is due after a time or after a crash), `removal` (deletion by an operator or
//! by retention), `missing` and `inventory` (records without blobs and blobs without records), [`disk`] and
//! `space` (free disk space), [`peers`](mod@peers), `fence` and `handover` (several nodes), [`read`] and
//! [`queries`] (status, lists, events, downloads), [`hooks`] (calls to the application), `digest`, `pieces`
//! and `upload_digests` (digests of the bytes).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use domain::id::InstanceId;
use domain::time::Timestamp;
use state::{Bells, Deliveries, DirectReads, LiveProgress, Reads, UploadStore};

mod admission;
mod append;
mod blobs;
mod bookings;
pub mod command;
mod commit;
mod compare;
mod completion;
pub mod concatenate;
mod digest;
pub mod disk;
mod doubts;
pub mod feed;
mod fence;
mod handover;
pub mod hooks;
mod inner;
mod inventory;
mod joined_request;
pub mod lease;
mod ledger;
mod lifecycle;
mod lifetime;
mod lock;
mod metrics;
mod missing;
pub mod peers;
mod pieces;
mod progress;
pub mod queries;
mod ranges;
pub mod read;
mod recount;
mod removal;
pub mod report;
mod settings;
mod space;
mod sweep;
mod upload_digests;
mod verify;
mod writer;
mod writer_requests;

use bookings::Bookings;
use inner::Inner;
use lease::LocalLeases;
use metrics::EngineMetrics;

pub use fence::Fence;
pub use lifetime::LifetimeSettings;
pub use ranges::RangeSettings;
pub use settings::EngineSettings;
pub use space::SpaceSettings;
pub use verify::MediaSettings;
pub use writer::WriterSettings;

/// Draws the random part of an identifier.
pub type Randomness = Arc<dyn Fn() -> [u8; 10] + Send + Sync>;

/// The ports that the engine is built on.
#[derive(Debug, Clone)]
pub struct Ports {
    pub uploads: Arc<dyn UploadStore>,
    pub nodes: Arc<dyn state::Leases>,
    pub duties: Arc<dyn state::Duties>,
    pub deliveries: Arc<dyn Deliveries>,
    pub bells: Arc<dyn Bells>,
    pub progress: Arc<dyn LiveProgress>,
    pub blobs: Arc<dyn storage::BlobStore>,
}

/// The upload engine. Clones share one engine, and cloning is cheap.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

impl Engine {
    /// Builds the engine of a node that has joined the others. The engine uses the clock of the state, and
    /// its tasks run on the runtime that this function is called in.
    pub fn new(mut settings: EngineSettings, node: InstanceId, ports: Ports) -> Self {
        let Ports { uploads, nodes, duties, deliveries, bells, progress, blobs } = ports;
        let abilities = blobs.abilities();
        // A range out of order starts at the beginning of a part.
        let alignment = &mut settings.ranges.alignment_bytes;
        *alignment = alignment.next_multiple_of(abilities.part_bytes);
        Self(Arc::new(Inner {
            pool: pool::Pool::new(settings.writer.buffer_bytes),
            progress_wanted: Arc::default(),
            clock: uploads.clock(),
            randomness: Arc::new(rand::random),
            node,
            reads: Arc::new(DirectReads { uploads: Arc::clone(&uploads), deliveries }),
            uploads,
            nodes,
            duties,
            abilities,
            blobs,
            hooks: None,
            peers: None,
            fence: None,
            handover: watch::Sender::default(),
            only_reads: false,
            undecided: Notify::new(),
            leases: LocalLeases::new(Arc::clone(&progress)),
            in_doubt: doubts::Doubts::default(),
            progress,
            bookings: Bookings::default(),
            bells,
            metrics: EngineMetrics::default(),
            disk: disk::LoggedDiskState::default(),
            examiners: Semaphore::new(settings.media.as_ref().map_or(0, |media| media.max_at_once)),
            reading: Arc::new(Semaphore::new(settings.max_downloads.min(Semaphore::MAX_PERMITS))),
            runtime: tokio::runtime::Handle::current(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            settings,
        }))
    }

    /// Draws identifiers from `randomness` from now on, which makes a run repeatable.
    #[must_use]
    pub fn drawing(mut self, randomness: Randomness) -> Self {
        Arc::get_mut(&mut self.0).expect("an engine is given its randomness before it is shared").randomness =
            randomness;
        self
    }

    /// Publishes progress as events from now on, while `wanted` is true, which means that an endpoint
    /// subscribes to them.
    #[must_use]
    pub fn reporting_progress_while(mut self, wanted: Arc<AtomicBool>) -> Self {
        Arc::get_mut(&mut self.0).expect("an engine is given its subscribers before it is shared").progress_wanted =
            wanted;
        self
    }

    /// Answers queries from `reads` from now on, which may have copies of the state. Without it, they go to
    /// the state itself.
    #[must_use]
    pub fn reading_from(mut self, reads: Arc<dyn Reads>) -> Self {
        Arc::get_mut(&mut self.0).expect("an engine is set up before it is shared").reads = reads;
        self
    }

    /// Returns the node that this engine works for.
    pub fn node(&self) -> InstanceId {
        self.0.node
    }

    /// Writes nothing from now on, for a node that serves only reads. Requests that write must not reach it.
    #[must_use]
    pub fn only_reading(mut self) -> Self {
        Arc::get_mut(&mut self.0).expect("an engine is set up before it is shared").only_reads = true;
        self
    }

    pub fn settings(&self) -> &EngineSettings {
        &self.0.settings
    }

    pub fn metrics(&self) -> &EngineMetrics {
        &self.0.metrics
    }

    /// Returns the time of day, by the clock of the state.
    pub fn now(&self) -> Timestamp {
        self.0.now()
    }

    /// Returns the pool of memory for bytes on their way to the storage.
    pub fn buffers(&self) -> &pool::Pool {
        &self.0.pool
    }

    /// Stops accepting work, lets live uploads commit the bytes they have, and waits at most `patience` for
    /// all tasks to end. Reports whether all of them ended.
    pub async fn shut_down(&self, patience: Duration) -> bool {
        self.0.stop.cancel();
        self.0.tasks.close();
        tokio::time::timeout(patience, self.0.tasks.wait()).await.is_ok()
    }

    /// Runs `work` as a task that continues when the caller is dropped.
    fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinHandle<T> {
        self.0.tasks.spawn_on(work, &self.0.runtime)
    }
}
