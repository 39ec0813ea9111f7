//! Uploads that a node hands over while it continues to run: it drains, or its clock is wrong.

use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::clock_guard::ClockLimits;
use crate::drain::DrainedNode;
use crate::{ClockGuard, Drain, DrainError, DrainSettings, NodeDirectory};
use engine::command::{BodyEnd, Unavailable};

impl TestNode {
    /// Begins an upload and sends some of its bytes.
    async fn begin_upload(&self, bytes: usize) -> (UploadId, Feed) {
        let id = self.create("tus", 10_000).await;
        let mut feed = self.begin(id, 0).await.unwrap();
        feed.push(&vec![7; bytes]).await.unwrap();
        feed.flush();
        until("the bytes are received", async || self.engine.received_bytes(id).await == Some(bytes as u64)).await;
        (id, feed)
    }

    async fn refusal(&self) -> Option<Unavailable> {
        let id = self.create("tus", 1).await;
        refusal(self.begin(id, 0).await)
    }

    async fn finish(&self, id: UploadId, from: usize) {
        let mut feed = self.begin(id, from).await.unwrap();
        feed.push(&vec![7; 10_000 - from]).await.unwrap();
        assert_eq!(feed.finish(BodyEnd::Complete).await.unwrap().offset(), offset(10_000));
    }
}

fn refusal<T>(outcome: Result<T, EngineError>) -> Option<Unavailable> {
    match outcome {
        Err(EngineError::Unavailable(reason)) => Some(reason),
        Ok(_) | Err(_) => None,
    }
}

fn drained(cluster: &Cluster, node: &TestNode) -> DrainedNode {
    let nodes: Arc<dyn Leases> = Arc::<MemoryState>::clone(&cluster.state);
    DrainedNode { engine: node.engine.clone(), instance: node.engine.node(), nodes, living: Some(cluster.living()) }
}

fn directory(cluster: &Cluster, own: InstanceId, drain: &Drain) -> NodeDirectory {
    NodeDirectory::new(Arc::<MemoryState>::clone(&cluster.state), own, drain.clone())
}

const AT_ONCE: DrainSettings = DrainSettings { notice: Duration::ZERO, grace: Duration::ZERO };

/// scale-out C10
#[tokio::test]
async fn a_drained_node_commits_what_it_has_and_releases_its_leases() {
    let cluster = Cluster::new();
    let (leaving, other) = (cluster.start(1).await, cluster.start(2).await);
    let (id, feed) = leaving.begin_upload(4_000).await;
    let drain = Drain::default();
    let draining = tokio::spawn(drain.clone().run(AT_ONCE, drained(&cluster, &leaving)));
    drain.begin();
    drain.ended().await;
    draining.await.unwrap();
    assert_eq!(refusal(feed.finish(BodyEnd::Complete).await), Some(Unavailable::Draining));
    let record = other.engine.status(&Principal::server(), id).await.unwrap().upload;
    assert_eq!((record.offset(), record.record().lease.holder), (offset(4_000), None));
    assert_eq!(refusal(leaving.begin(id, 4_000).await), Some(Unavailable::Draining));
    other.finish(id, 4_000).await;
    let listed = directory(&cluster, other.engine.node(), &Drain::default()).list().await.unwrap();
    assert_eq!(listed.iter().map(|node| node.is_draining).collect::<Vec<_>>(), [true, false]);
}

/// scale-out C10
#[tokio::test]
async fn a_live_upload_may_end_within_the_grace() {
    let cluster = Cluster::new();
    let leaving = cluster.start(1).await;
    let (id, mut feed) = leaving.begin_upload(4_000).await;
    let waiting = leaving.create("tus", 1).await;
    let drain = Drain::default();
    let settings = DrainSettings { notice: Duration::ZERO, grace: PATIENCE };
    tokio::spawn(drain.clone().run(settings, drained(&cluster, &leaving)));
    // Another node reads in the list that it is to drain.
    let directory = directory(&cluster, InstanceId::new(Timestamp::from_unix_ms(1), [9; 10]), &Drain::default());
    directory.drain(&leaving.engine.node().to_string()).await.unwrap();
    cluster.living.send_replace(cluster.state.nodes().await.unwrap().into());
    let began = Instant::now();
    until("no new upload is accepted", async || {
        refusal(leaving.begin(waiting, 0).await) == Some(Unavailable::Draining)
    })
    .await;
    assert!(drain.has_begun());
    feed.push(&[7; 6_000]).await.unwrap();
    assert_eq!(feed.finish(BodyEnd::Complete).await.unwrap().offset(), offset(10_000));
    drain.ended().await;
    assert!(began.elapsed() < PATIENCE, "it ends with the last upload");
    assert_eq!(leaving.engine.status(&Principal::server(), id).await.unwrap().upload.stage().name(), "completed");
}

#[tokio::test]
async fn a_node_to_drain_is_named_without_doubt() {
    let cluster = Cluster::new();
    let nodes = [cluster.start(1).await, cluster.start(2).await];
    let drain = Drain::default();
    let directory = directory(&cluster, nodes[0].engine.node(), &drain);
    // Both have one name.
    assert!(matches!(directory.drain("test").await, Err(DrainError::Ambiguous { count: 2, .. })));
    assert!(matches!(directory.drain("other").await, Err(DrainError::Unknown(_))));
    assert!(!drain.has_begun());
    let node = directory.drain(&nodes[0].engine.node().to_string()).await.unwrap();
    assert!(node.is_draining && drain.has_begun(), "this node need not wait for the list");
}

/// scale-out F23
#[tokio::test]
async fn a_node_whose_clock_is_wrong_writes_nothing_until_it_is_right() {
    let cluster = Cluster::new();
    let (wrong, other) = (cluster.start(1).await, cluster.start(2).await);
    let (id, feed) = wrong.begin_upload(4_000).await;
    let ahead_s = Arc::new(AtomicI64::new(0));
    let read = Arc::clone(&ahead_s);
    let limits = ClockLimits { compare_every: Duration::from_millis(10), ..ClockLimits::default() };
    let guard = ClockGuard::new(wrong.engine.clone(), limits, move || read.load(Ordering::Relaxed) as f64);
    tokio::spawn(guard.run(CancellationToken::new()));
    ahead_s.store(59, Ordering::Relaxed);
    assert_eq!(wrong.refusal().await, None, "so far it is only reported");
    ahead_s.store(-60, Ordering::Relaxed);
    tokio::time::timeout(PATIENCE, feed.ended()).await.expect("the writer ends");
    assert_eq!(refusal(feed.finish(BodyEnd::Complete).await), Some(Unavailable::WrongClock));
    other.finish(id, 4_000).await;
    let waiting = other.create("tus", 1).await;
    assert_eq!(refusal(wrong.begin(waiting, 0).await), Some(Unavailable::WrongClock));
    ahead_s.store(0, Ordering::Relaxed);
    until("it writes again", async || wrong.begin(waiting, 0).await.is_ok()).await;
}
