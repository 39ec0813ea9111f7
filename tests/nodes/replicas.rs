//! A node that writes, and one that reads from a replica of the database (scale-out P16).

use std::time::Duration;

use serde_json::Value;

use crate::cluster::{Cluster, Node};
use crate::standby::Standby;
use crate::support::client::{Answer, Client};
use crate::support::patience::until_fits;
use crate::support::seeded::Seeded;

const POSITION: &str = "longshore-position";

/// Nodes that only differ in their role, and read from the same replica.
struct Pair {
    standby: Standby,
    writing: Node,
    reading: Node,
    _cluster: Cluster,
}

impl Pair {
    /// `max_lag` is the lag at which nodes pass the replica over.
    async fn start(max_lag: &str) -> Self {
        let cluster = Cluster::new();
        let standby = Standby::start();
        let url = standby.url(&cluster.database());
        let networks = ["--webhooks-allow-networks", "127.0.0.0/8"];
        let flags = [&["--database-replica-urls", &url, "--database-replica-max-lag", max_lag], &networks[..]].concat();
        let writing = cluster.start("a", &flags);
        let reading = cluster.start("r", &[&flags[..], &["--role", "read"]].concat());
        for node in [&writing, &reading] {
            until_fits(
                "the replica is used",
                async || metrics(node).await,
                |text| text.contains("replica_used{") && number(text, "longshore_replica_used{") > 0.0,
            )
            .await;
        }
        Self { standby, writing, reading, _cluster: cluster }
    }
}

async fn metrics(node: &Node) -> String {
    String::from_utf8(node.client().await.get("/metrics").await.body).unwrap()
}

/// Returns the value of the first metric whose line begins with `name`.
fn number(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}: {metrics}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

async fn read_from(node: &Node, source: &str) -> f64 {
    number(&metrics(node).await, &format!("longshore_read_source_total{{source=\"{source}\"}}"))
}

fn position(answer: &Answer) -> String {
    answer.header(POSITION).unwrap_or_else(|| panic!("a write names its position: {answer:?}")).to_owned()
}

