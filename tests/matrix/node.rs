//! A node: an engine on the shared stores, with its process, its heartbeat and its lines to other nodes.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use cluster::{Member, MembershipSettings};
use domain::id::{InstanceId, UploadId};
use domain::node::{Node as Registration, NodeName};
use domain::time::Timestamp;
use engine::command::Append;
use engine::peers::{ForwardOutcome, ForwardedBody, NoAnswer, PeerLimits, Peers, YieldAnswer, YieldCondition};
use engine::{Engine, Ports};
use state::clock::{Clock, ClockReading};
use state::memory::{MemoryDatabase, MemoryState};
use state::{Deliveries, Duties, Leases, LocalBells, LocalProgress, Membership, ProgressReading};
use storage::memory::MemoryStore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::Clients;
use crate::court::Court;
use crate::dice::Dice;
use crate::faults::Faults;
use crate::model::Promised;
use crate::peers::TestPeers;
use crate::process::Process;
use crate::records::Records;
use crate::script::Tuning;
use crate::settings::settings;
use crate::stores::Blobs;
use crate::unanswered::Unanswered;

/// The parts that the nodes of one life share.
#[derive(Debug, Clone)]
pub struct Site {
    pub seed: u64,
    pub tuning: Tuning,
    pub faults: Faults,
    pub memory: MemoryDatabase,
    pub blobs: MemoryStore,
    pub court: Court,
    /// Generates identifiers; it continues across lives.
    pub dice: Arc<Mutex<Dice>>,
    /// The time of day at which the life began, and the same on the clock of the runtime.
    pub woke: Timestamp,
    pub began: Instant,
    pub peers: Arc<TestPeers>,
    /// Bells ring on all nodes, as those of a database do.
    pub bells: Arc<LocalBells>,
}

#[derive(Debug)]
pub struct Node {
    pub instance: InstanceId,
    pub clients: Clients,
    pub process: Process,
    calls: Arc<Calls>,
    membership: Option<MembershipTask>,
    /// Ends what it handles for others.
    ended: CancellationToken,
    free_buffer_bytes: usize,
}

#[derive(Debug)]
struct MembershipTask {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Site {
    pub fn is_shared(&self) -> bool {
        self.tuning.nodes > 1
    }

    fn clock(&self) -> Clock {
        let (woke, began) = (self.woke, self.began);
        Clock::new(move || {
            let running = began.elapsed();
            ClockReading { time_of_day: woke.plus(running), running }
        })
    }

    /// Opens the state, without faults.
    pub fn state(&self) -> Arc<MemoryState> {
        self.memory.open_by(self.clock())
    }

    fn records(&self, faults: Faults, unanswered: Unanswered) -> (Arc<MemoryState>, Arc<Records>) {
        let state = self.state();
        let (court, is_remote) = (self.court.clone(), self.is_shared());
        let records = Records { inner: Arc::clone(&state), faults, court, is_remote, unanswered };
        (state, Arc::new(records))
    }
}

impl Node {
    /// Starts a node, and waits until it has dealt with the work that others have left.
    pub async fn start(site: &Site) -> Self {
        let process = Process::start();
        let faults = site.faults.of(process.clone());
        let instance = InstanceId::new(site.clock().now(), draw(&site.dice));
        let registration = Registration::alone(instance, NodeName::new("matrix").expect("it is a name"), "1.0.0");
        let unanswered = Unanswered::default();
        let (state, records) = site.records(faults.clone(), unanswered.clone());
        let nodes: Arc<dyn Leases> = Arc::<Records>::clone(&records);
        let duties: Arc<dyn Duties> = Arc::clone(&state) as _;
        let deliveries: Arc<dyn Deliveries> = state;
        let member = if site.is_shared() {
            Member::join(registration, Arc::clone(&nodes), MembershipSettings::default()).await.map(Some)
        } else {
            nodes.join(&registration, Membership::Alone, None).await.map(|()| None)
        };
        let member = member.expect("the lines of a new process are open, and no fault is planned for them");
        let blobs = Arc::new(Blobs { inner: site.blobs.clone(), faults });
        let bells = Arc::<LocalBells>::clone(&site.bells);
        let progress = Arc::new(LocalProgress::default());
        let ports = Ports { uploads: records, nodes, duties, deliveries, bells, progress, blobs };
        let dice = Arc::clone(&site.dice);
        let mut engine = Engine::new(settings(&site.tuning), instance, ports)
            .drawing(Arc::new(move || draw(&dice)))
            .reporting_progress_while(Arc::new(AtomicBool::new(site.tuning.progress)));
        let peers = Mutex::new(Some(Arc::clone(&site.peers)));
        let calls = Arc::new(Calls { process: process.clone(), peers, unanswered });
        let ended = CancellationToken::new();
        if let Some(member) = &member {
            engine = engine.with_peers(Arc::<Calls>::clone(&calls), PeerLimits::default()).fenced_by(member.fence());
            site.peers.add(instance, engine.clone(), ended.clone());
        }
        let fence = member.as_ref().map(Member::fence);
        let membership = member.map(|member| {
            let stop = CancellationToken::new();
            let stopped = stop.clone();
            let task = tokio::spawn(async move { member.run(stopped).await.leave().await });
            MembershipTask { stop, task }
        });
        let free_buffer_bytes = engine.load().free_buffer_bytes;
        let clients = Clients { engine, court: site.court.clone(), seed: site.seed, fence };
        let node = Self { instance, clients, process, calls, membership, ended, free_buffer_bytes };
        let engine = node.clients.engine.clone();
        let recovering = node.spawn(async move {
            engine.recover().await;
            engine.start_sweeping();
        });
        recovering.await.expect("it is not aborted, and a panic is reported as such");
        node
    }

