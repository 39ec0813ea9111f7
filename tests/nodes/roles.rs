//! Nodes that serve only a part of the requests.

use std::time::Duration;

use crate::cluster::{Cluster, psql_at};
use crate::support::patience::until_fits;
use crate::support::seeded::Seeded;

/// scale-out C12
#[tokio::test(flavor = "multi_thread")]
async fn a_read_node_answers_for_every_upload_and_asks_to_repeat_the_rest() {
    let cluster = Cluster::new();
    let writing = cluster.start("a", &[]);
    let reading = cluster.start("r", &["--role", "read"]);
    until_fits("the nodes see each other", async || reading.sees().await, |nodes| nodes.len() == 2).await;
    let bytes = Seeded::new(4).bytes(300_000);
    let path = writing.client().await.create(bytes.len() as u64).await;
    let mut live = writing.client().await;
    live.begin_patch(&path, 0, bytes.len() as u64).await;
    live.send(&bytes[..200_000]).await;
    let mut client = reading.client().await;
    // scale-out C5: the progress of another node's upload.
    until_fits("its status is live", async || client.status(&path).await, |status| status["received"] == 200_000).await;
    assert_eq!(client.offset(&path).await, 200_000, "the node that writes it has committed");
    for (method, target) in [
        ("POST", "/files"),
        ("PATCH", path.as_str()),
        ("DELETE", path.as_str()),
        ("POST", "/api/v1/webhooks/endpoints"),
        ("POST", "/api/v1/nodes/a/drain"),
    ] {
        let answer = client.request(method, target, &[], b"").await;
        assert_eq!((answer.status, answer.problem().as_str()), (503, "read-node"), "{method} {target}: {answer:?}");
        assert!(answer.header("retry-after").is_some(), "{method} {target}");
    }
    live.send(&bytes[200_000..]).await;
    assert_eq!(live.answer("PATCH").await.status, 204);
    assert_eq!(client.get(&path).await.body, bytes);
    for target in
        ["/api/v1/uploads", "/api/v1/webhooks/endpoints", "/api/v1/webhooks/deliveries", "/metrics", "/readyz", "/lb"]
    {
        assert_eq!(client.get(target).await.status, 200, "{target}");
    }
}

/// scale-out C12
#[tokio::test(flavor = "multi_thread")]
async fn a_read_node_changes_nothing() {
    let cluster = Cluster::new();
    let bytes = Seeded::new(5).bytes(5_000);
    let writing = cluster.start("a", &[]);
    let path = writing.client().await.create(10_000).await;
    assert_eq!(writing.client().await.patch(&path, 0, &bytes).await.status, 204);
    writing.program.signal("TERM");
    assert_eq!(writing.program.ran().code, Some(0));
    let changes = || {
        let sql = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables WHERE relname <> 'nodes'";
        psql_at(&cluster.url(), sql)
    };
    let before = changes();
    let reading = cluster.start("r", &["--role", "read"]);
    let mut client = reading.client().await;
    assert_eq!(client.offset(&path).await, 5_000);
    for target in ["/api/v1/uploads", "/readyz", "/api/v1/webhooks/endpoints", "/api/v1/nodes"] {
        assert_eq!(client.get(target).await.status, 200, "{target}");
    }
    // Longer than the interval of the sweeper, if there were one.
    tokio::time::sleep(Duration::from_secs(2)).await;
    reading.program.signal("TERM");
    assert_eq!(reading.program.ran().code, Some(0));
    assert_eq!(changes(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_node_has_no_listener_for_reads() {
    let cluster = Cluster::new();
    let node = cluster.start("a", &["--role", "upload", "--read-listen", "127.0.0.1:0"]);
    assert!(!node.program.stdout().contains("reading"), "{}", node.program.stdout());
    let path = node.client().await.create(5).await;
    assert_eq!(node.client().await.patch(&path, 0, b"hello").await.status, 204);
    assert_eq!(node.client().await.get(&path).await.body, b"hello");
}
