//! The link through real sockets, between engines that share one state and one storage in memory.

mod calls;
mod forwarding;
mod handover;
mod strangers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::LivingNodes;
use domain::dialect::Dialect;
use domain::id::{InstanceId, UploadId};
use domain::metadata::Metadata;
use domain::node::{Node, NodeName};
use domain::principal::Principal;
use domain::size::{Length, Offset};
use domain::time::Timestamp;
use domain::upload::{ProgressPolicy, Role};
use domain::write_rules::{Completion, WriteOrder, WriteRules};
use engine::command::{Append, Create, EngineError};
use engine::feed::Feed;
use engine::peers::PeerLimits;
use engine::{Engine, EngineSettings, LifetimeSettings, Ports, RangeSettings, SpaceSettings, WriterSettings};
use keyring::ServerKeys;
use state::clock::{Clock, ClockReading};
use state::conformance::bodies;
use state::memory::{MemoryDatabase, MemoryState};
use state::{Deliveries, Duties, Leases, LocalBells, LocalProgress, Membership, UploadStore};
use storage::memory::MemoryStore;

const MIB: usize = 1 << 20;

/// Longer than anything a test waits for on purpose, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn keys(byte: u8) -> ServerKeys {
    ServerKeys::generate([byte; 32], [byte; 4])
}

fn identity() -> PeerIdentity {
    PeerIdentity::derive(&keys(1), "test").unwrap()
}

/// The parts that the nodes of a test share.
struct Cluster {
    state: Arc<MemoryState>,
    blobs: MemoryStore,
    living: watch::Sender<Arc<[Node]>>,
}

struct TestNode {
    engine: Engine,
    link: Arc<PeerLink>,
    address: SocketAddr,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Cluster {
    fn new() -> Self {
        let began = Instant::now();
        let clock = Clock::new(move || {
            let running = began.elapsed();
            ClockReading { time_of_day: Timestamp::from_unix_ms(1_000).plus(running), running }
        });
        let state = MemoryDatabase::new(bodies()).open_by(clock);
        Self { state, blobs: MemoryStore::new(), living: watch::Sender::new(Vec::new().into()) }
    }

    fn living(&self) -> LivingNodes {
        LivingNodes::following(self.living.subscribe())
    }

    /// Registers a node at an address. Nobody need listen there.
    async fn register(&self, number: u8, address: SocketAddr) -> InstanceId {
        let instance = InstanceId::new(Timestamp::from_unix_ms(1), [number; 10]);
        let peer_url = Some(format!("https://{address}/"));
        let node = Node { peer_url, ..Node::alone(instance, NodeName::new("test").unwrap(), "1.0.0") };
        self.state.join(&node, Membership::Others, None).await.unwrap();
        self.living.send_replace(self.state.nodes().await.unwrap().into());
        instance
    }

    async fn start(&self, number: u8) -> TestNode {
        self.start_as(number, identity(), LinkSettings::default()).await
    }

    async fn start_as(&self, number: u8, identity: PeerIdentity, limits: LinkSettings) -> TestNode {
        self.start_with(number, identity, limits, PeerLimits::default()).await
    }

    async fn start_with(
        &self,
        number: u8,
        identity: PeerIdentity,
        limits: LinkSettings,
        peer_limits: PeerLimits,
    ) -> TestNode {
        let listener = PeerListener::bind("127.0.0.1:0".parse().unwrap(), &identity, limits).unwrap();
        let address = listener.address();
        let instance = self.register(number, address).await;
        let link = PeerLink::new(&LinkSettings::default(), &identity, self.living()).unwrap();
        let uploads: Arc<dyn UploadStore> = Arc::<MemoryState>::clone(&self.state);
        let nodes: Arc<dyn Leases> = Arc::<MemoryState>::clone(&self.state);
        let deliveries: Arc<dyn Deliveries> = Arc::<MemoryState>::clone(&self.state);
        let duties: Arc<dyn Duties> = Arc::<MemoryState>::clone(&self.state);
        let ports = Ports {
            uploads,
            nodes,
            duties,
            deliveries,
            bells: Arc::new(LocalBells::default()),
            progress: Arc::new(LocalProgress::default()),
            blobs: Arc::new(self.blobs.clone()),
        };
        let peers = Arc::<PeerLink>::clone(&link);
        let engine = Engine::new(settings_of_engine(), instance, ports).with_peers(peers, peer_limits);
        let stop = CancellationToken::new();
        let serving = tokio::spawn(listener.serve(engine.clone(), stop.clone()));
        TestNode { engine, link, address, stop, serving }
    }
}

impl TestNode {
    async fn create(&self, dialect: &'static str, length: usize) -> UploadId {
        let order = if dialect == "ranged" { WriteOrder::Any } else { WriteOrder::InOrder };
        let create = Create {
            principal: Principal::server(),
            dialect: Dialect::named(dialect),
            write_rules: WriteRules { order, completion: Completion::WhenFull },
            role: Role::Single,
            length: Length::new(length as u64),
            metadata: Metadata::default(),
            metadata_as_sent: None,
            wanted_digests: Vec::new(),
            promised_digests: Vec::new(),
            caller: None,
        };
        self.engine.create(create).await.unwrap().id()
    }

    async fn begin(&self, id: UploadId, at: usize) -> Result<Feed, EngineError> {
        self.engine.append(Append::at(Principal::server(), id, offset(at), None)).await
    }
}

fn offset(bytes: usize) -> Offset {
    Offset::new(bytes as u64).unwrap()
}

fn settings_of_engine() -> EngineSettings {
    EngineSettings {
        max_upload_bytes: 1 << 30,
        max_active_uploads: 100,
        max_downloads: 100,
        takeover_timeout: Duration::from_secs(5),
        cross_dialects: false,
        tells_path: false,
        status_root: "/api/v1/uploads/".to_owned(),
        scan_rate: 0,
        progress: ProgressPolicy { every: Duration::from_secs(1), min_bytes: MIB as u64 },
        writer: WriterSettings {
            buffer_bytes: 64 << 20,
            checkpoint_bytes: 64 << 10,
            checkpoint_every: Duration::from_secs(60),
            checkpoint_rate: 1000,
            keep_open: Duration::ZERO,
            digests: Vec::new(),
        },
        space: SpaceSettings { min_free_bytes: 0, low_free_bytes: 0, max_booked_percent: 50 },
        lifetimes: LifetimeSettings {
            stall_after: Duration::from_secs(30),
            unfinished_expiry: Duration::from_hours(24),
            unfinished_age: Duration::from_hours(7 * 24),
            completed_expiry: None,
            first_removal_after: Duration::ZERO,
            sweep_every: Duration::from_secs(1),
        },
        ranges: RangeSettings { alignment_bytes: 1, max_ranges: 100, max_parallel: 100, max_replaced_bytes: 1 << 20 },
        media: None,
    }
}

/// Waits until `holds` returns true.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
