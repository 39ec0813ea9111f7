//! The one upload engine: `create · append · inspect · concatenate · cancel`, and reading.
//!
//! It knows nothing of HTTP, SQL or files. Dialects translate their requests into [`command`] values and the
//! outcomes back; whatever two dialects both need to know is decided here.
//!
//! Reading order: [`command`] (what may be asked and what comes of it), [`append`](mod@append) (bytes in order),
//! [`ranges`] (bytes in any order) and [`feed`] (how bytes get there), [`commit`] (the only place that makes them
//! durable and true), [`lease`] (one writer per upload), [`settle`] (from the last byte to `completed`),
//! [`examine`] (what the bytes are), [`compare`] (bytes that are sent again), [`concatenate`](mod@concatenate), [`report`]
//! (what backends add), [`sweep`] (what time and crashes leave to do), `removal` (files that an operator or retention
//! removes), `missing` and [`inventory`] (records and blobs that lack each other), [`disk`] (how full it is), [`read`]
//! (status, lists, events, downloads), [`hooks`] (asking the application), [`watch`] (who wants to know of changes),
//! [`digest`] and [`pieces`] (what the bytes add up to).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use domain::checksum::Algorithm;
use domain::event::EventKind;
use domain::id::UploadId;
use domain::policy::Policy;
use domain::rejection::Rejection;
use domain::removal::DeletedBy;
use domain::size::Length;
use domain::stage::Ended;
use domain::time::Timestamp;
use domain::upload::{NewUpload, ProgressPolicy, Terms, Upload};
pub use state::clock::Clock;
use state::{Outbox, UploadStore};

pub mod append;
mod bookings;
pub mod command;
pub mod commit;
pub mod compare;
pub mod concatenate;
pub mod digest;
pub mod disk;
pub mod examine;
pub mod feed;
pub mod hooks;
pub mod inventory;
pub mod lease;
pub mod metrics;
mod missing;
mod orders;
pub mod pieces;
mod progress;
pub mod ranges;
pub mod read;
mod removal;
pub mod report;
pub mod settle;
pub mod sweep;
pub mod watch;

use bookings::{Bookings, Space};
use command::{Cancel, Create, EngineError, Inspection, Unavailable};
use hooks::{Behalf, Hooks, IdIsTaken};
use lease::Leases;
use orders::Order;

use metrics::Metrics;
use watch::Watch;

/// Draws the random part of an identifier.
pub type Randomness = Arc<dyn Fn() -> [u8; 10] + Send + Sync>;

/// What the engine may do, and when.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The largest upload, and the most a yet undeclared one may grow to.
    pub max_upload_bytes: u64,
    /// How many uploads may be receiving at once; one more is asked to come back.
    pub max_active_uploads: usize,
    /// How many complete uploads may be read at once: downloads, and comparisons with what is sent again. One more is
    /// asked to come back.
    pub max_downloads: usize,
    /// How long a new request waits for the writer it ends.
    pub takeover_timeout: Duration,
    /// The most memory for bytes on their way to the storage, of all uploads together.
    pub buffer_bytes: u64,
    /// A long append commits at least this often.
    pub checkpoint_every: Duration,
    /// So many appends may commit in a second; where more are live, each does so less often.
    pub checkpoint_rate: u32,
    /// A long append commits at least after so many bytes.
    pub checkpoint_bytes: u64,
    /// How long an upload is kept open for its next request.
    pub keep_open: Duration,
    /// Room the storage must keep for everything else.
    pub min_free_bytes: u64,
    /// Disk space is low when less than this is free beside that.
    pub low_free_bytes: u64,
    /// How much of the free space unfinished uploads may keep from others, in percent.
    pub max_booked_percent: u64,
    /// How many blobs and records are compared in a second after the start. 0: none.
    pub scan_rate: u32,
    /// Digests to compute of every upload, besides CRC-32C.
    pub digests: Vec<Algorithm>,
    /// A receiving upload that is silent for so long is stalled.
    pub stall_after: Duration,
    /// An unfinished upload without activity for so long expires.
    pub unfinished_expiry: Duration,
    /// So long after its creation an unfinished upload expires, whatever its client does.
    pub unfinished_age: Duration,
    /// The file of an upload is removed so long after it completed. `None`: never.
    pub completed_expiry: Option<Duration>,
    /// The first of them is removed no sooner after the start: a clock that was wrong when the machine started is
    /// corrected by then.
    pub first_removal_after: Duration,
    pub sweep_every: Duration,
    /// `None` when nobody will ever listen to progress.
    pub progress: Option<Progress>,
    /// Whether an upload created in one dialect may go on in another.
    pub cross_dialects: bool,
    /// Whether the event of a completed upload says where its file is.
    pub tells_path: bool,
    pub ranges: RangeSettings,
    /// `None` when nobody wants to know what the bytes are.
    pub media: Option<MediaSettings>,
}