async fn get(client: &mut Client, path: &str, position: &str) -> Value {
    let answer = client.request("GET", path, &[(POSITION, position)], b"").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Returns the stage of an upload in the list.
fn stage_in(list: &Value, path: &str) -> Option<String> {
    let id = path.rsplit('/').next().unwrap();
    let uploads = list["uploads"].as_array().unwrap();
    uploads.iter().find(|upload| upload["id"] == id).map(|upload| upload["stage"].as_str().unwrap().to_owned())
}

/// scale-out F12: while the replica is paused, no answer is older than what its client knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_finds_its_writes_at_every_node() {
    let pair = Pair::start("1h").await;
    let bytes = Seeded::new(6).bytes(5_000);
    let (mut writing, mut reading) = (pair.writing.client().await, pair.reading.client().await);
    // A read node answers from the replica, unless a client knows more.
    until_fits(
        "the replica answers",
        async || {
            reading.get("/api/v1/uploads").await;
            read_from(&pair.reading, "replica").await
        },
        |reads| *reads > 0.0,
    )
    .await;
    let done = writing.create(5_000).await;
    assert_eq!(writing.patch(&done, 0, &bytes).await.status, 204);
    pair.standby.pause();

    // Create.
    let created = writing.tus("POST", "/files", &[("Upload-Length", "10000")], b"").await;
    let path = created.header("location").unwrap().to_owned();
    let status = path.replace("/files/", "/api/v1/uploads/");
    let told = position(&created);
    assert_eq!(reading.get(&status).await.status, 200, "also without the position");
    assert_eq!(get(&mut reading, &status, &told).await["stage"], "created");
    assert_eq!(stage_in(&get(&mut reading, "/api/v1/uploads", &told).await, &path).as_deref(), Some("created"));
    assert!(stage_in(&writing.get("/api/v1/uploads").await.json(), &path).is_some(), "the node knows its own writes");

    // Append.
    let told = position(&writing.patch(&path, 0, &bytes).await);
    assert_eq!(reading.get(&status).await.json()["offset"], 5_000, "also without the position");
    assert_eq!(get(&mut reading, &status, &told).await["offset"], 5_000);
    assert_eq!(stage_in(&get(&mut reading, "/api/v1/uploads", &told).await, &path).as_deref(), Some("receiving"));
    let head = writing.head(&path).await;
    assert_eq!((head.header("upload-offset"), head.header(POSITION).is_some()), (Some("5000"), true));

    // Delete, an upload in progress and a complete one.
    let told = position(&writing.tus("DELETE", &path, &[], b"").await);
    assert_eq!(reading.get(&status).await.json()["stage"], "terminated", "also without the position");
    assert_eq!(stage_in(&get(&mut reading, "/api/v1/uploads", &told).await, &path).as_deref(), Some("terminated"));
    let done_status = done.replace("/files/", "/api/v1/uploads/");
    let deleted = writing.request("DELETE", &done_status, &[], b"").await;
    assert_eq!(deleted.status, 204, "{deleted:?}");
    let told = position(&deleted);
    assert!(!get(&mut reading, &done_status, &told).await["removed_at"].is_null());

    // Webhooks.
    let endpoint = br#"{"id": "app", "url": "http://127.0.0.1:20009/hook", "events": ["*"]}"#;
    let made = writing.request("POST", "/api/v1/webhooks/endpoints", &[], endpoint).await;
    assert_eq!((made.status, made.header(POSITION).is_some()), (201, true), "{made:?}");
    let told = position(&writing.tus("POST", "/files", &[("Upload-Length", "1")], b"").await);
    let list = get(&mut reading, "/api/v1/webhooks/deliveries", &told).await;
    assert_eq!(list["deliveries"].as_array().unwrap().len(), 1, "{list}");

    // Afterwards the replica answers with the same.
    pair.standby.resume();
    until_fits(
        "the replica has caught up",
        async || {
            let before = read_from(&pair.reading, "replica").await;
            assert!(!get(&mut reading, &done_status, &told).await["removed_at"].is_null());
            assert_eq!(
                stage_in(&get(&mut reading, "/api/v1/uploads", &told).await, &path).as_deref(),
                Some("terminated")
            );
            get(&mut reading, "/api/v1/webhooks/deliveries", &told).await;
            read_from(&pair.reading, "replica").await - before
        },
        |reads| *reads == 3.0,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lags_is_visible_and_passed_over() {
    let pair = Pair::start("500ms").await;
    pair.standby.pause();
    let lags = |text: &String| number(text, "longshore_replica_lag_seconds{") > 0.5;
    let is_passed_over = |text: &String| lags(text) && number(text, "longshore_replica_used{") == 0.0;
    // The heartbeats of the nodes are commits.
    until_fits("the lag is seen", async || metrics(&pair.reading).await, is_passed_over).await;
    let path = pair.writing.client().await.create(10).await;
    let before = read_from(&pair.reading, "primary").await;
    let list = pair.reading.client().await.get("/api/v1/uploads").await.json();
    assert!(stage_in(&list, &path).is_some(), "also without a position");
    assert_eq!(read_from(&pair.reading, "primary").await, before + 1.0);
    pair.standby.resume();
    let is_used = |text: &String| number(text, "longshore_replica_used{") == 1.0;
    until_fits("it is used again", async || metrics(&pair.reading).await, is_used).await;
    pair.standby.kill();
    assert_eq!(pair.reading.client().await.get("/api/v1/uploads").await.status, 200);
    until_fits("its end is seen", async || metrics(&pair.reading).await, |text| !is_used(text)).await;
    let log = pair.reading.program.stderr();
    for line in
        ["reading from a replica", "a replica of the database lags", "a replica of the database does not answer"]
    {
        assert!(log.contains(line), "{line}: {log}");
    }
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let repeated = pair.reading.program.stderr().matches("does not answer").count();
    assert_eq!(repeated, 1, "a change is reported once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_is_none_is_rejected() {
    let cluster = Cluster::new();
    let node = cluster.start("a", &[]);
    let mut client = node.client().await;
    let created = client.tus("POST", "/files", &[("Upload-Length", "1")], b"").await;
    assert_eq!(created.header(POSITION), None, "without replicas there is nothing to wait for");
    let answer = client.request("GET", "/api/v1/uploads", &[(POSITION, "0/16B3748")], b"").await;
    assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-position"), "{answer:?}");
    let answer = client.request("GET", "/api/v1/uploads", &[(POSITION, "p1-16b3748")], b"").await;
    assert_eq!(answer.status, 200, "{answer:?}");
}
