//! The engine alone, over a storage and a state that fail on demand, in a world that outlives it.
//!
//! Each engine lives on its own runtime. When that ends, every task of the engine stops where it is, as in a
//! killed process; the content of the disk and of the database is there for the next life.

use domain::query::{UploadPage, UploadQuery};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use domain::dialect::Dialect;
use domain::id::{InstanceId, UploadId};
use domain::metadata::Metadata;
use domain::node::{Node, NodeName};
use domain::principal::Principal;
use domain::principal::TenantScope;
use domain::size::{Length, Offset};
use domain::time::Timestamp;
use domain::upload::{Role, Upload};
use domain::write_rules::{Completion, WriteOrder, WriteRules};
use engine::command::{Append, BodyEnd, Cancel, Create, EngineError};
use engine::feed::Feed;
use engine::hooks::HookPort;
use engine::peers::PeerLimits;
use engine::{Engine, EngineSettings, Fence, Ports};
use futures::StreamExt;
use longshore::app::data_folder::DataFolder;
use longshore::config::Config;
use state::clock::{Clock, ClockReading};
use state::{
    Change, Deliveries, Duties, Leases, LocalBells, LocalProgress, Membership, Store, SweepSelection, SweepShare,
    UploadStore, Uploads,
};
use state_sqlite::{SqliteSettings, SqliteStore};
use storage::BlobStore;
use storage::faults::{Effect, Faults, Faulty};
use storage::local::{FolderAccess, LocalStore, LocalStoreResources, LocalStoreSettings};
use storage::memory::MemoryStore;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::support::app::collect_files;
use crate::support::patience::until;
use crate::support::peers::TestPeers;

/// The parts that outlive a life of the engine: a folder with the database, the bytes, and the time.
pub struct World {
    folder: TempDir,
    medium: Medium,
    passed_ms: Arc<AtomicU64>,
    set_by_ms: Arc<AtomicI64>,
}

/// The size of a part, for stores that consist of parts.
pub const PART_BYTES: u64 = 16 << 10;

/// The storage that holds the bytes.
#[derive(Debug, Clone)]
pub enum Medium {
    /// In memory. At the end of a life it forgets all bytes that were not made durable.
    Memory(MemoryStore),
    /// Files. Bytes that were written but not made durable are still there in the next life.
    Disk,
    /// Files of several nodes, none of which can stop the writes of another.
    SharedFolder,
}

impl Medium {
    pub fn both() -> [Self; 2] {
        [Self::Memory(MemoryStore::new()), Self::Disk]
    }

    /// Returns these two, and a [sealing](Self::sealing) one.
    pub fn all() -> [Self; 3] {
        let [memory, disk] = Self::both();
        [memory, disk, Self::sealing()]
    }

    /// Returns one that accepts bytes only in order, and reads no blob before it is sealed.
    pub fn sealing() -> Self {
        Self::Memory(MemoryStore::like_an_object_store(PART_BYTES))
    }
}

/// Returns the defaults, except for settings that would make a run depend on its machine or make a test wait.
fn settings() -> EngineSettings {
    let mut settings = Config::default().engine;
    settings.max_upload_bytes = 1 << 30;
    settings.max_active_uploads = 100;
    settings.max_downloads = 100;
    settings.takeover_timeout = Duration::from_secs(5);
    settings.cross_dialects = false;
    settings.tells_path = false;
    settings.status_root = "/api/v1/uploads/".to_owned();
    settings.scan_rate = 0;
    settings.writer.buffer_bytes = 64 << 20;
    settings.writer.checkpoint_every = Duration::from_secs(60);
    settings.writer.checkpoint_rate = 1000;
    settings.writer.checkpoint_bytes = 64 * 1024;
    settings.writer.keep_open = Duration::ZERO;
    settings.space.min_free_bytes = 0;
    settings.space.low_free_bytes = 0;
    settings.space.max_booked_percent = 50;
    settings.lifetimes.stall_after = Duration::from_secs(30);
    settings.lifetimes.unfinished_expiry = Duration::from_hours(24);
    settings.lifetimes.unfinished_age = Duration::from_hours(7 * 24);
    settings.lifetimes.completed_expiry = None;
    settings.lifetimes.first_removal_after = Duration::ZERO;
    settings.lifetimes.sweep_every = Duration::from_millis(50);
    settings.ranges.alignment_bytes = 1;
    settings.ranges.max_ranges = 100;
    settings.ranges.max_parallel = 8;
    settings.ranges.max_replaced_bytes = 1 << 20;
    settings.media = None;
    settings
}

