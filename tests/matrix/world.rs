//! A run: the lives of one or several engines over stores that outlive them.
//!
//! Each life has its own runtime, with one thread and a clock that stands still while any task can run. When
//! the process has to die, the runtime is dropped with everything in it, and a new engine starts over the
//! durable content. Of several nodes, one can die while the others continue. When the script is over,
//! everything must come to rest; then all processes are killed once more, no more faults happen, and
//! well-behaved clients must be able to bring every upload to its end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::time::Timestamp;
use state::LocalBells;
use state::memory::MemoryDatabase;
use storage::memory::MemoryStore;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::audit::Audit;
use crate::client::Order;
use crate::court::Court;
use crate::dice::{Dice, mix};
use crate::faults::{Faults, HANG, Tally};
use crate::model::{Broken, Promised};
use crate::node::{Node, Site};
use crate::nodes::{Nodes, PATIENCE};
use crate::peers::TestPeers;
use crate::prove;
use crate::report::say;
use crate::script::{NodeNumber, RequestName, Script, Step};
use crate::settings::{keeps_files, medium};
use crate::watchdog::Watchdog;

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
    let (memory, blobs) = (MemoryDatabase::new(webhook::bodies()), medium(&script.tuning));
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
        let (faults, dies_whole) = (self.faults.clone(), self.script.tuning.nodes == 1);
        let ending = runtime.block_on(async {
            let began = Instant::now();
            let ending = tokio::select! {
                biased;
                () = faults.death(), if dies_whole => Ending::Again,
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
        let nodes = Nodes::start(self.site(began)).await;
        let ending = self.play_on(&nodes, began).await;
        nodes.end();
        ending
    }

    async fn play_on(&mut self, nodes: &Nodes, began: Instant) -> Ending {
        if self.phase == Phase::Proof {
            prove::prove(&nodes.clients()).await;
            self.come_to_rest(nodes).await;
            prove::check_all(&nodes.clients()).await;
            return Ending::Over;
        }
        let mut life = Life { nodes: nodes.clone(), current: NodeNumber(0), requests: BTreeMap::new() };
        let is_alone = self.script.tuning.nodes == 1;
        while let Some(step) = self.script.steps.get(self.next) {
            self.next += 1;
            if self.faults.is_loud() {
                say(&format!("at {} ms: {step}", self.now.plus(began.elapsed()).since(BEGINNING).as_millis()));
            }
            life.take(step).await;
            if is_alone && matches!(step, Step::Kill | Step::Stop) {
                return Ending::Again;
            }
            self.court.look();
            if !self.court.bench().model.broken.is_empty() {
                return Ending::Broken;
            }
        }
        life.requests.clear();
        nodes.restore();
        self.come_to_rest(nodes).await;
        self.faults.disarm();
        self.phase = Phase::Proof;
        if self.court.bench().model.broken.is_empty() { Ending::Again } else { Ending::Broken }
    }

    fn site(&self, began: Instant) -> Site {
        Site {
            seed: self.script.seed,
            tuning: self.script.tuning,
            faults: self.faults.clone(),
            memory: self.memory.clone(),
            blobs: self.blobs.clone(),
            court: self.court.clone(),
            dice: Arc::clone(&self.dice),
            woke: self.now,
            began,
            peers: TestPeers::new(),
            bells: Arc::new(LocalBells::default()),
        }
    }

    /// Waits until nothing is in progress, and no memory is held.
    async fn come_to_rest(&self, nodes: &Nodes) {
        let deadline = Instant::now() + PATIENCE + HANG * 3 * self.faults.hung();
        let mut pause = Duration::from_millis(10);
        loop {
            tokio::time::sleep(pause).await;
            let unrest = self.unrest(nodes);
            let Some((promise, how)) = unrest else { break };
            if Instant::now() > deadline {
                self.court.bench().model.breaks(promise, how);
                return;
            }
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        self.court.look();
    }

    fn unrest(&self, nodes: &Nodes) -> Option<(Promised, String)> {
        if let Some(what) = self.court.bench().model.waiting.values().next() {
            return Some((Promised::NothingWaitsForEver, format!("{what} is never answered")));
        }
        nodes.unrest()
    }
}

/// One life, as clients see it.
struct Life {
    nodes: Nodes,
    /// The node that the next requests go to.
    current: NodeNumber,
    requests: BTreeMap<RequestName, mpsc::UnboundedSender<Order>>,
}

impl Life {
    async fn take(&mut self, step: &Step) {
        let node = self.nodes.get(self.current);
        let clients = node.clients.clone();
        let exists = |name| clients.court.bench().model.get(name).is_some();
        match *step {
            Step::Create { upload, plan } if !exists(upload) => {
                let creating = node.spawn(node.clients.clone().create(upload, plan));
                wait_for(&node, creating).await;
            }
            Step::Begin { request, upload, body } => {
                if let Some(prepared) = clients.prepare(request, upload, &body) {
                    let (orders, taken) = mpsc::unbounded_channel();
                    self.requests.insert(request, orders);
                    node.spawn(async move { drop(prepared.run(taken).await) });
                }
            }
            Step::Send { request, bytes } => self.order(request, Order::Send(bytes)),
            Step::End { request } => self.order(request, Order::End),
            Step::Fall { request } => self.order(request, Order::Fall),
            Step::Vanish { request } => self.order(request, Order::Vanish),
            Step::Inspect { upload } => drop(node.spawn(clients.inspect(upload))),
            Step::Cancel { upload } => drop(node.spawn(clients.cancel(upload))),
            Step::Delete { upload } => drop(node.spawn(clients.delete(upload))),
            Step::Concatenate { upload, parts } if !exists(upload) => {
                let parts = parts.into_iter().flatten().filter(|part| exists(*part)).collect();
                let clients = node.clients.clone();
                node.spawn(clients.concatenate(upload, parts));
            }
            Step::Create { .. } | Step::Concatenate { .. } => {}
            Step::Wait { ms } => tokio::time::sleep(Duration::from_millis(ms)).await,
            Step::Kill => self.nodes.kill(self.current),
            Step::Stop => self.nodes.stop(self.current).await,
            Step::Switch { node } => self.current = node,
            Step::Cut { node, wire, line } => self.nodes.cut(node, wire, line),
            Step::Freeze { node } => self.nodes.freeze(node),
            Step::Thaw { node } => self.nodes.thaw(node),
            Step::Forget { node } => self.nodes.forget(node).await,
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

/// Waits for the answer to a client. A node that is frozen may continue only after later steps.
async fn wait_for(node: &Node, client: JoinHandle<()>) {
    if node.process.is_running() {
        client.await.expect("it is not aborted, and a panic is reported as such");
    }
}