/// When progress is told.
#[derive(Debug, Clone)]
pub struct Progress {
    pub policy: ProgressPolicy,
    /// Whether somebody listens at this moment; it changes while the engine runs.
    pub is_wanted: Arc<AtomicBool>,
}

impl Settings {
    fn progress(&self) -> Option<ProgressPolicy> {
        let wanted = self.progress.as_ref().filter(|progress| progress.is_wanted.load(Ordering::Relaxed));
        wanted.map(|progress| progress.policy)
    }
}

/// What is asked of bytes that come in any order.
#[derive(Debug, Clone, Copy)]
pub struct RangeSettings {
    /// Ranges begin and end at multiples of this, beside bytes that are there, or at the end of the upload.
    pub alignment_bytes: u64,
    /// How many separate ranges an upload may consist of.
    pub max_ranges: u32,
    /// How many may be received for one upload at once.
    pub max_parallel: usize,
    /// The most a range with a checksum may replace of what came before without one and differs.
    pub max_replaced_bytes: u64,
}

/// How uploads that have all their bytes are looked into, and which of them are not wanted.
#[derive(Debug, Clone)]
pub struct MediaSettings {
    /// The most that is read of one upload for that.
    pub read_limit_bytes: u64,
    /// How long it may take; what takes longer has no facts but its type.
    pub timeout: Duration,
    /// How many media files may be read at once.
    pub max_at_once: usize,
    pub policy: Policy,
}

/// The engine. Cloning it is cheap and gives the same one.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    settings: Settings,
    clock: Clock,
    randomness: Randomness,
    uploads: Arc<dyn UploadStore>,
    outbox: Arc<dyn Outbox>,
    blobs: Arc<dyn storage::BlobStore>,
    /// `None`: the application is asked nothing.
    hooks: Option<Arc<dyn Hooks>>,
    /// Rings when an upload waits for the application's word and there was none.
    undecided: Notify,
    /// Memory for bytes on their way in.
    pool: storage::pool::Pool,
    leases: Leases<Order>,
    bookings: Bookings,
    watch: Watch,
    metrics: Metrics,
    disk: disk::Logged,
    /// Permission to read the headers of a media file.
    examiners: Semaphore,
    /// Permission to read a complete upload, for a download or to compare it with what is sent again.
    reading: Arc<Semaphore>,
    /// Where append tasks run: apart from the threads that serve the network.
    runtime: tokio::runtime::Handle,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