    /// Does the work of a client of this node, until the process dies.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let process = self.process.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = process.killed() => {}
                () = work => {}
            }
        })
    }

    /// Stops in order, and leaves the other nodes. Reports whether all work ended in time.
    pub async fn stop(&self, patience: Duration) -> bool {
        let has_ended = self.clients.engine.shut_down(patience).await;
        if let Some(MembershipTask { stop, task }) = &self.membership {
            stop.cancel();
            while !task.is_finished() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        self.end();
        has_ended
    }

    /// Ends the process without any goodbye.
    pub fn end(&self) {
        self.process.kill();
        self.ended.cancel();
        // The engines of the others would keep each other.
        self.calls.peers().take();
    }

    /// Returns what this node still holds.
    pub fn unrest(&self) -> Option<(Promised, String)> {
        if self.process.was_killed() {
            return Some((Promised::NothingWaitsForEver, "a node is never started again".to_owned()));
        }
        let load = self.clients.engine.load();
        // The sweeper, and in a cluster also the one that counts unfinished uploads.
        let permanent = 1 + usize::from(self.membership.is_some());
        let leak = match (load.leases, self.process.open_writers()) {
            (leases, _) if leases > 0 => format!("{leases} leases are held forever"),
            (_, writers) if writers > 0 => format!("{writers} writers are open forever"),
            _ if load.tasks > permanent => format!("{} tasks run forever", load.tasks - permanent),
            _ if load.free_buffer_bytes != self.free_buffer_bytes => {
                format!("{} bytes of buffers are held forever", self.free_buffer_bytes - load.free_buffer_bytes)
            }
            _ => return None,
        };
        Some((Promised::NothingLeaks, leak))
    }
}

/// Calls that this node makes to others.
#[derive(Debug)]
struct Calls {
    process: Process,
    /// `None` once the node has ended.
    peers: Mutex<Option<Arc<TestPeers>>>,
    unanswered: Unanswered,
}

impl Calls {
    fn peers(&self) -> MutexGuard<'_, Option<Arc<TestPeers>>> {
        lock(&self.peers)
    }

    /// Returns the other nodes, once this process runs.
    async fn others(&self) -> Result<Arc<TestPeers>, NoAnswer> {
        self.process.runs().await;
        self.peers().clone().ok_or_else(|| NoAnswer::because("this node has ended"))
    }
}

#[async_trait]
impl Peers for Calls {
    async fn yield_upload(
        &self,
        holder: InstanceId,
        upload: UploadId,
        when: YieldCondition,
    ) -> Result<YieldAnswer, NoAnswer> {
        self.unanswered.asks(upload, holder);
        let answer = self.others().await?.yield_upload(holder, upload, when).await;
        self.process.runs().await;
        if answer.is_ok() {
            self.unanswered.answered(upload, holder);
        }
        answer
    }

    async fn checkpoint(&self, holder: InstanceId, upload: UploadId) -> Result<(), NoAnswer> {
        let answer = self.others().await?.checkpoint(holder, upload).await;
        self.process.runs().await;
        answer
    }

    async fn progress(
        &self,
        holder: InstanceId,
        uploads: &[UploadId],
    ) -> Result<Vec<Option<ProgressReading>>, NoAnswer> {
        let answer = self.others().await?.progress(holder, uploads).await;
        self.process.runs().await;
        answer
    }

    async fn forward(
        &self,
        holder: InstanceId,
        command: Append,
        body: ForwardedBody,
    ) -> Result<ForwardOutcome, NoAnswer> {
        let answer = self.others().await?.forward(holder, command, body).await;
        self.process.runs().await;
        answer
    }
}

fn draw(dice: &Mutex<Dice>) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&lock(dice).next().to_le_bytes());
    bytes
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