/// One life of the engine.
pub struct Life {
    pub engine: Engine,
    pub faults: Faults,
    pub records: Arc<FaultyRecords>,
    progress: Arc<LocalProgress>,
    node: InstanceId,
    runtime: Option<Runtime>,
    medium: Medium,
}

/// The rings that one node receives from others.
#[derive(Default)]
struct Reach {
    bells: LocalBells,
    progress: Arc<LocalProgress>,
    peers: Option<Arc<TestPeers>>,
    fence: Option<Fence>,
}

impl World {
    pub fn on(medium: Medium) -> Self {
        Self { folder: TempDir::new().unwrap(), medium, passed_ms: Arc::default(), set_by_ms: Arc::default() }
    }

    pub fn on_disk() -> Self {
        Self::on(Medium::Disk)
    }

    pub async fn live(&self) -> Life {
        self.live_with(|_| {}).await
    }

    /// Starts an engine. Neither recovery nor the sweeper runs until the test starts it.
    pub async fn live_with(&self, change: impl FnOnce(&mut EngineSettings)) -> Life {
        self.start(change, None, Membership::Alone, Reach::default()).await
    }

    /// Starts a node beside those that are running.
    pub async fn live_beside(&self) -> Life {
        self.live_beside_with(LocalBells::default()).await
    }

    /// Does the same, and no ring of another node reaches its bells.
    pub async fn live_beside_with(&self, bells: LocalBells) -> Life {
        self.start(|_| {}, None, Membership::Others, Reach { bells, ..Reach::default() }).await
    }

    /// Does the same with an inventory that compares this many records and blobs per second.
    pub async fn live_beside_scanning(&self, scan_rate: u32) -> Life {
        self.start(|settings| settings.scan_rate = scan_rate, None, Membership::Others, Reach::default()).await
    }

    /// Does the same, and it reads the progress of the writers of another node.
    pub async fn live_beside_seeing(&self, other: &Life) -> Life {
        let progress = Arc::clone(&other.progress);
        self.start(|_| {}, None, Membership::Others, Reach { progress, ..Reach::default() }).await
    }

    /// Starts a node that reaches the others that were given the same peers.
    pub async fn live_among(&self, peers: &Arc<TestPeers>) -> Life {
        let bells = LocalBells::with_poll_interval(Duration::from_millis(50));
        let reach = Reach { bells, peers: Some(Arc::clone(peers)), ..Reach::default() };
        self.start(|_| {}, None, Membership::Others, reach).await
    }

    /// Starts a node that stops while a fence is closed.
    pub async fn live_behind(&self, fence: Fence) -> Life {
        self.start(|_| {}, None, Membership::Alone, Reach { fence: Some(fence), ..Reach::default() }).await
    }

    /// Does the same with an application that answers hooks.
    pub async fn live_asking(&self, hooks: Arc<dyn HookPort>) -> Life {
        self.start(|_| {}, Some(hooks), Membership::Alone, Reach::default()).await
    }