impl Engine {
    /// Builds the engine. Its tasks run on the runtime this is called in.
    pub fn new(
        settings: Settings,
        clock: Clock,
        uploads: Arc<dyn UploadStore>,
        outbox: Arc<dyn Outbox>,
        blobs: Arc<dyn storage::BlobStore>,
    ) -> Self {
        Self(Arc::new(Inner {
            pool: storage::pool::Pool::new(settings.buffer_bytes),
            clock,
            randomness: Arc::new(rand::random),
            uploads,
            outbox,
            blobs,
            hooks: None,
            undecided: Notify::new(),
            leases: Leases::default(),
            bookings: Bookings::default(),
            watch: Watch::default(),
            metrics: Metrics::default(),
            disk: disk::Logged::default(),
            examiners: Semaphore::new(settings.media.as_ref().map_or(0, |media| media.max_at_once)),
            reading: Arc::new(Semaphore::new(settings.max_downloads.min(Semaphore::MAX_PERMITS))),
            runtime: tokio::runtime::Handle::current(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            settings,
        }))
    }

    /// Draws identifiers from `randomness` from now on, so that a run can be repeated.
    #[must_use]
    pub fn drawing(mut self, randomness: Randomness) -> Self {
        Arc::get_mut(&mut self.0).expect("an engine is given its randomness before it is shared").randomness =
            randomness;
        self
    }

    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The time of day, by the engine's clock.
    pub fn now(&self) -> Timestamp {
        self.0.now()
    }

    /// Memory for bytes on their way to the storage.
    pub fn buffers(&self) -> &storage::pool::Pool {
        &self.0.pool
    }

    /// Creates an upload; one of length zero is completed at once.
    pub async fn create(&self, command: Create) -> Result<Upload, EngineError> {
        let inner = &self.0;
        inner.check_open_for_business()?;
        let length_bytes = command.length.map_or(0, Length::get);
        if length_bytes > inner.settings.max_upload_bytes {
            return Err(Rejection::OverLimit(inner.settings.max_upload_bytes).into());
        }
        inner.check_room(length_bytes).await?;
        // Off the caller's hands: one that goes away must leave it neither untold nor between two stages.
        let engine = self.clone();
        let creating = self.spawn(async move { engine.0.create(command).await });
        creating.await.map_err(EngineError::task_died)?
    }

    /// What is true of an upload now. A live writer is asked to commit what it has, and goes on undisturbed.
    ///
    /// An upload whose every byte is there but which is not settled yet is waited for: nobody may take it for
    /// complete before it is.
    pub async fn inspect(&self, id: UploadId) -> Result<Inspection, EngineError> {
        let inner = &self.0;
        if let Some(live) = inner.leases.live(id) {
            live.checkpoint(inner.settings.takeover_timeout).await;
        }
        let upload = inner.look_again(inner.find_settled(id).await?).await?;
        Ok(Inspection { gone: upload.gone(inner.now()), upload })
    }

    /// Ends an upload and removes its bytes, if the application permits. A running append is cut first, and its client is
    /// notified that the upload is gone.
    pub async fn cancel(&self, command: impl Into<Cancel>) -> Result<(), EngineError> {
        let Cancel { id, caller } = command.into();
        let upload = self.0.find(id).await?;
        let engine = self.clone();
        let cancelling = self.spawn(async move {
            engine.0.permit_ending(&upload, caller.as_deref()).await?;
            engine.0.end(id).await
        });
        cancelling.await.map_err(EngineError::task_died)?
    }

    /// Ends an upload that its creation has failed to fill and that no client goes on with. Nobody is asked.
    pub async fn discard(&self, id: UploadId) -> Result<(), EngineError> {
        let engine = self.clone();
        let discarding = self.spawn(async move { engine.0.end(id).await });
        discarding.await.map_err(EngineError::task_died)?
    }

    /// Stops taking work, lets live uploads commit what they have, and waits for everything begun, at most
    /// `patience` long. Says whether all of it ended.
    pub async fn shut_down(&self, patience: Duration) -> bool {
        self.0.stop.cancel();
        self.0.tasks.close();
        tokio::time::timeout(patience, self.0.tasks.wait()).await.is_ok()
    }

    /// Runs `work` where it outlives its caller.
    fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinHandle<T> {
        self.0.tasks.spawn_on(work, &self.0.runtime)
    }
}

impl Inner {
    async fn create(&self, mut command: Create) -> Result<Upload, EngineError> {
        let caller = command.caller.take();
        let new = self.new_upload(command, self.now());
        let new = self.permit(new, caller.as_deref()).await?;
        let (id, now) = (new.id, self.now());
        let mut upload = Upload::create(new, now);
        if upload.is_full() {
            self.seal(&mut upload, Vec::new(), now).await?;
        }
        let held = self.leases.try_take(id).ok_or_else(|| EngineError::chosen_badly(IdIsTaken))?;
        let upload = self.insert(upload).await?;
        let settled = self.settle(upload, &Behalf::Client(caller)).await.and_then(settle::unless_failed);
        drop(held);
        settled
    }

