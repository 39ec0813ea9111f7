//! Senders of several nodes, over one state (scale-out C9).

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::settings;
use crate::testing::{FOR, Receiver, Script, TestClock, asked, endpoint_with, up_to, vault, wall_clock};
use crate::{Admin, EndpointChange, NewEndpoint, SendableEndpoint, Sender, SenderParts, WebhookSettings};
use domain::delivery::DeliveryState;
use domain::endpoint::{Endpoint as Stored, EndpointId, EndpointTerms};
use domain::id::{InstanceId, UploadId};
use domain::metadata::Metadata;
use domain::node::{Node, NodeName};
use domain::principal::{TenantId, TenantScope};
use domain::query::DeliveryQuery;
use domain::time::Timestamp;
use domain::upload::{NewUpload, Upload};
use outbound::address::EgressRules;
use outbound::resolver::system_lookup;
use state::memory::{MemoryDatabase, MemoryState};
use state::{Change, Deliveries, Dispatch, Endpoints, Leases, Membership, Uploads};

const NODES: u8 = 3;

/// Maximum time that a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node with a running sender.
struct SendingNode {
    instance: InstanceId,
    state: Arc<MemoryState>,
    admin: Admin,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl SendingNode {
    async fn start(
        memory: &MemoryDatabase,
        clock: &TestClock,
        number: u8,
        endpoints: Vec<SendableEndpoint>,
        settings: WebhookSettings,
    ) -> Self {
        let state = memory.open_by(clock.clock());
        let instance = InstanceId::new(Timestamp::from_unix_ms(0), [number; 10]);
        let node = Node::alone(instance, NodeName::new("sender").unwrap(), "1.0.0");
        state.join(&node, Membership::Others, None).await.unwrap();
        let parts = SenderParts {
            node: instance,
            outbox: Arc::<MemoryState>::clone(&state),
            rules: Arc::new(EgressRules::new(vec!["127.0.0.0/8".parse().unwrap()], false)),
            vault: vault(),
            settings,
            senders: Arc::new(|| usize::from(NODES)),
        };
        let sender = Sender::open_with(parts, endpoints, system_lookup()).await.unwrap();
        let (admin, stop) = (sender.admin().of(TenantId::DEFAULT), CancellationToken::new());
        let running = tokio::spawn(sender.run(stop.clone()));
        Self { instance, state, admin, stop, running }
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.running).await.expect("the sender stops").unwrap();
    }
}

/// Several nodes that have one configuration.
struct Cluster {
    memory: MemoryDatabase,
    clock: TestClock,
    nodes: Vec<SendingNode>,
}

impl Cluster {
    async fn start(endpoint: &SendableEndpoint, settings: WebhookSettings) -> Self {
        let (memory, clock) = (MemoryDatabase::new(crate::bodies()), TestClock::default());
        let mut nodes = Vec::new();
        for number in 0..NODES {
            let endpoints = vec![again(endpoint)];
            nodes.push(SendingNode::start(&memory, &clock, number, endpoints, settings.clone()).await);
        }
        Self { memory, clock, nodes }
    }

