//! The metrics of nodes and of their database.

use crate::cluster::{Cluster, Node};
use crate::support::patience::{until, until_fits};
use crate::support::seeded::Seeded;

async fn metrics(node: &Node) -> String {
    String::from_utf8_lossy(&node.client().await.get("/metrics").await.body).into_owned()
}

/// Returns the value of a series, without its prefix.
fn value(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("longshore_{series} ")));
    line.unwrap_or_else(|| panic!("{series} is missing in\n{metrics}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_a_node_is_documented() {
    let cluster = Cluster::new();
    let node = cluster.start("a", &[]);
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let shown = metrics(&node).await;
    let names = shown.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let missing: Vec<_> = names.filter(|name| !page.contains(&format!("`{name}"))).collect();
    assert!(missing.is_empty(), "not in docs/metrics.md: {missing:?}");
    for outcome in ["committed", "repeated", "conflict", "unknown"] {
        assert_eq!(value(&shown, &format!("commit_ambiguous_total{{outcome=\"{outcome}\"}}")), 0.0);
    }
    for (series, expected) in [
        ("epoch_rejected_total", 0.0),
        ("event_horizon_lag_seconds", 0.0),
        ("partitions_ahead_days", 7.0),
        ("partitions_other_rows", 0.0),
        ("draining", 0.0),
        ("nodes_alive", 1.0),
    ] {
        assert_eq!(value(&shown, series), expected, "{series}");
    }
    assert!(value(&shown, "database_pool_wait_seconds_count{pool=\"write\"}") > 0.0);
    let before = value(&shown, "commit_batch_size_sum");
    let path = node.client().await.create(5).await;
    assert_eq!(node.client().await.patch(&path, 0, b"hello").await.status, 204);
    assert!(value(&metrics(&node).await, "commit_batch_size_sum") >= before + 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn takeovers_and_the_end_of_a_node_are_seen() {
    let cluster = Cluster::new();
    let [first, second] = ["a", "b"].map(|name| cluster.start(name, &["--cluster-drain-notice", "5s"]));
    until_fits("the nodes see each other", async || second.sees().await, |nodes| nodes.len() == 2).await;
    let bytes = Seeded::new(6).bytes(20_000);
    let path = first.client().await.create(bytes.len() as u64).await;
    assert_eq!(first.client().await.patch(&path, 0, &bytes[..10_000]).await.status, 204);
    let clean = "takeover_seconds_count{kind=\"clean\"}";
    assert_eq!(value(&metrics(&second).await, clean), 0.0);
    assert_eq!(second.client().await.patch(&path, 10_000, &bytes[10_000..]).await.status, 204);
    let after = metrics(&second).await;
    assert_eq!(value(&after, clean), 1.0);
    assert_eq!(value(&after, "takeover_seconds_count{kind=\"unclean\"}"), 0.0);

    let mut client = second.client().await;
    let drained = client.request("POST", "/api/v1/nodes/a/drain", &[], b"").await;
    assert!((200..300).contains(&drained.status), "{drained:?}");
    until("it drains", async || (value(&metrics(&first).await, "draining") == 1.0).then_some(())).await;
    first.program.signal("TERM");
    assert_eq!(first.program.ran().code, Some(0));
    until("the other has left", async || (value(&metrics(&second).await, "nodes_alive") == 1.0).then_some(())).await;
}
