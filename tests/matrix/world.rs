//! A run: the lives of an engine over stores that outlive it.
//!
//! Each life has its own runtime, with one thread and a clock that stands still while any task can run. When
//! the process has to die, the runtime is dropped with everything in it, and a new engine starts over the
//! durable content. When the script is over, everything must come to rest; then the process is killed once
//! more, no more faults happen, and well-behaved clients must be able to bring every upload to its end.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::id::InstanceId;
use domain::node::{Node, NodeName};
use domain::policy::ContentPolicy;
use domain::time::Timestamp;
use domain::upload::ProgressPolicy;
use engine::{Engine, EngineSettings, MediaSettings, Ports};
use longshore::config::Config;
use state::clock::{Clock, ClockReading};
use state::memory::MemoryDatabase;
use state::{Deliveries, Leases, LocalBells, LocalProgress, Membership};
use storage::memory::MemoryStore;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::audit::Audit;
use crate::client::{Clients, Order};
use crate::content::MOST_BYTES;
use crate::court::Court;
use crate::dice::{Dice, mix};
use crate::faults::{Faults, HANG, Tally};
use crate::model::{Broken, Promised};
use crate::prove;
use crate::report::say;
use crate::script::{RequestName, Script, Step, Tuning};
use crate::stores::{Blobs, Records};
use crate::watchdog::Watchdog;

pub const SWEEP_EVERY: Duration = Duration::from_secs(10);
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(5);
const STALL_AFTER: Duration = Duration::from_secs(3);
const EXPIRY: Duration = Duration::from_secs(60);
const AGE: Duration = Duration::from_secs(3_600);
const MOST_UPLOAD_BYTES: u64 = MOST_BYTES as u64;

/// The longest time for any operation when nothing hangs.
const PATIENCE: Duration = Duration::from_secs(90);

/// The first instant of every run.
const BEGINNING: Timestamp = Timestamp::from_unix_ms(1_795_300_290_000);

/// The result of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub broken: Vec<Broken>,
    pub happened: Tally,
    pub calls: BTreeMap<crate::faults::Call, u64>,
    /// A hash of all calls in order: two runs of one script have the same.
    pub trace: u64,
}

/// The parts that outlive a life.
struct World<'a> {
    script: &'a Script,
    faults: Faults,
    memory: MemoryDatabase,
    blobs: MemoryStore,
    court: Court,
    /// Generates identifiers; it continues across lives.
    dice: Arc<Mutex<Dice>>,
    now: Timestamp,
    /// The next step.
    next: usize,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Script,
    /// No more faults happen.
    Proof,
}

/// The end of a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Another life begins.
    Again,
    Over,
    /// A promise is broken, so the rest of the run would show nothing.
    Broken,
}

/// Runs a script.
pub fn run(script: &Script, watchdog: &Watchdog) -> Outcome {
    let (memory, blobs) = (MemoryDatabase::new(webhook::bodies()), MemoryStore::new());
    let mut world = World {
        script,
        faults: Faults::new(script.seed, script.tuning.slow, script.faults.clone()),
        court: Court::new(Audit::new(&memory, blobs.clone(), keeps_files(&script.tuning))),
        memory,
        blobs,
        dice: Arc::new(Mutex::new(Dice::new(mix(&[script.seed, 1])))),
        now: BEGINNING,
        next: 0,
        phase: Phase::Script,
    };
    let panics = crate::panics::catch(|| while world.live(watchdog) == Ending::Again {});
    for panic in panics {
        world.court.bench().model.breaks(Promised::NothingPanics, panic);
    }
    let broken = std::mem::take(&mut world.court.bench().model.broken);
    Outcome { broken, happened: world.faults.happened(), calls: world.faults.calls(), trace: world.faults.trace() }
}