    /// Records new uploads, one delivery each, at one node after the other.
    async fn add_deliveries(&self, to: &str, count: usize) {
        for node in self.nodes.iter().cycle().take(count) {
            let (id, now) = (UploadId::new(wall_clock(), rand::random()), self.clock.now());
            let metadata = Metadata::new(vec![(FOR.to_owned(), to.as_bytes().to_vec())]).unwrap();
            let upload = Upload::create(NewUpload { metadata, ..asked(id) }, now);
            let change = Change::new(upload, |_, _| r#"{"type":"upload.created"}"#.to_owned(), rand::random);
            node.state.insert(change).await.unwrap();
        }
    }

    async fn count(&self, state: DeliveryState) -> usize {
        let query = DeliveryQuery { state: Some(state), limit: 10_000, ..DeliveryQuery::default() };
        self.nodes[0].state.deliveries(TenantScope::All, &query).await.unwrap().found.len()
    }

    async fn until_succeeded(&self, count: usize) {
        let all = async {
            while self.count(DeliveryState::Succeeded).await < count {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, all).await.expect("every delivery arrives");
    }

    async fn stored(&self, name: &str) -> Stored {
        let all = self.nodes[0].state.endpoints(TenantScope::All).await.unwrap();
        all.into_iter().find(|stored| stored.id.as_str() == name).unwrap()
    }

    async fn stop(self) {
        for node in self.nodes {
            node.stop().await;
        }
    }
}

/// Returns the endpoint as another node reads it from its configuration.
fn again(endpoint: &SendableEndpoint) -> SendableEndpoint {
    endpoint.with(endpoint.stored().clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_never_gets_more_at_once_than_its_endpoint_allows() {
    let receiver = Receiver::start([Script::Late(Duration::from_millis(10), 200)]).await;
    let endpoint = endpoint_with("app", &receiver.url(), |terms| terms.max_in_flight = Some(16));
    let cluster = Cluster::start(&endpoint, settings()).await;
    cluster.add_deliveries("app", 300).await;
    cluster.until_succeeded(300).await;
    assert!(receiver.most_at_once() <= 16, "{} at once", receiver.most_at_once());
    assert_eq!(receiver.received().len(), 300, "each once");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_together_keep_to_the_rate_of_an_endpoint() {
    let receiver = Receiver::start([Script::Status(200)]).await;
    let endpoint = endpoint_with("app", &receiver.url(), |terms| terms.max_per_second = Some(50));
    let cluster = Cluster::start(&endpoint, settings()).await;
    let began = Instant::now();
    cluster.add_deliveries("app", 100).await;
    cluster.until_succeeded(100).await;
    // Each node may send one or two at once; the others follow at fifty a second.
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(94 * 20 - 10), "a hundred in {took:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breaker_opens_for_all_nodes() {
    let receiver = Receiver::start([Script::Status(500)]).await;
    let cluster = Cluster::start(&endpoint_with("app", &receiver.url(), |_| {}), settings()).await;
    cluster.add_deliveries("app", 200).await;
    let open = async {
        while cluster.stored("app").await.health.open_until.is_none() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, open).await.expect("the breaker opens");
    for node in &cluster.nodes {
        let limits = [up_to("app", 100)];
        let claims = node.state.claim_due(node.instance, &limits, cluster.clock.now(), Duration::from_secs(60)).await;
        assert_eq!(claims.unwrap(), [], "a claim at any node reads the breaker");
    }
    let sent = receiver.received().len();
    assert!((10..=10 + 16 * usize::from(NODES)).contains(&sent), "{sent} were sent");
    cluster.stop().await;
}

/// scale-out F26.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_sender_has_not_recorded_is_sent_again_with_the_same_id() {
    let receiver = Receiver::start([Script::Hang, Script::Status(200)]).await;
    let endpoint = endpoint_with("app", &receiver.url(), |_| {});
    let mut cluster = Cluster::start(&endpoint, settings()).await;
    for node in cluster.nodes.drain(1..) {
        node.stop().await;
    }
    cluster.add_deliveries("app", 1).await;
    receiver.heard(1).await;
    cluster.nodes[0].running.abort();
    let other = SendingNode::start(&cluster.memory, &cluster.clock, 9, vec![again(&endpoint)], settings()).await;
    assert_eq!(cluster.count(DeliveryState::Leased).await, 1, "the other node does not know that the sender is dead");
    cluster.clock.put_forward(settings().lease + Duration::from_secs(1));
    cluster.until_succeeded(1).await;
    let ids: Vec<String> = receiver.received().iter().map(|it| it.header("webhook-id").to_owned()).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1]);
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_an_endpoint_takes_effect_at_every_node() {
    let [former, present] =
        [Receiver::start([Script::Status(200)]).await, Receiver::start([Script::Status(200)]).await];
    let mut cluster = Cluster::start(&endpoint_with("unused", "http://127.0.0.1:9/", |_| {}), settings()).await;
    let terms =
        EndpointTerms { metadata: vec![(FOR.to_owned(), "made".to_owned())], ..EndpointTerms::of(former.url()) };
    let id = EndpointId::new("made").unwrap();
    let new = NewEndpoint { id: Some(id.clone()), terms: terms.clone(), headers: vec![], key: None };
    let (made, _) = cluster.nodes[0].admin.create(new).await.unwrap();
    // The node where it was made stops, and the others send.
    let first = cluster.nodes.remove(0);
    let admin = first.admin.clone();
    first.stop().await;
    cluster.add_deliveries("made", 10).await;
    cluster.until_succeeded(10).await;
    assert_eq!(former.received().len(), 10);

    let moved = EndpointTerms { url: present.url(), ..terms };
    let change = EndpointChange { version: made.version, terms: moved, headers: None };
    admin.update(&id, change).await.unwrap();
    cluster.add_deliveries("made", 10).await;
    cluster.until_succeeded(20).await;
    assert_eq!((former.received().len(), present.received().len()), (10, 10), "no message goes to the former URL");

    admin.pause(&id).await.unwrap();
    cluster.add_deliveries("made", 5).await;
    for node in &cluster.nodes {
        let limits = [up_to("made", 9)];
        let claims = node.state.claim_due(node.instance, &limits, cluster.clock.now(), Duration::from_secs(60)).await;
        assert_eq!(claims.unwrap(), []);
    }
    admin.resume(&id, crate::Resumption::default()).await.unwrap();
    cluster.until_succeeded(25).await;
    cluster.stop().await;
}