    async fn start(
        &self,
        change: impl FnOnce(&mut EngineSettings),
        hooks: Option<Arc<dyn HookPort>>,
        membership: Membership,
        reach: Reach,
    ) -> Life {
        let Reach { bells, progress, peers, fence } = reach;
        let reached = peers.clone();
        let published = Arc::clone(&progress);
        let mut settings = settings();
        change(&mut settings);
        let faults = Faults::new();
        let blobs: Arc<dyn BlobStore> = match &self.medium {
            Medium::Memory(store) => Arc::new(Faulty::new(store.clone(), faults.clone())),
            Medium::Disk => Arc::new(Faulty::new(self.disk(FolderAccess::Exclusive).await, faults.clone())),
            Medium::SharedFolder => Arc::new(Faulty::new(self.disk(FolderAccess::Shared).await, faults.clone())),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let database = self.folder.path().join("longshore.db");
        let (begun, passed_ms, set_by_ms) = (Instant::now(), Arc::clone(&self.passed_ms), Arc::clone(&self.set_by_ms));
        let clock = Clock::new(move || {
            let passed = Duration::from_millis(passed_ms.load(Ordering::Relaxed));
            let time_of_day = system_time().plus(passed).unix_ms() + set_by_ms.load(Ordering::Relaxed);
            ClockReading { time_of_day: Timestamp::from_unix_ms(time_of_day), running: begun.elapsed() + passed }
        });
        let instance = InstanceId::new(system_time(), rand::random());
        let node = Node::alone(instance, NodeName::new("world").unwrap(), "1.0.0");
        let starting = runtime.spawn(async move {
            let state = SqliteStore::open_by(clock, &database, SqliteSettings::default(), webhook::bodies());
            let state = state.await.unwrap();
            let deliveries: Arc<dyn Deliveries> = Arc::<SqliteStore>::clone(&state);
            state.join(&node, membership, None).await.unwrap();
            let nodes: Arc<dyn Leases> = Arc::<SqliteStore>::clone(&state);
            let duties: Arc<dyn Duties> = Arc::<SqliteStore>::clone(&state);
            let records = Arc::new(FaultyRecords::new(state));
            let uploads: Arc<dyn UploadStore> = Arc::<FaultyRecords>::clone(&records);
            let engine = Engine::new(
                settings,
                node.instance,
                Ports { uploads, nodes, duties, deliveries, bells: Arc::new(bells), progress: published, blobs },
            );
            let engine = if let Some(hooks) = hooks { engine.with_hooks(hooks) } else { engine };
            let engine = if let Some(fence) = fence { engine.fenced_by(fence) } else { engine };
            let engine = match peers {
                Some(peers) => engine.with_peers(peers, PeerLimits::default()),
                None => engine,
            };
            (engine, records)
        });
        let (engine, records) = starting.await.unwrap();
        if let Some(peers) = reached {
            peers.add(instance, engine.clone(), CancellationToken::new());
        }
        Life { engine, faults, records, progress, node: instance, runtime: Some(runtime), medium: self.medium.clone() }
    }

    /// Lets time pass on the engine's clock.
    pub fn pass(&self, span: Duration) {
        self.passed_ms.fetch_add(u64::try_from(span.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// Sets the clock forward.
    pub fn step_ahead(&self, span: Duration) {
        self.set_by_ms.fetch_add(i64::try_from(span.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// Sets the clock back.
    pub fn step_back(&self, span: Duration) {
        self.set_by_ms.fetch_sub(i64::try_from(span.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// Returns every file with bytes of uploads.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for place in ["incoming", "files"] {
            collect_files(&self.folder.path().join(place), &mut found);
        }
        found
    }

    pub fn is_on_disk(&self) -> bool {
        matches!(self.medium, Medium::Disk | Medium::SharedFolder)
    }

    /// Opens the files. The folder's lock ends with the last handle of the previous life, which may take a
    /// moment.
    async fn disk(&self, access: FolderAccess) -> LocalStore {
        until("the folder is free", async || {
            let folder = DataFolder::take(self.folder.path(), access).ok()?;
            let resources = LocalStoreResources { guard: Some(folder.lock()), ..Default::default() };
            let settings = LocalStoreSettings { access, ..LocalStoreSettings::default() };
            LocalStore::open(folder.path().to_owned(), settings, resources).ok()
        })
        .await
    }
}

impl Life {
    /// Ends everything where it is.
    pub fn die(self) {}

    /// Returns the keys of everything that is stored in memory.
    pub fn stored_keys(&self) -> Vec<storage::BlobKey> {
        match &self.medium {
            Medium::Memory(store) => store.keys(),
            Medium::Disk | Medium::SharedFolder => panic!("there are files"),
        }
    }

    /// Returns the instance of this node.
    pub fn node(&self) -> InstanceId {
        self.node
    }

    /// Makes other nodes treat this node as dead, like a frozen one; it continues without noticing.
    pub async fn counts_as_dead(&self) {
        assert!(self.records.inner.renew(self.node, Duration::ZERO).await.unwrap());
    }

    /// Reports that this node, which writes no more, has left.
    pub async fn leaves(&self) {
        self.records.inner.leave(self.node).await.unwrap();
    }

    /// Returns the part of each blob name that distinguishes the blobs of an upload.
    pub fn stored_names(&self, id: UploadId) -> Vec<String> {
        let id = id.to_string();
        let keys = self.stored_keys();
        keys.iter().filter_map(|key| Some(key.as_str().split_once(&id)?.1.to_owned())).collect()
    }

    pub async fn create(&self, length: usize) -> UploadId {
        self.engine.create(new_upload(Role::Single, length)).await.unwrap().id()
    }

    /// Begins an append at an offset.
    pub async fn begin(&self, id: UploadId, at: usize) -> Result<Feed, EngineError> {
        let command = Append::at(Principal::server(), id, offset(at), None);
        self.engine.append(command).await
    }

    /// Appends all of `bytes`, in chunks of 16 KiB.
    pub async fn append(&self, id: UploadId, at: usize, bytes: &[u8]) -> Result<Upload, EngineError> {
        let mut feed = self.begin(id, at).await?;
        feed_all(&mut feed, bytes).await;
        feed.finish(BodyEnd::Complete).await
    }

    /// Returns the committed offset.
    pub async fn committed(&self, id: UploadId) -> usize {
        usize::try_from(self.find(id).await.offset().get()).unwrap()
    }

    pub async fn find(&self, id: UploadId) -> Upload {
        self.engine.status(&Principal::server(), id).await.unwrap().upload
    }

    /// Waits until the upload is in a stage.
    pub async fn wait_for_stage(&self, id: UploadId, stage: &str) -> Upload {
        until(&format!("{id} is {stage}"), async || {
            Some(self.find(id).await).filter(|upload| upload.stage().name() == stage)
        })
        .await
    }

    /// Returns the bytes of a completed upload.
    pub async fn read(&self, id: UploadId) -> Vec<u8> {
        let download = self.engine.download(&Principal::server(), id).await.unwrap().expect("it is completed");
        let mut stream = Box::pin(download.read(0..download.upload.offset().get()).await.unwrap());
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk.unwrap());
        }
        bytes
    }

    /// Returns the names of the upload's events without their prefix, after checking that none is missing or
    /// duplicated.
    pub async fn events(&self, id: UploadId) -> Vec<&'static str> {
        let events = self.engine.events_of(&Principal::server(), id, 0, 1000).await.unwrap();
        let sequences: Vec<u64> = events.iter().map(|event| event.sequence).collect();
        assert!(sequences.iter().copied().eq(1..=events.len() as u64), "a gap or a double: {sequences:?}");
        events.iter().map(|event| event.kind.name().trim_start_matches("upload.")).collect()
    }

    /// Waits until no writer of this upload runs.
    pub async fn at_rest(&self, id: UploadId) {
        until(&format!("{id} is at rest"), async || (!self.engine.is_live(id).await).then_some(())).await;
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        // A commit that was handed over may still be done, as in a real crash, but not during the next life.
        let records = Arc::clone(&self.records);
        let closing = tokio::runtime::Builder::new_current_thread().build().unwrap();
        std::thread::spawn(move || closing.block_on(records.close())).join().unwrap();
        if let Medium::Memory(store) = &self.medium {
            store.crash();
        }
    }
}

/// Returns the request to cancel an upload.
pub fn cancelling(id: UploadId) -> Cancel {
    Cancel { principal: Principal::server(), id, caller: None }
}

/// Returns the write rules of a dialect.
pub fn write_rules(dialect: Dialect) -> WriteRules {
    match dialect.name() {
        "ietf" | "google" => WriteRules { order: WriteOrder::InOrder, completion: Completion::WhenSaid },
        "ranged" => WriteRules { order: WriteOrder::Any, completion: Completion::WhenFull },
        _ => WriteRules { order: WriteOrder::InOrder, completion: Completion::WhenFull },
    }
}

/// Returns a new upload of another dialect.
pub fn new_upload_of(dialect: Dialect, role: Role, length: usize) -> Create {
    Create { dialect, write_rules: write_rules(dialect), ..new_upload(role, length) }
}

pub fn new_upload(role: Role, length: usize) -> Create {
    Create {
        principal: Principal::server(),
        dialect: Dialect::named("tus"),
        write_rules: write_rules(Dialect::named("tus")),
        role,
        length: Length::new(length as u64),
        metadata: Metadata::default(),
        metadata_as_sent: None,
        wanted_digests: Vec::new(),
        promised_digests: Vec::new(),
        caller: None,
    }
}

pub fn offset(bytes: usize) -> Offset {
    Offset::new(bytes as u64).unwrap()
}

/// Pushes all of `bytes`, unless the append ends earlier.
pub async fn feed_all(feed: &mut Feed, bytes: &[u8]) {
    for chunk in bytes.chunks(16 * 1024) {
        if feed.push(chunk).await.is_err() {
            return;
        }
    }
    feed.flush();
}

/// Returns the time of day of this machine.
#[expect(clippy::disallowed_methods, reason = "tests may ask the machine")]
pub fn system_time() -> Timestamp {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timestamp::from_unix_ms(i64::try_from(since_1970.as_millis()).unwrap())
}

/// A state that can lose a commit, lose its result, or delay it.
#[derive(Debug)]
pub struct FaultyRecords {
    inner: Arc<SqliteStore>,
    plan: watch::Sender<Plan>,
    polls: AtomicU64,
}

#[derive(Debug, Default)]
struct Plan {
    fault: Option<(Effect, Trouble)>,
    held: Option<Effect>,
    waiting: usize,
}

/// The result that a caller receives instead of the true one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    Conflict,
    NoSpace,
    Broken,
    /// An error that leaves open whether the commit was done.
    Unanswered,
}

impl FaultyRecords {
    fn new(inner: Arc<SqliteStore>) -> Self {
        Self { inner, plan: watch::Sender::new(Plan::default()), polls: AtomicU64::default() }
    }

    /// Makes the next commit or insertion fail, before or after it is done.
    pub fn fail_next(&self, effect: Effect, trouble: Trouble) {
        self.plan.send_modify(|plan| plan.fault = Some((effect, trouble)));
    }

    /// Delays all commits and insertions from now on, before or after they are done.
    pub fn hold(&self, when: Effect) {
        self.plan.send_modify(|plan| *plan = Plan { held: Some(when), ..Plan::default() });
    }

    pub fn release(&self) {
        self.plan.send_modify(|plan| plan.held = None);
    }

    /// Waits until a commit is delayed.
    pub async fn reached(&self) {
        let _ = self.plan.subscribe().wait_for(|plan| plan.waiting > 0).await;
    }

    /// Returns how often a held commit has been polled.
    pub fn polls(&self) -> u64 {
        self.polls.load(Ordering::Relaxed)
    }

    async fn around(&self, id: UploadId, work: impl Future<Output = state::Result<Upload>>) -> state::Result<Upload> {
        let mut fault = None;
        self.plan.send_if_modified(|plan| {
            fault = plan.fault.take();
            false
        });
        self.stand(Effect::Nothing).await;
        if let Some((Effect::Nothing, trouble)) = fault {
            return Err(trouble.error(id));
        }
        let done = work.await?;
        self.stand(Effect::Done).await;
        match fault {
            Some((_, trouble)) => Err(trouble.error(id)),
            None => Ok(done),
        }
    }

    async fn stand(&self, here: Effect) {
        let mut held = false;
        self.plan.send_modify(|plan| {
            held = plan.held == Some(here);
            plan.waiting += usize::from(held);
        });
        if held {
            let mut plan = self.plan.subscribe();
            let mut released = Box::pin(plan.wait_for(|plan| plan.held != Some(here)));
            std::future::poll_fn(|cx| {
                self.polls.fetch_add(1, Ordering::Relaxed);
                released.as_mut().poll(cx).map(drop)
            })
            .await;
        }
    }
}

impl Trouble {
    fn error(self, id: UploadId) -> state::Error {
        match self {
            Self::Conflict => state::Error::Conflict(id),
            Self::NoSpace => state::Error::NoSpace { operation: "commit an upload" },
            Self::Unanswered => state::Error::Unanswered { operation: "commit an upload" },
            Self::Broken => state::Error::Failed { operation: "commit an upload", source: "it broke".into() },
        }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Uploads for FaultyRecords {
    async fn insert(&self, new: Change) -> state::Result<Upload> {
        self.around(new.upload().id(), self.inner.insert(new)).await
    }

    async fn commit(&self, change: Change) -> state::Result<Upload> {
        self.around(change.upload().id(), self.inner.commit(change)).await
    }

    async fn find(&self, scope: TenantScope, id: UploadId) -> state::Result<Option<Upload>> {
        self.inner.find(scope, id).await
    }

    async fn list(&self, scope: TenantScope, query: &UploadQuery) -> state::Result<UploadPage> {
        self.inner.list(scope, query).await
    }

    async fn due(
        &self,
        selection: SweepSelection,
        share: SweepShare,
        skip: u32,
        limit: u32,
    ) -> state::Result<Vec<Upload>> {
        self.inner.due(selection, share, skip, limit).await
    }

    async fn count_missing(&self) -> state::Result<u64> {
        self.inner.count_missing().await
    }
}

state::delegate_store!(FaultyRecords, inner);