impl World<'_> {
    /// Runs one life.
    fn live(&mut self, watchdog: &Watchdog) -> Ending {
        let beats = watchdog.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .on_thread_park(move || beats.beat())
            .build()
            .expect("a runtime needs nothing");
        let faults = self.faults.clone();
        let ending = runtime.block_on(async {
            let began = Instant::now();
            let ending = tokio::select! {
                biased;
                () = faults.death() => Ending::Again,
                () = watchdog.barked() => {
                    let how = "tasks keep the processor busy, and no time passes";
                    self.court.bench().model.breaks(Promised::NothingWaitsForEver, how);
                    Ending::Broken
                }
                ending = self.play(began) => ending,
            };
            self.now = self.now.plus(began.elapsed());
            ending
        });
        drop(runtime);
        self.blobs.crash();
        self.court.bench().model.forget_requests();
        ending
    }

    async fn play(&mut self, began: Instant) -> Ending {
        let engine = self.start(began).await;
        let clients = Clients { engine: engine.clone(), court: self.court.clone(), seed: self.script.seed };
        let free_buffer_bytes = engine.load().free_buffer_bytes;
        engine.recover().await;
        engine.start_sweeping();
        let mut life = Life { clients, requests: BTreeMap::new() };
        if self.phase == Phase::Proof {
            prove::prove(&life.clients).await;
            self.come_to_rest(&engine, free_buffer_bytes).await;
            prove::check_all(&life.clients).await;
            return Ending::Over;
        }
        while let Some(step) = self.script.steps.get(self.next) {
            self.next += 1;
            if self.faults.is_loud() {
                say(&format!("at {} ms: {step}", self.now.plus(began.elapsed()).since(BEGINNING).as_millis()));
            }
            match step {
                Step::Kill => return Ending::Again,
                Step::Stop => {
                    let patience = PATIENCE + HANG * 2 * self.faults.hung();
                    if !engine.shut_down(patience).await {
                        self.court.bench().model.breaks(Promised::NothingWaitsForEver, "the engine does not stop");
                    }
                    return Ending::Again;
                }
                step => life.take(step).await,
            }
            self.court.look();
            if !self.court.bench().model.broken.is_empty() {
                return Ending::Broken;
            }
        }
        life.requests.clear();
        self.come_to_rest(&engine, free_buffer_bytes).await;
        self.faults.disarm();
        self.phase = Phase::Proof;
        if self.court.bench().model.broken.is_empty() { Ending::Again } else { Ending::Broken }
    }

    async fn start(&self, began: Instant) -> Engine {
        let (woke, dice) = (self.now, Arc::clone(&self.dice));
        let clock = Clock::new(move || {
            let running = began.elapsed();
            ClockReading { time_of_day: woke.plus(running), running }
        });
        let randomness = Arc::new(move || {
            let mut dice = dice.lock().unwrap_or_else(PoisonError::into_inner);
            let mut bytes = [0; 10];
            bytes[..8].copy_from_slice(&dice.next().to_le_bytes());
            bytes
        });
        let instance = InstanceId::new(self.now, randomness());
        let node = Node::alone(instance, NodeName::new("matrix").expect("it is a name"), "1.0.0");
        let state = self.memory.open_by(clock);
        state.join(&node, Membership::Alone, None).await.expect("the state in memory does not fail");
        let nodes: Arc<dyn Leases> = Arc::clone(&state) as _;
        let deliveries: Arc<dyn Deliveries> = Arc::clone(&state) as _;
        let uploads = Arc::new(Records { inner: state, faults: self.faults.clone() });
        let blobs = Arc::new(Blobs { inner: self.blobs.clone(), faults: self.faults.clone() });
        let progress = Arc::new(LocalProgress::default());
        let ports = Ports { uploads, nodes, deliveries, bells: Arc::new(LocalBells::default()), progress, blobs };
        let tuning = &self.script.tuning;
        let progress_wanted = Arc::new(AtomicBool::new(tuning.progress));
        Engine::new(settings(tuning), instance, ports).drawing(randomness).reporting_progress_while(progress_wanted)
    }

    /// Waits until nothing is in progress, and no memory is held.
    async fn come_to_rest(&self, engine: &Engine, free_buffer_bytes: usize) {
        let deadline = Instant::now() + PATIENCE + HANG * 3 * self.faults.hung();
        let mut pause = Duration::from_millis(10);
        loop {
            tokio::time::sleep(pause).await;
            let unrest = self.unrest(engine, free_buffer_bytes);
            let Some((promise, how)) = unrest else { break };
            if Instant::now() > deadline {
                self.court.bench().model.breaks(promise, how);
                return;
            }
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        self.court.look();
    }

    fn unrest(&self, engine: &Engine, free_buffer_bytes: usize) -> Option<(Promised, String)> {
        if let Some(what) = self.court.bench().model.waiting.values().next() {
            return Some((Promised::NothingWaitsForEver, format!("{what} is never answered")));
        }
        let load = engine.load();
        let leak = match (load.leases, self.faults.open_writers()) {
            (leases, _) if leases > 0 => format!("{leases} leases are held forever"),
            (_, writers) if writers > 0 => format!("{writers} writers are open forever"),
            _ if load.tasks > 1 => format!("{} tasks run forever", load.tasks - 1),
            _ if load.free_buffer_bytes != free_buffer_bytes => {
                format!("{} bytes of buffers are held forever", free_buffer_bytes - load.free_buffer_bytes)
            }
            _ => return None,
        };
        Some((Promised::NothingLeaks, leak))
    }
}

