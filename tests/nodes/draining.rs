//! Nodes that hand over their uploads before they stop.

use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::support::patience::{until, until_fits};
use crate::support::program::run;
use crate::support::seeded::Seeded;

/// scale-out C10
#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_hands_over_its_uploads_and_serves_reads() {
    let cluster = Cluster::new();
    let [first, second] = ["a", "b"].map(|name| cluster.start(name, &["--cluster-drain-notice", "2s"]));
    until_fits("the nodes see each other", async || second.sees().await, |nodes| nodes.len() == 2).await;
    let bytes = Seeded::new(2).bytes(100_000);
    let path = first.client().await.create(bytes.len() as u64).await;
    let mut live = first.client().await;
    live.begin_patch(&path, 0, bytes.len() as u64).await;
    live.send(&bytes[..50_000]).await;
    let server = format!("http://{}", second.address);
    let drained = run(&["drain", "a", "--server", &server]);
    assert!(drained.code == Some(0) && drained.stdout.contains("draining"), "{drained:?}");
    let mut client = first.client().await;
    until("the load balancer notices", async || (client.get("/lb").await.status == 503).then_some(())).await;
    assert_eq!(client.get("/healthz").await.status, 200);
    client.create(5).await;
    let refusal = until_fits(
        "new uploads are refused",
        async || client.tus("POST", "/files", &[("Upload-Length", "5")], b"").await,
        |answer| answer.status != 201,
    )
    .await;
    assert_eq!((refusal.status, refusal.problem().as_str()), (503, "draining"), "{refusal:?}");
    assert!(refusal.header("retry-after").is_some());
    let answer = live.answer("PATCH").await;
    assert_eq!(answer.status, 503, "its time was over: {answer:?}");

    let mut other = second.client().await;
    let began = Instant::now();
    let offset = other.offset(&path).await;
    assert_eq!(offset, 50_000, "the bytes that had arrived are kept");
    assert_eq!(other.patch(&path, offset, &bytes[50_000..]).await.status, 204);
    assert!(began.elapsed() < Duration::from_secs(3), "the lease was given back: {:?}", began.elapsed());
    assert_eq!(client.get(&path).await.body, bytes, "it still serves reads");
    assert!(second.sees().await.contains(&("a".to_owned(), true)));
    assert_eq!(other.get("/lb").await.status, 200);
    first.program.signal("TERM");
    assert_eq!(first.program.ran().code, Some(0));
}

/// scale-out C10
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_stopped_drains_first_and_leaves() {
    let cluster = Cluster::new();
    let [first, second] = ["a", "b"].map(|name| cluster.start(name, &[]));
    until_fits("the nodes see each other", async || second.sees().await, |nodes| nodes.len() == 2).await;
    let bytes = Seeded::new(3).bytes(20_000);
    let path = first.client().await.create(bytes.len() as u64).await;
    assert_eq!(first.client().await.patch(&path, 0, &bytes[..10_000]).await.status, 204);
    let mut client = first.client().await;
    assert_eq!(client.get("/lb").await.status, 200);
    first.program.signal("TERM");
    until("the load balancer notices", async || (client.get("/lb").await.status == 503).then_some(())).await;
    assert_eq!(client.offset(&path).await, 10_000, "it still serves everything");
    let ran = first.program.ran();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(second.sees().await, [("b".to_owned(), false)], "it has left");
    let answer = second.client().await.patch(&path, 10_000, &bytes[10_000..]).await;
    assert_eq!(answer.status, 204, "{answer:?}");
}