    async fn end(&self, id: UploadId) -> Result<(), EngineError> {
        let (held, ended) = self.leases.take_to_end(id, self.settings.takeover_timeout).await?;
        let mut upload = self.find(id).await?;
        upload.terminate(DeletedBy::Client, self.now())?;
        let upload = self.commit(upload).await?;
        ended.send_replace(Some(Ended::Terminated));
        tracing::info!(upload = %id, "upload terminated");
        self.remove_bytes(upload).await;
        drop(held);
        Ok(())
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The upload with the time that the clock has passed over since its expiry was set. Whatever is done with it then,
    /// by the time of day alone, comes to the same answer, and its next commit stores the extension.
    fn extended(&self, mut upload: Upload) -> Upload {
        let now = self.now();
        upload.extend_term(|since, at| self.clock.extended(since, at), now);
        upload
    }

    /// When an upload expires if nothing more comes: activity puts it off, but never beyond its age.
    fn expires_at(&self, created_at: Timestamp, now: Timestamp) -> Timestamp {
        now.plus(self.settings.unfinished_expiry).min(self.too_old_at(created_at))
    }

    /// Whether the time of an upload is over although its client sends.
    fn has_outlived(&self, upload: &Upload) -> bool {
        let now = self.now();
        upload.has_outlived_its_terms(now) || self.too_old_at(upload.record().created_at) <= now
    }

    /// When an upload is too old, without the time that the clock has passed over.
    fn too_old_at(&self, created_at: Timestamp) -> Timestamp {
        self.clock.extended(created_at, created_at.plus(self.settings.unfinished_age))
    }

    fn new_upload(&self, command: Create, now: Timestamp) -> NewUpload {
        let mut wanted_digests = self.settings.digests.clone();
        wanted_digests.extend(command.wanted_digests);
        wanted_digests.extend(command.promised_digests.iter().map(|promised| promised.algorithm()));
        wanted_digests.sort_unstable();
        wanted_digests.dedup();
        NewUpload {
            id: UploadId::new(now, (self.randomness)()),
            dialect: command.dialect,
            role: command.role,
            length: command.length,
            metadata: command.metadata,
            metadata_as_sent: command.metadata_as_sent,
            terms: Terms::default(),
            wanted_digests,
            promised_digests: command.promised_digests,
            expires_at: self.expires_at(now, now),
        }
    }

    fn check_open_for_business(&self) -> Result<(), EngineError> {
        if self.stop.is_cancelled() { Err(EngineError::Unavailable(Unavailable::ShuttingDown)) } else { Ok(()) }
    }

    /// Whether `bytes` of something new fit beside the space that must stay free and what others have booked.
    async fn check_room(&self, bytes: u64) -> Result<(), EngineError> {
        match self.space(None).await? {
            Some(space) if !self.bookings.admit(bytes, space) => Err(EngineError::NoSpace),
            _ => Ok(()),
        }
    }

    /// Whether an upload may go on being received: the room to be kept is there, or it takes none that is not its own.
    async fn check_room_to_go_on(&self, upload: &Upload) -> Result<(), EngineError> {
        let free = self.available(None).await?;
        let Some(free) = free.filter(|free| *free < self.settings.min_free_bytes) else { return Ok(()) };
        let own = self.available(Some(upload)).await?.map_or(0, |with_own| with_own.saturating_sub(free));
        let rest = upload.length().map(|length| length.get().saturating_sub(upload.received_bytes()));
        if rest.is_some_and(|rest| own >= rest) { Ok(()) } else { Err(EngineError::NoSpace) }
    }

    /// Whether the next `count` bytes of an upload fit, and the rest of it where its length is known. Blocks that it
    /// occupies already are its own.
    async fn check_room_for(&self, upload: &Upload, count: u64) -> Result<(), EngineError> {
        let rest = upload.length().map_or(count, |length| length.get().saturating_sub(upload.received_bytes()));
        match self.space(Some(upload)).await? {
            Some(space) if !self.bookings.admit_for(upload, rest.max(count), space) => Err(EngineError::NoSpace),
            _ => Ok(()),
        }
    }

    /// The space there is, for anything new or for an upload. `None`: the medium does not know.
    async fn space(&self, to: Option<&Upload>) -> Result<Option<Space>, EngineError> {
        let Some(available) = self.available(to).await? else { return Ok(None) };
        let Settings { min_free_bytes, max_booked_percent, .. } = self.settings;
        let spare_bytes = available.checked_sub(min_free_bytes).ok_or(EngineError::NoSpace)?;
        Ok(Some(Space { spare_bytes, booked_percent: max_booked_percent }))
    }

    /// The room the storage has: for anything new, or for an upload, with what is set aside for it.
    async fn available(&self, to: Option<&Upload>) -> Result<Option<u64>, EngineError> {
        let own = to.map(|upload| (blob_key(upload.id()), upload.received_bytes()));
        let holding =
            own.as_ref().map(|(key, received_bytes)| storage::Holding { key, received_bytes: *received_bytes });
        self.blobs.available(holding).await.map_err(EngineError::storage)
    }

    async fn find(&self, id: UploadId) -> Result<Upload, EngineError> {
        let found = self.uploads.find(id).await?.ok_or(EngineError::Rejected(Rejection::NotFound))?;
        Ok(self.extended(found))
    }

    async fn insert(&self, upload: Upload) -> Result<Upload, EngineError> {
        let (kinds, began) = (kinds_of_news(&upload), Instant::now());
        let booking = match self.space(None).await? {
            Some(space) => Some(self.bookings.book(&upload, space).ok_or(EngineError::NoSpace)?),
            None => None,
        };
        let inserted = self.uploads.insert(upload).await;
        if let (Err(_), Some(booking)) = (&inserted, booking) {
            self.bookings.cancel(booking);
        }
        let committed = match inserted {
            // One of our own is new: the application has chosen it.
            Err(state::Error::Conflict(_)) => return Err(EngineError::chosen_badly(IdIsTaken)),
            inserted => inserted?,
        };
        self.metrics.booked(self.bookings.note(&committed));
        self.metrics.count(&committed, &kinds, began.elapsed());
        tracing::info!(upload = %committed.id(), length_bytes = committed.length().map(|length| length.get()), "upload created");
        self.watch.changed(committed.id());
        Ok(committed)
    }

    async fn commit(&self, upload: Upload) -> Result<Upload, EngineError> {
        Ok(self.try_commit(upload).await?)
    }

    /// The same, for one who can do something about a conflict.
    async fn try_commit(&self, upload: Upload) -> state::Result<Upload> {
        let (kinds, began) = (kinds_of_news(&upload), Instant::now());
        let missing_change = upload.missing_change();
        let committed = self.uploads.commit(upload).await?;
        self.metrics.booked(self.bookings.note(&committed));
        self.metrics.missing(missing_change);
        self.metrics.count(&committed, &kinds, began.elapsed());
        self.watch.changed(committed.id());
        Ok(committed)
    }

    /// The upload, once nothing more is to happen to it by itself. Waits for that as long as a takeover may take, also
    /// when nobody is at it just now: the sweeper may be about to.
    async fn find_settled(&self, id: UploadId) -> Result<Upload, EngineError> {
        let deadline = tokio::time::Instant::now() + self.settings.takeover_timeout;
        let mut bell = self.watch.upload(id);
        loop {
            let upload = self.find(id).await?;
            if !upload.is_settling() {
                return Ok(upload);
            }
            let rang = tokio::time::timeout_at(deadline, bell.rang()).await;
            rang.map_err(|_| EngineError::Unavailable(Unavailable::Settling))?;
        }
    }
}

fn kinds_of_news(upload: &Upload) -> Vec<EventKind> {
    upload.news().iter().map(|event| event.kind).collect()
}

/// Where the bytes of an upload are: its day and its id, so that data splits by date and by key.
fn blob_key(id: UploadId) -> storage::BlobKey {
    storage::BlobKey::new(format!("{}/{id}", id.made_at().day_path())).expect("a day and an id are a key")
}