/// One life, as clients see it.
struct Life {
    clients: Clients,
    requests: BTreeMap<RequestName, mpsc::UnboundedSender<Order>>,
}

impl Life {
    async fn take(&mut self, step: &Step) {
        let clients = self.clients.clone();
        let exists = |name| clients.court.bench().model.get(name).is_some();
        match *step {
            Step::Create { upload, plan } if !exists(upload) => clients.create(upload, plan).await,
            Step::Begin { request, upload, body } => {
                if let Some(prepared) = clients.prepare(request, upload, &body) {
                    let (orders, taken) = mpsc::unbounded_channel();
                    self.requests.insert(request, orders);
                    tokio::spawn(prepared.run(taken));
                }
            }
            Step::Send { request, bytes } => self.order(request, Order::Send(bytes)),
            Step::End { request } => self.order(request, Order::End),
            Step::Fall { request } => self.order(request, Order::Fall),
            Step::Vanish { request } => self.order(request, Order::Vanish),
            Step::Inspect { upload } => drop(tokio::spawn(clients.inspect(upload))),
            Step::Cancel { upload } => drop(tokio::spawn(clients.cancel(upload))),
            Step::Delete { upload } => drop(tokio::spawn(clients.delete(upload))),
            Step::Concatenate { upload, parts } if !exists(upload) => {
                let parts = parts.into_iter().flatten().filter(|part| exists(*part)).collect();
                let clients = self.clients.clone();
                tokio::spawn(clients.concatenate(upload, parts));
            }
            Step::Wait { ms } => tokio::time::sleep(Duration::from_millis(ms)).await,
            Step::Create { .. } | Step::Concatenate { .. } | Step::Kill | Step::Stop => {}
        }
        // Everything that can be done at once is done before the next step.
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
    }

    fn order(&self, request: RequestName, order: Order) {
        if let Some(orders) = self.requests.get(&request) {
            // A finished request takes no orders.
            let _ = orders.send(order);
        }
    }
}

fn keeps_files(tuning: &Tuning) -> Option<Duration> {
    tuning.keeps_files_ms.map(Duration::from_millis)
}

fn settings(tuning: &Tuning) -> EngineSettings {
    let mut settings = Config::default().engine;
    settings.max_upload_bytes = MOST_UPLOAD_BYTES;
    settings.max_active_uploads = 16;
    settings.max_downloads = 16;
    settings.takeover_timeout = TAKEOVER_TIMEOUT;
    settings.cross_dialects = true;
    settings.tells_path = false;
    settings.status_root = "/api/v1/uploads/".to_owned();
    settings.scan_rate = 0;
    // Every received byte counts as progress.
    settings.progress = ProgressPolicy { every: Duration::ZERO, min_bytes: u64::MAX };
    settings.writer.buffer_bytes = 8 << 20;
    settings.writer.checkpoint_every = Duration::from_millis(tuning.checkpoint_every_ms);
    settings.writer.checkpoint_rate = 1_000;
    settings.writer.checkpoint_bytes = tuning.checkpoint_bytes;
    settings.writer.keep_open = Duration::from_millis(tuning.keep_open_ms);
    settings.space.min_free_bytes = 0;
    settings.space.low_free_bytes = 0;
    settings.space.max_booked_percent = 90;
    settings.lifetimes.stall_after = STALL_AFTER;
    settings.lifetimes.unfinished_expiry = EXPIRY;
    settings.lifetimes.unfinished_age = AGE;
    settings.lifetimes.completed_expiry = keeps_files(tuning);
    settings.lifetimes.first_removal_after = Duration::ZERO;
    settings.lifetimes.sweep_every = SWEEP_EVERY;
    settings.ranges.alignment_bytes = 1;
    settings.ranges.max_ranges = tuning.max_ranges;
    settings.ranges.max_parallel = tuning.max_parallel;
    settings.ranges.max_replaced_bytes = tuning.max_replaced_bytes;
    // Files of the matrix are not media: their beginning is read, and no work runs on another thread.
    settings.media = Some(MediaSettings {
        read_limit_bytes: 64 << 10,
        timeout: Duration::from_secs(10),
        max_at_once: 2,
        policy: ContentPolicy::default(),
    });
    settings
}
